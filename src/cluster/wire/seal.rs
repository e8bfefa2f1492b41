//! Messages that nobody else can have written.

use std::{fmt, sync::Arc};

use aws_lc_rs::{constant_time, hmac, rand};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Response, request::Parts};

use super::fields::{self, PREFIX, value};
use crate::{
    oci::{Algorithm, Digest},
    runtime::Secret,
};

/// Least length of a secret in bytes: of a shorter one, all could be tried against one message.
const SECRET_BYTES: usize = 16;

/// A body up to this length is hashed where it is; a longer one by another thread.
pub(super) const HASHED_AT_ONCE: usize = 64 << 10;

/// What the nodes of a cluster know and nobody else. Cloning shares it.
///
/// Each message has a *seal*: an HMAC-SHA256 over all that means anything in it, made with the secret. A seal of an
/// answer takes in the number that the request has drawn, so that no other answer can be put in its place.
#[derive(Clone)]
pub struct SharedSecret(Arc<hmac::Key>);

/// A secret is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret of at least {SECRET_BYTES} bytes is expected")]
pub struct ShortSecret;

impl SharedSecret {
    /// The secret with these words.
    ///
    /// # Errors
    /// If it is shorter than 16 bytes.
    pub fn new(secret: &Secret) -> Result<Self, ShortSecret> {
        let bytes = secret.expose().as_bytes();
        if bytes.len() < SECRET_BYTES {
            return Err(ShortSecret);
        }
        Ok(Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, bytes))))
    }

    /// Adds the seal to a request that has everything else.
    pub(super) fn seal_request(&self, (method, path): (&str, &str), headers: &mut HeaderMap) {
        let seal = self.seal(&["request", method, path], headers, &[fields::RANGE.as_str()]);
        headers.insert(&fields::SEAL, value(BASE64_URL_SAFE_NO_PAD.encode(seal)));
    }

    /// Whether a request has the seal that belongs to it.
    pub(super) fn is_request_sealed(&self, head: &Parts) -> bool {
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        let words = ["request", head.method.as_str(), path];
        is_seal(&head.headers, self.seal(&words, &head.headers, &[fields::RANGE.as_str()]))
    }

    /// Adds the seal to the answer to the request that has drawn `nonce`.
    pub(super) fn seal_answer<T>(&self, nonce: Nonce, head: &mut Response<T>) {
        let seal = self.answer_seal(nonce, head);
        head.headers_mut().insert(&fields::SEAL, value(BASE64_URL_SAFE_NO_PAD.encode(seal)));
    }

    /// Whether an answer has the seal that belongs to it.
    pub(super) fn is_answer_sealed<T>(&self, nonce: Nonce, head: &Response<T>) -> bool {
        is_seal(head.headers(), self.answer_seal(nonce, head))
    }

    fn answer_seal<T>(&self, nonce: Nonce, head: &Response<T>) -> hmac::Tag {
        let (status, nonce) = (head.status(), nonce.to_string());
        let words = ["answer", status.as_str(), &nonce];
        let described = [fields::CONTENT_LENGTH.as_str(), fields::CONTENT_RANGE.as_str()];
        self.seal(&words, head.headers(), &described)
    }

    /// The seal of the words, of all headers that are the protocol's, and of the `other` ones.
    fn seal(&self, words: &[&str], headers: &HeaderMap, other: &[&str]) -> hmac::Tag {
        let is_sealed = |name: &str| {
            (name.starts_with(PREFIX) && name != fields::SEAL.as_str()) || other.contains(&name)
        };
        let mut sealed: Vec<(&str, &[u8])> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .filter(|(name, _)| is_sealed(name))
            .collect();
        sealed.sort_unstable();
        let mut text = Vec::with_capacity(1024);
        // None of what is written here has a line break in it, so that nothing can pass for something else.
        for word in words {
            text.extend_from_slice(word.as_bytes());
            text.push(b'\n');
        }
        for (name, value) in sealed {
            text.extend_from_slice(name.as_bytes());
            text.push(b':');
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        hmac::sign(&self.0, &text)
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(hidden)")
    }
}

/// Whether `headers` have this seal. Takes as long for a wrong one as for the right one.
fn is_seal(headers: &HeaderMap, expected: hmac::Tag) -> bool {
    let given = headers.get(&fields::SEAL).map(|value| BASE64_URL_SAFE_NO_PAD.decode(value));
    match given {
        Some(Ok(given)) => {
            constant_time::verify_slices_are_equal(&given, expected.as_ref()).is_ok()
        }
        Some(Err(_)) | None => false,
    }
}

/// A number that is drawn for one request, and for no other ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Nonce(u128);

impl Nonce {
    pub(super) fn draw() -> Self {
        Self(drawn())
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        fields::hexadecimal(text, 32).map(Self)
    }

    /// So many of its bits that no two are taken for each other.
    pub(super) const fn short(self) -> u64 {
        self.0 as u64
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A number that nobody can guess.
pub(super) fn drawn() -> u128 {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).expect("the generator has been seeded when the library was loaded");
    u128::from_ne_bytes(bytes)
}

/// The digest of a body of any length.
///
/// # Cancel safety
/// May be dropped at any time.
pub(super) async fn digest_of(body: &Bytes) -> Digest {
    let of = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes);
    if body.len() <= HASHED_AT_ONCE {
        return of(body);
    }
    let body = body.clone();
    let hashed = tokio::task::spawn_blocking(move || of(&body)).await;
    hashed.expect("hashing does not panic, and nobody waits for it when the runtime goes down")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(text: &str) -> SharedSecret {
        SharedSecret::new(&Secret::new(text.to_owned())).unwrap()
    }

    fn request(path: &str) -> Parts {
        let mut head = http::Request::get(path).body(()).unwrap().into_parts().0;
        head.headers.insert(&fields::NONCE, value("a number"));
        head.headers.insert(&fields::RANGE, value("bytes=5-"));
        head.headers.insert("host", value("a name"));
        head
    }

    #[test]
    fn a_request_that_was_changed_is_told() {
        let secret = secret("as many bytes as it takes");
        let mut head = request("/v1/hello");
        secret.seal_request(("GET", "/v1/hello"), &mut head.headers);
        assert!(secret.is_request_sealed(&head));
        let changes: [fn(&mut Parts); 6] = [
            |head| head.method = http::Method::POST,
            |head| head.uri = "/v1/hello?".parse().unwrap(),
            |head| drop(head.headers.insert(&fields::RANGE, value("bytes=6-"))),
            |head| drop(head.headers.remove(&fields::NONCE)),
            |head| assert!(head.headers.append(&fields::NONCE, value("another"))),
            |head| drop(head.headers.insert(&fields::SEAL, value("nonsense"))),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut changed = head.clone();
            change(&mut changed);
            assert!(!secret.is_request_sealed(&changed), "change {number}");
        }
        head.headers.insert("host", value("another name"));
        assert!(secret.is_request_sealed(&head), "of no meaning");
    }

    #[test]
    fn an_answer_is_one_to_its_request_only() {
        let secret = secret("as many bytes as it takes");
        let (asked, other) = (Nonce::draw(), Nonce::draw());
        let mut head = Response::new(());
        secret.seal_answer(asked, &mut head);
        assert!(secret.is_answer_sealed(asked, &head));
        assert!(!secret.is_answer_sealed(other, &head));
        *head.status_mut() = http::StatusCode::NOT_FOUND;
        assert!(!secret.is_answer_sealed(asked, &head));
    }

    #[test]
    fn a_short_secret_is_refused_and_none_is_shown() {
        let short = Secret::new("fifteen bytes..".to_owned());
        assert_eq!(SharedSecret::new(&short).unwrap_err(), ShortSecret);
        assert!(!format!("{:?}", secret("sixteen bytes it")).contains("sixteen"));
    }

    proptest! {
        #[test]
        fn no_text_passes_for_a_seal_or_a_nonce(text in "[ -~]{0,60}") {
            let mut head = request("/v1/hello");
            head.headers.insert(&fields::SEAL, value(text.as_str()));
            prop_assert!(!secret("as many bytes as it takes").is_request_sealed(&head));
            if let Some(nonce) = Nonce::parse(&text) {
                prop_assert_eq!(nonce.to_string(), text);
            }
        }
    }
}
