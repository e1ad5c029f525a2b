//! What a site's own INSERTs notice of a run that drains at full speed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable as _;

use crate::support::measure::{Spread, punctual, seconds_of};
use crate::support::place::{FUTURE, Kind, PAST, Place, SQL};
use crate::support::row::{Reach, Row, Unit};
use crate::support::site::Site;
use crate::{Scale, Subject};

pub(crate) const SUBJECT: Subject = Subject {
    name: "neighbours",
    title: "A site's own INSERTs meanwhile",
    about: "Time of single INSERTs into `scheduled_events`, each its own durable transaction, a \
            millisecond apart, while `punctual` drains the same table at full speed; beside the \
            same INSERTs while the very same drain goes on in another database of the same server: \
            the same load on processor, log and disk, but no lock that the site could meet. Row \
            lock waits by the server's own counters.",
    measure,
};

const INSERT: &str = "INSERT INTO scheduled_events (type, due_at, payload) VALUES ('later', ?, ?)";

fn measure(scale: &Scale) -> Vec<Row> {
    let count = scale.of(50_000, 5_000);
    let place = Place::new(Kind::Mariadb, SQL);
    let other = place.neighbour(SQL);
    let status = |name| place.server().status_var(name) as f64;
    let (mut beside, mut apart) = (Vec::new(), Vec::new());
    let mut waits = 0.0;
    for _ in 0..scale.rounds {
        place.events("sql", count, PAST, 0);
        let before = status("Innodb_row_lock_waits");
        beside.extend(inserts_during(&place.site, &place.site));
        waits += status("Innodb_row_lock_waits") - before;
        fill(&other, count);
        apart.extend(inserts_during(&place.site, &other));
        place.forget();
        for table in ["scheduled_events", "event_history", "effects"] {
            other.sql(&format!("TRUNCATE TABLE {table}"));
        }
    }
    let longest = status("Innodb_row_lock_time_max");

    let inserts = beside.len();
    let mut found = Vec::new();
    let mut row = |key: &str, what: String, unit, figure: f64| {
        let figure = Spread::of(vec![figure]);
        found.push(Row::new(key, Some(Kind::Mariadb), what, unit, figure));
        found.len() - 1
    };
    let mut limits = Vec::new();
    for (key, percent) in [("p50", 50.0), ("p99", 99.0), ("max", 100.0)] {
        let what = format!("{key} of {inserts} INSERTs");
        let figure = Spread::percentile(&mut beside, percent);
        let at = row(
            &format!("neighbours-{key}"),
            what,
            Unit::Milliseconds,
            figure,
        );
        limits.push((at, Spread::percentile(&mut apart, percent)));
    }
    let what = format!("row lock waits during these {inserts} INSERTs");
    row("neighbours-waits", what, Unit::Count, waits);
    let what = "longest row lock wait".to_owned();
    let at = row("neighbours-longest", what, Unit::Milliseconds, longest);
    found[at].reach = Some(Reach::AtMost(50.0));
    for (at, limit) in limits {
        found[at].limit = Some(Spread::of(vec![limit]));
    }
    found
}

fn fill(site: &Site, count: u64) {
    site.sql(&format!(
        "INSERT INTO scheduled_events (type, due_at, payload) \
         SELECT 'sql', {PAST} + seq DIV 100, CONCAT('{{\"user\":', seq, '}}') FROM seq_1_to_{count}"
    ));
}

/// Milliseconds that each INSERT of `site` took while `punctual` drained `drained`.
fn inserts_during(site: &Site, drained: &Site) -> Vec<f64> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let inserts = scope.spawn(|| {
            let mut db = site.mariadb_database().expect("MariaDB").connect();
            let insert = db.prep(INSERT).expect("a statement");
            let mut took = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                db.exec_drop(&insert, (FUTURE, "{\"user\":1}"))
                    .expect("no lock timeout");
                took.push(began.elapsed().as_secs_f64() * 1e3);
                thread::sleep(Duration::from_millis(1));
            }
            took
        });
        thread::sleep(Duration::from_millis(50)); // connected and under way
        seconds_of(punctual(drained, &["run", "--max-time", "10m"]));
        over.store(true, Ordering::Relaxed);
        inserts.join().expect("the site's own INSERTs")
    })
}
