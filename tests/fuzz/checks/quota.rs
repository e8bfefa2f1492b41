//! `ratelimit-limit` and `ratelimit-remaining`: what is read, written down again, means the same, and comes
//! from digits in the text.

use std::time::Duration;

use millpond::upstream::wire::rate_limit;

pub(crate) fn check(text: &str) {
    let read = rate_limit(text);
    let (count, parameters) = text.split_once(';').unwrap_or((text, ""));
    assert_eq!(read.map(|(count, _)| count), number(count.trim()), "{text:?}");
    let Some((count, window)) = read else { return };
    let windows = parameters.split(';').filter_map(|part| number(part.trim().strip_prefix("w=")?));
    assert_eq!(window, windows.map(Duration::from_secs).next(), "{text:?}");
    let written = match window {
        None => format!(" {count} "),
        Some(window) => format!("{count}; unit=manifests ;w={}", window.as_secs()),
    };
    assert_eq!(rate_limit(&written), read, "{text:?} was written as {written:?}");
}

/// A number of 64 bits, maybe after a plus sign.
fn number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let add = |value: u64, digit: char| {
        value.checked_mul(10)?.checked_add(u64::from(digit.to_digit(10)?))
    };
    if digits.is_empty() { None } else { digits.chars().try_fold(0, add) }
}
