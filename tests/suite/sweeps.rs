//! Sweeps: `sql` types with `repeat_until_empty`, as the files in `contrib/sweeps` and the README
//! show them.

use std::path::Path;

use punctual::clock::Clock;
use punctual::config::Database;
use punctual::db::{Access, Db};
use punctual::runner::{self, Options, Report, Stop, World};
use rustix::process::Signal;
use serde_json::Value;

use crate::plans::loaded;
use crate::support::failing::{Failure, Trigger};
use crate::support::process::{Running, eventually};
use crate::support::recorder::Recording;
use crate::support::site::Site;

/// Rows to be swept, and a log of every row that was: once each, or something was doubled.
fn rows_to_sweep(site: &Site, rows: i64) {
    site.sql("CREATE TABLE old (id INTEGER PRIMARY KEY, expires BIGINT NOT NULL)");
    site.sql("CREATE TABLE swept (id BIGINT)");
    let body = "INSERT INTO swept (id) VALUES (OLD.id)";
    site.sql(&if is_sqlite(site) {
        format!("CREATE TRIGGER swept_old AFTER DELETE ON old BEGIN {body}; END")
    } else {
        format!("CREATE TRIGGER swept_old AFTER DELETE ON old FOR EACH ROW {body}")
    });
    insert_rows(site, 1, rows);
}

fn insert_rows(site: &Site, first: i64, rows: i64) {
    let ids: Vec<i64> = (first..first + rows).collect();
    let inserts: Vec<String> = ids
        .chunks(500)
        .map(|ids| {
            let values: Vec<String> = ids.iter().map(|id| format!("({id}, 1000)")).collect();
            format!("INSERT INTO old (id, expires) VALUES {}", values.join(", "))
        })
        .collect();
    site.sql_all(&inserts);
}

fn is_sqlite(site: &Site) -> bool {
    site.mariadb_database().is_none()
}

/// One pass: `limit` rows of `old`.
fn delete(site: &Site, limit: usize) -> String {
    if is_sqlite(site) {
        format!(
            "DELETE FROM old WHERE rowid IN \
             (SELECT rowid FROM old WHERE expires < :now LIMIT {limit})"
        )
    } else {
        format!("DELETE FROM old WHERE expires < :now ORDER BY expires, id LIMIT {limit}")
    }
}

/// `[type.sweep]` with passes of `limit` rows, and `more` keys.
fn sweeping(site: &Site, limit: usize, more: &str) -> String {
    let statement = delete(site, limit);
    format!(
        "[type.sweep]\nhandler = \"sql\"\nrepeat_until_empty = true\n\
         sql = \"{statement}\"\n{more}\n"
    )
}

fn add_sweep(site: &Site) {
    site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('sweep', 1000)");
}

fn left(site: &Site) -> i64 {
    site.query_i64("SELECT COUNT(*) FROM old")
}

/// Every row that is gone was swept once.
fn nothing_is_doubled(site: &Site, rows: i64) {
    let counted = site.rows("SELECT COUNT(*), COUNT(DISTINCT id) FROM swept");
    let gone = (rows - left(site)).to_string();
    assert_eq!(counted, [[gone.as_str(), gone.as_str()]]);
}

fn run(site: &Site) -> Value {
    site.punctual(["run", "--json"]).ok().json()
}

/// A run within this process, whose statements are noted.
fn recorded_run(site: &Site, recording: &Recording) -> Report {
    run_within(site, &|db| recording.of(db)).expect("a run")
}

/// A run within this process over connections that `through` makes.
fn run_within(site: &Site, through: &dyn Fn(Box<dyn Db>) -> Box<dyn Db>) -> Option<Report> {
    let config = loaded(site);
    let connect = |database: &Database, access: Access, clock: Clock| {
        Ok(through(punctual::db::connect(database, access, clock)?))
    };
    let world = World {
        clock: Clock::system(),
        connect: &connect,
        watchdog: Path::new(env!("CARGO_BIN_EXE_punctual")),
    };
    let options = Options::of(&config);
    runner::run(&config, &options, world, &mut |_| {}).ok()
}

fn history(site: &Site) -> Vec<Vec<String>> {
    site.rows("SELECT outcome, attempts, losses FROM event_history ORDER BY history_id")
}

/// The lines of the log that say that a sweep was cut.
fn cuts(site: &Site) -> Vec<String> {
    let rows =
        site.rows("SELECT detail FROM event_log WHERE decision = 'sweep cut' ORDER BY log_id");
    rows.into_iter().flatten().collect()
}

on_both_databases! {
    fn a_sweep_ends_with_the_pass_that_finds_nothing(site: &Site) {
        site.config(&sweeping(site, 100, "")).init();
        rows_to_sweep(site, 250);
        site.sql("INSERT INTO old (id, expires) VALUES (9999, 99999999999)");
        add_sweep(site);
        let run = run(site);
        assert_eq!(run["stop"], "drained", "{run:?}");
        assert_eq!((&run["fired"], &run["done"]), (&1.into(), &1.into()), "{run:?}");
        assert_eq!(run["waves"], 4, "three passes and the one that finds nothing: {run:?}");
        assert_eq!(left(site), 1);
        nothing_is_doubled(site, 251);
        assert_eq!(history(site), [["done", "0", "0"]]);
        assert!(cuts(site).is_empty());
        let progress = site.rows("SELECT progress, wave_type FROM event_runs");
        let [progress, wave] = progress[0].as_slice() else { panic!("two columns") };
        let progress: Value = serde_json::from_str(progress).expect("JSON");
        let sweep = &progress["sweep"];
        assert_eq!((&sweep["passes"], &sweep["rows"]), (&3.into(), &250.into()), "{progress}");
        assert_eq!(wave, "NULL");
    }

    fn each_pass_is_one_transaction_of_a_bounded_number_of_rows(site: &Site) {
        site.config(&sweeping(site, 100, "")).init();
        rows_to_sweep(site, 350);
        add_sweep(site);
        let recording = Recording::default();
        let gone = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let seen = std::rc::Rc::clone(&gone);
        let count = count_later(site);
        recording.before_commit(move || seen.borrow_mut().push(count()));
        let report = recorded_run(site, &recording);
        assert_eq!((report.counts.fired, report.counts.done), (1, 1), "{report:?}");
        // What others see before each commit: a hundred rows fewer each time, no step larger.
        let mut steps = gone.borrow().clone();
        steps.dedup();
        assert_eq!(steps, [350, 250, 150, 50, 0]);
        let asked = recording.statements();
        let passes = asked.iter().filter(|one| one.sql.starts_with("DELETE FROM old"));
        assert_eq!(passes.count(), 5);
    }

    fn a_sweep_cut_by_the_budget_goes_on_at_the_next_tick(site: &Site) {
        site.config(&sweeping(site, 100, "chunk_pause = \"10m\"")).init();
        rows_to_sweep(site, 250);
        add_sweep(site);
        let first = site.punctual(["run", "--json", "--max-time", "3s"]).ok().json();
        assert_eq!(first["stop"], "max_time", "{first:?}");
        assert_eq!((&first["fired"], &first["done"]), (&1.into(), &0.into()), "{first:?}");
        assert_eq!(first["remaining_due"], 1);
        assert_eq!(left(site), 150);
        let row = "SELECT status, attempts, losses, deferrals, due_at, first_due_at, \
                   claim_epoch IS NULL FROM scheduled_events";
        assert_eq!(site.rows(row), [["ready", "0", "0", "0", "1000", "1000", "0"]]);
        assert_eq!(cuts(site), ["by max_time, after 1 passes of 100 rows; the next run goes on"]);
        is_shown_as_under_way(site);

        site.config(&sweeping(site, 100, ""));
        let second = run(site);
        assert_eq!(second["stop"], "drained", "{second:?}");
        assert_eq!((&second["fired"], &second["done"]), (&1.into(), &1.into()), "{second:?}");
        assert_eq!(left(site), 0);
        nothing_is_doubled(site, 250);
        assert_eq!(history(site), [["done", "0", "0"]]);
        let state = site.punctual(["status", "--json"]).ok().json();
        assert_eq!(state["types"]["sweep"]["sweeping"], 0);
    }

    fn max_events_counts_a_sweep_as_one_and_does_not_cut_it(site: &Site) {
        site.config(&sweeping(site, 100, "chunk_pause = \"20ms\"")).init();
        rows_to_sweep(site, 250);
        add_sweep(site);
        add_sweep(site);
        let run = site.punctual(["run", "--json", "--max-events", "1"]).ok().json();
        assert_eq!((&run["stop"], &run["fired"]), (&"max_events".into(), &1.into()), "{run:?}");
        assert_eq!((left(site), run["done"].as_i64()), (0, Some(1)));
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 1);
    }

    fn a_signal_ends_the_run_between_two_passes(site: &Site) {
        let run = in_its_pause(site, "");
        run.signal(Signal::TERM);
        let ended = site.finish(run);
        assert_eq!((ended.code, ended.json()["stop"].as_str()), (143, Some("signal")), "{ended:?}");
        assert_eq!(left(site), 150);
        assert_eq!(cuts(site), ["by signal, after 1 passes of 100 rows; the next run goes on"]);
        finish_without_pause(site);
        assert_eq!(history(site), [["done", "0", "0"]]);
    }

    fn kill_9_in_a_pause_loses_nothing_and_counts_no_loss(site: &Site) {
        let run = in_its_pause(site, "");
        run.kill_9();
        assert_eq!(left(site), 150);
        is_shown_as_under_way(site);
        finish_without_pause(site);
        assert_eq!(history(site), [["done", "0", "0"]]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_runs WHERE stop = 'died'"), 1);
    }

    fn other_types_fire_while_a_sweep_makes_a_pause(site: &Site) {
        site.config(&format!("{}{}", sweeping(site, 100, "chunk_pause = \"10m\""), NOTES)).init();
        site.sql("CREATE TABLE noted (id BIGINT)");
        rows_to_sweep(site, 250);
        add_sweep(site);
        let run = site.spawn(["run", "--json"]);
        eventually("the first pass is made", || left(site) == 150);
        run.signal(Signal::TERM);
        site.finish(run);
        for name in ["effect", "note"] {
            insert_events(site, name, 20);
        }
        let run = site.spawn(["run", "--json"]);
        eventually("all others are done", || {
            site.query_i64("SELECT COUNT(*) FROM event_history WHERE outcome = 'done'") == 40
        });
        run.signal(Signal::TERM);
        site.finish(run);
        assert_eq!(left(site), 50, "one pass a run");
    }

    fn an_endless_sweep_is_cut_by_its_timeout_and_lets_the_others_have_their_turns(site: &Site) {
        // What is matched counts, changed or not.
        let endless = "[run]\nmax_time = \"none\"\n[type.endless]\nhandler = \"sql\"\n\
            repeat_until_empty = true\ntimeout = \"3s\"\nsql = \"UPDATE counter SET n = 7\"\n";
        site.config(&format!("{endless}{NOTES}")).init();
        site.sql_all(&["CREATE TABLE counter (n BIGINT)", "INSERT INTO counter VALUES (7)"]);
        site.sql("CREATE TABLE noted (id BIGINT)");
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('endless', 500)");
        for name in ["effect", "note"] {
            insert_events(site, name, 20);
        }
        for tick in 1..=2 {
            let run = run(site);
            assert_eq!(run["stop"], "max_time", "{run:?}");
            assert_eq!(run["remaining_due"], 1, "{run:?}");
            let others = if tick == 1 { 40 } else { 0 };
            let counts = (run["done"].as_i64(), run["fired"].as_i64());
            assert_eq!(counts, (Some(others), Some(others + 1)), "{run:?}");
            assert_eq!(cuts(site).len(), tick);
        }
        assert!(cuts(site)[1].starts_with("by its timeout, after "), "{:?}", cuts(site));
        let tries = "SELECT attempts + losses + deferrals FROM scheduled_events";
        assert_eq!(site.query_i64(tries), 0);
        // The others did not wait for its end.
        let turns = "SELECT COUNT(*) FROM event_history WHERE type = 'note' AND finished_at > \
                     (SELECT started_at + 2 FROM event_runs ORDER BY run_id LIMIT 1)";
        assert_eq!(site.query_i64(turns), 0);
    }

    fn a_fenced_run_makes_no_further_pass(site: &Site) {
        let run = in_its_pause(site, "chunk_pause = \"1s\"");
        site.sql("UPDATE event_lease SET epoch = 7000000000, holder = 'somebody'");
        let before = left(site);
        let ended = site.finish(run);
        assert_eq!((ended.code, ended.json()["stop"].as_str()), (75, Some("fenced")), "{ended:?}");
        assert_eq!(left(site), before);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 1);
        nothing_is_doubled(site, 250);
    }

    fn a_pass_that_fails_is_a_failed_try_and_those_before_it_stand(site: &Site) {
        site.config(&sweeping(site, 100, "")).init();
        rows_to_sweep(site, 350);
        keep_row(site, 250);
        add_sweep(site);
        let run = run(site);
        assert_eq!((&run["fired"], &run["retried"]), (&1.into(), &1.into()), "{run:?}");
        assert_eq!(left(site), 150, "two passes of a hundred, and nothing of the third");
        nothing_is_doubled(site, 350);
        let row = "SELECT attempts, due_at > 1000, first_due_at, claim_epoch FROM scheduled_events";
        assert_eq!(site.rows(row), [["1", "1", "1000", "NULL"]]);
        site.sql("DROP TRIGGER keep_old");
        site.sql("UPDATE scheduled_events SET due_at = 1001");
        finish_without_pause(site);
        assert_eq!(history(site), [["done", "1", "0"]]);
    }

    fn a_sweep_that_is_cancelled_stops(site: &Site) {
        let run = in_its_pause(site, "chunk_pause = \"1s\"");
        site.sql("DELETE FROM scheduled_events");
        let before = left(site);
        let ended = site.finish(run).ok().json();
        assert_eq!((&ended["stop"], &ended["done"]), (&"drained".into(), &0.into()), "{ended:?}");
        assert_eq!(left(site), before);
        assert!(history(site).is_empty());

        add_sweep(site);
        site.config(&sweeping(site, 10, "chunk_pause = \"10m\""));
        let run = site.spawn(["run", "--json"]);
        eventually("a pass is made", || left(site) == before - 10);
        site.punctual(["cancel", "--type", "sweep", "--all"]).ok();
        run.signal(Signal::TERM);
        site.finish(run);
        assert_eq!(history(site), [["cancelled", "0", "0"]]);
    }

    fn a_sweep_under_way_is_neither_too_late_nor_asked_for_its_guard_and_may_expire(site: &Site) {
        let more = "chunk_pause = \"10m\"\nmax_late = \"1h\"\nlate = \"skip\"\n\
                    guard = \"SELECT 1 FROM wanted\"";
        site.config(&sweeping(site, 100, more)).init();
        rows_to_sweep(site, 450);
        site.sql_all(&["CREATE TABLE wanted (n BIGINT)", "INSERT INTO wanted VALUES (1)"]);
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('sweep', 1000)");
        assert_eq!(run(site)["skipped"], 1, "a first pass is too late");
        let now = crate::runs::now();
        site.sql(&format!("INSERT INTO scheduled_events (type, due_at) VALUES ('sweep', {now})"));
        one_pass(site, 350);
        // Hours later.
        site.sql("UPDATE scheduled_events SET due_at = 1000, first_due_at = 1000");
        site.sql("DELETE FROM wanted");
        one_pass(site, 250);
        site.sql("UPDATE scheduled_events SET expires_at = 2000");
        let ended = site.punctual(["run", "--json"]);
        assert_eq!((ended.code, ended.json()["dead"].as_i64()), (1, Some(1)), "{ended:?}");
        assert_eq!(left(site), 250);
        assert_eq!(history(site)[1], ["dead", "0", "0"]);
        // One that has not begun asks its guard.
        site.sql(&format!("INSERT INTO scheduled_events (type, due_at) VALUES ('sweep', {now})"));
        assert_eq!(run(site)["skipped"], 1);
        assert_eq!(left(site), 250);
    }

    fn a_sweep_schedules_its_successor_once(site: &Site) {
        let or_ignore = if is_sqlite(site) { "OR IGNORE" } else { "IGNORE" };
        let delete = delete(site, 100);
        let sweep = format!(
            "[type.sweep]\nhandler = \"sql\"\nrepeat_until_empty = true\nsql = [\"{delete}\", \
             \"INSERT {or_ignore} INTO scheduled_events (type, due_at, unique_key) \
             VALUES (:type, :due + 9999999900, :key)\"]\n"
        );
        site.config(&sweep).init();
        rows_to_sweep(site, 250);
        site.sql(
            "INSERT INTO scheduled_events (type, due_at, unique_key) VALUES ('sweep', 1000, 'k')",
        );
        let run = run(site);
        assert_eq!((&run["done"], &run["stop"]), (&1.into(), &"drained".into()), "{run:?}");
        assert_eq!(left(site), 0);
        let successor = "SELECT due_at, unique_key, held_key FROM scheduled_events";
        assert_eq!(site.rows(successor), [["10000000900", "k", "NULL"]]);
        assert_eq!(site.rows("SELECT unique_key FROM event_history"), [["k"]]);
    }

    fn a_statement_that_only_reads_does_not_keep_a_sweep_going(site: &Site) {
        let delete = delete(site, 100);
        site.config(&format!(
            "[run]\nmax_time = \"5s\"\n[type.sweep]\nhandler = \"sql\"\n\
             repeat_until_empty = true\nsql = [\"SELECT id FROM old\", \"{delete}\"]\n"
        ))
        .init();
        rows_to_sweep(site, 250);
        site.sql("INSERT INTO old (id, expires) VALUES (9999, 99999999999)");
        add_sweep(site);
        let run = run(site);
        assert_eq!((&run["stop"], &run["waves"]), (&"drained".into(), &4.into()), "{run:?}");
        assert_eq!(left(site), 1);
    }

    fn a_sweep_waits_for_replicas_and_then_goes_on(site: &Site) {
        site.config(&sweeping(site, 100, LAG)).init();
        rows_to_sweep(site, 250);
        lag_is(site, "6.5");
        add_sweep(site);
        let run = site.spawn(["run", "--json"]);
        eventually("the run is at work", || {
            site.query_i64("SELECT COUNT(*) FROM event_runs WHERE progress IS NULL") == 1
        });
        lag_is(site, "5.0");
        let run = site.finish(run).ok().json();
        assert_eq!((&run["stop"], &run["done"]), (&"drained".into(), &1.into()), "{run:?}");
        assert_eq!(left(site), 0);
    }

    fn replicas_that_stay_behind_end_the_run_and_the_others_have_fired(site: &Site) {
        site.config(&format!("{}{NOTES}", sweeping(site, 100, LAG))).init();
        site.sql("CREATE TABLE noted (id BIGINT)");
        rows_to_sweep(site, 250);
        lag_is(site, "6.5");
        add_sweep(site);
        insert_events(site, "note", 5);
        let run = run(site);
        assert_eq!((&run["stop"], &run["done"]), (&"database_lag".into(), &5.into()), "{run:?}");
        assert_eq!((&run["fired"], &run["remaining_due"]), (&5.into(), &1.into()), "{run:?}");
        assert_eq!(left(site), 250);
        let took = run["finished_at"].as_i64().zip(run["started_at"].as_i64());
        assert!(took.is_some_and(|(end, start)| end - start >= 9), "{run:?}");
        let cut = "by database_lag: 6.5 s behind, max_lag is 5 s, after 0 passes of 0 rows; \
                   the next run goes on";
        assert_eq!(cuts(site), [cut]);
        let stop = site.rows("SELECT stop FROM event_runs");
        assert_eq!(stop, [["database_lag"]]);
    }

    fn a_lag_that_nobody_knows_counts_as_too_much(site: &Site) {
        site.config(&format!("[run]\nmax_time = \"2s\"\n{}", sweeping(site, 100, LAG))).init();
        rows_to_sweep(site, 100);
        lag_is(site, "NULL");
        add_sweep(site);
        for _ in 0..2 {
            assert_eq!(run(site)["stop"], "database_lag");
            site.sql("DELETE FROM replica");
        }
        assert_eq!(left(site), 100);
        let why = "by database_lag: `lag` gave no number, after 0 passes of 0 rows; the next run \
                   goes on";
        assert_eq!(cuts(site), [why, why]);
    }

    fn a_lag_that_cannot_be_asked_is_a_mistake_of_the_configuration(site: &Site) {
        site.config(&format!("{}{NOTES}", sweeping(site, 100, LAG))).init();
        site.sql("CREATE TABLE noted (id BIGINT)");
        rows_to_sweep(site, 100);
        add_sweep(site);
        insert_events(site, "note", 1);
        let ended = site.punctual(["run", "--json"]);
        assert_eq!((ended.code, ended.json()["done"].as_i64()), (78, Some(1)), "{ended:?}");
        assert!(ended.stderr.contains("[type.sweep] lag: "), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert_eq!(left(site), 100);
        assert!(history(site).len() == 1);
    }

    fn lag_is_asked_once_a_second_and_not_before_each_pass(site: &Site) {
        site.config(&sweeping(site, 1, LAG)).init();
        rows_to_sweep(site, 60);
        lag_is(site, "0");
        add_sweep(site);
        let recording = Recording::default();
        let report = recorded_run(site, &recording);
        assert_eq!((report.counts.done, report.waves), (1, 61), "{report:?}");
        let asked = recording.statements();
        let asked = asked.iter().filter(|one| one.sql.contains("FROM replica")).count();
        let took = usize::try_from(report.finished_at.since(report.started_at)).expect("forward");
        assert!((1..=took + 2).contains(&asked), "{asked} times in {took} s");
    }

    fn a_pause_is_made_after_each_pass_that_changed_rows(site: &Site) {
        site.config(&sweeping(site, 100, "chunk_pause = \"300ms\"")).init();
        rows_to_sweep(site, 250);
        add_sweep(site);
        let began = std::time::Instant::now();
        assert_eq!(run(site)["done"], 1);
        assert!(began.elapsed().as_millis() >= 900, "three pauses");
        assert_eq!(left(site), 0);
    }

    fn a_run_killed_within_a_pass_counts_one_loss_and_between_passes_none(site: &Site) {
        let within = ["trace.committed", "effect.before", "effect.after", "wave.commit"];
        site.config(&sweeping(site, 100, "")).init();
        rows_to_sweep(site, 250);
        let mut rows = 250;
        for nth in 1..=4 {
            for point in within.iter().copied().chain(["wave.committed"]) {
                clear(site);
                let missing = 250 - left(site);
                insert_rows(site, rows + 1, missing);
                rows += missing;
                add_sweep(site);
                killed_at(site, point, nth);
                site.alone();
                let about = format!("killed at {point}, pass {nth}");
                let passes = if point == "wave.committed" { nth } else { nth - 1 };
                assert_eq!(left(site), (250 - 100 * passes).max(0), "{about}");
                let recovered = run(site);
                assert_eq!(recovered["stop"], "drained", "{about}: {recovered:?}");
                let losses = if point == "wave.committed" { "0" } else { "1" };
                assert_eq!(history(site), [["done", "0", losses]], "{about}");
                assert_eq!(left(site), 0, "{about}");
                nothing_is_doubled(site, rows);
            }
        }
    }

    fn a_busy_database_at_any_call_of_a_sweep_costs_nothing(site: &Site) {
        fail_each_call(site, Failure::Busy);
    }

    fn a_connection_lost_at_any_call_of_a_sweep_loses_and_doubles_nothing(site: &Site) {
        fail_each_call(site, Failure::Lost);
    }

    fn a_commit_of_a_pass_whose_answer_is_lost_loses_and_doubles_nothing(site: &Site) {
        fail_each_call(site, Failure::LostAfterCommit);
    }

    fn the_shipped_sweeps_work_as_they_are(site: &Site) {
        let file = if is_sqlite(site) { "sqlite" } else { "mysql" };
        let file = format!("{}/contrib/sweeps/{file}.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(file).expect("a shipped file");
        site.config(&text).init();
        site.sql_all(&[
            "CREATE TABLE session (id INTEGER PRIMARY KEY, expires BIGINT NOT NULL)",
            "CREATE INDEX session_expires ON session (expires, id)",
            "CREATE TABLE page (id INTEGER PRIMARY KEY)",
            "CREATE TABLE watchlist (id INTEGER PRIMARY KEY, page_id BIGINT NOT NULL)",
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, closed BIGINT)",
            "CREATE TABLE order_archive (id INTEGER PRIMARY KEY, closed BIGINT)",
            "CREATE TABLE visitor (id INTEGER PRIMARY KEY, ip VARCHAR(40), seen BIGINT NOT NULL)",
            "CREATE TABLE replica_lag (host VARCHAR(80), seconds BIGINT, reported_at BIGINT)",
        ]);
        let now = crate::runs::now();
        // Of 3,000 rows in each table every third stays.
        let mut rows = vec![format!("INSERT INTO replica_lag VALUES ('b', 0, {now})")];
        let mut add = |what: &str, row: &dyn Fn(i64, bool) -> Option<String>| {
            let all: Vec<String> = (1..=3000).filter_map(|id| row(id, id % 3 == 0)).collect();
            rows.push(format!("INSERT INTO {what} VALUES {}", all.join(", ")));
        };
        let when = |stays: bool| if stays { now + 3600 } else { 1000 };
        add("session", &|id, stays| Some(format!("({id}, {})", when(stays))));
        add("page", &|id, stays| stays.then(|| format!("({id})")));
        add("watchlist", &|id, _| Some(format!("({id}, {id})")));
        add("orders", &|id, stays| Some(format!("({id}, {})", when(stays))));
        add("visitor", &|id, stays| Some(format!("({id}, 'here', {})", when(stays))));
        site.sql_all(&rows);
        let types = ["purge-sessions", "purge-orphans", "archive-orders", "forget-visitors"];
        for name in types {
            site.punctual(["add", name, "--in", "0s"]).ok();
        }
        let run = run(site);
        assert_eq!((&run["done"], &run["stop"]), (&4.into(), &"drained".into()), "{run:?}");
        assert_eq!(run["waves"], 4 * 5, "2,000 rows, 500 a pass: {run:?}");
        for (table, stays) in [
            ("session", "SELECT COUNT(*), MIN(id % 3), MAX(id % 3) FROM session"),
            ("watchlist", "SELECT COUNT(*), MIN(id % 3), MAX(id % 3) FROM watchlist"),
            ("orders", "SELECT COUNT(*), MIN(id % 3), MAX(id % 3) FROM orders"),
            ("visitor", "SELECT COUNT(*), MIN(id % 3), MAX(id % 3) FROM visitor WHERE ip = 'here'"),
        ] {
            assert_eq!(site.rows(stays), [["1000", "0", "0"]], "{table}");
        }
        let moved = "SELECT COUNT(*), MIN(id % 3), MAX(id % 3) FROM order_archive";
        assert_eq!(site.rows(moved), [["2000", "1", "2"]]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM visitor"), 3000);
    }
}

/// On SQLite nobody can: the write lock is held by then.
#[test]
fn on_mariadb_an_event_deleted_within_a_pass_takes_that_pass_back() {
    let site = Site::mariadb();
    site.config(&sweeping(&site, 100, "")).init();
    rows_to_sweep(&site, 250);
    add_sweep(&site);
    let recording = Recording::default();
    let cancel = site.sql_later(&["DELETE FROM scheduled_events"]);
    recording.before_query("DELETE FROM old", cancel);
    let report = recorded_run(&site, &recording);
    assert_eq!(
        (report.stop, report.counts.fired),
        (Stop::Drained, 0),
        "{report:?}"
    );
    assert_eq!(left(&site), 250);
    assert!(history(&site).is_empty());
    let traces = "SELECT COUNT(*) FROM event_runs WHERE wave_type IS NOT NULL";
    assert_eq!(site.query_i64(traces), 0);
}

/// Two types beside the sweep, one of each kind.
const NOTES: &str = r#"
[type.note]
handler = "command"
command = ["true"]

[type.effect]
handler = "sql"
sql = "INSERT INTO noted (id) VALUES (:id)"
"#;

const LAG: &str = "lag = \"SELECT seconds FROM replica\"\nmax_lag = \"5s\"";

fn lag_is(site: &Site, seconds: &str) {
    site.sql_all(&[
        "CREATE TABLE IF NOT EXISTS replica (seconds DECIMAL(10, 2))",
        "DELETE FROM replica",
        &format!("INSERT INTO replica VALUES ({seconds})"),
    ]);
}

fn insert_events(site: &Site, type_name: &str, events: usize) {
    let rows = vec![format!("('{type_name}', 2000)"); events];
    let rows = rows.join(", ");
    site.sql(&format!(
        "INSERT INTO scheduled_events (type, due_at) VALUES {rows}"
    ));
}

/// A run over 250 rows that has made its first pass, of a hundred, and now makes a pause.
fn in_its_pause(site: &Site, more: &str) -> Running {
    let more = if more.is_empty() {
        "chunk_pause = \"10m\""
    } else {
        more
    };
    site.config(&sweeping(site, 100, more)).init();
    rows_to_sweep(site, 250);
    add_sweep(site);
    let run = site.spawn(["run", "--json"]);
    eventually("the first pass is made", || left(site) == 150);
    run
}

/// A run that makes one pass and is stopped in the pause behind it.
fn one_pass(site: &Site, rows: i64) {
    let run = site.spawn(["run", "--json"]);
    eventually("a pass is made", || left(site) == rows);
    run.signal(Signal::TERM);
    assert_eq!(site.finish(run).code, 143);
}

fn finish_without_pause(site: &Site) {
    site.config(&sweeping(site, 100, ""));
    eventually("the next run has swept the rest", || {
        run(site)["stop"] == "drained"
    });
    assert_eq!(left(site), 0);
    let counted = site.rows("SELECT COUNT(*) - COUNT(DISTINCT id) FROM swept");
    assert_eq!(counted, [["0"]]);
}

fn is_shown_as_under_way(site: &Site) {
    let state = site.punctual(["status", "--json"]).ok().json();
    assert_eq!(state["types"]["sweep"]["sweeping"], 1, "{state:?}");
    let table = site.punctual(["status"]).ok().stdout;
    assert!(table.contains("sweep under way"), "{table}");
    let why = site.punctual(["why", "1"]).ok().stdout;
    assert!(
        why.contains("Its sweep is under way, last swept by run 1"),
        "{why}"
    );
    let dry = site.punctual(["run", "--dry-run", "--json"]).ok();
    assert_eq!(dry.json_lines().len(), 1, "{dry:?}");
}

/// A row that cannot be deleted.
fn keep_row(site: &Site, id: i64) {
    site.sql(&if is_sqlite(site) {
        format!(
            "CREATE TRIGGER keep_old BEFORE DELETE ON old WHEN OLD.id = {id} \
             BEGIN SELECT RAISE(ABORT, 'this one stays'); END"
        )
    } else {
        format!(
            "CREATE TRIGGER keep_old BEFORE DELETE ON old FOR EACH ROW \
             IF OLD.id = {id} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'this one stays'; \
             END IF"
        )
    });
}

/// A sweep of three passes fails at each of its calls in turn; the next run finishes it.
fn fail_each_call(site: &Site, failure: Failure) {
    site.config(&sweeping(site, 2, "")).init();
    rows_to_sweep(site, 0);
    for call in 1..400 {
        clear(site);
        let first = i64::from(call) * 10;
        insert_rows(site, first, 4);
        add_sweep(site);
        let (mut to_come, mut report) = (0, None);
        eventually("the locks are free", || {
            let trigger = Trigger::each(&[(call, failure)]);
            report = run_within(site, &|db| trigger.on(db));
            to_come = trigger.to_come();
            report
                .as_ref()
                .is_none_or(|report| report.stop != Stop::Locked)
        });
        let about = format!("call {call}, {failure:?}: {report:?}");
        let known = "SELECT (SELECT COUNT(*) FROM scheduled_events) + \
                     (SELECT COUNT(*) FROM event_history)";
        assert_eq!(site.query_i64(known), 1, "{about}");
        let left = left(site);
        assert_eq!(left % 2, 0, "half a pass stands; {about}");
        if let Some(report) = &report {
            assert!(left == 4 || report.counts.fired == 1, "{about}");
        }
        eventually(
            "the locks are free, and the next run has swept the rest",
            || {
                site.sql("UPDATE scheduled_events SET due_at = 5");
                let stop = run_within(site, &|db| db).map(|report| report.stop);
                matches!(stop, Some(Stop::Drained | Stop::Idle))
            },
        );
        let found = history(site);
        assert_eq!(
            (found[0][0].as_str(), found[0][1].as_str()),
            ("done", "0"),
            "{about}"
        );
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM old"), 0, "{about}");
        let swept = site.rows("SELECT COUNT(*), COUNT(DISTINCT id) FROM swept");
        let all = (4 * call).to_string();
        assert_eq!(swept, [[all.as_str(), all.as_str()]], "{about}");
        if to_come == 1 {
            assert!(call > 40, "a run makes more calls than {call}");
            return;
        }
    }
    panic!("a sweep of three passes makes 400 calls");
}

fn clear(site: &Site) {
    let tables = [
        "scheduled_events",
        "event_history",
        "event_log",
        "event_runs",
    ];
    let deletions: Vec<String> = tables
        .iter()
        .map(|table| format!("DELETE FROM {table}"))
        .collect();
    site.sql_all(&deletions);
}

fn killed_at(site: &Site, point: &str, nth: i64) {
    eventually("a run finds the locks free and is killed", || {
        let mut again = site.command(env!("CARGO_BIN_EXE_punctual"));
        again
            .arg("run")
            .env("PUNCTUAL_FAULT_POINT", format!("{point}:{nth}"));
        site.finish(Running::start(again, b"")).code == 137
    });
}

/// Counts the rows of `old` as another session sees them.
fn count_later(site: &Site) -> impl Fn() -> i64 + 'static {
    type Count = Box<dyn Fn() -> i64>;
    const COUNT: &str = "SELECT COUNT(*) FROM old";
    let count: Count = match site.mariadb_database() {
        None => {
            let path = site.path("events.db");
            Box::new(move || {
                let site = rusqlite::Connection::open(&path).expect("the site's database");
                site.query_row(COUNT, [], |row| row.get(0))
                    .expect("a number")
            })
        }
        Some(database) => {
            let session = std::cell::RefCell::new(database.connect());
            Box::new(move || {
                use mysql::prelude::Queryable as _;
                let found = session.borrow_mut().query_first(COUNT).expect("a number");
                found.expect("a row")
            })
        }
    };
    count
}
