//! What the registries of one cluster tell each other, and what they answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Registry,
    mirror::{MIRROR, Question},
    readings::{LINK, answer},
    words::{Forget, InvalidWords, LinkQuestion},
};
use crate::{
    cluster::{Colleagues, wire::CallAnswer},
    runtime::Tasks,
};

/// The call by which other nodes are told what they shall not believe any more.
const FORGET: &str = "forget";

/// How long a change waits until all nodes know of it. A node that does not answer for so long may go on believing what
/// it believes, as it would if there were no messages.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);

/// The same, for who goes on with an upload: nothing is wrong if another node goes on with it too.
const TAKEN_PATIENCE: Duration = Duration::from_millis(300);

/// Tells other nodes what they shall not believe any more; nobody, if there are none.
#[derive(Clone, Debug)]
pub(super) struct News {
    colleagues: Option<Colleagues>,
    tasks: Tasks,
}

impl News {
    pub(super) fn new(colleagues: Option<Colleagues>, tasks: Tasks) -> Self {
        Self { colleagues, tasks }
    }

    /// Tells it, and waits until all know it, but not for long.
    pub(super) async fn tell(&self, forget: &Forget) {
        let Some(colleagues) = &self.colleagues else { return };
        let patience = match forget {
            Forget::UploadTaken(_) => TAKEN_PATIENCE,
            Forget::Link { .. } | Forget::Blob(_) | Forget::UploadEnded(_) => NEWS_PATIENCE,
        };
        let told = colleagues.tell_all(FORGET, Bytes::from(forget.to_string()), patience).await;
        tracing::debug!(%forget, told, "other nodes were told to forget");
    }

    /// Tells it without waiting.
    pub(super) fn tell_later(&self, forget: Forget) {
        if self.colleagues.is_some() {
            let news = self.clone();
            self.tasks.spawn("tell other nodes", async move { news.tell(&forget).await });
        }
    }
}

impl Registry {
    /// Answers a small question of another node, or takes note of what it says.
    pub async fn answer(self: &Arc<Self>, name: &str, question: &[u8]) -> CallAnswer {
        let text = std::str::from_utf8(question).unwrap_or_default();
        match name {
            LINK => match text.parse() {
                Ok(question) => self.answer_link(question).await,
                Err(error) => refused(name, &error),
            },
            FORGET => match text.parse() {
                Ok(forget) => {
                    self.forget(&forget).await;
                    CallAnswer::Answered(Bytes::new())
                }
                Err(error) => refused(name, &error),
            },
            MIRROR => match Question::decode(question) {
                Ok(question) => Box::pin(self.answer_mirror(question)).await,
                Err(error) => refused(name, &error),
            },
            _ => CallAnswer::Unknown,
        }
    }

    /// Believes something no more, because another process has changed it.
    pub async fn forget(&self, forget: &Forget) {
        match forget {
            Forget::Link { kind, repository, digest } => {
                self.links.forget(&(*kind, repository.clone(), *digest));
            }
            Forget::Blob(digest) => self.content.forget(digest).await,
            Forget::UploadTaken(id) => self.sessions.let_go(id).await,
            Forget::UploadEnded(id) => {
                self.sessions.let_go(id).await;
                self.sessions.end(id).await;
            }
        }
    }

    async fn answer_link(&self, question: LinkQuestion) -> CallAnswer {
        match self.links.answer(question).await {
            Ok(found) => CallAnswer::Answered(answer(found)),
            // Whoever asks now reads it itself, and tells its client why that fails.
            Err(error) => {
                tracing::debug!(%error, "a link could not be read for another node");
                CallAnswer::Failed { is_retryable: true }
            }
        }
    }
}

/// What a node is told whose words make no sense here; it may be of another version.
fn refused(name: &str, error: &InvalidWords) -> CallAnswer {
    tracing::debug!(name, %error, "another node was not understood");
    CallAnswer::Failed { is_retryable: false }
}
