//! The person's terminal, and the guest's serial console on it.

mod escape;
mod input;
mod output;
mod session;
mod signals;
mod tell;
mod terminal;
mod wait;

pub use output::{Drain, Output};
pub use session::{End, Session};
pub use signals::{Signals, ignore_file_size_limit};
pub use tell::tell;
pub use terminal::{Terminal, size as terminal_size};
