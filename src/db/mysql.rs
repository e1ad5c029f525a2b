//! MySQL and MariaDB: the adapter. The `mysql` crate is named nowhere else.
//!
//! One bare connection: no pool, no reset, no reconnect, for the advisory lock lives and dies with
//! the session (RULINGS 6). Statements without parameters go over the text protocol in one round
//! trip; those with parameters are prepared once and kept.

use std::time::Duration;

use mysql::consts::CapabilityFlags;
use mysql::error::DriverError;
use mysql::prelude::{Protocol, Queryable};
use mysql::{Conn, OptsBuilder, Params, QueryResult, SslOpts};

use super::{
    Access, AdvisoryLock, Cell, Db, DbError, DbErrorKind, DbResult, Dialect, OnRow, Row, Value,
};
use crate::clock::UnixSeconds;
use crate::config::{MysqlServer, Tls};
use crate::fault;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of the server in one call. Longer than any statement of ours; a handler's own
/// statement that takes longer is cut off and its transaction with it.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const KEEPALIVE_MILLIS: u32 = 15_000;
/// Seconds without a statement after which the server may drop us; we ping every 15 (RULINGS 9).
const WAIT_TIMEOUT: u32 = 300;
/// Seconds a write waits for a row that a site's own transaction holds.
const LOCK_WAIT_TIMEOUT: u32 = 10;
/// Statements kept prepared.
const STATEMENTS: usize = 64;
/// Bytes. Set so that the driver need not ask; nothing of ours comes near.
const MAX_PACKET: usize = 16 << 20;

/// A session with a MySQL or MariaDB server.
#[derive(Debug)]
pub struct Mysql {
    conn: Conn,
    database: String,
    /// What ended the session. An answer that came too late would be read as that of the next
    /// statement, so none is sent any more (RULINGS 6).
    lost: Option<DbError>,
}

impl Mysql {
    /// Connects and prepares the session: UTC, matched rows counted, timeouts.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`.
    pub fn connect(server: &MysqlServer, access: Access) -> DbResult<Self> {
        let mut init = vec![format!(
            "SET time_zone = '+00:00', wait_timeout = {WAIT_TIMEOUT}, \
             innodb_lock_wait_timeout = {LOCK_WAIT_TIMEOUT}, autocommit = 1"
        )];
        if access == Access::Read {
            init.push("SET SESSION TRANSACTION READ ONLY".to_owned());
        }
        let options = OptsBuilder::new()
            .user(Some(&server.user))
            .pass(server.password.as_ref().map(crate::config::Secret::reveal))
            .db_name(Some(&server.database))
            .ip_or_hostname(Some(&server.host))
            .tcp_port(server.port)
            .socket(
                server
                    .socket
                    .as_ref()
                    .map(|path| path.to_string_lossy().into_owned()),
            )
            .prefer_socket(false)
            .tcp_connect_timeout(Some(CONNECT_TIMEOUT))
            .read_timeout(Some(fault::patience(READ_TIMEOUT)))
            .write_timeout(Some(WRITE_TIMEOUT))
            .tcp_keepalive_time_ms(Some(KEEPALIVE_MILLIS))
            .additional_capabilities(CapabilityFlags::CLIENT_FOUND_ROWS)
            .stmt_cache_size(STATEMENTS)
            .max_allowed_packet(Some(MAX_PACKET))
            .ssl_opts(tls_options(server))
            .init(init);
        let conn = Conn::new(options).map_err(|error| refused(&error, server))?;
        Ok(Self {
            conn,
            database: server.database.clone(),
            lost: None,
        })
    }

    /// Refuses what comes after the session's end.
    fn usable(&self) -> DbResult<()> {
        self.lost.clone().map_or(Ok(()), Err)
    }

    /// Explains an error, and remembers one that ended the session.
    fn failed(&mut self, error: &mysql::Error) -> DbError {
        let explained = explain(error);
        if explained.kind == DbErrorKind::Lost {
            self.lost = Some(explained.clone());
        }
        explained
    }

    fn start<'c>(&'c mut self, sql: &str, params: &[Value<'_>]) -> mysql::Result<Started<'c>> {
        if params.is_empty() {
            return Ok(Started::Text(self.conn.query_iter(sql)?));
        }
        let params = Params::Positional(params.iter().map(bound).collect());
        Ok(Started::Binary(self.conn.exec_iter(sql, params)?))
    }
}

enum Started<'c> {
    Text(QueryResult<'c, 'c, 'c, mysql::Text>),
    Binary(QueryResult<'c, 'c, 'c, mysql::Binary>),
}

impl Db for Mysql {
    fn dialect(&self) -> Dialect {
        Dialect::Mysql
    }

    fn execute(&mut self, sql: &str, params: &[Value<'_>]) -> DbResult<u64> {
        self.usable()?;
        let mut run = || -> mysql::Result<u64> {
            match self.start(sql, params)? {
                Started::Text(result) => drain(result),
                Started::Binary(result) => drain(result),
            }
        };
        let result = run();
        result.map_err(|error| self.failed(&error))
    }

    fn query(&mut self, sql: &str, params: &[Value<'_>], on_row: &mut OnRow<'_>) -> DbResult<()> {
        self.usable()?;
        let mut run = || -> mysql::Result<()> {
            match self.start(sql, params)? {
                Started::Text(result) => each_row(result, on_row),
                Started::Binary(result) => each_row(result, on_row),
            }
        };
        let result = run();
        result.map_err(|error| self.failed(&error))
    }

    fn columns(&mut self, sql: &str) -> DbResult<Vec<String>> {
        self.usable()?;
        let prepared = self.conn.prep(sql);
        let statement = prepared.map_err(|error| self.failed(&error))?;
        let columns = statement.columns();
        let names = columns.iter().map(|column| column.name_str());
        Ok(names.map(std::borrow::Cow::into_owned).collect())
    }

    fn limit_queries(&mut self, longest: Option<Duration>) -> DbResult<()> {
        let millis = longest.map_or(0, |longest| longest.as_millis().max(1));
        // MariaDB has a name and a unit of its own for it. It counts from 10, and says 5.5.5 first.
        let version = self.conn.server_version();
        let sql = if version.0 >= 10 || version == (5, 5, 5) {
            format!(
                "SET max_statement_time = {}.{:03}",
                millis / 1000,
                millis % 1000
            )
        } else {
            format!("SET max_execution_time = {millis}")
        };
        self.execute(&sql, &[]).map(drop)
    }

    fn begin(&mut self) -> DbResult<()> {
        self.execute("START TRANSACTION", &[]).map(drop)
    }

    fn commit(&mut self) -> DbResult<()> {
        self.usable()?; // not sent, so not unknown
        self.execute("COMMIT", &[])
            .map(drop)
            .map_err(|error| match error.kind {
                DbErrorKind::Lost => DbError {
                    kind: DbErrorKind::CommitUnknown,
                    ..error
                },
                _ => error,
            })
    }

    fn rollback(&mut self) {
        if let Err(error) = self.execute("ROLLBACK", &[]) {
            log::debug!("rollback: {error}");
        }
    }

    fn last_insert_id(&self) -> i64 {
        i64::try_from(self.conn.last_insert_id()).unwrap_or(i64::MAX)
    }

    fn now(&mut self) -> DbResult<UnixSeconds> {
        let ask = format!("SELECT {}", clock());
        let now = super::query_one(self, &ask, &[], |row| row.int(0))?;
        now.map(UnixSeconds)
            .ok_or_else(|| DbError::new(DbErrorKind::Statement, "the server did not tell its time"))
    }

    fn clock_in_sql(&self) -> Option<[String; 2]> {
        // Both are of the instant at which the statement began.
        Some([clock(), "MICROSECOND(NOW(6))".to_owned()])
    }

    fn host_clock(&self) -> Option<(UnixSeconds, Duration)> {
        None
    }

    fn version(&mut self) -> DbResult<Option<i64>> {
        Ok(None)
    }

    fn ping(&mut self) -> DbResult<()> {
        self.usable()?;
        let result = self.conn.ping();
        result.map_err(|error| self.failed(&error))
    }

    fn execute_script(&mut self, sql: &str) -> DbResult<()> {
        for statement in statements(sql) {
            self.execute(statement, &[])?;
        }
        Ok(())
    }

    fn advisory_lock(&mut self, name: &str, seconds: u32) -> DbResult<AdvisoryLock> {
        let name = quoted(name)?;
        let ask = format!("SELECT GET_LOCK({name}, {seconds})");
        match super::query_one(self, &ask, &[], |row| row.opt_int(0)) {
            Err(error) if error.kind == DbErrorKind::Unsupported => Ok(AdvisoryLock::Unsupported),
            Err(error) => Err(error),
            Ok(Some(Some(1))) => self.verify_lock(&name),
            Ok(Some(Some(0))) => Ok(AdvisoryLock::Busy),
            Ok(_) => Err(DbError::new(
                DbErrorKind::Statement,
                "GET_LOCK answered NULL",
            )),
        }
    }

    fn advisory_holder(&mut self, name: &str) -> DbResult<Option<i64>> {
        let ask = format!("SELECT IS_USED_LOCK({})", quoted(name)?);
        let holder = super::query_one(self, &ask, &[], |row| row.opt_int(0));
        Ok(holder?.flatten())
    }

    fn end_session(&mut self, session: i64) -> DbResult<()> {
        match self.execute(&format!("KILL {session}"), &[]) {
            Err(error) if error.ends_the_session() => Err(error),
            Err(error) => {
                log::info!("session {session} cannot be ended: {error}");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    fn forgets_ids(&self) -> bool {
        self.conn.server_version().0 < 8 // MariaDB counts from 10
    }

    fn database_name(&mut self) -> DbResult<String> {
        Ok(self.database.clone())
    }
}

impl Mysql {
    /// Behind a proxy that spreads statements over connections, or on a cluster that keeps no such
    /// locks, "got it" means nothing; on a replica nothing may be written, even by a user who can
    /// (RULINGS 8).
    fn verify_lock(&mut self, quoted_name: &str) -> DbResult<AdvisoryLock> {
        let sql =
            format!("SELECT IS_USED_LOCK({quoted_name}) = CONNECTION_ID(), @@global.read_only");
        let read = |row: &dyn Row| (row.opt_int(0) == Some(1), row.int(1) != 0);
        match super::query_one(self, &sql, &[], read)? {
            Some((_, true)) => Err(DbError::new(
                DbErrorKind::ReadOnly,
                "the server is read-only (a replica?); use the primary",
            )),
            Some((true, false)) => Ok(AdvisoryLock::Held),
            _ => Ok(AdvisoryLock::Unsupported),
        }
    }
}

/// The name of an advisory lock as a literal: bound, each question would be two round trips.
fn quoted(name: &str) -> DbResult<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !name.bytes().all(is_plain) {
        let message = format!("`{name}` is no name of a lock of ours");
        return Err(DbError::new(DbErrorKind::Statement, message));
    }
    Ok(format!("'{name}'"))
}

/// The server's clock.
fn clock() -> String {
    match fault::clock_shift() {
        0 => "UNIX_TIMESTAMP()".to_owned(),
        shift => format!("UNIX_TIMESTAMP() + {shift}"),
    }
}

fn drain<T: Protocol>(mut result: QueryResult<'_, '_, '_, T>) -> mysql::Result<u64> {
    let matched = result.affected_rows();
    for row in result.by_ref() {
        row?;
    }
    Ok(matched)
}

/// Hands rows to `on_row`; the rest is read and dropped once it wants no more, since the protocol
/// has no way to stop.
fn each_row<T: Protocol>(
    mut result: QueryResult<'_, '_, '_, T>,
    on_row: &mut OnRow<'_>,
) -> mysql::Result<()> {
    let mut wanted = true;
    for row in result.by_ref() {
        let row = row?;
        wanted = wanted && on_row(&row);
    }
    Ok(())
}

impl Row for mysql::Row {
    fn cell(&self, index: usize) -> Cell<'_> {
        match self.as_ref(index) {
            Some(mysql::Value::Int(number)) => Cell::Int(*number),
            Some(mysql::Value::UInt(number)) => {
                Cell::Int(i64::try_from(*number).unwrap_or(i64::MAX))
            }
            Some(mysql::Value::Bytes(bytes)) => Cell::Bytes(bytes),
            Some(mysql::Value::Float(number)) => Cell::Real(f64::from(*number)),
            Some(mysql::Value::Double(number)) => Cell::Real(*number),
            _ => Cell::Null,
        }
    }

    fn date(&self, index: usize) -> Option<String> {
        let value = self.as_ref(index)?;
        let is_date = matches!(value, mysql::Value::Date(..) | mysql::Value::Time(..));
        is_date.then(|| value.as_sql(true).trim_matches('\'').to_owned())
    }
}

fn bound(value: &Value<'_>) -> mysql::Value {
    match value {
        Value::Null => mysql::Value::NULL,
        Value::Int(number) => mysql::Value::Int(*number),
        Value::Real(number) => mysql::Value::Double(*number),
        Value::Bytes(bytes) => mysql::Value::Bytes(bytes.to_vec()),
    }
}

fn tls_options(server: &MysqlServer) -> Option<SslOpts> {
    match server.tls {
        Tls::Off => None,
        Tls::Required => Some(SslOpts::default().with_root_cert_path(server.tls_ca.clone())),
    }
}

/// The statements of one of our own scripts: separated by `;` at a line's end, `--` comments out.
fn statements(script: &str) -> impl Iterator<Item = &str> {
    script.split(";\n").map(str::trim).filter(|part| {
        part.lines()
            .any(|line| !line.trim().is_empty() && !line.trim_start().starts_with("--"))
    })
}

fn refused(error: &mysql::Error, server: &MysqlServer) -> DbError {
    let explained = explain(error);
    let kind = match explained.kind {
        DbErrorKind::Denied => DbErrorKind::Denied,
        _ => DbErrorKind::Unavailable,
    };
    let place = match &server.socket {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", server.host, server.port),
    };
    DbError {
        kind,
        message: format!(
            "cannot use {} at {place}: {}; {}",
            server.database,
            explained.message,
            remedy(&explained)
        ),
        code: explained.code,
    }
}

/// What a person can do about it.
fn remedy(refusal: &DbError) -> &'static str {
    match (refusal.kind, refusal.code) {
        _ if refusal.message.contains("certificate") => {
            "name the authority that signed it with ?tls_ca=FILE"
        }
        (DbErrorKind::Denied, _) => "correct user and password, or grant the user rights",
        (_, 1049) => "create the database, or correct its name",
        (_, 0) => "is a MySQL or MariaDB server running there?",
        _ => "try again, or ask the server's administrator",
    }
}

/// Sorts the server's error numbers by what they mean for the run.
fn explain(error: &mysql::Error) -> DbError {
    let mysql::Error::MySqlError(said) = error else {
        return DbError::new(DbErrorKind::Lost, driver_message(error));
    };
    let kind = match said.code {
        // Lock wait timeout, deadlock, record changed since last read.
        1205 | 1213 | 1020 => DbErrorKind::Busy,
        // Shutdown, connection killed, query interrupted by a kill, idle too long.
        1053 | 1077 | 1079 | 1152 | 1158..=1161 | 1184 | 1927 | 3169 | 4031 => DbErrorKind::Lost,
        // Too many connections, unknown database, host blocked.
        1040 | 1049 | 1129 | 1203 => DbErrorKind::Unavailable,
        1044 | 1045 | 1130 | 1131 | 1142 | 1143 | 1227 | 1370 | 1698 => DbErrorKind::Denied,
        // --read-only, --innodb-read-only, READ ONLY transaction, super_read_only.
        1036 | 1290 | 1792 | 1836 | 1874 => DbErrorKind::ReadOnly,
        1021 | 1114 => DbErrorKind::Full,
        1030 | 1194 | 1195 => DbErrorKind::Io,
        1051 | 1054 | 1146 => DbErrorKind::NoSchema,
        1022 | 1062 | 1586 => DbErrorKind::Duplicate,
        1235 => DbErrorKind::Unsupported,
        1969 | 3024 => DbErrorKind::TooLong,
        _ => DbErrorKind::Statement,
    };
    let message = match said.code {
        1969 | 3024 => "it took too long; give it an index, or less to do".to_owned(),
        _ => said.message.clone(),
    };
    DbError {
        kind,
        message,
        code: i64::from(said.code),
    }
}

fn driver_message(error: &mysql::Error) -> String {
    match error {
        mysql::Error::IoError(inner) => inner.to_string(),
        mysql::Error::DriverError(DriverError::CouldNotConnect(Some((_, why, _)))) => why.clone(),
        mysql::Error::DriverError(inner) => inner.to_string(),
        mysql::Error::CodecError(inner) => inner.to_string(),
        mysql::Error::TlsError(inner) => format!("TLS: {inner}"),
        other => other.to_string(),
    }
}
