//! `run --linger`: a run that stays between two ticks of cron. It waits for the file lock that the
//! last one still holds, and once nothing is left to do it waits for what is due next, looking
//! again at intervals for what is new, until its budget is used.
//!
//! Nothing is held while it waits but the locks and, once it has taken it, the lease: no
//! transaction, no unfinished read. Killed there, it leaves no more behind than between two waves.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::idle::{idle, next_start, nothing_waits};
use super::recovery::Suspects;
use super::signals::Signals;
use super::{Options, Report, Runner, Stop, Trouble, slots, sources};
use crate::clock::{Clock, UnixSeconds, monotonic};
use crate::config::Config;
use crate::db::{DbError, DbErrorKind, DbResult};
use crate::fault::point;
use crate::lock::{Asked, FileLock};
use crate::spawn::Sleeper;
use crate::store::peek::{Peek, TypeState, earliest};
use crate::store::{Install, Store};

/// How often the file lock is asked for while the last tick has it.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How far behind the beginning of a second a wait for it ends: one that ends before it is in vain.
const BEHIND: Duration = Duration::from_millis(2);

const NO_LEASE: &str = "event_lease has no row named `run`; run `punctual init`";

/// What a run that waits has: for how long, and what ends its wait.
pub(super) struct Waiting<'w> {
    pub(super) config: &'w Config,
    pub(super) options: &'w Options,
    pub(super) signals: &'w Signals,
    /// Of a run that lingers; no other ever waits.
    pub(super) sleeper: Option<&'w Sleeper>,
    pub(super) deadline: Option<Instant>,
}

/// What the wait for something to do came to.
pub(super) enum Watched {
    /// There is something.
    Work(Work),
    /// The run is over.
    Over(Report),
}

enum Seen {
    Work(Work),
    Nothing(Peek),
}

/// Something to do, as the look found it.
pub(super) struct Work {
    pub(super) peek: Peek,
    /// The monotonic clock just before.
    pub(super) read_at: Instant,
    pub(super) cutoff: UnixSeconds,
    pub(super) states: Vec<TypeState>,
}

impl Waiting<'_> {
    /// The file lock at `path`; a run that lingers waits for the last one to give it back.
    pub(super) fn file_lock(
        &self,
        path: &Path,
        clock: Clock,
        may_lack_locks: bool,
    ) -> anyhow::Result<Asked> {
        loop {
            let asked = FileLock::ask(path, clock.now(), may_lack_locks)?;
            match self.sleeper {
                Some(sleeper) if matches!(asked, Asked::Busy) && !self.is_over() => {
                    self.sleep(sleeper, monotonic() + ASK_EVERY)?;
                }
                _ => return Ok(asked),
            }
        }
    }

    /// Looks whether there is anything to do. A run that lingers goes on until there is.
    pub(super) fn work(&self, store: &mut Store, install: &Install) -> anyhow::Result<Watched> {
        let mut vigil = Vigil::new(self.config.run.poll);
        let Some(sleeper) = self.sleeper else {
            return Ok(match self.look(&mut vigil, store, install)? {
                Seen::Work(work) => Watched::Work(work),
                Seen::Nothing(peek) => Watched::Over(self.idle(store, &peek, Stop::Idle)?),
            });
        };
        vigil.must_look(store)?;
        loop {
            match self.look(&mut vigil, store, install) {
                Ok(Seen::Work(work)) => return Ok(Watched::Work(work)),
                Ok(Seen::Nothing(_)) => {}
                // Somebody has the whole of it to himself for a while: no reason to end.
                Err(error) if error.downcast_ref().is_some_and(is_busy) => vigil.version = None,
                Err(error) => return Err(error),
            }
            if !self.wait_to_look(sleeper, &mut vigil, store)? {
                let peek = store.peek()?.with_context(|| NO_LEASE)?;
                let stop = self.signals.received().map_or(Stop::Idle, Stop::Signal);
                return Ok(Watched::Over(self.idle(store, &peek, stop)?));
            }
        }
    }

    fn look(
        &self,
        vigil: &mut Vigil,
        store: &mut Store,
        install: &Install,
    ) -> anyhow::Result<Seen> {
        let read_at = monotonic();
        let peek = vigil.peek(store)?.with_context(|| NO_LEASE)?;
        let cutoff = self.options.cutoff(peek.now);
        point("peek.done");
        vigil.next = peek.next();
        let mut is_work = !nothing_waits(&peek, peek.now)
            || slots::wait(&peek, install, self.config, cutoff)
            || sources::wait(&peek, install, self.config, cutoff);
        if !is_work && peek.next_due.is_none_or(|due| due > cutoff) {
            return Ok(Seen::Nothing(peek));
        }
        let states = store.type_states()?;
        if !is_work {
            let until = self.sleeper.map_or(cutoff, |_| UnixSeconds::MAX);
            let wants = |name: &str| self.options.wants(name);
            let start = next_start(store, self.config, &wants, &states, peek.now, until)?;
            vigil.next = earliest(start, peek.next_planned());
            is_work = start.is_some_and(|at| at <= cutoff);
        }
        if !is_work {
            return Ok(Seen::Nothing(peek));
        }
        Ok(Seen::Work(Work {
            peek,
            read_at,
            cutoff,
            states,
        }))
    }

    fn idle(&self, store: &mut Store, peek: &Peek, stop: Stop) -> anyhow::Result<Report> {
        idle(store, peek, self.options.cutoff(peek.now), stop)
    }

    /// Waits until a look is worth its while. False: the time is used up, or a signal came.
    fn wait_to_look(
        &self,
        sleeper: &Sleeper,
        vigil: &mut Vigil,
        store: &mut Store,
    ) -> anyhow::Result<bool> {
        loop {
            if self.is_over() {
                return Ok(false);
            }
            let wake_at = vigil.wake_at();
            if monotonic() < wake_at {
                self.sleep(sleeper, wake_at)?;
            } else if vigil.must_look(store)? {
                return Ok(true);
            }
        }
    }

    fn is_over(&self) -> bool {
        let out_of_time = self.deadline.is_some_and(|at| monotonic() >= at);
        out_of_time || self.signals.received().is_some()
    }

    fn sleep(&self, sleeper: &Sleeper, until: Instant) -> anyhow::Result<()> {
        let until = self.deadline.map_or(until, |deadline| deadline.min(until));
        Ok(sleeper.sleep(until)?)
    }
}

/// What is known of the tables between two looks.
struct Vigil {
    poll: Duration,
    /// What [`Store::version`] said before the last look; `None`: the next one cannot be spared.
    version: Option<i64>,
    /// When something may be started if nobody writes until then.
    next: Option<UnixSeconds>,
    /// A monotonic instant, and the clock that decides at it: how much of that second was over.
    clock: (Instant, UnixSeconds, Duration),
    /// Nothing is looked at before this but what was due to come.
    polls_at: Instant,
    /// How often it was asked whether a look could be spared, and how often it could not.
    polls: u64,
    looks: u64,
}

impl Vigil {
    fn new(poll: Duration) -> Self {
        let now = monotonic();
        Self {
            poll,
            version: None,
            next: None,
            clock: (now, UnixSeconds(0), Duration::ZERO),
            polls_at: now,
            polls: 0,
            looks: 0,
        }
    }

    /// When to wake: for the next poll, or for what is due before it.
    fn wake_at(&self) -> Instant {
        let (at, now, over) = self.clock;
        let Some(next) = self.next.filter(|next| *next > now) else {
            return self.polls_at;
        };
        let seconds = u64::try_from(next.since(now)).unwrap_or(0).min(3600);
        let begins = at + Duration::from_secs(seconds).saturating_sub(over) + BEHIND;
        self.polls_at.min(begins)
    }

    /// Whether a look could find anything new: something has become due, or somebody has written.
    /// Where the database does not tell, that takes a look.
    fn must_look(&mut self, store: &mut Store) -> DbResult<bool> {
        let at = monotonic();
        self.polls_at = at + self.poll;
        self.polls += 1;
        let Some((now, over)) = store.host_clock() else {
            return Ok(true);
        };
        self.clock = (at, now, over);
        let version = match store.version() {
            Err(error) if is_busy(&error) => return Ok(false),
            version => version?,
        };
        let is_new = version.is_none() || self.version != version;
        self.version = version;
        Ok(is_new || self.next.is_some_and(|next| next <= now))
    }

    fn peek(&mut self, store: &mut Store) -> DbResult<Option<Peek>> {
        let peek = store.peek()?;
        self.looks += 1;
        if let Some(peek) = &peek {
            self.clock = (monotonic(), peek.now, peek.over);
        }
        Ok(peek)
    }

    /// A round was made. One that came to nothing is not repeated before the next poll.
    fn after_round(&mut self, came_to_something: bool) {
        self.version = None;
        self.next = None;
        let now = monotonic();
        self.polls_at = if came_to_something {
            now
        } else {
            now + self.poll
        };
    }
}

fn is_busy(error: &DbError) -> bool {
    error.kind == DbErrorKind::Busy
}

impl Drop for Vigil {
    fn drop(&mut self) {
        if self.polls > 0 {
            log::info!("polled {} times, looked {} times", self.polls, self.looks);
        }
    }
}

impl Runner<'_> {
    /// Further rounds, each with a cutoff of its own, as long as the budget lasts.
    pub(super) fn linger(&mut self) -> Result<(), Trouble> {
        let mut vigil = Vigil::new(self.config.run.poll);
        while self.stop == Some(self.drained()) && self.events_left() > 0 {
            self.flush()?;
            let Some(states) = self.next_round(&mut vigil)? else {
                return Ok(());
            };
            let before = (self.total(), self.progress.waves);
            self.stop = None;
            self.open_lanes(&states, &Suspects::new())?;
            self.drain()?;
            vigil.after_round((self.total(), self.progress.waves) != before);
        }
        Ok(())
    }

    /// Waits until a type has something to start. `None`: the time is used up, or a signal came.
    fn next_round(&mut self, vigil: &mut Vigil) -> Result<Option<Vec<TypeState>>, Trouble> {
        loop {
            if let Some(number) = self.signals.received() {
                self.stop = Some(Stop::Signal(number));
                return Ok(None);
            }
            if self.is_out_of_time() {
                return Ok(None);
            }
            let wake_at = vigil.wake_at();
            if monotonic() < wake_at {
                let until = self.deadline.map_or(wake_at, |at| at.min(wake_at));
                self.pump(until)?;
                continue;
            }
            if !vigil.must_look(&mut self.store)? {
                continue;
            }
            match self.look(vigil) {
                Ok(None) => {}
                Ok(states) => return Ok(states),
                Err(Trouble::Db(error)) if is_busy(&error) => vigil.version = None,
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// Looks at the tables, and at the clock.
    fn peek(&mut self, vigil: &mut Vigil) -> Result<Peek, Trouble> {
        let read_at = monotonic();
        let peek = vigil.peek(&mut self.store)?;
        let peek = peek.filter(|peek| peek.lease.epoch == self.lease.epoch);
        let peek = peek.ok_or(Trouble::Fenced)?;
        self.anchor = (read_at, peek.now);
        point("peek.done");
        Ok(peek)
    }

    /// Makes events of slots that have come, and of what sources say. What the types stand at, if one of them has something
    /// to start now.
    fn look(&mut self, vigil: &mut Vigil) -> Result<Option<Vec<TypeState>>, Trouble> {
        let mut peek = self.peek(vigil)?;
        if peek.next_planned().is_some_and(|at| at <= peek.now) {
            self.cutoff = peek.now;
            self.make_slots(peek.next_slot)?;
            self.look_at_sources(peek.next_look)?;
            peek = self.peek(vigil)?;
        }
        let now = peek.now;
        vigil.next = peek.next();
        if peek.next_due.is_none_or(|due| due > now) {
            return Ok(None);
        }
        let states = self.store.type_states()?;
        let out: Vec<String> = self.types_left_alone().map(str::to_owned).collect();
        let wants = |name: &str| self.options.wants(name) && !out.iter().any(|out| out == name);
        let (store, config) = (&mut self.store, self.config);
        let start = next_start(store, config, &wants, &states, now, UnixSeconds::MAX)?;
        vigil.next = earliest(start, peek.next_planned());
        if start.is_none_or(|at| at > now) {
            return Ok(None);
        }
        self.cutoff = now;
        self.progress.cutoff = now;
        Ok(Some(states))
    }
}
