//! `coracle run --timings`: where the time of a boot goes.
//!
//! A [`Timeline`] notes when each [`Phase`] of a run ended, on the host's monotonic clock, and how many exits there had
//! been until then. The code that ends a phase gets the timeline as an argument and calls [`Timeline::mark`]. A timeline
//! that is off only tests an `Option`. docs/timings.md says what the figures mean.

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
pub use output::{Destination, Error, ReportWriter};
pub use phase::Phase;
pub use report::Report;
pub use timeline::Timeline;
