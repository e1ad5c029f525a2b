//! One request an event.

use crate::support::measure::interleaved;
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
            Content`. All three share the machine.",
    measure,
};

const CONNECTIONS: u64 = 8;

fn measure(scale: &Scale) -> Vec<Row> {
    let count = scale.of(20_000, 500);
    let web = Web::start();
    let types = format!(
        "[type.hook]\nhandler = \"http\"\nurl = \"{}\"\nconcurrency = {CONNECTIONS}\n",
        web.url()
    );
    let mut found = Vec::new();
    for kind in [Kind::Wal, Kind::Mariadb] {
        let place = Place::new(kind, &types);
        let [events, limit] = interleaved(
            scale.rounds,
            &mut [
                &mut || {
                    place.backlog("hook", count);
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
                },
                &mut || wrk(&place.site, &web, scale.of(5, 1)),
            ],
        );
        let what = format!("{count} events, eight at a time");
        found.push(
            Row::new("http", Some(kind), what, Unit::PerSecond, events)
                .beside("", limit)
                .reach(Reach::AtLeast(0.6)),
        );
    }
    found
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
