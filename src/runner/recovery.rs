//! Recovery: the first thing a run does with its lease (DESIGN §5.7). What a dead run held is ready
//! again, or `unknown` where nobody may try twice; nothing persists that could gate a later run.

use std::collections::HashMap;

use super::judge::lost_with_run;
use super::{Part, Runner, Trouble, Unsure};
use crate::clock::UnixSeconds;
use crate::config::TypeConfig;
use crate::event::{Epoch, EventId, Outcome};
use crate::fault::point;
use crate::store::recover::{OpenRun, Stranded};
use crate::store::settle::{Ack, Fate, Owner, Tally, Writer};

/// Rows read at a time.
const CHUNK: usize = 500;

/// Ids of an unfinished wave, per type.
pub(super) type Suspects = HashMap<String, Vec<(EventId, EventId)>>;

impl Runner<'_> {
    /// Puts back what earlier epochs left running and closes the rows of runs that died. Returns
    /// the waves to be replayed one event at a time.
    pub(super) fn recover(&mut self) -> Result<Suspects, Trouble> {
        let now = self.read_clock()?;
        point("recover.begin");
        self.recover_claims(now)?;
        let mut suspects = Suspects::new();
        for run in self.store.open_runs(self.run_id)? {
            self.recover_open_run(&run, now, &mut suspects)?;
        }
        point("recover.done");
        Ok(suspects)
    }

    fn recover_claims(&mut self, now: UnixSeconds) -> Result<(), Trouble> {
        let mut after = (UnixSeconds(i64::MIN), EventId(0));
        let mut proven = HashMap::new();
        loop {
            let rows = self.store.stranded(self.lease.epoch, after, CHUNK)?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after = (last.event.due_at, last.event.id);
            let mut by_epoch: HashMap<Option<Epoch>, Vec<Ack>> = HashMap::new();
            for row in &rows {
                if self.may_recover(row, now, &mut proven)? {
                    by_epoch
                        .entry(row.epoch)
                        .or_default()
                        .push(self.recovered(row));
                }
            }
            for (epoch, acks) in by_epoch {
                let owner = epoch.map_or(Owner::Orphan, Owner::Claim);
                self.settle_recovered(owner, &acks, None, now)?;
            }
        }
    }

    /// At once where the claimant is proven dead, else once its claim has run out.
    fn may_recover(
        &mut self,
        row: &Stranded,
        now: UnixSeconds,
        proven: &mut HashMap<Epoch, bool>,
    ) -> Result<bool, Trouble> {
        if row.until.is_none_or(|until| until <= now) {
            return Ok(true);
        }
        let Some(epoch) = row.epoch else {
            return Ok(false);
        };
        if let Some(&known) = proven.get(&epoch) {
            return Ok(known);
        }
        let held = self.store.lock_id_of(epoch)?;
        let dead = held.is_some_and(|held| self.lock.identity().proves_dead(&held));
        proven.insert(epoch, dead);
        Ok(dead)
    }

    fn recovered(&self, row: &Stranded) -> Ack {
        let event = &row.event;
        let epoch = row
            .epoch
            .map_or_else(|| "by hand".to_owned(), |epoch| epoch.to_string());
        let error = format!("its run (epoch {epoch}) died");
        let fate = match self.config.types.get(&event.type_name) {
            Some(config) => lost_with_run(config, event, error),
            None => Fate::Again {
                due_at: event.due_at,
                error,
                tally: Tally::Loss,
            },
        };
        Ack::unstarted(event, fate)
    }

    fn settle_recovered(
        &mut self,
        owner: Owner,
        acks: &[Ack],
        closes: Option<i64>,
        now: UnixSeconds,
    ) -> Result<(), Trouble> {
        let writer = Writer {
            gate: Some(self.lease.gate(now)),
            closes,
            ..Writer::plain(Some(self.run_id), now)
        };
        self.unsure_endings = Some(Unsure::of_acks(Part::Recovered, acks));
        let surprises = self.store.settle(owner, writer, acks)?;
        self.unsure_endings = None;
        point("recover.settled");
        for ack in acks {
            if surprises.withdrawn.contains(&ack.id) || surprises.fenced.contains(&ack.id) {
                continue;
            }
            let superseded = surprises.superseded.contains(&ack.id);
            let counts = self.counts_of(&ack.type_name);
            counts.recovered += 1;
            match &ack.fate {
                _ if superseded => counts.cancelled += 1,
                Fate::Finish {
                    outcome: Outcome::Dead,
                    ..
                } => counts.dead += 1,
                Fate::Finish {
                    outcome: Outcome::Unknown,
                    ..
                } => counts.unknown += 1,
                _ => {}
            }
            self.note_failure(ack);
        }
        Ok(())
    }

    /// A run without an end: dead, or fenced by our epoch. Its claims are dealt with above; a wave
    /// of effects left a trace of ids instead.
    fn recover_open_run(
        &mut self,
        run: &OpenRun,
        now: UnixSeconds,
        suspects: &mut Suspects,
    ) -> Result<(), Trouble> {
        let types = &self.config.types;
        let mut lost = None;
        if let Some((type_name, first, last)) = &run.wave
            && let Some(config) = types.get(type_name)
            && config.handler.is_in_transaction()
        {
            if first == last {
                lost = self.lost_with(config, *first, run)?;
            } else {
                suspects
                    .entry(type_name.clone())
                    .or_default()
                    .push((*first, *last));
            }
        }
        // The loss and the row's end in one transaction, or it would be counted again; gated, or
        // this run, fenced meanwhile, would take its successor for dead.
        self.settle_recovered(Owner::Nobody, lost.as_slice(), Some(run.run_id), now)?;
        point("recover.closed");
        Ok(())
    }

    /// What becomes of the one event that a run died with in hand, if it is still there.
    fn lost_with(
        &mut self,
        config: &TypeConfig,
        id: EventId,
        run: &OpenRun,
    ) -> Result<Option<Ack>, Trouble> {
        let rows = self.store.ready_rows(&[id], UnixSeconds::MAX)?;
        let error = format!("its run (epoch {}) died", run.epoch);
        let ack = |event| Ack::unstarted(event, lost_with_run(config, event, error));
        Ok(rows.first().map(ack))
    }
}
