//! [`Fields`]: the fields of a stored response, packed.
//!
//! As a map, the fields of a small asset take more room than the asset. But most
//! assets of a site have the same fields, and half of them with the same values.
//! That is their form, and there is one of it; what is a response's own is a
//! string of bytes. An answer's fields are made of both: as a map, or as the lines
//! of a head.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::{Buf, BufMut, Bytes};
use http::header::AGE;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::semantics::cache_status::CACHE_STATUS;

/// How many bytes the length of a value takes.
const LENGTH: usize = 4;

/// How many forms there are at a time that can be had in common.
const FORMS: usize = 1024;
/// How long the text of such a form may be, in bytes: it is counted nowhere.
const LONGEST: usize = 4 * 1024;

/// The fields of a stored response.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    form: &'a Form,
    own: &'a [u8],
}

/// The fields of a response that is to be stored.
pub(crate) struct Packed {
    pub(crate) form: Form,
    /// The values that are this response's own, in their order: each after its
    /// length, in four bytes.
    pub(crate) own: Vec<u8>,
}

/// What responses have in common.
#[derive(Clone)]
pub(crate) struct Form(Arc<Common>);

struct Common {
    /// With nothing where a response has a value of its own.
    headers: HeaderMap,
    lines: Lines,
    sharing: Sharing,
}

impl Common {
    fn new(headers: &HeaderMap, sharing: Sharing) -> Arc<Self> {
        let headers = in_common(headers);
        Arc::new(Self { lines: Lines::of(&headers), headers, sharing })
    }

    /// What it takes besides the text of its fields, in bytes.
    fn weight(&self) -> usize {
        let lines = self.lines.text.len() + size_of_val(&*self.lines.gaps);
        size_of::<Self>() + self.headers.iter().map(field_weight).sum::<usize>() + lines
    }
}

/// The lines of a head (RFC 9112 §5), with gaps.
struct Lines {
    text: Box<[u8]>,
    /// Where in the text, and for what.
    gaps: Box<[(usize, Gap)]>,
}

#[derive(Clone, Copy)]
enum Gap {
    /// A value that is the response's own.
    Own,
    /// What each answer makes anew.
    Age,
    CacheStatus,
}

impl Lines {
    /// Those of these fields, where a response has its own value for what is empty.
    fn of(headers: &HeaderMap) -> Self {
        let mut text =
            Vec::with_capacity(headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum());
        let mut gaps = Vec::new();
        for (name, value) in headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            let gap = match name {
                _ if value.is_empty() => Some(Gap::Own),
                name if *name == AGE => Some(Gap::Age),
                name if *name == CACHE_STATUS => Some(Gap::CacheStatus),
                _ => None,
            };
            match gap {
                Some(gap) => gaps.push((text.len(), gap)),
                None => text.extend_from_slice(value.as_bytes()),
            }
            text.extend_from_slice(b"\r\n");
        }
        Self { text: text.into(), gaps: gaps.into() }
    }
}

/// What each answer from what is stored makes anew.
pub(crate) struct Anew<'a> {
    /// Age, in seconds.
    pub(crate) age: u64,
    /// Cache-Status.
    pub(crate) status: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// It is listed, and there is one of it.
    Shared,
    /// It was too long for the list, or there was no room: one response has it.
    Single,
}

impl<'a> Fields<'a> {
    /// Those of a response of this form, with these values of its own.
    pub(crate) fn new(form: &'a Form, own: &'a [u8]) -> Self {
        Self { form, own }
    }

    /// All of them, in their order.
    pub(crate) fn unpack(self) -> HeaderMap {
        let mut headers = self.form.0.headers.clone();
        let mut own = Bytes::copy_from_slice(self.own);
        for place in headers.values_mut().filter(|value| value.is_empty()) {
            let length = usize::try_from(own.get_uint_le(LENGTH)).unwrap_or(usize::MAX);
            // The bytes were a valid value before.
            if let Ok(value) = HeaderValue::from_maybe_shared(own.split_to(length)) {
                *place = value;
            }
        }
        headers
    }

    /// Appends their lines to a head, in their order, with what `anew` has in the places
    /// that are kept for it.
    pub(crate) fn write(self, anew: &Anew<'_>, head: &mut Vec<u8>) {
        let Lines { text, gaps } = &self.form.0.lines;
        let (mut own, mut at) = (self.own, 0);
        for &(place, gap) in gaps {
            head.extend_from_slice(&text[at..place]);
            at = place;
            match gap {
                Gap::Own => {
                    let length = usize::try_from(own.get_uint_le(LENGTH)).unwrap_or(usize::MAX);
                    let (value, others) = own.split_at(length);
                    head.extend_from_slice(value);
                    own = others;
                }
                Gap::Age => head.extend_from_slice(itoa::Buffer::new().format(anew.age).as_bytes()),
                Gap::CacheStatus => head.extend_from_slice(anew.status.as_bytes()),
            }
        }
        head.extend_from_slice(&text[at..]);
    }
}

impl Packed {
    /// How much memory is this response's alone, in bytes.
    pub(crate) fn weight(&self) -> u64 {
        let form = match self.form.0.sharing {
            Sharing::Shared => 0,
            Sharing::Single => self.form.0.weight(),
        };
        (self.own.len() + form) as u64
    }
}

/// What a field takes in a map.
pub(crate) fn field_weight((name, value): (&HeaderName, &HeaderValue)) -> usize {
    // An entry's hash and links, beside its name and value; and its place in the
    // index.
    size_of::<HeaderName>() + size_of::<HeaderValue>() + 40 + name.as_str().len() + value.len()
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

/// The forms that responses can have in common.
#[derive(Default)]
pub(crate) struct Forms(Mutex<HashMap<Box<[u8]>, Weak<Common>>>);

impl Forms {
    /// Packs the fields of a response.
    pub(crate) fn pack(&self, headers: &HeaderMap) -> Packed {
        let own = headers.iter().filter(|(name, value)| is_own(name, value));
        let mut own = Vec::with_capacity(own.map(|(_, value)| LENGTH + value.len()).sum());
        let mut text =
            Vec::with_capacity(headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 2).sum());
        for (name, value) in headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.push(b':');
            if is_own(name, value) {
                own.put_uint_le(value.len() as u64, LENGTH);
                own.put_slice(value.as_bytes());
            } else {
                text.extend_from_slice(value.as_bytes());
            }
            text.push(b'\n');
        }
        Packed { form: Form(self.form(headers, text)), own }
    }

    /// The form that `text` writes out, of a response with these fields.
    fn form(&self, headers: &HeaderMap, text: Vec<u8>) -> Arc<Common> {
        if text.len() > LONGEST {
            return Common::new(headers, Sharing::Single);
        }
        let mut forms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(form) = forms.get(&*text).and_then(Weak::upgrade) {
            return form;
        }
        if forms.len() >= FORMS {
            forms.retain(|_, form| form.strong_count() > 0);
        }
        let sharing = if forms.len() < FORMS { Sharing::Shared } else { Sharing::Single };
        let form = Common::new(headers, sharing);
        if sharing == Sharing::Shared {
            forms.insert(text.into(), Arc::downgrade(&form));
        }
        form
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(String, String)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let (name, value) = (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            // There is one of each that every answer makes anew.
            if [AGE, CACHE_STATUS].contains(&name) {
                headers.insert(name, value);
            } else {
                headers.append(name, value);
            }
        }
        headers
    }

    fn lines(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
        headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
    }

    fn text(headers: &HeaderMap) -> String {
        lines(headers).iter().map(|(name, value)| format!("{name}: {}\r\n", String::from_utf8_lossy(value))).collect()
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_in_its_order(
            responses in proptest::collection::vec(
                proptest::collection::vec(
                    ("(age|cache-status|etag|via|date|vary|content-length|set-cookie|x-[a-c])", "[ -~]{0,12}"),
                    0..8,
                ),
                1..6,
            ),
        ) {
            let forms = Forms::default();
            let responses: Vec<_> = responses.iter().map(|lines| headers(lines)).collect();
            let packed: Vec<_> = responses.iter().map(|headers| forms.pack(headers)).collect();
            for (packed, response) in packed.iter().zip(&responses) {
                let fields = Fields::new(&packed.form, &packed.own);
                let mut unpacked = fields.unpack();
                prop_assert_eq!(lines(&unpacked), lines(response));
                let mut written = Vec::new();
                fields.write(&Anew { age: 7, status: "me;hit" }, &mut written);
                for (name, value) in [("age", "7"), ("cache-status", "me;hit")] {
                    if let Some(place) = unpacked.get_mut(name).filter(|place| !place.is_empty()) {
                        *place = HeaderValue::from_static(value);
                    }
                }
                prop_assert_eq!(String::from_utf8_lossy(&written), text(&unpacked));
            }
        }
    }

    fn asset(i: usize, kind: usize) -> HeaderMap {
        headers(&[
            ("etag".to_owned(), format!("\"{i}\"")),
            ("content-type".to_owned(), format!("kind/{kind}")),
            ("content-length".to_owned(), i.to_string()),
        ])
    }

    #[test]
    fn assets_of_a_kind_share_a_form_for_as_long_as_one_is_stored() {
        let forms = Forms::default();
        let stored: Vec<_> = (0..100).map(|i| forms.pack(&asset(i, i % 3))).collect();
        assert_eq!(forms.0.lock().unwrap().len(), 3);
        assert!(stored.iter().all(|fields| fields.weight() < 20));
        drop(stored);
        for kind in 0..FORMS + 10 {
            forms.pack(&asset(1, kind));
        }
        assert!(forms.0.lock().unwrap().len() <= FORMS);
    }

    #[test]
    fn a_flood_of_forms_is_not_listed_and_weighs_what_it_takes() {
        let forms = Forms::default();
        let stored: Vec<_> = (0..FORMS + 10).map(|kind| forms.pack(&asset(1, kind))).collect();
        assert_eq!(forms.0.lock().unwrap().len(), FORMS);
        let (shared, single) = stored.split_at(FORMS);
        assert!(shared.iter().all(|fields| fields.weight() < 20));
        assert!(single.iter().all(|fields| fields.weight() > 300));
        assert_eq!(lines(&Fields::new(&single[9].form, &single[9].own).unpack()), lines(&asset(1, FORMS + 9)));
        // There is room again when some are gone.
        drop(stored);
        assert!(forms.pack(&asset(1, 0)).weight() < 20);
    }
}
