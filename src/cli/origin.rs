//! `peerage origin`: a folder as a development origin.

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

use super::{Failure, init_log, input_ends, runtime, write_pid};
use crate::body::Body;
use crate::config::{LogConfig, Period};
use crate::conn::accept::{LogLatch, accepted};
use crate::error::Error;
use crate::origin::Origin;
use crate::origin::files::{FileOrigin, Writes};
use crate::site::rules::Rule;

#[derive(clap::Args)]
pub(super) struct OriginCommand {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// How long every answer waits, such as 300ms
    #[arg(long, value_name = "TIME", default_value = "0s")]
    delay: Period,
    /// Lets PUT make and replace files
    #[arg(long)]
    writable: bool,
    /// Writes its process id to FILE once it listens
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Ends when standard input does
    #[arg(long, hide = true)]
    while_input: bool,
}

/// The names to which the development origin gives a lifetime of a year: those of the
/// walk-through, such as `logo-0492830483.png`, and of most build tools.
const LASTING: [&str; 2] = ["/**/*-{hash}.*", "/**/*.{hash}.*"];

impl OriginCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        let rules = LASTING.map(Rule::parse).into_iter().collect::<Result<Vec<_>, _>>().map_err(Failure::Usage)?;
        let is_immutable = move |path: &str| rules.iter().any(|rule| rule.matches(path));
        let writes = if self.writable { Writes::Allowed } else { Writes::Refused };
        let files = FileOrigin::new(&self.folder, self.delay.0, writes, is_immutable)
            .map_err(|error| Failure::Usage(format!("{}: {error}; a folder is needed", self.folder.display())))?;
        let (_lost, _throttle, _log) = init_log(&LogConfig::default());
        let runtime = runtime(0)?;
        let ended = runtime.block_on(async {
            let listener = TcpListener::bind(self.listen).await.map_err(|error| {
                Failure::Unavailable(format!("--listen: cannot listen on {}: {error}", self.listen))
            })?;
            write_pid(self.pid_file.as_deref())?;
            say(&format!("origin serves {} at http://{}", self.folder.display(), listener.local_addr()?));
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
            let service = service_fn(move |request| answer(Arc::clone(&files), request));
            // A client that breaks off harms nobody else.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Answers, and prints who asked for what.
async fn answer(files: Arc<FileOrigin>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
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
    say(&format!("{time} origin {method} {uri} {status} via=\"{via}\" {took}ms"));
    Ok(response)
}

/// Prints a line; the origin goes on where nobody reads it any more.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
