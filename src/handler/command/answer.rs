//! What a batch handler prints: lines, and what each answers. Pure; never panics, whatever bytes
//! come, and never holds more than one line of [`MAX_LINE`].

use std::time::Duration;

use serde_json::{Map, Value};

use crate::event::{EventId, MAX_ERROR_BYTES, keep_tail};
use crate::handler::Verdict;

/// The longest line that is read, in bytes.
pub const MAX_LINE: usize = 64 * 1024;
/// The longest delay a handler may wish for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(366 * 24);

/// One line that answers for one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Which.
    pub id: EventId,
    /// What became of it.
    pub verdict: Verdict,
}

/// Reads one line; `None`: it answers nothing.
///
/// `"dead": true` gives up; otherwise an `error` is a failure, with the handler's own delay if
/// there is a `retry_after`; otherwise `"ok": true` is done; otherwise a `retry_after` is "try
/// later"; otherwise `"ok": false` is a failure. `null` counts as absent.
pub fn parse(line: &[u8]) -> Option<Answer> {
    let mut fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
    fields.retain(|_, value| !value.is_null());
    let id = EventId(fields.get("id")?.as_i64()?);
    let ok = flag(&fields, "ok")?;
    let dead = flag(&fields, "dead")?;
    let retry_after = match fields.get("retry_after") {
        Some(value) => Some(delay(value)?),
        None => None,
    };
    let error = fields.get("error").and_then(error_text);
    let says = |text: &str| error.clone().unwrap_or_else(|| text.to_owned());
    let verdict = match (dead, ok) {
        (Some(true), _) => Verdict::GiveUp {
            error: says("the handler gave up (dead)"),
        },
        _ if error.is_some() => Verdict::Failed {
            error: says(""),
            retry_after,
        },
        (_, Some(true)) => Verdict::Done,
        _ if retry_after.is_some() => Verdict::Later {
            error: says("the handler asked for a later try"),
            retry_after,
        },
        (_, Some(false)) => Verdict::Failed {
            error: says("the handler answered ok: false"),
            retry_after,
        },
        _ => return None,
    };
    Some(Answer { id, verdict })
}

/// `Some(None)`: absent; `None`: neither true nor false.
#[expect(clippy::option_option, reason = "absent and nonsense are told apart")]
fn flag(fields: &Map<String, Value>, name: &str) -> Option<Option<bool>> {
    match fields.get(name) {
        Some(value) => value.as_bool().map(Some),
        None => Some(None),
    }
}

/// Seconds, with or without a fraction.
fn delay(value: &Value) -> Option<Duration> {
    let seconds = value.as_f64().filter(|&seconds| seconds >= 0.0)?;
    let delay = Duration::try_from_secs_f64(seconds).unwrap_or(MAX_RETRY_AFTER);
    Some(delay.min(MAX_RETRY_AFTER))
}

/// The text of an error; `None` for what many languages write when there is none.
fn error_text(value: &Value) -> Option<String> {
    let text = match value {
        Value::Bool(false) => return None,
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(keep_tail(&text, MAX_ERROR_BYTES).to_owned())
}

/// One line of output, whole or not.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line, without its end.
    Whole(Vec<u8>),
    /// The beginning of a line that is longer than [`MAX_LINE`]; the rest is thrown away.
    TooLong(Vec<u8>),
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    unread: Vec<u8>,
    is_skipping: bool,
}

impl Lines {
    /// Takes the next bytes and calls `take` for each line that they complete. Blank lines are
    /// left out.
    pub fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(Line)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, is_end) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            self.add(text, &mut take);
            if is_end {
                self.end(&mut take);
            }
        }
    }

    /// The stream is over: what is left is a line too.
    pub fn end(&mut self, mut take: impl FnMut(Line)) {
        let line = std::mem::take(&mut self.unread);
        let was_skipping = std::mem::take(&mut self.is_skipping);
        if !was_skipping && !line.trim_ascii().is_empty() {
            take(Line::Whole(line));
        }
    }

    fn add(&mut self, text: &[u8], mut take: impl FnMut(Line)) {
        if self.is_skipping {
            return;
        }
        if self.unread.len() + text.len() > MAX_LINE {
            self.is_skipping = true;
            let mut start = std::mem::take(&mut self.unread);
            start.extend_from_slice(&text[..text.len().min(MAX_LINE - start.len())]);
            take(Line::TooLong(start));
            return;
        }
        self.unread.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdict(line: &str) -> Option<Verdict> {
        parse(line.as_bytes()).map(|answer| {
            assert_eq!(answer.id, EventId(7));
            answer.verdict
        })
    }

    fn failed(error: &str, retry_after: Option<u64>) -> Verdict {
        let retry_after = retry_after.map(Duration::from_secs);
        Verdict::Failed {
            error: error.to_owned(),
            retry_after,
        }
    }

    #[test]
    fn ok_is_done() {
        assert_eq!(verdict(r#"{"id":7,"ok":true}"#), Some(Verdict::Done));
        assert_eq!(
            verdict(" { \"ok\" : true, \"id\" : 7 , \"x\": [] }\r"),
            Some(Verdict::Done)
        );
        assert_eq!(
            verdict(r#"{"id":7,"ok":true,"error":null}"#),
            Some(Verdict::Done)
        );
        assert_eq!(
            verdict(r#"{"id":7,"ok":true,"error":"","dead":false}"#),
            Some(Verdict::Done)
        );
    }

    #[test]
    fn an_error_has_failed() {
        assert_eq!(
            verdict(r#"{"id":7,"error":"no"}"#),
            Some(failed("no", None))
        );
        assert_eq!(
            verdict(r#"{"id":7,"ok":true,"error":"no"}"#),
            Some(failed("no", None))
        );
        assert_eq!(
            verdict(r#"{"id":7,"error":{"code":5}}"#),
            Some(failed(r#"{"code":5}"#, None))
        );
        assert_eq!(
            verdict(r#"{"id":7,"error":"no","retry_after":60}"#),
            Some(failed("no", Some(60)))
        );
        let text = "the handler answered ok: false";
        assert_eq!(verdict(r#"{"id":7,"ok":false}"#), Some(failed(text, None)));
    }

    #[test]
    fn retry_after_alone_is_later() {
        for line in [
            r#"{"id":7,"retry_after":1.5}"#,
            r#"{"id":7,"ok":false,"retry_after":1.5}"#,
        ] {
            let Some(Verdict::Later { retry_after, .. }) = verdict(line) else {
                panic!("{line}");
            };
            assert_eq!(retry_after, Some(Duration::from_millis(1500)));
        }
    }

    #[test]
    fn a_delay_has_an_end() {
        for number in ["1e300", "99999999999999999999"] {
            let line = format!(r#"{{"id":7,"retry_after":{number}}}"#);
            let Some(Verdict::Later { retry_after, .. }) = verdict(&line) else {
                panic!("{line}");
            };
            assert_eq!(retry_after, Some(MAX_RETRY_AFTER));
        }
    }

    #[test]
    fn dead_gives_up() {
        let gives_up = |error: &str| {
            Some(Verdict::GiveUp {
                error: error.to_owned(),
            })
        };
        assert_eq!(
            verdict(r#"{"id":7,"dead":true,"error":"gone"}"#),
            gives_up("gone")
        );
        let text = "the handler gave up (dead)";
        assert_eq!(
            verdict(r#"{"id":7,"ok":false,"dead":true}"#),
            gives_up(text)
        );
    }

    #[test]
    fn nonsense_answers_nothing() {
        for line in [
            "",
            "PHP Warning: x",
            "7",
            "[]",
            "{}",
            "null",
            r#"{"id":7}"#,
            r#"{"id":"7","ok":true}"#,
            r#"{"id":7.5,"ok":true}"#,
            r#"{"id":7,"ok":"yes"}"#,
            r#"{"id":7,"dead":1}"#,
            r#"{"id":7,"retry_after":-1}"#,
            r#"{"id":7,"retry_after":"soon"}"#,
            r#"{"ok":true}"#,
            r#"{"id":7,"ok":true"#,
            r#"{"id":7,"ok":true} x"#,
            r#"{"id":99999999999999999999}"#,
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(parse("[".repeat(60_000).as_bytes()), None);
    }

    fn cut(pieces: &[&[u8]]) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for piece in pieces {
            lines.feed(piece, |line| all.push(line));
            assert!(lines.unread.len() <= MAX_LINE);
        }
        lines.end(|line| all.push(line));
        all
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let whole = |text: &[u8]| Line::Whole(text.to_vec());
        assert_eq!(cut(&[b"ab\ncd"]), [whole(b"ab"), whole(b"cd")]);
        assert_eq!(
            cut(&[b"a", b"b", b"\n\n \r\nc", b"d\n"]),
            [whole(b"ab"), whole(b"cd")]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_thrown_away_and_the_next_is_read() {
        let long = vec![b'x'; MAX_LINE + 1];
        let lines = cut(&[&long, &long, b"\nok\n"]);
        assert_eq!(lines.len(), 2);
        assert!(matches!(&lines[0], Line::TooLong(start) if start.len() == MAX_LINE));
        assert_eq!(lines[1], Line::Whole(b"ok".to_vec()));
        assert_eq!(cut(&[&long[1..], b"\n"]), [Line::Whole(long[1..].to_vec())]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(pieces: Vec<Vec<u8>>) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            for line in cut(&pieces) {
                let (Line::Whole(line) | Line::TooLong(line)) = line;
                let _ = parse(&line);
            }
        }

        #[test]
        fn no_object_makes_it_panic(
            id in "-?[0-9]{1,20}", ok in "true|false|null|1|\"\"",
            error in "\"[a-z]{0,5}\"|null|\\[\\]|false", delay in "-?[0-9]{1,3}(e[0-9]{1,3})?",
        ) {
            let line = format!(
                r#"{{"id":{id},"ok":{ok},"error":{error},"retry_after":{delay}}}"#
            );
            let _ = parse(line.as_bytes());
        }

        #[test]
        fn how_the_bytes_are_cut_does_not_matter(text in "[ab\n]{0,40}", at in 0_usize..40) {
            let (start, end) = text.as_bytes().split_at(at.min(text.len()));
            prop_assert_eq!(cut(&[start, end]), cut(&[text.as_bytes()]));
        }
    }
}
