//! Byte ranges: the `Range` header of downloads (RFC 9110, section 14) and the `Content-Range` of
//! upload chunks (distribution-spec, "Pushing a blob in chunks").
//!
//! Inside the program a range is half-open; the inclusive form exists only in this file.

use std::{fmt, ops::Range, str::FromStr};

/// Most ranges one request may ask for. More is an attack, not a download (RFC 9110, section 14.2).
const MAX_RANGES: usize = 32;

/// One range as a client asked for it, before the length of the content is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `first-last`, kept half-open.
    Bounded {
        /// First byte wanted.
        start: u64,
        /// One past the last byte wanted; more than `start`.
        end: u64,
    },
    /// `first-`: to the end.
    From(u64),
    /// `-length`: the last bytes.
    Last(u64),
}

impl ByteRange {
    /// The bytes of a content of `total` bytes that this range means, or `None` where it means none.
    #[must_use]
    pub fn resolve(self, total: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::Bounded { start, end } => start..end.min(total),
            Self::From(start) => start..total,
            Self::Last(length) => total.saturating_sub(length)..total,
        };
        (range.start < range.end).then_some(range)
    }
}

/// A parsed `Range` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeHeader {
    /// A unit other than bytes, or a malformed set: such a header is ignored and everything is sent
    /// (RFC 9110, section 14.2).
    Ignored,
    /// The ranges in the order they were asked for; at least one, at most 32.
    Ranges(Vec<ByteRange>),
    /// The set is well formed and yet cannot be satisfied, whatever the length: an inverted range
    /// (`500-0`), or too many.
    Unsatisfiable,
}

impl RangeHeader {
    /// Parses the value of a `Range` header.
    ///
    /// RFC 9110 calls an inverted range invalid, to be ignored; the conformance program of the
    /// distribution-spec wants 416 for it, and so do we: a client that asks for nothing should not be
    /// sent everything.
    #[must_use]
    pub fn parse(value: &str) -> Self {
        let Some((unit, set)) = value.split_once('=') else { return Self::Ignored };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Self::Ignored;
        }
        let mut ranges = Vec::new();
        for item in set.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            if ranges.len() == MAX_RANGES {
                return Self::Unsatisfiable;
            }
            match parse_range(item) {
                Parsed::Range(range) => ranges.push(range),
                Parsed::Inverted => return Self::Unsatisfiable,
                Parsed::Malformed => return Self::Ignored,
            }
        }
        if ranges.is_empty() { Self::Ignored } else { Self::Ranges(ranges) }
    }
}

enum Parsed {
    Range(ByteRange),
    Inverted,
    Malformed,
}

fn parse_range(item: &str) -> Parsed {
    let Some((first, last)) = item.split_once('-') else { return Parsed::Malformed };
    match (parse_position(first), parse_position(last)) {
        (Some(Some(start)), Some(Some(last))) if start > last => Parsed::Inverted,
        // No content is that long, and one past it would not be a number.
        (Some(Some(u64::MAX)), Some(_)) => Parsed::Range(ByteRange::From(u64::MAX)),
        (Some(Some(start)), Some(Some(last))) => {
            Parsed::Range(ByteRange::Bounded { start, end: last.saturating_add(1) })
        }
        (Some(Some(start)), Some(None)) => Parsed::Range(ByteRange::From(start)),
        (Some(None), Some(Some(length))) => Parsed::Range(ByteRange::Last(length)),
        _ => Parsed::Malformed,
    }
}

/// `Some(None)` for nothing at all, `None` for something that is no number. Positions beyond 2^64 are
/// as good as infinite.
fn parse_position(text: &str) -> Option<Option<u64>> {
    if text.is_empty() {
        return Some(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Some(text.parse().unwrap_or(u64::MAX)))
}

/// The `Content-Range` of an upload chunk: `<first>-<last>`, without a unit. docker-registry clients
/// also send `bytes <first>-<last>/<total>`; both forms are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRange(Range<u64>);

impl ChunkRange {
    /// The bytes of the blob that the chunk holds.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.0.clone()
    }
}

impl FromStr for ChunkRange {
    type Err = InvalidChunkRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let text =
            text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
        let text = text.split_once('/').map_or(text, |(range, _total)| range);
        match parse_range(text) {
            Parsed::Range(ByteRange::Bounded { start, end }) => Ok(Self(start..end)),
            Parsed::Range(_) | Parsed::Inverted | Parsed::Malformed => Err(InvalidChunkRange),
        }
    }
}

impl fmt::Display for ChunkRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start, self.0.end.saturating_sub(1))
    }
}

/// Why a text is no chunk range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Content-Range of a chunk is <first byte>-<last byte>, for example 0-1048575")]
pub struct InvalidChunkRange;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(value: &str, total: u64) -> Option<Range<u64>> {
        match RangeHeader::parse(value) {
            RangeHeader::Ranges(ranges) if ranges.len() == 1 => ranges[0].resolve(total),
            other => panic!("{value} gave {other:?}"),
        }
    }

    #[test]
    fn ranges_of_the_conformance_program_resolve_as_it_expects() {
        assert_eq!(one("bytes=500-1499", 2048), Some(500..1500));
        assert_eq!(one("bytes=500-", 2048), Some(500..2048));
        assert_eq!(one("bytes=-500", 2048), Some(1548..2048));
        assert_eq!(one("bytes=2000-5000", 2048), Some(2000..2048));
        assert_eq!(one("bytes=5000-10000", 2048), None);
        assert_eq!(RangeHeader::parse("bytes=500-0"), RangeHeader::Unsatisfiable);
    }

    #[test]
    fn unknown_units_and_malformed_sets_are_ignored() {
        for value in
            ["", "bytes", "lines=1-2", "bytes=", "bytes=a-b", "bytes=-", "bytes=1", "bytes=+1-2"]
        {
            assert_eq!(RangeHeader::parse(value), RangeHeader::Ignored, "{value}");
        }
    }

    #[test]
    fn a_flood_of_ranges_is_refused() {
        let flood = format!("bytes={}", vec!["0-0"; 33].join(","));
        assert_eq!(RangeHeader::parse(&flood), RangeHeader::Unsatisfiable);
    }

    #[test]
    fn chunk_ranges_are_read_in_both_forms() {
        assert_eq!("0-9".parse::<ChunkRange>().unwrap().range(), 0..10);
        assert_eq!("bytes 10-19/*".parse::<ChunkRange>().unwrap().range(), 10..20);
        for bad in ["", "9-0", "-5", "5-", "a-b", "0-9-10"] {
            assert_eq!(bad.parse::<ChunkRange>(), Err(InvalidChunkRange), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn resolved_ranges_lie_within_the_content(value in "bytes=[0-9]{0,20}-[0-9]{0,20}", total in any::<u64>()) {
            if let RangeHeader::Ranges(ranges) = RangeHeader::parse(&value) {
                for range in ranges.into_iter().filter_map(|range| range.resolve(total)) {
                    prop_assert!(range.start < range.end && range.end <= total);
                }
            }
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,60}") {
            let _ = RangeHeader::parse(&text);
            let _ = text.parse::<ChunkRange>();
        }
    }
}
