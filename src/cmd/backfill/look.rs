//! `backfill list` and `show`: how far backfills have come.

use serde_json::{Map, Value, json};

use super::Context;
use crate::backfill::origin;
use crate::cmd::output::{self, seconds, table};
use crate::db::Access;
use crate::error::{Exit, Failure};
use crate::store::backfill::Backfill;

/// Backfills listed.
const LISTED: usize = 100;

fn state(backfill: &Backfill) -> &'static str {
    match (backfill.cancelled_at, backfill.finished_at) {
        (Some(_), _) => "cancelled",
        (None, Some(_)) => "written",
        (None, None) => "unfinished",
    }
}

fn object(backfill: &Backfill) -> Map<String, Value> {
    let selection: Value = serde_json::from_str(&backfill.selection).unwrap_or(Value::Null);
    let object = json!({
        "backfill": backfill.id, "sort": backfill.sort, "state": state(backfill),
        "planned": backfill.planned, "written": backfill.written, "rate": backfill.rate,
        "limit": backfill.most, "selection": selection, "plan": backfill.plan,
        "created_at": backfill.created_at.0, "finished_at": seconds(backfill.finished_at),
        "cancelled_at": seconds(backfill.cancelled_at),
    });
    match object {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// `punctual backfill list`.
///
/// # Errors
/// The database's.
pub(super) fn list(context: &Context) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Read)?;
    let all = store.backfills(LISTED)?;
    let begun = format!("begun ({})", context.zone());
    let mut rows = table(&["id", "sort", "state", "written", "planned", "rate", &begun]);
    for backfill in &all {
        if context.json {
            context.out.json(&object(backfill))?;
            continue;
        }
        rows.add_row([
            backfill.id.to_string(),
            output::escape(&backfill.sort),
            state(backfill).to_owned(),
            backfill.written.to_string(),
            backfill.planned.to_string(),
            output::escape(&backfill.rate),
            context.shown(backfill.created_at),
        ]);
    }
    if !context.json {
        context.out.table(&rows)?;
        if all.is_empty() {
            context.out.line("no backfills")?;
        }
    }
    Ok(Exit::Ok as u8)
}

/// `punctual backfill show ID`.
///
/// # Errors
/// [`Failure`] 2 where there is none; the database's.
pub(super) fn show(context: &Context, id: i64) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Read)?;
    let Some(backfill) = store.backfill(id)? else {
        return Err(Failure::usage(format!("there is no backfill {id}")).into());
    };
    let live = store.backfill_live(id)?;
    let ended = store.backfill_ended(&backfill)?;
    if context.json {
        let counts = |counts: &[(String, i64)]| {
            let fields = counts
                .iter()
                .map(|(what, events)| (what.clone(), json!(events)));
            Value::Object(fields.collect::<Map<_, _>>())
        };
        let mut object = object(&backfill);
        object.insert("live".into(), counts(&live));
        object.insert("ended".into(), counts(&ended));
        context.out.json(&object)?;
        return Ok(Exit::Ok as u8);
    }
    let mut facts = vec![
        ("backfill", format!("{id}, {}", state(&backfill))),
        ("selection", output::escape(&backfill.selection)),
        ("rate", output::escape(&backfill.rate)),
        ("begun", context.shown(backfill.created_at)),
    ];
    let ends = [
        ("finished", backfill.finished_at),
        ("cancelled", backfill.cancelled_at),
    ];
    let ends = ends
        .into_iter()
        .filter_map(|(what, at)| Some((what, context.shown(at?))));
    facts.extend(ends);
    facts.push((
        "written",
        format!("{} of {}", backfill.written, backfill.planned),
    ));
    let counted = live.iter().chain(&ended);
    let counted: Vec<String> = counted
        .map(|(what, events)| format!("{events} {}", output::escape(what)))
        .collect();
    facts.push(("events", counted.join(", ")));
    facts.push(("origin", origin(id)));
    for (fact, value) in facts {
        context.out.line(format!("{fact:<12}{value}"))?;
    }
    Ok(Exit::Ok as u8)
}
