//! The layers that settings come from: flags, environment, files, defaults; and which of them wins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf, absolute};

use super::file::{self, FileSettings};
use super::my_cnf::{self, MyCnf};
use super::permission::{self, Rule};
use super::section::last_line;
use super::url::{self, DatabaseUrl, MysqlUrl};
use super::{Config, ConfigError, Database, Secret};
use crate::when::{parse_zone, zone_of_variable};

/// Environment variables, held apart from the process so that tests need not change it.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<OsString, OsString>);

impl Env {
    /// The environment this process was started with.
    pub fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// The value of `name` where it is set and not empty.
    pub fn get(&self, name: &str) -> Option<&OsString> {
        self.0
            .get(&OsString::from(name))
            .filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Result<Option<&str>, ConfigError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let refuse = || ConfigError::Invalid(format!("{name} in the environment is no UTF-8"));
        value.to_str().map(Some).ok_or_else(refuse)
    }

    /// An absolute directory: relative ones in `HOME` and `XDG_*` are to be ignored, says the
    /// XDG Base Directory Specification.
    fn directory(&self, name: &str) -> Option<PathBuf> {
        self.get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// Names only: values may be passwords.
impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Everything a configuration is made from, beside the files it names.
#[derive(Clone)]
pub struct Layers {
    /// `--config`.
    pub config_flag: Option<PathBuf>,
    /// `--database`.
    pub database_flag: Option<String>,
    /// The environment.
    pub env: Env,
    /// The working directory, absolute.
    pub cwd: PathBuf,
    /// `--allow-unsafe-config`: ask nobody who owns or writes files.
    pub allow_unsafe: bool,
}

/// Reads the configuration: flags over `PUNCTUAL_*` over the file over defaults.
///
/// # Errors
/// See [`ConfigError`]; the first mistake found is the one reported.
pub fn load(layers: &Layers) -> Result<Config, ConfigError> {
    load_at(layers, &Places::of_system())
}

/// As [`load`] where no file exists: for commands that work before there is one (`init`, `demo`).
///
/// # Errors
/// See [`ConfigError`].
pub fn load_without_file(layers: &Layers) -> Result<Config, ConfigError> {
    load_found(layers, &Places::of_system(), None)
}

/// What is looked for at fixed places of a system.
pub(super) struct Places {
    pub(super) config: PathBuf,
    /// Where MySQL and MariaDB servers put their sockets.
    pub(super) sockets: Vec<PathBuf>,
    /// The user this runs as.
    pub(super) user: u32,
}

impl Places {
    fn of_system() -> Self {
        let sockets = [
            "/run/mysqld/mysqld.sock",
            "/var/run/mysqld/mysqld.sock",
            "/tmp/mysql.sock",
        ];
        Self {
            config: PathBuf::from("/etc/punctual.toml"),
            sockets: sockets.map(PathBuf::from).to_vec(),
            user: rustix::process::geteuid().as_raw(),
        }
    }
}

pub(super) fn load_at(layers: &Layers, places: &Places) -> Result<Config, ConfigError> {
    let found = find_file(layers, places)?;
    load_found(layers, places, found)
}

fn load_found(
    layers: &Layers,
    places: &Places,
    found: Option<Found>,
) -> Result<Config, ConfigError> {
    let base_dir = match &found {
        Some(found) => found.path.parent().unwrap_or(&layers.cwd).to_path_buf(),
        None => layers.cwd.clone(),
    };
    let settings = match &found {
        Some(found) => file::read(&found.shown, &found.text, &base_dir)?,
        None => FileSettings::default(),
    };
    let table_prefix = match layers.env.text("PUNCTUAL_TABLE_PREFIX")? {
        Some(prefix) => {
            file::check_prefix(prefix)
                .map_err(|error| from_env("PUNCTUAL_TABLE_PREFIX", &error))?;
            prefix.to_owned()
        }
        None => settings.table_prefix.clone().unwrap_or_default(),
    };
    let timezone = match (
        layers.env.text("PUNCTUAL_TIMEZONE")?,
        settings.timezone.clone(),
    ) {
        (Some(name), _) => Some(
            parse_zone(name)
                .map_err(|error| from_env("PUNCTUAL_TIMEZONE", &format!("is wrong: {error}")))?,
        ),
        (None, Some(zone)) => Some(zone),
        // Not UTF-8 is not a zone either; set to nothing is UTC.
        (None, None) => (layers.env.0.get(&OsString::from("TZ")))
            .map(|tz| zone_of_variable(tz.to_str().unwrap_or_default())),
    };
    Ok(Config {
        file: found.map(|found| found.path),
        state_dir: state_dir(layers, places, &settings, &base_dir)?,
        base_dir,
        table_prefix,
        timezone,
        database: database(layers, places, &settings)?,
        run: settings.run,
        types: settings.types,
        schedules: settings.schedules,
        sources: settings.sources,
        source_lines: settings.source_lines,
    })
}

/// A configuration file that was found and read.
struct Found {
    /// Absolute.
    path: PathBuf,
    /// As messages name it.
    shown: String,
    text: String,
}

fn find_file(layers: &Layers, places: &Places) -> Result<Option<Found>, ConfigError> {
    let asked = match (&layers.config_flag, layers.env.get("PUNCTUAL_CONFIG")) {
        (Some(path), _) => Some((path.clone(), "--config")),
        (None, Some(path)) => Some((PathBuf::from(path), "PUNCTUAL_CONFIG")),
        (None, None) => None,
    };
    if let Some((path, who)) = asked {
        let missing = || {
            let path = path.display();
            ConfigError::Unreadable(format!(
                "{who} names {path}, which does not exist: run `punctual init` where it is to \
                 be, or name another"
            ))
        };
        return open(&path, layers)?.map(Some).ok_or_else(missing);
    }
    let home = layers
        .env
        .directory("HOME")
        .map(|home| home.join(".config"));
    let user = layers.env.directory("XDG_CONFIG_HOME").or(home);
    let candidates = [
        Some(PathBuf::from("punctual.toml")),
        user.map(|directory| directory.join("punctual/punctual.toml")),
        Some(places.config.clone()),
    ];
    for path in candidates.into_iter().flatten() {
        if let Some(found) = open(&path, layers)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn open(path: &Path, layers: &Layers) -> Result<Option<Found>, ConfigError> {
    let refuse =
        |error| ConfigError::Unreadable(format!("cannot find {}: {error}", path.display()));
    let whole = absolute(layers.cwd.join(path)).map_err(refuse)?;
    let Some(bytes) = permission::read(&whole, rule(layers, Rule::Writers))? else {
        return Ok(None);
    };
    let shown = path.display().to_string();
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(Found {
            path: whole,
            shown,
            text,
        })),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = last_line(good);
            let message = format!("{shown}:{line}: is no UTF-8 text; save it as UTF-8");
            Err(ConfigError::Invalid(message))
        }
    }
}

fn rule(layers: &Layers, rule: Rule) -> Rule {
    if layers.allow_unsafe {
        Rule::Anything
    } else {
        rule
    }
}

fn from_env(name: &str, message: &str) -> ConfigError {
    ConfigError::Invalid(format!("{name} in the environment {message}"))
}

fn state_dir(
    layers: &Layers,
    places: &Places,
    settings: &FileSettings,
    base_dir: &Path,
) -> Result<PathBuf, ConfigError> {
    const NAME: &str = "PUNCTUAL_STATE_DIR";
    if let Some(text) = layers.env.text(NAME)? {
        return url::path_from(&layers.cwd, text).map_err(|error| from_env(NAME, &error));
    }
    if let Some(path) = &settings.state_dir {
        return Ok(path.clone());
    }
    let home = layers
        .env
        .directory("HOME")
        .map(|home| home.join(".local/state"));
    if let Some(state) = layers.env.directory("XDG_STATE_HOME").or(home) {
        return Ok(state.join("punctual"));
    }
    if places.user == 0 {
        return Ok(PathBuf::from("/var/lib/punctual"));
    }
    Ok(base_dir.join(".punctual-state"))
}

fn database(
    layers: &Layers,
    places: &Places,
    settings: &FileSettings,
) -> Result<Option<Database>, ConfigError> {
    if let Some(text) = &layers.database_flag {
        let refuse = |error: String| ConfigError::Usage(format!("--database: {error}"));
        let url = url::parse(text, &layers.cwd).map_err(refuse)?;
        if matches!(&url, DatabaseUrl::Mysql(url) if url.password.is_some()) {
            return Err(refuse(
                "a password on the command line is seen by everybody (`ps` shows it): put it in \
                 PUNCTUAL_DATABASE, the file's URL, password_file or ~/.my.cnf"
                    .to_owned(),
            ));
        }
        return complete(url, layers, places, settings, refuse).map(Some);
    }
    if let Some(text) = layers.env.text("PUNCTUAL_DATABASE")? {
        let refuse = |error: String| ConfigError::Invalid(format!("PUNCTUAL_DATABASE: {error}"));
        let url = url::parse(text, &layers.cwd).map_err(refuse)?;
        return complete(url, layers, places, settings, refuse).map(Some);
    }
    let Some(from_file) = &settings.database else {
        return Ok(None);
    };
    let refuse = |error: String| ConfigError::Invalid(format!("{}: {error}", from_file.place));
    complete(from_file.url.clone(), layers, places, settings, refuse).map(Some)
}

fn complete(
    url: DatabaseUrl,
    layers: &Layers,
    places: &Places,
    settings: &FileSettings,
    refuse: impl Fn(String) -> ConfigError,
) -> Result<Database, ConfigError> {
    let mut url = match url {
        DatabaseUrl::Sqlite(path) => return Ok(Database::Sqlite { path }),
        DatabaseUrl::Mysql(url) => url,
    };
    if let (None, Some(path)) = (&url.password, &settings.password_file) {
        url.password = Some(password(path, layers)?);
    }
    let my_cnf = client_file(&url, layers)?;
    let login = match layers.env.text("USER")? {
        Some(user) => Some(user),
        None => layers.env.text("LOGNAME")?,
    };
    url.complete(&my_cnf, login.map(str::to_owned), &places.sockets)
        .map(Database::Mysql)
        .map_err(refuse)
}

fn client_file(url: &MysqlUrl, layers: &Layers) -> Result<MyCnf, ConfigError> {
    match layers.env.directory("HOME") {
        Some(home) if url.leaves_something_out() => {
            my_cnf::read(&home.join(".my.cnf"), rule(layers, Rule::Writers))
        }
        _ => Ok(MyCnf::default()),
    }
}

/// The password in a file: its text without the line end that editors add.
fn password(path: &Path, layers: &Layers) -> Result<Secret, ConfigError> {
    let shown = path.display();
    let Some(bytes) = permission::read(path, rule(layers, Rule::Readers))? else {
        let message = format!("password_file {shown} does not exist: create it with mode 0600");
        return Err(ConfigError::Unreadable(message));
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| ConfigError::Invalid(format!("password_file {shown} is no UTF-8 text")))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() || text.contains(['\n', '\0']) {
        let message = format!("password_file {shown} must hold the password alone, in one line");
        return Err(ConfigError::Invalid(message));
    }
    Ok(Secret::new(text))
}
