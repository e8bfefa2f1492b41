//! The platforms that images are made for, as far as choosing among them needs.

use std::{fmt, str::FromStr};

use serde::Deserialize;

/// An operating system and a processor, in Go's words: `linux/arm64/v8`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    /// Empty where none is named.
    #[serde(default)]
    variant: String,
}

impl Platform {
    /// Whether content for `there` is what somebody means who asks for this platform. Without a variant,
    /// every variant is.
    pub(super) fn includes(&self, there: &Self) -> bool {
        self.os == there.os
            && self.architecture == there.architecture
            && (self.variant.is_empty() || self.full_variant() == there.full_variant())
    }

    /// Whether anything runs on it. Attestations stand in an index under `unknown/unknown`.
    pub(super) fn is_known(&self) -> bool {
        let known = |word: &str| !word.is_empty() && word != "unknown";
        known(&self.os) && known(&self.architecture)
    }

    /// The variant, or the one that is meant where none is named: containerd's `platforms.Normalize`.
    fn full_variant(&self) -> &str {
        match (self.architecture.as_str(), self.variant.as_str()) {
            ("amd64", "") => "v1",
            ("arm64", "" | "8") => "v8",
            ("arm", "" | "7") => "v7",
            (_, variant) => variant,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// Why a text is no platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a platform is OS/ARCH or OS/ARCH/VARIANT, for example linux/amd64 or linux/arm/v7")]
pub(super) struct InvalidPlatform;

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_word = |word: &str| !word.is_empty() && word.bytes().all(is_inner);
        let text = text.to_ascii_lowercase();
        let words: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match words[..] {
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] if is_word(variant) => (os, architecture, variant),
            _ => return Err(InvalidPlatform),
        };
        if !is_word(os) || !is_word(architecture) {
            return Err(InvalidPlatform);
        }
        // What `uname -m` says.
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let [os, architecture, variant] = [os, architecture, variant].map(str::to_owned);
        Ok(Self { os, architecture, variant })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn a_platform_includes_its_variants() {
        for (asked, there) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64/v8"),
            ("linux/arm", "linux/arm/v6"),
            ("linux/arm/v7", "linux/arm"),
            ("linux/arm64/v8", "linux/arm64"),
        ] {
            assert!(platform(asked).includes(&platform(there)), "{asked} includes {there}");
        }
        for (asked, there) in [
            ("linux/amd64", "windows/amd64"),
            ("linux/arm", "linux/arm64"),
            ("linux/arm/v6", "linux/arm"),
            ("linux/amd64/v3", "linux/amd64"),
        ] {
            assert!(!platform(asked).includes(&platform(there)), "{asked} is not {there}");
        }
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v7/x", "linux/a b"] {
            assert_eq!(bad.parse::<Platform>(), Err(InvalidPlatform), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic_and_read_back_as_shown(text in "([a-z0-9/]|\\PC){0,30}") {
            if let Ok(platform) = text.parse::<Platform>() {
                prop_assert!(platform.includes(&platform));
                prop_assert_eq!(platform.to_string().parse(), Ok(platform));
            }
        }
    }
}
