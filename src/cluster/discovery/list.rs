//! The checks of a list of members, wherever it comes from.

use std::collections::BTreeSet;

use crate::cluster::is_address;

/// The most members of a list; a longer list is rejected as a mistake.
pub(super) const MAX_MEMBERS: usize = 10_000;

/// Sorts a list and removes duplicates.
///
/// # Errors
/// The list is empty, longer than [`MAX_MEMBERS`], or has an entry that is not an address.
pub(super) fn checked(found: impl IntoIterator<Item = String>) -> Result<Vec<String>, String> {
    let list: BTreeSet<_> = found.into_iter().collect();
    if list.is_empty() {
        return Err("the list is empty".to_owned());
    }
    if list.len() > MAX_MEMBERS {
        return Err(format!("the list has {} members (at most {MAX_MEMBERS} are allowed)", list.len()));
    }
    if let Some(bad) = list.iter().find(|entry| !is_address(entry)) {
        return Err(not_an_address(bad));
    }
    Ok(list.into_iter().collect())
}

/// Returns the error for an invalid entry. The entry is shortened and escaped, because it comes
/// from outside and goes to the log.
pub(super) fn not_an_address(entry: &str) -> String {
    let shown: String = entry.chars().take(80).collect();
    format!("`{}` is not an address (expected `host:port`, such as `10.0.0.5:7001`)", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("10.0.{}.{}:7001", i / 250, i % 250)).collect()
    }

    #[test]
    fn a_list_is_sorted_and_has_no_duplicates() {
        let found = ["b:1", "a:1", "b:1"].map(str::to_owned);
        assert_eq!(checked(found), Ok(vec!["a:1".to_owned(), "b:1".to_owned()]));
        assert_eq!(checked(entries(MAX_MEMBERS)).map(|list| list.len()), Ok(MAX_MEMBERS));
        assert!(checked(entries(MAX_MEMBERS + 1)).unwrap_err().contains("10001"));
        assert!(checked(Vec::new()).unwrap_err().contains("empty"));
        let error = checked(["a:1".to_owned(), "b\n:1".to_owned()]).unwrap_err();
        assert!(error.contains("`b\\n:1`"), "{error}");
    }

    proptest! {
        #[test]
        fn no_entry_panics(text in ".{0,30}") {
            let _ = checked([text]);
        }
    }
}
