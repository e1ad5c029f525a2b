//! One running child: its pipes, its process group, and how it came to its end.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::process::{self, ExitStatus};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, pidfd_open,
    waitid,
};

use crate::clock::monotonic;

/// How much of a child's error output is kept: the end of it, in bytes.
pub const STDERR_KEPT: usize = 2048;
/// The most that is read from one pipe in one round, so that a flood starves nobody; also the
/// most that a pipe can hold when its child has ended (pipe-max-size of a plain user).
const ROUND_BYTES: usize = 1 << 20;
/// How long a child may take to be gone after KILL; longer, and it hangs in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How a child ended.
#[derive(Debug)]
pub struct Exit {
    /// `None`: it could not be killed (it hangs in the kernel, or belongs to another user).
    pub status: Option<ExitStatus>,
    /// The last [`STDERR_KEPT`] bytes it wrote to stderr.
    pub stderr: Vec<u8>,
    /// When its end was noticed.
    pub ended: Instant,
}

/// What is still to be written to a child.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) pipe: PipeWriter,
    bytes: Vec<u8>,
    sent: usize,
}

impl Feed {
    /// A pipe for `bytes`, already holding as much as it can, so that a small input needs no
    /// further look. No pipe for an empty input.
    pub(super) fn fill(bytes: Vec<u8>) -> io::Result<(Option<PipeReader>, Option<Self>)> {
        if bytes.is_empty() {
            return Ok((None, None));
        }
        let (reader, pipe) = io::pipe()?;
        // Of this end only: the child's own end stays as programs expect it.
        ioctl_fionbio(&pipe, true)?;
        let mut feed = Self {
            pipe,
            bytes,
            sent: 0,
        };
        let is_done = feed.pump();
        Ok((Some(reader), (!is_done).then_some(feed)))
    }

    /// Writes what fits. True when nothing is left to do, also because nobody reads any more: a
    /// handler need not read its input.
    fn pump(&mut self) -> bool {
        while self.sent < self.bytes.len() {
            match self.pipe.write(&self.bytes[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
        true
    }
}

#[derive(Debug, Clone, Copy)]
enum Stopping {
    No,
    KillAt(Instant),
    GiveUpAt(Instant),
}

/// A child that was started and not yet handed back.
#[derive(Debug)]
pub(super) struct Running {
    process: process::Child,
    pub(super) group: Pid,
    /// `None`: this kernel has none (before 5.3), or no descriptor was left.
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) feed: Option<Feed>,
    pub(super) stdout: Option<PipeReader>,
    printed: Vec<u8>,
    pub(super) stderr: Option<PipeReader>,
    complaint: Vec<u8>,
    stopping: Stopping,
    pub(super) exit: Option<Exit>,
}

impl Running {
    pub(super) fn new(
        process: process::Child,
        use_pidfd: bool,
        feed: Option<Feed>,
        stdout: Option<PipeReader>,
        stderr: PipeReader,
    ) -> Self {
        let group = Pid::from_child(&process);
        let pidfd = use_pidfd
            .then(|| pidfd_open(group, PidfdFlags::empty()).ok())
            .flatten();
        Self {
            process,
            group,
            pidfd,
            feed,
            stdout,
            printed: Vec::new(),
            stderr: Some(stderr),
            complaint: Vec::new(),
            stopping: Stopping::No,
            exit: None,
        }
    }

    /// Writes to it what fits.
    pub(super) fn write(&mut self) {
        if self.feed.as_mut().is_some_and(Feed::pump) {
            self.feed = None;
        }
    }

    /// Reads what it has printed.
    pub(super) fn read_stdout(&mut self, buffer: &mut [u8]) {
        let printed = &mut self.printed;
        read_round(&mut self.stdout, buffer, |bytes| {
            printed.extend_from_slice(bytes);
        });
    }

    /// Reads what it has complained about.
    pub(super) fn read_stderr(&mut self, buffer: &mut [u8]) {
        let complaint = &mut self.complaint;
        read_round(&mut self.stderr, buffer, |bytes| keep_end(complaint, bytes));
    }

    /// What was printed since the last call.
    pub(super) fn take_printed(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.printed)
    }

    /// Whether so much lies unread here that the pipe is left to fill up.
    pub(super) fn is_full(&self) -> bool {
        self.printed.len() >= ROUND_BYTES
    }

    /// Whether it has ended, for kernels without pidfd. It is not reaped by this.
    pub(super) fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.group), options), Ok(Some(_)))
    }

    /// TERM to the whole group now, KILL after `grace`. A second call can only shorten the grace.
    pub(super) fn stop(&mut self, grace: Duration) {
        let now = monotonic();
        if matches!(self.stopping, Stopping::No) {
            self.signal(Signal::TERM);
            self.signal(Signal::CONT); // a stopped process would not notice
        }
        let wish = now.checked_add(grace);
        self.stopping = match (self.stopping, wish) {
            (Stopping::No, Some(at)) => Stopping::KillAt(at),
            (Stopping::KillAt(old), Some(at)) => Stopping::KillAt(old.min(at)),
            (unchanged, _) => unchanged,
        };
        self.carry_on_stopping(now);
    }

    /// When [`Running::carry_on_stopping`] has something to do.
    pub(super) fn stop_deadline(&self) -> Option<Instant> {
        match self.stopping {
            Stopping::No => None,
            Stopping::KillAt(at) | Stopping::GiveUpAt(at) => Some(at),
        }
    }

    /// KILL once the grace is over. A child that survives even that is given up: it keeps its
    /// registration, so that the watchdog tries again and holds the run lock meanwhile.
    pub(super) fn carry_on_stopping(&mut self, now: Instant) {
        match self.stopping {
            Stopping::KillAt(at) if now >= at => {
                self.signal(Signal::KILL);
                self.stopping = Stopping::GiveUpAt(now + KILL_PATIENCE);
            }
            Stopping::GiveUpAt(at) if now >= at && self.exit.is_none() && !self.has_ended() => {
                self.set_exit(None, now);
            }
            _ => {}
        }
    }

    /// To be called when the leader has ended and is not reaped, which keeps the number of its
    /// group reserved: kills what it left in the background and reads what lies in the pipes,
    /// without waiting for whoever else may hold them.
    pub(super) fn bury(&mut self, buffer: &mut [u8]) {
        self.signal(Signal::KILL);
        self.read_stdout(buffer);
        self.read_stderr(buffer);
    }

    /// Reaps the leader; its group number is free after that.
    pub(super) fn reap(&mut self) {
        let status = self.process.wait().ok();
        self.set_exit(status, monotonic());
    }

    fn set_exit(&mut self, status: Option<ExitStatus>, ended: Instant) {
        self.feed = None;
        self.stdout = None;
        self.stderr = None;
        self.pidfd = None;
        let stderr = std::mem::take(&mut self.complaint);
        let start = stderr.len().saturating_sub(STDERR_KEPT);
        let stderr = stderr[start..].to_vec();
        self.exit = Some(Exit {
            status,
            stderr,
            ended,
        });
    }

    /// Fails only for members that are another user's (EPERM); nothing can be done then.
    fn signal(&self, signal: Signal) {
        if kill_process_group(self.group, signal) == Err(Errno::SRCH) {
            // The leader has moved to another group. It is not reaped, so it is still the one.
            let _ = kill_process(self.group, signal);
        }
    }
}

/// Reads until the pipe is empty or a round is over; closes it at its end.
fn read_round(pipe: &mut Option<PipeReader>, buffer: &mut [u8], mut take: impl FnMut(&[u8])) {
    let mut total = 0;
    while let Some(reader) = pipe.as_mut().filter(|_| total < ROUND_BYTES) {
        match reader.read(buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => {
                take(&buffer[..count]);
                total += count;
                if count < buffer.len() {
                    return; // most likely empty: the next poll tells
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => *pipe = None,
        }
    }
}

/// Appends `bytes`, keeping at least the last [`STDERR_KEPT`] and at most twice that.
fn keep_end(kept: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() >= STDERR_KEPT {
        kept.clear();
    }
    let new = &bytes[bytes.len().saturating_sub(STDERR_KEPT)..];
    if kept.len() + new.len() > 2 * STDERR_KEPT {
        kept.drain(..kept.len() + new.len() - STDERR_KEPT);
    }
    kept.extend_from_slice(new);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::path::Path;

    use super::*;
    use crate::spawn::CommandSpec;

    #[test]
    fn the_end_of_a_long_complaint_is_kept() {
        let all: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        for size in [1, 7, 2047, 2048, 2049, 65536] {
            let mut kept = Vec::new();
            for chunk in all.chunks(size) {
                keep_end(&mut kept, chunk);
                assert!(kept.len() <= 2 * STDERR_KEPT);
            }
            assert!(kept.len() >= STDERR_KEPT);
            assert!(all.ends_with(&kept));
        }
    }

    #[test]
    fn a_child_that_survives_even_kill_is_given_up() {
        let argv = ["sleep", "600"].map(str::to_owned);
        let program = Path::new("/bin/sleep");
        let mut spec = CommandSpec::new(program, &argv, Path::new("/"), &BTreeMap::new()).unwrap();
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap();
        let (stderr, end) = io::pipe().unwrap();
        let process = spec.start(None, None, end, &null).unwrap();
        let mut child = Running::new(process, true, None, None, stderr);
        let now = monotonic();
        child.stopping = Stopping::GiveUpAt(now);
        child.carry_on_stopping(now);
        assert!(
            child
                .exit
                .as_ref()
                .is_some_and(|exit| exit.status.is_none())
        );
        child.signal(Signal::KILL);
        child.reap();
        assert!(child.exit.is_some_and(|exit| exit.status.is_some()));
    }

    #[test]
    fn an_input_that_fits_is_written_before_anybody_reads() {
        let (reader, feed) = Feed::fill(b"payload".to_vec()).unwrap();
        assert!(feed.is_none());
        let mut text = String::new();
        reader.unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "payload");
    }

    #[test]
    fn an_input_that_does_not_fit_waits_for_its_reader() {
        let (reader, feed) = Feed::fill(vec![b'x'; 1 << 20]).unwrap();
        let mut feed = feed.unwrap();
        assert!(feed.sent > 0);
        let mut buffer = vec![0; 64 * 1024];
        let mut reader = reader.unwrap();
        let mut total = 0;
        while !feed.pump() {
            total += reader.read(&mut buffer).unwrap();
        }
        drop(feed);
        total += reader.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(total, 1 << 20);
    }

    #[test]
    fn a_reader_that_goes_away_ends_the_writing() {
        let (reader, feed) = Feed::fill(vec![b'x'; 1 << 20]).unwrap();
        drop(reader);
        assert!(feed.unwrap().pump());
    }
}
