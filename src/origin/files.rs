//! [`FileOrigin`]: the development origin, which serves a folder of files.

use std::ffi::OsStr;
use std::fs::{Metadata, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::body::Body;
use crate::error::Error;
use crate::key::AssetKey;
use crate::origin::{Call, Origin};
use crate::semantics::conditional::{self, Precondition};
use crate::semantics::date;
use crate::semantics::range::{self, ByteRange, Ranged};
use crate::upstream::Reply;

/// The most that is read from a file at a time, in bytes.
const READ_SIZE: usize = 128 * 1024;

/// Write access to the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// PUT creates and replaces files.
    Allowed,
    /// The folder is read-only.
    Refused,
}

/// Serves a folder with strong `ETags` and single ranges. Files with immutable names (names that
/// contain a hash) are fresh for a year.
pub struct FileOrigin {
    root: PathBuf,
    delay: Duration,
    writes: Writes,
    is_immutable: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl FileOrigin {
    /// Serves `root` and delays every response by `delay`. `is_immutable` returns true for the
    /// paths of files that never change.
    ///
    /// # Errors
    /// `root` is not a readable folder.
    pub fn new(
        root: &Path,
        delay: Duration,
        writes: Writes,
        is_immutable: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let root = root.canonicalize()?;
        std::fs::read_dir(&root)?;
        Ok(Self { root, delay, writes, is_immutable: Box::new(is_immutable) })
    }

    async fn respond(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        tokio::time::sleep(self.delay).await;
        let key = AssetKey::from_uri(request.uri(), usize::MAX)?;
        let Some(path) = self.path(&key) else {
            return Ok(plain(StatusCode::NOT_FOUND));
        };
        match *request.method() {
            Method::GET | Method::HEAD => {
                let (parts, _) = request.into_parts();
                Ok(self.read(&key, path, &parts).await.unwrap_or_else(|error| io_failure(&error)))
            }
            Method::PUT if self.writes == Writes::Allowed => self.replace(path, request.into_body()).await,
            _ => Ok(self.method_not_allowed()),
        }
    }

    /// Returns the path of the file for `key`, below the root; `None` for a name with `..`, NUL
    /// or an encoded slash.
    fn path(&self, key: &AssetKey) -> Option<PathBuf> {
        let mut path = self.root.clone();
        let relative = key.path().strip_prefix('/')?;
        for segment in relative.split('/').filter(|segment| !segment.is_empty()) {
            let decoded: Vec<u8> = percent_encoding::percent_decode_str(segment).collect();
            if decoded.contains(&0) || decoded.contains(&b'/') || decoded == b".." {
                return None;
            }
            path.push(OsStr::from_bytes(&decoded));
        }
        if relative.is_empty() || relative.ends_with('/') {
            path.push("index.html");
        }
        Some(path)
    }

    async fn read(&self, key: &AssetKey, path: PathBuf, request: &Parts) -> io::Result<Response<Body>> {
        let path = tokio::fs::canonicalize(path).await?;
        if !path.starts_with(&self.root) {
            return Ok(plain(StatusCode::NOT_FOUND));
        }
        let file = File::open(&path).await?;
        let metadata = file.metadata().await?;
        if !metadata.is_file() {
            return Ok(plain(StatusCode::NOT_FOUND));
        }
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = self.headers(key, &path, &metadata);
        let Some((first, end)) = select_bytes(&request.headers, &mut response, metadata.len()) else {
            return Ok(response);
        };
        if request.method == Method::GET {
            *response.body_mut() = content(file, first, end).await?;
        }
        Ok(response)
    }

    fn headers(&self, key: &AssetKey, path: &Path, metadata: &Metadata) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let tag = format!(
            "\"{:x}-{:x}-{:x}\"",
            metadata.len(),
            metadata.ino(),
            metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()
        );
        for (name, value) in [
            (ETAG, tag),
            (LAST_MODIFIED, metadata.modified().map(date::written).unwrap_or_default()),
            (CONTENT_LENGTH, metadata.len().to_string()),
            (CONTENT_TYPE, media_type(path).to_owned()),
            (ACCEPT_RANGES, "bytes".to_owned()),
        ] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        if (self.is_immutable)(key.path()) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
        }
        headers
    }

    /// Writes a temporary file in the same folder and renames it, so that a concurrent reader
    /// gets all of the old file or all of the new one.
    async fn replace(&self, path: PathBuf, body: Body) -> Result<Response<Body>, Error> {
        let Some(folder) = path.parent() else {
            return Ok(plain(StatusCode::NOT_FOUND));
        };
        let written = async {
            tokio::fs::create_dir_all(folder).await?;
            if !tokio::fs::canonicalize(folder).await?.starts_with(&self.root) {
                return Err(io::Error::from(io::ErrorKind::PermissionDenied));
            }
            let existed = tokio::fs::try_exists(&path).await?;
            // As for any new file, the umask restricts these permissions.
            let readable = Permissions::from_mode(0o666);
            let temporary =
                tempfile::Builder::new().prefix(".").suffix(".part").permissions(readable).tempfile_in(folder);
            // Dropping it removes the file, as when the client closes the connection.
            let (file, temporary) = temporary?.into_parts();
            write(File::from_std(file), body).await?;
            temporary.persist(&path).map_err(|error| error.error)?;
            Ok(existed)
        };
        Ok(match written.await {
            Ok(existed) => plain(if existed { StatusCode::NO_CONTENT } else { StatusCode::CREATED }),
            Err(error) => io_failure(&error),
        })
    }

    fn method_not_allowed(&self) -> Response<Body> {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
        let allowed = match self.writes {
            Writes::Allowed => "GET, HEAD, PUT",
            Writes::Refused => "GET, HEAD",
        };
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        response
    }
}

impl Origin for FileOrigin {
    fn fetch(&self, call: Call) -> BoxFuture<'_, Result<Reply, Error>> {
        Box::pin(async move { self.respond(call.request).await.map(Reply::from) })
    }
}

/// Selects the bytes for a request, as first and end, of a file of `length` bytes. Returns
/// `None` if the response has no body (304, 412, 416); its status is set then.
fn select_bytes(request: &HeaderMap, response: &mut Response<Body>, length: u64) -> Option<(u64, u64)> {
    let status = match conditional::evaluate(request, response.headers()) {
        Precondition::Proceed => match range::evaluate(request, response.headers(), length) {
            // The development origin sends no multipart; the edges do.
            Ranged::Whole | Ranged::Parts(_) => return Some((0, length)),
            Ranged::Part(ByteRange { first, end }) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                response.headers_mut().insert(CONTENT_LENGTH, (end - first).into());
                set_range(response, &format!("bytes {first}-{}/{length}", end - 1));
                return Some((first, end));
            }
            Ranged::Unsatisfiable => {
                set_range(response, &format!("bytes */{length}"));
                StatusCode::RANGE_NOT_SATISFIABLE
            }
        },
        Precondition::NotModified => StatusCode::NOT_MODIFIED,
        Precondition::Failed => StatusCode::PRECONDITION_FAILED,
    };
    *response.status_mut() = status;
    response.headers_mut().remove(CONTENT_LENGTH);
    None
}

fn set_range(response: &mut Response<Body>, range: &str) {
    if let Ok(range) = HeaderValue::from_str(range) {
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
}

async fn content(mut file: File, first: u64, end: u64) -> io::Result<Body> {
    file.seek(io::SeekFrom::Start(first)).await?;
    let blocks = futures_util::stream::try_unfold((file, end - first), |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let mut block = BytesMut::with_capacity(READ_SIZE.min(usize::try_from(left).unwrap_or(READ_SIZE)));
        let read = (&mut file).take(left).read_buf(&mut block).await;
        match read {
            Ok(0) => Err(Error::OriginBroke("the file was truncated while it was read".to_owned())),
            Ok(read) => Ok(Some((block.freeze(), (file, left - read as u64)))),
            Err(error) => Err(Error::OriginBroke(error.to_string())),
        }
    });
    Ok(Body::from_stream(blocks))
}

async fn write(mut file: File, mut body: Body) -> io::Result<()> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            file.write_all(&data).await?;
        }
    }
    file.flush().await
}

fn io_failure(error: &io::Error) -> Response<Body> {
    plain(match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => StatusCode::NOT_FOUND,
        io::ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        io::ErrorKind::InvalidFilename => StatusCode::URI_TOO_LONG,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    })
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    if status != StatusCode::NO_CONTENT {
        *response.body_mut() = format!("{}\n", status.canonical_reason().unwrap_or("error")).into();
    }
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

pub(crate) fn media_type(path: &Path) -> &'static str {
    match path.extension().and_then(OsStr::to_str).unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "svg" => "image/svg+xml",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        "wasm" => "application/wasm",
        _ => "application/octet-stream",
    }
}
