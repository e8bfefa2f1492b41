//! What every daemon needs under its feet: stopping, owning tasks, paying for memory, moving bytes,
//! and reading settings. Nothing here knows what a registry is.

mod budget;
mod buffers;
mod file_piece;
mod next_flight;
mod settings;
mod single_flight;
mod stream;
mod tasks;
mod turn;

pub use budget::{BudgetExhausted, ByteBudget, Permit};
pub(crate) use buffers::{BufferPool, Buffers, WINDOW_PIECES};
pub use file_piece::FilePiece;
pub use next_flight::NextFlight;
pub(crate) use settings::choices;
pub use settings::{
    ByteSize, Environment, Problem, Secret, Section, Setting, Settings, SettingsError,
};
pub use single_flight::{Flight, SingleFlight};
pub use stream::{BodyError, BodyStream, Pieces, until};
pub use tasks::{Abandoned, Shutdown, Tasks};
pub use turn::take_turns;
