//! Times, durations and zones as people write them, and back. Reads no clock: `now` comes in; the
//! one thing asked of the system is the name of its zone ([`host_zone`]).
//!
//! A time is never rounded towards the past, and never guessed: a local time that a clock change
//! makes impossible or double is refused with both readings.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Timelike};

use crate::clock::UnixSeconds;
use crate::nearest::nearest;
use crate::zone::{Instants, Zone};

mod day;

use day::DayTime;

/// The longest duration taken, so that sums with it cannot overflow: 1000 years.
const LONGEST: Duration = Duration::from_hours(1000 * 8766);

/// Why a text is no time, duration or zone. Each message is one line and names a remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhenError {
    /// It has none of the forms of a time.
    #[error(
        "`{text}` is no time{hint}; write 2026-11-22 09:15, monday 09:15, today end, \
         2026-11-22T09:15:00+01:00, @1795335300 (Unix seconds) or 20261122081500 (MediaWiki, UTC)"
    )]
    NoTime {
        /// As written.
        text: String,
        /// The nearest day that has a name.
        hint: String,
    },
    /// A day by name, and behind it something else than a time of that day.
    #[error("`{0}` has no time behind its day; write for example monday 09:15 or monday end")]
    NoTimeOfDay(String),
    /// A number without `@`, which could be seconds or milliseconds.
    #[error("`{text}` is a bare number; write @{seconds} for Unix seconds")]
    BareNumber {
        /// As written.
        text: String,
        /// What it is in seconds.
        seconds: i64,
    },
    /// It has the form of a time, and no calendar knows it (31 February, 25 o'clock).
    #[error("`{0}` names a day or an hour that does not exist")]
    NotInCalendar(String),
    /// Before 1970 or after [`UnixSeconds::MAX`].
    #[error("`{0}` lies outside 1970-01-01 to 3000-01-01 UTC; `@` takes seconds, not milliseconds")]
    OutOfRange(String),
    /// Clocks were put back over it.
    #[error("{local} exists twice in {zone}: {first} or {second}; give one of them")]
    Twice {
        /// The local time.
        local: String,
        /// Where.
        zone: Zone,
        /// The earlier instant.
        first: String,
        /// The later instant.
        second: String,
    },
    /// Clocks were put forward over it.
    #[error(
        "{local} does not exist in {zone}: clocks go from {before} to {after}; give one of them"
    )]
    Skipped {
        /// The local time.
        local: String,
        /// Where.
        zone: Zone,
        /// The last second before the change.
        before: String,
        /// The first second after it.
        after: String,
    },
    /// It is no duration.
    #[error("`{text}` is no duration: {why}; write for example 50s, 1h 30m or 30d")]
    NoDuration {
        /// As written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// No such zone.
    #[error("unknown time zone `{text}`{hint}")]
    NoZone {
        /// As written.
        text: String,
        /// The nearest known ones, or where names come from.
        hint: String,
    },
}

/// Reads a time: RFC 3339 with any offset, `YYYY-MM-DD[ HH:MM[:SS]]` in `zone` (a `T` may stand
/// between), `@` and Unix seconds, MediaWiki's 14 digits (UTC), or the word `now`. For the date may
/// stand `today`, `tomorrow`, or a day of the week: the next one at which that time is still ahead.
/// A day alone is its first second, one with `end` behind it its last. Fractions of a second are
/// rounded up, because an event is never early (DESIGN §2).
pub fn parse_time(text: &str, zone: &Zone, now: UnixSeconds) -> Result<UnixSeconds, WhenError> {
    let word = text.trim();
    if word.eq_ignore_ascii_case("now") {
        return Ok(now);
    }
    if let Some(number) = word.strip_prefix('@') {
        return unix_seconds(number, word);
    }
    if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) {
        return match word.len() {
            14 => in_range(mediawiki(word)?.and_utc().timestamp(), word),
            _ => Err(bare_number(word)),
        };
    }
    if let Some(named) = DayTime::read(word) {
        return in_range(named?.resolve(zone, now)?, word);
    }
    let written = Written::read(word).ok_or_else(|| no_time(word))?;
    let local = written
        .local()
        .ok_or_else(|| WhenError::NotInCalendar(shown(word)))?;
    let seconds = match written.offset {
        Some(offset) => local.and_utc().timestamp() - i64::from(offset),
        None => resolve_local(local, zone)?,
    };
    in_range(seconds + written.carry, word)
}

/// Reads a duration such as `50s`, `1h 30m`, `30d`, `1y` or `0s`; at most 1000 years.
pub fn parse_duration(text: &str) -> Result<Duration, WhenError> {
    let word = text.trim();
    let refuse = |why: &str| WhenError::NoDuration {
        text: shown(word),
        why: why.to_owned(),
    };
    if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse("a unit is missing"));
    }
    // Keeps the sums inside `humantime` far from where they would overflow.
    let longest_number = word
        .split(|c: char| !c.is_ascii_digit())
        .map(str::len)
        .max();
    if word.len() > 64 || longest_number > Some(9) {
        return Err(refuse("it is too long"));
    }
    let duration = humantime::parse_duration(word).map_err(|error| refuse(&explain(&error)))?;
    if duration > LONGEST {
        return Err(refuse("it is longer than 1000 years"));
    }
    Ok(duration)
}

/// Reads the name of a zone (`Europe/Amsterdam`, `UTC`).
pub fn parse_zone(text: &str) -> Result<Zone, WhenError> {
    let word = text.trim();
    Zone::named(word).ok_or_else(|| WhenError::NoZone {
        text: shown(word),
        hint: zone_hint(word),
    })
}

/// The zone that a value of the variable `TZ` names; UTC where it names none that is known.
pub fn zone_of_variable(value: &str) -> Zone {
    // POSIX allows `:NAME`, and libraries a path into the zone files.
    let name = value.trim_start_matches(':');
    let name = name.rsplit_once("zoneinfo/").map_or(name, |(_, zone)| zone);
    Zone::named(name).unwrap_or_else(Zone::utc)
}

/// The zone this host is set to; UTC where it is set to none that is known.
pub fn host_zone() -> Zone {
    zone_of_variable(&iana_time_zone::get_timezone().unwrap_or_default())
}

/// `YYYYMMDDHHMMSS` in UTC, as MediaWiki stores instants: to be bound as a string, since a number
/// would make MySQL scan the whole index (RULINGS, experiments).
pub fn mediawiki_time(instant: UnixSeconds) -> String {
    DateTime::from_timestamp(instant.0, 0)
        .map(|utc| utc.format("%Y%m%d%H%M%S").to_string())
        .unwrap_or_default()
}

/// A time for people, with its zone: `2026-11-22 09:15:00 CET`. What no calendar holds is shown
/// as `@seconds`.
pub fn format_time(at: UnixSeconds, zone: &Zone) -> String {
    // Years 0 to 9999: rows that slipped past a CHECK hold anything.
    if !(-62_167_219_200..253_402_214_400).contains(&at.0) {
        return format!("@{at}");
    }
    let local = zone.local_at(at).format("%Y-%m-%d %H:%M:%S");
    format!("{local} {}", zone.abbreviation_at(at))
}

/// A span of seconds for people, its two largest units: `3m 20s`, `2d 4h`, `0s`.
pub fn format_duration(seconds: i64) -> String {
    let sign = if seconds < 0 { "-" } else { "" };
    let mut rest = seconds.unsigned_abs();
    let mut parts = Vec::new();
    for (unit, size) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        let count = rest / size;
        rest %= size;
        if count > 0 {
            parts.push(format!("{count}{unit}"));
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    if parts.is_empty() {
        "0s".to_owned()
    } else {
        format!("{sign}{}", parts.join(" "))
    }
}

/// What somebody typed, fit for one line of a message.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let mut short: String = text
        .chars()
        .take(MOST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().count() > MOST {
        short.push('…');
    }
    short
}

fn no_time(word: &str) -> WhenError {
    WhenError::NoTime {
        text: shown(word),
        hint: day::hint(word),
    }
}

fn unix_seconds(number: &str, word: &str) -> Result<UnixSeconds, WhenError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole.strip_prefix('-').unwrap_or(whole)) || !digits(fraction) {
        return Err(no_time(word));
    }
    // Out of i64's range is out of ours.
    let seconds: i64 = whole.parse().unwrap_or(i64::MAX - 1);
    // Up is towards zero before 1970.
    let is_cut_off = has_value(fraction) && !whole.starts_with('-');
    in_range(seconds + i64::from(is_cut_off), word)
}

fn has_value(fraction: &str) -> bool {
    fraction.bytes().any(|byte| byte != b'0')
}

fn bare_number(word: &str) -> WhenError {
    let number: i64 = word.parse().unwrap_or(i64::MAX);
    // Numbers past the year 3000 can only have been meant as milliseconds.
    let seconds = if number > UnixSeconds::MAX.0 {
        number / 1000
    } else {
        number
    };
    if seconds > UnixSeconds::MAX.0 {
        return no_time(word);
    }
    WhenError::BareNumber {
        text: shown(word),
        seconds,
    }
}

fn in_range(seconds: i64, word: &str) -> Result<UnixSeconds, WhenError> {
    if (0..=UnixSeconds::MAX.0).contains(&seconds) {
        return Ok(UnixSeconds(seconds));
    }
    Err(WhenError::OutOfRange(shown(word)))
}

fn mediawiki(digits: &str) -> Result<NaiveDateTime, WhenError> {
    NaiveDateTime::parse_from_str(digits, "%Y%m%d%H%M%S")
        .map_err(|_| WhenError::NotInCalendar(shown(digits)))
}

/// A date with perhaps a time and an offset, as the digits say, before any calendar is asked.
struct Written {
    year: i32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    /// Seconds east of UTC.
    offset: Option<i32>,
    /// Seconds to add: for a fraction, and for the leap second `:60`.
    carry: i64,
}

impl Written {
    fn read(text: &str) -> Option<Written> {
        let mut rest = Cursor(text);
        let (year, month, day) = rest.date()?;
        let mut written = Written {
            year,
            month,
            day,
            hour: 0,
            minute: 0,
            second: 0,
            offset: None,
            carry: 0,
        };
        if rest.0.is_empty() {
            return Some(written);
        }
        rest.take(&['T', 't', ' '])?;
        (written.hour, written.minute, written.second, written.carry) = rest.time()?;
        if !rest.0.is_empty() {
            written.offset = Some(rest.offset()?);
        }
        Some(written)
    }

    fn local(&self) -> Option<NaiveDateTime> {
        NaiveDate::from_ymd_opt(self.year, self.month, self.day)?.and_hms_opt(
            self.hour,
            self.minute,
            self.second,
        )
    }
}

/// What is left to read.
struct Cursor<'a>(&'a str);

impl Cursor<'_> {
    /// Exactly `count` digits.
    fn digits(&mut self, count: usize) -> Option<u32> {
        let (head, tail) = self.0.split_at_checked(count)?;
        if !head.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        self.0 = tail;
        head.parse().ok()
    }

    /// `YYYY-MM-DD`.
    fn date(&mut self) -> Option<(i32, u32, u32)> {
        let year = i32::try_from(self.digits(4)?).ok()?;
        let month = self.then('-')?.digits(2)?;
        Some((year, month, self.then('-')?.digits(2)?))
    }

    /// `HH:MM[:SS[.fraction]]`: hour, minute, second, and how many seconds are to be added for a
    /// fraction and for the leap second `:60`.
    fn time(&mut self) -> Option<(u32, u32, u32, i64)> {
        let hour = self.digits(2)?;
        let minute = self.then(':')?.digits(2)?;
        if self.take(&[':']).is_none() {
            return Some((hour, minute, 0, 0));
        }
        let second = self.digits(2)?;
        let carry = self.fraction()?;
        match second {
            60 => Some((hour, minute, 59, carry + 1)),
            _ => Some((hour, minute, second, carry)),
        }
    }

    /// Exactly this character next.
    fn then(&mut self, wanted: char) -> Option<&mut Self> {
        self.take(&[wanted])?;
        Some(self)
    }

    fn take(&mut self, any_of: &[char]) -> Option<char> {
        let next = self.0.chars().next().filter(|next| any_of.contains(next))?;
        self.0 = &self.0[next.len_utf8()..];
        Some(next)
    }

    /// `.123`, or nothing: how many seconds it rounds up to.
    fn fraction(&mut self) -> Option<i64> {
        if self.take(&['.']).is_none() {
            return Some(0);
        }
        let length = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, tail) = self.0.split_at(length);
        self.0 = tail;
        (length > 0).then(|| i64::from(has_value(digits)))
    }

    /// `Z` or `±HH:MM`, and nothing after it.
    fn offset(&mut self) -> Option<i32> {
        let sign = match self.take(&['Z', 'z', '+', '-'])? {
            '+' => 1,
            '-' => -1,
            _ => return self.0.is_empty().then_some(0),
        };
        let hours = self.digits(2).filter(|hours| *hours < 24)?;
        let minutes = self.then(':')?.digits(2).filter(|minutes| *minutes < 60)?;
        let seconds = i32::try_from(hours * 3600 + minutes * 60).ok()?;
        self.0.is_empty().then_some(sign * seconds)
    }
}

fn resolve_local(local: NaiveDateTime, zone: &Zone) -> Result<i64, WhenError> {
    match zone.instants_of(local) {
        Instants::Once(at) => Ok(at.0),
        Instants::Twice { first, second } => Err(WhenError::Twice {
            local: plainly(local),
            zone: zone.clone(),
            first: reading(first, zone),
            second: reading(second, zone),
        }),
        Instants::Skipped { resumes } => Err(skipped(local, resumes, zone)),
    }
}

fn skipped(local: NaiveDateTime, resumes: UnixSeconds, zone: &Zone) -> WhenError {
    WhenError::Skipped {
        local: plainly(local),
        zone: zone.clone(),
        before: reading(UnixSeconds(resumes.0 - 1), zone),
        after: reading(resumes, zone),
    }
}

fn plainly(local: NaiveDateTime) -> String {
    let seconds = if local.second() == 0 { "" } else { ":%S" };
    local
        .format(&format!("%Y-%m-%d %H:%M{seconds}"))
        .to_string()
}

/// An instant as [`parse_time`] reads it back.
fn reading(at: UnixSeconds, zone: &Zone) -> String {
    let offset = zone.offset_at(at);
    // RFC 3339 has no seconds in its offsets; Liberia had, until 1972.
    if offset % 60 != 0 {
        let utc = Zone::utc().local_at(at);
        return format!("{}Z", utc.format("%Y-%m-%dT%H:%M:%S"));
    }
    let local = zone.local_at(at).format("%Y-%m-%dT%H:%M:%S");
    let sign = if offset < 0 { '-' } else { '+' };
    let minutes = offset.abs() / 60;
    format!("{local}{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

fn explain(error: &humantime::DurationError) -> String {
    match error {
        humantime::DurationError::Empty => "it is empty".to_owned(),
        humantime::DurationError::NumberOverflow => "it is too large or too fine".to_owned(),
        humantime::DurationError::UnknownUnit { unit, .. } if unit.is_empty() => {
            "a unit is missing".to_owned()
        }
        humantime::DurationError::UnknownUnit { unit, .. } => {
            format!("there is no unit `{}`", shown(unit))
        }
        _ => "it is not made of numbers with units".to_owned(),
    }
}

fn zone_hint(word: &str) -> String {
    let same_city = Zone::names().filter(|name| {
        let city = name.rsplit('/').next().unwrap_or(name);
        city.eq_ignore_ascii_case(word) || name.eq_ignore_ascii_case(word)
    });
    let mut near: Vec<&str> = same_city.take(1).collect();
    if near.is_empty() {
        near = nearest(word, Zone::names(), 3);
    }
    if near.is_empty() {
        return "; zones are named like Europe/Amsterdam or UTC".to_owned();
    }
    let names: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
    format!("; did you mean {}?", names.join(" or "))
}

#[cfg(test)]
mod tests;
