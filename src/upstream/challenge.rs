//! `WWW-Authenticate`: what a server wants to see before it answers (RFC 9110, section 11).

/// One challenge of a server, in a scheme that this module can answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Challenge {
    /// A name and a password.
    Basic,
    /// A token of a token server.
    Bearer(BearerChallenge),
}

/// Where to get a token, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BearerChallenge {
    /// URL of the token server.
    pub realm: String,
    /// What the token server calls the registry.
    pub service: Option<String>,
    /// What the token must allow; several are separated by spaces.
    pub scope: Option<String>,
}

/// A scheme and its parameters, as they were written.
#[derive(Debug, Default)]
struct Written<'a> {
    scheme: &'a str,
    parameters: Vec<(&'a str, String)>,
}

/// The challenges of all `values` of `WWW-Authenticate` that can be answered, in order. Schemes that are not
/// known are left out, and so is what does not follow the grammar.
pub fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    values.flat_map(parse_value).filter_map(Written::understood).collect()
}

impl Written<'_> {
    fn understood(self) -> Option<Challenge> {
        if self.scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !self.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |name: &str| {
            let found = self.parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        let (service, scope) = (parameter("service"), parameter("scope"));
        Some(Challenge::Bearer(BearerChallenge { realm: parameter("realm")?, service, scope }))
    }
}

/// The challenges of one header value. A comma separates challenges as well as the parameters of one; a
/// word with `=` after it is a parameter, and one without begins a challenge.
fn parse_value(value: &str) -> Vec<Written<'_>> {
    let mut found: Vec<Written<'_>> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        let (word, after) = token(rest);
        if word.is_empty() {
            // Not the grammar: whatever follows cannot be told apart.
            return found;
        }
        rest = after;
        match (after.trim_start_matches([' ', '\t']).strip_prefix('='), found.last_mut()) {
            (Some(after), Some(challenge)) => {
                let Some((parameter, after)) = parameter_value(after) else { return found };
                challenge.parameters.push((word, parameter));
                rest = after;
            }
            (Some(_), None) => return found,
            (None, _) => found.push(Written { scheme: word, parameters: Vec::new() }),
        }
    }
}

/// Splits the characters of a token, or of a `token68`, off the front.
fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// Splits the value of a parameter, in quotes or not, off the front; `None` if its quotes do not end.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        // Colons and more stand without quotes in what some servers send.
        let (value, rest) = text.split_at(text.find([',', ' ', '\t']).unwrap_or(text.len()));
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let (service, scope) = (text(service), text(scope));
        Challenge::Bearer(BearerChallenge { realm: realm.to_owned(), service, scope })
    }

    #[test]
    fn the_challenges_of_real_registries_are_understood() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull,push""#;
        let expected = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:library/nginx:pull,push"),
        );
        assert_eq!(parse([hub].into_iter()), [expected]);
        assert_eq!(parse([r#"Basic realm="Registry Realm""#].into_iter()), [Challenge::Basic]);
        assert_eq!(parse(["basic"].into_iter()), [Challenge::Basic]);
    }

    #[test]
    fn several_challenges_in_one_value_and_in_several_are_told_apart() {
        let one = r#"Negotiate abcd, BEARER Realm = "https://a/t?x=1,2" , service=s:1, Basic realm="a \"b\", c""#;
        let expected = [bearer("https://a/t?x=1,2", Some("s:1"), None), Challenge::Basic];
        assert_eq!(parse([one].into_iter()), expected);
        let two = [r#"Bearer realm="https://a""#, "Basic"];
        assert_eq!(parse(two.into_iter()), [bearer("https://a", None, None), Challenge::Basic]);
    }

    #[test]
    fn what_breaks_the_grammar_is_left_out() {
        for bad in
            ["", "=", "realm=\"x\"", "Bearer realm=\"x", "Bearer", "Bearer realm=\"\"", "\"\""]
        {
            assert_eq!(parse([bad].into_iter()), [], "{bad}");
        }
        let rest = "Basic, Bearer realm=\"https://a\\";
        assert_eq!(parse([rest].into_iter()), [Challenge::Basic]);
    }

    /// Writes a value in quotes as the grammar asks.
    fn quoted(value: &str) -> String {
        let escaped: String = value
            .chars()
            .flat_map(|c| ["\"\\".contains(c).then_some('\\'), Some(c)])
            .flatten()
            .collect();
        format!("\"{escaped}\"")
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            challenges in prop::collection::vec(
                prop_oneof![
                    Just(Challenge::Basic),
                    ("\\PC{1,20}", "\\PC{1,20}", proptest::option::of("\\PC{1,20}")).prop_map(
                        |(realm, service, scope)| {
                            bearer(&realm, Some(service.as_str()), scope.as_deref())
                        }
                    ),
                ],
                0..4,
            ),
        ) {
            let written: Vec<String> = challenges
                .iter()
                .map(|challenge| match challenge {
                    Challenge::Basic => "Basic realm=\"a, b\"".to_owned(),
                    Challenge::Bearer(BearerChallenge { realm, service, scope }) => {
                        let named = |name: &str, value: &Option<String>| {
                            value.as_ref().map(|value| format!("{name}={}", quoted(value)))
                        };
                        let realm = named("realm", &Some(realm.clone()));
                        let parts = [realm, named("service", service), named("scope", scope)];
                        format!("Bearer {}", parts.into_iter().flatten().collect::<Vec<_>>().join(","))
                    }
                })
                .collect();
            prop_assert_eq!(&parse([written.join(", ").as_str()].into_iter()), &challenges);
            prop_assert_eq!(&parse(written.iter().map(String::as_str)), &challenges);
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "[Bbasicer =,\"\\\\a-z\\PC]{0,60}") {
            let _ = parse([text.as_str()].into_iter());
        }
    }
}
