//! Where published files go: a folder, or a server that takes PUT.

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

use super::AT_A_TIME;
use crate::body::Body;
use crate::cli::manifest::target;
use crate::cli::{FIRST_BYTE, Failure, PATIENCE};
use crate::error::Error;
use crate::origin::Origin;
use crate::origin::files::media_type;
use crate::origin::http_origin::HttpOrigin;

pub(super) enum Store {
    Folder(PathBuf),
    Server(Box<Server>),
}

impl Store {
    pub(super) fn open(into: &str) -> Result<Self, Failure> {
        if into.contains("://") {
            return Server::new(into)
                .map(|server| Self::Server(Box::new(server)))
                .map_err(|error| Failure::Usage(format!("--into: {error}")));
        }
        if Path::new(into).is_dir() {
            return Ok(Self::Folder(into.into()));
        }
        let text = format!("--into: `{into}` is neither a folder nor a URL such as `http://127.0.0.1:9000`");
        Err(Failure::Usage(text))
    }

    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Server(_) => None,
        }
    }

    /// Whether something of this name and length is there. The name says what
    /// it holds, and nothing is ever stored by half.
    pub(super) async fn holds(&self, name: &str, size: u64) -> Result<bool, Failure> {
        match self {
            Self::Folder(folder) => {
                let metadata = tokio::fs::metadata(folder.join(name)).await;
                Ok(metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == size))
            }
            Self::Server(server) => {
                let head = server.ask(Method::HEAD, name).await;
                head.map(|head| is_of_length(&head, size)).map_err(|error| server.failure(name, error))
            }
        }
    }

    /// Whether these very contents are there, under a name that does not tell.
    pub(super) async fn holds_contents(&self, name: &str, contents: &Bytes) -> bool {
        match self {
            Self::Folder(folder) => tokio::fs::read(folder.join(name)).await.is_ok_and(|there| there == *contents),
            Self::Server(server) => match server.ask(Method::GET, name).await {
                Ok(response) if is_of_length(&response, contents.len() as u64) => {
                    response.into_body().collect().await.is_ok_and(|there| there.to_bytes() == contents)
                }
                _ => false,
            },
        }
    }

    /// Stores what `content` gives: it is asked again if it has to be sent again.
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

pub(super) struct Server {
    origin: HttpOrigin,
    url: String,
}

impl Server {
    fn new(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("`{url}`: {error}"))?;
        let origin = HttpOrigin::new(&uri, PATIENCE, FIRST_BYTE, AT_A_TIME)?;
        Ok(Self { origin, url: url.trim_end_matches('/').to_owned() })
    }

    /// Asks for what is there, in no coding.
    async fn ask(&self, method: Method, name: &str) -> Result<Response<Body>, Error> {
        let mut request = request(method, name, Body::empty())?;
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        self.origin.fetch(request.into()).await.map(|reply| reply.response)
    }

    async fn put(&self, name: &str, size: u64, content: impl Fn() -> Result<Body, Failure>) -> Result<(), Failure> {
        let mut sent = self.put_once(name, size, content()?).await;
        if may_come_right(&sent) {
            sent = self.put_once(name, size, content()?).await;
        }
        match sent {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) => Err(Failure::Unavailable(format!("{}: it answers PUT with {status}", self.place(name)))),
            // Who refuses what is long often closes the connection, which may
            // take the answer with it.
            Err(Error::OriginBroke(why)) => {
                let text = format!("{}: it broke off PUT: {why}; does it take PUT, and so much?", self.place(name));
                Err(Failure::Unavailable(text))
            }
            Err(error) => Err(self.failure(name, error)),
        }
    }

    async fn put_once(&self, name: &str, size: u64, content: Body) -> Result<StatusCode, Error> {
        let mut request = request(Method::PUT, name, content)?;
        request.headers_mut().insert(CONTENT_LENGTH, size.into());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type(Path::new(name))));
        let (head, body) = self.origin.fetch(request.into()).await?.response.into_parts();
        // The connection serves the next request, if what is left is little.
        let _ = Limited::new(body, SMALL).collect().await;
        Ok(head.status)
    }

    fn failure(&self, name: &str, error: Error) -> Failure {
        match error {
            Error::ClientBroke(why) => Failure::Usage(why),
            error => Failure::Unavailable(format!("{}: {error}", self.place(name))),
        }
    }

    fn place(&self, name: &str) -> String {
        format!("{}{}", self.url, target(Path::new(name)))
    }
}

/// The longest answer to a PUT that is read to its end, in bytes.
const SMALL: usize = 64 * 1024;

fn request(method: Method, name: &str, body: Body) -> Result<Request<Body>, Error> {
    let request = Request::builder().method(method).uri(target(Path::new(name))).body(body);
    request.map_err(|error| Error::OriginFailed(error.to_string()))
}

/// Whether a PUT is worth repeating, which it may be (RFC 9110 §9.2.2). A file
/// that changed meanwhile has changed for good.
fn may_come_right(sent: &Result<StatusCode, Error>) -> bool {
    match sent {
        Ok(status) => status.is_server_error(),
        Err(error) => !matches!(error, Error::ClientBroke(_)),
    }
}

fn is_of_length(response: &Response<Body>, size: u64) -> bool {
    let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    response.status() == StatusCode::OK && length == Some(size)
}

/// Writes a file that may be a terminal, a pipe, or a link to another file: what it is
/// stays so.
pub(super) async fn write_out(path: &Path, content: Bytes) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Unavailable(format!("{}: {error}", path.display()));
    match tokio::fs::metadata(path).await {
        Ok(there) if !there.is_file() => {
            let mut file = tokio::fs::OpenOptions::new().write(true).open(path).await.map_err(failed)?;
            file.write_all(&content).await.map_err(failed)?;
            file.flush().await.map_err(failed)
        }
        Ok(_) => write(&tokio::fs::canonicalize(path).await.map_err(failed)?, content.into()).await,
        Err(_) => write(path, content.into()).await,
    }
}

/// Writes beside, then renames: nobody ever sees a part of it under its name.
pub(super) async fn write(path: &Path, content: Body) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Unavailable(format!("{}: {error}", path.display()));
    let folder = folder_of(path);
    tokio::fs::create_dir_all(folder).await.map_err(failed)?;
    // As for any new file, the umask says who may read it.
    let readable = Permissions::from_mode(0o666);
    let beside = tempfile::Builder::new().prefix(".").suffix(".part").permissions(readable).tempfile_in(folder);
    let (file, beside) = beside.map_err(failed)?.into_parts();
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
    // Or, after a crash, the name could be there without the contents.
    file.sync_all().await.map_err(failed)?;
    beside.persist(path).map_err(|error| failed(error.error))
}

/// The folder in which a file of this path is, or would be.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}
