//! What is told about schedules ahead of time.

use super::super::lint::{Change, Fate, Findings, Minutes, lint};
use super::*;

const AFTER: &str = "2026-11-22T00:00:00Z";

fn found<'n>(schedules: &[(&'n str, &Recurrence)]) -> Findings<'n> {
    lint(schedules, at(AFTER))
}

fn local(text: &str) -> chrono::NaiveDateTime {
    text.parse().unwrap()
}

#[test]
fn times_that_do_not_exist_or_come_twice_are_named_with_what_becomes_of_them() {
    let fixed = cron("30 2 * * *", "Europe/Amsterdam");
    let quarters = cron("*/15 * * * *", "Europe/Amsterdam");
    let aside = cron("30 4 * * *", "Europe/Amsterdam");
    let weekdays = cron("30 2 * * mon-fri", "Europe/Amsterdam");
    let interval = every(3600, 0);
    let schedules = [
        ("fixed", &fixed),
        ("quarters", &quarters),
        ("aside", &aside),
        ("weekdays", &weekdays),
        ("interval", &interval),
    ];
    let changes = found(&schedules).changes;
    // Twice a year each.
    assert_eq!(changes.len(), 20);
    let (forward, back) = (at("2027-03-28T01:00:00Z"), at("2027-10-31T01:00:00Z"));
    let change = |name, at, text, times, fate| Change {
        name,
        at,
        local: local(text),
        times,
        fate,
    };
    assert_eq!(
        changes[0],
        change("fixed", forward, "2027-03-28T02:30:00", 1, Fate::Late)
    );
    assert_eq!(
        changes[1],
        change("fixed", back, "2027-10-31T02:30:00", 1, Fate::Once)
    );
    assert_eq!(
        changes[10],
        change("quarters", forward, "2027-03-28T02:00:00", 4, Fate::Skipped)
    );
    assert_eq!(
        changes[11],
        change("quarters", back, "2027-10-31T02:00:00", 4, Fate::Twice)
    );
}

#[test]
fn schedules_that_fall_together_are_named_once_with_how_often() {
    let six = cron("0 6 * * *", "UTC");
    let monday = cron("0 6 * * mon", "UTC");
    let other = cron("5 6 * * *", "UTC");
    let first = cron("0 6 1 1 *", "UTC");
    let found = found(&[
        ("six", &six),
        ("monday", &monday),
        ("other", &other),
        ("first", &first),
    ]);
    let minutes = |names: &[&'static str], first, minutes| Minutes {
        names: names.to_vec(),
        first: at(first),
        minutes,
        slots: names.len() as u64,
    };
    assert_eq!(
        found.collisions,
        [
            minutes(&["six", "monday"], "2026-11-23T06:00:00Z", 260),
            minutes(&["six", "first"], "2027-01-01T06:00:00Z", 4),
            // A Monday.
            minutes(&["six", "monday", "first"], "2029-01-01T06:00:00Z", 1),
        ]
    );
    assert_eq!(found.busiest.len(), 5);
    assert_eq!(found.busiest[0], found.collisions[2]);
    assert_eq!(found.busiest[1], found.collisions[0]);
    assert_eq!(found.busiest[3].names, ["six"]);
    assert!(found.changes.is_empty() && found.silent.is_empty());
}

#[test]
fn the_busiest_minutes_are_those_with_the_most_slots() {
    let seconds = every(7, 0).between(UnixSeconds(0), at("2026-11-22T01:00:00Z"));
    let hours = cron("30 * * * *", "UTC");
    let found = found(&[("seconds", &seconds), ("hours", &hours)]);
    assert_eq!(found.busiest[0].names, ["seconds", "hours"]);
    assert_eq!((found.busiest[0].minutes, found.busiest[0].slots), (1, 10));
    assert_eq!(found.busiest[1].names, ["seconds"]);
    assert_eq!((found.busiest[1].minutes, found.busiest[1].slots), (59, 9));
    assert_eq!(found.busiest[2].names, ["hours"]);
    assert_eq!(found.busiest[2].slots, 1);
}

#[test]
fn a_schedule_without_slots_in_these_years_is_named() {
    let past = cron("0 6 * * *", "UTC").between(UnixSeconds(0), at("2026-01-01T00:00:00Z"));
    let rare = cron("0 6 29 2 *", "UTC").between(at("2030-01-01T00:00:00Z"), UnixSeconds::MAX);
    let daily = cron("0 6 * * *", "UTC");
    let found = found(&[("past", &past), ("daily", &daily), ("rare", &rare)]);
    assert_eq!(found.silent, ["past", "rare"]);
}

#[test]
fn nothing_is_found_where_nothing_is() {
    assert_eq!(found(&[]), Findings::default());
}

#[test]
fn the_busiest_schedules_there_can_be_are_looked_through_in_seconds() {
    let (each_minute, each_second) = (cron("* * * * *", "Europe/Amsterdam"), every(1, 0));
    let found = found(&[("minutes", &each_minute), ("seconds", &each_second)]);
    assert_eq!(found.collisions.len(), 1);
    assert_eq!(found.collisions[0].slots, 61);
    assert_eq!(found.collisions[0].minutes, 5 * 8766 * 60);
}
