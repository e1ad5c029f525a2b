//! Many events at once: each fires exactly as declared, a second run steps aside at once, and
//! memory does not grow with the backlog (DESIGN §2, promises 2, 4 and 5).

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::php::BATCH_HANDLER;
use crate::runs::fired;
use crate::support::mariadb::Server;
use crate::support::process::{Running, eventually};
use crate::support::site::Site;

const EFFECT: &str =
    "[type.sql]\nhandler = \"sql\"\nsql = \"INSERT INTO effects (event_id) VALUES (:id)\"\n";
const EACH: &str = "[type.each]\nhandler = \"command\"\nconcurrency = 4\n\
     command = [\"sh\", \"-c\", \"echo $PUNCTUAL_EVENT_ID >> fired\"]\n";
const BATCH: &str = "[type.batch]\nhandler = \"command\"\nmode = \"batch\"\n\
     command = [\"php\", \"batch.php\"]\n";

on_both_databases! {
    fn ten_thousand_effects_happen_once_each(site: &Site) {
        site.config(EFFECT).init();
        site.sql("CREATE TABLE effects (event_id INTEGER)");
        insert_by_php(site, "sql", 10_000);
        drain(site, 10_000);
        let effects = site.rows("SELECT event_id FROM effects ORDER BY event_id");
        assert_eq!(effects, done(site));
    }

    fn two_thousand_processes_are_started_once_each(site: &Site) {
        site.config(EACH).init();
        insert_by_php(site, "each", 2_000);
        drain(site, 2_000);
        assert_eq!(sorted(fired(site)), numbers(&done(site)));
    }

    /// A second run, started in the middle, is measured on the way: at least one of several tries
    /// must be out of the way within 100 ms (the machine may be busy with anything in the others).
    fn ten_thousand_lines_go_to_batches_once_each_while_other_ticks_step_aside(site: &Site) {
        site.write("batch.php", BATCH_HANDLER).config(BATCH).init();
        insert_by_php(site, "batch", 10_000);
        site.write("pause-at", "5000");
        let run = site.spawn(["run", "--json", "--max-time", "5m"]);
        eventually("the run is in the middle", || site.path("paused").exists());
        let mut fastest = Duration::MAX;
        for _ in 0..7 {
            let start = Instant::now();
            let second = site.punctual(["run"]).ok();
            fastest = fastest.min(start.elapsed());
            assert_eq!(second.stdout, "");
        }
        // From another state directory as from another host: there the file lock is free.
        let mut elsewhere = site.command(env!("CARGO_BIN_EXE_punctual"));
        elsewhere.env("XDG_STATE_HOME", site.path("home")).arg("run");
        let stepped = Running::start(elsewhere, b"").wait().ok();
        assert_eq!(stepped.stdout, "");
        site.write("go", "");
        let run = site.finish(run).ok().json();
        assert_eq!((&run["done"], &run["fired"]), (&10_000.into(), &10_000.into()), "{run}");
        assert_eq!(sorted(fired(site)), numbers(&done(site)));
        assert!(fastest < Duration::from_millis(100), "{fastest:?}");

        // SQLite's lock file stands beside the database, wherever the state directory is.
        let (aside, rows) = if site.mariadb_database().is_some() { (7, 1) } else { (8, 0) };
        assert_eq!(bytes_aside(&site.path("")), aside);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_aside"), rows);
        assert_eq!(site.punctual(["status", "--json"]).ok().json()["steps_aside"], 8);
        // The next run that has work adds the file's up.
        insert_by_php(site, "batch", 1);
        drain(site, 1);
        assert_eq!(site.query_i64("SELECT SUM(ticks) FROM event_aside"), 8);
        assert_eq!(site.punctual(["status", "--json"]).ok().json()["steps_aside"], 8);
    }
}

#[test]
fn two_hundred_payloads_of_a_mebibyte_need_little_memory_on_sqlite() {
    need_little_memory(&Site::sqlite());
}

/// The server need not be durable here: it is the run's memory that is looked at.
#[test]
fn two_hundred_payloads_of_a_mebibyte_need_little_memory_on_mariadb() {
    let server = Server::private(&[
        "--innodb-flush-log-at-trx-commit=0",
        "--sync-binlog=0",
        "--skip-innodb-doublewrite",
        "--innodb-log-file-size=512M",
        "--innodb-buffer-pool-size=512M",
    ]);
    need_little_memory(&Site::on(&server));
}

/// Through a handler of each kind; SQL has them as parameters, processes on stdin.
fn need_little_memory(site: &Site) {
    site.write("batch.php", BATCH_HANDLER);
    let sizes = "sql = \"INSERT INTO lengths (n) VALUES (LENGTH(:payload))\"";
    let each = "command = [\"sh\", \"-c\", \"wc -c >> sizes\"]\nconcurrency = 4";
    site.config(&format!(
        "[type.sql]\nhandler = \"sql\"\n{sizes}\n\
         [type.each]\nhandler = \"command\"\n{each}\n{BATCH}"
    ))
    .init();
    site.sql("CREATE TABLE lengths (n INTEGER)");
    for type_name in ["sql", "each", "batch"] {
        let peak = peak_of_a_drain(site, type_name);
        println!("{type_name}: {peak} KiB at most");
        assert!(peak <= 48 << 10, "{type_name}: {peak} KiB");
    }
    let lengths = site.rows("SELECT n, COUNT(*) FROM lengths GROUP BY n");
    assert_eq!(lengths, [["1048576", "200"]]);
    let sizes = std::fs::read_to_string(site.path("sizes")).expect("handlers were started");
    assert_eq!(sizes.lines().count(), 400);
    assert!(
        sizes.lines().all(|size| size.trim() == "1048576"),
        "{sizes}"
    );
}

/// Drains 200 events of 1 MiB each, and looks at the run's own high-water mark all the while, in
/// KiB. The mark only grows, so that the last look tells, short of the last milliseconds.
fn peak_of_a_drain(site: &Site, type_name: &str) -> u64 {
    let insert = "INSERT INTO scheduled_events (type, due_at, payload)";
    site.sql(&match site.mariadb_database() {
        Some(_) => {
            format!("{insert} SELECT '{type_name}', 5, REPEAT('x', 1048576) FROM seq_1_to_200")
        }
        None => format!(
            "{insert} WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 200) \
             SELECT '{type_name}', 5, printf('%.*c', 1048576, 'x') FROM n"
        ),
    });
    let run = site.spawn(["run", "--json", "--max-time", "5m"]);
    let (mut looks, mut peak) = (0, 0);
    while let Some(kib) = high_water_kib(run.pid()) {
        (looks, peak) = (looks + 1, kib);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(site.finish(run).ok().json()["done"], 200);
    assert!(looks > 20, "{looks} looks");
    peak
}

/// `None` once the process has ended: a zombie has no memory.
pub(crate) fn high_water_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// PHP inserts as a site does, in transactions of 1,000.
fn insert_by_php(site: &Site, type_name: &str, rows: usize) {
    let script = r"<?php
        $db = new PDO(getenv('DSN'), getenv('DB_USER') ?: null, getenv('DB_PASSWORD') ?: null);
        $insert = $db->prepare(
            'INSERT INTO scheduled_events (type, due_at, payload) VALUES (?, ?, ?)');
        for ($n = 0; $n < ROWS; $n++) {
            if ($n % 1000 === 0) { $db->beginTransaction(); }
            $insert->execute(['TYPE', time() - $n % 100, json_encode(['n' => $n])]);
            if ($n % 1000 === 999 || $n === ROWS - 1) { $db->commit(); }
        }";
    let script = script
        .replace("ROWS", &rows.to_string())
        .replace("TYPE", type_name);
    site.php(&script).ok();
}

fn drain(site: &Site, events: i64) {
    let run = site
        .punctual(["run", "--json", "--max-time", "5m"])
        .ok()
        .json();
    let counts = [&run["fired"], &run["done"], &run["remaining_due"]];
    let expected: [&Value; 3] = [&events.into(), &events.into(), &0.into()];
    assert_eq!(
        (counts, &run["stop"]),
        (expected, &"drained".into()),
        "{run}"
    );
    assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
}

/// The ids in history, each of which must be there once, and done.
fn done(site: &Site) -> Vec<Vec<String>> {
    let once = "SELECT COUNT(*) FROM (SELECT event_id FROM event_history GROUP BY event_id \
                HAVING COUNT(*) > 1 OR MIN(outcome) <> 'done') AS others";
    assert_eq!(site.query_i64(once), 0);
    site.rows("SELECT event_id FROM event_history ORDER BY event_id")
}

fn numbers(rows: &[Vec<String>]) -> Vec<i64> {
    rows.iter()
        .map(|row| row[0].parse().expect("a number"))
        .collect()
}

fn sorted(mut ids: Vec<i64>) -> Vec<i64> {
    ids.sort_unstable();
    ids
}

/// The bytes of all `*.aside` files below: one for each tick that found the file lock held.
fn bytes_aside(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("a directory of ours");
    let size = |entry: std::fs::DirEntry| {
        let path = entry.path();
        let about = entry.metadata().expect("a file of ours");
        match path.extension() {
            _ if about.is_dir() => bytes_aside(&path),
            Some(extension) if extension == "aside" => about.len(),
            _ => 0,
        }
    };
    entries.map_while(Result::ok).map(size).sum()
}
