//! The steps of the model: everything that can happen next in a state. What mirrors what stands at
//! the top of `model.rs`; a change of a condition in the product is to be made here, too.

use super::label::{Answer, Label, What};
use super::state::{
    At, EPOCHS, EVENTS, Event, Fate, HALF, Kind, Lease, MAX_LOSSES, Outcome, RETRIES, Row, Run,
    RunRow, State, TTL, bit,
};
use super::{Flaw, World};

/// Something that must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Broken {
    InHistoryTwice,
    Lost,
    EffectWithoutRecord,
    StartedMoreThanOnce,
    StartedMoreOftenThanCounted,
    FencedRunActs,
    TakenFromALiveRun,
    LiveRunRecordedAsDead,
    LossCountedTwice,
}

/// One way to go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) label: Label,
    pub(super) state: State,
    /// What a healthy run does next when nothing goes wrong and no time passes.
    pub(super) good: bool,
    pub(super) broken: Option<Broken>,
}

/// What a transaction came to: the state after its commit, and what it broke.
pub(super) struct Done {
    pub(super) state: State,
    pub(super) broken: Option<Broken>,
}

pub(super) struct Steps<'w> {
    pub(super) world: &'w World,
    pub(super) from: State,
    pub(super) found: Vec<Step>,
}

impl<'w> Steps<'w> {
    /// All steps from `from`.
    pub(super) fn of(world: &'w World, from: &State) -> Vec<Step> {
        let mut steps = Self {
            world,
            from: *from,
            found: Vec::with_capacity(24),
        };
        for who in 0..world.runners {
            steps.steps_of(who);
        }
        steps.of_the_world();
        steps.found
    }

    pub(super) fn add(&mut self, run: usize, what: What, events: u8, state: State, good: bool) {
        let answer = Answer::Well;
        let label = Label {
            run,
            what,
            events,
            answer,
        };
        self.found.push(Step {
            label,
            state,
            good,
            broken: None,
        });
    }

    /// What happens to a run and the database from outside.
    fn of_the_world(&mut self) {
        let mut later = self.from;
        later.lease.age = (later.lease.age + 1).min(TTL);
        for event in &mut later.events {
            if let Row::Running(_, left) = &mut event.row {
                *left = left.saturating_sub(1);
            }
        }
        for run in &mut later.runs {
            if run.at != At::Off {
                run.age = (run.age + 1).min(HALF);
            }
        }
        if later != self.from {
            self.add(0, What::Tick, 0, later, false);
        }
        if self.from.deletions > 0 {
            for event in 0..EVENTS {
                if self.from.events[event].row != Row::Gone {
                    let mut state = self.from;
                    state.events[event].row = Row::Gone;
                    state.events[event].deleted = true;
                    state.deletions -= 1;
                    self.add(0, What::SiteDeletes, bit(event), state, false);
                }
            }
        }
        if self.from.faults == 0 {
            return;
        }
        let mut dead = self.from;
        dead.faults -= 1;
        for run in &mut dead.runs {
            run.connected = false;
        }
        if dead.runs != self.from.runs {
            self.add(0, What::ServerDies, 0, dead, false);
        }
        for who in 0..self.world.runners {
            if self.from.runs[who].at != At::Off {
                let mut state = self.from;
                state.runs[who] = Run::OFF;
                state.faults -= 1;
                self.add(who, What::Kill, 0, state, false);
            }
        }
    }

    /// A transaction: it succeeds, or its connection is lost before or after the commit, or it is
    /// refused. `unsure` is what a run remembers of a commit it knows nothing about.
    pub(super) fn transaction(
        &mut self,
        who: usize,
        what: What,
        events: u8,
        done: &Done,
        unsure: &dyn Fn(&mut Run),
    ) {
        let before = self.from.runs[who];
        let label = |answer| Label {
            run: who,
            what,
            events,
            answer,
        };
        if !before.connected {
            let mut state = self.from;
            state.runs[who] = self.after_loss(before, unsure);
            self.add(who, What::NoticeLoss, 0, state, true);
            return;
        }
        self.found.push(Step {
            label: label(Answer::Well),
            state: done.state,
            good: what != What::EffectsFail,
            broken: done.broken,
        });
        if self.from.faults == 0 {
            return;
        }
        for (answer, mut state) in [
            (Answer::Lost, self.from),
            (Answer::Unknown, done.state),
            (Answer::Refused, self.from),
        ] {
            state.faults = self.from.faults - 1;
            state.runs[who] = match answer {
                Answer::Refused => after_refusal(before, unsure),
                _ => self.after_loss(before, unsure),
            };
            let broken = done.broken.filter(|_| answer == Answer::Unknown);
            self.found.push(Step {
                label: label(answer),
                state,
                good: false,
                broken,
            });
        }
    }

    /// A run whose connection is gone goes to its end, where it connects anew once.
    fn after_loss(&self, mut run: Run, unsure: &dyn Fn(&mut Run)) -> Run {
        let may_fire_again = self.world.has(Flaw::UnknownIsFailed) && run.has_acks();
        let recorded_surely = self.world.has(Flaw::UnknownIsDone) && run.has_acks();
        match run.at {
            At::Off | At::Take | At::End | At::Close => return Run::OFF,
            _ => {}
        }
        unsure(&mut run);
        if run.at != At::Effects {
            run.wave = 0; // that of the run it was about to close
        }
        run.connected = false;
        run.lost = true;
        run.at = At::End;
        if may_fire_again {
            for event in 0..EVENTS {
                if run.pending[event] != Fate::None {
                    run.queue |= bit(event);
                    run.pending[event] = Fate::None;
                }
            }
            (run.at, run.connected) = (At::Work, true);
        }
        if recorded_surely {
            run.pending = [Fate::None; EVENTS];
        }
        run
    }

    fn steps_of(&mut self, who: usize) {
        match self.from.runs[who].at {
            At::Off => self.peek(who),
            At::Take => self.take(who),
            At::Stranded => self.look_for_stranded(who),
            At::Recover => self.recover(who),
            At::OpenRuns => self.look_for_open_runs(who),
            At::CloseRun => self.close_dead_run(who),
            At::Work => self.work(who),
            At::Effects => self.effects(who),
            At::End => self.end(who),
            At::Close => self.close(who),
        }
    }

    fn peek(&mut self, who: usize) {
        let state = &self.from;
        let idle = state.events.iter().all(|event| event.row == Row::Gone);
        // The advisory lock goes with its connection; a new one does not ask for it again.
        let locks = |run: &Run| run.at != At::Off && run.connected && !run.lost;
        let locked_out = self.world.advisory && state.runs.iter().any(locks);
        if idle || locked_out || state.lease.epoch >= self.world.epochs {
            return;
        }
        let mut next = self.from;
        let lease = next.lease;
        next.runs[who] = Run {
            at: At::Take,
            seen: lease.epoch,
            proof: lease.epoch > 0 && next.rows[usize::from(lease.epoch)].host == host(who),
            connected: true,
            ..Run::OFF
        };
        self.add(who, What::Peek, 0, next, false);
    }

    fn take(&mut self, who: usize) {
        let Run { seen, proof, .. } = self.from.runs[who];
        let lease = self.from.lease;
        let lapsed = lease.age >= TTL && !self.world.has(Flaw::NoLapse);
        let may = !lease.held || proof || lapsed;
        let may = may || self.world.has(Flaw::UnconditionalTakeover);
        let mut state = self.from;
        if lease.epoch != seen || !may || seen >= self.world.epochs {
            state.runs[who] = Run::OFF;
            self.add(who, What::Take, 0, state, true);
            return;
        }
        let epoch = seen + 1;
        state.lease = Lease {
            epoch,
            held: true,
            age: 0,
        };
        state.rows[usize::from(epoch)] = RunRow {
            open: true,
            host: host(who),
            trace: 0,
        };
        state.runs[who] = Run {
            at: At::Stranded,
            epoch,
            connected: true,
            ..Run::OFF
        };
        self.commit(who, What::Take, 0, state, None);
    }

    pub(super) fn commit(
        &mut self,
        who: usize,
        what: What,
        events: u8,
        state: State,
        broken: Option<Broken>,
    ) {
        self.transaction(who, what, events, &Done { state, broken }, &|_| {});
    }

    /// The gate is shut: the run claims and starts nothing more.
    pub(super) fn fenced(&mut self, who: usize, what: What, events: u8) {
        let mut state = self.from;
        let run = &mut state.runs[who];
        (run.at, run.wave) = (At::End, 0);
        self.commit(who, what, events, state, None);
    }

    fn look_for_stranded(&mut self, who: usize) {
        let mut state = self.from;
        let own = state.runs[who].epoch;
        let mut found = None;
        for (index, event) in state.events.iter().enumerate() {
            if let Row::Running(of, left) = event.row
                && of != own
            {
                let dead = state.rows[usize::from(of)].host == host(who);
                if left == 0 || dead || self.world.has(Flaw::RecoveryWithoutProof) {
                    found = Some((index, of));
                    break;
                }
            }
        }
        let run = &mut state.runs[who];
        if !run.connected {
            *run = self.after_loss(*run, &|_| {});
            self.add(who, What::NoticeLoss, 0, state, true);
            return;
        }
        match found {
            Some((row, of)) => {
                (run.at, run.row, run.of) = (At::Recover, to_byte(row), of);
            }
            None => run.at = At::OpenRuns,
        }
        self.add(who, What::LookForStranded, 0, state, true);
    }

    fn recover(&mut self, who: usize) {
        let Run { row, of, epoch, .. } = self.from.runs[who];
        let index = usize::from(row);
        if !self.from.holds(epoch) {
            return self.fenced(who, What::Recover, bit(index));
        }
        let mut state = self.from;
        let run = &mut state.runs[who];
        (run.at, run.row, run.of, run.age) = (At::Stranded, 0, 0, 0);
        state.lease.age = 0;
        let mut broken = None;
        if let Row::Running(holder, left) = state.events[index].row
            && holder == of
        {
            broken = taken_alive(&state, who, of, left);
            let lost = self.lost_with_run(&mut state, index, of, epoch);
            broken = broken.or(lost);
        }
        self.commit(who, What::Recover, bit(index), state, broken);
    }

    /// `judge::lost_with_run`.
    pub(super) fn lost_with_run(
        &self,
        state: &mut State,
        index: usize,
        of: u8,
        writer: u8,
    ) -> Option<Broken> {
        let kind = self.world.kinds[index];
        let event = &mut state.events[index];
        if kind == Kind::Most && !self.world.has(Flaw::AtMostOncePutBack) {
            finish(event, Outcome::Unknown, writer);
            return None;
        }
        let counted = event.lost_with & bit(usize::from(of)) != 0;
        event.lost_with |= bit(usize::from(of));
        event.losses += 1;
        if event.losses > MAX_LOSSES {
            finish(event, Outcome::Dead, writer);
        } else {
            event.row = Row::Ready;
        }
        counted.then_some(Broken::LossCountedTwice)
    }

    fn look_for_open_runs(&mut self, who: usize) {
        let mut state = self.from;
        let own = state.runs[who].epoch;
        let open = (1..EPOCHS).find(|&at| state.rows[at].open && at != usize::from(own));
        let run = &mut state.runs[who];
        if !run.connected {
            *run = self.after_loss(*run, &|_| {});
            self.add(who, What::NoticeLoss, 0, state, true);
            return;
        }
        match open {
            Some(at) => {
                run.at = At::CloseRun;
                run.seen = to_byte(at);
                run.wave = state.rows[at].trace;
            }
            None => run.at = At::Work,
        }
        self.add(who, What::LookForOpenRuns, 0, state, true);
    }

    fn close_dead_run(&mut self, who: usize) {
        let Run {
            seen, wave, epoch, ..
        } = self.from.runs[who];
        let apart = self.world.has(Flaw::DeadRunClosedUngated);
        let alone = wave.is_power_of_two();
        let gated = !apart || alone;
        if gated && !self.from.holds(epoch) {
            return self.fenced(who, What::CloseDeadRun, wave);
        }
        let mut state = self.from;
        let mut broken = None;
        if alone {
            let index = wave.trailing_zeros() as usize;
            if state.events[index].row == Row::Ready {
                broken = self.lost_with_run(&mut state, index, seen, epoch);
            }
        } else if wave != 0 {
            let (first, last) = (wave.trailing_zeros(), wave.ilog2());
            state.runs[who].suspects |= (bit(last as usize + 1) - 1) & !(bit(first as usize) - 1);
        }
        if gated {
            (state.lease.age, state.runs[who].age) = (0, 0);
        }
        state.runs[who].wave = 0;
        if apart && alone {
            return self.commit(who, What::CloseDeadRun, wave, state, broken);
        }
        let row = &mut state.rows[usize::from(seen)];
        (row.open, row.trace) = (false, 0);
        if state.runner_of(seen).is_some() && state.holds(seen) {
            broken = Some(Broken::LiveRunRecordedAsDead);
        }
        let run = &mut state.runs[who];
        (run.at, run.seen) = (At::OpenRuns, 0);
        self.commit(who, What::CloseDeadRun, wave, state, broken);
    }
}

/// Where the database says no without being lost, a run ends; what it cannot wind up it leaves.
fn after_refusal(mut run: Run, unsure: &dyn Fn(&mut Run)) -> Run {
    unsure(&mut run);
    run.at = match run.at {
        At::Take | At::Close => return Run::OFF,
        At::End => At::Close,
        _ => At::End,
    };
    run
}

/// To history.
pub(super) fn finish(event: &mut Event, outcome: Outcome, by: u8) {
    event.row = Row::Gone;
    event.history += 1;
    event.outcome = outcome;
    event.recorded_by = by;
}

/// A failed try, of a type that may try again.
pub(super) fn fail(event: &mut Event, by: u8) {
    event.attempts += 1;
    if event.attempts > RETRIES {
        finish(event, Outcome::Dead, by);
    } else {
        event.row = Row::Ready;
    }
}

/// A running row is nobody's to change but its claimant's, until that is dead or its time is up.
pub(super) fn taken_alive(state: &State, who: usize, of: u8, left: u8) -> Option<Broken> {
    let alive = state.runner_of(of).is_some_and(|holder| holder != who);
    (alive && left > 0).then_some(Broken::TakenFromALiveRun)
}

/// Each runner is a host of its own, with its own file lock.
fn host(who: usize) -> u8 {
    to_byte(who + 1)
}

fn to_byte(number: usize) -> u8 {
    u8::try_from(number).expect("a small number")
}

/// What a state may not be.
pub(super) fn broken(world: &World, state: &State) -> Option<Broken> {
    for (index, event) in state.events[..world.kinds.len()].iter().enumerate() {
        if event.history > 1 {
            return Some(Broken::InHistoryTwice);
        }
        if event.row == Row::Gone && event.history == 0 && !event.deleted {
            return Some(Broken::Lost);
        }
        let done = u8::from(event.outcome == Outcome::Done);
        match world.kinds[index] {
            Kind::Exactly if event.effects != done => return Some(Broken::EffectWithoutRecord),
            Kind::Most if event.starts > 1 => return Some(Broken::StartedMoreThanOnce),
            Kind::Least if event.starts > event.attempts + event.losses + 1 => {
                return Some(Broken::StartedMoreOftenThanCounted);
            }
            Kind::Least | Kind::Most if event.starts < done => return Some(Broken::Lost),
            _ => {}
        }
    }
    None
}
