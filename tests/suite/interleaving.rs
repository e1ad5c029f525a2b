//! The fence alone, at random: both locks say yes to everybody, ticks come all the time, runs are
//! stopped anywhere and go on later, and the database's clock jumps past leases and claims while
//! their holders believe in them. The promises hold; what judges them is what handlers wrote
//! themselves and plain SQL.
//!
//! The seed is printed; `PUNCTUAL_TEST_SEED=N` rolls the same dice again.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::process::{Ended, Running};
use crate::support::site::Site;

const TYPES: &str = r#"
[run]
lease_ttl = "6s"
max_time = "10s"
batch_size = 4

[type.effect]
handler = "sql"
sql = ["INSERT INTO seen (id) VALUES (:id)"]
max_losses = 1000

[type.each]
handler = "command"
command = ["sh", "-c", "echo $PUNCTUAL_EVENT_ID >> fired"]
timeout = "5s"
max_losses = 1000

[type.batch]
handler = "command"
mode = "batch"
command = ["./batch"]
timeout = "5s"
max_losses = 1000

[type.most]
handler = "command"
at_most_once = true
concurrency = 2
command = ["sh", "-c", "echo $PUNCTUAL_EVENT_ID >> fired"]
timeout = "5s"
"#;

/// Notes each event as it comes in, then answers.
const BATCH: &str = "#!/bin/sh\nwhile read -r line; do\n\
    id=${line#*:}; id=${id%%,*}; echo \"$id\" >> fired; echo \"{\\\"id\\\":$id,\\\"ok\\\":true}\"\n\
    done\n";

/// Events of each type in one round.
const EACH: usize = 12;
const TYPE_NAMES: [&str; 4] = ["effect", "each", "batch", "most"];
/// How long rounds are begun.
const FOR: Duration = Duration::from_secs(9);
/// Ticks at work at once.
const TICKS: u64 = 4;

on_both_databases! {
    fn runs_that_only_the_fence_keeps_apart_double_and_lose_nothing(site: &Site) {
        site.config(TYPES).write_program("batch", BATCH).init();
        site.sql("CREATE TABLE seen (id INTEGER)");
        let mut game = Game::new(site);
        let begun = Instant::now();
        while begun.elapsed() < FOR {
            game.round();
        }
        println!("{} rounds, {} ticks, {} fenced", game.rounds, game.ticks, game.fenced);
        assert!(game.fenced > 0, "no run was ever overtaken");
    }
}

struct Game<'s> {
    site: &'s Site,
    dice: Dice,
    clock: i64,
    rounds: u32,
    ticks: u32,
    fenced: u32,
}

impl<'s> Game<'s> {
    fn new(site: &'s Site) -> Self {
        let given = std::env::var("PUNCTUAL_TEST_SEED").ok();
        let chance = || (u64::from(std::process::id()) << 32) ^ crate::runs::now().unsigned_abs();
        let seed = given.map_or_else(chance, |text| text.parse().expect("a whole number"));
        println!("PUNCTUAL_TEST_SEED={seed}");
        Self {
            site,
            dice: Dice(seed | 1),
            clock: 0,
            rounds: 0,
            ticks: 0,
            fenced: 0,
        }
    }

    /// Events of each type; ticks until enough has gone wrong; then undisturbed ones to the end.
    fn round(&mut self) {
        self.rounds += 1;
        for type_name in TYPE_NAMES {
            crate::runs::insert(self.site, type_name, EACH);
        }
        let mut runs: Vec<Running> = Vec::new();
        let mut ended = Vec::new();
        for _ in 0..25 {
            while (runs.len() as u64) < 2 + self.dice.below(TICKS - 1) {
                runs.push(self.tick());
            }
            self.disturb(&mut runs);
            let (on, off): (Vec<_>, Vec<_>) = runs
                .into_iter()
                .map(|mut run| (run.is_running(), run))
                .partition(|(is_running, _)| *is_running);
            runs = on.into_iter().map(|(_, run)| run).collect();
            ended.extend(off.into_iter().map(|(_, run)| self.site.finish(run)));
        }
        ended.extend(runs.into_iter().map(|run| self.site.finish(run)));
        for _ in 0..5 {
            // Past every claim, so that what nobody has any more is dealt with.
            self.move_clock(1000);
            let tick = self.tick();
            ended.push(self.site.finish(tick));
        }
        for run in &ended {
            self.check_the_run_says_what_stands(run);
        }
        self.check_promises();
        for table in ["event_history", "seen"] {
            self.site.sql(&format!("DELETE FROM {table}"));
        }
        let _ = std::fs::remove_file(self.site.path("fired"));
    }

    /// One run is stopped; meanwhile its lease lapses, or even its claims, or neither.
    fn disturb(&mut self, runs: &mut [Running]) {
        let pause = Duration::from_millis(self.dice.below(40));
        std::thread::sleep(pause);
        let Ok(count) = u64::try_from(runs.len()) else {
            return;
        };
        let victim = &mut runs[usize::try_from(self.dice.below(count)).unwrap_or(0)];
        if !victim.is_running() {
            return;
        }
        victim.signal(Signal::STOP);
        match self.dice.below(6) {
            0..=2 => self.move_clock(6),
            3 => self.move_clock(500),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(self.dice.below(80)));
        victim.signal(Signal::CONT);
    }

    fn move_clock(&mut self, seconds: i64) {
        self.clock += seconds;
        let written = self.site.path("clock.new");
        std::fs::write(&written, self.clock.to_string()).expect("room on the disk");
        std::fs::rename(&written, self.site.path("clock")).expect("a file of ours");
    }

    fn tick(&mut self) -> Running {
        self.ticks += 1;
        let mut command: Command = self.site.command(env!("CARGO_BIN_EXE_punctual"));
        let state = format!("state-{}", self.ticks % 4);
        command
            .args(["run", "--json"])
            .env("PUNCTUAL_FAULT_LOCKS", "open")
            .env("PUNCTUAL_FAULT_CLOCK", self.site.path("clock"))
            .env("PUNCTUAL_STATE_DIR", self.site.path(&state));
        Running::start(command, b"")
    }

    /// What a run counts as done stands in history under its name, no more and no less; one that
    /// was fenced has said so in the log.
    fn check_the_run_says_what_stands(&mut self, ended: &Ended) {
        // 75: fenced, or the database was busy all the time; 1: an event whose end nobody knows.
        assert!([0, 1, 75].contains(&ended.code), "{ended:?}");
        if ended.stdout.is_empty() {
            return; // stopped so long that the others could not begin
        }
        let run = ended.json();
        if run["run_id"].is_null() {
            return;
        }
        let of_it = |query: &str| format!("{query} AND run_id = {}", run["run_id"]);
        let done = "SELECT COUNT(*) FROM event_history WHERE outcome = 'done'";
        assert_eq!(run["done"], self.site.query_i64(&of_it(done)), "{ended:?}");
        if run["stop"] == "fenced" {
            self.fenced += 1;
            let logged = "SELECT COUNT(*) FROM event_log WHERE decision = 'fenced'";
            assert!(self.site.query_i64(&of_it(logged)) > 0, "{ended:?}");
        }
    }

    fn check_promises(&self) {
        let site = self.site;
        let left = site.rows("SELECT id, type, status, due_at FROM scheduled_events");
        assert!(left.is_empty(), "{left:?}");
        let mut times: BTreeMap<i64, i64> = BTreeMap::new();
        let effects = site.rows("SELECT id FROM seen");
        let effects = effects.iter().map(|row| row[0].parse().expect("an id"));
        for id in effects.chain(crate::runs::fired(site)) {
            *times.entry(id).or_default() += 1;
        }
        let rows = site.rows(
            "SELECT event_id, type, outcome, attempts + losses FROM event_history \
             ORDER BY event_id",
        );
        assert_eq!(rows.len(), EACH * TYPE_NAMES.len(), "{rows:?}");
        let mut before = 0;
        for row in rows {
            let number = |index: usize| row[index].parse::<i64>().expect("a number");
            let id = number(0);
            assert!(id > before, "{row:?} stands twice in history");
            before = id;
            let times = times.get(&id).copied().unwrap_or(0);
            let (least, most) = match (row[1].as_str(), row[2].as_str()) {
                ("effect" | "most", "done") => (1, 1),
                ("each" | "batch", "done") => (1, 1 + number(3)),
                ("most", "unknown") => (0, 1),
                _ => panic!("{row:?}"),
            };
            assert!(
                (least..=most).contains(&times),
                "{row:?} happened {times} times"
            );
        }
    }
}

/// Marsaglia's xorshift: repeatable, and nothing hangs on its quality.
struct Dice(u64);

impl Dice {
    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
