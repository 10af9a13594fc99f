//! Draws a boot as a picture: each phase is a bar as long as the phase took, one below the other.
//!
//! The picture means the same without colours, so that it can be printed in black and white.

use coracle_race::axis::{label, step};
use plotters::coord::Shift;
use plotters::prelude::{
    Color, DrawingArea, DrawingAreaErrorKind, DrawingBackend, FontStyle, IntoDrawingArea, IntoFont,
    PathElement, RGBColor, Rectangle, SVGBackend, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, ShapeStyle, TextStyle, WHITE};

use super::output::Error;
use super::report::{Report, Row};
use crate::timeline::{Lane, Phase};

const DARK: RGBColor = RGBColor(60, 60, 60);
const LIGHT: RGBColor = RGBColor(200, 200, 200);
const GRID: RGBColor = RGBColor(225, 225, 225);
const SOFT: RGBColor = RGBColor(80, 80, 80);

// Lengths in pixels.
const WIDTH: i32 = 1200;
const MARGIN: i32 = 40;
const TITLE: i32 = 34;
const TEXT: i32 = 21;
const SMALL: i32 = 17;
const ROW: i32 = 32;
const BAR: i32 = 20;
const GAP: i32 = 14;
/// Between the two panels.
const BETWEEN: i32 = 56;
/// Heights of a panel's heading and of its ticks.
const HEADING: i32 = 40;
const TICKS: i32 = 30;
/// The left and right limits of the bars, and the right ends of the two columns of figures.
const LEFT: i32 = MARGIN + 360;
const RIGHT: i32 = WIDTH - MARGIN - 210;
const TOOK: i32 = WIDTH - MARGIN - 90;
const EXITS: i32 = WIDTH - MARGIN;
/// The least width of a bar, so that a phase that took next to no time can still be seen.
const BAR_MIN: i32 = 2;

/// A bar and its figures, in milliseconds.
#[derive(Debug, Clone, PartialEq)]
struct Bar {
    name: String,
    lane: Lane,
    began: f64,
    ended: f64,
    exits: u64,
}

/// Bars on one scale, which goes from 0 to the end of the last bar.
#[derive(Debug, Clone, PartialEq)]
struct Panel {
    heading: &'static str,
    bars: Vec<Bar>,
}

impl Panel {
    fn end(&self) -> f64 {
        // At least a microsecond, because the scale divides by it.
        self.bars.iter().fold(1e-3, |end: f64, bar| end.max(bar.ended))
    }

    fn height(&self) -> i32 {
        HEADING + self.bars.len() as i32 * ROW + TICKS
    }
}

impl Report {
    /// The picture as the content of an SVG file.
    pub fn svg(&self) -> Result<String, Error> {
        let panels = panels(&self.phases);
        let height = panels.iter().map(Panel::height).sum::<i32>()
            + (panels.len() as i32 - 1) * BETWEEN
            + 3 * MARGIN
            + TITLE;
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, (WIDTH as u32, height as u32)).into_drawing_area();
        draw(&Canvas { area: &area }, &panels)
            .and_then(|()| area.present())
            .map_err(|error| Error::Draw(error.to_string()))?;
        drop(area);
        Ok(text)
    }
}

/// Two panels: Coracle's own phases, enlarged because they are short, and the whole boot.
fn panels(rows: &[Row]) -> Vec<Panel> {
    let entered = rows.iter().position(|row| row.kind == Some(Phase::GuestEntered));
    let (coracle, guest) = rows.split_at(entered.map_or(rows.len(), |index| index + 1));
    let coracle = Panel {
        heading: "Coracle, until the guest's first instruction",
        // The first row is the start of the process, which takes no time.
        bars: coracle.iter().skip(1).map(Bar::of).collect(),
    };
    // The end of the run is left out, because a person may use the guest's shell for hours.
    let boot = |row: &&Row| row.kind != Some(Phase::Ended);
    let mut guest: Vec<Bar> = match guest.iter().any(|row| boot(&row)) {
        true => guest.iter().filter(boot).map(Bar::of).collect(),
        false => guest.iter().map(Bar::of).collect(),
    };
    if guest.is_empty() {
        return vec![coracle];
    }
    let first = Bar {
        name: "Coracle".into(),
        lane: Lane::Main,
        began: 0.0,
        ended: coracle.end(),
        exits: 0,
    };
    guest.insert(0, first);
    let boot = Panel {
        heading: "The whole boot",
        bars: guest,
    };
    vec![coracle, boot]
}

impl Bar {
    fn of(row: &Row) -> Self {
        Self {
            name: row.words.clone(),
            lane: row.lane(),
            began: row.began_ms,
            ended: row.ended_ms,
            exits: row.exits,
        }
    }
}

fn draw<B: DrawingBackend>(canvas: &Canvas<B>, panels: &[Panel]) -> Result<(), Failed<B>> {
    canvas.area.fill(&WHITE)?;
    let mut y = MARGIN + TITLE / 2;
    let title = format!(
        "A boot of {} ms",
        digits(panels.iter().fold(0.0, |end, panel| panel.end().max(end)))
    );
    canvas.text(&title, (MARGIN, y), HPos::Left, TITLE, FontStyle::Bold, BLACK)?;
    y += TITLE / 2 + GAP;
    let mut above: Option<(&Panel, i32)> = None;
    for panel in panels {
        if let Some((small, bottom)) = above {
            y += BETWEEN;
            // Two lines show that the panel above is the first bar of this one, enlarged.
            let part = LEFT + scale(panel.end(), small.end());
            let top = y + HEADING + (ROW - BAR) / 2;
            canvas.line((LEFT, bottom), (LEFT, top), 1, LIGHT)?;
            canvas.line((RIGHT, bottom), (part.max(LEFT + BAR_MIN), top), 1, LIGHT)?;
        }
        let bottom = panel.draw(canvas, y)?;
        above = Some((panel, bottom));
        y += panel.height();
    }
    y += GAP;
    let key = "A bar is named by the moment that ends it. Light and white bars: two threads beside each other. \
               Exits: those to Coracle.";
    canvas.text(key, (MARGIN, y), HPos::Left, SMALL, FontStyle::Normal, SOFT)
}

impl Panel {
    /// Draws the panel from `y` down. Returns the y of the end of its bars.
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>, y: i32) -> Result<i32, Failed<B>> {
        let heading = y + HEADING / 2 - GAP / 2;
        canvas.text(
            self.heading,
            (MARGIN, heading),
            HPos::Left,
            TEXT,
            FontStyle::Bold,
            BLACK,
        )?;
        for (text, x) in [("took [ms]", TOOK), ("exits", EXITS)] {
            canvas.text(text, (x, heading), HPos::Right, SMALL, FontStyle::Normal, SOFT)?;
        }
        let (top, end) = (y + HEADING, self.end());
        let bottom = top + self.bars.len() as i32 * ROW;
        let step = step(end);
        for tick in (0..)
            .map(|index| f64::from(index) * step)
            .take_while(|tick| *tick <= end * 1.0001)
        {
            let x = LEFT + scale(end, tick);
            canvas.line((x, top), (x, bottom), 1, GRID)?;
            canvas.text(
                &label(tick, step),
                (x, bottom + GAP),
                HPos::Center,
                SMALL,
                FontStyle::Normal,
                BLACK,
            )?;
        }
        canvas.text(
            "ms since the start",
            (LEFT - 2 * GAP, bottom + GAP),
            HPos::Right,
            SMALL,
            FontStyle::Normal,
            SOFT,
        )?;
        for (index, bar) in self.bars.iter().enumerate() {
            bar.draw(canvas, top + index as i32 * ROW + ROW / 2, end)?;
        }
        canvas.line((LEFT, top), (LEFT, bottom), 2, BLACK)?;
        Ok(bottom)
    }
}

impl Bar {
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>, y: i32, end: f64) -> Result<(), Failed<B>> {
        canvas.text(
            &self.name,
            (LEFT - GAP, y),
            HPos::Right,
            TEXT,
            FontStyle::Normal,
            BLACK,
        )?;
        let from = LEFT + scale(end, self.began).min(RIGHT - LEFT - BAR_MIN);
        let to = (LEFT + scale(end, self.ended)).max(from + BAR_MIN);
        let fill = match self.lane {
            Lane::Main => DARK,
            Lane::Kvm => LIGHT,
            Lane::Loading => WHITE,
        };
        canvas.rectangle((from, y - BAR / 2), (to, y + BAR / 2), fill)?;
        let took = digits(self.ended - self.began);
        canvas.text(&took, (TOOK, y), HPos::Right, TEXT, FontStyle::Normal, BLACK)?;
        if self.exits > 0 {
            let exits = self.exits.to_string();
            canvas.text(&exits, (EXITS, y), HPos::Right, TEXT, FontStyle::Normal, BLACK)?;
        }
        Ok(())
    }
}

/// The distance of this time from the left limit of the bars, in pixels.
fn scale(end: f64, milliseconds: f64) -> i32 {
    (milliseconds / end * f64::from(RIGHT - LEFT)).round() as i32
}

type Failed<B> = DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>;

type Point = (i32, i32);

struct Canvas<'a, B: DrawingBackend> {
    area: &'a DrawingArea<B, Shift>,
}

impl<B: DrawingBackend> Canvas<'_, B> {
    fn text(
        &self,
        text: &str,
        at: Point,
        side: HPos,
        size: i32,
        weight: FontStyle,
        colour: RGBColor,
    ) -> Result<(), Failed<B>> {
        let font = ("sans-serif", size).into_font().style(weight);
        let style = TextStyle::from(font)
            .color(&colour)
            .pos(Pos::new(side, VPos::Center));
        self.area.draw(&Text::new(text, at, style))
    }

    fn line(&self, from: Point, to: Point, width: u32, colour: RGBColor) -> Result<(), Failed<B>> {
        let style = ShapeStyle::from(&colour).stroke_width(width);
        self.area.draw(&PathElement::new([from, to], style))
    }

    /// A rectangle with a black border, without which a white or light one could not be seen.
    fn rectangle(&self, from: Point, to: Point, fill: RGBColor) -> Result<(), Failed<B>> {
        self.area.draw(&Rectangle::new([from, to], fill.filled()))?;
        self.area.draw(&Rectangle::new(
            [from, to],
            ShapeStyle::from(&BLACK).stroke_width(1),
        ))
    }
}

/// Milliseconds with as many decimals as matter for a time of this length.
fn digits(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.3}"),
        10.0..100.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timings::report::example;

    #[test]
    fn a_boot_is_coracles_part_enlarged_and_the_whole_without_its_end() {
        let [coracle, boot] = panels(&example().phases).try_into().unwrap();
        assert_eq!(coracle.bars.len(), 14);
        assert_eq!(coracle.end(), 0.85);
        let names: Vec<_> = boot.bars.iter().map(|bar| bar.name.as_str()).collect();
        assert_eq!(names[0], "Coracle");
        assert_eq!(names.last(), Some(&"workload's first output"));
        assert_eq!(boot.end(), 12.0);
    }

    #[test]
    fn a_guest_that_says_nothing_has_its_end_on_the_picture() {
        let mut phases = example().phases;
        phases.retain(|row| row.lane() != Lane::Main || row.ended_ms < 1.0 || row.phase == "end");
        let panels = panels(&phases);
        assert_eq!(panels[1].bars.len(), 2);
        assert_eq!(panels[1].end(), 20.0);
    }

    #[test]
    fn a_run_that_ended_before_the_guest_ran_is_one_panel() {
        let mut report = example();
        report.phases.truncate(4);
        assert_eq!(panels(&report.phases).len(), 1);
        assert!(report.svg().unwrap().contains("/dev/kvm opened"));
        report.phases.truncate(1);
        assert!(report.svg().unwrap().starts_with("<svg "));
    }

    #[test]
    fn all_bars_and_figures_are_inside_of_the_picture() {
        let svg = example().svg().unwrap();
        for row in &example().phases[1..20] {
            let words = row.words.replace('\'', "&apos;");
            assert!(
                svg.contains(&words) || svg.contains(&row.words),
                "{} is missing",
                row.words
            );
        }
        let numbers = |attribute: &str| {
            svg.split(&format!(" {attribute}=\""))
                .skip(1)
                .filter_map(|rest| rest.split('"').next()?.parse::<i32>().ok())
                .collect::<Vec<_>>()
        };
        let height = numbers("height")[0];
        assert!(numbers("x").iter().all(|x| (0..=WIDTH).contains(x)));
        assert!(numbers("y").iter().all(|y| (0..=height).contains(y)));
    }
}
