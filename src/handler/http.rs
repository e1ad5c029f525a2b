//! The `http` handler: one request an event, on a thread of its own while it lasts.
//!
//! `ureq` blocks, so each of the type's `concurrency` slots is a thread, started when it is first
//! needed and kept for the run; connections are shared. Threads are never joined: whatever happens
//! to one, [`HttpHandler::collect`] ends its attempt in time, and neither the end of the run nor
//! that of the process waits for it.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::clock::{Clock, monotonic};
use crate::config::{HttpConfig, TypeConfig};
use crate::event::{Event, EventId};
use crate::fault::point;
use crate::handler::{Finished, Handler, Verdict};
use crate::spawn::{Reactor, Waker};

use self::request::Target;

pub use self::ping::ping;

mod client;
mod ping;
mod request;
mod resolve;
mod retry_after;
mod wire;

/// How much longer than the timeout a thread is waited for: the request's own deadline should have
/// ended it.
const OVERDUE: Duration = Duration::from_secs(5);
/// A longer timeout than this is none; sums with it stay within what an `Instant` holds.
const LONGEST_TIMEOUT: Duration = Duration::from_hours(24 * 365);

/// Fires events of one type as HTTP requests.
pub struct HttpHandler {
    target: Arc<Target>,
    clock: Clock,
    wake: Wake,
    concurrency: usize,
    timeout: Duration,
    grace: Duration,
    workers: Vec<Worker>,
    next_number: u64,
    answers: (Sender<Answer>, Receiver<Answer>),
    /// Could not be started; reported by the next collect.
    refused: Vec<Finished>,
    /// When what is still under way is given up: set by [`Handler::interrupt`].
    stop_at: Option<Instant>,
}

type Wake = Arc<dyn Fn() + Send + Sync>;

/// A thread and what it is at.
struct Worker {
    number: u64,
    events: Sender<Event>,
    current: Option<Attempt>,
}

struct Attempt {
    id: EventId,
    started: Instant,
}

/// A worker's word about its attempt.
struct Answer {
    number: u64,
    ended: Instant,
    verdict: Verdict,
}

impl HttpHandler {
    /// Prepares requests for one type; no connection is made and no thread started yet. A
    /// `ca_file` is read here.
    ///
    /// # Errors
    /// A URL, method, header or `ca_file` that cannot be used; the message names the type.
    pub fn new(
        type_config: &TypeConfig,
        http: &HttpConfig,
        install_id: &str,
        waker: Waker,
    ) -> anyhow::Result<HttpHandler> {
        Self::waking(
            type_config,
            http,
            install_id,
            Arc::new(move || waker.wake()),
        )
    }

    /// The same under another clock, which a `Retry-After` with a date is measured by.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> HttpHandler {
        self.clock = clock;
        self
    }

    fn waking(
        type_config: &TypeConfig,
        http: &HttpConfig,
        install_id: &str,
        wake: Wake,
    ) -> anyhow::Result<HttpHandler> {
        let mut type_config = type_config.clone();
        type_config.timeout = type_config.timeout.min(LONGEST_TIMEOUT);
        let target = Target::new(&type_config, http, install_id)
            .with_context(|| format!("type `{}`", type_config.name))?;
        Ok(Self {
            target: Arc::new(target),
            clock: Clock::system(),
            wake,
            concurrency: type_config.concurrency,
            timeout: type_config.timeout,
            grace: type_config.grace.min(LONGEST_TIMEOUT),
            workers: Vec::new(),
            next_number: 0,
            answers: mpsc::channel(),
            refused: Vec::new(),
            stop_at: None,
        })
    }

    fn begin(&mut self, event: Event) {
        let id = event.id;
        let started = monotonic();
        let Err(error) = self.hand_over(event, started) else {
            return;
        };
        let verdict = Verdict::NotStarted { error };
        self.refused.push(Finished {
            id,
            started,
            took: Duration::ZERO,
            verdict,
        });
        (self.wake)();
    }

    fn hand_over(&mut self, event: Event, started: Instant) -> Result<(), String> {
        if self.stop_at.is_some() {
            return Err("the run is being stopped".to_owned());
        }
        let current = Some(Attempt {
            id: event.id,
            started,
        });
        let mut event = event;
        while let Some(index) = self
            .workers
            .iter()
            .position(|worker| worker.current.is_none())
        {
            let worker = &mut self.workers[index];
            match worker.events.send(event) {
                Ok(()) => {
                    worker.current = current;
                    return Ok(());
                }
                Err(mpsc::SendError(unsent)) => {
                    event = unsent; // its thread has ended
                    self.workers.swap_remove(index);
                }
            }
        }
        let mut worker = self.hire()?;
        worker
            .events
            .send(event)
            .map_err(|_| "the request's thread ended at once".to_owned())?;
        worker.current = current;
        self.workers.push(worker);
        Ok(())
    }

    fn hire(&mut self) -> Result<Worker, String> {
        let number = self.next_number;
        self.next_number += 1;
        let (events, to_do) = mpsc::channel();
        let target = Arc::clone(&self.target);
        let (clock, answers, wake) = (self.clock, self.answers.0.clone(), Arc::clone(&self.wake));
        let work = move || {
            while let Ok(event) = to_do.recv() {
                let mut report = Report {
                    number,
                    verdict: None,
                    answers: &answers,
                    wake: &wake,
                };
                report.verdict = Some(target.fire(&event, clock));
            }
        };
        thread::Builder::new()
            .name(format!("http-{number}"))
            .spawn(work)
            .map_err(|error| format!("cannot start a thread for the request: {error}"))?;
        Ok(Worker {
            number,
            events,
            current: None,
        })
    }

    fn gather(&mut self, ended: &mut Vec<Finished>) {
        ended.append(&mut self.refused);
        while let Ok(answer) = self.answers.1.try_recv() {
            let worker = self
                .workers
                .iter_mut()
                .find(|worker| worker.number == answer.number);
            // None: an attempt that was ended without waiting for this.
            if let Some(attempt) = worker.and_then(|worker| worker.current.take()) {
                ended.push(attempt.ended(answer.ended, answer.verdict));
            }
        }
        let now = monotonic();
        if self.stop_at.is_some_and(|at| at <= now) {
            self.target.cut();
            self.abandon(
                now,
                ended,
                |_| true,
                || Verdict::Interrupted {
                    error: "the run was stopped before the answer came".to_owned(),
                },
            );
        }
        let limit = self.timeout + OVERDUE;
        self.abandon(
            now,
            ended,
            |attempt| attempt.started + limit <= now,
            || Verdict::Lost {
                error: "the request did not end by its deadline and was given up".to_owned(),
            },
        );
    }

    /// Ends attempts without their threads, which end by themselves once their request does.
    fn abandon(
        &mut self,
        now: Instant,
        ended: &mut Vec<Finished>,
        which: impl Fn(&Attempt) -> bool,
        verdict: impl Fn() -> Verdict,
    ) {
        self.workers.retain_mut(|worker| {
            let Some(attempt) = worker.current.take_if(|attempt| which(attempt)) else {
                return true;
            };
            ended.push(attempt.ended(now, verdict()));
            false
        });
    }

    fn stop(&mut self) {
        self.stop_at.get_or_insert_with(|| monotonic() + self.grace);
    }
}

impl Handler for HttpHandler {
    fn room(&self) -> usize {
        if self.stop_at.is_some() {
            return 0;
        }
        self.concurrency.saturating_sub(self.in_flight())
    }

    fn start(&mut self, events: Vec<Event>, _reactor: &mut Reactor) {
        for event in events {
            point("fire.before");
            self.begin(event);
            point("fire.after");
        }
    }

    fn collect(&mut self, _reactor: &mut Reactor, ended: &mut Vec<Finished>) {
        self.gather(ended);
    }

    fn next_deadline(&self) -> Option<Instant> {
        if let Some(refused) = self.refused.first() {
            return Some(refused.started);
        }
        let under_way = self
            .workers
            .iter()
            .filter_map(|worker| worker.current.as_ref());
        let first = under_way
            .map(|attempt| attempt.started + self.timeout + OVERDUE)
            .min()?;
        Some(self.stop_at.map_or(first, |at| at.min(first)))
    }

    fn in_flight(&self) -> usize {
        let under_way = self
            .workers
            .iter()
            .filter(|worker| worker.current.is_some())
            .count();
        under_way + self.refused.len()
    }

    fn interrupt(&mut self, _reactor: &mut Reactor) {
        self.stop();
    }
}

impl Drop for HttpHandler {
    /// Lets what is still under way fail at once instead of going on unheard.
    fn drop(&mut self) {
        self.target.cut();
    }
}

impl Attempt {
    fn ended(self, at: Instant, verdict: Verdict) -> Finished {
        let took = at.saturating_duration_since(self.started);
        Finished {
            id: self.id,
            started: self.started,
            took,
            verdict,
        }
    }
}

/// Answers for an attempt however its thread leaves it, in a panic too.
struct Report<'a> {
    number: u64,
    verdict: Option<Verdict>,
    answers: &'a Sender<Answer>,
    wake: &'a Wake,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        let verdict = self.verdict.take().unwrap_or_else(|| Verdict::Lost {
            error: "a bug: the request's thread panicked".to_owned(),
        });
        let answer = Answer {
            number: self.number,
            ended: monotonic(),
            verdict,
        };
        // Nobody listens any more: the handler is gone.
        let _ = self.answers.send(answer);
        (self.wake)();
    }
}

#[cfg(test)]
mod tests;
