//! `punctual`, the program that cron calls to fire what is due in `scheduled_events`. This page is
//! for whoever works on the code: the map, and the rules that hold everywhere. What users are
//! promised is in `README.md`.
//!
//! # Where things are
//!
//! Read [`runner::run`] first; it is one run from top to bottom. Then:
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`cli`], [`cmd`] | the command line as types; a file a command family; all that prints |
//! | [`config`] | flags over environment over file over defaults, validated into one `Config` |
//! | [`runner`] | a run: recovery, slots, sources, waves, sweeps, its endings, the wait for more; the dry run |
//! | [`lock`], [`lease`] | the three layers that keep runs apart |
//! | [`store`] | every query, written once for both dialects |
//! | [`db`] | the narrow connection; each driver named in one file; the schema and its migrations |
//! | [`handler`] | what firing means: `command`, `http`, `sql`, `mediawiki-job`; verdicts out |
//! | [`spawn`], [`watchdog`] | all that starts processes; what kills them when a run is killed |
//! | [`fair`], [`retry`] | turns, rates and breakers; delays. Pure |
//! | [`event`], [`nearest`], [`php`] | the tables' words; misspellings; values as PHP has them |
//! | [`when`], [`zone`], [`recurrence`] | times as written; what clocks show where; rules |
//! | [`schedule`] | a rule and its event; what becomes of missed slots. Pure |
//! | [`backfill`] | what of the past is created by hand, how fast, and the plan for it. Pure |
//! | [`source`] | a query that events are derived from; what its rows say. Pure |
//! | [`clock`] | the only place that reads a clock |
//! | [`token`] | random digits that nobody can guess |
//! | [`error`] | what changes the exit code, and nothing else |
//! | [`fault`] | crash points and lies for the proofs; empty in a release |
//!
//! The tables are in `sql/sqlite` and `sql/mysql`, numbered in lockstep and compiled in.
//!
//! Dependencies point one way: main, [`cmd`], [`runner`], then [`lock`], [`lease`], [`store`],
//! [`handler`] and [`fair`], then [`db`] and [`spawn`]. The leaves use nothing of ours but each
//! other.
//!
//! # What must stay true
//!
//! 1. **Three layers of locks, and only the last one counts.** The file lock (this host) and the
//!    database's advisory lock (other hosts) make a second run step aside at once. Both can lie: a
//!    lock file may be deleted, `GET_LOCK` is lost without a word when the connection is. The row
//!    in `event_lease` with its epoch is what correctness rests on. Everything must stay correct if
//!    the first two always said yes.
//! 2. **The gate.** Each transaction that claims events or records unclaimed ones starts by
//!    renewing the lease ([`store::Store::pass`]): one row matched, or the run is *fenced* and
//!    claims and starts nothing more. Nothing is started either once half the lease's time has
//!    passed, by the monotonic clock, since the last renewal. It looks before each start; frozen in
//!    the instant between look and start it makes that one when it thaws, which no look prevents.
//!    What threads begin by themselves was handed over with the instant by which it must begin
//!    ([`handler::Handler::start_ahead`]), and the thread looks at that.
//! 3. **Acks are guarded by the row.** A fenced run may still record what became of its own events:
//!    each write names the row's status and the epoch that claimed it, counts what it matched, and
//!    looks again where that differs. Plain SQL is the interface, so rows may vanish at any time:
//!    that is the outcome `withdrawn`, not an error. No DELETE by id alone.
//! 4. **An attempt is handed out after its claim is committed**, and never again for an error of
//!    the database. Effects (`sql`, `mediawiki-job`) are the exception: effect, history and removal
//!    are one transaction, and the trace of the wave is committed before it. A sweep is a row of
//!    such transactions; until the last the event stays ready, marked as begun.
//!    Slots of schedules likewise: events and watermark are one transaction behind the gate. So is
//!    each part of a source: its events, what was derived, and the cursor. A backfill's events and
//!    its place are one too, guarded by the place that was seen: it needs no lease, for it fires
//!    nothing.
//! 5. **`kill -9` needs no clean-up step.** Whatever a run leaves, the first steps of the next
//!    recover. A COMMIT without an answer is settled by reading, on a new connection that neither
//!    claims nor fires.
//! 6. **Time is read in [`clock`] only**, and comes in as an argument. What is due is decided by
//!    the database's clock on MySQL and by the host's on SQLite ([`store::Store::now`]); no
//!    statement says `NOW()`. Budgets, timeouts and the freshness of the lease are monotonic.
//! 7. **Rows never become SQL**, nor programs, nor addresses. What a type does is configuration;
//!    whatever came from a row, a file or the command line is bound.
//! 8. **Writes by id name the primary key** ([`db::Dialect::by_primary_key`],
//!    [`db::Dialect::guarded_status`]), and are short: a site's own inserts must not wait. No `FOR
//!    UPDATE`, no `SKIP LOCKED`, no `UPDATE … LIMIT`. On SQLite no transaction and no unfinished
//!    read is held over a handler.
//! 9. **A failed event is data** (a [`handler::Verdict`], an [`event::Outcome`]), not an `Err`.
//!    `Err` is for what stops the run.
//! 10. **Only [`cmd`] prints.** Everything else returns what happened or logs it. A run that went
//!     well prints nothing, because cron mails whatever it prints. No message, log line or `Debug`
//!     output holds a password ([`config::Secret`]).
//! 11. **Children get nothing of the run's** but what is stated: their pipes and a listed
//!     environment. Only the watchdog holds a duplicate of the run lock, so that a free lock means
//!     that the children are dead.
//!
//! `.clippy.toml` bans the calls that would break rule 6, start processes elsewhere, sleep, or exit
//! without giving locks and connections back.

pub mod backfill;
pub mod cli;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod db;
pub mod error;
pub mod event;
pub mod fair;
pub mod fault;
pub mod handler;
pub mod lease;
pub mod lock;
pub mod nearest;
pub mod php;
pub mod recurrence;
pub mod retry;
pub mod runner;
pub mod schedule;
pub mod source;
pub mod spawn;
pub mod store;
pub mod token;
pub mod watchdog;
pub mod when;
pub mod zone;
