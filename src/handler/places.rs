//! The places in which attempts of one type are under way at once, each a thread ([`workers`]) that
//! is started when it is first needed and kept for the run.
//!
//! While attempts end well and soon, a few events more than there are places are taken ahead
//! ([`super::Handler::room_ahead`]), so that no place waits for the run, which also has claims and
//! acks to write. What an attempt is, and when one is given up, is the handler's.

use std::mem;
use std::time::{Duration, Instant};

use self::workers::{Hire, Wake, Workers};
use super::{Finished, Verdict};
use crate::clock::monotonic;
use crate::config::TypeConfig;
use crate::event::Event;

pub(super) mod workers;

/// As many events are taken ahead as begin within this time at the present pace: what the run
/// needs to record a wave and to claim the next.
pub(super) const AHEAD: Duration = Duration::from_millis(25);
/// But no more than this.
pub(super) const MOST_AHEAD: usize = 1000;
/// While events wait to be begun, the run looks at them this often even if it is not woken.
pub(super) const GLANCE: Duration = Duration::from_millis(20);

/// The `concurrency` places of one type.
pub(super) struct Places {
    pub(super) workers: Workers,
    wake: Wake,
    concurrency: usize,
    pub(super) at_most_once: bool,
    /// What an attempt takes of late; `None` while they do not all end well.
    pub(super) pace: Option<Duration>,
    /// When what ended was last collected.
    looked: Instant,
    /// Could not be started; reported by the next look.
    refused: Vec<Finished>,
    /// Handed over ahead, and not begun.
    returned: Vec<Event>,
    is_closed: bool,
}

impl Places {
    /// No thread is started yet; each will call `hire` once. `wake` wakes the run.
    pub(super) fn new(type_config: &TypeConfig, hire: Hire, wake: Wake) -> Self {
        Self {
            workers: Workers::new(type_config.concurrency, hire, wake.clone()),
            wake,
            concurrency: type_config.concurrency,
            at_most_once: type_config.at_most_once,
            pace: None,
            looked: monotonic(),
            refused: Vec::new(),
            returned: Vec::new(),
            is_closed: false,
        }
    }

    /// As [`super::Handler::room`].
    pub(super) fn room(&self) -> usize {
        if self.is_closed {
            return 0;
        }
        self.concurrency.saturating_sub(self.in_flight())
    }

    /// As [`super::Handler::room_ahead`].
    pub(super) fn room_ahead(&self) -> usize {
        let Some(pace) = self.pace else { return 0 };
        if self.at_most_once || self.is_closed || !self.returned.is_empty() {
            return 0;
        }
        let each = AHEAD.as_nanos() / pace.as_nanos().max(1);
        let each = usize::try_from(each).unwrap_or(usize::MAX);
        let ahead = each.saturating_mul(self.concurrency).min(MOST_AHEAD);
        (self.concurrency + ahead).saturating_sub(self.in_flight())
    }

    /// Begins these in order as there are places for them, before `begin_by` or not at all.
    pub(super) fn begin(&mut self, events: Vec<Event>, begin_by: Option<Instant>) {
        let refusal = if self.is_closed {
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

    /// Appends what has ended to `ended`, in which stands only what ended since the last look.
    pub(super) fn look(&mut self, ended: &mut Vec<Finished>) {
        ended.append(&mut self.refused);
        self.looked = monotonic();
        self.returned.append(&mut self.workers.collect(ended));
        self.learn(ended);
    }

    /// What the attempts that ended say about the next.
    pub(super) fn learn(&mut self, ended: &[Finished]) {
        let count = u32::try_from(ended.len()).unwrap_or(u32::MAX);
        if count == 0 {
            return;
        }
        let all_well = ended.iter().all(|it| it.verdict == Verdict::Done);
        let took: Duration = ended.iter().map(|it| it.took).sum();
        self.pace = all_well.then(|| took / count);
    }

    /// Begins nothing any more.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.returned.append(&mut self.workers.take_back());
    }

    /// As [`super::Handler::waiting`].
    pub(super) fn waiting(&self) -> usize {
        self.workers.waiting() + self.returned.len()
    }

    /// As [`super::Handler::take_back`].
    pub(super) fn take_back(&mut self, everything: bool) -> Vec<Event> {
        if everything {
            self.returned.append(&mut self.workers.take_back());
        }
        mem::take(&mut self.returned)
    }

    /// When [`Places::look`] must be called at the latest.
    pub(super) fn next_look(&self) -> Option<Instant> {
        if let Some(refused) = self.refused.first() {
            return Some(refused.started);
        }
        (self.workers.waiting() > 0).then(|| self.looked + GLANCE)
    }

    /// How many attempts are under way or handed over.
    pub(super) fn in_flight(&self) -> usize {
        self.workers.in_flight() + self.refused.len() + self.returned.len()
    }
}
