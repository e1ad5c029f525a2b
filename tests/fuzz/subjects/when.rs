//! Times, durations and zones as people write them. The first byte chooses a zone.

use punctual::clock::UnixSeconds;
use punctual::when::{
    WhenError, format_duration, format_time, parse_duration, parse_time, parse_zone,
};

const NOW: UnixSeconds = UnixSeconds(1_795_335_300);
/// With gaps and folds of an hour, of half an hour and of a day; with seconds in the offset.
const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Amsterdam",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Monrovia",
    "Antarctica/Troll",
];

pub(crate) fn check(data: &[u8]) {
    let (first, rest) = data.split_first().unwrap_or((&0, &[]));
    let zone = parse_zone(ZONES[usize::from(*first) % ZONES.len()]).expect("a zone");
    let utc = parse_zone("UTC").expect("a zone");
    let text = String::from_utf8_lossy(rest);

    match parse_time(&text, &zone, NOW) {
        Ok(at) => {
            assert!((0..=UnixSeconds::MAX.0).contains(&at.0), "{text:?}: {at}");
            assert_eq!(parse_time(&format!("@{at}"), &zone, NOW), Ok(at));
            assert_eq!(parse_time(&format!(" {text}\n"), &zone, NOW), Ok(at));
            let shown = format_time(at, &utc);
            let shown = shown.strip_suffix(" UTC").expect("the zone's name");
            assert_eq!(parse_time(shown, &utc, NOW), Ok(at), "{text:?}");
            if let Some(seconds) = rounded_up(text.trim()) {
                assert_eq!(i128::from(at.0), seconds, "{text:?}");
            }
        }
        Err(error) => fits_a_message(&error, &text),
    }
    match parse_duration(&text) {
        Ok(duration) => {
            let seconds = duration.as_secs();
            assert!(seconds <= 1000 * 8766 * 3600, "{text:?}");
            let shown = format_duration(i64::try_from(seconds).expect("1000 years"));
            let back = parse_duration(&shown).expect("a duration").as_secs();
            // Its two largest units: no more than that is shown.
            assert!(
                back <= seconds && (seconds - back) * 24 <= seconds,
                "{text:?}"
            );
        }
        Err(error) => fits_a_message(&error, &text),
    }
    match parse_zone(&text) {
        Ok(found) => assert_eq!(parse_zone(found.name()), Ok(found)),
        Err(error) => fits_a_message(&error, &text),
    }
}

/// What `@seconds.fraction` is in whole seconds, by arithmetic of its own.
fn rounded_up(text: &str) -> Option<i128> {
    let number = text.strip_prefix('@')?;
    let (sign, number) = match number.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let carry = i128::from(sign == 1 && fraction.bytes().any(|digit| digit != b'0'));
    Some(sign * whole.parse::<i128>().ok()? + carry)
}

/// One short line that names what was written.
fn fits_a_message(error: &WhenError, text: &str) {
    let said = error.to_string();
    assert!(!said.chars().any(char::is_control), "{said:?}");
    assert!(said.chars().count() < 1000, "{said}");
    let word = text.trim();
    let is_plain = word.len() <= 60 && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let names_it = matches!(error, WhenError::Twice { .. } | WhenError::Skipped { .. });
    assert!(
        !is_plain || names_it || said.contains(word),
        "{word}: {said}"
    );
}
