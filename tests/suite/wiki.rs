//! The handler `mediawiki-job` on a real MediaWiki: its own installer makes the wiki, its own code the
//! jobs that ours are held against, and its own runner runs them.

use crate::plans::run_recorded;
use crate::readme::blocks;
use crate::support::hex;
use crate::support::mariadb::Server;
use crate::support::recorder::Recording;
use crate::support::wiki::Wiki;

/// One body, run on a wiki on SQLite and on one on MariaDB.
macro_rules! on_both_wikis {
    ($($(#[$attribute:meta])* fn $name:ident($wiki:ident: &Wiki) $body:block)+) => {$(
        $(#[$attribute])*
        fn $name($wiki: &Wiki) $body

        mod $name {
            use crate::support::wiki::Wiki;

            #[test]
            fn sqlite() {
                super::$name(&Wiki::sqlite());
            }

            #[test]
            fn mariadb() {
                super::$name(&Wiki::mariadb());
            }
        }
    )+};
}

/// Parameters that are easily serialised otherwise than PHP does.
const HARD: [&str; 14] = [
    r#"{"b":1,"a":2,"10":3,"9":4,"-1":5,"01":6}"#,
    r#"{"nested":{"z":[1,[2,[3,{"deep":null}]]],"a":{}},"empty":[]}"#,
    r#"{"text":"Ünïcödé 漢字 😀","quote":"\"';--","line":"a\nb\r\t"}"#,
    r#"{"zero\u0000":"a\u0000b"}"#,
    r#"{"min":-9223372036854775808,"max":9223372036854775807,"more":9223372036854775808}"#,
    r#"{"negative":-5,"float":0.1,"whole":1.0,"small":1e-7,"large":1.5e300,"minus":-0.0}"#,
    r#"{"yes":true,"no":false,"none":null,"one":1,"text":"1"}"#,
    r#"{"rootJobSignature":"s","rootJobTimestamp":"20260101000000","rootJobIsSelf":true,"x":1}"#,
    r#"{"namespace":4,"title":"Some_page","x":1}"#,
    r#"{"namespace":"10","title":"T"}"#,
    r#"{"title":"Only_a_title"}"#,
    r#"{"requestId":"abc","causeAction":"x"}"#,
    r#"{"twice":1,"other":2,"twice":3}"#,
    "{}",
];

/// Pushes a job with each of the parameters, and with the page `Talk:Some_page` once more.
const PUSH_HARD: &str = r"
    foreach ( file( 'hard', FILE_IGNORE_NEW_LINES ) as $json ) {
        $params = json_decode( $json, true );
        $options = [ 'removeDuplicates' => true ];
        $queue->push( new JobSpecification( 'note', $params, $options ) );
        $page = Title::makeTitle( 1, 'Some_page' );
        $queue->push( new JobSpecification( 'null', $params, $options, $page ) );
    }
";

on_both_wikis! {
    fn a_job_runs_once_with_its_params_and_not_before_its_time(wiki: &Wiki) {
        wiki.config("").site.init();
        wiki.event(r#"{"type":"note","params":{"user":5,"tags":["a","ä"],"f":0.5,"n":null}}"#);
        wiki.event(r#"{"type":"null"}"#);
        wiki.event_at(4_102_444_800, r#"{"type":"note","params":{"late":true}}"#);
        let run = wiki.site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["done"], &run["dead"]), (&2.into(), &0.into()), "{run}");
        assert_eq!(wiki.jobs("job_cmd"), [["note"], ["null"]]);
        let said = wiki.run_jobs().stdout;
        assert_eq!(said.matches("null Special:").count(), 2, "begun and ended: {said}");
        let page = r#""namespace":-1,"title":"""#;
        let wanted = format!(r#"{{"user":5,"tags":["a","\u00e4"],"f":0.5,"n":null,{page}}}"#);
        assert_eq!(wiki.ran(), [wanted.as_str()]);
        wiki.site.punctual(["run"]).ok();
        wiki.run_jobs();
        assert_eq!(wiki.ran().len(), 1);
        assert_eq!(wiki.jobs("job_id"), [[""; 1]; 0]);
        wiki.site.sql("UPDATE scheduled_events SET due_at = 6");
        wiki.site.punctual(["run"]).ok();
        wiki.run_jobs();
        assert_eq!(wiki.ran()[1], format!(r#"{{"late":true,{page}}}"#));
    }

    fn a_row_is_the_one_that_mediawiki_itself_writes(wiki: &Wiki) {
        wiki.config("").site.init();
        wiki.site.write("hard", &(HARD.join("\n") + "\n"));
        let columns = match wiki.site.mariadb_database() {
            Some(_) => "job_cmd, job_namespace, job_title, HEX(job_params), job_sha1, \
                        job_attempts, job_token, job_token_timestamp, LENGTH(job_timestamp)",
            None => "job_cmd, job_namespace, job_title, HEX(job_params), job_sha1, \
                     job_attempts, job_token, job_token_timestamp, LENGTH(job_timestamp), \
                     typeof(job_cmd), typeof(job_namespace), typeof(job_title), \
                     typeof(job_params), typeof(job_sha1), typeof(job_timestamp), \
                     typeof(job_random), typeof(job_attempts), typeof(job_token)",
        };
        wiki.php(PUSH_HARD);
        let theirs = wiki.jobs(columns);
        assert_eq!(theirs.len(), 2 * HARD.len());
        wiki.site.sql(&format!("DELETE FROM {}", wiki.table()));
        for params in HARD {
            wiki.event(&format!(r#"{{"type":"note","params":{params},"deduplicate":true}}"#));
            wiki.event(&format!(
                r#"{{"type":"null","params":{params},"deduplicate":true,
                    "namespace":1,"title":"Some_page"}}"#
            ));
        }
        let before = wiki.site.query_i64(&clock(wiki));
        wiki.site.punctual(["run"]).ok();
        let after = wiki.site.query_i64(&clock(wiki));
        let ours = wiki.jobs(columns);
        for ((params, ours), theirs) in HARD.iter().flat_map(|one| [one, one]).zip(&ours).zip(&theirs) {
            assert_eq!(ours, theirs, "{params}");
        }
        assert_eq!(ours.len(), theirs.len());
        for row in wiki.jobs("job_timestamp, job_random") {
            let timestamp: i64 = row[0].parse().expect("digits");
            assert!((before..=after).contains(&timestamp), "{before} {row:?} {after}");
            let random: i64 = row[1].parse().expect("a number");
            assert!((0..=0x7fff_ffff).contains(&random), "{row:?}");
        }
        let different = wiki.site.query_i64(&format!(
            "SELECT COUNT(DISTINCT job_random) FROM {}",
            wiki.table()
        ));
        assert!(different > 20, "{different} random numbers");
    }

    fn the_raw_row_of_a_job_goes_into_the_table_as_it_is(wiki: &Wiki) {
        wiki.config("").site.init();
        let sha1 = "0123456789abcdefghijklmnopqrstu";
        wiki.event(&format!(
            r#"{{"job":{{"cmd":"note","namespace":4,"title":"Some_page",
                "params":"a:1:{{s:1:\"a\";d:0.5;}}","sha1":"{sha1}"}}}}"#
        ));
        wiki.event(r#"{"job":{"cmd":"note","params_base64":"YToxOntpOjA7czoyOiL/ACI7fQ=="}}"#);
        wiki.site.punctual(["run"]).ok();
        let rows = wiki.jobs("job_cmd, job_namespace, job_title, LOWER(HEX(job_params)), job_sha1");
        let text = hex(b"a:1:{s:1:\"a\";d:0.5;}");
        assert_eq!(rows[0], ["note", "4", "Some_page", text.as_str(), sha1]);
        let bytes = hex(b"a:1:{i:0;s:2:\"\xff\0\";}");
        assert_eq!(rows[1], ["note", "-1", "", bytes.as_str(), ""]);
    }

    fn a_job_that_waits_already_is_not_queued_again_whoever_queued_it(wiki: &Wiki) {
        wiki.config("").site.init();
        let push = "$queue->push( new JobSpecification( 'note', [ 'a' => 1, 'b' => [ 2 ] ], \
                    [ 'removeDuplicates' => true ] ) );";
        let event = |root: &str| {
            let params = format!(r#"{{"a":1,{root}"b":[2]}}"#);
            wiki.event(&format!(r#"{{"type":"note","params":{params},"deduplicate":true}}"#));
        };
        // Ours meets MediaWiki's.
        wiki.php(push);
        event("");
        event(r#""rootJobSignature":"s","#);
        let run = wiki.site.punctual(["run", "--json"]).ok().json();
        assert_eq!(run["done"], 2, "{run}");
        assert_eq!(wiki.jobs("job_cmd"), [["note"]]);
        let said = wiki.site.rows("SELECT outcome, error FROM event_history");
        assert_eq!(said, [["done", "duplicate of a job that waits"]; 2]);
        // MediaWiki's meets ours.
        wiki.site.sql(&format!("DELETE FROM {}", wiki.table()));
        event("");
        event("");
        wiki.site.punctual(["run"]).ok();
        wiki.php(push);
        assert_eq!(wiki.jobs("job_cmd"), [["note"]]);
        // One that somebody has begun is another one.
        wiki.site.sql(&format!("UPDATE {} SET job_token = 'begun'", wiki.table()));
        event("");
        wiki.site.punctual(["run"]).ok();
        assert_eq!(wiki.jobs("job_token"), [["begun"], [""]]);
        // Who does not ask for it gets any number.
        wiki.event(r#"{"type":"note","params":{"a":1,"b":[2]}}"#);
        wiki.site.punctual(["run"]).ok();
        assert_eq!(wiki.jobs("job_id").len(), 3);
    }

    fn a_payload_that_is_no_job_is_dead_at_once_and_alone(wiki: &Wiki) {
        wiki.config("").site.init();
        let bad = [
            ("no JSON", "no JSON"),
            ("{}", "names no `type`"),
            (r#"{"type":"note","parms":{}}"#, "unknown key \"parms\" in the payload"),
            (r#"{"type":"note","params":{"a":1e999}}"#, "out of range"),
            (
                r#"{"job":{"cmd":"note","params":"a:1:{i:0;O:1:\"A\":0:{}}"}}"#,
                "cannot be unserialised safely: it holds an object",
            ),
        ];
        for (payload, _) in bad {
            wiki.event(r#"{"type":"note"}"#);
            wiki.event(payload);
        }
        let ended = wiki.site.punctual(["run", "--json"]);
        assert_eq!(ended.code, 1, "{ended:?}");
        assert_eq!((&ended.json()["done"], &ended.json()["dead"]), (&5.into(), &5.into()));
        assert_eq!(wiki.jobs("job_cmd"), [["note"]; 5]);
        let dead = "SELECT error, attempts FROM event_history WHERE outcome = 'dead' ORDER BY event_id";
        for (row, (payload, part)) in wiki.site.rows(dead).iter().zip(bad) {
            assert!(row[0].contains(part), "{payload}: {row:?}");
            assert_eq!(row[1], "1");
        }
        assert_eq!(wiki.site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
    }

    fn what_the_readme_inserts_from_php_becomes_the_job_that_it_names(wiki: &Wiki) {
        let prefix = wiki.prefix;
        wiki.site.config(&format!(
            "table_prefix = \"{prefix}\"\n[type.wiki-job]\nhandler = \"mediawiki-job\""
        ));
        wiki.site.init();
        let insert = readme_php("wiki-job");
        wiki.php(&format!("$dbw = $this->getDB( DB_PRIMARY );\n{insert}"));
        wiki.site.punctual(["run"]).ok();
        assert_eq!(wiki.jobs("job_id").len(), 0, "not due for 30 days");
        wiki.site.sql(&format!("UPDATE {prefix}scheduled_events SET due_at = 5"));
        wiki.site.punctual(["run"]).ok();
        wiki.php(
            "$params = [ 'namespace' => 0, 'title' => 'Main_Page' ];
            $queue->push( new JobSpecification( 'refreshLinks', $params ) );",
        );
        let jobs = wiki.jobs("job_cmd, job_namespace, job_title, job_params");
        assert_eq!(jobs.len(), 2);
        assert_eq!(jobs[0], jobs[1]);
    }

    fn a_type_of_job_that_the_wiki_does_not_know_stays_in_its_queue(wiki: &Wiki) {
        wiki.config("").site.init();
        wiki.event(r#"{"type":"noSuchJob"}"#);
        wiki.event(r#"{"type":"note"}"#);
        wiki.site.punctual(["run"]).ok();
        wiki.run_jobs();
        assert_eq!(wiki.ran().len(), 1);
        assert_eq!(wiki.jobs("job_cmd, job_attempts"), [["noSuchJob", "0"]]);
    }

    fn jobs_of_a_type_with_another_queue_are_refused_until_that_is_corrected(wiki: &Wiki) {
        let queues = r#"queues = { default = "MediaWiki\\JobQueue\\JobQueueDB", note = "JobQueueRedis" }"#;
        wiki.config(queues).site.init();
        wiki.event(r#"{"type":"note"}"#);
        wiki.event(r#"{"type":"null"}"#);
        let ended = wiki.site.punctual(["run"]);
        assert_eq!(ended.code, 1, "{ended:?}");
        assert_eq!(wiki.jobs("job_cmd"), [["null"]]);
        let said = wiki.site.rows("SELECT error FROM event_history WHERE outcome = 'dead'");
        for part in ["\"note\"", "JobQueueRedis", "$wgJobTypeConf", "`queues`"] {
            assert!(said[0][0].contains(part), "{said:?}");
        }
        wiki.config("");
        wiki.site.punctual(["retry", "1"]).ok();
        wiki.site.punctual(["run"]).ok();
        assert_eq!(wiki.jobs("job_cmd"), [["null"], ["note"]]);
    }

    fn without_the_table_the_type_cannot_fire_and_the_others_can(wiki: &Wiki) {
        let note = "[type.note]\nhandler = \"command\"\ncommand = [\"true\"]";
        let table = wiki.table();
        wiki.config(note).site.init();
        wiki.event(r#"{"type":"null"}"#);
        let refused = |parts: &[&str]| {
            wiki.site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('note', 5)");
            let ended = wiki.site.punctual(["run"]);
            assert_eq!(ended.code, 78, "{ended:?}");
            assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
            for part in parts {
                assert!(ended.stderr.contains(part), "{part}: {ended:?}");
            }
            let left = wiki.site.rows("SELECT type, status, attempts FROM scheduled_events");
            assert_eq!(left, [["job", "ready", "0"]]);
            // Said once an hour otherwise.
            wiki.site.command("rm").args(["-rf", "state", "home"]).status().expect("rm");
            for name in ["home", "state"] {
                std::fs::create_dir(wiki.site.path(name)).expect("a directory");
            }
        };
        wiki.site.sql(&format!("ALTER TABLE {table} RENAME TO elsewhere"));
        refused(&["[type.job]", &format!("no table `{table}`"), "job_table_prefix"]);
        wiki.site.sql(&format!("ALTER TABLE elsewhere RENAME TO {table}"));
        let rename = |from: &str, to: &str| match wiki.site.mariadb_database() {
            Some(_) => format!("ALTER TABLE {table} CHANGE {from} {to} VARBINARY(32) NOT NULL DEFAULT ''"),
            None => format!("ALTER TABLE {table} RENAME COLUMN {from} TO {to}"),
        };
        wiki.site.sql(&rename("job_token", "token"));
        refused(&["no column `job_token`"]);
        wiki.site.sql(&rename("token", "job_token"));
        if wiki.site.mariadb_database().is_some() {
            wiki.site.sql(&format!("ALTER TABLE {table} ENGINE = MyISAM"));
            refused(&["MyISAM", "ENGINE = InnoDB"]);
            wiki.site.sql(&format!("ALTER TABLE {table} ENGINE = InnoDB"));
        }
        let run = wiki.site.punctual(["run", "--json"]).ok().json();
        assert_eq!(run["done"], 1, "{run}");
        assert_eq!(wiki.jobs("job_cmd"), [["null"]]);
    }

    fn a_row_that_the_database_refuses_fails_alone_and_is_tried_again(wiki: &Wiki) {
        wiki.config("backoff = \"1s\"").site.init();
        let table = wiki.table();
        wiki.site.sql(&match wiki.site.mariadb_database() {
            Some(_) => format!(
                "CREATE TRIGGER refusal BEFORE INSERT ON {table} FOR EACH ROW \
                 IF NEW.job_title = 'Bad' THEN \
                 SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF"
            ),
            None => format!(
                "CREATE TRIGGER refusal BEFORE INSERT ON {table} WHEN NEW.job_title = 'Bad' \
                 BEGIN SELECT RAISE(ABORT, 'not this one'); END"
            ),
        });
        for title in ["A", "Bad", "B"] {
            wiki.event(&format!(r#"{{"type":"null","title":"{title}"}}"#));
        }
        let run = wiki.site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["done"], &run["retried"]), (&2.into(), &1.into()), "{run}");
        assert_eq!(wiki.jobs("job_title"), [["A"], ["B"]]);
        let left = wiki.site.rows("SELECT attempts, last_error FROM scheduled_events");
        assert_eq!(left[0][0], "1");
        assert!(left[0][1].contains("not this one"), "{left:?}");
        wiki.site.sql("DROP TRIGGER refusal").sql("UPDATE scheduled_events SET due_at = 6");
        wiki.site.punctual(["run"]).ok();
        assert_eq!(wiki.jobs("job_title"), [["A"], ["B"], ["Bad"]]);
    }

    fn a_thousand_jobs_take_an_insert_a_wave_and_a_select_where_duplicates_are_dropped(
        wiki: &Wiki
    ) {
        wiki.config("").site.init();
        let into = format!("INTO {} (", wiki.table());
        let from = format!("FROM {} WHERE job_sha1", wiki.table());
        let asked = |payload: &str| {
            let insert = "INSERT INTO scheduled_events (type, due_at, payload)";
            wiki.site.sql(&match wiki.site.mariadb_database() {
                Some(_) => format!("{insert} SELECT 'job', 5, {payload} FROM seq_1_to_1000"),
                None => format!(
                    "{insert} WITH RECURSIVE n (seq) AS (SELECT 1 UNION ALL SELECT seq + 1 \
                     FROM n LIMIT 1000) SELECT 'job', 5, {payload} FROM n"
                ),
            });
            let recording = Recording::default();
            let report = run_recorded(&wiki.site, &recording);
            assert_eq!(report.counts.done, 1000, "{report:?}");
            let statements = recording.statements();
            let count = |part: &str| statements.iter().filter(|one| one.sql.contains(part)).count();
            // However often the machine cuts a wave at 50 ms.
            let waves = count("event_history (event_id");
            (waves, count(&into), count(&from))
        };
        let (waves, inserts, selects) = asked("'{\"type\":\"null\",\"params\":{\"a\":1}}'");
        assert!(waves >= 2, "{waves}");
        assert_eq!((inserts, selects), (waves, 0));
        assert_eq!(wiki.jobs("job_id").len(), 1000);
        let text = "'{\"type\":\"null\",\"deduplicate\":true,\"params\":{\"a\":'";
        let (_, inserts, selects) = asked(&match wiki.site.mariadb_database() {
            Some(_) => format!("CONCAT({text}, seq DIV 2, '}}}}')"),
            None => format!("{text} || (seq / 2) || '}}}}'"),
        });
        assert_eq!(wiki.jobs("job_id").len(), 1000 + 501);
        assert!(inserts <= selects && selects <= 20, "{inserts} {selects}");
    }
}

/// The block of PHP in the README in which `part` stands.
fn readme_php(part: &str) -> String {
    let found = blocks("php").into_iter().find(|block| block.contains(part));
    found.unwrap_or_else(|| panic!("no block with {part}"))
}

/// Now, as MediaWiki writes it.
fn clock(wiki: &Wiki) -> String {
    match wiki.site.mariadb_database() {
        Some(_) => "SELECT DATE_FORMAT(UTC_TIMESTAMP(), '%Y%m%d%H%i%S')".to_owned(),
        None => "SELECT strftime('%Y%m%d%H%M%S', 'now')".to_owned(),
    }
}

#[test]
fn jobs_in_another_file_of_sqlite_as_the_installer_leaves_it_are_refused_with_the_remedy() {
    let wiki = Wiki::installed();
    wiki.config("").site.init();
    wiki.event(r#"{"type":"null"}"#);
    let refused = |parts: &[&str]| {
        let ended = wiki.site.punctual(["run"]);
        assert_eq!(
            (ended.code, ended.stderr.lines().count()),
            (78, 1),
            "{ended:?}"
        );
        for part in parts {
            assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        }
        assert_eq!(
            wiki.site.query_i64("SELECT COUNT(*) FROM scheduled_events"),
            1
        );
        assert_eq!(wiki.jobs("job_id").len(), 0);
    };
    let remedy = [
        "wiki_jobqueue.sqlite",
        "$wgJobTypeConf['default']",
        "`job_database`",
    ];
    refused(&remedy);
    // Said outright, the same in other words.
    wiki.config("job_database = \"wiki_jobqueue.sqlite\"");
    refused(&remedy);
    // What the remedy says.
    wiki.set(&readme_php("$wgJobTypeConf"));
    wiki.config("job_database = \"wiki.sqlite\"");
    wiki.site.punctual(["run"]).ok();
    assert_eq!(wiki.jobs("job_cmd"), [["null"]]);
    wiki.run_jobs();
    assert_eq!(wiki.jobs("job_cmd").len(), 0);
}

#[test]
fn jobs_in_another_database_of_the_server_are_refused_with_the_remedy() {
    let wiki = Wiki::mariadb();
    wiki.config("job_database = \"other\"").site.init();
    wiki.event(r#"{"type":"null"}"#);
    let ended = wiki.site.punctual(["run"]);
    assert_eq!(
        (ended.code, ended.stderr.lines().count()),
        (78, 1),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("in the database other"), "{ended:?}");
    let name = &wiki.site.mariadb_database().expect("MariaDB").name;
    wiki.config(&format!("job_database = \"{name}\""));
    wiki.site.punctual(["run"]).ok();
    assert_eq!(wiki.jobs("job_cmd"), [["null"]]);
}

#[test]
fn a_wave_larger_than_a_packet_goes_in_parts() {
    let server = Server::private(&["--max-allowed-packet=1M"]);
    let wiki = Wiki::on(&server);
    wiki.config("").site.init();
    let text = "x".repeat(200 << 10);
    for _ in 0..10 {
        wiki.event(&format!(
            r#"{{"type":"null","params":{{"text":"{text}"}}}}"#
        ));
    }
    let run = wiki.site.punctual(["run", "--json"]).ok().json();
    assert_eq!(run["done"], 10, "{run}");
    assert_eq!(wiki.jobs("job_id").len(), 10);
}

#[test]
fn params_that_the_column_cannot_hold_are_refused_and_not_cut_off() {
    let server = Server::private(&["--sql-mode="]);
    let wiki = Wiki::on(&server);
    wiki.config("").site.init();
    // As MediaWiki had it until 1.38.
    wiki.site
        .sql("ALTER TABLE mw_job MODIFY job_params BLOB NOT NULL");
    for bytes in [65_000, 66_000] {
        let text = "x".repeat(bytes);
        wiki.event(&format!(
            r#"{{"type":"null","params":{{"text":"{text}"}}}}"#
        ));
    }
    let ended = wiki.site.punctual(["run"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert_eq!(wiki.jobs("job_id").len(), 1);
    let said = wiki
        .site
        .rows("SELECT error FROM event_history WHERE outcome = 'dead'");
    assert!(said[0][0].contains("job_params holds 65535"), "{said:?}");
}
