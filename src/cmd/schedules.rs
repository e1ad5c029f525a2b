//! `schedules`: what happens again and again, and when. Those of the configuration are changed
//! there; those of the database here.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::output::{self, plural, seconds, short_payload, table};
use super::{Context, types};
use crate::cli::{NextArgs, ScheduleArgs, SchedulePauseArgs, SchedulesArgs, SchedulesCommand};
use crate::clock::UnixSeconds;
use crate::db::Access;
use crate::error::{Exit, Failure};
use crate::nearest::did_you_mean;
use crate::recurrence::Recurrence;
use crate::recurrence::lint::{self, Fate, Findings, Minutes};
use crate::schedule::{
    From, MAX_RULE_BYTES, MISSED_MAX, Missed, Schedule, mistake_in_name, too_often,
};
use crate::store::runs::LogEntry;
use crate::store::schedules::ScheduleRow;
use crate::store::{Stopped, Store};
use crate::when::{format_duration, parse_zone};

/// A watermark further ahead than this was written while a clock was wrong.
pub const AHEAD: i64 = 86_400;
/// How often a schedule that changes between reading and writing is looked at.
const LOOKS: usize = 5;
/// Slots shown of a schedule, past ones and next ones.
const SHOWN: usize = 5;
/// Collisions shown to people.
const COLLISIONS: usize = 20;
/// Characters of a payload shown to people.
const PAYLOAD: usize = 60;

/// `punctual schedules COMMAND`.
///
/// # Errors
/// As the command.
pub fn main(context: &Context, args: &SchedulesArgs) -> anyhow::Result<u8> {
    match &args.command {
        SchedulesCommand::Add(args) => add(context, args),
        SchedulesCommand::List => list(context),
        SchedulesCommand::Show(args) => show(context, &args.name),
        SchedulesCommand::Pause(args) => pause(context, args),
        SchedulesCommand::Resume(args) => resume(context, &args.name),
        SchedulesCommand::Remove(args) => remove(context, &args.name),
        SchedulesCommand::Next(args) => next(context, args),
        SchedulesCommand::Lint => lint_all(context),
    }
}

/// A schedule as it stands: stated, and how far it has come.
struct Known {
    /// Why it cannot be read, where it cannot.
    stated: Result<Schedule, String>,
    /// `None`: no run has seen it yet.
    row: Option<ScheduleRow>,
}

impl Known {
    fn of_row(row: ScheduleRow) -> Self {
        Self {
            stated: Schedule::from_json(&row.rule),
            row: Some(row),
        }
    }

    fn slots(&self) -> Result<Recurrence, String> {
        self.stated.clone().and_then(|stated| stated.recurrence())
    }

    fn is_of_config(&self) -> bool {
        let from = self.stated.as_ref().map(|stated| stated.from);
        from == Ok(From::Config)
    }

    /// Whether a run has seen it as it is stated now.
    fn is_current(&self) -> bool {
        let stated = self.stated.as_ref().map(Schedule::to_json);
        let row = self.row.as_ref().map(|row| row.rule.as_str());
        stated.is_ok_and(|stated| row == Some(&stated))
    }

    fn next_slot(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        if let (Some(row), true) = (&self.row, self.is_current()) {
            return row.next;
        }
        let paused = self.row.as_ref().and_then(|row| row.paused_until);
        let stated = self.stated.as_ref().ok().filter(|stated| stated.enabled)?;
        let slots = stated.recurrence().ok()?;
        slots.next_after(now.max(paused.unwrap_or_default()))
    }

    fn paused_until(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        let until = self.row.as_ref().and_then(|row| row.paused_until);
        until.filter(|until| *until > now)
    }

    fn last_slot(&self) -> Option<UnixSeconds> {
        self.row.as_ref().map(|row| row.last_slot)
    }

    /// What keeps it from making events, or is to be known of it.
    fn state(&self, context: &Context, now: UnixSeconds) -> String {
        match (&self.stated, self.paused_until(now)) {
            (Err(error), _) => format!("cannot be read: {}", output::escape(error)),
            (Ok(stated), _) if !stated.enabled => "disabled".to_owned(),
            (Ok(_), Some(UnixSeconds::MAX)) => "paused".to_owned(),
            (Ok(_), Some(until)) => format!("paused until {}", context.shown(until)),
            (Ok(_), None) if self.is_ahead(now) => format!(
                "had its last slot in the future ({}): the clock was ahead; resume it",
                self.last_slot()
                    .map_or_else(String::new, |at| context.shown(at))
            ),
            (Ok(_), None) if !self.is_current() => "the next run sees it".to_owned(),
            (Ok(_), None) => String::new(),
        }
    }

    fn is_ahead(&self, now: UnixSeconds) -> bool {
        self.last_slot().is_some_and(|last| last.since(now) > AHEAD)
    }

    fn json(&self, name: &str, now: UnixSeconds) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("name".into(), name.into());
        match &self.stated {
            Ok(stated) => {
                if let Ok(Value::Object(fields)) = serde_json::to_value(stated) {
                    object.extend(fields);
                }
            }
            Err(error) => drop(object.insert("error".into(), error.as_str().into())),
        }
        object.insert("next_slot".into(), json!(seconds(self.next_slot(now))));
        object.insert("last_slot".into(), json!(seconds(self.last_slot())));
        let paused = seconds(self.paused_until(now));
        object.insert("paused_until".into(), json!(paused));
        object
    }
}

/// All schedules, by name: where both state one, the configuration's counts.
fn all(context: &Context, store: &mut Store) -> anyhow::Result<BTreeMap<String, Known>> {
    let rows = store.schedules()?.into_iter();
    let mut known: BTreeMap<String, Known> = rows
        .map(|row| (row.name.clone(), Known::of_row(row)))
        .collect();
    // Gone from the configuration: the next run removes them.
    let stated = &context.config.schedules;
    known.retain(|name, known| !known.is_of_config() || stated.contains_key(name));
    for (name, schedule) in stated {
        let row = known.remove(name).and_then(|known| known.row);
        let stated = Ok(schedule.clone());
        known.insert(name.clone(), Known { stated, row });
    }
    Ok(known)
}

fn find(context: &Context, store: &mut Store, name: &str) -> anyhow::Result<Known> {
    let row = store.schedule(name)?;
    if let Some(schedule) = context.config.schedules.get(name) {
        let stated = Ok(schedule.clone());
        return Ok(Known { stated, row });
    }
    if let Some(row) = row {
        return Ok(Known::of_row(row));
    }
    let all = all(context, store)?;
    let hint = did_you_mean(name, all.keys().map(String::as_str));
    let name = output::shorten(name, 64);
    let message = format!("there is no schedule `{name}`{}", output::escape(&hint));
    Err(Failure::usage(message).into())
}

/// `punctual schedules add`.
///
/// # Errors
/// [`Failure`] 2: a wrong rule, an unknown type, a name that is taken; 65: something too long.
fn add(context: &Context, args: &ScheduleArgs) -> anyhow::Result<u8> {
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

fn list(context: &Context) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Read)?;
    let now = store.now()?;
    let known = all(context, &mut store)?;
    if context.json {
        for (name, known) in &known {
            context.out.json(&known.json(name, now))?;
        }
        return Ok(Exit::Ok as u8);
    }
    let next = format!("next slot ({})", context.zone());
    let mut rows = table(&["name", "from", "rule", "type", "missed", &next, "state"]);
    for (name, known) in &known {
        let stated = known.stated.as_ref();
        rows.add_row([
            output::shorten(name, 64),
            stated
                .map_or("database", |stated| stated.from.as_str())
                .to_owned(),
            known.slots().map_or_else(
                |_| String::new(),
                |slots| output::escape(&slots.to_string()),
            ),
            stated.map_or_else(
                |_| String::new(),
                |stated| output::escape(&stated.type_name),
            ),
            stated
                .map_or("", |stated| stated.missed.as_str())
                .to_owned(),
            known
                .next_slot(now)
                .map_or_else(|| "none".to_owned(), |at| context.shown(at)),
            known.state(context, now),
        ]);
    }
    context.out.table(&rows)?;
    if known.is_empty() {
        context.out.line("no schedules")?;
    }
    Ok(Exit::Ok as u8)
}

fn show(context: &Context, name: &str) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Read)?;
    let now = store.now()?;
    let known = find(context, &mut store, name)?;
    let made = store.made_slots(name, SHOWN)?;
    let first = known.next_slot(now);
    let slots = known.slots().ok();
    let coming: Vec<UnixSeconds> = match (&slots, first) {
        (Some(slots), Some(first)) => {
            let after = UnixSeconds(first.0 - 1);
            slots.slots_after(after).take(SHOWN).collect()
        }
        _ => Vec::new(),
    };
    if context.json {
        let mut object = known.json(name, now);
        let coming: Vec<i64> = coming.iter().map(|slot| slot.0).collect();
        object.insert("next_slots".into(), coming.into());
        let made = made
            .iter()
            .map(|(slot, slots, id)| json!({ "slot_at": slot.0, "slots": slots, "id": id.0 }));
        object.insert("events".into(), made.collect::<Vec<_>>().into());
        context.out.json(&object)?;
        return Ok(Exit::Ok as u8);
    }
    let mut facts = vec![("schedule", output::escape(name))];
    if let Ok(stated) = &known.stated {
        facts.push(("from", stated.from.as_str().to_owned()));
        facts.extend(slots.map(|slots| ("rule", output::escape(&slots.to_string()))));
        let edges = [("start", stated.start), ("end", stated.end)];
        facts.extend(
            edges
                .into_iter()
                .filter_map(|(edge, at)| Some((edge, context.shown(UnixSeconds(at?))))),
        );
        facts.push(("type", output::escape(&stated.type_name)));
        if stated.priority != 0 {
            facts.push(("priority", stated.priority.to_string()));
        }
        facts.push(("missed", missed_of(stated)));
        let span = |seconds: u64| format_duration(i64::try_from(seconds).unwrap_or(i64::MAX));
        facts.extend(
            stated
                .jitter
                .map(|longest| ("jitter", format!("up to {}", span(longest)))),
        );
        let payload = stated.payload.as_deref();
        facts.extend(payload.map(|text| ("payload", short_payload(text.as_bytes(), PAYLOAD))));
    }
    let state = known.state(context, now);
    facts.extend((!state.is_empty()).then_some(("state", state)));
    for (fact, value) in facts {
        context.out.line(format!("{fact:<12}{value}"))?;
    }
    if !made.is_empty() {
        context.out.line("\nmade last:")?;
    }
    for (slot, slots, id) in made {
        let missed = match slots {
            0 | 1 => String::new(),
            slots => format!(", for {} that were missed too", slots - 1),
        };
        context
            .out
            .line(format!("  {}  event {id}{missed}", context.shown(slot)))?;
    }
    context.out.line(if coming.is_empty() {
        "\nno slot is to come"
    } else {
        "\nnext:"
    })?;
    for slot in coming {
        context.out.line(format!("  {}", context.shown(slot)))?;
    }
    Ok(Exit::Ok as u8)
}

fn missed_of(stated: &Schedule) -> String {
    let mut words = stated.missed.as_str().to_owned();
    if let Some(most) = stated.missed_max {
        words.push_str(", at most ");
        words.push_str(&plural(most, "event"));
    }
    if let Some(window) = stated.window() {
        let seconds = i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
        words.push_str(", not after ");
        words.push_str(&format_duration(seconds));
    }
    words
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

fn pause(context: &Context, args: &SchedulePauseArgs) -> anyhow::Result<u8> {
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

fn resume(context: &Context, name: &str) -> anyhow::Result<u8> {
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

fn remove(context: &Context, name: &str) -> anyhow::Result<u8> {
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

/// `punctual schedules next`: of a rule, asks no database, and so no clock but the host's.
///
/// # Errors
/// [`Failure`] 2: the rule, the name or a time is wrong.
fn next(context: &Context, args: &NextArgs) -> anyhow::Result<u8> {
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
fn lint_all(context: &Context) -> anyhow::Result<u8> {
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
