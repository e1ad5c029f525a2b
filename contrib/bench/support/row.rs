//! A figure beside its limit, and the file it is kept in until the report is written.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::machine;
use super::measure::Spread;
use super::place::Kind;
use crate::Scale;

/// One row of the report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Names the row in `contrib/bench/reasons`.
    pub(crate) key: String,
    /// What was done, with its size.
    pub(crate) what: String,
    /// On which database; empty where there is none.
    pub(crate) place: String,
    /// What `punctual` came to.
    pub(crate) figure: Spread,
    pub(crate) unit: Unit,
    /// What it is held against, in the same unit, measured in turn with it.
    pub(crate) limit: Option<Spread>,
    /// What the limit is, where the subject has several.
    pub(crate) against: String,
    /// What the issue asks for.
    pub(crate) reach: Option<Reach>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Unit {
    /// Events, requests or processes a second.
    PerSecond,
    Milliseconds,
    Microseconds,
    Mebibytes,
    Count,
}

/// A bound for the ratio to the limit, or for the figure itself where there is no limit.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Reach {
    AtLeast(f64),
    AtMost(f64),
}

/// All that one subject found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) subject: String,
    /// How many rounds, as medians are of.
    pub(crate) rounds: usize,
    /// Load averages before and after.
    pub(crate) load: [String; 2],
    pub(crate) rows: Vec<Row>,
}

impl Row {
    /// A row of a database without a limit or a bound so far.
    pub(crate) fn new(
        key: &str,
        kind: Option<Kind>,
        what: String,
        unit: Unit,
        figure: Spread,
    ) -> Self {
        Self {
            key: kind.map_or_else(|| key.to_owned(), |kind| format!("{key}-{}", kind.key())),
            what,
            place: kind.map_or("", Kind::name).to_owned(),
            figure,
            unit,
            limit: None,
            against: String::new(),
            reach: None,
        }
    }

    /// Held against `limit`, which is called `against`.
    pub(crate) fn beside(mut self, against: &str, limit: Spread) -> Self {
        against.clone_into(&mut self.against);
        self.limit = Some(limit);
        self
    }

    pub(crate) fn reach(mut self, reach: Reach) -> Self {
        self.reach = Some(reach);
        self
    }

    /// Figure by limit, by their medians.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.limit.map(|limit| self.figure.median / limit.median)
    }

    /// Whether the bound is kept; `None` where there is none.
    pub(crate) fn is_reached(&self) -> Option<bool> {
        let judged = self.ratio().unwrap_or(self.figure.median);
        self.reach.map(|reach| match reach {
            Reach::AtLeast(bound) => judged >= bound,
            Reach::AtMost(bound) => judged <= bound,
        })
    }
}

impl Findings {
    /// Lets `measure` find rows, and writes them down.
    pub(crate) fn take(subject: &str, scale: &Scale, measure: fn(&Scale) -> Vec<Row>) {
        eprintln!("{subject}: measuring");
        let before = machine::load();
        let rows = measure(scale);
        for row in &rows {
            eprintln!("{}", super::report::plain(row));
        }
        let findings = Self {
            subject: subject.to_owned(),
            rounds: scale.rounds,
            load: [before, machine::load()],
            rows,
        };
        let path = file(&scale.directory(), subject);
        let text = serde_json::to_string_pretty(&findings).expect("plain data");
        fs::write(&path, text + "\n").unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// What was written down last; `None` where the subject was not measured.
    pub(crate) fn read(directory: &Path, subject: &str) -> Option<Self> {
        let path = file(directory, subject);
        let text = fs::read_to_string(&path).ok()?;
        let findings = serde_json::from_str(&text);
        Some(findings.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }
}

fn file(directory: &Path, subject: &str) -> PathBuf {
    directory.join(format!("{subject}.json"))
}
