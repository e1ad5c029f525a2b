//! Waves of in-transaction types: gate, effects, history and removal in one transaction, so that
//! an effect and its record stand or fall together. No claim a row; the run's row carries the
//! trace (RULINGS 20).

use std::ops::Range;
use std::time::Duration;

use super::claim::{Gate, RateLeft};
use super::listing::sort_as;
use super::peek::Candidate;
use super::runs::Progress;
use super::settle::{Ack, Owner, Writer};
use super::statement::Statement;
use super::{EVENT_COLUMNS, Stopped, Store, read_event};
use crate::clock::{UnixSeconds, monotonic};
use crate::db::{Db, DbError, DbErrorKind, DbResult, query_all};
use crate::event::{Event, EventId};
use crate::fault::point;

/// What an effect came to that the database did not refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effected {
    /// It was had.
    Done,
    /// There was none to have, for this reason; the event is done all the same.
    Needless(&'static str),
    /// It can never be had, for this reason.
    Hopeless(String),
}

/// The effect of one event: runs statements on the open transaction.
pub type Effect<'a> = dyn FnMut(&mut dyn Db, &Event) -> DbResult<Effected> + 'a;

/// The effects of a range of the wave's events, as many of them from its beginning on as the answer
/// is long, at least one: runs statements on the open transaction.
pub type Together<'a> = dyn FnMut(&mut dyn Db, Range<usize>) -> DbResult<Vec<Effected>> + 'a;

/// How the effects of a wave are had.
pub enum Run<'a> {
    /// One event after the other. Each may schedule its own successor.
    Each(&'a mut Effect<'a>),
    /// Many events with one statement. None of them touches `scheduled_events`.
    Together(&'a mut Together<'a>),
}

/// Turns how an effect ended into what becomes of its event.
pub type Judge<'a> = dyn FnMut(&Event, DbResult<Effected>) -> Ack + 'a;

/// Asked before each event, and told whether it is the first: whether the transaction has lasted
/// long enough to be committed with what it has.
pub type Enough<'a> = dyn FnMut(bool) -> bool + 'a;

/// What a wave of effects recorded.
#[derive(Debug)]
pub struct Recorded {
    /// One ack an event, in order.
    pub acks: Vec<Ack>,
    /// Cancelled instead of put back.
    pub superseded: Vec<EventId>,
}

/// Runs last in the transaction, with what it records: takes the trace of the wave away, or writes
/// that of the next in its place.
pub type Last<'a> = dyn FnMut(&mut Store, &Recorded) -> DbResult<()> + 'a;

/// What a wave calls for its events.
pub struct Effects<'a> {
    /// The effects themselves.
    pub run: Run<'a>,
    /// What becomes of an event.
    pub judge: &'a mut Judge<'a>,
    /// When to commit.
    pub enough: &'a mut Enough<'a>,
    /// The trace.
    pub last: &'a mut Last<'a>,
}

/// Whether events get a savepoint each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Savepoints {
    /// One for the whole wave: any failing event rolls it back.
    Wave,
    /// One an event: a failing event rolls back alone.
    Each,
}

/// How a wave of effects ended.
#[derive(Debug)]
pub enum WaveEnd {
    /// Committed.
    Committed(Recorded),
    /// An effect failed with one savepoint for all; nothing happened. Try [`Savepoints::Each`].
    EffectFailed,
    /// A row was cancelled or moved meanwhile; nothing happened. Read the rows again.
    Changed,
    /// An effect ended the transaction by itself: what it did stands, unrecorded.
    Broken(DbError),
    /// An effect waited in vain for what somebody else has locked; nothing happened.
    Blocked(DbError),
}

/// An effect that waited this long for a lock is not tried again by the same run: other types
/// would wait with it (promise 9).
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

impl Store {
    /// Commits the trace of the wave that comes: its type and id range in the run's row.
    ///
    /// # Errors
    /// [`Stopped::Fenced`]; [`Stopped::Db`].
    pub fn trace_wave(
        &mut self,
        gate: Gate<'_>,
        run_id: i64,
        progress: &Progress,
        rate: Option<RateLeft<'_>>,
    ) -> Result<(), Stopped> {
        self.transaction(|store| {
            store.pass(gate)?;
            if let Some(rate) = rate {
                store.write_rate(rate, gate.now)?;
            }
            Ok(store.write_progress(run_id, progress)?)
        })
    }

    /// Those of `ids` that are still ready and due, with their payloads, in the order of `ids`.
    pub fn ready_rows(&mut self, ids: &[EventId], cutoff: UnixSeconds) -> DbResult<Vec<Event>> {
        let guard = format!(
            "{} = 'ready' AND due_at <= {cutoff}",
            self.dialect().guarded_status()
        );
        self.rows_by_id(ids, &guard)
    }

    /// The events of `candidates` with the payloads that were not read with them; without those of
    /// these that are gone meanwhile.
    pub fn with_payloads(
        &mut self,
        candidates: Vec<Candidate>,
        cutoff: UnixSeconds,
    ) -> DbResult<Vec<Event>> {
        let lacking = candidates.iter().filter(|one| one.lacks_payload());
        let lacking: Vec<EventId> = lacking.map(|one| one.event.id).collect();
        let mut whole = self.ready_rows(&lacking, cutoff)?.into_iter().peekable();
        let event = |candidate: Candidate| {
            if candidate.lacks_payload() {
                whole.next_if(|event| event.id == candidate.event.id)
            } else {
                Some(candidate.event)
            }
        };
        Ok(candidates.into_iter().filter_map(event).collect())
    }

    /// Those of `ids` for which `condition` holds, with their payloads, in the order of `ids`.
    pub(super) fn rows_by_id(&mut self, ids: &[EventId], condition: &str) -> DbResult<Vec<Event>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (sql, params) = Statement::listed(self.dialect())
            .text("SELECT ")
            .text(EVENT_COLUMNS)
            .text(" FROM /*_*/scheduled_events")
            .text(self.dialect().by_primary_key())
            .text(" WHERE id")
            .among(ids.iter().copied())
            .text(" AND ")
            .text(condition)
            .finished(self);
        let mut events = query_all(&mut *self.db, &sql, &params, read_event)?;
        self.tell_slots(&mut events)?;
        sort_as(ids, &mut events, |event| event.id);
        Ok(events)
    }

    /// Those of `ids` that still exist, whoever has them: for listings.
    pub fn existing_rows(&mut self, ids: &[EventId]) -> DbResult<Vec<Event>> {
        self.rows_by_id(ids, "1 = 1")
    }

    /// Runs the effects of `events`, until `enough` says so, and records them, all in one
    /// transaction. `version`: what [`Store::version`] said before they were read.
    ///
    /// # Errors
    /// [`Stopped::Fenced`]; [`Stopped::Db`] where the database itself failed.
    pub fn effect_wave(
        &mut self,
        gate: Gate<'_>,
        writer: Writer<'_>,
        (events, version): (&[Event], Option<i64>),
        savepoints: Savepoints,
        effects: &mut Effects<'_>,
    ) -> Result<WaveEnd, Stopped> {
        let mut failed = false;
        let mut broken = None;
        let mut blocked = None;
        let began = monotonic();
        let latest = events.iter().map(|event| event.due_at).max();
        let due_by = latest.unwrap_or(gate.now);
        let tried = self.transaction(|store| {
            blocked = None;
            store.pass(gate)?;
            if !store.are_as_read(events, version, due_by)? {
                return Err(Stopped::Changed);
            }
            let acks = match savepoints {
                Savepoints::Wave => store.effects_at_once(events, effects),
                Savepoints::Each => store.effects_each(events, effects),
            };
            let acks = acks.map_err(|error| match error {
                EffectError::Failed => {
                    failed = true;
                    Stopped::Changed
                }
                EffectError::Broken(error) => {
                    broken = Some(error);
                    Stopped::Changed
                }
                EffectError::Blocked(error) => {
                    blocked = Some(error.clone());
                    if monotonic().duration_since(began) >= LOCK_PATIENCE {
                        return Stopped::Changed;
                    }
                    Stopped::Db(error)
                }
                EffectError::Database(error) => Stopped::Db(error),
            })?;
            let all: Vec<&Ack> = acks.iter().collect();
            let superseded = store.settle_all(Owner::Ready(due_by), writer, &all)?;
            // With the effects: a run that dies later did not have these in hand.
            let recorded = Recorded { acks, superseded };
            (effects.last)(store, &recorded)?;
            point("wave.commit");
            Ok(WaveEnd::Committed(recorded))
        });
        match tried {
            Err(Stopped::Changed | Stopped::Db(_)) if blocked.is_some() => {
                Ok(blocked.map_or(WaveEnd::Changed, WaveEnd::Blocked))
            }
            Err(Stopped::Changed) if failed => Ok(WaveEnd::EffectFailed),
            Err(Stopped::Changed) => Ok(broken.map_or(WaveEnd::Changed, WaveEnd::Broken)),
            other => other,
        }
    }

    /// Whether nobody has changed these ready rows since they were read, as far as the database can
    /// tell: with SQLite's one write lock held it can for sure.
    fn are_as_read(
        &mut self,
        events: &[Event],
        version: Option<i64>,
        due_by: UnixSeconds,
    ) -> DbResult<bool> {
        let now = self.version()?;
        if now.is_none() || now == version {
            return Ok(true);
        }
        let ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
        Ok(self.ready_rows(&ids, due_by)? == events)
    }

    /// Moves the event's key to `held_key`, so that its effect may schedule its own successor. That
    /// of a sweep under way is there already.
    fn hold_key(&mut self, event: &Event, run: &Run<'_>) -> DbResult<()> {
        if event.key.is_none() || matches!(run, Run::Together(_)) {
            return Ok(());
        }
        let sql = format!(
            "UPDATE /*_*/scheduled_events{} SET held_key = COALESCE(held_key, unique_key), \
             unique_key = NULL WHERE id = {} AND {} = 'ready'",
            self.dialect().by_primary_key(),
            event.id,
            self.dialect().guarded_status(),
        );
        let sql = self.sql(&sql);
        self.db.execute(&sql, &[]).map(drop)
    }

    fn effects_at_once(
        &mut self,
        events: &[Event],
        effects: &mut Effects<'_>,
    ) -> Result<Vec<Ack>, EffectError> {
        self.db.execute("SAVEPOINT punctual_wave", &[])?;
        let mut acks = Vec::with_capacity(events.len());
        while acks.len() < events.len() {
            if (effects.enough)(acks.is_empty()) {
                break;
            }
            self.hold_key(&events[acks.len()], &effects.run)?;
            match self.effects_of(events, acks.len()..events.len(), effects) {
                Ok(effected) => {
                    for (event, effected) in events[acks.len()..].iter().zip(effected) {
                        acks.push((effects.judge)(event, Ok(effected)));
                    }
                }
                Err(error) if error.is_database_trouble() => return Err(trouble(error)),
                Err(_) => return Err(EffectError::Failed),
            }
        }
        self.release_savepoint("punctual_wave")?;
        Ok(acks)
    }

    /// The effects of events from the first of `range` on: of one, or of as many as go together.
    fn effects_of(
        &mut self,
        events: &[Event],
        range: Range<usize>,
        effects: &mut Effects<'_>,
    ) -> DbResult<Vec<Effected>> {
        point("effect.before");
        let result = match &mut effects.run {
            Run::Each(run) => {
                run(&mut *self.db, &events[range.start]).map(|effected| vec![effected])
            }
            Run::Together(run) => run(&mut *self.db, range),
        };
        point("effect.after");
        result
    }

    fn effects_each(
        &mut self,
        events: &[Event],
        effects: &mut Effects<'_>,
    ) -> Result<Vec<Ack>, EffectError> {
        let mut acks = Vec::with_capacity(events.len());
        for (at, event) in events.iter().enumerate() {
            if (effects.enough)(acks.is_empty()) {
                break;
            }
            self.hold_key(event, &effects.run)?;
            self.db.execute("SAVEPOINT punctual_event", &[])?;
            match self.effects_of(events, at..at + 1, effects) {
                Err(error) if error.is_database_trouble() => return Err(trouble(error)),
                Err(error) => {
                    let back = self.db.execute("ROLLBACK TO SAVEPOINT punctual_event", &[]);
                    back.map_err(EffectError::Broken)?;
                    self.release_savepoint("punctual_event")?;
                    acks.push((effects.judge)(event, Err(error)));
                }
                Ok(effected) => {
                    self.release_savepoint("punctual_event")?;
                    let effected = effected.into_iter().next();
                    let effected = effected.unwrap_or(Effected::Done);
                    acks.push((effects.judge)(event, Ok(effected)));
                }
            }
        }
        Ok(acks)
    }

    /// Fails where the transaction it was set in is gone: an effect committed or rolled back by
    /// itself (RULINGS 21).
    fn release_savepoint(&mut self, name: &str) -> Result<(), EffectError> {
        match self.db.execute(&format!("RELEASE SAVEPOINT {name}"), &[]) {
            Ok(_) => Ok(()),
            Err(error) if error.is_database_trouble() => Err(EffectError::Database(error)),
            Err(error) => Err(EffectError::Broken(error)),
        }
    }
}

/// Why the effects of a wave were not all run.
enum EffectError {
    Failed,
    Broken(DbError),
    Blocked(DbError),
    Database(DbError),
}

/// An effect's error that says nothing about the effect itself.
fn trouble(error: DbError) -> EffectError {
    if error.kind == DbErrorKind::Busy {
        return EffectError::Blocked(error);
    }
    EffectError::Database(error)
}

impl From<DbError> for EffectError {
    fn from(error: DbError) -> Self {
        EffectError::Database(error)
    }
}
