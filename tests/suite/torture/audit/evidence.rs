//! Evidence: what handlers, effects and requests left, line by line.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};

use super::super::ground::{Ground, KINDS, seconds, wall};
use super::{Audit, Known, Leave};

/// Told of an event that was begun, and whether by a run that was killed.
type Begun<'a> = dyn FnMut(i64, &Known, bool) + 'a;

impl Audit {
    pub(super) fn take_effect(&mut self, id: i64, at: i64, shift: i64) {
        let Some(known) = self.known.get_mut(&id) else {
            self.wrong
                .push(format!("an effect of event {id}, which was never added"));
            return;
        };
        known.effects += 1;
        if at + shift < known.due_at {
            let due = known.due_at;
            self.wrong.push(format!(
                "event {id} was early: due {due}, its effect at {at} + {shift}"
            ));
        }
        if known.effects > 1 {
            self.wrong
                .push(format!("event {id}: its effect happened twice"));
        }
    }

    pub(super) fn read_notes(&mut self, ground: &Ground, begun: &mut Begun<'_>) {
        let mut file = File::open(ground.site.path("notes")).expect("the notes");
        file.seek(SeekFrom::Start(self.notes_read))
            .expect("a plain file");
        let mut text = std::mem::take(&mut self.rest_of_notes);
        let read = file.read_to_string(&mut text).expect("plain text");
        self.notes_read += read as u64;
        let boot = wall() - uptime();
        for line in text.split_inclusive('\n') {
            if !line.ends_with('\n') {
                line.clone_into(&mut self.rest_of_notes);
                break;
            }
            self.read_note(line.trim_end(), boot, begun);
        }
        for visit in ground.take_visits() {
            let highest = self.recent_shifts.iter().copied().max().unwrap_or(0);
            let Some(known) = self.known.get_mut(&visit.event) else {
                self.wrong
                    .push(format!("a request for event {}, never added", visit.event));
                continue;
            };
            begun(visit.event, known, false);
            known.starts += 1;
            known.good += i64::from(visit.status == 200);
            if seconds(visit.at) + highest < known.due_at {
                let (at, due) = (visit.at, known.due_at);
                let id = visit.event;
                self.wrong.push(format!(
                    "event {id} was early: due {due}, asked at {at} + {highest}"
                ));
            }
        }
    }

    fn read_note(&mut self, line: &str, boot: f64, begun: &mut Begun<'_>) {
        let words: Vec<&str> = line.split(' ').collect();
        let &[what, id, run, process, up, code] = words.as_slice() else {
            self.wrong
                .push(format!("a note that no handler writes: {line}"));
            return;
        };
        let id: i64 = id.parse().expect("an id");
        let run: u32 = run.parse().expect("a process id");
        let process: u32 = process.parse().expect("a process id");
        let at = boot + up.parse::<f64>().expect("seconds");
        self.keep_apart(run, what, process, line);
        let Some(known) = self.known.get_mut(&id) else {
            self.wrong.push(format!("{line}: never added"));
            return;
        };
        let kind = &KINDS[known.kind];
        if let Some(&(other, of_run)) = self.under_way.get(&id)
            && other != process
            && self.runs.get(&of_run).is_some_and(|seen| !seen.killed)
            && !self.claims_ran_out
            && what == "S"
        {
            let message = format!("{line}: while process {other} of run {of_run} is at it");
            self.wrong.push(message);
        }
        if what == "E" {
            if self
                .under_way
                .get(&id)
                .is_some_and(|(other, _)| *other == process)
            {
                self.under_way.remove(&id);
            }
            known.good += i64::from(code == "0");
            if let Some(working) = self.working.get_mut(&(run, known.kind)) {
                working.remove(&process);
            }
            return;
        }
        self.under_way.insert(id, (process, run));
        let is_dead = self.runs.get(&run).is_none_or(|seen| seen.killed);
        begun(id, known, is_dead);
        known.starts += 1;
        let recent = self.recent_shifts.iter().copied().max().unwrap_or(0);
        let shift = self.runs.get(&run).map_or(recent, |seen| seen.shift);
        // The clock of the notes counts hundredths.
        if seconds(at + 0.03) + shift < known.due_at {
            let due = known.due_at;
            self.wrong.push(format!(
                "event {id} was early: due {due}, started at {at} + {shift}"
            ));
        }
        let working = self.working.entry((run, known.kind)).or_default();
        working.insert(process, id);
        if working.len() > kind.concurrency && self.runs.contains_key(&run) {
            let now = working.len();
            let limit = kind.concurrency;
            self.wrong.push(format!(
                "{now} of {} at once, at most {limit}: {working:?}",
                kind.name
            ));
        }
    }

    /// Once another run's children have begun, nothing comes from those of an earlier one.
    fn keep_apart(&mut self, run: u32, what: &str, process: u32, line: &str) {
        let Some(seen) = self.runs.get_mut(&run) else {
            return; // its run was killed before the child was up; see `begin_step`
        };
        if seen.silent {
            self.strays += 1;
            return;
        }
        if run == self.at_work {
            return;
        }
        let is_over = self.over.contains(&run);
        let may = match &mut seen.leave {
            Leave::Nothing => false,
            Leave::Ends(last) => {
                what == "E" || (is_over && *last.get_or_insert(process) == process)
            }
            Leave::All => true,
        };
        if may {
            return;
        }
        if is_over {
            if seen.killed {
                self.strays += 1;
            } else {
                self.wrong.push(format!(
                    "two runs at once: run {run} again after another: {line}"
                ));
            }
            return;
        }
        self.over.insert(self.at_work);
        self.at_work = run;
    }
}

/// Seconds since the machine was started, as the handlers read it.
fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").expect("Linux");
    let (up, _) = text.split_once(' ').expect("two numbers");
    up.parse().expect("seconds")
}
