//! Sources in trouble: runs that are killed, cut, fenced or refused by the database while they look,
//! and what a look costs.

use std::path::Path;
use std::time::Duration;

use punctual::clock::Clock;
use punctual::config::Database;
use punctual::db::Access;
use punctual::fault::POINTS;
use punctual::runner::{self, Options, Stop, World};

use super::{NOTE, START, at, command_at, live, pairs, run_at, seen, set_up, source};
use crate::plans::{explained, loaded, run_recorded, series};
use crate::support::failing::{Failure, Trigger};
use crate::support::process::{Running, eventually};
use crate::support::recorder::{Recorded, Recording};
use crate::support::site::Site;

/// So many members, whose memberships end a second apart from then on.
fn members(site: &Site, count: i64, from: i64) {
    let columns = format!("n + 1, {from} + n, 'nobody'");
    site.sql(&format!(
        "INSERT INTO member (id, ends, who) {}",
        series(count, &columns)
    ));
}

/// The table changes: some move, some go, some come.
fn change(site: &Site, count: i64, from: i64) {
    site.sql("UPDATE member SET ends = ends + 40, who = 'moved' WHERE id % 7 = 1");
    site.sql("UPDATE member SET ends = ends - 20 WHERE id % 7 = 2");
    site.sql("DELETE FROM member WHERE id % 7 = 3");
    let columns = format!("n + 100001, {from} + n, 'new'");
    site.sql(&format!(
        "INSERT INTO member (id, ends, who) {}",
        series(count / 10, &columns)
    ));
}

/// What the table says: key and expiry, counted from the start.
fn said(site: &Site) -> Vec<(i64, i64)> {
    let mut said = pairs(site, "SELECT id, ends FROM member");
    said.sort_unstable();
    said
}

#[track_caller]
fn check_live(site: &Site, about: &str) {
    let mut derived = live(site);
    derived.sort_unstable();
    assert_eq!(derived, said(site), "{about}");
    let of_live = "SELECT derived_key, expiry FROM event_sources \
                   WHERE event_id IN (SELECT id FROM scheduled_events)";
    let mut records = pairs(site, of_live);
    records.sort_unstable();
    assert_eq!(records, derived, "{about}");
}

on_both_databases! {
    fn a_run_killed_at_any_step_of_a_look_loses_nothing_and_doubles_nothing(site: &Site) {
        set_up(site, &source("every = \"1m\""));
        run_at(site, START);
        let mut points: Vec<&str> = POINTS.iter().map(|(name, _)| *name).collect();
        points.retain(|name| name.starts_with("sources."));
        assert_eq!(points.len(), 4);
        let all = points.iter().flat_map(|point| (1..=5).map(move |nth| (*point, nth)));
        let mut fired = 0;
        let mut killed_at = 0;
        for (round, (point, nth)) in (1..).zip(all) {
            let about = format!("{point}:{nth}");
            let begin = START + round * 10_000;
            site.sql("DELETE FROM member");
            run_at(site, begin);
            members(site, 1100, begin + 1000);
            run_at(site, begin + 100);
            check_live(site, &about);
            change(site, 1100, begin + 1500);
            // Stated anew, so that it is also taken over in the run that is killed.
            let priority = round % 3;
            site.config(&source(&format!("every = \"1m\"\npriority = {priority}")));
            site.alone();
            let mut killed = command_at(site, begin + 200, &["run"]);
            killed.env("PUNCTUAL_FAULT_POINT", &about);
            let killed = site.finish(Running::start(killed, b""));
            assert!(nth > 1 || killed.code == 137, "{about}: {killed:?}");
            killed_at += i64::from(killed.code == 137);
            run_at(site, begin + 300);
            check_live(site, &about);
            fired += site.query_i64("SELECT COUNT(*) FROM member");
            run_at(site, begin + 5000);
            let each = "SELECT COUNT(*) FROM (SELECT DISTINCT id, slot FROM seen) AS each_one";
            assert_eq!(site.query_i64("SELECT COUNT(*) FROM seen"), fired, "{about}");
            assert_eq!(site.query_i64(each), fired, "{about}");
        }
        assert!(killed_at >= 10, "{killed_at}");
    }

    fn of_two_runs_that_both_locks_let_in_one_derives(site: &Site) {
        set_up(site, &source(""));
        run_at(site, START);
        members(site, 10, START + 1000);
        site.alone();
        let mut first = command_at(site, START + 400, &["run", "--json"]);
        first
            .env("PUNCTUAL_FAULT_LOCKS", "open")
            .env("PUNCTUAL_FAULT_POINT", "sources.page=hold")
            .env("PUNCTUAL_FAULT_HOLD", site.path(""));
        let first = Running::start(first, b"");
        eventually("the first run is held", || site.path("sources.page:1.held").exists());
        site.sql("UPDATE event_lease SET beat_at = 1");
        site.sql("UPDATE member SET ends = ends + 10");
        let mut second = command_at(site, START + 400, &["run", "--json"]);
        second
            .env("PUNCTUAL_FAULT_LOCKS", "open")
            .env("PUNCTUAL_STATE_DIR", site.path("elsewhere"));
        site.finish(Running::start(second, b"")).ok();
        check_live(site, "the second run");
        site.write("sources.page:1.go", "");
        let first = site.finish(first);
        assert_eq!((first.code, &first.json()["stop"]), (75, &"fenced".into()), "{first:?}");
        check_live(site, "both runs");
    }

    fn a_look_that_the_budget_cuts_goes_on_in_the_next_run(site: &Site) {
        set_up(site, &source("every = \"1m\""));
        run_at(site, START);
        members(site, 1200, START + 1000);
        site.alone();
        let mut cut = command_at(site, START + 100, &["run", "--max-time", "4s"]);
        cut.env("PUNCTUAL_FAULT_POINT", "sources.committed=hold")
            .env("PUNCTUAL_FAULT_HOLD", site.path(""));
        let cut = Running::start(cut, b"");
        eventually("its first part is written", || site.path("sources.committed:1.held").exists());
        std::thread::sleep(Duration::from_millis(1100)); // a quarter of its time
        site.write("sources.committed:1.go", "");
        site.finish(cut).ok();
        assert_eq!(live(site).len(), 500);
        let scan = "SELECT cursor_at, cursor_key, rows_seen, watermark < began FROM event_scans";
        let cursor = (START + 1499).to_string();
        assert_eq!(site.rows(scan), [[cursor.as_str(), "500", "500", "1"]]);
        // It is gone where the look has been, and found gone by the next one.
        site.sql("DELETE FROM member WHERE id IN (10, 700)");
        run_at(site, START + 110);
        assert_eq!(live(site).len(), 1199);
        assert_eq!(site.query_i64("SELECT rows_seen FROM event_scans"), 1199);
        assert!(live(site).contains(&(10, 1009)));
        run_at(site, START + 200);
        check_live(site, "the look after that");
    }

    fn a_query_that_takes_too_long_is_cut_and_named(site: &Site) {
        let slow = if site.mariadb_database().is_some() {
            "SELECT COUNT(*) AS `key`, :now AS due_at FROM seq_1_to_100000 a, seq_1_to_100000 b"
        } else {
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
             SELECT COUNT(*) AS `key`, :now AS due_at FROM n"
        };
        set_up(site, &source("").replace(super::QUERY, slow));
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('note', 5)");
        let ended = at(site, START, &["run", "--max-time", "8s"]);
        assert_eq!((ended.code, ended.stderr.lines().count()), (78, 1), "{ended:?}");
        assert!(ended.stderr.contains("it took too long"), "{ended:?}");
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM seen"), 1, "it does not clog");
    }

    fn every_statement_of_a_look_takes_its_index(site: &Site) {
        set_up(site, &source("every = \"1s\"\nlead = \"10s\""));
        let now = Clock::system().now().0;
        run_alone(site);
        members(site, 1200, now + 1000);
        // Long ago, and of another source.
        let past = "CASE n % 2 WHEN 0 THEN 'members' ELSE 'others' END, n + 500000, 1000 + n, n";
        site.sql(&format!(
            "INSERT INTO event_sources (source, derived_key, expiry, event_id) {}",
            series(20_000, past)
        ));
        site.sql("UPDATE event_lease SET prune_at = 1");
        look(site);
        change(site, 1200, now + 2000);
        site.sql("UPDATE event_lease SET prune_at = 1");
        let mut statements = look(site);
        site.config(NOTE);
        statements.extend(run_alone(site).statements());
        let of_sources = |sql: &str| {
            ["event_sources", "event_scans", "event_next"].iter().any(|name| sql.contains(name))
        };
        statements.retain(|one| of_sources(&one.sql) && !one.sql.contains(" AS q "));
        assert!(statements.len() > 20, "{}", statements.len());
        let mut complaints: Vec<String> = statements
            .iter()
            .filter_map(|one| Some(format!("{}\n    {}", one.sql, explained(site, one)?)))
            .collect();
        complaints.dedup();
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
        assert_eq!(live(site), []);
    }

    fn a_look_costs_a_few_statements_for_500_rows(site: &Site) {
        set_up(site, &source(""));
        run_alone(site);
        let now = Clock::system().now().0;
        let columns = format!("n + 1, {now} + 1000 + n % 1500, 'nobody'");
        site.sql(&format!("INSERT INTO member (id, ends, who) {}", series(20_000, &columns)));
        let first = look(site).len();
        check_live(site, "20000 rows");
        let again = look(site).len();
        site.sql("UPDATE member SET ends = ends + 1");
        let moved = look(site).len();
        check_live(site, "20000 rows moved");
        site.sql("DELETE FROM member");
        let gone = look(site).len();
        assert_eq!(live(site), []);
        println!("new {first}, again {again}, moved {moved}, gone {gone}");
        // In transactions of at least 50 rows, however slow the machine; of 500 where it is not.
        for statements in [first, again, moved, gone] {
            assert!(statements < 400 * 10 + 100, "{statements}");
        }
        // A tick between two looks knows nothing of all that.
        let idle = run_alone(site).statements().len();
        assert_eq!(idle, 2);
    }

    fn whichever_call_of_a_look_fails_each_row_has_one_event(site: &Site) {
        set_up(site, &source(""));
        let run = |trigger: &Trigger| {
            let config = loaded(site);
            let connect = |database: &Database, access: Access, clock: Clock| {
                Ok(trigger.on(punctual::db::connect(database, access, clock)?))
            };
            let world = World {
                clock: Clock::system(),
                connect: &connect,
                watchdog: Path::new(env!("CARGO_BIN_EXE_punctual")),
            };
            runner::run(&config, &Options::of(&config), world, &mut |_| {}).ok()
        };
        let run_freed = |failures: &[(u32, Failure)]| {
            let mut to_come = 0;
            eventually("the locks are free", || {
                let trigger = Trigger::each(failures);
                let report = run(&trigger);
                to_come = trigger.to_come();
                report.is_none_or(|report| report.stop != Stop::Locked)
            });
            to_come
        };
        run_freed(&[]);
        for failure in [Failure::Busy, Failure::Lost, Failure::LostAfterCommit, Failure::Full] {
            for call in 1.. {
                let about = format!("call {call}, {failure:?}");
                let now = Clock::system().now().0;
                for table in ["member", "scheduled_events", "event_sources"] {
                    site.sql(&format!("DELETE FROM {table}"));
                }
                members(site, 20, now + 1000);
                site.sql("UPDATE event_next SET slot = 5");
                run_freed(&[]);
                change(site, 20, now + 1200);
                site.sql("UPDATE event_next SET slot = 5");
                let to_come = run_freed(&[(call, failure)]);
                site.sql("UPDATE event_next SET slot = 5");
                run_freed(&[]);
                check_live(site, &about);
                if to_come == 1 {
                    assert!(call > 20, "a run makes more calls than {call}");
                    break;
                }
            }
        }
        assert_eq!(seen(site), []);
    }
}

/// Runs that look now, until the look is whole: a slow machine needs more than one.
fn look(site: &Site) -> Vec<Recorded> {
    let mut statements = Vec::new();
    let whole = "SELECT COUNT(*) FROM event_scans WHERE began IS NOT NULL";
    while statements.is_empty() || site.query_i64(whole) > 0 {
        site.sql("UPDATE event_next SET slot = 5");
        statements.extend(run_alone(site).statements());
    }
    statements
}

/// A run that need not step aside: a server takes a moment to find out that the one before is gone.
fn run_alone(site: &Site) -> Recording {
    let mut recording = Recording::default();
    eventually("the lock is free", || {
        recording = Recording::default();
        run_recorded(site, &recording).stop != Stop::Locked
    });
    recording
}
