//! Types of single values: sizes, durations, addresses, URLs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A number of bytes: `512MiB`, `64MB` (1000s), or a bare number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_bytes(text).map(Self).ok_or_else(|| format!("{text:?} (expected {SIZE})"))
    }
}

const SIZE: &str = "a size such as 512MiB, 64MB or a number of bytes";

/// Units in which a size is displayed, largest first.
const UNITS: [(u64, &str); 6] =
    [(1 << 30, "GiB"), (1_000_000_000, "GB"), (1 << 20, "MiB"), (1_000_000, "MB"), (1 << 10, "KiB"), (1000, "kB")];

/// Parses a number, maybe with a fraction, and a unit in any case; without a unit it counts
/// bytes. Returns `None` for other text, and for a size that overflows.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)] // a fraction of a unit
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "p" | "pb" => 1_000_000_000_000_000,
        "e" | "eb" => 1_000_000_000_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        "pi" | "pib" => 1 << 50,
        "ei" | "eib" => 1 << 60,
        _ => return None,
    };
    if !number.contains('.') {
        return number.parse::<u64>().ok()?.checked_mul(factor);
    }
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The unit that leaves the shortest number is the one in which the size was written.
        let is_whole = |(factor, _): &(u64, &str)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        match UNITS.into_iter().filter(is_whole).min_by_key(|(factor, _)| self.0 / factor) {
            Some((factor, unit)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SIZE)
            }
            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::custom(format!("{bytes} is negative (expected {SIZE})")))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

/// A duration: `300ms`, `30s`, `1h30m`, `1d`. A day has 24 hours. A number without a unit
/// is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub struct Period(pub Duration);

const PERIOD: &str = "a duration such as 300ms, 30s, 1h30m, 1d";

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rejected = || format!("{text:?} (expected {PERIOD})");
        let span: jiff::Span = text.trim().parse().map_err(|_| rejected())?;
        let parsed = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| rejected())?;
        let duration = Duration::try_from(parsed).map_err(|_| rejected())?;
        // More than a century is a typing error, and overflows clocks.
        if duration > Duration::from_hours(24 * 366 * 100) {
            return Err(rejected());
        }
        Ok(Self(duration))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if !self.0.subsec_nanos().is_multiple_of(1_000_000) {
            return write!(f, "{}ns", self.0.as_nanos());
        }
        if millis == 0 || !millis.is_multiple_of(1000) {
            write!(f, "{millis}ms")
        } else {
            write!(f, "{}s", millis / 1000)
        }
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PeriodVisitor;
        impl Visitor<'_> for PeriodVisitor {
            type Value = Period;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(PERIOD)
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Period, E> {
                Err(E::custom(format!("{number} has no unit (expected {PERIOD})")))
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Period, E> {
                Err(E::custom(format!("{number} has no unit (expected {PERIOD})")))
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Period, E> {
                Err(E::custom(format!("{number} has no unit (expected {PERIOD})")))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Period, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(PeriodVisitor)
    }
}

/// A network in CIDR notation, such as `10.0.0.0/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse()
            .or_else(|_| address())
            .map(|network| Self(canonical(network)))
            .map_err(|_| format!("{text:?} (expected an address, or a network such as 10.0.0.0/8 or 2001:db8::/32)"))
    }
}

/// Returns an IPv4 network that is mapped into IPv6 as such: addresses are compared in that form.
fn canonical(network: IpNet) -> IpNet {
    let IpAddr::V4(address) = network.addr().to_canonical() else {
        return network;
    };
    match network {
        IpNet::V6(mapped) => match mapped.prefix_len().checked_sub(96) {
            Some(length) => Ipv4Net::new_assert(address, length).into(),
            None => network,
        },
        IpNet::V4(_) => network,
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

pub(super) const fn secs(seconds: u64) -> Period {
    Period(Duration::from_secs(seconds))
}

pub(super) const fn millis(milliseconds: u64) -> Period {
    Period(Duration::from_millis(milliseconds))
}

pub(super) const fn mib(count: u64) -> Size {
    Size(count * 1024 * 1024)
}

pub(super) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A secret: its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(#[serde(deserialize_with = "text")] pub String);

impl Secret {
    /// The least length in bytes; a shorter secret can be guessed.
    pub const SHORTEST: usize = 16;
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Reads text; a number, as the environment gives one, becomes text too.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct TextVisitor;
    impl Visitor<'_> for TextVisitor {
        type Value = String;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
        fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_u128<E: serde::de::Error>(self, number: u128) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }
    deserializer.deserialize_any(TextVisitor)
}

/// The name of a digest algorithm; `none` where contents cannot be verified.
pub(super) mod digest {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::semantics::digest::Algorithm;

    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde's form
    pub fn serialize<S: Serializer>(digest: &Option<Algorithm>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(digest.map_or("none", Algorithm::name))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Algorithm>, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name == "none" {
            return Ok(None);
        }
        if !cfg!(feature = "digests") && matches!(&*name, "sha1" | "md5" | "blake3") {
            let lacking = format!("{name:?} needs the feature `digests` of peerage, and this build lacks it");
            return Err(D::Error::custom(lacking));
        }
        let known = Algorithm::ALL.iter().find(|algorithm| algorithm.name() == name);
        known.map(|algorithm| Some(*algorithm)).ok_or_else(|| {
            let names = Algorithm::ALL.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(", ");
            D::Error::custom(format!("{name:?} is not a digest algorithm (expected one of none, {names})"))
        })
    }
}

/// An IP address with its port.
pub(super) mod address {
    use super::{ADDRESS, Deserialize, Deserializer, Serializer};
    use serde::de::Error as _;
    use std::net::SocketAddr;

    pub(crate) fn serialize<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("{text:?} ({ADDRESS})")))
    }
}

/// The addresses of a listener: one or a list; none turns the listener off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listen(pub Vec<SocketAddr>);

const ADDRESS: &str = "expected an IP address with a port, such as 127.0.0.1:8001";

impl std::ops::Deref for Listen {
    type Target = [SocketAddr];

    fn deref(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self(vec![address])
    }
}

impl FromStr for Listen {
    type Err = std::net::AddrParseError;

    /// Parses one address.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(|address: SocketAddr| address.into())
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &*self.0 {
            [address] => serializer.collect_str(address),
            addresses => serializer.collect_seq(addresses.iter().map(SocketAddr::to_string)),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected an address such as \"127.0.0.1:8001\", or a list of them")]
        enum OneOrMore {
            One(String),
            More(Vec<String>),
        }
        let texts = match OneOrMore::deserialize(deserializer)? {
            OneOrMore::One(text) => vec![text],
            OneOrMore::More(texts) => texts,
        };
        let parse = |text: &String| text.parse().map_err(|_| D::Error::custom(format!("{text:?} ({ADDRESS})")));
        texts.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }
}

/// A URL; the table that holds it checks its scheme and parts.
pub(super) mod url {
    use super::{Deserialize, Deserializer, Serializer};
    use http::Uri;
    use serde::de::Error as _;

    pub(crate) fn serialize<S: Serializer>(url: &Uri, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(url)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uri, D::Error> {
        let text = String::deserialize(deserializer)?;
        let expected = "expected a URL such as http://127.0.0.1:9000";
        text.parse().map_err(|_| D::Error::custom(format!("{text:?} ({expected})")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_with_and_without_a_unit_are_parsed() {
        for (text, bytes) in [
            ("512MiB", 512 << 20),
            ("64MB", 64_000_000),
            ("1024", 1024),
            ("1 KiB", 1024),
            ("1.5GiB", 3 << 29),
            ("2tb", 2_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "x", "-1", "12 parsecs", "MiB", "1.5.5MB", ".", "99999999999999999999", "16EiB", "20.5EiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn size_is_displayed_in_the_unit_in_which_it_was_written() {
        for text in ["512MiB", "64MB", "2GB", "1GiB", "100kB", "16KiB", "1000001", "1536MiB", "8TiB"] {
            let shown = text.parse::<Size>().unwrap().to_string();
            assert_eq!(shown, if text == "8TiB" { "8192GiB" } else { text });
        }
    }

    #[test]
    fn durations_with_a_unit_are_parsed() {
        for (text, millis) in [
            ("300ms", 300),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1500),
            ("0s", 0),
            ("1d", 86_400_000),
            ("2d12h", 216_000_000),
            ("1w", 604_800_000),
        ] {
            assert_eq!(text.parse(), Ok(Period(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "30", "0", "1.5", "-3s", "soon", "1000000h", "1month", "1y"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_that_are_mapped_into_ipv6_are_ipv4_networks() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().0.to_string(), network, "{text}");
        }
        assert!("10.0.0.0/33".parse::<Network>().is_err());
    }

    proptest! {
        #[test]
        fn displayed_values_parse_to_the_same_value(bytes: u64, nanos in 0u64..u64::from(u32::MAX) * 1_000_000) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
            let period = Period(Duration::from_nanos(nanos));
            prop_assert_eq!(period.to_string().parse(), Ok(period));
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = text.parse::<Size>();
            let _ = text.parse::<Period>();
        }
    }
}
