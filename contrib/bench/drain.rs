//! A backlog: how fast it goes, beside what the database allows.

use crate::support::limit::{self, Fire};
use crate::support::measure::{Spread, interleaved, program, seconds};
use crate::support::place::{ALL, Kind, Place, SQL};
use crate::support::row::{Reach, Row, Unit};
use crate::{Scale, Subject};

pub(crate) const SUBJECT: Subject = Subject {
    name: "drain",
    title: "A backlog",
    about: "Events a second of `punctual run` as a whole process, history on, everything else at \
            its default. The type `sql` inserts one row an event; the type `command` in batch mode \
            talks to a compiled program that answers at once (`contrib/bench/programs/answer.rs`); \
            the type `mediawiki-job` fills a job table with MediaWiki's own indexes. \
            Limits (`contrib/bench/support/limit.rs`), 500 events a transaction: *batch limit*: \
            hand-written statements that select the due rows, write their history and remove them, \
            nothing fired; *effect limit*: the same with the handler's statement run once an \
            event, prepared, in it; *job limit*: the same with one INSERT of all its jobs. *Best peer*: what the best of five other queues on the \
            same kind of store came to when this was asked for (one worker, jobs that do nothing, \
            two cores, durable commits: apalis 5.4k/s on SQLite, APScheduler 1.0k/s on MariaDB); \
            not measured here, for orientation.",
    measure,
};

fn measure(scale: &Scale) -> Vec<Row> {
    let count = scale.of(50_000, 2_000);
    let types = format!(
        "{SQL}[type.job]\nhandler = \"mediawiki-job\"\n\
         [type.batch]\nhandler = \"command\"\nmode = \"batch\"\ncommand = [\"{}\"]\n",
        program("answer"),
    );
    let mut found = Vec::new();
    for kind in ALL {
        let place = Place::new(kind, &types);
        let rate = |seconds: f64| count as f64 / seconds;
        let drained = |type_name| {
            place.backlog(type_name, count);
            rate(place.drain(count))
        };
        let limited = |type_name, fire| {
            place.backlog(type_name, count);
            let took = seconds(|| limit::drain(&place, type_name, fire));
            place.must_have_done(0, count);
            rate(took)
        };
        let queued = || {
            place.backlog_of_jobs("job", count);
            rate(place.drain(count))
        };
        let queue_limit = || {
            place.backlog_of_jobs("job", count);
            let took = seconds(|| limit::drain(&place, "job", Fire::Jobs));
            place.must_have_done(0, count);
            rate(took)
        };
        let [sql, effects, batch, nothing, jobs, job_limit] = interleaved(
            scale.rounds,
            &mut [
                &mut || drained("sql"),
                &mut || limited("sql", Fire::Effects),
                &mut || drained("batch"),
                &mut || limited("batch", Fire::Nothing),
                &mut || queued(),
                &mut || queue_limit(),
            ],
        );
        let what = format!("`sql`, {count} events");
        found.push(
            Row::new("drain-sql", Some(kind), what.clone(), Unit::PerSecond, sql)
                .beside("effect limit", effects)
                .reach(Reach::AtLeast(0.8)),
        );
        let what_batch = format!("`command`, batch mode, {count} events");
        found.push(
            Row::new(
                "drain-batch",
                Some(kind),
                what_batch,
                Unit::PerSecond,
                batch,
            )
            .beside("batch limit", nothing)
            .reach(Reach::AtLeast(0.4)),
        );
        let what_jobs = format!("`mediawiki-job`, {count} events");
        found.push(
            Row::new(
                "drain-mediawiki-job",
                Some(kind),
                what_jobs.clone(),
                Unit::PerSecond,
                jobs,
            )
            .beside("job limit", job_limit)
            .reach(Reach::AtLeast(0.6)),
        );
        let (best, times) = best_peer(kind);
        if kind == Kind::Mariadb {
            found.push(
                Row::new(
                    "drain-peers-folded",
                    Some(kind),
                    what_jobs,
                    Unit::PerSecond,
                    jobs,
                )
                .beside("best peer", Spread::of(vec![best]))
                .reach(Reach::AtLeast(FOLDED)),
            );
        }
        found.push(
            Row::new("drain-peers", Some(kind), what, Unit::PerSecond, sql)
                .beside("best peer", Spread::of(vec![best]))
                .reach(Reach::AtLeast(times)),
        );
    }
    found
}

/// How many times as fast as the best peer on MariaDB a drain ought to be that folds a wave's
/// statements into one.
const FOLDED: f64 = 20.0;

/// Events a second, and how many times as fast a drain ought to be with one statement an event.
fn best_peer(kind: Kind) -> (f64, f64) {
    match kind {
        Kind::Mariadb => (1_000.0, 10.0),
        _ => (5_400.0, 12.0),
    }
}
