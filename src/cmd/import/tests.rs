use super::*;
use crate::clock::UnixSeconds;
use crate::cmd::fixture::Fixture;
use crate::error::exit_of;

fn from(from_line: u64) -> ImportArgs {
    ImportArgs {
        from_line,
        allow_unknown_type: false,
    }
}

fn try_import(at: &Fixture, text: impl AsRef<[u8]>, from_line: u64) -> anyhow::Result<Sum> {
    let progress = Progress::of_bytes(&at.context, None);
    import(&at.context, text.as_ref(), &from(from_line), &progress)
}

fn lines(count: usize) -> String {
    let line = |n| format!("{{\"type\":\"a\",\"due_at\":{n}}}\n");
    (1..=count).map(line).collect::<Vec<_>>().concat()
}

fn refusal(at: &Fixture, text: impl AsRef<[u8]>) -> String {
    let error = try_import(at, text, 1).unwrap_err();
    assert_eq!(exit_of(&error), Exit::Data, "{error}");
    error.to_string()
}

#[test]
fn every_field_is_stored_as_it_is_written() {
    let at = Fixture::new();
    let text = r#"
{"type":"a","due_at":100,"payload":"x \" y","key":"k","priority":-2,"expires":200}
{"type":"a","at":"1970-01-01 00:05","payload":{ "b" : [1.10, 12345678901234567890123] , "c":"d e"}}
{"type":"a","at":"@7","payload":null,"expires":"@9"}
{"type":"a","due_at":8,"payload_base64":"/wA="}
"#;
    assert_eq!(try_import(&at, text, 1).unwrap().imported, 4);
    let found = at.rows(
        "SELECT due_at, COALESCE(unique_key, '-'), priority, COALESCE(expires_at, 0), \
         COALESCE(hex(payload), '-') FROM scheduled_events ORDER BY id",
    );
    let hex = |text: &str| {
        let digits = text.bytes().map(|byte| format!("{byte:02X}"));
        digits.collect::<Vec<_>>().concat()
    };
    let json = r#"{"b":[1.10,12345678901234567890123],"c":"d e"}"#;
    assert_eq!(
        found,
        [
            format!("100|k|-2|200|{}", hex(r#"x " y"#)),
            format!("300|-|0|0|{}", hex(json)),
            "7|-|0|9|".to_owned(),
            "8|-|0|0|FF00".to_owned(),
        ]
    );
}

#[test]
fn relative_times_count_from_the_databases_clock() {
    let at = Fixture::new();
    let before = at.store().now().unwrap().0;
    try_import(&at, r#"{"type":"a","in":"1h"}"#, 1).unwrap();
    let due: i64 = at.rows("SELECT due_at FROM scheduled_events")[0]
        .parse()
        .unwrap();
    assert!((before + 3600..=before + 3700).contains(&due));
}

#[test]
fn a_key_that_exists_is_kept_and_counted() {
    let at = Fixture::new();
    let text = "{\"type\":\"a\",\"due_at\":1,\"key\":\"k\"}\n".repeat(3) + &lines(2);
    let sum = try_import(&at, &text, 1).unwrap();
    assert_eq!((sum.imported, sum.kept), (3, 2));
    let sum = try_import(&at, &text, 1).unwrap();
    assert_eq!((sum.imported, sum.kept), (2, 3));
}

#[test]
fn a_bad_line_is_named_and_its_chunk_is_left_out() {
    let at = Fixture::new();
    let text = lines(700) + "{\"type\":\"a\"}\n" + &lines(100);
    let said = refusal(&at, &text);
    assert_eq!(
        said,
        "line 701: has no time: one of at, in, due_at is needed; the lines before 501 are in: \
         correct it and go on with --from-line 501"
    );
    assert_eq!(at.rows("SELECT COUNT(*) FROM scheduled_events"), ["500"]);
    let corrected = lines(800);
    try_import(&at, &corrected, 501).unwrap();
    assert_eq!(
        at.rows("SELECT COUNT(DISTINCT due_at), COUNT(*) FROM scheduled_events"),
        ["800|800"]
    );
}

#[test]
fn every_mistake_has_its_reason() {
    let at = Fixture::new();
    for (line, reason) in [
        ("{\"type\":\"a\",\"due_at\":1", "EOF"),
        ("[\"a\",1]", "is no JSON object"),
        ("nonsense", "is no JSON object"),
        ("{\"due_at\":1}", "missing field `type`"),
        (
            "{\"type\":\"a\",\"due_at\":1,\"prio\":1}",
            "unknown field `prio`",
        ),
        (
            "{\"type\":\"a\",\"due_at\":1,\"in\":\"5m\"}",
            "more than one",
        ),
        (
            "{\"type\":\"a\",\"due_at\":1795335300000}",
            "seconds, not milliseconds",
        ),
        ("{\"type\":\"a\",\"due_at\":1.5}", "whole Unix seconds"),
        (
            "{\"type\":\"a\",\"at\":\"someday\"}",
            "`someday` is no time",
        ),
        ("{\"type\":\"a\",\"in\":\"5\"}", "a unit is missing"),
        (
            "{\"type\":\"a\",\"due_at\":1,\"priority\":3}",
            "priority must be -2 to 2",
        ),
        ("{\"type\":\"\",\"due_at\":1}", "the type is empty"),
        (
            "{\"type\":\"a\",\"due_at\":1,\"payload_base64\":\"*\"}",
            "payload_base64: ",
        ),
        (
            "{\"type\":\"a\",\"due_at\":1,\"payload\":1,\"payload_base64\":\"\"}",
            "has both",
        ),
        (
            "{\"type\":\"a\",\"due_at\":1,\"due_at\":2}",
            "duplicate field",
        ),
        (
            "{\"type\":\"a\",\"due_at\":1,\"payload\":\"\\ud800\"}",
            "payload: unexpected end of hex escape; nothing",
        ),
        (
            "{\"type\":\"a\",\"due_at\":1,\"a at line b\":1}",
            "unknown field `a at line b`",
        ),
    ] {
        let said = refusal(&at, lines(1) + line + "\n");
        assert!(
            said.starts_with("line 2: ") && said.contains(reason),
            "{line}: {said}"
        );
        assert!(said.contains("nothing was imported"), "{said}");
    }
    let long = format!("{{\"type\":\"{}\",\"due_at\":1}}", "t".repeat(65));
    assert!(refusal(&at, long).contains("65 bytes"));
    let large = format!(
        "{{\"type\":\"a\",\"due_at\":1,\"payload\":\"{}\"}}",
        "x".repeat(1 << 21)
    );
    assert!(refusal(&at, large).contains("larger than 1 MiB"));
    assert!(refusal(&at, b"\xff\xfe\x00garbage").contains("is no UTF-8 text"));
    assert!(at.rows("SELECT id FROM scheduled_events").is_empty());
}

#[test]
fn an_endless_line_is_refused_before_it_fills_the_memory() {
    let at = Fixture::new();
    let progress = Progress::of_bytes(&at.context, None);
    let error = import(&at.context, io::repeat(b'x'), &from(1), &progress).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("line 1: is longer than 8 MiB"),
        "{error}"
    );
}

#[test]
fn chunks_grow_while_they_are_quick_to_write_and_shrink_again() {
    let next = |rows, millis| rows_after(rows, Duration::from_millis(millis));
    assert_eq!(next(500, 3), 1000);
    assert_eq!(next(500, 30), 500);
    assert_eq!(next(1000, 51), 500);
    assert_eq!(next(500, 900), 500, "never fewer");
    assert_eq!(next(8000, 1), 8000, "never more than memory is meant for");
    let at = Fixture::new();
    assert_eq!(try_import(&at, lines(20_000), 1).unwrap().imported, 20_000);
    let distinct = at.rows("SELECT COUNT(DISTINCT due_at), COUNT(*) FROM scheduled_events");
    assert_eq!(distinct, ["20000|20000"]);
}

#[test]
fn a_chunk_of_thousands_goes_in_by_statements_of_hundreds() {
    let reading = Reading {
        now: UnixSeconds(0),
        zone: crate::zone::Zone::utc(),
    };
    let event = reading.event(lines(1).as_bytes(), 1).unwrap().unwrap();
    assert_eq!(statement_sizes(&vec![event; 1200]), [500, 500, 200]);
}

#[test]
fn large_payloads_are_cut_into_small_statements_and_chunks() {
    let at = Fixture::new();
    let line = format!(
        "{{\"type\":\"a\",\"due_at\":1,\"payload\":\"{}\"}}\n",
        "x".repeat(900_000)
    );
    assert_eq!(try_import(&at, line.repeat(10), 1).unwrap().imported, 10);
    let reading = Reading {
        now: UnixSeconds(0),
        zone: crate::zone::Zone::utc(),
    };
    let event = reading.event(line.as_bytes(), 1).unwrap().unwrap();
    assert_eq!(statement_sizes(&vec![event; 3]), [1, 1, 1]);
}

#[test]
fn a_type_that_the_configuration_does_not_know_is_refused_unless_allowed() {
    let at = Fixture::with_types(&["b"]);
    let error = try_import(&at, lines(3), 1).unwrap_err().to_string();
    assert!(
        error.starts_with("line 1: the configuration has no type `a`"),
        "{error}"
    );
    let args = ImportArgs {
        allow_unknown_type: true,
        ..from(1)
    };
    let progress = Progress::of_bytes(&at.context, None);
    let sum = import(&at.context, lines(3).as_bytes(), &args, &progress).unwrap();
    assert_eq!(sum.imported, 3);
}

#[test]
fn a_file_from_another_system_is_read_all_the_same() {
    let at = Fixture::new();
    let text = "\u{feff}{\"type\":\"a\",\"due_at\":1}\r\n\r\n{\"type\":\"a\",\"due_at\":2}";
    assert_eq!(try_import(&at, text, 1).unwrap().imported, 2);
}
