//! What the daemon says about itself: logs. Metrics are registered by the modules they measure.

mod counter;
mod gauge;
mod log;

pub use counter::{register_counter, register_counters};
pub use gauge::register_gauge;
pub use log::{ACCESS_TARGET, Config, init};
