//! One process an event, one after the other.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use super::ending::{self, Stopped};
use super::launch::Launcher;
use crate::clock::monotonic;
use crate::config::TypeConfig;
use crate::event::{Event, EventId};
use crate::fault::point;
use crate::handler::{Finished, Handler, Verdict};
use crate::spawn::{ChildId, CommandSpec, Output, Reactor};

/// `mode = "each"`.
#[derive(Debug)]
pub(super) struct Each {
    launcher: Launcher,
    timeout: Duration,
    grace: Duration,
    running: Option<Attempt>,
    not_started: Option<Finished>,
}

#[derive(Debug)]
struct Attempt {
    id: EventId,
    child: ChildId,
    started: Instant,
    deadline: Option<Instant>,
    stopped: Option<Stopped>,
}

impl Each {
    pub(super) fn new(type_config: &TypeConfig, launcher: Launcher) -> Self {
        Self {
            launcher,
            timeout: type_config.timeout,
            grace: type_config.grace,
            running: None,
            not_started: None,
        }
    }

    /// What an event comes to for which there are not even the means to start anything.
    pub(super) fn not_now(&self, error: &io::Error) -> Verdict {
        self.launcher.not_now(&error.to_string())
    }

    /// Starts the process of one event; there must be room.
    pub(super) fn begin(&mut self, mut event: Event, reactor: &mut Reactor) {
        debug_assert_eq!(self.in_flight(), 0, "one after the other");
        let started = monotonic();
        let payload = std::mem::take(&mut event.payload);
        let describe = |spec: &mut CommandSpec| describe(&event, spec);
        match self
            .launcher
            .launch(reactor, payload, Output::Null, describe)
        {
            Ok(child) => {
                let deadline = started.checked_add(self.timeout);
                self.running = Some(Attempt {
                    id: event.id,
                    child,
                    started,
                    deadline,
                    stopped: None,
                });
            }
            Err(verdict) => {
                let took = monotonic() - started;
                self.not_started = Some(Finished {
                    id: event.id,
                    started,
                    took,
                    verdict,
                });
            }
        }
    }
}

impl Handler for Each {
    fn room(&self) -> usize {
        usize::from(self.in_flight() == 0)
    }

    fn start(&mut self, events: Vec<Event>, reactor: &mut Reactor) {
        for event in events {
            point("fire.before");
            self.begin(event, reactor);
            point("fire.after");
        }
    }

    fn collect(&mut self, reactor: &mut Reactor, ended: &mut Vec<Finished>) {
        ended.extend(self.not_started.take());
        let Some(attempt) = &mut self.running else {
            return;
        };
        if let Some(exit) = reactor.take_exit(attempt.child) {
            ended.push(Finished {
                id: attempt.id,
                started: attempt.started,
                took: exit.ended - attempt.started,
                verdict: ending::verdict(&exit, attempt.stopped),
            });
            self.running = None;
        } else if attempt.stopped.is_none() && attempt.deadline.is_some_and(|at| monotonic() >= at)
        {
            attempt.stopped = Some(Stopped::TimedOut(self.timeout));
            reactor.stop(attempt.child, self.grace);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        if let Some(finished) = &self.not_started {
            return Some(finished.started);
        }
        // Once stopped, the reactor itself sees to the end.
        let live = self.running.as_ref();
        live.filter(|attempt| attempt.stopped.is_none())?.deadline
    }

    fn in_flight(&self) -> usize {
        usize::from(self.running.is_some()) + usize::from(self.not_started.is_some())
    }

    fn interrupt(&mut self, reactor: &mut Reactor) {
        let live = self.running.as_mut();
        if let Some(attempt) = live.filter(|attempt| attempt.stopped.is_none()) {
            attempt.stopped = Some(Stopped::Interrupted);
            reactor.stop(attempt.child, self.grace);
        }
    }
}

/// What a handler is told beside the payload. The names are `PUNCTUAL_EVENT_…`; the short forms
/// without `EVENT_` are kept for scripts that read DESIGN §4 and §6 that way.
fn describe(event: &Event, spec: &mut CommandSpec) -> io::Result<()> {
    let due = event.first_due().to_string();
    let attempt = event.attempt_number().to_string();
    spec.set_env("PUNCTUAL_EVENT_ID", event.id.to_string())?;
    for (name, short, value) in [
        ("PUNCTUAL_EVENT_TYPE", "PUNCTUAL_TYPE", &event.type_name),
        ("PUNCTUAL_EVENT_DUE_AT", "PUNCTUAL_DUE_AT", &due),
        ("PUNCTUAL_EVENT_ATTEMPT", "PUNCTUAL_ATTEMPT", &attempt),
    ] {
        spec.set_env(name, value)?;
        spec.set_env(short, value)?;
    }
    for (name, short, value) in [
        (
            "PUNCTUAL_EVENT_SLOT_AT",
            "PUNCTUAL_SLOT_AT",
            event.slot.map(|slot| slot.at.to_string()),
        ),
        (
            "PUNCTUAL_EVENT_SLOTS",
            "PUNCTUAL_SLOTS",
            event.slot.map(|slot| slot.slots.to_string()),
        ),
    ] {
        if let Some(value) = value {
            spec.set_env(name, &value)?;
            spec.set_env(short, &value)?;
        } else {
            spec.unset_env(name);
            spec.unset_env(short);
        }
    }
    for name in ["PUNCTUAL_EVENT_KEY", "PUNCTUAL_KEY"] {
        match &event.key {
            Some(key) => spec.set_env(name, OsStr::from_bytes(key)).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidInput, "its key holds a NUL byte")
            })?,
            None => spec.unset_env(name),
        }
    }
    Ok(())
}
