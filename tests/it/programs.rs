//! Programs that some tests need.
//!
//! Such a test is marked `#[ignore = "needs …"]`, so that `cargo test` reports it as ignored. Run it
//! with `cargo test -- --include-ignored`: a missing program then fails the test.

use std::process::{Command, ExitStatus, Stdio};

/// Debian packages with another name than the program.
const PACKAGES: [(&str, &str); 9] = [
    ("apt-ftparchive", "apt-utils"),
    ("apt-get", "apt"),
    ("aria2c", "aria2"),
    ("dnsmasq", "dnsmasq-base"),
    ("dpkg-deb", "dpkg"),
    ("etcd", "etcd-server"),
    ("nginx", "nginx-light"),
    ("pip", "python3-pip"),
    ("zsyncmake", "zsync"),
];

/// Programs that do not support `--version`, with their own option.
const VERSIONS: [(&str, &str); 4] = [("nginx", "-v"), ("openssl", "version"), ("zsync", "-V"), ("zsyncmake", "-V")];

fn listed(list: &[(&str, &'static str)], program: &str) -> Option<&'static str> {
    list.iter().find(|(name, _)| *name == program).map(|(_, value)| *value)
}

/// Fails the test unless each of `programs` can be run.
pub fn require(programs: &[&str]) {
    for program in programs {
        let mut probe = Command::new(program);
        probe.arg(listed(&VERSIONS, program).unwrap_or("--version"));
        let status = probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let package = listed(&PACKAGES, program).unwrap_or(program);
        let works = status.as_ref().is_ok_and(ExitStatus::success);
        assert!(works, "{program} cannot be run ({status:?}): install Debian's package {package}");
    }
}
