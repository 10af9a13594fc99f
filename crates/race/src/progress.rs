//! How far a race is, on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use super::{Options, Runner};

/// A bar on stderr. It moves only between starts, because drawing takes time. Dropping it removes it.
pub struct Progress(ProgressBar);

impl Progress {
    pub fn new(options: &Options) -> Self {
        let rounds = options.warmup + options.parallel.map_or(options.runs, |_| 1);
        let bar = ProgressBar::new(u64::from(rounds) * options.runners.len() as u64);
        // If the template is not understood, the bar keeps its default style.
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// The next start is this runner's.
    pub fn next(&self, runner: Runner) {
        self.0.set_message(runner.name());
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
