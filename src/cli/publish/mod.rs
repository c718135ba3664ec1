//! `peerage publish`: a folder's files, under names that hold a hash of what is
//! in them.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use bytesize::ByteSize;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, print, runtime};
use crate::body::Body;
use crate::cli::manifest::{self, Asset};

mod source;
mod store;

use source::SourceFile;
use store::Store;

/// How many files are read, or sent, at a time.
const AT_A_TIME: usize = 8;
/// Where the manifest is stored. No published name is in its way: it has no hash.
const MANIFEST: &str = "manifest.json";

#[derive(clap::Args)]
pub(super) struct Publish {
    /// The folder whose files are published
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Where to: a folder, or the http:// URL of a server that takes PUT
    #[arg(long, value_name = "FOLDER|URL")]
    into: String,
    /// A file that the manifest is written to as well
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

impl Publish {
    pub(super) fn run(self) -> Result<(), Failure> {
        runtime(0)?.block_on(async {
            tokio::select! {
                // What is half written goes with it.
                done = self.publish() => done,
                _ = tokio::signal::ctrl_c() => Err(Failure::Unavailable("interrupted; what was stored stays, and the manifest is as it was".to_owned())),
            }
        })
    }

    async fn publish(&self) -> Result<(), Failure> {
        let root = source::root(&self.folder)?;
        let store = Store::open(&self.into)?;
        self.refuse_inside(&root, &store)?;
        let found = source::find(&root)?;
        let progress = Progress::new();
        for (name, why) in &found.skipped {
            progress.tell(&format!("skipped   {name}: {why}"));
        }
        let assets = name_all(found.sources, &progress).await?;
        let mut tally = store_all(&store, &assets, &progress).await?;
        let manifest = Bytes::from(manifest::manifest(&assets).map_err(io::Error::from)?);
        // Last: whoever reads it finds all that it lists.
        if !store.holds_contents(MANIFEST, &manifest).await {
            store.put(MANIFEST, manifest.len() as u64, || Ok(Body::from(manifest.clone()))).await?;
            tally.bytes += manifest.len() as u64;
        }
        if let Some(file) = &self.manifest {
            store::write_out(file, manifest).await?;
        }
        progress.bar.finish_and_clear();
        print(&tally.line())
    }

    /// What is written into the folder that is published would be published
    /// itself the next time.
    fn refuse_inside(&self, root: &Path, store: &Store) -> Result<(), Failure> {
        let manifest = self.manifest.as_deref().map(store::folder_of);
        for (option, folder) in [("--into", store.folder()), ("--manifest", manifest)] {
            let inside = folder.and_then(|folder| folder.canonicalize().ok()).is_some_and(|it| it.starts_with(root));
            if inside {
                let text = format!("{option}: it lies in {}, the folder that is published", self.folder.display());
                return Err(Failure::Usage(text));
            }
        }
        Ok(())
    }
}

/// Reads every file, and gives it its name.
async fn name_all(sources: Vec<SourceFile>, progress: &Progress) -> Result<Vec<Asset>, Failure> {
    progress.begin("reading", sources.len(), sources.iter().map(|source| source.size).sum());
    let rules = manifest::rules().map_err(io::Error::other)?;
    let named = stream::iter(sources).map(|source| source.name(&rules, progress)).buffered(AT_A_TIME);
    named.try_collect().await
}

/// Stores what is not there.
async fn store_all(store: &Store, assets: &[Asset], progress: &Progress) -> Result<Tally, Failure> {
    let distinct = manifest::distinct(assets).map_err(Failure::Usage)?;
    progress.begin("storing", distinct.len(), distinct.iter().map(|asset| asset.size).sum());
    let stored = stream::iter(distinct).map(|asset| store_one(store, asset, progress)).buffer_unordered(AT_A_TIME);
    let none = Tally { files: assets.len(), new: 0, bytes: 0 };
    stored.try_fold(none, async |tally, bytes| Ok(tally.with(bytes))).await
}

/// Stores `asset`, if it is not there; how many bytes were sent for it then.
async fn store_one(store: &Store, asset: &Asset, progress: &Progress) -> Result<Option<u64>, Failure> {
    let there = store.holds(&asset.name, asset.size).await?;
    if there {
        progress.bar.inc(asset.size);
    } else {
        store.put(&asset.name, asset.size, || source::contents(asset, progress)).await?;
        progress.stored(asset);
    }
    progress.file_done();
    Ok((!there).then_some(asset.size))
}

/// What was done.
struct Tally {
    files: usize,
    new: usize,
    bytes: u64,
}

impl Tally {
    fn with(self, stored: Option<u64>) -> Self {
        Self { new: self.new + usize::from(stored.is_some()), bytes: self.bytes + stored.unwrap_or(0), ..self }
    }

    fn line(&self) -> String {
        let files = if self.files == 1 { "file" } else { "files" };
        let bytes = if self.bytes == 0 { "nothing".to_owned() } else { shown(self.bytes) };
        format!("{} {files}, {} new, {} there already, {bytes} uploaded\n", self.files, self.new, self.files - self.new)
    }
}

fn shown(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// Tells people how far it is: a bar on a terminal, lines elsewhere.
struct Progress {
    /// Of bytes; hidden where standard error is no terminal.
    bar: ProgressBar,
    done: Cell<usize>,
    files: Cell<usize>,
}

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes}, {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, done: Cell::new(0), files: Cell::new(0) }
    }

    /// What is done now, to so many files and bytes.
    fn begin(&self, what: &'static str, files: usize, bytes: u64) {
        self.done.set(0);
        self.files.set(files);
        self.bar.set_prefix(what);
        self.bar.set_message(format!("0/{files} files"));
        self.bar.set_length(bytes);
        self.bar.set_position(0);
    }

    fn file_done(&self) {
        self.done.set(self.done.get() + 1);
        self.bar.set_message(format!("{}/{} files", self.done.get(), self.files.get()));
    }

    /// A line for a file that is new; where there is a bar, the bar says enough.
    fn stored(&self, asset: &Asset) {
        if self.bar.is_hidden() {
            self.tell(&format!("stored    {} ({})", asset.name, shown(asset.size)));
        }
    }

    /// Prints a line, above the bar if there is one.
    fn tell(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}
