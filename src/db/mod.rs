//! The narrow seam to a database: one bare connection, two dialects (DESIGN §9).
//!
//! [`Db`] runs statements and says how they failed in terms the run can act on ([`DbErrorKind`]).
//! It knows nothing of events. Each driver is named in one file only: [`sqlite`], [`mysql`].

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::clock::{Clock, UnixSeconds};
use crate::config::Database;

#[cfg(any(test, feature = "fault-injection"))]
pub mod double;
pub mod migrate;
pub mod mysql;
pub mod sqlite;

/// The SQL dialect spoken by a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite, compiled in.
    Sqlite,
    /// MySQL 5.7, 8.x, MariaDB 10.3+.
    Mysql,
}

impl Dialect {
    /// Put behind a table name in a guarded UPDATE or SELECT by id, so that the planner takes the
    /// primary key and locks nothing else (RULINGS 14).
    pub fn by_primary_key(self) -> &'static str {
        match self {
            Dialect::Sqlite => "",
            Dialect::Mysql => " FORCE INDEX (PRIMARY)",
        }
    }

    /// The `status` column in the guard of a write by id: on SQLite hidden from the planner, which
    /// would otherwise walk the status index (RULINGS 15).
    pub fn guarded_status(self) -> &'static str {
        match self {
            Dialect::Sqlite => "+status",
            Dialect::Mysql => "status",
        }
    }

    /// `DELETE` of `table` by primary key, up to and without `WHERE`.
    pub fn delete_by_primary_key(self, table: &str) -> String {
        match self {
            Dialect::Sqlite => format!("DELETE FROM {table}"),
            Dialect::Mysql => format!("DELETE {table} FROM {table} FORCE INDEX (PRIMARY)"),
        }
    }

    /// The length of `column` in bytes, read without loading the value where the dialect can.
    pub fn byte_length(self, column: &str) -> String {
        match self {
            Dialect::Sqlite => format!("octet_length({column})"),
            Dialect::Mysql => format!("LENGTH({column})"),
        }
    }

    /// `INSERT` that leaves an existing row alone, up to and without `INTO`.
    pub fn insert_or_ignore(self) -> &'static str {
        match self {
            Dialect::Sqlite => "INSERT OR IGNORE",
            Dialect::Mysql => "INSERT IGNORE",
        }
    }
}

/// A value bound to a `?`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Real(f64),
    /// Text, or bytes that need not be UTF-8.
    Bytes(Cow<'a, [u8]>),
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}

impl From<UnixSeconds> for Value<'_> {
    fn from(instant: UnixSeconds) -> Self {
        Value::Int(instant.0)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Bytes(Cow::Borrowed(text.as_bytes()))
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Value::Bytes(Cow::Borrowed(bytes))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::Bytes(Cow::Owned(text.into_bytes()))
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// A value read from a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Real(f64),
    /// Text or bytes; MySQL's text protocol sends numbers this way too.
    Bytes(&'a [u8]),
}

/// One row of a result.
pub trait Row {
    /// The value in column `index`, counting from 0.
    fn cell(&self, index: usize) -> Cell<'_>;

    /// The date or time of day in column `index`, written out, where the dialect has such values:
    /// [`Row::cell`] shows them as NULL.
    fn date(&self, index: usize) -> Option<String> {
        let _ = index;
        None
    }

    /// A whole number; NULL and anything else reads as `None`.
    fn opt_int(&self, index: usize) -> Option<i64> {
        match self.cell(index) {
            Cell::Int(number) => Some(number),
            Cell::Bytes(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
            // Sums come back as decimals or doubles on some servers.
            #[expect(
                clippy::cast_possible_truncation,
                reason = "counts stay far below 2^53"
            )]
            Cell::Real(number) => Some(number as i64),
            Cell::Null => None,
        }
    }

    /// A whole number; NULL reads as 0.
    fn int(&self, index: usize) -> i64 {
        self.opt_int(index).unwrap_or(0)
    }

    /// Bytes as stored; NULL reads as `None`.
    fn opt_bytes(&self, index: usize) -> Option<Vec<u8>> {
        match self.cell(index) {
            Cell::Null => None,
            Cell::Bytes(bytes) => Some(bytes.to_vec()),
            Cell::Int(number) => Some(number.to_string().into_bytes()),
            Cell::Real(number) => Some(number.to_string().into_bytes()),
        }
    }

    /// Text; bytes that are no UTF-8 are replaced, NULL reads as `None`.
    fn opt_text(&self, index: usize) -> Option<String> {
        match self.cell(index) {
            Cell::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => self
                .opt_bytes(index)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// Text; NULL reads as the empty string.
    fn text(&self, index: usize) -> String {
        self.opt_text(index).unwrap_or_default()
    }
}

/// What a failed statement means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DbErrorKind {
    /// Somebody else holds a lock; nothing was done: roll back and try again (RULINGS 22).
    Busy,
    /// The connection is gone; what it held (advisory lock, open transaction) is gone with it.
    Lost,
    /// COMMIT was sent and no answer came: done or not, nobody knows (RULINGS 23).
    CommitUnknown,
    /// No server there, or no such database or file.
    Unavailable,
    /// User or password refused, or a right is missing.
    Denied,
    /// The database or its file may only be read.
    ReadOnly,
    /// The disk, or the database's size limit, is full.
    Full,
    /// I/O failed beneath the database.
    Io,
    /// What is there is no database.
    NotADatabase,
    /// A table or column is missing.
    NoSchema,
    /// A UNIQUE or primary key is taken.
    Duplicate,
    /// It took longer than [`Db::limit_queries`] allows.
    TooLong,
    /// The server cannot do this at all (a proxy or cluster without GET_LOCK).
    Unsupported,
    /// Anything else: a wrong statement, a violated CHECK.
    Statement,
}

/// A failed statement.
#[derive(Debug, Clone)]
pub struct DbError {
    /// What it means.
    pub kind: DbErrorKind,
    /// What the database said; never holds a password.
    pub message: String,
    /// The database's own number for it; 0 where there is none.
    pub code: i64,
}

impl DbError {
    /// An error of `kind`.
    pub fn new(kind: DbErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            code: 0,
        }
    }

    /// Whether the connection must not be used for claiming or firing any more (RULINGS 6).
    pub fn ends_the_session(&self) -> bool {
        matches!(self.kind, DbErrorKind::Lost | DbErrorKind::CommitUnknown)
    }

    /// Whether it says something of the database as a whole, and nothing of the statement: no
    /// reason to call an event's handler or guard failed.
    pub fn is_database_trouble(&self) -> bool {
        self.ends_the_session()
            || matches!(
                self.kind,
                DbErrorKind::Busy | DbErrorKind::Full | DbErrorKind::Io
            )
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DbError {}

/// The outcome of a statement.
pub type DbResult<T> = Result<T, DbError>;

/// Called with each row of a result; an `Ok(false)` ends the reading.
pub type OnRow<'a> = dyn FnMut(&dyn Row) -> bool + 'a;

/// One bare connection: no pool, no reconnect, every call bounded in time (RULINGS 6, 9).
pub trait Db {
    /// The dialect it speaks.
    fn dialect(&self) -> Dialect;

    /// Runs a statement and returns the number of rows matched (not merely changed).
    ///
    /// # Errors
    /// Any [`DbErrorKind`] but `CommitUnknown`.
    fn execute(&mut self, sql: &str, params: &[Value<'_>]) -> DbResult<u64>;

    /// Runs a query and hands each row to `on_row`.
    ///
    /// # Errors
    /// As [`Db::execute`].
    fn query(&mut self, sql: &str, params: &[Value<'_>], on_row: &mut OnRow<'_>) -> DbResult<()>;

    /// The names of the columns that a query has, without running it.
    ///
    /// # Errors
    /// As [`Db::execute`]: what is wrong with the query.
    fn columns(&mut self, sql: &str) -> DbResult<Vec<String>>;

    /// From now on a query that takes longer than this fails ([`DbErrorKind::TooLong`]); `None`:
    /// there is no such limit. For queries of others than us.
    fn limit_queries(&mut self, longest: Option<Duration>) -> DbResult<()>;

    /// Starts a write transaction (SQLite: BEGIN IMMEDIATE).
    fn begin(&mut self) -> DbResult<()>;

    /// Commits.
    ///
    /// # Errors
    /// [`DbErrorKind::CommitUnknown`] where the answer was lost.
    fn commit(&mut self) -> DbResult<()>;

    /// Rolls back; an error is of no interest, for the transaction is gone either way.
    fn rollback(&mut self);

    /// The id that the last INSERT was given.
    fn last_insert_id(&self) -> i64;

    /// The clock that decides what is due: the server's, or on SQLite the host's (DESIGN §9).
    fn now(&mut self) -> DbResult<UnixSeconds>;

    /// The same clock as two expressions, to be read along with something else in one round trip:
    /// the second, and how many microseconds of it are over. `None` where it is the host's.
    fn clock_in_sql(&self) -> Option<[String; 2]>;

    /// The host's clock where it is the one that decides: the second, and how much of it is over.
    fn host_clock(&self) -> Option<(UnixSeconds, Duration)>;

    /// A number that is another one once somebody else has committed anything; `None`: this
    /// database has none. What was read while it was the same is as it was read.
    fn version(&mut self) -> DbResult<Option<i64>>;

    /// Keeps an idle connection alive and notices a dead one.
    fn ping(&mut self) -> DbResult<()>;

    /// Runs a script of several statements (migrations only).
    fn execute_script(&mut self, sql: &str) -> DbResult<()>;

    /// Takes the advisory lock, waiting for so many seconds (0: not at all).
    fn advisory_lock(&mut self, name: &str, seconds: u32) -> DbResult<AdvisoryLock>;

    /// The session that holds the advisory lock; `None`: nobody, or this database has none.
    fn advisory_holder(&mut self, name: &str) -> DbResult<Option<i64>>;

    /// Ends another session, where this user may; otherwise nothing happens.
    fn end_session(&mut self, session: i64) -> DbResult<()>;

    /// Whether its id counter starts anew with the server, so that ids of deleted rows could come
    /// back (MySQL 5.7, RULINGS 42).
    fn forgets_ids(&self) -> bool;

    /// The name of the database itself: what a copy would not share (RULINGS 46).
    fn database_name(&mut self) -> DbResult<String>;
}

/// The answer of [`Db::advisory_lock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdvisoryLock {
    /// Held by this session.
    Held,
    /// Held by another session.
    Busy,
    /// This database has none (SQLite), or a proxy or cluster cannot keep it: the file lock and
    /// the lease stand for it (RULINGS 8).
    Unsupported,
}

/// How a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only: `list`, `status`, dry runs. A read-only user or file suffices.
    Read,
    /// Read and write; a SQLite file must exist.
    Write,
    /// As `Write`, creating a SQLite file that does not exist (`init`, `demo`).
    Create,
}

/// Connects to `database`.
///
/// # Errors
/// `Unavailable`, `Denied`, `NotADatabase` and their like, with a message for a person.
pub fn connect(database: &Database, access: Access, clock: Clock) -> DbResult<Box<dyn Db>> {
    match database {
        Database::Sqlite { path } => Ok(Box::new(sqlite::Sqlite::open(path, access, clock)?)),
        Database::Mysql(server) => Ok(Box::new(mysql::Mysql::connect(server, access)?)),
    }
}

/// Runs `sql` and returns its first row's columns mapped by `read`, if there is a row.
pub fn query_one<T>(
    db: &mut dyn Db,
    sql: &str,
    params: &[Value<'_>],
    read: impl Fn(&dyn Row) -> T,
) -> DbResult<Option<T>> {
    let mut found = None;
    db.query(sql, params, &mut |row| {
        found = Some(read(row));
        false
    })?;
    Ok(found)
}

/// Runs `sql` and collects each row mapped by `read`.
pub fn query_all<T>(
    db: &mut dyn Db,
    sql: &str,
    params: &[Value<'_>],
    read: impl Fn(&dyn Row) -> T,
) -> DbResult<Vec<T>> {
    let mut rows = Vec::new();
    db.query(sql, params, &mut |row| {
        rows.push(read(row));
        true
    })?;
    Ok(rows)
}

/// A list of ids for `IN (…)`: numbers only, so that no data becomes SQL.
pub fn id_list(ids: impl IntoIterator<Item = i64>) -> String {
    use fmt::Write;
    let mut list = String::new();
    for id in ids {
        let comma = if list.is_empty() { "" } else { "," };
        write!(list, "{comma}{id}").expect("writing to a String cannot fail");
    }
    list
}
