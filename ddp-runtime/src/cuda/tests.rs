//! Tests of streams, events, memory statistics, and of steps that must not wait for the GPU.

use tch::nn::{self, Module, VarStore};
use tch::{Cuda, Device, Kind, Tensor};

use super::*;
use crate::data::{DataLoader, TensorDataset};
use crate::train::amp::{Autocast, GradScaler, GradScalerOptions};
use crate::train::optim::{AdamW, AdamWOptions, Optimizer, clip_grad_norm};
use crate::{Context, Ddp, Error, LossGuard, NonFinite};

const GPU: Device = Device::Cuda(0);

#[test]
fn cuda_calls_without_a_gpu_are_errors() {
    if Cuda::is_available() {
        return;
    }
    let results = [
        synchronize(GPU),
        memory_stats(GPU).map(|_| ()),
        reset_peak_memory_stats(GPU),
        empty_cache(),
        Stream::new(GPU).map(|_| ()),
        Stream::with_priority(GPU, Priority::High).map(|_| ()),
        current_stream(GPU).map(|_| ()),
        Event::new().map(|_| ()),
        Event::with_timing().map(|_| ()),
        set_sync_debug_mode(SyncDebugMode::Error),
    ];
    for result in results {
        let Err(Error::Torch { message, .. }) = result else { panic!("{result:?}") };
        assert!(message.contains("has no CUDA") || message.contains("no GPU found"), "{message}");
    }
}

#[test]
fn cuda_calls_refuse_the_cpu() {
    for result in
        [synchronize(Device::Cpu), Stream::new(Device::Cpu).map(|_| ()), memory_stats(Device::Cpu).map(|_| ())]
    {
        assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn unknown_gpu_is_an_error_that_names_the_visible_ones() {
    let Err(Error::Torch { message, .. }) = synchronize(Device::Cuda(99)) else { panic!("GPU 99 is there") };
    assert!(message.contains("GPU 99 not found"), "{message}");
}

#[test]
#[ignore = "needs a GPU"]
fn stream_is_current_only_inside_its_scope() {
    let before = current_stream(GPU).unwrap();
    let high = Stream::with_priority(GPU, Priority::High).unwrap();
    assert_ne!(before, high);
    assert_eq!(high.device(), GPU);
    let inside = with_stream(&high, || current_stream(GPU).unwrap()).unwrap();
    assert_eq!((inside, current_stream(GPU).unwrap()), (high, before));
    let panicked = std::panic::catch_unwind(|| with_stream(&high, || panic!("inside")));
    assert!(panicked.is_err());
    assert_eq!(current_stream(GPU).unwrap(), before);
}

/// Products that keep a GPU busy for many milliseconds. All values are powers of two, and add up to 4096.
fn long_work() -> Tensor {
    let x = Tensor::ones([4096, 4096], (Kind::Float, GPU)) / 4096;
    (0..50).fold(x.copy(), |product, _| product.matmul(&x))
}

#[test]
#[ignore = "needs a GPU"]
fn stream_waits_for_an_event_of_another() {
    // The first use of a kernel loads it, for which CUDA may wait for all work in flight.
    Tensor::zeros([1], (Kind::Float, GPU)).copy_(&long_work().sum(Kind::Float));
    let (writer, reader) = (Stream::new(GPU).unwrap(), Stream::new(GPU).unwrap());
    let mut written = Event::new().unwrap();
    assert!(written.is_done().unwrap(), "an event that was never recorded is done");
    let target = Tensor::zeros([1], (Kind::Float, GPU));
    synchronize(GPU).unwrap();
    with_stream(&writer, || {
        target.shallow_clone().copy_(&long_work().sum(Kind::Float));
        written.record(&writer).unwrap();
    })
    .unwrap();
    assert!(!written.is_done().unwrap(), "the work is not done when it is queued");
    reader.wait_event(&written).unwrap();
    let read = with_stream(&reader, || &target * 2).unwrap();
    reader.record_stream(&target).unwrap();
    reader.synchronize().unwrap();
    assert!(written.is_done().unwrap() && reader.is_idle().unwrap());
    assert_eq!(read.double_value(&[0]), 8192.0);
}

#[test]
#[ignore = "needs a GPU"]
fn events_measure_the_time_between_them() {
    let stream = current_stream(GPU).unwrap();
    let (mut start, mut end) = (Event::with_timing().unwrap(), Event::with_timing().unwrap());
    assert!(start.elapsed_ms(&end).is_err(), "events that were not recorded have no time");
    start.record(&stream).unwrap();
    let _product = long_work();
    end.record(&stream).unwrap();
    end.synchronize().unwrap();
    assert!(start.elapsed_ms(&end).unwrap() > 0.0);
    let mut untimed = Event::new().unwrap();
    untimed.record(&stream).unwrap();
    untimed.synchronize().unwrap();
    assert!(start.elapsed_ms(&untimed).is_err(), "an event without timing has no time");
}

#[test]
#[ignore = "needs a GPU"]
fn memory_statistics_follow_tensors() {
    const BYTES: u64 = 64 << 20;
    let before = memory_stats(GPU).unwrap();
    let tensor = Tensor::zeros([BYTES as i64], (Kind::Uint8, GPU));
    let with = memory_stats(GPU).unwrap();
    assert!(with.allocated_bytes >= before.allocated_bytes + BYTES && with.reserved_bytes >= with.allocated_bytes);
    drop(tensor);
    assert!(memory_stats(GPU).unwrap().peak_allocated_bytes >= with.allocated_bytes);
    synchronize(GPU).unwrap();
    empty_cache().unwrap();
    reset_peak_memory_stats(GPU).unwrap();
    let after = memory_stats(GPU).unwrap();
    assert!(after.allocated_bytes < with.allocated_bytes && after.reserved_bytes < with.reserved_bytes);
    assert_eq!(after.peak_allocated_bytes, after.allocated_bytes);
}

/// A mode for the length of a test.
struct SyncsAre(());

impl SyncsAre {
    fn errors() -> Self {
        set_sync_debug_mode(SyncDebugMode::Error).unwrap();
        Self(())
    }
}

impl Drop for SyncsAre {
    fn drop(&mut self) {
        set_sync_debug_mode(SyncDebugMode::Off).unwrap();
    }
}

/// With a loader, autocast, a scaler, clipping, a fused optimizer and a report. (Not with metrics: their thread waits, so that
/// the step does not.)
#[test]
#[ignore = "needs a GPU"]
fn training_step_never_waits_for_the_gpu() {
    let context = Context::init().unwrap();
    let vs = VarStore::new(GPU);
    let model = nn::seq()
        .add(nn::linear(vs.root() / "in", 8, 64, Default::default()))
        .add_fn(|x| x.relu())
        .add(nn::linear(vs.root() / "out", 64, 1, Default::default()));
    let ddp = Ddp::new(context.group(), &vs).unwrap();
    let mut optimizer = AdamW::new(&vs, AdamWOptions::default());
    let mut scaler = GradScaler::new(GPU, GradScalerOptions::default()).unwrap();
    let autocast = Autocast::new(GPU, Kind::Half).unwrap();
    let samples = Tensor::randn([512, 8], (Kind::Float, Device::Cpu));
    let loader = DataLoader::new(&context, TensorDataset::new(samples).unwrap(), 32).unwrap().workers(1).device(GPU);
    let mut mode = None;
    for (step, batch) in (1..).zip(loader.epoch(0).unwrap()) {
        // The first steps make the optimizer's state and the reducer's buckets.
        if step == 4 {
            mode = Some(SyncsAre::errors());
        }
        let batch = batch.unwrap();
        optimizer.zero_grad().unwrap();
        let loss = ddp.forward(|| autocast.run(|| model.forward(&batch).square().mean(Kind::Float))).unwrap();
        ddp.backward(&scaler.scale(&loss).unwrap()).unwrap();
        scaler.unscale(&optimizer).unwrap();
        let _ = clip_grad_norm(&vs, 1.0, 2.0).unwrap();
        let _ = scaler.step(&mut optimizer).unwrap();
        scaler.update().unwrap();
        context.report_step(0, step);
    }
    // The mode notices what waits.
    assert!(samples_sum().is_err());
    drop(mode);
    assert!(samples_sum().is_ok());
}

#[test]
#[ignore = "needs a GPU"]
fn loss_guard_that_warns_sees_each_loss_without_waiting() {
    let context = Context::init().unwrap();
    let vs = VarStore::new(GPU);
    let mut guard = LossGuard::new(&context, &vs, NonFinite::Warn);
    let losses = [1.0, f64::NAN, f64::NAN].map(|loss| Tensor::full([1], loss, (Kind::Float, GPU)));
    guard.check(&losses[0], 1).unwrap(); // makes the stream
    let mode = SyncsAre::errors();
    for (loss, step) in losses.iter().zip(1..) {
        assert!(guard.check(loss, step).unwrap());
    }
    drop(mode);
    guard.look().unwrap();
    assert_eq!(context.health().non_finite_since(), Some(2));
}

fn samples_sum() -> std::result::Result<f64, tch::TchError> {
    Tensor::ones([4], (Kind::Float, GPU)).sum(Kind::Float).f_double_value(&[])
}
