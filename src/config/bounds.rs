//! Checks of ranges, and the form of their errors.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::values::Period;

/// Returns the error for a bad value of `key`; `problem` quotes the value and names the
/// accepted values.
pub(super) fn invalid(key: &str, problem: impl Display) -> String {
    format!("invalid value for {key}: {problem}")
}

/// Returns the error for a value that needs a feature of this crate.
pub(super) fn needs_feature(key: &str, value: &str, feature: &str) -> String {
    invalid(key, format_args!("{value} needs the feature `{feature}` of peerage, and this build lacks it"))
}

/// Rejects a value outside `bounds`.
pub(super) fn check_range<T: Copy + PartialOrd + Display>(
    key: &str,
    value: T,
    bounds: RangeInclusive<T>,
) -> Result<(), String> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let (least, most) = bounds.into_inner();
    Err(invalid(key, format_args!("{value} is out of range (expected {least} to {most})")))
}

/// Rejects a timeout of zero.
pub(super) fn check_nonzero(key: &str, period: Period) -> Result<(), String> {
    if period.0.is_zero() {
        return Err(invalid(key, "0s would fail every request (expected a duration such as 30s)"));
    }
    Ok(())
}
