//! One line of an import: a JSON object turned into an event, or the reason why not. No I/O.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::clock::UnixSeconds;
use crate::cmd::add::{check_lengths, later};
use crate::cmd::types;
use crate::event::PRIORITIES;
use crate::store::desk::NewEvent;
use crate::when::{parse_duration, parse_time};
use crate::zone::Zone;

/// How times are read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The database's clock.
    pub now: UnixSeconds,
    /// Of times without a zone.
    pub zone: Zone,
}

/// An event that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    type_name: String,
    due_at: UnixSeconds,
    payload: Option<Vec<u8>>,
    key: Option<String>,
    priority: i8,
    expires_at: Option<UnixSeconds>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'l> {
    #[serde(rename = "type")]
    type_name: String,
    at: Option<Json>,
    r#in: Option<String>,
    due_at: Option<Json>,
    #[serde(borrow)]
    payload: Option<&'l RawValue>,
    payload_base64: Option<String>,
    key: Option<String>,
    priority: Option<i64>,
    expires: Option<Json>,
}

impl Event {
    /// As the store takes it.
    pub fn as_new(&self) -> NewEvent<'_> {
        NewEvent {
            type_name: &self.type_name,
            due_at: self.due_at,
            payload: self.payload.as_deref(),
            key: self.key.as_deref(),
            priority: self.priority,
            expires_at: self.expires_at,
        }
    }

    /// Bytes of payload.
    pub fn payload_bytes(&self) -> usize {
        self.payload.as_ref().map_or(0, Vec::len)
    }
}

impl Reading {
    /// Reads line `number`; an empty one holds nothing.
    ///
    /// # Errors
    /// The reason, for one line of a message.
    pub fn event(&self, text: &[u8], number: u64) -> Result<Option<Event>, String> {
        let text = std::str::from_utf8(text).map_err(|_| "is no UTF-8 text".to_owned())?;
        // What editors of another system put before the first line.
        let text = if number == 1 {
            text.trim_start_matches('\u{feff}')
        } else {
            text
        };
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if !text.starts_with('{') {
            return Err("is no JSON object".to_owned());
        }
        let line: Line<'_> = serde_json::from_str(text).map_err(|error| explain(&error))?;
        self.check(line).map(Some)
    }

    fn check(&self, line: Line<'_>) -> Result<Event, String> {
        let due_at = self.due_at(&line)?;
        if let Some(mistake) = types::mistake(&line.type_name) {
            return Err(mistake);
        }
        let payload = payload(line.payload, line.payload_base64)?;
        check_lengths(payload.as_deref(), line.key.as_deref())?;
        let priority = i8::try_from(line.priority.unwrap_or(0))
            .ok()
            .filter(|priority| PRIORITIES.contains(priority))
            .ok_or("priority must be -2 to 2")?;
        let expires_at = match &line.expires {
            Some(json) => Some(self.instant("expires", json)?),
            None => None,
        };
        Ok(Event {
            type_name: line.type_name,
            due_at,
            payload,
            key: line.key,
            priority,
            expires_at,
        })
    }

    fn due_at(&self, line: &Line<'_>) -> Result<UnixSeconds, String> {
        match (&line.at, &line.r#in, &line.due_at) {
            (Some(json), None, None) => self.instant("at", json),
            (None, None, Some(json)) => self.instant("due_at", json),
            (None, Some(text), None) => {
                let wait = parse_duration(text).map_err(|error| format!("in: {error}"))?;
                later(self.now, wait).map_err(|error| format!("in: {error}"))
            }
            (None, None, None) => Err("has no time: one of at, in, due_at is needed".to_owned()),
            _ => Err("has more than one of at, in, due_at".to_owned()),
        }
    }

    /// A time as text, or Unix seconds.
    fn instant(&self, name: &str, json: &Json) -> Result<UnixSeconds, String> {
        match (json.as_str(), json.as_i64()) {
            (Some(text), _) => {
                parse_time(text, &self.zone, self.now).map_err(|error| format!("{name}: {error}"))
            }
            (None, Some(seconds)) if (0..=UnixSeconds::MAX.0).contains(&seconds) => {
                Ok(UnixSeconds(seconds))
            }
            (None, Some(seconds)) => Err(format!(
                "{name}: {seconds} lies outside 1970 to 3000; it takes seconds, not milliseconds"
            )),
            (None, None) => Err(format!("{name} must be a time or whole Unix seconds")),
        }
    }
}

/// A string is stored as it is; any other JSON as its own text, digit for digit, but without the
/// blanks between its parts.
fn payload(json: Option<&RawValue>, base64: Option<String>) -> Result<Option<Vec<u8>>, String> {
    match (json, base64) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err("has both payload and payload_base64".to_owned()),
        (None, Some(text)) => match STANDARD.decode(text) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(format!("payload_base64: {error}")),
        },
        (Some(raw), None) if raw.get().starts_with('"') => {
            // Without a column, which would be counted from where the payload begins.
            let text: String = serde_json::from_str(raw.get())
                .map_err(|error| format!("payload: {}", without_place(&error)))?;
            Ok(Some(text.into_bytes()))
        }
        (Some(raw), None) => Ok(Some(compact(raw.get()).into_bytes())),
    }
}

fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            in_string = c == '"';
        }
        text.push(c);
    }
    text
}

/// serde's message; its line number would be that of a one-line text.
fn explain(error: &serde_json::Error) -> String {
    format!("{} (column {})", without_place(error), error.column())
}

fn without_place(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    text.truncate(text.rfind(" at line ").unwrap_or(text.len()));
    text
}
