//! Where lock files are: beside a SQLite file, or in the private state directory of a database,
//! which holds whatever else is remembered about it on this host.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::digest;
use crate::config::{Config, Database};
use crate::error::Failure;

/// The lock file of `config`'s database: beside a SQLite file, else in the private state directory
/// under a name made of database and prefix. Never in a shared temporary folder.
///
/// # Errors
/// [`Failure`] 78 without a database, 69 where the SQLite file's directory is missing, 77 where the
/// state directory is not private.
pub fn lock_path(config: &Config) -> anyhow::Result<PathBuf> {
    match &config.database {
        None => Err(Failure::no_database().into()),
        Some(Database::Sqlite { path }) => {
            let real = real_path(path)?;
            refuse_foreign_root(&real)?;
            let mut name = real.into_os_string();
            if !config.table_prefix.is_empty() {
                name.push(format!(".{}", config.table_prefix));
            }
            name.push(".runlock");
            Ok(name.into())
        }
        Some(Database::Mysql(_)) => Ok(private_dir(config)?.join("run.lock")),
    }
}

/// The state directory of this database, made if missing, 0700.
///
/// # Errors
/// [`Failure`] 77 where it cannot be made, or belongs to or is writable by others.
pub fn private_dir(config: &Config) -> anyhow::Result<PathBuf> {
    let database = config.database.as_ref().ok_or_else(Failure::no_database)?;
    let name = digest(
        &[
            database.to_string().as_bytes(),
            config.table_prefix.as_bytes(),
        ],
        16,
    );
    let dir = config.state_dir.join(name);
    let denied = |error: io::Error| {
        Failure::permission(format!(
            "state directory {}: {error}; set state_dir or $PUNCTUAL_STATE_DIR to a directory of \
             your own",
            dir.display()
        ))
    };
    make_private(&dir).map_err(denied)?;
    Ok(dir)
}

/// Makes `dir` if it is missing, 0700.
///
/// # Errors
/// Why it cannot be made, or not be trusted: it belongs to or is writable by others.
pub fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let about = fs::symlink_metadata(dir)?;
    if !about.is_dir() || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("is not a directory of this user"));
    }
    if about.mode() & 0o022 != 0 {
        return Err(io::Error::other("can be written by others"));
    }
    Ok(())
}

/// The SQLite file's real path; where the file is yet to be made, its directory's.
fn real_path(path: &Path) -> anyhow::Result<PathBuf> {
    if let Ok(real) = path.canonicalize() {
        return Ok(real);
    }
    let missing = || {
        Failure::unavailable(format!(
            "no database at {}; `punctual init` creates it",
            path.display()
        ))
    };
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let dir = parent
        .unwrap_or(Path::new("."))
        .canonicalize()
        .map_err(|_| missing())?;
    Ok(dir.join(path.file_name().ok_or_else(missing)?))
}

/// Root would leave a lock file and journals that the site's own user cannot open (RULINGS 36).
fn refuse_foreign_root(database: &Path) -> Result<(), Failure> {
    let owner = fs::metadata(database).map_or(0, |about| about.uid());
    if owner != 0 && rustix::process::geteuid().is_root() {
        return Err(Failure::permission(format!(
            "{} belongs to user {owner}; run as that user, not as root",
            database.display()
        )));
    }
    Ok(())
}
