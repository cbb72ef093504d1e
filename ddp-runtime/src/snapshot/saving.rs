//! Saving: all ranks agree on the step, rank 0 copies the state, and a thread writes it.

use std::collections::{BTreeMap, HashSet};

use ddp_contract::snapshot::{self as format, Manifest};
use tch::Tensor;
use tch::nn::VarStore;
use tracing::debug;

use super::rng::{self, RngState};
use super::stage::Stage;
use super::unfinished::LONG;
use super::write::PendingSnapshot;
use super::{Contents, Preparing, Progress, Snapshots};
use crate::dist::consensus::Request;
use crate::dist::params;
use crate::worker::process::process;
use crate::{Error, Result};

impl Snapshots {
    /// Saves as `step-<progress.step>`: see [`Run::save`](crate::Run::save).
    pub(crate) fn save(&mut self, model: &VarStore, contents: &Contents<'_>, progress: Progress) -> Result<()> {
        let flushed = self.before_save.run();
        let written = self.wait_together()?;
        let optimizer = contents.optimizer.consolidated_state_dict(); // every rank takes part
        let mine = written.and(flushed).and(optimizer).and_then(|optimizer| {
            let pending = if self.group.rank() == 0 {
                self.lock_here()?;
                Some(self.pending(model, contents, optimizer.into_tensors(), progress)?)
            } else {
                None
            };
            Ok((pending, RngState::now(self.device)?))
        });
        let (pending, rng) = match mine {
            Ok((pending, rng)) => (pending, Ok(rng)),
            Err(err) => (None, Err(err)),
        };
        let ranks = self.gather(rng)?;
        self.locked = true;
        if let Some(mut pending) = pending {
            pending.tensors.push((format::RNG, rng::to_tensors(&ranks)?));
            self.writing = Some(pending.start(std::mem::take(&mut self.stage))?);
        }
        self.due.restart_clock();
        self.saved_at = Some(progress);
        if self.blocking { self.wait_until_written() } else { Ok(()) }
    }

    /// Saves if a step or an epoch that asks for it was passed since the last call, or if the ranks have agreed on it: see
    /// [`Run::step_done`](crate::Run::step_done).
    pub(crate) fn save_if_due(
        &mut self,
        model: &VarStore,
        contents: &Contents<'_>,
        progress: Progress,
        agreed: Request,
    ) -> Result<()> {
        process().step_done(progress.step);
        if !self.locked {
            self.lock()?;
        }
        self.prepare(model, contents);
        let passed = self.due.passed(progress);
        if passed || agreed.save || agreed.stop {
            self.save(model, contents, progress)?;
        }
        if agreed.stop {
            self.wait_until_written()?;
            let snapshot = self.dir.join(format::folder_name(progress.step));
            debug!(step = progress.step, "asked to stop: all ranks have saved");
            process().preempted(progress.step);
            return Err(Error::Preempted { step: progress.step, snapshot });
        }
        Ok(())
    }

    /// Gets the memory for the copies ready, once, when the optimizer has its state.
    fn prepare(&mut self, model: &VarStore, contents: &Contents<'_>) {
        if !matches!(self.preparing, Preparing::NotYet) || self.group.rank() != 0 {
            return;
        }
        let Ok(optimizer) = contents.optimizer.state_dict() else { return }; // saving reports it
        self.preparing = match Stage::prepare(tensors_of(model, optimizer.into_tensors())) {
            Some(thread) => Preparing::Running(thread),
            None => Preparing::Done, // then the first snapshot gets it
        };
    }

    /// Whether ranks may [request](Self::request) something, the same on all ranks. From the first call on, signals are
    /// requests.
    pub(crate) fn takes_requests(&self) -> Result<bool> {
        if self.preemption {
            let watched = process().signals.watch();
            watched.map_err(|err| Error::Invalid(format!("can't listen for stop signals: {err}")))?;
        }
        Ok(self.preemption || self.due.every.is_some())
    }

    /// What this rank requests.
    pub(crate) fn request(&self) -> Request {
        let save = self.group.rank() == 0 && self.due.interval_elapsed();
        Request { save, stop: self.preemption && process().signals.asked(), diff: false }
    }

    /// Waits until the last snapshot is on disk, on every rank, also beyond the group's timeout. Every rank must call it.
    /// Without it, the program's end does so, and then a failure makes [`ddp_runtime::main`](crate::main) fail.
    pub(crate) fn wait_until_written(&mut self) -> Result<()> {
        let written = self.wait_together()?;
        self.group.agree("saving a snapshot", written)
    }

    /// For the end of a run: [saves](Self::save) unless `progress` was saved already, and waits until it is on disk.
    pub(crate) fn finish(&mut self, model: &VarStore, contents: &Contents<'_>, progress: Progress) -> Result<()> {
        if self.saved_at != Some(progress) {
            self.save(model, contents, progress)?;
        }
        self.wait_until_written()
    }

    /// Waits on all ranks until rank 0 has written the last snapshot, however long that takes: the ranks exchange while they
    /// wait, well within the group's timeout. The inner result is rank 0's; on the other ranks it is `Ok`.
    fn wait_together(&mut self) -> Result<Result<()>> {
        let interval = LONG.min(self.group.timeout() / 4);
        loop {
            let is_done = self.writing.as_ref().is_none_or(|writing| writing.is_done_within(interval));
            let [unfinished] = self.group.largest("waiting for a snapshot", [i64::from(!is_done)])?;
            if unfinished == 0 {
                return Ok(self.wait());
            }
        }
    }

    /// Waits for the snapshot that is being written, if any.
    fn wait(&mut self) -> Result<()> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let (stage, written) = writing.wait();
        self.stage = stage;
        written
    }

    /// What there is to write, copied.
    fn pending(
        &mut self,
        model: &VarStore,
        contents: &Contents<'_>,
        optimizer: Named,
        progress: Progress,
    ) -> Result<PendingSnapshot> {
        let Progress { epoch, step, samples } = progress;
        let (mut states, mut non_finite, mut state_tensors) = (BTreeMap::new(), BTreeMap::new(), Named::new());
        for part in &contents.parts {
            let (values, tensors) = part.state_dict()?.into_parts();
            for (name, (value, places)) in values {
                if !places.is_empty() {
                    non_finite.insert(name.clone(), places);
                }
                states.insert(name, value);
            }
            state_tensors.extend(tensors);
        }
        check_names(&state_tensors)?;
        let manifest = Manifest {
            format_version: format::FORMAT_VERSION,
            epoch,
            step,
            world_size: self.group.world_size(),
            samples_in_epoch: samples,
            metric: contents.metric.filter(|metric| metric.is_finite()),
            states,
            non_finite,
            non_finite_since: self.health.non_finite_since(),
            bucket_order: self.group.reducers().order(model),
            files: BTreeMap::new(),
        };
        if let Preparing::Running(thread) = std::mem::replace(&mut self.preparing, Preparing::Done) {
            self.stage = thread.join().unwrap_or_default();
        }
        let copy = |(file, tensors)| Ok((file, self.stage.copy(file, tensors)?));
        let mut tensors = tensors_of(model, optimizer);
        if !state_tensors.is_empty() {
            tensors.push((format::STATES, state_tensors));
        }
        let tensors = tensors.into_iter().map(copy).collect::<Result<_>>()?;
        Ok(PendingSnapshot {
            dir: self.dir.clone(),
            manifest,
            tensors,
            trained: params::trained(model).into_iter().map(|(name, _)| name).collect(),
            aliases: params::aliases(model),
            policy: self.policy,
            known: self.known.clone(),
            health: self.health.clone(),
            durable: self.durable,
            launcher: self.launcher.clone(),
        })
    }

    /// Every rank's generators, on every rank; or the first error, on every rank.
    fn gather(&self, mine: Result<RngState>) -> Result<Vec<RngState>> {
        let (mine, error) = match mine {
            Ok(state) => (Ok(state), None),
            Err(err) => (Err(err.to_string()), Some(err)),
        };
        let all = self.group.all_gather_value(&mine)?;
        if let Some(err) = error {
            return Err(err);
        }
        let ranks = all.into_iter().enumerate().map(|(rank, state)| {
            state.map_err(|message| Error::OnRank { operation: "saving a snapshot", rank, message })
        });
        ranks.collect()
    }
}

/// Tensors by name.
type Named = Vec<(String, Tensor)>;

/// Two objects must not have tensors of one name, as they are in one file.
fn check_names(tensors: &Named) -> Result<()> {
    let mut names = HashSet::new();
    match tensors.iter().find(|(name, _)| !names.insert(name)) {
        Some((name, _)) => {
            Err(Error::Invalid(format!("two parts of the run save a tensor named {name}; rename one of them")))
        }
        None => Ok(()),
    }
}

/// What goes into which file.
fn tensors_of(model: &VarStore, optimizer: Named) -> Vec<(&'static str, Named)> {
    vec![(format::MODEL, params::all(model)), (format::OPTIMIZER, optimizer)]
}
