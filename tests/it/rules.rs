//! HTTP rules that show over several requests, each through one edge and through three.

use std::time::Duration;

use http::Method;
use peerage::config::{KeepConfig, KeepWord, Period, QueryConfig, Size};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::FullResponse;
use crate::harness::{Cluster, TestEdge, join_all, pattern, single_edge, within};
use crate::origin::{Gate, Origin, Script};
use crate::raw_connection::{accept, connect, edge_with_raw_origin};

const PAGE: &str = "/page";

/// Starts a cluster of one edge, and one of three.
async fn clusters_of_one_and_three(origin: &Origin) -> [Cluster; 2] {
    [Cluster::start(1, origin, |_| {}).await, Cluster::start(3, origin, |_| {}).await]
}

/// Requests `path` at all edges, one after the other.
async fn each(cluster: &Cluster, path: &str) -> Vec<FullResponse> {
    let mut responses = Vec::new();
    for edge in &cluster.edges {
        responses.push(edge.get(path).send().await);
    }
    responses
}

#[tokio::test]
async fn no_cache_response_is_stored_and_revalidated_each_time() {
    for control in ["no-cache", "max-age=0", "max-age=60, no-cache"] {
        let origin = Origin::start().await;
        for cluster in clusters_of_one_and_three(&origin).await {
            let before = origin.count(PAGE);
            origin.script(PAGE, Script::ok("v1").header("cache-control", control).etag("\"v1\""));
            each(&cluster, PAGE).await;
            for got in each(&cluster, PAGE).await {
                assert_eq!((got.status.as_u16(), got.text()), (200, "v1"));
                assert!(got.cache_status().contains(";fwd=stale;fwd-status=304"), "{control}: {}", got.cache_status());
            }
            // Each request was revalidated at the origin, and the body was sent once.
            let seen = origin.seen().split_off(before);
            assert!(seen.len() >= 2 * cluster.edges.len());
            assert_eq!(seen.iter().filter(|seen| seen.header("if-none-match").is_none()).count(), 1, "{control}");
            // A change is visible at once on all edges.
            origin.script(PAGE, Script::ok("v2").header("cache-control", control).etag("\"v2\""));
            for got in each(&cluster, PAGE).await {
                assert_eq!(got.text(), "v2", "{control}");
            }
            origin.script("*", Script::ok("changed"));
            cluster.edges[0].request(Method::POST, PAGE).send().await;
        }
    }
}

#[tokio::test]
async fn waiters_for_a_no_cache_response_send_their_own_requests() {
    let origin = Origin::start().await;
    for cluster in clusters_of_one_and_three(&origin).await {
        let before = origin.count(PAGE);
        let gate = Gate::closed();
        let page = Script::ok(pattern(1000)).header("cache-control", "no-cache").etag("\"v1\"");
        origin.script(PAGE, page.clone().hold_body(&gate));
        let asks: Vec<_> = (0..6).map(|i| cluster.edges[i % cluster.edges.len()].get(PAGE)).collect();
        let waiting = tokio::spawn(join_all(asks.into_iter().map(crate::client::RequestBuilder::send)));
        origin.arrived(before + 1).await;
        gate.open(100_000);
        for got in within(20, waiting).await.unwrap() {
            assert!(got.complete && got.body == pattern(1000));
        }
        // No response answered the request of another client.
        assert!(origin.count(PAGE) - before >= 6, "{}", origin.count(PAGE) - before);
        origin.script("*", Script::ok("changed"));
        cluster.edges[0].request(Method::POST, PAGE).send().await;
    }
}

#[tokio::test]
async fn headers_listed_by_private_or_no_cache_reach_the_leader_alone() {
    let origin = Origin::start().await;
    for (number, cluster) in clusters_of_one_and_three(&origin).await.into_iter().enumerate() {
        let path = format!("/listed/{number}");
        let control = "max-age=60, private=\"set-cookie, x-yours\", no-cache=x-checked";
        let gate = Gate::closed();
        let page = Script::ok(pattern(1000)).header("cache-control", control).header("x-kept", "1").hold_body(&gate);
        let page = page.header("set-cookie", "a=b").header("x-yours", "1").header("x-checked", "1");
        origin.script(&path, page.header("proxy-authentication-info", "1"));
        let shown = |headers: &http::HeaderMap| {
            ["set-cookie", "x-yours", "x-checked", "proxy-authentication-info", "x-kept"]
                .map(|name| headers.contains_key(name))
        };
        gate.open(10);
        let first = cluster.edges[0].get(&path).open().await;
        assert_eq!(shown(&first.headers), [true; 5]);
        // Requests that join the flight, and later ones, on this edge or another.
        for edge in &cluster.edges {
            assert_eq!(shown(&edge.get(&path).open().await.headers), [false, false, false, false, true]);
        }
        gate.open(1_000_000);
        assert!(first.rest().await.complete);
        for got in each(&cluster, &path).await {
            assert_eq!(shown(&got.headers), [false, false, false, false, true]);
        }
        assert_eq!(origin.count(&path), 1);
    }
}

#[tokio::test]
async fn response_to_credentials_is_shared_only_if_its_cache_control_allows() {
    let origin = Origin::start().await;
    for (number, cluster) in clusters_of_one_and_three(&origin).await.into_iter().enumerate() {
        for (control, shared) in [("public, max-age=60", true), ("s-maxage=60", true), ("max-age=60", false)] {
            for name in ["/plain-", "/logo-0123456789abcdef"] {
                let path = format!("{name}{number}{}.png", control.len());
                origin.script(&path, Script::ok("x").header("cache-control", control));
                let asked = |edge: &TestEdge, user: &str| edge.get(&path).header("authorization", user).send();
                for edge in &cluster.edges {
                    assert_eq!(asked(edge, "Basic a").await.text(), "x");
                }
                let again = asked(&cluster.edges[0], "Basic b").await;
                assert_eq!(again.cache_status().contains(";hit"), shared, "{path} {}", again.cache_status());
                assert_eq!(origin.count(&path), if shared { 1 } else { cluster.edges.len() + 1 }, "{path} {control}");
                assert!(origin.seen().iter().all(|seen| seen.target != path || seen.header("authorization").is_some()));
                // A response to a request without credentials is for all clients.
                let got = cluster.edges[0].get(&path).send().await;
                assert_eq!((got.status.as_u16(), got.cache_status().contains(";hit")), (200, shared));
                assert!(asked(&cluster.edges[0], "Basic c").await.cache_status().contains(";hit"), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn requests_with_different_credentials_do_not_wait_for_one_another() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let gate = Gate::closed();
    origin.script(PAGE, Script::ok("slow").hold_body(&gate));
    let asks: Vec<_> = (0..3).map(|user| edge.get(PAGE).header("authorization", &format!("Basic {user}"))).collect();
    let waiting = tokio::spawn(join_all(asks.into_iter().map(crate::client::RequestBuilder::send)));
    // All requests reach the origin before the first response.
    within(20, origin.arrived(3)).await;
    gate.open(100);
    assert!(within(20, waiting).await.unwrap().iter().all(|got| got.text() == "slow"));
}

#[tokio::test]
async fn head_is_forwarded_as_head_and_updates_the_stored_response() {
    let origin = Origin::start().await;
    for (number, cluster) in clusters_of_one_and_three(&origin).await.into_iter().enumerate() {
        let path = format!("/headed/{number}");
        let edge = &cluster.edges[0];
        let page = |control: &str, tag: &str| Script::ok("v1").header("cache-control", control).etag(tag);
        origin.script(&path, page("max-age=100", "\"v1\"").header("age", "99"));
        assert_eq!(edge.request(Method::HEAD, &path).send().await.body.len(), 0);
        assert_eq!(origin.seen().pop().unwrap().method, "HEAD");
        edge.get(&path).send().await;
        let stale =
            async { while edge.get(&path).header("cache-control", "only-if-cached").send().await.status == 200 {} };
        within(20, stale).await;
        // Unchanged and fresh for longer: a GET needs no revalidation.
        origin.script(&path, page("max-age=100", "\"v1\"").header("x-new", "1"));
        edge.request(Method::HEAD, &path).send().await;
        let requests = origin.count(&path);
        let got = edge.get(&path).send().await;
        assert!(got.cache_status().contains(";hit"), "{}", got.cache_status());
        assert_eq!((got.text(), got.header("x-new"), origin.count(&path)), ("v1", "1", requests));
        // Changed: the stored response is not used.
        origin.script(&path, page("max-age=100", "\"v2\""));
        edge.request(Method::HEAD, &path).header("cache-control", "no-cache").send().await;
        assert_eq!(edge.get(&path).send().await.header("etag"), "\"v2\"");
    }
}

#[tokio::test]
async fn if_match_is_not_evaluated_against_an_old_copy() {
    let origin = Origin::start().await;
    for (number, cluster) in clusters_of_one_and_three(&origin).await.into_iter().enumerate() {
        let path = format!("/matched/{number}");
        let edge = &cluster.edges[0];
        origin.script(&path, Script::ok("v1").header("cache-control", "max-age=100").etag("\"v1\""));
        edge.get(&path).send().await;
        origin.script(&path, Script::ok("v2").header("cache-control", "max-age=100").etag("\"v2\""));
        let got = edge.get(&path).header("if-match", "\"v2\"").send().await;
        assert_eq!((got.status.as_u16(), got.text()), (200, "v2"), "{}", got.cache_status());
        assert_eq!(edge.get(&path).header("if-match", "\"v1\"").send().await.status, 412);
        // Contents under a verified name are the same at every edge.
        let asset =
            format!("/v2/{number}/blobs/sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881");
        origin.script(&asset, Script::ok("x").etag("\"a\""));
        edge.get(&asset).send().await;
        assert_eq!(edge.get(&asset).header("if-match", "\"b\"").send().await.status, 412);
        assert_eq!(origin.count(&asset), 1);
    }
}

#[tokio::test]
async fn immutable_response_answers_the_reload_of_a_browser() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(
        PAGE,
        Script::ok("x").header("cache-control", "max-age=100, immutable").header("age", "5").etag("\"a\""),
    );
    edge.get(PAGE).send().await;
    let wish = |control| edge.get(PAGE).header("cache-control", control).send();
    assert!(wish("max-age=0").await.cache_status().contains(";hit"));
    assert!(wish("no-cache").await.cache_status().contains(";fwd=request;fwd-status=304"));
}

#[tokio::test]
async fn heuristic_freshness_applies_only_where_it_is_allowed() {
    let dated = |script: Script| script.header("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    for (heuristic, script, stored) in [
        (0, dated(Script::ok("x")), false),
        (60, dated(Script::ok("x")), true),
        (60, Script::ok("x"), false),
        (60, dated(Script::ok("x")).header("cache-control", "no-store"), false),
        (60, dated(Script::status(500)), false),
    ] {
        let origin = Origin::start().await;
        let edge =
            single_edge(&origin, |config| config.cache.heuristic = Period(std::time::Duration::from_secs(heuristic)))
                .await;
        origin.script(PAGE, script);
        edge.get(PAGE).send().await;
        let got = edge.get(PAGE).send().await;
        assert_eq!(got.cache_status().contains(";hit"), stored, "{heuristic}: {}", got.cache_status());
        if stored {
            // 10 % of thirty years, limited by `cache.heuristic`.
            assert!(got.cache_status().contains(";ttl=60") || got.cache_status().contains(";ttl=59"));
        }
    }
}

#[tokio::test]
async fn query_rules_select_the_parameters_of_the_key() {
    let origin = Origin::start().await;
    let names = || KeepConfig::Names(vec!["w".to_owned(), "h".to_owned()]);
    let rules =
        || vec![QueryConfig::new("/img/**", names()), QueryConfig::new("/static/**", KeepConfig::Word(KeepWord::None))];
    for count in [1, 3] {
        let cluster = Cluster::start(count, &origin, |config| config.query = rules()).await;
        origin.script("*", Script::ok("x").header("cache-control", "max-age=60"));
        for (asked, forwarded) in [
            (["/img/a?w=1&utm=x", "/img/a?utm=y&w=1"], "/img/a?w=1"),
            (["/static/a?v=1", "/static/a?v=2"], "/static/a"),
            (["/other?v=1", "/other?v=1"], "/other?v=1"),
        ] {
            let before = origin.seen().len();
            for edge in &cluster.edges {
                for target in asked {
                    assert_eq!(edge.get(target).send().await.status, 200);
                }
            }
            let seen: Vec<_> = origin.seen().split_off(before).into_iter().map(|seen| seen.target).collect();
            assert_eq!(seen, [forwarded], "{asked:?}");
        }
        // A write is forwarded with its whole query, and invalidates the key of its target.
        cluster.edges[0].request(Method::POST, "/static/a?v=7").send().await;
        assert_eq!(origin.seen().pop().unwrap().target, "/static/a?v=7");
        assert!(!cluster.edges[0].get("/static/a?v=1").send().await.cache_status().contains(";hit"));
    }
}

#[tokio::test]
async fn max_forwards_of_options_is_decremented_and_answered_at_0() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script("*", Script::ok("from the origin").header("allow", "GET"));
    let options = |hops: &str| edge.request(Method::OPTIONS, PAGE).header("max-forwards", hops).send();
    let own = options("0").await;
    assert_eq!((own.status.as_u16(), own.body.len(), own.header("via")), (200, 0, "1.1 edge-1"));
    assert!(own.header("allow").contains("GET") && own.header("content-length") == "0");
    assert!(origin.seen().is_empty());
    assert_eq!(options("7").await.text(), "from the origin");
    assert_eq!(origin.seen().pop().unwrap().header("max-forwards"), Some("6"));
    assert_eq!(options("many").await.text(), "from the origin");
    // For other methods the header means nothing.
    assert_eq!(edge.get(PAGE).header("max-forwards", "0").send().await.text(), "from the origin");
    let mut stream = TcpStream::connect(edge.clients).await.unwrap();
    stream.write_all(b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(20, stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("allow: GET"), "{answer}");
}

#[tokio::test]
async fn requests_beyond_the_limits_are_rejected_with_a_reason() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("thanks"));
    let edge = single_edge(&origin, |config| {
        config.limits.body = Size(1000);
        config.limits.uri = Size(300);
        config.limits.header = Size(8 * 1024);
    })
    .await;
    let long = "a".repeat(9000);
    for (ask, status, detail) in [
        (edge.request(Method::PUT, PAGE).body(pattern(1001)), 413, "content-too-large"),
        (edge.get(&format!("/{}", "a".repeat(300))), 414, "uri-too-long"),
        (edge.get(PAGE).header("expect", "200-ok"), 417, "expectation"),
        (edge.get(PAGE).header("x-long", &long), 431, "header-too-large"),
    ] {
        for ask in [ask.clone(), ask.http2()] {
            let got = ask.send().await;
            assert_eq!((got.status.as_u16(), got.cache_status()), (status, &*format!("edge-1;detail={detail}")));
            assert_eq!(got.header("content-type"), "text/plain; charset=utf-8");
            assert!(got.text().ends_with('\n') && !got.text().contains("127.0.0.1"), "{}", got.text());
        }
    }
    assert!(origin.seen().is_empty());
    assert_eq!(edge.request(Method::PUT, PAGE).body(pattern(1000)).send().await.status, 200);
    // Without a Content-Length, the limit applies to the bytes that come.
    let mut stream = TcpStream::connect(edge.clients).await.unwrap();
    stream.write_all(b"PUT /page HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    stream.write_all(format!("500\r\n{}\r\n0\r\n\r\n", "x".repeat(0x500)).as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    within(20, stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn content_that_comes_too_slowly_is_408_and_frees_its_origin_request() {
    let (edge, origin) = edge_with_raw_origin(|config| {
        config.limits.body_timeout = Period(Duration::from_millis(300));
        config.limits.body_rate = Size(1 << 20);
        // A silent client is slow; the origin is not.
        config.origin.first_byte_timeout = Period(Duration::from_millis(100));
    })
    .await;
    let head = "PUT /page HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n";
    let (mut silent, mut trickling) = (connect(&edge).await, connect(&edge).await);
    silent.write(head).await;
    let mut upstream = accept(&origin).await;
    upstream.head().await;
    assert!(silent.head().await.starts_with("HTTP/1.1 408 "));

    trickling.write(head).await;
    let mut upstream = accept(&origin).await;
    upstream.head().await;
    let (mut hears, mut says) = trickling.0.split();
    let trickle = async {
        // Each byte has reached the origin before the next one is sent.
        while says.write_all(b"x").await.is_ok() && upstream.0.read_u8().await.is_ok() {}
        std::future::pending::<()>().await;
    };
    let mut answer = vec![0; 12];
    tokio::select! {
        () = trickle => {}
        heard = within(20, hears.read_exact(&mut answer)) => drop(heard.unwrap()),
    }
    assert_eq!(answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn response_that_leaves_content_unread_has_connection_close() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("thanks").header("cache-control", "max-age=60"));
    let edge = single_edge(&origin, |config| config.limits.body = Size(1000)).await;
    edge.get(PAGE).send().await;
    let read = "PUT /other HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nok";
    for (request, status) in [
        ("GET /page HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n", 200),
        ("GET /page HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", 200),
        ("PUT /page HTTP/1.1\r\nhost: x\r\ncontent-length: 2000\r\n\r\n", 413),
    ] {
        let mut client = connect(&edge).await;
        client.write(read).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("connection: "), "{head}");
        client.expect_bytes("thanks").await;
        client.write(request).await;
        let mut answer = Vec::new();
        within(20, client.0.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains("connection: close\r\n"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn expect_100_continue_is_answered_before_the_content() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("thanks"));
    let edge = single_edge(&origin, |_| {}).await;
    let mut stream = TcpStream::connect(edge.clients).await.unwrap();
    let head =
        "PUT /page HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = vec![0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    within(20, stream.read_exact(&mut interim)).await.unwrap();
    assert_eq!(interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").await.unwrap();
    let mut answer = String::new();
    within(20, stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(origin.seen()[0].body, b"abc");
}

#[tokio::test]
async fn invalid_origin_response_is_502() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let endless = format!("HTTP/1.1 200 OK\r\nx-endless: {}", "a".repeat(1_000_000));
    for raw in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, identity\r\n\r\nabc",
        "HTTP/1.1 20 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        &endless,
    ] {
        for (path, method) in [(PAGE, Method::GET), ("/logo-0123456789abcdef.png", Method::GET), (PAGE, Method::POST)] {
            origin.script(path, Script::raw(raw.to_owned()));
            let got = within(20, edge.request(method, path).send()).await;
            let start = &raw[..raw.len().min(60)];
            assert_eq!(got.status, 502, "{start:?}");
            assert!(got.cache_status().starts_with("edge-1;detail=origin-"), "{start:?}: {}", got.cache_status());
            assert!(!got.text().contains("127.0.0.1"));
        }
    }
}

#[tokio::test]
async fn second_response_to_one_request_is_discarded() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let evil = "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 4\r\n\r\nevil";
    origin.script("/a", Script::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na{evil}")));
    origin.script("/b", Script::ok("b").header("cache-control", "max-age=60"));
    for _ in 0..5 {
        assert_eq!(edge.get("/a").send().await.text(), "a");
        assert_eq!(edge.get("/b").send().await.text(), "b");
        assert_eq!(edge.request(Method::POST, "/b").send().await.text(), "b");
    }
}

#[tokio::test]
async fn trailers_do_not_become_headers() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let raw = "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\ncache-control: no-store\r\n\r\n";
    origin.script(PAGE, Script::raw(raw));
    for hit in [false, true] {
        let got = edge.get(PAGE).send().await;
        assert_eq!((got.text(), got.complete, got.header("trailer"), got.header("x-sum")), ("a", true, "", ""));
        assert_eq!((got.cache_status().contains(";hit"), got.header("cache-control")), (hit, "max-age=60"));
    }
}

#[tokio::test]
async fn range_of_a_passed_request_is_answered_by_the_origin() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(PAGE, Script::ok(pattern(1000)).with_ranges());
    for _ in 0..2 {
        let got = edge.get(PAGE).header("range", "bytes=900-").send().await;
        assert_eq!((got.status.as_u16(), got.header("content-range")), (206, "bytes 900-999/1000"));
        assert_eq!(got.body, pattern(1000)[900..]);
    }
}

/// Starts an origin that answers the first request on each connection, and closes it at the
/// second without a response. Returns its URL and its count of requests.
async fn closing_origin() -> (http::Uri, tokio::sync::watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let (count, counted) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                for first in [true, false] {
                    if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                        return;
                    }
                    count.send_modify(|count| *count += 1);
                    if first {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                }
            });
        }
    });
    (uri, counted)
}

#[tokio::test]
async fn non_idempotent_request_is_never_retried() {
    let origin = Origin::start().await;
    for (method, status, requests) in [(Method::POST, 502, 2), (Method::GET, 200, 3), (Method::PATCH, 502, 2)] {
        let (uri, counted) = closing_origin().await;
        let edge = single_edge(&origin, |config| config.origin.url = uri).await;
        assert_eq!(edge.request(Method::GET, PAGE).header("cache-control", "no-store").send().await.status, 200);
        // The request is sent on the connection of the first one, which the origin then closes.
        let got = edge.request(method.clone(), PAGE).header("cache-control", "no-store").send().await;
        assert_eq!((got.status.as_u16(), *counted.borrow()), (status, requests), "{method}");
    }
}
