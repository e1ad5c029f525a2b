//! Sources at work: what the rows of a table say becomes events once each, moves and goes with its
//! row, whatever becomes of the table, the clock, the configuration and the run.

use std::process::Command;

use punctual::clock::Clock;
use serde_json::Value;

use crate::support::process::{Ended, Running, eventually};
use crate::support::site::Site;

/// 2027-03-01 00:00 UTC.
const START: i64 = 1_803_859_200;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Each event leaves its key, its expiry, and when it was due.
const NOTE: &str = "[type.note]\nhandler = \"sql\"\n\
    sql = \"INSERT INTO seen (id, slot, due, payload) VALUES (:key, :slot, :due, :payload)\"\n";

/// The query of most tests.
const QUERY: &str =
    "SELECT id AS `key`, ends AS due_at, who FROM member WHERE ends >= :from AND ends < :until";

fn source(more: &str) -> String {
    format!("{NOTE}[source.members]\ntype = \"note\"\nsql = \"{QUERY}\"\n{more}\n")
}

fn set_up(site: &Site, text: &str) {
    site.config(text).init();
    site.sql("CREATE TABLE seen (id VARCHAR(191), slot BIGINT, due BIGINT, payload VARCHAR(999))");
    site.sql("CREATE TABLE member (id INTEGER PRIMARY KEY, ends BIGINT, who VARCHAR(99))");
    site.sql("CREATE INDEX member_ends ON member (ends)");
}

#[track_caller]
fn command_at(site: &Site, instant: i64, words: &[&str]) -> Command {
    site.write("clock", &(instant - Clock::system().now().0).to_string());
    let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
    command
        .args(words)
        .env("PUNCTUAL_FAULT_CLOCK", site.path("clock"));
    command
}

/// Runs the binary at `instant`, and for as long after it as that takes.
#[track_caller]
fn at(site: &Site, instant: i64, words: &[&str]) -> Ended {
    alone(site);
    site.finish(Running::start(command_at(site, instant, words), b""))
}

/// Waits until the server knows that earlier runs are gone: a tick that comes in the instant before
/// steps aside for the lock that is theirs still.
#[track_caller]
fn alone(site: &Site) {
    if site.mariadb_database().is_some() {
        let others = "SELECT COUNT(*) FROM information_schema.PROCESSLIST \
                      WHERE DB = DATABASE() AND ID <> CONNECTION_ID()";
        eventually("nobody else is connected", || site.query_i64(others) == 0);
    }
}

/// A run that says nothing.
#[track_caller]
fn run_at(site: &Site, instant: i64) -> Value {
    at(site, instant, &["run", "--json"]).ok().json()
}

fn member(site: &Site, id: i64, ends: i64) {
    site.sql(&format!(
        "INSERT INTO member (id, ends, who) VALUES ({id}, {ends}, 'nobody')"
    ));
}

fn ends(site: &Site, id: i64, ends: i64) {
    site.sql(&format!("UPDATE member SET ends = {ends} WHERE id = {id}"));
}

/// What was fired, in order: key and expiry, counted from the start.
fn seen(site: &Site) -> Vec<(i64, i64)> {
    pairs(site, "SELECT id, slot FROM seen ORDER BY slot, id")
}

/// The live events: key and expiry, counted from the start.
fn live(site: &Site) -> Vec<(i64, i64)> {
    pairs(
        site,
        "SELECT unique_key, slot_at FROM scheduled_events ORDER BY slot_at, unique_key",
    )
}

fn pairs(site: &Site, query: &str) -> Vec<(i64, i64)> {
    let number = |text: &String| -> i64 { text.parse().expect("a number") };
    let rows = site.rows(query);
    rows.iter()
        .map(|row| (number(&row[0]), number(&row[1]) - START))
        .collect()
}

fn log_lines(site: &Site, decision: &str) -> Vec<String> {
    let query =
        format!("SELECT detail FROM event_log WHERE decision = '{decision}' ORDER BY log_id");
    let rows = site.rows(&query);
    rows.into_iter().map(|mut row| row.remove(0)).collect()
}

on_both_databases! {
    fn a_row_becomes_an_event_that_fires_once_so_long_before_its_expiry(site: &Site) {
        set_up(site, &source("lead = \"1d\"\npriority = -1"));
        member(site, 7, START + 2 * DAY);
        member(site, 8, START + 9 * DAY);
        run_at(site, START);
        assert_eq!(live(site), [], "both lie beyond the horizon");
        run_at(site, START + DAY - HOUR / 2);
        let event = "SELECT type, due_at, payload, origin, priority, status FROM scheduled_events";
        let due = (START + DAY).to_string();
        let payload = "{\"who\":\"nobody\"}";
        assert_eq!(site.rows(event), [["note", &due, payload, "source:members", "-1", "ready"]]);
        for _ in 0..3 {
            run_at(site, START + DAY + 1);
            assert_eq!(seen(site), [(7, 2 * DAY)]);
        }
        run_at(site, START + DAY + HOUR);
        run_at(site, START + 3 * DAY);
        assert_eq!(seen(site), [(7, 2 * DAY)]);
        run_at(site, START + 8 * DAY);
        assert_eq!(seen(site), [(7, 2 * DAY), (8, 9 * DAY)]);
        assert_eq!(pairs(site, "SELECT due, slot FROM seen WHERE id = '7'"), [(START + DAY, 2 * DAY)]);
    }

    fn an_event_follows_its_row_earlier_later_away_and_back(site: &Site) {
        set_up(site, &source("every = \"1m\""));
        member(site, 7, START + 1000);
        run_at(site, START);
        assert_eq!(live(site), [(7, 1000)]);
        let id = site.query_i64("SELECT id FROM scheduled_events");
        for (minute, to) in [(2, 900), (4, 3000), (6, 2000)] {
            ends(site, 7, START + to);
            run_at(site, START + minute * 60);
            assert_eq!(live(site), [(7, to)], "minute {minute}");
            assert_eq!(site.query_i64("SELECT id FROM scheduled_events"), id);
            assert_eq!(pairs(site, "SELECT derived_key, expiry FROM event_sources"), [(7, to)]);
        }
        assert_eq!(log_lines(site, "moved").len(), 3);
        // Beyond the horizon there is nothing to wait for yet.
        ends(site, 7, START + 9 * DAY);
        run_at(site, START + 8 * 60);
        assert_eq!(live(site), []);
        let ended = "SELECT outcome, error FROM event_history";
        let why = "its row is gone from source members";
        assert_eq!(site.rows(ended), [["cancelled", why]]);
        assert_eq!(log_lines(site, "cancelled"), [why]);
        ends(site, 7, START + 2000);
        run_at(site, START + 10 * 60);
        assert_eq!(live(site), [(7, 2000)]);
        site.sql("DELETE FROM member");
        run_at(site, START + 12 * 60);
        assert_eq!(live(site), []);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_sources"), 0);
        member(site, 7, START + 2000);
        run_at(site, START + 14 * 60);
        assert_eq!(live(site), [(7, 2000)]);
        run_at(site, START + 2000);
        run_at(site, START + 2100);
        assert_eq!(seen(site), [(7, 2000)]);
    }

    fn a_key_with_a_new_expiry_fires_again_and_with_the_old_one_never(site: &Site) {
        set_up(site, &source("every = \"1m\""));
        member(site, 7, START + 600);
        run_at(site, START + 600);
        assert_eq!(seen(site), [(7, 600)]);
        ends(site, 7, START + 1200);
        run_at(site, START + 700);
        ends(site, 7, START + 600);
        run_at(site, START + 800);
        assert_eq!(live(site), []);
        ends(site, 7, START + 1800);
        run_at(site, START + 900);
        run_at(site, START + 1800);
        run_at(site, START + 1900);
        assert_eq!(seen(site), [(7, 600), (7, 1800)]);
    }
}
