//! What PHP itself says of the same is asked in `tests/suite/php_values.rs`.

use super::*;

fn serialized(json: &str) -> String {
    let value = Value::from_json(json.as_bytes());
    let mut text = Vec::new();
    value
        .unwrap_or_else(|error| panic!("{json}: {error}"))
        .serialize(&mut text);
    String::from_utf8(text).expect("from JSON, so UTF-8")
}

#[test]
fn values_are_written_as_serialize_writes_them() {
    for (json, wanted) in [
        ("null", "N;"),
        ("true", "b:1;"),
        ("-0", "i:0;"),
        ("[-0, -0.0,-0e1]", "a:3:{i:0;i:0;i:1;d:-0;i:2;d:-0;}"),
        ("[\"-0\\\"-0\",1e-0]", "a:2:{i:0;s:5:\"-0\"-0\";i:1;d:1;}"),
        ("-7", "i:-7;"),
        ("9223372036854775807", "i:9223372036854775807;"),
        ("-9223372036854775808", "i:-9223372036854775808;"),
        ("9223372036854775808", "d:9.223372036854776E+18;"),
        ("0.1", "d:0.1;"),
        ("1e25", "d:1.0E+25;"),
        ("1.0", "d:1;"),
        ("123456789012345678", "i:123456789012345678;"),
        ("1e17", "d:1.0E+17;"),
        ("1e16", "d:10000000000000000;"),
        ("0.0001", "d:0.0001;"),
        ("0.00001", "d:1.0E-5;"),
        ("-1.5e-10", "d:-1.5E-10;"),
        ("\"\"", "s:0:\"\";"),
        ("\"grün\"", "s:5:\"grün\";"),
        ("\"a\\\"b\\u0000\"", "s:4:\"a\"b\0\";"),
        ("[]", "a:0:{}"),
        ("{}", "a:0:{}"),
        ("[1,[null]]", "a:2:{i:0;i:1;i:1;a:1:{i:0;N;}}"),
        (
            r#"{"b":1,"a":2,"b":3,"7":4,"07":5,"-0":6}"#,
            "a:5:{s:1:\"b\";i:3;s:1:\"a\";i:2;i:7;i:4;s:2:\"07\";i:5;s:2:\"-0\";i:6;}",
        ),
    ] {
        assert_eq!(serialized(json), wanted, "{json}");
    }
}

#[test]
fn a_member_named_twice_keeps_its_place_among_many() {
    let many: Vec<String> = (0..100).map(|n| format!("\"k{n}\":{n}")).collect();
    let json = format!("{{{},\"k50\":\"new\",\"k2\":\"new\"}}", many.join(","));
    let text = serialized(&json);
    assert!(text.starts_with("a:100:{"), "{text}");
    assert!(text.contains("s:2:\"k2\";s:3:\"new\";s:2:\"k3\""), "{text}");
    assert!(
        text.contains("s:3:\"k50\";s:3:\"new\";s:3:\"k51\""),
        "{text}"
    );
}

#[test]
fn nesting_goes_as_deep_as_phps_and_no_deeper() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let wanted = "a:1:{i:0;".repeat(MAX_JSON_DEPTH - 1);
    assert!(serialized(&nested(MAX_JSON_DEPTH)).starts_with(&wanted));
    let refusal = Value::from_json(nested(MAX_JSON_DEPTH + 1).as_bytes()).unwrap_err();
    assert!(
        refusal.starts_with("nested more than 511 deep"),
        "{refusal}"
    );
    assert!(Value::from_json("[".repeat(1 << 20).as_bytes()).is_err());
}

#[test]
fn what_is_no_json_is_refused() {
    for json in [
        "",
        "-",
        "1-0",
        "--0",
        "{",
        "[1,]",
        "1 2",
        "{1:2}",
        "\"\\ud800\"",
        "1e999",
        "TRUE",
        "'a'",
    ] {
        assert!(Value::from_json(json.as_bytes()).is_err(), "{json}");
    }
    assert!(Value::from_json(b"\"\xff\"").is_err());
}

#[test]
fn a_serialised_array_of_plain_values_passes() {
    for text in [
        "a:0:{}",
        "a:1:{i:0;N;}",
        "a:2:{s:1:\"a\";b:1;i:-3;d:-1.0E+25;}",
        "a:3:{i:0;d:INF;i:1;d:-INF;i:2;d:NAN;}",
        "a:2:{i:0;a:1:{i:0;a:0:{}}i:1;s:5:\"\";}{;\";}",
    ] {
        assert_eq!(check_serialized_array(text.as_bytes()), Ok(()), "{text}");
    }
    assert_eq!(check_serialized_array(b"a:1:{i:0;s:2:\"\xff\0\";}"), Ok(()));
}

#[test]
fn what_unserialize_might_bring_to_life_or_refuse_is_refused() {
    for text in [
        "",
        "N;",
        "i:1;",
        "s:1:\"a\";",
        "O:8:\"stdClass\":0:{}",
        "a:1:{i:0;O:8:\"stdClass\":0:{}}",
        "a:1:{i:0;C:3:\"Foo\":0:{}}",
        "a:1:{i:0;E:3:\"A:B\";}",
        "a:2:{i:0;i:1;i:1;R:2;}",
        "a:2:{i:0;a:0:{}i:1;r:2;}",
        "a:1:{i:0;S:1:\"a\";}",
        "a:1:{N;i:1;}",
        "a:1:{a:0:{}i:1;}",
        "a:2:{i:0;i:1;}",
        "a:1:{i:0;i:1;i:1;i:2;}",
        "a:0:{}a:0:{}",
        "a:0:{};",
        "a:-1:{}",
        "a:+1:{i:0;N;}",
        "a:99999999999999999999:{}",
        "a:1:{i:0;s:9:\"short\";}",
        "a:1:{i:0;s:1:\"long\";}",
        "a:1:{i:0;i:9223372036854775808;}",
        "a:1:{i:0;i:+1;}",
        "a:1:{i:0;i:;}",
        "a:1:{i:0;d:inf;}",
        "a:1:{i:0;d:e;}",
        "a:1:{i:0;b:2;}",
        "a:1:{i:0;N}",
        "a:1:{i:0;",
        "a:1:{i:0",
        "a:1",
    ] {
        assert!(check_serialized_array(text.as_bytes()).is_err(), "{text}");
    }
    let deep = "a:1:{i:0;".repeat(MAX_SERIALIZED_DEPTH + 1);
    let refusal = check_serialized_array(deep.as_bytes()).unwrap_err();
    assert!(
        refusal.starts_with("nested more than 4096 deep"),
        "{refusal}"
    );
}
