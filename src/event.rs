//! The words of the tables as types: events, outcomes, epochs (DESIGN §3 and §4). No I/O.

use std::fmt;
use std::str::FromStr;

use crate::clock::UnixSeconds;

/// The longest type name, in bytes.
pub const MAX_TYPE_BYTES: usize = 64;
/// The longest unique key, in bytes.
pub const MAX_KEY_BYTES: usize = 191;
/// The largest payload, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// The longest error text kept, in bytes.
pub const MAX_ERROR_BYTES: usize = 2048;
/// Every priority, the most urgent first.
pub const PRIORITIES: [i8; 5] = [-2, -1, 0, 1, 2];

/// The `id` of an event; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub i64);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number a run holds while it has the lease; it only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One row of `scheduled_events`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `id`.
    pub id: EventId,
    /// `type`.
    pub type_name: String,
    /// `due_at`: of the next attempt.
    pub due_at: UnixSeconds,
    /// `first_due_at`: what `due_at` was before the first retry, or the first pass of a sweep.
    pub first_due_at: Option<UnixSeconds>,
    /// `payload`, untouched; empty for NULL.
    pub payload: Vec<u8>,
    /// `unique_key`, or `held_key` while running or swept.
    pub key: Option<Vec<u8>>,
    /// `priority`, −2 first.
    pub priority: i8,
    /// `expires_at`.
    pub expires_at: Option<UnixSeconds>,
    /// Failed tries.
    pub attempts: u32,
    /// Tries lost with a dying run.
    pub losses: u32,
    /// "Try later" answers.
    pub deferrals: u32,
    /// Of an event that a schedule made.
    pub slot: Option<Slot>,
}

/// The instant of a schedule that became an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// `slot_at`.
    pub at: UnixSeconds,
    /// How many slots the event stands for: itself, and those that were missed before it.
    pub slots: u64,
}

impl Event {
    /// The number of the attempt that starts now, counting from 1.
    pub fn attempt_number(&self) -> u32 {
        self.attempts + self.losses + 1
    }

    /// The instant that lateness, `max_late` and `PUNCTUAL_DUE_AT` count from.
    pub fn first_due(&self) -> UnixSeconds {
        self.first_due_at.unwrap_or(self.due_at)
    }

    /// All of it but what the handler alone needs.
    #[must_use]
    pub fn without_payload(&self) -> Self {
        Self {
            payload: Vec::new(),
            type_name: self.type_name.clone(),
            key: self.key.clone(),
            ..*self
        }
    }

    /// Whether this is the first time anybody tries it.
    pub fn is_first_attempt(&self) -> bool {
        self.attempts == 0 && self.losses == 0 && self.deferrals == 0
    }
}

/// What became of an event for good: `event_history.outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its handler succeeded.
    Done,
    /// Attempts, losses or deferrals used up, or given up.
    Dead,
    /// Expired before its first attempt, refused by its guard, or too late under `late = "skip"`.
    Skipped,
    /// Cancelled by hand, or superseded by a newer event with its key.
    Cancelled,
    /// Somebody deleted the row while it ran.
    Withdrawn,
    /// Started at most once, and nobody knows how it ended.
    Unknown,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 6] = [
        Outcome::Done,
        Outcome::Dead,
        Outcome::Skipped,
        Outcome::Cancelled,
        Outcome::Withdrawn,
        Outcome::Unknown,
    ];

    /// The word stored in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Dead => "dead",
            Outcome::Skipped => "skipped",
            Outcome::Cancelled => "cancelled",
            Outcome::Withdrawn => "withdrawn",
            Outcome::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Outcome {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Outcome::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
            .ok_or_else(|| format!("unknown outcome `{word}`"))
    }
}

/// Cuts `text` to at most `max` bytes at a character boundary, keeping the end: the last lines of
/// an error output tell most.
pub fn keep_tail(text: &str, max: usize) -> &str {
    let mut start = text.len().saturating_sub(max);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}
