//! What `contrib/SECURITY.md` promises and no other test shows; and that each of its lines names
//! tests that exist.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mysql::prelude::Queryable as _;

use crate::runs::{insert, now};
use crate::support::site::Site;

/// Text that wants to leave its place: quotes, comments, a second statement, a shell's own words.
const SLY: &str = "o'x\"; DROP TABLE event_history; -- $(touch pwned) `touch pwned` \\' /*";
/// Such text that is short enough for a type.
const SLY_NAME: &str = "o'x\"; DROP TABLE seen; -- $(touch pwned) `touch pwned` \\' /*";
/// Text that wants to steer a terminal, and to look like a line of ours.
const LOUD: &str = "h\u{1b}[2J\u{7}\r\npunctual: forged\u{202e}";

on_both_databases! {
    fn quotes_and_comments_in_data_stay_data(site: &Site) {
        site.config(
            "[type.copy]\nhandler = \"sql\"\n\
             sql = [\"INSERT INTO copies (a, b, c) VALUES (:payload, :key, :p.x)\"]\n\
             guard = \"SELECT 1 FROM copies WHERE a <> :payload\"\n\
             [type.\"it's; --\"]\nhandler = \"command\"\ncommand = [\"true\"]\n",
        )
        .init();
        site.sql("CREATE TABLE copies (a VARCHAR(500), b VARCHAR(500), c VARCHAR(500))");
        site.sql("INSERT INTO copies (a) VALUES ('seed')");
        let payload = serde_json::json!({ "x": SLY }).to_string();
        let words = ["add", "copy", "--in", "0s", "--payload", &payload, "--key", SLY];
        site.punctual(words).ok();
        let line = serde_json::json!({ "type": "copy", "in": "9d", "payload": SLY, "key": SLY });
        site.punctual_reading(line.to_string().as_bytes(), ["import"]);
        site.punctual(["add", "it's; --", "--in", "0s", "--key", SLY]).ok();
        site.punctual(["pause", "it's; --"]).ok();
        site.punctual(["resume", "it's; --"]).ok();
        for listed in [&["list"][..], &["list", "--type", "it's; --", "--json"]] {
            let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
            command.args(listed);
            site.finish(crate::support::process::Running::start(command, b"")).ok();
        }
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!(run["done"], 2, "{run}");
        let copied = site.rows("SELECT a, b, c FROM copies WHERE a <> 'seed'");
        assert_eq!(copied, [[payload.as_str(), SLY, SLY]]);
        let kept = site.rows("SELECT unique_key FROM event_history ORDER BY event_id");
        assert_eq!(kept, [[SLY], [SLY]]);
        site.punctual(["cancel", "--type", SLY, "--all"]);
        assert_eq!(site.punctual(["status", "--json"]).ok().json()["done_24h"], 2);
    }

    fn what_a_backfill_is_asked_for_and_finds_stays_data(site: &Site) {
        site.config("timezone = \"UTC\"\n").init();
        let escaped = SLY_NAME.replace('\'', "''").replace('\\', "\\\\");
        // What nobody could state, put into the tables by hand.
        let rule = serde_json::json!({
            "from": "database", "every": 1, "anchor": 0, "type": SLY_NAME, "payload": SLY_NAME,
            "priority": 0, "missed": "skip", "enabled": true,
        });
        let rule = rule.to_string().replace('\'', "''");
        let rule = if site.mariadb_database().is_some() { rule.replace('\\', "\\\\") } else { rule };
        let name = if site.mariadb_database().is_some() { escaped } else { SLY_NAME.replace('\'', "''") };
        site.sql(&format!(
            "INSERT INTO event_schedules (name, rule, last_slot, updated_at) \
             VALUES ('{name}', '{rule}', 1800000000, 5)"
        ));
        site.sql(&format!(
            "INSERT INTO event_history (event_id, type, due_at, payload, unique_key, priority, \
             attempts, losses, deferrals, outcome, finished_at, error) VALUES (7, '{name}', 5, \
             '{name}', '{name}', 0, 1, 0, 0, 'dead', 1700000000, '{name}')"
        ));
        let call = |words: &[&str]| {
            let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
            command.args(words);
            site.finish(crate::support::process::Running::start(command, b""))
        };
        let slots = ["backfill", "slots", SLY_NAME, "--type", SLY_NAME, "--from", "@1700000000", "--to",
            "@1700000001", "--rate", "1"];
        let error = format!("--error={SLY_NAME}");
        let again = ["backfill", "again", "--type", SLY_NAME, &error, "--from", "@1", "--rate", "1"];
        for (words, events) in [(&slots[..], 2), (&again[..], 1)] {
            let plan = call(&[words, &["--json"]].concat()).ok().json();
            assert_eq!(plan["events"], events, "{plan}");
            // The command that it prints is what a shell is to make of it.
            let program = env!("CARGO_BIN_EXE_punctual");
            let printed = plan["command"].as_str().expect("a command");
            let script = format!("punctual() {{ '{program}' \"$@\"; }}\n{printed} --json");
            let mut shell = site.command("sh");
            shell.args(["-c", &script]);
            let applied = site.finish(crate::support::process::Running::start(shell, b""));
            assert_eq!(applied.ok().json()["written"], events);
        }
        assert!(!site.path("pwned").exists(), "something of a row was executed");
        let live = site.rows("SELECT type, payload, unique_key FROM scheduled_events ORDER BY id");
        assert_eq!(live.len(), 3);
        let key = |id: usize| live[id][2].as_str();
        assert!(live.iter().all(|row| row[0] == SLY_NAME && row[1] == SLY_NAME), "{live:?}");
        assert!([key(0), key(1), key(2)].contains(&SLY_NAME), "{live:?}");
        let origin = format!("schedule:{SLY_NAME}");
        assert_eq!(call(&["cancel", "--origin", &origin]).ok().stdout, "cancelled 0 events\n");
    }

    fn what_stands_in_a_row_reaches_no_terminal_raw(site: &Site) {
        site.config(
            "[type.note]\nhandler = \"command\"\nretries = 0\n\
             command = [\"sh\", \"-c\", \"cat >&2; exit 1\"]\n\
             [type.\"h\\u001bc\\npunctual: forged\"]\nhandler = \"command\"\n\
             command = [\"true\"]\n",
        )
        .init();
        let due = now() - 90;
        let other = "h\u{1b}c\npunctual: forged"; // a type of the configuration: the log names it
        site.sql(&format!(
            "INSERT INTO scheduled_events (id, type, due_at, payload, unique_key, last_error, \
             origin) VALUES (1, 'note', {due}, '{LOUD}', '{LOUD}', '{LOUD}', '{LOUD}'), \
             (2, '{other}', {due}, '{LOUD}', '{LOUD}', '{LOUD}', '{LOUD}'), \
             (3, 'x{other}', {due}, '{LOUD}', '{LOUD}', '{LOUD}', '{LOUD}')"
        ));
        site.sql(&format!(
            "INSERT INTO event_log (logged_at, event_id, type, decision, detail) \
             VALUES ({due}, 2, '{other}', '{LOUD}', '{LOUD}')"
        ));
        let run = site.punctual(["run", "-vvv"]);
        assert_eq!(run.code, 1, "{run:?}");
        for line in run.stderr.lines() {
            assert!(line.starts_with("punctual: "), "a forged line: {line}");
            assert!(!line.starts_with("punctual: forged"), "a forged line: {line}");
        }
        site.sql(&format!(
            "UPDATE event_runs SET host = '{LOUD}', stop = 'h\u{1b}c', finished_at = finished_at"
        ));
        site.sql(&format!(
            "UPDATE event_lease SET holder = 'x', host = '{LOUD}', beat_at = {}", now()
        ));
        let raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        let mut seen = String::new();
        for words in [
            &["list"][..],
            &["list", "--history"],
            &["show", "1"],
            &["why", "2"],
            &["why", "3"],
            &["status"],
            &["check"],
            &["run", "--dry-run"],
        ] {
            let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
            command.args(words);
            let ended = site.finish(crate::support::process::Running::start(command, b""));
            let text = ended.stdout + &ended.stderr;
            assert!(!text.contains(raw), "{words:?}: {text:?}");
            assert!(!text.lines().any(|line| line.starts_with("punctual: forged")), "{text}");
            seen += &text;
        }
        assert!(!run.stderr.contains(raw), "{:?}", run.stderr);
        assert!(seen.contains(r"\u{1b}[2J"), "it is shown, made visible: {seen}");
    }

    fn a_row_names_a_type_and_nothing_else(site: &Site) {
        site.config(
            "[type.note]\nhandler = \"command\"\n\
             command = [\"sh\", \"-c\", \"cat > got\", \"a  b\", \"$(touch pwned)\", \"*\"]\n",
        )
        .init();
        let escaped = SLY.replace('\'', "''").replace('\\', "\\\\");
        for type_name in ["/bin/sh", "sh -c 'touch pwned'", "http://127.0.0.1/", "note; touch pwned"] {
            let type_name = type_name.replace('\'', "''");
            site.sql(&format!(
                "INSERT INTO scheduled_events (type, due_at, payload, unique_key) \
                 VALUES ('{type_name}', 1, 'touch pwned', '{escaped}')"
            ));
        }
        site.punctual(["add", "note", "--in", "0s", "--payload", SLY, "--key", SLY]).ok();
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["fired"], &run["done"]), (&1.into(), &1.into()), "{run}");
        assert_eq!(fs::read_to_string(site.path("got")).expect("fired"), SLY);
        assert!(!site.path("pwned").exists(), "something of a row was executed");
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 4);
    }

    fn json_nested_without_end_fails_its_event_and_nothing_else(site: &Site) {
        site.config(
            "[type.deep]\nhandler = \"sql\"\nretries = 0\n\
             sql = [\"INSERT INTO copies (a) VALUES (:p.x)\"]\n\
             [type.reader]\nhandler = \"command\"\nretries = 0\nmode = \"batch\"\n\
             command = [\"sh\", \"-c\", \"head -c 60000 /dev/zero | tr '\\\\0' '['; echo; cat\"]\n",
        )
        .init();
        site.sql("CREATE TABLE copies (a INTEGER)");
        let deep = "[".repeat(200_000);
        site.write("deep", &deep);
        let words = ["add", "deep", "--in", "0s", "--payload-file", "deep"];
        site.punctual(words).ok();
        insert(site, "reader", 1);
        let run = site.punctual(["run", "--json"]);
        assert_eq!((run.code, &run.json()["dead"]), (1, &2.into()), "{run:?}");
        let line = format!("{{\"type\":\"deep\",\"in\":\"1s\",\"payload\":{deep}");
        let import = site.punctual_reading(line.as_bytes(), ["import"]);
        assert_eq!(import.code, 65, "{import:?}");
    }

    fn what_a_run_leaves_on_disk_is_its_users_alone(site: &Site) {
        site.config("[type.note]\nhandler = \"command\"\ncommand = [\"true\"]\n").init();
        insert(site, "note", 1);
        site.punctual(["run"]).ok();
        let mut locks = 0;
        let mut left = vec![site.path("")];
        while let Some(path) = left.pop() {
            let about = fs::symlink_metadata(&path).expect("a file of the site");
            let below = path.strip_prefix(site.path("")).expect("below the site");
            let name = below.to_string_lossy().into_owned();
            let ours = name.contains("state") || name.contains("lock");
            if about.is_dir() {
                let entries = fs::read_dir(&path).expect("a directory of the site");
                left.extend(entries.map(|entry| entry.expect("an entry").path()));
            }
            if ours && path != site.path("state") {
                let most = if about.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(about.permissions().mode() & 0o777, most, "{name}");
                locks += u32::from(name.ends_with("lock"));
            }
        }
        assert_eq!(locks, 1, "one lock file");
    }
}

#[test]
fn who_squats_on_the_advisory_lock_is_told_by_check_and_status() {
    let site = Site::mariadb();
    site.config("[type.note]\nhandler = \"command\"\ncommand = [\"true\"]\n")
        .init();
    insert(&site, "note", 1);
    let database = site.mariadb_database().expect("a MariaDB site");
    let mut neighbour = database.connect();
    let install = site.rows("SELECT value FROM punctual_meta WHERE name = 'install_id'");
    let name = punctual::lock::advisory_name(&install[0][0], &database.name, "");
    let held: Option<i64> = neighbour
        .exec_first("SELECT GET_LOCK(?, 0)", (name,))
        .expect("a lock");
    assert_eq!(held, Some(1));
    for _ in 0..2 {
        let tick = site.punctual(["run", "--json"]).ok();
        assert_eq!(tick.json()["stop"], "locked");
    }
    // Nothing fires, nothing is lost, and it does not stay unnoticed.
    assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 1);
    let status = site.punctual(["status", "--json"]).ok().json();
    assert_eq!(status["steps_aside"], 2, "{status}");
    let check = site.punctual(["check"]);
    assert!([1, 2].contains(&check.code), "{check:?}");
}

#[test]
fn a_type_whose_name_would_add_a_header_sends_nothing() {
    let site = Site::sqlite();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    listener.set_nonblocking(true).expect("a socket");
    site.config(&format!(
        "[type.\"a\\r\\nX-Evil: 1\"]\nhandler = \"http\"\nurl = \"http://127.0.0.1:{port}/\"\n"
    ))
    .init();
    site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('a\r\nX-Evil: 1', 1)");
    let run = site.punctual(["run"]);
    assert_eq!((run.code, run.stderr.lines().count()), (78, 1), "{run:?}");
    assert!(listener.accept().is_err(), "a connection was made");
    assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 1);
}

/// What may be written into the text of a statement: numbers of ours, names of tables, columns and
/// indexes that stand in the code, the words of enums, `?`, and pieces made of these. Whoever adds a
/// name here has looked where it comes from.
const INTO_SQL: &str = "0 CHUNK COLUMNS COUNTED_AT_MOST ENDED_COLUMNS OPEN_COLUMNS PRIORITY \
    ENDING_COLUMNS EVENT_COLUMNS \
    SCHEDULE_COLUMNS SCAN_COLUMNS RECORD_COLUMNS KIND behind join more places(1,14) \
    places(1,keys.len()) places(records.len(),4) places(derived.len(),8) places(1,derived.len()) \
    LEASE_COLUMNS NEW_COLUMNS HISTORY_COLUMNS LOCK_WAIT_TIMEOUT PRIORITIES[level] UnixSeconds::MAX \
    WAIT_TIMEOUT EVENT_COLUMNS.replace(\"payload\",\"NULL\") ack.id any_of(selection) of(selection) \
    as_what.as_str() at before bounds(selection) by_id(acks,|ack|or_null(ack.started_at.map(|_|\
    ack.duration_ms))) by_id(acks,|ack|or_null(ack.started_at.map(|at|at.0))) claim.cutoff \
    claim.until claimant.pid claimant.ttl clock() columns(EVENT_COLUMNS,payload) \
    columns(HISTORY_COLUMNS,payload) condition condition.as_sql() cutoff delete due due_at due_by \
    end ended.history_id epoch event.id filter from gate.epoch guard hint i32::from(proven_dead) \
    id id_list(acks.iter().map(|ack|ack.id.0)) id_list(claim.ids.iter().map(|id|id.0)) \
    id_list(endings) id_list(ids.iter().copied()) id_list(ids.iter().map(|id|id.0)) \
    id_list(page.iter().map(|id|id.0)) id_list(part.iter().map(|id|id.0)) ids \
    iferror.is_some(){\"?\"}else{\"NULL\"} index insert keep.before key limit name new newest-rows \
    newest() next now old or_null(writer.run_id) outcome own past plus_one(tally==Tally::Attempt) \
    plus_one(tally==Tally::Deferral) plus_one(tally==Tally::Loss) prefix priority \
    quoted(name)? quoted_name \
    probes.join(\",\") probes.len() range row.id rows run.epoch run_id seconds seen \
    self.before \
    self.delete_events() self.dialect().by_primary_key() self.dialect().byte_length(\"payload\") \
    self.dialect().guarded_status() self.dialect().insert_or_ignore() self.due_index() \
    self.event_index() self.guard(owner) self.turn_index() since start status \
    store.dialect().by_primary_key() table time to unresolved_before until vec![\"?\";count].join(\",\") \
    whole writer.now which.outcome which.bound limit-found.len() resolved finished all list columns \
    values self.hint(\"FORCEINDEX(/*_*/event_history_outcome)\") \
    self.dialect().byte_length(\"h.payload\")";

#[test]
fn no_data_is_written_into_the_text_of_a_statement() {
    let known: Vec<&str> = INTO_SQL.split_whitespace().collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut statements = 0;
    for folder in ["store", "db"] {
        for path in rust_files(&root.join(folder)) {
            let text = fs::read_to_string(&path).expect("a source file");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for call in code.split("format!(").skip(1) {
                let Some((literal, rest)) = quoted(call) else {
                    panic!("{}: a format! without a text: {call:.60}", path.display());
                };
                if ![
                    "SELECT", "INSERT", "UPDATE", "DELETE", "WHERE", "FROM", "AND", "INTO",
                ]
                .iter()
                .any(|word| literal.split([' ', '(', ')']).any(|part| part == *word))
                {
                    continue;
                }
                statements += 1;
                for argument in inline(literal).into_iter().chain(arguments(rest)) {
                    let argument: String = argument.split_whitespace().collect();
                    assert!(
                        known.contains(&argument.trim_end_matches(',')),
                        "{}: is `{argument}` data? bind it, or list it here: {literal:.60}",
                        path.display()
                    );
                }
            }
        }
    }
    assert!(statements > 30, "{statements}");
}

/// The text in quotes at the beginning of `call`, and what follows.
fn quoted(call: &str) -> Option<(&str, &str)> {
    let text = call.trim_start().strip_prefix('"')?;
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    Some((&text[..end], &text[end + 1..]))
}

/// The names in the braces of a format.
fn inline(literal: &str) -> Vec<&str> {
    let behind = literal.split('{').skip(1);
    let names = behind.filter_map(|rest| rest.split('}').next());
    names.filter(|name| !name.is_empty()).collect()
}

/// The arguments behind a format's text, up to the bracket that closes the call.
fn arguments(rest: &str) -> Vec<&str> {
    let (mut depth, mut from, mut found) = (0, 0, Vec::new());
    for (at, c) in rest.char_indices() {
        match c {
            ')' | ']' | '}' if depth == 0 => {
                found.push(&rest[from..at]);
                break;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&rest[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    found.retain(|argument| !argument.trim().is_empty());
    found
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let (mut left, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory of the source tree");
            left.extend(entries.map(|entry| entry.expect("a readable entry").path()));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_line_of_the_security_page_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("contrib/SECURITY.md")).expect("SECURITY.md");
    let mut code = String::new();
    for path in [
        rust_files(&root.join("src")),
        rust_files(&root.join("tests")),
    ]
    .concat()
    {
        code += &fs::read_to_string(path).expect("a source file");
    }
    let mut lines = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [promise, tests] = cells[..] else {
            panic!("a promise and its tests: {row}")
        };
        if promise.trim() == "what is promised" || promise.trim().starts_with("---") {
            continue;
        }
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test stands behind: {promise}");
        for name in names {
            // Plain, on both databases, on a wiki on both, or a property.
            let head = format!("fn {name}(");
            let mut definitions = code.split(&head).skip(1);
            let found = definitions.any(|rest| {
                let arguments = rest.split(')').next().unwrap_or_default();
                matches!(arguments, "" | "site: &Site" | "wiki: &Wiki")
                    || arguments.contains(" in ")
            });
            assert!(found, "there is no test `{name}`");
        }
        lines += 1;
    }
    assert!(lines > 25, "{lines}");
}
