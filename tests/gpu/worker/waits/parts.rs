//! The parts that are measured.

use anyhow::Result;
use ddp_runtime::amp::{Autocast, GradScaler, GradScalerOptions};
use ddp_runtime::comm_hook::{self, PowerSgd, PowerSgdOptions};
use ddp_runtime::data::{DataLoader, TensorDataset};
use ddp_runtime::lr_scheduler::{CosineAnnealing, CosineAnnealingLr, LrScheduler};
use ddp_runtime::metrics::{Metrics, MetricsOptions};
use ddp_runtime::optim::{
    Adam, AdamOptions, AdamWOptions, Optimizer, Sgd, SgdOptions, ZeroRedundancy, clip_grad_norm, clip_grad_value,
};
use ddp_runtime::{CommHook, DdpOptions, LossGuard, NonFinite, P2pOp, ReduceOp, Snapshots};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::net::{BATCH, ConvNet, Norm};
use super::{Lab, Part, Run};

pub(super) const PARTS: &[Part] = &[
    Part::new("control: a loss is read", |lab| {
        let net = ConvNet::new(lab, &DdpOptions::default())?;
        run(move || Ok(net.forward()?.f_double_value(&[]).map(|_| ())?))
    })
    .waits(),
    Part::new("control: a loss is read, unnoticed by the sync debug mode", |lab| {
        let net = ConvNet::new(lab, &DdpOptions::default())?;
        run(move || Ok(net.forward()?.f_double_value(&[]).map(|_| ())?))
    })
    .waits()
    .not_in_debug_mode(),
    Part::new("step with BatchNorm and AdamW", |lab| steps(lab, |_| {})),
    Part::new("Ddp's first ten steps", |lab| {
        let mut net = ConvNet::new(lab, &DdpOptions::default())?;
        run(move || (0..3).try_for_each(|_| net.step()))
    })
    .may_wait("c10d reads the times of its first ten steps, and of every 100th")
    .warm_up(1)
    .not_in_debug_mode(),
    Part::new("step with SyncBatchNorm", |lab| {
        let mut net = ConvNet::with_norm(lab, &DdpOptions::default(), Norm::Sync)?;
        run(move || net.step())
    }),
    Part::new("no_sync", |lab| {
        let mut net = ConvNet::new(lab, &DdpOptions::default())?;
        run(move || {
            net.optimizer.zero_grad()?;
            net.ddp.no_sync(|| net.ddp.backward(&net.forward()?).map_err(anyhow::Error::from))?;
            net.ddp.backward(&net.forward()?)?;
            Ok(net.optimizer.step()?)
        })
    }),
    Part::new("find_unused_parameters", |lab| steps(lab, |options| options.find_unused_parameters = true)),
    Part::new("find_unused_parameters with an unused one", |lab| {
        let options = DdpOptions { find_unused_parameters: true, ..Default::default() };
        let mut net = ConvNet::with_unused(lab, &options)?;
        run(move || net.step())
    })
    .may_wait("c10d reads which parameters any rank has used"),
    Part::new("static_graph", |lab| steps(lab, |options| options.static_graph = true)),
    Part::new("batched_grad_copy", |lab| steps(lab, |options| options.batched_grad_copy = true)),
    Part::new("gradient copies instead of views", |lab| steps(lab, |options| options.gradient_as_bucket_view = false)),
    Part::new("fp16 compression", |lab| steps(lab, |options| options.comm_hook = CommHook::Fp16Compress)),
    Part::new("bf16 compression", |lab| steps(lab, |options| options.comm_hook = CommHook::Bf16Compress)),
    Part::new("communication hook", |lab| {
        let mut net = ConvNet::new(lab, &DdpOptions::default())?;
        let group = lab.context.group().clone();
        net.ddp.register_comm_hook(move |bucket| comm_hook::all_reduce(&group, bucket))?;
        run(move || net.step())
    }),
    Part::new("PowerSgd", |lab| {
        let mut net = ConvNet::new(lab, &DdpOptions::default())?;
        let power_sgd = PowerSgd::new(PowerSgdOptions { start_iter: 2, ..PowerSgdOptions::default() })?;
        net.ddp.register_comm_hook(power_sgd.hook(lab.context.group()))?;
        run(move || net.step())
    }),
    Part::new("evaluation under no_grad", |lab| {
        let net = ConvNet::new(lab, &DdpOptions::default())?;
        run(move || tch::no_grad(|| net.forward().map(drop)))
    }),
    Part::new("zero_grad_with(false)", |lab| {
        let mut net = ConvNet::new(lab, &DdpOptions::default())?;
        run(move || {
            net.step()?;
            Ok(net.optimizer.zero_grad_with(false)?)
        })
    }),
    Part::new("Sgd", |lab| with_optimizer(lab, |vs| Sgd::new(vs, SgdOptions { momentum: 0.9, ..Default::default() }))),
    Part::new("Adam", |lab| {
        with_optimizer(lab, |vs| Adam::new(vs, AdamOptions { amsgrad: true, ..Default::default() }))
    }),
    Part::new("ZeroRedundancy", |lab| {
        let mut net = ConvNet::new(lab, &DdpOptions::default())?;
        let mut optimizer = ZeroRedundancy::new(lab.context.group(), &net.vs, AdamWOptions::default())?;
        run(move || {
            net.step()?;
            Ok(optimizer.step()?)
        })
    }),
    Part::new("autocast BFloat16", |lab| {
        let mut net = ConvNet::new(lab, &DdpOptions::default())?;
        net.autocast = Some(Autocast::new(lab.device(), Kind::BFloat16)?);
        run(move || net.step())
    }),
    Part::new("autocast Half, GradScaler, unscale, clip", |lab| scaled(lab, true)),
    Part::new("autocast Half, GradScaler", |lab| scaled(lab, false)),
    Part::new("clip_grad_norm", |lab| {
        let net = ConvNet::with_gradients(lab)?;
        run(move || Ok(clip_grad_norm(&net.vs, 1.0, 2.0).map(drop)?))
    }),
    Part::new("clip_grad_value", |lab| {
        let net = ConvNet::with_gradients(lab)?;
        run(move || Ok(clip_grad_value(&net.vs, 1e-3)?))
    }),
    Part::new("learning rate scheduler", |lab| {
        let mut net = ConvNet::new(lab, &DdpOptions::default())?;
        let mut scheduler = CosineAnnealingLr::new(&mut net.optimizer, CosineAnnealing::new(1000))?;
        run(move || {
            net.step()?;
            Ok(scheduler.step(&mut net.optimizer)?)
        })
    }),
    Part::new("report_step", |lab| {
        // Every 50th reads the memory in use.
        run(move || {
            (1..=51).for_each(|step| lab.context.report_step(0, step));
            Ok(())
        })
    })
    .warm_up(2),
    Part::new("LossGuard that warns", |lab| guarded(lab, NonFinite::Warn, 1)).warm_up(2),
    Part::new("LossGuard that warns, 40 checks", |lab| guarded(lab, NonFinite::Warn, 40)).warm_up(2),
    Part::new("LossGuard that stops", |lab| guarded(lab, NonFinite::Stop, 1))
        .may_wait("it reads each loss before the step")
        .warm_up(2),
    Part::new("LossGuard that skips", |lab| guarded(lab, NonFinite::Skip, 1))
        .may_wait("it reads each loss before the step")
        .warm_up(2),
    Part::new("Metrics::log", |lab| {
        // Its thread reads the values only when they are exchanged, which is after the part.
        let (metrics, loss, mut step) = (metrics(lab, "log", 1 << 40)?, lab.loss(), 0);
        run(move || {
            step += 1;
            metrics.log("loss", &loss, step)?;
            metrics.throughput(64, step)?;
            metrics.log_rank0("lr", 0.1, step)?;
            metrics.log("twice", &(&loss * 2), step).map_err(Into::into)
        })
    })
    .warm_up(2),
    Part::new("Metrics that are exchanged in the background", |lab| {
        let (metrics, loss, mut step) = (metrics(lab, "background", 1)?, lab.loss(), 0);
        let weights = Tensor::ones([64, 64], (Kind::Float, lab.device()));
        run(move || {
            step += 1;
            metrics.log("loss", &(&loss * 2), step)?;
            metrics.log_rank0("rank0", &(&loss * 2), step)?;
            metrics.histogram("weights", &(&weights * 2), step).map_err(Into::into)
        })
    })
    .warm_up(2)
    .not_in_debug_mode(),
    Part::new("step_done, not due", |lab| {
        let mut training = trained(lab, snapshots(lab, "not-due")?.every_steps(1 << 40))?;
        run(move || {
            training.step_done(&())?;
            anyhow::ensure!(training.saved_at().is_none(), "it saved");
            Ok(())
        })
    })
    .warm_up(3),
    Part::new("step_done, due", |lab| {
        let mut training = trained(lab, snapshots(lab, "due")?.every_steps(1))?;
        run(move || {
            training.step_done(&())?;
            anyhow::ensure!(training.saved_at() == Some(training.progress()), "it did not save");
            Ok(())
        })
    })
    .warm_up(3),
    Part::new("Run::log of a loss on the device", |lab| {
        let metrics = metrics(lab, "run", 1 << 40)?;
        let (mut training, loss) = (trained(lab, snapshots(lab, "logged")?)?.metrics(&metrics), lab.loss());
        run(move || {
            training.log("train/loss", &(&loss * 2))?;
            training.log("learning_rate", 0.1)?;
            Ok(training.step_done(&())?)
        })
    })
    .warm_up(3),
    Part::new("save with metrics open", |lab| {
        let mut training = trained(lab, snapshots(lab, "metrics-open")?)?;
        let (metrics, loss, mut step) = (metrics(lab, "saved", 1 << 40)?, lab.loss(), 0);
        run(move || {
            step += 1;
            metrics.log("loss", &(&loss * 2), step)?;
            Ok(training.save()?)
        })
    })
    .may_wait("what was logged is read and written first")
    .warm_up(2)
    .not_in_debug_mode(),
    Part::new("save with a GradScaler", |lab| {
        let scaler = GradScaler::new(lab.device(), GradScalerOptions::default())?;
        let mut training = trained(lab, snapshots(lab, "scaler")?)?.scaler(scaler);
        run(move || Ok(training.save()?))
    })
    .may_wait("the scale is a number in state.json")
    .warm_up(2),
    Part::new("loader with workers", |lab| epoch(lab, 2)).warm_up(4),
    Part::new("loader without workers", |lab| epoch(lab, 0)).warm_up(4),
    Part::new("collectives", |lab| {
        let (group, n) = (lab.context.group(), lab.context.world_size());
        let all: Vec<Tensor> = (0..n).map(|_| lab.loss()).collect();
        let (mut tensor, mut into) = (lab.loss(), Tensor::zeros([n as i64], (Kind::Float, lab.device())));
        run(move || {
            group.all_reduce(&mut tensor, ReduceOp::Avg)?;
            group.broadcast(&mut tensor, 0)?;
            group.reduce(&mut tensor, 0, ReduceOp::Sum)?;
            group.all_gather(&tensor)?;
            group.all_gather_into(&mut into, &tensor.view(1))?;
            group.reduce_scatter(&mut tensor, &all, ReduceOp::Sum)?;
            group.all_to_all(&all)?;
            let work = group.all_reduce_async(&mut tensor, ReduceOp::Max)?;
            work.wait()?;
            group.all_gather_value(&1u8)?; // over Gloo
            Ok(())
        })
    })
    .warm_up(3),
    Part::new("batch_send_recv", |lab| {
        let (group, other) = (lab.context.group(), 1 - lab.rank().min(1));
        let (mine, mut theirs) = (lab.loss(), lab.loss());
        run(move || match group.world_size() {
            2 => {
                let send = P2pOp::Send { tensor: &mine, dst: other };
                let recv = P2pOp::Recv { tensor: &mut theirs, src: other };
                Ok(group.batch_send_recv(&mut [send, recv])?)
            }
            _ => Ok(()),
        })
    })
    .warm_up(3),
];

fn run<'a>(run: impl FnMut() -> Result<()> + 'a) -> Result<Run<'a>> {
    Ok(Box::new(run))
}

impl Lab {
    /// A number on the device.
    fn loss(&self) -> Tensor {
        Tensor::ones([], (Kind::Float, self.device()))
    }
}

/// Steps with settings of DDP.
fn steps<'a>(lab: &'a Lab, set: impl Fn(&mut DdpOptions)) -> Result<Run<'a>> {
    let mut options = DdpOptions::default();
    set(&mut options);
    let mut net = ConvNet::new(lab, &options)?;
    run(move || net.step())
}

fn with_optimizer<O: Optimizer + 'static>(lab: &Lab, make: impl Fn(&VarStore) -> O) -> Result<Run<'_>> {
    let net = ConvNet::with_gradients(lab)?;
    let mut optimizer = make(&net.vs);
    run(move || {
        optimizer.zero_grad()?;
        net.ddp.backward(&net.forward()?)?;
        Ok(optimizer.step()?)
    })
}

/// Steps in half precision.
fn scaled(lab: &Lab, clips: bool) -> Result<Run<'_>> {
    let mut net = ConvNet::new(lab, &DdpOptions::default())?;
    net.autocast = Some(Autocast::new(lab.device(), Kind::Half)?);
    let mut scaler = GradScaler::new(lab.device(), GradScalerOptions::default())?;
    run(move || {
        net.optimizer.zero_grad()?;
        net.ddp.backward(&scaler.scale(&net.forward()?)?)?;
        if clips {
            scaler.unscale(&net.optimizer)?;
            let _norm = clip_grad_norm(&net.vs, 1.0, 2.0)?;
        }
        let _stepped = scaler.step(&mut net.optimizer)?;
        Ok(scaler.update()?)
    })
}

fn guarded(lab: &Lab, policy: NonFinite, checks: u64) -> Result<Run<'_>> {
    let (net, loss, mut step) = (ConvNet::new(lab, &DdpOptions::default())?, lab.loss(), 0);
    let mut guard = LossGuard::new(&lab.context, &net.vs, policy);
    run(move || {
        for _ in 0..checks {
            step += 1;
            anyhow::ensure!(guard.check(&(&loss * 2), step)?, "a finite loss is not accepted");
        }
        Ok(())
    })
}

fn metrics(lab: &Lab, name: &str, every_steps: u64) -> Result<Metrics> {
    let options = MetricsOptions { dir: Some(lab.dir.join(name)), every_steps: Some(every_steps) };
    Ok(Metrics::with_options(&lab.context, options)?)
}

fn snapshots(lab: &Lab, name: &str) -> Result<Snapshots> {
    Ok(Snapshots::open(&lab.context, lab.dir.join(name))?.keep_last(1).durable(false))
}

/// A run of a network that has taken a step.
fn trained(lab: &Lab, snapshots: Snapshots) -> Result<ddp_runtime::Run<ddp_runtime::optim::AdamW>> {
    let ConvNet { vs, optimizer, .. } = ConvNet::trained(lab)?;
    Ok(ddp_runtime::Run::new(&lab.context, &vs, optimizer).snapshots(snapshots).resume(&mut ())?)
}

/// Steps on the batches of an epoch.
fn epoch(lab: &Lab, workers: usize) -> Result<Run<'_>> {
    let ranks = lab.context.world_size() as i64;
    let x = Tensor::randn([4 * BATCH * ranks, 3, 8, 8], (Kind::Float, Device::Cpu));
    let labels = Tensor::randint(10, [4 * BATCH * ranks], (Kind::Int64, Device::Cpu));
    let dataset = TensorDataset::new((x, labels))?;
    let loader = DataLoader::new(&lab.context, dataset, BATCH as usize)?.workers(workers).device(lab.device());
    let (mut net, mut number) = (ConvNet::new(lab, &DdpOptions::default())?, 0);
    run(move || {
        for batch in loader.epoch(number)? {
            net.batch = batch?;
            net.step()?;
        }
        number += 1;
        Ok(())
    })
}
