//! A connection with hooks in front of it: what tests put between a run and its database. The whole
//! of [`Db`] is passed on here once, so that each test double says only what it does differently.

use std::time::Duration;

use super::{AdvisoryLock, Db, DbResult, Dialect, OnRow, Value};
use crate::clock::UnixSeconds;

/// A call on its way to the database.
#[derive(Debug, Clone, Copy)]
pub enum Call<'c> {
    /// A statement with what is bound: `execute` or `query`.
    Statement(&'c str, &'c [Value<'c>]),
    /// The question for the columns of a query.
    Columns(&'c str),
    /// How long queries may take.
    Limit,
    /// BEGIN.
    Begin,
    /// COMMIT.
    Commit,
    /// The question for the time.
    Now,
    /// The question whether somebody else has committed.
    Version,
    /// A sign of life.
    Ping,
    /// The question for the advisory lock.
    AdvisoryLock,
}

/// What a double does differently; by itself nothing.
pub trait Hooks {
    /// Before `call` reaches `db`. What fails here is not passed on.
    ///
    /// # Errors
    /// What the caller is to see instead of an answer.
    fn before(&mut self, db: &mut dyn Db, call: Call<'_>) -> DbResult<()> {
        let _ = (db, call);
        Ok(())
    }

    /// After a COMMIT that succeeded, before the caller hears of it.
    ///
    /// # Errors
    /// What the caller is to see instead of the answer.
    fn after_commit(&mut self) -> DbResult<()> {
        Ok(())
    }

    /// Whether the connection is gone, so that a ROLLBACK reaches nobody.
    fn is_gone(&self) -> bool {
        false
    }
}

/// `db` behind `hooks`.
pub fn hooked(db: Box<dyn Db>, hooks: impl Hooks + 'static) -> Box<dyn Db> {
    Box::new(Hooked { db, hooks })
}

struct Hooked<H> {
    db: Box<dyn Db>,
    hooks: H,
}

impl<H: Hooks> Hooked<H> {
    fn ask(&mut self, call: Call<'_>) -> DbResult<&mut dyn Db> {
        self.hooks.before(&mut *self.db, call)?;
        Ok(&mut *self.db)
    }
}

impl<H: Hooks> Db for Hooked<H> {
    fn dialect(&self) -> Dialect {
        self.db.dialect()
    }

    fn execute(&mut self, sql: &str, params: &[Value<'_>]) -> DbResult<u64> {
        self.ask(Call::Statement(sql, params))?.execute(sql, params)
    }

    fn query(&mut self, sql: &str, params: &[Value<'_>], on_row: &mut OnRow<'_>) -> DbResult<()> {
        self.ask(Call::Statement(sql, params))?
            .query(sql, params, on_row)
    }

    fn columns(&mut self, sql: &str) -> DbResult<Vec<String>> {
        self.ask(Call::Columns(sql))?.columns(sql)
    }

    fn limit_queries(&mut self, longest: Option<Duration>) -> DbResult<()> {
        self.ask(Call::Limit)?.limit_queries(longest)
    }

    fn begin(&mut self) -> DbResult<()> {
        self.ask(Call::Begin)?.begin()
    }

    fn commit(&mut self) -> DbResult<()> {
        self.ask(Call::Commit)?.commit()?;
        self.hooks.after_commit()
    }

    fn rollback(&mut self) {
        if !self.hooks.is_gone() {
            self.db.rollback();
        }
    }

    fn last_insert_id(&self) -> i64 {
        self.db.last_insert_id()
    }

    fn now(&mut self) -> DbResult<UnixSeconds> {
        self.ask(Call::Now)?.now()
    }

    fn clock_in_sql(&self) -> Option<[String; 2]> {
        self.db.clock_in_sql()
    }

    fn host_clock(&self) -> Option<(UnixSeconds, Duration)> {
        self.db.host_clock()
    }

    fn version(&mut self) -> DbResult<Option<i64>> {
        match self.db.dialect() {
            Dialect::Sqlite => self.ask(Call::Version)?.version(),
            Dialect::Mysql => self.db.version(), // asks nobody
        }
    }

    fn ping(&mut self) -> DbResult<()> {
        self.ask(Call::Ping)?.ping()
    }

    fn execute_script(&mut self, sql: &str) -> DbResult<()> {
        self.db.execute_script(sql)
    }

    fn advisory_lock(&mut self, name: &str, seconds: u32) -> DbResult<AdvisoryLock> {
        self.ask(Call::AdvisoryLock)?.advisory_lock(name, seconds)
    }

    fn advisory_holder(&mut self, name: &str) -> DbResult<Option<i64>> {
        self.ask(Call::AdvisoryLock)?.advisory_holder(name)
    }

    fn end_session(&mut self, session: i64) -> DbResult<()> {
        self.ask(Call::AdvisoryLock)?.end_session(session)
    }

    fn forgets_ids(&self) -> bool {
        self.db.forgets_ids()
    }

    fn database_name(&mut self) -> DbResult<String> {
        self.db.database_name()
    }
}
