//! Informational responses on their way from the origin to a client.

use std::time::Duration;

use http::Method;
use peerage::config::Period;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::harness::{Cluster, pattern, single_edge, within};
use crate::origin::{Origin, Script};
use crate::raw_connection::{RawConnection, accept, connect, edge_with_raw_origin};

const EARLY: &str =
    "HTTP/1.1 103 Early Hints\r\nlink: </a.css>;rel=preload\r\nconnection: x-inner\r\nx-inner: 1\r\n\r\n";
const FINAL: &str = "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 2\r\n\r\nok";

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n")
}

fn early(vias: &[&str]) -> String {
    let vias: String = vias.iter().map(|via| format!("via: 1.1 {via}\r\n")).collect();
    format!("HTTP/1.1 103 Early Hints\r\nlink: </a.css>;rel=preload\r\n{vias}\r\n")
}

/// Reads the final response and checks it.
async fn expect_final_response(client: &mut RawConnection) {
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    client.expect_bytes("ok").await;
}

#[tokio::test]
async fn early_hints_arrive_before_the_final_response() {
    let (edge, listener) = edge_with_raw_origin(|_| {}).await;
    let mut client = connect(&edge).await;
    let put = "PUT /page HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".to_owned();
    client.write(&get("/page")).await;
    let mut origin = accept(&listener).await;
    // One client connection for a fill, a pass, and a fill of a hashed name.
    for next in [Some(put), Some(get("/logo-0492830483.png")), None] {
        origin.head().await;
        for _ in 0..2 {
            origin.write(EARLY).await;
            client.expect_bytes(&early(&["edge-1"])).await;
        }
        origin.write(FINAL).await;
        expect_final_response(&mut client).await;
        if let Some(next) = next {
            client.write(&next).await;
        }
    }
}

#[tokio::test]
async fn early_hints_sent_with_the_response_precede_it() {
    let (edge, listener) = edge_with_raw_origin(|_| {}).await;
    let mut client = connect(&edge).await;
    client.write(&get("/page")).await;
    let mut origin = accept(&listener).await;
    origin.head().await;
    origin.write(&format!("{EARLY}HTTP/1.1 100 Continue\r\n\r\n{EARLY}{FINAL}")).await;
    client.expect_bytes(&early(&["edge-1"]).repeat(2)).await;
    expect_final_response(&mut client).await;
}

#[tokio::test]
async fn early_hints_are_forwarded_through_a_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let unused = Origin::start().await;
    let cluster = Cluster::start(2, &unused, |config| config.origin.url = url.parse().unwrap()).await;
    let path = cluster.path_owned_by(1, 1);
    let mut client = connect(&cluster.edges[0]).await;
    client.write(&get(&path)).await;
    let mut origin = accept(&listener).await;
    origin.head().await;
    origin.write(&format!("HTTP/1.1 102 Processing\r\n\r\n{EARLY}")).await;
    // A 102 of the owner is not forwarded: peers acknowledge requests with it.
    client.expect_bytes(&early(&["edge-2", "edge-1"])).await;
    origin.write(FINAL).await;
    expect_final_response(&mut client).await;
    // A hit has no informational responses.
    client.write(&get(&path)).await;
    expect_final_response(&mut client).await;
}

#[tokio::test]
async fn early_hints_precede_a_switch_of_protocols() {
    let (edge, listener) = edge_with_raw_origin(|_| {}).await;
    let mut client = connect(&edge).await;
    client.write("GET /chat HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    let mut origin = accept(&listener).await;
    origin.head().await;
    origin
        .write(&format!(
            "{EARLY}HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n{EARLY}"
        ))
        .await;
    client.expect_bytes(&early(&["edge-1"])).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    // Bytes behind the 101 belong to the other protocol, even if they look like HTTP.
    client.expect_bytes(EARLY).await;
}

#[tokio::test]
async fn http_2_and_http_1_0_clients_get_the_final_response_alone() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("*", Script::raw(format!("{EARLY}{FINAL}")));
    for method in [Method::GET, Method::POST] {
        let got = edge.request(method, "/page").http2().send().await;
        assert_eq!((got.status.as_u16(), got.text(), got.complete), (200, "ok", true));
    }
    let mut client = connect(&edge).await;
    client.write("GET /page HTTP/1.0\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.0 200 OK\r\n"));
    client.expect_bytes("ok").await;
    client.expect_end().await;
}

#[tokio::test]
async fn early_hints_of_a_response_are_limited_to_16() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("/flood", Script::raw(format!("{}{FINAL}", EARLY.repeat(10_000))));
    origin.script("/page", Script::ok("page"));
    let mut client = connect(&edge).await;
    client.write(&(get("/flood") + &get("/page"))).await;
    client.expect_bytes(&early(&["edge-1"]).repeat(16)).await;
    expect_final_response(&mut client).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    client.expect_bytes("page").await;
}

#[tokio::test]
async fn early_hints_wait_for_the_end_of_the_previous_response() {
    let (edge, listener) = edge_with_raw_origin(|_| {}).await;
    let body = pattern(3_000_000);
    let mut client = connect(&edge).await;
    client.write(&(get("/large") + &get("/page"))).await;
    let mut origin = accept(&listener).await;
    origin.head().await;
    origin.write("HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n").await;
    origin.0.write_all(&body).await.unwrap();
    // The client reads nothing until the origin has sent everything.
    let (mut client, mut origin) = (client, origin);
    let hinting = async {
        origin.head().await;
        origin.write(&format!("{EARLY}{FINAL}")).await;
    };
    let reading = async {
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        let mut came = vec![0; body.len()];
        tokio::io::AsyncReadExt::read_exact(&mut client.0, &mut came).await.unwrap();
        assert!(came == body);
        client.expect_bytes(&early(&["edge-1"])).await;
        expect_final_response(&mut client).await;
    };
    within(20, futures_util::future::join(hinting, reading)).await;
}

#[tokio::test]
async fn early_hints_after_a_504_are_dropped() {
    let (edge, listener) =
        edge_with_raw_origin(|config| config.origin.first_byte_timeout = Period(Duration::from_millis(200))).await;
    let mut client = connect(&edge).await;
    client.write(&get("/page")).await;
    let mut late = accept(&listener).await;
    late.head().await;
    assert!(client.head().await.starts_with("HTTP/1.1 504 "));
    client.expect_bytes("the origin did not respond in time\n").await;
    // The edge may have closed the connection already.
    let _ = late.0.write_all(format!("{EARLY}{FINAL}").as_bytes()).await;
    client.write(&get("/page")).await;
    let mut origin = accept(&listener).await;
    origin.head().await;
    origin.write(FINAL).await;
    expect_final_response(&mut client).await;
}
