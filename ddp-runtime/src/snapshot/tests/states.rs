//! Tensors of objects that are not optimizers.

use super::*;

/// An exponential moving average of weights.
#[derive(Debug)]
struct Average {
    name: &'static str,
    steps: u64,
    weights: Tensor,
}

impl Average {
    fn new(name: &'static str, steps: u64, weights: &[f32]) -> Self {
        Self { name, steps, weights: Tensor::from_slice(weights) }
    }
}

impl Stateful for Average {
    fn state_dict(&self) -> Result<StateDict> {
        let name = |part: &str| format!("{}.{part}", self.name);
        Ok(StateDict::new().with(&name("steps"), &self.steps)?.with_tensor(&name("weights"), &self.weights))
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let steps = state.require(&format!("{}.steps", self.name))?;
        state.load_tensor(&format!("{}.weights", self.name), &mut self.weights)?;
        self.steps = steps;
        Ok(())
    }
}

fn save(dir: &Path, parts: Vec<&mut dyn Stateful>) -> Result<()> {
    let mut run = Run::new();
    let parts = parts.into_iter().map(|part| part as _).collect();
    let contents = Contents { parts, ..bare(&mut run.optimizer) };
    Snapshots::open(&run.context, dir)?.blocking(true).save(&run.vs, &contents, AT)
}

fn resume(dir: &Path, parts: Vec<&mut dyn Stateful>) -> Result<Option<Progress>> {
    let mut run = Run::new();
    let parts = parts.into_iter().map(|part| part as _).collect();
    let mut contents = Contents { parts, ..bare(&mut run.optimizer) };
    Snapshots::open(&run.context, dir)?.resume(&run.vs, &mut contents)
}

fn files(dir: &Path) -> Vec<String> {
    let folder = format::newest_valid(dir).unwrap().valid.unwrap().folder;
    format::read_manifest(&folder).unwrap().files.into_keys().collect()
}

#[test]
fn state_tensors_survive_a_snapshot() {
    let dir = tempdir().unwrap();
    let (mut a, mut b) = (Average::new("a", 3, &[0.5, f32::NAN]), Average::new("b", 4, &[]));
    save(dir.path(), vec![&mut a, &mut b]).unwrap();
    assert!(files(dir.path()).contains(&format::STATES.to_owned()));
    let (mut c, mut d) = (Average::new("a", 0, &[0.0, 0.0]), Average::new("b", 0, &[]));
    assert_eq!(resume(dir.path(), vec![&mut d, &mut c]).unwrap(), Some(AT));
    assert_eq!((c.steps, d.steps), (3, 4));
    assert_eq!(Vec::<f32>::try_from(&c.weights).unwrap().map_bits(), [0.5, f32::NAN].map_bits());
    // A run that has no such object ignores them.
    assert_eq!(resume(dir.path(), vec![]).unwrap(), Some(AT));
}

trait Bits {
    fn map_bits(self) -> Vec<u32>;
}

impl<T: IntoIterator<Item = f32>> Bits for T {
    fn map_bits(self) -> Vec<u32> {
        self.into_iter().map(f32::to_bits).collect()
    }
}

#[test]
fn state_tensors_that_differ_are_refused_by_name() {
    let dir = tempdir().unwrap();
    save(dir.path(), vec![&mut Average::new("a", 3, &[0.5, 0.25])]).unwrap();
    let mut other = Average::new("a", 0, &[1.0]);
    let err = resume(dir.path(), vec![&mut other]).unwrap_err();
    assert!(matches!(err, Error::StateMismatch { .. }), "{err:?}");
    let text = err.to_string();
    assert!(
        text.starts_with("can't load `a.weights` from ") && text.ends_with("[2] Float, expected [1] Float"),
        "{text}"
    );
    assert_eq!((other.steps, f32::try_from(&other.weights).unwrap()), (0, 1.0), "unchanged");
    let mut double = Average { weights: Tensor::from_slice(&[0.0, 0.0f64]), ..Average::new("a", 0, &[]) };
    assert!(resume(dir.path(), vec![&mut double]).unwrap_err().to_string().ends_with("[2] Float, expected [2] Double"));
}

#[test]
fn state_tensors_of_one_name_are_refused() {
    let dir = tempdir().unwrap();
    let err = save(dir.path(), vec![&mut Average::new("a", 1, &[0.5]), &mut Average::new("a", 2, &[0.5])]).unwrap_err();
    assert!(err.to_string().starts_with("two parts of the run save a tensor named a.weights"), "{err}");
}

/// As versions before wrote it, and every run without such objects.
#[test]
fn snapshot_without_state_tensors_loads() {
    let dir = tempdir().unwrap();
    save(dir.path(), vec![&mut Own("a.steps", 3)]).unwrap();
    assert!(!files(dir.path()).contains(&format::STATES.to_owned()));
    assert_eq!(resume(dir.path(), vec![]).unwrap(), Some(AT));
    let err = resume(dir.path(), vec![&mut Average::new("value.a", 0, &[1.0])]).unwrap_err().to_string();
    assert!(err.starts_with("can't load `value.a.weights` from ") && err.ends_with(": the snapshot has none"), "{err}");
}

#[test]
fn snapshot_with_a_missing_states_file_is_skipped() {
    let dir = tempdir().unwrap();
    save(dir.path(), vec![&mut Average::new("a", 3, &[0.5])]).unwrap();
    let folder = format::newest_valid(dir.path()).unwrap().valid.unwrap().folder;
    fs::remove_file(folder.join(format::STATES)).unwrap();
    let err = resume(dir.path(), vec![&mut Average::new("a", 0, &[0.0])]).unwrap_err();
    assert!(matches!(err, Error::NoValidSnapshot { .. }), "{err:?}");
    assert!(err.to_string().ends_with(": states.safetensors is missing"), "{err}");
}
