//! Dates in file names: such digits are not a hash, because files named by date do change.

/// Length of a day in digits, as in `20240131`.
pub(super) const DAY: usize = 8;

/// Returns true if `hash` consists of digits that read as a calendar date, alone or followed
/// by hours, minutes and seconds.
pub(super) fn is_date(hash: &str) -> bool {
    let hash = hash.as_bytes();
    matches!(hash.len(), 8 | 10 | 12 | 14) && hash.iter().all(u8::is_ascii_digit) && is_day(&hash[..DAY])
}

/// Returns true if eight bytes are the digits of a day (`20240131`) from 1970 to 2099. The
/// length of each month is taken as 31 days.
pub(super) fn is_day(digits: &[u8]) -> bool {
    if !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
    let (year, month, day) = (number(&digits[..4]), number(&digits[4..6]), number(&digits[6..]));
    (1970..2100).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day)
}
