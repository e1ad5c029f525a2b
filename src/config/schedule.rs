//! `[schedule.NAME]`: a rule, and the event that each of its slots becomes. Depends on nothing but
//! the file, so that it means the same to every run and every shell.

use std::collections::BTreeMap;
use std::time::Duration;

use super::section::{Entry, Section};
use super::{ConfigError, TypeConfig};
use crate::clock::UnixSeconds;
use crate::nearest::did_you_mean;
use crate::schedule::{
    From, MAX_RULE_BYTES, MISSED_MAX, MOST_MISSED, Missed, Schedule, mistake_in_name, too_often,
};
use crate::when::{parse_time, parse_zone};
use crate::zone::Zone;

const KEYS: [&str; 15] = [
    "cron",
    "every",
    "anchor",
    "timezone",
    "type",
    "payload",
    "priority",
    "missed",
    "missed_max",
    "missed_window",
    "start",
    "end",
    "jitter",
    "enabled",
    "key",
];
const SECOND: Duration = Duration::from_secs(1);

/// Reads one table below `[schedule]`; `zone` is the file's own.
pub(super) fn read(
    entry: &Entry<'_>,
    types: &BTreeMap<String, TypeConfig>,
    zone: &Zone,
) -> Result<Schedule, ConfigError> {
    if let Some(mistake) = mistake_in_name(entry.key) {
        return Err(entry.mistake(&mistake));
    }
    let section = entry.section()?;
    section.only(&KEYS[..14], |key| {
        let is_key = key == "key";
        is_key.then(|| "each slot is an event of its own; see README.md".to_owned())
    })?;
    let named = section.get("timezone");
    let zone = match &named {
        Some(entry) => parse_zone(entry.text()?)
            .map_err(|error| entry.mistake(&format!("is wrong: {error}")))?,
        None => zone.clone(),
    };
    let instant = |key: &str| section.get(key).map(|at| time(&at, &zone)).transpose();
    let (cron, every, anchor) = (
        section.get("cron"),
        section.get("every"),
        instant("anchor")?,
    );
    let missed = match section.word("missed", &Missed::WORDS)? {
        Some(1) => Missed::Skip,
        Some(2) => Missed::All,
        _ => Missed::Once,
    };
    let rule = match (&cron, &every) {
        (Some(rule), None) | (None, Some(rule)) => rule,
        (Some(_), Some(every)) => return Err(every.mistake("does not go with `cron`")),
        (None, None) => {
            return Err(section.mistake("has no rule: write `cron`, or `every` and `anchor`"));
        }
    };
    match (&every, section.get("anchor")) {
        (None, Some(entry)) => return Err(entry.mistake("goes with `every` only")),
        (Some(every), None) => {
            return Err(every.mistake("needs `anchor`: an instant that is one of the slots"));
        }
        _ => {}
    }
    let missed_max = section.number("missed_max", 1..=MOST_MISSED)?;
    if let Some(entry) = section.get("missed_max").filter(|_| missed != Missed::All) {
        return Err(entry.mistake("goes with missed = \"all\" only"));
    }
    let seconds = |key: &str, least| {
        let length = section.duration(key, least)?;
        Ok::<_, ConfigError>(length.map(|length| length.as_secs()))
    };
    let every_seconds = match &every {
        Some(entry) => Some(whole_seconds(entry, section.duration("every", SECOND)?)?),
        None => None,
    };
    let (start, end) = (instant("start")?, instant("end")?);
    let schedule = Schedule {
        from: From::Config,
        cron: cron
            .as_ref()
            .map(Entry::text)
            .transpose()?
            .map(str::to_owned),
        timezone: cron.as_ref().map(|_| zone.name().to_owned()),
        every: every_seconds,
        anchor: anchor.map(|at| at.0),
        type_name: type_of(&section, types)?,
        payload: section
            .get("payload")
            .map(|payload| payload.json())
            .transpose()?,
        priority: section.number("priority", -2..=2)?.unwrap_or(0),
        missed,
        missed_max: (missed == Missed::All).then(|| missed_max.unwrap_or(MISSED_MAX)),
        missed_window: seconds("missed_window", Duration::ZERO)?,
        start: start.map(|at| at.0),
        end: end.map(|at| at.0),
        jitter: seconds("jitter", Duration::ZERO)?.filter(|longest| *longest > 0),
        enabled: section.flag("enabled")?.unwrap_or(true),
    };
    let slots = schedule
        .recurrence()
        .map_err(|error| rule.mistake(&format!("is wrong: {error}")))?;
    let rate = types.get(&schedule.type_name).and_then(|found| found.rate);
    if let Some(mistake) = too_often(&slots, rate) {
        return Err(rule.mistake(&mistake));
    }
    if slots.next_after(UnixSeconds(-1)).is_none() {
        return Err(section.mistake("has no slot at all between its `start` and its `end`"));
    }
    if schedule.to_json().len() > MAX_RULE_BYTES {
        return Err(section.mistake(&format!(
            "is too large: its payload and all else may have {MAX_RULE_BYTES} bytes"
        )));
    }
    Ok(schedule)
}

pub(super) fn type_of(
    section: &Section<'_>,
    types: &BTreeMap<String, TypeConfig>,
) -> Result<String, ConfigError> {
    let Some(entry) = section.get("type") else {
        return Err(section.mistake("has no `type`: the type of its events"));
    };
    let name = entry.filled()?;
    if types.contains_key(name) {
        return Ok(name.to_owned());
    }
    let near = did_you_mean(name, types.keys().map(String::as_str));
    Err(entry.mistake(&format!("names no [type.…] of this file{near}")))
}

pub(super) fn whole_seconds(
    entry: &Entry<'_>,
    length: Option<Duration>,
) -> Result<u64, ConfigError> {
    match length {
        Some(length) if length.subsec_nanos() == 0 => Ok(length.as_secs()),
        _ => Err(entry.mistake("must be whole seconds")),
    }
}

/// An instant that is the same whenever it is read.
fn time(entry: &Entry<'_>, zone: &Zone) -> Result<UnixSeconds, ConfigError> {
    let text = entry.date()?;
    if text.trim().eq_ignore_ascii_case("now") {
        return Err(entry.mistake("must be a fixed time, not `now`"));
    }
    parse_time(&text, zone, UnixSeconds(0))
        .map_err(|error| entry.mistake(&format!("is wrong: {error}")))
}
