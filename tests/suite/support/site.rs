//! A site: a directory with a configuration, a database, and a home, as a user of `punctual` has.
//!
//! What a test asks the database goes over connections made here, never through the product.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mysql::prelude::Queryable as _;
use tempfile::TempDir;

use super::mariadb;
use super::process::{Ended, Running, eventually};

const PREFIX: &str = "punctual-site.";

/// Statements that forget all events and what runs wrote about them: all but the lease, what
/// `init` recorded, and the ticks that stepped aside. `seen` is what the tests' effects write to.
pub(crate) fn deletions() -> [String; 6] {
    [
        "scheduled_events",
        "event_history",
        "event_log",
        "event_runs",
        "event_types",
        "seen",
    ]
    .map(|table| format!("DELETE FROM {table}"))
}

/// One site; its directory and its database go with it.
pub(crate) struct Site {
    directory: TempDir,
    database: Database,
}

enum Database {
    Sqlite(PathBuf),
    Mariadb(mariadb::Database),
}

impl Site {
    /// A site on SQLite. The database file does not exist before [`Site::init`].
    #[track_caller]
    pub(crate) fn sqlite() -> Self {
        let directory = new_directory();
        let database = Database::Sqlite(directory.path().join("events.db"));
        Self::with(directory, database)
    }

    /// A site on SQLite, its database in a file of this name.
    #[track_caller]
    pub(crate) fn sqlite_named(file: &str) -> Self {
        let directory = new_directory();
        let database = Database::Sqlite(directory.path().join(file));
        Self::with(directory, database)
    }

    /// A site on SQLite in memory where there is a file system for that: nothing waits for a disk.
    /// For tests that kill processes and leave the machine alone.
    #[track_caller]
    pub(crate) fn sqlite_in_memory() -> Self {
        let shared = Path::new("/dev/shm");
        let directory = TempDir::with_prefix_in(PREFIX, shared).unwrap_or_else(|_| new_directory());
        let database = Database::Sqlite(directory.path().join("events.db"));
        Self::with(directory, database)
    }

    /// A site on a fresh database of the shared MariaDB server.
    #[track_caller]
    pub(crate) fn mariadb() -> Self {
        Self::on(mariadb::shared())
    }

    /// A site on a fresh database of this server.
    #[track_caller]
    pub(crate) fn on(server: &mariadb::Server) -> Self {
        Self::with(new_directory(), Database::Mariadb(server.database()))
    }

    #[track_caller]
    fn with(directory: TempDir, database: Database) -> Self {
        let site = Self {
            directory,
            database,
        };
        for name in ["home", "state"] {
            fs::create_dir(site.path(name)).expect("a directory in a new directory");
        }
        site.config("");
        site
    }

    /// Writes `punctual.toml` anew: the database, then `text`.
    #[track_caller]
    pub(crate) fn config(&self, text: &str) -> &Self {
        self.write(
            "punctual.toml",
            &format!("database = \"{}\"\n{text}\n", self.url()),
        )
    }

    /// Writes a file of the site, readable for its owner only.
    #[track_caller]
    pub(crate) fn write(&self, name: &str, text: &str) -> &Self {
        self.write_with_mode(name, text, 0o600)
    }

    /// Writes a program of the site, such as a handler.
    #[track_caller]
    pub(crate) fn write_program(&self, name: &str, text: &str) -> &Self {
        self.write_with_mode(name, text, 0o700)
    }

    /// Copies the binary into the site. Another process does it: what this one writes, a child of another
    /// test may hold open in the instant before its exec, and no program can be started of a file
    /// that is open for writing.
    #[track_caller]
    pub(crate) fn copy_binary(&self, name: &str) -> &Self {
        let mut copy = Command::new("cp");
        let copy = copy
            .arg(env!("CARGO_BIN_EXE_punctual"))
            .arg(self.path(name));
        assert!(copy.status().expect("cp is there").success(), "{name}");
        self
    }

    /// Writes a file of the site that every user may read.
    #[track_caller]
    pub(crate) fn write_for_all(&self, name: &str, text: &str) -> &Self {
        self.write_with_mode(name, text, 0o644)
    }

    /// Lets every user of this machine write to the site's home, and read its configuration,
    /// which names a database user without a password over a socket open to all.
    #[track_caller]
    pub(crate) fn open_to_all_users(&self) {
        let open = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("a file of ours");
        };
        open(self.directory.path(), 0o755);
        open(&self.path("home"), 0o777);
        let configuration = self.path("punctual.toml");
        let text = fs::read_to_string(&configuration).expect("a configuration");
        let database = self.mariadb_database().expect("a MariaDB site");
        let text = text.replace(&self.url(), &database.open_url());
        self.write_for_all("punctual.toml", &text);
        let above = database.socket.parent().expect("a directory");
        open(above, 0o711);
    }

    #[track_caller]
    fn write_with_mode(&self, name: &str, text: &str, mode: u32) -> &Self {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(self.path(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        file.write_all(text.as_bytes()).expect("room on the disk");
        file.set_permissions(Permissions::from_mode(mode))
            .expect("a file of ours");
        self
    }

    /// A path in the site's directory, which is also the working directory of what runs here.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The database's URL as the configuration has it, its password included.
    pub(crate) fn url(&self) -> String {
        match &self.database {
            Database::Sqlite(path) => format!("sqlite:{}", path.display()),
            Database::Mariadb(database) => database.url(),
        }
    }

    /// The MariaDB database under this site; `None` on SQLite.
    pub(crate) fn mariadb_database(&self) -> Option<&mariadb::Database> {
        match &self.database {
            Database::Sqlite(_) => None,
            Database::Mariadb(database) => Some(database),
        }
    }

    /// Creates the schema.
    #[track_caller]
    pub(crate) fn init(&self) -> &Self {
        let ended = self.punctual(["init"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        self
    }

    /// Runs the binary with these arguments to its end.
    #[track_caller]
    pub(crate) fn punctual<const N: usize>(&self, arguments: [&str; N]) -> Ended {
        self.finish(self.spawn(arguments))
    }

    /// Runs the binary to its end with this text on stdin.
    #[track_caller]
    pub(crate) fn punctual_reading<const N: usize>(
        &self,
        stdin: impl AsRef<[u8]>,
        arguments: [&str; N],
    ) -> Ended {
        let mut command = self.command(env!("CARGO_BIN_EXE_punctual"));
        command.args(arguments);
        self.finish(Running::start(command, stdin.as_ref()))
    }

    /// Starts the binary.
    #[track_caller]
    pub(crate) fn spawn<const N: usize>(&self, arguments: [&str; N]) -> Running {
        let mut command = self.command(env!("CARGO_BIN_EXE_punctual"));
        command.args(arguments);
        Running::start(command, b"")
    }

    /// Waits for a process of the site, and asserts that it did not show the password.
    #[track_caller]
    pub(crate) fn finish(&self, running: Running) -> Ended {
        let ended = running.wait();
        if let Some(database) = self.mariadb_database() {
            let shown = [&ended.stdout, &ended.stderr]
                .into_iter()
                .any(|text| text.contains(&database.password));
            assert!(!shown, "the password was shown: {ended:?}");
        }
        ended
    }

    /// A command in the site's directory with nothing of the tester's environment but `PATH`.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("TZ", "UTC");
        command
    }

    /// Runs a PHP script (with its `<?php`) to its end; see [`Site::spawn_php`].
    #[track_caller]
    pub(crate) fn php(&self, script: &str) -> Ended {
        self.spawn_php(script).wait()
    }

    /// Starts a PHP script that reaches the site's database by `new PDO(getenv('DSN'),
    /// getenv('DB_USER'), getenv('DB_PASSWORD'))`, and SQLite's file also by `SQLITE_PATH`.
    #[track_caller]
    pub(crate) fn spawn_php(&self, script: &str) -> Running {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let file = format!("script-{}.php", NEXT.fetch_add(1, Ordering::Relaxed));
        self.write(&file, script);
        let mut command = self.command("php");
        command.args(["-d", "display_errors=stderr"]).arg(file);
        match &self.database {
            Database::Sqlite(path) => {
                command
                    .env("DSN", format!("sqlite:{}", path.display()))
                    .env("SQLITE_PATH", path);
            }
            Database::Mariadb(database) => {
                let socket = database.socket.display();
                command
                    .env(
                        "DSN",
                        format!("mysql:unix_socket={socket};dbname={}", database.name),
                    )
                    .env("DB_USER", &database.user)
                    .env("DB_PASSWORD", &database.password);
            }
        }
        assert!(
            Command::new("php").arg("-v").output().is_ok(),
            "php is not installed: apt-get install php-cli php-mysql php-sqlite3, or run contrib/test"
        );
        Running::start(command, b"")
    }

    /// Runs statements that answer nothing, over a connection of the test's own.
    #[track_caller]
    pub(crate) fn sql(&self, statement: &str) -> &Self {
        self.sql_all(&[statement])
    }

    /// Runs several such statements over one connection, in one transaction.
    #[track_caller]
    pub(crate) fn sql_all(&self, statements: &[impl AsRef<str>]) -> &Self {
        let mut all: Vec<&str> = statements.iter().map(AsRef::as_ref).collect();
        if all.len() > 1 {
            all.insert(0, "BEGIN");
            all.push("COMMIT");
        }
        let failed = |statement: &str, error: &dyn std::fmt::Display| -> ! {
            panic!("{statement}: {error}")
        };
        match &self.database {
            Database::Sqlite(path) => {
                let connection = open(path);
                for statement in all {
                    let run = connection.execute_batch(statement);
                    run.unwrap_or_else(|error| failed(statement, &error));
                }
            }
            Database::Mariadb(database) => {
                let mut connection = database.connect();
                for statement in all {
                    let run = connection.query_drop(statement);
                    run.unwrap_or_else(|error| failed(statement, &error));
                }
            }
        }
        self
    }

    /// Runs statements when it is called: what another session does in the middle of a run.
    pub(crate) fn sql_later(&self, statements: &'static [&'static str]) -> impl FnMut() + 'static {
        type Session = Box<dyn FnMut(&str) -> Result<(), String>>;
        let mut run: Session = match &self.database {
            Database::Sqlite(path) => {
                let path = path.clone();
                Box::new(move |text| open(&path).execute_batch(text).map_err(|e| e.to_string()))
            }
            Database::Mariadb(database) => {
                let mut session = database.connect();
                Box::new(move |text| session.query_drop(text).map_err(|e| e.to_string()))
            }
        };
        move || {
            for statement in statements {
                run(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
            }
        }
    }

    /// Waits until the server knows that earlier runs are gone: a tick that comes in the instant
    /// before steps aside for the lock that is theirs still.
    #[track_caller]
    pub(crate) fn alone(&self) {
        if self.mariadb_database().is_some() {
            let others = "SELECT COUNT(*) FROM information_schema.PROCESSLIST \
                          WHERE DB = DATABASE() AND ID <> CONNECTION_ID()";
            eventually("nobody else is connected", || self.query_i64(others) == 0);
        }
    }

    /// The one number that `query` answers.
    #[track_caller]
    pub(crate) fn query_i64(&self, query: &str) -> i64 {
        let rows = self.rows(query);
        let [row] = rows.as_slice() else {
            panic!("{query}: not one row: {rows:?}")
        };
        let [cell] = row.as_slice() else {
            panic!("{query}: not one column: {row:?}")
        };
        cell.parse()
            .unwrap_or_else(|error| panic!("{query}: {cell}: {error}"))
    }

    /// What `query` answers, as text; NULL is `NULL`.
    #[track_caller]
    pub(crate) fn rows(&self, query: &str) -> Vec<Vec<String>> {
        let outcome = match &self.database {
            Database::Sqlite(path) => sqlite_rows(&open(path), query).map_err(|e| e.to_string()),
            Database::Mariadb(database) => database
                .connect()
                .query_map(query, |row: mysql::Row| {
                    row.unwrap().into_iter().map(mysql_cell).collect()
                })
                .map_err(|error| error.to_string()),
        };
        outcome.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// As [`Site::rows`], of what a killed process left behind: nothing of it is touched. On SQLite
    /// a copy is read, so that a hot journal is still there for who comes next.
    #[track_caller]
    pub(crate) fn rows_as_left(&self, query: &str) -> Vec<Vec<String>> {
        let Database::Sqlite(path) = &self.database else {
            return self.rows(query);
        };
        let beside = |path: &Path| PathBuf::from(format!("{}-journal", path.display()));
        let copy = self.path("as-left.db");
        fs::copy(path, &copy).expect("room on the disk");
        if fs::copy(beside(path), beside(&copy)).is_err() {
            // No transaction was open.
            let _ = fs::remove_file(beside(&copy));
        }
        sqlite_rows(&open(&copy), query).unwrap_or_else(|error| panic!("{query}: {error}"))
    }
}

#[track_caller]
fn new_directory() -> TempDir {
    TempDir::with_prefix(PREFIX).expect("a temporary directory")
}

#[track_caller]
fn open(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    connection
        .busy_timeout(Duration::from_secs(30))
        .expect("a plain setting");
    connection
}

fn sqlite_rows(
    connection: &rusqlite::Connection,
    query: &str,
) -> rusqlite::Result<Vec<Vec<String>>> {
    let mut statement = connection.prepare(query)?;
    let columns = statement.column_count();
    statement
        .query_map([], |row| {
            (0..columns)
                .map(|i| Ok(sqlite_cell(row.get_ref(i)?)))
                .collect()
        })?
        .collect()
}

fn sqlite_cell(value: rusqlite::types::ValueRef<'_>) -> String {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
    }
}

fn mysql_cell(value: mysql::Value) -> String {
    match value {
        mysql::Value::NULL => "NULL".to_owned(),
        mysql::Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => other.as_sql(true).trim_matches('\'').to_owned(),
    }
}
