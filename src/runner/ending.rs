//! The end of a run: wait for what is under way, record it, give back what was not started, write
//! the run's row, give the lease back, prune a little (DESIGN §5.11). Also after the connection was
//! lost: a new one may only read and ack this run's own rows (RULINGS 23).

use std::time::{Duration, Instant};

use super::lane::Work;
use super::{Part, Report, Runner, Stop, Trouble};
use crate::clock::monotonic;
use crate::fault::point;
use crate::store::prune::Retention;
use crate::store::runs::LogEntry;
use crate::store::settle::{Ack, Fate, Owner, Tally, Writer};

/// How long a run whose connection was lost tries to get another, to record what it did.
const RECONNECT_FOR: Duration = Duration::from_secs(10);
const RECONNECT_EVERY: Duration = Duration::from_millis(500);
/// The most time a run spends on pruning.
const PRUNE_FOR: Duration = Duration::from_secs(1);
/// How often old history is looked for.
const PRUNE_EVERY: Duration = Duration::from_hours(1);
/// While waiting for handlers, signals are looked at this often.
const GLANCE: Duration = Duration::from_millis(500);

impl Runner<'_> {
    pub(super) fn end(mut self) -> Report {
        self.wait_for_handlers();
        point("end.waited");
        // While a connection that is lost with it can still be replaced.
        if self.trouble.is_none()
            && let Err(trouble) = self.flush()
        {
            self.note_trouble(trouble);
        }
        if self.stop == Some(Stop::DatabaseLost) {
            self.reconnect();
        }
        if let Err(trouble) = self.wind_up() {
            self.note_trouble(trouble);
        }
        point("end.recorded");
        let remaining_due = self.store.count_due(self.cutoff).ok();
        if let Err(trouble) = self.prune() {
            self.note_trouble(trouble);
        }
        if let Err(trouble) = self.close(remaining_due) {
            self.note_trouble(trouble);
        }
        self.report(remaining_due)
    }

    /// Lets every attempt end by itself or by its timeout; after a signal within the grace.
    fn wait_for_handlers(&mut self) {
        self.take_back(true);
        let mut kill_at = None;
        while self.handlers_at_work() {
            if let Some(number) = self.signals.received()
                && kill_at.is_none()
            {
                self.stop.get_or_insert(Stop::Signal(number));
                kill_at = Some(Some(monotonic() + self.config.run.grace));
            }
            if let Some(Some(at)) = kill_at
                && monotonic() >= at
            {
                self.interrupt();
                kill_at = Some(None);
            }
            let until = kill_at
                .flatten()
                .unwrap_or_else(far)
                .min(monotonic() + GLANCE);
            self.wait_once(until);
        }
        self.collect();
    }

    fn handlers_at_work(&self) -> bool {
        self.lanes.iter().any(|lane| match &lane.work {
            Work::Beside(handler) => handler.in_flight() > 0,
            Work::Effects(_) | Work::Jobs(_) | Work::Sweep(_) => false,
        })
    }

    fn interrupt(&mut self) {
        for lane in &mut self.lanes {
            if let Work::Beside(handler) = &mut lane.work {
                handler.interrupt(&mut self.reactor);
            }
        }
    }

    /// As long as the database answers, acks and renewals go on; without it only the handlers do.
    fn wait_once(&mut self, until: Instant) {
        if self.trouble.is_some() || self.stop == Some(Stop::Fenced) {
            if let Err(error) = self.reactor.wait(self.handlers_wake_at(until)) {
                log::error!("waiting for handlers: {error}");
            }
            self.collect();
        } else if let Err(trouble) = self.pump(until) {
            self.note_trouble(trouble);
        }
    }

    fn reconnect(&mut self) {
        let give_up = monotonic() + RECONNECT_FOR;
        loop {
            match self.world.store(self.config) {
                Ok(store) => {
                    self.store = store;
                    return;
                }
                Err(error) => log::info!("reconnecting: {error:#}"),
            }
            if monotonic() >= give_up {
                return;
            }
            let next = monotonic() + RECONNECT_EVERY;
            while monotonic() < next && self.reactor.wait(next).is_ok() {}
        }
    }

    /// Records what ended and gives back what never started; each row is guarded by its epoch, so
    /// that a fenced run records nothing false.
    fn wind_up(&mut self) -> Result<(), Trouble> {
        if self.stop == Some(Stop::Fenced) {
            let entry = LogEntry {
                at: self.time_at(monotonic()),
                run_id: Some(self.run_id),
                event: None,
                type_name: None,
                decision: "fenced",
                detail: "another run has taken over the lease; nothing more is claimed",
            };
            self.store.log(&entry)?;
        }
        self.count_unsure_endings()?;
        match self.flush() {
            Err(Trouble::Fenced) => self.note_trouble(Trouble::Fenced), // its own it may release
            other => other?,
        }
        for at in 0..self.lanes.len() {
            let queue = std::mem::take(&mut self.lanes[at].queue);
            self.release(&queue)?;
        }
        self.release_strays()?;
        self.note_cut_sweeps()
    }

    /// Endings whose COMMIT got no answer: history tells which of them happened.
    fn count_unsure_endings(&mut self) -> Result<(), Trouble> {
        let Some(unsure) = self.unsure_endings.take() else {
            return Ok(());
        };
        let mut is_recorded = false;
        for (type_name, ids) in &unsure.events {
            let recorded = self.store.recorded_endings(self.run_id, ids)?;
            is_recorded |= !recorded.is_empty();
            for (id, outcome, error) in recorded {
                match unsure.part {
                    Part::Fired => self.count_recorded(type_name),
                    Part::Recovered => self.counts_of(type_name).recovered += 1,
                    Part::Judged => {}
                }
                let ack = Ack {
                    id,
                    type_name: type_name.clone(),
                    started_at: None,
                    duration_ms: 0,
                    fate: Fate::Finish {
                        outcome,
                        error,
                        tally: Tally::None,
                    },
                };
                self.count(&ack, false);
            }
        }
        if unsure.part != Part::Fired || is_recorded {
            return Ok(()); // an open wave is the next one, announced with what is recorded
        }
        let is_open = self.store.wave_is_open(self.run_id)?;
        self.broke_in_wave = is_open && self.stop == Some(Stop::DatabaseLost);
        if !is_open {
            // A pass of a sweep was made, or a try failed.
            for type_name in unsure.events.keys() {
                self.count_pass(type_name);
            }
        }
        Ok(())
    }

    /// Rows that a claim of ours whose answer was lost may have marked: none of them was started.
    fn release_strays(&mut self) -> Result<(), Trouble> {
        let strays = self.store.rows_of(self.lease.epoch)?;
        if strays.is_empty() {
            return Ok(());
        }
        let now = self.time_at(monotonic());
        let acks: Vec<Ack> = strays
            .iter()
            .map(|(id, type_name)| Ack {
                id: *id,
                type_name: type_name.clone(),
                started_at: None,
                duration_ms: 0,
                fate: Fate::Release,
            })
            .collect();
        let writer = Writer::plain(Some(self.run_id), now);
        self.store
            .settle(Owner::Claim(self.lease.epoch), writer, &acks)?;
        for (id, type_name) in strays {
            self.counts_of(&type_name).released += 1;
            log::info!("event {id} was claimed and never started");
        }
        Ok(())
    }

    fn prune(&mut self) -> Result<(), Trouble> {
        let quiet = matches!(
            self.stop,
            Some(Stop::Drained | Stop::MaxEvents | Stop::MaxTime | Stop::DatabaseLag)
        );
        let now = self.time_at(monotonic());
        if !quiet || self.trouble.is_some() || self.prune_at > now {
            return Ok(());
        }
        let give_up = monotonic() + PRUNE_FOR;
        let keep = Retention::of(&self.config.run, now);
        // Prune time 0: the first run ever, which has nothing to prune.
        while self.prune_at.0 > 0 && self.store.prune_chunk(keep)? > 0 {
            point("prune.chunk");
            if monotonic() >= give_up {
                return Ok(()); // the next tick goes on
            }
        }
        self.store.set_prune_at(now.after(PRUNE_EVERY))?;
        point("prune.done");
        Ok(())
    }

    fn close(&mut self, remaining_due: Option<i64>) -> Result<(), Trouble> {
        let now = self.time_at(monotonic());
        let stop = self.final_stop().as_str();
        self.refresh_progress();
        // Effects that took the connection with them: the next run replays them one at a time, as
        // if this one had died.
        let open = self.broke_in_wave;
        if !open {
            self.progress.wave = None;
        }
        let Runner {
            store,
            lease,
            run_id,
            progress,
            ..
        } = self;
        store.transaction(|store| {
            store.write_progress(*run_id, progress)?;
            if open {
                store.leave_run_open(*run_id, stop, remaining_due)?;
            } else {
                store.finish_run(*run_id, stop, remaining_due, now)?;
            }
            lease.give_back(store, now)?;
            point("close.commit");
            Ok(())
        })?;
        point("close.committed");
        Ok(())
    }

    /// A database that refused to go on (full, read-only) without being lost leaves no reason of
    /// its own in the contract: the run was stopped by it all the same.
    fn final_stop(&self) -> Stop {
        self.stop.unwrap_or(Stop::DatabaseLost)
    }

    fn report(self, remaining_due: Option<i64>) -> Report {
        let finished_at = self.time_at(monotonic());
        log::info!("run {} ends: {}", self.run_id, self.final_stop().as_str());
        let failures = self
            .failures
            .iter()
            .map(|(type_name, id, error)| format!("event {id} ({type_name}) is {error}"))
            .collect();
        let report = Report {
            run_id: Some(self.run_id),
            epoch: Some(self.lease.epoch.0),
            started_at: self.started_at,
            cutoff: self.cutoff,
            finished_at,
            stop: self.final_stop(),
            counts: self.total(),
            waves: self.progress.waves,
            remaining_due,
            types: self.counts.clone(),
            failures,
            misconfigured: self
                .misconfigured
                .into_values()
                .chain(self.without_rule)
                .collect(),
            remarks: self.remarks,
            trouble: self.trouble.clone(),
        };
        // The watchdog goes before the lock does: a free lock means that no child lives on.
        self.reactor.finish();
        point("lock.drop");
        report
    }
}

fn far() -> Instant {
    monotonic() + Duration::from_hours(1)
}
