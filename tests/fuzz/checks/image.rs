//! The images on the command line of `millpond prewarm`: what is read, shown again, means the same, and is what
//! container tools make of such a name.

use millpond::{
    cli::{Image, InvalidImage},
    oci::{Digest, RepositoryName, Tag},
};

pub(crate) fn check(text: &str) {
    match text.parse::<Image>() {
        Ok(image) => {
            let shown = image.to_string();
            assert_eq!(shown.parse().as_ref(), Ok(&image), "{text:?} is shown as {shown:?}");
            assert_eq!(Some(shown), expected(text), "{text:?}");
        }
        Err(error) => {
            assert_eq!(expected(text), None, "{text:?}: {error}");
            assert!(!error.to_string().is_empty());
            assert_eq!(error == InvalidImage::Scheme, text.contains("://"), "{text:?}");
        }
    }
}

/// How an image is shown, if `text` names one: `[registry/]name[:tag][@digest]`.
fn expected(text: &str) -> Option<String> {
    let (named, digest) = match text.find('@') {
        Some(at) => (&text[..at], Some(text[at + 1..].parse::<Digest>().ok()?)),
        None => (text, None),
    };
    // A tag follows the last colon, unless that is a port's.
    let at = named.rfind(':').filter(|at| !named[*at..].contains('/')).unwrap_or(named.len());
    let tag: Tag = named[at..].strip_prefix(':').unwrap_or("latest").parse().ok()?;
    let name = full_name(&named[..at])?;
    Some(match digest {
        Some(digest) => format!("{name}@{digest}"),
        None => format!("{name}:{tag}"),
    })
}

fn full_name(name: &str) -> Option<String> {
    let slash = name.find('/');
    let (first, rest) = slash.map_or(("", name), |at| (&name[..at], &name[at + 1..]));
    if let Some(colon) = first.rfind(':') {
        rest.parse::<RepositoryName>().ok()?;
        let is_good = is_host(&first[..colon]) && is_port(&first[colon + 1..]);
        return is_good.then(|| format!("{}/{rest}", first.to_ascii_lowercase()));
    }
    let full = match first {
        "docker.io" | "index.docker.io" if rest.contains('/') => format!("docker.io/{rest}"),
        "docker.io" | "index.docker.io" => format!("docker.io/library/{rest}"),
        _ => name.to_owned(),
    };
    full.parse::<RepositoryName>().ok().map(|name| name.to_string())
}

/// A name or an address; one of IPv6 is in brackets.
fn is_host(host: &str) -> bool {
    let has_brackets = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    let (inner, others) =
        if has_brackets { (&host[1..host.len() - 1], ":.") } else { (host, ".-_") };
    !inner.is_empty() && inner.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

fn is_port(port: &str) -> bool {
    let is_digits = port.chars().all(|c| c.is_ascii_digit());
    is_digits && port.parse::<u32>().is_ok_and(|port| (1..=65_535).contains(&port))
}
