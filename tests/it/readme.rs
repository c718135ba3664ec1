//! The README's commands, run as they stand there; and the example.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_peerage");

/// A shell block, and what it is said to print.
#[derive(Debug, Default)]
struct Step {
    script: String,
    printed: String,
}

fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut block = None;
    for line in readme.lines() {
        match (block, line) {
            (None, "```sh") => {
                steps.push(Step::default());
                block = Some("sh");
            }
            (None, "```text") => block = Some("text"),
            (None, _) if line.starts_with("```") => block = Some("other"),
            (Some(_), "```") => block = None,
            (Some("sh"), _) => steps.last_mut().unwrap().script += &format!("{line}\n"),
            (Some("text"), _) => steps.last_mut().unwrap().printed += &format!("{line}\n"),
            _ => {}
        }
    }
    steps
}

/// Whether `line` is `pattern`, in which `…` stands for anything.
fn is_like(line: &str, pattern: &str) -> bool {
    let mut rest = line;
    let parts: Vec<_> = pattern.split('…').collect();
    for (i, part) in parts.iter().enumerate() {
        let at = if i + 1 == parts.len() && i > 0 { rest.len().checked_sub(part.len()) } else { rest.find(part) };
        match at {
            Some(at) if (i > 0 || at == 0) && rest.is_char_boundary(at) && rest[at..].starts_with(part) => {
                rest = &rest[at + part.len()..];
            }
            _ => return false,
        }
    }
    rest.is_empty()
}

#[test]
fn likeness() {
    assert!(is_like("after 0.31 s", "after 0.… s"));
    assert!(is_like("edge-1;hit;ttl=5", "edge-…;hit;ttl=…"));
    assert!(is_like("same", "same"));
    assert!(!is_like("same as", "same"));
    assert!(!is_like("edge-1;fwd=miss", "edge-…;hit"));
    assert!(!is_like("x after 0.31 s", "after 0.… s"));
}

/// The demo; it ends when this is dropped, for its input does.
struct Demo {
    child: Child,
    _input: ChildStdin,
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the demo on ports that are free, and returns how far they are shifted.
fn start_demo(temporary: &Path) -> (Demo, u16) {
    // Each process begins elsewhere, so that two test runs do not collide.
    // All lie below the ports that the system gives to others.
    let first = u16::try_from(std::process::id() % 100).unwrap() * 100 + 10_000;
    for shift in (0..20).map(|i| first + i * 100) {
        let mut command = Command::new(BINARY);
        command.args(["demo", "--while-input", "--shift", &shift.to_string()]).env("TMPDIR", temporary);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let demo = Demo { _input: child.stdin.take().unwrap(), child };
        let (demo, started) = wait_for_demo(demo);
        if started {
            return (demo, shift);
        }
    }
    panic!("no free ports for the demo");
}

fn wait_for_demo(mut demo: Demo) -> (Demo, bool) {
    let mut lines = BufReader::new(demo.child.stdout.take().unwrap());
    let mut said = String::new();
    while lines.read_line(&mut said).unwrap() > 0 {
        if said.contains("Ctrl-C ends all") {
            // Go on reading, so that nobody waits for a full pipe.
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            return (demo, true);
        }
    }
    assert_eq!(demo.child.wait().unwrap().code(), Some(69), "{said}");
    (demo, false)
}

#[test]
fn the_readmes_commands_do_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let steps = steps(&readme);
    assert_eq!(steps[0].script, "cargo run --release -- demo\ncargo test\n");
    let temporary = tempfile::tempdir().unwrap();
    let (_demo, shift) = start_demo(temporary.path());

    let mut script = String::from(
        "set -euo pipefail\n\
         trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n",
    );
    for step in &steps[1..] {
        script += &step.script;
        script += "echo @@\n";
    }
    let mut moved =
        script.replace("target/release/peerage", BINARY).replace("##*700", &format!("##*{}", (7000 + shift) / 10));
    for port in (8001..=8003).chain(9901..=9903).chain([9000]) {
        moved = moved.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{}", port + shift));
    }
    for family in [800, 990] {
        moved = moved.replace(&format!("127.0.0.1:{family}$"), &format!("127.0.0.1:{}$", family + shift / 10));
    }
    let peers: Vec<_> = (7001..=7003).map(|port| format!("\"127.0.0.1:{}\"", port + shift)).collect();
    let output = Command::new("bash")
        .args(["-c", &moved])
        .current_dir(root)
        .env("TMPDIR", temporary.path())
        .env("PEERAGE_CLUSTER__PEERS", format!("[{}]", peers.join(",")))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let mut blocks = printed.split("@@\n");
    for step in &steps[1..] {
        let said = blocks.next().unwrap_or_default();
        let (lines, patterns): (Vec<_>, Vec<_>) =
            (said.lines().filter(|line| !is_log(line)).collect(), step.printed.lines().collect());
        let alike =
            lines.len() == patterns.len() && lines.iter().zip(&patterns).all(|(line, pattern)| is_like(line, pattern));
        assert!(alike, "{}\nprinted\n{said}\nnot\n{}\n{errors}", step.script, step.printed);
    }
    assert!(output.status.success(), "{errors}");
}

/// The lines of the edge that the walk-through starts again.
fn is_log(line: &str) -> bool {
    line.starts_with("20") && line.contains("Z edge-")
}

#[test]
fn demo_does_not_take_a_stranger_for_its_own_edge() {
    let temporary = tempfile::tempdir().unwrap();
    // It accepts connections, and would do so before an edge finds its port taken.
    let stranger = (0..).find_map(|at| {
        let shift = 20_000 + at * 10;
        Some((std::net::TcpListener::bind(("127.0.0.1", 9903 + shift)).ok()?, shift))
    });
    let (_stranger, shift) = stranger.unwrap();
    let mut command = Command::new(BINARY);
    command.args(["demo", "--while-input", "--shift", &shift.to_string()]).env("TMPDIR", temporary.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It would end with it.
    let _input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{told}");
    assert!(!String::from_utf8(output.stdout).unwrap().contains("Ctrl-C ends all"));
    assert!(told.lines().any(|line| line.starts_with("edge-") && line.contains("listen")), "{told}");
}

#[test]
fn the_example_embeds_an_edge() {
    let example = PathBuf::from(BINARY).with_file_name("examples").join("embed");
    assert!(example.exists(), "`cargo test` builds the example; `cargo test --test it` alone does not");
    let mut child = Command::new(example).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let url = line.trim().rsplit(' ').next().unwrap().to_owned();
    for _ in 0..2 {
        let output = Command::new("curl").args(["-s", &format!("{url}/anything")]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "this is /anything\n");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "made /anything\n");
}
