//! The README keeps its word: its configurations load, its commands parse, its lists are complete.

use std::fs;
use std::process::Command;

use clap::{CommandFactory as _, Parser as _};
use punctual::cli::Cli;
use punctual::handler::mediawiki_job::Job;

use crate::plans::loaded;
use crate::support::process::Running;
use crate::support::site::Site;

fn readme() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    fs::read_to_string(path).expect("README.md")
}

/// The fenced blocks of one language.
pub(crate) fn blocks(language: &str) -> Vec<String> {
    let text = readme();
    let fence = format!("```{language}\n");
    let behind = text.split(&fence).skip(1);
    behind
        .filter_map(|rest| rest.split("\n```").next().map(str::to_owned))
        .collect()
}

#[test]
fn every_configuration_in_it_loads() {
    let configurations = blocks("toml");
    assert!(configurations.len() >= 5, "{}", configurations.len());
    for text in configurations {
        let site = Site::sqlite();
        let names_database = text.lines().any(|line| line.starts_with("database"));
        if names_database || text.contains("[run]") || text.starts_with('[') {
            let text = if names_database {
                text
            } else {
                format!("database = \"sqlite:a\"\n{text}")
            };
            site.write("punctual.toml", &text);
            loaded(&site);
        }
    }
}

#[test]
fn every_job_of_a_wiki_in_it_is_one() {
    let payloads = blocks("json");
    assert!(payloads.len() >= 2, "{payloads:?}");
    for payload in payloads {
        let job = Job::read(payload.as_bytes());
        assert_eq!(
            job.map(|job| job.cmd),
            Ok("refreshLinks".to_owned()),
            "{payload}"
        );
    }
}

#[test]
fn every_command_in_it_parses() {
    let mut parsed = 0;
    for block in blocks("sh").iter().chain(&blocks("crontab")) {
        for line in block.lines().filter(|line| line.contains("punctual ")) {
            let Some(words) = words_of(line) else {
                continue;
            };
            let cli = Cli::try_parse_from(&words);
            assert!(
                cli.is_ok(),
                "{line}: {}",
                cli.err().map(|e| e.to_string()).unwrap_or_default()
            );
            parsed += 1;
        }
    }
    assert!(parsed > 20, "{parsed}");
}

/// What the shell would make of the call of `punctual` in `line`, if there is one.
fn words_of(line: &str) -> Option<Vec<String>> {
    let line = line.replace("/home/me/bin/punctual", "punctual");
    let call = &line[line.find("punctual ")?..];
    let earlier = line[..line.len() - call.len()].trim_end();
    let starts_command = earlier.is_empty()
        || ["*", "&&", "|", ";", "$"]
            .iter()
            .any(|end| earlier.ends_with(end));
    if !starts_command {
        return None;
    }
    let script =
        format!("punctual() {{ printf '%s\\0' punctual \"$@\"; cat >/dev/null; }}; {call}");
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir("/")
        .output();
    let output = output.expect("a shell");
    let text = String::from_utf8(output.stdout).expect("the README is UTF-8");
    Some(text.split_terminator('\0').map(str::to_owned).collect())
}

#[test]
fn every_command_and_exit_code_stands_in_it() {
    let text = readme();
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        assert!(text.contains(&format!("`{name}")), "`{name}` is missing");
    }
    for code in [
        "0", "1", "2", "65", "69", "70", "74", "75", "77", "78", "128+n",
    ] {
        assert!(
            text.contains(&format!("| {code} |")),
            "exit code {code} is missing"
        );
    }
}

#[test]
fn every_key_of_the_configuration_stands_in_it() {
    let text = readme();
    let sample = punctual::config::sample("sqlite:events.db");
    let keys = sample.lines().filter_map(|line| {
        let (key, _) = line.trim_start_matches(['#', ' ']).split_once(" = ")?;
        key.chars()
            .all(|c| c.is_ascii_lowercase() || c == '_')
            .then_some(key.to_owned())
    });
    for key in keys {
        assert!(text.contains(&format!("`{key}")), "`{key}` is missing");
    }
}

#[test]
fn the_example_of_times_prints_what_it_says() {
    let site = Site::sqlite();
    site.config("[type.reminder]\nhandler = \"command\"\ncommand = [\"true\"]\n")
        .init();
    let (script, printed) = example("## Times");
    assert_eq!(shell(&site, &script), printed);
    let expiries = "SELECT expires_at FROM scheduled_events WHERE expires_at IS NOT NULL";
    // 15:00 of the same day, in UTC, but for a second.
    assert_eq!(site.query_i64(expiries), 1_922_453_999);
}

#[test]
fn the_example_of_lingering_prints_what_it_says() {
    let hello = blocks("toml")
        .into_iter()
        .find(|text| text.contains("[type.hello]"));
    let site = Site::sqlite();
    site.config(&hello.expect("the type")).init();
    let (script, printed) = example("## To the second");
    assert_eq!(shell(&site, &script), printed);
}

#[test]
fn the_example_of_a_backfill_prints_what_it_says_and_applies() {
    let digest = blocks("toml")
        .into_iter()
        .find(|text| text.contains("[schedule.digest]"));
    let site = Site::sqlite();
    site.config(&digest.expect("the schedule")).init();
    let (script, printed) = example("## Backfill");
    let said = shell(&site, &script);
    let (_, plan) = said.split_once("--plan ").expect("a plan");
    let plan = plan.split_whitespace().next().expect("a plan").to_owned();
    // But for when it is called, and so for the plan.
    let settled = |text: &str| {
        let lines = text.lines().map(|line| {
            let ends = ["; applied now", " of those before"];
            let end = ends.iter().find_map(|end| line.find(end));
            line[..end.unwrap_or(line.len())].replace(&plan, "PLAN")
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(settled(&said), settled(&printed));
    let text = readme();
    let (_, chapter) = text.split_once("\n## Backfill\n").expect("the chapter");
    let script = chapter.split("```sh\n").nth(2).expect("a second script");
    let script = script.split("```").next().expect("its end");
    let said = shell(&site, &script.replace("PLAN", &plan));
    assert!(said.starts_with("backfill 1 is written"), "{said}");
    assert!(said.contains("written     4 of 4"), "{said}");
    assert!(said.ends_with("cancelled 4 events\n"), "{said}");
}

/// What a chapter's first shell block says, and what the text block behind it says it prints.
fn example(chapter: &str) -> (String, String) {
    let text = readme();
    let (_, chapter) = text.split_once(&format!("\n{chapter}\n")).expect(chapter);
    let block = |text: &str, language: &str| {
        let (_, rest) = text
            .split_once(&format!("```{language}\n"))
            .expect(language);
        let (block, rest) = rest.split_once("```").expect("the end of the block");
        (block.to_owned(), rest.to_owned())
    };
    let (script, rest) = block(chapter, "sh");
    (script, block(&rest, "text").0)
}

/// What `script` prints, without blanks at the ends of lines.
fn shell(site: &Site, script: &str) -> String {
    let program = env!("CARGO_BIN_EXE_punctual");
    let script = format!("set -e\npunctual() {{ '{program}' \"$@\"; }}\n{script}");
    let output = site.command("sh").args(["-c", &script]).output();
    let output = output.expect("a shell");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

#[test]
fn the_source_it_shows_tells_a_day_before_a_membership_ends() {
    let chapter = "## Sources: events from your own tables";
    let text = readme();
    let (_, behind) = text.split_once(&format!("\n{chapter}\n")).expect(chapter);
    let block = |language: &str| {
        let (_, rest) = behind
            .split_once(&format!("```{language}\n"))
            .expect(language);
        rest.split_once("```").expect("the end of the block").0
    };
    let site = Site::sqlite();
    site.config(block("toml")).init().sql(block("sql"));
    let (script, printed) = example(chapter);
    assert_eq!(shell(&site, &script), printed);
    assert_eq!(shell(&site, &script), printed, "once and not again");
    // Longer by a day than it was, a minute before the notice: the next look moves it.
    let moved = "UPDATE membership SET ends = ends - 720000 + 86400 + 1800 WHERE id = 2";
    site.sql(moved)
        .sql("UPDATE event_next SET slot = 5")
        .punctual(["run"])
        .ok();
    assert_eq!(
        site.rows("SELECT unique_key, due_at = slot_at - 86400 FROM scheduled_events"),
        [["2", "1"]]
    );
}

#[test]
fn the_sweep_it_shows_does_what_it_says() {
    let text = readme();
    let (_, chapter) = text.split_once("### sql: sweeps").expect("a chapter");
    let block = |language: &str| {
        let (_, behind) = chapter
            .split_once(&format!("```{language}\n"))
            .expect("a block");
        let (block, _) = behind.split_once("\n```").expect("its end");
        block.to_owned()
    };
    let site = Site::sqlite();
    site.config(&block("toml")).init().sql(&block("sql"));
    let commands = block("sh");
    let lines: Vec<&str> = commands.lines().collect();
    let [add, run] = lines.as_slice() else {
        panic!("two commands: {lines:?}")
    };
    let call = |line: &str| {
        let words = words_of(line).expect("a call");
        let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
        command.args(&words[1..]);
        site.finish(Running::start(command, b"")).ok()
    };
    call(add);
    let ended = call(run).json();
    let (_, said) = run.split_once('#').expect("what it answers");
    for field in ["done", "waves"] {
        let value = format!("\"{field}\":{}", ended[field]);
        assert!(said.contains(&value), "{said}: {ended:?}");
    }
    let stay = site.query_i64("SELECT COUNT(*) FROM session WHERE id % 4 = 0");
    assert_eq!(stay, site.query_i64("SELECT COUNT(*) FROM session"));
    assert!(said.contains(&format!("{stay} stay")), "{said}: {stay}");
}
