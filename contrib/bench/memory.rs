//! What a run needs of memory, however much there is to do.

use crate::support::measure::{PUNCTUAL, Spread, peak_mib, program};
use crate::support::place::{Kind, PAST, Place};
use crate::support::row::{Reach, Row, Unit};
use crate::{Scale, Subject};

pub(crate) const SUBJECT: Subject = Subject {
    name: "memory",
    title: "Memory of a drain",
    about: "Peak resident memory of `punctual run` (`ru_maxrss`, the program's own pages \
            included), one run each. Flat: beside that of ten thousand events.",
    measure,
};

/// As DESIGN §2 promises: constant; and as the issue asks, this much.
const CEILING: Reach = Reach::AtMost(24.0);

fn measure(scale: &Scale) -> Vec<Row> {
    let (many, few) = (scale.of(1_000_000, 20_000), 10_000);
    let large = scale.of(2_000, 20);
    let types = format!(
        "[type.sql]\nhandler = \"sql\"\n\
         sql = \"INSERT INTO effects (event_id, fired_at) VALUES (:id, LENGTH(:payload))\"\n\
         [type.batch]\nhandler = \"command\"\nmode = \"batch\"\ncommand = [\"{}\"]\n",
        program("answer"),
    );
    let mut found = Vec::new();
    for kind in [Kind::Wal, Kind::Mariadb] {
        for type_name in ["sql", "batch"] {
            let peak = |count, bytes| {
                // A new place each time: what was deleted before is of no interest here.
                let place = Place::new(kind, &types);
                place.filled(|place| place.events(type_name, count, PAST, bytes));
                let peak = peak_mib(&place.site, PUNCTUAL, &["run", "--max-time", "2h"]);
                place.must_have_done(0, count);
                Spread::of(vec![peak])
            };
            let of_few = peak(few, 200);
            let of_many = peak(many, 200);
            let what = format!("`{type_name}`, {many} events of 200 bytes");
            let key = format!("memory-{type_name}");
            let row =
                |key: &str, what, figure| Row::new(key, Some(kind), what, Unit::Mebibytes, figure);
            found.push(row(&format!("{key}-many"), what.clone(), of_many).reach(CEILING));
            let what = format!("{what}, beside {few}");
            let flat = row(&format!("{key}-flat"), what, of_many);
            found.push(flat.beside("", of_few).reach(Reach::AtMost(1.1)));
            let what = format!("`{type_name}`, {large} events of 1 MiB");
            found.push(row(&format!("{key}-large"), what, peak(large, 1 << 20)).reach(CEILING));
        }
    }
    found
}
