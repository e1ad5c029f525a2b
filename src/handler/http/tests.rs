//! The handler against a real server ([`server`]), over sockets of this machine.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::mpsc::{self, Receiver};

use super::*;
use crate::clock::UnixSeconds;
use crate::config::{HandlerConfig, Secret};
use crate::event::EventId;
use crate::handler::places::workers::Workers;
use crate::handler::places::{AHEAD, GLANCE, MOST_AHEAD};

use self::server::{Reply, Server, answer};

mod ahead;
mod answers;
mod connections;
mod framing;
mod proxy;
mod sending;
mod server;
mod threads;
mod tls;

/// Longer than anything here takes; reached only where a test would otherwise hang.
const PATIENCE: Duration = Duration::from_secs(30);
const INSTALL: &str = "0f1e2d3c";

/// Plays the runner: starts, waits until woken or due, collects.
struct Runner {
    handler: HttpHandler,
    woken: Receiver<()>,
}

fn http(url: String) -> HttpConfig {
    HttpConfig {
        url,
        method: "POST".to_owned(),
        headers: BTreeMap::new(),
        expect: Vec::new(),
        ca_file: None,
    }
}

fn type_config(http: &HttpConfig) -> TypeConfig {
    TypeConfig {
        timeout: Duration::from_secs(20),
        grace: Duration::from_millis(200),
        ..TypeConfig::new("webhook", HandlerConfig::Http(http.clone()))
    }
}

fn event(id: i64, payload: &[u8]) -> Event {
    Event {
        id: EventId(id),
        type_name: "webhook".to_owned(),
        due_at: UnixSeconds(1_700_000_000),
        first_due_at: None,
        payload: payload.to_vec(),
        key: None,
        priority: 0,
        expires_at: None,
        attempts: 0,
        losses: 0,
        deferrals: 0,
        slot: None,
    }
}

impl Runner {
    fn of(http: &HttpConfig) -> Runner {
        Self::with(http, |_| ())
    }

    fn with(http: &HttpConfig, change: impl FnOnce(&mut TypeConfig)) -> Runner {
        let mut config = type_config(http);
        change(&mut config);
        let (wake, woken) = mpsc::channel();
        let wake = Arc::new(move || {
            let _ = wake.send(()); // the runner is gone
        });
        let handler = HttpHandler::waking(&config, http, INSTALL, wake).unwrap();
        Runner { handler, woken }
    }

    fn begin(&mut self, event: Event) {
        self.handler.places.begin(vec![event], None);
        eventually(|| self.handler.places.workers.waiting() == 0);
    }

    /// Waits as the reactor does: until woken or until the handler's next deadline.
    fn collect(&mut self, count: usize) -> Vec<Finished> {
        let give_up = monotonic() + PATIENCE;
        let mut ended = Vec::new();
        while ended.len() < count {
            assert!(
                monotonic() < give_up,
                "{} of {count} attempts ended",
                ended.len()
            );
            let deadline = self.handler.next_deadline().unwrap_or(give_up).min(give_up);
            let _ = self
                .woken
                .recv_timeout(deadline.saturating_duration_since(monotonic()));
            self.handler.gather(&mut ended);
        }
        ended
    }

    fn fire(&mut self, event: Event) -> Finished {
        self.begin(event);
        self.collect(1).remove(0)
    }
}

fn fire_at(server: &Server) -> Verdict {
    Runner::of(&http(server.url("/")))
        .fire(event(1, b"{}"))
        .verdict
}

fn ok() -> Reply {
    answer("200 OK", "", "fine")
}

fn failed(error: &str) -> Verdict {
    Verdict::Failed {
        error: error.to_owned(),
        retry_after: None,
    }
}

#[track_caller]
fn assert_lost(verdict: &Verdict, part: &str) {
    let Verdict::Lost { error } = verdict else {
        panic!("{verdict:?} is not lost")
    };
    assert!(error.contains(part), "{error}");
}

#[track_caller]
fn assert_not_started(verdict: &Verdict, part: &str) {
    let Verdict::NotStarted { error } = verdict else {
        panic!("{verdict:?} was started")
    };
    assert!(error.contains(part), "{error}");
}

/// What threads do instead of sending.
fn instead(fire: impl Fn(&Event) -> Verdict + Send + Sync + 'static) -> Hire {
    let fire = Arc::new(fire);
    Arc::new(move || -> Fire {
        let fire = Arc::clone(&fire);
        Box::new(move |event| fire(&event))
    })
}

fn eventually(mut holds: impl FnMut() -> bool) {
    let give_up = monotonic() + PATIENCE;
    while !holds() {
        assert!(monotonic() < give_up, "it never came to that");
        std::thread::yield_now();
    }
}

/// A port of this machine on which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/", listener.local_addr().unwrap())
}
