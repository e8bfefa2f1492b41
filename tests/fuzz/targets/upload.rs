//! Upload sessions, whose whole state a client carries around in a URL.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::{
    arbitrary::{Arbitrary, Unstructured},
    fuzz_target,
};
use millpond::oci::{Algorithm, RepositoryName, UploadId, UploadPosition};

/// Milliseconds that an identity has room for.
const MILLIS_END: u64 = 1 << 48;

fuzz_target!(|bytes: &[u8]| {
    let repository: RepositoryName = "team/app".parse().expect("the name is well formed");
    if let Ok(text) = std::str::from_utf8(bytes) {
        check_text(text, &repository);
    }
    if let Ok(values) = <(u64, u64, Option<u64>, bool)>::arbitrary(&mut Unstructured::new(bytes)) {
        check_issued(values, &repository);
    }
});

/// What is accepted means the same when it is written down again.
fn check_text(text: &str, repository: &RepositoryName) {
    if let Ok(id) = text.parse::<UploadId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(position) = UploadPosition::parse(text, repository) {
        assert_eq!(UploadPosition::parse(&position.to_string(), repository), Ok(position));
    }
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
