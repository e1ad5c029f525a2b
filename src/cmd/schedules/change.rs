//! Schedules of the database are added, paused, resumed and removed.

use serde_json::json;

use super::{AHEAD, find};
use crate::cli::{ScheduleArgs, SchedulePauseArgs};
use crate::clock::UnixSeconds;
use crate::cmd::output::{self, seconds};
use crate::cmd::{Context, types};
use crate::db::Access;
use crate::error::{Exit, Failure};
use crate::schedule::{
    From, MAX_RULE_BYTES, MISSED_MAX, Missed, Schedule, mistake_in_name, too_often,
};
use crate::store::runs::LogEntry;
use crate::store::schedules::ScheduleRow;
use crate::store::{Stopped, Store};

/// How often a schedule that changes between reading and writing is looked at.
const LOOKS: usize = 5;

/// `punctual schedules add`.
///
/// # Errors
/// [`Failure`] 2: a wrong rule, an unknown type, a name that is taken; 65: something too long.
pub(super) fn add(context: &Context, args: &ScheduleArgs) -> anyhow::Result<u8> {
    let name = &args.name;
    if let Some(mistake) = mistake_in_name(name) {
        let name = output::shorten(name, 64);
        return Err(Failure::usage(format!("`{name}` {mistake}")).into());
    }
    let shown = output::escape(name);
    if context.config.schedules.contains_key(name) {
        let message = format!("[schedule.{shown}] stands in the configuration; change it there");
        return Err(Failure::usage(message).into());
    }
    if let Some(mistake) = types::mistake(&args.type_name) {
        return Err(Failure::data(mistake).into());
    }
    if !args.allow_unknown_type && !types::is_configured(&context.config, &args.type_name) {
        return Err(Failure::usage(types::unknown(&context.config, &args.type_name)).into());
    }
    let mut store = context.open(Access::Write)?;
    let now = store.now()?;
    let schedule = stated(context, args, now)?;
    let row = ScheduleRow {
        name: name.clone(),
        rule: schedule.to_json(),
        last_slot: now,
        paused_until: None,
        next: None,
    };
    let first = row.first_slot();
    let added = store.transaction(|store| {
        if store.schedule(name)?.is_some() {
            return Ok(false);
        }
        store.add_schedule(&row, now)?;
        log(store, &row, "schedule added", now)?;
        Ok(true)
    });
    if !added.map_err(Stopped::into_error)? {
        let message = format!("there is a schedule `{shown}` already; remove it first");
        return Err(Failure::usage(message).into());
    }
    tell(context, name, first, &format!("{shown} is added"))
}

fn stated(context: &Context, args: &ScheduleArgs, now: UnixSeconds) -> anyhow::Result<Schedule> {
    let instant = |flag: &str, text: &Option<String>| {
        let at = context.optional_time(flag, text.as_ref(), now)?;
        Ok::<_, anyhow::Error>(at.map(|at| at.0))
    };
    let missed = match Missed::WORDS.iter().position(|word| *word == args.missed) {
        Some(1) => Missed::Skip,
        Some(2) => Missed::All,
        _ => Missed::Once,
    };
    if args.missed_max.is_some() && missed != Missed::All {
        return Err(Failure::usage("--missed-max goes with --missed all only").into());
    }
    if args.every.is_some_and(|every| every.subsec_nanos() > 0) {
        return Err(Failure::usage("--every: an interval is whole seconds, 1s at least").into());
    }
    let schedule = Schedule {
        from: From::Database,
        cron: args.cron.clone(),
        timezone: args.cron.as_ref().map(|_| context.zone().name().to_owned()),
        every: args.every.map(|every| every.as_secs()),
        anchor: instant("--anchor", &args.anchor)?,
        type_name: args.type_name.clone(),
        payload: args.payload.clone(),
        priority: args.priority,
        missed,
        missed_max: (missed == Missed::All).then(|| args.missed_max.unwrap_or(MISSED_MAX)),
        missed_window: args.missed_window.map(|window| window.as_secs()),
        start: instant("--start", &args.start)?,
        end: instant("--end", &args.end)?,
        jitter: args
            .jitter
            .map(|longest| longest.as_secs())
            .filter(|longest| *longest > 0),
        enabled: true,
    };
    let flag = if args.cron.is_some() {
        "--cron"
    } else {
        "--every"
    };
    let refuse = |why: String| Failure::usage(format!("{flag}: {why}"));
    let slots = schedule.recurrence().map_err(refuse)?;
    let handled = context.config.types.get(&args.type_name);
    if let Some(mistake) = too_often(&slots, handled.and_then(|handled| handled.rate)) {
        return Err(refuse(mistake).into());
    }
    if slots.next_after(now).is_none() {
        return Err(refuse("no slot is to come by --end".to_owned()).into());
    }
    if schedule.to_json().len() > MAX_RULE_BYTES {
        let message = format!(
            "the schedule is too large: its payload and all else may have {MAX_RULE_BYTES} bytes"
        );
        return Err(Failure::data(message).into());
    }
    Ok(schedule)
}

fn tell(
    context: &Context,
    name: &str,
    next: Option<UnixSeconds>,
    done: &str,
) -> anyhow::Result<u8> {
    if context.json {
        let line = json!({ "name": name, "next_slot": seconds(next) });
        context.out.json(&line)?;
    } else {
        let next = next.map_or_else(
            || "no slot is to come".to_owned(),
            |at| format!("its next slot is {}", context.shown(at)),
        );
        context.out.line(format!("{done}; {next}"))?;
    }
    Ok(Exit::Ok as u8)
}

fn log(
    store: &mut Store,
    row: &ScheduleRow,
    decision: &str,
    now: UnixSeconds,
) -> Result<(), Stopped> {
    Ok(store.log(&LogEntry {
        at: now,
        run_id: None,
        event: None,
        type_name: None,
        decision,
        detail: &format!("{}: {}", row.name, row.rule),
    })?)
}

/// Changes the row of a schedule, looking again where somebody else has; returns when its next slot
/// is.
fn change(
    context: &Context,
    store: &mut Store,
    name: &str,
    decision: &str,
    now: UnixSeconds,
    new: impl Fn(&ScheduleRow) -> ScheduleRow,
) -> anyhow::Result<Option<UnixSeconds>> {
    for _ in 0..LOOKS {
        let known = find(context, store, name)?;
        let stated = known.stated.as_ref().map(Schedule::to_json);
        let changed = store.transaction(|store| {
            let row = if let Some(row) = &known.row {
                let new = new(row);
                store.change_schedule(row, &new, now)?;
                new
            } else {
                // Of the configuration, and no run has seen it yet.
                let row = ScheduleRow {
                    name: name.to_owned(),
                    rule: stated.clone().unwrap_or_default(),
                    last_slot: now,
                    paused_until: None,
                    next: None,
                };
                let new = new(&row);
                store.add_schedule(&new, now)?;
                new
            };
            log(store, &row, decision, now)?;
            Ok(row.first_slot())
        });
        match changed {
            Err(Stopped::Changed) => {}
            other => return other.map_err(Stopped::into_error),
        }
    }
    Err(Stopped::Changed.into_error())
}

pub(super) fn pause(context: &Context, args: &SchedulePauseArgs) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Write)?;
    let now = store.now()?;
    let until = context.optional_time("--until", args.until.as_ref(), now)?;
    if until.is_some_and(|until| until <= now) {
        return Err(Failure::usage("--until: lies in the past").into());
    }
    let name = &args.name;
    let paused_until = Some(until.unwrap_or(UnixSeconds::MAX));
    let next = change(context, &mut store, name, "schedule paused", now, |row| {
        ScheduleRow {
            paused_until,
            ..row.clone()
        }
    })?;
    let shown = output::escape(name);
    let until = until.map_or_else(|| "it is resumed".to_owned(), |at| context.shown(at));
    tell(
        context,
        name,
        next,
        &format!("{shown} is paused until {until}"),
    )
}

pub(super) fn resume(context: &Context, name: &str) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Write)?;
    let now = store.now()?;
    let known = find(context, &mut store, name)?;
    let shown = output::escape(name);
    if known.paused_until(now).is_none() && !known.is_ahead(now) {
        return tell(
            context,
            name,
            known.next_slot(now),
            &format!("{shown} is not paused"),
        );
    }
    let next = change(context, &mut store, name, "schedule resumed", now, |row| {
        let is_ahead = row.last_slot.since(now) > AHEAD;
        ScheduleRow {
            last_slot: if is_ahead {
                now
            } else {
                row.last_slot.max(now)
            },
            paused_until: None,
            ..row.clone()
        }
    })?;
    tell(context, name, next, &format!("{shown} is resumed"))
}

pub(super) fn remove(context: &Context, name: &str) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Write)?;
    let now = store.now()?;
    let known = find(context, &mut store, name)?;
    let shown = output::escape(name);
    let stated = context.config.schedules.contains_key(name);
    let Some(row) = known.row.filter(|_| !stated) else {
        let message = format!(
            "[schedule.{shown}] stands in the configuration; remove it there, or say `enabled = \
             false`"
        );
        return Err(Failure::usage(message).into());
    };
    let removed = store.transaction(|store| {
        store.remove_schedule(name)?;
        log(store, &row, "schedule removed", now)
    });
    removed.map_err(Stopped::into_error)?;
    if context.json {
        context
            .out
            .json(&json!({ "name": name, "removed": true }))?;
    } else {
        context.out.line(format!("{shown} is removed"))?;
    }
    Ok(Exit::Ok as u8)
}
