//! Where whole runs are tried: a SQLite database with a configuration, connections that break on
//! demand, a web site.

use std::cell::Cell as Shared;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;

use crate::clock::Clock;
use crate::config::{Config, Database, Env, Layers, load};
use crate::db::double::{Call, Hooks, hooked};
use crate::db::{Access, Cell, Db, DbError, DbErrorKind, DbResult, Row, migrate};
use crate::runner::{Options, Report, World, run};

/// A database with punctual's tables and one of the site's own, `log (id, word)`.
pub(super) struct Bed {
    config: Config,
    _root: TempDir,
}

impl Bed {
    /// With `types` behind the database in the configuration.
    pub(super) fn new(types: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("punctual.toml");
        fs::write(&file, format!("database = \"sqlite:events.db\"\n{types}")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let home = root.path().as_os_str().to_owned();
        let layers = Layers {
            config_flag: Some(file),
            database_flag: None,
            env: [("HOME", home)].into_iter().collect::<Env>(),
            cwd: root.path().to_owned(),
            allow_unsafe: true,
        };
        let config = load(&layers).unwrap();
        let bed = Self {
            config,
            _root: root,
        };
        let mut db = crate::db::connect(bed.database(), Access::Create, Clock::system()).unwrap();
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

    pub(super) fn database(&self) -> &Database {
        self.config.database.as_ref().unwrap()
    }

    pub(super) fn db(&self) -> Box<dyn Db> {
        crate::db::connect(self.database(), Access::Write, Clock::system()).unwrap()
    }

    pub(super) fn sql(&self, statement: &str) {
        self.db().execute_script(statement).unwrap();
    }

    /// The first row of `query`, its columns joined by `|`.
    pub(super) fn one(&self, query: &str) -> String {
        one(self.database(), query)
    }

    /// `count` events of `type_name`, due since long.
    pub(super) fn add(&self, type_name: &str, count: usize) {
        let mut db = self.db();
        db.begin().unwrap();
        for _ in 0..count {
            let sql = "INSERT INTO scheduled_events (type, due_at, payload) VALUES (?, 1000, '{}')";
            db.execute(sql, &[type_name.into()]).unwrap();
        }
        db.commit().unwrap();
    }

    pub(super) fn run(&self) -> Report {
        self.run_in(World::real())
    }

    /// A run whose connections, counted from 1, each ask what `fails` makes for them.
    pub(super) fn run_over<F>(&self, fails: impl Fn(usize) -> F) -> Report
    where
        F: FnMut(&str) -> Option<DbError> + 'static,
    {
        let connections = Shared::new(0);
        let connect = |database: &Database, access: Access, clock: Clock| {
            let inner = crate::db::connect(database, access, clock)?;
            connections.set(connections.get() + 1);
            Ok(hooked(inner, Faulty(fails(connections.get()))))
        };
        self.run_in(World {
            connect: &connect,
            ..World::real()
        })
    }

    fn run_in(&self, world: World<'_>) -> Report {
        run(&self.config, &Options::of(&self.config), world, &mut |_| {}).unwrap()
    }
}

/// As [`Bed::one`].
pub(super) fn one(database: &Database, query: &str) -> String {
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
            Call::Columns(_)
            | Call::Limit
            | Call::Now
            | Call::Version
            | Call::Ping
            | Call::AdvisoryLock => return Ok(()),
        };
        (self.0)(about).map_or(Ok(()), Err)
    }

    fn after_commit(&mut self) -> DbResult<()> {
        (self.0)("COMMITTED").map_or(Ok(()), Err)
    }
}

/// What a connection says that breaks, in whichever way.
pub(super) fn gone(kind: DbErrorKind) -> DbError {
    DbError::new(kind, "gone")
}

/// The first connection is lost at its first ack.
pub(super) fn lost_at_the_first_ack(nth: usize) -> impl FnMut(&str) -> Option<DbError> {
    let mut lost = false;
    move |sql| {
        lost |= nth == 1 && sql.starts_with("INSERT INTO /*_*/event_history");
        lost.then(|| gone(DbErrorKind::Lost))
    }
}

/// The first connection is lost after the first COMMIT of an ending, before its answer.
pub(super) fn no_answer_to_the_first_commit(nth: usize) -> impl FnMut(&str) -> Option<DbError> {
    let (mut recorded, mut lost) = (false, false);
    move |sql| {
        recorded |= sql.starts_with("INSERT INTO /*_*/event_history");
        lost |= nth == 1 && recorded && sql == "COMMITTED";
        lost.then(|| gone(DbErrorKind::CommitUnknown))
    }
}

/// A server on the loopback that answers every request with 200 after `patience`; its URL.
pub(super) fn web_site(patience: Duration) -> String {
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
