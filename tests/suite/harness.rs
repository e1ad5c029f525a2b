//! The tests' own ground: servers and sites do what the other tests take for granted.

use std::path::{Path, PathBuf};
use std::process::Command;

use mysql::prelude::Queryable as _;

use crate::support::mariadb::{self, Server};
use crate::support::process::{Running, eventually};
use crate::support::site::Site;

#[test]
fn a_server_keeps_what_was_committed_through_kill_9_and_vanishes_when_dropped() {
    let server = Server::private(&["--innodb-lock-wait-timeout=7"]);
    let mut admin = server.admin();
    let timeout: Option<i64> = admin
        .query_first("SELECT @@innodb_lock_wait_timeout")
        .unwrap();
    assert_eq!(timeout, Some(7));
    admin.query_drop("CREATE DATABASE kept").unwrap();
    admin
        .query_drop("CREATE TABLE kept.rows_of_it (n INT)")
        .unwrap();
    admin
        .query_drop("INSERT INTO kept.rows_of_it VALUES (1), (2)")
        .unwrap();

    let first = server.pid();
    server.kill_9();
    assert!(!is_running(first));
    admin.ping().expect_err("the server is dead");
    server.restart(&["--read-only"]);
    let mut admin = server.admin();
    let count: Option<i64> = admin
        .query_first("SELECT COUNT(*) FROM kept.rows_of_it")
        .unwrap();
    let read_only: Option<i64> = admin.query_first("SELECT @@read_only").unwrap();
    assert_eq!((count, read_only), (Some(2), Some(1)));
    drop(admin);
    server.stop();
    server.restart(&[]);
    assert!(server.status_var("Uptime") < 60);

    let (pid, directory) = (server.pid(), server.directory().to_owned());
    drop(server);
    assert!(!is_running(pid));
    assert!(!directory.exists());
}

#[test]
fn a_server_listens_on_a_loopback_port_where_asked() {
    let port = mariadb::free_port();
    let listen = format!("--port={port}");
    let server = Server::private(&["--skip-networking=0", "--bind-address=127.0.0.1", &listen]);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    drop(server);
}

#[test]
fn a_server_vanishes_when_the_test_process_is_killed() {
    let note = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--ignored",
            "--exact",
            "harness::a_process_that_holds_a_server",
        ])
        .env(NOTE, note.path());
    let holder = Running::start(command, b"");
    let read = || std::fs::read_to_string(note.path()).unwrap_or_default();
    eventually("the server is up", || read().ends_with('\n'));
    let text = read();
    let (pid, directory) = text.trim_end().split_once(' ').unwrap();
    let (pid, directory) = (pid.parse().unwrap(), PathBuf::from(directory));
    assert!(is_running(pid) && directory.exists());

    assert_eq!(holder.kill_9().code, 128 + 9);

    eventually("the server is gone", || {
        !is_running(pid) && !directory.exists()
    });
}

#[test]
#[ignore = "the other half of the test above, in a process of its own"]
fn a_process_that_holds_a_server() {
    let Some(note) = std::env::var_os(NOTE) else {
        return;
    };
    let server = Server::private(&[]);
    let text = format!("{} {}\n", server.pid(), server.directory().display());
    std::fs::write(note, text).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_database_is_open_to_its_own_users_only() {
    let server = mariadb::shared();
    let (mine, other) = (server.database(), server.database());
    assert_ne!(mine.name, other.name);
    let mut connection = mine.connect();
    let current: Option<String> = connection.query_first("SELECT DATABASE()").unwrap();
    assert_eq!(current, Some(mine.name.clone()));
    connection
        .query_drop(format!("USE {}", other.name))
        .expect_err("another site's database");

    let socket = server.socket();
    let rest = format!("localhost/{}?socket={}", mine.name, socket.display());
    assert_eq!(
        mine.url(),
        format!("mysql://{}:{}@{rest}", mine.user, mine.password)
    );
    assert_eq!(
        mine.url_without_password(),
        format!("mysql://{}@{rest}", mine.user)
    );
    assert_eq!(
        mine.open_url(),
        format!("mysql://{}@{rest}", mine.open_user)
    );
}

on_both_databases! {
    fn php_and_the_test_see_the_same_database(site: &Site) {
        let ended = site.php(
            r#"<?php
            $db = new PDO(getenv('DSN'), getenv('DB_USER') ?: null, getenv('DB_PASSWORD') ?: null);
            $db->exec("CREATE TABLE notes (n INTEGER, body TEXT)");
            $db->exec("INSERT INTO notes VALUES (7, 'one'), (8, NULL)");
            echo $db->query('SELECT COUNT(*) FROM notes')->fetchColumn();"#,
        );
        assert_eq!(ended.ok().stdout, "2");
        site.sql("UPDATE notes SET n = n + 1");
        assert_eq!(site.query_i64("SELECT SUM(n) FROM notes WHERE n < 9"), 8);
        assert_eq!(
            site.rows("SELECT n, body FROM notes ORDER BY n"),
            [["8", "one"], ["9", "NULL"]]
        );
    }

    fn the_binary_runs_in_the_site_with_a_clean_environment(site: &Site) {
        let help = site.punctual(["--help"]).ok();
        assert!(help.stdout.contains("punctual"), "{help:?}");
        assert_eq!(site.punctual_reading("", ["no-such-command"]).code, 2);
        assert!(site.init().rows("SELECT id FROM scheduled_events").is_empty());
        assert!(site.punctual(["list", "--json"]).ok().json_lines().is_empty());
        assert_eq!(site.spawn(["run", "--json"]).wait().ok().json()["stop"], "idle");
        assert_eq!(site.punctual(["run"]).ok().stdout, "");
    }
}

#[test]
fn a_site_runs_programs_of_its_own_and_can_kill_them() {
    let site = Site::sqlite();
    site.write("note", "kept")
        .write_program("show", "#!/bin/sh\ncat note; env; exec sleep 600\n");
    assert_eq!(std::fs::read_to_string(site.path("note")).unwrap(), "kept");
    let sleeper = Running::start(site.command(site.path("show")), b"");
    let pid = sleeper.pid();
    eventually("the program sleeps", || {
        state_of(pid).is_some_and(|state| state == "S")
    });
    let ended = sleeper.kill_9();
    assert_eq!(ended.code, 128 + 9);
    let leaked = format!("CARGO_MANIFEST_DIR={}", env!("CARGO_MANIFEST_DIR"));
    assert!(!ended.stdout.contains(&leaked), "{}", ended.stdout);
}

const NOTE: &str = "PUNCTUAL_TEST_NOTE";

fn is_running(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// The letter of /proc/PID/stat: S sleeping, R running, Z dead but not waited for.
fn state_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    Some(after_name.split(' ').next()?.to_owned())
}
