//! A web server of a test's own, over real sockets, with TLS where asked: notes what it is sent and
//! answers as the test says.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Such as `POST /hook HTTP/1.1`.
    pub(crate) line: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// What a request gets.
pub(crate) enum Reply {
    /// Status line without the version, header lines each ended by CRLF, body.
    Answer(&'static str, String, String),
    /// Nothing, for as long as the server lives.
    Silence,
    /// The connection is reset (RST) before the request has come in whole; so it is not noted.
    /// The body must be larger than what is read of it.
    Reset,
}

/// Listens on a loopback port until dropped.
pub(crate) struct Web {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

struct Shared {
    asked: Mutex<Vec<Asked>>,
    reply: Box<dyn Fn(&Asked) -> Reply + Send + Sync>,
    tls: Option<Arc<ServerConfig>>,
    over: AtomicBool,
}

impl Asked {
    /// A header's value; empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }
}

impl Reply {
    /// An answer without headers of its own.
    pub(crate) fn plain(status: &'static str, body: &str) -> Self {
        Self::Answer(status, String::new(), body.to_owned())
    }
}

impl Web {
    pub(crate) fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen("http", None, Box::new(reply))
    }

    /// With TLS, for `localhost`; also the PEM of the authority that vouches for it.
    pub(crate) fn start_tls(
        reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> (Self, String) {
        let (tls, authority) = certified();
        (
            Self::listen("https", Some(Arc::new(tls)), Box::new(reply)),
            authority,
        )
    }

    fn listen(
        scheme: &'static str,
        tls: Option<Arc<ServerConfig>>,
        reply: Box<dyn Fn(&Asked) -> Reply + Send + Sync>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("a bound address");
        let asked = Mutex::default();
        let over = AtomicBool::new(false);
        let shared = Arc::new(Shared {
            asked,
            reply,
            tls,
            over,
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.over.load(Ordering::Relaxed) {
                    return;
                }
                let serving = Arc::clone(&serving);
                // A client that goes away in between is part of some tests.
                thread::spawn(move || serving.serve(&stream).ok());
            }
        });
        Self {
            address,
            scheme,
            shared,
        }
    }

    /// The address of a path, by name, as a certificate wants it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.address.port())
    }

    /// All requests so far whose head and body came in whole.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared
            .asked
            .lock()
            .expect("no panic while it is held")
            .clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address); // wakes the listener
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        match &self.tls {
            None => self.answer(stream),
            Some(tls) => {
                let connection = ServerConnection::new(Arc::clone(tls));
                let connection = connection.map_err(std::io::Error::other)?;
                self.answer(StreamOwned::new(connection, stream))
            }
        }
    }

    fn answer(&self, mut stream: impl Read + Write) -> std::io::Result<()> {
        let mut reader = BufReader::new(&mut stream);
        let mut asked = read_head(&mut reader)?;
        let reply = (self.reply)(&asked);
        if let Reply::Reset = reply {
            return Ok(()); // closed with something unread: that is what sends RST
        }
        let length = asked.header("content-length").parse().unwrap_or(0);
        reader.take(length).read_to_string(&mut asked.body)?;
        self.asked
            .lock()
            .expect("no panic while it is held")
            .push(asked);
        match reply {
            Reply::Answer(status, headers, body) => {
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\
                     Connection: close\r\n\r\n{body}"
                )?;
                stream.flush()
            }
            Reply::Silence => {
                while !self.over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            }
            Reply::Reset => Ok(()),
        }
    }
}

fn read_head(reader: &mut impl std::io::BufRead) -> std::io::Result<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let asked = Asked {
        line: line.trim_end().to_owned(),
        headers,
        body: String::new(),
    };
    if asked.line.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(asked)
}

/// A certificate for `localhost` by an authority made for the occasion.
fn certified() -> (ServerConfig, String) {
    let mut of_authority = rcgen::CertificateParams::new(Vec::<String>::new()).expect("no names");
    of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let authority = of_authority
        .self_signed(&authority_key)
        .expect("a certificate")
        .pem();
    let issuer = rcgen::Issuer::new(of_authority, authority_key);
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let key = rcgen::KeyPair::generate().expect("a key");
    let chain = vec![
        params
            .signed_by(&key, &issuer)
            .expect("a certificate")
            .der()
            .clone(),
    ];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a key that fits");
    (config, authority)
}
