//! Several hosts on one database, and what looks like several on one: none may take another's
//! running events for dead. Hosts are namespaces of the kernel (`support::host`), which takes root;
//! where it cannot be had, `--skip hosts::` leaves these tests out.

use std::process::Command;

use rustix::process::Signal;

use crate::runs::{insert, now};
use crate::support::host::{Host, Network};
use crate::support::mariadb::Server;
use crate::support::process::{Ended, Running, eventually};
use crate::support::site::Site;

/// An attempt says where it starts; on the host `first` it waits until it may go.
const TYPES: &str = "[run]\nlease_ttl = \"6s\"\nmax_time = \"30s\"\n\
    [type.slow]\nhandler = \"command\"\nconcurrency = 2\ntimeout = \"5m\"\n\
    command = [\"sh\", \"-c\", \"echo $(uname -n) $PUNCTUAL_EVENT_ID >> starts; \
    [ $(uname -n) = first ] || exit 0; while [ ! -e go ]; do sleep 0.05; done\"]\n\
    [type.quick]\nhandler = \"command\"\n\
    command = [\"sh\", \"-c\", \"echo $(uname -n) $PUNCTUAL_EVENT_ID >> starts\"]\n";

/// Two hosts and a server on a third, spoken to over TCP with TLS.
struct World {
    network: Network,
    first: Host,
    second: Host,
    _server: Server,
    site: Site,
    url: String,
    _files: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let network = Network::new();
        let (first, second) = (network.host("first", 2), network.host("second", 3));
        let (certificate, key, authority) = crate::tls::certificate(Network::SERVER);
        let files = tempfile::tempdir().expect("a directory");
        let file = |name: &str, pem: &str| {
            let path = files.path().join(name);
            std::fs::write(&path, pem).expect("room on the disk");
            path.display().to_string()
        };
        let server = Server::on_host(
            network.server(),
            &[
                "--skip-networking=0",
                "--skip-name-resolve",
                &format!("--bind-address={}", Network::SERVER),
                &format!("--ssl-cert={}", file("cert.pem", &certificate)),
                &format!("--ssl-key={}", file("key.pem", &key)),
            ],
        );
        let site = Site::on(&server);
        site.write("ca.pem", &authority);
        site.config(TYPES).init();
        let database = site.mariadb_database().expect("a MariaDB site");
        let url = database.url_over_tcp(&server, Network::SERVER) + "?tls_ca=ca.pem";
        Self {
            network,
            first,
            second,
            _server: server,
            site,
            url,
            _files: files,
        }
    }

    fn start(&self, host: &Host, name: &str) -> Running {
        let mut command = host.command(&self.site, env!("CARGO_BIN_EXE_punctual"));
        command
            .args(["run", "--json"])
            .env("PUNCTUAL_DATABASE", &self.url)
            .env("PUNCTUAL_STATE_DIR", self.site.path(name))
            .env("PUNCTUAL_FAULT_CLOCK", self.site.path("clock"));
        Running::start(command, b"")
    }

    fn tick_of_the_second(&self) -> serde_json::Value {
        self.site
            .finish(self.start(&self.second, "second"))
            .ok()
            .json()
    }

    /// Moves the clock of both hosts' runs to this second of the server's.
    fn set_clock(&self, at: i64) {
        let real = self.site.query_i64("SELECT UNIX_TIMESTAMP()");
        self.site.write("clock", &(at - real).to_string());
    }

    fn number(&self, query: &str) -> i64 {
        self.site.query_i64(query)
    }

    /// The first host's run, two attempts under way and two more claimed, and its line just cut.
    fn cut_off_at_work(&self) -> Running {
        insert(&self.site, "slow", 4);
        let run = self.start(&self.first, "first");
        eventually("two attempts are under way", || self.starts().len() == 2);
        let claimed = "SELECT COUNT(*) FROM scheduled_events WHERE status = 'running'";
        eventually("all are claimed", || self.number(claimed) == 4);
        self.network.cut("first");
        run
    }

    /// Where which event was started, in order.
    fn starts(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.site.path("starts")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What was recorded, whoever was cut off when: each event once, by the second host's run.
    fn check_the_second_has_all(&self, run: &serde_json::Value) {
        let history = "SELECT event_id, outcome, losses FROM event_history \
                       WHERE type = 'slow' AND run_id = ";
        let by_the_second = self.site.rows(&format!("{history}{}", run["run_id"]));
        assert_eq!(by_the_second.len(), 4, "{by_the_second:?}");
        assert!(
            by_the_second.iter().all(|row| row[1..] == ["done", "1"]),
            "{by_the_second:?}"
        );
        assert_eq!(
            self.number("SELECT COUNT(*) FROM event_history WHERE type = 'slow'"),
            4
        );
        assert_eq!(self.number("SELECT COUNT(*) FROM scheduled_events"), 0);
        let on_the_first = self
            .starts()
            .iter()
            .filter(|start| start.starts_with("first"))
            .count();
        assert_eq!(on_the_first, 2, "{:?}", self.starts());
    }

    /// What the first run says and what stands of it: it counts nothing as done that is not its own.
    fn check_the_first_recorded_nothing(&self, ended: &Ended) {
        let run = ended.json();
        // The second host's run had the server end the session of the one it took over from.
        let (exit, stop) = (69, "database_lost");
        assert_eq!(
            (ended.code, &run["stop"]),
            (exit, &stop.into()),
            "{ended:?}"
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert_eq!(
            (
                &run["fired"],
                &run["done"],
                &run["released"],
                &run["withdrawn"]
            ),
            (&2.into(), &0.into(), &0.into(), &0.into()),
            "{run}"
        );
        let of_it = |query: &str| format!("{query} AND run_id = {}", run["run_id"]);
        let stood = self
            .site
            .rows(&of_it("SELECT stop, done FROM event_runs WHERE 1 = 1"));
        assert_eq!(stood, [[stop, "0"]]);
        let refused = "SELECT COUNT(DISTINCT event_id) FROM event_log WHERE decision = 'fenced'";
        assert_eq!(
            self.number(&of_it(refused)),
            4,
            "each refused ack is in the log"
        );
    }

    /// The second host waits for the lease, then for the claims, and has all events in the end.
    fn the_second_takes_over(&self) -> serde_json::Value {
        let beat = self.number("SELECT beat_at FROM event_lease");
        let until = self.number("SELECT MAX(claim_until) FROM scheduled_events");
        insert(&self.site, "quick", 1);
        // A second to spare for the run's own start.
        self.set_clock(beat + 4);
        assert_eq!(self.tick_of_the_second()["stop"], "locked");
        assert_eq!(self.number("SELECT SUM(ticks) FROM event_aside"), 1);
        self.set_clock(beat + 6);
        let run = self.tick_of_the_second();
        assert_eq!(
            (&run["done"], &run["recovered"]),
            (&1.into(), &0.into()),
            "{run}"
        );
        assert_eq!(run["types"]["quick"]["done"], 1, "{run}");
        self.set_clock(until - 5);
        insert(&self.site, "quick", 1);
        let run = self.tick_of_the_second();
        assert_eq!(
            (&run["done"], &run["recovered"]),
            (&1.into(), &0.into()),
            "{run}"
        );
        self.set_clock(until);
        let run = self.tick_of_the_second();
        assert_eq!(
            (&run["done"], &run["recovered"]),
            (&4.into(), &4.into()),
            "{run}"
        );
        run
    }
}

#[test]
fn a_host_that_is_cut_off_loses_its_lease_and_its_events_in_time_and_records_nothing_false() {
    let world = World::new();
    let cut_off = world.cut_off_at_work();
    let run = world.the_second_takes_over();
    // The clock was moved, the first host's stopwatch was not: half its lease has to pass for it,
    // too, or it would start the next two.
    std::thread::sleep(std::time::Duration::from_millis(3_100));
    world.site.write("go", "");
    world.network.mend("first");
    let ended = world.site.finish(cut_off);
    world.check_the_first_recorded_nothing(&ended);
    world.check_the_second_has_all(&run);
}

#[test]
fn a_host_that_is_cut_off_starts_nothing_once_half_its_lease_has_passed() {
    let world = World::new();
    let cut_off = world.cut_off_at_work();
    std::thread::sleep(std::time::Duration::from_millis(3_100));
    // Its attempts end, and there is room for the next two.
    world.site.write("go", "");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(world.starts().len(), 2);
    world.network.mend("first");
    // Nobody took over, so it goes on where it was.
    let run = world.site.finish(cut_off).ok().json();
    assert_eq!(
        (&run["stop"], &run["done"]),
        (&"drained".into(), &4.into()),
        "{run}"
    );
}

/// A run under way whose advisory lock is gone with its connection, which it has not noticed yet:
/// only the lease stands, and what proves a death.
struct Unguarded<'s> {
    site: &'s Site,
    run: Running,
}

/// Waits; the second attempt is done at once.
const PATIENT: &str = "[run]\nmax_time = \"30s\"\n[type.patient]\nhandler = \"command\"\n\
    timeout = \"10m\"\ncommand = [\"sh\", \"-c\", \"[ -e $HOME/up ] && exit; touch $HOME/up; \
    while [ ! -e go ]; do sleep 0.05; done\"]\n";

impl<'s> Unguarded<'s> {
    fn started_by(site: &'s Site, command: Command) -> Self {
        let mut run = Running::start(command, b"");
        let is_up = || site.path("home/up").exists();
        eventually("the handler works", || is_up() || !run.is_running());
        assert!(run.is_running(), "it ended: {:?}", site.finish(run));
        run.signal(Signal::STOP);
        let database = site.mariadb_database().expect("a MariaDB site");
        database.end_sessions();
        Self { site, run }
    }

    /// Ticks of `other`: aside while the lease stands; then the lease is its, and the event is not.
    fn stays_alive_for(self, other: impl Fn() -> Command) {
        let site = self.site;
        let tick = || site.finish(Running::start(other(), b"")).ok().json();
        assert_eq!(tick()["stop"], "locked");
        let beat = site.query_i64("SELECT beat_at FROM event_lease");
        site.write_for_all("clock", &(beat + 61 - now()).to_string());
        let run = tick();
        assert_eq!(run["recovered"], 0, "{run}");
        let left = "SELECT status, losses FROM scheduled_events";
        assert_eq!(site.rows(left), [["running", "0"]]);
        // It is alive, and records its own event.
        site.write_for_all("go", "");
        self.run.signal(Signal::CONT);
        let ended = site.finish(self.run);
        assert_eq!(ended.json()["done"], 1, "{ended:?}");
        assert_eq!(site.rows("SELECT outcome FROM event_history"), [["done"]]);
    }
}

fn run_in(site: &Site, state: &str) -> Command {
    let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
    command
        .args(["run", "--json"])
        .env("PUNCTUAL_STATE_DIR", site.path(state))
        .env("PUNCTUAL_FAULT_CLOCK", site.path("clock"));
    command
}

#[test]
fn a_run_with_another_state_directory_is_not_taken_for_dead() {
    let site = Site::mariadb();
    site.config(PATIENT).init();
    insert(&site, "patient", 1);
    let run = Unguarded::started_by(&site, run_in(&site, "one"));
    run.stays_alive_for(|| run_in(&site, "two"));
}

#[test]
fn a_run_on_a_machine_cloned_with_its_state_directory_is_not_taken_for_dead() {
    let site = Site::mariadb();
    site.config(PATIENT).init();
    insert(&site, "patient", 1);
    let run = Unguarded::started_by(&site, run_in(&site, "original"));
    let copied = Command::new("cp")
        .args(["-a", "original", "clone"])
        .current_dir(site.path(""))
        .status();
    assert!(copied.expect("cp is everywhere").success());
    run.stays_alive_for(|| run_in(&site, "clone"));
}

#[test]
fn a_run_of_another_user_is_not_taken_for_dead() {
    let site = Site::mariadb();
    site.config(PATIENT).init();
    insert(&site, "patient", 1);
    site.open_to_all_users();
    let program = site.path("punctual");
    site.copy_binary("punctual");
    let run_as = |user: &str| {
        let mut command = site.command("setpriv");
        let id = format!("--reuid={user}");
        command
            .args([&id, "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(["run", "--json"])
            .env(
                "PUNCTUAL_STATE_DIR",
                site.path(&format!("home/state-{user}")),
            )
            .env("PUNCTUAL_FAULT_CLOCK", site.path("clock"));
        command
    };
    let run = Unguarded::started_by(&site, run_as("65533"));
    run.stays_alive_for(|| run_as("65532"));
}

#[test]
fn another_name_of_a_sqlite_file_is_refused_while_its_events_run() {
    let site = Site::sqlite();
    site.config(PATIENT).init();
    insert(&site, "patient", 1);
    let run = site.spawn(["run", "--json"]);
    eventually("the handler works", || site.path("home/up").exists());
    // Beside another state directory, which means nothing to SQLite, the lock is the same.
    let other = site.finish(Running::start(run_in(&site, "elsewhere"), b""));
    assert_eq!(other.ok().json()["stop"], "locked");
    let file = site.path("events.db");
    let (link, moved) = (site.path("link.db"), site.path("moved.db"));
    std::fs::hard_link(&file, &link).expect("a link");
    let through = site.punctual(["run", "--database", "sqlite:link.db"]);
    assert_eq!(
        (through.code, through.stderr.lines().count()),
        (78, 1),
        "{through:?}"
    );
    std::fs::remove_file(&link).expect("the link");
    std::fs::rename(&file, &moved).expect("a new name");
    let after = site.punctual(["run", "--database", "sqlite:moved.db"]);
    assert_eq!(
        (after.code, after.stderr.lines().count()),
        (78, 1),
        "{after:?}"
    );
    std::fs::rename(&moved, &file).expect("the old name");
    let left = "SELECT status, losses FROM scheduled_events";
    assert_eq!(site.rows(left), [["running", "0"]]);
    site.write("go", "");
    assert_eq!(site.finish(run).ok().json()["done"], 1);
}

/// In a container entered from outside (`docker exec`), getsid(2) and getpgrp(2) say 0.
#[test]
fn a_run_killed_in_a_container_whose_session_is_outside_leaves_nobody_behind() {
    let site = Site::sqlite();
    site.config(
        "[type.long]\nhandler = \"command\"\ntimeout = \"10m\"\ncommand = [\"sleep\", \"600\"]\n",
    );
    site.init();
    insert(&site, "long", 1);
    // The kill comes before the watchdog is told of the child, which is known by its mark alone.
    let in_it = "PUNCTUAL_FAULT_POINT=fire.unguarded=kill \"$0\" run; echo \"ended $?\"
        for i in $(seq 400); do
            grep -qs PUNCTUAL_RUN_MARK /proc/[0-9]*/environ || { echo nobody; exit; }
            sleep 0.05
        done";
    let mut command = site.command("unshare");
    command
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .args(["sh", "-c", in_it, env!("CARGO_BIN_EXE_punctual")]);
    let ended = site.finish(Running::start(command, b""));
    assert_eq!(ended.stdout, "ended 137\nnobody\n", "{ended:?}");
}
