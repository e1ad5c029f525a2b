//! Whole runs on a SQLite database of their own, each against a mistake that a review found.

use std::cell::{Cell as Shared, RefCell};
use std::rc::Rc;

use super::*;
use crate::db::DbErrorKind;

mod bed;

use bed::{Bed, gone, lost_at_the_first_ack, no_answer_to_the_first_commit, one, web_site};

#[test]
fn the_trace_of_a_wave_goes_with_its_commit() {
    let bed =
        Bed::new("[type.bad]\nhandler = \"sql\"\nsql = [\"INSERT INTO nowhere VALUES (1)\"]\n");
    bed.add("bad", 1);
    // Seen between the wave and the end of the run, where a kill would leave it for a loss.
    let seen = Rc::new(RefCell::new(String::new()));
    let database = bed.database();
    let report = bed.run_over(|_| {
        let (database, seen) = (database.clone(), Rc::clone(&seen));
        move |sql: &str| {
            if sql.starts_with("SELECT COUNT(*) FROM /*_*/scheduled_events") {
                *seen.borrow_mut() =
                    one(&database, "SELECT waves, COUNT(wave_type) FROM event_runs");
            }
            None
        }
    });
    assert_eq!(report.counts.retried, 1);
    assert_eq!(*seen.borrow(), "1|0");
}

#[test]
fn a_lease_renewed_from_an_old_reading_of_the_clock_is_renewed_again_before_a_start() {
    let url = web_site(Duration::ZERO);
    let bed = Bed::new(&format!(
        "[run]\nlease_ttl = \"6s\"\n[type.hook]\nhandler = \"http\"\nurl = \"{url}\"\n"
    ));
    bed.add("hook", 1);
    let statements = Rc::new(RefCell::new(Vec::new()));
    let report = bed.run_over(|_| {
        let statements = Rc::clone(&statements);
        move |sql: &str| {
            let mut statements = statements.borrow_mut();
            // As if the run were stopped between reading the clock and claiming: for half its lease.
            let looks = |sql: &str| sql.contains("octet_length");
            if looks(sql) && !statements.iter().any(|sql: &String| looks(sql)) {
                std::thread::park_timeout(Duration::from_millis(3_100));
            }
            statements.push(sql.to_owned());
            None
        }
    });
    assert_eq!(report.counts.done, 1, "{report:?}");
    let statements = statements.borrow();
    let place = |part: &str| statements.iter().position(|sql| sql.contains(part));
    let claimed = place("SET status = 'running'").expect("a claim");
    let acked = place("INSERT INTO /*_*/event_history").expect("an ack");
    let renews = |sql: &String| sql.starts_with("UPDATE /*_*/event_lease SET beat_at");
    assert!(
        statements[claimed..acked].iter().any(renews),
        "{statements:#?}"
    );
}

#[test]
fn an_event_put_off_by_the_effect_before_it_is_not_fired_early() {
    let bed = Bed::new(
        "[type.a]\nhandler = \"sql\"\nsql = [\"INSERT INTO log VALUES (:id, 'fired')\", \
         \"UPDATE scheduled_events SET due_at = 32503680000 WHERE id = :id + 1\"]\n",
    );
    bed.add("a", 2);
    let report = bed.run();
    assert_eq!(report.counts.done, 1, "{report:?}");
    assert_eq!(bed.one("SELECT COUNT(*), MAX(id) FROM log"), "1|1");
    assert_eq!(
        bed.one("SELECT id, due_at FROM scheduled_events"),
        "2|32503680000"
    );
}

#[test]
fn a_wave_cut_by_time_spends_the_rate_only_for_what_it_fired() {
    // Each effect takes long enough that a wave is cut after a few.
    let slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) \
                INSERT INTO log SELECT :id, MAX(i) FROM n";
    let bed = Bed::new(&format!(
        "[type.a]\nhandler = \"sql\"\nrate = 30\nsql = [\"{slow}\"]\n"
    ));
    bed.add("a", 30);
    let report = bed.run();
    assert!(report.waves > 1, "the effects were too quick to tell");
    assert_eq!(report.counts.done, 30);
}

#[test]
fn effects_stop_once_the_breaker_opens() {
    let bed = Bed::new(
        "[type.bad]\nhandler = \"sql\"\nbreaker = 5\nsql = [\"INSERT INTO nowhere VALUES (1)\"]\n",
    );
    bed.add("bad", 100);
    let report = bed.run();
    assert_eq!((report.counts.fired, report.counts.retried), (5, 5));
}

#[test]
fn a_long_backlog_of_effects_does_not_keep_other_types_from_going_on() {
    let url = web_site(Duration::from_millis(100));
    let bed = Bed::new(&format!(
        "[run]\nmax_time = \"6s\"\n\
         [type.hook]\nhandler = \"http\"\nurl = \"{url}\"\nconcurrency = 1\n\
         [type.slow]\nhandler = \"sql\"\nsql = [\"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL \
         SELECT i + 1 FROM n WHERE i < 600000) INSERT INTO log SELECT :id, MAX(i) FROM n\"]\n"
    ));
    bed.add("hook", 20);
    bed.add("slow", 1000);
    let report = bed.run();
    assert_eq!(
        report.stop,
        Stop::MaxTime,
        "the effects were too quick to tell"
    );
    // One more is started after each wave: on a busy machine the waves are fewer.
    let slow_waves = report.waves - 1;
    let hooks = report.types["hook"].done;
    assert!(
        hooks >= slow_waves.min(20),
        "{hooks} beside {slow_waves} waves"
    );
}

#[test]
fn an_event_that_expires_while_it_waits_for_room_is_not_started() {
    let url = web_site(Duration::from_secs(3));
    let bed = Bed::new(&format!(
        "[type.hook]\nhandler = \"http\"\nurl = \"{url}\"\nconcurrency = 1\n"
    ));
    bed.add("hook", 2);
    let now = Clock::system().now().0 + 1;
    bed.sql(&format!("UPDATE scheduled_events SET expires_at = {now}"));
    let report = bed.run();
    assert_eq!((report.counts.done, report.counts.skipped), (1, 1));
    assert_eq!(bed.one("SELECT COUNT(*) FROM scheduled_events"), "0");
}

#[test]
fn a_guard_that_fails_spends_a_try_and_ends_nothing_that_may_start_only_once() {
    let bed = Bed::new(
        "[type.hook]\nhandler = \"http\"\nurl = \"http://127.0.0.1:9/\"\nat_most_once = true\n\
         guard = \"SELECT 1 FROM nowhere\"\n",
    );
    bed.add("hook", 1);
    let report = bed.run();
    assert_eq!((report.counts.retried, report.counts.dead), (1, 0));
}

#[test]
fn an_effect_that_breaks_the_connection_leaves_its_trace_for_the_next_run() {
    let bed = Bed::new(
        "[type.a]\nhandler = \"sql\"\nmax_losses = 1\nsql = [\"INSERT INTO log VALUES (:id, 'x')\"]\n",
    );
    bed.add("a", 2);
    let breaks = |_| {
        let mut lost = false;
        move |sql: &str| {
            lost |= sql.starts_with("INSERT INTO log");
            lost.then(|| gone(DbErrorKind::Lost))
        }
    };
    let report = bed.run_over(breaks);
    assert_eq!(report.stop, Stop::DatabaseLost);
    assert_eq!(
        bed.one("SELECT wave_first_id, wave_last_id FROM event_runs"),
        "1|2"
    );
    // Replayed one by one, the first event is found out, and then given up.
    for (losses, left) in [("0", "2"), ("1", "2"), ("0", "1")] {
        let _ = bed.run_over(breaks);
        let row = bed.one(
            "SELECT losses, (SELECT COUNT(*) FROM scheduled_events) \
                           FROM scheduled_events ORDER BY id LIMIT 1",
        );
        assert_eq!(row, format!("{losses}|{left}"));
    }
}

#[test]
fn an_effect_that_waits_for_a_locked_row_keeps_no_other_type_from_firing() {
    let bed = Bed::new(
        "[type.a]\nhandler = \"sql\"\nsql = [\"INSERT INTO log VALUES (:id, 'locked')\"]\n\
         [type.b]\nhandler = \"sql\"\nsql = [\"INSERT INTO log VALUES (:id, 'free')\"]\n",
    );
    bed.add("a", 3);
    bed.add("b", 3);
    let report = bed.run_over(|_| {
        |sql: &str| {
            let busy = || DbError::new(DbErrorKind::Busy, "Lock wait timeout exceeded");
            sql.contains("'locked'").then(busy)
        }
    });
    assert_eq!(report.stop, Stop::Drained);
    assert_eq!(report.types["b"].done, 3);
    assert_eq!(
        bed.one("SELECT COUNT(*), SUM(attempts) FROM scheduled_events"),
        "3|0"
    );
}

#[test]
fn acks_whose_commit_gets_no_answer_at_the_very_end_are_written_over_a_new_connection() {
    let url = web_site(Duration::ZERO);
    let bed = Bed::new(&format!(
        "[run]\nmax_events = 1\n[type.hook]\nhandler = \"http\"\nurl = \"{url}\"\n"
    ));
    bed.add("hook", 1);
    let connections = Shared::new(0);
    let report = bed.run_over(|nth| {
        connections.set(nth);
        lost_at_the_first_ack(nth)
    });
    assert_eq!(
        (connections.get(), report.counts.done),
        (2, 1),
        "{report:?}"
    );
    assert_eq!(bed.one("SELECT outcome FROM event_history"), "done");
}

#[test]
fn an_event_that_died_in_a_commit_without_an_answer_is_named() {
    let bed = Bed::new(
        "[type.bad]\nhandler = \"sql\"\nretries = 0\nsql = [\"INSERT INTO nowhere VALUES (1)\"]\n",
    );
    bed.add("bad", 1);
    let report = bed.run_over(no_answer_to_the_first_commit);
    assert_eq!(report.stop, Stop::DatabaseLost);
    assert_eq!((report.counts.fired, report.counts.dead), (1, 1));
    // Not as event 0, and with the reason.
    let [line] = report.failures.as_slice() else {
        panic!("{:?}", report.failures);
    };
    assert!(line.starts_with("event 1 (bad) is dead: "), "{line}");
    assert!(line.ends_with("no such table: nowhere"), "{line}");
}

#[test]
fn what_is_recorded_unstarted_by_a_commit_without_an_answer_is_counted() {
    // Of a run that died, and expired.
    for (columns, expected) in [
        (
            "status = 'running', claim_epoch = 5, claim_until = 6",
            (1, 1, 0),
        ),
        ("expires_at = 2000", (0, 0, 1)),
    ] {
        let bed = Bed::new(
            "[type.hook]\nhandler = \"http\"\nurl = \"http://127.0.0.1:9/\"\n\
             at_most_once = true\n",
        );
        bed.add("hook", 1);
        bed.sql(&format!("UPDATE scheduled_events SET {columns}"));
        let counts = bed.run_over(no_answer_to_the_first_commit).counts;
        let counted = (counts.recovered, counts.unknown, counts.skipped);
        assert_eq!((counted, counts.fired), (expected, 0), "{columns}");
        let (_, unknown, skipped) = expected;
        assert_eq!(
            bed.one("SELECT unknown, skipped, stop FROM event_runs"),
            format!("{unknown}|{skipped}|database_lost"),
        );
    }
}

#[test]
fn an_event_whose_priority_changes_under_the_look_is_seen_once() {
    let bed = Bed::new("[type.hook]\nhandler = \"http\"\nurl = \"http://127.0.0.1:9/\"\n");
    bed.add("hook", 1);
    bed.sql("UPDATE scheduled_events SET priority = -2, expires_at = 2000");
    let database = bed.database();
    let report = bed.run_over(|_| {
        let database = database.clone();
        let mut looks = 0;
        move |sql: &str| {
            // The first look is at priority -2, the second at -1.
            let is_look = sql.contains("octet_length");
            looks += i32::from(is_look);
            if is_look && looks == 2 {
                let site = crate::db::connect(&database, Access::Write, Clock::system());
                let update = "UPDATE scheduled_events SET priority = 2";
                site.unwrap().execute_script(update).unwrap();
            }
            None
        }
    });
    assert_eq!((report.counts.skipped, report.stop), (1, Stop::Drained));
    let moved = "SELECT COUNT(*), MAX(priority) FROM event_history";
    assert_eq!(bed.one(moved), "1|2");
}

#[test]
fn an_event_that_another_run_put_back_while_its_ack_had_no_answer_does_not_count_as_done() {
    let url = web_site(Duration::ZERO);
    let bed = Bed::new(&format!(
        "[type.hook]\nhandler = \"http\"\nurl = \"{url}\"\n"
    ));
    bed.add("hook", 1);
    let connections = Shared::new(0);
    let report = bed.run_over(|nth| {
        connections.set(nth);
        if nth == 2 {
            let recover = "UPDATE scheduled_events SET status = 'ready', claim_epoch = NULL, \
                           claim_until = NULL, losses = 1";
            assert_eq!(bed.db().execute(recover, &[]).unwrap(), 1);
        }
        lost_at_the_first_ack(nth)
    });
    assert_eq!(
        (connections.get(), report.counts.done),
        (2, 0),
        "{report:?}"
    );
    assert_eq!(bed.one("SELECT status FROM scheduled_events"), "ready");
    let log = "SELECT event_id FROM event_log WHERE decision = 'fenced'";
    assert_eq!(bed.one(log), "1");
}
