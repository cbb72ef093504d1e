//! Images of tensors, as PNG files.

use tch::{Kind, Tensor};

use crate::{Error, Result};

/// An image as a PNG file.
#[derive(Clone, Debug)]
pub(super) struct Png {
    pub(super) width: u32,
    pub(super) height: u32,
    /// 1 for gray, 3 for RGB, 4 for RGB with transparency.
    pub(super) channels: u32,
    pub(super) bytes: Vec<u8>,
}

/// Space between the images of a batch, in pixels.
const PADDING: i64 = 2;

/// What can be drawn: `[H, W]`, `[C, H, W]`, or a batch `[N, C, H, W]`, with 1, 3 or 4 channels.
pub(super) fn check(image: &Tensor) -> Result<()> {
    let size = image.size();
    let bad = || {
        let found =
            format!("an image has shape [H, W], [C, H, W] or [N, C, H, W], with 1, 3 or 4 channels; got {size:?}");
        Err(Error::Invalid(found))
    };
    let channels = match size[..] {
        [_, _] => 1,
        [channels, _, _] | [_, channels, _, _] => channels,
        _ => return bad(),
    };
    if !matches!(channels, 1 | 3 | 4) || size.contains(&0) { bad() } else { Ok(()) }
}

/// Bytes are taken as they are; other numbers are from 0 to 1. A batch is drawn side by side, nearly a square.
pub(super) fn encode(image: &Tensor) -> Result<Png> {
    let pixels = match image.kind() {
        Kind::Uint8 => image.shallow_clone(),
        _ => {
            (image.to_kind(Kind::Float).nan_to_num(0.0, 1.0, 0.0).clamp(0.0, 1.0) * 255.0).round().to_kind(Kind::Uint8)
        }
    };
    let chw = match pixels.dim() {
        2 => pixels.unsqueeze(0),
        4 => grid(&pixels),
        _ => pixels,
    };
    let size = chw.size();
    let of = |i: usize| u32::try_from(size[i]).map_err(|_| Error::Invalid("an image is too large".into()));
    let (channels, height, width) = (of(0)?, of(1)?, of(2)?);
    let hwc = chw.permute([1, 2, 0]).contiguous().flatten(0, -1);
    let data = Vec::<u8>::try_from(hwc).map_err(Error::tch("drawing an image"))?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(match channels {
        1 => png::ColorType::Grayscale,
        3 => png::ColorType::Rgb,
        _ => png::ColorType::Rgba,
    });
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(&data).and_then(|()| writer.finish()))
        .map_err(Error::other)?;
    Ok(Png { width, height, channels, bytes })
}

fn grid(batch: &Tensor) -> Tensor {
    let size = batch.size();
    let (count, height, width) = (size[0], size[2], size[3]);
    let columns = (count as f64).sqrt().ceil() as i64;
    let rows = (count + columns - 1) / columns;
    let (cell_height, cell_width) = (height + PADDING, width + PADDING);
    let sizes = [size[1], rows * cell_height - PADDING, columns * cell_width - PADDING];
    let grid = Tensor::zeros(sizes, (batch.kind(), batch.device()));
    for i in 0..count {
        let (row, column) = (i / columns, i % columns);
        let mut cell = grid.narrow(1, row * cell_height, height).narrow(2, column * cell_width, width);
        cell.copy_(&batch.get(i));
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_survive_the_png_encoding() {
        let image = Tensor::from_slice(&[0.0f32, 0.5, 1.0, 2.0, f32::NAN, -1.0]).view([2, 3]);
        let png = encode(&image).unwrap();
        assert_eq!((png.width, png.height, png.channels), (3, 2, 1));
        let mut reader = png::Decoder::new(std::io::Cursor::new(png.bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, [0, 128, 255, 255, 0, 0]);
    }

    #[test]
    fn image_batch_is_drawn_as_a_grid() {
        let png = encode(&Tensor::zeros([5, 3, 4, 6], tch::kind::FLOAT_CPU)).unwrap();
        assert_eq!((png.width, png.height, png.channels), (3 * 8 - 2, 2 * 6 - 2, 3));
    }

    #[test]
    fn image_of_a_wrong_shape_is_refused() {
        for size in [vec![3], vec![2, 4, 4], vec![1, 0, 4], vec![1, 1, 1, 1, 1]] {
            assert!(check(&Tensor::zeros(&size, tch::kind::FLOAT_CPU)).is_err(), "{size:?}");
        }
        assert!(check(&Tensor::zeros([8, 8], tch::kind::FLOAT_CPU)).is_ok());
    }
}
