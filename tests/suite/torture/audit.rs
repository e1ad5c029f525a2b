//! The judge: what the handlers left as evidence, against what the tables say. Knows every event
//! that was ever added, reads only what is new since it last looked, and shares nothing with the
//! product.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;

use super::ground::{EVERY, Ground, KINDS, Kind};
use super::sight::{Cell, number};

mod evidence;
mod verdicts;

/// An event as the judge knows it.
pub(super) struct Known {
    pub(super) kind: usize,
    /// Not before: as added, as the site changed it, as the last look found it put off.
    pub(super) due_at: i64,
    pub(super) expires: bool,
    pub(super) keyed: bool,
    pub(super) cancelled: bool,
    pub(super) state: State,
    /// Attempts that began: lines and requests.
    starts: i64,
    /// Attempts that ended well.
    good: i64,
    /// Rows that its statements wrote.
    effects: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Live,
    /// The site deleted the row, which was ready or running then.
    Deleted,
    Finished(String),
}

/// What a run's children may do beside those of the next run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Leave {
    #[default]
    Nothing,
    /// It was stopped for longer than its lease: what it had started ends, and nothing is begun but
    /// what it was just about to start, by this process.
    Ends(Option<u32>),
    /// Its watchdog was killed too, or its lease ran out by a clock that jumped.
    All,
}

/// What is known of a run.
#[derive(Default)]
struct Seen {
    /// The most its clock was moved while it lived.
    shift: i64,
    /// It was killed: a child that was being started then may be left over.
    killed: bool,
    /// Its watchdog has done its work, at a look before this one: nothing more comes from it.
    silent: bool,
    /// What its children may do beside those of the next run.
    leave: Leave,
}

#[derive(Default)]
pub(super) struct Audit {
    pub(super) known: HashMap<i64, Known>,
    pub(super) live: BTreeSet<i64>,
    runs: HashMap<u32, Seen>,
    last_id: i64,
    last_history: i64,
    last_effect: i64,
    notes_read: u64,
    rest_of_notes: String,
    /// Whose lines came last, and whose must not come again.
    at_work: u32,
    over: HashSet<u32>,
    /// Processes between their first and their last line, by run and kind.
    working: HashMap<(u32, usize), BTreeMap<u32, i64>>,
    /// History by run: outcomes.
    recorded: HashMap<i64, BTreeMap<String, i64>>,
    open_runs: BTreeSet<i64>,
    last_run: i64,
    /// The most the clock was moved in any of the last steps, for children without a parent.
    recent_shifts: Vec<i64>,
    pub(super) outcomes: BTreeMap<String, i64>,
    /// Effects beyond one, all within what the type declares.
    pub(super) beyond_one: i64,
    /// Children that outlived a killed run.
    pub(super) strays: usize,
    pub(super) kills: usize,
    /// Processes at work on an event: the last that began, and its run.
    under_way: HashMap<i64, (u32, u32)>,
    /// The clock jumped beyond what any claim is believed for, in this step.
    claims_ran_out: bool,
    /// The last run that recorded an effect.
    last_effect_run: i64,
    /// Children may be at work after this step.
    excused: bool,
    /// Slots that became events.
    pub(super) slots: usize,
    wrong: Vec<String>,
}

/// More events than are ever added within a transaction.
const AT_ONCE: i64 = 500;

const OUTCOMES: [&str; 6] = [
    "done",
    "dead",
    "skipped",
    "cancelled",
    "unknown",
    "withdrawn",
];

impl Audit {
    /// What the site and its schedule have added goes by the rows that are new. A run that is at
    /// work may have dealt with some of them already, so history is looked at after them; and it
    /// may be about to commit one with a number below others that are there.
    pub(super) fn learn(&mut self, ground: &mut Ground) {
        let last = self.last_id - AT_ONCE;
        for query in [
            format!(
                "SELECT id, type, due_at, expires_at, unique_key FROM scheduled_events \
                 WHERE id > {last} ORDER BY id"
            ),
            format!(
                "SELECT event_id, type, COALESCE(first_due_at, due_at), expires_at, unique_key \
                 FROM event_history WHERE event_id > {last} ORDER BY event_id"
            ),
        ] {
            self.learn_from(ground, &query);
        }
    }

    fn learn_from(&mut self, ground: &mut Ground, query: &str) {
        for row in ground.sight.rows(query) {
            let id = number(&row[0]);
            if self.known.contains_key(&id) {
                continue;
            }
            let kind = KINDS
                .iter()
                .position(|kind| row[1].as_deref() == Some(kind.name));
            let known = Known {
                kind: kind.expect("a type of the site"),
                due_at: number(&row[2]),
                expires: row[3].is_some(),
                keyed: row[4].is_some(),
                cancelled: false,
                state: State::Live,
                starts: 0,
                good: 0,
                effects: 0,
            };
            self.known.insert(id, known);
            self.live.insert(id);
            self.last_id = self.last_id.max(id);
        }
    }

    /// The site deleted the row.
    pub(super) fn deleted(&mut self, id: i64) {
        self.live.remove(&id);
        if let Some(known) = self.known.get_mut(&id) {
            known.state = State::Deleted;
        }
    }

    /// Before the next run: whether children are still at work though the last run's lock is free.
    /// `noted`: bytes of notes there are.
    pub(super) fn begin_step(&mut self, noted: u64) {
        let excused = std::mem::take(&mut self.excused);
        if noted > self.notes_read && !excused {
            self.strays += 1;
        }
    }

    /// The locks may not be free yet when the next run starts.
    pub(super) fn excuse_children(&mut self) {
        self.excused = true;
    }

    /// A run was started.
    pub(super) fn started(&mut self, pid: u32) {
        // The number may have been an earlier run's.
        self.over.remove(&pid);
        self.working.retain(|(run, _), _| *run != pid);
        self.under_way.retain(|_, (_, run)| *run != pid);
        self.runs.insert(pid, Seen::default());
    }

    pub(super) fn killed(&mut self, pid: u32) {
        self.kills += 1;
        self.runs.entry(pid).or_default().killed = true;
    }

    /// What this run's children do beside others' is its fate, not the product's.
    pub(super) fn excuse(&mut self, pid: u32) {
        self.runs.entry(pid).or_default().leave = Leave::All;
        self.excused = true;
    }

    /// This run was stopped for longer than its lease.
    pub(super) fn stopped(&mut self, pid: u32) {
        self.runs.entry(pid).or_default().leave = Leave::Ends(None);
        self.excused = true;
    }

    /// The clock jumped: claims of live runs are no longer believed in this step.
    pub(super) fn claims_ran_out(&mut self) {
        self.claims_ran_out = true;
    }

    /// Looks at everything new. To be called when no run is at work; `pids` were in this step.
    /// Returns what is wrong.
    pub(super) fn look(&mut self, ground: &mut Ground, pids: &[u32]) -> Vec<String> {
        for pid in pids {
            self.runs.entry(*pid).or_default().shift = ground.highest_shift;
        }
        self.recent_shifts.push(ground.highest_shift);
        if self.recent_shifts.len() > 5 {
            self.recent_shifts.remove(0);
        }

        // The tables first, at one instant: whatever they say happened has left its line by then.
        ground.sight.look();
        self.learn(ground);
        let history = self.new_history(ground);
        let effects = self.new_effects(ground);
        let rows = ground.sight.rows(
            "SELECT id, status, due_at, attempts, losses, deferrals, claim_epoch \
             FROM scheduled_events",
        );
        let runs = self.new_runs(ground);
        let epochs = known_epochs(ground, &rows);
        ground.sight.look_away();

        // Evidence before judgement. Of what was finished at an earlier look nothing may begin.
        let mut begun_late = Vec::new();
        self.read_notes(ground, &mut |id, known, by_a_dead_run| {
            if matches!(known.state, State::Finished(_)) {
                begun_late.push((id, by_a_dead_run));
            }
        });
        for (id, by_a_dead_run) in begun_late {
            if by_a_dead_run {
                self.strays += 1;
            } else {
                let late = format!("event {id} was started after it had been recorded");
                self.wrong.push(late);
            }
        }
        for (id, at) in effects {
            self.take_effect(id, at, ground.highest_shift);
        }
        for row in &history {
            self.judge_finished(row);
        }
        self.judge_rows(&rows, &epochs);
        self.judge_runs(&runs);
        self.claims_ran_out = false;
        for pid in pids {
            if let Some(seen) = self.runs.get_mut(pid) {
                seen.silent = seen.killed && !self.excused;
            }
        }
        std::mem::take(&mut self.wrong)
    }

    fn new_history(&mut self, ground: &mut Ground) -> Vec<Vec<Cell>> {
        let query = format!(
            "SELECT history_id, event_id, outcome, attempts, losses, deferrals, run_id, type \
             FROM event_history WHERE history_id > {} ORDER BY history_id",
            self.last_history
        );
        let rows = ground.sight.rows(&query);
        self.last_history = rows.last().map_or(self.last_history, |row| number(&row[0]));
        rows
    }

    fn new_effects(&mut self, ground: &mut Ground) -> Vec<(i64, i64)> {
        let query = format!(
            "SELECT n, event_id, at FROM effects WHERE n > {} ORDER BY n",
            self.last_effect
        );
        let rows = ground.sight.rows(&query);
        self.last_effect = rows.last().map_or(self.last_effect, |row| number(&row[0]));
        let effects = rows.iter().map(|row| (number(&row[1]), number(&row[2])));
        effects.collect()
    }

    fn new_runs(&mut self, ground: &mut Ground) -> Vec<Vec<Cell>> {
        let from = self
            .open_runs
            .first()
            .map_or(self.last_run, |first| first - 1);
        ground.sight.rows(&format!(
            "SELECT run_id, finished_at, stop, done, dead, skipped, cancelled, unknown, withdrawn \
             FROM event_runs WHERE run_id > {from} ORDER BY run_id"
        ))
    }

    /// After a run that had its way: nobody else's row is open, nothing due is left.
    pub(super) fn look_after_calm(&mut self, ground: &mut Ground, cutoff: i64) -> Vec<String> {
        let mut wrong = Vec::new();
        if !self.open_runs.is_empty() {
            wrong.push(format!("runs without an end: {:?}", self.open_runs));
        }
        let left = ground.sight.rows(&format!(
            "SELECT id, type, due_at, claim_until FROM scheduled_events \
             WHERE (status = 'ready' AND due_at <= {cutoff}) \
             OR (status = 'running' AND claim_until <= {cutoff})"
        ));
        if !left.is_empty() {
            wrong.push(format!("due by {cutoff} and left: {left:?}"));
        }
        wrong
    }

    /// Everything ever added against everything in the tables.
    pub(super) fn look_at_all(&mut self, ground: &mut Ground) -> Vec<String> {
        let mut wrong = Vec::new();
        ground.sight.look();
        let history = ground
            .sight
            .rows("SELECT event_id, outcome FROM event_history");
        let effects = ground
            .sight
            .rows("SELECT event_id, COUNT(*) FROM effects GROUP BY event_id");
        let picky = ground
            .sight
            .rows("SELECT event_id, COUNT(*) FROM picky GROUP BY event_id");
        wrong.extend(self.look_at_slots(ground));
        ground.sight.look_away();
        let mut recorded = HashMap::new();
        for row in &history {
            if recorded.insert(number(&row[0]), row[1].clone()).is_some() {
                wrong.push(format!("event {:?} is in history twice", row[0]));
            }
        }
        for (id, known) in &self.known {
            let expected = match &known.state {
                State::Finished(outcome) => Some(outcome.clone()),
                State::Live | State::Deleted => None,
            };
            let found = recorded.remove(id).flatten();
            if found != expected && known.state != State::Deleted {
                wrong.push(format!(
                    "event {id} is {:?}, history has {found:?}",
                    known.state
                ));
            }
        }
        if !recorded.is_empty() {
            wrong.push(format!("history of strangers: {recorded:?}"));
        }
        let done_of = |names: &[&str]| -> BTreeSet<i64> {
            let done = State::Finished("done".to_owned());
            let of_kind = |known: &Known| names.contains(&KINDS[known.kind].name);
            let all = self.known.iter();
            all.filter(|(_, known)| known.state == done && of_kind(known))
                .map(|(id, _)| *id)
                .collect()
        };
        for (rows, names) in [(effects, &["ledger", "shaky"][..]), (picky, &["shaky"])] {
            let once: BTreeSet<i64> = rows.iter().map(|row| number(&row[0])).collect();
            let doubled: Vec<&Vec<Cell>> = rows.iter().filter(|row| number(&row[1]) != 1).collect();
            if !doubled.is_empty() {
                wrong.push(format!("effects twice: {doubled:?}"));
            }
            if once != done_of(names) {
                let differ: Vec<i64> = once
                    .symmetric_difference(&done_of(names))
                    .copied()
                    .collect();
                wrong.push(format!(
                    "effects and history of {names:?} differ: {differ:?}"
                ));
            }
        }
        if self.strays > 0 {
            wrong.push(format!(
                "{} children outlived {} killed runs",
                self.strays, self.kills
            ));
        }
        wrong
    }

    /// Every slot of the schedule, from the first that a run saw to its watermark, has become one
    /// event, whatever became of that.
    fn look_at_slots(&mut self, ground: &mut Ground) -> Vec<String> {
        let mut wrong = Vec::new();
        let made = ground
            .sight
            .rows("SELECT slot, slots, made_id FROM event_slots ORDER BY slot");
        let watermark = ground.sight.rows("SELECT last_slot FROM event_schedules");
        let watermark = watermark.first().map_or(0, |row| number(&row[0]));
        let slots: Vec<i64> = made.iter().map(|row| number(&row[0])).collect();
        let is_missing = |pair: &[i64]| pair[1] - pair[0] != EVERY;
        if let Some(hole) = slots.windows(2).find(|pair| is_missing(pair)) {
            wrong.push(format!("slots between {hole:?} have become no events"));
        }
        if slots.last().is_some_and(|last| *last != watermark) {
            wrong.push(format!(
                "the last slot is {:?}, not {watermark}",
                slots.last()
            ));
        }
        for row in &made {
            let (stands_for, id) = (number(&row[1]), number(&row[2]));
            if stands_for != 1 || !self.known.contains_key(&id) {
                wrong.push(format!("slot {row:?} is not one event"));
            }
        }
        let doubled = ground.sight.rows(
            "SELECT slot_at, COUNT(DISTINCT id) FROM (SELECT slot_at, id FROM scheduled_events \
             UNION ALL SELECT slot_at, event_id FROM event_history) e \
             WHERE slot_at IS NOT NULL GROUP BY slot_at HAVING COUNT(DISTINCT id) > 1",
        );
        if !doubled.is_empty() {
            wrong.push(format!("slots with more than one event: {doubled:?}"));
        }
        self.slots = slots.len();
        wrong
    }

    /// Events by outcome, for the summary.
    pub(super) fn tell_outcomes(&self) -> String {
        let mut told = String::new();
        for (outcome, events) in &self.outcomes {
            let _ = write!(told, "{outcome} {events}, ");
        }
        let deleted = self
            .known
            .values()
            .filter(|known| known.state == State::Deleted);
        let _ = write!(told, "deleted by the site {}", deleted.count());
        told
    }

    /// How a kind is declared, for messages.
    pub(super) fn kind_of(&self, id: i64) -> Option<&'static Kind> {
        self.known.get(&id).map(|known| &KINDS[known.kind])
    }
}

/// The epochs of claims, as far as a run is known to have had them.
fn known_epochs(ground: &mut Ground, rows: &[Vec<Cell>]) -> HashSet<i64> {
    let claimed: BTreeSet<i64> = rows
        .iter()
        .filter(|row| row[1].as_deref() == Some("running"))
        .map(|row| number(&row[6]))
        .collect();
    if claimed.is_empty() {
        return HashSet::new();
    }
    let list: Vec<String> = claimed.iter().map(i64::to_string).collect();
    let list = list.join(",");
    let query = format!("SELECT epoch FROM event_runs WHERE epoch IN ({list})");
    let rows = ground.sight.rows(&query);
    rows.iter().map(|row| number(&row[0])).collect()
}
