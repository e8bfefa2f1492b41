//! Digests: what is accepted is written back as it was, and what was computed is accepted.

use millpond::oci::{Algorithm, Digest, Hasher};

pub(crate) fn check(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        check_text(text);
    }
    check_computed(bytes);
}

fn check_text(text: &str) {
    let parsed = text.parse::<Digest>();
    assert_eq!(parsed.is_ok(), is_digest(text), "{text:?}");
    let Ok(digest) = parsed else { return };
    assert_eq!(digest.to_string(), text);
    assert_eq!(digest.hash().len(), digest.algorithm().hash_bytes());
    assert_eq!(Digest::from_parts(digest.algorithm().name(), &digest.hex()), Ok(digest));
}

fn is_digest(text: &str) -> bool {
    let hex = |hex: &str, digits: usize| {
        hex.len() == digits && hex.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
    };
    text.strip_prefix("sha256:").is_some_and(|rest| hex(rest, 64))
        || text.strip_prefix("sha512:").is_some_and(|rest| hex(rest, 128))
}

/// The two halves of the input have digests whose order is that of their written forms, and hashing them
/// one after the other is hashing the whole.
fn check_computed(bytes: &[u8]) {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut digests = Vec::new();
    for algorithm in Algorithm::ALL {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(first);
        hasher.update(second);
        assert_eq!(hasher.finish(), Digest::of(algorithm, bytes));
        digests.extend([Digest::of(algorithm, first), Digest::of(algorithm, second)]);
    }
    for digest in &digests {
        assert_eq!(digest.to_string().parse().as_ref(), Ok(digest));
        for other in &digests {
            assert_eq!(digest.cmp(other), digest.to_string().cmp(&other.to_string()));
        }
    }
}
