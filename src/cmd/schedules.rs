//! `schedules`: what happens again and again, and when. Those of the configuration are changed
//! there; those of the database here.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

mod change;
mod times;

use super::Context;
use super::output::{self, plural, seconds, short_payload, table};
use crate::cli::{SchedulesArgs, SchedulesCommand};
use crate::clock::UnixSeconds;
use crate::db::Access;
use crate::error::{Exit, Failure};
use crate::nearest::did_you_mean;
use crate::recurrence::Recurrence;
use crate::schedule::{From, Schedule};
use crate::store::Store;
use crate::store::schedules::ScheduleRow;
use crate::when::format_duration;

/// A watermark further ahead than this was written while a clock was wrong.
pub const AHEAD: i64 = 86_400;
/// Slots shown of a schedule, past ones and next ones.
const SHOWN: usize = 5;
/// Characters of a payload shown to people.
const PAYLOAD: usize = 60;

/// `punctual schedules COMMAND`.
///
/// # Errors
/// As the command.
pub fn main(context: &Context, args: &SchedulesArgs) -> anyhow::Result<u8> {
    match &args.command {
        SchedulesCommand::Add(args) => change::add(context, args),
        SchedulesCommand::List => list(context),
        SchedulesCommand::Show(args) => show(context, &args.name),
        SchedulesCommand::Pause(args) => change::pause(context, args),
        SchedulesCommand::Resume(args) => change::resume(context, &args.name),
        SchedulesCommand::Remove(args) => change::remove(context, &args.name),
        SchedulesCommand::Next(args) => times::next(context, args),
        SchedulesCommand::Lint => times::lint_all(context),
    }
}

/// A schedule as it stands: stated, and how far it has come.
pub(super) struct Known {
    /// Why it cannot be read, where it cannot.
    pub(super) stated: Result<Schedule, String>,
    /// `None`: no run has seen it yet.
    pub(super) row: Option<ScheduleRow>,
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
pub(super) fn all(context: &Context, store: &mut Store) -> anyhow::Result<BTreeMap<String, Known>> {
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

pub(super) fn find(context: &Context, store: &mut Store, name: &str) -> anyhow::Result<Known> {
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
