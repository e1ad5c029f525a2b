//! The `ureq` agent of one type: TLS roots, proxy, connection reuse, and the one fact that decides
//! between "never started" and "lost": whether a byte of the request has left ([`sent`]).
//!
//! `ureq` itself never sends a request twice: it probes a pooled connection before use, and an
//! error after that is returned. Redirects are followed by [`super::request`], not here.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, NextTimeout,
    RustlsConnector, Transport,
};
use ureq::{Agent, Proxy};
use url::{Host, Url};

use super::request::USER_AGENT;
use super::resolve::Names;
use super::wire::Tcp;

/// How long an unused connection is kept. Servers close idle connections after 2 s (gunicorn) or
/// 5 s (Apache, Node); a request sent into that moment would be lost, though nobody saw it.
/// (Tests count connections on machines that may be slow.)
const IDLE: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 1500 });

/// Builds the agent: `timeout` bounds a request from name resolution to the end of its answer,
/// `connections` are kept open at most. `ca_file` is read here, and only for an `https` URL.
pub(super) fn agent(
    url: &Url,
    ca_file: Option<&Path>,
    timeout: Duration,
    connections: usize,
    proxy: Option<Proxy>,
) -> anyhow::Result<Agent> {
    let roots = match ca_file {
        Some(file) if url.scheme() == "https" => with_built_in(authorities(file)?),
        _ => RootCerts::WebPki,
    };
    let marking = Marking {
        proxied: proxy.is_some(),
    };
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .allow_non_standard_methods(true)
        .user_agent(USER_AGENT)
        .timeout_global(Some(timeout))
        .max_idle_connections(connections)
        .max_idle_connections_per_host(connections)
        .max_idle_age(IDLE)
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .proxy(proxy)
        .build();
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(Tcp)
            .chain(RustlsConnector::default())
            .chain(marking);
    Ok(Agent::with_parts(config, connector, Names::default()))
}

fn authorities(file: &Path) -> anyhow::Result<Vec<Certificate<'static>>> {
    let shown = file.display();
    let pem = fs::read(file).with_context(|| format!("ca_file {shown}: cannot be read"))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        let item = item.with_context(|| format!("ca_file {shown}: is no PEM file"))?;
        if let PemItem::Certificate(certificate) = item {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        bail!("ca_file {shown}: holds no certificate; give one as PEM (BEGIN CERTIFICATE)");
    }
    Ok(found)
}

fn with_built_in(own: Vec<Certificate<'static>>) -> RootCerts {
    let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
    let built_in = built_in
        .iter()
        .map(|certificate| Certificate::from_der(certificate));
    RootCerts::from(own.into_iter().chain(built_in))
}

/// The environment's proxy (`https_proxy` and its kin), unless `no_proxy` excepts the host or it
/// is this machine: nobody means a proxy to reach into his own loopback.
pub(super) fn proxy_for(url: &Url) -> Option<Proxy> {
    let local = match url.host()? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    if local {
        return None;
    }
    let uri = url.as_str().parse().ok()?;
    Proxy::try_from_env().filter(|proxy| !proxy.is_no_proxy(&uri))
}

thread_local! {
    static SENT: Cell<bool> = const { Cell::new(false) };
}

/// Begins a request on this thread: nothing is sent yet.
pub(super) fn nothing_sent() {
    SENT.set(false);
}

/// Whether this thread has begun to hand its request to an established connection (after the TLS
/// handshake). While it has not, the server cannot have acted.
pub(super) fn sent() -> bool {
    SENT.get()
}

/// Puts a [`Marked`] around each connection that requests are written to.
#[derive(Debug)]
struct Marking {
    /// Behind a proxy the chain runs twice: once, with a configuration that names no proxy, for
    /// the connection to the proxy itself, which carries the CONNECT and the handshake.
    proxied: bool,
}

impl<In: Transport> Connector<In> for Marking {
    type Out = Either<In, Marked<In>>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let is_outermost = details.config.proxy().is_some() == self.proxied;
        Ok(chained.map(|inner| {
            if is_outermost {
                Either::B(Marked(inner))
            } else {
                Either::A(inner)
            }
        }))
    }
}

/// A connection that notes the first write. The calling thread is the one that awaits the answer,
/// so the note is a thread's own.
#[derive(Debug)]
struct Marked<In>(In);

impl<In: Transport> Transport for Marked<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        SENT.set(true);
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}
