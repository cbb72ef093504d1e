//! The secret that the launchers of a job share: a launcher that knows it may join.
//!
//! Each side proves that it knows the secret by an HMAC over what the other side has chosen at random. The secret itself
//! never leaves its machine.

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::launch::event::Exposure;

/// Fewer characters could be guessed from one recorded proof.
const SHORTEST: usize = 16;
const LONGEST: u64 = 4096;
/// How long to wait before looking again for a file that node 0 creates.
const RETRY: Duration = Duration::from_millis(300);

/// Bytes from the kernel's random number generator.
pub(crate) type Nonce = [u8; 32];

/// Where the job's secret comes from.
#[derive(Clone, Debug, Default)]
pub enum SecretSource {
    /// No secret: anyone who can reach the port may join.
    #[default]
    None,
    /// `DDP_JOB_SECRET`.
    Value(Secret),
    /// `--secret-file` or `DDP_JOB_SECRET_FILE`. Node 0 creates the file if it does not exist; other nodes wait for it.
    File(PathBuf),
}

/// A shared secret.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    /// Never shows the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The side that proves something. A proof of one side is not valid for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Node 0.
    Coordinator,
    /// Any other node.
    Member,
}

impl Secret {
    /// White space around `text` does not count.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text.len() {
            n if n < SHORTEST => Err(format!("the secret is too short: {n} bytes, expected at least {SHORTEST}")),
            n if n as u64 > LONGEST => Err(format!("the secret is too long: {n} bytes, expected at most {LONGEST}")),
            _ => Ok(Self(text.as_bytes().to_owned())),
        }
    }

    /// A proof that `side` knows the secret, for this connection alone: both nonces are new for each.
    pub(crate) fn proof(&self, side: Side, own: &Nonce, theirs: &Nonce) -> String {
        hex(&self.mac(side, own, theirs).finalize().into_bytes())
    }

    /// Whether `proof` is the other side's. Takes the same time wherever a wrong proof differs.
    pub(crate) fn verifies(&self, proof: &str, side: Side, own: &Nonce, theirs: &Nonce) -> bool {
        let Some(proof) = from_hex(proof) else { return false };
        self.mac(side, theirs, own).verify_slice(&proof).is_ok()
    }

    fn mac(&self, side: Side, prover: &Nonce, verifier: &Nonce) -> Hmac<Sha256> {
        let label: &[u8] = match side {
            Side::Coordinator => b"cargo-ddp job, node 0\0",
            Side::Member => b"cargo-ddp job, member\0",
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(label);
        mac.update(verifier);
        mac.update(prover);
        mac
    }
}

pub(crate) fn nonce() -> io::Result<Nonce> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly 32 bytes.
pub(crate) fn from_hex(text: &str) -> Option<Nonce> {
    let digits = text.as_bytes();
    let mut bytes = Nonce::default();
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl SecretSource {
    /// The secret, created if this is node 0, else waited for until `end`. The second part says who else can read or replace it.
    ///
    /// # Errors
    /// What is wrong, and with which file.
    pub(crate) fn get(&self, is_node_0: bool, end: Instant) -> Result<(Option<Secret>, Option<Exposure>), String> {
        let path = match self {
            Self::None => return Ok((None, None)),
            Self::Value(secret) => return Ok((Some(secret.clone()), None)),
            Self::File(path) => path,
        };
        let failed = |err: io::Error| format!("can't read the secret file {}: {err}", path.display());
        let mut created = false;
        loop {
            match read(path) {
                Ok((text, metadata)) => {
                    let secret = Secret::new(&text).map_err(|problem| format!("{}: {problem}", path.display()))?;
                    return Ok((Some(secret), exposure(path, &metadata)));
                }
                Err(err) if err.kind() == io::ErrorKind::NotFound && is_node_0 && path.is_symlink() => {
                    let link = path.display();
                    return Err(format!(
                        "the secret file {link} is a link to a file that does not exist: create that file, or remove the link"
                    ));
                }
                // Once: a file that is removed again and again must not keep this node from its timeout.
                Err(err) if err.kind() == io::ErrorKind::NotFound && is_node_0 && !created => {
                    create(path).map_err(|err| format!("can't create the secret file {}: {err}", path.display()))?;
                    created = true;
                }
                Err(err) if err.kind() == io::ErrorKind::NotFound && Instant::now() < end => std::thread::sleep(RETRY),
                Err(err) => return Err(failed(err)),
            }
        }
    }
}

fn read(path: &Path) -> io::Result<(String, Metadata)> {
    // A pipe without a writer must not keep the launcher waiting.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(LONGEST + 2).read_to_string(&mut text)?;
    Ok((text, metadata))
}

/// Creates the file with a new secret. A reader sees no file or a complete one; of two creators, the first wins.
fn create(path: &Path) -> io::Result<()> {
    let secret = hex(&nonce()?);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let private = fs::Permissions::from_mode(0o600);
    let mut file = tempfile::Builder::new().permissions(private).tempfile_in(folder)?;
    writeln!(file, "{secret}")?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => File::open(folder)?.sync_all(),
        Err(err) if err.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(err) => Err(err.error),
    }
}

/// Whether others can read or replace the file.
fn exposure(path: &Path, metadata: &Metadata) -> Option<Exposure> {
    if metadata.mode() & 0o007 != 0 {
        return Some(Exposure::Everybody(path.to_owned()));
    }
    let own = rustix::process::geteuid().as_raw();
    (metadata.uid() != own && metadata.uid() != 0).then(|| Exposure::AnotherUser(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proof_holds_for_one_side_one_secret_and_one_connection() {
        let secret = Secret::new("0123456789abcdef").unwrap();
        let (a, b) = (nonce().unwrap(), nonce().unwrap());
        let proof = secret.proof(Side::Member, &a, &b);
        assert!(secret.verifies(&proof, Side::Member, &b, &a));
        assert!(!secret.verifies(&proof, Side::Coordinator, &b, &a), "reflected");
        assert!(!secret.verifies(&proof, Side::Member, &nonce().unwrap(), &a), "replayed");
        assert!(!Secret::new("0123456789abcdeg").unwrap().verifies(&proof, Side::Member, &b, &a));
        for wrong in ["", "00", &proof[1..], &format!("{}g", &proof[1..]), &"é".repeat(32)] {
            assert!(!secret.verifies(wrong, Side::Member, &b, &a), "{wrong}");
        }
        assert_eq!(from_hex(&hex(&a)), Some(a));
    }

    #[test]
    fn secret_is_not_shown_and_not_short() {
        assert!(Secret::new("  short\n").unwrap_err().contains("too short: 5 bytes"));
        assert!(Secret::new(&"x".repeat(5000)).unwrap_err().contains("too long: 5000 bytes"));
        let shown = format!("{:?}", SecretSource::Value(Secret::new("0123456789abcdef").unwrap()));
        assert!(!shown.contains("0123"), "{shown}");
    }

    #[test]
    fn secret_file_is_created_by_node_0_alone_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let source = SecretSource::File(path.clone());
        let now = Instant::now();
        let missing = source.get(false, now).unwrap_err();
        assert!(missing.contains("can't read the secret file"), "{missing}");
        let (secret, exposure) = source.get(true, now).unwrap();
        assert_eq!((secret.unwrap().0.len(), exposure), (64, None));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        source.get(true, now).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "the next job uses the same");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(source.get(false, now).unwrap().1, Some(Exposure::Everybody(path)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    // Node 0 took the link for its new file, found nothing behind it, and created the next one: forever.
    #[test]
    fn secret_file_that_is_a_link_to_nothing_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let source = SecretSource::File(link);
        let now = Instant::now();
        let problem = source.get(true, now).unwrap_err();
        assert!(problem.contains("link is a link to a file that does not exist"), "{problem}");
        assert!(source.get(false, now).unwrap_err().contains("can't read the secret file"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
        create(&real).unwrap();
        assert!(source.get(true, now).unwrap().0.is_some());
    }
}
