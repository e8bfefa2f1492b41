//! Patterns of repository names, held to a second reading of what they stand for that tries everything. The
//! input is a pattern, a line break and a name.

use millpond::{
    oci::RepositoryName,
    upstream::{Pattern, Repositories},
};

/// Longest pattern, as documented.
const PATTERN_MAX_BYTES: usize = 255;

pub(crate) fn check(text: &str) {
    let (text, name) = text.split_once('\n').unwrap_or((text, "library/nginx"));
    let pattern = text.parse::<Pattern>();
    assert_eq!(pattern.is_ok(), is_pattern(text), "{text:?}");
    let (Ok(pattern), Ok(name)) = (pattern, name.parse::<RepositoryName>()) else { return };
    let has = pattern.has(&name);
    assert_eq!(has, stands_for(text, name.as_str()), "{text:?} and {name}");
    for (allow, deny, expected) in [
        (vec![pattern.clone()], Vec::new(), has),
        (Vec::new(), vec![pattern.clone()], !has),
        (vec![pattern.clone()], vec![pattern], false),
    ] {
        assert_eq!(Repositories { allow, deny }.has(&name), expected, "{text:?} and {name}");
    }
}

fn is_pattern(text: &str) -> bool {
    let is_known = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-' | '*');
    let is_component = |component: &str| {
        let is_name = !component.is_empty() && component.chars().all(is_known);
        is_name && (component == "**" || component.matches("**").count() == 0)
    };
    text.len() <= PATTERN_MAX_BYTES && text.split('/').all(is_component)
}

fn stands_for(pattern: &str, name: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let name: Vec<&str> = name.split('/').collect();
    matches(&pattern, &name, &"**", |part, component| {
        let (part, component) = (part.as_bytes(), component.as_bytes());
        matches(part, component, &b'*', |part, byte| part == byte)
    })
}

/// For every beginning of the pattern, which beginnings of the items it stands for, where `any` stands for any
/// number of items.
fn matches<T: PartialEq>(
    pattern: &[T],
    items: &[T],
    any: &T,
    is_one: impl Fn(&T, &T) -> bool,
) -> bool {
    // Of the empty beginning: only nothing.
    let mut reached: Vec<bool> = (0..=items.len()).map(|length| length == 0).collect();
    for part in pattern {
        let mut next = vec![false; items.len() + 1];
        for length in 0..=items.len() {
            next[length] = if part == any {
                reached[length] || (length > 0 && next[length - 1])
            } else {
                length > 0 && reached[length - 1] && is_one(part, &items[length - 1])
            };
        }
        reached = next;
    }
    reached[items.len()]
}
