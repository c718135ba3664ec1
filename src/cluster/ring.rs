//! [`Ring`]: the placement of keys on members.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each member has a score for each key, and
//! the member with the highest score owns it. When a member leaves, only its own keys move, and
//! all members agree on the successor of each key.
//!
//! The mapping is a contract between edges: [`PLACEMENT_VERSION`] names it, and the golden tests
//! below verify it.

use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The version of the mapping of keys to members. Edges of different versions must not share a
/// ring.
pub const PLACEMENT_VERSION: u64 = 2;

/// The members among which keys are divided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ring {
    members: Vec<Member>,
}

/// A member of a [`Ring`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    name: Arc<str>,
    hash: u64,
}

impl Member {
    /// Returns the address at which peers reach the member, which is its name on the ring (not
    /// `edge.name`).
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns XXH3-64 of 16 bytes: the member's hash and the key's, little-endian.
    fn score(&self, key: u64) -> u64 {
        let mut input = [0; 16];
        input[..8].copy_from_slice(&self.hash.to_le_bytes());
        input[8..].copy_from_slice(&key.to_le_bytes());
        xxh3_64(&input)
    }
}

impl Ring {
    /// Creates a ring of `names`, in any order; repeated names count once.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let member =
            |name: &str| Member { name: name.into(), hash: xxh3_64_with_seed(name.as_bytes(), PLACEMENT_VERSION) };
        let mut members: Vec<Member> = names.into_iter().map(member).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members.dedup_by(|a, b| a.name == b.name);
        Self { members }
    }

    /// Returns the members, sorted by name.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the owner of the key with this hash; `None` if the ring is empty.
    pub fn owner(&self, key: u64) -> Option<&Member> {
        // On equal scores the lesser name wins: max_by_key returns the last of equals.
        self.members.iter().rev().max_by_key(|member| member.score(key))
    }

    /// Returns all members in order of rank: the owner, then its successors.
    pub fn rank(&self, key: u64) -> Vec<&Member> {
        let mut ranked: Vec<_> = self.members.iter().map(|member| (member.score(key), member)).collect();
        ranked.sort_by(|(a, first), (b, second)| b.cmp(a).then_with(|| first.name.cmp(&second.name)));
        ranked.into_iter().map(|(_, member)| member).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::AssetKey;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("10.0.{}.{}:7001", i / 250, i % 250)).collect()
    }

    fn ring(names: &[String]) -> Ring {
        Ring::new(names.iter().map(String::as_str))
    }

    /// If this fails, edges of the last release and of this one would disagree about owners:
    /// raise `PLACEMENT_VERSION` and note it in CHANGELOG.md.
    #[test]
    fn golden() {
        let ring = Ring::new(["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]);
        let golden: Vec<(&str, u64, Vec<u16>)> =
            ["/logo-0492830483.png", "/app-0123456789abcdef.js", "/a%20b?x=1", "/%C3%A9", "/"]
                .into_iter()
                .map(|path| {
                    let key = AssetKey::parse(path, 100).unwrap();
                    let ports = ring
                        .rank(key.hash())
                        .iter()
                        .map(|m| m.name().rsplit(':').next().unwrap().parse().unwrap())
                        .collect();
                    (path, key.hash(), ports)
                })
                .collect();
        assert_eq!(golden, GOLDEN.iter().map(|(p, h, r)| (*p, *h, r.to_vec())).collect::<Vec<_>>());
    }

    /// Also computed with another implementation of XXH3 (Python's xxhash).
    const GOLDEN: [(&str, u64, [u16; 3]); 5] = [
        ("/logo-0492830483.png", 4_066_462_615_984_853_891, [7002, 7001, 7003]),
        ("/app-0123456789abcdef.js", 455_223_968_627_598_101, [7003, 7002, 7001]),
        ("/a%20b?x=1", 5_184_832_646_565_806_345, [7001, 7002, 7003]),
        ("/%C3%A9", 12_553_559_175_940_250_423, [7001, 7003, 7002]),
        ("/", 4_247_977_479_205_130_253, [7002, 7001, 7003]),
    ];

    #[test]
    fn shares_are_even() {
        for members in [3, 100] {
            let ring = ring(&names(members));
            let keys = 1000 * members;
            let mut owned = std::collections::HashMap::<_, usize>::new();
            for key in 0..keys {
                let hash = xxh3_64(&(key as u64).to_le_bytes());
                *owned.entry(Arc::clone(ring.owner(hash).unwrap().name())).or_default() += 1;
            }
            assert_eq!(owned.len(), members);
            // 1000 keys each: three standard deviations are below 10 %, five below 16 %.
            assert!(owned.values().all(|&count| (840..=1160).contains(&count)), "{owned:?}");
        }
    }

    proptest! {
        #[test]
        fn the_order_of_names_does_not_matter(mut list in proptest::collection::vec("[a-z]{1,8}:[0-9]{1,4}", 0..20), key: u64) {
            let one = ring(&list);
            list.reverse();
            let other = ring(&list);
            prop_assert_eq!(one.rank(key), other.rank(key));
            prop_assert_eq!(one.owner(key), other.rank(key).first().copied());
        }

        #[test]
        fn a_member_that_leaves_moves_only_its_own_keys(count in 2usize..30, leaves in any::<prop::sample::Index>(), key: u64) {
            let mut list = names(count);
            let before = ring(&list);
            let left = list.remove(leaves.index(count));
            let after = ring(&list);
            let expected: Vec<_> = before.rank(key).into_iter().filter(|member| **member.name() != *left).collect();
            prop_assert_eq!(after.rank(key), expected);
        }
    }
}
