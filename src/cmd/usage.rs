//! A wrong command line, said in one line.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

use clap::error::ErrorKind;

use super::{check, complain};
use crate::error::Exit;

/// Options of every command that take a value in the next word.
const WITH_VALUE: [&str; 3] = ["--config", "--database", "--tz"];

/// Prints what clap has to say and returns the exit code: help and version on stdout, 0; a mistake
/// in one line, 2. `check` answers as a monitoring plugin even then.
pub fn refuse(error: &clap::Error, words: &[OsString]) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render();
            let mut out = io::stdout();
            let colour = out.is_terminal();
            // A closed stdout is no failure; there is nothing else to do here.
            let _ = if colour {
                write!(out, "{}", text.ansi())
            } else {
                write!(out, "{text}")
            };
            Exit::Ok as u8
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = write!(io::stderr(), "{}", error.render());
            Exit::Usage as u8
        }
        _ => {
            let line = one_line(&error.render().to_string());
            if asks_for_check(words) {
                return check::unknown(&line);
            }
            complain(&line);
            Exit::Usage as u8
        }
    }
}

/// clap's message without its usage block: that is what `--help` is for.
fn one_line(text: &str) -> String {
    let mut parts = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        parts.push(line);
    }
    let joined = parts.join(" ");
    let said = joined.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = said.trim_start_matches("error: ").replace(" tip: ", "; ");
    format!("{said}; see `punctual --help`")
}

fn asks_for_check(words: &[OsString]) -> bool {
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        let Some(text) = word.to_str() else { continue };
        if WITH_VALUE.contains(&text) {
            words.next();
        } else if !text.starts_with('-') {
            return text == "check";
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn said(words: &[&str]) -> String {
        let words = ["punctual"].iter().chain(words);
        one_line(&Cli::try_parse_from(words).unwrap_err().render().to_string())
    }

    #[test]
    fn a_mistake_is_said_in_one_line_with_the_nearest_word() {
        let line = said(&["statsu"]);
        assert!(
            line.starts_with("unrecognized subcommand 'statsu'"),
            "{line}"
        );
        assert!(line.contains("'status'"), "{line}");
        let line = said(&["add", "mail"]);
        assert!(
            line.contains("--at <TIME>") && !line.contains('\n'),
            "{line}"
        );
        let line = said(&["add", "mail", "--in", "5 parsecs"]);
        assert!(
            line.contains("parsecs") && line.ends_with("see `punctual --help`"),
            "{line}"
        );
    }

    #[test]
    fn check_is_recognised_behind_global_options() {
        let asks = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            asks_for_check(&words)
        };
        assert!(asks(&["punctual", "--config", "x", "check", "--nope"]));
        assert!(asks(&["punctual", "-v", "check"]));
        assert!(!asks(&["punctual", "--config", "check", "list"]));
    }
}
