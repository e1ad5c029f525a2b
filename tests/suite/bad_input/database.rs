//! A database that is down, refuses us, is none, has not our tables, or is a copy.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::{CONFIGURATION, NOTE, PERMISSION, UNAVAILABLE};
use super::{Contents, forget_what_was_said, refused};
use crate::runs::{fired, insert};
use crate::support::mariadb::{self, Server};
use crate::support::process::{Ended, Running};
use crate::support::site::Site;

/// A site with one due event.
#[track_caller]
pub(super) fn prepared(site: &Site) {
    site.config(NOTE).init();
    insert(site, "note", 1);
}

/// The commands that need a database; the first of them write.
pub(super) const COMMANDS: [&[&str]; 9] = [
    &["run"],
    &["add", "note", "--in", "5m"],
    &["import"],
    &["cancel", "1"],
    &["pause", "note"],
    &["prune"], // has nothing to remove here, and so writes nothing
    &["run", "--dry-run"],
    &["list"],
    &["list", "--history"],
];
pub(super) const WRITING: usize = 5;

pub(super) fn punctual(site: &Site, words: &[&str]) -> Ended {
    let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
    command.args(words);
    let line = "{\"type\":\"note\",\"due_at\":5}\n";
    site.finish(Running::start(command, line.as_bytes()))
}

/// Each command that needs a database is refused, and fires nothing.
#[track_caller]
fn all_refused(site: &Site, code: i32, words: &[&str]) {
    for command in COMMANDS {
        forget_what_was_said(site);
        refused(&punctual(site, command), code, words);
    }
    assert!(fired(site).is_empty());
}

/// A MariaDB site whose configuration names this URL instead.
pub(super) fn at_url(site: &Site, url: &str) {
    site.write("punctual.toml", &format!("database = \"{url}\"\n{NOTE}"));
}

on_both_databases! {
    fn tables_that_are_not_there_are_refused_and_not_made(site: &Site) {
        site.sql("CREATE TABLE shop (n INTEGER)").config(NOTE);
        all_refused(site, CONFIGURATION, &["no punctual tables", "punctual init"]);
        let tables = match site.mariadb_database() {
            Some(_) => "SHOW TABLES",
            None => "SELECT name FROM sqlite_schema",
        };
        assert_eq!(site.rows(tables), [["shop"]]);
        // A wrong prefix is the same thing.
        site.config(NOTE).init();
        site.config(&format!("table_prefix = \"other_\"\n{NOTE}"));
        all_refused(site, CONFIGURATION, &["no punctual tables", "punctual init"]);
    }

    fn a_newer_schema_is_refused_by_everything(site: &Site) {
        prepared(site);
        site.sql("UPDATE punctual_meta SET value = '999' WHERE name = 'schema_version'");
        let before = Contents::of(site).tables;
        let words = ["999", "newer", "install the newer punctual"];
        all_refused(site, CONFIGURATION, &words);
        for init in [&["init"][..], &["init", "--adopt"]] {
            refused(&punctual(site, init), CONFIGURATION, &words);
        }
        assert_eq!(Contents::of(site).tables, before);
    }

    fn a_half_made_schema_is_refused_until_init_has_completed_it(site: &Site) {
        prepared(site);
        site.sql("DELETE FROM punctual_meta WHERE name = 'schema_version'");
        all_refused(site, CONFIGURATION, &["punctual init"]);
        site.punctual(["init"]).ok();
        // A table that somebody dropped is no bug of ours either.
        site.sql("DROP TABLE scheduled_events");
        for command in [&["run"][..], &["list"], &["add", "note", "--in", "5m"]] {
            refused(&punctual(site, command), CONFIGURATION, &["scheduled_events"]);
        }
    }

    fn a_copied_database_is_refused_until_it_is_adopted(site: &Site) {
        prepared(site);
        site.sql("UPDATE punctual_meta SET value = 'elsewhere' WHERE name = 'database_name'");
        let before = Contents::of(site).tables;
        all_refused(site, CONFIGURATION, &["elsewhere", "copy", "punctual init --adopt"]);
        refused(&punctual(site, &["init"]), CONFIGURATION, &["elsewhere", "init --adopt"]);
        assert_eq!(Contents::of(site).tables, before);
        let install = "SELECT value FROM punctual_meta WHERE name = 'install_id'";
        let id = site.rows(install);
        site.punctual(["init", "--adopt"]).ok();
        assert_ne!(site.rows(install), id, "it must share no lock with the original");
        site.punctual(["run"]).ok();
        assert_eq!(fired(site), [1]);
    }
}

#[test]
fn a_copied_file_is_a_copied_database() {
    let (site, other) = (Site::sqlite(), Site::sqlite());
    prepared(&site);
    other.config(NOTE);
    fs::copy(site.path("events.db"), other.path("events.db")).expect("room for a copy");
    let original = site.path("events.db").display().to_string();
    all_refused(
        &other,
        CONFIGURATION,
        &[&original, "copy", "punctual init --adopt"],
    );
    site.punctual(["run"]).ok();
    assert_eq!((fired(&site), fired(&other)), (vec![1], vec![]));
}

#[test]
fn a_sqlite_file_that_is_not_there_is_named_and_not_made() {
    let site = Site::sqlite();
    site.config(NOTE);
    let name = site.path("events.db").display().to_string();
    all_refused(&site, UNAVAILABLE, &["no database", &name, "punctual init"]);
    assert!(!site.path("events.db").exists());
    at_url(&site, "sqlite:absent/events.db");
    let name = site.path("absent").display().to_string();
    all_refused(&site, UNAVAILABLE, &[&name]);
    refused(&site.punctual(["init"]), UNAVAILABLE, &[&name, "create it"]);
    assert!(!site.path("absent").exists());
    fs::create_dir(site.path("events.dir")).expect("a free name");
    at_url(&site, "sqlite:events.dir");
    for command in [&["run"][..], &["list"], &["init"]] {
        let ended = punctual(&site, command);
        assert!(
            [UNAVAILABLE, CONFIGURATION].contains(&ended.code),
            "{ended:?}"
        );
        refused(&ended, ended.code, &["events.dir"]);
    }
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let site = Site::sqlite();
    site.config(NOTE);
    let name = site.path("events.db").display().to_string();
    for text in [
        "a letter to my aunt, long enough for a header\n".repeat(100),
        "eggs, milk\n".to_owned(),
    ] {
        site.write("events.db", &text);
        all_refused(
            &site,
            CONFIGURATION,
            &[&name, "not a database", "`database`"],
        );
        refused(
            &site.punctual(["init"]),
            CONFIGURATION,
            &[&name, "not a database", "`database`"],
        );
        assert_eq!(
            fs::read_to_string(site.path("events.db")).expect("ours"),
            text
        );
    }
    // An empty file is an empty database to SQLite, without tables of ours.
    site.write("events.db", "");
    all_refused(
        &site,
        CONFIGURATION,
        &["no punctual tables", "punctual init"],
    );
    // Damaged behind its header.
    fs::remove_file(site.path("events.db")).expect("ours");
    prepared(&site);
    let mut bytes = fs::read(site.path("events.db")).expect("ours");
    bytes[100..].fill(0x5a);
    fs::write(site.path("events.db"), bytes).expect("ours");
    all_refused(&site, CONFIGURATION, &[&name]);
}

#[test]
fn a_server_that_is_down_is_named_and_nothing_is_lost() {
    let server = Server::private(&[]);
    let site = Site::on(&server);
    prepared(&site);
    let before = Contents::of(&site).tables;
    server.stop();
    let socket = server.socket().display().to_string();
    all_refused(
        &site,
        UNAVAILABLE,
        &["cannot use", &socket, "server running"],
    );
    refused(
        &site.punctual(["init"]),
        UNAVAILABLE,
        &["cannot use", &socket, "server running"],
    );
    // cron calls every minute and mails each line: it is said once an hour.
    forget_what_was_said(&site);
    refused(&site.punctual(["run"]), UNAVAILABLE, &[&socket]);
    for _ in 0..3 {
        let again = site.punctual(["run"]);
        assert_eq!((again.code, again.stderr.as_str()), (UNAVAILABLE, ""));
    }
    server.restart(&[]);
    assert_eq!(Contents::of(&site).tables, before);
    site.punctual(["run"]).ok();
    assert_eq!(fired(&site), [1]);
}

#[test]
fn a_server_that_goes_down_in_a_run_ends_it_and_nothing_is_lost() {
    let server = Server::private(&[]);
    let site = Site::on(&server);
    let wait = "touch up; while [ ! -e go ]; do sleep 0.05; done; echo $PUNCTUAL_EVENT_ID >> fired";
    site.config(&NOTE.replace("echo $PUNCTUAL_EVENT_ID >> fired", wait))
        .init();
    insert(&site, "note", 2);
    let run = site.spawn(["run", "--json"]);
    crate::support::process::eventually("the handler works", || site.path("up").exists());
    server.kill_9();
    site.write("go", "");
    let ended = site.finish(run);
    assert_eq!(
        (ended.code, ended.stderr.lines().count()),
        (UNAVAILABLE, 1),
        "{ended:?}"
    );
    assert_eq!(ended.json()["stop"], "database_lost");
    server.restart(&[]);
    assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 2);
    site.punctual(["run"]).ok();
    assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
    let mut ids = fired(&site);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn what_is_no_server_is_refused() {
    let site = Site::mariadb();
    prepared(&site);
    let closed = format!("mysql://wiki@127.0.0.1:{}/wiki", mariadb::free_port());
    at_url(&site, &closed);
    all_refused(&site, UNAVAILABLE, &["cannot use wiki at 127.0.0.1:"]);
    site.write("plain", "");
    at_url(&site, "mysql://wiki@localhost/wiki?socket=plain");
    all_refused(&site, UNAVAILABLE, &["cannot use wiki", "plain"]);
    // Something that speaks another language: what it says may not reach the terminal raw.
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n\x1b[2Jfie\r\n");
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read(&mut [0; 512]);
        }
    });
    at_url(&site, &format!("mysql://wiki@127.0.0.1:{port}/wiki"));
    all_refused(&site, UNAVAILABLE, &["cannot use wiki at 127.0.0.1:"]);
}

#[test]
fn a_server_that_refuses_the_user_the_password_or_the_database_is_named() {
    let site = Site::mariadb();
    prepared(&site);
    let before = Contents::of(&site).tables;
    let database = site.mariadb_database().expect("it is MariaDB");
    let right = database.url();
    let wrong = right.replace(&database.password, "hush-hush-7");
    at_url(&site, &wrong);
    all_refused(
        &site,
        PERMISSION,
        &["cannot use", &database.user, "correct user and password"],
    );
    let ended = punctual(&site, &["list"]);
    assert!(!ended.stderr.contains("hush-hush-7"), "{ended:?}");
    refused(
        &site.punctual(["init"]),
        PERMISSION,
        &["cannot use", &database.user, "correct user and password"],
    );
    at_url(&site, &right.replace(&database.user, "stranger"));
    all_refused(&site, PERMISSION, &["cannot use", "stranger"]);
    at_url(
        &site,
        &right.replace(&format!("/{}?", database.name), "/mysql?"),
    );
    all_refused(&site, PERMISSION, &["cannot use mysql"]);
    // To root, who may see all databases, it is simply not there.
    let socket = database.socket.display();
    at_url(
        &site,
        &format!("mysql://root@localhost/nowhere?socket={socket}"),
    );
    all_refused(
        &site,
        UNAVAILABLE,
        &["cannot use nowhere", "create the database"],
    );
    assert_eq!(Contents::of(&site).tables, before);
}
