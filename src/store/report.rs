//! What people and monitoring ask: backlog, runs, one event's trail. Reads only; a read-only user
//! suffices.

use super::listing::{Ended, Endings, Payload, Selection};
use super::prune::Retention;
use super::runs::Counts;
use super::{EVENT_COLUMNS, EVENT_WIDTH, Store, read_event};
use crate::clock::UnixSeconds;
use crate::db::{DbResult, Row, query_all, query_one};
use crate::event::{Epoch, Event, EventId, Outcome};

/// Counts beyond this are not made where a backlog of any size must cost the same.
pub const COUNTED_AT_MOST: i64 = 1000;
/// Ids named of rows that do not fit.
const NAMED: usize = 10;
/// Endings of one event that are read.
const TRAIL: usize = 100;

/// The live events of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Its type.
    pub type_name: String,
    /// Ready, now or later.
    pub ready: i64,
    /// Ready and due.
    pub due: i64,
    /// Being dealt with.
    pub running: i64,
    /// The oldest of those that are due.
    pub oldest_due_at: Option<UnixSeconds>,
}

/// Rows that slipped past a CHECK the server ignores, and are never fired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Misfits {
    /// Up to ten of them.
    pub ids: Vec<i64>,
    /// How many, counted up to [`COUNTED_AT_MOST`].
    pub count: i64,
}

impl Misfits {
    /// Adds what another query found; no more than ten are named in all.
    fn add(&mut self, found: Misfits) {
        self.count += found.count;
        self.ids.extend(found.ids);
        self.ids.truncate(NAMED);
    }
}

/// How many endings in `event_history` a person still has to look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unresolved {
    /// Dead, and nobody resolved them.
    pub dead: i64,
    /// Unknown, and nobody resolved them.
    pub unknown: i64,
}

/// One row of `event_runs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// `run_id`.
    pub run_id: i64,
    /// Its epoch.
    pub epoch: Epoch,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: i64,
    /// When it started.
    pub started_at: UnixSeconds,
    /// When it ended.
    pub finished_at: Option<UnixSeconds>,
    /// Why it stopped.
    pub stop: Option<String>,
    /// What it did.
    pub counts: Counts,
    /// Waves.
    pub waves: i64,
    /// What it left due.
    pub remaining_due: Option<i64>,
    /// The wave in hand: type, first id, last id, events.
    pub wave: Option<(String, i64, i64, i64)>,
}

/// A live event with everything the tables know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// The event.
    pub event: Event,
    /// `ready` or `running`.
    pub status: String,
    /// Where it comes from.
    pub origin: Option<String>,
    /// Its slot.
    pub slot_at: Option<UnixSeconds>,
    /// Who deals with it; of a ready event, who made the last pass of its sweep.
    pub claim_epoch: Option<Epoch>,
    /// Until when nobody else may presume it lost.
    pub claim_until: Option<UnixSeconds>,
    /// Of its last try.
    pub last_error: Option<String>,
    /// When it was added, where that is known.
    pub created_at: Option<UnixSeconds>,
}

/// One line of `event_log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When.
    pub at: UnixSeconds,
    /// By which run; `None`: by hand.
    pub run_id: Option<i64>,
    /// What was decided.
    pub decision: String,
    /// Why.
    pub detail: String,
}

impl Store {
    /// The live events, counted by type.
    pub fn backlog(&mut self, now: UnixSeconds) -> DbResult<Vec<Backlog>> {
        let due = format!("due_at >= 0 AND due_at <= {now}");
        let sql = format!(
            "SELECT type, status, COUNT(*), SUM(CASE WHEN {due} THEN 1 ELSE 0 END), \
             MIN(CASE WHEN {due} THEN due_at END) FROM /*_*/scheduled_events \
             GROUP BY status, type"
        );
        let sql = self.sql(&sql);
        let mut all: Vec<Backlog> = Vec::new();
        self.db.query(&sql, &[], &mut |row| {
            let type_name = row.text(0);
            let known = all.iter().position(|one| one.type_name == type_name);
            let place = known.unwrap_or_else(|| {
                all.push(Backlog {
                    type_name,
                    ..Backlog::default()
                });
                all.len() - 1
            });
            let one = &mut all[place];
            if row.text(1) == "running" {
                one.running += row.int(2);
            } else {
                one.ready += row.int(2);
                one.due += row.int(3);
                one.oldest_due_at = row.opt_int(4).map(UnixSeconds);
            }
            true
        })?;
        Ok(all)
    }

    /// How many due events of `type_name` are in the middle of a sweep.
    pub fn sweeps_under_way(&mut self, type_name: &str, now: UnixSeconds) -> DbResult<i64> {
        let sql = format!(
            "SELECT COUNT(*) FROM /*_*/scheduled_events WHERE status = 'ready' AND type = ? \
             AND due_at <= {now} AND claim_epoch IS NOT NULL"
        );
        let sql = self.sql(&sql);
        let count = query_one(&mut *self.db, &sql, &[type_name.into()], |row| row.int(0))?;
        Ok(count.unwrap_or(0))
    }

    /// Ready rows whose `due_at` is no Unix time: milliseconds, `NOW()` or a date text.
    pub fn misfits(&mut self) -> DbResult<Misfits> {
        // On SQLite every text is greater than every number.
        let above = format!("status = 'ready' AND due_at > {}", UnixSeconds::MAX);
        let mut all = self.misfits_of(&above, None)?;
        all.add(self.misfits_of("status = 'ready' AND due_at < 0", None)?);
        Ok(all)
    }

    /// Ready rows whose priority is not −2 … 2, by two index probes a type.
    pub fn misfit_priorities(&mut self) -> DbResult<Misfits> {
        let types = self.ready_types()?;
        let mut all = Misfits::default();
        for name in types {
            for range in ["priority < -2", "priority > 2"] {
                let condition = format!("status = 'ready' AND type = ? AND {range}");
                all.add(self.misfits_of(&condition, Some(&name))?);
            }
        }
        Ok(all)
    }

    fn misfits_of(&mut self, condition: &str, type_name: Option<&str>) -> DbResult<Misfits> {
        let sql = format!(
            "SELECT id FROM /*_*/scheduled_events WHERE {condition} LIMIT {COUNTED_AT_MOST}"
        );
        let sql = self.sql(&sql);
        let mut found = Misfits::default();
        let params: Vec<_> = type_name.into_iter().map(Into::into).collect();
        self.db.query(&sql, &params, &mut |row| {
            if found.ids.len() < NAMED {
                found.ids.push(row.int(0));
            }
            found.count += 1;
            true
        })?;
        Ok(found)
    }

    /// How many ready events are due by `cutoff`, counted up to [`COUNTED_AT_MOST`].
    pub fn some_due(&mut self, cutoff: UnixSeconds) -> DbResult<i64> {
        self.some(&format!(
            "/*_*/scheduled_events WHERE status = 'ready' AND due_at >= 0 AND due_at <= {cutoff}"
        ))
    }

    /// Unresolved dead and unknown events, counted up to [`COUNTED_AT_MOST`] each.
    pub fn some_unresolved(&mut self) -> DbResult<Unresolved> {
        let mut open = |outcome: Outcome| {
            self.some(&format!(
                "/*_*/event_history WHERE outcome = '{outcome}' AND resolved_at IS NULL"
            ))
        };
        Ok(Unresolved {
            dead: open(Outcome::Dead)?,
            unknown: open(Outcome::Unknown)?,
        })
    }

    fn some(&mut self, rows: &str) -> DbResult<i64> {
        self.number(&format!(
            "SELECT COUNT(*) FROM (SELECT 1 FROM {rows} LIMIT {COUNTED_AT_MOST}) AS c"
        ))
    }

    /// Unresolved dead and unknown events, all counted.
    pub fn unresolved(&mut self) -> DbResult<Unresolved> {
        let mut open = |outcome: Outcome| {
            self.count_history(&format!("outcome = '{outcome}' AND resolved_at IS NULL"))
        };
        Ok(Unresolved {
            dead: open(Outcome::Dead)?,
            unknown: open(Outcome::Unknown)?,
        })
    }

    /// How many events ended as `outcome` at `since` or later, whatever a person made of them.
    pub fn ended_since(&mut self, outcome: Outcome, since: UnixSeconds) -> DbResult<i64> {
        let open =
            format!("outcome = '{outcome}' AND resolved_at IS NULL AND finished_at >= {since}");
        // Resolved later than finished: both ranges are served by the index.
        let resolved =
            format!("outcome = '{outcome}' AND resolved_at >= {since} AND finished_at >= {since}");
        Ok(self.count_history(&open)? + self.count_history(&resolved)?)
    }

    fn count_history(&mut self, condition: &str) -> DbResult<i64> {
        self.number(&format!(
            "SELECT COUNT(*) FROM /*_*/event_history WHERE {condition}"
        ))
    }

    /// About how many rows [`Store::prune_chunk`] will remove in all, for a progress bar.
    pub fn count_prunable(&mut self, keep: Retention) -> DbResult<i64> {
        let mut sum = 0;
        for condition in Outcome::ALL.into_iter().flat_map(|one| keep.over(one)) {
            sum += self.count_history(&condition)?;
        }
        let log = format!(
            "SELECT COUNT(*) FROM /*_*/event_log WHERE logged_at < {}",
            keep.before
        );
        Ok(sum + self.number(&log)?)
    }

    /// All ticks that stepped aside, as far as runs have taken them over.
    pub fn asides(&mut self) -> DbResult<i64> {
        self.number("SELECT SUM(ticks) FROM /*_*/event_aside")
    }

    /// The newest `limit` runs that ended.
    pub fn last_runs(&mut self, limit: usize) -> DbResult<Vec<RunRow>> {
        self.runs(&format!(
            "finished_at IS NOT NULL ORDER BY finished_at DESC, run_id DESC LIMIT {limit}"
        ))
    }

    /// The row of one run.
    pub fn run_row(&mut self, run_id: i64) -> DbResult<Option<RunRow>> {
        Ok(self.runs(&format!("run_id = {run_id}"))?.pop())
    }

    /// The row of the run that had `epoch`.
    pub fn run_of(&mut self, epoch: Epoch) -> DbResult<Option<RunRow>> {
        Ok(self.runs(&format!("epoch = {epoch}"))?.pop())
    }

    fn runs(&mut self, condition: &str) -> DbResult<Vec<RunRow>> {
        let sql = format!(
            "SELECT run_id, epoch, host, pid, started_at, finished_at, stop, fired, done, retried, \
             deferred, dead, skipped, cancelled, unknown, withdrawn, recovered, released, waves, \
             remaining_due, wave_type, wave_first_id, wave_last_id, wave_events \
             FROM /*_*/event_runs WHERE {condition}"
        );
        let sql = self.sql(&sql);
        query_all(&mut *self.db, &sql, &[], read_run)
    }

    /// A live event.
    pub fn detail(&mut self, id: EventId) -> DbResult<Option<Detail>> {
        let sql = format!(
            "SELECT {EVENT_COLUMNS}, status, origin, slot_at, claim_epoch, claim_until, \
             last_error, created_at FROM /*_*/scheduled_events WHERE id = {id}"
        );
        let sql = self.sql(&sql);
        let mut detail = query_one(&mut *self.db, &sql, &[], |row| Detail {
            event: read_event(row),
            status: row.text(EVENT_WIDTH),
            origin: row.opt_text(EVENT_WIDTH + 1),
            slot_at: row.opt_int(EVENT_WIDTH + 2).map(UnixSeconds),
            claim_epoch: row.opt_int(EVENT_WIDTH + 3).map(Epoch),
            claim_until: row.opt_int(EVENT_WIDTH + 4).map(UnixSeconds),
            last_error: row.opt_text(EVENT_WIDTH + 5),
            created_at: row.opt_int(EVENT_WIDTH + 6).map(UnixSeconds),
        })?;
        self.tell_slots(detail.iter_mut().map(|detail| &mut detail.event))?;
        Ok(detail)
    }

    /// How an event ended, each time, the oldest first.
    pub fn endings(&mut self, id: EventId) -> anyhow::Result<Vec<Ended>> {
        let page = self.history_page(&Selection::default(), Endings::Of(id), None, TRAIL)?;
        let mut all = Vec::new();
        self.ended_events(&page, Payload::Whole, &mut |ended| {
            all.push(ended);
            Ok(true)
        })?;
        all.reverse();
        Ok(all)
    }

    /// What was decided about an event, the oldest first.
    pub fn log_of(&mut self, id: EventId) -> DbResult<Vec<LogLine>> {
        let hint = self.hint(" FORCE INDEX (/*_*/event_log_event)");
        let sql = format!(
            "SELECT logged_at, run_id, decision, detail FROM /*_*/event_log{hint} \
             WHERE event_id = {id} ORDER BY log_id DESC LIMIT 1000"
        );
        let sql = self.sql(&sql);
        let mut lines = query_all(&mut *self.db, &sql, &[], |row| LogLine {
            at: UnixSeconds(row.int(0)),
            run_id: row.opt_int(1),
            decision: row.text(2),
            detail: row.text(3),
        })?;
        lines.reverse();
        Ok(lines)
    }

    /// Whether the tables know of a type: a live event, or a state of its own.
    pub fn knows_type(&mut self, name: &str) -> DbResult<bool> {
        let sql = "SELECT 1 FROM /*_*/scheduled_events WHERE status = 'ready' AND type = ? \
                   UNION ALL SELECT 1 FROM /*_*/scheduled_events \
                   WHERE status = 'running' AND type = ? \
                   UNION ALL SELECT 1 FROM /*_*/event_types WHERE type = ? LIMIT 1";
        let sql = self.sql(sql);
        let params = [name.into(), name.into(), name.into()];
        Ok(query_one(&mut *self.db, &sql, &params, |_| ())?.is_some())
    }
}

fn read_run(row: &dyn Row) -> RunRow {
    RunRow {
        run_id: row.int(0),
        epoch: Epoch(row.int(1)),
        host: row.text(2),
        pid: row.int(3),
        started_at: UnixSeconds(row.int(4)),
        finished_at: row.opt_int(5).map(UnixSeconds),
        stop: row.opt_text(6),
        counts: Counts {
            fired: row.int(7),
            done: row.int(8),
            retried: row.int(9),
            deferred: row.int(10),
            dead: row.int(11),
            skipped: row.int(12),
            cancelled: row.int(13),
            unknown: row.int(14),
            withdrawn: row.int(15),
            recovered: row.int(16),
            released: row.int(17),
        },
        waves: row.int(18),
        remaining_due: row.opt_int(19),
        wave: row
            .opt_text(20)
            .map(|name| (name, row.int(21), row.int(22), row.int(23))),
    }
}
