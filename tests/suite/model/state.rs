//! What a state of the model is: the rows that matter, the runs, and what an observer outside saw.

use std::hash::{Hash, Hasher};

/// The most events, runners and epochs of a world: states are plain bytes, compared and hashed fast.
pub(super) const EVENTS: usize = 3;
pub(super) const RUNNERS: usize = 3;
pub(super) const EPOCHS: usize = 6;

/// Time comes in ticks. A lease lasts two, so that half of it is one; a claim is believed for three.
pub(super) const TTL: u8 = 2;
pub(super) const HALF: u8 = TTL / 2;
pub(super) const CLAIM: u8 = 3;
/// `retries` and `max_losses` of every type.
pub(super) const RETRIES: u8 = 1;
pub(super) const MAX_LOSSES: u8 = 1;

/// The delivery that a type declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `sql`.
    Exactly,
    /// `command`, `http`.
    Least,
    /// The same with `at_most_once`.
    Most,
}

/// A row of `scheduled_events`, if it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    Gone,
    Ready,
    /// `claim_epoch`, and in how many ticks `claim_until` is.
    Running(u8, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    None,
    Done,
    Dead,
    Unknown,
    Withdrawn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) row: Row,
    pub(super) attempts: u8,
    pub(super) losses: u8,
    /// Rows of `event_history`, the last one's outcome and the epoch of its run.
    pub(super) history: u8,
    pub(super) outcome: Outcome,
    pub(super) recorded_by: u8,
    /// Seen from outside: effects of `sql` that were committed, attempts that were started.
    pub(super) effects: u8,
    pub(super) starts: u8,
    /// The epochs for which a loss was counted.
    pub(super) lost_with: u8,
    /// The site deleted the row.
    pub(super) deleted: bool,
}

/// What waits to be acked of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    None,
    Done,
    Failed,
    Interrupted,
}

/// Where a run stands: what its next call of the database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    /// Not running.
    Off,
    /// Has peeked; takes the lease next.
    Take,
    /// Looks for stranded rows.
    Stranded,
    /// Puts the row it found back.
    Recover,
    /// Looks for runs that never ended.
    OpenRuns,
    /// Deals with the one it found.
    CloseRun,
    /// Takes turns.
    Work,
    /// Its trace is committed; effects come next.
    Effects,
    /// Winds up.
    End,
    /// Could not record what it should; closes.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Run {
    pub(super) at: At,
    pub(super) epoch: u8,
    /// The lease's epoch as peeked; later the epoch of the run that is being closed.
    pub(super) seen: u8,
    /// Whether the holder that was peeked is proven dead.
    pub(super) proof: bool,
    /// The stranded row in hand, and whose claim it was.
    pub(super) row: u8,
    pub(super) of: u8,
    /// Sets of events: the wave or trace in hand, suspects, claimed, under way.
    pub(super) wave: u8,
    pub(super) suspects: u8,
    pub(super) queue: u8,
    pub(super) flight: u8,
    pub(super) pending: [Fate; EVENTS],
    /// Ticks since the last renewal, up to half the ttl.
    pub(super) age: u8,
    pub(super) connected: bool,
    /// The connection was lost before the end: `stop` is `database_lost`.
    pub(super) lost: bool,
    pub(super) unsure: bool,
    /// Strays have been given back.
    pub(super) swept: bool,
}

impl Run {
    pub(super) const OFF: Self = Self {
        at: At::Off,
        epoch: 0,
        seen: 0,
        proof: false,
        row: 0,
        of: 0,
        wave: 0,
        suspects: 0,
        queue: 0,
        flight: 0,
        pending: [Fate::None; EVENTS],
        age: 0,
        connected: false,
        lost: false,
        unsure: false,
        swept: false,
    };

    pub(super) fn has_acks(&self) -> bool {
        self.pending != [Fate::None; EVENTS]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) epoch: u8,
    /// `holder` is not empty.
    pub(super) held: bool,
    /// Ticks since `beat_at`, up to the ttl.
    pub(super) age: u8,
}

/// A row of `event_runs`, by epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunRow {
    pub(super) open: bool,
    /// Which lock file its run held: the runner's host.
    pub(super) host: u8,
    /// The wave of effects in hand.
    pub(super) trace: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) lease: Lease,
    pub(super) events: [Event; EVENTS],
    pub(super) rows: [RunRow; EPOCHS],
    pub(super) runs: [Run; RUNNERS],
    /// How much may still go wrong.
    pub(super) faults: u8,
    pub(super) deletions: u8,
}

impl State {
    pub(super) fn first(events: usize, faults: u8, deletions: u8) -> Self {
        let event = Event {
            row: Row::Gone,
            attempts: 0,
            losses: 0,
            history: 0,
            outcome: Outcome::None,
            recorded_by: 0,
            effects: 0,
            starts: 0,
            lost_with: 0,
            deleted: false,
        };
        let mut state = Self {
            lease: Lease {
                epoch: 0,
                held: false,
                age: TTL,
            },
            events: [event; EVENTS],
            rows: [RunRow {
                open: false,
                host: 0,
                trace: 0,
            }; EPOCHS],
            runs: [Run::OFF; RUNNERS],
            faults,
            deletions,
        };
        for event in &mut state.events[..events] {
            event.row = Row::Ready;
        }
        state
    }

    /// The lease names this run.
    pub(super) fn holds(&self, epoch: u8) -> bool {
        self.lease.held && self.lease.epoch == epoch
    }

    /// The live runner that has this epoch.
    pub(super) fn runner_of(&self, epoch: u8) -> Option<usize> {
        let has = |run: &Run| run.at != At::Off && run.epoch == epoch;
        self.runs.iter().position(has).filter(|_| epoch > 0)
    }

    pub(super) fn all_off(&self) -> bool {
        self.runs.iter().all(|run| run.at == At::Off)
    }
}

// Some words instead of a hundred fields: most of a search is hashing, without optimisation.
impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let lease = [
            self.lease.epoch,
            u8::from(self.lease.held),
            self.lease.age,
            self.faults,
            self.deletions,
        ];
        hasher.write_u64(word(&lease));
        for event in &self.events {
            let (status, of, left) = match event.row {
                Row::Gone => (0, 0, 0),
                Row::Ready => (1, 0, 0),
                Row::Running(of, left) => (2, of, left),
            };
            let counts = event.attempts << 6 | event.losses << 4 | event.history << 2 | status;
            let seen = event.effects << 4 | event.starts;
            let outcome = (event.outcome as u8) << 1 | u8::from(event.deleted);
            let rest = [event.recorded_by, event.lost_with];
            hasher.write_u64(word(&[counts, of, left, seen, outcome, rest[0], rest[1]]));
        }
        for row in self.rows.chunks(3) {
            let bytes = |row: &RunRow| [row.trace << 1 | u8::from(row.open), row.host];
            let row: Vec<u8> = row.iter().flat_map(bytes).collect();
            hasher.write_u64(word(&row));
        }
        for run in &self.runs {
            let flags = [run.proof, run.connected, run.lost, run.unsure, run.swept];
            let flags = flags.iter().fold(0, |all, &flag| all << 1 | u8::from(flag));
            let place = [run.at as u8, run.epoch, run.seen, run.row, run.of];
            let sets = [run.wave, run.suspects, run.queue];
            hasher.write_u64(word(&place) << 24 | word(&sets));
            let acks = run.pending.map(|fate| fate as u8);
            hasher.write_u64(word(&[
                flags, run.age, run.flight, acks[0], acks[1], acks[2],
            ]));
        }
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// The events of a set.
pub(super) fn members(set: u8) -> impl Iterator<Item = usize> {
    (0..EVENTS).filter(move |event| set & bit(*event) != 0)
}

pub(super) fn bit(event: usize) -> u8 {
    1 << event
}
