//! Values as PHP has them, held against PHP itself: what `json_decode` and `serialize` make of hard
//! cases and of thousands of generated ones, and what `unserialize` takes.

use std::fs;

use punctual::php::{Value, check_serialized_array};

use crate::support::hex;
use crate::support::site::Site;

/// JSON that is read in more ways than one, or hardly at all.
const HARD: [&str; 48] = [
    r#"{"b":1,"a":{"z":[1,2,{"y":null}],"x":true},"b":2}"#,
    r#"{"5":"a","05":"b","-5":"c","+5":"d"," 5":"e","5 ":"f","5.0":"g","":"h","-":"i"}"#,
    r#"{"0":1,"00":2,"-0":3,"1e3":4,"0x1":5}"#,
    r#"{"9223372036854775807":1,"9223372036854775808":2}"#,
    r#"{"-9223372036854775807":1,"-9223372036854775808":2,"-9223372036854775809":3}"#,
    r#"{"1":"one","01":"two","1":"three","2":"four"}"#,
    "[9223372036854775807,9223372036854775808,-9223372036854775808,-9223372036854775809]",
    "[18446744073709551615,18446744073709551616,123456789012345678901234567890]",
    "[0,-0,0.0,-0.0,-0e0,0E+5,1e-0,-1]",
    "[0.1,0.2,0.30000000000000004,1.1,1.0,100.0,1e2,1.5e300,-1e-300]",
    "[1e15,1e16,1e17,1e18,123456789012345.6,1234567890123456.7,12345678901234567.8]",
    "[0.001,0.0001,0.00001,0.00012345,0.000012345,1e-7]",
    "[5e-324,2.2250738585072014e-308,1.7976931348623157e308,4.9e-324,2.4e-324]",
    "[9007199254740992.0,9007199254740993.0,36028797018963968.0,9.223372036854775e18]",
    "[1e22,1e23,1e21,8.41e21,2.0e-5,4.35,2.675,1.005]",
    "[179769313486231580793728971405301e276]",
    r#"["","a","ä","漢字","😀","\u00e4","\ud83d\ude00","\u0000","a\u0000b","\u007f"]"#,
    r#"["\"","\\","\/","\b\f\n\r\t","';DROP TABLE job;--","s:3:\"abc\";"]"#,
    r#"{"ä":1,"漢":2,"\u0000":3,"\u0000a":4,"a\"b":5}"#,
    r#"{"rootJobSignature":"abc","rootJobTimestamp":"20260101000000","x":[]}"#,
    "[[],{},[[]],[{}],{\"a\":[]},{\"a\":{}}]",
    " [ 1 , 2\t,\n3\r\n] ",
    "null",
    "true",
    "\"text\"",
    "12",
    "1.5",
    "",
    "nul",
    "TRUE",
    "[Null]",
    "[1,]",
    "{,}",
    "{\"a\"}",
    "{\"a\":1,}",
    "[1 2]",
    "01",
    "1.",
    ".5",
    "+1",
    "- 1",
    "0x10",
    "\"\\u12\"",
    "\"\\ud800\"",
    "\"\\udc00\"",
    "\"\t\"",
    "\"\\x\"",
    "[]]",
];

/// Prints for each line of `values` what `serialize` makes of it, in hexadecimal digits, or `-`
/// where it is no JSON.
const SERIALIZE: &str = r"<?php
foreach (file('values', FILE_IGNORE_NEW_LINES) as $line) {
    $value = json_decode(hex2bin($line), true);
    echo json_last_error() ? '-' : bin2hex(serialize($value)), PHP_EOL;
}
";

/// Prints for each line whether `unserialize` makes an array of it.
const UNSERIALIZE: &str = r"<?php
foreach (file('values', FILE_IGNORE_NEW_LINES) as $line) {
    $value = @unserialize(hex2bin($line), ['allowed_classes' => false]);
    echo is_array($value) ? 'array' : '-', PHP_EOL;
}
";

/// What PHP answers to each of `values`.
fn asked(script: &str, values: &[Vec<u8>]) -> Vec<String> {
    let site = Site::sqlite();
    let lines = values.iter().map(|value| hex(value) + "\n");
    fs::write(site.path("values"), lines.collect::<String>()).expect("room on the disk");
    let answers = site.php(script).ok().stdout;
    let answers: Vec<String> = answers.lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), values.len());
    answers
}

fn serialized(json: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    Value::from_json(json).ok()?.serialize(&mut text);
    Some(text)
}

/// The same numbers each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // Knuth's constants for a linear congruence; its high bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).expect("48 bits") % limit
    }

    /// A number from `least` on.
    fn from(&mut self, least: i64, count: usize) -> i64 {
        least + i64::try_from(self.below(count)).expect("48 bits")
    }

    fn json(&mut self, depth: usize) -> String {
        match self.below(if depth > 4 { 8 } else { 10 }) {
            0 => ["null", "true", "false"][self.below(3)].to_owned(),
            1 => format!("{}", self.from(-(1 << 31), 1 << 32)),
            2 => format!("-{}{}", self.next(), self.below(100_000)),
            3 | 4 => self.float(),
            5 => format!("{}e{}", self.below(100_000), self.from(-20, 40)),
            6 | 7 => self.text(),
            8 => {
                let items: Vec<String> = (0..self.below(5)).map(|_| self.json(depth + 1)).collect();
                format!("[{}]", items.join(","))
            }
            _ => self.object(depth),
        }
    }

    fn object(&mut self, depth: usize) -> String {
        let members = (0..self.below(6)).map(|_| {
            let key = match self.below(3) {
                0 => format!("\"{}\"", self.from(-10, 30)),
                1 => format!("\"k{}\"", self.below(4)),
                _ => self.text(),
            };
            format!("{key}:{}", self.json(depth + 1))
        });
        let members: Vec<String> = members.collect();
        format!("{{{}}}", members.join(","))
    }

    /// Any float at all: its bits are chosen.
    fn float(&mut self) -> String {
        let bits = (self.next() << 32) ^ self.next();
        let number = f64::from_bits(bits);
        if number.is_finite() {
            return format!("{number:e}");
        }
        "0.5".to_owned()
    }

    fn text(&mut self) -> String {
        let letters = [
            "a", "ß", "漢", "😀", "\\n", "\\\"", "\\u0001", "0", "-", " ",
        ];
        let letters: Vec<&str> = (0..self.below(8))
            .map(|_| letters[self.below(letters.len())])
            .collect();
        format!("\"{}\"", letters.concat())
    }
}

#[test]
fn json_becomes_what_php_serialises_of_it() {
    let mut numbers = Numbers(1);
    let mut values: Vec<Vec<u8>> = HARD.iter().map(|json| json.as_bytes().to_vec()).collect();
    values.extend([b"\"\xff\"".to_vec(), b"[\"\xc3\"]".to_vec()]);
    for depth in [1, 10, 511, 512] {
        values.push([b"[".repeat(depth), b"]".repeat(depth)].concat());
        values.push([b"{\"a\":".repeat(depth), b"1".to_vec(), b"}".repeat(depth)].concat());
    }
    values.extend((0..4_000).map(|_| numbers.object(0).into_bytes()));
    let answers = asked(SERIALIZE, &values);
    let mut refused = 0;
    for (json, answer) in values.iter().zip(&answers) {
        let ours = serialized(json).map_or("-".to_owned(), |text| hex(&text));
        refused += usize::from(ours == "-");
        assert_eq!(&ours, answer, "{}", String::from_utf8_lossy(json));
    }
    // 21 of the table, the two that are no UTF-8, the two that are too deep.
    assert_eq!(refused, 25);
}

/// PHP makes infinity of it, which no JSON could say; our refusal is the safe side.
#[test]
fn a_number_that_is_too_large_for_a_float_is_refused_and_is_infinite_to_php() {
    let value = b"1e999".to_vec();
    assert_eq!(serialized(&value), None);
    assert_eq!(asked(SERIALIZE, &[value]), [hex(b"d:INF;")]);
}

#[test]
fn every_serialised_array_that_passes_is_one_to_php_and_phps_own_pass() {
    let mut numbers = Numbers(2);
    let mut texts: Vec<Vec<u8>> = Vec::new();
    for _ in 0..2_000 {
        let json = numbers.object(0);
        let text = serialized(json.as_bytes()).expect("JSON of our own");
        assert_eq!(check_serialized_array(&text), Ok(()), "{json}");
        // One byte of it other than it was.
        let mut spoilt = text.clone();
        let at = numbers.below(text.len());
        spoilt[at] = b"0129:;{}\"adisbNOrRC-+"[numbers.below(21)];
        texts.extend([text, spoilt]);
    }
    for depth in [4096, 4097] {
        let open = b"a:1:{i:0;".repeat(depth);
        texts.push([open, b"N;".to_vec(), b"}".repeat(depth)].concat());
    }
    let answers = asked(UNSERIALIZE, &texts);
    let mut passed = 0;
    for (text, answer) in texts.iter().zip(&answers) {
        if check_serialized_array(text).is_ok() {
            passed += 1;
            assert_eq!(answer, "array", "{}", String::from_utf8_lossy(text));
        }
    }
    assert!((2_001..3_500).contains(&passed), "{passed}");
}
