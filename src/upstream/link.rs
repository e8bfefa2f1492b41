//! `Link`: where the next page of a listing is (RFC 8288, as far as registries use it).

use http::{HeaderMap, header};

/// The target of the first link whose relation is `next`, as it was written.
pub(super) fn next(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
    values.filter_map(next_of).map(str::to_owned).next()
}

/// The same, of one value of the header.
#[must_use]
pub fn next_of(value: &str) -> Option<&str> {
    let is_to_next = |(_, parameters): &(&str, &str)| parameters.split(';').any(is_next);
    links(value).find(is_to_next).map(|(target, _)| target)
}

/// Each target in angle brackets with what stands between it and the next one.
fn links(value: &str) -> impl Iterator<Item = (&str, &str)> {
    value.split('<').skip(1).filter_map(|link| link.split_once('>'))
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.trim_matches([' ', ',', '\t']).split_once('=') else {
        return false;
    };
    let relations = value.trim().trim_matches('"');
    name.trim().eq_ignore_ascii_case("rel")
        && relations.split(' ').any(|relation| relation.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::LINK, value.parse().unwrap());
        next(&headers)
    }

    #[test]
    fn the_next_page_is_found_among_other_links() {
        for (value, expected) in [
            (r#"</v2/a/tags/list?n=2&last=b>; rel="next""#, Some("/v2/a/tags/list?n=2&last=b")),
            ("<https://r/v2/x?n=1>;rel=next", Some("https://r/v2/x?n=1")),
            (r#"</p>; rel="prev", </n>; title="x"; rel="last NEXT""#, Some("/n")),
            (r#"</p>; rel="prev""#, None),
            ("nonsense", None),
            ("</n", None),
        ] {
            assert_eq!(of(value).as_deref(), expected, "{value}");
        }
        assert_eq!(next(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn any_value_is_parsed_without_panic(value in "[ -~]{0,60}") {
            let _ = of(&value);
        }
    }
}
