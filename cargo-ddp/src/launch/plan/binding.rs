//! Which cores a worker runs on: those of its GPU's NUMA node, or its share of all.

/// Where a worker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The numbers of its cores.
    pub cpus: Vec<usize>,
    /// The NUMA node that its memory comes from while that has some.
    pub node: Option<u32>,
}

/// A binding for each worker, whose GPU is attached to the node in `nodes` (`None`: no GPU, or a machine with one node).
/// Workers of one node share its cores evenly; there is never a core that two workers have, unless there are too few.
pub fn bind(nodes: &[Option<u32>], cpus: &[usize], cpus_of: impl Fn(u32) -> Vec<usize>) -> Vec<Binding> {
    let place = |worker: usize| {
        let node = nodes[worker];
        let near: Vec<_> = match node {
            Some(node) => cpus_of(node).into_iter().filter(|cpu| cpus.contains(cpu)).collect(),
            None => cpus.to_vec(),
        };
        // A node whose cores this process may not use does not count.
        let (node, near) = if near.is_empty() { (None, cpus.to_vec()) } else { (node, near) };
        let neighbors: Vec<_> = (0..nodes.len()).filter(|&other| nodes[other] == nodes[worker]).collect();
        let position = neighbors.iter().position(|&other| other == worker).unwrap_or(0);
        Binding { cpus: share(&near, position, neighbors.len()), node }
    };
    (0..nodes.len()).map(place).collect()
}

fn share(cpus: &[usize], position: usize, of: usize) -> Vec<usize> {
    if cpus.len() < of {
        return vec![cpus[position % cpus.len()]];
    }
    cpus[cpus.len() * position / of..cpus.len() * (position + 1) / of].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::cpus::parse;

    #[test]
    fn bindings_without_gpus_share_all_cores_evenly() {
        let cpus: Vec<_> = (0..8).collect();
        let bindings = bind(&[None, None, None], &cpus, |_| vec![]);
        let cpus_of = |bindings: &[Binding]| bindings.iter().map(|binding| binding.cpus.clone()).collect::<Vec<_>>();
        assert_eq!(cpus_of(&bindings), [vec![0, 1], vec![2, 3, 4], vec![5, 6, 7]]);
        let few = bind(&[None, None, None], &[4, 6], |_| vec![]);
        assert_eq!(cpus_of(&few), [[4], [6], [4]]);
    }

    #[test]
    fn bindings_with_gpus_share_the_cores_of_their_node() {
        let cpus: Vec<_> = (0..16).filter(|cpu| *cpu != 9).collect();
        let node = |node: u32| parse(["0-3,8-11", "4-7,12-15", ""][node as usize]);
        let bindings = bind(&[Some(0), Some(1), Some(0), Some(2)], &cpus, node);
        let shares = [("0-2", 0), ("4-7,12-15", 1), ("3,8,10-11", 0)];
        let shares = shares.map(|(cpus, node)| Binding { cpus: parse(cpus), node: Some(node) });
        assert_eq!(bindings[..3], shares);
        assert_eq!(bindings[3], Binding { cpus, node: None }, "a node without cores for us is none");
    }
}
