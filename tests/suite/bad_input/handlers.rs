//! Handlers that misbehave: each spoils its own event at most, and the one beside it fires.

use std::fs;

use super::is_root;
use crate::runs::{fired, insert};
use crate::support::process::{Ended, eventually, is_alive};
use crate::support::site::Site;

/// A type `bad` with this script, and a well-behaved one.
fn configure(site: &Site, script: &str, more: &str) {
    site.write("script", script);
    site.config(&format!(
        "{}[type.bad]\nhandler = \"command\"\ncommand = [\"sh\", \"script\"]\n{more}\n",
        super::NOTE
    ));
}

/// A run over `bad` events and one of `note`, which must be done whatever the others do.
#[track_caller]
fn run_with(site: &Site, bad: usize) -> Ended {
    site.init();
    insert(site, "bad", bad);
    insert(site, "note", 1);
    let ended = site.punctual(["run", "--json"]);
    assert_eq!(ended.json()["types"]["note"]["done"], 1, "{ended:?}");
    assert!(
        fired(site).contains(&i64::try_from(bad + 1).expect("few")),
        "{ended:?}"
    );
    ended
}

fn last_errors(site: &Site) -> Vec<String> {
    let rows = site.rows("SELECT last_error FROM scheduled_events ORDER BY id");
    rows.into_iter().flatten().collect()
}

#[track_caller]
fn is_dead_soon(pid: &str) {
    let pid = pid.trim().parse().expect("a process number");
    eventually("the process is dead", || !is_alive(pid));
}

/// Answers in batch mode by a shell script; `$id` is each event's.
fn batch(answer: &str) -> String {
    format!(
        "while read -r line; do\n\
         id=$(printf %s \"$line\" | sed 's/^{{\"id\":\\([0-9]*\\).*/\\1/')\n{answer}\ndone\n"
    )
}

const BATCH: &str = "mode = \"batch\"";

on_both_databases! {
    fn one_that_prints_megabytes_is_neither_kept_nor_shown(site: &Site) {
        let flood = "yes | head -c 20000000; yes oops | head -c 20000000 >&2;";
        configure(site, flood, "");
        let ended = run_with(site, 1).ok();
        assert_eq!(ended.json()["done"], 2);
        assert!(ended.stdout.len() < 2_000, "{}", ended.stdout.len());
        // The same that fails leaves its last words, and no more than 2 KiB of them.
        configure(site, &format!("{flood} echo at last >&2; exit 3"), "retries = 0");
        insert(site, "bad", 1);
        let ended = site.punctual(["run", "--json"]);
        assert_eq!((ended.code, ended.stderr.lines().count()), (1, 1), "{}", ended.stderr.len());
        assert!(ended.stderr.len() < 4_000, "{}", ended.stderr.len());
        let kept = "SELECT error FROM event_history WHERE outcome = 'dead'";
        let kept = &site.rows(kept)[0][0];
        assert!(kept.len() <= 2_048 && kept.contains("exit status 3"), "{} bytes", kept.len());
        assert!(kept.ends_with("at last"), "{kept}");
    }

    fn one_that_never_ends_is_killed_even_where_it_ignores_the_signal(site: &Site) {
        configure(
            site,
            "trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done",
            "timeout = \"500ms\"\ngrace = \"500ms\"",
        );
        let ended = run_with(site, 1).ok();
        assert_eq!(ended.json()["retried"], 1, "{ended:?}");
        assert!(last_errors(site)[0].contains("timed out"), "{:?}", last_errors(site));
        is_dead_soon(&fs::read_to_string(site.path("pid")).expect("it was started"));
    }

    fn one_that_ends_in_a_signal_has_failed_and_the_signal_is_named(site: &Site) {
        configure(site, "ulimit -c 0; kill -SEGV $$", "");
        let ended = run_with(site, 1).ok();
        assert_eq!(ended.json()["retried"], 1, "{ended:?}");
        let errors = last_errors(site);
        assert!(errors[0].contains("SIGSEGV") || errors[0].contains("signal 11"), "{errors:?}");
        let row = "SELECT status, attempts, losses FROM scheduled_events";
        assert_eq!(site.rows(row), [["ready", "1", "0"]]);
    }

    fn what_one_leaves_in_the_background_is_killed_and_the_event_is_done(site: &Site) {
        // It holds the handler's stdout and stderr open, and would hold a careless reader up.
        configure(site, "sleep 300 & echo $! > child; exit 0", "");
        let ended = run_with(site, 1).ok();
        assert_eq!(ended.json()["done"], 2, "{ended:?}");
        is_dead_soon(&fs::read_to_string(site.path("child")).expect("it was started"));
        // The next tick finds the lock free.
        insert(site, "note", 1);
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
    }

    fn one_that_is_not_there_is_named_and_its_event_waits(site: &Site) {
        let ghost = "[type.ghost]\nhandler = \"command\"\ncommand = [\"no-such-program\"]\n\
                     [type.plain]\nhandler = \"command\"\ncommand = [\"./plain\"]\n";
        site.write("plain", "#!/bin/sh\n");
        site.config(&format!("{}{ghost}", super::NOTE)).init();
        for name in ["ghost", "plain", "note"] {
            insert(site, name, 1);
        }
        let ended = site.punctual(["run", "--json"]);
        assert_eq!(ended.json()["types"]["note"]["done"], 1, "{ended:?}");
        let left = site.rows("SELECT type, status, last_error FROM scheduled_events ORDER BY id");
        let [ghost, plain] = left.as_slice() else { panic!("{left:?}") };
        assert_eq!((&ghost[0][..], &ghost[1][..]), ("ghost", "ready"));
        assert!(ghost[2].contains("no-such-program"), "{ghost:?}");
        assert!(plain[2].contains("plain"), "{plain:?}");
        if is_root() || plain[2].contains("denied") {
            assert!(plain[2].contains("chmod") || plain[2].contains("denied"), "{plain:?}");
        }
    }

    fn garbage_in_batch_mode_is_no_answer(site: &Site) {
        configure(site, &batch("echo 'all fine!'; echo '{'; echo \"{\\\"id\\\":$id}\""), BATCH);
        let run = run_with(site, 3).ok().json();
        assert_eq!((&run["done"], &run["retried"]), (&1.into(), &3.into()), "{run}");
        for error in last_errors(site) {
            assert!(error.contains("all fine!") || error.contains("answer"), "{error}");
        }
    }

    fn binary_garbage_without_a_line_end_is_no_answer(site: &Site) {
        configure(site, "cat > /dev/null; head -c 5000000 /dev/zero", BATCH);
        let run = run_with(site, 2).ok().json();
        assert_eq!((&run["done"], &run["retried"]), (&1.into(), &2.into()), "{run}");
    }

    fn an_answer_for_a_foreign_id_touches_nobodys_event(site: &Site) {
        let ok = "echo '{\"id\":4,\"ok\":true}'; echo '{\"id\":999,\"ok\":true}'\n\
                  echo '{\"id\":5,\"dead\":true}'; echo '{\"id\":-1,\"ok\":true}'\n\
                  echo '{\"id\":\"1\",\"ok\":true}'; echo '{\"id\":1e99,\"ok\":true}'";
        configure(site, &batch(ok), BATCH);
        site.init();
        insert(site, "bad", 3);
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('ghost', 1), ('ghost', 1)");
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["done"], &run["retried"]), (&0.into(), &3.into()), "{run}");
        let rows = "SELECT id, type, status, attempts FROM scheduled_events WHERE id > 3 \
                    ORDER BY id";
        assert_eq!(site.rows(rows), [["4", "ghost", "ready", "0"], ["5", "ghost", "ready", "0"]]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_history"), 0);
    }

    fn the_first_of_two_answers_counts(site: &Site) {
        let twice = "echo \"{\\\"id\\\":$id,\\\"ok\\\":true}\"\n\
                     echo \"{\\\"id\\\":$id,\\\"dead\\\":true,\\\"error\\\":\\\"second\\\"}\"";
        configure(site, &batch(twice), BATCH);
        let run = run_with(site, 3).ok().json();
        assert_eq!((&run["done"], &run["dead"]), (&4.into(), &0.into()), "{run}");
        let done = "SELECT COUNT(*) FROM event_history WHERE outcome = 'done'";
        assert_eq!(site.query_i64(done), 4);
    }

    fn who_is_not_answered_in_batch_mode_has_failed(site: &Site) {
        // Only the first gets an answer; the process ends well, as if all were done.
        let first = "[ -e said ] || echo \"{\\\"id\\\":$id,\\\"ok\\\":true}\"; touch said";
        configure(site, &batch(first), BATCH);
        let run = run_with(site, 3).ok().json();
        assert_eq!((&run["done"], &run["retried"]), (&2.into(), &2.into()), "{run}");
        assert!(last_errors(site)[0].contains("answer"), "{:?}", last_errors(site));
    }

    fn a_batch_that_never_answers_is_killed(site: &Site) {
        configure(
            site,
            "echo $$ > pid; exec sleep 300",
            "mode = \"batch\"\ntimeout = \"500ms\"\ngrace = \"500ms\"",
        );
        let run = run_with(site, 3).ok().json();
        assert_eq!((&run["done"], &run["retried"]), (&1.into(), &3.into()), "{run}");
        is_dead_soon(&fs::read_to_string(site.path("pid")).expect("it was started"));
        let running = "SELECT COUNT(*) FROM scheduled_events WHERE status = 'running'";
        assert_eq!(site.query_i64(running), 0);
    }

    fn a_statement_that_the_database_refuses_fails_its_own_events_only(site: &Site) {
        site.sql("CREATE TABLE shop (n INTEGER)");
        let sql = |name: &str, text: &str| {
            format!("[type.{name}]\nhandler = \"sql\"\nsql = \"{text}\"\n")
        };
        site.config(&[
            super::NOTE.to_owned(),
            sql("ghost", "INSERT INTO no_such_table VALUES (1)"),
            sql("column", "UPDATE shop SET no_such_column = 1"),
            sql("syntax", "INSERT shop INTO VALUES"),
            sql("json", "INSERT INTO shop VALUES (:p.user)"),
            sql("good", "INSERT INTO shop VALUES (7)"),
        ].concat())
        .init();
        for name in ["ghost", "column", "syntax", "json", "good", "note"] {
            insert(site, name, 2);
        }
        let run = site.punctual(["run", "--json"]);
        assert!(run.code <= 1, "{run:?}");
        let run = run.json();
        assert_eq!((&run["done"], &run["fired"]), (&4.into(), &12.into()), "{run}");
        assert_eq!(site.rows("SELECT COUNT(*), MIN(n) FROM shop"), [["2", "7"]]);
        let left = site.rows("SELECT DISTINCT type, status FROM scheduled_events ORDER BY type");
        assert!(left.iter().all(|row| row[1] == "ready"), "{left:?}");
        let dead = "SELECT DISTINCT type FROM event_history WHERE outcome = 'dead' ORDER BY type";
        let dead = site.rows(dead);
        assert_eq!(left.len() + dead.len(), 4, "{left:?} {dead:?}");
    }

    fn a_certificate_that_is_not_there_is_a_wrong_configuration(site: &Site) {
        let http = "[type.hook]\nhandler = \"http\"\nurl = \"https://127.0.0.1:9/\"\n\
                    ca_file = \"absent.pem\"\n";
        site.config(&format!("{}{http}", super::NOTE)).init();
        insert(site, "note", 1);
        insert(site, "hook", 1);
        let ended = site.punctual(["run"]);
        super::refused(&ended, super::CONFIGURATION, &["[type.hook]", "absent.pem"]);
        let attempts = "SELECT status, attempts, losses FROM scheduled_events WHERE type = 'hook'";
        assert_eq!(site.rows(attempts), [["ready", "0", "0"]]);
    }
}
