//! The learning rates of an optimizer's parameter groups, of which there is one for now.

use crate::optim::Optimizer;

pub(super) fn read(optimizer: &dyn Optimizer) -> Vec<f64> {
    vec![optimizer.learning_rate()]
}

pub(super) fn write(optimizer: &mut dyn Optimizer, lrs: &[f64]) {
    if let [lr] = lrs {
        optimizer.set_learning_rate(*lr);
    }
}
