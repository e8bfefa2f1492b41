//! What the daemon says about itself: logs. Metrics are registered by the modules they measure.

mod log;

pub use log::{ACCESS_TARGET, Config, init};
