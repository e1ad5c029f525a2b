//! `run --linger`: one run over many rounds, from the instant one thing is due to the next, and the
//! lock handed over from tick to tick.

use std::cell::Cell as Count;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use punctual::clock::Clock;
use punctual::config;
use punctual::db::double::{Call, Hooks, hooked};
use punctual::db::{Access, Db, DbError, DbErrorKind, DbResult};
use punctual::runner::{self, Connect, Options, Report, World};
use rustix::process::Signal;

use crate::plans::loaded;
use crate::runs::{fired, insert, now};
use crate::support::process::{Running, eventually};
use crate::support::recorder::Recording;
use crate::support::site::Site;
use crate::volume::high_water_kib;

const NOTE: &str = "[run]\npoll = \"100ms\"\nlease_ttl = \"6s\"\n\
    [type.note]\nhandler = \"command\"\n\
    command = [\"sh\", \"-c\", \"echo $PUNCTUAL_EVENT_ID >> fired\"]\n";

/// A tick of which nothing but a signal makes an end in this test; the file `clock` moves its clock.
fn linger(site: &Site) -> Running {
    linger_for(site, "1h")
}

fn linger_for(site: &Site, time: &str) -> Running {
    let mut command: Command = site.command(env!("CARGO_BIN_EXE_punctual"));
    command
        .args(["run", "--linger", "--json", "--max-time", time])
        .env("PUNCTUAL_FAULT_CLOCK", site.path("clock"));
    Running::start(command, b"")
}

fn end(site: &Site, run: Running) -> serde_json::Value {
    run.signal(Signal::TERM);
    let ended = site.finish(run);
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (128 + 15, ""),
        "{ended:?}"
    );
    let report = ended.json();
    assert_eq!(report["stop"], "signal");
    report
}

fn holder_is(site: &Site, run: &Running) -> bool {
    let pid = format!("\npid={}\n", run.pid());
    let mut locks = vec![site.path("events.db.runlock")];
    let state = std::fs::read_dir(site.path("state/punctual"));
    let state = state.into_iter().flatten().flatten();
    locks.extend(state.map(|entry| entry.path().join("run.lock")));
    let mut held = locks
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok());
    held.any(|text| text.contains(&pid))
}

fn due_at(site: &Site, due_at: i64) {
    site.sql(&format!(
        "INSERT INTO scheduled_events (type, due_at) VALUES ('note', {due_at})"
    ));
}

on_both_databases! {
    fn what_becomes_due_and_what_arrives_while_a_run_lingers_is_fired_by_it(site: &Site) {
        site.config(NOTE).init();
        insert(site, "note", 1);
        let due = now() + 5_000;
        due_at(site, due);
        let run = linger(site);
        eventually("the first round is over", || fired(site) == [1]);
        // A row that was not there when it began to wait.
        insert(site, "note", 1);
        eventually("it saw what arrived", || fired(site) == [1, 3]);
        site.write("clock", "5000");
        eventually("it woke for what became due", || fired(site) == [1, 3, 2]);
        let done = "SELECT COUNT(*) FROM event_history WHERE outcome = 'done'";
        eventually("that is recorded", || site.query_i64(done) == 3);
        let report = end(site, run);
        assert_eq!((&report["done"], &report["waves"]), (&3.into(), &3.into()), "{report}");
        assert!(report["cutoff"].as_i64() >= Some(due), "{report}");
        let runs = "SELECT done, stop, cutoff >= 1000 FROM event_runs";
        assert_eq!(site.rows(runs), [["3", "signal", "1"]]);
        let cutoff = site.query_i64("SELECT cutoff FROM event_runs");
        assert_eq!(report["cutoff"], cutoff);
        assert_eq!(site.rows("SELECT holder FROM event_lease"), [[""]]);
    }

    fn a_retry_within_the_budget_is_made_by_the_same_run(site: &Site) {
        site.config(
            "[type.note]\nhandler = \"command\"\nbackoff = \"1s\"\n\
             command = [\"sh\", \"-c\", \"[ -e tried ] || { touch tried; exit 1; }\"]\n",
        )
        .init();
        insert(site, "note", 1);
        let run = linger(site);
        let done = "SELECT COUNT(*) FROM event_history WHERE outcome = 'done'";
        eventually("it was tried again", || site.query_i64(done) == 1);
        let report = end(site, run);
        assert_eq!((&report["retried"], &report["done"]), (&1.into(), &1.into()), "{report}");
    }

    fn a_run_that_waits_ends_at_once_when_it_is_told_to(site: &Site) {
        site.config(NOTE).init();
        let run = linger(site);
        eventually("it has the lock", || holder_is(site, &run));
        let report = end(site, run);
        assert!(report["run_id"].is_null(), "{report}");
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_runs"), 0);
    }

    fn a_run_that_waits_ends_with_its_time_and_says_what_it_came_to(site: &Site) {
        site.config(NOTE).init();
        let idle = site.finish(linger_for(site, "1s")).ok().json();
        assert_eq!((&idle["stop"], &idle["remaining_due"]), (&"idle".into(), &0.into()));
        assert!(site.query_i64("SELECT last_tick_at FROM event_lease") > 0);
        insert(site, "note", 1);
        let drained = site.finish(linger_for(site, "1s")).ok().json();
        assert_eq!((&drained["stop"], &drained["done"]), (&"drained".into(), &1.into()));
    }

    fn killed_while_it_waits_it_leaves_nothing_to_repair(site: &Site) {
        site.config(NOTE).init();
        insert(site, "note", 1);
        let run = linger(site);
        let done = "SELECT COUNT(*) FROM event_history WHERE outcome = 'done'";
        eventually("the first round is over", || site.query_i64(done) == 1);
        assert_eq!(run.kill_9().code, 128 + 9);
        insert(site, "note", 1);
        // It waits a little where the server has not noticed yet that the other is gone.
        let next = site.finish(linger_for(site, "3s")).ok().json();
        assert_eq!((&next["done"], &next["recovered"]), (&1.into(), &0.into()), "{next}");
        assert_eq!(fired(site), [1, 2]);
        let open = "SELECT COUNT(*) FROM event_runs WHERE finished_at IS NULL";
        assert_eq!(site.query_i64(open), 0);
    }

    fn the_next_tick_waits_for_the_lock_and_takes_over(site: &Site) {
        site.config(NOTE).init();
        let first = linger(site);
        eventually("the first has the lock", || holder_is(site, &first));
        // One that does not linger steps aside, and is counted.
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["stop"], "locked");
        let second = linger(site);
        insert(site, "note", 1);
        eventually("the first fires", || fired(site) == [1]);
        let done = "SELECT COUNT(*) FROM event_history WHERE outcome = 'done'";
        eventually("and records it", || site.query_i64(done) == 1);
        end(site, first);
        eventually("the second has the lock", || holder_is(site, &second));
        insert(site, "note", 1);
        eventually("the second fires", || fired(site) == [1, 2]);
        eventually("and records it", || site.query_i64(done) == 2);
        assert_eq!(end(site, second)["done"], 1);
        let status = site.punctual(["status", "--json"]).ok().json();
        assert_eq!(status["steps_aside"], 1, "waiting is no stepping aside");
    }

    fn a_tick_that_waits_in_vain_is_counted_and_one_that_is_told_to_end_is_not(site: &Site) {
        site.config(NOTE).init();
        let first = linger(site);
        eventually("the first has the lock", || holder_is(site, &first));
        let waiting = linger(site);
        let in_vain = site.finish(linger_for(site, "1s")).ok().json();
        assert_eq!(in_vain["stop"], "locked");
        let ended = site.punctual(["run", "--linger", "--max-time", "1s", "--fail-if-locked"]);
        assert_eq!(ended.code, 75, "{ended:?}");
        end(site, waiting);
        end(site, first);
        insert(site, "note", 1);
        site.punctual(["run"]).ok();
        let status = site.punctual(["status", "--json"]).ok().json();
        assert_eq!(status["steps_aside"], 2);
    }

    fn the_lease_is_renewed_while_a_run_waits_and_its_loss_ends_it(site: &Site) {
        site.config(NOTE).init();
        insert(site, "note", 1);
        let run = linger(site);
        let beat = "SELECT beat_at FROM event_lease WHERE holder <> ''";
        let done = "SELECT COUNT(*) FROM event_history WHERE outcome = 'done'";
        eventually("the first round is over", || site.query_i64(done) == 1);
        let first = site.query_i64(beat);
        eventually("the lease is renewed", || site.query_i64(beat) >= first + 2);
        site.sql("UPDATE event_lease SET epoch = epoch + 1, holder = 'somebody'");
        let ended = site.finish(run);
        assert_eq!((ended.code, &ended.json()["stop"]), (75, &"fenced".into()), "{ended:?}");
    }

    fn a_type_that_is_held_wakes_a_waiting_run_once_it_no_longer_is(site: &Site) {
        let held = "rate = 1\n[type.paused]\nhandler = \"command\"\n\
                    command = [\"sh\", \"-c\", \"echo $PUNCTUAL_EVENT_ID >> fired\"]\n";
        site.config(&format!("{NOTE}{held}")).init();
        site.punctual(["pause", "paused"]).ok();
        insert(site, "paused", 1);
        insert(site, "note", 2);
        let run = linger(site);
        eventually("one attempt a minute", || fired(site) == [2]);
        site.write("clock", "60");
        eventually("a minute later the next", || fired(site) == [2, 3]);
        site.punctual(["resume", "paused"]).ok();
        eventually("what is no longer paused", || fired(site) == [2, 3, 1]);
        let done = "SELECT COUNT(*) FROM event_history WHERE outcome = 'done'";
        eventually("that is recorded", || site.query_i64(done) == 3);
        end(site, run);
    }

    fn a_waiting_run_asks_no_more_than_one_question_a_poll(site: &Site) {
        let poll = Duration::from_millis(500);
        let text = "[run]\npoll = \"500ms\"\n[type.note]\nhandler = \"command\"\n\
                    command = [\"true\"]\n";
        site.config(text)
            .init();
        // Neither what lies beyond the budget nor a type that nobody handles is a reason to ask more.
        site.sql(&format!(
            "INSERT INTO scheduled_events (type, due_at) VALUES ('note', {})",
            now() + 90_000
        ));
        let budget = Duration::from_secs(3);
        let recording = Recording::default();
        let report = run_recorded(site, &recording, budget);
        assert_eq!(report.stop.as_str(), "idle");
        let statements = recording.statements();
        let looks = statements.iter().filter(|noted| noted.sql.contains("scheduled_events")).count();
        let polls = usize::try_from(budget.as_millis() / poll.as_millis()).expect("a few") + 1;
        if site.mariadb_database().is_some() {
            assert!((2..=polls + 1).contains(&looks), "{looks} of {polls}");
        } else {
            // One to begin with, and one to end with.
            assert_eq!(looks, 2);
            let versions = recording.versions();
            assert!((2..=polls).contains(&versions), "{versions} of {polls}");
        }
        assert!(statements.len() - looks <= 5, "{statements:#?}");
    }

    fn a_type_that_cannot_fire_neither_keeps_a_run_busy_nor_repeats_itself(site: &Site) {
        site.config(
            "[run]\npoll = \"100ms\"\n[type.note]\nhandler = \"command\"\ncommand = [\"true\"]\n\
             [type.hook]\nhandler = \"http\"\nurl = \"https://example.org/\"\nca_file = \"nowhere.pem\"\n",
        )
        .init();
        insert(site, "hook", 1);
        insert(site, "note", 1);
        // A round of its own, of which the type that cannot fire takes no part either.
        due_at(site, now() + 1);
        let recording = Recording::default();
        let connect = |database: &config::Database, access: Access, clock: Clock| {
            Ok(recording.of(punctual::db::connect(database, access, clock)?))
        };
        let began = Instant::now();
        let report = run_with(&loaded(site), &connect, Some(2), Duration::from_mins(10));
        let polls = began.elapsed().as_millis() / 100 + 1;
        assert_eq!((report.counts.done, report.misconfigured.len()), (2, 1), "{report:?}");
        let logged = "SELECT COUNT(*) FROM event_log WHERE decision = 'type failed'";
        assert_eq!(site.query_i64(logged), 1);
        assert_eq!(report.stop.as_str(), "drained");
        // At each poll the lease, the states and a type; and what the two rounds take.
        let statements = u128::try_from(recording.statements().len()).expect("not so many");
        assert!(statements <= 100 + 4 * polls, "{statements} in {polls} polls");
    }

    fn a_run_that_lingers_ends_with_the_number_of_events(site: &Site) {
        site.config(NOTE).init();
        insert(site, "note", 2);
        let words = ["run", "--linger", "--max-time", "1h", "--max-events", "2", "--json"];
        let run = site.punctual(words).ok().json();
        assert_eq!((&run["done"], &run["stop"]), (&2.into(), &"drained".into()), "{run}");
        insert(site, "note", 2);
        let words = ["run", "--linger", "--max-time", "1h", "--max-events", "1", "--json"];
        let run = site.punctual(words).ok().json();
        assert_eq!((&run["done"], &run["stop"]), (&1.into(), &"max_events".into()), "{run}");
    }

    fn a_database_that_is_busy_at_a_poll_does_not_end_a_run_that_waits(site: &Site) {
        site.config(NOTE).init();
        due_at(site, now() + 2);
        let refused = Rc::new(Count::new(0));
        let (config, counted) = (loaded(site), Rc::clone(&refused));
        let connect = move |database: &config::Database, access: Access, clock: Clock| {
            let inner = punctual::db::connect(database, access, clock)?;
            let polls = 0;
            let refused = Rc::clone(&counted);
            Ok(hooked(inner, BusyAtPolls { polls, refused }))
        };
        let report = run_with(&config, &connect, Some(1), Duration::from_mins(10));
        assert_eq!(report.counts.done, 1, "{report:?}");
        assert!(refused.get() >= 1, "none was refused");
    }

    fn what_makes_no_sense_beside_it_is_refused(site: &Site) {
        site.config(NOTE).init();
        for words in [
            ["run", "--linger", "--dry-run", "--json"],
            ["run", "--linger", "--due-before", "now"],
            ["run", "--linger", "--max-time", "0s"],
        ] {
            let ended = site.punctual(words);
            assert_eq!((ended.code, ended.stderr.lines().count()), (2, 1), "{ended:?}");
        }
    }
}

#[test]
fn a_run_of_many_rounds_needs_no_more_memory_than_one_of_a_few() {
    let site = Site::sqlite();
    site.config(
        "[run]\npoll = \"100ms\"\n[type.note]\nhandler = \"sql\"\n\
         sql = \"INSERT INTO effects (id) VALUES (:id)\"\n",
    )
    .init()
    .sql("CREATE TABLE effects (id INTEGER)");
    let run = linger(&site);
    let mut peaks = Vec::new();
    for round in 1..=60 {
        insert(&site, "note", 1);
        let effects = "SELECT COUNT(*) FROM effects";
        eventually("another round", || site.query_i64(effects) == round);
        peaks.push(high_water_kib(run.pid()).expect("it lives"));
    }
    assert_eq!(end(&site, run)["waves"], 60);
    assert!(peaks[59] <= peaks[19] + 512, "{peaks:?}");
}

/// Of the first looks and questions for the version every other one meets a lock.
struct BusyAtPolls {
    polls: usize,
    refused: Rc<Count<usize>>,
}

impl Hooks for BusyAtPolls {
    fn before(&mut self, _db: &mut dyn Db, call: Call<'_>) -> DbResult<()> {
        let is_poll = match call {
            Call::Version => true,
            Call::Statement(sql, _) => sql.contains("event_next") && sql.contains("event_lease"),
            _ => false,
        };
        self.polls += usize::from(is_poll);
        if is_poll && self.polls <= 9 && self.polls.is_multiple_of(2) {
            self.refused.set(self.refused.get() + 1);
            return Err(DbError::new(DbErrorKind::Busy, "locked"));
        }
        Ok(())
    }
}

/// A run that lingers for so long, in this process.
fn run_recorded(site: &Site, recording: &Recording, time: Duration) -> Report {
    let connect = |database: &config::Database, access: Access, clock: Clock| {
        Ok(recording.of(punctual::db::connect(database, access, clock)?))
    };
    run_with(&loaded(site), &connect, None, time)
}

fn run_with(
    config: &config::Config,
    connect: &Connect<'_>,
    max_events: Option<u64>,
    time: Duration,
) -> Report {
    let world = World {
        clock: Clock::system(),
        connect,
        watchdog: Path::new(env!("CARGO_BIN_EXE_punctual")),
    };
    let options = Options {
        max_time: Some(time),
        linger: true,
        max_events,
        ..Options::of(config)
    };
    runner::run(config, &options, world, &mut |_| {}).expect("a run")
}
