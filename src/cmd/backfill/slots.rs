//! `backfill slots`: slots of the past that became no events.

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::{Candidate, Context, Feed, Job, Made, Window, read_place};
use crate::backfill::{PRIORITY, Selection, digest_of, origin};
use crate::cli::backfill::BackfillSlotsArgs;
use crate::clock::{UnixSeconds, monotonic};
use crate::cmd::output;
use crate::cmd::schedules::{self, Known};
use crate::db::DbResult;
use crate::error::Failure;
use crate::recurrence::Recurrence;
use crate::runner::slots::first_seen;
use crate::schedule::Schedule;
use crate::store::backfill::Backfill;
use crate::store::schedules::NewSlot;
use crate::store::{Stopped, Store};
use crate::when::format_duration;

/// Candidates found at a time.
const PAGE: usize = 500;
/// Why a slot is left out.
const MADE: &str = "became events";

/// A schedule, and how far its slots are looked at.
struct Rule {
    name: String,
    schedule: Schedule,
    slots: Recurrence,
    until: UnixSeconds,
    /// The next ones, and behind which to look for more.
    found: VecDeque<UnixSeconds>,
    after: UnixSeconds,
}

impl Rule {
    fn begin(&mut self, after: UnixSeconds) {
        self.after = after;
        self.found.clear();
    }

    fn first(&mut self) -> Option<UnixSeconds> {
        if self.found.is_empty() {
            let found = self.slots.slots_between(self.after, self.until, PAGE);
            self.after = found.last().copied().unwrap_or(self.after);
            self.found.extend(found);
        }
        self.found.front().copied()
    }
}

/// The slots of some schedules within a window.
pub(super) struct Slots {
    /// Sorted by name.
    rules: Vec<Rule>,
    from: UnixSeconds,
}

/// What is selected, and where it is found.
///
/// # Errors
/// [`Failure`] 2 where no schedule fits; 65 where one cannot be read.
pub(super) fn select(
    context: &Context,
    store: &mut Store,
    args: &BackfillSlotsArgs,
    window: Window,
) -> anyhow::Result<(Selection, Slots)> {
    let known: Vec<(String, Known)> = if args.names.is_empty() {
        schedules::all(context, store)?.into_iter().collect()
    } else {
        let names: BTreeSet<&String> = args.names.iter().collect();
        let find = |name: &String| Ok((name.clone(), schedules::find(context, store, name)?));
        names.into_iter().map(find).collect::<anyhow::Result<_>>()?
    };
    let types: BTreeSet<String> = args.types.iter().cloned().collect();
    let mut rules = Vec::new();
    for (name, known) in known {
        let stated = known.stated.clone();
        let stated = stated.and_then(|schedule| Ok((schedule.recurrence()?, schedule)));
        let (slots, schedule) = match stated {
            Ok(stated) => stated,
            Err(_) if args.names.is_empty() => continue, // of no type that could be told
            Err(error) => {
                let name = output::escape(&name);
                return Err(Failure::data(format!("schedule {name}: {error}")).into());
            }
        };
        if !types.is_empty() && !types.contains(&schedule.type_name) {
            continue;
        }
        let until = past(&known, &slots, window.now).min(window.to);
        rules.push(Rule {
            name,
            schedule,
            slots,
            until,
            found: VecDeque::new(),
            after: UnixSeconds(window.from.0 - 1),
        });
    }
    if rules.is_empty() {
        let message = "no schedule fits; `punctual schedules list` has all of them";
        return Err(Failure::usage(message).into());
    }
    let selection = Selection::Slots {
        names: rules.iter().map(|rule| rule.name.clone()).collect(),
        types: types.into_iter().collect(),
        from: window.from.0,
        to: window.to.0,
    };
    let from = window.from;
    Ok((selection, Slots { rules, from }))
}

/// Slots up to this instant will not become events by themselves.
fn past(known: &Known, slots: &Recurrence, now: UnixSeconds) -> UnixSeconds {
    let Some(row) = &known.row else {
        return first_seen(now); // as the run will have it that sees it first
    };
    let seen = Schedule::from_json(&row.rule);
    if seen.is_ok_and(|seen| !seen.enabled) {
        return now;
    }
    let paused = row.paused_until.unwrap_or_default().min(now);
    let since = row.last_slot.max(paused);
    match slots.next_after(since) {
        Some(next) if next <= now => since,
        _ => now,
    }
}

impl Feed for Slots {
    fn state(&self) -> String {
        let rules = self.rules.iter();
        let texts = rules.flat_map(|rule| [rule.name.clone(), rule.schedule.to_json()]);
        let texts: Vec<String> = texts.collect();
        digest_of(texts.iter().map(String::as_str))
    }

    fn bound(&self) -> Option<i64> {
        None
    }

    fn set_bound(&mut self, _bound: Option<i64>) {}

    fn rewind(&mut self, _store: &mut Store, behind: Option<&Backfill>) -> DbResult<()> {
        let place = behind.and_then(|backfill| read_place(&backfill.place));
        let before = UnixSeconds(self.from.0 - 1);
        for rule in &mut self.rules {
            rule.begin(match place {
                Some((at, name)) if rule.name.as_str() <= name => at,
                Some((at, _)) => UnixSeconds(at.0 - 1),
                None => before,
            });
        }
        Ok(())
    }

    fn next(&mut self, store: &mut Store) -> DbResult<Vec<Candidate>> {
        let mut page = Vec::new();
        while page.len() < PAGE {
            let heads = self.rules.iter_mut().enumerate();
            let first = heads.filter_map(|(number, rule)| Some((rule.first()?, number)));
            let Some((at, number)) = first.min() else {
                break;
            };
            let rule = &mut self.rules[number];
            rule.found.pop_front();
            page.push(Candidate {
                at,
                rest: rule.name.clone(),
                number: i64::try_from(number).unwrap_or(i64::MAX),
                type_name: rule.schedule.type_name.clone(),
                left_out: None,
            });
        }
        let (Some(first), Some(last)) = (page.first(), page.last()) else {
            return Ok(page);
        };
        let (first, last) = (first.at, last.at);
        let numbers: BTreeSet<i64> = page.iter().map(|candidate| candidate.number).collect();
        let mut made = HashSet::new();
        for number in numbers {
            let name = &self.rule(number).name;
            let slots = store.slots_made(name, first, last)?;
            made.extend(slots.into_iter().map(|slot| (number, slot)));
        }
        for candidate in &mut page {
            if made.contains(&(candidate.number, candidate.at)) {
                candidate.left_out = Some(MADE);
            }
        }
        Ok(page)
    }

    fn count_others(&mut self, _store: &mut Store) -> DbResult<Vec<(String, u64)>> {
        Ok(Vec::new())
    }

    fn notes(&self, context: &Context, window: Window) -> Vec<String> {
        let mut notes = Vec::new();
        let kept = context.config.run.history;
        let remembered = window.now.before(kept);
        if window.from < remembered {
            let span = i64::try_from(kept.as_secs()).unwrap_or(i64::MAX);
            notes.push(format!(
                "which slots became events is forgotten with their history, after {}: of those \
                 before {} some may have fired",
                format_duration(span),
                context.shown(remembered)
            ));
        }
        for rule in &self.rules {
            if rule.until < window.to && rule.slots.next_after(rule.until) <= Some(window.to) {
                notes.push(format!(
                    "slots of {} after {} are the next run's",
                    output::escape(&rule.name),
                    context.shown(rule.until)
                ));
            }
        }
        notes
    }

    fn make(&self, store: &mut Store, chunk: &[Candidate], job: &Job<'_>) -> Result<Made, Stopped> {
        let origin = origin(job.id);
        let mut made = Made {
            dealt_with: 0,
            events: 0,
        };
        for candidate in chunk {
            let rule = self.rule(candidate.number);
            let slot = NewSlot {
                schedule: &rule.name,
                at: candidate.at,
                slots: 1,
                due_at: (job.due)(made.events),
                type_name: &rule.schedule.type_name,
                payload: rule.schedule.payload.as_deref(),
                priority: PRIORITY,
                origin: &origin,
            };
            made.dealt_with += 1;
            made.events += u64::from(store.make_event(&slot, job.now)?.is_some());
            if monotonic().duration_since(job.began) >= super::apply::LONGEST {
                break;
            }
        }
        Ok(made)
    }
}

impl Slots {
    fn rule(&self, number: i64) -> &Rule {
        &self.rules[usize::try_from(number).unwrap_or(0)]
    }
}
