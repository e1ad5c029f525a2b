//! Every mistake of a file: its line, its key, its remedy; and no panic on any text.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::Site;
use crate::config::{ConfigError, file};

/// Each row: the text, and the whole message.
const MISTAKES: &[(&str, &str)] = &[
    (
        "databse = \"x\"",
        "1: unknown key `databse`; did you mean `database`?",
    ),
    ("\n[typ.x]\n", "2: unknown key `typ`; did you mean `type`?"),
    (
        "colour = 1",
        "1: unknown key `colour`; known are database, password_file, table_prefix, timezone, \
         state_dir, run, type, schedule, source",
    ),
    (
        "batch_size = 5",
        "1: unknown key `batch_size`; it belongs below [run]",
    ),
    (
        "[run]\ntimezone = \"UTC\"",
        "2: unknown key `timezone` in [run]; it belongs above the first [table]",
    ),
    (
        "[run]\nmax_tme = \"5s\"",
        "2: unknown key `max_tme` in [run]; did you mean `max_time`?",
    ),
    ("run = 5", "1: `run` must be a table, not a whole number"),
    (
        "[type]\nx = 5",
        "2: `x` in [type] must be a table, not a whole number",
    ),
    ("[run]\n[run]", "2: duplicate key `run`: it stands twice"),
    (
        "[type.a]\nhandler = 1\n[type.a]",
        "3: duplicate key `a`: it stands twice",
    ),
    (
        "timezone = 5",
        "1: `timezone` must be a text in quotes, not a whole number",
    ),
    (
        "timezone = \"Europe/Amsterdm\"",
        "1: `timezone` is wrong: unknown time zone `Europe/Amsterdm`; did you mean \
         `Europe/Amsterdam`?",
    ),
    (
        "table_prefix = \"mw-\"",
        "1: `table_prefix` must be up to 24 ASCII letters, digits and `_`",
    ),
    (
        "state_dir = \"~/x\"",
        "1: `state_dir` must be a path written out: `~` is for shells",
    ),
    (
        "database = \"sqlite:\"",
        "1: `database` is wrong: what follows `sqlite:` must be a path",
    ),
    (
        "[run]\nbatch_size = 5000",
        "2: `batch_size` in [run] must be a whole number from 1 to 1000, not 5000",
    ),
    (
        "[run]\nbatch_size = \"5\"",
        "2: `batch_size` in [run] must be a whole number from 1 to 1000, not a text",
    ),
    (
        "[run]\nbatch_size = -1",
        "2: `batch_size` in [run] must be a whole number from 1 to 1000, not -1",
    ),
    (
        "[run]\nbatch_size = 99999999999999999999",
        "2: `batch_size` in [run] must be a whole number from 1 to 1000, not 99999999999999999999",
    ),
    (
        "[run]\nmax_time = 50",
        "2: `max_time` in [run] must be a duration in quotes, such as \"50s\" or \"1h 30m\", not a \
         whole number",
    ),
    (
        "[run]\nmax_time = \"50\"",
        "2: `max_time` in [run] is wrong: `50` is no duration: a unit is missing; write for \
         example 50s, 1h 30m or 30d",
    ),
    (
        "[run]\nlease_ttl = \"5s\"",
        "2: `lease_ttl` in [run] must be 6s or longer",
    ),
    (
        "[run]\npoll = \"99ms\"",
        "2: `poll` in [run] must be 100ms or longer",
    ),
    (
        "[run]\npoll = \"16s\"",
        "2: `poll` in [run] must be at most 15s",
    ),
    (
        "[run]\nlinger = \"0s\"",
        "2: `linger` in [run] must be 1s or longer",
    ),
    (
        "[run]\nallow_network_fs = \"no\"",
        "2: `allow_network_fs` in [run] must be true or false, not a text",
    ),
    (
        "[run]\nping = \"ftp://h/\"",
        "2: `ping` in [run] must start with http:// or https://",
    ),
    (
        "[run]\nping = \"https://u:hush@h/\"",
        "2: `ping` in [run] must not hold a user or a password; use an address with a token in \
         its path",
    ),
    (
        "[type.t]\nweight = 1",
        "1: [type.t] has no `handler`: write handler = \"command\", \"http\", \"sql\" or \
         \"mediawiki-job\"",
    ),
    (
        "[type.t]\nhandlr = \"sql\"",
        "2: unknown key `handlr` in [type.t]; did you mean `handler`?",
    ),
    (
        "[type.t]\nhandler = \"comand\"",
        "2: `handler` in [type.t] must be \"command\" or \"http\" or \"sql\" or \
         \"mediawiki-job\"; did you mean `command`?",
    ),
    (
        "[type.t]\nhandler = \"mediawiki-job\"\ntimeout = \"5s\"",
        "3: `timeout` in [type.t] does not apply to handler = \"mediawiki-job\"; it runs within the \
         run's own transaction; leave it out",
    ),
    (
        "[type.t]\nhandler = \"sql\"\nsql = \"SELECT 1\"\nqueues = {}",
        "4: `queues` in [type.t] does not apply to handler = \"sql\"; leave it out",
    ),
    (
        "[type.t]\nhandler = \"mediawiki-job\"\njob_table_prefix = \"a b\"",
        "3: `job_table_prefix` in [type.t] must be up to 24 ASCII letters, digits and `_`",
    ),
    (
        "[type.t]\nhandler = \"mediawiki-job\"\nqueues = { default = 1 }",
        "3: `default` in [type.t.queues] must be a text in quotes, not a whole number",
    ),
    (
        "[type.reminder]\nhandler = \"command\"\ncommand = [\"x\"]\nretrys = 3",
        "4: unknown key `retrys` in [type.reminder]; did you mean `retries`?",
    ),
    (
        "[type.t]\nhandler = \"sql\"\nsql = \"SELECT 1\"\ntimeout = \"5s\"",
        "4: `timeout` in [type.t] does not apply to handler = \"sql\" unless it says \
         `repeat_until_empty`; it runs within the run's own transaction; leave it out",
    ),
    (
        "[type.t]\nhandler = \"sql\"\nsql = \"SELECT 1\"\nat_most_once = true",
        "4: `at_most_once` in [type.t] does not apply to handler = \"sql\"; it is exactly once \
         already; leave it out",
    ),
    (
        "[type.t]\nhandler = \"http\"\nurl = \"http://h/\"\ncommand = [\"x\"]",
        "4: `command` in [type.t] does not apply to handler = \"http\"; leave it out",
    ),
    (
        "[type.t]\nhandler = \"command\"",
        "1: [type.t] has no `command`: write command = [\"php\", \"maintenance/send.php\"]",
    ),
    (
        "[type.t]\nhandler = \"command\"\ncommand = []",
        "3: `command` in [type.t] must name a program: command = [\"php\", \
         \"maintenance/send.php\"]",
    ),
    (
        "[type.t]\nhandler = \"command\"\ncommand = [\"\", \"x\"]",
        "3: `command` in [type.t] must name a program: command = [\"php\", \
         \"maintenance/send.php\"]",
    ),
    (
        "[type.t]\nhandler = \"command\"\ncommand = \"php x.php\"",
        "3: `command` in [type.t] must be a list, not one text: command = [\"php\", \
         \"maintenance/send.php\"]",
    ),
    (
        "[type.t]\nhandler = \"command\"\ncommand = [\n\"php\",\n5]",
        "5: `command` in [type.t] must hold texts in quotes only, not a whole number",
    ),
    (
        "[type.t]\nhandler = \"command\"\ncommand = [\"x\"]\nmode = \"batch\"\nat_most_once = true",
        "5: `at_most_once` in [type.t] does not go with mode = \"batch\": a process that dies \
         takes many events with it",
    ),
    (
        "[type.t]\nhandler = \"command\"\ncommand = [\"x\"]\nconcurrency = 65",
        "4: `concurrency` in [type.t] must be a whole number from 1 to 64, not 65",
    ),
    (
        "[type.t]\nhandler = \"command\"\ncommand = [\"x\"]\ntimeout = \"0s\"",
        "4: `timeout` in [type.t] must be 1ms or longer",
    ),
    (
        "[type.t]\nhandler = \"command\"\ncommand = [\"x\"]\nenv = { A = 1 }",
        "4: `A` in [type.t.env] must be a text in quotes, not a whole number",
    ),
    (
        "[type.t]\nhandler = \"command\"\ncommand = [\"x\"]\nenv = { \"A=B\" = \"hush\" }",
        "4: `A=B` in [type.t.env] is no environment variable: NAME = \"value\"",
    ),
    (
        "[type.t]\nhandler = \"command\"\ncommand = [\"x\"]\nbackoff = \"2h\"\n\
         backoff_max = \"1h\"",
        "5: `backoff_max` in [type.t] must not be shorter than `backoff` (2h)",
    ),
    (
        "[type.t]\nhandler = \"command\"\ncommand = [\"x\"]\nlate = \"skip\"",
        "4: `late` in [type.t] is \"skip\" without `max_late`: say from when on it is late",
    ),
    (
        "[type.t]\nhandler = \"http\"",
        "1: [type.t] has no `url`: write url = \"https://example.org/hook\"",
    ),
    (
        "[type.t]\nhandler = \"http\"\nurl = \"example.org\"",
        "3: `url` in [type.t] is no URL: relative URL without a base",
    ),
    (
        "[type.t]\nhandler = \"http\"\nurl = \"https://u:hush@h/\"",
        "3: `url` in [type.t] must not hold a user or a password; put them into `headers` as \
         Authorization",
    ),
    (
        "[type.t]\nhandler = \"http\"\nurl = \"http://h/\"\nmethod = \"post\"",
        "4: `method` in [type.t] must be \"POST\" or \"PUT\" or \"PATCH\" or \"DELETE\" or \
         \"GET\"; did you mean `POST`?",
    ),
    (
        "[type.t]\nhandler = \"http\"\nurl = \"http://h/\"\nexpect = [99]",
        "4: `expect` in [type.t] must be a whole number from 200 to 599, not 99",
    ),
    (
        "[type.t]\nhandler = \"http\"\nurl = \"http://h/\"\nexpect = []",
        "4: `expect` in [type.t] must not be empty",
    ),
    (
        "[type.t]\nhandler = \"http\"\nurl = \"http://h/\"\nheaders = { A = \"hush\\n\" }",
        "4: `A` in [type.t.headers] is no HTTP header: Name = \"value\", in one line",
    ),
    (
        "[type.t]\nhandler = \"sql\"",
        "1: [type.t] has no `sql`: write sql = [\"UPDATE … WHERE id = :p.id\"]",
    ),
    (
        "[type.t]\nhandler = \"sql\"\nsql = []",
        "3: `sql` in [type.t] must hold a statement: sql = [\"UPDATE … WHERE id = :p.id\"]",
    ),
    (
        "[type.t]\nhandler = \"sql\"\nsql = [\"SELECT 1\", \" \"]",
        "3: `sql` in [type.t] must not hold an empty statement",
    ),
    (
        "[type.t]\nhandler = \"sql\"\nsql = \"SELECT 1\"\nguard = \"\"",
        "4: `guard` in [type.t] must not hold an empty statement",
    ),
    (
        "[type.\"\"]\nhandler = \"sql\"",
        "1: `` in [type] is no type name: 1 to 64 bytes",
    ),
];

/// What stands below `[schedule.s]` and its `type`, and the message.
const MISTAKES_OF_SCHEDULES: &[(&str, &str)] = &[
    (
        "",
        "5: [schedule.s] has no rule: write `cron`, or `every` and `anchor`",
    ),
    (
        "cron = \"0 0 31 2 *\"",
        "7: `cron` in [schedule.s] is wrong: `0 0 31 2 *` never matches: no year has such a \
         day",
    ),
    (
        "every = \"6h\"",
        "7: `every` in [schedule.s] needs `anchor`: an instant that is one of the slots",
    ),
    (
        "anchor = \"now\"\nevery = \"6h\"",
        "7: `anchor` in [schedule.s] must be a fixed time, not `now`",
    ),
    (
        "every = \"1s\"\nanchor = 2026-01-01",
        "7: `every` in [schedule.s] comes 60 times a minute, more than the 5 of its type's \
         `rate`",
    ),
    (
        "cron = \"@daily\"\nevery = \"6h\"",
        "8: `every` in [schedule.s] does not go with `cron`",
    ),
    (
        "timezone = \"Europe/Amsterdm\"",
        "7: `timezone` in [schedule.s] is wrong: unknown time zone `Europe/Amsterdm`; did \
         you mean `Europe/Amsterdam`?",
    ),
    (
        "missed = \"al\"\ncron = \"@daily\"",
        "7: `missed` in [schedule.s] must be \"once\" or \"skip\" or \"all\"; did you mean \
         `all`?",
    ),
    (
        "missed_max = 5\ncron = \"@daily\"",
        "7: `missed_max` in [schedule.s] goes with missed = \"all\" only",
    ),
    (
        "cron = \"@daily\"\nstart = 2027-01-02\nend = 2027-01-01",
        "5: [schedule.s] has no slot at all between its `start` and its `end`",
    ),
    (
        "key = \"k\"",
        "7: unknown key `key` in [schedule.s]; each slot is an event of its own; see README.md",
    ),
    (
        "cron = \"@daily\"\npayload = { a = nan }",
        "8: `payload` in [schedule.s] holds a number that JSON cannot say",
    ),
];

#[test]
fn every_mistake_of_a_schedule_names_its_line_its_key_and_the_remedy() {
    let of = |schedule: &str| {
        let types = "[type.t]\nhandler = \"sql\"\nsql = \"SELECT 1\"\nrate = 5";
        Site::with(&format!("{types}\n[schedule.s]\n{schedule}")).refusal()
    };
    for (text, message) in MISTAKES_OF_SCHEDULES {
        let refusal = of(&format!("type = \"t\"\n{text}"));
        assert_eq!(refusal, format!("punctual.toml:{message}"), "{text}");
    }
    let unknown = of("type = \"u\"\ncron = \"@daily\"");
    let hint = "6: `type` in [schedule.s] names no [type.…] of this file; did you mean `t`?";
    assert_eq!(unknown, format!("punctual.toml:{hint}"));
    assert!(of("cron = \"@daily\"").ends_with("has no `type`: the type of its events"));
    let large = format!(
        "type = \"t\"\ncron = \"@daily\"\npayload = \"{}\"",
        "x".repeat(60_000)
    );
    assert!(of(&large).contains("is too large"));
}

#[test]
fn every_mistake_of_a_file_names_its_line_its_key_and_the_remedy() {
    for (text, message) in MISTAKES {
        let refusal = Site::with(text).load().unwrap_err();
        assert_eq!(
            refusal.to_string(),
            format!("punctual.toml:{message}"),
            "{text}"
        );
        assert!(matches!(refusal, ConfigError::Invalid(_)), "{text}");
        assert_eq!(refusal.exit() as u8, 78);
    }
    let long = format!("[type.{}]\nhandler = \"sql\"", "x".repeat(65));
    assert!(
        Site::with(&long)
            .refusal()
            .ends_with("is no type name: 1 to 64 bytes")
    );
}

#[test]
fn what_is_nested_or_long_without_end_is_refused_in_a_short_line() {
    for text in [
        "a = ".to_owned() + &"[".repeat(200_000),
        "a.".repeat(100_000) + "b = 1",
        "a".repeat(200_000) + " = 1",
        "run.batch_size = ".to_owned() + &"9".repeat(200_000),
    ] {
        let refusal = Site::with(&text).refusal();
        assert!(refusal.starts_with("punctual.toml:1: "), "{refusal}");
        assert!(refusal.len() < 300, "{refusal}");
    }
}

#[test]
fn what_is_no_toml_is_refused_with_its_line_and_without_its_text() {
    for text in [
        "\n\ndatabase = mysql://u:hush@h/d",
        "\n\ndatabase = \"mysql://u:hush@h/d",
        "\n\n[hush",
        "\n\nhush",
        "\n\n= \"hush\"",
        "\n\na = \"\\qhush\"",
    ] {
        let refusal = Site::with(text).refusal();
        assert!(refusal.starts_with("punctual.toml:3: "), "{refusal}");
        assert!(
            !refusal.contains("hush") && !refusal.contains('\n'),
            "{refusal}"
        );
    }
    let site = Site::new();
    fs::write(site.work("punctual.toml"), b"\n\xff\xfe").unwrap();
    assert!(
        site.refusal()
            .starts_with("punctual.toml:2: is no UTF-8 text"),
        "{}",
        site.refusal()
    );
}

/// Lines of a file, right and wrong, to be put together in any order.
fn line() -> impl Strategy<Value = String> {
    let word = "(handler|command|sql|url|retries|timeout|max_time|database|env|x|\"\")";
    let value = "(\"(command|http|sql|5s|none|sqlite:a|)\"|-?[0-9]{1,20}|true|\\[\"x\"\\]|\\[\\]|\
                 \\{ A = \"b\" \\}|1979-05-27|1\\.5|nan)";
    let setting = proptest::string::string_regex(&format!("{word} = {value}")).unwrap();
    prop_oneof![
        "\\[(run|type|type\\.[a-c]|type\\.\"\"|\\[type\\]|x)\\]",
        setting,
        ".*",
    ]
}

proptest! {
    #[test]
    fn no_file_makes_loading_panic(text in "(.|\n)*") {
        let _ = file::read("c", &text, Path::new("/srv"));
    }

    #[test]
    fn nothing_like_a_file_makes_loading_panic(
        lines in proptest::collection::vec(line(), 0..12),
    ) {
        let text = lines.join("\n");
        if let Err(error) = file::read("c", &text, Path::new("/srv")) {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
            prop_assert!(error.to_string().starts_with("c:"), "{}", error);
        }
    }
}
