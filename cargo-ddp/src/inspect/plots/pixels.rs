//! plotters' bitmap backend with lines whose edges are soft and whose corners are round: its own have hard edges, and
//! corners that stand out as spikes.

use plotters::prelude::{BitMapBackend, DrawingBackend};
use plotters_backend::{BackendColor, BackendCoord, BackendStyle, DrawingErrorKind};

pub(super) struct Pixels<'a>(pub(super) BitMapBackend<'a>);

type Failure<'a> = <BitMapBackend<'a> as DrawingBackend>::ErrorType;
type Result<'a> = std::result::Result<(), DrawingErrorKind<Failure<'a>>>;

impl<'a> DrawingBackend for Pixels<'a> {
    type ErrorType = Failure<'a>;

    fn get_size(&self) -> (u32, u32) {
        self.0.get_size()
    }

    fn ensure_prepared(&mut self) -> Result<'a> {
        self.0.ensure_prepared()
    }

    fn present(&mut self) -> Result<'a> {
        self.0.present()
    }

    fn draw_pixel(&mut self, point: BackendCoord, color: BackendColor) -> Result<'a> {
        self.0.draw_pixel(point, color)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Result<'a> {
        let (width, height) = self.get_size();
        let points: Vec<_> = path.into_iter().collect();
        let Some(mask) = Mask::new(&points, f64::from(style.stroke_width()), (width as i32, height as i32)) else {
            return Ok(());
        };
        let color = style.color();
        for (i, cover) in mask.cover.iter().enumerate().filter(|(_, cover)| **cover > 0.0) {
            let (x, y) = ((i % mask.width) as i32 + mask.left, (i / mask.width) as i32 + mask.top);
            self.0.draw_pixel((x, y), BackendColor { alpha: color.alpha * f64::from(*cover), ..color })?;
        }
        Ok(())
    }
}

/// Of what a pixel can be covered by.
const LEVELS: f64 = 6.0;

/// How much of each pixel a line covers: each once, however often the line crosses itself.
struct Mask {
    left: i32,
    top: i32,
    width: usize,
    cover: Vec<f32>,
}

impl Mask {
    fn new(points: &[BackendCoord], stroke: f64, size: (i32, i32)) -> Option<Self> {
        let reach = (stroke / 2.0 + 1.0).ceil() as i32;
        let range = |of: fn(&BackendCoord) -> i32, size: i32| {
            let low = points.iter().map(of).min()?.saturating_sub(reach).max(0);
            let high = points.iter().map(of).max()?.saturating_add(reach).min(size - 1);
            (low <= high).then_some((low, high))
        };
        let ((left, right), (top, bottom)) = (range(|point| point.0, size.0)?, range(|point| point.1, size.1)?);
        let (width, height) = ((right - left + 1) as usize, (bottom - top + 1) as usize);
        let mut mask = Self { left, top, width, cover: vec![0.0; width * height] };
        // A line as wide as an even number of pixels lies between two of them.
        let shift = if (stroke as u32).is_multiple_of(2) { -0.5 } else { 0.0 };
        let place = |(x, y): BackendCoord| (f64::from(x) + shift, f64::from(y) + shift);
        for pair in points.windows(2) {
            mask.add(place(pair[0]), place(pair[1]), stroke / 2.0, (right, bottom));
        }
        Some(mask)
    }

    fn add(&mut self, from: (f64, f64), to: (f64, f64), half: f64, (right, bottom): (i32, i32)) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = (dx * dx + dy * dy).max(1e-12);
        let reach = half + 1.0;
        let rows = ((from.1.min(to.1) - reach) as i32).max(self.top)..=((from.1.max(to.1) + reach) as i32).min(bottom);
        for y in rows {
            // Of a slanted line, only the part near this row.
            let near = |t: f64| from.0 + dx * t.clamp(0.0, 1.0);
            let (a, b) = match dy.abs() > 1e-9 {
                true => {
                    let spread = reach * (length.sqrt() / dy.abs());
                    let at = |offset: f64| near((f64::from(y) + offset - from.1) / dy);
                    (at(-spread), at(spread))
                }
                false => (from.0, to.0),
            };
            let columns = ((a.min(b) - reach) as i32).max(self.left)..=((a.max(b) + reach) as i32).min(right);
            for x in columns {
                let (px, py) = (f64::from(x) - from.0, f64::from(y) - from.1);
                let along = ((px * dx + py * dy) / length).clamp(0.0, 1.0);
                let distance = (px - along * dx).hypot(py - along * dy);
                // In few steps, which nobody sees, and which make the file smaller.
                let cover = ((half + 0.5 - distance).clamp(0.0, 1.0) * LEVELS).round() / LEVELS;
                let cover = cover as f32;
                let pixel = &mut self.cover[(y - self.top) as usize * self.width + (x - self.left) as usize];
                *pixel = pixel.max(cover);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_covers_what_is_near_it_and_ends_at_the_edge() {
        let mask = Mask::new(&[(-5, 4), (30, 4)], 2.0, (20, 10)).unwrap();
        let of_row = |y: i32| mask.cover[(y - mask.top) as usize * mask.width + 10];
        assert_eq!((mask.width, [2, 3, 4, 5].map(of_row)), (20, [0.0, 1.0, 1.0, 0.0]));
        // A corner is no spike.
        let mask = Mask::new(&[(5, 90), (6, 10), (7, 90)], 3.0, (100, 100)).unwrap();
        assert!(mask.top >= 7 && mask.cover.iter().all(|cover| (0.0..=1.0).contains(cover)));
        assert!(Mask::new(&[(50, 50), (60, 60)], 3.0, (20, 20)).is_none());
        assert!(Mask::new(&[], 3.0, (20, 20)).is_none());
    }
}
