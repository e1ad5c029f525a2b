//! When schedules have slots: the next ones, and what `lint` finds in five years of them.

use std::collections::BTreeMap;

use serde_json::json;

use super::{all, find};
use crate::cli::NextArgs;
use crate::clock::UnixSeconds;
use crate::cmd::Context;
use crate::cmd::output::{self, plural, table};
use crate::db::Access;
use crate::error::{Exit, Failure};
use crate::recurrence::Recurrence;
use crate::recurrence::lint::{self, Fate, Findings, Minutes};
use crate::schedule::Schedule;
use crate::when::parse_zone;

/// Collisions shown to people.
const COLLISIONS: usize = 20;

/// `punctual schedules next`: of a rule, asks no database, and so no clock but the host's.
///
/// # Errors
/// [`Failure`] 2: the rule, the name or a time is wrong.
pub(super) fn next(context: &Context, args: &NextArgs) -> anyhow::Result<u8> {
    let now = context.clock.now();
    let recurrence = match &args.name {
        Some(name) => slots_of(context, name)?,
        None => rule(context, args, now)?,
    };
    let after = context.optional_time("--after", args.after.as_ref(), now)?;
    let slots = recurrence.slots_after(after.unwrap_or(now));
    let slots = slots.take(usize::try_from(args.count).unwrap_or(usize::MAX));
    if context.json {
        for slot in slots {
            let line = json!({ "slot": slot.0 });
            context.out.json(&line)?;
        }
        return Ok(Exit::Ok as u8);
    }
    let mut rows = table(&[&format!("slot ({})", context.zone()), "Unix seconds"]);
    for slot in slots {
        rows.add_row([context.shown(slot), slot.to_string()]);
    }
    context.out.table(&rows)?;
    if rows.is_empty() {
        context.out.line("no slots")?;
    }
    Ok(Exit::Ok as u8)
}

fn slots_of(context: &Context, name: &str) -> anyhow::Result<Recurrence> {
    let stated = match context.config.schedules.get(name) {
        Some(schedule) => schedule.recurrence(),
        None => find(context, &mut context.open(Access::Read)?, name)?.slots(),
    };
    let name = output::escape(name);
    stated.map_err(|error| Failure::data(format!("schedule {name}: {error}")).into())
}

fn rule(context: &Context, args: &NextArgs, now: UnixSeconds) -> anyhow::Result<Recurrence> {
    let (flag, recurrence) = match (&args.cron, args.every, &args.anchor) {
        (Some(text), ..) => ("--cron", Recurrence::cron(text, context.zone().clone())),
        (None, Some(interval), Some(anchor)) => {
            let anchor = context.time("--anchor", anchor, now)?;
            ("--every", Recurrence::every(interval, anchor))
        }
        (None, ..) => {
            let message = "say NAME, --cron, or --every and --anchor";
            return Err(Failure::usage(message).into());
        }
    };
    recurrence.map_err(|error| Failure::usage(format!("{flag}: {error}")).into())
}

/// `punctual schedules lint`: all schedules that are enabled; without a database, those of the
/// configuration.
pub(super) fn lint_all(context: &Context) -> anyhow::Result<u8> {
    let mut stated = BTreeMap::new();
    if context.config.database.is_some() {
        let mut store = context.open(Access::Read)?;
        for (name, known) in all(context, &mut store)? {
            stated.extend(known.stated.ok().map(|schedule| (name, schedule)));
        }
    } else {
        stated.clone_from(&context.config.schedules);
    }
    let rules: Vec<(String, Recurrence, Schedule)> = stated
        .into_iter()
        .filter(|(_, schedule)| schedule.enabled)
        .filter_map(|(name, schedule)| Some((name, schedule.recurrence().ok()?, schedule)))
        .collect();
    let named: Vec<(&str, &Recurrence)> = rules
        .iter()
        .map(|(name, slots, _)| (name.as_str(), slots))
        .collect();
    let findings = lint::lint(&named, context.clock.now());
    if context.json {
        return lint_json(context, &findings);
    }
    let zone_of = |name: &str| {
        let found = rules.iter().find(|(one, ..)| one == name);
        let zone = found.and_then(|(.., schedule)| schedule.timezone.clone());
        zone.unwrap_or_default()
    };
    let mut lines = Vec::new();
    for name in &findings.silent {
        lines.push(format!(
            "{} has no slot in the next five years",
            output::escape(name)
        ));
    }
    for change in &findings.changes {
        let fate = match change.fate {
            Fate::Late => "does not exist and comes at",
            Fate::Skipped => "does not exist and is left out at",
            Fate::Once => "comes twice, and counts the first time, around",
            Fate::Twice => "comes twice, and counts each time, around",
        };
        let others = match change.times {
            0 | 1 => String::new(),
            times => format!(" (and {} more)", plural(times - 1, "time")),
        };
        let zone = zone_of(change.name);
        let at = parse_zone(&zone).map_or_else(
            |_| context.shown(change.at),
            |zone| crate::when::format_time(change.at, &zone),
        );
        lines.push(format!(
            "{}: {} {zone}{others} {fate} {at}",
            output::escape(change.name),
            change.local.format("%Y-%m-%d %H:%M"),
        ));
    }
    for minutes in findings.collisions.iter().take(COLLISIONS) {
        lines.push(format!(
            "together in {}, first {}: {}",
            plural(minutes.minutes, "minute"),
            context.shown(minutes.first),
            names_of(minutes)
        ));
    }
    let more = findings.collisions.len().saturating_sub(COLLISIONS);
    if more > 0 {
        lines.push(format!("and {more} more sets that meet (--json names all)"));
    }
    for minutes in &findings.busiest {
        lines.push(format!(
            "{} in the minute of {}: {}",
            plural(minutes.slots, "slot"),
            context.shown(minutes.first),
            names_of(minutes)
        ));
    }
    if rules.is_empty() {
        lines.push("no schedules".to_owned());
    }
    for line in lines {
        context.out.line(line)?;
    }
    Ok(Exit::Ok as u8)
}

fn names_of(minutes: &Minutes<'_>) -> String {
    let names: Vec<String> = minutes
        .names
        .iter()
        .map(|name| output::escape(name))
        .collect();
    names.join(", ")
}

fn lint_json(context: &Context, findings: &Findings<'_>) -> anyhow::Result<u8> {
    for name in &findings.silent {
        context
            .out
            .json(&json!({ "kind": "silent", "name": name }))?;
    }
    for change in &findings.changes {
        let fate = match change.fate {
            Fate::Late => "late",
            Fate::Skipped => "skipped",
            Fate::Once => "once",
            Fate::Twice => "twice",
        };
        let local = change.local.format("%Y-%m-%d %H:%M:%S").to_string();
        context.out.json(&json!({
            "kind": "change", "name": change.name, "at": change.at.0, "local": local,
            "times": change.times, "fate": fate,
        }))?;
    }
    let sets = [
        ("collision", &findings.collisions),
        ("busy", &findings.busiest),
    ];
    for (kind, minutes) in sets
        .into_iter()
        .flat_map(|(kind, all)| all.iter().map(move |m| (kind, m)))
    {
        context.out.json(&json!({
            "kind": kind, "names": minutes.names, "first": minutes.first.0,
            "minutes": minutes.minutes, "slots": minutes.slots,
        }))?;
    }
    Ok(Exit::Ok as u8)
}
