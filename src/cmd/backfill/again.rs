//! `backfill again`: events of history.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{Hash, Hasher};

use super::{Candidate, Context, Feed, Job, Made, Window, read_place};
use crate::backfill::{Selection, is_like};
use crate::cli::backfill::BackfillAgainArgs;
use crate::clock::UnixSeconds;
use crate::db::DbResult;
use crate::event::Outcome;
use crate::store::backfill::{Backfill, Endings, OpenEnding};
use crate::store::{Stopped, Store};

/// Endings read at a time.
const PAGE: usize = 500;
/// Payload bytes made again in one transaction.
const CHUNK_BYTES: i64 = 4 << 20;
/// Why an event is left out: another of the same backfill has its key.
const SAME_KEY: &str = "have the key of an earlier one";

/// Endings of one outcome.
struct Stream {
    outcome: Outcome,
    found: VecDeque<OpenEnding>,
    after: (UnixSeconds, i64),
    is_over: bool,
}

impl Stream {
    fn first(
        &mut self,
        store: &mut Store,
        window: (UnixSeconds, UnixSeconds),
        bound: i64,
    ) -> DbResult<Option<(UnixSeconds, i64)>> {
        if self.found.is_empty() && !self.is_over {
            let which = Endings {
                outcome: self.outcome,
                window,
                bound,
            };
            let found = store.open_endings(which, self.after, PAGE)?;
            self.is_over = found.len() < PAGE;
            if let Some(last) = found.last() {
                self.after = (last.finished_at, last.history_id);
            }
            self.found.extend(found);
        }
        let first = self.found.front();
        Ok(first.map(|ending| (ending.finished_at, ending.history_id)))
    }
}

/// The endings of a window.
pub(super) struct Again {
    types: BTreeSet<String>,
    error: Option<String>,
    window: (UnixSeconds, UnixSeconds),
    bound: i64,
    streams: Vec<Stream>,
    /// Digests of types with the keys that the backfill has used: each becomes one event.
    keys: HashSet<u64>,
}

/// What is selected, and where it is found.
///
/// # Errors
/// The database's.
pub(super) fn select(
    store: &mut Store,
    args: &BackfillAgainArgs,
    window: Window,
) -> anyhow::Result<(Selection, Again)> {
    let named = |outcome: &Outcome| {
        if args.outcomes.is_empty() {
            matches!(outcome, Outcome::Dead | Outcome::Unknown)
        } else {
            args.outcomes.iter().any(|name| name == outcome.as_str())
        }
    };
    let outcomes: Vec<Outcome> = Outcome::ALL.into_iter().filter(named).collect();
    let types: BTreeSet<String> = args.types.iter().cloned().collect();
    let mut words: Vec<String> = outcomes.iter().map(ToString::to_string).collect();
    words.sort();
    let selection = Selection::Again {
        types: types.iter().cloned().collect(),
        outcomes: words,
        error: args.error.clone(),
        from: window.from.0,
        to: window.to.0,
    };
    let stream = |outcome| Stream {
        outcome,
        found: VecDeque::new(),
        after: (UnixSeconds(0), 0),
        is_over: false,
    };
    let mut again = Again {
        types,
        error: args.error.clone(),
        window: (window.from, window.to),
        bound: store.last_history_id()?,
        streams: outcomes.into_iter().map(stream).collect(),
        keys: HashSet::new(),
    };
    again.rewind(store, None)?;
    Ok((selection, again))
}

impl Again {
    fn is_wanted(&self, type_name: &str, error: &str) -> bool {
        let of_type = self.types.is_empty() || self.types.contains(type_name);
        let like = self
            .error
            .as_deref()
            .is_none_or(|like| is_like(error, like));
        of_type && like
    }

    fn candidate(&mut self, ending: &OpenEnding) -> Candidate {
        let key = ending.key.as_deref();
        let key = key.map(|key| digest_of_key(&ending.type_name, key));
        let mut left_out = ending.obstacle();
        if let (Some(key), None) = (key, left_out)
            && !self.keys.insert(key)
        {
            left_out = Some(SAME_KEY);
        }
        Candidate {
            at: ending.finished_at,
            rest: ending.history_id.to_string(),
            number: ending.history_id,
            type_name: ending.type_name.clone(),
            left_out,
        }
    }
}

/// Of 64 bits: that two keys of a backfill share one would leave one event out, in history.
fn digest_of_key(type_name: &str, key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (type_name, key).hash(&mut hasher);
    hasher.finish()
}

impl Feed for Again {
    fn state(&self) -> String {
        String::new()
    }

    fn bound(&self) -> Option<i64> {
        Some(self.bound)
    }

    fn set_bound(&mut self, bound: Option<i64>) {
        self.bound = bound.unwrap_or(0);
    }

    fn rewind(&mut self, store: &mut Store, behind: Option<&Backfill>) -> DbResult<()> {
        let place = behind.and_then(|backfill| read_place(&backfill.place));
        let place = place.and_then(|(at, id)| Some((at, id.parse().ok()?)));
        for stream in &mut self.streams {
            stream.found.clear();
            stream.is_over = false;
            stream.after = place.unwrap_or((UnixSeconds(self.window.0.0 - 1), 0));
        }
        self.keys.clear();
        if let Some(backfill) = behind.filter(|backfill| backfill.written > 0) {
            let keys = store.backfill_keys(backfill)?;
            let digests = keys.iter().map(|(of, key)| digest_of_key(of, key));
            self.keys.extend(digests);
        }
        Ok(())
    }

    fn next(&mut self, store: &mut Store) -> DbResult<Vec<Candidate>> {
        let mut page = Vec::new();
        // What is not wanted is no reason to stop, but for the caller to look up now and then.
        while page.len() < PAGE {
            let mut first = None;
            for (number, stream) in self.streams.iter_mut().enumerate() {
                if let Some(place) = stream.first(store, self.window, self.bound)? {
                    first = first.into_iter().chain([(place, number)]).min();
                }
            }
            let Some((_, number)) = first else { break };
            let Some(ending) = self.streams[number].found.pop_front() else {
                break;
            };
            if self.is_wanted(&ending.type_name, &ending.error) {
                let candidate = self.candidate(&ending);
                page.push(candidate);
            }
        }
        Ok(page)
    }

    fn count_others(&mut self, store: &mut Store) -> DbResult<Vec<(String, u64)>> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        let (window, bound) = (self.window, self.bound);
        for outcome in self.streams.iter().map(|stream| stream.outcome) {
            let which = Endings {
                outcome,
                window,
                bound,
            };
            // Nothing is resolved before it has finished.
            let mut after = (window.0.0, -1, 0);
            loop {
                let page = store.closed_endings(which, after, PAGE)?;
                for ending in &page {
                    if self.is_wanted(&ending.type_name, &ending.error) {
                        let why = match ending.resolved_as.as_str() {
                            "retried" => "run again before".to_owned(),
                            other => format!("resolved as {other}"),
                        };
                        *counts.entry(why).or_default() += 1;
                    }
                }
                match page.last() {
                    Some(last) if page.len() == PAGE => after = last.place,
                    _ => break,
                }
            }
        }
        Ok(counts.into_iter().collect())
    }

    fn notes(&self, _context: &Context, _window: Window) -> Vec<String> {
        Vec::new()
    }

    fn make(&self, store: &mut Store, chunk: &[Candidate], job: &Job<'_>) -> Result<Made, Stopped> {
        let ids: Vec<i64> = chunk.iter().map(|candidate| candidate.number).collect();
        let (endings, dealt_with) = store.still_open(&ids, CHUNK_BYTES)?;
        if !endings.is_empty() {
            store.make_again(&endings, job.id, job.due, job.now)?;
        }
        Ok(Made {
            dealt_with,
            events: endings.len() as u64,
        })
    }
}
