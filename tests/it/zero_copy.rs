//! Zero-copy sends of large bodies that are requested often. Only the metrics tell them from
//! copies.

use std::net::TcpListener;

use bytes::Bytes;
use http::Method;
use peerage::Server;
use peerage::config::ZeroCopy;
use rustix::net::sockopt::set_tcp_congestion;

use crate::client::RequestBuilder;
use crate::fast_path::read_response;
use crate::harness::{TestEdge, assert_same, config, pattern, run, single_edge};
use crate::origin::{Origin, Script};
use crate::raw_connection::connect;

const ZERO_COPY_BYTES: &str = "peerage_lent_bytes_total";
/// A stored body is sent without a copy after this many copies.
const COPIES: usize = 4;

fn kept(body: &Bytes) -> Script {
    Script::ok(body.clone()).header("cache-control", "max-age=1000").header("etag", "\"a\"")
}

async fn request_often(edge: &TestEdge, path: &str, body: &Bytes) {
    // The first response is sent while it arrives.
    for _ in 0..2 + COPIES {
        assert_same(&edge.get(path).send().await, body);
    }
}

#[tokio::test]
async fn large_body_is_sent_by_zero_copy_with_the_right_bytes() {
    let origin = Origin::start().await;
    for (zero_copy, len) in
        [(ZeroCopy::On, 100_000), (ZeroCopy::On, 2_000_000), (ZeroCopy::On, 20_000), (ZeroCopy::Off, 2_000_000)]
    {
        let edge = single_edge(&origin, |config| config.edge.zero_copy = zero_copy).await;
        let (path, body) = (format!("/body-{len}"), pattern(len));
        origin.script(&path, kept(&body));
        request_often(&edge, &path, &body).await;
        for end in [1, len / 2, len] {
            let ranged = |ask: RequestBuilder| ask.header("range", &format!("bytes={}-{}", end / 3, end - 1));
            let part = body.slice(end / 3..end);
            for ask in [ranged(edge.get(&path)), ranged(edge.get(&path).http2())] {
                let got = ask.send().await;
                assert!(got.status == 206 && got.body == part, "{len} {end}");
            }
        }
        assert_same(&edge.get(&path).http2().send().await, &body);
        request_often(&edge, &path, &body).await;
        // A small rest of a chunk, which the socket did not accept, is copied.
        let before = edge.metric(ZERO_COPY_BYTES).await;
        assert_same(&edge.get(&path).send().await, &body);
        let share = (edge.metric(ZERO_COPY_BYTES).await - before) / f64::from(u32::try_from(len).unwrap());
        assert_eq!(share > 0.7, zero_copy == ZeroCopy::On && len >= 64 * 1024, "{zero_copy:?} {len} {share}");
    }
}

#[tokio::test]
async fn large_body_is_sent_by_zero_copy_by_default_except_under_bbr() {
    let origin = Origin::start().await;
    let body = pattern(300_000);
    origin.script("*", kept(&body));
    let mut tried = Vec::new();
    for control in ["reno", "cubic", "bbr"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Not every kernel has each algorithm, or lets every user choose it.
        if set_tcp_congestion(&listener, control).is_err() {
            continue;
        }
        tried.push(control);
        let mut config = config("edge-1");
        config.origin.url = origin.url();
        config.edge.listen = listener.local_addr().unwrap().into();
        let edge = run(Server::bind_on(config, vec![listener]).await.unwrap());
        request_often(&edge, "/body", &body).await;
        assert_same(&edge.get("/body").send().await, &body);
        assert_eq!(edge.metric(ZERO_COPY_BYTES).await > 0.0, control != "bbr", "{control}");
    }
    assert!(tried.contains(&"reno"), "every kernel has reno, and lets every user choose it: {tried:?}");
}

#[tokio::test]
async fn pipelined_responses_are_sent_by_zero_copy_in_order() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| config.edge.zero_copy = ZeroCopy::On).await;
    let bodies: Vec<_> = [300_000, 10, 70_000, 0, 600_000, 65_536, 262_144].map(pattern).into();
    for (at, body) in bodies.iter().enumerate() {
        let path = format!("/{at}");
        origin.script(&path, kept(body));
        request_often(&edge, &path, body).await;
    }
    let before = edge.metric(ZERO_COPY_BYTES).await;
    let mut end = connect(&edge).await;
    let asks: String = (0..bodies.len()).map(|at| format!("GET /{at} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    end.write(&asks).await;
    for body in &bodies {
        let (head, came) = read_response(&mut end).await;
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert!(came == *body, "{} bytes", body.len());
    }
    assert!(edge.metric(ZERO_COPY_BYTES).await > before);
}

/// The body waits in the socket while the store reuses memory for other bodies.
#[tokio::test]
async fn late_reader_gets_the_bytes_that_were_sent() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| config.edge.zero_copy = ZeroCopy::On).await;
    let old = Bytes::from(vec![b'o'; 128 * 1024]);
    origin.script("/page", kept(&old));
    request_often(&edge, "/page", &old).await;
    let (hits, lent) = ("peerage_requests_total{source=\"client\",result=\"hit\"}", edge.metric(ZERO_COPY_BYTES).await);
    let counted = edge.metric(hits).await;
    let mut late = connect(&edge).await;
    late.write("GET /page HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // A hit is counted when the socket has accepted all of it.
    edge.metric_becomes(hits, counted + 1.0).await;
    assert!(edge.metric(ZERO_COPY_BYTES).await >= lent + 128.0 * 1024.0);
    let new = Bytes::from(vec![b'n'; 128 * 1024]);
    origin.script("/page", kept(&new));
    edge.request(Method::POST, "/page").send().await;
    for at in 0..8 {
        let path = format!("/other-{at}");
        origin.script(&path, kept(&new));
        assert_same(&edge.get(&path).send().await, &new);
    }
    assert_same(&edge.get("/page").send().await, &new);
    let (_, came) = read_response(&mut late).await;
    assert!(came == old, "received bytes that were stored after the send");
}
