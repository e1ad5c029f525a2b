//! Acks that met rows other than they had left them: which were deleted, which changed hands, which
//! an earlier COMMIT without an answer has recorded already.

use super::{Ack, Owner, Writer};
use crate::db::{DbResult, Row, id_list, query_all};
use crate::event::{EventId, Outcome};
use crate::store::Store;
use crate::store::statement::Statement;

/// What acks met that they did not expect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surprises {
    /// Rows that somebody deleted meanwhile.
    pub withdrawn: Vec<EventId>,
    /// Rows that somebody else claimed or recorded meanwhile.
    pub fenced: Vec<EventId>,
    /// Rows whose key a newer event has taken: cancelled instead of put back.
    pub superseded: Vec<EventId>,
}

impl Store {
    /// After a count that did not fit: which rows are gone, which changed hands, which remain.
    pub(super) fn sort_out(
        &mut self,
        owner: Owner,
        writer: Writer<'_>,
        left: &mut Vec<&Ack>,
        surprises: &mut Surprises,
    ) -> DbResult<()> {
        let select = Statement::listed(self.dialect()).text("SELECT id, CASE WHEN ");
        let (rows, params) = self
            .guard(select, owner)
            .text(" THEN 1 ELSE 0 END FROM /*_*/scheduled_events")
            .text(self.dialect().by_primary_key())
            .text(" WHERE id")
            .among(left.iter().map(|ack| ack.id))
            .finished(self);
        let read = |row: &dyn Row| (EventId(row.int(0)), row.int(1) == 1);
        let found = query_all(&mut *self.db, &rows, &params, read)?;
        let ids = id_list(left.iter().map(|ack| ack.id.0));
        let recorded = self.recorded(&ids)?;
        // An earlier COMMIT of ours whose answer was lost may have succeeded.
        let planned = match writer.run_id.filter(|_| writer.unsure) {
            Some(run_id) => self.planned_by(run_id, &ids)?,
            None => Vec::new(),
        };
        left.retain(|ack| {
            let row = found.iter().find(|(id, _)| *id == ack.id);
            if row.is_some_and(|(_, is_ours)| *is_ours) {
                return true;
            }
            let by_us = writer.run_id.is_some() && recorded.contains(&(ack.id, writer.run_id));
            if by_us || is_planned(ack, &planned) {
                return false;
            }
            // A claim that somebody presumed lost, and not merely a deleted row.
            let is_claim = matches!(owner, Owner::Claim(_));
            let ended_elsewhere = is_claim && recorded.iter().any(|(id, _)| *id == ack.id);
            if row.is_some() || ended_elsewhere {
                surprises.fenced.push(ack.id);
            } else {
                surprises.withdrawn.push(ack.id);
            }
            false
        });
        Ok(())
    }

    /// Which of `ids` are in history, and by which run: what was put back by hand since then is not.
    fn recorded(&mut self, ids: &str) -> DbResult<Vec<(EventId, Option<i64>)>> {
        let sql = format!(
            "SELECT event_id, run_id FROM /*_*/event_history WHERE event_id IN ({ids}) \
             AND (resolved_as IS NULL OR resolved_as <> 'retried')"
        );
        let sql = self.sql(&sql);
        let read = |row: &dyn Row| (EventId(row.int(0)), row.opt_int(1));
        query_all(&mut *self.db, &sql, &[], read)
    }

    /// What this run has already planned for events of `ids`, as its lines in the log have it.
    fn planned_by(&mut self, run_id: i64, ids: &str) -> DbResult<Vec<(EventId, String, String)>> {
        let sql = format!(
            "SELECT event_id, decision, detail FROM /*_*/event_log \
             WHERE event_id IN ({ids}) AND run_id = {run_id}"
        );
        let sql = self.sql(&sql);
        let read = |row: &dyn Row| (EventId(row.int(0)), row.text(1), row.text(2));
        query_all(&mut *self.db, &sql, &[], read)
    }

    /// The rows are gone, so their history tells only what the run remembers of them.
    pub(super) fn record_withdrawn(
        &mut self,
        writer: Writer<'_>,
        acks: &[Ack],
        withdrawn: &[EventId],
    ) -> DbResult<()> {
        const WHY: &str = "the row was deleted while it ran";
        for ack in acks.iter().filter(|ack| withdrawn.contains(&ack.id)) {
            let Some(started) = ack.started_at else {
                continue;
            };
            let sql = "INSERT INTO /*_*/event_history (event_id, type, due_at, priority, attempts, \
                       losses, deferrals, outcome, finished_at, run_id, duration_ms, error) \
                       VALUES (?, ?, ?, 0, 0, 0, 0, 'withdrawn', ?, ?, ?, ?)";
            let sql = self.sql(sql);
            let params = [
                ack.id.0.into(),
                ack.type_name.as_str().into(),
                started.into(),
                writer.now.into(),
                writer.run_id.into(),
                ack.duration_ms.into(),
                WHY.into(),
            ];
            self.db.execute(&sql, &params)?;
            self.log_fate(writer, ack, "withdrawn", WHY)?;
        }
        Ok(())
    }

    /// How the events of `ids` ended that this run has already written to history: outcome and
    /// error of each.
    pub fn recorded_endings(
        &mut self,
        run_id: i64,
        ids: &[EventId],
    ) -> DbResult<Vec<(EventId, Outcome, Option<String>)>> {
        let sql = format!(
            "SELECT event_id, outcome, error FROM /*_*/event_history \
             WHERE event_id IN ({}) AND run_id = {run_id}",
            id_list(ids.iter().map(|id| id.0)),
        );
        let sql = self.sql(&sql);
        let read = |row: &dyn Row| (EventId(row.int(0)), row.text(1), row.opt_text(2));
        let rows = query_all(&mut *self.db, &sql, &[], read)?;
        let known = |(id, word, error): (EventId, String, Option<String>)| {
            Some((id, word.parse().ok()?, error))
        };
        Ok(rows.into_iter().filter_map(known).collect())
    }
}

/// Whether this run has written into its log already what `ack` plans.
fn is_planned(ack: &Ack, planned: &[(EventId, String, String)]) -> bool {
    let line = ack.log_line();
    line.is_some_and(|(decision, detail)| planned.contains(&(ack.id, decision, detail)))
}
