//! The sources of the configuration are brought into the tables by the first run that sees them; the
//! events of those that are stated no more are taken back.

use std::time::Instant;

use super::super::{Runner, Trouble};
use crate::clock::{UnixSeconds, monotonic};
use crate::db::DbResult;
use crate::fault::point;
use crate::source::{LATEST, Position, Source};
use crate::store::sources::{CHUNK, ScanRow};
use crate::store::{Stopped, Store};

/// Events that nobody has tried yet.
const UNTRIED: &str = " AND e.status = 'ready' AND e.attempts + e.losses + e.deferrals = 0 \
     AND e.first_due_at IS NULL";

impl Runner<'_> {
    /// Brings the tables to what the configuration says. False: the next run goes on with it.
    pub(super) fn take_over_sources(
        &mut self,
        fingerprint: String,
        give_up: Instant,
    ) -> Result<bool, Trouble> {
        let rows = self.store.scans()?;
        for row in &rows {
            let known = Source::from_json(&row.rule).filter(|known| known.enabled);
            let wanted = self.config.sources.get(&row.source);
            let wanted = wanted.filter(|wanted| wanted.enabled);
            let keeps = known.zip(wanted);
            let keeps = keeps.is_some_and(|(known, wanted)| known.type_name == wanted.type_name);
            if !keeps && !row.rule.is_empty() && !self.withdraw(&row.source, give_up)? {
                return Ok(false);
            }
        }
        let read_at = monotonic();
        let now = self.time_at(read_at);
        let (gate, config, run_id) = (self.lease.gate(now), self.config, self.run_id);
        self.store.transaction(|store| {
            store.pass(gate)?;
            for row in &rows {
                take_over(store, row, config.sources.get(&row.source), run_id, now)?;
            }
            for (name, source) in &config.sources {
                if rows.iter().any(|row| row.source == *name) {
                    continue;
                }
                let row = ScanRow::new(name, source, now);
                write(store, source, &row, now)?;
                store.log_of_type(run_id, now, &source.type_name, "source added", name)?;
            }
            store.note_sources(&fingerprint)?;
            point("sources.commit");
            Ok(())
        })?;
        self.lease.passed(read_at);
        point("sources.committed");
        self.install.sources = fingerprint;
        Ok(true)
    }

    /// Cancels the events of a source that nobody has tried yet: nobody states them any more.
    /// False: there are more of them.
    fn withdraw(&mut self, name: &str, give_up: Instant) -> Result<bool, Trouble> {
        let why = format!("source {name} is stated no more, or of another type");
        let all = (
            &Position::start(UnixSeconds(0)),
            &Position::start(UnixSeconds(LATEST.0 + 1)),
        );
        loop {
            let read_at = monotonic();
            let now = self.time_at(read_at);
            let (gate, run_id) = (self.lease.gate(now), self.run_id);
            let cancelled = self.store.transaction(|store| {
                store.pass(gate)?;
                let records = store.live_records(name, all, UNTRIED, CHUNK)?;
                store.cancel_derived((name, ""), &records, &why, (run_id, now))?;
                point("sources.commit");
                Ok(records.len())
            });
            let cancelled = match cancelled {
                Err(Stopped::Changed) => return Ok(false),
                other => other?,
            };
            self.lease.passed(read_at);
            point("sources.committed");
            if cancelled < CHUNK {
                return Ok(true);
            }
            if self.is_to_stop(give_up) {
                return Ok(false);
            }
        }
    }
}

/// Brings one row to what is `wanted` of it.
fn take_over(
    store: &mut Store,
    row: &ScanRow,
    wanted: Option<&Source>,
    run_id: i64,
    now: UnixSeconds,
) -> Result<(), Stopped> {
    let known = Source::from_json(&row.rule);
    let Some(wanted) = wanted else {
        if row.rule.is_empty() {
            return Ok(());
        }
        let gone = ScanRow {
            rule: String::new(),
            began: None,
            cursor: None,
            error: None,
            remark: None,
            ..row.clone()
        };
        store.write_scan(&gone)?;
        store.write_next_look(&row.source, None)?;
        if let Some(known) = &known {
            store.log_of_type(run_id, now, &known.type_name, "source removed", &row.source)?;
        }
        return Ok(());
    };
    if wanted.to_json() == row.rule {
        return Ok(());
    }
    let was_idle = known.is_none_or(|known| !known.enabled);
    let mut new = ScanRow {
        rule: wanted.to_json(),
        began: None,
        cursor: None,
        error: None,
        ..row.clone()
    };
    if was_idle {
        // What has expired since then was nobody's to tell.
        new.watermark = now;
    } else {
        // As far as what was derived by the old rule, which may be due at another instant now.
        new.begin(now, wanted.window_end(now).max(row.window_end));
    }
    write(store, wanted, &new, now)?;
    let was = format!("{}; it was {}", row.source, row.rule);
    Ok(store.log_of_type(run_id, now, &wanted.type_name, "source edited", &was)?)
}

fn write(store: &mut Store, source: &Source, row: &ScanRow, now: UnixSeconds) -> DbResult<()> {
    store.write_scan(row)?;
    store.write_next_look(&row.source, source.enabled.then_some(now))
}
