//! `import`: many events from JSON lines on stdin, all or nothing a chunk, in constant memory.

use std::io::{self, BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::output::{plural, shorten};
use super::progress::Progress;
use super::{Context, types};
use crate::cli::ImportArgs;
use crate::clock::monotonic;
use crate::db::Access;
use crate::error::{Exit, Failure};
use crate::store::desk::NewEvent;
use crate::store::{Stopped, Store};
use line::Reading;

pub mod line;

/// Lines of the first transaction, and of one statement.
const FEW_ROWS: usize = 500;
/// Lines of one transaction at most.
const MANY_ROWS: usize = 16 * FEW_ROWS;
/// How long a transaction may take: a site's own writes wait no longer (RULINGS 14, 18).
const WRITE_LIMIT: Duration = Duration::from_millis(50);
/// Lines that come slowly wait no longer for others to go in with.
const PATIENCE: Duration = Duration::from_secs(1);
/// Payload bytes of one transaction.
const CHUNK_BYTES: usize = 4 << 20;
/// Payload bytes of one statement: far below any server's `max_allowed_packet`.
const STATEMENT_BYTES: usize = 1 << 20;
/// The longest line: a payload of 1 MiB with every byte escaped (\u0000) fits.
const LINE_BYTES: usize = 8 << 20;
/// Characters of a reason that are shown.
const REASON: usize = 300;

/// `punctual import`.
///
/// # Errors
/// [`Failure`] 65 for a bad line, 74 for stdin; the database's.
pub fn main(context: &Context, args: &ImportArgs) -> anyhow::Result<u8> {
    let stdin = io::stdin().lock();
    let total = rustix::fs::fstat(&stdin).ok().and_then(|about| {
        let is_file = rustix::fs::FileType::from_raw_mode(about.st_mode).is_file();
        u64::try_from(about.st_size).ok().filter(|_| is_file)
    });
    let progress = Progress::of_bytes(context, total);
    let sum = import(context, stdin, args, &progress)?;
    drop(progress);
    if context.json {
        context
            .out
            .json(&json!({ "imported": sum.imported, "kept": sum.kept }))?;
    } else {
        let kept = match sum.kept {
            0 => String::new(),
            kept => format!(" ({kept} kept)"),
        };
        context
            .out
            .line(format!("imported {}{kept}", plural(sum.imported, "event")))?;
    }
    Ok(Exit::Ok as u8)
}

/// What was imported.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    imported: u64,
    kept: u64,
}

/// Lines that go in together.
struct Chunk {
    events: Vec<line::Event>,
    bytes: usize,
    /// The first line that is not in yet.
    first_line: u64,
    /// How many make it full.
    rows: usize,
    began: Instant,
}

fn import(
    context: &Context,
    input: impl Read,
    args: &ImportArgs,
    progress: &Progress,
) -> anyhow::Result<Sum> {
    let from_line = args.from_line;
    let mut store = context.open(Access::Write)?;
    let mut lines = Lines {
        input: BufReader::with_capacity(1 << 16, input),
        number: 0,
        bytes: 0,
    };
    let mut text = Vec::new();
    let mut sum = Sum::default();
    let mut chunk = Chunk::new(from_line, FEW_ROWS);
    let mut reading = Reading {
        now: store.now()?,
        zone: context.zone().clone(),
    };
    loop {
        let found = lines.next(&mut text)?;
        if found == Found::End {
            break;
        }
        if lines.number < from_line {
            continue;
        }
        let refuse = |why: String| bad_line(lines.number, &why, chunk.first_line, from_line);
        if found == Found::TooLong {
            return Err(refuse(format!("is longer than {} MiB", LINE_BYTES >> 20)).into());
        }
        let Some(event) = reading.event(&text, lines.number).map_err(refuse)? else {
            continue;
        };
        let name = event.as_new().type_name;
        if !args.allow_unknown_type && !types::is_configured(&context.config, name) {
            return Err(refuse(types::unknown(&context.config, name)).into());
        }
        if chunk.is_full_with(&event) {
            chunk.write(&mut store, &mut sum, lines.number)?;
            reading.now = store.now()?;
            progress.at(lines.bytes, || plural(sum.imported + sum.kept, "event"));
        }
        chunk.push(event);
    }
    chunk.write(&mut store, &mut sum, lines.number + 1)?;
    Ok(sum)
}

fn bad_line(number: u64, why: &str, first: u64, from_line: u64) -> Failure {
    let why = shorten(why, REASON);
    let state = if first == from_line {
        "nothing was imported".to_owned()
    } else {
        format!("the lines before {first} are in")
    };
    Failure::data(format!(
        "line {number}: {why}; {state}: correct it and go on with --from-line {first}"
    ))
}

impl Chunk {
    fn new(first_line: u64, rows: usize) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            first_line,
            rows,
            began: monotonic(),
        }
    }

    fn is_full_with(&self, event: &line::Event) -> bool {
        let bytes = self.bytes + event.payload_bytes();
        let rows = self.events.len();
        let is_full = rows >= self.rows || bytes > CHUNK_BYTES;
        !self.events.is_empty() && (is_full || self.began.elapsed() >= PATIENCE)
    }

    fn push(&mut self, event: line::Event) {
        self.bytes += event.payload_bytes();
        self.events.push(event);
    }

    /// Writes what is held and begins anew with `next_line`.
    fn write(&mut self, store: &mut Store, sum: &mut Sum, next_line: u64) -> anyhow::Result<()> {
        if self.events.is_empty() {
            return Ok(());
        }
        let now = store.now()?;
        let began = monotonic();
        let events: Vec<NewEvent<'_>> = self.events.iter().map(line::Event::as_new).collect();
        let added = store
            .add_many(&events, &statement_sizes(&self.events), now)
            .map_err(Stopped::into_error)
            .with_context(|| {
                format!(
                    "lines from {0} on are not imported; go on with --from-line {0}",
                    self.first_line
                )
            })?;
        sum.imported += added;
        sum.kept += events.len() as u64 - added;
        *self = Self::new(next_line, rows_after(events.len(), monotonic() - began));
        Ok(())
    }
}

/// How many lines the next transaction may hold after one of so many that took so long: each costs
/// a flush of the disk, which is most of what a few lines cost.
fn rows_after(rows: usize, took: Duration) -> usize {
    let rows = if took < WRITE_LIMIT / 2 {
        rows * 2
    } else if took > WRITE_LIMIT {
        rows / 2
    } else {
        rows
    };
    rows.clamp(FEW_ROWS, MANY_ROWS)
}

/// How many events go into each statement.
fn statement_sizes(events: &[line::Event]) -> Vec<usize> {
    let mut sizes = Vec::new();
    let (mut size, mut bytes) = (0, 0);
    for event in events {
        if size == FEW_ROWS || (size > 0 && bytes + event.payload_bytes() > STATEMENT_BYTES) {
            sizes.push(size);
            (size, bytes) = (0, 0);
        }
        size += 1;
        bytes += event.payload_bytes();
    }
    sizes.push(size);
    sizes
}

/// Lines of bounded length.
struct Lines<R> {
    input: BufReader<R>,
    /// Of the line last read, counting from 1.
    number: u64,
    /// Read so far.
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Line,
    TooLong,
    End,
}

impl<R: Read> Lines<R> {
    /// Reads the next line into `text`, without its end; of one that is too long, only that.
    fn next(&mut self, text: &mut Vec<u8>) -> anyhow::Result<Found> {
        text.clear();
        self.number += 1;
        let (mut any, mut too_long) = (false, false);
        loop {
            let piece = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(|error| Failure::io(format!("stdin: {error}")))?,
            };
            if piece.is_empty() {
                break;
            }
            any = true;
            let end = piece.iter().position(|&byte| byte == b'\n');
            let part = &piece[..end.unwrap_or(piece.len())];
            too_long |= text.len() + part.len() > LINE_BYTES;
            if !too_long {
                text.extend_from_slice(part);
            }
            let used = end.map_or(piece.len(), |at| at + 1);
            self.input.consume(used);
            self.bytes += used as u64;
            // The rest of a line that is refused anyway is of no interest.
            if end.is_some() || too_long {
                break;
            }
        }
        Ok(match (any, too_long) {
            (_, true) => Found::TooLong,
            (true, false) => Found::Line,
            (false, false) => Found::End,
        })
    }
}

#[cfg(test)]
mod tests;
