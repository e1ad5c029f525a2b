//! A proxy between a run and a MariaDB server that loses answers on purpose.
//!
//! Listens on a loopback port, talks to the server over its Unix socket, and follows the packets of
//! the client protocol (without TLS, which is off on loopback) far enough to know what the client
//! asks. A [`Trap`] says at which question what happens; without one everything is passed on. At
//! the client's end the server's connection is closed at once, as the kernel would.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::mariadb::Database;

/// How often a thread that waits for bytes looks whether its connection is over.
const GLANCE: Duration = Duration::from_millis(10);

/// Told what was asked since the last BEGIN, the question at hand last; true: this is the one. A
/// prepared statement is told by its text each time it is executed, its preparation as `PREPARE …`,
/// a ping as `PING`; what has no answer (CLOSE, QUIT) is not told.
pub(crate) type When = Box<dyn FnMut(&[String]) -> bool + Send>;

/// What happens to a question, and when. Springs once, on whichever connection it meets first.
pub(crate) struct Trap {
    /// At which question.
    pub(crate) when: When,
    /// Before or after the server has dealt with it.
    pub(crate) at: At,
    /// What happens then.
    pub(crate) act: Act,
}

/// Where a [`Trap`] springs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// The server never gets the question.
    Question,
    /// The server has dealt with it and answered; the client does not get the answer.
    Answer,
}

/// What a [`Trap`] does.
pub(crate) enum Act {
    /// Calls this while question or answer are held back (to kill the client, say), then resets.
    Call(Box<dyn FnOnce() + Send>),
    /// The client's connection is reset (RST), the server's closed.
    Reset,
    /// Nothing passes on this connection in either direction until [`Proxy::release`].
    Stall,
}

/// Whether the question at hand is the COMMIT of a transaction in which `word` was said.
pub(crate) fn commit_after(word: &str) -> When {
    let word = word.to_owned();
    Box::new(move |asked| {
        asked.last().is_some_and(|last| last == "COMMIT")
            && asked.iter().any(|text| text.contains(&word))
    })
}

/// Whether the question at hand is the `n`-th from now on, of whatever kind (1: the next).
pub(crate) fn nth_question(n: usize) -> When {
    let mut left = n;
    Box::new(move |_| {
        left = left.saturating_sub(1);
        left == 0
    })
}

/// Listens until dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    server: PathBuf,
    trap: Mutex<Option<Trap>>,
    /// After how many more bytes, of both directions, what happens.
    budget: Mutex<Option<(usize, Act)>>,
    links: Mutex<Vec<Weak<Link>>>,
    sprung: AtomicUsize,
    over: AtomicBool,
}

/// One connection of a client.
struct Link {
    client: TcpStream,
    server: UnixStream,
    over: AtomicBool,
    stalled: AtomicBool,
    /// What is to happen to the answer that comes next.
    awaiting: Mutex<Awaiting>,
}

#[derive(Default)]
struct Awaiting {
    act: Option<Act>,
    /// The text of a statement whose preparation is being answered.
    preparing: Option<String>,
    prepared: HashMap<u32, String>,
}

impl Proxy {
    /// Passes everything on to the server at this socket.
    #[track_caller]
    pub(crate) fn start(server: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            trap: Mutex::default(),
            budget: Mutex::default(),
            links: Mutex::default(),
            sprung: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let listener = thread::spawn(move || serving.listen(&listener));
        Self {
            address,
            shared,
            listener: Some(listener),
        }
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The URL of `database` through this proxy, its password included.
    pub(crate) fn url(&self, database: &Database) -> String {
        let Database {
            name,
            user,
            password,
            ..
        } = database;
        format!("mysql://{user}:{password}@127.0.0.1:{}/{name}", self.port())
    }

    /// Sets a trap, in place of one that has not sprung.
    pub(crate) fn set(&self, trap: Trap) {
        *hold(&self.shared.trap) = Some(trap);
    }

    /// Lets `bytes` more bytes pass, of both directions together and in the middle of a packet
    /// where they end there; then `act`.
    pub(crate) fn cut_after(&self, bytes: usize, act: Act) {
        *hold(&self.shared.budget) = Some((bytes, act));
    }

    /// Takes back what has not sprung.
    pub(crate) fn disarm(&self) {
        *hold(&self.shared.trap) = None;
        *hold(&self.shared.budget) = None;
    }

    /// How many traps and cuts have sprung so far.
    pub(crate) fn sprung(&self) -> usize {
        self.shared.sprung.load(Ordering::SeqCst)
    }

    /// Stalls every connection there is; new ones pass.
    pub(crate) fn stall(&self) {
        self.each(|link| link.stalled.store(true, Ordering::SeqCst));
    }

    /// Lets go on what was stalled; nothing is lost of it.
    pub(crate) fn release(&self) {
        self.each(|link| link.stalled.store(false, Ordering::SeqCst));
    }

    /// Resets every connection there is.
    pub(crate) fn reset(&self) {
        self.each(Link::reset);
    }

    fn each(&self, mut act: impl FnMut(&Link)) {
        let links = hold(&self.shared.links);
        for link in links.iter().filter_map(Weak::upgrade) {
            act(&link);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the listener
        if let Some(listener) = self.listener.take() {
            let _ = listener.join(); // which waits for the connections
        }
    }
}

impl Shared {
    fn listen(self: &Arc<Self>, listener: &TcpListener) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        for client in listener.incoming().map_while(Result::ok) {
            if self.over.load(Ordering::SeqCst) {
                break;
            }
            threads.retain(|thread| !thread.is_finished());
            // A server that is down: the client is hung up on.
            if let Ok(link) = self.link(client) {
                for serve in [Self::questions, Self::answers] {
                    let (serving, link) = (Arc::clone(self), Arc::clone(&link));
                    threads.push(thread::spawn(move || {
                        // Whatever ends one direction ends the connection.
                        let _ = serve(&serving, &link);
                        link.end();
                    }));
                }
            }
        }
        for link in hold(&self.links).iter().filter_map(Weak::upgrade) {
            link.end();
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn link(&self, client: TcpStream) -> io::Result<Arc<Link>> {
        let server = UnixStream::connect(&self.server)?;
        client.set_nodelay(true)?;
        client.set_read_timeout(Some(GLANCE))?;
        client.set_write_timeout(Some(Duration::from_secs(30)))?;
        server.set_read_timeout(Some(GLANCE))?;
        let link = Arc::new(Link {
            client,
            server,
            over: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            awaiting: Mutex::default(),
        });
        let mut links = hold(&self.links);
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(&link));
        Ok(link)
    }

    /// From the client to the server.
    fn questions(&self, link: &Link) -> io::Result<()> {
        let mut packets = Packets::default();
        let mut asked: Vec<String> = Vec::new();
        let mut in_transaction = false;
        while let Some(packet) = packets.next(&mut &link.client, link)? {
            let question = Question::of(&packet, link);
            if let Some(question) = &question {
                let begins = question.text == "START TRANSACTION" || question.text == "BEGIN";
                if begins || !in_transaction {
                    asked.clear();
                }
                in_transaction = begins || in_transaction;
                asked.push(question.text.clone());
                if let Some(Trap { at, act, .. }) = self.springs(&asked) {
                    if at == At::Question {
                        link.act(act);
                    } else {
                        hold(&link.awaiting).act = Some(act);
                    }
                }
                if question.text == "COMMIT" || question.text == "ROLLBACK" {
                    in_transaction = false;
                }
                if question.prepares {
                    let text = question.text.trim_start_matches("PREPARE ").to_owned();
                    hold(&link.awaiting).preparing = Some(text);
                }
            }
            self.pass(&packet, &mut &link.server, link)?;
        }
        Ok(())
    }

    /// From the server to the client.
    fn answers(&self, link: &Link) -> io::Result<()> {
        let mut packets = Packets::default();
        while let Some(packet) = packets.next(&mut &link.server, link)? {
            let act = {
                let mut awaiting = hold(&link.awaiting);
                if let Some(text) = awaiting.preparing.take()
                    && let [0, id @ ..] = &packet[4..]
                    && let Some(id) = id.first_chunk()
                {
                    awaiting.prepared.insert(u32::from_le_bytes(*id), text);
                }
                awaiting.act.take()
            };
            if let Some(act) = act {
                link.act(act);
            }
            self.pass(&packet, &mut &link.client, link)?;
        }
        Ok(())
    }

    fn springs(&self, asked: &[String]) -> Option<Trap> {
        let mut trap = hold(&self.trap);
        if !(trap.as_mut()?.when)(asked) {
            return None;
        }
        self.sprung.fetch_add(1, Ordering::SeqCst);
        trap.take()
    }

    /// Passes a packet on, or as much of it as may still pass; waits while the link is stalled.
    fn pass(&self, packet: &[u8], to: &mut impl Write, link: &Link) -> io::Result<()> {
        link.wait_while_stalled();
        if link.is_over() {
            return Ok(());
        }
        let mut rest = packet;
        let cut = {
            let mut budget = hold(&self.budget);
            match &mut *budget {
                Some((left, _)) if *left >= packet.len() => {
                    *left -= packet.len();
                    None
                }
                _ => budget.take(),
            }
        };
        if let Some((left, act)) = cut {
            let (before, after) = packet.split_at(left);
            to.write_all(before)?;
            self.sprung.fetch_add(1, Ordering::SeqCst);
            link.act(act);
            link.wait_while_stalled();
            if link.is_over() {
                return Ok(());
            }
            rest = after;
        }
        to.write_all(rest)
    }
}

impl Link {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn act(&self, act: Act) {
        match act {
            Act::Call(call) => {
                call();
                self.reset();
            }
            Act::Reset => self.reset(),
            Act::Stall => self.stalled.store(true, Ordering::SeqCst),
        }
    }

    /// With no time to linger the close that follows, of the last handle, is an RST.
    fn reset(&self) {
        let _ = socket2::SockRef::from(&self.client).set_linger(Some(Duration::ZERO));
        self.over.store(true, Ordering::SeqCst);
        let _ = self.server.shutdown(std::net::Shutdown::Both);
    }

    /// Closes both sides, unless they were reset.
    fn end(&self) {
        if !self.over.swap(true, Ordering::SeqCst) {
            let _ = self.client.shutdown(std::net::Shutdown::Both);
            let _ = self.server.shutdown(std::net::Shutdown::Both);
        }
    }

    fn wait_while_stalled(&self) {
        while self.stalled.load(Ordering::SeqCst) && !self.is_over() {
            if client_is_gone(&self.client) {
                self.end();
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A client that dies while it is stalled is noticed, or its transaction would live on.
fn client_is_gone(client: &TcpStream) -> bool {
    let mut byte = [0];
    match client.peek(&mut byte) {
        Ok(read) => read == 0,
        Err(error) => !is_quiet(&error),
    }
}

/// What a packet of the client asks.
struct Question {
    text: String,
    prepares: bool,
}

impl Question {
    /// `None` for what has no answer, or is no command: the login, the rest of a long packet.
    fn of(packet: &[u8], link: &Link) -> Option<Self> {
        let (&[_, _, _, 0], payload) = packet.split_first_chunk()? else {
            return None;
        };
        let (&command, rest) = payload.split_first()?;
        let said = || String::from_utf8_lossy(rest).into_owned();
        let (text, prepares) = match command {
            0x01 | 0x18 | 0x19 => return None, // QUIT, SEND_LONG_DATA, CLOSE
            0x03 => (said(), false),
            0x0e => ("PING".to_owned(), false),
            0x16 => (format!("PREPARE {}", said()), true),
            0x17 => {
                let id = u32::from_le_bytes(*rest.first_chunk()?);
                let text = hold(&link.awaiting).prepared.get(&id).cloned();
                (text.unwrap_or_default(), false)
            }
            other => (format!("COMMAND {other}"), false),
        };
        Some(Self { text, prepares })
    }
}

/// Cuts a stream into packets: three bytes of length, one of sequence, the payload.
#[derive(Default)]
struct Packets {
    read: Vec<u8>,
}

impl Packets {
    /// The next whole packet, its four bytes of head included; `None` at the end.
    fn next(&mut self, from: &mut impl Read, link: &Link) -> io::Result<Option<Vec<u8>>> {
        let mut chunk = [0; 16 << 10];
        loop {
            if let Some(&[low, middle, high, _]) = self.read.first_chunk() {
                let length = 4 + u32::from_le_bytes([low, middle, high, 0]) as usize;
                if self.read.len() >= length {
                    return Ok(Some(self.read.drain(..length).collect()));
                }
            }
            if link.is_over() {
                return Ok(None);
            }
            match from.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(read) => self.read.extend_from_slice(&chunk[..read]),
                Err(error) if is_quiet(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_quiet(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
