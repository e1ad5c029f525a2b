//! `Retry-After`: the server's wish for the delay before the next attempt. Pure.

use std::time::Duration;

use chrono::NaiveDateTime;

use crate::clock::UnixSeconds;

/// A server cannot put an event off for longer than this: the type's own limits decide then.
pub(super) const LONGEST: Duration = Duration::from_hours(24);

/// The three forms of RFC 9110 §5.6.7; all of them are in UTC, whatever the last one leaves unsaid.
const DATES: [&str; 3] = [
    "%a, %d %b %Y %H:%M:%S GMT",
    "%A, %d-%b-%y %H:%M:%S GMT",
    "%a %b %e %T %Y",
];

/// Reads the header's value, seconds or an HTTP date (RFC 9110 §10.2.3), as a delay from `now`,
/// at most [`LONGEST`]; a date that has passed is no delay. `None` where it is neither.
pub(super) fn parse(value: &str, now: UnixSeconds) -> Option<Duration> {
    let value = value.trim();
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = if is_number {
        value.parse().unwrap_or(u64::MAX) // more digits than a u64 holds: the cap applies
    } else {
        u64::try_from(date(value)?.since(now)).unwrap_or(0)
    };
    Some(Duration::from_secs(seconds).min(LONGEST))
}

fn date(value: &str) -> Option<UnixSeconds> {
    let at = DATES
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(value, form).ok())?;
    Some(UnixSeconds(at.and_utc().timestamp()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT

    fn seconds(value: &str) -> Option<u64> {
        parse(value, NOW).map(|delay| delay.as_secs())
    }

    #[test]
    fn seconds_are_read_and_capped_at_a_day() {
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds(" 120 "), Some(120));
        assert_eq!(seconds("86400"), Some(86_400));
        assert_eq!(seconds("86401"), Some(86_400));
        assert_eq!(seconds("99999999999999999999999"), Some(86_400));
    }

    #[test]
    fn all_three_forms_of_a_date_are_read() {
        assert_eq!(seconds("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(seconds("Sunday, 06-Nov-94 08:50:37 GMT"), Some(60));
        assert_eq!(seconds("Sun Nov  6 08:50:37 1994"), Some(60));
    }

    #[test]
    fn a_date_that_has_passed_is_no_delay_and_a_far_one_is_a_day() {
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:36 GMT"), Some(0));
        assert_eq!(seconds("Fri, 31 Dec 1999 23:59:59 GMT"), Some(86_400));
    }

    #[test]
    fn anything_else_is_no_wish() {
        for value in [
            "",
            " ",
            "soon",
            "-5",
            "1.5",
            "+3",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "2026-01-01",
        ] {
            assert_eq!(seconds(value), None, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics_or_asks_for_more_than_a_day(value in ".*", now in any::<i32>()) {
            let delay = parse(&value, UnixSeconds(i64::from(now)));
            prop_assert!(delay.is_none_or(|delay| delay <= LONGEST));
        }
    }
}
