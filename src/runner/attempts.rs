//! Attempts beside the runner: started while the lease is fresh, collected as they end, turned into
//! acks; the lease is renewed and the connection kept alive meanwhile.

use std::time::{Duration, Instant};

use super::judge::{judge, too_late};
use super::lane::{Lane, Work};
use super::waves::jitter;
use super::{Runner, Trouble};
use crate::clock::monotonic;
use crate::event::{Event, EventId};
use crate::fair::Through;
use crate::fault::point;
use crate::handler::Finished;
use crate::store::settle::Ack;

/// Acks are written when this many wait, or the first of them has waited this long (DESIGN §5.10).
const ACK_COUNT: usize = 250;
const ACK_WAIT: Duration = Duration::from_millis(250);
/// An idle connection is used at least this often while handlers work (RULINGS 9).
const PING_EVERY: Duration = Duration::from_secs(15);

/// What is handed over ahead begins within this time or is looked at anew.
const AHEAD_FOR: Duration = Duration::from_secs(1);
/// How much payload is handed over ahead at once, in bytes.
const AHEAD_BYTES: usize = 256 << 10;

impl Runner<'_> {
    /// Starts what is claimed and has room, lane by lane.
    pub(super) fn start_queued(&mut self) -> Result<(), Trouble> {
        for at in 0..self.lanes.len() {
            while self.may_start(at)? {
                let lane = &mut self.lanes[at];
                let Work::Beside(handler) = &lane.work else {
                    break;
                };
                let room = handler.room();
                if room == 0 {
                    self.start_ahead(at);
                    break;
                }
                let at_once = if handler.starts_together() { room } else { 1 };
                let room = at_once.min(lane.queue.len());
                let events: Vec<Event> = lane.queue.drain(..room).collect();
                let events = self.still_in_time(at, events);
                self.note_started(at, &events);
                if let Work::Beside(handler) = &mut self.lanes[at].work
                    && !events.is_empty()
                {
                    handler.start(events, &mut self.reactor);
                }
            }
        }
        Ok(())
    }

    /// Hands over what is to begin without another look, once there is room for it: only what may
    /// still begin at the last instant at which it could.
    fn start_ahead(&mut self, at: usize) {
        let begin_by = (monotonic() + AHEAD_FOR).min(self.lease.fresh_until());
        let begin_by = self.deadline.map_or(begin_by, |end| end.min(begin_by));
        let then = self.time_at(begin_by);
        let lane = &mut self.lanes[at];
        let Work::Beside(handler) = &lane.work else {
            return;
        };
        if lane.alone || lane.breaker.lets(then) != Through::All {
            return;
        }
        let mut bytes = 0;
        let mut fitting = lane.queue.iter().take(handler.room_ahead());
        let count = fitting.position(|event| {
            bytes += event.payload.len();
            bytes > AHEAD_BYTES || too_late(&lane.config, event, then).is_some()
        });
        let count = count.unwrap_or_else(|| handler.room_ahead().min(lane.queue.len()));
        let events: Vec<Event> = lane.queue.drain(..count).collect();
        self.note_started(at, &events);
        if let Work::Beside(handler) = &mut self.lanes[at].work
            && !events.is_empty()
        {
            handler.start_ahead(events, begin_by);
        }
    }

    fn note_started(&mut self, at: usize, events: &[Event]) {
        let Some(last) = events.last() else { return };
        let lane = &mut self.lanes[at];
        lane.position = Some((last.due_at, last.id));
        let kept = events
            .iter()
            .map(|event| (event.id, event.without_payload()));
        lane.in_flight.extend(kept);
        self.count_fired(at, i64::try_from(events.len()).unwrap_or(0));
    }

    pub(super) fn count_fired(&mut self, at: usize, more: i64) {
        let name = self.lanes[at].name().to_owned();
        self.counts_of(&name).fired += more;
    }

    /// Puts what a handler has not begun back to where it was taken from: what must not begin
    /// without another look, or everything.
    pub(super) fn take_back(&mut self, everything: bool) {
        for at in 0..self.lanes.len() {
            let lane = &mut self.lanes[at];
            let Work::Beside(handler) = &mut lane.work else {
                continue;
            };
            let events = handler.take_back(everything);
            if events.is_empty() {
                continue;
            }
            let count = i64::try_from(events.len()).unwrap_or(0);
            for event in events.into_iter().rev() {
                lane.in_flight.remove(&event.id);
                lane.queue.push_front(event);
            }
            self.count_fired(at, -count);
        }
    }

    /// Leaves out what expired or became too late since it was claimed: it waited for room.
    fn still_in_time(&mut self, at: usize, events: Vec<Event>) -> Vec<Event> {
        let now = self.time_at(monotonic());
        let mut in_time = Vec::with_capacity(events.len());
        for event in events {
            match too_late(&self.lanes[at].config, &event, now) {
                None => in_time.push(event),
                Some(fate) => {
                    self.pending_since.get_or_insert_with(monotonic);
                    self.pending.push(Ack::unstarted(&event, fate));
                }
            }
        }
        in_time
    }

    /// Whether an attempt of this lane may start now: room, a closed breaker, and a lease that was
    /// renewed not long ago (RULINGS 10, 13).
    fn may_start(&mut self, at: usize) -> Result<bool, Trouble> {
        let now = self.time_at(monotonic());
        let lane = &self.lanes[at];
        let Work::Beside(handler) = &lane.work else {
            return Ok(false);
        };
        if lane.queue.is_empty() || handler.room() + handler.room_ahead() == 0 {
            return Ok(false);
        }
        if lane.alone && !lane.in_flight.is_empty() {
            return Ok(false);
        }
        if lane.breaker.lets(now) == Through::Nothing {
            return Ok(false);
        }
        if monotonic() >= self.lease.renew_at() {
            self.renew()?;
        }
        Ok(self.lease.is_fresh())
    }

    /// Waits until `until` at the latest, collects what ended, acks in groups, renews the lease. A
    /// full group is written before the wait, not after it: what could be started on what had
    /// ended is at work by then.
    pub(super) fn pump(&mut self, until: Instant) -> Result<(), Trouble> {
        if self.pending.len() >= ACK_COUNT || self.acks_have_waited() {
            self.flush()?;
        }
        let wake_at = self.wake_at(until);
        if let Err(error) = self.reactor.wait(wake_at) {
            log::error!("waiting for handlers: {error}");
        }
        self.collect();
        if self.acks_cannot_wait() {
            self.flush()?;
        }
        if monotonic() >= self.renew_due() {
            self.renew()?;
        }
        Ok(())
    }

    fn wake_at(&self, until: Instant) -> Instant {
        let acks = self.pending_since.map(|since| since + ACK_WAIT);
        let limits = [
            Some(self.renew_due()),
            acks,
            self.deadline.filter(|_| self.stop.is_none()),
        ];
        let limits = limits.into_iter().flatten();
        limits.fold(self.handlers_wake_at(until), Instant::min)
    }

    /// When some handler must be looked after at the latest, but not after `until`.
    pub(super) fn handlers_wake_at(&self, until: Instant) -> Instant {
        let deadlines = self.lanes.iter().filter_map(|lane| match &lane.work {
            Work::Beside(handler) => handler.next_deadline(),
            Work::Effects(_) | Work::Jobs(_) | Work::Sweep(_) => None,
        });
        deadlines.fold(until, Instant::min)
    }

    fn renew_due(&self) -> Instant {
        self.lease.renew_at().min(self.anchor.0 + PING_EVERY)
    }

    pub(super) fn renew(&mut self) -> Result<(), Trouble> {
        let now = self.read_clock()?;
        self.lease.renew(&mut self.store, now, self.anchor.0)?;
        if self.deadline.is_some_and(|deadline| monotonic() < deadline) {
            return Ok(()); // the claims reach beyond it
        }
        for at in 0..self.lanes.len() {
            let lane = &self.lanes[at];
            let queued = lane.queue.iter().map(|event| event.id);
            let ids: Vec<EventId> = lane.in_flight.keys().copied().chain(queued).collect();
            if !ids.is_empty() {
                let until = self.claim_until(&lane.config, now);
                self.store.extend_claims(self.lease.epoch, &ids, until)?;
            }
        }
        Ok(())
    }

    /// Turns what has ended into acks to be written.
    pub(super) fn collect(&mut self) {
        for at in 0..self.lanes.len() {
            let mut ended = Vec::new();
            if let Work::Beside(handler) = &mut self.lanes[at].work {
                handler.collect(&mut self.reactor, &mut ended);
            }
            for finished in ended {
                self.conclude(at, finished);
            }
        }
        self.take_back(false);
    }

    fn conclude(&mut self, at: usize, finished: Finished) {
        let now = self.time_at(monotonic());
        let started_at = self.time_at(finished.started);
        let lane = &mut self.lanes[at];
        let Some(event) = lane.in_flight.remove(&finished.id) else {
            log::error!(
                "{}: an answer for event {}, not under way",
                lane.name(),
                finished.id
            );
            return;
        };
        let (fate, health) = judge(&lane.config, &event, finished.verdict, now, jitter);
        lane.judge_health(health, now);
        self.pending_since.get_or_insert_with(monotonic);
        self.pending.push(Ack {
            id: event.id,
            type_name: event.type_name,
            started_at: Some(started_at.max(event.due_at)),
            duration_ms: i64::try_from(finished.took.as_millis()).unwrap_or(i64::MAX),
            fate,
        });
        point("attempt.ended");
    }

    fn acks_have_waited(&self) -> bool {
        self.pending_since
            .is_some_and(|since| monotonic() >= since + ACK_WAIT)
    }

    /// Whether acks are due though there may be something to start.
    fn acks_cannot_wait(&self) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        let now = self.time_at(monotonic());
        let at_once = self.lanes.iter().any(|lane| lane.config.at_most_once);
        let all_done = !self.lanes.iter().any(Lane::is_busy);
        let is_full = self.pending.len() >= ACK_COUNT;
        let others = || self.lanes.iter().any(|lane| lane.may_take_a_turn(now));
        at_once || self.acks_have_waited() || (all_done && !(is_full && others()))
    }
}
