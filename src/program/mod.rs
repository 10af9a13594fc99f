//! A program in a guest, as whoever started it here sees it: a [`Session`] carries this process' stdin, stdout, stderr and
//! signals to it and from it, over a connection to the agent in the guest (crates/agent-protocol).

mod copy;
mod input;
mod output;
mod requests;
mod session;

pub use copy::{Copy, CopyEnded};
pub use input::Stdin;
pub use requests::{power_off, power_off_request, set_clock};
pub use session::{Ended, Session};
