//! Turns between types, rates and breakers (promise 9): pure, no clock, no I/O.

use std::time::Duration;

use crate::clock::UnixSeconds;

/// Deficit round-robin over types: each round a type earns a share of the batch size by its weight
/// and may spend what it has saved, one batch at most a turn.
#[derive(Debug, Clone)]
pub struct Turns {
    lanes: Vec<Share>,
    next: usize,
    batch: usize,
}

#[derive(Debug, Clone)]
struct Share {
    quantum: usize,
    deficit: usize,
}

/// One type's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Whose.
    pub lane: usize,
    /// The most events it may take.
    pub allowance: usize,
}

impl Turns {
    /// Turns among types of these weights, the heaviest getting `batch` events a round.
    pub fn new(weights: &[u32], batch: usize) -> Self {
        let heaviest = weights.iter().copied().max().unwrap_or(1).max(1) as usize;
        let quantum = |weight: u32| (batch * weight as usize).div_ceil(heaviest).max(1);
        let lanes = weights
            .iter()
            .map(|&w| Share {
                quantum: quantum(w),
                deficit: 0,
            })
            .collect();
        Self {
            lanes,
            next: 0,
            batch,
        }
    }

    /// The next turn among the types that `may` take one; `None` when none may.
    pub fn next(&mut self, may: &dyn Fn(usize) -> bool) -> Option<Turn> {
        for _ in 0..self.lanes.len() {
            let lane = self.next;
            self.next = (lane + 1) % self.lanes.len();
            if !may(lane) {
                continue;
            }
            let share = &mut self.lanes[lane];
            share.deficit += share.quantum;
            return Some(Turn {
                lane,
                allowance: share.deficit.min(self.batch),
            });
        }
        None
    }

    /// `events` of the allowance were used.
    pub fn used(&mut self, lane: usize, events: usize) {
        let share = &mut self.lanes[lane];
        // What was left over is kept for the next round, but never more than one batch.
        share.deficit = share.deficit.saturating_sub(events).min(self.batch);
    }

    /// The type has nothing more: a new backlog starts without savings.
    pub fn emptied(&mut self, lane: usize) {
        self.lanes[lane].deficit = 0;
    }
}

/// Attempts a minute, as a token bucket that holds at most one minute's worth.
#[derive(Debug, Clone)]
pub struct Rate {
    per_minute: i64,
    tokens_milli: i64,
    at: UnixSeconds,
}

impl Rate {
    /// A bucket as it was left: full where nothing is known of it. Whatever number the row holds,
    /// the bucket holds no more than a minute's worth and owes no more than one.
    pub fn new(per_minute: u32, left: Option<(i64, UnixSeconds)>, now: UnixSeconds) -> Self {
        let per_minute = i64::from(per_minute);
        let full = per_minute * 1000;
        let (tokens_milli, at) = left.unwrap_or((full, now));
        let tokens_milli = tokens_milli.clamp(-full, full);
        let mut rate = Self {
            per_minute,
            tokens_milli,
            at,
        };
        rate.refill(now);
        rate
    }

    /// How many attempts may start at `now`.
    pub fn available(&mut self, now: UnixSeconds) -> usize {
        self.refill(now);
        usize::try_from(self.tokens_milli / 1000).unwrap_or(0)
    }

    /// When an attempt may start, as far as is known at `now`.
    pub fn next(&mut self, now: UnixSeconds) -> UnixSeconds {
        self.refill(now);
        let missing = (1000 - self.tokens_milli).max(0);
        let seconds = u64::try_from(missing * 60).unwrap_or(0);
        let a_second = u64::try_from(self.per_minute * 1000).unwrap_or(1);
        now.after(Duration::from_secs(seconds.div_ceil(a_second.max(1))))
    }

    /// Takes `attempts` out.
    pub fn take(&mut self, attempts: usize) {
        self.tokens_milli -= i64::try_from(attempts).unwrap_or(i64::MAX / 1000) * 1000;
    }

    /// Puts `attempts` back that were taken and not started.
    pub fn put_back(&mut self, attempts: usize) {
        let back = i64::try_from(attempts).unwrap_or(i64::MAX / 1000) * 1000;
        self.tokens_milli = (self.tokens_milli + back).min(self.per_minute * 1000);
    }

    /// What is left, in thousandths of an attempt.
    pub fn tokens_milli(&self) -> i64 {
        self.tokens_milli
    }

    fn refill(&mut self, now: UnixSeconds) {
        let full = self.per_minute * 1000;
        let earned = now.since(self.at).min(60) * self.per_minute * 1000 / 60;
        self.tokens_milli = (self.tokens_milli + earned).min(full);
        self.at = now;
    }
}

/// Leaves a type alone after a row of failures, until a probe succeeds. Never for good.
#[derive(Debug, Clone)]
pub struct Breaker {
    threshold: Option<u32>,
    probe_after: Duration,
    failures: u32,
    open_until: Option<UnixSeconds>,
    changed: bool,
    opened: bool,
}

/// What the breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// Everything.
    All,
    /// One attempt, to see.
    Probe,
    /// Nothing.
    Nothing,
}

impl Breaker {
    /// A breaker as it was left; no `threshold`: it never opens.
    pub fn new(
        threshold: Option<u32>,
        probe_after: Duration,
        failures: u32,
        open_until: Option<UnixSeconds>,
    ) -> Self {
        Self {
            threshold,
            probe_after,
            failures,
            open_until,
            changed: false,
            opened: false,
        }
    }

    /// What it lets through at `now`.
    pub fn lets(&self, now: UnixSeconds) -> Through {
        match (self.threshold, self.open_until) {
            (None, _) | (_, None) => Through::All,
            (_, Some(until)) if until > now => Through::Nothing,
            _ => Through::Probe,
        }
    }

    /// Records how an attempt ended.
    pub fn record(&mut self, succeeded: bool, now: UnixSeconds) {
        if succeeded {
            self.changed |= self.failures > 0 || self.open_until.is_some();
            self.failures = 0;
            self.open_until = None;
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.changed = true;
        let due = self
            .threshold
            .is_some_and(|threshold| self.failures >= threshold);
        if due && self.open_until.is_none_or(|until| until <= now) {
            self.open_until = Some(now.after(self.probe_after));
            self.opened = true;
        }
    }

    /// Failures in a row, and until when it is open.
    pub fn state(&self) -> (u32, Option<UnixSeconds>) {
        (self.failures, self.open_until)
    }

    /// Whether the state changed since it was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether it opened since it was last asked.
    pub fn take_opened(&mut self) -> bool {
        std::mem::take(&mut self.opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(weights: &[u32], batch: usize, rounds: usize) -> Vec<(usize, usize)> {
        let mut turns = Turns::new(weights, batch);
        (0..rounds)
            .map(|_| {
                let turn = turns.next(&|_| true).expect("some lane may");
                turns.used(turn.lane, turn.allowance);
                (turn.lane, turn.allowance)
            })
            .collect()
    }

    #[test]
    fn equal_weights_take_full_batches_in_turn() {
        assert_eq!(
            order(&[1, 1], 500, 4),
            [(0, 500), (1, 500), (0, 500), (1, 500)]
        );
    }

    #[test]
    fn a_lighter_type_gets_its_share_and_at_least_one() {
        assert_eq!(order(&[100, 1], 10, 4), [(0, 10), (1, 1), (0, 10), (1, 1)]);
    }

    #[test]
    fn what_a_turn_leaves_is_saved_up_to_one_batch() {
        let mut turns = Turns::new(&[2, 1], 10);
        let only = |wanted: usize| move |lane: usize| lane == wanted;
        for _ in 0..5 {
            let turn = turns.next(&only(1)).expect("lane 1 may");
            turns.used(turn.lane, 0);
        }
        assert_eq!(turns.next(&only(1)).expect("lane 1 may").allowance, 10);
    }

    #[test]
    fn nobody_may_means_no_turn() {
        assert_eq!(Turns::new(&[1, 1], 10).next(&|_| false), None);
        assert_eq!(Turns::new(&[], 10).next(&|_| true), None);
    }

    #[test]
    fn a_rate_spends_a_minutes_worth_and_earns_it_back_with_time() {
        let start = UnixSeconds(1000);
        let mut rate = Rate::new(30, None, start);
        assert_eq!(rate.available(start), 30);
        rate.take(30);
        assert_eq!(rate.available(start), 0);
        assert_eq!(rate.available(start.after(Duration::from_secs(10))), 5);
        assert_eq!(rate.available(start.after(Duration::from_hours(1))), 30);
    }

    #[test]
    fn a_rate_says_when_the_next_attempt_may_start_and_no_second_too_early_or_late() {
        for per_minute in [1, 7, 30, 60, 90, 1000] {
            let start = UnixSeconds(1000);
            let mut rate = Rate::new(per_minute, Some((0, start)), start);
            let next = rate.next(start);
            let before = UnixSeconds(next.0 - 1);
            assert_eq!(rate.clone().available(before), 0, "{per_minute}");
            assert!(rate.available(next) > 0, "{per_minute}");
            assert_eq!(rate.next(next), next);
        }
    }

    #[test]
    fn a_rate_survives_a_clock_that_jumps_back() {
        let mut rate = Rate::new(30, Some((2000, UnixSeconds(5000))), UnixSeconds(1000));
        assert_eq!(rate.available(UnixSeconds(1000)), 2);
    }

    #[test]
    fn a_rate_gets_over_any_number_that_a_row_holds() {
        for tokens in [i64::MIN, -1_000_000_000, i64::MAX] {
            for at in [i64::MIN, 0, i64::MAX] {
                let now = UnixSeconds(1000);
                let mut rate = Rate::new(30, Some((tokens, UnixSeconds(at))), now);
                assert!(rate.available(now) <= 30);
                let soon = now.after(Duration::from_mins(2));
                rate.available(now.after(Duration::from_mins(1)));
                assert_eq!(rate.available(soon), 30, "{tokens} {at}");
            }
        }
    }

    #[test]
    fn a_breaker_opens_after_failures_in_a_row_and_probes_later() {
        let now = UnixSeconds(1000);
        let mut breaker = Breaker::new(Some(2), Duration::from_mins(1), 0, None);
        breaker.record(false, now);
        breaker.record(true, now);
        breaker.record(false, now);
        assert_eq!(breaker.lets(now), Through::All);
        breaker.record(false, now);
        assert_eq!(breaker.lets(now), Through::Nothing);
        let later = now.after(Duration::from_mins(1));
        assert_eq!(breaker.lets(later), Through::Probe);
        breaker.record(false, later);
        assert_eq!(breaker.lets(later), Through::Nothing);
        breaker.record(true, later);
        assert_eq!(breaker.lets(later), Through::All);
    }
}
