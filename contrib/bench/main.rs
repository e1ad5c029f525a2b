//! What `punctual` costs, beside the least that could do the same on the same machine.
//!
//! `contrib/bench/run` builds this program and calls it; by hand, after `cargo build --release
//! --examples`:
//!
//! ```text
//! cargo bench --bench figures -- [--quick] [SUBJECT…]      measure, keep the figures
//! cargo bench --bench figures -- [--quick] report [NOTE]   render them into RESULTS.md
//! ```
//!
//! What was found is kept under `target/bench`, a file a subject, so that a subject may be measured
//! again alone. Rounds other than five: `BENCH_ROUNDS`. Sizes of `growth` other than ten million:
//! `BENCH_FUTURE`.

#![expect(
    clippy::disallowed_methods,
    reason = "benches start processes and read clocks; nothing of the product is in here"
)]
#![expect(clippy::cast_precision_loss, reason = "no count here comes near 2^52")]

use std::fs;
use std::path::{Path, PathBuf};

use support::row::{Findings, Row};

mod drain;
mod growth;
mod http;
mod import;
mod memory;
mod neighbours;
mod size;
mod spawn;
mod support;
mod tick;

/// A table of the report.
struct Subject {
    /// As on the command line.
    name: &'static str,
    title: &'static str,
    /// What is done, and what the limit is.
    about: &'static str,
    measure: fn(&Scale) -> Vec<Row>,
}

const SUBJECTS: [Subject; 9] = [
    tick::SUBJECT,
    drain::SUBJECT,
    spawn::SUBJECT,
    http::SUBJECT,
    import::SUBJECT,
    growth::SUBJECT,
    memory::SUBJECT,
    neighbours::SUBJECT,
    size::SUBJECT,
];

/// How much is measured.
struct Scale {
    quick: bool,
    rounds: usize,
}

impl Scale {
    /// A size: `full`, or `quick` where it only has to be seen to work.
    fn of(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// Where findings are kept.
    fn directory(&self) -> PathBuf {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
        let directory = if self.quick {
            target.join("quick")
        } else {
            target
        };
        fs::create_dir_all(&directory).expect("a directory beside the build's");
        directory
    }

    fn report(&self) -> PathBuf {
        if self.quick {
            return self.directory().join("RESULTS.md");
        }
        Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/bench/RESULTS.md")
    }
}

fn main() {
    // cargo adds --bench.
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    arguments.retain(|argument| argument != "--bench");
    let quick = arguments.iter().any(|argument| argument == "--quick");
    arguments.retain(|argument| argument != "--quick");
    let rounds = variable("BENCH_ROUNDS").unwrap_or(if quick { 1 } else { 5 });
    let scale = Scale {
        quick,
        rounds: usize::try_from(rounds).expect("a small number"),
    };
    if arguments
        .first()
        .is_some_and(|argument| argument == "report")
    {
        support::report::write(&scale, &arguments[1..].join(" "));
        return;
    }
    for name in &arguments {
        let known = SUBJECTS.iter().any(|subject| subject.name == name);
        let names = SUBJECTS.map(|subject| subject.name).join(", ");
        assert!(known, "no subject {name}: there are {names}, and report");
    }
    for subject in &SUBJECTS {
        if arguments.is_empty() || arguments.iter().any(|name| name == subject.name) {
            Findings::take(subject.name, &scale, subject.measure);
        }
    }
}

/// A number from the environment.
fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|error| panic!("{name}: {error}")),
    )
}
