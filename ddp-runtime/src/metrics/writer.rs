//! The two files. Each write is of complete records; what a killed run left half written is cut off (`metrics.jsonl`), or is
//! the end of a file that nobody appends to (event files: every session has its own).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ddp_contract::metrics::{FILE, FORMAT, Line, Session};
use serde_json::json;

use super::HParam;
use super::histogram::Histogram;
use super::image::Png;
use super::proto::Message;
use super::record::now;
use super::tensorboard as tb;
use crate::dist::resume_point::ResumePoint;
use crate::os::{files, process::host_name};
use crate::worker::say::say;
use crate::{Context, Error, Result};

pub(super) struct Writer {
    dir: PathBuf,
    lines: Lines,
    events: File,
    /// Not on disk yet.
    new_lines: Vec<u8>,
    new_events: Vec<u8>,
    session: Session,
    started: bool,
    hparams: bool,
    resume_point: ResumePoint,
}

/// Where lines go.
enum Lines {
    File(File),
    /// A FIFO or a device, which does not block.
    Stream(File),
    /// The reader is gone, and a warning was printed.
    Nowhere,
}

/// How long a reader of a FIFO is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

impl Lines {
    fn lost(path: &Path, why: &str) -> Self {
        say(format_args!("warning: not writing metrics to {}: {why}", path.display()));
        Self::Nowhere
    }

    fn write(&mut self, mut new: &[u8], path: &Path) -> io::Result<()> {
        let stream = match self {
            Self::File(file) => return file.write_all(new),
            Self::Nowhere => return Ok(()),
            Self::Stream(stream) => stream,
        };
        let end = Instant::now() + PATIENCE;
        while !new.is_empty() {
            match stream.write(new) {
                Ok(count) => new = &new[count..],
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    *self = Self::lost(path, "its reader is too slow");
                    break;
                }
                Err(err) if err.kind() == io::ErrorKind::BrokenPipe => {
                    *self = Self::lost(path, "its reader has closed it");
                    break;
                }
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}

impl Writer {
    pub(super) fn open(dir: &Path, context: &Context) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io("can't create the folder", dir))?;
        let path = dir.join(FILE);
        let stream = fs::metadata(&path).is_ok_and(|found| !found.is_file());
        let open = || {
            // A device or a FIFO is written to, by as many runs as want to, and has no torn lines. Only written to: a process
            // that has a FIFO open for reading, too, would be its own reader.
            if stream {
                return OpenOptions::new().append(true).custom_flags(files::NONBLOCK).open(&path).map(Some);
            }
            let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(err)) => return Err(err),
            }
            cut_torn_line(&mut file)?;
            Ok(Some(file))
        };
        let lines = match open() {
            Ok(Some(file)) if stream => Lines::Stream(file),
            Ok(Some(file)) => Lines::File(file),
            Ok(None) => {
                let problem = format!("another run is writing metrics to {}: choose a different folder", dir.display());
                return Err(Error::Invalid(problem));
            }
            Err(err) if stream && files::has_no_reader(&err) => Lines::lost(&path, "it has no reader"),
            Err(err) => return Err(Error::io("can't write", &path)(err)),
        };
        let events = new_event_file(dir).map_err(Error::io("can't write events for TensorBoard in", dir))?;
        let session = Session {
            format: FORMAT,
            step: 0,
            attempt: context.restart_count(),
            world_size: context.world_size(),
            time: now(),
        };
        let new_events = tb::record(&tb::version(session.time));
        let resume_point = context.resume_point().clone();
        Ok(Self {
            dir: dir.to_owned(),
            lines,
            events,
            new_lines: Vec::new(),
            new_events,
            session,
            started: false,
            hparams: false,
            resume_point,
        })
    }

    /// Something is recorded for `step`: the session's first, unless it began.
    pub(super) fn start(&mut self, step: u64) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        self.session.step = self.resume_point.step().unwrap_or(step.saturating_sub(1));
        let later = std::mem::take(&mut self.new_lines);
        self.line(&Line::Start(self.session.clone()));
        self.new_lines.extend(later);
        self.event(&tb::session_start(self.session.time, self.session.step.saturating_add(1)));
    }

    pub(super) fn scalar(&mut self, name: &str, step: u64, value: f64, time: f64) -> Result<()> {
        self.line(&Line::Scalar { name: name.to_owned(), step, value, time });
        self.event(&tb::scalar(time, step, name, value));
        Ok(())
    }

    pub(super) fn histogram(&mut self, name: &str, step: u64, histogram: &Histogram, time: f64) -> Result<()> {
        self.event(&tb::histogram(time, step, name, histogram));
        Ok(())
    }

    pub(super) fn image(&mut self, name: &str, step: u64, image: &Png, time: f64) -> Result<()> {
        self.event(&tb::image(time, step, name, image));
        Ok(())
    }

    pub(super) fn hparams(&mut self, values: &BTreeMap<String, HParam>, metrics: &[String], time: f64) -> Result<()> {
        self.hparams = true;
        let json = |value: &HParam| match value {
            HParam::Number(number) => json!(number),
            HParam::Text(text) => json!(text),
            HParam::Flag(flag) => json!(flag),
        };
        let json = values.iter().map(|(name, value)| (name.clone(), json(value))).collect();
        self.line(&Line::Hparams { values: json });
        for message in tb::hparams(time, values, metrics) {
            self.event(&message);
        }
        Ok(())
    }

    /// Puts what is new on disk, once the session has begun.
    pub(super) fn save(&mut self) -> Result<()> {
        if !self.started {
            return Ok(());
        }
        self.lines.write(&self.new_lines, &self.dir.join(FILE)).map_err(Error::writing(&self.dir))?;
        self.new_lines.clear();
        self.events.write_all(&self.new_events).map_err(Error::writing(&self.dir))?;
        self.new_events.clear();
        Ok(())
    }

    /// The run ended regularly.
    pub(super) fn end(&mut self) -> Result<()> {
        self.start(1);
        self.line(&Line::End { time: now() });
        if self.hparams {
            self.event(&tb::hparams_end(now()));
        }
        self.save()
    }

    fn line(&mut self, line: &Line) {
        // Plain data: it can always be written.
        if serde_json::to_writer(&mut self.new_lines, line).is_ok() {
            self.new_lines.push(b'\n');
        }
    }

    fn event(&mut self, message: &Message) {
        self.new_events.extend(tb::record(message));
    }
}

/// Removes what follows the last line end: the run that wrote it was killed.
fn cut_torn_line(file: &mut File) -> io::Result<()> {
    const PART: u64 = 1 << 16;
    let mut end = file.metadata()?.len();
    let whole = end;
    let mut part = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(PART);
        file.seek(SeekFrom::Start(start))?;
        part.clear();
        file.take(end - start).read_to_end(&mut part)?;
        if let Some(at) = part.iter().rposition(|&byte| byte == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < whole { file.set_len(end) } else { Ok(()) }
}

/// A new file, which TensorBoard reads after the existing ones: it sorts them by name.
fn new_event_file(dir: &Path) -> io::Result<File> {
    const PREFIX: &str = "events.out.tfevents.";
    let second = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let second = name.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok()?;
        // A larger number is not a time, so another program wrote the file.
        (second < 1 << 35).then_some(second)
    };
    let newest = fs::read_dir(dir)?.flatten().filter_map(second).max().unwrap_or(0);
    let host = host_name().replace(['/', '.'], "-");
    let mut time = (now() as u64).max(newest + 1);
    loop {
        let path = dir.join(format!("{PREFIX}{time:010}.{host}.{}.0", std::process::id()));
        match OpenOptions::new().append(true).create_new(true).open(path) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => time += 1,
            opened => return opened,
        }
    }
}
