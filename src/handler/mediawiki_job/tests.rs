//! What MediaWiki itself makes of the same is asked in `tests/suite/wiki.rs`.

use super::*;

fn read(payload: &str) -> Job {
    Job::read(payload.as_bytes()).unwrap_or_else(|error| panic!("{payload}: {error}"))
}

fn params(payload: &str) -> String {
    String::from_utf8(read(payload).params).expect("from JSON, so UTF-8")
}

fn refusal(payload: &str) -> String {
    Job::read(payload.as_bytes()).expect_err(payload)
}

#[test]
fn a_job_is_about_no_page_unless_it_says_so() {
    let job = read(r#"{"type":"null","params":{"lives":1}}"#);
    let wanted = Job {
        cmd: "null".to_owned(),
        namespace: -1,
        title: String::new(),
        params: b"a:1:{s:5:\"lives\";i:1;}".to_vec(),
        sha1: String::new(),
    };
    assert_eq!(job, wanted);
    assert_eq!(params(r#"{"type":"null"}"#), "a:0:{}");
    assert_eq!(params(r#"{"type":"null","params":[]}"#), "a:0:{}");
}

#[test]
fn the_page_of_a_job_is_one_of_its_params_too() {
    let job = read(r#"{"type":"x","title":"Main_Page"}"#);
    assert_eq!((job.namespace, job.title.as_str()), (0, "Main_Page"));
    let wanted = "a:2:{s:9:\"namespace\";i:0;s:5:\"title\";s:9:\"Main_Page\";}";
    assert_eq!(job.params, wanted.as_bytes());
    let job = read(r#"{"type":"x","params":{"namespace":"4","title":7},"title":"Other"}"#);
    assert_eq!((job.namespace, job.title.as_str()), (4, "7"));
    let job = read(r#"{"type":"x","params":{"namespace":null,"title":null}}"#);
    assert_eq!((job.namespace, job.title.as_str()), (-1, ""));
}

#[test]
fn duplicates_are_told_by_type_and_params_in_their_order() {
    let sha1 = |params: &str| {
        read(&format!(
            r#"{{"type":"x","params":{params},"deduplicate":true}}"#
        ))
        .sha1
    };
    assert_eq!(sha1(r#"{"a":1}"#).len(), SHA1_DIGITS);
    assert_eq!(
        sha1(r#"{"a":1}"#),
        sha1(r#"{"rootJobSignature":"s","a":1}"#)
    );
    assert_eq!(
        sha1(r#"{"a":1}"#),
        sha1(r#"{"a":1,"rootJobTimestamp":"2","jobReleaseTimestamp":3}"#)
    );
    assert_ne!(sha1(r#"{"a":1,"b":2}"#), sha1(r#"{"b":2,"a":1}"#));
    assert_ne!(sha1(r#"{"a":1}"#), sha1(r#"{"a":"1"}"#));
    assert_ne!(sha1(r#"{"a":1}"#), sha1(r#"{"a":1,"requestId":"r"}"#));
    assert_eq!(read(r#"{"type":"x","deduplicate":false}"#).sha1, "");
}

#[test]
fn base_36_has_its_highest_digit_first_and_all_its_zeros() {
    let zeros = |count| "0".repeat(count);
    assert_eq!(base_36(&[0; 20]), zeros(31));
    assert_eq!(base_36(&[35]), zeros(30) + "z");
    assert_eq!(base_36(&[1, 0]), zeros(29) + "74");
    assert_eq!(base_36(&[0xff; 20]), "twj4yidkw7a8pn4g709kzmfoaol3x8f");
}

#[test]
fn a_stored_row_is_taken_as_it_is() {
    let sha1 = "0123456789abcdefghijklmnopqrstu";
    let job = read(&format!(
        r#"{{"job":{{"cmd":"x","namespace":4,"title":"T","params":"a:1:{{i:0;N;}}","sha1":"{sha1}"}}}}"#
    ));
    let wanted = Job {
        cmd: "x".to_owned(),
        namespace: 4,
        title: "T".to_owned(),
        params: b"a:1:{i:0;N;}".to_vec(),
        sha1: sha1.to_owned(),
    };
    assert_eq!(job, wanted);
    let job = read(r#"{"job":{"cmd":"x","params_base64":"YToxOntpOjA7czoxOiL/Ijt9"}}"#);
    assert_eq!(job.params, b"a:1:{i:0;s:1:\"\xff\";}");
    assert_eq!((job.namespace, job.title.as_str()), (-1, ""));
}

#[test]
fn what_is_no_job_is_refused_in_a_line_that_names_it() {
    for (payload, part) in [
        ("", "no JSON"),
        ("null", "is no job"),
        ("[]", "no `type`"),
        ("{}", "no `type`"),
        (r#"{"type":7}"#, "`type` in the payload must be a text"),
        (r#"{"type":""}"#, "1 to 60 bytes"),
        (
            r#"{"type":"x","params":"a:0:{}"}"#,
            "`params` in the payload",
        ),
        (r#"{"type":"x","params":null}"#, "`params` in the payload"),
        (
            r#"{"type":"x","paramz":{}}"#,
            "unknown key \"paramz\" in the payload",
        ),
        (r#"{"type":"x","deduplicate":1}"#, "`deduplicate`"),
        (r#"{"type":"x","namespace":1}"#, "goes with a `title`"),
        (r#"{"type":"x","params":{"namespace":"x"}}"#, "`namespace`"),
        (
            r#"{"type":"x","params":{"namespace":5000000000}}"#,
            "namespace 5000000000",
        ),
        (r#"{"type":"x","params":{"title":[]}}"#, "`title`"),
        (
            r#"{"type":"x","params":{"a":1e999}}"#,
            "number out of range",
        ),
        (r#"{"job":1}"#, "`job` in the payload must be an object"),
        (
            r#"{"job":{"cmd":"x","params":"a:0:{}"},"type":"x"}"#,
            "unknown key \"type\"",
        ),
        (r#"{"job":{"params":"a:0:{}"}}"#, "no `cmd`"),
        (r#"{"job":{"cmd":"x"}}"#, "either `params` or"),
        (
            r#"{"job":{"cmd":"x","params":"a:0:{}","id":1}}"#,
            "unknown key \"id\" in `job`",
        ),
        (
            r#"{"job":{"cmd":"x","params":"N;"}}"#,
            "no serialised array",
        ),
        (
            r#"{"job":{"cmd":"x","params":"a:1:{i:0;O:1:\"A\":0:{}}"}}"#,
            "an object",
        ),
        (r#"{"job":{"cmd":"x","params_base64":"?"}}"#, "no base64"),
        (
            r#"{"job":{"cmd":"x","params":"a:0:{}","sha1":"abc"}}"#,
            "31 digits",
        ),
        (
            r#"{"job":{"cmd":"x","params":"a:0:{}","namespace":1.5}}"#,
            "whole number",
        ),
    ] {
        let refusal = refusal(payload);
        assert!(refusal.contains(part), "{payload}: {refusal}");
        assert!(!refusal.contains('\n'), "{refusal}");
    }
    let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(61));
    assert!(refusal(&long).contains("1 to 60 bytes"));
    let long = format!(r#"{{"type":"x","title":"{}"}}"#, "x".repeat(256));
    assert!(refusal(&long).contains("up to 255 bytes"));
    let long = format!(r#"{{"type":"x","{}":1}}"#, "y".repeat(10_000));
    assert!(refusal(&long).len() < 300);
}

#[test]
fn an_insert_takes_as_many_jobs_as_fit_and_always_one() {
    let job = |bytes: usize| Job {
        params: vec![b'x'; bytes],
        ..read(r#"{"type":"null"}"#)
    };
    let fitting =
        |bytes: usize, count: usize| JobTable::fitting(std::iter::repeat_n(&job(bytes), count));
    assert_eq!(fitting(10, 500), 500);
    assert_eq!(fitting(10, 5_000), MAX_ROWS);
    assert_eq!(fitting(MAX_BYTES / 4, 500), 3);
    assert_eq!(fitting(MAX_BYTES, 500), 1);
    assert_eq!(fitting(10 * MAX_BYTES, 1), 1);
}
