//! What earlier epochs left behind: rows still marked running, and runs that never ended.

use super::{EVENT_COLUMNS, EVENT_WIDTH, Store, read_event};
use crate::clock::UnixSeconds;
use crate::db::{DbResult, query_all, query_one};
use crate::event::{Epoch, Event, EventId};

/// A row that is running under another epoch than the one that looks.
#[derive(Debug, Clone)]
pub struct Stranded {
    /// The event.
    pub event: Event,
    /// Whose claim it is; `None`: made by hand.
    pub epoch: Option<Epoch>,
    /// Until when that claim is to be believed.
    pub until: Option<UnixSeconds>,
}

/// A run that has no end in the tables.
#[derive(Debug, Clone)]
pub struct OpenRun {
    /// Its id.
    pub run_id: i64,
    /// Its epoch.
    pub epoch: Epoch,
    /// The wave in hand when it was last heard of: type, first and last id.
    pub wave: Option<(String, EventId, EventId)>,
}

impl Store {
    /// Up to `limit` rows running under other epochs than `own`, in due order behind `after`;
    /// payloads are left out.
    pub fn stranded(
        &mut self,
        own: Epoch,
        after: (UnixSeconds, EventId),
        limit: usize,
    ) -> DbResult<Vec<Stranded>> {
        let (due, id) = after;
        let sql = format!(
            "SELECT {}, claim_epoch, claim_until FROM /*_*/scheduled_events{} \
             WHERE status = 'running' AND due_at >= {due} AND (due_at > {due} OR id > {id}) \
             AND (claim_epoch IS NULL OR claim_epoch <> {own}) ORDER BY due_at, id LIMIT {limit}",
            EVENT_COLUMNS.replace("payload", "NULL"),
            self.due_index(),
        );
        let sql = self.sql(&sql);
        query_all(&mut *self.db, &sql, &[], |row| Stranded {
            event: read_event(row),
            epoch: row.opt_int(EVENT_WIDTH).map(Epoch),
            until: row.opt_int(EVENT_WIDTH + 1).map(UnixSeconds),
        })
    }

    /// The lock identity of the run that had `epoch`.
    pub fn lock_id_of(&mut self, epoch: Epoch) -> DbResult<Option<String>> {
        let sql = format!("SELECT lock_id FROM /*_*/event_runs WHERE epoch = {epoch}");
        let sql = self.sql(&sql);
        query_one(&mut *self.db, &sql, &[], |row| row.text(0))
    }

    /// Runs other than `own` that never ended.
    pub fn open_runs(&mut self, own: i64) -> DbResult<Vec<OpenRun>> {
        let sql = format!(
            "SELECT run_id, epoch, wave_type, wave_first_id, wave_last_id \
             FROM /*_*/event_runs WHERE finished_at IS NULL AND run_id <> {own} ORDER BY run_id"
        );
        let sql = self.sql(&sql);
        query_all(&mut *self.db, &sql, &[], |row| OpenRun {
            run_id: row.int(0),
            epoch: Epoch(row.int(1)),
            wave: row
                .opt_text(2)
                .map(|type_name| (type_name, EventId(row.int(3)), EventId(row.int(4)))),
        })
    }

    /// Closes the row of a run that died; its counts and last wave stay as they were. To be called
    /// in a transaction that the lease gates.
    pub(super) fn close_dead_run(&mut self, run_id: i64, now: UnixSeconds) -> DbResult<()> {
        let sql = format!(
            "UPDATE /*_*/event_runs SET finished_at = {now}, stop = COALESCE(stop, 'died') \
             WHERE run_id = {run_id} AND finished_at IS NULL"
        );
        let sql = self.sql(&sql);
        self.db.execute(&sql, &[]).map(drop)
    }
}
