//! Every query, written once for both dialects, over the narrow connection of [`crate::db`].
//!
//! Numbers of ours are written into the statements; everything that came from a row, a file or a
//! command line is bound. `/*_*/` stands for the table prefix, as in the schema scripts.

use std::borrow::Cow;
use std::time::Duration;

use crate::clock::{Clock, UnixSeconds};
use crate::config::Config;
use crate::db::{
    self, Access, AdvisoryLock, Db, DbError, DbErrorKind, DbResult, Dialect, Row, migrate,
};
use crate::error::Failure;
use crate::event::{Event, EventId, Slot};
use crate::fault;

use lease::LeaseRow;

pub mod backfill;
pub mod claim;
pub mod desk;
pub mod effect;
pub mod lease;
pub mod listing;
pub mod peek;
pub mod prune;
pub mod recover;
pub mod report;
pub mod runs;
pub mod schedules;
pub mod settle;
pub mod sources;
mod statement;

/// The columns that [`read_event`] reads, in its order. How many slots an event stands for is told
/// by [`Store::tell_slots`].
pub const EVENT_COLUMNS: &str = "id, type, due_at, first_due_at, payload, \
     COALESCE(held_key, unique_key), priority, expires_at, attempts, losses, deferrals, slot_at";
/// How many columns that are: the index of what stands behind them.
const EVENT_WIDTH: usize = 12;

/// A connection together with the table prefix.
pub struct Store {
    db: Box<dyn Db>,
    prefix: String,
}

impl Store {
    /// Wraps a connection.
    pub fn new(db: Box<dyn Db>, prefix: &str) -> Self {
        Self {
            db,
            prefix: prefix.to_owned(),
        }
    }

    /// Connects to the configured database, without looking at what is in it.
    ///
    /// # Errors
    /// [`Failure`] 78 where none is configured; a `DbError` where it cannot be used.
    pub fn connect(config: &Config, access: Access, clock: Clock) -> anyhow::Result<Self> {
        let database = config.database.as_ref().ok_or_else(Failure::no_database)?;
        Ok(Self::new(
            db::connect(database, access, clock)?,
            &config.table_prefix,
        ))
    }

    /// Connects and checks that the tables are there, of this version, and made for this database.
    ///
    /// # Errors
    /// As [`Store::connect`]; 78 for a missing or newer schema and for a copied database.
    pub fn open(config: &Config, access: Access, clock: Clock) -> anyhow::Result<(Self, Install)> {
        let mut store = Self::connect(config, access, clock)?;
        let install = store.install()?;
        Ok((store, install))
    }

    /// Reads and checks `punctual_meta`.
    ///
    /// # Errors
    /// `NoSchema` with the remedy; [`Failure`] 78 where the database is a copy (RULINGS 46).
    pub fn install(&mut self) -> anyhow::Result<Install> {
        let meta = self.meta()?;
        let value = |name: &str| {
            meta.iter()
                .find(|(key, _)| key == name)
                .map(|(_, v)| v.clone())
        };
        migrate::check(value("schema_version").and_then(|text| text.parse().ok()))?;
        let name = self.db.database_name()?;
        let made_for = value("database_name").unwrap_or_default();
        let prefix = value("table_prefix").unwrap_or_default();
        let install_id = value("install_id").unwrap_or_default();
        if made_for.is_empty() && install_id.is_empty() {
            return Err(Failure::configuration(
                "the tables were made by hand, and nothing says yet which database they are in; \
                 run `punctual init` once",
            )
            .into());
        }
        if made_for != name || prefix != self.prefix || install_id.is_empty() {
            return Err(Failure::configuration(format!(
                "this database was set up as {made_for} (prefix `{prefix}`) and is now {name} \
                 (prefix `{}`): a copy would fire the original's events; if it is meant to, run \
                 `punctual init --adopt`",
                self.prefix
            ))
            .into());
        }
        Ok(Install {
            install_id,
            database_name: name,
            schedules: value(schedules::FINGERPRINT).unwrap_or_default(),
            sources: value(sources::FINGERPRINT).unwrap_or_default(),
            zone_data: value(schedules::ZONE_DATA).unwrap_or_default(),
        })
    }

    fn meta(&mut self) -> DbResult<Vec<(String, String)>> {
        let sql = self.sql("SELECT name, value FROM /*_*/punctual_meta");
        let read = |row: &dyn Row| (row.text(0), row.text(1));
        match db::query_all(&mut *self.db, &sql, &[], read) {
            Err(error) if error.kind == DbErrorKind::NoSchema => Ok(Vec::new()),
            other => other,
        }
    }

    /// The table prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The dialect of the connection.
    pub fn dialect(&self) -> Dialect {
        self.db.dialect()
    }

    /// The connection itself, for handlers' own statements.
    pub fn db(&mut self) -> &mut dyn Db {
        &mut *self.db
    }

    /// The clock that decides what is due.
    pub fn now(&mut self) -> DbResult<UnixSeconds> {
        self.db.now()
    }

    /// The host's clock where it is the one that decides: the second, and how much of it is over.
    pub fn host_clock(&self) -> Option<(UnixSeconds, Duration)> {
        self.db.host_clock()
    }

    /// A number that is another one once somebody else has committed anything; `None`: this
    /// database has none.
    pub fn version(&mut self) -> DbResult<Option<i64>> {
        self.db.version()
    }

    /// Takes the advisory lock of this install, where that needs no wait.
    pub fn advisory_lock(&mut self, install: &Install) -> DbResult<AdvisoryLock> {
        self.advisory_lock_within(install, 0)
    }

    /// Takes the advisory lock from a run that is just ending: its session may be over a moment
    /// after its file lock is.
    pub fn advisory_lock_handed_over(&mut self, install: &Install) -> DbResult<AdvisoryLock> {
        self.advisory_lock_within(install, PATIENCE)
    }

    fn advisory_lock_within(&mut self, install: &Install, seconds: u32) -> DbResult<AdvisoryLock> {
        if fault::locks_are_open() {
            return Ok(AdvisoryLock::Held);
        }
        let name = self.advisory_name(install);
        self.db.advisory_lock(&name, seconds)
    }

    /// Takes the advisory lock from the session of a run that let its lease lapse, as `seen`: a host
    /// that was cut off leaves its session, the lock and perhaps an open transaction to the server,
    /// which would keep them for minutes. Only from that session: where another run takes over
    /// meanwhile, it has the lock or renews the lease, and is left alone.
    pub fn break_advisory_lock(
        &mut self,
        install: &Install,
        seen: &LeaseRow,
    ) -> DbResult<AdvisoryLock> {
        let name = self.advisory_name(install);
        let holder = self.db.advisory_holder(&name)?;
        let got = self.db.advisory_lock(&name, PATIENCE)?;
        let Some(session) = holder.filter(|_| got == AdvisoryLock::Busy) else {
            return Ok(got);
        };
        let has_moved = self.lease_row()?.as_ref() != Some(seen);
        if has_moved || self.db.advisory_holder(&name)? != holder {
            return Ok(got);
        }
        log::info!("ending session {session}, which holds the advisory lock");
        self.db.end_session(session)?;
        self.db.advisory_lock(&name, PATIENCE)
    }

    fn advisory_name(&self, install: &Install) -> String {
        crate::lock::advisory_name(&install.install_id, &install.database_name, &self.prefix)
    }

    /// `text` with the table prefix put in.
    pub(crate) fn sql<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.prefix.is_empty() {
            return Cow::Borrowed(text); // the mark is a comment
        }
        Cow::Owned(text.replace(migrate::PREFIX_MARK, &self.prefix))
    }

    /// The whole number that a query without parameters finds; 0 where it finds none.
    fn number(&mut self, sql: &str) -> DbResult<i64> {
        let sql = self.sql(sql);
        Ok(db::query_one(&mut *self.db, &sql, &[], |row| row.int(0))?.unwrap_or(0))
    }

    /// ` FORCE INDEX (…)` behind a table's name on MySQL, where the planner could be tempted away
    /// from an index; nothing on SQLite.
    fn hint(&self, force_index: &'static str) -> &'static str {
        match self.dialect() {
            Dialect::Sqlite => "",
            Dialect::Mysql => force_index,
        }
    }

    /// `scheduled_events` as a DELETE by primary key.
    pub(crate) fn delete_events(&self) -> String {
        self.dialect()
            .delete_by_primary_key(&format!("{}scheduled_events", self.prefix))
    }
}

/// Seconds in which a session gives its lock back, or a run that has just taken the lock the lease.
const PATIENCE: u32 = 2;

/// How often a transaction that met a deadlock or a busy database is run (RULINGS 22).
const TRIES: u32 = 5;

/// Why a transaction of ours was rolled back.
#[derive(Debug)]
pub enum Stopped {
    /// The database said no.
    Db(DbError),
    /// The lease is no longer ours: claim and start nothing more (RULINGS 11).
    Fenced,
    /// Rows are not as they were when they were read; look again.
    Changed,
}

impl Stopped {
    /// As an error that ends a command.
    pub fn into_error(self) -> anyhow::Error {
        match self {
            Stopped::Db(error) => error.into(),
            Stopped::Changed => {
                Failure::temporary("the rows keep changing while they are read; try again").into()
            }
            Stopped::Fenced => Failure::temporary("another run took over; try again").into(),
        }
    }
}

impl From<DbError> for Stopped {
    fn from(error: DbError) -> Self {
        Stopped::Db(error)
    }
}

impl Store {
    /// Runs `work` in a write transaction, the whole of it again when the database was busy or a
    /// deadlock chose it as its victim (RULINGS 22). `work` must have no effect elsewhere.
    ///
    /// # Errors
    /// What `work` or COMMIT returned; the transaction is rolled back then.
    pub fn transaction<T>(
        &mut self,
        mut work: impl FnMut(&mut Store) -> Result<T, Stopped>,
    ) -> Result<T, Stopped> {
        let mut tries = 1;
        loop {
            let result = self.db.begin().map_err(Stopped::Db).and_then(|()| {
                let value = work(self)?;
                self.db.commit()?;
                Ok(value)
            });
            match result {
                Ok(value) => return Ok(value),
                Err(Stopped::Db(error)) if error.kind == DbErrorKind::Busy && tries < TRIES => {
                    self.db.rollback();
                    pause_between_tries(tries);
                }
                Err(stopped) => {
                    self.db.rollback();
                    return Err(stopped);
                }
            }
            tries += 1;
        }
    }
}

/// Waits some milliseconds, more with each try and with jitter, so that two victims do not meet
/// again.
#[expect(
    clippy::disallowed_methods,
    reason = "milliseconds, within one database call"
)]
fn pause_between_tries(tries: u32) {
    let jitter = getrandom::u32().unwrap_or(0) % 8;
    let millis = u64::from(4 * tries * tries + jitter);
    std::thread::sleep(Duration::from_millis(millis));
}

/// What `init` recorded of this database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Random, made by `init`; part of lock names and idempotency keys.
    pub install_id: String,
    /// The database it was made for.
    pub database_name: String,
    /// Of which schedules of a configuration the tables are, as [`schedules::fingerprint`] has it.
    pub schedules: String,
    /// Of which sources, as [`sources::fingerprint`] has it.
    pub sources: String,
    /// With which version of the zones' rules next slots were found.
    pub zone_data: String,
}

/// Reads [`EVENT_COLUMNS`].
pub fn read_event(row: &dyn Row) -> Event {
    let count = |index| u32::try_from(row.int(index)).unwrap_or(0);
    Event {
        id: EventId(row.int(0)),
        type_name: row.text(1),
        due_at: UnixSeconds(row.int(2)),
        first_due_at: row.opt_int(3).map(UnixSeconds),
        payload: row.opt_bytes(4).unwrap_or_default(),
        key: row.opt_bytes(5),
        priority: i8::try_from(row.int(6)).unwrap_or(0),
        expires_at: row.opt_int(7).map(UnixSeconds),
        attempts: count(8),
        losses: count(9),
        deferrals: count(10),
        slot: row.opt_int(11).map(|at| Slot {
            at: UnixSeconds(at),
            slots: 1,
        }),
    }
}
