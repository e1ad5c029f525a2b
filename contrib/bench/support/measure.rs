//! How things are measured: whole processes by the clock, their peak memory, and two or more sides
//! in turn, so that a machine that slows down slows all of them.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::site::Site;

/// The release binary, as cargo built it for this program.
pub(crate) const PUNCTUAL: &str = env!("CARGO_BIN_EXE_punctual");

/// What several runs of one side came to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Self {
            median,
            least: values[0],
            most: values[values.len() - 1],
        }
    }

    /// The value that `percent` of all `values` do not exceed.
    pub(crate) fn percentile(values: &mut [f64], percent: f64) -> f64 {
        values.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index"
        )]
        let at = (values.len() as f64 * percent / 100.0).ceil() as usize;
        values[at.clamp(1, values.len()) - 1]
    }
}

/// Measures all `sides` in turn, `rounds` times, each second round in the opposite order.
pub(crate) fn interleaved<const N: usize>(
    rounds: usize,
    sides: &mut [&mut dyn FnMut() -> f64; N],
) -> [Spread; N] {
    let mut values: [Vec<f64>; N] = std::array::from_fn(|_| Vec::with_capacity(rounds));
    for round in 0..rounds {
        for turn in 0..N {
            let at = if round % 2 == 0 { turn } else { N - 1 - turn };
            values[at].push(sides[at]());
        }
    }
    values.map(Spread::of)
}

/// Seconds that `work` takes.
pub(crate) fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

/// Seconds that a process takes from before its start until it has been waited for. It must end
/// well, and what it prints is of no interest.
pub(crate) fn seconds_of(mut command: Command) -> f64 {
    command.stdin(Stdio::null());
    finish(command)
}

/// The same with whatever stdin it has.
pub(crate) fn finish(mut command: Command) -> f64 {
    command.stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status();
    let took = began.elapsed().as_secs_f64();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
    took
}

/// Peak resident memory of `program` in MiB, as the kernel counted it (`ru_maxrss`).
///
/// GNU time asks: the kernel counts from the memory of whoever starts a process, and GNU time is
/// small, while this program is not.
pub(crate) fn peak_mib(site: &Site, program: &str, arguments: &[&str]) -> f64 {
    peak_mib_reading(site, None, program, arguments)
}

/// The same with a file of the site as its stdin.
pub(crate) fn peak_mib_reading(
    site: &Site,
    stdin: Option<&str>,
    program: &str,
    arguments: &[&str],
) -> f64 {
    let note = site.path("peak");
    let mut command = site.command("time");
    command.args(["--format=%M", "--output"]).arg(&note);
    command.arg(program).args(arguments);
    command.stdin(match stdin {
        Some(name) => Stdio::from(File::open(site.path(name)).expect("a file of the site")),
        None => Stdio::null(),
    });
    finish(command);
    let text = std::fs::read_to_string(&note).expect("GNU time writes what it found");
    let kib: f64 = text.trim().parse().expect("a number of KiB");
    kib / 1024.0
}

/// `punctual` with these arguments in the site's directory.
pub(crate) fn punctual(site: &Site, arguments: &[&str]) -> Command {
    let mut command = site.command(PUNCTUAL);
    command.args(arguments);
    command
}

/// A program of contrib/bench/programs, built with the product's profile beside it.
pub(crate) fn program(name: &str) -> String {
    let path = std::path::Path::new(PUNCTUAL)
        .with_file_name("examples")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build --release --locked --examples, or contrib/bench/run",
        path.display()
    );
    path.display().to_string()
}

/// The one number that a query answers.
pub(crate) fn number_of(db: &mut mysql::Conn, query: &str) -> f64 {
    let answer = mysql::prelude::Queryable::query_first(db, query);
    let answer: Option<i64> = answer.unwrap_or_else(|error| panic!("{query}: {error}"));
    answer.unwrap_or_else(|| panic!("{query}: nothing")) as f64
}
