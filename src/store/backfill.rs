//! Backfills: how far each has come. `place` only moves under the condition of what was seen, in
//! one transaction with the rows behind it.

use super::runs::LogEntry;
use super::{Stopped, Store};
use crate::backfill::origin;
use crate::clock::UnixSeconds;
use crate::db::{DbResult, Row, query_all, query_one};

mod endings;

pub use endings::{ClosedEnding, Endings, OpenEnding};

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
}
