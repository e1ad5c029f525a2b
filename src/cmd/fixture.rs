//! A SQLite database of a test's own, with the commands' view of it.

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tempfile::TempDir;

use super::{Context, Output, init};
use crate::clock::Clock;
use crate::config::{self, Config, Database, Env, Layers};
use crate::db::{Access, Cell, query_all};
use crate::store::Store;
use crate::zone::Zone;

/// A database, a configuration, and what was printed.
pub(crate) struct Fixture {
    home: Option<TempDir>,
    pub(crate) context: Context,
    printed: Rc<RefCell<Vec<u8>>>,
}

impl Fixture {
    /// A fresh database; the configuration has no types.
    pub(crate) fn new() -> Self {
        Self::with_types(&[])
    }

    /// As [`Fixture::new`], with types that run `true`.
    pub(crate) fn with_types(types: &[&str]) -> Self {
        let section =
            |name: &&str| format!("[type.{name}]\nhandler = \"command\"\ncommand = [\"true\"]\n");
        Self::with_config(&types.iter().map(section).collect::<Vec<_>>().concat())
    }

    /// A fresh database and this configuration.
    pub(crate) fn with_config(text: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut at = Self::reading(home.path(), text);
        init::set_up(&at.context.config, Clock::system(), false).expect("a fresh database");
        at.home = Some(home);
        at.printed.borrow_mut().clear();
        at
    }

    /// Another process on the database at `path`.
    pub(crate) fn on(path: &Path) -> Self {
        Self::reading(path.parent().expect("a file in a directory"), "")
    }

    /// A directory without a database, with this configuration.
    pub(crate) fn reading(home: &Path, text: &str) -> Self {
        let file = home.join("test.toml");
        std::fs::write(&file, text).expect("a file of our own");
        let config = load(home, &file);
        let printed = Rc::new(RefCell::new(Vec::new()));
        let context = Context {
            config,
            clock: Clock::system(),
            zone: Zone::utc().into(),
            json: false,
            quiet: true,
            out: Output::to(Printed(printed.clone())),
        };
        Self {
            home: None,
            context,
            printed,
        }
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.context.config.base_dir.clone()
    }

    pub(crate) fn database(&self) -> PathBuf {
        match &self.context.config.database {
            Some(Database::Sqlite { path }) => path.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn store(&self) -> Store {
        self.context.open(Access::Write).expect("our own database")
    }

    /// What was printed since it was last asked.
    pub(crate) fn said(&self) -> String {
        let bytes = std::mem::take(&mut *self.printed.borrow_mut());
        String::from_utf8(bytes).expect("text")
    }

    pub(crate) fn insert(&self, type_name: &str, due_at: i64) {
        self.exec(&format!(
            "INSERT INTO scheduled_events (type, due_at) VALUES ('{type_name}', {due_at})"
        ));
    }

    pub(crate) fn exec(&self, sql: &str) {
        self.store()
            .db()
            .execute(sql, &[])
            .expect("a test's own statement");
    }

    /// Rows with `|` between their columns.
    pub(crate) fn rows(&self, sql: &str) -> Vec<String> {
        let mut store = self.store();
        let columns = |row: &dyn crate::db::Row| {
            let mut cells = Vec::new();
            // One past the end reads as NULL, as NULL itself does: the tests select none last.
            for index in 0.. {
                match row.cell(index) {
                    Cell::Null => break,
                    _ => cells.push(row.text(index)),
                }
            }
            cells.join("|")
        };
        query_all(store.db(), sql, &[], columns).expect("a test's own query")
    }
}

fn load(home: &Path, file: &Path) -> Config {
    let layers = Layers {
        config_flag: Some(file.to_owned()),
        database_flag: Some("sqlite:events.db".to_owned()),
        env: Env::from_iter([("PUNCTUAL_STATE_DIR", home.join("state"))]),
        cwd: home.to_owned(),
        allow_unsafe: true,
    };
    config::load(&layers).expect("a test's own configuration")
}

struct Printed(Rc<RefCell<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
