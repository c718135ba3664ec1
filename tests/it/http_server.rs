//! HTTP for clients and operators.

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use peerage::config::{Period, Size, ZeroCopy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::client::{RequestBuilder, request};
use crate::harness::{Cluster, TestEdge, pattern, single_edge, within};
use crate::origin::{Gate, Origin, Script, Seen};

const ASSET: &str = "/logo-0492830483.png";
/// Names that hold the digest of their contents, `pixels`.
const VERIFIED: &str = "/v2/x/blobs/sha256:6ec9c2b0eb14010746c8bce8939303b382344b296206612eb8a907a37b2b2f37";
const CHUNKED: &str = "/v2/chunked/blobs/sha256:6ec9c2b0eb14010746c8bce8939303b382344b296206612eb8a907a37b2b2f37";

#[tokio::test]
async fn http_1_1_and_http_2_get_the_same_response() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(ASSET, Script::ok("pixels").header("content-type", "image/png").header("etag", "\"a\""));
    for _ in 0..2 {
        let one = edge.get(ASSET).send().await;
        let two = edge.get(ASSET).http2().send().await;
        for got in [one, two] {
            assert_eq!((got.text(), got.header("content-type"), got.header("etag")), ("pixels", "image/png", "\"a\""));
            assert_eq!((got.header("via"), got.header("content-length")), ("1.1 edge-1", "6"));
            assert!(!got.header("date").is_empty());
        }
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    // For a verified name a HEAD fetches the body; for another name, only the head.
    for (path, fetched_by, script) in [
        (VERIFIED, "GET", Script::ok("pixels")),
        (CHUNKED, "GET", Script::ok("pixels").chunked()),
        (ASSET, "HEAD", Script::ok("pixels")),
        ("/page", "HEAD", Script::ok("pixels")),
    ] {
        origin.script(path, script);
        let miss = edge.request(Method::HEAD, path).send().await;
        assert_eq!((miss.status.as_u16(), miss.body.len()), (200, 0));
        let seen = origin.seen().pop().unwrap();
        assert_eq!((seen.target.as_str(), seen.method.as_str()), (path, fetched_by));
        edge.get(path).send().await;
        let hit = edge.request(Method::HEAD, path).send().await;
        assert_eq!((hit.header("content-length"), hit.body.len()), ("6", 0), "{path}");
        let hit = edge.request(Method::HEAD, path).http2().send().await;
        assert_eq!((hit.header("content-length"), hit.body.len()), ("6", 0), "{path}");
        assert!(fetched_by == "HEAD" || origin.count(path) == 1, "{path}");
    }
}

#[tokio::test]
async fn conditions_and_ranges_are_evaluated_on_a_hit() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let body = pattern(1000);
    origin.script(ASSET, Script::ok(body.clone()).header("etag", "\"a\"").header("content-type", "image/png"));
    edge.get(ASSET).send().await;
    let get = |name, value: &'static str| edge.get(ASSET).header(name, value).send();
    let same = get("if-none-match", "\"b\", \"a\"").await;
    assert_eq!((same.status.as_u16(), same.body.len(), same.header("etag")), (304, 0, "\"a\""));
    assert_eq!(get("if-none-match", "\"b\"").await.status, 200);
    for (range, status, part, shown) in [
        ("bytes=0-9", 206, &body[..10], "bytes 0-9/1000"),
        ("bytes=-10", 206, &body[990..], "bytes 990-999/1000"),
        ("bytes=990-", 206, &body[990..], "bytes 990-999/1000"),
        ("bytes=1000-", 416, &body[..0], "bytes */1000"),
        ("bytes=x", 200, &body[..], ""),
    ] {
        let got = get("range", range).await;
        assert_eq!((got.status.as_u16(), got.header("content-range")), (status, shown), "{range}");
        assert_eq!(got.body, part);
        assert_eq!(got.header("cache-control") == "no-store", status == 416, "{range}");
    }
    assert_eq!(origin.count(ASSET), 1);
    // If-Match is evaluated after a revalidation at the origin (RFC 9111 §4.3.2).
    assert_eq!(get("if-match", "\"b\"").await.status, 412);
    assert_eq!(origin.count(ASSET), 2);
}

/// Returns the parts of a multipart/byteranges body: Content-Range and content.
fn parts(got: &crate::client::FullResponse) -> Vec<(String, String)> {
    let boundary = got.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap().to_owned();
    let whole = got.text();
    let (inner, end) = whole.rsplit_once(&format!("\r\n--{boundary}--")).unwrap();
    assert_eq!(end, "\r\n");
    let delimiter = format!("\r\n--{boundary}\r\n");
    let parts = inner.split(&delimiter).skip(1);
    let part = |part: &str| {
        let (head, content) = part.split_once("\r\n\r\n").unwrap();
        let line = |name| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        assert_eq!(line("Content-Type:"), "text/plain");
        (line("Content-Range:"), content.to_owned())
    };
    parts.map(part).collect()
}

#[tokio::test]
async fn several_ranges_are_a_multipart_body_on_a_hit_and_on_a_flight() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let body: String = (0..100).map(|i| format!("{i:09}\n")).collect();
    let gate = Gate::closed();
    origin.script(ASSET, Script::ok(body.clone()).header("content-type", "text/plain").hold_body(&gate));
    gate.open(600);
    let mut first = edge.get(ASSET).open().await;
    first.read_at_least(600).await;
    for turn in ["flight", "hit"] {
        let got = within(20, edge.get(ASSET).header("range", "bytes=500-509, 0-9").send()).await;
        assert_eq!((got.status.as_u16(), got.complete), (206, true), "{turn}");
        assert_eq!(got.header("content-length"), got.body.len().to_string());
        let expected = [("bytes 500-509/1000", &body[500..510]), ("bytes 0-9/1000", &body[..10])];
        assert_eq!(parts(&got), expected.map(|(range, part)| (range.to_owned(), part.to_owned())));
        if turn == "flight" {
            gate.open(1000);
            edge.metric_becomes("peerage_cache_objects{tier=\"main\"}", 1.0).await;
        }
    }
    let head = edge.request(Method::HEAD, ASSET).header("range", "bytes=0-9,500-509").send().await;
    assert_eq!(head.status, 200);
    assert_eq!(origin.count(ASSET), 1);
}

#[tokio::test]
async fn other_methods_are_forwarded_with_their_bodies() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("/form", Script::ok("thanks"));
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        let got = edge.request(method.clone(), "/form?x=1").body("a=b").send().await;
        assert_eq!(got.cache_status(), "edge-1;fwd=method");
        let seen = origin.seen().pop().unwrap();
        assert_eq!(
            (seen.method.as_str(), seen.target.as_str(), seen.body.as_slice()),
            (method.as_str(), "/form?x=1", &b"a=b"[..])
        );
    }
    assert_eq!(edge.request(Method::TRACE, "/form").send().await.status, 405);
}

#[tokio::test]
async fn only_listed_methods_reach_the_origin() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("done"));
    let listed = |methods: &'static [&'static str]| {
        single_edge(&origin, move |config| {
            config.limits.methods = methods.iter().map(|&name| name.to_owned()).collect();
        })
    };
    let by_default = single_edge(&origin, |_| {}).await;
    let reading = listed(&["GET", "HEAD"]).await;
    let dav = listed(&["GET", "HEAD", "PROPFIND"]).await;
    let every = "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE";
    for (edge, method, status, allow) in [
        (&by_default, "POST", 200, ""),
        (&by_default, "PURGE", 405, every),
        (&by_default, "TRACE", 405, every),
        (&by_default, "PROPFIND", 501, ""),
        (&by_default, "post", 501, ""),
        (&reading, "HEAD", 200, ""),
        (&reading, "POST", 405, "GET, HEAD"),
        (&reading, "OPTIONS", 405, "GET, HEAD"),
        (&dav, "PROPFIND", 200, ""),
        (&dav, "MKCOL", 501, ""),
    ] {
        for over in [|ask: RequestBuilder| ask, RequestBuilder::http2] {
            let before = origin.seen().len();
            let got = over(edge.request(method.parse().unwrap(), "/form").body("a=b")).send().await;
            assert_eq!((got.status.as_u16(), got.header("allow")), (status, allow), "{method}");
            assert_eq!(origin.seen().len() - before, usize::from(status == 200), "{method}");
            // The connection and the edge stay usable.
            assert_eq!(over(edge.get(ASSET)).send().await.text(), "done");
        }
    }
}

#[tokio::test]
async fn request_and_response_bodies_are_streamed() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script("/form", Script::ok(pattern(100_000)).hold_body(&gate));
    let edge = single_edge(&origin, |_| {}).await;
    gate.open(10);
    let mut open = within(20, edge.request(Method::POST, "/form").body(pattern(500_000)).open()).await;
    assert!(within(20, open.read_at_least(10)).await == pattern(100_000)[..10]);
    assert!(origin.seen()[0].body == pattern(500_000));
    gate.open(100_000);
    assert!(open.rest().await.complete);
}

#[tokio::test]
async fn hop_by_hop_headers_are_not_forwarded() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin
        .script("/a", Script::ok("x").header("connection", "x-inner").header("x-inner", "1").header("keep-alive", "5"));
    let got = edge
        .request(Method::POST, "/a")
        .header("connection", "x-outer, via")
        .header("x-outer", "1")
        .header("te", "trailers")
        .send()
        .await;
    assert_eq!((got.header("x-inner"), got.header("keep-alive")), ("", ""));
    let seen = &origin.seen()[0];
    assert_eq!((seen.header("x-outer"), seen.header("te"), seen.header("via")), (None, None, Some("1.1 edge-1")));
}

#[tokio::test]
async fn via_has_the_http_version_of_each_message() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    for name in ["/page-", "/logo-abcdef"] {
        for version in ["1.0", "1.1", "2.0"] {
            let path = format!("{name}{}.png", version.replace('.', ""));
            origin.script(&path, Script::ok("x"));
            match version {
                "1.0" => assert!(raw(&edge, &format!("GET {path} HTTP/1.0\r\n\r\n")).await.contains(" 200 ")),
                "1.1" => assert_eq!(edge.get(&path).send().await.status, 200),
                _ => assert_eq!(edge.get(&path).http2().send().await.status, 200),
            }
            let seen = origin.seen().pop().unwrap();
            assert_eq!((&seen.target, seen.header("via")), (&path, Some(&*format!("{version} edge-1"))));
        }
    }
    for path in ["/old", "/old-abcdef10.png"] {
        origin.script(path, Script::raw("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"));
        for ask in [edge.get(path), edge.get(path).http2()] {
            let got = ask.send().await;
            assert_eq!((got.text(), got.header("via")), ("ok", "1.0 edge-1"), "{path}: {}", got.cache_status());
        }
    }
}

/// Returns the values of a header, in their order.
fn values(seen: &Seen, name: &str) -> Vec<String> {
    let lines = seen.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
    lines.map(|(_, value)| value.clone()).collect()
}

#[tokio::test]
async fn cookie_headers_over_http_2_are_joined() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("/page", Script::ok("x"));
    for method in [Method::GET, Method::POST] {
        let ask = edge.request(method, "/page").http2();
        ask.header("cookie", "a=1").header("cookie", "b=2; c=3").send().await;
        assert_eq!(values(&origin.seen().pop().unwrap(), "cookie"), ["a=1; b=2; c=3"]);
    }
}

#[tokio::test]
async fn cdn_loop_names_each_edge_and_a_returning_request_is_508() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("*", Script::ok("x"));
    for path in ["/page", ASSET] {
        edge.get(path).header("cdn-loop", "other.example").send().await;
        let ids = values(&origin.seen().pop().unwrap(), "cdn-loop").join(", ");
        let own = ids.strip_prefix("other.example, ").unwrap();
        assert!(own.starts_with("peerage-") && !own.contains(','), "{ids}");
        let requests = origin.seen().len();
        for ask in [edge.get(path), edge.get(path).http2(), edge.request(Method::POST, path)] {
            assert_eq!(ask.header("cdn-loop", &ids).send().await.status, 508);
        }
        assert_eq!(origin.seen().len(), requests);
    }
}

#[tokio::test]
async fn transfer_coding_other_than_chunked_is_501() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("x"));
    let edge = single_edge(&origin, |_| {}).await;
    for method in ["GET", "POST"] {
        let request = |coding: &str| {
            format!(
                "{method} /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: {coding}\r\nconnection: close\r\n\r\n0\r\n\r\n"
            )
        };
        let answer = raw(&edge, &request("gzip, chunked")).await;
        assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
        assert!(origin.seen().is_empty());
    }
}

#[tokio::test]
async fn invalid_targets_are_rejected_and_not_forwarded() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    for (target, status) in [
        ("/a/../b".to_owned(), 400),
        ("/a%2f..%2fb".to_owned(), 400),
        ("/a%00".to_owned(), 400),
        ("/%zz".to_owned(), 400),
        (format!("/{}", "a".repeat(20_000)), 414),
    ] {
        let got = edge.get(&target).send().await;
        assert_eq!(got.status, status);
        assert!(got.cache_status().starts_with("edge-1;detail="));
    }
    assert!(origin.seen().is_empty());
}

async fn raw(edge: &crate::harness::TestEdge, request: &str) -> String {
    let mut stream = TcpStream::connect(edge.clients).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(20, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn malformed_requests_get_an_error_and_a_closed_connection() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("x"));
    let edge = single_edge(&origin, |_| {}).await;
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(1_000_000));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: x\r\n\r\n", "400"),
        ("nonsense\r\n\r\n", "400"),
        (&long, "431"),
    ] {
        let answer = raw(&edge, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    edge.metric_becomes("peerage_malformed_requests_total", 4.0).await;
}

#[tokio::test]
async fn request_without_exactly_one_host_is_400() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("x"));
    let edge = single_edge(&origin, |_| {}).await;
    for (request, status) in [
        ("GET /a HTTP/1.1\r\nconnection: close\r\n\r\n", "400"),
        ("GET /a HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n", "400"),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", "405"),
    ] {
        let answer = raw(&edge, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    assert!(raw(&edge, "GET /a HTTP/1.0\r\n\r\n").await.contains(" 200 "));
}

#[tokio::test]
async fn silent_client_and_stalled_reader_are_disconnected() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| {
        config.limits.header_timeout = Period(std::time::Duration::from_millis(100));
        config.limits.send_timeout = Period(std::time::Duration::from_millis(100));
    })
    .await;
    for beginning in ["", "PRI * HTTP/2.0\r\n", "GET / HT"] {
        let answer = raw(&edge, beginning).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    // A body larger than the socket buffers, of which the client reads nothing.
    origin.script(ASSET, Script::ok(pattern(30_000_000)));
    let mut silent = TcpStream::connect(edge.clients).await.unwrap();
    silent.write_all(format!("GET {ASSET} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let error = "peerage_requests_total{source=\"client\",result=\"miss\"}";
    edge.metric_becomes(error, 1.0).await;
    let mut came = Vec::new();
    // The connection may be closed or reset.
    let _ = within(20, silent.read_to_end(&mut came)).await;
    assert!(came.len() < 30_000_000);
    // The silent clients do not count as stalled.
    edge.metric_becomes("peerage_stalled_connections_total", 1.0).await;
}

#[tokio::test]
async fn new_admin_connection_replaces_the_oldest_one_at_the_limit() {
    let edge = single_edge(&Origin::start().await, |_| {}).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(edge.admin).await.unwrap());
    }
    let healthy = request(edge.admin, Method::GET, "/healthz").send();
    assert_eq!(within(20, healthy).await.status, 200);
    // The oldest connection made room, and no other one.
    assert!(!matches!(within(20, silent[0].read(&mut [0])).await, Ok(1..)));
    silent[63].write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(within(20, silent[63].read_u8()).await.unwrap(), b'H');
}

#[tokio::test]
async fn a_flood_of_http2_control_frames_ends_the_connection_with_enhance_your_calm() {
    let edge = single_edge(&Origin::start().await, |config| config.limits.control_frames = 100).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let ping = [&b"\0\0\x08\x06"[..], &[0; 13]].concat();
    let settings = b"\0\0\0\x04\0\0\0\0\0".to_vec();
    let priority = b"\0\0\x05\x02\0\0\0\0\x01\0\0\0\0\x10".to_vec();
    let window_update = b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01".to_vec();
    for (ended, frame) in [ping, settings, priority, window_update].into_iter().enumerate() {
        let mut client = TcpStream::connect(edge.clients).await.unwrap();
        // The connection may be reset before everything is sent.
        let _ = client.write_all(&[preface.to_vec(), frame.repeat(1000)].concat()).await;
        let mut came = Vec::new();
        let _ = within(20, client.read_to_end(&mut came)).await;
        let go_away = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b";
        assert!(came.ends_with(go_away), "{frame:?}: {came:?}");
        let flooded = f64::from(u32::try_from(ended).unwrap() + 1);
        edge.metric_becomes("peerage_flooded_connections_total", flooded).await;
    }
}

#[tokio::test]
async fn http_2_stream_with_a_closed_window_ends_after_send_timeout() {
    let origin = Origin::start().await;
    let edge =
        single_edge(&origin, |config| config.limits.send_timeout = Period(std::time::Duration::from_millis(100))).await;
    // More than the client's windows allow.
    origin.script(ASSET, Script::ok(pattern(30_000_000)));
    let open = edge.get(ASSET).http2().open().await;
    edge.metric_becomes("peerage_requests_total{source=\"client\",result=\"miss\"}", 1.0).await;
    assert!(!within(20, open.rest()).await.complete);
    edge.metric_becomes("peerage_stalled_connections_total", 1.0).await;
}

/// Connects an HTTP/2 client with this initial window for each stream.
async fn connect_with_window(
    edge: &TestEdge,
    window: u32,
) -> (SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>) {
    let io = TokioIo::new(TcpStream::connect(edge.clients).await.unwrap());
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.initial_stream_window_size(window).handshake(io).await.unwrap();
    (sender, tokio::spawn(connection))
}

async fn request_asset(sender: &mut SendRequest<Empty<Bytes>>) -> Incoming {
    let request = http::Request::get(format!("http://site.example{ASSET}")).body(Empty::new()).unwrap();
    let response = within(20, sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body()
}

#[tokio::test]
async fn small_http_2_responses_that_are_not_read_end_after_send_timeout() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| {
        config.limits.send_timeout = Period(std::time::Duration::from_millis(200));
    })
    .await;
    origin.script(ASSET, Script::ok("pixels"));
    // With the first byte that the window lets through, the connection holds the whole body.
    for window in [0, 1] {
        let (mut sender, connection) = connect_with_window(&edge, window).await;
        let mut bodies = Vec::new();
        for _ in 0..5 {
            bodies.push(request_asset(&mut sender).await);
        }
        let _ = within(20, connection).await.unwrap();
        for body in bodies {
            assert!(body.collect().await.is_err());
        }
    }
}

#[tokio::test]
async fn slow_http_2_reader_is_not_cut_and_keeps_a_paused_stream_open() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| {
        config.limits.send_timeout = Period(std::time::Duration::from_secs(2));
    })
    .await;
    let body = pattern(200_000);
    origin.script(ASSET, Script::ok(body.clone()));
    let (mut sender, connection) = connect_with_window(&edge, 16 * 1024).await;
    let paused = request_asset(&mut sender).await;
    let mut slow = request_asset(&mut sender).await;
    let mut came = Vec::new();
    while let Some(frame) = within(20, slow.frame()).await {
        came.extend_from_slice(&frame.unwrap().into_data().unwrap());
        // Time has to pass here: longer than send_timeout, in which a connection may accept
        // nothing, and less than twice that. A busy machine may lengthen each pause a lot.
        tokio::time::sleep(std::time::Duration::from_millis(180)).await;
    }
    assert!(came == body);
    // From here on, no stream is read.
    let _ = within(20, connection).await.unwrap();
    assert!(paused.collect().await.is_err());
}

#[tokio::test]
async fn idle_http_2_connection_is_closed_with_goaway() {
    let origin = Origin::start().await;
    origin.script(ASSET, Script::ok("x"));
    let edge =
        single_edge(&origin, |config| config.limits.header_timeout = Period(std::time::Duration::from_millis(100)))
            .await;
    let io = TokioIo::new(TcpStream::connect(edge.clients).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get(format!("http://site.example{ASSET}")).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(within(20, sender.send_request(request)).await.unwrap().status(), 200);
    // The client still holds the connection, and is told to close it.
    assert!(within(20, connection).await.unwrap().is_ok());
    drop(sender);
}

#[tokio::test]
async fn statuses_bytes_and_connections_are_counted() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("thanks"));
    let edge = single_edge(&origin, |_| {}).await;
    assert_eq!(edge.request(Method::POST, "/a").body("all of it").send().await.text(), "thanks");
    edge.get("/a").header("range", "bytes=0-").header("expect", "the unexpected").send().await;
    edge.metric_becomes("peerage_received_bytes_total{source=\"client\"}", 9.0).await;
    edge.metric_becomes("peerage_requests_total{source=\"client\",result=\"pass\",status=\"2xx\"}", 1.0).await;
    edge.metric_becomes("peerage_requests_total{source=\"client\",result=\"error\",status=\"4xx\"}", 1.0).await;
    assert!(edge.metric("peerage_sent_bytes_total{source=\"client\"}").await > 5.0);
    let open = TcpStream::connect(edge.clients).await.unwrap();
    edge.metric_becomes("peerage_open_connections{source=\"client\"}", 1.0).await;
    drop(open);
    edge.metric_becomes("peerage_open_connections{source=\"client\"}", 0.0).await;
    assert!(edge.metric("process_resident_memory_bytes").await > 1e6);
}

#[tokio::test]
async fn long_upload_does_not_count_in_first_byte_timeout() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("thanks"));
    let edge = single_edge(&origin, |config| {
        config.origin.first_byte_timeout = Period(std::time::Duration::from_millis(1500));
    })
    .await;
    let mut stream = TcpStream::connect(edge.clients).await.unwrap();
    stream.write_all(b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nconnection: close\r\n\r\n").await.unwrap();
    for _ in 0..10 {
        // Time has to pass here.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        stream.write_all(b"x").await.unwrap();
    }
    let mut answer = String::new();
    within(20, stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn response_of_an_http_1_0_origin_is_sent_as_http_1_1() {
    let origin = Origin::start().await;
    origin.script("*", Script::raw("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"));
    let edge = single_edge(&origin, |_| {}).await;
    let answer = raw(&edge, "GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
}

#[tokio::test]
async fn absolute_target_and_host_choose_no_other_origin() {
    let origin = Origin::start().await;
    origin.script(ASSET, Script::ok("ours"));
    let edge = single_edge(&origin, |_| {}).await;
    let answer =
        raw(&edge, &format!("GET http://169.254.169.254{ASSET} HTTP/1.1\r\nhost: evil\r\nconnection: close\r\n\r\n"))
            .await;
    assert!(answer.ends_with("ours"), "{answer}");
    assert!(edge.get(ASSET).send().await.cache_status().contains(";hit"));
    assert_eq!(origin.seen()[0].header("host"), Some(origin.address.to_string().as_str()));
}

#[tokio::test]
async fn unread_request_body_is_not_parsed_as_a_request() {
    let origin = Origin::start().await;
    origin.script(ASSET, Script::ok("pixels"));
    let edge = single_edge(&origin, |_| {}).await;
    edge.get(ASSET).send().await;
    // The body looks like a request, and must not be parsed as one.
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n".to_string();
    let request = format!(
        "GET {ASSET} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{smuggled}GET {ASSET} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        smuggled.len()
    );
    let answer = raw(&edge, &request).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert_eq!(origin.count("/smuggled"), 0);
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_and_counted() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| config.limits.connections = 1).await;
    origin.script(ASSET, Script::ok("pixels"));
    let mut held = TcpStream::connect(edge.clients).await.unwrap();
    held.write_all(format!("GET {ASSET} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    assert!(held.read_u8().await.is_ok());
    assert_eq!(raw(&edge, "").await, "");
    assert!(edge.metric("peerage_refused_connections_total").await > 0.9);
    drop(held);
    let again = async {
        loop {
            let mut stream = TcpStream::connect(edge.clients).await.unwrap();
            let request = format!("GET {ASSET} HTTP/1.1\r\nhost: x\r\n\r\n");
            if stream.write_all(request.as_bytes()).await.is_ok() && stream.read_u8().await.is_ok() {
                break;
            }
        }
    };
    within(20, again).await;
}

#[tokio::test]
async fn one_client_cannot_take_every_connection() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| {
        config.edge.listen = "0.0.0.0:0".parse().unwrap();
        config.limits.connections = 40;
    })
    .await;
    origin.script(ASSET, Script::ok("pixels"));
    let request = format!("GET {ASSET} HTTP/1.1\r\nhost: x\r\n\r\n");
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], edge.clients.port()));
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut one = TcpStream::connect(at).await.unwrap();
        one.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(within(20, one.read_u8()).await.unwrap(), b'H');
        held.push(one);
    }
    let mut refused = TcpStream::connect(at).await.unwrap();
    assert!(!matches!(within(20, refused.read(&mut [0])).await, Ok(1..)));
    edge.metric_becomes("peerage_refused_client_connections_total", 1.0).await;
    // Another client, by its address.
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(at).await.unwrap();
    other.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(within(20, other.read_u8()).await.unwrap(), b'H');
}

#[tokio::test]
async fn the_connections_of_a_trusted_proxy_count_for_no_client() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| {
        config.edge.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        config.limits.connections_per_client = 1;
    })
    .await;
    origin.script(ASSET, Script::ok("pixels"));
    let request = format!("GET {ASSET} HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut one = TcpStream::connect(edge.clients).await.unwrap();
        one.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(within(20, one.read_u8()).await.unwrap(), b'H');
        held.push(one);
    }
    assert!(edge.metric("peerage_refused_client_connections_total").await < 0.1);
}

#[tokio::test]
async fn send_buffer_limits_the_bytes_that_a_slow_reader_holds() {
    let origin = Origin::start().await;
    // Copied into sockets: with zero copy, the pages would belong to the store.
    let edge = single_edge(&origin, |config| {
        config.edge.zero_copy = ZeroCopy::Off;
        config.limits.send_buffer = Size(32 * 1024);
        config.limits.send_timeout = Period(std::time::Duration::from_millis(100));
    })
    .await;
    origin.script(ASSET, Script::ok(pattern(30_000_000)));
    let client = tokio::net::TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(16 * 1024).unwrap();
    let mut client = client.connect(edge.clients).await.unwrap();
    client.write_all(format!("GET {ASSET} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    edge.metric_becomes("peerage_stalled_connections_total", 1.0).await;
    // The bytes that still come were in the buffers of both sockets.
    let mut came = Vec::new();
    let _ = within(20, client.read_to_end(&mut came)).await;
    assert!(came.len() < 300_000, "{}", came.len());
}

#[tokio::test]
async fn operators_see_health_metrics_and_peers() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    let admin = cluster.edges[0].admin;
    let get = |path| request(admin, Method::GET, path).send();
    assert_eq!(get("/healthz").await.text(), "ok\n");
    assert_eq!(get("/readyz").await.status, 200);
    assert_eq!(get("/nothing").await.status, 404);
    assert_eq!(request(admin, Method::POST, "/healthz").send().await.status, 405);
    let open =
        request(admin, Method::GET, "/metrics").header("accept", "application/openmetrics-text;q=0.5").send().await;
    assert!(open.header("content-type").starts_with("application/openmetrics-text"));
    assert!(open.text().contains("# TYPE peerage_requests counter\n") && open.text().ends_with("# EOF\n"));
    let plain = get("/metrics").await;
    assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(plain.text().contains("# TYPE peerage_requests_total counter\n") && !plain.text().contains("# EOF"));
    let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(samples(plain.text()), samples(open.text()));
    let peers: serde_json::Value = serde_json::from_slice(&get("/peers").await.body).unwrap();
    let members = peers["members"].as_array().unwrap();
    let own: Vec<_> = members.iter().filter(|peer| peer["own"] == true).collect();
    assert_eq!((members.len(), own.len()), (3, 1));
    assert_eq!(own[0]["address"], cluster.edges[0].name());
    assert!(peers["epoch"].as_u64().unwrap() > 0);
    assert!(members.iter().all(|peer| (peer["share"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-9));
}

#[tokio::test]
async fn drain_completes_responses_in_transit() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script(ASSET, Script::ok(pattern(1000)).hold_body(&gate));
    let mut edge = single_edge(&origin, |_| {}).await;
    gate.open(10);
    let mut open = edge.get(ASSET).open().await;
    open.read_at_least(10).await;
    edge.begin_drain();
    let unready = async {
        loop {
            if request(edge.admin, Method::GET, "/readyz").send().await.status == 503 {
                break;
            }
        }
    };
    within(20, unready).await;
    // No new connection is accepted.
    let refused = async { while TcpStream::connect(edge.clients).await.is_ok() {} };
    within(20, refused).await;
    gate.open(1000);
    let got = open.rest().await;
    assert!(got.complete && got.body.len() == 990);
}

#[tokio::test]
async fn drain_cuts_connections_after_its_time_limit() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.script(ASSET, Script::ok(pattern(1000)).hold_body(&gate));
    let mut edge =
        single_edge(&origin, |config| config.edge.drain = Period(std::time::Duration::from_millis(50))).await;
    gate.open(10);
    let mut open = edge.get(ASSET).open().await;
    open.read_at_least(10).await;
    assert_eq!(within(20, edge.drain()).await, 1);
}

#[tokio::test]
async fn limits_on_request_heads_are_those_configured() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| {
        config.limits.uri = Size(300);
        config.limits.header = Size(8 * 1024);
    })
    .await;
    assert_eq!(edge.get(&format!("/{}", "a".repeat(300))).send().await.status, 414);
    assert_eq!(edge.get("/a").header("x-long", &"a".repeat(9000)).send().await.status, 431);
}
