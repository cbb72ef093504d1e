//! The end of `cargo ddp run --at-step N`: all ranks stop when step N is done.

use super::course::Course;
use crate::snapshot::Contents;
use crate::worker::at_step::AtStep;
use crate::worker::debug::is_attached;
use crate::worker::process::process;
use crate::{Error, Result, Snapshots};
use ddp_contract::snapshot::folder_name;

impl Course {
    /// Whether this rank stops here, in its debugger. If no rank has a debugger, the job ends here: the step is saved, and
    /// [`Error::AtStep`] returned on all ranks.
    pub(super) fn stops_here(&mut self, contents: &mut Contents<'_>) -> Result<bool> {
        let here = self.context.at_step().filter(|at_step| at_step.step == self.progress.step);
        let Some(AtStep { step, dir }) = here.cloned() else { return Ok(false) };
        let attached = is_attached();
        let [any] = self.context.group().largest("looking for debuggers", [i64::from(attached)])?;
        if any != 0 {
            return Ok(attached);
        }
        if self.snapshots.is_none() {
            self.snapshots = Some(Snapshots::open(&self.context, &dir)?);
        }
        self.finish(contents)?;
        process().arrived(step);
        Err(Error::AtStep { step, snapshot: dir.join(folder_name(step)) })
    }
}
