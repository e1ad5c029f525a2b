//! Configuration: flags over environment over file over defaults, validated into one [`Config`].
//!
//! Nothing else reads configuration files or the environment's settings. No message made here
//! shows a password, or any value that could hold one; no database is opened.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::{Exit, Failure};
use crate::schedule::Schedule;
use crate::source::Source;
use crate::zone::Zone;

mod event_type;
mod file;
mod layers;
mod my_cnf;
mod permission;
mod sample;
mod schedule;
mod section;
mod source;
mod url;

pub use layers::{Env, Layers, load, load_without_file};
pub use sample::sample;

/// Why there is no configuration to work with. Each message is one line and names a remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// `--database` is malformed or holds a password: exit 2.
    #[error("{0}")]
    Usage(String),
    /// A mistake in the file, the environment or `~/.my.cnf`: exit 78.
    #[error("{0}")]
    Invalid(String),
    /// A file that was asked for is missing, or cannot be read: exit 78.
    #[error("{0}")]
    Unreadable(String),
    /// Others could have written it, or can read a password file: exit 77.
    #[error("{0}")]
    Unsafe(String),
}

impl ConfigError {
    /// The exit code it ends a command with (DESIGN §7).
    pub fn exit(&self) -> Exit {
        match self {
            ConfigError::Usage(_) => Exit::Usage,
            ConfigError::Invalid(_) | ConfigError::Unreadable(_) => Exit::Configuration,
            ConfigError::Unsafe(_) => Exit::Permission,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::new(error.exit(), error.to_string())
    }
}

/// Text that must never be shown: `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the driver only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Everything a command needs to know, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from, absolute; `None` where there is none.
    pub file: Option<PathBuf>,
    /// Where relative paths and commands resolve: the file's directory, else the working directory.
    pub base_dir: PathBuf,
    /// The database; `None` where nothing names one (commands that need one refuse, exit 78).
    pub database: Option<Database>,
    /// Put before every table and index name.
    pub table_prefix: String,
    /// For people, and for local times without a zone; `None`: this host's own, which is not asked
    /// for before it is needed.
    pub timezone: Option<Zone>,
    /// The private directory for lock files and for what was said on stderr.
    pub state_dir: PathBuf,
    /// `[run]`.
    pub run: RunConfig,
    /// `[type.NAME]`, by name.
    pub types: BTreeMap<String, TypeConfig>,
    /// `[schedule.NAME]`, by name.
    pub schedules: BTreeMap<String, Schedule>,
    /// `[source.NAME]`, by name.
    pub sources: BTreeMap<String, Source>,
    /// The lines of the file on which their `sql` stands.
    pub source_lines: BTreeMap<String, usize>,
}

impl Config {
    /// Whether the database is a file of this host, which only file locks and the lease guard.
    pub fn is_sqlite(&self) -> bool {
        matches!(self.database, Some(Database::Sqlite { .. }))
    }
}

/// Which database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// `sqlite:PATH`, made absolute.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// `mysql://…`.
    Mysql(MysqlServer),
}

impl Database {
    /// The database alone, without server and user: on MySQL its name, on SQLite the path.
    pub fn name(&self) -> String {
        match self {
            Database::Sqlite { path } => path.display().to_string(),
            Database::Mysql(server) => server.database.clone(),
        }
    }
}

/// What stands as it is in the names within a URL; all else is percent-encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-').remove(b'.');

/// As [`ENCODED`], for paths, whose slashes stay.
const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/').remove(b'~');

/// Without the password: for messages and for the names of locks.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = match self {
            Database::Sqlite { path } => return write!(f, "sqlite:{}", path.display()),
            Database::Mysql(server) => server,
        };
        let user = utf8_percent_encode(&server.user, ENCODED);
        let database = utf8_percent_encode(&server.database, ENCODED);
        match (&server.socket, server.host.contains(':')) {
            (Some(socket), _) => {
                let socket = socket.to_string_lossy();
                let socket = utf8_percent_encode(&socket, ENCODED_PATH);
                write!(f, "mysql://{user}@localhost/{database}?socket={socket}")
            }
            (None, true) => write!(
                f,
                "mysql://{user}@[{}]:{}/{database}",
                server.host, server.port
            ),
            (None, false) => write!(
                f,
                "mysql://{user}@{}:{}/{database}",
                server.host, server.port
            ),
        }
    }
}

/// A MySQL or MariaDB database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MysqlServer {
    /// User name.
    pub user: String,
    /// Password, from the file's URL, `PUNCTUAL_DATABASE`, `password_file` or `~/.my.cnf`.
    pub password: Option<Secret>,
    /// Host name or address (IPv6 without brackets); ignored where `socket` is set.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database name.
    pub database: String,
    /// Unix socket.
    pub socket: Option<PathBuf>,
    /// Whether TLS is used: required by default over TCP to another host than this one.
    pub tls: Tls,
    /// A PEM file of certificate authorities to trust beside the built-in ones.
    pub tls_ca: Option<PathBuf>,
}

/// TLS to the database server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Refuse to talk without it.
    Required,
    /// Do not use it.
    Off,
}

/// `[run]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunConfig {
    /// Start nothing once a run has lasted this long; `None`: no limit.
    pub max_time: Option<Duration>,
    /// How long a run that lingers lasts, instead of `max_time`.
    pub linger: Duration,
    /// How often a run that lingers looks for new rows.
    pub poll: Duration,
    /// Start at most this many attempts a run.
    pub max_events: Option<u64>,
    /// The most events of one turn.
    pub batch_size: usize,
    /// How long finished events other than dead and unknown are kept.
    pub history: Duration,
    /// How long dead and unknown events are kept.
    pub history_failed: Duration,
    /// Keep at most this many history rows, the newest.
    pub history_rows: Option<u64>,
    /// How long the lease holds without a renewal.
    pub lease_ttl: Duration,
    /// On a signal: how long handlers may go on before they are killed.
    pub grace: Duration,
    /// A URL to GET after each run that ended well (a dead man's switch).
    pub ping: Option<String>,
    /// Use a SQLite database on a network file system.
    pub allow_network_fs: bool,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            max_time: Some(Duration::from_secs(50)),
            linger: Duration::from_secs(65),
            poll: Duration::from_secs(1),
            max_events: None,
            batch_size: 500,
            history: Duration::from_hours(30 * 24),
            history_failed: Duration::from_hours(8766),
            history_rows: None,
            lease_ttl: Duration::from_mins(1),
            grace: Duration::from_secs(10),
            ping: None,
            allow_network_fs: false,
        }
    }
}

/// `[type.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeConfig {
    /// The name rows use.
    pub name: String,
    /// What firing does.
    pub handler: HandlerConfig,
    /// That many failed tries are repeated; with the next one the event is dead.
    pub retries: u32,
    /// Delay before the first retry; doubles with each.
    pub backoff: Duration,
    /// The longest delay.
    pub backoff_max: Duration,
    /// How long an attempt may take (batch: from the last answer).
    pub timeout: Duration,
    /// After TERM, how long until KILL.
    pub grace: Duration,
    /// Attempts at once.
    pub concurrency: usize,
    /// Share of turns among types.
    pub weight: u32,
    /// Attempts a minute at most.
    pub rate: Option<u32>,
    /// Later than this is "late"; `None`: never.
    pub max_late: Option<Duration>,
    /// What happens to a late event.
    pub late: Late,
    /// A SELECT run before firing; no row: `skipped`.
    pub guard: Option<String>,
    /// That many losses (tries lost with a dying run) are forgiven; with the next one it is dead.
    pub max_losses: u32,
    /// That many deferrals ("try later" answers) are accepted; with the next one it is dead.
    pub max_deferrals: u32,
    /// Failures in a row after which the type is left alone; `None`: no breaker.
    pub breaker: Option<u32>,
    /// How long it is left alone before one probe.
    pub breaker_probe: Duration,
    /// Started once and never again by itself.
    pub at_most_once: bool,
    /// The lines of the file on which `sql`, `guard` and `lag` stand, by key: what a statement may
    /// say is judged elsewhere, and a mistake in it is to be found like any other.
    pub sql_lines: BTreeMap<&'static str, usize>,
}

impl TypeConfig {
    /// A type of which the file says no more than its handler.
    pub fn new(name: impl Into<String>, handler: HandlerConfig) -> Self {
        Self {
            name: name.into(),
            handler,
            retries: 5,
            backoff: Duration::from_mins(1),
            backoff_max: Duration::from_hours(6),
            timeout: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            concurrency: 1,
            weight: 1,
            rate: None,
            max_late: None,
            late: Late::Fire,
            guard: None,
            max_losses: 3,
            max_deferrals: 100,
            breaker: Some(10),
            breaker_probe: Duration::from_mins(5),
            at_most_once: false,
            sql_lines: BTreeMap::new(),
        }
    }

    /// How its events are swept, where they are sweeps.
    pub fn sweep(&self) -> Option<&SweepConfig> {
        match &self.handler {
            HandlerConfig::Sql(sql) => sql.sweep.as_ref(),
            HandlerConfig::Command(_) | HandlerConfig::Http(_) | HandlerConfig::MediawikiJob(_) => {
                None
            }
        }
    }
}

/// `late`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// Fire it all the same.
    Fire,
    /// Record it as skipped.
    Skip,
}

/// What firing an event of a type does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandlerConfig {
    /// `handler = "command"`.
    Command(CommandConfig),
    /// `handler = "http"`.
    Http(HttpConfig),
    /// `handler = "sql"`.
    Sql(SqlConfig),
    /// `handler = "mediawiki-job"`.
    MediawikiJob(JobConfig),
}

impl HandlerConfig {
    /// Whether it fires within the transaction that records it, without a claim before.
    pub fn is_in_transaction(&self) -> bool {
        match self {
            HandlerConfig::Sql(_) | HandlerConfig::MediawikiJob(_) => true,
            HandlerConfig::Command(_) | HandlerConfig::Http(_) => false,
        }
    }
}

/// `handler = "command"`.
#[derive(Clone, PartialEq, Eq)]
pub struct CommandConfig {
    /// Program and arguments; a relative program with a slash resolves against `base_dir`, one
    /// without is looked up in `PATH`.
    pub argv: Vec<String>,
    /// One process an event, or one a wave.
    pub mode: Mode,
    /// Working directory: `base_dir` unless set.
    pub cwd: PathBuf,
    /// Environment given beside the stated list.
    pub env: BTreeMap<String, String>,
    /// Names passed on from the run's own environment beside the stated list.
    pub pass_env: Vec<String>,
}

/// Names of variables only: their values may be tokens and passwords.
impl fmt::Debug for CommandConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandConfig")
            .field("argv", &self.argv)
            .field("mode", &self.mode)
            .field("cwd", &self.cwd)
            .field("env", &self.env.keys())
            .field("pass_env", &self.pass_env)
            .finish()
    }
}

/// `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One process an event.
    Each,
    /// One process gets many events, a JSON line each, and answers a line each.
    Batch,
}

/// `handler = "http"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where to.
    pub url: String,
    /// The method, POST by default.
    pub method: String,
    /// Headers sent beside the handler's own.
    pub headers: BTreeMap<String, Secret>,
    /// Statuses that mean success; empty: 200 to 299.
    pub expect: Vec<u16>,
    /// A PEM file of certificate authorities to trust beside the built-in ones.
    pub ca_file: Option<PathBuf>,
}

/// `handler = "sql"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlConfig {
    /// One statement each, run in order.
    pub statements: Vec<String>,
    /// `repeat_until_empty`: an event is a sweep.
    pub sweep: Option<SweepConfig>,
}

/// `repeat_until_empty = true`: the statements are run pass after pass, each in a transaction of
/// its own, until a pass changes no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepConfig {
    /// How long the database is left alone between two passes.
    pub chunk_pause: Duration,
    /// How long the type may sweep in one run; `None`: as long as the run may last.
    pub timeout: Option<Duration>,
    /// A SELECT of how far replicas are behind, in seconds.
    pub lag: Option<String>,
    /// Further behind than this, and no pass is made.
    pub max_lag: Duration,
}

impl Default for SweepConfig {
    fn default() -> Self {
        Self {
            chunk_pause: Duration::ZERO,
            timeout: None,
            lag: None,
            max_lag: Duration::from_secs(5),
        }
    }
}

/// `handler = "mediawiki-job"`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobConfig {
    /// Put before the wiki's tables; `None`: the file's `table_prefix`.
    pub table_prefix: Option<String>,
    /// The class of the queue of each type of job, and under `default` that of all others, as
    /// `$wgJobTypeConf` has them.
    pub queues: BTreeMap<String, String>,
    /// Where the wiki keeps its jobs: SQLite's file, or the name of a database; `None`: nobody has
    /// said.
    pub database: Option<String>,
}

impl JobConfig {
    /// The class of the queue of one type of job.
    pub fn queue_of(&self, job_type: &str) -> &str {
        let named = self.queues.get(job_type);
        named
            .or_else(|| self.queues.get("default"))
            .map_or("JobQueueDB", String::as_str)
    }
}

#[cfg(test)]
mod tests;
