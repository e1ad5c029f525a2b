//! The dry run: what a run would start, in start order, without a lock and without a write.
//! Recoverable rows are included, and what slots and sources would make events of; guards are not run;
//! concurrency is taken as one and rates and time as unlimited.

use std::collections::VecDeque;
use std::path::Path;

use super::idle::is_held;
use super::judge::too_late;
use super::lane::{Lane, Work};
use super::{Options, slots, sources};
use crate::clock::UnixSeconds;
use crate::config::{Config, TypeConfig};
use crate::db::DbResult;
use crate::event::{Epoch, Event, EventId};
use crate::fair::Turns;
use crate::lock;
use crate::store::lease::LeaseRow;
use crate::store::peek::{Cursor, TypeState};
use crate::store::recover::Stranded;
use crate::store::{Install, Store};

/// An event that a run would start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The event, with its payload.
    pub event: Event,
    /// Whether a dead run holds it: it would be recovered first.
    pub recovered: bool,
    /// Whether it is a slot still, or a row of a source, and has no id.
    pub is_slot: bool,
}

/// Called with each planned event in start order; `false` ends the listing.
pub type OnPlanned<'a> = dyn FnMut(Planned) -> bool + 'a;

/// Lists what a run with `options` would start now, or at a later `due_before`.
///
/// # Errors
/// What the database said.
pub fn plan(
    store: &mut Store,
    config: &Config,
    options: &Options,
    (install, lock_path): (&Install, Option<&Path>),
    on_planned: &mut OnPlanned<'_>,
) -> DbResult<()> {
    let now = store.now()?;
    let today = now;
    let cutoff = options.due_before.unwrap_or(now);
    let mut slots = slots::planned(store, config, install, now, cutoff)?;
    slots.extend(sources::preview::planned(store, config, now, cutoff)?);
    let slots = slots;
    // A later cutoff asks what a run at that time would start.
    let now = now.max(cutoff);
    let states = store.type_states()?;
    let recoverable = recoverable(store, lock_path, now)?;
    let waiting = Waiting { recoverable, slots };
    let mut lanes = open_lanes(store, config, options, &states, &waiting, cutoff, now)?;
    let weights: Vec<u32> = lanes.iter().map(|lane| lane.lane.config.weight).collect();
    let mut turns = Turns::new(&weights, options.batch_size);
    let mut left = options.max_events.unwrap_or(u64::MAX);
    while let Some(turn) = turns.next(&|i| !lanes[i].is_empty()) {
        let planned = lanes[turn.lane].next(store, cutoff, turn.allowance)?;
        turns.used(turn.lane, planned.len());
        for one in planned {
            // A slot to come is met by the run of its own minute.
            let then = if one.is_slot { today } else { now };
            let late = too_late(&lanes[turn.lane].lane.config, &one.event, then).is_some();
            if late && !one.recovered {
                continue;
            }
            if left == 0 || !on_planned(one) {
                return Ok(());
            }
            left -= 1;
        }
    }
    Ok(())
}

/// What would be put into lanes before they are looked at.
struct Waiting {
    recoverable: Vec<Event>,
    slots: Vec<Event>,
}

impl Waiting {
    /// What of it belongs to a type, in firing order.
    fn of(&self, config: &TypeConfig, cutoff: UnixSeconds) -> VecDeque<Planned> {
        let again = |event: &&Event| !config.at_most_once && event.losses < config.max_losses;
        let recovered = self.recoverable.iter().filter(again);
        let recovered = recovered.map(|event| (event, false));
        let slots = self.slots.iter().map(|event| (event, true));
        let all = recovered.chain(slots);
        let mut all: Vec<Planned> = all
            .filter(|(event, _)| event.type_name == config.name && event.due_at <= cutoff)
            .map(|(event, is_slot)| Planned {
                event: event.clone(),
                recovered: !is_slot,
                is_slot,
            })
            .collect();
        all.sort_by_key(|one| firing_order(&one.event));
        all.into()
    }
}

/// A lane together with what would be put into it first.
struct PlannedLane {
    lane: Lane,
    put_back: VecDeque<Planned>,
}

fn open_lanes(
    store: &mut Store,
    config: &Config,
    options: &Options,
    states: &[TypeState],
    waiting: &Waiting,
    cutoff: UnixSeconds,
    now: UnixSeconds,
) -> DbResult<Vec<PlannedLane>> {
    let suspects = unfinished_waves(store, config)?;
    let mut lanes = Vec::new();
    for config in config.types.values() {
        let unlimited = TypeConfig {
            rate: None,
            ..config.clone()
        };
        if !options.wants(&config.name) || is_held(&unlimited, states, now) {
            continue;
        }
        let put_back = waiting.of(config, cutoff);
        let levels = store.due_levels(&config.name, cutoff)?;
        let oldest = levels.into_iter().flatten();
        let oldest = oldest
            .chain(put_back.iter().map(|one| one.event.due_at))
            .min();
        let Some(oldest) = oldest else { continue };
        let mut lane = Lane::new(unlimited, Work::Effects(Vec::new()), None, None, now);
        let ranges = suspects.iter().filter(|(name, _)| *name == config.name);
        lane.suspects = ranges.map(|&(_, range)| range).collect();
        let lane = lane.single_pass();
        lanes.push((oldest, PlannedLane { lane, put_back }));
    }
    lanes.sort_by_key(|(oldest, planned)| (*oldest, planned.lane.config.name.clone()));
    Ok(lanes.into_iter().map(|(_, planned)| planned).collect())
}

/// Waves of effects that runs left unfinished.
fn unfinished_waves(
    store: &mut Store,
    config: &Config,
) -> DbResult<Vec<(String, (EventId, EventId))>> {
    let is_effect = |name: &str| {
        let config = config.types.get(name);
        config.is_some_and(|config| config.handler.is_in_transaction())
    };
    let open = store.open_runs(0)?;
    let waves = open.into_iter().filter_map(|run| run.wave);
    let waves = waves.filter(|(name, first, last)| is_effect(name) && first != last);
    Ok(waves
        .map(|(name, first, last)| (name, (first, last)))
        .collect())
}

impl PlannedLane {
    fn is_empty(&self) -> bool {
        self.lane.is_exhausted() && self.put_back.is_empty()
    }

    /// The next events of the lane, ready and recovered ones merged in firing order.
    fn next(
        &mut self,
        store: &mut Store,
        cutoff: UnixSeconds,
        limit: usize,
    ) -> DbResult<Vec<Planned>> {
        let begin = self.lane.cursor();
        let page = if self.lane.is_exhausted() {
            Vec::new()
        } else {
            self.lane.next_candidates(store, cutoff, limit)?
        };
        let mut page = page.into_iter().map(|candidate| candidate.event).peekable();
        let mut order = Vec::new();
        let mut last_ready = None;
        while order.len() < limit {
            let is_put_back = match (self.put_back.front(), page.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some(held), Some(ready)) => firing_order(&held.event) < firing_order(ready),
            };
            if is_put_back {
                order.extend(self.put_back.pop_front());
            } else if let Some(event) = page.next() {
                order.push(Planned {
                    event: event.clone(),
                    recovered: false,
                    is_slot: false,
                });
                last_ready = Some(event);
            }
        }
        if page.peek().is_some() {
            match last_ready {
                Some(event) => self.lane.go_to(Cursor::behind(&event)),
                None => self.lane.go_to(begin),
            }
        }
        let rows = order.iter().filter(|one| !one.is_slot);
        let ids: Vec<EventId> = rows.map(|one| one.event.id).collect();
        let mut events = store.existing_rows(&ids)?.into_iter().peekable();
        let whole = |one: Planned| {
            if one.is_slot {
                return Some(one);
            }
            let event = events.next_if(|event| event.id == one.event.id)?;
            Some(Planned { event, ..one })
        };
        Ok(order.into_iter().filter_map(whole).collect())
    }
}

/// Rows of runs that are dead as far as can be told without taking a lock.
fn recoverable(
    store: &mut Store,
    lock_path: Option<&Path>,
    now: UnixSeconds,
) -> DbResult<Vec<Event>> {
    let Some(lease) = store.lease_row()? else {
        return Ok(Vec::new());
    };
    let identity = lock_path.and_then(lock::identity_at);
    let holder_lives = lock_path.is_some_and(|path| lock::live_holder(path).is_some());
    let mut found = Vec::new();
    let mut after = (UnixSeconds(i64::MIN), EventId(0));
    loop {
        let rows = store.stranded(Epoch(-1), after, 500)?;
        let Some(last) = rows.last() else {
            return Ok(found);
        };
        after = (last.event.due_at, last.event.id);
        for row in rows {
            if seems_dead(store, &row, &lease, identity.as_deref(), holder_lives, now)? {
                found.push(row.event);
            }
        }
    }
}

fn seems_dead(
    store: &mut Store,
    row: &Stranded,
    lease: &LeaseRow,
    identity: Option<&str>,
    holder_lives: bool,
    now: UnixSeconds,
) -> DbResult<bool> {
    if row.until.is_none_or(|until| until <= now) {
        return Ok(true);
    }
    let Some(epoch) = row.epoch else {
        return Ok(false);
    };
    if epoch == lease.epoch && (holder_lives || lease.holder.is_empty()) {
        return Ok(false);
    }
    let held = store.lock_id_of(epoch)?;
    Ok(held.is_some() && held.as_deref() == identity)
}

fn firing_order(event: &Event) -> (i8, UnixSeconds, EventId) {
    (event.priority, event.due_at, event.id)
}
