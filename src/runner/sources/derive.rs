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

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: UnixSeconds = UnixSeconds(2_000_000_000);

    fn source() -> Source {
        Source {
            sql: String::new(),
            type_name: "a".into(),
            every: 60,
            horizon: 3600,
            lead: 100,
            priority: 0,
            max_rows: 1000,
            enabled: true,
        }
    }

    /// An expiry so many seconds after the scan began.
    fn row(key: &str, after: i64) -> Derived {
        Derived {
            key: key.to_owned(),
            expiry: UnixSeconds(BEGAN.0 + after),
            payload: None,
        }
    }

    fn record(key: &str, after: i64, event: i64, is_ready: Option<bool>) -> Record {
        let expiry = UnixSeconds(BEGAN.0 + after);
        Record {
            key: key.to_owned(),
            expiry,
            event: EventId(event),
            missed_by: None,
            live: is_ready.map(|is_ready| Live {
                is_ready,
                was_tried: false,
                due_at: source().due_at(expiry),
            }),
        }
    }

    /// What becomes of one key: new expiries, moves from and to, expiries that wait.
    fn decided(rows: &[i64], known: &[Record], missed: &[i64]) -> [Vec<i64>; 3] {
        let rows: Vec<Derived> = rows.iter().map(|after| row("k", *after)).collect();
        let rows: Vec<&Derived> = rows.iter().collect();
        let missed = missed.iter().map(|id| EventId(*id)).collect();
        let plan = decide(&source(), &rows, known, (BEGAN, BEGAN), &missed);
        let after = |one: &Derived| one.expiry.since(BEGAN);
        [
            plan.new.iter().map(|one| after(one)).collect(),
            (plan.moves.iter())
                .flat_map(|one| [one.from.0 - BEGAN.0, after(one.to)])
                .collect(),
            plan.twofold.iter().map(|one| after(one)).collect(),
        ]
    }

    #[test]
    fn what_is_known_stays_what_is_new_is_made_once() {
        let none: Vec<i64> = Vec::new();
        assert_eq!(
            decided(&[5, 5], &[], &[]),
            [vec![5], none.clone(), none.clone()]
        );
        for live in [None, Some(true), Some(false)] {
            let known = [record("k", 5, 1, live)];
            assert_eq!(
                decided(&[5], &known, &[]),
                [none.clone(), none.clone(), none.clone()]
            );
        }
    }

    #[test]
    fn a_ready_event_moves_to_where_its_row_is_and_a_running_one_stays() {
        let none: Vec<i64> = Vec::new();
        let moved = [none.clone(), vec![50, 5], none.clone()];
        assert_eq!(decided(&[5], &[record("k", 50, 1, Some(true))], &[]), moved);
        let missed = [record("k", 5, 1, Some(true))];
        assert_eq!(
            decided(&[50], &missed, &[1]),
            [none.clone(), vec![5, 50], none.clone()]
        );
        let before = [record("k", -5, 1, Some(true))];
        assert_eq!(
            decided(&[50], &before, &[]),
            [none.clone(), vec![-5, 50], none.clone()]
        );
        let running = [record("k", 5, 1, Some(false))];
        assert_eq!(
            decided(&[50], &running, &[1]),
            [vec![50], none.clone(), none]
        );
    }

    #[test]
    fn of_two_expiries_the_earlier_one_comes_first() {
        let none: Vec<i64> = Vec::new();
        assert_eq!(
            decided(&[5, 50], &[], &[]),
            [vec![5], none.clone(), vec![50]]
        );
        let later = [record("k", 50, 1, Some(true))];
        let wanted = [none.clone(), vec![50, 5], vec![60]];
        assert_eq!(decided(&[5, 60], &later, &[]), wanted);
        let through = [record("k", 5, 1, None)];
        assert_eq!(
            decided(&[5, 50], &through, &[]),
            [vec![50], none.clone(), none]
        );
    }

    #[test]
    fn another_lead_moves_what_nobody_has_tried() {
        let at = |was_tried| {
            let mut known = record("k", 500, 1, Some(true));
            known.live = known.live.map(|live| Live {
                due_at: UnixSeconds(7),
                was_tried,
                ..live
            });
            decided(&[500], &[known], &[])[1].clone()
        };
        assert_eq!(at(false), [500, 500]);
        assert_eq!(at(true), [0; 0]);
    }
}
