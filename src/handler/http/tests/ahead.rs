//! Events that are handed over before there is room for them.

use std::sync::Mutex;

use super::*;

/// One thread, whose attempts end as the test says and when it says so.
struct Stage {
    runner: Runner,
    ends: mpsc::Sender<Verdict>,
    begun: Receiver<EventId>,
}

impl Stage {
    fn new() -> Stage {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut TypeConfig)) -> Stage {
        let mut runner = Runner::with(&http(nobody()), |config| {
            config.concurrency = 1;
            change(config);
        });
        let (ends, next) = mpsc::channel();
        let (tell, begun) = mpsc::channel();
        let (next, tell) = (Mutex::new(next), Mutex::new(tell));
        let fire = move |event: &Event| {
            let _ = tell.lock().unwrap().send(event.id); // the test is over
            let verdict = next.lock().unwrap().recv();
            verdict.unwrap_or(Verdict::Done)
        };
        let wake = Arc::clone(&runner.handler.wake);
        runner.handler.places.workers = Workers::new(1, instead(fire), wake);
        Stage {
            runner,
            ends,
            begun,
        }
    }

    fn next_begun(&self) -> EventId {
        self.begun.recv_timeout(PATIENCE).expect("one that begins")
    }

    fn start_ahead(&mut self, ids: std::ops::RangeInclusive<i64>, begin_by: Instant) {
        let events = ids.map(|id| event(id, b"{}")).collect();
        self.runner.handler.start_ahead(events, begin_by);
    }
}

fn far() -> Instant {
    monotonic() + PATIENCE
}

fn ids(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| event.id.0).collect()
}

#[test]
fn they_begin_in_order_and_the_run_is_woken_once_and_not_for_each() {
    let mut stage = Stage::new();
    stage.start_ahead(1..=100, far());
    let mut wakes = Vec::new();
    for id in 1..=100 {
        assert_eq!(stage.next_begun(), EventId(id));
        wakes.extend(stage.runner.woken.try_recv().map(|()| id));
        stage.ends.send(Verdict::Done).unwrap();
    }
    assert_eq!(
        wakes,
        [50],
        "when half of them had begun; it has not looked since"
    );
    let mut ended = Vec::new();
    eventually(|| {
        stage.runner.handler.gather(&mut ended);
        ended.len() == 100
    });
    let ended: Vec<i64> = ended.iter().map(|finished| finished.id.0).collect();
    assert_eq!(ended, (1..=100).collect::<Vec<_>>());
}

#[test]
fn none_begins_after_one_that_ended_other_than_well() {
    let mut stage = Stage::new();
    stage.start_ahead(1..=3, far());
    assert_eq!(stage.next_begun(), EventId(1));
    stage.ends.send(failed("HTTP 500")).unwrap();
    stage.runner.woken.recv_timeout(PATIENCE).unwrap();
    let mut ended = Vec::new();
    stage.runner.handler.gather(&mut ended);
    assert_eq!(ended[0].verdict, failed("HTTP 500"));
    assert_eq!(ids(&stage.runner.handler.take_back(false)), [2, 3]);
    assert!(stage.begun.try_recv().is_err());
    assert_eq!(stage.runner.handler.in_flight(), 0);

    // The run has looked: what it hands over now begins.
    stage.start_ahead(2..=2, far());
    assert_eq!(stage.next_begun(), EventId(2));
}

#[test]
fn none_begins_once_its_time_has_passed() {
    let mut stage = Stage::new();
    stage.start_ahead(1..=1, far());
    assert_eq!(stage.next_begun(), EventId(1));
    stage.start_ahead(2..=3, monotonic());
    stage.ends.send(Verdict::Done).unwrap();
    eventually(|| stage.runner.handler.places.workers.first_begun().is_none());
    assert!(stage.begun.try_recv().is_err());
    // Nobody wakes the run for it: it looks by itself.
    assert!(stage.runner.handler.next_deadline().unwrap() <= monotonic() + GLANCE);
    assert_eq!(stage.runner.collect(1)[0].id, EventId(1));
    assert_eq!(ids(&stage.runner.handler.take_back(false)), [2, 3]);
}

#[test]
fn what_has_not_begun_is_taken_back_at_any_time() {
    let mut stage = Stage::new();
    stage.start_ahead(1..=3, far());
    assert_eq!(stage.next_begun(), EventId(1));
    assert_eq!(ids(&stage.runner.handler.take_back(false)), [0_i64; 0]);
    assert_eq!(ids(&stage.runner.handler.take_back(true)), [2, 3]);
    stage.ends.send(Verdict::Done).unwrap();
    assert_eq!(stage.runner.collect(1)[0].id, EventId(1));
    assert!(stage.begun.try_recv().is_err());
}

#[test]
fn a_run_that_stops_gets_back_what_has_not_begun() {
    let mut stage = Stage::new();
    stage.start_ahead(1..=3, far());
    assert_eq!(stage.next_begun(), EventId(1));
    stage.runner.handler.stop();
    assert_eq!(ids(&stage.runner.handler.take_back(false)), [2, 3]);
    stage.ends.send(Verdict::Done).unwrap();
    assert_eq!(stage.runner.collect(1)[0].verdict, Verdict::Done);
}

#[test]
fn there_is_room_for_as_many_as_begin_soon_while_all_goes_well() {
    let mut stage = Stage::new();
    let ahead = |stage: &Stage| stage.runner.handler.room_ahead();
    assert_eq!(ahead(&stage), 0, "nothing is known yet");
    let mut tell = |took, verdict| {
        let ended = Finished {
            id: EventId(1),
            started: monotonic(),
            took,
            verdict,
        };
        stage.runner.handler.places.learn(&[ended]);
        ahead(&stage)
    };
    assert_eq!(tell(AHEAD / 5, Verdict::Done), 1 + 5);
    assert_eq!(tell(AHEAD * 2, Verdict::Done), 1, "the slot itself");
    assert_eq!(tell(Duration::ZERO, Verdict::Done), 1 + MOST_AHEAD);
    assert_eq!(tell(AHEAD / 5, failed("HTTP 500")), 0);
}

#[test]
fn an_at_most_once_type_takes_nothing_ahead() {
    let mut stage = Stage::with(|config| config.at_most_once = true);
    stage.runner.handler.places.pace = Some(Duration::ZERO);
    assert_eq!(stage.runner.handler.room_ahead(), 0);
    stage.runner.handler.places.at_most_once = false;
    assert_ne!(stage.runner.handler.room_ahead(), 0);
}
