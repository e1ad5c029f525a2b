//! What people and programs get to see: lines, tables, JSON. Text from rows is shown escaped, so
//! that no payload moves a cursor.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::clock::UnixSeconds;
use crate::error::Failure;
use crate::event::Event;

/// Where a command's results go.
pub struct Output(RefCell<Box<dyn Write>>);

/// Nobody reads our output any more: no failure of ours, and nothing to say.
#[derive(Debug, thiserror::Error)]
#[error("stdout was closed")]
pub struct Closed;

impl Output {
    /// Stdout, written in large pieces; [`Output::flush`] comes at the end.
    pub fn stdout() -> Self {
        Self::to(BufWriter::with_capacity(64 << 10, io::stdout()))
    }

    /// Any writer.
    pub fn to(writer: impl Write + 'static) -> Self {
        Self(RefCell::new(Box::new(writer)))
    }

    /// One line.
    ///
    /// # Errors
    /// [`Closed`]; [`Failure`] 74.
    pub fn line(&self, text: impl fmt::Display) -> anyhow::Result<()> {
        explain(writeln!(self.0.borrow_mut(), "{text}"))
    }

    /// `value` as one line of JSON.
    ///
    /// # Errors
    /// [`Closed`]; [`Failure`] 74.
    pub fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(serde_json::to_string(value)?)
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// [`Closed`]; [`Failure`] 74.
    pub fn bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        explain(self.0.borrow_mut().write_all(bytes))
    }

    /// A table, if it has rows.
    ///
    /// # Errors
    /// [`Closed`]; [`Failure`] 74.
    pub fn table(&self, table: &Table) -> anyhow::Result<()> {
        if table.is_empty() {
            return Ok(());
        }
        self.line(table.trim_fmt())
    }

    /// Writes out what is held back.
    ///
    /// # Errors
    /// [`Closed`]; [`Failure`] 74.
    pub fn flush(&self) -> anyhow::Result<()> {
        explain(self.0.borrow_mut().flush())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Output")
    }
}

fn explain(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        Err(error) => Err(Failure::io(format!("stdout: {error}")).into()),
    }
}

/// An empty table; as wide as the terminal where stdout is one, as its contents where not.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.iter().copied());
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// One event as `list --json` and `run --dry-run --json` print it: keys in the order of DESIGN §7.
#[derive(Debug, Serialize)]
pub struct EventLine<'e> {
    /// `None` for a slot that is only planned.
    pub id: Option<i64>,
    /// Its type.
    #[serde(rename = "type")]
    pub type_name: &'e str,
    /// Unix seconds.
    pub due_at: i64,
    /// `ready`, `running` or `finished`.
    pub status: &'e str,
    /// −2 first.
    pub priority: i8,
    /// Failed tries.
    pub attempts: u32,
    /// Tries lost with a dying run.
    pub losses: u32,
    /// Its key.
    pub key: Option<Cow<'e, str>>,
    /// The payload where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<&'e str>,
    /// The payload where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// With `--history`.
    #[serde(flatten)]
    pub ending: Option<Ending<'e>>,
}

/// How a finished event ended.
#[derive(Debug, Serialize)]
pub struct Ending<'e> {
    /// Its outcome.
    pub outcome: &'e str,
    /// Unix seconds.
    pub finished_at: i64,
    /// Why, where it is not plain success.
    pub error: Option<&'e str>,
}

impl<'e> EventLine<'e> {
    /// A live event.
    pub fn live(event: &'e Event, status: &'e str) -> Self {
        let text = std::str::from_utf8(&event.payload).ok();
        Self {
            id: Some(event.id.0),
            type_name: &event.type_name,
            due_at: event.due_at.0,
            status,
            priority: event.priority,
            attempts: event.attempts,
            losses: event.losses,
            key: event.key.as_deref().map(String::from_utf8_lossy),
            payload: text,
            payload_base64: text.is_none().then(|| STANDARD.encode(&event.payload)),
            ending: None,
        }
    }

    /// A finished event.
    pub fn finished(event: &'e Event, ending: Ending<'e>) -> Self {
        Self {
            ending: Some(ending),
            ..Self::live(event, "finished")
        }
    }
}

/// A payload for a table cell: one line, at most `most` characters.
pub fn short_payload(payload: &[u8], most: usize) -> String {
    let text = match std::str::from_utf8(payload) {
        Ok(text) => text,
        // Cut by the query in the middle of a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&payload[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return "(binary)".to_owned(),
    };
    shorten(text, most)
}

/// `text` escaped and cut to `most` characters.
pub fn shorten(text: &str, most: usize) -> String {
    let cut: String = text.chars().take(most).collect();
    let mut shown = escape(&cut);
    if cut.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// `text` with everything made visible that could move a cursor, hide or reverse what follows.
pub fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => shown.extend(c.escape_default()),
            '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}' => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// `text` without the passwords of URLs in it (`mysql://user:password@host`): one may stand in the
/// wrong place of a command line, whose words messages repeat.
pub fn without_passwords(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, behind) = rest.split_at(at + 3);
        let word_end = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`');
        let (word, after) = behind.split_at(behind.find(word_end).unwrap_or(behind.len()));
        // A message that shortens a word may have cut the `@` off.
        let end = word.rfind('@').or_else(|| word.rfind('…'));
        shown.push_str(before);
        match word.find(':').zip(end) {
            Some((colon, end)) if colon < end => {
                shown.push_str(&word[..=colon]);
                shown.push('…');
                shown.push_str(&word[end..]);
            }
            _ => shown.push_str(word),
        }
        rest = after;
    }
    shown.push_str(rest);
    shown
}

/// `1 event`, `3 events`.
pub fn plural(count: impl Into<i128>, noun: &str) -> String {
    let count = count.into();
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// An instant as JSON has it.
pub fn seconds(at: Option<UnixSeconds>) -> Option<i64> {
    at.map(|at| at.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    fn event(payload: &[u8]) -> Event {
        Event {
            id: EventId(7),
            type_name: "mail".into(),
            due_at: UnixSeconds(100),
            first_due_at: None,
            payload: payload.to_vec(),
            key: None,
            priority: -1,
            expires_at: None,
            attempts: 1,
            losses: 2,
            deferrals: 3,
            slot: None,
        }
    }

    #[test]
    fn passwords_in_urls_are_left_out_and_nothing_else_is() {
        for (text, shown) in [
            (
                "found 'mysql://wiki:pw@host/db' there",
                "found 'mysql://wiki:…@host/db' there",
            ),
            (
                "mysql://wiki:p@w:x/@host, b://:q@c",
                "mysql://wiki:…@host, b://:…@c",
            ),
            ("mysql://wiki:half-a-pass…", "mysql://wiki:……"),
            ("mysql://wiki@host:3306/db", "mysql://wiki@host:3306/db"),
            (
                "http://host:80/a?b=c :// x:y@z",
                "http://host:80/a?b=c :// x:y@z",
            ),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }

    #[test]
    fn an_event_line_has_the_keys_of_the_contract_in_their_order() {
        let line = serde_json::to_string(&EventLine::live(&event(b"{}"), "ready")).unwrap();
        assert_eq!(
            line,
            r#"{"id":7,"type":"mail","due_at":100,"status":"ready","priority":-1,"attempts":1,"losses":2,"key":null,"payload":"{}"}"#
        );
    }

    #[test]
    fn a_payload_that_is_no_text_is_given_as_base64_and_an_ending_follows() {
        let ending = Ending {
            outcome: "dead",
            finished_at: 9,
            error: None,
        };
        let event = event(b"\xff\x00");
        let line = serde_json::to_string(&EventLine::finished(&event, ending)).unwrap();
        assert!(line.ends_with(
            r#""key":null,"payload_base64":"/wA=","outcome":"dead","finished_at":9,"error":null}"#
        ));
        assert!(line.contains(r#""status":"finished""#));
    }

    #[test]
    fn text_from_rows_cannot_move_the_cursor_or_turn_the_line() {
        assert_eq!(escape("a\u{1b}[2Jb\n\u{202e}c"), r"a\u{1b}[2Jb\n\u{202e}c");
        assert_eq!(shorten("ééééé", 3), "ééé…");
        assert_eq!(short_payload("é".as_bytes().split_at(1).0, 9), "");
        assert_eq!(short_payload(b"\xff\xfe!", 9), "(binary)");
    }

    #[test]
    fn a_closed_stdout_is_told_from_a_full_disk() {
        struct Fails(ErrorKind);
        impl Write for Fails {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let closed = Output::to(Fails(ErrorKind::BrokenPipe))
            .line("x")
            .unwrap_err();
        assert!(closed.is::<Closed>());
        let full = Output::to(Fails(ErrorKind::StorageFull))
            .line("x")
            .unwrap_err();
        assert!(full.is::<Failure>());
    }
}
