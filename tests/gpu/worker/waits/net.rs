//! The network that most parts train.

use anyhow::Result;
use ddp_runtime::amp::Autocast;
use ddp_runtime::nn::sync_batch_norm;
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer};
use ddp_runtime::{Ddp, DdpOptions};
use tch::nn::{self, ModuleT, VarStore};
use tch::{Kind, Tensor};

use super::Lab;

/// Samples in a batch.
pub const BATCH: i64 = 16;

#[derive(Clone, Copy, PartialEq)]
pub enum Norm {
    Batch,
    Sync,
}

/// A small convolutional network with a batch.
pub struct ConvNet {
    pub vs: VarStore,
    model: nn::SequentialT,
    pub ddp: Ddp,
    pub optimizer: AdamW,
    pub autocast: Option<Autocast>,
    /// Images and labels.
    pub batch: (Tensor, Tensor),
}

impl ConvNet {
    pub fn new(lab: &Lab, options: &DdpOptions) -> Result<Self> {
        Self::with_norm(lab, options, Norm::Batch)
    }

    pub fn with_norm(lab: &Lab, options: &DdpOptions, norm: Norm) -> Result<Self> {
        let vs = VarStore::new(lab.device());
        Self::build(lab, vs, options, norm)
    }

    /// With a layer that the loss does not depend on.
    pub fn with_unused(lab: &Lab, options: &DdpOptions) -> Result<Self> {
        let vs = VarStore::new(lab.device());
        nn::linear(vs.root() / "unused", 8, 8, Default::default());
        Self::build(lab, vs, options, Norm::Batch)
    }

    fn build(lab: &Lab, vs: VarStore, options: &DdpOptions, norm: Norm) -> Result<Self> {
        let root = vs.root();
        let model = nn::seq_t().add(nn::conv2d(&root / "conv", 3, 16, 3, Default::default()));
        let model = match norm {
            Norm::Batch => model.add(nn::batch_norm2d(&root / "norm", 16, Default::default())),
            Norm::Sync => model.add(sync_batch_norm(&root / "norm", lab.context.group(), 16, Default::default())),
        };
        let out = nn::linear(&root / "out", 16 * 6 * 6, 10, Default::default());
        let model = model.add_fn(|x| x.relu().flatten(1, -1)).add(out);
        let ddp = Ddp::with_options(lab.context.group(), &vs, options.clone())?;
        let optimizer = AdamW::new(&vs, AdamWOptions::default());
        let x = Tensor::randn([BATCH, 3, 8, 8], (Kind::Float, lab.device()));
        let labels = Tensor::randint(10, [BATCH], (Kind::Int64, lab.device()));
        Ok(Self { vs, model, ddp, optimizer, autocast: None, batch: (x, labels) })
    }

    /// After a step, with the optimizer's state.
    pub fn trained(lab: &Lab) -> Result<Self> {
        let mut net = Self::new(lab, &DdpOptions::default())?;
        net.step()?;
        Ok(net)
    }

    /// After a backward pass.
    pub fn with_gradients(lab: &Lab) -> Result<Self> {
        let net = Self::new(lab, &DdpOptions::default())?;
        net.ddp.backward(&net.forward()?)?;
        Ok(net)
    }

    pub fn forward(&self) -> Result<Tensor> {
        let (x, labels) = &self.batch;
        let loss = || self.model.forward_t(x, true).cross_entropy_for_logits(labels);
        Ok(self.ddp.forward(|| match &self.autocast {
            Some(autocast) => autocast.run(loss),
            None => loss(),
        })?)
    }

    pub fn step(&mut self) -> Result<()> {
        self.optimizer.zero_grad()?;
        self.ddp.backward(&self.forward()?)?;
        Ok(self.optimizer.step()?)
    }
}
