//! The steps of a run that has recovered what was left: turns, acks, the end.

use super::Flaw;
use super::label::What;
use super::state::{At, CLAIM, EVENTS, Fate, HALF, Kind, Outcome, Row, Run, bit, members};
use super::steps::{Broken, Done, Steps, fail, finish, taken_alive};

impl Steps<'_> {
    /// The next wave of a kind: what is under suspicion goes alone.
    fn candidates(&self, who: usize, kind: Kind) -> u8 {
        let mut wave = 0;
        for (index, event) in self.from.events.iter().enumerate() {
            if event.row != Row::Ready || self.world.kinds[index] != kind {
                continue;
            }
            let suspect = event.losses > 0 || self.from.runs[who].suspects & bit(index) != 0;
            if suspect && wave != 0 {
                break;
            }
            wave |= bit(index);
            if suspect || kind == Kind::Most {
                break;
            }
        }
        wave
    }

    pub(super) fn work(&mut self, who: usize) {
        let run = self.from.runs[who];
        for index in members(run.flight) {
            self.attempt_ends(who, index, What::EndWell, Fate::Done);
            self.attempt_ends(who, index, What::EndBadly, Fate::Failed);
        }
        if run.has_acks() {
            self.ack(who);
        }
        for index in members(run.queue) {
            self.start(who, index);
        }
        if run.age > 0 {
            self.renew(who);
        }
        for kind in [Kind::Least, Kind::Most] {
            let of_kind = |set: u8| members(set).any(|index| self.world.kinds[index] == kind);
            let wave = self.candidates(who, kind);
            if wave != 0 && !of_kind(run.queue) && !of_kind(run.flight) {
                self.claim(who, wave);
            }
        }
        let wave = self.candidates(who, Kind::Exactly);
        if wave != 0 {
            self.trace(who, wave);
        }
        let mut state = self.from;
        state.runs[who].at = At::End;
        self.add(who, What::Stop, 0, state, true);
    }

    fn attempt_ends(&mut self, who: usize, index: usize, what: What, fate: Fate) {
        let mut state = self.from;
        state.runs[who].flight &= !bit(index);
        state.runs[who].pending[index] = fate;
        self.add(who, what, bit(index), state, fate == Fate::Done);
    }

    fn start(&mut self, who: usize, index: usize) {
        let run = self.from.runs[who];
        if run.age >= HALF && !self.world.has(Flaw::StaleStart) {
            return;
        }
        let mut state = self.from;
        state.runs[who].queue &= !bit(index);
        state.runs[who].flight |= bit(index);
        state.events[index].starts += 1;
        self.add(who, What::Start, bit(index), state, true);
        if !self.from.holds(run.epoch) {
            self.found.last_mut().expect("just added").broken = Some(Broken::FencedRunActs);
        }
    }

    fn renew(&mut self, who: usize) {
        let mut state = self.from;
        if !state.holds(state.runs[who].epoch) {
            return self.fenced(who, What::Renew, 0);
        }
        (state.lease.age, state.runs[who].age) = (0, 0);
        self.commit(who, What::Renew, 0, state, None);
    }

    fn claim(&mut self, who: usize, wave: u8) {
        let mut state = self.from;
        let epoch = state.runs[who].epoch;
        let holds = state.holds(epoch);
        if !holds && !self.world.has(Flaw::NoFence) {
            return self.fenced(who, What::Claim, wave);
        }
        if holds {
            state.lease.age = 0;
        }
        for index in members(wave) {
            state.events[index].row = Row::Running(epoch, CLAIM);
        }
        state.runs[who].age = 0;
        state.runs[who].queue |= wave;
        let broken = (!holds).then_some(Broken::FencedRunActs);
        self.commit(who, What::Claim, wave, state, broken);
    }

    fn trace(&mut self, who: usize, wave: u8) {
        let mut state = self.from;
        let epoch = state.runs[who].epoch;
        if !state.holds(epoch) {
            return self.fenced(who, What::Trace, wave);
        }
        state.rows[usize::from(epoch)].trace = wave;
        let run = &mut state.runs[who];
        (run.at, run.wave, run.age) = (At::Effects, wave, 0);
        state.lease.age = 0;
        self.commit(who, What::Trace, wave, state, None);
    }

    pub(super) fn effects(&mut self, who: usize) {
        let run = self.from.runs[who];
        let holds = self.from.holds(run.epoch);
        if !holds && !self.world.has(Flaw::EffectsUngated) {
            return self.fenced(who, What::Effects, run.wave);
        }
        let ready = |index: &usize| self.from.events[*index].row == Row::Ready;
        let ids: Vec<usize> = members(run.wave).filter(ready).collect();
        let broken = (!holds && !ids.is_empty()).then_some(Broken::FencedRunActs);
        for (what, well) in [(What::Effects, true), (What::EffectsFail, false)] {
            let mut state = self.from;
            let next = &mut state.runs[who];
            (next.at, next.wave, next.age) = (At::Work, 0, 0);
            if holds {
                state.lease.age = 0;
            }
            if self.world.has(Flaw::EffectsApart) && !run.swept {
                // Committed by themselves; `swept` remembers that the record is still to come.
                for &index in &ids {
                    state.events[index].effects += u8::from(well);
                }
                let next = &mut state.runs[who];
                (next.at, next.wave, next.swept) = (At::Effects, run.wave, true);
                self.commit(who, what, run.wave, state, broken);
                return;
            }
            for &index in &ids {
                let event = &mut state.events[index];
                if well {
                    event.effects += u8::from(!run.swept);
                    finish(event, Outcome::Done, run.epoch);
                } else {
                    fail(event, run.epoch);
                }
            }
            state.runs[who].swept = false;
            if !ids.is_empty() {
                state.rows[usize::from(run.epoch)].trace = 0;
            }
            self.commit(who, what, run.wave, state, broken);
            if ids.is_empty() || run.swept {
                return;
            }
        }
    }

    fn ack(&mut self, who: usize) {
        let mut state = self.from;
        let run = self.from.runs[who];
        let (mut broken, mut events) = (None, 0);
        for index in 0..EVENTS {
            let fate = run.pending[index];
            if fate == Fate::None {
                continue;
            }
            events |= bit(index);
            let event = state.events[index];
            match event.row {
                Row::Running(of, left)
                    if of == run.epoch || self.world.has(Flaw::AckWithoutEpoch) =>
                {
                    if of != run.epoch {
                        broken = broken.or(taken_alive(&state, who, of, left));
                    }
                    broken = broken.or(self.apply(&mut state, index, fate, run.epoch));
                }
                // Somebody else has it, or it was put back, perhaps by this very commit.
                Row::Running(..) | Row::Ready => {}
                Row::Gone => {
                    let own = event.history > 0 && event.recorded_by == run.epoch;
                    let others = event.history > 0 && !self.world.has(Flaw::WithdrawnUnseen);
                    if !own && !others {
                        finish(&mut state.events[index], Outcome::Withdrawn, run.epoch);
                    }
                }
            }
        }
        state.runs[who].pending = [Fate::None; EVENTS];
        state.runs[who].unsure = false;
        let done = Done { state, broken };
        self.transaction(who, What::Ack, events, &done, &|run| run.unsure = true);
    }

    fn apply(
        &self,
        state: &mut super::state::State,
        index: usize,
        fate: Fate,
        epoch: u8,
    ) -> Option<Broken> {
        let event = &mut state.events[index];
        match fate {
            Fate::None => {}
            Fate::Done => finish(event, Outcome::Done, epoch),
            Fate::Failed if self.world.kinds[index] == Kind::Most => {
                event.attempts += 1;
                finish(event, Outcome::Dead, epoch);
            }
            Fate::Failed => fail(event, epoch),
            Fate::Interrupted => return self.lost_with_run(state, index, epoch, epoch),
        }
        None
    }

    pub(super) fn end(&mut self, who: usize) {
        let run = self.from.runs[who];
        if run.flight != 0 {
            for index in members(run.flight) {
                self.attempt_ends(who, index, What::EndWell, Fate::Done);
                self.attempt_ends(who, index, What::EndBadly, Fate::Failed);
                self.attempt_ends(who, index, What::Interrupt, Fate::Interrupted);
            }
            return;
        }
        if run.lost && !run.connected && !run.swept {
            // Once: what is lost after that ends the run.
            let mut state = self.from;
            state.runs[who].connected = true;
            self.add(who, What::Reconnect, 0, state, true);
        } else if run.has_acks() {
            self.ack(who);
        } else if run.queue != 0 {
            let mut state = self.from;
            for index in members(run.queue) {
                if matches!(state.events[index].row, Row::Running(of, _) if of == run.epoch) {
                    state.events[index].row = Row::Ready;
                }
            }
            state.runs[who].queue = 0;
            self.commit(who, What::Release, run.queue, state, None);
        } else if !run.swept {
            let mut state = self.from;
            for event in &mut state.events {
                if matches!(event.row, Row::Running(of, _) if of == run.epoch) {
                    event.row = Row::Ready;
                }
            }
            state.runs[who].swept = true;
            self.commit(who, What::Sweep, 0, state, None);
        } else {
            self.close(who);
        }
    }

    pub(super) fn close(&mut self, who: usize) {
        let run = self.from.runs[who];
        let mut state = self.from;
        let row = &mut state.rows[usize::from(run.epoch)];
        // Effects that took the connection with them are the next run's to look at.
        if !(run.lost && run.wave != 0 && row.trace != 0) {
            (row.open, row.trace) = (false, 0);
        }
        if state.holds(run.epoch) {
            state.lease.held = false;
        }
        state.runs[who] = Run::OFF;
        self.commit(who, What::Close, 0, state, None);
    }
}
