//! Sources at work: what the rows of a table say becomes events once each, moves and goes with its
//! row, whatever becomes of the table, the clock, the configuration and the run.

use serde_json::Value;

use crate::recurring::{command_at, log_lines};
use crate::support::process::{Ended, Running};
use crate::support::site::Site;

mod trouble;

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

/// Runs the binary at `instant`, and for as long after it as that takes.
#[track_caller]
fn at(site: &Site, instant: i64, words: &[&str]) -> Ended {
    site.alone();
    site.finish(Running::start(command_at(site, instant, words), b""))
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
        member(site, 7, START + 660);
        run_at(site, START + 600);
        run_at(site, START + 660);
        assert_eq!(seen(site), [(7, 660)]);
        ends(site, 7, START + 1200);
        run_at(site, START + 700);
        ends(site, 7, START + 660);
        run_at(site, START + 800);
        assert_eq!(live(site), []);
        ends(site, 7, START + 1800);
        run_at(site, START + 900);
        run_at(site, START + 1800);
        run_at(site, START + 1900);
        assert_eq!(seen(site), [(7, 660), (7, 1800)]);
    }
}

/// A run that complains in one line and goes on.
#[track_caller]
fn complains(site: &Site, instant: i64, code: i32) -> String {
    let ended = at(site, instant, &["run", "--json"]);
    assert_eq!(
        (ended.code, ended.stderr.lines().count()),
        (code, 1),
        "{ended:?}"
    );
    ended.stderr
}

/// `[source.members]` with this query.
fn asking(query: &str) -> String {
    source("").replace(QUERY, query)
}

on_both_databases! {
    fn a_query_that_cannot_work_is_one_line_and_keeps_nothing_else_from_firing(site: &Site) {
        set_up(site, &source(""));
        let queries = [
            ("SELECT id AS `key`, ends AS due_at FROM nothing_there", "nothing_there"),
            ("SELECT id, ends AS due_at FROM member", "no column `key`"),
            ("SELECT id AS `key`, ends FROM member", "neither `due_at` nor `due_at_mw`"),
            ("SELECT id AS `key`, ends AS due_at, ends AS due_at_mw FROM member", "leave one out"),
            ("SELECT id AS `key`, ends AS due_at, who, who FROM member", "two columns"),
            ("SELECT id AS `key`, ends AS due_at FROM", "derives nothing"),
        ];
        for (round, (query, part)) in (1..).zip(queries) {
            site.config(&asking(query));
            site.sql(&format!(
                "INSERT INTO scheduled_events (type, due_at, unique_key) VALUES ('note', 5, '{round}')"
            ));
            let line = complains(site, START + round, 78);
            assert!(line.contains("source members") && line.contains(part), "{query}: {line}");
            let fired = site.query_i64("SELECT COUNT(*) FROM seen");
            assert_eq!(fired, round, "{query}");
        }
        let check = site.punctual(["check"]);
        assert_eq!(check.code, 1, "{check:?}");
        assert!(check.stdout.contains("failing query") && check.stdout.contains("members"), "{check:?}");
        let status = site.punctual(["status", "--json"]).ok().json();
        assert_eq!(status["failing_sources"], serde_json::json!(["members"]));
        assert_eq!(log_lines(site, "source failed").len(), queries.len());
        // It is looked at again after `every`, and says so once an hour.
        run_quietly(site, START + 100);
        site.config(&source(""));
        member(site, 7, START + 200);
        run_quietly(site, START + 300);
        assert_eq!(pairs(site, "SELECT id, slot FROM seen WHERE id = '7' AND slot > 5"), [(7, 200)]);
        let listed = site.punctual(["sources", "list", "--json"]).ok().json();
        assert_eq!(listed["error"], Value::Null);
    }

    fn faulty_rows_are_counted_and_the_first_named_and_all_others_derived(site: &Site) {
        let query = "SELECT `key`, due_at, who FROM odd";
        set_up(site, &asking(query));
        site.sql("CREATE TABLE odd (`key` VARCHAR(999), due_at VARCHAR(99), who VARCHAR(99))");
        let soon = START + 100;
        for row in [
            "NULL, '1803859300', 'a'".to_owned(),
            "'', '1803859300', 'a'".to_owned(),
            format!("'{}', '1803859300', 'a'", "x".repeat(192)),
            "'b', NULL, 'a'".to_owned(),
            "'c', '2027-03-01', 'a'".to_owned(),
            "'d', 'soon', 'a'".to_owned(),
            "'e', '1803859300.5', 'a'".to_owned(),
            "'f', '1803859300000', 'a'".to_owned(),
            format!("'1', '{soon}', 'a'"),
            format!("'2', '{soon}.000', NULL"),
            "'3', '5', 'a'".to_owned(),
            format!("'4', '{}', 'long past'", START - DAY),
        ] {
            site.sql(&format!("INSERT INTO odd VALUES ({row})"));
        }
        let line = complains(site, START, 0);
        assert!(line.contains("source members: 9 rows that no event can be made of"), "{line}");
        assert!(line.contains("column `"), "{line}");
        assert_eq!(live(site), [(1, 100), (2, 100)]);
        assert_eq!(log_lines(site, "source looked at").len(), 1);
        let payloads = site.rows("SELECT payload FROM scheduled_events ORDER BY unique_key");
        assert_eq!(payloads, [["{\"who\":\"a\"}"], ["{\"who\":null}"]]);
        let shown = site.punctual(["sources", "list", "--json"]).ok().json();
        assert!(shown["remark"].as_str().is_some_and(|text| text.starts_with("9 rows")), "{shown}");
    }

    fn mediawiki_instants_are_read_and_what_never_ends_is_passed_over(site: &Site) {
        let query = "SELECT id AS `key`, who AS due_at_mw, who AS payload FROM member \
                     WHERE who >= :from_mw AND who < :until_mw OR :now_mw < '2' OR who > '3'";
        set_up(site, &asking(query));
        for (id, expiry) in [
            (1, "20270301000100"),
            (2, "infinity"),
            (3, "20270301000030"),
            (4, "20260301000100"),
            (5, "30001301000100"),
        ] {
            site.sql(&format!("INSERT INTO member VALUES ({id}, 0, '{expiry}')"));
        }
        let line = complains(site, START, 0);
        assert!(line.contains("1 row that") && line.contains("14 digits"), "{line}");
        assert_eq!(live(site), [(3, 30), (1, 60)]);
        let payload = "SELECT payload FROM scheduled_events WHERE unique_key = '1'";
        assert_eq!(site.rows(payload), [["20270301000100"]]);
    }

    fn duplicates_are_one_and_a_key_with_two_expiries_has_the_earlier_one_first(site: &Site) {
        let query = "SELECT who AS `key`, ends AS due_at FROM member WHERE ends >= :from";
        set_up(site, &format!("{}every = \"1m\"\n", asking(query)));
        for (id, ends) in [(1, 600), (2, 600), (3, 1200), (4, 1200)] {
            site.sql(&format!("INSERT INTO member VALUES ({id}, {}, '7')", START + ends));
        }
        let line = complains(site, START, 0);
        assert!(line.contains("earlier expiry"), "{line}");
        assert_eq!(live(site), [(7, 600)]);
        run_quietly(site, START + 120);
        assert_eq!(live(site), [(7, 600)]);
        run_quietly(site, START + 610);
        run_quietly(site, START + 800);
        assert_eq!((seen(site), live(site)), (vec![(7, 600)], vec![(7, 1200)]));
        run_quietly(site, START + 1201);
        run_quietly(site, START + 1400);
        assert_eq!(seen(site), [(7, 600), (7, 1200)]);
    }

    fn a_key_that_another_event_has_is_left_and_tried_again(site: &Site) {
        set_up(site, &source("every = \"1m\""));
        site.sql(&format!(
            "INSERT INTO scheduled_events (type, due_at, unique_key) VALUES ('note', {}, '7')",
            START + DAY
        ));
        member(site, 7, START + 600);
        let line = complains(site, START, 0);
        assert!(line.contains("held by an event of another origin"), "{line}");
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 1);
        site.sql("DELETE FROM scheduled_events");
        run_quietly(site, START + 120);
        assert_eq!(live(site), [(7, 600)]);
    }

    fn a_clock_put_back_a_day_loses_nothing_and_fires_nothing_twice(site: &Site) {
        set_up(site, &source(""));
        member(site, 1, START + 600);
        member(site, 2, START + DAY + 600);
        for later in [0, 700, DAY, DAY + 700] {
            run_at(site, START + later);
        }
        assert_eq!(seen(site), [(1, 600), (2, DAY + 600)]);
        member(site, 3, START + 1200);
        for later in [800, 1150, 1300, DAY + 800, DAY + 3000] {
            run_at(site, START + later);
        }
        assert_eq!(seen(site), [(1, 600), (3, 1200), (2, DAY + 600)]);
    }

    fn a_machine_that_was_off_for_a_week_fires_all_that_expired_meanwhile(site: &Site) {
        set_up(site, &source("lead = \"1d\""));
        run_at(site, START);
        for day in 1..=7 {
            member(site, day, START + day * DAY);
        }
        run_at(site, START + 6 * DAY + HOUR);
        let all: Vec<(i64, i64)> = (1..=7).map(|day| (day, day * DAY)).collect();
        assert_eq!(seen(site), all);
        run_at(site, START + 8 * DAY);
        assert_eq!(seen(site), all);
    }

    fn the_guard_has_the_last_word(site: &Site) {
        let guarded = source("").replace(
            "[type.note]",
            "[type.note]\nguard = \"SELECT 1 FROM member WHERE id = :key AND ends = :slot\"",
        );
        set_up(site, &guarded);
        member(site, 7, START + 100);
        member(site, 8, START + 100);
        run_at(site, START);
        ends(site, 7, START + 9 * DAY);
        run_at(site, START + 101); // no look is due
        assert_eq!(seen(site), [(8, 100)]);
        let skipped = "SELECT unique_key FROM event_history WHERE outcome = 'skipped'";
        assert_eq!(site.rows(skipped), [["7"]]);
    }

    fn more_rows_than_are_allowed_are_derived_as_the_window_moves(site: &Site) {
        set_up(site, &source("max_rows = 3\nevery = \"1m\""));
        for (id, ends) in [(1, 600), (2, 700), (3, 800), (4, 800), (5, 900), (6, 1000)] {
            member(site, id, START + ends);
        }
        let line = complains(site, START, 0);
        assert!(line.contains("more than 3 rows"), "{line}");
        let whole_second = [(1, 600), (2, 700), (3, 800), (4, 800)];
        assert_eq!(live(site), whole_second);
        for later in [650, 750, 850, 950, 1050, 1150] {
            run_quietly(site, START + later);
        }
        assert_eq!(seen(site).len(), 6);
    }

    fn a_source_that_is_taken_out_takes_its_events_back_and_fires_nothing_twice(site: &Site) {
        for off in ["", "enabled = false"] {
            set_up(site, &source("every = \"1m\""));
            member(site, 7, START + 600);
            member(site, 8, START + 1800);
            run_at(site, START + 600);
            assert_eq!((seen(site), live(site)), (vec![(7, 600)], vec![(8, 1800)]));
            match off {
                "" => site.config(NOTE),
                off => site.config(&source(off)),
            };
            run_at(site, START + 700);
            assert_eq!(live(site), []);
            assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_next"), 0);
            site.config(&source("every = \"1m\""));
            ends(site, 7, START + 600);
            run_at(site, START + 800);
            assert_eq!((seen(site), live(site)), (vec![(7, 600)], vec![(8, 1800)]), "{off}");
            let tables = ["seen", "member"].map(|table| format!("DROP TABLE {table}"));
            site.sql_all(&tables);
            let tables = ["scheduled_events", "event_scans", "event_sources", "event_next"];
            site.sql_all(&tables.map(|table| format!("DELETE FROM {table}")));
            site.sql("DELETE FROM punctual_meta WHERE name = 'sources'");
        }
    }

    fn an_edited_lead_moves_what_waits_and_a_new_type_takes_its_place(site: &Site) {
        set_up(site, &source("lead = \"1d\""));
        member(site, 7, START + 2 * DAY);
        run_at(site, START + DAY - 1800);
        let due = "SELECT due_at FROM scheduled_events";
        assert_eq!(site.query_i64(due), START + DAY);
        site.config(&source("lead = \"1h\""));
        run_at(site, START + DAY - 1700);
        assert_eq!(site.query_i64(due), START + 2 * DAY - HOUR);
        assert_eq!(log_lines(site, "source edited").len(), 1);
        let other = source("lead = \"1d\"").replace("\"note\"", "\"other\"");
        let other = format!("{other}[type.other]\nhandler = \"command\"\ncommand = [\"true\"]\n");
        site.config(&other);
        run_at(site, START + DAY - 1600);
        assert_eq!(site.rows("SELECT type FROM scheduled_events"), [["other"]]);
    }

    fn a_dry_run_lists_what_a_look_would_derive_and_writes_nothing(site: &Site) {
        set_up(site, &source(""));
        member(site, 7, START + 600);
        member(site, 8, START + 1200);
        run_at(site, START);
        member(site, 9, START + 700);
        let until = format!("@{}", START + 1000);
        let planned = at(site, START + 10, &["run", "--dry-run", "--json", "--due-before", &until]);
        let planned = planned.ok().stdout;
        let lines: Vec<Value> = planned.lines().map(|line| line.parse().expect("JSON")).collect();
        let keys: Vec<(bool, &str)> = lines
            .iter()
            .map(|line| (line["id"].is_null(), line["key"].as_str().expect("a key")))
            .collect();
        assert_eq!(keys, [(false, "7"), (true, "9")]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 2);
        let shown = at(site, START + 10, &["sources", "show", "members", "--json"]).ok().json();
        assert_eq!(shown["would_derive"][0]["key"], "9");
        assert_eq!(shown["rows"], 2);
        let shown = at(site, START + 10, &["sources", "show", "members"]).ok().stdout;
        assert!(shown.contains("{\"who\":\"nobody\"}"), "{shown}");
        let gone = site.punctual(["sources", "show", "membres"]);
        assert_eq!(gone.code, 2);
        assert!(gone.stderr.contains("did you mean"), "{gone:?}");
    }
}

/// A run of which no line is to be said, or none again.
#[track_caller]
fn run_quietly(site: &Site, instant: i64) {
    let ended = at(site, instant, &["run"]);
    assert_eq!(ended.stdout, "", "{ended:?}");
}

#[test]
fn mistakes_in_a_source_are_named_with_their_line() {
    let site = Site::sqlite();
    let with = |more: &str| {
        let stated = "[source.a]\ntype = \"note\"\nsql = \"SELECT 1\"\n";
        format!("{NOTE}{stated}{more}\n")
    };
    for (text, why) in [
        (with("evry = \"5m\""), "did you mean `every`?"),
        (with("key = \"id\""), "it is a column that `sql` gives"),
        (with("every = \"0s\""), "every"),
        (
            with("every = \"2h\"\nhorizon = \"1h\""),
            "at least as long as `every`",
        ),
        (with("lead = \"200y\""), "at most 100 years"),
        (with("max_rows = 0"), "max_rows"),
        (
            with("").replace("\"note\"\nsql", "\"nte\"\nsql"),
            "did you mean `note`?",
        ),
        (with("").replace("sql = \"SELECT 1\"", ""), "has no `sql`"),
        (
            with("").replace("SELECT 1", "DELETE FROM a"),
            "a source is one SELECT, not DELETE",
        ),
        (
            with("").replace("SELECT 1", "SELECT :id"),
            "unknown parameter :id",
        ),
        (
            with("").replace("SELECT 1", "SELECT 1; SELECT 2"),
            "only one statement",
        ),
    ] {
        let refused = site.config(&text).punctual(["list"]);
        assert_eq!(
            (refused.code, refused.stderr.lines().count()),
            (78, 1),
            "{refused:?}"
        );
        assert!(refused.stderr.contains("punctual.toml:"), "{refused:?}");
        assert!(refused.stderr.contains(why), "{why}: {refused:?}");
    }
}
