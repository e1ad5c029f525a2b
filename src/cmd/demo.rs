//! `demo`: the main job in a throw-away SQLite database, each step shown as the command it stands
//! for. Nothing of the user's is read or written.

use std::path::{Path, PathBuf};

use clap::Parser;

use super::Context;
use crate::cli::Cli;
use crate::clock::Clock;
use crate::config::Database;
use crate::db::{self, Access};
use crate::error::{Exit, Failure};
use crate::token::random_hex;

/// The configuration of the demo: one type that runs a statement, one that starts a program, one
/// that fails.
const CONFIG: &str = r#"database = "sqlite:demo.db"
state_dir = "state"

[type.unlock]                       # exactly once: the statement and its record commit together
handler = "sql"
sql = ["UPDATE article SET locked = 0 WHERE id = :p.article"]

[type.reminder]                     # at least once: a program, the payload on its stdin
handler = "command"
command = ["sh", "-c", "printf 'to %s: ' \"$PUNCTUAL_EVENT_KEY\" >> mail.txt; cat >> mail.txt; echo >> mail.txt"]

[type.flaky]                        # fails, and is tried again with growing delays
handler = "command"
command = ["sh", "-c", "echo 'the mail server is away' >&2; exit 1"]
"#;

/// What an application of one's own would have.
const APPLICATION: &str = "CREATE TABLE article (id INTEGER PRIMARY KEY, locked INTEGER);
INSERT INTO article VALUES (1, 1), (2, 1);";

/// Each line is run as it stands.
const STEPS: &[(&str, &[&str])] = &[
    (
        "Events are rows. Any language can insert them; `add` does it from the shell.",
        &[
            "add",
            "unlock",
            "--in",
            "0s",
            "--payload",
            r#"{"article":1}"#,
        ],
    ),
    (
        "",
        &[
            "add",
            "reminder",
            "--in",
            "0s",
            "--key",
            "ada",
            "--payload",
            "your article is due",
        ],
    ),
    (
        "",
        &[
            "add",
            "reminder",
            "--in",
            "30d",
            "--key",
            "bob",
            "--payload",
            "in a month",
        ],
    ),
    ("", &["add", "flaky", "--in", "0s"]),
    (
        "A dry run lists what a run would start, and writes nothing.",
        &["run", "--dry-run"],
    ),
    (
        "A run fires what is due. From cron it prints nothing when all is well.",
        &["run", "--json"],
    ),
    ("What became of each event:", &["list", "--history"]),
    (
        "What is left, with the failed one waiting for its next try:",
        &["list"],
    ),
    ("Why is it still there?", &["why", "4"]),
    ("And the whole state at a glance:", &["status"]),
];

/// Runs the demo in a directory of its own, which is removed afterwards.
///
/// # Errors
/// [`Failure`] 74 where there is no room for it; 70 where a step failed.
pub fn main(context: &Context) -> anyhow::Result<u8> {
    let dir = Throwaway::new()?;
    context
        .out
        .line(format_args!("A throw-away site in {}\n", dir.0.display()))?;
    std::env::set_current_dir(&dir.0).map_err(|error| dir.failure(&error))?;
    write_private(Path::new("punctual.toml"), CONFIG).map_err(|error| dir.failure(&error))?;
    let database = Database::Sqlite {
        path: dir.0.join("demo.db"),
    };
    db::connect(&database, Access::Create, Clock::system())?.execute_script(APPLICATION)?;
    context.out.line("$ cat punctual.toml")?;
    context.out.line(CONFIG)?;
    step(context, "", &["init"])?;
    for (comment, words) in STEPS {
        step(context, comment, words)?;
    }
    context
        .out
        .line("# The effects: the article is unlocked, one mail was written.")?;
    context.out.line("$ cat mail.txt")?;
    let mail = std::fs::read_to_string("mail.txt").map_err(|error| dir.failure(&error))?;
    context.out.line(mail)?;
    context
        .out
        .line("Your turn: `punctual init` in a directory of yours; README.md has the rest.")?;
    Ok(Exit::Ok as u8)
}

fn step(context: &Context, comment: &str, words: &[&str]) -> anyhow::Result<()> {
    if !comment.is_empty() {
        context.out.line(format_args!("# {comment}"))?;
    }
    let shown: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    context
        .out
        .line(format_args!("$ punctual {}", shown.join(" ")))?;
    context.out.flush()?;
    // The configuration is named, so that no variable or file of the user's gets a say.
    let line = [
        "punctual",
        "--config",
        "punctual.toml",
        "--database",
        "sqlite:demo.db",
    ];
    let cli = Cli::try_parse_from(line.iter().chain(words))?;
    let exit = super::execute(&cli);
    if exit != Exit::Ok as u8 {
        let message = format!("`punctual {}` ended with {exit}", shown.join(" "));
        return Err(Failure::new(Exit::Bug, message).into());
    }
    context.out.line("")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{word}'")
    }
}

/// A private directory that goes when the demo ends.
struct Throwaway(PathBuf);

impl Throwaway {
    fn new() -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("punctual-demo-{}", random_hex()));
        let dir = Self(path);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir.0)
            .map_err(|e| dir.failure(&e))?;
        Ok(dir)
    }

    fn failure(&self, error: &std::io::Error) -> Failure {
        Failure::io(format!("{}: {error}", self.0.display()))
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let _ = std::env::set_current_dir("/");
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            log::warn!("{}: {error}", self.0.display());
        }
    }
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}
