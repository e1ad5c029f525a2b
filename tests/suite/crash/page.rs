//! `contrib/crash-matrix.md`: made from what was seen, compared with what is checked in.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use punctual::fault::POINTS;

use super::bench::Database;
use super::plan::{Commit, Pass, Place, Row};

const HEAD: &str = "\
# Crash matrix

What becomes of four events when the run that deals with them is killed (`kill -9`) at each boundary
it passes, seen by an outsider: the handlers note what they do, the tests read the tables by plain
SQL. Made by a test, which fails when a promise is broken, and also when this page does not say what
it saw. To make it anew:

```
UPDATE_CRASH_MATRIX=1 contrib/test crash::no_crash
```

Each cell is one play: four events of one type are due, the run is killed at the point, and ticks
follow until nothing is left to do. Waves have two events (`http` at most once: one); two processes
run at a time, one batch process, one request. A sweep takes two passes an event, each a wave: the
first has the effect, the second finds nothing more to do and records it. A cell tells the end of the events 1 to 4: the number
is how often the event had its effect, and it is `done` unless marked.

| mark | meaning |
| --- | --- |
| `1` | one effect, `done` |
| `2*` | two effects, `done`, one loss: a run died with it in hand, its effect not yet recorded |
| `1*` | one effect, `done`, one loss: a run died with it in hand, before its effect |
| `1?` `0?` | `unknown`: the run died with it in hand, and it may not be tried twice |
| `=` | no watchdog stands there: as when the run alone is killed |
| `–` | this handler does not pass the point; the run ended by itself, all four `done` |

Exactly once must show `1` everywhere, with a loss or without. At least once never `0`, and `2` only
where the run died between the effect and its record. At most once never `2`. *run* is killed alone,
and its watchdog ends the processes it had started before it lets the lock go; or both are killed
(*both*), and those processes live on beside the next run. In the rows `recover.…` an earlier run was
killed with events in hand (`sql` and `mediawiki-job`: two runs, so that the second had one event in hand). In the rows
`release.…` the run has claimed all four events and gets TERM while the first are under way.
";

/// Cells of a row, in the order of the columns of the page.
pub(crate) struct Line {
    pub(crate) row: Row,
    pub(crate) cells: Vec<String>,
}

/// The whole page.
pub(crate) fn page(tables: &[(Database, Vec<Line>)]) -> String {
    let mut page = HEAD.to_owned();
    for (database, lines) in tables {
        write!(page, "\n## {}\n\n", database.name()).expect("a String takes all");
        page.push_str(
            "| point | where | when | `sql`, exactly once | `mediawiki-job`, exactly once | `sql` sweep, exactly once | `command`, at least once: run | both \
             | `command`, at most once: run | both | `command` batch, at least once: run | both \
             | `http`, at least once | `http`, at most once |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for line in lines {
            let (name, place) = place(line.row.place, *database);
            let cells = line.cells.join(" | ");
            let when = when(line.row.pass);
            writeln!(page, "| {name} | {place} | {when} | {cells} |").expect("a String takes all");
        }
    }
    page
}

fn place(place: Place, database: Database) -> (String, String) {
    let commit = match place {
        Place::Point(name) => {
            let known = POINTS.iter().find(|(known, _)| *known == name);
            return (
                format!("`{name}`"),
                known.map_or("", |known| known.1).to_owned(),
            );
        }
        Place::Commit(Commit::Lease) => "the lease",
        Place::Commit(Commit::Claim) => "a claim",
        Place::Commit(Commit::Ack) => "acks, or of a wave of effects",
    };
    let place = match database {
        Database::Mariadb => "the server has committed, its answer does not arrive",
        Database::Sqlite => "it has returned, nothing more is done",
    };
    (format!("COMMIT of {commit}"), place.to_owned())
}

fn when(pass: Pass) -> &'static str {
    match pass {
        Pass::Before => "before the first wave",
        Pass::Wave(1) => "first wave",
        Pass::Wave(_) => "second wave",
        Pass::Start(1) => "last start of the first wave",
        Pass::Start(_) => "last start of the second wave",
        Pass::End(1) => "first end of the first wave",
        Pass::End(_) => "first end of the second wave",
        Pass::After => "at the end",
    }
}

/// Compares `page` with what is checked in, or writes it where that is wanted.
#[track_caller]
pub(crate) fn compare(page: &str) {
    let path = path();
    if std::env::var_os("UPDATE_CRASH_MATRIX").is_some() {
        fs::write(&path, page).expect("a source tree that can be written");
        return;
    }
    let known = fs::read_to_string(&path).unwrap_or_default();
    let lines_not_in = |of: &str, other: &str| -> String {
        let known: Vec<&str> = other.lines().collect();
        let lines = of.split_inclusive('\n');
        lines
            .filter(|line| !known.contains(&line.trim_end()))
            .collect()
    };
    assert!(
        page == known,
        "contrib/crash-matrix.md is not what was seen (UPDATE_CRASH_MATRIX=1 writes it):\n\
         seen:\n{}known:\n{}",
        lines_not_in(page, &known),
        lines_not_in(&known, page),
    );
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/crash-matrix.md")
}
