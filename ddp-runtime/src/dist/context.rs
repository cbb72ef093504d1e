//! `Context` and its builder: the start of a worker's code, and access to its ranks, device and group.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ddp_contract::Event;
use tch::Device;

#[cfg(doc)]
use crate::Error;
use crate::dist::before_save::BeforeSave;
use crate::dist::health::Health;
use crate::dist::process_group::{Backend, Identity, ProcessGroup, Settings};
use crate::dist::reducer::Reducers;
use crate::dist::resume_point::ResumePoint;
use crate::dist::spans::Spans;
use crate::dist::store::Store;
use crate::dist::{device, listen};
use crate::error::check;
use crate::sys::convert::to_i32;
use crate::worker::at_step::AtStep;
use crate::worker::launcher::EventPipe;
use crate::worker::process::process;
use crate::worker::{debug, launcher, logging, variables};
use crate::{Result, StepReport, World, memory, sys};

/// How long a rank waits for the others to appear (c10d's store default).
const STORE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a collective waits for the other ranks (PyTorch's defaults for Gloo and NCCL).
const GLOO_TIMEOUT: Duration = Duration::from_secs(1800);
const NCCL_TIMEOUT: Duration = Duration::from_secs(600);
/// With NCCL, comparing calls makes the CPU wait for the other ranks, where otherwise only the GPU does.
const NCCL_COMPARED_CALLS: u64 = 1000;
/// Steps between looks at the memory in use.
const MEMORY_EVERY: u64 = 50;

/// This worker: its place in the job, its device, and the group of all ranks. Clones share them.
///
/// ```no_run
/// # fn main() -> Result<(), ddp_runtime::Error> {
/// let context = ddp_runtime::Context::init()?;
/// println!("rank {} of {} on {:?}", context.rank(), context.world_size(), context.device());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    world: World,
    device: Device,
    group: ProcessGroup,
    launcher: EventPipe,
    before_save: BeforeSave,
    resume_point: ResumePoint,
    health: Health,
    at_step: Option<AtStep>,
    spans: Arc<Spans>,
    /// Steps that were reported.
    reports: Arc<AtomicU64>,
}

/// What [`Context::init`] decides by itself and a program may decide otherwise.
#[derive(Clone, Debug, Default)]
pub struct ContextBuilder {
    backend: Option<Backend>,
    timeout: Option<Duration>,
    compared_calls: Option<u64>,
    device: Option<Device>,
    high_priority_stream: bool,
    eager_init: bool,
}

impl ContextBuilder {
    /// The backend: by default NCCL on a GPU, else Gloo. With [`Backend::Gloo`] the worker trains on the CPU, unless
    /// [`device`](Self::device) chooses a GPU: Gloo moves CUDA tensors, too, through the CPU's memory.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// The device to train on: by default the GPU of this worker's number among those in CUDA_VISIBLE_DEVICES, or the only
    /// one; the CPU where CUDA_VISIBLE_DEVICES is empty or CUDA is not available. Two workers can share a GPU with
    /// [`Backend::Gloo`].
    ///
    /// ```no_run
    /// use ddp_runtime::{Backend, Context};
    /// use tch::Device;
    ///
    /// # fn main() -> ddp_runtime::Result<()> {
    /// // Tries a program on two ranks where there is one GPU:
    /// let context = Context::builder().backend(Backend::Gloo).device(Device::Cuda(0)).init()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// Whether NCCL's kernels run on a stream of high priority, before the model's (`is_high_priority_stream` in PyTorch's
    /// `ProcessGroupNCCL.Options`): by default not.
    pub fn nccl_high_priority_stream(mut self, high: bool) -> Self {
        self.high_priority_stream = high;
        self
    }

    /// Whether NCCL connects the ranks in [`init`](Self::init), instead of at their first operation on a GPU (`device_id` of
    /// PyTorch's `init_process_group`): by default not. [`ProcessGroup::new_group`] then splits the existing connections, which is
    /// faster.
    pub fn nccl_eager_init(mut self, eager: bool) -> Self {
        self.eager_init = eager;
        self
    }

    /// How long a collective waits for the other ranks: by default 30 minutes with Gloo, 10 with NCCL, as PyTorch.
    /// DDP_TIMEOUT (seconds) wins over it; the launcher sets it in debug sessions.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Whether the ranks compare what they call (operation, shape, dtype, root) before each collective, so that a mistake
    /// is an error on every rank immediately, where c10d would hang, crash or mix data up. It costs a small exchange per call,
    /// for which the CPUs wait for each other: 0.2 to 0.5 ms on one machine, more than an all_reduce of one number takes. So
    /// by default all calls are compared with Gloo, and with NCCL the first 1000 of each group; gradients in
    /// [`Ddp`](crate::Ddp) never are.
    pub fn check_collectives(self, check: bool) -> Self {
        self.check_first_collectives(if check { u64::MAX } else { 0 })
    }

    /// As [`check_collectives`](Self::check_collectives), for the first `count` collectives of each group, and as many
    /// messages between two ranks.
    pub fn check_first_collectives(mut self, count: u64) -> Self {
        self.compared_calls = Some(count);
        self
    }

    /// Reads the environment, picks the device and meets the other ranks.
    ///
    /// # Errors
    /// [`Error::MissingVariable`] and [`Error::BadVariable`] for the environment; [`Error::NoCuda`] when
    /// CUDA_VISIBLE_DEVICES names GPUs but CUDA is not available; [`Error::Invalid`] for a device that does not exist;
    /// [`Error::Timeout`] when ranks do not join within 5 minutes; [`Error::Torch`] with PyTorch's reason when the backend
    /// can't start.
    pub fn init(self) -> Result<Context> {
        debug::started();
        process().deferred.finish(); // the groups of a context before this one
        let world = World::from_env()?;
        logging::start(world.rank);
        launcher::check()?;
        let at_step = AtStep::from_env()?;
        let event_pipe = EventPipe::inherited();
        event_pipe.send(&Event::started());

        if world.restart_count > 0 {
            tracing::debug!(restarts = world.restart_count, "the job was restarted");
        }
        let device = device::choose(&world, self.device, self.backend)?;
        let on_gpu = device != Device::Cpu;
        let default_backend = if on_gpu && Backend::Nccl.is_built() { Backend::Nccl } else { Backend::Gloo };
        let backend = self.backend.unwrap_or(default_backend);
        let cuda_device = match device {
            Device::Cuda(index) => Some(index),
            _ => None,
        };
        if let Some(index) = cuda_device {
            // SAFETY: plain numbers.
            check("choosing a GPU", |error| unsafe { sys::ddp_set_cuda_device(to_i32(index), error) })?;
        }

        let store = match &world.master {
            None => Store::local()?,
            Some(master) => {
                let serves = world.rank == 0 && !master.agent_store;
                let socket = || launcher::listening_socket(master.port).or_else(|| listen::where_ranks_look(master));
                Store::of_job(&world, master, || serves.then(socket).flatten(), variables::patience(STORE_TIMEOUT)?)?
            }
        };
        let timeout = variables::patience(self.timeout.unwrap_or(match backend {
            Backend::Gloo => GLOO_TIMEOUT,
            Backend::Nccl => NCCL_TIMEOUT,
        }))?;
        let compared_calls = self.compared_calls.unwrap_or(match backend {
            Backend::Gloo => u64::MAX,
            Backend::Nccl => NCCL_COMPARED_CALLS,
        });
        let gloo_host = gloo_host(&world);
        let reducers = Reducers::default();
        let high_priority_stream = self.high_priority_stream;
        let eager_init = self.eager_init && backend == Backend::Nccl && cuda_device.is_some();
        let settings = Settings {
            backend,
            timeout,
            gloo_host,
            cuda_device,
            high_priority_stream,
            eager_init,
            compared_calls,
            reducers,
        };
        let identity = Identity::of_world(world.world_size);
        let group = ProcessGroup::new(store, settings, identity, world.rank, world.world_size, None)?;
        let health = Health::new(world.rank);
        let (before_save, resume_point) = (BeforeSave::default(), ResumePoint::default());
        let reports = Arc::default();
        let spans = Arc::new(Spans::new(world.rank, world.world_size, world.restart_count));
        let launcher = event_pipe;
        Ok(Context { world, device, group, launcher, before_save, resume_point, health, at_step, spans, reports })
    }
}

impl Context {
    /// Sets this worker up from torchrun's environment variables; without any, it is a world of one.
    ///
    /// # Errors
    /// As [`ContextBuilder::init`].
    pub fn init() -> Result<Self> {
        Self::builder().init()
    }

    /// [`Context::init`] with another backend or time-out.
    pub fn builder() -> ContextBuilder {
        ContextBuilder::default()
    }

    /// Number of this worker in the job, from 0.
    pub fn rank(&self) -> usize {
        self.world.rank
    }

    /// Number of this worker on its node, from 0.
    pub fn local_rank(&self) -> usize {
        self.world.local_rank
    }

    /// Number of workers in the job.
    pub fn world_size(&self) -> usize {
        self.world.world_size
    }

    /// Whether this is rank 0, which prints and saves for all.
    pub fn is_rank0(&self) -> bool {
        self.world.rank == 0
    }

    /// How often the job was restarted before this attempt.
    pub fn restart_count(&self) -> u32 {
        self.world.restart_count
    }

    /// Where to train: a GPU, which is also the current CUDA device, or `Device::Cpu`.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The group of all ranks.
    pub fn group(&self) -> &ProcessGroup {
        &self.group
    }

    /// Reports to the launcher that optimizer step number `step` (over all epochs, from 1) of epoch `epoch` (from 0) is done,
    /// so that it can print how far a failed rank was. Costs a write to a pipe; without a launcher, nothing. A
    /// [`Run`](crate::Run) does it.
    pub fn report_step(&self, epoch: u64, step: u64) {
        self.report(StepReport::new(epoch, step));
    }

    /// As [`report_step`](Self::report_step), with what the launcher shows next to it. Memory in use is added now and then. A
    /// loss that is not a finite number is reported once.
    pub(crate) fn report(&self, report: StepReport) {
        if let Some(loss) = report.loss {
            self.health.see_loss(report.step, loss);
        }
        self.send(report);
    }

    /// As [`report`](Self::report), for a loss that was looked at already.
    pub(crate) fn send(&self, report: StepReport) {
        let StepReport { epoch, step, loss, steps, samples, learning_rate, grad_norm } = report;
        self.spans.step_done(epoch, step, loss);
        process().step_done(step);
        let looks = self.reports.fetch_add(1, Ordering::Relaxed).is_multiple_of(MEMORY_EVERY);
        let memory = looks.then(|| memory::in_use(self.device)).flatten();
        self.launcher.send(&Event::Step { epoch, step, loss, steps, samples, learning_rate, grad_norm, memory });
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// Where a job of `cargo ddp run --at-step` stops.
    pub(crate) fn at_step(&self) -> Option<&AtStep> {
        self.at_step.as_ref()
    }

    /// The pipe to the launcher.
    pub(crate) fn launcher(&self) -> &EventPipe {
        &self.launcher
    }

    /// What has to happen before a snapshot is saved.
    pub(crate) fn before_save(&self) -> &BeforeSave {
        &self.before_save
    }

    /// Where the run was resumed.
    pub(crate) fn resume_point(&self) -> &ResumePoint {
        &self.resume_point
    }
}

/// Gloo's address: loopback when all ranks are on one node, so that nothing is reachable from outside. Else, and when
/// the user named an interface (GLOO_SOCKET_IFNAME, PyTorch's variable), c10d's choice.
fn gloo_host(world: &World) -> Option<String> {
    let one_node = world.local_world_size == world.world_size;
    if !one_node || std::env::var_os("GLOO_SOCKET_IFNAME").is_some() {
        return None;
    }
    // A host without IPv4 has ::1 alone.
    let both = ["127.0.0.1", "::1"];
    let usable = both.into_iter().find(|address| std::net::UdpSocket::bind((*address, 0)).is_ok());
    usable.or(Some(both[0])).map(str::to_owned)
}
