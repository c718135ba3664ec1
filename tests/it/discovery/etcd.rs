//! Discovery in etcd over TLS, and as a user with a password.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::servers::Etcd;
use super::*;
use crate::process::{BINARY, line_with};
use crate::tls::pki::Ca;

/// Starts an etcd over TLS, with the additional arguments `more`. Returns the path of its CA, too.
async fn secure_etcd(folder: &Path, ca: &Ca, more: &[String]) -> (Etcd, PathBuf) {
    let pair = ca.issue(&["127.0.0.1"]).write(folder, "etcd");
    let files = [format!("--cert-file={}", pair.chain.display()), format!("--key-file={}", pair.key.display())];
    let etcd = Etcd::start_with(&folder.join("data"), "https", &[&files, more].concat()).await;
    (etcd, ca.write(folder))
}

/// Starts an edge as a process, whose log is read for `cause`.
async fn fails_with(source: &str, etcd: &str, cause: &str) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "edge.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\norigin.url = \"http://127.0.0.1:1\"\n\
         [cluster]\nlisten = \"127.0.0.1:0\"\ndiscover = \"{source}\"\nlease = \"30s\"\nconnect_timeout = \"10s\"\n\
         [cluster.etcd]\n{etcd}\n"
    );
    let _edge = Process::run(std::process::Command::new(BINARY), folder.path(), &text).await;
    let line = line_with(&folder.path().join("err"), cause).await;
    assert!(!line.contains("wrong password"), "{line}");
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn etcd_over_tls_lists_members_and_one_of_another_ca_is_refused() {
    require(&["etcd"]);
    let folder = tempfile::tempdir().unwrap();
    let (etcd, ca) = secure_etcd(folder.path(), &Ca::new("CA of etcd"), &[]).await;
    let mut cluster = cluster(&etcd.source());
    cluster.etcd.ca = Some(ca);
    let (first, second) = (edge("edge-1", cluster.clone()).await, edge("edge-2", cluster).await);
    let names = [first.name(), second.name()];
    lists(&first, &names).await;
    lists(&second, &names).await;
    let other = tempfile::tempdir().unwrap();
    let ca = format!("ca = {:?}", Ca::new("another CA").write(other.path()));
    fails_with(&etcd.source(), &ca, "the issuer of the server's certificate is not trusted").await;
    let plain = etcd.source().replace("etcds:", "etcd:");
    fails_with(&plain, "", "discovery failed").await;
    let missing = "/missing/ca.pem";
    let mut config = config("edge-3");
    let mut unusable = super::cluster(&etcd.source());
    unusable.etcd.ca = Some(missing.into());
    config.cluster = Some(unusable);
    let error = Server::bind(config).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("cluster.etcd") && error.contains(missing), "{error}");
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn etcd_that_requires_a_client_certificate_refuses_edges_without_one() {
    require(&["etcd"]);
    let (folder, ca) = (tempfile::tempdir().unwrap(), Ca::new("CA of etcd"));
    let edges = tempfile::tempdir().unwrap();
    let edge_ca = Ca::new("CA of edges");
    let required =
        ["--client-cert-auth".to_owned(), format!("--trusted-ca-file={}", edge_ca.write(edges.path()).display())];
    let (etcd, ca) = secure_etcd(folder.path(), &ca, &required).await;
    let pair = edge_ca.issue(&["edge"]).write(edges.path(), "edge");
    let mut cluster = cluster(&etcd.source());
    (cluster.etcd.ca, cluster.etcd.certificate, cluster.etcd.key) =
        (Some(ca.clone()), Some(pair.chain.clone()), Some(pair.key.clone()));
    let first = edge("edge-1", cluster).await;
    lists(&first, &[first.name()]).await;
    fails_with(&etcd.source(), &format!("ca = {ca:?}"), "discovery failed").await;
}

const ROOT: &str = "the password of root";

/// Enables users in `etcd`: root, and `peerage` with access to the keys of members.
async fn enable_users(etcd: &Etcd, password: &str) {
    let everything = json!({ "permType": "READWRITE", "key": BASE64.encode(b"/"), "range_end": BASE64.encode(b"0") });
    for (path, content) in [
        ("/v3/auth/user/add", json!({ "name": "root", "password": ROOT })),
        ("/v3/auth/role/add", json!({ "name": "root" })),
        ("/v3/auth/user/grant", json!({ "user": "root", "role": "root" })),
        ("/v3/auth/user/add", json!({ "name": "peerage", "password": password })),
        ("/v3/auth/role/add", json!({ "name": "members" })),
        ("/v3/auth/role/grant", json!({ "name": "members", "perm": everything })),
        ("/v3/auth/user/grant", json!({ "user": "peerage", "role": "members" })),
        ("/v3/auth/enable", json!({})),
    ] {
        etcd.post(path, content, "").await;
    }
}

async fn change_password(etcd: &Etcd, password: &str) {
    let root = etcd.post("/v3/auth/authenticate", json!({ "name": "root", "password": ROOT }), "").await;
    let content = json!({ "name": "peerage", "password": password });
    etcd.post("/v3/auth/user/changepw", content, root["token"].as_str().unwrap()).await;
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn user_of_etcd_is_authenticated_again_after_its_token_ends_or_its_password_changes() {
    require(&["etcd"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "first password\n").unwrap();
    let ttl = ["--auth-token-ttl=1".to_owned()];
    let mut etcd = Etcd::start_with(&folder.path().join("data"), "http", &ttl).await;
    enable_users(&etcd, "first password").await;
    let mut cluster = cluster(&etcd.source());
    (cluster.etcd.user, cluster.etcd.password_file) = (Some("peerage".to_owned()), Some(file.clone()));
    let first = edge("edge-1", cluster.clone()).await;
    let second = edge("edge-2", cluster.clone()).await;
    let names = [first.name(), second.name()];
    lists(&first, &names).await;
    // An etcd that restarts knows no token any more.
    etcd.kill();
    assert!(etcd.start_again(&folder.path().join("data")).await);
    std::fs::write(&file, "second password\n").unwrap();
    change_password(&etcd, "second password").await;
    let third = edge("edge-3", cluster).await;
    let all = [first.name(), second.name(), third.name()];
    for edge in [&first, &second, &third] {
        lists(edge, &all).await;
    }
    let wrong = "user = \"peerage\"\npassword = \"a wrong password\"";
    fails_with(&etcd.source(), wrong, "authentication failed, invalid user ID or password").await;
    fails_with(&etcd.source(), "", "set cluster.etcd.user").await;
}

/// A token that etcd rejects is requested once more, and the request is repeated.
#[tokio::test]
async fn rejected_token_is_replaced_at_once() {
    let members = ["127.0.0.1:1", "127.0.0.1:2"].map(str::to_owned);
    let etcd = scripted().await;
    let invalid = || Script::ok("{\"message\":\"etcdserver: invalid auth token\"}").with_status(401);
    etcd.scripts("/v3/auth/authenticate", [Script::ok("{\"token\":\"one\"}"), Script::ok("{\"token\":\"two\"}")]);
    etcd.scripts("/v3/kv/range", [invalid(), listing(&members)]);
    etcd.script("/v3/watch", Script::ok("{}\n").chunked().hold_body(&Gate::closed()));
    let mut cluster = advertised(&format!("etcd:{}/p", etcd.address), &members[0]);
    (cluster.etcd.user, cluster.etcd.password) =
        (Some("peerage".to_owned()), Some(peerage::config::Secret("a password".to_owned())));
    let edge = edge("edge-1", cluster).await;
    lists(&edge, &members).await;
    assert!(edge.metric(FAILED).await < 1.0);
    let seen = etcd.seen();
    let tokens: Vec<_> =
        seen.iter().map(|seen| (seen.target.as_str(), seen.header("authorization").unwrap_or_default())).collect();
    assert_eq!(tokens[..2], [("/v3/auth/authenticate", ""), ("/v3/lease/grant", "one")]);
    let ranges: Vec<_> = tokens.iter().filter(|(target, _)| *target == "/v3/kv/range").collect();
    assert_eq!(ranges, [&("/v3/kv/range", "one"), &("/v3/kv/range", "two")]);
}
