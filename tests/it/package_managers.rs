//! Package managers and download tools, through three edges in front of Python's file server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use peerage::config::Period;
use tokio::process::{Child, Command};

use crate::harness::{Cluster, pattern, within};
use crate::process::line_with;
use crate::programs::require;

const FILM_LENGTH: usize = 3_000_000;
const WHEEL: &str = "peerage_demo-1.0-py3-none-any.whl";

/// Writes a minimal wheel to the file named by the first argument.
const MAKE_WHEEL: &str = "import sys, zipfile
info = 'peerage_demo-1.0.dist-info/'
with zipfile.ZipFile(sys.argv[1], 'w') as wheel:
    wheel.writestr('peerage_demo.py', 'x = 1\\n')
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: peerage-demo\\nVersion: 1.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', '')
";

/// A command that inherits neither a proxy nor a user's configuration.
fn tool(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    for variable in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    command.env("HOME", home).env("GIT_CONFIG_NOSYSTEM", "1").current_dir(home);
    command
}

/// Runs a command to its end, and returns its standard output.
async fn run(command: &mut Command) -> String {
    let output = within(60, command.kill_on_drop(true).stdin(Stdio::null()).output()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{text}\n{errors}", output.status);
    text
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(' ')
}

/// A folder, Python's file server for it, and three edges.
struct Stage {
    folder: tempfile::TempDir,
    cluster: Cluster,
    _server: Child,
}

impl Stage {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = folder.path().join("site");
        std::fs::create_dir(&site).unwrap();
        let file = |name: &str| std::fs::File::create(folder.path().join(name)).unwrap();
        let mut command = Command::new("python3");
        command.args(words("-u -m http.server 0 --bind 127.0.0.1 --directory")).arg(&site);
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("requests")).kill_on_drop(true);
        let server = command.spawn().unwrap();
        let line = line_with(&folder.path().join("out"), "Serving HTTP").await;
        let port = words(&line).skip_while(|word| *word != "port").nth(1).unwrap();
        let url = format!("http://127.0.0.1:{port}").parse().unwrap();
        let cluster =
            Cluster::in_front_of(3, &url, |config| config.cache.heuristic = Period(Duration::from_hours(24))).await;
        Self { folder, cluster, _server: server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tool(&self, program: &str) -> Command {
        tool(program, self.folder.path())
    }

    fn urls(&self) -> impl Iterator<Item = String> {
        self.cluster.edges.iter().map(|edge| format!("http://{}", edge.clients))
    }

    /// Dates the site's files back, so that their heuristic freshness outlasts the test.
    async fn publish(&self) {
        run(self.tool("find").arg("site").args(words("-exec touch -d 2020-01-01 {} +"))).await;
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path("site").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Publishes a large file, and stores it: Python's file server ignores Range,
    /// and a range of a name that is not stored goes to the origin.
    async fn film(&self) -> Bytes {
        let film = pattern(FILM_LENGTH);
        self.write("film.bin", &film);
        self.publish().await;
        for edge in &self.cluster.edges {
            assert!(edge.get("/film.bin").send().await.body == film);
        }
        film
    }

    fn assert_file(&self, name: &str, expected: &[u8]) {
        let bytes = std::fs::read(self.path(name)).unwrap();
        assert!(bytes == expected, "{name}: {} of {} bytes, or wrong ones", bytes.len(), expected.len());
    }

    /// Checks that the origin was asked at least once, and once for each target.
    fn assert_one_request_each(&self) {
        let log = std::fs::read_to_string(self.path("requests")).unwrap();
        let mut counts = BTreeMap::<&str, usize>::new();
        for request in log.lines().filter_map(|line| line.split('"').nth(1)) {
            *counts.entry(request).or_default() += 1;
        }
        assert!(!counts.is_empty() && counts.values().all(|count| *count == 1), "{counts:#?}");
    }
}

#[tokio::test]
#[ignore = "needs python3 and pip"]
async fn pip_downloads_a_wheel_through_each_edge_with_one_fetch() {
    require(&["python3", "pip"]);
    let stage = Stage::start().await;
    run(stage.tool("python3").args(["-c", MAKE_WHEEL, WHEEL])).await;
    let wheel = std::fs::read(stage.path(WHEEL)).unwrap();
    stage.write(&format!("files/{WHEEL}"), &wheel);
    stage.write("simple/peerage-demo/index.html", format!("<a href=\"/files/{WHEEL}\">{WHEEL}</a>"));
    stage.publish().await;
    for (number, url) in stage.urls().enumerate() {
        let mut pip = stage.tool("pip");
        pip.args(words("--isolated download --no-deps --no-cache-dir --disable-pip-version-check -d"));
        run(pip.arg(format!("got-{number}")).args(["-i", &format!("{url}/simple"), "peerage-demo"])).await;
        stage.assert_file(&format!("got-{number}/{WHEEL}"), &wheel);
    }
    let log = std::fs::read_to_string(stage.path("requests")).unwrap();
    let count = |target: &str| log.matches(&format!("\"GET {target}")).count();
    assert_eq!(count("/files/"), 1, "{log}");
    // pip asks for the index with `max-age=0`.
    assert!((1..=3).contains(&count("/simple/")), "{log}");
}

#[tokio::test]
#[ignore = "needs python3 and npm"]
async fn npm_packs_a_scoped_package_through_each_edge_with_one_fetch() {
    require(&["python3", "npm"]);
    let stage = Stage::start().await;
    std::fs::create_dir(stage.path("source")).unwrap();
    std::fs::write(stage.path("source/package.json"), r#"{"name":"@peerage/demo","version":"1.0.0"}"#).unwrap();
    run(stage.tool("npm").args(words("pack ./source --offline"))).await;
    let package = std::fs::read(stage.path("peerage-demo-1.0.0.tgz")).unwrap();
    stage.write("tarballs/demo-1.0.0.tgz", &package);
    let tarball = format!("{}/tarballs/demo-1.0.0.tgz", stage.urls().next().unwrap());
    let version = serde_json::json!({"name": "@peerage/demo", "version": "1.0.0", "dist": {"tarball": tarball}});
    let packument = serde_json::json!({
        "name": "@peerage/demo", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version},
    });
    // Requested as `/@peerage%2fdemo`.
    stage.write("@peerage/demo", packument.to_string());
    stage.publish().await;
    for (number, url) in stage.urls().enumerate() {
        let got = format!("got-{number}");
        std::fs::create_dir(stage.path(&got)).unwrap();
        let mut npm = stage.tool("npm");
        npm.args(["pack", "@peerage/demo", "--registry", &url, "--pack-destination", &got]);
        // Each edge is asked, not npm's own cache.
        run(npm.args([
            "--cache",
            &format!("cache-{number}"),
            "--replace-registry-host=always",
            "--no-update-notifier",
        ]))
        .await;
        stage.assert_file(&format!("{got}/peerage-demo-1.0.0.tgz"), &package);
    }
    stage.assert_one_request_each();
}

#[tokio::test]
#[ignore = "needs python3 and git"]
async fn git_clones_over_dumb_http_through_each_edge_with_one_fetch() {
    require(&["python3", "git"]);
    let stage = Stage::start().await;
    let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"];
    run(stage.tool("git").args(words("init -q source"))).await;
    std::fs::write(stage.path("source/film.bin"), pattern(100_000)).unwrap();
    run(stage.tool("git").args(words("-C source add ."))).await;
    run(stage.tool("git").args(identity).args(words("-C source commit -q -m first"))).await;
    run(stage.tool("git").args(words("clone -q --bare source site/source.git"))).await;
    run(stage.tool("git").args(words("-C site/source.git update-server-info"))).await;
    stage.publish().await;
    for (number, url) in stage.urls().enumerate() {
        let got = format!("got-{number}");
        run(stage.tool("git").args(["clone", "-q", &format!("{url}/source.git"), &got])).await;
        stage.assert_file(&format!("{got}/film.bin"), &pattern(100_000));
        run(stage.tool("git").args(["-C", &got, "fsck", "--strict"])).await;
    }
    let log = std::fs::read_to_string(stage.path("requests")).unwrap();
    // A name that the origin does not have may be asked for again.
    let fetches = log.lines().filter(|line| line.contains("/objects/") && line.contains("\" 200 "));
    let mut fetched: Vec<_> = fetches.filter_map(|line| line.split('"').nth(1)).collect();
    fetched.sort_unstable();
    let count = fetched.len();
    fetched.dedup();
    assert!(count >= 3 && fetched.len() == count, "{log}");
    assert!(log.lines().count() <= 30, "{log}");
}

#[tokio::test]
#[ignore = "needs python3 and aria2c"]
async fn aria2c_downloads_by_ranges_on_eight_connections_with_one_fetch() {
    require(&["python3", "aria2c"]);
    let stage = Stage::start().await;
    let film = stage.film().await;
    for (number, url) in stage.urls().enumerate() {
        let got = format!("got-{number}");
        let mut aria2c = stage.tool("aria2c");
        aria2c.args(words("--no-conf -q -x8 -s8 -j8 -k1M --file-allocation=none --max-tries=1 -o"));
        run(aria2c.arg(&got).arg(format!("{url}/film.bin"))).await;
        stage.assert_file(&got, &film);
    }
    stage.assert_one_request_each();
}

#[tokio::test]
#[ignore = "needs python3, zsync and zsyncmake"]
async fn zsync_completes_an_old_file_through_each_edge_with_one_fetch() {
    require(&["python3", "zsync", "zsyncmake"]);
    let stage = Stage::start().await;
    let film = stage.film().await;
    run(stage.tool("zsyncmake").args(words("-u film.bin -o site/film.bin.zsync site/film.bin"))).await;
    stage.publish().await;
    let mut old = film.to_vec();
    old[500_000..700_000].fill(0);
    old[2_000_000..2_100_000].fill(1);
    std::fs::write(stage.path("old"), &old).unwrap();
    for (number, url) in stage.urls().enumerate() {
        let got = format!("got-{number}");
        run(stage.tool("zsync").args(["-q", "-i", "old", "-o", &got, &format!("{url}/film.bin.zsync")])).await;
        stage.assert_file(&got, &film);
    }
    stage.assert_one_request_each();
}
