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
    /// None until it is shown.
    bar: Option<ProgressBar>,
    /// It was in the store before.
    is_old: bool,
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
            is_old: false,
        };
        let mut layers: Vec<_> = layers.iter().map(layer).collect();
        if let Some(bars) = self.bars.as_ref().filter(|_| all_fit(layers.len())) {
            layers.iter_mut().for_each(|layer| drop(layer.bar(bars)));
        }
        *self.lock() = layers;
    }

    fn layer(&self, index: usize, event: Event) {
        let mut layers = self.lock();
        let fit = all_fit(layers.len());
        let Some(layer) = layers.get_mut(index) else {
            return;
        };
        layer.is_old |= event == Event::Exists;
        match &self.bars {
            Some(bars) => layer.draw(event, bars, fit),
            None if event == Event::Done => tell(format_args!("{}: {}", layer.name, layer.outcome())),
            None => {}
        }
    }
}

impl Layer {
    fn bar(&mut self, bars: &MultiProgress) -> ProgressBar {
        let bar = self.bar.get_or_insert_with(|| {
            let bar = bars.add(ProgressBar::new(self.size).with_prefix(self.name.clone()));
            bar.set_style(style("{prefix}: {msg}"));
            bar.set_message("Waiting");
            bar
        });
        bar.clone()
    }

    fn draw(&mut self, event: Event, bars: &MultiProgress, fit: bool) {
        let bar = self.bar(bars);
        match event {
            Event::Downloading(bytes) => {
                if bar.message() != "Downloading" {
                    let template = "{prefix}: {msg:<11} [{bar:40}] {decimal_bytes}/{decimal_total_bytes}";
                    bar.set_style(style(template));
                    bar.set_message("Downloading");
                }
                bar.set_position(bytes);
            }
            Event::Unpacking => bar.set_message("Extracting"),
            Event::Exists => {}
            Event::Done if fit => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.finish_with_message(self.outcome());
            }
            // More layers than lines: only those are shown that are worked at.
            Event::Done => {
                bar.finish_and_clear();
                bars.remove(&bar);
            }
        }
    }

    fn outcome(&self) -> &'static str {
        match self.is_old {
            true => "Already exists",
            false => "Pull complete",
        }
    }
}

/// Whether the terminal has a line for each layer.
fn all_fit(layers: usize) -> bool {
    let rows = terminal_size_of(stderr()).map_or(usize::MAX, |(_, Height(rows))| rows.into());
    layers + SPARE <= rows
}

/// If the template is not understood, a bar keeps its default style.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}
