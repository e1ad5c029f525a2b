//! A connection whose n-th call fails: the failing double of the one seam to the database.

use std::cell::Cell;
use std::rc::Rc;

use punctual::clock::UnixSeconds;
use punctual::db::{AdvisoryLock, Db, DbError, DbErrorKind, DbResult, Dialect, OnRow, Value};

/// How the call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Once, as for a deadlock's victim.
    Busy,
    /// The connection is gone for good; what was open is rolled back.
    Lost,
    /// As `Lost`, but where the call is a COMMIT, it has happened.
    LostAfterCommit,
    /// Once, as for a full disk.
    Full,
}

/// Counts the calls of all connections of one run and fails the one it was made for.
#[derive(Clone)]
pub(crate) struct Trigger {
    left: Rc<Cell<u32>>,
    failure: Failure,
}

impl Trigger {
    /// Fails the `call`-th call, counting from 1.
    pub(crate) fn at(call: u32, failure: Failure) -> Self {
        Self {
            left: Rc::new(Cell::new(call)),
            failure,
        }
    }

    /// Whether the call was reached.
    pub(crate) fn is_spent(&self) -> bool {
        self.left.get() == 0
    }

    /// `db`, with this trigger.
    pub(crate) fn on(&self, db: Box<dyn Db>) -> Box<dyn Db> {
        Box::new(Failing {
            db,
            trigger: self.clone(),
            dead: false,
        })
    }

    fn strikes(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left == 1
    }
}

struct Failing {
    db: Box<dyn Db>,
    trigger: Trigger,
    dead: bool,
}

impl Failing {
    fn check(&mut self) -> DbResult<()> {
        if self.dead {
            return Err(lost());
        }
        if !self.trigger.strikes() {
            return Ok(());
        }
        match self.trigger.failure {
            Failure::Busy => Err(DbError::new(DbErrorKind::Busy, "deadlock")),
            Failure::Full => Err(DbError::new(DbErrorKind::Full, "disk full")),
            Failure::Lost | Failure::LostAfterCommit => {
                self.dead = true;
                self.db.rollback();
                Err(lost())
            }
        }
    }
}

fn lost() -> DbError {
    DbError::new(DbErrorKind::Lost, "connection reset")
}

impl Db for Failing {
    fn dialect(&self) -> Dialect {
        self.db.dialect()
    }

    fn execute(&mut self, sql: &str, params: &[Value<'_>]) -> DbResult<u64> {
        self.check()?;
        self.db.execute(sql, params)
    }

    fn query(&mut self, sql: &str, params: &[Value<'_>], on_row: &mut OnRow<'_>) -> DbResult<()> {
        self.check()?;
        self.db.query(sql, params, on_row)
    }

    fn begin(&mut self) -> DbResult<()> {
        self.check()?;
        self.db.begin()
    }

    fn commit(&mut self) -> DbResult<()> {
        if !self.dead
            && self.trigger.failure == Failure::LostAfterCommit
            && self.trigger.left.get() == 1
        {
            self.db.commit()?;
        }
        self.check().map_err(|error| match error.kind {
            DbErrorKind::Lost => DbError {
                kind: DbErrorKind::CommitUnknown,
                ..error
            },
            _ => error,
        })?;
        self.db.commit()
    }

    fn rollback(&mut self) {
        if !self.dead {
            self.db.rollback();
        }
    }

    fn last_insert_id(&self) -> i64 {
        self.db.last_insert_id()
    }

    fn now(&mut self) -> DbResult<UnixSeconds> {
        self.check()?;
        self.db.now()
    }

    fn ping(&mut self) -> DbResult<()> {
        self.check()?;
        self.db.ping()
    }

    fn execute_script(&mut self, sql: &str) -> DbResult<()> {
        self.db.execute_script(sql)
    }

    fn advisory_lock(&mut self, name: &str) -> DbResult<AdvisoryLock> {
        self.check()?;
        self.db.advisory_lock(name)
    }

    fn forgets_ids(&self) -> bool {
        self.db.forgets_ids()
    }

    fn database_name(&mut self) -> DbResult<String> {
        self.db.database_name()
    }
}
