//! `sources`: which queries events are derived from, how far each has been looked at, and what it
//! would derive now. They are stated in the configuration and changed there.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Context;
use super::output::{self, seconds, short_payload, table};
use crate::cli::{SourcesArgs, SourcesCommand};
use crate::clock::UnixSeconds;
use crate::db::Access;
use crate::error::{Exit, Failure};
use crate::nearest::did_you_mean;
use crate::runner::sources::preview::preview;
use crate::source::{Derived, Source};
use crate::store::Store;
use crate::store::sources::ScanRow;
use crate::when::format_duration;

/// Events shown of what a source would derive now.
const SHOWN: usize = 5;
/// Characters of a payload shown to people.
const PAYLOAD: usize = 60;

/// `punctual sources COMMAND`.
///
/// # Errors
/// As the command.
pub fn main(context: &Context, args: &SourcesArgs) -> anyhow::Result<u8> {
    match &args.command {
        SourcesCommand::List => list(context),
        SourcesCommand::Show(args) => show(context, &args.name),
    }
}

/// A source as it stands: stated, and how far it has been looked at.
struct Known<'c> {
    name: &'c str,
    stated: &'c Source,
    /// `None`: no run has seen it as it is stated now.
    row: Option<ScanRow>,
}

impl Known<'_> {
    /// What keeps it from deriving anything, or is to be known of it.
    fn state(&self) -> String {
        let Some(row) = &self.row else {
            let state = if self.stated.enabled {
                "the next run sees it"
            } else {
                "disabled"
            };
            return state.to_owned();
        };
        match (&row.error, &row.began) {
            _ if !self.stated.enabled => "disabled".to_owned(),
            (Some(error), _) => format!("fails: {}", output::escape(error)),
            (None, Some(_)) => format!("the next run goes on, {} rows so far", row.rows_seen),
            (None, None) => row
                .remark
                .as_deref()
                .map_or_else(String::new, output::escape),
        }
    }

    fn json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("name".into(), self.name.into());
        if let Ok(Value::Object(fields)) = serde_json::to_value(self.stated) {
            object.extend(fields);
        }
        let row = self.row.as_ref();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        put("watermark", json!(row.map(|row| row.watermark.0)));
        put("window_end", json!(row.map(|row| row.window_end.0)));
        put("scan_began", json!(seconds(row.and_then(|row| row.began))));
        put(
            "looked_at",
            json!(seconds(row.and_then(|row| row.looked_at))),
        );
        put("next_look", json!(seconds(row.and_then(|row| row.next))));
        put("rows", json!(row.map(|row| row.rows_seen)));
        put("made", json!(row.map(|row| row.made)));
        put("moved", json!(row.map(|row| row.moved)));
        put("missed", json!(row.map(|row| row.missed)));
        put("error", json!(row.and_then(|row| row.error.as_deref())));
        put("remark", json!(row.and_then(|row| row.remark.as_deref())));
        object
    }
}

/// All sources of the configuration, by name.
fn all<'c>(context: &'c Context, store: &mut Store) -> anyhow::Result<Vec<Known<'c>>> {
    let rows = store.scans()?.into_iter();
    let mut rows: BTreeMap<String, ScanRow> = rows.map(|row| (row.source.clone(), row)).collect();
    let stated = context.config.sources.iter();
    Ok(stated
        .map(|(name, stated)| Known {
            name,
            stated,
            row: rows.remove(name).filter(|row| row.rule == stated.to_json()),
        })
        .collect())
}

fn list(context: &Context) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Read)?;
    let known = all(context, &mut store)?;
    if context.json {
        for known in &known {
            context.out.json(&known.json())?;
        }
        return Ok(Exit::Ok as u8);
    }
    let next = format!("next look ({})", context.zone());
    let mut rows = table(&["name", "type", "every", "lead", "rows", &next, "state"]);
    for known in &known {
        let row = known.row.as_ref();
        rows.add_row([
            output::shorten(known.name, 64),
            output::escape(&known.stated.type_name),
            length(known.stated.every),
            length(known.stated.lead),
            row.map_or_else(String::new, |row| row.rows_seen.to_string()),
            row.and_then(|row| row.next)
                .map_or_else(|| "none".to_owned(), |at| context.shown(at)),
            known.state(),
        ]);
    }
    context.out.table(&rows)?;
    if known.is_empty() {
        context.out.line("no sources")?;
    }
    Ok(Exit::Ok as u8)
}

fn length(seconds: u64) -> String {
    format_duration(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// A source of the configuration.
///
/// # Errors
/// [`Failure`] 2: there is none of that name.
pub(super) fn find<'c>(context: &'c Context, name: &str) -> Result<(&'c str, &'c Source), Failure> {
    let Some((name, stated)) = context.config.sources.get_key_value(name) else {
        let known = context.config.sources.keys().map(String::as_str);
        let hint = output::escape(&did_you_mean(name, known));
        let name = output::shorten(name, 64);
        let message = format!("the configuration has no [source.{name}]{hint}");
        return Err(Failure::usage(message));
    };
    Ok((name, stated))
}

fn show(context: &Context, name: &str) -> anyhow::Result<u8> {
    let (name, stated) = find(context, name)?;
    let mut store = context.open(Access::Read)?;
    let now = store.now()?;
    let row = store.scan(name)?.filter(|row| !row.rule.is_empty());
    let until = stated.window_end(now);
    let derived = preview(
        &mut store,
        (name, stated),
        row.as_ref(),
        (now, until),
        SHOWN,
    )?;
    let row = row.filter(|row| row.rule == stated.to_json());
    let known = Known { name, stated, row };
    if context.json {
        let mut object = known.json();
        let would = match &derived {
            Ok(derived) => derived.iter().map(|one| one_json(stated, one)).collect(),
            Err(why) => json!({ "error": why }),
        };
        object.insert("would_derive".into(), would);
        context.out.json(&object)?;
        return Ok(Exit::Ok as u8);
    }
    let shown = |at: Option<UnixSeconds>| at.map_or_else(|| "never".into(), |at| context.shown(at));
    let mut facts = vec![
        ("source", output::escape(name)),
        ("type", output::escape(&stated.type_name)),
        ("sql", output::escape(&stated.sql)),
        ("every", length(stated.every)),
        ("horizon", length(stated.horizon)),
        ("lead", length(stated.lead)),
    ];
    if let Some(row) = &known.row {
        facts.push(("looked at", shown(row.looked_at)));
        facts.push(("next look", shown(row.next)));
        let counts = format!(
            "{}: {} new, {} moved, {} not found",
            output::plural(row.rows_seen, "row"),
            row.made,
            row.moved,
            row.missed
        );
        facts.push(("found", counts));
    }
    let state = known.state();
    if !state.is_empty() {
        facts.push(("state", state));
    }
    for (fact, value) in facts {
        context.out.line(format!("{fact:<10} {value}"))?;
    }
    match derived {
        Err(why) => context
            .out
            .line(format!("its query fails: {}", output::escape(&why)))?,
        Ok(derived) if derived.is_empty() => {
            context
                .out
                .line("looked at now it would derive nothing new")?;
        }
        Ok(derived) => {
            context
                .out
                .line("looked at now it would derive, among others:")?;
            let mut rows = table(&["key", "expires", "due", "payload"]);
            for one in &derived {
                rows.add_row([
                    output::escape(&one.key),
                    context.shown(one.expiry),
                    context.shown(stated.due_at(one.expiry)),
                    short_payload(one.payload.as_deref().unwrap_or("").as_bytes(), PAYLOAD),
                ]);
            }
            context.out.table(&rows)?;
        }
    }
    Ok(Exit::Ok as u8)
}

fn one_json(source: &Source, one: &Derived) -> Value {
    json!({
        "key": one.key, "expires_at": one.expiry.0, "due_at": source.due_at(one.expiry).0,
        "payload": one.payload,
    })
}
