//! What the figures were taken on: told at the top of the report.

use std::fs;
use std::process::Command;

/// `(what, value)`, as far as the machine tells.
pub(crate) fn facts() -> Vec<(String, String)> {
    let facts = [
        ("processor", processor()),
        ("memory", memory()),
        ("kernel", first_line("uname", &["-sr"])),
        ("file system", file_system()),
        (
            "punctual",
            first_line("git", &["describe", "--always", "--dirty"]),
        ),
        ("compiler", first_line("rustc", &["--version"])),
        ("MariaDB", first_line("mariadbd", &["--version"])),
        ("SQLite", rusqlite::version().to_owned() + ", compiled in"),
        ("wrk", first_line("wrk", &["--version"])),
    ];
    facts
        .into_iter()
        .map(|(what, value)| (what.to_owned(), value))
        .collect()
}

/// The load averages of the last 1, 5 and 15 minutes: what else the machine was doing.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Of the temporary directory, where all databases are.
fn file_system() -> String {
    let directory = std::env::temp_dir().display().to_string();
    first_line("df", &["--output=fstype", &directory])
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{}, {cores} cores", field("model name").unwrap_or_default())
}

fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = total
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0);
    format!("{} GiB", kib.div_ceil(1 << 20))
}

/// The first line, or of `df`, which has a heading, the second; empty where it does not run.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let line = lines.nth(usize::from(program == "df"));
    line.unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}
