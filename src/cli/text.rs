//! Quantities and failures in the words of the progress report.

use std::{error::Error, time::Duration};

/// Units of bytes, each 1024 times the one before.
const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A number of bytes in at most ten characters: `17 B`, `345.6 MiB`.
pub(super) fn bytes(count: u64) -> String {
    let scale = (0..UNITS.len()).rev().find(|&scale| count >> (10 * scale) > 0).unwrap_or(0);
    if scale == 0 {
        return format!("{count} B");
    }
    // Rounded down, so that it never shows 1024.0, nor everything before everything is there.
    let tenths = (u128::from(count) * 10) >> (10 * scale);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[scale])
}

/// A stretch of time: `0.4 s`, `3 min 12 s`, `2 h 5 min`.
pub(super) fn time(stretch: Duration) -> String {
    let seconds = stretch.as_secs();
    match seconds {
        0..60 => format!("{seconds}.{} s", stretch.subsec_millis() / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// So many of something: `1 blob`, `2 blobs`.
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A share in percent, rounded down; 0 while the whole is not known.
pub(super) fn percent(part: u64, whole: u64) -> u64 {
    let share = (u128::from(part.min(whole)) * 100).checked_div(u128::from(whole)).unwrap_or(0);
    u64::try_from(share).unwrap_or(100)
}

/// An error and everything that caused it, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        // Some errors already quote their cause.
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        cause = error.source();
    }
    text
}

/// The same text without what could move the cursor or change colours: parts of it come from the network.
pub(super) fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_shown_in_the_largest_unit_that_they_fill() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1023.9 KiB"),
            (362_387_865, "345.5 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
    }

    #[test]
    fn times_are_shown_as_people_say_them() {
        for (millis, shown) in [
            (0, "0.0 s"),
            (430, "0.4 s"),
            (59_999, "59.9 s"),
            (192_000, "3 min 12 s"),
            (7_500_000, "2 h 5 min"),
        ] {
            assert_eq!(time(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn shares_and_numbers_are_shown_in_full() {
        assert_eq!((percent(0, 0), percent(999, 1000), percent(5, 4)), (0, 99, 100));
        assert_eq!((count(1, "blob"), count(0, "blob")), ("1 blob".into(), "0 blobs".into()));
    }

    #[test]
    fn a_message_from_the_network_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\nc\u{9b}"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}");
    }

    proptest! {
        #[test]
        fn bytes_never_take_more_than_ten_characters(count in any::<u64>(), shift in 0_u32..64) {
            prop_assert!(bytes(count >> shift).len() <= 10);
        }
    }
}
