//! The threads of [`super::Places`] and what lies between them and the run. They are never joined:
//! neither the end of the run nor that of the process waits for one.
//!
//! A thread that ends an attempt begins the next one that waits, so that the run need not be woken
//! for each: it is when half of what waited has begun, when nothing waits, or when an attempt ended
//! other than well. From then on nothing begins until the run has looked; neither does anything
//! from the instant on that the run named when it handed the event over.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::clock::monotonic;
use crate::event::{Event, EventId};
use crate::fault::beside;
use crate::handler::{Finished, Verdict};

/// Wakes the run.
pub(in crate::handler) type Wake = Arc<dyn Fn() + Send + Sync>;
/// Makes an attempt: blocks until it has ended.
pub(in crate::handler) type Fire = Box<dyn FnMut(Event) -> Verdict>;
/// Prepares a thread, on it, to make one attempt after the other.
pub(in crate::handler) type Hire = Arc<dyn Fn() -> Fire + Send + Sync>;

/// The run is woken for as many ended attempts as this, whatever else waits.
const MANY: usize = 500;

/// Threads, started when they are first needed and kept for the run. They are never joined.
pub(in crate::handler) struct Workers {
    shared: Arc<Shared>,
    hire: Hire,
    most: usize,
    next_number: u64,
}

struct Shared {
    state: Mutex<State>,
    more: Condvar,
    wake: Wake,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    begun: Vec<Begun>,
    ended: Vec<Finished>,
    /// Threads, without those that were given up.
    threads: usize,
    /// Those of them that wait for something to begin.
    idle: usize,
    /// An attempt ended other than well.
    is_held: bool,
    /// The run is woken once no more than this waits.
    few: usize,
    /// The run has been woken and has not looked yet.
    is_told: bool,
    /// The handler is gone.
    is_over: bool,
}

/// Handed over, not begun.
struct Waiting {
    event: Event,
    begin_by: Option<Instant>,
}

/// An attempt under way.
struct Begun {
    /// Its thread.
    number: u64,
    id: EventId,
    at: Instant,
}

impl Workers {
    /// At most `most` threads, each of which makes attempts as `hire` prepared it to.
    pub(in crate::handler) fn new(most: usize, hire: Hire, wake: Wake) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            more: Condvar::new(),
            wake,
        });
        Self {
            shared,
            hire,
            most,
            next_number: 0,
        }
    }

    /// Lets threads begin these in order, before `begin_by` or not at all. Where no thread can be
    /// started they are given back, with the reason.
    pub(in crate::handler) fn hand_over(
        &mut self,
        events: Vec<Event>,
        begin_by: Option<Instant>,
    ) -> Result<(), (Vec<Event>, String)> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let waiting = events.into_iter().map(|event| Waiting { event, begin_by });
        state.waiting.extend(waiting);
        state.few = state.waiting.len() / 2;
        for _ in 0..state.idle.min(state.waiting.len()) {
            shared.more.notify_one();
        }
        let mut wanted = state.waiting.len().saturating_sub(state.idle);
        while wanted > 0 && state.threads < self.most {
            if let Err(error) = self.hire() {
                if state.threads > 0 {
                    break; // fewer at a time
                }
                let error = format!("cannot start a thread for the attempt: {error}");
                return Err((state.take_waiting(), error));
            }
            state.threads += 1;
            wanted -= 1;
        }
        Ok(())
    }

    fn hire(&mut self) -> std::io::Result<()> {
        let number = self.next_number;
        self.next_number += 1;
        let (shared, hire) = (Arc::clone(&self.shared), Arc::clone(&self.hire));
        thread::Builder::new()
            .name(format!("attempt-{number}"))
            .spawn(move || shared.work(number, &mut hire()))?;
        Ok(())
    }

    /// Appends what has ended since the last call, and takes back what waits where nothing of it
    /// may begin any more.
    pub(in crate::handler) fn collect(&self, ended: &mut Vec<Finished>) -> Vec<Event> {
        let mut state = self.shared.lock();
        ended.append(&mut state.ended);
        state.is_told = false;
        let is_late = |waiting: &Waiting| waiting.begin_by.is_some_and(|by| by <= monotonic());
        let is_stuck = state.is_held || state.waiting.front().is_some_and(is_late);
        state.is_held = false;
        state.few = state.waiting.len() / 2;
        if is_stuck {
            state.take_waiting()
        } else {
            Vec::new()
        }
    }

    /// Ends attempts begun at `since` or before without their threads, which end by themselves
    /// once what they wait for does.
    pub(in crate::handler) fn give_up(
        &self,
        since: Instant,
        now: Instant,
        verdict: impl Fn() -> Verdict,
        ended: &mut Vec<Finished>,
    ) {
        let mut state = self.shared.lock();
        let state = &mut *state;
        state.begun.retain(|begun| {
            if begun.at > since {
                return true;
            }
            state.threads -= 1;
            state.is_held = true;
            ended.push(begun.ended(now, verdict()));
            false
        });
    }

    /// Takes back what waits.
    pub(in crate::handler) fn take_back(&self) -> Vec<Event> {
        self.shared.lock().take_waiting()
    }

    /// How many attempts wait to be begun.
    pub(in crate::handler) fn waiting(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// How many attempts wait, are under way, or have ended and are to be collected.
    pub(in crate::handler) fn in_flight(&self) -> usize {
        let state = self.shared.lock();
        state.waiting.len() + state.begun.len() + state.ended.len()
    }

    /// When the first of the attempts under way began.
    pub(in crate::handler) fn first_begun(&self) -> Option<Instant> {
        self.shared.lock().begun.iter().map(|begun| begun.at).min()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.more.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, number: u64, fire: &mut Fire) {
        let mut state = self.lock();
        loop {
            let event = state.begin(number);
            let is_over = state.is_over;
            if state.must_tell() {
                drop(state);
                (self.wake)();
                state = self.lock();
            }
            if let Some(event) = event {
                drop(state);
                let verdict = self.attempt(number, event, fire);
                state = self.lock();
                if !state.end(number, verdict) {
                    return; // given up
                }
                beside("attempt.noted");
            } else if is_over {
                return;
            } else if !state.may_begin() && !state.is_over {
                state.idle += 1;
                state = self
                    .more
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }

    fn attempt(&self, number: u64, event: Event, fire: &mut Fire) -> Verdict {
        let mut report = Report {
            shared: self,
            number,
            is_made: false,
        };
        let verdict = fire(event);
        report.is_made = true;
        verdict
    }
}

impl State {
    fn may_begin(&self) -> bool {
        let now = monotonic();
        let in_time = |next: &Waiting| next.begin_by.is_none_or(|by| now < by);
        !self.is_held && !self.is_over && self.waiting.front().is_some_and(in_time)
    }

    /// The next attempt, if one may begin.
    fn begin(&mut self, number: u64) -> Option<Event> {
        let event = self.may_begin().then(|| self.waiting.pop_front())??.event;
        let (id, at) = (event.id, monotonic());
        self.begun.push(Begun { number, id, at });
        Some(event)
    }

    /// Notes how the thread's attempt ended. `false`: it was ended without it.
    fn end(&mut self, number: u64, verdict: Verdict) -> bool {
        let mut begun = self.begun.iter();
        let Some(index) = begun.position(|begun| begun.number == number) else {
            return false;
        };
        self.is_held |= verdict != Verdict::Done;
        let begun = self.begun.swap_remove(index);
        self.ended.push(begun.ended(monotonic(), verdict));
        true
    }

    fn take_waiting(&mut self) -> Vec<Event> {
        self.waiting.drain(..).map(|it| it.event).collect()
    }

    /// Whether the run is to be woken now.
    fn must_tell(&mut self) -> bool {
        let is_blocked = self.is_held || self.waiting.len() <= self.few;
        let enough = !self.ended.is_empty() && is_blocked || self.ended.len() >= MANY;
        let tell = enough && !self.is_told;
        self.is_told |= tell;
        tell
    }
}

impl Begun {
    fn ended(&self, now: Instant, verdict: Verdict) -> Finished {
        Finished {
            id: self.id,
            started: self.at,
            took: now.saturating_duration_since(self.at),
            verdict,
        }
    }
}

/// Ends the attempt of a thread that panics.
struct Report<'a> {
    shared: &'a Shared,
    number: u64,
    is_made: bool,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if self.is_made {
            return;
        }
        let error = "a bug: the attempt's thread panicked".to_owned();
        let mut state = self.shared.lock();
        if state.end(self.number, Verdict::Lost { error }) {
            state.threads -= 1;
        }
        state.is_told = true;
        drop(state);
        (self.shared.wake)();
    }
}
