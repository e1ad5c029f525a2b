//! `handler = "command"`: an attempt is a process, or an answer of one (DESIGN §6).
//!
//! `each` starts one process an event, several at once on threads of their own; `batch` gives many
//! events to one process. Neither decides what a verdict leads to: retries and at-most-once are the
//! runner's.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::config::{CommandConfig, Mode, TypeConfig};
use crate::handler::Handler;
use crate::spawn::Reactor;

mod abreast;
pub mod answer;
mod batch;
mod each;
mod ending;
mod launch;

pub use launch::{NEVER_PASSED, PASSED_ENV};

use abreast::Abreast;
use batch::Batch;
use each::Each;
use launch::Launcher;

/// The handler of a type whose `handler` is `command`. Of `run_env`, the run's own environment,
/// children get [`PASSED_ENV`] and what `pass_env` names. `reactor` is the run's own.
pub fn handler(
    type_config: &TypeConfig,
    command: &CommandConfig,
    run_env: &BTreeMap<OsString, OsString>,
    reactor: &Reactor,
) -> Box<dyn Handler> {
    let launcher = Launcher::new(&type_config.name, command, run_env);
    match command.mode {
        Mode::Each if type_config.concurrency > 1 => {
            Box::new(Abreast::new(type_config, launcher, reactor))
        }
        Mode::Each => Box::new(Each::new(type_config, launcher)),
        Mode::Batch => Box::new(Batch::new(type_config, launcher)),
    }
}
