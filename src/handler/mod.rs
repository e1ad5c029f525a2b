//! What firing an event means: attempts go in, verdicts come out.
//!
//! `command` and `http` attempts run beside the runner and are collected from the [`Reactor`];
//! effects run inside the ack transaction: those of [`sql`] and [`mediawiki_job`].
//!
//! [`Reactor`]: crate::spawn::Reactor

use std::time::{Duration, Instant};

use crate::event::{Event, EventId};
use crate::spawn::Reactor;

pub mod command;
pub mod http;
pub mod mediawiki_job;
mod places;
pub mod sql;

/// What an attempt came to. A failed attempt is data, never an `Err`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It worked.
    Done,
    /// It ran and said that it failed.
    Failed {
        /// Up to [`crate::event::MAX_ERROR_BYTES`] for a person.
        error: String,
        /// The handler's own wish for the delay before the next attempt.
        retry_after: Option<Duration>,
    },
    /// It never started (no such program, connection refused): certainly without effect.
    NotStarted {
        /// As above.
        error: String,
    },
    /// It timed out, was killed by us, or its answer was lost: the effect may have happened.
    Lost {
        /// As above.
        error: String,
    },
    /// "Try later" (exit 75, Retry-After): not a failure, counted as a deferral.
    Later {
        /// As above.
        error: String,
        /// The handler's own wish for the delay.
        retry_after: Option<Duration>,
    },
    /// "Give up now" (exit 65, `"dead": true`).
    GiveUp {
        /// As above.
        error: String,
    },
    /// The run's own shutdown killed it before it could end.
    Interrupted {
        /// As above.
        error: String,
    },
}

impl Verdict {
    /// It ran and failed, without a wish for when to try again.
    pub fn failed(error: impl Into<String>) -> Self {
        Self::Failed {
            error: error.into(),
            retry_after: None,
        }
    }
}

/// One attempt that came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Whose attempt it was.
    pub id: EventId,
    /// When it was started.
    pub started: Instant,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub verdict: Verdict,
}

/// A handler of one type whose attempts run beside the runner.
pub trait Handler {
    /// How many attempts may be started now. A batch handler that is busy answers 0.
    fn room(&self) -> usize;

    /// Whether it takes all that it has room for at once, as into one process; otherwise the lease
    /// is looked at before each attempt.
    fn starts_together(&self) -> bool {
        false
    }

    /// How many attempts more may be handed over before there is room for them, to begin as soon
    /// as there is.
    fn room_ahead(&self) -> usize {
        0
    }

    /// Starts these attempts (never more than [`Handler::room`]). What cannot be started is
    /// reported by the next [`Handler::collect`] as [`Verdict::NotStarted`]; this never fails.
    fn start(&mut self, events: Vec<Event>, reactor: &mut Reactor);

    /// Begins these (never more than [`Handler::room_ahead`]) in order as there is room for them,
    /// each before `begin_by` or not at all, and none after one that ended other than
    /// [`Verdict::Done`]: that is the runner's to look at first. What it must not begin any more is
    /// had by [`Handler::take_back`].
    fn start_ahead(&mut self, events: Vec<Event>, begin_by: Instant) {
        let _ = begin_by;
        debug_assert!(events.is_empty(), "nothing is taken ahead");
    }

    /// How many that were handed over ahead have not begun.
    fn waiting(&self) -> usize {
        0
    }

    /// What was handed over ahead and has not begun, in order: what must not begin any more, to
    /// be asked for after every [`Handler::collect`], or everything.
    fn take_back(&mut self, everything: bool) -> Vec<Event> {
        let _ = everything;
        Vec::new()
    }

    /// Called after every [`Reactor::wait`]: enforces timeouts, moves data, and appends what has
    /// ended to `ended`.
    fn collect(&mut self, reactor: &mut Reactor, ended: &mut Vec<Finished>);

    /// When [`Handler::collect`] must be called at the latest, though nothing happens.
    fn next_deadline(&self) -> Option<Instant>;

    /// How many attempts are under way.
    fn in_flight(&self) -> usize;

    /// The run is being stopped: end every attempt (TERM, then KILL after the type's grace);
    /// each is still reported by [`Handler::collect`], as [`Verdict::Interrupted`] unless it
    /// ended well by itself.
    fn interrupt(&mut self, reactor: &mut Reactor);
}
