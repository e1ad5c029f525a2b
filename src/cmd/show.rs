//! `show`, also called `why`: one event with its whole trail, and in sentences why it has not
//! fired yet, or what became of it.

use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::holder::Holder;
use super::output::{EventLine, escape, plural, seconds, short_payload};
use super::{Context, list, types};
use crate::cli::ShowArgs;
use crate::clock::UnixSeconds;
use crate::db::Access;
use crate::error::{Exit, Failure};
use crate::event::{EventId, PRIORITIES};
use crate::runner::judge::{is_late, too_late};
use crate::store::Store;
use crate::store::lease::LeaseRow;
use crate::store::listing::Ended;
use crate::store::peek::TypeState;
use crate::store::report::{Detail, LogLine, RunRow};
use crate::store::settle::Fate;
use crate::when::format_duration;

/// A tick older than this means that cron does not call: idle ones leave a stamp every five
/// minutes. Seconds.
const QUIET: i64 = 900;
/// Characters of a payload shown to people.
const PAYLOAD: usize = 2000;

/// `punctual show ID`.
///
/// # Errors
/// [`Failure`] 65 where there is no such event; the database's.
pub fn main(context: &Context, args: &ShowArgs) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Read)?;
    let case = Case::read(context, &mut store, EventId(args.id))?;
    if context.json {
        context.out.json(&case.json(context)?)?;
    } else {
        case.tell(context)?;
    }
    Ok(Exit::Ok as u8)
}

/// Everything there is to know about one event.
#[derive(Debug)]
struct Case {
    now: UnixSeconds,
    live: Option<Detail>,
    endings: Vec<Ended>,
    log: Vec<LogLine>,
    state: Option<TypeState>,
    lease: Option<LeaseRow>,
    holder: Option<Holder>,
    /// The run that claimed it.
    claimant: Option<RunRow>,
}

impl Case {
    fn read(context: &Context, store: &mut Store, id: EventId) -> anyhow::Result<Self> {
        let now = store.now()?;
        let live = store.detail(id)?;
        let endings = store.endings(id)?;
        if live.is_none() && endings.is_empty() {
            return Err(Failure::data(format!(
                "event {id} is not there: never was, or deleted, or pruned from history"
            ))
            .into());
        }
        let lease = store.lease_row()?;
        let holder = Holder::of(&context.config, store, lease.as_ref(), now)?;
        let claimant = match live.as_ref().and_then(|live| live.claim_epoch) {
            Some(epoch) => store.run_of(epoch)?,
            None => None,
        };
        let name = live.as_ref().map(|live| live.event.type_name.as_str());
        let states = store.type_states()?;
        let state = states
            .into_iter()
            .find(|state| Some(state.type_name.as_str()) == name);
        Ok(Self {
            now,
            log: store.log_of(id)?,
            live,
            endings,
            state,
            lease,
            holder,
            claimant,
        })
    }

    /// Why it stands as it stands.
    fn why(&self, context: &Context) -> Vec<String> {
        match &self.live {
            Some(live) if live.status == "running" => self.why_running(context, live),
            Some(live) => self.why_ready(context, live),
            None => self
                .endings
                .last()
                .map(|ended| why_ended(context, ended))
                .into_iter()
                .collect(),
        }
    }

    fn why_running(&self, context: &Context, live: &Detail) -> Vec<String> {
        let until = live.claim_until.map(|at| context.shown(at));
        let Some(run) = &self.claimant else {
            return vec![format!(
                "It is marked running, but no run is known to have claimed it; the next run \
                 recovers it{}.",
                until.map_or_else(String::new, |until| format!(" after {until}"))
            )];
        };
        let holder = Holder {
            run_id: Some(run.run_id),
            epoch: run.epoch.0,
            host: run.host.clone(),
            pid: Some(run.pid),
            started_at: Some(run.started_at.0),
        };
        let alive = self
            .holder
            .as_ref()
            .is_some_and(|now| now.epoch == run.epoch.0);
        let who = holder.name();
        if alive {
            let since = context.shown(run.started_at);
            return vec![format!(
                "{} is dealing with it, at work since {since}.",
                capital(&who)
            )];
        }
        vec![format!(
            "It was claimed by {who}, which is not at work any more; the next run recovers it, at \
             once if it can prove that death, else after {}.",
            until.unwrap_or_else(|| "its claim has run out".to_owned())
        )]
    }

    fn why_ready(&self, context: &Context, live: &Detail) -> Vec<String> {
        let event = &live.event;
        let mut all = Vec::new();
        if !(0..=UnixSeconds::MAX.0).contains(&event.due_at.0)
            || !PRIORITIES.contains(&event.priority)
        {
            all.push(
                "Its due_at is no Unix time, or its priority is not -2 to 2: no run fires it."
                    .to_owned(),
            );
        } else if event.due_at > self.now {
            all.push(self.why_waiting(context, live));
        } else {
            let late = format_duration(self.now.since(event.due_at));
            all.push(format!(
                "It is due since {} ({late}).",
                context.shown(event.due_at)
            ));
        }
        all.extend(self.why_its_type(context, live));
        if event.due_at <= self.now && all.len() == 1 {
            all.push(self.who_comes(context));
        }
        all.extend(self.how_far_its_sweep_is(live));
        all
    }

    /// A ready event that names an epoch is a sweep that was begun and not finished.
    fn how_far_its_sweep_is(&self, live: &Detail) -> Option<String> {
        live.claim_epoch?;
        let by = self.claimant.as_ref().map_or_else(String::new, |run| {
            format!(", last swept by run {}", run.run_id)
        });
        Some(format!(
            "Its sweep is under way{by}: what its passes have changed stands, and the next one \
             goes on where they stopped."
        ))
    }

    fn why_waiting(&self, context: &Context, live: &Detail) -> String {
        let event = &live.event;
        let (at, wait) = (
            context.shown(event.due_at),
            format_duration(event.due_at.since(self.now)),
        );
        if event.is_first_attempt() {
            return format!("It is not due before {at} (in {wait}).");
        }
        let tries = plural(event.attempts + event.losses + event.deferrals, "time");
        let error = live
            .last_error
            .as_deref()
            .unwrap_or("no reason was recorded");
        format!(
            "It was tried {tries} and waits for the next attempt at {at} (in {wait}). Last: {}",
            escape(error.trim_end())
        )
    }

    fn why_its_type(&self, context: &Context, live: &Detail) -> Vec<String> {
        let mut all = Vec::new();
        let name = escape(&live.event.type_name);
        let Some(configured) = context.config.types.get(&live.event.type_name) else {
            let hint = types::hint(&context.config, &live.event.type_name);
            all.push(format!(
                "The configuration has no [type.{name}]{hint}: it stays ready until it has."
            ));
            return all;
        };
        if let Some(until) = self.state.as_ref().and_then(|state| state.paused_until)
            && until > self.now
        {
            let until = match until {
                UnixSeconds::MAX => "it is resumed".to_owned(),
                until => context.shown(until),
            };
            all.push(format!(
                "Its type is paused until {until} (`punctual resume {name}`)."
            ));
        }
        if let Some(state) = &self.state
            && let Some(until) = state.open_until.filter(|&until| until > self.now)
        {
            all.push(format!(
                "Its type failed {} in a row and is left alone until {}.",
                plural(state.failures, "time"),
                context.shown(until)
            ));
        }
        let event = &live.event;
        if let Some(Fate::Finish { outcome, error, .. }) = too_late(configured, event, self.now) {
            let run = if event.due_at <= self.now {
                "the next run records"
            } else {
                "once it is due, a run records"
            };
            let why = error.unwrap_or_default();
            all.push(format!(
                "It will not be fired ({why}): {run} it as {outcome}."
            ));
        } else if event.is_first_attempt() && is_late(configured, event, self.now) {
            all.push("It is later than max_late, and is fired all the same.".to_owned());
        }
        all
    }

    fn who_comes(&self, context: &Context) -> String {
        if let Some(holder) = &self.holder {
            return format!(
                "{} is at work and takes it in its turn.",
                capital(&holder.name())
            );
        }
        match self.lease.as_ref().and_then(|lease| lease.last_tick_at) {
            Some(at) if self.now.since(at) <= QUIET => "The next run takes it.".to_owned(),
            Some(at) => format!(
                "No run has looked since {}: does cron still call `punctual run`?",
                context.shown(at)
            ),
            None => "No run has looked yet: does cron call `punctual run`?".to_owned(),
        }
    }

    fn json(&self, context: &Context) -> anyhow::Result<Json> {
        let mut all = match (&self.live, self.endings.last()) {
            (Some(live), _) => object(&EventLine::live(&live.event, &live.status))?,
            (None, Some(ended)) => object(&EventLine::finished(&ended.event, list::ending(ended)))?,
            (None, None) => Map::new(),
        };
        let event = self.live.as_ref().map(|live| &live.event);
        let event = event.or_else(|| self.endings.last().map(|ended| &ended.event));
        if let Some(event) = event {
            all.insert("deferrals".into(), event.deferrals.into());
            all.insert("first_due_at".into(), json!(seconds(event.first_due_at)));
            all.insert("expires_at".into(), json!(seconds(event.expires_at)));
        }
        if let Some(live) = &self.live {
            all.insert("origin".into(), json!(live.origin));
            all.insert("slot_at".into(), json!(seconds(live.slot_at)));
            all.insert("created_at".into(), json!(seconds(live.created_at)));
            all.insert(
                "claim_epoch".into(),
                json!(live.claim_epoch.map(|epoch| epoch.0)),
            );
            all.insert("claim_until".into(), json!(seconds(live.claim_until)));
            all.insert("last_error".into(), json!(live.last_error));
        }
        all.insert("why".into(), json!(self.why(context)));
        let history: Vec<Json> = self.endings.iter().map(ended_json).collect();
        all.insert("history".into(), history.into());
        let log: Vec<Json> = self.log.iter().map(log_json).collect();
        all.insert("log".into(), log.into());
        if let Some(slot) = event.and_then(|event| event.slot) {
            all.insert("slot_at".into(), slot.at.0.into());
            all.insert("slots".into(), slot.slots.into());
        }
        Ok(all.into())
    }

    fn tell(&self, context: &Context) -> anyhow::Result<()> {
        let out = &context.out;
        for (name, value) in self.facts(context) {
            out.line(format!("{name:<12}{value}"))?;
        }
        out.line("")?;
        for sentence in self.why(context) {
            out.line(sentence)?;
        }
        let trail = self.trail(context);
        if !trail.is_empty() {
            out.line("\ntrail:")?;
        }
        for line in trail {
            out.line(format!("  {line}"))?;
        }
        Ok(())
    }

    fn facts(&self, context: &Context) -> Vec<(&'static str, String)> {
        let ended = self.endings.last();
        let event = self.live.as_ref().map(|live| &live.event);
        let Some(event) = event.or_else(|| ended.map(|ended| &ended.event)) else {
            return Vec::new();
        };
        let status = match (&self.live, ended) {
            (Some(live), _) => escape(&live.status),
            (None, Some(ended)) => format!("finished: {}", escape(&ended.outcome)),
            (None, None) => String::new(),
        };
        let tries = format!(
            "{} failed, {} lost, {} put off",
            event.attempts, event.losses, event.deferrals
        );
        let mut facts = vec![
            ("event", event.id.to_string()),
            ("type", escape(&event.type_name)),
            ("status", status),
            ("due", context.shown(event.due_at)),
        ];
        if let Some(first) = event.first_due_at.filter(|&first| first != event.due_at) {
            facts.push(("first due", context.shown(first)));
        }
        if let Some(key) = &event.key {
            facts.push(("key", escape(&String::from_utf8_lossy(key))));
        }
        if event.priority != 0 {
            facts.push(("priority", event.priority.to_string()));
        }
        if let Some(at) = event.expires_at {
            facts.push(("expires", context.shown(at)));
        }
        facts.push(("tries", tries));
        if let Some(live) = &self.live {
            facts.extend(
                live.origin
                    .as_ref()
                    .map(|origin| ("origin", escape(origin))),
            );
            facts.extend(live.created_at.map(|at| ("added", context.shown(at))));
        }
        if let Some(slot) = event.slot {
            let missed = match slot.slots {
                0 | 1 => String::new(),
                slots => format!(", and {} missed before it", slots - 1),
            };
            facts.push(("slot", format!("{}{missed}", context.shown(slot.at))));
        }
        facts.push(("payload", short_payload(&event.payload, PAYLOAD)));
        facts
    }

    /// Decisions and endings in the order they happened; an ending says more than its log line.
    fn trail(&self, context: &Context) -> Vec<String> {
        let mut all: Vec<(UnixSeconds, String)> = Vec::new();
        for line in &self.log {
            let told =
                |ended: &Ended| ended.outcome == line.decision && ended.finished_at == line.at;
            if !self.endings.iter().any(told) {
                let text = format!("{}: {}", line.decision, line.detail.trim_end());
                all.push((line.at, format!("{}{}", by(line.run_id), escape(&text))));
            }
        }
        for ended in &self.endings {
            all.push((
                ended.finished_at,
                format!("{}{}", by(ended.run_id), told(ended)),
            ));
            if let (Some(at), Some(how)) = (ended.resolved_at, &ended.resolved_as)
                && how != "retried"
            {
                all.push((at, format!("by hand  resolved as {}", escape(how))));
            }
        }
        all.sort_by_key(|(at, _)| *at);
        all.into_iter()
            .map(|(at, text)| format!("{}  {text}", context.shown(at)))
            .collect()
    }
}

fn why_ended(context: &Context, ended: &Ended) -> String {
    let at = context.shown(ended.finished_at);
    let error = ended
        .error
        .as_deref()
        .map(str::trim_end)
        .filter(|error| !error.is_empty());
    let because = error.map_or_else(String::new, |error| format!(": {}", escape(error)));
    let tries = match ended.event.attempts + ended.event.losses {
        1 => "1 failed try".to_owned(),
        count => format!("{count} failed tries"),
    };
    let id = ended.event.id;
    match (ended.outcome.as_str(), ended.resolved_as.as_deref()) {
        ("done", _) => {
            let late = ended.lateness_s.unwrap_or(0).max(0);
            format!(
                "It was done at {at}, started {} after it was due.",
                format_duration(late)
            )
        }
        ("dead", None) => format!(
            "It was given up at {at} after {tries}{because}. `punctual retry {id}` puts it back, \
             `punctual resolve {id} --as dead` closes the case."
        ),
        ("unknown", None) => format!(
            "It was started, and nobody knows how it ended ({at}{because}). Find out, then \
             `punctual resolve {id} --as done` or `punctual retry {id}`."
        ),
        (outcome, Some(how)) => {
            format!(
                "It ended as {} at {at}{because}; resolved as {}.",
                escape(outcome),
                escape(how)
            )
        }
        (outcome, None) => format!("It ended as {} at {at}{because}.", escape(outcome)),
    }
}

fn told(ended: &Ended) -> String {
    let mut text = ended.outcome.clone();
    if let Some(late) = ended.lateness_s {
        text = format!("{text}, {} late", format_duration(late.max(0)));
    }
    if let Some(took) = ended.duration_ms {
        text = format!("{text}, took {took} ms");
    }
    if let Some(error) = &ended.error {
        text = format!("{text}: {}", error.trim_end());
    }
    escape(&text)
}

fn by(run_id: Option<i64>) -> String {
    run_id.map_or_else(|| "by hand  ".to_owned(), |id| format!("run {id}  "))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

fn object(value: &impl Serialize) -> anyhow::Result<Map<String, Json>> {
    match serde_json::to_value(value)? {
        Json::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}

fn ended_json(ended: &Ended) -> Json {
    json!({
        "outcome": ended.outcome,
        "finished_at": ended.finished_at.0,
        "run_id": ended.run_id,
        "lateness_s": ended.lateness_s,
        "duration_ms": ended.duration_ms,
        "attempts": ended.event.attempts,
        "losses": ended.event.losses,
        "deferrals": ended.event.deferrals,
        "error": ended.error,
        "resolved_at": seconds(ended.resolved_at),
        "resolved_as": ended.resolved_as,
    })
}

fn log_json(line: &LogLine) -> Json {
    json!({
        "at": line.at.0,
        "run_id": line.run_id,
        "decision": line.decision,
        "detail": line.detail,
    })
}

#[cfg(test)]
mod tests;
