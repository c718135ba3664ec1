//! [`Template`]: the headers and metadata that many responses share.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::header::AGE;
use http::{HeaderMap, HeaderName, HeaderValue};
use triomphe::Arc;

use super::values::{Kind, OwnValue};
use crate::semantics::cache_status::CACHE_STATUS;
use crate::store::budget::Budget;
use crate::store::metadata::{Metadata, Times};

/// The most shared templates.
const MOST: usize = 1024;
/// The longest key of a shared template in bytes; it is not charged to the budget.
const LONGEST: usize = 4 * 1024;

/// The headers and metadata that many responses share.
pub(crate) struct Template {
    /// With the default [times](Times).
    facts: Metadata,
    /// With empty values where each response has its own.
    headers: HeaderMap,
    lines: Lines,
    sharing: Sharing,
    /// The budget to which the entries are charged.
    budget: std::sync::Arc<Budget>,
}

/// The lines of a head (RFC 9112 §5), with gaps.
pub(super) struct Lines {
    pub(super) text: Box<[u8]>,
    /// The gaps, each after so many more bytes of the text.
    pub(super) gaps: Box<[(usize, Gap)]>,
}

#[derive(Clone, Copy)]
pub(super) enum Gap {
    /// A value of the entry.
    Value(Kind),
    /// Computed for each hit, like Cache-Status.
    Age,
    CacheStatus,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Listed, for any number of entries.
    Shared,
    /// Of one entry: the template was too long for the list, or the list was full.
    Single,
}

impl Template {
    /// Returns the metadata of a response with these times.
    pub(crate) fn facts(&self, times: Times) -> Metadata {
        self.facts.at(times)
    }

    /// Returns the budget to which the entries are charged.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(super) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Returns the memory in bytes that is charged to one entry.
    pub(super) fn weight(&self) -> usize {
        match self.sharing {
            Sharing::Shared => 0,
            Sharing::Single => {
                let lines = self.lines.text.len() + size_of_val(&*self.lines.gaps);
                size_of::<Self>() + self.headers.iter().map(field_weight).sum::<usize>() + lines
            }
        }
    }
}

impl Lines {
    /// The lines of `headers`, of a response with a body of `body` bytes.
    fn of(headers: &HeaderMap, body: u64) -> Self {
        let mut text =
            Vec::with_capacity(headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum());
        let (mut gaps, mut at) = (Vec::new(), 0);
        for (name, value) in headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            let gap = match name {
                _ if is_own(name, value) => Some(Gap::Value(OwnValue::of(name, value, body).kind())),
                name if *name == AGE => Some(Gap::Age),
                name if *name == CACHE_STATUS => Some(Gap::CacheStatus),
                _ => None,
            };
            match gap {
                Some(gap) => {
                    gaps.push((text.len() - at, gap));
                    at = text.len();
                }
                None => text.extend_from_slice(value.as_bytes()),
            }
            text.extend_from_slice(b"\r\n");
        }
        Self { text: text.into(), gaps: gaps.into() }
    }

    /// Returns the kinds of the values that each entry has itself.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.gaps.iter().filter_map(|&(_, gap)| match gap {
            Gap::Value(kind) => Some(kind),
            Gap::Age | Gap::CacheStatus => None,
        })
    }
}

/// Returns true if a value is kept in the entry, not in the template, where an empty value stands
/// for it.
fn is_own(name: &HeaderName, value: &HeaderValue) -> bool {
    value.is_empty() || !is_shared(name)
}

/// Returns true if responses share the values of this header. Each distinct value of a header in
/// this list makes another template, so only headers with few values belong here. Of all others,
/// each entry has a copy.
fn is_shared(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "accept-ranges"
            | "access-control-allow-origin"
            | "age"
            | "cache-control"
            | "cache-status"
            | "content-encoding"
            | "content-language"
            | "content-security-policy"
            | "content-type"
            | "server"
            | "strict-transport-security"
            | "vary"
            | "via"
            | "x-content-type-options"
    )
}

/// Returns the headers of a template, with empty values where each entry has its own.
fn shared_headers(headers: &HeaderMap) -> HeaderMap {
    let mut shared = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        // A copy: the template outlives the buffer of the response.
        let value = if is_own(name, value) { &[][..] } else { value.as_bytes() };
        let value = HeaderValue::from_bytes(value).expect("the bytes were a header value before");
        shared.append(name.clone(), value);
    }
    shared
}

/// The head of a response, to be stored.
pub(crate) struct PackedHead {
    pub(crate) template: Arc<Template>,
    pub(crate) times: Times,
    /// The packed values of this entry, in their order.
    pub(crate) values: Vec<u8>,
}

impl PackedHead {
    /// Returns the memory in bytes that is charged to this entry.
    pub(crate) fn weight(&self) -> u64 {
        (self.values.len() + self.template.weight()) as u64
    }
}

/// Returns the memory in bytes that a header takes in a map.
pub(crate) fn field_weight((name, value): (&HeaderName, &HeaderValue)) -> usize {
    // The name and value, the hash and links of the map's entry, and its slot in the index.
    size_of::<HeaderName>() + size_of::<HeaderValue>() + 40 + name.as_str().len() + value.len()
}

/// The shared templates, by their metadata and their text.
pub(crate) struct Templates {
    /// Templates without an entry are removed when the list is full.
    listed: Mutex<HashMap<Listed, Arc<Template>>>,
    budget: std::sync::Arc<Budget>,
}

type Listed = (Metadata, Box<[u8]>);

impl Templates {
    /// `budget` is charged for the entries.
    pub(crate) fn new(budget: std::sync::Arc<Budget>) -> Self {
        Self { listed: Mutex::default(), budget }
    }

    /// Packs the head of a response with a body of `body` bytes.
    pub(crate) fn pack(&self, facts: Metadata, headers: &HeaderMap, body: u64) -> PackedHead {
        let (mut text, mut values) = (Vec::new(), Vec::new());
        for (name, value) in headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.push(b':');
            if is_own(name, value) {
                let own = OwnValue::of(name, value, body);
                own.pack(&mut values);
                // A control character, so the text differs from that of any shared value.
                text.push(own.kind() as u8);
            } else {
                text.extend_from_slice(value.as_bytes());
            }
            text.push(b'\n');
        }
        let template = self.template(facts.at(Times::default()), text.into(), headers, body);
        PackedHead { template, times: facts.times(), values }
    }

    /// Returns the template of these metadata and `text`, its key, or makes it from the headers
    /// of a response.
    fn template(&self, facts: Metadata, text: Box<[u8]>, headers: &HeaderMap, body: u64) -> Arc<Template> {
        let template = |sharing| {
            let (lines, budget) = (Lines::of(headers, body), std::sync::Arc::clone(&self.budget));
            Arc::new(Template { facts, headers: shared_headers(headers), lines, sharing, budget })
        };
        if text.len() > LONGEST {
            return template(Sharing::Single);
        }
        let key = (facts, text);
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(template) = listed.get(&key) {
            return Arc::clone(template);
        }
        if listed.len() >= MOST {
            listed.retain(|_, template| !template.is_unique());
        }
        if listed.len() >= MOST {
            return template(Sharing::Single);
        }
        let template = template(Sharing::Shared);
        listed.insert(key, Arc::clone(&template));
        template
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::semantics::freshness::{Lifetime, Terms};
    use crate::store::headers::PackedHeaders;
    use crate::store::headers::tests::{facts, headers, lines, templates};

    fn asset(i: usize, kind: usize) -> HeaderMap {
        headers(&[
            ("etag".to_owned(), format!("\"{i}\"")),
            ("content-type".to_owned(), format!("kind/{kind}")),
            ("content-length".to_owned(), i.to_string()),
        ])
    }

    #[test]
    fn assets_with_equal_headers_share_a_template_while_one_is_stored() {
        let templates = templates();
        let stored: Vec<_> = (0..100).map(|i| templates.pack(facts(), &asset(i, i % 3), 1 << 20)).collect();
        assert_eq!(templates.listed.lock().unwrap().len(), 3);
        assert!(stored.iter().all(|head| head.weight() < 20));
        drop(stored);
        for kind in 0..MOST + 10 {
            templates.pack(facts(), &asset(1, kind), 1 << 20);
        }
        assert!(templates.listed.lock().unwrap().len() <= MOST);
    }

    #[test]
    fn metadata_are_unpacked_and_share_a_template_if_only_their_times_differ() {
        let templates = templates();
        let later = Metadata { born: facts().born + Duration::from_secs(5), ..facts() };
        let missing = Metadata { status: StatusCode::NOT_FOUND, ..later };
        let of_another_template =
            Metadata { lifetime: Lifetime::For(Terms::only(Duration::from_millis(1500))), ..later };
        let all = [facts(), later, missing, of_another_template];
        let packed = all.map(|facts| templates.pack(facts, &HeaderMap::new(), 1));
        let facts = |packed: &PackedHead| PackedHeaders::new(&packed.template, packed.times, &packed.values, 1).facts();
        assert_eq!(packed.each_ref().map(facts), all);
        assert_eq!(templates.listed.lock().unwrap().len(), 3);
    }

    #[test]
    fn templates_beyond_the_limit_are_not_listed_and_are_charged() {
        let templates = templates();
        let stored: Vec<_> = (0..MOST + 10).map(|kind| templates.pack(facts(), &asset(1, kind), 1 << 20)).collect();
        assert_eq!(templates.listed.lock().unwrap().len(), MOST);
        let (shared, single) = stored.split_at(MOST);
        assert!(shared.iter().all(|head| head.weight() < 20));
        assert!(single.iter().all(|head| head.weight() > 300));
        assert_eq!(
            lines(&PackedHeaders::new(&single[9].template, single[9].times, &single[9].values, 1 << 20).unpack()),
            lines(&asset(1, MOST + 9))
        );
        // Unused templates make room.
        drop(stored);
        assert!(templates.pack(facts(), &asset(1, 0), 1 << 20).weight() < 20);
    }
}
