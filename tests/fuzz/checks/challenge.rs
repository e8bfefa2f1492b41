//! `WWW-Authenticate`: what is understood means the same when it is written down by the grammar, and nothing
//! that follows a challenge changes where its token is to be had.

use millpond::upstream::wire::{BearerChallenge, Challenge, challenges};

/// A realm that no input has by chance.
const REALM: &str = "https://auth.example/token";

pub(crate) fn check(text: &str) {
    let found = challenges([text].into_iter());
    for challenge in &found {
        check_words(text, challenge);
    }
    let written: Vec<String> = found.iter().map(written).collect();
    assert_eq!(challenges([written.join(", ").as_str()].into_iter()), found, "{text:?}");

    let lines: Vec<&str> = text.lines().collect();
    let one_by_one: Vec<Challenge> =
        lines.iter().flat_map(|line| challenges([*line].into_iter())).collect();
    assert_eq!(challenges(lines.into_iter()), one_by_one, "{text:?}");

    check_quoted(text);
    let followed = format!("Bearer realm=\"{REALM}\", {text}");
    match challenges([followed.as_str()].into_iter()).first() {
        Some(Challenge::Bearer(bearer)) => assert_eq!(bearer.realm, REALM, "{text:?}"),
        other => panic!("{other:?} where a challenge is followed by {text:?}"),
    }
}

/// Each parameter stands in the text, whose quotes may have marked some of its characters.
fn check_words(text: &str, challenge: &Challenge) {
    let Challenge::Bearer(BearerChallenge { realm, service, scope }) = challenge else { return };
    let plain: String = text.chars().filter(|character| *character != '\\').collect();
    for word in [Some(realm), service.as_ref(), scope.as_ref()].into_iter().flatten() {
        assert!(!word.is_empty(), "{text:?} has nothing in {challenge:?}");
        let word: String = word.chars().filter(|character| *character != '\\').collect();
        assert!(plain.contains(&word), "{word:?} does not stand in {text:?}");
    }
}

/// Whatever a parameter has in it comes out of its quotes.
fn check_quoted(text: &str) {
    let realm = format!("Basic, Bearer realm={}, service=a", quoted(text));
    let mut expected = vec![Challenge::Basic];
    let service = Some("a".to_owned());
    let bearer = BearerChallenge { realm: text.to_owned(), service, scope: None };
    expected.extend((!text.is_empty()).then_some(Challenge::Bearer(bearer)));
    assert_eq!(challenges([realm.as_str()].into_iter()), expected, "{realm:?}");
}

fn written(challenge: &Challenge) -> String {
    let Challenge::Bearer(BearerChallenge { realm, service, scope }) = challenge else {
        return "Basic".to_owned();
    };
    let named = |name: &str, value: &str| format!("{name}={}", quoted(value));
    let others = [("service", service), ("scope", scope)];
    let others = others.iter().filter_map(|(name, value)| Some(named(name, value.as_ref()?)));
    let parameters: Vec<String> = others.chain([named("realm", realm)]).collect();
    format!("BEARER {}", parameters.join(" , "))
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}
