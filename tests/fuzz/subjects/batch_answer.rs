//! What a batch handler prints. The first byte says in pieces of which size it arrives.

use punctual::handler::Verdict;
use punctual::handler::command::answer::{Line, Lines, MAX_LINE, parse};
use serde_json::{Map, Value};

pub(crate) fn check(data: &[u8]) {
    let (first, text) = data.split_first().unwrap_or((&0, &[]));
    let all = cut(text.chunks(usize::from(*first) + 1));
    assert_eq!(all, cut(std::iter::once(text)));
    for line in &all {
        let (Line::Whole(line) | Line::TooLong(line)) = line;
        assert!(line.len() <= MAX_LINE && !line.contains(&b'\n'));
        let Some(answer) = parse(line) else { continue };
        let fields: Map<String, Value> = serde_json::from_slice(line).expect("an answer is JSON");
        assert_eq!(fields["id"].as_i64(), Some(answer.id.0));
        is_bounded(&answer.verdict);
        let says_ok = fields.get("ok") == Some(&Value::Bool(true));
        let says_dead = fields.get("dead") == Some(&Value::Bool(true));
        assert_eq!(matches!(answer.verdict, Verdict::GiveUp { .. }), says_dead);
        if answer.verdict == Verdict::Done {
            assert!(says_ok && !says_dead);
        }
    }
}

fn cut<'d>(pieces: impl Iterator<Item = &'d [u8]>) -> Vec<Line> {
    let mut lines = Lines::default();
    let mut all = Vec::new();
    for piece in pieces {
        lines.feed(piece, |line| all.push(line));
    }
    lines.end(|line| all.push(line));
    all
}

fn is_bounded(verdict: &Verdict) {
    let (error, delay) = match verdict {
        Verdict::Done => return,
        Verdict::Failed { error, retry_after } | Verdict::Later { error, retry_after } => {
            (error, *retry_after)
        }
        Verdict::GiveUp { error } => (error, None),
        other => panic!("a handler cannot say {other:?}"),
    };
    assert!(!error.is_empty() && error.len() <= 2048, "{error:?}");
    assert!(
        delay.unwrap_or_default().as_secs() <= 366 * 86400,
        "{delay:?}"
    );
}
