//! Automatic mixed precision: `torch.autocast` and `torch.amp.GradScaler`.
//!
//! With `BFloat16` an [`Autocast`] is all that is needed. `Half` has so small a range that gradients become zero, so the
//! loss is scaled first: see [`GradScaler`].
//!
//! ```
//! use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
//! use ddp_runtime::{Context, Ddp, amp::Autocast};
//! use tch::{Kind, Tensor, nn, nn::Module};
//!
//! # fn main() -> Result<(), ddp_runtime::Error> {
//! let context = Context::init()?;
//! let vs = nn::VarStore::new(context.device());
//! let model = nn::linear(vs.root(), 2, 1, Default::default());
//! let ddp = Ddp::new(context.group(), &vs)?;
//! let mut optimizer = Sgd::new(&vs, SgdOptions { lr: 0.03, ..Default::default() });
//!
//! let x = Tensor::ones([8, 2], (Kind::Float, context.device()));
//! // Matrix products are computed in BFloat16, what needs the precision in Float. The parameters stay in Float.
//! let autocast = Autocast::new(context.device(), Kind::BFloat16)?;
//! optimizer.zero_grad()?;
//! let loss = ddp.forward(|| autocast.run(|| model.forward(&x).mse_loss(&x.sum(Kind::Float), tch::Reduction::Mean)))?;
//! assert_eq!(loss.kind(), Kind::Float);
//! ddp.backward(&loss)?;
//! optimizer.step()?;
//!
//! // Inside of it, a part in full precision.
//! let full = Autocast::disabled(context.device())?;
//! autocast.run(|| full.run(|| assert_eq!(model.forward(&x).kind(), Kind::Float)));
//! # Ok(())
//! # }
//! ```

mod autocast;
mod scaler;
mod stepped;

pub use autocast::Autocast;
pub use scaler::{GradScaler, GradScalerOptions};
pub use stepped::Stepped;
