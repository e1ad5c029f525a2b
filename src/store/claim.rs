//! Claiming: marking rows as running under an epoch, in one transaction that the lease gates.

use super::runs::Progress;
use super::{Stopped, Store};
use crate::clock::UnixSeconds;
use crate::db::{DbResult, Row, id_list, query_all};
use crate::event::{Epoch, Event, EventId};
use crate::fault::point;

/// Proof of the right to claim, renewed by the transaction it opens (RULINGS 11).
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// The run's epoch.
    pub epoch: Epoch,
    /// The run's token.
    pub holder: &'a str,
    /// The database's clock, read for this wave.
    pub now: UnixSeconds,
}

/// A claim to make.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Candidates, in firing order.
    pub ids: &'a [EventId],
    /// Nothing due later is claimed, even if it was moved since it was read.
    pub cutoff: UnixSeconds,
    /// Until when nobody else may presume these rows lost.
    pub until: UnixSeconds,
    /// The run.
    pub run_id: i64,
    /// Written with the claim, so that the tables name the wave in hand.
    pub progress: &'a Progress,
    /// What is left of the type's rate after this claim.
    pub rate: Option<RateLeft<'a>>,
}

/// The state of a type's rate limit.
#[derive(Debug, Clone, Copy)]
pub struct RateLeft<'a> {
    /// The type.
    pub type_name: &'a str,
    /// Thousandths of an attempt left.
    pub tokens_milli: i64,
}

impl Store {
    /// The gate: renews the lease inside the current transaction.
    ///
    /// # Errors
    /// [`Stopped::Fenced`] where the lease is no longer ours.
    pub fn pass(&mut self, gate: Gate<'_>) -> Result<(), Stopped> {
        if self.renew_lease(gate.epoch, gate.holder, gate.now)? {
            return Ok(());
        }
        Err(Stopped::Fenced)
    }

    /// Claims what is still ready and due among `claim.ids` and returns it in that order, payloads
    /// included. The key moves to `held_key`, so that a handler may schedule its own successor.
    ///
    /// # Errors
    /// [`Stopped::Fenced`]; [`Stopped::Db`].
    pub fn claim(&mut self, gate: Gate<'_>, claim: Claim<'_>) -> Result<Vec<Event>, Stopped> {
        let update = format!(
            "UPDATE /*_*/scheduled_events{} SET status = 'running', claim_epoch = {}, \
             claim_until = {}, held_key = unique_key, unique_key = NULL \
             WHERE id IN ({}) AND {} = 'ready' AND due_at <= {}",
            self.dialect().by_primary_key(),
            gate.epoch,
            claim.until,
            id_list(claim.ids.iter().map(|id| id.0)),
            self.dialect().guarded_status(),
            claim.cutoff,
        );
        let update = self.sql(&update);
        self.transaction(|store| {
            store.pass(gate)?;
            store.db.execute(&update, &[])?;
            if let Some(rate) = claim.rate {
                store.write_rate(rate, gate.now)?;
            }
            store.write_progress(claim.run_id, claim.progress)?;
            point("claim.commit");
            Ok(())
        })?;
        point("claim.committed");
        Ok(self.claimed_rows(gate.epoch, claim.ids)?)
    }

    /// Those of `ids` that run under `epoch`, in the order of `ids`.
    fn claimed_rows(&mut self, epoch: Epoch, ids: &[EventId]) -> DbResult<Vec<Event>> {
        let status = self.dialect().guarded_status();
        self.rows_by_id(
            ids,
            &format!("{status} = 'running' AND claim_epoch = {epoch}"),
        )
    }

    /// Moves `claim_until` of these rows of ours: for a run without a deadline (RULINGS 26).
    pub fn extend_claims(
        &mut self,
        epoch: Epoch,
        ids: &[EventId],
        until: UnixSeconds,
    ) -> DbResult<()> {
        let sql = format!(
            "UPDATE /*_*/scheduled_events{} SET claim_until = {until} \
             WHERE id IN ({}) AND {} = 'running' AND claim_epoch = {epoch}",
            self.dialect().by_primary_key(),
            id_list(ids.iter().map(|id| id.0)),
            self.dialect().guarded_status(),
        );
        let sql = self.sql(&sql);
        self.db.execute(&sql, &[]).map(drop)
    }

    /// Every row still running under `epoch`, with its type.
    pub fn rows_of(&mut self, epoch: Epoch) -> DbResult<Vec<(EventId, String)>> {
        let sql = format!(
            "SELECT id, type FROM /*_*/scheduled_events{} WHERE status = 'running' \
             AND claim_epoch = {epoch}",
            self.due_index(),
        );
        let sql = self.sql(&sql);
        let read = |row: &dyn Row| (EventId(row.int(0)), row.text(1));
        query_all(&mut *self.db, &sql, &[], read)
    }

    /// Writes what is left of a type's rate.
    pub fn write_rate(&mut self, rate: RateLeft<'_>, now: UnixSeconds) -> DbResult<()> {
        self.ensure_type(rate.type_name)?;
        let sql = "UPDATE /*_*/event_types SET tokens_milli = ?, tokens_at = ? WHERE type = ?";
        let sql = self.sql(sql);
        let params = [rate.tokens_milli.into(), now.into(), rate.type_name.into()];
        self.db.execute(&sql, &params).map(drop)
    }

    /// Writes the state of a type's breaker.
    pub fn write_breaker(
        &mut self,
        type_name: &str,
        failures: u32,
        open_until: Option<UnixSeconds>,
    ) -> DbResult<()> {
        self.ensure_type(type_name)?;
        let sql = "UPDATE /*_*/event_types SET failures = ?, open_until = ? WHERE type = ?";
        let sql = self.sql(sql);
        let params = [
            i64::from(failures).into(),
            open_until.into(),
            type_name.into(),
        ];
        self.db.execute(&sql, &params).map(drop)
    }

    /// Pauses a type until `until`, or resumes it with `None`.
    pub fn write_pause(&mut self, type_name: &str, until: Option<UnixSeconds>) -> DbResult<()> {
        self.ensure_type(type_name)?;
        let sql = "UPDATE /*_*/event_types SET paused_until = ? WHERE type = ?";
        let sql = self.sql(sql);
        self.db
            .execute(&sql, &[until.into(), type_name.into()])
            .map(drop)
    }

    fn ensure_type(&mut self, type_name: &str) -> DbResult<()> {
        let sql = format!(
            "{} INTO /*_*/event_types (type) VALUES (?)",
            self.dialect().insert_or_ignore()
        );
        let sql = self.sql(&sql);
        self.db.execute(&sql, &[type_name.into()]).map(drop)
    }
}
