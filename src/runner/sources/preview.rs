//! What a source would derive if it were looked at now: for the dry run and for `sources show`.
//! Nothing is written.

use std::collections::HashSet;
use std::time::Duration;

use super::derive::decide;
use crate::clock::UnixSeconds;
use crate::config::Config;
use crate::db::{DbError, DbResult};
use crate::event::{Event, EventId, Slot};
use crate::handler::sql::source::{PAGE_ROWS, Window, compile};
use crate::source::{Derived, Position, Source};
use crate::store::Store;
use crate::store::sources::{CHUNK, ScanRow};

/// The longest that a query may take.
const LONGEST: Duration = Duration::from_secs(10);
/// Rows looked at to find those that are new.
const MOST: usize = 100_000;
/// Events listed of one source.
const LISTED: usize = 1000;

/// Up to `limit` events that would be made of rows expiring before `until`, in due order, at the
/// instant `now`; or why the query gives none.
///
/// # Errors
/// What the database said, other than of the query.
pub fn preview(
    store: &mut Store,
    (name, source): (&str, &Source),
    row: Option<&ScanRow>,
    (now, until): (UnixSeconds, UnixSeconds),
    limit: usize,
) -> DbResult<Result<Vec<Derived>, String>> {
    let query = match compile(&source.sql, store.dialect()) {
        Ok(query) => query,
        Err(why) => return Ok(Err(why)),
    };
    if let Err(error) = store.db().limit_queries(Some(LONGEST)) {
        log::info!("the server keeps no limit of time: {error}");
    }
    let theirs = |error: DbError| {
        if error.is_database_trouble() {
            Err(error)
        } else {
            Ok(error.message)
        }
    };
    let columns = match query.columns(store.db()) {
        Ok(columns) => columns,
        Err(error) => return theirs(error).map(Err),
    };
    let from = row.map_or(now, |row| row.window_start(now));
    let mut cursor = Position::start(from);
    let mut found: Vec<Derived> = Vec::new();
    let mut seen = 0;
    loop {
        let window = Window {
            from: cursor.at,
            until,
            now,
        };
        let page = match query.page(store.db(), &columns, window, &cursor, PAGE_ROWS) {
            Ok(page) => page,
            Err(error) => return theirs(error).map(Err),
        };
        seen += page.rows.len();
        let behind = page.rows.last().map(|last| last.position(&columns));
        let rows = page
            .rows
            .iter()
            .filter_map(|row| row.judged(&columns).ok().flatten());
        let rows: Vec<Derived> = rows.collect();
        for part in rows.chunks(CHUNK) {
            let keys: HashSet<&str> = part.iter().map(|one| one.key.as_str()).collect();
            let known = store.records_of(name, keys.into_iter())?;
            let part: Vec<&Derived> = part.iter().collect();
            let plan = decide(source, &part, &known, (now, from), &HashSet::new());
            found.extend(plan.new.into_iter().cloned());
            if found.len() >= limit {
                found.truncate(limit);
                return Ok(Ok(found));
            }
        }
        match behind.filter(|behind| page.is_full && *behind > cursor && seen < MOST) {
            Some(behind) => cursor = behind,
            None => return Ok(Ok(found)),
        }
    }
}

/// The events that sources would make by `cutoff`, as far as can be told at `now`, and a line for
/// each source whose query fails. Their ids only put them behind all others, and before those of
/// slots.
pub(in crate::runner) fn planned(
    store: &mut Store,
    config: &Config,
    now: UnixSeconds,
    cutoff: UnixSeconds,
) -> DbResult<Vec<Event>> {
    let mut made = Vec::new();
    if config.sources.is_empty() {
        return Ok(made);
    }
    let rows = store.scans()?;
    for (name, source) in config.sources.iter().filter(|(_, source)| source.enabled) {
        let row = rows
            .iter()
            .find(|row| row.source == *name && !row.rule.is_empty());
        // No more than is due by then.
        let lead = Duration::from_secs(source.lead);
        let until = UnixSeconds(cutoff.after(lead).0 + 1).min(source.window_end(now.max(cutoff)));
        match preview(store, (name, source), row, (now, until), LISTED)? {
            Ok(derived) => made.extend(derived.into_iter().map(|one| event_of(source, one))),
            Err(why) => log::error!("source {name} derives nothing: {why}"),
        }
    }
    made.sort_by_key(|event| event.due_at);
    for (id, event) in (1..).zip(made.iter_mut().rev()) {
        event.id = EventId(i64::MAX / 2 - id);
    }
    Ok(made)
}

fn event_of(source: &Source, derived: Derived) -> Event {
    Event {
        id: EventId(0),
        type_name: source.type_name.clone(),
        due_at: source.due_at(derived.expiry),
        first_due_at: None,
        payload: derived.payload.unwrap_or_default().into_bytes(),
        key: Some(derived.key.into_bytes()),
        priority: source.priority,
        expires_at: None,
        attempts: 0,
        losses: 0,
        deferrals: 0,
        slot: Some(Slot {
            at: derived.expiry,
            slots: 1,
        }),
    }
}
