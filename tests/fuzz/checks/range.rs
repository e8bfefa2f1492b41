//! `Range` and `Content-Range` headers, held to a second reading of RFC 9110 that counts in 128 bits.

use std::ops::Range;

use millpond::oci::{ByteRange, ChunkRange, RangeHeader};

/// Lengths of content at which ranges are resolved.
const TOTALS: [u64; 5] = [0, 1, 2048, 1 << 40, u64::MAX];

/// Most ranges of one header, as documented.
const RANGES_MAX: usize = 32;

pub(crate) fn check(text: &str) {
    match RangeHeader::parse(text) {
        RangeHeader::Ignored | RangeHeader::Unsatisfiable => {}
        RangeHeader::Ranges(ranges) => check_ranges(text, &ranges),
    }
    if let Ok(chunk) = text.parse::<ChunkRange>() {
        assert!(!chunk.range().is_empty(), "{text:?} is a chunk of no bytes");
        let written = chunk.to_string();
        assert_eq!(written.parse().as_ref(), Ok(&chunk), "{text:?} was written as {written:?}");
    }
}

fn check_ranges(text: &str, ranges: &[ByteRange]) {
    assert!((1..=RANGES_MAX).contains(&ranges.len()), "{text:?} has {} ranges", ranges.len());
    let (_unit, set) = text.split_once('=').expect("a range header has an equals sign");
    let items: Vec<&str> = set.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    assert_eq!(items.len(), ranges.len(), "{text:?}");
    for (item, range) in items.iter().zip(ranges) {
        if let ByteRange::Bounded { start, end } = range {
            assert!(start < end, "{item:?} was read as {range:?}");
        }
        for total in TOTALS {
            assert_eq!(range.resolve(total), expected(item, total), "{item:?} of {total}");
        }
    }
}

/// The bytes that `first-last`, `first-` or `-length` means.
fn expected(item: &str, total: u64) -> Option<Range<u64>> {
    let (first, last) = item.split_once('-').expect("an accepted range has a dash");
    let total = u128::from(total);
    let (start, end) = match (number(first), number(last)) {
        (Some(first), Some(last)) => (first, last.saturating_add(1).min(total)),
        (Some(first), None) => (first, total),
        (None, Some(length)) => (total.saturating_sub(length), total),
        (None, None) => panic!("{item:?} is no range"),
    };
    let narrow = |value: u128| u64::try_from(value).expect("at most the length, which has 64 bits");
    (start < end).then(|| narrow(start)..narrow(end))
}

/// Any number of digits, cut off where 128 bits end; `None` for no digit at all.
fn number(digits: &str) -> Option<u128> {
    let add = |value: u128, digit: char| {
        let digit = digit.to_digit(10).expect("an accepted position has digits only");
        value.saturating_mul(10).saturating_add(u128::from(digit))
    };
    (!digits.is_empty()).then(|| digits.chars().fold(0, add))
}
