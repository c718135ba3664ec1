//! The scope of a key: responses for different schemes and hosts, of which the origin is told, are
//! stored apart on every edge.

use http::Method;
use peerage::Config;

use crate::client::{FullResponse, RequestBuilder};
use crate::forwarding::{behind_a_proxy, on_behalf_of};
use crate::harness::{Cluster, cluster_of, config, run, single_edge, within};
use crate::origin::{Origin, Script};
use crate::verification::{is_owned_by, with_scripted_peer};

const PAGE: &str = "/page";
const SCHEMES: [&str; 2] = ["http", "https"];

fn cacheable(body: &str) -> Script {
    Script::ok(body.to_owned()).header("cache-control", "max-age=60")
}

fn trust_loopback(config: &mut Config) {
    config.edge.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
}

fn with_scheme(ask: RequestBuilder, scheme: &str) -> RequestBuilder {
    on_behalf_of(ask, "1.2.3.4", scheme)
}

fn with_host(ask: RequestBuilder, host: &str) -> RequestBuilder {
    ask.header("x-forwarded-host", host)
}

fn is_hit(got: &FullResponse) -> bool {
    got.cache_status().contains("hit")
}

/// Returns the scheme and host of which the origin was told, of each request that it has seen.
fn told(origin: &Origin) -> Vec<(String, String)> {
    let value = |value: Option<&str>| value.unwrap_or("none").to_owned();
    let seen = origin.seen();
    seen.iter().map(|seen| (value(seen.header("x-forwarded-proto")), value(seen.header("x-forwarded-host")))).collect()
}

#[tokio::test]
async fn redirect_to_https_answers_no_request_for_https() {
    let origin = Origin::start().await;
    let edge = behind_a_proxy(&origin, |_| {}).await;
    let redirect = Script::status(301).header("location", "https://site.example/page");
    origin.script(PAGE, redirect.header("cache-control", "max-age=60"));
    for hit in [false, true] {
        let got = with_scheme(edge.get(PAGE), "http").send().await;
        assert_eq!((got.status.as_u16(), is_hit(&got)), (301, hit));
    }
    origin.script(PAGE, cacheable("page"));
    let forms = [edge.get(PAGE), edge.get(PAGE).http2(), edge.get(PAGE).header("accept-encoding", "gzip")];
    for (ask, hit) in forms.into_iter().zip([false, true, true]) {
        let got = with_scheme(ask, "https").send().await;
        assert_eq!((got.status.as_u16(), is_hit(&got)), (200, hit));
    }
    for ask in [edge.get(PAGE), edge.get(PAGE).http2()] {
        assert_eq!(with_scheme(ask, "http").send().await.status, 301);
    }
    assert_eq!(edge.get(PAGE).send().await.status, 301, "without X-Forwarded-Proto the scheme is edge.scheme");
    assert_eq!(told(&origin), SCHEMES.map(|scheme| (scheme.to_owned(), "none".to_owned())));
}

#[tokio::test]
async fn scheme_of_a_terminator_that_states_none_is_configured() {
    let origin = Origin::start().await;
    origin.script("*", cacheable("page"));
    let https = |config: &mut Config| config.edge.scheme = peerage::config::Scheme::Https;
    // Without trusted proxies it holds for all clients, with some for those alone.
    for (edge, expected) in [
        (single_edge(&origin, https).await, "https"),
        (behind_a_proxy(&origin, https).await, "https"),
        (
            single_edge(&origin, |config| {
                https(config);
                config.edge.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
            })
            .await,
            "http",
        ),
    ] {
        edge.get(PAGE).send().await;
        edge.request(Method::POST, PAGE).send().await;
        let seen = told(&origin);
        let schemes: Vec<_> = seen[seen.len() - 2..].iter().map(|(scheme, _)| &**scheme).collect();
        assert_eq!(schemes, [expected; 2], "a fill and a pass are told the same");
    }
}

#[tokio::test]
async fn hosts_that_a_proxy_states_are_stored_apart_and_spellings_of_one_together() {
    let origin = Origin::start().await;
    let edge = behind_a_proxy(&origin, |_| {}).await;
    for (scheme, host, text, hit) in [
        ("http", "a.example", "a", false),
        ("http", "A.Example:80", "a", true),
        ("http", "a.example.", "a", true),
        ("https", "a.example:80", "other port", false),
        ("http", "b.example", "b", false),
        ("http", "b.example:8080", "b at 8080", false),
        ("http", "[::1]", "v6", false),
        ("http", "[::1]:80", "v6", true),
    ] {
        origin.script(PAGE, cacheable(text));
        for ask in [edge.get(PAGE), edge.get(PAGE).http2()] {
            let got = with_host(with_scheme(ask, scheme), host).send().await;
            assert_eq!(got.text(), text, "{host}");
        }
        let got = with_host(with_scheme(edge.get(PAGE), scheme), host).send().await;
        assert!(is_hit(&got), "{host}");
        assert_eq!(told(&origin).last().unwrap().1 == host, !hit, "{host}");
    }
    origin.script(PAGE, cacheable("none"));
    assert_eq!(edge.get(PAGE).send().await.text(), "none");
    assert_eq!(told(&origin).last().unwrap(), &("http".to_owned(), "none".to_owned()));
}

#[tokio::test]
async fn hosts_of_clients_are_stored_apart_where_the_origin_is_told_of_them() {
    let origin = Origin::start().await;
    origin.script("*", cacheable("page"));
    // No host is told: all share the entry.
    let edge = single_edge(&origin, |_| {}).await;
    edge.get("/shared").at_host("a.example").send().await;
    assert!(is_hit(&edge.get("/shared").at_host("b.example").send().await));
    // Each host is told.
    let edge = single_edge(&origin, |config| config.edge.host = "Www.Example".to_owned()).await;
    for (host, hit) in [("www.example", false), ("WWW.EXAMPLE:80", true), ("other.example", false)] {
        assert_eq!(is_hit(&edge.get(PAGE).at_host(host).send().await), hit, "{host}");
        // A client that is not trusted does not choose what the origin is told.
        let forged = with_host(edge.get(PAGE).at_host(host), "evil.example").send().await;
        assert!(is_hit(&forged), "{host}");
    }
    let hosts: Vec<_> = told(&origin).into_iter().map(|(_, host)| host).collect();
    assert_eq!(hosts, ["none", "www.example", "other.example"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_scope_is_fetched_once_for_all_edges_and_never_mixed() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, trust_loopback).await;
    let paths: Vec<_> = (0..3).map(|owner| cluster.path_owned_by(owner, 1)).collect();
    let text = |scheme: &str, host: &str, path: &str| format!("{scheme} {host} {path}");
    for scheme in SCHEMES {
        for host in ["a.example", "b.example"] {
            for path in &paths {
                origin.script(path, cacheable(&text(scheme, host, path)));
                // The second request of each edge is a hit.
                for edge in cluster.edges.iter().chain(&cluster.edges) {
                    let got = with_host(with_scheme(edge.get(path), scheme), host).send().await;
                    assert_eq!(got.text(), text(scheme, host, path));
                }
            }
        }
    }
    for path in &paths {
        assert_eq!(origin.count(path), 4, "one request for each scheme and host");
    }
    let expected = SCHEMES.iter().flat_map(|scheme| {
        ["a.example", "b.example"].iter().flat_map(|host| vec![((*scheme).to_owned(), (*host).to_owned()); 3])
    });
    assert_eq!(told(&origin), expected.collect::<Vec<_>>());
    assert!(cluster.edges[2].metric("peerage_peeks_total{outcome=\"held\"}").await > 0.5, "peeks carry the scope");
}

#[tokio::test(flavor = "multi_thread")]
async fn write_invalidates_its_host_under_both_schemes_on_all_edges() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, trust_loopback).await;
    let asked = [("http", "a.example"), ("https", "a.example"), ("https", "b.example")];
    origin.script(PAGE, cacheable("old"));
    for edge in &cluster.edges {
        for (scheme, host) in asked {
            with_host(with_scheme(edge.get(PAGE), scheme), host).send().await;
        }
    }
    origin.script(PAGE, cacheable("new"));
    let write = cluster.edges[1].request(Method::POST, PAGE);
    with_host(with_scheme(write, "https"), "a.example:443").send().await;
    for edge in &cluster.edges {
        let texts = asked.map(|(scheme, host)| with_host(with_scheme(edge.get(PAGE), scheme), host).send());
        let [http, https, other] = texts;
        assert_eq!((http.await.text(), https.await.text(), other.await.text()), ("new", "new", "old"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_start_pulls_keys_with_their_scopes() {
    let origin = Origin::start().await;
    origin.script("*", cacheable("page"));
    let first = {
        let mut config = config("edge-1");
        config.origin.url = origin.url();
        config.cluster = Some(cluster_of(Vec::new()));
        trust_loopback(&mut config);
        run(peerage::Server::bind(config).await.unwrap())
    };
    let paths: Vec<_> = (0..40).map(|i| format!("/page-{i}")).collect();
    for path in &paths {
        with_host(with_scheme(first.get(path), "https"), "a.example").send().await;
        with_scheme(first.get(path), "http").send().await;
    }
    let fetched = origin.seen().len();
    let mut server = {
        let mut config = config("edge-2");
        config.origin.url = origin.url();
        config.cluster = Some(cluster_of(vec![first.name()]));
        trust_loopback(&mut config);
        peerage::Server::bind(config).await.unwrap()
    };
    server.start_warm();
    let second = run(server);
    let ready = async {
        while crate::client::request(second.admin, Method::GET, "/readyz").send().await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    within(20, ready).await;
    let mut hits = 0;
    for path in &paths {
        let asks =
            [with_host(with_scheme(second.get(path), "https"), "a.example"), with_scheme(second.get(path), "http")];
        for ask in asks {
            hits += usize::from(ask.send().await.cache_status().starts_with("edge-2;hit"));
        }
    }
    assert!(hits > 10, "{hits} of 80 were pulled");
    assert_eq!(origin.seen().len(), fetched);
}

#[tokio::test]
async fn peer_that_asks_for_an_unknown_site_gets_421_and_clients_choose_none() {
    let origin = Origin::start().await;
    origin.script("*", cacheable("page"));
    let edge = single_edge(&origin, |config| config.cluster = Some(cluster_of(Vec::new()))).await;
    let site = "00000000000000000000000000000001";
    edge.get(PAGE).send().await;
    for id in [site, "", "default"] {
        for ask in [edge.get_as_peer(PAGE), edge.get_as_peer(PAGE).http2()] {
            let got = ask.header("peerage-site", id).send().await;
            assert_eq!((got.status.as_u16(), got.header("peerage-site")), (421, "unknown"), "{id}");
        }
        let peek = edge.get_as_peer(PAGE).header("peerage-peek", "65536").header("cache-control", "only-if-cached");
        assert_eq!(peek.header("peerage-site", id).send().await.status, 504, "a peek finds nothing");
    }
    // From a client, the header is one of many without a meaning.
    let got = edge.get(PAGE).header("peerage-site", site).send().await;
    assert_eq!((got.status.as_u16(), got.text()), (200, "page"));
    assert!(origin.seen().iter().all(|seen| seen.header("peerage-site").is_none()));
}

#[tokio::test]
async fn peer_that_does_not_know_the_site_is_passed_over() {
    let origin = Origin::start().await;
    origin.script("*", cacheable("page"));
    let (edge, peer) = with_scripted_peer(&origin, |_| {}).await;
    peer.reject_peeks();
    peer.script("*", Script::status(421).header("peerage-site", "unknown"));
    let path = (0..1000).map(|i| format!("/page-{i}")).find(|path| is_owned_by(&edge, &peer, path)).unwrap();
    let got = edge.get(&path).send().await;
    assert_eq!((got.status.as_u16(), got.text()), (200, "page"));
    assert_eq!(origin.count(&path), 1);
    // A 421 of the origin is an answer like others.
    peer.script("*", Script::status(421));
    let path = (1000..2000).map(|i| format!("/page-{i}")).find(|path| is_owned_by(&edge, &peer, path)).unwrap();
    assert_eq!(edge.get(&path).send().await.status, 421);
    assert_eq!(origin.count(&path), 0);
}

#[tokio::test]
async fn fill_and_pass_tell_the_origin_the_same_host() {
    let origin = Origin::start().await;
    origin.script("*", Script::ok("page").header("cache-control", "no-store"));
    let with_default = |config: &mut Config| config.edge.host = "tenant.example".to_owned();
    for (edge, host, stated, expected) in [
        (single_edge(&origin, |_| {}).await, "a.example", None, "none"),
        (single_edge(&origin, with_default).await, "A.Example.:80", None, "a.example"),
        (single_edge(&origin, with_default).await, "", None, "tenant.example"),
        (single_edge(&origin, with_default).await, ":80", None, "tenant.example"),
        (single_edge(&origin, with_default).await, "..", None, "tenant.example"),
        (behind_a_proxy(&origin, |_| {}).await, "a.example", Some("T.example:80"), "t.example"),
    ] {
        let before = origin.seen().len();
        let ask = |ask: RequestBuilder| match stated {
            Some(stated) => with_host(ask.at_host(host), stated),
            None => ask.at_host(host),
        };
        // The second request passes: the first response was not storable.
        for request in [edge.get(PAGE), edge.get(PAGE), edge.get(PAGE).header("x-unknown", "1")] {
            ask(request).send().await;
        }
        ask(edge.request(Method::HEAD, PAGE)).send().await;
        let hosts: Vec<_> = told(&origin).into_iter().skip(before).map(|(_, host)| host).collect();
        assert_eq!(hosts, [expected; 4], "{host} {stated:?}");
        // Origins compare the host of a write with its Origin.
        ask(edge.request(Method::POST, PAGE)).send().await;
        let written = told(&origin).pop().unwrap().1;
        assert_eq!(written, if expected == "none" { host } else { expected });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn write_for_an_odd_host_invalidates_it_on_all_edges() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(3, &origin, |config| config.edge.host = "default.example".to_owned()).await;
    let hosts = ["a.example..", "..", "A.EXAMPLE.:80", "[::1]:80"];
    for (host, seed) in hosts.into_iter().flat_map(|host| [host; 3]).zip(0..) {
        let path = format!("/page-{seed}");
        origin.script(&path, cacheable("old"));
        for edge in &cluster.edges {
            assert_eq!(edge.get(&path).at_host(host).send().await.text(), "old");
        }
        origin.script(&path, cacheable("new"));
        cluster.edges[0].request(Method::POST, &path).at_host(host).send().await;
        for edge in &cluster.edges {
            assert_eq!(edge.get(&path).at_host(host).send().await.text(), "new", "{host}{path}");
        }
    }
    let got = cluster.edges[0].get(PAGE).at_host("a.example,b.example").send().await;
    assert_eq!(got.status, 400, "a comma separates hosts");
}

#[tokio::test]
async fn reload_of_a_scope_setting_brings_no_old_response_back() {
    let origin = Origin::start().await;
    origin.script(PAGE, cacheable("old"));
    let mut config = config("edge-1");
    config.origin.url = origin.url();
    let server = peerage::Server::bind(config.clone()).await.unwrap();
    let mut reloading = server.reloading();
    let edge = run(server);
    edge.get(PAGE).send().await;
    let mut other = config.clone();
    other.edge.host = "a.example".to_owned();
    reloading.reload(other).unwrap();
    origin.script(PAGE, cacheable("new"));
    edge.request(Method::POST, PAGE).send().await;
    reloading.reload(config).unwrap();
    assert_eq!(edge.get(PAGE).send().await.text(), "new");
}

#[tokio::test]
async fn location_is_compared_with_the_host_of_the_key() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| config.edge.host = "d.example".to_owned()).await;
    for (host, location) in [
        ("A.EXAMPLE.", "http://a.example/named"),
        ("a.example:80", "http://A.example./named"),
        ("", "http://d.example/named"),
    ] {
        origin.script("/named", cacheable("old"));
        edge.get("/named").at_host(host).send().await;
        origin.script(PAGE, Script::ok("written").header("location", location));
        edge.request(Method::POST, PAGE).at_host(host).send().await;
        origin.script("/named", cacheable("new"));
        assert_eq!(edge.get("/named").at_host(host).send().await.text(), "new", "{host} {location}");
    }
}

#[tokio::test]
async fn origin_that_states_an_unknown_site_is_not_believed() {
    let origin = Origin::start().await;
    let script = Script::status(421).header("peerage-site", "unknown").header("cache-control", "max-age=60");
    origin.script("*", script);
    let cluster = Cluster::start(3, &origin, |_| {}).await;
    for owner in 0..3 {
        let path = cluster.path_owned_by(owner, 3);
        let got = cluster.edges[0].get(&path).send().await;
        assert_eq!((got.status.as_u16(), got.header("peerage-site"), origin.count(&path)), (421, "", 1));
    }
}
