//! Reading many events for a person or a script, a page at a time: no read stays open while
//! somebody looks at the result, and no page holds more than some megabytes (RULINGS 18).

use std::collections::HashMap;

use super::{EVENT_COLUMNS, EVENT_WIDTH, Store, read_event};
use crate::clock::UnixSeconds;
use crate::db::{DbResult, Dialect, Row, Value, id_list, query_all};
use crate::event::{Event, EventId, Outcome, PRIORITIES};

/// Payload bytes fetched at once.
const FETCH_BYTES: i64 = 4 << 20;
/// With more types than this, one scan by time is cheaper than a probe for each type.
const PROBED_TYPES: usize = 8;

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Of these types; empty: of all.
    pub types: Vec<String>,
    /// Due at this instant or later.
    pub from: Option<UnixSeconds>,
    /// Due at this instant or earlier.
    pub to: Option<UnixSeconds>,
    /// From there: what stands in `origin`.
    pub origin: Option<String>,
}

/// Which live events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// Those that are ready.
    Ready,
    /// Those that are running.
    Running,
    /// Both.
    Any,
}

impl Live {
    fn statuses(self) -> &'static [&'static str] {
        match self {
            Live::Ready => &["ready"],
            Live::Running => &["running"],
            Live::Any => &["ready", "running"],
        }
    }
}

/// A place in the order by `due_at`, id.
pub type Place = (UnixSeconds, EventId);

/// How much of a payload is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// All of it.
    Whole,
    /// Its beginning, for a table.
    Beginning,
}

/// A finished event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The row's own id.
    pub history_id: i64,
    /// The event as it was.
    pub event: Event,
    /// How it ended.
    pub outcome: String,
    /// When.
    pub finished_at: UnixSeconds,
    /// By which run; `None`: by hand.
    pub run_id: Option<i64>,
    /// Seconds from its first due instant to its start; `None`: never started.
    pub lateness_s: Option<i64>,
    /// How long the last attempt took.
    pub duration_ms: Option<i64>,
    /// Why, where it is not plain success.
    pub error: Option<String>,
    /// When a person resolved or retried it.
    pub resolved_at: Option<UnixSeconds>,
    /// How.
    pub resolved_as: Option<String>,
}

impl Store {
    /// Up to `limit` live events behind `after`, by `due_at`, id. Rows whose `due_at` is no whole
    /// number have no place in that order and are left out; see [`Store::misfits`].
    pub fn live_page(
        &mut self,
        live: Live,
        selection: &Selection,
        after: Option<Place>,
        limit: usize,
    ) -> DbResult<Vec<Place>> {
        let mut probes = Vec::new();
        let mut params: Vec<Value<'_>> = Vec::new();
        let by_type = !selection.types.is_empty() && selection.types.len() <= PROBED_TYPES;
        for status in live.statuses() {
            for range in ranges(selection, after, self.dialect()) {
                let mut probe = |hint: &str, filter: &str| {
                    probes.push(format!(
                        "SELECT * FROM (SELECT id, due_at FROM /*_*/scheduled_events{hint} \
                         WHERE status = '{status}' AND {filter}{range} \
                         ORDER BY due_at, id LIMIT {limit}) AS p{}",
                        probes.len()
                    ));
                };
                if !by_type {
                    probe(self.due_index(), &any_of(selection));
                    params.extend(names(selection));
                    continue;
                }
                for name in &selection.types {
                    for priority in PRIORITIES {
                        probe(
                            self.turn_index(),
                            &format!("type = ? AND priority = {priority} AND {}", of(selection)),
                        );
                        params.push(name.as_str().into());
                        params.extend(selection.origin.as_deref().map(Into::into));
                    }
                }
            }
        }
        let sql = format!(
            "{} ORDER BY due_at, id LIMIT {limit}",
            probes.join(" UNION ALL ")
        );
        let sql = self.sql(&sql);
        query_all(&mut *self.db, &sql, &params, |row| {
            (UnixSeconds(row.int(1)), EventId(row.int(0)))
        })
    }

    /// The live events of a page with their status, in its order; those deleted since are left
    /// out. `each` returns false to end the reading.
    pub fn live_events(
        &mut self,
        page: &[EventId],
        payload: Payload,
        each: &mut dyn FnMut(Event, String) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        for part in self.parts("scheduled_events", "id", page, payload)? {
            let sql = format!(
                "SELECT {}, status FROM /*_*/scheduled_events{} WHERE id IN ({})",
                columns(EVENT_COLUMNS, payload),
                self.dialect().by_primary_key(),
                id_list(part.iter().map(|id| id.0)),
            );
            let sql = self.sql(&sql);
            let mut rows = query_all(&mut *self.db, &sql, &[], |row| {
                (read_event(row), row.text(EVENT_WIDTH))
            })?;
            self.tell_slots(rows.iter_mut().map(|(event, _)| event))?;
            sort_as(&part, &mut rows, |(event, _)| event.id);
            for (event, status) in rows {
                if !each(event, status)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Up to `limit` history ids below `before`, the newest first.
    pub fn history_page(
        &mut self,
        selection: &Selection,
        condition: Endings,
        before: Option<i64>,
        limit: usize,
    ) -> DbResult<Vec<EventId>> {
        let before = before.map_or_else(String::new, |id| format!("history_id < {id} AND "));
        let index = match condition {
            Endings::Of(_) => self.event_index(),
            Endings::Any | Endings::Only(_) => "",
        };
        let sql = format!(
            "SELECT history_id FROM /*_*/event_history{index} WHERE {before}{}{}{} \
             ORDER BY history_id DESC LIMIT {limit}",
            any_of(selection),
            condition.as_sql(),
            bounds(selection),
        );
        let sql = self.sql(&sql);
        let params: Vec<Value<'_>> = names(selection).collect();
        query_all(&mut *self.db, &sql, &params, |row| EventId(row.int(0)))
    }

    /// Up to `limit` ids of events with an unresolved ending of `outcome` (dead or unknown),
    /// behind `after`, by the time they finished; served by the index over both.
    pub fn open_endings_page(
        &mut self,
        selection: &Selection,
        outcome: Outcome,
        after: Place,
        limit: usize,
    ) -> DbResult<Vec<(Place, EventId)>> {
        let (at, id) = after;
        let sql = format!(
            "SELECT finished_at, history_id, event_id FROM /*_*/event_history \
             WHERE {}outcome = '{outcome}' AND resolved_at IS NULL AND finished_at >= {at} \
             AND (finished_at > {at} OR history_id > {id}) AND {} \
             ORDER BY finished_at, history_id LIMIT {limit}",
            any_of(selection),
            bounds(selection),
        );
        let sql = self.sql(&sql);
        let params: Vec<Value<'_>> = names(selection).collect();
        query_all(&mut *self.db, &sql, &params, |row| {
            (
                (UnixSeconds(row.int(0)), EventId(row.int(1))),
                EventId(row.int(2)),
            )
        })
    }

    /// The history rows of a page, in its order.
    pub fn ended_events(
        &mut self,
        page: &[EventId],
        payload: Payload,
        each: &mut dyn FnMut(Ended) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        for part in self.parts("event_history", "history_id", page, payload)? {
            let sql = format!(
                "SELECT {}, {ENDING_COLUMNS} FROM /*_*/event_history{} WHERE history_id IN ({})",
                columns(HISTORY_COLUMNS, payload),
                self.dialect().by_primary_key(),
                id_list(part.iter().map(|id| id.0)),
            );
            let sql = self.sql(&sql);
            let mut rows = query_all(&mut *self.db, &sql, &[], read_ended)?;
            self.tell_slots(rows.iter_mut().map(|row| &mut row.event))?;
            sort_as(&part, &mut rows, |row| EventId(row.history_id));
            for row in rows {
                if !each(row)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// `page` cut into parts whose payloads fit into memory together.
    fn parts(
        &mut self,
        table: &str,
        key: &str,
        page: &[EventId],
        payload: Payload,
    ) -> DbResult<Vec<Vec<EventId>>> {
        if page.is_empty() {
            return Ok(Vec::new());
        }
        if payload == Payload::Beginning {
            return Ok(vec![page.to_vec()]);
        }
        let sql = format!(
            "SELECT {key}, {} FROM /*_*/{table}{} WHERE {key} IN ({})",
            self.dialect().byte_length("payload"),
            self.dialect().by_primary_key(),
            id_list(page.iter().map(|id| id.0)),
        );
        let sql = self.sql(&sql);
        let sizes = query_all(&mut *self.db, &sql, &[], |row| (row.int(0), row.int(1)))?;
        let sizes: HashMap<i64, i64> = sizes.into_iter().collect();
        let mut parts = vec![Vec::new()];
        let mut bytes = 0;
        for &id in page {
            let size = sizes.get(&id.0).copied().unwrap_or(0);
            bytes += size;
            if bytes > FETCH_BYTES {
                parts.push(Vec::new());
                bytes = size;
            }
            parts.last_mut().expect("never empty").push(id);
        }
        parts.retain(|part: &Vec<EventId>| !part.is_empty());
        Ok(parts)
    }

    /// The index of `event_history` by event: MySQL would rather walk the primary key backwards.
    pub(super) fn event_index(&self) -> &'static str {
        self.hint(" FORCE INDEX (/*_*/event_history_event)")
    }
}

/// Which finished events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endings {
    /// All.
    Any,
    /// Those that ended so.
    Only(Outcome),
    /// Those of one event.
    Of(EventId),
}

impl Endings {
    fn as_sql(self) -> String {
        match self {
            Endings::Any => String::new(),
            Endings::Only(outcome) => format!("outcome = '{outcome}' AND "),
            Endings::Of(id) => format!("event_id = {id} AND "),
        }
    }
}

/// [`EVENT_COLUMNS`] as history has them.
const HISTORY_COLUMNS: &str = "event_id, type, due_at, first_due_at, payload, unique_key, \
     priority, expires_at, attempts, losses, deferrals, slot_at";
const ENDING_COLUMNS: &str = "history_id, outcome, finished_at, run_id, lateness_s, duration_ms, \
     error, resolved_at, resolved_as";

fn read_ended(row: &dyn Row) -> Ended {
    Ended {
        event: read_event(row),
        history_id: row.int(EVENT_WIDTH),
        outcome: row.text(EVENT_WIDTH + 1),
        finished_at: UnixSeconds(row.int(EVENT_WIDTH + 2)),
        run_id: row.opt_int(EVENT_WIDTH + 3),
        lateness_s: row.opt_int(EVENT_WIDTH + 4),
        duration_ms: row.opt_int(EVENT_WIDTH + 5),
        error: row.opt_text(EVENT_WIDTH + 6),
        resolved_at: row.opt_int(EVENT_WIDTH + 7).map(UnixSeconds),
        resolved_as: row.opt_text(EVENT_WIDTH + 8),
    }
}

/// Puts rows, which a query by id returns in any order, into the order of `ids`.
pub(super) fn sort_as<R>(ids: &[EventId], rows: &mut [R], id: impl Fn(&R) -> EventId) {
    if rows.iter().map(&id).eq(ids.iter().copied()) {
        return;
    }
    let places: HashMap<EventId, usize> = ids
        .iter()
        .enumerate()
        .map(|(place, &id)| (id, place))
        .collect();
    rows.sort_by_key(|row| places.get(&id(row)).copied());
}

fn columns(all: &str, payload: Payload) -> String {
    match payload {
        Payload::Whole => all.to_owned(),
        Payload::Beginning => all.replace("payload", "SUBSTR(payload, 1, 400)"),
    }
}

/// The exact ranges of `due_at` that make up what is selected behind `after`: the rest of its
/// instant, then later ones, so that a million events of one instant cost no more than others.
fn ranges(selection: &Selection, after: Option<Place>, dialect: Dialect) -> Vec<String> {
    let end = bounds(&Selection {
        from: None,
        ..selection.clone()
    });
    let whole = match dialect {
        Dialect::Sqlite => " AND typeof(due_at) = 'integer'",
        Dialect::Mysql => "",
    };
    let starts = match after {
        None => vec![bounds(&Selection {
            to: None,
            ..selection.clone()
        })],
        Some((due, id)) => vec![
            format!("due_at = {due} AND id > {id}"),
            format!("due_at > {due}"),
        ],
    };
    starts
        .into_iter()
        .map(|start| format!("{start} AND {end}{whole}"))
        .collect()
}

fn bounds(selection: &Selection) -> String {
    match (selection.from, selection.to) {
        (None, None) => "1 = 1".to_owned(),
        (Some(from), None) => format!("due_at >= {from}"),
        (None, Some(to)) => format!("due_at <= {to}"),
        (Some(from), Some(to)) => format!("due_at >= {from} AND due_at <= {to}"),
    }
}

/// What is bound to [`any_of`].
fn names(selection: &Selection) -> impl Iterator<Item = Value<'_>> {
    let names = selection.types.iter().chain(&selection.origin);
    names.map(|name| name.as_str().into())
}

/// A filter by type and origin, their names to be bound, with an AND behind it.
fn any_of(selection: &Selection) -> String {
    let types = match selection.types.len() {
        0 => String::new(),
        count => format!("type IN ({}) AND ", vec!["?"; count].join(", ")),
    };
    types + of(selection)
}

/// A filter by origin, with an AND behind it.
fn of(selection: &Selection) -> &'static str {
    match selection.origin {
        Some(_) => "origin = ? AND ",
        None => "",
    }
}
