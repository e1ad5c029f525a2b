//! The `http` handler: one request an event, on a thread of its own while it lasts.
//!
//! `ureq` blocks, so each of the type's `concurrency` slots is a thread ([`workers`]), started when
//! it is first needed and kept for the run; connections are shared ([`wire`]). Threads are never
//! joined: whatever happens to one, [`HttpHandler::collect`] ends its attempt in time, and neither
//! the end of the run nor that of the process waits for it.
//!
//! While requests are answered well and soon, a few events more than there are slots are taken
//! ahead ([`Handler::room_ahead`]), so that no slot waits for the run, which also has claims and
//! acks to write.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::clock::{Clock, monotonic};
use crate::config::{HttpConfig, TypeConfig};
use crate::event::Event;
use crate::fault::point;
use crate::handler::{Finished, Handler, Verdict};
use crate::spawn::{Reactor, Waker};

use self::request::Target;
use self::workers::Workers;

pub use self::ping::ping;

mod client;
mod exchange;
mod ping;
mod request;
mod resolve;
mod retry_after;
mod wire;
mod workers;

/// How much longer than the timeout a thread is waited for: the request's own deadline should have
/// ended it.
const OVERDUE: Duration = Duration::from_secs(5);
/// A longer timeout than this is none; sums with it stay within what an `Instant` holds.
const LONGEST_TIMEOUT: Duration = Duration::from_hours(24 * 365);
/// As many events are taken ahead as begin within this time at the present pace: what the run
/// needs to record a wave and to claim the next.
const AHEAD: Duration = Duration::from_millis(25);
/// But no more than this.
const MOST_AHEAD: usize = 1000;
/// While events wait to be begun, the run looks at them this often even if it is not woken.
const GLANCE: Duration = Duration::from_millis(20);

/// Fires events of one type as HTTP requests.
pub struct HttpHandler {
    target: Arc<Target>,
    wake: Wake,
    workers: Workers,
    concurrency: usize,
    at_most_once: bool,
    timeout: Duration,
    grace: Duration,
    /// What an attempt takes of late; `None` while they do not all end well.
    pace: Option<Duration>,
    /// When what ended was last collected.
    looked: Instant,
    /// Could not be started; reported by the next collect.
    refused: Vec<Finished>,
    /// Handed over ahead, and not begun.
    returned: Vec<Event>,
    /// When what is still under way is given up: set by [`Handler::interrupt`].
    stop_at: Option<Instant>,
}

type Wake = Arc<dyn Fn() + Send + Sync>;

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
        self.workers = workers(self.concurrency, &self.target, clock, &self.wake);
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
        let target = Arc::new(target);
        let concurrency = type_config.concurrency;
        Ok(Self {
            workers: workers(concurrency, &target, Clock::system(), &wake),
            target,
            wake,
            concurrency,
            at_most_once: type_config.at_most_once,
            timeout: type_config.timeout,
            grace: type_config.grace.min(LONGEST_TIMEOUT),
            pace: None,
            looked: monotonic(),
            refused: Vec::new(),
            returned: Vec::new(),
            stop_at: None,
        })
    }

    fn begin(&mut self, events: Vec<Event>, begin_by: Option<Instant>) {
        let refusal = if self.stop_at.is_some() {
            Err((events, "the run is being stopped".to_owned()))
        } else {
            self.workers.hand_over(events, begin_by)
        };
        let Err((events, error)) = refusal else {
            return;
        };
        let started = monotonic();
        self.refused.extend(events.iter().map(|event| Finished {
            id: event.id,
            started,
            took: Duration::ZERO,
            verdict: Verdict::NotStarted {
                error: error.clone(),
            },
        }));
        (self.wake)();
    }

    fn gather(&mut self, ended: &mut Vec<Finished>) {
        ended.append(&mut self.refused);
        let now = monotonic();
        self.looked = now;
        if self.stop_at.is_some_and(|at| at <= now) {
            let verdict = || Verdict::Interrupted {
                error: "the run was stopped before the answer came".to_owned(),
            };
            self.workers.give_up(now, now, verdict, ended);
            self.target.cut(); // not before: what fails by it would count as lost
        }
        if let Some(overdue) = now.checked_sub(self.timeout + OVERDUE) {
            let verdict = || Verdict::Lost {
                error: "the request did not end by its deadline and was given up".to_owned(),
            };
            self.workers.give_up(overdue, now, verdict, ended);
        }
        self.returned.append(&mut self.workers.collect(ended));
        self.learn(ended);
    }

    /// What the attempts that ended say about the next.
    fn learn(&mut self, ended: &[Finished]) {
        let count = u32::try_from(ended.len()).unwrap_or(u32::MAX);
        if count == 0 {
            return;
        }
        let all_well = ended.iter().all(|it| it.verdict == Verdict::Done);
        let took: Duration = ended.iter().map(|it| it.took).sum();
        self.pace = all_well.then(|| took / count);
    }

    fn stop(&mut self) {
        self.stop_at.get_or_insert_with(|| monotonic() + self.grace);
        self.returned.append(&mut self.workers.take_back());
    }
}

fn workers(most: usize, target: &Arc<Target>, clock: Clock, wake: &Wake) -> Workers {
    let target = Arc::clone(target);
    let fire = move |event: &Event| target.fire(event, clock);
    Workers::new(most, Arc::new(fire), Arc::clone(wake))
}

impl Handler for HttpHandler {
    fn room(&self) -> usize {
        if self.stop_at.is_some() {
            return 0;
        }
        self.concurrency.saturating_sub(self.in_flight())
    }

    fn room_ahead(&self) -> usize {
        let Some(pace) = self.pace else { return 0 };
        if self.at_most_once || self.stop_at.is_some() || !self.returned.is_empty() {
            return 0;
        }
        let each = AHEAD.as_nanos() / pace.as_nanos().max(1);
        let each = usize::try_from(each).unwrap_or(usize::MAX);
        let ahead = each.saturating_mul(self.concurrency).min(MOST_AHEAD);
        (self.concurrency + ahead).saturating_sub(self.in_flight())
    }

    fn start(&mut self, events: Vec<Event>, _reactor: &mut Reactor) {
        for event in events {
            point("fire.before");
            self.begin(vec![event], None);
            point("fire.after");
        }
    }

    fn start_ahead(&mut self, events: Vec<Event>, begin_by: Instant) {
        point("fire.before");
        self.begin(events, Some(begin_by));
        point("fire.after");
    }

    fn waiting(&self) -> usize {
        self.workers.waiting() + self.returned.len()
    }

    fn take_back(&mut self, everything: bool) -> Vec<Event> {
        if everything {
            self.returned.append(&mut self.workers.take_back());
        }
        mem::take(&mut self.returned)
    }

    fn collect(&mut self, _reactor: &mut Reactor, ended: &mut Vec<Finished>) {
        self.gather(ended);
    }

    fn next_deadline(&self) -> Option<Instant> {
        if let Some(refused) = self.refused.first() {
            return Some(refused.started);
        }
        let first = self.workers.first_begun();
        let glance = (self.workers.waiting() > 0).then(|| self.looked + GLANCE);
        let overdue = first.map(|first| first + self.timeout + OVERDUE);
        let stop = first.and(self.stop_at);
        [glance, overdue, stop].into_iter().flatten().min()
    }

    fn in_flight(&self) -> usize {
        self.workers.in_flight() + self.refused.len() + self.returned.len()
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

#[cfg(test)]
mod tests;
