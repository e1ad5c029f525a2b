//! The nearest known word for a misspelt one: keys, zones, types. No I/O.

/// What a message appends: "; did you mean `retries`?", or nothing where no word is near.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = nearest(word, known, 1)
        .into_iter()
        .map(|name| format!("`{name}`"))
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!("; did you mean {}?", names.join(", "))
    }
}

/// Up to `most` words of `known` that are near `word`, the nearest first; case does not count.
pub fn nearest<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
    most: usize,
) -> Vec<&'a str> {
    // Distance is quadratic in length: what is longer than any name is near none.
    if word.len() > 100 {
        return Vec::new();
    }
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .map(|name| (strsim::osa_distance(&word, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= allowed)
        .collect();
    near.sort_by_key(|(distance, _)| *distance);
    near.into_iter().take(most).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_is_recognised() {
        assert_eq!(
            did_you_mean("retrys", ["rate", "retries"]),
            "; did you mean `retries`?"
        );
        assert_eq!(
            did_you_mean("Timeuot", ["timeout"]),
            "; did you mean `timeout`?"
        );
    }

    #[test]
    fn a_word_unlike_every_other_gets_no_suggestion() {
        assert_eq!(did_you_mean("colour", ["rate", "retries"]), "");
        assert_eq!(did_you_mean("", ["rate"]), "");
        assert_eq!(did_you_mean(&"x".repeat(10_000), ["rate"]), "");
    }

    #[test]
    fn the_nearest_comes_first() {
        assert_eq!(
            nearest("grace", ["trace", "graces", "grace"], 2),
            ["grace", "trace"]
        );
    }
}
