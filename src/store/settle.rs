//! Acks: recording what became of attempts, in groups, each row guarded by who may speak for it
//! (RULINGS 12). Finished rows move to history in the same transaction.

use chrono_tz::Tz;

use super::claim::Gate;
use super::runs::{LogEntry, Progress};
use super::{Stopped, Store};
use crate::clock::UnixSeconds;
use crate::db::{DbError, DbErrorKind, DbResult, Row, Value, id_list, query_all};
use crate::event::{Epoch, Event, EventId, MAX_ERROR_BYTES, Outcome, keep_tail};
use crate::fault::point;
use crate::when::format_time;

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
}

impl Ack {
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
    let at = format_time(due_at, Tz::UTC);
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

/// What acks met that they did not expect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surprises {
    /// Rows that somebody deleted meanwhile.
    pub withdrawn: Vec<EventId>,
    /// Rows that somebody else claimed or recorded meanwhile.
    pub fenced: Vec<EventId>,
    /// Rows whose key a newer event has taken: cancelled instead of put back.
    pub superseded: Vec<EventId>,
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
        let is_plain = |ack: &Ack| {
            let done = Fate::Finish {
                outcome: Outcome::Done,
                error: None,
                tally: Tally::None,
            };
            ack.fate == done
        };
        let plain: Vec<&Ack> = acks.iter().copied().filter(|ack| is_plain(ack)).collect();
        self.finish(owner, writer, &plain, Outcome::Done, None, Tally::None)?;
        let released: Vec<&Ack> = acks
            .iter()
            .copied()
            .filter(|ack| ack.fate == Fate::Release)
            .collect();
        let mut superseded = self.release(owner, writer, &released)?;
        for ack in acks.iter().copied().filter(|ack| !is_plain(ack)) {
            match &ack.fate {
                Fate::Release => {}
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
    fn finish(
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
        let ids = id_list(acks.iter().map(|ack| ack.id.0));
        let guard = self.guard(owner);
        let insert = format!(
            "INSERT INTO /*_*/event_history (event_id, type, due_at, first_due_at, payload, \
             unique_key, origin, slot_at, priority, expires_at, attempts, losses, deferrals, \
             created_at, outcome, finished_at, run_id, lateness_s, duration_ms, error) \
             SELECT id, type, due_at, first_due_at, payload, COALESCE(held_key, unique_key), \
             origin, slot_at, priority, expires_at, attempts{}, losses{}, deferrals{}, created_at, \
             '{outcome}', {}, {}, {} - COALESCE(first_due_at, due_at), {}, {} \
             FROM /*_*/scheduled_events{} WHERE id IN ({ids}) AND {guard}",
            plus_one(tally == Tally::Attempt),
            plus_one(tally == Tally::Loss),
            plus_one(tally == Tally::Deferral),
            writer.now,
            or_null(writer.run_id),
            by_id(acks, |ack| or_null(ack.started_at.map(|at| at.0))),
            by_id(acks, |ack| or_null(ack.started_at.map(|_| ack.duration_ms))),
            if error.is_some() { "?" } else { "NULL" },
            self.dialect().by_primary_key(),
        );
        let insert = self.sql(&insert);
        let text = error.map(|text| keep_tail(text, MAX_ERROR_BYTES));
        let params: Vec<Value<'_>> = text.into_iter().map(Value::from).collect();
        let moved = self.db.execute(&insert, &params)?;
        point("ack.history");
        let delete = format!("{} WHERE id IN ({ids}) AND {guard}", self.delete_events());
        let deleted = self.db.execute(&delete, &[])?;
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
        let sql = format!(
            "UPDATE /*_*/scheduled_events{} SET status = 'ready', \
             unique_key = COALESCE(held_key, unique_key), held_key = NULL, claim_epoch = NULL, \
             claim_until = NULL WHERE id IN ({}) AND {}",
            self.dialect().by_primary_key(),
            id_list(acks.iter().map(|ack| ack.id.0)),
            self.guard(owner),
        );
        let sql = self.sql(&sql);
        if self.db.execute(&sql, &[])? != acks.len() as u64 {
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
        let sql = format!(
            "UPDATE /*_*/scheduled_events{} SET status = 'ready', \
             unique_key = COALESCE(held_key, unique_key), held_key = NULL, claim_epoch = NULL, \
             claim_until = NULL, first_due_at = COALESCE(first_due_at, due_at), due_at = {due_at}, \
             attempts = attempts{}, losses = losses{}, deferrals = deferrals{}, last_error = ? \
             WHERE id = {} AND {}",
            self.dialect().by_primary_key(),
            plus_one(tally == Tally::Attempt),
            plus_one(tally == Tally::Loss),
            plus_one(tally == Tally::Deferral),
            ack.id,
            self.guard(owner),
        );
        let sql = self.sql(&sql);
        match self
            .db
            .execute(&sql, &[keep_tail(error, MAX_ERROR_BYTES).into()])
        {
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

    /// After a count that did not fit: which rows are gone, which changed hands, which remain.
    fn sort_out(
        &mut self,
        owner: Owner,
        writer: Writer<'_>,
        left: &mut Vec<&Ack>,
        surprises: &mut Surprises,
    ) -> DbResult<()> {
        let ids = id_list(left.iter().map(|ack| ack.id.0));
        let rows = format!(
            "SELECT id, CASE WHEN {} THEN 1 ELSE 0 END FROM /*_*/scheduled_events{} \
             WHERE id IN ({ids})",
            self.guard(owner),
            self.dialect().by_primary_key(),
        );
        let rows = self.sql(&rows);
        let read = |row: &dyn Row| (EventId(row.int(0)), row.int(1) == 1);
        let found = query_all(&mut *self.db, &rows, &[], read)?;
        let recorded = self.recorded(&ids)?;
        // An earlier COMMIT of ours whose answer was lost may have succeeded.
        let planned = match writer.run_id.filter(|_| writer.unsure) {
            Some(run_id) => self.planned_by(run_id, &ids)?,
            None => Vec::new(),
        };
        left.retain(|ack| {
            let row = found.iter().find(|(id, _)| *id == ack.id);
            if row.is_some_and(|(_, is_ours)| *is_ours) {
                return true;
            }
            let by_us = writer.run_id.is_some() && recorded.contains(&(ack.id, writer.run_id));
            let is_planned = |(id, decision, detail): &(EventId, String, String)| {
                *id == ack.id
                    && ack
                        .log_line()
                        .is_some_and(|line| line.0 == *decision && line.1 == *detail)
            };
            if by_us || planned.iter().any(is_planned) {
                return false;
            }
            // A claim that somebody presumed lost, and not merely a deleted row.
            let is_claim = matches!(owner, Owner::Claim(_));
            let ended_elsewhere = is_claim && recorded.iter().any(|(id, _)| *id == ack.id);
            if row.is_some() || ended_elsewhere {
                surprises.fenced.push(ack.id);
            } else {
                surprises.withdrawn.push(ack.id);
            }
            false
        });
        Ok(())
    }

    /// Which of `ids` are in history, and by which run: what was put back by hand since then is not.
    fn recorded(&mut self, ids: &str) -> DbResult<Vec<(EventId, Option<i64>)>> {
        let sql = format!(
            "SELECT event_id, run_id FROM /*_*/event_history WHERE event_id IN ({ids}) \
             AND (resolved_as IS NULL OR resolved_as <> 'retried')"
        );
        let sql = self.sql(&sql);
        let read = |row: &dyn Row| (EventId(row.int(0)), row.opt_int(1));
        query_all(&mut *self.db, &sql, &[], read)
    }

    /// What this run has already planned for events of `ids`, as its lines in the log have it.
    fn planned_by(&mut self, run_id: i64, ids: &str) -> DbResult<Vec<(EventId, String, String)>> {
        let sql = format!(
            "SELECT event_id, decision, detail FROM /*_*/event_log \
             WHERE event_id IN ({ids}) AND run_id = {run_id}"
        );
        let sql = self.sql(&sql);
        let read = |row: &dyn Row| (EventId(row.int(0)), row.text(1), row.text(2));
        query_all(&mut *self.db, &sql, &[], read)
    }

    /// The rows are gone, so their history tells only what the run remembers of them.
    fn record_withdrawn(
        &mut self,
        writer: Writer<'_>,
        acks: &[Ack],
        withdrawn: &[EventId],
    ) -> DbResult<()> {
        const WHY: &str = "the row was deleted while it ran";
        for ack in acks.iter().filter(|ack| withdrawn.contains(&ack.id)) {
            let Some(started) = ack.started_at else {
                continue;
            };
            let sql = "INSERT INTO /*_*/event_history (event_id, type, due_at, priority, attempts, \
                       losses, deferrals, outcome, finished_at, run_id, duration_ms, error) \
                       VALUES (?, ?, ?, 0, 0, 0, 0, 'withdrawn', ?, ?, ?, ?)";
            let sql = self.sql(sql);
            let params = [
                ack.id.0.into(),
                ack.type_name.as_str().into(),
                started.into(),
                writer.now.into(),
                writer.run_id.into(),
                ack.duration_ms.into(),
                WHY.into(),
            ];
            self.db.execute(&sql, &params)?;
            self.log_fate(writer, ack, "withdrawn", WHY)?;
        }
        Ok(())
    }

    /// How the events of `ids` ended that this run has already written to history: outcome and
    /// error of each.
    pub fn recorded_endings(
        &mut self,
        run_id: i64,
        ids: &[EventId],
    ) -> DbResult<Vec<(EventId, Outcome, Option<String>)>> {
        let sql = format!(
            "SELECT event_id, outcome, error FROM /*_*/event_history \
             WHERE event_id IN ({}) AND run_id = {run_id}",
            id_list(ids.iter().map(|id| id.0)),
        );
        let sql = self.sql(&sql);
        let read = |row: &dyn Row| (EventId(row.int(0)), row.text(1), row.opt_text(2));
        let rows = query_all(&mut *self.db, &sql, &[], read)?;
        let known = |(id, word, error): (EventId, String, Option<String>)| {
            Some((id, word.parse().ok()?, error))
        };
        Ok(rows.into_iter().filter_map(known).collect())
    }

    fn guard(&self, owner: Owner) -> String {
        let status = self.dialect().guarded_status();
        match owner {
            Owner::Claim(epoch) => format!("{status} = 'running' AND claim_epoch = {epoch}"),
            Owner::Orphan => format!("{status} = 'running' AND claim_epoch IS NULL"),
            Owner::Nobody => format!("{status} = 'ready'"),
            Owner::Ready(due_by) => format!("{status} = 'ready' AND due_at <= {due_by}"),
        }
    }
}

/// A value that may differ between the rows of one statement: a plain number where it does not,
/// else a CASE over the id.
fn by_id(acks: &[&Ack], value: impl Fn(&Ack) -> String) -> String {
    let first = value(acks[0]);
    if acks.iter().all(|ack| value(ack) == first) {
        return first;
    }
    let cases: Vec<String> = acks
        .iter()
        .map(|ack| format!("WHEN {} THEN {}", ack.id, value(ack)))
        .collect();
    format!("CASE id {} END", cases.join(" "))
}

fn plus_one(yes: bool) -> &'static str {
    if yes { " + 1" } else { "" }
}

fn or_null(number: Option<i64>) -> String {
    number.map_or_else(|| "NULL".to_owned(), |number| number.to_string())
}
