//! Behind a proxy the CONNECT and the handshake are written too, yet nothing of the event.

use ureq::Proxy;
use url::Url;

use super::server::{Reply, Server, answer};
use super::*;

/// Sends through `proxy`: the status, where one came, and whether the event may have been seen.
fn through(proxy: &Server, url: &str) -> (Option<u16>, bool) {
    let url = Url::parse(url).unwrap();
    let proxy = Proxy::new(&proxy.url("")).unwrap();
    let client = client::Client::new(&url, None, 1, Some(proxy)).unwrap();
    let deadline = monotonic() + PATIENCE;
    let Ok(mut connection) = client.connection(&url.as_str().parse().unwrap(), deadline) else {
        return (None, false);
    };
    let head = b"POST / HTTP/1.1\r\nhost: site.invalid\r\ncontent-length: 7\r\n\r\n";
    let answer = exchange::exchange(&mut *connection, head, b"payload", true, deadline);
    (answer.ok().map(|answer| answer.status.as_u16()), true)
}

fn tunnel() -> Reply {
    Reply::Answer(b"HTTP/1.1 200 Connected\r\n\r\n".to_vec())
}

#[test]
fn a_proxy_that_refuses_has_passed_nothing_on() {
    let proxy = Server::start(|_| answer("407 Who", "", ""));
    assert_eq!(through(&proxy, "http://site.invalid/"), (None, false));
    assert_eq!(proxy.seen()[0].method, "CONNECT");
}

#[test]
fn a_handshake_that_fails_in_the_tunnel_has_sent_nothing() {
    let proxy = Server::start(|_| Reply::BreakOff(b"HTTP/1.1 200 Connected\r\n\r\n".to_vec()));
    assert_eq!(through(&proxy, "https://site.invalid/"), (None, false));
}

#[test]
fn a_request_in_the_tunnel_is_sent_whether_answered_or_not() {
    let proxy = Server::start(|seen| {
        if seen.method == "CONNECT" {
            tunnel()
        } else {
            ok()
        }
    });
    assert_eq!(through(&proxy, "http://site.invalid/"), (Some(200), true));
    let seen = proxy.seen();
    assert_eq!(
        (&*seen[0].path, &*seen[1].body),
        ("site.invalid:80", &b"payload"[..])
    );

    let proxy = Server::start(|seen| match &*seen.method {
        "CONNECT" => tunnel(),
        _ => Reply::Reset,
    });
    assert_eq!(through(&proxy, "http://site.invalid/"), (None, true));
}

#[test]
fn no_proxy_is_asked_to_reach_this_machine() {
    for url in ["http://localhost:1/", "http://127.0.0.1/", "https://[::1]/"] {
        assert!(
            client::proxy_for(&Url::parse(url).unwrap()).is_none(),
            "{url}"
        );
    }
}
