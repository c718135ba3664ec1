//! The exposition of all metrics, as `OpenMetrics` text or Prometheus text.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::encoding::{begin_family, encode_histogram};
use super::labels::{Asked, Fetched, Handshake, PeerLookup, Refused, Served, Source};
use super::process::Process;
use super::registry::{Metrics, STATUSES};
use crate::cluster::view::{State, View};
use crate::tls::{DialOutcome, Report};

/// Values that are read at the time of the exposition.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Gauges {
    pub(crate) flights: u64,
    pub(crate) readers: u64,
    /// The name, bytes, objects and evictions of each tier.
    pub(crate) tiers: Vec<(&'static str, u64, u64, u64)>,
    /// Bytes of the memory budget that are in use.
    pub(crate) memory_used: u64,
    /// Bytes of response bodies that were sent without a copy.
    pub(crate) lent: u64,
    /// The address of each peer, and true if it is up.
    pub(crate) peers: Vec<(Arc<str>, bool)>,
}

/// Returns all metrics as `OpenMetrics` text.
pub(crate) fn exposition(metrics: &Arc<Metrics>, gauges: Gauges, view: Arc<View>) -> String {
    let mut registry = Registry::default();
    let own = registry.sub_registry_with_prefix("peerage");
    own.register_collector(Box::new(EdgeCollector { metrics: Arc::clone(metrics), gauges, view }));
    registry.register_collector(Box::new(Process));
    let mut text = String::with_capacity(8 * 1024);
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => text,
        Err(fmt::Error) => String::new(),
    }
}

/// The media type of [`exposition`].
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The media type of [`plain`].
pub(crate) const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Converts an exposition to Prometheus' own text format. There, the metadata of a counter
/// has the name of its sample (with `_total`), and there is no end marker.
pub(crate) fn plain(exposed: &str) -> String {
    let type_of = |line: &str| line.strip_prefix("# TYPE ")?.strip_suffix(" counter").map(str::to_owned);
    let counters: HashSet<_> = exposed.lines().filter_map(type_of).collect();
    let mut text = String::with_capacity(exposed.len());
    for line in exposed.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(keyword), Some(name), Some(rest)) if counters.contains(name) => {
                let _ = writeln!(text, "# {keyword} {name}_total {rest}");
            }
            _ => {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    text
}

#[derive(Debug)]
struct EdgeCollector {
    metrics: Arc<Metrics>,
    gauges: Gauges,
    view: Arc<View>,
}

impl Collector for EdgeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        let mut family =
            begin_family(&mut encoder, MetricType::Gauge, "build_info", "The version of this edge; the value is 1")?;
        ConstGauge::new(1_i64).encode(family.encode_family(&build)?)?;
        self.requests(&mut encoder)?;
        self.fetches(&mut encoder)?;
        let mut family = begin_family(
            &mut encoder,
            MetricType::Counter,
            "wrong_contents",
            "Bodies that failed verification against their digest, by upstream",
        )?;
        for asked in Asked::ALL {
            let count = ConstCounter::new(self.metrics.wrong_contents[asked as usize].total());
            count.encode(family.encode_family(&[("from", asked.name())])?)?;
        }
        self.memory(&mut encoder)?;
        self.members(&mut encoder)?;
        self.tls(&mut encoder)?;
        for (name, help, count) in [
            (
                "refused_connections",
                "Connections rejected because limits.connections was reached",
                self.metrics.refused_connections.total(),
            ),
            (
                "refused_client_connections",
                "Connections rejected because their client had reached limits.connections_per_client",
                self.metrics.refused_client_connections.total(),
            ),
            (
                "refused_client_requests",
                "Requests rejected because their client had reached limits.requests_per_client at the origin",
                self.metrics.refused_client_requests.total(),
            ),
            (
                "stalled_connections",
                "Connections closed because the client read nothing for limits.send_timeout, or read slower than limits.send_rate",
                self.metrics.stalled_connections.total(),
            ),
            (
                "flooded_connections",
                "HTTP/2 connections closed with ENHANCE_YOUR_CALM because limits.control_frames was exceeded",
                self.metrics.flooded_connections.total(),
            ),
            (
                "overflowed_invalidations",
                "Overflows of the list of invalidations for an unreachable peer; the peer then drops all unverified responses",
                self.metrics.overflowed_invalidations.total(),
            ),
            (
                "malformed_requests",
                "Connections closed because a request was malformed, or its head exceeded a limit",
                self.metrics.malformed_requests.total(),
            ),
            (
                "log_lines_lost",
                "Log lines dropped because the log could not be written fast enough",
                self.metrics.log_lines_lost(),
            ),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(begin_family(&mut encoder, MetricType::Counter, name, help)?)?;
        }
        Ok(())
    }
}

impl EdgeCollector {
    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = begin_family(
            encoder,
            MetricType::Counter,
            "requests",
            "Requests, by sender, cache result and status class",
        )?;
        for source in Source::ALL {
            for served in Served::ALL {
                for (class, count) in STATUSES.into_iter().zip(&self.metrics.requests[source as usize][served as usize])
                {
                    let labels = [("source", source.name()), ("result", served.name()), ("status", class)];
                    ConstCounter::new(count.total()).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let bytes = [
            ("received_bytes", "Bytes of request bodies, by sender", &self.metrics.received_bytes),
            ("sent_bytes", "Bytes of response bodies, by sender", &self.metrics.sent_bytes),
        ];
        for (name, help, counts) in bytes {
            let mut family = begin_family(encoder, MetricType::Counter, name, help)?;
            for source in Source::ALL {
                let count = ConstCounter::new(counts[source as usize].total());
                count.encode(family.encode_family(&[("source", source.name())])?)?;
            }
        }
        let mut family = begin_family(encoder, MetricType::Gauge, "open_connections", "Open connections, by listener")?;
        for source in Source::LISTENERS {
            let open = self.metrics.open_connections[source as usize].load(Ordering::Relaxed);
            let open = ConstGauge::new(i64::try_from(open).unwrap_or(i64::MAX));
            open.encode(family.encode_family(&[("source", source.name())])?)?;
        }
        let mut family = begin_family(
            encoder,
            MetricType::Histogram,
            "request_seconds",
            "Time from a request's head to the end of its response",
        )?;
        encode_histogram(&self.metrics.request_times, &mut family)
    }

    fn fetches(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = begin_family(
            encoder,
            MetricType::Counter,
            "fetches",
            "Requests to peers and to the origin, by upstream and outcome",
        )?;
        for asked in Asked::ALL {
            for fetched in Fetched::ALL {
                let labels = [("from", asked.name()), ("outcome", fetched.name())];
                let count = self.metrics.fetches[asked as usize][fetched as usize].total();
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family = begin_family(
            encoder,
            MetricType::Histogram,
            "fetch_seconds",
            "Time from the start of a fetch to its end, by upstream",
        )?;
        for asked in Asked::ALL {
            let labels = [("from", asked.name())];
            encode_histogram(&self.metrics.fetch_times[asked as usize], &mut family.encode_family(&labels)?)?;
        }
        let lookups = [
            ("takeovers", "Requests to peers that may have owned a key before, by outcome", &self.metrics.takeovers),
            ("peeks", "Requests that ask an owner for a response in its memory, by outcome", &self.metrics.peeks),
        ];
        for (name, help, counts) in lookups {
            let mut family = begin_family(encoder, MetricType::Counter, name, help)?;
            for outcome in PeerLookup::ALL {
                let count = ConstCounter::new(counts[outcome as usize].total());
                count.encode(family.encode_family(&[("outcome", outcome.name())])?)?;
            }
        }
        Ok(())
    }

    fn members(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = begin_family(
            encoder,
            MetricType::Gauge,
            "peer_up",
            "1 if the peer responded to the last request and is not down, else 0",
        )?;
        for (peer, up) in &self.gauges.peers {
            let labels = [("peer", &**peer)];
            ConstGauge::new(i64::from(*up)).encode(family.encode_family(&labels)?)?;
        }
        let mut family = begin_family(encoder, MetricType::Gauge, "members", "Members of the cluster, by state")?;
        for state in State::ALL {
            let count = self.view.members().iter().filter(|member| member.state == state).count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(family.encode_family(&[("state", state.name())])?)?;
        }
        let mut family =
            begin_family(encoder, MetricType::Counter, "refused_datagrams", "Gossip datagrams rejected, by reason")?;
        for reason in Refused::ALL {
            let count = ConstCounter::new(self.metrics.refused_datagrams[reason as usize].total());
            count.encode(family.encode_family(&[("reason", reason.name())])?)?;
        }
        let mut family = begin_family(
            encoder,
            MetricType::Counter,
            "opened_datagrams",
            "Gossip datagrams decrypted, by the position of the secret in cluster.secrets",
        )?;
        for (position, opened) in (1..).zip(&self.metrics.opened_datagrams) {
            // Unused positions are left out, but for the second, which a rotation watches.
            if position <= 2 || opened.total() > 0 {
                let label = [("secret", position)];
                ConstCounter::new(opened.total()).encode(family.encode_family(&label)?)?;
            }
        }
        let mut family = begin_family(
            encoder,
            MetricType::Counter,
            "discoveries",
            "Lookups of the member list (cluster.discover), by outcome",
        )?;
        for outcome in Fetched::ALL {
            let count = ConstCounter::new(self.metrics.discoveries[outcome as usize].total());
            count.encode(family.encode_family(&[("outcome", outcome.name())])?)?;
        }
        Ok(())
    }

    fn tls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.handshakes(encoder)?;
        let reports = Source::LISTENERS.map(|source| (source, self.metrics.certificates(source)));
        let mut family =
            begin_family(encoder, MetricType::Gauge, "tls_certificates", "Pairs of certificate and key, by state")?;
        for (source, Report { usable, rejected, .. }) in &reports {
            for (state, count) in [("usable", usable), ("rejected", rejected)] {
                let count = i64::try_from(*count).unwrap_or(i64::MAX);
                let labels = [("state", state), ("source", source.name())];
                ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family = begin_family(
            encoder,
            MetricType::Gauge,
            "tls_certificate_expiry_days",
            "Days until the certificate expires, of the 100 that expire first",
        )?;
        let now = SystemTime::now();
        for (source, Report { expiries, .. }) in &reports {
            for (name, not_after) in expiries {
                let seconds = not_after
                    .duration_since(now)
                    .map_or_else(|error| -error.duration().as_secs_f64(), |left| left.as_secs_f64());
                let labels = [("name", &**name), ("source", source.name())];
                ConstGauge::new(seconds / 86_400.0).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn handshakes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = begin_family(
            encoder,
            MetricType::Counter,
            "tls_handshakes",
            "TLS handshakes on listeners, by outcome and by the side that connected",
        )?;
        for source in Source::LISTENERS {
            for outcome in Handshake::ALL {
                let count = ConstCounter::new(self.metrics.handshakes[source as usize][outcome as usize].total());
                let labels = [("outcome", outcome.name()), ("source", source.name())];
                count.encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family = begin_family(
            encoder,
            MetricType::Histogram,
            "tls_handshake_seconds",
            "Time from an accepted connection to the end of its TLS handshake",
        )?;
        encode_histogram(&self.metrics.handshake_times, &mut family)?;
        let mut family = begin_family(
            encoder,
            MetricType::Counter,
            "peer_tls_dials",
            "TLS handshakes with peers that this edge dialled, by outcome",
        )?;
        for outcome in DialOutcome::ALL {
            let count = ConstCounter::new(self.metrics.dials(outcome));
            count.encode(family.encode_family(&[("outcome", outcome.name())])?)?;
        }
        let mut family = begin_family(
            encoder,
            MetricType::Counter,
            "ticket_exchanges",
            "Exchanges of session ticket secrets with peers, by outcome",
        )?;
        for outcome in Fetched::ALL {
            let count = ConstCounter::new(self.metrics.ticket_exchanges[outcome as usize].total());
            count.encode(family.encode_family(&[("outcome", outcome.name())])?)?;
        }
        Ok(())
    }

    fn memory(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let gauge = |count: u64| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        gauge(self.gauges.flights).encode(begin_family(encoder, MetricType::Gauge, "flights", "Fills in progress")?)?;
        let readers = begin_family(
            encoder,
            MetricType::Gauge,
            "flight_readers",
            "Requests that wait for a fill or read its body",
        )?;
        gauge(self.gauges.readers).encode(readers)?;
        gauge(self.gauges.memory_used).encode(begin_family(
            encoder,
            MetricType::Gauge,
            "memory_used_bytes",
            "Bytes of cache.memory in use: stored, in flight, or being read",
        )?)?;
        let lent =
            begin_family(encoder, MetricType::Counter, "lent_bytes", "Bytes of response bodies sent without a copy")?;
        ConstCounter::new(self.gauges.lent).encode(lent)?;
        let mut family = begin_family(
            encoder,
            MetricType::Gauge,
            "cache_bytes",
            "Bytes of memory that stored responses take, by tier",
        )?;
        for (tier, bytes, _, _) in &self.gauges.tiers {
            gauge(*bytes).encode(family.encode_family(&[("tier", *tier)])?)?;
        }
        let mut family = begin_family(encoder, MetricType::Gauge, "cache_objects", "Stored responses, by tier")?;
        for (tier, _, objects, _) in &self.gauges.tiers {
            gauge(*objects).encode(family.encode_family(&[("tier", *tier)])?)?;
        }
        let mut family = begin_family(
            encoder,
            MetricType::Counter,
            "evictions",
            "Stored responses evicted to free memory, by tier",
        )?;
        for (tier, _, _, evictions) in &self.gauges.tiers {
            ConstCounter::new(*evictions).encode(family.encode_family(&[("tier", *tier)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::membership::Membership;

    #[test]
    fn metric_names_and_labels_do_not_change() {
        let metrics = Arc::new(Metrics::default());
        metrics.request(Source::Client, Served::HotHit, 200, Duration::from_millis(3));
        metrics.request(Source::Peer, Served::Error, 502, Duration::ZERO);
        metrics.sent(Source::Client, 30);
        let _open = metrics.connected(Source::Client);
        drop(metrics.connected(Source::Client));
        metrics.fetch(Asked::Origin, Fetched::Ok, Duration::from_secs(20));
        let gauges = Gauges {
            flights: 2,
            readers: 5,
            tiers: vec![("main", 10, 1, 0), ("hot", 0, 0, 3)],
            memory_used: 10,
            lent: 65536,
            peers: vec![("b:1".into(), true)],
        };
        let view = Arc::clone(&Membership::new("a:1", ["a:1", "b:1"]).view());
        let text = exposition(&metrics, gauges, view);
        for line in [
            "peerage_build_info{version=\"0.1.0\"} 1",
            "peerage_requests_total{source=\"client\",result=\"hot_hit\",status=\"2xx\"} 1",
            "peerage_requests_total{source=\"peer\",result=\"stale\",status=\"2xx\"} 0",
            "peerage_requests_total{source=\"peer\",result=\"error\",status=\"5xx\"} 1",
            "peerage_sent_bytes_total{source=\"client\"} 30",
            "peerage_received_bytes_total{source=\"peer\"} 0",
            "peerage_open_connections{source=\"client\"} 1",
            "peerage_fetches_total{from=\"origin\",outcome=\"ok\"} 1",
            "peerage_flights 2",
            "peerage_flight_readers 5",
            "peerage_lent_bytes_total 65536",
            "peerage_cache_bytes{tier=\"main\"} 10",
            "peerage_cache_objects{tier=\"hot\"} 0",
            "peerage_evictions_total{tier=\"hot\"} 3",
            "peerage_peer_up{peer=\"b:1\"} 1",
            "peerage_members{state=\"alive\"} 2",
            "peerage_members{state=\"down\"} 0",
            "peerage_refused_datagrams_total{reason=\"version\"} 0",
            "peerage_refused_datagrams_total{reason=\"replay\"} 0",
            "peerage_opened_datagrams_total{secret=\"2\"} 0",
            "peerage_discoveries_total{outcome=\"error\"} 0",
            "peerage_request_seconds_bucket{le=\"0.0025\"} 1",
            "peerage_request_seconds_bucket{le=\"0.005\"} 2",
            "peerage_request_seconds_bucket{le=\"+Inf\"} 2",
            "peerage_fetch_seconds_count{from=\"origin\"} 1",
            "peerage_fetch_seconds_bucket{le=\"10.0\",from=\"origin\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
