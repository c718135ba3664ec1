//! Between what a value must lie.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::Period;

/// Refuses what is out of `bounds`.
pub(super) fn within<T: Copy + PartialOrd + Display>(
    key: &str,
    value: T,
    bounds: RangeInclusive<T>,
) -> Result<(), String> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let (least, most) = bounds.into_inner();
    Err(format!("{key}: {value} is out of bounds; it must lie between {least} and {most}"))
}

/// Refuses a wait of no time.
pub(super) fn some_time(key: &str, period: Period) -> Result<(), String> {
    if period.0.is_zero() {
        return Err(format!("{key}: no time at all would fail everything; a duration such as `30s` is needed"));
    }
    Ok(())
}
