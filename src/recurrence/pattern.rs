//! A cron expression over the wall: which minutes it matches, whatever zone the wall hangs in.
//!
//! A *wall time* is what a clock shows, counted in seconds as if it hung in UTC. Which days an
//! expression means is `croner`'s to say; what is written is checked here first, because that
//! reads `mon5` as 15, and skips what is empty.

use std::fmt;

use chrono::{Datelike, NaiveDate};
use croner::parser::{CronParser, Seconds, Year};
use croner::{CronPattern, Weekday};

use super::RecurrenceError;
use crate::nearest::did_you_mean;
use crate::when::shown;

/// Seconds of a day on the wall.
pub(super) const DAY: i64 = 86_400;

/// The calendar begins anew after so many days: what does not match in them never does.
const CALENDAR: i64 = 146_097;

/// Longer expressions are a mistake, and messages must end somewhere.
const LONGEST: usize = 500;

/// Words for whole expressions, as cron has them.
const WORDS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// One of the five fields.
struct Field {
    name: &'static str,
    least: u16,
    most: u16,
    /// Names of its values, the first one's for `least`.
    names: &'static [&'static str],
}

const MINUTE: Field = field("minute", 0, 59, &[]);
const HOUR: Field = field("hour", 0, 23, &[]);
const DAY_OF_MONTH: Field = field("day of month", 1, 31, &[]);
const MONTH: Field = field(
    "month",
    1,
    12,
    &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
);
/// Sunday is 0, and 7 too.
const DAY_OF_WEEK: Field = field(
    "day of week",
    0,
    7,
    &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
);

const fn field(name: &'static str, least: u16, most: u16, names: &'static [&'static str]) -> Field {
    Field {
        name,
        least,
        most,
        names,
    }
}

/// A cron expression.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// As written.
    text: String,
    /// Bit n: minute n.
    minutes: u64,
    /// Bit n: hour n.
    hours: u32,
    /// Days and months.
    days: CronPattern,
}

impl Pattern {
    /// Reads an expression of five fields, or one of cron's words.
    pub(super) fn parse(text: &str) -> Result<Self, RecurrenceError> {
        let word = text.trim();
        let refuse = |why: String| RecurrenceError::NoCron {
            text: shown(word),
            why,
        };
        let fields = if word.starts_with('@') {
            spelt_out(word).map_err(refuse)?
        } else {
            word
        };
        let plain = plain_numbers(fields).map_err(refuse)?;
        // As cron has it: a day must fit both of its fields where one of them begins with `*`, and
        // one of them is enough where none does.
        let both = plain[2].starts_with('*') || plain[4].starts_with('*');
        // Nobody asks for seconds or years; to read each year there is would cost more than all else.
        let days = CronParser::builder()
            .seconds(Seconds::Required)
            .year(Year::Required)
            .dom_and_dow(both)
            .build()
            .parse(&format!("0 {} 1", plain.join(" ")))
            .map_err(|error| refuse(error.to_string()))?
            .pattern;
        let pattern = Self {
            text: word.to_owned(),
            minutes: bits(&days.minutes.values()),
            // Hours end at 23.
            hours: u32::try_from(bits(&days.hours.values())).unwrap_or_default(),
            days,
        };
        match pattern.first_from(0) {
            Some(_) => Ok(pattern),
            None => Err(RecurrenceError::Never(shown(word))),
        }
    }

    /// As written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether there is but one minute of the day that it matches, however that is written.
    pub(super) fn is_fixed(&self) -> bool {
        self.minutes.is_power_of_two() && self.hours.is_power_of_two()
    }

    /// The first match at `wall` or later. None: there is none in the years of the calendar.
    pub(super) fn first_from(&self, wall: i64) -> Option<i64> {
        // A minute that has begun is over.
        let minute = (wall.rem_euclid(DAY) + 59) / 60;
        let today = wall.div_euclid(DAY);
        if let Some(minute) = self.first_minute(minute).filter(|_| self.has_day(today)) {
            return Some(today * DAY + minute * 60);
        }
        let day = self.first_day(today + 1)?;
        Some(day * DAY + self.first_minute(0)? * 60)
    }

    /// The last match before `wall`. None: there is none in the years of the calendar.
    pub(super) fn last_before(&self, wall: i64) -> Option<i64> {
        let today = wall.div_euclid(DAY);
        let minute = (wall.rem_euclid(DAY) + 59) / 60;
        if let Some(minute) = self.last_minute(minute).filter(|_| self.has_day(today)) {
            return Some(today * DAY + minute * 60);
        }
        let day = self.last_day(today - 1)?;
        Some(day * DAY + self.last_minute(24 * 60)? * 60)
    }

    /// How many matches there are at `from` or later and before `until`: by days, not by matches.
    pub(super) fn count(&self, from: i64, until: i64) -> u64 {
        let (first, last) = (from.div_euclid(DAY), until.div_euclid(DAY));
        let mut count = 0;
        let mut next = self.first_day(first);
        while let Some(day) = next.filter(|day| from < until && *day <= last) {
            let ends = if day == last { until - day * DAY } else { DAY };
            let begins = if day == first { from - day * DAY } else { 0 };
            count += self.minutes_before(ends) - self.minutes_before(begins);
            next = self.first_day(day + 1);
        }
        count
    }

    /// The matching minutes of a day that begin before its second `second`.
    fn minutes_before(&self, second: i64) -> u64 {
        let minute = (second + 59) / 60;
        let whole = below(u64::from(self.hours), minute / 60).count_ones();
        let begun = self
            .hours
            .checked_shr(u32::try_from(minute / 60).unwrap_or(u32::MAX));
        let rest = match begun {
            Some(hours) if hours & 1 == 1 => below(self.minutes, minute % 60).count_ones(),
            _ => 0,
        };
        u64::from(whole) * u64::from(self.minutes.count_ones()) + u64::from(rest)
    }

    /// The first matching minute of a day, `from` or later.
    fn first_minute(&self, from: i64) -> Option<i64> {
        let (hour, minute) = (from / 60, from % 60);
        let hours = u64::from(self.hours);
        let in_hour = self.minutes & !below(u64::MAX, minute);
        if hours & !below(u64::MAX, hour) & below(u64::MAX, hour + 1) != 0 && in_hour != 0 {
            return Some(hour * 60 + i64::from(in_hour.trailing_zeros()));
        }
        let later = hours & !below(u64::MAX, hour + 1);
        (later != 0).then(|| {
            i64::from(later.trailing_zeros()) * 60 + i64::from(self.minutes.trailing_zeros())
        })
    }

    /// The last matching minute of a day before `before`.
    fn last_minute(&self, before: i64) -> Option<i64> {
        let (hour, minute) = (before / 60, before % 60);
        let highest = |bits: u64| i64::from(bits.ilog2());
        let hours = u64::from(self.hours);
        let in_hour = below(self.minutes, minute);
        if below(hours, hour + 1) & !below(hours, hour) != 0 && in_hour != 0 {
            return Some(hour * 60 + highest(in_hour));
        }
        let earlier = below(hours, hour);
        (earlier != 0).then(|| highest(earlier) * 60 + highest(self.minutes))
    }

    fn has_day(&self, day: i64) -> bool {
        date(day).is_some_and(|date| self.has_month(date) && self.has_date(date))
    }

    /// The first matching day, `from` or later, in days since 1970-01-01.
    fn first_day(&self, from: i64) -> Option<i64> {
        let mut day = from;
        while day <= from + CALENDAR {
            let date = date(day)?;
            if !self.has_month(date) {
                day += i64::from(date.num_days_in_month()) - i64::from(date.day0());
            } else if self.has_date(date) {
                return Some(day);
            } else {
                day += 1;
            }
        }
        None
    }

    /// The last matching day, `from` or earlier.
    fn last_day(&self, from: i64) -> Option<i64> {
        let mut day = from;
        while day >= from - CALENDAR {
            let date = date(day)?;
            if !self.has_month(date) {
                day -= i64::from(date.day());
            } else if self.has_date(date) {
                return Some(day);
            } else {
                day -= 1;
            }
        }
        None
    }

    fn has_month(&self, date: NaiveDate) -> bool {
        // An error would be a month that does not exist.
        self.days.month_match(date.month()).unwrap_or_default()
    }

    fn has_date(&self, date: NaiveDate) -> bool {
        let weekday = Weekday::from_days_from_sunday(date.weekday().num_days_from_sunday());
        let fits = self
            .days
            .day_match(date.year(), date.month(), date.day(), weekday);
        // An error would be a day that does not exist.
        fits.unwrap_or_default()
    }
}

/// What it was read into is thousands of bytes, most of them about years.
impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

/// The day so many days after 1970-01-01.
fn date(day: i64) -> Option<NaiveDate> {
    NaiveDate::from_epoch_days(i32::try_from(day).ok()?)
}

/// The bits of `set` below bit `end`.
fn below(set: u64, end: i64) -> u64 {
    match u32::try_from(end) {
        Ok(end) if end < 64 => set & ((1 << end) - 1),
        Ok(_) => set,
        Err(_) => 0,
    }
}

fn bits(values: &[u16]) -> u64 {
    values.iter().fold(0, |set, value| set | 1 << value)
}

fn spelt_out(word: &str) -> Result<&'static str, String> {
    let known = WORDS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(word));
    if let Some((_, fields)) = known {
        return Ok(fields);
    }
    if word.eq_ignore_ascii_case("@reboot") {
        return Err("it names no times; let what starts the machine call `punctual add`".into());
    }
    let hint = did_you_mean(word, WORDS.iter().map(|(name, _)| *name));
    Err(format!("there is no such word{hint}"))
}

/// The five fields with numbers instead of names, checked.
fn plain_numbers(text: &str) -> Result<[String; 5], String> {
    if text.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    let written: Vec<&str> = text.split_ascii_whitespace().collect();
    let [minute, hour, day_of_month, month, day_of_week] = written[..] else {
        let count = written.len();
        let fields = if count == 1 { "field" } else { "fields" };
        return Err(format!(
            "it has {count} {fields}; five are wanted: minute, hour, day of month, month, \
             day of week"
        ));
    };
    Ok([
        MINUTE.plain(minute)?,
        HOUR.plain(hour)?,
        DAY_OF_MONTH.plain(day_of_month)?,
        MONTH.plain(month)?,
        DAY_OF_WEEK.plain(day_of_week)?,
    ])
}

impl Field {
    fn plain(&self, written: &str) -> Result<String, String> {
        let items: Vec<&str> = written.split(',').collect();
        let has = |word: &str| items.iter().any(|item| item.eq_ignore_ascii_case(word));
        if items.len() > 1 && has("*") {
            return Err(self.wrong(written, "`*` leaves nothing to list"));
        }
        if has("L") && has("LW") {
            return Err(self.wrong(written, "take either `L` or `LW`"));
        }
        let items = items.into_iter().map(|item| self.item(item));
        Ok(items.collect::<Result<Vec<_>, _>>()?.join(","))
    }

    fn item(&self, item: &str) -> Result<String, String> {
        if item.is_empty() {
            return Err(format!(
                "the {} is empty, or something in its list is",
                self.name
            ));
        }
        if let Some(last) = self.by_place(item)? {
            return Ok(last);
        }
        let Some((range, step)) = item.split_once('/') else {
            return self.range(item);
        };
        let values = self.most - self.least + u16::from(!self.is_week());
        let step = match number(step) {
            Some(step) if (1..=values).contains(&step) => step,
            _ => return Err(self.wrong(item, &format!("a step is 1 to {values}"))),
        };
        let range = self.range(range)?;
        if range != "*" && !range.contains('-') {
            let most = self.most;
            let remedy = format!("steps need a range, such as {range}-{most}");
            return Err(self.wrong(item, &remedy));
        }
        Ok(format!("{range}/{step}"))
    }

    /// What counts days from the end of a month or in weeks: `L`, `LW`, `15W`, `fri#2`, `friL`.
    fn by_place(&self, item: &str) -> Result<Option<String>, String> {
        let item = item.to_ascii_uppercase();
        match self.name {
            "day of month" if item == "L" || item == "LW" => Ok(Some(item)),
            "day of month" if item.ends_with('W') => {
                let day = self.value(&item[..item.len() - 1])?;
                Ok(Some(format!("{day}W")))
            }
            "day of week" if item == "L" => {
                Err(self.wrong(&item, "say which: `friL` is the last Friday of a month"))
            }
            "day of week" if item.ends_with('L') => {
                let day = self.value(&item[..item.len() - 1])?;
                Ok(Some(format!("{day}L")))
            }
            "day of week" if item.contains('#') => {
                let (day, which) = item.split_once('#').unwrap_or_default();
                let Some(which) = number(which).filter(|which| (1..=5).contains(which)) else {
                    return Err(self.wrong(&item, "`#` takes 1 to 5"));
                };
                Ok(Some(format!("{}#{which}", self.value(day)?)))
            }
            _ => Ok(None),
        }
    }

    /// `*`, a value, or `a-b`.
    fn range(&self, text: &str) -> Result<String, String> {
        if text == "*" {
            return Ok("*".to_owned());
        }
        let Some((first, last)) = text.split_once('-') else {
            return Ok(self.value(text)?.to_string());
        };
        let (begin, mut end) = (self.value(first)?, self.value(last)?);
        if end == 0 && begin > 0 && self.is_week() {
            end = self.most; // a week may end with Sunday
        }
        if begin > end {
            return Err(self.wrong(
                text,
                &format!(
                    "it runs backwards; write {first}-{},{}-{last}",
                    self.most, self.least
                ),
            ));
        }
        Ok(format!("{begin}-{end}"))
    }

    fn value(&self, text: &str) -> Result<u16, String> {
        let is_named = |name: &&str| name.eq_ignore_ascii_case(text);
        if let Some(place) = self.names.iter().position(is_named) {
            return Ok(self.least + u16::try_from(place).unwrap_or_default());
        }
        let value = number(text).filter(|value| (self.least..=self.most).contains(value));
        value.ok_or_else(|| {
            let names = match (self.names.first(), self.names.last()) {
                (Some(first), Some(last)) => format!(", or {first} to {last}"),
                _ => String::new(),
            };
            let which = format!("it is {} to {}{names}", self.least, self.most);
            self.wrong(text, &which)
        })
    }

    /// Whether its first value and its last are the same: Sunday.
    fn is_week(&self) -> bool {
        self.most == 7
    }

    fn wrong(&self, item: &str, why: &str) -> String {
        format!("{} `{}`: {why}", self.name, shown(item))
    }
}

/// Digits and nothing else.
fn number(text: &str) -> Option<u16> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().ok()).flatten()
}
