//! The commented file that `init` writes.

/// A `punctual.toml` for `database_url`: every key with its default, and an example of each
/// handler and rule to uncomment. A password in the URL stands in it as it is: write the file 0600.
pub fn sample(database_url: &str) -> String {
    // A TOML value of a text is its text in quotes, whatever stands in it.
    let quoted = toml_text(database_url);
    format!("{HEAD}database = {quoted}\n{TAIL}")
}

fn toml_text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&code_point(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn code_point(c: char) -> String {
    format!("\\u{:04X}", u32::from(c))
}

const HEAD: &str = r"# punctual: what fires, and how. Relative paths start at this file's directory.
# Only its owner may write this file, because it holds commands.

# sqlite:PATH or mysql://user@host/database (?socket=…, ?tls=required|off, ?tls_ca=…).
# $PUNCTUAL_DATABASE wins over this. What a mysql URL leaves out comes from ~/.my.cnf.
";

const TAIL: &str = r#"# password_file = "punctual.password"   # mode 0600, the password alone
# table_prefix = ""                     # put before every table, as MediaWiki's $wgDBprefix
# timezone = "Europe/Amsterdam"         # for people, and for local times without a zone
# state_dir = "/var/lib/punctual"       # lock files; private to the user that runs it

[run]
max_time = "50s"                        # shorter than cron's interval; "none": no limit
# linger = "65s"                        # run --linger: cron's interval and 5s, instead of max_time
# poll = "1s"                           # run --linger: how often it looks for new rows
# max_events = 10000                    # attempts a run; no limit unless set
batch_size = 500                        # events of one type in a turn, up to 1000
history = "30d"                         # done, skipped, cancelled
history_failed = "1y"                   # dead and unknown
# history_rows = 1000000                # at most so many, the newest
# lease_ttl = "60s"                     # how long a dead run on another host blocks the next
# grace = "10s"                         # for handlers, when the run is told to stop
# ping = "https://example.org/ping/1"   # fetched after each run that ended well
# allow_network_fs = false              # a SQLite database on NFS or CIFS

# A type is what rows name; what it does stands here and nowhere else.
#
# [type.reminder]
# handler = "command"
# command = ["php", "maintenance/sendReminder.php"]   # no shell; the payload is on stdin
# mode = "each"                         # or "batch": one process gets many events
# timeout = "30s"                       # then TERM, after `grace` KILL
# grace = "5s"
# concurrency = 1                       # processes at once, up to 64
# at_most_once = false                  # true: never started again by itself
# # cwd = "."                           # this file's directory unless set
# # env = { LANG = "C.UTF-8" }          # set for the command
# # pass_env = ["SSH_AUTH_SOCK"]        # passed on from the run's own environment
# retries = 5                           # these and all below go with every handler
# backoff = "1m"                        # before the first retry; doubles up to:
# backoff_max = "6h"
# weight = 1                            # share of turns among types, up to 100
# # rate = 60                           # attempts a minute
# # max_late = "1h"                     # later than this is late
# late = "fire"                         # or "skip"
# # guard = "SELECT 1 FROM article WHERE id = :p.article"   # no row: skipped
# max_losses = 3                        # tries lost with a dying run that are forgiven
# max_deferrals = 100                   # "try later" answers (exit 75) that are accepted
# breaker = 10                          # failures in a row, then left alone; 0: never
# breaker_probe = "5m"
#
# [type.unlock]
# handler = "sql"                       # in one transaction with the record: exactly once
# sql = ["UPDATE article SET locked = 0 WHERE id = :p.article AND locked_until <= :now"]
#
# [type.purge]
# handler = "sql"
# repeat_until_empty = true             # pass after pass, until one changes no row
# sql = "DELETE FROM session WHERE rowid IN (SELECT rowid FROM session WHERE expires <= :now LIMIT 500)"
# chunk_pause = "0s"                    # between two passes
# # timeout = "10m"                     # the longest that it sweeps in one run
# # lag = "SELECT MAX(seconds) FROM replica_lag"   # behind by more than `max_lag`: no pass
# # max_lag = "5s"
#
# [type.wiki-job]
# handler = "mediawiki-job"             # a job for a wiki's own queue: exactly once
# # job_table_prefix = "mw_"            # `table_prefix` unless set
# # queues = { default = "JobQueueDB" } # as $wgJobTypeConf has the classes
# # job_database = "wiki"               # where the wiki keeps its jobs: must be `database`
#
# [type.hook]
# handler = "http"
# url = "https://example.org/hook"
# method = "POST"
# headers = { Authorization = "Bearer …" }
# # expect = [200, 202]                 # 200 to 299 unless set
# # ca_file = "ca.pem"                  # trusted beside the built-in authorities
# timeout = "30s"

# A schedule makes an event of each of its slots.
#
# [schedule.digest]
# type = "reminder"
# cron = "0 7 * * mon"
# timezone = "Europe/Amsterdam"         # the file's `timezone`, or UTC, unless set
# # payload = { list = "weekly" }       # a text as it is, anything else as its JSON
# priority = 0                          # -2 first … 2 last
# missed = "once"                       # one event for all slots that were missed; or "skip"
# # missed_window = "1d"                # slots longer ago are let go; with "skip" 10m
# # jitter = "5m"                       # each event later by the same, up to this
# # enabled = false
#
# [schedule.sync]
# type = "hook"
# every = "6h"                          # instead of `cron`, on from:
# anchor = "2026-12-01 03:00"
# missed = "all"                        # an event each, of the newest:
# missed_max = 100
# # start = "2026-12-01"                # no slots before
# # end = "2027-12-01"                  # nor after

# A source makes events of what is in the database already: of each row of its query, for when it
# comes to its end.
#
# [source.membership]
# type = "reminder"
# sql = "SELECT id AS `key`, ends AS due_at, user FROM membership WHERE ends >= :from AND ends < :until"
# lead = "1d"                           # fire so long before
# every = "5m"                          # how often it is looked at
# horizon = "1h"                        # how far ahead of what is due; at least `every`
# max_rows = 1000000                    # of one look: the earliest, the others later
# priority = 0
# # enabled = false
"#;
