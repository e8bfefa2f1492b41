//! When an upstream was last heard of.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// When the upstream last gave something that was asked for, if it has not failed since.
#[derive(Debug, Default)]
pub(super) struct Heard {
    last: Mutex<Option<Instant>>,
}

impl Heard {
    /// It gave what it was asked for, or a piece of it.
    pub(super) fn now(&self) {
        self.set(Some(Instant::now()));
    }

    /// It failed.
    pub(super) fn failed(&self) {
        self.set(None);
    }

    /// Whether it was heard of in the time before now, and has not failed since.
    pub(super) fn is_within(&self, time: Duration) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < time)
    }

    fn set(&self, last: Option<Instant>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_heard_of_for_a_while_unless_it_fails() {
        let (heard, while_ago) = (Heard::default(), Duration::from_secs(10));
        assert!(!heard.is_within(while_ago));
        heard.now();
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(heard.is_within(while_ago));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!heard.is_within(while_ago));
        heard.now();
        heard.failed();
        assert!(!heard.is_within(while_ago));
    }
}
