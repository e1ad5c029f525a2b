//! A small HTTP/1.1 server on the loopback: it notes what arrives and answers as a test says,
//! broken answers included. Over TLS with a certificate of an authority of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Counting from 0.
    pub(super) connection: usize,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name)?;
        Some(&found.1)
    }
}

/// What to do about a request.
pub(super) enum Reply {
    /// Write this and keep the connection.
    Answer(Vec<u8>),
    /// Write this and close it.
    BreakOff(Vec<u8>),
    /// Write nothing until the client closes it.
    Silence,
    /// Close it with the body unread, which resets it.
    Reset,
}

/// An answer with a length, so that the connection stays usable.
pub(super) fn answer(status: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}");
    Reply::Answer(text.into_bytes())
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

pub(super) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    script: Box<Script>,
    tls: Option<Arc<ServerConfig>>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    closing: AtomicBool,
}

impl Server {
    pub(super) fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
        Self::listen(Box::new(script), None)
    }

    /// With the authority's certificate as PEM.
    pub(super) fn start_tls(
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> (Server, String) {
        let (config, authority) = certified();
        (
            Self::listen(Box::new(script), Some(Arc::new(config))),
            authority,
        )
    }

    fn listen(script: Box<Script>, tls: Option<Arc<ServerConfig>>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script,
            tls,
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        let listening = Some(thread::spawn(move || accept(&listener, &of_thread)));
        Server {
            address,
            shared,
            listening,
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        let scheme = if self.shared.tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://localhost:{}{path}", self.address.port())
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // ends the accept
        let _ = self.listening.take().map(JoinHandle::join);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.closing.load(Ordering::SeqCst) {
            return;
        }
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(shared);
        // Ends when its client closes the connection.
        thread::spawn(move || match shared.tls.clone() {
            None => serve(stream, number, &shared),
            Some(config) => {
                let session = ServerConnection::new(config).unwrap();
                serve(StreamOwned::new(session, stream), number, &shared);
            }
        });
    }
}

fn serve(stream: impl Read + Write, number: usize, shared: &Shared) {
    let mut stream = BufReader::with_capacity(1, stream);
    while let Some(mut seen) = read_head(&mut stream) {
        seen.connection = number;
        let length = seen
            .header("content-length")
            .map_or(0, |text| text.parse().unwrap());
        let reply = (shared.script)(&seen);
        if let Reply::Reset = reply {
            shared.seen.lock().unwrap().push(seen);
            return;
        }
        seen.body = vec![0; length];
        if stream.read_exact(&mut seen.body).is_err() {
            return;
        }
        shared.seen.lock().unwrap().push(seen);
        let (bytes, keep) = match reply {
            Reply::Answer(bytes) => (bytes, true),
            Reply::BreakOff(bytes) => (bytes, false),
            Reply::Silence | Reply::Reset => {
                let _ = stream.read(&mut [0]);
                return;
            }
        };
        let out = stream.get_mut();
        if out.write_all(&bytes).and_then(|()| out.flush()).is_err() || !keep {
            return;
        }
    }
}

fn read_head(stream: &mut impl BufRead) -> Option<Seen> {
    let mut first = String::new();
    stream.read_line(&mut first).ok()?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            return Some(Seen {
                method,
                path,
                headers,
                ..Seen::default()
            });
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}

fn certified() -> (ServerConfig, String) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();

    let key = KeyPair::generate().unwrap();
    let host = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let host = host.signed_by(&key, &authority).unwrap();

    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![host.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    (config, authority.pem())
}
