//! How many connections a blob of an upstream may have.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// For so long it is believed that a second connection to the upstream brings nothing.
const BELIEVED: Duration = Duration::from_mins(10);

/// How many connections a blob may have, and what was found about that.
#[derive(Debug)]
pub(super) struct Several {
    most: usize,
    one_until: Mutex<Option<Instant>>,
}

impl Several {
    pub(super) const fn new(most: usize) -> Self {
        Self { most, one_until: Mutex::new(None) }
    }

    pub(super) fn most(&self) -> usize {
        let one_until = *self.one_until.lock().unwrap_or_else(PoisonError::into_inner);
        if one_until.is_some_and(|until| Instant::now() < until) { 1 } else { self.most }
    }

    pub(super) fn note_that_one_is_enough(&self) {
        let until = Instant::now() + BELIEVED;
        *self.one_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn that_one_is_enough_is_believed_for_a_while() {
        let several = Several::new(4);
        assert_eq!(several.most(), 4);
        several.note_that_one_is_enough();
        assert_eq!(several.most(), 1);
        tokio::time::advance(BELIEVED).await;
        assert_eq!(several.most(), 4);
    }
}
