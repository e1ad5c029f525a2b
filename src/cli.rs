//! The command line as types (DESIGN §7). Reads nothing and decides nothing: times stay text until
//! a command knows the zone and the database's clock.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::event::Outcome;
use crate::schedule::{MOST_MISSED, Missed};
use crate::when::parse_duration;

pub mod backfill;

/// Everything on the command line.
#[derive(Debug, Parser)]
#[command(
    name = "punctual",
    version,
    about = "Fires events that are due from a database table; cron calls it",
    long_about = "punctual fires events that are due from the table scheduled_events. cron calls \
                  `punctual run` every minute; your site adds events with plain SQL or with \
                  `punctual add`. No two runs ever fire at once, and nothing is lost when one is \
                  killed.",
    after_help = EXIT_CODES,
    after_long_help = EXAMPLES,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the words of a command line, the program's name first.
    ///
    /// # Errors
    /// What clap has to say: help, a version, a mistake.
    pub fn of_words(words: &[OsString]) -> Result<Self, clap::Error> {
        if let Some(tick) = Self::of_crontab(words.get(1..).unwrap_or_default()) {
            return Ok(tick);
        }
        Self::try_parse_from(words)
    }

    /// `run` as crontabs have it, with where to look at the most. clap's definitions of all the
    /// commands are a quarter of what an idle tick has to do, and cron starts 1,440 of them a day.
    /// Whatever is not exactly this is `None`, for clap to read and to explain.
    fn of_crontab(words: &[OsString]) -> Option<Self> {
        let mut global = Global::default();
        let mut is_run = false;
        let mut words = words.iter().map(|word| word.to_str());
        while let Some(word) = words.next() {
            match word? {
                "run" if !is_run => is_run = true,
                option @ ("--config" | "--database") => {
                    let value = words.next()??;
                    // It may be an option whose value was forgotten; and nothing is given twice.
                    let is_plain = !value.is_empty() && !value.starts_with('-');
                    let taken = match option {
                        "--config" => global.config.replace(value.into()).is_some(),
                        _ => global.database.replace(value.to_owned()).is_some(),
                    };
                    if taken || !is_plain {
                        return None;
                    }
                }
                "--quiet" | "-q" if !global.quiet => global.quiet = true,
                "--json" if !global.json => global.json = true,
                _ => return None,
            }
        }
        let command = Command::Run(RunArgs::default());
        is_run.then_some(Self { global, command })
    }
}

const EXIT_CODES: &str = "\
Exit codes: 0 well, also when another run is at work · 1 an event went dead or unknown in this run \
· 2 usage · 65 bad input data · 69 database unavailable or lost · 70 a bug · 74 I/O · 75 try again \
later · 77 permission · 78 configuration · 128+n signal n. `check`: 0 OK, 1 WARNING, 2 CRITICAL, \
3 UNKNOWN.";

const EXAMPLES: &str = "\
Start here:
  punctual demo                         the whole job in a throw-away database
  punctual init                         writes punctual.toml, creates the tables
  * * * * * punctual --config /srv/site/punctual.toml run      (the crontab line)

Events, from anything that speaks SQL, or by hand:
  INSERT INTO scheduled_events (type, due_at, payload)
    VALUES ('reminder', UNIX_TIMESTAMP() + 86400, '{\"user\":5}');
  punctual add reminder --in 30d --payload '{\"article\":7}' --key article-7

Times: now, 2026-11-22 09:15 (in --tz), 2026-11-22T09:15:00+01:00, @1795335300 (Unix seconds) or
20261122081500 (MediaWiki, UTC). Durations: 50s, 1h 30m, 30d.

Files: --config, $PUNCTUAL_CONFIG, ./punctual.toml, $XDG_CONFIG_HOME/punctual/punctual.toml,
/etc/punctual.toml. $PUNCTUAL_DATABASE, $PUNCTUAL_TABLE_PREFIX, $PUNCTUAL_TIMEZONE and
$PUNCTUAL_STATE_DIR win over the file; flags win over both.

Exit codes:
    0  well, also when another run is at work (run --fail-if-locked: 75)
    1  an event went dead or unknown in this run
    2  usage
   65  bad input data
   69  database unavailable or lost
   70  a bug
   74  reading or writing failed, or the disk is full
   75  try again later
   77  a right is missing
   78  configuration, or a missing or newer schema
128+n  ended by signal n
check: 0 OK, 1 WARNING, 2 CRITICAL (also: database down), 3 UNKNOWN (also: its own misuse).";

/// Options of every command, before or after its name.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// The configuration file
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        help_heading = "Global options"
    )]
    pub config: Option<PathBuf>,
    /// The database: `sqlite:PATH` or `mysql://user@host/db`; a password in it is refused, for
    /// `ps` shows it
    #[arg(
        long,
        value_name = "URL",
        global = true,
        help_heading = "Global options"
    )]
    pub database: Option<String>,
    /// Print JSON for programs
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// The zone of times without one, and of times shown (default: `timezone` of the
    /// configuration)
    #[arg(
        long,
        value_name = "ZONE",
        global = true,
        help_heading = "Global options"
    )]
    pub tz: Option<String>,
    /// Say more on stderr: -v what is done, -vv how, -vvv everything
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = "Global options")]
    pub verbose: u8,
    /// No log lines and no progress bar; what ends the command is still said
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    #[arg(help_heading = "Global options")]
    pub quiet: bool,
    /// Use a configuration that others could have written (a development box)
    #[arg(long, global = true, help_heading = "Global options")]
    pub allow_unsafe_config: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole job in a throw-away SQLite database
    ///
    /// Creates the tables, adds events, lists what a run would start, runs, and prints the state,
    /// naming the command that each step stands for. Nothing of yours is touched.
    Demo,
    /// Write a commented punctual.toml if there is none, create or upgrade the tables
    Init(InitArgs),
    /// Fire what is due (cron calls this)
    Run(RunArgs),
    /// Add one event and print its id
    Add(AddArgs),
    /// Add many events: JSON lines on stdin
    Import(ImportArgs),
    /// List live events, or finished ones with --history
    List(ListArgs),
    /// Show one event with its whole trail, and why it has (not) fired
    #[command(visible_alias = "why", after_help = "Examples:\n  punctual why 1234")]
    Show(ShowArgs),
    /// Cancel events that are not running
    #[command(after_help = "Examples:
  punctual cancel 12 13
  punctual cancel --type reminder --from 2026-12-24 --to 2026-12-26
  punctual cancel --origin backfill:7
  punctual cancel --all

With --origin backfill:ID alone, the backfill is ended too: what is not written yet will not be.
Running events are left alone. What was cancelled stays in history.")]
    Cancel(PickArgs),
    /// Put finished events that did not succeed back, due now
    #[command(after_help = "Examples:
  punctual retry 12
  punctual retry --type reminder --all

By id: dead, unknown, skipped and cancelled events, and ready ones that wait for their next
attempt. By --type, --from, --to, --origin or --all: dead and unknown ones that nobody resolved. The
id, the payload and the key stay; the counts start anew.")]
    Retry(PickArgs),
    /// Mark dead and unknown events as dealt with
    Resolve(ResolveArgs),
    /// Leave a type alone until it is resumed, or until a time
    #[command(after_help = "Examples:
  punctual pause reminder
  punctual pause reminder --until '2026-12-01 08:00'")]
    Pause(PauseArgs),
    /// Let a paused type fire again
    #[command(after_help = "Examples:\n  punctual resume reminder")]
    Resume(ResumeArgs),
    /// Show the backlog, what is running and by whom, the last runs
    #[command(after_help = "Examples:\n  punctual status\n  punctual status --json")]
    Status,
    /// Check as a monitoring plugin: one line, exit 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN
    Check(CheckArgs),
    /// What happens again and again, and when
    Schedules(SchedulesArgs),
    /// Events derived from rows of a site's own tables, and how far it was looked
    Sources(SourcesArgs),
    /// Create work of the past by hand: a plan first, then the events
    Backfill(backfill::BackfillArgs),
    /// Remove old history now, instead of bit by bit after each run
    Prune(PruneArgs),
    /// Print completions for a shell
    #[command(after_help = "Examples:
  punctual completions bash > ~/.local/share/bash-completion/completions/punctual")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    #[command(after_help = "Examples:\n  punctual man | man -l -")]
    Man,
}

/// `init`.
#[derive(Debug, Default, Args)]
#[command(after_help = "Examples:
  punctual init                                       punctual.toml and events.db, here
  punctual init --database mysql://wiki@localhost/wiki
  punctual init --print-sql                           the tables, to be made by hand

May be repeated at any time; exits 75 while a run is at work.")]
pub struct InitArgs {
    /// Print the statements that create the tables, and do nothing
    #[arg(long, conflicts_with = "adopt")]
    pub print_sql: bool,
    /// Take over a database that was copied from another: from now on it fires by itself
    #[arg(long)]
    pub adopt: bool,
}

/// `run`.
#[derive(Debug, Clone, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag by itself")]
#[command(after_help = "Examples:
  * * * * * punctual --config /srv/site/punctual.toml run
  * * * * * punctual --config /srv/site/punctual.toml run --linger
  punctual run --dry-run --due-before '2026-12-24 18:00'
  punctual run --max-time 2h --type reminder

Says nothing when all is well. When another run is at work it steps aside: exit 0, silently. With
--linger it waits for the other to end, and lasts as long as `linger` of the configuration says. With
--json one object: run_id, epoch, started_at, cutoff, finished_at, stop, fired, done, retried,
deferred, dead, skipped, unknown, withdrawn, recovered, released, waves, remaining_due, types.")]
pub struct RunArgs {
    /// List what a run would start, in order; locks nothing, writes nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Start nothing after this long (by hand: 2h; 0s: no limit)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub max_time: Option<Duration>,
    /// Stay for 65s, or --max-time, and fire in its very second what becomes due meanwhile
    #[arg(long, conflicts_with_all = ["dry_run", "due_before"])]
    pub linger: bool,
    /// Start at most this many attempts
    #[arg(long, value_name = "N")]
    pub max_events: Option<u64>,
    /// At most this many events of one type in a turn
    #[arg(long, value_name = "N", value_parser = batch_size)]
    pub batch_size: Option<usize>,
    /// Only these types; may be repeated
    #[arg(long = "type", value_name = "TYPE", num_args = 1..)]
    pub types: Vec<String>,
    /// Only what is due before this time; in the future with --dry-run only
    #[arg(long, value_name = "TIME")]
    pub due_before: Option<String>,
    /// Exit 75 when another run is at work
    #[arg(long)]
    pub fail_if_locked: bool,
    /// Use a SQLite database on a network file system, from this one host only
    #[arg(long)]
    pub allow_network_fs: bool,
}

/// `add`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("when").required(true).args(["at", "in"]), after_help = "Examples:
  punctual add reminder --in 30d --payload '{\"article\":7}'
  punctual add unlock --at '2026-12-01 08:00' --tz Europe/Amsterdam --key article-7
  punctual add reminder --at 'monday 09:00' --expires 'monday end'
  punctual add overdue --at '2026-12-01 end' --tz Asia/Tokyo
  punctual add digest --in 5m --key digest --if-exists latest
  generate | punctual add report --at now --payload-file -

A time, in the zone of --tz: now; 2026-12-01, today, tomorrow or a day of the week (the next one at
which that time is still ahead), alone for the beginning of that day, or with a time (monday 09:00)
or with the word end for its last second (2026-12-01 end). Or a time in a zone of its own:
2026-12-01T08:00:00+01:00, @1795335300 (Unix seconds), 20261201070000 (UTC).

Prints the id; with --json: id, type, due_at, created (false: an existing event was kept).")]
pub struct AddArgs {
    /// The type: [type.TYPE] of the configuration says what it does
    #[arg(value_name = "TYPE")]
    pub type_name: String,
    /// Not before this time
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Not before this long from now
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub r#in: Option<Duration>,
    /// What the handler gets, untouched; up to 1 MiB
    #[arg(long, value_name = "TEXT", conflicts_with = "payload_file")]
    #[arg(allow_hyphen_values = true)]
    pub payload: Option<OsString>,
    /// The payload from a file; `-` for stdin
    #[arg(long, value_name = "FILE")]
    pub payload_file: Option<PathBuf>,
    /// At most one ready event of the type has this key
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// If a ready event has the key: keep it, replace it, or keep of the two the one that is due
    /// earliest or latest
    #[arg(long, value_enum, default_value = "keep", requires = "key")]
    pub if_exists: IfExists,
    /// Do not fire it for the first time, or again, after this time
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    /// -2 first … 2 last
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    #[arg(value_parser = clap::value_parser!(i8).range(-2..=2))]
    pub priority: i8,
    /// Add it though the configuration has no such type; it waits until it has
    #[arg(long)]
    pub allow_unknown_type: bool,
}

/// `--if-exists`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IfExists {
    /// Keep the existing event
    Keep,
    /// Cancel it and add the new one
    Replace,
    /// Keep the one that is due earliest
    Earliest,
    /// Keep the one that is due latest
    Latest,
}

/// `import`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  punctual import < events.jsonl
  punctual import --from-line 1001 < events.jsonl

One JSON object a line: type; at, in or due_at (Unix seconds); and if wanted payload (a string is
stored as it is, anything else as its JSON), payload_base64, key, priority, expires. Lines go in by
chunks of 500, or of as many more as 50 ms are enough for; where a line is wrong, nothing of its
chunk is in, and the message says where to go on. A line whose key a ready event has is counted as kept.")]
pub struct ImportArgs {
    /// Begin with this line, counting from 1
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub from_line: u64,
    /// Add events of types that the configuration does not have; they wait until it has
    #[arg(long)]
    pub allow_unknown_type: bool,
}

/// `list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  punctual list --due
  punctual list --type reminder --from now --to '2026-12-31'
  punctual list --history --outcome dead --json

--json prints one object a line: id, type, due_at, status, priority, attempts, losses, key, payload
(payload_base64 where it is no UTF-8); with --history also outcome, finished_at, error.")]
pub struct ListArgs {
    /// Only what is ready and due now
    #[arg(long, conflicts_with = "history")]
    pub due: bool,
    /// Only events in this state
    #[arg(long, value_name = "STATUS", conflicts_with = "history")]
    #[arg(value_parser = PossibleValuesParser::new(["ready", "running"]))]
    pub status: Option<String>,
    /// Only this type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// Only what is due at this time or later
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Only what is due at this time or earlier
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Only what is from there: backfill:ID, schedule:NAME or source:NAME
    #[arg(long, value_name = "ORIGIN", value_parser = backfill::origin)]
    pub origin: Option<String>,
    /// At most this many (default: 100 for people, all with --json)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Finished events instead, the newest first
    #[arg(long)]
    pub history: bool,
    /// Only those that ended so
    #[arg(long, requires = "history", value_parser = outcome_words())]
    pub outcome: Option<String>,
}

/// `show`, `why`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The event
    pub id: i64,
}

/// Which events a command by hand is about.
#[derive(Debug, Clone, Default, Args)]
pub struct PickArgs {
    /// These events
    #[arg(value_name = "ID", conflicts_with_all = ["types", "from", "to", "origin", "all"])]
    #[arg(required_unless_present_any = ["types", "from", "to", "origin", "all"])]
    pub ids: Vec<i64>,
    /// All of this type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// All that are due at this time or later
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// All that are due at this time or earlier
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// All that are from there: backfill:ID, schedule:NAME or source:NAME
    #[arg(long, value_name = "ORIGIN", value_parser = backfill::origin)]
    pub origin: Option<String>,
    /// All; with other filters, all that fit them
    #[arg(long)]
    pub all: bool,
}

/// `resolve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  punctual resolve 12 --as done
  punctual resolve --type reminder --all --as dead

Events that nobody resolved or retried are counted by `status` and make `check` warn.")]
pub struct ResolveArgs {
    /// Which.
    #[command(flatten)]
    pub pick: PickArgs,
    /// How they ended after all
    #[arg(long = "as", value_name = "OUTCOME")]
    #[arg(value_parser = PossibleValuesParser::new(["done", "dead"]))]
    pub outcome: String,
}

/// `pause`.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// The type
    #[arg(value_name = "TYPE")]
    pub type_name: String,
    /// Until this time (default: until it is resumed)
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// `resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// The type
    #[arg(value_name = "TYPE")]
    pub type_name: String,
}

/// `check`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  punctual check --warn-lag 10m --crit-lag 2h

Lag is the age of the oldest due event of a type that has a handler and is not paused. WARNING
also for: unresolved dead or unknown events, due events without a handler, rows whose due_at or
priority is out of range, an open breaker, a schedule whose last slot lies more than a day ahead, a
source whose query fails, no tick for --warn-lag and ten minutes. CRITICAL also for a database that
cannot be used; UNKNOWN for a wrong command line or configuration.

--json prints one object: level, code, message, lag_s, due, unresolved_dead, unresolved_unknown.")]
pub struct CheckArgs {
    /// WARNING from this lag on
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub warn_lag: Duration,
    /// CRITICAL from this lag on
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub crit_lag: Duration,
}

/// `schedules`.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct SchedulesArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: SchedulesCommand,
}

/// What `schedules` does.
#[derive(Debug, Subcommand)]
pub enum SchedulesCommand {
    /// Add a schedule that lives in the database
    Add(Box<ScheduleArgs>),
    /// List all schedules, of the configuration and of the database
    #[command(after_help = "\
--json prints one object a line: name, from (config or database), the rule and what else is stated,
next_slot, last_slot (slots up to it are dealt with; null: no run has seen it yet), paused_until.")]
    List,
    /// Show one schedule, the events it made last, and its next slots
    Show(ScheduleName),
    /// Let slots go by until it is resumed, or until a time
    #[command(after_help = "Examples:
  punctual schedules pause digest
  punctual schedules pause digest --until '2027-01-04 00:00'

What came while it was paused is not made up for.")]
    Pause(SchedulePauseArgs),
    /// Let a paused schedule go on, from now; also one whose clock had been ahead
    Resume(ScheduleName),
    /// Remove a schedule of the database; the events it made stay
    Remove(ScheduleName),
    /// Print the next slots of a schedule, or of a rule without a database
    Next(NextArgs),
    /// Look five years ahead: times that clocks skip or repeat, collisions, the busiest minutes
    #[command(after_help = "\
--json prints one object a line: kind (change, silent, collision, busy) and what it is about.")]
    Lint,
}

/// `sources`.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct SourcesArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: SourcesCommand,
}

/// What `sources` does.
#[derive(Debug, Subcommand)]
pub enum SourcesCommand {
    /// List all sources, and when each is looked at next
    #[command(after_help = "\
--json prints one object a line: name, what is stated, watermark (expiries before it have been
looked at for the last time), window_end, scan_began (of a scan that the next run goes on with),
looked_at, next_look, rows, made, moved, missed, error, remark.")]
    List,
    /// Show one source, and the first events that it would derive now
    #[command(after_help = "\
--json prints one object: what `sources list --json` prints, and would_derive: a list of key,
expires_at, due_at and payload; or an object with the error of its query.")]
    Show(SourceName),
}

/// Which source.
#[derive(Debug, Args)]
pub struct SourceName {
    /// The source
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// Which schedule.
#[derive(Debug, Args)]
pub struct ScheduleName {
    /// The schedule
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `schedules pause`.
#[derive(Debug, Args)]
pub struct SchedulePauseArgs {
    /// The schedule
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Until this time (default: until it is resumed)
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// `schedules add`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("rule").required(true).args(["cron", "every"]),
    after_help = "Examples:
  punctual schedules add digest --cron '0 7 * * mon' --tz Europe/Amsterdam --type digest
  punctual schedules add sync --every 6h --anchor '2027-01-01 03:00' --type sync --missed skip

The first slot is the next one from now. [schedule.NAME] of the configuration says the same."
)]
pub struct ScheduleArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// At the times of a cron expression, on the clocks of --tz
    #[arg(long, value_name = "EXPR", allow_hyphen_values = true)]
    pub cron: Option<String>,
    /// At instants this far apart
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "anchor")]
    pub every: Option<Duration>,
    /// One of the slots of --every
    #[arg(long, value_name = "TIME", conflicts_with = "cron")]
    pub anchor: Option<String>,
    /// The type of its events
    #[arg(long = "type", value_name = "TYPE")]
    pub type_name: String,
    /// What the handler gets
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub payload: Option<String>,
    /// -2 first … 2 last
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    #[arg(value_parser = clap::value_parser!(i8).range(-2..=2))]
    pub priority: i8,
    /// What becomes of slots at which no run came: one event for all of them, only the last one
    /// within the window, or an event each
    #[arg(long, value_name = "POLICY", default_value = "once")]
    #[arg(value_parser = PossibleValuesParser::new(Missed::WORDS))]
    pub missed: String,
    /// With --missed all: at most so many events, of the newest slots
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_MISSED)))]
    pub missed_max: Option<u32>,
    /// Slots longer ago than this are let go (default: 10m with --missed skip)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub missed_window: Option<Duration>,
    /// No slot before this time
    #[arg(long, value_name = "TIME")]
    pub start: Option<String>,
    /// No slot after this time
    #[arg(long, value_name = "TIME")]
    pub end: Option<String>,
    /// Delay its events by up to this long, each by the same
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub jitter: Option<Duration>,
    /// Add it though the configuration has no such type; its events wait until it has
    #[arg(long)]
    pub allow_unknown_type: bool,
}

/// `schedules next`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("rule").required(true).args(["name", "cron", "every"]),
    after_help = "Examples:
  punctual schedules next digest
  punctual schedules next --cron '0 9 * * mon-fri' --tz Europe/Amsterdam
  punctual schedules next --cron '30 2 L * *' --after 2027-01-01 --count 3 --json
  punctual schedules next --every 6h --anchor '2026-11-22 03:00'

Cron: minute, hour, day of month, month, day of week, in the clocks of --tz. Numbers, names (jan, \
mon), ranges (9-17), lists (1,15), steps (*/5, 10-40/10); days of a month also L (the last), LW (the \
last Monday to Friday), 15W (the Monday to Friday nearest to the 15th), days of a week also friL (the \
last), fri#2 (the second). A day must fit one of its two fields, or both where one of them begins \
with *. Or @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually.

Where clocks are changed: a rule with one minute and one hour comes once a day, after the gap if its \
time does not exist, the first time if it exists twice. Any other follows the clocks.

--json prints one object a line: slot (Unix seconds)."
)]
pub struct NextArgs {
    /// The slots of this schedule
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// The slots of a cron expression
    #[arg(long, value_name = "EXPR", allow_hyphen_values = true)]
    pub cron: Option<String>,
    /// The slots that lie this far apart
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "anchor")]
    pub every: Option<Duration>,
    /// One of the slots of --every; they go on from it, and back
    #[arg(long, value_name = "TIME", conflicts_with = "cron")]
    pub anchor: Option<String>,
    /// Only slots later than this time (default: now)
    #[arg(long, value_name = "TIME")]
    pub after: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
}

/// `prune`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  punctual prune
  punctual prune --older-than 7d

Dead and unknown events that nobody resolved stay for history_failed in any case.")]
pub struct PruneArgs {
    /// Instead of `history` of the configuration
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub older_than: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

fn batch_size(text: &str) -> Result<usize, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=1000).contains(number));
    number.ok_or_else(|| "must be 1 to 1000".to_owned())
}

fn outcome_words() -> PossibleValuesParser {
    PossibleValuesParser::new(Outcome::ALL.map(Outcome::as_str))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn refused(words: &[&str]) -> bool {
        let words = ["punctual"].iter().chain(words);
        Cli::try_parse_from(words).is_err()
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    /// Also what is refused is refused alike: with the same words, in the same place.
    #[test]
    fn a_run_is_read_as_any_other_command_is() {
        let read = |words: &[OsString], by: fn(&[OsString]) -> Result<Cli, clap::Error>| {
            let read = by(words).map(|cli| format!("{cli:?}"));
            read.map_err(|error| error.render().to_string())
        };
        for line in [
            "run",
            "run --config a.toml",
            "--config a.toml --database sqlite:a.db run --json -q",
            "--database=sqlite:a.db run",
            "run --config a --config b",
            "run --config",
            "run --config --json",
            "run --config -",
            "run --json --json",
            "run -qq",
            "run -- --json",
            "-- run",
            "-vv run --json",
            "run -q --tz UTC --config a.toml",
            "--config run run --max-time 2h --max-events 5 --batch-size 7",
            "--database sqlite:run list",
            "run --type a b --type c --due-before now --fail-if-locked --allow-network-fs",
            "run --dry-run --allow-unsafe-config",
            "run --type run",
            "add run --in 5m",
            "add run",
            "run run",
            "run list",
            "run --nope",
            "run --batch-size 0",
            "run -q -v",
            "run --help",
            "run -h",
            "run --version",
            "-V run",
            "--help run",
            "help run",
            "",
        ] {
            let words = ["punctual"].into_iter().chain(line.split_whitespace());
            let words: Vec<OsString> = words.map(OsString::from).collect();
            let whole = read(&words, |words| Cli::try_parse_from(words));
            assert_eq!(read(&words, Cli::of_words), whole, "{line}");
        }
    }

    #[test]
    fn global_options_may_stand_behind_the_command() {
        let cli = Cli::try_parse_from(["punctual", "status", "--json", "-vv"]).unwrap();
        assert!(cli.global.json);
        assert_eq!(cli.global.verbose, 2);
    }

    #[test]
    fn add_wants_exactly_one_time() {
        assert!(refused(&["add", "a"]));
        assert!(refused(&["add", "a", "--at", "now", "--in", "5m"]));
        assert!(!refused(&["add", "a", "--in", "5m", "--priority", "-2"]));
        assert!(!refused(&["add", "a", "--in", "5m", "--payload", "-1"]));
        assert!(refused(&["add", "a", "--in", "5m", "--priority", "3"]));
    }

    #[test]
    fn if_exists_needs_a_key() {
        assert!(refused(&[
            "add",
            "a",
            "--in",
            "5m",
            "--if-exists",
            "latest"
        ]));
        assert!(!refused(&[
            "add",
            "a",
            "--in",
            "5m",
            "--key",
            "k",
            "--if-exists",
            "latest"
        ]));
    }

    #[test]
    fn slots_are_those_of_one_rule() {
        let next = |words: &[&str]| refused(&[&["schedules", "next"], words].concat());
        assert!(next(&[]));
        assert!(next(&["--every", "6h"]));
        assert!(next(&["--cron", "@daily", "--anchor", "now"]));
        assert!(next(&[
            "--cron", "@daily", "--every", "6h", "--anchor", "now"
        ]));
        assert!(next(&["--cron", "@daily", "--count", "0"]));
        assert!(!next(&["--cron", "-1 * * * *"]));
        assert!(!next(&["--every", "6h", "--anchor", "now"]));
        assert!(refused(&["schedules"]));
    }

    #[test]
    fn events_are_picked_by_id_or_by_filter_and_never_by_accident() {
        assert!(refused(&["cancel"]));
        assert!(refused(&["cancel", "1", "--all"]));
        assert!(!refused(&["cancel", "1", "2"]));
        assert!(!refused(&["retry", "--type", "a", "--type", "b"]));
        assert!(!refused(&["resolve", "--all", "--as", "done"]));
        assert!(refused(&["resolve", "1"]));
    }
}
