//! Endings that are made again: which there are, and the making, in one transaction with the marks
//! by which none is made twice.

use crate::backfill::{PRIORITY, origin};
use crate::clock::UnixSeconds;
use crate::db::{DbErrorKind, DbResult, Row, Value, id_list, query_all};
use crate::event::{EventId, Outcome};
use crate::store::{Stopped, Store};

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
             WHERE history_id IN ({all}) AND resolved_at IS NULL",
            self.dialect().by_primary_key(),
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
