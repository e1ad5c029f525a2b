//! How long to wait before the next attempt. Pure.

use std::time::Duration;

/// The delay before attempt `tries + 1`, after `tries` failures: `base` doubled with each failure,
/// at most `max`, then lengthened by up to a quarter so that what failed together does not come
/// back together. `jitter` is a random number; never less than a second, so that a retry is never
/// due in the same instant.
pub fn backoff(tries: u32, base: Duration, max: Duration, jitter: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(31);
    let plain = base
        .saturating_mul(1 << doublings)
        .min(max)
        .max(Duration::from_secs(1));
    let share = f64::from(jitter) / f64::from(u32::MAX) / 4.0;
    plain.saturating_add(plain.mul_f64(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn delays_double_up_to_the_cap() {
        let delays: Vec<u64> = (1..=8)
            .map(|tries| backoff(tries, MINUTE, HOUR, 0).as_secs())
            .collect();
        assert_eq!(delays, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[test]
    fn jitter_adds_at_most_a_quarter() {
        assert_eq!(backoff(1, MINUTE, HOUR, u32::MAX).as_secs(), 75);
    }

    #[test]
    fn no_delay_is_still_a_second() {
        assert_eq!(backoff(1, Duration::ZERO, HOUR, 0).as_secs(), 1);
    }

    #[test]
    fn a_million_failures_do_not_overflow() {
        assert_eq!(
            backoff(1_000_000, HOUR, Duration::from_hours(6), 0).as_secs(),
            21_600
        );
    }
}
