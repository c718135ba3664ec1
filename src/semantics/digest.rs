//! Hash functions, and the text forms of digests in names. The headers that carry digests are in
//! [`digest_fields`](super::digest_fields).

use std::borrow::Cow;
use std::fmt;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use xxhash_rust::xxh3::Xxh3Default;

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Algorithm {
    Sha256,
    Sha512,
    Sha224,
    #[cfg(feature = "digests")]
    Sha1,
    #[cfg(feature = "digests")]
    Md5,
    #[cfg(feature = "digests")]
    Blake3,
    /// XXH3-64, as 8 bytes in big-endian order.
    Xxh3,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: &[Self] = &[
        Self::Sha256,
        Self::Sha512,
        Self::Sha224,
        #[cfg(feature = "digests")]
        Self::Sha1,
        #[cfg(feature = "digests")]
        Self::Md5,
        #[cfg(feature = "digests")]
        Self::Blake3,
        Self::Xxh3,
    ];

    /// Returns the name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Sha224 => "sha224",
            #[cfg(feature = "digests")]
            Self::Sha1 => "sha1",
            #[cfg(feature = "digests")]
            Self::Md5 => "md5",
            #[cfg(feature = "digests")]
            Self::Blake3 => "blake3",
            Self::Xxh3 => "xxh3",
        }
    }

    /// Returns the length of a digest, in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha512 => 64,
            Self::Sha256 => 32,
            #[cfg(feature = "digests")]
            Self::Blake3 => 32,
            Self::Sha224 => 28,
            #[cfg(feature = "digests")]
            Self::Sha1 => 20,
            #[cfg(feature = "digests")]
            Self::Md5 => 16,
            Self::Xxh3 => 8,
        }
    }

    /// Returns a new incremental computation.
    pub fn hashing(self) -> Hashing {
        Hashing(match self {
            Self::Sha256 => HashState::Sha256(sha2::Sha256::new()),
            Self::Sha512 => HashState::Sha512(Box::new(sha2::Sha512::new())),
            Self::Sha224 => HashState::Sha224(sha2::Sha224::new()),
            #[cfg(feature = "digests")]
            Self::Sha1 => HashState::Sha1(sha1::Sha1::new()),
            #[cfg(feature = "digests")]
            Self::Md5 => HashState::Md5(md5::Md5::new()),
            #[cfg(feature = "digests")]
            Self::Blake3 => HashState::Blake3(Box::new(blake3::Hasher::new())),
            Self::Xxh3 => HashState::Xxh3(Box::new(Xxh3Default::new())),
        })
    }
}

/// An incremental computation of a digest.
#[derive(Clone)]
pub struct Hashing(HashState);

#[derive(Clone)]
enum HashState {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
    Sha224(sha2::Sha224),
    #[cfg(feature = "digests")]
    Sha1(sha1::Sha1),
    #[cfg(feature = "digests")]
    Md5(md5::Md5),
    #[cfg(feature = "digests")]
    Blake3(Box<blake3::Hasher>),
    Xxh3(Box<Xxh3Default>),
}

impl Hashing {
    /// Adds the next bytes of the contents.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            HashState::Sha256(state) => state.update(data),
            HashState::Sha512(state) => state.update(data),
            HashState::Sha224(state) => state.update(data),
            #[cfg(feature = "digests")]
            HashState::Sha1(state) => state.update(data),
            #[cfg(feature = "digests")]
            HashState::Md5(state) => state.update(data),
            #[cfg(feature = "digests")]
            HashState::Blake3(state) => drop(state.update(data)),
            HashState::Xxh3(state) => state.update(data),
        }
    }

    /// Returns the digest of the added bytes, [`Algorithm::bytes`] long.
    pub fn finish(self) -> Vec<u8> {
        match self.0 {
            HashState::Sha256(state) => state.finalize().to_vec(),
            HashState::Sha512(state) => state.finalize().to_vec(),
            HashState::Sha224(state) => state.finalize().to_vec(),
            #[cfg(feature = "digests")]
            HashState::Sha1(state) => state.finalize().to_vec(),
            #[cfg(feature = "digests")]
            HashState::Md5(state) => state.finalize().to_vec(),
            #[cfg(feature = "digests")]
            HashState::Blake3(state) => state.finalize().as_bytes().to_vec(),
            HashState::Xxh3(state) => state.digest().to_be_bytes().to_vec(),
        }
    }
}

impl fmt::Debug for Hashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hashing")
    }
}

/// The encoding of a digest in a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Hexadecimal digits in either case (RFC 4648 §8).
    #[default]
    Hex,
    /// RFC 4648 §6 without padding, in either case.
    Base32,
    /// Nix's base 32: an alphabet of its own, the last bits first.
    Nix32,
    /// RFC 4648 §5 without padding.
    Base64Url,
}

/// Nix's alphabet, without e, o, t and u.
const NIX32: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

impl Encoding {
    /// All encodings.
    pub const ALL: [Self; 4] = [Self::Hex, Self::Base32, Self::Nix32, Self::Base64Url];

    /// Returns the name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hex => "hex",
            Self::Base32 => "base32",
            Self::Nix32 => "nix32",
            Self::Base64Url => "base64url",
        }
    }

    /// Returns the length of `bytes` encoded bytes, in characters.
    pub const fn length(self, bytes: usize) -> usize {
        let bits = match self {
            Self::Hex => 4,
            Self::Base32 | Self::Nix32 => 5,
            Self::Base64Url => 6,
        };
        (bytes * 8).div_ceil(bits)
    }

    /// Returns the alphabet as the content of a character class in a regular expression.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Hex => "0-9A-Fa-f",
            Self::Base32 => "A-Za-z2-7",
            Self::Nix32 => "0-9abcdfghijklmnpqrsvwxyz",
            Self::Base64Url => "A-Za-z0-9_-",
        }
    }

    /// Encodes a digest. Letters are in lower case unless case is significant.
    pub fn encode(self, digest: &[u8]) -> String {
        match self {
            Self::Hex => HEXLOWER.encode(digest),
            Self::Base32 => BASE32_NOPAD.encode(digest).to_ascii_lowercase(),
            Self::Nix32 => nix32(digest),
            Self::Base64Url => BASE64URL_NOPAD.encode(digest),
        }
    }

    /// Returns the spelling that [`encode`](Self::encode) writes.
    fn normalize(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::Hex | Self::Base32 => text.to_ascii_lowercase().into(),
            Self::Nix32 | Self::Base64Url => text.into(),
        }
    }
}

/// Encodes a digest in Nix's base 32. The digest is a little-endian number; its digits of five
/// bits are written from the most significant on.
fn nix32(digest: &[u8]) -> String {
    let digit = |index: usize| {
        let (byte, shift) = (index * 5 / 8, index * 5 % 8);
        let low = u16::from(digest[byte]);
        let high = digest.get(byte + 1).map_or(0, |&byte| u16::from(byte));
        char::from(NIX32[usize::from(((high << 8 | low) >> shift) & 31)])
    };
    (0..Encoding::Nix32.length(digest.len())).rev().map(digit).collect()
}

/// The digest that contents must have: the whole digest, or the beginning of its encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The hash function.
    pub algorithm: Algorithm,
    /// The encoding of `text`.
    pub encoding: Encoding,
    /// The known part of the encoded digest, from its beginning.
    pub text: Box<str>,
}

impl Expected {
    /// Returns true if `digest`, computed by the same hash function, begins with the expected
    /// part.
    pub fn is_met_by(&self, digest: &[u8]) -> bool {
        self.encoding.encode(digest).starts_with(&*self.encoding.normalize(&self.text))
    }

    /// Returns the digest in bytes; `None` if only a part is known, if the text is malformed, and
    /// for [`Encoding::Nix32`], which is not decoded.
    pub fn whole(&self) -> Option<Vec<u8>> {
        if self.text.len() != self.encoding.length(self.algorithm.bytes()) {
            return None;
        }
        let text = self.encoding.normalize(&self.text);
        match self.encoding {
            Encoding::Hex => HEXLOWER.decode(text.as_bytes()).ok(),
            Encoding::Base32 => BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok(),
            Encoding::Base64Url => BASE64URL_NOPAD.decode(text.as_bytes()).ok(),
            // Compared as text only.
            Encoding::Nix32 => None,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm.name(), self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(algorithm: Algorithm, data: &[u8]) -> Vec<u8> {
        let mut hashing = algorithm.hashing();
        for chunk in data.chunks(3) {
            hashing.update(chunk);
        }
        hashing.finish()
    }

    /// The values for "abc" in the specification of each function. That of XXH3 is printed by
    /// its authors' `xxhsum`.
    #[test]
    fn digests_agree_with_published_values() {
        for (algorithm, expected) in [
            (Algorithm::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                Algorithm::Sha512,
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            (Algorithm::Sha224, "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            #[cfg(feature = "digests")]
            (Algorithm::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            #[cfg(feature = "digests")]
            (Algorithm::Md5, "900150983cd24fb0d6963f7d28e17f72"),
            #[cfg(feature = "digests")]
            (Algorithm::Blake3, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
            (Algorithm::Xxh3, "78af5f94892f3950"),
        ] {
            let digest = digest(algorithm, b"abc");
            assert_eq!(Encoding::Hex.encode(&digest), expected, "{algorithm:?}");
            assert_eq!(digest.len(), algorithm.bytes());
        }
    }

    #[test]
    fn encodings_agree_with_other_programs() {
        let sha256 = digest(Algorithm::Sha256, b"abc");
        for (encoding, expected) in [
            (Encoding::Base32, "xj4bnp4pahh6uqkbidpf3lrceoyagyndsylxvhfucd7wd4qacwwq"),
            // The output of `nix-hash --to-base32`.
            (Encoding::Nix32, "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s"),
            (Encoding::Base64Url, "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"),
        ] {
            assert_eq!(encoding.encode(&sha256), expected);
            assert_eq!(encoding.length(32), expected.len());
        }
    }

    #[test]
    fn a_partial_digest_is_compared_with_the_beginning() {
        let sha256 = digest(Algorithm::Sha256, b"abc");
        let expected = |encoding, text: &str| Expected { algorithm: Algorithm::Sha256, encoding, text: text.into() };
        for (encoding, text, met) in [
            (Encoding::Hex, "ba7816bf", true),
            (Encoding::Hex, "BA7816BF8F01CFEA", true),
            (Encoding::Hex, "ba7816be", false),
            (Encoding::Base32, "XJ4BNP4P", true),
            (Encoding::Base64Url, "ungWv48B", true),
            (Encoding::Base64Url, "UNGWV48B", false),
        ] {
            assert_eq!(expected(encoding, text).is_met_by(&sha256), met, "{text}");
            assert_eq!(expected(encoding, text).whole(), None);
        }
        for encoding in [Encoding::Hex, Encoding::Base32, Encoding::Base64Url] {
            assert_eq!(expected(encoding, &encoding.encode(&sha256)).whole(), Some(sha256.clone()));
        }
    }

    proptest! {
        #[test]
        fn an_encoded_digest_matches_itself_and_no_other(digest in any::<[u8; 32]>(), bit in 0usize..256, at in 0usize..4) {
            let encoding = Encoding::ALL[at];
            let expected =
                Expected { algorithm: Algorithm::Sha256, encoding, text: encoding.encode(&digest).into() };
            prop_assert!(expected.is_met_by(&digest));
            let mut other = digest;
            other[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!expected.is_met_by(&other));
        }
    }
}
