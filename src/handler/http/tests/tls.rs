//! Trust: which certificates are accepted, and that nothing is sent to any other.

use super::server::{Reply, Server};
use super::*;

#[test]
fn a_certificate_of_an_unknown_authority_means_not_started() {
    let (server, _) = Server::start_tls(|_| ok());
    assert_not_started(&fire_at(&server), "certificate");
    assert_eq!(server.seen().len(), 0);
    // Nothing to send beside the head: the error is the same.
    let verdict = Runner::of(&http(server.url("/")))
        .fire(event(1, b""))
        .verdict;
    assert_not_started(&verdict, "certificate");
}

fn with_authority(server: &Server, pem: &str) -> (HttpConfig, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let mut http = http(server.url("/"));
    http.ca_file = Some(file.path().to_owned());
    (http, file)
}

#[test]
fn a_ca_file_is_trusted_and_connections_are_kept_under_tls() {
    let (server, authority) = Server::start_tls(|_| ok());
    let (http, _file) = with_authority(&server, &authority);
    let mut runner = Runner::of(&http);
    for id in 1..=3 {
        assert_eq!(runner.fire(event(id, b"{}")).verdict, Verdict::Done);
    }
    assert_eq!((server.seen().len(), server.connections()), (3, 1));
}

#[test]
fn another_authority_s_ca_file_does_not_help() {
    let (server, _) = Server::start_tls(|_| ok());
    let (_other, authority) = Server::start_tls(|_| ok());
    let (http, _file) = with_authority(&server, &authority);
    let verdict = Runner::of(&http).fire(event(1, b"{}")).verdict;
    assert_not_started(&verdict, "certificate");
}

#[test]
fn a_certificate_for_another_name_means_not_started() {
    let (server, authority) = Server::start_tls(|_| ok());
    let (mut http, _file) = with_authority(&server, &authority);
    http.url = http.url.replace("localhost", "127.0.0.1");
    let verdict = Runner::of(&http).fire(event(1, b"{}")).verdict;
    assert_not_started(&verdict, "certificate");
}

#[test]
fn tls_answers_break_off_and_time_out_like_others() {
    let (server, authority) = Server::start_tls(|_| Reply::BreakOff(b"HTTP/1.1 20".to_vec()));
    let (http, _file) = with_authority(&server, &authority);
    assert_lost(&Runner::of(&http).fire(event(1, b"")).verdict, "was lost");

    let (server, authority) = Server::start_tls(|_| Reply::Silence);
    let (http, _file) = with_authority(&server, &authority);
    let timeout = Duration::from_secs(2);
    let mut runner = Runner::with(&http, |config| config.timeout = timeout);
    assert_lost(&runner.fire(event(1, b"")).verdict, "within 2s");
}

#[test]
fn a_server_that_says_nothing_before_tls_has_seen_no_event() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", silent.local_addr().unwrap());
    let timeout = Duration::from_secs(1);
    let mut runner = Runner::with(&http(url), |config| config.timeout = timeout);
    assert_not_started(
        &runner.fire(event(1, b"{}")).verdict,
        "no connection to https://127",
    );
}
