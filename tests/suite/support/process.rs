//! Processes of the tests: started, watched, killed by their own handle only.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A process that has come to its end.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Everything it printed.
    pub(crate) stdout: String,
    /// Everything it complained about.
    pub(crate) stderr: String,
    /// Its exit code; 128 + n where signal n ended it, as a shell has it.
    pub(crate) code: i32,
}

impl Ended {
    /// Asserts that all was well and quiet: exit 0, nothing on stderr.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(
            (self.code, self.stderr.as_str()),
            (0, ""),
            "stdout: {}",
            self.stdout
        );
        self
    }

    /// The one JSON value on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON value ({error}): {self:?}"))
    }

    /// One JSON value a line of stdout.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        self.stdout
            .lines()
            .map(|line| {
                serde_json::from_str(line)
                    .unwrap_or_else(|error| panic!("no JSON ({error}): {line}"))
            })
            .collect()
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let signal = || 128 + output.status.signal().unwrap_or_default();
        Self {
            code: output.status.code().unwrap_or_else(signal),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A process under way; killed when dropped.
pub(crate) struct Running {
    child: Option<Child>,
}

impl Running {
    /// Starts `command` with pipes on all three streams; `stdin` is written and closed.
    #[track_caller]
    pub(crate) fn start(mut command: Command, stdin: &[u8]) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        let mut pipe = child.stdin.take().expect("stdin is a pipe");
        if stdin.len() < 4096 {
            // A program that reads nothing may be gone already; its answer tells.
            let _ = pipe.write_all(stdin);
        } else {
            let stdin = stdin.to_vec();
            std::thread::spawn(move || pipe.write_all(&stdin));
        }
        Self { child: Some(child) }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Sends it a signal.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(raw(self.pid()), signal).expect("a child of ours");
    }

    /// Whether it has not ended yet.
    #[track_caller]
    pub(crate) fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("not waited for yet");
        child.try_wait().expect("a child of ours").is_none()
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        let child = self.child.take().expect("waited for once");
        child.wait_with_output().expect("a child of ours").into()
    }

    /// kill -9, and waits for the end, which includes that of children holding its pipes.
    #[track_caller]
    pub(crate) fn kill_9(mut self) -> Ended {
        if let Some(child) = &mut self.child {
            child.kill().expect("a child of ours");
        }
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a signal to a process that may be gone already.
#[track_caller]
pub(crate) fn send(pid: u32, signal: Signal) {
    let _ = kill_process(raw(pid), signal);
}

#[track_caller]
fn raw(pid: u32) -> Pid {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.expect("a process id")
}

/// Waits until `what` holds, looking after 1 ms, 2 ms … and then every 10 ms; panics after a minute,
/// which no machine needs.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_mins(1),
            "not within a minute: {what}"
        );
        std::thread::sleep(pause);
        pause = (pause + Duration::from_millis(1)).min(Duration::from_millis(10));
    }
}

/// Whether a process runs: neither gone nor dead and waiting to be reaped.
pub(crate) fn is_alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let (_, rest) = stat.rsplit_once(')').expect("as in proc(5)");
    !rest.trim_start().starts_with(['Z', 'X'])
}
