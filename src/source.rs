//! Sources: events derived from what is already in the database. What is stated of one, the window
//! it is looked at in, and what a row of its query says. Pure: no clock, no I/O.

use std::fmt::Write as _;

use chrono::{NaiveDate, NaiveDateTime};
use serde::{Deserialize, Serialize};

use crate::clock::UnixSeconds;
use crate::event::{MAX_KEY_BYTES, MAX_PAYLOAD_BYTES};
use crate::when::mediawiki_time;

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// The longest query, in bytes. MySQL's BLOB holds a little more than it as JSON.
pub const MAX_SQL_BYTES: usize = 20_000;
/// `max_rows` unless it is stated.
pub const MAX_ROWS: u64 = 1_000_000;
/// No expiry lies before it: what is smaller is a year, a text or milliseconds gone wrong.
pub const EARLIEST: UnixSeconds = UnixSeconds(31_536_000);
/// `due_at` of an event goes no further.
pub const LATEST: UnixSeconds = UnixSeconds(32_503_680_000);
/// How MediaWiki writes an expiry that never comes.
pub const NEVER: &str = "infinity";
/// What `sql` has to give.
const NEEDED: &str = "a `key` column, and `due_at` (Unix seconds) or `due_at_mw` (14 digits)";
/// Characters of a value shown in a message.
const SHOWN: usize = 60;

/// A source. Its fields in this order are its JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The query.
    pub sql: String,
    /// The type of its events.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Seconds from one look to the next.
    pub every: u64,
    /// How many seconds ahead of what is due it looks.
    pub horizon: u64,
    /// Events are due so many seconds before the expiry.
    pub lead: u64,
    /// Their priority, −2 first.
    pub priority: i8,
    /// Rows after which a scan is cut.
    pub max_rows: u64,
    /// False: as if it were not stated.
    pub enabled: bool,
}

impl Source {
    /// As it is stored.
    pub fn to_json(&self) -> String {
        // Numbers and texts always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As [`Source::to_json`] wrote it; `None`: it is stated no more, or by a newer program.
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// When the event of an expiry is due.
    pub fn due_at(&self, expiry: UnixSeconds) -> UnixSeconds {
        UnixSeconds(expiry.0.saturating_sub(seconds(self.lead)).max(0))
    }

    /// A scan that begins now looks at expiries before this.
    pub fn window_end(&self, now: UnixSeconds) -> UnixSeconds {
        let end = (now.0)
            .saturating_add(seconds(self.lead))
            .saturating_add(seconds(self.horizon));
        UnixSeconds(end.min(LATEST.0 + 1))
    }

    /// When to look again after a scan that began then and is over now.
    pub fn next_look(&self, began: UnixSeconds, now: UnixSeconds) -> UnixSeconds {
        let next = UnixSeconds(began.0.saturating_add(seconds(self.every)));
        next.max(now)
    }
}

fn seconds(length: u64) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// How a query says when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// `due_at`: Unix seconds.
    Seconds,
    /// `due_at_mw`: MediaWiki's 14 digits, UTC.
    MediaWiki,
}

impl Unit {
    /// The column.
    pub fn column(self) -> &'static str {
        match self {
            Unit::Seconds => "due_at",
            Unit::MediaWiki => "due_at_mw",
        }
    }

    /// An instant as a number in this unit: of two instants, the later one's is greater.
    pub fn number(self, at: UnixSeconds) -> i64 {
        match self {
            Unit::Seconds => at.0,
            Unit::MediaWiki => mediawiki_time(at).parse().unwrap_or(i64::MAX),
        }
    }

    /// The instant that a whole number means, if it means one.
    fn instant(self, number: i64) -> Option<UnixSeconds> {
        let at = match self {
            Unit::Seconds => number,
            Unit::MediaWiki => {
                let digits = format!("{number:014}");
                let parsed = NaiveDateTime::parse_from_str(&digits, "%Y%m%d%H%M%S").ok()?;
                parsed.and_utc().timestamp()
            }
        };
        let at = UnixSeconds(at);
        (EARLIEST <= at && at <= LATEST).then_some(at)
    }
}

impl Unit {
    /// The last instant of the day that a number without a meaning stands for.
    fn at_or_before(self, number: i64) -> UnixSeconds {
        if self == Unit::Seconds {
            return UnixSeconds(number).clamp(EARLIEST, LATEST);
        }
        let part = |scale: i64| u32::try_from(number / scale % 100).unwrap_or(0);
        let year = i32::try_from(number / 10_000_000_000).unwrap_or(0);
        let month = part(100_000_000).clamp(1, 12);
        let day = part(1_000_000).clamp(1, 31);
        let days = (1..=day).rev();
        let mut date = days.filter_map(|day| NaiveDate::from_ymd_opt(year, month, day));
        let end = date.find_map(|date| date.and_hms_opt(23, 59, 59));
        end.map_or(EARLIEST, |end| UnixSeconds(end.and_utc().timestamp()))
    }
}

/// The columns of a query, by what they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    names: Vec<String>,
    key: usize,
    due: usize,
    /// How it says when.
    pub unit: Unit,
    /// The only other column is called `payload`: taken as it is.
    whole: Option<usize>,
}

impl Columns {
    /// What the columns of these names are for.
    ///
    /// # Errors
    /// One line: which one is missing, or there twice.
    pub fn of(names: Vec<String>) -> Result<Self, String> {
        let find = |wanted: &str| {
            let is_it = |name: &String| name.eq_ignore_ascii_case(wanted);
            names.iter().position(is_it)
        };
        for (index, name) in names.iter().enumerate() {
            if names[..index]
                .iter()
                .any(|earlier| earlier.eq_ignore_ascii_case(name))
            {
                let name = beginning(name);
                return Err(format!(
                    "two columns are called `{name}`; name one of them anew"
                ));
            }
        }
        let Some(key) = find("key") else {
            return Err(format!("it gives no column `key`; it has to give {NEEDED}"));
        };
        let (due, unit) = match (find("due_at"), find("due_at_mw")) {
            (Some(due), None) => (due, Unit::Seconds),
            (None, Some(due)) => (due, Unit::MediaWiki),
            (None, None) => {
                return Err(format!(
                    "it gives neither `due_at` nor `due_at_mw`; it has to give {NEEDED}"
                ));
            }
            (Some(_), Some(_)) => {
                return Err("it gives both `due_at` and `due_at_mw`; leave one out".to_owned());
            }
        };
        let whole = find("payload").filter(|_| names.len() == 3);
        Ok(Self {
            names,
            key,
            due,
            unit,
            whole,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.names.len()
    }
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    /// NULL.
    Null,
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Real(f64),
    /// Text or bytes.
    Bytes(Vec<u8>),
    /// A date or a time of day, written out.
    Date(String),
}

impl Field {
    fn text(&self) -> Option<&str> {
        match self {
            Field::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            Field::Date(text) => Some(text),
            Field::Null | Field::Int(_) | Field::Real(_) => None,
        }
    }

    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> usize {
        match self {
            Field::Bytes(bytes) => 32 + bytes.len(),
            Field::Date(text) => 32 + text.len(),
            Field::Null | Field::Int(_) | Field::Real(_) => 32,
        }
    }

    /// For messages.
    fn shown(&self) -> String {
        match self {
            Field::Null => "NULL".to_owned(),
            Field::Int(number) => number.to_string(),
            Field::Real(number) => number.to_string(),
            Field::Bytes(bytes) => format!("'{}'", beginning(&String::from_utf8_lossy(bytes))),
            Field::Date(text) => format!("'{}'", beginning(text)),
        }
    }
}

/// What a row says: that something comes to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// What tells it from others of its source.
    pub key: String,
    /// When.
    pub expiry: UnixSeconds,
    /// The payload of its event.
    pub payload: Option<String>,
}

/// Where in the order of a query a row stands: instants first, then the bytes of keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The instant.
    pub at: UnixSeconds,
    /// The key; `None`: before all of that instant.
    pub key: Option<Vec<u8>>,
}

impl Position {
    /// Before all rows of `at`.
    pub fn start(at: UnixSeconds) -> Self {
        Self { at, key: None }
    }
}

/// A row as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Row(pub Vec<Field>);

impl Row {
    /// Where it stands, by the number that it was sorted by, which stands behind its columns.
    pub fn position(&self, columns: &Columns) -> Position {
        let number = whole_number(&self.0[columns.count()]).unwrap_or(i64::MAX);
        let Some(at) = columns.unit.instant(number) else {
            // A day that no month has: behind all of the day before.
            let before = columns.unit.at_or_before(number);
            return Position::start(UnixSeconds(before.0 + 1));
        };
        let key = match &self.0[columns.key] {
            Field::Null => Vec::new(),
            Field::Int(number) => number.to_string().into_bytes(),
            Field::Real(number) => number.to_string().into_bytes(),
            Field::Bytes(bytes) => bytes.clone(),
            Field::Date(text) => text.clone().into_bytes(),
        };
        Position { at, key: Some(key) }
    }

    /// What it says.
    ///
    /// # Errors
    /// What is wrong with it, for a message: the key, the column, the value.
    pub fn judged(&self, columns: &Columns) -> Result<Option<Derived>, String> {
        let key = match &self.0[columns.key] {
            Field::Int(number) => number.to_string(),
            Field::Null => return Err(self.fault(columns, columns.key, "is NULL")),
            other => match other.text() {
                None => return Err(self.fault(columns, columns.key, "is no text in UTF-8")),
                Some("") => return Err(self.fault(columns, columns.key, "is empty")),
                Some(text) if text.len() > MAX_KEY_BYTES => {
                    let why = format!("is {} bytes long; {MAX_KEY_BYTES} are allowed", text.len());
                    return Err(self.fault(columns, columns.key, &why));
                }
                Some(text) => text.to_owned(),
            },
        };
        let due = &self.0[columns.due];
        if columns.unit == Unit::MediaWiki && due.text() == Some(NEVER) {
            return Ok(None);
        }
        let expiry = whole_number(due).and_then(|number| columns.unit.instant(number));
        let Some(expiry) = expiry else {
            let why = match (due, columns.unit) {
                (Field::Null, _) => "is NULL",
                (_, Unit::Seconds) => "is no instant in Unix seconds",
                (_, Unit::MediaWiki) => "is no instant in 14 digits",
            };
            return Err(self.fault(columns, columns.due, why));
        };
        let payload = self.payload(columns)?;
        Ok(Some(Derived {
            key,
            expiry,
            payload,
        }))
    }

    fn payload(&self, columns: &Columns) -> Result<Option<String>, String> {
        let payload = match columns.whole {
            Some(index) => match &self.0[index] {
                Field::Null => None,
                Field::Int(number) => Some(number.to_string()),
                Field::Real(number) => Some(number.to_string()),
                other => {
                    let fault = || self.fault(columns, index, "is no text in UTF-8");
                    Some(other.text().ok_or_else(fault)?.to_owned())
                }
            },
            None => self.object(columns)?,
        };
        match &payload {
            Some(text) if text.len() > MAX_PAYLOAD_BYTES => {
                let key = self.0[columns.key].shown();
                let length = text.len();
                Err(format!(
                    "key {key}: its payload has {length} bytes; {MAX_PAYLOAD_BYTES} are allowed"
                ))
            }
            _ => Ok(payload),
        }
    }

    /// The other columns as a JSON object, in their order.
    fn object(&self, columns: &Columns) -> Result<Option<String>, String> {
        let mut object = String::new();
        for (index, (name, field)) in columns.names.iter().zip(&self.0).enumerate() {
            if index == columns.key || index == columns.due {
                continue;
            }
            object.push(if object.is_empty() { '{' } else { ',' });
            object.push_str(&quoted(name));
            object.push(':');
            match field {
                Field::Null => object.push_str("null"),
                Field::Int(number) => write!(object, "{number}").expect("a String takes all"),
                Field::Real(number) if number.is_finite() => {
                    object.push_str(&serde_json::Value::from(*number).to_string());
                }
                other => match other.text() {
                    Some(text) => object.push_str(&quoted(text)),
                    None => return Err(self.fault(columns, index, "is no text in UTF-8")),
                },
            }
        }
        if object.is_empty() {
            return Ok(None);
        }
        object.push('}');
        Ok(Some(object))
    }

    fn fault(&self, columns: &Columns, index: usize, why: &str) -> String {
        let (name, value) = (beginning(&columns.names[index]), self.0[index].shown());
        if index == columns.key {
            return format!("column `{name}` {why}: {value}");
        }
        let key = self.0[columns.key].shown();
        format!("key {key}: column `{name}` {why}: {value}")
    }
}

/// A whole number, also as text, also with a fraction of zero.
fn whole_number(field: &Field) -> Option<i64> {
    match field {
        Field::Int(number) => Some(*number),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "checked to be whole and small"
        )]
        Field::Real(number) if number.fract() == 0.0 && number.abs() < 1e15 => Some(*number as i64),
        Field::Bytes(_) => {
            let text = field.text()?.trim();
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let is_whole = fraction.bytes().all(|digit| digit == b'0');
            whole.parse().ok().filter(|_| is_whole)
        }
        Field::Real(_) | Field::Null | Field::Date(_) => None,
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn beginning(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// What a scan found, in words, where there is something to be known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Rows that say nothing that an event could be made of, and the first of them.
    pub faults: (u64, Option<String>),
    /// Keys with two expiries, and the first of them.
    pub twofold: (u64, Option<String>),
    /// Keys that another event has, and the first of them.
    pub taken: (u64, Option<String>),
    /// The scan was cut at this many rows.
    pub cut_at: Option<u64>,
}

impl Findings {
    /// One line each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let (count, Some(first)) = &self.faults {
            let rows = plural(*count, "row");
            lines.push(format!(
                "{rows} that no event can be made of are left out; the first: {first}"
            ));
        }
        if let (count, Some(first)) = &self.twofold {
            let keys = plural(*count, "row");
            lines.push(format!(
                "{keys} with a key that has an earlier expiry wait for it: a key is to name one \
                 row; the first: {first}"
            ));
        }
        if let (count, Some(first)) = &self.taken {
            let keys = plural(*count, "key");
            lines.push(format!(
                "{keys} held by an event of another origin are tried again at the next look; the \
                 first: {first}"
            ));
        }
        if let Some(rows) = self.cut_at {
            lines.push(format!(
                "there are more than {rows} rows in its window: the earliest are derived, the \
                 others when the window has moved; narrow the query by :from and :until, or raise \
                 max_rows"
            ));
        }
        lines
    }

    /// Counts one more of something.
    pub fn count(of: &mut (u64, Option<String>), what: impl FnOnce() -> String) {
        of.0 += 1;
        if of.1.is_none() {
            of.1 = Some(what());
        }
    }
}

fn plural(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        many => format!("{many} {what}s"),
    }
}

/// Why `name` is no name of a source, if it is none.
pub fn mistake_in_name(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Some(format!(
            "is no name of a source: 1 to {MAX_NAME_BYTES} bytes without control characters"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(names: &[&str]) -> Result<Columns, String> {
        Columns::of(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn text(text: &str) -> Field {
        Field::Bytes(text.as_bytes().to_vec())
    }

    /// What a row of key, due and one more column says.
    fn judged(key: Field, due: Field, more: Field) -> Result<Option<Derived>, String> {
        Row(vec![key, due, more]).judged(&columns(&["key", "due_at", "n"]).unwrap())
    }

    #[test]
    fn columns_are_known_by_name_wherever_they_stand() {
        let mediawiki = columns(&["a", "DUE_AT_MW", "Key"]).unwrap();
        assert_eq!(mediawiki.unit, Unit::MediaWiki);
        assert_eq!(columns(&["key", "due_at"]).unwrap().count(), 2);
        for (names, why) in [
            (&["due_at"][..], "no column `key`"),
            (&["key"], "neither `due_at`"),
            (&["key", "due_at", "due_at_mw"], "both"),
            (&["key", "due_at", "a", "A"], "two columns are called `A`"),
        ] {
            let refusal = columns(names).unwrap_err();
            assert!(refusal.contains(why), "{refusal}");
        }
    }

    #[test]
    fn seconds_are_whole_numbers_however_they_are_written() {
        let at = |due| judged(Field::Int(7), due, Field::Null).map(|one| one.unwrap().expiry.0);
        for due in [
            Field::Int(1_800_000_000),
            Field::Real(1.8e9),
            text("1800000000"),
            text(" 1800000000.000 "),
        ] {
            assert_eq!(at(due.clone()), Ok(1_800_000_000), "{due:?}");
        }
        for due in [
            Field::Null,
            Field::Int(2026),
            Field::Int(1_800_000_000_000),
            Field::Real(1.5),
            Field::Real(f64::NAN),
            text("2026-12-01"),
            text("1800000000.5"),
            text(""),
            Field::Bytes(vec![0xff]),
            Field::Date("2026-12-01 00:00:00".into()),
        ] {
            let refusal = at(due.clone()).unwrap_err();
            assert!(
                refusal.starts_with("key 7: column `due_at` is "),
                "{refusal}"
            );
            assert!(refusal.len() < 200, "{refusal}");
        }
    }

    #[test]
    fn the_payload_is_the_other_columns_in_their_order_with_their_types() {
        let names = columns(&["b", "key", "a\"", "due_at", "c", "d"]).unwrap();
        let row = Row(vec![
            Field::Real(1.5),
            text("é"),
            text("x\n"),
            Field::Int(1_800_000_000),
            Field::Null,
            Field::Date("2026-12-01".into()),
        ]);
        let derived = row.judged(&names).unwrap().unwrap();
        let wanted = r#"{"b":1.5,"a\"":"x\n","c":null,"d":"2026-12-01"}"#;
        assert_eq!(derived.payload.as_deref(), Some(wanted));
        assert_eq!(derived.key, "é");
        let long = text(&"x".repeat(MAX_PAYLOAD_BYTES));
        let refusal = judged(Field::Int(7), Field::Int(1_800_000_000), long).unwrap_err();
        assert!(refusal.contains("1048576 are allowed"), "{refusal}");
        let binary = Field::Bytes(vec![0xff]);
        let refusal = judged(Field::Int(7), Field::Int(1_800_000_000), binary).unwrap_err();
        assert!(
            refusal.contains("column `n` is no text in UTF-8"),
            "{refusal}"
        );
    }

    #[test]
    fn a_key_is_filled_and_no_longer_than_a_unique_key_may_be() {
        let with = |key: Field| judged(key, Field::Int(1_800_000_000), Field::Null).is_ok();
        assert!(with(text(&"x".repeat(191))) && with(Field::Int(-3)));
        for key in [
            Field::Null,
            text(""),
            text(&"x".repeat(192)),
            Field::Real(1.0),
            Field::Bytes(vec![0xff]),
        ] {
            assert!(!with(key.clone()), "{key:?}");
        }
    }

    #[test]
    fn mediawiki_numbers_keep_the_order_of_instants_and_days_that_are_none_end_theirs() {
        let unit = Unit::MediaWiki;
        let march = UnixSeconds(1_803_859_200);
        assert_eq!(unit.number(march), 20_270_301_000_000);
        assert_eq!(unit.instant(20_270_301_000_000), Some(march));
        assert!(unit.number(UnixSeconds(march.0 - 1)) < unit.number(march));
        for none in [20_270_230_000_000, 20_270_228_240_000, 20_270_228_236_000] {
            assert_eq!(unit.instant(none), None, "{none}");
            assert_eq!(unit.at_or_before(none), UnixSeconds(march.0 - 1), "{none}");
        }
    }

    #[test]
    fn what_is_stored_is_the_same_source_and_a_word_too_many_is_none() {
        let source = Source {
            sql: "SELECT \"é\"".into(),
            type_name: "a".into(),
            every: 1,
            horizon: 2,
            lead: 3,
            priority: -1,
            max_rows: 4,
            enabled: true,
        };
        let json = source.to_json();
        assert_eq!(Source::from_json(&json), Some(source));
        assert_eq!(
            Source::from_json(&json.replacen('{', "{\"new\":1,", 1)),
            None
        );
        assert_eq!(Source::from_json(""), None);
    }
}
