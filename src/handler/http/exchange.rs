//! One request and its answer over an open connection: HTTP/1.1 as a client needs it (RFC 9112).
//!
//! `ureq` opens the connection; it would make the exchange as well, but for an event at a local
//! server that costs as much again as the system calls do: header maps are built and taken apart,
//! addresses parsed, a pool searched. Here the head is bytes that are there already and a few
//! numbers, and of the answer no more is looked at than is asked for.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::time::Instant;

use httparse::{Header, ParserConfig, Status, parse_chunk_size};
use ureq::Timeout;
use ureq::http::StatusCode;
use ureq::unversioned::transport::{NextTimeout, Transport};

use crate::clock::monotonic;

/// How much of an answer's body is read at most; a connection with more to come is not used again.
const MAX_BODY_BYTES: usize = 64 << 10;
/// The longest head of an answer, and the longest part of a body that is no data.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 128;

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The last header of that name.
    pub(super) location: Option<Vec<u8>>,
    pub(super) retry_after: Option<Vec<u8>>,
    /// The beginning of the body.
    pub(super) body: Vec<u8>,
    /// What kept the end of the body away.
    pub(super) broken: Option<ureq::Error>,
    /// Whether the connection may carry another request.
    pub(super) is_reusable: bool,
}

/// Sends `head` and `body` and reads the answer, all before `deadline`. `has_answer_body` is false
/// for HEAD.
///
/// # Errors
/// No answer, or none that could be read.
pub(super) fn exchange(
    connection: &mut dyn Transport,
    head: &[u8],
    body: &[u8],
    has_answer_body: bool,
    deadline: Instant,
) -> Result<Answer, ureq::Error> {
    let mut line = Line {
        connection,
        deadline,
    };
    line.send(head)?;
    line.send(body)?;
    let (mut answer, mut framing, mut may_stay) = loop {
        let (answer, framing, may_stay) = line.head()?;
        // Hints and permissions go before the answer proper.
        if !answer.status.is_informational() || answer.status == StatusCode::SWITCHING_PROTOCOLS {
            break (answer, framing, may_stay);
        }
    };
    let status = answer.status;
    if !has_answer_body || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        framing = Framing::Sized(0);
    } else if status == StatusCode::SWITCHING_PROTOCOLS {
        framing = Framing::Sized(0);
        may_stay = false;
    }
    let is_whole = match line.body(framing, &mut answer.body) {
        Ok(is_whole) => is_whole,
        Err(error) => {
            answer.broken = Some(error);
            false
        }
    };
    answer.is_reusable = may_stay && is_whole && line.input().is_empty();
    Ok(answer)
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Sized(u64),
    Chunked,
    UntilClosed,
}

struct Line<'c> {
    connection: &'c mut dyn Transport,
    deadline: Instant,
}

impl Line<'_> {
    fn timeout(&self) -> Result<NextTimeout, ureq::Error> {
        let left = self.deadline.saturating_duration_since(monotonic());
        if left.is_zero() {
            return Err(ureq::Error::Timeout(Timeout::Global));
        }
        Ok(NextTimeout {
            after: left.into(),
            ..NextTimeout::default()
        })
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), ureq::Error> {
        while !bytes.is_empty() {
            let room = self.connection.buffers().output();
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            let timeout = self.timeout()?;
            self.connection.transmit_output(now.len(), timeout)?;
            bytes = later;
        }
        Ok(())
    }

    fn input(&mut self) -> &[u8] {
        self.connection.buffers().input()
    }

    fn consume(&mut self, amount: usize) {
        self.connection.buffers().input_consume(amount);
    }

    /// Waits for more than there is. `false`: the other side has closed.
    fn more(&mut self) -> Result<bool, ureq::Error> {
        let timeout = self.timeout()?;
        self.connection.await_input(timeout)
    }

    /// One head, and whether the connection stays open behind its body.
    fn head(&mut self) -> Result<(Answer, Framing, bool), ureq::Error> {
        loop {
            let input = self.input();
            if let Some((used, head)) = parse(input)? {
                self.consume(used);
                return Ok(head);
            }
            if input.len() >= MAX_HEAD_BYTES {
                return Err(unreadable("its head is too long"));
            }
            if !self.more()? {
                return Err(closed());
            }
        }
    }

    /// Reads the body, or its beginning. Whether all of it was read.
    fn body(&mut self, framing: Framing, body: &mut Vec<u8>) -> Result<bool, ureq::Error> {
        match framing {
            Framing::Sized(length) => self.piece(length, body),
            Framing::Chunked => self.chunks(body),
            Framing::UntilClosed => {
                while self.take(usize::MAX, body) {
                    if self.input().is_empty() && !self.more()? {
                        break;
                    }
                }
                Ok(false)
            }
        }
    }

    /// Moves what is there, `most` at most, to `body`. `false`: that is full.
    fn take(&mut self, most: usize, body: &mut Vec<u8>) -> bool {
        let input = self.input();
        let count = input.len().min(most).min(MAX_BODY_BYTES - body.len());
        body.extend_from_slice(&input[..count]);
        self.consume(count);
        body.len() < MAX_BODY_BYTES
    }

    fn piece(&mut self, mut left: u64, body: &mut Vec<u8>) -> Result<bool, ureq::Error> {
        loop {
            let before = body.len();
            let has_room = self.take(usize::try_from(left).unwrap_or(usize::MAX), body);
            left -= (body.len() - before) as u64;
            if left == 0 || !has_room {
                return Ok(left == 0);
            }
            if !self.more()? {
                return Err(closed());
            }
        }
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Result<bool, ureq::Error> {
        loop {
            let size = self.chunk_size()?;
            if size == 0 {
                return self.trailer();
            }
            if !self.piece(size, body)? {
                return Ok(false);
            }
            let end = self.text_line()?.ok_or_else(closed)?;
            if !end.is_empty() {
                return Err(unreadable("a chunk is longer than it said"));
            }
        }
    }

    fn chunk_size(&mut self) -> Result<u64, ureq::Error> {
        loop {
            let input = self.input();
            let parsed = parse_chunk_size(input);
            if let Status::Complete((used, size)) =
                parsed.map_err(|_| unreadable("a chunk has no size"))?
            {
                self.consume(used);
                return Ok(size);
            }
            if input.len() >= MAX_HEAD_BYTES {
                return Err(unreadable("a chunk's size is too long"));
            }
            if !self.more()? {
                return Err(closed());
            }
        }
    }

    /// What follows the last chunk: all data is there, whether this comes or not.
    fn trailer(&mut self) -> Result<bool, ureq::Error> {
        let mut bytes = 0;
        while let Some(line) = self.text_line()? {
            if line.is_empty() {
                return Ok(true);
            }
            bytes += line.len();
            if bytes > MAX_HEAD_BYTES {
                break;
            }
        }
        Ok(false)
    }

    /// The next line without its end; `None`: the other side has closed before.
    fn text_line(&mut self) -> Result<Option<Vec<u8>>, ureq::Error> {
        loop {
            let input = self.input();
            if let Some(end) = input.iter().position(|&byte| byte == b'\n') {
                let line = &input[..end];
                let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
                self.consume(end + 1);
                return Ok(Some(line));
            }
            if input.len() >= MAX_HEAD_BYTES {
                return Err(unreadable("a line is too long"));
            }
            if !self.more()? {
                return Ok(None);
            }
        }
    }
}

type Head = (Answer, Framing, bool);

/// The head at the beginning of `input` and its length, if it is all there.
fn parse(input: &[u8]) -> Result<Option<(usize, Head)>, ureq::Error> {
    if input.is_empty() {
        return Ok(None);
    }
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let outcome = ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        input,
        &mut headers,
    );
    let used = match outcome {
        Ok(Status::Complete(used)) => used,
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(unreadable(&error.to_string())),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or_else(|| unreadable("its status is no number from 100"))?;
    let headers = &*parsed.headers;
    let is_old = parsed.version == Some(0);
    let mut length = None;
    for value in words(headers, "content-length") {
        let number = number(value).ok_or_else(|| unreadable("its length is no number"))?;
        if length.replace(number).is_some_and(|other| other != number) {
            return Err(unreadable("it has several lengths"));
        }
    }
    let is_chunked = says(headers, "transfer-encoding", "chunked");
    let is_coded = values(headers, "transfer-encoding").next().is_some();
    let framing = match length {
        _ if is_chunked && !is_old => Framing::Chunked,
        Some(length) if !is_coded => Framing::Sized(length),
        _ => Framing::UntilClosed,
    };
    let may_stay = !says(headers, "connection", "close")
        && (!is_old || says(headers, "connection", "keep-alive"));
    let last = |name| values(headers, name).last().map(<[u8]>::to_vec);
    let answer = Answer {
        status,
        location: last("location"),
        retry_after: last("retry-after"),
        body: Vec::new(),
        broken: None,
        is_reusable: false,
    };
    Ok(Some((used, (answer, framing, may_stay))))
}

fn values<'h>(headers: &'h [Header<'_>], name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    let named = headers
        .iter()
        .filter(move |it| it.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value)
}

/// What stands between the commas of all headers of that name.
fn words<'h>(headers: &'h [Header<'_>], name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    let lists = values(headers, name).flat_map(|value| value.split(|&byte| byte == b','));
    lists.map(<[u8]>::trim_ascii)
}

fn says(headers: &[Header<'_>], name: &str, word: &str) -> bool {
    words(headers, name).any(|it| it.eq_ignore_ascii_case(word.as_bytes()))
}

fn number(digits: &[u8]) -> Option<u64> {
    let are_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    are_digits.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

fn unreadable(why: &str) -> ureq::Error {
    let error = format!("the answer cannot be read: {why}");
    io::Error::new(ErrorKind::InvalidData, error).into()
}

fn closed() -> ureq::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the connection was closed").into()
}
