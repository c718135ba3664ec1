//! The origin's headers decide. Neither a name that looks hashed nor a request header outside the
//! key overrides them.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use peerage::Server;
use peerage::config::{ImmutableConfig, Period};
use peerage::semantics::digest::Algorithm;

use crate::client::RequestBuilder;
use crate::harness::{Cluster, TestEdge, config, join_all, run, single_edge, within};
use crate::origin::{Gate, Origin, Script};

/// Names that the rules of this version or of earlier ones took for hashed.
const NAMES: [&str; 9] = [
    "/api/orders/550e8400-e29b-41d4-a716-446655440000.json",
    "/img/550e8400-e29b-41d4-a716-4466554400ab.png",
    "/invoice-10000001.pdf",
    "/report-1700000000.json",
    "/seg-00000001.ts",
    "/photo-20240131.jpg",
    "/assets/index-BxYz12Ab.js",
    "/assets/index-BxYz12Ab.html",
    "/static/main.8e0d62a0.chunk.js",
];
const SCRIPT: &str = "/assets/index-BxYz12Ab.js";
/// A name that holds the digest of its contents, `there`.
const VERIFIED: &str = "/v2/x/blobs/sha256:e244f187f696561d5fd7e00f618e7ba641dc52e3c137380f6fa23a854b773aac";
const DIGEST: &str = "e244f187f696561d5fd7e00f618e7ba641dc52e3c137380f6fa23a854b773aac";

fn script(body: &str) -> Script {
    Script::ok(body.to_owned()).header("content-type", "text/javascript")
}

#[tokio::test]
async fn no_name_overrides_the_origins_cache_control() {
    for (control, requests) in
        [("no-cache", 2), ("max-age=0", 2), ("no-store", 2), ("private, max-age=60", 2), ("max-age=60", 1)]
    {
        let origin = Origin::start().await;
        let edge = single_edge(&origin, |_| {}).await;
        for name in NAMES {
            origin.script(name, script("x").header("cache-control", control));
            for _ in 0..2 {
                assert_eq!(edge.get(name).send().await.text(), "x");
            }
            assert_eq!(origin.count(name), requests, "{name} {control}");
        }
    }
}

#[tokio::test]
async fn response_that_depends_on_a_session_is_fetched_for_each_client() {
    for status in [302, 401, 403, 404] {
        for anonymous_first in [true, false] {
            let origin = Origin::start().await;
            let cluster = Cluster::start(3, &origin, |_| {}).await;
            for name in NAMES.into_iter().chain([VERIFIED]) {
                origin.script(name, Script::ok("there").requires_header("cookie", status).without_lifetime());
                for edge in &cluster.edges {
                    let (member, anonymous) = (edge.get(name).header("cookie", "session=1"), edge.get(name));
                    let asks = if anonymous_first { [anonymous, member] } else { [member, anonymous] };
                    let mut seen: Vec<_> = Vec::new();
                    for ask in asks {
                        seen.push(within(20, ask.send()).await.status.as_u16());
                    }
                    seen.sort_unstable();
                    assert_eq!(seen, [200, status], "{name} {anonymous_first}");
                }
            }
        }
    }
}

#[tokio::test]
async fn script_with_a_hashed_name_is_fetched_once_for_each_coding() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    origin.script(SCRIPT, script("").varies_by("accept-encoding").header("content-encoding", "gzip"));
    for edge in &cluster.edges {
        for coding in ["gzip", "br, gzip", "identity"] {
            for ask in [edge.get(SCRIPT), edge.get(SCRIPT).http2(), edge.get(SCRIPT)] {
                // A cookie makes no difference.
                let got = ask.header("accept-encoding", coding).header("cookie", "a=b").send().await;
                assert_eq!(got.text(), coding);
            }
            let hit = edge.get(SCRIPT).header("accept-encoding", coding).send().await;
            let ttl = hit.cache_status().split("ttl=").nth(1).and_then(|ttl| ttl.parse::<u64>().ok()).unwrap();
            assert!(hit.cache_status().contains(";hit") && ttl > 86_000, "{}", hit.cache_status());
        }
    }
    assert_eq!(origin.count(SCRIPT), 3);
    assert!(origin.seen().iter().all(|seen| seen.header("cookie").is_none()));
}

#[tokio::test]
async fn request_with_a_cookie_is_forwarded_unchanged_when_a_hashed_name_proves_wrong() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let page = Script::ok("page").header("content-type", "text/html").echoes("cookie");
    origin.script(SCRIPT, page);
    for client in ["a=1", "a=2", "a=3"] {
        assert_eq!(edge.get(SCRIPT).header("cookie", client).send().await.text(), client);
    }
    // One fill without the cookie, and then one request for each client.
    assert_eq!(origin.count(SCRIPT), 4);
}

/// Request headers by which servers behind proxies choose a host, a method or a path, and headers
/// with an effect that no cache knows.
fn foreign_headers() -> Vec<String> {
    let mut names: Vec<_> = "x-forwarded-host x-forwarded-scheme x-forwarded-prefix x-http-method-override \
        x-original-url x-rewrite-url x-host x-url-scheme x-wap-profile base-url request-uri x-tenant x-api-key \
        front-end-https x-middleware-subrequest x-requested-with accept-datetime prefer"
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let underscored: Vec<_> =
        names.iter().map(|name| name.replace('-', "_")).filter(|name| name.contains('_')).collect();
    names.extend(underscored);
    names.extend(["X_forwarded-host".to_owned(), "accept_language".to_owned(), "proxy".to_owned()]);
    names
}

#[tokio::test]
async fn unknown_request_header_shapes_no_response_to_others() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    for (number, header) in foreign_headers().into_iter().enumerate() {
        for name in [format!("/page/{number}"), format!("/assets/a{number}-BxYz12Ab.js")] {
            let header: &'static str = header.clone().leak();
            origin.script(&name, script("").header("cache-control", "max-age=60").echoes(header));
            for edge in &cluster.edges {
                edge.get(&name).header(header, "evil").send().await;
                assert_eq!(edge.get(&name).send().await.text(), "nothing", "{header} {name}");
            }
            let evil = origin.seen().iter().filter(|seen| seen.header(header) == Some("evil")).count();
            assert!(evil == 0 || !header.contains('_') && header != "proxy", "{header} reached the origin");
        }
    }
}

#[tokio::test]
async fn header_named_by_vary_is_sent_with_a_fill_once_vary_is_known() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    origin.script("/page", Script::ok("").header("cache-control", "max-age=60").varies_by("x-tenant"));
    let ask = |edge: &TestEdge, tenant: &str| edge.get("/page").header("x-tenant", tenant).send();
    for edge in &cluster.edges {
        // The first request passes, the second leads a fill.
        for _ in 0..2 {
            assert_eq!(ask(edge, "a").await.text(), "a");
        }
        assert!(ask(edge, "a").await.cache_status().contains(";hit"));
        assert_eq!(ask(edge, "b").await.text(), "b");
        assert_eq!(edge.get("/page").send().await.text(), "nothing");
    }
}

#[tokio::test]
async fn headers_of_origin_forward_are_sent_with_a_fill() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| config.origin.forward = vec!["X-Tenant".to_owned()]).await;
    origin.script("/page", Script::ok("").header("cache-control", "max-age=60").varies_by("x-tenant"));
    for tenant in ["a", "b", "a", "b"] {
        assert_eq!(edge.get("/page").header("x-tenant", tenant).send().await.text(), tenant);
    }
    assert_eq!(origin.count("/page"), 2);
}

#[tokio::test]
async fn error_is_fetched_once_for_all_requests_without_cookies() {
    for (status, name) in [(503, "/page"), (404, "/page"), (302, "/page"), (500, SCRIPT), (404, VERIFIED)] {
        let origin = Origin::start().await;
        let edge = single_edge(&origin, |_| {}).await;
        let gate = Gate::closed();
        origin.script(name, Script::status(status).hold_response(&gate));
        let crowd = tokio::spawn(join_all((0..20).map(|_| edge.get(name).send()).collect::<Vec<_>>()));
        edge.metric_becomes("peerage_flight_readers", 20.0).await;
        let members = tokio::spawn(join_all(
            (0..3).map(|i| edge.get(name).header("cookie", &format!("a={i}")).send()).collect::<Vec<_>>(),
        ));
        edge.metric_becomes("peerage_flight_readers", 23.0).await;
        gate.open(1);
        for got in within(20, crowd).await.unwrap() {
            assert_eq!(got.status.as_u16(), status);
        }
        // Each request with a cookie is forwarded at once, concurrently with the others.
        origin.arrived(4).await;
        gate.open(3);
        within(20, members).await.unwrap();
        assert_eq!(origin.count(name), 4, "{status} {name}");
    }
}

/// Request headers that origins read, each with the values of two clients.
const CONTENT_HEADERS: [(&str, &str, &str); 5] = [
    ("accept", "text/evil", "text/html"),
    ("accept-language", "de", "en"),
    ("origin", "https://evil.example", "https://a.example"),
    ("referer", "https://evil.example/", "https://a.example/"),
    ("user-agent", "evil", "good"),
];

#[tokio::test]
async fn unstored_redirect_or_client_error_answers_only_requests_with_the_same_headers() {
    for (header, evil, good) in CONTENT_HEADERS {
        for status in [302, 400, 403, 404, 406, 503] {
            let origin = Origin::start().await;
            let edge = single_edge(&origin, |_| {}).await;
            let gate = Gate::closed();
            let failing = Script::status(status).header("cache-control", "no-store").hold_response(&gate);
            let page = Script::ok("page").header("cache-control", "max-age=60");
            origin.scripts("/page", [failing, page]);
            let first = tokio::spawn(edge.get("/page").header(header, evil).send());
            origin.arrived(1).await;
            let alike = tokio::spawn(edge.get("/page").header(header, evil).send());
            let crowd = (0..4).map(|_| edge.get("/page").header(header, good).send()).collect::<Vec<_>>();
            let crowd = tokio::spawn(join_all(crowd));
            edge.metric_becomes("peerage_flight_readers", 6.0).await;
            gate.open(1);
            assert_eq!(within(20, first).await.unwrap().status.as_u16(), status);
            // A redirect with `no-store` answers a single request.
            let shared = status != 302;
            assert_eq!(within(20, alike).await.unwrap().status == 200, !shared, "{header} {status}");
            let failed = status == 503;
            for got in within(20, crowd).await.unwrap() {
                assert_eq!(got.status.as_u16(), if failed { 503 } else { 200 }, "{header} {status}");
            }
            assert!(failed == (origin.count("/page") == 1));
        }
    }
}

/// Returns responses without a stated lifetime, one for each rule that stores them nevertheless.
fn responses_without_lifetime() -> [(&'static str, Script); 3] {
    let old = "Sun, 06 Nov 1994 08:49:37 GMT";
    [
        (SCRIPT, script("").echoes("x-token").header("vary", "Accept-Encoding")),
        ("/page", Script::ok("").echoes("x-token").header("last-modified", old)),
        ("/gone", Script::ok("").echoes("x-token").with_status(410).header("last-modified", old)),
    ]
}

#[tokio::test]
async fn response_to_a_header_once_named_by_vary_is_stored_only_with_explicit_freshness() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |config| config.cache.heuristic = Period(Duration::from_hours(1))).await;
    for (name, echo) in responses_without_lifetime() {
        origin.script(name, Script::status(401).header("vary", "X-Token"));
        for edge in &cluster.edges {
            assert_eq!(edge.get(name).send().await.status, 401);
        }
        origin.script(name, echo);
        for token in ["alice", "alice", "bob"] {
            for edge in &cluster.edges {
                assert_eq!(edge.get(name).header("x-token", token).send().await.text(), token, "{name}");
            }
        }
        for edge in &cluster.edges {
            assert_eq!(edge.get(name).send().await.text(), "nothing", "{name}");
        }
    }
}

#[tokio::test]
async fn owner_stores_no_response_to_a_header_that_only_its_peer_knows_from_vary() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(1, &origin, |config| config.cache.heuristic = Period(Duration::from_hours(1))).await;
    let edge = &cluster.edges[0];
    for (name, echo) in responses_without_lifetime() {
        origin.script(name, echo);
        let by_peer = |token: &str| edge.get_as_peer(name).header("x-token", token).send();
        for token in ["alice", "bob"] {
            assert_eq!(by_peer(token).await.text(), token, "{name}");
        }
        assert_eq!(edge.get(name).send().await.text(), "nothing", "{name}");
    }
    // Concurrent requests of a peer do not share an error that was made for one of them, either.
    let gate = Gate::closed();
    origin.script("/error", Script::ok("").echoes("x-token").with_status(403).hold_response(&gate));
    let tokens = ["alice", "bob", "carol"];
    let asks = tokens.map(|token| edge.get_as_peer("/error").header("x-token", token).send());
    let asking = tokio::spawn(join_all(asks));
    edge.metric_becomes("peerage_flight_readers", 3.0).await;
    gate.open(3);
    for (got, token) in within(20, asking).await.unwrap().iter().zip(tokens) {
        assert_eq!(got.text(), token);
    }
}

#[tokio::test]
async fn headers_of_a_304_to_a_cookie_are_shared_only_with_explicit_freshness() {
    for control in ["no-cache", "max-age=0", "max-age=0, stale-while-revalidate=60", "max-age=0, stale-if-error=60"] {
        let origin = Origin::start().await;
        let edge = single_edge(&origin, |_| {}).await;
        let page = || Script::ok("page").etag("\"v\"").header("cache-control", control);
        origin.script("/page", page());
        edge.get("/page").send().await;
        origin.script("/page", page().header("x-user", "alice"));
        edge.get("/page").header("cookie", "session=alice").send().await;
        origin.arrived(2).await;
        edge.metric_becomes("peerage_flights", 0.0).await;
        assert!(origin.seen()[1].header("if-none-match").is_some(), "{control}");
        origin.script("/page", Script::status(503));
        let bob = || edge.get("/page").header("cookie", "session=bob");
        let stale = edge.get("/page").header("cache-control", "max-stale");
        for ask in [edge.get("/page"), bob(), stale, bob().header("authorization", "Basic eA==")] {
            assert_eq!(ask.send().await.header("x-user"), "", "{control}");
        }
        edge.metric_becomes("peerage_flights", 0.0).await;
        // Headers of a 304 to a request without Cookie are for all clients.
        origin.script("/page", page().header("x-user", "anybody"));
        edge.get("/page").header("cache-control", "no-cache").send().await;
        let got = edge.get("/page").header("cache-control", "max-stale").send().await;
        assert_eq!(got.header("x-user"), "anybody", "{control}");
    }
}

#[tokio::test]
async fn headers_made_for_one_client_are_not_stored_under_a_verified_name() {
    for header in ["cookie", "x-token"] {
        let origin = Origin::start().await;
        let edge = single_edge(&origin, |_| {}).await;
        origin.script(VERIFIED, Script::status(401).header("vary", header));
        assert_eq!(edge.get(VERIFIED).send().await.status, 401);
        for user in ["alice", "bob", "alice"] {
            let blob = Script::ok("there").requires_header(header, 401).header("vary", "Origin").header("x-user", user);
            origin.script(VERIFIED, blob.without_lifetime());
            let got = edge.get(VERIFIED).header(header, &format!("user={user}")).send().await;
            assert_eq!((got.text(), got.header("x-user")), ("there", user), "{header}");
        }
        assert_eq!(edge.get(VERIFIED).send().await.status, 401, "{header}");
    }
}

#[tokio::test]
async fn waiters_for_an_unstored_response_are_forwarded_concurrently() {
    for control in ["no-store", "private", "no-cache"] {
        let origin = Origin::start().await;
        let edge = single_edge(&origin, |_| {}).await;
        let gate = Gate::closed();
        origin.script("/page", Script::ok("x").header("cache-control", control).hold_response(&gate));
        let crowd = tokio::spawn(join_all((0..8).map(|_| edge.get("/page").send()).collect::<Vec<_>>()));
        edge.metric_becomes("peerage_flight_readers", 8.0).await;
        gate.open(1);
        origin.arrived(8).await;
        gate.open(7);
        assert!(within(20, crowd).await.unwrap().iter().all(|got| got.text() == "x"));
    }
}

#[tokio::test]
async fn first_client_gets_a_response_to_its_own_headers() {
    for name in ["/page", SCRIPT, "/font-0a1b2c3d.woff2"] {
        for header in ["origin", "accept", "accept-language", "user-agent", "sec-fetch-mode", "dpr"] {
            let origin = Origin::start().await;
            let edge = single_edge(&origin, |_| {}).await;
            origin.script(name, Script::ok("").varies_by(header));
            for value in ["one", "two", "one"] {
                assert_eq!(edge.get(name).header(header, value).send().await.text(), value, "{name} {header}");
            }
        }
    }
}

#[tokio::test]
async fn verified_name_is_stored_for_each_origin_header() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    let blob = Script::ok("there").header("vary", "Origin").header("cache-control", "no-cache");
    origin.script(VERIFIED, blob);
    for site in ["https://a.example", "https://b.example", "https://a.example", "https://b.example"] {
        assert_eq!(edge.get(VERIFIED).header("origin", site).send().await.text(), "there");
    }
    let origins: Vec<_> = origin.seen().iter().map(|seen| seen.header("origin").unwrap().to_owned()).collect();
    assert_eq!(origins, ["https://a.example", "https://b.example"]);
}

#[tokio::test]
async fn reloaded_immutable_rules_apply_to_stored_responses_at_once() {
    let origin = Origin::start().await;
    let mut first = config("edge-1");
    first.origin.url = origin.url();
    let mut rule = ImmutableConfig::path("/cas/{hash}", Some(Algorithm::Sha256));
    rule.length = Some(64);
    first.immutable = vec![rule];
    let mut without = first.clone();
    without.immutable.clear();
    let server = Server::bind(first.clone()).await.unwrap();
    let mut reloading = server.reloading();
    let edge = run(server);
    let path = format!("/cas/{DIGEST}");
    origin.script(&path, Script::ok("there").header("cache-control", "no-cache").header("etag", "\"a\""));
    origin.script("/page", Script::ok("x").header("cache-control", "max-age=60"));
    for name in [&*path, "/page"] {
        for _ in 0..2 {
            edge.get(name).send().await;
        }
    }
    assert_eq!((origin.count(&path), origin.count("/page")), (1, 1));
    reloading.reload(without).unwrap();
    for _ in 0..2 {
        edge.get(&path).send().await;
        edge.get("/page").send().await;
    }
    // The blob is revalidated each time now; other responses stay stored.
    assert_eq!((origin.count(&path), origin.count("/page")), (3, 1));
    reloading.reload(first).unwrap();
    for _ in 0..2 {
        edge.get(&path).send().await;
    }
    assert_eq!(origin.count(&path), 4);
}

#[tokio::test]
async fn wrong_contents_are_fetched_again_once_no_rule_verifies_them() {
    let origin = Origin::start().await;
    let mut verified = config("edge-1");
    verified.origin.url = origin.url();
    verified.cache.wrong_content_ttl = Period(Duration::from_hours(1));
    verified.immutable = vec![ImmutableConfig::path("/cas/{hash}", Some(Algorithm::Sha256))];
    let mut unverified = verified.clone();
    unverified.immutable = vec![ImmutableConfig::path("/cas/{hash}", None)];
    let server = Server::bind(verified.clone()).await.unwrap();
    let mut reloading = server.reloading();
    let edge = run(server);
    let path = format!("/cas/{DIGEST}");
    // A short body is verified before its first byte is sent.
    for body in [Bytes::from_static(b"wrong"), Bytes::from(vec![b'x'; 1 << 20])] {
        origin.script(&path, Script::ok(body.clone()).header("cache-control", "max-age=60"));
        for _ in 0..2 {
            let got = edge.get(&path).send().await;
            assert!(got.status == 502 || !got.complete);
        }
        reloading.reload(unverified.clone()).unwrap();
        let got = edge.get(&path).send().await;
        assert_eq!((got.status.as_u16(), got.body == body), (200, true), "{}", got.cache_status());
        reloading.reload(verified.clone()).unwrap();
    }
    // A fill that began before the reload does not mark the contents as wrong.
    let (body, gate) = (Bytes::from(vec![b'x'; 1 << 20]), Gate::closed());
    let script = Script::ok(body.clone()).header("cache-control", "max-age=60");
    origin.scripts(&path, [script.clone().hold_body(&gate), script]);
    let first = edge.get(&path).open().await;
    reloading.reload(unverified).unwrap();
    gate.open(body.len());
    assert!(!within(20, first.rest()).await.complete);
    edge.metric_becomes("peerage_flights", 0.0).await;
    let got = edge.get(&path).send().await;
    assert_eq!((got.status.as_u16(), got.body == body), (200, true), "{}", got.cache_status());
}

#[tokio::test]
async fn configured_immutable_rule_keeps_the_built_in_rules() {
    let origin = Origin::start().await;
    let rule = ImmutableConfig::path("/cas/{hash}", Some(Algorithm::Sha256));
    let edge = single_edge(&origin, |config| config.immutable = vec![rule]).await;
    origin.script(SCRIPT, script("x"));
    for _ in 0..2 {
        edge.get(SCRIPT).send().await;
    }
    assert_eq!(origin.count(SCRIPT), 1);
}

#[tokio::test]
async fn head_for_a_hashed_name_is_forwarded_as_head() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(SCRIPT, script("x"));
    let heads: Vec<RequestBuilder> =
        vec![edge.request(Method::HEAD, SCRIPT), edge.request(Method::HEAD, SCRIPT).http2()];
    for ask in heads {
        assert_eq!(ask.send().await.status, 200);
    }
    assert!(origin.seen().iter().all(|seen| seen.method == "HEAD"));
}
