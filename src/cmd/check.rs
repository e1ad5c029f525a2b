//! `check`: one line for a monitoring system, after the plugin guidelines that Nagios, Icinga and
//! their like follow. Costs the same whatever the backlog.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;

use super::holder::Holder;
use super::output::{escape, shorten};
use super::schedules::AHEAD;
use super::{Context, one_line};
use crate::cli::CheckArgs;
use crate::clock::UnixSeconds;
use crate::db::{Access, DbError, DbErrorKind};
use crate::error::{Exit, exit_of};
use crate::event::MAX_TYPE_BYTES;
use crate::store::Store;
use crate::store::peek::TypeState;
use crate::store::report::{COUNTED_AT_MOST, Unresolved};
use crate::when::format_duration;

/// An idle tick leaves its stamp every five minutes at most, and cron may be late.
const TICK_SLACK: Duration = Duration::from_mins(10);
/// Types named in a line.
const NAMED: usize = 5;

/// What a plugin says and exits with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
            Level::Unknown => "UNKNOWN",
        }
    }
}

/// `punctual check`. Every failure is an answer.
///
/// # Errors
/// Writing.
pub fn main(context: &Context, args: &CheckArgs) -> anyhow::Result<u8> {
    let (level, text, found) = match look(context, args) {
        Ok(found) => {
            let (level, text) = found.judged(args);
            (level, text, Some(found))
        }
        Err(error) => (level_of(&error), one_line(&error), None),
    };
    if context.json {
        context.out.json(&object(level, &text, found.as_ref()))?;
    } else {
        context.out.line(line(level, &text))?;
    }
    Ok(level as u8)
}

/// What `--json` prints; the numbers are null where nothing could be counted.
fn object(level: Level, text: &str, found: Option<&Found>) -> serde_json::Value {
    // The numbers behind the bar have keys of their own.
    let said = match found {
        Some(_) => text.split(" | ").next().unwrap_or(text),
        None => text,
    };
    json!({
        "level": level.word(), "code": level as u8, "message": said,
        "lag_s": found.map(|found| found.lag), "due": found.map(|found| found.due),
        "unresolved_dead": found.map(|found| found.dead),
        "unresolved_unknown": found.map(|found| found.unknown),
    })
}

/// The answer where there is nothing to look at: a wrong command line or configuration.
pub fn unknown(why: &str) -> u8 {
    let text = line(Level::Unknown, why);
    // A plugin has nobody else to tell.
    let _ = writeln!(io::stdout(), "{text}");
    Level::Unknown as u8
}

fn line(level: Level, text: &str) -> String {
    format!("PUNCTUAL {} - {}", level.word(), escape(text))
}

/// Trouble with the database is critical; what a person must set right here is not known to be.
fn level_of(error: &anyhow::Error) -> Level {
    let said_by_database = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<DbError>());
    match (exit_of(error), said_by_database) {
        (Exit::Configuration, Some(error)) if error.kind == DbErrorKind::NotADatabase => {
            Level::Critical
        }
        (Exit::Usage | Exit::Bug | Exit::Configuration, _) | (Exit::Permission, None) => {
            Level::Unknown
        }
        _ => Level::Critical,
    }
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    /// Seconds.
    lag: i64,
    due: i64,
    dead: i64,
    unknown: i64,
    /// Types with due events and no handler.
    unhandled: Vec<String>,
    /// Types whose breaker is open.
    open: Vec<String>,
    misfits: i64,
    /// Schedules that a clock which was ahead has silenced.
    ahead: Vec<String>,
    /// Sources whose query fails.
    failing: Vec<String>,
    /// Seconds since a run last looked or worked; `None`: none ever did.
    quiet: Option<i64>,
}

fn look(context: &Context, args: &CheckArgs) -> anyhow::Result<Found> {
    if args.warn_lag > args.crit_lag {
        let message = "--warn-lag must not be longer than --crit-lag";
        return Err(crate::error::Failure::usage(message).into());
    }
    let mut store = context.open(Access::Read)?;
    let now = store.now()?;
    let states: BTreeMap<String, TypeState> = store
        .type_states()?
        .into_iter()
        .map(|state| (state.type_name.clone(), state))
        .collect();
    let paused = |name: &str| {
        let until = states.get(name).and_then(|state| state.paused_until);
        until.is_some_and(|until| until > now)
    };
    let mut found = Found::default();
    for name in context.config.types.keys() {
        if let Some(oldest) = oldest_due(&mut store, name, now)?
            && !paused(name)
        {
            found.lag = found.lag.max(now.since(oldest));
        }
        let open = states.get(name).and_then(|state| state.open_until);
        if open.is_some_and(|until| until > now) {
            found.open.push(name.clone());
        }
    }
    for name in store.unhandled_types(&|name| context.config.types.contains_key(name))? {
        if !paused(&name) && oldest_due(&mut store, &name, now)?.is_some() {
            found.unhandled.push(name);
        }
    }
    found.due = store.some_due(now)?;
    let Unresolved { dead, unknown } = store.some_unresolved()?;
    (found.dead, found.unknown) = (dead, unknown);
    found.misfits = store.misfits()?.count + store.misfit_priorities()?.count;
    found.ahead = store.schedules_ahead(UnixSeconds(now.0 + AHEAD), NAMED + 1)?;
    if !context.config.sources.is_empty() {
        found.failing = store.failing_sources(NAMED + 1)?;
    }
    found.quiet = quiet(context, &mut store, now)?;
    Ok(found)
}

fn oldest_due(
    store: &mut Store,
    name: &str,
    now: UnixSeconds,
) -> anyhow::Result<Option<UnixSeconds>> {
    Ok(store.due_levels(name, now)?.into_iter().flatten().min())
}

/// A run that takes long is a sign of life as well.
fn quiet(context: &Context, store: &mut Store, now: UnixSeconds) -> anyhow::Result<Option<i64>> {
    let lease = store.lease_row()?;
    if Holder::of(&context.config, store, lease.as_ref(), now)?.is_some() {
        return Ok(Some(0));
    }
    Ok(lease
        .and_then(|lease| lease.last_tick_at)
        .map(|at| now.since(at)))
}

impl Found {
    fn judged(&self, args: &CheckArgs) -> (Level, String) {
        let (warn, crit) = (whole(args.warn_lag), whole(args.crit_lag));
        let complaints = self.complaints(whole(args.warn_lag + TICK_SLACK));
        let level = match self.lag {
            lag if lag >= crit && lag > 0 => Level::Critical,
            lag if lag >= warn && lag > 0 => Level::Warning,
            _ if !complaints.is_empty() => Level::Warning,
            _ => Level::Ok,
        };
        let mut parts = vec![
            format!("lag {}", format_duration(self.lag)),
            format!("{} due", counted(self.due)),
        ];
        parts.extend(complaints);
        let data = format!(
            "lag={}s;{warn};{crit} due={} dead={} unknown={}",
            self.lag, self.due, self.dead, self.unknown
        );
        (level, format!("{} | {data}", parts.join(", ")))
    }

    /// Everything that warns beside lag.
    fn complaints(&self, longest_quiet: i64) -> Vec<String> {
        let mut all = Vec::new();
        for (count, word) in [(self.dead, "dead"), (self.unknown, "unknown")] {
            if count > 0 {
                all.push(format!("{} {word} unresolved", counted(count)));
            }
        }
        if !self.unhandled.is_empty() {
            all.push(format!("no handler for {}", named(&self.unhandled)));
        }
        if !self.open.is_empty() {
            all.push(format!("failing and left alone: {}", named(&self.open)));
        }
        if self.misfits > 0 {
            let rows = counted(self.misfits);
            all.push(format!("{rows} rows no run can fire (see `punctual list`)"));
        }
        if !self.ahead.is_empty() {
            all.push(format!(
                "silent since the clock was ahead, `punctual schedules resume`: {}",
                named(&self.ahead)
            ));
        }
        if !self.failing.is_empty() {
            all.push(format!(
                "failing query, `punctual sources list`: {}",
                named(&self.failing)
            ));
        }
        match self.quiet {
            Some(quiet) if quiet > longest_quiet => {
                all.push(format!("no run for {}", format_duration(quiet)));
            }
            _ => {}
        }
        all
    }
}

fn whole(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn counted(count: i64) -> String {
    if count >= COUNTED_AT_MOST {
        format!("{COUNTED_AT_MOST}+")
    } else {
        count.to_string()
    }
}

/// Names without what separates a plugin's text from its numbers.
fn named(names: &[String]) -> String {
    let shown = names
        .iter()
        .take(NAMED)
        .map(|name| shorten(name, MAX_TYPE_BYTES).replace('|', "/"));
    let more = if names.len() > NAMED { ", …" } else { "" };
    format!("{}{more}", shown.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::fixture::Fixture;

    const ARGS: CheckArgs = CheckArgs {
        warn_lag: Duration::from_mins(5),
        crit_lag: Duration::from_hours(1),
    };

    fn check(at: &Fixture) -> (u8, String) {
        (main(&at.context, &ARGS).unwrap(), at.said())
    }

    fn due_ago(at: &Fixture, name: &str, seconds: i64) {
        let now = at.store().now().unwrap().0;
        at.insert(name, now - seconds);
    }

    #[test]
    fn all_is_well_in_one_line() {
        let at = Fixture::with_types(&["mail"]);
        at.insert("mail", 4_000_000_000);
        let line = "PUNCTUAL OK - lag 0s, 0 due | lag=0s;300;3600 due=0 dead=0 unknown=0\n";
        assert_eq!(check(&at), (0, line.to_owned()));
    }

    #[test]
    fn lag_warns_and_then_alarms_but_not_for_a_paused_type() {
        let at = Fixture::with_types(&["mail"]);
        due_ago(&at, "mail", 400);
        let (code, line) = check(&at);
        assert_eq!(code, 1, "{line}");
        assert!(
            line.starts_with("PUNCTUAL WARNING - lag 6m 4") && line.contains("s, 1 due |"),
            "{line}"
        );
        due_ago(&at, "mail", 4000);
        assert_eq!(check(&at).0, 2);
        at.store()
            .write_pause("mail", Some(UnixSeconds::MAX))
            .unwrap();
        let (code, line) = check(&at);
        assert_eq!(code, 0, "{line}");
        assert!(line.contains("2 due"), "{line}");
    }

    #[test]
    fn what_needs_a_person_warns() {
        let at = Fixture::with_types(&["mail"]);
        due_ago(&at, "mial", 5);
        assert!(check(&at).1.contains("no handler for mial"));
        at.exec("DELETE FROM scheduled_events");
        assert_eq!(check(&at).0, 0);
        at.store()
            .write_breaker("mail", 10, Some(UnixSeconds::MAX))
            .unwrap();
        assert_eq!(check(&at).0, 1);
        at.store().write_breaker("mail", 0, None).unwrap();
        let now = at.store().now().unwrap();
        at.store()
            .stamp_tick(now.before(Duration::from_mins(14)))
            .unwrap();
        assert_eq!(check(&at).0, 0);
        at.store()
            .stamp_tick(now.before(Duration::from_mins(16)))
            .unwrap();
        assert!(check(&at).1.contains("no run for 16m"));
    }

    #[test]
    fn unresolved_endings_are_counted_to_a_thousand() {
        let at = Fixture::new();
        at.exec(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) \
             INSERT INTO event_history (event_id, type, due_at, priority, attempts, losses, \
             deferrals, outcome, finished_at) SELECT i, 'a', 1, 0, 0, 0, 0, 'dead', 2 FROM n",
        );
        let (code, line) = check(&at);
        assert_eq!(code, 1);
        assert!(
            line.contains("1000+ dead unresolved") && line.contains("dead=1000"),
            "{line}"
        );
    }

    #[test]
    fn a_database_that_cannot_be_used_is_critical_and_a_wrong_setting_unknown() {
        let at = Fixture::new();
        let swapped = CheckArgs {
            warn_lag: Duration::from_hours(2),
            ..ARGS
        };
        assert_eq!(main(&at.context, &swapped).unwrap(), 3);
        at.exec("DROP TABLE punctual_meta");
        assert_eq!(check(&at).0, 3);
        std::fs::write(at.database(), b"this is no database at all, only some text").unwrap();
        let (code, line) = check(&at);
        assert_eq!((code, line.lines().count()), (2, 1), "{line}");
        std::fs::remove_file(at.database()).unwrap();
        let (code, line) = check(&at);
        assert_eq!(code, 2);
        assert!(
            line.starts_with("PUNCTUAL CRITICAL - no database at "),
            "{line}"
        );
    }
}
