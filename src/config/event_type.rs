//! `[type.NAME]`: one handler and one policy.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::file::{prefix, web_url};
use super::section::{Entry, Section};
use super::{
    CommandConfig, ConfigError, HandlerConfig, HttpConfig, JobConfig, Late, Mode, Secret,
    SqlConfig, SweepConfig, TypeConfig,
};
use crate::event::MAX_TYPE_BYTES;

const HANDLERS: [&str; 4] = ["command", "http", "sql", "mediawiki-job"];
/// What every type may say.
const COMMON: [&str; 13] = [
    "handler",
    "retries",
    "backoff",
    "backoff_max",
    "weight",
    "rate",
    "max_late",
    "late",
    "guard",
    "max_losses",
    "max_deferrals",
    "breaker",
    "breaker_probe",
];
const COMMAND: [&str; 9] = [
    "command",
    "mode",
    "cwd",
    "env",
    "pass_env",
    "timeout",
    "grace",
    "concurrency",
    "at_most_once",
];
const HTTP: [&str; 8] = [
    "url",
    "method",
    "headers",
    "expect",
    "ca_file",
    "timeout",
    "concurrency",
    "at_most_once",
];
const SQL: [&str; 6] = [
    "sql",
    "repeat_until_empty",
    "chunk_pause",
    "timeout",
    "lag",
    "max_lag",
];
const MEDIAWIKI_JOB: [&str; 3] = ["job_table_prefix", "queues", "job_database"];
/// What only a sweep may say.
const SWEEP: [&str; 4] = ["chunk_pause", "timeout", "lag", "max_lag"];
const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "DELETE", "GET"];
const MAX_CONCURRENCY: usize = 64;
const MOMENT: Duration = Duration::from_millis(1);

/// Reads one table below `[type]`.
pub(super) fn read(entry: &Entry<'_>, base: &Path) -> Result<TypeConfig, ConfigError> {
    if !(1..=MAX_TYPE_BYTES).contains(&entry.key.len()) {
        return Err(entry.mistake(&format!("is no type name: 1 to {MAX_TYPE_BYTES} bytes")));
    }
    let section = entry.section()?;
    let handler = handler(&section)?;
    let at_most_once = section.flag("at_most_once")?.unwrap_or(false);
    let handler = match handler {
        "command" => HandlerConfig::Command(command(&section, base, at_most_once)?),
        "http" => HandlerConfig::Http(http(&section)?),
        "sql" => HandlerConfig::Sql(sql(&section)?),
        _ => HandlerConfig::MediawikiJob(mediawiki_job(&section)?),
    };
    let default = TypeConfig::new(entry.key, handler);
    let (backoff, backoff_max) = backoff(&section, &default)?;
    let (max_late, late) = lateness(&section)?;
    Ok(TypeConfig {
        retries: section
            .number("retries", 0..=1000)?
            .unwrap_or(default.retries),
        backoff,
        backoff_max,
        timeout: section
            .duration("timeout", MOMENT)?
            .unwrap_or(default.timeout),
        grace: section
            .duration("grace", Duration::ZERO)?
            .unwrap_or(default.grace),
        concurrency: section
            .number("concurrency", 1..=MAX_CONCURRENCY)?
            .unwrap_or(default.concurrency),
        weight: section.number("weight", 1..=100)?.unwrap_or(default.weight),
        rate: section.number("rate", 1..=1_000_000)?,
        max_late,
        late,
        guard: section
            .get("guard")
            .map(|entry| statement(&entry))
            .transpose()?,
        max_losses: section
            .number("max_losses", 0..=1000)?
            .unwrap_or(default.max_losses),
        max_deferrals: section
            .number("max_deferrals", 1..=1_000_000)?
            .unwrap_or(default.max_deferrals),
        breaker: section
            .number("breaker", 0..=1_000_000)?
            .or(default.breaker)
            .filter(|failures| *failures > 0),
        breaker_probe: section
            .duration("breaker_probe", MOMENT)?
            .unwrap_or(default.breaker_probe),
        at_most_once,
        sql_lines: ["sql", "guard", "lag"]
            .into_iter()
            .filter_map(|key| Some((key, section.get(key)?.line())))
            .collect(),
        ..default
    })
}

/// Which handler, once every key is one of its own.
fn handler<'a>(section: &Section<'_>) -> Result<&'a str, ConfigError> {
    let every: Vec<&str> = [&COMMON[..], &COMMAND, &HTTP, &SQL, &MEDIAWIKI_JOB].concat();
    // A misspelt `handler` is better named as such than as missing.
    section.only(&every, |_| None)?;
    let Some(index) = section.word("handler", &HANDLERS)? else {
        return Err(section.mistake(
            "has no `handler`: write handler = \"command\", \"http\", \"sql\" or \"mediawiki-job\"",
        ));
    };
    let (handler, own) = match index {
        0 => ("command", &COMMAND[..]),
        1 => ("http", &HTTP[..]),
        2 => ("sql", &SQL[..]),
        _ => ("mediawiki-job", &MEDIAWIKI_JOB[..]),
    };
    let foreign = |entry: &Entry<'_>| !COMMON.contains(&entry.key) && !own.contains(&entry.key);
    match section.entries().find(foreign) {
        Some(entry) => Err(entry.mistake(&foreign_key(entry.key, handler))),
        None => Ok(handler),
    }
}

fn foreign_key(key: &str, handler: &str) -> String {
    let why = match (handler, key) {
        ("sql" | "mediawiki-job", "at_most_once") => "; it is exactly once already",
        ("sql", "timeout") => {
            " unless it says `repeat_until_empty`; it runs within the run's own transaction"
        }
        ("sql", "concurrency" | "grace")
        | ("mediawiki-job", "concurrency" | "grace" | "timeout") => {
            "; it runs within the run's own transaction"
        }
        (_, "repeat_until_empty" | "chunk_pause" | "lag" | "max_lag") => {
            "; a sweep is made of SQL statements"
        }
        _ => "",
    };
    format!("does not apply to handler = \"{handler}\"{why}; leave it out")
}

fn backoff(
    section: &Section<'_>,
    default: &TypeConfig,
) -> Result<(Duration, Duration), ConfigError> {
    let first = section
        .duration("backoff", Duration::ZERO)?
        .unwrap_or(default.backoff);
    // A first delay beyond the default cap lifts the cap; beyond a stated one it is a mistake.
    let longest = section.duration("backoff_max", Duration::ZERO)?;
    match (section.get("backoff_max"), longest) {
        (Some(entry), Some(longest)) if longest < first => {
            let first = humantime::format_duration(first);
            Err(entry.mistake(&format!("must not be shorter than `backoff` ({first})")))
        }
        (_, longest) => Ok((first, longest.unwrap_or(first.max(default.backoff_max)))),
    }
}

fn lateness(section: &Section<'_>) -> Result<(Option<Duration>, Late), ConfigError> {
    let max_late = section.limit("max_late", None)?;
    let late = match section.word("late", &["fire", "skip"])? {
        Some(1) => Late::Skip,
        _ => Late::Fire,
    };
    match section.get("late") {
        Some(entry) if late == Late::Skip && max_late.is_none() => {
            Err(entry.mistake("is \"skip\" without `max_late`: say from when on it is late"))
        }
        _ => Ok((max_late, late)),
    }
}

fn command(
    section: &Section<'_>,
    base: &Path,
    at_most_once: bool,
) -> Result<CommandConfig, ConfigError> {
    let mode = match section.word("mode", &["each", "batch"])? {
        Some(1) => Mode::Batch,
        _ => Mode::Each,
    };
    if let Some(entry) = section.get("at_most_once").filter(|_| at_most_once)
        && mode == Mode::Batch
    {
        return Err(entry.mistake(
            "does not go with mode = \"batch\": a process that dies takes many events with it",
        ));
    }
    Ok(CommandConfig {
        argv: argv(section, base)?,
        mode,
        cwd: section.path("cwd")?.unwrap_or_else(|| base.to_path_buf()),
        env: match section.get("env") {
            Some(entry) => variables(&entry.section()?)?,
            None => BTreeMap::new(),
        },
        pass_env: match section.get("pass_env") {
            Some(entry) => variable_names(&entry)?,
            None => Vec::new(),
        },
    })
}

fn argv(section: &Section<'_>, base: &Path) -> Result<Vec<String>, ConfigError> {
    const EXAMPLE: &str = "command = [\"php\", \"maintenance/send.php\"]";
    let Some(entry) = section.get("command") else {
        return Err(section.mistake(&format!("has no `command`: write {EXAMPLE}")));
    };
    if entry.is_text() {
        return Err(entry.mistake(&format!("must be a list, not one text: {EXAMPLE}")));
    }
    let mut argv = entry.texts()?;
    if argv.first().is_none_or(|program| program.trim().is_empty()) {
        return Err(entry.mistake(&format!("must name a program: {EXAMPLE}")));
    }
    if argv.iter().any(|word| word.contains('\0')) {
        return Err(entry.mistake("must not hold a NUL character"));
    }
    // A program with a slash is found from the file's directory, wherever `cwd` leads.
    if argv[0].contains('/') {
        argv[0] = base.join(&argv[0]).to_string_lossy().into_owned();
    }
    Ok(argv)
}

fn variables(section: &Section<'_>) -> Result<BTreeMap<String, String>, ConfigError> {
    let variable = |entry: Entry<'_>| {
        let value = entry.text()?;
        if !is_variable_name(entry.key) || value.contains('\0') {
            return Err(entry.mistake("is no environment variable: NAME = \"value\""));
        }
        Ok((entry.key.to_owned(), value.to_owned()))
    };
    section.entries().map(variable).collect()
}

fn variable_names(entry: &Entry<'_>) -> Result<Vec<String>, ConfigError> {
    let names = entry.texts()?;
    if names.iter().all(|name| is_variable_name(name)) {
        return Ok(names);
    }
    Err(entry.mistake("must hold names of environment variables, such as \"LANG\""))
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

fn http(section: &Section<'_>) -> Result<HttpConfig, ConfigError> {
    let Some(url) = section.get("url") else {
        return Err(section.mistake("has no `url`: write url = \"https://example.org/hook\""));
    };
    let method = section
        .word("method", &METHODS)?
        .map_or("POST", |index| METHODS[index]);
    let expect = section.get("expect");
    let expect = expect.map(|entry| match entry.numbers(&(200..=599)) {
        Ok(statuses) if statuses.is_empty() => Err(entry.mistake("must not be empty")),
        statuses => statuses,
    });
    Ok(HttpConfig {
        url: web_url(&url, "put them into `headers` as Authorization")?,
        method: method.to_owned(),
        headers: match section.get("headers") {
            Some(entry) => headers(&entry.section()?)?,
            None => BTreeMap::new(),
        },
        expect: expect.transpose()?.unwrap_or_default(),
        ca_file: section.path("ca_file")?,
    })
}

fn headers(section: &Section<'_>) -> Result<BTreeMap<String, Secret>, ConfigError> {
    let header = |entry: Entry<'_>| {
        let value = entry.text()?;
        if !is_header_name(entry.key) || value.chars().any(char::is_control) {
            return Err(entry.mistake("is no HTTP header: Name = \"value\", in one line"));
        }
        Ok((entry.key.to_owned(), Secret::new(value)))
    };
    section.entries().map(header).collect()
}

/// A token of RFC 9110, 5.6.2.
fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn mediawiki_job(section: &Section<'_>) -> Result<JobConfig, ConfigError> {
    let mut queues = BTreeMap::new();
    if let Some(entry) = section.get("queues") {
        for entry in entry.section()?.entries() {
            queues.insert(entry.key.to_owned(), entry.filled()?.to_owned());
        }
    }
    let table_prefix = section.get("job_table_prefix");
    let database = section.get("job_database");
    let database = database.map(|entry| entry.filled().map(str::to_owned));
    Ok(JobConfig {
        table_prefix: table_prefix.map(|entry| prefix(&entry)).transpose()?,
        queues,
        database: database.transpose()?,
    })
}

fn sql(section: &Section<'_>) -> Result<SqlConfig, ConfigError> {
    const EXAMPLE: &str = "sql = [\"UPDATE … WHERE id = :p.id\"]";
    let Some(entry) = section.get("sql") else {
        return Err(section.mistake(&format!("has no `sql`: write {EXAMPLE}")));
    };
    let sweep = sweep(section)?;
    if entry.is_text() {
        return Ok(SqlConfig {
            statements: vec![statement(&entry)?],
            sweep,
        });
    }
    let statements = entry.texts()?;
    if statements.is_empty() {
        return Err(entry.mistake(&format!("must hold a statement: {EXAMPLE}")));
    }
    for text in &statements {
        check_statement(&entry, text)?;
    }
    Ok(SqlConfig { statements, sweep })
}

/// `repeat_until_empty` and what goes with it.
fn sweep(section: &Section<'_>) -> Result<Option<SweepConfig>, ConfigError> {
    if section.flag("repeat_until_empty")? != Some(true) {
        let stray = SWEEP.iter().find_map(|key| section.get(key));
        return match stray {
            Some(entry) if entry.key == "timeout" => {
                Err(entry.mistake(&foreign_key("timeout", "sql")))
            }
            Some(entry) => Err(entry.mistake("goes with `repeat_until_empty = true` only")),
            None => Ok(None),
        };
    }
    if let Some(entry) = section.get("rate") {
        return Err(entry.mistake(
            "does not go with `repeat_until_empty`: it counts events, and one event is a whole \
             sweep; say `chunk_pause`",
        ));
    }
    let default = SweepConfig::default();
    let lag = section.get("lag").map(|entry| statement(&entry));
    let max_lag = section.duration("max_lag", Duration::ZERO)?;
    match section.get("max_lag") {
        Some(entry) if lag.is_none() => {
            return Err(entry.mistake("goes with `lag`: a SELECT of how far replicas are behind"));
        }
        _ => {}
    }
    Ok(Some(SweepConfig {
        chunk_pause: section
            .duration("chunk_pause", Duration::ZERO)?
            .unwrap_or(default.chunk_pause),
        timeout: section.duration("timeout", MOMENT)?,
        lag: lag.transpose()?,
        max_lag: max_lag.unwrap_or(default.max_lag),
    }))
}

fn statement(entry: &Entry<'_>) -> Result<String, ConfigError> {
    let text = entry.text()?;
    check_statement(entry, text)?;
    Ok(text.to_owned())
}

/// Every SQL text of the file passes here, `guard` included. What a statement may say is judged
/// by the handler that runs it.
fn check_statement(entry: &Entry<'_>, text: &str) -> Result<(), ConfigError> {
    if text.trim().is_empty() {
        return Err(entry.mistake("must not hold an empty statement"));
    }
    Ok(())
}
