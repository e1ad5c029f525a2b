//! What a due event costs among few and among many others.

use crate::support::measure::interleaved;
use crate::support::place::{ALL, FUTURE, PAST, Place, SQL};
use crate::support::row::{Reach, Row, Unit};
use crate::{Scale, Subject, variable};

pub(crate) const SUBJECT: Subject = Subject {
    name: "growth",
    title: "A due event among many others",
    about: "Time an event of a drain of type `sql` among many future and finished rows (the \
            figure), beside the same among ten thousand of each (the limit).",
    measure,
};

const FEW: u64 = 10_000;

fn measure(scale: &Scale) -> Vec<Row> {
    let due = scale.of(20_000, 2_000);
    let future = variable("BENCH_FUTURE").unwrap_or(scale.of(10_000_000, 50_000));
    let finished = future.div_ceil(10);
    let mut found = Vec::new();
    for kind in ALL {
        let place = |future, finished| {
            let place = Place::new(kind, SQL);
            place.filled(|place| {
                place.events("sql", future, FUTURE, 0);
                place.history(finished);
            });
            place
        };
        let (few, many) = (place(FEW, FEW), place(future, finished));
        let cost = |place: &Place| {
            place.events("sql", due, PAST, 0);
            place.at_rest();
            place.drain(due) / due as f64 * 1e6
        };
        let [among_many, among_few] =
            interleaved(scale.rounds, &mut [&mut || cost(&many), &mut || cost(&few)]);
        let what = format!("an event among {future} future and {finished} finished rows");
        found.push(
            Row::new("growth", Some(kind), what, Unit::Microseconds, among_many)
                .beside("", among_few)
                .reach(Reach::AtMost(1.2)),
        );
    }
    found
}
