//! Members in DNS: the addresses of a name, or the targets of a service.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::MOST;

/// How many targets of a service are looked up at a time.
const AT_ONCE: usize = 16;

/// The A and AAAA records of `name`, each with `port`.
///
/// # Errors
/// Why they cannot be had. One of the two without an answer is an error: half
/// of a list is none.
pub(super) async fn addresses(
    name: &str,
    port: u16,
    nameserver: Option<SocketAddr>,
    patience: Duration,
) -> Result<Vec<String>, String> {
    let name = parse(name)?;
    let resolver = resolver(nameserver, patience)?;
    let found = within(patience, addresses_of(&resolver, &name)).await?;
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port).to_string()).collect())
}

/// The targets of the service `name` (RFC 2782), each with its port. Priorities
/// and weights say nothing of members.
///
/// A target's name is resolved here, and the address is its name on the ring: the
/// edge there knows its own address, and need not know its name in DNS, which
/// perhaps only `nameserver` can resolve. An edge is one member, so of several
/// addresses every edge takes the same one: the lowest, IPv4 first.
///
/// # Errors
/// Why they cannot be had. One target without an address is an error.
pub(super) async fn service(
    name: &str,
    nameserver: Option<SocketAddr>,
    patience: Duration,
) -> Result<Vec<String>, String> {
    let name = parse(name)?;
    let resolver = resolver(nameserver, patience)?;
    let found = async {
        let records = lookup(&resolver, &name, RecordType::SRV).await?;
        let targets = records.into_iter().filter_map(|data| match data {
            // "." says that there is no such service.
            RData::SRV(target) if !target.target.is_root() => Some(target),
            _ => None,
        });
        let targets: Vec<_> = targets.collect();
        if targets.len() > MOST {
            return Err(format!("{name} has more than {MOST} targets"));
        }
        stream::iter(targets).map(|target| locate(&resolver, target)).buffered(AT_ONCE).try_collect().await
    };
    within(patience, found).await
}

async fn locate(resolver: &TokioResolver, target: SRV) -> Result<String, String> {
    let ip = addresses_of(resolver, &target.target).await?.into_iter().min();
    let ip = ip.ok_or_else(|| format!("the target {} has no address", target.target))?;
    Ok(SocketAddr::new(ip, target.port).to_string())
}

async fn addresses_of(resolver: &TokioResolver, name: &Name) -> Result<Vec<IpAddr>, String> {
    let (v4, v6) = tokio::try_join!(lookup(resolver, name, RecordType::A), lookup(resolver, name, RecordType::AAAA))?;
    let address = |data| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    Ok(v4.into_iter().chain(v6).filter_map(address).collect())
}

/// The records of one type; none, where DNS says that there are none.
async fn lookup(resolver: &TokioResolver, name: &Name, kind: RecordType) -> Result<Vec<RData>, String> {
    match resolver.lookup(name.clone(), kind).await {
        Ok(found) => Ok(found.answers().iter().map(|record| record.data.clone()).collect()),
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(format!("{kind} of {name}: {error}")),
    }
}

/// Made for each finding: it follows a change of the system's configuration, and
/// remembers no answer.
fn resolver(nameserver: Option<SocketAddr>, patience: Duration) -> Result<TokioResolver, String> {
    let failed = |error: NetError| format!("the system's DNS cannot be used: {error}");
    let mut builder = match nameserver {
        Some(at) => {
            // Over UDP some, such as Consul, tell of a few members only, and not
            // always of the same.
            let mut server = NameServerConfig::tcp(at.ip());
            for connection in &mut server.connections {
                connection.port = at.port();
            }
            let config = ResolverConfig::from_name_servers(vec![server]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        }
        None => TokioResolver::builder_tokio().map_err(failed)?,
    };
    let options = builder.options_mut();
    options.timeout = options.timeout.min(patience / 2);
    builder.build().map_err(failed)
}

fn parse(name: &str) -> Result<Name, String> {
    Name::from_utf8(name).map_err(|error| format!("{name} is not a name: {error}"))
}

async fn within<T>(patience: Duration, found: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let found = tokio::time::timeout(patience, found).await;
    found.unwrap_or_else(|_| Err(format!("no answer within {patience:?}")))
}
