//! HTTP-date: RFC 9110 §5.6.7.

use std::time::{SystemTime, UNIX_EPOCH};

use http::header::DATE;
use http::{HeaderMap, HeaderName, HeaderValue};

/// How many bytes a time takes as it is written (`IMF-fixdate`).
pub const LENGTH: usize = 29;
/// The last second that can be written: of the year 9999, since the epoch.
const LAST: u64 = 253_402_300_799;

/// From that of the epoch on.
const WEEKDAYS: [[u8; 4]; 7] = [*b"Thu,", *b"Fri,", *b"Sat,", *b"Sun,", *b"Mon,", *b"Tue,", *b"Wed,"];
/// From March on, as [`Civil`] counts them.
const MONTHS: [[u8; 4]; 12] = [
    *b"Mar ", *b"Apr ", *b"May ", *b"Jun ", *b"Jul ", *b"Aug ", *b"Sep ", *b"Oct ", *b"Nov ", *b"Dec ", *b"Jan ",
    *b"Feb ",
];
/// Each number below a hundred, in two digits.
const DIGITS: [[u8; 2]; 100] = {
    let (mut digits, mut number) = ([*b"00"; 100], 0_u8);
    while number < 100 {
        digits[number as usize] = [b'0' + number / 10, b'0' + number % 10];
        number += 1;
    }
    digits
};

/// The time that a field says; `None` if it says none.
pub fn read(headers: &HeaderMap, field: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(field)?.to_str().ok()?).ok()
}

/// A time as it is written in a field; what is out of the years 1970 to 9999, as the
/// nearest that is not.
pub fn written(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    String::from_utf8_lossy(&text(since.as_secs())).into_owned()
}

/// Adds a Date where there is none, as a recipient with a clock does (§6.6.1).
pub fn add(headers: &mut HeaderMap, now: SystemTime) {
    if !headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::try_from(written(now))
    {
        headers.insert(DATE, date);
    }
}

/// The seconds since the epoch that stand for a value: its [`text`] is the same, byte for
/// byte. Only of a time before the year 2106, and as it is written today.
pub fn seconds(value: &[u8]) -> Option<u32> {
    if value.len() != LENGTH {
        return None;
    }
    let time = httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()?;
    let seconds = time.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).ok()?;
    (text(seconds) == value).then(|| u32::try_from(seconds).ok())?
}

/// So many seconds since the epoch, as a time is written.
pub fn text(seconds: u64) -> [u8; LENGTH] {
    let seconds = seconds.min(LAST);
    let (days, second) = (small(seconds / 86_400), small(seconds % 86_400));
    let Civil { year, month, day } = Civil::of(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[0..4].copy_from_slice(&WEEKDAYS[days as usize % 7]);
    text[5..7].copy_from_slice(&DIGITS[day as usize]);
    text[8..12].copy_from_slice(&MONTHS[month as usize]);
    text[12..14].copy_from_slice(&DIGITS[(year / 100) as usize]);
    text[14..16].copy_from_slice(&DIGITS[(year % 100) as usize]);
    text[17..19].copy_from_slice(&DIGITS[(second / 3600) as usize]);
    text[20..22].copy_from_slice(&DIGITS[(second / 60 % 60) as usize]);
    text[23..25].copy_from_slice(&DIGITS[(second % 60) as usize]);
    text
}

/// A day of the Gregorian calendar.
struct Civil {
    year: u32,
    /// 0 is March, and 11 February.
    month: u32,
    day: u32,
}

impl Civil {
    /// So many days after the epoch, in ten thousand years. With few divisions: Neri and
    /// Schneider, "Euclidean affine functions and their application to calendar
    /// algorithms" (2022), figure 12.
    fn of(days: u32) -> Self {
        // The years begin in March here, so that the day that leaps is the last of its year.
        let since_march_of_0 = 4 * (days + 719_468) + 3;
        let (century, of_century) = (since_march_of_0 / 146_097, since_march_of_0 % 146_097 / 4);
        let scaled = 2_939_745 * u64::from(4 * of_century + 3);
        let (year, of_year) = (small(scaled >> 32), small(scaled & 0xffff_ffff) / 2_939_745 / 4);
        let scaled = 2141 * of_year + 197_913;
        let (month, day) = ((scaled >> 16) - 3, (scaled & 0xffff) / 2141 + 1);
        Self { year: 100 * century + year + u32::from(month >= 10), month, day }
    }
}

/// What is less than 2^32, as a number that is divided sooner.
#[allow(clippy::cast_possible_truncation)] // as it says
fn small(number: u64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn known(seconds: u64) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    /// As a date looks, right or not.
    const SHAPE: &str = "(Mon|Thu|Sun), [0-3][0-9] (Jan|Feb|Dec) [12][0-9]{3} [0-2][0-9]:[0-6][0-9]:[0-6][0-9] GMT";

    proptest! {
        #[test]
        fn a_time_is_written_as_others_write_it(seconds in 0..=LAST) {
            prop_assert_eq!(String::from_utf8(text(seconds).to_vec()).unwrap(), known(seconds));
            prop_assert_eq!(written(UNIX_EPOCH + Duration::from_secs(seconds)), known(seconds));
        }

        #[test]
        fn what_stands_for_a_value_gives_it_back(value in SHAPE) {
            if let Some(seconds) = seconds(value.as_bytes()) {
                prop_assert_eq!(&text(seconds.into())[..], value.as_bytes());
            }
        }

        #[test]
        fn each_time_before_2106_is_one_that_seconds_stand_for(time in any::<u32>()) {
            prop_assert_eq!(seconds(&text(time.into())), Some(time));
        }
    }

    #[test]
    fn each_day_of_the_calendar() {
        for day in 0..=LAST / 86_400 {
            let second = day * 86_400 + day % 86_400;
            assert_eq!(text(second), known(second).as_bytes());
        }
    }

    #[test]
    fn only_what_is_written_today_has_seconds_that_stand_for_it() {
        for (value, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Tue, 29 Feb 2000 23:59:59 GMT", Some(951_868_799)),
            ("Sun, 07 Feb 2106 06:28:15 GMT", Some(u32::MAX)),
            ("Sun, 07 Feb 2106 06:28:16 GMT", None),
            // Not that day of the week, and in the two forms of old.
            ("Fri, 01 Jan 1970 00:00:00 GMT", None),
            ("Thursday, 01-Jan-70 00:00:00 GMT", None),
            ("Thu Jan  1 00:00:00 1970", None),
            ("Thu, 01 Jan 1970 00:00:00 gmt", None),
            ("Mon, 29 Feb 2100 00:00:00 GMT", None),
            ("Wed, 31 Dec 1969 23:59:59 GMT", None),
            ("0", None),
            ("", None),
        ] {
            assert_eq!(seconds(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_written_as_the_nearest_that_can() {
        assert_eq!(written(UNIX_EPOCH - Duration::from_secs(1)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(written(UNIX_EPOCH + Duration::from_secs(LAST + 1)), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
