//! `Ddp`: forward and backward passes whose gradients are averaged over the ranks.

mod options;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use tch::Tensor;
use tch::nn::VarStore;

use crate::dist::comm_hook;
use crate::dist::comm_hook::{Failure, GradBucket, HookWork};
use crate::dist::known_parameters::KnownParameters;
use crate::dist::reducer::Reducer;
use crate::dist::{carriable, collectives, params};
use crate::error::check;
use crate::{Error, ProcessGroup, Result, sys};

pub use options::{CommHook, DdpOptions, JoinDivisor};

/// Data-parallel training of the model in a `VarStore`: PyTorch's own `c10d::Reducer`, which averages gradients over the
/// ranks in buckets while backward still runs (`torch/nn/parallel/distributed.py`).
///
/// Each step: [`Ddp::forward`], [`Ddp::backward`], then the optimizer on every rank. As all ranks start from rank 0's
/// parameters and apply the same averaged gradients, they stay equal.
///
/// A loss that does not go through both has gradients of this rank alone, and ranks that step with them differ: the first
/// such gradient is reported on stderr.
///
/// After a step, gradients are views of the reducer's buckets, which saves memory and the copy back from the buckets; clear
/// them with this crate's optimizers (tch's own `zero_grad` can't). Clearing them to none, the default, ends the views: the
/// next backward pass makes new gradients, which the reducer copies into the buckets, each with its own kernel, or
/// bucket by bucket with [`batched_grad_copy`](DdpOptions::batched_grad_copy).
///
/// # BatchNorm
/// tch's `batch_norm` computes the statistics of each rank's batch alone. With `broadcast_buffers`, its running statistics are
/// rank 0's, as in PyTorch. [`sync_batch_norm`](crate::nn::sync_batch_norm) computes them over the batches of all ranks,
/// which matters where a rank's batch is small.
///
/// ```
/// use ddp_runtime::{Context, Ddp, optim::{Optimizer, Sgd, SgdOptions}};
/// use tch::{Kind, Tensor, nn, nn::Module};
///
/// # fn main() -> Result<(), ddp_runtime::Error> {
/// let context = Context::init()?;
/// let vs = nn::VarStore::new(context.device());
/// let model = nn::linear(vs.root(), 2, 1, Default::default());
/// let ddp = Ddp::new(context.group(), &vs)?;
/// let mut optimizer = Sgd::new(&vs, SgdOptions { lr: 0.03, ..Default::default() });
///
/// let x = Tensor::ones([8, 2], (Kind::Float, context.device()));
/// optimizer.zero_grad()?;
/// let loss = ddp.forward(|| model.forward(&x).square().mean(Kind::Float))?;
/// ddp.backward(&loss)?;
/// optimizer.step()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Ddp {
    // The reducer holds its own references to the parameters and to the group.
    reducer: Arc<Reducer>,
    parameters: KnownParameters,
    /// Off inside of `no_sync`.
    sync: Cell<bool>,
    /// A communication hook can't be registered after the first backward pass.
    was_backward: Cell<bool>,
    hook_failure: Failure,
}

impl Ddp {
    /// Wraps the model whose variables are in `vs`: checks that it is the same on all ranks of `group`, and makes every
    /// rank's parameters and buffers equal to rank 0's.
    ///
    /// A tensor with several names (tied weights) is one parameter, under the first of them in the alphabet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for tensors that the group can't send, by name; [`Error::NoParameters`];
    /// [`Error::ModelsDiffer`], on every rank, naming the first parameter or buffer whose name, shape, dtype, type of device or
    /// strides differ; [`Error::Torch`] and [`Error::Timeout`] from the group.
    pub fn new(group: &ProcessGroup, vs: &VarStore) -> Result<Self> {
        Self::with_options(group, vs, DdpOptions::default())
    }

    /// [`Ddp::new`] with other settings.
    ///
    /// # Errors
    /// As [`Ddp::new`].
    pub fn with_options(group: &ProcessGroup, vs: &VarStore, options: DdpOptions) -> Result<Self> {
        carriable::check_sent(vs, group.backend())?;
        let (parameters, frozen, buffers) = (params::trained(vs), params::frozen(vs), params::buffers(vs));
        // Without broadcast_buffers, buffers are each rank's own.
        let shared_buffers = if options.broadcast_buffers { buffers.as_slice() } else { &[] };
        verify(group, [("parameter", &parameters), ("frozen parameter", &frozen), ("buffer", shared_buffers)])?;
        if parameters.is_empty() {
            return Err(Error::NoParameters);
        }
        let names = parameters.iter().map(|(name, _)| CString::new(name.as_str())).collect::<Result<Vec<_>, _>>()?;
        let name_pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let [parameter_pointers, frozen_pointers, buffer_pointers] =
            [&parameters, &frozen, &buffers].map(params::pointers);
        let tensors = sys::ddp_reducer_tensors {
            parameters: parameter_pointers.as_ptr(),
            names: name_pointers.as_ptr(),
            n_parameters: parameter_pointers.len(),
            frozen: frozen_pointers.as_ptr(),
            n_frozen: frozen_pointers.len(),
            buffers: buffer_pointers.as_ptr(),
            n_buffers: buffer_pointers.len(),
        };
        let raw_options = sys::ddp_reducer_options {
            bucket_cap_bytes: options.bucket_cap_bytes,
            first_bucket_bytes: options.first_bucket_bytes,
            find_unused_parameters: options.find_unused_parameters,
            gradient_as_bucket_view: options.gradient_as_bucket_view,
            static_graph: options.static_graph,
            broadcast_buffers: options.broadcast_buffers,
            comm_hook: options.comm_hook as i32,
            batched_grad_copy: options.batched_grad_copy,
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: each array has the length that goes with it, and all of them, the tensors and the group outlive the
        // call, which copies what it keeps; `raw` is written on success only.
        check("setting up data-parallel training", |error| unsafe {
            sys::ddp_reducer_new(group.as_ptr(), &tensors, &raw_options, &mut raw, error)
        })?;
        let raw = NonNull::new(raw).expect("a reducer that was made is not null");
        let may_freeze = options.find_unused_parameters && !options.static_graph;
        let names = parameters.iter().map(|(name, _)| name.clone()).collect();
        // SAFETY: it was made just now, for these parameters.
        let reducer = Arc::new(unsafe { Reducer::from_raw(raw, names) });
        group.reducers().add(vs, &reducer);
        let parameters = KnownParameters::new(vs, parameters, may_freeze);
        let (sync, was_backward, hook_failure) = (Cell::new(true), Cell::new(false), Failure::default());
        Ok(Self { reducer, parameters, sync, was_backward, hook_failure })
    }

    /// Runs the forward pass: `f` computes the loss (a scalar that requires a gradient) from this rank's batch.
    ///
    /// Under `tch::no_grad` nothing is prepared for a backward pass, so that a model can be evaluated; buffers are still
    /// made equal, so every rank must call it.
    ///
    /// # Errors
    /// [`Error::ModelChanged`] when parameters were added, frozen, unfrozen or converted since [`Ddp::new`], whose
    /// gradients would not be averaged; with [`find_unused_parameters`](DdpOptions::find_unused_parameters) they may be frozen and unfrozen
    /// again. [`Error::Torch`].
    pub fn forward(&self, f: impl FnOnce() -> Tensor) -> Result<Tensor> {
        let (reducer, sync) = (self.reducer.as_ptr(), self.sync.get());
        // SAFETY: `reducer` is live, and used by this thread only.
        check("forward", |error| unsafe { sys::ddp_reducer_before_forward(reducer, sync, error) })?;
        let mut output = f();
        if output.requires_grad() {
            self.check_parameters()?; // after `f`, which may have added some
        }
        let output = output.as_mut_ptr();
        let mut result = std::ptr::null_mut();
        // SAFETY: as above; `output` outlives the call; `result` is written on success only.
        check("forward", |error| unsafe { sys::ddp_reducer_after_forward(reducer, sync, output, &mut result, error) })?;
        // SAFETY: the call made this tensor for its caller, and nobody else has it.
        Ok(unsafe { Tensor::from_ptr(result) })
    }

    /// Runs the backward pass of what [`Ddp::forward`] returned. Afterwards every rank's gradients are the averages over
    /// all ranks (inside of [`no_sync`](Ddp::no_sync): this rank's own, added to what was there).
    ///
    /// # Errors
    /// [`Error::UnusedParameters`], before any gradient is used, when the loss skips a parameter and
    /// [`find_unused_parameters`](DdpOptions::find_unused_parameters) is off. (A rank that skips none waits for those that
    /// do, until they are gone.) [`Error::Torch`] for a loss that is not of a [`forward`](Ddp::forward) since the last
    /// backward pass, as its gradients would not be averaged, and when another rank is gone; [`Error::Timeout`] when other
    /// ranks do not join.
    pub fn backward(&self, loss: &Tensor) -> Result<()> {
        if !loss.requires_grad() {
            self.check_parameters()?;
            return Err(Error::UnusedParameters { parameters: self.parameter_names().map(str::to_owned).collect() });
        }
        let (reducer, sync, loss) = (self.reducer.as_ptr(), self.sync.get(), loss.as_ptr().cast_mut());
        let _stale = self.hook_failure.take();
        self.was_backward.set(true);
        // SAFETY: `reducer` is live, and used by this thread only; `loss` is a live tensor.
        check("backward", |error| unsafe { sys::ddp_reducer_backward(reducer, sync, loss, error) })
            .map_err(|err| self.hook_failure.or(err))
    }

    /// Registers a communication hook: a closure that takes the place of the all-reduce of gradients
    /// (`register_comm_hook`). See [`comm_hook`](crate::comm_hook).
    ///
    /// `hook` is called with each bucket while backward still runs, from a thread of libtorch's, with gradients that are not
    /// divided by the number of ranks. It must make the same calls on every rank, and must not use this `Ddp`. Its collectives
    /// are not compared between the ranks first. Register the same hook on every rank, before the first backward pass.
    ///
    /// An error or panic of `hook` is the error of [`backward`](Ddp::backward) on this rank. The other ranks then wait for this
    /// rank until its process ends or the group's timeout passes, so end the process.
    ///
    /// ```
    /// use ddp_runtime::comm_hook::HookWork;
    /// use ddp_runtime::{Context, Ddp, ReduceOp};
    /// use tch::{Kind, nn};
    ///
    /// # fn main() -> ddp_runtime::Result<()> {
    /// # let context = Context::init()?;
    /// # let vs = nn::VarStore::new(context.device());
    /// # let _model = nn::linear(vs.root(), 2, 1, Default::default());
    /// let ddp = Ddp::new(context.group(), &vs)?;
    /// let group = context.group().clone();
    /// // Sums gradients as Double.
    /// ddp.register_comm_hook(move |bucket| {
    ///     let mut wide = bucket.buffer().to_kind(Kind::Double) / group.world_size() as f64;
    ///     let work = group.all_reduce_async(&mut wide, ReduceOp::Sum)?; // backward continues
    ///     Ok(HookWork::new(move || {
    ///         work.wait()?;
    ///         let mut buffer = bucket.into_buffer();
    ///         buffer.copy_(&wide);
    ///         Ok(buffer)
    ///     }))
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] after the first backward pass; [`Error::Torch`] if there is a hook already, such as
    /// [`DdpOptions::comm_hook`].
    pub fn register_comm_hook(&self, hook: impl FnMut(GradBucket) -> Result<HookWork> + Send + 'static) -> Result<()> {
        if self.was_backward.get() {
            return Err(Error::Invalid("register a communication hook before the first backward pass".into()));
        }
        let (parameters, failure) = (self.parameters.trained(), self.hook_failure.clone());
        // SAFETY: the reducer is live, and used by this thread only.
        unsafe { comm_hook::register(self.reducer.as_ptr(), parameters, failure, Box::new(hook)) }
    }

    /// Runs `f` without communication: the forward and backward passes in it accumulate this rank's gradients. The next
    /// passes outside of it average what was accumulated. Do not clear the gradients in between.
    ///
    /// ```no_run
    /// # use tch::Tensor;
    /// # fn step(ddp: &ddp_runtime::Ddp, batches: &[Tensor], loss: impl Fn(&Tensor) -> Tensor) -> ddp_runtime::Result<()> {
    /// let (last, others) = batches.split_last().expect("there are batches");
    /// ddp.no_sync(|| others.iter().try_for_each(|batch| ddp.backward(&ddp.forward(|| loss(batch))?)))?;
    /// ddp.backward(&ddp.forward(|| loss(last))?)?; // communicates for all of them
    /// # Ok(())
    /// # }
    /// ```
    pub fn no_sync<T>(&self, f: impl FnOnce() -> T) -> T {
        /// Puts the flag back, also when `f` panics.
        struct Restore<'a>(&'a Cell<bool>, bool);
        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                self.0.set(self.1);
            }
        }
        let _restore = Restore(&self.sync, self.sync.replace(false));
        f()
    }

    /// Runs a training loop in which ranks may have different numbers of batches
    /// (`DistributedDataParallel.join`, `torch/distributed/algorithms/join.py`): a rank whose `f` has returned takes part
    /// in the others' steps, with gradients of zero, until all have returned. Then every rank has the model of the one
    /// that came last.
    ///
    /// `divisor` is what the sums of gradients are divided by. Other collectives in the loop are not taken part in, so
    /// leave them out of `f`; the optimizer's state is not made equal afterwards. Every rank must call it.
    ///
    /// ```no_run
    /// # use ddp_runtime::{Ddp, JoinDivisor, Result, optim::Optimizer};
    /// # use tch::Tensor;
    /// # fn epoch(ddp: &Ddp, optimizer: &mut impl Optimizer, batches: &[Tensor], loss: impl Fn(&Tensor) -> Tensor) -> Result<()> {
    /// ddp.join(JoinDivisor::WorldSize, || {
    ///     for batch in batches {
    ///         optimizer.zero_grad()?;
    ///         ddp.backward(&ddp.forward(|| loss(batch))?)?;
    ///         optimizer.step()?;
    ///     }
    ///     Ok(())
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// `f`'s, immediately: the other ranks then wait for this one until it is gone or the group's time-out;
    /// [`Error::Torch`] and [`Error::Timeout`] when another rank is gone.
    pub fn join<T>(&self, divisor: JoinDivisor, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let (reducer, initial) = (self.reducer.as_ptr(), divisor == JoinDivisor::WorldSize);
        // SAFETY: `reducer` is live, and used by this thread only.
        check("join", |error| unsafe { sys::ddp_reducer_join_begin(reducer, initial, error) })?;
        let result = joining(f);
        let shadow = result.is_ok();
        let _stale = self.hook_failure.take();
        // SAFETY: as above.
        let ended = check("join", |error| unsafe { sys::ddp_reducer_join_end(reducer, shadow, error) })
            .map_err(|err| self.hook_failure.or(err));
        result.and_then(|value| ended.map(|()| value))
    }

    /// What PyTorch logs about this reducer (`_get_ddp_logging_data`): bucket sizes in bytes, and, for sampled steps,
    /// times in nanoseconds (`avg_backward_comm_time`, `avg_backward_compute_comm_overlap_time` …).
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn logging_data(&self) -> Result<BTreeMap<String, String>> {
        unsafe extern "C" fn take(context: *mut c_void, name: *const c_char, value: *const c_char) {
            // SAFETY: `context` is the map below, which nobody else uses during the call.
            let data = unsafe { &mut *context.cast::<BTreeMap<String, String>>() };
            // SAFETY: both are C strings that live for the call.
            let [name, value] =
                [name, value].map(|text| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
            data.insert(name, value);
        }
        let mut data = BTreeMap::new();
        let (reducer, context) = (self.reducer.as_ptr(), (&raw mut data).cast());
        // SAFETY: `reducer` is live; `take` is called with `context` before the call returns, and not after.
        check("reading logging data", |error| unsafe { sys::ddp_reducer_logging_data(reducer, take, context, error) })?;
        Ok(data)
    }

    fn check_parameters(&self) -> Result<()> {
        // SAFETY: the reducer is live, and only looked at.
        let find_lost = |index| unsafe { sys::ddp_reducer_find_lost(self.reducer.as_ptr(), index) };
        self.parameters.check(|index| usize::try_from(find_lost(index)).ok())
    }

    /// Names of the parameters that are trained, in the model's order.
    pub fn parameter_names(&self) -> impl Iterator<Item = &str> {
        self.parameters.trained().iter().map(|(name, _)| name.as_str())
    }
}

thread_local! {
    static JOINING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in the closure of a [`Ddp::join`], where ranks may take different numbers of steps.
pub(crate) fn is_joining() -> bool {
    JOINING.get()
}

/// Runs the closure of a `join`.
fn joining<T>(f: impl FnOnce() -> T) -> T {
    let _restore = Restore(JOINING.replace(true));
    /// Puts the flag back, also when `f` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            JOINING.set(self.0);
        }
    }
    f()
}

/// Refuses models that differ between ranks, on all ranks alike. (c10d's own check knows no names, and hangs or crashes
/// on some differences; what it does not check, the broadcast that follows would mix up.)
fn verify(group: &ProcessGroup, parts: [(&str, &[(String, Tensor)]); 3]) -> Result<()> {
    let describe =
        |what: &str, (name, tensor): &(String, Tensor)| format!("{what} {name} {}", collectives::form(tensor));
    let mine: Vec<String> =
        parts.iter().flat_map(|(what, tensors)| tensors.iter().map(move |tensor| describe(what, tensor))).collect();
    let all = group.all_gather_bytes(mine.join("\n").as_bytes())?;
    let lines = |bytes: &[u8]| -> Vec<String> { String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect() };
    let first = lines(&all[0]);
    for (rank, theirs) in all.iter().enumerate().skip(1) {
        let theirs = lines(theirs);
        let longest = first.len().max(theirs.len());
        if let Some(index) = (0..longest).find(|&i| first.get(i) != theirs.get(i)) {
            let tensor = |list: &[String]| list.get(index).cloned().unwrap_or_else(|| "no more tensors".into());
            return Err(Error::ModelsDiffer { rank, there: tensor(&theirs), here: tensor(&first) });
        }
    }
    Ok(())
}
