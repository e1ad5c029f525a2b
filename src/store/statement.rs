//! Building one statement with numbers and lists of ids in it, so that the database prepares it as
//! rarely as the dialect allows.
//!
//! SQLite parses a text once and keeps it: every number is bound, and a list of ids is one bound
//! JSON array, so that waves of all sizes share one prepared statement. On MySQL a statement with
//! a list of ids goes out as text, numbers written into it: one packet there and one back, where a
//! prepared statement of ever different text would take three. A statement without a list
//! ([`Statement::fixed`]) is the same text each time on both, and is prepared once.

use std::borrow::Cow;

use super::Store;
use crate::clock::UnixSeconds;
use crate::db::{Dialect, Value, id_list, migrate};
use crate::event::EventId;

/// A statement in the making: its text and what is bound to it, in order.
pub(super) struct Statement<'v> {
    dialect: Dialect,
    binds_numbers: bool,
    sql: String,
    params: Vec<Value<'v>>,
}

impl<'v> Statement<'v> {
    /// A statement with a list of ids in it.
    pub(super) fn listed(dialect: Dialect) -> Self {
        Self {
            dialect,
            binds_numbers: dialect == Dialect::Sqlite,
            sql: String::with_capacity(512),
            params: Vec::new(),
        }
    }

    /// A statement whose text is the same each time.
    pub(super) fn fixed(dialect: Dialect) -> Self {
        Self {
            binds_numbers: true,
            ..Self::listed(dialect)
        }
    }

    /// Adds SQL.
    #[must_use]
    pub(super) fn text(mut self, sql: &str) -> Self {
        self.sql.push_str(sql);
        self
    }

    /// Adds a number of ours.
    #[must_use]
    pub(super) fn int(mut self, number: i64) -> Self {
        if self.binds_numbers {
            return self.bound(number);
        }
        self.sql.push_str(&number.to_string());
        self
    }

    /// Adds a number of ours, or NULL.
    #[must_use]
    pub(super) fn opt_int(self, number: Option<i64>) -> Self {
        match number {
            Some(number) => self.int(number),
            None => self.text("NULL"),
        }
    }

    /// Adds an instant.
    #[must_use]
    pub(super) fn at(self, instant: UnixSeconds) -> Self {
        self.int(instant.0)
    }

    /// Adds a bound value.
    #[must_use]
    pub(super) fn bound(mut self, value: impl Into<Value<'v>>) -> Self {
        self.sql.push('?');
        self.params.push(value.into());
        self
    }

    /// Adds a condition on what was written last: one of `ids`.
    #[must_use]
    pub(super) fn among(mut self, ids: impl IntoIterator<Item = EventId>) -> Self {
        let mut ids: Vec<i64> = ids.into_iter().map(|id| id.0).collect();
        if self.dialect == Dialect::Mysql {
            // A range would lock the gap behind it, too.
            return self.text(" IN (").text(&id_list(ids)).text(")");
        }
        // A backlog often is in the order of its ids, and a range is found faster than its members.
        ids.sort_unstable();
        if let Some((first, last)) = gapless(&ids) {
            return self.text(" BETWEEN ").int(first).text(" AND ").int(last);
        }
        self.sql.push_str(" IN (SELECT value FROM json_each(?))");
        let list = format!("[{}]", id_list(ids));
        self.params
            .push(Value::Bytes(Cow::Owned(list.into_bytes())));
        self
    }

    /// Text with the table prefix put in, and the values bound to it.
    pub(super) fn finished(self, store: &Store) -> (String, Vec<Value<'v>>) {
        let sql = if store.prefix.is_empty() {
            self.sql // the mark is a comment
        } else {
            self.sql.replace(migrate::PREFIX_MARK, &store.prefix)
        };
        (sql, self.params)
    }
}

/// The first and the last of sorted `ids`, if these are all there are between them.
fn gapless(ids: &[i64]) -> Option<(i64, i64)> {
    let follows = |pair: &[i64]| pair[0].checked_add(1) == Some(pair[1]);
    let bounds = ids.first().copied().zip(ids.last().copied());
    bounds.filter(|_| ids.windows(2).all(follows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(dialect: Dialect, ids: &[i64]) -> (String, usize) {
        let ids = ids.iter().map(|&id| EventId(id));
        let statement = Statement::listed(dialect).text("id").among(ids);
        (statement.sql, statement.params.len())
    }

    #[test]
    fn ids_without_a_gap_are_a_range_on_sqlite_in_whatever_order_they_come() {
        for ids in [&[7][..], &[7, 8, 9], &[9, 7, 8]] {
            let range = ("id BETWEEN ? AND ?".to_owned(), 2);
            assert_eq!(among(Dialect::Sqlite, ids), range, "{ids:?}");
        }
    }

    #[test]
    fn a_range_never_takes_in_an_id_that_was_not_asked_for() {
        for ids in [&[][..], &[7, 9], &[7, 9, 9], &[i64::MIN, i64::MAX]] {
            let list = ("id IN (SELECT value FROM json_each(?))".to_owned(), 1);
            assert_eq!(among(Dialect::Sqlite, ids), list, "{ids:?}");
        }
    }

    #[test]
    fn on_mysql_ids_are_a_list_for_a_range_would_lock_what_is_between() {
        let list = ("id IN (7,8,9)".to_owned(), 0);
        assert_eq!(among(Dialect::Mysql, &[7, 8, 9]), list);
    }
}
