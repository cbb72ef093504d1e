//! A figure on any of plotters' backends. Its charts would do for one panel; the axes, the legend and the look of several
//! are simpler drawn with its lines and letters.

use plotters::coord::Shift;
use plotters::element::{DashedPathElement, PathElement};
use plotters::prelude::{
    Color, DrawingArea, DrawingBackend, FontStyle, FontTransform, IntoFont, RGBColor, Rectangle, Text,
};
use plotters::prelude::{ShapeStyle, WHITE};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{TextStyle, register_font};

use super::axis::{Axis, drawable};
use super::{Figure, Line, Panel};

/// Okabe and Ito's colors, which color-blind people can tell apart; without their yellow, which is lost on white.
const COLORS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x33, 0x33, 0x33),
];
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const AXIS: RGBColor = RGBColor(0x88, 0x88, 0x88);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);

/// Sizes in pixels of a screen; a backend may have several per pixel.
const PANEL: (f64, f64) = (460.0, 300.0);
const ONE_PANEL: (f64, f64) = (640.0, 400.0);
const MARGIN: f64 = 14.0;
const LEGEND: f64 = 24.0;
/// Around the plot in a panel: left, right, top, bottom.
const AROUND: (f64, f64, f64, f64) = (72.0, 18.0, 10.0, 48.0);
const LETTERS: f64 = 14.0;
/// Points of a curve beyond which its line is thin.
const DENSE: usize = 400;
/// Points of a curve up to which each has a dot.
const FEW: usize = 30;

type Result<B> = std::result::Result<(), plotters::drawing::DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;
type Place = (f64, f64);

impl Figure {
    fn columns(&self) -> usize {
        match self.panels.len() {
            0 | 1 => 1,
            2 | 4 => 2,
            _ => 3,
        }
    }

    fn panel_size(&self) -> Place {
        if self.panels.len() < 2 { ONE_PANEL } else { PANEL }
    }

    /// In pixels of a screen.
    pub(super) fn size(&self) -> Place {
        let (width, height) = self.panel_size();
        let (columns, rows) = (self.columns(), self.panels.len().div_ceil(self.columns()).max(1));
        let width = columns as f64 * width + 2.0 * MARGIN;
        (width, rows as f64 * height + 2.0 * MARGIN + LEGEND * self.legend(width).1 as f64)
    }

    /// The entries with their row and place, and the number of rows.
    fn legend(&self, width: f64) -> (Vec<(LegendEntry, usize, f64)>, usize) {
        let mut entries: Vec<LegendEntry> =
            self.runs.iter().cloned().enumerate().map(|(i, name)| LegendEntry::Run(i, name)).collect();
        entries.extend(self.has_restarts().then_some(LegendEntry::Restart));
        let (mut row, mut x) = (0, 0.0);
        let mut placed = Vec::new();
        for entry in entries {
            let own = 46.0 + letters_width(entry.words());
            if x > 0.0 && x + own > width - 2.0 * MARGIN - AROUND.0 {
                (row, x) = (row + 1, 0.0);
            }
            placed.push((entry, row, x));
            x += own;
        }
        (placed, row + 1)
    }
}

#[derive(Clone, Debug)]
enum LegendEntry {
    Run(usize, String),
    Restart,
}

impl LegendEntry {
    fn words(&self) -> &str {
        match self {
            Self::Run(_, name) => name,
            Self::Restart => "restart",
        }
    }
}

/// Whether letters can be measured and drawn.
fn has_letters() -> bool {
    static FONTS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *FONTS.get_or_init(|| register_font("sans-serif", FontStyle::Normal, ttf_noto_sans::REGULAR).is_ok())
}

fn letters_width(words: &str) -> f64 {
    let _ = has_letters();
    ("sans-serif", LETTERS).into_font().box_size(words).map_or(8.0 * words.len() as f64, |(width, _)| f64::from(width))
}

/// Draws on an area of `figure.size()` times `scale`.
pub(super) fn draw<'a, B: DrawingBackend>(
    figure: &'a Figure,
    area: &'a DrawingArea<B, Shift>,
    scale: f64,
) -> Result<B> {
    let _ = has_letters();
    let canvas = Canvas { area, scale };
    area.fill(&WHITE)?;
    let (legend, rows) = figure.legend(figure.size().0);
    for (entry, row, x) in legend {
        let place = (MARGIN + AROUND.0 + x, MARGIN + LEGEND * (row as f64 + 0.4));
        match &entry {
            LegendEntry::Run(run, _) => canvas.line(*run, &[place, (place.0 + 22.0, place.1)], 2.2, 1.0)?,
            LegendEntry::Restart => {
                canvas.dashes(&[(place.0 + 20.0, place.1 - 9.0), (place.0 + 20.0, place.1 + 9.0)], AXIS)?
            }
        }
        canvas.words(entry.words(), (place.0 + 29.0, place.1), HPos::Left, VPos::Center)?;
    }
    let (width, height) = figure.panel_size();
    // One for all panels, so that what lies below each other belongs together.
    let steps = figure.panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| line.raw.iter().flatten());
    let x = Axis::steps(steps.map(|point| point.0));
    for (i, panel) in figure.panels.iter().enumerate() {
        let (column, row) = (i % figure.columns(), i / figure.columns());
        let corner = (MARGIN + column as f64 * width, MARGIN + LEGEND * rows as f64 + row as f64 * height);
        canvas.panel(figure, panel, &x, corner, (width, height))?;
    }
    area.present()
}

struct Canvas<'a, B: DrawingBackend> {
    area: &'a DrawingArea<B, Shift>,
    scale: f64,
}

impl<'a, B: DrawingBackend> Canvas<'a, B> {
    fn panel(&self, figure: &'a Figure, panel: &'a Panel, x: &Axis, corner: Place, size: Place) -> Result<B> {
        let (left, right) = (corner.0 + AROUND.0, corner.0 + size.0 - AROUND.1);
        let (top, bottom) = (corner.1 + AROUND.2, corner.1 + size.1 - AROUND.3);
        let points = panel.lines.iter().flat_map(|line| line.raw.iter().flatten());
        let y = Axis::values(points.map(|point| point.1), figure.log);
        let to_x = |step: f64| left + x.at(step) * (right - left);
        let to_y = |at: f64| bottom - y.at(at) * (bottom - top);

        for (at, label) in &y.ticks {
            self.stroke(&[(left, to_y(*at)), (right, to_y(*at))], GRID, 1.0)?;
            self.words(label, (left - 8.0, to_y(*at)), HPos::Right, VPos::Center)?;
        }
        for (at, label) in &x.ticks {
            self.stroke(&[(to_x(*at), top), (to_x(*at), bottom)], GRID, 1.0)?;
            self.stroke(&[(to_x(*at), bottom), (to_x(*at), bottom + 4.0)], AXIS, 1.0)?;
            self.words(label, (to_x(*at), bottom + 8.0), HPos::Center, VPos::Top)?;
        }
        for line in &panel.lines {
            for restart in line.restarts.iter().filter(|step| (x.min..=x.max).contains(step)) {
                let color = if figure.runs.len() == 1 { AXIS } else { color(line.run) };
                self.dashes(&[(to_x(*restart), top), (to_x(*restart), bottom)], color)?;
            }
        }
        let place = |&(step, value): &Place| {
            let value = drawable(value, figure.log);
            (to_x(step), to_y(if figure.log { value.log10() } else { value }))
        };
        let curve = |line: &Line, parts: &[Vec<Place>], width: f64, strength: f64| {
            for part in parts {
                let part: Vec<Place> = part.iter().map(place).collect();
                match part.as_slice() {
                    [alone] => self.dot(line.run, *alone, strength)?,
                    part => self.line(line.run, part, width, strength)?,
                }
            }
            Ok(())
        };
        for line in panel.lines.iter().filter(|line| line.smooth.is_some()) {
            curve(line, &line.raw, 1.0, 0.25)?;
        }
        for line in &panel.lines {
            let parts = line.smooth.as_ref().unwrap_or(&line.raw);
            // Raw values of many steps go up and down within each pixel.
            let dense = line.smooth.is_none() && parts.iter().map(Vec::len).sum::<usize>() > DENSE;
            curve(line, parts, if dense { 1.0 } else { 1.8 }, 1.0)?;
            if parts.iter().map(Vec::len).sum::<usize>() <= FEW {
                parts.iter().flatten().try_for_each(|point| self.dot(line.run, place(point), 1.0))?;
            }
        }
        self.stroke(&[(left, top), (left, bottom), (right, bottom)], AXIS, 1.0)?;
        self.words("step", (f64::midpoint(left, right), bottom + 27.0), HPos::Center, VPos::Top)?;
        let widest = y.ticks.iter().map(|(_, label)| letters_width(label)).fold(0.0, f64::max);
        let place = (left - 8.0 - widest - 12.0 - LETTERS, f64::midpoint(top, bottom));
        let style = self.letters().transform(FontTransform::Rotate270).pos(Pos::new(HPos::Center, VPos::Top));
        self.area.draw(&Text::new(panel.label.clone(), self.pixel(place), style))
    }

    fn pixel(&self, (x, y): Place) -> (i32, i32) {
        // Far outside of any area, where a number can't be drawn.
        let pixel = |at: f64| (at * self.scale).round().clamp(-1e6, 1e6) as i32;
        (pixel(x), pixel(y))
    }

    fn style(&self, color: RGBColor, width: f64, strength: f64) -> ShapeStyle {
        ShapeStyle {
            color: color.mix(strength),
            filled: false,
            stroke_width: (width * self.scale).round().max(1.0) as u32,
        }
    }

    fn stroke(&self, places: &[Place], color: RGBColor, width: f64) -> Result<B> {
        let pixels: Vec<_> = places.iter().map(|place| self.pixel(*place)).collect();
        self.area.draw(&PathElement::new(pixels, self.style(color, width, 1.0)))
    }

    /// The line of a run. After the last color, colors repeat with dashes.
    fn line(&self, run: usize, places: &[Place], width: f64, strength: f64) -> Result<B> {
        let pixels: Vec<_> = places.iter().map(|place| self.pixel(*place)).collect();
        let style = self.style(color(run), width, strength);
        match run / COLORS.len() {
            0 => self.area.draw(&PathElement::new(pixels, style)),
            round => {
                let length = (8.0 * self.scale / round as f64).max(2.0) as u32;
                self.area.draw(&DashedPathElement::new(pixels, length, length / 2 + 1, style))
            }
        }
    }

    fn dot(&self, run: usize, (x, y): Place, strength: f64) -> Result<B> {
        let (from, to) = (self.pixel((x - 2.0, y - 2.0)), self.pixel((x + 2.0, y + 2.0)));
        self.area.draw(&Rectangle::new([from, to], color(run).mix(strength).filled()))
    }

    fn dashes(&self, places: &[Place], color: RGBColor) -> Result<B> {
        let pixels: Vec<_> = places.iter().map(|place| self.pixel(*place)).collect();
        let dash = (4.0 * self.scale) as u32;
        self.area.draw(&DashedPathElement::new(pixels, dash, dash, self.style(color, 1.2, 0.9)))
    }

    fn letters(&self) -> TextStyle<'static> {
        TextStyle::from(("sans-serif", LETTERS * self.scale).into_font()).color(&INK)
    }

    fn words(&self, words: &str, place: Place, h: HPos, v: VPos) -> Result<B> {
        let style = self.letters().pos(Pos::new(h, v));
        // The middle of a letter is not that of its line.
        let lower = if matches!(v, VPos::Center) { 1.5 } else { 0.0 };
        self.area.draw(&Text::new(words.to_owned(), self.pixel((place.0, place.1 + lower)), style))
    }
}

fn color(run: usize) -> RGBColor {
    COLORS[run % COLORS.len()]
}
