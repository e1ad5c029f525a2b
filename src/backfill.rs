//! Backfills: events of the past that somebody creates by hand. What is selected, how fast it
//! becomes due, and the plan that stands for both. Pure: no clock, no I/O.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::UnixSeconds;
use crate::token::hex;

/// The priority of the events that a backfill makes: behind all others of their type.
pub const PRIORITY: i8 = 2;
/// What stands in `origin` before a backfill's number.
pub const ORIGIN: &str = "backfill:";
/// The highest rate, in events a second, minute or hour.
pub const FASTEST: u32 = 1_000_000;

/// What stands in the `origin` of a backfill's events.
pub fn origin(id: i64) -> String {
    format!("{ORIGIN}{id}")
}

/// What is to be made anew. Its JSON is always the same for the same selection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "sort", rename_all = "lowercase", deny_unknown_fields)]
pub enum Selection {
    /// Slots of schedules.
    Slots {
        /// Of these schedules, sorted.
        names: Vec<String>,
        /// Only of these types, sorted; empty: of all.
        types: Vec<String>,
        /// Not before this instant.
        from: i64,
        /// Not after this one.
        to: i64,
    },
    /// Rows of a source.
    Source {
        /// Of this one.
        name: String,
        /// That expired at this instant or later.
        from: i64,
        /// And not after this one.
        to: i64,
    },
    /// Events of history.
    Again {
        /// Of these types, sorted; empty: of all.
        types: Vec<String>,
        /// That ended so, sorted.
        outcomes: Vec<String>,
        /// With an error like this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// Finished at this instant or later.
        from: i64,
        /// And not after this one.
        to: i64,
    },
}

impl Selection {
    /// The word for its sort.
    pub fn sort(&self) -> &'static str {
        match self {
            Selection::Slots { .. } => "slots",
            Selection::Source { .. } => "source",
            Selection::Again { .. } => "again",
        }
    }

    /// The window, both ends in it.
    pub fn window(&self) -> (UnixSeconds, UnixSeconds) {
        match *self {
            Selection::Slots { from, to, .. }
            | Selection::Source { from, to, .. }
            | Selection::Again { from, to, .. } => (UnixSeconds(from), UnixSeconds(to)),
        }
    }

    /// As it is stored.
    pub fn to_json(&self) -> String {
        // Numbers and texts always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// How fast events become due: so many in so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    events: u32,
    unit: char,
}

impl Rate {
    /// Reads `5/s`, `100/m`, `2000/h`; a bare number is per minute, as a type's `rate` is.
    ///
    /// # Errors
    /// One line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (number, unit) = text.split_once('/').unwrap_or((text, "m"));
        let unit = match unit.trim() {
            "s" => 's',
            "m" => 'm',
            "h" => 'h',
            _ => return Err(format!("`{text}` is no rate; write 5/s, 100/m or 2000/h")),
        };
        let events = number.trim().parse().ok();
        match events.filter(|events| (1..=FASTEST).contains(events)) {
            Some(events) => Ok(Self { events, unit }),
            None => Err(format!(
                "`{text}` is no rate; write 5/s, 100/m or 2000/h, from 1 to {FASTEST}"
            )),
        }
    }

    fn seconds(self) -> u64 {
        match self.unit {
            's' => 1,
            'm' => 60,
            _ => 3600,
        }
    }

    /// How long after the first event the one with this number is due, the first being 0: never
    /// before its turn, and in no span of the rate's unit more than the rate.
    pub fn delay(self, number: u64) -> Duration {
        let seconds = u128::from(number) * u128::from(self.seconds());
        let seconds = seconds.div_ceil(u128::from(self.events));
        Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX))
    }

    /// When the event with this number is due, the first being due at `first`; `None`: after the
    /// last second that the tables accept.
    pub fn due_at(self, first: UnixSeconds, number: u64) -> Option<UnixSeconds> {
        let due = first.after(self.delay(number));
        Some(due).filter(|due| *due <= UnixSeconds::MAX)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.events, self.unit)
    }
}

/// Whether `pattern` stands somewhere in `text`; `*` in it stands for any text. Case counts.
pub fn is_like(text: &str, pattern: &str) -> bool {
    let mut rest = text;
    pattern.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// All that a plan is bound to but for its count.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'t> {
    /// What is selected.
    pub selection: &'t Selection,
    /// How fast.
    pub rate: Rate,
    /// At most so many, the oldest first.
    pub limit: Option<u64>,
    /// How things stand that the selection depends on: a digest, such as [`digest_of`].
    pub state: &'t str,
}

/// A plan as it is handed from the command that prints it to the one that applies it:
/// `COUNT-BOUND-DIGEST`, or `COUNT-DIGEST` where nothing bounds the selection but itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How many events it would make.
    pub count: u64,
    /// The greatest `history_id` that it has seen.
    pub bound: Option<i64>,
    digest: String,
}

/// Hexadecimal digits of each part of a digest.
const PART: usize = 4;

impl Plan {
    /// The plan to make `count` events.
    pub fn new(terms: Terms<'_>, count: u64, bound: Option<i64>) -> Self {
        let mut plan = Self {
            count,
            bound,
            digest: String::new(),
        };
        plan.digest = plan.parts(terms).concat();
        plan
    }

    /// Reads what a plan was printed as.
    ///
    /// # Errors
    /// One line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split('-').collect();
        let (count, bound, digest) = match words[..] {
            [count, digest] => (count.parse().ok(), Some(None), digest),
            [count, bound, digest] => (count.parse().ok(), bound.parse().ok().map(Some), digest),
            _ => (None, None, ""),
        };
        let is_digest = digest.len() == 4 * PART && digest.bytes().all(|b| b.is_ascii_hexdigit());
        match (count, bound) {
            (Some(count), Some(bound)) if is_digest => Ok(Self {
                count,
                bound,
                digest: digest.to_owned(),
            }),
            _ => Err(format!("`{text}` is no plan")),
        }
    }

    /// Why it is not the plan of these terms, if it is not.
    pub fn misfit(&self, terms: Terms<'_>) -> Option<&'static str> {
        let own = (0..4).map(|part| self.digest.get(part * PART..(part + 1) * PART));
        let parts = self.parts(terms);
        let wrong = own
            .zip(&parts)
            .position(|(own, part)| own != Some(part.as_str()))?;
        Some(match wrong {
            0 => {
                "it was made for other names, types, outcomes, errors or times than these (it came \
                 with the whole command)"
            }
            1 => "it was made for another --rate or --limit",
            2 => {
                "since it was made a schedule has changed, or the source, or a backfill of the same \
                 was cancelled"
            }
            _ => "its numbers are not those that it was made with",
        })
    }

    /// Digests of what is selected, of the pace, of the state, and of everything.
    fn parts(&self, terms: Terms<'_>) -> [String; 4] {
        let selection = terms.selection.to_json();
        let pace = format!("{} {:?}", terms.rate, terms.limit);
        let state = format!("{} {:?}", terms.state, self.bound);
        let count = self.count.to_string();
        let all = digest_of([selection.as_str(), &pace, &state, &count]);
        let parts = [
            digest_of([selection.as_str()]),
            digest_of([pace.as_str()]),
            digest_of([state.as_str()]),
            all,
        ];
        parts.map(|digest| digest[..PART].to_owned())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bound {
            Some(bound) => write!(f, "{}-{bound}-{}", self.count, self.digest),
            None => write!(f, "{}-{}", self.count, self.digest),
        }
    }
}

/// What tells these texts from others, in hexadecimal digits.
pub fn digest_of<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update(text.len().to_be_bytes());
        digest.update(text);
    }
    hex(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(error: Option<&str>, to: i64) -> Selection {
        Selection::Again {
            types: vec!["mail".into()],
            outcomes: vec!["dead".into()],
            error: error.map(str::to_owned),
            from: 5,
            to,
        }
    }

    #[test]
    fn a_rate_is_read_and_written_alike_and_a_bare_number_is_per_minute() {
        for text in ["5/s", "100/m", "2000/h"] {
            assert_eq!(Rate::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Rate::parse("60").unwrap(), Rate::parse("60/m").unwrap());
        for wrong in ["", "0", "-1/m", "1/d", "a/m", "1000001", "1/m/m", "1.5"] {
            assert!(Rate::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_span_of_the_rates_unit_holds_more_than_the_rate() {
        for text in ["1/s", "7/s", "100/m", "7/m", "61/m", "3/h", "5000/h"] {
            let rate = Rate::parse(text).unwrap();
            let delays: Vec<u64> = (0..20_000).map(|n| rate.delay(n).as_secs()).collect();
            assert_eq!(delays[0], 0, "{text}");
            for (first, start) in delays.iter().enumerate().step_by(97) {
                let end = start + rate.seconds();
                let within = delays[first..].iter().take_while(|at| **at < end).count();
                assert!(within <= rate.events as usize, "{text}: {within}");
            }
            for (number, delay) in (0..).zip(&delays) {
                let turn = u64::from(rate.events) * delay;
                assert!(turn >= number * rate.seconds(), "{text}: {number} is early");
            }
        }
    }

    #[test]
    fn nothing_becomes_due_after_the_last_second_that_there_is() {
        let rate = Rate::parse("1/h").unwrap();
        let first = UnixSeconds(UnixSeconds::MAX.0 - 3600);
        assert_eq!(rate.due_at(first, 1), Some(UnixSeconds::MAX));
        assert_eq!(rate.due_at(first, 2), None);
        assert_eq!(rate.due_at(first, u64::MAX), None);
    }

    #[test]
    fn a_pattern_is_a_part_of_the_text_and_a_star_is_any_text() {
        for (pattern, fits) in [
            ("", true),
            ("away", true),
            ("server", true),
            ("Server", false),
            ("the*away", true),
            ("away*the", false),
            ("*away*", true),
            ("a*a*a*a*a*a", false),
            ("%", false),
        ] {
            assert_eq!(
                is_like("the mail server is away", pattern),
                fits,
                "{pattern}"
            );
        }
        assert!(is_like("ééé", "é*é"));
    }

    #[test]
    fn a_plan_fits_what_it_was_made_for_and_says_what_does_not_fit() {
        let selection = again(None, 9);
        let terms = Terms {
            selection: &selection,
            rate: Rate::parse("100/m").unwrap(),
            limit: None,
            state: "rules",
        };
        let plan = Plan::new(terms, 12_000, Some(88));
        let text = plan.to_string();
        assert!(text.starts_with("12000-88-"), "{text}");
        let read = Plan::parse(&text).unwrap();
        assert_eq!((&read, read.misfit(terms)), (&plan, None));
        let other = again(Some("x"), 9);
        let later = again(None, 10);
        for (terms, part) in [
            (
                Terms {
                    selection: &other,
                    ..terms
                },
                "errors or times",
            ),
            (
                Terms {
                    selection: &later,
                    ..terms
                },
                "errors or times",
            ),
            (
                Terms {
                    rate: Rate::parse("99/m").unwrap(),
                    ..terms
                },
                "--rate",
            ),
            (
                Terms {
                    limit: Some(5),
                    ..terms
                },
                "--limit",
            ),
            (
                Terms {
                    state: "others",
                    ..terms
                },
                "has changed",
            ),
        ] {
            let why = read.misfit(terms).unwrap();
            assert!(why.contains(part), "{why}");
        }
        for (from, to, part) in [("12000-", "12001-", "numbers"), ("-88-", "-89-", "changed")] {
            let forged = Plan::parse(&text.replacen(from, to, 1)).unwrap();
            let why = forged.misfit(terms).unwrap();
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        for wrong in [
            "",
            "5",
            "5-abc",
            "x-0123456789abcdef",
            "5-x-0123456789abcdef",
            "-5-1-2-3",
        ] {
            assert!(Plan::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Plan::parse("5-0123456789abcdef").is_ok());
    }

    #[test]
    fn a_selection_is_stored_as_the_same_text_each_time() {
        let json = again(Some("a*b"), 9).to_json();
        let fields = r#""sort":"again","types":["mail"],"outcomes":["dead"],"error":"a*b""#;
        assert_eq!(json, format!("{{{fields},\"from\":5,\"to\":9}}"));
        let read: Selection = serde_json::from_str(&json).unwrap();
        assert_eq!(read, again(Some("a*b"), 9));
    }
}
