//! One part of a page: what it says becomes events, and what it lacks is marked, in one transaction
//! with the cursor behind it; and at the end of a scan what was missed is cancelled.

use std::collections::HashSet;

use super::Scan;
use super::derive::{Plan, decide};
use crate::clock::UnixSeconds;
use crate::fault::point;
use crate::source::{Derived, Findings, Position};
use crate::store::claim::Gate;
use crate::store::runs::LogEntry;
use crate::store::sources::{CHUNK, Derivation, Move, ORIGIN, Record, ScanRow};
use crate::store::{Stopped, Store};

/// Records read at a time to find those that were missed.
const RECORDS: usize = 1000;

/// What came of a transaction.
pub(super) enum Written {
    /// All of it.
    Whole(ScanRow, Findings),
    /// Only what was missed up to here.
    Missed(ScanRow, Position),
}

/// What a transaction of a scan needs to know.
pub(super) struct PartWriter<'p, 's> {
    pub(super) scan: &'p Scan<'s>,
    pub(super) derived: &'p [&'p Derived],
    /// Rows that it was made of, faulty ones included.
    pub(super) seen: u64,
    pub(super) range: (&'p Position, &'p Position),
    pub(super) is_last: bool,
    pub(super) run_id: i64,
    pub(super) now: UnixSeconds,
}

impl PartWriter<'_, '_> {
    pub(super) fn write(&self, store: &mut Store, gate: Gate<'_>) -> Result<Written, Stopped> {
        store.pass(gate)?;
        let scan = self.scan;
        let mut row = scan.row.clone();
        let name = row.source.clone();
        let live = store.live_records(&name, self.range, "", RECORDS)?;
        let found: HashSet<_> = self
            .derived
            .iter()
            .map(|one| (one.expiry, one.key.as_str()))
            .collect();
        let is_missed = |record: &&Record| !found.contains(&(record.expiry, record.key.as_str()));
        let missed: Vec<_> = live.iter().filter(is_missed).collect();
        store.mark_records(&name, &missed, Some(scan.began))?;
        row.missed += missed.len() as u64;
        if let Some(last) = live.last().filter(|_| live.len() == RECORDS) {
            // The cursor stays: what the rows up to here say is not derived yet.
            store.write_scan(&row)?;
            point("sources.commit");
            let key = Some(last.key.clone().into_bytes());
            let at = last.expiry;
            return Ok(Written::Missed(row, Position { at, key }));
        }
        let keys: HashSet<&str> = self.derived.iter().map(|one| one.key.as_str()).collect();
        let known = store.records_of(&name, keys.into_iter())?;
        let missed = missed.into_iter().map(|record| record.event).collect();
        let mut findings = scan.findings.clone();
        let plan = decide(
            scan.source,
            self.derived,
            &known,
            (scan.began, scan.from),
            &missed,
        );
        self.carry_out(store, &plan, &mut row, &mut findings)?;
        row.rows_seen += self.seen;
        row.cursor = Some(self.range.1.clone());
        if self.is_last && row.missed == 0 {
            row = scan.end(store, (row, &findings), (self.run_id, self.now))?;
        } else {
            store.write_scan(&row)?;
        }
        point("sources.commit");
        Ok(Written::Whole(row, findings))
    }

    fn carry_out(
        &self,
        store: &mut Store,
        plan: &Plan<'_>,
        row: &mut ScanRow,
        findings: &mut Findings,
    ) -> Result<(), Stopped> {
        let (name, source) = (&row.source, self.scan.source);
        store.mark_records(name, &plan.found_again, None)?;
        store.move_derived(name, &plan.moves)?;
        let detail = |one: &Move<'_>| format!("source {name}: @{} to @{}", one.from, one.to.expiry);
        let details: Vec<String> = plan.moves.iter().map(detail).collect();
        let lines = plan.moves.iter().zip(&details);
        let lines: Vec<LogEntry<'_>> = lines
            .map(|(one, detail)| LogEntry {
                at: self.now,
                run_id: Some(self.run_id),
                event: Some(one.event),
                type_name: Some(&source.type_name),
                decision: "moved",
                detail,
            })
            .collect();
        store.log_all(&lines)?;
        let origin = format!("{ORIGIN}{name}");
        let due = |_: usize, one: &Derived| source.due_at(one.expiry);
        let derivation = Derivation {
            source: name,
            type_name: &source.type_name,
            origin: &origin,
            priority: source.priority,
            due: &due,
        };
        let taken = store.derive(&derivation, &plan.new, self.now)?;
        row.moved += plan.moves.len() as u64;
        row.made += (plan.new.len() - taken.len()) as u64;
        for one in &plan.twofold {
            Findings::count(&mut findings.twofold, || {
                format!("key '{}' at @{}", one.key, one.expiry)
            });
        }
        for one in taken {
            Findings::count(&mut findings.taken, || format!("key '{}'", one.key));
        }
        Ok(())
    }
}

/// Cancels one chunk of what the scan missed, and says how many that were.
pub(super) fn cancel_missed(
    store: &mut Store,
    scan: &Scan<'_>,
    (run_id, now): (i64, UnixSeconds),
) -> Result<usize, Stopped> {
    if scan.row.missed == 0 {
        return Ok(0);
    }
    let name = &scan.row.source;
    let window = (
        &Position::start(scan.from),
        &Position::start(scan.row.window_end),
    );
    let missed = format!(" AND r.watermark = {} AND e.status = 'ready'", scan.began);
    let records = store.live_records(name, window, &missed, CHUNK)?;
    let why = format!("its row is gone from source {name}");
    let of = (name.as_str(), scan.source.type_name.as_str());
    store.cancel_derived(of, &records, &why, (run_id, now))?;
    let line = |record: &Record| LogEntry {
        at: now,
        run_id: Some(run_id),
        event: Some(record.event),
        type_name: Some(&scan.source.type_name),
        decision: "cancelled",
        detail: &why,
    };
    let lines: Vec<LogEntry<'_>> = records.iter().map(line).collect();
    store.log_all(&lines)?;
    Ok(records.len())
}
