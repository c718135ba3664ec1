//! [`Edge`]: the only place that decides how a request is answered.
//!
//! An edge is composed of parts ([`mod@parts`]), and a function takes the parts that it uses. Each
//! file imports only files of the lines before its own, or to the left of it:
//!
//! - settings: [`forwarding`], [`policies`], [`settings`]
//! - requests: [`request_class`], [`request`], [`classify`], [`order`]
//! - parts: [`memory`], [`peering`] with [`probe`] and [`hedge`], [`quota`], [`fetch`] (requests to
//!   upstreams), [`invalidate`] (purges), [`filler`]
//! - a fill: [`rank`] (the peers to ask), [`verify`], [`landing`] (into the store), [`revalidate`],
//!   [`resume`], [`ingest`] (receives a body), [`admission`] (decides by the head of a response),
//!   [`handoff`] (asks previous owners), [`fill`] (asks the sources in order), [`peek`] (looks into
//!   the store of the owner)
//! - [`parts`]: the edge itself
//! - a response: [`select`], [`mod@respond`], [`https`]
//! - the path of a request: [`sharing`], [`coalesce`] (leads or follows a flight), [`mod@pass`]
//!   (forwards a request that shares none), [`lookup`] (looks into the store and decides between the
//!   two), [`serve`] (the entry); [`fast_hit`] and [`fast_peek`] are shortcuts for plain requests

mod admission;
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
mod https;
mod ingest;
mod invalidate;
mod key_list;
mod landing;
mod lookup;
mod memory;
mod missed_purges;
mod multipart;
mod order;
mod parts;
mod pass;
mod peek;
mod peering;
mod policies;
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
mod sharing;
mod upgrade;
mod verify;
mod warm;

pub(crate) use fast_hit::{FastRequest, NotFastHit};
pub(crate) use fast_peek::Peeked;
pub(crate) use forwarding::{Forwarding, Remote, Requester};
pub use parts::Edge;
pub(crate) use parts::Parts;
pub(crate) use policies::Policies;
pub(crate) use request::Answer;
pub(crate) use settings::Limits;
