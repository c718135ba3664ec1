//! `peerage demo`: a slow origin and three edges as child processes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::failure::{Failure, UNAVAILABLE};
use super::process::{input_ends, print, runtime};

#[derive(clap::Args)]
pub(super) struct Demo {
    /// Number added to every port, if the default ports are taken
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=50_000))]
    shift: u16,
    /// Delay of each response of the origin
    #[arg(long, value_name = "TIME", default_value = "300ms")]
    delay: crate::config::Period,
    /// Ends when standard input ends
    #[arg(long, hide = true)]
    while_input: bool,
}

/// Number of edges.
const EDGES: u16 = 3;
/// Time in which a child must listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Time in which a child must end before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(5);

macro_rules! site {
    ($($name:literal)*) => { [$(($name, include_bytes!(concat!("../../static-origin/", $name)).as_slice())),*] };
}

/// The site of the demo's origin: `static-origin` of the repository.
static SITE: [(&str, &[u8]); 5] = site![
    "logo-3c90fca58bac4755.png"
    "index.html"
    "photo-59a1930b1c4284a8.png"
    "style-b42d312740cc2ba0.css"
    "app-f50dc1ea7277871b.js"
];

/// The rule for the site's names, which `peerage publish` has made: the edges verify the
/// origin's contents against them.
const RULES: &str = "[[immutable]]\npath = \"/**/*-{hash}.*\"\ndigest = \"sha256\"\nlength = 16\n";

/// A child process.
struct Process {
    name: String,
    child: Child,
    /// Command that starts the process again.
    command: String,
    /// Contains the process id once the child listens.
    pid_file: PathBuf,
    /// Copies the child's standard error, each line with its name.
    errors: JoinHandle<()>,
    ended: bool,
}

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime = runtime(1)?;
        let ended = runtime.block_on(self.play());
        runtime.shutdown_background();
        ended
    }

    /// Runs the demo until a signal, or the end of standard input.
    async fn play(&self) -> Result<(), Failure> {
        let program = std::env::current_exe()?;
        let folder = tempfile::Builder::new().prefix("peerage-demo-").tempdir()?;
        let site = folder.path().join("origin");
        for (name, content) in SITE {
            std::fs::create_dir_all(&site)?;
            std::fs::write(site.join(name), content)?;
        }
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut processes = vec![self.start_origin(&program, folder.path(), &site)?];
        for number in 1..=EDGES {
            processes.push(self.start_edge(&program, folder.path(), number)?);
        }
        let outcome = tokio::select! {
            outcome = self.watch(&mut processes, folder.path()) => outcome,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            () = input_ends(), if self.while_input => Ok(()),
        };
        for process in &mut processes {
            process.end().await;
        }
        outcome
    }

    /// Waits until all children listen, prints the overview, then reports children that end.
    async fn watch(&self, processes: &mut [Process], folder: &Path) -> Result<(), Failure> {
        self.all_listen(processes).await?;
        print(&self.welcome(processes, folder))?;
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
    async fn all_listen(&self, processes: &mut [Process]) -> Result<(), Failure> {
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

    /// Returns the shifted port.
    fn port(&self, default: u16) -> u16 {
        default + self.shift
    }

    fn start_origin(&self, program: &Path, folder: &Path, site: &Path) -> Result<Process, Failure> {
        let listen = format!("127.0.0.1:{}", self.port(9000));
        let arguments =
            ["origin", &site.to_string_lossy(), "--listen", &listen, "--delay", &self.delay.to_string(), "--writable"]
                .map(str::to_owned);
        Process::start("origin", program, folder, &arguments)
    }

    fn start_edge(&self, program: &Path, folder: &Path, number: u16) -> Result<Process, Failure> {
        let file = folder.join(format!("edge-{number}.toml"));
        std::fs::write(&file, self.configuration(number))?;
        let arguments = ["run", "--config", &file.to_string_lossy()].map(str::to_owned);
        Process::start(&format!("edge-{number}"), program, folder, &arguments)
    }

    fn configuration(&self, number: u16) -> String {
        let peers: Vec<_> = (1..=EDGES).map(|number| format!("\"127.0.0.1:{}\"", self.port(7000 + number))).collect();
        format!(
            "[edge]\nname = \"edge-{number}\"\nlisten = \"127.0.0.1:{}\"\n\n[origin]\nurl = \"http://127.0.0.1:{}\"\n\n\
             [cluster]\nlisten = \"127.0.0.1:{}\"\npeers = [{}]\n\n[admin]\nlisten = \"127.0.0.1:{}\"\n\n\
             [log]\nformat = \"text\"\nlevel = \"warn\"\n\n{RULES}",
            self.port(8000 + number),
            self.port(9000),
            self.port(7000 + number),
            peers.join(", "),
            self.port(9900 + number),
        )
    }

    fn welcome(&self, processes: &[Process], folder: &Path) -> String {
        let mut text = String::from("\n");
        let pid = |process: &Process| process.child.id().map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let _ = writeln!(
            text,
            "origin  http://127.0.0.1:{}  delays each response by {}  pid {}",
            self.port(9000),
            self.delay,
            pid(&processes[0])
        );
        for (number, process) in (1..).zip(&processes[1..]) {
            let _ = writeln!(
                text,
                "{}  http://127.0.0.1:{}  peers at 127.0.0.1:{}  http://127.0.0.1:{}/metrics  pid {}",
                process.name,
                self.port(8000 + number),
                self.port(7000 + number),
                self.port(9900 + number),
                pid(process)
            );
        }
        let (asset, _) = SITE[0];
        let _ = writeln!(text, "\nTry, in another terminal:");
        for number in 1..=EDGES {
            let _ = writeln!(text, "  curl -s -o /dev/null -D - http://127.0.0.1:{}/{asset}", self.port(8000 + number));
        }
        let _ = writeln!(
            text,
            "Find the edge that owns it:\n  {} owner --config {} /{asset}",
            shown(&program()),
            folder.join("edge-1.toml").display()
        );
        let _ = writeln!(
            text,
            "Kill an edge, and start it again:\n  kill -9 {}\n  {}",
            pid(&processes[1]),
            processes[1].command
        );
        let _ = writeln!(text, "Ctrl-C ends all processes. Below, each process prints a line for each request.\n");
        text
    }
}

impl Process {
    fn start(name: &str, program: &Path, folder: &Path, arguments: &[String]) -> Result<Self, Failure> {
        let pid_file = folder.join(format!("{name}.pid"));
        let mut command = Command::new(program);
        // The pipe closes when this process ends, in any way, and the child ends with it.
        command.args(arguments).arg("--pid-file").arg(&pid_file).arg("--while-input");
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
        let errors = child.stderr.take().expect("standard error is piped");
        let errors = tokio::spawn(prefix(errors, format!("{name}: ")));
        let command = format!("{} {}", shown(program), arguments.join(" "));
        Ok(Self { name: name.to_owned(), child, command, pid_file, errors, ended: false })
    }

    /// Returns true if this child listens (and not another process on its ports).
    fn listens(&self) -> bool {
        let pid = std::fs::read_to_string(&self.pid_file).ok().and_then(|pid| pid.trim().parse().ok());
        pid.is_some() && pid == self.child.id()
    }

    /// Returns the error for a child that ended before it listened; its own error is printed
    /// above.
    async fn did_not_start(&mut self, status: ExitStatus) -> Failure {
        let _ = (&mut self.errors).await;
        let text = format!("{} did not start ({status}); its error is above", self.name);
        if status.code() == Some(i32::from(UNAVAILABLE)) {
            return Failure::Unavailable(format!(
                "{text}. If another demo is running, `peerage demo --shift 100` uses other ports"
            ));
        }
        Failure::Internal(std::io::Error::other(text))
    }

    async fn end(&mut self) {
        drop(self.child.stdin.take());
        if tokio::time::timeout(END_TIMEOUT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("peerage"))
}

/// Returns a path relative to the current folder, if it lies there.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

/// Copies lines to standard error, each after `name`.
async fn prefix(lines: impl AsyncRead + Unpin, name: String) {
    let mut lines = BufReader::new(lines).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let _ = writeln!(std::io::stderr(), "{name}{line}");
    }
}
