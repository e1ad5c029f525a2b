//! Every statement of a run, put to EXPLAIN on both databases in small and large tables: each takes
//! its index or the primary key, none sorts, and what a run reads and locks does not grow with future
//! or finished rows (RULINGS 14–16).

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use mysql::prelude::Queryable as _;
use punctual::clock::{Clock, UnixSeconds};
use punctual::config::{self, Config, Env, Layers};
use punctual::db::{Access, Value};
use punctual::event::Outcome;
use punctual::runner::{self, Options, Report, Stop, World};
use punctual::store::Store;
use punctual::store::backfill::Endings;
use punctual::store::prune::Retention;

use crate::support::mariadb::Server;
use crate::support::recorder::{Recorded, Recording};
use crate::support::site::Site;

/// Rows that are due in each of the types below.
const DUE: i64 = 20;

const TYPES: &str = r#"
[run]
history = "30d"

[type.effect]
handler = "sql"
sql = ["UPDATE effects SET n = n + 1 WHERE id = 1"]

[type.sweep]
handler = "sql"
repeat_until_empty = true
sql = ["UPDATE effects SET n = n + 2 WHERE id = 1 AND n < 24"]

[type.command]
handler = "command"
command = ["true"]

[type.guarded]
handler = "command"
command = ["true"]
guard = "SELECT 1 FROM effects WHERE id = 1"

[type.failing]
handler = "command"
command = ["false"]
breaker = 0

[type.dying]
handler = "command"
command = ["false"]
retries = 0
breaker = 0

[type.rated]
handler = "command"
command = ["true"]
rate = 1000
"#;

/// Tables in which nothing is ever searched: a row for the lease, a few for types, facts, sources,
/// one a backfill.
const TINY: [&str; 7] = [
    "event_lease",
    "event_types",
    "punctual_meta",
    "event_backfills",
    "effects",
    "event_scans",
    "s",
];

on_both_databases! {
    fn every_statement_takes_its_index_in_a_table_of_3_rows(site: &Site) {
        every_statement_takes_its_index(site, 3, 0);
    }

    fn every_statement_takes_its_index_in_a_table_of_400_rows(site: &Site) {
        every_statement_takes_its_index(site, 400, 0);
    }

    fn every_statement_takes_its_index_in_a_table_of_3000_rows(site: &Site) {
        every_statement_takes_its_index(site, 3_000, 0);
    }

    fn every_statement_takes_its_index_in_tables_of_100000_rows(site: &Site) {
        every_statement_takes_its_index(site, 100_000, 100_000);
    }
}

on_both_databases! {
    fn every_statement_of_a_backfill_takes_its_index_beside_3_rows(site: &Site) {
        every_statement_of_a_backfill_takes_its_index(site, 3);
    }

    fn every_statement_of_a_backfill_takes_its_index_beside_100000_rows(site: &Site) {
        every_statement_of_a_backfill_takes_its_index(site, 100_000);
    }
}

/// All but those that read how a backfill stands, which look at every live event.
fn every_statement_of_a_backfill_takes_its_index(site: &Site, rows: i64) {
    fill(site, rows, rows);
    let made = "'hourly', 3600 * n, 1, 1000000 + n";
    site.sql(&format!(
        "INSERT INTO event_slots (schedule, slot, slots, made_id) {}",
        series(rows, made)
    ));
    site.sql(
        "UPDATE event_history SET resolved_at = 2000000500, resolved_as = 'done' \
         WHERE history_id % 6 = 0",
    );
    let recording = Recording::default();
    let config = loaded(site);
    let database = config.database.as_ref().expect("a database");
    let db = punctual::db::connect(database, Access::Write, Clock::system()).expect("ours");
    let mut store = Store::new(recording.of(db), "");
    let which = |outcome| Endings {
        outcome,
        window: (UnixSeconds(2_000_000_000), UnixSeconds(2_000_000_400)),
        bound: rows - 1,
    };
    let mut endings = Vec::new();
    for outcome in [Outcome::Dead, Outcome::Done] {
        let first = store.open_endings(which(outcome), (UnixSeconds(0), 0), 2);
        let first = first.expect("endings");
        let last = first.last().expect("one at least");
        let place = (last.finished_at, last.history_id);
        endings.extend(
            store
                .open_endings(which(outcome), place, 300)
                .expect("more"),
        );
        endings.extend(first);
        let closed = store.closed_endings(which(outcome), (2_000_000_000, -1, 0), 100);
        closed.expect("endings");
    }
    let ids: Vec<i64> = endings.iter().map(|ending| ending.history_id).collect();
    let mut slots = store
        .slots_made("hourly", UnixSeconds(3600), UnixSeconds(9 * 3600))
        .expect("slots");
    assert!(slots.pop().is_some());
    let (open, _) = store.still_open(&ids, 1 << 20).expect("rows");
    assert!(!open.is_empty());
    let made = store.transaction(|store| {
        store.make_again(
            &open,
            7,
            &|number| UnixSeconds(5 + number.cast_signed()),
            UnixSeconds(9),
        )
    });
    made.expect("made");
    let mut keep = Retention::of(&config.run, UnixSeconds(1_000_000_000));
    keep.failed_before = UnixSeconds(0);
    store.prune_chunk(keep).expect("pruned");
    let mut complaints = Vec::new();
    for statement in recording.statements() {
        if let Some(complaint) = explained(site, &statement) {
            complaints.push(format!("{}\n    {complaint}", statement.sql));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn what_a_run_reads_does_not_grow_with_future_or_finished_rows() {
    let few = rows_read_by_a_run(3, 0);
    let many = rows_read_by_a_run(100_000, 100_000);
    assert!(
        many <= few + few / 5 + 50,
        "{few} rows read among few, {many} among many"
    );
}

#[test]
fn a_run_locks_little_more_than_the_rows_it_deals_with() {
    for live in [3, 400, 3_000, 100_000] {
        let server = Server::private(&[]);
        let site = Site::on(&server);
        fill(&site, live, 0);
        let recording = Recording::default();
        let most = Rc::new(RefCell::new(0i64));
        let seen = Rc::clone(&most);
        let mut admin = server.admin();
        recording.before_commit(move || {
            // The server refreshes this table only when it was not read for 0.1 s.
            std::thread::sleep(Duration::from_millis(120));
            let locked: Option<i64> = admin
                .query_first("SELECT MAX(trx_rows_locked) FROM information_schema.innodb_trx")
                .expect("the right to see transactions");
            let mut most = seen.borrow_mut();
            *most = (*most).max(locked.unwrap_or(0));
        });
        run_recorded(&site, &recording);
        let most = *most.borrow();
        // A row is counted once in the primary key and once in each index entry that is written.
        let allowed = DUE * 5 + 10;
        assert!(
            most > 0 && most <= allowed,
            "{most} rows locked beside {live} future rows"
        );
    }
}

#[test]
fn acks_of_quick_attempts_are_written_in_groups() {
    let site = Site::sqlite();
    site.config("[type.quick]\nhandler = \"command\"\ncommand = [\"true\"]\n")
        .init();
    crate::runs::insert(&site, "quick", 200);
    let recording = Recording::default();
    let commits = Rc::new(RefCell::new(0u128));
    let count = Rc::clone(&commits);
    recording.before_commit(move || *count.borrow_mut() += 1);
    let began = std::time::Instant::now();
    let report = run_recorded(&site, &recording);
    assert_eq!(report.counts.done, 200);
    // A group every 250 ms, however slow the machine; beside them lease, claims, breaker, end.
    let allowed = 10 + began.elapsed().as_millis() / 250;
    let commits = *commits.borrow();
    assert!(commits <= allowed, "{commits} commits, {allowed} allowed");
}

fn every_statement_takes_its_index(site: &Site, live: i64, finished: i64) {
    fill(site, live, finished);
    leave_a_dead_run(site);
    let recording = Recording::default();
    let report = run_recorded(site, &recording);
    assert_eq!(report.stop, Stop::Drained, "{report:?}");
    assert_eq!(report.counts.recovered, DUE, "{report:?}");
    assert_eq!(report.counts.done, 5 * DUE + 1, "{report:?}");
    assert_eq!(
        report.counts.retried + report.counts.dead,
        2 * DUE,
        "{report:?}"
    );
    let statements = recording.statements();
    assert!(statements.len() > 40, "{}", statements.len());
    if site.mariadb_database().is_none() {
        for ids in [
            "WHERE id BETWEEN",
            "WHERE id IN (SELECT value FROM json_each(?))",
        ] {
            let writes = |one: &&Recorded| !one.sql.starts_with("SELECT") && one.sql.contains(ids);
            assert!(statements.iter().filter(writes).count() > 2, "{ids}");
        }
    }
    let mut complaints = Vec::new();
    for statement in statements {
        if let Some(complaint) = explained(site, &statement) {
            complaints.push(format!("{}\n    {complaint}", statement.sql));
        }
    }
    complaints.dedup();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

fn rows_read_by_a_run(live: i64, finished: i64) -> i64 {
    let server = Server::private(&[]);
    let site = Site::on(&server);
    fill(&site, live, finished);
    let names = ["key", "next", "prev", "rnd", "rnd_next", "first", "last"];
    let read = || -> i64 {
        names
            .iter()
            .map(|name| server.status_var(&format!("Handler_read_{name}")))
            .sum()
    };
    let before = read();
    run_recorded(&site, &Recording::default());
    read() - before
}

/// `live` future rows, `finished` ones in history, and [`DUE`] due ones of each type.
fn fill(site: &Site, live: i64, finished: i64) {
    site.config(TYPES).init();
    site.sql("CREATE TABLE effects (id INTEGER PRIMARY KEY, n INTEGER)");
    site.sql("INSERT INTO effects VALUES (1, 0)");
    // Of two types mixed, so that their ids have gaps, and of each for itself.
    let mixed = |one, other| format!("CASE n % 2 WHEN 0 THEN '{one}' ELSE '{other}' END");
    let due = [
        (2 * DUE, mixed("effect", "command")),
        (2 * DUE, mixed("failing", "dying")),
        (DUE, "'guarded'".to_owned()),
        (DUE, "'rated'".to_owned()),
    ];
    for (rows, type_name) in due {
        site.sql(&format!(
            "INSERT INTO scheduled_events (type, due_at, payload) {}",
            series(rows, &format!("{type_name}, 1000 + n, '{{}}'"))
        ));
    }
    site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('sweep', 1000)");
    let future = "CASE n % 4 WHEN 0 THEN 'effect' WHEN 1 THEN 'command' WHEN 2 THEN 'guarded' \
                  ELSE 'elsewhere' END, 30000000000 + n, '{}', n % 5 - 2";
    site.sql(&format!(
        "INSERT INTO scheduled_events (type, due_at, payload, priority) {}",
        series(live, future)
    ));
    let past = "n, 'effect', 1000, 0, 0, 0, 0, CASE n % 3 WHEN 0 THEN 'dead' ELSE 'done' END, \
                2000000000 + n";
    site.sql(&format!(
        "INSERT INTO event_history (event_id, type, due_at, priority, attempts, losses, \
         deferrals, outcome, finished_at) {}",
        series(finished, past)
    ));
    // So that this run prunes, though nothing is old enough to go.
    site.sql("UPDATE event_lease SET prune_at = 1");
}

pub(crate) fn series(rows: i64, columns: &str) -> String {
    // Understood by both databases, without a sequence engine.
    let digits = "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 \
                  UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 \
                  UNION ALL SELECT 8 UNION ALL SELECT 9)";
    format!(
        "SELECT {columns} FROM (SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d n \
         FROM {digits} a, {digits} b, {digits} c, {digits} e, {digits} f) numbers WHERE n < {rows}"
    )
}

/// Rows claimed by a run that is no more, so that recovery has something to do.
fn leave_a_dead_run(site: &Site) {
    site.sql(&format!(
        "INSERT INTO scheduled_events (type, due_at, status, claim_epoch, claim_until) {}",
        series(DUE, "'command', 1000 + n, 'running', 7, 8")
    ));
    site.sql(
        "INSERT INTO event_runs (epoch, host, pid, lock_id, started_at, cutoff, wave_type, \
         wave_first_id, wave_last_id) VALUES (7, 'elsewhere', 1, 'x', 1, 1, 'effect', 1, 5)",
    );
}

pub(crate) fn run_recorded(site: &Site, recording: &Recording) -> Report {
    let config = loaded(site);
    let connect = |database: &config::Database, access: Access, clock: Clock| {
        Ok(recording.of(punctual::db::connect(database, access, clock)?))
    };
    let world = World {
        clock: Clock::system(),
        connect: &connect,
        watchdog: Path::new(env!("CARGO_BIN_EXE_punctual")),
    };
    let options = Options {
        max_time: None,
        ..Options::of(&config)
    };
    runner::run(&config, &options, world, &mut |_| {}).expect("a run")
}

pub(crate) fn loaded(site: &Site) -> Config {
    let env: Env = [
        ("HOME", site.path("home").into_os_string()),
        ("XDG_STATE_HOME", site.path("state").into_os_string()),
    ]
    .into_iter()
    .collect();
    let layers = Layers {
        config_flag: Some(site.path("punctual.toml")),
        database_flag: None,
        env,
        cwd: site.path(""),
        allow_unsafe: false,
    };
    config::load(&layers).expect("a configuration")
}

/// What is wrong with how the database would run this statement, if anything is.
pub(crate) fn explained(site: &Site, statement: &Recorded) -> Option<String> {
    let verb = statement.sql.split_whitespace().next().unwrap_or("");
    let reads = ["SELECT", "UPDATE", "DELETE"].contains(&verb)
        || (verb == "INSERT" && statement.sql.contains(" FROM "));
    if !reads {
        return None;
    }
    let sql = inlined(statement);
    if site.mariadb_database().is_some() {
        explained_by_mariadb(site, &sql)
    } else {
        explained_by_sqlite(site, &sql)
    }
}

fn explained_by_sqlite(site: &Site, sql: &str) -> Option<String> {
    let plan = site.rows(&format!("EXPLAIN QUERY PLAN {sql}"));
    plan.iter().filter_map(|row| row.last()).find_map(|step| {
        let scans = step.starts_with("SCAN") && !is_fine_to_scan(step);
        // MAX(key) reads one end of the primary key; its plan calls that a search.
        (scans || step.contains("TEMP B-TREE")).then(|| step.clone())
    })
}

fn explained_by_mariadb(site: &Site, sql: &str) -> Option<String> {
    let mut connection = site.mariadb_database().expect("a MariaDB site").connect();
    let plan: Vec<mysql::Row> = connection.query(format!("EXPLAIN {sql}")).expect(sql);
    plan.iter().find_map(|row| {
        let text = |name: &str| {
            row.get::<Option<String>, _>(name)
                .flatten()
                .unwrap_or_default()
        };
        let (table, access, extra) = (text("table"), text("type"), text("Extra"));
        if TINY.contains(&table.as_str()) || table == "l" {
            return None;
        }
        let scans = ["ALL", "index"].contains(&access.as_str())
            && !extra.contains("Using index for group-by");
        // An ordered walk along an index that LIMIT 1 ends at its first row.
        let one_row = access == "index" && sql.contains("LIMIT 1");
        let sorts = extra.contains("filesort") || extra.contains("temporary");
        ((scans && !one_row) || sorts).then(|| format!("{table}: {access}, {extra}"))
    })
}

fn is_fine_to_scan(step: &str) -> bool {
    let table = step.split_whitespace().nth(1).unwrap_or("");
    // `json_each` is the bound list of ids.
    TINY.contains(&table)
        || ["l", "json_each"].contains(&table)
        || table == "CONSTANT"
        || table.starts_with('(')
}

/// The statement with its values written in, as EXPLAIN wants it.
fn inlined(statement: &Recorded) -> String {
    let mut params = statement.params.iter();
    let mut sql = String::new();
    for part in statement.sql.split('?') {
        if !sql.is_empty() {
            sql += &params.next().map(literal).unwrap_or_default();
        }
        sql += part;
    }
    sql
}

fn literal(value: &Value<'_>) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Bytes(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
        }
    }
}
