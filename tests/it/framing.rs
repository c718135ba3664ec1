//! Message framing: all hops agree on where a message ends.

use http::Method;
use tokio::io::AsyncReadExt;

use crate::harness::{TestEdge, pattern, single_edge, within};
use crate::origin::{Origin, Script};
use crate::raw_connection::{accept, connect, edge_with_raw_origin};

const PAGE: &str = "/page";
const HASHED: &str = "/logo-0123456789abcdef.png";

/// Sends `request` on a new connection, and returns all bytes that come before its end.
async fn exchange(edge: &TestEdge, request: &str) -> String {
    let mut client = connect(edge).await;
    client.write(request).await;
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = within(20, client.0.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn request_content_length_must_be_plain_digits_over_http_1() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("thanks"));
    let edge = single_edge(&origin, |_| {}).await;
    let put = |fields: &str| format!("PUT /page HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n\r\nhello");
    for length in [
        "05",
        "0000000000000000000005",
        "+5",
        "-5",
        "5, 5",
        "5,",
        "5 5",
        "0x5",
        "5h",
        "5.0",
        "5e0",
        "",
        "\"5\"",
        "00",
        "99999999999999999999",
        "18446744073709551621",
    ] {
        let answer = exchange(&edge, &put(&format!("content-length: {length}"))).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{length}: {answer}");
        // The same for a method that is answered from memory.
        let answer = exchange(&edge, &put(&format!("content-length: {length}")).replace("PUT", "GET")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{length}: {answer}");
    }
    let answer = exchange(&edge, &put("content-length: 5\r\ncontent-length: 6")).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(origin.seen().is_empty());
    // Blanks around the value are not part of it (RFC 9110 §5.5), and repeated values become one.
    for fields in ["Content-Length:\t 5 \t", "content-length: 5\r\ncontent-length: 5", "CONTENT-LENGTH:5"] {
        let answer = exchange(&edge, &put(fields)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{fields}: {answer}");
        let seen = origin.seen().pop().unwrap();
        let stated: Vec<_> = seen.headers.iter().filter(|(name, _)| name == "content-length").collect();
        assert!(stated.len() == 1 && stated[0].1 == "5" && seen.body == b"hello", "{fields}: {seen:?}");
    }
}

#[tokio::test]
async fn request_content_length_must_be_plain_digits_over_http_2() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("thanks"));
    let edge = single_edge(&origin, |_| {}).await;
    let put = || edge.request(Method::PUT, PAGE).body("hello").http2();
    for length in ["05", "0000005"] {
        let got = put().header("content-length", length).send().await;
        assert_eq!((got.status.as_u16(), got.cache_status()), (400, "edge-1;detail=bad-length"), "{length}");
    }
    let twice = put().header("content-length", "5").header("content-length", "5").send().await;
    assert_eq!((twice.status.as_u16(), twice.cache_status()), (400, "edge-1;detail=bad-length"));
    // The stream is malformed (RFC 9113 §8.1.1): it is reset.
    for length in ["+5", "5, 5", "0x5", "6", "4", "", "99999999999999999999"] {
        let answer = put().header("content-length", length).try_open().await;
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400), "{length}");
    }
    for seen in origin.seen() {
        assert!(seen.body != b"hello", "{seen:?}");
    }
    assert_eq!(put().header("content-length", "5").send().await.status, 200);
    let seen = origin.seen().pop().unwrap();
    assert_eq!((seen.header("content-length"), &*seen.body), (Some("5"), &b"hello"[..]));
}

#[tokio::test]
async fn response_content_length_is_forwarded_as_plain_digits() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let respond = |status: &str, lengths: &str| {
        Script::raw(format!("HTTP/1.1 {status}\r\ncache-control: no-store\r\n{lengths}\r\n\r\nhello"))
    };
    for lengths in ["content-length: 0005", "content-length: 5, 05", "content-length: 5\r\ncontent-length:05"] {
        origin.script("*", respond("200 OK", lengths));
        for method in [Method::GET, Method::HEAD, Method::POST] {
            for ask in [edge.request(method.clone(), PAGE), edge.request(method.clone(), PAGE).http2()] {
                let got = ask.send().await;
                let stated: Vec<_> = got.headers.get_all("content-length").iter().collect();
                assert!(stated == ["5"] && got.complete, "{method}, {lengths}: {stated:?}");
            }
        }
    }
    for lengths in
        ["content-length: +5", "content-length: 5,", "content-length: 0x5", "content-length: 5\r\ncontent-length: 6"]
    {
        for (method, status) in [(Method::GET, "200 OK"), (Method::HEAD, "200 OK"), (Method::POST, "204 No Content")] {
            origin.script("*", respond(status, lengths));
            assert_eq!(edge.request(method.clone(), PAGE).send().await.status, 502, "{method}, {lengths}");
        }
    }
    origin.script("*", Script::raw("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n"));
    for ask in [edge.request(Method::POST, PAGE), edge.request(Method::POST, PAGE).http2()] {
        let got = ask.send().await;
        assert_eq!((got.status.as_u16(), got.header("content-length"), got.complete), (204, "", true));
    }
}

#[tokio::test]
async fn content_of_unknown_length_reaches_the_origin_with_any_method() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("thanks"));
    let edge = single_edge(&origin, |_| {}).await;
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let head = format!("{method} /page HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: Chunked\r\n");
        let answer = exchange(
            &edge,
            &format!("{head}te: trailers\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{method}: {answer}");
        let seen = origin.seen().pop().unwrap();
        assert_eq!((&*seen.method, &*seen.body), (method, &b"hello"[..]));
        assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
        for gone in ["content-length", "te", "trailer", "x-sum", "connection"] {
            assert_eq!(seen.header(gone), None, "{method}: {gone}");
        }
    }
}

#[tokio::test]
async fn expect_and_upgrade_headers_are_not_forwarded() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("thanks"));
    let edge = single_edge(&origin, |_| {}).await;
    let fields = "expect: 100-continue\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\nconnection: close, upgrade";
    let answer =
        exchange(&edge, &format!("PUT /page HTTP/1.1\r\nhost: x\r\n{fields}\r\ncontent-length: 5\r\n\r\nhello")).await;
    assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
    let seen = origin.seen().pop().unwrap();
    assert_eq!(&*seen.body, b"hello");
    for gone in ["expect", "upgrade", "http2-settings", "connection"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn a_host_that_contradicts_the_authority_is_400() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("thanks"));
    let edge = single_edge(&origin, |_| {}).await;
    // The test client sends `site.example` as `:authority`.
    for (host, status) in
        [("site.example", 200), ("SITE.example", 200), ("other.example", 400), ("site.example:81", 400)]
    {
        let got = edge.get(PAGE).also_host(host).send().await;
        assert_eq!(got.status, status, "{host}");
    }
}

#[tokio::test]
async fn malformed_first_chunk_is_502() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    for size in ["", "x", "-5", "+5", "0x5", "5 5", "5\n", "fffffffffffffffff", "5;a\nb"] {
        let raw = format!(
            "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n{size}\r\nhello\r\n0\r\n\r\n"
        );
        origin.script("*", Script::raw(raw));
        for (method, path) in [(Method::GET, PAGE), (Method::GET, HASHED), (Method::POST, PAGE)] {
            let got = edge.request(method.clone(), path).send().await;
            assert_eq!((got.status.as_u16(), got.complete), (502, true), "{size:?}, {method} {path}");
            assert!(got.cache_status().contains("detail=origin-"), "{}", got.cache_status());
        }
    }
    origin.script("*", Script::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"));
    let got = edge.get(PAGE).send().await;
    assert_eq!((got.status.as_u16(), got.complete, got.body.len()), (200, true, 0));
}

#[tokio::test]
async fn malformed_later_chunk_breaks_the_response_off() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("*", Script::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n"));
    for ask in [edge.get(PAGE), edge.get(PAGE).http2()] {
        // The head may be lost with the connection.
        if let Ok(open) = ask.try_open().await {
            assert!(!open.rest().await.complete);
        }
    }
}

#[tokio::test]
async fn trailer_line_ending_in_a_bare_lf_is_400_and_closes_the_connection() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("thanks").header("cache-control", "max-age=60"));
    let edge = single_edge(&origin, |_| {}).await;
    edge.get(PAGE).send().await;
    let inner = "GET /inner HTTP/1.1\r\nhost: x\r\n\r\n";
    let put = "PUT /other HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
    for (before, trailers) in [("", "x: y\n\n"), ("", "x: y\n\r\n"), ("", "\n"), (inner, "x: y\r\nz: z\n\n")] {
        let answer = exchange(&edge, &format!("{before}{put}{trailers}{inner}")).await;
        let statuses: Vec<_> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
        let expected: &[&str] = if before.is_empty() { &["400"] } else { &["200", "400"] };
        assert_eq!(statuses, expected, "{trailers:?}: {answer}");
    }
    assert!(origin.seen().iter().all(|seen| seen.method != "PUT" || seen.body != b"hello"), "{:?}", origin.seen());
    // Well-formed trailers delay nothing.
    let answer =
        exchange(&edge, &format!("{put}x: y\r\n\r\n{}", inner.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")))
            .await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
    // Content that looks like such a trailer is forwarded.
    let body = format!("0\r\nx: y\n\n{inner}");
    let put =
        format!("PUT /raw HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    assert!(exchange(&edge, &put).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(origin.seen().pop().unwrap().body, body.as_bytes());
    assert_eq!(edge.request(Method::PUT, "/large").body(pattern(300_000)).send().await.status, 200);
}

#[tokio::test]
async fn blanks_before_a_colon_are_removed_from_origin_responses() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    for (blank, framing) in [
        (" ", "content-length{}: 5\r\n\r\nhello"),
        ("\t", "content-length{}: 5\r\n\r\nhello"),
        (" \t  ", "transfer-encoding{}: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        (" ", "content-length{}: 3\r\ntransfer-encoding{}: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let raw = format!("HTTP/1.1 200 OK\r\nX-A{blank}:b\r\ncache-control{blank}: max-age=60\r\n{framing}")
            .replace("{}", blank);
        let path = format!("/{}", raw.len());
        origin.script(&path, Script::raw(raw.clone()));
        for hit in [false, true] {
            for ask in [edge.get(&path), edge.get(&path).http2()] {
                let got = ask.send().await;
                assert_eq!((got.text(), got.complete, got.header("x-a")), ("hello", true, "b"), "{raw:?}");
                assert!(!hit || got.cache_status().contains(";hit"), "{raw:?}: {}", got.cache_status());
            }
        }
    }
    // Other malformed header lines are a 502 (RFC 9112 §2.2, §5.2).
    for line in ["X A: b", "X-A\r: b", " X-A: b", "X-A: b\r\n c", ": b", "X-A", "X-A\0: b"] {
        for path in [PAGE, HASHED] {
            origin.script(path, Script::raw(format!("HTTP/1.1 200 OK\r\n{line}\r\ncontent-length: 5\r\n\r\nhello")));
            assert_eq!(edge.get(path).send().await.status, 502, "{line:?}");
        }
    }
    // In a request, a blank before the colon is rejected.
    for blank in [" ", "\t"] {
        let answer = exchange(&edge, &format!("GET {PAGE} HTTP/1.1\r\nhost{blank}: x\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
}

#[tokio::test]
async fn bytes_beyond_content_length_do_not_answer_the_next_request() {
    let (edge, origin) = edge_with_raw_origin(|_| {}).await;
    let first = tokio::spawn(edge.get("/first").send());
    let mut upstream = accept(&origin).await;
    upstream.head().await;
    upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npage").await;
    assert_eq!(within(20, first).await.unwrap().text(), "page");
    // The surplus bytes come when the connection is in use again.
    let second = tokio::spawn(edge.get("/second").send());
    assert!(upstream.head().await.starts_with("GET /second "));
    upstream.write("and more of it").await;
    let mut upstream = accept(&origin).await;
    assert!(upstream.head().await.starts_with("GET /second "));
    upstream.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nright").await;
    assert_eq!(within(20, second).await.unwrap().text(), "right");
}
