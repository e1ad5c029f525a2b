//! Turns of in-transaction types: waves of effects, each wave one transaction cut at 50 ms
//! (DESIGN §5.9, §6).

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use super::acks::{Moved, positions, tally};
use super::judge::{Health, judge};
use super::lane::{Batch, Lane, Work, wave_of};
use super::waves::{SLICE, jitter};
use super::{Part, Runner, Trouble, Unsure};
use crate::clock::{UnixSeconds, monotonic};
use crate::db::{Db, DbResult, Dialect};
use crate::event::{Event, EventId};
use crate::fair::Through;
use crate::fault::point;
use crate::handler::mediawiki_job::{Job, JobTable, Pushed};
use crate::handler::{Verdict, sql};
use crate::store::Store;
use crate::store::effect::{Effected, Effects, Recorded, Run, Savepoints, WaveEnd};
use crate::store::peek::Cursor;
use crate::store::runs::Progress;
use crate::store::settle::{Ack, Fate, Writer};

/// A write transaction of effects is committed once it has lasted this long: a site's own writes
/// wait no longer (RULINGS 14, 18).
const WRITE_LIMIT: Duration = Duration::from_millis(50);
/// How long SQLite's write lock is left free between two waves.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(25);

/// How often a wave whose rows changed under it is read again before it is taken apart.
pub(super) const CHANGES: u32 = 3;

/// What history says of an event whose job was there already.
const DUPLICATE: &str = "duplicate of a job that waits";

/// What came of a wave.
#[derive(Default)]
pub(super) struct Dealt {
    /// How many events were recorded.
    events: usize,
    rest: Rest,
}

/// What is left of a wave.
#[derive(Default)]
pub(super) enum Rest {
    /// Nothing.
    #[default]
    None,
    /// It was cut here: the rest is next.
    Behind(Cursor),
    /// The type is left alone by this run.
    GivenUp,
}

impl Runner<'_> {
    /// One turn: waves until `allowance` is used, the slice is over, or nothing is left. Returns
    /// how many events that took.
    pub(super) fn effects_turn(&mut self, at: usize, allowance: usize) -> Result<usize, Trouble> {
        let slice_end = monotonic() + SLICE;
        let mut used = 0;
        while used < allowance && monotonic() < slice_end {
            let began = monotonic();
            let limit = (allowance - used).min(self.options.batch_size);
            let step = self.effects_wave(at, limit)?;
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
    /// is started, deadlines are kept (promise 9). On SQLite a site's writer is let in as well: it
    /// only looks from time to time whether the one write lock is free, so the lock has to be free
    /// for a fair part of the time (RULINGS 18, 43). It is while we read, too; what is wanting is
    /// made up for in pauses, which would last too long if they were much shorter.
    pub(super) fn tend(&mut self, worked: Duration) -> Result<(), Trouble> {
        if self.store.dialect() == Dialect::Sqlite {
            let writing = worked.saturating_sub(self.reading);
            let free = (writing / 5).min(LONGEST_PAUSE);
            self.pause_due = (self.pause_due + free).saturating_sub(self.reading);
        }
        let pause = if self.pause_due < SHORTEST_PAUSE {
            Duration::ZERO
        } else {
            self.pause_due.min(LONGEST_PAUSE)
        };
        let is_busy = self.lanes.iter().any(Lane::is_busy) || !self.pending.is_empty();
        if is_busy || !pause.is_zero() {
            let began = monotonic();
            self.pump(began + pause)?;
            self.pause_due = self
                .pause_due
                .saturating_sub(monotonic().duration_since(began));
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
        let began = monotonic();
        let (batch, is_next) = self.lanes[at].next_effects(&mut self.store, self.cutoff, limit)?;
        let is_traced =
            is_next && self.progress.wave == Some(wave_of(self.lanes[at].name(), &batch.ids()));
        let looked_at = batch.candidates.len();
        let is_alone = batch
            .candidates
            .first()
            .is_some_and(|candidate| self.lanes[at].is_suspect(&candidate.event));
        let admitted: HashSet<EventId> = self
            .admit(at, &batch.candidates, now)?
            .into_iter()
            .collect();
        let mut candidates = batch.candidates;
        candidates.retain(|candidate| admitted.contains(&candidate.event.id));
        let events = self.store.with_payloads(candidates, self.cutoff)?;
        self.reading = monotonic().duration_since(began);
        let count = events.len();
        let mut wave = Dealt::default();
        if count > 0 {
            if !is_traced || is_alone {
                let ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
                self.trace(at, &ids)?;
            }
            wave = self.fire_effects(at, (events, batch.version), batch.is_last, limit)?;
            if let Some(rate) = self.lanes[at].put_back_rate(count - wave.events.min(count)) {
                self.store.write_rate(rate, now)?;
            }
        }
        let lane = &mut self.lanes[at];
        match wave.rest {
            Rest::None if batch.is_last => lane.reached_the_end(),
            Rest::None | Rest::GivenUp => {}
            // Cut: the rest is next.
            Rest::Behind(cursor) => {
                lane.go_to(cursor);
                return Ok(wave.events.max(1));
            }
        }
        Ok(looked_at)
    }

    /// Commits the wave's type and id range before any effect, so that a crash leaves a trace and
    /// a poison event is found (RULINGS 20).
    pub(super) fn trace(&mut self, at: usize, ids: &[EventId]) -> Result<(), Trouble> {
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

    fn fire_effects(
        &mut self,
        at: usize,
        (mut events, mut version): (Vec<Event>, Option<i64>),
        is_last: bool,
        limit: usize,
    ) -> Result<Dealt, Trouble> {
        let mut savepoints = Savepoints::Wave;
        let mut changes = 0;
        let mut rest = Rest::None;
        let mut next = self.look_ahead(at, &events, is_last, limit)?;
        loop {
            if events.is_empty() {
                return Ok(Dealt { events: 0, rest });
            }
            match self.try_effects(at, (&events, version), savepoints, next.as_ref())? {
                (WaveEnd::Committed(recorded), announced) => {
                    point("wave.committed");
                    let dealt_with = recorded.acks.len();
                    log::debug!("effects of {dealt_with} events committed");
                    self.count_effects(&recorded);
                    let lane = &mut self.lanes[at];
                    let rest_of_it = events.split_off(dealt_with.min(events.len()));
                    if let Some(last) = events.last() {
                        lane.position = Some((last.due_at, last.id));
                        if !rest_of_it.is_empty() {
                            rest = Rest::Behind(Cursor::behind(last));
                        }
                    }
                    self.progress.wave = None;
                    if let Some(progress) = announced {
                        self.progress = progress;
                        let ahead = next.filter(|_| rest_of_it.is_empty());
                        lane.announce(match ahead {
                            Some(ahead) => ahead,
                            None => lane.rest_of(rest_of_it, version, is_last),
                        });
                    }
                    self.note_breakers()?;
                    self.tell();
                    let events = dealt_with;
                    return Ok(Dealt { events, rest });
                }
                (WaveEnd::EffectFailed, _) => savepoints = Savepoints::Each,
                (WaveEnd::Changed, _) if events.len() == 1 && changes > CHANGES => {
                    self.count_fired(at, 1);
                    return self.fail_meddler(at, &events[0]);
                }
                (WaveEnd::Changed, _) => {
                    changes += 1;
                    // Somebody cancels events as fast as we read them, or an effect touches its
                    // own row: one at a time tells which.
                    if changes > CHANGES && events.len() > 1 {
                        events.truncate(1);
                        rest = Rest::Behind(Cursor::behind(&events[0]));
                        next = None;
                    }
                    let ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
                    version = self.store.version()?;
                    events = self.store.ready_rows(&ids, self.cutoff)?;
                }
                (WaveEnd::Blocked(error), _) => return self.leave_blocked(at, &error.message),
                (WaveEnd::Broken(error), _) => {
                    self.count_fired(at, i64::try_from(events.len()).unwrap_or(0));
                    return self.fail_broken(at, &events, &error.message);
                }
            }
        }
    }

    /// The next wave of this lane, to be announced in the transaction of this one: none, unless the
    /// next turn is this lane's for sure; an empty one where there is no more than this. Read before
    /// that transaction, while the database is free for others.
    fn look_ahead(
        &mut self,
        at: usize,
        events: &[Event],
        is_last: bool,
        limit: usize,
    ) -> Result<Option<Batch>, Trouble> {
        let began = monotonic();
        let now = self.time_at(began);
        let is_idle = |lane: &Lane| !lane.is_busy() && !lane.may_take_a_turn(now);
        let mut others = self.lanes.iter().enumerate().filter(|(i, _)| *i != at);
        let is_next = self.lanes[at].may_look_ahead()
            && self.stop.is_none()
            && self.signals.received().is_none()
            && !self.is_out_of_time()
            && self.pending.is_empty()
            && others.all(|(_, lane)| is_idle(lane));
        if !is_next {
            return Ok(None);
        }
        let limit = limit.min(self.events_left().saturating_sub(events.len()));
        if is_last || limit < 2 {
            return Ok(Some(Batch::nothing()));
        }
        let next = self.lanes[at].look_ahead(&mut self.store, self.cutoff, limit)?;
        self.reading += monotonic().duration_since(began);
        Ok(Some(next))
    }

    /// Takes the trace of a wave away that was not committed as a whole.
    pub(super) fn forget_wave(&mut self) -> Result<(), Trouble> {
        self.progress.wave = None;
        Ok(self.store.clear_wave(self.run_id)?)
    }

    /// Runs the effects and records them; announces the wave `next` in the same transaction, or the
    /// rest of this one where it is cut. Returns the progress as it was written with it.
    fn try_effects(
        &mut self,
        at: usize,
        (events, version): (&[Event], Option<i64>),
        savepoints: Savepoints,
        next: Option<&Batch>,
    ) -> Result<(WaveEnd, Option<Progress>), Trouble> {
        let (read_at, now) = self.anchor;
        let lane = &self.lanes[at];
        let config = &lane.config;
        let began = std::cell::Cell::new(monotonic());
        let wave_began = std::cell::Cell::new(monotonic());
        // The type's breaker, by what this wave has met so far; it stands once that is committed.
        let breaker = std::cell::RefCell::new(lane.breaker.clone());
        // Read before the transaction, which is to be short.
        let jobs: Vec<Result<Job, String>> = match &lane.work {
            Work::Jobs(table) => events.iter().map(|one| table.job(&one.payload)).collect(),
            _ => Vec::new(),
        };
        let mut effect = |db: &mut dyn Db, event: &Event| {
            began.set(monotonic());
            if let Work::Effects(statements) = &lane.work {
                sql::run(statements, db, event, now)?;
            }
            Ok(Effected::Done)
        };
        let mut together = |db: &mut dyn Db, range: Range<usize>| {
            began.set(monotonic());
            match &lane.work {
                Work::Jobs(table) => push_jobs(table, db, &jobs[range], now),
                _ => Ok(vec![Effected::Done; range.len()]),
            }
        };
        let run = match &lane.work {
            Work::Jobs(_) => Run::Together(&mut together),
            _ => Run::Each(&mut effect),
        };
        let mut verdict = |event: &Event, result: DbResult<Effected>| {
            let mut note = None;
            let verdict = match result {
                Ok(Effected::Done) => Verdict::Done,
                Ok(Effected::Needless(why)) => {
                    note = Some(why.to_owned());
                    Verdict::Done
                }
                Ok(Effected::Hopeless(error)) => Verdict::GiveUp { error },
                Err(error) => Verdict::failed(error.message),
            };
            let (mut fate, health) = judge(config, event, verdict, now, jitter);
            if let (Fate::Finish { error, .. }, Some(note)) = (&mut fate, note) {
                *error = Some(note);
            }
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
        let mut announced = None;
        let (run_id, counts) = (self.run_id, self.total());
        let mut last = |store: &mut Store, recorded: &Recorded| {
            announced = None;
            let acks = &recorded.acks;
            let (dealt_with, rest) = events.split_at(acks.len().min(events.len()));
            let lets = breaker.borrow().lets(now) == Through::All;
            let ids = next.filter(|_| lets).map(|next| match rest {
                [] => next.ids(),
                rest => rest.iter().map(|event| event.id).collect(),
            });
            // One event alone would count a loss.
            let ids = ids.filter(|ids: &Vec<EventId>| ids.len() > 1);
            let Some((event, ids)) = dealt_with.last().zip(ids) else {
                return store.clear_wave(run_id);
            };
            let mut progress = self.progress.clone();
            progress.wave = Some(wave_of(lane.name(), &ids));
            progress.waves += 1;
            progress.counts = counts;
            for ack in acks {
                progress.counts.fired += 1;
                tally(
                    &mut progress.counts,
                    ack,
                    recorded.superseded.contains(&ack.id),
                );
            }
            let moved = Moved {
                lane: at,
                place: (event.due_at, event.id),
                pass: None,
            };
            progress.positions = positions(&self.lanes, Some(&moved));
            store.write_progress(run_id, &progress)?;
            announced = Some(progress);
            Ok(())
        };
        let writer = Writer::plain(Some(self.run_id), now);
        let named = events
            .iter()
            .map(|event| (event.type_name.as_str(), event.id));
        self.unsure_endings = Some(Unsure::new(Part::Fired, named));
        let end = self.store.effect_wave(
            self.lease.gate(now),
            writer,
            (events, version),
            savepoints,
            &mut Effects {
                run,
                judge: &mut verdict,
                enough: &mut enough,
                last: &mut last,
            },
        )?;
        let breaker = breaker.into_inner();
        if matches!(end, WaveEnd::Committed(_)) {
            self.lease.passed(read_at); // else the renewal was rolled back too
            self.lanes[at].breaker = breaker;
        } else {
            announced = None;
        }
        self.unsure_endings = None;
        Ok((end, announced))
    }

    fn count_effects(&mut self, recorded: &Recorded) {
        for ack in &recorded.acks {
            self.counts_of(&ack.type_name).fired += 1;
            self.count(ack, recorded.superseded.contains(&ack.id));
        }
    }

    /// Somebody else holds a lock that the type's effects need: they are left for another run, and
    /// no try of theirs is spent (RULINGS 22).
    pub(super) fn leave_blocked(&mut self, at: usize, message: &str) -> Result<Dealt, Trouble> {
        let now = self.read_clock()?;
        let lane = &mut self.lanes[at];
        lane.give_up();
        lane.judge_health(Health::Bad, now);
        let name = lane.name().to_owned();
        self.forget_wave()?;
        self.log(None, &name, "type blocked", message)?;
        self.note_breakers()?;
        Ok(Dealt {
            events: 0,
            rest: Rest::GivenUp,
        })
    }

    /// An effect that changes its own event's row can never be recorded.
    pub(super) fn fail_meddler(&mut self, at: usize, event: &Event) -> Result<Dealt, Trouble> {
        let now = self.read_clock()?;
        let lane = &mut self.lanes[at];
        lane.judge_health(Health::Bad, now);
        let verdict = Verdict::failed("its statements change its own row in scheduled_events");
        let (fate, _) = judge(&lane.config, event, verdict, now, jitter);
        let acks = vec![Ack::unstarted(event, fate)];
        self.settle_unclaimed(&acks, now)?;
        self.forget_wave()?;
        self.note_breakers()?;
        Ok(Dealt {
            events: 1,
            rest: Rest::Behind(Cursor::behind(event)),
        })
    }

    /// An effect ended the transaction by itself: what it did stands, unrecorded. The type fails:
    /// its events of this wave count a failed try each, and nothing more of it starts in this run.
    pub(super) fn fail_broken(
        &mut self,
        at: usize,
        events: &[Event],
        message: &str,
    ) -> Result<Dealt, Trouble> {
        let now = self.read_clock()?;
        let lane = &mut self.lanes[at];
        lane.give_up();
        lane.judge_health(Health::Bad, now);
        let error = format!("a statement ended the transaction by itself: {message}");
        let acks: Vec<Ack> = events
            .iter()
            .map(|event| {
                let verdict = Verdict::failed(error.as_str());
                let (fate, _) = judge(&lane.config, event, verdict, now, jitter);
                Ack::unstarted(event, fate)
            })
            .collect();
        let name = lane.name().to_owned();
        self.settle_unclaimed(&acks, now)?;
        self.forget_wave()?;
        self.log(None, &name, "type failed", &error)?;
        self.note_breakers()?;
        Ok(Dealt {
            events: acks.len(),
            rest: Rest::GivenUp,
        })
    }
}

/// Puts the first of `jobs` into the table, as many of them as go into one INSERT. What is no job is
/// given up, and holds up none of the others.
fn push_jobs(
    table: &JobTable,
    db: &mut dyn Db,
    jobs: &[Result<Job, String>],
    now: UnixSeconds,
) -> DbResult<Vec<Effected>> {
    let fitting = JobTable::fitting(jobs.iter().flatten());
    let good: Vec<&Job> = jobs.iter().flatten().take(fitting).collect();
    let mut pushed = table.push(db, &good, now)?.into_iter();
    let mut effected = Vec::with_capacity(jobs.len());
    for job in jobs {
        effected.push(match job {
            Err(why) => Effected::Hopeless(why.clone()),
            Ok(job) => match pushed.next() {
                Some(Pushed::Queued) => Effected::Done,
                Some(Pushed::Duplicate) => {
                    log::debug!("a job {:?} like this one waits already: dropped", job.cmd);
                    Effected::Needless(DUPLICATE)
                }
                None => break,
            },
        });
    }
    Ok(effected)
}
