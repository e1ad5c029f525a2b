//! A configuration that is missing, unreadable, not ours alone, or misspelt; and cron's working
//! directory.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;

use super::{CONFIGURATION, NOTE, PERMISSION, STRANGER, UNAVAILABLE};
use super::{forget_what_was_said, is_root, refused, unchanged};
use crate::runs::{fired, insert};
use crate::support::process::Running;
use crate::support::site::Site;

/// The line of a text that holds `part`, counting from 1.
fn line_of(text: &str, part: &str) -> usize {
    let before = text
        .find(part)
        .unwrap_or_else(|| panic!("{part} is not in {text}"));
    text[..before].matches('\n').count() + 1
}

/// A site whose tables hold an event, and whose configuration the test is about to spoil.
#[track_caller]
fn prepared(site: &Site) {
    site.config(NOTE).init();
    insert(site, "note", 1);
}

/// Every command that reads the configuration refuses it as `run` does.
#[track_caller]
fn refused_by_all(site: &Site, code: i32, words: &[&str]) {
    for command in [["run"], ["list"], ["import"], ["init"], ["prune"]] {
        forget_what_was_said(site);
        refused(&unchanged(site, || site.punctual(command)), code, words);
    }
    let add = ["add", "note", "--in", "5m"];
    refused(&unchanged(site, || site.punctual(add)), code, words);
}

#[track_caller]
fn set_mode(site: &Site, name: &str, mode: u32) {
    fs::set_permissions(site.path(name), Permissions::from_mode(mode)).expect("a file of ours");
}

/// Writes this configuration, refused with its line, `part` standing in it, and these words.
#[track_caller]
fn misspelt(site: &Site, text: &str, part: &str, words: &[&str]) {
    site.config(text);
    let whole = fs::read_to_string(site.path("punctual.toml")).expect("just written");
    let place = format!("punctual.toml:{}: ", line_of(&whole, part));
    let ended = unchanged(site, || site.punctual(["list"]));
    refused(&ended, CONFIGURATION, &[place.as_str()]);
    refused(&ended, CONFIGURATION, words);
}

on_both_databases! {
    fn a_missing_configuration_is_named_with_who_asked_for_it(site: &Site) {
        prepared(site);
        let ended = unchanged(site, || site.punctual(["--config", "absent.toml", "run"]));
        refused(&ended, CONFIGURATION, &["--config", "absent.toml", "punctual init"]);
        let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
        command.env("PUNCTUAL_CONFIG", "gone.toml").arg("list");
        let ended = unchanged(site, || site.finish(Running::start(command, b"")));
        refused(&ended, CONFIGURATION, &["PUNCTUAL_CONFIG", "gone.toml", "punctual init"]);
    }

    fn without_any_configuration_there_is_no_database(site: &Site) {
        prepared(site);
        let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
        command.current_dir(site.path("home")).arg("run");
        let ended = unchanged(site, || site.finish(Running::start(command, b"")));
        let remedies = ["no database", "punctual init", "--database", "PUNCTUAL_DATABASE"];
        refused(&ended, CONFIGURATION, &remedies);
        site.write("punctual.toml", NOTE);
        refused(&unchanged(site, || site.punctual(["list"])), CONFIGURATION, &remedies);
    }

    fn a_directory_in_the_place_of_the_configuration_is_refused(site: &Site) {
        prepared(site);
        fs::rename(site.path("punctual.toml"), site.path("aside")).expect("a file of ours");
        fs::create_dir(site.path("punctual.toml")).expect("a free name");
        refused_by_all(site, CONFIGURATION, &["punctual.toml", "directory"]);
    }

    fn a_configuration_that_others_can_write_is_refused(site: &Site) {
        prepared(site);
        for mode in [0o666, 0o620, 0o602] {
            set_mode(site, "punctual.toml", mode);
            let words = ["punctual.toml", "written by others", "chmod go-w"];
            refused_by_all(site, PERMISSION, &words);
        }
        set_mode(site, "punctual.toml", 0o600);
        set_mode(site, "", 0o777);
        refused_by_all(site, PERMISSION, &["punctual.toml", "everybody can write", "chmod o-w"]);
        site.punctual(["--allow-unsafe-config", "run"]).ok();
        assert_eq!(fired(site), [1]);
    }

    /// What belongs to somebody else only root can make.
    fn a_configuration_of_another_user_is_refused(site: &Site) {
        prepared(site);
        if !is_root() {
            return;
        }
        chown(site.path("punctual.toml"), Some(STRANGER), None).expect("root may");
        let owner = STRANGER.to_string();
        refused_by_all(site, PERMISSION, &["punctual.toml", &owner, "chown"]);
    }

    fn a_misspelt_key_is_named_with_its_line_and_the_nearest_known_one(site: &Site) {
        prepared(site);
        misspelt(site, "tabel_prefix = \"x\"", "tabel", &["`tabel_prefix`", "`table_prefix`"]);
        misspelt(site, "\n\n[rnu]\n", "[rnu]", &["`rnu`", "`run`"]);
        misspelt(site, "[run]\nmax_tiem = \"5s\"", "max_tiem", &["`max_tiem`", "`max_time`"]);
        misspelt(site, "[run]\ntimezone = \"UTC\"", "timezone", &["`timezone`", "above"]);
        misspelt(site, "max_time = \"5s\"", "max_time", &["`max_time`", "below [run]"]);
        let typed = |key: &str| format!("# a line more\n{NOTE}{key}\n");
        misspelt(site, &typed("retires = 1"), "retires", &[
            "`retires`", "[type.note]", "`retries`",
        ]);
        misspelt(site, &typed("url = \"http://x/\""), "url", &["`url`", "command", "leave it out"]);
        misspelt(site, &typed("late = \"skipp\""), "late =", &["`late`", "`skip`"]);
        misspelt(site, &NOTE.replace("\"command\"", "\"comand\""), "comand", &[
            "`handler`", "`command`",
        ]);
    }

    fn a_wrong_value_is_named_with_its_line_and_what_would_do(site: &Site) {
        prepared(site);
        misspelt(site, "timezone = \"Europe/Amsterdm\"", "timezone", &["Europe/Amsterdam"]);
        misspelt(site, "table_prefix = \"wiki-\"", "table_prefix", &["letters, digits"]);
        misspelt(site, "[run]\nmax_time = \"50\"", "max_time", &["`max_time`", "unit"]);
        misspelt(site, "[run]\nmax_time = 50", "max_time", &["\"50s\"", "a whole number"]);
        misspelt(site, "[run]\nbatch_size = 5000", "batch_size", &["from 1 to 1000", "5000"]);
        misspelt(site, "[run]\nlease_ttl = \"1s\"", "lease_ttl", &["6s"]);
        misspelt(site, &format!("{NOTE}retries = -1"), "retries", &["`retries`", "-1"]);
        misspelt(site, &format!("{NOTE}retries = 1\nretries = 2"), "retries = 2", &["twice"]);
        misspelt(site, "[type.note", "[type.note", &[]);
        misspelt(site, "type = 7", "type = 7", &["`type`", "a table"]);
        misspelt(site, &format!("[type.{}]", "t".repeat(65)), "[type", &["64 bytes"]);
        site.write("punctual.toml", "");
        fs::write(site.path("punctual.toml"), b"# caf\xe9\n").expect("a file of ours");
        let ended = unchanged(site, || site.punctual(["list"]));
        refused(&ended, CONFIGURATION, &["punctual.toml:1:", "UTF-8"]);
        site.write("punctual.toml", &"#".repeat((1 << 20) + 1));
        let ended = unchanged(site, || site.punctual(["list"]));
        refused(&ended, CONFIGURATION, &["punctual.toml", "1 MiB"]);
    }

    fn an_empty_or_missing_command_is_refused(site: &Site) {
        prepared(site);
        let with = |line: &str| format!("[type.note]\nhandler = \"command\"\n{line}\n");
        for empty in ["command = []", "command = [\"\"]", "command = [\" \", \"x\"]"] {
            misspelt(site, &with(empty), "command = ", &[
                "`command`", "[type.note]", "name a program",
            ]);
        }
        misspelt(site, &with(""), "[type.note]", &["[type.note]", "no `command`"]);
        misspelt(site, &with("command = \"php a.php\""), "command = ", &["`command`", "a list"]);
        misspelt(site, &with("command = [\"php\", 7]"), "command = ", &["`command`", "texts"]);
        misspelt(site, &with("command = [\"p\\u0000\"]"), "command = ", &["`command`", "NUL"]);
        misspelt(site, "[type.note]", "[type.note]", &["[type.note]", "no `handler`"]);
        let sql = |line: &str| format!("[type.note]\nhandler = \"sql\"\n{line}\n");
        misspelt(site, &sql(""), "[type.note]", &["[type.note]", "no `sql`"]);
        misspelt(site, &sql("sql = []"), "sql = ", &["`sql`", "[type.note]"]);
        misspelt(site, &sql("sql = \" \""), "sql = ", &["`sql`", "[type.note]"]);
        let http = "[type.note]\nhandler = \"http\"\n";
        misspelt(site, http, "[type.note]", &["[type.note]", "no `url`"]);
    }

    fn ddl_and_transaction_control_in_a_sql_handler_are_refused(site: &Site) {
        site.sql("CREATE TABLE shop (n INTEGER)");
        prepared(site);
        for (statement, word) in [
            ("DROP TABLE shop", "DROP"),
            ("/* SELECT */ drop table shop", "DROP"),
            ("-- SELECT\\nDROP TABLE shop", "DROP"),
            ("CREATE TABLE more (n INTEGER)", "CREATE"),
            ("ALTER TABLE shop ADD m INTEGER", "ALTER"),
            ("TRUNCATE shop", "TRUNCATE"),
            ("GRANT ALL ON *.* TO me", "GRANT"),
            ("PRAGMA writable_schema = 1", "PRAGMA"),
            ("ATTACH 'x' AS y", "ATTACH"),
            ("SET autocommit = 1", "SET"),
            ("LOCK TABLES shop WRITE", "LOCK"),
            ("CALL delete_all()", "CALL"),
            ("BEGIN", "BEGIN"),
            ("START TRANSACTION", "START"),
            ("COMMIT", "COMMIT"),
            ("rollback", "ROLLBACK"),
            ("SAVEPOINT a", "SAVEPOINT"),
            ("RELEASE a", "RELEASE"),
            ("DELETE FROM shop; DROP TABLE shop", ""),
            ("DELETE FROM shop; COMMIT", ""),
            ("/*! DROP TABLE shop */", ""),
            ("DELETE FROM shop WHERE n = :nonsense", ":nonsense"),
            ("DELETE FROM shop WHERE n = ?", "?"),
            ("DELETE FROM shop WHERE n = 'open", ""),
        ] {
            let quoted = statement.replace('"', "\\\"");
            site.config(&format!("{NOTE}[type.bad]\nhandler = \"sql\"\nsql = \"{quoted}\"\n"));
            for command in [["run"], ["list"]] {
                forget_what_was_said(site);
                let ended = unchanged(site, || site.punctual(command));
                refused(&ended, CONFIGURATION, &["punctual.toml", "[type.bad]", "sql", word]);
            }
            site.config(&format!("{NOTE}guard = \"{quoted}\"\n"));
            let ended = unchanged(site, || site.punctual(["list"]));
            refused(&ended, CONFIGURATION, &["punctual.toml", "[type.note]", "guard"]);
        }
        let effects = "sql = [\"DELETE FROM shop\", \"DROP TABLE shop\"]";
        site.config(&format!("[type.bad]\nhandler = \"sql\"\n{effects}\n"));
        refused(&unchanged(site, || site.punctual(["list"])), CONFIGURATION, &["DROP"]);
        site.config(&format!("{NOTE}guard = \"DELETE FROM shop RETURNING n\"\n"));
        refused(&unchanged(site, || site.punctual(["list"])), CONFIGURATION, &["guard", "DELETE"]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM shop"), 0);
    }

    fn from_crons_working_directory_paths_resolve_against_the_configuration(site: &Site) {
        site.write_program("handler", "#!/bin/sh\necho $PUNCTUAL_EVENT_ID >> fired\n");
        site.write("script", "echo $PUNCTUAL_EVENT_ID >> fired\n");
        let relative = "[type.slash]\nhandler = \"command\"\ncommand = [\"./handler\"]\n\
                        [type.script]\nhandler = \"command\"\ncommand = [\"sh\", \"script\"]\n";
        site.config(relative).init();
        let text = fs::read_to_string(site.path("punctual.toml")).expect("just written");
        let directory = format!("sqlite:{}", site.path("").display());
        // `path("")` ends in a slash, so what is left of a SQLite URL is relative.
        site.write("punctual.toml", &text.replace(&directory, "sqlite:"));
        insert(site, "slash", 1);
        insert(site, "script", 1);
        let config = site.path("punctual.toml");
        let from_root = |words: &[&str]| {
            let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
            command.current_dir("/").arg("--config").arg(&config).args(words);
            site.finish(Running::start(command, b""))
        };
        assert_eq!(from_root(&["run"]).ok().stdout, "");
        let mut ids = fired(site);
        ids.sort_unstable();
        assert_eq!(ids, [1, 2]);
        from_root(&["add", "slash", "--at", "now"]).ok();
        assert_eq!(from_root(&["list", "--json"]).ok().json_lines().len(), 1);
        for stray in ["/fired", "/events.db", "/events.db.runlock"] {
            assert!(!std::path::Path::new(stray).exists(), "{stray}");
        }
        // A relative --database of the command line is the caller's own.
        let stray = from_root(&["--database", "sqlite:no-such-directory/events.db", "list"]);
        refused(&stray, UNAVAILABLE, &["/no-such-directory/events.db", "punctual init"]);
    }
}

/// Root reads every file, so root becomes somebody else for this.
#[test]
fn a_configuration_that_may_not_be_read_is_refused() {
    let site = Site::sqlite();
    prepared(&site);
    let mut program = std::path::PathBuf::from(env!("CARGO_BIN_EXE_punctual"));
    if is_root() {
        // Where the build directory is closed to others, so would be the program.
        program = site.path("punctual");
        site.copy_binary("punctual");
        set_mode(&site, "punctual", 0o755);
        set_mode(&site, "", 0o755);
    } else {
        set_mode(&site, "punctual.toml", 0);
    }
    let mut command = site.command(program);
    command.arg("list");
    if is_root() {
        command.uid(STRANGER).gid(STRANGER);
    }
    let ended = site.finish(Running::start(command, b""));
    refused(
        &ended,
        CONFIGURATION,
        &["cannot read", "punctual.toml", "Permission denied"],
    );
}

/// MariaDB alone has passwords.
#[test]
fn files_with_a_password_must_be_there_and_private() {
    let site = Site::mariadb();
    prepared(&site);
    let database = site.mariadb_database().expect("it is MariaDB");
    let config = format!("database = \"{}\"\n", database.url_without_password());
    site.write(
        "punctual.toml",
        &format!("{config}password_file = \"secret\"\n{NOTE}"),
    );
    let list = || site.punctual(["list"]);
    refused(
        &unchanged(&site, list),
        CONFIGURATION,
        &["password_file", "secret", "create it"],
    );
    site.write("secret", &format!("{}\n", database.password));
    set_mode(&site, "secret", 0o644);
    refused(
        &unchanged(&site, list),
        PERMISSION,
        &["secret", "read by others", "chmod 600"],
    );
    set_mode(&site, "secret", 0o600);
    list().ok();
    site.write("secret", &format!("{}\nmore\n", database.password));
    refused(
        &unchanged(&site, list),
        CONFIGURATION,
        &["secret", "in one line"],
    );
    site.write("secret", "");
    refused(
        &unchanged(&site, list),
        CONFIGURATION,
        &["secret", "in one line"],
    );
    site.write("punctual.toml", &format!("{config}{NOTE}"));
    site.write(
        "home/.my.cnf",
        &format!("[client]\npassword = {}\n", database.password),
    );
    list().ok();
    set_mode(&site, "home/.my.cnf", 0o622);
    refused(
        &unchanged(&site, list),
        PERMISSION,
        &[".my.cnf", "written by others", "chmod"],
    );
}
