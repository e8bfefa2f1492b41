//! Settings read from a file and the environment, with every problem reported at once.
//!
//! A module reads its own [`Section`] key by key and so says, in one place, what a key is called, what
//! it accepts and what it defaults to. The section remembers what was read: keys nobody asked for are
//! problems, and the effective configuration can be shown.

mod problem;
mod section;
mod setting;
mod tree;

pub use problem::{Problem, SettingsError};
pub use section::Section;
pub(crate) use setting::choices;
pub use setting::{ByteSize, Secret, Setting};
pub use tree::{Environment, Settings};
