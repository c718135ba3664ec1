use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn parse(lines: &[&str]) -> CacheControl {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(CACHE_CONTROL, HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    CacheControl::of(&headers)
}

#[test]
fn directives_are_parsed_in_every_spelling() {
    let seconds = |n| Some(Duration::from_secs(n));
    assert_eq!(parse(&["max-age=60"]).max_age, seconds(60));
    assert_eq!(
        parse(&["Max-Age=\"60\" , PUBLIC"]),
        CacheControl { max_age: seconds(60), public: true, ..CacheControl::default() }
    );
    assert_eq!(parse(&["max-age=60", "max-age=30"]).max_age, seconds(30));
    assert_eq!(parse(&["max-age=-1"]).max_age, seconds(0));
    assert_eq!(parse(&["max-age=1.5"]).max_age, seconds(0));
    assert_eq!(parse(&["max-age"]).max_age, seconds(0));
    assert_eq!(parse(&["max-age=99999999999999999999999"]).max_age, seconds(MAX_DELTA));
    assert!(parse(&["ext=\"a, no-store\""]) == CacheControl::default());
    assert!(parse(&["ext=\"a\\\", no-store\", no-store"]).no_store);
    assert!(parse(&["ext=\"a, no-store"]).no_store);
    assert_eq!(parse(&["xmax-age=5"]).max_age, None);
}

#[test]
fn headers_listed_by_private_and_no_cache_are_withheld() {
    for (line, expected) in [
        ("private=\"Set-Cookie\"", &["set-cookie"][..]),
        (",, no-cache=\"x , y,\", s-maxage=5", &["x", "y"]),
        ("Private=x, NO-CACHE=y", &["x", "y"]),
    ] {
        let control = parse(&[line]);
        assert!(!control.private && !control.no_cache, "{line}");
        let headers = crate::semantics::tests::headers(&[("cache-control", line)]);
        assert_eq!(withheld(&headers), expected, "{line}");
    }
    let headers = crate::semantics::tests::headers(&[("proxy-authenticate", "Basic"), ("proxy-status", "a")]);
    assert_eq!(withheld(&headers), ["proxy-authenticate"]);
    // These are not lists of headers.
    for line in [
        "private",
        "private=\"x, vary\"",
        "private=content-length",
        "private=\"\"",
        "private=\"a b\"",
        "private=, x=1",
        "private=\"x\", private",
    ] {
        assert!(parse(&[line]).private, "{line}");
    }
    assert!(parse(&["no-cache=\"\""]).no_cache);
}

#[test]
fn well_formed_cdn_cache_control_takes_precedence() {
    let both = |targeted: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
        headers.insert(CDN_CACHE_CONTROL, HeaderValue::from_bytes(targeted.as_bytes()).unwrap());
        CacheControl::of(&headers)
    };
    let seconds = |n| Some(Duration::from_secs(n));
    assert_eq!(both("max-age=60").max_age, seconds(60));
    assert!(both("max-age=60").targeted);
    assert_eq!(both("max-age=60;ext=1, no-cache").max_age, seconds(60));
    assert!(both("no-store").no_store && !both("no-store=?0").no_store);
    assert_eq!(both("no-store").max_age, None);
    assert_eq!(both("max-age=-1").max_age, seconds(0));
    assert_eq!(both("max-age=\"60\"").max_age, seconds(0));
    for malformed in ["", "max-age = 60", "max-age=60,", "Max-Age=60", "&&&"] {
        assert_eq!(both(malformed).max_age, seconds(5), "{malformed}");
    }
}

#[test]
fn request_directives_are_parsed() {
    let of = |name: &'static str, line: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        RequestControl::of(&headers)
    };
    let none = RequestControl::default();
    let seconds = |n| Some(Duration::from_secs(n));
    for (line, expected) in [
        ("no-cache", RequestControl { no_cache: true, ..none }),
        ("NO-STORE, only-if-cached", RequestControl { no_store: true, only_if_cached: true, ..none }),
        ("max-age=5, max-age=3", RequestControl { max_age: seconds(3), ..none }),
        ("max-age=x", RequestControl { max_age: seconds(0), ..none }),
        ("max-stale", RequestControl { max_stale: seconds(MAX_DELTA), ..none }),
        ("max-stale=7", RequestControl { max_stale: seconds(7), ..none }),
        ("max-stale=x", RequestControl { max_stale: seconds(0), ..none }),
        ("min-fresh=7", RequestControl { min_fresh: seconds(7), ..none }),
        ("min-fresh=x", RequestControl { min_fresh: seconds(MAX_DELTA), ..none }),
    ] {
        assert_eq!(of("cache-control", line), expected, "{line}");
    }
    assert!(of("pragma", "no-cache").no_cache);
    assert!(of("if-match", "\"a\"").no_cache);
    assert!(of("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT").no_cache);
    let mut headers = HeaderMap::new();
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
    assert!(!RequestControl::of(&headers).no_cache);
}

/// Writes a directive: its name in lower or upper case, its argument bare or quoted.
fn written(name: &str, seconds: Option<u64>, style: usize) -> String {
    let name = if style & 1 == 0 { name.to_owned() } else { name.to_ascii_uppercase() };
    match seconds {
        None => name,
        Some(seconds) if style & 2 == 0 => format!("{name}={seconds}"),
        Some(seconds) => format!("{name}=\"{seconds}\""),
    }
}

proptest! {
    #[test]
    fn generated_directives_are_parsed_as_written(
        flags in any::<[bool; 8]>(),
        times in any::<[Option<u32>; 4]>(),
        style in 0usize..4,
        separator in "( |\t)?,( |\t|, ,)?",
    ) {
        let names = [
            "no-store", "no-cache", "private", "public", "must-understand", "must-revalidate",
            "proxy-revalidate", "immutable",
        ];
        let timed = ["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"];
        let seconds = times.map(|time| time.map(u64::from));
        let mut members: Vec<_> =
            names.iter().zip(flags).filter(|(_, set)| *set).map(|(name, _)| written(name, None, style)).collect();
        members.extend(
            timed.iter().zip(seconds).filter_map(|(name, seconds)| Some(written(name, Some(seconds?), style))),
        );
        let delta = |seconds: Option<u64>| seconds.map(|seconds| Duration::from_secs(seconds.min(MAX_DELTA)));
        let [no_store, no_cache, private, public, must_understand, must_revalidate, proxy_revalidate, immutable] =
            flags;
        let [max_age, s_maxage, stale_while_revalidate, stale_if_error] = seconds.map(delta);
        let expected = CacheControl {
            no_store, no_cache, private, public, must_understand, must_revalidate, proxy_revalidate, immutable,
            max_age, s_maxage, stale_while_revalidate, stale_if_error, targeted: false,
        };
        prop_assert_eq!(parse(&[&members.join(&separator)]), expected);
        prop_assert_eq!(parse(&members.iter().map(String::as_str).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn any_header_value_is_parsed_without_a_panic(line in "[ -~]{0,80}") {
        if let Ok(value) = HeaderValue::from_str(&line) {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, value.clone());
            headers.insert(CDN_CACHE_CONTROL, value);
            let (_, _, _) = (CacheControl::of(&headers), RequestControl::of(&headers), withheld(&headers));
        }
    }

    #[test]
    fn any_bytes_are_split_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = directives(&line).count();
    }
}
