//! Name resolution for [`super::client`]: within the request's deadline, and gently.
//!
//! `ureq` asks for the address before each request, also where it then uses an open connection,
//! and its own resolver starts a thread each time with a call that panics where the host allows no
//! more threads. Here an answer serves for [`FRESH`], and a refused thread is an error.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::Scheme;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::clock::monotonic;

/// How long addresses are used without asking again.
const FRESH: Duration = Duration::from_secs(5);
/// As many as `ureq` tries.
const MOST: usize = 16;

/// Remembers the last name: a type has one URL.
#[derive(Debug, Default)]
pub(super) struct Names {
    last: Mutex<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    name: String,
    until: Instant,
    addresses: Vec<SocketAddr>,
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let name = host_and_port(uri).ok_or(ureq::Error::HostNotFound)?;
        let addresses = match self.remembered(&name) {
            Some(addresses) => addresses,
            None => self.look_up(name, timeout)?,
        };
        if addresses.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        let mut result = self.empty();
        for address in addresses.into_iter().take(MOST) {
            result.push(address);
        }
        Ok(result)
    }
}

impl Names {
    fn remembered(&self, name: &str) -> Option<Vec<SocketAddr>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.as_ref().filter(|known| known.name == name)?;
        (monotonic() < known.until).then(|| known.addresses.clone())
    }

    fn look_up(&self, name: String, timeout: NextTimeout) -> Result<Vec<SocketAddr>, ureq::Error> {
        let addresses = match name.parse::<SocketAddr>() {
            Ok(address) => vec![address],
            Err(_) => ask(name.clone(), timeout)?,
        };
        let known = Known {
            name,
            until: monotonic() + FRESH,
            addresses: addresses.clone(),
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(addresses)
    }
}

/// `host:port`, the host in brackets where it is an IPv6 address.
fn host_and_port(uri: &Uri) -> Option<String> {
    let default = if uri.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    };
    Some(format!(
        "{}:{}",
        uri.host()?,
        uri.port_u16().unwrap_or(default)
    ))
}

/// The system's resolver cannot be interrupted: its thread is left behind when it is too slow.
fn ask(name: String, timeout: NextTimeout) -> Result<Vec<SocketAddr>, ureq::Error> {
    let (answer, answered) = mpsc::sync_channel(1);
    let work = move || {
        let found = name.to_socket_addrs().map(Iterator::collect);
        let _ = answer.send(found); // nobody waits any more
    };
    thread::Builder::new()
        .name("resolve".to_owned())
        .spawn(work)?;
    match answered.recv_timeout(*timeout.after) {
        Ok(found) => Ok(found?),
        Err(RecvTimeoutError::Timeout) => Err(ureq::Error::Timeout(timeout.reason)),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the resolver ended").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(names: &Names, uri: &str) -> Result<Vec<SocketAddr>, ureq::Error> {
        let timeout = NextTimeout {
            after: Duration::from_secs(30).into(),
            ..NextTimeout::default()
        };
        let config = Config::builder().build();
        let found = names.resolve(&uri.parse().unwrap(), &config, timeout)?;
        Ok(found.iter().copied().collect())
    }

    #[test]
    fn addresses_are_taken_as_they_are_with_the_scheme_s_port() {
        let names = Names::default();
        for (uri, address) in [
            ("http://127.0.0.1/x", "127.0.0.1:80"),
            ("https://127.0.0.1/x", "127.0.0.1:443"),
            ("https://127.0.0.1:8443/", "127.0.0.1:8443"),
            ("http://[::1]:8080/", "[::1]:8080"),
        ] {
            assert_eq!(
                resolve(&names, uri).unwrap(),
                [address.parse().unwrap()],
                "{uri}"
            );
        }
    }

    #[test]
    fn a_name_is_looked_up_and_remembered() {
        let names = Names::default();
        let found = resolve(&names, "http://localhost:81/").unwrap();
        assert!(
            found
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 81)
        );
        assert_eq!(names.remembered("localhost:81"), Some(found));
        assert_eq!(names.remembered("localhost:82"), None);
    }
}
