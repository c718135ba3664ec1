//! File names that build tools and frameworks derive from a hash of the contents.
//!
//! Such a hash cannot be verified, so a name counts only if it clearly has the format of a
//! tool. Digits alone, dates, UUIDs and words never count as a hash: a missed name costs a
//! validation, a false match serves a stale file.
//!
//! | hash | tools |
//! |---|---|
//! | 8 to 128 hexadecimal digits of a common length | webpack, Parcel, Next.js, Rails, Django, Hugo, Phoenix, Laravel Mix, older Vite and Angular |
//! | 8 characters of base64url | Vite, Rollup, Nuxt, `SvelteKit`, Laravel Vite |
//! | 8 characters of upper-case base32 | esbuild, Angular |

use super::date::is_day;

/// Lengths of hexadecimal hashes: whole digests, or cut by the tools. 24 is excluded because
/// it is the length of `MongoDB` object identifiers.
const HEX_LENGTHS: [usize; 10] = [8, 10, 12, 16, 20, 32, 40, 64, 96, 128];
/// Length of a hash in base64url or base32.
const SHORT: usize = 8;
/// Length of a hexadecimal hash that is the whole file name; only webpack writes these.
const WEBPACK: usize = 20;

/// Words that tools put between the hash and the extension.
const MARKS: [&str; 12] =
    ["async", "bundle", "chunk", "client", "css", "es5", "iframe", "js", "legacy", "min", "module", "worker"];

/// Folders in which frameworks put files that are named by a hash alone.
const FOLDERS: [&str; 4] = ["/_next/static/", "/_nuxt/", "/_app/immutable/", "/_astro/"];

/// Lengths of the first four groups of a UUID; a `-` separates them and the last group.
const UUID_GROUPS: [usize; 4] = [8, 4, 4, 4];

/// Returns the hash in the name of the file at `path` (canonical, without a query).
pub(super) fn hash_in(path: &str) -> Option<&str> {
    let (folder, file) = path.rsplit_once('/')?;
    let stem = stem(file)?;
    let separated = [hex_tail(stem), short_tail(stem)].into_iter().flatten();
    separated.into_iter().next().or_else(|| bare(folder, stem))
}

/// Returns the name without its extension and the marks before it: `main.0a1b2c3d` of
/// `main.0a1b2c3d.chunk.js`. `None` without an extension.
fn stem(file: &str) -> Option<&str> {
    let (mut stem, _) = file.rsplit_once('.')?;
    while let Some((rest, mark)) = stem.rsplit_once('.')
        && MARKS.contains(&mark)
        && !rest.is_empty()
    {
        stem = rest;
    }
    Some(stem)
}

/// Returns a hexadecimal hash after the last `-` or `.`.
fn hex_tail(stem: &str) -> Option<&str> {
    let (name, hash) = stem.rsplit_once(['-', '.'])?;
    let uuid = is_uuid_head(name) && hash.len() == 12;
    (!name.is_empty() && !uuid && is_hex_hash(hash)).then_some(hash)
}

/// Returns a short hash after `-` or `.`. The hash itself may contain `-`.
fn short_tail(stem: &str) -> Option<&str> {
    let (name, hash) = stem.split_at_checked(stem.len().checked_sub(SHORT)?)?;
    let name = name.strip_suffix(['-', '.'])?;
    (!name.is_empty() && is_short_hash(hash)).then_some(hash)
}

/// Returns a hash that is the whole file name.
fn bare<'a>(folder: &str, stem: &'a str) -> Option<&'a str> {
    let inside = |framework: &&str| format!("{folder}/").contains(*framework);
    let known = FOLDERS.iter().any(inside) && (is_hex_hash(stem) || stem.len() == SHORT && is_short_hash(stem));
    (known || stem.len() == WEBPACK && is_hex_hash(stem)).then_some(stem)
}

/// Returns true if `text` is a hexadecimal hash: a common length, digits and letters of one
/// case, and neither a date nor a UUID.
fn is_hex_hash(text: &str) -> bool {
    let bytes = text.as_bytes();
    if !HEX_LENGTHS.contains(&bytes.len()) {
        return false;
    }
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    let all_of = |letters: fn(&u8) -> bool| bytes.iter().all(|byte| byte.is_ascii_digit() || letters(byte));
    let hex = all_of(|byte| matches!(byte, b'a'..=b'f')) || all_of(|byte| matches!(byte, b'A'..=b'F'));
    // `1700000e` is a number followed by a letter: a version or an identifier.
    let letter_at_end = !bytes[0].is_ascii_digit() || !bytes[bytes.len() - 1].is_ascii_digit();
    let mixed = digits > 0 && digits < bytes.len() && !(bytes.len() - digits == 1 && letter_at_end);
    hex && mixed && !is_day(&bytes[..8]) && !is_uuid(bytes)
}

/// Returns true for 32 digits of a UUID without its hyphens: version 1, 4 or 7, and the
/// variant of RFC 9562 §4.
fn is_uuid(hex: &[u8]) -> bool {
    hex.len() == 32
        && matches!(hex[12], b'1' | b'4' | b'7')
        && matches!(hex[16], b'8' | b'9' | b'a' | b'b' | b'A' | b'B')
}

/// Returns true if `name` ends with the first four groups of a UUID.
fn is_uuid_head(name: &str) -> bool {
    let mut groups = name.rsplit('-');
    UUID_GROUPS.iter().rev().enumerate().all(|(place, &length)| {
        groups.next().is_some_and(|group| {
            // A prefix may precede the first group.
            let group = group.as_bytes();
            let fits = if place == 3 { group.len() >= length } else { group.len() == length };
            fits && group[group.len().saturating_sub(length)..].iter().all(u8::is_ascii_hexdigit)
        })
    })
}

/// Returns true if eight characters are a hash in base64url or upper-case base32, and do not
/// look like words and numbers.
fn is_short_hash(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7')) && has_digit_before_letter(bytes) {
        return true;
    }
    let (upper, lower) = (bytes.iter().any(u8::is_ascii_uppercase), bytes.iter().any(u8::is_ascii_lowercase));
    let separated = bytes.iter().any(|byte| matches!(byte, b'-' | b'_'));
    let alphabet = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    alphabet && upper && (lower || !separated) && token_count(bytes) >= 4
}

fn has_digit_before_letter(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair[0].is_ascii_digit() && pair[1].is_ascii_alphabetic())
}

/// Counts the words, acronyms, numbers and separators of a text: three in `iPhone15`, four in
/// `BxYz12Ab`.
fn token_count(bytes: &[u8]) -> usize {
    let class = |byte: u8| match byte {
        b'A'..=b'Z' => 0,
        b'a'..=b'z' => 1,
        b'0'..=b'9' => 2,
        _ => 3,
    };
    let mut count = 1;
    for (at, pair) in bytes.windows(2).enumerate() {
        let begins = match (class(pair[0]), class(pair[1])) {
            // A capital belongs to the word that it starts. The last capital of an acronym does,
            // too.
            (0, 1) => at > 0 && bytes[at - 1].is_ascii_uppercase(),
            (before, after) => before != after,
        };
        count += usize::from(begins);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the documentation of each tool, or generated by its format.
    const HASHED: &[(&str, &str)] = &[
        // Vite, Rollup, Laravel
        ("/assets/index-BxYz12Ab.js", "BxYz12Ab"),
        ("/assets/shared-B7PI925R.js", "B7PI925R"),
        ("/assets/shared-ChJ_j-JJ.css", "ChJ_j-JJ"),
        ("/assets/baz-B2H3sXNv.js", "B2H3sXNv"),
        ("/assets/bar-gkvgaI9m.js", "gkvgaI9m"),
        ("/assets/foo-BRBmoGS9.js", "BRBmoGS9"),
        ("/assets/foo-5UjPuW-k.css", "5UjPuW-k"),
        ("/assets/photo-4Vk7kP-_.webp", "4Vk7kP-_"),
        ("/assets/index-BxYz12Ab.js.map", "BxYz12Ab"),
        ("/build/assets/app-4ed993c7.js", "4ed993c7"),
        ("/build/assets/app-CrG75o6_.css", "CrG75o6_"),
        ("/assets/polyfills-legacy-D1f7Kx2a.js", "D1f7Kx2a"),
        ("/assets/index.5f3b2c1d.css", "5f3b2c1d"),
        // esbuild, Angular
        ("/dist/entryPoint-HQQ4DA4O.js", "HQQ4DA4O"),
        ("/main-2BKPVJZC.js", "2BKPVJZC"),
        ("/chunk-LPC2OUDJ.js", "LPC2OUDJ"),
        ("/styles-5INURTSO.css", "5INURTSO"),
        ("/main.0a1b2c3d4e5f6071.js", "0a1b2c3d4e5f6071"),
        ("/runtime.1f2e3d4c5b6a79880123.js", "1f2e3d4c5b6a79880123"),
        // webpack, Create React App, Gatsby, Docusaurus
        ("/static/js/main.8e0d62a0.js", "8e0d62a0"),
        ("/static/js/2.5c6f0b1e.chunk.js", "5c6f0b1e"),
        ("/static/css/main.a1b2c3d4.chunk.css", "a1b2c3d4"),
        ("/static/media/logo.6ce24c58.svg", "6ce24c58"),
        ("/vendors.4cc4326ec7b1f4a2d3c0.js", "4cc4326ec7b1f4a2d3c0"),
        ("/8a7b6c5d4e3f2a1b0c9d.png", "8a7b6c5d4e3f2a1b0c9d"),
        ("/app-0b5fd0e5a1b2c3d4e5f6.js", "0b5fd0e5a1b2c3d4e5f6"),
        ("/component---src-pages-index-js-1234567890abcdef1234.js", "1234567890abcdef1234"),
        ("/assets/js/runtime~main.0f1e2d3c.js", "0f1e2d3c"),
        ("/js/chunk-vendors.b7f5a6c1.js", "b7f5a6c1"),
        ("/main.0a1b2c3d.iframe.bundle.js", "0a1b2c3d"),
        // Parcel
        ("/index.e31bb0bc.css", "e31bb0bc"),
        ("/logo.2a9c4d1f.png", "2a9c4d1f"),
        // Next.js
        ("/_next/static/chunks/main-0d1e2f3a4b5c6d7e.js", "0d1e2f3a4b5c6d7e"),
        ("/_next/static/chunks/pages/_app-2f3a4b5c6d7e8f90.js", "2f3a4b5c6d7e8f90"),
        ("/_next/static/css/6e2f8a1b3c4d5e6f.css", "6e2f8a1b3c4d5e6f"),
        ("/_next/static/media/inter.0f1e2d3c.woff2", "0f1e2d3c"),
        ("/docs/_next/static/chunks/0a1b2c3d4e5f6071.js", "0a1b2c3d4e5f6071"),
        // Nuxt, SvelteKit, Astro
        ("/_nuxt/BxYz12Ab.js", "BxYz12Ab"),
        ("/_nuxt/entry.D8kQ3v_z.css", "D8kQ3v_z"),
        ("/_nuxt/entry.0b1c2d3e.js", "0b1c2d3e"),
        ("/_app/immutable/chunks/C7xQp2Lm.js", "C7xQp2Lm"),
        ("/_app/immutable/nodes/0.BxYz12Ab.js", "BxYz12Ab"),
        ("/_app/immutable/entry/start.Dq3Lk9_v.js", "Dq3Lk9_v"),
        ("/_astro/hoisted.Bq7Zp4Wd.js", "Bq7Zp4Wd"),
        // Rails, Django, Hugo, Phoenix, Laravel Mix
        ("/assets/application-5d41402a.css", "5d41402a"),
        (
            "/assets/application-908e25f4bf641868d8683022a5b62f54b2d8e2f9a7c1d3e5f7091b2d4f6a8c0e.js",
            "908e25f4bf641868d8683022a5b62f54b2d8e2f9a7c1d3e5f7091b2d4f6a8c0e",
        ),
        ("/static/css/base.27e20196a850.css", "27e20196a850"),
        ("/static/admin/js/jquery.min.7e89f2a3b1c0.js", "7e89f2a3b1c0"),
        (
            "/css/style.min.1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90a.css",
            "1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90a",
        ),
        ("/assets/app-eb0a5b9302e8d32828d8a73f137cc8f0.js", "eb0a5b9302e8d32828d8a73f137cc8f0"),
        ("/assets/vendor-0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f.js", "0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f"),
        ("/fonts/icons.4f2a9b1c.WOFF2", "4f2a9b1c"),
        ("/img/logo-0A1B2C3D.png", "0A1B2C3D"),
    ];

    const NOT_HASHED: &[&str] = &[
        // UUIDs
        "/img/550e8400-e29b-41d4-a716-446655440000.png",
        "/img/550e8400-e29b-41d4-a716-4466554400ab.png",
        "/u/avatar-6ba7b810-9dad-11d1-80b4-00c04fd430c8.jpg",
        "/u/F47AC10B-58CC-4372-A567-0E02B2C3D479.png",
        "/u/avatar-f47ac10b58cc4372a5670e02b2c3d479.jpg",
        "/u/avatar-018f4d3c2b1a7c3d8e5f0a1b2c3d4e5f.jpg",
        // digits, dates, times
        "/logo-0492830483.png",
        "/invoice-10000001.png",
        "/report-1700000000.css",
        "/seg-00000001.js",
        "/photo-20240131.jpg",
        "/photo-20240131a5.jpg",
        "/photo-20240131ab.jpg",
        "/photo-20240131235959.jpg",
        "/shot-2024-01-31-12.30.59.png",
        "/clip-12345678.90123456.png",
        "/backup.1700000000000.map",
        "/v1.20.300.js",
        "/icon-1700000e.png",
        // words and versions
        "/app-settings.js",
        "/logo-download.png",
        "/logo-Download.png",
        "/logo-DOWNLOAD.png",
        "/main-VERSION2.js",
        "/icon-iPhone15.png",
        "/icon-MyWidget.svg",
        "/icon-OnOffBtn.svg",
        "/icon-Q3Report.png",
        "/icon-MP3Audio.png",
        "/icon-H264Code.png",
        "/icon-Top10New.png",
        "/shot-e2e-test.png",
        "/shot-my-v2-ui.png",
        "/shot-up-to-me.png",
        "/photo-IMG_1234.jpg",
        "/photo-DSC_0001.jpg",
        "/page-deadbeef.js",
        "/page-facade.js",
        "/page-cafebabe.png",
        "/jquery-3.7.1.min.js",
        "/bootstrap.bundle.min.js",
        "/app.js",
        "/app.min.js",
        "/.js",
        "/a-.js",
        // identifiers
        "/avatars/507f1f77bcf86cd799439011.png",
        "/avatars/user-507f1f77bcf86cd799439011.png",
        "/avatar/205e460b479e2e5b48aec07710c08d50.png",
        "/img/BxYz12Ab.png",
        "/img/dQw4w9WgXcQ.jpg",
        "/img/x-0a1b2c3.png",
        "/img/x-0a1b2c3d4.png",
        "/0a1b2c3d/app.js",
        "/app-BxYz12Ab",
        "/app_BxYz12Ab.js",
        "/appBxYz12Ab.js",
    ];

    #[test]
    fn build_tool_names_have_a_hash_and_others_do_not() {
        for (path, hash) in HASHED {
            assert_eq!(hash_in(path), Some(*hash), "{path}");
        }
        for path in NOT_HASHED {
            assert_eq!(hash_in(path), None, "{path}");
        }
        assert!(HASHED.len() + NOT_HASHED.len() >= 80);
    }

    #[test]
    fn most_hashes_of_each_alphabet_are_recognized() {
        // A linear congruential generator: the same names in each run.
        let mut state = 7_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % below
        };
        for (alphabet, length, least) in [
            ("0123456789abcdef", 8, 900),
            ("0123456789abcdef", 16, 980),
            ("0123456789abcdef", 64, 999),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", 8, 650),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 8, 650),
        ] {
            let mut name =
                || (0..length).map(|_| alphabet.as_bytes()[random(alphabet.len())] as char).collect::<String>();
            let found = (0..1000).filter(|_| hash_in(&format!("/assets/index-{}.js", name())).is_some()).count();
            assert!(found >= least, "{found} of 1000 names in {alphabet}");
        }
    }
}
