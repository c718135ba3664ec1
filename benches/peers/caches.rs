//! The start of each cache: in memory, one worker, no log, connections kept alive. Their
//! configuration is in `settings`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::certificate::Certificate;
use super::process::{Process, free_addresses};

/// Every server, in the order of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    Floor,
    Hyper,
    Peerage,
    Nginx,
    Varnish,
    TrafficServer,
}

impl Cache {
    pub const ALL: [Self; 6] =
        [Self::Floor, Self::Hyper, Self::Peerage, Self::Nginx, Self::Varnish, Self::TrafficServer];
    /// The caches that accept TLS.
    pub const WITH_TLS: [Self; 2] = [Self::Peerage, Self::Nginx];
    /// The caches that can form a cluster.
    pub const CLUSTERS: [Self; 3] = [Self::Peerage, Self::Nginx, Self::Varnish];

    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Hyper => "bare hyper",
            Self::Peerage => "peerage",
            Self::Nginx => "nginx",
            Self::Varnish => "varnish",
            Self::TrafficServer => "traffic server",
        }
    }

    /// Returns the program, and Debian's package of it.
    fn program(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Floor | Self::Hyper | Self::Peerage => None,
            Self::Nginx => Some(("nginx", "nginx")),
            Self::Varnish => Some(("varnishd", "varnish")),
            Self::TrafficServer => Some(("traffic_server", "trafficserver")),
        }
    }

    /// Returns true if it is installed; if not, prints the package to install.
    pub fn is_here(self) -> bool {
        self.program().is_none_or(|(program, package)| is_here(program, package))
    }

    /// Starts a server in front of `origin`, on one processor. Of the caches, those that accept TLS
    /// use `certificate`.
    pub fn start(self, origin: SocketAddr, certificate: &Certificate) -> Process {
        let folder = folder();
        let at = free_addresses(4);
        let (chain, key) = certificate.write(&folder);
        let written = |name, template| {
            write(
                &folder,
                name,
                template,
                &[
                    ("FOLDER", folder.path().to_str().unwrap().to_owned()),
                    ("LISTEN", at[0].to_string()),
                    ("LISTEN2", at[1].to_string()),
                    ("LISTEN_TLS", at[3].to_string()),
                    ("CHAIN", chain.clone()),
                    ("KEY", key.clone()),
                    ("PORT", at[0].port().to_string()),
                    ("PORT2", at[1].port().to_string()),
                    ("ORIGIN", origin.to_string()),
                    ("ORIGIN_PORT", origin.port().to_string()),
                ],
            )
        };
        let (command, http2) = match self {
            Self::Floor => (this_program("floor", at[0]), None),
            Self::Hyper => (this_program("hyper", at[0]), Some(at[0])),
            Self::Peerage => {
                let tls = at[3];
                // All clients have one address here.
                let settings = format!(
                    "[limits]\nconnections_per_client = 1000000\n\
                     [tls]\nlisten = \"{tls}\"\n[[tls.certificate]]\nchain = {chain:?}\nkey = {key:?}\n"
                );
                (peerage(&folder, &settings, at[0], at[1], origin), Some(at[0]))
            }
            Self::Nginx => (nginx(&written("nginx.conf", include_str!("settings/nginx.conf"))), Some(at[1])),
            Self::Varnish => {
                let file = written("cache.vcl", include_str!("settings/varnish.vcl"));
                let mut command = varnish(folder.path(), &file, "512m");
                command.arg("-a").arg(at[0].to_string());
                (command, Some(at[0]))
            }
            Self::TrafficServer => {
                written("records.config", include_str!("settings/records.config"));
                (traffic_server(&folder, origin), Some(at[1]))
            }
        };
        let tls = Self::WITH_TLS.contains(&self).then_some(at[3]);
        Process::start(command, folder, at[0], http2).with_tls(tls).pin()
    }
}

/// Returns true if a program is installed; if not, prints the package to install.
pub fn is_here(program: &str, package: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        println!("{program} is not installed: left out (install Debian's package {package})");
    }
    found
}

/// Returns a folder in memory, if the system has one.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("bench-peers-").tempdir_in(parent).unwrap()
}

/// Writes a configuration file with its placeholders filled in, and returns its path.
pub fn write(folder: &TempDir, name: &str, template: &str, values: &[(&str, String)]) -> String {
    let text =
        values.iter().fold(template.to_owned(), |text, (place, value)| text.replace(&format!("@{place}@"), value));
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Returns a command that runs this program as a server.
fn this_program(server: &str, address: SocketAddr) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--serve", server]).arg(address.to_string());
    command
}

/// Returns the binary with its defaults, but for one thread, no access log, and `settings`.
pub fn peerage(
    folder: &TempDir,
    settings: &str,
    clients: SocketAddr,
    admin: SocketAddr,
    origin: SocketAddr,
) -> Command {
    let file = write(folder, "config.toml", settings, &[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerage"));
    command.args(["run", "--config", &file, "--set", "edge.threads=1", "--set", "log.access=false"]);
    command.args(["--set", &format!("edge.listen={clients}"), "--set", &format!("admin.listen={admin}")]);
    command.args(["--set", &format!("origin.url=http://{origin}")]);
    command
}

pub fn nginx(file: &str) -> Command {
    let mut command = Command::new("nginx");
    // Otherwise nginx opens Debian's log before it reads its configuration.
    command.args(["-e", "stderr", "-c", file]);
    command
}

/// Varnish uses a thread for each active connection; all of them are started in advance. Its log in
/// memory is masked.
pub fn varnish(folder: &Path, file: &str, memory: &str) -> Command {
    let mut command = Command::new("varnishd");
    command.args(["-F", "-j", "none", "-n"]).arg(folder.join("run")).args(["-f", file]);
    command.arg("-s").arg(format!("malloc,{memory}"));
    for parameter in [
        "thread_pools=1",
        "thread_pool_min=200",
        "thread_pool_max=5000",
        "timeout_idle=600",
        "feature=+http2",
        &format!("vsl_mask={SILENT}"),
    ] {
        command.args(["-p", parameter]);
    }
    command
}

const SILENT: &str = "-ReqStart,-ReqMethod,-ReqURL,-ReqProtocol,-ReqHeader,-ReqUnset,-ReqAcct,-RespProtocol,\
    -RespStatus,-RespReason,-RespHeader,-RespUnset,-VCL_call,-VCL_return,-VCL_acl,-VCL_use,-Hit,-HitMiss,-HitPass,\
    -Timestamp,-Begin,-End,-Link,-SessOpen,-SessClose,-Filters,-Length,-TTL,-Storage,-BereqMethod,-BereqURL,\
    -BereqProtocol,-BereqHeader,-BereqUnset,-BereqAcct,-BerespProtocol,-BerespStatus,-BerespReason,-BerespHeader,\
    -BackendOpen,-BackendReuse,-BackendClose,-Fetch_Body,-HttpGarbage,-Backend_health";

fn traffic_server(folder: &TempDir, origin: SocketAddr) -> Command {
    let root = folder.path().to_str().unwrap();
    for part in ["cache", "run", "log"] {
        std::fs::create_dir(folder.path().join(part)).unwrap();
    }
    write(folder, "storage.config", &format!("{root}/cache 512M\n"), &[]);
    write(folder, "remap.config", &format!("map / http://{origin}/\n"), &[]);
    // Without this file no client has access.
    let allow = "ip_allow:\n  - {apply: in, ip_addrs: 127.0.0.1, action: allow, methods: ALL}\n";
    write(folder, "ip_allow.yaml", allow, &[]);
    let layout = format!(
        "prefix: /usr\nexec_prefix: /usr\nbindir: /usr/bin\nsbindir: /usr/sbin\nsysconfdir: {root}\ndatadir: {root}\n\
         includedir: /usr/include\nlibdir: /usr/lib/trafficserver\nlibexecdir: /usr/lib/trafficserver/modules\n\
         localstatedir: {root}/run\nruntimedir: {root}/run\nlogdir: {root}/log\nmandir: /usr/share/man\n\
         infodir: /usr/share/info\ncachedir: {root}/cache\n"
    );
    let layout = write(folder, "runroot.yaml", &layout, &[]);
    let mut command = Command::new("traffic_server");
    command.arg(format!("--run-root={layout}"));
    command
}
