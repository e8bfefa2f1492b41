//! `Content-Range` of upstreams, held to a second reading that counts in 128 bits.

use millpond::upstream::wire::content_range;

pub(crate) fn check(text: &str) {
    let read = content_range(text);
    assert_eq!(read, expected(text), "{text:?}");
    let Some((first, total)) = read else { return };
    assert!(total.is_none_or(|total| first < total), "{text:?}");
    let (last, total) = match total {
        Some(total) => (total - 1, total.to_string()),
        None => (u64::MAX, "*".to_owned()),
    };
    let written = format!("bytes {first}-{last}/{total}");
    assert_eq!(content_range(&written), read, "{text:?} was written as {written:?}");
}

/// `bytes first-last/total`, with or without spaces where the parts meet.
fn expected(text: &str) -> Option<(u64, Option<u64>)> {
    let rest = text.trim().strip_prefix("bytes")?;
    let (first, rest) = rest.split_at(rest.find('-')?);
    let (last, total) = rest[1..].split_at(rest[1..].find('/')?);
    let total = total[1..].trim();
    let (first, last) = (number(first)?, number(last)?);
    let total = if total == "*" { None } else { Some(number(total)?) };
    if first > last || total.is_some_and(|total| last >= total) || last > u128::from(u64::MAX) {
        return None;
    }
    let narrow = |value: u128| u64::try_from(value).ok();
    match total {
        None => Some((narrow(first)?, None)),
        Some(total) => Some((narrow(first)?, Some(narrow(total)?))),
    }
}

/// Digits, maybe after a plus sign, cut off where 128 bits end.
fn number(text: &str) -> Option<u128> {
    let text = text.trim();
    let digits = text.strip_prefix('+').unwrap_or(text);
    let add = |value: u128, digit: char| {
        Some(value.saturating_mul(10).saturating_add(u128::from(digit.to_digit(10)?)))
    };
    if digits.is_empty() { None } else { digits.chars().try_fold(0, add) }
}
