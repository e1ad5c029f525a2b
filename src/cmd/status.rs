//! `status`: the backlog, what is running and by whom, the last runs. Reads only.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Context;
use super::holder::Holder;
use super::output::{escape, plural, seconds, table};
use crate::clock::UnixSeconds;
use crate::config::{Config, HandlerConfig, TypeConfig};
use crate::db::Access;
use crate::error::Exit;
use crate::event::Outcome;
use crate::lock;
use crate::store::Store;
use crate::store::peek::TypeState;
use crate::store::report::{Backlog, RunRow, Unresolved};
use crate::when::format_duration;

/// Runs shown to people.
const RUNS: usize = 5;
/// Sources named.
const SOURCES: usize = 100;
const DAY: std::time::Duration = std::time::Duration::from_hours(24);

/// `punctual status`.
///
/// # Errors
/// The database's.
pub fn main(context: &Context) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Read)?;
    let status = Status::read(context, &mut store)?;
    if context.json {
        context.out.json(&status)?;
    } else {
        status.tell(context, &store.last_runs(RUNS)?)?;
    }
    Ok(Exit::Ok as u8)
}

/// As `status --json` prints it: keys in the order of DESIGN §7.
#[derive(Debug, Serialize)]
struct Status {
    ready: i64,
    due: i64,
    running: i64,
    oldest_due_at: Option<i64>,
    lag_s: i64,
    unresolved_dead: i64,
    unresolved_unknown: i64,
    done_24h: i64,
    skipped_24h: i64,
    steps_aside: i64,
    last_tick_at: Option<i64>,
    last_run: Option<LastRun>,
    running_by: Option<Holder>,
    types: BTreeMap<String, TypeStatus>,
    /// Sources whose query fails; in JSON where there is one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failing_sources: Vec<String>,
    #[serde(skip)]
    now: UnixSeconds,
    /// The wave in hand of the run at work.
    #[serde(skip)]
    wave: Option<(String, i64, i64, i64)>,
}

#[derive(Debug, Serialize)]
struct LastRun {
    run_id: i64,
    epoch: i64,
    host: String,
    pid: i64,
    started_at: i64,
    finished_at: Option<i64>,
    stop: Option<String>,
    fired: i64,
    done: i64,
    retried: i64,
    deferred: i64,
    dead: i64,
    skipped: i64,
    unknown: i64,
    withdrawn: i64,
    recovered: i64,
    released: i64,
    waves: i64,
    remaining_due: Option<i64>,
}

#[derive(Debug, Default, Serialize)]
struct TypeStatus {
    ready: i64,
    due: i64,
    running: i64,
    oldest_due_at: Option<i64>,
    lag_s: i64,
    handler: Option<&'static str>,
    paused_until: Option<i64>,
    breaker_open_until: Option<i64>,
    failures: u32,
    sweeping: i64,
}

/// Ticks that stepped aside, those included that no run has taken over into the tables yet.
fn steps_aside(config: &Config, store: &mut Store) -> anyhow::Result<i64> {
    let recorded = store.asides()?;
    let Ok(path) = lock::lock_path(config) else {
        return Ok(recorded);
    };
    let Some(lock_id) = lock::identity_at(&path) else {
        return Ok(recorded);
    };
    let fresh = lock::counted_aside(&path) - store.recorded_asides(&lock_id)?;
    Ok(recorded + fresh.max(0))
}

impl Status {
    fn read(context: &Context, store: &mut Store) -> anyhow::Result<Self> {
        let config = &context.config;
        let now = store.now()?;
        let lease = store.lease_row()?;
        let holder = Holder::of(config, store, lease.as_ref(), now)?;
        let wave = match holder.as_ref().and_then(|holder| holder.run_id) {
            Some(run_id) => store.run_row(run_id)?.and_then(|run| run.wave),
            None => None,
        };
        let backlog = store.backlog(now)?;
        let mut types = types(config, &backlog, &store.type_states()?, now);
        for (name, one) in &mut types {
            let sweeps = config.types.get(name).and_then(TypeConfig::sweep);
            if sweeps.is_some() && one.due > 0 {
                one.sweeping = store.sweeps_under_way(name, now)?;
            }
        }
        let failing_sources = if config.sources.is_empty() {
            Vec::new()
        } else {
            store.failing_sources(SOURCES)?
        };
        let Unresolved { dead, unknown } = store.unresolved()?;
        let sum = |part: fn(&Backlog) -> i64| backlog.iter().map(part).sum();
        let oldest = backlog.iter().filter_map(|one| one.oldest_due_at).min();
        Ok(Self {
            ready: sum(|one| one.ready),
            due: sum(|one| one.due),
            running: sum(|one| one.running),
            oldest_due_at: seconds(oldest),
            lag_s: oldest.map_or(0, |oldest| now.since(oldest)),
            unresolved_dead: dead,
            unresolved_unknown: unknown,
            done_24h: store.ended_since(Outcome::Done, now.before(DAY))?,
            skipped_24h: store.ended_since(Outcome::Skipped, now.before(DAY))?,
            steps_aside: steps_aside(config, store)?,
            last_tick_at: lease.and_then(|lease| seconds(lease.last_tick_at)),
            last_run: store.last_runs(1)?.into_iter().next().map(LastRun::from),
            running_by: holder,
            types,
            failing_sources,
            now,
            wave,
        })
    }

    fn tell(&self, context: &Context, runs: &[RunRow]) -> anyhow::Result<()> {
        let out = &context.out;
        out.table(&self.type_table(context))?;
        if self.types.is_empty() {
            out.line("no types and no events yet")?;
        }
        out.line("")?;
        out.line(self.sum_line())?;
        out.line(self.work_line(context))?;
        if self.unresolved_dead + self.unresolved_unknown > 0 {
            out.line(format!(
                "unresolved: {} dead, {} unknown; see `punctual list --history --outcome dead`, \
                 then `retry` or `resolve` them",
                self.unresolved_dead, self.unresolved_unknown
            ))?;
        }
        if !self.failing_sources.is_empty() {
            let names: Vec<String> = self
                .failing_sources
                .iter()
                .map(|name| escape(name))
                .collect();
            out.line(format!(
                "sources whose query fails: {}; see `punctual sources list`",
                names.join(", ")
            ))?;
        }
        out.line(format!(
            "last 24 hours: {} done, {} skipped; steps aside so far: {}",
            self.done_24h, self.skipped_24h, self.steps_aside
        ))?;
        if !runs.is_empty() {
            out.line("\nlast runs:")?;
        }
        out.table(&run_table(context, runs))
    }

    fn sum_line(&self) -> String {
        let due = match self.oldest_due_at {
            Some(_) => format!("{} due for up to {}", self.due, format_duration(self.lag_s)),
            None => "none due".to_owned(),
        };
        format!(
            "{} ready ({due}), {} running",
            plural(self.ready, "event"),
            self.running
        )
    }

    fn work_line(&self, context: &Context) -> String {
        let Some(holder) = &self.running_by else {
            return match self.last_tick_at {
                Some(at) => format!(
                    "nobody is at work; last looked at {}",
                    context.shown(UnixSeconds(at))
                ),
                None => {
                    "nobody is at work, and no run has looked yet: does cron call `punctual run`?"
                        .to_owned()
                }
            };
        };
        let since = holder
            .started_at
            .map(UnixSeconds)
            .map_or_else(String::new, |at| {
                format!(
                    " since {} ({})",
                    context.shown(at),
                    format_duration(self.now.since(at))
                )
            });
        let wave = self
            .wave
            .as_ref()
            .map_or_else(String::new, |(name, first, last, events)| {
                let events = plural(*events, "event");
                format!(
                    "; in hand: {events} of {}, ids {first} to {last}",
                    escape(name)
                )
            });
        format!("at work: {}{since}{wave}", holder.name())
    }

    fn type_table(&self, context: &Context) -> comfy_table::Table {
        let mut rows = table(&["type", "handler", "ready", "due", "running", "lag", "state"]);
        for (name, one) in &self.types {
            let lag = match one.oldest_due_at {
                Some(_) => format_duration(one.lag_s),
                None => "-".to_owned(),
            };
            rows.add_row(vec![
                escape(name),
                one.handler.unwrap_or("-").to_owned(),
                one.ready.to_string(),
                one.due.to_string(),
                one.running.to_string(),
                lag,
                one.state(context),
            ]);
        }
        rows
    }
}

impl TypeStatus {
    fn state(&self, context: &Context) -> String {
        let until = |at: i64| context.shown(UnixSeconds(at));
        match (self.handler, self.paused_until, self.breaker_open_until) {
            (None, _, _) => "no handler".to_owned(),
            (_, Some(at), _) if at >= UnixSeconds::MAX.0 => "paused".to_owned(),
            (_, Some(at), _) => format!("paused until {}", until(at)),
            (_, _, Some(at)) => {
                format!(
                    "{}, left alone until {}",
                    plural(self.failures, "failure"),
                    until(at)
                )
            }
            _ if self.sweeping > 0 => "sweep under way".to_owned(),
            _ if self.failures > 0 => plural(self.failures, "failure"),
            _ => "ok".to_owned(),
        }
    }
}

impl From<RunRow> for LastRun {
    fn from(run: RunRow) -> Self {
        let counts = run.counts;
        Self {
            run_id: run.run_id,
            epoch: run.epoch.0,
            host: run.host,
            pid: run.pid,
            started_at: run.started_at.0,
            finished_at: seconds(run.finished_at),
            stop: run.stop,
            fired: counts.fired,
            done: counts.done,
            retried: counts.retried,
            deferred: counts.deferred,
            dead: counts.dead,
            skipped: counts.skipped,
            unknown: counts.unknown,
            withdrawn: counts.withdrawn,
            recovered: counts.recovered,
            released: counts.released,
            waves: run.waves,
            remaining_due: run.remaining_due,
        }
    }
}

/// Every type that the configuration or the tables know.
fn types(
    config: &Config,
    backlog: &[Backlog],
    states: &[TypeState],
    now: UnixSeconds,
) -> BTreeMap<String, TypeStatus> {
    let mut all: BTreeMap<String, TypeStatus> = BTreeMap::new();
    for (name, configured) in &config.types {
        all.entry(name.clone()).or_default().handler = Some(kind(&configured.handler));
    }
    for one in backlog {
        let entry = all.entry(one.type_name.clone()).or_default();
        entry.ready = one.ready;
        entry.due = one.due;
        entry.running = one.running;
        entry.oldest_due_at = seconds(one.oldest_due_at);
        entry.lag_s = one.oldest_due_at.map_or(0, |oldest| now.since(oldest));
    }
    for state in states {
        let entry = all.entry(state.type_name.clone()).or_default();
        entry.failures = state.failures;
        // What has passed is no state any more.
        entry.paused_until = seconds(state.paused_until.filter(|&until| until > now));
        entry.breaker_open_until = seconds(state.open_until.filter(|&until| until > now));
    }
    all
}

/// The word of the configuration for a handler.
pub fn kind(handler: &HandlerConfig) -> &'static str {
    match handler {
        HandlerConfig::Command(_) => "command",
        HandlerConfig::Http(_) => "http",
        HandlerConfig::Sql(_) => "sql",
        HandlerConfig::MediawikiJob(_) => "mediawiki-job",
    }
}

fn run_table(context: &Context, runs: &[RunRow]) -> comfy_table::Table {
    let mut rows = table(&[
        "run", "started", "took", "stop", "fired", "done", "retried", "dead", "unknown", "skipped",
        "left due",
    ]);
    for run in runs {
        let counts = &run.counts;
        let took = run.finished_at.map_or(0, |at| at.since(run.started_at));
        rows.add_row(vec![
            run.run_id.to_string(),
            context.shown(run.started_at),
            format_duration(took),
            escape(run.stop.as_deref().unwrap_or("-")),
            counts.fired.to_string(),
            counts.done.to_string(),
            counts.retried.to_string(),
            counts.dead.to_string(),
            counts.unknown.to_string(),
            counts.skipped.to_string(),
            run.remaining_due
                .map_or_else(|| "-".to_owned(), |left| left.to_string()),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests;
