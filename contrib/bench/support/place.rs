//! Where is measured: SQLite with a write-ahead log and with a rollback journal, both durable
//! (synchronous FULL), and a private MariaDB with its defaults; and tables filled in no time.

use std::path::PathBuf;

use super::mariadb::Server;
use super::measure::{punctual, seconds_of};
use super::site::Site;

/// The three databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Wal,
    Rollback,
    Mariadb,
}

pub(crate) const ALL: [Kind; 3] = [Kind::Wal, Kind::Rollback, Kind::Mariadb];

impl Kind {
    /// As the tables of the report name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Wal => "SQLite, WAL",
            Kind::Rollback => "SQLite, rollback journal",
            Kind::Mariadb => "MariaDB",
        }
    }

    /// As a part of a row's key.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Kind::Wal => "wal",
            Kind::Rollback => "rollback",
            Kind::Mariadb => "mariadb",
        }
    }
}

/// What `contrib/private-mariadb` sets smaller for the tests' sake, put back to what MariaDB 10.11
/// has by default. `innodb_flush_log_at_trx_commit` is 1 there already; there is no binary log.
const DEFAULTS: [&str; 3] = [
    "--innodb-buffer-pool-size=128M",
    "--innodb-log-file-size=96M",
    "--innodb-use-native-aio=1",
];
/// For filling tables only.
const FAST: [&str; 5] = [
    "--innodb-buffer-pool-size=1G",
    "--innodb-log-file-size=96M",
    "--innodb-use-native-aio=1",
    "--innodb-flush-log-at-trx-commit=0",
    "--skip-innodb-doublewrite",
];

/// A type `sql` that inserts one row an event.
pub(crate) const SQL: &str = "[type.sql]\nhandler = \"sql\"\n\
     sql = \"INSERT INTO effects (event_id, fired_at) VALUES (:id, :now)\"\n";

/// MediaWiki's job table, with all its indexes.
const JOB_TABLE_MARIADB: [&str; 1] = ["CREATE TABLE job (\
     job_id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, \
     job_cmd VARBINARY(60) NOT NULL DEFAULT '', job_namespace INT NOT NULL, \
     job_title VARBINARY(255) NOT NULL, job_timestamp BINARY(14), job_params MEDIUMBLOB NOT NULL, \
     job_random INT UNSIGNED NOT NULL DEFAULT 0, job_attempts INT UNSIGNED NOT NULL DEFAULT 0, \
     job_token VARBINARY(32) NOT NULL DEFAULT '', job_token_timestamp BINARY(14), \
     job_sha1 VARBINARY(32) NOT NULL DEFAULT '', INDEX (job_sha1), \
     INDEX (job_cmd, job_token, job_random), INDEX (job_cmd, job_token, job_id), \
     INDEX (job_cmd, job_namespace, job_title, job_params(128)), INDEX (job_timestamp))"];
const JOB_TABLE_SQLITE: [&str; 6] = [
    "CREATE TABLE job (job_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, \
     job_cmd BLOB NOT NULL DEFAULT '', job_namespace INTEGER NOT NULL, job_title BLOB NOT NULL, \
     job_timestamp BLOB, job_params BLOB NOT NULL, job_random INTEGER NOT NULL DEFAULT 0, \
     job_attempts INTEGER NOT NULL DEFAULT 0, job_token BLOB NOT NULL DEFAULT '', \
     job_token_timestamp BLOB, job_sha1 BLOB NOT NULL DEFAULT '')",
    "CREATE INDEX job_sha1 ON job (job_sha1)",
    "CREATE INDEX job_cmd_token ON job (job_cmd, job_token, job_random)",
    "CREATE INDEX job_cmd_token_id ON job (job_cmd, job_token, job_id)",
    "CREATE INDEX job_cmd ON job (job_cmd, job_namespace, job_title, job_params)",
    "CREATE INDEX job_timestamp ON job (job_timestamp)",
];

/// An initialised site on one of the databases.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) site: Site,
    /// After the site, so that its database is dropped first.
    server: Option<Server>,
}

impl Place {
    /// A new site with these types in its configuration, and a table `effects` that they may write.
    pub(crate) fn new(kind: Kind, types: &str) -> Self {
        let server = (kind == Kind::Mariadb).then(|| Server::private(&DEFAULTS));
        let site = match &server {
            Some(server) => Site::on(server),
            None => Site::sqlite(),
        };
        Self { kind, site, server }.prepared(types)
    }

    fn prepared(self, types: &str) -> Self {
        self.site.config(types).init();
        if self.kind == Kind::Wal {
            self.site.sql("PRAGMA journal_mode = WAL");
        }
        self.site
            .sql("CREATE TABLE effects (event_id BIGINT, fired_at BIGINT)")
            .sql_all(match self.kind {
                Kind::Mariadb => &JOB_TABLE_MARIADB[..],
                _ => &JOB_TABLE_SQLITE[..],
            });
        self
    }

    /// Another site on the same server; only where there is one.
    pub(crate) fn neighbour(&self, types: &str) -> Site {
        let site = Site::on(self.server());
        site.config(types).init();
        site.sql("CREATE TABLE effects (event_id BIGINT, fired_at BIGINT)");
        site
    }

    /// The server under it.
    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("a place on MariaDB")
    }

    /// SQLite's file.
    pub(crate) fn file(&self) -> PathBuf {
        self.site.path("events.db")
    }

    /// Inserts `count` events of a type; the n-th is due at `first + n / 100`, with a payload of
    /// `{"user":n}`, filled up with blanks to `bytes`.
    pub(crate) fn events(&self, type_name: &str, count: u64, first: i64, bytes: usize) {
        let payload = match self.kind {
            Kind::Mariadb => {
                // RPAD cuts what is longer.
                let text = "CONCAT('{\"user\":', seq, '}')";
                format!("RPAD({text}, GREATEST({bytes}, LENGTH({text})), ' ')")
            }
            _ => format!("printf('%-{bytes}s', '{{\"user\":' || seq || '}}')"),
        };
        self.insert(
            "scheduled_events (type, due_at, payload)",
            &format!("'{type_name}', {first} + seq DIV 100, {payload}"),
            count,
        );
    }

    /// Nothing but `count` due events of a type.
    pub(crate) fn backlog(&self, type_name: &str, count: u64) {
        self.forget();
        self.events(type_name, count, PAST, 0);
        self.at_rest();
    }

    /// Nothing but `count` due events of a type, each of which asks for a job of a wiki.
    pub(crate) fn backlog_of_jobs(&self, type_name: &str, count: u64) {
        self.forget();
        let payload = match self.kind {
            Kind::Mariadb => "CONCAT('{\"type\":\"null\",\"params\":{\"user\":', seq, '}}')",
            _ => "printf('{\"type\":\"null\",\"params\":{\"user\":%d}}', seq)",
        };
        self.insert(
            "scheduled_events (type, due_at, payload)",
            &format!("'{type_name}', {PAST} + seq DIV 100, {payload}"),
            count,
        );
        self.at_rest();
    }

    /// Inserts `count` finished events.
    pub(crate) fn history(&self, count: u64) {
        self.insert(
            "event_history (event_id, type, due_at, payload, priority, attempts, losses, \
             deferrals, outcome, finished_at, run_id, lateness_s, duration_ms)",
            "seq, 'past', 1000, '{\"user\":1}', 0, 0, 0, 0, 'done', 1000 + seq DIV 100, 1, 0, 0",
            count,
        );
    }

    fn insert(&self, into: &str, values: &str, count: u64) {
        let mut done = 0;
        while done < count {
            let last = count.min(done + CHUNK);
            let first = done + 1;
            self.site.sql(&match self.kind {
                Kind::Mariadb => {
                    format!("INSERT INTO {into} SELECT {values} FROM seq_{first}_to_{last}")
                }
                _ => format!(
                    "INSERT INTO {into} WITH RECURSIVE n (seq) AS (SELECT {first} UNION ALL \
                     SELECT seq + 1 FROM n LIMIT {}) SELECT {} FROM n",
                    last - done,
                    values.replace(" DIV ", " / "),
                ),
            });
            done = last;
        }
    }

    /// Fills tables with `fill` on a server that need not be durable meanwhile, and lets it come to
    /// rest.
    pub(crate) fn filled(&self, fill: impl FnOnce(&Self)) {
        if let Some(server) = &self.server {
            server.stop();
            server.restart(&FAST);
        }
        fill(self);
        if let Some(server) = &self.server {
            server.stop(); // writes every page
            server.restart(&DEFAULTS);
        } else {
            self.at_rest();
        }
    }

    /// What was written last is in its place: the next to come shall not pay for it.
    pub(crate) fn at_rest(&self) {
        if self.kind == Kind::Wal {
            self.site.rows("PRAGMA wal_checkpoint(TRUNCATE)");
        }
    }

    /// Empties the tables that a drain fills.
    pub(crate) fn forget(&self) {
        for table in ["scheduled_events", "event_history", "effects", "job"] {
            self.site.sql(&match self.kind {
                Kind::Mariadb => format!("TRUNCATE TABLE {table}"),
                _ => format!("DELETE FROM {table}"),
            });
        }
    }

    /// Seconds that `punctual run` takes, as a whole process, to fire exactly `count` events.
    pub(crate) fn drain(&self, count: u64) -> f64 {
        let before = self.site.query_i64(DONE);
        let took = seconds_of(punctual(&self.site, &["run", "--max-time", "2h"]));
        self.must_have_done(before, count);
        took
    }

    /// Panics unless `count` events more than `before` are in history, done, and none is due.
    pub(crate) fn must_have_done(&self, before: i64, count: u64) {
        let done = self.site.query_i64(DONE) - before;
        let left = self.site.query_i64(
            "SELECT COUNT(*) FROM scheduled_events WHERE status = 'ready' AND due_at < 1000000000",
        );
        assert_eq!((done.cast_unsigned(), left), (count, 0), "done, left");
    }
}

/// Rows an INSERT.
const CHUNK: u64 = 100_000;

const DONE: &str = "SELECT COUNT(*) FROM event_history WHERE outcome = 'done'";

/// Before any clock's present.
pub(crate) const PAST: i64 = 1_000_000;
/// After it: the year 2100.
pub(crate) const FUTURE: i64 = 4_102_444_800;
