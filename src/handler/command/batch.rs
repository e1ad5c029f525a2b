//! One process for many events: a JSON line each on its stdin, an answer line each on its stdout,
//! so that the start of an interpreter is paid once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::answer::{self, Line, Lines};
use super::ending::{self, Stopped};
use super::launch::Launcher;
use crate::clock::monotonic;
use crate::config::TypeConfig;
use crate::event::{Event, EventId};
use crate::fault::point;
use crate::handler::{Finished, Handler, Verdict};
use crate::spawn::{ChildId, Exit, Output, Reactor};

/// How many stray lines of a process are logged; a flood would fill the log, or cron's mail.
const STRAYS_LOGGED: u64 = 5;
/// What a line holds beside its payload, in bytes, about.
const LINE_BYTES: usize = 128;
/// How much of a stray line is shown to a person, in bytes.
const STRAY_SHOWN: usize = 200;

/// `mode = "batch"`.
#[derive(Debug)]
pub(super) struct Batch {
    launcher: Launcher,
    timeout: Duration,
    grace: Duration,
    concurrency: usize,
    running: Vec<Process>,
    not_started: Vec<Finished>,
}

impl Batch {
    pub(super) fn new(type_config: &TypeConfig, launcher: Launcher) -> Self {
        Self {
            launcher,
            timeout: type_config.timeout,
            grace: type_config.grace,
            concurrency: type_config.concurrency,
            running: Vec::new(),
            not_started: Vec::new(),
        }
    }
}

impl Handler for Batch {
    /// All that the caller has, or nothing while `concurrency` processes are at work: each
    /// [`Handler::start`] is one process.
    fn room(&self) -> usize {
        if self.running.len() < self.concurrency {
            usize::MAX
        } else {
            0
        }
    }

    fn starts_together(&self) -> bool {
        true
    }

    fn start(&mut self, events: Vec<Event>, reactor: &mut Reactor) {
        if events.is_empty() {
            return;
        }
        let started = monotonic();
        let ids: BTreeSet<EventId> = events.iter().map(|event| event.id).collect();
        let input = lines(events);
        point("fire.before");
        let launched = self
            .launcher
            .launch(reactor, input, Output::Pipe, |_| Ok(()));
        point("fire.after");
        match launched {
            Ok(child) => self.running.push(Process::new(child, ids, started)),
            Err(verdict) => {
                let took = monotonic() - started;
                let finished = |id| Finished {
                    id,
                    started,
                    took,
                    verdict: verdict.clone(),
                };
                self.not_started.extend(ids.into_iter().map(finished));
            }
        }
    }

    fn collect(&mut self, reactor: &mut Reactor, ended: &mut Vec<Finished>) {
        ended.append(&mut self.not_started);
        let type_name = self.launcher.type_name();
        self.running.retain_mut(|process| {
            process.read(type_name, &reactor.take_stdout(process.child), ended);
            if let Some(exit) = reactor.take_exit(process.child) {
                process.end(type_name, &exit, ended);
                return false;
            }
            if process
                .deadline(self.timeout)
                .is_some_and(|deadline| monotonic() >= deadline)
            {
                process.stopped = Some(Stopped::TimedOut(self.timeout));
                reactor.stop(process.child, self.grace);
            }
            true
        });
    }

    fn next_deadline(&self) -> Option<Instant> {
        if let Some(finished) = self.not_started.first() {
            return Some(finished.started);
        }
        self.running
            .iter()
            .filter_map(|process| process.deadline(self.timeout))
            .min()
    }

    /// Events without an answer; a process that has answered all and not yet ended counts as one,
    /// so that nobody kills it on its last steps.
    fn in_flight(&self) -> usize {
        let unanswered = self
            .running
            .iter()
            .map(|process| process.unanswered.len().max(1));
        unanswered.sum::<usize>() + self.not_started.len()
    }

    fn interrupt(&mut self, reactor: &mut Reactor) {
        for process in self
            .running
            .iter_mut()
            .filter(|process| process.stopped.is_none())
        {
            process.stopped = Some(Stopped::Interrupted);
            reactor.stop(process.child, self.grace);
        }
    }
}

/// One process and what it still owes.
#[derive(Debug)]
struct Process {
    child: ChildId,
    unanswered: BTreeSet<EventId>,
    /// Where the event in hand began: at the start, or at the answer before.
    last_answer: Instant,
    lines: Lines,
    /// The first line that was no answer, and how many there were.
    stray: Option<String>,
    strays: u64,
    stopped: Option<Stopped>,
}

impl Process {
    fn new(child: ChildId, unanswered: BTreeSet<EventId>, started: Instant) -> Self {
        Self {
            child,
            unanswered,
            last_answer: started,
            lines: Lines::default(),
            stray: None,
            strays: 0,
            stopped: None,
        }
    }

    fn deadline(&self, timeout: Duration) -> Option<Instant> {
        self.last_answer
            .checked_add(timeout)
            .filter(|_| self.stopped.is_none())
    }

    fn read(&mut self, type_name: &str, printed: &[u8], ended: &mut Vec<Finished>) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.feed(printed, |line| self.take(type_name, line, ended));
        self.lines = lines;
    }

    fn take(&mut self, type_name: &str, line: Line, ended: &mut Vec<Finished>) {
        let text = match line {
            Line::TooLong(start) => return self.stray(type_name, "a line over 64 KiB", &start),
            Line::Whole(text) => text,
        };
        let Some(answer) = answer::parse(&text) else {
            return self.stray(type_name, "a line that is no answer", &text);
        };
        if !self.unanswered.remove(&answer.id) {
            return self.stray(type_name, "an answer nobody waits for", &text);
        }
        let started = self.last_answer;
        self.last_answer = monotonic();
        let took = self.last_answer - started;
        ended.push(Finished {
            id: answer.id,
            started,
            took,
            verdict: answer.verdict,
        });
    }

    fn stray(&mut self, type_name: &str, what: &str, line: &[u8]) {
        let shown = &line[..line.len().min(STRAY_SHOWN)];
        let shown = ending::readable(shown).replace('\n', " ");
        self.strays += 1;
        if self.strays <= STRAYS_LOGGED {
            log::warn!("the batch handler of [type.{type_name}] printed {what}: `{shown}`");
        }
        self.stray.get_or_insert(shown);
    }

    fn end(&mut self, type_name: &str, exit: &Exit, ended: &mut Vec<Finished>) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.end(|line| self.take(type_name, line, ended));
        if self.strays > STRAYS_LOGGED {
            let more = self.strays - STRAYS_LOGGED;
            log::warn!("the batch handler of [type.{type_name}] printed {more} more such lines");
        }
        let intro = match &self.stray {
            Some(stray) => format!("not answered; the handler printed `{stray}`: "),
            None => "not answered: ".to_owned(),
        };
        let error = ending::message(&intro, exit, self.stopped);
        if self.unanswered.is_empty() {
            let ended_well = exit.status.is_some_and(|status| status.success());
            if !ended_well && self.stopped != Some(Stopped::Interrupted) {
                let how = ending::message("", exit, self.stopped);
                log::warn!("the batch handler of [type.{type_name}] answered all, then: {how}");
            }
            return;
        }
        let verdict = verdict(exit, self.stopped, error);
        let started = self.last_answer;
        let took = exit.ended.saturating_duration_since(started);
        let left = std::mem::take(&mut self.unanswered).into_iter();
        ended.extend(left.map(|id| Finished {
            id,
            started,
            took,
            verdict: verdict.clone(),
        }));
    }
}

/// What became of an event that its process did not answer.
fn verdict(exit: &Exit, stopped: Option<Stopped>, error: String) -> Verdict {
    let Some(status) = exit.status else {
        return Verdict::Lost { error };
    };
    match stopped {
        Some(Stopped::TimedOut(_)) => Verdict::Lost { error },
        Some(Stopped::Interrupted) => Verdict::Interrupted { error },
        None if status.code() == Some(ending::LATER) => Verdict::Later {
            error,
            retry_after: None,
        },
        None => Verdict::failed(error),
    }
}

/// An event as a handler reads it.
#[derive(Serialize)]
struct Request<'a> {
    id: i64,
    r#type: &'a str,
    key: Option<&'a str>,
    /// Instead of `key`, which is null then, where the key is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    due_at: i64,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    /// Instead of `payload`, where that is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    /// Of an event that a schedule made: its slot, and how many slots it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    slot_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slots: Option<u64>,
}

/// The lines of `events`. Each payload is let go of once it is written, and the lines grow into room
/// that was set aside: of megabytes there is little more than one copy at a time.
fn lines(events: Vec<Event>) -> Vec<u8> {
    let bytes = events.iter().map(|event| event.payload.len() + LINE_BYTES);
    let mut input = Vec::with_capacity(bytes.sum());
    for event in events {
        write_line(&mut input, &event);
    }
    input
}

fn write_line(input: &mut Vec<u8>, event: &Event) {
    let key = event.key.as_deref();
    let payload = std::str::from_utf8(&event.payload);
    let request = Request {
        id: event.id.0,
        r#type: &event.type_name,
        key: key.and_then(|key| std::str::from_utf8(key).ok()),
        key_base64: key
            .filter(|key| std::str::from_utf8(key).is_err())
            .map(|key| STANDARD.encode(key)),
        due_at: event.first_due().0,
        attempt: event.attempt_number(),
        payload: payload.ok(),
        payload_base64: payload.is_err().then(|| STANDARD.encode(&event.payload)),
        slot_at: event.slot.map(|slot| slot.at.0),
        slots: event.slot.map(|slot| slot.slots),
    };
    serde_json::to_writer(&mut *input, &request).expect("numbers and texts always serialize");
    input.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixSeconds;

    fn event(key: Option<&[u8]>, payload: &[u8]) -> Event {
        Event {
            id: EventId(7),
            type_name: "mail".to_owned(),
            due_at: UnixSeconds(2000),
            first_due_at: Some(UnixSeconds(1000)),
            payload: payload.to_vec(),
            key: key.map(<[u8]>::to_vec),
            priority: 0,
            expires_at: None,
            attempts: 1,
            losses: 1,
            deferrals: 5,
            slot: None,
        }
    }

    fn text(event: &Event) -> String {
        let mut input = Vec::new();
        write_line(&mut input, event);
        String::from_utf8(input).unwrap()
    }

    #[test]
    fn an_event_is_one_line_of_json() {
        assert_eq!(
            text(&event(Some(b"k"), b"{\"a\":\n1}")),
            "{\"id\":7,\"type\":\"mail\",\"key\":\"k\",\"due_at\":1000,\"attempt\":3,\
             \"payload\":\"{\\\"a\\\":\\n1}\"}\n"
        );
        assert!(text(&event(None, b"")).contains("\"key\":null"));
        assert!(text(&event(None, b"")).contains("\"payload\":\"\""));
    }

    #[test]
    fn the_event_of_a_schedule_names_its_slot_and_for_how_many_it_stands() {
        let slot = Some(crate::event::Slot {
            at: UnixSeconds(900),
            slots: 7,
        });
        let event = Event {
            slot,
            ..event(None, b"")
        };
        let line = text(&event);
        assert!(
            line.ends_with("\"payload\":\"\",\"slot_at\":900,\"slots\":7}\n"),
            "{line}"
        );
    }

    #[test]
    fn bytes_that_are_no_text_go_as_base64() {
        let line = text(&event(Some(b"\xff"), b"\xff\x00"));
        assert!(
            line.contains("\"key\":null,\"key_base64\":\"/w==\""),
            "{line}"
        );
        assert!(
            line.ends_with("\"attempt\":3,\"payload_base64\":\"/wA=\"}\n"),
            "{line}"
        );
    }
}
