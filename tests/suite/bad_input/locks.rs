//! A lock file that is not what a run made of it: somebody might have put it there.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::PathBuf;

use super::{NOTE, PERMISSION, STRANGER, is_root, refused, unchanged};
use crate::runs::{fired, insert};
use crate::support::process::{Ended, eventually};
use crate::support::site::Site;

/// A site with a due event, whose lock file a first run has made; and that file.
#[track_caller]
fn prepared(site: &Site) -> PathBuf {
    site.config(NOTE).init();
    site.punctual(["run"]).ok();
    insert(site, "note", 1);
    lock_file(site)
}

fn lock_file(site: &Site) -> PathBuf {
    if site.mariadb_database().is_none() {
        return site.path("events.db.runlock");
    }
    state_directory(site).join("run.lock")
}

/// The one state directory of the site's database.
fn state_directory(site: &Site) -> PathBuf {
    let entries = fs::read_dir(site.path("state/punctual")).expect("a run has made it");
    let mut paths = entries.map(|entry| entry.expect("a readable entry").path());
    let found = paths.next().expect("one database");
    assert_eq!(paths.next(), None);
    found
}

/// A run that is refused: it names the lock file, fires nothing, and leaves everything as it is.
#[track_caller]
fn run_refused(site: &Site, words: &[&str]) -> Ended {
    let ended = unchanged(site, || site.punctual(["run"]));
    refused(&ended, PERMISSION, words);
    assert!(fired(site).is_empty());
    ended
}

on_both_databases! {
    fn a_lock_file_that_is_a_symbolic_link_is_refused(site: &Site) {
        let lock = prepared(site);
        site.write("precious", "not to be truncated");
        fs::remove_file(&lock).expect("a file of ours");
        symlink(site.path("precious"), &lock).expect("a free name");
        let name = lock.display().to_string();
        run_refused(site, &[&name, "symbolic link", "remove it"]);
        // One that leads nowhere is not followed to make a file there either.
        fs::remove_file(&lock).expect("a file of ours");
        symlink(site.path("nowhere"), &lock).expect("a free name");
        site.punctual(["run"]);
        assert!(fired(site).is_empty());
        assert!(!site.path("nowhere").exists());
        fs::remove_file(&lock).expect("a file of ours");
        site.punctual(["run"]).ok();
        assert_eq!(fired(site), [1]);
    }

    fn a_lock_file_that_is_a_directory_is_refused(site: &Site) {
        let lock = prepared(site);
        fs::remove_file(&lock).expect("a file of ours");
        fs::create_dir(&lock).expect("a free name");
        let name = lock.display().to_string();
        run_refused(site, &[&name, "directory", "remove it"]);
        assert!(lock.is_dir());
    }

    fn a_lock_file_that_is_a_pipe_or_has_a_second_name_is_refused(site: &Site) {
        let lock = prepared(site);
        let name = lock.display().to_string();
        fs::hard_link(&lock, site.path("second")).expect("one file system");
        run_refused(site, &[&name, "no plain file with one name", "remove it"]);
        fs::remove_file(&lock).expect("a file of ours");
        let mut mkfifo = site.command("mkfifo");
        assert!(mkfifo.arg(&lock).status().expect("coreutils").success());
        // Once an hour is the same line said; this one stands for both.
        assert_eq!(site.punctual(["run"]).code, PERMISSION);
        assert!(fired(site).is_empty());
    }

    /// What belongs to somebody else only root can make.
    fn a_lock_file_of_somebody_else_is_refused(site: &Site) {
        let lock = prepared(site);
        if !is_root() {
            return;
        }
        chown(&lock, Some(STRANGER), None).expect("root may");
        let name = lock.display().to_string();
        run_refused(site, &[&name, &format!("belongs to user {STRANGER}"), "remove it"]);
    }

    fn what_counts_steps_aside_is_not_written_through_a_link(site: &Site) {
        let wait = "touch up; while [ ! -e go ]; do sleep 0.05; done";
        site.config(&NOTE.replace("echo $PUNCTUAL_EVENT_ID >> fired", wait)).init();
        insert(site, "note", 1);
        let first = site.spawn(["run"]);
        eventually("the handler works", || site.path("up").exists());
        let lock = lock_file(site);
        site.write("precious", "as it was");
        let mut aside = lock.into_os_string();
        aside.push(".aside");
        symlink(site.path("precious"), &aside).expect("a free name");
        let ended = site.punctual(["run"]);
        let name = PathBuf::from(aside).display().to_string();
        refused(&ended, PERMISSION, &[&name, "symbolic link", "remove it"]);
        let text = fs::read_to_string(site.path("precious")).expect("still there");
        assert_eq!(text, "as it was");
        site.write("go", "");
        site.finish(first).ok();
    }
}

/// SQLite's lock stands beside the database; MariaDB's stands in the state directory.
#[test]
fn a_state_directory_that_is_not_ours_alone_is_refused() {
    let site = Site::mariadb();
    prepared(&site);
    let state = state_directory(&site);
    let name = state.display().to_string();
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(&state, open).expect("a directory of ours");
    let ended = unchanged(&site, || site.punctual(["run"]));
    refused(
        &ended,
        PERMISSION,
        &[&name, "written by others", "PUNCTUAL_STATE_DIR"],
    );
    if is_root() {
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).expect("ours");
        chown(&state, Some(STRANGER), None).expect("root may");
        let ended = unchanged(&site, || site.punctual(["run"]));
        refused(&ended, PERMISSION, &[&name, "not a directory of this user"]);
    }
    fs::rename(&state, site.path("elsewhere")).expect("one file system");
    symlink(site.path("elsewhere"), &state).expect("a free name");
    assert_eq!(unchanged(&site, || site.punctual(["run"])).code, PERMISSION);
    fs::remove_file(&state).expect("ours");
    site.write(
        &format!("state/punctual/{}", state.file_name().unwrap().display()),
        "",
    );
    assert_eq!(unchanged(&site, || site.punctual(["run"])).code, PERMISSION);
    assert!(fired(&site).is_empty());
}
