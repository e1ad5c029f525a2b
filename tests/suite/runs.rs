//! What a run promises (DESIGN §2), through the binary as cron calls it.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::process::eventually;
use crate::support::site::Site;

/// Appends the event's id to a file of the site; the shell is the handler.
const NOTE_ID: &str = r#"
[type.note]
handler = "command"
command = ["sh", "-c", "echo $PUNCTUAL_EVENT_ID >> fired"]
"#;

on_both_databases! {
    fn what_is_due_fires_and_what_is_not_stays(site: &Site) {
        site.config(NOTE_ID).init();
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('note', 1000)");
        site.sql(&format!(
            "INSERT INTO scheduled_events (type, due_at) VALUES ('note', {})",
            far_ahead()
        ));
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!(run["stop"], "drained");
        assert_eq!((&run["fired"], &run["done"]), (&1.into(), &1.into()));
        assert_eq!(fired(site), [1]);
        assert_eq!(site.rows("SELECT id, status FROM scheduled_events"), [["2", "ready"]]);
        let history = "SELECT event_id, outcome, attempts FROM event_history";
        assert_eq!(site.rows(history), [["1", "done", "0"]]);
    }

    fn a_quiet_run_prints_nothing(site: &Site) {
        site.config(NOTE_ID).init();
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('note', 1000)");
        let ended = site.punctual(["run"]).ok();
        assert_eq!(ended.stdout, "");
    }

    fn an_idle_tick_takes_no_epoch_and_writes_no_run(site: &Site) {
        site.config(NOTE_ID).init();
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!(run["stop"], "idle");
        assert_eq!((&run["run_id"], &run["epoch"]), (&Value::Null, &Value::Null));
        assert_eq!(run["remaining_due"], 0);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_runs"), 0);
        assert_eq!(site.query_i64("SELECT epoch FROM event_lease"), 0);
        assert!(site.query_i64("SELECT last_tick_at FROM event_lease") > 0);
        let stamped = site.rows("SELECT last_tick_at FROM event_lease");
        site.punctual(["run"]).ok();
        assert_eq!(site.rows("SELECT last_tick_at FROM event_lease"), stamped);
    }

    fn the_json_of_a_run_has_its_fields_in_order(site: &Site) {
        site.config(NOTE_ID).init();
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('note', 1000)");
        for _ in 0..2 {
            let run = site.punctual(["run", "--json"]).ok().json();
            let keys: Vec<&String> = run.as_object().expect("an object").keys().collect();
            assert_eq!(
                keys,
                [
                    "run_id", "epoch", "started_at", "cutoff", "finished_at", "stop", "fired",
                    "done", "retried", "deferred", "dead", "skipped", "unknown", "withdrawn",
                    "recovered", "released", "waves", "remaining_due", "types"
                ]
            );
        }
    }

    fn a_second_run_steps_aside_silently_and_is_counted(site: &Site) {
        site.config(
            "[type.slow]\nhandler = \"command\"\ncommand = [\"sh\", \"-c\", \"touch up; \
             while [ ! -e go ]; do sleep 0.05; done\"]\n",
        )
        .init();
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('slow', 1000)");
        let first = site.spawn(["run", "--json"]);
        eventually("the handler works", || site.path("up").exists());
        let second = site.punctual(["run"]).ok();
        assert_eq!(second.stdout, "");
        let third = site.punctual(["run", "--json"]).ok().json();
        assert_eq!(third["stop"], "locked");
        let fourth = site.punctual(["run", "--fail-if-locked"]);
        assert_eq!((fourth.code, fourth.stdout.as_str()), (75, ""));
        assert_eq!(fourth.stderr.lines().count(), 1, "{}", fourth.stderr);
        let status = site.punctual(["status", "--json"]).ok().json();
        assert_eq!(status["steps_aside"], 3);
        assert_eq!(status["running"], 1);
        assert_eq!(status["running_by"]["pid"], first.pid());
        site.write("go", "");
        assert_eq!(site.finish(first).ok().json()["done"], 1);
        let status = site.punctual(["status", "--json"]).ok().json();
        assert_eq!(status["steps_aside"], 3);
        assert_eq!(status["running_by"], Value::Null);
    }

    fn the_tables_name_what_is_being_dealt_with_and_by_whom(site: &Site) {
        site.config(
            "[type.slow]\nhandler = \"command\"\ncommand = [\"sh\", \"-c\", \"touch up; \
             while [ ! -e go ]; do sleep 0.05; done\"]\n",
        )
        .init();
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('slow', 1), ('slow', 2)");
        let run = site.spawn(["run"]);
        eventually("the handler works", || site.path("up").exists());
        let wave = "SELECT wave_type, wave_first_id, wave_last_id, wave_events, pid \
                    FROM event_runs WHERE finished_at IS NULL";
        let pid = run.pid().to_string();
        assert_eq!(site.rows(wave), [["slow", "1", "2", "2", pid.as_str()]]);
        let claims = "SELECT COUNT(*) FROM scheduled_events e JOIN event_lease l \
                      ON l.epoch = e.claim_epoch WHERE e.status = 'running'";
        assert_eq!(site.query_i64(claims), 2);
        site.write("go", "");
        site.finish(run).ok();
    }

    fn a_killed_run_is_recovered_by_the_next_tick(site: &Site) {
        site.config(
            r#"
[type.slow]
handler = "command"
command = ["sh", "-c", "echo $PUNCTUAL_EVENT_ID >> fired; [ -e go ] || exec sleep 100"]
timeout = "5m"
[type.once]
handler = "command"
at_most_once = true
command = ["sh", "-c", "echo $PUNCTUAL_EVENT_ID >> fired; [ -e go ] || exec sleep 100"]
timeout = "5m"
"#,
        )
        .init();
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('slow', 1), ('slow', 2)");
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('once', 3), ('once', 4)");
        let run = site.spawn(["run"]);
        eventually("both types are under way", || fired(site).len() == 2);
        run.kill_9();
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 4);
        site.write("go", "");
        let mut recovered = None;
        // The watchdog ends the orphans before it lets the lock go; a tick until then steps aside.
        eventually("a tick finds the lock free", || {
            let ended = site.punctual(["run", "--json"]);
            recovered = Some((ended.code, ended.json()));
            recovered.as_ref().is_some_and(|(_, run)| run["stop"] != "locked")
        });
        let (code, run) = recovered.expect("a run");
        assert_eq!(code, 1, "{run}");
        assert_eq!((&run["recovered"], &run["unknown"]), (&3.into(), &1.into()), "{run}");
        assert_eq!(run["done"], 3, "{run}");
        // 1 and 3 were under way; 1 is tried again, 3 never, 2 and 4 had not been started.
        let mut all = fired(site);
        all.sort_unstable();
        assert_eq!(all, [1, 1, 2, 3, 4]);
        let outcomes = "SELECT event_id, outcome, losses FROM event_history ORDER BY event_id";
        assert_eq!(
            site.rows(outcomes),
            [["1", "done", "1"], ["2", "done", "1"], ["3", "unknown", "0"], ["4", "done", "0"]]
        );
        let died = "SELECT COUNT(*) FROM event_runs WHERE stop = 'died'";
        assert_eq!(site.query_i64(died), 1);
    }

    fn a_run_ends_by_its_number_of_events(site: &Site) {
        site.config(NOTE_ID).init();
        insert(site, "note", 10);
        let run = site.punctual(["run", "--json", "--max-events", "4"]).ok().json();
        assert_eq!((&run["stop"], &run["fired"]), (&"max_events".into(), &4.into()));
        assert_eq!(run["remaining_due"], 6);
        let run = site.punctual(["run", "--json", "--max-events", "6"]).ok().json();
        assert_eq!((&run["stop"], &run["fired"]), (&"drained".into(), &6.into()));
        assert_eq!(fired(site), (1..=10).collect::<Vec<_>>());
    }

    fn a_run_ends_by_its_time_and_gives_back_what_it_did_not_start(site: &Site) {
        site.config(
            "[type.slow]\nhandler = \"command\"\ncommand = [\"sleep\", \"0.3\"]\n",
        )
        .init();
        insert(site, "slow", 20);
        let run = site.punctual(["run", "--json", "--max-time", "1s"]).ok().json();
        assert_eq!(run["stop"], "max_time", "{run}");
        let number = |name: &str| run[name].as_i64().expect("a number");
        assert!(number("fired") >= 1 && number("fired") < 20, "{run}");
        assert_eq!(number("done"), number("fired"), "{run}");
        assert_eq!(number("remaining_due"), 20 - number("fired"), "{run}");
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events WHERE losses > 0"), 0);
        let running = "SELECT COUNT(*) FROM scheduled_events WHERE status = 'running'";
        assert_eq!(site.query_i64(running), 0);
    }

    fn a_signal_lets_handlers_finish_and_releases_the_rest(site: &Site) {
        site.config(
            "[type.slow]\nhandler = \"command\"\ncommand = [\"sh\", \"-c\", \"touch up; \
             while [ ! -e go ]; do sleep 0.05; done; touch end\"]\n",
        )
        .init();
        insert(site, "slow", 3);
        let run = site.spawn(["run", "--json"]);
        eventually("the handler works", || site.path("up").exists());
        run.signal(Signal::TERM);
        std::thread::sleep(std::time::Duration::from_millis(300));
        site.write("go", "");
        let ended = site.finish(run);
        assert_eq!(ended.code, 128 + 15, "{ended:?}");
        let run = ended.json();
        assert_eq!(run["stop"], "signal");
        assert_eq!((&run["done"], &run["released"]), (&1.into(), &2.into()), "{run}");
        assert!(site.path("end").exists());
        let rest = "SELECT COUNT(*) FROM scheduled_events WHERE status = 'ready' AND losses = 0";
        assert_eq!(site.query_i64(rest), 2);
    }

    fn a_signal_ends_handlers_that_outlast_the_grace(site: &Site) {
        site.config(
            "[run]\ngrace = \"1s\"\n[type.slow]\nhandler = \"command\"\ntimeout = \"5m\"\n\
             command = [\"sh\", \"-c\", \"touch up; exec sleep 200\"]\n",
        )
        .init();
        insert(site, "slow", 1);
        let run = site.spawn(["run", "--json"]);
        eventually("the handler works", || site.path("up").exists());
        run.signal(Signal::INT);
        let ended = site.finish(run);
        assert_eq!(ended.code, 128 + 2, "{ended:?}");
        let row = "SELECT status, attempts, losses FROM scheduled_events";
        assert_eq!(site.rows(row), [["ready", "0", "1"]]);
    }

    fn slow_failing_and_flooding_types_keep_nobody_from_firing(site: &Site) {
        site.config(&format!(
            "{NOTE_ID}\n[type.hang]\nhandler = \"command\"\ncommand = [\"sleep\", \"100\"]\n\
             timeout = \"4s\"\ngrace = \"1s\"\n[type.broken]\nhandler = \"command\"\n\
             command = [\"false\"]\n[type.flood]\nhandler = \"command\"\ncommand = [\"true\"]\n"
        ))
        .init();
        for (name, rows) in [("hang", 50), ("broken", 50), ("flood", 2_000)] {
            insert(site, name, rows);
        }
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('note', 999999)");
        let run = site.punctual(["run", "--json", "--max-time", "3s"]).ok().json();
        assert_eq!(run["types"]["note"]["done"], 1, "{run}");
        assert!(run["types"]["flood"]["done"].as_i64() > Some(0), "{run}");
    }

    fn events_start_by_priority_then_due_time_then_id_as_the_dry_run_says(site: &Site) {
        site.config(&format!(
            "{NOTE_ID}\n[type.other]\nhandler = \"command\"\n\
             command = [\"sh\", \"-c\", \"echo $PUNCTUAL_EVENT_ID >> fired\"]\n"
        ))
        .init();
        site.sql(
            "INSERT INTO scheduled_events (type, due_at, priority) VALUES ('note', 5, 0), \
             ('note', 4, 0), ('note', 9, -2), ('note', 4, 0), ('note', 1, 2), ('other', 7, 0), \
             ('other', 6, 1), ('note', 8, -1)",
        );
        let planned: Vec<i64> = site
            .punctual(["run", "--dry-run", "--json", "--batch-size", "3"])
            .ok()
            .json_lines()
            .iter()
            .map(|line| line["id"].as_i64().expect("an id"))
            .collect();
        assert_eq!(planned, [3, 8, 2, 6, 7, 4, 1, 5]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_runs"), 0);
        let run = site.punctual(["run", "--json", "--batch-size", "3"]).ok().json();
        assert_eq!(run["done"], 8);
        assert_eq!(fired(site), planned);
    }

    fn a_dry_run_looks_into_the_future_and_skips_what_would_not_start(site: &Site) {
        site.config(NOTE_ID).init();
        site.sql(&format!(
            "INSERT INTO scheduled_events (type, due_at, expires_at) VALUES \
             ('note', {0}, NULL), ('note', 10, 20), ('ghost', 10, NULL), ('note', {0} + 9, NULL)",
            far_ahead()
        ));
        let at = format!("@{}", far_ahead());
        let lines = site.punctual(["run", "--dry-run", "--json", "--due-before", &at]).ok();
        let lines = lines.json_lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["id"], 1);
        let keys: Vec<&String> = lines[0].as_object().expect("an object").keys().collect();
        assert_eq!(
            keys,
            [
                "id", "type", "due_at", "status", "priority", "attempts", "losses", "key",
                "payload"
            ]
        );
    }

    fn only_the_named_types_run(site: &Site) {
        site.config(&format!(
            "{NOTE_ID}\n[type.other]\nhandler = \"command\"\ncommand = [\"true\"]\n"
        ))
        .init();
        insert(site, "note", 2);
        insert(site, "other", 2);
        let run = site.punctual(["run", "--json", "--type", "note"]).ok().json();
        assert_eq!((&run["done"], &run["remaining_due"]), (&2.into(), &2.into()));
        insert(site, "note", 1);
        let both = site.punctual(["run", "--json", "--type", "note", "other"]).ok().json();
        assert_eq!((&both["done"], &both["remaining_due"]), (&3.into(), &0.into()));
        let ended = site.punctual(["run", "--type", "nope"]);
        assert_eq!((ended.code, ended.stderr.lines().count()), (2, 1), "{ended:?}");
    }

    fn types_without_a_handler_stay_ready_and_are_reported(site: &Site) {
        site.config(NOTE_ID).init();
        insert(site, "ghost", 2);
        insert(site, "note", 1);
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["done"], &run["remaining_due"]), (&1.into(), &2.into()));
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["stop"], "idle");
        let status = site.punctual(["status", "--json"]).ok().json();
        assert_eq!(status["types"]["ghost"]["handler"], Value::Null);
        assert_eq!(status["types"]["ghost"]["due"], 2);
        let check = site.punctual(["check"]);
        assert_eq!(check.code, 1, "{check:?}");
        assert!(check.stdout.contains("ghost"), "{check:?}");
    }

    fn a_row_deleted_while_it_runs_is_withdrawn(site: &Site) {
        site.config(
            "[type.slow]\nhandler = \"command\"\ncommand = [\"sh\", \"-c\", \"touch up; \
             while [ ! -e go ]; do sleep 0.05; done\"]\n",
        )
        .init();
        insert(site, "slow", 2);
        let run = site.spawn(["run", "--json"]);
        eventually("the handler works", || site.path("up").exists());
        site.sql("DELETE FROM scheduled_events WHERE id = 1");
        site.write("go", "");
        let run = site.finish(run).ok().json();
        assert_eq!((&run["withdrawn"], &run["done"]), (&1.into(), &1.into()), "{run}");
        let outcome = "SELECT outcome FROM event_history WHERE event_id = 1";
        assert_eq!(site.rows(outcome), [["withdrawn"]]);
    }

    fn a_million_due_at_the_same_second_are_no_special_case(site: &Site) {
        site.config(NOTE_ID).init();
        site.config("[type.count]\nhandler = \"sql\"\nsql = \"UPDATE n SET n = n + 1\"\n");
        site.sql("CREATE TABLE n (n INTEGER)").sql("INSERT INTO n VALUES (0)");
        let rows = vec!["('count', 5)"; 3_000].join(", ");
        site.sql(&format!("INSERT INTO scheduled_events (type, due_at) VALUES {rows}"));
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["done"], &run["stop"]), (&3_000.into(), &"drained".into()));
        assert_eq!(site.query_i64("SELECT n FROM n"), 3_000);
    }

    fn a_type_whose_handler_cannot_be_set_up_keeps_nobody_from_firing(site: &Site) {
        site.config(&format!(
            "{NOTE_ID}\n[type.hook]\nhandler = \"http\"\nurl = \"https://localhost/\"\n\
             ca_file = \"missing.pem\"\n"
        ))
        .init();
        insert(site, "hook", 1);
        insert(site, "note", 1);
        let ended = site.punctual(["run", "--json"]);
        assert_eq!((ended.code, ended.stderr.lines().count()), (78, 1), "{ended:?}");
        assert!(ended.stderr.contains("[type.hook]"), "{ended:?}");
        assert_eq!(ended.json()["done"], 1);
    }

    fn old_history_leaves_and_dead_events_stay(site: &Site) {
        site.config(NOTE_ID).init();
        insert(site, "note", 1);
        site.punctual(["run"]).ok();
        let old = "INSERT INTO event_history (event_id, type, due_at, priority, attempts, losses, \
                   deferrals, outcome, finished_at) VALUES (90, 'note', 1, 0, 0, 0, 0, 'done', 5), \
                   (91, 'note', 1, 0, 0, 0, 0, 'unknown', 5), (92, 'note', 1, 0, 0, 0, 0, 'dead', ";
        site.sql(&format!("{old} {})", now() - 40 * 86_400));
        site.sql("UPDATE event_lease SET prune_at = 1");
        site.punctual(["run"]).ok();
        let left = "SELECT event_id FROM event_history ORDER BY event_id";
        assert_eq!(site.rows(left), [["1"], ["92"]]);
        assert!(site.query_i64("SELECT prune_at FROM event_lease") > now());
    }
}

#[test]
fn a_counter_that_started_anew_is_put_behind_what_history_knows() {
    let site = Site::mariadb();
    site.config(NOTE_ID).init();
    site.sql(
        "INSERT INTO event_history (event_id, type, due_at, priority, attempts, losses, \
         deferrals, outcome, finished_at) VALUES (50, 'note', 1, 0, 0, 0, 0, 'done', 5)",
    );
    // As MySQL 5.7 is after a restart: all rows are gone, and so is the counter.
    site.sql("ALTER TABLE scheduled_events AUTO_INCREMENT = 1");
    let config = crate::plans::loaded(&site);
    let access = punctual::db::Access::Write;
    let clock = punctual::clock::Clock::system();
    let mut store = punctual::store::Store::connect(&config, access, clock).expect("a store");
    store.raise_id_counter().expect("the right to insert");
    insert(&site, "note", 1);
    assert_eq!(site.rows("SELECT id FROM scheduled_events"), [["51"]]);
}

pub(crate) fn insert(site: &Site, type_name: &str, rows: usize) {
    let values: Vec<String> = (0..rows)
        .map(|n| format!("('{type_name}', {})", 1000 + n))
        .collect();
    let values = values.join(", ");
    site.sql(&format!(
        "INSERT INTO scheduled_events (type, due_at) VALUES {values}"
    ));
}

/// The ids that handlers wrote down, in the order of their starts.
pub(crate) fn fired(site: &Site) -> Vec<i64> {
    let text = std::fs::read_to_string(site.path("fired")).unwrap_or_default();
    text.lines()
        .map(|line| line.parse().expect("an id a line"))
        .collect()
}

pub(crate) fn now() -> i64 {
    punctual::clock::Clock::system().now().0
}

fn far_ahead() -> i64 {
    now() + 86_400
}
