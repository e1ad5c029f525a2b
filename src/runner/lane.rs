//! One type's lane through a run: where its turn continues, what of it is claimed, what is under
//! way, and how its turns are limited.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::judge::Health;
use super::sweeps::Sweep;
use crate::clock::{UnixSeconds, monotonic};
use crate::config::TypeConfig;
use crate::db::DbResult;
use crate::event::{Event, EventId};
use crate::fair::{Breaker, Rate, Through};
use crate::handler::Handler;
use crate::handler::mediawiki_job::JobTable;
use crate::handler::sql::Statement;
use crate::store::Store;
use crate::store::claim::{Chosen, RateLeft};
use crate::store::peek::{Candidate, Cursor, Payloads, TypeState};
use crate::store::runs::Wave;

/// The most payload of one turn, in bytes (DESIGN §5.9).
const MAX_PAYLOAD: usize = 4 << 20;

/// How many candidates are read at once to begin with, and at least. The number doubles as long as
/// all fit: InnoDB reads a whole payload to tell its length, and a read of 500 large ones to use
/// the first four, once a turn, would make a drain take as many reads as the backlog squared.
const FEW: usize = 8;

/// What was read ahead no longer ago than this is claimed as it stands; later something more urgent
/// may have come.
const FRESH: Duration = Duration::from_millis(100);

/// Where an event stands in its type.
pub(super) type Place = (UnixSeconds, EventId);

/// How attempts of a lane are made.
pub(super) enum Work {
    /// Inside the ack transaction.
    Effects(Vec<Statement>),
    /// Likewise: jobs put into a wiki's queue.
    Jobs(JobTable),
    /// As effects, in passes of one event.
    Sweep(Box<Sweep>),
    /// Beside the runner.
    Beside(Box<dyn Handler>),
}

/// What a turn of a lane may deal with.
pub(super) struct Batch {
    pub(super) candidates: Vec<Candidate>,
    /// What [`Store::version`] said before they were read.
    pub(super) version: Option<i64>,
    read_at: Instant,
    /// Behind them.
    cursor: Cursor,
    /// The type has no more.
    pub(super) is_last: bool,
}

impl Batch {
    /// Of a type that has no more.
    pub(super) fn nothing() -> Self {
        Self {
            candidates: Vec::new(),
            version: None,
            read_at: monotonic(),
            cursor: Cursor::START,
            is_last: true,
        }
    }

    fn is_fresh(&self) -> bool {
        monotonic().duration_since(self.read_at) < FRESH
    }

    /// Those of its events that are among `ids`, to be claimed.
    pub(super) fn chosen(self, ids: &[EventId]) -> Chosen {
        let mut candidates = self.candidates;
        if ids.len() < candidates.len() {
            let ids: HashSet<EventId> = ids.iter().copied().collect();
            candidates.retain(|candidate| ids.contains(&candidate.event.id));
        }
        let is_whole = !candidates.iter().any(Candidate::lacks_payload);
        Chosen {
            whole_at: self.version.filter(|_| is_whole),
            events: candidates.into_iter().map(|one| one.event).collect(),
        }
    }

    pub(super) fn ids(&self) -> Vec<EventId> {
        let ids = self.candidates.iter();
        ids.map(|candidate| candidate.event.id).collect()
    }
}

pub(super) struct Lane {
    pub(super) config: TypeConfig,
    pub(super) work: Work,
    pub(super) guard: Option<Statement>,
    pub(super) queue: VecDeque<Event>,
    /// Payloads are gone to the handler; the rest is needed to judge.
    pub(super) in_flight: HashMap<EventId, Event>,
    pub(super) breaker: Breaker,
    pub(super) rate: Option<Rate>,
    /// The wave claimed last.
    pub(super) wave: Option<Wave>,
    /// The last event that was dealt with, for the run's row.
    pub(super) position: Option<Place>,
    /// Ids of a wave that a dead run left unfinished: replayed one event at a time.
    pub(super) suspects: Vec<(EventId, EventId)>,
    /// What is claimed is one event under suspicion: nothing of the type runs beside it.
    pub(super) alone: bool,
    /// What the next turn begins with: a wave of effects, whose trace the last one has written, or
    /// candidates that were read while attempts were under way.
    ahead: Option<Batch>,
    /// The most that the last turn could have claimed.
    pub(super) last_limit: usize,
    cursor: Cursor,
    at_once: usize,
    second_pass: bool,
    left: Left,
}

/// What is left of a type to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// There may be something.
    Some,
    /// Nothing in this round.
    Nothing,
    /// Nothing in this run, whatever is due.
    GivenUp,
}

/// What the tables say of a type.
struct Limits {
    breaker: Breaker,
    rate: Option<Rate>,
}

impl Limits {
    fn of(config: &TypeConfig, state: Option<&TypeState>, now: UnixSeconds) -> Self {
        let (failures, open_until) =
            state.map_or((0, None), |state| (state.failures, state.open_until));
        let left = state.and_then(|state| state.tokens_milli.zip(state.tokens_at));
        let rate = |per_minute| Rate::new(per_minute, left, now);
        Self {
            breaker: Breaker::new(config.breaker, config.breaker_probe, failures, open_until),
            rate: config.rate.map(rate),
        }
    }
}

impl Lane {
    pub(super) fn new(
        config: TypeConfig,
        work: Work,
        guard: Option<Statement>,
        state: Option<&TypeState>,
        now: UnixSeconds,
    ) -> Self {
        let Limits { breaker, rate } = Limits::of(&config, state, now);
        Self {
            config,
            work,
            guard,
            queue: VecDeque::new(),
            in_flight: HashMap::new(),
            breaker,
            rate,
            wave: None,
            position: None,
            suspects: Vec::new(),
            alone: false,
            ahead: None,
            last_limit: 0,
            cursor: Cursor::START,
            at_once: FEW,
            second_pass: false,
            left: Left::Some,
        }
    }

    /// Takes part in no more turns of this round.
    pub(super) fn close(&mut self) {
        self.finish(true);
    }

    /// Begins a round anew, as the tables have its type by now.
    pub(super) fn reopen(&mut self, state: Option<&TypeState>, now: UnixSeconds) {
        let limits = Limits::of(&self.config, state, now);
        self.breaker = limits.breaker;
        self.rate = limits.rate;
        self.suspects.clear();
        self.alone = false;
        self.ahead = None;
        self.cursor = Cursor::START;
        self.second_pass = false;
        self.finish(false);
    }

    /// Whether the rest of the type was let go of.
    pub(super) fn is_given_up(&self) -> bool {
        self.left == Left::GivenUp
    }

    /// Nothing is left in this round, or there may be something again; what was given up stays so.
    fn finish(&mut self, nothing_left: bool) {
        self.left = match self.left {
            Left::GivenUp => Left::GivenUp,
            _ if nothing_left => Left::Nothing,
            _ => Left::Some,
        };
    }

    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// Whether another turn makes sense now.
    pub(super) fn may_take_a_turn(&self, now: UnixSeconds) -> bool {
        self.has_room() && self.wants_a_turn(now)
    }

    /// Whether a turn would make sense if there were room: a batch process that has answered all
    /// has nothing in hand any more, and still has its place until it ends; a sweep makes a pause.
    pub(super) fn waits_for_room(&self, now: UnixSeconds) -> bool {
        !self.has_room() && self.wants_a_turn(now)
    }

    fn has_room(&self) -> bool {
        match &self.work {
            Work::Effects(_) | Work::Jobs(_) => true,
            Work::Sweep(sweep) => sweep.rests_until().is_none(),
            Work::Beside(handler) => handler.room() + handler.room_ahead() > 0,
        }
    }

    /// Whether there is something left that a turn could claim, room or not.
    pub(super) fn wants_a_turn(&self, now: UnixSeconds) -> bool {
        let through = match self.breaker.lets(now) {
            Through::All => true,
            Through::Probe => self.in_flight.is_empty(),
            Through::Nothing => false,
        };
        let mut rate = self.rate.clone();
        let rated = rate.as_mut().is_none_or(|rate| rate.available(now) > 0);
        let undisturbed = !self.alone || self.in_flight.is_empty();
        !self.is_exhausted() && self.queue.is_empty() && undisturbed && through && rated
    }

    /// The most events a turn may claim now.
    pub(super) fn limit(&mut self, allowance: usize, now: UnixSeconds) -> usize {
        let mut limit = allowance;
        if self.breaker.lets(now) == Through::Probe {
            limit = 1;
        }
        if let Some(rate) = &mut self.rate {
            limit = limit.min(rate.available(now));
        }
        if let Work::Beside(handler) = &self.work
            && self.config.at_most_once
        {
            limit = limit.min(handler.room()); // claimed just before starting
        }
        limit
    }

    /// What is left of the rate once `events` have been claimed.
    pub(super) fn take_rate(&mut self, events: usize) -> Option<RateLeft<'_>> {
        let rate = self.rate.as_mut()?;
        rate.take(events);
        Some(RateLeft {
            type_name: &self.config.name,
            tokens_milli: rate.tokens_milli(),
        })
    }

    /// What is left of the rate once `events` of those taken were not started after all.
    pub(super) fn put_back_rate(&mut self, events: usize) -> Option<RateLeft<'_>> {
        let rate = self.rate.as_mut().filter(|_| events > 0)?;
        rate.put_back(events);
        Some(RateLeft {
            type_name: &self.config.name,
            tokens_milli: rate.tokens_milli(),
        })
    }

    /// What the next turn may claim: as [`Lane::next_candidates`], with small payloads where it can
    /// be told afterwards whether they are still the same; what [`Lane::read_ahead`] found if that
    /// was a moment ago.
    pub(super) fn next_batch(
        &mut self,
        store: &mut Store,
        cutoff: UnixSeconds,
        limit: usize,
    ) -> DbResult<Batch> {
        let fresh = |ahead: &Batch| ahead.candidates.len() <= limit && ahead.is_fresh();
        let batch = match self.ahead.take().filter(fresh) {
            Some(ahead) => ahead,
            None => self.read(store, cutoff, self.cursor, limit, Payloads::to_claim(store))?,
        };
        self.go_to(batch.cursor);
        if batch.is_last {
            self.reached_the_end();
        }
        Ok(batch)
    }

    /// Reads what the next turn will probably claim, while attempts of this one are under way.
    pub(super) fn read_ahead(
        &mut self,
        store: &mut Store,
        cutoff: UnixSeconds,
        limit: usize,
    ) -> DbResult<()> {
        if self.is_exhausted() || limit == 0 || self.ahead.is_some() {
            return Ok(());
        }
        let payloads = Payloads::to_claim(store);
        self.ahead = Some(self.read(store, cutoff, self.cursor, limit, payloads)?);
        Ok(())
    }

    /// The next candidates of this lane, without payloads: at most `limit`, at most 4 MiB of
    /// payload, and an event under suspicion only by itself. The cursor moves behind the last of
    /// them.
    pub(super) fn next_candidates(
        &mut self,
        store: &mut Store,
        cutoff: UnixSeconds,
        limit: usize,
    ) -> DbResult<Vec<Candidate>> {
        let batch = self.read(store, cutoff, self.cursor, limit, Payloads::None)?;
        self.go_to(batch.cursor);
        if batch.is_last {
            self.reached_the_end();
        }
        Ok(batch.candidates)
    }

    /// The next wave of effects, as [`Lane::next_candidates`] but with small payloads, and whether
    /// it is the one that [`Lane::announce`] named.
    pub(super) fn next_effects(
        &mut self,
        store: &mut Store,
        cutoff: UnixSeconds,
        limit: usize,
    ) -> DbResult<(Batch, bool)> {
        let ahead = self.ahead.take();
        let ahead = ahead.filter(|ahead| ahead.candidates.len() <= limit);
        let announced = ahead.is_some();
        let batch = match ahead {
            Some(ahead) => ahead,
            None => self.read(store, cutoff, self.cursor, limit, Payloads::Small)?,
        };
        self.go_to(batch.cursor);
        Ok((batch, announced))
    }

    /// What [`Lane::next_effects`] would give after the batch in hand.
    pub(super) fn look_ahead(
        &mut self,
        store: &mut Store,
        cutoff: UnixSeconds,
        limit: usize,
    ) -> DbResult<Batch> {
        self.read(store, cutoff, self.cursor, limit, Payloads::Small)
    }

    /// The next wave of effects is this one: its trace is committed.
    pub(super) fn announce(&mut self, batch: Batch) {
        self.ahead = Some(batch);
    }

    /// The events that a wave was cut before, as the next one.
    pub(super) fn rest_of(&self, events: Vec<Event>, version: Option<i64>, is_last: bool) -> Batch {
        let candidate = |event: Event| Candidate {
            payload_bytes: event.payload.len(),
            event,
        };
        Batch {
            candidates: events.into_iter().map(candidate).collect(),
            version,
            read_at: monotonic(),
            cursor: self.cursor,
            is_last,
        }
    }

    fn read(
        &mut self,
        store: &mut Store,
        cutoff: UnixSeconds,
        mut cursor: Cursor,
        limit: usize,
        payloads: Payloads,
    ) -> DbResult<Batch> {
        let read_at = monotonic();
        let version = store.version()?;
        let mut found: Vec<Candidate> = Vec::new();
        // An event that a site moves to another priority or instant meanwhile is met twice.
        let mut met = HashSet::new();
        loop {
            let wanted = (limit - found.len()).min(self.at_once);
            let more =
                store.candidates(&self.config.name, cutoff, &mut cursor, wanted, payloads)?;
            let is_last = more.len() < wanted;
            found.extend(more.into_iter().filter(|one| met.insert(one.event.id)));
            let fitting = self.fitting(&found);
            let is_cut = fitting < found.len();
            if is_cut {
                self.at_once = fitting.max(FEW);
                found.truncate(fitting);
                if let Some(last) = found.last() {
                    cursor = Cursor::behind(&last.event);
                }
            } else if !is_last {
                self.at_once = self.at_once.saturating_mul(2);
            }
            if is_cut || is_last || found.len() == limit {
                return Ok(Batch {
                    candidates: found,
                    version,
                    read_at,
                    cursor,
                    is_last: is_last && !is_cut,
                });
            }
        }
    }

    /// Looks once and not again from the start: for a dry run, which removes nothing.
    pub(super) fn single_pass(mut self) -> Self {
        self.second_pass = true;
        self
    }

    /// Where the next turn begins.
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Begins the next turn at `cursor`.
    pub(super) fn go_to(&mut self, cursor: Cursor) {
        self.cursor = cursor;
        self.finish(false);
    }

    /// Whether there is nothing left to look at.
    pub(super) fn is_exhausted(&self) -> bool {
        self.left != Left::Some
    }

    /// Lets go of the rest of the type in this run.
    pub(super) fn give_up(&mut self) {
        self.left = Left::GivenUp;
    }

    /// One more pass from the start finds what arrived behind the cursor; then it is enough
    /// (RULINGS 17).
    pub(super) fn reached_the_end(&mut self) {
        self.finish(self.second_pass);
        self.second_pass = true;
        self.cursor = Cursor::START;
    }

    fn fitting(&self, found: &[Candidate]) -> usize {
        let mut bytes = 0;
        for (index, candidate) in found.iter().enumerate() {
            let suspect = self.is_suspect(&candidate.event);
            bytes += candidate.payload_bytes;
            if index > 0 && (suspect || bytes > MAX_PAYLOAD) {
                return index;
            }
            if suspect {
                return 1;
            }
        }
        found.len()
    }

    /// Whether a run died with this event in hand: it is dealt with alone from then on, so that it
    /// takes no innocents with it (RULINGS 19, 20).
    pub(super) fn is_suspect(&self, event: &Event) -> bool {
        event.losses > 0
            || self
                .suspects
                .iter()
                .any(|&(first, last)| (first..=last).contains(&event.id))
    }

    /// Tells the breaker what an attempt says about the type's health.
    pub(super) fn judge_health(&mut self, health: Health, now: UnixSeconds) {
        health.tell(&mut self.breaker, now);
    }

    /// Whether the next wave of effects may be chosen before this one is committed: what a guard
    /// or a rate lets through, or an event under suspicion, is known only when its turn comes.
    pub(super) fn may_look_ahead(&self) -> bool {
        self.guard.is_none() && self.rate.is_none() && self.suspects.is_empty()
    }

    /// Whether anything of it is claimed that has not begun.
    pub(super) fn has_unbegun(&self) -> bool {
        let waits = match &self.work {
            Work::Effects(_) | Work::Jobs(_) | Work::Sweep(_) => false,
            Work::Beside(handler) => handler.waiting() > 0,
        };
        waits || !self.queue.is_empty()
    }

    /// Events that are chosen, and not yet counted as started.
    pub(super) fn unstarted(&self) -> usize {
        let chosen = match &self.work {
            Work::Sweep(sweep) => sweep.in_hand.as_ref(),
            Work::Effects(_) | Work::Jobs(_) | Work::Beside(_) => None,
        };
        self.queue.len() + usize::from(chosen.is_some_and(|swept| !swept.is_started))
    }

    /// Whether it is in the middle of a sweep that it may go on with.
    pub(super) fn is_sweeping(&self) -> bool {
        matches!(&self.work, Work::Sweep(sweep) if sweep.in_hand.is_some()) && !self.is_exhausted()
    }

    /// Whether anything of it is claimed or under way.
    pub(super) fn is_busy(&self) -> bool {
        !self.queue.is_empty() || !self.in_flight.is_empty()
    }
}

/// A wave as the run's row names it.
pub(super) fn wave_of(type_name: &str, ids: &[EventId]) -> Wave {
    let bound = |id: Option<&EventId>| id.copied().unwrap_or(EventId(0));
    Wave {
        type_name: type_name.to_owned(),
        first: bound(ids.iter().min()),
        last: bound(ids.iter().max()),
        events: ids.len(),
    }
}
