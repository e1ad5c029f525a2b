//! Waves: types take turns, each turn a bounded batch that is claimed and worked on. A turn that is
//! slow goes on in the background while the other types take theirs (promise 9).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use super::idle::is_held;
use super::judge::{judge, too_late};
use super::lane::{Lane, Work, wave_of};
use super::recovery::Suspects;
use super::sweeps::Sweep;
use super::{Part, Runner, Stop, Trouble, Unsure};
use crate::clock::{UnixSeconds, monotonic};
use crate::config::{HandlerConfig, SqlConfig, TypeConfig};
use crate::db::{DbError, DbErrorKind, Dialect};
use crate::event::{EventId, Outcome};
use crate::fair::{Through, Turn, Turns};
use crate::fault::point;
use crate::handler::http::HttpHandler;
use crate::handler::mediawiki_job::JobTable;
use crate::handler::{Verdict, command, sql};
use crate::store::claim::Claim;
use crate::store::peek::{Candidate, TypeState};
use crate::store::settle::{Ack, Fate, Owner, Tally, Writer};

/// How long a turn keeps the others waiting: attempts then go on in the background, effects in the
/// next turn.
pub(super) const SLICE: Duration = Duration::from_secs(1);

impl Runner<'_> {
    /// Sets up a lane for each type that may fire something, the one with the oldest event first;
    /// opens those anew that an earlier round set up.
    pub(super) fn open_lanes(
        &mut self,
        states: &[TypeState],
        suspects: &Suspects,
    ) -> Result<(), Trouble> {
        let now = self.time_at(monotonic());
        let mut due = Vec::new();
        for config in self.config.types.values() {
            if !self.options.wants(&config.name) || is_held(config, states, now) {
                continue;
            }
            let levels = self.store.due_levels(&config.name, self.cutoff)?;
            if let Some(oldest) = levels.into_iter().flatten().min() {
                due.push((oldest, config));
            }
        }
        due.sort_by_key(|(oldest, config)| (*oldest, config.name.clone()));
        if due
            .iter()
            .any(|(_, config)| matches!(config.handler, HandlerConfig::Command(_)))
        {
            // Before any claim: what no child could be started for is not claimed at all.
            self.reactor.arm().map_err(|error| {
                let message = format!("cannot start the watchdog of child processes: {error}");
                Trouble::Db(DbError::new(DbErrorKind::Io, message))
            })?;
            point("watchdog.armed");
        }
        self.lanes.iter_mut().for_each(Lane::close);
        let order: Vec<&str> = due.iter().map(|(_, config)| config.name.as_str()).collect();
        for (_, config) in &due {
            let state = states.iter().find(|state| state.type_name == config.name);
            let lane = self.lanes.iter_mut();
            if let Some(lane) = lane.into_iter().find(|lane| lane.name() == config.name) {
                lane.reopen(state, now);
                continue;
            }
            if self.misconfigured.contains_key(&config.name) {
                continue;
            }
            let work = self.work_of(config)?;
            let parts = work.and_then(|work| Ok((work, self.guard_of(config)?)));
            let (work, guard) = match parts {
                Ok(parts) => parts,
                Err(error) => {
                    // The type cannot fire; the others can (promise 9).
                    self.log(None, &config.name, "type failed", &error)?;
                    let why = format!("[type.{}] {error}", config.name);
                    self.misconfigured.insert(config.name.clone(), why);
                    continue;
                }
            };
            let mut lane = Lane::new((*config).clone(), work, guard, state, now);
            lane.suspects = suspects.get(&config.name).cloned().unwrap_or_default();
            self.lanes.push(lane);
        }
        let place = |lane: &Lane| order.iter().position(|name| *name == lane.name());
        self.lanes
            .sort_by_key(|lane| place(lane).unwrap_or(usize::MAX));
        log::info!("types with something due: {}", order.join(", "));
        let weights: Vec<u32> = self.lanes.iter().map(|lane| lane.config.weight).collect();
        self.turns = Turns::new(&weights, self.options.batch_size);
        point("lanes.planned");
        Ok(())
    }

    /// Types of which nothing more is started in this run, whatever is due.
    pub(super) fn types_left_alone(&self) -> impl Iterator<Item = &str> {
        let given_up = self.lanes.iter().filter(|lane| lane.is_given_up());
        let misconfigured = self.misconfigured.keys().map(String::as_str);
        given_up.map(Lane::name).chain(misconfigured)
    }

    /// What firing an event of this type is; `Err` within: why it cannot fire.
    fn work_of(&mut self, config: &TypeConfig) -> Result<Result<Work, String>, Trouble> {
        Ok(match &config.handler {
            HandlerConfig::Sql(sql) => sql_work(sql, self.store.dialect()),
            HandlerConfig::Command(command) => {
                let env: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
                Ok(Work::Beside(command::handler(
                    config,
                    command,
                    &env,
                    &self.reactor,
                )))
            }
            HandlerConfig::Http(http) => {
                let waker = self.reactor.waker();
                HttpHandler::new(config, http, &self.install.install_id, waker)
                    .map(|handler| Work::Beside(Box::new(handler)))
                    .map_err(|error| format!("{error:#}"))
            }
            HandlerConfig::MediawikiJob(job) => {
                JobTable::open(self.store.db(), job, self.config)?.map(Work::Jobs)
            }
        })
    }

    fn guard_of(&self, config: &TypeConfig) -> Result<Option<sql::Statement>, String> {
        let Some(text) = &config.guard else {
            return Ok(None);
        };
        let compiled = sql::compile_guard(text, self.store.dialect());
        compiled
            .map(Some)
            .map_err(|error| format!("guard: {error}"))
    }

    /// Turns until nothing is left, the budget is used, or a signal comes.
    pub(super) fn drain(&mut self) -> Result<(), Trouble> {
        loop {
            self.notice_stop();
            if self.stop.is_some() {
                return Ok(());
            }
            let now = self.time_at(monotonic());
            let lanes = &self.lanes;
            let left = self.events_left() > 0;
            let may = |lane: &Lane| (left || lane.is_sweeping()) && lane.may_take_a_turn(now);
            let turn = self.turns.next(&|i| may(&lanes[i]));
            if let Some(turn) = turn {
                self.take_turn(turn)?;
            } else if lanes
                .iter()
                .any(|lane| lane.is_busy() || lane.waits_for_room(now))
            {
                self.start_queued()?;
                let rested = lanes_rested(&self.lanes);
                self.pump(rested.unwrap_or_else(|| monotonic() + SLICE))?;
            } else {
                self.stop = Some(self.drained());
            }
        }
    }

    fn notice_stop(&mut self) {
        self.notice_stop_while_working();
        let used_up = || {
            let mut lanes = self.lanes.iter();
            let is_idle = |lane: &Lane| !lane.has_unbegun() && !lane.is_sweeping();
            self.events_left() == 0 && lanes.all(is_idle)
        };
        if self.stop.is_none() && used_up() {
            self.stop = Some(self.unless_drained(Stop::MaxEvents));
        }
    }

    /// As [`Runner::notice_stop`], but what is claimed already is within the number of events.
    fn notice_stop_while_working(&mut self) {
        if self.stop.is_some() {
            return;
        }
        if let Some(number) = self.signals.received() {
            self.stop = Some(Stop::Signal(number));
        } else if self.is_out_of_time() {
            let stop = self.unless_drained(Stop::MaxTime);
            self.stop = Some(self.unless_behind(stop));
        }
    }

    pub(super) fn is_out_of_time(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| monotonic() >= deadline)
    }

    /// A budget used up by the very last event leaves nothing behind: that run drained.
    fn unless_drained(&mut self, stop: Stop) -> Stop {
        if self.lanes.iter().any(Lane::has_unbegun) {
            return stop;
        }
        let now = self.time_at(monotonic());
        let names: Vec<String> = self
            .lanes
            .iter()
            .filter(|lane| lane.wants_a_turn(now))
            .map(|lane| lane.name().to_owned())
            .collect();
        for name in names {
            match self.store.due_levels(&name, self.cutoff) {
                Ok(levels) if levels.iter().all(Option::is_none) => {}
                _ => return stop,
            }
        }
        self.drained()
    }

    pub(super) fn events_left(&self) -> usize {
        let Some(limit) = self.options.max_events else {
            return usize::MAX;
        };
        let used = u64::try_from(self.total().fired).unwrap_or(0);
        let queued: usize = self.lanes.iter().map(Lane::unstarted).sum();
        usize::try_from(limit.saturating_sub(used))
            .unwrap_or(usize::MAX)
            .saturating_sub(queued)
    }

    fn take_turn(&mut self, turn: Turn) -> Result<(), Trouble> {
        let now = self.read_clock()?;
        let allowance = turn.allowance.min(self.events_left());
        let limit = self.lanes[turn.lane].limit(allowance, now);
        let used = match self.lanes[turn.lane].work {
            Work::Effects(_) | Work::Jobs(_) => self.effects_turn(turn.lane, limit)?,
            Work::Sweep(_) => self.sweep_turn(turn.lane)?,
            Work::Beside(_) => self.beside_turn(turn.lane, allowance, limit, now)?,
        };
        self.turns.used(turn.lane, used);
        if !self.lanes[turn.lane].wants_a_turn(now) && !self.lanes[turn.lane].is_busy() {
            self.turns.emptied(turn.lane);
        }
        Ok(())
    }

    /// One turn of a type whose attempts run beside the runner: one claim, or for an at-most-once
    /// type as many small ones as fit into the slice.
    fn beside_turn(
        &mut self,
        at: usize,
        allowance: usize,
        limit: usize,
        now: UnixSeconds,
    ) -> Result<usize, Trouble> {
        let slice_end = monotonic() + SLICE;
        let mut used = self.claim_wave(at, limit, now)?;
        self.foreground(at, slice_end)?;
        while self.lanes[at].config.at_most_once && used < allowance && self.stop.is_none() {
            let now = self.time_at(monotonic());
            let left = (allowance - used).min(self.events_left());
            let limit = self.lanes[at].limit(left, now);
            if limit == 0 || monotonic() >= slice_end || !self.lanes[at].may_take_a_turn(now) {
                break;
            }
            let now = self.read_clock()?;
            used += self.claim_wave(at, limit, now)?;
            self.foreground(at, slice_end)?;
        }
        Ok(used)
    }

    /// Claims the next wave of a lane into its queue. Returns how much of the turn that used.
    fn claim_wave(&mut self, at: usize, limit: usize, now: UnixSeconds) -> Result<usize, Trouble> {
        let lane = &mut self.lanes[at];
        let batch = lane.next_batch(&mut self.store, self.cutoff, limit)?;
        let looked_at = batch.candidates.len();
        let ids = self.admit(at, &batch.candidates, now)?;
        if ids.is_empty() {
            return Ok(looked_at);
        }
        let chosen = batch.chosen(&ids);
        let lane = &mut self.lanes[at];
        let wave = wave_of(lane.name(), &ids);
        lane.wave = Some(wave.clone());
        self.progress.wave = Some(wave);
        self.progress.waves += 1;
        let until = self.claim_until(&self.lanes[at].config, now);
        self.refresh_progress();
        let lane = &mut self.lanes[at];
        let claim = Claim {
            cutoff: self.cutoff,
            until,
            run_id: self.run_id,
            progress: &self.progress,
            rate: lane.take_rate(ids.len()),
        };
        point("claim.selected");
        let events = self.store.claim(self.lease.gate(now), chosen, claim)?;
        self.lease.passed(self.anchor.0);
        let lane = &mut self.lanes[at];
        log::debug!("claimed {} of type {}", events.len(), lane.name());
        lane.alone = events.first().is_some_and(|event| lane.is_suspect(event));
        lane.queue.extend(events);
        lane.last_limit = limit;
        Ok(looked_at)
    }

    /// Leaves out what must not be fired: expired, too late, refused by its guard. Each is recorded
    /// at once.
    pub(super) fn admit(
        &mut self,
        at: usize,
        candidates: &[Candidate],
        now: UnixSeconds,
    ) -> Result<Vec<EventId>, Trouble> {
        let lane = &self.lanes[at];
        let mut ids = Vec::with_capacity(candidates.len());
        let mut settled = Vec::new();
        for candidate in candidates {
            match too_late(&lane.config, &candidate.event, now) {
                None => ids.push(candidate.event.id),
                Some(fate) => settled.push(Ack::unstarted(&candidate.event, fate)),
            }
        }
        if let Some(guard) = lane.guard.clone() {
            ids = self.guarded(at, &guard, &ids, now, &mut settled)?;
        }
        self.settle_unclaimed(&settled, now)?;
        Ok(ids)
    }

    /// Runs the guard for each event, in autocommit: inside a transaction it would read the past
    /// (RULINGS 21).
    pub(super) fn guarded(
        &mut self,
        at: usize,
        guard: &sql::Statement,
        ids: &[EventId],
        now: UnixSeconds,
        settled: &mut Vec<Ack>,
    ) -> Result<Vec<EventId>, Trouble> {
        let events = self.store.ready_rows(ids, self.cutoff)?;
        let mut kept = Vec::with_capacity(events.len());
        for event in events {
            match sql::holds(guard, self.store.db(), &event, now) {
                Ok(true) => kept.push(event.id),
                Ok(false) => {
                    let error = Some("its guard found no row".to_owned());
                    let outcome = Outcome::Skipped;
                    let fate = Fate::Finish {
                        outcome,
                        error,
                        tally: Tally::None,
                    };
                    settled.push(Ack::unstarted(&event, fate));
                }
                Err(error) if error.is_database_trouble() => return Err(error.into()),
                Err(error) => {
                    let lane = &mut self.lanes[at];
                    lane.breaker.record(false, now);
                    let error = format!("guard: {error}");
                    // A try is spent, but nothing was started: not the end of at most once.
                    let verdict = Verdict::NotStarted { error };
                    let (fate, _) = judge(&lane.config, &event, verdict, now, jitter);
                    settled.push(Ack::unstarted(&event, fate));
                    if lane.breaker.lets(now) == Through::Nothing {
                        kept.clear(); // the others are left as they are
                        break;
                    }
                }
            }
        }
        Ok(kept)
    }

    /// Records events that were never claimed. The lease gates it: only the one run may.
    pub(super) fn settle_unclaimed(
        &mut self,
        acks: &[Ack],
        now: UnixSeconds,
    ) -> Result<(), Trouble> {
        if acks.is_empty() {
            return Ok(());
        }
        let writer = Writer {
            gate: Some(self.lease.gate(now)),
            ..Writer::plain(Some(self.run_id), now)
        };
        self.unsure_endings = Some(Unsure::of_acks(Part::Judged, acks));
        let surprises = self.store.settle(Owner::Ready(self.cutoff), writer, acks)?;
        self.unsure_endings = None;
        for ack in acks {
            // A ready row that vanished was cancelled by somebody: nothing of ours.
            if !surprises.withdrawn.contains(&ack.id) && !surprises.fenced.contains(&ack.id) {
                self.count(ack, surprises.superseded.contains(&ack.id));
            }
        }
        self.tell();
        Ok(())
    }

    /// Works on one lane's wave until it is done or its slice is over.
    fn foreground(&mut self, at: usize, slice_end: Instant) -> Result<(), Trouble> {
        loop {
            self.notice_stop_while_working();
            if self.stop.is_some() {
                return Ok(());
            }
            self.start_queued()?;
            let lane = &self.lanes[at];
            let now = monotonic();
            let waiting = self.time_at(now);
            let alone = !self.others_wait(at, waiting);
            // With nobody else waiting the next wave is claimed while the last of this one run.
            let done = if lane.queue.is_empty() && (lane.config.at_most_once || alone) {
                lane.may_take_a_turn(waiting) || lane.in_flight.is_empty()
            } else {
                !lane.is_busy()
            };
            if done || now >= slice_end {
                return Ok(());
            }
            if alone {
                self.read_ahead(at)?;
            }
            self.pump(slice_end)?;
        }
    }

    /// Whether another lane could take a turn.
    fn others_wait(&self, at: usize, now: UnixSeconds) -> bool {
        let mut others = self.lanes.iter().enumerate().filter(|(i, _)| *i != at);
        others.any(|(_, lane)| lane.may_take_a_turn(now))
    }

    /// Reads what a lane claims next while all that it has claimed is under way.
    fn read_ahead(&mut self, at: usize) -> Result<(), Trouble> {
        let left = self.events_left();
        let lane = &mut self.lanes[at];
        if lane.queue.is_empty() && lane.rate.is_none() && !lane.config.at_most_once {
            let limit = lane.last_limit.min(left);
            lane.read_ahead(&mut self.store, self.cutoff, limit)?;
        }
        Ok(())
    }
}

/// When the first pause between passes is over, but not after a slice.
fn lanes_rested(lanes: &[Lane]) -> Option<Instant> {
    let rests = lanes.iter().filter_map(|lane| match &lane.work {
        Work::Sweep(sweep) => sweep.rests_until(),
        Work::Effects(_) | Work::Jobs(_) | Work::Beside(_) => None,
    });
    rests.min().map(|until| until.min(monotonic() + SLICE))
}

pub(super) fn jitter() -> u32 {
    getrandom::u32().unwrap_or(0)
}

fn sql_work(sql: &SqlConfig, dialect: Dialect) -> Result<Work, String> {
    let statements = sql::compile(&sql.statements, dialect)?;
    Ok(match &sql.sweep {
        None => Work::Effects(statements),
        Some(sweep) => Work::Sweep(Box::new(Sweep::new(sweep, statements, dialect)?)),
    })
}
