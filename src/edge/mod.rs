//! [`Edge`]: the only place that decides how a request is answered.
//!
//! `respond` follows the path of a request: store, flight, pass. [`coalesce`] leads or follows a
//! flight. [`fill`] fetches an asset: [`fetch`] sends the requests, [`admission`] decides by the
//! head of the response, [`ingest`] receives the body. [`mod@respond`] builds the response, and
//! [`mod@pass`] forwards requests that share none. [`fast_hit`] is a shortcut for hits, and
//! [`peek`] looks into the store of the owner.

mod admission;
mod cache;
mod classify;
mod coalesce;
mod fast_hit;
mod fast_peek;
mod fetch;
mod fill;
mod filler;
mod forwarding;
mod handoff;
mod hedge;
mod hedge_budget;
mod ingest;
mod invalidate;
mod key_list;
mod landing;
mod lookup;
mod missed_purges;
mod multipart;
mod order;
mod parts;
mod pass;
mod peek;
mod peering;
mod policy;
mod probe;
mod probe_length;
mod quota;
mod rank;
mod request;
pub(crate) mod request_class;
mod respond;
mod resume;
mod revalidate;
mod select;
mod serve;
mod settings;
mod upgrade;
mod verify;
mod warm;

pub(crate) use fast_hit::{FastRequest, NotFastHit};
pub(crate) use fast_peek::Peeked;
pub(crate) use forwarding::Forwarding;
pub use parts::Edge;
pub(crate) use parts::Parts;
pub(crate) use policy::{Limits, Policy, Writes};
