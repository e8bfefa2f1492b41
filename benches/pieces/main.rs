//! What the small pieces cost of which every request and every byte is made: parsing, keys, hashes, the cache.
//!
//! Where something bounds a piece, that is measured beside it in the same run, as `limit …`: no parser that keeps a
//! name is faster than the copy it makes, and no chunk is filled faster than memory is written.
//!
//! ```text
//! cargo bench --bench pieces                       all, in three minutes
//! cargo bench --bench pieces -- --quick            all, roughly
//! cargo bench --bench pieces -- cache              only those whose name has this word
//! cargo bench --bench pieces -- --save-baseline x  to compare with: --baseline x
//! ```

mod bytes;
mod cache;
mod manifests;
mod words;

use std::time::Duration;

use criterion::Criterion;
use tikv_jemallocator::Jemalloc;

/// The longest row takes two milliseconds, so even that one is measured a thousand times.
const WARM_UP: Duration = Duration::from_secs(1);
const MEASUREMENT: Duration = Duration::from_secs(3);

/// As in the daemon.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() {
    let criterion = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASUREMENT);
    let mut criterion = criterion.configure_from_args();
    words::measure(&mut criterion);
    manifests::measure(&mut criterion);
    bytes::measure(&mut criterion);
    cache::measure(&mut criterion);
    criterion.final_summary();
}
