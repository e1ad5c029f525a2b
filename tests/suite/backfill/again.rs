//! Events of history that are made again, and events picked by where they are from.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{AGAIN, applied, half_past, numbers, plan_at, set_up};
use crate::recurring::at;
use crate::support::site::Site;

/// An ending in history, half past midnight of a day after the Monday and some seconds.
pub(super) fn ended(site: &Site, id: i64, outcome: &str, seconds: i64, key: &str, error: &str) {
    let finished = half_past(0) + seconds;
    let key = if key.is_empty() {
        "NULL".to_owned()
    } else {
        format!("'{key}'")
    };
    site.sql(&format!(
        "INSERT INTO event_history (event_id, type, due_at, payload, unique_key, priority, \
         attempts, losses, deferrals, outcome, finished_at, error) VALUES ({id}, 'note', 5, \
         'p{id}', {key}, 0, 1, 0, 0, '{outcome}', {finished}, '{error}')"
    ));
}

pub(super) fn left_out(plan: &Value) -> BTreeMap<String, i64> {
    let reasons = plan["left_out"].as_object().expect("an object").iter();
    reasons
        .map(|(why, rows)| (why.clone(), rows.as_i64().expect("a number")))
        .collect()
}

on_both_databases! {
    fn dead_and_unknown_events_come_back_and_others_only_by_name(site: &Site) {
        set_up(site, "");
        let outcomes = ["dead", "unknown", "skipped", "cancelled", "withdrawn", "done", "dead"];
        for (id, outcome) in (1..).zip(outcomes) {
            ended(site, 10 * id, outcome, 10 - id, "", "why");
        }
        site.sql("UPDATE event_history SET resolved_at = 1803859300, resolved_as = 'dead' \
                  WHERE event_id = 70");
        let now = half_past(1);
        let plan = plan_at(site, now, &AGAIN);
        assert_eq!(plan["events"], 2);
        assert_eq!(left_out(&plan), BTreeMap::from([("resolved as dead".to_owned(), 1)]));
        applied(site, now, &AGAIN).ok();
        let live = "SELECT id, payload, origin, priority, attempts, last_error \
                    FROM scheduled_events ORDER BY due_at";
        // The one that finished first comes first.
        assert_eq!(site.rows(live), [
            ["20", "p20", "backfill:1", "2", "0", "why"],
            ["10", "p10", "backfill:1", "2", "0", "why"],
        ]);
        let marked = "SELECT event_id FROM event_history WHERE resolved_as = 'retried' ORDER BY 1";
        assert_eq!(numbers(site, marked), [10, 20]);
        let trail = at(site, now, &["why", "10"]).ok().stdout;
        assert!(trail.contains("made again by backfill:1"), "{trail}");
        let plan = plan_at(site, now, &AGAIN);
        assert_eq!((&plan["events"], left_out(&plan)["run again before"]), (&0.into(), 2));
        site.sql("DELETE FROM scheduled_events");
        let named = |outcomes: &[&'static str]| {
            let named = outcomes.iter().flat_map(|outcome| ["--outcome", outcome]);
            AGAIN.into_iter().chain(named).collect::<Vec<_>>()
        };
        applied(site, now, &named(&["skipped", "cancelled"])).ok();
        assert_eq!(numbers(site, "SELECT id FROM scheduled_events ORDER BY id"), [30, 40]);
        // What was done stays done; what is made of it is another event.
        site.sql("DELETE FROM scheduled_events");
        applied(site, now, &named(&["done", "withdrawn"])).ok();
        let payloads = "SELECT payload, id IN (50, 60) FROM scheduled_events ORDER BY due_at";
        assert_eq!(site.rows(payloads), [["p60", "0"], ["p50", "0"]]);
        assert_eq!(plan_at(site, now, &named(&["done"]))["events"], 0);
    }

    fn errors_are_picked_by_a_part_of_them_alike_on_both_databases(site: &Site) {
        set_up(site, "");
        let errors = ["HTTP 503 from a", "http 503 from a", "HTTP 500", "100%", ""];
        for (id, error) in (1..).zip(errors) {
            ended(site, id, "dead", id, "", error);
        }
        let now = half_past(1);
        for (pattern, events) in [
            ("HTTP", 2), ("http", 1), ("HTTP*from", 1), ("503", 2), ("%", 1), ("_", 0), ("", 5),
            ("' OR '1'='1", 0),
        ] {
            let words = [&AGAIN[..], &["--error", pattern]].concat();
            assert_eq!(plan_at(site, now, &words)["events"], events, "{pattern}");
        }
        let of_type = [&AGAIN[..], &["--type", "other"]].concat();
        assert_eq!(plan_at(site, now, &of_type)["events"], 0);
    }

    fn of_events_with_one_key_the_first_comes_back_and_none_where_it_is_taken(site: &Site) {
        set_up(site, "");
        for (id, key) in [(1, "a"), (2, "b"), (3, "a"), (4, ""), (5, "c")] {
            ended(site, id, "dead", id, key, "");
        }
        site.sql("INSERT INTO scheduled_events (id, type, due_at, unique_key) \
                  VALUES (99, 'note', 32000000000, 'b')");
        let now = half_past(1);
        let plan = plan_at(site, now, &AGAIN);
        assert_eq!(plan["events"], 3);
        assert_eq!(left_out(&plan), BTreeMap::from([
            ("have the key of an earlier one".to_owned(), 1),
            ("superseded by a ready event with the same key".to_owned(), 1),
        ]));
        applied(site, now, &AGAIN).ok();
        let live = "SELECT id, unique_key FROM scheduled_events ORDER BY id";
        assert_eq!(site.rows(live), [["1", "a"], ["4", "NULL"], ["5", "c"], ["99", "b"]]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_history WHERE resolved_at > 0"), 3);
    }

    fn events_are_picked_by_where_they_are_from(site: &Site) {
        set_up(site, "");
        for (id, origin) in (1..).zip(["schedule:a", "schedule:b", "source:a", "backfill:1"]) {
            site.sql(&format!("INSERT INTO scheduled_events (type, due_at, origin) \
                 VALUES ('note', 32000000000, '{origin}')"));
            ended(site, 100 + id, "dead", id, "", "");
            site.sql(&format!("UPDATE event_history SET origin = '{origin}' \
                 WHERE event_id = {}", 100 + id));
        }
        let now = half_past(1);
        let ids = |words: &[&str]| {
            let listed = at(site, now, &[&["list", "--json"], words].concat()).ok();
            let ids = listed.json_lines().into_iter();
            ids.map(|event| event["id"].as_i64().expect("an id")).collect::<Vec<_>>()
        };
        assert_eq!(ids(&["--origin", "schedule:b"]), [2]);
        assert_eq!(ids(&["--origin", "schedule:b", "--type", "note"]), [2]);
        assert_eq!(ids(&["--origin", "schedule:b", "--type", "other"]), [0i64; 0]);
        assert_eq!(ids(&["--origin", "source:a", "--history"]), [103]);
        at(site, now, &["cancel", "--origin", "source:a"]).ok();
        at(site, now, &["retry", "--origin", "schedule:a"]).ok();
        at(site, now, &["resolve", "--origin", "schedule:b", "--as", "done"]).ok();
        assert_eq!(numbers(site, "SELECT id FROM scheduled_events ORDER BY id"), [1, 2, 4, 101]);
        let resolved = "SELECT event_id, resolved_as FROM event_history \
                        WHERE resolved_at > 0 ORDER BY event_id";
        assert_eq!(site.rows(resolved), [["101", "retried"], ["102", "done"]]);
    }
}
