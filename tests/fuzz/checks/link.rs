//! `Link`: the next page is the target of the first link to one, whatever other links say.

use millpond::upstream::wire::next_page;

pub(crate) fn check(text: &str) {
    let next = next_page(text);
    if let Some(target) = next {
        let lower_case = text.to_ascii_lowercase();
        assert!(lower_case.contains("rel") && lower_case.contains("next"), "{text:?}");
        assert!(!target.contains(['<', '>']), "{text:?}");
        assert!(text.contains(&format!("<{target}>")), "{text:?}");
        let written = format!("<{target}>; rel=\"next\"");
        assert_eq!(next_page(&written), next, "{text:?} was written as {written:?}");
    }
    let first = format!("<first>; rel=next; {text}");
    assert_eq!(next_page(&first), Some("first"), "{text:?}");
    // What stands before the first link belongs to none.
    let links = text.find('<').map_or("", |at| &text[at..]);
    assert_eq!(next_page(links), next, "{text:?}");
    let behind = format!("<first>; rel=\"prev\", {links}");
    assert_eq!(next_page(&behind), next, "{text:?}");
    let last = format!("{links}<last>; title=a; rel=\"prev next\"");
    // Brackets that are open at the end take the last link with them.
    if next.is_none() && links.rfind('<') <= links.rfind('>') {
        assert_eq!(next_page(&last), Some("last"), "{text:?}");
    } else if next.is_some() {
        assert_eq!(next_page(&last), next, "{text:?}");
    }
}
