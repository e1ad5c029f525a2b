//! What becomes of an answer, good, bad, broken, or elsewhere.

use super::server::{Reply, Server, answer};
use super::*;

#[test]
fn an_answer_that_does_not_come_in_time_is_lost() {
    let server = Server::start(|_| Reply::Silence);
    let timeout = Duration::from_secs(1);
    let mut runner = Runner::with(&http(server.url("/")), |config| config.timeout = timeout);
    let finished = runner.fire(event(1, b"{}"));
    assert_lost(&finished.verdict, "within 1s");
    assert!(
        finished.took >= timeout && finished.took < timeout + OVERDUE,
        "{finished:?}"
    );
}

#[test]
fn an_answer_that_breaks_off_is_lost() {
    let server = Server::start(|_| Reply::BreakOff(b"HTTP/1.1 200 OK\r\nconte".to_vec()));
    assert_lost(&fire_at(&server), "was lost");
    let server = Server::start(|_| {
        Reply::BreakOff(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec())
    });
    assert_lost(&fire_at(&server), "HTTP 200, but the answer broke off");
    let server = Server::start(|_| Reply::BreakOff(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()));
    assert_lost(&fire_at(&server), "was lost");
}

#[test]
fn an_answer_that_does_not_end_in_time_is_lost() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let server = Server::start(|_| Reply::Answer(half.to_vec()));
    let timeout = Duration::from_secs(1);
    let mut runner = Runner::with(&http(server.url("/")), |config| config.timeout = timeout);
    let finished = runner.fire(event(1, b"{}"));
    assert_lost(
        &finished.verdict,
        "HTTP 200, but the answer did not end within 1s",
    );
}

#[test]
fn a_connection_reset_after_sending_is_lost_and_not_sent_again() {
    let server = Server::start(|_| Reply::Reset);
    assert_lost(&fire_at(&server), "was lost");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_kept_connection_that_fails_under_a_request_is_not_sent_again() {
    let server = Server::start(|seen| match seen.header("punctual-event-id") {
        Some("1") => ok(),
        _ => Reply::Reset,
    });
    let mut runner = Runner::of(&http(server.url("/")));
    assert_eq!(runner.fire(event(1, b"{}")).verdict, Verdict::Done);
    assert_lost(&runner.fire(event(2, b"{}")).verdict, "was lost");
    assert_eq!((server.seen().len(), server.connections()), (2, 1));
}

#[test]
fn a_failure_s_status_counts_though_its_body_breaks_off() {
    let server = Server::start(|_| {
        Reply::BreakOff(b"HTTP/1.1 500 Oh\r\ncontent-length: 100\r\n\r\nhalf".to_vec())
    });
    assert_eq!(fire_at(&server), failed("HTTP 500: half"));
}

#[test]
fn try_later_answers_carry_their_delay() {
    let reply = |status: &'static str, wish: &'static str| {
        let server = Server::start(move |_| answer(status, wish, ""));
        Runner::of(&http(server.url("/")))
            .fire(event(1, b"{}"))
            .verdict
    };
    let later = |code: u16, seconds: Option<u64>| Verdict::Later {
        error: format!("HTTP {code}"),
        retry_after: seconds.map(Duration::from_secs),
    };
    assert_eq!(
        reply("429 Too Many", "retry-after: 120\r\n"),
        later(429, Some(120))
    );
    assert_eq!(
        reply("503 Away", "retry-after: 999999\r\n"),
        later(503, Some(86_400))
    );
    assert_eq!(reply("503 Away", ""), later(503, None));
    assert_eq!(reply("503 Away", "retry-after: soon\r\n"), later(503, None));
}

#[test]
fn a_retry_after_with_a_date_is_measured_by_the_handler_s_clock() {
    // Sun, 06 Nov 1994 08:49:37 GMT
    let date = UnixSeconds(784_111_777);
    let server = Server::start(|_| {
        answer(
            "429 Too Many",
            "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
            "",
        )
    });
    let mut runner = Runner::of(&http(server.url("/")));
    let an_hour_before = date.0 - 3600 - Clock::system().now().0;
    runner.handler = runner.handler.with_clock(Clock::shifted(an_hour_before));
    let verdict = runner.fire(event(1, b"{}")).verdict;
    let Verdict::Later {
        retry_after: Some(delay),
        ..
    } = verdict
    else {
        panic!("{verdict:?}")
    };
    assert!((3600 - 60..=3600).contains(&delay.as_secs()), "{delay:?}");
}

#[test]
fn a_failure_shows_the_beginning_of_its_answer_in_one_line() {
    let body = format!("Fatal\r\n\terror\u{7}:\u{1b}[31m {}", "é".repeat(300_000));
    let server = Server::start(move |_| answer("500 Oh", "", &body));
    let verdict = fire_at(&server);
    let Verdict::Failed { error, .. } = verdict else {
        panic!("{verdict:?}")
    };
    assert!(
        error.starts_with("HTTP 500: Fatal error:[31m éé"),
        "{error}"
    );
    assert!((190..=210).contains(&error.len()), "{}", error.len());
}

#[test]
fn a_long_good_answer_is_good_and_not_read_to_its_end() {
    let server = Server::start(|_| answer("200 OK", "", &"x".repeat(1 << 20)));
    assert_eq!(fire_at(&server), Verdict::Done);
}

#[test]
fn other_statuses_fail_and_expect_decides_what_is_good() {
    let reply = |status: &'static str, expect: &[u16]| {
        let server = Server::start(move |_| answer(status, "", ""));
        let mut http = http(server.url("/"));
        http.expect = expect.to_vec();
        Runner::of(&http).fire(event(1, b"{}")).verdict
    };
    assert_eq!(reply("204 None", &[]), Verdict::Done);
    assert_eq!(reply("410 Gone", &[]), failed("HTTP 410"));
    assert_eq!(reply("304 Same", &[]), failed("HTTP 304"));
    assert_eq!(reply("410 Gone", &[200, 410]), Verdict::Done);
    assert_eq!(reply("429 Many", &[429]), Verdict::Done);
    assert_eq!(
        reply("201 Made", &[200]),
        failed("HTTP 201, which `expect` does not name")
    );
}

#[test]
fn a_secret_that_the_answer_repeats_is_not_shown() {
    let token = "s3cr3t-t0ken";
    let server = Server::start(|seen| {
        let echo = format!(
            "you sent {} and s3cr3t-t0ken to {}",
            seen.header("authorization").unwrap(),
            seen.path
        );
        answer("403 No", "", &echo)
    });
    let mut http = http(server.url("/?key=query-secret"));
    http.headers.insert(
        "Authorization".to_owned(),
        Secret::new(format!("Bearer {token}")),
    );
    let verdict = Runner::of(&http).fire(event(1, b"{}")).verdict;
    assert_eq!(
        verdict,
        failed("HTTP 403: you sent *** and *** to /?key=***")
    );
}

#[test]
fn a_secret_that_only_control_characters_take_apart_is_not_shown_either() {
    let server = Server::start(|_| answer("403 No", "", "no s3cr3t\0-t0\u{1b}ken here"));
    let mut http = http(server.url("/"));
    http.headers
        .insert("X-Token".to_owned(), Secret::new("s3cr3t-t0ken"));
    let verdict = Runner::of(&http).fire(event(1, b"{}")).verdict;
    assert_eq!(verdict, failed("HTTP 403: no *** here"));
}

#[test]
fn a_redirect_within_the_origin_repeats_the_request() {
    for (status, absolute) in [("307 Temporary", false), ("308 Permanent", true)] {
        let server = Server::start(move |seen| {
            let host = seen.header("host").filter(|_| absolute);
            let origin = host.map_or_else(String::new, |host| format!("http://{host}"));
            match &*seen.path {
                "/old" => answer(status, &format!("location: {origin}/new\r\n"), "moved"),
                _ => ok(),
            }
        });
        let mut runner = Runner::of(&http(server.url("/old")));
        assert_eq!(runner.fire(event(1, b"body")).verdict, Verdict::Done);
        let seen = server.seen();
        assert_eq!((&*seen[1].path, &*seen[1].method), ("/new", "POST"));
        assert_eq!(seen[1].body, b"body");
        assert_eq!(
            seen[0].header("idempotency-key"),
            seen[1].header("idempotency-key")
        );
        assert_eq!(server.connections(), 1);
    }
}

#[test]
fn redirects_in_a_circle_end() {
    let server = Server::start(|_| answer("307 Round", "location: /\r\n", ""));
    let verdict = fire_at(&server);
    assert_eq!(
        verdict,
        failed("redirected more than 3 times; set `url` to the last address")
    );
    assert_eq!(server.seen().len(), 4);
}

#[test]
fn a_redirect_to_another_host_is_refused() {
    let other = Server::start(|_| ok());
    let location = format!("location: {}\r\n", other.url("/secret-path"));
    let origin = other.url("");
    for status in ["307 Away", "308 Away"] {
        let location = location.clone();
        let server = Server::start(move |_| answer(status, &location, ""));
        let code = &status[..3];
        assert_eq!(
            fire_at(&server),
            failed(&format!(
                "HTTP {code}: redirected to another host, {origin}, not followed; set `url` to \
                 it if that is right"
            ))
        );
    }
    assert_eq!(other.connections(), 0);
}

#[test]
fn a_redirect_that_would_turn_the_post_into_a_get_is_refused() {
    for status in ["301 Moved", "302 Found", "303 Other"] {
        let server = Server::start(move |_| answer(status, "location: /login\r\n", ""));
        let (code, origin) = (&status[..3], server.url(""));
        assert_eq!(
            fire_at(&server),
            failed(&format!(
                "HTTP {code}: redirected to {origin}, not followed; set `url` to the final address"
            ))
        );
        assert_eq!(server.seen().len(), 1);
    }
}
