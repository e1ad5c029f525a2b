//! Acks: what ended is recorded in groups, counted, and the run's row and the breakers kept current.

use std::collections::VecDeque;

use super::lane::{Lane, Place, Work};
use super::{Runner, Stop, Trouble};
use crate::clock::monotonic;
use crate::event::{Event, EventId, Outcome};
use crate::fair::Through;
use crate::fault::point;
use crate::store::runs::{Counts, LogEntry, Wave};
use crate::store::settle::{Ack, Fate, Owner, Tally, Writer};
use crate::when::format_time;
use crate::zone::Zone;

impl Runner<'_> {
    /// Writes the acks that wait, in one transaction guarded by each row's own epoch.
    pub(super) fn flush(&mut self) -> Result<(), Trouble> {
        self.pending_since = None;
        if self.pending.is_empty() {
            return self.note_breakers();
        }
        let now = self.time_at(monotonic());
        let acks = std::mem::take(&mut self.pending);
        let mut progress = self.progress.clone();
        progress.counts = self.total_with(&acks);
        progress.positions = positions(&self.lanes, None);
        progress.wave = self.wave_in_hand();
        let writer = Writer {
            progress: Some(&progress),
            unsure: self.unsure,
            ..Writer::plain(Some(self.run_id), now)
        };
        let settled = self
            .store
            .settle(Owner::Claim(self.lease.epoch), writer, &acks);
        let surprises = match settled {
            Ok(surprises) => surprises,
            Err(stopped) => {
                self.pending = acks; // the end of the run tries again on a new connection
                self.unsure = true;
                return Err(stopped.into());
            }
        };
        point("ack.committed");
        for ack in &acks {
            if surprises.withdrawn.contains(&ack.id) {
                self.counts_of(&ack.type_name).withdrawn += 1;
            } else if surprises.fenced.contains(&ack.id) {
                self.log_refused(ack)?;
            } else {
                self.count(ack, surprises.superseded.contains(&ack.id));
            }
        }
        self.tell();
        self.note_breakers()?;
        let may_renew = !matches!(self.stop, Some(Stop::Fenced | Stop::DatabaseLost));
        if may_renew && !surprises.fenced.is_empty() {
            self.renew()?; // another run has our events: has it our lease, too?
        }
        Ok(())
    }

    /// Counts what was recorded of one event.
    pub(super) fn count(&mut self, ack: &Ack, superseded: bool) {
        tally(self.counts_of(&ack.type_name), ack, superseded);
        if !superseded {
            self.note_failure(ack);
        }
    }

    /// What the counts will be once `acks` are written: they go into the same transaction.
    fn total_with(&self, acks: &[Ack]) -> Counts {
        let mut total = self.total();
        for ack in acks {
            tally(&mut total, ack, false);
        }
        total
    }

    /// Writes breakers that changed, and says which opened.
    pub(super) fn note_breakers(&mut self) -> Result<(), Trouble> {
        for at in 0..self.lanes.len() {
            let lane = &mut self.lanes[at];
            if !lane.breaker.take_changed() {
                continue;
            }
            let (failures, open_until) = lane.breaker.state();
            let name = lane.name().to_owned();
            let opened = lane.breaker.take_opened();
            self.store.write_breaker(&name, failures, open_until)?;
            if opened && let Some(until) = open_until {
                let until = format_time(until, &Zone::utc());
                let detail = format!("{failures} failures in a row; left alone until {until}");
                self.log(None, &name, "breaker opened", &detail)?;
            }
            self.release_if_broken(at)?;
        }
        Ok(())
    }

    /// What an open breaker will not let start any more is given back.
    fn release_if_broken(&mut self, at: usize) -> Result<(), Trouble> {
        let now = self.time_at(monotonic());
        if self.lanes[at].breaker.lets(now) != Through::Nothing {
            return Ok(());
        }
        let queue = std::mem::take(&mut self.lanes[at].queue);
        self.release(&queue)
    }

    /// Gives claimed events back unstarted, uncounted (RULINGS 30).
    pub(super) fn release(&mut self, queue: &VecDeque<Event>) -> Result<(), Trouble> {
        if queue.is_empty() {
            return Ok(());
        }
        let now = self.time_at(monotonic());
        let acks: Vec<Ack> = queue
            .iter()
            .map(|event| Ack::unstarted(event, Fate::Release))
            .collect();
        let writer = Writer::plain(Some(self.run_id), now);
        point("release.begin");
        let surprises = self
            .store
            .settle(Owner::Claim(self.lease.epoch), writer, &acks)?;
        point("release.committed");
        for ack in &acks {
            if surprises.fenced.contains(&ack.id) {
                self.log_refused(ack)?;
            } else if !surprises.withdrawn.contains(&ack.id) {
                self.count(ack, surprises.superseded.contains(&ack.id));
            }
        }
        Ok(())
    }

    /// An event of ours is another run's by now: what became of it here counts for nothing.
    fn log_refused(&mut self, ack: &Ack) -> Result<(), Trouble> {
        const WHY: &str = "another run has this event";
        self.log(Some(ack.id), &ack.type_name, "fenced", WHY)
    }

    pub(super) fn log(
        &mut self,
        event: Option<EventId>,
        type_name: &str,
        decision: &str,
        detail: &str,
    ) -> Result<(), Trouble> {
        let at = self.time_at(monotonic());
        let run_id = Some(self.run_id);
        let type_name = Some(type_name);
        Ok(self.store.log(&LogEntry {
            at,
            run_id,
            event,
            type_name,
            decision,
            detail,
        })?)
    }

    /// Brings the progress to be written up to date.
    pub(super) fn refresh_progress(&mut self) {
        self.progress.counts = self.total();
        self.progress.positions = positions(&self.lanes, None);
    }

    /// The batch that is still being worked on; of several, that of the type that comes first in the
    /// order of turns. The rows themselves name the epoch of each.
    fn wave_in_hand(&self) -> Option<Wave> {
        self.lanes
            .iter()
            .find(|lane| lane.is_busy())
            .and_then(|lane| lane.wave.clone())
    }
}

/// What a lane will have done once the transaction in hand is committed.
pub(super) struct Moved {
    /// Which.
    pub(super) lane: usize,
    /// The last event that was started.
    pub(super) place: Place,
    /// The rows that one more pass of its sweep changed.
    pub(super) pass: Option<u64>,
}

/// How far each type has come, as JSON: the last (due, id) that was started, and of a type that
/// sweeps the passes it made and the rows they changed. `moved` is how far one of the lanes will
/// have come.
pub(super) fn positions(lanes: &[Lane], moved: Option<&Moved>) -> String {
    let mut positions = serde_json::Map::new();
    for (at, lane) in lanes.iter().enumerate() {
        let moved = moved.filter(|moved| moved.lane == at);
        let Some((due, id)) = moved.map(|moved| moved.place).or(lane.position) else {
            continue;
        };
        let mut place = serde_json::json!({ "due_at": due.0, "id": id.0 });
        if let Work::Sweep(sweep) = &lane.work {
            let mut made = sweep.made;
            if let Some(rows) = moved.and_then(|moved| moved.pass) {
                made.count(rows);
            }
            place["passes"] = made.passes.into();
            place["rows"] = made.rows.into();
        }
        positions.insert(lane.name().to_owned(), place);
    }
    serde_json::Value::Object(positions).to_string()
}

/// Adds what was recorded of one event to `counts`.
pub(super) fn tally(counts: &mut Counts, ack: &Ack, superseded: bool) {
    let field = match &ack.fate {
        _ if superseded => &mut counts.cancelled,
        Fate::GoOn { .. } => return, // of a sweep its end counts
        // An attempt that our own shutdown ended is given back, with a loss.
        Fate::Release
        | Fate::Again {
            tally: Tally::Loss, ..
        } => &mut counts.released,
        Fate::Again {
            tally: Tally::Deferral,
            ..
        } => &mut counts.deferred,
        Fate::Again { .. } => &mut counts.retried,
        Fate::Finish { outcome, .. } => match outcome {
            Outcome::Done => &mut counts.done,
            Outcome::Dead => &mut counts.dead,
            Outcome::Skipped => &mut counts.skipped,
            Outcome::Cancelled => &mut counts.cancelled,
            Outcome::Withdrawn => &mut counts.withdrawn,
            Outcome::Unknown => &mut counts.unknown,
        },
    };
    *field += 1;
}
