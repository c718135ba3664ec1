//! Dates in headers (HTTP-date, RFC 9110 §5.6.7).

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::DATE;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Length of a written date (`IMF-fixdate`), in bytes.
pub const LENGTH: usize = 29;
/// The last second of the year 9999, which is the last that can be written, in seconds since
/// the epoch.
const LAST: u64 = 253_402_300_799;

/// The days of the week, from that of the epoch.
const WEEKDAYS: [[u8; 4]; 7] = [*b"Thu,", *b"Fri,", *b"Sat,", *b"Sun,", *b"Mon,", *b"Tue,", *b"Wed,"];
/// The months from March, in the order of [`CivilDate`].
const MONTHS: [[u8; 4]; 12] = [
    *b"Mar ", *b"Apr ", *b"May ", *b"Jun ", *b"Jul ", *b"Aug ", *b"Sep ", *b"Oct ", *b"Nov ", *b"Dec ", *b"Jan ",
    *b"Feb ",
];
/// The numbers below 100, in two digits.
const DIGITS: [[u8; 2]; 100] = {
    let (mut digits, mut number) = ([*b"00"; 100], 0_u8);
    while number < 100 {
        digits[number as usize] = [b'0' + number / 10, b'0' + number % 10];
        number += 1;
    }
    digits
};

/// Returns the time that a header states; `None` if it is absent, not a date, or repeated with
/// different values. Reads the clock for the century of years with two digits.
pub fn read(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    lines.all(|line| line == first).then(|| parse(first.as_bytes(), SystemTime::now()))?
}

/// Parses a date in any of the three forms of RFC 9110 §5.6.7; `None` for other input. `now`
/// determines the century of a year with two digits.
///
/// Names are read in any case. A day of the week that contradicts the date is ignored, because
/// the sender derived it from the date.
pub fn parse(value: &[u8], now: SystemTime) -> Option<SystemTime> {
    let text = str::from_utf8(value).ok()?;
    let mut parts = text.split([' ', '\t', ',', '-']).filter(|part| !part.is_empty());
    let (weekday, second, third) = (parts.next()?, parts.next()?, parts.next()?);
    let (fourth, fifth, sixth) = (parts.next()?, parts.next()?, parts.next());
    let (day, month, year, time) = match sixth {
        Some(zone) if zone.eq_ignore_ascii_case("GMT") => (second, third, fourth, fifth),
        Some(_) => return None,
        // The form of C's asctime.
        None => (third, second, fifth, fourth),
    };
    let month = MONTHS.iter().position(|name| month.as_bytes().eq_ignore_ascii_case(&name[..3]))?;
    if parts.next().is_some() || !is_weekday(weekday) {
        return None;
    }
    let month = u32::try_from(month).ok()?;
    let days = CivilDate { year: full_year(year, now)?, month, day: number(day, 1..=2)? }.days()?;
    let seconds = days * 86_400 + i64::from(second_of_day(time)?);
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

/// Returns true if `name` is a day of the week, in full or in three letters.
fn is_weekday(name: &str) -> bool {
    let names = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    names.iter().any(|full| name.eq_ignore_ascii_case(full) || name.eq_ignore_ascii_case(&full[..3]))
}

/// Parses a year of four digits, or of two digits: such a year is at most 50 years after `now`
/// (RFC 9110 §5.6.7).
fn full_year(digits: &str, now: SystemTime) -> Option<u32> {
    if digits.len() == 4 {
        return number(digits, 4..=4);
    }
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().min(LAST);
    let this_year = CivilDate::of(small(since / 86_400)).year;
    let year = this_year / 100 * 100 + number(digits, 2..=2)?;
    Some(if year > this_year + 50 { year - 100 } else { year })
}

/// Parses `hh:mm:ss` to seconds since midnight. A leap second counts as the following second.
fn second_of_day(time: &str) -> Option<u32> {
    let mut parts = time.split(':').map(|part| number(part, 2..=2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let is_time = parts.next().is_none() && hour < 24 && minute < 60 && second <= 60;
    is_time.then_some(hour * 3600 + minute * 60 + second)
}

/// Parses a number with one of the allowed lengths in digits.
fn number(digits: &str, lengths: RangeInclusive<usize>) -> Option<u32> {
    let is_number = lengths.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

/// Writes a time as `IMF-fixdate` (RFC 9110 §5.6.7). A time outside the years 1970 to 9999 is
/// written as the nearest time within them.
pub fn written(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    String::from_utf8_lossy(&text(since.as_secs())).into_owned()
}

/// Sets Date to `now` if it is absent or cannot be read, as RFC 9110 §6.6.1 requires of a
/// recipient with a clock.
pub fn add(headers: &mut HeaderMap, now: SystemTime) {
    if read(headers, &DATE).is_none()
        && let Ok(date) = HeaderValue::try_from(written(now))
    {
        headers.insert(DATE, date);
    }
}

/// Converts a header value to seconds since the epoch, if [`text`] converts them back to the
/// same bytes; `None` for other forms of dates, and for times that exceed 32 bits (from the
/// year 2106 on).
pub fn seconds(value: &[u8]) -> Option<u32> {
    if value.len() != LENGTH {
        return None;
    }
    let time = httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()?;
    let seconds = time.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).ok()?;
    (text(seconds) == value).then(|| u32::try_from(seconds).ok())?
}

/// Writes seconds since the epoch as `IMF-fixdate` (RFC 9110 §5.6.7). Times after the year 9999
/// are written as its last second.
pub fn text(seconds: u64) -> [u8; LENGTH] {
    let seconds = seconds.min(LAST);
    let (days, second) = (small(seconds / 86_400), small(seconds % 86_400));
    let CivilDate { year, month, day } = CivilDate::of(days);
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
struct CivilDate {
    year: u32,
    /// Counted from 0 for March to 11 for February.
    month: u32,
    day: u32,
}

impl CivilDate {
    /// Returns the days since the epoch; `None` if the month has no such day. (Hinnant,
    /// "chrono-compatible low-level date algorithms", `days_from_civil`.)
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
        // Years begin in March here: January and February are the end of the year before.
        let year = i64::from(self.year) - i64::from(self.month >= 10);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day_of_year = i64::from((153 * self.month + 2) / 5 + self.day - 1);
        Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
    }

    /// Returns the date of a number of days since the epoch, up to the year 9999. With few
    /// divisions: Neri and Schneider, "Euclidean affine functions and their application to
    /// calendar algorithms" (2022), figure 12.
    fn of(days: u32) -> Self {
        // Years begin in March here, so that the leap day is the last of its year.
        let since_march_of_0 = 4 * (days + 719_468) + 3;
        let (century, day_of_century) = (since_march_of_0 / 146_097, since_march_of_0 % 146_097 / 4);
        let scaled = 2_939_745 * u64::from(4 * day_of_century + 3);
        let (year, day_of_year) = (small(scaled >> 32), small(scaled & 0xffff_ffff) / 2_939_745 / 4);
        let scaled = 2141 * day_of_year + 197_913;
        let (month, day) = ((scaled >> 16) - 3, (scaled & 0xffff) / 2141 + 1);
        Self { year: 100 * century + year + u32::from(month >= 10), month, day }
    }
}

/// Narrows a number below 2^32, because 32-bit divisions are faster.
#[allow(clippy::cast_possible_truncation)] // the caller guarantees the range
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

    /// Strings in the shape of a date, valid or not.
    const SHAPE: &str = "(Mon|Thu|Sun), [0-3][0-9] (Jan|Feb|Dec) [12][0-9]{3} [0-2][0-9]:[0-6][0-9]:[0-6][0-9] GMT";

    proptest! {
        #[test]
        fn a_time_is_written_as_httpdate_writes_it(seconds in 0..=LAST) {
            prop_assert_eq!(String::from_utf8(text(seconds).to_vec()).unwrap(), known(seconds));
            prop_assert_eq!(written(UNIX_EPOCH + Duration::from_secs(seconds)), known(seconds));
        }

        #[test]
        fn seconds_of_a_value_convert_back_to_the_value(value in SHAPE) {
            if let Some(seconds) = seconds(value.as_bytes()) {
                prop_assert_eq!(&text(seconds.into())[..], value.as_bytes());
            }
        }

        #[test]
        fn each_form_of_a_time_is_parsed_in_any_case(seconds in 0..=LAST) {
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
                    // `now` is the time itself, so two digits of the year suffice.
                    prop_assert_eq!(parse(form.as_bytes(), time), Some(time), "{}", form);
                }
            }
        }

        #[test]
        fn any_value_is_parsed_without_a_panic(value in "[ -~]{0,40}|(Mon|sunday)[, ]{1,2}[0-9]{1,3}[ -](Feb|NOV)[ -][0-9]{0,5} [0-9:]{7,9}( GMT)?") {
            let now = UNIX_EPOCH + Duration::from_secs(1_800_000_001);
            if let (Some(read), Ok(known)) = (parse(value.as_bytes(), now), httpdate::parse_http_date(&value)) {
                prop_assert_eq!(read, known);
            }
        }

        #[test]
        fn seconds_accepts_each_time_before_2106(time in any::<u32>()) {
            prop_assert_eq!(seconds(&text(time.into())), Some(time));
        }
    }

    #[test]
    fn dates_of_origins_are_parsed() {
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
            // Another day of the week.
            ("Mon, 06 Nov 1994 08:49:37 GMT", at(784_111_777)),
            ("Friday, 06-Nov-94 08:49:37 GMT", at(784_111_777)),
            ("Tue Nov  6 08:49:37 1994", at(784_111_777)),
            // The form in cookies.
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
            let mut headers = headers(lines);
            add(&mut headers, now);
            assert_eq!(headers[DATE], expected, "{lines:?}");
        }
        assert_eq!(read(&headers(&[("expires", date), ("expires", old)]), &EXPIRES), None);
        assert_eq!(read(&headers(&[("expires", date), ("expires", date)]), &EXPIRES), Some(now));
    }

    #[test]
    fn each_day_of_the_calendar_converts_both_ways() {
        for day in 0..=LAST / 86_400 {
            let second = day * 86_400 + day % 86_400;
            assert_eq!(text(second), known(second).as_bytes());
            let CivilDate { year, month, day: day_of_month } = CivilDate::of(small(day));
            assert_eq!(CivilDate { year, month, day: day_of_month }.days(), i64::try_from(day).ok());
        }
    }

    #[test]
    fn seconds_rejects_forms_that_text_does_not_write() {
        for (value, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Tue, 29 Feb 2000 23:59:59 GMT", Some(951_868_799)),
            ("Sun, 07 Feb 2106 06:28:15 GMT", Some(u32::MAX)),
            ("Sun, 07 Feb 2106 06:28:16 GMT", None),
            // A wrong day of the week, and the two obsolete forms.
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
    fn times_out_of_range_are_written_as_the_nearest_in_range() {
        assert_eq!(written(UNIX_EPOCH - Duration::from_secs(1)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(written(UNIX_EPOCH + Duration::from_secs(LAST + 1)), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
