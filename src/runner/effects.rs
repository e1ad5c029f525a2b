//! Turns of in-transaction types: waves of effects, each wave one transaction cut at 50 ms
//! (DESIGN §5.9, §6).

use std::time::Duration;

use super::judge::{Health, judge};
use super::lane::{Lane, Work};
use super::waves::{SLICE, jitter, wave_of};
use super::{Part, Runner, Trouble, Unsure};
use crate::clock::monotonic;
use crate::db::{Db, DbResult, Dialect};
use crate::event::{Event, EventId};
use crate::fair::Through;
use crate::fault::point;
use crate::handler::{Verdict, sql};
use crate::store::effect::{Effects, Savepoints, WaveEnd};
use crate::store::settle::{Ack, Writer};

/// A write transaction of effects is committed once it has lasted this long: a site's own writes
/// wait no longer (RULINGS 14, 18).
const WRITE_LIMIT: Duration = Duration::from_millis(50);
/// How long SQLite's write lock is left free between two waves.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(25);

/// How often a wave whose rows changed under it is read again before it is taken apart.
const CHANGES: u32 = 3;

impl Runner<'_> {
    /// One turn: waves until `allowance` is used, the slice is over, or nothing is left. Returns
    /// how many events that took.
    pub(super) fn effects_turn(&mut self, at: usize, allowance: usize) -> Result<usize, Trouble> {
        let slice_end = monotonic() + SLICE;
        let mut used = 0;
        while used < allowance && monotonic() < slice_end {
            let began = monotonic();
            let step = self.effects_wave(at, allowance - used)?;
            if step == 0 {
                break;
            }
            used += step;
            self.tend(monotonic().duration_since(began))?;
            if self.signals.received().is_some() || self.is_out_of_time() {
                break;
            }
        }
        Ok(used)
    }

    /// Between waves the attempts of other types go on: what ended is collected, what is claimed
    /// is started, deadlines are kept (promise 9). On SQLite the pause also lets a site's writer
    /// in: it only looks from time to time whether the one write lock is free, so the lock has to
    /// be free for a fair part of the time (RULINGS 18, 43).
    fn tend(&mut self, worked: Duration) -> Result<(), Trouble> {
        let pause = match self.store.dialect() {
            Dialect::Sqlite => (worked / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE),
            Dialect::Mysql => Duration::ZERO,
        };
        let is_busy = self.lanes.iter().any(Lane::is_busy) || !self.pending.is_empty();
        if is_busy || !pause.is_zero() {
            self.pump(monotonic() + pause)?;
            self.start_queued()?;
        }
        Ok(())
    }

    /// One wave: trace, effects, record. Returns how many events it dealt with; 0: none is left.
    fn effects_wave(&mut self, at: usize, limit: usize) -> Result<usize, Trouble> {
        let now = self.read_clock()?;
        let limit = self.lanes[at].limit(limit, now);
        if limit == 0 || !self.lanes[at].wants_a_turn(now) {
            return Ok(0);
        }
        let lane = &mut self.lanes[at];
        let candidates = lane.next_candidates(&mut self.store, self.cutoff, limit)?;
        if candidates.is_empty() {
            return Ok(0);
        }
        let ids = self.admit(at, &candidates, now)?;
        if ids.is_empty() {
            return Ok(candidates.len());
        }
        self.trace(at, &ids)?;
        let events = self.store.ready_rows(&ids, self.cutoff)?;
        let acks = self.fire_effects(at, &events)?;
        let dealt_with = acks.len();
        let unstarted = ids.len().saturating_sub(dealt_with);
        if let Some(rate) = self.lanes[at].put_back_rate(unstarted) {
            self.store.write_rate(rate, now)?;
        }
        if let Some(last) = events.get(dealt_with.wrapping_sub(1))
            && dealt_with < events.len()
        {
            self.lanes[at].rewind_behind(Some(last)); // cut by time: the rest is next
        }
        Ok(candidates.len() - (events.len() - dealt_with))
    }

    /// Commits the wave's type and id range before any effect, so that a crash leaves a trace and
    /// a poison event is found (RULINGS 20).
    fn trace(&mut self, at: usize, ids: &[EventId]) -> Result<(), Trouble> {
        let (read_at, now) = self.anchor;
        self.progress.wave = Some(wave_of(self.lanes[at].name(), ids));
        self.progress.waves += 1;
        self.refresh_progress();
        let rate = self.lanes[at].take_rate(ids.len());
        let gate = self.lease.gate(now);
        self.store
            .trace_wave(gate, self.run_id, &self.progress, rate)?;
        point("trace.committed");
        self.lease.passed(read_at);
        Ok(())
    }

    fn fire_effects(&mut self, at: usize, events: &[Event]) -> Result<Vec<Ack>, Trouble> {
        let mut savepoints = Savepoints::Wave;
        let mut events = events.to_vec();
        let mut changes = 0;
        loop {
            if events.is_empty() {
                return Ok(Vec::new());
            }
            match self.try_effects(at, &events, savepoints)? {
                WaveEnd::Committed { acks, superseded } => {
                    point("wave.committed");
                    self.progress.wave = None;
                    log::debug!("effects of {} events committed", acks.len());
                    self.count_effects(&acks, &superseded);
                    let last = acks.len().checked_sub(1).and_then(|last| events.get(last));
                    self.lanes[at].position = last.map(|event| (event.due_at, event.id));
                    self.note_breakers()?;
                    self.tell();
                    return Ok(acks);
                }
                WaveEnd::EffectFailed => savepoints = Savepoints::Each,
                WaveEnd::Changed if events.len() == 1 && changes > CHANGES => {
                    return self.fail_meddler(at, &events[0]);
                }
                WaveEnd::Changed => {
                    changes += 1;
                    // Somebody cancels events as fast as we read them, or an effect touches its
                    // own row: one at a time tells which.
                    events.truncate(if changes > CHANGES { 1 } else { events.len() });
                    let ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
                    events = self.store.ready_rows(&ids, self.cutoff)?;
                }
                WaveEnd::Blocked(error) => return self.leave_blocked(at, &error.message),
                WaveEnd::Broken(error) => return self.fail_broken(at, &events, &error.message),
            }
        }
    }

    /// Takes the trace of a wave away that was not committed as a whole.
    fn forget_wave(&mut self) -> Result<(), Trouble> {
        self.progress.wave = None;
        Ok(self.store.clear_wave(self.run_id)?)
    }

    fn try_effects(
        &mut self,
        at: usize,
        events: &[Event],
        savepoints: Savepoints,
    ) -> Result<WaveEnd, Trouble> {
        let (read_at, now) = self.anchor;
        let lane = &self.lanes[at];
        let Work::Effects(statements) = &lane.work else {
            return Ok(WaveEnd::Changed);
        };
        let config = &lane.config;
        let began = std::cell::Cell::new(monotonic());
        let wave_began = std::cell::Cell::new(monotonic());
        // The type's breaker, by what this wave has met so far; it stands once that is committed.
        let breaker = std::cell::RefCell::new(lane.breaker.clone());
        let mut effect = |db: &mut dyn Db, event: &Event| {
            began.set(monotonic());
            sql::run(statements, db, event, now)
        };
        let mut verdict = |event: &Event, result: DbResult<()>| {
            let verdict = match result {
                Ok(()) => Verdict::Done,
                Err(error) => Verdict::failed(error.message),
            };
            let (fate, health) = judge(config, event, verdict, now, jitter());
            health.tell(&mut breaker.borrow_mut(), now);
            let took = monotonic().duration_since(began.get()).as_millis();
            Ack {
                id: event.id,
                type_name: event.type_name.clone(),
                started_at: Some(now.max(event.due_at)),
                duration_ms: i64::try_from(took).unwrap_or(i64::MAX),
                fate,
            }
        };
        let mut enough = |first: bool| {
            if first {
                wave_began.set(monotonic());
                *breaker.borrow_mut() = lane.breaker.clone();
                return false;
            }
            let is_long = monotonic().duration_since(wave_began.get()) >= WRITE_LIMIT;
            is_long || breaker.borrow().lets(now) == Through::Nothing
        };
        let writer = Writer::plain(Some(self.run_id), now);
        let unsure = |event: &Event| Unsure {
            id: event.id,
            type_name: event.type_name.clone(),
            part: Part::Fired,
        };
        self.unsure_endings = events.iter().map(unsure).collect();
        let end = self.store.effect_wave(
            self.lease.gate(now),
            writer,
            events,
            savepoints,
            &mut Effects {
                run: &mut effect,
                judge: &mut verdict,
                enough: &mut enough,
            },
        )?;
        let breaker = breaker.into_inner();
        if matches!(end, WaveEnd::Committed { .. }) {
            self.lease.passed(read_at); // else the renewal was rolled back too
            self.lanes[at].breaker = breaker;
        }
        self.unsure_endings.clear();
        Ok(end)
    }

    fn count_effects(&mut self, acks: &[Ack], superseded: &[EventId]) {
        for ack in acks {
            self.counts_of(&ack.type_name).fired += 1;
            self.count(ack, superseded.contains(&ack.id));
        }
    }

    /// Somebody else holds a lock that the type's effects need: they are left for another run, and
    /// no try of theirs is spent (RULINGS 22).
    fn leave_blocked(&mut self, at: usize, message: &str) -> Result<Vec<Ack>, Trouble> {
        let now = self.read_clock()?;
        let lane = &mut self.lanes[at];
        lane.give_up();
        lane.judge_health(Health::Bad, now);
        let name = lane.name().to_owned();
        self.forget_wave()?;
        self.log(None, &name, "type blocked", message)?;
        self.note_breakers()?;
        Ok(Vec::new())
    }

    /// An effect that changes its own event's row can never be recorded.
    fn fail_meddler(&mut self, at: usize, event: &Event) -> Result<Vec<Ack>, Trouble> {
        let now = self.read_clock()?;
        let lane = &mut self.lanes[at];
        lane.judge_health(Health::Bad, now);
        let verdict = Verdict::failed("its statements change its own row in scheduled_events");
        let (fate, _) = judge(&lane.config, event, verdict, now, jitter());
        let acks = vec![Ack::unstarted(event, fate)];
        self.counts_of(&event.type_name).fired += 1;
        self.settle_unclaimed(&acks, now)?;
        self.forget_wave()?;
        self.note_breakers()?;
        Ok(acks)
    }

    /// An effect ended the transaction by itself: what it did stands, unrecorded. The type fails:
    /// its events of this wave count a failed try each, and nothing more of it starts in this run.
    fn fail_broken(
        &mut self,
        at: usize,
        events: &[Event],
        message: &str,
    ) -> Result<Vec<Ack>, Trouble> {
        let now = self.read_clock()?;
        let lane = &mut self.lanes[at];
        lane.give_up();
        lane.judge_health(Health::Bad, now);
        let error = format!("a statement ended the transaction by itself: {message}");
        let acks: Vec<Ack> = events
            .iter()
            .map(|event| {
                let verdict = Verdict::failed(error.as_str());
                let (fate, _) = judge(&lane.config, event, verdict, now, jitter());
                Ack::unstarted(event, fate)
            })
            .collect();
        let name = lane.name().to_owned();
        self.counts_of(&name).fired += i64::try_from(acks.len()).unwrap_or(0);
        self.settle_unclaimed(&acks, now)?;
        self.forget_wave()?;
        self.log(None, &name, "type failed", &error)?;
        self.note_breakers()?;
        Ok(acks)
    }
}
