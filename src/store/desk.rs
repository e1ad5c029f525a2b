//! What a person does by hand: adding, cancelling, retrying, resolving. Rows that a run has claimed
//! are left alone; every write by id names the primary key and guards what it saw.

use super::runs::LogEntry;
use super::settle::{Ack, Owner, Writer};
use super::{Stopped, Store};
use crate::clock::UnixSeconds;
use crate::db::{DbErrorKind, DbResult, Row, Value, id_list, query_all, query_one};
use crate::event::EventId;

/// An event to be added; lengths are checked by whoever makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewEvent<'a> {
    /// `type`.
    pub type_name: &'a str,
    /// `due_at`.
    pub due_at: UnixSeconds,
    /// `payload`.
    pub payload: Option<&'a [u8]>,
    /// `unique_key`.
    pub key: Option<&'a str>,
    /// `priority`.
    pub priority: i8,
    /// `expires_at`.
    pub expires_at: Option<UnixSeconds>,
}

/// What happens where a ready event has the key already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// It stays.
    Keep,
    /// It is cancelled, and the new one added.
    Replace,
    /// The one due earliest stays.
    Earliest,
    /// The one due latest stays.
    Latest,
}

/// What came of adding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// The event that now has the key.
    pub id: EventId,
    /// When it is due.
    pub due_at: UnixSeconds,
    /// False: an existing event was kept.
    pub created: bool,
}

/// What a person says became of an event after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolvedAs {
    /// It was done after all.
    Done,
    /// It is given up.
    Dead,
}

impl ResolvedAs {
    /// The word stored in `resolved_as`.
    pub fn as_str(self) -> &'static str {
        match self {
            ResolvedAs::Done => "done",
            ResolvedAs::Dead => "dead",
        }
    }
}

/// What came of a command by hand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByHand {
    /// How many events it was done to.
    pub done: u64,
    /// To which it could not be done, and why.
    pub refused: Vec<(EventId, String)>,
}

/// Columns of [`NewEvent`] in the order they are bound.
const NEW_COLUMNS: &str = "type, due_at, payload, unique_key, priority, expires_at, created_at";
/// How often a key that comes and goes between two statements is looked at.
const LOOKS: usize = 5;
/// Why an event with a key was cancelled when another came.
const REPLACED: &str = "replaced by a newer event with its key";
/// Why an event was cancelled by `cancel`.
const BY_HAND: &str = "cancelled by hand";

impl Store {
    /// Adds `event`. Safe against others that add the same key in the same instant: whoever comes
    /// second meets the UNIQUE key and looks again.
    ///
    /// # Errors
    /// [`Stopped::Db`]; [`Stopped::Changed`] where the key comes and goes all the time.
    pub fn add_event(
        &mut self,
        event: &NewEvent<'_>,
        if_exists: IfExists,
        now: UnixSeconds,
    ) -> Result<Added, Stopped> {
        for _ in 0..LOOKS {
            match self.transaction(|store| store.try_to_add(event, if_exists, now)) {
                Err(Stopped::Db(error)) if error.kind == DbErrorKind::Duplicate => {}
                Err(Stopped::Changed) => {}
                other => return other,
            }
        }
        Err(Stopped::Changed)
    }

    fn try_to_add(
        &mut self,
        event: &NewEvent<'_>,
        if_exists: IfExists,
        now: UnixSeconds,
    ) -> Result<Added, Stopped> {
        if let Some((id, due_at)) = self.holder_of_key(event)? {
            let keeps = match if_exists {
                IfExists::Keep => true,
                IfExists::Replace => false,
                IfExists::Earliest => due_at <= event.due_at,
                IfExists::Latest => due_at >= event.due_at,
            };
            if keeps {
                return Ok(Added {
                    id,
                    due_at,
                    created: false,
                });
            }
            // A new row and not a changed one: a run that has read the old one finds it gone, and
            // fires neither half.
            let ack = Ack::cancelled(id, event.type_name, REPLACED);
            self.settle_all(Owner::Nobody, by_hand(now), &[&ack])?;
        }
        self.insert(std::slice::from_ref(event), "INSERT", now)?;
        Ok(Added {
            id: EventId(self.db.last_insert_id()),
            due_at: event.due_at,
            created: true,
        })
    }

    /// The ready event that has the key of `event`.
    fn holder_of_key(&mut self, event: &NewEvent<'_>) -> DbResult<Option<(EventId, UnixSeconds)>> {
        let Some(key) = event.key else {
            return Ok(None);
        };
        let sql = "SELECT id, due_at FROM /*_*/scheduled_events WHERE type = ? AND unique_key = ?";
        let sql = self.sql(sql);
        query_one(
            &mut *self.db,
            &sql,
            &[event.type_name.into(), key.into()],
            |row| (EventId(row.int(0)), UnixSeconds(row.int(1))),
        )
    }

    /// Adds `events` in one transaction, in their order, and returns how many were added: those
    /// whose key a ready event has are left out. `statements` says how many events go into each
    /// statement.
    ///
    /// # Errors
    /// [`Stopped::Db`]: nothing is added then, unless it is `CommitUnknown`.
    pub fn add_many(
        &mut self,
        events: &[NewEvent<'_>],
        statements: &[usize],
        now: UnixSeconds,
    ) -> Result<u64, Stopped> {
        self.transaction(|store| {
            let (mut added, mut rest) = (0, events);
            for &size in statements {
                let (part, after) = rest.split_at(size);
                // Only where a key can be taken: IGNORE would hide other faults on MySQL.
                let keyed = part.iter().any(|event| event.key.is_some());
                let insert = if keyed {
                    store.dialect().insert_or_ignore()
                } else {
                    "INSERT"
                };
                added += store.insert(part, insert, now)?;
                rest = after;
            }
            Ok(added)
        })
    }

    fn insert(&mut self, events: &[NewEvent<'_>], insert: &str, now: UnixSeconds) -> DbResult<u64> {
        let rows = vec!["(?, ?, ?, ?, ?, ?, ?)"; events.len()].join(", ");
        let sql = format!("{insert} INTO /*_*/scheduled_events ({NEW_COLUMNS}) VALUES {rows}");
        let sql = self.sql(&sql);
        let mut params: Vec<Value<'_>> = Vec::with_capacity(events.len() * 7);
        for event in events {
            params.extend([
                event.type_name.into(),
                event.due_at.into(),
                event.payload.into(),
                event.key.into(),
                i64::from(event.priority).into(),
                event.expires_at.into(),
                now.into(),
            ]);
        }
        self.db.execute(&sql, &params)
    }

    /// Cancels those of `ids` that are ready.
    ///
    /// # Errors
    /// [`Stopped::Db`].
    pub fn cancel(&mut self, ids: &[EventId], now: UnixSeconds) -> Result<ByHand, Stopped> {
        let rows = self.live_rows(ids)?;
        let mut result = ByHand::default();
        let mut acks = Vec::with_capacity(rows.len());
        for &id in ids {
            match rows.iter().find(|row| row.id == id) {
                None => result.refused.push((id, self.why_not_live(id)?)),
                Some(row) if row.running => result.refused.push((id, IS_RUNNING.to_owned())),
                Some(row) => acks.push(Ack::cancelled(id, &row.type_name, BY_HAND)),
            }
        }
        if acks.is_empty() {
            return Ok(result);
        }
        let surprises = self.settle(Owner::Nobody, by_hand(now), &acks)?;
        for id in surprises.fenced {
            result.refused.push((id, IS_RUNNING.to_owned()));
        }
        for id in surprises.withdrawn {
            result.refused.push((id, self.why_not_live(id)?));
        }
        let refused = |ack: &&Ack| result.refused.iter().any(|(id, _)| *id == ack.id);
        result.done = acks.iter().filter(|ack| !refused(ack)).count() as u64;
        Ok(result)
    }

    fn live_rows(&mut self, ids: &[EventId]) -> DbResult<Vec<LiveRow>> {
        let sql = format!(
            "SELECT id, type, status, due_at, attempts + losses + deferrals \
             FROM /*_*/scheduled_events{} WHERE id IN ({})",
            self.dialect().by_primary_key(),
            id_list(ids.iter().map(|id| id.0)),
        );
        let sql = self.sql(&sql);
        query_all(&mut *self.db, &sql, &[], |row| LiveRow {
            id: EventId(row.int(0)),
            type_name: row.text(1),
            running: row.text(2) != "ready",
            due_at: UnixSeconds(row.int(3)),
            was_tried: row.int(4) > 0,
        })
    }

    fn why_not_live(&mut self, id: EventId) -> DbResult<String> {
        Ok(match self.newest_ending(id)? {
            Some(ending) => format!("is finished: {}", ending.outcome),
            None => NOT_THERE.to_owned(),
        })
    }

    /// The newest history row of an event.
    fn newest_ending(&mut self, id: EventId) -> DbResult<Option<EndedRow>> {
        let sql = format!(
            "SELECT {ENDED_COLUMNS} FROM /*_*/event_history{} WHERE event_id = {id} \
             ORDER BY history_id DESC LIMIT 1",
            self.event_index(),
        );
        let sql = self.sql(&sql);
        query_one(&mut *self.db, &sql, &[], read_ended)
    }

    /// Puts those of `ids` back that finished without success, due now, and makes those due now
    /// that wait for their next attempt.
    ///
    /// # Errors
    /// [`Stopped::Db`].
    pub fn retry(&mut self, ids: &[EventId], now: UnixSeconds) -> Result<ByHand, Stopped> {
        self.transaction(|store| {
            let rows = store.live_rows(ids)?;
            let mut result = ByHand::default();
            for &id in ids {
                let refusal = match rows.iter().find(|row| row.id == id) {
                    Some(row) => store.hasten(row, now)?,
                    None => match store.newest_ending(id)? {
                        Some(ended) => store.revive(&ended, now)?,
                        None => Some(NOT_THERE.to_owned()),
                    },
                };
                match refusal {
                    None => result.done += 1,
                    Some(why) => result.refused.push((id, why)),
                }
            }
            Ok(result)
        })
    }

    /// Makes a ready event that was tried before due now; returns why not.
    fn hasten(&mut self, row: &LiveRow, now: UnixSeconds) -> Result<Option<String>, Stopped> {
        if row.running {
            return Ok(Some(IS_RUNNING.to_owned()));
        }
        if row.due_at <= now {
            return Ok(Some(
                "is ready and due already; the next run takes it".to_owned(),
            ));
        }
        if !row.was_tried {
            return Ok(Some(
                "has not been tried yet; it waits for its time".to_owned(),
            ));
        }
        let sql = format!(
            "UPDATE /*_*/scheduled_events{} SET first_due_at = COALESCE(first_due_at, due_at), \
             due_at = {now} WHERE id = {} AND {} = 'ready'",
            self.dialect().by_primary_key(),
            row.id,
            self.dialect().guarded_status(),
        );
        let sql = self.sql(&sql);
        if self.db.execute(&sql, &[])? != 1 {
            return Ok(Some(IS_RUNNING.to_owned()));
        }
        self.log_retry(row.id, &row.type_name, "due at once instead of later", now)?;
        Ok(None)
    }

    /// Puts a finished event back under its id; returns why not.
    fn revive(&mut self, ended: &EndedRow, now: UnixSeconds) -> Result<Option<String>, Stopped> {
        if matches!(ended.outcome.as_str(), "done" | "withdrawn") {
            return Ok(Some(format!(
                "is finished: {}; there is nothing to retry",
                ended.outcome
            )));
        }
        let sql = format!(
            "INSERT INTO /*_*/scheduled_events (id, type, due_at, payload, unique_key, origin, \
             slot_at, priority, expires_at, last_error, created_at) \
             SELECT event_id, type, {now}, payload, unique_key, origin, slot_at, priority, \
             CASE WHEN expires_at > {now} THEN expires_at END, error, created_at \
             FROM /*_*/event_history WHERE history_id = {}",
            ended.history_id
        );
        let sql = self.sql(&sql);
        match self.db.execute(&sql, &[]) {
            Ok(1) => {}
            Ok(_) => return Ok(Some(NOT_THERE.to_owned())),
            Err(error) if error.kind == DbErrorKind::Duplicate => {
                return Ok(Some(
                    "cannot come back: a newer event has its key".to_owned(),
                ));
            }
            Err(error) => return Err(error.into()),
        }
        let sql = format!(
            "UPDATE /*_*/event_history{} SET resolved_at = {now}, resolved_as = 'retried' \
             WHERE history_id = {}",
            self.dialect().by_primary_key(),
            ended.history_id,
        );
        let sql = self.sql(&sql);
        self.db.execute(&sql, &[])?;
        let detail = format!("back by hand after it was {}", ended.outcome);
        self.log_retry(ended.event_id, &ended.type_name, &detail, now)?;
        Ok(None)
    }

    fn log_retry(
        &mut self,
        id: EventId,
        type_name: &str,
        detail: &str,
        now: UnixSeconds,
    ) -> DbResult<()> {
        self.log(&LogEntry {
            at: now,
            run_id: None,
            event: Some(id),
            type_name: Some(type_name),
            decision: "retried",
            detail,
        })
    }

    /// Marks the unresolved dead and unknown endings of `ids`.
    ///
    /// # Errors
    /// [`Stopped::Db`].
    pub fn resolve(
        &mut self,
        ids: &[EventId],
        as_what: ResolvedAs,
        now: UnixSeconds,
    ) -> Result<ByHand, Stopped> {
        self.transaction(|store| {
            let mut result = ByHand::default();
            let mut endings = Vec::with_capacity(ids.len());
            for &id in ids {
                match store.newest_ending(id)? {
                    None => {
                        let live = !store.live_rows(&[id])?.is_empty();
                        let why = if live { "is not finished" } else { NOT_THERE };
                        result.refused.push((id, why.to_owned()));
                    }
                    Some(ended) if !ended.is_open() => {
                        result.refused.push((id, ended.why_not_open()));
                    }
                    Some(ended) => endings.push(ended.history_id),
                }
            }
            result.done = endings.len() as u64;
            if endings.is_empty() {
                return Ok(result);
            }
            let sql = format!(
                "UPDATE /*_*/event_history{} SET resolved_at = {now}, resolved_as = '{}' \
                 WHERE history_id IN ({})",
                store.dialect().by_primary_key(),
                as_what.as_str(),
                id_list(endings),
            );
            let sql = store.sql(&sql);
            store.db.execute(&sql, &[])?;
            Ok(result)
        })
    }
}

const IS_RUNNING: &str = "is running; try again when it has ended";
const NOT_THERE: &str = "is not there: never was, or deleted, or pruned from history";

/// What a command by hand needs to know of a live event.
#[derive(Debug)]
struct LiveRow {
    id: EventId,
    type_name: String,
    running: bool,
    due_at: UnixSeconds,
    was_tried: bool,
}

const ENDED_COLUMNS: &str = "history_id, event_id, type, outcome, resolved_as";

/// What a command by hand needs to know of a finished event.
#[derive(Debug)]
struct EndedRow {
    history_id: i64,
    event_id: EventId,
    type_name: String,
    outcome: String,
    resolved_as: Option<String>,
}

impl EndedRow {
    fn is_open(&self) -> bool {
        matches!(self.outcome.as_str(), "dead" | "unknown") && self.resolved_as.is_none()
    }

    fn why_not_open(&self) -> String {
        match &self.resolved_as {
            Some(how) => format!("is {} and resolved already: {how}", self.outcome),
            None => format!("is finished: {}; there is nothing to resolve", self.outcome),
        }
    }
}

fn read_ended(row: &dyn Row) -> EndedRow {
    EndedRow {
        history_id: row.int(0),
        event_id: EventId(row.int(1)),
        type_name: row.text(2),
        outcome: row.text(3),
        resolved_as: row.opt_text(4),
    }
}

fn by_hand(now: UnixSeconds) -> Writer<'static> {
    Writer::plain(None, now)
}
