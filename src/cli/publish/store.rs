//! The destination of published files: a folder, or a server that accepts PUT.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream::StreamExt;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use crate::body::Body;
use crate::cli::client::{FIRST_BYTE, TIMEOUTS};
use crate::cli::failure::Failure;
use crate::cli::manifest::target;
use crate::error::Error;
use crate::origin::Origin;
use crate::origin::files::media_type;
use crate::origin::http_origin::HttpOrigin;
use crate::tls::ClientSettings;

/// Number of files read, or sent, at a time.
pub(super) const CONCURRENCY: usize = 8;

/// The destination of published files.
pub(super) enum Store {
    Folder(PathBuf),
    Server(Box<Server>),
}

impl Store {
    pub(super) fn open(into: &str) -> Result<Self, Failure> {
        if into.contains("://") {
            return Server::new(into)
                .map(|server| Self::Server(Box::new(server)))
                .map_err(|error| Failure::Usage(format!("invalid value for --into: {error}")));
        }
        if Path::new(into).is_dir() {
            return Ok(Self::Folder(into.into()));
        }
        let text = format!(
            "invalid value for --into: {into:?} (expected an existing folder, or a URL such as http://127.0.0.1:9000)"
        );
        Err(Failure::Usage(text))
    }

    /// Returns the folder, if the destination is one.
    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Server(_) => None,
        }
    }

    /// Returns true if a file of this name and length exists. The name holds the digest, and
    /// files are never stored partly.
    pub(super) async fn holds(&self, name: &str, size: u64) -> Result<bool, Failure> {
        match self {
            Self::Folder(folder) => {
                let metadata = tokio::fs::metadata(folder.join(name)).await;
                Ok(metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == size))
            }
            Self::Server(server) => {
                let head = server.request(Method::HEAD, name).await;
                head.map(|head| is_of_length(&head, size)).map_err(|error| server.failure(name, error))
            }
        }
    }

    /// Returns true if a file with these contents exists, for a name without a digest.
    pub(super) async fn holds_contents(&self, name: &str, contents: &Bytes) -> bool {
        match self {
            Self::Folder(folder) => tokio::fs::read(folder.join(name)).await.is_ok_and(|stored| stored == *contents),
            Self::Server(server) => match server.request(Method::GET, name).await {
                Ok(response) if is_of_length(&response, contents.len() as u64) => {
                    response.into_body().collect().await.is_ok_and(|stored| stored.to_bytes() == contents)
                }
                _ => false,
            },
        }
    }

    /// Stores the body that `content` returns; `content` is called again for a retry.
    pub(super) async fn put(
        &self,
        name: &str,
        size: u64,
        content: impl Fn() -> Result<Body, Failure>,
    ) -> Result<(), Failure> {
        match self {
            Self::Folder(folder) => write(&folder.join(name), content()?).await,
            Self::Server(server) => server.put(name, size, content).await,
        }
    }
}

/// A server that accepts PUT.
pub(super) struct Server {
    origin: HttpOrigin,
    url: String,
}

impl Server {
    fn new(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("`{url}`: {error}"))?;
        let origin = HttpOrigin::new(&uri, &ClientSettings::default(), TIMEOUTS, FIRST_BYTE, CONCURRENCY)?;
        Ok(Self { origin, url: url.trim_end_matches('/').to_owned() })
    }

    /// Requests the stored file, without a content coding.
    async fn request(&self, method: Method, name: &str) -> Result<Response<Body>, Error> {
        let mut request = build_request(method, name, Body::empty())?;
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        self.origin.fetch(request.into()).await.map(|reply| reply.response)
    }

    async fn put(&self, name: &str, size: u64, content: impl Fn() -> Result<Body, Failure>) -> Result<(), Failure> {
        let mut sent = self.put_once(name, size, content()?).await;
        if is_worth_a_retry(&sent) {
            sent = self.put_once(name, size, content()?).await;
        }
        match sent {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) => {
                Err(Failure::Unavailable(format!("{}: the server answered PUT with {status}", self.url_of(name))))
            }
            // A server that rejects a large body often closes the connection, and its response
            // may be lost.
            Err(Error::OriginBroke(why)) => {
                let text = format!(
                    "{}: the server broke off PUT: {why}; check that it accepts PUT and bodies of this size",
                    self.url_of(name)
                );
                Err(Failure::Unavailable(text))
            }
            Err(error) => Err(self.failure(name, error)),
        }
    }

    async fn put_once(&self, name: &str, size: u64, content: Body) -> Result<StatusCode, Error> {
        let mut request = build_request(Method::PUT, name, content)?;
        request.headers_mut().insert(CONTENT_LENGTH, size.into());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type(Path::new(name))));
        let (head, body) = self.origin.fetch(request.into()).await?.response.into_parts();
        // Reads a short response to its end, so that the connection can be used again.
        let _ = Limited::new(body, SMALL).collect().await;
        Ok(head.status)
    }

    fn failure(&self, name: &str, error: Error) -> Failure {
        match error {
            Error::ClientBroke(why) => Failure::Usage(why),
            error => Failure::Unavailable(format!("{}: {error}", self.url_of(name))),
        }
    }

    fn url_of(&self, name: &str) -> String {
        format!("{}{}", self.url, target(Path::new(name)))
    }
}

/// Size of the longest response to a PUT that is read to its end, in bytes.
const SMALL: usize = 64 * 1024;

fn build_request(method: Method, name: &str, body: Body) -> Result<Request<Body>, Error> {
    let request = Request::builder().method(method).uri(target(Path::new(name))).body(body);
    request.map_err(|error| Error::OriginFailed(error.to_string()))
}

/// Returns true if a PUT should be sent again; PUT is idempotent (RFC 9110 §9.2.2). A retry
/// does not help if the file has changed.
fn is_worth_a_retry(sent: &Result<StatusCode, Error>) -> bool {
    match sent {
        Ok(status) => status.is_server_error(),
        Err(error) => !matches!(error, Error::ClientBroke(_)),
    }
}

fn is_of_length(response: &Response<Body>, size: u64) -> bool {
    let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    response.status() == StatusCode::OK && length == Some(size)
}

/// Writes to a path that may be a terminal, a pipe, or a link to another file, without
/// replacing it by a plain file.
pub(super) async fn write_out(path: &Path, content: Bytes) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Unavailable(format!("{}: {error}", path.display()));
    match tokio::fs::metadata(path).await {
        Ok(metadata) if !metadata.is_file() => {
            let mut file = tokio::fs::OpenOptions::new().write(true).open(path).await.map_err(failed)?;
            file.write_all(&content).await.map_err(failed)?;
            file.flush().await.map_err(failed)
        }
        Ok(_) => write(&tokio::fs::canonicalize(path).await.map_err(failed)?, content.into()).await,
        Err(_) => write(path, content.into()).await,
    }
}

/// Writes a temporary file, then renames it: a partly written file never has the name.
pub(super) async fn write(path: &Path, content: Body) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Unavailable(format!("{}: {error}", path.display()));
    let folder = folder_of(path);
    tokio::fs::create_dir_all(folder).await.map_err(failed)?;
    // The umask applies, as for any new file.
    let readable = Permissions::from_mode(0o666);
    let temporary = tempfile::Builder::new().prefix(".").suffix(".part").permissions(readable).tempfile_in(folder);
    let (file, temporary) = temporary.map_err(failed)?.into_parts();
    let mut file = File::from_std(file);
    let mut blocks = content.into_data_stream();
    while let Some(block) = blocks.next().await {
        let block = block.map_err(|error| match error {
            Error::ClientBroke(why) => Failure::Usage(why),
            error => failed(io::Error::other(error)),
        })?;
        file.write_all(&block).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    // Without this, a crash could leave the name without the contents.
    file.sync_all().await.map_err(failed)?;
    temporary.persist(path).map_err(|error| failed(error.error))
}

/// Returns the folder of a path.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}
