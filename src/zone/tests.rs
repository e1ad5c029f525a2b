//! Each zone against itself: offsets, local times and changes must tell one story.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// No zone has ever been further from UTC, in seconds.
const FURTHEST: i64 = 26 * 3600;

fn zone(name: &str) -> Zone {
    Zone::named(name).unwrap_or_else(|| panic!("{name}"))
}

fn all() -> Vec<Zone> {
    Zone::names().map(zone).collect()
}

fn any_zone() -> impl Strategy<Value = Zone> {
    let all = all();
    (0..all.len()).prop_map(move |at| all[at].clone())
}

fn any_instant() -> impl Strategy<Value = i64> {
    // Most changes there have been, and the rules that go on for ever.
    prop_oneof![-5_000_000_000..4_000_000_000_i64, 0..=UnixSeconds::MAX.0]
}

fn at(text: &str) -> UnixSeconds {
    UnixSeconds(DateTime::parse_from_rfc3339(text).unwrap().timestamp())
}

fn local(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap()
}

/// The same question asked in another way: each offset in use about then, tried.
fn instants_by_trial(zone: &Zone, local: NaiveDateTime) -> BTreeSet<i64> {
    let shown = local.and_utc().timestamp();
    let mut offsets = BTreeSet::new();
    let mut probe = UnixSeconds(shown - FURTHEST);
    while probe.0 <= shown + FURTHEST {
        offsets.insert(i64::from(zone.offset_at(probe)));
        probe.0 += 60;
    }
    let own = |at: &i64| i64::from(zone.offset_at(UnixSeconds(*at))) == shown - at;
    offsets
        .iter()
        .map(|offset| shown - offset)
        .filter(own)
        .collect()
}

#[test]
fn every_zone_can_be_named_and_no_other_spelling_of_it() {
    let names: Vec<_> = Zone::names().collect();
    assert!(names.len() > 590, "{}", names.len());
    assert!(names.is_sorted_by_key(|name| name.to_lowercase()));
    for name in names {
        assert_eq!(zone(name).name(), name);
        assert_eq!(zone(name).to_string(), name);
        if name != name.to_lowercase() {
            assert_eq!(Zone::named(&name.to_lowercase()), None, "{name}");
        }
    }
    for text in [
        "",
        "utc",
        "Europe",
        "Factory",
        "Nowhere/At_All",
        "../UTC",
        "CET-1CEST,M3.5.0",
    ] {
        assert_eq!(Zone::named(text), None, "{text}");
    }
}

#[test]
fn zones_are_equal_by_their_names() {
    assert_eq!(Zone::named("UTC"), Some(Zone::utc()));
    assert_ne!(zone("Etc/UTC"), Zone::utc());
    assert_eq!(zone("Europe/Amsterdam"), zone("Europe/Amsterdam").clone());
}

#[test]
fn a_time_has_its_zones_offset_and_abbreviation() {
    for (name, when, offset, abbreviation) in [
        ("UTC", "2026-07-01T00:00:00Z", 0, "UTC"),
        ("Europe/Amsterdam", "2026-07-01T00:00:00Z", 7200, "CEST"),
        ("Europe/Amsterdam", "2026-12-01T00:00:00Z", 3600, "CET"),
        ("Europe/Dublin", "2026-07-01T00:00:00Z", 3600, "IST"),
        ("America/Sao_Paulo", "2026-07-01T00:00:00Z", -10_800, "-03"),
        ("Asia/Kathmandu", "2026-07-01T00:00:00Z", 20_700, "+0545"),
        ("Africa/Monrovia", "1972-01-01T00:00:00Z", -2670, "MMT"),
        ("Africa/Casablanca", "2026-07-01T00:00:00Z", 3600, "+01"),
        ("Etc/GMT+5", "2026-07-01T00:00:00Z", -18_000, "-05"),
    ] {
        let (zone, when) = (zone(name), at(when));
        let found = (zone.offset_at(when), zone.abbreviation_at(when));
        assert_eq!(found, (offset, abbreviation.to_owned()), "{name}");
    }
}

#[test]
fn summer_time_goes_on_to_the_end_of_the_range() {
    let amsterdam = zone("Europe/Amsterdam");
    assert_eq!(amsterdam.offset_at(at("2150-07-01T00:00:00Z")), 7200);
    assert_eq!(amsterdam.offset_at(at("2999-07-01T00:00:00Z")), 7200);
    assert_eq!(
        amsterdam.next_change(at("2999-07-01T00:00:00Z")),
        Some(at("2999-10-27T01:00:00Z"))
    );
    assert!(amsterdam.next_change(UnixSeconds::MAX).is_some());
}

#[test]
fn a_local_time_is_once_twice_or_skipped() {
    let amsterdam = zone("Europe/Amsterdam");
    assert_eq!(
        amsterdam.instants_of(local("2026-11-22 09:15:00")),
        Instants::Once(at("2026-11-22T08:15:00Z"))
    );
    assert_eq!(
        amsterdam.instants_of(local("2026-10-25 02:30:00")),
        Instants::Twice {
            first: at("2026-10-25T00:30:00Z"),
            second: at("2026-10-25T01:30:00Z"),
        }
    );
    assert_eq!(
        amsterdam.instants_of(local("2026-03-29 02:30:00")),
        Instants::Skipped {
            resumes: at("2026-03-29T01:00:00Z"),
        }
    );
    // A whole day left out.
    assert_eq!(
        zone("Pacific/Apia").instants_of(local("2011-12-30 12:00:00")),
        Instants::Skipped {
            resumes: at("2011-12-30T10:00:00Z"),
        }
    );
}

#[test]
fn where_clocks_are_left_alone_no_change_comes() {
    for name in [
        "UTC",
        "Etc/UTC",
        "Etc/GMT+5",
        "Asia/Tokyo",
        "America/Sao_Paulo",
    ] {
        assert_eq!(
            zone(name).next_change(at("2026-01-01T00:00:00Z")),
            None,
            "{name}"
        );
    }
    let changes = |name: &str| {
        let zone = zone(name);
        let mut changes = vec![];
        let mut last = at("1970-01-01T00:00:00Z");
        while let Some(next) = zone.next_change(last).filter(|next| next.0 < 2_000_000_000) {
            assert_ne!(zone.offset_at(last), zone.offset_at(next));
            changes.push(next);
            last = next;
        }
        changes.len()
    };
    assert_eq!(changes("Africa/Monrovia"), 1);
    assert_eq!(changes("Asia/Tokyo"), 0);
}

#[test]
fn instants_no_calendar_holds_are_answered_for_all_the_same() {
    for zone in all() {
        for at in [UnixSeconds(i64::MIN), UnixSeconds(i64::MAX)] {
            let _ = (
                zone.offset_at(at),
                zone.abbreviation_at(at),
                zone.local_at(at),
            );
            let _ = zone.next_change(at);
        }
        for local in [NaiveDateTime::MIN, NaiveDateTime::MAX] {
            let _ = zone.instants_of(local);
        }
    }
}

#[test]
fn around_each_change_of_each_zone_local_times_and_instants_agree() {
    for zone in all() {
        let mut last = UnixSeconds(-5_000_000_000);
        while let Some(next) = zone.next_change(last).filter(|next| next.0 < 2_300_000_000) {
            assert!(next > last, "{zone}: {next} follows {last}");
            assert_eq!(
                zone.offset_at(last),
                zone.offset_at(UnixSeconds(next.0 - 1)),
                "{zone}: before {next}"
            );
            assert_ne!(
                zone.offset_at(last),
                zone.offset_at(next),
                "{zone}: at {next}"
            );
            for at in [next.0 - 1, next.0, next.0 + 1].map(UnixSeconds) {
                match zone.instants_of(zone.local_at(at)) {
                    Instants::Once(one) => assert_eq!(one, at, "{zone}"),
                    Instants::Twice { first, second } => {
                        assert!(
                            first < second && (at == first || at == second),
                            "{zone}: {at}"
                        );
                    }
                    Instants::Skipped { .. } => panic!("{zone}: clocks did show {at}"),
                }
            }
            last = next;
        }
    }
}

proptest! {
    #[test]
    fn what_clocks_show_is_the_offset_from_utc(zone in any_zone(), at in any_instant()) {
        let at = UnixSeconds(at);
        let shown = zone.local_at(at).and_utc().timestamp();
        prop_assert_eq!(shown - at.0, i64::from(zone.offset_at(at)));
        prop_assert!((shown - at.0).abs() < FURTHEST);
    }

    #[test]
    fn the_instants_of_a_local_time_are_those_at_which_clocks_show_it(
        zone in any_zone(),
        near in any_instant(),
        is_near_a_change in any::<bool>(),
        aside in -90_000..90_000_i64,
    ) {
        let mut shown = near;
        if is_near_a_change && let Some(change) = zone.next_change(UnixSeconds(near)) {
            shown = change.0 + i64::from(zone.offset_at(change)) + aside;
        }
        let local = DateTime::from_timestamp(shown, 0).unwrap().naive_utc();
        let tried = instants_by_trial(&zone, local);
        match zone.instants_of(local) {
            Instants::Once(one) => prop_assert_eq!(tried, BTreeSet::from([one.0])),
            Instants::Twice { first, second } => {
                prop_assert!(first < second);
                prop_assert_eq!(tried, BTreeSet::from([first.0, second.0]));
            }
            Instants::Skipped { resumes } => {
                prop_assert_eq!(tried, BTreeSet::new());
                let before = UnixSeconds(resumes.0 - 1);
                prop_assert!(zone.local_at(before) < local && local < zone.local_at(resumes));
                prop_assert_eq!(zone.next_change(before), Some(resumes));
            }
        }
    }

    #[test]
    fn between_two_changes_clocks_run_on(
        zone in any_zone(),
        after in any_instant(),
        part in 0.0..1.0_f64,
    ) {
        let offset = zone.offset_at(UnixSeconds(after));
        let next = zone.next_change(UnixSeconds(after));
        let end = next.map_or(after + 1_000_000_000, |next| next.0);
        prop_assert!(end > after);
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a probe")]
        let probe = after + ((end - after - 1) as f64 * part) as i64;
        prop_assert_eq!(zone.offset_at(UnixSeconds(probe)), offset);
        prop_assert_eq!(zone.offset_at(UnixSeconds(end - 1)), offset);
        if let Some(next) = next {
            prop_assert_ne!(zone.offset_at(next), offset);
            prop_assert_eq!(zone.next_change(UnixSeconds(next.0 - 1)), Some(next));
        }
    }
}
