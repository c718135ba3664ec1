//! `peerage peers`: the members of the cluster as a running edge sees them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};

use super::arguments::ConfigArguments;
use super::client::{FIRST_BYTE, TIMEOUTS};
use super::failure::Failure;
use super::process::{print, runtime};
use crate::admin;
use crate::body::Body;
use crate::error::Error;
use crate::origin::Origin;
use crate::origin::http_origin::HttpOrigin;

/// Size limit of a response, in bytes; an edge's is smaller.
const LARGEST: usize = 16 * 1024 * 1024;

#[derive(clap::Args)]
pub(super) struct Peers {
    /// Prints the response of the edge's /peers, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

impl Peers {
    pub(super) fn run(self) -> Result<(), Failure> {
        let admin = reachable(self.config.load()?.admin.listen);
        let response = runtime(1)?.block_on(fetch_peers(admin))?;
        if self.json {
            return print(&String::from_utf8_lossy(&response));
        }
        let peers: crate::admin::PeersReport = serde_json::from_slice(&response).map_err(|error| {
            Failure::Unavailable(format!(
                "{admin} (admin.listen) did not respond like an edge: {error}; check the address"
            ))
        })?;
        print(&table(&peers))
    }
}

/// Returns the address to connect to: a wildcard address is reached on loopback.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listening.port())
}

/// Requests `/peers` from the admin listener.
async fn fetch_peers(admin: SocketAddr) -> Result<Bytes, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::Unavailable(format!(
            "cannot read the members from {admin} (admin.listen): {error}; check that the edge is running"
        ))
    };
    let edge = HttpOrigin::at(admin, TIMEOUTS, FIRST_BYTE, 1);
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static("/peers");
    let response = edge.fetch(request.into()).await.map_err(|error| failed(&reason(&error)))?.response;
    if response.status() != StatusCode::OK {
        return Err(failed(&response.status()));
    }
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| failed(&error))
}

/// Returns the cause of a failure, without the word "origin": here the server is an edge.
fn reason(error: &Error) -> String {
    match error {
        Error::OriginUnreachable(why) | Error::OriginGarbage(why) | Error::OriginBroke(why) => why.clone(),
        Error::OriginTimeout(_) => "timeout".to_owned(),
        other => other.to_string(),
    }
}

fn table(peers: &admin::PeersReport) -> String {
    let head = ["NAME", "ADDRESS", "STATE", "SINCE", "SHARE", "LATENCY", "ERRORS"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(peers.members.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text + &format!("epoch {}\n", peers.epoch)
}

fn row(peer: &admin::MemberReport) -> [String; 7] {
    let own = if peer.own { " (asked)" } else { "" };
    [
        format!("{}{own}", peer.name.as_deref().unwrap_or("-")),
        peer.address.clone(),
        peer.state.clone(),
        peer.since.clone(),
        format!("{:.1}%", peer.share * 100.0),
        peer.latency_ms.map_or_else(|| "-".to_owned(), |latency| format!("{latency:.1}ms")),
        peer.errors.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_a_line_for_each_member() {
        let peer = |name: Option<&str>, own, share| admin::MemberReport {
            name: name.map(str::to_owned),
            address: "10.0.0.5:7001".to_owned(),
            state: "alive".to_owned(),
            since: "2026-11-22T19:00:00.000Z".to_owned(),
            share,
            up: true,
            latency_ms: name.map(|_| 1.25),
            errors: 3,
            own,
        };
        let peers = admin::PeersReport {
            epoch: 7,
            members: vec![peer(Some("edge-1"), true, 1.0 / 3.0), peer(None, false, 0.0)],
        };
        let expected = "\
NAME            ADDRESS        STATE  SINCE                     SHARE  LATENCY  ERRORS
edge-1 (asked)  10.0.0.5:7001  alive  2026-11-22T19:00:00.000Z  33.3%  1.2ms    3
-               10.0.0.5:7001  alive  2026-11-22T19:00:00.000Z  0.0%   -        3
epoch 7
";
        assert_eq!(table(&peers), expected);
    }

    #[test]
    fn a_wildcard_address_is_reached_on_loopback() {
        for (listening, expected) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.5:1", "10.0.0.5:1")]
        {
            assert_eq!(reachable(listening.parse().unwrap()), expected.parse().unwrap());
        }
    }
}
