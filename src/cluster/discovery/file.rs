//! Members in a file: a `host:port` on each line, and comments from `#` on.
//!
//! It should be written under another name and renamed: then nobody reads half of
//! it. A missing final newline means that the file may be half written.

use std::path::Path;

use tokio::io::AsyncReadExt;

use super::{is_address, not_an_address};

/// A larger file is taken for a mistake; 10,000 members have room in it.
const LARGEST: u64 = 1024 * 1024;

/// Who the file at `path` names.
///
/// # Errors
/// Why it cannot be read, or which line of it is bad.
pub(super) async fn read(path: &Path) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("it cannot be read: {error}");
    // Opening a pipe would wait for whoever writes to it.
    if !tokio::fs::metadata(path).await.map_err(failed)?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("it is larger than {LARGEST} bytes"));
    }
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        format!("line {line} is not UTF-8 text")
    })?;
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        if !is_address(entry) {
            return Err(format!("line {number}: {}", not_an_address(entry)));
        }
        entries.push(entry.to_owned());
    }
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(format!(
            "line {} has no end: the file is being written, or lacks its last newline",
            text.lines().count()
        ));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines() {
        let good = "# edges\n\n10.0.0.5:7001\r\n  [::1]:7001  # the sixth\nedge.example.net:7001\n";
        assert_eq!(parse(good.as_bytes()).unwrap(), ["10.0.0.5:7001", "[::1]:7001", "edge.example.net:7001"]);
        assert_eq!(parse(b"").unwrap(), [""; 0]);
        for (text, told) in [
            (&b"10.0.0.5:7001\n\n10.0.0.6\n"[..], "line 3: `10.0.0.6`"),
            (b"10.0.0.5:7001\n10.0.0.6:70", "line 2 has no end"),
            (b"10.0.0.5:7001\n\xff:1\n", "line 2 is not UTF-8"),
            (b"a:1 b:1\n", "line 1: `a:1 b:1`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_no_file_or_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).await.unwrap_err().contains("not a file"));
        let path = folder.path().join("peers");
        assert!(read(&path).await.unwrap_err().contains("cannot be read"));
        let most = usize::try_from(LARGEST).unwrap();
        std::fs::write(&path, "#".repeat(most) + "\n").unwrap();
        assert!(read(&path).await.unwrap_err().contains("larger"));
        std::fs::write(&path, "#".repeat(most - 1) + "\n").unwrap();
        assert_eq!(read(&path).await.unwrap(), [""; 0]);
    }

    proptest! {
        /// Whatever part of a file is there, no entry comes of it that was not in it.
        #[test]
        fn a_torn_file_makes_up_nobody(ports in prop::collection::vec(1u16.., 1..5), at in 0usize..100) {
            let lines: String = ports.iter().map(|port| format!("edge:{port}\n")).collect();
            let whole = parse(lines.as_bytes()).unwrap();
            let torn = &lines.as_bytes()[..at.min(lines.len())];
            if let Ok(entries) = parse(torn) {
                prop_assert!(whole.starts_with(&entries));
            }
        }
    }
}
