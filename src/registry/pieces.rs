//! What is stored of an upload: pieces, which may lead to several ends.
//!
//! A client may come back through another process while its old connection still hangs on the first. Then both
//! store a piece that begins at one offset, and each goes on from its own. Each end that a client was told of is good,
//! as long as nobody has gone on from it.

use std::collections::{BTreeMap, BTreeSet};

use super::session::Session;
use crate::storage::{Key, Piece};

/// The pieces in the folder of one session.
#[derive(Debug, Default)]
pub(super) struct StoredPieces {
    /// Each with the offset at which it begins, by that offset.
    pieces: Vec<(u64, Piece)>,
}

impl StoredPieces {
    /// Adds a piece. They come in the order of their offsets, as they are listed.
    pub(super) fn push(&mut self, start: u64, piece: Piece) {
        self.pieces.push((start, piece));
    }

    /// Whether all of `pieces` are still there.
    pub(super) fn hold(&self, pieces: &[Piece]) -> bool {
        let stored: BTreeSet<&Key> = self.pieces.iter().map(|(_, piece)| &piece.key).collect();
        pieces.iter().all(|piece| stored.contains(&piece.key))
    }

    /// Whether somebody has gone on from `offset`.
    pub(super) fn go_on_from(&self, offset: u64) -> bool {
        self.pieces.iter().any(|(start, _)| *start == offset)
    }

    /// The session as a client means it that believes it to end at `claimed`: that end, if it is one; else the
    /// furthest there is. Between equal ways the one that is `known` is taken, because it may have been hashed.
    pub(super) fn session(self, claimed: Option<u64>, known: Option<&Session>) -> Session {
        let ends = self.ends();
        let is_end = |offset: &u64| ends.contains_key(offset) && !self.go_on_from(*offset);
        let furthest = ends.last_key_value().map_or(0, |(end, _)| *end);
        let offset = claimed.filter(is_end).unwrap_or(furthest);
        let (pieces, hash) = match known {
            Some(known) if known.offset() == offset && self.hold(&known.pieces) => {
                (known.pieces.clone(), known.hash.clone())
            }
            _ => (self.way_to(offset, &ends), None),
        };
        let used: BTreeSet<&Key> = pieces.iter().map(|piece| &piece.key).collect();
        let keys = self.pieces.iter().map(|(_, piece)| &piece.key);
        let strays = keys.filter(|key| !used.contains(key)).cloned().collect();
        Session { pieces, hash, strays }
    }

    /// Where pieces end to which others lead without a gap from the beginning, and which piece it is.
    fn ends(&self) -> BTreeMap<u64, &(u64, Piece)> {
        let mut ends = BTreeMap::new();
        for entry in &self.pieces {
            let (start, piece) = entry;
            if *start == 0 || ends.contains_key(start) {
                ends.entry(start + piece.size_bytes).or_insert(entry);
            }
        }
        ends
    }

    fn way_to(&self, mut offset: u64, ends: &BTreeMap<u64, &(u64, Piece)>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while let Some((start, piece)) = ends.get(&offset) {
            pieces.push(piece.clone());
            offset = *start;
        }
        pieces.reverse();
        pieces
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(ranges: &[(u64, u64)]) -> StoredPieces {
        let mut ranges: Vec<_> = ranges.iter().enumerate().collect();
        ranges.sort_by_key(|(_, (start, _))| *start);
        let mut stored = StoredPieces::default();
        for (number, (start, end)) in ranges {
            let key = format!("{start}-{number}").parse().expect("a key");
            stored.push(*start, Piece { key, size_bytes: end - start });
        }
        stored
    }

    fn session(ranges: &[(u64, u64)], claimed: Option<u64>) -> Session {
        stored(ranges).session(claimed, None)
    }

    #[test]
    fn the_end_that_a_client_was_told_of_is_where_it_stands() {
        // One process has 1000..2000 and 2000..3000; another one had 1000..4000 of a connection that hung.
        let ranges = [(0, 1000), (1000, 2000), (1000, 4000), (2000, 3000)];
        assert_eq!(session(&ranges, Some(3000)).offset(), 3000);
        assert_eq!(session(&ranges, Some(4000)).offset(), 4000);
        assert_eq!(session(&ranges, Some(4000)).strays.len(), 2);
    }

    #[test]
    fn an_offset_that_was_gone_on_from_is_an_old_one() {
        let ranges = [(0, 1000), (1000, 2000), (1000, 1500)];
        for old in [0, 1000, 700] {
            assert_eq!(session(&ranges, Some(old)).offset(), 2000, "{old}");
        }
        assert_eq!(session(&ranges, None).offset(), 2000);
    }

    #[test]
    fn what_follows_a_gap_does_not_count() {
        assert_eq!(session(&[(0, 10), (11, 20)], None).offset(), 10);
        assert_eq!(session(&[(5, 10)], Some(10)).offset(), 0);
        assert_eq!(session(&[], Some(10)).offset(), 0);
    }

    #[test]
    fn what_is_in_memory_is_kept_where_it_is_one_of_equal_ways() {
        let ranges = [(0, 10), (0, 10), (10, 20)];
        for first in ["0-0", "0-1"] {
            let of = |key: &str| Piece { key: key.parse().expect("a key"), size_bytes: 10 };
            let pieces = vec![of(first), of("10-2")];
            let known = Session { pieces: pieces.clone(), hash: None, strays: Vec::new() };
            let session = stored(&ranges).session(Some(20), Some(&known));
            assert_eq!(session.pieces, pieces);
            assert_eq!(session.strays.len(), 1);
        }
    }

    proptest! {
        #[test]
        fn pieces_join_up_and_every_other_one_is_a_stray(
            ranges in proptest::collection::vec((0_u64..8, 1_u64..8), 0..20),
            claimed in proptest::option::of(0_u64..16),
        ) {
            let ranges: Vec<_> = ranges.iter().map(|(start, size)| (*start, start + size)).collect();
            let session = session(&ranges, claimed);
            let mut offset = 0;
            for piece in &session.pieces {
                let (start, _) = piece.key.as_str().split_once('-').expect("as it was made");
                prop_assert_eq!(start.parse::<u64>().expect("a number"), offset);
                offset += piece.size_bytes;
            }
            prop_assert_eq!(session.pieces.len() + session.strays.len(), ranges.len());
            prop_assert!(!ranges.iter().any(|(start, _)| *start == offset));
        }
    }
}
