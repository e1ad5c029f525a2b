//! `backfill` on the command line.

use clap::{Args, Subcommand};

use super::outcome_words;
use crate::backfill::{ORIGIN, Rate};
use crate::store::schedules;

/// `backfill`.
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  punctual backfill slots digest --from 2026-11-01 --to 2026-11-15 --rate 100/m
  punctual backfill source membership --from 2026-11-01 --rate 100/m
  punctual backfill again --type mail --error 'server is away' --from 2026-11-20 --rate 5/s
  punctual backfill list

slots, source and again print a plan and write nothing: what they would make per type and day, how long
that takes at the rate, what they leave out, and the command that applies the plan. That command
writes ready events of the lowest priority, spaced by the rate, and cron's runs fire them. Repeated
after it was killed it goes on; cancel --origin backfill:ID takes back what has not been fired."
)]
pub struct BackfillArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: BackfillCommand,
}

/// What `backfill` does.
#[derive(Debug, Subcommand)]
pub enum BackfillCommand {
    /// Make events of past slots of schedules that became none
    #[command(after_help = "Examples:
  punctual backfill slots digest --from 2026-11-01 --to 2026-11-15 --rate 100/m
  punctual backfill slots --type report --from @1793491200 --rate 1/s --limit 1000

Slots that were let go, or that one event stood for together, while no run came or the schedule was
paused, disabled or not stated yet. A slot that became an event is never made again; the events are
as the schedule has them today.")]
    Slots(BackfillSlotsArgs),
    /// Make events of rows of a source that expired in the past
    #[command(after_help = "Examples:
  punctual backfill source membership --from 2026-11-01 --to 2026-11-15 --rate 100/m
  punctual backfill source blocks --from @1793491200 --rate 1/s --limit 1000

Rows whose expiry lies in the window, as the source's query gives them today. One that became an
event for that key and expiry is never made again, and what expires after the last look at the source
is left to the next run. The guard of the type has the last word when an event fires.")]
    Source(BackfillSourceArgs),
    /// Fire events of history again
    #[command(after_help = "Examples:
  punctual backfill again --type mail --from 2026-11-20 --rate 5/s
  punctual backfill again --error 'HTTP 503' --outcome dead --from @1795000000 --rate 100/m
  punctual backfill again --type report --outcome done --from '2026-11-20 09:00' --rate 10/m

Dead and unknown ones that nobody resolved or retried; others only when --outcome names them. They
come back under their ids, as with `retry`; of done and withdrawn ones new events are made. Where a
ready event has its key, an event is left out.")]
    Again(BackfillAgainArgs),
    /// List backfills, the newest first
    List,
    /// Show one backfill: how much is written, how much still waits, how the rest ended
    Show {
        /// The backfill
        id: i64,
    },
}

/// `backfill slots`.
#[derive(Debug, Args)]
pub struct BackfillSlotsArgs {
    /// Schedules
    #[arg(value_name = "NAME", required_unless_present = "types")]
    pub names: Vec<String>,
    /// Only schedules of this type; without NAME, all of them; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// The window and the pace.
    #[command(flatten)]
    pub bounds: BackfillBounds,
}

/// `backfill source`.
#[derive(Debug, Args)]
pub struct BackfillSourceArgs {
    /// The source
    pub name: String,
    /// The window and the pace.
    #[command(flatten)]
    pub bounds: BackfillBounds,
}

/// `backfill again`.
#[derive(Debug, Args)]
pub struct BackfillAgainArgs {
    /// Only this type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// Only those that ended so; may be repeated (default: dead and unknown)
    #[arg(long = "outcome", value_name = "OUTCOME", value_parser = outcome_words())]
    pub outcomes: Vec<String>,
    /// Only those with this in their error; * stands for any text, and case counts
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    pub error: Option<String>,
    /// The window and the pace.
    #[command(flatten)]
    pub bounds: BackfillBounds,
}

/// What all sorts have.
#[derive(Debug, Args)]
pub struct BackfillBounds {
    /// Not before this time: the slot, the expiry, or when the event finished
    #[arg(long, value_name = "TIME")]
    pub from: String,
    /// Not after this time (default: now)
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// How fast they become due: N/s, N/m or N/h; a bare N is per minute
    #[arg(long, value_name = "N/m", value_parser = Rate::parse)]
    pub rate: Rate,
    /// At most this many, the oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Do what the plan says
    #[arg(long, requires = "plan")]
    pub apply: bool,
    /// The plan as it was printed
    #[arg(long, value_name = "PLAN", requires = "apply")]
    pub plan: Option<String>,
}

/// An `--origin`: one of the words that stand before the colon.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let known = [ORIGIN, schedules::ORIGIN, "source:"];
    let named = |known: &&str| {
        text.strip_prefix(*known)
            .is_some_and(|name| !name.is_empty())
    };
    if known.iter().any(named) {
        return Ok(text.to_owned());
    }
    Err("write backfill:ID, schedule:NAME or source:NAME".to_owned())
}
