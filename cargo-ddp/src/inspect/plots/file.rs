//! Figures as files.

use std::io;
use std::path::Path;

use plotters::prelude::{BitMapBackend, IntoDrawingArea, SVGBackend};

use super::Figure;
use super::draw::draw;
use super::pixels::Pixels;
use crate::os::output::Output;

/// What kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines and letters, at any size: for papers and web pages.
    Svg,
    /// Pixels, two per pixel of a screen.
    Png,
}

impl Format {
    /// By the name's ending.
    pub fn from_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "svg" => Some(Self::Svg),
            "png" => Some(Self::Png),
            _ => None,
        }
    }
}

/// Writes a figure.
///
/// # Errors
/// The system's.
pub(crate) fn write(figure: &Figure, to: &Output, format: Format) -> io::Result<()> {
    let bytes = match format {
        Format::Svg => svg(figure)?.into_bytes(),
        Format::Png => png(figure)?,
    };
    to.write(&bytes)
}

fn svg(figure: &Figure) -> io::Result<String> {
    let (width, height) = figure.size();
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (width as u32, height as u32)).into_drawing_area();
        draw(figure, &area, 1.0).map_err(io::Error::other)?;
    }
    Ok(text.replace(is_forbidden, "\u{fffd}"))
}

/// What XML 1.0 has no way to write.
fn is_forbidden(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Pixels of the file per pixel of a screen.
const DENSITY: u32 = 2;

fn png(figure: &Figure) -> io::Result<Vec<u8>> {
    let (width, height) = figure.size();
    let (width, height) = (width as u32 * DENSITY, height as u32 * DENSITY);
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    {
        let backend = Pixels(BitMapBackend::with_buffer(&mut pixels, (width, height)));
        draw(figure, &backend.into_drawing_area(), f64::from(DENSITY)).map_err(io::Error::other)?;
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header().map_err(io::Error::other)?;
    writer.write_image_data(&pixels).and_then(|()| writer.finish()).map_err(io::Error::other)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::{Options, Run};
    use super::*;
    use ddp_contract::metrics::{Curves, Point, Session};

    fn figure() -> Figure {
        let points = (1..=50u64).map(|step| Point { step, value: 1.0 / step as f64, time: 0.0 }).collect();
        let session = |step| Session { format: 1, step, attempt: 0, world_size: 1, time: 0.0 };
        let sessions = vec![session(0), session(20)];
        let curves = Curves {
            scalars: [("loss <&\x1b\0\u{9b}\u{ffff}".to_owned(), points)].into(),
            sessions,
            ..Curves::default()
        };
        Figure::new(
            &[Run { name: "run 1\u{fffe}".into(), curves }],
            &Options { log: true, smooth: Some(0.5), ..Options::default() },
        )
        .unwrap()
    }

    #[test]
    fn svg_contains_the_figures_texts_and_lines() {
        let text = svg(&figure()).unwrap();
        assert!(!text.contains(|c: char| c.is_control() && c != '\n' || is_forbidden(c)));
        let label = r"loss &lt;&amp;\u{1b}\u{0}\u{9b}".to_owned() + "\u{fffd}";
        for words in ["<svg", &label, "run 1\u{fffd}", "restart", "step", "#0072B2"] {
            assert!(text.contains(words), "{words} is not in {text}");
        }
    }

    #[test]
    fn png_has_lines_and_letters() {
        let bytes = png(&figure()).unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let count = |near: [u8; 3]| pixels.chunks(3).filter(|pixel| **pixel == near).count();
        assert!(count([0x00, 0x72, 0xb2]) > 500, "the curve");
        assert!(count([0x33, 0x33, 0x33]) > 100, "letters");
        assert!(count([0xff, 0xff, 0xff]) > pixels.len() / 3 / 2, "the background");
    }

    #[test]
    fn plot_files_are_written_completely() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.svg", "b.PNG"] {
            let path = dir.path().join(name);
            write(&figure(), &Output::open(&path).unwrap(), Format::from_path(&path).unwrap()).unwrap();
            assert!(std::fs::metadata(path).unwrap().len() > 1000);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(Format::from_path(Path::new("a.pdf")), None);
    }
}
