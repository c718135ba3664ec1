//! Members in a file: one `host:port` on each line, with comments after `#`.
//!
//! The file should be written under another name and renamed, so that an edge never reads half of
//! it. A file without a final newline is rejected, because it may be half written.

use std::path::Path;

use tokio::io::AsyncReadExt;

use super::list::not_an_address;
use crate::cluster::is_address;

/// The largest file in bytes; it has room for 10,000 members. A larger one is rejected as a
/// mistake.
const MAX_SIZE: u64 = 1024 * 1024;

/// Reads the members in the file at `path`.
///
/// # Errors
/// Returns why the file cannot be read, or which line is invalid.
pub(super) async fn read(path: &Path) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("cannot read the file: {error}");
    // Opening a named pipe would wait for a writer.
    if !tokio::fs::metadata(path).await.map_err(failed)?.is_file() {
        return Err("not a regular file".to_owned());
    }
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(format!("the file is larger than {MAX_SIZE} bytes"));
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
            "line {} has no newline: the file is being written, or lacks its final newline",
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
    fn lines_are_parsed_and_bad_ones_named() {
        let good = "# edges\n\n10.0.0.5:7001\r\n  [::1]:7001  # the sixth\nedge.example.net:7001\n";
        assert_eq!(parse(good.as_bytes()).unwrap(), ["10.0.0.5:7001", "[::1]:7001", "edge.example.net:7001"]);
        assert_eq!(parse(b"").unwrap(), [""; 0]);
        for (text, part) in [
            (&b"10.0.0.5:7001\n\n10.0.0.6\n"[..], "line 3: `10.0.0.6`"),
            (b"10.0.0.5:7001\n10.0.0.6:70", "line 2 has no newline"),
            (b"10.0.0.5:7001\n\xff:1\n", "line 2 is not UTF-8"),
            (b"a:1 b:1\n", "line 1: `a:1 b:1`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[tokio::test]
    async fn a_folder_a_missing_file_and_a_large_file_are_rejected() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).await.unwrap_err().contains("not a regular file"));
        let path = folder.path().join("peers");
        assert!(read(&path).await.unwrap_err().contains("cannot read"));
        let max = usize::try_from(MAX_SIZE).unwrap();
        std::fs::write(&path, "#".repeat(max) + "\n").unwrap();
        assert!(read(&path).await.unwrap_err().contains("larger"));
        std::fs::write(&path, "#".repeat(max - 1) + "\n").unwrap();
        assert_eq!(read(&path).await.unwrap(), [""; 0]);
    }

    proptest! {
        #[test]
        fn a_truncated_file_yields_no_entry_that_was_not_in_it(ports in prop::collection::vec(1u16.., 1..5), at in 0usize..100) {
            let lines: String = ports.iter().map(|port| format!("edge:{port}\n")).collect();
            let whole = parse(lines.as_bytes()).unwrap();
            let truncated = &lines.as_bytes()[..at.min(lines.len())];
            if let Ok(entries) = parse(truncated) {
                prop_assert!(whole.starts_with(&entries));
            }
        }
    }
}
