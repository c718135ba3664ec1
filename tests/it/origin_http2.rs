//! HTTP/2 to an origin: streams that share a connection, and the failures of streams and of
//! connections.

mod server;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::Builder;
use http::uri::Authority;
use http::{Method, Response};
use peerage::config::Period;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Semaphore};

use crate::harness::{assert_same, join_all, pattern, within};
use server::{Exchange, Http2Origin, Shutdown, send};

async fn answer_ok(mut exchange: Exchange) {
    exchange.answer(Bytes::from("ok")).await;
}

#[tokio::test]
async fn concurrent_fills_share_one_connection() {
    let barrier = Arc::new(Barrier::new(50));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let origin = Http2Origin::start(move |mut exchange| {
        let (barrier, noted) = (Arc::clone(&barrier), Arc::clone(&noted));
        async move {
            noted.lock().unwrap().push((exchange.request.uri().clone(), exchange.request.headers().clone()));
            barrier.wait().await;
            let path = Bytes::from(exchange.path().to_owned());
            exchange.answer(path).await;
        }
    })
    .await;
    let edge = origin.edge(|_| {}).await;
    // All 50 requests are at the origin at the same time.
    let gets = (0..50).map(|n| edge.get(&format!("/asset-{n}")).send());
    for (n, got) in within(60, join_all(gets)).await.into_iter().enumerate() {
        assert_same(&got, &format!("/asset-{n}").into());
        assert_eq!(got.header("via"), "2.0 edge-1");
    }
    assert_eq!(origin.connections(), 1);
    let seen = seen.lock().unwrap();
    for (uri, headers) in &*seen {
        let authority = origin.address.to_string();
        assert_eq!((uri.scheme_str(), uri.authority().map(Authority::as_str)), (Some("https"), Some(&*authority)));
        for name in ["host", "connection", "transfer-encoding", "keep-alive", "upgrade", "te"] {
            assert!(!headers.contains_key(name), "{name}: {headers:?}");
        }
    }
}

#[tokio::test]
async fn many_clients_of_one_asset_cause_one_request_over_http2() {
    let gate = Arc::new(Semaphore::new(0));
    let (opened, requests) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&requests);
    let origin = Http2Origin::start(move |mut exchange| {
        counted.fetch_add(1, Ordering::Relaxed);
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            exchange.answer(pattern(300_000)).await;
        }
    })
    .await;
    let edge = origin.edge(|_| {}).await;
    let gets: Vec<_> = (0..20).map(|_| tokio::spawn(edge.get("/asset").send())).collect();
    edge.metric_becomes("peerage_flights", 1.0).await;
    opened.add_permits(1);
    for got in gets {
        assert_same(&within(60, got).await.unwrap(), &pattern(300_000));
    }
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn server_that_allows_one_stream_gets_one_request_on_each_connection() {
    let open: Arc<Mutex<HashSet<usize>>> = Arc::default();
    let mut builder = Builder::new();
    builder.max_concurrent_streams(1);
    let origin = Http2Origin::with(builder, Shutdown::Never, move |mut exchange| {
        let open = Arc::clone(&open);
        async move {
            let connection = exchange.connection;
            assert!(open.lock().unwrap().insert(connection), "two streams of one connection");
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            open.lock().unwrap().remove(&connection);
            exchange.answer(Bytes::from("ok")).await;
        }
    })
    .await;
    let edge = origin.edge(|_| {}).await;
    for round in 0..3 {
        let gets = (0..30).map(|n| edge.get(&format!("/{round}/asset-{n}")).send());
        for got in within(60, join_all(gets)).await {
            assert_same(&got, &"ok".into());
        }
    }
    assert!((1..=30).contains(&origin.connections()), "{}", origin.connections());
}

#[tokio::test]
async fn goaway_under_load_loses_no_request() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let origin = Http2Origin::with(Builder::new(), Shutdown::After(20), move |exchange| {
        counted.fetch_add(1, Ordering::Relaxed);
        answer_ok(exchange)
    })
    .await;
    let edge = Arc::new(origin.edge(|_| {}).await);
    let clients = (0..8).map(|client| {
        let edge = Arc::clone(&edge);
        async move {
            for n in 0..50 {
                let got =
                    edge.request(if n % 2 == 0 { Method::GET } else { Method::DELETE }, &format!("/{client}/{n}"));
                let got = got.send().await;
                assert_eq!((got.status.as_u16(), got.text()), (200, "ok"));
            }
        }
    });
    within(120, join_all(clients)).await;
    assert_eq!(requests.load(Ordering::Relaxed), 400, "a request that was not processed is sent again, once");
    assert!(origin.connections() > 5, "{}", origin.connections());
}

#[tokio::test]
async fn refused_stream_is_sent_again_on_another_connection_with_any_method() {
    let origin = Http2Origin::start(|mut exchange| async move {
        if exchange.connection == 0 {
            exchange.respond.send_reset(Reason::REFUSED_STREAM);
        } else {
            exchange.answer(Bytes::from("ok")).await;
        }
    })
    .await;
    let edge = origin.edge(|_| {}).await;
    let got = edge.request(Method::POST, "/order").send().await;
    assert_eq!((got.status.as_u16(), got.text()), (200, "ok"));
    assert_same(&edge.get("/asset").send().await, &"ok".into());
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn server_that_refuses_every_stream_gets_few_requests_and_the_client_502() {
    let origin = Http2Origin::start(|mut exchange| async move {
        exchange.respond.send_reset(Reason::REFUSED_STREAM);
    })
    .await;
    let edge = origin.edge(|_| {}).await;
    assert_eq!(edge.get("/asset").send().await.status, 502);
    assert!(origin.connections() <= 5, "{}", origin.connections());
}

#[tokio::test]
async fn failed_stream_is_502_and_is_not_sent_again() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let origin = Http2Origin::start(move |mut exchange| {
        let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if first {
                exchange.respond.send_reset(Reason::INTERNAL_ERROR);
            } else {
                exchange.answer(Bytes::from("ok")).await;
            }
        }
    })
    .await;
    let edge = origin.edge(|_| {}).await;
    let got = edge.request(Method::POST, "/order").send().await;
    assert_eq!((got.status.as_u16(), requests.load(Ordering::Relaxed)), (502, 1));
    assert_same(&edge.get("/asset").send().await, &"ok".into());
    assert_eq!(origin.connections(), 1, "the other streams go on");
}

#[tokio::test]
async fn request_that_needs_http1_is_sent_over_http1() {
    let origin = Http2Origin::start(|mut exchange| async move {
        exchange.respond.send_reset(Reason::HTTP_1_1_REQUIRED);
    })
    .await;
    let edge = origin.edge(|_| {}).await;
    assert_same(&edge.get("/asset").send().await, &"HTTP/1.1".into());
    let http1 = origin.http1.lock().unwrap();
    assert!(http1[0].starts_with("GET /asset HTTP/1.1\r\n"), "{http1:?}");
    assert!(http1[0].contains(&format!("host: {}\r\n", origin.address)), "{http1:?}");
}

#[tokio::test]
async fn body_that_is_reset_is_broken_at_the_client_and_not_stored() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let origin = Http2Origin::start(move |mut exchange| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let path = exchange.path().to_owned();
            let reason = if path.ends_with("no-error") { Reason::NO_ERROR } else { Reason::INTERNAL_ERROR };
            let mut headers = vec![("cache-control", "max-age=600")];
            if path.starts_with("/known") {
                headers.push(("content-length", "300000"));
            }
            let mut stream = exchange.head(&headers);
            assert!(send(&mut stream, pattern(100_000), false).await);
            // The data is sent before the reset.
            while stream.capacity() > 0 {
                stream.reserve_capacity(0);
                tokio::task::yield_now().await;
            }
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            stream.send_reset(reason);
        }
    })
    .await;
    let edge = origin.edge(|_| {}).await;
    for path in ["/known/error", "/known/no-error", "/unknown/error", "/unknown/no-error"] {
        for version in 1..=2 {
            let before = requests.load(Ordering::Relaxed);
            let get = edge.get(path);
            let got = if version == 2 { get.http2().open().await.rest().await } else { get.send().await };
            assert!(!got.complete || got.status == 502, "{path} over HTTP/{version}: {got:?}");
            assert!(requests.load(Ordering::Relaxed) > before, "{path} was stored");
        }
    }
}

#[tokio::test]
async fn body_whose_length_is_not_as_stated_is_broken() {
    let origin = Http2Origin::start(|mut exchange| async move {
        let sent = if exchange.path() == "/short" { 900 } else { 1100 };
        let mut stream = exchange.head(&[("cache-control", "max-age=600"), ("content-length", "1000")]);
        send(&mut stream, pattern(sent), true).await;
    })
    .await;
    let edge = origin.edge(|_| {}).await;
    for path in ["/short", "/long"] {
        for _ in 0..2 {
            let Ok(open) = edge.get(path).try_open().await else { continue };
            let got = open.rest().await;
            assert!(!got.complete || got.status == 502, "{path}: {got:?}");
        }
    }
}

#[tokio::test]
async fn responses_without_content_keep_their_headers() {
    let origin = Http2Origin::start(|mut exchange| async move {
        let (method, path) = (exchange.request.method().clone(), exchange.path().to_owned());
        let status = path.trim_start_matches('/').parse::<u16>().unwrap_or(200);
        let length = if status == 204 { "0" } else { "1234" };
        let response = Response::builder().status(status).header("content-length", length).header("etag", "\"1\"");
        let ends = method != Method::HEAD || path == "/head-at-once";
        let stream = exchange.respond.send_response(response.body(()).unwrap(), ends);
        if let (Ok(mut stream), false) = (stream, ends) {
            let _ = stream.send_data(Bytes::new(), true);
        }
    })
    .await;
    let edge = origin.edge(|_| {}).await;
    for path in ["/head", "/head-at-once"] {
        let got = edge.request(Method::HEAD, path).send().await;
        assert_eq!((got.status.as_u16(), got.header("content-length"), got.complete), (200, "1234", true), "{path}");
    }
    let got = edge.get("/204").send().await;
    assert_eq!((got.status.as_u16(), got.complete, got.body.len()), (204, true, 0));
    let got = edge.get("/304").header("authorization", "x").header("if-none-match", "\"1\"").send().await;
    assert_eq!((got.status.as_u16(), got.complete), (304, true));
}

#[tokio::test]
async fn informational_responses_and_trailers_are_tolerated() {
    let origin = Http2Origin::start(|mut exchange| async move {
        for _ in 0..3 {
            let early = Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
            exchange.respond.send_informational(early).unwrap();
        }
        let mut stream = exchange.head(&[("cache-control", "max-age=600")]);
        assert!(send(&mut stream, pattern(50_000), false).await);
        stream.send_trailers([("x-checked".parse().unwrap(), "yes".parse().unwrap())].into_iter().collect()).unwrap();
    })
    .await;
    let edge = origin.edge(|_| {}).await;
    for status in ["stored", "hit"] {
        let got = edge.get("/asset").send().await;
        assert_same(&got, &pattern(50_000));
        assert!(got.cache_status().contains(status), "{}", got.cache_status());
    }
}

#[tokio::test]
async fn slow_reader_of_one_body_does_not_stall_the_others() {
    const LARGE: usize = 8 * 1024 * 1024;
    let origin = Http2Origin::start(|mut exchange| async move {
        if exchange.path().starts_with("/slow") {
            let mut stream = exchange.head(&[("cache-control", "no-store")]);
            send(&mut stream, pattern(LARGE), true).await;
        } else {
            exchange.answer(pattern(LARGE)).await;
        }
    })
    .await;
    let edge = origin.edge(|config| config.limits.requests_per_client = 1000).await;
    let mut slow = Vec::new();
    for n in 0..30 {
        let mut open = edge.get(&format!("/slow/{n}")).header("authorization", "x").open().await;
        open.chunk().await;
        slow.push(open);
    }
    for n in 0..3 {
        assert_same(&within(60, edge.get(&format!("/fast/{n}")).send()).await, &pattern(LARGE));
    }
    assert_eq!(origin.connections(), 1);
    // Readers that leave reset their streams, and the connection stays.
    slow.truncate(1);
    let rest = within(60, slow.remove(0).rest()).await;
    assert!(rest.complete && rest.body.len() > LARGE / 2);
    assert_same(&edge.get("/fast/again").send().await, &pattern(LARGE));
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn reader_that_leaves_resets_its_stream_and_keeps_the_connection() {
    let resets = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&resets);
    let origin = Http2Origin::start(move |mut exchange| {
        let counted = Arc::clone(&counted);
        async move {
            if exchange.path() == "/asset" {
                return exchange.answer(Bytes::from("ok")).await;
            }
            let mut stream = exchange.head(&[("cache-control", "no-store")]);
            while send(&mut stream, pattern(100_000), false).await {}
            counted.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    let edge = origin.edge(|config| config.origin.requests = 2).await;
    for round in 1..=150 {
        let mut open = edge.get("/endless").header("authorization", "x").open().await;
        open.chunk().await;
        drop(open);
        if round % 50 == 0 {
            assert_same(&within(60, edge.get("/asset").send()).await, &"ok".into());
        }
    }
    let reset = async {
        while resets.load(Ordering::Relaxed) < 150 {
            tokio::task::yield_now().await;
        }
    };
    within(60, reset).await;
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn upload_streams_and_its_failures_name_the_side_at_fault() {
    let origin = Http2Origin::start(|mut exchange| async move {
        let length = exchange.request.headers().get("content-length").cloned();
        let mut received = 0;
        if exchange.path() == "/never" {
            // The window stays closed.
            let _ = std::future::poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
            return;
        }
        while let Some(data) = exchange.request.body_mut().data().await {
            let Ok(data) = data else { return };
            received += data.len();
            let _ = exchange.request.body_mut().flow_control().release_capacity(data.len());
        }
        assert_eq!(length.unwrap(), received.to_string());
        exchange.answer(Bytes::from(received.to_string())).await;
    })
    .await;
    let edge = origin.edge(|config| config.origin.first_byte_timeout = Period(Duration::from_millis(500))).await;
    let post = |path: &str| edge.request(Method::POST, path).body(pattern(3_000_000)).send();
    let got = within(60, post("/upload")).await;
    assert_eq!((got.status.as_u16(), got.text()), (200, "3000000"));
    assert_eq!(within(60, post("/never")).await.status, 504);
    assert_eq!(within(60, post("/upload")).await.status, 200);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn http1_is_used_if_http2_is_not_offered() {
    let origin = Http2Origin::start(answer_ok).await;
    let edge = origin.edge(|config| config.origin.http2 = false).await;
    assert_same(&edge.get("/a").send().await, &"HTTP/1.1".into());
    assert_same(&edge.get("/b").send().await, &"HTTP/1.1".into());
    assert_eq!((origin.http1.lock().unwrap().len(), origin.connections()), (2, 1));
}

#[tokio::test]
async fn websocket_has_a_connection_of_http1_beside_http2() {
    let origin = Http2Origin::start(answer_ok).await;
    let edge = origin.edge(|_| {}).await;
    assert_same(&edge.get("/a").send().await, &"ok".into());
    let mut client = TcpStream::connect(edge.clients).await.unwrap();
    let request = "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: a2V5\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"welcome") {
        got.push(within(20, client.read_u8()).await.unwrap());
    }
    assert!(got.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&got));
    assert_same(&edge.get("/b").send().await, &"ok".into());
    assert_eq!((origin.http1.lock().unwrap().len(), origin.connections()), (1, 2));
}

#[tokio::test]
async fn response_with_too_many_or_too_long_headers_is_502() {
    let origin = Http2Origin::start(|mut exchange| async move {
        let (count, length) = match exchange.path() {
            "/most" => (90, 1000),
            "/many" => (200, 10),
            "/endless" => (20, 60_000),
            _ => (1, 10),
        };
        let mut response = Response::builder();
        for n in 0..count {
            response = response.header(format!("x-{n}"), "a".repeat(length));
        }
        let _ = exchange.respond.send_response(response.body(()).unwrap(), true);
    })
    .await;
    let edge = origin.edge(|_| {}).await;
    for (path, status) in [("/most", 200), ("/many", 502), ("/endless", 502), ("/few", 200)] {
        assert_eq!(edge.get(path).send().await.status, status, "{path}");
    }
    // An endless head ends its connection.
    assert!(origin.connections() <= 3, "{}", origin.connections());
}

#[tokio::test]
async fn connection_that_dies_costs_no_idempotent_request() {
    let origin = Http2Origin::with(Builder::new(), Shutdown::CutAt(2), answer_ok).await;
    let edge = origin.edge(|_| {}).await;
    assert_same(&edge.get("/a").send().await, &"ok".into());
    assert_same(&within(60, edge.get("/b").send()).await, &"ok".into());
    assert_eq!(origin.connections(), 2);
    let got = edge.request(Method::POST, "/order").send().await;
    assert_eq!(got.status, 502, "the server may have processed it");
}

#[tokio::test]
async fn connection_takes_no_requests_after_its_lifetime() {
    let origin = Http2Origin::start(answer_ok).await;
    let lifetime = Duration::from_millis(50);
    let edge = origin.edge(|config| config.origin.connection_lifetime = Period(lifetime)).await;
    assert_same(&edge.get("/a").send().await, &"ok".into());
    tokio::time::sleep(lifetime).await;
    assert_same(&edge.get("/b").send().await, &"ok".into());
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn server_that_allows_no_stream_is_a_timeout() {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(0);
    let origin = Http2Origin::with(builder, Shutdown::Never, answer_ok).await;
    let timeout = Period(Duration::from_millis(500));
    let edge = origin.edge(|config| config.origin.first_byte_timeout = timeout).await;
    for _ in 0..3 {
        let status = within(60, edge.get("/asset").send()).await.status.as_u16();
        assert!(matches!(status, 502 | 504), "{status}");
    }
    assert!(origin.connections() <= 15, "{}", origin.connections());
}

/// Writes `bytes` to each connection behind the server's own SETTINGS, and reads until its end.
async fn raw_server(bytes: Vec<u8>) -> Http2Origin {
    Http2Origin::raw([&[0, 0, 0, 4, 0, 0, 0, 0, 0], &bytes[..]].concat()).await
}

/// Returns a frame.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

#[tokio::test]
async fn frames_that_are_not_allowed_are_502_or_a_timeout() {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PUSH_PROMISE: u8 = 5;
    const CONTINUATION: u8 = 9;
    // `:status: 200` from the static table, and a header of 15,872 bytes.
    let (ok, long) = ([0x88], [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x7b][..], &[b'a'; 15_872]].concat());
    let endless = [frame(HEADERS, 0, 1, &ok), frame(CONTINUATION, 0, 1, &long).repeat(2000)].concat();
    // `content-length: 99`
    let uneven = [frame(HEADERS, 4, 1, b"\x88\x0f\x0d\x0299"), frame(DATA, 1, 1, b"too short")].concat();
    for (name, bytes) in [
        ("text", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("endless CONTINUATION", endless),
        ("data without a head", frame(DATA, 1, 1, b"data")),
        ("head of another stream", frame(HEADERS, 4, 3, &ok)),
        ("promised stream", frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x88])),
        ("length that differs", uneven),
        ("many SETTINGS", frame(SETTINGS, 0, 0, &[]).repeat(10_000)),
    ] {
        let origin = raw_server(bytes).await;
        let timeout = Period(Duration::from_secs(2));
        let edge = origin.edge(|config| config.origin.first_byte_timeout = timeout).await;
        let Ok(open) = within(60, edge.get("/asset").try_open()).await else { continue };
        let got = within(60, open.rest()).await;
        assert!(matches!(got.status.as_u16(), 502 | 504) || !got.complete, "{name}: {got:?}");
        assert!(origin.connections() <= 5, "{name}: {}", origin.connections());
    }
}
