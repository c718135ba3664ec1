//! The process of a command: its runtime, its pid file, standard input and output.

use std::io::{self, Write};
use std::path::Path;

use super::failure::Failure;

/// Writes the process id to `file`, if there is one. The file exists once the process
/// listens.
pub(super) fn write_pid(file: Option<&Path>) -> Result<(), Failure> {
    let Some(file) = file else {
        return Ok(());
    };
    std::fs::write(file, format!("{}\n", std::process::id())).map_err(|error| {
        Failure::Usage(format!("cannot write --pid-file {}: {error}; name a file in a writable folder", file.display()))
    })
}

/// Prints the result of a command. A closed pipe (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Resolves when standard input ends. A child process must not outlive its parent, which
/// holds the other end.
pub(super) async fn input_ends() {
    use tokio::io::AsyncReadExt;
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 64];
    while matches!(input.read(&mut ignored).await, Ok(read) if read > 0) {}
}

/// Builds a tokio runtime with `threads` worker threads; 0 is one for each core.
pub(super) fn runtime(threads: usize) -> io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}
