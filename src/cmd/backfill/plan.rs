//! The plan of a backfill: what it would make, how long that would take, and the command that does
//! it. Writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Context, Feed, Request, Window};
use crate::backfill::{Plan, Selection};
use crate::cmd::output::{self, plural, table};
use crate::cmd::progress::Progress;
use crate::cmd::types;
use crate::error::{Exit, Failure};
use crate::store::Store;
use crate::when::{format_duration, format_time};

/// Rows of the table that people are shown.
const SHOWN: usize = 60;

/// What a selection comes to.
#[derive(Debug, Default)]
pub(super) struct Count {
    /// Events that would be made, by type and day.
    pub(super) days: BTreeMap<(String, String), u64>,
    /// All of them.
    pub(super) events: u64,
    /// What is left out, by reason.
    pub(super) left_out: BTreeMap<String, u64>,
}

/// Counts what `feed`, which is at its beginning, would make.
///
/// # Errors
/// The database's.
pub(super) fn count(
    context: &Context,
    store: &mut Store,
    feed: &mut dyn Feed,
    limit: Option<u64>,
) -> anyhow::Result<Count> {
    let progress = Progress::of_rows(context, None);
    let mut count = Count::default();
    let limit = limit.unwrap_or(u64::MAX);
    'pages: while count.events < limit {
        let page = feed.next(store)?;
        if page.is_empty() {
            break;
        }
        for candidate in page {
            if let Some(why) = candidate.left_out {
                *count.left_out.entry(why.to_owned()).or_default() += 1;
                continue;
            }
            if count.events == limit {
                break 'pages;
            }
            let day = context.zone().local_at(candidate.at).date().to_string();
            *count.days.entry((candidate.type_name, day)).or_default() += 1;
            count.events += 1;
        }
        progress.at(count.events, || "events found".to_owned());
    }
    Ok(count)
}

/// Prints the plan.
///
/// # Errors
/// [`Failure`] 2 where the rate is too low; the database's.
pub(super) fn print(
    context: &Context,
    store: &mut Store,
    feed: &mut dyn Feed,
    request: &Request<'_>,
) -> anyhow::Result<u8> {
    let mut count = count(context, store, feed, request.bounds.limit)?;
    count.left_out.extend(feed.count_others(store)?);
    let now = store.now()?;
    let last = count.events.saturating_sub(1);
    let Some(last_due) = request.rate.due_at(now, last) else {
        let message = format!(
            "--rate: {} at {} would last until after the year 3000",
            plural(count.events, "event"),
            request.rate
        );
        return Err(Failure::usage(message).into());
    };
    let state = request.state(store, feed)?;
    let plan = Plan::new(request.terms(&state), count.events, feed.bound());
    let command = command(request, &plan);
    let (from, to) = request.selection.window();
    let mut notes = feed.notes(context, Window { from, to, now });
    let names: BTreeSet<&String> = count.days.keys().map(|(name, _)| name).collect();
    for name in names {
        if !types::is_configured(&context.config, name) {
            let name = output::escape(name);
            notes.push(format!(
                "no [type.{name}] is configured: its events will wait"
            ));
        }
    }
    let has_events = count.events > 0;
    if context.json {
        let days: Vec<Value> = count
            .days
            .iter()
            .map(|((name, day), events)| json!({ "type": name, "day": day, "events": events }))
            .collect();
        let left_out = count.left_out.iter();
        let left_out: Map<String, Value> = left_out
            .map(|(why, rows)| (why.clone(), json!(rows)))
            .collect();
        context.out.json(&json!({
            "sort": request.selection.sort(), "from": from.0, "to": to.0,
            "rate": request.rate.to_string(), "limit": request.bounds.limit,
            "events": count.events, "days": days, "zone": context.zone().name(),
            "left_out": left_out, "notes": notes,
            "first_due_at": has_events.then_some(now.0),
            "last_due_at": has_events.then_some(last_due.0),
            "plan": has_events.then(|| plan.to_string()),
            "command": has_events.then_some(command),
        }))?;
        return Ok(Exit::Ok as u8);
    }
    let what = match &request.selection {
        Selection::Slots { .. } => "slots",
        Selection::Source { .. } => "what expired",
        Selection::Again { .. } => "what finished",
    };
    let line = format!(
        "{what} from {} to {}",
        context.shown(from),
        context.shown(to)
    );
    context.out.line(line)?;
    let day = format!("day ({})", context.zone());
    let mut rows = table(&["type", &day, "events"]);
    for ((name, day), events) in count.days.iter().take(SHOWN) {
        rows.add_row([output::escape(name), day.clone(), events.to_string()]);
    }
    context.out.table(&rows)?;
    let more = count.days.len().saturating_sub(SHOWN);
    if more > 0 {
        let more = plural(u64::try_from(more).unwrap_or(u64::MAX), "row");
        context
            .out
            .line(format!("and {more} more (--json has all)"))?;
    }
    if has_events {
        let line = format!(
            "{} at {}: {} from the first to the last; applied now, due from {} to {}",
            plural(count.events, "event"),
            request.rate,
            format_duration(last_due.since(now)),
            format_time(now, context.zone()),
            format_time(last_due, context.zone()),
        );
        context.out.line(line)?;
    }
    for (why, rows) in &count.left_out {
        let why = output::escape(why);
        context.out.line(format!("left out: {rows} ({why})"))?;
    }
    for note in notes {
        context.out.line(format!("note: {note}"))?;
    }
    if has_events {
        let line = "nothing is written yet; this does it, and goes on where it was interrupted:";
        let command = output::escape(&command);
        context.out.line(format!("{line}\n  {command}"))?;
    } else {
        context.out.line("there is nothing to make")?;
    }
    Ok(Exit::Ok as u8)
}

/// The command that applies a plan, with bounds that stay the same, for a shell.
fn command(request: &Request<'_>, plan: &Plan) -> String {
    let mut words = vec!["punctual".to_owned()];
    if let Some(file) = &request.global.config {
        option(&mut words, "--config", &file.to_string_lossy());
    }
    if let Some(url) = &request.global.database {
        option(&mut words, "--database", url);
    }
    words.extend(["backfill".to_owned(), request.selection.sort().to_owned()]);
    let mut say = |flag: &str, value: &str| option(&mut words, flag, value);
    let (types, names) = match &request.selection {
        Selection::Slots { types, names, .. } => (types.as_slice(), names.as_slice()),
        Selection::Source { name, .. } => (&[][..], std::slice::from_ref(name)),
        Selection::Again {
            types,
            outcomes,
            error,
            ..
        } => {
            for outcome in outcomes {
                say("--outcome", outcome);
            }
            if let Some(error) = error {
                say("--error", error);
            }
            (types.as_slice(), &[][..])
        }
    };
    for name in types {
        say("--type", name);
    }
    let (from, to) = request.selection.window();
    say("--from", &format!("@{from}"));
    say("--to", &format!("@{to}"));
    say("--rate", &request.rate.to_string());
    if let Some(limit) = request.bounds.limit {
        say("--limit", &limit.to_string());
    }
    words.extend(["--apply".to_owned(), "--plan".to_owned(), plan.to_string()]);
    if names.iter().any(|name| name.starts_with('-')) {
        words.push("--".to_owned());
    }
    words.extend(names.iter().cloned());
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

fn option(words: &mut Vec<String>, flag: &str, value: &str) {
    if value.starts_with('-') {
        words.push(format!("{flag}={value}"));
    } else {
        words.extend([flag.to_owned(), value.to_owned()]);
    }
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:@=+,-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_comes_back_out_of_a_shell_as_it_was() {
        assert_eq!(quoted("--from=@5"), "--from=@5");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's $x"), r"'it'\''s $x'");
    }
}
