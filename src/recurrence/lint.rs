//! What somebody should know about schedules before they come true: times that clocks skip or show
//! twice, slots that fall together, and the busiest minutes, five years ahead.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime};

use super::{Cron, Recurrence, Rule, Slots, pattern::DAY};
use crate::clock::UnixSeconds;

/// How far ahead is looked.
pub const AHEAD: Duration = Duration::from_hours(5 * 8766);

/// How many of the busiest minutes are named.
const BUSIEST: usize = 5;

/// What was found. Names are those that came in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings<'n> {
    /// Times that do not exist or come twice, by schedule and then by time.
    pub changes: Vec<Change<'n>>,
    /// Minutes in which two schedules or more have slots, by when they first do.
    pub collisions: Vec<Minutes<'n>>,
    /// The minutes with the most slots, the busiest first; the same schedules once only.
    pub busiest: Vec<Minutes<'n>>,
    /// Schedules without any slot in these years.
    pub silent: Vec<&'n str>,
}

/// What a change of clocks does to a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'n> {
    /// The schedule.
    pub name: &'n str,
    /// When clocks are put forward or back.
    pub at: UnixSeconds,
    /// The first of the schedule's local times that this concerns.
    pub local: NaiveDateTime,
    /// How many of them it concerns.
    pub times: u64,
    /// What becomes of them.
    pub fate: Fate,
}

/// What becomes of times that do not exist or come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They do not exist: their slot is the change itself.
    Late,
    /// They do not exist, and have no slot.
    Skipped,
    /// They come twice, and have a slot the first time.
    Once,
    /// They come twice, and have a slot each time.
    Twice,
}

/// Minutes in which just these schedules have slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minutes<'n> {
    /// In the order they came in.
    pub names: Vec<&'n str>,
    /// The first second of the first such minute, or the first of the busiest.
    pub first: UnixSeconds,
    /// How many such minutes there are.
    pub minutes: u64,
    /// The most slots that one of them has.
    pub slots: u64,
}

/// Looks at the slots of `schedules` that are later than `after`, [`AHEAD`] from there. Memory is
/// that of a day's slots, and of each set of schedules that meets.
pub fn lint<'n>(schedules: &[(&'n str, &Recurrence)], after: UnixSeconds) -> Findings<'n> {
    let until = after.after(AHEAD).min(UnixSeconds::MAX);
    let changes = schedules.iter().flat_map(|(name, recurrence)| {
        let found = changes(name, recurrence, after, until);
        found.into_iter()
    });
    let silent = schedules.iter().filter(|(_, recurrence)| {
        let next = recurrence.next_after(after);
        next.is_none_or(|slot| slot > until)
    });
    let met = meetings(schedules, after, until);
    let named = |(who, met): (&Vec<usize>, &Met)| Minutes {
        names: who.iter().map(|place| schedules[*place].0).collect(),
        first: UnixSeconds(met.first * 60),
        minutes: met.minutes,
        slots: met.slots,
    };
    let together = met.iter().filter(|(who, _)| who.len() > 1);
    let mut collisions: Vec<Minutes> = together.map(named).collect();
    collisions.sort_by_key(|minutes| minutes.first);
    let busiest = met.iter().map(|(who, met)| {
        let mut minutes = named((who, met));
        minutes.first = UnixSeconds(met.busiest * 60);
        minutes
    });
    let mut busiest: Vec<Minutes> = busiest.collect();
    busiest.sort_by_key(|minutes| (u64::MAX - minutes.slots, minutes.first));
    busiest.truncate(BUSIEST);
    Findings {
        changes: changes.collect(),
        collisions,
        busiest,
        silent: silent.map(|(name, _)| *name).collect(),
    }
}

fn changes<'n>(
    name: &'n str,
    recurrence: &Recurrence,
    after: UnixSeconds,
    until: UnixSeconds,
) -> Vec<Change<'n>> {
    let Rule::Cron(cron) = &recurrence.rule else {
        return Vec::new(); // clocks mean nothing to it
    };
    let (after, until) = (after.max(recurrence.start), until.min(recurrence.end));
    let mut found = Vec::new();
    let mut before = cron.stretch_at(after.0);
    while before.until <= until.0 {
        let next = cron.stretch_at(before.until);
        let (ended, begun) = (before.shown().1, next.shown().0);
        let fate = match (ended < begun, cron.is_fixed) {
            (true, true) => Fate::Late,
            (true, false) => Fate::Skipped,
            (false, true) => Fate::Once,
            (false, false) => Fate::Twice,
        };
        found.extend(change(
            cron,
            (ended.min(begun), ended.max(begun)),
            |local, times| Change {
                name,
                at: UnixSeconds(before.until),
                local,
                times,
                fate,
            },
        ));
        before = next;
    }
    found
}

/// What `make` makes of the first match in `times` and their number, if there are any.
fn change<T>(
    cron: &Cron,
    (from, until): (i64, i64),
    make: impl Fn(NaiveDateTime, u64) -> T,
) -> Option<T> {
    let first = cron
        .pattern
        .first_from(from)
        .filter(|first| *first < until)?;
    let local = DateTime::from_timestamp(first, 0)?.naive_utc();
    Some(make(local, cron.pattern.count(from, until)))
}

/// The minutes in which just some schedules have slots.
struct Met {
    /// In minutes since 1970, as `busiest`.
    first: i64,
    busiest: i64,
    minutes: u64,
    slots: u64,
}

/// Who meets whom: places in `schedules`, ascending.
fn meetings(
    schedules: &[(&str, &Recurrence)],
    after: UnixSeconds,
    until: UnixSeconds,
) -> BTreeMap<Vec<usize>, Met> {
    let mut minutes: Vec<_> = schedules
        .iter()
        .map(|(_, recurrence)| BusyMinutes::of(recurrence, after, until).peekable())
        .collect();
    let mut met = BTreeMap::new();
    let mut day = Vec::new();
    let mut begin = after.0;
    while begin <= until.0 {
        begin += DAY;
        for (place, minutes) in minutes.iter_mut().enumerate() {
            while let Some((minute, slots)) = minutes.next_if(|(minute, _)| minute * 60 < begin) {
                day.push((minute, place, slots));
            }
        }
        day.sort_unstable();
        for together in day.chunk_by(|one, other| one.0 == other.0) {
            enter(&mut met, together);
        }
        day.clear();
    }
    met
}

/// Counts a minute in which schedules have slots: (minute, place, slots) each.
fn enter(met: &mut BTreeMap<Vec<usize>, Met>, together: &[(i64, usize, u64)]) {
    let Some((minute, ..)) = together.first() else {
        return;
    };
    let slots = together.iter().map(|(.., slots)| slots).sum();
    let who: Vec<usize> = together.iter().map(|(_, place, _)| *place).collect();
    let met = met.entry(who).or_insert(Met {
        first: *minute,
        busiest: *minute,
        minutes: 0,
        slots,
    });
    met.minutes += 1;
    if slots > met.slots {
        (met.busiest, met.slots) = (*minute, slots);
    }
}

/// The minutes in which a rule has slots, and how many.
struct BusyMinutes<'r> {
    recurrence: &'r Recurrence,
    slots: Peekable<Slots<'r>>,
    until: UnixSeconds,
}

impl<'r> BusyMinutes<'r> {
    fn of(recurrence: &'r Recurrence, after: UnixSeconds, until: UnixSeconds) -> Self {
        Self {
            recurrence,
            slots: recurrence.slots_after(after).peekable(),
            until,
        }
    }
}

impl Iterator for BusyMinutes<'_> {
    type Item = (i64, u64);

    fn next(&mut self) -> Option<(i64, u64)> {
        let slot = self.slots.next_if(|slot| *slot <= self.until)?;
        let minute = slot.0.div_euclid(60);
        let last = UnixSeconds(minute * 60 + 59).min(self.until);
        if self.recurrence.most_per_minute() == 1 {
            // But for a change of less than a minute.
            let others = std::iter::from_fn(|| self.slots.next_if(|slot| *slot <= last));
            return Some((minute, 1 + others.count() as u64));
        }
        // Not one by one.
        let others = self.recurrence.count_between(slot, last);
        self.slots = self.recurrence.slots_after(last).peekable();
        Some((minute, 1 + others))
    }
}
