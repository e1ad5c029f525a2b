//! What is crossed with what: the rows (where a run is killed), the columns (what it fires), and
//! how far a run has come at each crossing.

use punctual::fault::POINTS;

/// How often an event may have its effect.
#[expect(clippy::enum_variant_names, reason = "the words of DESIGN §6")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    ExactlyOnce,
    AtLeastOnce,
    AtMostOnce,
}

/// What makes attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sql,
    /// Jobs of a wiki: a wave of them is one effect.
    Job,
    /// `repeat_until_empty`: an event takes two passes, the first of which has the effect.
    Sweep,
    Each,
    Batch,
    Http,
}

/// A handler with its delivery, and the numbers with which its type is configured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) type_name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) delivery: Delivery,
    /// Events that are claimed, and recorded, together.
    pub(crate) wave: usize,
}

/// Every handler with each delivery that it has.
pub(crate) const COLUMNS: [Column; 8] = {
    use Delivery::{AtLeastOnce, AtMostOnce, ExactlyOnce};
    const fn column(name: &'static str, kind: Kind, delivery: Delivery, wave: usize) -> Column {
        Column {
            type_name: name,
            kind,
            delivery,
            wave,
        }
    }
    [
        column("sql", Kind::Sql, ExactlyOnce, 2),
        column("job", Kind::Job, ExactlyOnce, 2),
        column("sweep", Kind::Sweep, ExactlyOnce, 1),
        column("each", Kind::Each, AtLeastOnce, 2),
        column("each-once", Kind::Each, AtMostOnce, 2),
        column("batch", Kind::Batch, AtLeastOnce, 2),
        column("http", Kind::Http, AtLeastOnce, 2),
        // Claimed just before it starts, one at a time.
        column("http-once", Kind::Http, AtMostOnce, 1),
    ]
};

/// The eight types, two events a wave. The handlers of commands note what they do and whose pid
/// they have; those of events from the number in the file `hang` on then do not end while it is
/// there. `term`: the first of them ends its run in order.
pub(crate) fn config(web: &str) -> String {
    format!(
        r#"
[run]
batch_size = 2

[type.sql]
handler = "sql"
sql = "INSERT INTO seen (id) VALUES (:id)"

[type.job]
handler = "mediawiki-job"

[type.sweep]
handler = "sql"
repeat_until_empty = true
sql = """INSERT INTO seen (id) SELECT id FROM scheduled_events
    WHERE id = :id AND NOT EXISTS (SELECT 1 FROM seen WHERE id = :id)"""

[type.each]
handler = "command"
command = ["sh", "each"]
concurrency = 2

[type.each-once]
handler = "command"
command = ["sh", "each"]
concurrency = 2
at_most_once = true

[type.batch]
handler = "command"
command = ["sh", "batch"]
mode = "batch"
concurrency = 1

[type.http]
handler = "http"
url = "{web}"
concurrency = 1

[type.http-once]
handler = "http"
url = "{web}"
concurrency = 1
at_most_once = true
"#
    )
}

/// The handler of `each`.
pub(crate) const EACH: &str = r#"
echo "$PUNCTUAL_EVENT_ID" >> fired
if [ -e term ] && [ "$PUNCTUAL_EVENT_ID" = 1 ]; then kill -TERM "$PPID"; fi
[ -e hang ] || exit 0
read -r from < hang
[ "$PUNCTUAL_EVENT_ID" -lt "$from" ] && exit 0
while [ -e hang ]; do sleep 0.02; done
"#;

/// The handler of `batch`: answers all, and then does not end.
pub(crate) const BATCH: &str = r#"
while read -r line; do
    id=${line#*:}
    id=${id%%,*}
    echo "$id" >> fired
    echo "{\"id\":$id,\"ok\":true}"
done
[ -e hang ] || exit 0
read -r from < hang
[ "$id" -lt "$from" ] && exit 0
while [ -e hang ]; do sleep 0.02; done
"#;

/// Events of a cell: their ids are 1, 2, 3 and 4.
pub(crate) const EVENTS: usize = 4;

/// A transaction whose COMMIT is dealt with by the server and not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commit {
    Lease,
    Claim,
    Ack,
}

/// Where the run is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// At a point of [`POINTS`].
    Point(&'static str),
    /// Between a COMMIT and its answer.
    Commit(Commit),
}

/// Which time that the run passes the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// The only one, before anything is fired.
    Before,
    /// That of the wave.
    Wave(usize),
    /// That of the last event to be started of the wave; a batch process starts them all.
    Start(usize),
    /// That of the first event of the wave that ends.
    End(usize),
    /// The only one, after all was fired.
    After,
}

/// What else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    Plain,
    /// A run before this one was killed with events in hand.
    Recovery,
    /// The run has claimed all four events and gets TERM while the first are under way.
    Term,
}

/// A row of the matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) place: Place,
    pub(crate) pass: Pass,
    pub(crate) scene: Scene,
}

/// All rows, in the order of [`POINTS`]; what is lost between a COMMIT and its answer stands
/// behind the point where the answer has come.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for &(name, _) in POINTS.iter().filter(|(name, _)| !is_of_others(name)) {
        for pass in passes(name) {
            rows.push(Row {
                place: Place::Point(name),
                pass,
                scene: scene(name),
            });
        }
        let commit = match name {
            "lease.taken" => (Commit::Lease, Pass::Before),
            "claim.committed" => (Commit::Claim, Pass::Wave(2)),
            "ack.committed" => (Commit::Ack, Pass::Wave(2)),
            _ => continue,
        };
        rows.push(Row {
            place: Place::Commit(commit.0),
            pass: commit.1,
            scene: Scene::Plain,
        });
    }
    rows
}

/// Whether it is passed by a run with schedules or sources only, or by a backfill: those are crossed
/// in `recurring`, `sources` and `backfill`.
pub(crate) fn is_of_others(name: &str) -> bool {
    let others = ["schedules.", "plan.", "sources.", "backfill."];
    others.iter().any(|other| name.starts_with(other))
}

fn scene(name: &str) -> Scene {
    match name.split('.').next() {
        Some("recover") => Scene::Recovery,
        Some("release") => Scene::Term,
        _ => Scene::Plain,
    }
}

fn passes(name: &str) -> Vec<Pass> {
    match name.split('.').next() {
        Some("claim" | "trace" | "wave" | "ack") => vec![Pass::Wave(1), Pass::Wave(2)],
        Some("fire" | "effect") => vec![Pass::Start(1), Pass::Start(2)],
        Some("attempt") => vec![Pass::End(1), Pass::End(2)],
        Some("release" | "end" | "prune" | "close") => vec![Pass::After],
        Some("lock") if name == "lock.drop" => vec![Pass::After],
        _ => vec![Pass::Before],
    }
}

/// How far the run has come where it is killed: what the oracle must see there, or the machine
/// stood still for so long that a run's own patience ended, and the cell is played again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Effects that have happened.
    pub(crate) effects: usize,
    /// Events in history.
    pub(crate) recorded: usize,
}

impl Row {
    /// The number of the pass for a column.
    pub(crate) fn nth(&self, column: &Column) -> usize {
        match self.pass {
            Pass::Before | Pass::After => 1,
            Pass::Wave(k) => k,
            Pass::Start(k) if matches!(column.kind, Kind::Batch | Kind::Sweep | Kind::Job) => k,
            Pass::Start(k) => 2 * k,
            Pass::End(k) => 2 * k - 1,
        }
    }

    /// The number of the pass of [`Row::point`]: of the passes of a sweep every second ends with
    /// records.
    pub(crate) fn nth_point(&self, column: &Column) -> usize {
        match (self.place, column.kind) {
            (Place::Commit(Commit::Ack), Kind::Sweep) => 2 * self.nth(column),
            _ => self.nth(column),
        }
    }

    /// The point that stands for it on this database: SQLite has no answer that could be lost.
    pub(crate) fn point(&self, column: &Column) -> &'static str {
        match self.place {
            Place::Point(name) => name,
            Place::Commit(Commit::Lease) => "lease.taken",
            Place::Commit(Commit::Claim) => "claim.committed",
            Place::Commit(Commit::Ack) if column.is_effect() => "wave.committed",
            Place::Commit(Commit::Ack) => "ack.committed",
        }
    }

    /// Whether a watchdog stands there, if the type starts processes.
    pub(crate) fn is_guarded(&self, column: &Column) -> bool {
        is_guarded(self.point(column))
    }

    /// What the oracle sees where the run is held.
    pub(crate) fn shape(&self, column: &Column) -> Shape {
        let wave = column.wave;
        let point = self.point(column);
        let shape = |effects: usize, recorded: usize| Shape { effects, recorded };
        match self.pass {
            Pass::Before if self.scene == Scene::Recovery => recovery_shape(point, column),
            Pass::Before => shape(0, 0),
            Pass::After if self.scene == Scene::Term => {
                let ended = if column.kind == Kind::Http { 1 } else { 2 };
                shape(ended, ended)
            }
            Pass::After => shape(EVENTS, EVENTS),
            _ if column.kind == Kind::Sweep => self.sweep_shape(column),
            Pass::Wave(k) => match point {
                "ack.committed" | "wave.committed" => shape(k * wave, k * wave),
                // Not committed: of the effects of this wave nothing is to be seen either.
                _ if matches!(column.kind, Kind::Sql | Kind::Job) => {
                    shape((k - 1) * wave, (k - 1) * wave)
                }
                "ack.history" | "ack.deleted" | "ack.commit" => shape(k * wave, (k - 1) * wave),
                _ => shape((k - 1) * wave, (k - 1) * wave),
            },
            Pass::Start(k) => {
                let recorded = (2 * k - 1) / wave * wave;
                let effects = match (column.kind, point) {
                    (Kind::Sql | Kind::Job | Kind::Sweep, _) => recorded,
                    (Kind::Batch, "fire.before") => 2 * k - 2,
                    (_, "fire.before") => 2 * k - 1,
                    _ => 2 * k,
                };
                shape(effects, recorded)
            }
            Pass::End(k) => {
                let ended = 2 * k - 1;
                let started = if column.kind == Kind::Http {
                    ended
                } else {
                    2 * k
                };
                shape(started, (ended - 1) / wave * wave)
            }
        }
    }
}

impl Row {
    /// Every event takes two passes: the effect comes with the first, its record with the second.
    fn sweep_shape(&self, column: &Column) -> Shape {
        let nth = self.nth_point(column);
        let passes = match self.point(column) {
            "wave.committed" => nth,
            // Only the second pass of an event records anything.
            "ack.history" | "ack.deleted" => 2 * nth - 1,
            _ => nth - 1,
        };
        Shape {
            effects: passes.div_ceil(2),
            recorded: passes / 2,
        }
    }
}

/// Whether a watchdog stands at this point of a run that starts processes.
pub(crate) fn is_guarded(point: &str) -> bool {
    let at = |wanted: &str| POINTS.iter().position(|&(name, _)| name == wanted);
    at(point) >= at("watchdog.armed") && point != "lock.drop"
}

impl Column {
    /// Whether its effects are had within the transaction that records them.
    fn is_effect(&self) -> bool {
        matches!(self.kind, Kind::Sql | Kind::Job | Kind::Sweep)
    }

    pub(crate) fn starts_processes(&self) -> bool {
        matches!(self.kind, Kind::Each | Kind::Batch)
    }
}

fn recovery_shape(point: &str, column: &Column) -> Shape {
    let effects = match column.kind {
        Kind::Sql | Kind::Job | Kind::Sweep => 0,
        Kind::Http => 1,
        Kind::Each | Kind::Batch => 2,
    };
    let is_settled = point != "recover.begin" && column.delivery == Delivery::AtMostOnce;
    let recorded = if is_settled { effects } else { 0 };
    Shape { effects, recorded }
}
