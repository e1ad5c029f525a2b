//! What a server answers, byte for byte, to the `http` handler: over a socket of this machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use punctual::clock::{UnixSeconds, monotonic};
use punctual::config::{HandlerConfig, HttpConfig, Secret, TypeConfig};
use punctual::event::{Event, EventId};
use punctual::handler::http::HttpHandler;
use punctual::handler::{Handler, Verdict};
use punctual::spawn::Reactor;

/// What a hostile answer might repeat, and no message may.
const TOKEN: &str = "Hush-7-t0ken";
const BODY: &[u8] = b"{\"user\":5}";

thread_local! {
    static BENCH: std::cell::RefCell<Bench> = std::cell::RefCell::new(Bench::new());
}

pub(crate) fn check(data: &[u8]) {
    BENCH.with_borrow_mut(|bench| {
        *bench.answer.lock().expect("no panic there") = data.to_vec();
        match bench.fire() {
            Verdict::Done => {
                let said_so = data.windows(5).any(|bytes| bytes.starts_with(b"HTTP/"));
                assert!(said_so, "done, though nobody said so");
            }
            Verdict::Failed { error, retry_after } | Verdict::Later { error, retry_after } => {
                fits_a_row(&error);
                assert!(retry_after.unwrap_or_default() <= Duration::from_hours(24));
            }
            Verdict::Lost { error } => {
                fits_a_row(&error);
                // The server always closes; nothing is waited for in vain.
                assert!(!error.contains("within"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    });
}

/// One line without secrets, bounded whatever came.
fn fits_a_row(error: &str) {
    assert!(!error.is_empty() && error.len() < 1000, "{error:?}");
    assert!(!error.chars().any(char::is_control), "{error:?}");
    assert!(!error.contains(TOKEN), "{error}");
}

/// A handler and a server that answers each request with `answer` and closes.
struct Bench {
    answer: Arc<Mutex<Vec<u8>>>,
    handler: HttpHandler,
    reactor: Reactor,
}

impl Bench {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("a port");
        let answer = Arc::new(Mutex::new(Vec::new()));
        let served = Arc::clone(&answer);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let bytes = served.lock().expect("no panic here").clone();
                let _ = serve(stream, &bytes); // the client may have gone
            }
        });
        let http = HttpConfig {
            url: format!("http://{address}/hook"),
            method: "POST".to_owned(),
            headers: BTreeMap::from([("X-Token".to_owned(), Secret::new(TOKEN))]),
            expect: Vec::new(),
            ca_file: None,
        };
        let lock = File::open("/dev/null").expect("a device");
        let reactor = Reactor::new(lock, "/nonexistent").expect("a pair of sockets");
        let handler = HttpHandler::new(&webhook(&http), &http, "0f1e2d3c", reactor.waker());
        let handler = handler.expect("a configuration that holds");
        Self {
            answer,
            handler,
            reactor,
        }
    }

    fn fire(&mut self) -> Verdict {
        self.handler.start(vec![event()], &mut self.reactor);
        let mut ended = Vec::new();
        let patience = monotonic() + Duration::from_secs(30);
        while ended.is_empty() {
            assert!(monotonic() < patience, "an attempt without an end");
            self.reactor.wait(patience).expect("poll");
            self.handler.collect(&mut self.reactor, &mut ended);
        }
        ended.remove(0).verdict
    }
}

/// Reads the request to its end, so that closing resets nothing.
fn serve(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 2048];
    while !request.ends_with(BODY) {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        request.extend_from_slice(&piece[..count]);
    }
    stream.write_all(answer)?;
    stream.shutdown(Shutdown::Write)?;
    // The client closes first, so that its ports are not used up.
    while stream.read(&mut piece)? > 0 {}
    Ok(())
}

fn event() -> Event {
    Event {
        id: EventId(7),
        type_name: "webhook".to_owned(),
        due_at: UnixSeconds(1_700_000_000),
        first_due_at: None,
        payload: BODY.to_vec(),
        key: None,
        priority: 0,
        expires_at: None,
        attempts: 0,
        losses: 0,
        deferrals: 0,
        slot: None,
    }
}

fn webhook(http: &HttpConfig) -> TypeConfig {
    TypeConfig {
        timeout: Duration::from_secs(10),
        grace: Duration::from_secs(1),
        ..TypeConfig::new("webhook", HandlerConfig::Http(http.clone()))
    }
}
