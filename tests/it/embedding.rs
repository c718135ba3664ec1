//! Edges inside a program: the builder, the service for another server, the cache without HTTP.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full};
use peerage::cluster::membership::Membership;
use peerage::config::{ClusterConfig, Scheme};
use peerage::{AssetKey, Body, Config, Edge, EdgeService, Error, Fault, StartError};

use crate::harness::{Cluster, join_all, pattern, single_edge, within};
use crate::origin::{Gate, Origin, Script};

const ASSET: &str = "/asset-0123456789abcdef.bin";
const CLIENT: &str = "192.0.2.7";

fn edge_for(origin: &Origin) -> Arc<Edge> {
    Edge::builder().origin_url(origin.url().to_string()).build().unwrap()
}

fn request(method: Method, target: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::builder().method(method).uri(target).header("host", "example.com");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).unwrap()
}

async fn whole(response: Response<Body>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

/// Returns the headers that the edge sets, and not the server or the clock.
fn comparable(headers: &HeaderMap) -> Vec<(String, String)> {
    let set_by_server = ["date", "connection", "transfer-encoding"];
    let kept = headers.iter().filter(|(name, _)| !set_by_server.contains(&name.as_str()) && *name != "age");
    let mut kept: Vec<_> = kept.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    kept.sort();
    kept
}

#[tokio::test]
async fn service_responds_as_the_listener_does() {
    let origin = Origin::start().await;
    origin.script(ASSET, Script::ok(pattern(10_000)).etag("\"a\""));
    origin.script("/none", Script::status(404));
    origin.script("/uncacheable", Script::ok("for you").header("cache-control", "no-store"));
    let edge = single_edge(&origin, |_| {}).await;
    let service = edge.edge.service().for_client(CLIENT.parse().unwrap());
    for target in [ASSET, "/none", "/uncacheable"] {
        edge.get(target).send().await;
    }
    let none = ("x-none", "");
    for (method, target, (name, value)) in [
        (Method::GET, ASSET, none),
        (Method::HEAD, ASSET, none),
        (Method::GET, ASSET, ("range", "bytes=5-9")),
        (Method::GET, ASSET, ("if-none-match", "\"a\"")),
        (Method::GET, ASSET, ("cache-control", "no-cache")),
        (Method::GET, "/none", none),
        (Method::GET, "/uncacheable", none),
        (Method::GET, "/a/../b", none),
        (Method::TRACE, ASSET, none),
    ] {
        let case = format!("{method} {target} {name}: {value}");
        let listener = edge.request(method.clone(), target).header(name, value).send().await;
        let answer = service.respond(request(method, target, &[(name, value)])).await;
        assert_eq!(answer.status(), listener.status, "{case}");
        assert_eq!(comparable(answer.headers()), comparable(&listener.headers), "{case}");
        assert_eq!(whole(answer).await, listener.body, "{case}");
    }
}

#[tokio::test]
async fn service_names_the_client_to_the_origin_and_to_its_limit() {
    let origin = Origin::start().await;
    let config = |client: &str| {
        let mut config = Config::default();
        config.limits.requests_per_client = 1;
        config.edge.trusted_proxies = vec![format!("{client}/32").parse().unwrap()];
        config
    };
    let edge = Edge::builder().config(config("192.0.2.99")).origin_url(origin.url().to_string()).build().unwrap();
    let claim = [("x-forwarded-for", "203.0.113.1")];
    for (address, seen) in
        [(Some(CLIENT), CLIENT), (Some("192.0.2.99"), "203.0.113.1, 192.0.2.99"), (None, "127.0.0.1")]
    {
        let service = with_client(edge.service(), address);
        whole(service.respond(request(Method::POST, "/form", &claim)).await).await;
        assert_eq!(origin.seen().last().unwrap().header("x-forwarded-for"), Some(seen), "{address:?}");
    }
    let gate = Gate::closed();
    origin.script("/slow", Script::ok("slow").hold_response(&gate));
    let before = origin.seen().len();
    let slow = |address: Option<&'static str>| {
        let service = with_client(edge.service(), address);
        tokio::spawn(async move { service.respond(request(Method::POST, "/slow", &[])).await.status() })
    };
    let first = slow(Some(CLIENT));
    origin.arrived(before + 1).await;
    assert_eq!(within(20, slow(Some(CLIENT))).await.unwrap(), StatusCode::TOO_MANY_REQUESTS);
    let others = [slow(Some("192.0.2.8")), slow(None), slow(None)];
    origin.arrived(before + 4).await;
    gate.open(4);
    for slow in others.into_iter().chain([first]) {
        assert_eq!(within(20, slow).await.unwrap(), StatusCode::OK);
    }
}

fn with_client(service: EdgeService, address: Option<&str>) -> EdgeService {
    match address {
        Some(address) => service.for_client(address.parse::<IpAddr>().unwrap()),
        None => service,
    }
}

#[tokio::test]
async fn service_passes_requests_of_any_version_on_as_http_1() {
    let origin = Origin::start().await;
    let edge = edge_for(&origin);
    let cookies = [("cookie", "a=1"), ("cookie", "b=2")];
    for (version, via) in [(Version::HTTP_2, "2.0 edge-1"), (Version::HTTP_3, "3.0 edge-1")] {
        let mut over = request(Method::POST, "https://example.com/form", &cookies);
        *over.version_mut() = version;
        whole(edge.service().respond(over).await).await;
        let seen = origin.seen();
        let headers = ["via", "cookie"].map(|name| seen.last().unwrap().header(name));
        assert_eq!(headers, [Some(via), Some("a=1; b=2")]);
    }
    let websocket = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
    whole(edge.service().respond(request(Method::GET, "/chat", &websocket)).await).await;
    assert_eq!(origin.seen().last().unwrap().header("upgrade"), None);
}

#[tokio::test]
async fn service_limits_the_content_of_a_request() {
    let origin = Origin::start().await;
    let mut config = Config::default();
    config.limits.body.0 = 10;
    origin.script("/form", Script::ok("received"));
    let edge = Edge::builder().config(config).origin_url(origin.url().to_string()).build().unwrap();
    let send = async |content: Full<Bytes>| {
        let request = Request::post("/form").header("host", "example.com").body(content).unwrap();
        edge.service().respond(request).await.status()
    };
    assert_eq!(send(Full::from("ten bytes!")).await, StatusCode::OK);
    assert_eq!(send(Full::from("eleven bytes")).await, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn requests_of_the_program_are_counted() {
    let origin = Origin::start().await;
    let edge = single_edge(&origin, |_| {}).await;
    origin.script(ASSET, Script::ok(pattern(1000)));
    let cache = edge.edge.cache();
    for _ in 0..3 {
        assert_eq!(whole(cache.get(ASSET).await.unwrap()).await.len(), 1000);
    }
    let requests = |result: &str| format!("peerage_requests_total{{source=\"program\",result=\"{result}\"}}");
    edge.metric_becomes(&requests("miss"), 1.0).await;
    edge.metric_becomes(&requests("hit"), 2.0).await;
    edge.metric_becomes("peerage_sent_bytes_total{source=\"program\"}", 3000.0).await;

    let gate = Gate::closed();
    origin.script("/slow", Script::ok("slow").hold_response(&gate));
    let mut left = Box::pin(cache.get("/slow"));
    tokio::select! {
        _ = &mut left => panic!("the origin holds its response"),
        () = origin.arrived(2) => drop(left),
    }
    edge.metric_becomes(&requests("error"), 1.0).await;
}

#[tokio::test]
async fn concurrent_gets_share_one_fill_that_streams() {
    let origin = Origin::start().await;
    let edge = edge_for(&origin);
    let (body, gate) = (pattern(1_000_000), Gate::closed());
    origin.script(ASSET, Script::ok(body.clone()).hold_body(&gate));
    let get = || {
        let cache = edge.cache();
        async move { cache.get(ASSET).await.unwrap().into_body() }
    };
    let mut bodies = within(20, join_all((0..50).map(|_| get()))).await;
    gate.open(500_000);
    let mut early = bodies.pop().unwrap();
    let first = within(20, early.frame()).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, body[..first.len()], "the first bytes arrive while the origin holds the rest");
    gate.open(500_000);
    for reader in bodies {
        assert_eq!(within(20, reader.collect()).await.unwrap().to_bytes(), body);
    }
    assert_eq!(whole(edge.cache().get(ASSET).await.unwrap()).await, body);
    assert_eq!(origin.count(ASSET), 1);
}

#[tokio::test]
async fn truncated_body_never_ends_cleanly() {
    let origin = Origin::start().await;
    let edge = edge_for(&origin);
    for (path, script) in [
        ("/short", Script::ok(pattern(1000)).claim_length(2000)),
        ("/chunked", Script::ok(pattern(100_000)).chunked().cut_at(50_000)),
    ] {
        origin.script(path, script);
        let from_cache = edge.cache().get(path).await.unwrap().into_body();
        let error = within(20, from_cache.collect()).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Origin, "{error}");
        let from_service = edge.service().respond(request(Method::GET, path, &[])).await.into_body();
        assert!(within(20, from_service.collect()).await.is_err());
    }
}

#[tokio::test]
async fn errors_of_a_get_say_whose_fault_it_is() {
    let origin = |key: AssetKey| async move {
        match key.path() {
            "/none" => Ok(None),
            _ => Err(std::io::Error::other("no such luck")),
        }
    };
    let cache = Edge::builder().origin(origin).build().unwrap().cache();
    assert_eq!(cache.get("/none").await.unwrap().status(), StatusCode::NOT_FOUND);
    assert_eq!(cache.get("/bad").await.map(drop), Err(Error::OriginFailed("no such luck".to_owned())));
    assert!(matches!(cache.get("/a/../b").await, Err(Error::BadRequest(_))));
    assert!(matches!(cache.get("no path").await, Err(Error::BadRequest(_))));
    assert_eq!(cache.get(&format!("/{}", "a".repeat(20_000))).await.map(drop), Err(Error::UriTooLong));
    let nowhere = Edge::builder().origin_url("http://127.0.0.1:1").build().unwrap();
    assert!(matches!(nowhere.cache().get("/a").await, Err(Error::OriginUnreachable(_))));
}

#[tokio::test]
async fn get_shares_the_responses_of_the_site_that_fills_request() {
    let origin = Origin::start().await;
    origin.script(ASSET, Script::ok("secure"));
    let mut config = Config::default();
    config.edge.scheme = Scheme::Https;
    config.edge.host = "assets.example.com".to_owned();
    let edge = Edge::builder().config(config).origin_url(origin.url().to_string()).build().unwrap();
    for _ in 0..2 {
        assert_eq!(whole(edge.cache().get(ASSET).await.unwrap()).await, "secure");
    }
    let seen = origin.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen[0].header("x-forwarded-host"), Some("assets.example.com"));
}

#[tokio::test]
async fn guest_asks_the_members_that_the_program_names() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(2, &origin, |_| {}).await;
    let names = cluster.names();
    let own = |_: AssetKey| async { Ok::<_, std::io::Error>(Some("of the guest".into())) };
    let membership = Membership::guest(names.iter().map(String::as_str));
    let guest = Edge::builder().name("guest").origin(own).membership(membership).build().unwrap();
    for owner in 0..2 {
        let path = cluster.path_owned_by(owner, 1);
        origin.script(&path, Script::ok("of the cluster"));
        let response = within(20, guest.cache().get(&path)).await.unwrap();
        let owner = format!("edge-{}", owner + 1);
        let status = response.headers()["cache-status"].to_str().unwrap().to_owned();
        assert!(status.starts_with(&owner) && status.contains("guest;"), "{status}");
        assert_eq!(whole(response).await, "of the cluster");
        assert_eq!(origin.count(&path), 1);
    }
    guest.membership().replace([]);
    let path = cluster.path_owned_by(0, 2);
    assert_eq!(whole(guest.cache().get(&path).await.unwrap()).await, "of the guest");
}

#[tokio::test]
async fn nothing_of_an_edge_outlives_its_last_handle() {
    let membership = Arc::new(Membership::guest(["127.0.0.1:1"]));
    let origin = |_: AssetKey| async { Ok::<_, std::io::Error>(Some("a".into())) };
    let edge = Edge::builder().origin(origin).membership(Arc::clone(&membership)).build().unwrap();
    // The member does not answer, so it is probed from now on.
    assert_eq!(whole(within(20, edge.cache().get("/a")).await.unwrap()).await, "a");
    let weak = Arc::downgrade(&edge);
    drop(edge);
    let gone = async {
        while weak.strong_count() > 0 || Arc::strong_count(&membership) > 1 {
            tokio::task::yield_now().await;
        }
    };
    within(20, gone).await;
}

#[tokio::test]
async fn builder_names_the_wrong_setting() {
    let cluster = |change: fn(&mut ClusterConfig)| {
        let mut config = Config::default();
        change(config.cluster.insert(ClusterConfig::default()));
        Edge::builder().config(config)
    };
    let guest = || Membership::guest(["10.0.0.5:7001"]);
    for (builder, named) in [
        (Edge::builder().name("two words"), "edge.name"),
        (Edge::builder().memory(1), "cache.memory"),
        (Edge::builder().origin_url("https://[example"), "origin.url"),
        (Edge::builder().origin_url("ftp://example.com"), "origin.url"),
        (cluster(|_| {}), "EdgeBuilder::membership"),
        (cluster(|cluster| cluster.discover = Some("file:peers".into())).membership(guest()), "cluster.discover"),
    ] {
        let Err(StartError::Config(error)) = builder.build() else {
            panic!("no error for {named}");
        };
        assert!(error.contains(named), "{error}");
    }
    assert!(cluster(|_| {}).membership(guest()).build().is_ok());
}

/// An origin that behaves badly, in the way that the path of the request names.
fn bad_origin(call: &peerage::Call) -> peerage::Reply {
    let chunks = || futures_util::stream::iter([Ok(Bytes::from_static(b"abc"))]);
    let mut response = Response::new(Body::from_stream(chunks()));
    let length = match call.request.uri().path() {
        "/short" => "20",
        "/long" => "2",
        "/right" => "3",
        "/malformed" => "abc",
        "/body-panics" => {
            *response.body_mut() = Body::from_stream(futures_util::stream::poll_fn(|_| panic!("as the test says")));
            "3"
        }
        _ => panic!("as the test says"),
    };
    response.headers_mut().insert("content-length", length.parse().unwrap());
    response.headers_mut().insert("cache-control", "no-store".parse().unwrap());
    response.into()
}

struct BadOrigin;

impl peerage::Origin for BadOrigin {
    fn fetch(
        &self,
        call: peerage::Call,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<peerage::Reply, Error>> + Send + '_>> {
        Box::pin(async move { Ok(bad_origin(&call)) })
    }
}

#[tokio::test]
async fn misbehaviour_of_an_embedded_origin_is_an_error_on_every_path() {
    let edge = Edge::builder().origin(BadOrigin).build().unwrap();
    let (cache, service) = (edge.cache(), edge.service());
    for path in ["/right", "/short", "/long", "/malformed", "/body-panics", "/panics"] {
        // The first is a fill; the second passes, since the response was not storable.
        for attempt in 0..2 {
            let whole = match cache.get(path).await {
                Ok(response) => response.into_body().collect().await.map(|_| ()),
                Err(error) => Err(error),
            };
            let faults = [Fault::Origin, Fault::Own];
            assert_eq!(whole.is_ok(), path == "/right", "{path} {attempt}");
            assert!(whole.err().is_none_or(|error| faults.contains(&error.fault())), "{path} {attempt}");
        }
        for method in [Method::HEAD, Method::POST] {
            let response = service.respond(request(method.clone(), path, &[])).await;
            let status = response.status().as_u16();
            let failed = status >= 500 || response.into_body().collect().await.is_err();
            let has_content = method == Method::POST;
            let fails = match path {
                "/right" => false,
                "/short" | "/long" | "/body-panics" => has_content,
                _ => true,
            };
            assert_eq!(failed, fails, "{method} {path}: {status}");
        }
    }
}
