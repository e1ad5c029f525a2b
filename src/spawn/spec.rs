//! What is started: a program, its arguments, its working directory and its whole environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A command that can be started many times, prepared once.
#[derive(Debug)]
pub struct CommandSpec {
    command: Command,
    cwd: PathBuf,
    stdin_is_null: bool,
    stdout_is_null: bool,
}

impl CommandSpec {
    /// `program` must be absolute: a look-up in `PATH` would cost the fast way of starting it.
    /// `argv` starts with the name the program sees as its own. `env` is all the environment it
    /// gets.
    ///
    /// # Errors
    /// `InvalidInput` where a text holds a NUL byte, or `argv` is empty.
    pub fn new(
        program: &Path,
        argv: &[String],
        cwd: &Path,
        env: &BTreeMap<OsString, OsString>,
    ) -> io::Result<Self> {
        let (own_name, rest) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let variables = env
            .iter()
            .flat_map(|(name, value)| [name.as_os_str(), value]);
        let texts = argv.iter().map(OsStr::new).chain(variables);
        for text in texts.chain([program.as_os_str(), cwd.as_os_str()]) {
            refuse_nul(text)?;
        }
        let mut command = Command::new(program);
        command
            .arg0(own_name)
            .args(rest)
            .current_dir(cwd)
            .env_clear()
            .envs(env)
            .process_group(0);
        Ok(Self {
            command,
            cwd: cwd.into(),
            stdin_is_null: false,
            stdout_is_null: false,
        })
    }

    /// Sets a variable for every later start.
    ///
    /// # Errors
    /// `InvalidInput` where the value holds a NUL byte; nothing is changed then.
    pub fn set_env(&mut self, name: &str, value: impl AsRef<OsStr>) -> io::Result<()> {
        refuse_nul(value.as_ref())?;
        self.command.env(name, value);
        Ok(())
    }

    /// Removes a variable for every later start.
    pub fn unset_env(&mut self, name: &str) {
        self.command.env_remove(name);
    }

    /// The program.
    pub fn program(&self) -> &Path {
        Path::new(self.command.get_program())
    }

    /// The working directory.
    pub fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// Starts it with these ends of pipes, which are closed here afterwards. Where there is none,
    /// it gets `null`, which stays open from one start to the next.
    #[expect(
        clippy::disallowed_methods,
        reason = "one of the two places that start processes"
    )]
    pub(super) fn start(
        &mut self,
        stdin: Option<PipeReader>,
        stdout: Option<PipeWriter>,
        stderr: PipeWriter,
        null: &File,
    ) -> io::Result<Child> {
        if let Some(pipe) = stdin {
            self.command.stdin(pipe);
            self.stdin_is_null = false;
        } else if !self.stdin_is_null {
            self.command.stdin(null.try_clone()?);
            self.stdin_is_null = true;
        }
        if let Some(pipe) = stdout {
            self.command.stdout(pipe);
            self.stdout_is_null = false;
        } else if !self.stdout_is_null {
            self.command.stdout(null.try_clone()?);
            self.stdout_is_null = true;
        }
        let child = self.command.stderr(stderr).spawn();
        if !self.stdin_is_null {
            self.command.stdin(Stdio::inherit());
        }
        if !self.stdout_is_null {
            self.command.stdout(Stdio::inherit());
        }
        self.command.stderr(Stdio::inherit());
        child
    }
}

/// `Command` would remember a NUL byte and refuse every later start too.
fn refuse_nul(text: &OsStr) -> io::Result<()> {
    if text.as_encoded_bytes().contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a text holds a NUL byte",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_byte_is_refused_wherever_it_stands() {
        let argv = ["true".to_owned()];
        let env = BTreeMap::from([("A".into(), "x\0y".into())]);
        let none = BTreeMap::new();
        let (bin, root) = (Path::new("/bin/true"), Path::new("/"));
        assert!(CommandSpec::new(bin, &argv, root, &none).is_ok());
        assert!(CommandSpec::new(bin, &argv, root, &env).is_err());
        assert!(CommandSpec::new(bin, &["a\0".to_owned()], root, &none).is_err());
        assert!(CommandSpec::new(Path::new("/bin\0"), &argv, root, &none).is_err());
        assert!(CommandSpec::new(bin, &argv, Path::new("/\0"), &none).is_err());
        assert!(CommandSpec::new(bin, &[], root, &none).is_err());
        let mut spec = CommandSpec::new(bin, &argv, root, &none).unwrap();
        assert!(spec.set_env("KEY", "\0").is_err());
    }
}
