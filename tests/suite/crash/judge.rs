//! What is promised (DESIGN §2.3, §2.4 and §6), held against what was seen from outside.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::bench::{Bench, Family, Tables, lives};
use super::plan::{Column, Delivery, EVENTS, Shape};
use crate::support::process::eventually;

/// What a dead run left.
pub(crate) struct Killed {
    pub(crate) tables: Tables,
    /// How often each event had had its effect by then.
    effects: BTreeMap<i64, usize>,
    family: Family,
}

impl Killed {
    pub(crate) fn now(bench: &Bench, family: Family) -> Self {
        let tables = bench.tables();
        Self {
            effects: bench.effects(&tables),
            tables,
            family,
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape {
            effects: self.effects.values().sum(),
            recorded: self.tables.past.len(),
        }
    }
}

/// What became of the four events.
pub(crate) struct Fates<'f> {
    tables: &'f Tables,
    effects: BTreeMap<i64, usize>,
    delivery: Delivery,
}

impl<'f> Fates<'f> {
    pub(crate) fn of(bench: &Bench, tables: &'f Tables, column: &Column) -> Self {
        Self {
            tables,
            effects: bench.effects(tables),
            delivery: column.delivery,
        }
    }

    /// # Errors
    /// The first event for which it does not hold.
    pub(crate) fn keep_the_promise(&self, killed: &[Killed]) -> Result<(), String> {
        for id in ids() {
            let broken = self.broken(id, killed);
            broken.map_or(Ok(()), |what| {
                Err(format!("event {id}: {what}; {}", self.all()))
            })?;
        }
        if self
            .effects
            .keys()
            .any(|id| !ids().any(|known| known == *id))
        {
            return Err(format!("something else was fired: {}", self.all()));
        }
        Ok(())
    }

    fn broken(&self, id: i64, killed: &[Killed]) -> Option<&'static str> {
        let of_it: Vec<_> = self
            .tables
            .past
            .iter()
            .filter(|line| line.id == id)
            .collect();
        let [line] = of_it.as_slice() else {
            return Some("not once in history");
        };
        if self.tables.live.iter().any(|live| live.id == id) {
            return Some("in history and still to be fired");
        }
        let effects = self.effects_of(id);
        let [losses, attempts, _] = line
            .numbers
            .map(|count| usize::try_from(count).unwrap_or(99));
        let in_hand = killed
            .iter()
            .filter(|run| run.tables.in_hand().contains(&id))
            .count();
        if losses > in_hand {
            return Some("more losses than runs that died with it in hand");
        }
        if attempts > 0 {
            return Some("a failure that none was");
        }
        let is_done = line.word == "done";
        // Again only where a run died between firing and recording.
        let again = unrecorded(id, killed);
        let delivery = match self.delivery {
            Delivery::ExactlyOnce => effects == 1,
            Delivery::AtLeastOnce => effects == 1 + again && again <= losses + attempts,
            Delivery::AtMostOnce => effects <= 1,
        };
        if !delivery {
            return Some("not as often as its type declares");
        }
        if is_done {
            return (effects == 0).then_some("done without an effect");
        }
        if self.delivery != Delivery::AtMostOnce || line.word != "unknown" {
            return Some("not done");
        }
        (in_hand == 0).then_some("unknown, and nobody had it in hand")
    }

    fn effects_of(&self, id: i64) -> usize {
        self.effects.get(&id).copied().unwrap_or(0)
    }

    fn all(&self) -> String {
        format!("effects {:?}, tables {:?}", self.effects, self.tables)
    }
}

/// As it stands in a cell: for each event how often it had its effect, `*` for each loss, `?` where
/// it ended `unknown`.
impl fmt::Display for Fates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for id in ids() {
            let line = self.tables.past.iter().find(|line| line.id == id);
            let losses = line.map_or(0, |line| usize::try_from(line.numbers[0]).unwrap_or(0));
            let is_unknown = line.is_some_and(|line| line.word == "unknown");
            let space = if id == 1 { "" } else { " " };
            let unknown = if is_unknown { "?" } else { "" };
            let stars = "*".repeat(losses);
            write!(f, "{space}{}{stars}{unknown}", self.effects_of(id))?;
        }
        Ok(())
    }
}

/// In how many of the dead runs it had its effect without being recorded.
fn unrecorded(id: i64, killed: &[Killed]) -> usize {
    let mut before = 0;
    let mut times = 0;
    for run in killed {
        let effects = run.effects.get(&id).copied().unwrap_or(0);
        let is_recorded = run.tables.past.iter().any(|line| line.id == id);
        times += usize::from(effects > before && !is_recorded);
        before = effects;
    }
    times
}

fn ids() -> impl Iterator<Item = i64> {
    1..=i64::try_from(EVENTS).expect("few")
}

/// No event, no open run, no lease, no process, no lock; and every run that died is known as dead.
///
/// # Errors
/// What is left.
pub(crate) fn nothing_is_left(
    bench: &Bench,
    tables: &Tables,
    killed: &[Killed],
) -> Result<(), String> {
    let mut died: Vec<i64> = killed
        .iter()
        .flat_map(|run| run.tables.open_runs())
        .collect();
    died.sort_unstable();
    died.dedup();
    let said: Vec<i64> = tables
        .runs
        .iter()
        .filter(|run| run.word == "died")
        .map(|run| run.id)
        .collect();
    if died != said {
        return Err(format!(
            "runs {died:?} died; the tables say {said:?}: {tables:?}"
        ));
    }
    if !tables.live.is_empty() || !tables.open_runs().is_empty() || !tables.holder.is_empty() {
        return Err(format!("something is left in the tables: {tables:?}"));
    }
    for family in killed.iter().map(|run| &run.family) {
        for &pid in family.children.iter().chain(&family.watchdog) {
            eventually("what runs had started has ended", || !lives(pid));
        }
    }
    for path in lock_files(bench) {
        let file = File::open(&path).expect("a lock file that we may read");
        file.try_lock()
            .map_err(|error| format!("{} is still held: {error}", path.display()))?;
    }
    Ok(())
}

fn lock_files(bench: &Bench) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![bench.site.path("")];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if is_lock(&path) {
                found.push(path);
            }
        }
    }
    found
}

fn is_lock(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == "run.lock" || name.ends_with(".runlock")
}
