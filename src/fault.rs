//! Faults on purpose: what the proofs of promises 1–4 need and no release carries.
//!
//! Everything here works behind the feature `fault-injection` only; without it a crash point is an
//! empty inlined function, the clock is not moved and the locks are what they are. With it the
//! environment of a run says what goes wrong:
//!
//! | variable | what it does |
//! | --- | --- |
//! | `PUNCTUAL_FAULT_POINT=NAME[:N]` | the N-th time (default 1) that the run passes this [`point`] … |
//! | `PUNCTUAL_FAULT_ACT=kill` or `stop` | … it gets SIGKILL (default) or SIGSTOP |
//! | `PUNCTUAL_FAULT_CLOCK=FILE` | moves the clock that decides what is due by as many seconds as stand in FILE, read anew each time |
//! | `PUNCTUAL_FAULT_LOCKS=open` | the file lock and the advisory lock say yes to everybody |

/// The crash points of a run, in the order in which a run passes them.
pub const POINTS: &[&str] = &[];

/// A crash point: named as in [`POINTS`].
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn point(_name: &'static str) {}

/// By how many seconds the wall clock is moved.
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn clock_shift() -> i64 {
    0
}

/// Whether the file lock and the advisory lock say yes to everybody.
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn locks_are_open() -> bool {
    false
}

#[cfg(feature = "fault-injection")]
pub use armed::{clock_shift, locks_are_open, point};

#[cfg(feature = "fault-injection")]
mod armed {
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    struct Fault {
        name: String,
        left: AtomicU32,
        signal: Signal,
    }

    static FAULT: LazyLock<Option<Fault>> = LazyLock::new(|| {
        let wanted = std::env::var("PUNCTUAL_FAULT_POINT").ok()?;
        let (name, nth) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        assert!(
            super::POINTS.contains(&name),
            "no crash point is named {name}"
        );
        let signal = match std::env::var("PUNCTUAL_FAULT_ACT").as_deref() {
            Ok("stop") => Signal::STOP,
            _ => Signal::KILL,
        };
        Some(Fault {
            name: name.to_owned(),
            left: AtomicU32::new(nth.parse().expect("PUNCTUAL_FAULT_POINT=NAME:N")),
            signal,
        })
    });

    static CLOCK: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("PUNCTUAL_FAULT_CLOCK").map(PathBuf::from));

    static LOCKS_ARE_OPEN: LazyLock<bool> =
        LazyLock::new(|| std::env::var("PUNCTUAL_FAULT_LOCKS").is_ok_and(|word| word == "open"));

    /// A crash point: named as in [`super::POINTS`].
    ///
    /// # Panics
    /// Where the fault asked for makes no sense.
    pub fn point(name: &'static str) {
        debug_assert!(super::POINTS.contains(&name), "{name} is not listed");
        if let Some(fault) = &*FAULT
            && fault.name == name
            && fault.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            let sent = kill_process(getpid(), fault.signal);
            sent.expect("a process may signal itself");
        }
    }

    /// By how many seconds the wall clock is moved.
    pub fn clock_shift() -> i64 {
        let text = CLOCK.as_ref().map(std::fs::read_to_string);
        let seconds = text.and_then(Result::ok).map(|text| text.trim().parse());
        seconds.and_then(Result::ok).unwrap_or(0)
    }

    /// Whether the file lock and the advisory lock say yes to everybody.
    pub fn locks_are_open() -> bool {
        *LOCKS_ARE_OPEN
    }
}
