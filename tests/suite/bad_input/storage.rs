//! A database that may only be read, or has no room left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

use mysql::prelude::Queryable as _;

use super::database::{COMMANDS, WRITING, at_url, prepared, punctual};
use super::{Contents, forget_what_was_said, is_root, refused};
use super::{IO, NOTE, PERMISSION, STRANGER};
use crate::runs::fired;
use crate::support::mariadb::Server;
use crate::support::process::{Ended, Running};
use crate::support::site::Site;

#[test]
fn a_server_that_may_only_be_read_lets_readers_read() {
    let server = Server::private(&[]);
    let site = Site::on(&server);
    prepared(&site);
    let before = Contents::of(&site).tables;
    // As `mariadbd --read-only`: the site's user has no right to write nevertheless.
    server
        .admin()
        .query_drop("SET GLOBAL read_only = 1")
        .expect("root may");
    for (number, command) in COMMANDS.iter().enumerate() {
        forget_what_was_said(&site);
        let ended = punctual(&site, command);
        if number < WRITING {
            refused(&ended, PERMISSION, &["read-only"]);
        } else {
            ended.ok();
        }
    }
    assert!(fired(&site).is_empty());
    assert_eq!(Contents::of(&site).tables, before);
    server
        .admin()
        .query_drop("SET GLOBAL read_only = 0")
        .expect("root may");
    // One who was only granted SELECT.
    let database = site.mariadb_database().expect("it is MariaDB");
    let (name, open) = (&database.name, &database.open_user);
    let mut admin = server.admin();
    for grant in [
        format!("REVOKE ALL ON {name}.* FROM {open}@localhost"),
        format!("GRANT SELECT ON {name}.* TO {open}@localhost"),
    ] {
        admin.query_drop(grant).expect("root may");
    }
    at_url(&site, &database.open_url());
    for (number, command) in COMMANDS.iter().enumerate() {
        forget_what_was_said(&site);
        let ended = punctual(&site, command);
        if number < WRITING {
            refused(&ended, PERMISSION, &["denied", open]);
        } else {
            ended.ok();
        }
    }
    assert!(fired(&site).is_empty());
    assert_eq!(Contents::of(&site).tables, before);
}

/// Root writes every file, so root becomes somebody else for this.
#[test]
fn a_sqlite_file_that_may_only_be_read_lets_readers_read() {
    let site = Site::sqlite();
    prepared(&site);
    let before = Contents::of(&site).tables;
    let mode = |name: &str, mode| {
        fs::set_permissions(site.path(name), fs::Permissions::from_mode(mode)).expect("ours");
    };
    site.copy_binary("punctual");
    for (name, bits) in [
        ("punctual", 0o755),
        ("punctual.toml", 0o444),
        ("events.db", 0o444),
        ("home", 0o777),
    ] {
        mode(name, bits);
    }
    fs::create_dir(site.path("theirs")).expect("a free name");
    mode("theirs", 0o777);
    // Where only its owner could write, the owner of the directory is root or this very user.
    mode("", if is_root() { 0o755 } else { 0o500 });
    for (number, words) in COMMANDS.iter().enumerate() {
        let mut command = site.command(site.path("punctual"));
        command
            .args(*words)
            .env("PUNCTUAL_STATE_DIR", site.path(&format!("theirs/{number}")));
        if is_root() {
            command.uid(STRANGER).gid(STRANGER);
        }
        let line = "{\"type\":\"note\",\"due_at\":5}\n";
        let ended = Running::start(command, line.as_bytes()).wait();
        if number < WRITING {
            refused(&ended, PERMISSION, &["events.db"]);
        } else {
            ended.ok();
        }
    }
    mode("", 0o700);
    mode("events.db", 0o600);
    assert!(fired(&site).is_empty());
    assert_eq!(Contents::of(&site).tables, before);
}

/// A mount of one's own needs root, or a kernel that lets everybody have one; where there is
/// neither, this fails and says so.
#[track_caller]
fn in_a_mount_namespace(site: &Site, script: &str) {
    site.write(
        "script",
        &format!(
            "set -e\n\
             try() {{ name=$1; shift; code=0\n\
             \"$PUNCTUAL\" \"$@\" >\"$name.out\" 2>\"$name.err\" </dev/null || code=$?\n\
             echo $code >\"$name.code\"; rm -rf state/punctual; }}\n{script}"
        ),
    );
    let mut command = site.command("unshare");
    command
        .arg(if is_root() { "-m" } else { "-rm" })
        .args(["sh", "script"]);
    command.env("PUNCTUAL", env!("CARGO_BIN_EXE_punctual"));
    let ended = Running::start(command, b"").wait();
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (0, ""),
        "mounts need root: {ended:?}"
    );
}

/// What `try NAME …` came to in [`in_a_mount_namespace`].
#[track_caller]
fn tried(site: &Site, name: &str) -> Ended {
    let read = |kind: &str| {
        let file = format!("{name}.{kind}");
        fs::read_to_string(site.path(&file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    let code = read("code").trim().parse().expect("an exit code");
    Ended {
        stdout: read("out"),
        stderr: read("err"),
        code,
    }
}

#[test]
fn a_full_disk_under_sqlite_stops_a_run_and_loses_nothing() {
    let site = Site::sqlite();
    let payload = "x".repeat(60_000);
    site.write("large", &payload);
    site.write(
        "punctual.toml",
        "database = \"sqlite:disk/events.db\"\n\
         [type.note]\nhandler = \"command\"\nretries = 0\n\
         command = [\"sh\", \"-c\", \"echo $PUNCTUAL_EVENT_ID >> ../fired\"]\ncwd = \"disk\"\n",
    );
    fs::create_dir(site.path("disk")).expect("a free name");
    in_a_mount_namespace(
        &site,
        "mount -t tmpfs -o size=600k none disk\n\
         try init init\n\
         try one add note --at now --payload-file large\n\
         try two add note --at now --payload-file large\n\
         dd if=/dev/zero of=disk/filler bs=1k count=10000 2>/dev/null || true\n\
         try refused add note --at now --payload-file large\n\
         printf '{\"type\":\"note\",\"due_at\":5,\"payload\":\"%s\"}\\n' \"$(cat large)\" >lines\n\
         code=0; \"$PUNCTUAL\" import <lines >import.out 2>import.err || code=$?\n\
         echo $code >import.code\n\
         try full run\n\
         try listed list --json\n\
         rm disk/filler\n\
         try after run\n\
         try left list --json\n\
         try done list --history --json\n",
    );
    for name in ["init", "one", "two"] {
        tried(&site, name).ok();
    }
    refused(
        &tried(&site, "refused"),
        IO,
        &["disk/events.db", "full", "make room"],
    );
    refused(
        &tried(&site, "import"),
        IO,
        &["full", "lines from 1 on are not imported"],
    );
    let full = tried(&site, "full");
    refused(&full, IO, &["disk/events.db", "full"]);
    assert_eq!(
        tried(&site, "listed").ok().json_lines().len(),
        2,
        "nothing is lost"
    );
    tried(&site, "after").ok();
    assert!(tried(&site, "left").ok().json_lines().is_empty());
    let done = tried(&site, "done").ok().json_lines();
    assert_eq!(done.len(), 2);
    assert!(
        done.iter().all(|event| event["outcome"] == "done"),
        "{done:?}"
    );
    assert_eq!(
        fired(&site).len(),
        2,
        "not fired while it could not be recorded"
    );
}

/// The handler has worked and cannot be recorded: at least once it is, and at most once unknown.
#[test]
fn a_disk_that_fills_up_in_a_run_is_a_loss_and_no_secret() {
    let site = Site::sqlite();
    let script = "echo $PUNCTUAL_EVENT_ID >> ../fired\n\
                  [ -e ../again ] || dd if=/dev/zero of=filler bs=1k count=10000 2>/dev/null\n\
                  exit 0\n";
    let handler = "handler = \"command\"\ncommand = [\"sh\", \"../fill\"]\ncwd = \"disk\"\n";
    site.write("fill", script).write(
        "punctual.toml",
        &format!(
            "database = \"sqlite:disk/events.db\"\n[type.least]\n{handler}\
             [type.most]\n{handler}at_most_once = true\n"
        ),
    );
    fs::create_dir(site.path("disk")).expect("a free name");
    let large = "x".repeat(10_000);
    site.write("large", &large);
    in_a_mount_namespace(
        &site,
        "for kind in least most; do\n\
         mount -t tmpfs -o size=600k none disk\n\
         try init init\n\
         try add add $kind --at now --payload-file large\n\
         try $kind.full run\n\
         try $kind.left list --json\n\
         rm disk/filler; touch again\n\
         try $kind.after run\n\
         try $kind.done list --history --json\n\
         rm again; umount disk\n\
         done\n",
    );
    for kind in ["least", "most"] {
        let full = tried(&site, &format!("{kind}.full"));
        refused(&full, IO, &["disk/events.db", "full", "make room"]);
        assert_eq!(
            tried(&site, &format!("{kind}.left"))
                .ok()
                .json_lines()
                .len(),
            1
        );
    }
    let ended = |kind: &str| {
        let after = tried(&site, &format!("{kind}.after"));
        let history = tried(&site, &format!("{kind}.done")).ok().json_lines();
        assert_eq!(history.len(), 1, "{after:?} {history:?}");
        (
            after.code,
            history[0]["outcome"].clone(),
            history[0]["losses"].clone(),
        )
    };
    assert_eq!(ended("least"), (0, "done".into(), 1.into()));
    assert_eq!(ended("most"), (1, "unknown".into(), 0.into()));
    assert_eq!(
        fired(&site),
        [1, 1, 1],
        "twice at least once, once at most once"
    );
}

#[test]
fn a_read_only_file_system_lets_readers_read() {
    let site = Site::sqlite();
    site.write(
        "punctual.toml",
        &format!("database = \"sqlite:disk/events.db\"\n{NOTE}"),
    );
    fs::create_dir(site.path("disk")).expect("a free name");
    site.init();
    site.punctual(["add", "note", "--at", "now"]).ok();
    in_a_mount_namespace(
        &site,
        "mount --bind disk disk; mount -o remount,bind,ro disk\n\
         try run run\n\
         try add add note --at now\n\
         try init init\n\
         try list list --json\n\
         try dry run --dry-run --json\n",
    );
    for name in ["run", "add", "init"] {
        refused(&tried(&site, name), PERMISSION, &["disk/events.db"]);
    }
    for name in ["list", "dry"] {
        assert_eq!(tried(&site, name).ok().json_lines().len(), 1);
    }
    site.punctual(["run"]).ok();
    assert_eq!(fired(&site), [1]);
}

/// The server's tables live in one file that may not grow.
#[test]
fn a_full_server_stops_a_run_and_loses_nothing() {
    let server = Server::private(&[
        "--innodb-data-file-path=ibdata1:12M",
        "--innodb-file-per-table=0",
    ]);
    let site = Site::on(&server);
    prepared(&site);
    site.sql("CREATE TABLE filler (bytes LONGBLOB)");
    let mut connection = site.mariadb_database().expect("it is MariaDB").connect();
    for size in [1 << 20, 100_000, 10_000, 1_000, 100] {
        let fill = format!("INSERT INTO filler VALUES (REPEAT('x', {size}))");
        while connection.query_drop(&fill).is_ok() {}
    }
    drop(connection);
    site.write("large", &"y".repeat(1 << 20));
    let add = ["add", "note", "--at", "now", "--payload-file", "large"];
    let before = Contents::of(&site).tables;
    refused(&site.punctual(add), IO, &["full"]);
    assert_eq!(Contents::of(&site).tables, before);
    let run = site.punctual(["run", "--json"]);
    assert!([0, IO].contains(&run.code), "{run:?}");
    // Dropping a table would need room too; the administrator adds some.
    server.stop();
    server.restart(&["--innodb-data-file-path=ibdata1:12M:autoextend"]);
    site.punctual(["run"]);
    assert_eq!(fired(&site), [1]);
    site.punctual(add).ok();
}
