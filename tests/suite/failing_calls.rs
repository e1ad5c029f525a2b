//! The database fails on its n-th call, for n = 1, 2, 3 … until a whole run needs fewer, and once
//! more on the m-th call after that; the run has work of its own and that of a dead run to recover.
//! After each such run and those that follow it the promises hold: nothing lost, nothing twice
//! beyond what the type declares.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use punctual::clock::Clock;
use punctual::config::{Config, Database};
use punctual::db::Access;
use punctual::runner::{self, Options, Report, Stop, World};

use crate::plans::loaded;
use crate::runs::{fired, now};
use crate::support::failing::{Failure, Trigger};
use crate::support::mariadb::Server;
use crate::support::process::eventually;
use crate::support::site::{Site, deletions};
use crate::support::wiki::JOB_TABLE;

const TYPES: &str = r#"
[type.effect]
handler = "sql"
sql = ["INSERT INTO seen (id) VALUES (:id)"]

[type.least]
handler = "command"
command = ["sh", "-c", "echo $PUNCTUAL_EVENT_ID >> fired"]
max_losses = 3

[type.most]
handler = "command"
at_most_once = true
command = ["sh", "-c", "echo $PUNCTUAL_EVENT_ID >> fired"]
"#;

/// On New Year's Days: this test needs none of its hours.
const SCHEDULES: &str = r#"
[type.effect]
handler = "sql"
sql = ["INSERT INTO slots_seen (slot, slots) VALUES (:slot, :slots)"]

[schedule.all]
type = "effect"
cron = "0 0 1 1 *"
missed = "all"
missed_max = 3

[schedule.once]
type = "effect"
cron = "0 0 1 1 *"
"#;

const JOBS: &str = r#"
[type.job]
handler = "mediawiki-job"
"#;

/// More calls than a run over these few events makes.
const ENOUGH: u32 = 400;

/// `name` becomes the tests `name::sqlite` and `name::mariadb`, on databases that need not survive
/// a power cut: thousands of short runs would wait for the disk and for nothing else.
macro_rules! on_both_databases_in_memory {
    ($($(#[$attribute:meta])* fn $name:ident($site:ident: &Site) $body:block)+) => {$(
        $(#[$attribute])*
        fn $name($site: &Site) $body

        mod $name {
            #[test]
            fn sqlite() {
                super::$name(&super::Site::sqlite_in_memory());
            }

            #[test]
            fn mariadb() {
                super::$name(&super::Site::on(super::careless_server()));
            }
        }
    )+};
}

fn careless_server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::private(&["--innodb-flush-log-at-trx-commit=0"]))
}

on_both_databases_in_memory! {
    fn a_busy_database_at_any_call_costs_nothing(site: &Site) {
        fail_each_call(site, Failure::Busy);
    }

    fn a_deadlock_at_any_call_costs_nothing(site: &Site) {
        fail_each_call(site, Failure::Deadlock);
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

    fn a_connection_lost_again_while_the_loss_is_dealt_with_doubles_nothing(site: &Site) {
        fail_twice(site, Failure::LostAfterCommit, Failure::Lost);
    }

    fn a_second_commit_whose_answer_is_lost_doubles_nothing(site: &Site) {
        fail_twice(site, Failure::Lost, Failure::LostAfterCommit);
    }

    fn trouble_at_the_recovery_from_trouble_doubles_nothing(site: &Site) {
        fail_two_runs(site);
    }

    fn a_slot_becomes_one_event_whichever_call_fails(site: &Site) {
        site.config(SCHEDULES).init();
        site.sql("CREATE TABLE slots_seen (slot BIGINT, slots BIGINT)");
        let bed = Bed {
            site,
            config: loaded(site),
        };
        bed.run(&[]); // sees them
        let failures = [
            Failure::Busy,
            Failure::Deadlock,
            Failure::Lost,
            Failure::LostAfterCommit,
            Failure::Full,
        ];
        for failure in failures {
            make_slots_with_each_call_failing(&bed, failure);
        }
    }

    fn a_job_of_a_wiki_is_queued_once_whichever_call_fails(site: &Site) {
        site.config(JOBS).init().sql(JOB_TABLE);
        let bed = Bed {
            site,
            config: loaded(site),
        };
        let failures = [
            Failure::Busy,
            Failure::Lost,
            Failure::LostAfterCommit,
            Failure::Full,
        ];
        for failure in failures {
            queue_jobs_with_each_call_failing(&bed, failure);
        }
    }

    fn a_loss_is_counted_once_whichever_call_of_the_recovery_fails(site: &Site) {
        let bed = Bed::new(site);
        for call in 1..ENOUGH {
            bed.start_with_a_dead_wave();
            let (to_come, _) = bed.run(&[(call, Failure::Lost)]);
            bed.run(&[]);
            let losses = "SELECT losses FROM scheduled_events WHERE type = 'effect'";
            assert_eq!(site.query_i64(losses), 1, "call {call}");
            if to_come == 1 {
                assert!(call > 20, "a run makes more calls than {call}");
                return;
            }
        }
        panic!("a run of one event makes {ENOUGH} calls");
    }
}

/// One failure a run, at each of its calls.
fn fail_each_call(site: &Site, failure: Failure) {
    let bed = Bed::new(site);
    for call in 1..ENOUGH {
        bed.start_anew();
        let about = format!("call {call}, {failure:?}");
        let (to_come, _) = bed.run(&[(call, failure)]);
        bed.check_every_event_is_accounted_for(&about);
        bed.run_to_the_end(&about);
        bed.check_promises(&about);
        if to_come == 1 {
            assert!(call > 50, "a run makes more calls than {call}");
            return;
        }
    }
    panic!("a run of a few events makes {ENOUGH} calls");
}

/// Years of slots have been missed when a run's calls fail, one in each run.
fn make_slots_with_each_call_failing(bed: &Bed<'_>, failure: Failure) {
    let site = bed.site;
    let seen = |query: &str| site.rows(&format!("SELECT {query} FROM slots_seen"));
    for call in 1..ENOUGH {
        for statement in deletions().iter().filter(|one| !one.ends_with("seen")) {
            site.sql(statement);
        }
        site.sql("DELETE FROM slots_seen")
            .sql("DELETE FROM event_slots");
        site.sql("UPDATE event_schedules SET last_slot = 1654041600");
        site.sql("UPDATE event_next SET slot = 1672531200");
        let about = format!("call {call}, {failure:?}");
        let (to_come, _) = bed.run(&[(call, failure)]);
        for _ in 0..2 {
            site.sql("UPDATE scheduled_events SET due_at = 5 WHERE status = 'ready'");
            let (_, report) = bed.run(&[]);
            assert!(report.is_some(), "{about}: a run without trouble");
        }
        let each = seen("COUNT(*), COUNT(DISTINCT slot), COUNT(DISTINCT slots)");
        assert_eq!(
            each,
            [["4", "3", "2"]],
            "{about}: {:?}",
            seen("slot, slots")
        );
        let stands_for = seen("MAX(slots) >= 4, MIN(slots)");
        assert_eq!(stands_for, [["1", "1"]], "{about}");
        assert_eq!(
            site.query_i64("SELECT COUNT(*) FROM event_slots"),
            4,
            "{about}"
        );
        assert_eq!(
            site.query_i64("SELECT COUNT(*) FROM scheduled_events"),
            0,
            "{about}"
        );
        if to_come == 1 {
            assert!(call > 25, "a run makes more calls than {call}");
            return;
        }
    }
    panic!("a run of two schedules makes {ENOUGH} calls");
}

/// Two jobs, one of them twice, and what is none; one of a run's calls fails.
fn queue_jobs_with_each_call_failing(bed: &Bed<'_>, failure: Failure) {
    let site = bed.site;
    for call in 1..ENOUGH {
        for statement in deletions().iter().filter(|one| !one.ends_with("seen")) {
            site.sql(statement);
        }
        site.sql("DELETE FROM job");
        site.sql(
            "INSERT INTO scheduled_events (type, due_at, payload) VALUES \
             ('job', 1, '{\"type\":\"null\",\"title\":\"A\"}'), \
             ('job', 2, '{\"type\":\"null\",\"title\":\"B\",\"deduplicate\":true}'), \
             ('job', 3, '{\"type\":\"null\",\"title\":\"B\",\"deduplicate\":true}'), \
             ('job', 4, 'no job')",
        );
        let about = format!("call {call}, {failure:?}");
        let (to_come, report) = bed.run(&[(call, failure)]);
        if let Some(report) = report {
            assert!(report.misconfigured.is_empty(), "{about}: {report:?}");
        }
        for _ in 0..2 {
            bed.make_due();
            let (_, report) = bed.run(&[]);
            assert!(report.is_some(), "{about}: a run without trouble");
        }
        let jobs = site.rows("SELECT job_title FROM job ORDER BY job_title");
        assert_eq!(jobs, [["A"], ["B"]], "{about}");
        let ended = "SELECT outcome, COUNT(*) FROM event_history GROUP BY outcome ORDER BY outcome";
        assert_eq!(site.rows(ended), [["dead", "1"], ["done", "3"]], "{about}");
        if to_come == 1 {
            assert!(call > 25, "a run makes more calls than {call}");
            return;
        }
    }
    panic!("a run of four jobs makes {ENOUGH} calls");
}

/// Each of a run's calls fails, and with it one of those that follow: where the connection was lost,
/// the calls over the new one. Not each with each, which takes minutes: every fifth, and another
/// fifth for the next call.
fn fail_twice(site: &Site, first: Failure, then: Failure) {
    let bed = Bed::new(site);
    let mut pairs = 0;
    for call in 1..ENOUGH {
        for second in (1 + call % 5..).step_by(5) {
            bed.start_anew();
            let about = format!("call {call}, {first:?}, then call {second}, {then:?}");
            let (to_come, _) = bed.run(&[(call, first), (second, then)]);
            bed.check_every_event_is_accounted_for(&about);
            bed.run_to_the_end(&about);
            bed.check_promises(&about);
            match to_come {
                0 => pairs += 1,
                1 => break, // the run ended before its second failure
                _ => {
                    assert!(pairs > 20, "only {pairs} runs failed twice");
                    return;
                }
            }
        }
    }
    panic!("a run of a few events makes {ENOUGH} calls");
}

/// A run is cut off at each of its calls and records nothing over a new connection; the run that
/// recovers from it is cut off, too.
fn fail_two_runs(site: &Site) {
    let bed = Bed::new(site);
    for call in 1..ENOUGH {
        bed.start_anew();
        let (to_come, _) = bed.run(&[(call, Failure::LostAfterCommit), (1, Failure::Lost)]);
        // Not each with each, but each of the calls of a recovery some time.
        let other = 10 + call * 7 % 40;
        bed.make_due();
        bed.run(&[(other, Failure::LostAfterCommit)]);
        let about = format!("call {call}, then another run's {other}");
        bed.check_every_event_is_accounted_for(&about);
        bed.run_to_the_end(&about);
        bed.check_promises(&about);
        if to_come == 2 {
            return;
        }
    }
    panic!("a run of a few events makes {ENOUGH} calls");
}

/// What a dead run left, ready events of each type, and a site that counts what happens to them.
struct Bed<'s> {
    site: &'s Site,
    config: Config,
}

/// The events of one round, and what a dead run has in hand of them: the two of `effect` as an
/// unfinished wave, one of `least` and one of `most` as claims that have run out, and one of
/// `least` that runs have died of before.
const EVENTS: &str = "INSERT INTO scheduled_events \
    (type, due_at, unique_key, held_key, status, claim_epoch, claim_until, losses, payload) VALUES \
    ('effect', 1, 'a', NULL, 'ready', NULL, NULL, 0, NULL), \
    ('effect', 2, NULL, NULL, 'ready', NULL, NULL, 0, NULL), \
    ('least', 1, 'b', NULL, 'ready', NULL, NULL, 0, NULL), \
    ('least', 3, NULL, 'c', 'running', 77, 9, 0, NULL), \
    ('least', 4, NULL, NULL, 'running', 77, 9, 3, 'poison'), \
    ('most', 1, 'b', NULL, 'ready', NULL, NULL, 0, NULL), \
    ('most', 3, NULL, 'c', 'running', 77, 9, 0, 'started')";
const EVENTS_IN_ALL: i64 = 7;

impl<'s> Bed<'s> {
    fn new(site: &'s Site) -> Self {
        site.config(TYPES).init();
        site.sql("CREATE TABLE seen (id INTEGER)");
        Self {
            site,
            config: loaded(site),
        }
    }

    fn start_anew(&self) {
        let mut statements = Vec::from(deletions());
        statements.push(EVENTS.to_owned());
        statements.push(
            "INSERT INTO event_runs (epoch, host, pid, lock_id, started_at, cutoff, wave_type, \
             wave_first_id, wave_last_id, wave_events) \
             SELECT 77, 'far away', 1, 'another lock', 1, 1, 'effect', MIN(id), MIN(id) + 1, 2 \
             FROM scheduled_events"
                .to_owned(),
        );
        statements.push("UPDATE event_lease SET holder = 'dead', beat_at = 1, ttl = 60".to_owned());
        self.site.sql_all(&statements);
        let _ = std::fs::remove_file(self.site.path("fired"));
    }

    /// What a run leaves that died with one event of a `sql` type in hand. It is put off, so that no
    /// run has it in hand again.
    fn start_with_a_dead_wave(&self) {
        self.start_anew();
        let later = now() + 86_400;
        for statement in [
            "DELETE FROM scheduled_events",
            "DELETE FROM event_runs",
            "INSERT INTO scheduled_events (type, due_at) VALUES ('least', 1)",
            &format!(
                "INSERT INTO scheduled_events (id, type, due_at) \
                 VALUES (1000000, 'effect', {later})"
            ),
            "INSERT INTO event_runs (epoch, host, pid, lock_id, started_at, cutoff, wave_type, \
             wave_first_id, wave_last_id) VALUES (77, 'here', 1, 'lock', 1, 1, 'effect', 1000000, \
             1000000)",
        ] {
            self.site.sql(statement);
        }
    }

    /// A run with these failures, each counted from the one before; returns how many of them did
    /// not come, because it made fewer calls. It may refuse to start, or end in trouble; it must
    /// not panic, hang, or break a promise.
    fn run(&self, failures: &[(u32, Failure)]) -> (usize, Option<Report>) {
        let mut ended = (0, None);
        // A server takes a moment to find out that a connection is gone, and its lock with it; a
        // file lock is held as long as a process that another test just forks.
        eventually("the locks are free", || {
            let trigger = Trigger::each(failures);
            let report = self.run_with(&trigger);
            ended = (trigger.to_come(), report);
            ended
                .1
                .as_ref()
                .is_none_or(|report| report.stop != Stop::Locked)
        });
        ended
    }

    fn run_with(&self, trigger: &Trigger) -> Option<Report> {
        let connect = |database: &Database, access: Access, clock: Clock| {
            Ok(trigger.on(punctual::db::connect(database, access, clock)?))
        };
        let world = World {
            clock: Clock::system(),
            connect: &connect,
            watchdog: Path::new(env!("CARGO_BIN_EXE_punctual")),
        };
        let options = Options::of(&self.config);
        runner::run(&self.config, &options, world, &mut |_| {}).ok()
    }

    /// The next tick, and the one after it: what the first recovers may be due only then.
    fn run_to_the_end(&self, about: &str) {
        for _ in 0..2 {
            self.make_due();
            let (_, report) = self.run(&[]);
            let report = report.unwrap_or_else(|| panic!("{about}: a run without trouble"));
            let well = matches!(report.stop, Stop::Drained | Stop::Idle);
            assert!(well, "{about}: {report:?}");
        }
    }

    /// What failed is due again in an instant, not in a minute.
    fn make_due(&self) {
        self.site
            .sql("UPDATE scheduled_events SET due_at = 5 WHERE status = 'ready' AND due_at > 5");
    }

    /// Promise 3, at once after the trouble: ready, running, or in history.
    fn check_every_event_is_accounted_for(&self, about: &str) {
        let known = "SELECT (SELECT COUNT(*) FROM scheduled_events) + \
                     (SELECT COUNT(*) FROM event_history)";
        assert_eq!(self.site.query_i64(known), EVENTS_IN_ALL, "{about}");
    }

    fn check_promises(&self, about: &str) {
        let site = self.site;
        let left = site.rows("SELECT id, type, status, due_at FROM scheduled_events");
        assert!(left.is_empty(), "{about}: {left:?}");
        let effects = site.rows("SELECT COUNT(*), COUNT(DISTINCT id) FROM seen");
        assert_eq!(effects, [["2", "2"]], "{about}: exactly once");
        let mut starts: BTreeMap<i64, i64> = BTreeMap::new();
        for id in fired(site) {
            *starts.entry(id).or_default() += 1;
        }
        let history = "SELECT event_id, type, outcome, attempts + losses, payload \
                       FROM event_history ORDER BY event_id";
        let mut before = 0;
        for row in site.rows(history) {
            let number = |index: usize| row[index].parse::<i64>().expect("a number");
            assert!(number(0) > before, "{about}: {row:?} twice in history");
            before = number(0);
            let started = starts.get(&number(0)).copied().unwrap_or(0);
            // Those that the dead run had started left no trace in the file.
            let (least, most) = match (row[1].as_str(), row[2].as_str(), row[4].as_str()) {
                ("least", "done", "NULL") => (1, 1 + number(3)),
                ("effect", "done", _)
                | ("least", "dead", "poison")
                | ("most", "unknown", "started") => (0, 0),
                ("most", "done", "NULL") => (1, 1),
                ("most", "unknown", "NULL") => (0, 1),
                _ => panic!("{about}: {row:?}"),
            };
            assert!(
                (least..=most).contains(&started),
                "{about}: {row:?} started {started} times"
            );
        }
    }
}
