//! Days by name and their end, also where clocks change at midnight or a day is left out.

use chrono::DateTime;
use proptest::prelude::*;

use super::*;
use crate::when::parse_time;

/// A Sunday: 09:15 in Amsterdam.
const NOW: &str = "2026-11-22T08:15:00Z";

const DAY: i64 = 86_400;

fn at(text: &str) -> UnixSeconds {
    UnixSeconds(DateTime::parse_from_rfc3339(text).unwrap().timestamp())
}

fn named(zone: &str) -> Zone {
    Zone::named(zone).unwrap_or_else(|| panic!("{zone}"))
}

fn any_zone() -> impl Strategy<Value = Zone> {
    let zones: Vec<_> = Zone::names().map(named).collect();
    (0..zones.len()).prop_map(move |at| zones[at].clone())
}

fn read_at(text: &str, zone: &str, now: &str) -> Result<UnixSeconds, String> {
    parse_time(text, &named(zone), at(now)).map_err(|error| error.to_string())
}

fn read(text: &str) -> Result<UnixSeconds, String> {
    read_at(text, "Europe/Amsterdam", NOW)
}

#[test]
fn days_by_name_are_those_of_the_zone() {
    for (text, meant) in [
        ("today", "2026-11-22T00:00:00+01:00"),
        ("today 17:00", "2026-11-22T17:00:00+01:00"),
        ("today 08:00", "2026-11-22T08:00:00+01:00"),
        ("tomorrow", "2026-11-23T00:00:00+01:00"),
        ("tomorrow 09:00", "2026-11-23T09:00:00+01:00"),
        ("  ToMorrow \t09:00:30 ", "2026-11-23T09:00:30+01:00"),
        ("tomorrow 23:59:59.5", "2026-11-24T00:00:00+01:00"),
        ("today end", "2026-11-22T23:59:59+01:00"),
        ("Tomorrow End", "2026-11-23T23:59:59+01:00"),
        ("2026-12-01 end", "2026-12-01T23:59:59+01:00"),
        ("2026-07-01 END", "2026-07-01T23:59:59+02:00"),
    ] {
        assert_eq!(read(text), Ok(at(meant)), "{text}");
    }
    // Noon in London: one day has begun in Kiritimati already, the other not yet ended in Niue.
    let noon = "2026-11-22T12:00:00Z";
    let east = read_at("today 17:00", "Pacific/Kiritimati", noon);
    assert_eq!(east, Ok(at("2026-11-23T17:00:00+14:00")));
    let west = read_at("tomorrow end", "Pacific/Niue", noon);
    assert_eq!(west, Ok(at("2026-11-23T23:59:59-11:00")));
}

#[test]
fn a_day_of_the_week_is_the_next_whose_time_is_still_ahead() {
    for (text, meant) in [
        ("monday 09:00", "2026-11-23T09:00:00+01:00"),
        ("mon", "2026-11-23T00:00:00+01:00"),
        ("saturday 09:00", "2026-11-28T09:00:00+01:00"),
        ("sunday 09:15", "2026-11-29T09:15:00+01:00"),
        ("sunday 09:15:01", "2026-11-22T09:15:01+01:00"),
        ("sunday 09:14:59.5", "2026-11-29T09:15:00+01:00"),
        ("Sun 17:00", "2026-11-22T17:00:00+01:00"),
        ("sunday", "2026-11-29T00:00:00+01:00"),
        ("SUNDAY end", "2026-11-22T23:59:59+01:00"),
    ] {
        assert_eq!(read(text), Ok(at(meant)), "{text}");
    }
    for (full, short, weekday) in WEEKDAYS {
        let meant = read(full).unwrap();
        let local = named("Europe/Amsterdam").local_at(meant);
        assert_eq!(local.weekday(), weekday, "{full}");
        assert_eq!(read(short), Ok(meant));
    }
    let last_second = "2026-11-22T23:59:59+01:00";
    let read = read_at("sunday end", "Europe/Amsterdam", last_second);
    assert_eq!(read, Ok(at("2026-11-29T23:59:59+01:00")));
}

#[test]
fn a_day_ends_in_its_last_second_also_where_clocks_change_at_midnight() {
    for (zone, text, meant) in [
        // 25 and 23 hours long.
        (
            "Europe/Amsterdam",
            "2026-10-25 end",
            "2026-10-25T23:59:59+01:00",
        ),
        (
            "Europe/Amsterdam",
            "2026-03-29 end",
            "2026-03-29T23:59:59+02:00",
        ),
        // The next day begins at one o'clock, this one did.
        (
            "America/Sao_Paulo",
            "2018-11-03 end",
            "2018-11-03T23:59:59-03:00",
        ),
        (
            "America/Sao_Paulo",
            "2018-11-04 end",
            "2018-11-04T23:59:59-02:00",
        ),
        // The last hour comes twice.
        (
            "America/Sao_Paulo",
            "2018-02-17 end",
            "2018-02-17T23:59:59-03:00",
        ),
        // After a minute of the next day clocks go back into this one.
        (
            "America/St_Johns",
            "2010-11-06 end",
            "2010-11-06T23:59:59-03:30",
        ),
        // The next day is left out.
        (
            "Pacific/Apia",
            "2011-12-29 end",
            "2011-12-29T23:59:59-10:00",
        ),
        (
            "Pacific/Apia",
            "2011-12-31 end",
            "2011-12-31T23:59:59+14:00",
        ),
    ] {
        assert_eq!(read_at(text, zone, NOW), Ok(at(meant)), "{zone} {text}");
    }
    assert_eq!(
        read_at("2011-12-30 end", "Pacific/Apia", NOW).unwrap_err(),
        "2011-12-30 00:00 does not exist in Pacific/Apia: clocks go from \
         2011-12-29T23:59:59-10:00 to 2011-12-31T00:00:00+14:00; give one of them"
    );
}

#[test]
fn a_time_of_a_named_day_that_exists_twice_or_never_is_refused_with_both_readings() {
    let before = "2026-10-24T12:00:00+02:00";
    for text in ["tomorrow 02:30", "sunday 02:30", "Sun 02:30"] {
        assert_eq!(
            read_at(text, "Europe/Amsterdam", before).unwrap_err(),
            "2026-10-25 02:30 exists twice in Europe/Amsterdam: 2026-10-25T02:30:00+02:00 or \
             2026-10-25T02:30:00+01:00; give one of them",
            "{text}"
        );
    }
    // Between the two: one of them is still ahead.
    let between = "2026-10-25T02:45:00+02:00";
    let refusal = read_at("sunday 02:30", "Europe/Amsterdam", between).unwrap_err();
    assert!(refusal.contains("exists twice"), "{refusal}");
    let behind = "2026-10-25T02:30:00+01:00";
    let next = read_at("sunday 02:30", "Europe/Amsterdam", behind);
    assert_eq!(next, Ok(at("2026-11-01T02:30:00+01:00")));
    let refusal = read_at("tomorrow", "America/Sao_Paulo", "2018-11-03T12:00:00-03:00");
    let refusal = refusal.unwrap_err();
    assert!(
        refusal.contains("2018-11-04 00:00 does not exist"),
        "{refusal}"
    );
    let refusal = read_at(
        "tomorrow 09:00",
        "Pacific/Apia",
        "2011-12-29T12:00:00-10:00",
    );
    let refusal = refusal.unwrap_err();
    assert!(
        refusal.contains("2011-12-30 09:00 does not exist"),
        "{refusal}"
    );
}

#[test]
fn what_follows_a_day_must_be_a_time_of_it() {
    for text in [
        "today T17:00",
        "today 5pm",
        "today 9:00",
        "tomorrow 17:00Z",
        "tomorrow 17:00+01:00",
        "monday 09:00 end",
        "monday end end",
        "monday 09:00:",
        "today tomorrow",
        "today @5",
    ] {
        let refusal = read(text).unwrap_err();
        assert!(
            refusal.contains("has no time behind its day"),
            "{text}: {refusal}"
        );
    }
    for text in ["today 24:00", "monday 09:60", "2026-02-30 end"] {
        let refusal = read(text).unwrap_err();
        assert!(refusal.contains("does not exist"), "{text}: {refusal}");
    }
    for text in [
        "end",
        "now end",
        "2026-12-01T17:00 end",
        "@5 end",
        "next monday",
    ] {
        let refusal = read(text).unwrap_err();
        assert!(refusal.contains("is no time"), "{text}: {refusal}");
    }
    let refusal = read("9999-12-31 end").unwrap_err();
    assert!(
        refusal.contains("outside 1970-01-01 to 3000-01-01"),
        "{refusal}"
    );
}

#[test]
fn a_misspelt_day_names_the_nearest_one() {
    for (text, near) in [
        ("tomorow 09:00", "; did you mean `tomorrow`?"),
        ("Wendesday", "; did you mean `wednesday`?"),
        ("todya end", "; did you mean `today`?"),
    ] {
        let refusal = read(text).unwrap_err();
        assert!(refusal.contains(near), "{refusal}");
    }
    assert!(!read("2026-1-2").unwrap_err().contains("did you mean"));
}

proptest! {
    #[test]
    fn a_day_has_ended_once_its_last_second_is_over(
        seconds in 0..=UnixSeconds::MAX.0 - 3 * DAY,
        zone in any_zone(),
    ) {
        let date = zone.local_at(UnixSeconds(seconds)).date();
        let text = format!("{} end", date.format("%Y-%m-%d"));
        let end = parse_time(&text, &zone, at(NOW)).unwrap();
        prop_assert!(end.0 >= seconds, "{} {}", end, seconds);
        prop_assert_eq!(zone.local_at(end).date(), date);
        // No clock is put back by more than a day; half an hour is the finest that one falls by.
        for later in (1..2 * DAY).step_by(599) {
            let shown = zone.local_at(UnixSeconds(end.0 + later)).date();
            prop_assert!(shown > date, "{} {}", shown, later);
        }
        let today = parse_time("today end", &zone, UnixSeconds(seconds));
        prop_assert_eq!(today, Ok(end));
    }

    #[test]
    fn a_day_of_the_week_lies_ahead_and_none_like_it_before(
        seconds in 0..=UnixSeconds::MAX.0 - 20 * DAY,
        zone in any_zone(),
        day in 0..7_usize,
        time in 0..DAY,
    ) {
        let now = UnixSeconds(seconds);
        let (name, _, weekday) = WEEKDAYS[day];
        let clock = format!("{:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60);
        let Ok(meant) = parse_time(&format!("{name} {clock}"), &zone, now) else {
            return Ok(()); // it exists twice there, or not at all
        };
        let local = zone.local_at(meant);
        prop_assert!(meant > now, "{} {}", meant, now);
        prop_assert_eq!(local.weekday(), weekday);
        prop_assert_eq!(local.format("%H:%M:%S").to_string(), clock);
        let week_before = local - chrono::TimeDelta::days(7);
        prop_assert!(last_reading(week_before, &zone) <= now.0, "{} {}", local, now);
    }

    #[test]
    fn nothing_that_begins_with_a_day_makes_the_parser_panic(
        text in "(today|tomorrow|mon|Friday|[0-9]{4}-[0-9]{2}-[0-9]{2})[ \t]{0,2}\
                 (end|[0-9]{2}:[0-9]{2}(:[0-9]{2}(\\.[0-9]{1,12})?)?)?.{0,2}",
        zone in any_zone(),
        seconds in i64::MIN..=i64::MAX,
    ) {
        let _ = parse_time(&text, &zone, UnixSeconds(seconds));
    }
}
