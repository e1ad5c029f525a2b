//! Schedules at work: slots become events once each, whatever becomes of the machine, its clock,
//! the configuration and the database between two runs.

use std::process::Command;

use punctual::clock::Clock;
use punctual::fault::POINTS;
use punctual::runner::{Report, Stop};
use serde_json::Value;

use crate::plans::run_recorded;
use crate::support::process::{Ended, Running, eventually};
use crate::support::recorder::Recording;
use crate::support::site::Site;

/// 2027-03-01 00:00 UTC, a Monday.
pub(crate) const MONDAY: i64 = 1_803_859_200;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Each event leaves its slot, the number of slots it stands for, and when it was due.
const NOTE: &str = "[type.note]\nhandler = \"sql\"\n\
    sql = \"INSERT INTO seen (slot, slots, due) VALUES (:slot, :slots, :due)\"\n";
const OTHER: &str = "[type.other]\nhandler = \"sql\"\n\
    sql = \"INSERT INTO seen (slot, slots, due) VALUES (-1, :slots, :due)\"\n";

/// `[schedule.daily]`: at seven each day, UTC.
fn daily(more: &str) -> String {
    schedule("daily", &format!("cron = \"0 7 * * *\"\n{more}"))
}

fn schedule(name: &str, more: &str) -> String {
    format!("[schedule.{name}]\ntype = \"note\"\n{more}\n")
}

/// 07:00 UTC, so many days after the Monday.
fn seven(day: i64) -> i64 {
    MONDAY + day * DAY + 7 * HOUR
}

fn configure<'s>(site: &'s Site, schedules: &str) -> &'s Site {
    site.config(&format!("{NOTE}{OTHER}{schedules}"))
}

fn set_up(site: &Site, schedules: &str) {
    configure(site, schedules).init();
    site.sql("CREATE TABLE seen (slot BIGINT, slots BIGINT, due BIGINT)");
}

/// Runs the binary at `instant`, and for as long after it as that takes.
#[track_caller]
pub(crate) fn at(site: &Site, instant: i64, words: &[&str]) -> Ended {
    site.finish(Running::start(command_at(site, instant, words), b""))
}

#[track_caller]
pub(crate) fn command_at(site: &Site, instant: i64, words: &[&str]) -> Command {
    site.write("clock", &(instant - Clock::system().now().0).to_string());
    let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
    command
        .args(words)
        .env("PUNCTUAL_FAULT_CLOCK", site.path("clock"));
    command
}

#[track_caller]
pub(crate) fn run_at(site: &Site, instant: i64) -> Value {
    site.alone();
    at(site, instant, &["run", "--json"]).ok().json()
}

/// What was fired, in order: the slot, and for how many it stood.
fn seen(site: &Site) -> Vec<(i64, i64)> {
    let rows = site.rows("SELECT slot, slots FROM seen ORDER BY slot, slots");
    let number = |text: &String| text.parse().expect("a number");
    rows.iter()
        .map(|row| (number(&row[0]), number(&row[1])))
        .collect()
}

/// What the log says of decisions, in order.
pub(crate) fn log_lines(site: &Site, decision: &str) -> Vec<String> {
    let query =
        format!("SELECT detail FROM event_log WHERE decision = '{decision}' ORDER BY log_id");
    let rows = site.rows(&query);
    rows.into_iter().map(|mut row| row.remove(0)).collect()
}

on_both_databases! {
    fn each_slot_fires_in_the_run_that_finds_it_come_and_never_again(site: &Site) {
        set_up(site, &daily("payload = { to = \"é\", n = 7 }\npriority = -1"));
        assert_eq!(run_at(site, seven(0) - HOUR)["done"], 0);
        let row = site.rows("SELECT name, last_slot < 1, paused_until FROM event_schedules");
        assert_eq!(row, [["daily", "0", "NULL"]]);
        assert_eq!(site.query_i64("SELECT slot FROM event_next"), seven(0));
        assert_eq!(run_at(site, seven(0) - HOUR / 2)["stop"], "idle");
        for _ in 0..2 {
            run_at(site, seven(0) + HOUR);
            assert_eq!(seen(site), [(seven(0), 1)]);
        }
        assert_eq!(run_at(site, seven(0) + HOUR + HOUR / 2)["stop"], "idle");
        let ended = "SELECT origin, slot_at, due_at, priority, payload FROM event_history";
        let slot = seven(0).to_string();
        let payload = "{\"to\":\"é\",\"n\":7}";
        assert_eq!(site.rows(ended), [["schedule:daily", &slot, &slot, "-1", payload]]);
        let made = "SELECT schedule, slot, slots, made_id FROM event_slots";
        assert_eq!(site.rows(made), [["daily", &slot, "1", "1"]]);
        assert_eq!(site.query_i64("SELECT last_slot FROM event_schedules"), seven(0));
        assert_eq!(site.query_i64("SELECT slot FROM event_next"), seven(1));
    }

    fn a_machine_that_was_off_for_a_week_makes_up_once_by_default(site: &Site) {
        set_up(site, &daily(""));
        week_off(site);
        assert_eq!(seen(site), [(seven(0), 1), (seven(7), 7)]);
        assert!(log_lines(site, "slots let go").is_empty());
    }

    fn a_machine_that_was_off_for_a_week_makes_up_for_nothing_with_skip(site: &Site) {
        set_up(site, &daily("missed = \"skip\""));
        week_off(site);
        assert_eq!(seen(site), [(seven(0), 1)], "the last one is hours late");
        let let_go = log_lines(site, "slots let go");
        assert_eq!(let_go.len(), 1, "{let_go:?}");
        assert!(let_go[0].starts_with("daily: 7 slots after"), "{let_go:?}");
        run_at(site, seven(8) + 60);
        assert_eq!(seen(site), [(seven(0), 1), (seven(8), 1)]);
    }

    fn skip_fires_the_last_slot_within_its_window(site: &Site) {
        set_up(site, &daily("missed = \"skip\"\nmissed_window = \"5h\""));
        week_off(site);
        assert_eq!(seen(site), [(seven(0), 1), (seven(7), 1)]);
        assert!(log_lines(site, "slots let go")[0].starts_with("daily: 6 slots"));
    }

    fn a_machine_that_was_off_for_a_week_makes_up_for_all_in_their_order(site: &Site) {
        set_up(site, &daily("missed = \"all\""));
        week_off(site);
        let all: Vec<(i64, i64)> = (0..=7).map(|day| (seven(day), 1)).collect();
        assert_eq!(seen(site), all);
        let order = "SELECT slot_at FROM event_history ORDER BY event_id";
        let order: Vec<String> = site.rows(order).concat();
        assert_eq!(order, all.iter().map(|(slot, _)| slot.to_string()).collect::<Vec<_>>());
    }

    fn of_too_many_missed_slots_the_newest_are_kept_and_the_rest_named(site: &Site) {
        set_up(site, &daily("missed = \"all\"\nmissed_max = 3"));
        week_off(site);
        assert_eq!(seen(site)[1..], [(seven(5), 1), (seven(6), 1), (seven(7), 1)]);
        assert!(log_lines(site, "slots let go")[0].starts_with("daily: 4 slots"));
    }

    fn slots_older_than_the_window_are_let_go_whatever_the_policy(site: &Site) {
        let window = "missed_window = \"2d 5h\"";
        let once = daily(window);
        let all = daily(&format!("missed = \"all\"\n{window}")).replace("daily", "every-one");
        set_up(site, &format!("{once}{all}"));
        week_off(site);
        let week = &seen(site)[2..];
        assert_eq!(week, [(seven(5), 1), (seven(6), 1), (seven(7), 1), (seven(7), 3)]);
        let let_go = log_lines(site, "slots let go");
        assert!(let_go.iter().all(|line| line.contains(": 4 slots after")), "{let_go:?}");
        assert_eq!(let_go.len(), 2);
    }

    fn a_new_schedule_begins_with_the_minute_in_which_a_run_first_sees_it(site: &Site) {
        set_up(site, &schedule("often", "cron = \"* * * * *\"\nmissed = \"all\""));
        let began = MONDAY + 10 * HOUR + 2;
        run_at(site, began);
        let first = seen(site);
        assert!((1..=3).contains(&first.len()), "{first:?}");
        assert_eq!(first[0], (MONDAY + 10 * HOUR, 1));
    }

    fn an_edit_never_revives_slots_of_the_past(site: &Site) {
        set_up(site, &daily(""));
        run_at(site, seven(0) - HOUR);
        run_at(site, seven(0) + HOUR);
        // Its new time was at six, seen at nine: tomorrow.
        configure(site, &daily("").replace("0 7", "0 6"));
        run_at(site, seven(0) + 2 * HOUR);
        assert_eq!(seen(site), [(seven(0), 1)]);
        let edited = log_lines(site, "schedule edited");
        assert_eq!(edited.len(), 1);
        assert!(edited[0].contains("0 7 * * *"), "{edited:?}");
        // After a week off an edit lets the week go.
        configure(site, &daily("").replace("0 7", "0 8"));
        run_at(site, seven(7) + 4 * HOUR);
        assert_eq!(seen(site), [(seven(0), 1)]);
        run_at(site, seven(8) + 4 * HOUR);
        assert_eq!(seen(site), [(seven(0), 1), (seven(8) + HOUR, 1)]);
    }

    fn what_an_event_is_may_be_edited_without_losing_a_slot(site: &Site) {
        set_up(site, &daily("payload = \"a\""));
        run_at(site, seven(0) - HOUR);
        run_at(site, seven(0) + HOUR);
        configure(site, &daily("payload = \"b\""));
        run_at(site, seven(1) + HOUR);
        let payloads = "SELECT payload FROM event_history ORDER BY event_id";
        assert_eq!(site.rows(payloads).concat(), ["a", "b"]);
    }

    fn renaming_is_a_removal_and_a_new_schedule_and_what_was_made_still_fires(site: &Site) {
        set_up(site, &daily(""));
        run_at(site, seven(0) - HOUR);
        site.sql("INSERT INTO event_types (type, paused_until) VALUES ('note', 32503680000)");
        run_at(site, seven(0) + 60);
        let live = "SELECT slot_at FROM scheduled_events";
        assert_eq!(site.query_i64(live), seven(0), "its type is paused");
        configure(site, &daily("").replace("daily", "morning"));
        run_at(site, seven(0) + HOUR);
        assert_eq!(site.rows("SELECT name FROM event_schedules"), [["morning"]]);
        assert_eq!(site.rows("SELECT name FROM event_next"), [["morning"]]);
        assert_eq!(log_lines(site, "schedule removed").len(), 1);
        assert!(seen(site).is_empty());
        site.sql("DELETE FROM event_types");
        run_at(site, seven(1) + HOUR);
        assert_eq!(seen(site), [(seven(0), 1), (seven(1), 1)]);
        configure(site, "");
        run_at(site, seven(2) + HOUR);
        run_at(site, seven(3) + HOUR);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_schedules"), 0);
        assert_eq!(seen(site).len(), 2);
    }

    fn a_disabled_schedule_has_no_slots_and_begins_anew_when_enabled(site: &Site) {
        set_up(site, &daily("enabled = false\nmissed = \"all\""));
        run_at(site, seven(0) - HOUR);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_next"), 0);
        run_at(site, seven(3) + HOUR);
        configure(site, &daily("missed = \"all\""));
        run_at(site, seven(3) + 2 * HOUR);
        assert!(seen(site).is_empty());
        run_at(site, seven(4) + HOUR);
        assert_eq!(seen(site), [(seven(4), 1)]);
    }

    fn there_are_no_slots_before_the_start_and_after_the_end(site: &Site) {
        set_up(site, &daily("start = 2027-03-02\nend = \"2027-03-03 07:00\"\nmissed = \"all\""));
        run_at(site, seven(0) - HOUR);
        assert_eq!(site.query_i64("SELECT slot FROM event_next"), seven(1));
        run_at(site, seven(9));
        assert_eq!(seen(site), [(seven(1), 1), (seven(2), 1)]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_next"), 0);
    }

    fn a_clock_that_jumps_back_a_day_fires_nothing_twice(site: &Site) {
        set_up(site, &daily("missed = \"all\""));
        run_at(site, seven(0) - HOUR);
        run_at(site, seven(1) + HOUR);
        let before = [(seven(0), 1), (seven(1), 1)];
        assert_eq!(seen(site), before);
        run_at(site, seven(0) + HOUR);
        // Not even when it is stated anew meanwhile.
        configure(site, "");
        run_at(site, seven(0) + HOUR);
        configure(site, &daily("missed = \"all\""));
        run_at(site, seven(0) + 2 * HOUR);
        run_at(site, seven(1) + HOUR);
        assert_eq!(seen(site), before);
        run_at(site, seven(2) + HOUR);
        assert_eq!(seen(site)[2..], [(seven(2), 1)]);
    }

    fn jitter_delays_an_event_by_the_same_each_time_and_leaves_its_slot(site: &Site) {
        set_up(site, &daily("jitter = \"3h\""));
        run_at(site, seven(0) - HOUR);
        run_at(site, seven(0) + 4 * HOUR);
        run_at(site, seven(1) + 4 * HOUR);
        assert_eq!(seen(site), [(seven(0), 1), (seven(1), 1)]);
        let delays = site.rows("SELECT DISTINCT due - slot FROM seen");
        assert_eq!(delays.len(), 1, "{delays:?}");
        let delay: i64 = delays[0][0].parse().expect("a number");
        assert!((0..=3 * HOUR).contains(&delay), "{delay}");
    }

    fn on_the_day_on_which_clocks_change_a_fixed_rule_comes_once_and_another_follows_them(
        site: &Site
    ) {
        // 2027-10-31 03:00 CEST is 02:00 CET again: 01:00 UTC. 2027-03-28 02:00 CET is 03:00 CEST.
        let amsterdam = "timezone = \"Europe/Amsterdam\"\nmissed = \"all\"";
        let fixed = schedule("fixed", &format!("cron = \"30 2 * * *\"\n{amsterdam}"));
        let hourly = schedule("hourly", &format!("cron = \"30 2-3 * * *\"\n{amsterdam}"))
            .replace("\"note\"", "\"other\"");
        set_up(site, &format!("{fixed}{hourly}"));
        let spring = MONDAY + 27 * DAY;
        run_at(site, spring - HOUR);
        run_at(site, spring + 12 * HOUR);
        assert_eq!(made(site, "fixed"), [spring + HOUR]);
        assert_eq!(made(site, "hourly"), [spring + HOUR + 1800]);
        site.sql("DELETE FROM event_slots");
        let autumn = MONDAY + 244 * DAY;
        run_at(site, autumn - 2 * HOUR);
        site.sql("DELETE FROM event_slots");
        run_at(site, autumn + 12 * HOUR);
        assert_eq!(made(site, "fixed"), [autumn + 1800]);
        let twice = [autumn + 1800, autumn + HOUR + 1800, autumn + 2 * HOUR + 1800];
        assert_eq!(made(site, "hourly"), twice);
    }

    fn newer_rules_of_zones_move_the_next_slot_and_are_no_edit(site: &Site) {
        set_up(site, &daily(""));
        run_at(site, seven(0) - HOUR);
        run_at(site, seven(0) + HOUR);
        // As an older edition would have had it.
        site.sql("UPDATE punctual_meta SET value = '1999a' WHERE name = 'zone_data'");
        site.sql("UPDATE event_next SET slot = slot + 1800");
        run_at(site, seven(0) + 3 * HOUR);
        assert_eq!(site.query_i64("SELECT slot FROM event_next"), seven(1));
        assert_eq!(site.query_i64("SELECT last_slot FROM event_schedules"), seven(0));
        assert!(log_lines(site, "schedule edited").is_empty());
        assert_eq!(run_at(site, seven(0) + 3 * HOUR + HOUR / 2)["stop"], "idle");
    }

    fn a_run_of_some_types_leaves_the_slots_of_others_to_others(site: &Site) {
        set_up(site, &daily(""));
        run_at(site, seven(0) - HOUR);
        site.alone();
        at(site, seven(0) + HOUR, &["run", "--type", "other"]).ok();
        assert!(site.rows("SELECT slot FROM event_slots").is_empty());
        run_at(site, seven(0) + HOUR);
        assert_eq!(seen(site), [(seven(0), 1)]);
    }

    fn slots_leave_with_history_but_for_those_of_events_that_still_wait(site: &Site) {
        set_up(site, &daily("missed = \"all\""));
        run_at(site, seven(0) - HOUR);
        run_at(site, seven(0) + HOUR);
        site.sql("INSERT INTO event_types (type, paused_until) VALUES ('note', 32503680000)");
        run_at(site, seven(1) + HOUR);
        assert_eq!(made(site, "daily"), [seven(0), seven(1)]);
        at(site, seven(40), &["prune"]).ok();
        assert_eq!(made(site, "daily"), [seven(1)]);
        let shown = at(site, seven(40), &["show", "2", "--json"]).ok().json();
        assert_eq!((&shown["slot_at"], &shown["slots"]), (&seven(1).into(), &1.into()));
    }

    fn a_thousand_schedules_that_are_due_at_once_all_become_events(site: &Site) {
        let many: String = (0..1000)
            .map(|n| schedule(&format!("n{n}"), "cron = \"0 7 * * *\""))
            .collect();
        set_up(site, &many);
        run_at(site, seven(0) - HOUR);
        run_at(site, seven(0) + HOUR);
        assert_eq!(site.query_i64("SELECT COUNT(DISTINCT schedule) FROM event_slots"), 1000);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM seen"), 1000);
    }

    fn a_run_killed_at_any_step_of_making_events_loses_no_slot_and_doubles_none(site: &Site) {
        set_up(site, "");
        let mut points: Vec<&str> = POINTS.iter().map(|(name, _)| *name).collect();
        points.retain(|name| name.starts_with("schedules.") || name.starts_with("plan."));
        assert_eq!(points.len(), 5);
        for (day, point) in (0..).zip(&points) {
            let day = 10 * day;
            // Stated anew for each, so that its schedules are taken over in the run that is killed.
            let more = format!("missed = \"all\"\npayload = \"{point}\"");
            configure(site, &daily(&more));
            if day == 0 {
                run_at(site, seven(-1) + HOUR);
                configure(site, &daily(&format!("{more}\npriority = 1")));
            }
            site.alone();
            let mut killed = command_at(site, seven(day + 2) + HOUR, &["run"]);
            killed.env("PUNCTUAL_FAULT_POINT", point);
            let killed = site.finish(Running::start(killed, b""));
            assert_eq!(killed.code, 137, "{point}: {killed:?}");
            run_at(site, seven(day + 2) + 2 * HOUR);
            run_at(site, seven(day + 2) + 3 * HOUR);
            let until = seen(site);
            assert_eq!(until.last(), Some(&(seven(day + 2), 1)), "{point}");
        }
        let all: Vec<(i64, i64)> = (0..=42).map(|day| (seven(day), 1)).collect();
        assert_eq!(seen(site), all);
    }

    fn of_two_runs_that_both_locks_let_in_one_makes_the_event(site: &Site) {
        set_up(site, &daily(""));
        run_at(site, seven(0) - HOUR);
        site.alone();
        let mut first = command_at(site, seven(0) + HOUR, &["run", "--json"]);
        first
            .env("PUNCTUAL_FAULT_LOCKS", "open")
            .env("PUNCTUAL_FAULT_POINT", "plan.read=hold")
            .env("PUNCTUAL_FAULT_HOLD", site.path(""));
        let first = Running::start(first, b"");
        eventually("the first run is held", || site.path("plan.read:1.held").exists());
        site.sql("UPDATE event_lease SET beat_at = 1");
        let mut second = command_at(site, seven(0) + HOUR, &["run", "--json"]);
        second
            .env("PUNCTUAL_FAULT_LOCKS", "open")
            .env("PUNCTUAL_STATE_DIR", site.path("elsewhere"));
        let second = site.finish(Running::start(second, b"")).ok().json();
        assert_eq!(second["done"], 1, "{second}");
        site.write("plan.read:1.go", "");
        let first = site.finish(first);
        assert_eq!((first.code, &first.json()["stop"]), (75, &"fenced".into()), "{first:?}");
        assert_eq!(seen(site), [(seven(0), 1)]);
        assert_eq!(made(site, "daily"), [seven(0)]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
    }

    fn what_is_paused_edited_or_removed_under_a_run_s_hands_makes_no_event(site: &Site) {
        set_up(site, "");
        for (word, words) in [("pause", "pause daily"), ("remove", "remove daily")] {
            add_daily(site, seven(0) - HOUR, &[]).ok();
            site.alone();
            let mut run = command_at(site, seven(0) + HOUR, &["run", "--json"]);
            run.env("PUNCTUAL_FAULT_POINT", "plan.read=hold")
                .env("PUNCTUAL_FAULT_HOLD", site.path(""));
            let run = Running::start(run, b"");
            let file = |end: &str| format!("plan.read:1.{end}");
            eventually("the run is held", || site.path(&file("held")).exists());
            let words: Vec<&str> = ["schedules"].into_iter().chain(words.split(' ')).collect();
            at(site, seven(0) + HOUR, &words).ok();
            site.write(&file("go"), "");
            let run = site.finish(run).ok().json();
            assert_eq!(run["done"], 0, "{word}: {run}");
            assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_next"), 0, "{word}");
            for end in ["held", "go"] {
                std::fs::remove_file(site.path(&file(end))).expect("a file of ours");
            }
            site.sql("DELETE FROM event_schedules");
        }
        assert!(seen(site).is_empty());
    }

    fn a_slot_that_has_become_an_event_becomes_none_again_whatever_the_watermark_says(site: &Site) {
        set_up(site, &daily("missed = \"all\""));
        run_at(site, seven(0) - HOUR);
        run_at(site, seven(1) + HOUR);
        // As a backup of this table alone would bring it back.
        site.sql(&format!("UPDATE event_schedules SET last_slot = {}", seven(0) - DAY));
        site.sql(&format!("UPDATE event_next SET slot = {}", seven(0)));
        run_at(site, seven(2) + HOUR);
        assert_eq!(seen(site), [(seven(0), 1), (seven(1), 1), (seven(2), 1)]);
        assert!(log_lines(site, "slots let go")[0].starts_with("daily: 2 slots"));
    }

    fn a_database_of_schema_1_is_upgraded_with_its_rows_and_then_has_schedules(site: &Site) {
        configure(site, "");
        apply_schema_1(site);
        site.sql("CREATE TABLE seen (slot BIGINT, slots BIGINT, due BIGINT)");
        site.sql("INSERT INTO scheduled_events (type, due_at, payload) VALUES ('note', 5, 'x')");
        site.sql(
            "INSERT INTO event_history (event_id, type, due_at, priority, attempts, losses, \
             deferrals, outcome, finished_at) VALUES (77, 'note', 5, 0, 0, 0, 0, 'dead', \
             4000000000)",
        );
        let refused = site.punctual(["list"]);
        assert_eq!(refused.code, 78, "{refused:?}");
        assert!(refused.stderr.contains("run `punctual init`"), "{refused:?}");
        let init = site.punctual(["init", "--json"]).ok().json();
        assert_eq!((&init["schema_before"], &init["schema"]), (&1.into(), &4.into()));
        configure(site, &daily(""));
        run_at(site, seven(0) - HOUR);
        run_at(site, seven(0) + HOUR);
        let rows = site.rows("SELECT slot, slots, due FROM seen ORDER BY due");
        assert_eq!(rows[0], ["NULL", "NULL", "5"]);
        assert_eq!(rows[1][..2], [seven(0).to_string(), "1".to_owned()]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_history WHERE event_id = 77"), 1);
    }
}

const SEVEN: &str = "0 7 * * *";

/// `schedules add daily`, at seven each day, UTC.
#[track_caller]
fn add_daily(site: &Site, instant: i64, more: &[&str]) -> Ended {
    let words = [
        "schedules",
        "add",
        "daily",
        "--type",
        "note",
        "--cron",
        SEVEN,
    ];
    at(site, instant, &[&words[..], more].concat())
}

fn listed(site: &Site, instant: i64) -> Vec<Value> {
    at(site, instant, &["schedules", "list", "--json"])
        .ok()
        .json_lines()
}

on_both_databases! {
    fn a_schedule_of_the_database_works_like_one_of_the_configuration(site: &Site) {
        set_up(site, "");
        let more = ["--missed", "all", "--missed-max", "3", "--payload", "p", "--json"];
        let added = add_daily(site, seven(0) + 1, &more).ok().json();
        assert_eq!(added, serde_json::json!({"name": "daily", "next_slot": seven(1)}));
        // Not the slot of a moment ago.
        run_at(site, seven(0) + HOUR);
        assert!(seen(site).is_empty());
        run_at(site, seven(5) + HOUR);
        assert_eq!(seen(site), [(seven(3), 1), (seven(4), 1), (seven(5), 1)]);
        let lines = listed(site, seven(5) + HOUR);
        let keys: Vec<&String> = lines[0].as_object().expect("an object").keys().collect();
        assert_eq!(
            keys,
            [
                "name", "from", "cron", "timezone", "type", "payload", "priority", "missed",
                "missed_max", "enabled", "next_slot", "last_slot", "paused_until"
            ]
        );
        assert_eq!((&lines[0]["from"], &lines[0]["next_slot"]), (&"database".into(), &seven(6).into()));
        let shown = at(site, seven(5) + HOUR, &["schedules", "show", "daily", "--json"]).ok().json();
        assert_eq!(shown["events"][0]["slot_at"], seven(5));
        assert_eq!(shown["next_slots"][1], seven(7));
        let taken = add_daily(site, seven(5) + HOUR, &[]);
        assert_eq!((taken.code, taken.stderr.lines().count()), (2, 1), "{taken:?}");
        at(site, seven(5) + HOUR, &["schedules", "remove", "daily"]).ok();
        run_at(site, seven(8));
        assert_eq!(seen(site).len(), 3);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_next"), 0);
    }

    fn a_pause_lets_slots_go_and_the_next_one_after_it_comes(site: &Site) {
        set_up(site, &daily("missed = \"all\"").replace("daily", "stated"));
        add_daily(site, seven(0) - HOUR, &["--missed", "all"]).ok();
        run_at(site, seven(0) - HOUR);
        let both = |words: &[&str], instant: i64| {
            for name in ["daily", "stated"] {
                at(site, instant, &[&words[..2], &[name], &words[2..]].concat()).ok();
            }
        };
        let until = format!("@{}", seven(2) + HOUR);
        both(&["schedules", "pause", "--until", &until], seven(0) + HOUR);
        run_at(site, seven(4) + HOUR);
        assert_eq!(seen(site), [(seven(3), 1), (seven(3), 1), (seven(4), 1), (seven(4), 1)]);
        both(&["schedules", "pause"], seven(4) + HOUR);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_next"), 0);
        run_at(site, seven(7) + HOUR);
        let paused = listed(site, seven(7) + HOUR);
        assert_eq!(paused[0]["next_slot"], Value::Null);
        assert!(paused[0]["paused_until"].as_i64() > Some(seven(9)));
        both(&["schedules", "resume"], seven(7) + HOUR);
        run_at(site, seven(7) + 2 * HOUR);
        assert_eq!(seen(site).len(), 4);
        run_at(site, seven(8) + HOUR);
        assert_eq!(seen(site)[4..], [(seven(8), 1), (seven(8), 1)]);
    }

    fn a_dry_run_lists_slots_among_events_in_start_order_and_writes_nothing(site: &Site) {
        set_up(site, &daily("missed = \"all\"\npayload = \"p\""));
        let before = ["event_schedules", "event_next", "event_slots", "scheduled_events"];
        let rows = |site: &Site| before.map(|table| site.rows(&format!("SELECT * FROM {table}")));
        let planned = |instant: i64, more: &[&str]| {
            let words = [&["run", "--dry-run", "--json"][..], more].concat();
            let lines = at(site, instant, &words).ok().json_lines();
            let of = |line: &Value| (line["id"].as_i64(), line["due_at"].as_i64());
            lines.iter().map(of).collect::<Vec<_>>()
        };
        let slot = |day| (None, Some(seven(day)));
        let event = |id, due| (Some(id), Some(due));
        // No run has seen the schedule yet.
        let until = format!("@{}", seven(1));
        assert_eq!(planned(seven(0) - HOUR, &["--due-before", &until]), [slot(0), slot(1)]);
        assert!(planned(seven(0) - HOUR, &[]).is_empty());
        run_at(site, seven(0) - HOUR);
        let (early, late) = (seven(1) - 60, seven(2) + 60);
        site.sql(&format!(
            "INSERT INTO scheduled_events (type, due_at) VALUES ('note', {early}), ('note', \
             {late}), ('note', {})",
            seven(2)
        ));
        let now = rows(site);
        let all = [slot(0), event(1, early), slot(1), event(3, seven(2)), slot(2), event(2, late)];
        assert_eq!(planned(seven(2) + HOUR, &[]), all);
        assert_eq!(planned(seven(2) + HOUR, &["--max-events", "3"]), all[..3]);
        assert_eq!(planned(seven(2) + HOUR, &["--batch-size", "2"]), all);
        let until = format!("@{}", seven(4));
        let more = planned(seven(2) + HOUR, &["--due-before", &until]);
        assert_eq!((&more[..6], &more[6..]), (&all[..], &[slot(3), slot(4)][..]));
        assert_eq!(rows(site), now);
        let words = ["run", "--dry-run", "--json"];
        let line = at(site, seven(2) + HOUR, &words).ok().json_lines().remove(0);
        assert_eq!((&line["status"], &line["payload"]), (&"planned".into(), &"p".into()));
        // What was listed is what is done.
        run_at(site, seven(2) + HOUR);
        let done = site.rows("SELECT due FROM seen").concat();
        assert_eq!(done, all.map(|(_, due)| due.unwrap_or_default().to_string()));
    }

    fn a_schedule_of_the_database_whose_rule_cannot_be_read_is_named_and_holds_nothing_up(
        site: &Site
    ) {
        set_up(site, &daily("").replace("daily", "good"));
        add_daily(site, seven(0) - HOUR, &[]).ok();
        run_at(site, seven(0) - HOUR);
        site.sql("UPDATE event_schedules SET rule = '{}' WHERE name = 'daily'");
        site.alone();
        let run = at(site, seven(0) + HOUR, &["run", "--json"]);
        assert_eq!((run.code, &run.json()["done"]), (78, &1.into()), "{run:?}");
        assert!(run.stderr.contains("schedule daily: missing field"), "{run:?}");
        assert_eq!(run_at(site, seven(0) + HOUR + 600)["stop"], "idle");
        let shown = at(site, seven(0) + HOUR, &["schedules", "list"]).ok().stdout;
        assert!(shown.contains("cannot be read"), "{shown}");
    }

    fn of_one_name_in_both_places_the_configuration_s_counts(site: &Site) {
        set_up(site, "");
        add_daily(site, seven(0) - HOUR, &["--payload", "database"]).ok();
        configure(site, &daily("payload = \"config\""));
        assert_eq!(listed(site, seven(0) - HOUR)[0]["from"], "config");
        run_at(site, seven(0) + HOUR);
        assert_eq!(site.rows("SELECT payload FROM event_history"), [["config"]]);
        let log = log_lines(site, "schedule edited");
        assert!(log[0].contains("\"from\":\"database\""), "{log:?}");
        for command in ["add", "remove"] {
            let refused = match command {
                "add" => add_daily(site, seven(0), &[]),
                _ => at(site, seven(0), &["schedules", "remove", "daily"]),
            };
            assert_eq!((refused.code, refused.stderr.lines().count()), (2, 1), "{refused:?}");
            assert!(refused.stderr.contains("stands in the configuration"), "{refused:?}");
        }
    }

    fn a_schedule_silenced_by_a_clock_that_was_ahead_is_named_until_it_is_resumed(site: &Site) {
        set_up(site, &daily(""));
        run_at(site, seven(0) - HOUR);
        run_at(site, seven(400) + HOUR);
        run_at(site, seven(0) + HOUR);
        assert_eq!(seen(site), [(seven(400), 401)]);
        let check = at(site, seven(0) + HOUR, &["check"]);
        assert_eq!(check.code, 1, "{check:?}");
        assert!(check.stdout.contains("`punctual schedules resume`: daily"), "{check:?}");
        let shown = at(site, seven(0) + HOUR, &["schedules", "list"]).ok().stdout;
        assert!(shown.contains("the clock was ahead"), "{shown}");
        at(site, seven(0) + HOUR, &["schedules", "resume", "daily"]).ok();
        run_at(site, seven(1) + HOUR);
        assert_eq!(seen(site)[..1], [(seven(1), 1)]);
        assert_eq!(at(site, seven(1) + HOUR, &["check"]).code, 0);
    }
}

#[test]
fn a_pause_in_the_middle_of_a_takeover_is_not_lost_and_the_next_run_takes_over() {
    let site = Site::mariadb(); // on SQLite nobody else writes meanwhile
    let yearly = |payload: &str| {
        let rule = "cron = \"0 0 1 1 *\"";
        schedule("yearly", &format!("{rule}\npayload = \"{payload}\""))
    };
    set_up(&site, &yearly("before"));
    run_alone(&site, &Recording::default());
    configure(&site, &yearly("after"));
    let recording = Recording::default();
    let pause = &["UPDATE event_schedules SET paused_until = 32503680000"];
    site.alone();
    recording.before_query("event_schedules SET rule", site.sql_later(pause));
    let report = run_recorded(&site, &recording);
    assert_eq!(report.stop, Stop::Drained, "{report:?}");
    let state = || {
        let query = "SELECT paused_until, rule LIKE '%after%' FROM event_schedules";
        site.rows(query).remove(0)
    };
    assert_eq!(state(), ["32503680000", "0"]);
    run_alone(&site, &Recording::default());
    assert_eq!(state(), ["32503680000", "1"]);
    assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_next"), 0);
}

#[track_caller]
fn run_alone(site: &Site, recording: &Recording) -> Report {
    site.alone();
    run_recorded(site, recording)
}

#[test]
fn what_can_be_no_schedule_is_refused_in_one_line_and_nothing_is_added() {
    let site = Site::sqlite();
    set_up(&site, "");
    let add = |words: &[&str]| {
        let command = ["schedules", "add", "x", "--json"];
        at(&site, seven(0), &[&command[..], words].concat())
    };
    for (words, code, why) in [
        (
            &["--type", "note", "--cron", "0 0 31 2 *"][..],
            2,
            "never matches",
        ),
        (
            &["--type", "note", "--cron", "0 0 * *"],
            2,
            "is no cron expression",
        ),
        (
            &["--type", "nte", "--cron", "@daily"],
            2,
            "did you mean `note`?",
        ),
        (&["--type", "note", "--every", "1s"], 2, "--anchor"),
        (
            &["--type", "note", "--cron", "@daily", "--end", "@1000"],
            2,
            "no slot is to come",
        ),
        (
            &["--type", "note", "--cron", "@daily", "--missed-max", "5"],
            2,
            "--missed-max goes with",
        ),
        (
            &[
                "--type",
                "note",
                "--cron",
                "@daily",
                "--payload",
                &"x".repeat(60_000),
            ],
            65,
            "too large",
        ),
        (
            &[
                "--type",
                "note",
                "--cron",
                "@daily",
                "--tz",
                "Europe/Amsterdm",
            ],
            2,
            "did you mean",
        ),
    ] {
        let refused = add(words);
        assert_eq!(
            (refused.code, refused.stdout.as_str()),
            (code, ""),
            "{refused:?}"
        );
        assert!(refused.stderr.contains(why), "{refused:?}");
    }
    let nobody = at(&site, seven(0), &["schedules", "pause", "daly"]);
    assert_eq!(
        (nobody.code, nobody.stderr.lines().count()),
        (2, 1),
        "{nobody:?}"
    );
    assert!(listed(&site, seven(0)).is_empty());
}

#[test]
fn what_people_are_shown_of_schedules_names_zone_state_and_what_was_missed() {
    let site = Site::sqlite();
    set_up(
        &site,
        &daily("missed_window = \"30d\"\npayload = \"p\\u001b\""),
    );
    run_at(&site, seven(0) - HOUR);
    run_at(&site, seven(2) + HOUR);
    let said = |words: &[&str]| {
        let text = at(&site, seven(2) + HOUR, words).ok().stdout;
        text.lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(
        said(&["schedules", "list"]),
        "name   from    rule             type  missed  next slot (UTC)          state\n\
         daily  config  0 7 * * * (UTC)  note  once    2027-03-04 07:00:00 UTC"
    );
    assert_eq!(
        said(&["schedules", "show", "daily"]),
        "schedule    daily\n\
         from        config\n\
         rule        0 7 * * * (UTC)\n\
         type        note\n\
         missed      once, not after 30d\n\
         payload     p\\u{1b}\n\
         \n\
         made last:\n  \
         2027-03-03 07:00:00 UTC  event 1, for 2 that were missed too\n\
         \n\
         next:\n  \
         2027-03-04 07:00:00 UTC\n  \
         2027-03-05 07:00:00 UTC\n  \
         2027-03-06 07:00:00 UTC\n  \
         2027-03-07 07:00:00 UTC\n  \
         2027-03-08 07:00:00 UTC"
    );
    assert!(said(&["show", "1"]).contains("slot        2027-03-03 07:00:00 UTC, and 2 missed"));
    let slots = said(&["schedules", "next", "daily", "--count", "1", "--json"]);
    assert_eq!(slots, format!("{{\"slot\":{}}}", seven(3)));
}

#[test]
fn lint_names_times_that_clocks_skip_and_what_meets() {
    let site = Site::sqlite();
    let amsterdam = "cron = \"30 2 * * *\"\ntimezone = \"Europe/Amsterdam\"";
    let yearly = "cron = \"0 0 29 2 *\"\nend = \"2027-12-31\"\nstart = \"2024-01-01\"";
    set_up(
        &site,
        &[
            daily(""),
            schedule("coffee", "cron = \"0 7 * * fri\""),
            schedule("night", amsterdam),
            schedule("leap", yearly),
        ]
        .concat(),
    );
    let text = at(&site, seven(0), &["schedules", "lint"]).ok().stdout;
    for line in [
        "leap has no slot in the next five years",
        "night: 2027-03-28 02:30 Europe/Amsterdam does not exist and comes at 2027-03-28 03:00:00 CEST",
        "night: 2027-10-31 02:30 Europe/Amsterdam comes twice, and counts the first time, around",
        "together in 261 minutes, first 2027-03-05 07:00:00 UTC: coffee, daily",
        "2 slots in the minute of 2027-03-05 07:00:00 UTC: coffee, daily",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let json = at(&site, seven(0), &["schedules", "lint", "--json"])
        .ok()
        .json_lines();
    let of = |kind: &str| json.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!(
        (of("silent"), of("change"), of("collision")),
        (1, 10, 1),
        "{json:?}"
    );
}

#[test]
fn the_example_of_the_readme_does_what_is_said_of_it() {
    let site = Site::sqlite();
    let blocks = crate::readme::blocks("toml");
    let example = blocks
        .iter()
        .find(|text| text.contains("[schedule.digest]"));
    site.config(example.expect("the example")).init();
    // Seven in Amsterdam, in winter time, on Mondays.
    let monday = |week: i64| MONDAY + week * 7 * DAY + 6 * HOUR;
    run_at(&site, monday(0) - HOUR);
    run_at(&site, monday(0) + 60);
    run_at(&site, monday(2) + DAY);
    let log = std::fs::read_to_string(site.path("digest.log")).expect("it has been written");
    let line = |week, slots| format!("digest of {}, for {slots}\n", monday(week));
    assert_eq!(log, line(0, 1) + &line(2, 2));
}

/// Sees the schedules the day before, is there for the first slot, and then not for a week.
#[track_caller]
fn week_off(site: &Site) {
    run_at(site, seven(0) - HOUR);
    run_at(site, seven(0) + 60);
    run_at(site, seven(7) + 4 * HOUR);
    let last = site.rows("SELECT DISTINCT last_slot FROM event_schedules");
    assert_eq!(last, [[seven(7).to_string()]], "the watermark is a slot");
    let next = site.rows("SELECT DISTINCT slot FROM event_next");
    assert_eq!(next, [[seven(8).to_string()]]);
}

fn made(site: &Site, schedule: &str) -> Vec<i64> {
    let query = format!("SELECT slot FROM event_slots WHERE schedule = '{schedule}' ORDER BY slot");
    let rows = site.rows(&query);
    rows.iter()
        .map(|row| row[0].parse().expect("a number"))
        .collect()
}

/// The tables as the first release made them, by hand.
fn apply_schema_1(site: &Site) {
    let (sqlite, mysql) = (
        include_str!("../../sql/sqlite/0001_initial.sql"),
        include_str!("../../sql/mysql/0001_initial.sql"),
    );
    let (script, name) = match site.mariadb_database() {
        None => (sqlite, site.path("events.db").display().to_string()),
        Some(database) => (mysql, database.name.clone()),
    };
    let script = script.replace("/*_*/", "");
    let statements = script
        .split(";\n")
        .filter(|part| part.contains("INTO") || part.contains("CREATE"));
    for statement in statements {
        site.sql(statement);
    }
    for (key, value) in [
        ("schema_version", "1"),
        ("install_id", "77"),
        ("database_name", &name),
    ] {
        site.sql(&format!(
            "INSERT INTO punctual_meta VALUES ('{key}', '{value}')"
        ));
    }
    site.sql("INSERT INTO punctual_meta VALUES ('table_prefix', '')");
}
