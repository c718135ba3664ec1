//! The files of the published folder.

use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream::{self, Stream, TryStreamExt};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::progress::Progress;
use crate::body::Body;
use crate::cli::contents::{blocks, digest};
use crate::cli::failure::Failure;
use crate::cli::manifest::{self, Asset, DIGEST};
use crate::error::Error;
use crate::site::rules::Rule;

/// A file that is not read yet.
pub(super) struct SourceFile {
    path: PathBuf,
    /// Path below the published folder.
    given: String,
    /// Size in the folder's listing, for the progress bar only.
    pub(super) size: u64,
}

/// The contents of a folder.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) sources: Vec<SourceFile>,
    /// Names that are not published, with the reason.
    pub(super) skipped: Vec<(String, &'static str)>,
}

/// Returns the canonical path of the published folder.
pub(super) fn root(folder: &Path) -> Result<PathBuf, Failure> {
    match folder.canonicalize() {
        Ok(root) if root.is_dir() => Ok(root),
        Ok(_) => Err(Failure::Usage(format!("{}: not a folder", folder.display()))),
        Err(error) => Err(unreadable(folder, &error)),
    }
}

/// Returns the files below `root`, sorted by name.
pub(super) fn find(root: &Path) -> Result<Listing, Failure> {
    let mut listing = Listing::default();
    walk(root, root, &mut listing)?;
    Ok(listing)
}

fn walk(root: &Path, folder: &Path, listing: &mut Listing) -> Result<(), Failure> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|error| unreadable(folder, &error))?;
    entries.sort_by_key(DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let below = path.strip_prefix(root).unwrap_or(&path);
        match kind(root, &entry).map_err(|error| unreadable(&path, &error))? {
            Kind::Folder => walk(root, &path, listing)?,
            Kind::Other(why) => listing.skipped.push((below.display().to_string(), why)),
            Kind::File { path: file, size } => {
                let given = below.to_str().ok_or_else(|| {
                    Failure::Usage(format!(
                        "{}: the name is not UTF-8, so the manifest cannot list it; rename the file",
                        path.display()
                    ))
                })?;
                listing.sources.push(SourceFile { given: given.to_owned(), path: file, size });
            }
        }
    }
    Ok(())
}

/// The kind of a folder entry.
enum Kind {
    Folder,
    File {
        path: PathBuf,
        size: u64,
    },
    /// Not published, with the reason.
    Other(&'static str),
}

fn kind(root: &Path, entry: &DirEntry) -> io::Result<Kind> {
    if entry.file_name().as_encoded_bytes().starts_with(b".") {
        return Ok(Kind::Other("it is hidden"));
    }
    let metadata = entry.metadata()?;
    if metadata.is_symlink() {
        return Ok(linked(root, &entry.path()));
    }
    Ok(if metadata.is_dir() {
        Kind::Folder
    } else if metadata.is_file() {
        Kind::File { path: entry.path(), size: metadata.len() }
    } else {
        Kind::Other("it is neither a file nor a folder")
    })
}

/// Returns the kind of a link's target. A link to a folder is skipped: a folder below `root` is
/// published under its own name, and the link could form a loop.
fn linked(root: &Path, link: &Path) -> Kind {
    let Ok(path) = link.canonicalize() else {
        return Kind::Other("it is a link to nothing");
    };
    match path.metadata() {
        _ if !path.starts_with(root) => Kind::Other("it is a link that leaves the folder"),
        Ok(metadata) if metadata.is_file() => Kind::File { size: metadata.len(), path },
        _ => Kind::Other("it is a link, and not to a file"),
    }
}

impl SourceFile {
    /// Reads the file, and names it by its contents.
    pub(super) async fn name(self, rules: &[Rule], progress: &Progress) -> Result<Asset, Failure> {
        let file = File::open(&self.path).await.map_err(|error| unreadable(&self.path, &error))?;
        let blocks = blocks(file).inspect_ok(|block| progress.bar.inc(block.len() as u64));
        let (digest, size) = digest(blocks, DIGEST).await.map_err(|error| unreadable(&self.path, &error))?;
        progress.file_done();
        let name = manifest::published_name(&self.given, &digest, rules).map_err(Failure::Usage)?;
        Ok(Asset { path: self.path, given: self.given, name, digest, size })
    }
}

/// Returns the contents of `asset`. If the file has changed since it was named, an error takes
/// the place of the last block, so that the receiver never gets the announced length.
pub(super) fn contents(asset: &Asset, progress: &Progress) -> Result<Body, Failure> {
    let file = std::fs::File::open(&asset.path).map_err(|error| unreadable(&asset.path, &error))?;
    // A retry counts its bytes again.
    let bar = progress.bar.clone();
    let blocks = unchanged(File::from_std(file), asset).inspect_ok(move |block| bar.inc(block.len() as u64));
    Ok(Body::from_stream(blocks))
}

/// Returns the blocks of `file`, or an error if they do not match the digest of `asset`.
fn unchanged(file: File, asset: &Asset) -> impl Stream<Item = Result<Bytes, Error>> + Send + use<> {
    let blocks = Box::pin(blocks(file.take(asset.size)));
    let (given, digest) = (asset.given.clone(), asset.digest.clone());
    let broke = move |why: &str| Error::ClientBroke(format!("{given}: {why}"));
    let changed = "the file changed while it was published; publish again";
    stream::try_unfold((blocks, DIGEST.hashing(), asset.size), move |(mut blocks, mut hashing, left)| {
        let (broke, digest) = (broke.clone(), digest.clone());
        async move {
            let Some(block) = blocks.try_next().await.map_err(|error| broke(&error.to_string()))? else {
                return if left == 0 { Ok(None) } else { Err(broke(changed)) };
            };
            hashing.update(&block);
            let left = left - block.len() as u64;
            if left == 0 && hashing.clone().finish() != digest {
                return Err(broke(changed));
            }
            Ok(Some((block, (blocks, hashing, left))))
        }
    })
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Usage(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::store::Store;
    use super::*;

    /// Stores a file whose contents change after it was named.
    async fn stored(before: &[u8], after: &[u8]) -> (Result<(), Failure>, Vec<PathBuf>) {
        let (site, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = site.path().join("a.bin");
        std::fs::write(&file, before).unwrap();
        let progress = Progress::new();
        let source = find(site.path()).unwrap().sources.remove(0);
        let asset = source.name(&manifest::rules().unwrap(), &progress).await.unwrap();
        std::fs::write(&file, after).unwrap();
        let store = Store::open(into.path().to_str().unwrap()).unwrap();
        let outcome = store.put(&asset.name, asset.size, || contents(&asset, &progress)).await;
        (outcome, std::fs::read_dir(into.path()).unwrap().map(|entry| entry.unwrap().path()).collect())
    }

    #[tokio::test]
    async fn a_file_changed_after_naming_is_not_stored() {
        let (long, other) = (vec![7; 300_000], vec![8; 300_000]);
        for after in [&b""[..], b"shorter", &other, &long[1..]] {
            let (outcome, files) = stored(&long, after).await;
            let error = outcome.unwrap_err().to_string();
            assert!(error.starts_with("a.bin: the file changed"), "{error}");
            assert_eq!(files, [] as [PathBuf; 0]);
        }
    }

    #[tokio::test]
    async fn a_file_that_grew_is_stored_with_its_old_contents() {
        for before in [&b""[..], b"abc"] {
            let (outcome, files) = stored(before, &[before, &vec![9; 200_000]].concat()).await;
            assert!(outcome.is_ok() && files.len() == 1);
        }
    }
}
