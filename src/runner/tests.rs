//! Whole runs on a SQLite database of their own, each against a mistake that a review found.

use std::cell::{Cell as Shared, RefCell};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;

use tempfile::TempDir;

use super::*;
use crate::config::{Env, Sources, load};
use crate::db::double::{Call, Hooks, hooked};
use crate::db::{Cell, Row, migrate};

/// A database with punctual's tables and one of the site's own, `log (id, word)`.
struct Bed {
    config: Config,
    _root: TempDir,
}

impl Bed {
    /// With `types` as the part of the configuration behind `[run]`.
    fn new(types: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("punctual.toml");
        fs::write(&file, format!("database = \"sqlite:events.db\"\n{types}")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let home = root.path().as_os_str().to_owned();
        let sources = Sources {
            config_flag: Some(file),
            database_flag: None,
            env: [("HOME", home)].into_iter().collect::<Env>(),
            cwd: root.path().to_owned(),
            allow_unsafe: true,
        };
        let config = load(&sources).unwrap();
        let bed = Self {
            config,
            _root: root,
        };
        let database = bed.config.database.as_ref().unwrap();
        let mut db = crate::db::connect(database, Access::Create, Clock::system()).unwrap();
        migrate::upgrade(&mut *db, "").unwrap();
        let name = db.database_name().unwrap();
        for (key, value) in [
            ("install_id", "1234"),
            ("database_name", name.as_str()),
            ("table_prefix", ""),
        ] {
            migrate::write_meta(&mut *db, "", key, value).unwrap();
        }
        bed.sql("CREATE TABLE log (id INTEGER, word TEXT)");
        bed
    }

    fn db(&self) -> Box<dyn Db> {
        let database = self.config.database.as_ref().unwrap();
        crate::db::connect(database, Access::Write, Clock::system()).unwrap()
    }

    fn sql(&self, statement: &str) {
        self.db().execute_script(statement).unwrap();
    }

    /// The first row of `query`, its columns joined by `|`.
    fn one(&self, query: &str) -> String {
        one(self.config.database.as_ref().unwrap(), query)
    }

    /// `count` events of `type_name`, due since long.
    fn add(&self, type_name: &str, count: usize) {
        let mut db = self.db();
        db.begin().unwrap();
        for _ in 0..count {
            let sql = "INSERT INTO scheduled_events (type, due_at, payload) VALUES (?, 1000, '{}')";
            db.execute(sql, &[type_name.into()]).unwrap();
        }
        db.commit().unwrap();
    }

    fn run(&self) -> Report {
        self.run_in(World::real(), &Options::of(&self.config))
    }

    fn run_in(&self, world: World<'_>, options: &Options) -> Report {
        run(&self.config, options, world, &mut |_| {}).unwrap()
    }
}

/// As [`Bed::one`].
fn one(database: &Database, query: &str) -> String {
    let mut db = crate::db::connect(database, Access::Write, Clock::system()).unwrap();
    let text = |row: &dyn Row| {
        let columns = (0..).map_while(|i| match row.cell(i) {
            Cell::Null => None,
            _ => row.opt_text(i),
        });
        columns.collect::<Vec<_>>().join("|")
    };
    let found = crate::db::query_one(&mut *db, query, &[], text).unwrap();
    found.unwrap_or_default()
}

/// A connection that asks `fails` before each statement and breaks once it says so; around a
/// COMMIT it asks with `COMMIT` and `COMMITTED`.
struct Faulty<F>(F);

impl<F: FnMut(&str) -> Option<DbError>> Hooks for Faulty<F> {
    fn before(&mut self, _db: &mut dyn Db, call: Call<'_>) -> DbResult<()> {
        let about = match call {
            Call::Statement(sql, _) => sql,
            Call::Begin => "BEGIN",
            Call::Commit => "COMMIT",
            Call::Now | Call::Ping | Call::AdvisoryLock => return Ok(()),
        };
        (self.0)(about).map_or(Ok(()), Err)
    }

    fn after_commit(&mut self) -> DbResult<()> {
        (self.0)("COMMITTED").map_or(Ok(()), Err)
    }
}

/// A server on the loopback that answers every request with 200 after `patience`; its URL.
fn web_site(patience: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap_or(0);
                    }
                }
                let mut body = vec![0; length];
                let _ = std::io::Read::read_exact(&mut reader, &mut body);
                std::thread::park_timeout(patience);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = (&stream).write_all(answer);
            });
        }
    });
    url
}

#[test]
fn the_trace_of_a_wave_goes_with_its_commit() {
    let bed =
        Bed::new("[type.bad]\nhandler = \"sql\"\nsql = [\"INSERT INTO nowhere VALUES (1)\"]\n");
    bed.add("bad", 1);
    // Seen between the wave and the end of the run, where a kill would leave it for a loss.
    let seen = Rc::new(RefCell::new(String::new()));
    let connect = |database: &Database, access: Access, clock: Clock| {
        let inner = crate::db::connect(database, access, clock)?;
        let (database, seen) = (database.clone(), Rc::clone(&seen));
        let fails = move |sql: &str| {
            if sql.starts_with("SELECT COUNT(*) FROM /*_*/scheduled_events") {
                *seen.borrow_mut() =
                    one(&database, "SELECT waves, COUNT(wave_type) FROM event_runs");
            }
            None
        };
        Ok(hooked(inner, Faulty(fails)))
    };
    let world = World {
        connect: &connect,
        ..World::real()
    };
    let report = bed.run_in(world, &Options::of(&bed.config));
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
    let connect = |database: &Database, access: Access, clock: Clock| {
        let inner = crate::db::connect(database, access, clock)?;
        let statements = Rc::clone(&statements);
        let fails = move |sql: &str| {
            let mut statements = statements.borrow_mut();
            // As if the run were stopped between reading the clock and claiming: for half its lease.
            let looks = |sql: &str| sql.contains("octet_length");
            if looks(sql) && !statements.iter().any(|sql: &String| looks(sql)) {
                std::thread::park_timeout(Duration::from_millis(3_100));
            }
            statements.push(sql.to_owned());
            None
        };
        Ok(hooked(inner, Faulty(fails)))
    };
    let world = World {
        connect: &connect,
        ..World::real()
    };
    let report = bed.run_in(world, &Options::of(&bed.config));
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
    let connect = |database: &Database, access: Access, clock: Clock| {
        let inner = crate::db::connect(database, access, clock)?;
        let mut lost = false;
        let fails = move |sql: &str| {
            lost |= sql.starts_with("INSERT INTO log");
            lost.then(|| DbError::new(crate::db::DbErrorKind::Lost, "gone"))
        };
        Ok(hooked(inner, Faulty(fails)))
    };
    let world = World {
        connect: &connect,
        ..World::real()
    };
    let options = Options::of(&bed.config);
    let report = bed.run_in(world, &options);
    assert_eq!(report.stop, Stop::DatabaseLost);
    assert_eq!(
        bed.one("SELECT wave_first_id, wave_last_id FROM event_runs"),
        "1|2"
    );
    // Replayed one by one, the first event is found out, and then given up.
    for (losses, left) in [("0", "2"), ("1", "2"), ("0", "1")] {
        let _ = bed.run_in(world, &options);
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
    let connect = |database: &Database, access: Access, clock: Clock| {
        let inner = crate::db::connect(database, access, clock)?;
        let fails = |sql: &str| {
            let busy = || DbError::new(crate::db::DbErrorKind::Busy, "Lock wait timeout exceeded");
            sql.contains("'locked'").then(busy)
        };
        Ok(hooked(inner, Faulty(fails)))
    };
    let world = World {
        connect: &connect,
        ..World::real()
    };
    let report = bed.run_in(world, &Options::of(&bed.config));
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
        "[type.hook]\nhandler = \"http\"\nurl = \"{url}\"\n"
    ));
    bed.add("hook", 1);
    let connections = Shared::new(0);
    let connect = |database: &Database, access: Access, clock: Clock| {
        let inner = crate::db::connect(database, access, clock)?;
        connections.set(connections.get() + 1);
        let first = connections.get() == 1;
        let mut lost = false;
        let fails = move |sql: &str| {
            lost |= first && sql.starts_with("INSERT INTO /*_*/event_history");
            lost.then(|| DbError::new(crate::db::DbErrorKind::Lost, "gone"))
        };
        Ok(hooked(inner, Faulty(fails)))
    };
    let world = World {
        connect: &connect,
        ..World::real()
    };
    let mut options = Options::of(&bed.config);
    options.max_events = Some(1);
    let report = bed.run_in(world, &options);
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
    let connections = Shared::new(0);
    let connect = |database: &Database, access: Access, clock: Clock| {
        let inner = crate::db::connect(database, access, clock)?;
        connections.set(connections.get() + 1);
        let first = connections.get() == 1;
        let (mut recorded, mut lost) = (false, false);
        let fails = move |sql: &str| {
            recorded |= sql.starts_with("INSERT INTO /*_*/event_history");
            lost |= first && recorded && sql == "COMMITTED";
            let kind = crate::db::DbErrorKind::CommitUnknown;
            lost.then(|| DbError::new(kind, "gone"))
        };
        Ok(hooked(inner, Faulty(fails)))
    };
    let world = World {
        connect: &connect,
        ..World::real()
    };
    let report = bed.run_in(world, &Options::of(&bed.config));
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
        let connections = Shared::new(0);
        let connect = |database: &Database, access: Access, clock: Clock| {
            let inner = crate::db::connect(database, access, clock)?;
            connections.set(connections.get() + 1);
            let first = connections.get() == 1;
            let (mut recorded, mut lost) = (false, false);
            let fails = move |sql: &str| {
                recorded |= sql.starts_with("INSERT INTO /*_*/event_history");
                lost |= first && recorded && sql == "COMMITTED";
                let kind = crate::db::DbErrorKind::CommitUnknown;
                lost.then(|| DbError::new(kind, "gone"))
            };
            Ok(hooked(inner, Faulty(fails)))
        };
        let world = World {
            connect: &connect,
            ..World::real()
        };
        let counts = bed.run_in(world, &Options::of(&bed.config)).counts;
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
    let connect = |database: &Database, access: Access, clock: Clock| {
        let inner = crate::db::connect(database, access, clock)?;
        let database = database.clone();
        let fails = move |sql: &str| {
            if sql.contains("octet_length") && sql.contains("priority = -1") {
                let site = crate::db::connect(&database, Access::Write, Clock::system());
                let update = "UPDATE scheduled_events SET priority = 2";
                site.unwrap().execute_script(update).unwrap();
            }
            None
        };
        Ok(hooked(inner, Faulty(fails)))
    };
    let world = World {
        connect: &connect,
        ..World::real()
    };
    let report = bed.run_in(world, &Options::of(&bed.config));
    assert_eq!((report.counts.skipped, report.stop), (1, Stop::Drained));
}

#[test]
fn an_event_that_another_run_put_back_while_its_ack_had_no_answer_does_not_count_as_done() {
    let url = web_site(Duration::ZERO);
    let bed = Bed::new(&format!(
        "[type.hook]\nhandler = \"http\"\nurl = \"{url}\"\n"
    ));
    bed.add("hook", 1);
    let connections = Shared::new(0);
    let connect = |database: &Database, access: Access, clock: Clock| {
        let mut inner = crate::db::connect(database, access, clock)?;
        connections.set(connections.get() + 1);
        let first = connections.get() == 1;
        if !first {
            let recover = "UPDATE scheduled_events SET status = 'ready', claim_epoch = NULL, \
                           claim_until = NULL, losses = 1";
            assert_eq!(inner.execute(recover, &[])?, 1);
        }
        let mut lost = false;
        let fails = move |sql: &str| {
            lost |= first && sql.starts_with("INSERT INTO /*_*/event_history");
            lost.then(|| DbError::new(crate::db::DbErrorKind::Lost, "gone"))
        };
        Ok(hooked(inner, Faulty(fails)))
    };
    let world = World {
        connect: &connect,
        ..World::real()
    };
    let report = bed.run_in(world, &Options::of(&bed.config));
    assert_eq!(
        (connections.get(), report.counts.done),
        (2, 0),
        "{report:?}"
    );
    assert_eq!(bed.one("SELECT status FROM scheduled_events"), "ready");
    let log = "SELECT event_id FROM event_log WHERE decision = 'fenced'";
    assert_eq!(bed.one(log), "1");
}
