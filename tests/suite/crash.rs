//! The crash matrix: a run is killed at every boundary it passes, on both databases, with every
//! handler and delivery, alone and together with its watchdog; the ticks after it must keep the
//! promises, and `contrib/crash-matrix.md` says what was seen.

mod bench;
mod cell;
mod judge;
mod page;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use punctual::fault::POINTS;

use crate::support::mariadb::Server;
use bench::{Bench, Database};
use cell::{Played, Victims, play};
use page::Line;
use plan::{COLUMNS, Column, Place, Row, is_of_others, rows};

/// How often a cell is played anew because the machine stood still in between.
const PATIENCE: usize = 10;
/// Benches a database; most of the time a cell waits for processes and disks.
const BENCHES: usize = 2;

/// Database, row, column.
type At = (usize, usize, usize);
/// What was seen there, of the run killed alone and with its watchdog.
type Seen = BTreeMap<At, Vec<String>>;

#[test]
fn no_crash_breaks_a_promise_and_the_matrix_says_what_comes_of_each() {
    let rows = rows();
    let played = Mutex::new(BTreeMap::new());
    let next: [AtomicUsize; Database::ALL.len()] = Default::default();
    // Runs are killed, the server is not: its commits need not wait for the disk.
    let server = Server::private(&["--innodb-flush-log-at-trx-commit=0"]);
    std::thread::scope(|scope| {
        for at in 0..Database::ALL.len() * BENCHES {
            let (rows, played, server) = (&rows, &played, &server);
            let index = at % Database::ALL.len();
            let next = &next[index];
            scope.spawn(move || {
                let bench = Bench::new(Database::ALL[index], server);
                while let Some((row, column)) = take(next, rows) {
                    let _named = Named(index, &rows[row], &COLUMNS[column]);
                    let cells = play_both(&bench, &rows[row], &COLUMNS[column]);
                    let mut played = played.lock().expect("no panic while it is held");
                    played.insert((index, row, column), cells);
                }
                bench.nothing_runs();
            });
        }
    });
    let played = played.into_inner().expect("no panic while it is held");
    let seen = all_kept(&rows, played);
    every_point_is_passed(&rows, &seen);
    page::compare(&page_of(&rows, &seen));
}

/// Names the cell in which a test panicked.
struct Named<'n>(usize, &'n Row, &'n Column);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let database = Database::ALL[self.0].name();
            eprintln!(
                "in the cell {:?}, {} on {database}",
                self.1, self.2.type_name
            );
        }
    }
}

/// What was seen, where every promise was kept.
fn all_kept(rows: &[Row], played: BTreeMap<At, Result<Vec<String>, String>>) -> Seen {
    let mut broken = Vec::new();
    let mut seen = Seen::new();
    for ((index, row, column), cells) in played {
        match cells {
            Ok(cells) => drop(seen.insert((index, row, column), cells)),
            Err(what) => {
                let (database, row) = (Database::ALL[index], rows[row]);
                let name = COLUMNS[column].type_name;
                broken.push(format!("{database:?}, {name}, {row:?}: {what}"));
            }
        }
    }
    assert!(broken.is_empty(), "promises broken:\n{}", broken.join("\n"));
    seen
}

fn take(next: &AtomicUsize, rows: &[Row]) -> Option<(usize, usize)> {
    let cell = next.fetch_add(1, Ordering::Relaxed);
    let (row, column) = (cell / COLUMNS.len(), cell % COLUMNS.len());
    (row < rows.len()).then_some((row, column))
}

/// Plays a cell with the run killed alone, and, where a watchdog stands, with both killed.
fn play_both(bench: &Bench, row: &Row, column: &Column) -> Result<Vec<String>, String> {
    let alone = play_on(bench, row, column, Victims::Run)?;
    let mut cells = vec![alone.clone().unwrap_or_else(|| "–".to_owned())];
    if column.starts_processes() {
        cells.push(match alone {
            None => "–".to_owned(),
            Some(_) if !row.is_guarded(column) => "=".to_owned(),
            Some(_) => play_on(bench, row, column, Victims::RunAndWatchdog)?
                .ok_or("passed once and not again")?,
        });
    }
    Ok(cells)
}

/// Plays a cell until it is the one that was meant. `None`: the run does not come to the place.
fn play_on(
    bench: &Bench,
    row: &Row,
    column: &Column,
    victims: Victims,
) -> Result<Option<String>, String> {
    let mut missed = Vec::new();
    while missed.len() < PATIENCE {
        match play(bench, row, column, victims).map_err(|what| format!("{victims:?}: {what}"))? {
            Played::Seen(text) => return Ok(Some(text)),
            Played::NotPassed => return Ok(None),
            Played::Missed(shape) => missed.push(shape),
        }
    }
    let wanted = row.shape(column);
    Err(format!(
        "{victims:?}: killed with {missed:?} instead of {wanted:?}"
    ))
}

fn every_point_is_passed(rows: &[Row], seen: &Seen) {
    for (index, database) in Database::ALL.into_iter().enumerate() {
        for (name, _) in POINTS.iter().filter(|(name, _)| !is_of_others(name)) {
            let is_passed = seen.iter().any(|(&(of, row, _), cells)| {
                of == index && rows[row].place == Place::Point(name) && cells[0] != "–"
            });
            assert!(is_passed, "{name} is never passed on {database:?}");
        }
    }
}

fn page_of(rows: &[Row], seen: &Seen) -> String {
    let lines = |index| {
        let line = |(at, row): (usize, &Row)| Line {
            row: *row,
            cells: (0..COLUMNS.len())
                .flat_map(|column| seen[&(index, at, column)].clone())
                .collect(),
        };
        rows.iter().enumerate().map(line).collect()
    };
    let tables = Database::ALL.into_iter().enumerate();
    let tables: Vec<_> = tables
        .map(|(index, database)| (database, lines(index)))
        .collect();
    page::page(&tables)
}

#[test]
fn the_source_passes_every_point_that_is_listed_and_no_other() {
    let mut passed = BTreeSet::new();
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory of the source tree");
            left.extend(entries.map(|entry| entry.expect("a readable entry").path()));
        } else {
            let text = fs::read_to_string(&path).expect("a source file");
            let calls = text.lines().map(str::trim);
            let calls =
                calls.filter_map(|line| line.strip_prefix("point(\"")?.strip_suffix("\");"));
            passed.extend(calls.map(str::to_owned));
        }
    }
    let listed: BTreeSet<String> = POINTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(listed.len(), POINTS.len(), "a name stands twice");
    assert_eq!(passed, listed);
}
