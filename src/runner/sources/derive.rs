//! What becomes of the rows of a source, given what has been derived before: new events, moved ones,
//! or nothing. Pure.

use std::collections::{HashMap, HashSet};

use crate::clock::UnixSeconds;
use crate::event::EventId;
use crate::source::{Derived, Source};
use crate::store::sources::{Live, Move, Record};

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan<'p> {
    /// Become events.
    pub(super) new: Vec<&'p Derived>,
    /// Events that go to another instant.
    pub(super) moves: Vec<Move<'p>>,
    /// Records that this very scan had missed.
    pub(super) found_again: Vec<&'p Record>,
    /// Rows whose key has an earlier expiry: they wait.
    pub(super) twofold: Vec<&'p Derived>,
}

/// What is known of one expiry of a key.
struct State<'p> {
    expiry: UnixSeconds,
    /// It is no longer what the query says: the scan came by and missed it, or it lies before the
    /// window.
    is_void: bool,
    live: Option<Live>,
    record: Option<&'p Record>,
    /// Its event is planned or moved already.
    is_dealt_with: bool,
}

/// Decides on `rows`, in their order, of a scan that `began` then and looks from there on. `missed`
/// are the events of records beside these rows that were missed.
pub(super) fn decide<'p>(
    source: &Source,
    rows: &[&'p Derived],
    known: &'p [Record],
    (began, from): (UnixSeconds, UnixSeconds),
    missed: &HashSet<EventId>,
) -> Plan<'p> {
    let mut keys: HashMap<&str, Vec<State<'p>>> = HashMap::with_capacity(rows.len());
    for record in known {
        let is_missed = record.missed_by == Some(began) || missed.contains(&record.event);
        keys.entry(&record.key).or_default().push(State {
            expiry: record.expiry,
            is_void: is_missed || record.expiry < from,
            live: record.live,
            record: Some(record),
            is_dealt_with: false,
        });
    }
    let mut plan = Plan::default();
    for &row in rows {
        let states = keys.entry(&row.key).or_default();
        let due_at = source.due_at(row.expiry);
        if let Some(state) = states.iter_mut().find(|state| state.expiry == row.expiry) {
            let (Some(record), false) = (state.record, state.is_dealt_with) else {
                continue; // the same row once more
            };
            state.is_dealt_with = true;
            state.is_void = false;
            if record.missed_by == Some(began) {
                plan.found_again.push(record);
            }
            let is_late = |live: Live| live.is_ready && !live.was_tried && live.due_at != due_at;
            if state.live.is_some_and(is_late) {
                plan.moves.push(moved(record, row, due_at));
            }
            continue;
        }
        let is_ready = |state: &&mut State<'_>| state.live.is_some_and(|live| live.is_ready);
        match states.iter_mut().find(is_ready) {
            Some(state) if state.is_void || state.expiry > row.expiry => {
                if let Some(record) = state.record {
                    plan.moves.push(moved(record, row, due_at));
                }
                state.expiry = row.expiry;
                (state.is_void, state.is_dealt_with) = (false, true);
            }
            Some(_) => plan.twofold.push(row),
            None => {
                plan.new.push(row);
                states.push(State {
                    expiry: row.expiry,
                    is_void: false,
                    live: Some(Live {
                        is_ready: true,
                        was_tried: false,
                        due_at,
                    }),
                    record: None,
                    is_dealt_with: true,
                });
            }
        }
    }
    plan
}

fn moved<'p>(record: &Record, to: &'p Derived, due_at: UnixSeconds) -> Move<'p> {
    Move {
        event: record.event,
        from: record.expiry,
        to,
        due_at,
    }
}
