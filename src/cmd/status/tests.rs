use serde_json::{Value as Json, json};

use super::*;
use crate::clock::Clock;
use crate::cmd::fixture::Fixture;
use crate::lock::{Asked, FileLock};

fn status(at: &mut Fixture) -> Json {
    at.context.json = true;
    main(&at.context).unwrap();
    at.context.json = false;
    serde_json::from_str(&at.said()).unwrap()
}

#[test]
fn an_empty_database_has_every_key_of_the_contract_in_order() {
    let mut at = Fixture::with_types(&["mail"]);
    assert_eq!(
        status(&mut at).to_string(),
        r#"{"ready":0,"due":0,"running":0,"oldest_due_at":null,"lag_s":0,"unresolved_dead":0,"unresolved_unknown":0,"done_24h":0,"skipped_24h":0,"steps_aside":0,"last_tick_at":null,"last_run":null,"running_by":null,"types":{"mail":{"ready":0,"due":0,"running":0,"oldest_due_at":null,"lag_s":0,"handler":"command","paused_until":null,"breaker_open_until":null,"failures":0,"sweeping":0}}}"#
    );
}

#[test]
fn the_backlog_is_counted_by_type() {
    let mut at = Fixture::with_types(&["mail"]);
    let now = at.store().now().unwrap().0;
    for (name, due) in [("mail", now - 50), ("mail", now - 10), ("other", now + 500)] {
        at.insert(name, due);
    }
    at.insert("mail", now - 99);
    at.exec("UPDATE scheduled_events SET status = 'running' WHERE id = 4");
    at.store()
        .write_pause("mail", Some(UnixSeconds::MAX))
        .unwrap();
    let found = status(&mut at);
    assert_eq!(
        [&found["ready"], &found["due"], &found["running"]],
        [3, 2, 1]
    );
    assert_eq!(found["oldest_due_at"], now - 50);
    assert!((50..60).contains(&found["lag_s"].as_i64().unwrap()));
    assert_eq!(found["types"]["mail"]["paused_until"], UnixSeconds::MAX.0);
    assert_eq!(found["types"]["other"]["handler"], Json::Null);
    assert_eq!(found["types"]["other"]["due"], 0);
    main(&at.context).unwrap();
    let said = at.said();
    assert!(said.contains("3 events ready (2 due for up to 5"), "{said}");
    assert!(said.contains("no run has looked yet"), "{said}");
    assert!(
        said.contains("no handler") && said.contains("paused"),
        "{said}"
    );
}

#[test]
fn steps_aside_are_added_up_once_each() {
    let mut at = Fixture::new();
    let path = lock::lock_path(&at.context.config).unwrap();
    lock::count_aside(&path).unwrap();
    lock::count_aside(&path).unwrap();
    assert_eq!(status(&mut at)["steps_aside"], 2);
    let id = lock::identity_at(&path).unwrap();
    at.store()
        .record_asides("host", &id, 2, UnixSeconds(5))
        .unwrap();
    at.store().count_aside("elsewhere", UnixSeconds(5)).unwrap();
    lock::count_aside(&path).unwrap();
    assert_eq!(status(&mut at)["steps_aside"], 4);
}

#[test]
fn the_lock_is_known_by_the_same_name_with_and_without_taking_it() {
    let at = Fixture::new();
    let path = lock::lock_path(&at.context.config).unwrap();
    let Asked::Held(held) = FileLock::ask(&path, Clock::system().now(), false).unwrap() else {
        panic!("nobody else has it");
    };
    assert_eq!(lock::identity_at(&path).unwrap(), held.identity().as_str());
}

#[test]
fn a_live_holder_is_named_and_a_dead_one_is_not() {
    let mut at = Fixture::new();
    let now = at.store().now().unwrap().0;
    let path = lock::lock_path(&at.context.config).unwrap();
    let Asked::Held(held) = FileLock::ask(&path, UnixSeconds(now), false).unwrap() else {
        panic!("nobody else has it");
    };
    let lock_id = held.identity().as_str().to_owned();
    at.exec(
        "INSERT INTO event_runs (epoch, host, pid, lock_id, started_at, cutoff, wave_type, \
         wave_first_id, wave_last_id, wave_events) VALUES (3, 'h', 1, '', 77, 0, 'mail', 5, 9, 4)",
    );
    let lease = |at: &Fixture, pid: u32, lock_id: &str, beat: i64| {
        at.exec(&format!(
            "UPDATE event_lease SET holder = 'x', epoch = 3, run_id = 1, host = 'h', \
             pid = {pid}, lock_id = '{lock_id}', beat_at = {beat}, ttl = 60"
        ));
    };
    let me = std::process::id();
    lease(&at, me, &lock_id, now);
    let holder = json!({"run_id": 1, "epoch": 3, "host": "h", "pid": me, "started_at": 77});
    assert_eq!(status(&mut at)["running_by"], holder);
    main(&at.context).unwrap();
    assert!(at.said().contains("in hand: 4 events of mail, ids 5 to 9"));
    lease(&at, me + 1, &lock_id, now);
    assert_eq!(status(&mut at)["running_by"], Json::Null);
    lease(&at, me + 1, "elsewhere", now);
    assert_eq!(status(&mut at)["running_by"]["pid"], me + 1);
    lease(&at, me, &lock_id, now - 61);
    assert_eq!(status(&mut at)["running_by"], Json::Null);
}
