//! `[source.NAME]`: a query, and the events that its rows become. What the query may say is judged
//! where the dialect is known.

use std::collections::BTreeMap;
use std::time::Duration;

use super::schedule::{type_of, whole_seconds};
use super::section::Entry;
use super::{ConfigError, TypeConfig};
use crate::source::{MAX_ROWS, MAX_SQL_BYTES, Source, mistake_in_name};

const KEYS: [&str; 8] = [
    "sql", "type", "every", "horizon", "lead", "priority", "max_rows", "enabled",
];
const SECOND: Duration = Duration::from_secs(1);
const EVERY: u64 = 300;
const HORIZON: u64 = 3600;
/// Longer than anybody looks ahead, short enough to be added to any instant.
const LONGEST: u64 = 100 * 366 * 86_400;

/// Reads one table below `[source]`, and on which line its query stands.
pub(super) fn read(
    entry: &Entry<'_>,
    types: &BTreeMap<String, TypeConfig>,
) -> Result<(Source, usize), ConfigError> {
    if let Some(mistake) = mistake_in_name(entry.key) {
        return Err(entry.mistake(&mistake));
    }
    let section = entry.section()?;
    section.only(&KEYS, |key| {
        let is_key = ["key", "due_at", "due_at_mw", "payload"].contains(&key);
        is_key.then(|| "it is a column that `sql` gives; see README.md".to_owned())
    })?;
    let Some(sql) = section.get("sql") else {
        return Err(section.mistake("has no `sql`: the query that its events come from"));
    };
    if sql.text()?.len() > MAX_SQL_BYTES {
        let message = format!("is too long: {MAX_SQL_BYTES} bytes are allowed");
        return Err(sql.mistake(&message));
    }
    let seconds = |key: &str, least: Duration, default: u64| {
        let Some(entry) = section.get(key) else {
            return Ok(default);
        };
        let length = whole_seconds(&entry, section.duration(key, least)?)?;
        if length > LONGEST {
            return Err(entry.mistake("must be at most 100 years"));
        }
        Ok(length)
    };
    let every = seconds("every", SECOND, EVERY)?;
    let horizon = seconds("horizon", SECOND, HORIZON.max(every))?;
    if let Some(entry) = section.get("horizon").filter(|_| horizon < every) {
        return Err(entry.mistake(
            "must be at least as long as `every`: what becomes due between two looks would be late",
        ));
    }
    let source = Source {
        sql: sql.filled()?.to_owned(),
        type_name: type_of(&section, types)?,
        every,
        horizon,
        lead: seconds("lead", Duration::ZERO, 0)?,
        priority: section.number("priority", -2..=2)?.unwrap_or(0),
        max_rows: section
            .number("max_rows", 1..=1_000_000_000_000)?
            .unwrap_or(MAX_ROWS),
        enabled: section.flag("enabled")?.unwrap_or(true),
    };
    Ok((source, sql.line()))
}
