//! How expressions may be written, and how not.

use super::*;

/// The days of a month, or another number, that some slots fall on.
fn shown(text: &str, after: &str, count: usize, form: &str) -> Vec<String> {
    let slots = cron(text, "UTC");
    let slots = slots.slots_after(at(after)).take(count);
    slots
        .map(|slot| {
            let time = chrono::DateTime::from_timestamp(slot.0, 0).unwrap();
            time.format(form).to_string()
        })
        .collect()
}

fn refusal(text: &str) -> String {
    Recurrence::cron(text, Zone::utc()).unwrap_err().to_string()
}

#[test]
fn names_numbers_and_words_say_the_same() {
    for (one, other) in [
        ("0 9 * * mon-fri", "0 9 * * 1-5"),
        ("0 9 * * MON,Wed,fri", "0 9 * * 1,3,5"),
        ("0 9 * jan-MAR,dec *", "0 9 * 1-3,12 *"),
        ("0 9 * * sat-sun", "0 9 * * 6,0"),
        ("0 9 * * sun-tue", "0 9 * * 0-2"),
        ("0 9 * * sun-sun", "0 9 * * 0"),
        ("0 9 * * 7", "0 9 * * 0"),
        ("0 9 * * 5-7", "0 9 * * 0,5,6"),
        ("0 9 * * */7", "0 9 * * 0"),
        ("0 9 * * friL", "0 9 * * 5l"),
        ("0 9 * * sunL", "0 9 * * 7L"),
        ("0 9 * * tue#2", "0 9 * * 2#2"),
        ("0 9 lw * *", "0 9 LW * *"),
        ("  0\t9 *  * * ", "0 9 * * *"),
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@Annually", "0 0 1 1 *"),
        ("*/60 */24 * * *", "0 0 * * *"),
    ] {
        let slots = |text| {
            let recurrence = cron(text, "UTC");
            let next = recurrence.slots_after(at("2026-11-22T00:00:00Z"));
            next.take(50).collect::<Vec<_>>()
        };
        assert_eq!(slots(one), slots(other), "{one} and {other}");
    }
}

#[test]
fn a_day_fits_one_of_its_two_fields_or_both_where_one_begins_with_a_star() {
    let days = |text| shown(text, "2026-11-30T12:00:00Z", 6, "%a %-d").join(", ");
    assert_eq!(
        days("0 0 13 * fri"),
        "Fri 4, Fri 11, Sun 13, Fri 18, Fri 25, Fri 1"
    );
    assert_eq!(
        days("0 0 * * fri"),
        "Fri 4, Fri 11, Fri 18, Fri 25, Fri 1, Fri 8"
    );
    assert_eq!(
        days("0 0 13 * *"),
        "Sun 13, Wed 13, Sat 13, Sat 13, Tue 13, Thu 13"
    );
    assert_eq!(
        days("0 0 */2 * mon"),
        "Mon 7, Mon 21, Mon 11, Mon 25, Mon 1, Mon 15"
    );
    assert_eq!(
        days("0 0 1-7 * */6"),
        "Sat 5, Sun 6, Sat 2, Sun 3, Sat 6, Sun 7"
    );
}

#[test]
fn days_may_be_counted_from_the_end_and_in_weeks() {
    let days = |text| shown(text, "2027-01-01T12:00:00Z", 4, "%a %-d %b").join(", ");
    assert_eq!(
        days("0 0 L * *"),
        "Sun 31 Jan, Sun 28 Feb, Wed 31 Mar, Fri 30 Apr"
    );
    assert_eq!(
        days("0 0 LW * *"),
        "Fri 29 Jan, Fri 26 Feb, Wed 31 Mar, Fri 30 Apr"
    );
    assert_eq!(
        days("0 0 2W * *"),
        "Tue 2 Feb, Tue 2 Mar, Fri 2 Apr, Mon 3 May"
    );
    assert_eq!(
        days("0 0 1,L * *"),
        "Sun 31 Jan, Mon 1 Feb, Sun 28 Feb, Mon 1 Mar"
    );
    assert_eq!(
        days("0 0 * * monL"),
        "Mon 25 Jan, Mon 22 Feb, Mon 29 Mar, Mon 26 Apr"
    );
    assert_eq!(
        days("0 0 * * mon#1,mon#3"),
        "Mon 4 Jan, Mon 18 Jan, Mon 1 Feb, Mon 15 Feb"
    );
}

#[test]
fn what_is_no_expression_is_refused_in_a_line_that_says_why() {
    for (text, why) in [
        (
            "",
            "it has 0 fields; five are wanted: minute, hour, day of month, month, day of week",
        ),
        (
            "daily",
            "it has 1 field; five are wanted: minute, hour, day of month, month, day of week",
        ),
        (
            "0 0 9 * * *",
            "it has 6 fields; five are wanted: minute, hour, day of month, month, day of week",
        ),
        (
            "0 0 9 * * * 2027",
            "it has 7 fields; five are wanted: minute, hour, day of month, month, day of week",
        ),
        ("60 * * * *", "minute `60`: it is 0 to 59"),
        ("* 24 * * *", "hour `24`: it is 0 to 23"),
        ("* * 0 * *", "day of month `0`: it is 1 to 31"),
        ("* * * 13 *", "month `13`: it is 1 to 12, or jan to dec"),
        ("* * * * 8", "day of week `8`: it is 0 to 7, or sun to sat"),
        (
            "* * * * monday",
            "day of week `monday`: it is 0 to 7, or sun to sat",
        ),
        ("* * * mon *", "month `mon`: it is 1 to 12, or jan to dec"),
        ("mon * * * *", "minute `mon`: it is 0 to 59"),
        ("* * * 1jan *", "month `1jan`: it is 1 to 12, or jan to dec"),
        (
            "* * * * mon5",
            "day of week `mon5`: it is 0 to 7, or sun to sat",
        ),
        ("-1 * * * *", "minute ``: it is 0 to 59"),
        ("+1 * * * *", "minute `+1`: it is 0 to 59"),
        (
            "* * * * +1",
            "day of week `+1`: it is 0 to 7, or sun to sat",
        ),
        ("* * ? * *", "day of month `?`: it is 1 to 31"),
        (
            "1,,2 * * * *",
            "the minute is empty, or something in its list is",
        ),
        ("1,* * * * *", "minute `1,*`: `*` leaves nothing to list"),
        (
            "5/10 * * * *",
            "minute `5/10`: steps need a range, such as 5-59",
        ),
        ("x/5 * * * *", "minute `x`: it is 0 to 59"),
        (
            "* * * * fri/2",
            "day of week `fri/2`: steps need a range, such as 5-7",
        ),
        ("\u{2}/5 * * * *", "minute `\\u{2}`: it is 0 to 59"),
        ("*/0 * * * *", "minute `*/0`: a step is 1 to 60"),
        ("*/90 * * * *", "minute `*/90`: a step is 1 to 60"),
        ("*/1/2 * * * *", "minute `*/1/2`: a step is 1 to 60"),
        ("* * * * */8", "day of week `*/8`: a step is 1 to 7"),
        (
            "* 22-2 * * *",
            "hour `22-2`: it runs backwards; write 22-23,0-2",
        ),
        (
            "* * * * fri-mon",
            "day of week `fri-mon`: it runs backwards; write fri-7,0-mon",
        ),
        (
            "* * * * L",
            "day of week `L`: say which: `friL` is the last Friday of a month",
        ),
        ("* * * * fri#6", "day of week `FRI#6`: `#` takes 1 to 5"),
        ("* * * * fri#", "day of week `FRI#`: `#` takes 1 to 5"),
        (
            "* * * * 1-5#2",
            "day of week `1-5`: it is 0 to 7, or sun to sat",
        ),
        ("* * 32W * *", "day of month `32`: it is 1 to 31"),
        ("* * L-3 * *", "day of month `L`: it is 1 to 31"),
        (
            "* * L,LW * *",
            "day of month `L,LW`: take either `L` or `LW`",
        ),
        ("* L * * *", "hour `L`: it is 0 to 23"),
        (
            "@reboot",
            "it names no times; let what starts the machine call `punctual add`",
        ),
        ("@dayly", "there is no such word; did you mean `@daily`?"),
        ("@", "there is no such word"),
    ] {
        assert_eq!(
            refusal(text),
            format!(
                "`{}` is no cron expression: {why}",
                crate::when::shown(text.trim())
            )
        );
    }
}

#[test]
fn what_no_calendar_has_is_refused() {
    for text in [
        "0 0 31 2 *",
        "0 0 30 feb *",
        "0 0 31 4,6,9,11 *",
        "0 0 30-31 2 */7",
        "0 0 31W 6 *",
    ] {
        assert_eq!(
            refusal(text),
            format!("`{text}` never matches: no year has such a day")
        );
    }
}

#[test]
fn a_refusal_is_one_short_line_whatever_was_written() {
    for text in [
        "1\u{1b}[2J * * * *".to_owned(),
        "é * * * *".to_owned(),
        "@ſ".to_owned(),
        "1,".repeat(5000),
        "99999999999999999999 * * * *".to_owned(),
        format!("* * * * {}", "mon,".repeat(200)),
    ] {
        let line = refusal(&text);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.len() < 400, "{line}");
    }
}

#[test]
fn a_recurrence_is_shown_as_it_was_written() {
    assert_eq!(
        cron(" 0 9 * * mon ", "Europe/Amsterdam").to_string(),
        "0 9 * * mon (Europe/Amsterdam)"
    );
    assert_eq!(every(6 * 3600 + 60, 5).to_string(), "every 6h 1m from @5");
}
