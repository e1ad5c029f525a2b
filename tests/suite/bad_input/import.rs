//! An import that is cut off, no text, or wrong in the middle.

use super::{DATA, IO, refused, unchanged};
use crate::support::process::Running;
use crate::support::site::Site;

/// Lines `from` to `to`; each holds its own number as payload and key.
fn lines(from: usize, to: usize) -> String {
    let line = |n| {
        format!(
            "{{\"type\":\"note\",\"due_at\":{},\"payload\":{n},\"key\":\"k{n}\"}}\n",
            5_000 + n
        )
    };
    (from..=to).map(line).collect()
}

fn rows(site: &Site) -> i64 {
    site.query_i64("SELECT COUNT(*) FROM scheduled_events")
}

on_both_databases! {
    fn a_half_valid_import_names_the_line_and_goes_on_where_it_says(site: &Site) {
        site.init();
        let broken = lines(1, 699) + "{\"type\":\"note\",\"due_at\":5,,}\n" + &lines(701, 1_100);
        let ended = site.punctual_reading(&broken, ["import"]);
        refused(&ended, DATA, &["line 700:", "before 501 are in", "--from-line 501"]);
        assert_eq!(rows(site), 500);
        // The same file again, by accident: nothing doubles, and nothing of the bad chunk is in.
        let ended = site.punctual_reading(&broken, ["import"]);
        refused(&ended, DATA, &["line 700:", "--from-line 501"]);
        assert_eq!(rows(site), 500);
        let ended = site.punctual_reading(lines(1, 1_100), ["import", "--from-line", "501"]).ok();
        assert!(ended.stdout.contains("600"), "{ended:?}");
        assert_eq!(rows(site), 1_100);
        let distinct = "SELECT COUNT(DISTINCT unique_key) FROM scheduled_events";
        assert_eq!(site.query_i64(distinct), 1_100);
    }

    fn a_truncated_import_names_the_cut_line(site: &Site) {
        site.init();
        let whole = lines(1, 20);
        let cut = &whole[..whole.len() - 10];
        let ended = unchanged(site, || site.punctual_reading(cut, ["import"]));
        refused(&ended, DATA, &["line 20:", "nothing was imported", "--from-line 1"]);
        // Cut exactly at a line's end, without the newline, is whole.
        site.punctual_reading(whole.trim_end(), ["import"]).ok();
        assert_eq!(rows(site), 20);
    }

    fn a_binary_import_is_refused_at_its_first_line(site: &Site) {
        site.init();
        let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56\x2a\xa9\x2c".to_vec();
        let utf16: Vec<u8> = lines(1, 3).encode_utf16().flat_map(u16::to_le_bytes).collect();
        let zeros = vec![0u8; 20 << 20];
        for binary in [gzip, utf16, zeros, b"SQLite format 3\0".to_vec()] {
            let ended = unchanged(site, || site.punctual_reading(&binary, ["import"]));
            refused(&ended, DATA, &["line 1:", "nothing was imported"]);
        }
        let mut tail = lines(1, 10).into_bytes();
        tail.extend(b"{\"type\":\"n\xff\",\"due_at\":5}\n");
        let ended = unchanged(site, || site.punctual_reading(&tail, ["import"]));
        refused(&ended, DATA, &["line 11:", "UTF-8", "nothing was imported"]);
    }

    fn each_wrong_line_is_refused_with_its_reason(site: &Site) {
        site.init();
        let long = |length| "x".repeat(length);
        let with_type = |name: &str| format!(r#"{{"type":"{name}","due_at":5}}"#);
        let with_key = |key: &str| format!(r#"{{"type":"a","due_at":5,"key":"{key}"}}"#);
        let payload = long((1 << 20) + 1);
        let with_payload = format!(r#"{{"type":"a","due_at":5,"payload":"{payload}"}}"#);
        for (line, words) in [
            ("null".to_owned(), &["JSON object"][..]),
            ("[1]".to_owned(), &["JSON object"]),
            ("type,due_at".to_owned(), &["JSON object"]),
            (r#"{"due_at":5}"#.to_owned(), &["`type`"]),
            (r#"{"type":"a"}"#.to_owned(), &["at, in, due_at"]),
            (r#"{"type":"a","due_at":5,"in":"5m"}"#.to_owned(), &["more than one"]),
            (r#"{"type":"a","due_at":5,"paylod":1}"#.to_owned(), &["paylod", "payload"]),
            (r#"{"type":"a","due_at":5,"type":"b"}"#.to_owned(), &["type"]),
            (r#"{"type":"a","due_at":5} {}"#.to_owned(), &["trailing"]),
            (r#"{"type":"a","due_at":1795335300000}"#.to_owned(), &["due_at", "milliseconds"]),
            (r#"{"type":"a","due_at":-1}"#.to_owned(), &["due_at", "1970"]),
            (r#"{"type":"a","due_at":5.5}"#.to_owned(), &["due_at", "whole"]),
            (r#"{"type":"a","due_at":true}"#.to_owned(), &["due_at"]),
            (r#"{"type":"a","due_at":1e99}"#.to_owned(), &["due_at"]),
            (r#"{"type":"a","at":"2026-02-31"}"#.to_owned(), &["at:", "does not exist"]),
            (r#"{"type":"a","in":"5"}"#.to_owned(), &["in:", "unit"]),
            (r#"{"type":"a","in":"1000y"}"#.to_owned(), &["in:", "3000"]),
            (r#"{"type":"a","due_at":5,"priority":3}"#.to_owned(), &["priority", "-2 to 2"]),
            (r#"{"type":"a","due_at":5,"expires":"x"}"#.to_owned(), &["expires:", "`x`"]),
            (r#"{"type":"a","due_at":5,"payload_base64":"%"}"#.to_owned(), &["payload_base64"]),
            (with_type(""), &["type is empty"]),
            (with_type(&long(65)), &["65", "64"]),
            (with_key(&long(192)), &["192", "191"]),
            (with_key(""), &["key is empty"]),
            (with_payload, &["1 MiB"]),
        ] {
            let text = lines(1, 2) + &line + "\n" + &lines(4, 5);
            let ended = unchanged(site, || site.punctual_reading(&text, ["import"]));
            refused(&ended, DATA, &["line 3:", "nothing was imported", "--from-line 1"]);
            refused(&ended, DATA, words);
        }
        // Nor is anything of a chunk in when a later line of it has an escape that ends midway.
        let text = lines(1, 400) + r#"{"type":"a","due_at":5,"payload":"\ud8"#;
        let ended = unchanged(site, || site.punctual_reading(&text, ["import"]));
        refused(&ended, DATA, &["line 401:"]);
    }

    fn an_empty_import_is_none(site: &Site) {
        site.init();
        for nothing in ["", "\n\n  \n"] {
            let ended = unchanged(site, || site.punctual_reading(nothing, ["import"]));
            assert!(ended.ok().stdout.contains("imported 0"));
        }
    }

    fn an_unreadable_stdin_is_no_end_of_input(site: &Site) {
        site.init();
        let mut command = site.command("sh");
        command.args(["-c", "exec \"$0\" import < .", env!("CARGO_BIN_EXE_punctual")]);
        let ended = unchanged(site, || site.finish(Running::start(command, b"")));
        refused(&ended, IO, &["stdin"]);
    }
}
