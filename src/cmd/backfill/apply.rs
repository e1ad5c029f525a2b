//! The writing of a backfill: chunk after chunk, each one transaction with the place up to which it
//! is written. Killed at any instant, it goes on there.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::plan::count;
use super::{Candidate, Context, Feed, Job, Request};
use crate::backfill::{Plan, digest_of, origin};
use crate::clock::{UnixSeconds, monotonic};
use crate::cmd::complain;
use crate::cmd::output::{plural, shorten};
use crate::cmd::progress::Progress;
use crate::db::DbErrorKind;
use crate::error::{Exit, Failure};
use crate::fault::point;
use crate::runner::signals::Signals;
use crate::store::backfill::Backfill;
use crate::store::{Stopped, Store};

/// Events of the first transaction, and of one at most.
const FEW: usize = 100;
const MANY: usize = 500;
/// A transaction that has lasted this long is committed with what it has: others wait for it.
pub(super) const LONGEST: Duration = Duration::from_millis(50);
/// How often a chunk whose rows change between reading and writing is looked at.
const LOOKS: usize = 20;

/// Does what the plan says, or goes on with it.
///
/// # Errors
/// [`Failure`] 65 where the plan does not fit, or the backfill was cancelled; 75 where somebody
/// else is writing it; the database's.
pub(super) fn apply(
    context: &Context,
    store: &mut Store,
    feed: &mut dyn Feed,
    request: &Request<'_>,
    plan: &str,
) -> anyhow::Result<u8> {
    let plan = Plan::parse(plan).map_err(|why| {
        let why = shorten(&why, 100);
        Failure::data(format!("--plan: {why}; make one without --apply"))
    })?;
    let sort = request.selection.sort();
    if plan.bound.is_some() != feed.bound().is_some() {
        return Err(misfit(&plan, &format!("it is none of `backfill {sort}`")).into());
    }
    feed.set_bound(plan.bound);
    let backfill = if let Some(known) = store.backfill_of_plan(&plan.to_string())? {
        known
    } else {
        let state = request.state(store, feed)?;
        if let Some(why) = plan.misfit(request.terms(&state)) {
            return Err(misfit(&plan, why).into());
        }
        feed.rewind(store, None)?;
        let events = count(context, store, feed, request.bounds.limit)?.events;
        if events > plan.count {
            let message = format!(
                "it would now make {}, and the plan said {}; make a new plan",
                plural(events, "event"),
                plan.count
            );
            return Err(Failure::data(message).into());
        }
        begin(store, feed, request, &plan)?
    };
    let writing = Writing {
        context,
        request,
        backfill,
    };
    writing.go_on(store, feed)
}

fn misfit(plan: &Plan, why: &str) -> Failure {
    Failure::data(format!("plan {plan} does not fit: {why}; make a new plan"))
}

/// Notes that the plan is being applied; where somebody else has just done so, that is the one.
fn begin(
    store: &mut Store,
    feed: &dyn Feed,
    request: &Request<'_>,
    plan: &Plan,
) -> anyhow::Result<Backfill> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let mut backfill = Backfill {
        id: 0,
        plan: plan.to_string(),
        sort: request.selection.sort().to_owned(),
        selection: request.selection.to_json(),
        state: digest_of([feed.state().as_str()]),
        rate: request.rate.to_string(),
        most: request.bounds.limit.map(number),
        planned: number(plan.count),
        written: 0,
        place: String::new(),
        history_from: store.last_history_id()?,
        created_at: store.now()?,
        finished_at: None,
        cancelled_at: None,
    };
    match store.add_backfill(&backfill) {
        Ok(id) => backfill.id = id,
        Err(Stopped::Db(error)) if error.kind == DbErrorKind::Duplicate => {
            let other = store.backfill_of_plan(&backfill.plan)?;
            backfill = other.ok_or_else(|| Stopped::Changed.into_error())?;
        }
        Err(stopped) => return Err(stopped.into_error()),
    }
    Ok(backfill)
}

/// A backfill at work.
struct Writing<'w> {
    context: &'w Context,
    request: &'w Request<'w>,
    backfill: Backfill,
}

impl Writing<'_> {
    fn go_on(mut self, store: &mut Store, feed: &mut dyn Feed) -> anyhow::Result<u8> {
        self.check(feed)?;
        if self.backfill.finished_at.is_some() {
            return self.tell(&format!("already applied as backfill {}", self.backfill.id));
        }
        let signals = Signals::listen()?;
        feed.rewind(store, Some(&self.backfill))?;
        let planned = u64::try_from(self.backfill.planned).ok();
        let progress = Progress::of_rows(self.context, planned);
        let mut pending: VecDeque<Candidate> = VecDeque::new();
        let mut is_over = false;
        let (mut size, mut looks) = (FEW, 0);
        loop {
            progress.at(self.written(), || "events".to_owned());
            if let Some(number) = signals.received() {
                drop(progress);
                let Backfill {
                    id,
                    written,
                    planned,
                    ..
                } = self.backfill;
                complain(&format!(
                    "backfill {id} is stopped after {written} of {}; the same command goes on",
                    plural(planned, "event")
                ));
                return Ok(128 + u8::try_from(number).unwrap_or(0));
            }
            while pending.len() < MANY && !is_over {
                let page = feed.next(store)?;
                is_over = page.is_empty();
                pending.extend(page.into_iter().filter(|found| found.left_out.is_none()));
            }
            let room = self.backfill.planned - self.backfill.written;
            let room = usize::try_from(room).unwrap_or(0);
            let chunk = pending.len().min(size).min(room);
            if chunk == 0 {
                break;
            }
            let began = monotonic();
            let chunk = &pending.make_contiguous()[..chunk];
            match self.write(store, feed, chunk) {
                Ok(Some(dealt_with)) => {
                    point("backfill.committed");
                    pending.drain(..dealt_with);
                    size = size_after(size, monotonic().duration_since(began));
                    looks = 0;
                }
                Ok(None) => return Err(self.lost(store)?.into()),
                Err(Stopped::Changed) if looks < LOOKS => looks += 1,
                Err(stopped) => {
                    let id = self.backfill.id;
                    return Err(stopped.into_error())
                        .with_context(|| format!("backfill {id}: the same command goes on"));
                }
            }
        }
        drop(progress);
        let now = store.now()?;
        let finished = store.finish_backfill(&self.backfill, now);
        if !finished.map_err(Stopped::into_error)? {
            return Err(self.lost(store)?.into());
        }
        self.backfill.finished_at = Some(now);
        let line = format!(
            "backfill {} is written; `punctual cancel --origin {}` takes back what is not fired",
            self.backfill.id,
            origin(self.backfill.id)
        );
        self.tell(&line)
    }

    /// Whether the backfill, which its plan names, is what is asked for, and can be gone on with.
    fn check(&self, feed: &dyn Feed) -> Result<(), Failure> {
        let Backfill { id, plan, .. } = &self.backfill;
        let limit = self.request.bounds.limit;
        let limit = limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
        if self.backfill.selection != self.request.selection.to_json()
            || self.backfill.rate != self.request.rate.to_string()
            || self.backfill.most != limit
        {
            return Err(Failure::data(format!(
                "plan {plan} does not fit: it was applied as backfill {id}, of another selection, \
                 rate or limit"
            )));
        }
        if self.backfill.cancelled_at.is_some() {
            return Err(Failure::data(format!(
                "backfill {id}, as which this plan was applied, is cancelled; make a new plan"
            )));
        }
        let has_changed = self.backfill.state != digest_of([feed.state().as_str()]);
        if has_changed && self.backfill.finished_at.is_none() {
            return Err(Failure::data(format!(
                "a schedule has changed since backfill {id} was begun, or the source; cancel it with `punctual \
                 cancel --origin {}`, and make a new plan",
                origin(*id)
            )));
        }
        Ok(())
    }

    fn written(&self) -> u64 {
        u64::try_from(self.backfill.written).unwrap_or(0)
    }

    /// Writes the first of `chunk`, and says how many of it are dealt with; `None`: the backfill is
    /// not as it was.
    fn write(
        &mut self,
        store: &mut Store,
        feed: &dyn Feed,
        chunk: &[Candidate],
    ) -> Result<Option<usize>, Stopped> {
        let now = store.now()?;
        let (backfill, rate) = (&self.backfill, self.request.rate);
        let written = self.written();
        let due = |number: u64| {
            let due = rate.due_at(backfill.created_at, written + number);
            due.unwrap_or(UnixSeconds::MAX)
        };
        let done = store.transaction(|store| {
            let job = Job {
                id: backfill.id,
                due: &due,
                now,
                began: monotonic(),
            };
            if !store.holds_backfill(backfill)? {
                return Ok(None);
            }
            let made = feed.make(store, chunk, &job)?;
            let place = chunk[made.dealt_with - 1].place();
            let events = i64::try_from(made.events).unwrap_or(i64::MAX);
            if !store.move_backfill(backfill, &place, events)? {
                return Err(Stopped::Changed);
            }
            point("backfill.commit");
            Ok(Some((made.dealt_with, events, place)))
        })?;
        Ok(done.map(|(dealt_with, events, place)| {
            self.backfill.written += events;
            self.backfill.place = place;
            dealt_with
        }))
    }

    /// Why somebody else's hand was in it.
    fn lost(&self, store: &mut Store) -> anyhow::Result<Failure> {
        let id = self.backfill.id;
        let now = store.backfill(id)?;
        Ok(match now {
            Some(now) if now.cancelled_at.is_some() => Failure::data(format!(
                "backfill {id} was cancelled after {} of {}",
                now.written,
                plural(now.planned, "event")
            )),
            Some(_) => Failure::temporary(format!(
                "backfill {id} is being written by another process; leave it to that one"
            )),
            None => Failure::data(format!("backfill {id} is gone from event_backfills")),
        })
    }

    fn tell(&self, line: &str) -> anyhow::Result<u8> {
        let Backfill {
            id,
            planned,
            written,
            created_at,
            ..
        } = self.backfill;
        let last = self.written().checked_sub(1);
        let last_due = last.and_then(|last| self.request.rate.due_at(created_at, last));
        if self.context.json {
            self.context.out.json(&json!({
                "backfill": id, "planned": planned, "written": written,
                "first_due_at": last_due.map(|_| created_at.0),
                "last_due_at": last_due.map(|at| at.0),
            }))?;
            return Ok(Exit::Ok as u8);
        }
        let events = match written {
            _ if written == planned => plural(written, "event"),
            _ => format!("{written} of {}", plural(planned, "event")),
        };
        let due = last_due.map_or_else(String::new, |last| {
            let shown = |at| self.context.shown(at);
            format!(", due from {} to {}", shown(created_at), shown(last))
        });
        self.context.out.line(format!("{line}\n{events}{due}"))?;
        Ok(Exit::Ok as u8)
    }
}

/// How many events the next transaction may make after one that took so long.
fn size_after(size: usize, took: Duration) -> usize {
    let size = if took < LONGEST / 2 {
        size * 2
    } else if took > LONGEST {
        size / 2
    } else {
        size
    };
    size.clamp(1, MANY)
}
