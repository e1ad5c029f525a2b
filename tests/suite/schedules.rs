//! `schedules`: rules by which things happen again, from the command line.

use punctual::clock::Clock;
use serde::Deserialize;
use serde_json::json;

use crate::support::process::{Ended, Running};
use crate::support::site::Site;

#[derive(Deserialize)]
struct Vector {
    cron: String,
    timezone: String,
    after: i64,
    slots: Vec<i64>,
}

/// `punctual schedules next` where there is no configuration, no database, and no environment.
#[track_caller]
fn next_of_nothing(site: &Site, words: &[&str]) -> Ended {
    let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
    command.env_clear().current_dir(site.path("home"));
    command.args(["schedules", "next"]).args(words);
    site.finish(Running::start(command, b""))
}

#[test]
fn next_prints_the_slots_of_the_vectors_and_nothing_else() {
    let site = Site::sqlite();
    let file = include_str!("../vectors/cron_slots.json");
    let vectors: Vec<Vector> = serde_json::from_str(file).expect("vectors");
    for vector in vectors {
        let (after, count) = (format!("@{}", vector.after), vector.slots.len().to_string());
        let words = [
            "--cron",
            &vector.cron,
            "--tz",
            &vector.timezone,
            "--after",
            &after,
            "--count",
            &count,
            "--json",
        ];
        let slots = next_of_nothing(&site, &words).ok();
        let lines = vector
            .slots
            .iter()
            .map(|slot| format!("{{\"slot\":{slot}}}\n"));
        assert_eq!(slots.stdout, lines.collect::<String>(), "{}", vector.cron);
    }
    assert!(!site.path("events.db").exists());
    let home = std::fs::read_dir(site.path("home")).expect("a directory");
    assert_eq!(home.count(), 0);
}

#[test]
fn next_shows_people_local_times_with_their_zone() {
    let site = Site::sqlite();
    let words = [
        "--cron",
        "0,30 2 * * *",
        "--tz",
        "Europe/Amsterdam",
        "--after",
        "2026-10-25",
        "--count",
        "4",
    ];
    let shown = next_of_nothing(&site, &words).ok().stdout;
    let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
    assert_eq!(
        lines,
        [
            "slot (Europe/Amsterdam)   Unix seconds",
            "2026-10-25 02:00:00 CEST  1792886400",
            "2026-10-25 02:30:00 CEST  1792888200",
            "2026-10-25 02:00:00 CET   1792890000",
            "2026-10-25 02:30:00 CET   1792891800",
        ]
    );
}

#[test]
fn next_takes_the_configured_zone_and_begins_now() {
    let site = Site::sqlite();
    site.config("timezone = \"Asia/Kathmandu\"");
    let slots = |ended: Ended| {
        let lines = ended.ok().json_lines();
        let slots = lines
            .iter()
            .map(|line| line["slot"].as_i64().expect("a slot"));
        slots.collect::<Vec<i64>>()
    };
    let words = [
        "schedules",
        "next",
        "--json",
        "--cron",
        "@daily",
        "--after",
        "2026-11-22 00:00",
    ];
    assert_eq!(
        slots(site.punctual(words))[..2],
        [1_795_371_300, 1_795_457_700]
    );
    let started = Clock::system().now().0;
    let soon = slots(site.punctual(["schedules", "next", "--json", "--cron", "* * * * *"]));
    let ended = Clock::system().now().0;
    assert_eq!(soon.len(), 10);
    assert!((started + 1..=ended + 60).contains(&soon[0]), "{soon:?}");
}

#[test]
fn next_counts_intervals_from_their_anchor_on() {
    let site = Site::sqlite();
    let words = [
        "--every",
        "6h",
        "--anchor",
        "@1795316400",
        "--after",
        "@1795316400",
        "--json",
    ];
    let slots = next_of_nothing(&site, &[&words[..], &["--count", "2"]].concat()).ok();
    let wanted = [
        json!({"slot": 1_795_338_000}),
        json!({"slot": 1_795_359_600}),
    ];
    assert_eq!(slots.json_lines(), wanted);
}

#[test]
fn slots_that_end_are_no_error() {
    let site = Site::sqlite();
    let words = ["--cron", "0 0 1 1 *", "--tz", "UTC", "--after"];
    let few = next_of_nothing(&site, &[&words[..], &["2997-06-01", "--json"]].concat()).ok();
    assert_eq!(few.json_lines().len(), 3);
    let none = next_of_nothing(&site, &[&words[..], &["3000-01-01", "--json"]].concat()).ok();
    assert_eq!(none.stdout, "");
    let none = next_of_nothing(&site, &[&words[..], &["3000-01-01"]].concat()).ok();
    assert_eq!(none.stdout, "no slots\n");
}
