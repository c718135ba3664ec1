//! Plain hits are answered before hyper sees them, with the same responses.

use bytes::Bytes;
use peerage::config::{Period, Size};
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;

use crate::harness::{TestEdge, pattern, single_edge, within};
use crate::origin::{Origin, Script};
use crate::raw_connection::{RawConnection, connect};

/// Reads a response with a Content-Length to a GET.
pub async fn read_response(end: &mut RawConnection) -> (String, Vec<u8>) {
    let head = end.head().await;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    within(20, end.0.read_exact(&mut body)).await.unwrap();
    (head, body)
}

/// Returns the lines of a head without the values that depend on time, sorted by name.
fn timeless(head: &str) -> Vec<String> {
    let lines = head.lines().filter(|line| !line.starts_with("age: "));
    let mut lines: Vec<_> = lines.map(|line| line.split(";ttl=").next().unwrap().to_owned()).collect();
    lines.sort_by_key(|line| line.split(':').next().map(ToOwned::to_owned));
    lines
}

#[tokio::test]
async fn responses_equal_those_of_the_slow_path() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let long = pattern(300_000);
    let kinds = [
        Script::ok("pixels").header("ETag", "\"a\"").header("Content-Type", "image/png"),
        Script::ok("chunks").chunked(),
        Script::ok(""),
        Script::ok(long.clone()).header("Age", "100").header("Cache-Control", "max-age=1000"),
        Script::ok("old")
            .header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
            .header("Cache-Status", "other;hit")
            .header("Cache-Control", "max-age=2000000000"),
        Script::ok("many").header("Link", "<a>").header("X-Empty", "").header("Link", "<b>").header("Via", "1.0 other"),
        Script::ok("long").header("X-Long", &"long".repeat(2000)),
        Script::status(404).header("Cache-Control", "max-age=1000"),
    ];
    for (i, kind) in kinds.into_iter().enumerate() {
        let target = format!("/kind-{i:016x}.bin?query=%7E{i}");
        origin.script(&target, kind);
        edge.get(&target).send().await;
        let mut end = connect(&edge).await;
        let mut answers = Vec::new();
        // A target in absolute form is left to hyper.
        for start in [target.clone(), format!("http://site.example{target}"), target.clone()] {
            end.write(&format!("GET {start} HTTP/1.1\r\nHost: site.example\r\nAccept: */*\r\n\r\n")).await;
            answers.push(read_response(&mut end).await);
        }
        let [(first, content), others @ ..] = &answers[..] else { unreachable!() };
        assert!(first.contains("cache-status: edge-1;hit"), "{first}");
        for (other, same) in others {
            assert_eq!(timeless(first), timeless(other));
            assert!(content == same);
        }
    }
    edge.metric_becomes("peerage_requests_total{source=\"client\",result=\"hit\"}", 24.0).await;
}

/// Reads the next response, and checks the beginning of its head and its body. Each body occurs in
/// no other response. `came` holds the bytes that were read ahead.
pub async fn expect_response(from: &mut OwnedReadHalf, came: &mut Vec<u8>, status: &str, body: &[u8], to: &str) {
    let head = loop {
        if let Some(end) = came.windows(4).position(|four| four == b"\r\n\r\n") {
            break String::from_utf8(came.drain(..end + 4).collect()).unwrap();
        }
        assert_ne!(within(20, from.read_buf(came)).await.unwrap(), 0, "{to}");
    };
    assert!(head.starts_with(status), "{to}:\n{head}");
    while came.len() < body.len() {
        assert_ne!(within(20, from.read_buf(came)).await.unwrap(), 0, "{to}");
    }
    assert!(came.drain(..body.len()).eq(body.iter().copied()), "{to}");
}

/// A request, the beginning of the response to it, and its body.
type Exchange = (String, &'static str, Bytes);

/// Returns requests to choose from. The fast path answers some of them, hyper the others.
fn exchanges(big: &Bytes) -> Vec<Exchange> {
    let get = |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let small = || Bytes::from_static(b"small");
    vec![
        (get("/small-0492830483.png", ""), "HTTP/1.1 200 ", small()),
        (get("/small-0492830483.png", "Connection: keep-alive\r\nCookie: a=b\r\n"), "HTTP/1.1 200 ", small()),
        (get("/small-0492830483.png", "Connection: x-other\r\n"), "HTTP/1.1 200 ", small()),
        (get("/big-0492830483.png", ""), "HTTP/1.1 200 ", big.clone()),
        (get("/big-0492830483.png", "Range: bytes=5-9\r\n"), "HTTP/1.1 206 ", big.slice(5..10)),
        (get("/small-0492830483.png", "If-None-Match: \"a\"\r\n"), "HTTP/1.1 304 ", Bytes::new()),
        (get("/small-0492830483.png", &format!("X: {}\r\n", "x".repeat(5000))), "HTTP/1.1 200 ", small()),
        (get("/nothing", ""), "HTTP/1.1 404 ", Bytes::from_static(b"status 404\n")),
        (get("/../x", ""), "HTTP/1.1 400 ", Bytes::from_static(b"the path has a dot segment\n")),
        (
            "POST /form HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nwords".to_owned(),
            "HTTP/1.1 200 ",
            "posted".into(),
        ),
    ]
}

async fn edge_with_stored_assets(origin: &Origin) -> (TestEdge, Bytes) {
    let edge = single_edge(origin, |_| {}).await;
    let big = pattern(600_000);
    origin.script("/small-0492830483.png", Script::ok("small").header("etag", "\"a\""));
    origin.script("/big-0492830483.png", Script::ok(big.clone()));
    origin.script("/nothing", Script::status(404));
    origin.script("/form", Script::ok("posted"));
    for path in ["/small-0492830483.png", "/big-0492830483.png"] {
        edge.get(path).send().await;
    }
    (edge, big)
}

#[tokio::test]
async fn pipelined_requests_cut_at_any_byte_are_answered_in_order() {
    let origin = Origin::start().await;
    let (edge, big) = edge_with_stored_assets(&origin).await;
    let exchanges = exchanges(&big);
    for seed in 0..60 {
        let mut random = SmallRng::seed_from_u64(seed);
        // Mostly plain requests, so that the connection changes between fast path and hyper.
        let plain = random.random_range(0..12);
        let mut asked: Vec<&Exchange> = (0..plain).filter_map(|_| exchanges[..4].choose(&mut random)).collect();
        asked.extend((0..random.random_range(1..6)).filter_map(|_| exchanges.choose(&mut random)));
        asked.shuffle(&mut random);
        let all: Vec<u8> = asked.iter().flat_map(|(request, ..)| request.bytes()).collect();
        let most = *[1, 10, 100, 1000, 100_000].choose(&mut random).unwrap();
        let mut cuts = Vec::new();
        let mut rest = &all[..];
        while !rest.is_empty() {
            let (piece, others) = rest.split_at(random.random_range(1..=most).min(rest.len()));
            cuts.push(piece.to_owned());
            rest = others;
        }
        let RawConnection(stream) = connect(&edge).await;
        stream.set_nodelay(true).unwrap();
        let (mut from, mut to) = stream.into_split();
        let saying = tokio::spawn(async move {
            for cut in cuts {
                to.write_all(&cut).await.unwrap();
                tokio::task::yield_now().await;
            }
            to
        });
        let mut came = Vec::new();
        for (request, status, body) in asked {
            expect_response(&mut from, &mut came, status, body, &format!("seed {seed}, to {request}")).await;
        }
        assert_eq!(came, b"", "seed {seed}");
        drop(saying.await.unwrap());
        assert_eq!(within(20, from.read_buf(&mut came)).await.unwrap(), 0, "seed {seed}");
    }
}

#[tokio::test]
async fn hit_in_transit_is_completed_after_a_drain_and_a_half_close_by_the_client() {
    let origin = Origin::start().await;
    let mut edge = single_edge(&origin, |config| {
        config.edge.drain = Period(std::time::Duration::from_secs(20));
        config.cache.memory = Size(512 << 20);
    })
    .await;
    // More than the buffers of the sockets hold.
    let body = pattern(24 << 20);
    origin.script("/big-0492830483.png", Script::ok(body.clone()));
    edge.get("/big-0492830483.png").send().await;
    let mut end = connect(&edge).await;
    end.write("GET /big-0492830483.png HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = end.head().await;
    assert!(head.contains("edge-1;hit"), "{head}");
    end.0.shutdown().await.unwrap();
    edge.begin_drain();
    // The edge drains once it accepts no new connection.
    while tokio::net::TcpStream::connect(edge.clients).await.is_ok() {}
    let mut came = Vec::new();
    within(20, end.0.read_to_end(&mut came)).await.unwrap();
    assert!(came == body, "{} of {} bytes", came.len(), body.len());
    assert_eq!(within(20, edge.drained()).await, 0);
}

#[tokio::test]
async fn draining_edge_sends_connection_close_with_its_last_response() {
    let origin = Origin::start().await;
    let (mut edge, _) = edge_with_stored_assets(&origin).await;
    let mut end = connect(&edge).await;
    let request = "GET /small-0492830483.png HTTP/1.1\r\nHost: a\r\n\r\n";
    end.write(request).await;
    let (head, _) = read_response(&mut end).await;
    assert!(head.contains("edge-1;hit") && !head.contains("connection"), "{head}");
    edge.begin_drain();
    while tokio::net::TcpStream::connect(edge.clients).await.is_ok() {}
    end.write(request).await;
    let (head, _) = read_response(&mut end).await;
    assert!(head.contains("edge-1;hit") && head.contains("connection: close"), "{head}");
    end.expect_end().await;
}
