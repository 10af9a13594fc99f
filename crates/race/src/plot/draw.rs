//! Where everything is on the picture.

use super::axis::{label, step};
use plotters::coord::Shift;
use plotters::prelude::{
    Circle, Color, DrawingArea, DrawingAreaErrorKind, DrawingBackend, FontStyle, IntoFont, PathElement,
    RGBColor, Rectangle, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, ShapeStyle, TextStyle, WHITE, register_font};

use super::{Bar, Plot};
use crate::Error;

/// Roboto (Apache License 2.0), reduced to the characters that a plot has.
const REGULAR: &[u8] = include_bytes!("roboto-regular.ttf");
const BOLD: &[u8] = include_bytes!("roboto-bold.ttf");
const FAMILY: &str = "sans-serif";

const LIGHT: RGBColor = RGBColor(208, 208, 208);
const DARK: RGBColor = RGBColor(70, 70, 70);
const GRID: RGBColor = RGBColor(225, 225, 225);
const SOFT: RGBColor = RGBColor(80, 80, 80);

// Lengths in pixels of the SVG.
const WIDTH: i32 = 1200;
const MARGIN: i32 = 40;
const TITLE: i32 = 34;
const TEXT: i32 = 22;
const SMALL: i32 = 17;
const ROW: i32 = 74;
const BAR: i32 = 44;
const GAP: i32 = 14;
/// Beside the longest bar, for its label.
const LABEL: i32 = 120;
const AXIS: i32 = 80;

/// The characters of a text are so wide, in parts of its size: more than any average of them.
const CHARACTER: f64 = 0.56;

pub fn register_fonts() -> Result<(), Error> {
    for (style, font) in [(FontStyle::Normal, REGULAR), (FontStyle::Bold, BOLD)] {
        register_font(FAMILY, style, font).map_err(|_| Error::Plot("its font is broken".into()))?;
    }
    Ok(())
}

impl Plot {
    /// The width and height of the SVG in pixels.
    pub(super) fn size(&self) -> (u32, u32) {
        let height =
            self.top() + self.bars.len() as i32 * ROW + AXIS + self.below.len() as i32 * line() + MARGIN / 2;
        (WIDTH as u32, height as u32)
    }

    /// Where the rows begin.
    fn top(&self) -> i32 {
        MARGIN + TITLE + GAP + self.notes.len() as i32 * line() + GAP
    }

    pub(super) fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: u32,
    ) -> Result<(), Error> {
        let canvas = Canvas {
            area,
            scale: scale as i32,
        };
        self.draw_all(&canvas)
            .and_then(|()| area.present())
            .map_err(|error| Error::Plot(error.to_string()))
    }

    fn draw_all<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<(), Failed<B>> {
        canvas.area.fill(&WHITE)?;
        let mut y = MARGIN + TITLE / 2;
        canvas.text(
            &self.title,
            (MARGIN, y),
            HPos::Left,
            TITLE,
            FontStyle::Bold,
            BLACK,
        )?;
        y += TITLE / 2 + GAP + line() / 2;
        for note in &self.notes {
            canvas.text(note, (MARGIN, y), HPos::Left, SMALL, FontStyle::Normal, SOFT)?;
            y += line();
        }

        let names = self.bars.iter().map(|bar| bar.name.len()).max().unwrap_or(0);
        let left = MARGIN + (names as f64 * f64::from(TEXT) * CHARACTER) as i32 + GAP;
        let right = WIDTH - MARGIN - LABEL;
        // More than nothing, so that there is a scale.
        let longest = self
            .bars
            .iter()
            .flat_map(|bar| &bar.times)
            .fold(1e-3, |a: f64, b| a.max(*b));
        let x = |milliseconds: f64| left + (milliseconds / longest * f64::from(right - left)).round() as i32;

        let (top, bottom) = (self.top(), self.top() + self.bars.len() as i32 * ROW);
        let step = step(longest);
        for tick in (0..)
            .map(|index| f64::from(index) * step)
            .take_while(|tick| *tick <= longest * 1.0001)
        {
            canvas.line((x(tick), top), (x(tick), bottom), 1, GRID)?;
            canvas.text(
                &label(tick, step),
                (x(tick), bottom + GAP),
                HPos::Center,
                SMALL,
                FontStyle::Normal,
                BLACK,
            )?;
        }
        canvas.text(
            "milliseconds",
            (x(0.0), bottom + GAP + line()),
            HPos::Left,
            SMALL,
            FontStyle::Normal,
            BLACK,
        )?;
        for (index, bar) in self.bars.iter().enumerate() {
            bar.draw(canvas, top + index as i32 * ROW + ROW / 2, &x)?;
        }
        canvas.line((x(0.0), top), (x(0.0), bottom), 2, BLACK)?;
        let mut y = bottom + AXIS;
        for text in &self.below {
            canvas.text(text, (MARGIN, y), HPos::Left, SMALL, FontStyle::Normal, SOFT)?;
            y += line();
        }
        Ok(())
    }
}

impl Bar {
    fn draw<B: DrawingBackend>(
        &self,
        canvas: &Canvas<B>,
        y: i32,
        x: &impl Fn(f64) -> i32,
    ) -> Result<(), Failed<B>> {
        let (weight, fill) = match self.is_ours {
            true => (FontStyle::Bold, DARK),
            false => (FontStyle::Normal, LIGHT),
        };
        canvas.text(&self.name, (x(0.0) - GAP, y), HPos::Right, TEXT, weight, BLACK)?;
        canvas.rectangle((x(0.0), y - BAR / 2), (x(self.median), y + BAR / 2), fill)?;
        canvas.line(
            (x(self.median), y - BAR / 2),
            (x(self.median), y + BAR / 2),
            3,
            BLACK,
        )?;
        let radius = match self.times.len() {
            0..60 => 5,
            _ => 3,
        };
        for (index, &time) in self.times.iter().enumerate() {
            canvas.dot((x(time), y + spread(index, BAR / 2 - radius - 2)), radius)?;
        }
        let end = self.times.iter().fold(self.median, |a: f64, b| a.max(*b));
        let label = format!("{} ms", digits(self.median));
        let at = x(end) + radius + GAP;
        canvas.text(&label, (at, y), HPos::Left, TEXT, FontStyle::Bold, BLACK)?;
        Ok(())
    }
}

type Failed<B> = DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>;

/// Draws at a multiple of the lengths above.
struct Canvas<'a, B: DrawingBackend> {
    area: &'a DrawingArea<B, Shift>,
    scale: i32,
}

type Point = (i32, i32);

impl<B: DrawingBackend> Canvas<'_, B> {
    fn at(&self, (x, y): Point) -> Point {
        (x * self.scale, y * self.scale)
    }

    fn text(
        &self,
        text: &str,
        at: Point,
        side: HPos,
        size: i32,
        weight: FontStyle,
        colour: RGBColor,
    ) -> Result<(), Failed<B>> {
        let font = (FAMILY, size * self.scale, weight).into_font();
        let style = TextStyle::from(font)
            .color(&colour)
            .pos(Pos::new(side, VPos::Center));
        self.area.draw(&Text::new(text, self.at(at), style))
    }

    fn line(&self, from: Point, to: Point, width: i32, colour: RGBColor) -> Result<(), Failed<B>> {
        let style = ShapeStyle::from(&colour).stroke_width((width * self.scale) as u32);
        self.area
            .draw(&PathElement::new([self.at(from), self.at(to)], style))
    }

    fn rectangle(&self, from: Point, to: Point, colour: RGBColor) -> Result<(), Failed<B>> {
        self.area
            .draw(&Rectangle::new([self.at(from), self.at(to)], colour.filled()))
    }

    fn dot(&self, at: Point, radius: i32) -> Result<(), Failed<B>> {
        let at = self.at(at);
        self.area
            .draw(&Circle::new(at, (radius + 1) * self.scale, BLACK.filled()))?;
        self.area
            .draw(&Circle::new(at, radius * self.scale, WHITE.filled()))
    }
}

fn line() -> i32 {
    SMALL * 3 / 2
}

/// Three digits or a little more.
fn digits(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Where dots go above and below the middle so that they do not hide each other: the multiples of the golden ratio
/// spread evenly over any range.
fn spread(index: usize, range: i32) -> i32 {
    let part = (index as f64 * 0.618_034).fract() - 0.5;
    (part * 2.0 * f64::from(range)).round() as i32
}
