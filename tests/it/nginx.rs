//! A real nginx as the origin.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;

use crate::harness::{TestEdge, assert_same, join_all, pattern, single_edge, within};
use crate::origin::Origin;
use crate::process::free_ports;
use crate::programs::require;
use crate::tls::pki::Ca;

/// An nginx that is killed with the test.
struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    /// Starts an nginx that serves `folder` and keeps its own files there. `http` is added to the
    /// http block of its configuration.
    async fn start(folder: &Path, http: &str) -> Self {
        require(&["nginx"]);
        let port = free_ports(1)[0];
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths: String = temporary.map(|name| format!("{name}_temp_path {name};\n")).concat();
        let text = format!(
            "daemon off; master_process off; pid nginx.pid; error_log error.log;\nevents {{}}\nhttp {{\n{paths}types {{ text/css css; }}\naccess_log off;\n{http}\nserver {{ listen 127.0.0.1:{port}; root {}; }}\n}}\n",
            folder.display()
        );
        std::fs::write(folder.join("nginx.conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder).args(["-e", "error.log", "-c", "nginx.conf"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let nginx = Self { child, address: ([127, 0, 0, 1], port).into() };
        let listens = async {
            while TcpStream::connect(nginx.address).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        within(20, listens).await;
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn response_that_nginx_compressed_is_revalidated_by_its_weak_entity_tag() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("app.css"), "body { color: red; }\n".repeat(100)).unwrap();
    let gzip = "gzip on; gzip_vary on; gzip_proxied any; gzip_types text/css; add_header Cache-Control no-cache;";
    let nginx = Nginx::start(folder.path(), gzip).await;
    let unused = Origin::start().await;
    let edge =
        single_edge(&unused, |config| config.origin.url = format!("http://{}", nginx.address).parse().unwrap()).await;
    let get = || edge.get("/app.css").header("accept-encoding", "gzip").send();
    let first = get().await;
    assert!(first.header("etag").starts_with("W/\"") && first.cache_status().ends_with(";stored"), "{first:?}");
    for _ in 0..4 {
        let got = get().await;
        assert!(got.cache_status().contains(";fwd=stale;fwd-status=304"), "{}", got.cache_status());
        assert_eq!((got.status.as_u16(), got.complete, &got.body), (200, true, &first.body));
        for (field, value) in
            [("etag", first.header("etag")), ("content-encoding", "gzip"), ("vary", "Accept-Encoding")]
        {
            assert_eq!(got.header(field), value);
        }
    }
    // A client with the current entity tag gets a 304.
    let held = edge.get("/app.css").header("accept-encoding", "gzip").header("if-none-match", first.header("etag"));
    assert_eq!(held.send().await.status, 304);
    // Changed contents have another entity tag.
    std::fs::write(folder.path().join("app.css"), "body { color: blue; }\n".repeat(50)).unwrap();
    let changed = get().await;
    assert!(changed.header("etag") != first.header("etag") && changed.body != first.body, "{changed:?}");
}

/// Starts an nginx that serves `folder` over TLS with these directives, and an edge in front of it.
async fn over_tls(folder: &Path, server: &str) -> (Nginx, TestEdge) {
    let (ca, port) = (Ca::new("CA of nginx"), free_ports(1)[0]);
    ca.issue(&["127.0.0.1"]).write(folder, "server");
    let listen =
        format!("listen 127.0.0.1:{port} ssl http2; ssl_certificate server.pem; ssl_certificate_key server.key;");
    let root = format!("root {};", folder.display());
    let nginx = Nginx::start(folder, &format!("server {{ {listen} {root} {server} }}")).await;
    let unused = Origin::start().await;
    let edge = single_edge(&unused, |config| {
        config.origin.url = format!("https://127.0.0.1:{port}").parse().unwrap();
        config.origin.ca = Some(ca.write(folder));
    });
    (nginx, edge.await)
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn fills_over_http2_survive_the_connection_limits_of_nginx() {
    let folder = tempfile::tempdir().unwrap();
    let body = pattern(100_000);
    for n in 0..400 {
        std::fs::write(folder.path().join(format!("{n}.bin")), &body).unwrap();
    }
    let limits = "keepalive_requests 50; http2_max_concurrent_streams 8; add_header X-Protocol $server_protocol;";
    let (_nginx, edge) = over_tls(folder.path(), limits).await;
    for round in 0..8 {
        let gets = (0..50).map(|n| edge.get(&format!("/{}.bin", round * 50 + n)).send());
        for got in within(60, join_all(gets)).await {
            assert_same(&got, &body);
            assert_eq!(got.header("x-protocol"), "HTTP/2.0");
        }
    }
    let head = edge.request(http::Method::HEAD, "/0.bin").header("authorization", "x").send().await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "100000"));
    let range = edge.get("/1.bin").header("authorization", "x").header("range", "bytes=5-104").send().await;
    assert_eq!((range.status.as_u16(), range.complete, range.body.len()), (206, true, 100));
    assert_eq!(edge.get("/absent").send().await.status, 404);
}
