//! Headers about the client: from proxies in front of the edge, and to the origin.

use http::Method;
use peerage::Config;

use crate::client::RequestBuilder;
use crate::harness::{Cluster, TestEdge, single_edge};
use crate::origin::{Origin, Script, Seen};
use crate::process::{BINARY, Process, line_with};

const PAGE: &str = "/page";

fn cacheable() -> Script {
    Script::ok("page").header("cache-control", "max-age=60")
}

/// Starts an edge that trusts proxies on loopback addresses.
pub async fn behind_a_proxy(origin: &Origin, change: impl FnOnce(&mut Config)) -> TestEdge {
    single_edge(origin, |config| {
        config.edge.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        change(config);
    })
    .await
}

pub fn on_behalf_of(ask: RequestBuilder, client: &str, scheme: &str) -> RequestBuilder {
    ask.header("x-forwarded-for", client).header("x-forwarded-proto", scheme)
}

/// Returns X-Forwarded-For, -Proto, -Host and Forwarded of a request.
fn forwarding_headers(seen: &Seen) -> [Option<&str>; 4] {
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"].map(|name| seen.header(name))
}

#[tokio::test]
async fn forwarded_headers_of_a_trusted_proxy_are_extended() {
    let origin = Origin::start().await;
    let edge = behind_a_proxy(&origin, |_| {}).await;
    let post = || on_behalf_of(edge.request(Method::POST, PAGE), "6.6.6.6, 1.2.3.4", "https");
    post().header("x-forwarded-host", "a.example").header("forwarded", "for=1.2.3.4").send().await;
    let expected = [
        Some("6.6.6.6, 1.2.3.4, 127.0.0.1"),
        Some("https"),
        Some("a.example"),
        Some("for=1.2.3.4, for=127.0.0.1;host=\"a.example\";proto=https"),
    ];
    assert_eq!(forwarding_headers(&origin.seen()[0]), expected);
    post().send().await;
    assert_eq!(forwarding_headers(&origin.seen()[1])[1..], [Some("https"), Some("site.example"), None]);
    let element = "for=1.2.3.4;proto=https;host=b.example";
    edge.request(Method::POST, PAGE).header("forwarded", element).send().await;
    assert_eq!(forwarding_headers(&origin.seen()[2])[..3], [Some("127.0.0.1"), Some("https"), Some("b.example")]);
}

#[tokio::test]
async fn forwarded_headers_of_an_untrusted_client_are_replaced() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |config| config.edge.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]).await;
    let post = on_behalf_of(edge.request(Method::POST, PAGE), "6.6.6.6", "https").header("x-forwarded-host", "evil");
    let post = post.header("x-forwarded-user", "root").header("x-real-ip", "6.6.6.6");
    post.header("forwarded", "for=6.6.6.6;host=evil").send().await;
    let seen = &origin.seen()[0];
    let element = "for=127.0.0.1;host=\"site.example\";proto=http";
    assert_eq!(forwarding_headers(seen), [Some("127.0.0.1"), Some("http"), Some("site.example"), Some(element)]);
    assert_eq!((seen.header("x-forwarded-user"), seen.header("x-real-ip")), (None, None));
}

#[tokio::test]
async fn fill_forwards_the_address_of_its_leader_also_through_a_peer() {
    let origin = Origin::start().await;
    origin.script("*", cacheable());
    let trust = |config: &mut Config| config.edge.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    let cluster = Cluster::start(2, &origin, trust).await;
    let plain = |owner| (0..1000).map(|n| format!("/of-{n}")).find(|name| cluster.rank(name)[0] == owner).unwrap();
    for (number, name) in [plain(0), plain(1), cluster.path_owned_by(1, 1)].iter().enumerate() {
        let got = on_behalf_of(cluster.edges[0].get(name), "1.2.3.4", "http").send().await;
        assert_eq!(
            got.header("cache-status").matches("edge-").count(),
            1 + number.min(1),
            "the request must pass its owner"
        );
        let expected = [Some("1.2.3.4, 127.0.0.1"), Some("http"), None, None];
        assert_eq!(forwarding_headers(&origin.seen()[number]), expected, "{name}");
    }
    // A HEAD that may update a stored response forwards the client's address as well.
    on_behalf_of(cluster.edges[0].request(Method::HEAD, "/head"), "1.2.3.4", "http").send().await;
    assert_eq!(forwarding_headers(&origin.seen()[3])[..3], [Some("1.2.3.4, 127.0.0.1"), Some("http"), None]);
}

#[tokio::test]
async fn fill_names_the_client_that_a_proxy_names_in_forwarded_alone() {
    let origin = Origin::start().await;
    origin.script("*", cacheable());
    let edge = behind_a_proxy(&origin, |_| {}).await;
    edge.get(PAGE).header("forwarded", "for=9.9.9.9;proto=https;host=t.example").send().await;
    let expected = [Some("9.9.9.9, 127.0.0.1"), Some("https"), Some("t.example"), None];
    assert_eq!(forwarding_headers(&origin.seen()[0]), expected);
}

#[tokio::test]
async fn response_that_varies_by_client_address_or_host_is_not_stored() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    for (field, stored) in
        [("X-Forwarded-For", false), ("Forwarded", false), ("X-Forwarded-Host", false), ("X-Forwarded-Proto", true)]
    {
        let name = format!("/{field}");
        origin.script(&name, cacheable().header("vary", field));
        edge.get(&name).send().await;
        let second = edge.get(&name).send().await;
        assert_eq!(second.cache_status().contains("hit"), stored, "{field}: {}", second.cache_status());
    }
}

#[tokio::test]
async fn access_log_names_the_client_of_a_trusted_proxy() {
    let origin = Origin::start().await;
    origin.script("*", cacheable());
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[edge]\nlisten = \"[::]:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n[origin]\nurl = \"{}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
        origin.url()
    );
    let mut edge = Process::run(std::process::Command::new(BINARY), folder.path(), &text).await;
    edge.clients.set_ip([127, 0, 0, 1].into());
    let get = |name: &str| crate::client::request(edge.clients, Method::GET, name);
    get("/own").send().await;
    get("/told").header("x-forwarded-for", "6.6.6.6, 1.2.3.4").send().await;
    // A hit, too.
    get("/own").header("x-forwarded-for", "2001:db8::7").send().await;
    for client in ["127.0.0.1", "1.2.3.4", "2001:db8::7"] {
        line_with(&edge.out, &format!("\"client\":\"{client}\"")).await;
    }
}
