//! The search: breadth first over all states, each looked at once, so that a counterexample is a
//! shortest one.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use super::World;
use super::label::{Label, What};
use super::state::{At, CLAIM, RUNNERS, Row, Run, RunRow, State, bit};
use super::steps::{Broken, Steps, broken};

/// What a search came to.
pub(super) struct Searched {
    pub(super) states: usize,
    pub(super) steps: usize,
    /// What happened at least once.
    pub(super) taken: Vec<What>,
    pub(super) counterexample: Option<Counterexample>,
}

/// The shortest way to something that must not be.
pub(super) struct Counterexample {
    pub(super) broken: Found,
    pub(super) trace: Vec<Label>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Broken(Broken),
    /// Healthy runs and time do not bring every event to its end.
    Stuck,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} after {} steps:", self.broken, self.trace.len())?;
        for (number, label) in self.trace.iter().enumerate() {
            writeln!(f, "{:>4}. {label}", number + 1)?;
        }
        Ok(())
    }
}

struct Node {
    state: State,
    parent: u32,
    label: Option<Label>,
    /// Where a healthy run goes next; itself where no run is left.
    healthy: u32,
}

type Seen = HashMap<State, u32, BuildHasherDefault<Mixed>>;

pub(super) struct Search<'w> {
    world: &'w World,
    nodes: Vec<Node>,
    seen: Seen,
    steps: usize,
    taken: Vec<What>,
}

impl<'w> Search<'w> {
    /// Explores everything that can happen in `world`.
    pub(super) fn exhaust(world: &'w World) -> Searched {
        let mut search = Self {
            world,
            nodes: Vec::new(),
            seen: Seen::default(),
            steps: 0,
            taken: Vec::new(),
        };
        let counterexample = search.explore().or_else(|| search.find_stuck());
        Searched {
            states: search.nodes.len(),
            steps: search.steps,
            taken: search.taken,
            counterexample,
        }
    }

    fn explore(&mut self) -> Option<Counterexample> {
        let world = self.world;
        let first = State::first(world.kinds.len(), world.faults, world.deletions);
        self.enter(first, 0, None);
        let mut at = 0;
        while at < self.nodes.len() {
            let from = self.nodes[at].state;
            let parent = to_id(at);
            let mut healthy = None;
            for step in Steps::of(world, &from) {
                self.steps += 1;
                if !self.taken.contains(&step.label.what) {
                    self.taken.push(step.label.what);
                }
                if let Some(broken) = step.broken.filter(|&broken| world.minds(broken)) {
                    return Some(self.trace_to(parent, Some(step.label), Found::Broken(broken)));
                }
                let id = self.enter(step.state, parent, Some(step.label));
                if step.good {
                    healthy.get_or_insert(id);
                }
                if let Some(broken) = broken(world, &step.state) {
                    return Some(self.trace_to(id, None, Found::Broken(broken)));
                }
            }
            // A new run does not count: those that are there are to come to their end.
            let ended = from.all_off();
            self.nodes[at].healthy = healthy.filter(|_| !ended).unwrap_or(parent);
            at += 1;
        }
        None
    }

    fn enter(&mut self, state: State, parent: u32, label: Option<Label>) -> u32 {
        let next = to_id(self.nodes.len());
        let id = *self.seen.entry(canonical(&state)).or_insert(next);
        if id == next {
            self.nodes.push(Node {
                state,
                parent,
                label,
                healthy: next,
            });
        }
        id
    }

    fn trace_to(&self, id: u32, last: Option<Label>, broken: Found) -> Counterexample {
        let mut trace: Vec<Label> = last.into_iter().collect();
        let mut at = id as usize;
        while let Some(label) = self.nodes[at].label {
            trace.insert(0, label);
            at = self.nodes[at].parent as usize;
        }
        Counterexample { broken, trace }
    }

    /// From every state: when the runs that are there go on undisturbed, they end; and when they
    /// have ended, or have all been killed, and time has passed, a fresh run deals with everything.
    fn find_stuck(&self) -> Option<Counterexample> {
        let mut ends = vec![false; self.nodes.len()];
        let mut complete = Seen::default();
        for start in 0..self.nodes.len() {
            let stuck = || Some(self.trace_to(to_id(start), None, Found::Stuck));
            let mut way = Vec::new();
            let mut at = start;
            while !ends[at] {
                let next = self.nodes[at].healthy as usize;
                way.push(at);
                if next == at && !self.nodes[at].state.all_off() || way.len() > 1000 {
                    return stuck();
                }
                if next == at {
                    break;
                }
                at = next;
            }
            for at in way {
                ends[at] = true;
            }
            let mut left = self.nodes[start].state;
            left.runs = [Run::OFF; RUNNERS];
            (left.faults, left.deletions) = (0, 0);
            let left = canonical(&left);
            if complete.insert(left, 0).is_none() && !self.completes(left) {
                return stuck();
            }
        }
        None
    }

    /// Whether time and one healthy run more bring every event of `state` to its end.
    fn completes(&self, mut state: State) -> bool {
        let world = World {
            epochs: self.world.epochs + 1,
            ..*self.world
        };
        for _ in 0..CLAIM {
            let mut steps = Steps::of(&world, &state).into_iter();
            let tick = steps.find(|step| step.label.what == What::Tick);
            state = tick.map_or(state, |step| step.state);
        }
        for _ in 0..200 {
            let steps = Steps::of(&world, &state);
            let next = if state.all_off() {
                // On the last host, whose lock proves the fewest deaths.
                steps.iter().rfind(|step| step.label.what == What::Peek)
            } else {
                steps.iter().find(|step| step.good)
            };
            match next {
                Some(step) => state = step.state,
                None => break,
            }
        }
        state.events.iter().all(|event| event.row == Row::Gone)
    }
}

fn to_id(index: usize) -> u32 {
    u32::try_from(index).expect("fewer states than fit")
}

/// The same state whatever the order of the runners, without what nothing will ever look at again.
fn canonical(state: &State) -> State {
    let mut state = *state;
    let needed = needed_epochs(&state);
    for (epoch, row) in state.rows.iter_mut().enumerate() {
        if needed & bit(epoch) == 0 {
            *row = RunRow {
                open: false,
                host: 0,
                trace: 0,
            };
        }
    }
    for event in &mut state.events {
        event.lost_with &= needed;
        if state.runs.iter().all(|run| run.epoch != event.recorded_by) {
            event.recorded_by = 0;
        }
    }
    // Runners differ by their host only: sorted, and the rows' hosts named anew.
    let mut order = [0, 1, 2];
    order.sort_unstable_by_key(|&runner: &usize| {
        let host = u8::try_from(runner + 1).expect("few");
        let rows = state.rows.map(|row| row.host == host);
        (state.runs[runner], rows)
    });
    let runs = state.runs;
    for (place, runner) in order.into_iter().enumerate() {
        state.runs[place] = runs[runner];
    }
    for row in &mut state.rows {
        if let Some(runner) = usize::from(row.host).checked_sub(1) {
            let place = order.iter().position(|&other| other == runner);
            row.host = u8::try_from(place.expect("a runner") + 1).expect("few");
        }
    }
    state
}

/// The epochs that a row, a run or the lease still names.
fn needed_epochs(state: &State) -> u8 {
    let mut needed = bit(usize::from(state.lease.epoch));
    for event in &state.events {
        if let Row::Running(of, _) = event.row {
            needed |= bit(usize::from(of));
        }
    }
    for (epoch, row) in state.rows.iter().enumerate() {
        needed |= if row.open { bit(epoch) } else { 0 };
    }
    for run in state.runs.iter().filter(|run| run.at != At::Off) {
        needed |= bit(usize::from(run.epoch)) | bit(usize::from(run.of));
        needed |= bit(usize::from(run.seen));
    }
    needed
}

/// A hash that is quick without optimisation: states are a hundred bytes, and there are many.
#[derive(Default)]
pub(super) struct Mixed(u64);

impl Mixed {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.mix(u64::from(byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }
}
