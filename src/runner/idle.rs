//! Whether a tick has anything to do (DESIGN §5.5). One that has not takes no epoch and writes no
//! more than its stamp: a transaction would cost more than all the rest of it (RULINGS 45).

use super::{Options, Report, Stop};
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

/// Whether any type that may fire has something due.
pub(super) fn may_fire(
    store: &mut Store,
    config: &Config,
    options: &Options,
    states: &[TypeState],
    now: UnixSeconds,
    cutoff: UnixSeconds,
) -> DbResult<bool> {
    for type_config in config.types.values() {
        let name = type_config.name.as_str();
        if !options.wants(name) || is_held(type_config, states, now) {
            continue;
        }
        if store.due_levels(name, cutoff)?.iter().any(Option::is_some) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a type is paused, left alone by its breaker, or without tokens.
pub(super) fn is_held(config: &TypeConfig, states: &[TypeState], now: UnixSeconds) -> bool {
    let Some(state) = states.iter().find(|state| state.type_name == config.name) else {
        return false;
    };
    let broken = config.breaker.is_some() && state.open_until.is_some_and(|until| until > now);
    let paused = state.paused_until.is_some_and(|until| until > now);
    let left = state.tokens_milli.zip(state.tokens_at);
    let spent = config
        .rate
        .is_some_and(|rate| Rate::new(rate, left, now).available(now) == 0);
    paused || broken || spent
}

/// Ends a tick that has nothing to do: leaves its stamp, at most every five minutes, and no row of
/// a run.
pub(super) fn idle(
    store: &mut Store,
    peek: &Peek,
    now: UnixSeconds,
    cutoff: UnixSeconds,
) -> anyhow::Result<Report> {
    let stamped = peek.lease.last_tick_at;
    if stamped.is_none_or(|at| now.since(at) >= STAMP_EVERY || at > now) {
        store.stamp_tick(now)?;
    }
    let mut report = Report::without_work(Stop::Idle, now, cutoff);
    let nothing_due = peek.next_due.is_none_or(|due| due > cutoff);
    report.remaining_due = Some(if nothing_due {
        0
    } else {
        store.count_due(cutoff)?
    });
    Ok(report)
}
