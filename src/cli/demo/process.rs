//! [`Process`]: a child process of the demo.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::cli::failure::{Failure, UNAVAILABLE};

/// Time in which a child must end before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A child process.
pub(super) struct Process {
    pub(super) name: String,
    pub(super) child: Child,
    /// Command that starts the process again.
    pub(super) command: String,
    /// Contains the process id once the child listens.
    pid_file: PathBuf,
    /// Copies the child's standard error, each line with its name.
    errors: JoinHandle<()>,
    pub(super) ended: bool,
}

impl Process {
    pub(super) fn start(name: &str, program: &Path, folder: &Path, arguments: &[String]) -> Result<Self, Failure> {
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
    pub(super) fn listens(&self) -> bool {
        let pid = std::fs::read_to_string(&self.pid_file).ok().and_then(|pid| pid.trim().parse().ok());
        pid.is_some() && pid == self.child.id()
    }

    /// Returns the error for a child that ended before it listened; its own error is printed
    /// above.
    pub(super) async fn did_not_start(&mut self, status: ExitStatus) -> Failure {
        let _ = (&mut self.errors).await;
        let text = format!("{} did not start ({status}); its error is above", self.name);
        if status.code() == Some(i32::from(UNAVAILABLE)) {
            return Failure::Unavailable(format!(
                "{text}. If another demo is running, `peerage demo --shift 100` uses other ports"
            ));
        }
        Failure::Internal(std::io::Error::other(text))
    }

    pub(super) async fn end(&mut self) {
        drop(self.child.stdin.take());
        if tokio::time::timeout(END_TIMEOUT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// Returns a path relative to the current folder, if it lies there.
pub(super) fn shown(path: &Path) -> String {
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
