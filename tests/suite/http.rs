//! The `http` handler through the binary, against a real server of this machine (DESIGN §6).

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::runs::now;
use crate::support::process::{Ended, eventually};
use crate::support::site::Site;
use crate::support::web::{Asked, Reply, Web};

const SECRET: &str = "tok-5f0c9a17-not-to-be-shown";

on_both_databases! {
    fn an_event_is_posted_once_and_200_is_done(site: &Site) {
        let web = Web::start(|_| Reply::plain("200 OK", "thanks"));
        site.config(&hook(&web, "")).init();
        let due = now() - 90;
        post(site, due, r#"{"user":5}"#);
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
        let [asked] = <[Asked; 1]>::try_from(web.asked()).expect("one request");
        assert_eq!(asked.line, "POST /hook HTTP/1.1");
        assert_eq!(asked.body, r#"{"user":5}"#);
        assert_eq!(asked.header("content-type"), "application/json");
        assert_eq!(asked.header("punctual-event-id"), "1");
        assert_eq!(asked.header("punctual-event-type"), "hook");
        assert_eq!(asked.header("punctual-attempt"), "1");
        assert_eq!(asked.header("punctual-due-at"), due.to_string());
        assert_eq!(asked.header("idempotency-key"), key_of(site, 1, due));
        assert_eq!(history(site), [["1", "done", "0", "NULL"]]);
    }

    fn a_server_of_an_authority_of_ones_own_needs_its_ca_file(site: &Site) {
        let (web, authority) = Web::start_tls(|_| Reply::plain("200 OK", ""));
        site.write("ca.pem", &authority).config(&hook(&web, "")).init();
        post(site, 5, "{}");
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["done"], &run["retried"]), (&0.into(), &1.into()), "{run}");
        assert!(last_error(site).contains("certificate"), "{}", last_error(site));
        assert_eq!(web.asked().len(), 0, "nothing is sent to whom nobody vouches for");
        site.config(&hook(&web, "ca_file = \"ca.pem\"")).sql(DUE_AGAIN);
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
        assert_eq!(web.asked().len(), 1);
    }

    fn a_failure_is_retried_with_growing_delays_until_it_works(site: &Site) {
        let web = Web::start(|asked| match asked.header("punctual-attempt") {
            "1" | "2" => Reply::plain("500 Internal Server Error", "no luck"),
            _ => Reply::plain("204 No Content", ""),
        });
        site.config(&hook(&web, "backoff = \"10m\"")).init();
        post(site, 5, "{}");
        let mut delays = Vec::new();
        for attempt in 1..=2 {
            let before = now();
            let run = site.punctual(["run", "--json"]).ok().json();
            assert_eq!(run["retried"], 1, "{run}");
            let row = "SELECT status, attempts, first_due_at, last_error FROM scheduled_events";
            let tries = attempt.to_string();
            assert_eq!(site.rows(row), [["ready", &tries, "5", "HTTP 500: no luck"]]);
            delays.push(site.query_i64("SELECT due_at FROM scheduled_events") - before);
            site.sql(DUE_AGAIN);
        }
        // 10 and 20 minutes, each with a jitter of a quarter at most, and the time of a run.
        assert!((600..=760).contains(&delays[0]), "{delays:?}");
        assert!((1200..=1510).contains(&delays[1]), "{delays:?}");
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
        assert_eq!(history(site), [["1", "done", "2", "NULL"]]);
        let planned = "SELECT COUNT(*) FROM event_log WHERE event_id = 1";
        assert_eq!(site.query_i64(planned), 2);
    }

    fn a_429_puts_off_until_the_time_it_names_and_costs_no_attempt(site: &Site) {
        let web = Web::start(|_| {
            let later = "Retry-After: 1234\r\n".to_owned();
            Reply::Answer("429 Too Many Requests", later, "slow down".to_owned())
        });
        site.config(&hook(&web, "retries = 0\nmax_deferrals = 1")).init();
        post(site, 5, "{}");
        let before = now();
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["deferred"], &run["retried"]), (&1.into(), &0.into()), "{run}");
        let due = site.query_i64("SELECT due_at FROM scheduled_events");
        assert!((before + 1234..=now() + 1234).contains(&due), "{}", due - before);
        assert_eq!(site.rows("SELECT attempts, deferrals FROM scheduled_events"), [["0", "1"]]);
        site.sql(DUE_AGAIN);
        let ended = site.punctual(["run", "--json"]);
        assert_eq!((ended.code, &ended.json()["dead"]), (1, &1.into()), "max_deferrals is a cap");
    }

    fn a_retry_after_may_be_a_date(site: &Site) {
        let at = now() + 7_200;
        let date = chrono::DateTime::from_timestamp(at, 0).expect("a date of this century");
        let date = date.format("Retry-After: %a, %d %b %Y %H:%M:%S GMT\r\n").to_string();
        let web = Web::start(move |_| {
            Reply::Answer("503 Service Unavailable", date.clone(), String::new())
        });
        site.config(&hook(&web, "")).init();
        post(site, 5, "{}");
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["deferred"], 1);
        let due = site.query_i64("SELECT due_at FROM scheduled_events");
        assert!((at - 1..=at + 1).contains(&due), "{} s from it", due - at);
    }

    fn an_answer_that_does_not_come_in_time_is_retried(site: &Site) {
        let web = Web::start(|_| Reply::Silence);
        site.config(&hook(&web, "timeout = \"1s\"")).init();
        post(site, 5, "{}");
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!(run["retried"], 1, "{run}");
        assert!(last_error(site).contains("no answer"), "{}", last_error(site));
        assert!(last_error(site).contains("1s"), "{}", last_error(site));
        let time = |name: &str| run[name].as_i64().expect("a time");
        assert!(time("finished_at") - time("started_at") < 5, "{run}");
    }

    fn a_connection_that_is_reset_is_retried(site: &Site) {
        let web = Web::start(|asked| match asked.header("punctual-attempt") {
            "1" => Reply::Reset,
            _ => Reply::plain("200 OK", ""),
        });
        site.config(&hook(&web, "")).init();
        post(site, 5, &"x".repeat(1 << 20));
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["retried"], 1);
        assert!(last_error(site).contains("localhost"), "{}", last_error(site));
        site.sql(DUE_AGAIN);
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
        assert_eq!(web.asked()[0].body.len(), 1 << 20);
    }

    fn a_redirect_to_another_host_is_refused(site: &Site) {
        let other = Web::start(|_| Reply::plain("200 OK", ""));
        let elsewhere = format!("Location: {}\r\n", other.url("/elsewhere"));
        let web = Web::start(move |asked| match asked.line.split(' ').nth(1) {
            Some("/hook") => {
                let there = elsewhere.clone();
                Reply::Answer("307 Temporary Redirect", there, String::new())
            }
            Some("/moved") => {
                let here = "Location: /here\r\n".to_owned();
                Reply::Answer("308 Permanent Redirect", here, String::new())
            }
            _ => Reply::plain("200 OK", ""),
        });
        site.config(&hook(&web, "headers = { Authorization = \"Bearer abcdefgh\" }")).init();
        post(site, 5, "{}");
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["done"], &run["retried"]), (&0.into(), &1.into()), "{run}");
        assert!(last_error(site).contains("another host"), "{}", last_error(site));
        assert!(other.asked().is_empty());
        // Within the host it is followed, the body with it.
        let text = hook(&web, "").replace("/hook", "/moved");
        site.config(&text).sql(DUE_AGAIN);
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 1);
        assert_eq!(web.asked().last().expect("a request").line, "POST /here HTTP/1.1");
        assert_eq!(web.asked().last().expect("a request").body, "{}");
    }

    fn at_most_once_a_lost_answer_is_unknown_and_never_asked_for_again(site: &Site) {
        let web = Web::start(|_| Reply::Silence);
        site.config(&hook(&web, "timeout = \"1s\"\nat_most_once = true")).init();
        post(site, 5, "{}");
        let ended = site.punctual(["run", "--json"]);
        assert_eq!((ended.code, &ended.json()["unknown"]), (1, &1.into()), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert_eq!(site.rows("SELECT outcome FROM event_history"), [["unknown"]]);
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["stop"], "idle");
        assert_eq!(web.asked().len(), 1);
    }

    fn at_most_once_a_failure_is_dead_and_what_was_never_sent_is_tried_again(site: &Site) {
        let web = Web::start(|_| Reply::plain("500 Internal Server Error", ""));
        site.config(&hook(&web, "at_most_once = true")).init();
        post(site, 5, "{}");
        let ended = site.punctual(["run", "--json"]);
        assert_eq!((ended.code, &ended.json()["dead"]), (1, &1.into()), "{ended:?}");
        let gone = {
            let gone = Web::start(|_| Reply::Silence);
            hook(&gone, "at_most_once = true")
        };
        site.config(&gone);
        post(site, 5, "{}");
        eventually("its listener is gone", || {
            let run = site.punctual(["run", "--json"]).json();
            assert_eq!(run["unknown"], 0, "{run}");
            run["retried"] == 1
        });
        assert!(last_error(site).contains("cannot reach"), "{}", last_error(site));
        assert_eq!(web.asked().len(), 1);
    }

    fn the_idempotency_key_is_the_same_across_attempts_runs_and_deaths(site: &Site) {
        let count = AtomicUsize::new(0);
        let web = Web::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::plain("500 Internal Server Error", ""),
            1 => Reply::Silence,
            2 => Reply::plain("429 Too Many Requests", ""),
            _ => Reply::plain("200 OK", ""),
        });
        site.config(&hook(&web, "timeout = \"5m\"")).init();
        post(site, 5, "{}");
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["retried"], 1);
        site.sql(DUE_AGAIN);
        let killed = site.spawn(["run"]);
        eventually("the second attempt is under way", || web.asked().len() == 2);
        killed.kill_9();
        eventually("a tick finds the lock free and recovers the event", || {
            site.punctual(["run", "--json"]).ok().json()["deferred"] == 1
        });
        site.sql(DUE_AGAIN);
        post(site, 5, "{}");
        post(site, 6, "{}");
        assert_eq!(site.punctual(["run", "--json"]).ok().json()["done"], 3);
        let asked = web.asked();
        let keys: Vec<(&str, &str)> = asked
            .iter()
            .map(|asked| (asked.header("punctual-event-id"), asked.header("idempotency-key")))
            .collect();
        let of_first: Vec<_> = keys.iter().filter(|(id, _)| *id == "1").collect();
        assert_eq!(of_first.len(), 4, "{keys:?}");
        let first = key_of(site, 1, 5);
        assert!(of_first.iter().all(|(_, key)| *key == first), "{keys:?}");
        let others: Vec<_> = keys.iter().filter(|(id, _)| *id != "1").collect();
        assert_eq!(others.len(), 2, "{keys:?}");
        assert_eq!(*others[0], ("2", key_of(site, 2, 5).as_str()), "{keys:?}");
        assert_eq!(*others[1], ("3", key_of(site, 3, 6).as_str()), "{keys:?}");
    }

    fn a_secret_header_is_sent_and_shown_nowhere(site: &Site) {
        // The worst server: it says back what it was told.
        let count = AtomicUsize::new(0);
        let web = Web::start(move |asked| {
            let told = asked.header("authorization").to_owned() + " " + asked.header("x-api-key");
            match count.fetch_add(1, Ordering::Relaxed) {
                0 => Reply::plain("500 Internal Server Error", &told),
                1 => Reply::Answer("429 Too Many Requests", "Retry-After: 1\r\n".into(), told),
                2 => Reply::Silence,
                _ => Reply::plain("400 Bad Request", &told),
            }
        });
        let secret = format!(
            "retries = 2\ntimeout = \"2s\"\nheaders = {{ Authorization = \"Bearer {SECRET}\", \
             X-Api-Key = \"{SECRET}\" }}"
        );
        site.config(&hook(&web, &secret)).init();
        post(site, 5, "{}");
        let mut said = Vec::new();
        for attempt in 1..=4 {
            let run = site.spawn(["run", "--json", "-vv"]);
            if attempt == 3 {
                eventually("the third attempt is under way", || web.asked().len() == 3);
                let seen = shown_by_ps();
                assert!(seen.iter().any(|line| line.contains("-vv")), "ps shows the run");
                assert!(!seen.iter().any(|line| line.contains(SECRET)), "ps shows the secret");
            }
            said.push(site.finish(run));
            site.sql(DUE_AGAIN);
        }
        assert_eq!(web.asked().len(), 4, "{said:?}");
        assert_eq!(web.asked()[0].header("authorization"), format!("Bearer {SECRET}"));
        let Ended { code, stderr, .. } = &said[3];
        assert_eq!(*code, 1, "{said:?}");
        assert!(stderr.contains("event 1 (hook) is dead: HTTP 400: *** ***"), "{stderr}");
        for arguments in [["list", "--history"], ["list", "--json"], ["run", "--dry-run"]] {
            said.push(site.punctual(arguments));
        }
        let shown = |ended: &Ended| ended.stdout.contains(SECRET) || ended.stderr.contains(SECRET);
        assert!(!said.iter().any(shown), "{said:?}");
        let tables = [
            "SELECT error FROM event_history",
            "SELECT detail FROM event_log",
            "SELECT last_error FROM scheduled_events",
            "SELECT progress FROM event_runs",
        ];
        let kept: Vec<_> = tables.iter().flat_map(|query| site.rows(query)).flatten().collect();
        assert!(kept.len() >= 8, "{kept:?}");
        assert!(kept.iter().any(|text| text.contains("HTTP 500: *** ***")), "{kept:?}");
        assert!(!kept.iter().any(|text| text.contains(SECRET)), "{kept:?}");
    }

    fn what_is_taken_ahead_is_within_max_events(site: &Site) {
        let web = Web::start(|_| Reply::plain("204 No Content", ""));
        site.config(&hook(&web, "concurrency = 2")).init();
        post_many(site, 300);
        let run = site.punctual(["run", "--json", "--max-events", "200"]).ok().json();
        assert_eq!((&run["stop"], &run["fired"]), (&"max_events".into(), &200.into()), "{run}");
        assert_eq!((&run["done"], &run["released"]), (&200.into(), &0.into()), "{run}");
        assert_eq!(web.asked().len(), 200);
    }

    fn what_is_taken_ahead_does_not_begin_behind_an_open_breaker(site: &Site) {
        let web = Web::start(|asked| match asked.header("punctual-event-id").parse() {
            Ok(1..=100) => Reply::plain("204 No Content", ""),
            _ => Reply::plain("500 Internal Server Error", ""),
        });
        site.config(&hook(&web, "concurrency = 1\nbreaker = 3")).init();
        post_many(site, 300);
        let run = site.punctual(["run", "--json"]).ok().json();
        assert_eq!((&run["fired"], &run["done"]), (&103.into(), &100.into()), "{run}");
        assert_eq!(web.asked().len(), 103);
        let ready = "SELECT COUNT(*) FROM scheduled_events WHERE status = 'ready'";
        assert_eq!(site.query_i64(ready), 200);
    }

    fn what_is_taken_ahead_is_given_back_by_a_run_that_is_stopped(site: &Site) {
        let web = Web::start(|_| Reply::plain("204 No Content", ""));
        site.config(&hook(&web, "concurrency = 2")).init();
        post_many(site, 3000);
        let run = site.spawn(["run", "--json"]);
        eventually("it is well under way", || web.asked().len() > 100);
        run.signal(Signal::TERM);
        let run = site.finish(run).json();
        let (asked, done) = (web.asked().len(), history(site).len());
        assert_eq!((&run["fired"], done), (&asked.into(), asked), "{run}");
        let ready = "SELECT COUNT(*) FROM scheduled_events WHERE status = 'ready'";
        assert_eq!(site.query_i64(ready), i64::try_from(3000 - asked).expect("a few"));
    }
}

const DUE_AGAIN: &str = "UPDATE scheduled_events SET due_at = 10";

fn hook(web: &Web, more: &str) -> String {
    let url = web.url("/hook");
    format!("[type.hook]\nhandler = \"http\"\nurl = \"{url}\"\n{more}\n")
}

fn post(site: &Site, due: i64, payload: &str) {
    site.sql(&format!(
        "INSERT INTO scheduled_events (type, due_at, payload) VALUES ('hook', {due}, '{payload}')"
    ));
}

fn post_many(site: &Site, count: usize) {
    let rows: Vec<String> = (1..=count)
        .map(|due| format!("('hook', {due}, '{{}}')"))
        .collect();
    site.sql(&format!(
        "INSERT INTO scheduled_events (type, due_at, payload) VALUES {}",
        rows.join(",")
    ));
}

fn history(site: &Site) -> Vec<Vec<String>> {
    site.rows("SELECT event_id, outcome, attempts, error FROM event_history ORDER BY event_id")
}

fn last_error(site: &Site) -> String {
    site.rows("SELECT last_error FROM scheduled_events")
        .remove(0)
        .remove(0)
}

/// Install id, event id, first due time (DESIGN §6).
fn key_of(site: &Site, id: i64, first_due: i64) -> String {
    let install = site.rows("SELECT value FROM punctual_meta WHERE name = 'install_id'");
    format!("{}-{id}-{first_due}", install[0][0])
}

/// What `ps axewww` reads: every process's command line, and where it may, its environment.
fn shown_by_ps() -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir("/proc")
        .expect("Linux")
        .map_while(Result::ok)
    {
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(Path::new(&entry.path()).join(file)).unwrap_or_default();
            lines.push(String::from_utf8_lossy(&text).replace('\0', " "));
        }
    }
    lines
}
