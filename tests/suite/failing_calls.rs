//! The database fails on its n-th call, for n = 1, 2, 3 … until a whole run needs fewer; after each
//! such run and the one that follows it the promises hold: nothing lost, nothing twice beyond what
//! the type declares.

use std::collections::BTreeMap;
use std::path::Path;

use punctual::clock::Clock;
use punctual::config::Database;
use punctual::db::Access;
use punctual::runner::{self, Options, World};

use crate::plans::loaded;
use crate::runs::{fired, now};
use crate::support::failing::{Failure, Trigger};
use crate::support::process::eventually;
use crate::support::site::Site;

const TYPES: &str = r#"
[type.effect]
handler = "sql"
sql = ["INSERT INTO seen (id) VALUES (:id)"]

[type.least]
handler = "command"
command = ["sh", "-c", "echo $PUNCTUAL_EVENT_ID >> fired"]
backoff = "1s"

[type.most]
handler = "command"
at_most_once = true
command = ["sh", "-c", "echo $PUNCTUAL_EVENT_ID >> fired"]
"#;

/// More calls than a run over these few events makes.
const ENOUGH: u32 = 400;

on_both_databases! {
    fn a_deadlock_at_any_call_costs_nothing(site: &Site) {
        fail_each_call(site, Failure::Busy);
    }

    fn a_connection_lost_at_any_call_loses_and_doubles_nothing(site: &Site) {
        fail_each_call(site, Failure::Lost);
    }

    fn a_commit_whose_answer_is_lost_loses_and_doubles_nothing(site: &Site) {
        fail_each_call(site, Failure::LostAfterCommit);
    }

    fn a_full_disk_at_any_call_loses_and_doubles_nothing(site: &Site) {
        fail_each_call(site, Failure::Full);
    }

    fn a_loss_is_counted_once_whichever_call_of_the_recovery_fails(site: &Site) {
        site.config(TYPES).init();
        for call in 1..ENOUGH {
            start_with_a_dead_wave(site);
            let trigger = Trigger::at(call, Failure::Lost);
            run_with(site, &trigger);
            run_once_the_lock_is_free(site, &format!("call {call}"));
            let losses = "SELECT losses FROM scheduled_events WHERE type = 'effect'";
            assert_eq!(site.query_i64(losses), 1, "call {call}");
            if !trigger.is_spent() {
                assert!(call > 20, "a run makes more calls than {call}");
                return;
            }
        }
        panic!("a run of one event makes {ENOUGH} calls");
    }
}

/// What a run leaves that died with one event of a `sql` type in hand. It is put off, so that no run
/// of this test has it in hand again.
fn start_with_a_dead_wave(site: &Site) {
    for table in ["scheduled_events", "event_history", "event_runs"] {
        site.sql(&format!("DELETE FROM {table}"));
    }
    let later = now() + 86_400;
    site.sql(&format!(
        "INSERT INTO scheduled_events (id, type, due_at) VALUES (1000000, 'effect', {later})"
    ));
    site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('least', 1)");
    site.sql(
        "INSERT INTO event_runs (epoch, host, pid, lock_id, started_at, cutoff, wave_type, \
         wave_first_id, wave_last_id) VALUES (77, 'here', 1, 'lock', 1, 1, 'effect', 1000000, \
         1000000)",
    );
}

fn fail_each_call(site: &Site, failure: Failure) {
    site.config(TYPES).init();
    site.sql("CREATE TABLE seen (id INTEGER)");
    for call in 1..ENOUGH {
        start_anew(site);
        let trigger = Trigger::at(call, failure);
        let about = format!("call {call}, {failure:?}");
        run_with(site, &trigger);
        check_every_event_is_accounted_for(site, &about);
        // What failed is due again in an instant, not in a minute.
        site.sql("UPDATE scheduled_events SET due_at = 5 WHERE status = 'ready'");
        run_plainly(site, &about);
        check_promises(site, &about);
        if !trigger.is_spent() {
            assert!(call > 30, "a run makes more calls than {call}");
            return;
        }
    }
    panic!("a run of six events makes {ENOUGH} calls");
}

fn start_anew(site: &Site) {
    for table in [
        "scheduled_events",
        "event_history",
        "event_log",
        "seen",
        "event_types",
    ] {
        site.sql(&format!("DELETE FROM {table}"));
    }
    let _ = std::fs::remove_file(site.path("fired"));
    site.sql(
        "INSERT INTO scheduled_events (type, due_at, unique_key) VALUES ('effect', 1, 'a'), \
         ('effect', 2, NULL), ('least', 1, 'b'), ('least', 2, NULL), ('most', 1, 'c'), \
         ('most', 2, NULL)",
    );
}

/// A run may refuse to start, or end in trouble; it must not panic, hang, or break a promise.
fn run_with(site: &Site, trigger: &Trigger) {
    let config = loaded(site);
    let connect = |database: &Database, access: Access, clock: Clock| {
        Ok(trigger.on(punctual::db::connect(database, access, clock)?))
    };
    let world = World {
        clock: Clock::system(),
        connect: &connect,
        watchdog: Path::new(env!("CARGO_BIN_EXE_punctual")),
    };
    let _ = runner::run(&config, &Options::of(&config), world, &mut |_| {});
}

/// The next tick, and the one after it: what the first recovers may be due only then.
fn run_plainly(site: &Site, about: &str) {
    for _ in 0..2 {
        run_once_the_lock_is_free(site, about);
        site.sql("UPDATE scheduled_events SET due_at = 5 WHERE status = 'ready'");
    }
}

/// A server takes a moment to notice that a connection is gone, and its advisory lock with it.
fn run_once_the_lock_is_free(site: &Site, about: &str) {
    eventually("the advisory lock is free", || {
        let ended = site.punctual(["run", "--json"]);
        // 1: an at-most-once event whose end nobody knows.
        assert!([0, 1].contains(&ended.code), "{about}: {ended:?}");
        ended.json()["stop"] != "locked"
    });
}

/// Promise 3, at once after the trouble: ready, running, or in history.
fn check_every_event_is_accounted_for(site: &Site, about: &str) {
    let live = site.query_i64("SELECT COUNT(*) FROM scheduled_events");
    let past = site.query_i64("SELECT COUNT(*) FROM event_history");
    assert_eq!(live + past, 6, "{about}");
}

fn check_promises(site: &Site, about: &str) {
    let left = site.rows("SELECT id, type, status, due_at FROM scheduled_events");
    assert!(left.is_empty(), "{about}: {left:?}");
    let twice = "SELECT COUNT(*) - COUNT(DISTINCT event_id) FROM event_history";
    assert_eq!(site.query_i64(twice), 0, "{about}: a double in history");
    let effects = site.rows("SELECT COUNT(*), COUNT(DISTINCT id) FROM seen");
    assert_eq!(effects, [["2", "2"]], "{about}: exactly once");
    let mut starts: BTreeMap<i64, i64> = BTreeMap::new();
    for id in fired(site) {
        *starts.entry(id).or_default() += 1;
    }
    let history = "SELECT event_id, type, outcome, attempts + losses FROM event_history \
                   WHERE type <> 'effect'";
    for row in site.rows(history) {
        let number = |index: usize| row[index].parse::<i64>().expect("a number");
        let started = starts.get(&number(0)).copied().unwrap_or(0);
        let (least, most) = match (row[1].as_str(), row[2].as_str()) {
            ("least", "done") => (1, 1 + number(3)),
            ("most", "done") => (1, 1),
            ("most", "unknown") => (0, 1),
            other => panic!("{about}: {other:?}"),
        };
        assert!(
            (least..=most).contains(&started),
            "{about}: {row:?} started {started} times"
        );
    }
}
