//! `prune`: removes old history at once, in the same small transactions as a run does bit by bit.

use serde_json::json;

use super::Context;
use super::output::plural;
use super::progress::Progress;
use crate::cli::PruneArgs;
use crate::db::Access;
use crate::error::Exit;
use crate::store::Stopped;
use crate::store::prune::Retention;

/// `punctual prune`.
///
/// # Errors
/// The database's.
pub fn main(context: &Context, args: &PruneArgs) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Write)?;
    let now = store.now()?;
    let mut keep = Retention::of(&context.config.run, now);
    if let Some(age) = args.older_than {
        keep.before = now.before(age);
    }
    let total = if context.shows_progress() {
        u64::try_from(store.count_prunable(keep)?).ok()
    } else {
        None // counting is for whoever watches
    };
    let progress = Progress::of_rows(context, total);
    let mut removed = 0_u64;
    loop {
        // As a transaction, so that it is tried again where the database was busy.
        let chunk = store.transaction(|store| Ok(store.prune_chunk(keep)?));
        match chunk.map_err(Stopped::into_error)? {
            0 => break,
            rows => removed += rows as u64,
        }
        progress.at(removed, || "rows".to_owned());
    }
    drop(progress);
    if context.json {
        context.out.json(&json!({ "removed": removed }))?;
    } else {
        context
            .out
            .line(format!("removed {}", plural(removed, "row")))?;
    }
    Ok(Exit::Ok as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::fixture::Fixture;

    fn ended(at: &Fixture, outcome: &str, seconds_ago: i64) {
        let finished = at.store().now().unwrap().0 - seconds_ago;
        at.exec(&format!(
            "INSERT INTO event_history (event_id, type, due_at, priority, attempts, losses, \
             deferrals, outcome, finished_at) \
             VALUES (1, 'a', 5, 0, 0, 0, 0, '{outcome}', {finished})"
        ));
    }

    #[test]
    fn what_is_over_its_time_goes_and_what_nobody_resolved_stays_longer() {
        const DAY: i64 = 86_400;
        let at = Fixture::new();
        for (outcome, days) in [("done", 31), ("done", 29), ("dead", 31), ("dead", 400)] {
            ended(&at, outcome, days * DAY);
        }
        main(&at.context, &PruneArgs { older_than: None }).unwrap();
        assert_eq!(at.said(), "removed 2 rows\n");
        let week = std::time::Duration::from_hours(7 * 24);
        main(
            &at.context,
            &PruneArgs {
                older_than: Some(week),
            },
        )
        .unwrap();
        assert_eq!(at.said(), "removed 1 row\n");
        assert_eq!(at.rows("SELECT outcome FROM event_history"), ["dead"]);
    }
}
