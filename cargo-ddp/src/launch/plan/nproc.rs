//! The number of workers.

use std::str::FromStr;

/// A number of workers on this node, in torchrun's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nproc {
    /// This many.
    Count(u16),
    /// One per GPU.
    Gpu,
    /// One per core, on the CPU.
    Cpu,
    /// One per GPU, or per core where there is no GPU.
    Auto,
}

impl Nproc {
    const MOST: u16 = 4096;

    /// The number, if it does not depend on the machine.
    pub fn count(self) -> Option<u16> {
        if let Self::Count(count) = self { Some(count) } else { None }
    }
}

impl FromStr for Nproc {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "gpu" => Ok(Self::Gpu),
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            _ => match text.parse() {
                Ok(count @ 1..=Self::MOST) => Ok(Self::Count(count)),
                _ => Err(format!("expected a number from 1 to {}, or gpu, cpu, auto", Self::MOST)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nproc_takes_a_number_or_torchruns_words() {
        assert_eq!("2".parse(), Ok(Nproc::Count(2)));
        assert_eq!("4096".parse(), Ok(Nproc::Count(4096)));
        assert_eq!(["gpu", "cpu", "auto"].map(str::parse), [Ok(Nproc::Gpu), Ok(Nproc::Cpu), Ok(Nproc::Auto)]);
        for text in ["0", "4097", "65536", "-1", "2.0", "", "gpus"] {
            assert_eq!(
                text.parse::<Nproc>(),
                Err("expected a number from 1 to 4096, or gpu, cpu, auto".into()),
                "{text}"
            );
        }
    }
}
