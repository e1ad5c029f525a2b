//! What tests of real processes share: a reactor with a lock file, shell scripts.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use punctual::clock::monotonic;
use punctual::spawn::{ChildId, CommandSpec, Exit, Output, Reactor};
use tempfile::TempDir;

/// Longer than any test takes: reaching it is a failure, never a way to go on.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A folder with a locked run lock, and a reactor whose watchdog is the real one.
pub(crate) struct Kit {
    pub(crate) reactor: Reactor,
    /// After the reactor, so that it is removed last.
    pub(crate) dir: TempDir,
}

impl Kit {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lock = lock(&dir.path().join("runlock")).unwrap();
        let reactor = Reactor::new(lock, env!("CARGO_BIN_EXE_punctual")).unwrap();
        Self { reactor, dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a shell script.
    pub(crate) fn sh(&mut self, script: &str, output: Output) -> ChildId {
        self.reactor
            .spawn(&mut sh(script), Vec::new(), output)
            .unwrap()
    }

    /// Waits for a child's end: what it printed, and how it ended.
    pub(crate) fn end(&mut self, id: ChildId) -> (String, Exit) {
        let until = monotonic() + PATIENCE;
        let mut printed = Vec::new();
        loop {
            assert!(monotonic() < until, "the child does not end");
            self.reactor.wait(until).unwrap();
            printed.extend(self.reactor.take_stdout(id));
            if let Some(exit) = self.reactor.take_exit(id) {
                return (String::from_utf8(printed).unwrap(), exit);
            }
        }
    }

    /// Waits until a child has printed `lines` lines, and returns them.
    pub(crate) fn lines(&mut self, id: ChildId, lines: usize) -> Vec<String> {
        let until = monotonic() + PATIENCE;
        let mut printed = Vec::new();
        while printed.split(|&byte| byte == b'\n').count() <= lines {
            assert!(monotonic() < until, "the child prints too little");
            self.reactor.wait(until).unwrap();
            printed.extend(self.reactor.take_stdout(id));
        }
        String::from_utf8(printed)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

/// A shell script as a command, with a PATH and nothing else.
pub(crate) fn sh(script: &str) -> CommandSpec {
    let argv = ["sh", "-c", script].map(str::to_owned);
    let env = BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]);
    CommandSpec::new(Path::new("/bin/sh"), &argv, Path::new("/"), &env).unwrap()
}

/// The file, locked; `None`: somebody else holds the lock.
pub(crate) fn lock(path: &Path) -> Option<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .unwrap();
    fs2::FileExt::try_lock_exclusive(&file).ok().map(|()| file)
}
