//! Slots that have come become events (DESIGN §5.8): each in one transaction with its watermark, so
//! that none is lost and none comes twice. The schedules of the configuration are brought into the
//! tables first, by the first run that sees them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::{Runner, Trouble};
use crate::clock::{UnixSeconds, monotonic};
use crate::config::Config;
use crate::db::DbResult;
use crate::event::{Event, EventId, Slot};
use crate::fault::point;
use crate::schedule::{From, Schedule};
use crate::store::claim::Gate;
use crate::store::peek::Peek;
use crate::store::schedules::{NewSlot, ORIGIN, ScheduleRow, fingerprint};
use crate::store::{Install, Stopped, Store};
use crate::zone::Zone;

/// Schedules read at a time.
const CHUNK: usize = 100;
/// A transaction that has lasted this long is committed with what it has: others wait for it.
const LONGEST: Duration = Duration::from_millis(50);
/// Slots to come that a dry run lists of one schedule.
const AHEAD: usize = 1000;

/// Whether a tick has anything to do for schedules.
pub(super) fn wait(peek: &Peek, install: &Install, config: &Config, cutoff: UnixSeconds) -> bool {
    let has_come = peek.next_slot.is_some_and(|slot| slot <= cutoff);
    has_come || is_dated(peek.next_slot, install) || fingerprint_of(config) != install.schedules
}

/// Whether next slots were found by other rules of zones than this program has. Paused and finished
/// schedules have none, and need no rules either.
fn is_dated(next_slot: Option<UnixSeconds>, install: &Install) -> bool {
    next_slot.is_some() && install.zone_data != Zone::edition()
}

fn fingerprint_of(config: &Config) -> String {
    let schedules = config.schedules.iter();
    fingerprint(schedules.map(|(name, schedule)| (name.as_str(), schedule)))
}

/// What the delay of a schedule's events is made of: another on each site, and for each schedule.
pub fn seed(install_id: &str, name: &str) -> u64 {
    let digest = Sha256::new()
        .chain_update(install_id)
        .chain_update([0])
        .chain_update(name)
        .finalize();
    let (first, _) = digest.split_at(8);
    first
        .iter()
        .fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// The events that would be made of slots by `cutoff`, as far as can be told at `now`: of slots that
/// have come what their policy makes of them, and one of each slot to come. They have no ids; these
/// only put them behind all others.
pub(super) fn planned(
    store: &mut Store,
    config: &Config,
    install: &Install,
    now: UnixSeconds,
    cutoff: UnixSeconds,
) -> DbResult<Vec<Event>> {
    let mut made = Vec::new();
    for (name, schedule, since) in as_taken_over(store.schedules()?, config, now) {
        let Ok(slots) = schedule.recurrence() else {
            continue;
        };
        let seed = seed(&install.install_id, &name);
        let come = schedule.come(&slots, since, now.min(cutoff));
        let come = come.map(|come| come.slots).unwrap_or_default();
        let ahead = slots.slots_between(since.max(now), cutoff, AHEAD);
        for (at, slots) in come.into_iter().chain(ahead.into_iter().map(|at| (at, 1))) {
            let due_at = schedule.due_at(at, seed);
            made.push(event_of(&schedule, Slot { at, slots }, due_at));
        }
    }
    made.sort_by_key(|event| event.due_at);
    for (id, event) in (1..).zip(made.iter_mut().rev()) {
        event.id = EventId(i64::MAX - id);
    }
    Ok(made)
}

/// Schedules as a run would have them that starts now, with the instants after which slots count.
fn as_taken_over(
    rows: Vec<ScheduleRow>,
    config: &Config,
    now: UnixSeconds,
) -> Vec<(String, Schedule, UnixSeconds)> {
    let mut known: BTreeMap<String, (Schedule, UnixSeconds)> = BTreeMap::new();
    for row in rows {
        let since = row.since();
        if let Ok(schedule) = Schedule::from_json(&row.rule) {
            known.insert(row.name, (schedule, since));
        }
    }
    let mut all = Vec::new();
    for (name, wanted) in &config.schedules {
        let since = match known.remove(name) {
            Some((stated, since)) if stated.has_slots_of(wanted) => since,
            Some((_, since)) => since.max(first_seen(now)),
            None => first_seen(now),
        };
        all.push((name.clone(), wanted.clone(), since));
    }
    for (name, (schedule, since)) in known {
        if schedule.from == From::Database {
            all.push((name, schedule, since));
        }
    }
    all.retain(|(_, schedule, _)| schedule.enabled);
    all
}

fn event_of(schedule: &Schedule, slot: Slot, due_at: UnixSeconds) -> Event {
    Event {
        id: EventId(i64::MAX),
        type_name: schedule.type_name.clone(),
        due_at,
        first_due_at: None,
        payload: schedule.payload.clone().unwrap_or_default().into_bytes(),
        key: None,
        priority: schedule.priority,
        expires_at: None,
        attempts: 0,
        losses: 0,
        deferrals: 0,
        slot: Some(slot),
    }
}

impl Runner<'_> {
    /// Makes the events of all slots that have come.
    pub(super) fn make_slots(&mut self, next_slot: Option<UnixSeconds>) -> Result<(), Trouble> {
        let fingerprint = fingerprint_of(self.config);
        let mut has_come = next_slot.is_some_and(|slot| slot <= self.cutoff);
        if is_dated(next_slot, &self.install) || fingerprint != self.install.schedules {
            self.take_over_schedules(fingerprint)?;
            has_come = true; // perhaps
        }
        if !has_come {
            return Ok(());
        }
        let mut after: Option<(UnixSeconds, String)> = None;
        while self.signals.received().is_none() && !self.is_out_of_time() {
            let behind = after.as_ref().map(|(slot, name)| (*slot, name.as_str()));
            let rows = self.store.schedules_due(self.cutoff, behind, CHUNK)?;
            point("plan.read");
            let mut left = rows.as_slice();
            while !left.is_empty() {
                left = &left[self.make_events(left)?..];
            }
            match rows.last() {
                Some(last) if rows.len() == CHUNK => {
                    after = last.next.map(|slot| (slot, last.name.clone()));
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Makes the events of the first of `rows`, as many as fit into a short transaction, and says
    /// of how many.
    fn make_events(&mut self, rows: &[ScheduleRow]) -> Result<usize, Trouble> {
        let read_at = monotonic();
        let now = self.time_at(read_at);
        let planner = Planner {
            install_id: &self.install.install_id,
            run_id: self.run_id,
            cutoff: self.cutoff,
            now,
            types: &self.options.types,
        };
        let gate = self.lease.gate(now);
        let (dealt_with, troubles) = self
            .store
            .transaction(|store| planner.make(store, gate, rows, read_at))?;
        self.lease.passed(read_at);
        point("plan.committed");
        self.without_rule.extend(troubles);
        Ok(dealt_with)
    }

    /// Brings the tables to what the configuration says, and next slots to what the zones' rules
    /// say now. Where somebody changes one meanwhile, the next run does it.
    fn take_over_schedules(&mut self, fingerprint: String) -> Result<(), Trouble> {
        let read_at = monotonic();
        let now = self.time_at(read_at);
        let (config, run_id) = (self.config, self.run_id);
        let gate = self.lease.gate(now);
        let taken_over = self.store.transaction(|store| {
            store.pass(gate)?;
            let rows = store.schedules()?;
            for row in &rows {
                take_over(store, row, config.schedules.get(&row.name), run_id, now)?;
            }
            for (name, schedule) in &config.schedules {
                if rows.iter().any(|row| row.name == *name) {
                    continue;
                }
                let row = ScheduleRow {
                    name: name.clone(),
                    rule: schedule.to_json(),
                    last_slot: first_seen(now),
                    paused_until: None,
                    next: None,
                };
                store.add_schedule(&row, now)?;
                store.log_of_type(run_id, now, &schedule.type_name, "schedule added", name)?;
            }
            store.note_schedules(&fingerprint, Zone::edition())?;
            point("schedules.commit");
            Ok(())
        });
        match taken_over {
            Err(Stopped::Changed) => return Ok(()),
            other => other?,
        }
        self.lease.passed(read_at);
        point("schedules.committed");
        self.install.schedules = fingerprint;
        Zone::edition().clone_into(&mut self.install.zone_data);
        Ok(())
    }
}

/// The watermark of a schedule that a run sees for the first time: cron looks at minutes, so the
/// one in hand counts, and none before it.
pub fn first_seen(now: UnixSeconds) -> UnixSeconds {
    UnixSeconds(now.0 - now.0.rem_euclid(60) - 1)
}

/// Brings one row to what is `wanted` of it.
fn take_over(
    store: &mut Store,
    row: &ScheduleRow,
    wanted: Option<&Schedule>,
    run_id: i64,
    now: UnixSeconds,
) -> Result<(), Stopped> {
    let known = Schedule::from_json(&row.rule).ok();
    let from = known.as_ref().map(|known| known.from);
    match wanted {
        None if from == Some(From::Config) => {
            store.remove_schedule(&row.name)?;
            if let Some(known) = &known {
                store.log_of_type(run_id, now, &known.type_name, "schedule removed", &row.name)?;
            }
        }
        Some(wanted) if wanted.to_json() != row.rule => {
            let keeps_pace = known.is_some_and(|known| known.has_slots_of(wanted));
            let last_slot = if keeps_pace {
                row.last_slot
            } else {
                row.last_slot.max(first_seen(now))
            };
            let new = ScheduleRow {
                rule: wanted.to_json(),
                last_slot,
                ..row.clone()
            };
            store.change_schedule(row, &new, now)?;
            let was = format!("{}; it was {}", row.name, row.rule);
            store.log_of_type(run_id, now, &wanted.type_name, "schedule edited", &was)?;
        }
        _ => {
            let first = row.first_slot();
            if first != row.next {
                store.write_next(&row.name, first)?;
            }
        }
    }
    Ok(())
}

/// What a transaction that makes events needs to know.
struct Planner<'p> {
    install_id: &'p str,
    run_id: i64,
    cutoff: UnixSeconds,
    now: UnixSeconds,
    types: &'p [String],
}

impl Planner<'_> {
    fn make(
        &self,
        store: &mut Store,
        gate: Gate<'_>,
        rows: &[ScheduleRow],
        began: Instant,
    ) -> Result<(usize, Vec<String>), Stopped> {
        store.pass(gate)?;
        let mut troubles = Vec::new();
        let mut dealt_with = 0;
        for row in rows {
            troubles.extend(self.make_of(store, row)?);
            dealt_with += 1;
            if monotonic().duration_since(began) >= LONGEST {
                break;
            }
        }
        point("plan.commit");
        Ok((dealt_with, troubles))
    }

    /// Makes the events of one schedule; returns what is wrong with it.
    fn make_of(&self, store: &mut Store, row: &ScheduleRow) -> Result<Option<String>, Stopped> {
        let stated = Schedule::from_json(&row.rule);
        let stated = stated.and_then(|schedule| Ok((schedule.recurrence()?, schedule)));
        let (slots, schedule) = match stated {
            Ok(stated) => stated,
            Err(error) => {
                // Until it is stated anew, nobody asks again.
                store.write_next(&row.name, None)?;
                return Ok(Some(format!("schedule {}: {error}", row.name)));
            }
        };
        let is_wanted = self.types.is_empty() || self.types.contains(&schedule.type_name);
        if !is_wanted {
            return Ok(None);
        }
        let Some(come) = schedule.come(&slots, row.since(), self.cutoff) else {
            store.write_next(&row.name, row.first_slot())?;
            return Ok(None);
        };
        if !store.pass_slots(row, come.last, self.now)? {
            return Ok(None); // edited, paused or removed since it was read
        }
        let mut let_go = come.let_go;
        let seed = seed(self.install_id, &row.name);
        let origin = format!("{ORIGIN}{}", row.name);
        for (at, stands_for) in come.slots {
            let slot = NewSlot {
                schedule: &row.name,
                at,
                slots: stands_for,
                due_at: schedule.due_at(at, seed),
                type_name: &schedule.type_name,
                payload: schedule.payload.as_deref(),
                priority: schedule.priority,
                origin: &origin,
            };
            if store.make_event(&slot, self.now)?.is_none() {
                let_go += stands_for;
            }
        }
        store.write_next(&row.name, slots.next_after(come.last))?;
        if let_go > 0 {
            let what = match let_go {
                1 => "1 slot".to_owned(),
                many => format!("{many} slots"),
            };
            let detail = format!(
                "{}: {what} after @{} by @{}",
                row.name,
                row.since(),
                self.now
            );
            store.log_of_type(
                self.run_id,
                self.now,
                &schedule.type_name,
                "slots let go",
                &detail,
            )?;
        }
        Ok(None)
    }
}
