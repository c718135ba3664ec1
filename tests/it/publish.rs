//! `peerage publish` and `peerage verify`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use sha2::{Digest, Sha256};

use crate::harness::pattern;
use crate::origin::{Origin, Script};

const BINARY: &str = env!("CARGO_BIN_EXE_peerage");

/// The rule of `publish`, as a value of the configuration.
const RULE: &str = r#"immutable=[{path="/**/*-{hash}.*",digest="sha256",length=16}]"#;

/// The exit code and the output of a command.
#[derive(Debug)]
struct CommandOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

fn peerage(folder: &Path, arguments: &[&str]) -> CommandOutput {
    command(folder, arguments).output().unwrap().into()
}

/// Like [`peerage`], and lets servers of this test run meanwhile.
async fn peerage_async(folder: &Path, arguments: &[&str]) -> CommandOutput {
    tokio::process::Command::from(command(folder, arguments)).output().await.unwrap().into()
}

fn hash(contents: &[u8]) -> String {
    Sha256::digest(contents)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns all files below `folder`, relative to it.
fn files(folder: &Path) -> BTreeSet<String> {
    fn walk(root: &Path, folder: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, names);
            } else {
                names.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut names = BTreeSet::new();
    walk(folder, folder, &mut names);
    names
}

/// Creates a folder with a site in `site` and an empty folder `out`.
fn site() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("site");
    std::fs::create_dir_all(site.join("img/a b")).unwrap();
    std::fs::create_dir_all(site.join(".git")).unwrap();
    std::fs::create_dir(folder.path().join("out")).unwrap();
    for (name, contents) in [
        ("LICENSE", &b"as you like"[..]),
        ("app.min.js", b"run()"),
        ("empty.txt", b""),
        ("img/logo.png", &pattern(1000)),
        ("img/a b/big ü.bin", &pattern(700_000)),
        (".git/config", b"hidden"),
        (".hidden", b"hidden"),
        (&format!("named-{}.css", hash(b"a{}")), b"a{}"),
    ] {
        std::fs::write(site.join(name), contents).unwrap();
    }
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    symlink(folder.path().join("secret"), site.join("leaves")).unwrap();
    symlink("img", site.join("loop")).unwrap();
    symlink("nowhere", site.join("nothing")).unwrap();
    symlink("img/logo.png", site.join("icon.png")).unwrap();
    folder
}

/// The names under which [`site`] is published.
fn published() -> BTreeSet<String> {
    let names = [
        format!("LICENSE-{}", hash(b"as you like")),
        format!("app.min-{}.js", hash(b"run()")),
        format!("empty-{}.txt", hash(b"")),
        format!("img/logo-{}.png", hash(&pattern(1000))),
        format!("icon-{}.png", hash(&pattern(1000))),
        format!("img/a b/big ü-{}.bin", hash(&pattern(700_000))),
        format!("named-{}.css", hash(b"a{}")),
        "manifest.json".to_owned(),
    ];
    names.into()
}

/// `peerage origin` on a folder. It ends with the test.
struct DevelopmentOrigin {
    child: Child,
    url: String,
}

impl DevelopmentOrigin {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["origin", ".", "--while-input", "--listen", "127.0.0.1:0"]).args(more).current_dir(folder);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        // Reads on, so that the process does not wait for a full pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, url: line.trim().rsplit(' ').next().unwrap().to_owned() }
    }
}

impl Drop for DevelopmentOrigin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn publish_copies_a_folder_into_a_folder() {
    let folder = site();
    let publish = || peerage(folder.path(), &["publish", "site", "--into", "out", "--manifest", "lists/site.json"]);
    let first = publish();
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.out.starts_with("7 files, 7 new, 0 there already, 68") && first.out.ends_with(" KiB uploaded\n"));
    let out = folder.path().join("out");
    assert_eq!(files(&out), published());
    for why in [
        "skipped   .git: it is hidden\n",
        "skipped   .hidden: it is hidden\n",
        "skipped   leaves: it is a link that leaves the folder\n",
        "skipped   loop: it is a link, and not to a file\n",
        "skipped   nothing: it is a link to nothing\n",
    ] {
        assert!(first.err.contains(why), "{}", first.err);
    }
    assert!(first.err.contains(&format!("stored    app.min-{}.js (5 B)\n", hash(b"run()"))), "{}", first.err);

    let manifest = std::fs::read_to_string(out.join("manifest.json")).unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("lists/site.json")).unwrap(), manifest);
    let manifest: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest.len(), 7);
    for (given, entry) in &manifest {
        let contents = std::fs::read(folder.path().join("site").join(given)).unwrap();
        assert_eq!(std::fs::read(out.join(entry["name"].as_str().unwrap())).unwrap(), contents);
        assert_eq!(entry["size"], contents.len());
        // Independent of the tested code: sha2 by itself, and base64 by hand.
        let digest = Sha256::digest(&contents);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(entry["digest"], format!("sha256:{hex}"));
        assert_eq!(entry["integrity"], format!("sha256-{}", base64(&digest)));
    }

    let second = publish();
    assert_eq!(second.out, "7 files, 0 new, 7 there already, nothing uploaded\n");
    assert!(!second.err.contains("stored"), "{}", second.err);
    // A file with another length is replaced.
    std::fs::write(out.join(format!("app.min-{}.js", hash(b"run()"))), "half").unwrap();
    assert!(publish().out.starts_with("7 files, 1 new, 6 there already, 5 B"));
    assert_eq!(files(&out), published());
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let number = (0..3).fold(0, |number, i| number << 8 | usize::from(*group.get(i).unwrap_or(&0)));
        let digit = |i: usize| if i > group.len() { '=' } else { char::from(DIGITS[number >> (18 - 6 * i) & 63]) };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

#[test]
fn published_files_are_readable_by_other_users() {
    use std::os::unix::fs::PermissionsExt;
    let folder = site();
    std::fs::write(folder.path().join("plain"), "").unwrap();
    peerage(folder.path(), &["publish", "site", "--into", "out"]);
    let mode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("out/manifest.json"), mode("plain"));
}

#[test]
fn publish_uploads_a_folder_to_an_origin() {
    let folder = site();
    let out = folder.path().join("out");
    let origin = DevelopmentOrigin::start(&out, &["--writable"]);
    let into = format!("{}/a/b/", origin.url);
    let publish = || peerage(folder.path(), &["publish", "site", "--into", &into]);
    let first = publish();
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.out.starts_with("7 files, 7 new, 0 there already, 68"), "{}", first.out);
    assert_eq!(files(&out.join("a/b")), published());
    assert_eq!(publish().out, "7 files, 0 new, 7 there already, nothing uploaded\n");

    // A file that was removed leaves the manifest, and stays at the origin.
    std::fs::remove_file(folder.path().join("site/LICENSE")).unwrap();
    let fewer = publish();
    assert!(fewer.out.starts_with("6 files, 0 new, 6 there already, 1."), "{}", fewer.out);
    assert_eq!(files(&out.join("a/b")), published());

    // Every published file verifies by its name.
    let manifest = std::fs::read_to_string(out.join("a/b/manifest.json")).unwrap();
    let manifest: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&manifest).unwrap();
    let urls: Vec<_> = manifest
        .values()
        .map(|entry| format!("{into}{}", entry["name"].as_str().unwrap().replace(' ', "%20").replace('ü', "%C3%BC")))
        .collect();
    let arguments: Vec<_> = ["verify"].into_iter().chain(urls.iter().map(String::as_str)).collect();
    let verified = peerage(folder.path(), &arguments);
    assert_eq!((verified.code, verified.out.matches("ok      http").count()), (Some(0), 6), "{verified:?}");
}

#[test]
fn publish_reports_the_cause_of_a_failure() {
    let folder = site();
    let origin = DevelopmentOrigin::start(&folder.path().join("out"), &[]);
    // No server listens there, and no other test starts one.
    let unreachable = "http://127.0.0.1:1";
    std::fs::create_dir(folder.path().join("taken")).unwrap();
    std::fs::write(folder.path().join("taken/img"), "no folder").unwrap();
    std::fs::create_dir(folder.path().join("long")).unwrap();
    std::fs::write(folder.path().join("long/a.bin"), pattern(20_000_000)).unwrap();
    std::fs::create_dir(folder.path().join("stale")).unwrap();
    std::fs::write(folder.path().join("stale/x-0123456789abcdef.tar.gz"), "x").unwrap();
    for (arguments, code, told) in [
        (&["nowhere", "--into", "out"][..], 64, "nowhere"),
        (&["secret", "--into", "out"], 64, "secret: not a folder"),
        (&["site"], 64, "--into"),
        (&["site", "--into", "nowhere"], 64, "--into: \"nowhere\" (expected an existing folder"),
        (&["site", "--into", "ftp://example.org"], 64, "--into: `ftp://example.org/` is not a URL"),
        (&["site", "--into", "site/img"], 64, "--into: it lies in site"),
        (&["site", "--into", "out", "--manifest", "site/m.json"], 64, "--manifest: it lies in site"),
        (&["stale", "--into", "out"], 64, "x-0123456789abcdef.tar.gz: the name holds the hash of other contents"),
        (&["site", "--into", "taken"], 69, "taken/img/"),
        (&["site", "--into", unreachable], 69, unreachable),
        (&["site", "--into", &origin.url], 69, "PUT"),
        (&["long", "--into", &origin.url], 69, "PUT"),
    ] {
        let said = peerage(folder.path(), &[&["publish"], arguments].concat());
        assert_eq!(said.code, Some(code), "{arguments:?}: {said:?}");
        assert!(said.err.contains(told), "{arguments:?}: {said:?}");
    }
    // Failed commands leave no file behind.
    assert_eq!(files(&folder.path().join("out")), BTreeSet::new());
    assert!(!files(&folder.path().join("taken")).contains("manifest.json"));
}

#[tokio::test]
async fn failed_put_is_retried_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "abc").unwrap();
    let origin = Origin::start().await;
    origin.script("*", Script::status(503));
    let url = origin.url().to_string();
    let said = peerage_async(folder.path(), &["publish", ".", "--into", &url]).await;
    assert_eq!(said.code, Some(69), "{said:?}");
    assert!(said.err.contains("/a-ba7816bf8f01cfea.txt: the server answered PUT with 503"), "{said:?}");
    let puts: Vec<_> = origin.seen().into_iter().filter(|seen| seen.method == "PUT").collect();
    assert_eq!(puts.len(), 2);
    for put in puts {
        assert_eq!((put.target.as_str(), put.body.as_slice()), ("/a-ba7816bf8f01cfea.txt", &b"abc"[..]));
        assert_eq!(put.header("content-type"), Some("text/plain; charset=utf-8"));
    }
}

/// The file is named, then changed, then sent: the server of this test decides when.
#[test]
fn file_that_changes_during_publish_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("big.bin");
    std::fs::write(&file, pattern(500_000)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut publish = command(folder.path(), &["publish", ".", "--into", &url]);
    let publishing = publish.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();

    let mut connection = BufReader::new(listener.accept().unwrap().0);
    assert!(head(&mut connection).starts_with("HEAD /big-"));
    let mut changed = pattern(500_000).to_vec();
    changed[499_999] ^= 1;
    std::fs::write(&file, changed).unwrap();
    let not_there = b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    connection.get_mut().write_all(not_there).unwrap();
    let mut connection = BufReader::new(listener.accept().unwrap().0);
    let put = head(&mut connection);
    assert!(put.starts_with("PUT /big-") && put.contains("content-length: 500000\r\n"), "{put}");
    let mut body = Vec::new();
    let _ = connection.read_to_end(&mut body);
    assert!(body.len() < 500_000);

    let said: CommandOutput = publishing.wait_with_output().unwrap().into();
    assert_eq!((said.code, said.out.as_str()), (Some(64), ""), "{said:?}");
    assert!(said.err.contains("big.bin: the file changed while it was published"), "{said:?}");
}

/// Reads the head of the next request.
fn head(connection: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(connection.read_line(&mut head).unwrap() > 0, "{head}");
    }
    head
}

#[test]
fn files_are_verified_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("by-hash/MD5Sum")).unwrap();
    for (name, contents) in [
        ("a-ba7816bf8f01cfea.txt", "abc"),
        ("A-ba7816bf8f01cfea", "abc"),
        ("b-ba7816bf8f01cfea.txt", "abd"),
        ("c.txt", "abc"),
        ("d-ba7816bf.txt", "anything"),
        ("by-hash/MD5Sum/900150983cd24fb0d6963f7d28e17f72", "abc"),
    ] {
        std::fs::write(folder.path().join(name), contents).unwrap();
    }
    let verify = |files: &[&str]| peerage(folder.path(), &[&["verify"], files].concat());
    let apt = "by-hash/MD5Sum/900150983cd24fb0d6963f7d28e17f72";
    let good = verify(&["./a-ba7816bf8f01cfea.txt", "A-ba7816bf8f01cfea", "c.txt", apt, "d-ba7816bf.txt"]);
    assert_eq!(
        good.out,
        "ok      ./a-ba7816bf8f01cfea.txt  sha256 ba7816bf8f01cfea\n\
         ok      A-ba7816bf8f01cfea  sha256 ba7816bf8f01cfea\n\
         unknown c.txt  no rule matches\n\
         ok      by-hash/MD5Sum/900150983cd24fb0d6963f7d28e17f72  md5 900150983cd24fb0d6963f7d28e17f72\n\
         unknown d-ba7816bf.txt  no rule matches\n"
    );
    assert_eq!((good.code, good.err.as_str()), (Some(0), ""));

    let bad = verify(&["none.txt", "b-ba7816bf8f01cfea.txt", "a-ba7816bf8f01cfea.txt"]);
    assert_eq!(bad.code, Some(1));
    let lines: Vec<_> = bad.out.lines().collect();
    assert!(lines[0].starts_with("failed  none.txt  No such file"), "{bad:?}");
    let found = hash(b"abd");
    assert_eq!(lines[1], format!("WRONG   b-ba7816bf8f01cfea.txt  expected sha256 ba7816bf8f01cfea, found {found}"));
    assert!(lines[2].starts_with("ok"));
    assert_eq!(bad.err, "peerage: 1 of 3 targets are wrong\n");

    assert_eq!(verify(&["c.txt"]).code, Some(1));
    assert_eq!(verify(&["a-ba7816bf8f01cfea.txt", "none.txt"]).code, Some(64));
    assert_eq!(verify(&[]).code, Some(64));

    // With a configuration, its rules apply, and no others.
    let assets = verify(&["a-ba7816bf8f01cfea.txt", "--config", concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml")]);
    assert_eq!((assets.code, assets.out.starts_with("unknown")), (Some(1), true), "{assets:?}");
    std::fs::write(folder.path().join("config.toml"), "").unwrap();
    assert_eq!(verify(&["b-ba7816bf8f01cfea.txt", apt, "--set", RULE]).code, Some(1));
    assert!(verify(&["a-ba7816bf8f01cfea.txt"]).out.starts_with("unknown"));
}

#[tokio::test]
async fn urls_are_verified_and_truncated_bodies_are_not_called_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start().await;
    let name = |contents: &[u8]| format!("/img/logo-{}.png", hash(contents));
    let (good, wrong, cut, close) = (pattern(300_000), pattern(10), pattern(20), pattern(30));
    let coded = pattern(40);
    origin.script(&name(&good), Script::ok(good.clone()).chunked());
    let queried = format!("{}?v=1", name(&good));
    origin.script(&queried, Script::ok(good.clone()));
    origin.script(&name(&wrong), Script::ok("others"));
    origin.script(&name(&cut), Script::ok(cut.clone()).cut_at(10));
    origin.script(&name(&close), Script::ok(close.slice(..7)).until_close());
    origin.script(&name(&coded), Script::ok("coded").header("content-encoding", "gzip"));
    origin.script("/page.html", Script::ok("page"));
    let verify = async |paths: &[&str]| {
        let urls: Vec<_> = paths.iter().map(|path| format!("http://{}{path}", origin.address)).collect();
        let arguments: Vec<_> = ["verify"].into_iter().chain(urls.iter().map(String::as_str)).collect();
        peerage_async(folder.path(), &arguments).await
    };
    let all = verify(&[&queried, &name(&good), &name(&wrong), "/page.html"]).await;
    let kinds: Vec<_> = all.out.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!((all.code, kinds), (Some(1), vec!["ok", "ok", "WRONG", "unknown"]), "{all:?}");
    for (path, why) in [
        (name(&cut), "broke off"),
        (name(&close), "may be incomplete"),
        (name(&coded), "a content coding that was not requested"),
        ("/none-0123456789abcdef.png".to_owned(), "404"),
    ] {
        let said = verify(&[&path, &name(&good)]).await;
        assert_eq!(said.code, Some(69), "{said:?}");
        assert!(said.out.starts_with("failed") && said.out.lines().next().unwrap().contains(why), "{said:?}");
        assert_eq!(said.err, "peerage: 1 of 2 targets are unavailable\n");
    }
    let secure = origin.url().to_string().replace("http://", "https://") + "a-0123456789abcdef.png";
    let secure = peerage_async(folder.path(), &["verify", &secure]).await;
    let told = secure.out.contains("the TLS handshake");
    assert_eq!((secure.code, told), (Some(69), true), "{secure:?}");
}

/// The demo's site equals the output of `publish` for its sources.
#[test]
fn demo_site_has_the_names_of_publish() {
    let folder = tempfile::tempdir().unwrap();
    let (site, out) = (folder.path().join("site"), folder.path().join("out"));
    std::fs::create_dir(&site).unwrap();
    std::fs::create_dir(&out).unwrap();
    let named = Path::new(env!("CARGO_MANIFEST_DIR")).join("static-origin");
    let mut names = BTreeSet::from(["manifest.json".to_owned()]);
    for name in files(&named) {
        if let Some((stem, hash)) = name.rsplit_once('-') {
            let source = format!("{stem}.{}", hash.split_once('.').unwrap().1);
            std::fs::copy(named.join(&name), site.join(source)).unwrap();
            names.insert(name);
        }
    }
    assert_eq!(names.len(), 5);
    let said = peerage(folder.path(), &["publish", "site", "--into", "out"]);
    assert_eq!((said.code, files(&out)), (Some(0), names), "{said:?}");
}
