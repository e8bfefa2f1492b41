//! What nodes ask each other about another registry, and answer: what is understood means the same when it is written
//! again.

use millpond::registry::{MirrorAnswer, MirrorQuestion};

pub(crate) fn check(form: &[u8]) {
    if let Ok(question) = MirrorQuestion::decode(form) {
        assert_eq!(MirrorQuestion::decode(&question.encode()), Ok(question));
    }
    if let Some(answer) = MirrorAnswer::decode(&form.to_vec().into()) {
        assert_eq!(MirrorAnswer::decode(&answer.encode()), Some(answer));
    }
}
