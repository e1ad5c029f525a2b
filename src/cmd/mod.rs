//! The commands: one file a family, and the only place that prints (DESIGN §9).
//!
//! [`main`] turns the command line into a [`Context`], hands it to the command, and turns what
//! comes back into an exit code and at most one line on stderr.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::cli::{Cli, Command, Global, RunArgs};
use crate::clock::{Clock, UnixSeconds};
use crate::config::{self, Config, Database, Env, HandlerConfig, Layers};
use crate::db::{Access, Dialect};
use crate::error::{Exit, Failure, exit_of};
use crate::handler::sql;
use crate::store::Store;
use crate::watchdog;
use crate::when::{format_time, host_zone, parse_time, parse_zone};
use crate::zone::Zone;

use output::Output;

pub mod add;
pub mod backfill;
pub mod check;
pub mod demo;
pub mod hand;
pub mod holder;
pub mod import;
pub mod init;
pub mod list;
pub mod manual;
pub mod output;
pub mod progress;
pub mod prune;
pub mod run;
pub mod said;
pub mod schedules;
pub mod show;
pub mod sources;
pub mod status;
pub mod types;
pub mod usage;

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    /// The validated configuration.
    pub config: Config,
    /// The host's clock; what is due is decided by [`Store::now`].
    pub clock: Clock,
    /// What [`Context::zone`] answers, once it is known.
    zone: OnceCell<Zone>,
    /// `--json`.
    pub json: bool,
    /// `--quiet`: no log lines, no progress bar.
    pub quiet: bool,
    /// Stdout.
    pub out: Output,
}

/// The whole program. The watchdog comes before anything else: it has no command line of its own.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if words
        .get(1)
        .is_some_and(|word| word == watchdog::SUBCOMMAND)
    {
        return watchdog::main();
    }
    report_bugs();
    let cli = match Cli::of_words(&words) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage::refuse(&error, &words)),
    };
    start_log(&cli.global);
    ExitCode::from(execute(&cli))
}

fn execute(cli: &Cli) -> u8 {
    let context = match Context::new(cli, Output::stdout()) {
        Ok(context) => context,
        Err(error) => return conclude(&cli.command, None, &error),
    };
    let ended = dispatch(&context, cli);
    let flushed = context.out.flush();
    match ended.and_then(|code| flushed.map(|()| code)) {
        Ok(code) => code,
        Err(error) => conclude(&cli.command, Some(&context.config), &error),
    }
}

fn dispatch(context: &Context, cli: &Cli) -> anyhow::Result<u8> {
    match &cli.command {
        Command::Demo => demo::main(context),
        Command::Init(args) => init::main(context, &cli.global, args),
        Command::Run(args) => run::main(context, args),
        Command::Add(args) => add::main(context, args),
        Command::Import(args) => import::main(context, args),
        Command::List(args) => list::main(context, args),
        Command::Show(args) => show::main(context, args),
        Command::Cancel(pick) => hand::cancel(context, pick),
        Command::Retry(pick) => hand::retry(context, pick),
        Command::Resolve(args) => hand::resolve(context, args),
        Command::Pause(args) => types::pause(context, args),
        Command::Resume(args) => types::resume(context, args),
        Command::Status => status::main(context),
        Command::Check(args) => check::main(context, args),
        Command::Schedules(args) => schedules::main(context, args),
        Command::Sources(args) => sources::main(context, args),
        Command::Backfill(args) => backfill::main(context, &cli.global, args),
        Command::Prune(args) => prune::main(context, args),
        Command::Completions { shell } => manual::completions(context, *shell),
        Command::Man => manual::man(context),
    }
}

impl Context {
    /// Loads what `cli` needs.
    ///
    /// # Errors
    /// [`Failure`] 2, 77 or 78: a wrong zone, a wrong or unsafe configuration.
    pub fn new(cli: &Cli, out: Output) -> anyhow::Result<Self> {
        let config = configuration(cli)?;
        check_statements(&config)?;
        let zone = match &cli.global.tz {
            Some(name) => {
                Some(parse_zone(name).map_err(|error| Failure::usage(format!("--tz: {error}")))?)
            }
            None => config.timezone.clone(),
        };
        Ok(Self {
            config,
            clock: Clock::system(),
            zone: zone.map_or_else(OnceCell::new, OnceCell::from),
            json: cli.global.json,
            quiet: cli.global.quiet,
            out,
        })
    }

    /// The zone of times read and shown.
    pub fn zone(&self) -> &Zone {
        self.zone.get_or_init(host_zone)
    }

    /// Opens the configured database, checked to be ours.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(&self, access: Access) -> anyhow::Result<Store> {
        Store::open(&self.config, access, self.clock).map(|(store, _)| store)
    }

    /// Reads the time given as `flag`; `now` is the database's.
    ///
    /// # Errors
    /// [`Failure`] 2.
    pub fn time(&self, flag: &str, text: &str, now: UnixSeconds) -> anyhow::Result<UnixSeconds> {
        let time = parse_time(text, self.zone(), now);
        time.map_err(|error| Failure::usage(format!("{flag}: {error}")).into())
    }

    /// As [`Context::time`], where the option may be left out.
    ///
    /// # Errors
    /// [`Failure`] 2.
    pub fn optional_time(
        &self,
        flag: &str,
        text: Option<&String>,
        now: UnixSeconds,
    ) -> anyhow::Result<Option<UnixSeconds>> {
        text.map(|text| self.time(flag, text, now)).transpose()
    }

    /// `at` for people, in the zone asked for, which is named.
    pub fn shown(&self, at: UnixSeconds) -> String {
        format_time(at, self.zone())
    }

    /// Whether a person watches stderr, so that a progress bar is of use.
    pub fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }
}

/// One line on stderr, which is never worth failing for.
pub fn complain(text: &str) {
    let text = output::without_passwords(text);
    let _ = writeln!(io::stderr(), "punctual: {}", output::escape(&text));
}

/// `error` and its causes as one line, nothing said twice.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    let parts = line
        .split(['\n', '\r'])
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ")
}

/// The exit code for `error`, after saying it where it is to be said.
fn conclude(command: &Command, config: Option<&Config>, error: &anyhow::Error) -> u8 {
    if error.is::<output::Closed>() {
        return Exit::Ok as u8; // whoever read our output has seen enough
    }
    let line = one_line(error);
    match command {
        Command::Check(_) => return check::unknown(&line),
        // Cron mails whatever a tick says.
        Command::Run(args) if is_tick(args, error) => {
            if said::once_an_hour(config, &line) {
                complain(&line);
            }
        }
        _ => complain(&line),
    }
    exit_of(error) as u8
}

/// Whether this is a tick of cron's, which will fail in the same way next minute: not a dry run,
/// and not a command line that somebody has just mistyped.
fn is_tick(args: &RunArgs, error: &anyhow::Error) -> bool {
    !args.dry_run && exit_of(error) != Exit::Usage && !io::stderr().is_terminal()
}

fn configuration(cli: &Cli) -> anyhow::Result<Config> {
    let layers = layers(&cli.global)?;
    let loaded = match cli.command {
        // What they do is the same everywhere, whatever stands in a file.
        Command::Demo | Command::Completions { .. } | Command::Man => {
            let kept = ["HOME", "TZ"].into_iter();
            let env = kept
                .filter_map(|name| Some((name, std::env::var_os(name)?)))
                .collect();
            let nothing = Layers {
                config_flag: None,
                database_flag: None,
                env,
                ..layers
            };
            config::load_without_file(&nothing)
        }
        Command::Init(_) if init::must_write(&layers) => config::load_without_file(&layers),
        _ => config::load(&layers),
    };
    Ok(loaded.map_err(Failure::from)?)
}

fn layers(global: &Global) -> anyhow::Result<Layers> {
    let cwd = std::env::current_dir()
        .map_err(|error| Failure::io(format!("the working directory: {error}")))?;
    Ok(Layers {
        config_flag: global.config.clone(),
        database_flag: global.database.clone(),
        env: Env::of_process(),
        cwd,
        allow_unsafe: global.allow_unsafe_config,
    })
}

/// Statements are checked here and not by `config`, which does not know the dialect.
fn check_statements(config: &Config) -> anyhow::Result<()> {
    let dialect = dialect(config);
    for (name, handled) in &config.types {
        let refuse = |part: &str, error: String| {
            let file = config.file.clone().unwrap_or_default();
            let line = handled.sql_lines.get(part).copied().unwrap_or_default();
            let place = format!("{}:{line}", file.display());
            Failure::configuration(format!("{place}: [type.{name}] {part}: {error}"))
        };
        if let HandlerConfig::Sql(handler) = &handled.handler {
            sql::compile(&handler.statements, dialect).map_err(|error| refuse("sql", error))?;
        }
        if let Some(lag) = handled.sweep().and_then(|sweep| sweep.lag.as_deref()) {
            sql::compile_lag(lag, dialect).map_err(|error| refuse("lag", error))?;
        }
        if let Some(guard) = &handled.guard {
            sql::compile_guard(guard, dialect).map_err(|error| refuse("guard", error))?;
        }
    }
    for (name, source) in &config.sources {
        sql::source::compile(&source.sql, dialect).map_err(|error| {
            let file = config.file.clone().unwrap_or_default();
            let line = config.source_lines.get(name).copied().unwrap_or_default();
            let place = format!("{}:{line}", file.display());
            Failure::configuration(format!("{place}: [source.{name}] sql: {error}"))
        })?;
    }
    Ok(())
}

/// The dialect of the configured database.
pub fn dialect(config: &Config) -> Dialect {
    match config.database {
        Some(Database::Mysql(_)) => Dialect::Mysql,
        Some(Database::Sqlite { .. }) | None => Dialect::Sqlite,
    }
}

fn start_log(global: &Global) {
    use log::LevelFilter::{Debug, Error, Info, Off, Trace};
    let level = match global.verbose {
        _ if global.quiet => Off,
        0 => Error,
        1 => Info,
        2 => Debug,
        _ => Trace,
    };
    let mut log = env_logger::Builder::new();
    log.filter_level(level);
    // Below that they print what goes over the wire.
    for noisy in ["mysql", "mysql_common", "rustls", "ureq", "ureq_proto"] {
        log.filter_module(noisy, level.min(Debug));
    }
    log.format(|line, record| {
        let text = record.args().to_string();
        writeln!(line, "punctual: {}", output::escape(&text))
    });
    log.init();
}

/// A panic is a bug: one line and its own exit code, instead of an abort that looks like a crash.
/// What a run held is given back by its death, as after any kill.
#[expect(
    clippy::disallowed_methods,
    reason = "a bug ends the process here and now"
)]
fn report_bugs() {
    std::panic::set_hook(Box::new(|panic| {
        let why = panic.payload_as_str().unwrap_or("a panic");
        let place = panic
            .location()
            .map(|place| format!(" ({}:{})", place.file(), place.line()));
        complain(&format!(
            "bug: {why}{}; please report it",
            place.unwrap_or_default()
        ));
        std::process::exit(i32::from(Exit::Bug as u8));
    }));
}

/// Reads a whole file or, for `-`, stdin, but no more than `most` bytes and one.
fn read_at_most(path: &Path, most: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = most as u64 + 1;
    let read = if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::io(format!("payload file {}: {error}", path.display())))?;
    Ok(bytes)
}

#[cfg(test)]
mod fixture;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_and_its_causes_become_one_line_without_repetition() {
        let error = anyhow::anyhow!("no such\n  table")
            .context("reading it: no such\n  table")
            .context("list");
        assert_eq!(one_line(&error), "list: reading it: no such table");
    }
}
