//! From a verdict to what becomes of the event: retries, caps and delivery (DESIGN §6). Pure.

use std::time::Duration;

use crate::clock::UnixSeconds;
use crate::config::{Late, TypeConfig};
use crate::event::{Event, Outcome};
use crate::fair::Breaker;
use crate::handler::Verdict;
use crate::retry::backoff;
use crate::store::settle::{Fate, Tally};

/// What an attempt says about its type's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The type works.
    Good,
    /// Counts toward the breaker.
    Bad,
    /// Says nothing of the type: put off, given up, interrupted.
    Neutral,
}

impl Health {
    /// Tells the type's breaker.
    pub fn tell(self, breaker: &mut Breaker, now: UnixSeconds) {
        match self {
            Health::Good => breaker.record(true, now),
            Health::Bad => breaker.record(false, now),
            Health::Neutral => {}
        }
    }
}

/// Decides what becomes of `event` after `verdict`. `jitter` gives a random number, and is asked for
/// it only where there is a delay to spread.
pub fn judge(
    config: &TypeConfig,
    event: &Event,
    verdict: Verdict,
    now: UnixSeconds,
    jitter: impl FnOnce() -> u32,
) -> (Fate, Health) {
    match verdict {
        Verdict::Done => (finish(Outcome::Done, None, Tally::None), Health::Good),
        Verdict::GiveUp { error } => (dead(error), Health::Neutral),
        Verdict::Later { error, retry_after } => (
            later(config, event, &error, retry_after, now, jitter()),
            Health::Neutral,
        ),
        Verdict::Failed { error, .. } if config.at_most_once => (dead(error), Health::Bad),
        Verdict::Lost { error } if config.at_most_once => (unknown(error), Health::Bad),
        Verdict::Failed { error, retry_after } => (
            again(config, event, error, retry_after, now, jitter()),
            Health::Bad,
        ),
        Verdict::NotStarted { error } | Verdict::Lost { error } => (
            again(config, event, error, None, now, jitter()),
            Health::Bad,
        ),
        Verdict::Interrupted { error } if config.at_most_once => (unknown(error), Health::Neutral),
        Verdict::Interrupted { error } => (lost_with_run(config, event, error), Health::Neutral),
    }
}

/// What becomes of a claim whose run died (RULINGS 19, 24).
pub fn lost_with_run(config: &TypeConfig, event: &Event, error: String) -> Fate {
    if config.at_most_once {
        return unknown(error);
    }
    if event.losses >= config.max_losses {
        let error = format!(
            "lost {} times with the run that tried it: {error}",
            event.losses + 1
        );
        return finish(Outcome::Dead, Some(error), Tally::Loss);
    }
    Fate::Again {
        due_at: event.due_at,
        error,
        tally: Tally::Loss,
    }
}

/// Whether a pass of its sweep has been made, or a try failed: `first_due_at` says so.
pub fn is_begun_sweep(config: &TypeConfig, event: &Event) -> bool {
    config.sweep().is_some() && event.first_due_at.is_some()
}

/// What becomes of a ready event that must not be fired at `now`; `None`: fire it. A sweep that has
/// begun is not late any more.
pub fn too_late(config: &TypeConfig, event: &Event, now: UnixSeconds) -> Option<Fate> {
    let is_first = event.is_first_attempt() && !is_begun_sweep(config, event);
    if event.expires_at.is_some_and(|at| at < now) {
        let (outcome, error) = if is_first {
            (Outcome::Skipped, "expired")
        } else if event.is_first_attempt() {
            (Outcome::Dead, "expired before its sweep was over")
        } else {
            (Outcome::Dead, "expired")
        };
        return Some(finish(outcome, Some(error.to_owned()), Tally::None));
    }
    let may_skip = config.late == Late::Skip && is_first;
    if !may_skip || !is_late(config, event, now) {
        return None;
    }
    let late = now.since(event.first_due());
    let most = config.max_late.unwrap_or_default().as_secs();
    let error = Some(format!("{late} s late, max_late is {most} s"));
    Some(finish(Outcome::Skipped, error, Tally::None))
}

/// Whether more than `max_late` have passed at `now` since `event` was first due.
pub fn is_late(config: &TypeConfig, event: &Event, now: UnixSeconds) -> bool {
    let late = u64::try_from(now.since(event.first_due())).unwrap_or(0);
    config.max_late.is_some_and(|most| late > most.as_secs())
}

fn finish(outcome: Outcome, error: Option<String>, tally: Tally) -> Fate {
    Fate::Finish {
        outcome,
        error,
        tally,
    }
}

fn dead(error: String) -> Fate {
    finish(Outcome::Dead, Some(error), Tally::Attempt)
}

fn unknown(error: String) -> Fate {
    finish(Outcome::Unknown, Some(error), Tally::None)
}

fn again(
    config: &TypeConfig,
    event: &Event,
    error: String,
    wish: Option<Duration>,
    now: UnixSeconds,
    jitter: u32,
) -> Fate {
    let tries = event.attempts + 1;
    if tries > config.retries {
        return dead(error);
    }
    let delay = wish.unwrap_or_else(|| backoff(tries, config.backoff, config.backoff_max, jitter));
    let due_at = now.after(delay.max(Duration::from_secs(1)));
    if event.expires_at.is_some_and(|at| due_at > at) {
        return dead(format!("expires before the next attempt: {error}"));
    }
    Fate::Again {
        due_at,
        error,
        tally: Tally::Attempt,
    }
}

fn later(
    config: &TypeConfig,
    event: &Event,
    error: &str,
    wish: Option<Duration>,
    now: UnixSeconds,
    jitter: u32,
) -> Fate {
    let deferrals = event.deferrals + 1;
    if deferrals > config.max_deferrals {
        let error = format!("put off {} times: {error}", event.deferrals);
        return finish(Outcome::Dead, Some(error), Tally::Deferral);
    }
    let delay =
        wish.unwrap_or_else(|| backoff(deferrals, config.backoff, config.backoff_max, jitter));
    let due_at = now.after(delay.max(Duration::from_secs(1)));
    if event.expires_at.is_some_and(|at| due_at > at) {
        let error = format!("expires before the next attempt: {error}");
        return finish(Outcome::Dead, Some(error), Tally::Deferral);
    }
    Fate::Again {
        due_at,
        error: error.to_owned(),
        tally: Tally::Deferral,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HandlerConfig, SqlConfig};
    use crate::event::EventId;

    const DUE: i64 = 1_000_000;
    const HOUR: i64 = 3600;

    fn config(late: Late) -> TypeConfig {
        let sql = SqlConfig {
            statements: Vec::new(),
            sweep: None,
        };
        TypeConfig {
            max_late: Some(Duration::from_hours(1)),
            late,
            ..TypeConfig::new("note", HandlerConfig::Sql(sql))
        }
    }

    /// Due at [`DUE`], never tried.
    fn event() -> Event {
        Event {
            id: EventId(1),
            type_name: "note".to_owned(),
            due_at: UnixSeconds(DUE),
            first_due_at: None,
            payload: Vec::new(),
            key: None,
            priority: 0,
            expires_at: None,
            attempts: 0,
            losses: 0,
            deferrals: 0,
            slot: None,
        }
    }

    /// Events that were tried once, in each way there is, and are due again at `due_at`.
    fn tried(due_at: i64) -> [Event; 3] {
        let again = || Event {
            due_at: UnixSeconds(due_at),
            first_due_at: Some(UnixSeconds(DUE)),
            ..event()
        };
        [
            Event {
                attempts: 1,
                ..again()
            },
            Event {
                losses: 1,
                ..again()
            },
            Event {
                deferrals: 1,
                ..again()
            },
        ]
    }

    fn ending(config: &TypeConfig, event: &Event, now: i64) -> Option<Outcome> {
        match too_late(config, event, UnixSeconds(now)) {
            Some(Fate::Finish { outcome, .. }) => Some(outcome),
            _ => None,
        }
    }

    fn expiring(event: Event, at: i64) -> Event {
        Event {
            expires_at: Some(UnixSeconds(at)),
            ..event
        }
    }

    #[test]
    fn a_late_event_is_skipped_where_its_type_says_so_and_fired_otherwise() {
        let (skip, fire) = (config(Late::Skip), config(Late::Fire));
        for (late, skipped) in [(0, None), (HOUR, None), (HOUR + 1, Some(Outcome::Skipped))] {
            assert_eq!(ending(&skip, &event(), DUE + late), skipped, "{late}");
            assert_eq!(ending(&fire, &event(), DUE + late), None, "{late}");
        }
        assert!(is_late(&fire, &event(), UnixSeconds(DUE + HOUR + 1)));
        assert!(!is_late(&fire, &event(), UnixSeconds(DUE + HOUR)));
    }

    #[test]
    fn no_retry_is_skipped_for_being_late() {
        for event in tried(DUE + 2 * HOUR) {
            let now = DUE + 9 * HOUR;
            assert_eq!(ending(&config(Late::Skip), &event, now), None, "{event:?}");
        }
    }

    #[test]
    fn after_its_expiry_an_event_is_skipped_and_a_retry_dead() {
        let config = config(Late::Fire);
        let first = expiring(event(), DUE + HOUR);
        assert_eq!(ending(&config, &first, DUE + HOUR), None);
        assert_eq!(
            ending(&config, &first, DUE + HOUR + 1),
            Some(Outcome::Skipped)
        );
        for event in tried(DUE + 60) {
            let event = expiring(event, DUE + HOUR);
            assert_eq!(ending(&config, &event, DUE + HOUR), None);
            assert_eq!(ending(&config, &event, DUE + HOUR + 1), Some(Outcome::Dead));
        }
    }

    #[test]
    fn what_would_be_tried_again_after_its_expiry_is_dead_at_once() {
        let config = config(Late::Fire);
        let now = UnixSeconds(DUE);
        let failed = || Verdict::Failed {
            error: "no".to_owned(),
            retry_after: None,
        };
        let later = || Verdict::Later {
            error: "busy".to_owned(),
            retry_after: None,
        };
        // The first delay is a minute.
        for (expires_in, is_dead) in [(59, true), (60, false)] {
            let event = expiring(event(), DUE + expires_in);
            for verdict in [failed(), later()] {
                let (fate, _) = judge(&config, &event, verdict, now, || 0);
                let dead = matches!(
                    fate,
                    Fate::Finish {
                        outcome: Outcome::Dead,
                        ..
                    }
                );
                assert_eq!(dead, is_dead, "{expires_in}: {fate:?}");
            }
        }
    }
}
