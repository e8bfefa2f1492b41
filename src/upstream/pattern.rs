//! Patterns of repository names: which repositories of an upstream may be mirrored.

use std::str::FromStr;

use crate::{oci::RepositoryName, runtime::Setting};

/// Longest pattern; a repository name has no more either.
const MAX_PATTERN_BYTES: usize = 255;

/// A pattern of repository names.
///
/// Components are joined by `/`. In a component, `*` stands for any characters, also for none; all other
/// characters stand for themselves. The component `**` stands for any number of components, also for
/// none. So `library/*` has `library/nginx` and not `library/a/b`; `team/**` has `team`, `team/a` and
/// `team/a/b`; `**/base-*` has `base-os` and `a/b/base-os`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

/// Why a text is no [`Pattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pattern has lower-case components joined by '/', with '*' or a component '**' in them")]
pub struct InvalidPattern;

/// Which repositories of an upstream may be mirrored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repositories {
    /// Only these; all, if there is no pattern here.
    pub allow: Vec<Pattern>,
    /// Never these, also where they are allowed.
    pub deny: Vec<Pattern>,
}

impl Repositories {
    /// Whether `repository` may be mirrored.
    #[must_use]
    pub fn has(&self, repository: &RepositoryName) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.has(repository));
        (self.allow.is_empty() || any(&self.allow)) && !any(&self.deny)
    }
}

impl Pattern {
    /// Whether the pattern stands for `repository`, among others.
    #[must_use]
    pub fn has(&self, repository: &RepositoryName) -> bool {
        let pattern: Vec<&str> = self.text.split('/').collect();
        let name: Vec<&str> = repository.as_str().split('/').collect();
        let is_any = |component: &&str| *component == "**";
        fits(&pattern, &name, is_any, |pattern, component| {
            fits(pattern.as_bytes(), component.as_bytes(), |&byte| byte == b'*', PartialEq::eq)
        })
    }
}

/// Whether `items` match `pattern`, some of whose parts stand for any number of items.
///
/// Goes back to the last such part only, which is enough, and takes at most `items * pattern` steps.
fn fits<P, T>(
    pattern: &[P],
    items: &[T],
    is_any: impl Fn(&P) -> bool,
    is_one: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut item) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while item < items.len() {
        match pattern.get(at) {
            Some(part) if is_any(part) => {
                retry = Some((at, item));
                at += 1;
            }
            Some(part) if is_one(part, &items[item]) => {
                at += 1;
                item += 1;
            }
            _ => {
                let Some((any, taken)) = retry else { return false };
                retry = Some((any, taken + 1));
                at = any + 1;
                item = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(is_any)
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_known = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-*".contains(&byte)
        };
        let is_component = |component: &str| {
            let is_plain = !component.contains("**") || component == "**";
            !component.is_empty() && component.bytes().all(is_known) && is_plain
        };
        if text.len() <= MAX_PATTERN_BYTES && text.split('/').all(is_component) {
            Ok(Self { text: text.to_owned() })
        } else {
            Err(InvalidPattern)
        }
    }
}

impl Setting for Pattern {
    const ACCEPTED: &'static str = "a pattern such as library/*, team/** or **/base-*";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.text.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    #[test]
    fn stars_stand_for_characters_and_double_stars_for_components() {
        let cases = [
            ("library/*", "library/nginx", true),
            ("library/*", "library", false),
            ("library/*", "library/a/b", false),
            ("team/**", "team", true),
            ("team/**", "team/a/b", true),
            ("team/**", "teams/a", false),
            ("**", "a/b/c", true),
            ("**/base-*", "base-os", true),
            ("**/base-*", "a/b/base-os", true),
            ("**/base-*", "a/base-os/b", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/z/c/z", true),
            ("a/**/z", "a/b/c", false),
            ("*-a*b", "x-aab", true),
            ("nginx", "nginx", true),
            ("nginx", "nginx2", false),
        ];
        for (text, repository, expected) in cases {
            assert_eq!(pattern(text).has(&name(repository)), expected, "{text} {repository}");
        }
    }

    #[test]
    fn what_is_denied_is_denied_also_where_it_is_allowed() {
        let repositories =
            Repositories { allow: vec![pattern("library/*")], deny: vec![pattern("**/secret")] };
        assert!(repositories.has(&name("library/nginx")));
        assert!(!repositories.has(&name("library/secret")));
        assert!(!repositories.has(&name("other/nginx")));
        assert!(Repositories::default().has(&name("anything/at/all")));
    }

    #[test]
    fn what_no_repository_can_be_called_is_no_pattern() {
        for bad in ["", "/", "a//b", "a/", "A", "a**", "***", "a b", "a?", "[ab]"] {
            assert_eq!(bad.parse::<Pattern>(), Err(InvalidPattern), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_name_fits_itself_and_itself_with_stars_put_in(
            text in "[a-z]{1,6}(/[a-z]{1,6}){0,4}", at in any::<prop::sample::Index>(),
        ) {
            prop_assert!(pattern(&text).has(&name(&text)));
            let at = at.index(text.len());
            let star = format!("{}*{}", &text[..at], &text[at..]);
            prop_assert!(pattern(&star).has(&name(&text)), "{}", star);
            let around = format!("**/{text}/**");
            prop_assert!(pattern(&around).has(&name(&text)));
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,30}") {
            let _ = text.parse::<Pattern>();
        }
    }
}
