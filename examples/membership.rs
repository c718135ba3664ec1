//! Two edges and a guest in one process. The program knows the members, and tells the edges at
//! each change.
//!
//! `cargo run --example membership`

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use peerage::cluster::membership::Membership;
use peerage::config::ClusterConfig;
use peerage::{AssetKey, Cache, Config, Edge, Server};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (stop, stopped) = watch::channel(());
    let (first, second) = (server("edge-1").await?, server("edge-2").await?);
    let members = [&first, &second].map(|server| server.addresses().peers.expect("[cluster] is set").to_string());
    let edges = [&first, &second].map(|server| Arc::clone(server.edge()));
    let running = [first, second].map(|server| {
        let mut stopped = stopped.clone();
        tokio::spawn(server.run(async move { drop(stopped.changed().await) }))
    });

    // A guest owns no keys, and needs no listener.
    let membership = Arc::new(Membership::guest([]));
    let guest = Edge::builder().name("guest").origin(origin_of("guest")).membership(Arc::clone(&membership)).build()?;
    let tell = |members: &[String]| {
        for membership in edges.iter().map(|edge| edge.membership()).chain([&membership]) {
            membership.replace(members.iter().map(String::as_str));
        }
    };

    tell(&members);
    show(&guest.cache(), "two members", "/a.png").await?;
    show(&guest.cache(), "two members", "/b.png").await?;
    show(&guest.cache(), "two members", "/c.png").await?;
    tell(&members[..1]);
    show(&guest.cache(), "one member", "/d.png").await?;
    tell(&[]);
    show(&guest.cache(), "no member", "/e.png").await?;

    stop.send(())?;
    for server in running {
        server.await??;
    }
    Ok(())
}

/// Binds an edge that is alone until it is told its members.
async fn server(name: &'static str) -> Result<Server, Box<dyn std::error::Error>> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = Config::default();
    config.edge.name = name.to_owned();
    (config.edge.listen, config.admin.listen) = (any.into(), any);
    let mut cluster = ClusterConfig::default();
    // The program finds failures itself.
    (cluster.listen, cluster.peers, cluster.gossip) = (any, Vec::new(), false);
    config.cluster = Some(cluster);
    Ok(Server::bind_with(config, origin_of(name)).await?)
}

/// Returns an origin whose assets tell which edge has asked for them.
fn origin_of(edge: &'static str) -> impl peerage::Origin {
    move |key: AssetKey| async move { Ok::<_, Infallible>(Some(format!("{key}, fetched by {edge}").into())) }
}

async fn show(cache: &Cache, members: &str, key: &str) -> Result<(), Box<dyn std::error::Error>> {
    use http_body_util::BodyExt;
    let body = cache.get(key).await?.into_body().collect().await?.to_bytes();
    println!("{members}: {}", String::from_utf8_lossy(&body));
    Ok(())
}
