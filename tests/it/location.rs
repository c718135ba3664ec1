//! Location headers of the origin, the lifetime of its connections, and the lookup of its name.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::Method;
use peerage::config::Period;

use crate::harness::{run, single_edge};
use crate::origin::{Origin, Script};
use crate::process::{BINARY, Process, line_with};
use crate::programs::require;

#[tokio::test]
async fn location_with_the_origins_host_is_rewritten_to_a_path() {
    let origin = Origin::start().await;
    let url = origin.url();
    let redirect =
        |location: &str| Script::status(301).header("location", location).header("content-location", location);
    origin.script("/folder", redirect(&format!("{url}folder/?a#b")).header("cache-control", "max-age=60"));
    origin.script("/elsewhere", redirect("http://other.example/folder/"));
    let edge = single_edge(&origin, |_| {}).await;
    for hit in [false, true] {
        let got = edge.get("/folder").send().await;
        assert_eq!(got.cache_status().contains("hit"), hit);
        assert_eq!((got.header("location"), got.header("content-location")), ("/folder/?a#b", "/folder/?a#b"));
    }
    assert_eq!(edge.get("/elsewhere").send().await.header("location"), "http://other.example/folder/");
    assert_eq!(edge.request(Method::POST, "/folder").send().await.header("location"), "/folder/?a#b");
    let as_sent = single_edge(&origin, |config| config.origin.rewrite_location = false).await;
    assert_eq!(as_sent.get("/folder").send().await.header("location"), format!("{url}folder/?a#b"));
}

#[tokio::test]
async fn location_is_rewritten_without_the_path_of_origin_url() {
    let origin = Origin::start().await;
    origin.script("/site/a", Script::status(302).header("location", "/site/b"));
    origin.script("/site/out", Script::status(302).header("location", "/login"));
    let edge =
        single_edge(&origin, |config| config.origin.url = format!("{}site/", origin.url()).parse().unwrap()).await;
    assert_eq!(edge.get("/a").send().await.header("location"), "/b");
    assert_eq!(edge.get("/out").send().await.header("location"), "/login");
}

/// A server process that is killed with the test.
struct ServerProcess(Child);

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Requests a folder without its slash through an edge in front of `url`, and then the target of
/// the redirect.
async fn assert_redirect_leads_to_the_folder(url: &str) {
    let mut config = crate::harness::config("edge-1");
    config.origin.url = url.parse().unwrap();
    let edge = run(peerage::Server::bind(config).await.unwrap());
    let got = edge.get("/folder").send().await;
    assert_eq!((got.status.as_u16(), got.header("location")), (301, "/folder/"));
    assert_eq!(edge.get(got.header("location")).send().await.text(), "index\n");
}

fn site(folder: &Path) -> std::path::PathBuf {
    let site = folder.join("site");
    std::fs::create_dir_all(site.join("folder")).unwrap();
    std::fs::write(site.join("folder/index.html"), "index\n").unwrap();
    site
}

#[tokio::test]
#[ignore = "needs python3"]
async fn folder_redirect_of_pythons_server_leads_to_the_folder() {
    require(&["python3"]);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut command = Command::new("python3");
    command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]).arg(site(folder.path()));
    command.stdin(Stdio::null()).stdout(std::fs::File::create(&out).unwrap()).stderr(Stdio::null());
    let _server = ServerProcess(command.spawn().unwrap());
    let line = line_with(&out, "http://").await;
    let url = line.split(['(', ')']).find(|word| word.starts_with("http://")).unwrap();
    assert_redirect_leads_to_the_folder(url).await;
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn folder_redirect_of_nginx_leads_to_the_folder() {
    require(&["nginx"]);
    let folder = tempfile::tempdir().unwrap();
    let (port, site) = (crate::process::free_ports(1)[0], site(folder.path()));
    let config = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}\n\
         http {{ access_log off; client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t;\n\
         uwsgi_temp_path t; scgi_temp_path t; server {{ listen 127.0.0.1:{port}; root {}; }} }}\n",
        site.display()
    );
    std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
    let _server = ServerProcess(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    crate::harness::within(20, async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_redirect_leads_to_the_folder(&format!("http://127.0.0.1:{port}")).await;
}

#[tokio::test]
async fn connection_past_its_lifetime_is_not_reused() {
    let origin = Origin::start().await;
    for (lifetime, connections) in [(Duration::from_nanos(1), 3), (Duration::from_mins(10), 1)] {
        let before = origin.connections();
        let edge = single_edge(&origin, |config| config.origin.connection_lifetime = Period(lifetime)).await;
        for _ in 0..3 {
            edge.request(Method::POST, "/").send().await;
        }
        assert_eq!(origin.connections() - before, connections, "{lifetime:?}");
    }
}

/// The nameserver never answers. The edge uses it in a mount namespace of its own.
#[tokio::test]
#[ignore = "needs root, unshare and mount"]
async fn silent_nameserver_fails_the_request_after_connect_timeout() {
    let silent = std::net::UdpSocket::bind("127.9.18.8:53");
    let _silent = silent.expect("this test needs root, or the right to listen on port 53");
    let folder = tempfile::tempdir().unwrap();
    let resolv = folder.path().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 127.9.18.8\noptions timeout:30 attempts:1\n").unwrap();
    let apart = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let works = Command::new("unshare").args(["-m", "sh", "-c", apart]).arg(&resolv).arg("true").status();
    let works = works.is_ok_and(|status| status.success());
    assert!(works, "this test needs root, unshare (Debian's package util-linux) and mount (Debian's package mount)");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", apart]).arg(&resolv).arg(BINARY);
    let text = "[edge]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
        [origin]\nurl = \"http://origin.invalid:9000\"\nconnect_timeout = \"100ms\"\n";
    let edge = Process::run(command, folder.path(), text).await;
    assert_eq!(edge.get("/").await.status, 502);
    let line = line_with(&edge.out, "\"path\":\"/\"").await;
    assert!(line.contains("connect timeout after 100ms"), "{line}");
}
