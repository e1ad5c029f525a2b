//! Bad input: each mistake has its own exit code (DESIGN §7) and one line on stderr that names the
//! thing and the remedy, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use crate::support::process::Ended;
use crate::support::site::Site;

mod arguments;
mod configuration;
mod database;
mod handlers;
mod import;
mod locks;
mod rows;
mod secrets;
mod storage;

const USAGE: i32 = 2;
const DATA: i32 = 65;
const UNAVAILABLE: i32 = 69;
const IO: i32 = 74;
const PERMISSION: i32 = 77;
const CONFIGURATION: i32 = 78;

/// Nobody's files on any system.
const STRANGER: u32 = 54_321;

/// A type that writes down the ids it was given.
const NOTE: &str = "[type.note]\nhandler = \"command\"\n\
                    command = [\"sh\", \"-c\", \"echo $PUNCTUAL_EVENT_ID >> fired\"]\n";

/// Asserts this exit code, nothing on stdout, and one line on stderr that holds these words.
#[track_caller]
pub(crate) fn refused(ended: &Ended, code: i32, words: &[&str]) {
    // Shown by `--nocapture`: the messages of a whole section, to be read by a person.
    println!("{} {}", ended.code, ended.stderr.trim_end());
    assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.starts_with("punctual: "), "{ended:?}");
    for word in words {
        assert!(
            ended.stderr.contains(word),
            "`{word}` is not named: {ended:?}"
        );
    }
}

/// Everything of a site that a refused command could have changed: each table's rows, each file of
/// its directory (the database's aside, whose rows are read instead).
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    tables: BTreeMap<&'static str, Vec<Vec<String>>>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Contents {
    #[track_caller]
    fn of(site: &Site) -> Self {
        let rows = |table| site.rows(&format!("SELECT * FROM {table} ORDER BY 1"));
        Self {
            tables: TABLES.map(|table| (table, rows(table))).into(),
            files: files(site),
        }
    }
}

const TABLES: [&str; 14] = [
    "scheduled_events",
    "event_schedules",
    "event_next",
    "event_slots",
    "event_backfills",
    "event_scans",
    "event_sources",
    "event_history",
    "event_log",
    "event_runs",
    "event_lease",
    "event_types",
    "event_aside",
    "punctual_meta",
];

/// The plain files of a site's directory, other than its database.
fn files(site: &Site) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(site.path("")).expect("the site's directory");
    let paths = entries.map(|entry| entry.expect("a readable entry").path());
    // SQLite's locks are dropped when somebody opens its file beside it and closes it again.
    let plain = |path: &PathBuf| path.is_file() && !path.to_string_lossy().contains("events.db");
    let read = |path: PathBuf| {
        fs::read(&path)
            .map(|text| (path, text))
            .expect("a file of ours")
    };
    paths.filter(plain).map(read).collect()
}

/// Asserts that `command` changes nothing of the site.
#[track_caller]
pub(crate) fn unchanged(site: &Site, command: impl FnOnce() -> Ended) -> Ended {
    let before = Contents::of(site);
    let ended = command();
    assert_eq!(
        Contents::of(site),
        before,
        "something was changed: {ended:?}"
    );
    ended
}

/// `run` says the same line once an hour only, for cron mails it; a test of its messages forgets
/// the stamps of earlier ones. The lock file, in the same place on MariaDB, is made anew.
#[track_caller]
fn forget_what_was_said(site: &Site) {
    match fs::remove_dir_all(site.path("state/punctual")) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("state: {error}"),
        _ => {}
    }
}

/// What only root can arrange, such as files that belong to somebody else, is left out for others.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("left out: only root can arrange this");
    }
    is_root
}
