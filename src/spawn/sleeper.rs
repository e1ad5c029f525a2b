//! Waiting that can be ended: by a signal, or from another thread.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::clock::monotonic;

/// Ends the current or the next wait of its [`Sleeper`], from any thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<UnixStream>);

impl Waker {
    /// Wakes the sleeper. Many calls may make one wake-up.
    pub fn wake(&self) {
        // A full buffer wakes as well; a sleeper that is gone need not be woken.
        let _ = (&*self.0).write(&[1]);
    }

    /// A stream that wakes the sleeper when a byte is written: for
    /// `signal_hook::low_level::pipe::register`.
    pub fn stream(&self) -> io::Result<UnixStream> {
        self.0.try_clone()
    }
}

/// What a thread waits with.
#[derive(Debug)]
pub struct Sleeper {
    waker: Waker,
    woken: UnixStream,
}

impl Sleeper {
    /// Awake.
    pub fn new() -> io::Result<Self> {
        let (woken, waker) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let waker = Waker(Arc::new(waker));
        Ok(Self { waker, woken })
    }

    /// What wakes it.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits until `until` or until woken; may return early.
    pub fn sleep(&self, until: Instant) -> io::Result<()> {
        let patience = until.saturating_duration_since(monotonic());
        let mut fds = [PollFd::new(&self.woken, PollFlags::IN)];
        poll_for(&mut fds, patience)?;
        if !fds[0].revents().is_empty() {
            self.empty();
        }
        Ok(())
    }

    /// Takes note of having been woken: what is polled for is there until then.
    pub(super) fn empty(&self) {
        let mut bytes = [0; 256];
        loop {
            match (&self.woken).read(&mut bytes) {
                Ok(count) if count == bytes.len() => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }
}

impl AsFd for Sleeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }
}

/// Polls for so long at most. False: a signal came between.
pub(super) fn poll_for(fds: &mut [PollFd<'_>], patience: Duration) -> io::Result<bool> {
    let limit = Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    };
    match poll(fds, Some(&Timespec::try_from(patience).unwrap_or(limit))) {
        Ok(_) => Ok(true),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
