//! A line of `import`.

use punctual::clock::UnixSeconds;
use punctual::cmd::import::line::{Event, Reading};
use punctual::cmd::output::shorten;
use punctual::when::parse_zone;
use serde_json::{Map, Value, json};

pub(crate) fn check(data: &[u8]) {
    let reading = Reading {
        now: UnixSeconds(1_795_335_300),
        zone: parse_zone("Europe/Amsterdam").expect("a zone"),
    };
    match reading.event(data, 2) {
        Ok(None) => assert!(String::from_utf8_lossy(data).trim().is_empty()),
        Ok(Some(event)) => {
            keeps_its_bounds(&event);
            says_what_the_line_says(&event, data);
            if let Some(line) = written(&event) {
                let again = reading.event(line.as_bytes(), 2);
                assert_eq!(again.as_ref(), Ok(&Some(event)), "{line}");
            }
        }
        Err(why) => {
            let said = shorten(&why, 300);
            assert!(
                !said.is_empty() && !said.chars().any(char::is_control),
                "{said:?}"
            );
        }
    }
    let _ = reading.event(data, 1);
}

fn keeps_its_bounds(event: &Event) {
    let new = event.as_new();
    assert!((1..=64).contains(&new.type_name.len()));
    assert!(new.key.is_none_or(|key| (1..=191).contains(&key.len())));
    assert!(event.payload_bytes() <= 1 << 20);
    assert!((-2..=2).contains(&new.priority));
    for at in [Some(new.due_at), new.expires_at].into_iter().flatten() {
        assert!((0..=UnixSeconds::MAX.0).contains(&at.0));
    }
}

/// Compared with what another reading of the JSON says. (Which has an end to its nesting.)
fn says_what_the_line_says(event: &Event, line: &[u8]) {
    let text = std::str::from_utf8(line).expect("an event is text");
    let Ok(fields) = serde_json::from_str::<Map<String, Value>>(text.trim()) else {
        return;
    };
    let new = event.as_new();
    assert_eq!(fields["type"], new.type_name);
    assert_eq!(fields.get("key").and_then(Value::as_str), new.key);
    match fields.get("payload") {
        Some(Value::String(text)) => assert_eq!(new.payload, Some(text.as_bytes())),
        Some(Value::Null) | None => {}
        Some(other) => {
            let stored = new.payload.expect("a payload");
            assert_eq!(
                &serde_json::from_slice::<Value>(stored).expect("JSON"),
                other
            );
        }
    }
}

/// The event as a line of its own, unless its payload is no text.
fn written(event: &Event) -> Option<String> {
    let new = event.as_new();
    let payload = new.payload.map(std::str::from_utf8).transpose().ok()?;
    let line = json!({
        "type": new.type_name,
        "due_at": new.due_at.0,
        "payload": payload,
        "key": new.key,
        "priority": new.priority,
        "expires": new.expires_at.map(|at| at.0),
    });
    Some(line.to_string())
}
