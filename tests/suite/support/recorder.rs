//! A database connection that notes every statement on its way: what a run asks, a test can
//! EXPLAIN afterwards, and look at the server just before a COMMIT.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use punctual::db::double::{Call, Hooks, hooked};
use punctual::db::{Db, DbResult, Value};

/// A statement with what was bound.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) sql: String,
    pub(crate) params: Vec<Value<'static>>,
}

/// Called before each COMMIT.
type Look = Box<dyn FnMut()>;

/// What a connection was asked.
#[derive(Clone, Default)]
pub(crate) struct Recording {
    versions: Rc<Cell<usize>>,
    statements: Rc<RefCell<Vec<Recorded>>>,
    before_commit: Rc<RefCell<Option<Look>>>,
    before_query: Rc<RefCell<Option<(&'static str, Look)>>>,
}

impl Recording {
    /// `db`, every statement of which is noted here.
    pub(crate) fn of(&self, db: Box<dyn Db>) -> Box<dyn Db> {
        hooked(db, Recorder(self.clone()))
    }

    /// Calls `look` before each COMMIT.
    pub(crate) fn before_commit(&self, look: impl FnMut() + 'static) {
        *self.before_commit.borrow_mut() = Some(Box::new(look));
    }

    /// Calls `look` before the first query in which `part` stands.
    pub(crate) fn before_query(&self, part: &'static str, look: impl FnMut() + 'static) {
        *self.before_query.borrow_mut() = Some((part, Box::new(look)));
    }

    /// The statements so far.
    pub(crate) fn statements(&self) -> Vec<Recorded> {
        self.statements.borrow().clone()
    }

    /// How often it was asked for the version.
    pub(crate) fn versions(&self) -> usize {
        self.versions.get()
    }

    fn note(&self, sql: &str, params: &[Value<'_>]) {
        let params = params.iter().map(owned).collect();
        self.statements.borrow_mut().push(Recorded {
            sql: sql.to_owned(),
            params,
        });
    }
}

fn owned(value: &Value<'_>) -> Value<'static> {
    match value {
        Value::Null => Value::Null,
        Value::Int(number) => Value::Int(*number),
        Value::Real(number) => Value::Real(*number),
        Value::Bytes(bytes) => Value::Bytes(bytes.to_vec().into()),
    }
}

struct Recorder(Recording);

impl Hooks for Recorder {
    fn before(&mut self, _db: &mut dyn Db, call: Call<'_>) -> DbResult<()> {
        match call {
            Call::Statement(sql, params) => {
                self.0.note(sql, params);
                let is_it = |(part, _): &mut (&str, Look)| sql.contains(*part);
                let look = self.0.before_query.borrow_mut().take_if(is_it);
                if let Some((_, mut look)) = look {
                    look();
                }
            }
            Call::Commit => {
                if let Some(look) = &mut *self.0.before_commit.borrow_mut() {
                    look();
                }
            }
            Call::Version => self.0.versions.set(self.0.versions.get() + 1),
            _ => {}
        }
        Ok(())
    }
}
