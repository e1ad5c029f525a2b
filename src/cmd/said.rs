//! Saying once an hour what would be said every minute: cron mails each line a tick prints.
//!
//! Best effort: where no stamp can be kept, the line is said. Never a reason to fail.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use crate::clock::{Clock, UnixSeconds};
use crate::config::{Config, Env};
use crate::lock;
use crate::token;

/// How long a line is kept to ourselves after it was said, in seconds.
const SILENCE: i64 = 3600;
/// Stamps older than this are removed, in seconds.
const FORGET: i64 = 24 * 3600;

/// Whether `text` is to be said now: it was not within the last hour, about this database. Without
/// a configuration the stamps are kept where the environment alone would put them.
pub fn once_an_hour(config: Option<&Config>, text: &str) -> bool {
    match directory(config) {
        Some(directory) => stamp(&directory, text, Clock::system().now()),
        None => true,
    }
}

fn directory(config: Option<&Config>) -> Option<PathBuf> {
    let state = match config {
        Some(config) if config.database.is_some() => lock::private_dir(config).ok()?,
        Some(config) => config.state_dir.clone(),
        None => state_from(&Env::of_process())?,
    };
    let directory = state.join("said");
    lock::make_private(&directory).ok()?;
    Some(directory)
}

/// As the configuration would choose it, were there one.
fn state_from(env: &Env) -> Option<PathBuf> {
    let absolute = |name: &str| {
        env.get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("PUNCTUAL_STATE_DIR")
        .or_else(|| Some(absolute("XDG_STATE_HOME")?.join("punctual")))
        .or_else(|| Some(absolute("HOME")?.join(".local/state/punctual")))
}

fn stamp(directory: &Path, text: &str, now: UnixSeconds) -> bool {
    let path = directory.join(name(text));
    if stamped_at(&path).is_some_and(|at| at <= now && now.since(at) < SILENCE) {
        return false;
    }
    forget_old(directory, now);
    // Whatever comes of it: the line is said.
    let _ = write(&path, now);
    true
}

fn name(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    token::hex(&hash[..16])
}

fn stamped_at(path: &Path) -> Option<UnixSeconds> {
    fs::read_to_string(path)
        .ok()?
        .trim()
        .parse()
        .ok()
        .map(UnixSeconds)
}

fn write(path: &Path, now: UnixSeconds) -> std::io::Result<()> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(flags);
    let mut file: File = options.open(path)?;
    std::io::Write::write_all(&mut file, format!("{now}\n").as_bytes())
}

fn forget_old(directory: &Path, now: UnixSeconds) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let fresh = stamped_at(&path).is_some_and(|at| at <= now && now.since(at) < FORGET);
        if !fresh {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_once_an_hour_and_another_line_at_once() {
        let home = tempfile::tempdir().unwrap();
        let start = UnixSeconds(1_000_000);
        let say = |text: &str, after: i64| stamp(home.path(), text, UnixSeconds(start.0 + after));
        assert!(say("down", 0));
        assert!(!say("down", 60));
        assert!(say("full", 60));
        assert!(!say("down", 3599));
        assert!(say("down", 3600));
        assert!(!say("down", 3660));
    }

    #[test]
    fn a_clock_set_back_does_not_silence_for_long() {
        let home = tempfile::tempdir().unwrap();
        assert!(stamp(home.path(), "down", UnixSeconds(1_000_000)));
        assert!(stamp(home.path(), "down", UnixSeconds(500_000)));
        assert!(!stamp(home.path(), "down", UnixSeconds(500_001)));
    }

    #[test]
    fn stamps_of_yesterday_are_removed() {
        let home = tempfile::tempdir().unwrap();
        for text in ["a", "b", "c"] {
            stamp(home.path(), text, UnixSeconds(1_000_000));
        }
        stamp(home.path(), "d", UnixSeconds(1_000_000 + FORGET));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn where_nothing_can_be_kept_everything_is_said() {
        let nowhere = Path::new("/proc/no-such-directory");
        assert!(stamp(nowhere, "down", UnixSeconds(1)));
        assert!(stamp(nowhere, "down", UnixSeconds(2)));
    }
}
