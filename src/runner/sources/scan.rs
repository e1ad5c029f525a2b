//! A scan in hand: what its pages come to, how it is cut into parts, and how it ends.

use super::{CHUNK_BYTES, Judged, Scan};
use crate::clock::UnixSeconds;
use crate::handler::sql::source::Page;
use crate::source::{Derived, Findings, Position};
use crate::store::sources::ScanRow;
use crate::store::{Stopped, Store};

impl Scan<'_> {
    /// Judges the rows of a page behind `cursor`: those that count, where the page stops, and
    /// whether the scan is cut there for the number of its rows.
    pub(super) fn judge(
        &mut self,
        page: Page,
        cursor: &Position,
        until: UnixSeconds,
    ) -> (Judged, Position, bool) {
        let mut rows = Vec::with_capacity(page.rows.len());
        let is_over = |seen: u64| seen >= self.source.max_rows;
        // Counted once they are written: a page that is cut is read again.
        let mut seen = self.row.rows_seen;
        let mut last_at = is_over(seen).then_some(cursor.at);
        let mut stop = if page.is_full {
            cursor.clone()
        } else {
            Position::start(until)
        };
        for row in page.rows {
            let position = row.position(&self.columns);
            if last_at.is_some_and(|last| position.at > last) {
                // Never within a second, or the next scan would come no further.
                let end = last_at.map_or(until, |last| UnixSeconds(last.0 + 1));
                self.row.window_end = end;
                self.findings.cut_at = Some(self.source.max_rows);
                return (rows, Position::start(end), true);
            }
            seen += 1;
            if is_over(seen) {
                last_at = last_at.or(Some(position.at));
            }
            if page.is_full {
                stop.clone_from(&position);
            }
            let derived = row.judged(&self.columns).unwrap_or_else(|fault| {
                Findings::count(&mut self.findings.faults, || fault);
                None
            });
            rows.push((position, derived));
        }
        if stop <= *cursor {
            stop = Position::start(UnixSeconds(cursor.at.0 + 1));
        }
        (rows, stop, false)
    }

    /// How many of these rows go into the next transaction.
    pub(super) fn part(&self, rows: &[(Position, Option<Derived>)]) -> usize {
        let mut bytes = 0;
        let fits = |(_, row): &&(Position, Option<Derived>)| {
            let payload = row.as_ref().and_then(|row| row.payload.as_ref());
            bytes += payload.map_or(0, String::len);
            bytes <= CHUNK_BYTES
        };
        let fitting = rows.iter().take(self.chunk).take_while(fits).count();
        fitting.max(1).min(rows.len())
    }

    /// Writes that the scan is over; returns its row.
    pub(super) fn end(
        &self,
        store: &mut Store,
        (mut row, findings): (ScanRow, &Findings),
        (run_id, now): (i64, UnixSeconds),
    ) -> Result<ScanRow, Stopped> {
        row.watermark = self.began.min(row.window_end);
        (row.began, row.cursor) = (None, None);
        row.looked_at = Some(now);
        row.error = None;
        row.remark = remark(row.remark.as_deref(), findings);
        store.write_scan(&row)?;
        let next = self.source.next_look(self.began, now);
        store.write_next_look(&row.source, Some(next))?;
        if let Some(remark) = &row.remark {
            let detail = format!("{}: {remark}", row.source);
            store.log_of_type(
                run_id,
                now,
                &self.source.type_name,
                "source looked at",
                &detail,
            )?;
        }
        Ok(row)
    }
}

/// What was to be known of the parts of a scan before, and of this one.
pub(super) fn remark(before: Option<&str>, findings: &Findings) -> Option<String> {
    let lines = before
        .map(str::to_owned)
        .into_iter()
        .chain(findings.lines());
    let lines: Vec<String> = lines.collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}
