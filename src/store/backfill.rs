//! Backfills: how far each has come, what of the past can be made anew, and the making. `place`
//! only moves under the condition of what was seen, in one transaction with the rows behind it.

use super::runs::LogEntry;
use super::{Stopped, Store};
use crate::backfill::{PRIORITY, origin};
use crate::clock::UnixSeconds;
use crate::db::{DbErrorKind, DbResult, Dialect, Row, Value, id_list, query_all, query_one};
use crate::event::{EventId, Outcome};

/// A backfill as the tables have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backfill {
    /// `backfill_id`.
    pub id: i64,
    /// `plan`, as it was handed over.
    pub plan: String,
    /// `sort`.
    pub sort: String,
    /// `selection`: JSON, see [`crate::backfill::Selection`].
    pub selection: String,
    /// `state`: a digest of what the selection depended on.
    pub state: String,
    /// `rate`.
    pub rate: String,
    /// `most`: at most so many events.
    pub most: Option<i64>,
    /// `planned`.
    pub planned: i64,
    /// `written`.
    pub written: i64,
    /// `place`: behind the last candidate that was dealt with.
    pub place: String,
    /// `history_from`: history rows of its events have greater ids.
    pub history_from: i64,
    /// `created_at`: its first event is due then.
    pub created_at: UnixSeconds,
    /// `finished_at`: all is written.
    pub finished_at: Option<UnixSeconds>,
    /// `cancelled_at`.
    pub cancelled_at: Option<UnixSeconds>,
}

const COLUMNS: &str = "backfill_id, plan, sort, selection, state, rate, most, planned, written, \
     place, history_from, created_at, finished_at, cancelled_at";

fn read_backfill(row: &dyn Row) -> Backfill {
    Backfill {
        id: row.int(0),
        plan: row.text(1),
        sort: row.text(2),
        selection: row.text(3),
        state: row.text(4),
        rate: row.text(5),
        most: row.opt_int(6),
        planned: row.int(7),
        written: row.int(8),
        place: row.text(9),
        history_from: row.int(10),
        created_at: UnixSeconds(row.int(11)),
        finished_at: row.opt_int(12).map(UnixSeconds),
        cancelled_at: row.opt_int(13).map(UnixSeconds),
    }
}

/// Which endings, and how far they were read.
#[derive(Debug, Clone, Copy)]
pub struct Endings {
    /// How they ended.
    pub outcome: Outcome,
    /// The window in which they did, both ends in it.
    pub window: (UnixSeconds, UnixSeconds),
    /// None with a greater `history_id`.
    pub bound: i64,
}

/// An ending that nobody resolved, or made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenEnding {
    /// `history_id`.
    pub history_id: i64,
    /// `event_id`.
    pub event_id: EventId,
    /// `finished_at`.
    pub finished_at: UnixSeconds,
    /// `type`.
    pub type_name: String,
    /// `error`.
    pub error: String,
    /// `unique_key`.
    pub key: Option<Vec<u8>>,
    /// How it ended.
    pub outcome: String,
    /// Its event is live.
    pub is_live: bool,
    /// A ready event has its key.
    pub key_is_taken: bool,
}

impl OpenEnding {
    /// Whether the event comes back under its id, as `retry` would have it; otherwise it is another
    /// one with the same payload.
    pub fn keeps_id(&self) -> bool {
        keeps_id(&self.outcome)
    }

    /// Why it is not made again, if it is not.
    pub fn obstacle(&self) -> Option<&'static str> {
        if self.is_live && self.keeps_id() {
            Some("live again")
        } else if self.key_is_taken {
            Some("superseded by a ready event with the same key")
        } else {
            None
        }
    }
}

fn keeps_id(outcome: &str) -> bool {
    !matches!(outcome, "done" | "withdrawn")
}

/// One that somebody has resolved, or that was made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedEnding {
    /// By resolution, end and id: where to go on.
    pub place: (i64, i64, i64),
    /// `type`.
    pub type_name: String,
    /// `error`.
    pub error: String,
    /// `resolved_as`.
    pub resolved_as: String,
}

impl Store {
    /// The last `limit` backfills, the newest first.
    pub fn backfills(&mut self, limit: usize) -> DbResult<Vec<Backfill>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM /*_*/event_backfills ORDER BY backfill_id DESC LIMIT {limit}"
        );
        let sql = self.sql(&sql);
        query_all(&mut *self.db, &sql, &[], read_backfill)
    }

    /// One backfill.
    pub fn backfill(&mut self, id: i64) -> DbResult<Option<Backfill>> {
        let sql = format!("SELECT {COLUMNS} FROM /*_*/event_backfills WHERE backfill_id = ?");
        let sql = self.sql(&sql);
        query_one(&mut *self.db, &sql, &[id.into()], read_backfill)
    }

    /// The backfill as which a plan was applied.
    pub fn backfill_of_plan(&mut self, plan: &str) -> DbResult<Option<Backfill>> {
        let sql = format!("SELECT {COLUMNS} FROM /*_*/event_backfills WHERE plan = ?");
        let sql = self.sql(&sql);
        query_one(&mut *self.db, &sql, &[plan.into()], read_backfill)
    }

    /// The last backfill of a selection that was cancelled; 0: none was.
    pub fn last_cancelled(&mut self, selection: &str) -> DbResult<i64> {
        let sql = "SELECT backfill_id FROM /*_*/event_backfills \
                   WHERE selection = ? AND cancelled_at IS NOT NULL \
                   ORDER BY backfill_id DESC LIMIT 1";
        let sql = self.sql(sql);
        let found = query_one(&mut *self.db, &sql, &[selection.into()], |row| row.int(0))?;
        Ok(found.unwrap_or(0))
    }

    /// The greatest `history_id`; 0: there is none.
    pub fn last_history_id(&mut self) -> DbResult<i64> {
        self.number("SELECT MAX(history_id) FROM /*_*/event_history")
    }

    /// Adds a backfill of which nothing is written yet, and returns its id.
    ///
    /// # Errors
    /// `Duplicate` where somebody else has just applied the same plan.
    pub fn add_backfill(&mut self, new: &Backfill) -> Result<i64, Stopped> {
        self.transaction(|store| {
            let sql = "INSERT INTO /*_*/event_backfills (plan, sort, selection, state, rate, most, \
                       planned, history_from, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
            let sql = store.sql(sql);
            let params = [
                new.plan.as_str().into(),
                new.sort.as_str().into(),
                new.selection.as_str().into(),
                new.state.as_str().into(),
                new.rate.as_str().into(),
                new.most.into(),
                new.planned.into(),
                new.history_from.into(),
                new.created_at.into(),
            ];
            store.db.execute(&sql, &params)?;
            let id = store.db.last_insert_id();
            store.log_backfill(id, "backfill begun", &new.selection, new.created_at)?;
            Ok(id)
        })
    }

    /// Whether `seen` is as it was seen, and to be gone on with. Whoever asks in a transaction has
    /// it for himself until its end.
    pub fn holds_backfill(&mut self, seen: &Backfill) -> DbResult<bool> {
        self.move_backfill(seen, &seen.place, 0)
    }

    /// Moves a backfill that is as it was `seen` to `place`, behind so many new events; false: it
    /// is not as it was seen, or is finished or cancelled.
    pub fn move_backfill(&mut self, seen: &Backfill, place: &str, made: i64) -> DbResult<bool> {
        let sql = "UPDATE /*_*/event_backfills SET place = ?, written = written + ? \
                   WHERE backfill_id = ? AND place = ? AND finished_at IS NULL \
                   AND cancelled_at IS NULL";
        let sql = self.sql(sql);
        let params = [
            place.into(),
            made.into(),
            seen.id.into(),
            seen.place.as_str().into(),
        ];
        Ok(self.db.execute(&sql, &params)? == 1)
    }

    /// Notes that all of a backfill that is as it was `seen` is written; false: it is not.
    ///
    /// # Errors
    /// [`Stopped::Db`].
    pub fn finish_backfill(&mut self, seen: &Backfill, now: UnixSeconds) -> Result<bool, Stopped> {
        self.transaction(|store| {
            let sql = "UPDATE /*_*/event_backfills SET finished_at = ? WHERE backfill_id = ? \
                       AND place = ? AND finished_at IS NULL AND cancelled_at IS NULL";
            let sql = store.sql(sql);
            let params = [now.into(), seen.id.into(), seen.place.as_str().into()];
            if store.db.execute(&sql, &params)? != 1 {
                return Ok(false);
            }
            let detail = format!("{} of {} events", seen.written, seen.planned);
            store.log_backfill(seen.id, "backfill written", &detail, now)?;
            Ok(true)
        })
    }

    /// Ends a backfill: whoever writes it stops, and nobody goes on with it. False: it was
    /// cancelled before.
    ///
    /// # Errors
    /// [`Stopped::Db`].
    pub fn cancel_backfill(&mut self, id: i64, now: UnixSeconds) -> Result<bool, Stopped> {
        self.transaction(|store| {
            let sql = "UPDATE /*_*/event_backfills SET cancelled_at = ? \
                       WHERE backfill_id = ? AND cancelled_at IS NULL";
            let sql = store.sql(sql);
            if store.db.execute(&sql, &[now.into(), id.into()])? != 1 {
                return Ok(false);
            }
            store.log_backfill(id, "backfill cancelled", "by hand", now)?;
            Ok(true)
        })
    }

    fn log_backfill(
        &mut self,
        id: i64,
        decision: &str,
        detail: &str,
        now: UnixSeconds,
    ) -> DbResult<()> {
        self.log(&LogEntry {
            at: now,
            run_id: None,
            event: None,
            type_name: None,
            decision,
            detail: &format!("{}: {detail}", origin(id)),
        })
    }

    /// How many events of a backfill are live, by status. Reads all live events.
    pub fn backfill_live(&mut self, id: i64) -> DbResult<Vec<(String, i64)>> {
        let sql = "SELECT status, COUNT(*) FROM /*_*/scheduled_events WHERE origin = ? \
                   GROUP BY status ORDER BY status";
        let sql = self.sql(sql);
        query_all(&mut *self.db, &sql, &[origin(id).into()], |row| {
            (row.text(0), row.int(1))
        })
    }

    /// How many events of a backfill ended, by outcome. Reads all that has ended since it began.
    pub fn backfill_ended(&mut self, backfill: &Backfill) -> DbResult<Vec<(String, i64)>> {
        let sql = "SELECT outcome, COUNT(*) FROM /*_*/event_history \
                   WHERE history_id > ? AND origin = ? GROUP BY outcome ORDER BY outcome";
        let sql = self.sql(sql);
        let params = [backfill.history_from.into(), origin(backfill.id).into()];
        query_all(&mut *self.db, &sql, &params, |row| {
            (row.text(0), row.int(1))
        })
    }

    /// Type and key of all events that a backfill has made so far, where they have one.
    pub fn backfill_keys(&mut self, backfill: &Backfill) -> DbResult<Vec<(String, Vec<u8>)>> {
        let read = |row: &dyn Row| (row.text(0), row.opt_bytes(1).unwrap_or_default());
        let name = origin(backfill.id);
        let sql = "SELECT type, COALESCE(held_key, unique_key) FROM /*_*/scheduled_events \
                   WHERE origin = ? AND COALESCE(held_key, unique_key) IS NOT NULL";
        let sql = self.sql(sql);
        let mut keys = query_all(&mut *self.db, &sql, &[name.as_str().into()], read)?;
        let sql = "SELECT type, unique_key FROM /*_*/event_history \
                   WHERE history_id > ? AND origin = ? AND unique_key IS NOT NULL";
        let sql = self.sql(sql);
        let params = [backfill.history_from.into(), name.as_str().into()];
        keys.extend(query_all(&mut *self.db, &sql, &params, read)?);
        Ok(keys)
    }

    /// The slots of a schedule from `first` to `last` that became events.
    pub fn slots_made(
        &mut self,
        schedule: &str,
        first: UnixSeconds,
        last: UnixSeconds,
    ) -> DbResult<Vec<UnixSeconds>> {
        let sql = "SELECT slot FROM /*_*/event_slots WHERE schedule = ? AND slot >= ? \
                   AND slot <= ? ORDER BY slot";
        let sql = self.sql(sql);
        let params = [schedule.into(), first.into(), last.into()];
        query_all(&mut *self.db, &sql, &params, |row| UnixSeconds(row.int(0)))
    }

    /// Up to `limit` unresolved endings behind `after`, by end and `history_id`.
    pub fn open_endings(
        &mut self,
        which: Endings,
        after: (UnixSeconds, i64),
        limit: usize,
    ) -> DbResult<Vec<OpenEnding>> {
        let (from, to) = which.window;
        let (at, id) = after;
        // The rest of its second first, then later ones: two ranges of the index.
        let mut ranges = vec![format!("h.finished_at > {at}")];
        if at >= from {
            ranges.insert(0, format!("h.finished_at = {at} AND h.history_id > {id}"));
        }
        let mut found = Vec::new();
        for range in ranges {
            let sql = format!(
                "SELECT {} FROM /*_*/event_history h{} WHERE h.outcome = '{}' \
                 AND h.resolved_at IS NULL AND h.finished_at >= {from} AND h.finished_at <= {to} \
                 AND {range} AND h.history_id <= {} ORDER BY h.finished_at, h.history_id LIMIT {}",
                OPEN_COLUMNS,
                self.hint(" FORCE INDEX (/*_*/event_history_outcome)"),
                which.outcome,
                which.bound,
                limit - found.len(),
            );
            let sql = self.sql(&sql);
            found.extend(query_all(&mut *self.db, &sql, &[], read_open)?);
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    /// Up to `limit` resolved endings behind `after`, by when they were resolved.
    pub fn closed_endings(
        &mut self,
        which: Endings,
        after: (i64, i64, i64),
        limit: usize,
    ) -> DbResult<Vec<ClosedEnding>> {
        let (from, to) = which.window;
        let (resolved, finished, id) = after;
        let sql = format!(
            "SELECT resolved_at, finished_at, history_id, type, error, resolved_as \
             FROM /*_*/event_history{} WHERE outcome = '{}' AND resolved_at >= {resolved} \
             AND (resolved_at > {resolved} OR finished_at > {finished} \
             OR (finished_at = {finished} AND history_id > {id})) \
             AND finished_at >= {from} AND finished_at <= {to} AND history_id <= {} \
             ORDER BY resolved_at, finished_at, history_id LIMIT {limit}",
            self.hint(" FORCE INDEX (/*_*/event_history_outcome)"),
            which.outcome,
            which.bound,
        );
        let sql = self.sql(&sql);
        query_all(&mut *self.db, &sql, &[], |row| ClosedEnding {
            place: (row.int(0), row.int(1), row.int(2)),
            type_name: row.text(3),
            error: row.text(4),
            resolved_as: row.text(5),
        })
    }

    /// Which of these endings can be made again now, in their order, as many of them as have
    /// `bytes` of payload together; and how many of `ids` were looked at for that.
    pub fn still_open(&mut self, ids: &[i64], bytes: i64) -> DbResult<(Vec<OpenEnding>, usize)> {
        let sql = format!(
            "SELECT {}, {}, resolved_at IS NULL FROM /*_*/event_history h{} \
             WHERE h.history_id IN ({})",
            OPEN_COLUMNS,
            self.dialect().byte_length("h.payload"),
            self.dialect().by_primary_key(),
            id_list(ids.iter().copied()),
        );
        let sql = self.sql(&sql);
        let rows = query_all(&mut *self.db, &sql, &[], |row| {
            (
                read_open(row),
                row.int(OPEN_WIDTH),
                row.int(OPEN_WIDTH + 1) == 1,
            )
        })?;
        let (mut open, mut sum) = (Vec::new(), 0);
        for (looked_at, id) in ids.iter().enumerate() {
            let Some((row, size, is_open)) = rows.iter().find(|row| row.0.history_id == *id) else {
                continue; // pruned
            };
            if !is_open || row.obstacle().is_some() {
                continue;
            }
            sum += size;
            let is_twin = |other: &OpenEnding| row.keeps_id() && other.event_id == row.event_id;
            // A twin is found to be live again by the next transaction.
            if !open.is_empty() && (sum > bytes || open.iter().any(is_twin)) {
                return Ok((open, looked_at));
            }
            open.push(row.clone());
        }
        Ok((open, ids.len()))
    }

    /// Makes the events of `endings` again, each due when `due` says, which counts from 0; each
    /// ending is marked, so that it is not made again twice. To be called in a transaction.
    ///
    /// # Errors
    /// [`Stopped::Changed`] where they are not as they were read.
    pub fn make_again(
        &mut self,
        endings: &[OpenEnding],
        backfill: i64,
        due: &dyn Fn(u64) -> UnixSeconds,
        now: UnixSeconds,
    ) -> Result<(), Stopped> {
        let ids = |keep: bool| {
            let some = endings
                .iter()
                .filter(move |ending| ending.keeps_id() == keep);
            id_list(some.map(|ending| ending.history_id))
        };
        let all = id_list(endings.iter().map(|ending| ending.history_id));
        let sql = format!(
            "UPDATE /*_*/event_history{} SET resolved_at = {now}, resolved_as = 'retried' \
             WHERE history_id IN ({all}) AND {}resolved_at IS NULL",
            self.dialect().by_primary_key(),
            self.hidden(),
        );
        let sql = self.sql(&sql);
        if self.db.execute(&sql, &[])? != endings.len() as u64 {
            return Err(Stopped::Changed);
        }
        let due = due_by_id(endings, due);
        let name = origin(backfill);
        for (columns, values, list) in [
            ("id, last_error, ", "event_id, error, ", ids(true)),
            ("", "", ids(false)),
        ] {
            if list.is_empty() {
                continue;
            }
            let sql = format!(
                "INSERT INTO /*_*/scheduled_events ({columns}type, due_at, payload, unique_key, \
                 origin, slot_at, priority, created_at) SELECT {values}type, {due}, payload, \
                 unique_key, ?, slot_at, {PRIORITY}, {now} FROM /*_*/event_history{} \
                 WHERE history_id IN ({list})",
                self.dialect().by_primary_key(),
            );
            let sql = self.sql(&sql);
            match self.db.execute(&sql, &[name.as_str().into()]) {
                Err(error) if error.kind == DbErrorKind::Duplicate => {
                    return Err(Stopped::Changed); // somebody has just taken a key
                }
                other => drop(other?),
            }
        }
        let sql = format!(
            "INSERT INTO /*_*/event_log (logged_at, event_id, type, decision, detail) \
             SELECT {now}, event_id, type, 'retried', ? FROM /*_*/event_history{} \
             WHERE history_id IN ({all})",
            self.dialect().by_primary_key(),
        );
        let sql = self.sql(&sql);
        let detail = format!("made again by {name}");
        let params: [Value<'_>; 1] = [detail.into()];
        self.db.execute(&sql, &params)?;
        Ok(())
    }

    /// Keeps SQLite from the index over `resolved_at`, which would walk all of history.
    fn hidden(&self) -> &'static str {
        match self.dialect() {
            Dialect::Sqlite => "+",
            Dialect::Mysql => "",
        }
    }
}

/// How many columns [`OPEN_COLUMNS`] are.
const OPEN_WIDTH: usize = 9;

const OPEN_COLUMNS: &str = "h.history_id, h.finished_at, h.type, h.error, h.unique_key, h.outcome, \
     (SELECT 1 FROM /*_*/scheduled_events l WHERE l.id = h.event_id), \
     (SELECT 1 FROM /*_*/scheduled_events k \
     WHERE k.type = h.type AND k.unique_key = h.unique_key), h.event_id";

fn read_open(row: &dyn Row) -> OpenEnding {
    OpenEnding {
        history_id: row.int(0),
        finished_at: UnixSeconds(row.int(1)),
        type_name: row.text(2),
        error: row.text(3),
        key: row.opt_bytes(4),
        outcome: row.text(5),
        is_live: row.int(6) == 1,
        key_is_taken: row.int(7) == 1,
        event_id: EventId(row.int(8)),
    }
}

/// When each of `endings` is due, as an expression.
fn due_by_id(endings: &[OpenEnding], due: &dyn Fn(u64) -> UnixSeconds) -> String {
    use std::fmt::Write;
    let mut choice = String::from("CASE history_id");
    for (number, ending) in (0..).zip(endings) {
        write!(choice, " WHEN {} THEN {}", ending.history_id, due(number))
            .expect("writing to a String cannot fail");
    }
    choice.push_str(" END");
    choice
}
