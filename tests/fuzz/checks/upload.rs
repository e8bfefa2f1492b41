//! Upload sessions, whose whole state a client carries around in a URL.

use std::time::Duration;

use millpond::oci::{Algorithm, RepositoryName, UploadId, UploadPosition};

/// Milliseconds that an identity has room for.
const MILLIS_END: u64 = 1 << 48;

pub(crate) fn check(bytes: &[u8]) {
    let repository: RepositoryName = "team/app".parse().expect("the name is well formed");
    if let Ok(text) = std::str::from_utf8(bytes) {
        check_text(text, &repository);
    }
    check_issued(values(bytes), &repository);
}

/// What is accepted means the same when it is written down again.
fn check_text(text: &str, repository: &RepositoryName) {
    if let Ok(id) = text.parse::<UploadId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(position) = UploadPosition::parse(text, repository) {
        assert_eq!(UploadPosition::parse(&position.to_string(), repository), Ok(position));
    }
}

/// Time, randomness, offset and choice of algorithm, read as the `arbitrary` crate reads such a tuple, so that
/// seeds keep their meaning. The registry's own tests do without that crate.
fn values(mut bytes: &[u8]) -> (u64, u64, Option<u64>, bool) {
    let millis = number(&mut bytes);
    let random = number(&mut bytes);
    let offset = choice(&mut bytes).then(|| number(&mut bytes));
    (millis, random, offset, choice(&mut bytes))
}

fn number(bytes: &mut &[u8]) -> u64 {
    u64::from_le_bytes(take(bytes))
}

fn choice(bytes: &mut &[u8]) -> bool {
    let [byte] = take(bytes);
    byte & 1 == 1
}

/// Takes `COUNT` bytes; those that are not there are zeros.
fn take<const COUNT: usize>(bytes: &mut &[u8]) -> [u8; COUNT] {
    let mut taken = [0; COUNT];
    let (there, rest) = bytes.split_at(bytes.len().min(COUNT));
    taken[..there.len()].copy_from_slice(there);
    *bytes = rest;
    taken
}

/// What is issued is accepted, and says what was put into it.
fn check_issued(
    (millis, random, offset, long): (u64, u64, Option<u64>, bool),
    repository: &RepositoryName,
) {
    let started = Duration::from_millis(millis % MILLIS_END);
    let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
    let id = UploadId::new(repository, algorithm, started, random);
    let position = UploadPosition { id, offset };
    assert_eq!(UploadPosition::parse(&position.to_string(), repository), Ok(position));
    assert_eq!((id.started(), id.algorithm()), (started, algorithm));
}
