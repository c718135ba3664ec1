//! `peerage origin`: serves a folder as a development origin.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;
use super::log::init_log;
use super::process::{input_ends, runtime, write_pid};
use crate::body::Body;
use crate::config::{LogConfig, Period};
use crate::conn::accept::{LogLatch, accepted};
use crate::error::Error;
use crate::origin::Origin;
use crate::origin::files::{FileOrigin, Writes};
use crate::site::rules::Rule;

#[derive(clap::Args)]
pub(super) struct OriginCommand {
    /// Folder to serve
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Listening address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Delay of each response, such as 300ms
    #[arg(long, value_name = "TIME", default_value = "0s")]
    delay: Period,
    /// Allows PUT to create and replace files
    #[arg(long)]
    writable: bool,
    /// Writes the process id to FILE once the origin listens
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Ends when standard input ends
    #[arg(long, hide = true)]
    while_input: bool,
}

/// Names that get a lifetime of a year: those of the walk-through, such as
/// `logo-0492830483.png`, and of most build tools.
const IMMUTABLE: [&str; 2] = ["/**/*-{hash}.*", "/**/*.{hash}.*"];

impl OriginCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        let rules = IMMUTABLE.map(Rule::parse).into_iter().collect::<Result<Vec<_>, _>>().map_err(Failure::Usage)?;
        let is_immutable = move |path: &str| rules.iter().any(|rule| rule.matches(path));
        let writes = if self.writable { Writes::Allowed } else { Writes::Refused };
        let files = FileOrigin::new(&self.folder, self.delay.0, writes, is_immutable).map_err(|error| {
            Failure::Usage(format!("cannot serve {}: {error}; name a folder", self.folder.display()))
        })?;
        let (_lost, _throttle, _log) = init_log(&LogConfig::default());
        let runtime = runtime(0)?;
        let ended = runtime.block_on(async {
            let listener = TcpListener::bind(self.listen).await.map_err(|error| {
                Failure::Unavailable(format!("cannot listen on {} (--listen): {error}", self.listen))
            })?;
            write_pid(self.pid_file.as_deref())?;
            print_line(&format!("origin serves {} at http://{}", self.folder.display(), listener.local_addr()?));
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                () = serve(listener, Arc::new(files)) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = input_ends(), if self.while_input => {}
            }
            Ok(())
        });
        runtime.shutdown_background();
        ended
    }
}

async fn serve(listener: TcpListener, files: Arc<FileOrigin>) {
    let mut failing = LogLatch::default();
    loop {
        let Some((stream, _)) = accepted("--listen", listener.accept().await, &mut failing).await else {
            continue;
        };
        let files = Arc::clone(&files);
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| respond(Arc::clone(&files), request));
            // A failed connection does not affect the others.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Responds to a request, and prints a line for it.
async fn respond(files: Arc<FileOrigin>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let began = Instant::now();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let via = request.headers().get(http::header::VIA).and_then(|via| via.to_str().ok()).unwrap_or("-").to_owned();
    let request = request.map(|body| Body::received(body, None, Error::ClientBroke));
    let response = match files.fetch(request.into()).await {
        Ok(reply) => reply.response,
        Err(error) => {
            let mut response = Response::new(Body::from(format!("{}\n", error.public())));
            *response.status_mut() = error.status();
            response
        }
    };
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
    let (status, took) = (response.status().as_u16(), began.elapsed().as_millis());
    print_line(&format!("{time} origin {method} {uri} {status} via=\"{via}\" {took}ms"));
    Ok(response)
}

/// Prints a line. A closed standard output does not end the origin.
fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
