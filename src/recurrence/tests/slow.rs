//! What slots are, the slow way: each minute of a zone's clocks is looked at, and each item of each
//! field is asked whether it fits. Uses nothing of what it is held against but offsets.

use chrono::{DateTime, Datelike, NaiveDate};

use crate::clock::UnixSeconds;
use crate::zone::Zone;

/// Long enough before a window to know what clocks have shown.
const WARM_UP: i64 = 2 * 86_400;

/// Each minute of a zone's clocks in a window.
pub(super) struct SlowWalk {
    steps: Vec<Step>,
}

struct Step {
    at: i64,
    /// What clocks show.
    wall: i64,
    /// The latest that they had shown before.
    shown: i64,
}

impl SlowWalk {
    /// Steps to each instant at which clocks show a whole minute or are changed.
    pub(super) fn over(zone: &Zone, after: UnixSeconds, until: UnixSeconds) -> Self {
        let offset = |at: i64| i64::from(zone.offset_at(UnixSeconds(at)));
        let mut steps = Vec::new();
        let mut at = after.0 - WARM_UP;
        let mut ahead = offset(at);
        let mut shown = at + ahead - 1;
        while at <= until.0 {
            let wall = at + ahead;
            if at > after.0 {
                steps.push(Step { at, wall, shown });
            }
            let minute = at + 60 - wall.rem_euclid(60);
            let next = if offset(minute) == ahead {
                minute
            } else {
                // Known to be found at `minute`.
                (at + 1..=minute)
                    .find(|at| offset(*at) != ahead)
                    .unwrap_or(minute)
            };
            // The last second before it has been shown too.
            shown = shown.max(next - 1 + ahead);
            (at, ahead) = (next, offset(next));
        }
        Self { steps }
    }

    /// The slots of an expression in the window.
    pub(super) fn slots(&self, text: &str) -> Vec<UnixSeconds> {
        let fields = Fields::of(text);
        let is_fixed = fields.are_fixed();
        let is_slot = |step: &&Step| {
            if !is_fixed {
                return step.wall % 60 == 0 && fields.match_wall(step.wall);
            }
            let first = step.shown.div_euclid(60) + 1;
            let last = step.wall.div_euclid(60);
            (first..=last).any(|minute| fields.match_wall(minute * 60))
        };
        let slots = self.steps.iter().filter(is_slot);
        slots.map(|step| UnixSeconds(step.at)).collect()
    }
}

/// The days, counted from 1970-01-01, at whose beginning `text` matches what clocks show.
pub(super) fn days(text: &str, among: impl Iterator<Item = i64>) -> impl Iterator<Item = i64> {
    let fields = Fields::of(text);
    among.filter(move |day| fields.match_wall(day * 86_400))
}

/// The fields of an expression.
struct Fields<'t> {
    minutes: Vec<bool>,
    hours: Vec<bool>,
    day: &'t str,
    month: &'t str,
    weekday: &'t str,
}

impl<'t> Fields<'t> {
    fn of(text: &'t str) -> Self {
        let text = match text {
            "@hourly" => "0 * * * *",
            text => text,
        };
        let fields: Vec<&str> = text.split(' ').collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            panic!("five fields: {text}")
        };
        Self {
            minutes: (0..60).map(|value| fits(minute, value, 0)).collect(),
            hours: (0..24).map(|value| fits(hour, value, 0)).collect(),
            day,
            month,
            weekday,
        }
    }

    /// Whether there is but one minute of a day that matches.
    fn are_fixed(&self) -> bool {
        let count = |values: &[bool]| values.iter().filter(|value| **value).count();
        count(&self.minutes) == 1 && count(&self.hours) == 1
    }

    fn match_wall(&self, wall: i64) -> bool {
        let has = |values: &[bool], value: i64| values[usize::try_from(value).expect("a time")];
        let minute = wall.rem_euclid(86_400) / 60;
        if !has(&self.minutes, minute % 60) || !has(&self.hours, minute / 60) {
            return false;
        }
        let date = DateTime::from_timestamp(wall, 0)
            .expect("a time")
            .date_naive();
        let (day, weekday) = (self.day, self.weekday);
        let in_month = day.split(',').any(|item| is_day(item, date));
        let in_week = weekday.split(',').any(|item| is_weekday(item, date));
        let is_one_of_its_days = if day.starts_with('*') || weekday.starts_with('*') {
            in_month && in_week
        } else {
            in_month || in_week
        };
        is_one_of_its_days && fits(self.month, date.month(), 1)
    }
}

/// Whether a field of numbers that begin with `begin` has `value`.
fn fits(field: &str, value: u32, begin: u32) -> bool {
    field.split(',').any(|item| {
        let (range, step) = item.split_once('/').unwrap_or((item, "1"));
        let step: u32 = step.parse().expect("a step");
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (first.parse().expect("a"), last.parse().expect("b")),
            None if range == "*" => (begin, 99),
            None => {
                let only = range.parse().expect("a number");
                (only, only)
            }
        };
        first <= value && value <= last && (value - first).is_multiple_of(step)
    })
}

fn is_day(item: &str, date: NaiveDate) -> bool {
    let last = u32::from(date.num_days_in_month());
    if item == "L" {
        return date.day() == last;
    }
    let works = |day: u32| {
        let date = date.with_day(day).expect("a day of the month");
        date.weekday().num_days_from_monday() < 5
    };
    if item == "LW" {
        return Some(date.day()) == (1..=last).rev().find(|day| works(*day));
    }
    if let Some(wanted) = item.strip_suffix('W') {
        let wanted: u32 = wanted.parse().expect("a day");
        // The nearest working day of the same month; Saturday's is Friday where both are as near.
        let near = (1..=last).filter(|day| works(*day));
        let nearest = near.min_by_key(|day| (day.abs_diff(wanted), *day));
        return wanted <= last && Some(date.day()) == nearest;
    }
    fits(item, date.day(), 1)
}

fn is_weekday(item: &str, date: NaiveDate) -> bool {
    let today = date.weekday().num_days_from_sunday();
    let is_today = |day: &str| day.parse::<u32>().expect("a day") % 7 == today;
    if let Some(day) = item.strip_suffix('L') {
        let next_week = date + chrono::Days::new(7);
        return is_today(day) && next_week.month() != date.month();
    }
    if let Some((day, which)) = item.split_once('#') {
        let which: u32 = which.parse().expect("a number");
        return is_today(day) && date.day().div_ceil(7) == which;
    }
    fits(item, today, 0) || today == 0 && fits(item, 7, 0)
}
