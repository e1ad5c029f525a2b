//! Claiming: marking rows as running under an epoch, in one transaction that the lease gates.

use super::runs::Progress;
use super::statement::Statement;
use super::{Stopped, Store};
use crate::clock::UnixSeconds;
use crate::db::{DbResult, Dialect, Row, query_all};
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

/// Candidates that a claim is made of, in firing order.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// As they were read; payloads may be left out.
    pub events: Vec<Event>,
    /// What [`Store::version`] said before they were read, if they were read whole.
    pub whole_at: Option<i64>,
}

impl Chosen {
    fn ids(&self) -> Vec<EventId> {
        self.events.iter().map(|event| event.id).collect()
    }
}

/// A claim to make.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
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

/// Which rows a claim's statement takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    Without,
    With,
    Any,
}

/// What a claim's statements took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// All that was chosen, and nothing of it has changed since it was read.
    AsRead,
    /// The rows are to be read again.
    Changed,
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

    /// Claims what is still ready and due among `chosen` and returns it in that order, payloads
    /// included. The key moves to `held_key`, so that a handler may schedule its own successor.
    ///
    /// # Errors
    /// [`Stopped::Fenced`]; [`Stopped::Db`].
    pub fn claim(
        &mut self,
        gate: Gate<'_>,
        chosen: Chosen,
        claim: Claim<'_>,
    ) -> Result<Vec<Event>, Stopped> {
        let ids = chosen.ids();
        let updates: &[Keys] = match self.dialect() {
            // SQLite would take each row out of the keys' index and put it back.
            Dialect::Sqlite if chosen.events.iter().any(|event| event.key.is_some()) => {
                &[Keys::Without, Keys::With]
            }
            Dialect::Sqlite => &[Keys::Without],
            Dialect::Mysql => &[Keys::Any],
        };
        let taken = self.transaction(|store| {
            store.pass(gate)?;
            // With the write lock held, so that nobody changes anything after this.
            let unchanged = chosen.whole_at.is_some() && store.version()? == chosen.whole_at;
            let mut rows = 0;
            for keys in updates {
                rows += store.claim_rows(gate, &ids, claim, *keys)?;
            }
            if let Some(rate) = claim.rate {
                store.write_rate(rate, gate.now)?;
            }
            store.write_progress(claim.run_id, claim.progress)?;
            point("claim.commit");
            let all = usize::try_from(rows) == Ok(ids.len());
            Ok(if unchanged && all {
                Taken::AsRead
            } else {
                Taken::Changed
            })
        })?;
        point("claim.committed");
        Ok(match taken {
            Taken::AsRead => chosen.events,
            Taken::Changed => self.claimed_rows(gate.epoch, &ids)?,
        })
    }

    /// Marks the rows, and says how many that were.
    fn claim_rows(
        &mut self,
        gate: Gate<'_>,
        ids: &[EventId],
        claim: Claim<'_>,
        keys: Keys,
    ) -> DbResult<u64> {
        let update = Statement::listed(self.dialect())
            .text("UPDATE /*_*/scheduled_events")
            .text(self.dialect().by_primary_key())
            .text(" SET status = 'running', claim_epoch = ")
            .int(gate.epoch.0)
            .text(", claim_until = ")
            .at(claim.until)
            .text(match keys {
                Keys::Without => "",
                Keys::With | Keys::Any => ", held_key = unique_key, unique_key = NULL",
            })
            .text(" WHERE id")
            .among(ids.iter().copied())
            .text(" AND ")
            .text(self.dialect().guarded_status())
            .text(" = 'ready' AND due_at <= ")
            .at(claim.cutoff);
        let update = match keys {
            Keys::Any => update,
            Keys::Without => update.text(" AND unique_key IS NULL"),
            Keys::With => update.text(" AND unique_key IS NOT NULL"),
        };
        let (sql, params) = update.finished(self);
        self.db.execute(&sql, &params)
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
        let dialect = self.dialect();
        let (sql, params) = Statement::listed(dialect)
            .text("UPDATE /*_*/scheduled_events")
            .text(dialect.by_primary_key())
            .text(" SET claim_until = ")
            .at(until)
            .text(" WHERE id")
            .among(ids.iter().copied())
            .text(" AND ")
            .text(dialect.guarded_status())
            .text(" = 'running' AND claim_epoch = ")
            .int(epoch.0)
            .finished(self);
        self.db.execute(&sql, &params).map(drop)
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
