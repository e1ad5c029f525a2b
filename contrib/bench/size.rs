//! How large the program is.

use std::fs;
use std::path::Path;

use crate::support::measure::{PUNCTUAL, Spread};
use crate::support::row::{Reach, Row, Unit};
use crate::{Scale, Subject};

pub(crate) const SUBJECT: Subject = Subject {
    name: "size",
    title: "Size of the program",
    about: "The release binary that all of the above was measured with; and, where \
            `contrib/build-static` has built it, the static one.",
    measure,
};

fn measure(_: &Scale) -> Vec<Row> {
    let release = Path::new(PUNCTUAL);
    let target = release.ancestors().nth(2).expect("target/release/punctual");
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let fixed = target.join(triple).join("static/punctual");
    let row = |key, what: &str, path: &Path| {
        let bytes = fs::metadata(path).ok()?.len();
        let size = Spread::of(vec![bytes as f64 / f64::from(1 << 20)]);
        Some(Row::new(key, None, what.to_owned(), Unit::Mebibytes, size))
    };
    let dynamic = row("size-release", "release binary, stripped", release);
    let fixed = row("size-static", "static binary, stripped", &fixed)
        .map(|row| row.reach(Reach::AtMost(8.0)));
    [dynamic, fixed].into_iter().flatten().collect()
}
