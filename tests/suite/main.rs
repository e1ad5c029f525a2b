//! The integration tests: the built binary, real databases, real PHP, real cron.
//!
//! One crate, so that everything links once and one MariaDB server is shared. Files here are
//! named for what they test; how sites, servers and processes are made stands in `support`.

#![expect(
    clippy::disallowed_methods,
    reason = "tests start processes and wait for them; nothing of the product is in here"
)]

#[macro_use]
mod support;

mod backfill;
mod bad_input;
mod changes;
mod command;
mod commands;
mod costs;
mod crash;
mod cron;
mod extension;
mod face;
mod failing_calls;
mod fence;
mod foreign;
mod harness;
mod hosts;
mod http;
mod interleaving;
mod layering;
mod linger;
mod model;
mod overlap;
mod php;
mod php_values;
mod plans;
mod policies;
mod processes;
mod proxies;
mod readme;
mod recovery;
mod recurring;
mod runs;
mod schedules;
mod schema;
mod security;
mod sources;
mod spawn;
mod sweeps;
mod tls;
mod torture;
mod volume;
mod wiki;
