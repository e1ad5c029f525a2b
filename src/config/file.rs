//! The file as a whole: the keys above the first table, and `[run]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::url::Url;

use super::section::{Document, Entry, Section};
use super::url::{self, DatabaseUrl};
use super::{ConfigError, RunConfig, TypeConfig, event_type, schedule, source};
use crate::schedule::Schedule;
use crate::source::Source;
use crate::when::parse_zone;
use crate::zone::Zone;

const TOP: [&str; 9] = [
    "database",
    "password_file",
    "table_prefix",
    "timezone",
    "state_dir",
    "run",
    "type",
    "schedule",
    "source",
];
const RUN: [&str; 12] = [
    "max_time",
    "linger",
    "poll",
    "max_events",
    "batch_size",
    "history",
    "history_failed",
    "history_rows",
    "lease_ttl",
    "grace",
    "ping",
    "allow_network_fs",
];
/// A run that lingers wakes at least this often: its connection and its lease must not lapse.
const RAREST_POLL: Duration = Duration::from_secs(15);
const MIN_POLL: Duration = Duration::from_millis(100);
const MIN_LINGER: Duration = Duration::from_secs(1);
/// Leaves room for the longest of our own names within MySQL's 64 characters.
const MAX_PREFIX: usize = 24;
/// The shortest lease: a third of it must still be longer than a slow commit (RULINGS 13).
const MIN_LEASE: Duration = Duration::from_secs(6);

/// What a file says, each part `None` where it says nothing.
#[derive(Debug, Default)]
pub(super) struct FileSettings {
    pub(super) database: Option<FileDatabase>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) table_prefix: Option<String>,
    pub(super) timezone: Option<Zone>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) run: RunConfig,
    pub(super) types: BTreeMap<String, TypeConfig>,
    pub(super) schedules: BTreeMap<String, Schedule>,
    pub(super) sources: BTreeMap<String, Source>,
    pub(super) source_lines: BTreeMap<String, usize>,
}

/// `database`, and how a message names its place.
#[derive(Debug)]
pub(super) struct FileDatabase {
    pub(super) url: DatabaseUrl,
    pub(super) place: String,
}

/// Reads the whole text. `shown` is the file's name in messages, `base` its directory.
pub(super) fn read(shown: &str, text: &str, base: &Path) -> Result<FileSettings, ConfigError> {
    let document = Document { shown, text, base };
    let parsed = document.parse()?;
    let top = Section::top(&document, parsed.get_ref());
    top.only(&TOP, |key| {
        RUN.contains(&key)
            .then(|| "it belongs below [run]".to_owned())
    })?;
    let timezone = top.get("timezone").map(|entry| zone(&entry)).transpose()?;
    let types = match top.get("type") {
        Some(entry) => types(&entry.section()?, base)?,
        None => BTreeMap::new(),
    };
    let schedules = match top.get("schedule") {
        Some(entry) => schedules(&entry.section()?, &types, timezone.as_ref())?,
        None => BTreeMap::new(),
    };
    let mut sources = BTreeMap::new();
    let mut source_lines = BTreeMap::new();
    if let Some(entry) = top.get("source") {
        for entry in entry.section()?.entries() {
            let (source, line) = source::read(&entry, &types)?;
            sources.insert(entry.key.to_owned(), source);
            source_lines.insert(entry.key.to_owned(), line);
        }
    }
    Ok(FileSettings {
        database: top
            .get("database")
            .map(|entry| database(&entry, base))
            .transpose()?,
        password_file: top.path("password_file")?,
        table_prefix: top
            .get("table_prefix")
            .map(|entry| prefix(&entry))
            .transpose()?,
        timezone,
        state_dir: top.path("state_dir")?,
        run: match top.get("run") {
            Some(entry) => run(&entry.section()?)?,
            None => RunConfig::default(),
        },
        types,
        schedules,
        sources,
        source_lines,
    })
}

/// The rule for `table_prefix`, which becomes part of SQL.
pub(super) fn check_prefix(prefix: &str) -> Result<(), String> {
    let plain = prefix
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if plain && prefix.len() <= MAX_PREFIX {
        return Ok(());
    }
    Err(format!(
        "must be up to {MAX_PREFIX} ASCII letters, digits and `_`"
    ))
}

/// A web address of a handler or of `ping`. Names and passwords in it would reach messages and
/// logs, so they have no place there; `instead` says where they have one.
pub(super) fn web_url(entry: &Entry<'_>, instead: &str) -> Result<String, ConfigError> {
    let text = entry.filled()?;
    let url = Url::parse(text).map_err(|error| entry.mistake(&format!("is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(entry.mistake("must start with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(entry.mistake(&format!("must not hold a user or a password; {instead}")));
    }
    Ok(text.to_owned())
}

fn database(entry: &Entry<'_>, base: &Path) -> Result<FileDatabase, ConfigError> {
    let refuse = |error: String| entry.mistake(&format!("is wrong: {error}"));
    let url = url::parse(entry.text()?, base).map_err(refuse)?;
    let place = entry.mistake("is wrong").to_string();
    Ok(FileDatabase { url, place })
}

/// A table prefix.
pub(super) fn prefix(entry: &Entry<'_>) -> Result<String, ConfigError> {
    let text = entry.text()?;
    check_prefix(text).map_err(|error| entry.mistake(&error))?;
    Ok(text.to_owned())
}

fn zone(entry: &Entry<'_>) -> Result<Zone, ConfigError> {
    parse_zone(entry.text()?).map_err(|error| entry.mistake(&format!("is wrong: {error}")))
}

fn poll(section: &Section<'_>) -> Result<Option<Duration>, ConfigError> {
    let poll = section.duration("poll", MIN_POLL)?;
    match section.get("poll") {
        Some(entry) if poll > Some(RAREST_POLL) => Err(entry.mistake("must be at most 15s")),
        _ => Ok(poll),
    }
}

fn run(section: &Section<'_>) -> Result<RunConfig, ConfigError> {
    section.only(&RUN, |key| {
        TOP.contains(&key)
            .then(|| "it belongs above the first [table]".to_owned())
    })?;
    let default = RunConfig::default();
    let ping = section.get("ping");
    let ping = ping.map(|entry| web_url(&entry, "use an address with a token in its path"));
    Ok(RunConfig {
        max_time: section
            .limit("max_time", default.max_time)?
            .filter(|limit| !limit.is_zero()),
        linger: section
            .duration("linger", MIN_LINGER)?
            .unwrap_or(default.linger),
        poll: poll(section)?.unwrap_or(default.poll),
        max_events: section.number("max_events", 1..=1_000_000_000)?,
        batch_size: section
            .number("batch_size", 1..=1000)?
            .unwrap_or(default.batch_size),
        history: section
            .duration("history", Duration::ZERO)?
            .unwrap_or(default.history),
        history_failed: section
            .duration("history_failed", Duration::ZERO)?
            .unwrap_or(default.history_failed),
        history_rows: section.number("history_rows", 0..=1_000_000_000_000)?,
        lease_ttl: section
            .duration("lease_ttl", MIN_LEASE)?
            .unwrap_or(default.lease_ttl),
        grace: section
            .duration("grace", Duration::ZERO)?
            .unwrap_or(default.grace),
        ping: ping.transpose()?,
        allow_network_fs: section
            .flag("allow_network_fs")?
            .unwrap_or(default.allow_network_fs),
    })
}

fn types(section: &Section<'_>, base: &Path) -> Result<BTreeMap<String, TypeConfig>, ConfigError> {
    let mut types = BTreeMap::new();
    for entry in section.entries() {
        types.insert(entry.key.to_owned(), event_type::read(&entry, base)?);
    }
    Ok(types)
}

fn schedules(
    section: &Section<'_>,
    types: &BTreeMap<String, TypeConfig>,
    zone: Option<&Zone>,
) -> Result<BTreeMap<String, Schedule>, ConfigError> {
    let utc = Zone::utc();
    let mut schedules = BTreeMap::new();
    for entry in section.entries() {
        let schedule = schedule::read(&entry, types, zone.unwrap_or(&utc))?;
        schedules.insert(entry.key.to_owned(), schedule);
    }
    Ok(schedules)
}
