//! Samples per second through a `DataLoader`: `bench_loader SECONDS` prints a line for each dataset and number of workers.
//! Its Python twin is `loader_torch.py`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use ddp_runtime::data::{BatchDataset, DataLoader, Dataset, Shared, TensorDataset};
use ddp_runtime::{Context, Error};
use tch::{Kind, Tensor, kind::FLOAT_CPU};

const ROWS: i64 = 1_000_000;
const ROW_BATCH: usize = 256;
const IMAGES: usize = 4096;
const IMAGE_BATCH: usize = 64;
/// The clock starts after these.
const WARM_UP_BATCHES: usize = 20;

fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).and_then(|seconds| seconds.parse().ok()).unwrap_or(1.0);
    ddp_runtime::main(|| measure(Duration::from_secs_f64(seconds)))
}

fn measure(time: Duration) -> Result<()> {
    let context = Context::init()?;
    let x = Tensor::rand([ROWS, 20], FLOAT_CPU);
    let labels = Tensor::randint(10, [ROWS], (Kind::Int64, tch::Device::Cpu));
    for workers in [0, 1, 2] {
        let rows = TensorDataset::new((x.shallow_clone(), labels.shallow_clone()))?;
        let loader = DataLoader::new(&context, rows, ROW_BATCH)?.workers(workers);
        println!("rows workers={workers} {:.0}", samples_per_second(&loader, time)?);
    }
    for workers in [0, 1, 2, 4] {
        let loader = DataLoader::new(&context, Images::new()?.stacked(), IMAGE_BATCH)?.workers(workers);
        println!("images workers={workers} {:.0}", samples_per_second(&loader, time)?);
    }
    let (image, label) = Images::new()?.get(41)?;
    println!("image 41 has label {label} and mean {:.6}", image.mean(Kind::Double).double_value(&[]));
    Ok(())
}

fn samples_per_second<D: BatchDataset<Batch = (Tensor, Tensor)>>(
    loader: &DataLoader<D>,
    time: Duration,
) -> Result<f64> {
    let (mut batches, mut samples, mut start) = (0, 0, Instant::now());
    for epoch in 0.. {
        for batch in loader.epoch(epoch)? {
            let (_, labels) = batch?;
            batches += 1;
            if batches <= WARM_UP_BATCHES {
                start = Instant::now();
                continue;
            }
            samples += labels.size()[0];
            if start.elapsed() >= time {
                return Ok(samples as f64 / start.elapsed().as_secs_f64());
            }
        }
    }
    Ok(0.0)
}

/// Images of 3x224x224 that are computed from their index on access, with labels.
struct Images {
    noise: Shared<Tensor>,
    mean: Shared<Tensor>,
    std: Shared<Tensor>,
}

impl Images {
    fn new() -> Result<Self> {
        let channels = |values: [f32; 3]| Shared::new(Tensor::from_slice(&values).view([3, 1, 1]));
        let noise = (Tensor::arange(3 * 224 * 224, FLOAT_CPU) * 0.618_034).frac().view([3, 224, 224]);
        Ok(Self {
            noise: Shared::new(noise)?,
            mean: channels([0.485, 0.456, 0.406])?,
            std: channels([0.229, 0.224, 0.225])?,
        })
    }
}

impl Dataset for Images {
    type Item = (Tensor, i64);

    fn len(&self) -> usize {
        IMAGES
    }

    fn get(&self, index: usize) -> ddp_runtime::Result<Self::Item> {
        let index = i64::try_from(index).map_err(Error::other)?;
        let mut image = (self.noise.get()? * (index + 1)).frac_();
        image = image.g_sub_(&self.mean.get()?).g_div_(&self.std.get()?);
        Ok((image, index % 1000))
    }
}
