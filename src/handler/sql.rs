//! The `sql` handler: statements of the configuration, one each, run on the runner's own connection
//! inside the ack transaction (DESIGN §6), and `guard` and `lag` queries, run before it. The queries
//! of sources are read here too.
//!
//! Rows never become SQL: a statement is fixed text, `:name` in it a bound parameter.

use std::borrow::Cow;

use serde_json::Value as Json;

use crate::clock::UnixSeconds;
use crate::db::{Cell, Db, DbError, DbErrorKind, DbResult, Dialect, Value, query_one};
use crate::event::Event;
use crate::when::mediawiki_time;

mod scan;
pub mod source;

use scan::scan;

/// Statements a handler may start with. No DDL, no transaction control, nothing that commits by
/// itself (RULINGS 21).
const ALLOWED: [&str; 6] = ["INSERT", "UPDATE", "DELETE", "REPLACE", "SELECT", "WITH"];

/// A checked statement with its parameters in the order of its `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    sql: String,
    params: Vec<Param>,
}

/// What a named parameter stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Param {
    Payload,
    Id,
    Type,
    Key,
    Due,
    Now,
    NowMw,
    Attempt,
    Slot,
    Slots,
    Field(String),
}

/// Checks the statements of a `sql` handler.
///
/// # Errors
/// One line that says what is wrong with which statement.
pub fn compile(statements: &[String], dialect: Dialect) -> Result<Vec<Statement>, String> {
    let number = |index: usize| {
        if statements.len() == 1 {
            String::new()
        } else {
            format!("statement {}: ", index + 1)
        }
    };
    statements
        .iter()
        .enumerate()
        .map(|(i, text)| compile_one(text, dialect).map_err(|e| format!("{}{e}", number(i))))
        .collect()
}

/// Checks a `guard`: one SELECT or WITH.
///
/// # Errors
/// One line that says what is wrong.
pub fn compile_guard(text: &str, dialect: Dialect) -> Result<Statement, String> {
    compile_query("a guard", text, dialect)
}

/// Checks a `lag`, as [`compile_guard`].
///
/// # Errors
/// One line that says what is wrong.
pub fn compile_lag(text: &str, dialect: Dialect) -> Result<Statement, String> {
    compile_query("a lag", text, dialect)
}

fn compile_query(what: &str, text: &str, dialect: Dialect) -> Result<Statement, String> {
    let statement = compile_one(text, dialect)?;
    match first_word(&statement.sql).as_str() {
        "SELECT" | "WITH" => Ok(statement),
        other => Err(format!("{what} is one SELECT, not {other}")),
    }
}

/// Runs `statements` for `event` on the open transaction. Returns how many rows they inserted,
/// deleted and matched by their UPDATEs, changed or not.
///
/// # Errors
/// What the database said; `Statement` where the payload lacks the JSON that `:p.` asks for.
pub fn run(
    statements: &[Statement],
    db: &mut dyn Db,
    event: &Event,
    now: UnixSeconds,
) -> DbResult<u64> {
    let payload = parse_payload(statements, event)?;
    let mut rows = 0;
    for statement in statements {
        let params = statement.bind(event, &payload, now);
        rows += db.execute(&statement.sql, &params)?;
    }
    Ok(rows)
}

/// Whether `guard` finds a row for `event`: whether what it is about still holds.
///
/// # Errors
/// As [`run`].
pub fn holds(
    guard: &Statement,
    db: &mut dyn Db,
    event: &Event,
    now: UnixSeconds,
) -> DbResult<bool> {
    let payload = parse_payload(std::slice::from_ref(guard), event)?;
    let params = guard.bind(event, &payload, now);
    let mut found = false;
    db.query(&guard.sql, &params, &mut |_| {
        found = true;
        false
    })?;
    Ok(found)
}

/// What `lag` answers for `event`: seconds. `None`: no row, NULL, or no number; nobody knows.
///
/// # Errors
/// As [`run`].
pub fn seconds(
    lag: &Statement,
    db: &mut dyn Db,
    event: &Event,
    now: UnixSeconds,
) -> DbResult<Option<f64>> {
    let payload = parse_payload(std::slice::from_ref(lag), event)?;
    let params = lag.bind(event, &payload, now);
    let found = query_one(db, &lag.sql, &params, |row| number(row.cell(0)))?;
    Ok(found.flatten())
}

/// Any number, fractions included: MySQL sends decimals as text.
fn number(cell: Cell<'_>) -> Option<f64> {
    let number = match cell {
        Cell::Null => None,
        Cell::Real(real) => Some(real),
        #[expect(clippy::cast_precision_loss, reason = "seconds stay far below 2^53")]
        Cell::Int(whole) => Some(whole as f64),
        Cell::Bytes(digits) => std::str::from_utf8(digits).ok()?.trim().parse().ok(),
    };
    number.filter(|number: &f64| !number.is_nan())
}

impl Statement {
    /// As it is sent: with `?` for each parameter, without comments.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// How many values are bound to it.
    pub fn parameters(&self) -> usize {
        self.params.len()
    }

    fn bind<'e>(&self, event: &'e Event, payload: &Json, now: UnixSeconds) -> Vec<Value<'e>> {
        let value = |param: &Param| match param {
            Param::Payload => Value::Bytes(Cow::Borrowed(&event.payload)),
            Param::Id => Value::Int(event.id.0),
            Param::Type => Value::Bytes(Cow::Borrowed(event.type_name.as_bytes())),
            Param::Key => event.key.as_deref().into(),
            Param::Due => event.first_due().into(),
            Param::Now => now.into(),
            Param::NowMw => mediawiki_time(now).into(),
            Param::Attempt => i64::from(event.attempt_number()).into(),
            Param::Slot => event.slot.map(|slot| slot.at).into(),
            Param::Slots => {
                let slots = event.slot.map(|slot| slot.slots);
                slots
                    .map(|slots| i64::try_from(slots).unwrap_or(i64::MAX))
                    .into()
            }
            Param::Field(path) => json_value(field(payload, path)),
        };
        self.params.iter().map(value).collect()
    }

    fn reads_payload_fields(&self) -> bool {
        self.params
            .iter()
            .any(|param| matches!(param, Param::Field(_)))
    }
}

fn parse_payload(statements: &[Statement], event: &Event) -> DbResult<Json> {
    if !statements.iter().any(Statement::reads_payload_fields) {
        return Ok(Json::Null);
    }
    serde_json::from_slice(&event.payload).map_err(|error| {
        let message = format!("the payload is no JSON, which :p.… needs: {error}");
        DbError::new(DbErrorKind::Statement, message)
    })
}

fn field<'j>(payload: &'j Json, path: &str) -> &'j Json {
    path.split('.')
        .try_fold(payload, |json, name| json.get(name))
        .unwrap_or(&Json::Null)
}

fn json_value(json: &Json) -> Value<'static> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(yes) => Value::Int(i64::from(*yes)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, Some(real)) => Value::Real(real),
            (None, None) => Value::Null,
        },
        Json::String(text) => text.clone().into(),
        Json::Array(_) | Json::Object(_) => json.to_string().into(),
    }
}

fn compile_one(text: &str, dialect: Dialect) -> Result<Statement, String> {
    let mut params = Vec::new();
    let sql = scan(text, dialect, |name| {
        params.push(named(name)?);
        Ok(())
    })?;
    let word = first_word(&sql);
    if !ALLOWED.contains(&word.as_str()) {
        let word = match word.as_str() {
            "" => "an empty statement",
            word => beginning(word),
        };
        return Err(format!(
            "{word} is not allowed; one of {} is",
            ALLOWED.join(", ")
        ));
    }
    Ok(Statement { sql, params })
}

fn named(name: &str) -> Result<Param, String> {
    Ok(match name {
        "payload" => Param::Payload,
        "id" => Param::Id,
        "type" => Param::Type,
        "key" => Param::Key,
        "due" => Param::Due,
        "now" => Param::Now,
        "now_mw" => Param::NowMw,
        "attempt" => Param::Attempt,
        "slot" => Param::Slot,
        "slots" => Param::Slots,
        _ => match name.strip_prefix("p.") {
            Some(path) if !path.is_empty() => Param::Field(path.to_owned()),
            _ => {
                let name = beginning(name);
                return Err(format!(
                    "unknown parameter :{name}; known are :payload, :id, :type, :key, :due, :now, \
                     :now_mw, :attempt, :slot, :slots and :p.FIELD"
                ));
            }
        },
    })
}

/// Enough of a word to find it by.
fn beginning(word: &str) -> &str {
    &word[..word.len().min(40)]
}

fn first_word(sql: &str) -> String {
    let start = sql.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    let end = start
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(start.len());
    start[..end].to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(text: &str) -> Result<(String, Vec<Param>), String> {
        compile_one(text, Dialect::Mysql).map(|statement| (statement.sql, statement.params))
    }

    #[test]
    fn named_parameters_become_placeholders_in_order() {
        let (sql, params) =
            compiled("UPDATE a SET l = 0 WHERE id = :p.article.id AND t <= :now_mw").unwrap();
        assert_eq!(sql, "UPDATE a SET l = 0 WHERE id = ? AND t <= ?");
        assert_eq!(params, [Param::Field("article.id".into()), Param::NowMw]);
    }

    #[test]
    fn ddl_transactions_and_second_statements_are_refused() {
        for text in [
            "DROP TABLE a",
            "COMMIT",
            "begin",
            "CALL p()",
            "SET @a = 1",
            "",
            "  ;  ",
            "-- nothing",
            "DELETE FROM a; DROP TABLE a",
            "/*!50000 DROP TABLE a */",
            "SELECT 1 /*M! ; DROP TABLE a */",
            "UPDATE a SET b = ?",
            "UPDATE a SET b = :nope",
            "UPDATE a SET b = 'open",
            "DELETE FROM a /* open",
        ] {
            assert!(compiled(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_refusal_is_as_long_as_what_it_refuses() {
        for text in [
            "x".repeat(10_000),
            format!("SELECT :{}", "x".repeat(10_000)),
        ] {
            let refusal = compiled(&text).unwrap_err();
            assert!(refusal.len() < 300, "{refusal}");
        }
    }

    #[test]
    fn a_guard_must_read() {
        assert!(compile_guard("SELECT 1 WHERE :id > 0", Dialect::Sqlite).is_ok());
        assert!(compile_guard("DELETE FROM a", Dialect::Sqlite).is_err());
    }

    #[test]
    fn a_lag_must_read() {
        assert!(compile_lag("SELECT :now - at FROM beat", Dialect::Mysql).is_ok());
        let refusal = compile_lag("UPDATE beat SET at = 1", Dialect::Mysql).unwrap_err();
        assert_eq!(refusal, "a lag is one SELECT, not UPDATE");
    }

    #[test]
    fn a_lag_is_any_number_and_nothing_else() {
        let texts = [
            ("2.50", Some(2.5)),
            (" 7 ", Some(7.0)),
            ("x", None),
            ("NaN", None),
        ];
        for (text, wanted) in texts {
            assert_eq!(number(Cell::Bytes(text.as_bytes())), wanted, "{text}");
        }
        assert_eq!(number(Cell::Int(-3)), Some(-3.0));
        assert_eq!(number(Cell::Real(0.25)), Some(0.25));
        assert_eq!(number(Cell::Null), None);
    }

    #[test]
    fn payload_fields_keep_their_json_types() {
        let payload: Json = serde_json::from_str(r#"{"a":{"b":[1]},"c":true,"d":1.5,"e":"x"}"#)
            .expect("JSON written above");
        assert_eq!(json_value(field(&payload, "a.b")), "[1]".into());
        assert_eq!(json_value(field(&payload, "c")), Value::Int(1));
        assert_eq!(json_value(field(&payload, "d")), Value::Real(1.5));
        assert_eq!(json_value(field(&payload, "e")), "x".into());
        assert_eq!(json_value(field(&payload, "none.at.all")), Value::Null);
    }

    #[test]
    fn instants_read_as_mediawiki_writes_them() {
        assert_eq!(mediawiki_time(UnixSeconds(0)), "19700101000000");
    }
}
