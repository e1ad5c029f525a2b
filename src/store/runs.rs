//! The run's own row: what it is dealing with, how far it came, how it ended.

use std::ops::AddAssign;

use super::Store;
use crate::clock::UnixSeconds;
use crate::db::{DbResult, Row, Value, query_one};
use crate::event::{Epoch, EventId, MAX_ERROR_BYTES, keep_tail};

/// What a run did, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Attempts started.
    pub fired: i64,
    /// Finished well.
    pub done: i64,
    /// Failed and planned again.
    pub retried: i64,
    /// Put off by their handler.
    pub deferred: i64,
    /// Given up.
    pub dead: i64,
    /// Not fired: expired, refused by a guard, too late.
    pub skipped: i64,
    /// Superseded by a newer event with the same key.
    pub cancelled: i64,
    /// Started at most once, end unknown.
    pub unknown: i64,
    /// Deleted by somebody while they ran.
    pub withdrawn: i64,
    /// Taken over from a run that died.
    pub recovered: i64,
    /// Claimed, never started, given back.
    pub released: i64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.fired += other.fired;
        self.done += other.done;
        self.retried += other.retried;
        self.deferred += other.deferred;
        self.dead += other.dead;
        self.skipped += other.skipped;
        self.cancelled += other.cancelled;
        self.unknown += other.unknown;
        self.withdrawn += other.withdrawn;
        self.recovered += other.recovered;
        self.released += other.released;
    }
}

/// The batch a run has in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// Its type.
    pub type_name: String,
    /// Its lowest id.
    pub first: EventId,
    /// Its highest id.
    pub last: EventId,
    /// Its size.
    pub events: usize,
}

/// What is written to the run's row after each wave.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// How far the round in hand looks.
    pub cutoff: UnixSeconds,
    /// Counts so far.
    pub counts: Counts,
    /// Waves so far.
    pub waves: i64,
    /// The wave in hand.
    pub wave: Option<Wave>,
    /// Last (`due_at`, id) per type, as JSON.
    pub positions: String,
}

/// What is known of a run when it starts.
#[derive(Debug, Clone)]
pub struct NewRun<'a> {
    /// Its epoch.
    pub epoch: Epoch,
    /// Host name.
    pub host: &'a str,
    /// Process id.
    pub pid: i64,
    /// Identity of the file lock it holds.
    pub lock_id: &'a str,
    /// When it started.
    pub started_at: UnixSeconds,
    /// How far it looks.
    pub cutoff: UnixSeconds,
    /// When it starts nothing more.
    pub deadline_at: Option<UnixSeconds>,
}

impl Store {
    /// Writes the row of a new run and names it in the lease; returns its `run_id`. To be called
    /// in the transaction that took the lease.
    pub fn start_run(&mut self, run: &NewRun<'_>) -> DbResult<i64> {
        let sql = "INSERT INTO /*_*/event_runs \
                   (epoch, host, pid, lock_id, started_at, cutoff, deadline_at) \
                   VALUES (?, ?, ?, ?, ?, ?, ?)";
        let sql = self.sql(sql);
        let params = [
            run.epoch.0.into(),
            run.host.into(),
            run.pid.into(),
            run.lock_id.into(),
            run.started_at.into(),
            run.cutoff.into(),
            run.deadline_at.into(),
        ];
        self.db.execute(&sql, &params)?;
        let run_id = self.db.last_insert_id();
        let sql = format!(
            "UPDATE /*_*/event_lease SET run_id = {run_id} WHERE name = 'run' AND epoch = {}",
            run.epoch
        );
        let sql = self.sql(&sql);
        self.db.execute(&sql, &[])?;
        Ok(run_id)
    }

    /// Where the id counter starts anew with the server: puts it behind every id that history
    /// knows, so that none comes back (RULINGS 42).
    pub fn keep_ids_from_coming_back(&mut self) -> DbResult<()> {
        if self.db.forgets_ids() {
            self.raise_id_counter()
        } else {
            Ok(())
        }
    }

    /// Moves the id counter behind the highest id in history. An INSERT moves it for good, even
    /// when it is rolled back: no row is left, and no right to ALTER is needed.
    pub fn raise_id_counter(&mut self) -> DbResult<()> {
        let highest = "SELECT (SELECT MAX(event_id) FROM /*_*/event_history), \
                       (SELECT MAX(id) FROM /*_*/scheduled_events)";
        let highest = self.sql(highest);
        let read = |row: &dyn Row| (row.int(0), row.int(1));
        let (past, live) = query_one(&mut *self.db, &highest, &[], read)?.unwrap_or_default();
        if past <= live {
            return Ok(());
        }
        let insert = format!(
            "INSERT INTO /*_*/scheduled_events (id, type, due_at) VALUES ({past}, 'none', {})",
            UnixSeconds::MAX
        );
        let insert = self.sql(&insert);
        self.db.begin()?;
        let moved = self.db.execute(&insert, &[]);
        self.db.rollback();
        moved.map(drop)
    }

    /// Keeps the run's row current.
    pub fn write_progress(&mut self, run_id: i64, progress: &Progress) -> DbResult<()> {
        let counts = &progress.counts;
        let wave = progress.wave.as_ref();
        let sql = "UPDATE /*_*/event_runs SET cutoff = ?, wave_type = ?, wave_first_id = ?, \
                   wave_last_id = ?, wave_events = ?, progress = ?, waves = ?, fired = ?, \
                   done = ?, retried = ?, deferred = ?, dead = ?, skipped = ?, cancelled = ?, \
                   unknown = ?, withdrawn = ?, recovered = ?, released = ? WHERE run_id = ?";
        let sql = self.sql(sql);
        let events = wave.map(|wave| i64::try_from(wave.events).unwrap_or(i64::MAX));
        let params = [
            progress.cutoff.into(),
            wave.map(|wave| wave.type_name.as_str()).into(),
            wave.map(|wave| wave.first.0).into(),
            wave.map(|wave| wave.last.0).into(),
            events.into(),
            progress.positions.as_str().into(),
            progress.waves.into(),
            counts.fired.into(),
            counts.done.into(),
            counts.retried.into(),
            counts.deferred.into(),
            counts.dead.into(),
            counts.skipped.into(),
            counts.cancelled.into(),
            counts.unknown.into(),
            counts.withdrawn.into(),
            counts.recovered.into(),
            counts.released.into(),
            run_id.into(),
        ];
        self.db.execute(&sql, &params).map(drop)
    }

    /// Takes the trace of a wave away: nothing of it is under way any more.
    pub fn clear_wave(&mut self, run_id: i64) -> DbResult<()> {
        let sql = format!(
            "UPDATE /*_*/event_runs SET wave_type = NULL, wave_first_id = NULL, \
             wave_last_id = NULL, wave_events = NULL WHERE run_id = {run_id}"
        );
        let sql = self.sql(&sql);
        self.db.execute(&sql, &[]).map(drop)
    }

    /// Whether the trace of a wave of effects still stands: it goes with the wave's commit.
    pub fn wave_is_open(&mut self, run_id: i64) -> DbResult<bool> {
        let sql = format!("SELECT wave_type FROM /*_*/event_runs WHERE run_id = {run_id}");
        let sql = self.sql(&sql);
        let open = query_one(&mut *self.db, &sql, &[], |row| row.opt_text(0).is_some())?;
        Ok(open == Some(true))
    }

    /// Records why a run stopped that must not count as ended: the next run looks at its wave.
    pub fn leave_run_open(
        &mut self,
        run_id: i64,
        stop: &str,
        remaining_due: Option<i64>,
    ) -> DbResult<()> {
        let sql = "UPDATE /*_*/event_runs SET stop = ?, remaining_due = ? WHERE run_id = ?";
        let sql = self.sql(sql);
        let params = [stop.into(), remaining_due.into(), run_id.into()];
        self.db.execute(&sql, &params).map(drop)
    }

    /// Records how a run ended.
    pub fn finish_run(
        &mut self,
        run_id: i64,
        stop: &str,
        remaining_due: Option<i64>,
        now: UnixSeconds,
    ) -> DbResult<()> {
        let sql = "UPDATE /*_*/event_runs SET finished_at = ?, stop = ?, remaining_due = ?, \
                   wave_type = NULL, wave_first_id = NULL, wave_last_id = NULL, \
                   wave_events = NULL WHERE run_id = ?";
        let sql = self.sql(sql);
        let params = [now.into(), stop.into(), remaining_due.into(), run_id.into()];
        self.db.execute(&sql, &params).map(drop)
    }

    /// Adds a line to the log of decisions.
    pub fn log(&mut self, entry: &LogEntry<'_>) -> DbResult<()> {
        self.log_all(std::slice::from_ref(entry))
    }

    /// Adds a line of a run about a type and none of its events.
    pub fn log_of_type(
        &mut self,
        run_id: i64,
        at: UnixSeconds,
        type_name: &str,
        decision: &str,
        detail: &str,
    ) -> DbResult<()> {
        self.log(&LogEntry {
            at,
            run_id: Some(run_id),
            event: None,
            type_name: Some(type_name),
            decision,
            detail,
        })
    }

    /// Adds lines to the log of decisions, in one statement.
    pub fn log_all(&mut self, entries: &[LogEntry<'_>]) -> DbResult<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let rows = vec!["(?, ?, ?, ?, ?, ?)"; entries.len()].join(", ");
        let sql = format!(
            "INSERT INTO /*_*/event_log (logged_at, run_id, event_id, type, decision, detail) \
             VALUES {rows}"
        );
        let sql = self.sql(&sql);
        let mut params: Vec<Value<'_>> = Vec::with_capacity(entries.len() * 6);
        for entry in entries {
            params.extend([
                entry.at.into(),
                entry.run_id.into(),
                entry.event.map(|id| id.0).into(),
                entry.type_name.into(),
                entry.decision.into(),
                keep_tail(entry.detail, MAX_ERROR_BYTES).into(),
            ]);
        }
        self.db.execute(&sql, &params).map(drop)
    }

    /// Records a tick that stepped aside for a run on another host; the holder's rows are not
    /// touched (RULINGS 44).
    pub fn count_aside(&mut self, host: &str, now: UnixSeconds) -> DbResult<()> {
        let sql = "INSERT INTO /*_*/event_aside (aside_at, host, lock_id, ticks) \
                   VALUES (?, ?, '', 1)";
        let sql = self.sql(sql);
        self.db.execute(&sql, &[now.into(), host.into()]).map(drop)
    }

    /// Takes over the number of ticks counted beside the lock file `lock_id`: one row a lock file.
    pub fn record_asides(
        &mut self,
        host: &str,
        lock_id: &str,
        ticks: i64,
        now: UnixSeconds,
    ) -> DbResult<()> {
        if ticks == self.recorded_asides(lock_id)? {
            return Ok(());
        }
        let update = "UPDATE /*_*/event_aside SET ticks = ?, aside_at = ? WHERE lock_id = ?";
        let update = self.sql(update);
        let params = [ticks.into(), now.into(), lock_id.into()];
        if self.db.execute(&update, &params)? > 0 {
            return Ok(());
        }
        let insert = "INSERT INTO /*_*/event_aside (ticks, aside_at, lock_id, host) \
                      VALUES (?, ?, ?, ?)";
        let insert = self.sql(insert);
        let params = [ticks.into(), now.into(), lock_id.into(), host.into()];
        self.db.execute(&insert, &params).map(drop)
    }

    /// The number last taken over for the lock file `lock_id`.
    pub fn recorded_asides(&mut self, lock_id: &str) -> DbResult<i64> {
        let sql = "SELECT ticks FROM /*_*/event_aside WHERE lock_id = ?";
        let sql = self.sql(sql);
        Ok(query_one(&mut *self.db, &sql, &[lock_id.into()], |row| row.int(0))?.unwrap_or(0))
    }
}

/// One line of `event_log`.
#[derive(Debug, Clone, Copy)]
pub struct LogEntry<'a> {
    /// When.
    pub at: UnixSeconds,
    /// By which run.
    pub run_id: Option<i64>,
    /// About which event.
    pub event: Option<EventId>,
    /// About which type.
    pub type_name: Option<&'a str>,
    /// What was decided, one word or two.
    pub decision: &'a str,
    /// Why, for a person.
    pub detail: &'a str,
}
