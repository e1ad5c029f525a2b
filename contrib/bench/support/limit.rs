//! The limits of a drain: hand-written statements, as few as can be, for the same rows on the same
//! database with the same durability. No lock, no lease, no claim, no retry, no order of types.
//!
//! A wave of 500 is one transaction on both databases:
//!
//! 1. a prepared SELECT of the due rows' ids and payloads, which any runner must know;
//! 2. for the effect limit: the handler's own statement, prepared, once a row; for the job limit: one
//!    INSERT into the job table of all rows, prepared, their values made from the payloads;
//! 3. INSERT … SELECT into the history;
//! 4. DELETE.
//!
//! Opening and closing the connection is part of it, as a run of `punctual` is timed as a whole
//! process.

use mysql::prelude::Queryable as _;
use punctual::db::id_list;
use rusqlite::{Connection, OpenFlags, params};

use super::place::{Kind, Place};

/// Events a transaction, as many as the product's `batch_size` has by default.
const WAVE: usize = 500;

const SELECT: &str = "SELECT id, payload FROM scheduled_events WHERE status = 'ready' AND type = ? \
     AND priority = 0 AND due_at <= ? ORDER BY due_at, id LIMIT 500";
/// All that a finished event leaves in history.
const HISTORY: &str = "INSERT INTO event_history (event_id, type, due_at, first_due_at, payload, \
     unique_key, origin, slot_at, priority, expires_at, attempts, losses, deferrals, created_at, \
     outcome, finished_at, run_id, lateness_s, duration_ms) SELECT id, type, due_at, first_due_at, \
     payload, unique_key, origin, slot_at, priority, expires_at, attempts, losses, deferrals, \
     created_at, 'done', 1700000000, 1, 1700000000 - due_at, 0 FROM scheduled_events";
/// The statement of the type `sql` in `drain`.
const EFFECT: &str = "INSERT INTO effects (event_id, fired_at) VALUES (?, ?)";
const NOW: i64 = 1_700_000_000;

/// What is bound of a job: what stands in it whatever it is about is written out.
const JOB_MARKS: &str = "('null', -1, '', '20231114221320', ?, ?, '')";
const JOB: &str = "INSERT INTO job (job_cmd, job_namespace, job_title, job_timestamp, job_params, \
     job_random, job_sha1) VALUES ";

/// The INSERT of so many jobs.
fn job_insert(jobs: usize) -> String {
    format!("{JOB}{}", vec![JOB_MARKS; jobs].join(","))
}

/// The parameters of the job that an event's payload asks for, and a number like any other.
fn job(id: i64, payload: &[u8]) -> (String, i64) {
    let digits = payload.iter().filter(|byte| byte.is_ascii_digit());
    let number = digits.fold(0, |sum, digit| 10 * sum + i64::from(digit - b'0'));
    let random = id.wrapping_mul(2_654_435_761) & 0x7fff_ffff;
    (format!("a:1:{{s:4:\"user\";i:{number};}}"), random)
}

/// Whether the handler's statement is run, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fire {
    Nothing,
    Effects,
    Jobs,
}

/// Drains a type as fast as the database allows.
pub(crate) fn drain(place: &Place, type_name: &str, fire: Fire) {
    match place.kind {
        Kind::Mariadb => drain_mariadb(place, type_name, fire).expect("a server of our own"),
        _ => drain_sqlite(place, type_name, fire).expect("a file of our own"),
    }
}

fn drain_sqlite(place: &Place, type_name: &str, fire: Fire) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(place.file(), flags)?;
    db.execute_batch("PRAGMA synchronous = FULL")?;
    let mut begin = db.prepare("BEGIN IMMEDIATE")?;
    let mut commit = db.prepare("COMMIT")?;
    let mut select = db.prepare(SELECT)?;
    let mut effect = db.prepare(EFFECT)?;
    loop {
        begin.execute([])?;
        let rows = select.query_map(params![type_name, NOW], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })?;
        let events: Vec<(i64, String)> = rows.collect::<Result<_, _>>()?;
        if fire == Fire::Effects {
            for (id, _) in &events {
                effect.execute(params![id, NOW])?;
            }
        }
        if fire == Fire::Jobs && !events.is_empty() {
            let mut insert = db.prepare_cached(&job_insert(events.len()))?;
            for (row, (id, payload)) in events.iter().enumerate() {
                let (params, random) = job(*id, payload.as_bytes());
                insert.raw_bind_parameter(2 * row + 1, params)?;
                insert.raw_bind_parameter(2 * row + 2, random)?;
            }
            insert.raw_execute()?;
        }
        if !events.is_empty() {
            let ids = id_list(events.iter().map(|(id, _)| *id));
            db.execute_batch(&format!(
                "{HISTORY} WHERE id IN ({ids}); DELETE FROM scheduled_events WHERE id IN ({ids})"
            ))?;
        }
        commit.execute([])?;
        if events.len() < WAVE {
            return Ok(());
        }
    }
}

fn drain_mariadb(place: &Place, type_name: &str, fire: Fire) -> mysql::Result<()> {
    let database = place.site.mariadb_database().expect("a place on MariaDB");
    let mut db = database.connect();
    let select = db.prep(SELECT)?;
    let effect = db.prep(EFFECT)?;
    loop {
        db.query_drop("START TRANSACTION")?;
        let events: Vec<(i64, Vec<u8>)> = db.exec(&select, (type_name, NOW))?;
        if fire == Fire::Effects {
            for (id, _) in &events {
                db.exec_drop(&effect, (id, NOW))?;
            }
        }
        if fire == Fire::Jobs && !events.is_empty() {
            let values = |(id, payload): &(i64, Vec<u8>)| {
                let (params, random) = job(*id, payload);
                [mysql::Value::from(params), random.into()]
            };
            let values: Vec<mysql::Value> = events.iter().flat_map(values).collect();
            // Kept by the driver as long as the text is the same.
            db.exec_drop(job_insert(events.len()), values)?;
        }
        if !events.is_empty() {
            let ids = id_list(events.iter().map(|(id, _)| *id));
            // Left to itself, the planner may read all of a small table instead.
            db.query_drop(format!(
                "{HISTORY} FORCE INDEX (PRIMARY) WHERE id IN ({ids})"
            ))?;
            db.query_drop(format!(
                "DELETE e FROM scheduled_events e FORCE INDEX (PRIMARY) WHERE id IN ({ids})"
            ))?;
        }
        db.query_drop("COMMIT")?;
        if events.len() < WAVE {
            return Ok(());
        }
    }
}

/// Inserts `count` events by INSERTs of many rows in one transaction: the insert limit.
pub(crate) fn insert(place: &Place, type_name: &str, count: u64) {
    match place.kind {
        Kind::Mariadb => insert_mariadb(place, type_name, count).expect("a server of our own"),
        _ => insert_sqlite(place, type_name, count).expect("a file of our own"),
    }
}

/// Rows an INSERT, and what is bound for each.
const ROWS: usize = 500;
const MARKS: usize = 4;
const INSERT: &str = "INSERT INTO scheduled_events (type, due_at, payload, created_at) VALUES ";

fn insert_sqlite(place: &Place, type_name: &str, count: u64) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(place.file(), flags)?;
    db.execute_batch("PRAGMA synchronous = FULL; BEGIN IMMEDIATE")?;
    let mut insert = db.prepare(&format!("{INSERT}{}", marks()))?;
    for first in (0..count).step_by(ROWS) {
        for row in 0..ROWS {
            let (due_at, payload) = event(first + row as u64);
            let at = row * MARKS;
            insert.raw_bind_parameter(at + 1, type_name)?;
            insert.raw_bind_parameter(at + 2, due_at)?;
            insert.raw_bind_parameter(at + 3, payload)?;
            insert.raw_bind_parameter(at + 4, NOW)?;
        }
        insert.raw_execute()?;
    }
    db.execute_batch("COMMIT")
}

fn insert_mariadb(place: &Place, type_name: &str, count: u64) -> mysql::Result<()> {
    let database = place.site.mariadb_database().expect("a place on MariaDB");
    let mut db = database.connect();
    let insert = db.prep(format!("{INSERT}{}", marks()))?;
    db.query_drop("START TRANSACTION")?;
    for first in (0..count).step_by(ROWS) {
        let values: Vec<mysql::Value> = (first..first + ROWS as u64)
            .flat_map(|number| {
                let (due_at, payload) = event(number);
                [type_name.into(), due_at.into(), payload.into(), NOW.into()]
            })
            .collect();
        db.exec_drop(&insert, values)?;
    }
    db.query_drop("COMMIT")
}

fn marks() -> String {
    vec!["(?,?,?,?)"; ROWS].join(",")
}

/// The same events that `import` is given.
pub(crate) fn event(number: u64) -> (i64, String) {
    let due_at = super::place::FUTURE + (number / 100).cast_signed();
    (due_at, format!("{{\"user\":{number}}}"))
}
