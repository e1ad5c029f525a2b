use super::*;
use crate::cmd::fixture::Fixture;
use crate::error::exit_of;

fn show(at: &Fixture, id: i64) -> String {
    main(&at.context, &ShowArgs { id }).unwrap();
    at.said()
}

fn now(at: &Fixture) -> i64 {
    at.store().now().unwrap().0
}

#[test]
fn an_event_that_is_not_there_is_bad_input() {
    let at = Fixture::new();
    let error = main(&at.context, &ShowArgs { id: 5 }).unwrap_err();
    assert_eq!(exit_of(&error), Exit::Data);
}

#[test]
fn a_waiting_event_says_what_it_waits_for() {
    let at = Fixture::with_types(&["mail"]);
    at.insert("mail", now(&at) + 7300);
    let said = show(&at, 1);
    assert!(
        said.contains("It is not due before 20") && said.contains("(in 2h "),
        "{said}"
    );
    at.exec("UPDATE scheduled_events SET attempts = 2, last_error = 'no route\nto host'");
    let said = show(&at, 1);
    assert!(said.contains("It was tried 2 times and waits"), "{said}");
    assert!(said.contains(r"Last: no route\nto host"), "{said}");
}

#[test]
fn a_due_event_says_what_holds_it_up() {
    let at = Fixture::with_types(&["mail"]);
    at.insert("mail", now(&at) - 10);
    at.insert("mial", now(&at) - 10);
    assert!(show(&at, 1).contains("No run has looked yet"));
    let tick = at.store().now().unwrap();
    at.store().stamp_tick(tick).unwrap();
    assert!(show(&at, 1).contains("The next run takes it."));
    at.store()
        .write_pause("mail", Some(UnixSeconds::MAX))
        .unwrap();
    assert!(show(&at, 1).contains("Its type is paused until it is resumed"));
    let said = show(&at, 2);
    assert!(
        said.contains("no [type.mial]; did you mean `mail`?"),
        "{said}"
    );
}

#[test]
fn an_event_that_will_not_be_fired_says_what_becomes_of_it() {
    let types = "[type.mail]\nhandler = \"command\"\ncommand = [\"true\"]\n\
                 max_late = \"1h\"\nlate = \"skip\"\n";
    let at = Fixture::with_config(types);
    at.insert("mail", now(&at) - 7200);
    let said = show(&at, 1);
    assert!(said.contains("It will not be fired (72"), "{said}");
    assert!(
        said.contains("max_late is 3600 s): the next run records it as skipped."),
        "{said}"
    );
    at.exec("UPDATE scheduled_events SET attempts = 1, first_due_at = due_at");
    assert!(
        !show(&at, 1).contains("will not be fired"),
        "retries are never too late"
    );
    at.exec("UPDATE scheduled_events SET expires_at = 2000");
    let said = show(&at, 1);
    assert!(
        said.contains("(expired): the next run records it as dead."),
        "{said}"
    );
    at.exec("UPDATE scheduled_events SET attempts = 0, due_at = 4000000000");
    let said = show(&at, 1);
    assert!(
        said.contains("(expired): once it is due, a run records it as skipped."),
        "{said}"
    );
    let at = Fixture::with_config(&types.replace("skip", "fire"));
    at.insert("mail", now(&at) - 7200);
    let said = show(&at, 1);
    assert!(
        said.contains("It is later than max_late, and is fired all the same."),
        "{said}"
    );
}

#[test]
fn a_running_event_names_its_run() {
    let at = Fixture::with_types(&["mail"]);
    at.insert("mail", 100);
    at.exec("UPDATE scheduled_events SET status = 'running', claim_epoch = 9");
    assert!(show(&at, 1).contains("no run is known to have claimed it"));
    at.exec(
        "INSERT INTO event_runs (epoch, host, pid, lock_id, started_at, cutoff) \
         VALUES (9, 'web1', 77, '', 100, 100)",
    );
    assert!(show(&at, 1).contains("claimed by run 1 on web1 (pid 77), which is not at work"));
    let beat = now(&at);
    at.exec(&format!(
        "UPDATE event_lease SET holder = 'x', epoch = 9, run_id = 1, host = 'web1', pid = 77, \
         beat_at = {beat}, ttl = 60"
    ));
    assert!(show(&at, 1).contains("Run 1 on web1 (pid 77) is dealing with it"));
}

#[test]
fn a_finished_event_shows_its_whole_trail() {
    let mut at = Fixture::with_types(&["mail"]);
    at.exec(
        "INSERT INTO event_history (event_id, type, due_at, payload, priority, attempts, \
         losses, deferrals, outcome, finished_at, run_id, lateness_s, duration_ms, error) \
         VALUES (7, 'mail', 200, 'hello', 0, 6, 0, 0, 'dead', 300, 4, 20, 15, 'exit 1')",
    );
    at.exec(
        "INSERT INTO event_log (logged_at, run_id, event_id, type, decision, detail) VALUES \
         (250, 3, 7, 'mail', 'retry', 'next at 280: exit 1'), \
         (300, 4, 7, 'mail', 'dead', 'exit 1')",
    );
    let said = show(&at, 7);
    assert!(said.contains("given up at 1970-01-01 00:05:00 UTC after 6 failed tries: exit 1"));
    let trail: Vec<&str> = said.split("trail:\n").nth(1).unwrap().lines().collect();
    assert_eq!(
        trail,
        [
            "  1970-01-01 00:04:10 UTC  run 3  retry: next at 280: exit 1",
            "  1970-01-01 00:05:00 UTC  run 4  dead, 20s late, took 15 ms: exit 1",
        ]
    );
    at.context.json = true;
    let json: Json = serde_json::from_str(&show(&at, 7)).unwrap();
    assert_eq!(json["status"], "finished");
    assert_eq!(json["history"][0]["duration_ms"], 15);
    assert_eq!(json["log"].as_array().unwrap().len(), 2);
}
