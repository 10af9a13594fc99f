//! The guest's console ([`Console`]), to which code attaches and from which it detaches, and a [`Session`], which attaches stdin
//! and stdout to it: they may be a person's terminal.

mod colours;
mod escape;
mod far;
mod guest_modes;
mod identity;
mod input;
mod keeper;
mod kept;
mod keyboard;
mod menu;
mod out_of_memory;
mod output;
mod pager;
mod panic;
mod record;
mod replay;
mod session;
mod signals;
mod stderr;
mod stream;
mod terminal;
mod wait;

pub use colours::Colours;
pub(crate) use escape::{Command, Escape, PROGRAM_KEYS};
pub use far::{Far, FarKeyboard, show as show_far};
pub(crate) use guest_modes::GuestModes;
pub use input::Source;
pub use keeper::{Work, leave_to_parent};
pub use keyboard::{Keyboard, Keys};
pub use menu::Steered;
pub(crate) use menu::{Menu, Place};
pub use out_of_memory::{NotingAllocator, end_at_once, end_on_lack_of_memory};
pub use output::{Drain, GuestOutput};
pub use panic::end_on_panic;
pub use session::{Session, StopReason, Woken};
pub(crate) use signals::{Request, suspend};
pub use signals::{Signals, ignore_file_size_limit, with_all_blocked as with_all_signals_blocked};
pub use stderr::{finish as finish_stderr, log_line, tell, write_by_thread as write_stderr_by_thread};
pub(crate) use stderr::{start_wanted as start_wanted_stderr, wanted as wanted_stderr};
pub use stream::{Console, Pace, Read, Reader, Waker};
pub use terminal::size as terminal_size;
pub(crate) use terminal::{Terminal, is_in_foreground};
pub use wait::{For, wait};
pub(crate) use wait::{borrow, is_ready_for_writing};
