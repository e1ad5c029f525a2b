//! The report: what was found, rendered as `RESULTS.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::machine;
use super::measure::Spread;
use super::row::{Findings, Reach, Row, Unit};
use crate::{SUBJECTS, Scale, Subject};

/// Renders all findings of this scale into its `RESULTS.md`.
pub(crate) fn write(scale: &Scale, note: &str) {
    let mut text = head(scale, note);
    for subject in &SUBJECTS {
        section(&mut text, scale, subject);
    }
    let path = scale.report();
    fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    eprintln!("written: {}", path.display());
}

fn head(scale: &Scale, note: &str) -> String {
    let mut text =
        "# Figures\n\nMade by `contrib/bench/run`; not to be edited by hand.\n\n".to_owned();
    if scale.quick {
        text += "**A quick look: small sizes, one round. Good for nothing but to see that the \
                 benches work.**\n\n";
    }
    if !note.is_empty() {
        let _ = writeln!(text, "**{note}**\n");
    }
    text += "| | |\n| --- | --- |\n";
    for (what, value) in machine::facts() {
        let _ = writeln!(text, "| {what} | {value} |");
    }
    text += "\nSQLite: `synchronous = FULL`. MariaDB: its own defaults \
             (`innodb_flush_log_at_trx_commit = 1`, buffer pool 128 MiB, log 96 MiB), a private \
             server over its socket. Databases, `punctual` and whatever it is held against share \
             this one machine.\n\n\
             Each figure is a median, with the lowest and the highest run behind it. A figure and \
             its limit were measured in turn on the same database; the ratio is that of their \
             medians. *Reach* bounds the ratio, or the figure where there is no limit.\n";
    text
}

fn section(text: &mut String, scale: &Scale, subject: &Subject) {
    let _ = write!(text, "\n## {}\n\n{}\n\n", subject.title, subject.about);
    let Some(findings) = Findings::read(&scale.directory(), subject.name) else {
        *text += "Not measured yet.\n";
        return;
    };
    *text += "| what | database | punctual | limit | ratio | reach | |\n\
              | --- | --- | --: | --: | --: | --- | --- |\n";
    for row in &findings.rows {
        let _ = writeln!(text, "{}", cells(row));
    }
    let _ = write!(
        text,
        "\n`contrib/bench/run {}`: {} rounds; load averages before and after: {}; {}.\n",
        subject.name, findings.rounds, findings.load[0], findings.load[1]
    );
    let missed = findings
        .rows
        .iter()
        .filter(|row| row.is_reached() == Some(false));
    for (key, reason) in missed.filter_map(|row| Some((&row.key, reason(&row.key)?))) {
        let _ = write!(text, "\n- `{key}`: {reason}\n");
    }
}

fn cells(row: &Row) -> String {
    let limit = match (row.limit, row.against.as_str()) {
        (None, _) => String::new(),
        (Some(limit), "") => shown(limit, row.unit),
        (Some(limit), against) => format!("{against}: {}", shown(limit, row.unit)),
    };
    let ratio = row
        .ratio()
        .map(|ratio| format!("{ratio:.2}"))
        .unwrap_or_default();
    let reach = match row.reach {
        None => String::new(),
        Some(Reach::AtLeast(bound)) => format!("≥ {}", bounded(bound, row)),
        Some(Reach::AtMost(bound)) => format!("≤ {}", bounded(bound, row)),
    };
    let verdict = match row.is_reached() {
        None => "",
        Some(true) => "reached",
        Some(false) => "**missed**",
    };
    let Row { what, place, .. } = row;
    let figure = shown(row.figure, row.unit);
    format!("| {what} | {place} | {figure} | {limit} | {ratio} | {reach} | {verdict} |")
}

/// A row on a terminal.
pub(crate) fn plain(row: &Row) -> String {
    format!("  {} {}", row.key, cells(row))
}

fn bounded(bound: f64, row: &Row) -> String {
    match row.limit {
        Some(_) => format!("{bound}"),
        None => with_unit(bound, row.unit),
    }
}

fn shown(spread: Spread, unit: Unit) -> String {
    let Spread {
        median,
        least,
        most,
    } = spread;
    let one = with_unit(median, unit);
    if number(least) == number(most) {
        return one;
    }
    format!("{one} ({}–{})", number(least), number(most))
}

fn with_unit(value: f64, unit: Unit) -> String {
    let unit = match unit {
        Unit::PerSecond => "/s",
        Unit::Milliseconds => " ms",
        Unit::Microseconds => " µs",
        Unit::Mebibytes => " MiB",
        Unit::Count => "",
    };
    number(value) + unit
}

/// Three digits that count, thousands apart.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = match value.abs() {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = match text.split_once('.') {
        Some((whole, rest)) => (whole, format!(".{rest}")),
        None => (text.as_str(), String::new()),
    };
    let mut apart = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart + &rest
}

/// What `contrib/bench/reasons` says of a row that misses its bound: `key: reason` a line, where
/// `key` may be the beginning of several rows' keys.
fn reason(key: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/bench/reasons");
    let text = fs::read_to_string(path).ok()?;
    text.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(known, _)| !known.starts_with('#') && key.starts_with(known))
        .map(|(_, reason)| reason.to_owned())
}
