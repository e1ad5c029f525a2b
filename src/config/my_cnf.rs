//! `~/.my.cnf`: what a database URL leaves out, read as MySQL's own client reads it
//! (MySQL 8.0 manual, 4.2.2.2 "Using Option Files").
//!
//! Other programs own this file: what it says beside five keys is passed over, never judged.

use std::path::Path;

use super::permission::{self, Rule};
use super::{ConfigError, Secret};

/// The groups a client of either server reads.
const GROUPS: [&str; 3] = ["client", "client-server", "client-mariadb"];

/// What is read of them.
const KEYS: [&str; 5] = ["user", "password", "host", "port", "socket"];

/// What the file says about a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MyCnf {
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) socket: Option<String>,
}

/// Reads the file under `rule`; a missing one says nothing.
pub(super) fn read(path: &Path, rule: Rule) -> Result<MyCnf, ConfigError> {
    let Some(bytes) = permission::read(path, rule)? else {
        return Ok(MyCnf::default());
    };
    parse(&String::from_utf8_lossy(&bytes)).map_err(|(line, message)| {
        ConfigError::Invalid(format!("{}:{line}: {message}", path.display()))
    })
}

fn parse(text: &str) -> Result<MyCnf, (usize, String)> {
    let mut found = MyCnf::default();
    let mut ours = false;
    // What editors of another system put before the first line.
    let text = text.trim_start_matches('\u{feff}');
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';', '!']) {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            let group = header.split(']').next().unwrap_or_default().trim();
            ours = GROUPS.contains(&group);
            continue;
        }
        // A key alone (`password`) means "ask": there is nobody to ask.
        if ours && let Some((key, value)) = without_comment(line).split_once('=') {
            found
                .set(key.trim(), unquoted(value.trim()))
                .map_err(|error| (index + 1, error))?;
        }
    }
    Ok(found)
}

impl MyCnf {
    /// A later line wins over an earlier one, and an empty value takes back what was said.
    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        if KEYS.contains(&key) && value.contains(char::REPLACEMENT_CHARACTER) {
            return Err(format!("`{key}` is no UTF-8 text: save the file as UTF-8"));
        }
        let value = Some(value).filter(|value| !value.is_empty());
        match key {
            "user" => self.user = value,
            "password" => self.password = value.map(Secret::new),
            "host" => self.host = value,
            "socket" => self.socket = value,
            "port" => {
                let port = value.map(|value| value.parse()).transpose();
                self.port = port.map_err(|_| "`port` must be 0 to 65535".to_owned())?;
                // 0 is MySQL's word for the default.
                self.port = self.port.filter(|port| *port != 0);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The line up to a `#` that stands outside quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match quote {
            None if c == '#' => return &line[..at],
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if c == open && !escaped => quote = None,
            _ => {}
        }
        escaped = quote.is_some() && c == '\\' && !escaped;
    }
    line
}

/// The value without the quotes around it, and with its escapes resolved; an escape that MySQL
/// does not document keeps its backslash.
fn unquoted(value: &str) -> String {
    let inner = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(value);
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match characters.next() {
            Some('b') => text.push('\u{8}'),
            Some('t') => text.push('\t'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('s') => text.push(' '),
            Some(same @ ('\\' | '"' | '\'')) => text.push(same),
            Some(other) => text.extend(['\\', other]),
            None => text.push('\\'),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn password(line: &str) -> Option<String> {
        let found = parse(&format!("[client]\n{line}\n")).unwrap();
        found.password.map(|password| password.reveal().to_owned())
    }

    #[test]
    fn the_client_groups_are_read_and_no_other() {
        let text = "user = nobody\n[mysqld]\nuser = mysql\nport = none\n# note\n; note\n\n\
                    [client]\nuser=wiki\n!include /etc/other.cnf\n[client-server]\nport = 3307\n\
                    [client-mariadb] # ours too\nsocket = /run/x.sock\ndatabase = x\nssl\n\
                    [mysqldump]\nuser = dump\nquick";
        let found = parse(text).unwrap();
        assert_eq!(found.user.as_deref(), Some("wiki"));
        assert_eq!(found.port, Some(3307));
        assert_eq!(found.socket.as_deref(), Some("/run/x.sock"));
        assert_eq!((found.host, found.password), (None, None));
    }

    #[test]
    fn values_are_read_with_quotes_comments_and_escapes_as_documented() {
        for (line, value) in [
            ("password=plain", "plain"),
            ("  password  =  spaced out  ", "spaced out"),
            ("password = \"qu#oted\" # note", "qu#oted"),
            ("password = 'it''s'", "it''s"),
            ("password = 'sin\"gle'", "sin\"gle"),
            ("password = plain#note", "plain"),
            ("password = \"a\\\"#b\" # note", "a\"#b"),
            (r"password = a\sb\\c\td", "a b\\c\td"),
            (r"password = C:\Users", r"C:\Users"),
            (r"password = trailing\", r"trailing\"),
            ("password = a=b", "a=b"),
            ("password = \"", "\""),
        ] {
            assert_eq!(password(line).as_deref(), Some(value), "{line}");
        }
    }

    #[test]
    fn a_key_without_a_value_says_nothing_and_a_later_line_wins() {
        assert_eq!(password("password"), None);
        assert_eq!(password("password ="), None);
        assert_eq!(password("password = ''"), None);
        assert_eq!(
            password("password = one\npassword = two").as_deref(),
            Some("two")
        );
    }

    #[test]
    fn a_wrong_port_is_named_with_its_line() {
        let refusal = parse("[client]\nuser = a\nport = many\n").unwrap_err();
        assert_eq!(refusal, (3, "`port` must be 0 to 65535".to_owned()));
        assert_eq!(parse("[client]\nport = 0").unwrap().port, None);
    }

    #[test]
    fn a_mark_that_an_editor_put_first_hides_no_group() {
        let found = parse("\u{feff}[client]\r\nuser = wiki\r\n").unwrap();
        assert_eq!(found.user.as_deref(), Some("wiki"));
    }

    /// It would be sent as another password, and the server would say that it is wrong.
    #[test]
    fn a_value_that_is_no_text_is_refused_and_not_replaced() {
        let read = |bytes: &[u8]| parse(&String::from_utf8_lossy(bytes));
        let refusal = read(b"# caf\xe9\n[client]\npassword = h\xfcsh\n").unwrap_err();
        let said = "`password` is no UTF-8 text: save the file as UTF-8";
        assert_eq!(refusal, (3, said.to_owned()));
        assert!(read(b"[client]\nprompt = \xfc\n[other]\npassword = \xfc").is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(\\[client\\]\n)?(.|\n)*") {
            let _ = parse(&text);
        }

        #[test]
        fn a_quoted_value_is_read_back(value in "[ -~]{1,30}") {
            let quoted = value.replace('\\', r"\\").replace('"', "\\\"");
            prop_assert_eq!(password(&format!("password = \"{quoted}\"")), Some(value));
        }
    }
}
