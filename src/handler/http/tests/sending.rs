//! What is sent, where to, and what is refused before anything is.

use std::path::PathBuf;

use super::server::Server;
use super::*;

#[test]
fn an_event_is_posted_as_json_with_its_headers() {
    let server = Server::start(|_| ok());
    let mut runner = Runner::of(&http(server.url("/hook?a=1#part")));
    let late = Event {
        first_due_at: Some(UnixSeconds(1_600_000_000)),
        attempts: 2,
        losses: 1,
        ..event(7, br#"{"user":5}"#)
    };
    let finished = runner.fire(late);
    assert_eq!((finished.id, finished.verdict), (EventId(7), Verdict::Done));

    let seen = server.seen().remove(0);
    assert_eq!((&*seen.method, &*seen.path), ("POST", "/hook?a=1"));
    assert_eq!(seen.body, br#"{"user":5}"#);
    for (name, value) in [
        ("content-type", "application/json"),
        ("user-agent", request::USER_AGENT),
        ("idempotency-key", "0f1e2d3c-7-1600000000"),
        ("punctual-event-id", "7"),
        ("punctual-event-type", "webhook"),
        ("punctual-attempt", "4"),
        ("punctual-due-at", "1600000000"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
}

#[test]
fn a_schedule_s_event_says_which_slot_it_is_and_others_do_not() {
    let server = Server::start(|_| ok());
    let mut runner = Runner::of(&http(server.url("/")));
    let slot = Some(crate::event::Slot {
        at: UnixSeconds(1_600_000_000),
        slots: 7,
    });
    runner.fire(Event {
        slot,
        ..event(1, b"")
    });
    runner.fire(event(2, b""));
    let seen = server.seen();
    let told = |place: usize| {
        let seen = &seen[place];
        (
            seen.header("punctual-slot-at"),
            seen.header("punctual-slots"),
        )
    };
    assert_eq!(told(0), (Some("1600000000"), Some("7")));
    assert_eq!(told(1), (None, None));
}

#[test]
fn configured_headers_and_method_win() {
    let server = Server::start(|_| ok());
    let mut http = http(
        server
            .url("/")
            .replace("http://", "http://ann:p%40ss+word@"),
    );
    http.method = "put".to_owned();
    http.headers
        .insert("content-type".to_owned(), Secret::new("text/plain"));
    http.headers
        .insert("X-Token".to_owned(), Secret::new("abc"));
    assert_eq!(
        Runner::of(&http).fire(event(1, b"x")).verdict,
        Verdict::Done
    );

    let seen = server.seen().remove(0);
    assert_eq!(seen.method, "PUT");
    assert_eq!(seen.header("content-type"), Some("text/plain"));
    assert_eq!(seen.header("x-token"), Some("abc"));
    assert_eq!(
        seen.header("authorization"),
        Some("Basic YW5uOnBAc3Mrd29yZA==")
    );
}

#[test]
fn the_idempotency_key_is_the_occurrence_s_and_not_the_attempt_s() {
    let server = Server::start(|_| ok());
    let mut runner = Runner::of(&http(server.url("/")));
    let first = event(1, b"{}");
    let again = Event {
        due_at: UnixSeconds(first.due_at.0 + 60),
        first_due_at: Some(first.due_at),
        attempts: 1,
        ..first.clone()
    };
    for event in [first, again, event(2, b"{}")] {
        runner.fire(event);
    }
    let seen = server.seen();
    let keys: Vec<_> = seen
        .iter()
        .map(|seen| seen.header("idempotency-key").unwrap())
        .collect();
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
}

#[test]
fn a_payload_arrives_byte_for_byte() {
    let server = Server::start(|_| ok());
    let mut runner = Runner::of(&http(server.url("/")));
    let large: Vec<u8> = (0..1 << 20)
        .map(|n: u32| n.to_le_bytes()[(n % 3) as usize])
        .collect();
    let payloads = [
        large,
        vec![0xff, 0x00, 0xc3, 0x28, b'\r', b'\n'],
        Vec::new(),
    ];
    for (id, payload) in (1..).zip(&payloads) {
        assert_eq!(runner.fire(event(id, payload)).verdict, Verdict::Done);
    }
    let seen = server.seen();
    for (seen, payload) in seen.iter().zip(&payloads) {
        assert!(seen.body == *payload, "{} bytes", payload.len());
    }
    assert_eq!(seen[2].header("content-length"), Some("0"));
    assert_eq!(seen[2].header("content-type"), None);
}

#[test]
fn a_get_carries_no_body() {
    let server = Server::start(|_| ok());
    let mut http = http(server.url("/cron"));
    http.method = "GET".to_owned();
    assert_eq!(
        Runner::of(&http).fire(event(1, b"{}")).verdict,
        Verdict::Done
    );
    let seen = server.seen().remove(0);
    assert_eq!(
        (
            seen.header("content-length"),
            seen.header("transfer-encoding")
        ),
        (None, None)
    );
    assert_eq!(seen.header("punctual-event-id"), Some("1"));
}

#[test]
fn connections_are_kept_as_many_as_are_used_at_once() {
    let server = Server::start(|_| ok());
    let mut runner = Runner::with(&http(server.url("/")), |config| config.concurrency = 2);
    assert_eq!(runner.handler.room(), 2);
    let mut ended = 0;
    let mut ids = 1..=20;
    while ended < 20 {
        while runner.handler.room() > 0 {
            let Some(id) = ids.next() else { break };
            runner.begin(event(id, b"{}"));
        }
        let finished = runner.collect(1);
        assert!(
            finished
                .iter()
                .all(|finished| finished.verdict == Verdict::Done)
        );
        ended += finished.len();
    }
    assert_eq!(runner.handler.in_flight(), 0);
    assert!(
        server.connections() <= 2,
        "{} connections",
        server.connections()
    );
    assert_eq!(server.seen().len(), 20);
}

#[test]
fn a_refused_connection_and_an_unknown_host_mean_not_started() {
    let verdict = Runner::of(&http(nobody())).fire(event(1, b"{}")).verdict;
    assert_not_started(&verdict, "refused");
    let nowhere = http("http://host.invalid/".to_owned());
    let verdict = Runner::of(&nowhere).fire(event(1, b"{}")).verdict;
    assert_not_started(&verdict, "http://host.invalid");
}

#[test]
fn a_configuration_that_cannot_work_is_refused_by_name() {
    let refusal = |change: &dyn Fn(&mut HttpConfig)| {
        let mut http = http("https://user:pa55word@example.org/".to_owned());
        change(&mut http);
        let wake = Arc::new(|| ());
        let refused = HttpHandler::waking(&type_config(&http), &http, INSTALL, wake);
        let text = format!("{:#}", refused.err().expect("a refusal"));
        assert!(!text.contains("pa55word") && !text.contains('\n'), "{text}");
        text
    };
    let header = |name: &'static str, value: &'static str| {
        refusal(&move |http| {
            http.headers.insert(name.to_owned(), Secret::new(value));
        })
    };
    assert_eq!(
        refusal(&|http| http.url = "ftp://user:pa55word@example.org/".to_owned()),
        "type `webhook`: url: must begin with http:// or https:// and name a host"
    );
    assert!(refusal(&|http| http.url = "example.org".to_owned()).contains("url: cannot be read"));
    assert!(refusal(&|http| http.method = "GET /".to_owned()).contains("method `GET /`"));
    assert!(refusal(&|http| http.method = "CONNECT".to_owned()).contains("use POST"));
    assert!(header("a b", "x").contains("`a b` is no header's name"));
    assert!(header("x-a", "pa55word\n").contains("`x-a`"));
    assert!(header("Idempotency-Key", "x").contains("set by punctual itself"));
    assert!(header("Punctual-Attempt", "1").contains("set by punctual itself"));
    let missing = refusal(&|http| http.ca_file = Some(PathBuf::from("/nonexistent/ca.pem")));
    assert!(
        missing.contains("ca_file /nonexistent/ca.pem: cannot be read"),
        "{missing}"
    );
    let empty = tempfile::NamedTempFile::new().unwrap();
    let empty = refusal(&|http| http.ca_file = Some(empty.path().to_owned()));
    assert!(empty.contains("holds no certificate"), "{empty}");
}
