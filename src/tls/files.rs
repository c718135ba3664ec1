//! The files of certificates: lists of pairs, the contents of a pair, and detection of changes.

use std::fs::{self, DirEntry, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::settings::{LoadError, PairPaths};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The identity and the last change of one file, of its contents or its permissions. A path is
/// followed through symbolic links, which Kubernetes swaps when a secret changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(Option<(u64, u64, u64, i64, i64)>);

impl Stamp {
    pub(super) fn of(path: &Path) -> Self {
        let stamp = |file: fs::Metadata| (file.dev(), file.ino(), file.len(), file.ctime(), file.ctime_nsec());
        Self(fs::metadata(path).ok().map(stamp))
    }
}

/// Returns the stamps of both files of a pair.
pub(super) fn stamps(pair: &PairPaths) -> [Stamp; 2] {
    [Stamp::of(&pair.chain), Stamp::of(&pair.key)]
}

/// Returns the pairs in a directory, in the order of their names: `NAME.pem` with `NAME.key`, and
/// `tls.crt` with `tls.key`, also in a folder. Hidden entries are skipped: Kubernetes keeps the
/// versions of a secret in them.
pub(super) fn list(directory: &Path) -> Result<Vec<PairPaths>, LoadError> {
    let failed = |error: io::Error| {
        LoadError::new(directory, format_args!("cannot list the directory: {error}; check tls.directory"))
    };
    let mut pairs = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        pairs.extend(pair_of(&entry.map_err(failed)?));
    }
    pairs.sort_unstable();
    Ok(pairs)
}

/// Returns the pair that a directory entry stands for.
fn pair_of(entry: &DirEntry) -> Option<PairPaths> {
    let (name, path) = (entry.file_name(), entry.path());
    if name.as_encoded_bytes().starts_with(b".") {
        return None;
    }
    if name == "tls.crt" || path.extension().is_some_and(|extension| extension == "pem") {
        return Some(PairPaths { key: path.with_extension("key"), chain: path });
    }
    let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
    let chain = path.join("tls.crt");
    // A folder that cannot be searched is a pair that cannot be read, which is logged.
    let is_unreadable = |error: io::Error| error.kind() == ErrorKind::PermissionDenied;
    let is_pair = !is_file && chain.try_exists().unwrap_or_else(is_unreadable);
    is_pair.then(|| PairPaths { chain, key: path.join("tls.key") })
}

/// Reads the certificates of a PEM file.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let text = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| LoadError::new(path, format_args!("invalid PEM: {error:?}; write the file again")))?;
    if certificates.is_empty() {
        let problem = "no certificate in this file; it must hold PEM (-----BEGIN CERTIFICATE-----)";
        return Err(LoadError::new(path, problem));
    }
    Ok(certificates)
}

/// Reads the private key of a PEM file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, LoadError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if text.windows(9).any(|part| part == b"ENCRYPTED") => {
            LoadError::new(path, "the private key is encrypted; decrypt it with `openssl pkey -in FILE -out FILE`")
        }
        pem::Error::NoItemsFound => {
            LoadError::new(path, "no private key in this file; it must hold PEM (-----BEGIN PRIVATE KEY-----)")
        }
        error => LoadError::new(path, format_args!("invalid PEM: {error:?}; write the file again")),
    })
}

/// Reads a regular file of up to [`MAX_FILE`] bytes. Another one, such as a pipe, could block for ever.
fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |error: io::Error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "create the file, or remove its pair",
            ErrorKind::PermissionDenied => "let the user of this process read it",
            _ => "check the file",
        };
        LoadError::new(path, format_args!("cannot read the file: {error}; {remedy}"))
    };
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(LoadError::new(path, "not a regular file; name a file with PEM"));
    }
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text)).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(LoadError::new(path, "the file is larger than 1 MiB; name a file with PEM"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_folders_and_large_files_are_rejected_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large.pem");
        File::create(&large).unwrap().set_len(MAX_FILE + 1).unwrap();
        for (path, problem) in [
            (Path::new("/dev/zero"), "not a regular file"),
            (folder.path(), "not a regular file"),
            (&large, "larger than 1 MiB"),
        ] {
            assert!(certificates(path).unwrap_err().problem.contains(problem), "{}", path.display());
            assert!(private_key(path).unwrap_err().problem.contains(problem), "{}", path.display());
        }
    }

    #[test]
    fn change_of_permissions_changes_the_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        File::create(&path).unwrap();
        let before = Stamp::of(&path);
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        // The clock of the file system has coarse steps.
        while Stamp::of(&path) == before {
            fs::set_permissions(&path, permissions.clone()).unwrap();
        }
    }
}
