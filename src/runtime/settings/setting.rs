//! The types a setting can have.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

/// A type that one configuration key can hold.
pub trait Setting: Sized {
    /// What a value looks like, for error messages: "a duration such as 30s, 5m or 168h".
    const ACCEPTED: &'static str;

    /// Reads the written form; `None` if it is not accepted.
    fn read(text: &str) -> Option<Self>;

    /// The written form, as it would be read back.
    fn show(&self) -> String;
}

/// Makes an enum a setting whose values are words: `choices!(Format: "text" => Text, "json" => Json)`.
macro_rules! choices {
    ($type:ident: $first:literal => $first_variant:ident $(, $word:literal => $variant:ident)*) => {
        impl $crate::runtime::Setting for $type {
            const ACCEPTED: &'static str = concat!("one of ", $first $(, ", ", $word)*);

            fn read(text: &str) -> Option<Self> {
                match text {
                    $first => Some(Self::$first_variant),
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }

            fn show(&self) -> String {
                match self {
                    Self::$first_variant => $first.to_owned(),
                    $(Self::$variant => $word.to_owned(),)*
                }
            }
        }
    };
}
pub(crate) use choices;

/// A number of bytes, written `67108864`, `64MiB` or `1GB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Units of [`ByteSize`], the largest first.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// So many MiB.
    #[must_use]
    pub const fn mebibytes(count: u64) -> Self {
        Self(count << 20)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |&&(_, unit): &&(&str, u64)| self.0 >= unit && self.0.is_multiple_of(unit);
        match BYTE_UNITS.iter().find(exact) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Setting for ByteSize {
    const ACCEPTED: &'static str = "a number of bytes such as 64MiB, 1GB or 67108864";

    fn read(text: &str) -> Option<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let unit = unit.trim();
        let factor = match BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
            Some(&(_, factor)) => factor,
            None if unit.is_empty() => 1,
            None => return None,
        };
        number.checked_mul(factor).map(Self)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Units of durations, the largest first.
const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Setting for Duration {
    const ACCEPTED: &'static str = "a duration such as 500ms, 30s, 5m or 168h";

    fn read(text: &str) -> Option<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let unit = TIME_UNITS.iter().find(|(name, _)| *name == unit.trim())?.1;
        number.checked_mul(unit).map(Self::from_millis)
    }

    fn show(&self) -> String {
        let millis = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        let exact = |&&(_, unit): &&(&str, u64)| millis >= unit && millis.is_multiple_of(unit);
        match TIME_UNITS.iter().find(exact) {
            Some((name, unit)) => format!("{}{name}", millis / unit),
            None => "0s".to_owned(),
        }
    }
}

impl Setting for bool {
    const ACCEPTED: &'static str = "true or false";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    const ACCEPTED: &'static str = "a text";

    fn read(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Setting for PathBuf {
    const ACCEPTED: &'static str = "a path";

    fn read(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Setting for SocketAddr {
    const ACCEPTED: &'static str = "an address and a port such as 127.0.0.1:5000 or [::]:5000";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for usize {
    const ACCEPTED: &'static str = "a whole number";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A password, key or token: never shown, not even by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_and_durations_are_read_with_their_units() {
        assert_eq!(ByteSize::read("64MiB"), Some(ByteSize(64 << 20)));
        assert_eq!(ByteSize::read("1 gb"), Some(ByteSize(1_000_000_000)));
        assert_eq!(ByteSize::read("17"), Some(ByteSize(17)));
        assert_eq!(Duration::read("5m"), Some(Duration::from_mins(5)));
        for bad in ["", "-1", "1.5MiB", "MiB", "1XB", "99999999999TiB"] {
            assert_eq!(ByteSize::read(bad), None, "{bad}");
        }
        for bad in ["", "5", "s", "5 minutes", "1h30m"] {
            assert_eq!(Duration::read(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(number in 0_u64..1 << 50) {
            let size = ByteSize(number);
            prop_assert_eq!(ByteSize::read(&size.show()), Some(size));
            let duration = Duration::from_millis(number);
            prop_assert_eq!(Duration::read(&duration.show()), Some(duration));
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".to_owned())), "(hidden)");
    }
}
