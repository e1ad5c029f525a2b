//! The fence alone: file lock and advisory lock out of the way, the lease with its epoch keeps two
//! live runs apart (RULINGS 1, 11, 40).

use std::path::Path;
use std::time::Duration;

use punctual::clock::{Clock, UnixSeconds};
use punctual::config::Database;
use punctual::db::{Access, AdvisoryLock, Db, DbResult, Dialect, OnRow, Value};
use punctual::runner::{self, Options, World};

use crate::plans::loaded;
use crate::runs::{fired, insert, signal};
use crate::support::process::eventually;
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
    signal(first.pid(), "STOP");
    // While its lease holds nobody takes over, though both locks are out of the way.
    assert_eq!(run_past_both_locks(&site).stop.as_str(), "locked");
    std::thread::sleep(Duration::from_secs(7));
    let second = run_past_both_locks(&site);
    assert_eq!(second.stop.as_str(), "drained", "{second:?}");
    assert_eq!(
        second.counts.recovered, 0,
        "its claims are still believed: {second:?}"
    );
    signal(first.pid(), "CONT");
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
    signal(first.pid(), "STOP");
    // As if the lease and the claim had run out: another host may presume the event lost.
    site.sql("UPDATE event_lease SET beat_at = 1");
    site.sql("UPDATE scheduled_events SET claim_until = 1");
    let second = run_past_both_locks(&site);
    assert_eq!(second.counts.unknown, 1, "{second:?}");
    site.write("go", "");
    signal(first.pid(), "CONT");
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

/// A run whose state directory is another one, as on another host, and whose advisory lock says
/// yes to everybody.
fn run_past_both_locks(site: &Site) -> runner::Report {
    let mut config = loaded(site);
    config.state_dir = site.path("elsewhere");
    let connect = |database: &Database, access: Access, clock: Clock| {
        let db = punctual::db::connect(database, access, clock)?;
        Ok(Box::new(YesToEverybody(db)) as Box<dyn Db>)
    };
    let world = World {
        clock: Clock::system(),
        connect: &connect,
        watchdog: Path::new(env!("CARGO_BIN_EXE_punctual")),
    };
    runner::run(&config, &Options::of(&config), world, &mut |_| {}).expect("a run")
}

struct YesToEverybody(Box<dyn Db>);

impl Db for YesToEverybody {
    fn advisory_lock(&mut self, _name: &str) -> DbResult<AdvisoryLock> {
        Ok(AdvisoryLock::Held)
    }

    fn dialect(&self) -> Dialect {
        self.0.dialect()
    }

    fn execute(&mut self, sql: &str, params: &[Value<'_>]) -> DbResult<u64> {
        self.0.execute(sql, params)
    }

    fn query(&mut self, sql: &str, params: &[Value<'_>], on_row: &mut OnRow<'_>) -> DbResult<()> {
        self.0.query(sql, params, on_row)
    }

    fn begin(&mut self) -> DbResult<()> {
        self.0.begin()
    }

    fn commit(&mut self) -> DbResult<()> {
        self.0.commit()
    }

    fn rollback(&mut self) {
        self.0.rollback();
    }

    fn last_insert_id(&self) -> i64 {
        self.0.last_insert_id()
    }

    fn now(&mut self) -> DbResult<UnixSeconds> {
        self.0.now()
    }

    fn ping(&mut self) -> DbResult<()> {
        self.0.ping()
    }

    fn execute_script(&mut self, sql: &str) -> DbResult<()> {
        self.0.execute_script(sql)
    }

    fn forgets_ids(&self) -> bool {
        self.0.forgets_ids()
    }

    fn database_name(&mut self) -> DbResult<String> {
        self.0.database_name()
    }
}
