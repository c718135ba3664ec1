//! HTTPS for clients: certificates, handshakes, resumption, reload.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use peerage::config::{CertificateConfig, MinVersion, Period};
use peerage::{Config, Server};
use rustls::HandshakeKind;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::harness::{Cluster, TestEdge, config, pattern, run, single_edge, within};
use crate::origin::{Origin, Script};
use crate::process::{Process, Signal, line_with};
use crate::programs::require;
use crate::raw_connection;
use client::Client;
use pki::{Ca, Pair};

pub mod client;
pub mod pki;

const ASSET: &str = "/logo-0492830483.png";

/// An edge with one certificate, for `localhost` and 127.0.0.1.
struct Site {
    folder: tempfile::TempDir,
    ca: Ca,
    pair: Pair,
    origin: Origin,
    edge: TestEdge,
}

impl Site {
    async fn start(change: impl FnOnce(&mut Config, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ca, origin) = (Ca::new("test CA"), Origin::start().await);
        let pair = ca.issue(&["localhost", "127.0.0.1"]);
        let edge = single_edge(&origin, |config| {
            config.tls.listen = loopback().into();
            config.tls.certificate = vec![pair.write(folder.path(), "localhost")];
            change(config, folder.path());
        })
        .await;
        Self { folder, ca, pair, origin, edge }
    }

    fn address(&self) -> SocketAddr {
        self.edge.tls.unwrap()
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn second() -> Period {
    "1s".parse().unwrap()
}

#[tokio::test]
async fn hits_and_misses_are_served_over_tls_in_order() {
    let site = Site::start(|_, _| {}).await;
    site.origin.script(ASSET, Script::ok(pattern(100_000)));
    site.origin.script("/plain", Script::ok("plain").header("cache-control", "no-store"));
    let mut connection = Client::new(&site.ca).connect(site.address(), "localhost").await.unwrap();
    for path in [ASSET, ASSET, "/plain", ASSET, "/plain", ASSET] {
        let (head, body) = connection.get("localhost", path).await.unwrap();
        let expected = if path == ASSET { pattern(100_000) } else { "plain".into() };
        assert!(head.starts_with("http/1.1 200") && body == expected, "{head}");
    }
    assert_eq!(site.origin.count(ASSET), 1);
    assert!(site.edge.metric("peerage_tls_handshakes_total{outcome=\"full\"}").await >= 1.0);
}

/// Relays one connection to an edge. Returns the address for its client, and the bytes that the edge
/// sends.
async fn recorder(edge: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, sent) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<u8>>>::default());
    let record = Arc::clone(&sent);
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut edge = TcpStream::connect(edge).await.unwrap();
        let ((mut from_edge, mut to_edge), (mut from_client, mut to_client)) = (edge.split(), client.split());
        let recorded = async {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let read = from_edge.read(&mut buffer).await?;
                record.lock().unwrap().extend_from_slice(&buffer[..read]);
                to_client.write_all(&buffer[..read]).await?;
                if read == 0 {
                    return to_client.shutdown().await;
                }
            }
        };
        let _ = tokio::join!(recorded, tokio::io::copy(&mut from_client, &mut to_edge));
    });
    (address, sent)
}

/// Returns the lengths of TLS records, with their headers.
fn record_lengths(mut bytes: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let Some((&[_, _, _, high, low], rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        lengths.push(5 + length);
        bytes = &rest[length..];
    }
    lengths
}

#[tokio::test]
async fn first_records_of_a_connection_fit_into_a_segment_and_later_ones_are_large() {
    let site = Site::start(|_, _| {}).await;
    let body = pattern(200_000);
    site.origin.script(ASSET, Script::ok(body.clone()));
    let client = Client::new(&site.ca);
    client.connect(site.address(), "localhost").await.unwrap().get("localhost", ASSET).await.unwrap();
    let (address, sent) = recorder(site.address()).await;
    let mut connection = client.connect(address, "localhost").await.unwrap();
    connection.write("GET /missing HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    connection.response().await.unwrap();
    // What comes before belongs to the handshake, and to a small response.
    let before = sent.lock().unwrap().len();
    let (_, received) = connection.get("localhost", ASSET).await.unwrap();
    assert!(received == body);
    let lengths = record_lengths(&sent.lock().unwrap()[before..]);
    let small = lengths.iter().take_while(|&&length| length <= 1400).count();
    assert!((8..=11).contains(&small), "{lengths:?}");
    let largest = lengths[small..].iter().filter(|&&length| length > 16 * 1024).count();
    assert!(largest >= 8 && lengths.len() < small + 24, "{lengths:?}");
}

#[tokio::test]
async fn edge_selects_the_cipher_unless_the_client_prefers_chacha() {
    let site = Site::start(|_, _| {}).await;
    let [aes128, aes256, chacha] = [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    for (offered, selected) in
        [(vec![aes256, aes128, chacha], aes128), (vec![aes256, chacha], aes256), (vec![chacha, aes256, aes128], chacha)]
    {
        let client = Client::with_ciphers(&site.ca, offered.clone());
        let connection = client.connect(site.address(), "localhost").await.unwrap();
        assert_eq!(connection.0.get_ref().1.negotiated_cipher_suite(), Some(selected), "{offered:?}");
    }
}

#[tokio::test]
async fn scheme_of_a_request_over_tls_is_told_and_shares_no_response_with_cleartext() {
    let site = Site::start(|_, _| {}).await;
    let mut connection = Client::new(&site.ca).connect(site.address(), "localhost").await.unwrap();
    site.origin.script("/page", Script::ok("secure").header("cache-control", "max-age=60"));
    for _ in 0..2 {
        assert_eq!(connection.get("localhost", "/page").await.unwrap().1, b"secure");
    }
    site.origin.script("/page", Script::ok("plain").header("cache-control", "max-age=60"));
    for _ in 0..2 {
        assert_eq!(site.edge.get("/page").send().await.text(), "plain");
    }
    assert_eq!(connection.get("localhost", "/page").await.unwrap().1, b"secure");
    let told: Vec<_> =
        site.origin.seen().iter().map(|seen| seen.header("x-forwarded-proto").unwrap().to_owned()).collect();
    assert_eq!(told, ["https", "http"]);
}

#[tokio::test]
async fn pipelined_responses_reach_a_client_that_reads_late() {
    let site = Site::start(|config, _| config.limits.send_buffer = "4KiB".parse().unwrap()).await;
    let body = pattern(30_000);
    site.origin.script(ASSET, Script::ok(body.clone()));
    let client = Client::new(&site.ca);
    client.connect(site.address(), "localhost").await.unwrap().get("localhost", ASSET).await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(site.address()).await.unwrap();
    let mut connection = client.handshake(stream, "localhost").await.unwrap();
    connection.write(&format!("GET {ASSET} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(2)).await;
    // The responses are complete for the edge. They are more than the buffers of the sockets hold,
    // so a part of them waits in the TLS connection, and nothing but a flush sends it.
    site.edge.metric_becomes("peerage_requests_total{source=\"client\",result=\"hit\"}", 2.0).await;
    for number in 0..2 {
        let (_, received) = connection.response().await.unwrap();
        assert!(received == body, "response {number}");
    }
}

#[tokio::test]
async fn client_that_reads_nothing_is_disconnected_after_the_send_timeout() {
    let site = Site::start(|config, _| {
        config.limits.send_buffer = "4KiB".parse().unwrap();
        config.limits.send_timeout = "300ms".parse().unwrap();
    })
    .await;
    site.origin.script(ASSET, Script::ok(pattern(30_000)));
    // The fill's response is sent by hyper, the hit by the fast path.
    for stalled in 1..=2 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(site.address()).await.unwrap();
        let mut connection = Client::new(&site.ca).handshake(stream, "localhost").await.unwrap();
        connection.write(&format!("GET {ASSET} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        site.edge.metric_becomes("peerage_stalled_connections_total", f64::from(stalled)).await;
    }
    assert_eq!(site.origin.count(ASSET), 1);
}

#[tokio::test]
async fn flood_of_http2_control_frames_ends_with_goaway_over_tls() {
    const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const ENHANCE_YOUR_CALM: &[u8] = &[0, 0, 0, 0x0b];
    let site = Site::start(|_, _| {}).await;
    let mut connection = Client::new(&site.ca).connect(site.address(), "localhost").await.unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let flood = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &PING.repeat(3000)].concat();
    // The edge may have closed the connection before the last of it.
    let _ = connection.0.write_all(&flood).await;
    site.edge.metric_becomes("peerage_flooded_connections_total", 1.0).await;
    let (received, _) = connection.rest().await;
    assert!(received.ends_with(ENHANCE_YOUR_CALM), "{received:?}");
}

#[tokio::test]
async fn large_body_is_whole_at_a_slow_reader_and_ends_with_close_notify() {
    let site = Site::start(|_, _| {}).await;
    let body = pattern(5_000_000);
    site.origin.script("/film", Script::ok(body.clone()).header("cache-control", "max-age=60"));
    for _ in 0..6 {
        let mut connection = Client::new(&site.ca).connect(site.address(), "localhost").await.unwrap();
        connection.write("GET /film HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        let (received, end) = connection.rest().await;
        assert!(received.ends_with(&body), "{} bytes", received.len());
        end.unwrap();
    }
    assert_eq!(site.origin.count("/film"), 1);
}

#[tokio::test]
async fn body_that_breaks_off_does_not_end_with_close_notify() {
    let site = Site::start(|_, _| {}).await;
    let body = pattern(300_000);
    site.origin.script("/length", Script::ok(body.clone()).cut_at(100_000));
    site.origin.script("/chunked", Script::ok(body.clone()).chunked().cut_at(100_000));
    for (path, version) in [("/length", "1.1"), ("/chunked", "1.1"), ("/chunked", "1.0")] {
        let mut connection = Client::new(&site.ca).connect(site.address(), "localhost").await.unwrap();
        connection.write(&format!("GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n")).await;
        let (received, end) = connection.rest().await;
        let error = end.expect_err("the end of the body must not look orderly");
        assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
        assert!(received.len() < body.len(), "{path}: {} bytes", received.len());
    }
}

#[tokio::test]
async fn client_that_closes_first_gets_close_notify() {
    let site = Site::start(|_, _| {}).await;
    site.origin.script(ASSET, Script::ok("logo"));
    let mut connection = Client::new(&site.ca).connect(site.address(), "localhost").await.unwrap();
    connection.get("localhost", ASSET).await.unwrap();
    connection.0.shutdown().await.unwrap();
    let (rest, end) = connection.rest().await;
    assert_eq!((rest.len(), end.unwrap()), (0, 0));
}

#[tokio::test]
async fn certificate_is_selected_by_exact_name_then_by_wildcard_then_by_default() {
    let more = Ca::new("test CA");
    let [exact, wildcard, folder] =
        [&["a.example.com"][..], &["*.example.com", "example.org"], &["in.folder.net"]].map(|names| more.issue(names));
    let site = Site::start(|config, path| {
        let directory = path.join("certificates");
        std::fs::create_dir_all(directory.join("in.folder.net")).unwrap();
        std::fs::create_dir_all(directory.join("..hidden")).unwrap();
        // Links, as Kubernetes mounts a secret.
        exact.write(&directory.join("..hidden"), "exact");
        for file in ["exact.pem", "exact.key"] {
            std::os::unix::fs::symlink(Path::new("..hidden").join(file), directory.join(file)).unwrap();
        }
        wildcard.write(&directory, "wildcard");
        let [chain, key] = ["tls.crt", "tls.key"].map(|file| directory.join("in.folder.net").join(file));
        folder.write_as(chain, key);
        config.tls.directory = Some(directory);
    })
    .await;
    let default = &site.pair;
    let (client, own) = (Client::new(&more), Client::new(&site.ca));
    for (name, pair, client) in [
        ("a.example.com", &exact, &client),
        ("A.Example.COM", &exact, &client),
        ("b.example.com", &wildcard, &client),
        ("example.org", &wildcard, &client),
        ("in.folder.net", &folder, &client),
        ("localhost", default, &own),
        ("a.b.example.com", default, &own),
        ("example.com", default, &own),
        ("unknown.net", default, &own),
        ("127.0.0.1", default, &own),
    ] {
        assert_eq!(client.certificate(site.address(), name).await, *pair.certificate.der(), "{name}");
    }
    site.edge.metric_becomes("peerage_tls_certificates{state=\"usable\"}", 4.0).await;
    site.edge.metric_becomes("peerage_tls_certificates{state=\"rejected\"}", 0.0).await;
}

#[tokio::test]
async fn unknown_name_gets_an_alert_if_there_is_no_default_certificate() {
    let site = Site::start(|config, path| {
        config.tls.certificate.clear();
        config.tls.directory = Some(path.to_owned());
    })
    .await;
    let client = Client::new(&site.ca);
    assert_eq!(client.certificate(site.address(), "localhost").await, *site.pair.certificate.der());
    for name in ["unknown.net", "127.0.0.1"] {
        let error = client.connect(site.address(), name).await.err().unwrap().to_string();
        assert!(error.contains("UnrecognisedName"), "{error}");
    }
    site.edge.metric_becomes("peerage_tls_handshakes_total{outcome=\"unknown_name\"}", 2.0).await;
}

#[tokio::test]
async fn unusable_pair_of_the_directory_is_skipped_and_counted() {
    let ca = Ca::new("test CA");
    let [good, other, nameless] = [&["good.net"][..], &["other.net"], &[]].map(|names| ca.issue(names));
    let site = Site::start(|config, path| {
        let directory = path.join("certificates");
        std::fs::create_dir(&directory).unwrap();
        good.write(&directory, "good");
        nameless.write(&directory, "nameless");
        std::fs::write(directory.join("garbage.pem"), "garbage").unwrap();
        other.write(&directory, "mismatch");
        std::fs::write(directory.join("mismatch.key"), good.key.serialize_pem()).unwrap();
        std::fs::write(directory.join("without-key.pem"), good.chain_pem()).unwrap();
        config.tls.directory = Some(directory);
    })
    .await;
    assert_eq!(Client::new(&ca).certificate(site.address(), "good.net").await, *good.certificate.der());
    // The key that does not match is found by its first use, or by the check after the start.
    let shown = Client::new(&site.ca).certificate(site.address(), "other.net").await;
    assert_eq!(shown, *site.pair.certificate.der());
    site.edge.metric_becomes("peerage_tls_certificates{state=\"rejected\"}", 4.0).await;
    site.edge.metric_becomes("peerage_tls_certificates{state=\"usable\"}", 2.0).await;
}

/// Damages the files of a chain and its key.
type Damage<'a> = &'a dyn Fn(&Path, &Path);

#[tokio::test]
async fn unusable_listed_pair_prevents_the_start_with_its_file_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("test CA");
    let [one, other] = ["one.net", "other.net"].map(|name| ca.issue(&[name]));
    let damages: [(Damage<'_>, &str, &str); 6] = [
        (&|_, key| std::fs::write(key, other.key.serialize_pem()).unwrap(), "one.pem", "does not belong"),
        (&|_, key| std::fs::remove_file(key).unwrap(), "one.key", "create the file"),
        (&|chain, _| std::fs::write(chain, "").unwrap(), "one.pem", "no certificate"),
        (&|_, key| std::fs::write(key, one.chain_pem()).unwrap(), "one.key", "no private key"),
        (
            &|_, key| {
                let text = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
                std::fs::write(key, text).unwrap();
            },
            "one.key",
            "openssl pkey",
        ),
        (
            &|chain, _| {
                std::fs::write(chain, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
            },
            "one.pem",
            "invalid certificate",
        ),
    ];
    for (damage, file, remedy) in damages {
        let mut config = config("edge-1");
        config.tls.listen = loopback().into();
        config.tls.certificate = vec![one.write(folder.path(), "one")];
        damage(&config.tls.certificate[0].chain, &config.tls.certificate[0].key);
        let error = Server::bind(config).await.err().unwrap().to_string();
        assert!(error.contains(file) && error.contains(remedy) && !error.contains('\n'), "{error}");
    }
}

#[tokio::test]
async fn session_is_resumed_also_after_a_reload_and_with_both_versions() {
    let site = Site::start(|config, _| config.tls.refresh = second()).await;
    site.origin.script(ASSET, Script::ok("logo"));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = Client::with(&site.ca, None, &[version]);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut connection = client.connect(site.address(), "localhost").await.unwrap();
            assert_eq!(connection.kind(), kind, "{version:?}");
            // Over TLS 1.3 the ticket comes with the response.
            connection.get("localhost", ASSET).await.unwrap();
        }
        let new = site.ca.issue(&["localhost", "127.0.0.1"]);
        new.write(site.folder.path(), "localhost");
        let fresh = Client::new(&site.ca);
        let replaced =
            async { while fresh.certificate(site.address(), "localhost").await != *new.certificate.der() {} };
        within(20, replaced).await;
        assert_eq!(client.connect(site.address(), "localhost").await.unwrap().kind(), HandshakeKind::Resumed);
    }
    assert!(site.edge.metric("peerage_tls_handshakes_total{outcome=\"resumed\"}").await >= 4.0);
}

#[tokio::test]
async fn with_client_ca_clients_need_a_certificate_and_no_other_ticket_replaces_it() {
    let clients = Ca::new("clients");
    let folder = tempfile::tempdir().unwrap();
    let (ca, origin) = (Ca::new("test CA"), Origin::start().await);
    origin.script(ASSET, Script::ok("logo"));
    let mut config = config("edge-1");
    config.origin.url = origin.url();
    config.tls.listen = loopback().into();
    config.tls.refresh = second();
    config.tls.certificate = vec![ca.issue(&["localhost"]).write(folder.path(), "localhost")];
    let server = Server::bind(config.clone()).await.unwrap();
    let mut reloading = server.reloading();
    let edge = run(server);
    let address = edge.tls.unwrap();

    // A session from before the policy.
    let anonymous = Client::new(&ca);
    let mut connection = anonymous.connect(address, "localhost").await.unwrap();
    connection.get("localhost", ASSET).await.unwrap();

    config.tls.client_ca = Some(clients.write(folder.path()));
    assert_eq!(reloading.reload(config.clone()).unwrap(), [""; 0]);
    let (stranger, member) = (Ca::new("strangers").issue(&["client"]), clients.issue(&["client"]));
    let strange = Client::with(&ca, Some(&stranger), rustls::ALL_VERSIONS);
    for client in [anonymous, strange] {
        // Over TLS 1.3 the client learns of the rejection after its own side is complete.
        let answered = match client.connect(address, "localhost").await {
            Ok(mut connection) => connection.get("localhost", ASSET).await.map(drop),
            Err(error) => Err(error),
        };
        answered.unwrap_err();
    }
    edge.metric_becomes("peerage_tls_handshakes_total{outcome=\"client_certificate\"}", 2.0).await;
    let client = Client::with(&ca, Some(&member), rustls::ALL_VERSIONS);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut connection = client.connect(address, "localhost").await.unwrap();
        assert_eq!(connection.kind(), kind);
        assert_eq!(connection.get("localhost", ASSET).await.unwrap().1, b"logo");
    }
    // The connection from before goes on.
    assert_eq!(connection.get("localhost", ASSET).await.unwrap().1, b"logo");

    std::fs::write(config.tls.client_ca.as_ref().unwrap(), "garbage").unwrap();
    let error = reloading.reload(config).unwrap_err().to_string();
    assert!(error.contains("ca.pem") && error.contains("no certificate"), "{error}");
    // The policy stays as it was, and certificates are renewed all the same.
    let renewed = ca.issue(&["localhost"]);
    renewed.write(folder.path(), "localhost");
    let fresh = Client::with(&ca, Some(&member), rustls::ALL_VERSIONS);
    let replaced = async { while fresh.certificate(address, "localhost").await != *renewed.certificate.der() {} };
    within(20, replaced).await;
    let mut connection = client.connect(address, "localhost").await.unwrap();
    assert_eq!(connection.get("localhost", ASSET).await.unwrap().1, b"logo");
}

#[tokio::test]
async fn min_version_rejects_earlier_versions() {
    for (min_version, accepted) in [(MinVersion::Tls12, true), (MinVersion::Tls13, false)] {
        let site = Site::start(|config, _| config.tls.min_version = min_version).await;
        let old = Client::with(&site.ca, None, &[&rustls::version::TLS12]);
        assert_eq!(old.connect(site.address(), "localhost").await.is_ok(), accepted);
        assert!(Client::new(&site.ca).connect(site.address(), "localhost").await.is_ok());
    }
}

#[tokio::test]
async fn files_that_change_are_read_again_under_requests_and_a_bad_pair_changes_nothing() {
    // As Kubernetes mounts a secret: the files are links into a folder that a link names.
    fn mount(pair: &Pair, directory: &Path, version: &str) {
        let folder = directory.join(version);
        std::fs::create_dir(&folder).unwrap();
        pair.write_as(folder.join("tls.crt"), folder.join("tls.key"));
        let link = directory.join("..next");
        std::os::unix::fs::symlink(version, &link).unwrap();
        std::fs::rename(&link, directory.join("..data")).unwrap();
    }
    let ca = Ca::new("test CA");
    let [first, second_pair, third] = [(); 3].map(|()| ca.issue(&["site.net"]));
    let site = Site::start(|config, path| {
        let secret = path.join("certificates/site");
        std::fs::create_dir_all(&secret).unwrap();
        mount(&first, &secret, "..v1");
        for file in ["tls.crt", "tls.key"] {
            std::os::unix::fs::symlink(Path::new("..data").join(file), secret.join(file)).unwrap();
        }
        config.tls.directory = Some(path.join("certificates"));
        config.tls.refresh = second();
    })
    .await;
    site.origin.script(ASSET, Script::ok("logo"));
    let (client, address) = (Client::new(&ca), site.address());
    assert_eq!(client.certificate(address, "site.net").await, *first.certificate.der());
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (client, stop) = (client.clone(), Arc::clone(&stop));
        async move {
            let mut open = client.connect(address, "site.net").await.unwrap();
            let mut requests = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut new = client.connect(address, "site.net").await.unwrap();
                for connection in [&mut open, &mut new] {
                    assert_eq!(connection.get("site.net", ASSET).await.unwrap().1, b"logo");
                    requests += 1;
                }
            }
            requests
        }
    });
    let secret = site.folder.path().join("certificates/site");
    let becomes = async |pair: &Pair| {
        let fresh = Client::new(&ca);
        while fresh.certificate(address, "site.net").await != *pair.certificate.der() {}
    };
    mount(&second_pair, &secret, "..v2");
    within(20, becomes(&second_pair)).await;
    // A key of another certificate: the previous pair stays in use.
    std::fs::write(secret.join("tls.key"), third.key.serialize_pem()).unwrap();
    site.edge.metric_becomes("peerage_tls_certificates{state=\"rejected\"}", 1.0).await;
    assert_eq!(Client::new(&ca).certificate(address, "site.net").await, *second_pair.certificate.der());
    mount(&third, &secret, "..v3");
    within(20, becomes(&third)).await;
    site.edge.metric_becomes("peerage_tls_certificates{state=\"rejected\"}", 0.0).await;
    stop.store(true, Ordering::Relaxed);
    assert!(load.await.unwrap() > 0);
    assert_eq!(site.origin.count(ASSET), 1);
}

#[tokio::test]
async fn expiry_is_logged_and_sighup_loads_the_renewed_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, origin) = (Ca::new("test CA"), Origin::start().await);
    let log = folder.path().join("err");
    let directory = folder.path().join("certificates");
    std::fs::create_dir(&directory).unwrap();
    let issue = |name: &str, hours: u64| ca.issue_for(&[name], Duration::from_hours(hours)).write(&directory, name);
    issue("soon.net", 2);
    issue("later.net", 24 * 365);
    let text = format!("[tls]\nlisten = \"127.0.0.1:0\"\ndirectory = {directory:?}\nrefresh = \"1d\"\n");
    let edge = Process::edge(folder.path(), &origin.url(), &text).await;
    let line = line_with(&log, "certificate expires soon").await;
    assert!(line.contains("soon.net") && line.contains("\"certificates\":1"), "{line}");
    issue("soon.net", 24 * 365);
    std::fs::write(directory.join("later.net.key"), "garbage").unwrap();
    edge.signal(Signal::HUP);
    let line = line_with(&log, "certificate rejected").await;
    assert!(line.contains("later.net.key") && line.contains("the previous certificate"), "{line}");
    let line = line_with(&log, "certificates loaded").await;
    assert!(line.contains("\"added\":1") && line.contains("\"removed\":1"), "{line}");
    line_with(&log, "configuration reloaded").await;
}

#[tokio::test]
async fn other_protocol_than_the_listener_expects_is_counted_and_closed() {
    let site = Site::start(|_, _| {}).await;
    let mut stream = TcpStream::connect(site.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = within(20, stream.read_to_end(&mut rest)).await;
    assert!(!rest.starts_with(b"HTTP"));
    site.edge.metric_becomes("peerage_tls_handshakes_total{outcome=\"not_tls\"}", 1.0).await;
    drop(TcpStream::connect(site.address()).await.unwrap());
    site.edge.metric_becomes("peerage_tls_handshakes_total{outcome=\"closed\"}", 1.0).await;
    assert!(Client::new(&site.ca).connect(site.edge.clients, "localhost").await.is_err());
}

#[tokio::test]
async fn handshake_has_a_timeout_and_counts_as_a_connection() {
    let site = Site::start(|config, _| {
        config.limits.header_timeout = "200ms".parse().unwrap();
        config.limits.connections_per_client = 2;
    })
    .await;
    let idle = [(); 2].map(|()| TcpStream::connect(site.address()));
    let idle = futures_util::future::join_all(idle).await;
    site.edge.metric_becomes("peerage_tls_handshakes_total{outcome=\"timeout\"}", 2.0).await;
    drop(idle);
    site.edge.metric_becomes("peerage_open_connections{source=\"client\"}", 0.0).await;
    assert!(Client::new(&site.ca).connect(site.address(), "localhost").await.is_ok());
}

#[tokio::test]
async fn unfinished_handshake_does_not_delay_the_drain() {
    let mut site = Site::start(|_, _| {}).await;
    let _idle = TcpStream::connect(site.address()).await.unwrap();
    site.edge.metric_becomes("peerage_open_connections{source=\"client\"}", 1.0).await;
    assert_eq!(within(20, site.edge.drain()).await, 0, "connections that were cut");
}

#[tokio::test]
async fn peers_are_not_redirected_and_a_miss_over_tls_is_fetched_once() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, origin) = (Ca::new("test CA"), Origin::start().await);
    let pair = ca.issue(&["localhost"]).write(folder.path(), "localhost");
    let cluster = Cluster::start(2, &origin, |config| {
        config.tls.listen = loopback().into();
        config.tls.certificate = vec![pair.clone()];
        config.edge.redirect_to_https = true;
    })
    .await;
    for owner in 0..2 {
        let path = cluster.path_owned_by(owner, 1);
        origin.script(&path, Script::ok("asset"));
        for edge in &cluster.edges {
            let mut connection = Client::new(&ca).connect(edge.tls.unwrap(), "localhost").await.unwrap();
            let (head, body) = connection.get("localhost", &path).await.unwrap();
            assert!(head.starts_with("http/1.1 200") && body == b"asset", "{head}");
        }
        assert_eq!(origin.count(&path), 1);
    }
}

#[tokio::test]
async fn cleartext_is_redirected_except_for_acme_and_https_gets_hsts() {
    let site = Site::start(|config, _| {
        config.edge.redirect_to_https = true;
        config.tls.hsts = "1d".parse().unwrap();
    })
    .await;
    site.origin.script(ASSET, Script::ok("logo"));
    site.origin.script("/.well-known/acme-challenge/token", Script::ok("challenge"));
    let port = site.address().port();
    for (host, location) in
        [("a.example", "https://a.example/x?y".to_owned()), ("a.example:8001", format!("https://a.example:{port}/x?y"))]
    {
        let mut stream = TcpStream::connect(site.edge.clients).await.unwrap();
        let asked = format!("GET /x?y HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(20, stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
        assert!(answer.contains(&format!("location: {location}\r\n")), "{answer}");
        assert!(!answer.contains("strict-transport-security"), "{answer}");
    }
    let challenge = site.edge.get("/.well-known/acme-challenge/token").send().await;
    assert_eq!((challenge.status.as_u16(), challenge.text()), (200, "challenge"));
    let mut connection = Client::new(&site.ca).connect(site.address(), "localhost").await.unwrap();
    for _ in 0..2 {
        let (head, body) = connection.get("localhost", ASSET).await.unwrap();
        assert!(head.contains("strict-transport-security: max-age=86400\r\n") && body == b"logo", "{head}");
    }
}

#[tokio::test]
async fn redirect_follows_the_scheme_that_a_trusted_proxy_states() {
    let origin = Origin::start().await;
    origin.script("/page", Script::ok("page"));
    let edge = single_edge(&origin, |config| {
        config.edge.redirect_to_https = true;
        config.edge.trusted_proxies.push("127.0.0.1".parse().unwrap());
    })
    .await;
    let served = edge.get("/page").header("x-forwarded-proto", "https").send().await;
    assert_eq!((served.status.as_u16(), served.text()), (200, "page"));
    for proto in ["http", ""] {
        let redirected = edge.get("/page").header("x-forwarded-proto", proto).send().await;
        assert_eq!((redirected.status.as_u16(), redirected.header("location")), (308, "https://site.example/page"));
    }
}

#[tokio::test]
async fn request_for_a_host_with_another_certificate_is_421() {
    let ca = Ca::new("test CA");
    let pair = ca.issue(&["a.net", "b.net"]);
    let site = Site::start(|config, path| config.tls.certificate.push(pair.write(path, "both"))).await;
    site.origin.script(ASSET, Script::ok("logo"));
    let mut connection = Client::new(&ca).connect(site.address(), "a.net").await.unwrap();
    for (host, status) in
        [("a.net", 200), ("b.net", 200), ("B.net.:443", 200), ("localhost", 421), ("a.net", 200), ("localhost", 421)]
    {
        let (head, _) = connection.get(host, ASSET).await.unwrap();
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{host}: {head}");
    }
    let connection = Client::new(&ca).connect(site.address(), "a.net").await.unwrap();
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(connection.0)).await.unwrap();
    tokio::spawn(driver);
    for (host, status) in [("a.net", 200), ("b.net", 200), ("localhost", 421), ("a.net", 200)] {
        let request = Request::get(format!("https://{host}{ASSET}")).body(Full::<Bytes>::default()).unwrap();
        assert_eq!(within(20, sender.send_request(request)).await.unwrap().status(), status, "{host}");
    }
    assert_eq!(site.origin.count(ASSET), 1);
}

#[tokio::test]
async fn edge_without_a_cleartext_listener_serves_over_tls_alone() {
    let site = Site::start(|config, _| config.edge.listen.0.clear()).await;
    assert_eq!(site.edge.clients, site.address());
    site.origin.script(ASSET, Script::ok("logo"));
    let mut connection = Client::new(&site.ca).connect(site.address(), "localhost").await.unwrap();
    assert_eq!(connection.get("localhost", ASSET).await.unwrap().1, b"logo");
}

#[tokio::test]
async fn websocket_is_tunnelled_over_tls() {
    let origin = TcpListener::bind(loopback()).await.unwrap();
    let url = format!("http://{}", origin.local_addr().unwrap()).parse().unwrap();
    let site = Site::start(|config, _| config.origin.url = url).await;
    let mut connection = Client::new(&site.ca).connect(site.address(), "localhost").await.unwrap();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    connection.write(&format!("GET /chat HTTP/1.1\r\nHost: localhost\r\n{upgrade}{key}\r\n")).await;
    let mut accepted = raw_connection::accept(&origin).await;
    accepted.head().await;
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    accepted.write(&format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}{accept}\r\n")).await;
    connection.write("to the origin").await;
    accepted.expect_bytes("to the origin").await;
    accepted.write("to the client").await;
    let mut received = Vec::new();
    while !received.ends_with(b"to the client") {
        received.push(within(20, connection.0.read_u8()).await.unwrap());
    }
    assert!(received.starts_with(b"HTTP/1.1 101"));
}

#[tokio::test]
async fn ten_thousand_certificates_load_lazily() {
    const COUNT: usize = 10_000;
    let ca = Ca::new("test CA");
    let site = Site::start(|config, path| {
        let directory = path.join("certificates");
        std::fs::create_dir(&directory).unwrap();
        ca.write_many(COUNT, &directory);
        config.tls.directory = Some(directory);
    })
    .await;
    let client = Client::new(&ca);
    for number in [0, COUNT / 2, COUNT - 1] {
        let name = format!("host-{number}.example");
        let shown = client.certificate(site.address(), &name).await;
        assert!(shown.windows(name.len()).any(|part| part == name.as_bytes()), "{name}");
    }
    site.edge.metric_becomes("peerage_tls_certificates{state=\"usable\"}", 10_001.0).await;
}

/// Runs a program to its end. Returns its exit code, standard output and standard error.
pub async fn program(name: &str, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::new(name);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    // A program that does not read its input may end first.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
    let output = within(60, child.wait_with_output()).await.unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code(), out, err)
}

#[tokio::test]
async fn resumption_ends_with_the_validity_of_the_client_certificate() {
    let clients = Ca::new("clients");
    let folder = tempfile::tempdir().unwrap();
    let issuers = clients.write(folder.path());
    let site = Site::start(|config, _| config.tls.client_ca = Some(issuers)).await;
    for version in rustls::ALL_VERSIONS {
        let mut resumed = 0;
        // A busy machine may need longer for two handshakes.
        for validity in [4, 20, 60].map(Duration::from_secs) {
            let identity = clients.issue_for(&["client"], validity);
            let client = Client::with(&site.ca, Some(&identity), &[version]);
            // With TLS 1.3 the client sees only at its first request that it was rejected.
            let connected = async {
                while let Ok(mut connection) = client.connect(site.address(), "localhost").await
                    && connection.get("localhost", "/missing").await.is_ok()
                {
                    resumed += usize::from(connection.kind() == HandshakeKind::Resumed);
                }
            };
            within(120, connected).await;
            if resumed > 0 {
                break;
            }
        }
        assert!(resumed > 0);
    }
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_gets_http1_and_http2_over_tls_and_refuses_another_ca() {
    require(&["curl"]);
    let folder = tempfile::tempdir().unwrap();
    let (ca, origin) = (Ca::new("test CA"), Origin::start().await);
    origin.script(ASSET, Script::ok(pattern(300_000)));
    let CertificateConfig { chain, key, .. } = ca.issue(&["localhost"]).write(folder.path(), "localhost");
    let trusted = ca.write(folder.path());
    let another = tempfile::tempdir().unwrap();
    let another = Ca::new("another CA").write(another.path());
    let text = format!(
        "[tls]\nlisten = \"127.0.0.1:0\"\n[[tls.certificate]]\nchain = {chain:?}\nkey = {key:?}\n[log]\nformat = \"json\"\n"
    );
    let edge = Process::edge(folder.path(), &origin.url(), &text).await;
    let port = edge.tls.unwrap().port();
    let url = format!("https://localhost:{port}{ASSET}");
    let curl = async |ca: &Path, option: &str| {
        let written = "%{http_version} %{size_download} %{ssl_verify_result}";
        let arguments = ["-q", "-sS", "--noproxy", "*", "-o", "/dev/null", "-w", written, "--cacert"];
        let option: Vec<_> = option.split(' ').collect();
        program("curl", &[&arguments[..], &[ca.to_str().unwrap()], &option, &[&url]].concat(), "").await
    };
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2"), ("--tls-max 1.2", "2"), ("--http1.1", "1.1")] {
        let (code, out, err) = curl(&trusted, option).await;
        assert_eq!((code, out), (Some(0), format!("{version} 300000 0")), "{option}: {err}");
    }
    let (code, _, err) = curl(&another, "--http2").await;
    assert_eq!(code, Some(60), "{err}");
    assert_eq!(origin.count(ASSET), 1);
    for (protocol, tls) in [("HTTP/1.1", "TLSv1.3"), ("HTTP/2", "TLSv1.3"), ("HTTP/2", "TLSv1.2")] {
        let line =
            line_with(&edge.out, &format!("\"protocol\":\"{protocol}\",\"tls\":\"{tls}\",\"cipher\":\"TLS")).await;
        assert!(line.contains(ASSET), "{line}");
    }
    // Each side of a mistaken port is one line.
    let plain = format!("http://localhost:{port}/");
    let (code, ..) = program("curl", &["-q", "-sS", "--noproxy", "*", &plain], "").await;
    assert_ne!(code, Some(0));
    line_with(&folder.path().join("err"), "cleartext request on a TLS port").await;
    let wrong = format!("https://{}/", edge.clients);
    let (code, ..) = program("curl", &["-q", "-sSk", "--noproxy", "*", &wrong], "").await;
    assert_ne!(code, Some(0));
    line_with(&folder.path().join("err"), "TLS handshake on a cleartext port").await;
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_reports_a_truncated_body_over_tls() {
    require(&["curl"]);
    let site = Site::start(|_, _| {}).await;
    site.origin.script("/length", Script::ok(pattern(300_000)).cut_at(100_000));
    site.origin.script("/chunked", Script::ok(pattern(300_000)).chunked().cut_at(100_000));
    let ca = site.ca.write(site.folder.path());
    for path in ["/length", "/chunked"] {
        for option in ["--http1.1", "--http2", "--http1.0"] {
            let url = format!("https://localhost:{}{path}", site.address().port());
            let arguments = ["-q", "-sS", "--noproxy", "*", "-o", "/dev/null", option, "--cacert"];
            let (code, _, err) = program("curl", &[&arguments[..], &[ca.to_str().unwrap(), &url]].concat(), "").await;
            assert_ne!(code, Some(0), "{option} {path}: {err}");
        }
    }
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn openssl_resumes_a_saved_session() {
    require(&["openssl"]);
    let site = Site::start(|_, _| {}).await;
    site.origin.script(ASSET, Script::ok("logo"));
    let ca = site.ca.write(site.folder.path());
    let address = site.address().to_string();
    let file = site.folder.path().join("session");
    for version in ["-tls1_2", "-tls1_3"] {
        for (option, kind) in [("-sess_out", "New, TLSv1."), ("-sess_in", "Reused, TLSv1.")] {
            let arguments =
                ["s_client", "-connect", &address, "-servername", "localhost", "-verify_return_error", version];
            let more = ["-CAfile", ca.to_str().unwrap(), option, file.to_str().unwrap(), "-ign_eof"];
            let request = format!("GET {ASSET} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let (code, out, err) = program("openssl", &[&arguments[..], &more].concat(), &request).await;
            assert_eq!(code, Some(0), "{err}");
            assert!(out.contains(kind) && out.contains("logo"), "{version} {option}: {out}");
        }
    }
    assert!(site.edge.metric("peerage_tls_handshakes_total{outcome=\"resumed\"}").await >= 2.0);
}

#[tokio::test]
#[ignore = "needs python3"]
async fn python_keeps_a_verified_connection_and_sees_its_orderly_end() {
    require(&["python3"]);
    let site = Site::start(|_, _| {}).await;
    site.origin.script(ASSET, Script::ok(pattern(100_000)));
    let ca = site.ca.write(site.folder.path());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/keep_alive.py");
    let port = site.address().port().to_string();
    let (code, out, err) = program("python3", &[script, ca.to_str().unwrap(), &port, ASSET], "").await;
    assert_eq!((code, out.as_str()), (Some(0), "100000 100000 100000 TLSv1.3 closed in order\n"), "{err}");
}
