//! Encodes metric families in the format of the `prometheus_client` crate.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::counters::{BOUNDS, Counter, Histogram};

/// Writes the descriptor of a metric family; its samples follow.
pub(super) fn begin_family<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    kind: MetricType,
    name: &'a str,
    help: &'a str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, kind)
}

/// Writes the samples of a histogram, in seconds.
pub(super) fn encode_histogram(histogram: &Histogram, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
    let counts = histogram.buckets.each_ref().map(Counter::total);
    let buckets: Vec<_> = BOUNDS.into_iter().zip(counts).collect();
    let sum = Duration::from_nanos(histogram.nanos.total()).as_secs_f64();
    encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
}
