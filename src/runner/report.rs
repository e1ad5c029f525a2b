//! What a run hands back: what it did, and why it ended.

use std::collections::BTreeMap;

use crate::clock::UnixSeconds;
use crate::db::DbError;
use crate::store::runs::Counts;

/// Why a run ended: `event_runs.stop` and `run --json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// There was nothing to do.
    Idle,
    /// Nothing that it may fire is left.
    Drained,
    /// The number of events is used up.
    MaxEvents,
    /// The time is used up.
    MaxTime,
    /// TERM, INT or HUP: the signal's number.
    Signal(i32),
    /// Another run is at work.
    Locked,
    /// Another run took over.
    Fenced,
    /// The connection to the database was lost.
    DatabaseLost,
    /// Nothing but sweeps is left, and replicas are too far behind for them.
    DatabaseLag,
}

impl Stop {
    /// The word in the tables and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Stop::Idle => "idle",
            Stop::Drained => "drained",
            Stop::MaxEvents => "max_events",
            Stop::MaxTime => "max_time",
            Stop::Signal(_) => "signal",
            Stop::Locked => "locked",
            Stop::Fenced => "fenced",
            Stop::DatabaseLost => "database_lost",
            Stop::DatabaseLag => "database_lag",
        }
    }
}

/// What a run came to: the object of `run --json`.
#[derive(Debug, Clone)]
pub struct Report {
    /// `None` for a run that had nothing to do or stepped aside.
    pub run_id: Option<i64>,
    /// As above.
    pub epoch: Option<i64>,
    /// By the clock that decides what is due.
    pub started_at: UnixSeconds,
    /// How far it looked.
    pub cutoff: UnixSeconds,
    /// By the same clock.
    pub finished_at: UnixSeconds,
    /// Why it ended.
    pub stop: Stop,
    /// What it did.
    pub counts: Counts,
    /// Batches.
    pub waves: i64,
    /// Due and left; `None` where it could not be counted.
    pub remaining_due: Option<i64>,
    /// What it did, per type.
    pub types: BTreeMap<String, Counts>,
    /// Events that went dead or unknown, for a line on stderr: the first of each type.
    pub failures: Vec<String>,
    /// Types that were left alone because what is configured for them does not work.
    pub misconfigured: Vec<String>,
    /// What is to be said of sources, though it is no failure.
    pub remarks: Vec<String>,
    /// What the database said when it was lost, or refused to go on.
    pub trouble: Option<DbError>,
}

impl Report {
    /// Of a run that fired nothing and holds nothing: it was idle, or stepped aside.
    pub(super) fn without_work(stop: Stop, now: UnixSeconds, cutoff: UnixSeconds) -> Self {
        Self {
            run_id: None,
            epoch: None,
            started_at: now,
            cutoff,
            finished_at: now,
            stop,
            counts: Counts::default(),
            waves: 0,
            remaining_due: None,
            types: BTreeMap::new(),
            failures: Vec::new(),
            misconfigured: Vec::new(),
            remarks: Vec::new(),
            trouble: None,
        }
    }
}
