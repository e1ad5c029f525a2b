//! The lease row: taken over, renewed and given back, always under the condition of what was seen.

use super::Store;
use crate::clock::UnixSeconds;
use crate::db::{DbResult, Row, query_one};
use crate::event::Epoch;

/// `event_lease`, the row named `run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// The last epoch given out.
    pub epoch: Epoch,
    /// The holder's token; empty once it ended.
    pub holder: String,
    /// The holder's run.
    pub run_id: Option<i64>,
    /// The holder's host name.
    pub host: String,
    /// The holder's process id.
    pub pid: Option<i64>,
    /// The identity of the holder's file lock.
    pub lock_id: String,
    /// The last renewal.
    pub beat_at: UnixSeconds,
    /// Seconds a renewal lasts.
    pub ttl: i64,
    /// The last tick that looked, stamped at most every five minutes while idle.
    pub last_tick_at: Option<UnixSeconds>,
    /// When old history is looked for next.
    pub prune_at: UnixSeconds,
}

impl LeaseRow {
    /// Whether somebody may still be at work under this lease, as far as the row tells.
    pub fn is_live(&self, now: UnixSeconds) -> bool {
        !self.holder.is_empty() && self.beat_at.0 + self.ttl > now.0
    }

    /// Whether its holder neither gave it back nor renewed it in time.
    pub fn has_lapsed(&self, now: UnixSeconds) -> bool {
        !self.holder.is_empty() && !self.is_live(now)
    }
}

/// The columns of a [`LeaseRow`], in order; the table goes by `l`.
pub(super) const LEASE_COLUMNS: &str = "l.epoch, l.holder, l.run_id, l.host, l.pid, l.lock_id, \
     l.beat_at, l.ttl, l.last_tick_at, l.prune_at";

pub(super) fn read_lease(row: &dyn Row) -> LeaseRow {
    LeaseRow {
        epoch: Epoch(row.int(0)),
        holder: row.text(1),
        run_id: row.opt_int(2),
        host: row.text(3),
        pid: row.opt_int(4),
        lock_id: row.text(5),
        beat_at: UnixSeconds(row.int(6)),
        ttl: row.int(7),
        last_tick_at: row.opt_int(8).map(UnixSeconds),
        prune_at: UnixSeconds(row.int(9)),
    }
}

/// Who wants the lease.
#[derive(Debug, Clone)]
pub struct Claimant {
    /// A random token of this run.
    pub holder: String,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: i64,
    /// Identity of the file lock held.
    pub lock_id: String,
    /// Seconds a renewal lasts.
    pub ttl: i64,
}

impl Store {
    /// The lease row.
    pub fn lease_row(&mut self) -> DbResult<Option<LeaseRow>> {
        let sql = format!("SELECT {LEASE_COLUMNS} FROM /*_*/event_lease l WHERE l.name = 'run'");
        let sql = self.sql(&sql);
        query_one(&mut *self.db, &sql, &[], read_lease)
    }

    /// Takes the lease over from `seen`, if it still stands as seen and its holder ended, is
    /// `proven_dead`, or let it lapse by the database's clock (RULINGS 10). False: somebody else
    /// has it.
    pub fn take_lease(
        &mut self,
        seen: Epoch,
        new: Epoch,
        claimant: &Claimant,
        proven_dead: bool,
        now: UnixSeconds,
    ) -> DbResult<bool> {
        let sql = format!(
            "UPDATE /*_*/event_lease SET epoch = {new}, holder = ?, host = ?, pid = {}, \
             lock_id = ?, beat_at = {now}, ttl = {}, run_id = NULL \
             WHERE name = 'run' AND epoch = {seen} \
             AND (holder = '' OR {} = 1 OR beat_at + ttl <= {now})",
            claimant.pid,
            claimant.ttl,
            i32::from(proven_dead),
        );
        let sql = self.sql(&sql);
        let params = [
            claimant.holder.as_str().into(),
            claimant.host.as_str().into(),
            claimant.lock_id.as_str().into(),
        ];
        Ok(self.db.execute(&sql, &params)? == 1)
    }

    /// Renews the lease. False: this run is fenced (RULINGS 11).
    pub fn renew_lease(&mut self, epoch: Epoch, holder: &str, now: UnixSeconds) -> DbResult<bool> {
        let sql = "UPDATE /*_*/event_lease SET beat_at = ? \
                   WHERE name = 'run' AND epoch = ? AND holder = ?";
        let sql = self.sql(sql);
        let params = [now.into(), epoch.0.into(), holder.into()];
        Ok(self.db.execute(&sql, &params)? == 1)
    }

    /// Gives the lease back, if it is still ours.
    pub fn end_lease(&mut self, epoch: Epoch, holder: &str, now: UnixSeconds) -> DbResult<()> {
        let sql = "UPDATE /*_*/event_lease SET holder = '', last_tick_at = ? \
                   WHERE name = 'run' AND epoch = ? AND holder = ?";
        let sql = self.sql(sql);
        let params = [now.into(), epoch.0.into(), holder.into()];
        self.db.execute(&sql, &params).map(drop)
    }

    /// Records that an idle tick looked.
    pub fn stamp_tick(&mut self, now: UnixSeconds) -> DbResult<()> {
        let sql = "UPDATE /*_*/event_lease SET last_tick_at = ? WHERE name = 'run'";
        let sql = self.sql(sql);
        self.db.execute(&sql, &[now.into()]).map(drop)
    }

    /// Sets when old history is looked for next.
    pub fn set_prune_at(&mut self, at: UnixSeconds) -> DbResult<()> {
        let sql = "UPDATE /*_*/event_lease SET prune_at = ? WHERE name = 'run'";
        let sql = self.sql(sql);
        self.db.execute(&sql, &[at.into()]).map(drop)
    }
}
