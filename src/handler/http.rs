//! The `http` handler: one request an event, on a thread of its own while it lasts.
//!
//! `ureq` blocks, so each of the type's `concurrency` places is a thread ([`super::places`]);
//! connections are shared ([`wire`]). Whatever happens to a thread, [`HttpHandler::collect`] ends
//! its attempt in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::clock::{Clock, monotonic};
use crate::config::{HttpConfig, TypeConfig};
use crate::event::Event;
use crate::fault::point;
use crate::handler::places::Places;
use crate::handler::places::workers::{Fire, Hire, Wake};
use crate::handler::{Finished, Handler, Verdict};
use crate::spawn::{Reactor, Waker};

use self::request::Target;

pub use self::ping::ping;

mod client;
mod exchange;
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
    type_config: TypeConfig,
    target: Arc<Target>,
    wake: Wake,
    places: Places,
    timeout: Duration,
    grace: Duration,
    /// When what is still under way is given up: set by [`Handler::interrupt`].
    stop_at: Option<Instant>,
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
        self.places = places(&self.type_config, &self.target, clock, &self.wake);
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
        Ok(Self {
            places: places(&type_config, &target, Clock::system(), &wake),
            target,
            wake,
            timeout: type_config.timeout,
            grace: type_config.grace.min(LONGEST_TIMEOUT),
            type_config,
            stop_at: None,
        })
    }

    fn gather(&mut self, ended: &mut Vec<Finished>) {
        let now = monotonic();
        if self.stop_at.is_some_and(|at| at <= now) {
            let verdict = || Verdict::Interrupted {
                error: "the run was stopped before the answer came".to_owned(),
            };
            self.places.workers.give_up(now, now, verdict, ended);
            self.target.cut(); // not before: what fails by it would count as lost
        }
        if let Some(overdue) = now.checked_sub(self.timeout + OVERDUE) {
            let verdict = || Verdict::Lost {
                error: "the request did not end by its deadline and was given up".to_owned(),
            };
            self.places.workers.give_up(overdue, now, verdict, ended);
        }
        self.places.look(ended);
    }

    fn stop(&mut self) {
        self.stop_at.get_or_insert_with(|| monotonic() + self.grace);
        self.places.close();
    }
}

fn places(type_config: &TypeConfig, target: &Arc<Target>, clock: Clock, wake: &Wake) -> Places {
    let target = Arc::clone(target);
    let hire: Hire = Arc::new(move || -> Fire {
        let target = Arc::clone(&target);
        Box::new(move |event| target.fire(&event, clock))
    });
    Places::new(type_config, hire, Arc::clone(wake))
}

impl Handler for HttpHandler {
    fn room(&self) -> usize {
        self.places.room()
    }

    fn room_ahead(&self) -> usize {
        self.places.room_ahead()
    }

    fn start(&mut self, events: Vec<Event>, _reactor: &mut Reactor) {
        for event in events {
            point("fire.before");
            self.places.begin(vec![event], None);
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
        self.gather(ended);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let first = self.places.workers.first_begun();
        let overdue = first.map(|first| first + self.timeout + OVERDUE);
        let stop = first.and(self.stop_at);
        [self.places.next_look(), overdue, stop]
            .into_iter()
            .flatten()
            .min()
    }

    fn in_flight(&self) -> usize {
        self.places.in_flight()
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
