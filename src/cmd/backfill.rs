//! `backfill`: work of the past that is created by hand. A plan first, which writes nothing; then
//! the rows, in small transactions that anybody may interrupt. It fires nothing: cron's runs do.

use std::time::Instant;

use super::Context;
use crate::backfill::{Rate, Selection, Terms, digest_of};
use crate::cli::Global;
use crate::cli::backfill::{BackfillArgs, BackfillBounds, BackfillCommand};
use crate::clock::UnixSeconds;
use crate::db::{Access, DbResult};
use crate::error::Failure;
use crate::store::backfill::Backfill;
use crate::store::{Stopped, Store};

mod again;
mod apply;
mod look;
mod plan;
mod slots;
mod source;

/// `punctual backfill COMMAND`.
///
/// # Errors
/// As the command.
pub fn main(context: &Context, global: &Global, args: &BackfillArgs) -> anyhow::Result<u8> {
    match &args.command {
        BackfillCommand::Slots(args) => {
            let (mut store, window) = open(context, &args.bounds)?;
            let (selection, mut feed) = slots::select(context, &mut store, args, window)?;
            let request = Request::new(global, &args.bounds, selection);
            request.main(context, &mut store, &mut feed)
        }
        BackfillCommand::Source(args) => {
            let (mut store, window) = open(context, &args.bounds)?;
            let (selection, mut feed) = source::select(context, &mut store, args, window)?;
            let request = Request::new(global, &args.bounds, selection);
            request.main(context, &mut store, &mut feed)
        }
        BackfillCommand::Again(args) => {
            let (mut store, window) = open(context, &args.bounds)?;
            let (selection, mut feed) = again::select(&mut store, args, window)?;
            let request = Request::new(global, &args.bounds, selection);
            request.main(context, &mut store, &mut feed)
        }
        BackfillCommand::List => look::list(context),
        BackfillCommand::Show { id } => look::show(context, *id),
    }
}

/// The window in which something is looked for, and the present.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: UnixSeconds,
    to: UnixSeconds,
    now: UnixSeconds,
}

/// Opens the database and reads the window, which ends now at the latest.
fn open(context: &Context, bounds: &BackfillBounds) -> anyhow::Result<(Store, Window)> {
    let access = if bounds.apply {
        Access::Write
    } else {
        Access::Read
    };
    let mut store = context.open(access)?;
    let now = store.now()?;
    let from = context.time("--from", &bounds.from, now)?;
    let to = context.optional_time("--to", bounds.to.as_ref(), now)?;
    let to = to.map_or(now, |to| to.min(now));
    if from > to {
        let message = "--from: lies after --to, or in the future; a backfill is of the past";
        return Err(Failure::usage(message).into());
    }
    Ok((store, Window { from, to, now }))
}

/// What can become an event.
#[derive(Debug, Clone)]
struct Candidate {
    /// The slot, the expiry, or when the event finished: by this they are in order.
    at: UnixSeconds,
    /// And then by this: the schedule's name, the row's key, the `history_id`.
    rest: String,
    /// Its number with whoever found it.
    number: i64,
    type_name: String,
    /// Why it does not become one.
    left_out: Option<&'static str>,
}

impl Candidate {
    /// The place behind it, as it is stored.
    fn place(&self) -> String {
        format!("{} {}", self.at, self.rest)
    }
}

/// A [`Candidate::place`] as it was.
fn read_place(place: &str) -> Option<(UnixSeconds, &str)> {
    let (at, rest) = place.split_once(' ')?;
    Some((UnixSeconds(at.parse().ok()?), rest))
}

/// How a chunk is to be made.
struct Job<'j> {
    /// The backfill.
    id: i64,
    /// When the event with this number in the chunk is due, from 0.
    due: &'j dyn Fn(u64) -> UnixSeconds,
    now: UnixSeconds,
    began: Instant,
}

/// What came of a chunk.
#[derive(Debug, Clone, Copy)]
struct Made {
    /// So many of its candidates were dealt with.
    dealt_with: usize,
    /// So many of these became events.
    events: u64,
}

/// Where the events of a backfill come from: all in which the sorts differ.
trait Feed {
    /// How things stand that the selection depends on; another text where they have changed.
    fn state(&self) -> String;

    /// The greatest `history_id` that is looked at, where that bounds the selection.
    fn bound(&self) -> Option<i64>;

    /// As [`Feed::bound`], from a plan.
    fn set_bound(&mut self, bound: Option<i64>);

    /// Begins anew, behind what of a backfill is written.
    fn rewind(&mut self, store: &mut Store, behind: Option<&Backfill>) -> DbResult<()>;

    /// The next candidates, in order; none: there are no more.
    fn next(&mut self, store: &mut Store) -> DbResult<Vec<Candidate>>;

    /// How many more are left out that are no candidates any more, and why.
    fn count_others(&mut self, store: &mut Store) -> DbResult<Vec<(String, u64)>>;

    /// What else is to be known before it is applied.
    fn notes(&self, context: &Context, window: Window) -> Vec<String>;

    /// Makes events of the first candidates of a chunk, as many as fit into a short transaction,
    /// in which it is called.
    fn make(&self, store: &mut Store, chunk: &[Candidate], job: &Job<'_>) -> Result<Made, Stopped>;
}

/// One call of `backfill slots`, `source` or `again`.
struct Request<'r> {
    global: &'r Global,
    bounds: &'r BackfillBounds,
    selection: Selection,
    rate: Rate,
}

impl<'r> Request<'r> {
    fn new(global: &'r Global, bounds: &'r BackfillBounds, selection: Selection) -> Self {
        let rate = bounds.rate;
        Self {
            global,
            bounds,
            selection,
            rate,
        }
    }

    fn main(
        &self,
        context: &Context,
        store: &mut Store,
        feed: &mut dyn Feed,
    ) -> anyhow::Result<u8> {
        match &self.bounds.plan {
            Some(plan) => apply::apply(context, store, feed, self, plan),
            None => plan::print(context, store, feed, self),
        }
    }

    /// What a plan is bound to; `state` is that of the feed, and of the backfills before.
    fn terms<'t>(&'t self, state: &'t str) -> Terms<'t> {
        Terms {
            selection: &self.selection,
            rate: self.rate,
            limit: self.bounds.limit,
            state,
        }
    }

    fn state(&self, store: &mut Store, feed: &dyn Feed) -> DbResult<String> {
        let cancelled = store.last_cancelled(&self.selection.to_json())?;
        Ok(digest_of([feed.state().as_str(), &cancelled.to_string()]))
    }
}
