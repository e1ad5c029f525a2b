//! From a configuration to a started process: environment, program, and why it did not start.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::config::CommandConfig;
use crate::handler::Verdict;
use crate::spawn::{ChildId, CommandSpec, Output, Reactor, SpawnError};

/// What children get of the run's own environment without being asked; `*` ends a prefix.
pub const PASSED_ENV: [&str; 9] = [
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ", "TMPDIR",
];
/// What children never get, whatever `pass_env` and `env` say: it may hold a password.
pub const NEVER_PASSED: &str = "PUNCTUAL_DATABASE";
/// Where programs are looked for when the run has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Starts the command of one type, prepared once.
#[derive(Debug)]
pub(super) struct Launcher {
    type_name: String,
    argv: Vec<String>,
    cwd: PathBuf,
    env: BTreeMap<OsString, OsString>,
    spec: Option<CommandSpec>,
}

impl Launcher {
    pub(super) fn new(
        type_name: &str,
        command: &CommandConfig,
        run_env: &BTreeMap<OsString, OsString>,
    ) -> Self {
        Self {
            type_name: type_name.to_owned(),
            argv: command.argv.clone(),
            cwd: command.cwd.clone(),
            env: environment(command, run_env),
            spec: None,
        }
    }

    /// The same for another thread.
    pub(super) fn another(&self) -> Self {
        Self {
            type_name: self.type_name.clone(),
            argv: self.argv.clone(),
            cwd: self.cwd.clone(),
            env: self.env.clone(),
            spec: None,
        }
    }

    /// The type this starts processes for.
    pub(super) fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Starts a process after `prepare` has set its variables; the error is what became of its
    /// events.
    pub(super) fn launch(
        &mut self,
        reactor: &mut Reactor,
        input: Vec<u8>,
        output: Output,
        prepare: impl FnOnce(&mut CommandSpec) -> io::Result<()>,
    ) -> Result<ChildId, Verdict> {
        let mut spec = match self.spec.take() {
            Some(spec) => spec,
            None => self.prepare().map_err(|why| self.not_started(&why))?,
        };
        if let Err(error) = prepare(&mut spec) {
            self.spec = Some(spec);
            return Err(self.not_started(&error.to_string()));
        }
        match reactor.spawn(&mut spec, input, output) {
            Ok(id) => {
                self.spec = Some(spec);
                Ok(id)
            }
            // The spec is dropped: the program may be found elsewhere next time.
            Err(error) if error.is_temporary() => Err(self.not_now(&error.to_string())),
            Err(SpawnError::Start(error)) => Err(self.not_started(&reason(&error, &spec))),
            Err(error) => Err(self.not_started(&error.to_string())),
        }
    }

    fn prepare(&self) -> Result<CommandSpec, String> {
        let name = self.argv.first().ok_or("`command` is empty")?;
        let path = self
            .env
            .get(OsStr::new("PATH"))
            .map_or(OsStr::new(""), OsString::as_os_str);
        let program = find_program(name, path, &self.cwd).ok_or_else(|| {
            format!(
                "no such program in PATH ({}); give its full path",
                path.display()
            )
        })?;
        CommandSpec::new(&program, &self.argv, &self.cwd, &self.env).map_err(|e| e.to_string())
    }

    fn not_started(&self, why: &str) -> Verdict {
        Verdict::NotStarted {
            error: self.complaint(why),
        }
    }

    /// What becomes of an event for which there are not the means at the moment.
    pub(super) fn not_now(&self, why: &str) -> Verdict {
        Verdict::Later {
            error: self.complaint(why),
            retry_after: None,
        }
    }

    fn complaint(&self, why: &str) -> String {
        let name = self.argv.first().map_or("", String::as_str);
        format!("cannot start `{name}` of [type.{}]: {why}", self.type_name)
    }
}

/// All that a child gets: the stated list, `pass_env`, `env`, later ones winning.
fn environment(
    command: &CommandConfig,
    run_env: &BTreeMap<OsString, OsString>,
) -> BTreeMap<OsString, OsString> {
    let is_passed = |name: &OsStr| {
        PASSED_ENV.iter().any(|pattern| matches(pattern, name))
            || command
                .pass_env
                .iter()
                .any(|wanted| OsStr::new(wanted) == name)
    };
    let mut env = BTreeMap::from([("PATH".into(), DEFAULT_PATH.into())]);
    env.extend(
        run_env
            .iter()
            .filter(|(name, _)| is_passed(name))
            .map(|(n, v)| (n.clone(), v.clone())),
    );
    env.extend(
        command
            .env
            .iter()
            .map(|(name, value)| (name.into(), value.into())),
    );
    env.remove(OsStr::new(NEVER_PASSED));
    env
}

fn matches(pattern: &str, name: &OsStr) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.as_encoded_bytes().starts_with(prefix.as_bytes()),
        None => name == pattern,
    }
}

/// The absolute path of a program: as it stands, below `cwd` if it has a slash, otherwise the
/// first executable of that name in `path`, whose relative entries are ignored. `None`: not found.
fn find_program(name: &str, path: &OsStr, cwd: &Path) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(cwd.join(name));
    }
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
}

/// Why the system refused, with the remedy. One error number stands for several mistakes.
fn reason(error: &io::Error, spec: &CommandSpec) -> String {
    let cwd = spec.cwd().display();
    let remedy = match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) if !spec.cwd().is_dir() => {
            return format!("no such working directory {cwd}; set `cwd`");
        }
        Some(Errno::NOENT) if spec.program().exists() => {
            return "its interpreter does not exist; look at the first line of the script".into();
        }
        Some(Errno::NOENT | Errno::NOTDIR) => {
            return format!(
                "no such file {}; look at `command`",
                spec.program().display()
            );
        }
        Some(Errno::ACCESS) => "make it executable (chmod +x) or name its interpreter",
        Some(Errno::NOEXEC) => "begin the script with its interpreter, e.g. #!/bin/sh",
        Some(Errno::TOOBIG) => "its arguments and environment are too large",
        _ => return error.to_string(),
    };
    format!("{error}; {remedy}")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Mode;

    fn command(env: &[(&str, &str)], pass_env: &[&str]) -> CommandConfig {
        CommandConfig {
            argv: vec!["true".to_owned()],
            mode: Mode::Each,
            cwd: "/".into(),
            env: env
                .iter()
                .map(|&(n, v)| (n.to_owned(), v.to_owned()))
                .collect(),
            pass_env: pass_env.iter().map(|&n| n.to_owned()).collect(),
        }
    }

    fn run_env(names: &[&str]) -> BTreeMap<OsString, OsString> {
        names
            .iter()
            .map(|&name| (name.into(), "run".into()))
            .collect()
    }

    fn names(env: &BTreeMap<OsString, OsString>) -> Vec<&str> {
        env.keys().map(|name| name.to_str().unwrap()).collect()
    }

    #[test]
    fn only_the_stated_list_is_passed_on() {
        let run_env = run_env(&[
            "PATH",
            "HOME",
            "LC_ALL",
            "LC_TIME",
            "LCX",
            "TZ",
            "MAILTO",
            "LD_PRELOAD",
            "LANGUAGE",
            "PUNCTUAL_CONFIG",
            "PUNCTUAL_DATABASE",
            "MYSQL_PWD",
        ]);
        let env = environment(&command(&[], &[]), &run_env);
        assert_eq!(names(&env), ["HOME", "LC_ALL", "LC_TIME", "PATH", "TZ"]);
    }

    #[test]
    fn pass_env_and_env_add_to_it_and_env_wins() {
        let run_env = run_env(&["HOME", "MAILTO", "OTHER"]);
        let env = environment(
            &command(&[("HOME", "/own"), ("X", "")], &["MAILTO", "NONE"]),
            &run_env,
        );
        assert_eq!(names(&env), ["HOME", "MAILTO", "PATH", "X"]);
        assert_eq!(env[OsStr::new("HOME")], "/own");
        assert_eq!(env[OsStr::new("PATH")], DEFAULT_PATH);
    }

    #[test]
    fn the_database_is_never_passed_on() {
        let config = command(&[(NEVER_PASSED, "mysql://")], &[NEVER_PASSED]);
        assert_eq!(
            names(&environment(&config, &run_env(&[NEVER_PASSED]))),
            ["PATH"]
        );
    }

    #[test]
    fn a_program_is_looked_up_where_a_shell_would() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, mode) in [("a", 0o644), ("b", 0o755), ("c", 0o755)] {
            let file = dir.path().join(folder).join("tool");
            fs::create_dir(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        let folders = ["a", "b", "c"].map(|folder| dir.path().join(folder));
        let path = std::env::join_paths(&folders).unwrap();
        let cwd = Path::new("/srv");
        // The superuser may execute no file without an x either.
        assert_eq!(
            find_program("tool", &path, cwd),
            Some(folders[1].join("tool"))
        );
        assert_eq!(find_program("tool", OsStr::new("a:b::."), cwd), None);
        assert_eq!(find_program("none", &path, cwd), None);
        assert_eq!(find_program("bin/x", &path, cwd), Some("/srv/bin/x".into()));
        assert_eq!(find_program("/bin/x", &path, cwd), Some("/bin/x".into()));
    }
}
