//! The `sql` handler: statements of the configuration, one each, run on the runner's own connection
//! inside the ack transaction (DESIGN §6), and `guard` queries, run before it.
//!
//! Rows never become SQL: a statement is fixed text, `:name` in it a bound parameter.

use std::borrow::Cow;

use chrono::DateTime;
use serde_json::Value as Json;

use crate::clock::UnixSeconds;
use crate::db::{Db, DbError, DbErrorKind, DbResult, Dialect, Value};
use crate::event::Event;

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
    let statement = compile_one(text, dialect)?;
    match first_word(&statement.sql).as_str() {
        "SELECT" | "WITH" => Ok(statement),
        other => Err(format!("a guard is one SELECT, not {other}")),
    }
}

/// Runs `statements` for `event` on the open transaction.
///
/// # Errors
/// What the database said; `Statement` where the payload lacks the JSON that `:p.` asks for.
pub fn run(
    statements: &[Statement],
    db: &mut dyn Db,
    event: &Event,
    now: UnixSeconds,
) -> DbResult<()> {
    let payload = parse_payload(statements, event)?;
    for statement in statements {
        let params = statement.bind(event, &payload, now);
        db.execute(&statement.sql, &params)?;
    }
    Ok(())
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

/// `YYYYMMDDHHMMSS` in UTC, as MediaWiki stores instants: to be bound as a string, since a number
/// would make MySQL scan the whole index (RULINGS, experiments).
fn mediawiki_time(instant: UnixSeconds) -> String {
    DateTime::from_timestamp(instant.0, 0)
        .map(|utc| utc.format("%Y%m%d%H%M%S").to_string())
        .unwrap_or_default()
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
    if text.contains('\0') {
        return Err("a NUL character ends it before its end".into());
    }
    let mut scanner = Scanner {
        rest: text.trim(),
        dialect,
    };
    let mut sql = String::with_capacity(text.len());
    let mut params = Vec::new();
    while let Some(token) = scanner.next_token()? {
        match token {
            Token::Plain(part) => {
                if would_run_together(&sql, part) {
                    sql.push(' ');
                }
                sql.push_str(part);
            }
            Token::Named(name) => {
                sql.push('?');
                params.push(named(name)?);
            }
            Token::Placeholder => return Err("`?` has no name; use :payload, :id, …".into()),
            Token::End if scanner.rest.trim().is_empty() => break,
            Token::End => return Err("only one statement each; make it a list".into()),
        }
    }
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
        _ => match name.strip_prefix("p.") {
            Some(path) if !path.is_empty() => Param::Field(path.to_owned()),
            _ => {
                let name = beginning(name);
                return Err(format!(
                    "unknown parameter :{name}; known are :payload, :id, :type, :key, :due, :now, \
                     :now_mw, :attempt and :p.FIELD"
                ));
            }
        },
    })
}

/// Enough of a word to find it by.
fn beginning(word: &str) -> &str {
    &word[..word.len().min(40)]
}

/// Two minus signs with the blank that a comment leaves behind them would be a comment themselves;
/// and the driver, which looks for names of its own, misses a quote behind `-` and `/`.
fn would_run_together(sql: &str, part: &str) -> bool {
    (sql.ends_with('-') && part.starts_with(['-', '\'', '"', '`']))
        || (sql.ends_with('/') && part.starts_with(['\'', '"', '`']))
}

fn first_word(sql: &str) -> String {
    let start = sql.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    let end = start
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(start.len());
    start[..end].to_ascii_uppercase()
}

enum Token<'t> {
    Plain(&'t str),
    Named(&'t str),
    Placeholder,
    End,
}

/// Cuts a statement into what matters here; quotes and comments are opaque to it.
struct Scanner<'t> {
    rest: &'t str,
    dialect: Dialect,
}

impl<'t> Scanner<'t> {
    fn next_token(&mut self) -> Result<Option<Token<'t>>, String> {
        let Some(first) = self.rest.chars().next() else {
            return Ok(None);
        };
        match first {
            '\'' | '"' | '`' => self.quoted(first).map(Some),
            '[' if self.dialect == Dialect::Sqlite => self.bracketed().map(Some),
            '-' if self.is_line_comment() => Ok(Some(self.skip_to_line_end())),
            '#' if self.dialect == Dialect::Mysql => Ok(Some(self.skip_to_line_end())),
            '@' | '$' | '#' if self.dialect == Dialect::Sqlite => Err(format!(
                "{first} begins a parameter of SQLite's own, which nothing is bound to; use \
                 :payload, :id, …"
            )),
            '/' if self.rest.starts_with("/*") => self.skip_comment().map(Some),
            ';' => {
                self.rest = &self.rest[1..];
                Ok(Some(Token::End))
            }
            '?' => {
                self.rest = &self.rest[1..];
                Ok(Some(Token::Placeholder))
            }
            ':' => self.colon().map(Some),
            _ => Ok(Some(self.plain(first))),
        }
    }

    fn take(&mut self, length: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    /// A word, or what stands between words. (`$` within a word is a letter.)
    fn plain(&mut self, first: char) -> Token<'t> {
        let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
        let special = |c: char| "'\"`-#/;?:[@".contains(c);
        let begins_word = in_word(first);
        let ends = |c: char| in_word(c) != begins_word || (!begins_word && special(c));
        let from = first.len_utf8();
        let end = self.rest[from..]
            .find(ends)
            .map_or(self.rest.len(), |at| at + from);
        Token::Plain(self.take(end))
    }

    /// A name in brackets, which SQLite takes for the sake of others' SQL.
    fn bracketed(&mut self) -> Result<Token<'t>, String> {
        let end = self.rest.find(']').ok_or("a [ is never closed")?;
        Ok(Token::Plain(self.take(end + 1)))
    }

    /// `--`; on MySQL only with a blank behind it: `5--3` is 8 there.
    fn is_line_comment(&self) -> bool {
        let Some(behind) = self.rest.strip_prefix("--") else {
            return false;
        };
        let is_blank = |c: char| c.is_ascii_whitespace() || c.is_ascii_control();
        self.dialect == Dialect::Sqlite || behind.chars().next().is_none_or(is_blank)
    }

    fn quoted(&mut self, quote: char) -> Result<Token<'t>, String> {
        let backslash = self.dialect == Dialect::Mysql && quote != '`';
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if backslash && c == '\\' {
                chars.next();
            } else if c == quote {
                if chars.peek().is_some_and(|&(_, next)| next == quote) {
                    chars.next();
                } else {
                    return Ok(Token::Plain(self.take(at + 1)));
                }
            }
        }
        Err(format!("a {quote} is never closed"))
    }

    fn skip_to_line_end(&mut self) -> Token<'t> {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        self.take(end);
        Token::Plain(" ")
    }

    fn skip_comment(&mut self) -> Result<Token<'t>, String> {
        if self.rest.starts_with("/*!") || self.rest.starts_with("/*M!") {
            return Err("/*! … */ would be executed by the server; write it out".into());
        }
        // `/*/` is open still.
        let end = self.rest[2..].find("*/").ok_or("a /* is never closed")?;
        let comment = self.take(end + 4);
        let is_hint = self.dialect == Dialect::Mysql && comment.starts_with("/*+");
        Ok(Token::Plain(if is_hint { comment } else { " " }))
    }

    fn colon(&mut self) -> Result<Token<'t>, String> {
        let after = &self.rest[1..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
        let name = after[..end].trim_end_matches('.');
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            if self.dialect == Dialect::Sqlite {
                return Err("a : without a name; use :payload, :id, …".into());
            }
            return Ok(Token::Plain(self.take(1))); // `:=`
        }
        self.take(1);
        Ok(Token::Named(self.take(name.len())))
    }
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
    fn names_in_quotes_and_comments_are_left_alone() {
        let text = r#"INSERT INTO a VALUES (':id ''x', "\":id", `:id`) -- :id
            /* :id */"#;
        let (sql, params) = compiled(text).unwrap();
        assert!(params.is_empty(), "{sql}");
        assert!(sql.contains("':id ''x'"));
    }

    #[test]
    fn a_backslash_escapes_on_mysql_only() {
        let text = r"UPDATE a SET b = 'c:\' WHERE d = :id";
        assert!(compile_one(text, Dialect::Mysql).is_err());
        assert_eq!(
            compile_one(text, Dialect::Sqlite).unwrap().params,
            [Param::Id]
        );
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

    fn sent(text: &str, dialect: Dialect) -> Result<String, String> {
        compile_one(text, dialect).map(|statement| statement.sql)
    }

    #[test]
    fn two_minus_signs_are_a_comment_on_mysql_only_before_a_blank() {
        let text = "UPDATE a SET b = 5--:id";
        assert_eq!(
            sent(text, Dialect::Mysql).unwrap(),
            "UPDATE a SET b = 5- -?"
        );
        assert_eq!(sent(text, Dialect::Sqlite).unwrap(), "UPDATE a SET b = 5 ");
        let text = "SELECT 5--/* :id */3";
        assert_eq!(sent(text, Dialect::Mysql).unwrap(), "SELECT 5- - 3");
        for comment in ["-- :id", "--\t:id", "--\n", "--", "--- :id"] {
            let sql = sent(&format!("DELETE FROM a {comment}"), Dialect::Mysql).unwrap();
            assert!(!sql.contains("id") && !sql.contains("--"), "{sql}");
        }
    }

    #[test]
    fn a_quote_behind_a_sign_is_seen_by_the_driver_too() {
        let text = "SELECT -':id', 1/\":id\"";
        let sql = "SELECT - ':id', 1/ \":id\"";
        assert_eq!(sent(text, Dialect::Mysql).unwrap(), sql);
    }

    #[test]
    fn a_comment_is_not_closed_by_its_own_star() {
        let text = "SELECT 1 /*/ ; :id */";
        assert_eq!(sent(text, Dialect::Mysql).unwrap(), "SELECT 1  ");
        assert!(sent("SELECT 1 /*/", Dialect::Mysql).is_err());
        let hint = "SELECT /*+ MAX_EXECUTION_TIME(9) */ 1";
        assert_eq!(sent(hint, Dialect::Mysql).unwrap(), hint);
    }

    #[test]
    fn brackets_quote_names_on_sqlite() {
        let text = "SELECT [a:id;'] FROM b WHERE c = :id";
        let sql = "SELECT [a:id;'] FROM b WHERE c = ?";
        assert_eq!(sent(text, Dialect::Sqlite).unwrap(), sql);
        assert!(sent("SELECT [a", Dialect::Sqlite).is_err());
    }

    #[test]
    fn a_parameter_that_nothing_is_bound_to_is_refused_on_sqlite() {
        for text in [
            "SELECT @x",
            "SELECT $x",
            "SELECT #x",
            "SELECT :5",
            "SELECT a::b",
        ] {
            assert!(sent(text, Dialect::Sqlite).is_err(), "{text}");
        }
        for (text, dialect) in [
            ("SELECT a$b, é$ FROM t$1", Dialect::Sqlite),
            ("SELECT @x:=5, @`y`, @@sql_mode, $a", Dialect::Mysql),
        ] {
            assert_eq!(sent(text, dialect).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_nul_character_is_refused_because_sqlite_reads_no_further() {
        assert!(sent("DELETE FROM a\0 WHERE b = 5", Dialect::Sqlite).is_err());
    }

    #[test]
    fn no_refusal_is_as_long_as_what_it_refuses() {
        for text in [
            "x".repeat(10_000),
            format!("SELECT :{}", "x".repeat(10_000)),
        ] {
            let refusal = sent(&text, Dialect::Mysql).unwrap_err();
            assert!(refusal.len() < 300, "{refusal}");
        }
    }

    #[test]
    fn a_trailing_semicolon_is_fine() {
        assert_eq!(compiled("DELETE FROM a;  ").unwrap().0, "DELETE FROM a");
    }

    #[test]
    fn a_guard_must_read() {
        assert!(compile_guard("SELECT 1 WHERE :id > 0", Dialect::Sqlite).is_ok());
        assert!(compile_guard("DELETE FROM a", Dialect::Sqlite).is_err());
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
