//! Everything that reads foreign input, on what somebody might send: the files that the fuzz
//! targets start from and what they once failed on, bytes at random, and the former with some of
//! the latter in between. What must hold of each is said once, in `tests/fuzz/subjects`, for the
//! engine there and for these.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

#[path = "../fuzz/subjects/batch_answer.rs"]
mod batch_answer;
#[path = "../fuzz/subjects/config.rs"]
mod config;
#[path = "../fuzz/subjects/cron_expression.rs"]
mod cron_expression;
#[path = "../fuzz/subjects/database_url.rs"]
mod database_url;
#[path = "../fuzz/subjects/http_answer.rs"]
mod http_answer;
#[path = "../fuzz/subjects/import_line.rs"]
mod import_line;
#[path = "../fuzz/subjects/job_payload.rs"]
mod job_payload;
#[path = "../fuzz/subjects/lock_file.rs"]
mod lock_file;
#[path = "../fuzz/subjects/my_cnf.rs"]
mod my_cnf;
#[path = "../fuzz/subjects/sql.rs"]
mod sql;
#[path = "../fuzz/subjects/when.rs"]
mod when;

/// The files that are checked in for a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let entries = fs::read_dir(directory.join(target)).expect("a corpus");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    paths.sort();
    assert!(paths.len() > 5, "{target}: {}", paths.len());
    paths
        .iter()
        .map(|path| fs::read(path).expect("a file"))
        .collect()
}

/// A change such as people and broken programs make: bytes replaced, a stretch lost or doubled,
/// the beginning of another file put in.
fn changed(files: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let other = select(files.clone());
    let bytes = prop_oneof![
        any::<Vec<u8>>(),
        ".{0,8}".prop_map(String::into_bytes),
        select(vec![
            "\"",
            "'",
            "\\",
            "\n",
            "\0",
            "\u{feff}",
            "é",
            "[",
            "{",
            ":",
            "=",
            "%",
            "@",
            "/*",
            "--",
            "-1",
            "99999999999999999999",
            "1e999",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        other.prop_map(|mut file| {
            file.truncate(40);
            file
        }),
    ];
    let cut = (any::<Index>(), 0..12_usize, bytes);
    let cuts = proptest::collection::vec(cut, 1..4);
    (select(files), cuts).prop_map(|(mut file, cuts)| {
        for (at, length, bytes) in cuts {
            let start = at.index(file.len() + 1);
            let end = (start + length).min(file.len());
            file.splice(start..end, bytes);
        }
        file
    })
}

/// Runs `check` on a target's corpus, then on `cases` changes of it and as many bytes at random.
#[track_caller]
fn holds(target: &str, cases: u32, check: fn(&[u8])) {
    let files = corpus(target);
    for file in &files {
        check(file);
    }
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let inputs = prop_oneof![
        4 => changed(files),
        1 => any::<Vec<u8>>(),
    ];
    let done = runner.run(&inputs, |input| {
        check(&input);
        Ok(())
    });
    done.unwrap_or_else(|failure| panic!("{target}: {failure}"));
}

#[test]
fn times_durations_and_zones() {
    holds("when", 4000, when::check);
}

#[test]
fn cron_expressions() {
    holds("cron_expression", 2000, cron_expression::check);
}

#[test]
fn configuration_files() {
    holds("config", 2000, config::check);
}

#[test]
fn database_urls() {
    holds("database_url", 4000, database_url::check);
}

#[test]
fn payloads_of_jobs_of_a_wiki() {
    holds("job_payload", 4000, job_payload::check);
}

#[test]
fn client_option_files() {
    holds("my_cnf", 2000, my_cnf::check);
}

#[test]
fn import_lines() {
    holds("import_line", 4000, import_line::check);
}

#[test]
fn answers_of_batch_handlers() {
    holds("batch_answer", 4000, batch_answer::check);
}

#[test]
fn answers_of_http_servers() {
    holds("http_answer", 300, http_answer::check);
}

#[test]
fn lock_files() {
    holds("lock_file", 1000, lock_file::check);
}

#[test]
fn statements_of_sql_handlers() {
    holds("sql", 4000, sql::check);
}
