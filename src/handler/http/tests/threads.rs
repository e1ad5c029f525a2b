//! Attempts whose threads are stopped, stuck or gone.

use std::sync::Mutex;

use super::server::{Reply, Server};
use super::*;

#[test]
fn an_interrupted_run_waits_for_the_grace_and_then_no_longer() {
    let server = Server::start(|_| Reply::Silence);
    let mut runner = Runner::with(&http(server.url("/")), |config| {
        config.concurrency = 2;
        config.timeout = Duration::from_hours(1);
    });
    runner.begin(event(1, b"{}"));
    runner.begin(event(2, b"{}"));
    let stopped = monotonic();
    runner.handler.stop();
    assert_eq!((runner.handler.room(), runner.handler.in_flight()), (0, 2));
    let ended = runner.collect(2);
    let took = monotonic() - stopped;
    assert!(
        ended
            .iter()
            .all(|it| matches!(it.verdict, Verdict::Interrupted { .. })),
        "{ended:?}"
    );
    assert!(took >= runner.handler.grace && took < PATIENCE, "{took:?}");
    assert_eq!(
        (runner.handler.in_flight(), runner.handler.next_deadline()),
        (0, None)
    );

    runner.begin(event(3, b"{}"));
    assert_not_started(&runner.collect(1)[0].verdict, "being stopped");
}

#[test]
fn what_ends_well_within_the_grace_is_done() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let server = Server::start(move |_| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        ok()
    });
    let grace = Duration::from_secs(20);
    let mut runner = Runner::with(&http(server.url("/")), |config| config.grace = grace);
    runner.begin(event(1, b"{}"));
    runner.handler.stop();
    release.send(()).unwrap();
    assert_eq!(runner.collect(1)[0].verdict, Verdict::Done);
}

#[test]
fn dropping_the_handler_cuts_requests_and_waits_for_nothing() {
    let (reached, arrived) = mpsc::channel();
    let server = Server::start(move |_| {
        let _ = reached.send(());
        Reply::Silence
    });
    let mut runner = Runner::with(&http(server.url("/")), |config| {
        config.timeout = Duration::from_hours(1);
    });
    runner.begin(event(1, b"{}"));
    arrived.recv_timeout(PATIENCE).unwrap();
    drop(runner.handler);
    // The thread's own report: its request has ended though nobody answered it.
    runner.woken.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn an_attempt_whose_thread_never_answers_is_lost_in_time() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let mut runner = Runner::of(&http(nobody()));
    runner.handler.timeout = Duration::ZERO;
    runner.handler.places.workers = replaced(&runner, move |_| {
        let _ = held.lock().unwrap().recv(); // its sender is dropped at the end of the test
        Verdict::Done
    });
    runner.begin(event(9, b"{}"));
    eventually(|| runner.handler.next_deadline().is_some());
    let deadline = runner.handler.next_deadline().unwrap();
    assert!(deadline > monotonic() && deadline <= monotonic() + OVERDUE);
    let ended = runner.collect(1);
    assert_lost(&ended[0].verdict, "given up");
    assert!(ended[0].took >= OVERDUE, "{ended:?}");
    assert_eq!((ended[0].id, runner.handler.in_flight()), (EventId(9), 0));

    // Its answer after all is nobody's.
    release.send(()).unwrap();
    runner.begin(event(10, b"{}"));
    drop(release);
    assert_eq!(runner.collect(1)[0].id, EventId(10));
    assert_eq!(runner.handler.in_flight(), 0);
}

#[test]
fn a_thread_that_panics_answers_lost_and_is_replaced() {
    let mut runner = Runner::of(&http(nobody()));
    runner.handler.places.workers = replaced(&runner, |event| {
        if event.id == EventId(1) {
            std::panic::resume_unwind(Box::new("as if"));
        }
        Verdict::Done
    });
    assert_lost(&runner.fire(event(1, b"{}")).verdict, "panicked");
    assert_eq!(runner.fire(event(2, b"{}")).verdict, Verdict::Done);
}

/// Threads that do something else than send.
fn replaced(runner: &Runner, fire: impl Fn(&Event) -> Verdict + Send + Sync + 'static) -> Workers {
    let handler = &runner.handler;
    let wake = Arc::clone(&handler.wake);
    Workers::new(handler.type_config.concurrency, instead(fire), wake)
}
