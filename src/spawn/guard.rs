//! What the reactors of one run share: the watchdog, the groups it guards, and the starts that are
//! under way.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, RawPid};

use crate::token::random_hex;
use crate::watchdog::Watchdog;

/// Guards all children of a run, whichever thread starts them.
#[derive(Debug)]
pub struct Guard {
    program: PathBuf,
    /// What tells this run's children from all other processes.
    mark: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None`: nothing is started any more, and the lock is given back by whoever else has it.
    run_lock: Option<File>,
    watchdog: Option<Watchdog>,
    /// Children that are to be killed when the run is.
    groups: BTreeSet<RawPid>,
    /// Children that may have been started and are not among `groups` yet.
    births: usize,
}

/// A child that is about to be started. Dropped, it was not.
#[derive(Debug)]
pub(super) struct Birth<'g>(&'g Guard);

impl Guard {
    pub(super) fn new(run_lock: File, program: PathBuf) -> Self {
        Self {
            program,
            mark: random_hex(),
            state: Mutex::new(State {
                run_lock: Some(run_lock),
                watchdog: None,
                groups: BTreeSet::new(),
                births: 0,
            }),
        }
    }

    /// What stands in the environment of every child.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the watchdog unless it stands.
    pub(super) fn arm(&self) -> io::Result<()> {
        self.arm_with(&mut self.lock())
    }

    fn arm_with(&self, state: &mut State) -> io::Result<()> {
        let Some(run_lock) = &state.run_lock else {
            return Err(io::Error::other("the run has ended"));
        };
        if state.watchdog.is_some() {
            return Ok(());
        }
        let mut watchdog = Watchdog::start(&self.program, run_lock, &self.mark)?;
        // After the loss of an earlier watchdog: the new one must know who is there.
        for &group in &state.groups {
            if let Some(group) = Pid::from_raw(group) {
                watchdog.register(group)?;
            }
        }
        state.watchdog = Some(watchdog);
        Ok(())
    }

    /// To be called before a child is started.
    ///
    /// # Errors
    /// There is no watchdog and none can be started, or the run has ended: start nothing.
    pub(super) fn expect(&self) -> io::Result<Birth<'_>> {
        let mut state = self.lock();
        self.arm_with(&mut state)?;
        state.births += 1;
        Ok(Birth(self))
    }

    /// Takes a group back. Call it before the leader is reaped: afterwards the number may belong
    /// to somebody else.
    pub(super) fn unregister(&self, group: Pid) {
        let mut state = self.lock();
        state.groups.remove(&group.as_raw_pid());
        if let Some(watchdog) = &mut state.watchdog
            && watchdog.unregister(group).is_err()
        {
            state.watchdog = None; // it was killed; the next child gets a new one
        }
    }

    pub(super) fn watchdog_pid(&self) -> Option<u32> {
        self.lock().watchdog.as_ref().map(Watchdog::pid)
    }

    /// Ends the watchdog and waits for it; nothing can be started after that.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        state.run_lock = None;
        let Some(watchdog) = state.watchdog.take() else {
            return;
        };
        let ended = if state.births == 0 {
            watchdog.finish()
        } else {
            watchdog.abandon() // it looks for what it was not told of
        };
        if let Err(error) = ended {
            log::warn!("cannot wait for the watchdog: {error}");
        }
    }
}

impl Birth<'_> {
    /// Tells the watchdog of the child, a new one if the old one was killed.
    ///
    /// # Errors
    /// There is none: nobody guards the child.
    pub(super) fn register(self, group: Pid) -> io::Result<()> {
        let mut state = self.0.lock();
        state.groups.insert(group.as_raw_pid());
        let told = state
            .watchdog
            .as_mut()
            .map(|watchdog| watchdog.register(group));
        if let Some(Ok(())) = told {
            return Ok(());
        }
        log::warn!("the watchdog is gone; starting another");
        state.watchdog = None;
        self.0.arm_with(&mut state)
    }
}

impl Drop for Birth<'_> {
    fn drop(&mut self) {
        self.0.lock().births -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::sync::Arc;

    use rustix::io::Errno;
    use tempfile::TempDir;

    use super::*;
    use crate::spawn::Reactor;

    /// A watchdog that is ready at once and only notes what it is told.
    fn noting(dir: &TempDir) -> Arc<Guard> {
        let program = dir.path().join("watchdog");
        let told = dir.path().join("told");
        let script = format!("#!/bin/sh\nprintf R >&2\ncat >>{}\n", told.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let lock = File::create(dir.path().join("lock")).unwrap();
        let guard = Guard::new(lock, program);
        // A process that another test starts may have the script open for writing until it is its
        // own program.
        while let Err(error) = guard.arm() {
            assert_eq!(Errno::from_io_error(&error), Some(Errno::TXTBSY));
        }
        Arc::new(guard)
    }

    fn told(dir: &Path) -> String {
        fs::read_to_string(dir.join("told")).unwrap()
    }

    fn group(number: RawPid) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    #[test]
    fn a_run_ends_in_order_when_all_that_it_started_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let guard = noting(&dir);
        guard.expect().unwrap().register(group(71)).unwrap();
        drop(guard.expect().unwrap()); // could not be started
        guard.unregister(group(71));
        guard.finish();
        assert_eq!(told(dir.path()), "+71\n-71\n.\n");
    }

    #[test]
    fn while_something_is_being_started_no_order_is_claimed() {
        let dir = tempfile::tempdir().unwrap();
        let guard = noting(&dir);
        let birth = guard.expect().unwrap();
        guard.finish();
        assert_eq!(told(dir.path()), "");
        assert!(birth.register(group(72)).is_err(), "nobody guards it");
    }

    #[test]
    fn a_new_watchdog_is_told_of_what_every_thread_has_running() {
        let dir = tempfile::tempdir().unwrap();
        let guard = noting(&dir);
        for number in [73, 74, 75] {
            let guard = Arc::clone(&guard);
            let start = move || guard.expect().unwrap().register(group(number)).unwrap();
            std::thread::spawn(start).join().unwrap();
        }
        guard.unregister(group(74));
        let lost = guard.lock().watchdog.take().unwrap();
        lost.abandon().unwrap();
        guard.expect().unwrap().register(group(76)).unwrap();
        guard.finish();
        assert_eq!(told(dir.path()), "+73\n+74\n+75\n-74\n+73\n+75\n+76\n.\n");
    }

    #[test]
    fn nothing_is_started_after_the_end_of_the_first_reactor() {
        let dir = tempfile::tempdir().unwrap();
        let guard = noting(&dir);
        let other = Reactor::guarded_by(Arc::clone(&guard)).unwrap();
        drop(other); // the end of another is not that of the run
        assert!(guard.arm().is_ok());
        guard.finish();
        assert!(guard.arm().is_err());
        assert!(guard.expect().is_err());
        assert_eq!(guard.watchdog_pid(), None);
    }
}
