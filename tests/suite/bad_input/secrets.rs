//! No message, log line or `ps` output ever holds a password.

use std::fs;

use super::{CONFIGURATION, NOTE, USAGE, refused, unchanged};
use crate::runs::insert;
use crate::support::process::{Running, eventually};
use crate::support::site::Site;

const PASSWORD: &str = "hush-hush-7";

/// Command line and environment of a process, as `ps` and its owner's /proc show them.
#[track_caller]
fn shown_by_proc(pid: &str) -> String {
    let read = |name: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{name}")).expect("a process of ours, alive");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    read("cmdline") + &read("environ")
}

/// The children of a process.
fn children(pid: u32) -> Vec<String> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn punctual(site: &Site, words: &[&str]) -> crate::support::process::Ended {
    let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
    command.args(words);
    site.finish(Running::start(command, b""))
}

on_both_databases! {
    fn a_password_on_the_command_line_is_refused_and_not_repeated(site: &Site) {
        site.config(NOTE).init();
        insert(site, "note", 1);
        for url in [
            format!("mysql://wiki:{PASSWORD}@localhost/wiki"),
            format!("mariadb://wiki:{PASSWORD}@127.0.0.1:3306/wiki?tls=off"),
            format!("mysql://:{PASSWORD}@localhost/wiki"),
        ] {
            for words in [&["--database", &url, "run"][..], &["list", "--database", &url]] {
                super::forget_what_was_said(site);
                let ended = unchanged(site, || punctual(site, words));
                refused(&ended, USAGE, &["--database", "ps", "PUNCTUAL_DATABASE", "password_file"]);
                assert!(!ended.stderr.contains(PASSWORD), "{ended:?}");
            }
        }
    }

    fn whatever_is_wrong_with_a_url_its_password_is_not_repeated(site: &Site) {
        site.config(NOTE).init();
        insert(site, "note", 1);
        for url in [
            format!("mysql://wiki:{PASSWORD}/@localhost/wiki"),
            format!("mysql://wiki:{PASSWORD}@localhost"),
            format!("mysql://wiki:{PASSWORD}@localhost:port/wiki"),
            format!("mysql://wiki:{PASSWORD}@localhost/wiki?{PASSWORD}"),
            format!("mysql://wiki@localhost/wiki?password={PASSWORD}"),
            format!("mysql:wiki:{PASSWORD}@localhost/wiki"),
            format!("postgres://wiki:{PASSWORD}@localhost/wiki"),
            format!("wiki:{PASSWORD}@localhost"),
            format!("mysql://wiki:{PASSWORD}%zz@local host/wiki"),
        ] {
            let ended = unchanged(site, || punctual(site, &["--database", &url, "list"]));
            refused(&ended, USAGE, &["--database"]);
            assert!(!ended.stderr.contains(PASSWORD), "{ended:?}");
            let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
            command.env("PUNCTUAL_DATABASE", &url).arg("list");
            let ended = unchanged(site, || site.finish(Running::start(command, b"")));
            refused(&ended, CONFIGURATION, &["PUNCTUAL_DATABASE"]);
            assert!(!ended.stderr.contains(PASSWORD), "{ended:?}");
            let kept = fs::read_to_string(site.path("punctual.toml")).expect("ours");
            for line in [
                format!("database = \"{url}\""),
                format!("database = {url}"),
                format!("database = \"{url}"),
                format!("databse = \"{url}\""),
                format!("[run]\ndatabase = \"{url}\""),
            ] {
                site.write("punctual.toml", &line);
                let ended = unchanged(site, || site.punctual(["list"]));
                refused(&ended, CONFIGURATION, &["punctual.toml:"]);
                assert!(!ended.stderr.contains(PASSWORD), "{ended:?}");
            }
            site.write("punctual.toml", &kept);
        }
    }

    fn a_url_in_the_wrong_place_of_a_command_line_is_not_repeated(site: &Site) {
        site.config(NOTE).init();
        insert(site, "note", 1);
        let url = format!("mysql://wiki:{PASSWORD}@localhost/wiki");
        let joined = format!("--databse={url}");
        for words in [
            &["init", &url][..],
            &["list", &url],
            &[&url],
            &["--databse", &url, "list"],
            &[&joined, "list"],
            &["--config", &url, "list"],
            &["run", "--type", &url],
            &["list", "--limit", &url],
        ] {
            super::forget_what_was_said(site);
            let ended = unchanged(site, || punctual(site, words));
            assert!(ended.code >= USAGE, "{ended:?}");
            assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
            assert!(!ended.stderr.contains(PASSWORD), "{words:?}: {ended:?}");
        }
    }
}

/// Puts the password where a run finds it.
type Arrange<'a> = &'a dyn Fn(&Site, &mut std::process::Command);

/// MariaDB alone has passwords. Wherever it comes from, a run hands it to nobody.
#[test]
fn neither_ps_nor_a_child_nor_the_log_ever_learns_the_password() {
    let from_file = |site: &Site, _: &mut std::process::Command| {
        site.config(SLEEPER);
    };
    let from_environment = |site: &Site, command: &mut std::process::Command| {
        site.write("punctual.toml", SLEEPER);
        command.env("PUNCTUAL_DATABASE", site.url());
    };
    let from_password_file = |site: &Site, _: &mut std::process::Command| {
        let database = site.mariadb_database().expect("it is MariaDB");
        site.write("secret", &database.password);
        let url = database.url_without_password();
        let lines = format!("database = \"{url}\"\npassword_file = \"secret\"\n{SLEEPER}");
        site.write("punctual.toml", &lines);
    };
    let ways: [Arrange; 3] = [&from_file, &from_environment, &from_password_file];
    for (number, arrange) in ways.into_iter().enumerate() {
        let site = Site::mariadb();
        site.init();
        insert(&site, "sleeper", 1);
        let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
        command.args(["run", "-vvv", "--json"]);
        arrange(&site, &mut command);
        let password = &site.mariadb_database().expect("it is MariaDB").password;
        let run = Running::start(command, b"");
        eventually("the handler works", || site.path("up").exists());
        let family = children(run.pid());
        assert_eq!(family.len(), 2, "the watchdog and the handler: {family:?}");
        for pid in &family {
            assert!(
                !shown_by_proc(pid).contains(password.as_str()),
                "child {pid} knows it"
            );
        }
        let own = fs::read_to_string(format!("/proc/{}/cmdline", run.pid())).expect("alive");
        assert!(!own.contains(password.as_str()), "{own}");
        if number != 1 {
            // What the caller puts into the environment stays there; nothing is added to it.
            assert!(!shown_by_proc(&run.pid().to_string()).contains(password.as_str()));
        }
        // The handler itself looks, in case it was there for a moment only.
        let environment = fs::read_to_string(site.path("up")).expect("written by the handler");
        assert!(environment.contains("PUNCTUAL_EVENT_ID=1"), "{environment}");
        assert!(!environment.contains(password.as_str()), "{environment}");
        site.write("go", "");
        // `finish` asserts that nothing on stdout or stderr holds it, with every log line said.
        let ended = site.finish(run);
        assert_eq!(ended.code, 0, "{ended:?}");
        let tables = super::Contents::of(&site).tables;
        assert!(!format!("{tables:?}").contains(password.as_str()));
    }
}

const SLEEPER: &str = "[type.sleeper]\nhandler = \"command\"\ncommand = [\"sh\", \"-c\", \
                       \"env > up.new; mv up.new up; while [ ! -e go ]; do sleep 0.05; done\"]\n";
