//! Faults on purpose: what the proofs of promises 1–4 need and no release carries.
//!
//! Everything here works behind the feature `fault-injection` only; without it a crash point is an
//! empty inlined function, the clock is not moved and the locks are what they are. With it the
//! environment of a run says what goes wrong:
//!
//! | variable | what it does |
//! | --- | --- |
//! | `PUNCTUAL_FAULT_POINT=NAME[:N][=ACT],…` | the N-th time (default 1) that the run passes this [`point`] … |
//! | `PUNCTUAL_FAULT_ACT=kill` or `stop` | … it gets SIGKILL (default) or SIGSTOP, unless ACT says otherwise; |
//! | `PUNCTUAL_FAULT_HOLD=DIR` | where ACT is `hold`, the run makes `DIR/NAME:N.held`, in which stand the points passed so far with their numbers (kept current), and waits there until `DIR/NAME:N.go` exists |
//! | `PUNCTUAL_FAULT_CLOCK=FILE` | moves the clock that decides what is due by as many seconds as stand in FILE, read anew each time |
//! | `PUNCTUAL_FAULT_PATIENCE=MILLIS` | a silent MySQL server is given up after that time |
//! | `PUNCTUAL_FAULT_LOCKS=open` | the file lock and the advisory lock say yes to everybody |

#[cfg(not(feature = "fault-injection"))]
use std::time::Duration;

/// The crash points of a run, more or less in the order in which a run passes them: the name, and
/// where it is.
pub const POINTS: &[(&str, &str)] = &[
    ("lock.file", "the file lock is held"),
    (
        "lock.advisory",
        "the advisory lock is held (SQLite has none)",
    ),
    ("peek.done", "what is due has been looked at"),
    (
        "lease.commit",
        "lease taken and run row written, not committed",
    ),
    ("lease.taken", "lease and run row committed"),
    ("recover.begin", "recovery begins"),
    (
        "recover.settled",
        "what a dead run held is committed as ready, `unknown` or `dead`",
    ),
    ("recover.closed", "the row of a dead run is closed"),
    ("recover.done", "recovery is over"),
    (
        "schedules.commit",
        "the schedules of the configuration are written, not committed",
    ),
    (
        "schedules.committed",
        "the schedules of the configuration are in the tables",
    ),
    ("plan.read", "the slots that have come are known"),
    (
        "plan.commit",
        "slots have become events, watermarks are moved, not committed",
    ),
    (
        "plan.committed",
        "slots have become events, watermarks are moved",
    ),
    ("sources.page", "a page of a source has been read"),
    (
        "sources.commit",
        "what a page says is derived, the cursor moved, not committed",
    ),
    (
        "sources.committed",
        "what a page says is derived, the cursor moved",
    ),
    (
        "sources.end",
        "a source has been looked at as a whole, and that is committed",
    ),
    ("watchdog.armed", "the watchdog stands, nothing is claimed"),
    ("lanes.planned", "the types that may fire are known"),
    ("claim.selected", "the ids of a wave are chosen"),
    ("claim.commit", "rows marked as running, not committed"),
    ("claim.committed", "claim committed, nothing of it started"),
    (
        "trace.committed",
        "the trace of a wave of effects is committed",
    ),
    (
        "effect.before",
        "within the transaction, before the statements of one event, or of a wave of jobs",
    ),
    ("effect.after", "within the transaction, after them"),
    ("fire.before", "before a process or a request is started"),
    (
        "fire.unguarded",
        "process started, the watchdog does not know of it yet",
    ),
    ("fire.after", "process or request started"),
    ("attempt.ended", "an attempt has ended, its ack waits"),
    ("ack.history", "rows copied to history, not committed"),
    (
        "ack.deleted",
        "rows copied to history and deleted, not committed",
    ),
    ("ack.commit", "all acks of a group written, not committed"),
    ("ack.committed", "acks committed, nothing more done"),
    (
        "wave.commit",
        "effects and their records written, not committed",
    ),
    ("wave.committed", "effects and their records committed"),
    ("release.begin", "about to give back what was not started"),
    ("release.rows", "given back, not committed"),
    ("release.committed", "given back and committed"),
    ("end.waited", "nothing is under way any more"),
    ("end.recorded", "all that ended is recorded"),
    (
        "backfill.commit",
        "a chunk of a backfill is written, not committed",
    ),
    ("backfill.committed", "a chunk of a backfill is written"),
    ("prune.chunk", "a chunk of old rows is gone"),
    ("prune.done", "old rows are gone and that is noted"),
    (
        "close.commit",
        "run row closed and lease given back, not committed",
    ),
    ("close.committed", "run row closed and lease given back"),
    (
        "lock.drop",
        "the watchdog is gone, the file lock is still held",
    ),
];

/// A crash point: named as in [`POINTS`].
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn point(_name: &'static str) {}

/// Counts among the points how often a thread beside the run came to a place. Nothing can be made to
/// happen there.
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn beside(_name: &'static str) {}

/// By how many seconds the wall clock is moved.
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn clock_shift() -> i64 {
    0
}

/// How long a server may be silent, where a run would wait for `usual`.
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn patience(usual: Duration) -> Duration {
    usual
}

/// Whether the file lock and the advisory lock say yes to everybody.
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn locks_are_open() -> bool {
    false
}

#[cfg(feature = "fault-injection")]
pub use armed::{beside, clock_shift, locks_are_open, patience, point};

#[cfg(feature = "fault-injection")]
mod armed {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};
    use std::sync::{LazyLock, Mutex};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    #[derive(Clone, Copy)]
    enum Act {
        Send(Signal),
        Hold,
    }

    struct Fault {
        name: String,
        nth: u32,
        act: Act,
    }

    static FAULTS: LazyLock<Vec<Fault>> = LazyLock::new(|| {
        let wanted = std::env::var("PUNCTUAL_FAULT_POINT").unwrap_or_default();
        let usual = std::env::var("PUNCTUAL_FAULT_ACT").unwrap_or_else(|_| "kill".to_owned());
        let wanted = wanted.split(',').filter(|fault| !fault.is_empty());
        wanted.map(|fault| parse(fault, &usual)).collect()
    });

    /// How often each point was passed.
    static PASSED: Mutex<BTreeMap<&str, u32>> = Mutex::new(BTreeMap::new());

    static CLOCK: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("PUNCTUAL_FAULT_CLOCK").map(PathBuf::from));

    static LOCKS_ARE_OPEN: LazyLock<bool> =
        LazyLock::new(|| std::env::var("PUNCTUAL_FAULT_LOCKS").is_ok_and(|word| word == "open"));

    fn parse(fault: &str, usual: &str) -> Fault {
        let (place, act) = fault.split_once('=').unwrap_or((fault, usual));
        let (name, nth) = place.split_once(':').unwrap_or((place, "1"));
        assert!(is_listed(name), "no crash point is named {name}");
        Fault {
            name: name.to_owned(),
            nth: nth.parse().expect("PUNCTUAL_FAULT_POINT=NAME:N"),
            act: match act {
                "kill" => Act::Send(Signal::KILL),
                "stop" => Act::Send(Signal::STOP),
                "hold" => Act::Hold,
                other => panic!("a crash point cannot {other}"),
            },
        }
    }

    fn is_listed(name: &str) -> bool {
        super::POINTS.iter().any(|&(known, _)| known == name)
    }

    /// A crash point: named as in [`super::POINTS`].
    ///
    /// # Panics
    /// Where the fault asked for makes no sense.
    pub fn point(name: &'static str) {
        debug_assert!(is_listed(name), "{name} is not listed");
        if FAULTS.is_empty() {
            return;
        }
        let nth = pass(name);
        let here = |fault: &&Fault| fault.name == name && fault.nth == nth;
        for fault in FAULTS.iter().filter(here) {
            match fault.act {
                Act::Send(signal) => {
                    kill_process(getpid(), signal).expect("a process may signal itself");
                }
                Act::Hold => hold(name, nth),
            }
        }
    }

    /// Counts among the points how often a thread beside the run came to a place. Nothing can be
    /// made to happen there.
    pub fn beside(name: &'static str) {
        if !FAULTS.is_empty() {
            pass(name);
        }
    }

    fn pass(name: &'static str) -> u32 {
        let mut passed = PASSED.lock().expect("no panic while it is held");
        let count = passed.entry(name).or_default();
        *count += 1;
        *count
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "held at a crash point, in tests only"
    )]
    fn hold(name: &str, nth: u32) {
        let dir = std::env::var_os("PUNCTUAL_FAULT_HOLD").expect("PUNCTUAL_FAULT_HOLD=DIR");
        let file = |end: &str| Path::new(&dir).join(format!("{name}:{nth}.{end}"));
        let mut told = String::new();
        while !file("go").exists() {
            let lines = passed();
            if lines != told {
                // Under its name only once it is whole.
                std::fs::write(file("part"), &lines).expect("a directory to write to");
                std::fs::rename(file("part"), file("held")).expect("a file of ours");
                told = lines;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn passed() -> String {
        let passed = PASSED.lock().expect("no panic while it is held");
        let lines = passed.iter();
        let lines: Vec<String> = lines
            .map(|(name, count)| format!("{name} {count}\n"))
            .collect();
        lines.concat()
    }

    /// By how many seconds the wall clock is moved.
    pub fn clock_shift() -> i64 {
        let text = CLOCK.as_ref().map(std::fs::read_to_string);
        let seconds = text.and_then(Result::ok).map(|text| text.trim().parse());
        seconds.and_then(Result::ok).unwrap_or(0)
    }

    /// How long a server may be silent, where a run would wait for `usual`.
    pub fn patience(usual: Duration) -> Duration {
        let millis = std::env::var("PUNCTUAL_FAULT_PATIENCE").ok();
        let millis = millis.and_then(|text| text.parse().ok());
        millis.map_or(usual, Duration::from_millis)
    }

    /// Whether the file lock and the advisory lock say yes to everybody.
    pub fn locks_are_open() -> bool {
        *LOCKS_ARE_OPEN
    }
}
