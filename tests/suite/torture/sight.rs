//! The judge's own connection to the database: plain SQL, kept open, nothing of the product's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql::prelude::Queryable as _;

use crate::support::mariadb::Database;

/// What one cell says; `None` is NULL.
pub(super) type Cell = Option<String>;

pub(super) enum Sight {
    Sqlite {
        path: PathBuf,
        connection: Option<rusqlite::Connection>,
    },
    Mariadb {
        options: mysql::Opts,
        connection: Option<mysql::Conn>,
    },
}

impl Sight {
    pub(super) fn sqlite(path: &Path) -> Self {
        Self::Sqlite {
            path: path.to_owned(),
            connection: None,
        }
    }

    pub(super) fn mariadb(database: &Database) -> Self {
        let options = mysql::OptsBuilder::new()
            .socket(Some(database.socket.display().to_string()))
            .user(Some(&database.user))
            .pass(Some(&database.password))
            .db_name(Some(&database.name))
            .prefer_socket(false)
            .additional_capabilities(mysql::consts::CapabilityFlags::CLIENT_FOUND_ROWS)
            .init(vec![
                "SET wait_timeout = 3600, innodb_lock_wait_timeout = 3",
            ]);
        Self::Mariadb {
            options: options.into(),
            connection: None,
        }
    }

    /// Forgets a connection whose server was killed.
    pub(super) fn reconnect(&mut self) {
        match self {
            Self::Sqlite { connection, .. } => *connection = None,
            Self::Mariadb { connection, .. } => *connection = None,
        }
    }

    /// What reads the database's clock in a statement.
    pub(super) fn clock(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "CAST(strftime('%s', 'now') AS INTEGER)",
            Self::Mariadb { .. } => "UNIX_TIMESTAMP()",
        }
    }

    /// The site's own tables, which the statements of its types write.
    pub(super) fn tables(&self) -> Vec<String> {
        let counted = match self {
            Self::Sqlite { .. } => "INTEGER PRIMARY KEY AUTOINCREMENT",
            Self::Mariadb { .. } => "BIGINT PRIMARY KEY AUTO_INCREMENT",
        };
        vec![
            format!("CREATE TABLE effects (n {counted}, event_id BIGINT, at BIGINT)"),
            "CREATE TABLE picky (event_id BIGINT, ok INTEGER NOT NULL)".to_owned(),
            "CREATE TABLE mood (kind VARCHAR(20) PRIMARY KEY, ok INTEGER)".to_owned(),
            "INSERT INTO mood VALUES ('calm', 1), ('moody', 1)".to_owned(),
        ]
    }

    /// `INSERT`, leaving out what a key already has.
    pub(super) fn insert_ignore(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "INSERT OR IGNORE",
            Self::Mariadb { .. } => "INSERT IGNORE",
        }
    }

    /// How many rows it matched.
    #[track_caller]
    pub(super) fn execute(&mut self, statement: &str) -> u64 {
        self.try_execute(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    pub(super) fn try_execute(&mut self, statement: &str) -> Result<u64, String> {
        match self {
            Self::Sqlite { path, connection } => {
                let connection = connection.get_or_insert_with(|| open(path));
                let matched = connection.execute(statement, []);
                matched.map(|n| n as u64).map_err(|error| error.to_string())
            }
            Self::Mariadb {
                options,
                connection,
            } => {
                let connection = connection.get_or_insert_with(|| connect(options));
                // A run's own transaction may hold the row for a moment.
                connection
                    .query_drop(statement)
                    .map(|()| connection.affected_rows())
                    .map_err(|error| error.to_string())
            }
        }
    }

    #[track_caller]
    pub(super) fn rows(&mut self, query: &str) -> Vec<Vec<Cell>> {
        let rows = match self {
            Self::Sqlite { path, connection } => {
                let connection = connection.get_or_insert_with(|| open(path));
                sqlite_rows(connection, query).map_err(|error| error.to_string())
            }
            Self::Mariadb {
                options,
                connection,
            } => {
                let connection = connection.get_or_insert_with(|| connect(options));
                connection
                    .query_map(query, |row: mysql::Row| {
                        row.unwrap().into_iter().map(mysql_cell).collect()
                    })
                    .map_err(|error| error.to_string())
            }
        };
        rows.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// From here to [`Sight::look_away`] all questions see the same instant.
    pub(super) fn look(&mut self) {
        let begin = match self {
            Self::Sqlite { .. } => "BEGIN",
            Self::Mariadb { .. } => "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        };
        self.execute(begin);
    }

    pub(super) fn look_away(&mut self) {
        self.execute("COMMIT");
    }

    /// The ids of the server's connections of this site's user, but for this one.
    pub(super) fn connections(&mut self) -> Vec<String> {
        let query = "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()";
        let rows = self.rows(query).into_iter();
        rows.filter_map(|mut row| row.remove(0)).collect()
    }
}

/// A number in a cell; NULL is 0.
#[track_caller]
pub(super) fn number(cell: &Cell) -> i64 {
    let text = cell.as_deref().unwrap_or("0");
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn open(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let patient = connection.busy_timeout(Duration::from_secs(30));
    patient.expect("a plain setting");
    // What processes survive, the judge's own writes survive too; it need not wait for the disk.
    let quick = connection.execute_batch("PRAGMA synchronous = OFF");
    quick.expect("a plain setting");
    connection
}

fn connect(options: &mysql::Opts) -> mysql::Conn {
    mysql::Conn::new(options.clone()).unwrap_or_else(|error| panic!("the server: {error}"))
}

fn sqlite_rows(connection: &rusqlite::Connection, query: &str) -> rusqlite::Result<Vec<Vec<Cell>>> {
    use rusqlite::types::ValueRef;
    let mut statement = connection.prepare_cached(query)?;
    let columns = statement.column_count();
    let cell = |value: ValueRef<'_>| match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
    };
    statement
        .query_map([], |row| {
            (0..columns).map(|i| Ok(cell(row.get_ref(i)?))).collect()
        })?
        .collect()
}

fn mysql_cell(value: mysql::Value) -> Cell {
    match value {
        mysql::Value::NULL => None,
        mysql::Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    }
}
