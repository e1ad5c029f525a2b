//! The `mediawiki-job` handler: an event becomes a job of a wiki on MediaWiki, a row in the wiki's own
//! `job` table, inserted inside the ack transaction. So the wiki has the job exactly once, and runs
//! it with all else in its queue.
//!
//! Only MediaWiki's database queue takes jobs in this way, and only where its table is in the same
//! database: whatever else the configuration tells of is refused, and nothing lost.

use std::collections::HashSet;
use std::path::Path;

use sha1::{Digest, Sha1};

use crate::clock::UnixSeconds;
use crate::config::{Config, Database, JobConfig};
use crate::db::{Db, DbError, DbErrorKind, DbResult, Dialect, Value, query_all};
use crate::php::{self, Array, Key};
use crate::when::mediawiki_time;

mod payload;

pub use payload::Job;

/// Parameters by which MediaWiki does not tell jobs apart.
const NOT_COMPARED: [&str; 3] = [
    "rootJobSignature",
    "rootJobTimestamp",
    "jobReleaseTimestamp",
];
/// The namespace of jobs that are about no page: MediaWiki's `NS_SPECIAL`.
const NO_PAGE: i64 = -1;
/// Digits of `job_sha1`.
const SHA1_DIGITS: usize = 31;
/// Queues in the database's own `job` table, as `$wgJobTypeConf` names their classes.
const DATABASE_QUEUES: [&str; 2] = ["JobQueueDB", "JobQueueScheduled"];
/// What is filled in of a job's row; the other columns have defaults.
const COLUMNS: [&str; 7] = [
    "job_cmd",
    "job_namespace",
    "job_title",
    "job_timestamp",
    "job_params",
    "job_random",
    "job_sha1",
];
/// Looked at beside them.
const TOKEN: &str = "job_token";
/// `job_random` is at most this.
const MAX_RANDOM: u32 = 0x7fff_ffff;
/// Rows an INSERT: what is bound to it stays below SQLite's 32,766 and MySQL's 65,535.
const MAX_ROWS: usize = 1000;
/// Bytes an INSERT, unless one job alone has more: a server may take no more than 1 MiB at once.
const MAX_BYTES: usize = 512 << 10;
/// What a row takes beside its texts, and a little more.
const ROW_BYTES: usize = 64;

/// The job table of a wiki.
#[derive(Debug)]
pub struct JobTable {
    name: String,
    config: JobConfig,
    /// How long `job_params` may be, in bytes.
    params_limit: usize,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the table.
    Queued,
    /// It is not: the same job is there already, and nobody has begun it.
    Duplicate,
}

impl JobTable {
    /// Looks whether there is such a table as MediaWiki's in the run's own database. `Err` within:
    /// one line that says why no job can be put there, and what to do.
    ///
    /// # Errors
    /// Trouble of the database, which says nothing of the table.
    pub fn open(
        db: &mut dyn Db,
        job: &JobConfig,
        config: &Config,
    ) -> DbResult<Result<Self, String>> {
        let prefix = job.table_prefix.as_ref().unwrap_or(&config.table_prefix);
        let name = format!("{prefix}job");
        let columns = match columns(db, &name) {
            Err(error) if error.is_database_trouble() => return Err(error),
            columns => columns.map_err(|error| error.message),
        };
        let checked = check_database(job, config)
            .and(columns)
            .and_then(|columns| params_limit(&name, &columns));
        Ok(checked.map(|params_limit| Self {
            name,
            config: job.clone(),
            params_limit,
        }))
    }

    /// The job that a payload asks for.
    ///
    /// # Errors
    /// One line that says why there can be none; that does not change.
    pub fn job(&self, payload: &[u8]) -> Result<Job, String> {
        let job = Job::read(payload)?;
        let class = self.config.queue_of(&job.cmd);
        // Written with its namespace, or without.
        let name = class.rsplit('\\').next().unwrap_or(class);
        if !DATABASE_QUEUES.contains(&name) {
            let cmd = &job.cmd;
            return Err(format!(
                "jobs of the type {cmd:?} are kept by {class}, and not in the database; let \
                 $wgJobTypeConf[{cmd:?}] have the class JobQueueDB, correct `queues`, and retry"
            ));
        }
        if job.params.len() > self.params_limit {
            return Err(format!(
                "its params take {} bytes as PHP serialises them, and job_params holds {}",
                job.params.len(),
                self.params_limit
            ));
        }
        Ok(job)
    }

    /// How many of `jobs` go into one INSERT: at least one.
    pub fn fitting<'j>(jobs: impl Iterator<Item = &'j Job>) -> usize {
        let mut bytes = 0;
        let fits = |job: &&Job| {
            bytes += job.cmd.len() + job.title.len() + job.params.len() + ROW_BYTES;
            bytes <= MAX_BYTES
        };
        jobs.take(MAX_ROWS).take_while(fits).count().max(1)
    }

    /// Puts `jobs`, no more than [`JobTable::fitting`] says, into the table on the open transaction:
    /// a SELECT where some of them want no duplicate, and one INSERT. Returns what became of each.
    ///
    /// # Errors
    /// What the database said.
    pub fn push(&self, db: &mut dyn Db, jobs: &[&Job], now: UnixSeconds) -> DbResult<Vec<Pushed>> {
        let mut waiting = self.waiting(db, jobs)?;
        let is_new = |job: &&Job| job.sha1.is_empty() || waiting.insert(job.sha1.clone());
        let is_new: Vec<bool> = jobs.iter().map(is_new).collect();
        let new: Vec<&Job> = jobs
            .iter()
            .zip(&is_new)
            .filter_map(|(job, is_new)| is_new.then_some(*job))
            .collect();
        if !new.is_empty() {
            self.insert(db, &new, now)?;
        }
        let pushed = |is_new| {
            if is_new {
                Pushed::Queued
            } else {
                Pushed::Duplicate
            }
        };
        Ok(is_new.into_iter().map(pushed).collect())
    }

    /// Those `job_sha1` of `jobs` that are in the table already and that nobody has begun.
    fn waiting(&self, db: &mut dyn Db, jobs: &[&Job]) -> DbResult<HashSet<String>> {
        let wanted: Vec<Value<'_>> = jobs
            .iter()
            .filter(|job| !job.sha1.is_empty())
            .map(|job| job.sha1.as_str().into())
            .collect();
        if wanted.is_empty() {
            return Ok(HashSet::new());
        }
        let sql = format!(
            "SELECT job_sha1 FROM {} WHERE job_sha1 IN ({}) AND job_token = ''",
            self.name,
            vec!["?"; wanted.len()].join(","),
        );
        let found = query_all(db, &sql, &wanted, |row| row.text(0))?;
        Ok(found.into_iter().collect())
    }

    fn insert(&self, db: &mut dyn Db, jobs: &[&Job], now: UnixSeconds) -> DbResult<()> {
        let dialect = db.dialect();
        let row = |job: &&Job| format!("(?,?,?,?,{},?,?)", mark(&job.params, dialect));
        let rows: Vec<String> = jobs.iter().map(row).collect();
        let columns = COLUMNS.join(", ");
        let sql = format!(
            "INSERT INTO {} ({columns}) VALUES {}",
            self.name,
            rows.join(",")
        );
        let timestamp = mediawiki_time(now);
        let random = random_numbers(jobs.len())?;
        let mut params: Vec<Value<'_>> = Vec::with_capacity(jobs.len() * COLUMNS.len());
        for (job, random) in jobs.iter().zip(random) {
            params.extend([
                job.cmd.as_str().into(),
                job.namespace.into(),
                job.title.as_str().into(),
                timestamp.as_str().into(),
                job.params.as_slice().into(),
                i64::from(random).into(),
                job.sha1.as_str().into(),
            ]);
        }
        db.execute(&sql, &params).map(drop)
    }
}

/// The mark for `job_params`. On SQLite, whose values have types of their own, MediaWiki writes text
/// whatever its encoding, but for what no literal of text could hold.
fn mark(params: &[u8], dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite if params.contains(&0) => "CAST(? AS BLOB)",
        Dialect::Sqlite if std::str::from_utf8(params).is_err() => "CAST(? AS TEXT)",
        Dialect::Sqlite | Dialect::Mysql => "?",
    }
}

fn random_numbers(count: usize) -> DbResult<Vec<u32>> {
    let mut bytes = vec![0; count * 4];
    getrandom::fill(&mut bytes).map_err(|error| {
        DbError::new(
            DbErrorKind::Io,
            format!("the kernel's random source: {error}"),
        )
    })?;
    let number = |four: &[u8]| {
        let number = four.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        number & MAX_RANDOM
    };
    Ok(bytes.chunks_exact(4).map(number).collect())
}

/// A column of the table, as the database tells of it.
struct Column {
    name: String,
    /// How much it holds; `None`: no limit.
    bytes: Option<usize>,
    /// What keeps its table; `None` where there is only one kind.
    engine: Option<String>,
}

impl Column {
    fn foreign_engine(&self) -> Option<&str> {
        let engine = self.engine.as_deref()?;
        (!engine.eq_ignore_ascii_case("InnoDB")).then_some(engine)
    }
}

/// How much `job_params` holds, where these are the columns of a job table.
fn params_limit(table: &str, columns: &[Column]) -> Result<usize, String> {
    if columns.is_empty() {
        return Err(format!(
            "there is no table `{table}` in this database; set `job_table_prefix` to the wiki's \
             $wgDBprefix, and let `database` name the wiki's own"
        ));
    }
    let column = |name: &str| columns.iter().find(|column| column.name == name);
    let mut wanted = COLUMNS.iter().chain([&TOKEN]);
    if let Some(lacking) = wanted.find(|name| column(name).is_none()) {
        return Err(format!(
            "`{table}` has no column `{lacking}`: it is no job table of MediaWiki 1.35 or later"
        ));
    }
    if let Some(engine) = columns.iter().find_map(Column::foreign_engine) {
        return Err(format!(
            "`{table}` is a table of {engine}, which has no transactions: an event would not fire \
             exactly once; run ALTER TABLE {table} ENGINE = InnoDB"
        ));
    }
    let limit = column("job_params").and_then(|column| column.bytes);
    Ok(limit.unwrap_or(usize::MAX))
}

fn columns(db: &mut dyn Db, table: &str) -> DbResult<Vec<Column>> {
    let sql = match db.dialect() {
        Dialect::Sqlite => "SELECT name, NULL, NULL FROM pragma_table_info(?)",
        Dialect::Mysql => {
            "SELECT c.column_name, c.character_octet_length, t.engine \
             FROM information_schema.columns c JOIN information_schema.tables t \
             ON t.table_schema = c.table_schema AND t.table_name = c.table_name \
             WHERE c.table_schema = DATABASE() AND c.table_name = ?"
        }
    };
    query_all(db, sql, &[table.into()], |row| Column {
        name: row.text(0),
        bytes: row.opt_int(1).and_then(|bytes| usize::try_from(bytes).ok()),
        engine: row.opt_text(2),
    })
}

/// Refuses a queue that is kept elsewhere than in the run's own database.
fn check_database(job: &JobConfig, config: &Config) -> Result<(), String> {
    const REMEDY: &str = "an event and its job must be written in one transaction";
    match (&config.database, &job.database) {
        (Some(Database::Sqlite { path }), Some(told)) => {
            let told = config
                .base_dir
                .join(told.strip_prefix("sqlite:").unwrap_or(told));
            if is_same_file(path, &told) {
                return Ok(());
            }
            Err(format!(
                "the wiki keeps its jobs in {}, and `database` is {}: {REMEDY}; in \
                 LocalSettings.php let $wgJobTypeConf['default'] have no `server`, so that jobs \
                 are kept in the wiki's main database, and let `database` and `job_database` name \
                 that",
                told.display(),
                path.display(),
            ))
        }
        (Some(Database::Sqlite { path }), None) => match installers_queue(path) {
            Some(other) if other.exists() => Err(format!(
                "MediaWiki's installer lets a wiki on SQLite keep its jobs in a file of their own, \
                 and there is {}: {REMEDY}; in LocalSettings.php let $wgJobTypeConf['default'] \
                 have no `server`, so that jobs are kept in {}, and then set `job_database` to \
                 that",
                other.display(),
                path.display(),
            )),
            _ => Ok(()),
        },
        (Some(Database::Mysql(server)), Some(told)) if *told != server.database => Err(format!(
            "the wiki keeps its jobs in the database {told}, and `database` is {}: {REMEDY}; let \
             `database` name {told}, or in LocalSettings.php let $wgJobTypeConf['default'] have no \
             `server` and no `cluster`, and `job_database` be {}",
            server.database, server.database,
        )),
        _ => Ok(()),
    }
}

/// Where MediaWiki's installer puts the jobs of a wiki whose database is this file.
fn installers_queue(database: &Path) -> Option<std::path::PathBuf> {
    let stem = database.file_name()?.to_str()?.strip_suffix(".sqlite")?;
    Some(database.with_file_name(format!("{stem}_jobqueue.sqlite")))
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// `job_sha1` as MediaWiki's `JobSpecification` makes it: of type and parameters in their order,
/// without those that tell no jobs apart. 160 bits in base 36, lower case.
fn job_sha1(cmd: &str, params: &Array) -> String {
    let mut info = b"a:2:{s:4:\"type\";".to_vec();
    php::Value::Text(cmd.to_owned()).serialize(&mut info);
    info.extend_from_slice(b"s:6:\"params\";");
    params.serialize_without(&NOT_COMPARED, &mut info);
    info.push(b'}');
    base_36(&Sha1::digest(&info))
}

/// A number, its highest byte first, in [`SHA1_DIGITS`] digits of base 36.
fn base_36(number: &[u8]) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut number = number.to_vec();
    let mut digits = [b'0'; SHA1_DIGITS];
    for digit in digits.iter_mut().rev() {
        let mut rest = 0;
        for byte in &mut number {
            let left = rest << 8 | u32::from(*byte);
            *byte = u8::try_from(left / 36).unwrap_or(u8::MAX);
            rest = left % 36;
        }
        *digit = DIGITS[rest as usize];
    }
    digits.iter().copied().map(char::from).collect()
}

/// Names keys that are unknown.
fn only(array: &Array, known: &[&str], of: &str) -> Result<(), String> {
    let is_known = |key: &Key| matches!(key, Key::Text(text) if known.contains(&text.as_str()));
    let Some(stray) = array.keys().find(|key| !is_known(key)) else {
        return Ok(());
    };
    let stray: String = stray.to_string().chars().take(80).collect();
    Err(format!(
        "unknown key {stray:?} in {of}; known are {}",
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests;
