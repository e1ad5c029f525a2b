//! The map of the code, held: who may name a driver, print, start a process, or use whom.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its path below `src` and its product code (its `#[cfg(test)]` tail cut off).
struct Source {
    path: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut left = vec![root.clone()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory of the source tree");
            left.extend(entries.map(|entry| entry.expect("a readable entry").path()));
        } else if path.extension().is_some_and(|end| end == "rs") && !is_test(&path) {
            let text = fs::read_to_string(&path).expect("a source file");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let below = path.strip_prefix(&root).expect("below the root");
            let code = without_comments(code);
            found.push(Source {
                path: below.to_string_lossy().into_owned(),
                code,
            });
        }
    }
    assert!(found.len() > 40, "{}", found.len());
    found
}

fn is_test(path: &Path) -> bool {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts
        .iter()
        .any(|part| part == "tests" || part == "tests.rs" || part == "fixture.rs")
}

fn without_comments(code: &str) -> String {
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Files other than `allowed` in which `word` stands.
fn strays(word: &str, allowed: &[&str]) -> Vec<String> {
    let is_allowed = |path: &str| allowed.iter().any(|prefix| path.starts_with(prefix));
    let sources = sources();
    let hits = sources
        .iter()
        .filter(|s| s.code.contains(word) && !is_allowed(&s.path));
    hits.map(|source| source.path.clone()).collect()
}

#[test]
fn each_driver_is_named_in_one_file_only() {
    assert_eq!(strays("rusqlite", &["db/sqlite.rs"]), [""; 0]);
    for word in ["mysql::Conn", "use mysql::", "OptsBuilder"] {
        assert_eq!(strays(word, &["db/mysql.rs"]), [""; 0], "{word}");
    }
    assert_eq!(strays("ureq", &["handler/http", "cmd/mod.rs"]), [""; 0]);
}

#[test]
fn only_commands_print() {
    for word in [
        "println!",
        "eprintln!",
        "print!(",
        "io::stdout",
        "io::stderr",
    ] {
        assert_eq!(strays(word, &["cmd/", "watchdog.rs"]), [""; 0], "{word}");
    }
}

#[test]
fn only_spawn_and_the_watchdog_start_processes() {
    assert_eq!(strays("Command::new", &["spawn", "watchdog.rs"]), [""; 0]);
}

#[test]
fn sql_never_asks_for_the_time_but_in_the_one_place() {
    for word in [
        "NOW()",
        "CURRENT_TIMESTAMP",
        "SYSDATE",
        "unixepoch",
        "strftime(",
    ] {
        assert_eq!(
            strays(word, &["cli.rs", "cmd/", "config/sample.rs"]),
            [""; 0],
            "{word}"
        );
    }
    assert_eq!(
        strays(
            "UNIX_TIMESTAMP",
            &["db/mysql.rs", "cli.rs", "cmd/", "config/"]
        ),
        [""; 0]
    );
}

#[test]
fn leaves_use_nothing_of_ours_but_leaves() {
    let leaves = [
        "backfill.rs",
        "clock.rs",
        "event.rs",
        "fair.rs",
        "recurrence.rs",
        "recurrence/",
        "retry.rs",
        "schedule.rs",
        "source.rs",
        "nearest.rs",
        "php.rs",
        "when.rs",
        "when/",
        "zone.rs",
        "zone/",
        "fault.rs",
        "token.rs",
    ];
    let names = [
        "clock",
        "event",
        "fault",
        "nearest",
        "recurrence",
        "retry",
        "token",
        "when",
        "zone",
    ];
    for source in sources()
        .iter()
        .filter(|s| leaves.iter().any(|leaf| s.path.starts_with(leaf)))
    {
        for used in uses(&source.code) {
            assert!(
                names.contains(&used.as_str()),
                "{} uses {used}",
                source.path
            );
        }
    }
}

#[test]
fn nothing_below_knows_what_stands_above_it() {
    let rules: [(&str, &[&str]); 6] = [
        (
            "db/",
            &[
                "store", "runner", "lease", "handler", "cmd", "cli", "lock", "spawn",
            ],
        ),
        ("store/", &["runner", "cmd", "cli", "handler", "spawn"]),
        ("handler/", &["runner", "cmd", "cli", "store", "lease"]),
        (
            "spawn",
            &["runner", "cmd", "cli", "store", "lease", "handler", "db"],
        ),
        (
            "config",
            &[
                "runner", "cmd", "cli", "store", "lease", "handler", "db", "spawn",
            ],
        ),
        ("runner", &["cmd", "cli"]),
    ];
    for source in sources() {
        let rule = rules
            .iter()
            .find(|(prefix, _)| source.path.starts_with(prefix));
        let Some((_, above)) = rule else { continue };
        for used in uses(&source.code) {
            assert!(
                !above.contains(&used.as_str()),
                "{} uses {used}",
                source.path
            );
        }
    }
}

#[test]
fn no_file_is_left_out_of_the_map() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("src/lib.rs")).expect("lib.rs");
    let top: Vec<PathBuf> = fs::read_dir(root.join("src"))
        .expect("src")
        .map(|entry| entry.expect("a readable entry").path())
        .filter(|path| path.is_file())
        .collect();
    for path in top {
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let known = name == "lib" || map.contains(&format!("[`{name}`]")) || name == "main";
        assert!(known, "the map in src/lib.rs does not name `{name}`");
    }
}

/// The modules of this crate that some code names: the word behind each `crate::`.
fn uses(code: &str) -> Vec<String> {
    let behind = code.split("crate::").skip(1);
    let word = |rest: &str| {
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        rest[..end].to_owned()
    };
    behind.map(word).filter(|word| !word.is_empty()).collect()
}
