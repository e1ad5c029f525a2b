//! The schema: numbered scripts compiled in, applied by `init`, checked by everything else.
//!
//! SQLite applies a script in one transaction; MySQL commits each statement by itself, so scripts
//! are written to be repeatable (`IF NOT EXISTS`) and the version is recorded last: an interrupted
//! `init` is repaired by another.

use super::{Db, DbError, DbErrorKind, DbResult, Dialect, Value, query_one};

/// One numbered script in both dialects.
struct Migration {
    number: i64,
    sqlite: &'static str,
    mysql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        sqlite: include_str!("../../sql/sqlite/0001_initial.sql"),
        mysql: include_str!("../../sql/mysql/0001_initial.sql"),
    },
    Migration {
        number: 2,
        sqlite: include_str!("../../sql/sqlite/0002_schedules.sql"),
        mysql: include_str!("../../sql/mysql/0002_schedules.sql"),
    },
    Migration {
        number: 3,
        sqlite: include_str!("../../sql/sqlite/0003_backfills.sql"),
        mysql: include_str!("../../sql/mysql/0003_backfills.sql"),
    },
    Migration {
        number: 4,
        sqlite: include_str!("../../sql/sqlite/0004_sources.sql"),
        mysql: include_str!("../../sql/mysql/0004_sources.sql"),
    },
];

/// Where the table prefix goes, in our scripts and queries alike.
pub const PREFIX_MARK: &str = "/*_*/";

/// The newest schema this binary knows.
pub fn newest() -> i64 {
    MIGRATIONS.last().map_or(0, |migration| migration.number)
}

/// All scripts from the first on, as `init --print-sql` prints them: with the version, so that the
/// `init` that follows finds the tables in order and needs no right to create any.
pub fn script(dialect: Dialect, prefix: &str) -> String {
    let mut scripts: Vec<String> = MIGRATIONS
        .iter()
        .map(|migration| migration.script(dialect, prefix))
        .collect();
    scripts.push(format!(
        "-- The version of the tables. `punctual init`, run once after this, adds which database \
         they are in.\nREPLACE INTO {prefix}punctual_meta (name, value) \
         VALUES ('schema_version', '{}');\n",
        newest()
    ));
    scripts.join("\n")
}

/// The recorded schema version, or `None` where there are no tables of ours.
///
/// # Errors
/// Whatever reading `punctual_meta` fails with, other than that it is missing.
pub fn version(db: &mut dyn Db, prefix: &str) -> DbResult<Option<i64>> {
    Ok(read_meta(db, prefix, "schema_version")?.and_then(|text| text.parse().ok()))
}

/// Applies what is missing and returns the version before; repeatable.
///
/// # Errors
/// `NoSchema` with a remedy where the database is newer than this binary; else what the DDL said.
pub fn upgrade(db: &mut dyn Db, prefix: &str) -> DbResult<Option<i64>> {
    let before = version(db, prefix)?;
    refuse_newer(before)?;
    for migration in MIGRATIONS.iter().filter(|m| m.number > before.unwrap_or(0)) {
        let script = migration.script(db.dialect(), prefix);
        if db.dialect() == Dialect::Mysql {
            db.execute_script(&script)?;
            write_meta(db, prefix, "schema_version", &migration.number.to_string())?;
            continue;
        }
        db.begin()?;
        let applied = db
            .execute_script(&script)
            .and_then(|()| write_meta(db, prefix, "schema_version", &migration.number.to_string()))
            .and_then(|()| db.commit());
        if applied.is_err() {
            db.rollback();
        }
        applied?;
    }
    Ok(before)
}

/// Checks that this binary can work with schema `found`.
///
/// # Errors
/// `NoSchema`, with the remedy.
pub fn check(found: Option<i64>) -> DbResult<()> {
    refuse_newer(found)?;
    match found {
        Some(version) if version == newest() => Ok(()),
        Some(version) => Err(no_schema(format!(
            "the schema is version {version}, this punctual needs {}; run `punctual init`",
            newest()
        ))),
        None => Err(no_schema(
            "the database has no punctual tables; run `punctual init`".into(),
        )),
    }
}

/// A value of `punctual_meta`; `None` where it, or the table, is missing.
pub fn read_meta(db: &mut dyn Db, prefix: &str, name: &str) -> DbResult<Option<String>> {
    let sql = format!("SELECT value FROM {prefix}punctual_meta WHERE name = ?");
    match query_one(db, &sql, &[name.into()], |row| row.text(0)) {
        Err(error) if error.kind == DbErrorKind::NoSchema => Ok(None),
        other => other,
    }
}

/// Sets a value of `punctual_meta`.
pub fn write_meta(db: &mut dyn Db, prefix: &str, name: &str, value: &str) -> DbResult<()> {
    let params: [Value; 2] = [value.into(), name.into()];
    let update = format!("UPDATE {prefix}punctual_meta SET value = ? WHERE name = ?");
    if db.execute(&update, &params)? == 0 {
        let insert = format!("INSERT INTO {prefix}punctual_meta (value, name) VALUES (?, ?)");
        db.execute(&insert, &params)?;
    }
    Ok(())
}

impl Migration {
    fn script(&self, dialect: Dialect, prefix: &str) -> String {
        let text = match dialect {
            Dialect::Sqlite => self.sqlite,
            Dialect::Mysql => self.mysql,
        };
        text.replace(PREFIX_MARK, prefix)
    }
}

fn refuse_newer(found: Option<i64>) -> DbResult<()> {
    match found {
        Some(version) if version > newest() => Err(no_schema(format!(
            "the schema is version {version}, newer than this punctual knows ({}); install the \
             newer punctual",
            newest()
        ))),
        _ => Ok(()),
    }
}

fn no_schema(message: String) -> DbError {
    DbError::new(DbErrorKind::NoSchema, message)
}
