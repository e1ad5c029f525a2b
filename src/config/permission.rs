//! Who may have written a file that holds commands, and who may read one that holds a password.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ConfigError;

/// More than any configuration needs; less than a device without an end.
const MAX_BYTES: u64 = 1 << 20;

/// How far a file is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Nobody but its owner may write it.
    Writers,
    /// Nobody but its owner may read it either; the group may where root owns it, because then
    /// root chose that group.
    Readers,
    /// `--allow-unsafe-config`.
    Anything,
}

/// Reads a file that may be missing, under `rule`. Judged is the file that was opened, not what
/// its name stands for a moment later.
pub(super) fn read(path: &Path, rule: Rule) -> Result<Option<Vec<u8>>, ConfigError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_missing(path, &error) => return Ok(None),
        Err(error) => return Err(unreadable(path, &error)),
    };
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    if metadata.is_dir() {
        let message = format!("{} is a directory, not a file", path.display());
        return Err(ConfigError::Unreadable(message));
    }
    if rule != Rule::Anything {
        judge(path, Facts::of(&metadata), rule)?;
        judge_directories(path)?;
    }
    // One more, so that the end is found without growing.
    let length = metadata.len().min(MAX_BYTES);
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!(
            "{} is larger than 1 MiB: is it the right file?",
            path.display()
        );
        return Err(ConfigError::Invalid(message));
    }
    Ok(Some(bytes))
}

/// In a directory that may not even be searched (another user's home under `sudo`), nothing is
/// known to be there.
fn is_missing(path: &Path, error: &io::Error) -> bool {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => true,
        ErrorKind::PermissionDenied => path.symlink_metadata().is_err(),
        _ => false,
    }
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    ConfigError::Unreadable(format!("cannot read {}: {error}", path.display()))
}

/// What is judged of a file.
#[derive(Debug, Clone, Copy)]
struct Facts {
    mode: u32,
    owner: u32,
    me: u32,
}

impl Facts {
    fn of(metadata: &Metadata) -> Self {
        let me = rustix::process::geteuid().as_raw();
        Self {
            mode: metadata.mode() & 0o7777,
            owner: metadata.uid(),
            me,
        }
    }
}

fn judge(path: &Path, facts: Facts, rule: Rule) -> Result<(), ConfigError> {
    let Facts { mode, owner, me } = facts;
    let shown = path.display();
    if owner != me && owner != 0 {
        return Err(ConfigError::Unsafe(format!(
            "{shown} belongs to user {owner}, neither to this user ({me}) nor to root: run \
             `chown {me} {shown}`, or run as its owner"
        )));
    }
    if mode & 0o022 != 0 {
        return Err(ConfigError::Unsafe(format!(
            "{shown} can be written by others (mode {mode:04o}): run `chmod go-w {shown}`, or \
             pass --allow-unsafe-config on a development box"
        )));
    }
    let readers = if owner == 0 { 0o007 } else { 0o077 };
    if rule == Rule::Readers && mode & readers != 0 {
        return Err(ConfigError::Unsafe(format!(
            "{shown} holds a password and can be read by others (mode {mode:04o}): run \
             `chmod 600 {shown}`"
        )));
    }
    Ok(())
}

/// Whoever may write a directory may replace the file in it, unless the directory is sticky.
fn judge_directories(path: &Path) -> Result<(), ConfigError> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    for directory in [parent(path), parent(&real)] {
        let Ok(metadata) = directory.metadata() else {
            continue;
        };
        let mode = metadata.mode();
        if mode & 0o002 != 0 && mode & 0o1000 == 0 {
            return Err(ConfigError::Unsafe(format!(
                "everybody can write the directory {dir} and so replace {file}: run \
                 `chmod o-w {dir}`",
                dir = directory.display(),
                file = path.display(),
            )));
        }
    }
    Ok(())
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_path_buf(),
        None => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(mode: u32, owner: u32, rule: Rule) -> Result<(), String> {
        judge(
            Path::new("c.toml"),
            Facts {
                mode,
                owner,
                me: 1000,
            },
            rule,
        )
        .map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_of_this_user_or_of_root_that_only_they_write_is_trusted() {
        for mode in [0o600, 0o640, 0o644, 0o400] {
            assert_eq!(judged(mode, 1000, Rule::Writers), Ok(()), "{mode:o}");
            assert_eq!(judged(mode, 0, Rule::Writers), Ok(()), "{mode:o}");
        }
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        let refusal = judged(0o600, 33, Rule::Writers).unwrap_err();
        assert!(
            refusal.contains("belongs to user 33, neither to this user (1000)"),
            "{refusal}"
        );
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        for mode in [0o620, 0o602, 0o666, 0o664] {
            let refusal = judged(mode, 1000, Rule::Writers).unwrap_err();
            assert!(refusal.contains("run `chmod go-w c.toml`"), "{refusal}");
        }
    }

    #[test]
    fn a_password_file_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o644] {
            let refusal = judged(mode, 1000, Rule::Readers).unwrap_err();
            assert!(refusal.contains("run `chmod 600 c.toml`"), "{refusal}");
        }
        assert_eq!(judged(0o600, 1000, Rule::Readers), Ok(()));
        assert_eq!(judged(0o640, 0, Rule::Readers), Ok(()));
        assert!(judged(0o644, 0, Rule::Readers).is_err());
    }
}
