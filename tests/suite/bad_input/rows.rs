//! Rows that a site writes itself: a `due_at` in milliseconds, `NOW()`, a date text.

use mysql::prelude::Queryable as _;

use super::{NOTE, unchanged};
use crate::runs::fired;
use crate::support::site::Site;

/// Runs statements over one connection as the site's own code would; says how that failed.
fn raw(site: &Site, statements: &[&str]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    if let Some(database) = site.mariadb_database() {
        let mut connection = database.connect();
        let mut run = |statement| connection.query_drop(statement);
        return statements
            .iter()
            .try_for_each(|one| run(*one).map_err(|error| text(&error)));
    }
    let connection = rusqlite::Connection::open(site.path("events.db"));
    let connection = connection.map_err(|error| text(&error))?;
    let run = |one: &&str| connection.execute_batch(one).map_err(|error| text(&error));
    statements.iter().try_for_each(run)
}

fn insert(due_at: &str) -> String {
    format!("INSERT INTO scheduled_events (type, due_at) VALUES ('note', {due_at})")
}

/// Expressions of people who forgot that `due_at` counts seconds.
fn wrong_times(site: &Site) -> Vec<&'static str> {
    let mut times = vec!["1795335300000", "-1", "32503680001", "9223372036854775807"];
    times.extend(match site.mariadb_database() {
        Some(_) => [
            "NOW()",
            "NOW() + 0",
            "20261122081500",
            "UNIX_TIMESTAMP() * 1000",
        ],
        None => [
            "datetime('now')",
            "'2026-11-22 09:15'",
            "CURRENT_TIMESTAMP",
            "X'00'",
        ],
    });
    times
}

on_both_databases! {
    fn a_due_at_that_is_no_unix_time_is_refused_by_the_table(site: &Site) {
        site.config(NOTE).init();
        for time in wrong_times(site) {
            let said = raw(site, &[&insert(time)]).expect_err(time);
            let named = ["CHECK", "CONSTRAINT", "Data truncated", "out of range"];
            assert!(named.iter().any(|word| said.contains(word)), "{time}: {said}");
        }
        for text in ["'2026-11-22 09:15'", "'tomorrow'", "''", "NULL", "1000.5e-9"] {
            if text.starts_with("1000.5") && site.mariadb_database().is_some() {
                continue; // rounded by the server, to 0
            }
            raw(site, &[&insert(text)]).expect_err(text);
        }
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
        // A row that is there cannot be moved there either.
        raw(site, &[&insert("1000")]).expect("a Unix time");
        let update = "UPDATE scheduled_events SET due_at = due_at * 100000000";
        raw(site, &[update]).expect_err("milliseconds");
    }

    fn where_the_check_is_ignored_no_run_fires_them_and_list_names_them(site: &Site) {
        site.config(NOTE).init();
        let ignore = match site.mariadb_database() {
            Some(_) => "SET SESSION check_constraint_checks = 0",
            None => "PRAGMA ignore_check_constraints = 1",
        };
        let times = wrong_times(site);
        for time in &times {
            raw(site, &[ignore, &insert(time)]).unwrap_or_else(|error| panic!("{time}: {error}"));
        }
        let rows = i64::try_from(times.len()).expect("a few");
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), rows);
        // A due row of the same type beside them fires, and they do not stop it.
        raw(site, &[&insert("1000")]).expect("a Unix time");
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["done"], &run["stop"]), (&1.into(), &"drained".into()), "{run}");
        assert_eq!(fired(site), [rows + 1]);
        let run = unchanged(site, || site.punctual(["run", "--json"])).ok().json();
        assert_eq!((&run["stop"], &run["fired"]), (&"idle".into(), &0.into()), "{run}");
        let dry = ["run", "--dry-run", "--json", "--due-before", "3000-01-01"];
        let dry = unchanged(site, || site.punctual(dry)).ok();
        assert_eq!(dry.stdout, "", "{dry:?}");
        let ended = unchanged(site, || site.punctual(["list"]));
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        let counted = format!("{rows} rows have a due_at");
        let words = [counted.as_str(), "(ids ", "set due_at", "delete"];
        for word in words {
            assert!(ended.stderr.contains(word), "{word}: {ended:?}");
        }
        let cancelled = site.punctual(["cancel", "1"]);
        assert_eq!(cancelled.code, 0, "{cancelled:?}");
        let left = "SELECT COUNT(*) FROM scheduled_events";
        assert_eq!(site.query_i64(left), rows - 1);
    }

    fn other_values_out_of_range_are_refused_by_the_table(site: &Site) {
        site.config(NOTE).init();
        let long = |length: usize| "x".repeat(length);
        for (columns, values) in [
            ("type, due_at", format!("'{}', 1000", long(65))),
            ("type, due_at", "'', 1000".to_owned()),
            ("type, due_at, unique_key", format!("'note', 1000, '{}'", long(192))),
            ("type, due_at, payload", format!("'note', 1000, '{}'", long((1 << 20) + 1))),
            ("type, due_at, priority", "'note', 1000, 3".to_owned()),
            ("type, due_at, status", "'note', 1000, 'redy'".to_owned()),
            ("type, due_at, expires_at", "'note', 1000, 1795335300000".to_owned()),
        ] {
            let statement = format!("INSERT INTO scheduled_events ({columns}) VALUES ({values})");
            raw(site, &[&statement]).expect_err(columns);
        }
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
    }
}
