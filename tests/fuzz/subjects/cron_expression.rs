//! Cron expressions. The first byte chooses a zone.

use punctual::clock::UnixSeconds;
use punctual::recurrence::Recurrence;
use punctual::zone::Zone;

/// The gap of a day in Samoa is in it, a gap and a fold of Europe's and America's, and the end of
/// Liberia's offset with seconds is not far from 1970.
const AFTER: [i64; 4] = [-1, 64_000_000, 1_325_000_000, 1_792_800_000];
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
    let name = ZONES[usize::from(*first) % ZONES.len()];
    let zone = Zone::named(name).expect("a zone");
    let text = String::from_utf8_lossy(rest);
    let word = text.trim();
    match Recurrence::cron(&text, zone.clone()) {
        Ok(recurrence) => {
            assert_eq!(recurrence.to_string(), format!("{word} ({name})"));
            let again = Recurrence::cron(word, zone).expect("the same");
            assert_eq!(again, recurrence);
            for after in AFTER {
                walks_back_and_forth(&recurrence, UnixSeconds(after));
            }
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.chars().any(char::is_control), "{said:?}");
            assert!(said.chars().count() < 1000, "{said}");
            let is_plain =
                word.len() <= 60 && word.bytes().all(|byte| (b' '..b'~').contains(&byte));
            let is_named = said.starts_with(&format!("`{word}` "));
            assert!(
                !is_plain || word.contains(['\\', '\'', '"']) || is_named,
                "{word}: {said}"
            );
        }
    }
}

fn walks_back_and_forth(recurrence: &Recurrence, after: UnixSeconds) {
    let slots: Vec<UnixSeconds> = recurrence.slots_after(after).take(30).collect();
    let mut before = after;
    for (counted, slot) in slots.iter().enumerate() {
        assert!(*slot > before, "{recurrence}");
        assert!((0..=UnixSeconds::MAX.0).contains(&slot.0), "{recurrence}");
        let just_before = UnixSeconds(slot.0 - 1);
        assert_eq!(
            recurrence.next_after(just_before),
            Some(*slot),
            "{recurrence}"
        );
        let last = recurrence.last_at_or_before(just_before);
        assert!(
            counted == 0 || last == Some(before),
            "{recurrence}: {last:?}"
        );
        assert_eq!(
            recurrence.last_at_or_before(*slot),
            Some(*slot),
            "{recurrence}"
        );
        assert_eq!(
            recurrence.count_between(after, *slot),
            1 + counted as u64,
            "{recurrence}"
        );
        before = *slot;
    }
    if slots.len() < 30 {
        let last = recurrence.last_at_or_before(UnixSeconds::MAX);
        assert!(slots.is_empty() || last == Some(before), "{recurrence}");
        assert_eq!(
            recurrence.count_between(before, UnixSeconds::MAX),
            0,
            "{recurrence}"
        );
    }
}
