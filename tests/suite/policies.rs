//! What a type's configuration makes of its events: retries, delivery, guards, limits (DESIGN §6).

use crate::runs::{fired, insert, now};
use crate::support::process::{eventually, is_alive};

fn shell(name: &str, script: &str, more: &str) -> String {
    format!(
        "[type.{name}]\nhandler = \"command\"\ncommand = [\"sh\", \"-c\", '{script}']\n{more}\n"
    )
}

on_both_databases! {
    fn a_failed_event_is_tried_again_later_and_dead_in_the_end(site: &Site) {
        site.config(&shell("bad", "echo no luck >&2; exit 3", "retries = 1\nbackoff = \"1h\"")).init();
        insert(site, "bad", 1);
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["retried"], &run["dead"]), (&1.into(), &0.into()));
        let row = site.rows("SELECT status, attempts, first_due_at, last_error FROM scheduled_events");
        assert_eq!(row, [["ready", "1", "1000", "exit status 3: no luck"]]);
        let due = site.query_i64("SELECT due_at FROM scheduled_events");
        assert!((now() + 3_590..=now() + 4_510).contains(&due), "{due}");
        site.sql("UPDATE scheduled_events SET due_at = 2000");
        let ended = site.punctual(["run", "--json"]);
        assert_eq!(ended.code, 1);
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(ended.stderr.contains("event 1 (bad) is dead"), "{ended:?}");
        let dead = "SELECT outcome, attempts, error FROM event_history";
        assert_eq!(site.rows(dead), [["dead", "2", "exit status 3: no luck"]]);
        let late = site.query_i64("SELECT lateness_s FROM event_history");
        assert!(late > 1_000_000_000, "lateness counts from the first due time: {late}");
    }

    fn exit_75_puts_off_and_65_gives_up(site: &Site) {
        site.config(&(shell("later", "exit 75", "max_deferrals = 1") + &shell("never", "exit 65", "")))
            .init();
        insert(site, "later", 1);
        insert(site, "never", 1);
        let ended = site.punctual(["run", "--json"]);
        let run = ended.json();
        assert_eq!((ended.code, &run["deferred"], &run["dead"]), (1, &1.into(), &1.into()));
        let row = "SELECT attempts, deferrals FROM scheduled_events";
        assert_eq!(site.rows(row), [["0", "1"]]);
        site.sql("UPDATE scheduled_events SET due_at = 1000");
        assert_eq!(site.punctual(["run", "--json"]).json()["dead"], 1);
    }

    fn a_handler_that_never_ends_is_killed_with_its_children(site: &Site) {
        let script = "sleep 300 & echo $! > child; wait";
        site.config(&shell("hang", script, "timeout = \"1s\"\ngrace = \"1s\"")).init();
        insert(site, "hang", 1);
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!(run["retried"], 1, "{run}");
        let error = site.rows("SELECT last_error FROM scheduled_events");
        assert!(error[0][0].contains("timed out"), "{error:?}");
        let child = std::fs::read_to_string(site.path("child")).expect("a child was started");
        let child = child.trim().parse().expect("a process number");
        eventually("the handler's child is dead", || !is_alive(child));
    }

    fn at_most_once_is_never_started_again_by_itself(site: &Site) {
        let most = "at_most_once = true\ntimeout = \"1s\"\ngrace = \"1s\"";
        site.config(
            &(shell("fails", "echo $PUNCTUAL_EVENT_ID >> fired; exit 1", most)
                + &shell("hangs", "echo $PUNCTUAL_EVENT_ID >> fired; exec sleep 60", most)
                + &shell("waits", "echo $PUNCTUAL_EVENT_ID >> fired; exit 75", most)),
        )
        .init();
        insert(site, "fails", 2);
        insert(site, "hangs", 1);
        insert(site, "waits", 1);
        let ended = site.punctual(["run", "--json"]);
        let run = ended.json();
        assert_eq!(ended.code, 1);
        assert_eq!((&run["dead"], &run["unknown"], &run["deferred"]), (&2.into(), &1.into(), &1.into()));
        let mut once = fired(site);
        once.sort_unstable();
        assert_eq!(once, [1, 2, 3, 4]);
        let rest = site.rows("SELECT type, status FROM scheduled_events");
        assert_eq!(rest, [["waits", "ready"]]);
    }

    fn a_guard_that_finds_no_row_skips_the_event(site: &Site) {
        let guard = "guard = \"SELECT 1 FROM wanted WHERE id = :p.id\"";
        site.config(&shell("note", "echo $PUNCTUAL_EVENT_ID >> fired", guard)).init();
        site.sql("CREATE TABLE wanted (id INTEGER)").sql("INSERT INTO wanted VALUES (7)");
        site.sql(
            "INSERT INTO scheduled_events (type, due_at, payload) VALUES \
             ('note', 1, '{\"id\":7}'), ('note', 2, '{\"id\":8}')",
        );
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["done"], &run["skipped"], &run["fired"]), (&1.into(), &1.into(), &1.into()));
        assert_eq!(fired(site), [1]);
    }

    fn expired_and_too_late_events_are_skipped(site: &Site) {
        site.config(
            &(shell("note", "exit 0", "") + &shell("fresh", "exit 0", "max_late = \"1h\"\nlate = \"skip\"")),
        )
        .init();
        site.sql(&format!(
            "INSERT INTO scheduled_events (type, due_at, expires_at) VALUES ('note', 1, 2), \
             ('note', 1, {0} + 500), ('fresh', 1, NULL), ('fresh', {0} - 60, NULL)",
            now()
        ));
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["skipped"], &run["done"]), (&2.into(), &2.into()), "{run}");
        let skipped = "SELECT event_id FROM event_history WHERE outcome = 'skipped' ORDER BY event_id";
        assert_eq!(site.rows(skipped), [["1"], ["3"]]);
    }

    fn a_retry_is_ended_by_its_expiry_and_never_by_being_late(site: &Site) {
        let skip = "max_late = \"1h\"\nlate = \"skip\"";
        site.config(&shell("fresh", "[ -e mended ]", skip)).init();
        // The first retry is due in a minute.
        site.sql(&format!(
            "INSERT INTO scheduled_events (type, due_at, expires_at) VALUES \
             ('fresh', {0} - 60, NULL), ('fresh', {0} - 60, {0} + 30)",
            now()
        ));
        let run = site.punctual(["run", "--json"]).json();
        assert_eq!((&run["retried"], &run["dead"]), (&1.into(), &1.into()), "{run}");
        let error = "SELECT event_id, error FROM event_history WHERE outcome = 'dead'";
        let why = "expires before the next attempt: exit status 1";
        assert_eq!(site.rows(error), [["2", why]]);
        site.sql("UPDATE scheduled_events SET first_due_at = 1000, due_at = 2000").write("mended", "");
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
        site.sql(
            "INSERT INTO scheduled_events (id, type, due_at, attempts, expires_at) \
             VALUES (10, 'fresh', 1000, 1, 2000)",
        );
        let ended = site.punctual(["run", "--json"]);
        assert_eq!((ended.code, &ended.json()["fired"]), (1, &0.into()), "{ended:?}");
        let dead = "SELECT outcome, error FROM event_history WHERE event_id = 10";
        assert_eq!(site.rows(dead), [["dead", "expired"]]);
    }

    fn a_breaker_leaves_a_broken_type_alone_until_a_probe(site: &Site) {
        let breaker = "breaker = 3\nbreaker_probe = \"10m\"";
        site.config(&shell("bad", "[ -e mended ]", breaker)).init();
        insert(site, "bad", 10);
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["fired"], &run["retried"]), (&3.into(), &3.into()), "{run}");
        assert_eq!(run["remaining_due"], 7);
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["stop"], "idle");
        let opened = "SELECT COUNT(*) FROM event_log WHERE decision = 'breaker opened'";
        assert_eq!(site.query_i64(opened), 1);
        site.write("mended", "").sql("UPDATE event_types SET open_until = 1");
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!(run["done"], 7, "{run}");
        assert_eq!(site.query_i64("SELECT failures FROM event_types"), 0);
    }

    fn a_rate_bounds_the_attempts_of_a_minute(site: &Site) {
        site.config(&shell("note", "exit 0", "rate = 5")).init();
        insert(site, "note", 20);
        let run = site.punctual(["run", "--json"]).ok().json();
        let first = run["fired"].as_i64().expect("a number");
        assert!((5..=6).contains(&first), "{run}");
        let run = site.punctual(["run", "--json"]).ok().json();
        assert!(run["fired"].as_i64() < Some(3), "{run}");
    }

    fn several_attempts_run_at_once(site: &Site) {
        // Each waits for all four: with fewer at once none would ever end well.
        let script = "touch at.$PUNCTUAL_EVENT_ID; while [ $(ls | grep -c ^at) -lt 4 ]; do sleep 0.05; done";
        site.config(&shell("note", script, "concurrency = 4")).init();
        insert(site, "note", 4);
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 4);
    }

    fn a_handler_may_schedule_its_own_successor_under_the_same_key(site: &Site) {
        site.config(
            "[type.chain]\nhandler = \"sql\"\nsql = \"INSERT INTO scheduled_events (type, due_at, \
             unique_key) VALUES ('chain', :now + 600, :key)\"\n",
        )
        .init();
        site.sql("INSERT INTO scheduled_events (type, due_at, unique_key) VALUES ('chain', 5, 'k')");
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
        let next = "SELECT id, unique_key, status FROM scheduled_events";
        assert_eq!(site.rows(next), [["2", "k", "ready"]]);
        assert_eq!(site.rows("SELECT unique_key FROM event_history"), [["k"]]);
    }

    fn a_failed_event_whose_key_is_taken_is_superseded(site: &Site) {
        let script = "touch up; while [ ! -e go ]; do sleep 0.05; done; exit 1";
        site.config(&shell("note", script, "")).init();
        site.sql("INSERT INTO scheduled_events (type, due_at, unique_key) VALUES ('note', 5, 'k')");
        let run = site.spawn(["run", "--json"]);
        eventually("the handler works", || site.path("up").exists());
        let held = "SELECT unique_key, held_key FROM scheduled_events";
        assert_eq!(site.rows(held), [["NULL", "k"]]);
        site.sql(&format!(
            "INSERT INTO scheduled_events (type, due_at, unique_key) VALUES ('note', {}, 'k')",
            now() + 1000
        ));
        site.write("go", "");
        let run = site.finish(run).ok().json();
        assert_eq!(run["retried"], 0, "{run}");
        let ended = "SELECT event_id, outcome FROM event_history";
        assert_eq!(site.rows(ended), [["1", "cancelled"]]);
        assert_eq!(site.rows("SELECT id, unique_key FROM scheduled_events"), [["2", "k"]]);
    }

    fn an_effect_and_its_record_stand_or_fall_together(site: &Site) {
        site.config(
            "[type.pay]\nhandler = \"sql\"\nsql = [\"INSERT INTO paid (id) VALUES (:id)\", \
             \"INSERT INTO strict (n) VALUES (:p.n)\"]\nretries = 0\n",
        )
        .init();
        site.sql("CREATE TABLE paid (id INTEGER)");
        site.sql("CREATE TABLE strict (n INTEGER NOT NULL)");
        site.sql(
            "INSERT INTO scheduled_events (type, due_at, payload) VALUES ('pay', 1, '{\"n\":1}'), \
             ('pay', 2, '{}'), ('pay', 3, '{\"n\":3}'), ('pay', 4, 'no json')",
        );
        let ended = site.punctual(["run", "--json"]);
        let run = ended.json();
        assert_eq!((ended.code, &run["done"], &run["dead"]), (1, &2.into(), &2.into()), "{run}");
        assert_eq!(site.rows("SELECT id FROM paid ORDER BY id"), [["1"], ["3"]]);
    }

    fn an_effect_that_deletes_its_own_row_fails_alone(site: &Site) {
        site.config(
            "[type.meddle]\nhandler = \"sql\"\nsql = \"DELETE FROM scheduled_events WHERE id = 2\"\n\
             retries = 0\n",
        )
        .init();
        insert(site, "meddle", 1);
        site.sql("INSERT INTO scheduled_events (id, type, due_at) VALUES (2, 'meddle', 3000)");
        let ended = site.punctual(["run", "--json"]);
        assert!(ended.code <= 1, "{ended:?}");
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
    }

    fn one_process_takes_a_batch_and_answers_line_by_line(site: &Site) {
        site.write(
            "batch.php",
            r#"<?php
            file_put_contents('starts', "1\n", FILE_APPEND);
            while (($line = fgets(STDIN)) !== false) {
                $event = json_decode($line, true);
                $n = json_decode($event['payload'], true)['n'];
                $answer = ['id' => $event['id']];
                if ($n % 10 == 3) { $answer['error'] = 'three'; }
                elseif ($n % 10 == 4) { $answer['dead'] = true; $answer['error'] = 'four'; }
                elseif ($n % 10 == 5) { $answer['retry_after'] = 600; }
                elseif ($n % 10 == 6) { continue; }
                else { $answer['ok'] = true; }
                echo json_encode($answer), "\n";
            }"#,
        );
        site.config(
            "[type.batch]\nhandler = \"command\"\nmode = \"batch\"\nbreaker = 0\n\
             command = [\"php\", \"batch.php\"]\n",
        )
        .init();
        let values: Vec<String> =
            (0..200).map(|n| format!("('batch', 5, '{{\"n\":{n}}}')")).collect();
        let insert = "INSERT INTO scheduled_events (type, due_at, payload) VALUES";
        site.sql(&format!("{insert} {}", values.join(", ")));
        let ended = site.punctual(["run", "--json"]);
        let run = ended.json();
        assert_eq!(ended.code, 1, "{ended:?}");
        assert_eq!((&run["done"], &run["dead"]), (&120.into(), &20.into()), "{run}");
        assert_eq!((&run["retried"], &run["deferred"]), (&40.into(), &20.into()), "{run}");
        let starts = std::fs::read_to_string(site.path("starts")).expect("it was started");
        assert_eq!(starts.lines().count(), 1);
    }

    fn a_paused_type_waits_until_it_is_resumed(site: &Site) {
        site.config(&shell("note", "exit 0", "")).init();
        insert(site, "note", 1);
        site.punctual(["pause", "note"]).ok();
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["stop"], "idle");
        site.punctual(["resume", "note"]).ok();
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
    }
}
