//! A wrong command line.

use std::fmt::Write as _;

use super::{DATA, IO, UNAVAILABLE, USAGE, forget_what_was_said, refused, unchanged};
use crate::support::process::{Ended, Running};
use crate::support::site::Site;

/// The types that the sites of this file know.
const TYPES: &str = "[type.reminder]\nhandler = \"command\"\ncommand = [\"true\"]\n\
                     [type.unlock]\nhandler = \"sql\"\nsql = \"SELECT 1\"\n";

/// Words of a command line, and what its refusal says.
type Case<'c> = (&'c [&'c str], &'c [&'c str]);

/// A site with types, an event, and a history.
#[track_caller]
fn prepared(site: &Site) -> &Site {
    site.config(TYPES).init();
    site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('reminder', 1000)");
    site.punctual(["run"]).ok();
    site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('reminder', 1000)")
}

#[track_caller]
fn all_refused(site: &Site, code: i32, cases: &[Case]) {
    for (words, said) in cases {
        forget_what_was_said(site);
        refused(&unchanged(site, || punctual(site, words)), code, said);
    }
}

fn punctual(site: &Site, words: &[&str]) -> Ended {
    let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
    command.args(words);
    site.finish(Running::start(command, b""))
}

on_both_databases! {
    fn unknown_words_are_refused_with_the_nearest_known_one(site: &Site) {
        prepared(site);
        all_refused(site, USAGE, &[
            (&["statsu"], &["statsu", "'status'"]),
            (&["list", "--hsitory"], &["--hsitory", "--history"]),
            (&["--jsno", "list"], &["--jsno", "--json"]),
            (&["run", "--type", "remindre"], &["`remindre`", "`reminder`"]),
            (&["run", "--dry-run", "--type", "remindre"], &["`remindre`", "`reminder`"]),
            (&["add", "remindre", "--in", "5m"], &[
                "`remindre`", "`reminder`", "--allow-unknown-type",
            ]),
            (&["pause", "remindre"], &["`remindre`", "`reminder`"]),
            (&["resume", "remindre"], &["`remindre`", "`reminder`"]),
            (&["list", "--status", "raedy"], &["raedy", "ready"]),
            (&["list", "--history", "--outcome", "daed"], &["daed", "dead"]),
            (&["resolve", "1", "--as", "don"], &["don", "done"]),
            (&["completions", "bsah"], &["bsah", "bash"]),
            (&["add", "reminder", "--in", "5m", "--key", "k", "--if-exists", "kepe"], &[
                "kepe", "keep",
            ]),
            (&["--tz", "Europe/Amsterdm", "list"], &["--tz", "`Europe/Amsterdm`", "Amsterdam"]),
            (&["run", "--tz", "CEST"], &["--tz", "`CEST`"]),
        ]);
    }

    fn what_is_no_time_or_duration_is_refused_with_one_that_is(site: &Site) {
        prepared(site);
        let at = |time| ["add", "reminder", "--at", time];
        all_refused(site, USAGE, &[
            (&at("tomorow"), &["--at", "`tomorow`", "write 2026-11-22 09:15"]),
            (&at(""), &["--at", "write 2026-11-22 09:15"]),
            (&at("1795335300"), &["bare number", "write @1795335300"]),
            (&at("1795335300000"), &["bare number", "write @1795335300"]),
            (&at("@1795335300000"), &["takes seconds, not milliseconds"]),
            (&at("@-1"), &["`@-1`", "1970"]),
            (&at("2026-02-31"), &["`2026-02-31`", "does not exist"]),
            (&at("2026-01-01 25:00"), &["does not exist"]),
            (&at("20260231000000"), &["does not exist"]),
            (&at("3001-01-01"), &["1970-01-01 to 3000-01-01"]),
            (&["add", "reminder", "--in", "5 parsecs"], &["--in", "parsecs", "write for example"]),
            (&["add", "reminder", "--in", "5"], &["--in", "a unit is missing"]),
            (&["add", "reminder", "--in", "-5m"], &["-5"]),
            (&["add", "reminder", "--in", "1000y"], &["--in", "past the year 3000"]),
            (&["add", "reminder", "--in", "99999y"], &["--in", "1000 years"]),
            (&["add", "reminder", "--in", "5m", "--expires", "never"], &["--expires", "`never`"]),
            (&["add", "reminder"], &["--at", "--in"]),
            (&["add", "reminder", "--at", "now", "--in", "5m"], &["--at", "--in"]),
            (&["run", "--max-time", "50"], &["--max-time", "a unit is missing"]),
            (&["run", "--due-before", "soon"], &["--due-before", "`soon`"]),
            (&["list", "--from", "noon"], &["--from", "`noon`"]),
            (&["list", "--to", "noon"], &["--to", "`noon`"]),
            (&["cancel", "--from", "noon"], &["--from", "`noon`"]),
            (&["retry", "--to", "noon"], &["--to", "`noon`"]),
            (&["pause", "reminder", "--until", "whenever"], &["--until", "`whenever`"]),
            (&["pause", "reminder", "--until", "@5"], &["--until", "past"]),
            (&["prune", "--older-than", "long"], &["--older-than", "`long`"]),
        ]);
    }

    fn what_is_no_rule_is_refused_with_what_is_wrong_with_it(site: &Site) {
        prepared(site);
        let next = |cron| ["schedules", "next", "--cron", cron];
        all_refused(site, USAGE, &[
            (&next("0 0 31 2 *"), &["--cron", "`0 0 31 2 *`", "never matches"]),
            (&next("every day"), &["`every day`", "has 2 fields", "five are wanted"]),
            (&next("0 0 0 * * *"), &["has 6 fields"]),
            (&next("61 * * * *"), &["minute `61`", "0 to 59"]),
            (&next("* * * * mnday"), &["day of week `mnday`", "sun to sat"]),
            (&next("@reboot"), &["`@reboot`", "names no times"]),
            (&next("@dialy"), &["`@dialy`", "`@daily`"]),
            (&next("\u{1b}[2J"), &["no cron expression"]),
            (&["schedules", "next", "--cron", "@daily", "--tz", "Mars"], &["--tz", "`Mars`"]),
            (&["schedules", "next", "--cron", "@daily", "--after", "noon"], &[
                "--after", "`noon`",
            ]),
            (&["schedules", "next", "--cron", "@daily", "--count", "0"], &["--count", "0"]),
            (&["schedules", "next", "--every", "6h"], &["--anchor"]),
            (&["schedules", "next", "--every", "0s", "--anchor", "now"], &["--every", "1s"]),
            (&["schedules", "next", "--every", "6h", "--anchor", "noon"], &["--anchor", "`noon`"]),
            (&["schedules", "next"], &["--cron", "--every"]),
            (&["schedules", "nxet"], &["nxet", "next"]),
        ]);
    }

    fn a_local_time_that_clocks_skip_or_repeat_is_refused_with_both_readings(site: &Site) {
        prepared(site);
        let at = |time| ["add", "reminder", "--at", time, "--tz", "Europe/Amsterdam"];
        all_refused(site, USAGE, &[
            (&at("2027-03-28 02:30"), &[
                "2027-03-28 02:30", "does not exist", "Europe/Amsterdam",
                "2027-03-28T01:59:59+01:00", "2027-03-28T03:00:00+02:00",
            ]),
            (&at("2026-10-25 02:30"), &[
                "exists twice", "Europe/Amsterdam",
                "2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00",
            ]),
        ]);
    }

    fn numbers_out_of_range_and_words_that_do_not_go_together_are_refused(site: &Site) {
        prepared(site);
        all_refused(site, USAGE, &[
            (&["run", "--batch-size", "0"], &["--batch-size", "1 to 1000"]),
            (&["run", "--batch-size", "many"], &["--batch-size", "1 to 1000"]),
            (&["run", "--max-events", "-1"], &["-1"]),
            (&["list", "--limit", "0"], &["--limit", "0"]),
            (&["add", "reminder", "--in", "5m", "--priority", "3"], &["--priority", "-2..=2"]),
            (&["add", "reminder", "--in", "5m", "--if-exists", "latest"], &["--key"]),
            (&["import", "--from-line", "0"], &["--from-line", "0"]),
            (&["list", "--outcome", "dead"], &["--history"]),
            (&["list", "--limit", "all"], &["--limit", "all"]),
            (&["cancel"], &["<ID>"]),
            (&["cancel", "seven"], &["seven", "ID"]),
            (&["cancel", "1", "--all"], &["--all"]),
            (&["resolve", "1"], &["--as"]),
            (&["-q", "-v", "list"], &["--quiet", "--verbose"]),
            (&["list", "extra"], &["extra"]),
            (&["init", "--print-sql", "--adopt"], &["--adopt"]),
        ]);
    }

    fn what_is_too_long_is_refused(site: &Site) {
        prepared(site);
        site.write("huge", &"x".repeat((1 << 20) + 1));
        let (name, key) = ("t".repeat(65), "k".repeat(192));
        let (wide_name, wide_key) = ("é".repeat(33), "é".repeat(96));
        let key_of = |key| ["add", "reminder", "--in", "5m", "--key", key];
        all_refused(site, DATA, &[
            (&["add", "reminder", "--in", "5m", "--payload-file", "huge"], &["payload", "1 MiB"]),
            (&["add", &name, "--in", "5m", "--allow-unknown-type"], &["type", "65", "64"]),
            (&["add", &wide_name, "--in", "5m"], &["type", "66", "64"]),
            (&["add", "", "--in", "5m"], &["type is empty"]),
            (&key_of(&key), &["key", "192", "191"]),
            (&key_of(&wide_key), &["key", "192", "191"]),
            (&key_of(""), &["key is empty"]),
        ]);
        let from_stdin = ["add", "reminder", "--in", "5m", "--payload-file", "-"];
        let huge = "x".repeat((1 << 20) + 1);
        let ended = unchanged(site, || site.punctual_reading(&huge, from_stdin));
        refused(&ended, DATA, &["payload", "1 MiB"]);
        all_refused(site, IO, &[
            (&["add", "reminder", "--in", "5m", "--payload-file", "absent"], &["absent"]),
            (&["add", "reminder", "--in", "5m", "--payload-file", "home"], &["home"]),
        ]);
        // And the longest that is allowed goes in, byte for byte.
        let longest = "y".repeat(1 << 20);
        site.punctual_reading(&longest, from_stdin).ok();
        let length = "SELECT MAX(LENGTH(payload)) FROM scheduled_events";
        assert_eq!(site.query_i64(length), 1 << 20);
        site.punctual(key_of(&"k".repeat(191))).ok();
    }

    fn nothing_hostile_reaches_the_terminal_raw(site: &Site) {
        prepared(site);
        for word in ["\u{1b}[2J", "line\nfeed", "bell\u{7}", "\u{202e}rtl"] {
            let mut name = String::new();
            write!(name, "x{word}").expect("a String takes all");
            for words in [
                &["add", &name, "--in", "5m"][..],
                &["run", "--type", &name],
                &["pause", &name],
                &["list", "--from", &name],
                &["--tz", &name, "list"],
                &["--config", &name, "list"],
                &["--database", &name, "list"],
                &["list", &name],
                &[&name],
            ] {
                forget_what_was_said(site);
                let ended = unchanged(site, || punctual(site, words));
                assert!(ended.code >= USAGE, "{ended:?}");
                assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
                let raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
                assert!(!ended.stderr.contains(raw), "{words:?}: {ended:?}");
            }
        }
    }
}

/// cron mails whatever a tick says; nobody calls a dry run every minute, or mistypes in a crontab
/// for long.
#[test]
fn a_tick_says_the_same_thing_once_an_hour_and_a_dry_run_always() {
    let site = Site::sqlite();
    prepared(&site);
    std::fs::remove_file(site.path("events.db")).expect("a database to remove");
    let words = ["events.db", "punctual init"];
    refused(&site.punctual(["run"]), UNAVAILABLE, &words);
    let again = site.punctual(["run"]);
    assert_eq!((again.code, again.stderr.as_str()), (UNAVAILABLE, ""));
    for _ in 0..3 {
        refused(&site.punctual(["run", "--dry-run"]), UNAVAILABLE, &words);
        let mistyped = site.punctual(["run", "--type", "remindre"]);
        refused(&mistyped, USAGE, &["`remindre`", "`reminder`"]);
    }
}

#[test]
fn no_command_at_all_prints_the_help_on_stderr() {
    let site = Site::sqlite();
    let ended = site.punctual([]);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (USAGE, ""),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("Usage: punctual"), "{ended:?}");
}
