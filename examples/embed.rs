//! An edge inside another program: the origin is a closure from key to bytes.
//!
//! `cargo run --example embed`, then `curl -i http://127.0.0.1:8001/anything`; an address as argument
//! is the one to listen on. Several such programs with a `[cluster]` of the same peers act as one
//! cache.

use std::convert::Infallible;
use std::time::Duration;

use peerage::{AssetKey, Config, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::default();
    config.admin.listen = "127.0.0.1:0".parse()?;
    if let Some(address) = std::env::args().nth(1) {
        config.edge.listen = address.parse()?;
    }

    // Slow, as a database or a renderer is. It is called once for each key.
    let origin = |key: AssetKey| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        println!("made {key}");
        Ok::<_, Infallible>(Some(format!("this is {key}\n").into()))
    };

    let server = Server::bind_with(config, origin).await?;
    println!("listening on http://{}", server.addresses().clients);
    server.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
    Ok(())
}
