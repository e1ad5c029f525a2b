//! The `command` handler, with real processes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use punctual::clock::{UnixSeconds, monotonic};
use punctual::config::{CommandConfig, HandlerConfig, Mode, TypeConfig};
use punctual::event::{Event, EventId, MAX_ERROR_BYTES};
use punctual::handler::{Finished, Handler, Verdict, command};

use crate::processes::{Kit, PATIENCE};
use crate::support::process::{eventually, is_alive};

/// A handler over a shell script, and the reactor it works with.
struct Stage {
    kit: Kit,
    handler: Box<dyn Handler>,
}

/// What differs from test to test.
struct Plan {
    argv: Vec<String>,
    mode: Mode,
    timeout: Duration,
    grace: Duration,
    concurrency: usize,
    cwd: Option<String>,
}

impl Plan {
    fn each(script: &str) -> Self {
        Self {
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            mode: Mode::Each,
            timeout: PATIENCE,
            grace: PATIENCE,
            concurrency: 1,
            cwd: None,
        }
    }

    fn batch(script: &str) -> Self {
        Self {
            mode: Mode::Batch,
            ..Self::each(script)
        }
    }

    fn program(path: &str) -> Self {
        Self {
            argv: vec![path.to_owned()],
            ..Self::each("")
        }
    }

    fn stage(self) -> Stage {
        let kit = Kit::new();
        let own = kit.dir.path().display().to_string();
        let argv = self
            .argv
            .iter()
            .map(|word| word.replace("DIR", &own))
            .collect();
        let config = CommandConfig {
            argv,
            mode: self.mode,
            cwd: self.cwd.unwrap_or(own).into(),
            env: BTreeMap::new(),
            pass_env: Vec::new(),
        };
        let type_config = TypeConfig {
            timeout: self.timeout,
            grace: self.grace,
            concurrency: self.concurrency,
            ..TypeConfig::new("mail", HandlerConfig::Command(config.clone()))
        };
        let run_env = BTreeMap::from([("PATH", "/usr/bin:/bin"), ("PUNCTUAL_DATABASE", "secret")])
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let handler = command::handler(&type_config, &config, &run_env, &kit.reactor);
        Stage { kit, handler }
    }

    /// Fires one event alone.
    fn fire(self) -> Verdict {
        let mut stage = self.stage();
        stage.start(vec![event(1)]);
        let mut ended = stage.drive();
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].id, EventId(1));
        ended.remove(0).verdict
    }
}

impl Stage {
    fn start(&mut self, events: Vec<Event>) {
        self.handler.start(events, &mut self.kit.reactor);
    }

    /// Waits as a runner does until something has ended or nothing is left.
    fn step(&mut self) -> Vec<Finished> {
        let limit = monotonic() + PATIENCE;
        let mut ended = Vec::new();
        while ended.is_empty() && self.handler.in_flight() > 0 {
            let now = monotonic();
            assert!(now < limit, "it does not end");
            let until = self.handler.next_deadline().unwrap_or(limit).min(limit);
            self.kit.reactor.wait(until).unwrap();
            self.handler.collect(&mut self.kit.reactor, &mut ended);
        }
        ended
    }

    /// Waits until nothing is left.
    fn drive(&mut self) -> Vec<Finished> {
        let mut ended = Vec::new();
        while self.handler.in_flight() > 0 {
            ended.extend(self.step());
        }
        ended
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.kit.path(name)).unwrap()
    }

    /// Waits until a script has written a file.
    fn await_file(&self, name: &str) {
        eventually(name, || self.kit.path(name).exists());
    }

    /// Fires these events and gives their verdicts in the order of the ids.
    fn verdicts(&mut self, ids: std::ops::RangeInclusive<i64>) -> Vec<Verdict> {
        self.start(ids.clone().map(event).collect());
        let mut ended = self.drive();
        ended.sort_by_key(|finished| finished.id);
        assert!(
            ended.iter().map(|finished| finished.id.0).eq(ids),
            "each exactly once"
        );
        ended.into_iter().map(|finished| finished.verdict).collect()
    }
}

fn event(id: i64) -> Event {
    Event {
        id: EventId(id),
        type_name: "mail".to_owned(),
        due_at: UnixSeconds(2000),
        first_due_at: None,
        payload: Vec::new(),
        key: None,
        priority: 0,
        expires_at: None,
        attempts: 0,
        losses: 0,
        deferrals: 0,
        slot: None,
    }
}

fn failed(error: &str) -> Verdict {
    Verdict::Failed {
        error: error.to_owned(),
        retry_after: None,
    }
}

fn not_started(why: &str) -> Verdict {
    Verdict::NotStarted {
        error: why.to_owned(),
    }
}

#[test]
fn an_event_arrives_as_stdin_and_environment() {
    let mut stage = Plan::each("cat >payload; env >env; pwd >cwd").stage();
    stage.start(vec![Event {
        payload: b"{\"user\":5}\n\0\xff".to_vec(),
        key: Some(b"k\xff".to_vec()),
        first_due_at: Some(UnixSeconds(1000)),
        attempts: 2,
        losses: 1,
        deferrals: 7,
        slot: None,
        ..event(42)
    }]);
    assert_eq!(stage.drive()[0].verdict, Verdict::Done);
    assert_eq!(
        fs::read(stage.kit.path("payload")).unwrap(),
        b"{\"user\":5}\n\0\xff"
    );
    let env = fs::read(stage.kit.path("env")).unwrap();
    let mut env: Vec<&[u8]> = env.split(|&byte| byte == b'\n').collect();
    env.retain(|line| !line.is_empty() && !line.starts_with(b"PWD="));
    let all = env.len();
    env.retain(|line| !line.starts_with(b"PUNCTUAL_RUN_MARK="));
    assert_eq!(all - env.len(), 1);
    env.sort_unstable();
    let expected: [&[u8]; 10] = [
        b"PATH=/usr/bin:/bin",
        b"PUNCTUAL_ATTEMPT=4",
        b"PUNCTUAL_DUE_AT=1000",
        b"PUNCTUAL_EVENT_ATTEMPT=4",
        b"PUNCTUAL_EVENT_DUE_AT=1000",
        b"PUNCTUAL_EVENT_ID=42",
        b"PUNCTUAL_EVENT_KEY=k\xff",
        b"PUNCTUAL_EVENT_TYPE=mail",
        b"PUNCTUAL_KEY=k\xff",
        b"PUNCTUAL_TYPE=mail",
    ];
    assert_eq!(env, expected);
}

#[test]
fn an_event_without_a_key_does_not_get_its_predecessors() {
    let mut stage =
        Plan::each("echo \"${PUNCTUAL_EVENT_KEY-none} ${PUNCTUAL_KEY-none}\" >>keys").stage();
    for key in [Some("a"), None, Some("")] {
        stage.start(vec![Event {
            key: key.map(|key| key.as_bytes().to_vec()),
            ..event(1)
        }]);
        assert_eq!(stage.drive()[0].verdict, Verdict::Done);
    }
    assert_eq!(stage.file("keys"), "a a\nnone none\n \n");
}

#[test]
fn a_key_with_a_nul_byte_cannot_start_and_spoils_no_other() {
    let mut stage = Plan::each("exit 0").stage();
    stage.start(vec![Event {
        key: Some(b"a\0b".to_vec()),
        ..event(1)
    }]);
    let says = "cannot start `/bin/sh` of [type.mail]: its key holds a NUL byte";
    assert_eq!(stage.drive()[0].verdict, not_started(says));
    stage.start(vec![event(2)]);
    assert_eq!(stage.drive()[0].verdict, Verdict::Done);
}

#[test]
fn an_exit_status_is_a_verdict_with_the_last_words() {
    let exit = |code| Plan::each(&format!("echo why >&2; exit {code}")).fire();
    assert_eq!(exit(0), Verdict::Done);
    assert_eq!(exit(3), failed("exit status 3: why"));
    let error = "exit status 65: why".to_owned();
    assert_eq!(exit(65), Verdict::GiveUp { error });
    let error = "exit status 75: why".to_owned();
    assert_eq!(
        exit(75),
        Verdict::Later {
            error,
            retry_after: None
        }
    );
}

#[test]
fn a_signal_is_a_failure_that_names_it() {
    let says = "killed by signal 11 (SIGSEGV): why";
    assert_eq!(
        Plan::each("echo why >&2; kill -SEGV $$").fire(),
        failed(says)
    );
}

#[test]
fn a_handler_that_prints_megabytes_is_neither_blocked_nor_kept() {
    let script = "head -c 9000000 /dev/zero; head -c 9000000 /dev/zero | tr '\\0' x >&2; exit 1";
    let Verdict::Failed { error, .. } = Plan::each(script).fire() else {
        panic!("not failed");
    };
    assert_eq!(error.len(), MAX_ERROR_BYTES);
    assert!(error.starts_with("exit status 1: xxx"));
}

#[test]
fn the_largest_payload_arrives_whole_and_need_not_be_read() {
    let payload = vec![b'x'; 1 << 20];
    let mut stage = Plan::each("wc -c >count").stage();
    stage.start(vec![Event {
        payload: payload.clone(),
        ..event(1)
    }]);
    assert_eq!(stage.drive()[0].verdict, Verdict::Done);
    assert_eq!(stage.file("count").trim(), "1048576");
    let mut stage = Plan::each("exit 0").stage();
    stage.start(vec![Event {
        payload,
        ..event(1)
    }]);
    assert_eq!(stage.drive()[0].verdict, Verdict::Done);
}

#[test]
fn a_handler_that_never_ends_is_killed_with_all_its_group_and_lost() {
    let script = "trap '' TERM; echo why >&2; sleep 600 & echo $! >pid; while :; do sleep 1; done";
    let timeout = Duration::from_millis(1500);
    let mut stage = Plan {
        timeout,
        grace: Duration::from_millis(100),
        ..Plan::each(script)
    }
    .stage();
    stage.start(vec![event(1)]);
    let ended = stage.drive();
    let error = "timed out after 1s 500ms; killed by signal 9 (SIGKILL): why".to_owned();
    assert_eq!(ended[0].verdict, Verdict::Lost { error });
    assert!(ended[0].took >= timeout);
    let child: i32 = stage.file("pid").trim().parse().unwrap();
    eventually("the handler's child is dead", || !is_alive(child));
}

#[test]
fn a_handler_that_ends_by_term_is_lost_too() {
    let plan = Plan {
        timeout: Duration::from_millis(300),
        ..Plan::each("exec sleep 600")
    };
    let error = "timed out after 300ms; killed by signal 15 (SIGTERM)".to_owned();
    assert_eq!(plan.fire(), Verdict::Lost { error });
}

#[test]
fn what_cannot_start_is_told_with_the_remedy() {
    let fire = |name: &str| Plan::program(name).fire();
    let says = |name: &str, why: &str| {
        not_started(&format!("cannot start `{name}` of [type.mail]: {why}"))
    };
    let why = "no such program in PATH (/usr/bin:/bin); give its full path";
    assert_eq!(fire("no-such-thing"), says("no-such-thing", why));
    let why = "no such file /no/such; look at `command`";
    assert_eq!(fire("/no/such"), says("/no/such", why));
    let why =
        "Permission denied (os error 13); make it executable (chmod +x) or name its interpreter";
    assert_eq!(fire("/etc/passwd"), says("/etc/passwd", why));
    let plan = Plan {
        cwd: Some("/no/such".to_owned()),
        ..Plan::each("exit 0")
    };
    let why = "no such working directory /no/such; set `cwd`";
    assert_eq!(plan.fire(), says("/bin/sh", why));
    let plan = Plan {
        argv: Vec::new(),
        ..Plan::each("")
    };
    assert_eq!(plan.fire(), says("", "`command` is empty"));
}

/// Writes an executable into the stage's folder.
fn write_program(stage: &Stage, name: &str, text: &[u8]) {
    fs::write(stage.kit.path(name), text).unwrap();
    fs::set_permissions(stage.kit.path(name), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Fires until a program just written is no longer busy: a child that another test starts at the
/// same instant has it open for writing until it has become its own program.
fn fire_settled(stage: &mut Stage) -> Verdict {
    loop {
        stage.start(vec![event(1)]);
        let verdict = stage.drive().remove(0).verdict;
        if !matches!(verdict, Verdict::Later { .. }) {
            return verdict;
        }
    }
}

#[test]
fn a_script_without_its_interpreter_is_told_apart() {
    let mut stage = Plan::program("./tool").stage();
    let mut told = |text: &str| {
        write_program(&stage, "tool", text.as_bytes());
        match fire_settled(&mut stage) {
            Verdict::NotStarted { error } => error,
            other => panic!("{other:?}"),
        }
    };
    let why = "its interpreter does not exist; look at the first line of the script";
    assert!(told("#!/no/such\n").ends_with(why));
    assert!(told("exit 0\n").ends_with("begin the script with its interpreter, e.g. #!/bin/sh"));
    write_program(&stage, "tool", b"#!/bin/sh\nexit 0\n");
    assert_eq!(
        fire_settled(&mut stage),
        Verdict::Done,
        "repaired, it needs no new run"
    );
}

#[test]
fn a_program_that_is_being_written_is_tried_later() {
    let mut stage = Plan::program("./tool").stage();
    write_program(&stage, "tool", &fs::read("/bin/true").unwrap());
    let writing = File::options()
        .append(true)
        .open(stage.kit.path("tool"))
        .unwrap();
    stage.start(vec![event(1)]);
    assert!(matches!(stage.drive()[0].verdict, Verdict::Later { .. }));
    drop(writing);
    assert_eq!(fire_settled(&mut stage), Verdict::Done);
}

#[test]
fn as_many_as_concurrency_run_at_once() {
    let script = "touch $PUNCTUAL_EVENT_ID; while [ ! -e go ]; do sleep 0.01; done";
    let mut stage = Plan {
        concurrency: 3,
        ..Plan::each(script)
    }
    .stage();
    assert_eq!(stage.handler.room(), 3);
    stage.start((1..=3).map(event).collect());
    assert_eq!((stage.handler.room(), stage.handler.in_flight()), (0, 3));
    for id in ["1", "2", "3"] {
        stage.await_file(id);
    }
    fs::write(stage.kit.path("go"), "").unwrap();
    let ended = stage.drive();
    assert!(
        ended
            .iter()
            .all(|finished| finished.verdict == Verdict::Done)
    );
    assert_eq!(
        (ended.len(), stage.handler.room(), stage.handler.in_flight()),
        (3, 3, 0)
    );
}

#[test]
fn an_interrupted_handler_may_end_well_or_is_interrupted() {
    let loop_ = "touch $PUNCTUAL_EVENT_ID; while :; do sleep 0.01; done";
    let script = format!("[ $PUNCTUAL_EVENT_ID = 1 ] && trap 'exit 0' TERM; {loop_}");
    let mut stage = Plan {
        concurrency: 2,
        ..Plan::each(&script)
    }
    .stage();
    stage.start(vec![event(1), event(2)]);
    stage.await_file("1");
    stage.await_file("2");
    stage.handler.interrupt(&mut stage.kit.reactor);
    let mut ended = stage.drive();
    ended.sort_by_key(|finished| finished.id);
    assert_eq!(ended[0].verdict, Verdict::Done);
    let error = "the run was stopped; killed by signal 15 (SIGTERM)".to_owned();
    assert_eq!(ended[1].verdict, Verdict::Interrupted { error });
}

#[test]
fn an_interrupted_handler_that_ignores_term_is_killed_after_the_grace() {
    let script = "trap '' TERM; touch ready; while :; do sleep 1; done";
    for concurrency in [1, 2] {
        let mut stage = Plan {
            grace: Duration::from_millis(50),
            concurrency,
            ..Plan::each(script)
        }
        .stage();
        stage.start(vec![event(1)]);
        stage.await_file("ready");
        stage.handler.interrupt(&mut stage.kit.reactor);
        let error = "the run was stopped; killed by signal 9 (SIGKILL)".to_owned();
        assert_eq!(stage.drive()[0].verdict, Verdict::Interrupted { error });
    }
}

#[test]
fn a_handler_among_several_that_never_ends_times_out_and_keeps_no_other_waiting() {
    let script = "[ $PUNCTUAL_EVENT_ID != 1 ] || exec sleep 600";
    let mut stage = Plan {
        concurrency: 2,
        timeout: Duration::from_millis(500),
        ..Plan::each(script)
    }
    .stage();
    stage.start(vec![event(1), event(2)]);
    let first = stage.step();
    assert_eq!((first.len(), first[0].id), (1, EventId(2)));
    stage.start(vec![event(3)]);
    let others = stage.drive();
    let ids: Vec<EventId> = others.iter().map(|finished| finished.id).collect();
    assert_eq!(ids, [EventId(3), EventId(1)]);
    assert!(
        matches!(others[1].verdict, Verdict::Lost { .. }),
        "{others:?}"
    );
}

#[test]
fn what_is_handed_over_ahead_begins_as_others_end_until_one_fails() {
    let mut stage = Plan {
        concurrency: 2,
        ..Plan::each("touch began-$PUNCTUAL_EVENT_ID; [ $PUNCTUAL_EVENT_ID != 6 ]")
    }
    .stage();
    assert_eq!(
        stage.handler.room_ahead(),
        0,
        "nothing is known of its pace"
    );
    stage.start(vec![event(1), event(2)]);
    assert!(stage.drive().iter().all(|it| it.verdict == Verdict::Done));
    let many = 3..=202;
    stage
        .handler
        .start_ahead(many.clone().map(event).collect(), monotonic() + PATIENCE);
    let mut ended = Vec::new();
    let mut back = Vec::new();
    while back.is_empty() || stage.handler.in_flight() > 0 {
        ended.extend(stage.step());
        back.extend(stage.handler.take_back(false));
    }
    let failed = ended.iter().filter(|it| it.verdict != Verdict::Done);
    assert_eq!(failed.map(|it| it.id).collect::<Vec<_>>(), [EventId(6)]);
    let began = |id: EventId| stage.kit.path(&format!("began-{id}")).exists();
    assert!(
        !back.iter().any(|event| began(event.id)),
        "given back, not begun"
    );
    let ids = ended
        .iter()
        .map(|it| it.id)
        .chain(back.iter().map(|it| it.id));
    let mut ids: Vec<i64> = ids.map(|id| id.0).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(many), "each exactly once");
}

#[test]
fn a_batch_is_one_process_with_a_line_each() {
    let script =
        r#"echo start >>starts; tee lines | sed 's/^{"id":\([0-9]*\),.*/{"id":\1,"ok":true}/'"#;
    let mut stage = Plan::batch(script).stage();
    assert_eq!(stage.handler.room(), usize::MAX);
    assert_eq!(stage.verdicts(1..=50), vec![Verdict::Done; 50]);
    assert_eq!(stage.file("starts"), "start\n");
    let lines = stage.file("lines");
    assert_eq!(lines.lines().count(), 50);
    let first = r#"{"id":1,"type":"mail","key":null,"due_at":2000,"attempt":1,"payload":""}"#;
    assert_eq!(lines.lines().next(), Some(first));
}

#[test]
fn a_busy_batch_has_no_room() {
    let mut stage = Plan {
        concurrency: 2,
        ..Plan::batch("read x; exec sleep 600")
    }
    .stage();
    stage.start(vec![event(1), event(2)]);
    assert_eq!(
        (stage.handler.room(), stage.handler.in_flight()),
        (usize::MAX, 2)
    );
    stage.start(vec![event(3)]);
    assert_eq!((stage.handler.room(), stage.handler.in_flight()), (0, 3));
    stage.handler.interrupt(&mut stage.kit.reactor);
    let ended = stage.drive();
    assert_eq!(ended.len(), 3);
    let error = "not answered: the run was stopped; killed by signal 15 (SIGTERM)".to_owned();
    assert!(ended.iter().all(|f| f.verdict
        == Verdict::Interrupted {
            error: error.clone()
        }));
    assert_eq!(stage.handler.room(), usize::MAX);
}

#[test]
fn each_kind_of_answer_is_a_verdict() {
    let script = r#"cat >/dev/null; cat <<'END'
{"id":1,"ok":true}
{"id":2,"error":"no"}
{"id":3,"error":"no","retry_after":60}
{"id":4,"retry_after":5}
{"id":5,"error":"gone","dead":true}
END
printf '{"id":6,"ok":true}'"#;
    let verdicts = Plan::batch(script).stage().verdicts(1..=6);
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(verdicts[0], Verdict::Done);
    assert_eq!(verdicts[1], failed("no"));
    assert_eq!(
        verdicts[2],
        Verdict::Failed {
            error: "no".into(),
            retry_after: seconds(60)
        }
    );
    assert!(matches!(verdicts[3], Verdict::Later { retry_after, .. } if retry_after == seconds(5)));
    assert_eq!(
        verdicts[4],
        Verdict::GiveUp {
            error: "gone".into()
        }
    );
    assert_eq!(verdicts[5], Verdict::Done);
}

#[test]
fn an_answer_counts_as_soon_as_it_is_given() {
    let script = r#"echo '{"id":1,"ok":true}'; while [ ! -e go ]; do sleep 0.01; done
        echo '{"id":2,"ok":true}'; touch answered; while [ ! -e end ]; do sleep 0.01; done"#;
    let mut stage = Plan::batch(script).stage();
    stage.start(vec![event(1), event(2)]);
    let first = stage.step();
    assert_eq!((first.len(), first[0].id), (1, EventId(1)));
    assert_eq!(stage.handler.in_flight(), 1);
    fs::write(stage.kit.path("go"), "").unwrap();
    let second = stage.step();
    assert_eq!((second.len(), second[0].id), (1, EventId(2)));
    assert_eq!(second[0].started, first[0].started + first[0].took);
    // It still has something to do, and is not to be killed on it.
    assert_eq!((stage.handler.room(), stage.handler.in_flight()), (0, 1));
    fs::write(stage.kit.path("end"), "").unwrap();
    assert_eq!(stage.drive(), []);
    assert_eq!(stage.handler.in_flight(), 0);
}

#[test]
fn garbage_foreign_ids_and_second_answers_are_ignored_and_shown() {
    let script = r#"echo 'PHP Warning: x'; echo; echo '{"id":99,"ok":true}'
        echo '{"id":1,"ok":true}'; echo '{"id":1,"error":"again"}'; echo '{"id":2'; exit 2"#;
    let verdicts = Plan::batch(script).stage().verdicts(1..=3);
    assert_eq!(verdicts[0], Verdict::Done);
    let says = "not answered; the handler printed `PHP Warning: x`: exit status 2";
    assert_eq!(verdicts[1..], [failed(says), failed(says)]);
}

#[test]
fn a_line_without_end_is_thrown_away_and_the_next_answer_counts() {
    let script = r#"head -c 5000000 /dev/zero | tr '\0' x; echo; echo '{"id":1,"ok":true}'"#;
    assert_eq!(Plan::batch(script).stage().verdicts(1..=1), [Verdict::Done]);
}

#[test]
fn who_is_not_answered_learns_how_the_process_ended() {
    let batch = |script: &str| Plan::batch(script).stage().verdicts(1..=2);
    let says = |text: &str| vec![failed(text); 2];
    assert_eq!(
        batch("echo why >&2; exit 1"),
        says("not answered: exit status 1: why")
    );
    assert_eq!(batch("exit 0"), says("not answered: exit status 0"));
    assert_eq!(batch("exit 65"), says("not answered: exit status 65"));
    assert_eq!(
        batch("kill -KILL $$"),
        says("not answered: killed by signal 9 (SIGKILL)")
    );
    let later = Verdict::Later {
        error: "not answered: exit status 75".into(),
        retry_after: None,
    };
    assert_eq!(batch("exit 75"), vec![later; 2]);
    let verdicts = batch(r#"echo '{"id":2,"ok":true}'; exit 1"#);
    assert_eq!(
        verdicts,
        [failed("not answered: exit status 1"), Verdict::Done]
    );
}

#[test]
fn a_batch_that_cannot_start_fails_for_all_its_events() {
    let plan = Plan {
        mode: Mode::Batch,
        ..Plan::program("/no/such")
    };
    let why = "cannot start `/no/such` of [type.mail]: no such file /no/such; look at `command`";
    assert_eq!(plan.stage().verdicts(1..=3), vec![not_started(why); 3]);
}

#[test]
fn the_time_of_a_batch_counts_from_the_last_answer() {
    let script = r#"trap '' TERM
        for id in 1 2 3 4 5; do sleep 0.5; echo "{\"id\":$id,\"ok\":true}"; done
        while :; do sleep 1; done"#;
    let timeout = Duration::from_secs(2);
    let plan = Plan {
        timeout,
        grace: Duration::ZERO,
        ..Plan::batch(script)
    };
    let verdicts = plan.stage().verdicts(1..=6);
    assert_eq!(verdicts[..5], vec![Verdict::Done; 5]);
    let error = "not answered: timed out after 2s; killed by signal 9 (SIGKILL)".to_owned();
    assert_eq!(verdicts[5], Verdict::Lost { error });
}

#[test]
fn megabytes_go_both_ways_at_once() {
    let script =
        r#"sed 's/^{"id":\([0-9]*\),.*"payload":"\(.*\)"}$/{"id":\1,"ok":true,"x":"\2"}/'"#;
    let mut stage = Plan::batch(script).stage();
    let payload = vec![b'x'; 40_000];
    stage.start(
        (1..=100)
            .map(|id| Event {
                payload: payload.clone(),
                ..event(id)
            })
            .collect(),
    );
    let ended = stage.drive();
    assert_eq!(ended.len(), 100);
    assert!(
        ended
            .iter()
            .all(|finished| finished.verdict == Verdict::Done)
    );
}

#[test]
fn a_batch_that_answers_without_reading_is_done() {
    let script = r#"exec 0<&-; for id in 1 2 3; do echo "{\"id\":$id,\"ok\":true}"; done"#;
    let mut stage = Plan::batch(script).stage();
    let payload = vec![b'x'; 1 << 20];
    stage.start(
        (1..=3)
            .map(|id| Event {
                payload: payload.clone(),
                ..event(id)
            })
            .collect(),
    );
    assert_eq!(stage.drive().len(), 3);
}

#[test]
fn relative_programs_are_looked_for_in_the_working_directory() {
    let mut stage = Plan::program("bin/tool").stage();
    fs::create_dir(stage.kit.path("bin")).unwrap();
    write_program(&stage, "bin/tool", b"#!/bin/sh\npwd >cwd\n");
    assert_eq!(fire_settled(&mut stage), Verdict::Done);
    let cwd = stage.file("cwd");
    assert_eq!(
        Path::new(cwd.trim()),
        fs::canonicalize(stage.kit.dir.path()).unwrap()
    );
}
