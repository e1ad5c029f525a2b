//! From a verdict to what becomes of the event: retries, caps and delivery (DESIGN §6). Pure.

use std::time::Duration;

use crate::clock::UnixSeconds;
use crate::config::TypeConfig;
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
    let max_late = config
        .max_late
        .filter(|_| config.late == crate::config::Late::Skip)?;
    let late = now.since(event.first_due());
    if !is_first || late <= i64::try_from(max_late.as_secs()).unwrap_or(i64::MAX) {
        return None;
    }
    let error = Some(format!(
        "{late} s late, max_late is {} s",
        max_late.as_secs()
    ));
    Some(finish(Outcome::Skipped, error, Tally::None))
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
