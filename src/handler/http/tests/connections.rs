//! Connections that are kept, and those that are not.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};

use ureq::http::Uri;
use ureq::unversioned::transport::Transport;
use url::Url;

use super::*;

/// A client and the server's side of what it opens.
struct Stage {
    client: client::Client,
    uri: Uri,
    listener: TcpListener,
}

impl Stage {
    fn new(most: usize) -> Stage {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let client = client::Client::new(&Url::parse(&url).unwrap(), None, most, None);
        Stage {
            client: client.unwrap(),
            uri: url.parse().unwrap(),
            listener,
        }
    }

    fn connection(&self) -> Result<Box<dyn Transport>, ureq::Error> {
        self.client.connection(&self.uri, monotonic() + PATIENCE)
    }

    /// Whether another connection has been opened.
    fn opened(&self) -> Option<TcpStream> {
        self.listener.accept().ok().map(|(stream, _)| stream)
    }
}

#[test]
fn a_kept_connection_is_used_again() {
    let stage = Stage::new(1);
    let connection = stage.connection().unwrap();
    let _server = stage.opened().expect("a connection");
    stage.client.keep(connection);
    let _again = stage.connection().unwrap();
    assert!(stage.opened().is_none());
}

#[test]
fn a_kept_connection_that_the_server_has_closed_or_spoken_on_is_not() {
    for speak in [false, true] {
        let stage = Stage::new(1);
        let mut connection = stage.connection().unwrap();
        let mut server = stage.opened().expect("a connection");
        assert!(connection.is_open());
        if speak {
            server.write_all(b"HTTP/1.1 408 Late\r\n\r\n").unwrap();
        } else {
            drop(server);
        }
        eventually(|| !connection.is_open());
        stage.client.keep(connection);
        let _another = stage.connection().unwrap();
        assert!(stage.opened().is_some(), "{speak}");
    }
}

#[test]
fn no_more_are_kept_than_are_used_at_once() {
    let stage = Stage::new(1);
    let two = [stage.connection().unwrap(), stage.connection().unwrap()];
    let _servers = [stage.opened().unwrap(), stage.opened().unwrap()];
    for connection in two {
        stage.client.keep(connection);
    }
    let _again = stage.connection().unwrap();
    assert!(stage.opened().is_none());
    let _another = stage.connection().unwrap();
    assert!(stage.opened().is_some());
}

#[test]
fn once_cut_nothing_is_open_and_nothing_opens() {
    let stage = Stage::new(2);
    let kept = stage.connection().unwrap();
    let mut in_use = stage.connection().unwrap();
    stage.client.keep(kept);
    stage.client.cut();
    assert!(!in_use.is_open());
    stage.client.keep(in_use);
    assert!(stage.connection().is_err());
}
