//! Common clients on the demo's site: curl, wget, Python's http.client and a browser.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use peerage::config::CertificateConfig;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::{Cluster, TestEdge, pattern, single_edge, within};
use crate::origin::{Origin, Script};
use crate::process::{Process, line_with};
use crate::programs::require;
use crate::tls::pki::Ca;

use browser::Browser;

mod browser;

const PHOTO: &str = "/photo-59a1930b1c4284a8.png";
const STYLE: &str = "/style-b42d312740cc2ba0.css";
/// Larger than a chunk in memory, and than any client's buffer.
const FILM: &str = "/film-0492830483.bin";
const FILM_LENGTH: usize = 1_000_000;

/// The demo's site.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/static-origin");

fn demo_files() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(DEMO).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
}

/// The demo's site plus a large file, served by a development origin.
struct Site {
    folder: tempfile::TempDir,
    origin: Process,
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = folder.path().join("site");
        std::fs::create_dir(&site).unwrap();
        for name in demo_files() {
            std::fs::copy(Path::new(DEMO).join(&name), site.join(&name)).unwrap();
        }
        std::fs::write(site.join(&FILM[1..]), pattern(FILM_LENGTH)).unwrap();
        let origin = Process::origin(folder.path(), &site).await;
        Self { folder, origin }
    }

    /// Returns the path of a file that a client may write.
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn bytes(&self, path: &str) -> Bytes {
        std::fs::read(self.file("site").join(&path[1..])).unwrap().into()
    }

    /// Returns the method and target of each request that reached the origin.
    fn asked(&self) -> Vec<String> {
        let lines = std::fs::read_to_string(&self.origin.out).unwrap();
        let words = lines.lines().filter_map(|line| line.split_once("Z origin "));
        words.map(|(_, line)| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    }
}

/// The site behind three edges.
struct Stage {
    site: Site,
    cluster: Cluster,
}

/// The edge of each visit, and the start of its Cache-Status: a miss, a hit, at another edge a
/// fetch from the first (unless it owns the asset), and a hit there.
const VISITS: [(usize, &str); 4] = [(0, ";fwd=uri-miss"), (0, ";hit"), (1, ";"), (1, ";hit")];

impl Stage {
    async fn start() -> Self {
        let site = Site::start().await;
        let cluster = Cluster::in_front_of(3, &site.origin.url(), |_| {}).await;
        Self { site, cluster }
    }

    /// Returns the edge of a visit once the fills of earlier visits have ended.
    async fn edge(&self, number: usize) -> &TestEdge {
        for edge in &self.cluster.edges {
            edge.metric_becomes("peerage_flights", 0.0).await;
        }
        &self.cluster.edges[number]
    }

    /// Checks that all visits together cost one origin fetch.
    fn assert_one_fetch(&self, path: &str) {
        assert_eq!(self.site.asked(), [format!("GET {path}")]);
    }
}

/// Returns a browser that runs with this profile. Fails the test if none does.
async fn installed_browser(profile: &Path) -> &'static str {
    let programs = ["chromium", "chromium-browser", "google-chrome"];
    for program in programs {
        let mut command = Command::new(program);
        command.args(browser::flags(profile)).args(["--dump-dom", "about:blank"]);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        if let Ok(Ok(output)) = timeout(Duration::from_mins(1), output).await
            && output.status.success()
        {
            return program;
        }
    }
    panic!("none of {programs:?} can be run: install Debian's package {}", programs[0]);
}

/// Runs a client to its end.
async fn run(command: &mut Command) -> Output {
    within(60, command.kill_on_drop(true).stdin(Stdio::null()).output()).await.unwrap()
}

/// A response as curl reports it.
struct Curled {
    status: String,
    /// Bytes of the body.
    downloaded: usize,
    head: String,
}

impl Curled {
    fn header(&self, name: &str) -> &str {
        header(&self.head, name)
    }

    /// Checks how the Cache-Status member of the edge that answered (the last one) continues.
    fn assert_status_continues(&self, status: &str) {
        let member = self.header("cache-status").rsplit(", ").next().unwrap();
        assert!(
            member.starts_with("edge-") && member["edge-1".len()..].starts_with(status),
            "{member} is not {status}"
        );
    }
}

/// Downloads `path` into `file` with curl; `options` are separated by blanks.
async fn curl(server: SocketAddr, path: &str, file: &Path, options: &str) -> Curled {
    let head = file.with_extension("head");
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "--noproxy", "*", "-w", "%{size_download}"]);
    command.arg("-D").arg(&head).arg("-o").arg(file).args(options.split_whitespace());
    let output = run(command.arg(format!("http://{server}{path}"))).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {options} {path}: {}: {errors}", output.status);
    // Not curl's own status: it reports a 304 for a response that is no newer.
    let head = std::fs::read_to_string(head).unwrap();
    let status = head.lines().rfind(|line| line.starts_with("HTTP/")).and_then(|line| line.split(' ').nth(1));
    let downloaded = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    Curled { status: status.unwrap().to_owned(), downloaded, head }
}

/// Leaves half of `whole` in `file`, as an interrupted download does.
fn truncated(file: &Path, whole: &Bytes) {
    std::fs::write(file, &whole[..whole.len() / 2]).unwrap();
}

fn assert_holds(file: &Path, whole: &Bytes) {
    let held = std::fs::read(file).unwrap();
    assert!(held == *whole, "{} of {} bytes, or wrong ones", held.len(), whole.len());
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_resumes_a_download_through_each_edge() {
    require(&["curl"]);
    let stage = Stage::start().await;
    let (file, film) = (stage.site.file("film"), stage.site.bytes(FILM));
    for (number, status) in VISITS {
        truncated(&file, &film);
        let got = curl(stage.edge(number).await.clients, FILM, &file, "-C -").await;
        assert_eq!((&*got.status, got.downloaded), ("206", FILM_LENGTH / 2));
        got.assert_status_continues(status);
        assert_holds(&file, &film);
    }
    stage.assert_one_fetch(FILM);
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_gets_several_ranges_as_multipart() {
    require(&["curl"]);
    let stage = Stage::start().await;
    let (file, photo) = (stage.site.file("parts"), stage.site.bytes(PHOTO));
    let length = photo.len();
    for (number, status) in VISITS {
        let edge = stage.edge(number).await.clients;
        let got = curl(edge, PHOTO, &file, "--range 0-3,3008-3011").await;
        got.assert_status_continues(status);
        let body = std::fs::read(&file).unwrap();
        assert_eq!((&*got.status, got.downloaded), ("206", body.len()));
        let boundary = got.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
        let expected = [("0-3", photo.slice(..4)), ("3008-3011", photo.slice(3008..3012))];
        let expected =
            expected.map(|(range, bytes)| (format!("bytes {range}/{length}"), "image/png".to_owned(), bytes));
        assert_eq!(parts(&body, boundary), expected);
        // The gap is smaller than the head of a part would be.
        let got = curl(edge, PHOTO, &file, "--range 0-3,8-11").await;
        assert_eq!((&*got.status, got.header("content-range")), ("206", &*format!("bytes 0-11/{length}")));
        assert_holds(&file, &photo.slice(..12));
    }
    stage.assert_one_fetch(PHOTO);
}

/// Returns the parts of a multipart body: Content-Range, Content-Type, bytes.
fn parts(body: &[u8], boundary: &str) -> Vec<(String, String, Bytes)> {
    // The first delimiter may come without a line break before it.
    let body = [b"\r\n", body].concat();
    let pieces = split(&body, format!("\r\n--{boundary}").as_bytes());
    let [_, parts @ .., b"--\r\n"] = &pieces[..] else { panic!("no closing delimiter: {pieces:?}") };
    let part = |part: &&[u8]| {
        // The requested bytes contain no empty line.
        let [head, content] = &split(part, b"\r\n\r\n")[..] else { panic!("malformed part {part:?}") };
        let head = std::str::from_utf8(head).unwrap();
        (header(head, "content-range").to_owned(), header(head, "content-type").to_owned(), content.to_vec().into())
    };
    parts.iter().map(part).collect()
}

/// Returns the value of a header in a head.
fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find_map(|(field, value)| field.eq_ignore_ascii_case(name).then_some(value)).unwrap_or_default()
}

fn split<'a>(mut text: &'a [u8], at: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while let Some(place) = text.windows(at.len()).position(|window| window == at) {
        pieces.push(&text[..place]);
        text = &text[place + at.len()..];
    }
    pieces.push(text);
    pieces
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_gets_304_for_a_copy_that_is_current() {
    require(&["curl"]);
    let stage = Stage::start().await;
    let (copy, other, photo) = (stage.site.file("copy"), stage.site.file("other"), stage.site.bytes(PHOTO));
    // Directly from the origin, so that the copy has the date of the original.
    let got = curl(stage.site.origin.clients, PHOTO, &copy, "--remote-time").await;
    assert!(!got.header("last-modified").is_empty());
    for (number, status) in VISITS {
        let edge = stage.edge(number).await.clients;
        let got = curl(edge, PHOTO, &other, &format!("-z {}", copy.display())).await;
        assert_eq!((&*got.status, got.downloaded), ("304", 0));
        got.assert_status_continues(status);
        let got = curl(edge, PHOTO, &other, "-z 2001-01-01").await;
        assert_eq!((&*got.status, got.downloaded), ("200", photo.len()));
        assert_holds(&other, &photo);
    }
    assert_eq!(stage.site.asked().len(), 2, "one by this test, one by the edges");
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_gets_the_same_body_over_every_http_version() {
    require(&["curl"]);
    let known = run(Command::new("curl").args(["-q", "--version"])).await;
    let supports_http2 = String::from_utf8_lossy(&known.stdout).contains("HTTP2");
    assert!(supports_http2, "this curl has no HTTP/2: install Debian's package curl");
    for (option, version) in [("--http1.0", "1.0"), ("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        let stage = Stage::start().await;
        let (file, film) = (stage.site.file("film"), stage.site.bytes(FILM));
        for (number, status) in VISITS {
            let got = curl(stage.edge(number).await.clients, FILM, &file, option).await;
            assert!(got.head.starts_with(&format!("HTTP/{version} 200")), "{option}: {}", got.head);
            assert_eq!(got.downloaded, FILM_LENGTH);
            got.assert_status_continues(status);
            assert_holds(&file, &film);
        }
        stage.assert_one_fetch(FILM);
    }
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_gets_no_chunked_coding_over_http_1_0() {
    require(&["curl"]);
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start().await;
    let words = pattern(100_000);
    origin.script("*", Script::ok(words.clone()).chunked());
    let edge = single_edge(&origin, |_| {}).await;
    let file = folder.path().join("words");
    // The first response is stored, the second passes through.
    for path in [FILM, "/words"] {
        let got = curl(edge.clients, path, &file, "--http1.0").await;
        assert_eq!((&*got.status, got.header("transfer-encoding")), ("200", ""));
        assert_holds(&file, &words);
    }
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_head_request_gets_headers_without_a_body() {
    require(&["curl"]);
    let stage = Stage::start().await;
    let (head, film) = (stage.site.file("head-of-film"), stage.site.file("film"));
    for (number, status) in [(0, ";hit"), (1, ";hit")] {
        curl(stage.edge(number).await.clients, FILM, &film, "").await;
        let got = curl(stage.edge(number).await.clients, FILM, &head, "-I").await;
        assert_eq!((&*got.status, got.downloaded), ("200", 0));
        assert_eq!(got.header("content-length"), FILM_LENGTH.to_string());
        assert_eq!(got.header("cache-control"), "public, max-age=31536000, immutable");
        got.assert_status_continues(status);
    }
    stage.assert_one_fetch(FILM);
}

/// gzip of "the words of a page\n" three times.
const PACKED: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x2b, 0xc9, 0x48, 0x55, 0x28, 0xcf, 0x2f, 0x4a, 0x29,
    0x56, 0xc8, 0x4f, 0x53, 0x48, 0x54, 0x28, 0x48, 0x4c, 0x4f, 0xe5, 0x2a, 0x21, 0x52, 0x0c, 0x00, 0xbd, 0xee, 0xee,
    0x37, 0x3c, 0x00, 0x00, 0x00,
];

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_decodes_a_stored_gzip_response() {
    require(&["curl"]);
    let words = Bytes::from("the words of a page\n".repeat(3));
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start().await;
    let packed = Script::ok(PACKED).header("content-encoding", "gzip").header("vary", "accept-encoding");
    origin.script("/words", packed.header("cache-control", "max-age=600"));
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    let file = folder.path().join("words");
    for (number, status) in VISITS {
        let got = curl(cluster.edges[number].clients, "/words", &file, "--compressed").await;
        assert_eq!((&*got.status, got.downloaded), ("200", PACKED.len()));
        got.assert_status_continues(status);
        assert_holds(&file, &words);
    }
    assert_eq!(origin.count("/words"), 1);
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_upload_gets_100_continue() {
    require(&["curl"]);
    let stage = Stage::start().await;
    let (answer, film) = (stage.site.file("answer"), stage.site.file("site").join(&FILM[1..]));
    let edge = stage.edge(0).await.clients;
    // Without 100 Continue, curl would wait for longer than the test does.
    let options = format!("-T {} -H Expect:100-continue --expect100-timeout 600", film.display());
    let got = curl(edge, "/new/copy-0492830483.bin", &answer, &options).await;
    assert_eq!(got.status, "201");
    assert!(got.head.starts_with("HTTP/1.1 100 Continue\r\n"), "{}", got.head);
    assert_holds(&stage.site.file("site/new/copy-0492830483.bin"), &pattern(FILM_LENGTH));
}

#[tokio::test]
#[ignore = "needs wget"]
async fn wget_resumes_a_download_and_gets_416_for_a_complete_file() {
    require(&["wget"]);
    let stage = Stage::start().await;
    let (file, film) = (stage.site.file(&FILM[1..]), stage.site.bytes(FILM));
    for (number, _) in VISITS {
        truncated(&file, &film);
        let edge = stage.edge(number).await.clients;
        let output = wget(edge, stage.site.folder.path()).await;
        assert!(output.contains("HTTP/1.1 206 Partial Content"), "{output}");
        assert_holds(&file, &film);
        // The file is complete, so wget requests the bytes behind its end.
        let output = wget(edge, stage.site.folder.path()).await;
        assert!(output.contains("HTTP/1.1 416 Range Not Satisfiable"), "{output}");
        assert_holds(&file, &film);
    }
    stage.assert_one_fetch(FILM);
}

/// Continues wget's download of the film in `folder`, and returns its output.
async fn wget(edge: SocketAddr, folder: &Path) -> String {
    let mut command = Command::new("wget");
    command.args(["--no-config", "--no-proxy", "-t1", "-S", "-c", &format!("http://{edge}{FILM}")]);
    let output = run(command.current_dir(folder).env("LC_ALL", "C")).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {text}", output.status);
    text
}

/// Runs a Python script that fails where an expectation does not hold.
async fn python(script: &str, edge: SocketAddr, arguments: &[&Path]) {
    let mut command = Command::new("python3");
    command.args(["-I", "-c", script, &edge.ip().to_string(), &edge.port().to_string()]).args(arguments);
    let output = run(&mut command).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout == b"done\n", "{}: {errors}", output.status);
}

#[tokio::test]
#[ignore = "needs python3"]
async fn python_client_reuses_one_connection() {
    require(&["python3"]);
    let stage = Stage::start().await;
    for (number, _) in VISITS {
        let edge = stage.edge(number).await.clients;
        let style = stage.site.file("site").join(&STYLE[1..]);
        python(include_str!("clients/keep_alive.py"), edge, &[Path::new(STYLE), &style]).await;
    }
    stage.assert_one_fetch(STYLE);
}

#[tokio::test]
#[ignore = "needs python3"]
async fn python_upload_gets_100_continue() {
    require(&["python3"]);
    let stage = Stage::start().await;
    let edge = stage.edge(0).await.clients;
    python(include_str!("clients/expect_continue.py"), edge, &[]).await;
    assert_eq!(&stage.site.bytes("/note-0492830483.txt")[..], b"the body, sent when asked for");
}

/// The access log of an edge.
struct AccessLog {
    read: usize,
}

impl AccessLog {
    /// Returns the lines since the last call. A request of the test itself marks their end.
    async fn more(&mut self, edge: &Process) -> Vec<Value> {
        let sign = format!("/sign-{}", self.read);
        edge.get(&sign).await;
        line_with(&edge.out, &sign).await;
        let text = std::fs::read_to_string(&edge.out).unwrap();
        let mut lines: Vec<Value> =
            text.lines().skip(self.read).map(|line| serde_json::from_str(line).unwrap()).collect();
        self.read += lines.len();
        lines.retain(|line| line["path"] != *sign);
        lines
    }
}

/// Returns the method, path, status, result and body bytes of a line of the access log.
fn summary(line: &Value) -> (&str, &str, u64, &str, u64) {
    let text = |field: &str| line[field].as_str().unwrap();
    let number = |field: &str| line[field].as_u64().unwrap();
    (text("method"), text("path"), number("status"), text("result"), number("bytes"))
}

/// Checks that the page is rendered: its images, its style, and the output of its script, which
/// shows the Cache-Status of each asset.
async fn assert_rendered(browser: &mut Browser, events: &[Value], assets: &[String], status: &str) {
    assert_eq!(browser::errors(events), Vec::<&Value>::new());
    let lines = browser.value(
        "new Promise(resolve => {
            const list = document.querySelector('output');
            const lines = () => [...list.children].map(line => line.textContent);
            const look = () => list.childElementCount == 4 && resolve(lines().sort());
            new MutationObserver(look).observe(list, { childList: true });
            look();
        })",
    );
    let lines = lines.await;
    for (line, asset) in lines.as_array().unwrap().iter().zip(assets) {
        assert!(line.as_str().unwrap().starts_with(&format!("{asset}: edge-7{status}")), "{lines}");
    }
    let widths = browser.value("[...document.images].map(image => image.naturalWidth)").await;
    let widths: Vec<_> = widths.as_array().unwrap().iter().map(|width| width.as_u64().unwrap()).collect();
    assert!(widths.len() == 2 && !widths.contains(&0), "{widths:?}");
    assert_eq!(browser.value("getComputedStyle(document.body).maxWidth").await, "640px");
}

#[tokio::test]
#[ignore = "needs chromium and certutil"]
async fn browser_that_trusts_the_authority_gets_the_page_by_http2_over_tls() {
    let profile = tempfile::tempdir().unwrap();
    let profile = profile.path();
    let program = installed_browser(profile).await;
    let site = Site::start().await;
    let ca = Ca::new("test authority");
    let folder = site.file("edge");
    std::fs::create_dir(&folder).unwrap();
    let CertificateConfig { chain, key, .. } = ca.issue(&["localhost"]).write(&folder, "localhost");
    let text = format!(
        "[tls]\nlisten = \"127.0.0.1:0\"\n[[tls.certificate]]\nchain = {chain:?}\nkey = {key:?}\n\
         [[immutable]]\npath = \"/**/*-{{hash}}.*\"\ndigest = \"sha256\"\nlength = 16\n[log]\nformat = \"json\"\n"
    );
    let edge = Process::edge(&folder, &site.origin.url(), &text).await;
    let url = format!("https://localhost:{}/", edge.tls.unwrap().port());

    let mut browser = Browser::start(program, profile).await;
    let events = browser.visit(&url).await;
    assert!(!browser::errors(&events).is_empty(), "the authority is not trusted yet");
    browser.close().await;

    browser::trust(profile, &ca.write(&folder));
    let mut browser = Browser::start(program, profile).await;
    let events = browser.visit(&url).await;
    assert_eq!(browser::errors(&events), Vec::<&Value>::new());
    let protocols = browser::protocols(&events);
    assert!(protocols.len() > 4 && protocols.iter().all(|protocol| *protocol == ("h2", "TLS 1.3")), "{protocols:?}");
    browser.close().await;
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn browser_reload_transfers_no_body_again() {
    let profile = tempfile::tempdir().unwrap();
    let profile = profile.path();
    let program = installed_browser(profile).await;
    let site = Site::start().await;
    let folder = site.file("edge");
    std::fs::create_dir(&folder).unwrap();
    // As in the demo, names prove contents: the page's script requests them with `no-cache`.
    let rule = "[[immutable]]\npath = \"/**/*-{hash}.*\"\ndigest = \"sha256\"\nlength = 16\n";
    let edge = Process::edge(&folder, &site.origin.url(), &format!("[log]\nformat = \"json\"\n{rule}")).await;
    let (url, mut log) = (edge.url().to_string(), AccessLog { read: 0 });
    let mut assets: Vec<_> = demo_files().filter(|name| name != "index.html").map(|name| format!("/{name}")).collect();
    assets.sort();
    let assert_all_come = |lines: &[Value], results: &[&str]| {
        let mut come = Vec::new();
        for (method, path, status, result, bytes) in lines.iter().map(summary) {
            if method == "GET" && path != "/" {
                assert!(status == 200 && results.contains(&result), "{path} {status} {result}");
                come.push((path.to_owned(), bytes));
            }
        }
        come.sort();
        // The browser may request an image for the tab's icon as well.
        come.dedup();
        let length = |asset: &String| site.bytes(asset).len() as u64;
        assert_eq!(come, assets.iter().map(|asset| (asset.clone(), length(asset))).collect::<Vec<_>>());
    };

    // First visit: all assets are transferred.
    let mut browser = Browser::start(program, profile).await;
    let events = browser.visit(&url).await;
    let lines = log.more(&edge).await;
    // The script may be faster than an image: then the image is a hit, or collapsed.
    assert_rendered(&mut browser, &events, &assets, ";").await;
    assert_all_come(&lines, &["miss", "collapsed", "hit"]);
    browser.close().await;

    // Second visit, with a new browser process: no response of the edge has a body, and only
    // the page itself is requested. (The page's script sends HEAD requests.)
    let mut browser = Browser::start(program, profile).await;
    let events = browser.visit(&url).await;
    let lines = log.more(&edge).await;
    assert_rendered(&mut browser, &events, &assets, ";hit;").await;
    assert!(lines.len() >= assets.len(), "{lines:?}");
    for (method, path, status, _, bytes) in lines.iter().map(summary) {
        assert_eq!(bytes, 0, "{method} {path}");
        assert!(method == "HEAD" || (path, status) == ("/", 304), "{method} {path} {status}");
    }
    // The browser may treat the page as fresh, or revalidate it.
    let mut kept = browser::from_browser_cache(&events);
    kept.retain(|path| path != "/");
    assert_eq!(kept, assets);

    // Without the browser's cache all assets are transferred again, from the edge's memory.
    let events = browser.reload_hard().await;
    let lines = log.more(&edge).await;
    assert_rendered(&mut browser, &events, &assets, ";hit;").await;
    assert_all_come(&lines, &["hit"]);
    browser.close().await;

    // In all, the origin received one request for each asset.
    let mut asked = site.asked();
    asked.retain(|request| assets.iter().any(|asset| request.ends_with(asset)));
    asked.sort();
    assert_eq!(asked, assets.iter().map(|asset| format!("GET {asset}")).collect::<Vec<_>>());
}
