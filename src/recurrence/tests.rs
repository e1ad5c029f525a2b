use serde::Deserialize;

use super::*;

mod lint;
mod slow;
mod writing;
mod zones;

fn zone(name: &str) -> Zone {
    Zone::named(name).unwrap_or_else(|| panic!("no zone {name}"))
}

fn cron(text: &str, name: &str) -> Recurrence {
    Recurrence::cron(text, zone(name)).unwrap()
}

fn every(seconds: u64, anchor: i64) -> Recurrence {
    Recurrence::every(Duration::from_secs(seconds), UnixSeconds(anchor)).unwrap()
}

/// The instant written `2026-10-25T02:30:00+02:00`.
fn at(text: &str) -> UnixSeconds {
    let time = chrono::DateTime::parse_from_rfc3339(text).unwrap();
    UnixSeconds(time.timestamp())
}

fn slots(recurrence: &Recurrence, after: &str, until: &str) -> Vec<UnixSeconds> {
    recurrence.slots_between(at(after), at(until), usize::MAX)
}

fn all(texts: &[&str]) -> Vec<UnixSeconds> {
    texts.iter().map(|text| at(text)).collect()
}

/// What holds of any rule between two instants, whatever its slots are.
#[track_caller]
fn holds_together(recurrence: &Recurrence, after: UnixSeconds, until: UnixSeconds) {
    let slots = recurrence.slots_between(after, until, usize::MAX);
    let shown = || format!("{recurrence} after {after} until {until}");
    assert!(slots.is_sorted_by(|one, next| one < next), "{}", shown());
    assert!(slots.iter().all(|slot| after < *slot && *slot <= until));
    let count = recurrence.count_between(after, until);
    assert_eq!(count, slots.len() as u64, "{}", shown());
    let mut before = recurrence.last_at_or_before(after);
    assert!(before.is_none_or(|slot| slot <= after), "{}", shown());
    for slot in slots {
        let just_before = UnixSeconds(slot.0 - 1);
        assert_eq!(
            recurrence.next_after(just_before),
            Some(slot),
            "{}",
            shown()
        );
        assert_eq!(
            recurrence.last_at_or_before(just_before),
            before,
            "{}",
            shown()
        );
        assert_eq!(
            recurrence.last_at_or_before(slot),
            Some(slot),
            "{}",
            shown()
        );
        before = Some(slot);
    }
    assert_eq!(recurrence.last_at_or_before(until), before, "{}", shown());
}

#[derive(Deserialize)]
struct Vector {
    cron: String,
    timezone: String,
    after: i64,
    slots: Vec<i64>,
}

#[test]
fn the_vectors_of_a_brute_force_oracle_are_met() {
    let file = include_str!("../../tests/vectors/cron_slots.json");
    let vectors: Vec<Vector> = serde_json::from_str(file).unwrap();
    assert!(vectors.len() >= 12);
    for vector in vectors {
        let recurrence = cron(&vector.cron, &vector.timezone);
        let next = recurrence.slots_after(UnixSeconds(vector.after));
        let next: Vec<i64> = next.take(vector.slots.len()).map(|slot| slot.0).collect();
        assert_eq!(next, vector.slots, "{recurrence} after {}", vector.after);
    }
}

#[test]
fn a_fixed_time_that_does_not_exist_comes_at_the_first_instant_after_the_gap() {
    // 02:00 is followed by 03:00.
    for text in ["30 2 * * *", "30 2-2 * * *", "30,30 2 * * 0,1-6"] {
        assert_eq!(
            slots(
                &cron(text, "Europe/Amsterdam"),
                "2026-03-28T03:00:00Z",
                "2026-03-30T03:00:00Z"
            ),
            all(&["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]),
            "{text}"
        );
    }
}

#[test]
fn a_fixed_time_that_exists_twice_comes_the_first_time() {
    // 03:00 is followed by 02:00.
    assert_eq!(
        slots(
            &cron("30 2 * * *", "Europe/Amsterdam"),
            "2026-10-24T03:00:00Z",
            "2026-10-26T03:00:00Z"
        ),
        all(&["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"])
    );
}

#[test]
fn any_other_expression_follows_the_clocks() {
    let half_hours = cron("*/30 2 * * *", "Europe/Amsterdam");
    assert_eq!(
        slots(&half_hours, "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z"),
        []
    );
    assert_eq!(
        slots(&half_hours, "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z"),
        all(&[
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T02:30:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T02:30:00+01:00"
        ])
    );
    let hourly = cron("@hourly", "Europe/Amsterdam");
    let passed = slots(&hourly, "2026-10-24T23:30:00Z", "2026-10-25T03:30:00Z");
    assert!(passed.windows(2).all(|pair| pair[1].0 - pair[0].0 == 3600));
    assert_eq!(passed.len(), 4);
}

#[test]
fn a_day_that_a_zone_left_out_is_made_up_for_once_by_what_is_fixed() {
    // Samoa went from 29 December to the 31st.
    let daily = cron("0 9 * * *", "Pacific/Apia");
    assert_eq!(
        slots(
            &daily,
            "2011-12-29T00:00:00-10:00",
            "2012-01-01T00:00:00+14:00"
        ),
        all(&[
            "2011-12-29T09:00:00-10:00",
            "2011-12-31T00:00:00+14:00",
            "2011-12-31T09:00:00+14:00"
        ])
    );
    let midnight = cron("@daily", "Pacific/Apia");
    assert_eq!(
        slots(
            &midnight,
            "2011-12-29T00:00:00-10:00",
            "2012-01-01T00:00:00+14:00"
        ),
        all(&["2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00"])
    );
    // Kwajalein left out 21 August 1993.
    let noons = cron("0 0,12 * * *", "Pacific/Kwajalein");
    let about = slots(
        &noons,
        "1993-08-20T00:00:00-12:00",
        "1993-08-22T12:00:00+12:00",
    );
    assert_eq!(
        about,
        all(&[
            "1993-08-20T12:00:00-12:00",
            "1993-08-22T00:00:00+12:00",
            "1993-08-22T12:00:00+12:00"
        ])
    );
}

#[test]
fn half_hours_quarters_and_seconds_of_zones_are_kept() {
    // Half an hour is put back at 02:00.
    assert_eq!(
        slots(
            &cron("45 1 * * *", "Australia/Lord_Howe"),
            "2027-04-03T00:00:00Z",
            "2027-04-05T00:00:00Z"
        ),
        all(&["2027-04-04T01:45:00+11:00", "2027-04-05T01:45:00+10:30"])
    );
    assert_eq!(
        slots(
            &cron("0 0 * * *", "Asia/Kathmandu"),
            "2026-11-22T00:00:00Z",
            "2026-11-23T00:00:00Z"
        ),
        all(&["2026-11-23T00:00:00+05:45"])
    );
    // Until 7 January 1972 Liberia was 44 minutes and 30 seconds behind UTC; then midnight was
    // followed by 00:44:30.
    let quarters = cron("*/15 0 * * *", "Africa/Monrovia");
    assert_eq!(
        slots(&quarters, "1972-01-05T12:00:00Z", "1972-01-08T00:00:00Z"),
        [
            at("1972-01-06T00:44:30Z"),
            at("1972-01-06T00:59:30Z"),
            at("1972-01-06T01:14:30Z"),
            at("1972-01-06T01:29:30Z"),
            at("1972-01-07T00:45:00Z"),
            at("1972-01-08T00:00:00Z"),
        ]
    );
    // The gap begins at midnight itself.
    assert_eq!(
        slots(
            &cron("0 0 * * *", "Africa/Monrovia"),
            "1972-01-06T12:00:00Z",
            "1972-01-08T00:00:00Z"
        ),
        all(&["1972-01-07T00:44:30Z", "1972-01-08T00:00:00Z"])
    );
}

#[test]
fn rare_days_are_found_however_far_away() {
    let leap = cron("59 23 29 2 *", "UTC");
    assert_eq!(
        leap.next_after(at("2096-03-01T00:00:00Z")),
        Some(at("2104-02-29T23:59:00Z"))
    );
    assert_eq!(
        leap.last_at_or_before(at("2104-02-29T23:58:59Z")),
        Some(at("2096-02-29T23:59:00Z"))
    );
    // 29 February on a Monday, over the end of a century without a leap day.
    let rarer = cron("0 0 */28 2 1#5", "UTC");
    let found: Vec<_> = rarer
        .slots_after(at("2070-01-01T00:00:00Z"))
        .take(3)
        .collect();
    assert_eq!(
        found,
        all(&[
            "2072-02-29T00:00:00Z",
            "2112-02-29T00:00:00Z",
            "2140-02-29T00:00:00Z"
        ])
    );
    assert_eq!(
        leap.count_between(at("1970-01-01T00:00:00Z"), at("2370-01-01T00:00:00Z")),
        97
    );
}

#[test]
fn what_only_ever_falls_into_gaps_ends() {
    // At 02:00 on the last Sunday of March clocks are put forward, since 1981.
    let never_again = cron("0,30 2 * 3 0L", "Europe/Amsterdam");
    assert_eq!(never_again.next_after(at("2026-01-01T00:00:00Z")), None);
    let last = at("1980-03-30T02:30:00+01:00");
    let found = never_again.last_at_or_before(at("2999-01-01T00:00:00Z"));
    assert_eq!(
        never_again.count_between(found.unwrap(), UnixSeconds::MAX),
        0
    );
    assert_eq!(found, Some(last));
}

#[test]
fn slots_end_with_the_year_3000_and_begin_with_1970() {
    for recurrence in [
        cron("* * * * *", "Asia/Tokyo"),
        every(60, 30),
        every(u64::from(u32::MAX), 7),
    ] {
        assert_eq!(
            recurrence.next_after(UnixSeconds::MAX),
            None,
            "{recurrence}"
        );
        assert_eq!(recurrence.next_after(UnixSeconds(i64::MAX)), None);
        assert_eq!(recurrence.last_at_or_before(UnixSeconds(-1)), None);
        assert_eq!(recurrence.last_at_or_before(UnixSeconds(i64::MIN)), None);
        let first = recurrence.next_after(UnixSeconds(i64::MIN)).unwrap();
        assert!(first.0 >= 0, "{recurrence}");
        let last = recurrence.last_at_or_before(UnixSeconds(i64::MAX)).unwrap();
        assert!(last <= UnixSeconds::MAX);
        assert_eq!(recurrence.next_after(last), None);
        let count = recurrence.count_between(UnixSeconds(i64::MIN), UnixSeconds(i64::MAX));
        assert_eq!(
            count,
            recurrence.count_between(UnixSeconds(-1), UnixSeconds::MAX)
        );
    }
    assert_eq!(
        cron("* * * * *", "UTC").next_after(UnixSeconds(-5)),
        Some(UnixSeconds(0))
    );
    assert_eq!(
        cron("* * * * *", "UTC").count_between(UnixSeconds(-1), UnixSeconds::MAX),
        32_503_680_000 / 60 + 1
    );
}

#[test]
fn start_and_end_are_themselves_within() {
    let (start, end) = (at("2026-11-22T09:00:00Z"), at("2026-11-24T09:00:00Z"));
    for recurrence in [cron("0 9 * * *", "UTC"), every(86_400, 9 * 3600)] {
        let recurrence = recurrence.between(start, end);
        let all = recurrence.slots_between(UnixSeconds(0), UnixSeconds::MAX, usize::MAX);
        assert_eq!(all.len(), 3);
        assert_eq!((all[0], all[2]), (start, end));
        assert_eq!(
            recurrence.count_between(UnixSeconds(0), UnixSeconds::MAX),
            3
        );
        assert_eq!(recurrence.last_at_or_before(UnixSeconds::MAX), Some(end));
        assert_eq!(recurrence.last_at_or_before(UnixSeconds(start.0 - 1)), None);
        holds_together(
            &recurrence,
            UnixSeconds(start.0 - 86_400),
            end.after(Duration::from_hours(48)),
        );
        let none = recurrence.between(end, UnixSeconds(i64::MIN));
        assert_eq!(none.next_after(UnixSeconds(0)), None);
        assert_eq!(none.count_between(UnixSeconds(0), UnixSeconds::MAX), 0);
        assert_eq!(none.last_at_or_before(UnixSeconds::MAX), None);
    }
}

#[test]
fn every_so_often_counts_seconds_and_not_what_clocks_show() {
    let six_hours = every(6 * 3600, at("2026-10-24T03:00:00Z").0);
    assert_eq!(
        slots(&six_hours, "2026-10-24T21:00:00Z", "2026-10-25T15:00:00Z"),
        all(&[
            "2026-10-25T03:00:00Z",
            "2026-10-25T09:00:00Z",
            "2026-10-25T15:00:00Z"
        ])
    );
    // Before the anchor too.
    assert_eq!(
        six_hours.next_after(UnixSeconds(0)),
        Some(UnixSeconds(3 * 3600))
    );
    let wild = every(u64::try_from(i64::MAX).unwrap(), i64::MIN);
    assert_eq!(wild.next_after(UnixSeconds(0)), None);
    assert_eq!(wild.count_between(UnixSeconds(0), UnixSeconds::MAX), 0);
    for wrong in [Duration::ZERO, Duration::from_millis(1500), Duration::MAX] {
        let refused = Recurrence::every(wrong, UnixSeconds(0));
        assert_eq!(refused, Err(RecurrenceError::NoInterval));
    }
}

#[test]
fn a_rate_is_held_against_the_most_slots_of_a_minute() {
    assert_eq!(cron("* * * * *", "UTC").most_per_minute(), 1);
    for (seconds, most) in [(1, 60), (7, 9), (59, 2), (60, 1), (3600, 1)] {
        let recurrence = every(seconds, 3);
        assert_eq!(recurrence.most_per_minute(), most);
        let counts = (0..3600)
            .map(|from| recurrence.count_between(UnixSeconds(from), UnixSeconds(from + 60)));
        assert_eq!(counts.max(), Some(most), "{seconds}");
    }
}

#[test]
fn years_of_slots_are_counted_and_the_last_of_them_found_at_once() {
    let (from, until) = (at("2020-01-01T00:00:00Z"), at("2030-01-01T00:00:00Z"));
    let minutes = cron("* * * * *", "Europe/Amsterdam");
    assert_eq!(minutes.count_between(from, until), 3653 * 1440);
    assert_eq!(
        cron("0 7 * * *", "Europe/Amsterdam").count_between(from, until),
        3653
    );
    assert_eq!(
        cron("30 2 * * *", "Europe/Amsterdam").count_between(from, until),
        3653
    );
    assert_eq!(every(1, 5).count_between(from, until), 3653 * 86_400);
    let once = cron("0 0 1 1 *", "UTC").between(UnixSeconds(0), at("1999-01-01T00:00:00Z"));
    assert_eq!(
        once.last_at_or_before(UnixSeconds::MAX),
        Some(at("1999-01-01T00:00:00Z"))
    );
}
