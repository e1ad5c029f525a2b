//! The first two of the three layers that keep runs apart (RULINGS 1): the file lock of this host,
//! then the database's advisory lock across hosts. Correctness rests on the third, `lease.rs`;
//! these make a second tick step aside at once and cheaply.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::OFlags;
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::clock::UnixSeconds;
use crate::error::Failure;
use crate::fault;
use crate::token;

mod place;

pub use place::{lock_path, make_private, private_dir};

/// How often a lock file that was replaced under our hands is opened again.
const REOPENS: usize = 3;

/// The held file lock. Dropping it, or dying, gives it back; the file itself stays.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    identity: LockId,
}

/// What proves that two runs used the very same lock (RULINGS 3): random id, machine, device and
/// inode. A holder with this identity is dead once we hold the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockId {
    text: String,
    proves_death: bool,
}

impl LockId {
    /// As stored in `event_lease.lock_id` and `event_runs.lock_id`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a run recorded under `other` must be dead, given that we hold this lock.
    pub fn proves_dead(&self, other: &str) -> bool {
        self.proves_death && self.text == other
    }
}

/// What came of asking for the file lock.
#[derive(Debug)]
pub enum Asked {
    /// It is ours.
    Held(FileLock),
    /// Another run on this host holds it.
    Busy,
}

impl FileLock {
    /// Asks for the lock at `path` without waiting.
    ///
    /// # Errors
    /// [`Failure`] 77 where the file is a link, no plain file or somebody else's, 74 where it
    /// cannot be opened, 78 on a file system that has no locks and where `may_lack_locks` is false.
    pub fn ask(path: &Path, now: UnixSeconds, may_lack_locks: bool) -> anyhow::Result<Asked> {
        for _ in 0..REOPENS {
            let file = open(path)?;
            let works = match fs2::FileExt::try_lock_exclusive(&file) {
                Ok(()) => true,
                Err(_) if fault::locks_are_open() => true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Asked::Busy),
                Err(error) if lacks_locks(&error) => false,
                Err(error) => {
                    return Err(Failure::io(format!("{}: {error}", path.display())).into());
                }
            };
            if !same_file(&file, path) {
                continue;
            }
            let local = works && is_local(&file);
            if !local && !may_lack_locks {
                return Err(Failure::configuration(format!(
                    "{} is on a network file system, where locks and SQLite cannot be trusted; \
                     move the database, or use --allow-network-fs on a single host",
                    path.display()
                ))
                .into());
            }
            if !works {
                log::warn!("{}: this file system has no locks", path.display());
            }
            return Ok(Asked::Held(Self::take(file, path, now, local)?));
        }
        Err(Failure::temporary(format!("{} is being replaced all the time", path.display())).into())
    }

    fn take(mut file: File, path: &Path, now: UnixSeconds, local: bool) -> anyhow::Result<Self> {
        let machine = machine_id();
        let mut write = || -> io::Result<LockId> {
            let text = content(&file)?;
            let lock_id = lock_id(&text).map_or_else(token::random_hex, str::to_owned);
            let about = file.metadata()?;
            // Only now that it is ours; and not emptied first, which would give its block back.
            file.rewind()?;
            let pid = std::process::id();
            let text = format!("lock_id={lock_id}\nmachine={machine}\npid={pid}\nstarted={now}\n");
            file.write_all(text.as_bytes())?;
            file.set_len(text.len() as u64)?;
            Ok(LockId {
                text: identity(&machine, &lock_id, &about),
                proves_death: local && !machine.is_empty() && !fault::locks_are_open(),
            })
        };
        let identity =
            write().map_err(|error| Failure::io(format!("{}: {error}", path.display())))?;
        Ok(Self { file, identity })
    }

    /// Which lock this is.
    pub fn identity(&self) -> &LockId {
        &self.identity
    }

    /// A second handle of the same held lock, for the watchdog: the lock is free once both are
    /// closed.
    ///
    /// # Errors
    /// Too many open files.
    pub fn try_clone(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// Counts a tick that found the file lock held: one byte appended beside the lock file, so that no
/// row of the running holder is touched (RULINGS 44).
///
/// # Errors
/// [`Failure`] 77 where the file is a link or no plain file, 74 where it cannot be written.
pub fn count_aside(lock_path: &Path) -> anyhow::Result<()> {
    let path = aside_path(lock_path);
    // NONBLOCK: a pipe that nobody reads is refused instead of waited for.
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(bits(flags))
        .open(&path)
        .map_err(|error| refused(&path, &error))?;
    if !file.metadata().context("lock file")?.is_file() {
        return Err(refused_because(&path, "is no plain file").into());
    }
    let unwritten = |error| Failure::io(format!("{}: {error}", path.display()));
    Ok(file.write_all(b".").map_err(unwritten)?)
}

/// How many ticks were counted beside the lock file since it was made.
pub fn counted_aside(lock_path: &Path) -> i64 {
    let about = fs::symlink_metadata(aside_path(lock_path)).ok();
    let length = about
        .filter(fs::Metadata::is_file)
        .map_or(0, |about| about.len());
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// The process that last took the lock at `path`, while it is still alive. A hint for people and
/// dry runs, which take no lock; never a reason to claim.
pub fn live_holder(path: &Path) -> Option<u32> {
    let text = content(&File::open(path).ok()?).ok()?;
    let pid: u32 = field(&text, "pid")?.parse().ok()?;
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    let alive = match rustix::process::test_kill_process(raw) {
        Ok(()) => true,
        Err(error) => error == Errno::PERM,
    };
    (alive && field(&text, "machine")? == machine_id()).then_some(pid)
}

/// The identity of the lock at `path`, read without taking it: for listings.
pub fn identity_at(path: &Path) -> Option<String> {
    let text = content(&File::open(path).ok()?).ok()?;
    let about = fs::symlink_metadata(path).ok()?;
    Some(identity(&machine_id(), lock_id(&text)?, &about))
}

/// The advisory lock's name (RULINGS 7): nothing a neighbour can guess without our tables.
pub fn advisory_name(install_id: &str, database_name: &str, prefix: &str) -> String {
    let parts = [
        install_id.as_bytes(),
        database_name.as_bytes(),
        prefix.as_bytes(),
    ];
    format!("pnct_{}", digest(&parts, 40))
}

/// The host's name for people.
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn open(path: &Path) -> anyhow::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(bits(flags))
        .open(path)
        .map_err(|error| refused(path, &error))?;
    let about = file.metadata().context("lock file")?;
    let whose = about.uid();
    // No name at all: it was removed a moment ago, which `same_file` notices.
    if !about.is_file() || about.nlink() > 1 {
        return Err(refused_because(path, "is no plain file with one name").into());
    }
    if whose != rustix::process::geteuid().as_raw() {
        return Err(refused_because(path, &format!("belongs to user {whose}")).into());
    }
    Ok(file)
}

fn refused(path: &Path, error: &io::Error) -> Failure {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => refused_because(path, "is a symbolic link"),
        Some(Errno::ISDIR) => refused_because(path, "is a directory"),
        Some(Errno::NXIO) => refused_because(path, "is no plain file"),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Failure::permission(format!(
            "lock file {}: {error}; run as the user that owns the database",
            path.display()
        )),
        Some(Errno::NOENT) => Failure::unavailable(format!(
            "lock file {}: no such directory; `punctual init` creates the database",
            path.display()
        )),
        _ => Failure::io(format!("lock file {}: {error}", path.display())),
    }
}

fn refused_because(path: &Path, why: &str) -> Failure {
    Failure::permission(format!(
        "lock file {} {why}; remove it and let punctual make its own",
        path.display()
    ))
}

/// Whether `path` still leads to the file we locked: it may have been deleted or replaced between
/// opening and locking.
fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(named)) => held.dev() == named.dev() && held.ino() == named.ino(),
        _ => false,
    }
}

fn lacks_locks(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::NOSYS | Errno::NOLCK | Errno::OPNOTSUPP)
    )
}

/// File system magics of `statfs(2)` where another host may hold the same file.
const NETWORK_FILE_SYSTEMS: &[i64] = &[
    0x6969,      // NFS
    0xFF53_4D42, // CIFS
    0xFE53_4D42, // SMB2
    0x517B,      // SMB
    0x0102_1997, // 9P
    0x00C3_6400, // Ceph
    0x5346_414F, // AFS
    0x7375_7245, // Coda
    0x0BD0_0BD0, // Lustre
    0x0116_1970, // GFS2
    0x7461_636F, // OCFS2
    0x4750_4653, // GPFS
    0x6573_5546, // FUSE: sshfs and friends; cannot be told apart
];

fn is_local(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|about| {
        #[expect(
            clippy::unnecessary_cast,
            reason = "f_type differs between architectures"
        )]
        let kind = about.f_type as i64 & 0xFFFF_FFFF;
        !NETWORK_FILE_SYSTEMS.contains(&kind)
    })
}

fn aside_path(lock_path: &Path) -> PathBuf {
    let mut name = lock_path.as_os_str().to_owned();
    name.push(".aside");
    name.into()
}

fn identity(machine: &str, lock_id: &str, about: &fs::Metadata) -> String {
    format!("{machine}/{lock_id}/{}:{}", about.dev(), about.ino())
}

fn machine_id() -> String {
    let read = |path| fs::read_to_string(path).map(|text| text.trim().to_owned());
    read("/etc/machine-id")
        .ok()
        .filter(|id| !id.is_empty())
        .or_else(|| read("/proc/sys/kernel/random/boot_id").ok())
        .unwrap_or_default()
}

/// The beginning of a lock file, whatever a crash or a person left in it.
fn content(file: &File) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(256); // read at once, not piece by piece
    file.take(4096).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The id that a run wrote, if it is one: anything else would not prove that two runs used the
/// same lock, nor fit its column.
fn lock_id(text: &str) -> Option<&str> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    field(text, "lock_id").filter(|id| id.len() == token::DIGITS && id.bytes().all(is_digit))
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// The first `digits` of a hash over `parts`, which never run together: each length goes in, too.
fn digest(parts: &[&[u8]], digits: usize) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut text = token::hex(&hash.finalize());
    text.truncate(digits);
    text
}

fn bits(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).expect("open flags fit an int")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(path: &Path) -> LockId {
        match FileLock::ask(path, UnixSeconds(1000), true) {
            Ok(Asked::Held(lock)) => lock.identity().clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_lock_file_keeps_its_id_from_run_to_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.lock");
        let first = held(&path);
        assert_eq!(held(&path), first);
        assert_eq!(identity_at(&path).as_deref(), Some(first.as_str()));
        assert_eq!(live_holder(&path), Some(std::process::id()));
    }

    #[test]
    fn nothing_of_an_earlier_holder_stays_in_a_lock_file_but_its_id() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.lock");
        let first = held(&path);
        let text = fs::read_to_string(&path).unwrap();
        let longer = text.replace("pid=", "pid=1234567890") + "earlier=1\n";
        fs::write(&path, longer).unwrap();
        assert_eq!(held(&path), first);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    /// A crash may leave blocks of anything; a row has 160 bytes for the identity.
    #[test]
    fn whatever_a_lock_file_holds_it_locks_under_an_id_of_our_own_making() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.lock");
        let long = format!("lock_id={}\n", "a".repeat(300));
        for content in [
            &b"\xff\xfe\xfd"[..],
            &[0; 5000],
            long.as_bytes(),
            b"lock_id=\n",
            b"lock_id=0123456789ABCDEF0123456789abcdef\n",
            "lock_id=0123456789abcdef0123456789abcd\u{e9}\n".as_bytes(),
        ] {
            fs::write(&path, content).unwrap();
            assert_eq!(identity_at(&path), None);
            let identity = held(&path);
            assert!(identity.as_str().len() <= 160, "{identity:?}");
            let id = identity.as_str().split('/').nth(1).unwrap();
            assert_eq!(id.len(), token::DIGITS);
            assert_eq!(held(&path), identity);
        }
    }
}
