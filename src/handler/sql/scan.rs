//! Cuts a statement of the configuration into what its database will see, far enough to find the
//! named parameters and the statement's end. Quotes and comments are opaque to it.

use crate::db::Dialect;

/// `text` as it is sent: one statement without comments, `?` for each named parameter, whose names
/// `on_name` is told in order.
///
/// # Errors
/// One line that says what is wrong; what `on_name` refuses.
pub(super) fn scan(
    text: &str,
    dialect: Dialect,
    mut on_name: impl FnMut(&str) -> Result<(), String>,
) -> Result<String, String> {
    if text.contains('\0') {
        return Err("a NUL character ends it before its end".into());
    }
    let mut scanner = Scanner {
        rest: text.trim(),
        dialect,
    };
    let mut sql = String::with_capacity(text.len());
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
                on_name(name)?;
            }
            Token::Placeholder => return Err("`?` has no name; use :payload, :id, …".into()),
            Token::End if scanner.rest.trim().is_empty() => break,
            Token::End => return Err("only one statement each; make it a list".into()),
        }
    }
    Ok(sql)
}

/// Two minus signs with the blank that a comment leaves behind them would be a comment themselves;
/// and the driver, which looks for names of its own, misses a quote behind `-` and `/`.
fn would_run_together(sql: &str, part: &str) -> bool {
    (sql.ends_with('-') && part.starts_with(['-', '\'', '"', '`']))
        || (sql.ends_with('/') && part.starts_with(['\'', '"', '`']))
}

enum Token<'t> {
    Plain(&'t str),
    Named(&'t str),
    Placeholder,
    End,
}

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

    /// What is sent, and the names in it.
    fn scanned(text: &str, dialect: Dialect) -> Result<(String, Vec<String>), String> {
        let mut names = Vec::new();
        let sql = scan(text, dialect, |name| {
            names.push(name.to_owned());
            Ok(())
        })?;
        Ok((sql, names))
    }

    fn sent(text: &str, dialect: Dialect) -> Result<String, String> {
        scanned(text, dialect).map(|(sql, _)| sql)
    }

    #[test]
    fn names_in_quotes_and_comments_are_left_alone() {
        let text = r#"INSERT INTO a VALUES (':id ''x', "\":id", `:id`) -- :id
            /* :id */"#;
        let (sql, names) = scanned(text, Dialect::Mysql).unwrap();
        assert!(names.is_empty(), "{sql}");
        assert!(sql.contains("':id ''x'"));
    }

    #[test]
    fn a_backslash_escapes_on_mysql_only() {
        let text = r"UPDATE a SET b = 'c:\' WHERE d = :id";
        assert!(scanned(text, Dialect::Mysql).is_err());
        assert_eq!(scanned(text, Dialect::Sqlite).unwrap().1, ["id"]);
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
    fn a_trailing_semicolon_is_fine() {
        let sql = sent("DELETE FROM a;  ", Dialect::Mysql);
        assert_eq!(sql.as_deref(), Ok("DELETE FROM a"));
    }
}
