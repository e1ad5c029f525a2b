//! One cell: a run comes to the place, dies there, and the ticks after it deal with what it left.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use super::bench::{Bench, Family, known, lives};
use super::judge::{Fates, Killed, nothing_is_left};
use super::plan::{Column, Commit, Delivery, Kind, Place, Row, Scene, Shape, is_guarded};
use crate::support::process::{Ended, Running, eventually, send};
use crate::support::proxy::{Act, At, Trap, When, commit_after};

/// Ticks until nothing is left to do; more, and something never ends.
const TICKS: usize = 5;
/// What the shell says of a process that was killed.
const KILLED: i32 = 128 + 9;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victims {
    Run,
    RunAndWatchdog,
}

/// How a play ended.
#[derive(Debug)]
pub(crate) enum Played {
    /// What stands in the cell.
    Seen(String),
    /// The run never came to the place, and ended by itself.
    NotPassed,
    /// The machine stood still for longer than a run waits: this was another cell than was meant.
    Missed(Shape),
}

/// Plays a cell once.
///
/// # Errors
/// The promise that did not hold.
pub(crate) fn play(
    bench: &Bench,
    row: &Row,
    column: &Column,
    victims: Victims,
) -> Result<Played, String> {
    let cell = Cell {
        bench,
        row,
        column,
        victims,
        through_proxy: matches!(row.place, Place::Commit(_)) && bench.proxy.is_some(),
    };
    bench.start_anew(column);
    let mut killed = cell.die_before();
    let died = cell.die();
    let is_passed = died.is_some();
    killed.extend(died);
    cell.carry_on()?;
    let tables = bench.tables();
    nothing_is_left(bench, &tables, &killed)?;
    let fates = Fates::of(bench, &tables, column);
    fates.keep_the_promise(&killed)?;
    let seen = killed.last().map(Killed::shape);
    Ok(match seen {
        Some(seen) if is_passed && seen != row.shape(column) => Played::Missed(seen),
        Some(_) if is_passed => Played::Seen(fates.to_string()),
        _ => Played::NotPassed,
    })
}

struct Cell<'c> {
    bench: &'c Bench,
    row: &'c Row,
    column: &'c Column,
    victims: Victims,
    through_proxy: bool,
}

/// Where a run is held first, so that what it has started ends together and is recorded together.
type Halt = (&'static str, usize);

impl Cell<'_> {
    /// Kills runs with events in hand, for the run of the row to recover.
    fn die_before(&self) -> Vec<Killed> {
        if self.row.scene != Scene::Recovery {
            return Vec::new();
        }
        let places: &[Halt] = match self.column.kind {
            // A wave of two, then the first of its events alone.
            Kind::Sql => &[("effect.after", 2), ("effect.before", 1)],
            Kind::Job => &[("effect.after", 1), ("effect.before", 1)],
            Kind::Sweep => &[("effect.after", 1)],
            Kind::Each => &[("fire.after", 2)],
            Kind::Batch | Kind::Http => &[("fire.after", 1)],
        };
        self.bench.site.write("hang", "1\n");
        let die = |&place: &Halt| {
            let died = self.die_at(place, Victims::Run);
            died.unwrap_or_else(|| panic!("{} is not passed", place.0))
        };
        let killed = places.iter().map(die).collect();
        self.let_handlers_end();
        killed
    }

    /// Kills the run of the row. `None`: it never came to the place.
    fn die(&self) -> Option<Killed> {
        let point = self.row.point(self.column);
        if point.starts_with("fire.") {
            let from = self.row.shape(self.column).recorded + 1;
            self.bench.site.write("hang", &format!("{from}\n"));
        }
        if self.releases() {
            self.bench.site.write("term", "");
        }
        let killed = match self.row.place {
            Place::Commit(commit) if self.through_proxy => self.die_at_commit(commit),
            _ => self.die_at((point, self.row.nth_point(self.column)), self.victims),
        };
        self.let_handlers_end();
        let _ = fs::remove_file(self.bench.site.path("term"));
        killed
    }

    /// Whether its run has claimed more than it has started when TERM comes: at most once is
    /// claimed just before it starts, a batch is started as a whole.
    fn releases(&self) -> bool {
        let waits = matches!(self.column.kind, Kind::Each | Kind::Http);
        self.row.scene == Scene::Term && waits && self.column.delivery == Delivery::AtLeastOnce
    }

    /// What hangs ends by itself; those whom nobody killed, too.
    fn let_handlers_end(&self) {
        let _ = fs::remove_file(self.bench.site.path("hang"));
    }

    fn die_at(&self, place: Halt, victims: Victims) -> Option<Killed> {
        let before = self.bench.effects_noted();
        let halts = self.halts(place);
        let mut faults: Vec<String> = halts.iter().map(|&halt| fault(halt, "hold")).collect();
        faults.push(fault(place, "hold"));
        if victims == Victims::Run {
            faults.push(fault(place, "kill"));
        }
        let mut run = self.start(&faults);
        if !self.come_to(&mut run, &halts, Some(place), before) {
            return self.not_passed(&run.wait());
        }
        let family = Family::of(run.pid());
        let is_guarded = is_guarded(place.0) && self.column.starts_processes();
        assert_eq!(family.watchdog.is_some(), is_guarded, "at {place:?}");
        let ended = if victims == Victims::Run {
            self.go_on(place);
            run.wait()
        } else {
            end_watchdog(family.watchdog.expect("a watchdog that stands"));
            run.kill_9()
        };
        assert_eq!(ended.code, KILLED, "at {place:?}: {ended:?}");
        if victims == Victims::Run {
            is_outlived_by_nobody(&family);
        }
        Some(Killed::now(self.bench, family))
    }

    /// The server has dealt with the COMMIT; instead of being told so the run is killed.
    fn die_at_commit(&self, commit: Commit) -> Option<Killed> {
        let proxy = self
            .bench
            .proxy
            .as_ref()
            .expect("a proxy before the server");
        let before = self.bench.effects_noted();
        let nth = self.row.nth(self.column);
        let found = Arc::new(Mutex::new(Family::default()));
        let (noted, pid, victims) = (
            Arc::clone(&found),
            Arc::clone(&self.bench.run),
            self.victims,
        );
        let kill = move || {
            let pid = known(&pid);
            let family = Family::of(pid);
            if let (Victims::RunAndWatchdog, Some(watchdog)) = (victims, family.watchdog) {
                end_watchdog(watchdog);
            }
            send(pid, Signal::KILL);
            *noted.lock().expect("no panic while it is held") = family;
        };
        let sprung = proxy.sprung();
        proxy.set(Trap {
            when: nth_commit(commit, nth),
            at: At::Answer,
            act: Act::Call(Box::new(kill)),
        });
        let halts = self.halts(("", 0));
        let faults: Vec<String> = halts.iter().map(|&halt| fault(halt, "hold")).collect();
        let mut run = self.start(&faults);
        self.come_to(&mut run, &halts, None, before);
        let ended = run.wait();
        if proxy.sprung() == sprung {
            proxy.disarm();
            return self.not_passed(&ended);
        }
        assert_eq!(ended.code, KILLED, "{ended:?}");
        let family = found.lock().expect("no panic while it is held").clone();
        if self.victims == Victims::Run {
            is_outlived_by_nobody(&family);
        }
        Some(Killed::now(self.bench, family))
    }

    /// The run never came to the place, and ended in order.
    fn not_passed(&self, ended: &Ended) -> Option<Killed> {
        ended_well(ended);
        // Only a test that fails shows it.
        println!(
            "{:?}, {}: {}",
            self.row, self.column.type_name, ended.stdout
        );
        None
    }

    fn start(&self, faults: &[String]) -> Running {
        let arguments: &[&str] = match self.row.scene {
            Scene::Term => &["--batch-size", "4"],
            _ => &[],
        };
        self.bench
            .start(arguments, &faults.join(","), self.through_proxy)
    }

    /// After each pair of processes, and after each batch.
    fn halts(&self, place: Halt) -> Vec<Halt> {
        let numbers: &[usize] = match self.column.kind {
            Kind::Each => &[2, 4],
            Kind::Batch => &[1, 2],
            Kind::Sql | Kind::Job | Kind::Sweep | Kind::Http => &[],
        };
        let halts = numbers.iter().map(|&nth| ("fire.after", nth));
        // A process is started beside the run, which comes to the second place meanwhile.
        let beside = |nth| self.column.kind == Kind::Each && place == ("fire.unguarded", nth);
        halts
            .filter(|&halt| halt != place && !beside(halt.1))
            .collect()
    }

    /// Waits until the run is held at `place` and all its effects so far have happened; at the
    /// halts on the way until what was started has ended. False: it ended by itself.
    fn come_to(
        &self,
        run: &mut Running,
        halts: &[Halt],
        place: Option<Halt>,
        before: usize,
    ) -> bool {
        let mut left: Vec<Halt> = halts.iter().copied().chain(place).collect();
        loop {
            let mut is_over = false;
            let mut held = None;
            eventually("the run is held or ends", || {
                is_over = !run.is_running();
                held = left.iter().copied().find(|&halt| self.is_held(halt));
                held.is_some() || is_over
            });
            let Some(halt) = held else { return false };
            let effects = before + self.effects_by(halt);
            eventually("what was started has its effect", || {
                self.bench.effects_noted() >= effects
            });
            if place == Some(halt) {
                return true;
            }
            eventually("what was started ends", || {
                Family::of(run.pid()).living() == 0 && self.is_noted(halt)
            });
            left.retain(|&other| other != halt);
            self.go_on(halt);
        }
    }

    fn is_held(&self, halt: Halt) -> bool {
        self.hold_file(halt, "held").exists()
    }

    fn go_on(&self, halt: Halt) {
        fs::write(self.hold_file(halt, "go"), "").expect("a directory of ours");
    }

    fn hold_file(&self, (name, nth): Halt, end: &str) -> std::path::PathBuf {
        self.bench
            .site
            .path("hold")
            .join(format!("{name}:{nth}.{end}"))
    }

    /// How many effects beside the run it had started when it came to be held, by the points it had
    /// passed.
    fn effects_by(&self, halt: Halt) -> usize {
        let passed = self.passed_by(halt);
        match self.column.kind {
            Kind::Sql | Kind::Job | Kind::Sweep => 0,
            Kind::Each => passed("fire.unguarded").max(passed("fire.after")),
            Kind::Batch => self.column.wave * passed("fire.unguarded"),
            Kind::Http => passed("fire.after"),
        }
    }

    /// Whether the run would see the end of all that it has started, if it looked.
    fn is_noted(&self, halt: Halt) -> bool {
        let passed = self.passed_by(halt);
        self.column.kind != Kind::Each || passed("attempt.noted") >= passed("fire.after")
    }

    /// How often it has passed a point so far.
    fn passed_by(&self, halt: Halt) -> impl Fn(&str) -> usize + use<> {
        let text = fs::read_to_string(self.hold_file(halt, "held")).expect("a whole file");
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let passed: BTreeMap<String, usize> = lines
            .map(|(name, count)| (name.to_owned(), count.parse().expect("a number")))
            .collect();
        move |name| passed.get(name).copied().unwrap_or(0)
    }

    /// Ticks as cron would make them, until nothing is left to do.
    fn carry_on(&self) -> Result<(), String> {
        for _ in 0..TICKS {
            let tables = self.bench.tables();
            let is_at_rest = tables.open_runs().is_empty() && tables.holder.is_empty();
            if tables.live.is_empty() && is_at_rest && !tables.old_is_there {
                return Ok(());
            }
            let mut ended = None;
            // The server may not have noticed yet that the dead run's connection is gone.
            eventually("a tick finds the locks free", || {
                let run = Running::start(self.bench.command(&[], self.through_proxy), b"");
                let run = run.wait();
                let is_locked = run.stdout.contains("\"stop\":\"locked\"");
                ended = Some(run);
                !is_locked
            });
            let ended = ended.expect("a tick");
            let stop = &ended.json()["stop"];
            // 1: an event that may be tried once only, and nobody knows how it ended.
            if !matches!(ended.code, 0 | 1) || !(stop == "drained" || stop == "idle") {
                return Err(format!("a tick afterwards ended badly: {ended:?}"));
            }
        }
        Err(format!(
            "after {TICKS} ticks something is left: {:?}",
            self.bench.tables()
        ))
    }
}

fn fault((name, nth): Halt, act: &str) -> String {
    format!("{name}:{nth}={act}")
}

fn nth_commit(commit: Commit, nth: usize) -> When {
    let mut is_one = commit_after(match commit {
        Commit::Lease => "event_runs (epoch",
        Commit::Claim => "SET status = 'running'",
        Commit::Ack => "event_history (event_id",
    });
    let mut left = nth;
    Box::new(move |asked| {
        left -= usize::from(is_one(asked));
        left == 0
    })
}

fn ended_well(ended: &Ended) {
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
}

fn end_watchdog(pid: u32) {
    send(pid, Signal::KILL);
    eventually("the watchdog is dead", || !lives(pid));
}

/// Once the watchdog has gone, which then lets go of the run's lock, no child is left: not even one
/// that it had not been told of.
fn is_outlived_by_nobody(family: &Family) {
    if let Some(watchdog) = family.watchdog {
        eventually("the watchdog ends", || !lives(watchdog));
        assert_eq!(family.living(), 0, "of {:?}", family.children);
    }
}
