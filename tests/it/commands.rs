//! The binary: arguments, exit codes, signals, logs.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::request;
use crate::harness::{join_all, pattern, within};
use crate::origin::{Gate, Origin, Script};
use crate::process::{BINARY, Process, Signal, free_ports, line_with, send_signal};

fn peerage(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.output().unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn validate_reports_success_or_the_invalid_key() {
    let folder = folder();
    let file = folder.path().join("config.toml");
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
    std::fs::copy(repository, &file).unwrap();
    let good = peerage(folder.path(), &["validate"]);
    assert_eq!(good.status.code(), Some(0));
    assert!(String::from_utf8(good.stdout).unwrap().starts_with("good: edge-1"));
    for (arguments, told) in [
        (&["validate", "--set", "cache.memroy=1"][..], "cache.memory"),
        (&["validate", "--set", "cache.memory=64MiB", "--set", "cache.max_object=64MiB"], "cache.max_object"),
        (&["validate", "--set", "edge.drain=30"], "edge.drain"),
        (&["validate", "--set", "nonsense"], "key=value"),
        (&["validate", "--config", "nowhere.toml"], "nowhere.toml"),
        (&["run", "--set", "origin.url=ftp://x"], "origin.url"),
        (&["owner", "/a%00b"], "/a%00b"),
        (&["owner", "ftp://a.example/x"], "neither http nor https"),
        (&["route", "http://user:password@a.example/x"], "valid host"),
        (&["owner"], "PATH"),
        (&["frobnicate"], "frobnicate"),
        (&["origin", "nowhere"], "nowhere"),
        (&["origin", ".", "--delay", "300"], "300"),
    ] {
        let bad = peerage(folder.path(), arguments);
        let text = String::from_utf8(bad.stderr).unwrap();
        assert_eq!(bad.status.code(), Some(64), "{arguments:?}: {text}");
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
    std::fs::write(&file, "[edge\n").unwrap();
    let broken = peerage(folder.path(), &["validate"]);
    let text = String::from_utf8(broken.stderr).unwrap();
    assert_eq!((broken.status.code(), text.lines().count()), (Some(64), 1), "{text}");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(peerage(folder.path(), &["run"]).status.code(), Some(64));
}

#[test]
fn configuration_without_an_origin_is_rejected_and_the_environment_can_set_it() {
    let folder = folder();
    std::fs::write(folder.path().join("config.toml"), "[edge]\nname = \"edge-9\"\n").unwrap();
    for command in ["run", "validate"] {
        let refused = peerage(folder.path(), &[command]);
        let told = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(64), "{told}");
        assert!(told.contains("missing value for origin.url") && told.contains("PEERAGE_ORIGIN__URL"), "{told}");
    }
    let mut named = Command::new(BINARY);
    named.arg("validate").current_dir(folder.path()).env("PEERAGE_ORIGIN__URL", "http://127.0.0.1:9");
    assert_eq!(named.output().unwrap().status.code(), Some(0));
    // `owner` contacts no origin, so it needs none.
    assert_eq!(peerage(folder.path(), &["owner", "--set", "cluster.gossip=true", "/a"]).status.code(), Some(0));
}

#[test]
fn help_and_version_exit_with_0() {
    let folder = folder();
    for argument in ["--help", "--version"] {
        let output = peerage(folder.path(), &[argument]);
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn owner_prints_the_rank_of_each_path() {
    let output = peerage(Path::new(env!("CARGO_MANIFEST_DIR")), &["owner", "/logo-0492830483.png", "/a b"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "/logo-0492830483.png 127.0.0.1:7002 127.0.0.1:7001 127.0.0.1:7003");
    assert!(lines[1].starts_with("/a%20b 127.0.0.1:70"));
}

#[test]
fn owner_and_validate_use_discovery() {
    let folder = folder();
    let discover = format!("[cluster]\ndiscover = \"file:{}\"\n", folder.path().join("peers").display());
    std::fs::write(folder.path().join("config.toml"), discover).unwrap();
    let output = peerage(folder.path(), &["validate", "--set", "origin.url=http://127.0.0.1:9"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("peers by file:/"));
    let owner = || peerage(folder.path(), &["owner", "/logo-0492830483.png"]);
    let output = owner();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cluster.discover: cannot read the file"));
    std::fs::write(folder.path().join("peers"), "127.0.0.1:7003\n127.0.0.1:7001\n").unwrap();
    let text = String::from_utf8(owner().stdout).unwrap();
    assert_eq!(text, "/logo-0492830483.png 127.0.0.1:7001 127.0.0.1:7003\n");
}

#[tokio::test]
async fn port_in_use_is_reported_with_its_configuration_key() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    std::fs::write(folder.path().join("config.toml"), "[edge]\nlisten = \"127.0.0.1:0\"\n").unwrap();
    let output = peerage(
        folder.path(),
        &["run", "--set", "origin.url=http://127.0.0.1:9", "--set", &format!("admin.listen={address}")],
    );
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(text.contains("admin.listen") && text.contains(&address.to_string()), "{text}");
    let output = peerage(folder.path(), &["origin", ".", "--listen", &address.to_string()]);
    assert_eq!(output.status.code(), Some(69));
}

#[tokio::test]
async fn sigterm_drains_and_logs_each_request() {
    let folder = folder();
    let origin = Origin::start().await;
    let gate = Gate::closed();
    let path = "/logo-0492830483.png";
    origin.script(path, Script::ok(pattern(1000)).hold_body(&gate));
    let mut edge = Process::edge(folder.path(), &origin.url(), "[log]\nformat = \"json\"\n").await;
    gate.open(10);
    let mut open = request(edge.clients, Method::GET, path).open().await;
    open.read_at_least(10).await;
    edge.signal(Signal::TERM);
    line_with(&folder.path().join("err"), "draining").await;
    gate.open(1000);
    assert!(open.rest().await.complete);
    assert_eq!(edge.exit_code().await, Some(0));
    let line = line_with(&folder.path().join("out"), path).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    for (field, value) in [
        ("edge", "edge-7".into()),
        ("source", "client".into()),
        ("method", "GET".into()),
        ("path", path.into()),
        ("status", 200.into()),
        ("result", "miss".into()),
        ("from", "origin".into()),
        ("bytes", 1000.into()),
        ("complete", serde_json::Value::Bool(true)),
    ] {
        assert_eq!(line[field], value, "{field} of {line}");
    }
    assert!(line["total_ms"].as_f64().unwrap() >= line["first_byte_ms"].as_f64().unwrap());
}

#[tokio::test]
async fn low_file_limit_lowers_default_connections_silently_and_configured_ones_with_a_warning() {
    let origin = Origin::start().await;
    for (limits, warns) in [("", false), ("[limits]\nconnections = 20000\n", true)] {
        let folder = folder();
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 1024; exec \"$0\" \"$@\"", BINARY]);
        let text = format!(
            "[edge]\nlisten = \"127.0.0.1:0\"\n[origin]\nurl = \"{}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n{limits}",
            origin.url()
        );
        let _edge = Process::run(command, folder.path(), &text).await;
        let told = line_with(&folder.path().join("err"), "limits.connections").await;
        assert!(told.contains("\"connections\":512") && told.contains("WARN") == warns, "{told}");
    }
}

#[tokio::test]
async fn access_log_line_has_the_request_and_the_reason_for_not_storing_its_response() {
    let (folder, origin) = (folder(), Origin::start().await);
    origin.script("/private", Script::ok("mine").header("cache-control", "private"));
    origin.script("/shared", Script::ok("ours").header("cache-control", "max-age=60"));
    let edge = Process::edge(folder.path(), &origin.url(), "[log]\nformat = \"json\"\n").await;
    // The fast path answers the third request.
    for (path, id) in [("/private", "a-1"), ("/shared", "a-2"), ("/shared", "a-3")] {
        request(edge.clients, Method::GET, path)
            .header("user-agent", "probe/1")
            .header("x-request-id", id)
            .send()
            .await;
    }
    request(edge.clients, Method::GET, "/none").header("cache-control", "only-if-cached").send().await;
    request(edge.clients, Method::GET, "/private").header("x-request-id", "a-4").send().await;
    request(edge.clients, Method::POST, "/private").header("x-request-id", "a-5").send().await;
    request(edge.clients, Method::GET, "/unknown").header("x-tenant", "t").header("x-request-id", "a-6").send().await;
    for (part, told) in [
        ("a-1", serde_json::json!({"result": "pass", "reason": "private"})),
        ("a-2", serde_json::json!({"result": "miss", "reason": null})),
        ("a-3", serde_json::json!({"result": "hit", "from": "memory"})),
        ("a-4", serde_json::json!({"result": "pass", "reason": "hit-for-miss"})),
        ("a-5", serde_json::json!({"result": "pass", "reason": "method"})),
        ("a-6", serde_json::json!({"result": "pass", "reason": "unknown-header"})),
        ("/none", serde_json::json!({"result": "miss", "status": 504, "error": null, "reason": "not-cached"})),
    ] {
        let line = line_with(&folder.path().join("out"), part).await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        for (field, value) in told.as_object().unwrap() {
            assert_eq!(&line[field], value, "{field} of {line}");
        }
        assert!(line["host"].is_string() && line["timestamp"].is_string(), "{line}");
        assert_eq!(line["protocol"], "HTTP/1.1");
        assert!(!["a-1", "a-2", "a-3"].contains(&part) || line["user_agent"] == "probe/1", "{line}");
    }
}

/// Standard error is a full device once, and a pipe that is never read once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unwritable_or_unread_log_blocks_no_request() {
    for stderr in ["2>/dev/full", ""] {
        let folder = folder();
        let clients = SocketAddr::from(([127, 0, 0, 1], free_ports(1)[0]));
        let text = format!(
            "[edge]\nlisten = \"{clients}\"\n[origin]\nurl = \"http://127.0.0.1:9\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\naccess = false\n"
        );
        std::fs::write(folder.path().join("config.toml"), text).unwrap();
        let shell = format!("exec \"$0\" run --while-input {stderr}");
        let mut command = Command::new("sh");
        command.args(["-c", &shell, BINARY]).current_dir(folder.path());
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        within(20, async { while TcpStream::connect(clients).await.is_err() {} }).await;
        send_signal(&child, Signal::HUP);
        // Each request logs a line of its own, and together they exceed the buffer of a pipe.
        for round in 0..20 {
            let asks = (0..50).map(|i| request(clients, Method::GET, &format!("/{round}-{i}")).send());
            for got in within(20, join_all(asks)).await {
                assert_eq!(got.status, 502);
            }
        }
        send_signal(&child, Signal::TERM);
        let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
        assert_eq!(within(20, ended).await.unwrap().code(), Some(0), "{stderr}");
    }
}

#[tokio::test]
async fn expired_drain_logs_the_requests_that_it_cuts() {
    let folder = folder();
    let origin = Origin::start().await;
    let gate = Gate::closed();
    let path = "/logo-0492830483.png";
    origin.script(path, Script::ok(pattern(1000)).hold_body(&gate));
    let mut command = Command::new(BINARY);
    command.env("PEERAGE_EDGE__DRAIN", "100ms");
    let text = format!(
        "[edge]\nlisten = \"127.0.0.1:0\"\n[origin]\nurl = \"{}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n",
        origin.url()
    );
    let mut edge = Process::run(command, folder.path(), &text).await;
    let open = request(edge.clients, Method::GET, path).open().await;
    edge.signal(Signal::TERM);
    assert_eq!(edge.exit_code().await, Some(0));
    assert!(!open.rest().await.complete);
    let line = line_with(&folder.path().join("out"), path).await;
    assert!(line.contains("\"complete\":false") && line.contains("\"client\":\"127.0.0.1\""), "{line}");
}

#[tokio::test]
async fn second_signal_ends_the_process_at_once() {
    let folder = folder();
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script("*", Script::ok(pattern(1000)).hold_body(&gate));
    let mut edge = Process::edge(folder.path(), &origin.url(), "").await;
    gate.open(10);
    let mut open = request(edge.clients, Method::GET, "/a").open().await;
    open.read_at_least(10).await;
    edge.signal(Signal::INT);
    line_with(&folder.path().join("err"), "draining").await;
    edge.signal(Signal::INT);
    edge.exit_code().await;
}

#[tokio::test]
async fn connection_limit_is_logged_once_when_reached_and_when_left() {
    let (folder, origin) = (folder(), Origin::start().await);
    origin.script("*", Script::ok("x"));
    let edge = Process::edge(folder.path(), &origin.url(), "[limits]\nconnections = 1\n").await;
    let err = folder.path().join("err");
    let held = TcpStream::connect(edge.clients).await.unwrap();
    for _ in 0..3 {
        let mut refused = TcpStream::connect(edge.clients).await.unwrap();
        assert!(!matches!(within(20, refused.read(&mut [0])).await, Ok(1..)));
    }
    line_with(&err, "limits.connections reached, rejecting connections").await;
    drop(held);
    let let_in = async { while request(edge.clients, Method::GET, "/a").try_open().await.is_err() {} };
    within(20, let_in).await;
    line_with(&err, "below limits.connections again").await;
    let told = std::fs::read_to_string(&err).unwrap();
    assert_eq!(told.matches("limits.connections reached").count(), 1, "{told}");
}

#[tokio::test]
async fn tls_on_the_cleartext_port_is_logged_once_in_a_period_and_counted() {
    let (folder, origin) = (folder(), Origin::start().await);
    let mut edge = Process::edge(folder.path(), &origin.url(), "[log]\nrepeat = \"1h\"\n").await;
    for _ in 0..5 {
        let mut client = TcpStream::connect(edge.clients).await.unwrap();
        client.write_all(&[0x16, 3, 1, 0, 4, 1, 0, 0, 0]).await.unwrap();
        let mut answer = Vec::new();
        let _ = within(20, client.read_to_end(&mut answer)).await;
    }
    let err = folder.path().join("err");
    line_with(&err, "TLS handshake on a cleartext port").await;
    edge.signal(Signal::TERM);
    edge.exit_code().await;
    let told = std::fs::read_to_string(&err).unwrap();
    let written = told.lines().filter(|line| line.contains("\"message\":\"TLS handshake")).count();
    assert_eq!(written, 1, "{told}");
    let counted = told.lines().find(|line| line.contains("log lines suppressed")).expect(&told);
    assert!(counted.contains("TLS handshake") && counted.contains("\"count\":4"), "{counted}");
}

#[tokio::test]
async fn sighup_reloads_and_an_invalid_file_changes_nothing() {
    let folder = folder();
    let (first, second) = (Origin::start().await, Origin::start().await);
    first.script("*", Script::ok("first"));
    second.script("*", Script::ok("second"));
    let edge = Process::edge(folder.path(), &first.url(), "").await;
    assert_eq!(edge.get("/a").await.text(), "first");
    let file = folder.path().join("edge.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let mut open = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    open.write_all(b"[cache]\nmemroy = 1\n").unwrap();
    edge.signal(Signal::HUP);
    let told = line_with(&folder.path().join("err"), "configuration rejected").await;
    assert!(told.contains("cache.memory"), "{told}");
    assert_eq!(edge.get("/a").await.text(), "first");
    std::fs::write(&file, "").unwrap();
    edge.signal(Signal::HUP);
    line_with(&folder.path().join("err"), "missing value for origin.url").await;
    assert_eq!(edge.get("/b").await.text(), "first");
    let changed = good.replace(&first.url().to_string(), &second.url().to_string());
    std::fs::write(&file, changed + "[limits]\nstreams = 7\n").unwrap();
    edge.signal(Signal::HUP);
    let told = line_with(&folder.path().join("err"), "need a restart").await;
    assert!(told.contains("[limits]"), "{told}");
    assert_eq!(edge.get("/a").await.text(), "second");
}

#[tokio::test]
async fn development_origin_serves_after_its_output_is_closed() {
    let folder = folder();
    std::fs::write(folder.path().join("a"), "x").unwrap();
    let mut command = Command::new(BINARY);
    command.arg("origin").arg(folder.path()).args(["--while-input", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().rsplit("http://").next().unwrap().parse().unwrap();
    for _ in 0..2 {
        assert_eq!(within(20, request(address, Method::GET, "/a").send()).await.text(), "x");
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn development_origin_serves_a_folder_and_accepts_put() {
    let folder = folder();
    let site = folder.path().join("site");
    std::fs::create_dir(&site).unwrap();
    std::fs::write(site.join("logo-0492830483.png"), pattern(1000)).unwrap();
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(folder.path().join("secret"), site.join("link")).unwrap();
    let process = Process::origin(folder.path(), &site).await;
    let address = process.clients;

    let logo = process.get("/logo-0492830483.png").await;
    assert_eq!((logo.header("content-type"), &logo.body), ("image/png", &pattern(1000)));
    assert_eq!(logo.header("cache-control"), "public, max-age=31536000, immutable");
    let tag = logo.header("etag").to_owned();
    assert!(tag.starts_with('"'));
    let get = |path| request(address, Method::GET, path);
    assert_eq!(get("/logo-0492830483.png").header("if-none-match", &tag).send().await.status, 304);
    let part = get("/logo-0492830483.png").header("range", "bytes=990-").header("if-range", &tag).send().await;
    assert_eq!((part.status.as_u16(), part.body), (206, pattern(1000).slice(990..)));
    for path in ["/../secret", "/%2e%2e/secret", "/link", "/none", "/"] {
        assert!(process.get(path).await.status.is_client_error(), "{path}");
    }
    let put = |path| request(address, Method::PUT, path).body("new");
    // A killed process may have left this file.
    std::fs::write(site.join(".b.0.part"), "part").unwrap();
    assert_eq!(put("/b").send().await.status, 201);
    assert_eq!(put("/a/b%20c-0492830483.txt").send().await.status, 201);
    assert_eq!(std::fs::read(site.join("a/b c-0492830483.txt")).unwrap(), b"new");
    assert_eq!(put("/logo-0492830483.png").send().await.status, 204);
    assert_ne!(process.get("/logo-0492830483.png").await.header("etag"), tag);
    assert_eq!(request(address, Method::DELETE, "/logo-0492830483.png").send().await.status, 405);
}

#[test]
fn demo_site_is_named_by_its_contents() {
    use sha2::{Digest, Sha256};
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("static-origin");
    let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
    let mut hashed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some((_, rest)) = name.rsplit_once('-') else {
            continue;
        };
        let digest = Sha256::digest(std::fs::read(&path).unwrap());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(rest.split('.').next().unwrap(), &hex[..16], "{name}");
        assert!(page.contains(&name), "the page does not use {name}");
        hashed += 1;
    }
    assert_eq!(hashed, 4);
}
