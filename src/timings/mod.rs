//! `coracle run --timings`: where the time of a boot goes, as a table, as JSON and as a picture, made of what a
//! [`Timeline`](crate::timeline::Timeline) noted. docs/timings.md says what the figures mean.

mod output;
mod report;
mod table;
mod waterfall;

pub use output::{Destination, Error, ReportWriter};
pub use report::Report;
