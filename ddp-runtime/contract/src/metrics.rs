//! `metrics.jsonl`: what a run has measured, one JSON object a line, in the order in which it came.
//!
//! ```json
//! {"event":"start","format":1,"step":0,"attempt":0,"world_size":2,"time":1700000000.5}
//! {"event":"hparams","values":{"lr":0.1,"model":"linear"}}
//! {"event":"scalar","name":"loss","step":1,"value":0.25,"time":1700000001.5}
//! {"event":"end","time":1700000060.0}
//! ```
//!
//! `start` opens each session of a run: it has done `step` optimizer steps, so what sessions before it reported of later steps
//! is superseded. A value that JSON has no number for is a string: `"NaN"`, `"inf"`, `"-inf"`. Lines are written completely; a
//! last line without its end belongs to a run that was killed, and is ignored. Readers skip events they do not know.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::file;

/// Name of the file in a run's folder.
pub const FILE: &str = "metrics.jsonl";
/// The format that is written.
pub const FORMAT: u32 = 1;
/// More than any line has, in bytes. Damage can leave a file without line ends, of any size.
const LONGEST_LINE: u64 = file::SMALL;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Line {
    /// A session begins.
    Start(Session),
    /// What the run was given.
    Hparams {
        /// Names and values.
        values: BTreeMap<String, serde_json::Value>,
    },
    /// A number, of all ranks together.
    Scalar {
        /// What it measures, such as `train/loss`.
        name: String,
        /// The optimizer step, over all epochs.
        step: u64,
        /// The number.
        #[serde(serialize_with = "write_number", deserialize_with = "read_number")]
        value: f64,
        /// Seconds since 1970.
        time: f64,
    },
    /// The run ended regularly.
    End {
        /// Seconds since 1970.
        time: f64,
    },
    /// An event of a newer version.
    #[serde(other)]
    Unknown,
}

/// A start of the run: its first, or one after a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// [`FORMAT`] of what follows.
    pub format: u32,
    /// Optimizer steps that were done.
    pub step: u64,
    /// How often the launcher had restarted the job.
    pub attempt: u32,
    /// Number of workers.
    pub world_size: usize,
    /// Seconds since 1970.
    pub time: f64,
}

/// A value of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The optimizer step.
    pub step: u64,
    /// The value.
    pub value: f64,
    /// Seconds since 1970.
    pub time: f64,
}

/// The content of a file, without what was superseded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curves {
    /// The sessions, in their order.
    pub sessions: Vec<Session>,
    /// What the run was given.
    pub hparams: BTreeMap<String, serde_json::Value>,
    /// The curves by name, each with its steps in order.
    pub scalars: BTreeMap<String, Vec<Point>>,
    /// Whether the last session ended regularly.
    pub ended: bool,
}

impl Curves {
    /// Reads the file at `path`, line by line.
    ///
    /// # Errors
    /// Those of reading it; `InvalidData` for a line that is not an object of this format, or for a newer format.
    pub fn read(path: &Path) -> io::Result<Self> {
        Self::from_lines(BufReader::new(file::open(path)?))
    }

    /// Reads the content of a file.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(content: &[u8]) -> io::Result<Self> {
        Self::from_lines(content)
    }

    fn from_lines(mut content: impl BufRead) -> io::Result<Self> {
        let bad = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        let mut curves = Self::default();
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            content.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
            if line.len() as u64 == LONGEST_LINE {
                return Err(bad(format!("line {number} has {LONGEST_LINE} bytes or more")));
            }
            // The last one, without its end.
            if line.pop() != Some(b'\n') {
                break;
            }
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice(&line).map_err(|err| bad(format!("line {number}: {err}")))? {
                Line::Start(Session { format, .. }) if format > FORMAT => {
                    return Err(bad(format!("unsupported format {format}: this version reads up to format {FORMAT}")));
                }
                line => curves.add(line),
            }
        }
        for points in curves.scalars.values_mut() {
            points.sort_by_key(|point| point.step);
        }
        curves.scalars.retain(|_, points| !points.is_empty());
        Ok(curves)
    }

    fn add(&mut self, line: Line) {
        match line {
            Line::Start(session) => {
                for points in self.scalars.values_mut() {
                    points.retain(|point| point.step <= session.step);
                }
                self.sessions.push(session);
                self.ended = false;
            }
            Line::Hparams { values } => self.hparams.extend(values),
            Line::Scalar { name, step, value, time } => {
                let points = self.scalars.entry(name).or_default();
                // Said twice, the last word counts.
                match points.last_mut() {
                    Some(last) if last.step == step => *last = Point { step, value, time },
                    _ => points.push(Point { step, value, time }),
                }
            }
            Line::End { .. } => self.ended = true,
            Line::Unknown => {}
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Number {
    Number(f64),
    Word(String),
}

fn write_number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match value.is_finite() {
        true => serializer.serialize_f64(*value),
        // "NaN", "inf", "-inf"
        false => serializer.serialize_str(&value.to_string()),
    }
}

fn read_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    match Number::deserialize(deserializer)? {
        Number::Number(value) => Ok(value),
        Number::Word(word) => word.parse().map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(name: &str, step: u64, value: f64) -> Line {
        Line::Scalar { name: name.into(), step, value, time: 1.5 }
    }

    fn start(step: u64, attempt: u32) -> Line {
        Line::Start(Session { format: FORMAT, step, attempt, world_size: 2, time: 0.25 })
    }

    fn text(lines: &[Line]) -> String {
        lines.iter().map(|line| serde_json::to_string(line).expect("plain data") + "\n").collect()
    }

    #[test]
    fn metrics_of_a_later_session_supersede_earlier_ones() {
        let lines = [
            start(0, 0),
            scalar("loss", 1, 4.0),
            scalar("loss", 2, 3.0),
            scalar("loss", 3, 2.0),
            scalar("accuracy", 3, 0.5),
            start(1, 1),
            scalar("loss", 2, 3.5),
            scalar("loss", 3, f64::NAN),
            Line::End { time: 2.0 },
        ];
        let curves = Curves::parse(text(&lines).as_bytes()).expect("it is valid");
        let values: Vec<_> = curves.scalars["loss"].iter().map(|point| (point.step, point.value)).collect();
        assert_eq!(values[..2], [(1, 4.0), (2, 3.5)]);
        assert!(values[2].1.is_nan() && values.len() == 3);
        assert!(!curves.scalars.contains_key("accuracy"), "the run went on from before it");
        assert_eq!((curves.sessions.len(), curves.ended), (2, true));
    }

    #[test]
    fn metrics_with_a_torn_last_line_are_read_and_with_another_are_refused() {
        let whole = text(&[start(0, 0), scalar("loss", 1, f64::NEG_INFINITY)]);
        assert!(whole.contains("\"-inf\""), "{whole}");
        let torn = whole.clone() + "{\"event\":\"scal";
        assert_eq!(Curves::parse(torn.as_bytes()).ok(), Curves::parse(whole.as_bytes()).ok());
        let error = Curves::parse((torn + "\n").as_bytes()).expect_err("it is damaged").to_string();
        assert!(error.starts_with("line 3: "), "{error}");
        let newer = whole.replace("\"format\":1", "\"format\":2");
        let error = Curves::parse(newer.as_bytes()).expect_err("it is newer").to_string();
        assert_eq!(error, "unsupported format 2: this version reads up to format 1");
        let unknown = whole + "\n{\"event\":\"coffee_break\",\"minutes\":5}\n";
        assert_eq!(Curves::parse(unknown.as_bytes()).expect("skipped").scalars["loss"].len(), 1);
    }

    // A file of any size was read into memory in one piece.
    #[test]
    fn metrics_line_without_an_end_is_bounded() {
        let whole = text(&[start(0, 0), scalar("loss", 1, 0.5)]);
        let zeros = BufReader::new(io::repeat(0));
        let error = Curves::from_lines(whole.as_bytes().chain(zeros)).expect_err("it has no end").to_string();
        assert_eq!(error, "line 3 has 16777216 bytes or more");
        let path = std::env::temp_dir().join(format!("ddp-contract-metrics-{}", std::process::id()));
        std::fs::write(&path, &whole).expect("a file for the test");
        assert_eq!(Curves::read(&path).expect("it is valid").scalars["loss"].len(), 1);
        std::fs::File::options().write(true).open(&path).and_then(|file| file.set_len(1 << 36)).expect("a sparse file");
        let error = Curves::read(&path).expect_err("it is too long").to_string();
        std::fs::remove_file(path).expect("the test's file");
        assert!(error.starts_with("line 3 has "), "{error}");
    }
}
