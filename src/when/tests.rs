//! Times, durations and zones: every form, every refusal, and no panic on any text.

use chrono::DateTime;
use proptest::prelude::*;

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_795_335_300);

fn named(zone: &str) -> Zone {
    Zone::named(zone).unwrap_or_else(|| panic!("{zone}"))
}

fn any_zone() -> impl Strategy<Value = Zone> {
    let zones: Vec<_> = Zone::names().map(named).collect();
    (0..zones.len()).prop_map(move |at| zones[at].clone())
}

fn time(text: &str) -> Result<i64, String> {
    time_in(text, "Europe/Amsterdam")
}

fn time_in(text: &str, zone: &str) -> Result<i64, String> {
    parse_time(text, &named(zone), NOW)
        .map(|at| at.0)
        .map_err(|error| error.to_string())
}

#[test]
fn every_form_of_one_instant_is_read() {
    for text in [
        "2026-11-22T09:15:00+01:00",
        "2026-11-22T08:15:00Z",
        "2026-11-22t08:15:00z",
        "2026-11-22 08:15:00Z",
        "2026-11-22T08:15Z",
        "2026-11-22T13:45:00+05:30",
        "2026-11-21T22:15:00-10:00",
        "2026-11-22 09:15",
        "2026-11-22T09:15",
        "2026-11-22 09:15:00",
        "2026-11-22T09:15:00",
        " 2026-11-22 09:15:00 ",
        "@1795335300",
        "20261122081500",
        "now",
        "NOW",
    ] {
        assert_eq!(time(text), Ok(1_795_335_300), "{text}");
    }
    assert_eq!(time("2026-11-22"), Ok(1_795_302_000));
    assert_eq!(time_in("2026-11-22", "UTC"), Ok(1_795_305_600));
}

#[test]
fn a_fraction_is_rounded_up_and_never_down() {
    for text in [
        "@1795335299.001",
        "2026-11-22T08:14:59.0000000000001Z",
        "2026-11-22 09:14:59.5",
    ] {
        assert_eq!(time(text), Ok(1_795_335_300), "{text}");
    }
    assert_eq!(time("2026-11-22T08:15:00.000Z"), Ok(1_795_335_300));
    assert_eq!(time("@1795335300.0"), Ok(1_795_335_300));
}

#[test]
fn a_leap_second_is_the_second_after_it() {
    assert_eq!(time("2016-12-31T23:59:60Z"), time("2017-01-01T00:00:00Z"));
    assert_eq!(time("2016-12-31T23:59:60.5Z"), time("2017-01-01T00:00:01Z"));
}

#[test]
fn a_local_time_that_exists_twice_is_refused_with_both_readings() {
    let refusal = time("2026-10-25 02:30").unwrap_err();
    assert_eq!(
        refusal,
        "2026-10-25 02:30 exists twice in Europe/Amsterdam: 2026-10-25T02:30:00+02:00 or \
         2026-10-25T02:30:00+01:00; give one of them"
    );
    assert_eq!(time("2026-10-25T02:30:00+02:00"), Ok(1_792_888_200));
    assert_eq!(time("2026-10-25T02:30:00+01:00"), Ok(1_792_891_800));
}

#[test]
fn a_local_time_that_does_not_exist_is_refused_with_the_instants_around_it() {
    assert_eq!(
        time("2026-03-29 02:30").unwrap_err(),
        "2026-03-29 02:30 does not exist in Europe/Amsterdam: clocks go from \
         2026-03-29T01:59:59+01:00 to 2026-03-29T03:00:00+02:00; give one of them"
    );
    assert!(
        time("2026-03-29 02:30:05")
            .unwrap_err()
            .starts_with("2026-03-29 02:30:05 does")
    );
    // A whole day left out.
    assert_eq!(
        time_in("2011-12-30 12:00", "Pacific/Apia").unwrap_err(),
        "2011-12-30 12:00 does not exist in Pacific/Apia: clocks go from \
         2011-12-29T23:59:59-10:00 to 2011-12-31T00:00:00+14:00; give one of them"
    );
    // A day that begins at one o'clock.
    assert!(
        time_in("2018-11-04", "America/Sao_Paulo")
            .unwrap_err()
            .contains("T01:00:00-02:00")
    );
}

#[test]
fn the_readings_of_a_zone_with_odd_seconds_can_be_read_back() {
    let refusal = time_in("1972-01-07 00:30", "Africa/Monrovia").unwrap_err();
    assert!(
        refusal.contains("1972-01-07T00:44:29Z to 1972-01-07T00:44:30+00:00"),
        "{refusal}"
    );
}

#[test]
fn a_bare_number_is_refused_with_the_spelling_that_works() {
    assert_eq!(
        time("1795335300").unwrap_err(),
        "`1795335300` is a bare number; write @1795335300 for Unix seconds"
    );
    assert_eq!(
        time("1795335300000").unwrap_err(),
        "`1795335300000` is a bare number; write @1795335300 for Unix seconds"
    );
}

#[test]
fn times_outside_the_tables_range_are_refused() {
    for text in [
        "@-1",
        "1969-12-31T23:59:59Z",
        "@32503680001",
        "3000-01-01T00:00:01Z",
    ] {
        assert!(
            time(text)
                .unwrap_err()
                .contains("outside 1970-01-01 to 3000-01-01"),
            "{text}"
        );
    }
    for text in [
        "@1795335300000",
        "@99999999999999999999999",
        "30000101000001",
    ] {
        assert!(time(text).unwrap_err().contains("outside"), "{text}");
    }
    assert_eq!(time("@0"), Ok(0));
    assert_eq!(time("@32503680000"), Ok(UnixSeconds::MAX.0));
    assert!(time("@32503680000.1").is_err());
}

#[test]
fn what_is_no_time_is_refused_in_one_line() {
    for text in [
        "",
        "someday",
        "2026",
        "2026-11",
        "2026-1-2",
        "22.11.2026",
        "2026-11-22 9:15",
        "@",
        "@x",
        "@1.",
        "@1e9",
        "@+5",
        "2026-11-22T",
        "2026-11-22T09",
        "2026-11-22 09:15:",
        "2026-11-22 09:15:00.",
        "2026-11-22T09:15:00+0100",
        "2026-11-22T09:15:00+24:00",
        "2026-11-22T09:15:00Zx",
        "2026-11-22Z",
        "2026-11-22 09:15:00 CET",
        "+2026-11-22",
        "２０２６-11-22",
        "2026-11-22\n09:15",
        "123456789012345678901234567890",
    ] {
        let refusal = time(text).unwrap_err();
        if !text.trim().is_empty() {
            assert!(
                refusal.contains("is no time") || refusal.contains("bare"),
                "{refusal}"
            );
        }
        assert!(!refusal.contains('\n'), "{refusal}");
    }
}

#[test]
fn a_day_no_calendar_knows_is_refused() {
    for text in [
        "2026-02-30",
        "2026-13-01",
        "2026-11-22 24:00",
        "2026-11-22T09:61:00Z",
    ] {
        assert!(time(text).unwrap_err().contains("does not exist"), "{text}");
    }
    assert!(
        time("20260230000000")
            .unwrap_err()
            .contains("does not exist")
    );
}

#[test]
fn durations_are_read_as_people_write_them() {
    for (text, seconds) in [
        ("50s", 50),
        ("1h 30m", 5400),
        ("30d", 2_592_000),
        ("1y", 31_557_600),
        ("0s", 0),
        (" 5m ", 300),
        ("2days", 172_800),
        ("1.5h", 5400),
    ] {
        assert_eq!(
            parse_duration(text),
            Ok(Duration::from_secs(seconds)),
            "{text}"
        );
    }
    assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
}

#[test]
fn what_is_no_duration_is_refused_with_its_reason() {
    for (text, why) in [
        ("", "it is empty"),
        ("50", "a unit is missing"),
        ("0", "a unit is missing"),
        ("5m 30", "a unit is missing"),
        ("5 minuets", "there is no unit `minuets`"),
        ("-5m", "it is not made of numbers with units"),
        ("soon", "it is not made of numbers with units"),
        ("99999999999999999s", "it is too long"),
        ("999999999y", "it is longer than 1000 years"),
    ] {
        let refusal = parse_duration(text).unwrap_err().to_string();
        assert!(refusal.contains(why), "{text}: {refusal}");
        assert!(
            refusal.ends_with("write for example 50s, 1h 30m or 30d"),
            "{refusal}"
        );
    }
    // `humantime` itself panics on this one.
    assert!(parse_duration("18446744073709551615s 1000000000ns").is_err());
}

#[test]
fn a_misspelt_zone_names_the_nearest_ones() {
    assert_eq!(
        parse_zone("Europe/Amsterdam"),
        Ok(named("Europe/Amsterdam"))
    );
    assert_eq!(parse_zone("UTC"), Ok(Zone::utc()));
    for (text, near) in [
        ("Europe/Amsterdm", "did you mean `Europe/Amsterdam`"),
        ("europe/amsterdam", "did you mean `Europe/Amsterdam`?"),
        ("Amsterdam", "did you mean `Europe/Amsterdam`?"),
        (
            "Nowhere/At-All-In-This-World",
            "zones are named like Europe/Amsterdam",
        ),
    ] {
        let refusal = parse_zone(text).unwrap_err().to_string();
        assert!(refusal.contains(near), "{refusal}");
    }
}

#[test]
fn the_variable_tz_names_the_local_zone_in_every_usual_form() {
    for text in [
        "Europe/Amsterdam",
        ":Europe/Amsterdam",
        "/usr/share/zoneinfo/Europe/Amsterdam",
    ] {
        assert_eq!(zone_of_variable(text), named("Europe/Amsterdam"), "{text}");
    }
    for text in ["", "Nowhere", "CET-1CEST,M3.5.0"] {
        assert_eq!(zone_of_variable(text), Zone::utc(), "{text}");
    }
    // Whatever this host says, it is a zone.
    let _ = host_zone();
}

#[test]
fn times_are_shown_with_their_zone() {
    assert_eq!(
        format_time(NOW, &named("Europe/Amsterdam")),
        "2026-11-22 09:15:00 CET"
    );
    assert_eq!(format_time(NOW, &Zone::utc()), "2026-11-22 08:15:00 UTC");
    assert_eq!(
        format_time(UnixSeconds(1_780_000_000), &named("Europe/Amsterdam")),
        { "2026-05-28 22:26:40 CEST" }
    );
    assert_eq!(
        format_time(UnixSeconds(i64::MAX), &Zone::utc()),
        format!("@{}", i64::MAX)
    );
    assert_eq!(
        format_time(UnixSeconds(20_261_122_013_636), &Zone::utc()),
        "@20261122013636"
    );
}

#[test]
fn spans_are_shown_by_their_two_largest_units() {
    for (seconds, text) in [
        (0, "0s"),
        (45, "45s"),
        (200, "3m 20s"),
        (60, "1m"),
        (3600, "1h"),
        (3601, "1h"),
        (187_200, "2d 4h"),
        (86_399, "23h 59m"),
        (-90, "-1m 30s"),
    ] {
        assert_eq!(format_duration(seconds), text);
    }
    assert!(format_duration(i64::MIN).starts_with('-'));
}

#[test]
fn a_fraction_before_1970_is_no_reason_to_round_into_it() {
    assert_eq!(parse_time("@-0.5", &Zone::utc(), NOW), Ok(UnixSeconds(0)));
    for text in ["@-1", "@-1.5", "@-1.0"] {
        let refusal = parse_time(text, &Zone::utc(), NOW);
        assert_eq!(refusal, Err(WhenError::OutOfRange(text.to_owned())));
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in ".*", zone in any_zone()) {
        let _ = parse_time(&text, &zone, NOW);
        let _ = parse_duration(&text);
        let _ = parse_zone(&text);
    }

    #[test]
    fn nothing_shaped_like_a_time_makes_the_parser_panic(
        text in "@?-?[0-9]{1,20}(\\.[0-9]{0,3})?|[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}\
                (:[0-9]{2}(\\.[0-9]{1,12})?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?",
        zone in any_zone(),
    ) {
        let _ = parse_time(&text, &zone, NOW);
    }

    #[test]
    fn nothing_shaped_like_a_duration_makes_the_parser_panic(
        text in "([0-9]{1,20}(\\.[0-9]{1,9})? ?(ns|us|ms|s|m|h|d|w|M|y)? ?){1,6}",
    ) {
        let _ = parse_duration(&text);
    }

    #[test]
    fn an_instant_is_read_back_from_every_way_of_writing_it(
        seconds in 0..=UnixSeconds::MAX.0,
        zone in any_zone(),
    ) {
        let utc = DateTime::from_timestamp(seconds, 0).unwrap();
        for text in [
            format!("@{seconds}"),
            utc.format("%Y%m%d%H%M%S").to_string(),
            reading(UnixSeconds(seconds), &zone),
        ] {
            prop_assert_eq!(parse_time(&text, &zone, NOW), Ok(UnixSeconds(seconds)), "{}", text);
        }
    }

    #[test]
    fn a_local_time_is_read_back_or_refused_with_a_reading_that_is_it(
        seconds in 0..=UnixSeconds::MAX.0,
        zone in any_zone(),
    ) {
        let local = zone.local_at(UnixSeconds(seconds));
        match parse_time(&local.format("%Y-%m-%d %H:%M:%S").to_string(), &zone, NOW) {
            Ok(read) => prop_assert_eq!(read, UnixSeconds(seconds)),
            Err(WhenError::Twice { first, second, .. }) => {
                let own = reading(UnixSeconds(seconds), &zone);
                prop_assert!(own == first || own == second, "{} {} {}", own, first, second);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn a_whole_number_of_seconds_is_read_back_as_a_duration(seconds in 0..400_000_000_u64) {
        let duration = Duration::from_secs(seconds);
        let text = humantime::format_duration(duration).to_string();
        prop_assert_eq!(parse_duration(&text), Ok(duration));
    }
}
