//! What is known of a GPU.

use serde::Serialize;

/// A GPU that the driver knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Its number, in the order of the PCI bus, as in `nvidia-smi`.
    pub index: u32,
    /// As the driver calls it.
    pub name: Option<String>,
    /// `GPU-…`.
    pub uuid: Option<String>,
    /// `MIG-…` of each of its instances, if it is divided.
    pub mig: Vec<String>,
    /// In bytes.
    pub memory: Option<Memory>,
    /// Processes that compute on it.
    pub users: Vec<User>,
    /// The NUMA node that it is attached to.
    pub numa_node: Option<u32>,
}

/// A GPU's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// In use, by whomever.
    pub used: u64,
}

/// A process that computes on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// Its process.
    pub pid: u32,
    /// The program, as the kernel names it.
    pub program: Option<String>,
    /// GPU memory in bytes, where the driver says.
    pub memory: Option<u64>,
}

/// Memory that is in use on a GPU that nobody uses: the driver's own.
const IDLE_MEMORY: u64 = 512 << 20;

impl Gpu {
    /// Who has it, in words, if anybody does.
    pub fn busy(&self) -> Option<String> {
        let used = self.memory.filter(|memory| memory.used > IDLE_MEMORY);
        if self.users.is_empty() && used.is_none() {
            return None;
        }
        let memory =
            self.memory.map(|Memory { total, used }| format!("{} of {} in use", gigabytes(used), gigabytes(total)));
        let users: Vec<_> = self
            .users
            .iter()
            .map(|user| format!("{} (pid {})", user.program.as_deref().unwrap_or("a program"), user.pid))
            .collect();
        let by = if users.is_empty() { String::new() } else { format!(", by {}", users.join(", ")) };
        Some(memory.unwrap_or_else(|| "in use".into()) + &by)
    }
}

/// `1.5 GB`.
pub fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpu_is_busy_with_users_or_with_much_memory() {
        let memory = |used| Some(Memory { total: 80_000_000_000, used });
        assert_eq!(Gpu { memory: memory(3 << 20), ..Gpu::default() }.busy(), None);
        let words = Gpu { memory: memory(10_200_000_000), ..Gpu::default() }.busy();
        assert_eq!(words.as_deref(), Some("10.2 GB of 80.0 GB in use"));
        let users = vec![User { pid: 7, program: Some("python3".into()), memory: None }];
        let words = Gpu { users, ..Gpu::default() }.busy();
        assert_eq!(words.as_deref(), Some("in use, by python3 (pid 7)"));
    }
}
