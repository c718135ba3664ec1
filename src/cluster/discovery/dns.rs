//! Members in DNS: the addresses of a name or the targets of a service.

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

use super::list::MAX_MEMBERS;

/// The most targets of a service that are resolved at the same time.
const CONCURRENCY: usize = 16;

/// Returns the addresses in the A and AAAA records of `name`, each with `port`.
///
/// # Errors
/// Returns why a lookup failed. Both lookups must succeed: half of a list is not used.
pub(super) async fn addresses(
    name: &str,
    port: u16,
    nameserver: Option<SocketAddr>,
    timeout: Duration,
) -> Result<Vec<String>, String> {
    let name = parse(name)?;
    let resolver = resolver(nameserver, timeout)?;
    let found = within(timeout, addresses_of(&resolver, &name)).await?;
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port).to_string()).collect())
}

/// Returns the targets of the service `name` (RFC 2782), each with its port. Priorities and
/// weights are ignored.
///
/// A target's name is resolved here, and the address becomes the member's name on the ring. So an
/// edge needs to know only its own address, not its DNS name, which perhaps only `nameserver` can
/// resolve. An edge is one member: of several addresses every edge takes the same one, the lowest,
/// IPv4 first.
///
/// # Errors
/// Returns why a lookup failed, or which target has no address.
pub(super) async fn service(
    name: &str,
    nameserver: Option<SocketAddr>,
    timeout: Duration,
) -> Result<Vec<String>, String> {
    let name = parse(name)?;
    let resolver = resolver(nameserver, timeout)?;
    let found = async {
        let records = lookup(&resolver, &name, RecordType::SRV).await?;
        let targets = records.into_iter().filter_map(|data| match data {
            // The target "." means that there is no such service.
            RData::SRV(target) if !target.target.is_root() => Some(target),
            _ => None,
        });
        let targets: Vec<_> = targets.collect();
        if targets.len() > MAX_MEMBERS {
            return Err(format!("{name} has more than {MAX_MEMBERS} targets"));
        }
        stream::iter(targets).map(|target| locate(&resolver, target)).buffered(CONCURRENCY).try_collect().await
    };
    within(timeout, found).await
}

async fn locate(resolver: &TokioResolver, target: SRV) -> Result<String, String> {
    let ip = addresses_of(resolver, &target.target).await?.into_iter().min();
    let ip = ip.ok_or_else(|| format!("target {} has no address", target.target))?;
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

/// Returns the records of one type; empty if DNS states that there are none.
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

/// Creates a resolver. A new one for each read follows changes of the system's configuration and
/// caches no response.
fn resolver(nameserver: Option<SocketAddr>, timeout: Duration) -> Result<TokioResolver, String> {
    let failed = |error: NetError| format!("cannot use the system's DNS configuration: {error}");
    let mut builder = match nameserver {
        Some(at) => {
            // Over UDP some servers, such as Consul, return only a few members, and not always
            // the same ones.
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
    options.timeout = options.timeout.min(timeout / 2);
    builder.build().map_err(failed)
}

fn parse(name: &str) -> Result<Name, String> {
    Name::from_utf8(name).map_err(|error| format!("{name} is not a DNS name: {error}"))
}

async fn within<T>(limit: Duration, found: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let found = tokio::time::timeout(limit, found).await;
    found.unwrap_or_else(|_| Err(format!("timeout after {limit:?}")))
}
