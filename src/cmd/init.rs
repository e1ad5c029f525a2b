//! `init`: a configuration file where there is none, and the tables. May be repeated at any time;
//! what it finds in order it leaves alone.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Context, dialect};
use crate::cli::{Global, InitArgs};
use crate::clock::Clock;
use crate::config::{self, Config, Database, Layers};
use crate::db::{Access, AdvisoryLock, migrate};
use crate::error::{Exit, Failure};
use crate::lock::{self, Asked, FileLock};
use crate::store::{Install, Stopped, Store};
use crate::token::random_hex;

/// The database of a file that nobody named one for.
const DEFAULT_DATABASE: &str = "sqlite:events.db";
const DEFAULT_FILE: &str = "punctual.toml";

/// What [`set_up`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetUp {
    /// The schema version before; `None`: there were no tables.
    pub before: Option<i64>,
    /// What `--adopt` took over: database name and prefix it had been made for.
    pub adopted: Option<(String, String)>,
}

/// Whether the file that was asked for does not exist yet, so that `init` is to write it.
pub fn must_write(layers: &Layers) -> bool {
    asked_for(layers).is_some_and(|path| !path.exists())
}

/// `punctual init`.
///
/// # Errors
/// [`Failure`] 75: a run is at work; 78: a newer schema, a copied database; 74, 77: writing.
pub fn main(context: &Context, global: &Global, args: &InitArgs) -> anyhow::Result<u8> {
    if args.print_sql {
        let script = migrate::script(dialect(&context.config), &context.config.table_prefix);
        context.out.bytes(script.as_bytes())?;
        return Ok(Exit::Ok as u8);
    }
    let written = match &context.config.file {
        Some(_) => None,
        None => Some(write_file(&super::layers(global)?, &context.config)?),
    };
    let config = match &written {
        Some(file) => reload(global, file)?,
        None => context.config.clone(),
    };
    if config.database.is_none() {
        let file = config.file.unwrap_or_default();
        let message = format!("{} names no database; set `database` in it", file.display());
        return Err(Failure::configuration(message).into());
    }
    let done = set_up(&config, context.clock, args.adopt)?;
    report(context, &config, written.as_deref(), &done)?;
    Ok(Exit::Ok as u8)
}

/// Creates or upgrades the tables of `config`'s database, alone with it, and records what it is.
///
/// # Errors
/// As [`main`].
pub fn set_up(config: &Config, clock: Clock, adopt: bool) -> anyhow::Result<SetUp> {
    require_directory(config)?;
    let may_lack_locks = config.run.allow_network_fs || !config.is_sqlite();
    let path = lock::lock_path(config)?;
    let Asked::Held(_lock) = FileLock::ask(&path, clock.now(), may_lack_locks)? else {
        return Err(at_work().into());
    };
    let mut store = Store::connect(config, Access::Create, clock)?;
    let database_name = store.db().database_name()?;
    let found = Recorded::read(&mut store)?;
    found.refuse_newer()?;
    let adopted = found.adopted(&database_name, store.prefix(), adopt)?;
    let install_id = found.install_id.clone().unwrap_or_default();
    let install = Install {
        install_id,
        database_name,
        schedules: String::new(),
        sources: String::new(),
        zone_data: String::new(),
    };
    if store.advisory_lock(&install)? == AdvisoryLock::Busy {
        return Err(at_work().into());
    }
    let prefix = store.prefix().to_owned();
    let before = migrate::upgrade(store.db(), &prefix)?;
    record(&mut store, &install, adopt)?;
    Ok(SetUp { before, adopted })
}

fn at_work() -> Failure {
    Failure::temporary("a run is at work on this database; try again when it has ended")
}

fn asked_for(layers: &Layers) -> Option<PathBuf> {
    let asked = layers.config_flag.clone();
    let asked = asked.or_else(|| layers.env.get("PUNCTUAL_CONFIG").map(PathBuf::from));
    asked.map(|path| layers.cwd.join(path))
}

/// Writes the sample, for its owner only: it will hold commands, perhaps a password.
fn write_file(layers: &Layers, config: &Config) -> anyhow::Result<PathBuf> {
    let path = asked_for(layers).unwrap_or_else(|| layers.cwd.join(DEFAULT_FILE));
    let text = sample(layers, config, path.parent());
    let refuse = |error: std::io::Error| {
        let message = format!("cannot write {}: {error}", path.display());
        match error.kind() {
            ErrorKind::PermissionDenied => Failure::permission(message),
            _ => Failure::io(message),
        }
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(refuse)?;
    file.write_all(text.as_bytes()).map_err(refuse)?;
    Ok(path)
}

fn sample(layers: &Layers, config: &Config, directory: Option<&Path>) -> String {
    let from_env = layers
        .env
        .get("PUNCTUAL_DATABASE")
        .and_then(|value| value.to_str());
    let named = layers.database_flag.as_deref().or(from_env);
    let Some(url) = named else {
        return config::sample(DEFAULT_DATABASE);
    };
    if let (true, Some(database)) = (holds_password(url), &config.database) {
        // What is said about it elsewhere wins, and stays there.
        let text = config::sample(&database.to_string());
        return text.replacen(
            "\ndatabase = ",
            "\n# from PUNCTUAL_DATABASE: database = ",
            1,
        );
    }
    match (&config.database, directory) {
        // Relative to the working directory here, to the file's there.
        (Some(database @ Database::Sqlite { .. }), Some(directory)) if directory != layers.cwd => {
            config::sample(&database.to_string())
        }
        _ => config::sample(url),
    }
}

/// Whether a URL that was accepted has a password between its user and its host.
fn holds_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("//") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    authority
        .rsplit_once('@')
        .is_some_and(|(user, _)| user.contains(':'))
}

/// The configuration as every other command will find it from now on.
fn reload(global: &Global, file: &Path) -> anyhow::Result<Config> {
    let layers = super::layers(global)?;
    let layers = Layers {
        config_flag: Some(file.to_owned()),
        ..layers
    };
    Ok(config::load(&layers).map_err(Failure::from)?)
}

fn require_directory(config: &Config) -> anyhow::Result<()> {
    if let Some(Database::Sqlite { path }) = &config.database
        && let Some(directory) = path.parent()
        && !directory.is_dir()
    {
        let message = format!("there is no directory {}; create it", directory.display());
        return Err(Failure::unavailable(message).into());
    }
    Ok(())
}

/// What an earlier `init` recorded.
struct Recorded {
    schema: Option<i64>,
    install_id: Option<String>,
    database_name: Option<String>,
    table_prefix: Option<String>,
}

impl Recorded {
    fn read(store: &mut Store) -> anyhow::Result<Self> {
        let prefix = store.prefix().to_owned();
        let mut value = |name: &str| migrate::read_meta(store.db(), &prefix, name);
        Ok(Self {
            install_id: value("install_id")?.filter(|id| !id.is_empty()),
            database_name: value("database_name")?,
            table_prefix: value("table_prefix")?,
            schema: migrate::version(store.db(), &prefix)?,
        })
    }

    fn refuse_newer(&self) -> anyhow::Result<()> {
        match self.schema {
            Some(version) if version > migrate::newest() => Ok(migrate::check(self.schema)?),
            _ => Ok(()),
        }
    }

    /// What there is to take over; a copy is left alone unless that is wanted (RULINGS 46).
    fn adopted(
        &self,
        name: &str,
        prefix: &str,
        adopt: bool,
    ) -> anyhow::Result<Option<(String, String)>> {
        let Some(made_for) = &self.database_name else {
            return Ok(None);
        };
        let made_with = self.table_prefix.clone().unwrap_or_default();
        if adopt {
            return Ok(Some((made_for.clone(), made_with)));
        }
        if made_for == name && made_with == prefix {
            return Ok(None);
        }
        Err(Failure::configuration(format!(
            "this database was set up as {made_for} (prefix `{made_with}`) and is now {name} \
             (prefix `{prefix}`): if this copy is to fire by itself, run `punctual init --adopt`"
        ))
        .into())
    }
}

/// Records which database this is. A database taken over gets an id of its own, so that it shares
/// neither locks nor idempotency keys with the one it was copied from.
fn record(store: &mut Store, install: &Install, adopt: bool) -> anyhow::Result<()> {
    let keep = !adopt && !install.install_id.is_empty();
    let install_id = if keep {
        install.install_id.clone()
    } else {
        random_hex()
    };
    let written = store.transaction(|store| {
        let prefix = store.prefix().to_owned();
        migrate::write_meta(store.db(), &prefix, "database_name", &install.database_name)?;
        migrate::write_meta(store.db(), &prefix, "table_prefix", &prefix)?;
        Ok(migrate::write_meta(
            store.db(),
            &prefix,
            "install_id",
            &install_id,
        )?)
    });
    written.map_err(Stopped::into_error)
}

fn report(
    context: &Context,
    config: &Config,
    written: Option<&Path>,
    done: &SetUp,
) -> anyhow::Result<()> {
    let database = config
        .database
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let file = config
        .file
        .as_deref()
        .map(|path| path.display().to_string());
    if context.json {
        let adopted = done.adopted.as_ref().map(|(name, _)| name);
        return context.out.json(&json!({
            "config": file, "config_written": written.is_some(), "database": database,
            "schema_before": done.before, "schema": migrate::newest(), "adopted": adopted,
        }));
    }
    if let Some(path) = written {
        context.out.line(format!("wrote {}", path.display()))?;
    }
    let newest = migrate::newest();
    context.out.line(match done.before {
        None => format!("created the tables in {database}"),
        Some(before) if before < newest => {
            format!("upgraded the tables in {database} from schema {before} to {newest}")
        }
        Some(_) => format!("the tables in {database} are up to date"),
    })?;
    if let Some((name, prefix)) = &done.adopted {
        context.out.line(format!(
            "took over what was set up as {name} (prefix `{prefix}`)"
        ))?;
    }
    if let (None, Some(file)) = (done.before, file) {
        context.out.line(format!(
            "next: say in {file} what your types do, and add to the crontab:\n\
             * * * * * {} --config {file} run",
            program()
        ))?;
    }
    Ok(())
}

/// This binary as a crontab must name it: cron's `PATH` has hardly more than /usr/bin.
fn program() -> String {
    std::env::current_exe()
        .map_or_else(|_| "punctual".to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::fixture::Fixture;
    use crate::error::exit_of;

    #[test]
    fn init_may_be_repeated_and_keeps_the_install_id() {
        let at = Fixture::new();
        let id = at.rows("SELECT value FROM punctual_meta WHERE name = 'install_id'");
        let again = set_up(&at.context.config, Clock::system(), false).unwrap();
        assert_eq!(
            again,
            SetUp {
                before: Some(migrate::newest()),
                adopted: None
            }
        );
        assert_eq!(
            at.rows("SELECT value FROM punctual_meta WHERE name = 'install_id'"),
            id
        );
    }

    #[test]
    fn an_interrupted_init_is_completed_by_another() {
        let at = Fixture::new();
        let mut store = at.store();
        store
            .db()
            .execute("DELETE FROM punctual_meta", &[])
            .unwrap();
        let refusal = at.context.open(Access::Read).err().unwrap();
        assert_eq!(exit_of(&refusal), Exit::Configuration);
        set_up(&at.context.config, Clock::system(), false).unwrap();
        at.context.open(Access::Read).unwrap();
    }

    #[test]
    fn a_copied_database_is_left_alone_until_it_is_adopted() {
        let at = Fixture::new();
        at.insert("mail", 100);
        drop(at.store());
        let home = tempfile::tempdir().unwrap();
        let copy = Fixture::reading(home.path(), "");
        std::fs::copy(at.database(), copy.database()).unwrap();
        let config = &copy.context.config;
        let refusal = set_up(config, Clock::system(), false).unwrap_err();
        assert_eq!(exit_of(&refusal), Exit::Configuration);
        assert!(refusal.to_string().contains("init --adopt"), "{refusal}");
        let done = set_up(config, Clock::system(), true).unwrap();
        assert_eq!(done.adopted.unwrap().0, at.database().to_str().unwrap());
        let id = "SELECT value FROM punctual_meta WHERE name = 'install_id'";
        assert_ne!(copy.rows(id), at.rows(id));
        assert_eq!(copy.rows("SELECT type FROM scheduled_events"), ["mail"]);
    }

    #[test]
    fn a_newer_schema_is_refused_even_for_adoption() {
        let at = Fixture::new();
        let mut store = at.store();
        let newer = "UPDATE punctual_meta SET value = '999' WHERE name = 'schema_version'";
        store.db().execute(newer, &[]).unwrap();
        for adopt in [false, true] {
            let refusal = set_up(&at.context.config, Clock::system(), adopt).unwrap_err();
            assert_eq!(exit_of(&refusal), Exit::Configuration);
            assert!(
                refusal.to_string().contains("install the newer punctual"),
                "{refusal}"
            );
        }
    }

    #[test]
    fn init_waits_for_nobody() {
        let at = Fixture::new();
        let path = lock::lock_path(&at.context.config).unwrap();
        let Asked::Held(_held) = FileLock::ask(&path, Clock::system().now(), false).unwrap() else {
            panic!("nobody else has it");
        };
        let refusal = set_up(&at.context.config, Clock::system(), false).unwrap_err();
        assert_eq!(exit_of(&refusal), Exit::Temporary);
    }

    #[test]
    fn a_password_is_recognised_and_a_port_is_none() {
        assert!(holds_password("mysql://wiki:pw@localhost/wiki"));
        assert!(holds_password("mysql://wiki:p%40w@localhost:3306/wiki"));
        for url in [
            "mysql://wiki@localhost:3306/wiki",
            "mysql://localhost/w?socket=/a:b",
            "sqlite:a",
        ] {
            assert!(!holds_password(url), "{url}");
        }
    }
}
