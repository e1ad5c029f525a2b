//! What a person sees, as snapshots: help, tables, error lines. A change here is a change of the
//! face of the program: look at it before accepting it (`cargo insta review`).

use insta::assert_snapshot;

use crate::runs::now;
use crate::support::site::Site;

/// Everything that differs from run to run: instants, durations, paths, process ids, host names.
fn settled(site: &Site, text: &str) -> String {
    let directory = site.path("").display().to_string();
    let text = text.replace(directory.trim_end_matches('/'), "SITE");
    let host = punctual::lock::host_name();
    let text = text.replace(&format!(" {host} "), " HOST ");
    text.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

fn with_filters(check: impl FnOnce()) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_snapshot_path("snapshots");
    settings.add_filter(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", "YYYY-MM-DD hh:mm:ss");
    settings.add_filter(r"\b\d+ ?(ms|[ywdhms])( \d+[hms])?( ago)?\b", "DURATION");
    settings.add_filter(r"\b(process|pid) \d+", "$1 PID");
    settings.bind(check);
}

#[test]
fn help() {
    let site = Site::sqlite();
    let mut text = site.punctual(["--help"]).ok().stdout;
    for command in [
        "demo",
        "init",
        "run",
        "add",
        "import",
        "list",
        "show",
        "cancel",
        "retry",
        "resolve",
        "pause",
        "resume",
        "status",
        "check",
        "schedules",
        "schedules add",
        "schedules list",
        "schedules show",
        "schedules pause",
        "schedules resume",
        "schedules remove",
        "schedules next",
        "schedules lint",
        "sources",
        "sources list",
        "sources show",
        "backfill",
        "backfill slots",
        "backfill source",
        "backfill again",
        "backfill list",
        "backfill show",
        "prune",
        "completions",
        "man",
    ] {
        let shown = match command.split_once(' ') {
            Some((family, command)) => site.punctual([family, command, "--help"]),
            None => site.punctual([command, "--help"]),
        };
        let shown = shown.ok().stdout;
        text = format!("{text}\n$ punctual {command} --help\n{shown}");
    }
    insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "snapshots" }, {
        assert_snapshot!("help", settled(&site, &text));
    });
}

#[test]
fn tables() {
    let site = Site::sqlite();
    site.config(
        "timezone = \"UTC\"\n[type.reminder]\nhandler = \"command\"\ncommand = [\"true\"]\n\
         [type.unlock]\nhandler = \"sql\"\nsql = \"UPDATE article SET locked = 0\"\n\
         [type.broken]\nhandler = \"command\"\nretries = 0\n\
         command = [\"sh\", \"-c\", \"echo the mail server is away >&2; exit 3\"]\n",
    )
    .init();
    site.sql("CREATE TABLE article (locked INTEGER)");
    // Half a minute away from where it would be told in words of another length.
    let ghost = now() - 90 * 60 - 30;
    site.sql(&format!(
        "INSERT INTO scheduled_events (type, due_at, payload, unique_key, priority) VALUES \
         ('reminder', 1700000000, '{{\"user\":5}}', 'user-5', 0), \
         ('unlock', 1700000060, NULL, NULL, -2), \
         ('broken', 1700000120, 'a' || char(27) || '[31m red', NULL, 0), \
         ('ghost', {ghost}, NULL, NULL, 1), \
         ('reminder', 4000000000, 'in the year 2096', NULL, 0)",
    ));
    let mut text = String::new();
    let mut show = |shown: &str, ended: crate::support::process::Ended| {
        text = format!(
            "{text}$ punctual {shown}\n{}{}\n",
            ended.stdout, ended.stderr
        );
    };
    show("run --dry-run", site.punctual(["run", "--dry-run"]));
    show("list", site.punctual(["list"]));
    show("run", site.punctual(["run"]));
    show("list --history", site.punctual(["list", "--history"]));
    show("why 3", site.punctual(["why", "3"]));
    show("why 4", site.punctual(["why", "4"]));
    show("why 5", site.punctual(["why", "5"]));
    show("status", site.punctual(["status"]));
    show("check", site.punctual(["check"]));
    show("retry 3", site.punctual(["retry", "3"]));
    show("cancel 3", site.punctual(["cancel", "3"]));
    show("pause reminder", site.punctual(["pause", "reminder"]));
    show(
        "resolve 3 --as done",
        site.punctual(["resolve", "3", "--as", "done"]),
    );
    with_filters(|| assert_snapshot!("tables", settled(&site, &text)));
}

#[test]
fn errors() {
    let site = Site::sqlite();
    let mut text = String::new();
    let mut show = |shown: &str, ended: crate::support::process::Ended| {
        let (said, code) = (ended.stderr, ended.code);
        text = format!("{text}$ punctual {shown}\n{said}exit {code}\n\n");
    };
    show("run", site.punctual(["run"]));
    site.init();
    show("rum", site.punctual(["rum"]));
    show(
        "run --max-tine 5s",
        site.punctual(["run", "--max-tine", "5s"]),
    );
    show("add x --in 5", site.punctual(["add", "x", "--in", "5"]));
    show(
        "add x --at noon",
        site.punctual(["add", "x", "--at", "noon"]),
    );
    let fold = [
        "add",
        "x",
        "--at",
        "2026-10-25 02:30",
        "--tz",
        "Europe/Amsterdam",
    ];
    show(
        "add x --at '2026-10-25 02:30' --tz Europe/Amsterdam",
        site.punctual(fold),
    );
    show(
        "list --tz Europe/Amsterdm",
        site.punctual(["list", "--tz", "Europe/Amsterdm"]),
    );
    show("show 99", site.punctual(["show", "99"]));
    let password = ["list", "--database", "mysql://me:hunter2@localhost/db"];
    show(
        "list --database mysql://me:…@localhost/db",
        site.punctual(password),
    );
    site.config("[type.reminder]\nhandler = \"comand\"\n");
    show("run", site.punctual(["run"]));
    site.config("[type.reminder]\nhandler = \"command\"\ncommand = [\"true\"]\nretrys = 5\n");
    show("run", site.punctual(["run"]));
    site.config("[type.reminder]\nhandler = \"sql\"\nsql = \"DROP TABLE article\"\n");
    show("run", site.punctual(["run"]));
    site.config("[type.reminder]\nhandler = \"command\"\ncommand = [\"true\"]\n");
    show(
        "add remindre --in 5m",
        site.punctual(["add", "remindre", "--in", "5m"]),
    );
    assert!(!text.contains("hunter2"));
    with_filters(|| assert_snapshot!("errors", settled(&site, &text)));
}

#[test]
fn the_demo_shows_the_whole_job_and_leaves_nothing() {
    let site = Site::sqlite();
    let demo = site.punctual(["demo"]).ok().stdout;
    for line in [
        "$ punctual init",
        "$ punctual run --dry-run",
        "$ punctual run --json",
        "to ada: ",
    ] {
        assert!(demo.contains(line), "{line}: {demo}");
    }
    let directory = demo.lines().next().and_then(|line| line.rsplit(' ').next());
    assert!(!std::path::Path::new(directory.expect("a directory is named")).exists());
}
