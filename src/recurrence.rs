//! Rules by which things happen again: cron expressions in a time zone, and every so often from an
//! instant on. Their instants are *slots*. Pure: no clock, no I/O.
//!
//! # What an expression means where clocks are put forward or back
//!
//! An expression whose minute and hour have one value each, however written (`30 2`, `30 2-2`,
//! `@daily`), is *fixed*: each time that it matches is a slot at the first instant at which the
//! zone's clocks show that time or a later one. So a time that does not exist comes at the first
//! instant after the gap, and one that exists twice comes once, the first time.
//!
//! Any other follows the clocks as they pass: each minute at which they show a match is a slot. In
//! a gap there is none; what exists twice comes twice.
//!
//! Slots lie between 1970 and [`UnixSeconds::MAX`], and are strictly later one than the other.

use std::fmt;
use std::time::Duration;

use crate::clock::UnixSeconds;
use crate::zone::Zone;

use pattern::Pattern;

pub mod lint;
mod pattern;

/// No two clocks of the world, of whatever year, are further apart.
const APART: i64 = 2 * pattern::DAY;

/// Why a text is no recurrence. Each message is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecurrenceError {
    /// It is no cron expression.
    #[error("`{text}` is no cron expression: {why}")]
    NoCron {
        /// As written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// No calendar has such a day (31 February).
    #[error("`{0}` never matches: no year has such a day")]
    Never(String),
    /// The interval is no whole number of seconds, or zero.
    #[error("an interval is whole seconds, 1s at least")]
    NoInterval,
}

/// When something happens again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recurrence {
    rule: Rule,
    /// The first instant that may be a slot.
    start: UnixSeconds,
    /// The last one.
    end: UnixSeconds,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Cron(Box<Cron>),
    Every(Every),
}

/// A cron expression and the zone whose clocks it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cron {
    pattern: Pattern,
    zone: Zone,
    /// See the head of this file.
    is_fixed: bool,
}

/// The instants `anchor + k × interval`, for each whole k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Every {
    /// Seconds; 1 at least.
    interval: i64,
    anchor: i64,
}

impl Recurrence {
    /// The times that the cron expression `text` matches on the clocks of `zone`: five fields
    /// (minute, hour, day of month, month, day of week) of numbers or names, with ranges, lists and
    /// steps; `L`, `LW` and `15W` as days of a month, `friL` and `fri#2` as days of a week; or
    /// `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`.
    ///
    /// # Errors
    /// It is none, or it never matches.
    pub fn cron(text: &str, zone: Zone) -> Result<Self, RecurrenceError> {
        let pattern = Pattern::parse(text)?;
        let is_fixed = pattern.is_fixed();
        let cron = Cron {
            pattern,
            zone,
            is_fixed,
        };
        Ok(Self::of(Rule::Cron(Box::new(cron))))
    }

    /// The instants `anchor + k × interval`, for each whole k, negative ones too. Clocks that are
    /// put forward or back do not change them.
    ///
    /// # Errors
    /// The interval is no whole number of seconds, or zero.
    pub fn every(interval: Duration, anchor: UnixSeconds) -> Result<Self, RecurrenceError> {
        let seconds = i64::try_from(interval.as_secs());
        match seconds {
            Ok(interval_seconds) if interval_seconds > 0 && interval.subsec_nanos() == 0 => {
                Ok(Self::of(Rule::Every(Every {
                    interval: interval_seconds,
                    anchor: anchor.0,
                })))
            }
            _ => Err(RecurrenceError::NoInterval),
        }
    }

    fn of(rule: Rule) -> Self {
        Self {
            rule,
            start: UnixSeconds(0),
            end: UnixSeconds::MAX,
        }
    }

    /// The same rule with those of its slots only that are at `start` or later and at `end` or
    /// earlier.
    #[must_use]
    pub fn between(mut self, start: UnixSeconds, end: UnixSeconds) -> Self {
        self.start = self.start.max(start).min(UnixSeconds::MAX);
        self.end = self.end.min(end).max(UnixSeconds(-1));
        self
    }

    /// The first slot later than `after`.
    pub fn next_after(&self, after: UnixSeconds) -> Option<UnixSeconds> {
        self.slots_after(after).next()
    }

    /// The slots later than `after`, in order. Each costs what it costs to find one match and to
    /// pass the changes of the zone up to it.
    pub fn slots_after(&self, after: UnixSeconds) -> Slots<'_> {
        let after = after.0.max(self.start.0 - 1).min(self.end.0);
        let walk = match &self.rule {
            Rule::Cron(cron) => Walk::Cron(cron.walk_after(after)),
            Rule::Every(every) => Walk::Every(*every, after),
        };
        let end = self.end.0;
        Slots { walk, end }
    }

    /// The first `most` slots later than `after` and not later than `until`.
    pub fn slots_between(
        &self,
        after: UnixSeconds,
        until: UnixSeconds,
        most: usize,
    ) -> Vec<UnixSeconds> {
        let slots = self.slots_after(after);
        slots.take_while(|slot| *slot <= until).take(most).collect()
    }

    /// How many slots are later than `after` and not later than `until`. By arithmetic or, for
    /// cron, by days and changes of the zone, a third of a million of them at most, however many
    /// slots there are.
    pub fn count_between(&self, after: UnixSeconds, until: UnixSeconds) -> u64 {
        let after = after.0.max(self.start.0 - 1);
        let until = until.0.min(self.end.0);
        if until <= after {
            return 0;
        }
        match &self.rule {
            Rule::Cron(cron) => cron.count(after, until),
            Rule::Every(every) => every.up_to(until).abs_diff(every.up_to(after)),
        }
    }

    /// The last slot that is not later than `at`. It costs about what the next one does, however
    /// long ago it was.
    pub fn last_at_or_before(&self, at: UnixSeconds) -> Option<UnixSeconds> {
        let at = at.0.min(self.end.0);
        if at < self.start.0 {
            return None;
        }
        let last = match &self.rule {
            Rule::Cron(cron) => cron.last(at)?,
            Rule::Every(every) => every.at(every.up_to(at))?,
        };
        (last >= self.start.0).then_some(UnixSeconds(last))
    }

    /// The most slots that can fall into a minute: what a type's `rate` is held against.
    pub fn most_per_minute(&self) -> u64 {
        match &self.rule {
            Rule::Cron(_) => 1,
            Rule::Every(every) => 60_i64
                .unsigned_abs()
                .div_ceil(every.interval.unsigned_abs()),
        }
    }
}

/// As it is written: the expression and its zone, or the interval and its anchor.
impl fmt::Display for Recurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::Cron(cron) => write!(f, "{} ({})", cron.pattern.text(), cron.zone),
            Rule::Every(every) => {
                let interval = Duration::from_secs(every.interval.unsigned_abs());
                let interval = humantime::format_duration(interval);
                write!(f, "every {interval} from @{}", every.anchor)
            }
        }
    }
}

impl Every {
    /// The k of the last slot that is not later than `at`.
    fn up_to(self, at: i64) -> i64 {
        // Instants are those of `i64` seconds at worst, and intervals positive.
        let since = i128::from(at) - i128::from(self.anchor);
        let k = since.div_euclid(i128::from(self.interval));
        i64::try_from(k).unwrap_or(if k < 0 { i64::MIN } else { i64::MAX })
    }

    /// The instant of the slot `k`, unless no number holds it.
    fn at(self, k: i64) -> Option<i64> {
        self.anchor.checked_add(k.checked_mul(self.interval)?)
    }
}

impl Cron {
    fn walk_after(&self, after: i64) -> CronWalk<'_> {
        CronWalk {
            cron: self,
            from: after.saturating_add(1),
            passed: self.passed_at(after),
            stretch: None,
            found: None,
        }
    }

    /// The time that no clock has shown yet: one second past the latest one that was shown at
    /// `at` or before.
    fn passed_at(&self, at: i64) -> i64 {
        let stretches = self.stretches(at.saturating_sub(APART), at);
        let shown = stretches.map(|stretch| stretch.until + stretch.offset);
        shown.max().unwrap_or(i64::MIN)
    }

    /// The stretches of time in which the zone's clocks are not changed, from `from` to `last`.
    fn stretches(&self, from: i64, last: i64) -> impl Iterator<Item = Stretch> {
        let mut from = from;
        std::iter::from_fn(move || {
            if from > last {
                return None;
            }
            let mut stretch = self.stretch_at(from);
            stretch.until = stretch.until.min(last.saturating_add(1));
            from = stretch.until;
            Some(stretch)
        })
    }

    fn stretch_at(&self, from: i64) -> Stretch {
        let change = self.zone.next_change(UnixSeconds(from));
        Stretch {
            from,
            until: change.map_or(i64::MAX - APART, |change| change.0),
            offset: i64::from(self.zone.offset_at(UnixSeconds(from))),
        }
    }

    fn count(&self, after: i64, until: i64) -> u64 {
        let mut passed = self.passed_at(after);
        let mut count = 0;
        for stretch in self.stretches(after + 1, until) {
            let (from, to) = stretch.shown();
            if !self.is_fixed {
                count += self.pattern.count(from, to);
                continue;
            }
            count += self.pattern.count(passed.max(from), to.max(passed));
            // However many times a gap has swallowed, they come at one instant: this.
            let is_match = self.pattern.first_from(from) == Some(from);
            if !is_match && self.pattern.count(passed, from) > 0 {
                count += 1;
            }
            passed = passed.max(to);
        }
        count
    }

    fn last(&self, at: i64) -> Option<i64> {
        if self.is_fixed {
            let shown = self.pattern.last_before(self.passed_at(at))?;
            // Fixed: once a day.
            let near = self.walk_after(shown.saturating_sub(APART));
            return near.take_while(|slot| *slot <= at).last();
        }
        let mut at = at;
        while at >= 0 {
            let shown = self.pattern.last_before(at.saturating_add(APART))?;
            at = at.min(shown.saturating_add(APART));
            let begin = at - 2 * APART;
            let stretches = self.stretches(begin, at);
            let slots = stretches.filter_map(|stretch| {
                let (from, to) = stretch.shown();
                let shown = self.pattern.last_before(to)?;
                (shown >= from).then_some(shown - stretch.offset)
            });
            if let Some(slot) = slots.last() {
                return Some(slot);
            }
            at = begin - 1;
        }
        None
    }
}

/// A stretch of time in which clocks are ahead of UTC by the same.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    from: i64,
    /// The instant after its last.
    until: i64,
    offset: i64,
}

impl Stretch {
    /// What clocks show in it: from the first time to the one after the last.
    fn shown(self) -> (i64, i64) {
        (self.from + self.offset, self.until + self.offset)
    }
}

/// The slots of a rule, in order.
#[derive(Debug)]
pub struct Slots<'r> {
    walk: Walk<'r>,
    /// The last instant that may be one.
    end: i64,
}

#[derive(Debug)]
enum Walk<'r> {
    Cron(CronWalk<'r>),
    /// And the instant past which to look.
    Every(Every, i64),
}

impl Iterator for Slots<'_> {
    type Item = UnixSeconds;

    fn next(&mut self) -> Option<UnixSeconds> {
        let slot = match &mut self.walk {
            Walk::Cron(walk) => walk.next_until(self.end)?,
            Walk::Every(every, after) => {
                *after = every.at(every.up_to(*after).checked_add(1)?)?;
                *after
            }
        };
        (slot <= self.end).then_some(UnixSeconds(slot))
    }
}

/// A walk over the slots of a cron expression.
#[derive(Debug)]
struct CronWalk<'r> {
    cron: &'r Cron,
    /// The first instant that has not been looked at.
    from: i64,
    /// Of a fixed rule: matches before it have had their slot, those from it on have not.
    passed: i64,
    /// The one `from` lies in, once it is known.
    stretch: Option<Stretch>,
    /// What was last looked for, and the first match at it or later.
    found: Option<(i64, i64)>,
}

impl CronWalk<'_> {
    /// The next slot, unless it is later than `end`.
    fn next_until(&mut self, end: i64) -> Option<i64> {
        while self.from <= end {
            let from = self.from;
            let stretch = self.stretch.filter(|stretch| from < stretch.until);
            let stretch = *self.stretch.insert(match stretch {
                Some(stretch) => stretch,
                None => self.cron.stretch_at(from),
            });
            let shown = from + stretch.offset;
            let lowest = if self.cron.is_fixed {
                self.passed
            } else {
                shown
            };
            let wanted = self.first_from(lowest)?;
            if wanted - APART > end {
                return None;
            }
            // Less than `from` where a gap has swallowed it.
            let slot = (wanted - stretch.offset).max(from);
            if slot < stretch.until {
                self.from = slot + 1;
                self.passed = slot + stretch.offset + 1;
                return Some(slot);
            }
            self.from = stretch.until;
        }
        None
    }

    fn first_from(&mut self, lowest: i64) -> Option<i64> {
        if let Some((looked_for, found)) = self.found
            && (looked_for..=found).contains(&lowest)
        {
            return Some(found);
        }
        let found = self.cron.pattern.first_from(lowest)?;
        self.found = Some((lowest, found));
        Some(found)
    }
}

impl Iterator for CronWalk<'_> {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        self.next_until(UnixSeconds::MAX.0)
    }
}

#[cfg(test)]
mod tests;
