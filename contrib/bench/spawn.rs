//! One process an event.

use std::process::Command;
use std::thread;

use crate::support::measure::{interleaved, seconds};
use crate::support::place::{Kind, Place};
use crate::support::row::{Reach, Row, Unit};
use crate::{Scale, Subject};

pub(crate) const SUBJECT: Subject = Subject {
    name: "spawn",
    title: "One process an event",
    about: "Events a second of a type `command` that runs `/bin/true` once an event, claims and \
            records included, beside the *spawn limit*: `std::process::Command` (`posix_spawn`) \
            and wait, nothing piped, nothing recorded.",
    measure,
};

const TRUE: &str = "/bin/true";

fn measure(scale: &Scale) -> Vec<Row> {
    let count = scale.of(4_000, 200);
    let mut found = Vec::new();
    for kind in [Kind::Wal, Kind::Mariadb] {
        for (name, at_once) in [("one by one", 1), ("four at a time", 4)] {
            let types = format!(
                "[type.each]\nhandler = \"command\"\ncommand = [\"{TRUE}\"]\n\
                 concurrency = {at_once}\n"
            );
            let place = Place::new(kind, &types);
            let rate = |seconds: f64| count as f64 / seconds;
            let [events, limit] = interleaved(
                scale.rounds,
                &mut [
                    &mut || {
                        place.backlog("each", count);
                        rate(place.drain(count))
                    },
                    &mut || rate(seconds(|| spawn(count, at_once))),
                ],
            );
            let what = format!("{count} events, {name}");
            let key = format!("spawn-{at_once}");
            found.push(
                Row::new(&key, Some(kind), what, Unit::PerSecond, events)
                    .beside("", limit)
                    .reach(Reach::AtLeast(0.85)),
            );
        }
    }
    found
}

/// Starts `count` processes, `at_once` at a time, and waits for each.
fn spawn(count: u64, at_once: u64) {
    let some = || {
        for _ in 0..count / at_once {
            let status = Command::new(TRUE).status().expect("a program");
            assert!(status.success());
        }
    };
    thread::scope(|scope| {
        for _ in 1..at_once {
            scope.spawn(some);
        }
        some();
    });
}
