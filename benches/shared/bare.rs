//! Bare hyper, HTTP/1.1 and HTTP/2, with a lookup and a `Full<Bytes>`: a lower bound of the cost of
//! an edge.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use quick_cache::sync::Cache;
use tokio::net::TcpListener;

/// Serves `assets`, by their paths, for as long as the process lives.
pub async fn serve(listener: TcpListener, assets: impl IntoIterator<Item = (String, Bytes)>) {
    let cache = Arc::new(Cache::<String, Bytes>::new(1000));
    for (path, body) in assets {
        cache.insert(path, body);
    }
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let cache = Arc::clone(&cache);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let found = cache.get(request.uri().path()).unwrap();
                let mut response = Response::new(Full::new(found));
                response.headers_mut().insert("content-type", HeaderValue::from_static("application/octet-stream"));
                async move { Ok::<_, Infallible>(response) }
            });
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
