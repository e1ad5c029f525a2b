//! What stands in a lock file that is ours: whatever it is, it locks.

use std::fs;

use punctual::clock::UnixSeconds;
use punctual::lock::{Asked, FileLock, LockId, identity_at, live_holder};

/// Of the columns that hold an identity.
const LONGEST: usize = 160;

pub(crate) fn check(data: &[u8]) {
    let site = tempfile::tempdir().expect("a temporary directory");
    let path = site.path().join("run.lock");
    fs::write(&path, data).expect("a file of ours");
    let _ = live_holder(&path);
    let before = identity_at(&path);

    let ask = || -> LockId {
        match FileLock::ask(&path, UnixSeconds(1_795_335_300), true) {
            Ok(Asked::Held(lock)) => lock.identity().clone(),
            other => panic!("{other:?}"),
        }
    };
    let first = ask();
    let text = first.as_str();
    assert!(text.len() <= LONGEST, "{} bytes", text.len());
    assert!(
        !text.chars().any(|c| c.is_control() || c.is_whitespace()),
        "{text:?}"
    );
    // Who only looks and who locks mean the same lock.
    assert!(before.is_none_or(|before| before == text), "{text}");
    assert_eq!(identity_at(&path).as_deref(), Some(text));
    assert_eq!(live_holder(&path), Some(std::process::id()));
    assert_eq!(ask(), first);
}
