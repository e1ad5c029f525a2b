//! SQLite, compiled in: the adapter. `rusqlite` is named nowhere else.
//!
//! Never changes the journal mode, never maps the file, never opens it through `std::fs` (closing
//! such a handle drops SQLite's own locks), and begins every write with BEGIN IMMEDIATE
//! (RULINGS 34).

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi, params_from_iter};

use super::{
    Access, AdvisoryLock, Cell, Db, DbError, DbErrorKind, DbResult, Dialect, OnRow, Row, Value,
};
use crate::clock::{Clock, UnixSeconds, monotonic};

/// How long a statement waits for another writer. PHP holds write locks for milliseconds; five
/// seconds is its own usual setting.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// So many of SQLite's own steps lie between two looks whether a query takes too long: about a
/// millisecond.
const STEPS: i32 = 10_000;
/// Statements kept prepared.
const STATEMENTS: usize = 64;

/// An open SQLite database.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    path: PathBuf,
    clock: Clock,
}

impl Sqlite {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// `Unavailable` where there is no file and `access` does not create one, `NotADatabase`,
    /// `Denied`.
    pub fn open(path: &Path, access: Access, clock: Clock) -> DbResult<Self> {
        let flags = match access {
            // Also to read: after a crash the first reader has to roll a journal back. Where the
            // file is write-protected, SQLite itself opens it for reading only.
            Access::Read | Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
            Access::Create => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        } | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        if access != Access::Create && !path.exists() {
            return Err(DbError::new(
                DbErrorKind::Unavailable,
                format!(
                    "no database at {}; `punctual init` creates it",
                    path.display()
                ),
            ));
        }
        let connection = Connection::open_with_flags(path, flags).map_err(|e| explain(&e, path))?;
        let db = Self {
            connection,
            path: path.to_owned(),
            clock,
        };
        db.prepare_session().map_err(|e| explain(&e, path))?;
        if access == Access::Read {
            let read_only = db.connection.execute_batch("PRAGMA query_only = ON");
            read_only.map_err(|e| explain(&e, path))?;
        }
        Ok(db)
    }

    fn prepare_session(&self) -> rusqlite::Result<()> {
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        self.connection
            .set_prepared_statement_cache_capacity(STATEMENTS);
        // The first statements that touch the file, for they read the schema: whether it is a
        // database at all is found out here.
        self.connection
            .execute_batch("PRAGMA foreign_keys = OFF; PRAGMA synchronous = FULL")
    }

    fn error(&self, error: &rusqlite::Error) -> DbError {
        explain(error, &self.path)
    }
}

impl Db for Sqlite {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn execute(&mut self, sql: &str, params: &[Value<'_>]) -> DbResult<u64> {
        let run = || -> rusqlite::Result<u64> {
            let mut statement = self.connection.prepare_cached(sql)?;
            if statement.column_count() == 0 {
                return Ok(statement.execute(params_from_iter(params))? as u64);
            }
            // A handler's SELECT or RETURNING: run it to its end, its rows are of no interest.
            let mut rows = statement.query(params_from_iter(params))?;
            while rows.next()?.is_some() {}
            drop(rows);
            // What a SELECT would answer here is what was changed before it.
            let changes = self.connection.changes();
            Ok(if statement.readonly() { 0 } else { changes })
        };
        run().map_err(|e| self.error(&e))
    }

    fn query(&mut self, sql: &str, params: &[Value<'_>], on_row: &mut OnRow<'_>) -> DbResult<()> {
        let mut run = || -> rusqlite::Result<()> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query(params_from_iter(params))?;
            while let Some(row) = rows.next()? {
                if !on_row(row) {
                    break;
                }
            }
            Ok(())
        };
        run().map_err(|e| self.error(&e))
    }

    fn columns(&mut self, sql: &str) -> DbResult<Vec<String>> {
        let names = || -> rusqlite::Result<Vec<String>> {
            let statement = self.connection.prepare_cached(sql)?;
            let names = statement.column_names();
            Ok(names.map(str::to_owned).collect())
        };
        names().map_err(|e| self.error(&e))
    }

    fn limit_queries(&mut self, longest: Option<Duration>) -> DbResult<()> {
        let until = longest.map(|longest| monotonic() + longest);
        let is_over = until.map(|until| move || monotonic() >= until);
        (self.connection.progress_handler(STEPS, is_over)).map_err(|e| self.error(&e))
    }

    fn begin(&mut self) -> DbResult<()> {
        self.execute("BEGIN IMMEDIATE", &[]).map(drop)
    }

    fn commit(&mut self) -> DbResult<()> {
        self.execute("COMMIT", &[]).map(drop)
    }

    fn rollback(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.execute("ROLLBACK", &[])
        {
            log::warn!("rollback: {error}");
        }
    }

    fn last_insert_id(&self) -> i64 {
        self.connection.last_insert_rowid()
    }

    fn now(&mut self) -> DbResult<UnixSeconds> {
        Ok(self.clock.now())
    }

    fn clock_in_sql(&self) -> Option<[String; 2]> {
        None
    }

    fn host_clock(&self) -> Option<(UnixSeconds, Duration)> {
        Some(self.clock.read())
    }

    fn version(&mut self) -> DbResult<Option<i64>> {
        super::query_one(self, "PRAGMA data_version", &[], |row| row.int(0))
    }

    fn ping(&mut self) -> DbResult<()> {
        Ok(())
    }

    fn execute_script(&mut self, sql: &str) -> DbResult<()> {
        self.connection
            .execute_batch(sql)
            .map_err(|e| self.error(&e))
    }

    fn advisory_lock(&mut self, _name: &str, _seconds: u32) -> DbResult<AdvisoryLock> {
        Ok(AdvisoryLock::Unsupported)
    }

    fn advisory_holder(&mut self, _name: &str) -> DbResult<Option<i64>> {
        Ok(None)
    }

    fn end_session(&mut self, _session: i64) -> DbResult<()> {
        Ok(())
    }

    fn forgets_ids(&self) -> bool {
        false // AUTOINCREMENT
    }

    fn database_name(&mut self) -> DbResult<String> {
        let path = self.path.canonicalize().map_err(|error| {
            let message = format!("cannot resolve {}: {error}", self.path.display());
            DbError::new(DbErrorKind::Io, message)
        })?;
        Ok(path.to_string_lossy().into_owned())
    }
}

impl Row for rusqlite::Row<'_> {
    fn cell(&self, index: usize) -> Cell<'_> {
        match self.get_ref(index) {
            Ok(ValueRef::Integer(number)) => Cell::Int(number),
            Ok(ValueRef::Real(number)) => Cell::Real(number),
            Ok(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => Cell::Bytes(bytes),
            Ok(ValueRef::Null) | Err(_) => Cell::Null,
        }
    }
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match self {
            Value::Null => ValueRef::Null,
            Value::Int(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            // Text where it can be text, so that it compares equal to what PHP stored.
            Value::Bytes(bytes) if std::str::from_utf8(bytes).is_ok() => ValueRef::Text(bytes),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

/// Sorts SQLite's result codes by what they mean for the run.
fn explain(error: &rusqlite::Error, path: &Path) -> DbError {
    let rusqlite::Error::SqliteFailure(failure, text) = error else {
        return DbError::new(DbErrorKind::Statement, error.to_string());
    };
    let kind = match failure.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => DbErrorKind::Busy,
        ErrorCode::ReadOnly => DbErrorKind::ReadOnly,
        ErrorCode::DiskFull => DbErrorKind::Full,
        ErrorCode::SystemIoFailure => DbErrorKind::Io,
        ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt => DbErrorKind::NotADatabase,
        ErrorCode::OperationInterrupted => DbErrorKind::TooLong,
        ErrorCode::CannotOpen => DbErrorKind::Unavailable,
        ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => {
            DbErrorKind::Denied
        }
        ErrorCode::ConstraintViolation
            if matches!(
                failure.extended_code,
                ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
            ) =>
        {
            DbErrorKind::Duplicate
        }
        _ if text
            .as_deref()
            .is_some_and(|t| t.starts_with("no such table")) =>
        {
            DbErrorKind::NoSchema
        }
        _ => DbErrorKind::Statement,
    };
    let said = text.clone().unwrap_or_else(|| failure.to_string());
    // SQLite itself names the file in some messages.
    let said = said.trim_end_matches(&format!(": {}", path.display()));
    DbError {
        kind,
        message: format!("{}: {said}{}", path.display(), remedy(failure.code)),
        code: i64::from(failure.extended_code),
    }
}

/// What a person can do about it, where that is beyond doubt.
fn remedy(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::NotADatabase => "; name a SQLite file in `database`",
        ErrorCode::DatabaseCorrupt => "; restore it from a backup",
        ErrorCode::DiskFull => "; make room",
        ErrorCode::DatabaseBusy => "; another program holds it: try again when that has ended",
        ErrorCode::ReadOnly => "; let this user write the file and its directory",
        ErrorCode::OperationInterrupted => ": it took too long; give it an index, or less to do",
        ErrorCode::CannotOpen => "; let this user read the file and search its directory",
        _ => "",
    }
}
