//! Whether a tick has anything to do (DESIGN §5.5). One that has not takes no epoch and writes no
//! more than its stamp: a transaction would cost more than all the rest of it (RULINGS 45).

use super::{Report, Stop};
use crate::clock::UnixSeconds;
use crate::config::{Config, TypeConfig};
use crate::db::DbResult;
use crate::fair::Rate;
use crate::store::Store;
use crate::store::peek::{Peek, TypeState};

/// An idle tick leaves a trace at most this often, in seconds.
const STAMP_EVERY: i64 = 300;

/// Whether nothing but due events could be a reason to take an epoch: no claim and no run to
/// recover, and it is not yet time to prune. (Prune time 0: never yet, and nothing is there.)
pub(super) fn nothing_waits(peek: &Peek, now: UnixSeconds) -> bool {
    let prune = (1..=now.0).contains(&peek.lease.prune_at.0);
    !peek.running && peek.lease.holder.is_empty() && !prune
}

/// When the first of the types that a run `wants` may start something of what is due by `until`; in
/// the past, or now: at once. `None`: none of them has anything.
pub(super) fn next_start(
    store: &mut Store,
    config: &Config,
    wants: &dyn Fn(&str) -> bool,
    states: &[TypeState],
    now: UnixSeconds,
    until: UnixSeconds,
) -> DbResult<Option<UnixSeconds>> {
    let mut first = None;
    for type_config in config.types.values() {
        let held_until = held_until(type_config, states, now);
        if !wants(&type_config.name) || held_until.is_some_and(|at| at > until) {
            continue;
        }
        let levels = store.due_levels(&type_config.name, until)?;
        let Some(due) = levels.into_iter().flatten().min() else {
            continue;
        };
        let start = held_until.map_or(due, |at| at.max(due));
        if start <= now {
            return Ok(Some(start));
        }
        first = Some(first.map_or(start, |first: UnixSeconds| first.min(start)));
    }
    Ok(first)
}

/// Whether a type is paused, left alone by its breaker, or without tokens.
pub(super) fn is_held(config: &TypeConfig, states: &[TypeState], now: UnixSeconds) -> bool {
    held_until(config, states, now).is_some()
}

/// Until when a type is paused, left alone by its breaker, or without tokens, later than `now`.
fn held_until(config: &TypeConfig, states: &[TypeState], now: UnixSeconds) -> Option<UnixSeconds> {
    let state = states.iter().find(|state| state.type_name == config.name)?;
    let broken = state.open_until.filter(|_| config.breaker.is_some());
    let left = state.tokens_milli.zip(state.tokens_at);
    let spent = config.rate.map(|rate| Rate::new(rate, left, now).next(now));
    let reasons = [broken, state.paused_until, spent].into_iter().flatten();
    reasons.filter(|&until| until > now).max()
}

/// Ends a tick that has nothing to do: leaves its stamp, at most every five minutes, and no row of
/// a run.
pub(super) fn idle(
    store: &mut Store,
    peek: &Peek,
    cutoff: UnixSeconds,
    stop: Stop,
) -> anyhow::Result<Report> {
    let now = peek.now;
    let stamped = peek.lease.last_tick_at;
    if stamped.is_none_or(|at| now.since(at) >= STAMP_EVERY || at > now) {
        store.stamp_tick(now)?;
    }
    let mut report = Report::without_work(stop, now, cutoff);
    let nothing_due = peek.next_due.is_none_or(|due| due > cutoff);
    report.remaining_due = Some(if nothing_due {
        0
    } else {
        store.count_due(cutoff)?
    });
    Ok(report)
}
