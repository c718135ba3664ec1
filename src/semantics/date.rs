//! HTTP-date: RFC 9110 §5.6.7.

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// Returns the time that a field states. A field that is no date, or that is there several
/// times and states different ones, counts as absent.
pub fn read(headers: &HeaderMap, field: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(field).iter();
    let first = lines.next()?;
    // The clock says only which century a year of two digits is in.
    lines.all(|line| line == first).then(|| parse(first.as_bytes(), SystemTime::now()))?
}

/// Parses a date in any form of RFC 9110 §5.6.7. Names are read in any case, and the day of
/// the week is not compared with the date: the date is what the sender computed.
pub fn parse(value: &[u8], now: SystemTime) -> Option<SystemTime> {
    let text = str::from_utf8(value).ok()?;
    let mut parts = text.split([' ', '\t', ',', '-']).filter(|part| !part.is_empty());
    let (weekday, second, third) = (parts.next()?, parts.next()?, parts.next()?);
    let (fourth, fifth, sixth) = (parts.next()?, parts.next()?, parts.next());
    let (day, month, year, time) = match sixth {
        Some(zone) if zone.eq_ignore_ascii_case("GMT") => (second, third, fourth, fifth),
        Some(_) => return None,
        // As C's asctime writes it.
        None => (third, second, fifth, fourth),
    };
    let month = MONTHS.iter().position(|name| month.as_bytes().eq_ignore_ascii_case(&name[..3]))?;
    if parts.next().is_some() || !is_weekday(weekday) {
        return None;
    }
    let month = u32::try_from(month).ok()?;
    let days = Civil { year: full_year(year, now)?, month, day: number(day, 1..=2)? }.days()?;
    let seconds = days * 86_400 + i64::from(second_of_day(time)?);
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

/// Returns true if `name` is that of a day, in full or in three letters.
fn is_weekday(name: &str) -> bool {
    let names = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    names.iter().any(|full| name.eq_ignore_ascii_case(full) || name.eq_ignore_ascii_case(&full[..3]))
}

/// Returns a year of four digits, or of two: such a year is at most fifty years ahead.
fn full_year(digits: &str, now: SystemTime) -> Option<u32> {
    if digits.len() == 4 {
        return number(digits, 4..=4);
    }
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().min(LAST);
    let this_year = Civil::of(small(since / 86_400)).year;
    let year = this_year / 100 * 100 + number(digits, 2..=2)?;
    Some(if year > this_year + 50 { year - 100 } else { year })
}

/// Returns the second of `hh:mm:ss`, counted from midnight. A leap second is the next one.
fn second_of_day(time: &str) -> Option<u32> {
    let mut parts = time.split(':').map(|part| number(part, 2..=2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let is_time = parts.next().is_none() && hour < 24 && minute < 60 && second <= 60;
    is_time.then_some(hour * 3600 + minute * 60 + second)
}

/// Returns the number that so many digits state.
fn number(digits: &str, lengths: RangeInclusive<usize>) -> Option<u32> {
    let is_number = lengths.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

/// A time as it is written in a field; what is out of the years 1970 to 9999, as the
/// nearest that is not.
pub fn written(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    String::from_utf8_lossy(&text(since.as_secs())).into_owned()
}

/// Writes a Date where there is none that can be read, as a recipient with a clock does
/// (§6.6.1).
pub fn add(headers: &mut HeaderMap, now: SystemTime) {
    if read(headers, &DATE).is_none()
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
    /// Returns how many days after the epoch it is; `None` if its month has no such day.
    /// (Hinnant, "chrono-compatible low-level date algorithms", `days_from_civil`.)
    fn days(&self) -> Option<i64> {
        let is_leap = self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let length = match self.month {
            1 | 3 | 6 | 8 => 30,
            11 => 28 + u32::from(is_leap),
            _ => 31,
        };
        if !(1..=length).contains(&self.day) {
            return None;
        }
        // The years begin in March here; January and February are the end of the one before.
        let year = i64::from(self.year) - i64::from(self.month >= 10);
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let of_year = i64::from((153 * self.month + 2) / 5 + self.day - 1);
        Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
    }

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
    use http::header::EXPIRES;
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::tests::headers;

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
        fn each_form_of_a_time_is_read_as_that_time(seconds in 0..=LAST) {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            let fixed = known(seconds);
            let (day, month, year, clock) = (&fixed[5..7], &fixed[8..11], &fixed[12..16], &fixed[17..25]);
            let unpadded = day.strip_prefix('0').map_or_else(|| day.to_owned(), |digit| format!(" {digit}"));
            for form in [
                fixed.clone(),
                format!("Wednesday, {day}-{month}-{} {clock} GMT", &year[2..]),
                format!("Wed {month} {unpadded} {clock} {year}"),
            ] {
                for form in [form.clone(), form.to_uppercase(), form.to_lowercase()] {
                    // Two digits of the year suffice at the time itself.
                    prop_assert_eq!(parse(form.as_bytes(), time), Some(time), "{}", form);
                }
            }
        }

        #[test]
        fn no_value_is_too_odd(value in "[ -~]{0,40}|(Mon|sunday)[, ]{1,2}[0-9]{1,3}[ -](Feb|NOV)[ -][0-9]{0,5} [0-9:]{7,9}( GMT)?") {
            let now = UNIX_EPOCH + Duration::from_secs(1_800_000_001);
            if let (Some(read), Ok(known)) = (parse(value.as_bytes(), now), httpdate::parse_http_date(&value)) {
                prop_assert_eq!(read, known);
            }
        }

        #[test]
        fn each_time_before_2106_is_one_that_seconds_stand_for(time in any::<u32>()) {
            prop_assert_eq!(seconds(&text(time.into())), Some(time));
        }
    }

    #[test]
    fn dates_as_origins_send_them() {
        // In 2027.
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_001);
        let at = |seconds: u64| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        for (value, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", at(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", at(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", at(784_111_777)),
            ("sun, 06 NOV 1994 08:49:37 gmt", at(784_111_777)),
            ("SUNDAY, 06-nov-94 08:49:37 GMT", at(784_111_777)),
            ("sun nov 6 08:49:37 1994", at(784_111_777)),
            // The day of the week is another.
            ("Mon, 06 Nov 1994 08:49:37 GMT", at(784_111_777)),
            ("Friday, 06-Nov-94 08:49:37 GMT", at(784_111_777)),
            ("Tue Nov  6 08:49:37 1994", at(784_111_777)),
            // As cookies have it.
            ("Sun, 06-Nov-1994 08:49:37 GMT", at(784_111_777)),
            ("Sun, 6 Nov 1994 08:49:37 GMT", at(784_111_777)),
            ("Sat, 31 Dec 2016 23:59:60 GMT", at(1_483_228_800)),
            ("Tue, 29 Feb 2000 00:00:00 GMT", at(951_782_400)),
            // Fifty years ahead, and one more.
            ("Friday, 01-Jan-77 00:00:00 GMT", at(3_376_684_800)),
            ("Friday, 01-Jan-78 00:00:00 GMT", at(252_460_800)),
            ("Wed, 31 Dec 1969 23:59:59 GMT", UNIX_EPOCH.checked_sub(Duration::from_secs(1))),
            ("Mon, 01 Jan 0001 00:00:01 GMT", UNIX_EPOCH.checked_sub(Duration::from_secs(62_135_596_799))),
            ("Thu, 29 Feb 1900 00:00:00 GMT", None),
            ("Sun, 31 Nov 1994 08:49:37 GMT", None),
            ("Sun, 00 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 08:60:00 GMT", None),
            ("Sun, 06 Nov 1994 8:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 1994 08:49:37 PST", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT GMT", None),
            ("Sun, 06 Nov 194 08:49:37 GMT", None),
            ("Sun, 06 Now 1994 08:49:37 GMT", None),
            ("Son, 06 Nov 1994 08:49:37 GMT", None),
            ("1994-11-06T08:49:37Z", None),
            ("784111777", None),
            ("0", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(parse(value.as_bytes(), now), expected, "{value}");
        }
    }

    #[test]
    fn a_date_that_cannot_be_read_counts_as_absent() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let (old, older) = ("Sat, 05 Nov 1994 08:49:37 GMT", "friday, 04-Nov-94 08:49:37 GMT");
        for (lines, expected) in [
            (&[][..], date),
            (&[("date", "now")], date),
            (&[("date", "")], date),
            (&[("date", old), ("date", older)], date),
            (&[("date", old), ("date", old)], old),
            (&[("date", older)], older),
        ] {
            let mut fields = headers(lines);
            add(&mut fields, now);
            assert_eq!(fields[DATE], expected, "{lines:?}");
        }
        assert_eq!(read(&headers(&[("expires", date), ("expires", old)]), &EXPIRES), None);
        assert_eq!(read(&headers(&[("expires", date), ("expires", date)]), &EXPIRES), Some(now));
    }

    #[test]
    fn each_day_of_the_calendar() {
        for day in 0..=LAST / 86_400 {
            let second = day * 86_400 + day % 86_400;
            assert_eq!(text(second), known(second).as_bytes());
            let Civil { year, month, day: of_month } = Civil::of(small(day));
            assert_eq!(Civil { year, month, day: of_month }.days(), i64::try_from(day).ok());
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
