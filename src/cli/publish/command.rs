//! The command itself: reads the files, names them, stores them, writes the manifest.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::progress::{Progress, shown};
use super::source::{self, SourceFile};
use super::store::{self, CONCURRENCY, Store};
use crate::body::Body;
use crate::cli::failure::Failure;
use crate::cli::manifest::{self, Asset};
use crate::cli::process::{print, runtime};

/// Path of the manifest. No published name is equal: each of them holds a hash.
const MANIFEST: &str = "manifest.json";

#[derive(clap::Args)]
pub(crate) struct Publish {
    /// Folder whose files are published
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Destination: a folder, or the http:// URL of a server that accepts PUT
    #[arg(long, value_name = "FOLDER|URL")]
    into: String,
    /// Writes the manifest to this file too
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

impl Publish {
    pub(crate) fn run(self) -> Result<(), Failure> {
        runtime(0)?.block_on(async {
            tokio::select! {
                // Dropping the future removes files that are partly written.
                done = self.publish() => done,
                _ = tokio::signal::ctrl_c() => Err(Failure::Unavailable("interrupted: the files stored so far remain, the manifest is unchanged".to_owned())),
            }
        })
    }

    async fn publish(&self) -> Result<(), Failure> {
        let root = source::root(&self.folder)?;
        let store = Store::open(&self.into)?;
        self.reject_inside(&root, &store)?;
        let listing = source::find(&root)?;
        let progress = Progress::new();
        for (name, why) in &listing.skipped {
            progress.print(&format!("skipped   {name}: {why}"));
        }
        let assets = name_all(listing.sources, &progress).await?;
        let mut tally = store_all(&store, &assets, &progress).await?;
        let manifest = Bytes::from(manifest::manifest(&assets).map_err(io::Error::from)?);
        // Last, so that each file it lists exists when a client reads it.
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

    /// Rejects a destination inside the published folder: the next run would publish it too.
    fn reject_inside(&self, root: &Path, store: &Store) -> Result<(), Failure> {
        let manifest = self.manifest.as_deref().map(store::folder_of);
        for (option, folder) in [("--into", store.folder()), ("--manifest", manifest)] {
            let inside =
                folder.and_then(|folder| folder.canonicalize().ok()).is_some_and(|folder| folder.starts_with(root));
            if inside {
                let text = format!(
                    "invalid value for {option}: it lies in {}, the folder that is published; name a path outside",
                    self.folder.display()
                );
                return Err(Failure::Usage(text));
            }
        }
        Ok(())
    }
}

/// Reads each file and gives it its name.
async fn name_all(sources: Vec<SourceFile>, progress: &Progress) -> Result<Vec<Asset>, Failure> {
    progress.begin("reading", sources.len(), sources.iter().map(|source| source.size).sum());
    let rules = manifest::rules().map_err(io::Error::other)?;
    let named = stream::iter(sources).map(|source| source.name(&rules, progress)).buffered(CONCURRENCY);
    named.try_collect().await
}

/// Stores the files that do not exist yet.
async fn store_all(store: &Store, assets: &[Asset], progress: &Progress) -> Result<Tally, Failure> {
    let distinct = manifest::distinct(assets).map_err(Failure::Usage)?;
    progress.begin("storing", distinct.len(), distinct.iter().map(|asset| asset.size).sum());
    let stored = stream::iter(distinct).map(|asset| store_one(store, asset, progress)).buffer_unordered(CONCURRENCY);
    let none = Tally { files: assets.len(), new: 0, bytes: 0 };
    stored.try_fold(none, async |tally, bytes| Ok(tally.with(bytes))).await
}

/// Stores `asset` unless it exists. Returns the number of bytes stored, if any.
async fn store_one(store: &Store, asset: &Asset, progress: &Progress) -> Result<Option<u64>, Failure> {
    let exists = store.holds(&asset.name, asset.size).await?;
    if exists {
        progress.bar.inc(asset.size);
    } else {
        store.put(&asset.name, asset.size, || source::contents(asset, progress)).await?;
        progress.stored(asset);
    }
    progress.file_done();
    Ok((!exists).then_some(asset.size))
}

/// The number of files and bytes handled.
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
