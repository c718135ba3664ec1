//! [`Template`]: what responses have in common, once for all of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::header::AGE;
use http::{HeaderMap, HeaderName, HeaderValue};
use triomphe::Arc;

use super::values::{Kind, Own};
use super::{Packed, field_weight};
use crate::semantics::cache_status::CACHE_STATUS;
use crate::store::budget::Budget;
use crate::store::metadata::{Metadata, Times};

/// How many forms there are at a time that can be had in common.
const FORMS: usize = 1024;
/// How long the text of such a form may be, in bytes: it is counted nowhere.
const LONGEST: usize = 4 * 1024;

/// What responses have in common.
pub(crate) struct Template {
    /// At no times.
    facts: Metadata,
    /// With nothing where a response has a value of its own.
    headers: HeaderMap,
    lines: Lines,
    sharing: Sharing,
    /// What they are charged to.
    budget: std::sync::Arc<Budget>,
}

/// The lines of a head (RFC 9112 §5), with gaps.
pub(super) struct Lines {
    pub(super) text: Box<[u8]>,
    /// How much of the text is before each, behind the one before; and for what it is.
    pub(super) gaps: Box<[(usize, Gap)]>,
}

#[derive(Clone, Copy)]
pub(super) enum Gap {
    /// A value that is the response's own.
    Own(Kind),
    /// What each answer makes anew.
    Age,
    CacheStatus,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// It is listed, and there is one of it.
    Shared,
    /// It was too long for the list, or there was no room: one response has it.
    Single,
}

impl Template {
    /// The facts of a response that has these times.
    pub(crate) fn facts(&self, times: Times) -> Metadata {
        self.facts.at(times)
    }

    /// What responses of this form are charged to.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(super) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// What it takes that is one response's alone, in bytes.
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
    /// Those of these fields, of a response whose body has so many bytes.
    fn of(headers: &HeaderMap, body: u64) -> Self {
        let mut text =
            Vec::with_capacity(headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum());
        let (mut gaps, mut at) = (Vec::new(), 0);
        for (name, value) in headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            let gap = match name {
                _ if is_own(name, value) => Some(Gap::Own(Own::of(name, value, body).kind())),
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

    /// The kinds of the values that are the response's own.
    pub(super) fn own(&self) -> impl Iterator<Item = Kind> {
        self.gaps.iter().filter_map(|&(_, gap)| match gap {
            Gap::Own(kind) => Some(kind),
            Gap::Age | Gap::CacheStatus => None,
        })
    }
}

/// Whether a value is written with the response, and not with its form: nothing is
/// what stands there for it.
fn is_own(name: &HeaderName, value: &HeaderValue) -> bool {
    value.is_empty() || !is_common(name)
}

/// Whether responses share the values of this field: list only fields with few distinct
/// values. Each new value of a field that is listed makes another form; of one that is
/// not, each response has a copy of its own.
fn is_common(name: &HeaderName) -> bool {
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

/// What a form has of these fields: with nothing where a response has its own.
fn in_common(headers: &HeaderMap) -> HeaderMap {
    let mut common = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        // In memory of its own: it outlives the response that it came with.
        let value = if is_own(name, value) { &[][..] } else { value.as_bytes() };
        // The bytes were a valid value before.
        if let Ok(value) = HeaderValue::from_bytes(value) {
            common.append(name.clone(), value);
        }
    }
    common
}

/// The forms that responses can have in common, by their facts and their text.
pub(crate) struct Templates {
    /// Those of which there is no response any more go when there is no room.
    listed: Mutex<HashMap<Listed, Arc<Template>>>,
    budget: std::sync::Arc<Budget>,
}

type Listed = (Metadata, Box<[u8]>);

impl Templates {
    /// Those of responses that are charged to `budget`.
    pub(crate) fn new(budget: std::sync::Arc<Budget>) -> Self {
        Self { listed: Mutex::default(), budget }
    }

    /// Packs the head of a response whose body has so many bytes.
    pub(crate) fn pack(&self, facts: Metadata, headers: &HeaderMap, body: u64) -> Packed {
        let (mut text, mut packed, times) = (Vec::new(), Vec::new(), facts.times());
        times.fresh.pack(&mut packed);
        for (name, value) in headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.push(b':');
            if is_own(name, value) {
                let own = Own::of(name, value, body);
                own.pack(&mut packed);
                // No value that responses have in common begins with such a byte.
                text.push(own.kind() as u8);
            } else {
                text.extend_from_slice(value.as_bytes());
            }
            text.push(b'\n');
        }
        let form = self.form(facts.at(Times::default()), text.into(), headers, body);
        Packed { form, born: times.born, own: packed }
    }

    /// The form with these facts that `text` writes out, of a response with these fields.
    fn form(&self, facts: Metadata, text: Box<[u8]>, headers: &HeaderMap, body: u64) -> Arc<Template> {
        let form = |sharing| {
            let (lines, budget) = (Lines::of(headers, body), std::sync::Arc::clone(&self.budget));
            Arc::new(Template { facts, headers: in_common(headers), lines, sharing, budget })
        };
        if text.len() > LONGEST {
            return form(Sharing::Single);
        }
        let key = (facts, text);
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(form) = listed.get(&key) {
            return Arc::clone(form);
        }
        if listed.len() >= FORMS {
            listed.retain(|_, form| !form.is_unique());
        }
        if listed.len() >= FORMS {
            return form(Sharing::Single);
        }
        let form = form(Sharing::Shared);
        listed.insert(key, Arc::clone(&form));
        form
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::super::Fields;
    use super::super::tests::{facts, forms, headers, lines};
    use super::*;
    use crate::semantics::freshness::{Lifetime, Terms};

    fn asset(i: usize, kind: usize) -> HeaderMap {
        headers(&[
            ("etag".to_owned(), format!("\"{i}\"")),
            ("content-type".to_owned(), format!("kind/{kind}")),
            ("content-length".to_owned(), i.to_string()),
        ])
    }

    #[test]
    fn assets_of_a_kind_share_a_form_for_as_long_as_one_is_stored() {
        let forms = forms();
        let stored: Vec<_> = (0..100).map(|i| forms.pack(facts(), &asset(i, i % 3), 1 << 20)).collect();
        assert_eq!(forms.listed.lock().unwrap().len(), 3);
        assert!(stored.iter().all(|fields| fields.weight() < 20));
        drop(stored);
        for kind in 0..FORMS + 10 {
            forms.pack(facts(), &asset(1, kind), 1 << 20);
        }
        assert!(forms.listed.lock().unwrap().len() <= FORMS);
    }

    #[test]
    fn facts_come_back_and_differ_within_a_form_in_their_times_alone() {
        let forms = forms();
        let later = Metadata { born: facts().born + Duration::from_secs(5), ..facts() };
        let missing = Metadata { status: StatusCode::NOT_FOUND, ..later };
        let of_another = Metadata { lifetime: Lifetime::For(Terms::only(Duration::from_millis(1500))), ..later };
        let all = [facts(), later, missing, of_another];
        let packed = all.map(|facts| forms.pack(facts, &HeaderMap::new(), 1));
        let facts = |packed: &Packed| Fields::new(&packed.form, packed.born, &packed.own, 1).facts();
        assert_eq!(packed.each_ref().map(facts), all);
        assert_eq!(forms.listed.lock().unwrap().len(), 3);
    }

    #[test]
    fn a_flood_of_forms_is_not_listed_and_weighs_what_it_takes() {
        let forms = forms();
        let stored: Vec<_> = (0..FORMS + 10).map(|kind| forms.pack(facts(), &asset(1, kind), 1 << 20)).collect();
        assert_eq!(forms.listed.lock().unwrap().len(), FORMS);
        let (shared, single) = stored.split_at(FORMS);
        assert!(shared.iter().all(|fields| fields.weight() < 20));
        assert!(single.iter().all(|fields| fields.weight() > 300));
        assert_eq!(
            lines(&Fields::new(&single[9].form, single[9].born, &single[9].own, 1 << 20).unpack()),
            lines(&asset(1, FORMS + 9))
        );
        // There is room again when some are gone.
        drop(stored);
        assert!(forms.pack(facts(), &asset(1, 0), 1 << 20).weight() < 20);
    }
}
