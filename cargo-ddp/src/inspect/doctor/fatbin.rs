//! Which GPUs a CUDA library has code for: the headers in its `.nv_fatbin` section, whose layout NVIDIA's tools
//! (`cuobjdump --list-elf`) and others (ZLUDA, Mesa) read alike.

use std::collections::BTreeMap;
use std::path::Path;

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection};

const MAGIC: u32 = 0xba55_ed50;
const PTX: u16 = 1;
const CUBIN: u16 = 2;

/// A target of compiled code: `sm_80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arch {
    /// 80.
    pub(super) number: u32,
    /// Code for newer GPUs as well, which the driver compiles.
    pub(super) ptx: bool,
}

impl Arch {
    /// Whether a GPU of this compute capability runs it: the same major version and at least the minor one; or, of PTX,
    /// anything newer.
    pub(super) fn runs_on(self, (major, minor): (u32, u32)) -> bool {
        let gpu = major * 10 + minor;
        gpu >= self.number && (self.ptx || self.number / 10 == major)
    }

    pub(super) fn name(self) -> String {
        format!("{}_{}", if self.ptx { "compute" } else { "sm" }, self.number)
    }
}

/// What most of the library's kernels are compiled for; a few have more targets than the rest.
pub(super) fn archs(library: &Path) -> Result<Vec<Arch>, String> {
    let map = super::elf::map(library)?;
    let bad = |err: object::Error| err.to_string();
    let elf = ElfFile64::<Endianness>::parse(&*map).map_err(bad)?;
    let section = elf.section_by_name(".nv_fatbin").ok_or("no section .nv_fatbin")?;
    let counts = count(section.data().map_err(bad)?);
    let most = counts.values().max().copied().unwrap_or_default();
    Ok(counts.into_iter().filter(|(_, count)| count * 4 >= most).map(|(arch, _)| arch).collect())
}

/// The number of code entries for each target.
fn count(mut data: &[u8]) -> BTreeMap<Arch, usize> {
    let mut counts = BTreeMap::new();
    while let Some(rest) = data.get(8..) {
        let header = (u32_at(data, 0), u16_at(data, 6), u64_at(data, 8));
        let (Some(MAGIC), Some(header), Some(size)) = header else {
            data = rest; // padding between two
            continue;
        };
        let end = usize::try_from(size).ok().and_then(|size| size.checked_add(header.into()));
        let Some(end) = end.filter(|end| *end <= data.len() && *end > 0) else { return counts };
        let mut entry = &data[usize::from(header).min(end)..end];
        while let (Some(kind), Some(header), Some(size), Some(number)) =
            (u16_at(entry, 0), u32_at(entry, 4), u64_at(entry, 8), u32_at(entry, 28))
        {
            if kind == PTX || kind == CUBIN {
                *counts.entry(Arch { number, ptx: kind == PTX }).or_default() += 1;
            }
            let length = u64::from(header).checked_add(size).and_then(|length| usize::try_from(length).ok());
            match length.filter(|length| *length > 0).and_then(|length| entry.get(length..)) {
                Some(next) => entry = next,
                None => break,
            }
        }
        data = &data[end..];
    }
    counts
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*data.get(at..)?.first_chunk()?))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*data.get(at..)?.first_chunk()?))
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*data.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fatbin(entries: &[(u16, u32)]) -> Vec<u8> {
        let mut body = Vec::new();
        for &(kind, arch) in entries {
            let mut entry = vec![0u8; 64 + 8];
            entry[..2].copy_from_slice(&kind.to_le_bytes());
            entry[4..8].copy_from_slice(&64u32.to_le_bytes());
            entry[8..16].copy_from_slice(&8u64.to_le_bytes());
            entry[28..32].copy_from_slice(&arch.to_le_bytes());
            body.extend(entry);
        }
        let mut data = MAGIC.to_le_bytes().to_vec();
        data.extend([1, 0, 16, 0]);
        data.extend((body.len() as u64).to_le_bytes());
        data.extend(body);
        data
    }

    #[test]
    fn fatbin_targets_are_counted_in_all_sections() {
        let mut data = fatbin(&[(CUBIN, 80), (CUBIN, 90), (PTX, 90)]);
        data.resize(data.len().next_multiple_of(8) + 8, 0);
        data.extend(fatbin(&[(CUBIN, 80)]));
        let arch = |number, ptx| Arch { number, ptx };
        let expected = BTreeMap::from([(arch(80, false), 2), (arch(90, false), 1), (arch(90, true), 1)]);
        assert_eq!(count(&data), expected);
        // Whatever is cut off, or no fatbin at all, ends.
        (0..data.len()).for_each(|length| drop(count(&data[..length])));
        assert_eq!(count(&[0xff; 100]), BTreeMap::new());
    }

    #[test]
    fn cubin_runs_on_its_own_major_version_and_ptx_on_newer_ones() {
        let runs = |number, ptx, gpu| Arch { number, ptx }.runs_on(gpu);
        assert!(runs(80, false, (8, 0)) && runs(80, false, (8, 9)));
        assert!(!runs(80, false, (9, 0)) && !runs(86, false, (8, 0)) && runs(80, true, (9, 0)));
        assert!(runs(120, false, (12, 1)) && !runs(100, false, (12, 0)) && !runs(75, true, (7, 0)));
    }
}
