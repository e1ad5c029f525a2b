//! What is done to a run. Each leaves no run alive behind it, so that the judge sees an instant at
//! which nobody is at work.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::ground::Run;
use super::sight::number;
use super::{Scale, Torture};
use crate::support::process::send;
use crate::support::proxy::{Act, At, Trap, When, commit_after, nth_question};

/// Longer than any run needs that is let go on: its time is 20 s, a handler's as much.
const PATIENCE: Duration = Duration::from_secs(90);

/// A stop takes seconds: a short torture has one, here.
const SHORT_STOP: usize = 50;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mishap {
    /// Nothing happens, and the run is looked at closely.
    Calm,
    /// kill -9 of the run.
    Kill,
    /// kill -9 of the run and of its watchdog.
    KillBoth,
    /// Two runs at once, one or both killed.
    Rivals,
    /// TERM.
    Terminate,
    /// The lock file is deleted under a run, and another starts.
    DeleteLock,
    /// The disk fills up.
    FullDisk,
    /// kill -9 of the database server.
    KillServer,
    /// The server drops the run's connection.
    CutConnection,
    /// The proxy loses a question or an answer.
    Proxy,
    /// The run is stopped until its lease has run out, and another takes over.
    Stop,
}

impl Mishap {
    pub(super) fn draw(torture: &mut Torture) -> Self {
        let is_mariadb = torture.ground.server.is_some();
        let has_small_disk = super::small_disk().is_some();
        let (rare, stops) = match torture.scale {
            Scale::Short => (1, false),
            Scale::Long => (5, true),
        };
        if torture.scale == Scale::Short && torture.done.steps == SHORT_STOP {
            return Mishap::Stop;
        }
        let dice = &mut torture.dice;
        match dice.below(1000) {
            0..50 => Mishap::Calm,
            50..65 => Mishap::Terminate,
            65..90 => Mishap::DeleteLock,
            90..150 => Mishap::Rivals,
            150..250 => Mishap::KillBoth,
            250..252 if stops => Mishap::Stop,
            255..275 if is_mariadb && dice.once_in(rare) => Mishap::KillServer,
            275..300 if is_mariadb => Mishap::CutConnection,
            300..400 if is_mariadb => Mishap::Proxy,
            300..400 if has_small_disk => Mishap::FullDisk,
            _ => Mishap::Kill,
        }
    }

    /// Returns the process ids of the runs.
    pub(super) fn happen(self, torture: &mut Torture) -> Vec<u32> {
        torture.maybe_move_clock(8);
        if torture.dice.once_in(60) {
            torture.change_host();
        }
        match self {
            Mishap::Calm => calm(torture),
            Mishap::Kill => torture.kill(),
            Mishap::KillBoth => torture.kill_both(),
            Mishap::Rivals => torture.rivals(),
            Mishap::Terminate => torture.terminate(),
            Mishap::DeleteLock => torture.delete_lock(),
            Mishap::FullDisk => torture.fill_the_disk(),
            Mishap::KillServer => torture.kill_server(),
            Mishap::CutConnection => torture.cut_connection(),
            Mishap::Proxy => torture.lose_an_answer(),
            Mishap::Stop => torture.stop(),
        }
    }
}

impl Torture {
    fn start(&mut self, patience: Option<u32>) -> Run {
        let run = self.ground.start(patience);
        self.audit.started(run.pid);
        run
    }

    /// Waits until some instant of the run: any, an early one, or one at which it is busy.
    fn wait_within(&mut self, run: &mut Run) {
        let noted = self.ground.noted();
        let typical = self.typical;
        match self.dice.below(10) {
            0..4 => std::thread::sleep(self.dice.instant(typical)),
            4..6 => std::thread::sleep(self.dice.instant(typical / 3)),
            _ => {
                let extra = self.dice.instant(typical / 5);
                let give_up = Instant::now() + typical;
                while self.ground.noted() == noted
                    && Instant::now() < give_up
                    && run.child.try_wait().is_ok_and(|ended| ended.is_none())
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                std::thread::sleep(extra);
            }
        }
    }

    /// The site and the clock do not wait for a run to end.
    fn meanwhile(&mut self) {
        match self.dice.below(30) {
            0..4 => {
                let few = 1 + self.dice.below(3);
                self.add_events(few);
            }
            4..6 => self.change_an_event(),
            6 => self.maybe_move_clock(100),
            _ => {}
        }
    }

    fn end_by_kill(&mut self, run: &mut Run) {
        run.child.kill().expect("a child of ours");
        run.child.wait().expect("a child of ours");
        self.audit.killed(run.pid);
    }

    fn end_by_itself(&mut self, run: &mut Run) {
        let give_up = Instant::now() + PATIENCE;
        while run.child.try_wait().expect("a child of ours").is_none() {
            if Instant::now() >= give_up {
                self.accept(&[format!("run {} does not end", run.pid)]);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Mostly the next run starts when the last one's watchdog has gone, sometimes at once.
    fn settle(&mut self) {
        if self.dice.percent(15) {
            self.audit.excuse_children();
        } else {
            self.ground.await_locks();
        }
    }

    fn maybe_move_clock(&mut self, percent: usize) {
        if !self.dice.percent(percent) {
            return;
        }
        let now = self.ground.now();
        let wall = super::ground::seconds(super::ground::wall());
        let shift = match self.dice.below(10) {
            0..6 => now - wall + self.dice.between(-90, 90),
            6..9 => self.dice.between(-3 * 3600, 3 * 3600),
            _ => 0,
        };
        self.ground.move_clock(shift);
        self.done.clock_moves += 1;
    }

    /// The next runs are another host's: with another state directory, so that it cannot tell
    /// whether the others' runs are dead. Once their lease has run out it may take over.
    fn change_host(&mut self) {
        self.ground.host = (self.ground.host + 1) % 3;
        self.wait_for_lease();
    }

    /// Moves the clock to where the lease has run out, whoever had it.
    fn wait_for_lease(&mut self) {
        let lease = self
            .ground
            .sight
            .rows("SELECT beat_at + ttl FROM event_lease");
        self.ground.move_clock_to(number(&lease[0][0]) + 1);
    }

    /// Sometimes the clock jumps to where the lease of a live run is over, or its claims are: then
    /// only the fence is left between it and the next. What it has claimed it may still start
    /// until it looks at its lease again.
    /// Returns whether it did.
    fn maybe_outlive_lease(&mut self, live: &Run) -> bool {
        match self.dice.below(10) {
            0..5 => return false,
            5..8 => self.wait_for_lease(),
            _ => {
                self.wait_for_lease();
                self.ground.move_clock_to(self.ground.now() + 300);
                self.audit.claims_ran_out();
            }
        }
        self.audit.excuse(live.pid);
        true
    }

    fn kill(&mut self) -> Vec<u32> {
        let mut run = self.start(None);
        self.wait_within(&mut run);
        self.meanwhile();
        self.end_by_kill(&mut run);
        self.settle();
        vec![run.pid]
    }

    fn kill_both(&mut self) -> Vec<u32> {
        let mut run = self.start(None);
        self.wait_within(&mut run);
        let watchdog = watchdog_of(run.pid);
        if let Some(watchdog) = watchdog {
            self.audit.excuse(run.pid);
            self.done.watchdog_kills += 1;
            if self.dice.percent(50) {
                send(watchdog, Signal::KILL);
                self.end_by_kill(&mut run);
            } else {
                self.end_by_kill(&mut run);
                send(watchdog, Signal::KILL);
            }
            // Nobody is left to end its children; they end by themselves.
            std::thread::sleep(Duration::from_millis(40));
        } else {
            self.end_by_kill(&mut run);
        }
        self.ground.await_locks();
        vec![run.pid]
    }

    fn rivals(&mut self) -> Vec<u32> {
        let mut first = self.start(None);
        if self.dice.percent(50) {
            self.wait_within(&mut first);
        }
        let host = self.ground.host;
        if self.dice.percent(40) {
            self.ground.host = (host + 1) % 3;
        }
        let mut second = self.start(None);
        self.wait_within(&mut second);
        self.meanwhile();
        match self.dice.below(3) {
            0 => {
                self.end_by_kill(&mut first);
                self.end_by_itself(&mut second);
            }
            1 => {
                self.end_by_kill(&mut second);
                self.end_by_itself(&mut first);
            }
            _ => {
                self.end_by_kill(&mut second);
                self.end_by_kill(&mut first);
            }
        }
        self.ground.host = host;
        self.settle();
        vec![first.pid, second.pid]
    }

    fn terminate(&mut self) -> Vec<u32> {
        let mut run = self.start(None);
        self.wait_within(&mut run);
        send(run.pid, Signal::TERM);
        self.end_by_itself(&mut run);
        self.done.signals += 1;
        vec![run.pid]
    }

    fn delete_lock(&mut self) -> Vec<u32> {
        self.add_slow_events();
        let mut first = self.start(None);
        self.wait_within(&mut first);
        for path in self.ground.lock_files() {
            let _ = fs::remove_file(path);
        }
        self.done.deleted_locks += 1;
        let outlived = self.maybe_outlive_lease(&first);
        let mut second = self.start(None);
        self.wait_within(&mut second);
        // What comes from a run that was killed cannot be told from what came before.
        if outlived && self.dice.percent(50) {
            self.end_by_kill(&mut first);
            self.end_by_itself(&mut second);
        } else {
            self.end_by_itself(&mut first);
            self.end_by_kill(&mut second);
        }
        self.ground.await_locks();
        // The watchdog whose lock file is gone holds nobody up.
        std::thread::sleep(Duration::from_millis(30));
        self.wait_for_lease();
        vec![first.pid, second.pid]
    }

    fn fill_the_disk(&mut self) -> Vec<u32> {
        let early = self.dice.percent(30);
        let mut filler = early.then(|| self.ground.fill_disk());
        let mut run = self.start(None);
        self.wait_within(&mut run);
        filler.get_or_insert_with(|| self.ground.fill_disk());
        self.done.full_disks += 1;
        if self.dice.percent(60) {
            self.end_by_itself(&mut run);
        } else {
            let while_full = self.dice.instant(self.typical);
            std::thread::sleep(while_full);
            self.end_by_kill(&mut run);
        }
        self.ground.await_locks();
        drop(filler);
        vec![run.pid]
    }

    fn kill_server(&mut self) -> Vec<u32> {
        let Some(server) = self.ground.server.clone() else {
            return Vec::new();
        };
        let mut run = self.start(None);
        self.wait_within(&mut run);
        server.kill_9();
        self.done.server_kills += 1;
        self.ground.sight.reconnect();
        if self.dice.percent(30) {
            self.end_by_kill(&mut run);
        }
        server.restart(&[]);
        self.end_by_itself(&mut run);
        self.ground.await_locks();
        vec![run.pid]
    }

    fn cut_connection(&mut self) -> Vec<u32> {
        self.add_slow_events();
        let mut run = self.start(None);
        self.wait_within(&mut run);
        for id in self.ground.sight.connections() {
            let _ = self.ground.sight.try_execute(&format!("KILL {id}"));
        }
        self.done.cut_connections += 1;
        let mut pids = vec![run.pid];
        if self.dice.percent(50) {
            // Another host comes at once, while the first records what it did on a new connection.
            let host = self.ground.host;
            self.ground.host = (host + 1) % 3;
            self.maybe_outlive_lease(&run);
            let mut second = self.start(None);
            self.end_by_itself(&mut second);
            pids.push(second.pid);
            self.ground.host = host;
        }
        self.end_by_itself(&mut run);
        self.ground.await_locks();
        pids
    }

    fn lose_an_answer(&mut self) -> Vec<u32> {
        let mut run = self.start(Some(300));
        let act = match self.dice.below(3) {
            0 => {
                let pid = run.pid;
                self.audit.killed(pid);
                Act::Call(Box::new(move || send(pid, Signal::KILL)))
            }
            1 => Act::Reset,
            _ => Act::Stall,
        };
        self.doing = format!(
            "Proxy, {}",
            match &act {
                Act::Call(_) => "kill",
                Act::Reset => "reset",
                Act::Stall => "stall",
            }
        );
        let stalls = matches!(act, Act::Stall);
        let resets = matches!(act, Act::Reset);
        let at = *self.dice.of(&[At::Question, At::Answer, At::Answer]);
        let when: Option<When> = match self.dice.below(6) {
            0 | 1 => Some(commit_after("event_history")),
            2 | 3 => Some(commit_after("claim_epoch =")),
            4 => Some(nth_question(1 + self.dice.below(120))),
            _ => None,
        };
        let bytes = self.dice.below(40_000);
        let proxy = self.ground.proxy.as_ref().expect("MariaDB is behind one");
        let sprung = proxy.sprung();
        match when {
            Some(when) => proxy.set(Trap { when, at, act }),
            None => proxy.cut_after(bytes, act),
        }
        self.end_by_itself(&mut run);
        let proxy = self.ground.proxy.as_ref().expect("MariaDB is behind one");
        proxy.disarm();
        if proxy.sprung() > sprung {
            self.done.stalls += usize::from(stalls);
            self.done.resets += usize::from(resets);
        }
        proxy.reset();
        self.ground.await_locks();
        vec![run.pid]
    }

    /// Really waits: whether a lease is still fresh its holder tells by the monotonic clock.
    fn stop(&mut self) -> Vec<u32> {
        self.add_slow_events();
        let mut first = self.start(None);
        self.wait_within(&mut first);
        send(first.pid, Signal::STOP);
        self.audit.stopped(first.pid);
        self.done.stops += 1;
        // The locks of a run that has lost its host, or its server, do not count.
        for path in self.ground.lock_files() {
            let _ = fs::remove_file(path);
        }
        if self.ground.server.is_some() {
            for id in self.ground.sight.connections() {
                let _ = self.ground.sight.try_execute(&format!("KILL {id}"));
            }
            self.ground.host = (self.ground.host + 1) % 3;
        }
        std::thread::sleep(Duration::from_millis(7_200));
        let mut second = self.start(None);
        self.wait_within(&mut second);
        send(first.pid, Signal::CONT);
        self.end_by_itself(&mut first);
        self.end_by_itself(&mut second);
        self.ground.await_locks();
        std::thread::sleep(Duration::from_millis(30));
        vec![first.pid, second.pid]
    }
}

/// A run that nobody disturbs does all there is to do, says so, and can be asked.
pub(super) fn calm(torture: &mut Torture) -> Vec<u32> {
    "Calm".clone_into(&mut torture.doing);
    torture.done.calm += 1;
    let mut pids = Vec::new();
    for attempt in 0..40 {
        torture.ground.await_locks();
        let began = Instant::now();
        let mut run = torture.start(None);
        pids.push(run.pid);
        torture.end_by_itself(&mut run);
        let text = fs::read_to_string(torture.ground.site.path("out")).expect("what it printed");
        let Ok(report) = serde_json::from_str::<serde_json::Value>(&text) else {
            torture.accept(&["an undisturbed run printed no report".to_owned()]);
            continue;
        };
        match report["stop"].as_str() {
            Some("drained" | "idle") => {
                if report["run_id"].is_null() {
                    return pids;
                }
                torture.typical = (torture.typical * 3 + began.elapsed()) / 4;
                torture.typical = torture
                    .typical
                    .clamp(Duration::from_millis(40), Duration::from_millis(110));
                let cutoff = report["cutoff"].as_i64().expect("a number");
                torture.judge(&pids);
                let wrong = torture.audit.look_after_calm(&mut torture.ground, cutoff);
                torture.accept(&wrong);
                torture.ask_about_it();
                return pids;
            }
            // A killed run's connection may take its time to be noticed; its lease, too.
            Some("locked") if attempt < 39 => {
                std::thread::sleep(Duration::from_millis(5));
                if attempt > 2 {
                    torture.wait_for_lease();
                }
            }
            stop => torture.accept(&[format!("an undisturbed run stopped: {stop:?}")]),
        }
    }
    pids
}

impl Torture {
    /// `status` counts what is there, `why` tells of any event.
    fn ask_about_it(&mut self) {
        if !self.dice.once_in(8) {
            return;
        }
        let ended = self.ground.ask(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
        let there = self.ground.sight.rows(
            "SELECT COUNT(*), COUNT(CASE WHEN status = 'ready' THEN 1 END) FROM scheduled_events",
        );
        let (all, ready) = (number(&there[0][0]), number(&there[0][1]));
        if (status["ready"].as_i64(), status["running"].as_i64())
            != (Some(ready), Some(all - ready))
        {
            self.accept(&[format!(
                "status does not count {ready} ready of {all}: {ended:?}"
            )]);
        }
        let asked = self.any_known();
        if let Some((id, word)) = asked {
            let ended = self.ground.ask(&["why", &id.to_string()]);
            if ended.code != 0 || !ended.stdout.contains(&word) {
                self.accept(&[format!("why {id} does not say {word}: {ended:?}")]);
            }
        }
    }

    /// Some event of the last ones, and the word that must be in what is said about it.
    fn any_known(&mut self) -> Option<(i64, String)> {
        use super::audit::State;
        let newest = *self.audit.known.keys().max()?;
        let back = self.dice.below(60);
        let id = newest - i64::try_from(back).expect("small");
        let word = match &self.audit.known.get(&id)?.state {
            State::Finished(outcome) => outcome.clone(),
            State::Live => "ready".to_owned(),
            State::Deleted => return None,
        };
        // Of another host's claims that are still believed nothing is said here.
        let query = format!("SELECT status FROM scheduled_events WHERE id = {id}");
        let row = self.ground.sight.rows(&query).pop();
        match row.and_then(|mut row| row.remove(0)).as_deref() {
            Some("running") => None,
            _ => Some((id, word)),
        }
    }
}

/// The watchdog that a run has started, if it has got so far.
fn watchdog_of(run: u32) -> Option<u32> {
    let parent = run.to_string();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if after_name.split(' ').nth(1) != Some(&parent) {
            continue;
        }
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&words).contains("__watchdog") {
            return Some(pid);
        }
    }
    None
}
