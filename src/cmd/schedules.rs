//! `schedules`: what happens again and again, and when.

use super::Context;
use super::output::table;
use crate::cli::{NextArgs, SchedulesArgs, SchedulesCommand};
use crate::clock::UnixSeconds;
use crate::error::{Exit, Failure};
use crate::recurrence::Recurrence;

/// `punctual schedules COMMAND`.
///
/// # Errors
/// As the command.
pub fn main(context: &Context, args: &SchedulesArgs) -> anyhow::Result<u8> {
    match &args.command {
        SchedulesCommand::Next(args) => next(context, args),
    }
}

/// `punctual schedules next`: asks no database, and so no clock but the host's.
///
/// # Errors
/// [`Failure`] 2: the rule or a time is wrong.
fn next(context: &Context, args: &NextArgs) -> anyhow::Result<u8> {
    let now = context.clock.now();
    let recurrence = rule(context, args, now)?;
    let after = context.optional_time("--after", args.after.as_ref(), now)?;
    let slots = recurrence.slots_after(after.unwrap_or(now));
    let slots = slots.take(usize::try_from(args.count).unwrap_or(usize::MAX));
    if context.json {
        for slot in slots {
            let line = serde_json::json!({ "slot": slot.0 });
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

fn rule(context: &Context, args: &NextArgs, now: UnixSeconds) -> anyhow::Result<Recurrence> {
    let (flag, recurrence) = match (&args.cron, args.every, &args.anchor) {
        (Some(text), ..) => ("--cron", Recurrence::cron(text, context.zone().clone())),
        (None, Some(interval), Some(anchor)) => {
            let anchor = context.time("--anchor", anchor, now)?;
            ("--every", Recurrence::every(interval, anchor))
        }
        (None, ..) => return Err(Failure::usage("say --cron, or --every and --anchor").into()),
    };
    recurrence.map_err(|error| Failure::usage(format!("{flag}: {error}")).into())
}
