//! The connections of one type: TLS roots, proxy, connection reuse, and what opens them, which is
//! `ureq`'s: its CONNECT and its TLS around our own sockets ([`super::wire`]).
//!
//! Opening is apart from using, so that "never started" and "lost" are: until a connection stands,
//! behind the proxy and after the handshake, nothing of an event has left. A connection that was
//! kept is looked at before it is used again; what fails after that is not repeated.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ureq::config::{Config, ConfigBuilder};
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::Resolver as _;
use ureq::unversioned::transport::time::Instant as Moment;
use ureq::unversioned::transport::{
    ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector,
    ShutdownHandle, Transport,
};
use ureq::{Agent, Proxy, Timeout};
use url::{Host, Url};

use super::request::USER_AGENT;
use super::resolve::Names;
use super::wire::Tcp;
use crate::clock::monotonic;

/// How long an unused connection is kept. Servers close idle connections after 2 s (gunicorn) or
/// 5 s (Apache, Node); a request sent into that moment would be lost, though nobody saw it.
/// (Tests count connections on machines that may be slow.)
const IDLE: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 1500 });

/// Opens connections to one origin and keeps those that are not in use.
pub(super) struct Client {
    config: Config,
    connector: Arc<Chain>,
    names: Names,
    /// The most that are kept.
    most: usize,
    idle: Mutex<Vec<Idle>>,
    open: Arc<Mutex<Open>>,
}

type Chain = dyn Connector<(), Out = Box<dyn Transport>>;

struct Idle {
    since: Instant,
    connection: Box<dyn Transport>,
}

/// What [`Client::cut`] has to close.
#[derive(Default)]
struct Open {
    handles: Vec<Weak<dyn ShutdownHandle>>,
    is_cut: bool,
}

impl Client {
    /// Keeps `most` connections at most. `ca_file` is read here, and only for an `https` URL.
    pub(super) fn new(
        url: &Url,
        ca_file: Option<&Path>,
        most: usize,
        proxy: Option<Proxy>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            config: config(url, ca_file, proxy)?.build(),
            connector: Arc::new(connector()),
            names: Names::default(),
            most,
            idle: Mutex::default(),
            open: Arc::default(),
        })
    }

    /// A connection to where `uri` points: one that was kept, or a new one by `deadline`.
    ///
    /// # Errors
    /// No connection; the server cannot have seen anything.
    pub(super) fn connection(
        &self,
        uri: &Uri,
        deadline: Instant,
    ) -> Result<Box<dyn Transport>, ureq::Error> {
        while let Some(mut connection) = self.kept() {
            if connection.is_open() {
                return Ok(connection);
            }
        }
        self.open(uri, deadline)
    }

    fn kept(&self) -> Option<Box<dyn Transport>> {
        let mut idle = locked(&self.idle);
        let last = idle.pop()?;
        if last.since + IDLE > monotonic() {
            return Some(last.connection);
        }
        idle.clear(); // older still
        None
    }

    /// Keeps a connection for later.
    pub(super) fn keep(&self, connection: Box<dyn Transport>) {
        let mut idle = locked(&self.idle);
        if idle.len() < self.most && !locked(&self.open).is_cut {
            let since = monotonic();
            idle.push(Idle { since, connection });
        }
    }

    fn open(&self, uri: &Uri, deadline: Instant) -> Result<Box<dyn Transport>, ureq::Error> {
        let began = monotonic();
        let timeout = NextTimeout {
            after: deadline.saturating_duration_since(began).into(),
            ..NextTimeout::default()
        };
        if timeout.after.is_zero() {
            return Err(ureq::Error::Timeout(Timeout::Global));
        }
        let addrs = match self.config.proxy() {
            Some(proxy) if !proxy.is_no_proxy(uri) && !proxy.resolve_target() => self.names.empty(),
            _ => self.names.resolve(uri, &self.config, timeout)?,
        };
        let connector = Arc::clone(&self.connector);
        let open = Arc::clone(&self.open);
        let details = ConnectionDetails {
            uri,
            addrs,
            config: &self.config,
            request_level: false,
            resolver: &self.names,
            now: Moment::Exact(began),
            timeout: NextTimeout {
                after: deadline.saturating_duration_since(monotonic()).into(),
                ..timeout
            },
            current_time: Arc::new(|| Moment::Exact(monotonic())),
            run_connector: Arc::new(move |details| opened(&*connector, details)),
            register_shutdown: Arc::new(move |handle| locked(&open).add(handle)),
        };
        let connection = opened(&*self.connector, &details)?;
        if details.needs_tls() && !connection.is_tls() {
            return Err(ureq::Error::TlsRequired);
        }
        Ok(connection)
    }

    /// Closes every connection, those in use too, and lets no new one be made.
    pub(super) fn cut(&self) {
        let handles = {
            let mut open = locked(&self.open);
            open.is_cut = true;
            std::mem::take(&mut open.handles)
        };
        locked(&self.idle).clear();
        for handle in handles.iter().filter_map(Weak::upgrade) {
            handle.shutdown();
        }
    }
}

impl Open {
    fn add(&mut self, handle: Weak<dyn ShutdownHandle>) -> Result<(), ureq::Error> {
        if self.is_cut {
            return Err(io::Error::new(ErrorKind::NotConnected, "the run was stopped").into());
        }
        self.handles.retain(|handle| handle.strong_count() > 0);
        self.handles.push(handle);
        Ok(())
    }
}

fn opened(
    chain: &Chain,
    details: &ConnectionDetails<'_>,
) -> Result<Box<dyn Transport>, ureq::Error> {
    let connection = chain.connect(details, None)?;
    connection.ok_or(ureq::Error::ConnectionFailed)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Through the proxy or not, with TLS where the address says so.
fn connector() -> impl Connector<(), Out = Box<dyn Transport>> {
    ().chain(ConnectProxyConnector::default())
        .chain(Tcp)
        .chain(RustlsConnector::default())
        .chain(Boxed)
}

#[derive(Debug)]
struct Boxed;

impl<In: Transport> Connector<In> for Boxed {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        _details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(|inner| Box::new(inner) as Box<dyn Transport>))
    }
}

/// An agent for a single request, which `timeout` bounds from name resolution to the end of its
/// answer.
pub(super) fn agent(url: &Url, timeout: Duration, proxy: Option<Proxy>) -> anyhow::Result<Agent> {
    let config = config(url, None, proxy)?
        .timeout_global(Some(timeout))
        .build();
    Ok(Agent::with_parts(config, connector(), Names::default()))
}

fn config(
    url: &Url,
    ca_file: Option<&Path>,
    proxy: Option<Proxy>,
) -> anyhow::Result<ConfigBuilder<AgentScope>> {
    let roots = match ca_file {
        Some(file) if url.scheme() == "https" => with_built_in(authorities(file)?),
        _ => RootCerts::WebPki,
    };
    Ok(Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(USER_AGENT)
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .proxy(proxy))
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
