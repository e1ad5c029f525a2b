//! The fence alone: file lock and advisory lock out of the way, the lease with its epoch keeps two
//! live runs apart (RULINGS 1, 11, 40).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use punctual::clock::Clock;
use punctual::config::Database;
use punctual::db::Access;
use punctual::runner::{self, Options, World};
use rustix::process::Signal;

use crate::plans::loaded;
use crate::runs::{fired, insert};
use crate::support::process::{Ended, Running, eventually};
use crate::support::recorder::Recording;
use crate::support::site::Site;

const SLOW: &str = "[run]\nlease_ttl = \"6s\"\nbatch_size = 3\n\
    [type.slow]\nhandler = \"command\"\n\
    command = [\"sh\", \"-c\", \"echo $PUNCTUAL_EVENT_ID >> fired; sleep 0.2\"]\n";

#[test]
fn a_run_that_slept_past_its_lease_fires_nothing_more_and_doubles_nothing() {
    let site = Site::mariadb();
    site.config(SLOW).init();
    insert(&site, "slow", 20);
    let first = site.spawn(["run", "--json"]);
    eventually("the first run is at work", || !fired(&site).is_empty());
    first.signal(Signal::STOP);
    // While its lease holds nobody takes over, though both locks are out of the way.
    assert_eq!(run_past_both_locks(&site).ok().json()["stop"], "locked");
    std::thread::sleep(Duration::from_secs(7));
    let second = run_past_both_locks(&site).ok().json();
    assert_eq!(second["stop"], "drained", "{second:?}");
    assert_eq!(
        second["recovered"], 0,
        "its claims are still believed: {second:?}"
    );
    first.signal(Signal::CONT);
    let ended = site.finish(first);
    let first = ended.json();
    assert_eq!(
        (ended.code, &first["stop"]),
        (75, &"fenced".into()),
        "{ended:?}"
    );

    let mut starts = fired(&site);
    starts.sort_unstable();
    let run_by_nobody = site.query_i64("SELECT COUNT(*) FROM scheduled_events");
    let mut once = starts.clone();
    once.dedup();
    assert_eq!(starts, once, "something was started twice");
    let done = "SELECT COUNT(*) FROM event_history WHERE outcome = 'done'";
    assert_eq!(site.query_i64(done) + run_by_nobody, 20);
    assert_eq!(
        site.query_i64(done),
        i64::try_from(starts.len()).expect("few")
    );
    let twice = "SELECT COUNT(*) - COUNT(DISTINCT event_id) FROM event_history";
    assert_eq!(site.query_i64(twice), 0);
    let logged = "SELECT COUNT(*) FROM event_log WHERE decision = 'fenced'";
    assert!(site.query_i64(logged) > 0);
    // What the fenced run gave back is the next tick's.
    site.punctual(["run"]).ok();
    assert_eq!(site.query_i64(done), 20);
}

#[test]
fn a_run_whose_claim_ran_out_records_nothing_beside_the_run_that_took_its_event() {
    let site = Site::mariadb();
    site.config(
        "[type.slow]\nhandler = \"command\"\nat_most_once = true\n\
         command = [\"sh\", \"-c\", \"echo $PUNCTUAL_EVENT_ID >> fired; \
         while [ ! -e go ]; do sleep 0.05; done\"]\n",
    )
    .init();
    insert(&site, "slow", 1);
    let first = site.spawn(["run", "--json"]);
    eventually("the handler works", || !fired(&site).is_empty());
    first.signal(Signal::STOP);
    // As if the lease and the claim had run out: another host may presume the event lost.
    site.sql("UPDATE event_lease SET beat_at = 1");
    site.sql("UPDATE scheduled_events SET claim_until = 1");
    let second = run_past_both_locks(&site);
    assert_eq!(second.json()["unknown"], 1, "{second:?}");
    site.write("go", "");
    first.signal(Signal::CONT);
    let ended = site.finish(first);

    let history = site.rows("SELECT event_id, outcome FROM event_history");
    assert_eq!(history, [["1", "unknown"]], "{ended:?}");
    assert_eq!(ended.json()["withdrawn"], 0, "{ended:?}");
    let logged = "SELECT COUNT(*) FROM event_log WHERE decision = 'fenced' AND event_id = 1";
    assert_eq!(site.query_i64(logged), 1);
}

on_both_databases! {
    fn a_run_fenced_while_it_recovers_does_not_take_its_successor_for_dead(site: &Site) {
        site.config("[type.note]\nhandler = \"command\"\ncommand = [\"true\"]\n").init();
        insert(site, "note", 1);
        let recording = Recording::default();
        let takeover = site.sql_later(&[
            "INSERT INTO event_runs (epoch, host, pid, lock_id, started_at, cutoff) \
             VALUES (7000000000, 'far away', 1, 'another lock', 1, 1)",
            "UPDATE event_lease SET epoch = 7000000000, holder = 'somebody'",
        ]);
        recording.before_query("finished_at IS NULL", takeover);
        let config = loaded(site);
        let connect = |database: &Database, access: Access, clock: Clock| {
            Ok(recording.of(punctual::db::connect(database, access, clock)?))
        };
        let world = World {
            clock: Clock::system(),
            connect: &connect,
            watchdog: Path::new(env!("CARGO_BIN_EXE_punctual")),
        };
        let report = runner::run(&config, &Options::of(&config), world, &mut |_| {});
        assert_eq!(report.expect("a run").stop.as_str(), "fenced");
        let open = "SELECT COUNT(*) FROM event_runs WHERE finished_at IS NULL";
        assert_eq!(site.query_i64(open), 1, "the run at work is still at work");
    }
}

/// A run from another state directory, as on another host, to which both locks say yes.
fn run_past_both_locks(site: &Site) -> Ended {
    site.finish(Running::start(past_both_locks(site), b""))
}

fn past_both_locks(site: &Site) -> Command {
    run_in(site, "elsewhere")
}

/// A run with a state directory of this name, to which both locks say yes; the file `clock` moves
/// its clock.
fn run_in(site: &Site, state: &str) -> Command {
    let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
    command
        .args(["run", "--json"])
        .env("PUNCTUAL_FAULT_LOCKS", "open")
        .env("PUNCTUAL_FAULT_CLOCK", site.path("clock"))
        .env("PUNCTUAL_STATE_DIR", site.path(state));
    command
}

/// A run with three events to start, that many at once, stopped when it has handed over one.
fn frozen_behind_its_first_start(site: &Site, concurrency: usize) -> Running {
    site.config(&format!(
        "[run]\nlease_ttl = \"6s\"\n[type.note]\nhandler = \"command\"\n\
         concurrency = {concurrency}\n\
         command = [\"sh\", \"-c\", \"echo $PUNCTUAL_EVENT_ID >> fired\"]\n"
    ))
    .init();
    insert(site, "note", 3);
    let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
    command
        .args(["run", "--json"])
        .env("PUNCTUAL_FAULT_POINT", "fire.after:1=stop");
    let run = Running::start(command, b"");
    let stat = format!("/proc/{}/stat", run.pid());
    let is_frozen = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "));
    eventually("the run is frozen behind its first start", is_frozen);
    run
}

/// How it ends once another has taken its lease.
fn thawed_beside_its_successor(site: &Site, run: Running) -> Ended {
    site.sql("UPDATE event_lease SET epoch = epoch + 1, holder = 'somebody'");
    // A third of its lease: then it looks again.
    std::thread::sleep(Duration::from_millis(2_100));
    run.signal(Signal::CONT);
    site.finish(run)
}

/// Waits for the file `go` the first time, and is done at once when it is tried again.
const PATIENT: &str = "[run]\nmax_time = \"30s\"\n\
    [type.patient]\nhandler = \"command\"\ntimeout = \"10m\"\n\
    command = [\"sh\", \"-c\", \"echo $PUNCTUAL_EVENT_ID >> fired; [ -e up ] && exit; touch up; \
    while [ ! -e go ]; do sleep 0.05; done\"]\n";

on_both_databases! {
    fn a_run_frozen_between_two_starts_makes_no_second_beside_its_successor(site: &Site) {
        let run = frozen_behind_its_first_start(site, 1);
        eventually("that one has fired", || fired(site).len() == 1);
        let ended = thawed_beside_its_successor(site, run);
        assert_eq!(ended.json()["stop"], "fenced", "{ended:?}");
        assert_eq!(fired(site).len(), 1, "{ended:?}");
    }

    fn a_run_that_starts_from_threads_makes_no_second_either(site: &Site) {
        let run = frozen_behind_its_first_start(site, 3);
        let ended = thawed_beside_its_successor(site, run);
        assert_eq!(ended.json()["stop"], "fenced", "{ended:?}");
        // None where it was frozen before the thread of the first had begun.
        assert!(fired(site).len() <= 1, "{ended:?}");
    }

    fn an_ack_that_comes_after_another_run_has_recorded_the_event_says_nothing_false(site: &Site) {
        site.config(PATIENT).init();
        insert(site, "patient", 1);
        let first = Late::at_work(site);
        // The claim's time is up as well as the lease's.
        site.write("clock", "100000");
        let second = run_past_both_locks(site).ok().json();
        assert_eq!((&second["recovered"], &second["done"]), (&1.into(), &1.into()), "{second}");
        let ended = first.goes_on(site);
        let first = ended.json();
        assert_eq!((ended.code, &first["stop"]), (75, &"fenced".into()), "{ended:?}");
        assert_eq!((&first["done"], &first["withdrawn"]), (&0.into(), &0.into()), "{first}");
        let history = "SELECT outcome, losses, run_id FROM event_history";
        assert_eq!(site.rows(history), [["done".into(), "1".into(), second["run_id"].to_string()]]);
        check_the_log_names_the_refused_ack(site, &first);
    }

    fn an_ack_refused_because_another_run_put_the_event_back_says_nothing_false(site: &Site) {
        site.config(&format!("{PATIENT}[type.other]\nhandler = \"command\"\ncommand = [\"true\"]\n"))
            .init();
        insert(site, "patient", 1);
        let first = Late::at_work(site);
        site.write("clock", "100000");
        insert(site, "other", 1);
        let mut command = past_both_locks(site);
        command.args(["--type", "other"]);
        let second = site.finish(Running::start(command, b"")).ok().json();
        assert_eq!((&second["recovered"], &second["done"]), (&1.into(), &1.into()), "{second}");
        let ended = first.goes_on(site);
        let first = ended.json();
        assert_eq!((ended.code, &first["stop"]), (75, &"fenced".into()), "{ended:?}");
        assert_eq!(first["done"], 0, "{first}");
        let left = "SELECT type, status, losses, attempts FROM scheduled_events";
        assert_eq!(site.rows(left), [["patient", "ready", "1", "0"]]);
        check_the_log_names_the_refused_ack(site, &first);
    }
}

fn check_the_log_names_the_refused_ack(site: &Site, run: &serde_json::Value) {
    let logged = "SELECT COUNT(*) FROM event_log WHERE decision = 'fenced' AND event_id = 1 \
                  AND run_id = ";
    assert_eq!(site.query_i64(&format!("{logged}{}", run["run_id"])), 1);
}

/// A run stopped with its handler under way.
struct Late(Running);

impl Late {
    fn at_work(site: &Site) -> Self {
        let run = Running::start(run_in(site, "state"), b"");
        eventually("the handler works", || site.path("up").exists());
        // Not in the middle of a transaction, which would hold its locks.
        eventually("the claim is committed", || {
            site.query_i64("SELECT COUNT(*) FROM scheduled_events WHERE status = 'running'") == 1
        });
        run.signal(Signal::STOP);
        Self(run)
    }

    /// The handler ends while the run is still stopped; then the run goes on.
    fn goes_on(self, site: &Site) -> Ended {
        site.write("go", "");
        std::thread::sleep(Duration::from_millis(200));
        self.0.signal(Signal::CONT);
        site.finish(self.0)
    }
}
