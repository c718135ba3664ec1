//! An edge inside an axum server: `/assets` is cached, `/` is a handler of the program.
//!
//! `cargo run --example axum`, then `curl -i http://127.0.0.1:8080/assets/logo.png`;
//! an address as argument is the one to listen on.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use peerage::{AssetKey, Edge};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = match std::env::args().nth(1) {
        Some(address) => address.parse()?,
        None => SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
    };

    // Slow, as a database or a renderer is. It is called once for each key.
    let origin = |key: AssetKey| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        println!("made {key}");
        Ok::<_, Infallible>(Some(format!("this is {key}\n").into()))
    };
    let edge = Edge::builder().name("web-1").memory(64 << 20).origin(origin).build()?;

    // A router knows no client's address. A handler that has it calls
    // `edge.service().for_client(address).respond(request)`.
    let app = Router::new().route("/", get(|| async { "a page\n" })).nest_service("/assets", edge.service());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) }).await?;
    Ok(())
}
