//! `run` and `run --dry-run`. Quiet when all is well: cron mails whatever a tick prints.

use std::io::{self, IsTerminal};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::list::{live_row, live_table};
use super::output::{EventLine, plural};
use super::progress::Progress;
use super::{Context, complain, said};
use crate::cli::RunArgs;
use crate::clock::monotonic;
use crate::db::Access;
use crate::error::{Exit, Failure, exit_of_database};
use crate::lock;
use crate::nearest::did_you_mean;
use crate::runner::plan::plan;
use crate::runner::{self, Options, Report, Stop, World};
use crate::store::Store;
use crate::store::runs::Counts;

/// The most rows of the table that a dry run shows to people.
const SHOWN: u64 = 1000;

/// Fires what is due, or lists it.
///
/// # Errors
/// [`Failure`] with the run's exit code where it could not start.
pub fn main(context: &Context, args: &RunArgs) -> anyhow::Result<u8> {
    let options = options(context, args)?;
    if args.dry_run {
        return dry_run(context, &options);
    }
    let progress = progress(context, &options);
    let began = monotonic();
    let report = runner::run(&context.config, &options, World::real(), &mut |counts| {
        if let Some(progress) = &progress {
            let position = u64::try_from(settled(counts)).unwrap_or(0);
            progress.at(position, String::new);
        }
    })?;
    drop(progress);
    if context.json {
        context.out.json(&object_of(&report))?;
        context.out.flush()?;
    } else if io::stdout().is_terminal() && !context.quiet {
        context
            .out
            .line(summary(&report, monotonic().duration_since(began)))?;
    }
    let exit = conclude(context, args, &report);
    ping(context, &report);
    Ok(exit)
}

fn options(context: &Context, args: &RunArgs) -> anyhow::Result<Options> {
    let config = &context.config;
    for name in &args.types {
        if !config.types.contains_key(name) {
            let known = config.types.keys().map(String::as_str);
            return Err(Failure::usage(format!(
                "no type `{name}` is configured{}",
                did_you_mean(name, known)
            ))
            .into());
        }
    }
    let mut options = Options::of(config);
    options.linger = args.linger;
    if args.linger {
        options.max_time = Some(config.run.linger);
    }
    if let Some(time) = args.max_time {
        options.max_time = (!time.is_zero()).then_some(time);
    }
    if args.linger && options.max_time.is_none() {
        let message = "--linger has to end some time; give --max-time a length";
        return Err(Failure::usage(message).into());
    }
    options.max_events = args.max_events.or(options.max_events);
    options.batch_size = args.batch_size.unwrap_or(options.batch_size);
    options.allow_network_fs |= args.allow_network_fs;
    options.types.clone_from(&args.types);
    let now = context.clock.now();
    options.due_before = context.optional_time("--due-before", args.due_before.as_ref(), now)?;
    Ok(options)
}

fn dry_run(context: &Context, options: &Options) -> anyhow::Result<u8> {
    let (mut store, install) = Store::open(&context.config, Access::Read, context.clock)?;
    let lock_path = lock::lock_path(&context.config).ok();
    let mut failed = None;
    let mut rows = live_table(context);
    let mut listed = 0u64;
    let lock_path = lock_path.as_deref();
    plan(
        &mut store,
        &context.config,
        options,
        (&install, lock_path),
        &mut |planned| {
            listed += 1;
            let status = match (planned.recovered, planned.is_slot) {
                (true, _) => "running",
                (false, true) => "planned",
                (false, false) => "ready",
            };
            if context.json {
                let line = EventLine::live(&planned.event, status);
                let line = EventLine {
                    id: line.id.filter(|_| !planned.is_slot),
                    ..line
                };
                failed = context.out.json(&line).err();
                return failed.is_none();
            }
            if listed <= SHOWN {
                let mut row = live_row(context, &planned.event, status);
                if planned.is_slot {
                    row[0] = String::new();
                }
                rows.add_row(row);
            }
            true
        },
    )?;
    if let Some(error) = failed {
        return Err(error);
    }
    if !context.json {
        context.out.table(&rows)?;
        context.out.line(match listed {
            0 => "a run would start nothing".to_owned(),
            _ if listed > SHOWN => format!(
                "a run would start {}, the first {SHOWN} of which are shown (--json lists all)",
                plural(listed, "event")
            ),
            _ => format!(
                "a run would start {}, in this order",
                plural(listed, "event")
            ),
        })?;
    }
    Ok(Exit::Ok as u8)
}

/// The one object of `run --json` (DESIGN §7).
fn object_of(report: &Report) -> Value {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("run_id", json!(report.run_id));
    put("epoch", json!(report.epoch));
    put("started_at", json!(report.started_at.0));
    put("cutoff", json!(report.cutoff.0));
    put("finished_at", json!(report.finished_at.0));
    put("stop", json!(report.stop.as_str()));
    for (name, count) in counted(&report.counts) {
        put(name, json!(count));
    }
    put("waves", json!(report.waves));
    put("remaining_due", json!(report.remaining_due));
    let types = report.types.iter().map(|(name, counts)| {
        let counts = counted(counts).map(|(field, count)| (field.to_owned(), json!(count)));
        (name.clone(), Value::Object(counts.into_iter().collect()))
    });
    put("types", Value::Object(types.collect()));
    Value::Object(object)
}

fn counted(counts: &Counts) -> [(&'static str, i64); 10] {
    [
        ("fired", counts.fired),
        ("done", counts.done),
        ("retried", counts.retried),
        ("deferred", counts.deferred),
        ("dead", counts.dead),
        ("skipped", counts.skipped),
        ("unknown", counts.unknown),
        ("withdrawn", counts.withdrawn),
        ("recovered", counts.recovered),
        ("released", counts.released),
    ]
}

/// Says what went wrong, if anything did, and picks the exit code.
fn conclude(context: &Context, args: &RunArgs, report: &Report) -> u8 {
    let failed = report.counts.dead + report.counts.unknown > 0;
    if failed {
        complain(&failures(report));
    }
    for line in report.misconfigured.iter().chain(&report.remarks) {
        say(context, line);
    }
    if let Some(trouble) = &report.trouble {
        say(
            context,
            &format!(
                "the database failed in run {}: {trouble}; what it left is recovered by the next run",
                run_name(report)
            ),
        );
        return exit_of_database(trouble.kind) as u8;
    }
    match report.stop {
        Stop::Locked if args.fail_if_locked => {
            complain(&format!("another run is at work{}", holder(context)));
            Exit::Temporary as u8
        }
        Stop::Fenced => {
            say(
                context,
                &format!("run {} lost its lease to another run", run_name(report)),
            );
            Exit::Temporary as u8
        }
        Stop::DatabaseLost => Exit::Unavailable as u8,
        Stop::Signal(number) => 128 + u8::try_from(number).unwrap_or(0),
        _ if !report.misconfigured.is_empty() => Exit::Configuration as u8,
        _ if failed => Exit::EventFailed as u8,
        _ => Exit::Ok as u8,
    }
}

/// One line, however many events failed: the first of each type is named.
fn failures(report: &Report) -> String {
    let mut numbers = Vec::new();
    if report.counts.dead > 0 {
        numbers.push(format!("{} dead", report.counts.dead));
    }
    if report.counts.unknown > 0 {
        numbers.push(format!("{} unknown", report.counts.unknown));
    }
    format!(
        "{} in this run: {}; see `punctual list --history` and `punctual why ID`",
        numbers.join(" and "),
        report.failures.join("; ")
    )
}

fn say(context: &Context, line: &str) {
    if io::stderr().is_terminal() || said::once_an_hour(Some(&context.config), line) {
        complain(line);
    }
}

fn run_name(report: &Report) -> String {
    report
        .run_id
        .map_or_else(|| "?".to_owned(), |id| id.to_string())
}

fn holder(context: &Context) -> String {
    let path = lock::lock_path(&context.config).ok();
    let pid = path.and_then(|path| lock::live_holder(&path));
    pid.map_or_else(
        || " on another host".to_owned(),
        |pid| format!(" (process {pid})"),
    )
}

/// Attempts and events that need no further attention in this run.
fn settled(counts: &Counts) -> i64 {
    counts.done
        + counts.retried
        + counts.deferred
        + counts.dead
        + counts.skipped
        + counts.cancelled
        + counts.unknown
        + counts.withdrawn
}

fn summary(report: &Report, took: Duration) -> String {
    let counts = &report.counts;
    let others = [
        ("retried", counts.retried),
        ("deferred", counts.deferred),
        ("dead", counts.dead),
        ("skipped", counts.skipped),
        ("cancelled", counts.cancelled),
        ("unknown", counts.unknown),
        ("withdrawn", counts.withdrawn),
        ("recovered", counts.recovered),
        ("released", counts.released),
    ];
    let others: Vec<String> = others
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!(", {count} {name}"))
        .collect();
    let others = others.concat();
    let left = match report.remaining_due {
        Some(left) if left > 0 => format!("; {left} still due"),
        _ => String::new(),
    };
    match report.stop {
        Stop::Idle => format!("nothing to do{left}"),
        Stop::Locked => "another run is at work".to_owned(),
        stop => format!(
            "{} done{others} in {:.1} s ({}){left}",
            counts.done,
            took.as_secs_f64(),
            stop.as_str()
        ),
    }
}

/// For a person at a terminal only: nobody else pays for the count.
fn progress(context: &Context, options: &Options) -> Option<Progress> {
    if !context.shows_progress() {
        return None;
    }
    let (mut store, _) = Store::open(&context.config, Access::Read, context.clock).ok()?;
    let now = store.now().ok()?;
    let due = store
        .count_due(options.due_before.map_or(now, |wanted| wanted.min(now)))
        .ok()?;
    let limit = options.max_events.unwrap_or(u64::MAX);
    let total = u64::try_from(due).unwrap_or(0).min(limit);
    Some(Progress::of_events(context, total))
}

/// Tells a dead man's switch that a tick went well. Its own failure is no failure of the run.
fn ping(context: &Context, report: &Report) {
    let Some(url) = &context.config.run.ping else {
        return;
    };
    let well = matches!(
        report.stop,
        Stop::Idle | Stop::Drained | Stop::MaxEvents | Stop::MaxTime | Stop::DatabaseLag
    );
    if well
        && report.trouble.is_none()
        && let Err(error) = crate::handler::http::ping(url)
    {
        say(
            context,
            &format!("the ping after the run failed: {error:#}"),
        );
    }
}
