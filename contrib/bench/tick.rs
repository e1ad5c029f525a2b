//! The tick that finds nothing to do, 1,440 times a day.

use std::process::Command;

use crate::support::measure::{
    PUNCTUAL, Spread, interleaved, peak_mib, program, punctual, seconds_of,
};
use crate::support::place::{ALL, FUTURE, Kind, Place, SQL};
use crate::support::row::{Reach, Row, Unit};
use crate::{Scale, Subject};

pub(crate) const SUBJECT: Subject = Subject {
    name: "tick",
    title: "An idle tick",
    about: "`punctual run` as a whole process with nothing due, beside the *open limit*: a minimal \
            Rust program (`contrib/bench/programs/open_*.rs`: same crates, same profile) that \
            opens the database, makes one indexed SELECT, and ends. Each run of both is one \
            process, timed from before its start until it was waited for. Write transactions are \
            counted by the database (`PRAGMA data_version`; InnoDB's `trx_rw_commits`) over all \
            ticks after the first, which leaves its stamp.",
    measure,
};

fn measure(scale: &Scale) -> Vec<Row> {
    let (rows, ticks) = (scale.of(1_000_000, 10_000), scale.of(200, 5));
    let mut found = Vec::new();
    for kind in ALL {
        let place = Place::new(kind, SQL); // any type will do; nothing of it is due
        place.filled(|place| {
            place.events("sql", rows, FUTURE, 0);
            place.history(rows);
        });
        let tick = || punctual(&place.site, &["run"]);
        seconds_of(tick()); // leaves the stamp

        let writes = writes_of(&place, || {
            for _ in 0..ticks {
                seconds_of(tick());
            }
        });
        let rounds = usize::try_from(ticks).expect("few") * scale.rounds;
        let [took, limit] = interleaved(
            rounds,
            &mut [&mut || seconds_of(tick()) * 1e3, &mut || {
                seconds_of(open(&place)) * 1e3
            }],
        );
        let peaks = (0..scale.rounds).map(|_| peak_mib(&place.site, PUNCTUAL, &["run"]));
        let peaks = Spread::of(peaks.collect());

        let what = format!("a tick, {rows} future and {rows} finished rows, {rounds} runs");
        let bound = if kind == Kind::Mariadb { 2.0 } else { 1.5 };
        found.push(
            Row::new("tick-time", Some(kind), what, Unit::Milliseconds, took)
                .beside("", limit)
                .reach(Reach::AtMost(bound)),
        );
        let what = "peak memory of a tick".to_owned();
        found.push(
            Row::new("tick-memory", Some(kind), what, Unit::Mebibytes, peaks)
                .reach(Reach::AtMost(12.0)),
        );
        let what = format!("write transactions of {ticks} ticks");
        let writes = Spread::of(vec![writes]);
        found.push(
            Row::new("tick-writes", Some(kind), what, Unit::Count, writes)
                .reach(Reach::AtMost(0.0)),
        );
    }
    found
}

fn open(place: &Place) -> Command {
    let Some(database) = place.site.mariadb_database() else {
        let mut command = place.site.command(program("open_sqlite"));
        command.arg(place.file());
        return command;
    };
    let mut command = place.site.command(program("open_mariadb"));
    command.arg(&database.socket);
    command.args([&database.user, &database.password, &database.name]);
    command
}

/// Write transactions that were committed while `work` lasted.
fn writes_of(place: &Place, work: impl FnOnce()) -> f64 {
    if place.kind == Kind::Mariadb {
        let commits = "SELECT COUNT FROM information_schema.INNODB_METRICS \
                       WHERE NAME = 'trx_rw_commits'";
        let count = || crate::support::measure::number_of(&mut place.server().admin(), commits);
        let on = "SET GLOBAL innodb_monitor_enable = 'trx_rw_commits'";
        mysql::prelude::Queryable::query_drop(&mut place.server().admin(), on).expect("a counter");
        let before = count();
        work();
        return count() - before;
    }
    // Changes with each commit of another connection; and this one sees them in both journal modes.
    let db = rusqlite::Connection::open(place.file()).expect("a file of ours");
    let version = || -> f64 {
        db.query_row("PRAGMA data_version", [], |row| row.get(0))
            .expect("a number")
    };
    let before = version();
    work();
    version() - before
}
