//! The README keeps its word: its configurations load, its commands parse, its lists are complete.

use std::fs;
use std::process::Command;

use clap::{CommandFactory as _, Parser as _};
use punctual::cli::Cli;

use crate::plans::loaded;
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
