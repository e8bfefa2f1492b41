//! What the daemon says about itself: logs. Metrics are registered by the modules they measure.

mod gauge;
mod log;

pub use gauge::register_gauge;
pub use log::{ACCESS_TARGET, Config, init};
