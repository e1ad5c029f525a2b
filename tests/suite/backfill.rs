//! Backfills: a plan writes nothing, what is applied is what was planned, nothing is made twice
//! whoever is killed or at work beside it, and today's events go first.

use punctual::clock::Clock;
use serde_json::Value;

use again::{ended, left_out};

use crate::bad_input::{refused, unchanged};
use crate::recurring::{MONDAY, at, command_at, run_at};
use crate::support::process::{Ended, Running, eventually};
use crate::support::site::Site;

mod again;
mod kills;
mod sources;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

const TYPES: &str = "[type.note]\nhandler = \"sql\"\n\
    sql = \"INSERT INTO seen (id, slot, slots) VALUES (:id, :slot, :slots)\"\n\
    [type.other]\nhandler = \"sql\"\n\
    sql = \"INSERT INTO seen (id, slot, slots) VALUES (:id, :slot, :slots)\"\n";
const HOURLY: &str = "[schedule.hourly]\ncron = \"0 * * * *\"\ntype = \"note\"\n\
    missed = \"skip\"\npayload = \"p\"\n";

fn set_up(site: &Site, schedules: &str) {
    site.config(&format!("timezone = \"UTC\"\n{TYPES}{schedules}"))
        .init();
    site.sql("CREATE TABLE seen (id BIGINT, slot BIGINT, slots BIGINT)");
}

/// So many days after the Monday, and half an hour.
fn half_past(day: i64) -> i64 {
    MONDAY + day * DAY + HOUR / 2
}

/// `[schedule.hourly]`, whose slots of 20 days were let go, all but the last.
fn away_for_20_days(site: &Site) {
    set_up(site, HOURLY);
    run_at(site, half_past(0));
    run_at(site, half_past(20) - HOUR / 2 + 60);
    assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_slots"), 1);
    site.alone();
}

/// The words of a backfill of those 20 days.
const THESE: [&str; 9] = [
    "backfill",
    "slots",
    "hourly",
    "--from",
    "@1803859200",
    "--to",
    "@1805587200",
    "--rate",
    "10/s",
];
/// How many slots that are: all but the last, which became an event.
const THOSE: i64 = 480;

fn plan_at(site: &Site, instant: i64, words: &[&str]) -> Value {
    at(site, instant, &[words, &["--json"]].concat())
        .ok()
        .json()
}

/// What `words` with `--apply` and their plan come to.
fn applied(site: &Site, instant: i64, words: &[&str]) -> Ended {
    let plan = plan_at(site, instant, words);
    let plan = plan["plan"].as_str().expect("a plan").to_owned();
    at(
        site,
        instant,
        &[words, &["--apply", "--plan", &plan]].concat(),
    )
}

fn numbers(site: &Site, query: &str) -> Vec<i64> {
    let rows = site.rows(query).concat();
    rows.iter()
        .map(|text| text.parse().expect("a number"))
        .collect()
}

const AGAIN: [&str; 8] = [
    "backfill",
    "again",
    "--from",
    "@1803859200",
    "--to",
    "@1803947000",
    "--rate",
    "1/s",
];

on_both_databases! {
    fn a_plan_says_what_would_be_made_and_writes_nothing(site: &Site) {
        away_for_20_days(site);
        let now = half_past(21);
        let mut json = Value::Null;
        for words in [&[&THESE[..], &["--json"]].concat()[..], &THESE] {
            let said = unchanged(site, || quietly_at(site, now, words)).ok();
            if words.len() > THESE.len() {
                json = said.json();
                continue;
            }
            let text = &said.stdout;
            for part in ["480 events at 10/s: 48s", "left out: 1 (became events)", "day (UTC)",
                "2027-03-02  24", "--apply --plan 480-"] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        assert_eq!(json["events"], THOSE);
        let days = json["days"].as_array().expect("days");
        assert_eq!(days.len(), 20);
        assert_eq!(days[0]["day"], "2027-03-01");
        assert_eq!((&days[0]["events"], &days[1]["events"]), (&24.into(), &24.into()));
        let span = json["last_due_at"].as_i64().zip(json["first_due_at"].as_i64());
        assert_eq!(span.map(|(last, first)| last - first), Some(48));
    }

    fn what_is_applied_is_what_was_planned_spaced_by_the_rate(site: &Site) {
        away_for_20_days(site);
        let now = half_past(21);
        let said = applied(site, now, &THESE).ok();
        assert!(said.stdout.starts_with("backfill 1 is written"), "{said:?}");
        let columns = "SELECT DISTINCT type, payload, origin, priority, status, slot_at - slot \
                       FROM scheduled_events JOIN event_slots ON made_id = id";
        assert_eq!(site.rows(columns), [["note", "p", "backfill:1", "2", "ready", "0"]]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), THOSE);
        let began = site.query_i64("SELECT created_at FROM event_backfills");
        let due = numbers(site, "SELECT due_at FROM scheduled_events ORDER BY slot_at");
        let turns: Vec<i64> = (0..THOSE).map(|number| began + (number + 9) / 10).collect();
        assert_eq!(due, turns, "the oldest slot first, ten a second, never before its turn");
        let row = site.rows("SELECT planned, written, finished_at > 0 FROM event_backfills");
        assert_eq!(row, [["480", "480", "1"]]);
        // A run takes what is due, and not more; the next the rest.
        site.sql("DELETE FROM seen");
        run_at(site, began + 20);
        let seen = site.query_i64("SELECT COUNT(*) FROM seen");
        assert!((201..THOSE).contains(&seen), "{seen}");
        run_at(site, began + HOUR / 4);
        assert_eq!(site.query_i64("SELECT COUNT(DISTINCT slot) FROM seen WHERE slots = 1"), THOSE);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM seen"), THOSE);
        let shown = at(site, now, &["backfill", "show", "1", "--json"]).ok().json();
        assert_eq!((&shown["ended"]["done"], shown["live"].as_object().map(serde_json::Map::len)),
            (&THOSE.into(), Some(0)));
        let listed = at(site, now, &["backfill", "list"]).ok().stdout;
        assert!(listed.contains("1   slots  written  480      480      10/s"), "{listed}");
    }

    fn a_slot_that_became_an_event_is_never_made_again(site: &Site) {
        away_for_20_days(site);
        let now = half_past(21);
        let limited = [&THESE[..], &["--limit", "100"]].concat();
        applied(site, now, &limited).ok();
        let oldest = numbers(site, "SELECT slot_at FROM scheduled_events ORDER BY due_at, id");
        let first: Vec<i64> = (0..100).map(|hour| MONDAY + hour * HOUR).collect();
        assert_eq!(oldest, first, "the oldest first");
        assert_eq!(plan_at(site, now, &THESE)["events"], THOSE - 100);
        applied(site, now, &THESE).ok();
        let plan = plan_at(site, now, &THESE);
        assert_eq!((&plan["events"], &plan["plan"]), (&0.into(), &Value::Null));
        assert_eq!(left_out(&plan)["became events"], THOSE + 1);
        // Nor by a run: not even where a schedule of that name begins anew in the past.
        site.sql("UPDATE event_schedules SET last_slot = 1803859200");
        site.sql("REPLACE INTO event_next (kind, name, slot) \
                  VALUES ('schedule', 'hourly', 1803862800)");
        let all = HOURLY.replace("skip", "all").replace("\"p\"", "\"p\"\nmissed_max = 10000");
        site.config(&format!("timezone = \"UTC\"\n{TYPES}{all}"));
        run_at(site, half_past(20));
        let twice = "SELECT COUNT(*) - COUNT(DISTINCT slot) FROM event_slots";
        assert_eq!(site.query_i64(twice), 0);
        let made = "SELECT COUNT(*) FROM event_slots WHERE slot <= 1805587200";
        assert_eq!(site.query_i64(made), THOSE + 1);
        // And it is remembered for as long as what became of it.
        run_at(site, now + HOUR);
        at(site, now + 20 * DAY, &["prune"]).ok();
        assert_eq!(site.query_i64(made), THOSE + 1);
        at(site, now + 40 * DAY, &["prune"]).ok();
        assert_eq!(site.query_i64(made), 0);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_backfills"), 2);
    }

    fn slots_that_are_yet_to_come_to_a_run_are_left_to_it(site: &Site) {
        set_up(site, HOURLY);
        run_at(site, half_past(0));
        site.alone();
        let words = ["backfill", "slots", "--type", "note", "--from", "@1803859200", "--rate", "9"];
        // Nobody has come since but for the first: what becomes of the others is a run's to say.
        let plan = plan_at(site, half_past(2), &words);
        assert_eq!(plan["events"], 1, "{plan}");
        assert!(plan["notes"][0].as_str().is_some_and(|note| note.contains("the next run's")));
        run_at(site, half_past(2));
        assert_eq!(plan_at(site, half_past(2), &words)["events"], 49);
    }

    fn a_plan_that_does_not_fit_any_more_is_refused_and_says_why(site: &Site) {
        away_for_20_days(site);
        let now = half_past(21);
        let limited = [&THESE[..], &["--limit", "400"]].concat();
        let plan = plan_at(site, now, &limited)["plan"].as_str().expect("a plan").to_owned();
        let with = |change: &dyn Fn(&mut Vec<String>)| {
            let mut words: Vec<String> = limited.iter().map(|word| (*word).to_owned()).collect();
            words.extend(["--apply".into(), "--plan".into(), plan.clone()]);
            change(&mut words);
            words
        };
        let put = |index: usize, text: &'static str| {
            with(&move |words: &mut Vec<String>| text.clone_into(&mut words[index]))
        };
        let forged = plan.replacen("400-", "900-", 1);
        let cases = [
            (put(4, "@1803859201"), "other names, types, outcomes, errors or times"),
            (put(6, "@1805587199"), "other names, types, outcomes, errors or times"),
            (put(8, "11/s"), "another --rate or --limit"),
            (put(10, "401"), "another --rate or --limit"),
            (with(&|words| words[13].clone_from(&forged)), "its numbers are not those"),
            (with(&|words| "yes".clone_into(&mut words[13])), "`yes` is no plan"),
            (with(&|words| words[13].push('0')), "is no plan"),
            (with(&|words| words[13] = plan.replacen('-', "-7-", 1)), "none of `backfill slots`"),
        ];
        for (words, why) in cases {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let ended = unchanged(site, || quietly_at(site, now, &words));
            refused(&ended, 65, &[why]);
        }
        let again = [&limited[..], &["--apply", "--plan", &plan]].concat();
        // A slot that is forgotten to have become an event makes the count grow, but for the limit.
        let whole = plan_at(site, now, &THESE)["plan"].as_str().expect("a plan").to_owned();
        site.sql("DELETE FROM event_slots");
        let grown = at(site, now, &[&THESE[..], &["--apply", "--plan", &whole]].concat());
        refused(&grown, 65, &["481 events", "the plan said 480", "make a new plan"]);
        // A schedule that has changed is another.
        site.config(&format!("timezone = \"UTC\"\n{TYPES}{}", HOURLY.replace("\"p\"", "\"q\"")));
        refused(&at(site, now, &again), 65, &["a schedule has changed"]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_backfills"), 0);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
    }

    fn what_is_wrong_with_a_command_line_is_said_before_anything_is_done(site: &Site) {
        away_for_20_days(site);
        let now = half_past(21);
        let base = ["backfill", "slots", "hourly", "--from"];
        for (words, why) in [
            (&["@1", "--rate", "0"][..], "--rate"),
            (&["@1", "--rate", "5/d"], "write 5/s, 100/m or 2000/h"),
            (&["@1"], "--rate"),
            (&["@1", "--rate", "5", "--apply"], "--plan"),
            (&["@1", "--rate", "5", "--plan", "5-0123456789abcdef"], "--apply"),
            (&["noon", "--rate", "5"], "`noon`"),
            (&["@32000000000", "--rate", "5"], "lies after --to"),
            (&["@1803859200", "--to", "@5", "--rate", "5"], "lies after --to"),
            (&["@1", "--rate", "5", "--limit", "0"], "--limit"),
            (&["@1", "--rate", "5", "--type", "other"], "no schedule fits"),
        ] {
            refused(&at(site, now, &[&base[..], words].concat()), 2, &[why]);
        }
        let hourly = ["backfill", "slots", "houly", "--from", "@1", "--rate", "5"];
        refused(&at(site, now, &hourly), 2, &["`houly`", "`hourly`"]);
        refused(&at(site, now, &["backfill", "show", "7"]), 2, &["there is no backfill 7"]);
        refused(&at(site, now, &["cancel", "--origin", "backfill:7"]), 2, &["no backfill 7"]);
        refused(&at(site, now, &["cancel", "--origin", "backfil:7"]), 2, &["backfill:ID"]);
    }

    fn a_plan_is_applied_once(site: &Site) {
        away_for_20_days(site);
        let now = half_past(21);
        let plan = plan_at(site, now, &THESE);
        let words = [&THESE[..], &["--apply", "--plan", plan["plan"].as_str().expect("a plan")]]
            .concat();
        at(site, now, &words).ok();
        for _ in 0..2 {
            let said = at(site, now, &words).ok();
            assert!(said.stdout.starts_with("already applied as backfill 1"), "{said:?}");
        }
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), THOSE);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_backfills"), 1);
        let other = at(site, now, &[&words[..], &["--limit", "5"]].concat());
        refused(&other, 65, &["it was applied as backfill 1", "another selection"]);
    }

    fn killed_at_any_step_of_writing_it_goes_on_where_it_stopped(site: &Site) {
        away_for_20_days(site);
        for id in 1..=300 {
            ended(site, id + 10_000, "dead", id, &format!("k{id}"), "");
        }
        let now = half_past(21);
        for (number, words) in (1..).zip([&THESE[..], &AGAIN]) {
            let plan = plan_at(site, now, words);
            let words = [words, &["--apply", "--plan", plan["plan"].as_str().expect("a plan")]];
            let words = words.concat();
            for point in ["backfill.commit", "backfill.committed", "backfill.commit:2"] {
                let mut command = command_at(site, now, &words);
                command.env("PUNCTUAL_FAULT_POINT", point);
                let killed = site.finish(Running::start(command, b""));
                assert_eq!(killed.code, 137, "{point}: {killed:?}");
                site.alone();
            }
            // What is written of it fires meanwhile.
            run_at(site, now + 60);
            site.alone();
            at(site, now, &words).ok();
            let row = format!("SELECT planned - written, finished_at > 0 FROM event_backfills \
                WHERE backfill_id = {number}");
            assert_eq!(site.rows(&row), [["0", "1"]]);
        }
        run_at(site, now + HOUR / 4);
        let twice = "SELECT COUNT(*), COUNT(DISTINCT id) FROM seen";
        let all = (THOSE + 1 + 300).to_string();
        assert_eq!(site.rows(twice), [[all.clone(), all]]);
        let slots = "SELECT COUNT(DISTINCT slot) FROM seen WHERE slot > 0";
        assert_eq!(site.query_i64(slots), THOSE + 1);
    }

    fn of_two_that_write_at_once_one_leaves_it_to_the_other(site: &Site) {
        away_for_20_days(site);
        let now = half_past(21);
        let plan = plan_at(site, now, &THESE);
        let words = [&THESE[..], &["--apply", "--plan", plan["plan"].as_str().expect("a plan")]]
            .concat();
        let first = held(site, now, &words);
        at(site, now, &words).ok();
        let first = go_on(site, first);
        refused(&first, 75, &["is being written by another process"]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), THOSE);
        assert_eq!(site.query_i64("SELECT written FROM event_backfills"), THOSE);
    }

    fn it_is_cancelled_as_a_whole_also_while_it_is_being_written(site: &Site) {
        away_for_20_days(site);
        let now = half_past(21);
        site.sql("INSERT INTO scheduled_events (type, due_at) VALUES ('note', 32000000000)");
        let plan = plan_at(site, now, &THESE);
        let words = [&THESE[..], &["--apply", "--plan", plan["plan"].as_str().expect("a plan")]]
            .concat();
        let writing = held(site, now, &words);
        let listed = at(site, now, &["list", "--origin", "backfill:1", "--json"]).ok();
        let written = listed.json_lines().len();
        assert!(written >= 50, "{written}");
        let cancelled = at(site, now, &["cancel", "--origin", "backfill:1"]).ok();
        assert_eq!(cancelled.stdout, format!("cancelled {written} events\n"));
        refused(&go_on(site, writing), 65, &["was cancelled after", "of 480 events"]);
        refused(&at(site, now, &words), 65, &["is cancelled; make a new plan"]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 1);
        let listed = ["list", "--history", "--origin", "backfill:1", "--json"];
        assert_eq!(at(site, now, &listed).ok().json_lines().len(), written);
        // What was not written can be planned anew; what was cancelled is `again`'s.
        let anew = plan_at(site, now, &THESE);
        assert_eq!(anew["events"].as_u64(), Some(480 - written as u64));
        let again = ["backfill", "again", "--outcome", "cancelled", "--from", "@1803859200",
            "--rate", "1/s"];
        assert_eq!(plan_at(site, now, &again)["events"].as_u64(), Some(written as u64));
        assert_eq!(at(site, now, &["cancel", "--origin", "backfill:1"]).ok().stdout,
            "cancelled 0 events\n");
    }

    fn one_that_was_cancelled_before_anything_was_written_can_be_planned_anew(site: &Site) {
        away_for_20_days(site);
        let now = half_past(21);
        let plan = plan_at(site, now, &THESE)["plan"].clone();
        let words = [&THESE[..], &["--apply", "--plan", plan.as_str().expect("a plan")]].concat();
        let mut command = command_at(site, now, &words);
        command.env("PUNCTUAL_FAULT_POINT", "backfill.commit");
        assert_eq!(site.finish(Running::start(command, b"")).code, 137);
        site.alone();
        at(site, now, &["cancel", "--origin", "backfill:1"]).ok();
        let anew = plan_at(site, now, &THESE);
        assert_eq!(anew["events"], THOSE);
        assert_ne!(anew["plan"], plan);
        applied(site, now, &THESE).ok();
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), THOSE);
    }

    fn a_signal_ends_it_between_two_chunks_and_it_goes_on(site: &Site) {
        away_for_20_days(site);
        let now = half_past(21);
        let plan = plan_at(site, now, &THESE);
        let words = [&THESE[..], &["--apply", "--plan", plan["plan"].as_str().expect("a plan")]]
            .concat();
        let writing = held(site, now, &words);
        writing.signal(rustix::process::Signal::TERM);
        refused(&go_on(site, writing), 143, &["is stopped after", "the same command goes on"]);
        let written = site.query_i64("SELECT written FROM event_backfills");
        assert!((1..THOSE).contains(&written), "{written}");
        at(site, now, &words).ok();
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), THOSE);
    }

    fn a_schedule_that_changes_while_it_is_written_ends_it(site: &Site) {
        away_for_20_days(site);
        let now = half_past(21);
        let plan = plan_at(site, now, &THESE);
        let words = [&THESE[..], &["--apply", "--plan", plan["plan"].as_str().expect("a plan")]]
            .concat();
        let writing = held(site, now, &words);
        drop(writing.kill_9());
        site.config(&format!("timezone = \"UTC\"\n{TYPES}{}", HOURLY.replace("0 *", "30 *")));
        let ended = at(site, now, &words);
        refused(&ended, 65, &["a schedule has changed since backfill 1 was begun", "cancel"]);
    }

    fn todays_events_are_fired_before_those_of_a_backfill(site: &Site) {
        away_for_20_days(site);
        let now = half_past(21);
        applied(site, now, &THESE).ok();
        site.sql("DELETE FROM seen");
        let due = now + 120;
        site.sql(&format!("INSERT INTO scheduled_events (id, type, due_at) \
             VALUES (5000, 'note', {due}), (5001, 'other', {due})"));
        site.alone();
        at(site, now + 180, &["run", "--max-events", "10", "--batch-size", "5"]).ok();
        let first = numbers(site, "SELECT id FROM seen");
        assert_eq!(first.len(), 10);
        assert!(first.contains(&5000) && first.contains(&5001), "{first:?}");
    }

}

/// As [`at`], leaving no file where somebody looks whether anything was changed.
fn quietly_at(site: &Site, instant: i64, words: &[&str]) -> Ended {
    let shift = (instant - Clock::system().now().0).to_string();
    site.write("home/clock", &shift);
    let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
    command
        .args(words)
        .env("PUNCTUAL_FAULT_CLOCK", site.path("home/clock"));
    site.finish(Running::start(command, b""))
}

/// Starts `words` and waits until their first chunk is committed.
fn held(site: &Site, instant: i64, words: &[&str]) -> Running {
    let mut command = command_at(site, instant, words);
    command
        .env("PUNCTUAL_FAULT_POINT", "backfill.committed=hold")
        .env("PUNCTUAL_FAULT_HOLD", site.path(""));
    let running = Running::start(command, b"");
    eventually("a chunk is committed", || {
        site.path("backfill.committed:1.held").exists()
    });
    running
}

fn go_on(site: &Site, running: Running) -> Ended {
    site.write("backfill.committed:1.go", "");
    site.finish(running)
}
