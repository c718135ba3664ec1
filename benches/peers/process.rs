//! A server under test: a process with its descendants, and its folder.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::spent::spent;

pub struct Process {
    child: Child,
    /// The folder of its configuration and storage, which is removed with it.
    folder: TempDir,
    /// The address for clients over HTTP/1.1.
    pub clients: SocketAddr,
    /// The address for clients over cleartext HTTP/2, if the server supports it.
    pub http2: Option<SocketAddr>,
    /// The address for clients over TLS, if the server has a certificate.
    pub tls: Option<SocketAddr>,
}

impl Process {
    /// Starts `command` and waits until it listens.
    pub fn start(mut command: Command, folder: TempDir, clients: SocketAddr, http2: Option<SocketAddr>) -> Self {
        let output = std::fs::File::create(folder.path().join("output")).unwrap();
        let errors = output.try_clone().unwrap();
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().unwrap();
        let mut process = Self { child, folder, clients, http2, tls: None };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(clients).is_err() {
            let ended = process.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                let output = std::fs::read_to_string(process.folder.path().join("output")).unwrap_or_default();
                panic!("{command:?} does not listen at {clients}:\n{output}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        process
    }

    /// Notes the address for clients over TLS.
    pub fn with_tls(mut self, tls: Option<SocketAddr>) -> Self {
        self.tls = tls;
        self
    }

    /// Returns the scheme and the host in cleartext, over HTTP/1.1.
    pub fn site(&self) -> String {
        format!("http://{}", self.clients)
    }

    /// Returns the ids of the process and of all its descendants.
    fn tree(&self) -> Vec<u32> {
        let parents: Vec<_> = std::fs::read_dir("/proc").unwrap().filter_map(|entry| parent(&entry.ok()?)).collect();
        let mut tree = vec![self.child.id()];
        let mut at = 0;
        while at < tree.len() {
            let this = tree[at];
            tree.extend(parents.iter().filter(|(_, parent)| *parent == this).map(|(id, _)| *id));
            at += 1;
        }
        tree
    }

    /// Restricts all of them to one processor, apart from the load. Done after the start, because
    /// Traffic Server chooses its processors when it starts.
    pub fn pin(self) -> Self {
        for id in self.tree() {
            let pinned = Command::new("taskset").args(["-acp", "0", &id.to_string()]).stdout(Stdio::null()).status();
            assert!(pinned.is_ok_and(|status| status.success()), "taskset is needed (Debian's package is util-linux)");
        }
        self
    }

    /// Returns the CPU time of all threads, in user and system mode.
    pub fn cpu(&self) -> Duration {
        self.tree().into_iter().map(spent).sum()
    }

    /// Returns the resident memory of all of them, in bytes.
    pub fn resident(&self) -> u64 {
        let of = |id: u32| {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
        };
        self.tree().into_iter().map(of).sum()
    }

    /// Sends SIGKILL to all of them.
    pub fn kill(&mut self) {
        // The children of a process that is killed first would leave the tree.
        let ids: Vec<_> = self.tree().iter().map(u32::to_string).collect();
        let _ = Command::new("sh").arg("-c").arg(format!("kill -9 {}", ids.join(" "))).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// Returns the ids of a process and of its parent.
fn parent(entry: &std::fs::DirEntry) -> Option<(u32, u32)> {
    let id = entry.file_name().to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
    // The name may hold blanks and parentheses; the state and the parent follow the last one.
    let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
    Some((id, parent))
}

/// Returns loopback addresses at which no process listens.
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    // Bound at the same time, so that all differ.
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap()).collect()
}
