//! WebSocket: HTTP until the origin's 101, a tunnel of bytes from there on.

use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Method, Response};
use peerage::config::Period;
use peerage::{Body, Call, Config, Error, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Cluster, TestEdge, embedded, single_edge, within};
use crate::origin::{Origin, Script};
use crate::raw_connection::{RawConnection, accept, connect, edge_with_raw_origin};

const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: a2V5\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: eQ==\r\nkeep-alive: 5\r\ncontent-length: 5\r\n\r\n";

/// Opens a tunnel, and returns its ends at the client and at the origin.
async fn tunnel(edge: &TestEdge, listener: &TcpListener) -> (RawConnection, RawConnection) {
    let mut client = connect(edge).await;
    client.write(WEBSOCKET).await;
    let mut origin = accept(listener).await;
    origin.head().await;
    origin.write(SWITCHING).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    (client, origin)
}

#[tokio::test]
async fn bytes_flow_both_ways_after_a_101() {
    let (edge, listener) = edge_with_raw_origin(|_| {}).await;
    let mut client = connect(&edge).await;
    // The client does not wait for the 101. The origin gets these bytes behind the request.
    client.write(&format!("{WEBSOCKET}early ")).await;
    let mut origin = accept(&listener).await;
    let asked = origin.head().await;
    for line in ["GET /chat HTTP/1.1", "connection: upgrade", "upgrade: websocket", "sec-websocket-key: a2V5"] {
        assert!(asked.contains(&format!("{line}\r\n")), "{asked}");
    }
    assert!(asked.contains("via: 1.1 edge-1\r\n") && asked.contains("x-forwarded-for: 127.0.0.1\r\n"), "{asked}");
    origin.write(&format!("{SWITCHING}welcome ")).await;
    let answered = client.head().await;
    assert!(answered.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answered}");
    for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: eQ==", "via: 1.1 edge-1"] {
        assert!(answered.contains(&format!("{line}\r\n")), "{answered}");
    }
    assert!(!answered.contains("content-length") && !answered.contains("keep-alive"), "{answered}");
    client.write("at once").await;
    client.expect_bytes("welcome ").await;
    origin.expect_bytes("early at once").await;
    for turn in 0..3 {
        origin.write(&format!("ping {turn}")).await;
        client.expect_bytes(&format!("ping {turn}")).await;
        client.write(&format!("pong {turn}")).await;
        origin.expect_bytes(&format!("pong {turn}")).await;
    }
    // The client has closed its direction, the origin has not.
    client.0.shutdown().await.unwrap();
    origin.expect_end().await;
    origin.write("and so on").await;
    drop(origin);
    client.expect_bytes("and so on").await;
    client.expect_end().await;
}

#[tokio::test]
async fn open_tunnel_does_not_count_as_a_request_at_the_origin() {
    let (edge, listener) = edge_with_raw_origin(|config| config.limits.requests_per_client = 1).await;
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        tunnels.push(tunnel(&edge, &listener).await);
    }
    for (client, origin) in &mut tunnels {
        client.write("both stand").await;
        origin.expect_bytes("both stand").await;
    }
}

#[tokio::test]
async fn tunnel_counts_in_the_limit_of_connections() {
    let (edge, listener) = edge_with_raw_origin(|config| config.limits.connections = 1).await;
    let (mut client, mut origin) = tunnel(&edge, &listener).await;
    connect(&edge).await.expect_end().await;
    assert!(edge.metric("peerage_refused_connections_total").await > 0.9);
    client.write("still there").await;
    origin.expect_bytes("still there").await;
    drop(client);
    origin.expect_end().await;
    drop(origin);
    let again = async {
        loop {
            let mut client = connect(&edge).await;
            let mut byte = [0];
            // Rejected until the tunnel has ended.
            if client.0.write_all(b"nonsense\r\n\r\n").await.is_ok() && client.0.read_exact(&mut byte).await.is_ok() {
                break;
            }
        }
    };
    within(20, again).await;
}

#[tokio::test]
async fn tunnel_and_slow_response_outlive_header_timeout() {
    let wait = Duration::from_millis(50);
    let (edge, listener) = edge_with_raw_origin(|config| config.limits.header_timeout = Period(wait)).await;
    let (mut client, mut origin) = tunnel(&edge, &listener).await;
    let mut patient = connect(&edge).await;
    patient.write("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut slow = accept(&listener).await;
    slow.head().await;
    // A silent connection is closed. By then, the timeout has passed for all three.
    connect(&edge).await.expect_end().await;
    client.write("still there").await;
    origin.expect_bytes("still there").await;
    slow.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await;
    assert!(patient.head().await.starts_with("HTTP/1.1 200 "));
    connect(&edge).await.expect_end().await;
    slow.write("ok").await;
    patient.expect_bytes("ok").await;
    patient.expect_end().await;
}

#[tokio::test]
async fn response_other_than_101_is_an_ordinary_response() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    for status in [200, 403, 426] {
        origin.script("/chat", Script::status(status));
        let mut client = connect(&edge).await;
        // The bytes behind it are parsed as HTTP, since no other protocol was agreed.
        client.write(&format!("{WEBSOCKET}GET /next HTTP/1.1\r\nhost: x\r\n\r\n\u{1}raw\r\n\r\n")).await;
        assert!(client.head().await.starts_with(&format!("HTTP/1.1 {status} ")));
        client.expect_bytes(&format!("status {status}\n")).await;
        assert!(client.head().await.starts_with("HTTP/1.1 404 "));
        client.expect_bytes("status 404\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 400 "));
        client.expect_end().await;
    }
    let seen = origin.seen();
    let targets: Vec<_> = seen.iter().map(|seen| (seen.target.as_str(), seen.header("via"))).collect();
    assert_eq!(targets, [("/chat", Some("1.1 edge-1")), ("/next", Some("1.1 edge-1"))].repeat(3));
}

#[tokio::test]
async fn stored_response_does_not_answer_a_websocket_request() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("/chat", Script::ok("page").header("cache-control", "max-age=60"));
    edge.get("/chat").send().await;
    let mut client = connect(&edge).await;
    client.write(WEBSOCKET).await;
    assert!(client.head().await.contains("cache-status: edge-1;fwd=request\r\n"));
    assert_eq!(origin.count("/chat"), 2);
    assert!(edge.get("/chat").send().await.cache_status().contains(";hit"));
}

#[tokio::test]
async fn upgrade_to_another_protocol_is_ignored() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(1, &origin, |_| {}).await;
    let edge = &cluster.edges[0];
    origin.script("/a", Script::ok("x"));
    let ask = |protocol| edge.get("/a").header("connection", "upgrade, http2-settings").header("upgrade", protocol);
    for protocol in ["h2c", "websocket, h2c", "TLS/1.0"] {
        assert_eq!(ask(protocol).header("http2-settings", "AAMAAABk").send().await.text(), "x", "{protocol}");
    }
    // A WebSocket needs a GET without content, from a client, on this connection.
    assert_eq!(ask("websocket").body("content").send().await.text(), "x");
    assert_eq!(edge.get("/a").header("upgrade", "websocket").send().await.text(), "x");
    let post = edge.request(Method::POST, "/a").header("connection", "upgrade").header("upgrade", "websocket");
    assert_eq!(post.send().await.text(), "x");
    let peer = edge.get_as_peer("/a").header("connection", "upgrade").header("upgrade", "websocket");
    assert_eq!(peer.send().await.text(), "x");
    let old = WEBSOCKET.replace("/chat HTTP/1.1", "/a HTTP/1.0");
    let mut client = connect(edge).await;
    client.write(&old).await;
    assert!(client.head().await.starts_with("HTTP/1.0 200 "));
    let seen = origin.seen();
    assert_eq!(seen.len(), 8);
    for field in ["upgrade", "connection", "http2-settings"] {
        assert!(seen.iter().all(|seen| seen.header(field).is_none()), "{field}");
    }
}

#[tokio::test]
async fn unsolicited_101_is_502() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(1, &origin, |_| {}).await;
    let edge = &cluster.edges[0];
    origin.script("*", Script::raw(format!("{SWITCHING}raw")));
    for answer in [
        edge.get("/a").send().await,
        edge.get("/logo-0492830483.png").send().await,
        edge.get("/a").header("authorization", "x").send().await,
        edge.get("/a").header("connection", "upgrade").header("upgrade", "h2c").send().await,
        edge.get("/a").http2().send().await,
        edge.get_as_peer("/a").header("connection", "upgrade").header("upgrade", "websocket").send().await,
        edge.request(Method::POST, "/a").body("x").send().await,
    ] {
        assert_eq!((answer.status.as_u16(), answer.cache_status()), (502, "edge-1;detail=origin-garbage"));
        assert!(answer.complete);
    }
    // A 101 for another protocol is a 502, too.
    for other in [SWITCHING.replace("websocket\r\n", "h2c\r\n"), SWITCHING.replace("connection: Upgrade\r\n", "")] {
        origin.script("/chat", Script::raw(other));
        let mut client = connect(edge).await;
        client.write(WEBSOCKET).await;
        assert!(client.head().await.starts_with("HTTP/1.1 502 "));
    }
}

/// An embedded origin, which has no connection to switch.
struct Switching;

impl peerage::Origin for Switching {
    fn fetch(&self, _: Call) -> BoxFuture<'_, Result<Reply, Error>> {
        let switching = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        Box::pin(std::future::ready(Ok(switching.body(Body::empty()).unwrap().into())))
    }
}

#[tokio::test]
async fn embedded_origin_cannot_switch_protocols() {
    let edge = embedded(Switching).await;
    let mut client = connect(&edge).await;
    client.write(WEBSOCKET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn drain_ends_a_tunnel() {
    let drain = |config: &mut Config| config.edge.drain = Period(Duration::from_millis(50));
    let (mut edge, listener) = edge_with_raw_origin(drain).await;
    let (mut client, mut origin) = tunnel(&edge, &listener).await;
    assert_eq!(within(20, edge.drain()).await, 1);
    client.expect_end().await;
    origin.expect_end().await;
}

#[tokio::test]
async fn silent_tunnel_is_closed_after_tunnel_timeout() {
    let patience = |config: &mut Config| config.limits.tunnel_timeout = Period(Duration::from_millis(1500));
    let (edge, listener) = edge_with_raw_origin(patience).await;
    let (mut client, mut origin) = tunnel(&edge, &listener).await;
    for _ in 0..8 {
        // Time has to pass here: longer in all than the timeout.
        tokio::time::sleep(Duration::from_millis(250)).await;
        origin.write("x").await;
        client.expect_bytes("x").await;
    }
    client.expect_end().await;
    origin.expect_end().await;
}
