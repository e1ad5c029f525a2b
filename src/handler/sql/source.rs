//! The query of a source: checked like a guard, and read in pages in the order of what it says.
//!
//! The query stands within one of ours, which keeps to the window, puts what it says in order and
//! goes on behind the last page. All values are bound.

use super::scan::scan;
use super::{beginning, first_word};
use crate::clock::UnixSeconds;
use crate::db::{Cell, Db, DbError, DbErrorKind, DbResult, Dialect, Value};
use crate::source::{Columns, EARLIEST, Field, LATEST, NEVER, Position, Row, Unit};
use crate::when::mediawiki_time;

/// The most rows of a page.
pub const PAGE_ROWS: usize = 10_000;
/// The most memory a page takes, in bytes, but for its last row.
pub const PAGE_BYTES: usize = 4 << 20;
/// Rows without an instant are counted up to here.
pub const FAULTS: usize = 1000;

/// A checked query with its parameters in the order of its `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    sql: String,
    params: Vec<Param>,
    dialect: Dialect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Param {
    From,
    Until,
    Now,
    FromMw,
    UntilMw,
    NowMw,
}

/// What `:from`, `:until` and `:now` stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Expiries from here on …
    pub from: UnixSeconds,
    /// … and before this.
    pub until: UnixSeconds,
    /// The clock that decides what is due.
    pub now: UnixSeconds,
}

/// Rows as they came, in order.
#[derive(Debug, Default)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// There may be more of them in the window.
    pub is_full: bool,
}

/// Checks the query of a source: one SELECT or WITH.
///
/// # Errors
/// One line that says what is wrong.
pub fn compile(text: &str, dialect: Dialect) -> Result<Query, String> {
    let mut params = Vec::new();
    let sql = scan(text, dialect, |name| {
        params.push(named(name)?);
        Ok(())
    })?;
    match first_word(&sql).as_str() {
        "SELECT" | "WITH" => Ok(Query {
            sql,
            params,
            dialect,
        }),
        "" => Err("a source is one SELECT".to_owned()),
        other => Err(format!("a source is one SELECT, not {}", beginning(other))),
    }
}

fn named(name: &str) -> Result<Param, String> {
    Ok(match name {
        "from" => Param::From,
        "until" => Param::Until,
        "now" => Param::Now,
        "from_mw" => Param::FromMw,
        "until_mw" => Param::UntilMw,
        "now_mw" => Param::NowMw,
        _ => {
            let name = beginning(name);
            return Err(format!(
                "unknown parameter :{name}; known are :from, :until, :now, :from_mw, :until_mw \
                 and :now_mw"
            ));
        }
    })
}

impl Query {
    /// What its columns are for.
    ///
    /// # Errors
    /// What the database said; `Statement` where the columns are not those of a source.
    pub fn columns(&self, db: &mut dyn Db) -> DbResult<Columns> {
        let names = db.columns(&self.sql)?;
        Columns::of(names).map_err(|why| DbError::new(DbErrorKind::Statement, why))
    }

    /// The first rows behind `after` in a window that begins where that stands: at most `limit`,
    /// and no more than [`PAGE_BYTES`].
    ///
    /// # Errors
    /// What the database said.
    pub fn page(
        &self,
        db: &mut dyn Db,
        columns: &Columns,
        window: Window,
        after: &Position,
        limit: usize,
    ) -> DbResult<Page> {
        let limit = limit.min(PAGE_ROWS);
        let (number, key) = (self.number(columns.unit), self.key());
        let behind = match &after.key {
            Some(_) => format!(" AND ({number} > ? OR {key} > ?)"),
            None => String::new(),
        };
        let sql = format!(
            "SELECT q.*, {number} FROM ({}) AS q WHERE {number} >= ? AND {number} < ?{behind} \
             ORDER BY {number}, {key} LIMIT {limit}",
            self.sql
        );
        let from = columns.unit.number(window.from);
        let mut params = self.bind(window);
        params.extend([from.into(), columns.unit.number(window.until).into()]);
        if let Some(key) = &after.key {
            params.extend([from.into(), key.as_slice().into()]);
        }
        let mut page = Page::default();
        let mut bytes = 0;
        db.query(&sql, &params, &mut |row| {
            let row = read(row, columns.count() + 1);
            bytes += row.0.iter().map(Field::weight).sum::<usize>();
            page.rows.push(row);
            bytes < PAGE_BYTES
        })?;
        page.is_full = page.rows.len() == limit || bytes >= PAGE_BYTES;
        Ok(page)
    }

    /// Rows of the window that say no instant at all, up to [`FAULTS`].
    ///
    /// # Errors
    /// What the database said.
    pub fn faults(&self, db: &mut dyn Db, columns: &Columns, window: Window) -> DbResult<Vec<Row>> {
        let (number, column) = (self.number(columns.unit), columns.unit.column());
        let never = match columns.unit {
            Unit::Seconds => String::new(),
            Unit::MediaWiki => format!(" AND q.`{column}` <> '{NEVER}'"),
        };
        let sql = format!(
            "SELECT q.*, 0 FROM ({}) AS q WHERE q.`{column}` IS NULL \
             OR (({number} < ? OR {number} > ?){never}) LIMIT {FAULTS}",
            self.sql
        );
        let mut params = self.bind(window);
        let (first, last) = (columns.unit.number(EARLIEST), columns.unit.number(LATEST));
        params.extend([first.into(), last.into()]);
        let mut rows = Vec::new();
        let mut bytes = 0;
        db.query(&sql, &params, &mut |row| {
            let row = read(row, columns.count() + 1);
            bytes += row.0.iter().map(Field::weight).sum::<usize>();
            rows.push(row);
            bytes < PAGE_BYTES
        })?;
        Ok(rows)
    }

    fn bind(&self, window: Window) -> Vec<Value<'static>> {
        let value = |param: &Param| match param {
            Param::From => window.from.into(),
            Param::Until => window.until.into(),
            Param::Now => window.now.into(),
            Param::FromMw => mediawiki_time(window.from).into(),
            Param::UntilMw => mediawiki_time(window.until).into(),
            Param::NowMw => mediawiki_time(window.now).into(),
        };
        self.params.iter().map(value).collect()
    }

    /// The number that a row is sorted by: what stands in front of the fraction, also in a text.
    fn number(&self, unit: Unit) -> String {
        let column = unit.column();
        match self.dialect {
            Dialect::Sqlite => format!("CAST(q.`{column}` AS INTEGER)"),
            Dialect::Mysql => format!("FLOOR(q.`{column}`)"),
        }
    }

    /// The bytes that rows of one instant are sorted by.
    fn key(&self) -> &'static str {
        match self.dialect {
            Dialect::Sqlite => "CAST(q.`key` AS TEXT) COLLATE BINARY",
            Dialect::Mysql => "CAST(CONVERT(q.`key` USING utf8mb4) AS BINARY)",
        }
    }
}

fn read(row: &dyn crate::db::Row, count: usize) -> Row {
    let field = |index: usize| match row.cell(index) {
        Cell::Null => row.date(index).map_or(Field::Null, Field::Date),
        Cell::Int(number) => Field::Int(number),
        Cell::Real(number) => Field::Real(number),
        Cell::Bytes(bytes) => Field::Bytes(bytes.to_vec()),
    };
    Row((0..count).map(field).collect())
}
