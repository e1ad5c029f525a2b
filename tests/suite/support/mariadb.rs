//! Real MariaDB servers: one shared by the suite, and throw-away ones that a test may kill.
//!
//! `contrib/private-mariadb` starts each; at the end of its stdin, a pipe whose other end only
//! this process holds, it kills the server and removes its directory. So nothing is left behind
//! however this process ends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use mysql::prelude::Queryable as _;

use super::host::Host;

/// A running MariaDB server of this process alone.
pub(crate) struct Server {
    supervisor: Mutex<Supervisor>,
    directory: PathBuf,
}

struct Supervisor {
    process: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Of mariadbd.
    pid: u32,
}

/// A database of one test's own, with its own users; dropped with this value.
pub(crate) struct Database {
    /// Its name.
    pub(crate) name: String,
    /// A user with all rights on this database and none elsewhere, as on shared hosting.
    pub(crate) user: String,
    /// That user's password.
    pub(crate) password: String,
    /// The same rights without a password.
    pub(crate) open_user: String,
    /// The server's socket.
    pub(crate) socket: PathBuf,
}

/// The server that the suite shares; started by the first test that needs it.
pub(crate) fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| Server::private(&[]))
}

impl Server {
    /// A throw-away server with these `mariadbd` options beside the usual ones (words without
    /// spaces). To listen on a port: `--skip-networking=0`, `--bind-address=127.0.0.1`, and
    /// `--port=` with a [`free_port`].
    #[track_caller]
    pub(crate) fn private(options: &[&str]) -> Self {
        Self::started_by(Command::new(script()), options)
    }

    /// As [`Server::private`], on a host of its own; its socket is reached from everywhere.
    #[track_caller]
    pub(crate) fn on_host(host: &Host, options: &[&str]) -> Self {
        Self::started_by(host.bare_command(script()), options)
    }

    #[track_caller]
    fn started_by(mut script: Command, options: &[&str]) -> Self {
        let mut process = script
            .args([
                "--template",
                concat!(env!("CARGO_TARGET_TMPDIR"), "/mariadb"),
            ])
            .args(options)
            // A Ctrl-C at the terminal must not end the supervisor before its clean-up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{SCRIPT}: {error}"));
        let mut supervisor = Supervisor {
            commands: process.stdin.take(),
            answers: BufReader::new(process.stdout.take().expect("stdout is a pipe")),
            process,
            pid: 0,
        };
        let directory = supervisor.await_ready();
        Self {
            supervisor: Mutex::new(supervisor),
            directory,
        }
    }

    /// Where its data, its socket and its error log are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// The process id of `mariadbd`.
    pub(crate) fn pid(&self) -> u32 {
        self.lock().pid
    }

    /// kill -9; returns when it is dead. [`Server::restart`] brings it back on the same data.
    #[track_caller]
    pub(crate) fn kill_9(&self) {
        let mut supervisor = self.lock();
        supervisor.say("kill");
        assert_eq!(supervisor.answer(), "killed");
    }

    /// Shuts it down in order; returns when it has ended.
    #[track_caller]
    pub(crate) fn stop(&self) {
        let mut supervisor = self.lock();
        supervisor.say("stop");
        assert_eq!(supervisor.answer(), "stopped");
    }

    /// Starts it again after [`Server::kill_9`] or [`Server::stop`], these options added.
    #[track_caller]
    pub(crate) fn restart(&self, options: &[&str]) {
        let mut supervisor = self.lock();
        supervisor.say(&format!("start {}", options.join(" ")));
        supervisor.await_ready();
    }

    /// A connection with all rights, for a test's own questions.
    #[track_caller]
    pub(crate) fn admin(&self) -> mysql::Conn {
        connect(&self.socket(), "root", "", None)
    }

    /// One number of `SHOW GLOBAL STATUS`, such as `Innodb_row_lock_waits`.
    #[track_caller]
    pub(crate) fn status_var(&self, name: &str) -> i64 {
        let row: Option<(String, String)> = self
            .admin()
            .exec_first("SHOW GLOBAL STATUS WHERE Variable_name = ?", (name,))
            .expect("a status question");
        let (_, value) = row.unwrap_or_else(|| panic!("no status variable {name}"));
        value
            .parse()
            .unwrap_or_else(|error| panic!("{name} = {value}: {error}"))
    }

    /// A fresh, empty database with users of its own.
    #[track_caller]
    pub(crate) fn database(&self) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let database = Database {
            name: format!("site_{number}"),
            user: format!("user_{number}"),
            password: format!("not-to-be-shown-{number}"),
            open_user: format!("open_{number}"),
            socket: self.socket(),
        };
        let Database {
            name,
            user,
            password,
            open_user,
            ..
        } = &database;
        let mut admin = self.admin();
        for statement in [
            format!("CREATE DATABASE {name}"),
            format!("CREATE USER {user}@localhost IDENTIFIED BY '{password}'"),
            format!("CREATE USER {open_user}@localhost"),
            format!("GRANT ALL ON {name}.* TO {user}@localhost, {open_user}@localhost"),
        ] {
            admin
                .query_drop(&statement)
                .unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        database
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Supervisor> {
        self.supervisor
            .lock()
            .expect("no test panicked while it spoke to its server")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let supervisor = self
            .supervisor
            .get_mut()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        drop(supervisor.commands.take());
        let _ = supervisor.process.wait();
    }
}

impl Supervisor {
    #[track_caller]
    fn say(&mut self, command: &str) {
        let commands = self.commands.as_mut().expect("open until dropped");
        writeln!(commands, "{command}").expect("the supervisor reads");
    }

    #[track_caller]
    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .expect("the supervisor answers");
        line.trim_end().to_owned()
    }

    /// Waits for "ready PID DIRECTORY"; panics with the reason, such as what to install.
    #[track_caller]
    fn await_ready(&mut self) -> PathBuf {
        let answer = self.answer();
        let ready = answer
            .strip_prefix("ready ")
            .and_then(|rest| rest.split_once(' '));
        let (pid, directory) = ready.unwrap_or_else(|| panic!("no MariaDB server: {answer}"));
        self.pid = pid.parse().expect("a process id");
        PathBuf::from(directory)
    }
}

impl Database {
    /// The URL for a configuration file, the password in it.
    pub(crate) fn url(&self) -> String {
        self.url_as(&format!("{}:{}", self.user, self.password))
    }

    /// The URL without the password, which `password_file` or `~/.my.cnf` then holds.
    pub(crate) fn url_without_password(&self) -> String {
        self.url_as(&self.user)
    }

    /// The URL over TCP to `address`, the password in it; the user is made for it.
    #[track_caller]
    pub(crate) fn url_over_tcp(&self, server: &Server, address: &str) -> String {
        let Self {
            name,
            user,
            password,
            ..
        } = self;
        let mut admin = server.admin();
        for statement in [
            format!("CREATE OR REPLACE USER {user}@'%' IDENTIFIED BY '{password}'"),
            format!("GRANT ALL ON {name}.* TO {user}@'%'"),
        ] {
            let made = admin.query_drop(&statement);
            made.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        format!("mysql://{user}:{password}@{address}/{name}")
    }

    /// The URL of the user who needs no password: may stand on a command line.
    pub(crate) fn open_url(&self) -> String {
        self.url_as(&self.open_user)
    }

    /// A connection of the site's own user, as PHP would have it.
    #[track_caller]
    pub(crate) fn connect(&self) -> mysql::Conn {
        connect(&self.socket, &self.user, &self.password, Some(&self.name))
    }

    /// Has the server end every session in this database; returns when they are gone.
    #[track_caller]
    pub(crate) fn end_sessions(&self) {
        let mut admin = connect(&self.socket, "root", "", None);
        let sessions = "SELECT id FROM information_schema.processlist WHERE db = ?";
        let found: Vec<u64> = admin.exec(sessions, (&self.name,)).expect("a list");
        assert!(!found.is_empty(), "nobody is connected");
        for id in found {
            // It may end by itself meanwhile.
            let _ = admin.query_drop(format!("KILL {id}"));
        }
        super::process::eventually("the sessions are gone", || {
            let left: Vec<u64> = admin.exec(sessions, (&self.name,)).expect("a list");
            left.is_empty()
        });
    }

    fn url_as(&self, user: &str) -> String {
        format!(
            "mysql://{user}@localhost/{}?socket={}",
            self.name,
            self.socket.display()
        )
    }
}

impl Drop for Database {
    /// Keeps the shared server small. A server that a test has killed has nothing to drop.
    fn drop(&mut self) {
        let Self {
            name,
            user,
            open_user,
            ..
        } = &*self;
        let Ok(mut admin) = mysql::Conn::new(options(&self.socket, "root", "", None)) else {
            return;
        };
        // A connection still open in the database, of a failed test, must not hold this one up.
        for statement in [
            "SET lock_wait_timeout = 2".to_owned(),
            format!("DROP DATABASE IF EXISTS {name}"),
            format!("DROP USER IF EXISTS {user}@localhost, {open_user}@localhost"),
        ] {
            let _ = admin.query_drop(statement);
        }
    }
}

/// A loopback port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
    listener.local_addr().expect("a bound address").port()
}

const SCRIPT: &str = "contrib/private-mariadb";

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(SCRIPT)
}

#[track_caller]
fn connect(socket: &Path, user: &str, password: &str, database: Option<&str>) -> mysql::Conn {
    mysql::Conn::new(options(socket, user, password, database))
        .unwrap_or_else(|error| panic!("{user} at {}: {error}", socket.display()))
}

fn options(
    socket: &Path,
    user: &str,
    password: &str,
    database: Option<&str>,
) -> mysql::OptsBuilder {
    mysql::OptsBuilder::new()
        .socket(Some(socket.display().to_string()))
        .user(Some(user))
        .pass(Some(password))
        .db_name(database)
        .prefer_socket(false)
}
