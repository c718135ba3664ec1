//! A server in a process of its own, which ends with its handle.

use std::io::{BufRead, BufReader};
use std::process::{Child as Process, Command, Stdio};
use std::time::Duration;

use super::spent::spent;

pub struct Child(Process);

impl Child {
    /// Starts `command`, and waits for the line that it prints when it listens.
    pub fn start(mut command: Command) -> (Self, String) {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (Self(process), line.trim().to_owned())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Returns its CPU time.
    pub fn cpu(&self) -> Duration {
        spent(self.id())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
