//! Runs that must not meet: locks of other hosts, leases that lapse, copied databases.

use crate::runs::{insert, now};
use crate::support::site::Site;

const NOTE: &str = "[type.note]\nhandler = \"command\"\ncommand = [\"true\"]\n";

on_both_databases! {
    fn a_live_lease_of_another_host_makes_a_tick_step_aside(site: &Site) {
        site.config(NOTE).init();
        insert(site, "note", 1);
        lease_of_another_host(site, now(), 60);
        let ended = site.punctual(["run", "--json"]).ok();
        assert_eq!(ended.json()["stop"], "locked");
        assert_eq!(site.query_i64("SELECT SUM(ticks) FROM event_aside"), 1);
        assert_eq!(site.punctual(["status", "--json"]).ok().json()["steps_aside"], 1);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 1);
    }

    fn a_lapsed_lease_is_taken_over_with_a_greater_epoch(site: &Site) {
        site.config(NOTE).init();
        insert(site, "note", 1);
        lease_of_another_host(site, now() - 61, 60);
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!(run["done"], 1, "{run}");
        assert!(run["epoch"].as_i64() > Some(7_000_000_000 - 1), "{run}");
    }

    fn rows_of_another_host_are_left_until_their_claim_runs_out(site: &Site) {
        site.config(NOTE).init();
        let claim = |id: i64, until: i64| {
            site.sql(&format!(
                "INSERT INTO scheduled_events (id, type, due_at, status, claim_epoch, \
                 claim_until) VALUES ({id}, 'note', 5, 'running', 77, {until})"
            ));
        };
        claim(1, now() + 600);
        claim(2, now() - 1);
        site.sql(
            "INSERT INTO event_runs (epoch, host, pid, lock_id, started_at, cutoff) \
             VALUES (77, 'far away', 1, 'another lock', 1, 1)",
        );
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["recovered"], &run["done"]), (&1.into(), &1.into()), "{run}");
        let left = "SELECT id, status FROM scheduled_events";
        assert_eq!(site.rows(left), [["1", "running"]]);
    }

    fn a_prefix_names_every_table(site: &Site) {
        site.config(&format!("table_prefix = \"w_\"\n{NOTE}")).init();
        site.sql("INSERT INTO w_scheduled_events (type, due_at) VALUES ('note', 1)");
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM w_event_history"), 1);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM w_event_runs WHERE stop = 'drained'"), 1);
    }
}

#[test]
fn a_copied_database_is_refused_until_it_is_adopted() {
    let site = Site::sqlite();
    site.config(NOTE).init();
    insert(&site, "note", 1);
    std::fs::copy(site.path("events.db"), site.path("copy.db")).expect("a copy");
    let ended = site.punctual(["run", "--database", "sqlite:copy.db"]);
    assert_eq!(
        (ended.code, ended.stderr.lines().count()),
        (78, 1),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("init --adopt"), "{ended:?}");
    let adopted = site.punctual(["init", "--adopt", "--database", "sqlite:copy.db"]);
    assert_eq!(adopted.code, 0, "{adopted:?}");
    let run = site
        .punctual(["run", "--json", "--database", "sqlite:copy.db"])
        .ok()
        .json();
    assert_eq!(run["done"], 1);
}

#[test]
fn an_advisory_lock_held_elsewhere_makes_a_tick_step_aside() {
    use mysql::prelude::Queryable as _;
    let site = Site::mariadb();
    site.config(NOTE).init();
    insert(&site, "note", 1);
    let database = site.mariadb_database().expect("a MariaDB site");
    let mut other = database.connect();
    let install = site.rows("SELECT value FROM punctual_meta WHERE name = 'install_id'");
    let name = punctual::lock::advisory_name(&install[0][0], &database.name, "");
    let held: Option<i64> = other
        .exec_first("SELECT GET_LOCK(?, 0)", (name,))
        .expect("a lock");
    assert_eq!(held, Some(1));
    assert_eq!(
        site.punctual(["run", "--json"]).ok().json()["stop"],
        "locked"
    );
    assert_eq!(site.query_i64("SELECT SUM(ticks) FROM event_aside"), 1);
    drop(other);
    crate::support::process::eventually("the lock is free", || {
        site.punctual(["run", "--json"]).json()["done"] == 1
    });
}

#[test]
fn a_run_that_takes_over_is_not_ended_by_another_that_saw_the_same_lease_lapse() {
    use mysql::prelude::Queryable as _;
    let site = Site::mariadb();
    site.config(NOTE).init();
    insert(&site, "note", 1);
    lease_of_another_host(&site, now() - 61, 60);
    // The run that takes over: it has the advisory lock, and in a moment the lease.
    let database = site.mariadb_database().expect("a MariaDB site");
    let mut other = database.connect();
    let install = site.rows("SELECT value FROM punctual_meta WHERE name = 'install_id'");
    let name = punctual::lock::advisory_name(&install[0][0], &database.name, "");
    let held: Option<i64> = other
        .exec_first("SELECT GET_LOCK(?, 0)", (&name,))
        .expect("a lock");
    assert_eq!(held, Some(1));
    let tick = site.spawn(["run", "--json"]);
    let waits = "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User lock'";
    crate::support::process::eventually("the tick waits for the lock", || {
        other.query_first(waits).expect("an answer") == Some(1)
    });
    site.sql("UPDATE event_lease SET epoch = epoch + 1, beat_at = UNIX_TIMESTAMP()");
    let ended = site.finish(tick).ok();
    assert_eq!(ended.json()["stop"], "locked", "{ended:?}");
    let mine: Option<i64> = other
        .exec_first("SELECT IS_USED_LOCK(?) = CONNECTION_ID()", (&name,))
        .expect("a session that nobody has ended");
    assert_eq!(mine, Some(1));
}

#[test]
fn a_server_killed_under_a_run_costs_no_event_and_no_record() {
    let server = crate::support::mariadb::Server::private(&[]);
    let site = Site::on(&server);
    site.config(
        "[type.slow]\nhandler = \"command\"\ncommand = [\"sh\", \"-c\", \"echo \
         $PUNCTUAL_EVENT_ID >> fired; touch up; while [ ! -e go ]; do sleep 0.05; done\"]\n",
    )
    .init();
    insert(&site, "slow", 3);
    let run = site.spawn(["run", "--json", "--max-events", "2"]);
    crate::support::process::eventually("the handler works", || site.path("up").exists());
    server.kill_9();
    server.restart(&[]);
    site.write("go", "");
    let ended = site.finish(run);
    let run = ended.json();
    assert_eq!(
        (ended.code, &run["stop"]),
        (69, &"database_lost".into()),
        "{ended:?}"
    );
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    let done = "SELECT COUNT(*) FROM event_history WHERE outcome = 'done'";
    assert_eq!(run["done"], site.query_i64(done), "{ended:?}");
    assert_eq!(run["fired"], run["done"], "{ended:?}");
    site.punctual(["run"]).ok();
    assert_eq!(site.query_i64(done), 3);
    assert_eq!(crate::runs::fired(&site), [1, 2, 3]);
}

#[test]
fn a_symbolic_link_to_the_database_meets_the_same_lock() {
    let site = Site::sqlite();
    site.config(
        "[type.slow]\nhandler = \"command\"\ncommand = [\"sh\", \"-c\", \"touch up; \
                 while [ ! -e go ]; do sleep 0.05; done\"]\n",
    )
    .init();
    insert(&site, "slow", 1);
    std::os::unix::fs::symlink(site.path("events.db"), site.path("link.db")).expect("a link");
    let run = site.spawn(["run"]);
    crate::support::process::eventually("the handler works", || site.path("up").exists());
    let through = site.punctual(["run", "--json", "--database", "sqlite:link.db"]);
    assert_eq!(through.ok().json()["stop"], "locked");
    site.write("go", "");
    site.finish(run).ok();
}

fn lease_of_another_host(site: &Site, beat_at: i64, ttl: i64) {
    site.sql(&format!(
        "UPDATE event_lease SET epoch = 7000000000, holder = 'somebody', host = 'far away', \
         lock_id = 'another lock', beat_at = {beat_at}, ttl = {ttl}"
    ));
}
