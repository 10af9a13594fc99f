//! `coracle run --timings`: where the time of a boot goes.
//!
//! A [`Timeline`] notes when each [`Phase`] of a run ended, on the host's monotonic clock, and how many exits there
//! had been. It is handed to whoever reaches such a moment; one that is off costs a look at an `Option`.
//! docs/timings.md says what the figures mean.

mod console;
mod exits;
mod memory;
mod output;
mod phase;
mod report;
mod table;
mod timeline;
mod waterfall;

pub use exits::Tally;
pub use output::{Destination, Error, Output};
pub use phase::Phase;
pub use report::Report;
pub use timeline::Timeline;
