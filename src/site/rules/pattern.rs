//! Patterns of rules, compiled to regular expressions over canonical paths.

use regex::Regex;

use crate::key::{canonical_path, refuse_dot_segments};

/// Compiles a pattern. `hash` is the regular expression for `{hash}`.
///
/// # Errors
/// A text that names the pattern, the reason why it matches no path, and the correction.
pub(super) fn compile(pattern: &str, hash: &str) -> Result<Regex, String> {
    let Some(path) = pattern.strip_prefix('/') else {
        return Err(format!(
            "`{pattern}` does not start with `/`; a pattern covers the whole path, such as `/**/*.png`"
        ));
    };
    let segments = path.split('/').map(|text| segment(text, hash)).collect::<Result<Vec<_>, _>>()?;
    reject_unmatchable(path).map_err(|error| format!("`{pattern}` matches no path: {error}"))?;
    let mut source = String::from("^/");
    for (i, segment) in segments.iter().enumerate() {
        let last = i + 1 == segments.len();
        match segment {
            Segment::Any if last => source.push_str(".*"),
            Segment::Any => source.push_str("(?:[^/]+/)*"),
            Segment::Matching(text) => {
                source.push_str(text);
                if !last {
                    source.push('/');
                }
            }
        }
    }
    source.push('$');
    Regex::new(&source).map_err(|_| format!("`{pattern}` is too large"))
}

/// Rejects a pattern with text that no canonical path contains: the edge rejects requests
/// with such a path, or stores them under another name.
fn reject_unmatchable(path: &str) -> Result<(), String> {
    if path.contains('?') {
        return Err(
            "it contains `?`, but rules match paths without queries; remove the `?` and the text after it".to_owned()
        );
    }
    if refuse_dot_segments(path).is_err() {
        return Err("requests with a `.` or `..` segment are rejected; remove the segment".to_owned());
    }
    for text in path.replace("{hash}", "*").split(['*', '/']) {
        match canonical_path(text) {
            Ok(canonical) if canonical == text => {}
            Ok(canonical) => {
                return Err(format!("paths are matched in canonical form; write `{canonical}` for `{text}`"));
            }
            Err(_) => {
                return Err(format!(
                    "`{text}` has a malformed escape; `%` and two hexadecimal digits are needed, not 00"
                ));
            }
        }
    }
    Ok(())
}

/// A segment of a pattern.
enum Segment {
    /// `**`: any number of whole segments.
    Any,
    /// A regular expression for one segment.
    Matching(String),
}

/// Compiles one segment of a pattern.
fn segment(text: &str, hash: &str) -> Result<Segment, String> {
    if text == "**" {
        return Ok(Segment::Any);
    }
    if text.contains("**") {
        return Err(format!(
            "`{text}`: `**` matches whole segments; write it as a segment without other text, as in `/a/**`"
        ));
    }
    let mut source = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("{hash}") {
            // Greedy, while a `*` before it is lazy: the hash is the longest possible run.
            source.push_str(hash);
            rest = after;
            continue;
        }
        match next {
            '*' => source.push_str("[^/]*?"),
            '{' | '}' => return Err(format!("`{text}`: `{{hash}}` is the only text allowed in braces")),
            other => source.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
        rest = &rest[next.len_utf8()..];
    }
    Ok(Segment::Matching(source))
}

#[cfg(test)]
mod tests {
    use super::super::{Keep, QueryRule, Rule};

    #[test]
    fn patterns_that_match_no_canonical_path_are_rejected() {
        for (pattern, reason) in [
            ("/x/?x", "queries"),
            ("/x/?", "queries"),
            ("/x/../y", "remove"),
            ("/./y", "remove"),
            ("/y/.", "remove"),
            ("/y%2F..%5Cz", "remove"),
            ("/a#b", "`a%23b`"),
            ("/a b", "`a%20b`"),
            ("/\u{fc}/*", "`%C3%BC`"),
            ("/a\\b", "`a%5Cb`"),
            ("/a%2fb", "`a%2Fb`"),
            ("/%61", "`a`"),
            ("/%2E%2E/a", "`..`"),
            ("/a%", "malformed"),
            ("/a%4", "malformed"),
            ("/a%4*", "malformed"),
            ("/a%zz", "malformed"),
            ("/a%00", "malformed"),
        ] {
            for error in [
                Rule::parse(&format!("{pattern}/{{hash}}")).unwrap_err(),
                QueryRule::parse(pattern, Keep::None).unwrap_err(),
            ] {
                assert!(error.contains("matches no path") && error.contains(reason), "{pattern}: {error}");
            }
        }
        for pattern in ["/", "/**", "//a", "/a/", "/.a/*.", "/...", "/.*", "/a%2Fb", "/%20/~a!$&'()+,;=:@", "/*%C3%BC*"]
        {
            assert!(QueryRule::parse(pattern, Keep::None).is_ok(), "{pattern}");
            assert!(Rule::parse(&format!("{pattern}/{{hash}}")).is_ok(), "{pattern}");
        }
    }
}
