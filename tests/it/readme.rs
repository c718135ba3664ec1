//! Runs the README's commands as they are written, and the examples.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use http::Method;

use crate::client::{FullResponse, request};
use crate::programs::require;

const BINARY: &str = env!("CARGO_BIN_EXE_peerage");

/// A shell block and its expected output.
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

/// Returns true if `line` matches `pattern`, in which `…` stands for any text.
fn matches_pattern(line: &str, pattern: &str) -> bool {
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
fn ellipsis_matches_any_text() {
    assert!(matches_pattern("after 0.31 s", "after 0.… s"));
    assert!(matches_pattern("edge-1;hit;ttl=5", "edge-…;hit;ttl=…"));
    assert!(matches_pattern("same", "same"));
    assert!(!matches_pattern("same as", "same"));
    assert!(!matches_pattern("edge-1;fwd=miss", "edge-…;hit"));
    assert!(!matches_pattern("x after 0.31 s", "after 0.… s"));
}

/// The demo. It ends when this is dropped, because its input ends.
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

/// Starts the demo on free ports. Returns the shift of their numbers, and the overview.
fn start_demo(temporary: &Path, options: &[&str]) -> (Demo, u16, String) {
    // The first port depends on the process, so that two test runs do not collide. All ports are
    // below the range that the system assigns by itself.
    let first = u16::try_from(std::process::id() % 100).unwrap() * 100 + 10_000;
    for shift in (0..20).map(|i| first + i * 100) {
        let mut command = Command::new(BINARY);
        command.args(["demo", "--while-input", "--shift", &shift.to_string()]).args(options).env("TMPDIR", temporary);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let demo = Demo { _input: child.stdin.take().unwrap(), child };
        let (demo, overview) = wait_for_demo(demo);
        if let Some(overview) = overview {
            return (demo, shift, overview);
        }
    }
    panic!("no free ports for the demo");
}

/// Returns the overview, or `None` if a port is taken.
fn wait_for_demo(mut demo: Demo) -> (Demo, Option<String>) {
    let mut lines = BufReader::new(demo.child.stdout.take().unwrap());
    let mut said = String::new();
    while lines.read_line(&mut said).unwrap() > 0 {
        if said.contains("Ctrl-C ends all") {
            // Reads on, so that the demo does not wait for a full pipe.
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            return (demo, Some(said));
        }
    }
    assert_eq!(demo.child.wait().unwrap().code(), Some(69), "{said}");
    (demo, None)
}

#[test]
#[ignore = "needs bash, curl and openssl"]
fn readme_commands_print_the_documented_output() {
    require(&["bash", "curl", "openssl"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let steps = steps(&readme);
    assert_eq!(steps[0].script, "cargo run --release -- demo\ncargo test\n");
    let temporary = tempfile::tempdir().unwrap();
    let (_demo, shift, _) = start_demo(temporary.path(), &[]);

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
    for port in (8001..=8003).chain(9901..=9903).chain([8443, 9000, 9904]) {
        moved = moved.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{}", port + shift));
    }
    // That edge is alone: the variable below would give it a cluster, at the default port.
    let alone = format!("{BINARY} run --config /dev/null");
    moved = moved.replace(&alone, &format!("env -u PEERAGE_CLUSTER__PEERS {alone}"));
    moved = moved.replace("localhost:8443", &format!("localhost:{}", 8443 + shift));
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
        let alike = lines.len() == patterns.len()
            && lines.iter().zip(&patterns).all(|(line, pattern)| matches_pattern(line, pattern));
        assert!(alike, "{}\nprinted\n{said}\nnot\n{}\n{errors}", step.script, step.printed);
    }
    assert!(output.status.success(), "{errors}");
}

/// Returns true for a log line of the edge that the walk-through restarts.
fn is_log(line: &str) -> bool {
    line.starts_with("20") && line.contains("Z edge-")
}

#[test]
#[ignore = "needs bash and curl"]
fn demo_with_tls_serves_https_under_an_authority_of_its_own() {
    require(&["bash", "curl"]);
    let temporary = tempfile::tempdir().unwrap();
    let (_demo, shift, overview) = start_demo(temporary.path(), &["--tls"]);
    let run = |line: &str| {
        let output = Command::new("bash").args(["-c", line]).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let lines: Vec<_> = overview.lines().map(str::trim).filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(lines.len(), 3, "{overview}");
    for (line, port) in lines.iter().zip(8501..) {
        assert!(line.contains(&format!("https://localhost:{}/", port + shift)), "{line}");
        let (code, head) = run(line);
        assert!(code == Some(0) && head.starts_with("HTTP/2 200"), "{line}: {code:?} {head}");
        // An authority of the system has not signed the certificate.
        let (before, after) = line.split_once(" --cacert ").unwrap();
        let untrusting = format!("{before} {}", after.split_once(' ').unwrap().1);
        assert_eq!(run(&untrusting).0, Some(60), "{untrusting}");
    }
    // Nothing can be issued by the authority: its key was never written.
    let folder = std::fs::read_dir(temporary.path()).unwrap().next().unwrap().unwrap().path();
    let keys = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let keys: Vec<_> = keys.filter(|name| name.to_string_lossy().ends_with(".key")).collect();
    assert_eq!(keys, ["localhost.key"]);
}

#[test]
fn demo_fails_if_another_server_has_one_of_its_ports() {
    let temporary = tempfile::tempdir().unwrap();
    // It accepts connections, even before an edge finds its port in use.
    let stranger = (0..).find_map(|at| {
        let shift = 20_000 + at * 10;
        Some((std::net::TcpListener::bind(("127.0.0.1", 9903 + shift)).ok()?, shift))
    });
    let (_stranger, shift) = stranger.unwrap();
    let mut command = Command::new(BINARY);
    command.args(["demo", "--while-input", "--shift", &shift.to_string()]).env("TMPDIR", temporary.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The demo would end with its input.
    let _input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{told}");
    assert!(!String::from_utf8(output.stdout).unwrap().contains("Ctrl-C ends all"));
    assert!(told.lines().any(|line| line.starts_with("edge-") && line.contains("listen")), "{told}");
}

/// Returns the command of an example.
fn example(name: &str) -> Command {
    let example = PathBuf::from(BINARY).with_file_name("examples").join(name);
    assert!(example.exists(), "`cargo test` builds the example; `cargo test --test it` alone does not");
    Command::new(example)
}

/// An example that serves HTTP until it is ended.
struct ServingExample {
    child: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl ServingExample {
    fn start(name: &str) -> Self {
        let mut child = example(name).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim().rsplit("http://").next().unwrap().parse().unwrap();
        Self { child, output, address }
    }

    async fn get(&self, target: &str) -> FullResponse {
        request(self.address, Method::GET, target).send().await
    }

    /// Ends the example, and returns the lines after its address.
    fn end(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        rest
    }
}

#[tokio::test]
async fn example_embeds_an_edge() {
    let embed = ServingExample::start("embed");
    for _ in 0..2 {
        assert_eq!(embed.get("/anything").await.text(), "this is /anything\n");
    }
    assert_eq!(embed.end(), "made /anything\n");
}

#[tokio::test]
async fn example_serves_assets_from_an_axum_server() {
    let axum = ServingExample::start("axum");
    assert_eq!(axum.get("/").await.text(), "a page\n");
    for status in ["web-1;fwd=uri-miss;stored", "web-1;hit"] {
        let asset = axum.get("/assets/logo.png").await;
        assert_eq!(asset.text(), "this is /logo.png\n");
        assert!(asset.cache_status().starts_with(status), "{}", asset.cache_status());
        assert_eq!(asset.headers.get_all("date").iter().count(), 1);
    }
    assert_eq!(axum.end(), "made /logo.png\n");
}

#[test]
fn example_changes_the_members() {
    let output = example("membership").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let [.., one, none] = lines[..] else { panic!("{text}") };
    assert_eq!(one, "one member: /d.png, fetched by edge-1");
    assert_eq!(none, "no member: /e.png, fetched by guest");
    let two = &lines[..3];
    assert!(two.iter().all(|line| line.contains("fetched by edge-")), "{text}");
}
