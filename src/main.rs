//! The `peerage` binary; [`peerage::cli`] holds the commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    peerage::cli::main()
}
