//! Children: the only place that starts processes, and the one loop that waits for them.
//!
//! A [`Reactor`] belongs to one thread; those of one run share a [`Guard`]. Each child leads a
//! process group of its own and has nothing of the run's open but the ends of its pipes. Whenever
//! a leader ends, whatever is left of its group is killed before the leader is reaped, so that no
//! number is signalled that might belong to somebody else. Before the first child the watchdog is
//! started: a run that starts no child never pays for it.
//!
//! A thread that starts a child waits until that has become a program of its own. So it takes
//! several threads to keep several cores busy with starting, and then each has its own reactor.
//!
//! Between the start of a child and its registration with the watchdog lies a moment; a child of a
//! run killed in it is known by the mark in its environment. One that calls `setsid` escapes both
//! (RULINGS 27). Descriptors that whoever called the run left open for its children (`flock` of util-linux
//! without `-o`) pass through; closing what is not ours takes unsafe code. What an exit code means
//! is not decided here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::Pid;

use crate::clock::monotonic;
use crate::fault::point;
use crate::watchdog::MARK;

mod child;
mod guard;
mod sleeper;
mod spec;

pub use child::{Exit, STDERR_KEPT};
pub use guard::Guard;
pub use sleeper::{Sleeper, Waker};
pub use spec::CommandSpec;

use child::{Feed, Running};
use sleeper::poll_for;

/// How often children are looked at where the kernel has no pidfd (before Linux 5.3).
const LOOK_ROUND: Duration = Duration::from_millis(5);
/// What one read takes from a pipe at most: what a pipe usually holds.
const READ_BYTES: usize = 64 * 1024;

/// A child of a [`Reactor`]; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId(u64);

/// What becomes of a child's stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Thrown away.
    Null,
    /// Collected for [`Reactor::take_stdout`].
    Pipe,
}

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The watchdog could not be started, so nothing may be.
    #[error("cannot start the watchdog: {0}")]
    Watchdog(#[source] io::Error),
    /// The program could not be started.
    #[error(transparent)]
    Start(io::Error),
}

impl SpawnError {
    /// Whether it may work in a moment: no memory, no process, no descriptor left, or a program
    /// that is being written.
    pub fn is_temporary(&self) -> bool {
        let (Self::Watchdog(error) | Self::Start(error)) = self;
        let errno = Errno::from_io_error(error);
        errno.is_some_and(|errno| {
            [
                Errno::AGAIN,
                Errno::NOMEM,
                Errno::MFILE,
                Errno::NFILE,
                Errno::TXTBSY,
            ]
            .contains(&errno)
        })
    }
}

/// The children of one thread, and what it waits for.
#[derive(Debug)]
pub struct Reactor {
    sleeper: Sleeper,
    guard: Arc<Guard>,
    /// The others, which share the guard, end before it does.
    is_first: bool,
    use_pidfd: bool,
    null: Option<File>,
    children: BTreeMap<ChildId, Running>,
    next_id: u64,
    buffer: Vec<u8>,
}

impl Reactor {
    /// A reactor without children. `run_lock` is a duplicate (`try_clone`) of the locked file; it
    /// is handed to the watchdog. Since duplicates share one lock, the lock is given back by
    /// closing the file, never by unlocking it. `watchdog` is the program to run as watchdog:
    /// `punctual` itself.
    pub fn new(run_lock: File, watchdog: impl Into<PathBuf>) -> io::Result<Self> {
        let guard = Guard::new(run_lock, watchdog.into());
        let mut reactor = Self::guarded_by(Arc::new(guard))?;
        reactor.is_first = true;
        Ok(reactor)
    }

    /// A reactor without children for another thread of the run whose first reactor has this guard.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn guarded_by(guard: Arc<Guard>) -> io::Result<Self> {
        Ok(Self {
            sleeper: Sleeper::new()?,
            guard,
            is_first: false,
            use_pidfd: true,
            null: None,
            children: BTreeMap::new(),
            next_id: 0,
            buffer: Vec::new(),
        })
    }

    /// As on a kernel without pidfd: the seam for tests of what is done there.
    #[must_use]
    pub fn without_pidfd(mut self) -> Self {
        self.use_pidfd = false;
        self
    }

    /// What wakes this reactor.
    pub fn waker(&self) -> Waker {
        self.sleeper.waker()
    }

    /// What the reactors of this run share.
    pub fn guard(&self) -> Arc<Guard> {
        Arc::clone(&self.guard)
    }

    /// Starts the watchdog unless it stands. [`Reactor::spawn`] does so too; a run that calls it
    /// before its first claim claims nothing where no child can be started.
    pub fn arm(&mut self) -> io::Result<()> {
        self.guard.arm()
    }

    /// Starts a child in a process group of its own, with `input` on its stdin (the null device
    /// if empty).
    pub fn spawn(
        &mut self,
        spec: &mut CommandSpec,
        input: Vec<u8>,
        output: Output,
    ) -> Result<ChildId, SpawnError> {
        let guard = self.guard();
        let birth = guard.expect().map_err(SpawnError::Watchdog)?;
        let child = self.start(spec, input, output).map_err(SpawnError::Start)?;
        let id = ChildId(self.next_id);
        self.next_id += 1;
        let group = child.group;
        self.children.insert(id, child);
        point("fire.unguarded");
        if let Err(error) = birth.register(group) {
            // It might live on beside its own re-firing.
            log::error!("cannot start the watchdog, so a child is killed: {error}");
            self.stop(id, Duration::ZERO);
        }
        Ok(id)
    }

    fn start(
        &mut self,
        spec: &mut CommandSpec,
        input: Vec<u8>,
        output: Output,
    ) -> io::Result<Running> {
        let null = match &mut self.null {
            Some(null) => null,
            none => none.insert(File::options().read(true).write(true).open("/dev/null")?),
        };
        let (stdin, feed) = Feed::fill(input)?;
        let (stdout, stdout_end) = match output {
            Output::Null => (None, None),
            Output::Pipe => {
                let (reader, writer) = io::pipe()?;
                ioctl_fionbio(&reader, true)?;
                (Some(reader), Some(writer))
            }
        };
        let (stderr, stderr_end) = io::pipe()?;
        ioctl_fionbio(&stderr, true)?;
        spec.set_env(MARK, self.guard.mark())?;
        let process = spec.start(stdin, stdout_end, stderr_end, null)?;
        Ok(Running::new(process, self.use_pidfd, feed, stdout, stderr))
    }

    /// Waits until something happened or until `until`; may return early. What lies ready for
    /// [`Reactor::take_exit`] must be taken between two calls.
    pub fn wait(&mut self, until: Instant) -> io::Result<()> {
        let now = monotonic();
        for child in self.children.values_mut() {
            child.carry_on_stopping(now);
        }
        let ready = self.poll(self.patience(now, until))?;
        if self.buffer.is_empty() && !ready.is_empty() {
            self.buffer = vec![0; READ_BYTES];
        }
        for (source, id) in ready {
            self.serve(source, id);
        }
        self.look_without_pidfd();
        Ok(())
    }

    fn patience(&self, now: Instant, until: Instant) -> Duration {
        let mut until = until;
        for child in self.children.values() {
            if child.exit.is_some() {
                return Duration::ZERO;
            }
            if child.pidfd.is_none() {
                until = until.min(now + LOOK_ROUND);
            }
            if let Some(deadline) = child.stop_deadline() {
                until = until.min(deadline);
            }
        }
        until.saturating_duration_since(now)
    }

    /// Which descriptors of which children have something; the waker is emptied.
    fn poll(&self, patience: Duration) -> io::Result<Vec<(Source, ChildId)>> {
        let mut sources = Vec::with_capacity(1 + 4 * self.children.len());
        let mut fds = Vec::with_capacity(sources.capacity());
        fds.push(PollFd::new(&self.sleeper, PollFlags::IN));
        for (&id, child) in &self.children {
            let mut watch = |source, fd| {
                sources.push((source, id));
                fds.push(fd);
            };
            if let Some(feed) = &child.feed {
                watch(Source::Stdin, PollFd::new(&feed.pipe, PollFlags::OUT));
            }
            if let Some(pipe) = child.stdout.as_ref().filter(|_| !child.is_full()) {
                watch(Source::Stdout, PollFd::new(pipe, PollFlags::IN));
            }
            if let Some(pipe) = &child.stderr {
                watch(Source::Stderr, PollFd::new(pipe, PollFlags::IN));
            }
            if let Some(pidfd) = &child.pidfd {
                watch(Source::End, PollFd::new(pidfd, PollFlags::IN));
            }
        }
        if !poll_for(&mut fds, patience)? {
            return Ok(Vec::new());
        }
        if !fds[0].revents().is_empty() {
            self.sleeper.empty();
        }
        let ready = fds[1..]
            .iter()
            .zip(sources)
            .filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, source)| source).collect())
    }

    fn serve(&mut self, source: Source, id: ChildId) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        match source {
            Source::Stdin => child.write(),
            Source::Stdout => child.read_stdout(&mut self.buffer),
            Source::Stderr => child.read_stderr(&mut self.buffer),
            Source::End => self.finish_child(id),
        }
    }

    fn look_without_pidfd(&mut self) {
        let lives = |child: &Running| child.pidfd.is_some() || child.exit.is_some();
        let unwatched = self.children.iter().filter(|(_, child)| !lives(child));
        let ended: Vec<ChildId> = unwatched
            .filter(|(_, child)| child.has_ended())
            .map(|(&id, _)| id)
            .collect();
        for id in ended {
            self.finish_child(id);
        }
    }

    /// The leader has ended: ends its group, takes it back from the watchdog, reaps it. In this
    /// order, or a signal could reach a stranger.
    fn finish_child(&mut self, id: ChildId) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        if self.buffer.is_empty() {
            self.buffer = vec![0; READ_BYTES];
        }
        child.bury(&mut self.buffer);
        self.guard.unregister(child.group);
        child.reap();
    }

    /// What the child printed since the last call, to be taken after every [`Reactor::wait`]: a
    /// child is read from only until 1 MiB lies here.
    pub fn take_stdout(&mut self, id: ChildId) -> Vec<u8> {
        self.children
            .get_mut(&id)
            .map(Running::take_printed)
            .unwrap_or_default()
    }

    /// How the child ended, once; `None` while it lives. Take its stdout before.
    pub fn take_exit(&mut self, id: ChildId) -> Option<Exit> {
        let exit = self.children.get_mut(&id)?.exit.take()?;
        self.children.remove(&id);
        Some(exit)
    }

    /// Ends a child: TERM to its group now, KILL after `grace`. It is still to be taken by
    /// [`Reactor::take_exit`]. A second call can only shorten the grace.
    pub fn stop(&mut self, id: ChildId, grace: Duration) {
        if let Some(child) = self
            .children
            .get_mut(&id)
            .filter(|child| child.exit.is_none())
        {
            child.stop(grace);
        }
    }

    /// The process id of a child, which is also the number of its group.
    pub fn pid(&self, id: ChildId) -> Option<Pid> {
        self.children.get(&id).map(|child| child.group)
    }

    /// The process id of the watchdog, if it stands.
    pub fn watchdog_pid(&self) -> Option<u32> {
        self.guard.watchdog_pid()
    }

    /// Kills what still runs. The first reactor of a run also ends the watchdog and waits for it, so
    /// that the run lock is free once the caller has closed its own; no other reactor of the run
    /// starts anything after that, and what one of them has left is killed as well. Dropping the
    /// reactor does the same.
    pub fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let ids: Vec<ChildId> = self.children.keys().copied().collect();
        for &id in &ids {
            self.stop(id, Duration::ZERO);
        }
        while self.children.values().any(|child| child.exit.is_none()) {
            if let Err(error) = self.wait(monotonic() + Duration::from_secs(1)) {
                log::warn!("cannot wait for the last children: {error}");
                break;
            }
            self.children.retain(|_, child| child.exit.is_none());
        }
        if self.is_first {
            self.guard.finish();
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Which end of a child has something.
#[derive(Debug, Clone, Copy)]
enum Source {
    Stdin,
    Stdout,
    Stderr,
    End,
}
