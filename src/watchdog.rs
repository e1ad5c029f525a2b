//! The watchdog: when a run is killed, it kills what the run had started, and only then lets go
//! of the run lock (DESIGN §6, RULINGS 27 and 28).
//!
//! It is this binary again, as the hidden command [`SUBCOMMAND`], in a session of its own. Its
//! stdin is a pipe from the run, which writes `+PGID` after a child was started and `-PGID` before
//! its leader is reaped; its stdout is a duplicate of the locked run-lock file, which keeps the
//! lock alive; its stderr says that it is ready. At the pipe's end, however the run came to it, it
//! sends KILL to every group still registered, waits until they are gone, and ends. A free lock
//! thus means that the children are dead too.
//!
//! A run may be killed between starting a child and writing its line. So every child carries the
//! run's mark in its environment ([`MARK`]), and where the run did not say that it ends in order, the
//! groups of marked processes are killed as well. None can be missed: until a child is a program of
//! its own, with its environment, it holds the pipe open.
//!
//! What it cannot do: a child that calls `setsid` leaves its group and its session, and lives on. It
//! must print nothing: its stdout is the lock file.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, setsid, test_kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::clock::monotonic;
use crate::token;

/// The hidden command: the first argument that makes the binary call [`main`].
pub const SUBCOMMAND: &str = "__watchdog";

/// The variable in the environment of every child: [`token::random_hex`], another for each run.
pub const MARK: &str = "PUNCTUAL_RUN_MARK";

/// The line of a run that ends in order: all its children are gone.
const IN_ORDER: &[u8] = b".";
/// What it says on stderr once it is ready; anything else is an error message.
const READY: u8 = b'R';
/// How long it may take to be ready.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How often it empties the pipe while the run lives; 64 KiB hold some 9,000 lines.
const ROUND: Duration = Duration::from_millis(250);
/// How long killed groups may take to be gone, e.g. from a write to a file server that hangs.
const KILL_PATIENCE: Duration = Duration::from_secs(30);
/// How long a process without an environment is looked at again: it may be about to get one.
const EXEC_PATIENCE: Duration = Duration::from_millis(200);
/// How often it looks whether they are gone.
const KILL_ROUND: Duration = Duration::from_millis(2);

/// The run's end of the pipe.
#[derive(Debug)]
pub struct Watchdog {
    process: Child,
    pipe: PipeWriter,
}

impl Watchdog {
    /// Starts `program` as the watchdog of the run whose children carry `mark`, and returns once it
    /// is ready. `run_lock` must be locked:
    /// the lock is then held until both this process and the watchdog have closed it, so nobody
    /// may unlock it explicitly.
    #[expect(
        clippy::disallowed_methods,
        reason = "one of the two places that start processes"
    )]
    pub fn start(program: &Path, run_lock: &File, mark: &str) -> io::Result<Self> {
        let (lines, pipe) = io::pipe()?;
        let (answer, stderr) = io::pipe()?;
        let process = Command::new(program)
            .args([SUBCOMMAND, mark])
            .env_clear() // the run's environment may hold a password
            .current_dir("/")
            .stdin(lines)
            .stdout(run_lock.try_clone()?)
            .stderr(stderr)
            .spawn()?;
        let mut watchdog = Self { process, pipe };
        if let Err(error) = wait_until_ready(answer) {
            watchdog.process.kill()?;
            watchdog.process.wait()?;
            return Err(error);
        }
        Ok(watchdog)
    }

    /// From now on this group is killed when the run ends without having taken it back.
    pub fn register(&mut self, group: Pid) -> io::Result<()> {
        self.tell('+', group)
    }

    /// Takes a group back. Call it before the leader is reaped: afterwards the number may belong
    /// to somebody else.
    pub fn unregister(&mut self, group: Pid) -> io::Result<()> {
        self.tell('-', group)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it and waits, so that the run lock is free when this process is gone. There must be no
    /// child that it was not told of.
    pub fn finish(mut self) -> io::Result<()> {
        // Where it was killed meanwhile, nobody reads it.
        let _ = self.pipe.write_all(&[IN_ORDER, b"\n"].concat());
        self.abandon()
    }

    /// The same where there may be such children: it looks for them, as when the run is killed.
    pub fn abandon(self) -> io::Result<()> {
        let Self { mut process, pipe } = self;
        drop(pipe);
        process.wait().map(drop)
    }

    fn tell(&mut self, sign: char, group: Pid) -> io::Result<()> {
        // One write of less than PIPE_BUF bytes is whole or not at all.
        self.pipe
            .write_all(format!("{sign}{}\n", group.as_raw_nonzero()).as_bytes())
    }
}

fn wait_until_ready(mut answer: PipeReader) -> io::Result<()> {
    let timeout = timespec(START_PATIENCE);
    let mut fds = [PollFd::new(&answer, PollFlags::IN)];
    let until = monotonic() + START_PATIENCE;
    while poll_or_interrupted(&mut fds, &timeout)? == 0 {
        if monotonic() >= until {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the watchdog is not ready",
            ));
        }
    }
    let mut first = [0];
    if answer.read(&mut first)? == 1 && first[0] == READY {
        return Ok(());
    }
    let mut message = first.to_vec();
    answer.take(1024).read_to_end(&mut message)?;
    let message = String::from_utf8_lossy(&message);
    let message = message.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    Err(io::Error::other(format!(
        "the watchdog ended before it was ready: {message}"
    )))
}

/// What the hidden command does. To be called before anything else: before arguments are parsed,
/// logging is set up or a configuration is read.
pub fn main() -> ExitCode {
    match watch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Read by `Watchdog::start` if it still listens; nobody else can hear it.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn watch() -> io::Result<()> {
    let mut pipe = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    if FileType::from_raw_mode(rustix::fs::fstat(&pipe)?.st_mode) != FileType::Fifo {
        return Err(io::Error::other("this command is for punctual's own use"));
    }
    let family = Family::of_this_run()?;
    setsid()?;
    survive_signals()?;
    // Started through /proc/self/exe, `ps` would show it as `exe`. Cosmetic: it may fail.
    let _ = fs::write("/proc/self/comm", "punctual");
    io::stderr().write_all(&[READY])?;
    let left = follow(&mut pipe)?;
    kill_all(&left.groups);
    if !left.in_order {
        family.kill();
    }
    Ok(())
}

/// What a run leaves.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// The groups that are still registered.
    groups: BTreeSet<i32>,
    /// It has said that it ends in order.
    in_order: bool,
}

/// How the children of a run are known, registered or not.
struct Family {
    /// The entry in their environment.
    entry: Vec<u8>,
    /// The session of the run and its children; 0 where its leader is outside this container.
    session: i32,
    /// The run's own group, whoever else is in it; 0 as well.
    own: i32,
}

impl Family {
    /// The run's that started this process, before `setsid`.
    fn of_this_run() -> io::Result<Self> {
        let mark = std::env::args().nth(2).unwrap_or_default();
        if mark.len() < token::DIGITS {
            return Err(io::Error::other("this command is for punctual's own use"));
        }
        // Not by getsid(2): in a container both may be those of a process outside, which is 0 here.
        let (own, session) = living(&fs::read("/proc/self/stat")?)
            .ok_or_else(|| io::Error::other("/proc/self/stat is not as in proc(5)"))?;
        Ok(Self {
            entry: format!("{MARK}={mark}").into_bytes(),
            session,
            own,
        })
    }

    fn kill(&self) {
        let began = monotonic();
        loop {
            let (groups, unsure) = self.groups();
            let waited = monotonic().duration_since(began);
            let over = groups.is_empty() && (!unsure || waited >= EXEC_PATIENCE);
            if over || waited >= KILL_PATIENCE {
                return;
            }
            for group in groups {
                kill_again(group);
            }
            let _ = poll_or_interrupted(&mut [], &timespec(KILL_ROUND));
        }
    }

    /// The groups with a marked process, and whether some process of the session shows no environment:
    /// in the middle of becoming a program it has closed the pipe and cannot be told yet.
    fn groups(&self) -> (BTreeSet<i32>, bool) {
        let mut unsure = false;
        let of_it = processes().into_iter().flatten().filter(|process| {
            process.session == self.session && process.group != self.own && process.group > 1
        });
        let groups = of_it.filter_map(|process| {
            let environment = fs::read(process.directory.join("environ")).ok()?;
            unsure |= environment.is_empty();
            let mut entries = environment.split(|&byte| byte == 0);
            let is_marked = entries.any(|entry| entry == self.entry);
            is_marked.then_some(process.group)
        });
        (groups.collect(), unsure)
    }
}

/// A signal to the run, its group or its terminal is the run's business. Handlers that do nothing
/// stand for ignoring, which cannot be had in safe Rust.
fn survive_signals() -> io::Result<()> {
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

/// Reads the pipe to its end: what the run leaves then.
fn follow(pipe: &mut File) -> io::Result<Left> {
    let mut left = Left::default();
    let mut unread = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // Woken by the pipe's end only: lines keep in the pipe, even when their writer is dead,
        // and a wake-up for each would slow the spawning down.
        let mut end = [PollFd::new(&*pipe, PollFlags::empty())];
        poll_or_interrupted(&mut end, &timespec(ROUND))?;
        while is_readable(pipe)? {
            let count = pipe.read(&mut buffer)?;
            if count == 0 {
                return Ok(left);
            }
            unread.extend_from_slice(&buffer[..count]);
            take_lines(&mut unread, &mut left);
        }
    }
}

/// Whether a read would not block: there are lines, or the end.
fn is_readable(pipe: &File) -> io::Result<bool> {
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    Ok(poll_or_interrupted(&mut fds, &timespec(Duration::ZERO))? > 0)
}

/// Applies every whole line of `unread` and leaves the rest.
fn take_lines(unread: &mut Vec<u8>, left: &mut Left) {
    let Some(last) = unread.iter().rposition(|&byte| byte == b'\n') else {
        return;
    };
    for line in unread[..last].split(|&byte| byte == b'\n') {
        match parse(line) {
            Some(('+', group)) => left.groups.insert(group),
            Some((_, group)) => left.groups.remove(&group),
            None => false,
        };
        left.in_order |= line == IN_ORDER;
    }
    unread.drain(..=last);
}

/// A sign and a group. Never 0 or 1: signals to those would reach this process or everybody.
fn parse(line: &[u8]) -> Option<(char, i32)> {
    let text = std::str::from_utf8(line).ok()?;
    let sign = text.chars().next().filter(|c| matches!(c, '+' | '-'))?;
    let digits = text[1..].bytes().all(|byte| byte.is_ascii_digit());
    let group = text[1..]
        .parse()
        .ok()
        .filter(|&group| digits && group > 1)?;
    Some((sign, group))
}

fn kill_all(groups: &BTreeSet<i32>) {
    let until = monotonic() + KILL_PATIENCE;
    let mut left = groups.clone();
    loop {
        left.retain(|&group| kill_again(group));
        if left.is_empty() || !any_alive(&left) || monotonic() >= until {
            return;
        }
        let _ = poll_or_interrupted(&mut [], &timespec(KILL_ROUND));
    }
}

/// Kills a group; false once it has no member left, not even a dead one.
fn kill_again(group: i32) -> bool {
    let Some(group) = Pid::from_raw(group) else {
        return false;
    };
    let _ = kill_process_group(group, Signal::KILL);
    test_kill_process_group(group) != Err(Errno::SRCH)
}

/// Whether any process of these groups still runs, or that cannot be told. The dead stay visible
/// until their parent reaps them, which in some containers is never.
fn any_alive(groups: &BTreeSet<i32>) -> bool {
    processes().is_none_or(|mut all| all.any(|process| groups.contains(&process.group)))
}

/// A living process.
struct Process {
    /// Its directory in `/proc`.
    directory: PathBuf,
    group: i32,
    session: i32,
}

/// All living processes that can be seen; `None` where `/proc` cannot be read.
fn processes() -> Option<impl Iterator<Item = Process>> {
    let entries = fs::read_dir("/proc").ok()?;
    Some(entries.flatten().filter_map(|entry| {
        let directory = entry.path();
        let stat = fs::read(directory.join("stat")).ok()?;
        let (group, session) = living(&stat)?;
        Some(Process {
            directory,
            group,
            session,
        })
    }))
}

/// The process group and the session of a line of `/proc/PID/stat`, unless the process is dead
/// (proc(5)).
fn living(stat: &[u8]) -> Option<(i32, i32)> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[name_end + 1..])
        .ok()?
        .split_ascii_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some((group, session))
}

/// How many are ready; 0 also when a signal came in between.
fn poll_or_interrupted(fds: &mut [PollFd<'_>], timeout: &Timespec) -> io::Result<usize> {
    match poll(fds, Some(timeout)) {
        Err(Errno::INTR) => Ok(0),
        other => Ok(other?),
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_sign_and_a_group() {
        assert_eq!(parse(b"+123"), Some(('+', 123)));
        assert_eq!(parse(b"-2147483647"), Some(('-', i32::MAX)));
    }

    #[test]
    fn a_line_that_would_reach_everybody_is_refused() {
        for line in [
            "",
            "+",
            "-",
            "+0",
            "-1",
            "+1",
            "+-5",
            "++5",
            "5",
            "+2147483648",
            "+5 ",
            "é5",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn lines_may_arrive_in_pieces() {
        let mut left = Left::default();
        let mut unread = b"+10\n+11\n+1".to_vec();
        take_lines(&mut unread, &mut left);
        assert_eq!(unread, b"+1");
        unread.extend_from_slice(b"2\n-10\n");
        take_lines(&mut unread, &mut left);
        assert_eq!(unread, b"");
        assert_eq!(left.groups, BTreeSet::from([11, 12]));
        assert!(!left.in_order);
        take_lines(&mut b"-11\n-12\n.\n".to_vec(), &mut left);
        let groups = BTreeSet::new();
        assert_eq!(
            left,
            Left {
                groups,
                in_order: true
            }
        );
    }

    #[test]
    fn a_process_name_with_brackets_does_not_mislead() {
        assert_eq!(living(b"7 (a) Z (b) S 1 42 7 0"), Some((42, 7)));
        assert_eq!(living(b"7 (a) S 1) Z 1 42 7 0"), None);
        assert_eq!(living(b"7 (a"), None);
    }

    #[test]
    fn who_is_alive_is_found_with_group_and_session() {
        let (group, session) = living(&fs::read("/proc/self/stat").unwrap()).unwrap();
        let own = Path::new("/proc").join(std::process::id().to_string());
        let found = processes().unwrap().find(|it| it.directory == own);
        let found = found.expect("this process");
        assert_eq!((found.group, found.session), (group, session));
        assert!(any_alive(&BTreeSet::from([group])));
        // Process ids end at 4,194,304 (proc(5)).
        assert!(!any_alive(&BTreeSet::from([i32::MAX])));
    }

    #[test]
    fn killing_no_groups_takes_no_time() {
        kill_all(&BTreeSet::new());
    }
}
