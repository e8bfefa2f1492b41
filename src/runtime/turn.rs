//! Taking turns.

use tokio::task::coop::consume_budget;

/// How many bytes are one part of a turn. tokio gives a task 128 parts each time it is polled, so a turn has 2 MiB.
const BYTES_OF_A_PART: u64 = 16 << 10;

/// Lets other tasks go first if this one has had its turn, with `bytes` that it is about to hand on without waiting for
/// anything. Who is sent what lies in memory would otherwise never wait.
///
/// A task that waits in between, as for a socket to become free, begins another turn. Not every piece is a turn
/// of its own, because to give one up is dear where nobody else wants it: the worker looks for other work, and when it
/// finds only the same task again, wakes another worker to look in its place.
pub async fn take_turns(bytes: u64) {
    for _ in 0..bytes.div_ceil(BYTES_OF_A_PART) {
        consume_budget().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn, pin::pin};

    use super::*;

    #[tokio::test]
    async fn a_task_that_does_not_wait_has_2_mib_in_a_turn() {
        const PIECE_BYTES: u64 = 100 << 10;
        let pieces = Cell::new(0);
        let mut sending = pin!(async {
            while pieces.get() < 60 {
                take_turns(PIECE_BYTES).await;
                pieces.set(pieces.get() + 1);
            }
        });
        let mut after_turns = Vec::new();
        poll_fn(|context| {
            let polled = sending.as_mut().poll(context);
            after_turns.push(pieces.get());
            polled
        })
        .await;
        assert_eq!(after_turns, [18, 36, 54, 60]);
    }
}
