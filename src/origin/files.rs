//! The development origin: a folder of files.

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
use crate::origin::Origin;
use crate::semantics::conditional::{self, Precondition};
use crate::semantics::date;
use crate::semantics::range::{self, ByteRange, Ranged};
use crate::site::rules::Rule;

/// How much of a file is read at a time, in bytes.
const BLOCK: usize = 128 * 1024;

/// What may be done to the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// PUT makes and replaces files.
    Allowed,
    /// It is read only.
    Refused,
}

/// Serves a folder: strong `ETags`, single ranges, and a lifetime of a year for
/// files whose names hold a hash.
pub struct FileOrigin {
    root: PathBuf,
    delay: Duration,
    writes: Writes,
    rules: Vec<Rule>,
}

impl FileOrigin {
    /// Serves `root`; every answer waits for `delay`.
    ///
    /// # Errors
    /// `root` is not a folder that can be read.
    pub fn new(root: &Path, delay: Duration, writes: Writes, rules: Vec<Rule>) -> io::Result<Self> {
        let root = root.canonicalize()?;
        std::fs::read_dir(&root)?;
        Ok(Self { root, delay, writes, rules })
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        tokio::time::sleep(self.delay).await;
        let key = AssetKey::from_uri(request.uri(), usize::MAX)?;
        let Some(path) = self.path(&key) else {
            return Ok(plain(StatusCode::NOT_FOUND));
        };
        match *request.method() {
            Method::GET | Method::HEAD => {
                let (parts, _) = request.into_parts();
                Ok(self.give(&key, path, &parts).await.unwrap_or_else(|error| refusal(&error)))
            }
            Method::PUT if self.writes == Writes::Allowed => self.take(path, request.into_body()).await,
            _ => Ok(self.not_allowed()),
        }
    }

    /// Where `key` lies, or would lie: below the root, whatever its name is.
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

    async fn give(&self, key: &AssetKey, path: PathBuf, request: &Parts) -> io::Result<Response<Body>> {
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
        *response.headers_mut() = self.fields(key, &path, &metadata);
        let Some((first, end)) = extent(&request.headers, &mut response, metadata.len()) else {
            return Ok(response);
        };
        if request.method == Method::GET {
            *response.body_mut() = content(file, first, end).await?;
        }
        Ok(response)
    }

    fn fields(&self, key: &AssetKey, path: &Path, metadata: &Metadata) -> HeaderMap {
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
        if self.rules.iter().any(|rule| rule.matches(key.path())) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
        }
        headers
    }

    /// Writes beside, then renames: who reads meanwhile gets the old file or
    /// the new one, whole.
    async fn take(&self, path: PathBuf, body: Body) -> Result<Response<Body>, Error> {
        let Some(folder) = path.parent() else {
            return Ok(plain(StatusCode::NOT_FOUND));
        };
        let written = async {
            tokio::fs::create_dir_all(folder).await?;
            if !tokio::fs::canonicalize(folder).await?.starts_with(&self.root) {
                return Err(io::Error::from(io::ErrorKind::PermissionDenied));
            }
            let existed = tokio::fs::try_exists(&path).await?;
            // As for any new file, the umask says who may read it.
            let readable = Permissions::from_mode(0o666);
            let beside = tempfile::Builder::new().prefix(".").suffix(".part").permissions(readable).tempfile_in(folder);
            // Removed when it is dropped, as by a client who breaks off.
            let (file, beside) = beside?.into_parts();
            write(File::from_std(file), body).await?;
            beside.persist(&path).map_err(|error| error.error)?;
            Ok(existed)
        };
        Ok(match written.await {
            Ok(existed) => plain(if existed { StatusCode::NO_CONTENT } else { StatusCode::CREATED }),
            Err(error) => refusal(&error),
        })
    }

    fn not_allowed(&self) -> Response<Body> {
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
    fn fetch(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
        Box::pin(self.answer(request))
    }
}

/// Which bytes the request wants, of `length`; `None` if none, and then the
/// response says why.
fn extent(request: &HeaderMap, response: &mut Response<Body>, length: u64) -> Option<(u64, u64)> {
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
        let mut block = BytesMut::with_capacity(BLOCK.min(usize::try_from(left).unwrap_or(BLOCK)));
        let read = (&mut file).take(left).read_buf(&mut block).await;
        match read {
            Ok(0) => Err(Error::OriginBroke("the file became shorter".to_owned())),
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

fn refusal(error: &io::Error) -> Response<Body> {
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
