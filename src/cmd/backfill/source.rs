//! `backfill source`: rows of a source that expired in the past and became no events.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::{Candidate, Context, Feed, Job, Made, Window, read_place};
use crate::backfill::{PRIORITY, Selection, digest_of, origin};
use crate::cli::backfill::BackfillSourceArgs;
use crate::clock::UnixSeconds;
use crate::cmd::{output, sources};
use crate::db::{DbError, DbErrorKind, DbResult};
use crate::error::Failure;
use crate::handler::sql::source::{self, PAGE_ROWS, Query};
use crate::source::{Columns, Derived, Findings, Position, Source};
use crate::store::backfill::Backfill;
use crate::store::sources::{Derivation, Record};
use crate::store::{Stopped, Store};

/// Candidates looked up at a time.
const PAGE: usize = 500;
/// Rows of candidates that are kept until they are made: more than wait to be.
const KEPT: usize = 8 * PAGE;
/// Why a row is left out.
const DERIVED: &str = "became events";
const TAKEN: &str = "have the key of an event that waits";

/// The rows of a source within a window.
pub(super) struct Rows {
    name: String,
    source: Source,
    query: Query,
    columns: Columns,
    /// The first instant of the window, and the first behind it.
    from: UnixSeconds,
    until: UnixSeconds,
    now: UnixSeconds,
    /// Behind which the next page begins; `None`: there is no more.
    cursor: Option<Position>,
    /// Of the last page, not looked up yet.
    read: VecDeque<Derived>,
    /// By their numbers.
    found: BTreeMap<i64, Derived>,
    next_number: i64,
    findings: Findings,
}

/// What is selected, and where it is found.
///
/// # Errors
/// [`Failure`] 2 where there is no such source; 65 where its query fails.
pub(super) fn select(
    context: &Context,
    store: &mut Store,
    args: &BackfillSourceArgs,
    window: Window,
) -> anyhow::Result<(Selection, Rows)> {
    let (name, stated) = sources::find(context, &args.name)?;
    let failed = |why: &str| {
        let name = output::escape(name);
        Failure::data(format!("source {name}: {why}"))
    };
    let query = source::compile(&stated.sql, store.dialect()).map_err(|why| failed(&why))?;
    let columns = query.columns(store.db()).map_err(|error| {
        if error.is_database_trouble() {
            return anyhow::Error::from(error);
        }
        failed(&error.message).into()
    })?;
    // What a run has still to look at is left to it.
    let watermark = store.scan(name)?.map(|row| row.watermark);
    let until = watermark.unwrap_or(window.now);
    let until = until.min(UnixSeconds(window.to.0 + 1));
    let selection = Selection::Source {
        name: name.to_owned(),
        from: window.from.0,
        to: window.to.0,
    };
    let rows = Rows {
        name: name.to_owned(),
        source: stated.clone(),
        query,
        columns,
        from: window.from,
        until,
        now: window.now,
        cursor: Some(Position::start(window.from)),
        read: VecDeque::new(),
        found: BTreeMap::new(),
        next_number: 0,
        findings: Findings::default(),
    };
    Ok((selection, rows))
}

impl Rows {
    /// Reads the next page; false: there is none.
    fn read_page(&mut self, store: &mut Store) -> DbResult<bool> {
        let Some(cursor) = self.cursor.take() else {
            return Ok(false);
        };
        let window = source::Window {
            from: cursor.at,
            until: self.until,
            now: self.now,
        };
        let page = self
            .query
            .page(store.db(), &self.columns, window, &cursor, PAGE_ROWS);
        let page = page.map_err(|error| self.named(error))?;
        if page.is_full {
            let last = page.rows.last();
            self.cursor = last.map(|last| last.position(&self.columns));
        }
        for row in &page.rows {
            match row.judged(&self.columns) {
                Ok(derived) => self.read.extend(derived),
                Err(fault) => Findings::count(&mut self.findings.faults, || fault),
            }
        }
        Ok(true)
    }

    fn named(&self, error: DbError) -> DbError {
        if error.is_database_trouble() {
            return error;
        }
        let message = format!("source {}: {}", self.name, error.message);
        DbError::new(DbErrorKind::Statement, message)
    }

    /// Why each of these rows becomes no event, in their order.
    fn left_out(&self, store: &mut Store, rows: &[Derived]) -> DbResult<Vec<Option<&'static str>>> {
        let keys: HashSet<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        let records = store.records_of(&self.name, keys.into_iter())?;
        let taken = store.taken_keys(&self.source.type_name, rows)?;
        let why = |row: &Derived| {
            let is_same = |record: &Record| record.key == row.key && record.expiry == row.expiry;
            if records.iter().any(is_same) {
                Some(DERIVED)
            } else {
                taken.contains(&row.key).then_some(TAKEN)
            }
        };
        Ok(rows.iter().map(why).collect())
    }
}

impl Feed for Rows {
    fn state(&self) -> String {
        digest_of([self.source.to_json().as_str()])
    }

    fn bound(&self) -> Option<i64> {
        None
    }

    fn set_bound(&mut self, _bound: Option<i64>) {}

    fn rewind(&mut self, _store: &mut Store, behind: Option<&Backfill>) -> DbResult<()> {
        let place = behind.and_then(|backfill| read_place(&backfill.place));
        let cursor = match place {
            Some((at, key)) => Position {
                at,
                key: Some(key.as_bytes().to_vec()),
            },
            None => Position::start(self.from),
        };
        self.cursor = Some(cursor);
        self.read.clear();
        self.found.clear();
        self.findings = Findings::default();
        Ok(())
    }

    fn next(&mut self, store: &mut Store) -> DbResult<Vec<Candidate>> {
        while self.read.is_empty() {
            if !self.read_page(store)? {
                return Ok(Vec::new());
            }
        }
        let rows: Vec<Derived> = self.read.drain(..self.read.len().min(PAGE)).collect();
        let left_out = self.left_out(store, &rows)?;
        let mut page = Vec::with_capacity(rows.len());
        for (row, left_out) in rows.into_iter().zip(left_out) {
            let number = self.next_number;
            self.next_number += 1;
            page.push(Candidate {
                at: row.expiry,
                rest: row.key.clone(),
                number,
                type_name: self.source.type_name.clone(),
                left_out,
            });
            if left_out.is_none() {
                self.found.insert(number, row);
            }
        }
        while self.found.len() > KEPT {
            self.found.pop_first();
        }
        Ok(page)
    }

    fn count_others(&mut self, _store: &mut Store) -> DbResult<Vec<(String, u64)>> {
        let (count, first) = &self.findings.faults;
        let first = first.as_deref().map(output::escape);
        Ok(first
            .map(|first| (format!("are no events: {first}"), *count))
            .into_iter()
            .collect())
    }

    fn notes(&self, context: &Context, window: Window) -> Vec<String> {
        let mut notes = Vec::new();
        if self.until.0 <= window.to.0 {
            notes.push(format!(
                "rows that expire from {} on are the next run's",
                context.shown(self.until)
            ));
        }
        let remembered = window.now.before(context.config.run.history);
        if window.from < remembered {
            notes.push(format!(
                "what was derived is forgotten some time after its expiry: of rows that expired \
                 before {} some may have fired",
                context.shown(remembered)
            ));
        }
        notes
    }

    fn make(&self, store: &mut Store, chunk: &[Candidate], job: &Job<'_>) -> Result<Made, Stopped> {
        let rows = chunk.iter();
        let rows: Option<Vec<Derived>> = rows
            .map(|one| self.found.get(&one.number).cloned())
            .collect();
        let rows = rows.ok_or(Stopped::Changed)?;
        // Somebody may have derived some of them, or taken their keys, since they were looked up.
        let left_out = self.left_out(store, &rows)?;
        let mut keys = HashSet::new();
        let wanted = rows.iter().zip(left_out).filter(|(_, why)| why.is_none());
        // Of rows with one key the first has the event.
        let wanted: Vec<&Derived> = wanted
            .map(|(row, _)| row)
            .filter(|row| keys.insert(row.key.as_str()))
            .collect();
        let origin = origin(job.id);
        let due = |number: usize, _: &Derived| (job.due)(number as u64);
        let derivation = Derivation {
            source: &self.name,
            type_name: &self.source.type_name,
            origin: &origin,
            priority: PRIORITY,
            due: &due,
        };
        if !store.derive(&derivation, &wanted, job.now)?.is_empty() {
            return Err(Stopped::Changed);
        }
        Ok(Made {
            dealt_with: chunk.len(),
            events: wanted.len() as u64,
        })
    }
}
