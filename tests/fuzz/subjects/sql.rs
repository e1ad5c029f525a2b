//! A statement of a `sql` handler or a guard. For SQLite the judge is SQLite itself.

use punctual::db::Dialect;
use punctual::handler::sql::{compile, compile_guard};
use rusqlite::Connection;

thread_local! {
    static JUDGE: Connection = judge();
}

fn judge() -> Connection {
    let connection = Connection::open_in_memory().expect("SQLite");
    let tables = "CREATE TABLE a (b, c, d); CREATE TABLE article (id, locked, locked_until)";
    connection.execute_batch(tables).expect("two tables");
    connection
}

pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    for dialect in [Dialect::Sqlite, Dialect::Mysql] {
        let list = [text.clone()];
        let guard = compile_guard(&text, dialect);
        match compile(&list, dialect) {
            Ok(statements) => {
                let [statement] = &statements[..] else {
                    panic!("one statement each");
                };
                assert_eq!(
                    guard.as_ref().is_ok_and(|it| it == statement),
                    guard.is_ok()
                );
                if dialect == Dialect::Sqlite {
                    agrees_with_sqlite(statement.sql(), statement.parameters());
                }
                // What is sent has no names left in it: it compiles again only without any.
                let again = compile(&[statement.sql().to_owned()], dialect);
                assert_eq!(again.is_ok(), statement.parameters() == 0, "{text:?}");
            }
            Err(why) => {
                assert!(guard.is_err());
                assert!(!why.is_empty());
            }
        }
    }
}

/// SQLite sees one statement with as many parameters as will be bound.
fn agrees_with_sqlite(sql: &str, parameters: usize) {
    JUDGE.with(|judge| match judge.prepare(sql) {
        Ok(statement) => assert_eq!(statement.parameter_count(), parameters, "{sql:?}"),
        Err(error) => assert!(
            !matches!(error, rusqlite::Error::MultipleStatement),
            "{sql:?}"
        ),
    });
}
