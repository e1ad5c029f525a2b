//! What people and scripts do by hand, on both databases: adding, importing, listing, deciding.

use mysql::prelude::Queryable as _;
use serde_json::{Value, json};

use crate::support::mariadb;
use crate::support::process::{Ended, Running};
use crate::support::site::Site;

const TYPE: &str = "[type.mail]\nhandler = \"command\"\ncommand = [\"true\"]\n";

on_both_databases! {
    fn an_event_is_added_listed_explained_and_cancelled(site: &Site) {
        site.init();
        let words = ["add", "mail", "--at", "@4000000000", "--payload", "été \u{1f600}", "--json"];
        let added = site.punctual(words).ok();
        assert_eq!(
            added.json(),
            json!({"id": 1, "type": "mail", "due_at": 4_000_000_000_i64, "created": true})
        );
        assert_eq!(
            site.punctual(["list", "--json"]).ok().stdout,
            "{\"id\":1,\"type\":\"mail\",\"due_at\":4000000000,\"status\":\"ready\",\"priority\":0,\
             \"attempts\":0,\"losses\":0,\"key\":null,\"payload\":\"été \u{1f600}\"}\n"
        );
        let why = site.punctual(["why", "1", "--tz", "Europe/Amsterdam"]).ok();
        assert!(why.stdout.contains("It is not due before 2096-10-02 09:06:40 CEST"), "{why:?}");
        assert_eq!(site.punctual(["cancel", "1"]).ok().stdout, "cancelled 1 event\n");
        let refused = site.punctual(["cancel", "1", "2"]);
        assert_eq!(refused.code, 65);
        assert_eq!(refused.stdout, "cancelled 0 events\n");
        assert_eq!(
            refused.stderr,
            "punctual: event 1 is finished: cancelled\n\
             punctual: event 2 is not there: never was, or deleted, or pruned from history\n"
        );
        let line = site.punctual(["list", "--history", "--json"]).ok().json();
        assert_eq!(line["outcome"], "cancelled");
        assert_eq!(line["status"], "finished");
    }

    fn strings_are_told_apart_byte_by_byte(site: &Site) {
        site.init();
        for key in ["k", "k ", "K", "é", "e\u{301}", "007", "7"] {
            site.punctual(["add", "mail", "--at", "@5", "--key", key]).ok();
        }
        site.punctual(["add", "mail ", "--at", "@5", "--key", "k"]).ok();
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 8);
        assert_eq!(site.punctual(["list", "--type", "mail", "--json"]).ok().json_lines().len(), 7);
    }

    fn bytes_that_are_no_text_come_back_as_they_went_in(site: &Site) {
        site.init();
        let bytes = b"\x00\xff\xfe\n'\\";
        let words = ["add", "mail", "--at", "@5", "--payload-file", "-"];
        site.punctual_reading(bytes, words).ok();
        let line = site.punctual(["list", "--json"]).ok().json();
        assert_eq!(line["payload_base64"], "AP/+Cidc");
    }

    fn many_adds_of_one_key_at_once_make_one_event(site: &Site) {
        site.init();
        let words = ["add", "mail", "--at", "@4000000000", "--key", "k", "--json"];
        let running: Vec<Running> = (0..8).map(|_| site.spawn(words)).collect();
        let created = running.into_iter().map(|one| site.finish(one).ok().json());
        let created = created.filter(|line| line["created"] == true).count();
        assert_eq!(created, 1);
        let running: Vec<Running> = (0..8)
            .map(|n| {
                let due = format!("@40000000{n}0");
                let policy = ["add", "mail", "--at", &due, "--key", "k", "--if-exists", "latest"];
                site.spawn(policy)
            })
            .collect();
        for one in running {
            site.finish(one).ok();
        }
        assert_eq!(
            site.rows("SELECT due_at FROM scheduled_events"),
            [["4000000070"]],
        );
    }

    fn a_large_import_goes_in_and_its_end_is_told(site: &Site) {
        site.init();
        let line = |n: usize| {
            let payload = "x".repeat(if n.is_multiple_of(100) { 700_000 } else { 20 });
            let line = json!({
                "type": "mail", "due_at": n, "key": format!("k{}", n % 1500),
                "payload": {"p": payload},
            });
            format!("{line}\n")
        };
        let text: String = (0..1502).map(line).collect();
        let ended = site.punctual_reading(&text, ["import"]).ok();
        assert_eq!(ended.stdout, "imported 1500 events (2 kept)\n");
        let again = site.punctual_reading(&text, ["import", "--json"]).ok();
        assert_eq!(again.json(), json!({"imported": 0, "kept": 1502}));
        let listed = site.punctual(["list", "--json"]).ok();
        let dues: Vec<i64> =
            listed.json_lines().iter().filter_map(|line| line["due_at"].as_i64()).collect();
        assert_eq!(dues, (0..1500).collect::<Vec<i64>>());
    }

    fn a_bad_line_leaves_its_chunk_out_and_says_where_to_go_on(site: &Site) {
        site.init();
        let good = "{\"type\":\"mail\",\"due_at\":1}\n";
        let text = good.repeat(600) + "{\"type\":\"mail\",\"due_at\":\n" + &good.repeat(10);
        let ended = site.punctual_reading(&text, ["import"]);
        assert_eq!((ended.code, ended.stdout.as_str()), (65, ""));
        assert!(ended.stderr.starts_with("punctual: line 601: "), "{ended:?}");
        assert!(ended.stderr.ends_with("go on with --from-line 501\n"), "{ended:?}");
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 500);
        let binary = site.punctual_reading(b"\x7fELF\x02\x01\x00\xff\n", ["import"]);
        assert_eq!((binary.code, binary.stderr.lines().count()), (65, 1));
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 500);
    }

    fn events_are_listed_in_order_over_pages_types_and_instants(site: &Site) {
        site.init();
        let line = |n: i64| {
            let (name, due, priority) = (format!("t{}", n % 3), n / 400, n % 5 - 2);
            let line = json!({"type": name, "due_at": due, "priority": priority});
            format!("{line}\n")
        };
        let text: String = (0..1200).map(line).collect();
        site.punctual_reading(text, ["import"]).ok();
        site.sql("UPDATE scheduled_events SET status = 'running', claim_epoch = 1 WHERE id <= 10");
        let ids = |ended: Ended| -> Vec<i64> {
            ended.ok().json_lines().iter().filter_map(|line| line["id"].as_i64()).collect()
        };
        let in_order = |query: &str| -> Vec<i64> {
            site.rows(query).iter().map(|row| row[0].parse().unwrap()).collect()
        };
        assert_eq!(
            ids(site.punctual(["list", "--json"])),
            in_order("SELECT id FROM scheduled_events ORDER BY due_at, id")
        );
        let two = ["list", "--json", "--type", "t0", "--type", "t2", "--from", "@1", "--limit=9"];
        assert_eq!(
            ids(site.punctual(two)),
            in_order(
                "SELECT id FROM scheduled_events WHERE type IN ('t0', 't2') AND due_at >= 1 \
                 ORDER BY due_at, id LIMIT 9"
            )
        );
        let running = ids(site.punctual(["list", "--json", "--status", "running"]));
        assert_eq!(running, (1..=10).collect::<Vec<i64>>());
        assert_eq!(ids(site.punctual(["list", "--json", "--due", "--to", "@0"])).len(), 390);
        let table = site.punctual(["list", "--limit", "2"]).ok();
        assert!(table.stdout.ends_with("and 1198 more; --limit N shows more\n"), "{table:?}");
    }

    fn dead_events_are_retried_or_resolved(site: &Site) {
        site.config(&TYPE.replace("\"true\"", "\"sh\", \"-c\", \"exit 65\"")).init();
        for key in ["a", "b", "c"] {
            site.punctual(["add", "mail", "--at", "@5", "--key", key, "--payload", key]).ok();
        }
        assert_eq!(site.punctual(["run"]).code, 1);
        let status = site.punctual(["status", "--json"]).ok().json();
        assert_eq!(status["unresolved_dead"], 3);
        assert_eq!(status["last_run"]["dead"], 3);
        assert_eq!(status["running_by"], Value::Null);
        assert_eq!(site.punctual(["retry", "1"]).ok().stdout, "retried 1 event\n");
        assert_eq!(
            site.rows("SELECT id, payload, unique_key, attempts FROM scheduled_events"),
            [["1", "a", "a", "0"]]
        );
        let resolved = site.punctual(["resolve", "--type", "mail", "--as", "done"]).ok();
        assert_eq!(resolved.stdout, "resolved 2 events\n");
        assert_eq!(site.punctual(["retry", "--all"]).ok().stdout, "retried 0 events\n");
        site.punctual(["add", "mail", "--in", "1h", "--key", "b"]).ok();
        let taken = site.punctual(["retry", "2"]);
        assert_eq!(taken.code, 65);
        assert_eq!(taken.stderr, "punctual: event 2 cannot come back: a newer event has its key\n");
        assert_eq!(site.punctual(["run"]).code, 1);
        let history = site.rows(
            "SELECT event_id, COALESCE(resolved_as, '-') FROM event_history ORDER BY history_id",
        );
        assert_eq!(history, [["1", "retried"], ["2", "done"], ["3", "done"], ["1", "-"]]);
    }

    fn a_paused_type_waits_and_check_does_not_mind(site: &Site) {
        site.config(TYPE).init();
        site.punctual(["pause", "mail"]).ok();
        site.punctual(["add", "mail", "--at", "@5"]).ok();
        site.punctual(["run"]).ok();
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 1);
        let check = site.punctual(["check"]).ok();
        assert!(check.stdout.starts_with("PUNCTUAL OK - lag 0s, 1 due"), "{check:?}");
        site.punctual(["resume", "mail"]).ok();
        assert_eq!(site.punctual(["check"]).code, 2);
        site.punctual(["run"]).ok();
        assert_eq!(site.punctual(["check"]).code, 0);
        let refused = site.punctual(["pause", "mial"]);
        assert_eq!(refused.code, 2);
        assert!(refused.stderr.ends_with("did you mean `mail`?\n"), "{refused:?}");
    }

    fn status_has_every_key_in_the_order_of_the_contract(site: &Site) {
        site.config(TYPE).init();
        site.punctual(["add", "mail", "--at", "@5"]).ok();
        site.punctual(["run"]).ok();
        let status = site.punctual(["status", "--json"]).ok();
        let json = status.json();
        let keys = |json: &Value| {
            let names: Vec<String> = json.as_object().unwrap().keys().cloned().collect();
            names.join(" ")
        };
        assert_eq!(
            keys(&json),
            "ready due running oldest_due_at lag_s unresolved_dead unresolved_unknown done_24h \
             skipped_24h steps_aside last_tick_at last_run running_by types"
        );
        assert_eq!(
            keys(&json["last_run"]),
            "run_id epoch host pid started_at finished_at stop fired done retried deferred dead \
             skipped unknown withdrawn recovered released waves remaining_due"
        );
        assert_eq!(json["done_24h"], 1);
        assert_eq!(json["last_run"]["stop"], "drained");
        let people = site.punctual(["status"]).ok();
        assert!(people.stdout.contains("last 24 hours: 1 done, 0 skipped"), "{people:?}");
    }

    fn a_table_prefix_goes_through_every_command(site: &Site) {
        site.config(&format!("table_prefix = \"wiki_\"\n{TYPE}")).init();
        site.punctual(["add", "mail", "--at", "@4000000000", "--key", "k"]).ok();
        let later = ["add", "mail", "--at", "@4000000001", "--key", "k", "--if-exists", "latest"];
        site.punctual(later).ok();
        assert_eq!(site.punctual(["list", "--type", "mail", "--json"]).ok().json_lines().len(), 1);
        site.punctual(["pause", "mail"]).ok();
        site.punctual(["show", "2"]).ok();
        site.punctual(["cancel", "--all"]).ok();
        site.punctual(["retry", "2"]).ok();
        site.punctual(["status"]).ok();
        site.punctual(["check"]).ok();
        site.punctual(["prune", "--older-than", "0s"]).ok();
        site.punctual(["run", "--dry-run"]).ok();
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM wiki_scheduled_events"), 1);
    }

    fn prune_removes_what_is_over_its_time(site: &Site) {
        site.init();
        let insert = "INSERT INTO event_history (event_id, type, due_at, priority, attempts, \
                      losses, deferrals, outcome, finished_at) VALUES ";
        let rows = vec!["(1, 'a', 5, 0, 0, 0, 0, 'done', 6)"; 2500].join(", ");
        site.sql(&format!("{insert}{rows}"));
        assert_eq!(site.punctual(["prune", "--json"]).ok().json(), json!({"removed": 2500}));
    }

    fn closing_or_filling_stdout_is_no_crash(site: &Site) {
        site.init();
        let text = "{\"type\":\"mail\",\"due_at\":1,\"payload\":\"as long as it takes\"}\n";
        site.punctual_reading(text.repeat(3000), ["import"]).ok();
        let program = env!("CARGO_BIN_EXE_punctual");
        let through = |script: &str| {
            let mut command = site.command("bash");
            command.args(["-c", script, program]);
            site.finish(Running::start(command, b""))
        };
        let closed = through("set -o pipefail; \"$0\" list --json | head -n 1");
        assert_eq!((closed.code, closed.stderr.as_str()), (0, ""));
        let full = through("\"$0\" list --json > /dev/full");
        assert_eq!((full.code, full.stderr.lines().count()), (74, 1), "{full:?}");
    }

    fn a_tick_that_fails_every_minute_says_so_once_an_hour(site: &Site) {
        site.config("[type.mail]\nhandler = \"sql\"\nsql = [\"SELECT 1\"]\n");
        let first = site.punctual(["run"]);
        assert!(first.code != 0 && first.stderr.lines().count() == 1, "{first:?}");
        let second = site.punctual(["run"]);
        assert_eq!((second.code, second.stderr.as_str()), (first.code, ""));
        assert_eq!(site.punctual(["list"]).stderr.lines().count(), 1);
        assert_eq!(site.punctual(["list"]).stderr.lines().count(), 1);
    }

    fn statements_of_a_handler_are_checked_before_anything_happens(site: &Site) {
        site.config("[type.mail]\nhandler = \"sql\"\nsql = [\"DROP TABLE article\"]\n");
        let refused = site.punctual(["init"]);
        assert_eq!((refused.code, refused.stderr.lines().count()), (78, 1));
        assert!(refused.stderr.contains("[type.mail] sql: DROP is not allowed"), "{refused:?}");
        assert_eq!(site.punctual(["check"]).code, 3);
    }
}

#[test]
fn rows_that_a_server_without_check_let_in_are_named_and_never_fired() {
    let site = Site::mariadb();
    site.config(TYPE).init();
    site.sql(
        "SET check_constraint_checks = 0; INSERT INTO scheduled_events (type, due_at, priority) \
              VALUES ('mail', 20261122013636, 0), ('mail', -1, 0), ('mail', 5, 9)",
    );
    site.punctual(["run"]).ok();
    assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 3);
    let listed = site.punctual(["list", "--json"]);
    assert_eq!((listed.code, listed.stdout.lines().count()), (0, 3));
    assert!(
        listed
            .stderr
            .starts_with("punctual: 2 rows have a due_at that is no Unix time (ids 1, 2)"),
        "{listed:?}"
    );
    assert!(
        listed
            .stderr
            .contains("1 row has a priority outside -2 to 2 (id 3)"),
        "{listed:?}"
    );
    let check = site.punctual(["check"]);
    assert_eq!(check.code, 1);
    assert!(check.stdout.contains("3 rows no run can fire"), "{check:?}");
}

#[test]
fn a_user_who_may_only_read_can_look_at_everything() {
    let server = mariadb::shared();
    let site = Site::on(server);
    site.config(TYPE).init();
    site.punctual(["add", "mail", "--in", "5m"]).ok();
    let database = site.mariadb_database().expect("on MariaDB");
    let reader = format!("reader_of_{}", database.name);
    let mut admin = server.admin();
    for statement in [
        format!("CREATE USER {reader}@localhost"),
        format!("GRANT SELECT ON {}.* TO {reader}@localhost", database.name),
    ] {
        admin.query_drop(statement).expect("an administrator");
    }
    let socket = database.socket.display();
    let url = format!(
        "mysql://{reader}@localhost/{}?socket={socket}",
        database.name
    );
    site.punctual(["--database", &url, "list"]).ok();
    site.punctual(["--database", &url, "status"]).ok();
    site.punctual(["--database", &url, "show", "1"]).ok();
    site.punctual(["--database", &url, "check"]).ok();
    site.punctual(["--database", &url, "run", "--dry-run"]).ok();
    let refused = site.punctual(["--database", &url, "cancel", "1"]);
    assert_eq!(
        (refused.code, refused.stderr.lines().count()),
        (77, 1),
        "{refused:?}"
    );
    admin
        .query_drop(format!("DROP USER {reader}@localhost"))
        .expect("an administrator");
}

#[test]
fn a_plugin_answers_in_one_line_whatever_is_wrong() {
    let site = Site::sqlite();
    let down = site.punctual(["check"]);
    assert_eq!(
        (down.code, down.stdout.lines().count(), down.stderr.as_str()),
        (2, 1, "")
    );
    for words in [
        ["check", "--nope"],
        ["check", "--warn-lag=5"],
        ["check", "--tz=Nowhere"],
    ] {
        let misused = site.punctual(words);
        assert_eq!(
            (misused.code, misused.stderr.as_str()),
            (3, ""),
            "{misused:?}"
        );
        assert!(
            misused.stdout.starts_with("PUNCTUAL UNKNOWN - "),
            "{misused:?}"
        );
        assert_eq!(misused.stdout.lines().count(), 1);
    }
    site.config("no_such_key = 1");
    assert_eq!(site.punctual(["check"]).code, 3);
}

#[test]
fn check_for_programs_is_one_object_with_the_plugins_code() {
    const KEYS: &str = "level code message lag_s due unresolved_dead unresolved_unknown";
    let site = Site::sqlite();
    site.config("[type.note]\nhandler = \"sql\"\nsql = \"SELECT 1\"")
        .init();
    let well = site.punctual(["check", "--json"]).ok().json();
    let keys: Vec<_> = well.as_object().expect("an object").keys().collect();
    assert_eq!(keys, KEYS.split(' ').collect::<Vec<_>>());
    assert_eq!((&well["level"], &well["code"]), (&"OK".into(), &0.into()));
    assert_eq!(well["message"], "lag 0s, 0 due");
    std::fs::remove_file(site.path("events.db")).expect("made by init");
    let down = site.punctual(["check", "--json"]);
    assert_eq!(down.code, 2, "{down:?}");
    let down = down.json();
    assert_eq!(
        (&down["level"], &down["code"]),
        (&"CRITICAL".into(), &2.into())
    );
    assert!(down["lag_s"].is_null(), "{down}");
}

#[test]
fn init_writes_a_file_that_works_at_once() {
    let site = Site::sqlite();
    std::fs::remove_file(site.path("punctual.toml")).expect("written by the site");
    let ended = site.punctual(["init"]).ok();
    // As cron needs it, whose PATH is short.
    let line = ended.stdout.lines().last().expect("the crontab line");
    let command = line.strip_prefix("* * * * * ").expect("every minute");
    let program = command.split(' ').next().expect("a program");
    assert!(std::path::Path::new(program).is_absolute(), "{ended:?}");
    site.punctual(["run"]).ok();
    let path = site.path("elsewhere.toml");
    let path = path.to_str().expect("text");
    site.punctual(["init", "--config", path, "--database", "sqlite:other.db"])
        .ok();
    let text = std::fs::read_to_string(path).expect("written by init");
    assert!(text.contains("database = \"sqlite:other.db\""), "{text}");
    assert!(site.path("other.db").exists());
    let again = site.punctual(["init", "--config", path]).ok();
    assert!(again.stdout.contains("are up to date"), "{again:?}");
}
