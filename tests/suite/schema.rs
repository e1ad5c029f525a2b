//! The tables: the same in both dialects, made by `init` or by hand, repaired, prefixed.

use std::collections::BTreeMap;

use mysql::prelude::Queryable as _;

use crate::runs::{insert, now};
use crate::support::mariadb::Server;
use crate::support::site::Site;

const NOTE: &str = "[type.note]\nhandler = \"command\"\ncommand = [\"true\"]\n";
const TABLES: [&str; 14] = [
    "event_aside",
    "event_backfills",
    "event_history",
    "event_lease",
    "event_log",
    "event_next",
    "event_runs",
    "event_scans",
    "event_schedules",
    "event_slots",
    "event_sources",
    "event_types",
    "punctual_meta",
    "scheduled_events",
];

/// What the two dialects must have in common.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    columns: Vec<Column>,
    /// Name → (unique, columns); the primary key is `PRIMARY`.
    indexes: BTreeMap<String, (bool, Vec<String>)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Column {
    name: String,
    nullable: bool,
    is_number: bool,
    default: String,
}

#[test]
fn the_dialects_have_the_same_tables_columns_nullability_defaults_and_indexes() {
    let (sqlite, mariadb) = (Site::sqlite(), Site::mariadb());
    let (sqlite, mariadb) = (shape(sqlite.init()), shape(mariadb.init()));
    assert_eq!(sqlite.keys().collect::<Vec<_>>(), TABLES);
    assert_eq!(
        sqlite.keys().collect::<Vec<_>>(),
        mariadb.keys().collect::<Vec<_>>()
    );
    for (name, table) in &sqlite {
        assert_eq!(table, &mariadb[name], "{name}: SQLite's, then MariaDB's");
    }
    let ready = &sqlite["scheduled_events"].indexes["scheduled_events_turn"];
    assert_eq!(ready.1, ["status", "type", "priority", "due_at", "id"]);
}

on_both_databases! {
    fn the_printed_script_applied_by_hand_makes_what_init_makes(site: &Site) {
        let script = site.punctual(["init", "--print-sql"]).ok().stdout;
        if site.mariadb_database().is_none() {
            assert!(!site.path("events.db").exists(), "printing creates nothing");
        }
        let twin = twin_of(site);
        twin.init();
        for _ in 0..2 {
            apply(site, &script);
            assert_eq!(ddl(site), ddl(&twin));
        }
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_lease"), 1);
        // The script says which version it makes, not in which database: that is for init.
        site.config(NOTE);
        let refused = site.punctual(["run"]);
        assert_eq!((refused.code, refused.stderr.lines().count()), (78, 1), "{refused:?}");
        assert!(refused.stderr.contains("made by hand"), "{refused:?}");
        assert!(refused.stderr.contains("punctual init"), "{refused:?}");
        let init = site.punctual(["init", "--json"]).ok().json();
        assert_eq!(init["schema_before"], init["schema"], "nothing was left to create");
        assert_eq!(ddl(site), ddl(&twin));
        insert(site, "note", 1);
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
    }

    fn init_may_be_repeated_and_changes_nothing(site: &Site) {
        site.config(NOTE).init();
        insert(site, "note", 3);
        let before = (ddl(site), rows_of_all(site, ""));
        let again = site.punctual(["init", "--json"]).ok().json();
        assert_eq!(again["schema_before"], again["schema"]);
        assert_eq!((ddl(site), rows_of_all(site, "")), before);
    }

    fn an_interrupted_init_is_repaired_whichever_table_it_had_reached(site: &Site) {
        site.config(NOTE).init();
        let whole = ddl(site);
        let install = site.rows("SELECT value FROM punctual_meta WHERE name = 'install_id'");
        for table in TABLES {
            site.sql("DELETE FROM punctual_meta WHERE name = 'schema_version'");
            site.sql(&format!("DROP TABLE {table}"));
            forget_what_was_said(site);
            let refused = site.punctual(["run"]);
            assert_eq!((refused.code, refused.stderr.lines().count()), (78, 1), "{refused:?}");
            site.init();
            assert_eq!(ddl(site), whole, "without {table}");
            if table == "event_aside" {
                let kept = site.rows("SELECT value FROM punctual_meta WHERE name = 'install_id'");
                assert_eq!(kept, install);
            }
        }
        insert(site, "note", 1);
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
    }

    fn a_newer_schema_is_refused_with_the_remedy_and_left_as_it_is(site: &Site) {
        site.config(NOTE).init();
        insert(site, "note", 1);
        site.sql("UPDATE punctual_meta SET value = '999' WHERE name = 'schema_version'");
        let before = rows_of_all(site, "");
        for arguments in [
            ["run", "--json"],
            ["run", "--dry-run"],
            ["init", "--json"],
            ["init", "--adopt"],
            ["list", "--json"],
        ] {
            forget_what_was_said(site);
            let refused = site.punctual(arguments);
            assert_eq!(refused.code, 78, "{arguments:?}: {refused:?}");
            assert_eq!((refused.stdout.as_str(), refused.stderr.lines().count()), ("", 1));
            assert!(refused.stderr.contains("999"), "{refused:?}");
            assert!(refused.stderr.contains("install the newer punctual"), "{refused:?}");
        }
        assert_eq!(site.punctual(["add", "note", "--in", "1h"]).code, 78);
        assert_eq!(rows_of_all(site, ""), before);
    }

    fn ids_never_come_back(site: &Site) {
        site.config(NOTE).init();
        insert(site, "note", 3);
        site.sql("DELETE FROM scheduled_events WHERE id = 3");
        insert(site, "note", 1);
        assert_eq!(site.query_i64("SELECT MAX(id) FROM scheduled_events"), 4);
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 3);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
        insert(site, "note", 1);
        assert_eq!(site.query_i64("SELECT id FROM scheduled_events"), 5);
        site.sql("DELETE FROM scheduled_events").sql("DELETE FROM event_history");
        insert(site, "note", 1);
        assert_eq!(site.query_i64("SELECT id FROM scheduled_events"), 6);
    }

    fn two_prefixes_live_in_one_database_and_every_name_carries_its_own(site: &Site) {
        let prefixed = |prefix: &str| {
            site.config(&format!(
                "table_prefix = \"{prefix}\"\n[type.note]\nhandler = \"command\"\n\
                 command = [\"sh\", \"-c\", \"echo $PUNCTUAL_EVENT_ID >> {prefix}fired\"]\n"
            ))
        };
        for prefix in ["wiki_", "shop_"] {
            prefixed(prefix).init();
            site.sql(&format!(
                "INSERT INTO {prefix}scheduled_events (type, due_at) VALUES ('note', 1)"
            ));
        }
        for (table, index) in names(site) {
            let prefix = &table[..5];
            assert!(["wiki_", "shop_"].contains(&prefix), "{table}");
            assert!(index == "PRIMARY" || index.starts_with(prefix), "{table}: {index}");
        }
        assert_eq!(shape_with(site, "wiki_"), shape_with(site, "shop_"));
        assert_eq!(shape_with(site, "wiki_").keys().collect::<Vec<_>>(), TABLES);
        // shop_ is the one configured last.
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM wiki_scheduled_events"), 1);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM wiki_event_runs"), 0);
        assert!(site.path("shop_fired").exists() && !site.path("wiki_fired").exists());
        prefixed("wiki_");
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
        assert!(site.path("wiki_fired").exists());
    }

    fn a_run_of_one_prefix_does_not_hold_up_that_of_another(site: &Site) {
        let prefixed = |prefix: &str| {
            site.config(&format!(
                "table_prefix = \"{prefix}\"\n[type.slow]\nhandler = \"command\"\n\
                 command = [\"sh\", \"-c\", \"touch {prefix}up; \
                 while [ ! -e go ]; do sleep 0.05; done\"]\n{NOTE}"
            ))
        };
        for prefix in ["wiki_", "shop_"] {
            prefixed(prefix).init();
        }
        site.sql("INSERT INTO shop_scheduled_events (type, due_at) VALUES ('slow', 1)");
        site.sql("INSERT INTO wiki_scheduled_events (type, due_at) VALUES ('note', 1)");
        let slow = site.spawn(["run", "--json"]);
        crate::support::process::eventually("the handler works", || site.path("shop_up").exists());
        prefixed("wiki_");
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
        site.write("go", "");
        assert_eq!(site.finish(slow).ok().json()["done"], 1);
    }

    fn what_no_run_could_read_is_refused_by_the_table_itself(site: &Site) {
        site.init();
        let now = now();
        for values in [
            format!("('note', {now}000)"),
            "('note', -1)".to_owned(),
            "('note', 20261122013636)".to_owned(),
            "('note', '2026-11-22 01:36:36')".to_owned(),
            "('note', NULL)".to_owned(),
            "('', 5)".to_owned(),
            format!("('{}', 5)", "x".repeat(65)),
        ] {
            let insert = format!("INSERT INTO scheduled_events (type, due_at) VALUES {values}");
            refused(site, &insert);
        }
        for (column, value) in [
            ("priority", "3"),
            ("priority", "-3"),
            ("status", "'done'"),
            ("expires_at", "20261122013636"),
            ("unique_key", &format!("'{}'", "k".repeat(192))),
            ("payload", &format!("'{}'", "p".repeat((1 << 20) + 1))),
        ] {
            let insert = "INSERT INTO scheduled_events (type, due_at,";
            refused(site, &format!("{insert} {column}) VALUES ('note', 5, {value})"));
        }
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
        let most = format!("('{}', 5, '{}')", "x".repeat(64), "p".repeat(1 << 20));
        site.sql(&format!("INSERT INTO scheduled_events (type, due_at, payload) VALUES {most}"));
    }
}

#[test]
fn ids_do_not_come_back_after_the_server_has_been_killed() {
    let server = Server::private(&[]);
    let site = Site::on(&server);
    site.config(NOTE).init();
    insert(&site, "note", 3);
    assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 3);
    server.kill_9();
    server.restart(&[]);
    insert(&site, "note", 1);
    assert_eq!(site.query_i64("SELECT id FROM scheduled_events"), 4);
}

/// A tick says the same line once an hour only.
fn forget_what_was_said(site: &Site) {
    let state = site.path("state");
    std::fs::remove_dir_all(&state).expect("nothing is at work in it");
    std::fs::create_dir(&state).expect("a directory of ours");
}

fn twin_of(site: &Site) -> Site {
    match site.mariadb_database() {
        None => Site::sqlite(),
        Some(_) => Site::mariadb(),
    }
}

/// Applies a script as `mysql < script` and `sqlite3 < script` do.
fn apply(site: &Site, script: &str) {
    let Some(database) = site.mariadb_database() else {
        let connection = rusqlite::Connection::open(site.path("events.db")).expect("a database");
        connection.execute_batch(script).expect("valid SQL");
        return;
    };
    let mut connection = database.connect();
    let mut outcome = connection.query_iter(script).expect("valid SQL");
    while let Some(set) = outcome.iter() {
        for row in set {
            row.expect("each statement is valid SQL");
        }
    }
}

#[track_caller]
fn refused(site: &Site, statement: &str) {
    let shown = &statement[..statement.len().min(120)];
    match site.mariadb_database() {
        None => {
            let connection = rusqlite::Connection::open(site.path("events.db")).expect("opens");
            connection.execute_batch(statement).expect_err(shown);
        }
        Some(database) => {
            database.connect().query_drop(statement).expect_err(shown);
        }
    }
}

/// The definition of each table and index as the database itself words it.
fn ddl(site: &Site) -> Vec<Vec<String>> {
    if site.mariadb_database().is_none() {
        // Not sqlite_sequence, which appears with the first id.
        return site.rows(
            "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' \
             ORDER BY type, name",
        );
    }
    let tables = site.rows("SHOW TABLES");
    let define = |table: &Vec<String>| {
        let definition = site
            .rows(&format!("SHOW CREATE TABLE {}", table[0]))
            .remove(0);
        definition.into_iter().map(without_counter).collect()
    };
    tables.iter().map(define).collect()
}

fn without_counter(definition: String) -> String {
    let Some((before, rest)) = definition.split_once("AUTO_INCREMENT=") else {
        return definition;
    };
    before.to_owned() + rest.trim_start_matches(|letter: char| letter.is_ascii_digit())
}

fn rows_of_all(site: &Site, prefix: &str) -> Vec<Vec<Vec<String>>> {
    TABLES
        .iter()
        .map(|table| site.rows(&format!("SELECT * FROM {prefix}{table}")))
        .collect()
}

/// (table, index) of the whole database.
fn names(site: &Site) -> Vec<(String, String)> {
    let query = match site.mariadb_database() {
        None => {
            "SELECT tbl_name, CASE WHEN type = 'table' OR sql IS NULL THEN 'PRIMARY' ELSE name END \
             FROM sqlite_master WHERE tbl_name NOT LIKE 'sqlite_%'"
        }
        Some(_) => {
            "SELECT DISTINCT table_name, index_name FROM information_schema.STATISTICS \
             WHERE table_schema = DATABASE()"
        }
    };
    let pair = |mut row: Vec<String>| (row.remove(0), row.remove(0));
    site.rows(query).into_iter().map(pair).collect()
}

fn shape(site: &Site) -> BTreeMap<String, Table> {
    shape_with(site, "")
}

/// What there is under a prefix, the prefix taken off.
fn shape_with(site: &Site, prefix: &str) -> BTreeMap<String, Table> {
    let mut tables: Vec<String> = names(site).into_iter().map(|(table, _)| table).collect();
    tables.retain(|table| table.starts_with(prefix));
    tables.sort();
    tables.dedup();
    let shape = |table: &String| match site.mariadb_database() {
        None => sqlite_table(site, table, prefix),
        Some(_) => mariadb_table(site, table, prefix),
    };
    tables
        .iter()
        .map(|table| (table[prefix.len()..].to_owned(), shape(table)))
        .collect()
}

fn sqlite_table(site: &Site, table: &str, prefix: &str) -> Table {
    let info = site.rows(&format!(
        "SELECT name, \"notnull\" OR (pk > 0 AND type = 'INTEGER'), type, \
         COALESCE(dflt_value, ''), pk FROM pragma_table_info('{table}') ORDER BY cid"
    ));
    let column = |row: &Vec<String>| Column {
        name: row[0].clone(),
        nullable: row[1] == "0",
        is_number: row[2] == "INTEGER",
        default: row[3].trim_matches('\'').to_owned(),
    };
    let mut key: Vec<_> = info.iter().filter(|row| row[4] != "0").collect();
    key.sort_by(|a, b| a[4].cmp(&b[4]));
    let key = key.iter().map(|row| row[0].clone()).collect();
    let mut indexes = BTreeMap::from([("PRIMARY".to_owned(), (true, key))]);
    let list =
        format!("SELECT name, \"unique\" FROM pragma_index_list('{table}') WHERE origin = 'c'");
    for index in site.rows(&list) {
        let columns = site.rows(&format!(
            "SELECT name FROM pragma_index_info('{}') ORDER BY seqno",
            index[0]
        ));
        let columns = columns.into_iter().flatten().collect();
        indexes.insert(
            index[0][prefix.len()..].to_owned(),
            (index[1] == "1", columns),
        );
    }
    Table {
        columns: info.iter().map(column).collect(),
        indexes,
    }
}

fn mariadb_table(site: &Site, table: &str, prefix: &str) -> Table {
    let info = site.rows(&format!(
        "SELECT column_name, is_nullable, data_type, COALESCE(column_default, '') \
         FROM information_schema.COLUMNS WHERE table_schema = DATABASE() \
         AND table_name = '{table}' ORDER BY ordinal_position"
    ));
    let column = |row: &Vec<String>| Column {
        name: row[0].clone(),
        nullable: row[1] == "YES",
        is_number: row[2].ends_with("int"),
        // MariaDB words it as in the script, MySQL without the quotes; no default is NULL.
        default: match row[3].as_str() {
            "NULL" => String::new(),
            text => text.trim_matches('\'').to_owned(),
        },
    };
    let parts = site.rows(&format!(
        "SELECT index_name, non_unique, column_name FROM information_schema.STATISTICS \
         WHERE table_schema = DATABASE() AND table_name = '{table}' ORDER BY index_name, \
         seq_in_index"
    ));
    let mut indexes = BTreeMap::new();
    for part in parts {
        let name = part[0].strip_prefix(prefix).unwrap_or(&part[0]).to_owned();
        let (_, columns) = indexes
            .entry(name)
            .or_insert_with(|| (part[1] == "0", Vec::new()));
        columns.push(part[2].clone());
    }
    Table {
        columns: info.iter().map(column).collect(),
        indexes,
    }
}
