//! TensorBoard's event files: the messages of tensorflow's `event.proto` and `summary.proto`, and of TensorBoard's hparams
//! plugin, in TFRecord frames. The crates for it (`tensorboard-rs`, `tboard`) have had no release for years.

use std::collections::BTreeMap;

use super::HParam;
use super::histogram::Histogram;
use super::image::Png;
use super::proto::Message;

/// A record: its length, the length's checksum, the data, the data's checksum.
pub(super) fn record(message: &Message) -> Vec<u8> {
    let data = message.as_bytes();
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// A checksum of data that holds checksums (tensorflow's `crc32c::Mask`).
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The first event of a file.
pub(super) fn version(time: f64) -> Message {
    Message::new().double(1, time).text(3, "brain.Event:2")
}

/// Everything of `step` and later that earlier files say is void (`SessionLog.START`).
pub(super) fn session_start(time: f64, step: u64) -> Message {
    event(time, step).message(7, &Message::new().int(1, 1))
}

pub(super) fn scalar(time: f64, step: u64, tag: &str, value: f64) -> Message {
    // TensorBoard's scalars have 32 bits.
    summary(time, step, Message::new().text(1, tag).float(2, value as f32))
}

pub(super) fn histogram(time: f64, step: u64, tag: &str, histogram: &Histogram) -> Message {
    let Histogram { min, max, count, sum, sum_squares, limits, counts } = histogram;
    let proto = Message::new().double(1, *min).double(2, *max).double(3, *count).double(4, *sum);
    let proto = proto.double(5, *sum_squares).doubles(6, limits).doubles(7, counts);
    summary(time, step, Message::new().text(1, tag).message(5, &proto))
}

pub(super) fn image(time: f64, step: u64, tag: &str, image: &Png) -> Message {
    let Png { width, height, channels, bytes } = image;
    let sizes = Message::new().int(1, u64::from(*height)).int(2, u64::from(*width)).int(3, u64::from(*channels));
    summary(time, step, Message::new().text(1, tag).message(4, &sizes.bytes(4, bytes)))
}

/// The three messages of the hparams plugin: which parameters and metrics there are, this session's values, its end.
pub(super) fn hparams(time: f64, values: &BTreeMap<String, HParam>, metrics: &[String]) -> Vec<Message> {
    const TEXT: u64 = 1;
    const FLAG: u64 = 2;
    const NUMBER: u64 = 3;
    let mut experiment = Message::new().double(3, time);
    let mut session = Message::new().double(5, time);
    for (name, value) in values {
        let (kind, value) = match value {
            HParam::Number(number) => (NUMBER, Message::new().double(2, *number)),
            HParam::Text(text) => (TEXT, Message::new().text(3, text)),
            HParam::Flag(flag) => (FLAG, Message::new().int(4, u64::from(*flag))),
        };
        experiment = experiment.message(4, &Message::new().text(1, name).int(4, kind));
        session = session.message(1, &Message::new().text(1, name).message(2, &value));
    }
    for metric in metrics {
        let name = Message::new().text(2, metric);
        experiment = experiment.message(5, &Message::new().message(1, &name));
    }
    vec![
        plugin(time, "_hparams_/experiment", 2, &experiment),
        plugin(time, "_hparams_/session_start_info", 3, &session),
    ]
}

/// This session ended regularly.
pub(super) fn hparams_end(time: f64) -> Message {
    const SUCCESS: u64 = 1;
    plugin(time, "_hparams_/session_end_info", 4, &Message::new().int(1, SUCCESS).double(2, time))
}

fn plugin(time: f64, tag: &str, field: u64, content: &Message) -> Message {
    let content = Message::new().int(1, 0).message(field, content);
    let data = Message::new().text(1, "hparams").bytes(2, content.as_bytes());
    let metadata = Message::new().message(1, &data);
    summary(time, 0, Message::new().text(1, tag).message(9, &metadata))
}

fn event(time: f64, step: u64) -> Message {
    Message::new().double(1, time).int(2, step)
}

fn summary(time: f64, step: u64, value: Message) -> Message {
    event(time, step).message(5, &Message::new().message(1, &value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensorboard_records_have_tensorboards_framing() {
        // tensorboard.summary.writer.record_writer.RecordWriter's bytes for b"\x08\x96\x01".
        let expected = [0x03, 0, 0, 0, 0, 0, 0, 0, 0xb0, 0x99, 0x49, 0x0e, 0x08, 0x96, 0x01, 0x06, 0xfa, 0x6e, 0x2c];
        assert_eq!(record(&Message::new().int(1, 150)), expected);
    }
}
