//! Origins by `https://`: verification of the certificate, client certificates, reload. Another edge
//! with a TLS listener is the origin.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::Method;
use peerage::config::CertificateConfig;
use peerage::{Config, Server};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::harness::{TestEdge, config, pattern, run, single_edge, within};
use crate::origin::{Origin, Script};
use crate::process::{BINARY, Process, line_with};
use crate::tls::pki::{Ca, Pair};

const ASSET: &str = "/logo-0492830483.png";

/// An HTTPS server that passes everything to a scripted origin.
struct SecureOrigin {
    folder: TempDir,
    ca: PathBuf,
    origin: Origin,
    server: TestEdge,
}

impl SecureOrigin {
    async fn start(pair: impl FnOnce(&Ca) -> Pair, change: impl FnOnce(&mut Config, &Path)) -> Self {
        let (folder, origin) = (tempfile::tempdir().unwrap(), Origin::start().await);
        let ca = Ca::new(&format!("CA of {}", origin.address));
        origin.script("*", Script::ok("asset").header("cache-control", "no-store"));
        let pair = pair(&ca);
        let server = single_edge(&origin, |config| {
            config.edge.name = "origin".to_owned();
            config.tls.listen = loopback().into();
            config.tls.certificate = vec![pair.write(folder.path(), "origin")];
            change(config, folder.path());
        })
        .await;
        let ca = ca.write(folder.path());
        Self { folder, ca, origin, server }
    }

    async fn with_certificate_for(names: &[&str]) -> Self {
        Self::start(|ca| ca.issue(names), |_, _| {}).await
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.server.tls.unwrap().port())
    }

    /// Starts an edge in front of this origin, which trusts its CA.
    async fn edge(&self, host: &str, change: impl FnOnce(&mut Config)) -> TestEdge {
        let mut config = config("edge-1");
        config.origin.url = self.url(host).parse().unwrap();
        config.origin.ca = Some(self.ca.clone());
        change(&mut config);
        run(Server::bind(config).await.unwrap())
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Returns the status of a request. An error must not tell clients anything about certificates.
async fn status(edge: &TestEdge) -> u16 {
    let got = edge.get(ASSET).send().await;
    let errors = ["the origin is unreachable\n", "the origin's response broke off\n"];
    assert!(got.status == 200 || errors.contains(&got.text()), "{}", got.text());
    got.status.as_u16()
}

#[tokio::test]
async fn origin_with_a_trusted_certificate_is_fetched_from_over_one_connection() {
    let secure = SecureOrigin::with_certificate_for(&["localhost", "127.0.0.1"]).await;
    let body = pattern(300_000);
    secure.origin.script("/large", Script::ok(body.clone()).header("cache-control", "max-age=60"));
    for host in ["localhost", "127.0.0.1"] {
        let edge = secure.edge(host, |_| {}).await;
        for path in ["/large", "/a", "/b", "/large"] {
            let got = edge.get(path).send().await;
            assert!(got.complete && (path != "/large" || got.body == body), "{path} at {host}");
        }
        let post = edge.request(Method::POST, "/form").body(body.clone()).send().await;
        assert_eq!(post.status, 200);
        let handshakes = secure.server.metric("peerage_tls_handshakes_total{outcome=\"full\"}").await;
        assert!((handshakes - if host == "localhost" { 1.0 } else { 2.0 }).abs() < 0.1, "{handshakes}");
    }
    assert!(secure.origin.seen().iter().any(|seen| seen.method == "POST" && seen.body == body));
}

#[tokio::test]
async fn origin_with_a_wrong_certificate_is_502_and_the_log_names_the_cause() {
    let hour = Duration::from_hours(1);
    let good = SecureOrigin::with_certificate_for(&["localhost"]).await;
    let expired = SecureOrigin::start(|ca| ca.issue_until(&["localhost"], SystemTime::now() - hour), |_, _| {}).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = format!("https://127.0.0.1:{}", good.server.clients.port());
    for (url, ca, cause) in [
        (good.url("localhost"), &expired.ca, "the issuer of the server's certificate is not trusted"),
        (good.url("127.0.0.1"), &good.ca, "the server's certificate is for another name"),
        (expired.url("localhost"), &expired.ca, "the server's certificate has expired"),
        (plain, &good.ca, "the server does not speak TLS on this port"),
        (format!("https://{}", silent.local_addr().unwrap()), &good.ca, "connect timeout after 300ms"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        // A busy machine may take its time for a handshake.
        let timeout = if cause.contains("timeout") { "300ms" } else { "1m" };
        let text = format!(
            "edge.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n\
             [origin]\nurl = \"{url}\"\nca = {ca:?}\nconnect_timeout = \"{timeout}\"\n"
        );
        let edge = Process::run(std::process::Command::new(BINARY), folder.path(), &text).await;
        let got = crate::client::request(edge.clients, Method::GET, ASSET).send().await;
        assert_eq!((got.status.as_u16(), got.text()), (502, "the origin is unreachable\n"));
        within(20, line_with(&folder.path().join("err"), cause)).await;
    }
    assert!(good.origin.seen().is_empty() && expired.origin.seen().is_empty());
}

#[tokio::test]
async fn server_name_replaces_the_host_in_the_certificate_and_in_sni_alone() {
    let secure = SecureOrigin::with_certificate_for(&["assets.example"]).await;
    let named = secure.edge("127.0.0.1", |config| config.origin.server_name = Some("assets.example".to_owned())).await;
    assert_eq!(status(&named).await, 200);
    let host = secure.origin.seen()[0].header("x-forwarded-host").map(str::to_owned);
    assert_eq!(host, None, "a hit of the second edge tells no host");
    assert_eq!(status(&secure.edge("127.0.0.1", |_| {}).await).await, 502);
}

#[tokio::test]
async fn unverified_certificate_is_accepted_only_with_insecure_skip_verify() {
    let secure = SecureOrigin::with_certificate_for(&["other.example"]).await;
    let edge = secure.edge("127.0.0.1", |config| (config.origin.ca, config.origin.insecure_skip_verify) = (None, true));
    assert_eq!(status(&edge.await).await, 200);
    // The system does not trust the CA of this test.
    let edge = secure.edge("localhost", |config| config.origin.ca = None).await;
    assert_eq!(status(&edge).await, 502);
}

#[tokio::test]
async fn certificate_of_the_edge_is_sent_to_an_origin_that_requests_one() {
    let edges = Ca::new("edge CA");
    let secure = SecureOrigin::start(
        |ca| ca.issue(&["localhost"]),
        |config, folder| {
            let path = folder.join("edges.pem");
            std::fs::write(&path, edges.pem()).unwrap();
            config.tls.client_ca = Some(path);
        },
    )
    .await;
    assert_eq!(status(&secure.edge("localhost", |_| {}).await).await, 502);
    let CertificateConfig { chain, key, .. } = edges.issue(&["edge-1"]).write(secure.folder.path(), "edge");
    let edge = secure.edge("localhost", |config| {
        (config.origin.client_certificate, config.origin.client_key) = (Some(chain), Some(key));
    });
    assert_eq!(status(&edge.await).await, 200);
}

#[tokio::test]
async fn reload_reads_the_trusted_issuers_again() {
    let secure = SecureOrigin::with_certificate_for(&["localhost"]).await;
    let ca = secure.folder.path().join("trusted.pem");
    std::fs::write(&ca, Ca::new("another CA").pem()).unwrap();
    let mut config = config("edge-1");
    config.origin.url = secure.url("localhost").parse().unwrap();
    config.origin.ca = Some(ca.clone());
    let server = Server::bind(config.clone()).await.unwrap();
    let mut reloading = server.reloading();
    let edge = run(server);
    assert_eq!(status(&edge).await, 502);
    std::fs::write(&ca, "no certificate").unwrap();
    let error = reloading.reload(config.clone()).unwrap_err().to_string();
    assert!(error.contains("origin: ") && error.contains("trusted.pem"), "{error}");
    assert_eq!(status(&edge).await, 502, "the previous issuers stay");
    std::fs::copy(&secure.ca, &ca).unwrap();
    assert_eq!(reloading.reload(config).unwrap(), [""; 0]);
    assert_eq!(status(&edge).await, 200);
}

#[tokio::test]
async fn body_that_breaks_off_at_an_https_origin_breaks_off_at_the_client() {
    let secure = SecureOrigin::with_certificate_for(&["localhost"]).await;
    let edge = secure.edge("localhost", |_| {}).await;
    let cut = Script::ok(pattern(300_000)).cut_at(100_000);
    secure.origin.script("/length", cut.clone());
    secure.origin.script("/chunked", cut.chunked());
    for path in ["/length", "/chunked"] {
        // The connection may end before the head is sent.
        let Ok(open) = edge.get(path).try_open().await else { continue };
        let got = open.rest().await;
        assert!(!got.complete || got.status == 502, "{path}: {}", got.status);
    }
}

#[tokio::test]
async fn websocket_is_tunnelled_to_an_https_origin() {
    let secure = SecureOrigin::with_certificate_for(&["localhost"]).await;
    let edge = secure.edge("localhost", |_| {}).await;
    // The first edge forwards the upgrade; the scripted origin does not switch.
    let got = edge.get("/chat").header("connection", "upgrade").header("upgrade", "websocket").send().await;
    assert_eq!(got.status, 200);
    assert_eq!(secure.origin.seen()[0].header("upgrade"), Some("websocket"));
}
