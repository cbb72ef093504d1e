//! What the ranks compare before a collective.

use tch::{Device, Tensor};

use crate::dist::fnv;
use crate::{Error, ProcessGroup, ReduceOp, Result};

/// A collective as this rank calls it. Written out, it is of one size, so that comparing can't go wrong itself.
pub(super) struct Call {
    name: &'static str,
    words: String,
}

/// Bytes that a call is compared by. What does not fit is represented by its hash.
pub(super) const SIZE: usize = 120;

impl Call {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, words: format!("called {name}") }
    }

    pub(super) fn op(mut self, op: ReduceOp) -> Self {
        self.words += &format!(" {op:?}");
        self
    }

    pub(super) fn root(mut self, rank: usize) -> Self {
        self.words += &format!(" with rank {rank}");
        self
    }

    pub(super) fn tensor(mut self, tensor: &Tensor) -> Self {
        self.words += &format!(" of {}", form(tensor));
        self
    }
}

/// What must be equal on all ranks, in words: shape, dtype and, where they are not the usual ones, device and strides.
pub(crate) fn form(tensor: &Tensor) -> String {
    shape(tensor) + &layout(tensor)
}

/// Shape and dtype in words: `[2, 3] Float`.
pub(super) fn shape(tensor: &Tensor) -> String {
    if tensor.defined() { format!("{:?} {:?}", tensor.size(), tensor.kind()) } else { "nothing".into() }
}

/// What else must be equal on all ranks, where it is not the usual: the type of device and, unless the tensor is
/// contiguous, its strides. (A CPU tensor goes through Gloo and a CUDA tensor through NCCL: the ranks would never meet.)
fn layout(tensor: &Tensor) -> String {
    if !tensor.defined() {
        return String::new();
    }
    let device = match tensor.device() {
        Device::Cpu => "",
        Device::Cuda(_) => " on CUDA",
        _ => " on another device",
    };
    let strides = if tensor.is_contiguous() { String::new() } else { format!(" with strides {:?}", tensor.stride()) };
    format!("{device}{strides}")
}

pub(super) fn same_shape(a: &Tensor, b: &Tensor) -> bool {
    shape(a) == shape(b)
}

impl ProcessGroup {
    /// Has every rank state its call. When they differ, all ranks get the same error.
    pub(super) fn compare(&self, call: impl FnOnce() -> Call) -> Result<()> {
        self.compare_or(Ok(()), call)
    }

    /// As `compare`, after a check that only this rank could make: when it failed here, this rank gets its error, and the
    /// others hear of it.
    pub(super) fn compare_or(&self, checked: Result<()>, call: impl FnOnce() -> Call) -> Result<()> {
        if self.compares_next_call() { self.compare_now(checked, call()) } else { checked }
    }

    fn compare_now(&self, checked: Result<()>, call: Call) -> Result<()> {
        let Call { name, mut words } = call;
        if let Err(err) = &checked {
            words = format!("failed: {err}");
        }
        let compared = self.compare_words(name, &words);
        checked.and(compared)
    }

    /// As `compare`, for a call in its own words.
    pub(crate) fn check_equal(&self, name: &'static str, words: &str) -> Result<()> {
        self.check_equal_or(Ok(()), name, words)
    }

    /// As `compare_or`, for a call in its own words, which is compared however many calls there were.
    pub(crate) fn check_equal_or(&self, checked: Result<()>, name: &'static str, words: &str) -> Result<()> {
        if self.compares() {
            self.compare_now(checked, Call { name, words: format!("called {words}") })
        } else {
            checked
        }
    }

    fn compare_words(&self, name: &'static str, words: &str) -> Result<()> {
        let all = self.gather_raw(name, &Tensor::from_slice(&fixed(words)))?;
        let texts: Vec<[u8; SIZE]> = all
            .iter()
            .map(|tensor| {
                let mut bytes = [0; SIZE];
                tensor.copy_data_u8(&mut bytes, SIZE);
                bytes
            })
            .collect();
        match texts.iter().position(|text| *text != texts[0]) {
            Some(rank) => {
                let words = |text: &[u8]| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
                Err(Error::CallsDiffer { rank, there: words(&texts[rank]), here: words(&texts[0]) })
            }
            None => Ok(()),
        }
    }
}

/// `words` in SIZE bytes; longer ones are cut, and end with a hash of all.
pub(super) fn fixed(words: &str) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    if words.len() <= SIZE {
        bytes[..words.len()].copy_from_slice(words.as_bytes());
    } else {
        let end = format!("… #{:016x}", fnv::hash(words.bytes()));
        let mut cut = SIZE - end.len();
        while !words.is_char_boundary(cut) {
            cut -= 1;
        }
        bytes[..cut].copy_from_slice(&words.as_bytes()[..cut]);
        bytes[cut..cut + end.len()].copy_from_slice(end.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_compares_strides() {
        let whole = Tensor::zeros([4, 8], tch::kind::FLOAT_CPU);
        let words = |tensor: &Tensor| Call::new("all_reduce").tensor(tensor).words;
        assert_eq!(words(&whole), "called all_reduce of [4, 8] Float");
        assert_eq!(words(&whole.slice(1, 0, 8, 2)), "called all_reduce of [4, 4] Float with strides [8, 2]");
    }

    #[test]
    fn call_descriptions_that_are_long_stay_distinct() {
        let long = |last: char| "x".repeat(300) + &last.to_string();
        assert_ne!(fixed(&long('a')), fixed(&long('b')));
        assert_eq!(fixed(&long('a')), fixed(&long('a')));
        assert!(String::from_utf8(fixed(&"é".repeat(200)).to_vec()).is_ok());
    }
}
