//! Acks: recording what became of attempts, in groups, each row guarded by who may speak for it
//! (RULINGS 12). Finished rows move to history in the same transaction.

use std::collections::BTreeMap;

use super::claim::Gate;
use super::runs::{LogEntry, Progress};
use super::statement::Statement;
use super::{Stopped, Store};
use crate::clock::UnixSeconds;
use crate::db::{DbError, DbErrorKind, DbResult};
use crate::event::{Epoch, Event, EventId, MAX_ERROR_BYTES, Outcome, keep_tail};
use crate::fault::point;
use crate::when::format_time;
use crate::zone::Zone;

mod surprises;

pub use surprises::Surprises;

/// Who may speak for the rows: the guard of every write by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The run that claimed them under this epoch.
    Claim(Epoch),
    /// A claim without an epoch, made by hand.
    Orphan,
    /// Nobody has claimed them: they are ready, and still due by this instant. A row that was put
    /// off since it was read is not to be fired, nor skipped as too late.
    Ready(UnixSeconds),
    /// Nobody has claimed them: they are ready, whatever stands in `due_at`.
    Nobody,
}

/// Which counter of the row an attempt adds to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tally {
    /// None.
    None,
    /// `attempts`.
    Attempt,
    /// `losses`.
    Loss,
    /// `deferrals`.
    Deferral,
}

/// What becomes of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// To history.
    Finish {
        /// For good.
        outcome: Outcome,
        /// Why, where it is not plain success.
        error: Option<String>,
        /// The counter it adds to.
        tally: Tally,
    },
    /// Ready again.
    Again {
        /// When next.
        due_at: UnixSeconds,
        /// Why.
        error: String,
        /// The counter it adds to.
        tally: Tally,
    },
    /// Ready again as if it had never been claimed.
    Release,
    /// Ready as before, and begun: a pass of its sweep is made, and another is to come.
    GoOn {
        /// Of the run that made it.
        epoch: Epoch,
    },
}

/// One event's ack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Whose.
    pub id: EventId,
    /// Its type, for the log.
    pub type_name: String,
    /// When it was started; `None`: never.
    pub started_at: Option<UnixSeconds>,
    /// How long it took.
    pub duration_ms: i64,
    /// What becomes of it.
    pub fate: Fate,
}

/// The run in whose name acks are written.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// `run_id`; `None` for a command by hand.
    pub run_id: Option<i64>,
    /// The database's clock.
    pub now: UnixSeconds,
    /// Written in the same transaction.
    pub progress: Option<&'a Progress>,
    /// The lease to renew first, where the rows were not claimed by this run: its own it may ack
    /// even when fenced (RULINGS 11).
    pub gate: Option<Gate<'a>>,
    /// An earlier COMMIT of the same acks got no answer: they may be recorded already.
    pub unsure: bool,
    /// A run that died, whose row is closed in the same transaction.
    pub closes: Option<i64>,
}

impl Ack {
    /// The ack of an event that was not started.
    pub fn unstarted(event: &Event, fate: Fate) -> Self {
        Self {
            id: event.id,
            type_name: event.type_name.clone(),
            started_at: None,
            duration_ms: 0,
            fate,
        }
    }

    /// The ack of an event that is taken back before it was started.
    pub fn cancelled(id: EventId, type_name: &str, why: &str) -> Self {
        Self {
            id,
            type_name: type_name.to_owned(),
            started_at: None,
            duration_ms: 0,
            fate: Fate::Finish {
                outcome: Outcome::Cancelled,
                error: Some(why.to_owned()),
                tally: Tally::None,
            },
        }
    }

    /// Whether it records plain success: there may be a note to it.
    #[expect(
        clippy::option_option,
        reason = "done or not; if so, with a note or not"
    )]
    fn is_done(&self) -> Option<Option<&str>> {
        match &self.fate {
            Fate::Finish {
                outcome: Outcome::Done,
                error,
                tally: Tally::None,
            } => Some(error.as_deref()),
            _ => None,
        }
    }

    /// What the log says of it, where it plans another attempt.
    fn log_line(&self) -> Option<(String, String)> {
        let Fate::Again {
            due_at,
            error,
            tally,
        } = &self.fate
        else {
            return None;
        };
        let (decision, detail) = again_line(*due_at, error, *tally);
        let kept = keep_tail(&detail, MAX_ERROR_BYTES);
        Some((decision.to_owned(), kept.to_owned()))
    }
}

/// Decision and detail of an attempt that is planned.
fn again_line(due_at: UnixSeconds, error: &str, tally: Tally) -> (&'static str, String) {
    let decision = match tally {
        Tally::Deferral => "deferred",
        Tally::Loss => "recovered",
        Tally::Attempt | Tally::None => "retry",
    };
    let at = format_time(due_at, &Zone::utc());
    (decision, format!("next at {at}: {error}"))
}

impl Writer<'static> {
    /// Writes nothing but the acks, ungated: for rows of one's own.
    pub fn plain(run_id: Option<i64>, now: UnixSeconds) -> Self {
        Self {
            run_id,
            now,
            progress: None,
            gate: None,
            unsure: false,
            closes: None,
        }
    }
}

/// How often acks whose rows changed under them are sorted out, before something else must be
/// wrong: rows that are gone or changed hands leave with each round.
const ROUNDS: usize = 20;

impl Store {
    /// Records `acks` in one transaction; rows that changed hands meanwhile are left out and named.
    ///
    /// # Errors
    /// [`Stopped::Db`]: nothing is recorded then, unless it is `CommitUnknown`;
    /// [`Stopped::Fenced`] where `writer` names a gate and it is shut.
    pub fn settle(
        &mut self,
        owner: Owner,
        writer: Writer<'_>,
        acks: &[Ack],
    ) -> Result<Surprises, Stopped> {
        let mut surprises = Surprises::default();
        let mut left: Vec<&Ack> = acks.iter().collect();
        for _ in 0..ROUNDS {
            let tried = self.transaction(|store| {
                if let Some(gate) = writer.gate {
                    store.pass(gate)?;
                }
                let superseded = store.settle_all(owner, writer, &left)?;
                store.record_withdrawn(writer, acks, &surprises.withdrawn)?;
                if let Some((progress, run_id)) = writer.progress.zip(writer.run_id) {
                    store.write_progress(run_id, progress)?;
                }
                if let Some(run_id) = writer.closes {
                    store.close_dead_run(run_id, writer.now)?;
                }
                point("ack.commit");
                Ok(superseded)
            });
            match tried {
                Ok(superseded) => {
                    surprises.superseded = superseded;
                    return Ok(surprises);
                }
                Err(Stopped::Changed) => {
                    self.sort_out(owner, writer, &mut left, &mut surprises)?;
                }
                Err(stopped) => return Err(stopped),
            }
        }
        let message = "events cannot be moved to event_history; look for a trigger on the tables";
        Err(DbError::new(DbErrorKind::Statement, message).into())
    }

    /// The acks themselves, inside a transaction; returns the superseded ones.
    pub(super) fn settle_all(
        &mut self,
        owner: Owner,
        writer: Writer<'_>,
        acks: &[&Ack],
    ) -> Result<Vec<EventId>, Stopped> {
        let mut done: BTreeMap<Option<&str>, Vec<&Ack>> = BTreeMap::new();
        for ack in acks {
            if let Some(note) = ack.is_done() {
                done.entry(note).or_default().push(ack);
            }
        }
        for (note, acks) in &done {
            self.finish(owner, writer, acks, Outcome::Done, *note, Tally::None)?;
        }
        let released: Vec<&Ack> = acks
            .iter()
            .copied()
            .filter(|ack| ack.fate == Fate::Release)
            .collect();
        let mut superseded = self.release(owner, writer, &released)?;
        for ack in acks.iter().copied().filter(|ack| ack.is_done().is_none()) {
            match &ack.fate {
                Fate::Release => {}
                Fate::GoOn { epoch } => self.keep_sweeping(owner, ack, *epoch)?,
                Fate::Finish {
                    outcome,
                    error,
                    tally,
                } => {
                    self.finish(owner, writer, &[ack], *outcome, error.as_deref(), *tally)?;
                    self.log_fate(
                        writer,
                        ack,
                        outcome.as_str(),
                        error.as_deref().unwrap_or(""),
                    )?;
                }
                Fate::Again {
                    due_at,
                    error,
                    tally,
                } => {
                    if !self.put_back(owner, writer, ack, *due_at, error, *tally)? {
                        superseded.push(ack.id);
                    }
                }
            }
        }
        Ok(superseded)
    }

    /// Moves rows to history with one outcome: one INSERT … SELECT, one DELETE, counts compared.
    pub(super) fn finish(
        &mut self,
        owner: Owner,
        writer: Writer<'_>,
        acks: &[&Ack],
        outcome: Outcome,
        error: Option<&str>,
        tally: Tally,
    ) -> Result<(), Stopped> {
        if acks.is_empty() {
            return Ok(());
        }
        let dialect = self.dialect();
        let ids = || acks.iter().map(|ack| ack.id);
        let columns = format!(
            "INSERT INTO /*_*/event_history (event_id, type, due_at, first_due_at, payload, \
             unique_key, origin, slot_at, priority, expires_at, attempts, losses, deferrals, \
             created_at, outcome, finished_at, run_id, lateness_s, duration_ms, error) \
             SELECT id, type, due_at, first_due_at, payload, COALESCE(held_key, unique_key), \
             origin, slot_at, priority, expires_at, attempts{}, losses{}, deferrals{}, created_at, \
             '{outcome}', ",
            plus_one(tally == Tally::Attempt),
            plus_one(tally == Tally::Loss),
            plus_one(tally == Tally::Deferral),
        );
        let mut insert = Statement::listed(dialect)
            .text(&columns)
            .at(writer.now)
            .text(", ")
            .opt_int(writer.run_id)
            .text(", ");
        insert = by_id(insert, acks, |ack| ack.started_at.map(|at| at.0));
        insert = insert.text(" - COALESCE(first_due_at, due_at), ");
        insert = by_id(insert, acks, |ack| ack.started_at.map(|_| ack.duration_ms));
        insert = insert.text(", ");
        insert = match error {
            Some(error) => insert.bound(keep_tail(error, MAX_ERROR_BYTES)),
            None => insert.text("NULL"),
        };
        insert = insert
            .text(" FROM /*_*/scheduled_events")
            .text(dialect.by_primary_key())
            .text(" WHERE id")
            .among(ids());
        let moved = self.execute_guarded(insert, owner)?;
        point("ack.history");
        let delete = Statement::listed(dialect)
            .text(&self.delete_events())
            .text(" WHERE id")
            .among(ids());
        let deleted = self.execute_guarded(delete, owner)?;
        point("ack.deleted");
        if moved != acks.len() as u64 || deleted != moved {
            return Err(Stopped::Changed);
        }
        Ok(())
    }

    /// Gives rows back unstarted, uncounted (RULINGS 30): all at once, and one by one only where a
    /// key is taken. Returns the superseded ones.
    fn release(
        &mut self,
        owner: Owner,
        writer: Writer<'_>,
        acks: &[&Ack],
    ) -> Result<Vec<EventId>, Stopped> {
        if acks.is_empty() {
            return Ok(Vec::new());
        }
        match self.release_rows(owner, acks) {
            Err(Stopped::Db(error)) if error.kind == DbErrorKind::Duplicate => {}
            other => return other.map(|()| Vec::new()),
        }
        let mut superseded = Vec::new();
        for ack in acks {
            match self.release_rows(owner, &[ack]) {
                Err(Stopped::Db(error)) if error.kind == DbErrorKind::Duplicate => {
                    self.supersede(owner, writer, ack, Tally::None)?;
                    superseded.push(ack.id);
                }
                other => other?,
            }
        }
        Ok(superseded)
    }

    fn release_rows(&mut self, owner: Owner, acks: &[&Ack]) -> Result<(), Stopped> {
        let update = Statement::listed(self.dialect())
            .text("UPDATE /*_*/scheduled_events")
            .text(self.dialect().by_primary_key())
            .text(
                " SET status = 'ready', unique_key = COALESCE(held_key, unique_key), \
                 held_key = NULL, claim_epoch = NULL, claim_until = NULL WHERE id",
            )
            .among(acks.iter().map(|ack| ack.id));
        if self.execute_guarded(update, owner)? != acks.len() as u64 {
            return Err(Stopped::Changed);
        }
        point("release.rows");
        Ok(())
    }

    /// Plans another attempt. False: a newer event has the key, this one is cancelled.
    fn put_back(
        &mut self,
        owner: Owner,
        writer: Writer<'_>,
        ack: &Ack,
        due_at: UnixSeconds,
        error: &str,
        tally: Tally,
    ) -> Result<bool, Stopped> {
        let columns = format!(
            ", attempts = attempts{}, losses = losses{}, deferrals = deferrals{}, last_error = ",
            plus_one(tally == Tally::Attempt),
            plus_one(tally == Tally::Loss),
            plus_one(tally == Tally::Deferral),
        );
        let update = Statement::fixed(self.dialect())
            .text("UPDATE /*_*/scheduled_events")
            .text(self.dialect().by_primary_key())
            .text(
                " SET status = 'ready', unique_key = COALESCE(held_key, unique_key), \
                 held_key = NULL, claim_epoch = NULL, claim_until = NULL, \
                 first_due_at = COALESCE(first_due_at, due_at), due_at = ",
            )
            .at(due_at)
            .text(&columns)
            .bound(keep_tail(error, MAX_ERROR_BYTES))
            .text(" WHERE id = ")
            .int(ack.id.0);
        match self.execute_guarded(update, owner) {
            Ok(1) => {}
            Ok(_) => return Err(Stopped::Changed),
            Err(taken) if taken.kind == DbErrorKind::Duplicate => {
                self.supersede(owner, writer, ack, tally)?;
                return Ok(false);
            }
            Err(other) => return Err(other.into()),
        }
        let (decision, detail) = again_line(due_at, error, tally);
        self.log_fate(writer, ack, decision, &detail)?;
        Ok(true)
    }

    /// Leaves a ready row where it is and marks it as begun, by `first_due_at`, and by the epoch
    /// that swept it last. Its key stays held, so that a pass may schedule a successor.
    fn keep_sweeping(&mut self, owner: Owner, ack: &Ack, epoch: Epoch) -> Result<(), Stopped> {
        let update = Statement::fixed(self.dialect())
            .text("UPDATE /*_*/scheduled_events")
            .text(self.dialect().by_primary_key())
            .text(" SET first_due_at = COALESCE(first_due_at, due_at), claim_epoch = ")
            .int(epoch.0)
            .text(" WHERE id = ")
            .int(ack.id.0);
        if self.execute_guarded(update, owner)? != 1 {
            return Err(Stopped::Changed);
        }
        Ok(())
    }

    fn supersede(
        &mut self,
        owner: Owner,
        writer: Writer<'_>,
        ack: &Ack,
        tally: Tally,
    ) -> Result<(), Stopped> {
        const WHY: &str = "superseded: a newer event has its key";
        self.finish(owner, writer, &[ack], Outcome::Cancelled, Some(WHY), tally)?;
        Ok(self.log_fate(writer, ack, "superseded", WHY)?)
    }

    fn log_fate(
        &mut self,
        writer: Writer<'_>,
        ack: &Ack,
        decision: &str,
        detail: &str,
    ) -> DbResult<()> {
        self.log(&LogEntry {
            at: writer.now,
            run_id: writer.run_id,
            event: Some(ack.id),
            type_name: Some(&ack.type_name),
            decision,
            detail,
        })
    }

    /// Runs a write by id under the guard of who may speak for the rows.
    fn execute_guarded(&mut self, write: Statement<'_>, owner: Owner) -> DbResult<u64> {
        let guarded = self.guard(write.text(" AND "), owner);
        let (sql, params) = guarded.finished(self);
        self.db.execute(&sql, &params)
    }

    /// Adds the condition that `owner` may speak for the row.
    fn guard<'v>(&self, statement: Statement<'v>, owner: Owner) -> Statement<'v> {
        let guarded = statement.text(self.dialect().guarded_status());
        match owner {
            Owner::Claim(epoch) => guarded.text(" = 'running' AND claim_epoch = ").int(epoch.0),
            Owner::Orphan => guarded.text(" = 'running' AND claim_epoch IS NULL"),
            Owner::Nobody => guarded.text(" = 'ready'"),
            Owner::Ready(due_by) => guarded.text(" = 'ready' AND due_at <= ").at(due_by),
        }
    }
}

/// A value that may differ between the rows of one statement: a plain number where it does not,
/// else a choice by id that halves the ids with each step.
fn by_id<'v>(
    statement: Statement<'v>,
    acks: &[&Ack],
    value: impl Fn(&Ack) -> Option<i64>,
) -> Statement<'v> {
    let first = value(acks[0]);
    if acks.iter().all(|ack| value(ack) == first) {
        return statement.opt_int(first);
    }
    let mut values: Vec<(EventId, Option<i64>)> =
        acks.iter().map(|ack| (ack.id, value(ack))).collect();
    values.sort_unstable_by_key(|(id, _)| *id);
    // Neighbours with one value become one range, named by its last id.
    let mut ranges: Vec<(EventId, Option<i64>)> = Vec::new();
    for (id, value) in values {
        match ranges.last_mut() {
            Some(last) if last.1 == value => last.0 = id,
            _ => ranges.push((id, value)),
        }
    }
    let mut choice = String::new();
    write_choice(&mut choice, &ranges);
    statement.text(&choice)
}

fn write_choice(text: &mut String, ranges: &[(EventId, Option<i64>)]) {
    use std::fmt::Write;
    let (left, right) = ranges.split_at(ranges.len() / 2);
    match (left.last(), right) {
        (Some((last, _)), _) => {
            write!(text, "CASE WHEN id <= {last} THEN ").expect("a String takes all");
            write_choice(text, left);
            text.push_str(" ELSE ");
            write_choice(text, right);
            text.push_str(" END");
        }
        (None, [(_, Some(value))]) => text.push_str(&value.to_string()),
        (None, _) => text.push_str("NULL"),
    }
}

fn plus_one(yes: bool) -> &'static str {
    if yes { " + 1" } else { "" }
}
