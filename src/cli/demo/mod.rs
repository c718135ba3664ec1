//! `peerage demo`: a slow origin and three edges as child processes.

mod configuration;
mod credentials;
mod overview;
mod ports;
mod process;
mod stage;

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use self::credentials::Credentials;
use self::overview::overview;
use self::ports::{EDGES, Ports};
use self::process::Process;
use self::stage::Stage;
use super::failure::Failure;
use super::process::{input_ends, print, runtime};
use crate::config::Period;

#[derive(clap::Args)]
pub(super) struct Demo {
    /// Number added to every port, if the default ports are taken
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=50_000))]
    shift: u16,
    /// Delay of each response of the origin
    #[arg(long, value_name = "TIME", default_value = "300ms")]
    delay: Period,
    /// HTTPS for clients and TLS between the edges, with a throw-away authority
    #[arg(long)]
    tls: bool,
    /// Ends when standard input ends
    #[arg(long, hide = true)]
    while_input: bool,
}

/// Time in which a child must listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime = runtime(1)?;
        let ended = runtime.block_on(self.play());
        runtime.shutdown_background();
        ended
    }

    /// Runs the demo until a signal, or the end of standard input.
    async fn play(&self) -> Result<(), Failure> {
        let folder = tempfile::Builder::new().prefix("peerage-demo-").tempdir()?;
        let credentials = self.tls.then(|| Credentials::make(folder.path())).transpose()?;
        let stage = Stage::set(folder.path(), Ports { shift: self.shift }, self.delay, credentials)?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut processes = vec![stage.start_origin()?];
        for number in 1..=EDGES {
            processes.push(stage.start_edge(number)?);
        }
        let outcome = tokio::select! {
            outcome = watch(&mut processes, &stage) => outcome,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            () = input_ends(), if self.while_input => Ok(()),
        };
        for process in &mut processes {
            process.end().await;
        }
        outcome
    }
}

/// Waits until all children listen, prints the overview, then reports children that end.
async fn watch(processes: &mut [Process], stage: &Stage) -> Result<(), Failure> {
    all_listen(processes).await?;
    print(&overview(stage, processes))?;
    loop {
        for process in processes.iter_mut().filter(|process| !process.ended) {
            if let Some(status) = process.child.try_wait()? {
                process.ended = true;
                let (name, command) = (&process.name, &process.command);
                print(&format!("{name} ended ({status}); start it again with:\n  {command}\n"))?;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until each child has written its pid file: an open port alone could belong to
/// another process.
async fn all_listen(processes: &mut [Process]) -> Result<(), Failure> {
    let listening = async {
        for process in processes {
            while !process.listens() {
                if let Some(status) = process.child.try_wait()? {
                    return Err(process.did_not_start(status).await);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    };
    let late =
        || Failure::Unavailable(format!("timeout: the demo's processes did not listen within {START_TIMEOUT:?}"));
    tokio::time::timeout(START_TIMEOUT, listening).await.map_err(|_| late())?
}
