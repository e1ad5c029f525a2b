//! Verdicts: what the tables say, held against the evidence.

use std::collections::{BTreeSet, HashSet};

use super::super::ground::{Acts, Declares, KINDS};
use super::super::sight::{Cell, number};
use super::{Audit, OUTCOMES, State};

impl Audit {
    pub(super) fn judge_finished(&mut self, row: &[Cell]) {
        let (id, outcome) = (number(&row[1]), row[2].clone().unwrap_or_default());
        let tries = number(&row[3]) + number(&row[4]) + number(&row[5]);
        let deferrals = number(&row[5]);
        *self.outcomes.entry(outcome.clone()).or_default() += 1;
        if let Some(run_id) = &row[6] {
            let run_id = run_id.parse().expect("a number");
            let of_run = self.recorded.entry(run_id).or_default();
            *of_run.entry(outcome.clone()).or_default() += 1;
        }
        let Some(known) = self.known.get_mut(&id) else {
            self.wrong
                .push(format!("history of event {id}, which was never added"));
            return;
        };
        let kind = &KINDS[known.kind];
        let about = format!(
            "event {id} ({}, {outcome}): {} starts, {} good, {} effects, attempts {:?} losses {:?} \
             deferrals {:?}",
            kind.name, known.starts, known.good, known.effects, row[3], row[4], row[5]
        );
        let mut wrong = |what: &str| self.wrong.push(format!("{what}: {about}"));
        match &known.state {
            State::Live => {}
            State::Deleted if outcome == "withdrawn" => {}
            state => wrong(&format!("recorded though it is {state:?}")),
        }
        match outcome.as_str() {
            "done" if kind.acts != Acts::Sql && known.good == 0 => wrong("done, and nobody did it"),
            "skipped" if !known.expires => wrong("skipped for no reason"),
            "cancelled" if !known.cancelled && !known.keyed => wrong("cancelled by nobody"),
            "withdrawn" if known.state != State::Deleted => wrong("withdrawn by nobody"),
            "unknown" if kind.declares != Declares::AtMost => wrong("unknown"),
            "done" | "dead" | "skipped" | "cancelled" | "withdrawn" | "unknown" => {}
            _ => wrong("no such outcome"),
        }
        let is_done = i64::from(outcome == "done");
        if kind.declares == Declares::Exactly && is_done == 1 {
            // The lease gates each: whoever has lost it records no effect any more.
            let run_id = number(&row[6]);
            if run_id < self.last_effect_run {
                wrong(&format!(
                    "by run {run_id} after run {}",
                    self.last_effect_run
                ));
            }
            self.last_effect_run = run_id;
        }
        match kind.declares {
            Declares::Exactly if known.effects != is_done => wrong("not exactly once"),
            Declares::AtLeast if known.starts > tries + 1 => wrong("more than at least once"),
            Declares::AtMost if known.starts > 1 + deferrals => wrong("more than at most once"),
            _ => {}
        }
        if outcome == "skipped" && known.starts > 0 {
            wrong("skipped after it was started");
        }
        self.beyond_one += (known.starts.max(known.effects) - 1).max(0);
        known.state = State::Finished(outcome);
        self.live.remove(&id);
    }

    pub(super) fn judge_rows(&mut self, rows: &[Vec<Cell>], epochs: &HashSet<i64>) {
        let mut there = BTreeSet::new();
        for row in rows {
            let id = number(&row[0]);
            there.insert(id);
            let Some(known) = self.known.get_mut(&id) else {
                self.wrong
                    .push(format!("event {id} is there and was never added"));
                continue;
            };
            let kind = &KINDS[known.kind];
            let is_ready = row[1].as_deref() == Some("ready");
            known.due_at = number(&row[2]);
            let tries = number(&row[3]) + number(&row[4]) + number(&row[5]);
            let about = format!(
                "event {id} ({}, {:?}): {} starts, {} effects, {tries} tries",
                kind.name, row[1], known.starts, known.effects
            );
            let mut wrong = |what: &str| self.wrong.push(format!("{what}: {about}"));
            if known.state != State::Live {
                wrong(&format!("there again though it is {:?}", known.state));
            }
            if known.effects > 0 {
                wrong("its effect happened and is not recorded");
            }
            let allowed = match kind.declares {
                Declares::AtMost => number(&row[5]) + i64::from(!is_ready),
                _ => tries + i64::from(!is_ready),
            };
            if known.starts > allowed {
                wrong("started more often than is recorded");
            }
            if !is_ready && !epochs.contains(&number(&row[6])) {
                wrong("running under a run that nobody knows");
            }
        }
        let lost: Vec<&i64> = self.live.iter().filter(|id| !there.contains(id)).collect();
        if !lost.is_empty() {
            self.wrong.push(format!("lost: {lost:?}"));
        }
    }

    /// A run that ended in order says of itself what history says of it.
    pub(super) fn judge_runs(&mut self, rows: &[Vec<Cell>]) {
        for row in rows {
            let run_id = number(&row[0]);
            let is_new = run_id > self.last_run || self.open_runs.contains(&run_id);
            self.last_run = self.last_run.max(run_id);
            if row[1].is_none() {
                self.open_runs.insert(run_id);
                continue;
            }
            self.open_runs.remove(&run_id);
            let recorded = self.recorded.remove(&run_id).unwrap_or_default();
            if !is_new || row[2].as_deref() == Some("died") {
                continue;
            }
            for (outcome, cell) in OUTCOMES.iter().zip(&row[3..]) {
                let said = number(cell);
                let counted = recorded.get(*outcome).copied().unwrap_or(0);
                if said != counted {
                    self.wrong.push(format!(
                        "run {run_id} ({:?}) says {said} {outcome}, history {counted}",
                        row[2]
                    ));
                }
            }
        }
        let oldest = self.open_runs.first().copied().unwrap_or(self.last_run);
        self.recorded.retain(|run_id, _| *run_id >= oldest);
    }
}
