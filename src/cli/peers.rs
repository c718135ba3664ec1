//! `peerage peers`: the cluster, as an edge that runs sees it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};

use super::{ConfigArguments, FIRST_BYTE, Failure, PATIENCE, print, runtime};
use crate::admin;
use crate::body::Body;
use crate::error::Error;
use crate::origin::Origin;
use crate::origin::http_origin::HttpOrigin;

/// More is no answer of an edge's.
const LARGEST: usize = 16 * 1024 * 1024;

#[derive(clap::Args)]
pub(super) struct Peers {
    /// Prints what the edge's /peers says, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

impl Peers {
    pub(super) fn run(self) -> Result<(), Failure> {
        let operators = reachable(self.config.load()?.admin.listen);
        let answer = runtime(1)?.block_on(ask(operators))?;
        if self.json {
            return print(&String::from_utf8_lossy(&answer));
        }
        let peers: admin::Peers = serde_json::from_slice(&answer).map_err(|error| {
            Failure::Unavailable(format!("admin.listen: what {operators} says is not an edge's: {error}"))
        })?;
        print(&table(&peers))
    }
}

/// What listens everywhere listens on loopback too.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listening.port())
}

async fn ask(operators: SocketAddr) -> Result<Bytes, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::Unavailable(format!(
            "admin.listen: {operators} does not say who its peers are: {error}; is the edge running?"
        ))
    };
    let edge = HttpOrigin::at(operators.into(), PATIENCE, FIRST_BYTE, 1);
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static("/peers");
    let response = edge.fetch(request.into()).await.map_err(|error| failed(&reason(&error)))?.response;
    if response.status() != StatusCode::OK {
        return Err(failed(&response.status()));
    }
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| failed(&error))
}

/// Says what went wrong with the edge: for its client, an edge is an origin.
fn reason(error: &Error) -> String {
    match error {
        Error::OriginUnreachable(why) | Error::OriginGarbage(why) | Error::OriginBroke(why) => why.clone(),
        Error::OriginTimeout(_) => "no answer in time".to_owned(),
        other => other.to_string(),
    }
}

fn table(peers: &admin::Peers) -> String {
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

fn row(peer: &admin::Peer) -> [String; 7] {
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
    fn a_line_for_each() {
        let peer = |name: Option<&str>, own, share| admin::Peer {
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
        let peers =
            admin::Peers { epoch: 7, members: vec![peer(Some("edge-1"), true, 1.0 / 3.0), peer(None, false, 0.0)] };
        let expected = "\
NAME            ADDRESS        STATE  SINCE                     SHARE  LATENCY  ERRORS
edge-1 (asked)  10.0.0.5:7001  alive  2026-11-22T19:00:00.000Z  33.3%  1.2ms    3
-               10.0.0.5:7001  alive  2026-11-22T19:00:00.000Z  0.0%   -        3
epoch 7
";
        assert_eq!(table(&peers), expected);
    }

    #[test]
    fn what_listens_everywhere_is_asked_here() {
        for (listening, asked) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.5:1", "10.0.0.5:1")] {
            assert_eq!(reachable(listening.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
