//! Random kills: what no list of crash points foresees. One site with a type of every handler and
//! delivery, its runs killed at random instants, its server, connections, clock, disk and locks
//! taken away, and after every step a judge who knows each event looks whether one is lost, twice,
//! early or beside another run's.
//!
//! The seed makes the choices; when exactly a kill strikes is the machine's affair. The seed is
//! printed at the start and in each failure; `PUNCTUAL_TORTURE_SEED` sets another. The long form is
//! `contrib/torture`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

mod audit;
pub(crate) mod dice;
mod ground;
mod mishaps;
mod sight;

use audit::Audit;
use dice::Dice;
use ground::{Ground, KINDS, payload};
use mishaps::Mishap;
use sight::number;

/// Events that wait at most: beyond it none are added until some are gone.
const CROWD: usize = 90;
/// The whole of history is looked through every so many steps.
const FULL_LOOK: usize = 1000;

#[test]
fn sqlite() {
    let seed = seed(20_261_122);
    Torture::new(seed, Ground::sqlite(None), Scale::Short).steps(250);
}

#[test]
fn mariadb() {
    let seed = seed(20_261_123);
    Torture::new(seed, Ground::mariadb(), Scale::Short).steps(220);
}

/// Where a small file system of its own was mounted for it: see `contrib/torture` and the test
/// below.
#[test]
#[ignore = "run by the test below, on a disk of its own"]
fn on_a_small_disk() {
    let Some(disk) = small_disk() else { return };
    Torture::new(seed(20_261_124), Ground::sqlite(Some(disk)), Scale::Short).steps(60);
}

#[test]
fn sqlite_on_a_disk_that_fills_up() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = std::process::Command::new("unshare");
    command.arg(if rustix::process::geteuid().is_root() {
        "-m"
    } else {
        "-rm"
    });
    command.args([
        "sh",
        "-c",
        "mount -t tmpfs -o size=3m none \"$1\" && shift && exec \"$@\"",
        "sh",
    ]);
    let program = std::env::current_exe().expect("this very program");
    command.arg(directory.path()).arg(program);
    command.args([
        "--ignored",
        "--exact",
        "torture::on_a_small_disk",
        "--nocapture",
    ]);
    command.env("PUNCTUAL_TORTURE_DISK", directory.path());
    let ended = command.output().expect("unshare is installed");
    let said = String::from_utf8_lossy(&ended.stdout);
    let complained = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}{complained}");
    println!("{said}");
}

/// The long form: `contrib/torture`.
#[test]
#[ignore = "as long as it is told: contrib/torture"]
fn at_length() {
    let database = std::env::var("PUNCTUAL_TORTURE_DATABASE").unwrap_or_default();
    let kills = asked("PUNCTUAL_TORTURE_KILLS");
    let seconds = asked("PUNCTUAL_TORTURE_SECONDS");
    let random = u64::from(std::process::id()) ^ 0x5eed_0000;
    let ground = match database.as_str() {
        "mariadb" => Ground::mariadb(),
        _ => Ground::sqlite(small_disk()),
    };
    let torture = Torture::new(seed(random), ground, Scale::Long);
    torture.until(
        kills,
        seconds.map(|seconds| Duration::from_secs(seconds as u64)),
    );
}

/// A small file system that may be filled, mounted by whoever started this process.
fn small_disk() -> Option<PathBuf> {
    std::env::var_os("PUNCTUAL_TORTURE_DISK").map(PathBuf::from)
}

fn seed(usual: u64) -> u64 {
    let asked = std::env::var("PUNCTUAL_TORTURE_SEED").ok();
    asked.map_or(usual, |text| {
        text.parse().expect("PUNCTUAL_TORTURE_SEED is a number")
    })
}

fn asked(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(
        text.parse()
            .unwrap_or_else(|error| panic!("{name}={text}: {error}")),
    )
}

/// How rare the slow mishaps are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Short,
    Long,
}

/// What was done to the site.
#[derive(Debug, Default)]
struct Done {
    steps: usize,
    server_kills: usize,
    cut_connections: usize,
    resets: usize,
    stalls: usize,
    stops: usize,
    signals: usize,
    clock_moves: usize,
    deleted_locks: usize,
    full_disks: usize,
    watchdog_kills: usize,
    calm: usize,
}

struct Torture {
    seed: u64,
    dice: Dice,
    ground: Ground,
    audit: Audit,
    scale: Scale,
    done: Done,
    /// How long a run takes that has its way.
    typical: Duration,
    /// What was done last, for messages.
    doing: String,
    began: Instant,
}

impl Torture {
    fn new(seed: u64, ground: Ground, scale: Scale) -> Self {
        println!("torture: seed {seed}, web server {}", ground.address());
        Self {
            seed,
            dice: Dice::new(seed),
            ground,
            audit: Audit::default(),
            scale,
            done: Done::default(),
            typical: Duration::from_millis(80),
            doing: String::new(),
            began: Instant::now(),
        }
    }

    fn steps(mut self, steps: usize) {
        while self.done.steps < steps {
            self.step();
        }
        self.finish();
    }

    fn until(mut self, kills: Option<usize>, time: Option<Duration>) {
        let goes_on = |torture: &Self| match (kills, time) {
            (_, Some(time)) => torture.began.elapsed() < time,
            (kills, None) => torture.audit.kills < kills.unwrap_or(10_000),
        };
        while goes_on(&self) {
            self.step();
            if self.done.steps.is_multiple_of(500) {
                println!("{}", self.summary());
            }
        }
        self.finish();
    }

    fn step(&mut self) {
        self.done.steps += 1;
        self.ground.begin_step();
        self.audit.begin_step(self.ground.noted());
        self.site_goes_on();
        let mishap = Mishap::draw(self);
        self.doing = format!("{mishap:?}");
        let pids = mishap.happen(self);
        self.judge(&pids);
        if self.done.steps.is_multiple_of(FULL_LOOK) {
            let wrong = self.audit.look_at_all(&mut self.ground);
            self.accept(&wrong);
        }
    }

    fn judge(&mut self, pids: &[u32]) {
        let wrong = self.audit.look(&mut self.ground, pids);
        self.accept(&wrong);
    }

    /// Fails where anything is wrong, and says how to see it again.
    fn accept(&self, wrong: &[String]) {
        let read = |name: &str| std::fs::read_to_string(self.ground.site.path(name));
        assert!(
            wrong.is_empty(),
            "PUNCTUAL_TORTURE_SEED={}, step {}: {}\n{}\nthe last run said: {}{}",
            self.seed,
            self.done.steps,
            self.doing,
            wrong.join("\n"),
            read("out").unwrap_or_default(),
            read("err").unwrap_or_default(),
        );
    }

    /// What happens at a site anyway: events are added, changed, deleted, cancelled.
    fn site_goes_on(&mut self) {
        let few = self.dice.below(6);
        self.add_events(few);
        if self.audit.live.len() > CROWD && self.dice.once_in(5) {
            self.wait_for_the_crowd();
        }
        if self.dice.percent(10) {
            let mood = *self.dice.of(&["1", "1", "NULL"]);
            let change = format!("UPDATE mood SET ok = {mood} WHERE kind = 'moody'");
            self.ground.sight.execute(&change);
        }
        if self.dice.percent(6) {
            self.change_an_event();
        }
        if self.dice.once_in(80) {
            self.cancel_an_event();
        }
    }

    /// After the clock was put back most events may be hours away; runs would have nothing to do.
    fn wait_for_the_crowd(&mut self) {
        let middle = format!(
            "SELECT due_at FROM scheduled_events ORDER BY due_at LIMIT 1 OFFSET {}",
            CROWD * 3 / 4
        );
        let due = self.ground.sight.rows(&middle);
        let due = due.first().map_or(0, |row| number(&row[0]));
        self.ground.move_clock_to(due);
    }

    fn add_events(&mut self, events: usize) {
        if events == 0 || self.audit.live.len() > CROWD {
            return;
        }
        let now = self.ground.now();
        let dice = &mut self.dice;
        let rows: Vec<String> = (0..events)
            .map(|_| {
                let kind = dice.of(&KINDS);
                let due = match dice.below(20) {
                    0 => dice.between(600, 7200),
                    1..4 => dice.between(1, 3),
                    _ => dice.between(-5, 0),
                };
                let key = match dice.below(6) {
                    0 => format!("'k{}'", dice.below(4)),
                    _ => "NULL".to_owned(),
                };
                let expires = match dice.below(12) {
                    0 => (now + due + dice.between(0, 30)).to_string(),
                    _ => "NULL".to_owned(),
                };
                let priority = dice.between(-2, 2);
                let payload = payload(kind, dice);
                let due = now + due;
                format!(
                    "('{}', {due}, '{payload}', {key}, {expires}, {priority})",
                    kind.name
                )
            })
            .collect();
        let statement = format!(
            "{} INTO scheduled_events (type, due_at, payload, unique_key, expires_at, priority) \
             VALUES {}",
            self.ground.sight.insert_ignore(),
            rows.join(", ")
        );
        // Under a run that holds a lock the site would try again later.
        if self.ground.sight.try_execute(&statement).is_ok() {
            self.audit.learn(&mut self.ground);
        }
    }

    /// Some that take long enough for another run to come in between, and more than one wave.
    fn add_slow_events(&mut self) {
        let due = self.ground.now();
        let rows: Vec<String> = (0..12)
            .map(|n| if n < 9 { "least" } else { "most" })
            .map(|kind| format!("('{kind}', {due}, '0.1 0')"))
            .collect();
        let rows = rows.join(", ");
        let insert = format!("INSERT INTO scheduled_events (type, due_at, payload) VALUES {rows}");
        if self.ground.sight.try_execute(&insert).is_ok() {
            self.audit.learn(&mut self.ground);
        }
    }

    fn any_live(&mut self) -> Option<i64> {
        let index = self.dice.below(self.audit.live.len());
        self.audit.live.iter().nth(index).copied()
    }

    /// A row is deleted, put off or called earlier, as any site may.
    fn change_an_event(&mut self) {
        let Some(id) = self.any_live() else { return };
        if self.dice.percent(50) {
            let delete = format!("DELETE FROM scheduled_events WHERE id = {id}");
            if self.ground.sight.try_execute(&delete) == Ok(1) {
                self.audit.deleted(id);
            }
            return;
        }
        let due = self.ground.now() + self.dice.between(-3, 60);
        let change = format!(
            "UPDATE scheduled_events SET due_at = {due}, priority = 0 \
             WHERE id = {id} AND status = 'ready'"
        );
        if self.ground.sight.try_execute(&change) == Ok(1)
            && let Some(known) = self.audit.known.get_mut(&id)
        {
            known.due_at = known.due_at.min(due);
        }
    }

    fn cancel_an_event(&mut self) {
        let Some(id) = self.any_live() else { return };
        if let Some(known) = self.audit.known.get_mut(&id) {
            known.cancelled = true;
        }
        self.ground.ask(&["cancel", &id.to_string()]);
    }

    /// A last time nothing is in the way, the clock goes where everything is due, and the books
    /// must balance to the last event.
    fn finish(mut self) {
        "the end".clone_into(&mut self.doing);
        self.ground.sight.execute("UPDATE mood SET ok = 1");
        for _ in 0..200 {
            let latest = self.ground.sight.rows(
                "SELECT MAX(due_at), MAX(claim_until), \
                 (SELECT beat_at + ttl FROM event_lease) FROM scheduled_events",
            );
            let latest = latest[0].iter().map(number).max().unwrap_or(0);
            self.ground.begin_step();
            self.ground.move_clock_to(latest + 1);
            self.ground.host = (self.ground.host + 1) % 2;
            let pids = mishaps::calm(&mut self);
            self.judge(&pids);
            if self.audit.live.is_empty() {
                break;
            }
        }
        let mut wrong = self.audit.look_at_all(&mut self.ground);
        if !self.audit.live.is_empty() {
            let left: Vec<_> = self
                .audit
                .live
                .iter()
                .map(|id| self.audit.kind_of(*id))
                .collect();
            wrong.push(format!("left at the end: {left:?}"));
        }
        self.accept(&wrong);
        println!("{}", self.summary());
    }

    fn summary(&self) -> String {
        let Done {
            steps,
            server_kills,
            cut_connections,
            resets,
            stalls,
            stops,
            signals,
            clock_moves,
            deleted_locks,
            full_disks,
            watchdog_kills,
            calm,
        } = &self.done;
        format!(
            "torture: seed {}, {steps} steps in {:.0} s: {} kills ({watchdog_kills} with the \
             watchdog), {signals} signals, {server_kills} server kills, {cut_connections} cut \
             connections, {resets} resets, {stalls} stalls, {stops} stops, {clock_moves} clock \
             moves, {deleted_locks} lock files deleted, {full_disks} full disks, {calm} undisturbed. \
             {} events, {} of them of slots: {}; {} still live. Begun beyond once, as declared: {}; children that \
             outlived a kill: {}. lost 0, doubled 0, early 0",
            self.seed,
            self.began.elapsed().as_secs_f64(),
            self.audit.kills,
            self.audit.known.len(),
            self.audit.slots,
            self.audit.tell_outcomes(),
            self.audit.live.len(),
            self.audit.beyond_one,
            self.audit.strays,
        )
    }
}
