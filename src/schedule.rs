//! Schedules: what happens again and again, and what becomes of slots that were missed. A schedule
//! is written down as one line of JSON, always the same for the same schedule. Pure: no clock, no
//! I/O.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::UnixSeconds;
use crate::recurrence::Recurrence;
use crate::when::parse_zone;

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// The most that a schedule may be as JSON, in bytes: its payload for the most part. MySQL's BLOB
/// holds a little more.
pub const MAX_RULE_BYTES: usize = 60_000;
/// `missed_max` unless it is stated.
pub const MISSED_MAX: u32 = 100;
/// The most that `missed_max` may be.
pub const MOST_MISSED: u32 = 10_000;
/// `missed_window` of `missed = "skip"` unless it is stated.
pub const SKIP_WINDOW: Duration = Duration::from_mins(10);

/// Where a schedule is stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// In the configuration.
    Config,
    /// In the database, by `schedules add`.
    Database,
}

impl From {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            From::Config => "config",
            From::Database => "database",
        }
    }
}

/// What becomes of slots at which no run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// One event for all of them, which is told how many.
    Once,
    /// Only the last slot counts.
    Skip,
    /// An event each.
    All,
}

impl Missed {
    /// The words, in the order of the variants.
    pub const WORDS: [&str; 3] = ["once", "skip", "all"];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// A schedule. Its fields in this order are its JSON; what is not stated is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Where it is stated.
    pub from: From,
    /// A cron expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The zone whose clocks `cron` is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Instead of `cron`: seconds from slot to slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// One of the slots of `every`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<i64>,
    /// The type of its events.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Their payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Their priority, −2 first.
    pub priority: i8,
    /// What becomes of missed slots.
    pub missed: Missed,
    /// With `missed = "all"`: at most so many events at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_max: Option<u32>,
    /// Slots longer ago than this many seconds are let go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_window: Option<u64>,
    /// No slot before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<i64>,
    /// No slot after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
    /// The longest delay of its events, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<u64>,
    /// False: as if it were paused for good.
    pub enabled: bool,
}

/// What has come of a schedule since it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Come {
    /// The slots that become events, the oldest first, and how many slots each stands for.
    pub slots: Vec<(UnixSeconds, u64)>,
    /// How many slots are let go.
    pub let_go: u64,
    /// The last slot that has come.
    pub last: UnixSeconds,
}

impl Schedule {
    /// As it is stored.
    pub fn to_json(&self) -> String {
        // Numbers and texts always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As [`Schedule::to_json`] wrote it.
    ///
    /// # Errors
    /// One line.
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Its slots.
    ///
    /// # Errors
    /// One line: it is no rule.
    pub fn recurrence(&self) -> Result<Recurrence, String> {
        let rule = match (&self.cron, self.every, self.anchor) {
            (Some(text), None, None) => {
                let zone = parse_zone(self.timezone.as_deref().unwrap_or("UTC"));
                let zone = zone.map_err(|error| error.to_string())?;
                Recurrence::cron(text, zone)
            }
            (None, Some(seconds), Some(anchor)) => {
                Recurrence::every(Duration::from_secs(seconds), UnixSeconds(anchor))
            }
            _ => return Err("it has neither `cron` nor `every` and `anchor`".to_owned()),
        };
        let start = UnixSeconds(self.start.unwrap_or(0));
        let end = self.end.map_or(UnixSeconds::MAX, UnixSeconds);
        let rule = rule.map_err(|error| error.to_string())?;
        Ok(rule.between(start, end))
    }

    /// Whether the slots of `other` are found in the same way.
    pub fn has_slots_of(&self, other: &Self) -> bool {
        let timing = |one: &Self| {
            let rule = (
                one.cron.clone(),
                one.timezone.clone(),
                one.every,
                one.anchor,
            );
            (rule, one.start, one.end, one.enabled)
        };
        timing(self) == timing(other)
    }

    /// What has come of `slots`, which are its own, after `since` and by `now`; `None`: nothing.
    pub fn come(&self, slots: &Recurrence, since: UnixSeconds, now: UnixSeconds) -> Option<Come> {
        let last = slots.last_at_or_before(now).filter(|last| *last > since)?;
        let all = slots.count_between(since, now);
        let since = match self.window() {
            Some(window) => since.max(UnixSeconds(now.before(window).0 - 1)),
            None => since,
        };
        let counting = slots.count_between(since, now);
        let made: Vec<(UnixSeconds, u64)> = match self.missed {
            _ if counting == 0 => Vec::new(),
            Missed::Once => vec![(last, counting)],
            Missed::Skip => vec![(last, 1)],
            Missed::All => {
                let most = u64::from(self.missed_max.unwrap_or(MISSED_MAX));
                newest(slots, last, counting.min(most))
            }
        };
        let stands_for: u64 = made.iter().map(|(_, slots)| slots).sum();
        Some(Come {
            slots: made,
            let_go: all.saturating_sub(stands_for),
            last,
        })
    }

    /// How long ago a slot may be and still count.
    pub fn window(&self) -> Option<Duration> {
        match (self.missed_window, self.missed) {
            (Some(seconds), _) => Some(Duration::from_secs(seconds)),
            (None, Missed::Skip) => Some(SKIP_WINDOW),
            (None, Missed::Once | Missed::All) => None,
        }
    }

    /// When the event of `slot` is due: never before it. `seed` is the same each time.
    pub fn due_at(&self, slot: UnixSeconds, seed: u64) -> UnixSeconds {
        let delay = self.jitter.map_or(0, |most| seed % most.saturating_add(1));
        slot.after(Duration::from_secs(delay)).min(UnixSeconds::MAX)
    }
}

/// `last` and the slots before it, `count` in all, the oldest first.
fn newest(slots: &Recurrence, last: UnixSeconds, count: u64) -> Vec<(UnixSeconds, u64)> {
    let before = |slot: &UnixSeconds| slots.last_at_or_before(UnixSeconds(slot.0 - 1));
    let back = std::iter::successors(Some(last), before);
    let mut found: Vec<(UnixSeconds, u64)> = back
        .take(usize::try_from(count).unwrap_or(usize::MAX))
        .map(|slot| (slot, 1))
        .collect();
    found.reverse();
    found
}

/// Why `name` is no name of a schedule, if it is none.
pub fn mistake_in_name(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Some(format!(
            "is no name of a schedule: 1 to {MAX_NAME_BYTES} bytes without control characters"
        ));
    }
    None
}

/// Why a type that is tried `rate` times a minute cannot keep up with `slots`, if it cannot.
pub fn too_often(slots: &Recurrence, rate: Option<u32>) -> Option<String> {
    let often = slots.most_per_minute();
    let rate = rate.filter(|rate| u64::from(*rate) < often)?;
    Some(format!(
        "comes {often} times a minute, more than the {rate} of its type's `rate`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn schedule(missed: Missed) -> Schedule {
        Schedule {
            from: From::Config,
            cron: Some("0 7 * * *".into()),
            timezone: Some("UTC".into()),
            every: None,
            anchor: None,
            type_name: "mail".into(),
            payload: None,
            priority: 0,
            missed,
            missed_max: None,
            missed_window: None,
            start: None,
            end: None,
            jitter: None,
            enabled: true,
        }
    }

    /// 07:00 UTC on the day.
    fn seven(day: i64) -> UnixSeconds {
        UnixSeconds(day * DAY + 7 * 3600)
    }

    fn come(schedule: &Schedule, since: UnixSeconds, now: UnixSeconds) -> Option<Come> {
        schedule.come(&schedule.recurrence().unwrap(), since, now)
    }

    fn made(slots: &[(i64, u64)]) -> Vec<(UnixSeconds, u64)> {
        let at = |(day, stands_for): &(i64, u64)| (seven(*day), *stands_for);
        slots.iter().map(at).collect()
    }

    #[test]
    fn a_week_of_missed_slots_becomes_what_the_policy_says() {
        let now = UnixSeconds(seven(107).0 + 60);
        let of = |schedule: &Schedule| {
            let come = come(schedule, seven(100), now).unwrap();
            assert_eq!(come.last, seven(107));
            (come.slots, come.let_go)
        };
        assert_eq!(of(&schedule(Missed::Once)), (made(&[(107, 7)]), 0));
        assert_eq!(of(&schedule(Missed::Skip)), (made(&[(107, 1)]), 6));
        let all: Vec<(i64, u64)> = (101..=107).map(|day| (day, 1)).collect();
        assert_eq!(of(&schedule(Missed::All)), (made(&all), 0));
        let three = Schedule {
            missed_max: Some(3),
            ..schedule(Missed::All)
        };
        assert_eq!(of(&three), (made(&all[4..]), 4));
        for missed in [Missed::Once, Missed::All] {
            let short = Schedule {
                missed_window: Some(2 * 86_400 + 60),
                ..schedule(missed)
            };
            let (slots, let_go) = of(&short);
            let stand_for: u64 = slots.iter().map(|(_, slots)| slots).sum();
            assert_eq!((stand_for, let_go), (3, 4), "{missed:?}");
        }
    }

    #[test]
    fn a_slot_that_may_be_skipped_counts_for_ten_minutes_or_as_long_as_is_said() {
        let skip = schedule(Missed::Skip);
        let late = |schedule: &Schedule, seconds| {
            let now = UnixSeconds(seven(101).0 + seconds);
            let come = come(schedule, seven(100), now).unwrap();
            (come.slots.len(), come.let_go, come.last)
        };
        assert_eq!(late(&skip, 600), (1, 0, seven(101)));
        assert_eq!(late(&skip, 601), (0, 1, seven(101)));
        let hour = Schedule {
            missed_window: Some(3600),
            ..skip
        };
        assert_eq!(late(&hour, 3600), (1, 0, seven(101)));
        assert_eq!(late(&hour, 3601), (0, 1, seven(101)));
    }

    #[test]
    fn nothing_has_come_before_the_next_slot_or_with_a_clock_put_back() {
        let once = schedule(Missed::Once);
        let next = seven(101);
        assert_eq!(come(&once, seven(100), UnixSeconds(next.0 - 1)), None);
        assert!(come(&once, seven(100), next).is_some());
        assert_eq!(come(&once, seven(100), seven(99)), None);
    }

    #[test]
    fn a_century_of_seconds_is_counted_and_not_walked_over() {
        let seconds = Schedule {
            cron: None,
            timezone: None,
            every: Some(1),
            anchor: Some(0),
            ..schedule(Missed::All)
        };
        let now = UnixSeconds(36_525 * DAY);
        let come = come(&seconds, UnixSeconds(0), now).unwrap();
        let first = UnixSeconds(now.0 - 99);
        assert_eq!(come.slots.first(), Some(&(first, 1)));
        assert_eq!((come.slots.len(), come.last), (100, now));
        assert_eq!(come.let_go, 36_525 * 86_400 - 100);
    }

    #[test]
    fn an_event_is_delayed_by_the_same_each_time_and_never_early() {
        let jittered = Schedule {
            jitter: Some(300),
            ..schedule(Missed::Once)
        };
        let delays = (0..2000).map(|seed| jittered.due_at(seven(1), seed).since(seven(1)));
        let delays: std::collections::BTreeSet<i64> = delays.collect();
        assert_eq!(delays, (0..=300).collect());
        assert_eq!(schedule(Missed::Once).due_at(seven(1), 77), seven(1));
    }

    #[test]
    fn what_is_stored_is_the_same_schedule_and_a_word_too_many_is_refused() {
        let whole = Schedule {
            payload: Some("{\"a\":\"é\n\"}".into()),
            missed_max: Some(7),
            start: Some(5),
            ..schedule(Missed::All)
        };
        let json = whole.to_json();
        assert_eq!(Schedule::from_json(&json), Ok(whole));
        let newer = json.replacen('{', "{\"colour\":1,", 1);
        assert!(Schedule::from_json(&newer).unwrap_err().contains("colour"));
    }

    #[test]
    fn a_type_must_keep_up_with_its_schedule() {
        let every = |seconds| Recurrence::every(Duration::from_secs(seconds), UnixSeconds(0));
        assert_eq!(too_often(&every(1).unwrap(), None), None);
        assert_eq!(too_often(&every(1).unwrap(), Some(60)), None);
        assert!(too_often(&every(1).unwrap(), Some(59)).is_some());
    }
}
