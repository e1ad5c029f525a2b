//! A web server as cheap as can be, so that the client is what is measured: a thread a connection,
//! kept alive, `204 No Content` for whatever comes, at once or after a while.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Listens on a loopback port for as long as this program lives.
pub(crate) struct Web {
    address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    requests: AtomicU64,
}

const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

impl Web {
    /// Sleeps for `work` before each answer.
    pub(crate) fn start(work: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("a bound address");
        let counts = Arc::new(Counts::default());
        let counting = Arc::clone(&counts);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let counting = Arc::clone(&counting);
                counting.connections.fetch_add(1, Ordering::Relaxed);
                // A client that goes away is how each measurement ends.
                thread::spawn(move || serve(&stream, work, &counting).ok());
            }
        });
        Self { address, counts }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// `(connections, requests)` so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let Counts {
            connections,
            requests,
        } = &*self.counts;
        (
            connections.load(Ordering::Relaxed),
            requests.load(Ordering::Relaxed),
        )
    }
}

fn serve(mut stream: &TcpStream, work: Duration, counts: &Counts) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if line == b"\r\n" {
                break;
            }
            length = content_length(&line).unwrap_or(length);
        }
        io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        if !work.is_zero() {
            thread::sleep(work);
        }
        counts.requests.fetch_add(1, Ordering::Relaxed);
        stream.write_all(ANSWER)?;
    }
}

fn content_length(line: &[u8]) -> Option<u64> {
    let (name, value) = line.split_at_checked(15)?;
    if !name.eq_ignore_ascii_case(b"content-length:") {
        return None;
    }
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}
