//! Where an answer ends, however it comes in pieces, and whether its connection is used again.

use std::collections::VecDeque;

use ureq::unversioned::transport::{Buffers, LazyBuffers, NextTimeout, Transport};

use super::exchange::{Answer, exchange};
use super::*;

/// Gives one piece after the other, then closes.
#[derive(Debug)]
struct Script {
    pieces: VecDeque<Vec<u8>>,
    sent: Vec<u8>,
    buffers: LazyBuffers,
}

impl Transport for Script {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        self.sent.extend(&self.buffers.output()[..amount]);
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let Some(piece) = self.pieces.pop_front() else {
            return Ok(false);
        };
        self.buffers.input_append_buf()[..piece.len()].copy_from_slice(&piece);
        self.buffers.input_appended(piece.len());
        Ok(true)
    }

    fn is_open(&mut self) -> bool {
        true
    }
}

fn answered(answer: &[u8], piece: usize) -> Result<Answer, ureq::Error> {
    answered_to(true, answer, piece)
}

fn answered_to(has_answer_body: bool, answer: &[u8], piece: usize) -> Result<Answer, ureq::Error> {
    let mut script = Script {
        pieces: answer.chunks(piece).map(<[u8]>::to_vec).collect(),
        sent: Vec::new(),
        buffers: LazyBuffers::new(128 << 10, 8),
    };
    let deadline = monotonic() + PATIENCE;
    let answer = exchange(
        &mut script,
        b"POST / HTTP/1.1\r\n\r\n",
        b"payload",
        has_answer_body,
        deadline,
    );
    assert_eq!(script.sent, b"POST / HTTP/1.1\r\n\r\npayload");
    answer
}

/// The whole at once, byte by byte, and in pieces of some sizes between.
fn in_pieces(answer: &str) -> impl Iterator<Item = usize> {
    [1, 2, 3, 7, 20, answer.len()].into_iter()
}

#[test]
fn the_end_of_an_answer_is_where_its_head_says() {
    for (answer, body, is_reusable) in [
        ("HTTP/1.1 204 None\r\n\r\n", "", true),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine",
            "fine",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nfine",
            "fine",
            true,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "", true),
        ("HTTP/1.1 204 None\r\ncontent-length: 4\r\n\r\n", "", true),
        ("HTTP/1.1 304 Same\r\ncontent-length: 4\r\n\r\n", "", true),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n\
             3;x=1\r\nfin\r\n01\r\ne\r\n0\r\n\r\n",
            "fine",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
             4\r\nfine\r\n0\r\nx-sum: 1\r\n\r\n",
            "fine",
            true,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine",
            "fine",
            true,
        ),
        // The connection is of no further use.
        ("HTTP/1.1 200 OK\r\n\r\nfine", "fine", false),
        (
            "HTTP/1.1 200 OK\r\nconnection: Upgrade, Close\r\ncontent-length: 4\r\n\r\nfine",
            "fine",
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nfine",
            "fine",
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 4\r\n\r\nfine",
            "fine",
            true,
        ),
        ("HTTP/1.1 101 Switch\r\nupgrade: x\r\n\r\n", "", false),
        // All data is there, though the very end is not.
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n",
            "fine",
            false,
        ),
        // The encoding says where the end is, and not the length.
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n\
             4\r\nfine\r\n0\r\n\r\n",
            "fine",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ncontent-length: 1\r\n\r\nfine",
            "fine",
            false,
        ),
    ] {
        for piece in in_pieces(answer) {
            let got = answered(answer.as_bytes(), piece).unwrap();
            let text = String::from_utf8_lossy(&got.body);
            assert!(got.broken.is_none(), "{answer:?}: {got:?}");
            assert_eq!((&*text, got.is_reusable), (body, is_reusable), "{answer:?}");
        }
    }
}

#[test]
fn what_comes_behind_an_answer_is_no_answer_to_the_next_request() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfineHTTP/1.1 200 OK\r\n\r\n";
    let got = answered(answer, answer.len()).unwrap();
    assert_eq!((&*got.body, got.is_reusable), (&b"fine"[..], false));
}

#[test]
fn an_answer_to_a_head_has_no_body_whatever_its_length_says() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n";
    let got = answered_to(false, answer, answer.len()).unwrap();
    assert!(got.broken.is_none() && got.is_reusable, "{got:?}");
}

#[test]
fn a_body_that_breaks_off_leaves_its_status_and_its_beginning() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf and more\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nno size\r\n",
    ] {
        for piece in in_pieces(answer) {
            let got = answered(answer.as_bytes(), piece).unwrap();
            assert_eq!((got.status.as_u16(), &*got.body), (200, &b"half"[..]));
            assert!(
                got.broken.is_some() && !got.is_reusable,
                "{answer:?}: {got:?}"
            );
        }
    }
}

#[test]
fn what_is_no_answer_is_an_error() {
    for answer in [
        "",
        "HTTP/1.1 20",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 099 Less\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +4\r\n\r\nfine",
        "HTTP/1.1 200 OK\r\ncontent-length: 4, 5\r\n\r\nfine!",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nfine!",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nfine",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        let got = answered(answer.as_bytes(), answer.len().max(1));
        assert!(got.is_err(), "{answer:?}: {got:?}");
    }
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(200_000));
    let error = answered(endless.as_bytes(), 1000).unwrap_err().to_string();
    assert!(error.contains("its head is too long"), "{error}");
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(1000));
    answered(many.as_bytes(), 1000).unwrap_err();
}

#[test]
fn a_long_body_is_read_to_its_bound_and_no_further() {
    let long = "x".repeat(100 << 10);
    for answer in [
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{long}",
            long.len()
        ),
        format!("HTTP/1.1 200 OK\r\n\r\n{long}"),
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n19000\r\n{long}\r\n0\r\n\r\n"
        ),
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
            "1\r\nx\r\n".repeat(100 << 10)
        ),
    ] {
        let got = answered(answer.as_bytes(), 4096).unwrap();
        assert!(got.broken.is_none() && !got.is_reusable);
        assert_eq!(got.body.len(), 64 << 10);
    }
}
