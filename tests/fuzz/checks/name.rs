//! Repository names, tags and references, held to a second reading of the specification's grammar that
//! goes from left to right, character by character.

use std::{iter::Peekable, str::Bytes};

use millpond::oci::{Digest, Reference, RepositoryName, Tag};

/// Longest repository name and longest tag, in bytes.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

pub(crate) fn check(text: &str) {
    let name = text.parse::<RepositoryName>();
    assert_eq!(name.is_ok(), text.len() <= NAME_MAX && is_name(text), "{text:?} as a name");
    if let Ok(name) = name {
        assert_eq!((name.as_str(), name.to_string().as_str()), (text, text));
    }
    let tag = text.parse::<Tag>();
    assert_eq!(tag.is_ok(), is_tag(text), "{text:?} as a tag");
    if let Ok(tag) = &tag {
        assert_eq!((tag.as_str(), tag.to_string().as_str()), (text, text));
    }
    match text.parse::<Reference>() {
        Ok(reference) => {
            assert_eq!(reference.to_string(), text);
            let as_digest = matches!(reference, Reference::Digest(_));
            assert_ne!(as_digest, tag.is_ok());
        }
        Err(_) => assert!(tag.is_err() && text.parse::<Digest>().is_err(), "{text:?}"),
    }
}

/// `component(/component)*`, where a component is `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_name(text: &str) -> bool {
    let mut rest = text.bytes().peekable();
    loop {
        if take(&mut rest, is_alphanumeric) == 0 {
            return false;
        }
        match rest.next() {
            None => return true,
            Some(b'/' | b'.') => {}
            Some(b'_') => {
                rest.next_if_eq(&b'_');
            }
            Some(b'-') => {
                take(&mut rest, |byte| byte == b'-');
            }
            Some(_) => return false,
        }
    }
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(text: &str) -> bool {
    let mut rest = text.bytes().peekable();
    let first = rest.next_if(|&byte| byte == b'_' || byte.is_ascii_alphanumeric());
    take(&mut rest, |byte| b"._-".contains(&byte) || byte.is_ascii_alphanumeric());
    first.is_some() && rest.next().is_none() && text.len() <= TAG_MAX
}

fn is_alphanumeric(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9')
}

/// Takes bytes as long as they are `wanted`; returns how many.
fn take(rest: &mut Peekable<Bytes<'_>>, wanted: fn(u8) -> bool) -> usize {
    std::iter::from_fn(|| rest.next_if(|&byte| wanted(byte))).count()
}
