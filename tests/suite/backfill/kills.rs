//! A backfill of each sort, killed at random instants while it is written, beside runs that fire
//! it, and its runs killed while they fire: afterwards each slot and each dead event has had its
//! effect once. A short share here; the long form, of 100,000 events, is `contrib/backfill-kills`.

use std::time::Duration;

use punctual::clock::Clock;
use serde_json::Value;

use super::numbers;
use crate::recurring::MONDAY;
use crate::support::process::{Ended, Running};
use crate::support::site::Site;
use crate::torture::dice::Dice;

/// A slot a second; LAST is to be filled in.
const CONFIG: &str = "timezone = \"UTC\"\n[type.effect]\nhandler = \"sql\"\n\
    sql = \"INSERT INTO seen (id, slot) VALUES (:id, :slot)\"\n\
    [schedule.each]\nevery = \"1s\"\nanchor = \"2027-03-01\"\ntype = \"effect\"\n\
    missed = \"skip\"\nmissed_window = \"0s\"\nstart = \"2027-03-01\"\nend = \"LAST\"\n";

/// How long a process lives at most before it is killed.
const LIFE: Duration = Duration::from_millis(120);

on_both_databases! {
    fn a_backfill_killed_at_random_while_written_and_fired_loses_and_doubles_nothing(site: &Site) {
        let told = Kills { site, dice: Dice::new(20_261_122) }.play(4_000, 6);
        println!("{told}");
    }
}

/// The long form: `contrib/backfill-kills`.
#[test]
#[ignore = "as long as it is told: contrib/backfill-kills"]
fn at_length() {
    let asked = |name: &str, usual: u64| {
        let text = std::env::var(format!("PUNCTUAL_BACKFILL_{name}")).unwrap_or_default();
        text.parse().unwrap_or(usual)
    };
    let site = match std::env::var("PUNCTUAL_BACKFILL_DATABASE").as_deref() {
        Ok("mariadb") => Site::mariadb(),
        _ => Site::sqlite(),
    };
    let seed = asked("SEED", u64::from(std::process::id()));
    println!("seed {seed}");
    let kills = Kills {
        site: &site,
        dice: Dice::new(seed),
    };
    let events = i64::try_from(asked("EVENTS", 100_000)).expect("not that many");
    println!("{}", kills.play(events, asked("KILLS", 20)));
}

struct Kills<'s> {
    site: &'s Site,
    dice: Dice,
}

impl Kills<'_> {
    /// Half of `events` are slots, half are dead; says what was done.
    fn play(mut self, events: i64, kills: u64) -> String {
        let half = events / 2;
        self.set_up(half);
        let (from, to) = (format!("@{MONDAY}"), format!("@{}", MONDAY + half - 1));
        let slots = ["backfill", "slots", "each", "--from", &from, "--to", &to];
        let again = ["backfill", "again", "--from", &from, "--to", &to];
        let mut written = 0;
        for (words, runs_beside) in [(&slots[..], true), (&again, false)] {
            let words = [words, &["--rate", "1000000/s"]].concat();
            let plan = self.call(&[&words[..], &["--json"]].concat()).ok().json();
            assert_eq!(plan["events"], half, "{plan}");
            let plan = plan["plan"].as_str().expect("a plan");
            let words = [&words[..], &["--apply", "--plan", plan]].concat();
            written += self.kill_while_written(&words, kills / 2, runs_beside);
            self.call(&words).ok();
        }
        let fired = self.kill_while_fired(kills);
        self.judge(half);
        format!(
            "{events} events: killed {written} times while written, {fired} times while fired; \
             each had its effect once"
        )
    }

    fn set_up(&self, half: i64) {
        let site = self.site;
        let last = format!("@{}", MONDAY + half - 1);
        site.config(&CONFIG.replace("LAST", &last)).init();
        site.sql("CREATE TABLE seen (id BIGINT, slot BIGINT)");
        let dead: Vec<String> = (0..half)
            .map(|n| {
                format!(
                    "({}, 'effect', 5, 0, 6, 0, 0, 'dead', {})",
                    n + 1,
                    MONDAY + n
                )
            })
            .collect();
        for rows in dead.chunks(500) {
            site.sql(&format!(
                "INSERT INTO event_history (event_id, type, due_at, priority, attempts, losses, \
                 deferrals, outcome, finished_at) VALUES {}",
                rows.join(", ")
            ));
        }
        // So that the ids of new events are no ids of these.
        site.sql("INSERT INTO scheduled_events (id, type, due_at) VALUES (1000000, 'none', 5)");
        site.sql("DELETE FROM scheduled_events");
        for instant in [MONDAY - 3600, MONDAY + half + 3600] {
            self.set_clock(instant);
            site.alone();
            self.call(&["run"]).ok();
        }
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM event_slots"), 0);
    }

    fn set_clock(&self, instant: i64) {
        let shift = (instant - Clock::system().now().0).to_string();
        self.site.write("clock", &shift);
    }

    fn start(&self, words: &[&str]) -> Running {
        let mut command = self.site.command(env!("CARGO_BIN_EXE_punctual"));
        command
            .args(words)
            .env("PUNCTUAL_FAULT_CLOCK", self.site.path("clock"));
        Running::start(command, b"")
    }

    fn call(&self, words: &[&str]) -> Ended {
        self.site.finish(self.start(words))
    }

    /// Starts the writing until it was killed so often, or has come to its end: how often it was
    /// killed. Every other time a run may be at work beside it, and is killed too.
    fn kill_while_written(&mut self, words: &[&str], kills: u64, runs_beside: bool) -> u64 {
        self.die_at("backfill.committed", words);
        let mut killed = 1;
        while killed < kills {
            let beside = (runs_beside && killed % 2 == 1).then(|| self.start(&["run"]));
            if !self.is_killed(words) {
                break;
            }
            killed += 1;
            drop(beside);
            self.nothing_is_wrong_so_far();
        }
        killed
    }

    fn kill_while_fired(&mut self, kills: u64) -> u64 {
        self.site.alone();
        self.die_at("wave.committed", &["run"]);
        let mut killed = 1;
        let left = "SELECT COUNT(*) FROM scheduled_events";
        while killed < kills && self.site.query_i64(left) > 0 {
            killed += u64::from(self.is_killed(&["run"]));
            self.nothing_is_wrong_so_far();
        }
        loop {
            self.site.alone();
            let run: Value = self.call(&["run", "--json"]).ok().json();
            if self.site.query_i64(left) == 0 {
                return killed;
            }
            assert_ne!(run["stop"], "idle", "nothing is due, and something is left");
        }
    }

    /// The first kill needs no luck: it comes at this point.
    fn die_at(&self, point: &str, words: &[&str]) {
        let mut command = self.site.command(env!("CARGO_BIN_EXE_punctual"));
        command
            .args(words)
            .env("PUNCTUAL_FAULT_CLOCK", self.site.path("clock"))
            .env("PUNCTUAL_FAULT_POINT", point);
        let ended = self.site.finish(Running::start(command, b""));
        assert_eq!(ended.code, 137, "{point}: {ended:?}");
    }

    /// Whether it still ran when it was killed, after some time.
    fn is_killed(&mut self, words: &[&str]) -> bool {
        let mut running = self.start(words);
        std::thread::sleep(self.dice.instant(LIFE));
        let was_running = running.is_running();
        let ended = running.kill_9();
        assert!(
            was_running || ended.code == 0,
            "it ended badly by itself: {ended:?}"
        );
        was_running
    }

    fn nothing_is_wrong_so_far(&self) {
        let twice = "SELECT COUNT(*) - COUNT(DISTINCT id) FROM seen";
        assert_eq!(
            self.site.query_i64(twice),
            0,
            "an event had its effect twice"
        );
    }

    fn judge(&self, half: i64) {
        let site = self.site;
        self.nothing_is_wrong_so_far();
        let slots = numbers(
            site,
            "SELECT slot FROM seen WHERE slot IS NOT NULL ORDER BY slot",
        );
        let all: Vec<i64> = (MONDAY..MONDAY + half).collect();
        assert!(slots == all, "{} slots had their effect", slots.len());
        let again = numbers(site, "SELECT id FROM seen WHERE slot IS NULL ORDER BY id");
        let all: Vec<i64> = (1..=half).collect();
        assert!(again == all, "{} dead events had their effect", again.len());
        let half = half.to_string();
        let rows = "SELECT planned, written, finished_at > 0 FROM event_backfills";
        let whole = [half.as_str(), &half, "1"];
        assert_eq!(site.rows(rows), [whole, whole]);
        let history = "SELECT origin, outcome, COUNT(*) FROM event_history \
                       WHERE origin IS NOT NULL GROUP BY origin, outcome ORDER BY origin";
        let done = |origin| [origin, "done", half.as_str()];
        assert_eq!(site.rows(history), [done("backfill:1"), done("backfill:2")]);
        let dead = "SELECT COUNT(*) FROM event_history WHERE resolved_as = 'retried'";
        assert_eq!(site.query_i64(dead).to_string(), half);
    }
}
