//! One process an event, several at once.
//!
//! Whoever starts a process waits until it has become a program of its own, so that one thread that
//! starts all of them keeps no more than one core busy with it. So each place is a thread
//! ([`crate::handler::places`]) with a [`Reactor`] and an [`Each`] of its own, which starts one
//! process after the other and sees to its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::each::Each;
use super::launch::Launcher;
use crate::clock::monotonic;
use crate::config::TypeConfig;
use crate::event::Event;
use crate::fault::point;
use crate::handler::places::Places;
use crate::handler::places::workers::{Fire, Hire};
use crate::handler::{Finished, Handler, Verdict};
use crate::spawn::{Guard, Reactor, Waker};

/// A thread looks at the clock this often though nothing happens.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// What was to be started now and was not within this time, as in a run that was frozen, is given
/// back to be looked at anew.
const BEGIN_WITHIN: Duration = Duration::from_secs(1);

/// `mode = "each"` with a `concurrency` above 1.
pub(super) struct Abreast {
    places: Places,
    stop: Arc<Stop>,
}

/// How the threads are told that the run is being stopped.
#[derive(Default)]
struct Stop {
    is_set: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

/// What one thread has.
struct Place {
    each: Each,
    guard: Arc<Guard>,
    reactor: Option<Reactor>,
    stop: Arc<Stop>,
}

impl Abreast {
    pub(super) fn new(type_config: &TypeConfig, launcher: Launcher, reactor: &Reactor) -> Self {
        let stop = Arc::new(Stop::default());
        let (waker, guard) = (reactor.waker(), reactor.guard());
        let hire: Hire = {
            let (stop, type_config) = (Arc::clone(&stop), type_config.clone());
            Arc::new(move || -> Fire {
                let each = Each::new(&type_config, launcher.another());
                let mut place = Place::new(each, &guard, &stop);
                Box::new(move |event| place.attempt(event))
            })
        };
        Self {
            places: Places::new(type_config, hire, Arc::new(move || waker.wake())),
            stop,
        }
    }
}

impl Handler for Abreast {
    fn room(&self) -> usize {
        self.places.room()
    }

    fn room_ahead(&self) -> usize {
        self.places.room_ahead()
    }

    fn start(&mut self, events: Vec<Event>, _reactor: &mut Reactor) {
        for event in events {
            point("fire.before");
            self.places
                .begin(vec![event], Some(monotonic() + BEGIN_WITHIN));
            point("fire.after");
        }
    }

    fn start_ahead(&mut self, events: Vec<Event>, begin_by: Instant) {
        point("fire.before");
        self.places.begin(events, Some(begin_by));
        point("fire.after");
    }

    fn waiting(&self) -> usize {
        self.places.waiting()
    }

    fn take_back(&mut self, everything: bool) -> Vec<Event> {
        self.places.take_back(everything)
    }

    fn collect(&mut self, _reactor: &mut Reactor, ended: &mut Vec<Finished>) {
        self.places.look(ended);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.places.next_look()
    }

    fn in_flight(&self) -> usize {
        self.places.in_flight()
    }

    fn interrupt(&mut self, _reactor: &mut Reactor) {
        self.places.close();
        self.stop.set();
    }
}

impl Drop for Abreast {
    /// Ends what is still under way.
    fn drop(&mut self) {
        self.stop.set();
    }
}

impl Stop {
    fn set(&self) {
        self.is_set.store(true, Ordering::SeqCst);
        for waker in self.wakers().iter() {
            waker.wake();
        }
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn new(each: Each, guard: &Arc<Guard>, stop: &Arc<Stop>) -> Self {
        Self {
            each,
            guard: Arc::clone(guard),
            reactor: None,
            stop: Arc::clone(stop),
        }
    }

    /// Blocks until the attempt has ended.
    fn attempt(&mut self, event: Event) -> Verdict {
        let reactor = match &mut self.reactor {
            Some(reactor) => reactor,
            none => match Reactor::guarded_by(Arc::clone(&self.guard)) {
                Ok(reactor) => {
                    // Before the first look at `is_set`, so that no stop is missed.
                    self.stop.wakers().push(reactor.waker());
                    none.insert(reactor)
                }
                Err(error) => return self.each.not_now(&error),
            },
        };
        let mut ended = Vec::with_capacity(1);
        self.each.begin(event, reactor);
        loop {
            self.each.collect(reactor, &mut ended);
            if let Some(finished) = ended.pop() {
                return finished.verdict;
            }
            if self.stop.is_set.load(Ordering::SeqCst) {
                self.each.interrupt(reactor);
            }
            let until = monotonic() + LONGEST_WAIT;
            let deadline = self.each.next_deadline();
            let until = deadline.map_or(until, |at| at.min(until));
            if let Err(error) = reactor.wait(until) {
                log::error!("waiting for a process: {error}");
            }
        }
    }
}
