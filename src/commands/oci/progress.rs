//! How far a pull is: a bar a layer on a terminal, and elsewhere a line for each layer that is done.

use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use coracle_images::Digest;
use coracle_images::registry::{Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use terminal_size::{Height, terminal_size_of};

use crate::console::tell;

/// Digits by which a layer is known.
const DIGITS: usize = 12;
/// Lines of a terminal that the bars leave to others.
const SPARE: usize = 3;

/// What is shown on stderr.
pub struct Shown {
    /// None if stderr is no terminal.
    bars: Option<MultiProgress>,
    layers: Mutex<Vec<Layer>>,
}

struct Layer {
    name: String,
    size: u64,
    /// From the first event on.
    bar: Option<ProgressBar>,
}

impl Shown {
    pub fn new() -> Self {
        Self {
            bars: stderr().is_terminal().then(MultiProgress::new),
            layers: Mutex::default(),
        }
    }

    /// Leaves the bars as they are. What is written to stderr later comes below them.
    pub fn finish(&self) {
        for layer in self.lock().iter() {
            layer.bar.iter().for_each(ProgressBar::abandon);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Layer>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Shown {
    fn layers(&self, layers: &[(Digest, u64)]) {
        let layer = |(digest, size): &(Digest, u64)| Layer {
            name: digest.hex().chars().take(DIGITS).collect(),
            size: *size,
            bar: None,
        };
        *self.lock() = layers.iter().map(layer).collect();
    }

    fn layer(&self, index: usize, event: Event) {
        let mut layers = self.lock();
        let count = layers.len();
        let Some(layer) = layers.get_mut(index) else {
            return;
        };
        match &self.bars {
            Some(bars) => layer.draw(event, bars, count),
            None => layer.tell(event),
        }
    }
}

impl Layer {
    fn draw(&mut self, event: Event, bars: &MultiProgress, count: usize) {
        let bar = self.bar.get_or_insert_with(|| {
            let bar = bars.add(ProgressBar::new(self.size).with_prefix(self.name.clone()));
            bar.set_style(style("{prefix}: {msg:<11} [{bar:40}] {bytes}/{total_bytes}"));
            bar
        });
        match event {
            Event::Downloading(bytes) => {
                bar.set_message("Downloading");
                bar.set_position(bytes);
            }
            Event::Unpacking => bar.set_message("Extracting"),
            Event::Exists => self.end(bars, count, "Already exists"),
            Event::Done => self.end(bars, count, "Pull complete"),
        }
    }

    /// The last that is said of the layer.
    fn end(&mut self, bars: &MultiProgress, count: usize, words: &'static str) {
        let Some(bar) = self.bar.as_ref().filter(|bar| !bar.is_finished()) else {
            return;
        };
        let rows = terminal_size_of(stderr()).map_or(usize::MAX, |(_, Height(rows))| rows.into());
        match count + SPARE > rows {
            // More layers than lines: only those are shown that are worked at.
            true => {
                bar.finish_and_clear();
                bars.remove(bar);
            }
            false => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.finish_with_message(words);
            }
        }
    }

    fn tell(&self, event: Event) {
        match event {
            Event::Exists => tell(format_args!("{}: Already exists", self.name)),
            Event::Done => tell(format_args!("{}: Pull complete", self.name)),
            Event::Downloading(_) | Event::Unpacking => {}
        }
    }
}

/// If the template is not understood, a bar keeps its default style.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}
