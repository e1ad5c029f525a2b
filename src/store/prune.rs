//! Old history leaves in small transactions, by primary key, so that a site's own writes never
//! wait for it (RULINGS 37).

use std::time::Duration;

use super::Store;
use crate::clock::UnixSeconds;
use crate::config::RunConfig;
use crate::db::{DbResult, id_list, query_all};
use crate::event::Outcome;

/// Rows removed in one transaction.
const CHUNK: usize = 1000;

/// What a source has derived is remembered for so long at the least: clocks are put back.
const A_WEEK: Duration = Duration::from_hours(7 * 24);

/// How long finished things are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Done, skipped, cancelled and withdrawn events, resolved ones, runs and log lines older than
    /// this go.
    pub before: UnixSeconds,
    /// Dead and unknown events that nobody resolved go when older than this.
    pub failed_before: UnixSeconds,
    /// At most this many history rows stay; unresolved dead and unknown ones always do.
    pub rows: Option<i64>,
}

impl Retention {
    /// What the configuration keeps, seen from `now`.
    pub fn of(run: &RunConfig, now: UnixSeconds) -> Self {
        Self {
            before: now.before(run.history),
            failed_before: now.before(run.history_failed),
            rows: run.history_rows.and_then(|rows| i64::try_from(rows).ok()),
        }
    }

    /// Which events that ended as `outcome` are over their time, in conditions that the index over
    /// outcome, resolution and end serves.
    pub(super) fn over(&self, outcome: Outcome) -> [String; 2] {
        let unresolved_before = match outcome {
            Outcome::Dead | Outcome::Unknown => self.failed_before,
            _ => self.before,
        };
        [
            format!(
                "outcome = '{outcome}' AND resolved_at IS NULL AND finished_at < {unresolved_before}"
            ),
            format!("outcome = '{outcome}' AND resolved_at < {}", self.before),
        ]
    }
}

impl Store {
    /// Removes one chunk of what is over its time and returns how many rows that were; 0 when
    /// nothing is left to remove.
    pub fn prune_chunk(&mut self, keep: Retention) -> DbResult<usize> {
        for condition in Outcome::ALL.into_iter().flat_map(|one| keep.over(one)) {
            let removed = self.remove("event_history", "history_id", &condition)?;
            if removed > 0 {
                return Ok(removed);
            }
        }
        if let Some(rows) = keep.rows {
            let removed = self.cap_history(rows)?;
            if removed > 0 {
                return Ok(removed);
            }
        }
        let old = keep.before;
        let removed = self.remove("event_log", "log_id", &format!("logged_at < {old}"))?;
        if removed > 0 {
            return Ok(removed);
        }
        // An event that still waits is to be told how many slots it stands for; and a slot that was
        // made late, by a backfill, is known to be made for as long as its event is.
        let slots = format!(
            "slot < {old} AND NOT EXISTS \
             (SELECT 1 FROM /*_*/scheduled_events WHERE id = made_id) \
             AND NOT EXISTS (SELECT 1 FROM /*_*/event_history{} WHERE event_id = made_id)",
            self.event_index(),
        );
        let removed = self.remove("event_slots", "slot_id", &slots)?;
        if removed > 0 {
            return Ok(removed);
        }
        let removed = self.forget_derived(old)?;
        if removed > 0 {
            return Ok(removed);
        }
        let removed = self.remove("event_runs", "run_id", &format!("finished_at < {old}"))?;
        if removed > 0 {
            return Ok(removed);
        }
        let asides = format!("lock_id = '' AND aside_at < {old}");
        self.remove("event_aside", "aside_id", &asides)
    }

    /// Forgets what sources have derived long ago: seen from where they are looked at, which a clock
    /// that is put back does not move much.
    fn forget_derived(&mut self, old: UnixSeconds) -> DbResult<usize> {
        for scan in self.scans()? {
            let is_stated = !scan.rule.is_empty();
            let behind = if is_stated {
                old.min(scan.watermark.before(A_WEEK))
            } else {
                old
            };
            let removed = self.forget_records(&scan.source, behind, CHUNK)?;
            if removed > 0 {
                return Ok(removed);
            }
            if !is_stated {
                self.forget_scan(&scan.source)?;
            }
        }
        Ok(0)
    }

    /// Removes the oldest rows above the cap. Ids are dense but for what was pruned before, so the
    /// span of ids bounds the count without counting.
    fn cap_history(&mut self, rows: i64) -> DbResult<usize> {
        let newest = self.number("SELECT MAX(history_id) FROM /*_*/event_history")?;
        let condition = format!(
            "history_id <= {} AND (outcome NOT IN ('dead', 'unknown') OR resolved_at IS NOT NULL)",
            newest - rows
        );
        self.remove("event_history", "history_id", &condition)
    }

    fn remove(&mut self, table: &str, key: &str, condition: &str) -> DbResult<usize> {
        let select = format!("SELECT {key} FROM /*_*/{table} WHERE {condition} LIMIT {CHUNK}");
        let select = self.sql(&select);
        let ids = query_all(&mut *self.db, &select, &[], |row| row.int(0))?;
        if ids.is_empty() {
            return Ok(0);
        }
        let table = format!("{}{table}", self.prefix);
        let delete = self.dialect().delete_by_primary_key(&table);
        let delete = format!("{delete} WHERE {key} IN ({})", id_list(ids.iter().copied()));
        self.db.execute(&delete, &[])?;
        Ok(ids.len())
    }
}
