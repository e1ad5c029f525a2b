//! A database connection that notes every statement on its way: what a run asks, a test can
//! EXPLAIN afterwards, and look at the server just before a COMMIT.

use std::cell::RefCell;
use std::rc::Rc;

use punctual::clock::UnixSeconds;
use punctual::db::{AdvisoryLock, Db, DbResult, Dialect, OnRow, Value};

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
    statements: Rc<RefCell<Vec<Recorded>>>,
    before_commit: Rc<RefCell<Option<Look>>>,
    before_query: Rc<RefCell<Option<(&'static str, Look)>>>,
}

impl Recording {
    /// `db`, every statement of which is noted here.
    pub(crate) fn of(&self, db: Box<dyn Db>) -> Box<dyn Db> {
        Box::new(Recorder {
            db,
            recording: self.clone(),
        })
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

struct Recorder {
    db: Box<dyn Db>,
    recording: Recording,
}

impl Db for Recorder {
    fn dialect(&self) -> Dialect {
        self.db.dialect()
    }

    fn execute(&mut self, sql: &str, params: &[Value<'_>]) -> DbResult<u64> {
        self.recording.note(sql, params);
        self.db.execute(sql, params)
    }

    fn query(&mut self, sql: &str, params: &[Value<'_>], on_row: &mut OnRow<'_>) -> DbResult<()> {
        self.recording.note(sql, params);
        let is_it = |(part, _): &mut (&str, Look)| sql.contains(*part);
        let look = self.recording.before_query.borrow_mut().take_if(is_it);
        if let Some((_, mut look)) = look {
            look();
        }
        self.db.query(sql, params, on_row)
    }

    fn begin(&mut self) -> DbResult<()> {
        self.db.begin()
    }

    fn commit(&mut self) -> DbResult<()> {
        if let Some(look) = &mut *self.recording.before_commit.borrow_mut() {
            look();
        }
        self.db.commit()
    }

    fn rollback(&mut self) {
        self.db.rollback();
    }

    fn last_insert_id(&self) -> i64 {
        self.db.last_insert_id()
    }

    fn now(&mut self) -> DbResult<UnixSeconds> {
        self.db.now()
    }

    fn ping(&mut self) -> DbResult<()> {
        self.db.ping()
    }

    fn execute_script(&mut self, sql: &str) -> DbResult<()> {
        self.db.execute_script(sql)
    }

    fn advisory_lock(&mut self, name: &str) -> DbResult<AdvisoryLock> {
        self.db.advisory_lock(name)
    }

    fn forgets_ids(&self) -> bool {
        self.db.forgets_ids()
    }

    fn database_name(&mut self) -> DbResult<String> {
        self.db.database_name()
    }
}
