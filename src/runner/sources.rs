//! Sources at work: each is looked at in pages from its watermark on, and what its rows say becomes
//! events, moves them or cancels them, in short transactions that each keep how far it has come. A
//! scan that the budget cuts goes on from there in the next run. Here is when a source is looked at and
//! how its pages are turned; [`scan`] and [`part`] are what a page comes to.

use std::time::{Duration, Instant};

use super::{Runner, Trouble};
use crate::clock::{UnixSeconds, monotonic};
use crate::config::Config;
use crate::db::{Db, DbError, DbErrorKind, DbResult};
use crate::fault::point;
use crate::handler::sql::source::{PAGE_ROWS, Query, Window, compile};
use crate::source::{Columns, Derived, Findings, Position, Source};
use crate::store::peek::Peek;
use crate::store::sources::{CHUNK, ScanRow, fingerprint};
use crate::store::{Install, Stopped};

mod derive;
mod part;
pub mod preview;
mod scan;
mod takeover;

use part::{PartWriter, Written, cancel_missed};
use scan::remark;

/// The longest that sources are looked at in one run …
const LONGEST: Duration = Duration::from_secs(10);
/// … and the share of what is left of its time: one in so many.
const SHARE: u32 = 4;
/// No query has less than this.
const SHORTEST: Duration = Duration::from_millis(100);
/// A transaction that lasts longer than this is followed by smaller ones: others wait for it.
const TRANSACTION: Duration = Duration::from_millis(50);
/// No transaction derives fewer rows than this.
const FEWEST: usize = 50;
/// The most bytes of payload in a statement: servers refuse packets of a few MiB.
const CHUNK_BYTES: usize = 1 << 20;
/// How often rows that change between reading and writing are looked at.
const LOOKS: usize = 5;

/// Whether a tick has anything to do for sources: the time for a look has come, they are stated anew,
/// or the clock that said when to look next was ahead.
pub(super) fn wait(peek: &Peek, install: &Install, config: &Config, cutoff: UnixSeconds) -> bool {
    if config.sources.is_empty() && install.sources.is_empty() {
        return false;
    }
    let enabled = config.sources.values().filter(|source| source.enabled);
    let every = enabled.map(|source| source.every).min();
    let is_it = |every| match peek.next_look {
        Some(next) => next <= cutoff || next > latest_look(every, peek.now),
        None => true,
    };
    every.is_some_and(is_it) || fingerprint_of(config) != install.sources
}

/// No source that is looked at so often is looked at later than this.
fn latest_look(every: u64, now: UnixSeconds) -> UnixSeconds {
    now.after(Duration::from_secs(every))
}

fn fingerprint_of(config: &Config) -> String {
    let sources = config.sources.iter();
    fingerprint(sources.map(|(name, source)| (name.as_str(), source)))
}

/// Why a scan does not go on.
enum Halt {
    /// Their query failed.
    Failed(String),
    /// Ours did.
    Trouble(Trouble),
    /// It goes on in the next run.
    Later,
}

impl From<Trouble> for Halt {
    fn from(trouble: Trouble) -> Self {
        Halt::Trouble(trouble)
    }
}

impl From<DbError> for Halt {
    fn from(error: DbError) -> Self {
        Halt::Trouble(error.into())
    }
}

impl From<Stopped> for Halt {
    fn from(stopped: Stopped) -> Self {
        Halt::Trouble(stopped.into())
    }
}

/// A scan in hand.
struct Scan<'s> {
    source: &'s Source,
    query: Query,
    columns: Columns,
    row: ScanRow,
    began: UnixSeconds,
    /// Where its window begins.
    from: UnixSeconds,
    /// By the clock that decides what is due.
    now: UnixSeconds,
    give_up: Instant,
    /// Rows to a transaction.
    chunk: usize,
    findings: Findings,
}

/// Rows of a page, judged, each with where it stands.
type Judged = Vec<(Position, Option<Derived>)>;

impl Runner<'_> {
    /// Looks at all sources whose time has come.
    pub(super) fn look_at_sources(
        &mut self,
        next_look: Option<UnixSeconds>,
    ) -> Result<(), Trouble> {
        let config = self.config;
        if config.sources.is_empty() && self.install.sources.is_empty() {
            return Ok(());
        }
        let give_up = self.sources_give_up();
        let now = self.time_at(monotonic());
        let mut has_come = next_look.is_none_or(|next| next <= self.cutoff || next > now);
        let fingerprint = fingerprint_of(config);
        if fingerprint != self.install.sources {
            if !self.take_over_sources(fingerprint, give_up)? {
                return Ok(());
            }
            has_come = true; // perhaps
        }
        if !has_come {
            return Ok(());
        }
        // A second may have begun since the cutoff, and what was stated anew is looked at now.
        let now = self.time_at(monotonic());
        let mut due = self.store.scans()?;
        due.retain(|row| {
            let source = config.sources.get(&row.source);
            source.is_some_and(|source| self.is_to_be_looked_at(source, row, now))
        });
        due.sort_by_key(|row| row.next);
        for row in due {
            if self.is_to_stop(give_up) {
                break;
            }
            if let Some(source) = config.sources.get(&row.source) {
                self.scan(source, row, give_up)?;
            }
        }
        Ok(())
    }

    fn is_to_be_looked_at(&self, source: &Source, row: &ScanRow, now: UnixSeconds) -> bool {
        let has_come = row
            .next
            .is_none_or(|next| next <= now || next > latest_look(source.every, now));
        source.enabled && has_come && self.options.wants(&source.type_name)
    }

    /// When this run looks at no more sources.
    fn sources_give_up(&self) -> Instant {
        let now = monotonic();
        let left = self
            .deadline
            .map(|at| at.saturating_duration_since(now) / SHARE);
        now + left.unwrap_or(LONGEST).min(LONGEST)
    }

    /// The longest that a query ever has.
    fn whole_share(&self) -> Duration {
        let share = self.options.max_time.map_or(LONGEST, |time| time / SHARE);
        share.min(LONGEST).min(self.config.run.lease_ttl / 3)
    }

    fn is_to_stop(&self, give_up: Instant) -> bool {
        self.signals.received().is_some() || monotonic() >= give_up
    }

    /// Looks at one source; a failure of its query is noted and no trouble of the run.
    fn scan(&mut self, source: &Source, row: ScanRow, give_up: Instant) -> Result<(), Trouble> {
        let mut known = row.clone();
        match self.scan_pages(source, row, &mut known, give_up) {
            Ok(()) | Err(Halt::Later) => Ok(()),
            Err(Halt::Failed(why)) => self.note_failed_source(source, known, &why),
            Err(Halt::Trouble(trouble)) => Err(trouble),
        }
    }

    fn scan_pages(
        &mut self,
        source: &Source,
        mut row: ScanRow,
        known: &mut ScanRow,
        give_up: Instant,
    ) -> Result<(), Halt> {
        let query = compile(&source.sql, self.store.dialect()).map_err(Halt::Failed)?;
        let now = self.time_at(monotonic());
        // One that began in the future began by a clock that was wrong.
        let began = row.began.filter(|began| *began <= now).unwrap_or(now);
        if row.began != Some(began) {
            row.begin(now, source.window_end(now));
        }
        let columns = self.ask(give_up, |db| query.columns(db))?;
        let from = row.window_start(began);
        let mut scan = Scan {
            source,
            query,
            columns,
            row,
            began,
            from,
            now,
            give_up,
            chunk: CHUNK,
            findings: Findings::default(),
        };
        if scan.row.cursor.is_none() {
            self.look_for_faults(&mut scan)?;
        }
        let scanned = self.turn_pages(&mut scan);
        known.clone_from(&scan.row);
        if !matches!(scanned, Err(Halt::Trouble(_))) {
            let lines = scan.findings.lines().into_iter();
            let lines = lines.map(|line| format!("source {}: {line}", scan.row.source));
            self.remarks.extend(lines);
        }
        scanned
    }

    /// Runs a query of theirs within its time.
    fn ask<T>(
        &mut self,
        give_up: Instant,
        query: impl FnOnce(&mut dyn Db) -> DbResult<T>,
    ) -> Result<T, Halt> {
        let left = give_up.saturating_duration_since(monotonic());
        let longest = left.min(self.config.run.lease_ttl / 3).max(SHORTEST);
        if let Err(error) = self.store.db().limit_queries(Some(longest)) {
            if error.is_database_trouble() {
                return Err(error.into());
            }
            log::info!("the server keeps no limit of time: {error}");
        }
        let answer = query(self.store.db());
        let trouble = match &answer {
            Err(error) if error.is_database_trouble() => None,
            _ => self.store.db().limit_queries(None).err(),
        };
        if let Some(error) = trouble.filter(DbError::is_database_trouble) {
            return Err(error.into());
        }
        answer.map_err(|error| {
            if error.is_database_trouble() {
                return error.into();
            }
            // The next run has more time for it.
            if error.kind == DbErrorKind::TooLong && longest < self.whole_share() / 2 {
                return Halt::Later;
            }
            Halt::Failed(error.message)
        })
    }

    fn look_for_faults(&mut self, scan: &mut Scan<'_>) -> Result<(), Halt> {
        let window = Window {
            from: scan.from,
            until: scan.row.window_end,
            now: scan.now,
        };
        let (query, columns) = (&scan.query, &scan.columns);
        let rows = self.ask(scan.give_up, |db| query.faults(db, columns, window))?;
        for row in &rows {
            if let Err(fault) = row.judged(&scan.columns) {
                Findings::count(&mut scan.findings.faults, || fault);
            }
        }
        Ok(())
    }

    /// Reads the window page by page and writes what each says.
    fn turn_pages(&mut self, scan: &mut Scan<'_>) -> Result<(), Halt> {
        let start = Position::start(scan.from);
        let mut cursor = scan.row.cursor.clone().unwrap_or(start);
        // Seconds of the next page; `None`: all that are left.
        let mut width: Option<i64> = None;
        loop {
            let end = scan.row.window_end;
            let until = width.map_or(end, |width| end.min(UnixSeconds(cursor.at.0 + width)));
            let window = Window {
                from: cursor.at,
                until,
                now: scan.now,
            };
            let (query, columns, after) = (&scan.query, &scan.columns, &cursor);
            let page = self.ask(scan.give_up, |db| {
                query.page(db, columns, window, after, PAGE_ROWS)
            })?;
            point("sources.page");
            let count = page.rows.len();
            let is_full = page.is_full;
            let (rows, stop, is_cut) = scan.judge(page, &cursor, until);
            let is_last = is_cut || (!is_full && until == end);
            let covered = stop.at.0 - cursor.at.0 + 1;
            let written = self.write_page(scan, &rows, &mut cursor, &stop, is_last);
            // Where it stops is where it goes on; whoever stopped it, it is due.
            if matches!(written, Err(Halt::Later)) {
                self.postpone(scan)?;
            }
            written?;
            if is_last {
                return Ok(());
            }
            width = if is_full {
                Some((covered * 3 / 4).max(1))
            } else if count * 4 < PAGE_ROWS {
                width.map(|width| width.saturating_mul(4).min(1 << 40))
            } else {
                width
            };
        }
    }

    /// The next run goes on from here; others that wait come first then.
    fn postpone(&mut self, scan: &mut Scan<'_>) -> Result<(), Trouble> {
        let read_at = monotonic();
        let now = self.time_at(read_at);
        let gate = self.lease.gate(now);
        scan.row.remark = remark(scan.row.remark.as_deref(), &scan.findings);
        let row = &scan.row;
        self.store.transaction(|store| {
            store.pass(gate)?;
            store.write_scan(row)?;
            Ok(store.write_next_look(&row.source, Some(now))?)
        })?;
        self.lease.passed(read_at);
        Ok(())
    }

    /// Writes what a page says, in short transactions.
    fn write_page(
        &mut self,
        scan: &mut Scan<'_>,
        rows: &[(Position, Option<Derived>)],
        cursor: &mut Position,
        stop: &Position,
        is_last: bool,
    ) -> Result<(), Halt> {
        let mut left = rows;
        loop {
            let (part, rest) = left.split_at(scan.part(left));
            let ends_page = rest.is_empty();
            let end = match part.last() {
                Some((last, _)) if !ends_page => last.clone(),
                _ => stop.clone(),
            };
            let derived: Vec<&Derived> = part.iter().filter_map(|(_, one)| one.as_ref()).collect();
            self.write_part(
                scan,
                (&derived, part.len() as u64),
                cursor,
                &end,
                is_last && ends_page,
            )?;
            cursor.clone_from(&end);
            left = rest;
            if ends_page {
                break;
            }
            if self.is_to_stop(scan.give_up) {
                return Err(Halt::Later);
            }
        }
        if is_last {
            return self.finish_scan(scan);
        }
        if self.is_to_stop(scan.give_up) {
            return Err(Halt::Later);
        }
        Ok(())
    }

    fn write_part(
        &mut self,
        scan: &mut Scan<'_>,
        (derived, seen): (&[&Derived], u64),
        after: &Position,
        end: &Position,
        is_last: bool,
    ) -> Result<(), Halt> {
        let mut after = after.clone();
        let mut looks = 0;
        loop {
            let read_at = monotonic();
            let now = self.time_at(read_at);
            let gate = self.lease.gate(now);
            let writer = PartWriter {
                scan,
                derived,
                seen,
                range: (&after, end),
                is_last,
                run_id: self.run_id,
                now,
            };
            let written = self.store.transaction(|store| writer.write(store, gate));
            let written = match written {
                Err(Stopped::Changed) if looks < LOOKS => {
                    looks += 1;
                    continue;
                }
                Err(Stopped::Changed) => return Err(Halt::Later),
                other => other?,
            };
            self.lease.passed(read_at);
            point("sources.committed");
            match written {
                Written::Missed(row, position) => {
                    scan.row = row;
                    after = position;
                }
                Written::Whole(row, findings) => {
                    scan.row = row;
                    scan.findings = findings;
                    let took = monotonic().duration_since(read_at);
                    scan.chunk = if took > TRANSACTION {
                        (scan.chunk / 2).max(FEWEST)
                    } else {
                        (scan.chunk * 2).min(CHUNK)
                    };
                    return Ok(());
                }
            }
        }
    }

    /// Cancels what the scan has missed, and moves the watermark.
    fn finish_scan(&mut self, scan: &mut Scan<'_>) -> Result<(), Halt> {
        if scan.row.began.is_none() {
            point("sources.end");
            return Ok(()); // with its last part
        }
        let mut looks = 0;
        loop {
            let read_at = monotonic();
            let now = self.time_at(read_at);
            let gate = self.lease.gate(now);
            let run_id = self.run_id;
            let ending = self.store.transaction(|store| {
                store.pass(gate)?;
                let cancelled = cancel_missed(store, scan, (run_id, now))?;
                let row = if cancelled < CHUNK {
                    Some(scan.end(store, (scan.row.clone(), &scan.findings), (run_id, now))?)
                } else {
                    None
                };
                point("sources.commit");
                Ok((cancelled, row))
            });
            let (cancelled, row) = match ending {
                Err(Stopped::Changed) if looks < LOOKS => {
                    looks += 1;
                    continue;
                }
                Err(Stopped::Changed) => return Err(Halt::Later),
                other => other?,
            };
            self.lease.passed(read_at);
            let type_name = scan.source.type_name.clone();
            self.counts_of(&type_name).cancelled += i64::try_from(cancelled).unwrap_or(0);
            if let Some(row) = row {
                scan.row = row;
                point("sources.end");
                return Ok(());
            }
            point("sources.committed");
            if self.is_to_stop(scan.give_up) {
                return Err(Halt::Later);
            }
        }
    }

    /// Notes that a source's query fails, and looks again when it is time for the next look.
    fn note_failed_source(
        &mut self,
        source: &Source,
        mut row: ScanRow,
        why: &str,
    ) -> Result<(), Trouble> {
        let line = why.split_whitespace().collect::<Vec<_>>().join(" ");
        let read_at = monotonic();
        let now = self.time_at(read_at);
        let is_news = row.error.as_deref() != Some(line.as_str());
        (row.began, row.cursor) = (None, None);
        row.looked_at = Some(now);
        row.error = Some(line.clone());
        let (gate, run_id) = (self.lease.gate(now), self.run_id);
        self.store.transaction(|store| {
            store.pass(gate)?;
            store.write_scan(&row)?;
            store.write_next_look(&row.source, Some(source.next_look(now, now)))?;
            if is_news {
                store.log_of_type(
                    run_id,
                    now,
                    &source.type_name,
                    "source failed",
                    &format!("{}: {line}", row.source),
                )?;
            }
            Ok(())
        })?;
        self.lease.passed(read_at);
        self.without_rule.push(format!(
            "source {} derives nothing: {line}; correct `sql` of [source.{}], see `punctual sources \
             show`",
            row.source, row.source
        ));
        Ok(())
    }
}
