//! Many events at once by `punctual import`.

use std::fmt::Write as _;
use std::fs::{self, File};

use crate::support::limit;
use crate::support::measure::{
    PUNCTUAL, Spread, finish, interleaved, peak_mib_reading, punctual, seconds,
};
use crate::support::place::{ALL, Place};
use crate::support::row::{Reach, Row, Unit};
use crate::{Scale, Subject};

pub(crate) const SUBJECT: Subject = Subject {
    name: "import",
    title: "Import",
    about: "Events a second of `punctual import` from a file of JSON lines, beside the *insert \
            limit*: prepared INSERTs of 500 rows each in one transaction. Memory: of the same \
            import, beside that of a tenth of it.",
    measure,
};

const LINES: &str = "lines";

fn measure(scale: &Scale) -> Vec<Row> {
    let count = scale.of(200_000, 5_000);
    let mut found = Vec::new();
    for kind in ALL {
        let place = Place::new(kind, "");
        let write = |count| fs::write(place.site.path(LINES), lines(count)).expect("room");
        write(count);
        let rate = |seconds: f64| {
            let rows = place
                .site
                .query_i64("SELECT COUNT(*) FROM scheduled_events");
            assert_eq!(rows.cast_unsigned(), count);
            place.forget();
            place.at_rest();
            count as f64 / seconds
        };
        let [events, limit] = interleaved(
            scale.rounds,
            &mut [&mut || rate(import(&place)), &mut || {
                rate(seconds(|| limit::insert(&place, "mail", count)))
            }],
        );
        let peak = |count| {
            write(count);
            let peaks = (0..scale.rounds).map(|_| {
                place.forget();
                peak_mib_reading(&place.site, Some(LINES), PUNCTUAL, &["import", "--quiet"])
            });
            Spread::of(peaks.collect())
        };
        let (few, many) = (peak(count / 10), peak(count));
        found.push(
            Row::new(
                "import-rate",
                Some(kind),
                format!("{count} lines"),
                Unit::PerSecond,
                events,
            )
            .beside("", limit)
            .reach(Reach::AtLeast(0.6)),
        );
        let what = format!("peak memory, {count} lines beside {}", count / 10);
        found.push(
            Row::new("import-memory", Some(kind), what, Unit::Mebibytes, many)
                .beside("", few)
                .reach(Reach::AtMost(1.1)),
        );
    }
    found
}

fn lines(count: u64) -> String {
    let mut text = String::new();
    for number in 0..count {
        let (due_at, payload) = limit::event(number);
        let line = format!("{{\"type\":\"mail\",\"due_at\":{due_at},\"payload\":{payload}}}");
        writeln!(text, "{line}").expect("memory");
    }
    text
}

fn import(place: &Place) -> f64 {
    let mut command = punctual(&place.site, &["import", "--quiet"]);
    command.stdin(File::open(place.site.path(LINES)).expect("written"));
    finish(command)
}
