//! The configuration of one of the demo's edges.

use std::fmt::Write as _;

use super::credentials::Credentials;
use super::ports::{EDGES, Ports};

/// The rule for the site's names, which `peerage publish` has made: the edges verify the
/// origin's contents against them.
const RULES: &str = "[[immutable]]\npath = \"/**/*-{hash}.*\"\ndigest = \"sha256\"\nlength = 16\n";

/// Returns the configuration of edge `number` as TOML.
pub(super) fn configuration(ports: Ports, number: u16, credentials: Option<&Credentials>) -> String {
    let peers: Vec<_> = (1..=EDGES).map(|number| format!("\"127.0.0.1:{}\"", ports.peers(number))).collect();
    let secret = credentials.map(|Credentials { secret, .. }| format!("secret = \"{secret}\"\n")).unwrap_or_default();
    let mut text = format!(
        "[edge]\nname = \"edge-{number}\"\nlisten = \"127.0.0.1:{}\"\n\n[origin]\nurl = \"http://127.0.0.1:{}\"\n\n\
         [cluster]\nlisten = \"127.0.0.1:{}\"\npeers = [{}]\n{secret}\n[admin]\nlisten = \"127.0.0.1:{}\"\n\n\
         [log]\nformat = \"text\"\nlevel = \"warn\"\n\n{RULES}",
        ports.http(number),
        ports.origin(),
        ports.peers(number),
        peers.join(", "),
        ports.admin(number),
    );
    if let Some(Credentials { authority, chain, key, .. }) = credentials {
        let [authority, chain, key] = [authority, chain, key].map(|path| path.to_string_lossy());
        let _ = write!(
            text,
            "\n[tls]\nlisten = \"127.0.0.1:{}\"\n\n[[tls.certificate]]\nchain = {chain:?}\nkey = {key:?}\n\n\
             [cluster.tls]\ncertificate = {chain:?}\nkey = {key:?}\nca = {authority:?}\n",
            ports.https(number)
        );
    }
    text
}
