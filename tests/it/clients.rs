//! What people really use: curl, wget, Python's own client and a browser, on
//! the demo's site. A program that is not here is skipped, and said to be.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::{Cluster, Running, alone, pattern, within};
use crate::origin::{Origin, Script};
use crate::process::{Process, line_with};

use browser::Browser;

mod browser;

const PHOTO: &str = "/photo-59a1930b1c4284a8.png";
const STYLE: &str = "/style-b42d312740cc2ba0.css";
/// Larger than a piece of memory, and than any client's buffer.
const FILM: &str = "/film-0492830483.bin";
const FILM_LENGTH: usize = 1_000_000;

/// The demo's site.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/static-origin");

fn demo_files() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(DEMO).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
}

/// The demo's site, and a film, at a development origin.
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

    /// A file that a client may write.
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn bytes(&self, path: &str) -> Bytes {
        std::fs::read(self.file("site").join(&path[1..])).unwrap().into()
    }

    /// The targets of the requests that reached the origin, each with its method.
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

/// Which edge is asked, and what it says to it: it has nothing; it has the
/// asset; another gets it from the first, or owns it; that one has it too.
const VISITS: [(usize, &str); 4] = [(0, ";fwd=uri-miss"), (0, ";hit"), (1, ";"), (1, ";hit")];

impl Stage {
    async fn start() -> Self {
        let site = Site::start().await;
        let cluster = Cluster::before(3, &site.origin.url(), |_| {}).await;
        Self { site, cluster }
    }

    /// The edge of a visit, when what earlier visits began has ended.
    async fn edge(&self, number: usize) -> &Running {
        for edge in &self.cluster.edges {
            edge.metric_becomes("peerage_flights", 0.0).await;
        }
        &self.cluster.edges[number]
    }

    /// After all visits: one fetch was enough.
    fn one_fetch(&self, path: &str) {
        assert_eq!(self.site.asked(), [format!("GET {path}")]);
    }
}

/// The first of `programs` that is here and does what `probe` asks of it; says
/// so if none does.
async fn any_here(programs: &[&'static str], probe: impl IntoIterator<Item = String> + Clone) -> Option<&'static str> {
    for program in programs {
        let mut command = Command::new(program);
        let output = command.args(probe.clone()).stdin(Stdio::null()).kill_on_drop(true).output();
        if let Ok(Ok(output)) = timeout(Duration::from_mins(1), output).await
            && output.status.success()
        {
            return Some(program);
        }
    }
    eprintln!("skipped: no {} here", programs[0]);
    None
}

async fn is_here(program: &'static str) -> bool {
    any_here(&[program], ["--version".to_owned()]).await.is_some()
}

/// Runs a client to its end.
async fn run(command: &mut Command) -> Output {
    within(60, command.kill_on_drop(true).stdin(Stdio::null()).output()).await.unwrap()
}

/// What curl says of an answer.
struct Curled {
    status: String,
    /// Of the body, in bytes.
    downloaded: usize,
    head: String,
}

impl Curled {
    fn field(&self, name: &str) -> &str {
        field(&self.head, name)
    }

    /// Checks how the member of Cache-Status of the edge that was asked, the last, goes on.
    fn says(&self, said: &str) {
        let member = self.field("cache-status").rsplit(", ").next().unwrap();
        assert!(member.starts_with("edge-") && member["edge-1".len()..].starts_with(said), "{member} is not {said}");
    }
}

/// Has curl get `path` into `file`; `options` are words.
async fn curl(server: SocketAddr, path: &str, file: &Path, options: &str) -> Curled {
    let head = file.with_extension("head");
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "--noproxy", "*", "-w", "%{size_download}"]);
    command.arg("-D").arg(&head).arg("-o").arg(file).args(options.split_whitespace());
    let output = run(command.arg(format!("http://{server}{path}"))).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {options} {path}: {}: {errors}", output.status);
    // Not as curl counts: it makes a 304 of an answer that is no newer.
    let head = std::fs::read_to_string(head).unwrap();
    let status = head.lines().rfind(|line| line.starts_with("HTTP/")).and_then(|line| line.split(' ').nth(1));
    let downloaded = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    Curled { status: status.unwrap().to_owned(), downloaded, head }
}

/// Half of `whole`, as a download that broke off leaves it.
fn truncated(file: &Path, whole: &Bytes) {
    std::fs::write(file, &whole[..whole.len() / 2]).unwrap();
}

fn assert_holds(file: &Path, whole: &Bytes) {
    let held = std::fs::read(file).unwrap();
    assert!(held == *whole, "{} of {} bytes, or wrong ones", held.len(), whole.len());
}

#[tokio::test]
async fn curl_resumes() {
    if !is_here("curl").await {
        return;
    }
    let stage = Stage::start().await;
    let (file, film) = (stage.site.file("film"), stage.site.bytes(FILM));
    for (number, said) in VISITS {
        truncated(&file, &film);
        let got = curl(stage.edge(number).await.clients, FILM, &file, "-C -").await;
        assert_eq!((&*got.status, got.downloaded), ("206", FILM_LENGTH / 2));
        got.says(said);
        assert_holds(&file, &film);
    }
    stage.one_fetch(FILM);
}

#[tokio::test]
async fn curl_gets_several_ranges() {
    if !is_here("curl").await {
        return;
    }
    let stage = Stage::start().await;
    let (file, photo) = (stage.site.file("parts"), stage.site.bytes(PHOTO));
    let length = photo.len();
    for (number, said) in VISITS {
        let edge = stage.edge(number).await.clients;
        let got = curl(edge, PHOTO, &file, "--range 0-3,3008-3011").await;
        got.says(said);
        let body = std::fs::read(&file).unwrap();
        assert_eq!((&*got.status, got.downloaded), ("206", body.len()));
        let boundary = got.field("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
        let expected = [("0-3", photo.slice(..4)), ("3008-3011", photo.slice(3008..3012))];
        let expected =
            expected.map(|(range, bytes)| (format!("bytes {range}/{length}"), "image/png".to_owned(), bytes));
        assert_eq!(parts(&body, boundary), expected);
        // What lies between is less than the head of a part would be.
        let got = curl(edge, PHOTO, &file, "--range 0-3,8-11").await;
        assert_eq!((&*got.status, got.field("content-range")), ("206", &*format!("bytes 0-11/{length}")));
        assert_holds(&file, &photo.slice(..12));
    }
    stage.one_fetch(PHOTO);
}

/// The parts of a multipart body: Content-Range, Content-Type, bytes.
fn parts(body: &[u8], boundary: &str) -> Vec<(String, String, Bytes)> {
    // The first delimiter needs no line before it.
    let body = [b"\r\n", body].concat();
    let pieces = split(&body, format!("\r\n--{boundary}").as_bytes());
    let [_, parts @ .., b"--\r\n"] = &pieces[..] else { panic!("it has no end: {pieces:?}") };
    let part = |part: &&[u8]| {
        // No bytes that a test asks for hold an empty line.
        let [head, content] = &split(part, b"\r\n\r\n")[..] else { panic!("{part:?} is no part") };
        let head = std::str::from_utf8(head).unwrap();
        (field(head, "content-range").to_owned(), field(head, "content-type").to_owned(), content.to_vec().into())
    };
    parts.iter().map(part).collect()
}

/// The value of a field in a head.
fn field<'a>(head: &'a str, name: &str) -> &'a str {
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
async fn curl_asks_only_for_what_is_newer() {
    if !is_here("curl").await {
        return;
    }
    let stage = Stage::start().await;
    let (copy, other, photo) = (stage.site.file("copy"), stage.site.file("other"), stage.site.bytes(PHOTO));
    // Past the edges: from then on the copy has the date of the original.
    let got = curl(stage.site.origin.clients, PHOTO, &copy, "--remote-time").await;
    assert!(!got.field("last-modified").is_empty());
    for (number, said) in VISITS {
        let edge = stage.edge(number).await.clients;
        let got = curl(edge, PHOTO, &other, &format!("-z {}", copy.display())).await;
        assert_eq!((&*got.status, got.downloaded), ("304", 0));
        got.says(said);
        let got = curl(edge, PHOTO, &other, "-z 2001-01-01").await;
        assert_eq!((&*got.status, got.downloaded), ("200", photo.len()));
        assert_holds(&other, &photo);
    }
    assert_eq!(stage.site.asked().len(), 2, "one by us, one by the edges");
}

#[tokio::test]
async fn curl_gets_the_same_by_every_version_of_http() {
    if !is_here("curl").await {
        return;
    }
    let known = run(Command::new("curl").args(["-q", "--version"])).await;
    let speaks_http2 = String::from_utf8_lossy(&known.stdout).contains("HTTP2");
    for (option, version) in [("--http1.0", "1.0"), ("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        if version == "2" && !speaks_http2 {
            eprintln!("skipped: this curl speaks no HTTP/2");
            continue;
        }
        let stage = Stage::start().await;
        let (file, film) = (stage.site.file("film"), stage.site.bytes(FILM));
        for (number, said) in VISITS {
            let got = curl(stage.edge(number).await.clients, FILM, &file, option).await;
            assert!(got.head.starts_with(&format!("HTTP/{version} 200")), "{option}: {}", got.head);
            assert_eq!(got.downloaded, FILM_LENGTH);
            got.says(said);
            assert_holds(&file, &film);
        }
        stage.one_fetch(FILM);
    }
}

#[tokio::test]
async fn curl_sees_no_chunks_by_an_old_version_of_http() {
    if !is_here("curl").await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start().await;
    let words = pattern(100_000);
    origin.script("*", Script::ok(words.clone()).chunked());
    let edge = alone(&origin, |_| {}).await;
    let file = folder.path().join("words");
    // The first is stored, the second passes through.
    for path in [FILM, "/words"] {
        let got = curl(edge.clients, path, &file, "--http1.0").await;
        assert_eq!((&*got.status, got.field("transfer-encoding")), ("200", ""));
        assert_holds(&file, &words);
    }
}

#[tokio::test]
async fn curl_gets_the_head_alone() {
    if !is_here("curl").await {
        return;
    }
    let stage = Stage::start().await;
    let (head, film) = (stage.site.file("head-of-film"), stage.site.file("film"));
    for (number, said) in [(0, ";hit"), (1, ";hit")] {
        curl(stage.edge(number).await.clients, FILM, &film, "").await;
        let got = curl(stage.edge(number).await.clients, FILM, &head, "-I").await;
        assert_eq!((&*got.status, got.downloaded), ("200", 0));
        assert_eq!(got.field("content-length"), FILM_LENGTH.to_string());
        assert_eq!(got.field("cache-control"), "public, max-age=31536000, immutable");
        got.says(said);
    }
    stage.one_fetch(FILM);
}

/// gzip of "the words of a page\n" thrice.
const PACKED: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x2b, 0xc9, 0x48, 0x55, 0x28, 0xcf, 0x2f, 0x4a, 0x29,
    0x56, 0xc8, 0x4f, 0x53, 0x48, 0x54, 0x28, 0x48, 0x4c, 0x4f, 0xe5, 0x2a, 0x21, 0x52, 0x0c, 0x00, 0xbd, 0xee, 0xee,
    0x37, 0x3c, 0x00, 0x00, 0x00,
];

#[tokio::test]
async fn curl_unpacks_what_is_packed() {
    if !is_here("curl").await {
        return;
    }
    let words = Bytes::from("the words of a page\n".repeat(3));
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start().await;
    let packed = Script::ok(PACKED).field("content-encoding", "gzip").field("vary", "accept-encoding");
    origin.script("/words", packed.field("cache-control", "max-age=600"));
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    let file = folder.path().join("words");
    for (number, said) in VISITS {
        let got = curl(cluster.edges[number].clients, "/words", &file, "--compressed").await;
        assert_eq!((&*got.status, got.downloaded), ("200", PACKED.len()));
        got.says(said);
        assert_holds(&file, &words);
    }
    assert_eq!(origin.count("/words"), 1);
}

#[tokio::test]
async fn curl_is_told_to_continue() {
    if !is_here("curl").await {
        return;
    }
    let stage = Stage::start().await;
    let (answer, film) = (stage.site.file("answer"), stage.site.file("site").join(&FILM[1..]));
    let edge = stage.edge(0).await.clients;
    // Were it not told, curl would wait for longer than the test does.
    let options = format!("-T {} -H Expect:100-continue --expect100-timeout 600", film.display());
    let got = curl(edge, "/new/copy-0492830483.bin", &answer, &options).await;
    assert_eq!(got.status, "201");
    assert!(got.head.starts_with("HTTP/1.1 100 Continue\r\n"), "{}", got.head);
    assert_holds(&stage.site.file("site/new/copy-0492830483.bin"), &pattern(FILM_LENGTH));
}

#[tokio::test]
async fn wget_resumes() {
    if !is_here("wget").await {
        return;
    }
    let stage = Stage::start().await;
    let (file, film) = (stage.site.file(&FILM[1..]), stage.site.bytes(FILM));
    for (number, _) in VISITS {
        truncated(&file, &film);
        let edge = stage.edge(number).await.clients;
        let said = wget(edge, stage.site.folder.path()).await;
        assert!(said.contains("HTTP/1.1 206 Partial Content"), "{said}");
        assert_holds(&file, &film);
        // It is whole, so wget asks for what lies behind its end.
        let said = wget(edge, stage.site.folder.path()).await;
        assert!(said.contains("HTTP/1.1 416 Range Not Satisfiable"), "{said}");
        assert_holds(&file, &film);
    }
    stage.one_fetch(FILM);
}

/// Has wget go on with the film in `folder`; what it says.
async fn wget(edge: SocketAddr, folder: &Path) -> String {
    let mut command = Command::new("wget");
    command.args(["--no-config", "--no-proxy", "-t1", "-S", "-c", &format!("http://{edge}{FILM}")]);
    let output = run(command.current_dir(folder).env("LC_ALL", "C")).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}

/// Has Python run a script that fails where its expectations do.
async fn python(script: &str, edge: SocketAddr, arguments: &[&Path]) {
    let mut command = Command::new("python3");
    command.args(["-I", "-c", script, &edge.ip().to_string(), &edge.port().to_string()]).args(arguments);
    let output = run(&mut command).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout == b"done\n", "{}: {errors}", output.status);
}

#[tokio::test]
async fn python_keeps_its_connection() {
    if !is_here("python3").await {
        return;
    }
    let stage = Stage::start().await;
    for (number, _) in VISITS {
        let edge = stage.edge(number).await.clients;
        let style = stage.site.file("site").join(&STYLE[1..]);
        python(include_str!("clients/keep_alive.py"), edge, &[Path::new(STYLE), &style]).await;
    }
    stage.one_fetch(STYLE);
}

#[tokio::test]
async fn python_is_told_to_continue() {
    if !is_here("python3").await {
        return;
    }
    let stage = Stage::start().await;
    let edge = stage.edge(0).await.clients;
    python(include_str!("clients/expect_continue.py"), edge, &[]).await;
    assert_eq!(&stage.site.bytes("/note-0492830483.txt")[..], b"the body, sent when asked for");
}

/// The lines that the edge wrote for its clients' requests.
struct AccessLog {
    read: usize,
}

impl AccessLog {
    /// Those since the last time. A request of our own is the sign that they
    /// are all there.
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

/// What a line of the access log says of an answer: method, path, status, what
/// became of it, bytes of its body.
fn summary(line: &Value) -> (&str, &str, u64, &str, u64) {
    let text = |field: &str| line[field].as_str().unwrap();
    let number = |field: &str| line[field].as_u64().unwrap();
    (text("method"), text("path"), number("status"), text("result"), number("bytes"))
}

/// Checks that the page is there as its author meant it: its images, its
/// style, and what its script finds out, which is what the edge says of each asset.
async fn assert_rendered(browser: &mut Browser, events: &[Value], assets: &[String], said: &str) {
    assert_eq!(browser::errors(events), Vec::<&Value>::new());
    let told = browser.value(
        "new Promise(resolve => {
            const list = document.querySelector('output');
            const lines = () => [...list.children].map(line => line.textContent);
            const look = () => list.childElementCount == 4 && resolve(lines().sort());
            new MutationObserver(look).observe(list, { childList: true });
            look();
        })",
    );
    let told = told.await;
    for (line, asset) in told.as_array().unwrap().iter().zip(assets) {
        assert!(line.as_str().unwrap().starts_with(&format!("{asset}: edge-7{said}")), "{told}");
    }
    let widths = browser.value("[...document.images].map(image => image.naturalWidth)").await;
    let widths: Vec<_> = widths.as_array().unwrap().iter().map(|width| width.as_u64().unwrap()).collect();
    assert!(widths.len() == 2 && !widths.contains(&0), "{widths:?}");
    assert_eq!(browser.value("getComputedStyle(document.body).maxWidth").await, "640px");
}

#[tokio::test]
async fn a_browser_loads_the_page_twice_and_gets_it_once() {
    let profile = tempfile::tempdir().unwrap();
    let profile = profile.path();
    let programs = ["chromium", "chromium-browser", "google-chrome"];
    let probe = browser::flags(profile).chain(["--dump-dom".to_owned(), "about:blank".to_owned()]);
    let Some(program) = any_here(&programs, probe).await else {
        return;
    };
    let site = Site::start().await;
    let folder = site.file("edge");
    std::fs::create_dir(&folder).unwrap();
    // As in the demo, the names prove the contents: the page's script asks for them with `no-cache`.
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
        // An image may be the tab's icon too, which the browser asks for by itself.
        come.dedup();
        let length = |asset: &String| site.bytes(asset).len() as u64;
        assert_eq!(come, assets.iter().map(|asset| (asset.clone(), length(asset))).collect::<Vec<_>>());
    };

    // The first time: all of it comes.
    let mut browser = Browser::start(program, profile).await;
    let events = browser.visit(&url).await;
    let lines = log.more(&edge).await;
    // The script may be faster than an image: then the image is a hit, or collapsed.
    assert_rendered(&mut browser, &events, &assets, ";").await;
    assert_all_come(&lines, &["miss", "collapsed", "hit"]);
    browser.close().await;

    // The second time, on another day: no answer of the edge's has a body, and
    // none but the page itself is asked for. (What the page's script asks is HEAD.)
    let mut browser = Browser::start(program, profile).await;
    let events = browser.visit(&url).await;
    let lines = log.more(&edge).await;
    assert_rendered(&mut browser, &events, &assets, ";hit;").await;
    assert!(lines.len() >= assets.len(), "{lines:?}");
    for (method, path, status, _, bytes) in lines.iter().map(summary) {
        assert_eq!(bytes, 0, "{method} {path}");
        assert!(method == "HEAD" || (path, status) == ("/", 304), "{method} {path} {status}");
    }
    // It may take the page for fresh, or ask whether it is.
    let mut kept = browser::from_its_cache(&events);
    kept.retain(|path| path != "/");
    assert_eq!(kept, assets);

    // Again without the browser's cache: all of it comes, out of the edge's memory.
    let events = browser.reload_hard().await;
    let lines = log.more(&edge).await;
    assert_rendered(&mut browser, &events, &assets, ";hit;").await;
    assert_all_come(&lines, &["hit"]);
    browser.close().await;

    // After all of this, the origin was asked once for each.
    let mut asked = site.asked();
    asked.retain(|request| assets.iter().any(|asset| request.ends_with(asset)));
    asked.sort();
    assert_eq!(asked, assets.iter().map(|asset| format!("GET {asset}")).collect::<Vec<_>>());
}
