//! One request an event.

use std::time::Duration;

use crate::support::limit::{self, Fire};
use crate::support::measure::{interleaved, seconds};
use crate::support::place::{Kind, Place};
use crate::support::row::{Reach, Row, Unit};
use crate::support::site::Site;
use crate::support::web::Web;
use crate::{Scale, Subject};

pub(crate) const SUBJECT: Subject = Subject {
    name: "http",
    title: "One request an event",
    about: "Events a second of a type `http` with `concurrency = 8`, claims and records included, \
            beside what `wrk` (8 connections, 2 threads, the same kind of request) gets from the \
            same server: one of the bench's own, a thread a connection, which answers `204 No \
            Content`, at once or after it has slept for a millisecond, as a handler does that has \
            something to do. All three share the machine: with a server that answers at once \
            there is no time in which nobody computes. *Batch limit* as under *A backlog*: what \
            the database allows for the same events, nothing sent.",
    measure,
};

const CONNECTIONS: u64 = 8;

/// How long the slower server sleeps before it answers.
const WORK: Duration = Duration::from_millis(1);

fn measure(scale: &Scale) -> Vec<Row> {
    let count = scale.of(20_000, 500);
    let (quick, slow) = (Web::start(Duration::ZERO), Web::start(WORK));
    let type_of = |name, web: &Web| {
        let url = web.url();
        format!("[type.{name}]\nhandler = \"http\"\nurl = \"{url}\"\nconcurrency = {CONNECTIONS}\n")
    };
    let types = type_of("quick", &quick) + &type_of("slow", &slow);
    let mut found = Vec::new();
    for kind in [Kind::Wal, Kind::Mariadb] {
        let place = Place::new(kind, &types);
        let wrk_for = |web| wrk(&place.site, web, scale.of(5, 1));
        let [events, most, slow_events, slow_most, nothing] = interleaved(
            scale.rounds,
            &mut [
                &mut || drained(&place, "quick", &quick, count),
                &mut || wrk_for(&quick),
                &mut || drained(&place, "slow", &slow, count),
                &mut || wrk_for(&slow),
                &mut || {
                    place.backlog("quick", count);
                    let took = seconds(|| limit::drain(&place, "quick", Fire::Nothing));
                    count as f64 / took
                },
            ],
        );
        let row = |key, what: &str, figure| {
            let what = format!("{count} events, eight at a time, {what}");
            Row::new(key, Some(kind), what, Unit::PerSecond, figure)
        };
        let at_once = "answered at once";
        found.push(
            row("http", at_once, events)
                .beside("wrk", most)
                .reach(Reach::AtLeast(0.6)),
        );
        found.push(row("http-nothing", at_once, events).beside("batch limit", nothing));
        found.push(
            row("http-1ms", "answered after 1 ms", slow_events)
                .beside("wrk", slow_most)
                .reach(Reach::AtLeast(0.6)),
        );
    }
    found
}

/// Events a second.
fn drained(place: &Place, type_name: &str, web: &Web, count: u64) -> f64 {
    place.backlog(type_name, count);
    let (connections, requests) = web.counts();
    let took = place.drain(count);
    let (connections_after, requests_after) = web.counts();
    assert_eq!(requests_after - requests, count);
    let opened = connections_after - connections;
    assert!(
        opened <= 2 * CONNECTIONS,
        "{opened} connections: not reused"
    );
    count as f64 / took
}

/// A request as large as one of ours.
const SCRIPT: &str = r#"wrk.method = "POST"
wrk.body = '{"user":12345}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Idempotency-Key"] = "0123456789abcdef0123456789abcdef-12345-1000000"
wrk.headers["User-Agent"] = "punctual/0.1.0"
"#;

/// Requests a second.
fn wrk(site: &Site, web: &Web, seconds: u64) -> f64 {
    site.write("post.lua", SCRIPT);
    let output = site
        .command("wrk")
        .args(["--threads=2", "--script=post.lua"])
        .arg(format!("--connections={CONNECTIONS}"))
        .arg(format!("--duration={seconds}s"))
        .arg(web.url())
        .output()
        .unwrap_or_else(|error| panic!("wrk: {error}; apt-get install wrk, or contrib/bench/run"));
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    let wrong = ["Non-2xx", "Socket errors"]
        .iter()
        .any(|word| text.contains(word));
    assert!(output.status.success() && !wrong, "{text}");
    rate.and_then(|rate| rate.trim().parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}
