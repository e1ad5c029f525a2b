//! Days by name, and their end: `today 17:00`, `tomorrow`, `monday 09:00`, `2026-12-01 end`. Which
//! day it is, and when it ends, is the zone's to say.

use chrono::{Datelike, Days, NaiveDate, NaiveDateTime, NaiveTime, Weekday};

use super::{Cursor, WhenError, resolve_local, shown, skipped};
use crate::clock::UnixSeconds;
use crate::nearest::did_you_mean;
use crate::zone::{Instants, Zone};

const TODAY: &str = "today";
const TOMORROW: &str = "tomorrow";
/// The word for the last second of a day.
const END: &str = "end";

/// In full, and behind it in short.
const WEEKDAYS: [(&str, &str, Weekday); 7] = [
    ("monday", "mon", Weekday::Mon),
    ("tuesday", "tue", Weekday::Tue),
    ("wednesday", "wed", Weekday::Wed),
    ("thursday", "thu", Weekday::Thu),
    ("friday", "fri", Weekday::Fri),
    ("saturday", "sat", Weekday::Sat),
    ("sunday", "sun", Weekday::Sun),
];

/// A day and a moment of it, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DayTime {
    day: Day,
    moment: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Day {
    Date(NaiveDate),
    Today,
    Tomorrow,
    /// The next one whose moment is still ahead, which may be today.
    Next(Weekday),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// This time of day, and so many seconds later: a fraction is rounded up.
    At(NaiveTime, i64),
    /// The last second.
    End,
}

impl DayTime {
    /// `None`: it is no day by name and has no `end`, so it is written otherwise.
    ///
    /// # Errors
    /// It begins as one, and goes on as no time of day.
    pub(super) fn read(text: &str) -> Option<Result<Self, WhenError>> {
        let (first, rest) = text
            .split_once(char::is_whitespace)
            .map_or((text, ""), |(first, rest)| (first, rest.trim_start()));
        let is_end = rest.eq_ignore_ascii_case(END);
        let day = match day_named(first) {
            Some(day) => day,
            None if is_end => {
                let (year, month, day) = date(first)?;
                match NaiveDate::from_ymd_opt(year, month, day) {
                    Some(date) => Day::Date(date),
                    None => return Some(Err(WhenError::NotInCalendar(shown(text)))),
                }
            }
            None => return None,
        };
        let moment = match rest {
            "" => Ok(Moment::At(NaiveTime::MIN, 0)),
            _ if is_end => Ok(Moment::End),
            _ => time_of_day(rest, text),
        };
        Some(moment.map(|moment| Self { day, moment }))
    }

    /// The instant that is meant at `now`, in Unix seconds.
    pub(super) fn resolve(self, zone: &Zone, now: UnixSeconds) -> Result<i64, WhenError> {
        let today = zone.local_at(now).date();
        let later = |days| today.checked_add_days(Days::new(days)).unwrap_or(today);
        match self.day {
            Day::Date(date) => self.moment.on(date, zone),
            Day::Today => self.moment.on(today, zone),
            Day::Tomorrow => self.moment.on(later(1), zone),
            Day::Next(weekday) => {
                let days = weekday.days_since(today.weekday());
                let on = later(days.into());
                if days == 0 && self.moment.has_passed(on, zone, now) {
                    return self.moment.on(later(7), zone);
                }
                self.moment.on(on, zone)
            }
        }
    }
}

impl Moment {
    fn on(self, date: NaiveDate, zone: &Zone) -> Result<i64, WhenError> {
        match self {
            Self::At(time, carry) => Ok(resolve_local(date.and_time(time), zone)? + carry),
            Self::End => last_second(date, zone),
        }
    }

    /// Whether it lies ahead of `now` in no reading.
    fn has_passed(self, date: NaiveDate, zone: &Zone, now: UnixSeconds) -> bool {
        let last = match self {
            Self::At(time, carry) => last_reading(date.and_time(time), zone) + carry,
            Self::End => last_reading(midnight_after(date), zone) - 1,
        };
        last <= now.0
    }
}

/// The last second in which clocks of the zone show this date: the one before the next day begins,
/// which there is even where the next day has no midnight. Where clocks go back over midnight, and
/// the date with them, it is the second time.
fn last_second(date: NaiveDate, zone: &Zone) -> Result<i64, WhenError> {
    if !(1969..=3000).contains(&date.year()) {
        // Out of range wherever it is; and beyond what is known of any zone, perhaps.
        return Ok(midnight(date).and_utc().timestamp());
    }
    let next = last_reading(midnight_after(date), zone);
    if zone.local_at(UnixSeconds(next - 1)).date() != date {
        // The zone has left it out.
        return Err(skipped(midnight(date), UnixSeconds(next), zone));
    }
    Ok(next - 1)
}

/// The last instant at which clocks show `local`; where they never do, the first after it.
fn last_reading(local: NaiveDateTime, zone: &Zone) -> i64 {
    match zone.instants_of(local) {
        Instants::Once(at)
        | Instants::Twice { second: at, .. }
        | Instants::Skipped { resumes: at } => at.0,
    }
}

fn midnight(date: NaiveDate) -> NaiveDateTime {
    date.and_time(NaiveTime::MIN)
}

fn midnight_after(date: NaiveDate) -> NaiveDateTime {
    midnight(date.checked_add_days(Days::new(1)).unwrap_or(date))
}

fn day_named(word: &str) -> Option<Day> {
    let is = |name: &str| word.eq_ignore_ascii_case(name);
    if is(TODAY) {
        return Some(Day::Today);
    }
    if is(TOMORROW) {
        return Some(Day::Tomorrow);
    }
    let named = |(full, short, _): &&(&str, &str, Weekday)| is(full) || is(short);
    let (_, _, weekday) = WEEKDAYS.iter().find(named)?;
    Some(Day::Next(*weekday))
}

/// `YYYY-MM-DD`, whether or not a calendar has it.
fn date(word: &str) -> Option<(i32, u32, u32)> {
    let mut rest = Cursor(word);
    rest.date().filter(|_| rest.0.is_empty())
}

fn time_of_day(rest: &str, text: &str) -> Result<Moment, WhenError> {
    let mut rest = Cursor(rest);
    let time = rest.time().filter(|_| rest.0.is_empty());
    let Some((hour, minute, second, carry)) = time else {
        return Err(WhenError::NoTimeOfDay(shown(text)));
    };
    NaiveTime::from_hms_opt(hour, minute, second)
        .map(|time| Moment::At(time, carry))
        .ok_or_else(|| WhenError::NotInCalendar(shown(text)))
}

/// The day that a misspelt word was probably meant to name, for a message.
pub(super) fn hint(text: &str) -> String {
    let word = text.split_whitespace().next().unwrap_or_default();
    let weekdays = WEEKDAYS.iter().map(|(full, _, _)| *full);
    did_you_mean(word, weekdays.chain([TODAY, TOMORROW]))
}

#[cfg(test)]
mod tests;
