//! A connection whose n-th call fails, and after it perhaps another: the failing double of the one
//! seam to the database.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use punctual::db::double::{Call, Hooks, hooked};
use punctual::db::{Db, DbError, DbErrorKind, DbResult};

/// How the call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Once: somebody else has a lock. What the transaction did so far stands open.
    Busy,
    /// Once: chosen as a deadlock's victim. The server has rolled the transaction back by itself.
    Deadlock,
    /// The connection is gone for good; what was open is rolled back. A COMMIT never got there.
    Lost,
    /// As `Lost`, but where the call is a COMMIT, it has happened.
    LostAfterCommit,
    /// Once, as for a full disk.
    Full,
}

/// Counts the calls of all connections of one run and fails those it was made for.
#[derive(Clone)]
pub(crate) struct Trigger(Rc<Plan>);

struct Plan {
    /// Calls left until the next failure, counting from 1; 0: none is to come.
    left: Cell<u32>,
    /// The failure to come, and behind it those that follow, each with its call counted from the
    /// failure before.
    failures: RefCell<Vec<(u32, Failure)>>,
}

impl Trigger {
    /// Fails these calls of one run, the first counted from 1, each other from the one before.
    pub(crate) fn each(failures: &[(u32, Failure)]) -> Self {
        let mut failures = failures.to_vec();
        failures.reverse();
        let left = failures.last().map_or(0, |(call, _)| *call);
        Self(Rc::new(Plan {
            left: Cell::new(left),
            failures: RefCell::new(failures),
        }))
    }

    /// How many of the failures have not come, because the run made fewer calls.
    pub(crate) fn to_come(&self) -> usize {
        self.0.failures.borrow().len()
    }

    /// `db`, with this trigger.
    pub(crate) fn on(&self, db: Box<dyn Db>) -> Box<dyn Db> {
        hooked(
            db,
            Failing {
                trigger: self.clone(),
                dead: false,
            },
        )
    }

    /// The failure that the call now made is to meet.
    fn strikes(&self) -> Option<Failure> {
        let left = self.0.left.get();
        self.0.left.set(left.saturating_sub(1));
        if left != 1 {
            return None;
        }
        let mut failures = self.0.failures.borrow_mut();
        let (_, failure) = failures.pop()?;
        self.0
            .left
            .set(failures.last().map_or(0, |(call, _)| *call));
        Some(failure)
    }

    /// Whether the call that comes is a COMMIT's answer to be lost.
    fn loses_the_next_answer(&self) -> bool {
        let next = self.0.failures.borrow().last().copied();
        self.0.left.get() == 1 && next.is_some_and(|(_, how)| how == Failure::LostAfterCommit)
    }
}

struct Failing {
    trigger: Trigger,
    dead: bool,
}

impl Hooks for Failing {
    fn before(&mut self, db: &mut dyn Db, call: Call<'_>) -> DbResult<()> {
        if self.dead {
            return Err(lost()); // a COMMIT that is not sent is not unknown
        }
        let is_commit = matches!(call, Call::Commit);
        if is_commit && self.trigger.loses_the_next_answer() {
            return Ok(()); // it strikes after the commit
        }
        match self.trigger.strikes() {
            None => Ok(()),
            Some(Failure::Busy) => Err(DbError::new(DbErrorKind::Busy, "lock wait timeout")),
            Some(Failure::Deadlock) => {
                db.rollback();
                Err(DbError::new(DbErrorKind::Busy, "deadlock"))
            }
            Some(Failure::Full) => Err(DbError::new(DbErrorKind::Full, "disk full")),
            Some(Failure::Lost | Failure::LostAfterCommit) => {
                self.dead = true;
                db.rollback();
                Err(if is_commit { unknown() } else { lost() })
            }
        }
    }

    fn after_commit(&mut self) -> DbResult<()> {
        if !self.trigger.loses_the_next_answer() {
            return Ok(());
        }
        self.trigger.strikes();
        self.dead = true;
        Err(unknown())
    }

    fn is_gone(&self) -> bool {
        self.dead
    }
}

fn lost() -> DbError {
    DbError::new(DbErrorKind::Lost, "connection reset")
}

fn unknown() -> DbError {
    DbError::new(DbErrorKind::CommitUnknown, "connection reset")
}
