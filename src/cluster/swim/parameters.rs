//! [`Parameters`]: the timing of SWIM and the rule of admission.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use super::wire::PAYLOAD;
use crate::cluster::membership::Admission;

/// The number of members that get each update at a time from each member that knows it.
const FANOUT: usize = 3;
/// The number of times that a member sends each update: enough for thousands of members.
const MAX_TRANSMISSIONS: u8 = 12;
/// The time for which the tombstone of a member is remembered.
const TOMBSTONE_TTL: Duration = Duration::from_hours(1);

/// The timing of SWIM and the rule of admission.
#[derive(Debug, Clone)]
pub(crate) struct Parameters {
    /// The time between two probes by one member.
    pub(crate) probe_interval: Duration,
    /// The wait for the response to a probe before other members are asked to probe.
    pub(crate) probe_timeout: Duration,
    /// The time in which a suspected member must refute the suspicion.
    pub(crate) suspicion: Duration,
    /// The rule by which members are admitted.
    pub(crate) admission: Admission,
}

/// Returns foca's configuration. foca's own periodic announcements stay off: they do not reach
/// members that were never met.
pub(super) fn foca_config(parameters: &Parameters) -> foca::Config {
    let nonzero = |number| NonZeroUsize::new(number).expect("the constants are not zero");
    foca::Config {
        probe_period: parameters.probe_interval,
        probe_rtt: parameters.probe_timeout,
        num_indirect_probes: nonzero(FANOUT),
        max_transmissions: NonZeroU8::new(MAX_TRANSMISSIONS).expect("the constant is not zero"),
        suspect_to_down_after: parameters.suspicion,
        remove_down_after: Some(TOMBSTONE_TTL),
        max_packet_size: nonzero(PAYLOAD),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(foca::PeriodicParams {
            frequency: parameters.probe_timeout,
            num_members: nonzero(FANOUT),
        }),
    }
}
