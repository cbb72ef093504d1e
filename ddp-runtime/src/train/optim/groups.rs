//! Parameter groups: which parameters have which settings.

use std::fmt;

use tch::Tensor;
use tch::nn::VarStore;

use super::Parameters;
use crate::dist::params;
use crate::{Error, Result};

type Takes = dyn Fn(&str, &Tensor) -> bool;

/// Which parameters an optimizer treats with which settings; see [`Fused::with_groups`](super::Fused::with_groups).
pub struct ParamGroup<A> {
    takes: Box<Takes>,
    options: A,
}

impl<A> ParamGroup<A> {
    /// The parameters for which `takes` returns true, given the name and the tensor.
    pub fn new(takes: impl Fn(&str, &Tensor) -> bool + 'static, options: A) -> Self {
        Self { takes: Box::new(takes), options }
    }

    /// The parameters that no group before it took.
    pub fn rest(options: A) -> Self {
        Self::new(|_, _| true, options)
    }
}

impl<A: fmt::Debug> fmt::Debug for ParamGroup<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParamGroup").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The parameters of each group, in the model's order.
pub(super) fn split<A>(vs: &VarStore, groups: Vec<ParamGroup<A>>) -> Result<Vec<(Parameters, A)>> {
    let mut named: Vec<Vec<(String, Tensor)>> = groups.iter().map(|_| Vec::new()).collect();
    for (name, tensor) in params::trained(vs) {
        let Some(index) = groups.iter().position(|group| (group.takes)(&name, &tensor)) else {
            let problem =
                format!("{name} is in no parameter group: end the list with ParamGroup::rest, or freeze the parameter");
            return Err(Error::Invalid(problem));
        };
        named[index].push((name, tensor));
    }
    Ok(named.into_iter().map(Parameters::new).zip(groups.into_iter().map(|group| group.options)).collect())
}

pub(super) fn check_number(what: &str, values: &[f64], groups: usize) -> Result<()> {
    if values.len() == groups {
        return Ok(());
    }
    Err(Error::Invalid(format!("got {} {what} for {groups} parameter groups", values.len())))
}
