//! Turns of sweeps: `sql` types with `repeat_until_empty`, whose statements are run pass after pass
//! until a pass changes no row.
//!
//! A pass is a wave of one event (see `effects`): its trace, then the statements once, in one
//! transaction that the lease gates. The pass that changes no row records the event as done in that
//! transaction; every other leaves the row `ready` and marks it as begun (`first_due_at`, and in
//! `claim_epoch` who swept it last), which counts no try and no loss. So whatever ends the run
//! between two passes, the budget or `kill -9`, what is committed stands and the next tick goes
//! on; a run that dies within a pass leaves its trace, and counts one loss as with any event that
//! was in hand. A row that somebody cancels or puts off is noticed by the mark, which then matches
//! nothing: that pass is rolled back. A failed pass is a failed try; those before it stand.
//!
//! A type has one sweep in hand at a time. Passes follow each other within one slice, then the
//! other types take their turns; between two passes attempts beside the runner go on. A pause
//! (`chunk_pause`) and the wait for replicas that are behind (`lag`) end the turn: the lane has no
//! room until they are over, and nobody waits for it.
//!
//! A sweep has no greatest number of passes: one of a large table may rightly take days. What is
//! bounded is the run: by its own budget, by `timeout`, and where there is neither by
//! [`NO_BUDGET`]. Each run that cuts a sweep says so in `event_log`, and an event's `expires_at`
//! ends it for good.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use super::acks::{Moved, positions};
use super::effects::CHANGES;
use super::judge::{Health, is_begun_sweep, judge, too_late};
use super::lane::Work;
use super::waves::{SLICE, jitter};
use super::{Part, Runner, Stop, Trouble, Unsure};
use crate::clock::{UnixSeconds, monotonic};
use crate::config::SweepConfig;
use crate::db::{Db, DbResult, Dialect};
use crate::event::{Event, EventId};
use crate::fault::point;
use crate::handler::{Verdict, sql};
use crate::store::Store;
use crate::store::effect::{Effected, Effects, Recorded, Run, Savepoints, WaveEnd};
use crate::store::settle::{Ack, Fate, Writer};

/// The longest that a type sweeps in a run that may last for ever: an endless sweep would keep it
/// from ever looking at what became due meanwhile.
const NO_BUDGET: Duration = Duration::from_mins(1);
/// `lag` is asked at most this often.
const LAG_EVERY: Duration = Duration::from_secs(1);
/// Replicas that stay behind for so long are left to catch up: the next tick asks again.
const LAG_PATIENCE: Duration = Duration::from_secs(10);

/// The work of a type that sweeps.
pub(super) struct Sweep {
    statements: Vec<sql::Statement>,
    lag: Option<sql::Statement>,
    config: SweepConfig,
    /// What it is in the middle of.
    pub(super) in_hand: Option<Swept>,
    /// All that it did in this run.
    pub(super) made: Made,
    /// No pass before this instant.
    rests_until: Option<Instant>,
    /// When the type is left alone in this run.
    ends_at: Option<Instant>,
    /// When `lag` was last answered.
    lag_read_at: Option<Instant>,
    /// Since when replicas are too far behind, and how far.
    behind: Option<(Instant, Option<f64>)>,
    /// Why it was left alone before its sweep was over.
    left: Option<Stop>,
}

/// A sweep in hand.
pub(super) struct Swept {
    id: EventId,
    began: Instant,
    began_at: UnixSeconds,
    made: Made,
    /// Whether its guard has let it through.
    is_admitted: bool,
    /// Whether this run has counted it.
    pub(super) is_started: bool,
}

/// Passes that changed rows, and how many rows they changed.
#[derive(Clone, Copy, Default)]
pub(super) struct Made {
    pub(super) passes: u64,
    pub(super) rows: u64,
}

impl Made {
    pub(super) fn count(&mut self, rows: u64) {
        self.passes += 1;
        self.rows += rows;
    }
}

impl Sweep {
    pub(super) fn new(
        config: &SweepConfig,
        statements: Vec<sql::Statement>,
        dialect: Dialect,
    ) -> Result<Self, String> {
        let lag = config.lag.as_ref().map(|text| {
            let compiled = sql::compile_lag(text, dialect);
            compiled.map_err(|error| format!("lag: {error}"))
        });
        Ok(Self {
            statements,
            lag: lag.transpose()?,
            config: config.clone(),
            in_hand: None,
            made: Made::default(),
            rests_until: None,
            ends_at: None,
            lag_read_at: None,
            behind: None,
            left: None,
        })
    }

    /// The end of its pause, if it makes one.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rests_until.filter(|until| *until > monotonic())
    }

    fn rest(&mut self, pause: Duration) {
        self.rests_until = Some(monotonic() + pause);
    }
}

impl Runner<'_> {
    /// One turn: passes until the slice is over, the type rests, or nothing of it is left. Returns
    /// how many passes that took.
    pub(super) fn sweep_turn(&mut self, at: usize) -> Result<usize, Trouble> {
        let slice_end = monotonic() + SLICE;
        let mut passes = 0;
        loop {
            let began = monotonic();
            if !self.next_pass(at)? {
                return Ok(passes);
            }
            passes += 1;
            self.tend(monotonic().duration_since(began))?;
            let now = self.time_at(monotonic());
            if monotonic() >= slice_end
                || self.signals.received().is_some()
                || self.is_out_of_time()
                || !self.lanes[at].may_take_a_turn(now)
            {
                return Ok(passes);
            }
        }
    }

    /// The lane's work, which the caller knows to be a sweep.
    fn sweep_of(&mut self, at: usize) -> &mut Sweep {
        match &mut self.lanes[at].work {
            Work::Sweep(sweep) => sweep,
            Work::Effects(_) | Work::Jobs(_) | Work::Beside(_) => {
                unreachable!("only a sweep takes such a turn")
            }
        }
    }

    /// Makes the next pass of the sweep in hand, or of the next event. False: there is none now.
    fn next_pass(&mut self, at: usize) -> Result<bool, Trouble> {
        let now = self.read_clock()?;
        let began = monotonic();
        let Some((event, version)) = self.next_to_sweep(at, now)? else {
            return Ok(false);
        };
        if !self.may_sweep(at, &event, now)? {
            return Ok(false);
        }
        if !self.is_admitted(at, &event, now)? {
            self.sweep_of(at).in_hand = None;
            return Ok(true);
        }
        self.reading = monotonic().duration_since(began);
        self.trace(at, &[event.id])?;
        self.pass(at, event, version)?;
        Ok(true)
    }

    /// The event in hand as it is now, or the next.
    fn next_to_sweep(
        &mut self,
        at: usize,
        now: UnixSeconds,
    ) -> Result<Option<(Event, Option<i64>)>, Trouble> {
        if let Some(id) = self.sweep_of(at).in_hand.as_ref().map(|swept| swept.id) {
            let version = self.store.version()?;
            if let Some(event) = self.store.ready_rows(&[id], self.cutoff)?.pop() {
                return Ok(Some((event, version)));
            }
            // Somebody has cancelled it, or put it off.
            self.sweep_of(at).in_hand = None;
        }
        if self.events_left() == 0 {
            return Ok(None);
        }
        let (batch, _) = self.lanes[at].next_effects(&mut self.store, self.cutoff, 1)?;
        let version = batch.version;
        let events = self.store.with_payloads(batch.candidates, self.cutoff)?;
        let Some(event) = events.into_iter().next() else {
            if batch.is_last {
                self.lanes[at].reached_the_end();
            }
            return Ok(None);
        };
        self.sweep_of(at).in_hand = Some(Swept {
            id: event.id,
            began: monotonic(),
            began_at: now,
            made: Made::default(),
            is_admitted: false,
            is_started: false,
        });
        Ok(Some((event, version)))
    }

    /// Whether a pass may be made now: the type's time is not used up, and replicas keep up.
    fn may_sweep(&mut self, at: usize, event: &Event, now: UnixSeconds) -> Result<bool, Trouble> {
        let is_bounded = self.deadline.is_some();
        let sweep = self.sweep_of(at);
        if sweep.ends_at.is_none() {
            let longest = longest(&sweep.config, is_bounded);
            sweep.ends_at = longest.map(|longest| monotonic() + longest);
        }
        if sweep.ends_at.is_some_and(|at| monotonic() >= at) {
            self.leave_sweep(at, Stop::MaxTime, "its timeout")?;
            return Ok(false);
        }
        self.replicas_keep_up(at, event, now)
    }

    fn replicas_keep_up(
        &mut self,
        at: usize,
        event: &Event,
        now: UnixSeconds,
    ) -> Result<bool, Trouble> {
        let sweep = self.sweep_of(at);
        let is_fresh = |read: Instant| monotonic().duration_since(read) < LAG_EVERY;
        let Some(lag) = sweep.lag.clone() else {
            return Ok(true);
        };
        if sweep.behind.is_none() && sweep.lag_read_at.is_some_and(is_fresh) {
            return Ok(true);
        }
        let most = sweep.config.max_lag;
        let found = match sql::seconds(&lag, self.store.db(), event, now) {
            Ok(found) => found,
            Err(error) if error.is_database_trouble() => return Err(error.into()),
            Err(error) => {
                self.leave_misconfigured(at, &format!("lag: {error}"))?;
                return Ok(false);
            }
        };
        let read_at = monotonic();
        let sweep = self.sweep_of(at);
        sweep.lag_read_at = Some(read_at);
        if found.is_some_and(|seconds| seconds <= most.as_secs_f64()) {
            sweep.behind = None;
            return Ok(true);
        }
        let (since, _) = sweep.behind.unwrap_or((read_at, found));
        sweep.behind = Some((since, found));
        sweep.rest(LAG_EVERY);
        if read_at.duration_since(since) >= LAG_PATIENCE {
            let why = how_far_behind(found, most);
            self.leave_sweep(at, Stop::DatabaseLag, &why)?;
        }
        Ok(false)
    }

    /// Whether the event may be swept: it has not expired, and before its first pass and before
    /// each new try of it is not too late and let through by its guard.
    fn is_admitted(&mut self, at: usize, event: &Event, now: UnixSeconds) -> Result<bool, Trouble> {
        let is_admitted = |swept: &Swept| swept.is_admitted;
        let is_known = self.sweep_of(at).in_hand.as_ref().is_some_and(is_admitted);
        let lane = &self.lanes[at];
        if let Some(fate) = too_late(&lane.config, event, now) {
            self.settle_unclaimed(&[Ack::unstarted(event, fate)], now)?;
            return Ok(false);
        }
        let goes_on = is_begun_sweep(&lane.config, event) && event.is_first_attempt();
        if !is_known
            && !goes_on
            && let Some(guard) = lane.guard.clone()
        {
            let mut settled = Vec::new();
            let kept = self.guarded(at, &guard, &[event.id], now, &mut settled)?;
            self.settle_unclaimed(&settled, now)?;
            if kept.is_empty() {
                return Ok(false);
            }
        }
        if let Some(swept) = &mut self.sweep_of(at).in_hand {
            swept.is_admitted = true;
        }
        Ok(true)
    }

    /// One pass, whose trace is committed.
    fn pass(
        &mut self,
        at: usize,
        mut event: Event,
        mut version: Option<i64>,
    ) -> Result<(), Trouble> {
        let mut savepoints = Savepoints::Wave;
        let mut changes = 0;
        loop {
            match self.try_pass(at, (&event, version), savepoints)? {
                (WaveEnd::Committed(recorded), rows) => {
                    point("wave.committed");
                    return self.note_pass(at, &event, &recorded, rows);
                }
                (WaveEnd::EffectFailed, _) => savepoints = Savepoints::Each,
                (WaveEnd::Changed, _) => {
                    changes += 1;
                    version = self.store.version()?;
                    let found = self.store.ready_rows(&[event.id], self.cutoff)?.pop();
                    match found {
                        None => {
                            self.sweep_of(at).in_hand = None;
                            return self.forget_wave();
                        }
                        Some(_) if changes > CHANGES => {
                            self.count_start(at);
                            self.sweep_of(at).in_hand = None;
                            return self.fail_meddler(at, &event).map(drop);
                        }
                        Some(found) => event = found,
                    }
                }
                (WaveEnd::Blocked(error), _) => {
                    let swept = self.sweep_of(at).in_hand.take();
                    self.note_cut(at, swept, "a lock that somebody else holds")?;
                    return self.leave_blocked(at, &error.message).map(drop);
                }
                (WaveEnd::Broken(error), _) => {
                    self.count_start(at);
                    self.sweep_of(at).in_hand = None;
                    let events = std::slice::from_ref(&event);
                    return self.fail_broken(at, events, &error.message).map(drop);
                }
            }
        }
    }

    /// Runs the statements once. Returns how many rows they changed, too.
    fn try_pass(
        &mut self,
        at: usize,
        (event, version): (&Event, Option<i64>),
        savepoints: Savepoints,
    ) -> Result<(WaveEnd, u64), Trouble> {
        let (read_at, now) = self.anchor;
        let (run_id, epoch) = (self.run_id, self.lease.epoch);
        let mut progress = self.progress.clone();
        progress.wave = None;
        progress.counts = self.total();
        let lane = &self.lanes[at];
        let Work::Sweep(sweep) = &lane.work else {
            return Ok((WaveEnd::Changed, 0));
        };
        let swept = sweep.in_hand.as_ref();
        let began = swept.map_or_else(monotonic, |swept| swept.began);
        let began_at = swept.map_or(now, |swept| swept.began_at);
        let rows = Cell::new(0);
        let breaker = RefCell::new(lane.breaker.clone());
        let mut effect = |db: &mut dyn Db, event: &Event| {
            rows.set(0);
            rows.set(sql::run(&sweep.statements, db, event, now)?);
            Ok(Effected::Done)
        };
        let mut verdict = |event: &Event, result: DbResult<Effected>| {
            let (fate, health) = match result {
                Ok(_) if rows.get() > 0 => (Fate::GoOn { epoch }, Health::Good),
                Ok(_) => judge(&lane.config, event, Verdict::Done, now, jitter),
                Err(error) => {
                    let verdict = Verdict::failed(error.message);
                    judge(&lane.config, event, verdict, now, jitter)
                }
            };
            *breaker.borrow_mut() = lane.breaker.clone();
            health.tell(&mut breaker.borrow_mut(), now);
            let took = monotonic().duration_since(began).as_millis();
            Ack {
                id: event.id,
                type_name: event.type_name.clone(),
                started_at: Some(began_at.max(event.first_due())),
                duration_ms: i64::try_from(took).unwrap_or(i64::MAX),
                fate,
            }
        };
        let mut last = |store: &mut Store, recorded: &Recorded| {
            let goes_on = |ack: &Ack| matches!(ack.fate, Fate::GoOn { .. });
            if !recorded.acks.iter().any(goes_on) {
                return store.clear_wave(run_id);
            }
            let moved = Moved {
                lane: at,
                place: (event.due_at, event.id),
                pass: Some(rows.get()),
            };
            progress.positions = positions(&self.lanes, Some(&moved));
            store.write_progress(run_id, &progress)
        };
        let named = std::iter::once((event.type_name.as_str(), event.id));
        self.unsure_endings = Some(Unsure::new(Part::Fired, named));
        let end = self.store.effect_wave(
            self.lease.gate(now),
            Writer::plain(Some(run_id), now),
            (std::slice::from_ref(event), version),
            savepoints,
            &mut Effects {
                run: Run::Each(&mut effect),
                judge: &mut verdict,
                enough: &mut |_| false,
                last: &mut last,
            },
        )?;
        let breaker = breaker.into_inner();
        if matches!(end, WaveEnd::Committed(_)) {
            self.lease.passed(read_at);
            self.lanes[at].breaker = breaker;
        }
        self.unsure_endings = None;
        Ok((end, rows.get()))
    }

    fn note_pass(
        &mut self,
        at: usize,
        event: &Event,
        recorded: &Recorded,
        rows: u64,
    ) -> Result<(), Trouble> {
        self.count_start(at);
        self.progress.wave = None;
        self.lanes[at].position = Some((event.due_at, event.id));
        for ack in &recorded.acks {
            self.count(ack, recorded.superseded.contains(&ack.id));
            let sweep = self.sweep_of(at);
            if !matches!(ack.fate, Fate::GoOn { .. }) {
                sweep.in_hand = None;
                continue;
            }
            log::debug!("a pass of event {} changed {rows} rows", ack.id);
            sweep.made.count(rows);
            if let Some(swept) = &mut sweep.in_hand {
                swept.made.count(rows);
            }
            if !sweep.config.chunk_pause.is_zero() {
                sweep.rest(sweep.config.chunk_pause);
            }
        }
        self.note_breakers()?;
        self.tell();
        Ok(())
    }

    /// An event counts as started once a run.
    fn count_start(&mut self, at: usize) {
        let Some(swept) = &mut self.sweep_of(at).in_hand else {
            return;
        };
        if !std::mem::replace(&mut swept.is_started, true) {
            self.count_fired(at, 1);
        }
    }

    /// Counts an effect that was recorded by a COMMIT without an answer.
    pub(super) fn count_recorded(&mut self, type_name: &str) {
        if !self.count_pass(type_name) {
            self.counts_of(type_name).fired += 1;
        }
    }

    /// Counts the event in hand, where this is a type that sweeps. False: it is not.
    pub(super) fn count_pass(&mut self, type_name: &str) -> bool {
        let sweeps = |work: &Work| matches!(work, Work::Sweep(_));
        let mut lanes = self.lanes.iter();
        let at = lanes.position(|lane| lane.name() == type_name && sweeps(&lane.work));
        if let Some(at) = at {
            self.count_start(at);
        }
        at.is_some()
    }

    /// Leaves the type alone for the rest of this run, in the middle of a sweep.
    fn leave_sweep(&mut self, at: usize, stop: Stop, why: &str) -> Result<(), Trouble> {
        self.lanes[at].give_up();
        let sweep = self.sweep_of(at);
        sweep.left = Some(stop);
        sweep.rests_until = None;
        let swept = sweep.in_hand.take();
        self.note_cut(at, swept, why)
    }

    /// Its `lag` cannot be asked: it is left alone until the configuration is put right.
    fn leave_misconfigured(&mut self, at: usize, error: &str) -> Result<(), Trouble> {
        let lane = &mut self.lanes[at];
        lane.give_up();
        let name = lane.name().to_owned();
        self.sweep_of(at).in_hand = None;
        self.log(None, &name, "type failed", error)?;
        let why = format!("[type.{name}] {error}");
        self.misconfigured.insert(name, why);
        Ok(())
    }

    fn note_cut(&mut self, at: usize, swept: Option<Swept>, why: &str) -> Result<(), Trouble> {
        let Some(swept) = swept else {
            return Ok(());
        };
        let name = self.lanes[at].name().to_owned();
        let Made { passes, rows } = swept.made;
        let detail =
            format!("by {why}, after {passes} passes of {rows} rows; the next run goes on");
        self.log(Some(swept.id), &name, "sweep cut", &detail)
    }

    /// Says of each sweep in hand that the end of the run has cut it.
    pub(super) fn note_cut_sweeps(&mut self) -> Result<(), Trouble> {
        let Some(stop) = self.stop else {
            return Ok(());
        };
        for at in 0..self.lanes.len() {
            let Work::Sweep(sweep) = &mut self.lanes[at].work else {
                continue;
            };
            let swept = sweep.in_hand.take();
            let behind = sweep.behind.map(|(_, found)| found);
            let why = match behind {
                Some(found) => how_far_behind(found, sweep.config.max_lag),
                None => stop.as_str().to_owned(),
            };
            // Another run may have gone on with it by now.
            if stop != Stop::Fenced {
                self.note_cut(at, swept, &why)?;
            }
        }
        Ok(())
    }

    /// Why a run ends that finds nothing more to do: nothing is left, or only sweeps that were left
    /// alone.
    pub(super) fn drained(&self) -> Stop {
        let left = |wanted: Stop| {
            self.lanes.iter().any(|lane| {
                let Work::Sweep(sweep) = &lane.work else {
                    return false;
                };
                sweep.left == Some(wanted)
            })
        };
        let mut stops = [Stop::DatabaseLag, Stop::MaxTime].into_iter();
        stops.find(|stop| left(*stop)).unwrap_or(Stop::Drained)
    }

    /// `stop`, unless the time was used up by nothing but waiting for replicas.
    pub(super) fn unless_behind(&self, stop: Stop) -> Stop {
        let now = self.time_at(monotonic());
        let mut waiting = self
            .lanes
            .iter()
            .filter(|lane| lane.wants_a_turn(now))
            .peekable();
        let is_behind = |work: &Work| matches!(work, Work::Sweep(sweep) if sweep.behind.is_some());
        if stop == Stop::MaxTime
            && waiting.peek().is_some()
            && waiting.all(|lane| is_behind(&lane.work))
        {
            return Stop::DatabaseLag;
        }
        stop
    }
}

/// The longest that a type sweeps in one run, in which the run itself may be bounded.
fn longest(config: &SweepConfig, is_bounded: bool) -> Option<Duration> {
    config.timeout.or((!is_bounded).then_some(NO_BUDGET))
}

/// Why replicas are too far behind, for a person.
fn how_far_behind(found: Option<f64>, most: Duration) -> String {
    let most = most.as_secs_f64();
    match found {
        Some(seconds) => format!("database_lag: {seconds} s behind, max_lag is {most} s"),
        None => "database_lag: `lag` gave no number".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_run_lets_a_sweep_go_on_for_ever() {
        let timeout = Some(Duration::from_hours(2));
        let said = SweepConfig {
            timeout,
            ..SweepConfig::default()
        };
        let silent = SweepConfig::default();
        assert_eq!(longest(&silent, true), None, "the run's budget ends it");
        assert_eq!(longest(&silent, false), Some(NO_BUDGET));
        assert_eq!(longest(&said, true), timeout);
        assert_eq!(longest(&said, false), timeout);
    }
}
