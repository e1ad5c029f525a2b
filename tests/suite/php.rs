//! PHP inserts while a run is at work, as sites do: PDO on both databases, and the class `SQLite3`
//! (RULINGS 14, 43). Nothing of theirs fails, and what they inserted fires exactly once.

use std::time::{Duration, Instant};

use crate::runs::fired;
use crate::support::mariadb::Server;
use crate::support::process::{Ended, Running, eventually};
use crate::support::site::Site;

/// A batch handler as a site would write it; notes ids and payload sizes, and stops where a test
/// wants to find it in the middle.
pub(crate) const BATCH_HANDLER: &str = r#"<?php
$pause = (int)@file_get_contents('pause-at');
$fired = fopen('fired', 'a');
$sizes = fopen('sizes', 'a');
while (($line = fgets(STDIN)) !== false) {
    $event = json_decode($line, true);
    fwrite($fired, $event['id'] . "\n");
    fwrite($sizes, strlen($event['payload'] ?? '') . "\n");
    if ($event['id'] === $pause) {
        touch('paused');
        while (!file_exists('go')) { usleep(10000); clearstatcache(); }
    }
    echo json_encode(['id' => $event['id'], 'ok' => true]), "\n";
}
"#;

const TYPES: &str = "[type.sql]\nhandler = \"sql\"\n\
     sql = \"INSERT INTO effects (event_id) VALUES (:id)\"\n\
     [type.each]\nhandler = \"command\"\nconcurrency = 2\n\
     command = [\"sh\", \"-c\", \"echo $PUNCTUAL_EVENT_ID >> fired\"]\n\
     [type.batch]\nhandler = \"command\"\nmode = \"batch\"\ncommand = [\"php\", \"batch.php\"]\n";

/// Ids 1 to this are there before PHP begins.
const BACKLOG: i64 = 3_000;
/// How long runs are kept at work while PHP inserts.
const AT_WORK: Duration = Duration::from_secs(3);

/// How every writer here begins. It inserts until it finds the file `enough`, notes each id in
/// `inserted-NAME`, and prints one object: how many inserts, the slowest in seconds, and how many
/// failed with which message.
const WRITER: &str = r#"<?php
$name = 'NAME';
function pdo(): PDO {
    return new PDO(getenv('DSN'), getenv('DB_USER') ?: null, getenv('DB_PASSWORD') ?: null);
}
$types = ['sql', 'each', 'batch'];
$report = ['inserts' => 0, 'slowest' => 0.0, 'failed' => []];
/** @param callable(int): (int|null) $insert answers the new id, or null where there is none */
function insert_until_enough(callable $insert): void {
    global $name, $report;
    $noted = fopen("inserted-$name", 'a');
    for ($n = 0; !file_exists('enough'); $n++) {
        $start = microtime(true);
        try {
            $id = $insert($n);
            $report['inserts']++;
            if ($id !== null) { fwrite($noted, "$id\n"); }
        } catch (Exception $error) {
            $message = $error->getMessage();
            $report['failed'][$message] = ($report['failed'][$message] ?? 0) + 1;
        }
        $report['slowest'] = max($report['slowest'], microtime(true) - $start);
        // SQLite has one write lock: these must leave it to each other, too.
        usleep(getenv('SQLITE_PATH') ? 10000 : 500);
        clearstatcache();
    }
    $report['failed'] = (object)$report['failed'];
    echo json_encode($report);
}
"#;

const PLAIN: &str = r"
$db = pdo();
$insert = $db->prepare('INSERT INTO scheduled_events (type, due_at, payload) VALUES (?, ?, ?)');
insert_until_enough(function (int $n) use ($db, $insert, $types) {
    $insert->execute([$types[$n % 3], time() - $n % 50, json_encode(['n' => $n])]);
    return (int)$db->lastInsertId();
});
";

const PLAIN_MARIADB: &str = r"
$db = pdo();
$db->exec('SET SESSION innodb_lock_wait_timeout = 1');
$insert = $db->prepare('INSERT INTO scheduled_events (type, due_at, payload) VALUES (?, ?, ?)');
insert_until_enough(function (int $n) use ($db, $insert, $types) {
    $insert->execute([$types[$n % 3], time() - $n % 50, json_encode(['n' => $n])]);
    return (int)$db->lastInsertId();
});
";

/// KEY: an expression for the key of the n-th insert.
const IGNORE: &str = r"
$db = pdo();
$db->exec('SET SESSION innodb_lock_wait_timeout = 1');
$insert = $db->prepare(
    'INSERT IGNORE INTO scheduled_events (type, due_at, unique_key) VALUES (?, ?, ?)');
insert_until_enough(function (int $n) use ($db, $insert, $types) {
    $insert->execute([$types[$n % 3], time() - $n % 50, KEY]);
    return $insert->rowCount() === 1 ? (int)$db->lastInsertId() : null;
});
";

const SQLITE3: &str = r"
$db = new SQLite3(getenv('SQLITE_PATH'));
$db->enableExceptions(true);
BUSY
$insert = $db->prepare('INSERT INTO scheduled_events (type, due_at, payload) VALUES (?, ?, ?)');
insert_until_enough(function (int $n) use ($db, $insert, $types) {
    $insert->bindValue(1, $types[$n % 3]);
    $insert->bindValue(2, time() - $n % 50, SQLITE3_INTEGER);
    $insert->bindValue(3, json_encode(['n' => $n]));
    $insert->execute();
    return $db->lastInsertRowID();
});
";

/// What is allowed: no lock wait at all. The run locks the rows it claims or ends by their primary
/// key (RULINGS 14), and a plain insert touches none of these. The one exception RULINGS 14 names,
/// a DELETE that finds its row gone and locks the gap, needs a second writer who deletes: there is
/// none here.
#[test]
fn plain_inserts_by_pdo_on_mariadb_never_fail_and_wait_for_no_row_lock() {
    let server = Server::private(&[]);
    let site = Site::on(&server);
    prepare(&site);
    let waits = [
        "Innodb_row_lock_waits",
        "Innodb_row_lock_time",
        "Innodb_deadlocks",
    ];
    let counted = || waits.map(|name| server.status_var(name));
    let before = counted();
    let reports = while_runs_work(&site, &[("a", PLAIN_MARIADB), ("b", PLAIN_MARIADB)]);
    assert_eq!(counted(), before, "{waits:?}; {reports:?}");
    assert_none_failed(&reports);
    assert_each_fired_once(&site, &["a", "b"]);
}

/// As for plain inserts: a key that no row has, or had a moment ago, is nothing to wait for.
#[test]
fn insert_ignore_of_new_keys_by_pdo_on_mariadb_never_fails_and_waits_for_no_row_lock() {
    let server = Server::private(&[]);
    let site = Site::on(&server);
    prepare(&site);
    let waits = [
        "Innodb_row_lock_waits",
        "Innodb_row_lock_time",
        "Innodb_deadlocks",
    ];
    let counted = || waits.map(|name| server.status_var(name));
    let before = counted();
    let fresh = IGNORE
        .replace("KEY", r#""$name-$n""#)
        .replace("use (", "use ($name, ");
    let reports = while_runs_work(&site, &[("a", &fresh), ("b", &fresh), ("c", PLAIN_MARIADB)]);
    assert_eq!(counted(), before, "{waits:?}; {reports:?}");
    assert_none_failed(&reports);
    assert_each_fired_once(&site, &["a", "b", "c"]);
}

/// What is allowed. A wait: an insert that finds its key taken, IGNORE or not, must look at the row
/// that has it, and waits while the run is just claiming or ending that row, for one write
/// transaction, which is cut at 50 ms. A deadlock: two sessions of the site that insert a key which
/// was just removed each lock the gap that the other needs; InnoDB does this among themselves, also
/// where no run is at work, and rolls one of them back. Nothing else, and no timeout of a second.
#[test]
fn insert_ignore_of_the_same_keys_over_and_over_fails_as_a_deadlock_s_victim_only() {
    let server = Server::private(&[]);
    let site = Site::on(&server);
    prepare(&site);
    let again = IGNORE.replace("KEY", "'key-' . intdiv($n, 3) % 40");
    let reports = while_runs_work(&site, &[("a", &again), ("b", &again), ("c", PLAIN_MARIADB)]);
    let longest = server.status_var("Innodb_row_lock_time_max");
    println!("the longest row lock wait: {longest} ms; {reports:?}");
    assert!(longest < 1_000, "a wait of {longest} ms");
    for report in &reports[..2] {
        let failed = report["failed"].as_object().expect("an object");
        assert!(
            failed.keys().all(|why| why.contains("1213 Deadlock")),
            "{report}"
        );
        let victims: i64 = failed.values().filter_map(serde_json::Value::as_i64).sum();
        assert!(
            victims * 50 < report["inserts"].as_i64().expect("a number"),
            "{report}"
        );
    }
    assert_none_failed(&reports[2..]);
    assert_each_fired_once_or_superseded(&site, &["a", "b", "c"]);
}

/// It may be chosen as a deadlock's victim; the README's retry is all it needs.
#[test]
fn on_duplicate_key_update_with_the_readme_s_retry_never_fails_on_mariadb() {
    let server = Server::private(&[]);
    let site = Site::on(&server);
    prepare(&site);
    let upsert = readme_retry()
        + r"
        $db = pdo();
        insert_until_enough(function (int $n) use ($db, $types) {
            $key = 'key-' . intdiv($n, 3) % 40;
            schedule($db, $types[$n % 3], $key, time() - $n % 50, json_encode(['n' => $n]));
            return null;
        });";
    let reports = while_runs_work(
        &site,
        &[("a", &upsert), ("b", &upsert), ("c", PLAIN_MARIADB)],
    );
    assert_none_failed(&reports);
    println!(
        "{} deadlocks; {reports:?}",
        server.status_var("Innodb_deadlocks")
    );
    assert_none_fired_twice(&site);
}

/// Deadlocks cannot be had to order: a trigger plays the server that chooses this insert.
#[test]
fn the_readme_s_retry_outlasts_four_deadlocks_and_gives_up_at_the_fifth() {
    let site = Site::mariadb();
    site.config(TYPES).init();
    site.sql(
        "CREATE TRIGGER victim BEFORE INSERT ON scheduled_events FOR EACH ROW \
         BEGIN IF @deadlocks > 0 THEN SET @deadlocks = @deadlocks - 1; \
         SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found'; \
         END IF; END",
    );
    let retry = readme_retry();
    let script = |deadlocks: u32| {
        format!(
            "<?php\n{retry}\n\
             $db = new PDO(getenv('DSN'), getenv('DB_USER'), getenv('DB_PASSWORD'));\n\
             $db->exec('SET @deadlocks = {deadlocks}');\n\
             try {{ schedule($db, 'sql', 'k', 5 + {deadlocks}, 'p'); echo 'scheduled'; }}\n\
             catch (PDOException $error) {{ echo $error->errorInfo[1]; }}"
        )
    };
    assert_eq!(site.php(&script(5)).ok().stdout, "1213");
    assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
    for deadlocks in [0, 4] {
        assert_eq!(site.php(&script(deadlocks)).ok().stdout, "scheduled");
        let due = (5 + deadlocks).to_string();
        assert_eq!(
            site.rows("SELECT unique_key, due_at FROM scheduled_events"),
            [["k", &due]]
        );
    }
}

#[test]
fn inserts_by_pdo_on_sqlite_never_fail_with_its_default_timeout() {
    let site = Site::sqlite();
    prepare(&site);
    let reports = while_runs_work(&site, &[("a", PLAIN), ("b", PLAIN)]);
    assert_none_failed(&reports);
    assert_each_fired_once(&site, &["a", "b"]);
}

#[test]
fn inserts_by_the_sqlite3_class_never_fail_with_a_busy_timeout_of_five_seconds() {
    let site = Site::sqlite();
    prepare(&site);
    let patient = SQLITE3.replace("BUSY", "$db->busyTimeout(5000);");
    let reports = while_runs_work(&site, &[("a", &patient), ("b", &patient)]);
    assert_none_failed(&reports);
    assert_each_fired_once(&site, &["a", "b"]);
}

/// Without a busy timeout the class gives up at once when somebody is writing: that is refused to
/// the site's face, and what was accepted is fired once, nothing else.
#[test]
fn without_a_busy_timeout_the_sqlite3_class_is_told_and_nothing_is_lost_or_made_up() {
    let site = Site::sqlite();
    prepare(&site);
    let impatient = SQLITE3.replace("BUSY", "");
    let reports = while_runs_work(&site, &[("a", &impatient), ("b", PLAIN)]);
    let [of_class, of_pdo] = &reports[..] else {
        panic!("two writers")
    };
    let refusals = of_class["failed"].as_object().expect("an object");
    assert!(
        refusals.keys().all(|why| why.contains("locked")),
        "{refusals:?}"
    );
    println!("{of_class}");
    assert_eq!(of_pdo["failed"], serde_json::json!({}));
    assert_each_fired_once(&site, &["a", "b"]);
}

/// The README's answer to a deadlock, word for word.
fn readme_retry() -> String {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(readme).expect("README.md");
    let start = "```php\nfunction schedule(";
    let (_, rest) = readme
        .split_once(start)
        .expect("the README shows how to retry");
    let (body, _) = rest.split_once("```").expect("the block ends");
    format!("function schedule({body}")
}

fn prepare(site: &Site) {
    site.write("batch.php", BATCH_HANDLER).config(TYPES).init();
    site.sql("CREATE TABLE effects (event_id INTEGER)");
}

/// Lets these writers insert while one run after another is at work, on a backlog and on what they
/// insert: it is due by then, and so goes into the run that is at work.
fn while_runs_work(site: &Site, writers: &[(&str, &str)]) -> Vec<serde_json::Value> {
    leave_a_backlog(site);
    let start =
        |(name, script): &(&str, &str)| site.spawn_php(&(WRITER.replace("NAME", name) + script));
    let writers: Vec<Running> = writers.iter().map(start).collect();
    let live = "SELECT COUNT(*) FROM scheduled_events";
    eventually("PHP inserts", || site.query_i64(live) > BACKLOG + 10);
    let begun = Instant::now();
    while begun.elapsed() < AT_WORK {
        site.punctual(["run", "--batch-size", "50", "--max-time", "1s"])
            .ok();
    }
    site.write("enough", "");
    let ended: Vec<Ended> = writers.into_iter().map(Running::wait).collect();
    let reports = ended.into_iter().map(|ended| ended.ok().json()).collect();
    let run = site
        .punctual(["run", "--json", "--max-time", "2m"])
        .ok()
        .json();
    assert_eq!(run["remaining_due"], 0, "{run}");
    reports
}

fn leave_a_backlog(site: &Site) {
    let types = ["sql", "batch"].iter().cycle();
    let rows = types.take(usize::try_from(BACKLOG).expect("a small number"));
    let rows: Vec<String> = rows.map(|name| format!("('{name}', 1000)")).collect();
    let insert = "INSERT INTO scheduled_events (type, due_at) VALUES";
    site.sql(&format!("{insert} {}", rows.join(", ")));
}

fn assert_none_failed(reports: &[serde_json::Value]) {
    println!("{reports:?}");
    for report in reports {
        assert_eq!(report["failed"], serde_json::json!({}), "{reports:?}");
        assert!(report["inserts"].as_i64() > Some(5), "{reports:?}");
    }
}

/// The ids that PHP was given, those that handlers saw, and those in history are the same.
fn assert_each_fired_once(site: &Site, writers: &[&str]) {
    let (fired, superseded) = assert_none_fired_twice(site);
    assert_eq!(superseded, Vec::<i64>::new());
    assert_eq!(fired, noted(site, writers));
}

/// The same where keys are taken again: what was claimed, but not started before its run's time was
/// over, finds its key taken and is superseded by the row that has it now.
fn assert_each_fired_once_or_superseded(site: &Site, writers: &[&str]) {
    let (mut ids, superseded) = assert_none_fired_twice(site);
    ids.extend(superseded);
    ids.sort_unstable();
    assert_eq!(ids, noted(site, writers));
}

/// The ids of the backlog and those that PHP was given, in order.
fn noted(site: &Site, writers: &[&str]) -> Vec<i64> {
    let mut ids: Vec<i64> = (1..=BACKLOG).collect();
    for writer in writers {
        let file = site.path(&format!("inserted-{writer}"));
        let text = std::fs::read_to_string(file).expect("the writer's notes");
        ids.extend(text.lines().map(|line| line.parse::<i64>().expect("an id")));
    }
    ids.sort_unstable();
    ids
}

/// The ids that handlers saw, each once and each done in history; and those that were superseded,
/// which no handler saw. Nothing else is in history, and nothing is left over.
fn assert_none_fired_twice(site: &Site) -> (Vec<i64>, Vec<i64>) {
    let mut handled: Vec<i64> = site
        .rows("SELECT event_id FROM effects")
        .iter()
        .map(|row| row[0].parse().expect("an id"))
        .collect();
    assert!(!handled.is_empty());
    handled.extend(fired(site));
    handled.sort_unstable();
    assert!(
        handled.windows(2).all(|pair| pair[0] < pair[1]),
        "an event fired twice"
    );
    let (mut done, mut superseded) = (Vec::new(), Vec::new());
    for row in site.rows("SELECT event_id, outcome FROM event_history ORDER BY event_id") {
        match row[1].as_str() {
            "done" => done.push(row[0].parse().expect("an id")),
            "cancelled" => superseded.push(row[0].parse().expect("an id")),
            other => panic!("event {} is {other}", row[0]),
        }
    }
    assert_eq!(handled, done);
    assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
    (done, superseded)
}
