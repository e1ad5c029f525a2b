//! `list`: live and finished events, as a table for people or a line of JSON each.

use comfy_table::Table;

use super::output::{Ending, EventLine, escape, short_payload, shorten, table};
use super::{Context, complain};
use crate::cli::ListArgs;
use crate::clock::UnixSeconds;
use crate::db::{Access, DbResult};
use crate::error::{Exit, Failure};
use crate::event::{Event, EventId};
use crate::store::Store;
use crate::store::listing::{Ended, Endings, Live, Payload, Place, Selection};
use crate::store::report::{COUNTED_AT_MOST, Misfits};

/// Ids read at once.
const PAGE: usize = 500;
/// Rows of a table unless more are asked for.
const FOR_PEOPLE: u64 = 100;
/// What is left is counted up to this.
const LEFT_AT_MOST: u64 = 10_000;
/// Characters of a payload, key or error in a table.
const CELL: usize = 40;

/// `punctual list`.
///
/// # Errors
/// [`Failure`] 2 for a wrong time; the database's.
pub fn main(context: &Context, args: &ListArgs) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Read)?;
    let now = store.now()?;
    let mut selection = Selection {
        types: args.types.clone(),
        from: context.optional_time("--from", args.from.as_ref(), now)?,
        to: context.optional_time("--to", args.to.as_ref(), now)?,
        origin: args.origin.clone(),
    };
    let limit = args
        .limit
        .unwrap_or(if context.json { u64::MAX } else { FOR_PEOPLE });
    if args.history {
        history(context, &mut store, args, &selection, limit)?;
        return Ok(Exit::Ok as u8);
    }
    let live = match args.status.as_deref() {
        Some("running") => Live::Running,
        Some(_) => Live::Ready,
        None if args.due => Live::Ready,
        None => Live::Any,
    };
    if args.due {
        selection.to = Some(selection.to.map_or(now, |to| to.min(now)));
    }
    events(context, &mut store, live, &selection, limit)?;
    context.out.flush()?;
    for line in misfit_lines(&store.misfits()?, &store.misfit_priorities()?) {
        complain(&line);
    }
    Ok(Exit::Ok as u8)
}

/// What is said of rows that no run fires.
fn misfit_lines(due: &Misfits, priority: &Misfits) -> Vec<String> {
    let mut lines = Vec::new();
    if due.count > 0 {
        lines.push(format!(
            "{} a due_at that is no Unix time {}: no run fires them; set due_at to seconds since \
             1970 (UTC), or delete them",
            have(due),
            named(due),
        ));
    }
    if priority.count > 0 {
        lines.push(format!(
            "{} a priority outside -2 to 2 {}: no run fires them; set it, or delete them",
            have(priority),
            named(priority),
        ));
    }
    lines
}

fn have(misfits: &Misfits) -> String {
    match misfits.count {
        1 => "1 row has".to_owned(),
        count if count >= COUNTED_AT_MOST => format!("{COUNTED_AT_MOST} or more rows have"),
        count => format!("{count} rows have"),
    }
}

fn named(misfits: &Misfits) -> String {
    let ids: Vec<String> = misfits.ids.iter().map(ToString::to_string).collect();
    let more = if misfits.count > 0 && ids.len() < usize::try_from(misfits.count).unwrap_or(0) {
        ", …"
    } else {
        ""
    };
    let noun = if misfits.count == 1 { "id" } else { "ids" };
    format!("({noun} {}{more})", ids.join(", "))
}

fn events(
    context: &Context,
    store: &mut Store,
    live: Live,
    selection: &Selection,
    limit: u64,
) -> anyhow::Result<()> {
    let mut rows = live_table(context);
    let payload = shown_part(context);
    let (mut after, mut left): (Option<Place>, u64) = (None, limit);
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(PAGE);
        let page = store.live_page(live, selection, after, size)?;
        let ids: Vec<EventId> = page.iter().map(|&(_, id)| id).collect();
        store.live_events(&ids, payload, &mut |event, status| {
            if context.json {
                context.out.json(&EventLine::live(&event, &status))?;
            } else {
                rows.add_row(live_row(context, &event, &status));
            }
            Ok(true)
        })?;
        left -= page.len() as u64;
        after = page.last().copied().or(after);
        if page.len() < size {
            break;
        }
    }
    if context.json {
        return Ok(());
    }
    context.out.table(&rows)?;
    if rows.is_empty() {
        context.out.line("no events")?;
    }
    if left > 0 {
        return Ok(());
    }
    let more = count_pages(
        |after, size| store.live_page(live, selection, after, size),
        after,
    )?;
    say_more(context, more)
}

/// An empty table of live events; the zone of its times is in the header.
pub(super) fn live_table(context: &Context) -> Table {
    let due = format!("due ({})", context.zone());
    table(&[
        "id", "type", &due, "status", "pri", "tries", "key", "payload",
    ])
}

/// A row of a [`live_table`].
pub(super) fn live_row(context: &Context, event: &Event, status: &str) -> Vec<String> {
    vec![
        event.id.to_string(),
        escape(&event.type_name),
        local(context, event.due_at),
        escape(status),
        event.priority.to_string(),
        (event.attempts + event.losses).to_string(),
        shown_key(event),
        short_payload(&event.payload, CELL),
    ]
}

/// A table shows the beginning of a payload only; the rest of a large one is not even read.
fn shown_part(context: &Context) -> Payload {
    if context.json {
        Payload::Whole
    } else {
        Payload::Beginning
    }
}

fn shown_key(event: &Event) -> String {
    let key = event.key.as_deref().unwrap_or_default();
    shorten(&String::from_utf8_lossy(key), CELL)
}

/// A time in a column whose header names the zone.
fn local(context: &Context, at: UnixSeconds) -> String {
    let shown = context.shown(at);
    match shown.rsplit_once(' ') {
        Some((time, _)) if !shown.starts_with('@') => time.to_owned(),
        _ => shown,
    }
}

/// How many follow `after`, counted up to [`LEFT_AT_MOST`].
fn count_pages(
    mut page: impl FnMut(Option<Place>, usize) -> DbResult<Vec<Place>>,
    mut after: Option<Place>,
) -> anyhow::Result<u64> {
    let mut count = 0;
    while count < LEFT_AT_MOST {
        let found = page(after, PAGE)?;
        count += found.len() as u64;
        after = found.last().copied().or(after);
        if found.len() < PAGE {
            break;
        }
    }
    Ok(count)
}

fn say_more(context: &Context, more: u64) -> anyhow::Result<()> {
    match more {
        0 => Ok(()),
        more if more >= LEFT_AT_MOST => context
            .out
            .line(format!("and {LEFT_AT_MOST} or more; --limit N shows more")),
        more => context
            .out
            .line(format!("and {more} more; --limit N shows more")),
    }
}

fn history(
    context: &Context,
    store: &mut Store,
    args: &ListArgs,
    selection: &Selection,
    limit: u64,
) -> anyhow::Result<()> {
    let endings = match &args.outcome {
        Some(word) => Endings::Only(word.parse().map_err(Failure::usage)?),
        None => Endings::Any,
    };
    let due = format!("due ({})", context.zone());
    let mut rows = table(&[
        "id",
        "type",
        &due,
        "outcome",
        "finished",
        "tries",
        "key",
        "error or payload",
    ]);
    let payload = shown_part(context);
    let (mut before, mut left) = (None, limit);
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(PAGE);
        let page = store.history_page(selection, endings, before, size)?;
        store.ended_events(&page, payload, &mut |ended| {
            if context.json {
                context
                    .out
                    .json(&EventLine::finished(&ended.event, ending(&ended)))?;
            } else {
                rows.add_row(ended_row(context, &ended));
            }
            Ok(true)
        })?;
        left -= page.len() as u64;
        before = page.last().map(|id| id.0).or(before);
        if page.len() < size {
            break;
        }
    }
    if context.json {
        return Ok(());
    }
    context.out.table(&rows)?;
    if rows.is_empty() {
        return context.out.line("no finished events");
    }
    if left > 0 {
        return Ok(());
    }
    let more = count_pages(
        |after, size| {
            let below = after.map_or(before, |(_, id)| Some(id.0));
            let page = store.history_page(selection, endings, below, size)?;
            Ok(page.into_iter().map(|id| (UnixSeconds(0), id)).collect())
        },
        None,
    )?;
    say_more(context, more)
}

/// The part of a line that only `--history` has.
pub fn ending(ended: &Ended) -> Ending<'_> {
    Ending {
        outcome: &ended.outcome,
        finished_at: ended.finished_at.0,
        error: ended.error.as_deref(),
    }
}

fn ended_row(context: &Context, ended: &Ended) -> Vec<String> {
    let event = &ended.event;
    let what = match &ended.error {
        Some(error) => shorten(error.lines().next_back().unwrap_or_default(), CELL),
        None => short_payload(&event.payload, CELL),
    };
    let resolved = ended
        .resolved_as
        .as_ref()
        .map(|how| format!(", {}", escape(how)));
    vec![
        event.id.to_string(),
        escape(&event.type_name),
        local(context, event.due_at),
        format!("{}{}", escape(&ended.outcome), resolved.unwrap_or_default()),
        local(context, ended.finished_at),
        (event.attempts + event.losses).to_string(),
        shown_key(event),
        what,
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::cmd::fixture::Fixture;

    fn list(at: &Fixture, words: &[&str]) -> String {
        let words = ["punctual", "list"].iter().chain(words);
        let Command::List(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!()
        };
        main(&at.context, &args).unwrap();
        at.said()
    }

    fn ids(at: &mut Fixture, words: &[&str]) -> Vec<i64> {
        at.context.json = true;
        let printed = list(at, words);
        at.context.json = false;
        let id = |line: &str| {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            json["id"].as_i64().unwrap()
        };
        printed.lines().map(id).collect()
    }

    /// Four events: 1 and 2 due long ago, 3 running, 4 in the far future.
    fn four() -> Fixture {
        let at = Fixture::new();
        for (name, due) in [("a", 200), ("b", 100), ("a", 150), ("b", 4_000_000_000)] {
            at.insert(name, due);
        }
        at.exec("UPDATE scheduled_events SET status = 'running', claim_epoch = 1 WHERE id = 3");
        at
    }

    #[test]
    fn live_events_come_by_due_time_whatever_their_state() {
        let mut at = four();
        assert_eq!(ids(&mut at, &[]), [2, 3, 1, 4]);
        assert_eq!(ids(&mut at, &["--due"]), [2, 1]);
        assert_eq!(ids(&mut at, &["--status", "running"]), [3]);
        assert_eq!(ids(&mut at, &["--type", "b"]), [2, 4]);
        assert_eq!(
            ids(&mut at, &["--type", "a", "--type", "b", "--limit", "3"]),
            [2, 3, 1]
        );
        assert_eq!(ids(&mut at, &["--from", "@150", "--to", "@200"]), [3, 1]);
        let many: Vec<String> = (0..20)
            .map(|n| format!("t{n}"))
            .chain(["b".into()])
            .collect();
        let words: Vec<&str> = many.iter().flat_map(|name| ["--type", name]).collect();
        assert_eq!(ids(&mut at, &words), [2, 4]);
    }

    #[test]
    fn json_lines_have_exactly_the_keys_of_the_contract() {
        let mut at = Fixture::new();
        at.exec(
            "INSERT INTO scheduled_events (type, due_at, payload, unique_key) \
             VALUES ('a', 100, '{\"n\":1}', 'k')",
        );
        at.context.json = true;
        assert_eq!(
            list(&at, &[]),
            "{\"id\":1,\"type\":\"a\",\"due_at\":100,\"status\":\"ready\",\"priority\":0,\
             \"attempts\":0,\"losses\":0,\"key\":\"k\",\"payload\":\"{\\\"n\\\":1}\"}\n"
        );
    }

    #[test]
    fn many_events_of_one_instant_are_listed_once_each_over_many_pages() {
        let mut at = Fixture::new();
        at.exec(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1300) \
             INSERT INTO scheduled_events (type, due_at) SELECT 'a', 100 + i / 600 FROM n",
        );
        let listed = ids(&mut at, &[]);
        assert_eq!(listed, (1..=1300).collect::<Vec<i64>>());
        let table = list(&at, &["--limit", "5"]);
        assert!(table.contains("due (UTC)"), "{table}");
        assert!(
            table.ends_with("and 1295 more; --limit N shows more\n"),
            "{table}"
        );
        assert!(list(&at, &[]).ends_with("and 1200 more; --limit N shows more\n"));
    }

    #[test]
    fn payloads_larger_than_memory_allows_at_once_are_read_in_parts() {
        let mut at = Fixture::new();
        at.exec(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12) \
             INSERT INTO scheduled_events (type, due_at, payload) \
             SELECT 'a', 100, printf('%.*c', 1000000, 'x') FROM n",
        );
        assert_eq!(ids(&mut at, &[]), (1..=12).collect::<Vec<i64>>());
        assert!(list(&at, &[]).contains(&format!("{}…", "x".repeat(CELL))));
    }

    #[test]
    fn nothing_in_a_row_reaches_the_terminal_unescaped() {
        let at = Fixture::new();
        at.exec(
            "INSERT INTO scheduled_events (type, due_at, payload) \
             VALUES ('a', 100, 'x' || char(27) || '[2J' || char(10) || 'y')",
        );
        let table = list(&at, &[]);
        assert!(table.contains(r"x\u{1b}[2J\ny"), "{table}");
    }

    #[test]
    fn finished_events_come_newest_first() {
        let mut at = four();
        let mut store = at.store();
        store.cancel(&[EventId(2)], UnixSeconds(500)).unwrap();
        store.cancel(&[EventId(4)], UnixSeconds(600)).unwrap();
        drop(store);
        assert_eq!(ids(&mut at, &["--history"]), [4, 2]);
        assert_eq!(ids(&mut at, &["--history", "--to", "@1000"]), [2]);
        assert!(ids(&mut at, &["--history", "--outcome", "dead"]).is_empty());
        at.context.json = true;
        let line = list(&at, &["--history", "--limit", "1"]);
        assert!(
            line.ends_with(
                ",\"key\":null,\"payload\":\"\",\"outcome\":\"cancelled\",\"finished_at\":600,\
                 \"error\":\"cancelled by hand\"}\n"
            ),
            "{line}"
        );
        assert!(line.contains("\"status\":\"finished\""));
    }

    #[test]
    fn rows_that_slipped_past_a_check_are_named() {
        let at = Fixture::new();
        at.exec("PRAGMA ignore_check_constraints = ON");
        let mut store = at.store();
        for sql in [
            "PRAGMA ignore_check_constraints = ON",
            "INSERT INTO scheduled_events (type, due_at) VALUES ('a', 1795335300000)",
            "INSERT INTO scheduled_events (type, due_at) VALUES ('a', '2026-11-22 01:36:13')",
            "INSERT INTO scheduled_events (type, due_at) VALUES ('a', -5)",
            "INSERT INTO scheduled_events (type, due_at, priority) VALUES ('a', 5, 9)",
        ] {
            store.db().execute(sql, &[]).unwrap();
        }
        let lines = misfit_lines(
            &store.misfits().unwrap(),
            &store.misfit_priorities().unwrap(),
        );
        assert!(
            lines[0].starts_with("3 rows have a due_at that is no Unix time (ids "),
            "{lines:?}"
        );
        assert!(
            lines[1].starts_with("1 row has a priority outside -2 to 2 (id 4)"),
            "{lines:?}"
        );
    }
}
