//! `cancel`, `retry`, `resolve`: what a person decides about single events, or about all that fit
//! a filter. An event it cannot be done to gets its own line; the others go on.

use serde_json::json;

use super::output::{self, plural};
use super::{Context, complain};
use crate::backfill::ORIGIN;
use crate::cli::{PickArgs, ResolveArgs};
use crate::clock::UnixSeconds;
use crate::db::Access;
use crate::error::{Exit, Failure};
use crate::event::{EventId, Outcome};
use crate::store::desk::{ByHand, ResolvedAs};
use crate::store::listing::{Live, Place, Selection};
use crate::store::{Stopped, Store};

/// Events of one transaction: some tens of milliseconds (RULINGS 18).
const CHUNK: usize = 100;
/// Refusals that are named one by one.
const NAMED: u64 = 100;

/// `punctual cancel`.
///
/// # Errors
/// The database's.
pub fn cancel(context: &Context, pick: &PickArgs) -> anyhow::Result<u8> {
    let mut desk = Desk::open(context, "cancelled")?;
    let now = desk.now;
    if !pick.ids.is_empty() {
        desk.each(&pick.ids, |store, ids| store.cancel(ids, now))?;
        return desk.close();
    }
    let selection = selection(context, pick, now)?;
    end_backfill(&mut desk.store, pick, now)?;
    let mut after = None;
    loop {
        let page = desk
            .store
            .live_page(Live::Ready, &selection, after, CHUNK)?;
        let Some(&last) = page.last() else {
            return desk.close();
        };
        after = Some(last);
        let ids: Vec<EventId> = page.into_iter().map(|(_, id)| id).collect();
        let chunk = desk.store.cancel(&ids, now).map_err(Stopped::into_error)?;
        desk.tell(chunk);
    }
}

/// Ends the backfill of which everything is picked, so that what is not written yet will not be.
fn end_backfill(store: &mut Store, pick: &PickArgs, now: UnixSeconds) -> anyhow::Result<()> {
    let of_backfill = pick
        .origin
        .as_deref()
        .and_then(|from| from.strip_prefix(ORIGIN));
    let Some(number) = of_backfill else {
        return Ok(());
    };
    let id = number.parse().ok();
    let known = id.map(|id| store.backfill(id)).transpose()?.flatten();
    let Some(backfill) = known else {
        let number = output::shorten(number, 20);
        return Err(Failure::usage(format!("there is no backfill {number}")).into());
    };
    if pick.types.is_empty() && pick.from.is_none() && pick.to.is_none() {
        let ended = store.cancel_backfill(backfill.id, now);
        ended.map_err(Stopped::into_error)?;
    }
    Ok(())
}

/// `punctual retry`.
///
/// # Errors
/// The database's.
pub fn retry(context: &Context, pick: &PickArgs) -> anyhow::Result<u8> {
    let mut desk = Desk::open(context, "retried")?;
    let now = desk.now;
    if pick.ids.is_empty() {
        let selection = selection(context, pick, now)?;
        desk.each_unresolved(&selection, |store, ids| store.retry(ids, now))?;
    } else {
        desk.each(&pick.ids, |store, ids| store.retry(ids, now))?;
    }
    desk.close()
}

/// `punctual resolve`.
///
/// # Errors
/// The database's.
pub fn resolve(context: &Context, args: &ResolveArgs) -> anyhow::Result<u8> {
    let as_what = match args.outcome.as_str() {
        "done" => ResolvedAs::Done,
        _ => ResolvedAs::Dead,
    };
    let mut desk = Desk::open(context, "resolved")?;
    let now = desk.now;
    if args.pick.ids.is_empty() {
        let selection = selection(context, &args.pick, now)?;
        desk.each_unresolved(&selection, |store, ids| store.resolve(ids, as_what, now))?;
    } else {
        desk.each(&args.pick.ids, |store, ids| {
            store.resolve(ids, as_what, now)
        })?;
    }
    desk.close()
}

fn selection(context: &Context, pick: &PickArgs, now: UnixSeconds) -> anyhow::Result<Selection> {
    Ok(Selection {
        types: pick.types.clone(),
        from: context.optional_time("--from", pick.from.as_ref(), now)?,
        to: context.optional_time("--to", pick.to.as_ref(), now)?,
        origin: pick.origin.clone(),
    })
}

/// One command at work: what it did so far.
struct Desk<'c> {
    context: &'c Context,
    store: Store,
    now: UnixSeconds,
    /// What is done to an event, as its report says it.
    verb: &'static str,
    done: u64,
    refused: u64,
}

impl<'c> Desk<'c> {
    fn open(context: &'c Context, verb: &'static str) -> anyhow::Result<Self> {
        let mut store = context.open(Access::Write)?;
        let now = store.now()?;
        Ok(Self {
            context,
            store,
            now,
            verb,
            done: 0,
            refused: 0,
        })
    }

    /// Does `work` to the events named, each once.
    fn each(
        &mut self,
        ids: &[i64],
        mut work: impl FnMut(&mut Store, &[EventId]) -> Result<ByHand, Stopped>,
    ) -> anyhow::Result<()> {
        let mut ids: Vec<EventId> = ids.iter().copied().map(EventId).collect();
        ids.sort_unstable();
        ids.dedup();
        for chunk in ids.chunks(CHUNK) {
            let chunk = work(&mut self.store, chunk).map_err(Stopped::into_error)?;
            self.tell(chunk);
        }
        Ok(())
    }

    /// Does `work` to all selected events that are dead or unknown and unresolved.
    fn each_unresolved(
        &mut self,
        selection: &Selection,
        mut work: impl FnMut(&mut Store, &[EventId]) -> Result<ByHand, Stopped>,
    ) -> anyhow::Result<()> {
        for outcome in [Outcome::Dead, Outcome::Unknown] {
            let mut after: Place = (UnixSeconds(0), EventId(0));
            loop {
                let page = self
                    .store
                    .open_endings_page(selection, outcome, after, CHUNK)?;
                let Some(&(last, _)) = page.last() else { break };
                after = last;
                let mut ids: Vec<EventId> = page.into_iter().map(|(_, id)| id).collect();
                ids.sort_unstable();
                ids.dedup();
                let chunk = work(&mut self.store, &ids).map_err(Stopped::into_error)?;
                self.tell(chunk);
            }
        }
        Ok(())
    }

    fn tell(&mut self, chunk: ByHand) {
        self.done += chunk.done;
        for (id, why) in chunk.refused {
            self.refused += 1;
            if self.refused <= NAMED {
                complain(&format!("event {id} {why}"));
            }
        }
    }

    fn close(self) -> anyhow::Result<u8> {
        if self.refused > NAMED {
            complain(&format!("and {} more", self.refused - NAMED));
        }
        if self.context.json {
            self.context.out.json(&json!({ self.verb: self.done }))?;
        } else {
            let events = plural(self.done, "event");
            self.context.out.line(format!("{} {events}", self.verb))?;
        }
        Ok(if self.refused == 0 {
            Exit::Ok
        } else {
            Exit::Data
        } as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::fixture::Fixture;

    fn ids(ids: &[i64]) -> PickArgs {
        PickArgs {
            ids: ids.to_vec(),
            ..PickArgs::default()
        }
    }

    fn all() -> PickArgs {
        PickArgs {
            all: true,
            ..PickArgs::default()
        }
    }

    /// An event that ended as `outcome`, with a payload, a key and an origin.
    fn ended(at: &Fixture, id: i64, outcome: &str) {
        at.exec(&format!(
            "INSERT INTO event_history (event_id, type, due_at, first_due_at, payload, unique_key, \
             origin, slot_at, priority, attempts, losses, deferrals, outcome, finished_at, error) \
             VALUES ({id}, 'a', 200, 100, 'p{id}', 'k{id}', 'schedule:s', 7, 1, 3, 2, 1, \
             '{outcome}', 300, 'why')"
        ));
    }

    #[test]
    fn ready_events_are_cancelled_and_the_others_named() {
        let mut at = Fixture::new();
        at.insert("a", 100);
        at.insert("a", 4_000_000_000);
        at.insert("a", 100);
        at.exec("UPDATE scheduled_events SET status = 'running', claim_epoch = 1 WHERE id = 3");
        assert_eq!(cancel(&at.context, &ids(&[1, 2, 2])).unwrap(), 0);
        assert_eq!(at.said(), "cancelled 2 events\n");
        at.context.json = true;
        assert_eq!(cancel(&at.context, &ids(&[1, 3, 99])).unwrap(), 65);
        assert_eq!(at.said(), "{\"cancelled\":0}\n");
        let history = at.rows("SELECT event_id, outcome, error FROM event_history");
        assert_eq!(
            history,
            [
                "1|cancelled|cancelled by hand",
                "2|cancelled|cancelled by hand"
            ]
        );
        assert_eq!(
            at.rows("SELECT id, status FROM scheduled_events"),
            ["3|running"]
        );
    }

    #[test]
    fn a_filter_cancels_what_fits_it_over_many_chunks() {
        let at = Fixture::new();
        at.exec(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 350) \
             INSERT INTO scheduled_events (type, due_at) \
             SELECT CASE WHEN i <= 50 THEN 'b' ELSE 'a' END, i FROM n",
        );
        let only_a = PickArgs {
            types: vec!["a".into()],
            ..PickArgs::default()
        };
        cancel(
            &at.context,
            &PickArgs {
                to: Some("@100".into()),
                ..only_a
            },
        )
        .unwrap();
        assert_eq!(at.said(), "cancelled 50 events\n");
        cancel(&at.context, &all()).unwrap();
        assert_eq!(at.said(), "cancelled 300 events\n");
    }

    #[test]
    fn a_dead_event_comes_back_under_its_id_as_if_new() {
        let at = Fixture::new();
        ended(&at, 7, "dead");
        assert_eq!(retry(&at.context, &ids(&[7])).unwrap(), 0);
        assert_eq!(at.said(), "retried 1 event\n");
        let live = at.rows(
            "SELECT id, type, payload, unique_key, origin, slot_at, priority, status, attempts, \
             losses, deferrals, due_at > 1000000, first_due_at IS NULL FROM scheduled_events",
        );
        assert_eq!(live, ["7|a|p7|k7|schedule:s|7|1|ready|0|0|0|1|1"]);
        assert_eq!(
            at.rows("SELECT resolved_as FROM event_history"),
            ["retried"]
        );
        assert_eq!(retry(&at.context, &ids(&[7])).unwrap(), 65);
    }

    #[test]
    fn what_cannot_come_back_is_refused_and_changes_nothing() {
        let at = Fixture::new();
        ended(&at, 7, "done");
        ended(&at, 8, "dead");
        at.exec(
            "INSERT INTO scheduled_events (id, type, due_at, unique_key) VALUES (20, 'a', 5, 'k8')",
        );
        assert_eq!(retry(&at.context, &ids(&[7, 8, 9])).unwrap(), 65);
        assert_eq!(at.said(), "retried 0 events\n");
        assert_eq!(at.rows("SELECT id FROM scheduled_events"), ["20"]);
        let open = at.rows("SELECT event_id FROM event_history WHERE resolved_at IS NULL");
        assert_eq!(open, ["7", "8"]);
    }

    #[test]
    fn an_event_that_waits_for_its_next_attempt_becomes_due_now() {
        let at = Fixture::new();
        at.insert("a", 4_000_000_000);
        at.insert("a", 4_000_000_000);
        at.exec("UPDATE scheduled_events SET attempts = 1, first_due_at = 100 WHERE id = 1");
        assert_eq!(retry(&at.context, &ids(&[1, 2])).unwrap(), 65);
        let due =
            at.rows("SELECT id, first_due_at FROM scheduled_events WHERE due_at < 3000000000");
        assert_eq!(due, ["1|100"]);
    }

    #[test]
    fn all_means_dead_and_unknown_ones_that_nobody_resolved() {
        let at = Fixture::new();
        for (id, outcome) in [
            (1, "dead"),
            (2, "unknown"),
            (3, "skipped"),
            (4, "cancelled"),
        ] {
            ended(&at, id, outcome);
        }
        let resolved = ResolveArgs {
            pick: ids(&[2]),
            outcome: "done".into(),
        };
        assert_eq!(resolve(&at.context, &resolved).unwrap(), 0);
        assert_eq!(at.said(), "resolved 1 event\n");
        assert_eq!(resolve(&at.context, &resolved).unwrap(), 65);
        at.said();
        retry(&at.context, &all()).unwrap();
        assert_eq!(at.said(), "retried 1 event\n");
        retry(&at.context, &ids(&[3, 4])).unwrap();
        assert_eq!(at.rows("SELECT id FROM scheduled_events"), ["1", "3", "4"]);
        let nothing_left = ResolveArgs {
            pick: all(),
            outcome: "dead".into(),
        };
        at.said();
        assert_eq!(resolve(&at.context, &nothing_left).unwrap(), 0);
        assert_eq!(at.said(), "resolved 0 events\n");
    }
}
