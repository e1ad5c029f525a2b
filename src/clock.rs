//! Time: the only place that reads a clock.
//!
//! Wall time ([`Clock::now`]) decides what is due on SQLite; on MySQL the database's clock does
//! (DESIGN §9). Monotonic time ([`Instant`] from [`monotonic`]) measures budgets, timeouts and the
//! freshness of the lease, so a stepped wall clock cannot stretch or cut them.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::fault;

/// Seconds since 1970-01-01T00:00:00Z, as stored in every `*_at` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixSeconds(pub i64);

impl UnixSeconds {
    /// The last second the tables accept: 3000-01-01T00:00:00Z. Larger numbers are milliseconds
    /// or `NOW()` read as digits, never a date (DESIGN §4).
    pub const MAX: UnixSeconds = UnixSeconds(32_503_680_000);

    /// This instant moved later by `by`, in whole seconds, rounded up so that nothing is early.
    #[must_use]
    pub fn after(self, by: Duration) -> UnixSeconds {
        let whole = by
            .as_secs()
            .saturating_add(u64::from(by.subsec_nanos() > 0));
        UnixSeconds(
            self.0
                .saturating_add(i64::try_from(whole).unwrap_or(i64::MAX)),
        )
    }

    /// This instant moved earlier by `by`, in whole seconds.
    #[must_use]
    pub fn before(self, by: Duration) -> UnixSeconds {
        UnixSeconds(
            self.0
                .saturating_sub(i64::try_from(by.as_secs()).unwrap_or(i64::MAX)),
        )
    }

    /// Whole seconds from `earlier` to this instant; 0 if it lies ahead.
    pub fn since(self, earlier: UnixSeconds) -> i64 {
        self.0.saturating_sub(earlier.0).max(0)
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The host's wall clock, optionally shifted: the seam through which tests move time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    shift: i64,
}

impl Clock {
    /// The host's clock as it is.
    pub fn system() -> Self {
        Self::default()
    }

    /// The host's clock moved by `seconds`.
    pub fn shifted(seconds: i64) -> Self {
        Self { shift: seconds }
    }

    /// The current second, rounded down: an event due within it counts as due.
    pub fn now(self) -> UnixSeconds {
        self.read().0
    }

    /// The current second, and how much of it is over.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn read(self) -> (UnixSeconds, Duration) {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
        let seconds = seconds.saturating_add(self.shift + fault::clock_shift());
        let over = Duration::from_nanos(since_epoch.subsec_nanos().into());
        (UnixSeconds(seconds), over)
    }
}

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn monotonic() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_between_any_two_numbers_have_a_length() {
        let (first, last) = (UnixSeconds(i64::MIN), UnixSeconds(i64::MAX));
        assert_eq!(last.since(first), i64::MAX);
        assert_eq!(first.since(last), 0);
        assert_eq!(last.after(Duration::MAX), last);
        assert_eq!(first.before(Duration::MAX), first);
    }
}
