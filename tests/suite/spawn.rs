//! Children and their watchdog, with real processes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use punctual::clock::monotonic;
use punctual::spawn::{CommandSpec, Output, Reactor, STDERR_KEPT, SpawnError};
use rustix::process::{Pid, Signal, getpgid, kill_process};

use crate::processes::{Kit, PATIENCE, lock, sh};
use crate::support::process::{eventually, is_alive};

fn pid(raw: u32) -> Pid {
    Pid::from_raw(i32::try_from(raw).unwrap()).unwrap()
}

#[test]
fn a_child_ends_with_a_status_and_the_end_of_its_complaint() {
    let mut kit = Kit::new();
    let id = kit.sh(
        "echo out; echo first >&2; echo last >&2; exit 3",
        Output::Pipe,
    );
    let (printed, exit) = kit.end(id);
    assert_eq!(printed, "out\n");
    assert_eq!(exit.status.unwrap().code(), Some(3));
    assert_eq!(exit.stderr, b"first\nlast\n");
    assert!(kit.reactor.take_exit(id).is_none());
}

#[test]
fn megabytes_of_complaint_neither_block_the_child_nor_fill_the_memory() {
    let mut kit = Kit::new();
    let id = kit.sh(
        "head -c 5000000 /dev/zero | tr '\\0' x >&2; printf end >&2",
        Output::Null,
    );
    let (_, exit) = kit.end(id);
    assert!(exit.status.unwrap().success());
    assert_eq!(exit.stderr.len(), STDERR_KEPT);
    assert!(exit.stderr.ends_with(b"xxxend"));
}

#[test]
fn megabytes_of_output_are_collected_as_they_come() {
    let mut kit = Kit::new();
    let id = kit.sh("head -c 5000000 /dev/zero | tr '\\0' x", Output::Pipe);
    assert_eq!(kit.end(id).0.len(), 5_000_000);
}

#[test]
fn a_large_input_is_written_beside_a_large_output() {
    let mut kit = Kit::new();
    let input = vec![b'x'; 3_000_000];
    let id = kit
        .reactor
        .spawn(&mut sh("cat"), input, Output::Pipe)
        .unwrap();
    assert_eq!(kit.end(id).0.len(), 3_000_000);
}

#[test]
fn an_input_that_is_never_read_holds_nobody_up() {
    let mut kit = Kit::new();
    let id = kit
        .reactor
        .spawn(&mut sh("exec 0<&-; exit 4"), vec![0; 1 << 20], Output::Null);
    assert_eq!(kit.end(id.unwrap()).1.status.unwrap().code(), Some(4));
    let id = kit
        .reactor
        .spawn(&mut sh("exit 5"), vec![0; 1 << 20], Output::Null);
    assert_eq!(kit.end(id.unwrap()).1.status.unwrap().code(), Some(5));
}

/// The open descriptors of a process by number, with what they lead to.
fn descriptors(pid: &str) -> BTreeMap<u32, String> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let number = |name: std::ffi::OsString| name.to_str().unwrap().parse().unwrap();
    folder
        .filter_map(|fd| Some((number(fd.file_name()), fs::read_link(fd.path()).ok()?)))
        .map(|(number, target)| (number, target.to_string_lossy().into_owned()))
        .collect()
}

/// What whoever started the tests lets all processes inherit.
fn inherited() -> BTreeMap<u32, String> {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let mut all = descriptors("self");
    all.retain(|fd, _| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        flags
            .is_some_and(|flags| u32::from_str_radix(flags.trim(), 8).unwrap() & CLOSE_ON_EXEC == 0)
    });
    all
}

/// The open descriptors of a process, but for what it inherited from the world outside.
fn own_descriptors(pid: Pid, inherited: &BTreeMap<u32, String>) -> BTreeMap<u32, String> {
    let mut own = descriptors(&pid.to_string());
    own.retain(|fd, target| *fd <= 2 || inherited.get(fd) != Some(target));
    own
}

#[test]
fn a_child_has_nothing_open_but_its_three_streams() {
    let inherited = inherited();
    let mut kit = Kit::new();
    let input = b"small".to_vec();
    let large = vec![b'x'; 1 << 20];
    let spec = &mut sh("exec sleep 600");
    for (input, output) in [
        (Vec::new(), Output::Null),
        (input, Output::Pipe),
        (large, Output::Pipe),
    ] {
        let id = kit.reactor.spawn(spec, input, output).unwrap();
        let pid = kit.reactor.pid(id).unwrap();
        // The system lets the starter go on before it has closed what is to be closed.
        eventually("three streams", || {
            own_descriptors(pid, &inherited).keys().eq(&[0, 1, 2])
        });
        let own = own_descriptors(pid, &inherited);
        assert_eq!(own[&1] == "/dev/null", output == Output::Null);
        assert!(own[&2].starts_with("pipe:"));
    }
}

#[test]
fn a_child_leads_a_group_and_gets_the_stated_environment_only() {
    let mut kit = Kit::new();
    let argv = ["own-name", "-c", "echo $0; pwd; env"].map(str::to_owned);
    let env = BTreeMap::from([("A".into(), "1".into())]);
    let mut spec = CommandSpec::new(Path::new("/bin/sh"), &argv, Path::new("/usr"), &env).unwrap();
    spec.set_env("B", "2").unwrap();
    spec.set_env("C", "3").unwrap();
    spec.unset_env("C");
    let id = kit
        .reactor
        .spawn(&mut spec, Vec::new(), Output::Pipe)
        .unwrap();
    let child = kit.reactor.pid(id).unwrap();
    assert_eq!(getpgid(Some(child)).unwrap(), child);
    let (printed, _) = kit.end(id);
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    let [before @ .., mark, directory, name] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert_eq!(before, ["/usr", "A=1", "B=2"]);
    let mark = mark.strip_prefix("PUNCTUAL_RUN_MARK=").expect(mark);
    assert_eq!(mark.len(), 32, "{mark}");
    assert_eq!([*directory, *name], ["PWD=/usr", "own-name"]);
}

#[test]
fn what_a_child_leaves_in_the_background_is_killed_and_holds_nobody_up() {
    let mut kit = Kit::new();
    let id = kit.sh("sleep 600 & echo $!", Output::Pipe);
    let (printed, exit) = kit.end(id);
    assert!(exit.status.unwrap().success());
    let left: i32 = printed.trim().parse().unwrap();
    eventually("the background child is dead", || !is_alive(left));
}

#[test]
fn a_child_that_leaves_its_group_survives_and_holds_nobody_up_either() {
    let mut kit = Kit::new();
    let script = "pid=$(setsid sh -c 'echo $$; exec sleep 600 >/dev/null' &); echo $pid";
    let id = kit.sh(script, Output::Pipe);
    let (printed, exit) = kit.end(id);
    assert!(exit.status.unwrap().success());
    let left: i32 = printed.trim().parse().unwrap();
    assert!(is_alive(left), "documented: a setsid escapee survives");
    kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_child_that_ignores_term_is_killed_after_the_grace() {
    let mut kit = Kit::new();
    let id = kit.sh(
        "trap '' TERM; echo; while :; do sleep 1; done",
        Output::Pipe,
    );
    kit.lines(id, 1);
    let grace = Duration::from_millis(300);
    let stopped = monotonic();
    kit.reactor.stop(id, grace);
    let (_, exit) = kit.end(id);
    assert_eq!(exit.status.unwrap().signal(), Some(9));
    assert!(exit.ended - stopped >= grace);
}

#[test]
fn a_child_may_use_the_grace_even_when_it_was_suspended() {
    let mut kit = Kit::new();
    let id = kit.sh(
        "trap 'exit 7' TERM; echo; while :; do sleep 0.01; done",
        Output::Pipe,
    );
    kit.lines(id, 1);
    kill_process(kit.reactor.pid(id).unwrap(), Signal::STOP).unwrap();
    kit.reactor.stop(id, PATIENCE);
    assert_eq!(kit.end(id).1.status.unwrap().code(), Some(7));
}

#[test]
fn a_child_that_moves_to_another_group_is_stopped_all_the_same() {
    let mut kit = Kit::new();
    // The group is that of a child of its own, which waits for its end.
    let script = "exec perl -e '$| = 1; pipe R, W; unless ($c = fork) { close W; <R>; exit }
        setpgrp $c, $c; setpgrp 0, $c; print \"x\\n\"; sleep 600'";
    let id = kit.sh(script, Output::Pipe);
    kit.lines(id, 1);
    let child = kit.reactor.pid(id).unwrap();
    assert_ne!(getpgid(Some(child)).unwrap(), child);
    kit.reactor.stop(id, PATIENCE);
    assert_eq!(kit.end(id).1.status.unwrap().signal(), Some(15));
}

#[test]
fn a_second_stop_shortens_the_grace() {
    let mut kit = Kit::new();
    let id = kit.sh(
        "trap '' TERM; echo; while :; do sleep 1; done",
        Output::Pipe,
    );
    kit.lines(id, 1);
    kit.reactor.stop(id, Duration::MAX);
    kit.reactor.stop(id, 10 * PATIENCE);
    kit.reactor.stop(id, Duration::ZERO);
    assert_eq!(kit.end(id).1.status.unwrap().signal(), Some(9));
}

#[test]
fn without_pidfd_children_end_all_the_same() {
    let mut kit = Kit::new();
    kit.reactor = kit.reactor_without_pidfd();
    let ids = [1, 2, 3].map(|code| kit.sh(&format!("sleep 0.1; exit {code}"), Output::Null));
    for (id, code) in ids.into_iter().zip([1, 2, 3]) {
        assert_eq!(kit.end(id).1.status.unwrap().code(), Some(code));
    }
}

impl Kit {
    fn reactor_without_pidfd(&self) -> Reactor {
        let lock = lock(&self.path("other-runlock")).unwrap();
        let reactor = Reactor::new(lock, env!("CARGO_BIN_EXE_punctual")).unwrap();
        reactor.without_pidfd()
    }
}

#[test]
fn a_waker_ends_the_wait_from_any_thread_also_in_advance() {
    let mut kit = Kit::new();
    let waker = kit.reactor.waker();
    let mut stream = kit.reactor.waker().stream().unwrap();
    let start = monotonic();
    std::thread::spawn(move || {
        waker.wake();
        stream.write_all(b"X").unwrap();
    })
    .join()
    .unwrap();
    kit.reactor.wait(start + PATIENCE).unwrap();
    let waker = kit.reactor.waker();
    let thread = std::thread::spawn(move || waker.wake());
    kit.reactor.wait(start + PATIENCE).unwrap();
    thread.join().unwrap();
    assert!(monotonic() < start + PATIENCE);
    // Emptied: the next wait lasts.
    let until = monotonic() + Duration::from_millis(50);
    kit.reactor.wait(until).unwrap();
    assert!(monotonic() >= until);
}

#[test]
fn a_flood_of_wakings_blocks_nobody() {
    let mut kit = Kit::new();
    let waker = kit.reactor.waker();
    for _ in 0..1_000_000 {
        waker.wake();
    }
    kit.reactor.wait(monotonic() + PATIENCE).unwrap();
}

#[test]
fn no_watchdog_stands_before_the_first_child() {
    let mut kit = Kit::new();
    kit.reactor.wait(monotonic()).unwrap();
    assert_eq!(kit.reactor.watchdog_pid(), None);
    let id = kit.sh("exit 0", Output::Null);
    kit.end(id);
    assert!(kit.reactor.watchdog_pid().is_some());
}

/// At once, but for a child that another test starts at the same instant: until it has become its
/// own program, it has all open that this process has.
fn await_free(path: &Path) {
    eventually("the lock is free", || lock(path).is_some());
}

#[test]
fn the_run_lock_is_free_as_soon_as_the_reactor_has_finished() {
    let mut kit = Kit::new();
    let path = kit.path("runlock");
    let id = kit.sh("exit 0", Output::Null);
    kit.end(id);
    assert!(lock(&path).is_none());
    let Kit { reactor, dir: _dir } = kit;
    reactor.finish();
    await_free(&path);
}

#[test]
fn a_reactor_that_goes_takes_its_children_along() {
    let mut kit = Kit::new();
    let path = kit.path("runlock");
    let id = kit.sh(
        "trap '' TERM HUP; sleep 600 & echo $$; echo $!; wait",
        Output::Pipe,
    );
    let pids: Vec<i32> = kit
        .lines(id, 2)
        .iter()
        .map(|pid| pid.parse().unwrap())
        .collect();
    let Kit { reactor, dir: _dir } = kit;
    drop(reactor);
    await_free(&path);
    assert!(!is_alive(pids[0]));
    eventually("the grandchild is dead", || !is_alive(pids[1]));
}

#[test]
fn what_another_thread_has_started_is_dead_once_the_run_lock_is_free() {
    let kit = Kit::new();
    let path = kit.path("runlock");
    let mut other = Reactor::guarded_by(kit.reactor.guard()).unwrap();
    let id = other
        .spawn(&mut sh("exec sleep 600"), Vec::new(), Output::Null)
        .unwrap();
    let child = other.pid(id).unwrap().as_raw_nonzero().get();
    let Kit { reactor, dir: _dir } = kit;
    reactor.finish();
    await_free(&path);
    assert!(!is_alive(child));
    let refused = other.spawn(&mut sh("exit 0"), Vec::new(), Output::Null);
    assert!(matches!(refused, Err(SpawnError::Watchdog(_))));
}

#[test]
fn the_watchdog_knows_no_secret_and_holds_only_what_it_needs() {
    let inherited = inherited();
    let mut kit = Kit::new();
    let id = kit.sh("exec sleep 600", Output::Null);
    let proc = format!("/proc/{}", kit.reactor.watchdog_pid().unwrap());
    assert_eq!(fs::read(format!("{proc}/environ")).unwrap(), b"");
    let own = env!("CARGO_BIN_EXE_punctual");
    let command = fs::read_to_string(format!("{proc}/cmdline")).unwrap();
    let words: Vec<&str> = command.split('\0').collect();
    // The mark is random, and in the environment of every child anyway.
    assert_eq!((words[0], words[1], words.len()), (own, "__watchdog", 4));
    let lock = kit.path("runlock");
    // Beside its streams: its own duplicate of the pipe.
    let fds = own_descriptors(pid(kit.reactor.watchdog_pid().unwrap()), &inherited);
    let others: Vec<_> = fds.values().filter(|&fd| Path::new(fd) != lock).collect();
    assert_eq!(fds.len() - others.len(), 1, "{fds:?}");
    assert!(others.iter().all(|fd| fd.starts_with("pipe:")), "{fds:?}");
    assert!(fs::read(lock).unwrap().is_empty(), "it prints nothing");
    kit.reactor.stop(id, Duration::ZERO);
}

#[test]
fn without_a_watchdog_nothing_is_started() {
    for (program, says) in [
        ("/nonexistent", "No such file"),
        ("/bin/true", "before it was ready"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let lock = lock(&dir.path().join("runlock")).unwrap();
        let mut reactor = Reactor::new(lock, program).unwrap();
        let mark = dir.path().join("mark");
        let script = format!("touch {}", mark.display());
        let error = reactor
            .spawn(&mut sh(&script), Vec::new(), Output::Null)
            .unwrap_err();
        assert!(matches!(error, SpawnError::Watchdog(_)));
        assert!(error.to_string().contains(says), "{error}");
        assert!(!mark.exists());
    }
}

#[test]
fn a_watchdog_that_was_killed_is_replaced_and_the_new_one_knows_all_children() {
    let mut kit = Kit::new();
    let first = kit.sh("exec sleep 600", Output::Null);
    let old = kit.reactor.watchdog_pid().unwrap();
    kill_process(pid(old), Signal::KILL).unwrap();
    eventually("the watchdog is dead", || {
        !is_alive(i32::try_from(old).unwrap())
    });
    let second = kit.sh("exec sleep 600", Output::Null);
    let new = kit.reactor.watchdog_pid().unwrap();
    assert_ne!(old, new);
    let pids = [first, second].map(|id| kit.reactor.pid(id).unwrap().as_raw_nonzero().get());
    assert!(pids.into_iter().all(is_alive));
}

#[test]
fn the_hidden_command_refuses_to_be_called_by_hand() {
    let mut kit = Kit::new();
    let script = format!("{} __watchdog </dev/null", env!("CARGO_BIN_EXE_punctual"));
    let id = kit.sh(&script, Output::Pipe);
    let (printed, exit) = kit.end(id);
    assert_eq!(exit.status.unwrap().code(), Some(1));
    assert_eq!(printed, "");
    assert_eq!(exit.stderr, b"this command is for punctual's own use\n");
}

const RUN_LOCK: &str = "PUNCTUAL_TEST_RUN_LOCK";

/// Not a test by itself: the run that the next test kills.
#[test]
fn a_run_to_be_killed() -> ExitCode {
    let Some(path) = std::env::var_os(RUN_LOCK) else {
        return ExitCode::SUCCESS;
    };
    let lock = lock(Path::new(&path)).unwrap();
    let mut reactor = Reactor::new(lock, env!("CARGO_BIN_EXE_punctual")).unwrap();
    let ended = reactor
        .spawn(&mut sh("exit 0"), Vec::new(), Output::Null)
        .unwrap();
    while reactor.take_exit(ended).is_none() {
        reactor.wait(monotonic() + PATIENCE).unwrap();
    }
    let script = "trap '' TERM HUP INT; sleep 600 & echo child $$; echo child $!; wait";
    let ids = [(); 5].map(|()| {
        reactor
            .spawn(&mut sh(script), Vec::new(), Output::Pipe)
            .unwrap()
    });
    println!("\nwatchdog {}", reactor.watchdog_pid().unwrap());
    loop {
        reactor.wait(monotonic() + PATIENCE).unwrap();
        for id in ids {
            print!("{}", String::from_utf8(reactor.take_stdout(id)).unwrap());
        }
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn when_a_run_is_killed_its_lock_is_free_only_once_its_children_are_dead() {
    let mut kit = Kit::new();
    let path = kit.path("killed-runlock");
    let own = std::env::current_exe().unwrap();
    let argv = [
        "suite",
        "--exact",
        "spawn::a_run_to_be_killed",
        "--nocapture",
    ]
    .map(str::to_owned);
    let env = BTreeMap::from([(RUN_LOCK.into(), path.clone().into())]);
    let mut spec = CommandSpec::new(&own, &argv, Path::new("/"), &env).unwrap();
    let run = kit
        .reactor
        .spawn(&mut spec, Vec::new(), Output::Pipe)
        .unwrap();
    let mut lines = Vec::new();
    while lines
        .iter()
        .filter(|line: &&String| line.starts_with("child "))
        .count()
        < 10
    {
        lines.extend(kit.lines(run, 1));
    }
    let number = |line: &String| line.rsplit_once(' ').unwrap().1.parse().unwrap();
    let of = |kind| {
        lines
            .iter()
            .filter(move |line| line.starts_with(kind))
            .map(number)
    };
    let children: Vec<i32> = of("child ").collect();
    let watchdog = Pid::from_raw(of("watchdog ").next().unwrap()).unwrap();

    // What reaches a whole group or terminal does not end the watchdog; STOP makes it late, so
    // that there is an instant in which only it holds the lock.
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::QUIT,
        Signal::STOP,
    ] {
        kill_process(watchdog, signal).unwrap();
    }
    kit.reactor.stop(run, Duration::ZERO);
    kit.end(run);
    assert!(lock(&path).is_none());
    assert!(children.iter().all(|&child| is_alive(child)));

    kill_process(watchdog, Signal::CONT).unwrap();
    await_free(&path);
    assert!(!children.iter().any(|&child| is_alive(child)));
}
