//! What registries of one cluster say to each other: what is understood has one written form, which is the text itself.

use std::{fmt, str::FromStr};

use millpond::registry::{Forget, Link, LinkQuestion};

pub(crate) fn check(text: &str) {
    one_form::<Forget>(text);
    one_form::<LinkQuestion>(text);
    one_form::<Link>(text);
}

fn one_form<T: FromStr + fmt::Display>(text: &str) {
    if let Ok(understood) = text.parse::<T>() {
        assert_eq!(understood.to_string(), text);
    }
}
