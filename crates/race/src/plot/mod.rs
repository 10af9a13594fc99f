//! The plot of a race: for each runner a bar as long as its median, and a dot for each start on it.
//!
//! Nothing in it depends on colour, so that it prints in black and white.

pub mod axis;
mod draw;

use std::io::{self, Write};
use std::str::FromStr;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use plotters::prelude::{BitMapBackend, IntoDrawingArea, SVGBackend};

use super::{Error, Host, Options, Row, Runner, Statistics};

/// What kind of picture, and with it how many pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Svg,
    Png,
}

impl Format {
    /// By a file's name. None if the name has another ending.
    pub fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
            "svg" => Some(Self::Svg),
            "png" => Some(Self::Png),
            _ => None,
        }
    }
}

/// Everything that is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    title: String,
    notes: Vec<String>,
    bars: Vec<Bar>,
    below: Vec<String>,
}

/// One runner, in milliseconds.
#[derive(Debug, Clone, PartialEq)]
struct Bar {
    name: String,
    is_ours: bool,
    median: f64,
    times: Vec<f64>,
}

impl Plot {
    /// The fastest is at the top. None when nothing was measured.
    pub fn new(rows: &[Row], options: &Options, host: &Host) -> Option<Self> {
        let mut bars: Vec<Bar> = rows.iter().filter_map(bar).collect();
        if bars.is_empty() {
            return None;
        }
        bars.sort_unstable_by(|one, other| one.median.total_cmp(&other.median));
        let line = match options.command.is_empty() {
            true => "init's first line",
            false => "the command's first line",
        };
        let starts = match options.parallel {
            Some(count) => format!("{count} starts of each at once"),
            None => format!("{} starts of each, in turns", options.runs),
        };
        let cache = if options.warmup > 0 {
            ", page cache warm"
        } else {
            ""
        };
        let mut notes = vec![
            format!(
                "{starts}{cache}; VMMs: the same kernel and initrd, {} MiB, {} vCPU",
                options.memory >> 20,
                options.cpus
            ),
            format!("Linux {}, {}", host.kernel, host.processor),
        ];
        notes.extend(host.caution().map(capitalised));
        let missing: Vec<&str> = rows
            .iter()
            .filter(|row| row.result.is_err())
            .map(|row| row.runner.name())
            .collect();
        let mut below = vec!["Bar: median. Dot: one start.".to_owned()];
        if !missing.is_empty() {
            below.push(format!("Not measured: {}.", missing.join(", ")));
        }
        Some(Self {
            title: format!("From process start to {line}"),
            notes,
            bars,
            below,
        })
    }

    /// The picture as a file's content.
    pub fn render(&self, format: Format) -> Result<Vec<u8>, Error> {
        draw::register_fonts()?;
        let size = self.size();
        match format {
            Format::Svg => {
                let mut text = String::new();
                let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
                self.draw(&area, 1)?;
                drop(area);
                Ok(text.into_bytes())
            }
            Format::Png => {
                let (width, height) = (size.0 * SAMPLES * PNG_SCALE, size.1 * SAMPLES * PNG_SCALE);
                let mut pixels = vec![0; (width * height * CHANNELS) as usize];
                let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
                self.draw(&area, SAMPLES * PNG_SCALE)?;
                drop(area);
                png(&smooth(&pixels, width), width / SAMPLES, height / SAMPLES)
            }
        }
    }
}

fn bar(row: &Row) -> Option<Bar> {
    let measured = row.result.as_ref().ok()?;
    let times: Vec<f64> = measured.times().iter().map(|time| time * 1e3).collect();
    let statistics = Statistics::of(&times)?;
    Some(Bar {
        name: row.runner.to_string(),
        is_ours: row.runner == Runner::Coracle,
        median: statistics.median,
        times,
    })
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

/// Red, green and blue.
const CHANNELS: u32 = 3;
/// A PNG has twice the pixels of the SVG's size, for screens that show them.
const PNG_SCALE: u32 = 2;
/// Each pixel is drawn as this many in both directions, so that circles are round.
const SAMPLES: u32 = 2;

/// Averages squares of pixels.
fn smooth(pixels: &[u8], width: u32) -> Vec<u8> {
    let (samples, channels) = (SAMPLES as usize, CHANNELS as usize);
    let line = width as usize * channels;
    let mut smoothed = Vec::with_capacity(pixels.len() / (samples * samples));
    for lines in pixels.chunks_exact(line * samples) {
        for column in (0..line).step_by(channels * samples) {
            for channel in 0..channels {
                let place = |x: usize, y: usize| y * line + column + x * channels + channel;
                let sum: usize = (0..samples)
                    .flat_map(|y| (0..samples).map(move |x| (x, y)))
                    .map(|(x, y)| usize::from(lines[place(x, y)]))
                    .sum();
                smoothed.push((sum / (samples * samples)) as u8);
            }
        }
    }
    smoothed
}

/// A PNG file of pixels of three bytes (W3C PNG, third edition). Its few parts are written here: a crate for them would
/// be thirty kilobytes.
fn png(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, Error> {
    let failed = |error: io::Error| Error::Plot(error.to_string());
    let mut data = ZlibEncoder::new(Vec::new(), Compression::default());
    for line in pixels.chunks((width * CHANNELS) as usize) {
        // Filter 0: none.
        data.write_all(&[0])
            .and_then(|()| data.write_all(line))
            .map_err(failed)?;
    }
    let mut head = [width.to_be_bytes(), height.to_be_bytes()].concat();
    // Eight bits a channel, true colour, and the only methods there are.
    head.extend([8, 2, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, content) in [
        (b"IHDR", head),
        (b"IDAT", data.finish().map_err(failed)?),
        (b"IEND", Vec::new()),
    ] {
        let checked = [kind.as_slice(), &content].concat();
        let mut sum = Crc::new();
        sum.update(&checked);
        file.extend((content.len() as u32).to_be_bytes());
        file.extend(checked);
        file.extend(sum.sum().to_be_bytes());
    }
    Ok(file)
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::of(name).ok_or_else(|| "a plot's file ends in .svg or .png".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::test_rows::{host, options, rows};

    fn plot() -> Plot {
        Plot::new(&rows(), &options(), &host()).unwrap()
    }

    #[test]
    fn the_fastest_is_at_the_top_and_nobody_is_left_out() {
        let plot = plot();
        let names: Vec<_> = plot.bars.iter().map(|bar| bar.name.as_str()).collect();
        assert_eq!(names, ["crun", "coracle"]);
        assert_eq!(plot.bars[1].median, 20.0);
        assert!(plot.below.contains(&"Not measured: podman.".into()));
    }

    #[test]
    fn an_svg_has_a_dot_for_each_start_and_no_loose_markup() {
        let svg = String::from_utf8(plot().render(Format::Svg).unwrap()).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        // Each dot is a black circle below a white one.
        assert_eq!(svg.matches("<circle").count(), 2 * 4, "{svg}");
        assert!(svg.contains("Some &lt;CPU&gt; &amp; more"), "{svg}");
    }

    #[test]
    fn a_png_has_twice_the_pixels_and_every_shade() {
        let plot = plot();
        let file = plot.render(Format::Png).unwrap();
        let mut reader = ::png::Decoder::new(Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let (width, height) = plot.size();
        assert_eq!((info.width, info.height), (width * PNG_SCALE, height * PNG_SCALE));
        for shade in [0, 70, 208, 255] {
            assert!(pixels.contains(&shade), "nothing has the shade {shade}");
        }
    }

    #[test]
    fn nothing_measured_is_no_plot() {
        assert_eq!(Plot::new(&rows()[2..], &options(), &host()), None);
    }

    #[test]
    fn a_files_name_says_what_it_is() {
        assert_eq!(Format::of("a.b/race.SVG"), Some(Format::Svg));
        assert_eq!(Format::of("race.png"), Some(Format::Png));
        assert_eq!(Format::of("png"), None);
        assert!("race.gif".parse::<Format>().is_err());
    }

    #[test]
    fn squares_of_pixels_are_averaged() {
        // Two lines of four pixels become one of two.
        let line = |values: [u8; 4]| values.into_iter().flat_map(|value| [value, 0, 255]);
        let pixels: Vec<u8> = line([0, 100, 8, 8]).chain(line([100, 200, 8, 8])).collect();
        assert_eq!(smooth(&pixels, 4), [100, 0, 255, 8, 0, 255]);
    }
}
