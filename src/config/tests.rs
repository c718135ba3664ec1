use std::time::Duration;

use proptest::prelude::*;

use figment::Figment;
use figment::providers::{Format, Toml};
use figment::value::Value;

use super::load::parse_set;
use super::*;

fn load(text: &str) -> Result<Config, String> {
    Config::extract(&Figment::new().merge(Toml::string(text)))
}

fn repository_file() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml")).unwrap()
}

#[test]
fn config_toml_holds_every_key_with_its_default_and_a_comment() {
    let text = repository_file();
    let defaults = Config { cluster: Some(ClusterConfig::default()), ..Config::default() };
    assert_eq!(load(&text).unwrap(), defaults);

    let mut table = String::new();
    let mut commented = false;
    let mut seen = Vec::new();
    for line in text.lines().map(str::trim) {
        // A table without a default is a comment.
        let commented_table = line.strip_prefix("# [").filter(|rest| rest.contains('.') && rest.ends_with(']'));
        if let Some(header) = commented_table.or_else(|| line.strip_prefix("# [[")).or_else(|| line.strip_prefix('[')) {
            table = header.split(']').next().unwrap().trim_start_matches('[').to_owned();
            commented = false;
            continue;
        }
        // A key without a default is a comment.
        let shown = line.strip_prefix("# ").filter(|rest| is_shown(rest)).unwrap_or(line);
        let Some((key, value)) = shown.split_once('=').filter(|_| !shown.starts_with('#')) else {
            commented = line.starts_with('#');
            continue;
        };
        assert!(commented || value.contains(" # "), "{table}.{key} has no comment");
        seen.push(format!("{table}.{}", key.trim()));
    }
    seen.sort_unstable();
    seen.dedup();
    let mut keys: Vec<_> = KEYS.iter().map(|&key| key.to_owned()).collect();
    keys.sort_unstable();
    assert_eq!(seen, keys);
}

/// Returns true if a comment shows a key without a default.
fn is_shown(comment: &str) -> bool {
    let key = comment.split_once('=').map(|(key, _)| key.trim());
    key.is_some_and(|key| {
        matches!(
            key,
            "advertise"
                | "discover"
                | "nameserver"
                | "secret"
                | "secrets"
                | "max_object"
                | "path"
                | "digest"
                | "encoding"
                | "length"
                | "directory"
                | "client_ca"
                | "ca"
                | "server_name"
                | "client_certificate"
                | "client_key"
                | "chain"
                | "key"
                | "certificate"
                | "user"
                | "password"
                | "password_file"
                | "identity"
                | "mode"
        )
    })
}

#[test]
fn keys_lists_the_fields_of_all_tables() {
    let secret = Some(Secret("0123456789abcdef".to_owned()));
    let text = Some("a:1".to_owned());
    let (discover, nameserver, advertise) = (text.clone(), text.clone(), text);
    let secrets = secret.iter().cloned().collect();
    let etcd = EtcdConfig {
        ca: Some("/i".into()),
        certificate: Some("/j".into()),
        key: Some("/k".into()),
        user: Some("l".to_owned()),
        password: secret.clone(),
        password_file: Some("/m".into()),
    };
    let tls = Some(ClusterTlsConfig { identity: Some("a://b".to_owned()), ..ClusterTlsConfig::default() });
    let cluster =
        ClusterConfig { discover, nameserver, advertise, secret, secrets, etcd, tls, ..ClusterConfig::default() };
    let cache = CacheConfig { max_object: Some(Size(1)), ..CacheConfig::default() };
    let immutable = vec![ImmutableConfig::path("/{hash}", None)];
    let (directory, client_ca) = (Some("/a".into()), Some("/b".into()));
    let certificate = vec![CertificateConfig::new("/c", "/d")];
    let tls = TlsConfig { directory, certificate, client_ca, ..TlsConfig::default() };
    let origin = OriginConfig {
        ca: Some("/e".into()),
        server_name: Some("f".to_owned()),
        client_certificate: Some("/g".into()),
        client_key: Some("/h".into()),
        ..OriginConfig::default()
    };
    let config = Config { tls, origin, cluster: Some(cluster), cache, immutable, ..Config::default() };
    let all = Value::serialize(config).unwrap();
    let mut keys = Vec::new();
    for (table, value) in all.as_dict().unwrap() {
        let first = value.as_array().map_or(value, |items| &items[0]);
        for (key, value) in first.as_dict().unwrap() {
            match value.as_dict().or_else(|| value.as_array()?.first()?.as_dict()) {
                Some(nested) => keys.extend(nested.keys().map(|name| format!("{table}.{key}.{name}"))),
                None => keys.push(format!("{table}.{key}")),
            }
        }
    }
    keys.sort_unstable();
    let mut listed: Vec<_> = KEYS.iter().map(|&key| key.to_owned()).collect();
    listed.sort_unstable();
    assert_eq!(keys, listed);
}

/// A value for every key, different from its default.
const OVERRIDES: [(&str, &str); 96] = [
    ("edge.name", "edge-9"),
    ("edge.listen", "127.0.0.2:81"),
    ("edge.drain", "1h30m"),
    ("edge.threads", "3"),
    ("edge.zero_copy", "false"),
    ("edge.trusted_proxies", "[\"10.0.0.0/8\", \"::1\"]"),
    ("edge.scheme", "https"),
    ("edge.host", "www.example.com"),
    ("edge.redirect_to_https", "true"),
    ("tls.listen", "[\"127.0.0.2:443\", \"[::1]:443\"]"),
    ("tls.directory", "/etc/peerage/certificates"),
    ("tls.certificate", "[{chain=\"/c\", key=\"/k\"}]"),
    ("tls.client_ca", "/etc/peerage/clients.pem"),
    ("tls.min_version", "1.3"),
    ("tls.refresh", "1s"),
    ("tls.hsts", "1d"),
    ("origin.url", "https://example.com/x"),
    ("origin.connect_timeout", "1s"),
    ("origin.first_byte_timeout", "1s"),
    ("origin.idle_timeout", "1s"),
    ("origin.connection_lifetime", "1s"),
    ("origin.requests", "3"),
    ("origin.forward", "[\"X-Tenant\"]"),
    ("origin.rewrite_location", "false"),
    ("origin.http2", "false"),
    ("origin.ca", "/etc/peerage/origin-ca.pem"),
    ("origin.server_name", "assets.example.com"),
    ("origin.client_certificate", "/etc/peerage/edge.pem"),
    ("origin.client_key", "/etc/peerage/edge.key"),
    ("origin.insecure_skip_verify", "true"),
    ("cache.memory", "1GiB"),
    ("cache.hot_share", "0.25"),
    ("cache.flight_share", "0.3"),
    ("cache.max_object", "1MB"),
    ("cache.negative_ttl", "300ms"),
    ("cache.hit_for_miss", "1s"),
    ("cache.detached_fill_timeout", "1s"),
    ("cache.variants", "3"),
    ("cache.verify_first", "128KiB"),
    ("cache.wrong_content_ttl", "1s"),
    ("cache.heuristic", "1h"),
    ("cache.hint_ttl", "1h"),
    ("cache.invalidate_on_write", "false"),
    ("cache.immutable_sets", "[\"oci\"]"),
    ("cluster.listen", "127.0.0.2:82"),
    ("cluster.peers", "[\"a:1\", \"b:2\"]"),
    ("cluster.discover", "file:/etc/peerage/peers"),
    ("cluster.refresh", "1s"),
    ("cluster.nameserver", "127.0.0.1:8600"),
    ("cluster.lease", "3s"),
    ("cluster.advertise", "a:1"),
    ("cluster.connect_timeout", "1s"),
    ("cluster.first_byte_timeout", "1s"),
    ("cluster.idle_timeout", "1s"),
    ("cluster.attempts", "7"),
    ("cluster.gossip", "false"),
    ("cluster.secret", "0123456789abcdef"),
    ("cluster.secrets", "[\"0123456789abcdef\", \"fedcba9876543210\"]"),
    ("cluster.replay_window", "5s"),
    ("cluster.probe_interval", "1s"),
    ("cluster.probe_timeout", "50ms"),
    ("cluster.suspicion", "3s"),
    ("cluster.warm_window", "1m"),
    ("cluster.warm_time", "1m"),
    ("cluster.warm_keys", "3"),
    ("cluster.etcd", "{ca=\"/ca\", certificate=\"/c\", key=\"/k\", user=\"u\", password=\"p\"}"),
    ("cluster.tls.certificate", "/etc/peerage/edge-9.pem"),
    ("cluster.tls.key", "/etc/peerage/edge-9.key"),
    ("cluster.tls.ca", "/etc/peerage/cluster-ca.pem"),
    ("cluster.tls.identity", "spiffe://example.org/peerage"),
    ("cluster.tls.mode", "accept"),
    ("admin.listen", "127.0.0.2:83"),
    ("limits.connections", "7"),
    ("limits.connections_per_client", "7"),
    ("limits.requests_per_client", "7"),
    ("limits.streams", "7"),
    ("limits.control_frames", "500"),
    ("limits.header", "9KiB"),
    ("limits.uri", "1000"),
    ("limits.body", "1MB"),
    ("limits.header_timeout", "1s"),
    ("limits.send_timeout", "1s"),
    ("limits.send_rate", "10KiB"),
    ("limits.send_buffer", "64KiB"),
    ("limits.body_timeout", "1s"),
    ("limits.body_rate", "10KiB"),
    ("limits.tunnel_timeout", "1s"),
    ("limits.methods", "[\"GET\", \"HEAD\"]"),
    ("limits.underscore_headers", "true"),
    ("log.format", "json"),
    ("log.libraries", "off"),
    ("log.repeat", "0s"),
    ("log.level", "debug"),
    ("log.access", "false"),
    ("immutable", "[{path=\"/cas/{hash}\"}]"),
    ("query", "[{path=\"/img/*\", keep=[\"w\"]}]"),
];

/// More secrets than are allowed.
const BAD_SECRETS: &str = "[cluster]\nsecrets = [\"0123456789abcdef\", \"1123456789abcdef\", \"2123456789abcdef\", \"3123456789abcdef\", \"4123456789abcdef\", \"5123456789abcdef\", \"6123456789abcdef\", \"7123456789abcdef\", \"8123456789abcdef\"]";

/// Without these keys, some others are invalid.
const BASE: &str = "[tls]\nlisten = \"127.0.0.1:444\"\ndirectory = \"/base\"\n\
    [origin]\nurl = \"https://base\"\nclient_certificate = \"/base.pem\"\nclient_key = \"/base.key\"\n\
    [cluster]\ndiscover = \"etcds:base:1/base\"\ngossip = false\n\
    [cluster.tls]\ncertificate = \"/base.pem\"\nkey = \"/base.key\"\nca = \"/base.pem\"\n";

#[test]
#[allow(clippy::result_large_err)] // figment's error type
fn every_key_is_overridden_by_set_and_by_the_environment() {
    let defaults = Value::serialize(Config { cluster: Some(ClusterConfig::default()), ..Config::default() }).unwrap();
    for (key, value) in OVERRIDES {
        let base = Figment::new().merge(Toml::string(BASE));
        let by_set = Config::extract(&base.merge(parse_set(&format!("{key}={value}")).unwrap())).unwrap();
        figment::Jail::expect_with(|jail| {
            jail.clear_env();
            jail.set_env(format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__")), value);
            jail.create_file("base.toml", BASE)?;
            let base = Some(std::path::Path::new("base.toml"));
            let by_env = Config::load_embedded(base, &[]).map_err(|error| error.to_string())?;
            assert_eq!(by_env, by_set, "{key}");
            let both = Config::load_embedded(base, &[format!("{key}={value}"), "edge.drain=7s".to_owned()])
                .map_err(|e| e.to_string())?;
            assert_eq!(both.edge.drain, Period(Duration::from_secs(7)));
            Ok(())
        });
        let set = Value::serialize(&by_set).unwrap();
        assert_ne!(set.find_ref(key), defaults.find_ref(key), "{key}");
    }
    let overridden =
        |key: &&&str| !OVERRIDES.iter().any(|(other, _)| *other == **key || key.starts_with(&format!("{other}.")));
    assert_eq!(KEYS.iter().filter(overridden).count(), 0);
}

#[test]
fn errors_name_the_key_the_fault_and_the_accepted_values() {
    for (text, parts) in [
        ("[cache]\nmemroy = 1", &["cache.memroy", "cache.memory"][..]),
        ("[cash]\nmemory = 1", &["cash", "did you mean cache?"]),
        ("memory = 1", &["memory", "cache.memory"]),
        ("xyzzy = 1", &["xyzzy", "the tables are edge, tls, origin"]),
        ("[xyzzy]\nmemory = 1", &["xyzzy", "the tables are edge, tls, origin"]),
        ("[edge]\nmemory = 1", &["edge.memory", "the keys of edge are name, listen"]),
        ("[edge]\ndrain = 30", &["edge.drain", "30 has no unit", "30s"]),
        ("[edge]\ndrain = \"30\"", &["edge.drain", "\"30\" (expected", "30s"]),
        ("[edge]\ntrusted_proxies = [\"10.0.0.0/33\"]", &["edge.trusted_proxies", "10.0.0.0/33", "such as 10.0.0.0/8"]),
        ("[edge]\nscheme = \"ftp\"", &["edge.scheme", "ftp", "https"]),
        ("[edge]\nhost = \"a/b\"", &["edge.host", "\"a/b\"", "www.example.com"]),
        ("[edge]\nname = \"a b\"", &["edge.name", "\"a b\""]),
        ("[edge]\nlisten = \"8001\"", &["edge.listen", "127.0.0.1:8001"]),
        ("[edge]\nlisten = 8001", &["edge.listen", "or a list"]),
        ("[edge]\nlisten = []", &["edge.listen", "tls.listen", "127.0.0.1:8001"]),
        ("[admin]\nlisten = \"127.0.0.1:8001\"", &["admin.listen", "edge.listen", "another port"]),
        ("[tls]\nlisten = [\"443\"]", &["tls.listen", "\"443\"", "127.0.0.1:8001"]),
        ("[tls]\nlisten = \"0.0.0.0:443\"", &["tls.listen", "no certificate", "tls.directory"]),
        ("[tls]\nlisten = \"127.0.0.1:8001\"\ndirectory = \"/a\"", &["tls.listen", "edge.listen", "another port"]),
        ("[tls]\ndirectory = \"/a\"", &["tls.listen", "0.0.0.0:443"]),
        ("[tls]\nlisten = \"0.0.0.0:443\"\n[[tls.certificate]]\nchain = \"/a\"", &["tls.certificate.key", "missing"]),
        ("[[tls.certificate]]\nchian = \"/a\"", &["tls.certificate.chian", "tls.certificate.chain"]),
        ("[[tls.certificate]]\nchain = 3", &["tls.certificate.chain"]),
        ("[tls]\nmin_version = \"1.1\"", &["tls.min_version", "1.1", "1.2"]),
        ("[tls]\nrefresh = \"0s\"", &["tls.refresh", "1s"]),
        ("[edge]\nredirect_to_https = true", &["edge.redirect_to_https", "tls.listen"]),
        ("[edge]\nthreads = \"many\"", &["edge.threads"]),
        ("[edge]\nzero_copy = \"bbr\"", &["edge.zero_copy", "\"auto\", true or false"]),
        ("[origin]\nca = \"/ca.pem\"", &["origin.ca", "https://"]),
        ("[origin]\nurl = \"https://x\"\nclient_key = \"/k\"", &["origin.client_certificate", "origin.client_key"]),
        ("[origin]\nurl = \"ftp://x\"", &["origin.url", "http://"]),
        ("[origin]\nurl = \"http://u:p@x\"", &["origin.url", "user name"]),
        ("[origin]\nrequests = 0", &["origin.requests"]),
        ("[limits]\nconnections = 9223372036854775807", &["limits.connections"]),
        ("[limits]\nrequests_per_client = 1000001", &["limits.requests_per_client", "1000000"]),
        ("[limits]\nsend_timeout = \"0s\"", &["limits.send_timeout"]),
        ("[limits]\nmethods = [\"GET\"]", &["limits.methods", "HEAD"]),
        ("[limits]\nmethods = [\"GET\", \"HEAD\", \"TRACE\"]", &["limits.methods", "TRACE", "remove"]),
        ("[cache]\nmemory = \"lots\"", &["cache.memory", "\"lots\" (expected a size such as 512MiB"]),
        ("[cache]\nmemory = -1", &["cache.memory", "negative"]),
        ("[cache]\nmemory = \"64MiB\"\nmax_object = \"64MiB\"", &["cache.max_object", "64MiB", "set max_object to"]),
        ("[cache]\nhot_share = 2.0", &["cache.hot_share"]),
        ("[cache]\nnegative = \"1s\"", &["cache.negative", "renamed to cache.negative_ttl"]),
        ("[cache]\nwrong = \"1s\"", &["cache.wrong", "renamed to cache.wrong_content_ttl"]),
        ("[cache]\nfill_alone = \"1s\"", &["cache.fill_alone", "renamed to cache.detached_fill_timeout"]),
        ("[cluster]\npeers = [\"nowhere\"]", &["cluster.peers", "\"nowhere\"", "host:port"]),
        ("[cluster]\nlisten = \"0.0.0.0:7001\"", &["cluster.advertise"]),
        ("[cluster]\ndiscover = \"/etc/peers\"", &["cluster.discover", "`/etc/peers`", "file:"]),
        ("[cluster]\ndiscover = \"dns:edges\"", &["cluster.discover", "`edges`", "edges.example.net:7001"]),
        ("[cluster]\ndiscover = \"etcd:10.0.0.1/p\"", &["cluster.discover", "`10.0.0.1`", "10.0.0.1:2379"]),
        ("[cluster]\ndiscover = \"etcds:10.0.0.1/p\"", &["cluster.discover", "`10.0.0.1`", "10.0.0.1:2379"]),
        ("[cluster]\ndiscover = \"etcd:a:1/p\"\netcd.ca = \"/a\"", &["cluster.etcd.ca", "etcds:"]),
        ("[cluster]\netcd.user = \"u\"", &["cluster.etcd.user", "etcd: or etcds:"]),
        ("[cluster]\ndiscover = \"etcds:a:1/p\"\netcd.key = \"/a\"", &["cluster.etcd.certificate", "missing"]),
        ("[cluster]\ndiscover = \"etcds:a:1/p\"\netcd.user = \"u\"", &["cluster.etcd.password", "missing"]),
        ("[cluster]\ndiscover = \"etcd:a:1/p\"\netcd.password = \"p\"", &["cluster.etcd.user", "missing"]),
        ("[cluster.etcd]\npassword = \"p\"\npassword_file = \"/p\"", &["cluster.etcd.password_file", "remove"]),
        ("[cluster.etcd]\npasword = \"p\"", &["cluster.etcd.pasword", "cluster.etcd.password"]),
        ("[cluster]\nrefresh = \"1ms\"", &["cluster.refresh", "100ms", "3600s"]),
        ("[cluster]\nnameserver = \"127.0.0.1\"", &["cluster.nameserver", "\"127.0.0.1\"", "127.0.0.1:8600"]),
        ("[cluster]\nlease = \"1s\"", &["cluster.lease", "2s", "600s"]),
        ("[cluster]\nsecret = \"guess me\"", &["cluster.secret", "16 characters"]),
        ("[cluster]\nsecrets = [\"0123456789abcdef\", \"guess me\"]", &["cluster.secrets", "16 characters"]),
        (
            "[cluster]\nsecret = \"0123456789abcdef\"\nsecrets = [\"0123456789abcdef\"]",
            &["cluster.secret", "cluster.secrets", "remove"],
        ),
        (BAD_SECRETS, &["cluster.secrets", "9 secrets", "8 or fewer"]),
        ("[cluster]\nreplay_window = \"0s\"", &["cluster.replay_window", "1s", "3600s"]),
        ("[cluster]\nprobe_interval = \"1ms\"", &["cluster.probe_interval", "50ms"]),
        ("[cluster]\nprobe_timeout = \"200ms\"", &["cluster.probe_timeout", "125ms"]),
        ("[cluster]\nsuspicion = \"0s\"", &["cluster.suspicion", "500ms"]),
        ("[cluster.tls]\ncertificate = \"/c\"\nkey = \"/k\"", &["cluster.tls.ca", "missing", "/etc/peerage/"]),
        ("[cluster.tls]\ncertificate = \"/c\"\nkey = \"/k\"\nca = \"/a\"", &["cluster.secret", "openssl rand"]),
        ("[cluster.tls]\ncertficate = \"/c\"", &["cluster.tls.certficate", "cluster.tls.certificate"]),
        (
            "[cluster.tls]\ncertificate = \"/c\"\nkey = \"/k\"\nca = \"/a\"\nidentity = \"edges\"",
            &["cluster.tls.identity", "\"edges\"", "spiffe://"],
        ),
        ("[cluster.tls]\nmode = \"off\"", &["cluster.tls.mode", "off", "require"]),
        ("[log]\nlevel = \"loud\"", &["log.level", "warn"]),
        ("[[immutable]]\npath = \"/x\"", &["immutable.path", "{hash}"]),
        ("[[immutable]]\npaht = \"/x\"", &["immutable.paht", "immutable.path"]),
        ("[[immutable]]\nfoo = 1", &["immutable.foo", "the keys of immutable are path, digest, encoding, length"]),
        ("[[query]]\nlength = 1", &["query.length", "the keys of query are path, keep"]),
        ("[[query]]\npath = \"/a?b\"\nkeep = \"all\"", &["query.path", "`/a?b`", "query"]),
        ("[[immutable]]\npath = \"/a/../{hash}\"", &["immutable.path", "`..`", "remove"]),
        ("[[immutable]]\n", &["immutable.path", "missing", "cache.immutable_sets"]),
        ("[cache]\nimmutable_sets = [\"bundles\"]", &["cache.immutable_sets", "`bundles`", "by-hash"]),
        ("[[immutable]]\nset = \"oci\"", &["immutable.set", "cache.immutable_sets"]),
        ("[origin]\nforward = [\"x y\"]", &["origin.forward", "\"x y\"", "X-Tenant"]),
        ("[origin]\nforward = [\"Host\"]", &["origin.forward", "Host", "edge itself"]),
        ("[origin]\nforward = [\"Cookie\"]", &["origin.forward", "Cookie", "remove"]),
        ("[[immutable]]\npath = \"/{hash}\"\ndigest = \"sha257\"", &["immutable.digest", "sha257", "sha256"]),
        ("[[immutable]]\npath = \"/{hash}\"\nencoding = \"base64url\"", &["immutable.path", "ambiguous", "length"]),
        ("[[immutable]]\npath = \"/*{hash}\"", &["immutable.path", "ambiguous"]),
        ("[[immutable]]\npath = \"/{hash}\"\nlength = 4", &["immutable.path", "too short"]),
        ("immutable = 3", &["immutable"]),
        ("[[query]]\nkeep = \"all\"", &["query.path", "missing"]),
        ("[[query]]\npath = \"/**\"", &["query.keep", "missing", "none"]),
        ("[[query]]\npath = \"/**\"\nkeep = \"some\"", &["query.keep", "list of names"]),
        ("[[query]]\npath = \"x\"\nkeep = \"all\"", &["query.path", "/"]),
    ] {
        let error = load(text).unwrap_err();
        assert!(!error.contains('\n'), "{error}");
        for part in parts {
            assert!(error.contains(part), "{text}\n-> {error}");
        }
    }
}

#[test]
#[allow(clippy::result_large_err)] // figment's error type
fn variables_of_other_programs_are_ignored_and_unknown_keys_are_rejected() {
    figment::Jail::expect_with(|jail| {
        jail.clear_env();
        jail.set_env("PEERAGE_PORT", "tcp://10.0.0.1:80");
        jail.set_env("PEERAGE_SERVICE_HOST", "10.0.0.1");
        assert!(Config::load_embedded(None, &[]).is_ok());
        for misspelt in ["PEERAGE_CLUSTER_SECRET", "PEERAGE_ORIGIN_URL", "PEERAGE_CACHE_HOT_SHARE"] {
            jail.set_env(misspelt, "0123456789abcdef");
            let error = Config::load_embedded(None, &[]).unwrap_err().to_string();
            assert!(error.contains(misspelt) && error.contains("__"), "{error}");
            jail.clear_env();
        }
        jail.set_env("PEERAGE_CACHE__MEMROY", "1");
        let error = Config::load_embedded(None, &[]).unwrap_err().to_string();
        assert!(error.contains("cache.memroy") && error.contains("PEERAGE_"), "{error}");
        Ok(())
    });
}

#[test]
#[allow(clippy::result_large_err)] // figment's error type
fn a_secret_is_read_as_text_from_every_source() {
    figment::Jail::expect_with(|jail| {
        jail.clear_env();
        for secret in ["01234567890123456789", "1e999999999999999", "0123456789abcdef"] {
            jail.create_file("config.toml", &format!("[cluster]\nsecret = \"{secret}\""))?;
            jail.set_env("PEERAGE_CLUSTER__SECRET", secret);
            let file = std::path::Path::new("config.toml");
            for (file, sets) in [(Some(file), vec![]), (None, vec![]), (None, vec![format!("cluster.secret={secret}")])]
            {
                let config = Config::load_embedded(file, &sets).map_err(|error| error.to_string())?;
                assert_eq!(config.cluster.unwrap().secret.unwrap().0, secret);
            }
        }
        jail.clear_env();
        jail.create_file("config.toml", "[cluster]\nsecret = \"0123456789abcdef")?;
        let error = Config::load_embedded(Some(std::path::Path::new("config.toml")), &[]).unwrap_err().to_string();
        assert!(error.contains("in config.toml") && !error.contains("0123456789abcdef"), "{error}");
        Ok(())
    });
}

#[test]
fn the_max_object_that_an_error_proposes_is_accepted() {
    let error = load("[cache]\nmemory = \"100MB\"\nmax_object = \"64MiB\"").unwrap_err();
    let proposed = error.split("set max_object to ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(load(&format!("[cache]\nmemory = \"100MB\"\nmax_object = \"{proposed}\"")).is_ok());
}

#[test]
fn max_object_is_derived_from_memory_unless_it_is_set() {
    let max_object = |text: &str| load(text).unwrap().plan().max_object;
    for cluster in ["", "[cluster]\npeers = [\"a:1\"]\n"] {
        assert_eq!(max_object(cluster), 64 << 20);
        for memory in ["4MiB", "100MB", "256MiB", "1GiB", "64GiB"] {
            let text = format!("{cluster}[cache]\nmemory = \"{memory}\"\n");
            let derived = max_object(&text);
            assert_eq!(derived, (64 << 20).min(load(&text).unwrap().plan().largest()), "{text}");
            assert_eq!(max_object(&format!("{text}max_object = {derived}")), derived);
        }
    }
    assert_eq!(max_object("[cache]\nmemory = \"256MiB\""), 32 << 20);
    assert_eq!(max_object("[cache]\nmemory = \"1GiB\"\nmax_object = \"100MiB\""), 100 << 20);
}

#[test]
fn one_client_gets_a_quarter_of_the_origin_requests_by_default() {
    for (requests, per_client, most) in [(1024, 0, 256), (7, 0, 1), (1, 0, 1), (1024, 1, 1), (2, 100, 100)] {
        let limits = LimitsConfig { requests_per_client: per_client, ..LimitsConfig::default() };
        assert_eq!(limits.most_requests_per_client(requests), most, "{per_client} of {requests}");
    }
}

#[test]
fn zero_copy_defaults_to_auto() {
    for (text, zero_copy) in [
        ("", ZeroCopy::Auto),
        ("[edge]\nzero_copy = \"auto\"", ZeroCopy::Auto),
        ("[edge]\nzero_copy = true", ZeroCopy::On),
        ("[edge]\nzero_copy = false", ZeroCopy::Off),
    ] {
        assert_eq!(load(text).unwrap().edge.zero_copy, zero_copy, "{text}");
    }
}

#[test]
fn an_edge_without_peers_has_no_hot_tier() {
    let plan = |text: &str| load(text).unwrap().plan();
    let (single, with_peers) = (plan(""), plan("[cluster]\npeers = [\"a:1\"]"));
    assert_eq!((single.hot, with_peers.hot), (0, single.memory / 8));
    assert_eq!(single.main, with_peers.main + with_peers.hot);
}

proptest! {
    #[test]
    fn no_input_panics(text in "(\\[{1,2}(edge|cache|cluster|immutable|query)\\]{1,2}\n)?[a-z_]{1,9} = [\"0-9a-zA-Z.\\[\\]{}=-]{0,12}") {
        let _ = load(&text);
    }
}
