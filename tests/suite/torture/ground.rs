//! The ground: one site with a type of every handler and delivery, handlers that leave evidence of
//! their own, a clock that can be moved, and runs under way.

use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::dice::Dice;
use super::sight::Sight;
use crate::support::mariadb::Server;
use crate::support::proxy::Proxy;
use crate::support::site::Site;
use crate::support::web::{Reply, Web};

/// Seconds from slot to slot of the site's schedule.
pub(super) const EVERY: i64 = 60;

/// How a type's handler acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acts {
    Sql,
    Command,
    Http,
}

/// What a type declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declares {
    Exactly,
    AtLeast,
    AtMost,
}

/// One type of the site.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) acts: Acts,
    pub(super) declares: Declares,
    /// Processes at once.
    pub(super) concurrency: usize,
}

pub(super) const KINDS: [Kind; 7] = [
    kind("ledger", Acts::Sql, Declares::Exactly, 1),
    kind("shaky", Acts::Sql, Declares::Exactly, 1),
    kind("least", Acts::Command, Declares::AtLeast, 3),
    kind("most", Acts::Command, Declares::AtMost, 2),
    kind("batch", Acts::Command, Declares::AtLeast, 1),
    kind("web", Acts::Http, Declares::AtLeast, 2),
    kind("webonce", Acts::Http, Declares::AtMost, 2),
];

const fn kind(name: &'static str, acts: Acts, declares: Declares, concurrency: usize) -> Kind {
    Kind {
        name,
        acts,
        declares,
        concurrency,
    }
}

/// One line a start, one an end, each written by one `echo` into a file opened for appending: which
/// event, which run (its process), which process, when (monotonic seconds), and how it will end.
/// The payload says how long it takes and how it ends.
const EACH: &str = r#"#!/bin/sh
read -r up idle </proc/uptime
echo "S $PUNCTUAL_EVENT_ID $PPID $$ $up 0" >>notes
read -r nap code
[ "$nap" = 0 ] || sleep "$nap"
echo "E $PUNCTUAL_EVENT_ID $PPID $$ $up $code" >>notes
exit "$code"
"#;

const BATCH: &str = r#"#!/bin/sh
while read -r line; do
	id=${line#*\"id\":}
	id=${id%%,*}
	read -r up idle </proc/uptime
	echo "S $id $PPID $$ $up 0" >>notes
	case $line in
	*'"payload":"0.'*) sleep 0.01 ;;
	esac
	case $line in
	*' 0"'*)
		echo "E $id $PPID $$ $up 0" >>notes
		echo "{\"id\":$id,\"ok\":true}"
		;;
	*)
		echo "E $id $PPID $$ $up 1" >>notes
		echo "{\"id\":$id,\"error\":\"as it was told\"}"
		;;
	esac
done
"#;

/// A request as the web server saw it, and what it answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit {
    pub(super) event: i64,
    pub(super) at: f64,
    /// 0: the connection was reset before anything was taken in.
    pub(super) status: u16,
}

/// A run under way.
pub(super) struct Run {
    pub(super) child: Child,
    pub(super) pid: u32,
}

pub(super) struct Ground {
    pub(super) site: Site,
    pub(super) server: Option<Arc<Server>>,
    pub(super) proxy: Option<Proxy>,
    pub(super) sight: Sight,
    web: Web,
    visits: Arc<Mutex<Vec<Visit>>>,
    /// By how many seconds the runs' clock is moved.
    shift: i64,
    /// The most it was moved by since the oldest run alive was started.
    pub(super) highest_shift: i64,
    /// Where the runs of the next step are, as if on that host.
    pub(super) host: usize,
    /// SQLite's files lie here.
    disk: PathBuf,
}

impl Ground {
    /// On SQLite: in a directory of the site, or in `disk` where one is given.
    pub(super) fn sqlite(disk: Option<PathBuf>) -> Self {
        let site = Site::sqlite();
        let disk = disk.unwrap_or_else(|| site.path(""));
        let path = disk.join("events.db");
        let sight = Sight::sqlite(&path);
        Self::new(
            site,
            None,
            None,
            sight,
            disk,
            &format!("sqlite:{}", path.display()),
        )
    }

    /// On a server of its own, through a proxy.
    pub(super) fn mariadb() -> Self {
        // Connections that are silent for long are dropped, as hosters do it.
        let server = Arc::new(Server::private(&["--wait-timeout=1"]));
        let site = Site::on(&server);
        let proxy = Proxy::start(&server.socket());
        let url = proxy.url(site.mariadb_database().expect("it is MariaDB"));
        let sight = Sight::mariadb(site.mariadb_database().expect("it is MariaDB"));
        let disk = site.path("");
        Self::new(site, Some(server), Some(proxy), sight, disk, &url)
    }

    fn new(
        site: Site,
        server: Option<Arc<Server>>,
        proxy: Option<Proxy>,
        mut sight: Sight,
        disk: PathBuf,
        url: &str,
    ) -> Self {
        let visits: Arc<Mutex<Vec<Visit>>> = Arc::default();
        let noted = Arc::clone(&visits);
        let web = Web::start(move |asked| {
            let event: i64 = asked.header("punctual-event-id").parse().unwrap_or(0);
            let first = asked.header("punctual-attempt") == "1";
            let status = match event % 13 {
                3 => 500,
                5 if first => 503,
                7 if first => 0,
                _ => 200,
            };
            let at = wall();
            noted
                .lock()
                .expect("no panic")
                .push(Visit { event, at, status });
            match status {
                200 => Reply::plain("200 OK", ""),
                503 => {
                    let later = "Retry-After: 1\r\n".to_owned();
                    Reply::Answer("503 Later", later, String::new())
                }
                0 => Reply::Reset,
                _ => Reply::plain("500 No", ""),
            }
        });
        site.write_program("each", EACH)
            .write_program("batch", BATCH);
        site.write("notes", "").write("clock", "0");
        site.write("punctual.toml", &configuration(url, &web, sight.clock()));
        site.init();
        for statement in sight.tables() {
            sight.execute(&statement);
        }
        Self {
            site,
            server,
            proxy,
            sight,
            web,
            visits,
            shift: 0,
            highest_shift: 0,
            host: 0,
            disk,
        }
    }

    /// The runs' clock.
    pub(super) fn now(&self) -> i64 {
        seconds(wall()) + self.shift
    }

    /// Moves the runs' clock, also under a run: replaced in one go, so that it is never empty.
    pub(super) fn move_clock(&mut self, shift: i64) {
        self.site.write("clock.new", &shift.to_string());
        fs::rename(self.site.path("clock.new"), self.site.path("clock")).expect("the same folder");
        self.shift = shift;
        self.highest_shift = self.highest_shift.max(shift);
    }

    /// Moves the clock forward so that `instant` has come.
    pub(super) fn move_clock_to(&mut self, instant: i64) {
        let missing = instant - self.now();
        if missing > 0 {
            self.move_clock(self.shift + missing);
        }
    }

    /// No run of an earlier step is alive.
    pub(super) fn begin_step(&mut self) {
        self.highest_shift = self.shift;
    }

    /// Starts a run; what it prints goes to the files `out` and `err` of the site. With `patience`
    /// it waits for the server's answers that many milliseconds only.
    pub(super) fn start(&self, patience: Option<u32>) -> Run {
        let mut command = self.site.command(env!("CARGO_BIN_EXE_punctual"));
        let state = format!("state/host-{}", self.host);
        command
            .args(["run", "--json"])
            .env("PUNCTUAL_FAULT_CLOCK", self.site.path("clock"))
            .env("PUNCTUAL_STATE_DIR", self.site.path(&state))
            .stdin(Stdio::null())
            .stdout(self.file("out"))
            .stderr(self.file("err"));
        if let Some(patience) = patience {
            command.env("PUNCTUAL_FAULT_PATIENCE", patience.to_string());
        }
        let child = command.spawn().expect("the binary is built");
        Run {
            pid: child.id(),
            child,
        }
    }

    fn file(&self, name: &str) -> File {
        let path = self.site.path(name);
        File::create(path).expect("a file of the site")
    }

    /// Asks the binary something with the runs' clock; what it said.
    pub(super) fn ask(&self, words: &[&str]) -> crate::support::process::Ended {
        let mut command = self.site.command(env!("CARGO_BIN_EXE_punctual"));
        command
            .args(words)
            .env("PUNCTUAL_FAULT_CLOCK", self.site.path("clock"))
            .env("PUNCTUAL_STATE_DIR", self.site.path("state/host-0"));
        self.site
            .finish(crate::support::process::Running::start(command, b""))
    }

    /// How many bytes of notes there are: whether handlers are at work.
    pub(super) fn noted(&self) -> u64 {
        let about = fs::metadata(self.site.path("notes"));
        about.map_or(0, |about| about.len())
    }

    /// What the web server saw since it was last asked.
    pub(super) fn take_visits(&self) -> Vec<Visit> {
        std::mem::take(&mut *self.visits.lock().expect("no panic"))
    }

    /// Every lock file there is.
    pub(super) fn lock_files(&self) -> Vec<PathBuf> {
        let mut found = vec![self.disk.join("events.db.runlock")];
        let hosts = fs::read_dir(self.site.path("state"));
        for host in hosts.into_iter().flatten().flatten() {
            let homes = fs::read_dir(host.path());
            found.extend(
                homes
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|home| home.path().join("run.lock")),
            );
        }
        found.retain(|path| path.exists());
        found
    }

    /// Waits until the watchdogs of killed runs have done their work: no lock is held.
    pub(super) fn await_locks(&self) {
        let start = Instant::now();
        for path in self.lock_files() {
            let open = OpenOptions::new().read(true).write(true).open(&path);
            let Ok(file) = open else { continue };
            while fs2::FileExt::try_lock_exclusive(&file).is_err() {
                let patient = start.elapsed() < Duration::from_secs(40);
                assert!(patient, "{} is held for ever", path.display());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Fills the disk under SQLite's files; what undoes it.
    pub(super) fn fill_disk(&self) -> Filler {
        let filler = Filler(self.disk.join("filler"));
        let chunk = vec![0; 64 << 10];
        let mut file = File::create(&filler.0).expect("a free name");
        for size in [chunk.len(), 1 << 10, 1] {
            while std::io::Write::write(&mut file, &chunk[..size]).is_ok_and(|n| n == size) {}
        }
        filler
    }

    /// The web server's address, for messages.
    pub(super) fn address(&self) -> String {
        self.web.url("/")
    }
}

/// What takes up the room of a full disk, until dropped.
pub(super) struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn configuration(url: &str, web: &Web, clock: &str) -> String {
    let (web, once) = (web.url("/web"), web.url("/once"));
    let effects =
        "retries = 2\nbackoff = \"1s\"\nbackoff_max = \"2s\"\nmax_losses = 6\nbreaker = 0\n";
    let web_retries = format!("{effects}max_deferrals = 3\ntimeout = \"20s\"\n");
    let retries = format!("{web_retries}grace = \"1s\"\n");
    let effect = format!("INSERT INTO effects (event_id, at) VALUES (:id, {clock})");
    let picky = "INSERT INTO picky (event_id, ok) VALUES \
                 (:id, (SELECT ok FROM mood WHERE kind = :p.kind))";
    format!(
        "database = \"{url}\"\n\
         [run]\nlease_ttl = \"6s\"\nmax_time = \"20s\"\nbatch_size = 6\ngrace = \"2s\"\n\
         [type.ledger]\nhandler = \"sql\"\nsql = [\"{effect}\"]\n{effects}\
         [type.shaky]\nhandler = \"sql\"\nsql = [\"{effect}\", \"{picky}\"]\n{effects}\
         [type.least]\nhandler = \"command\"\ncommand = [\"./each\"]\nconcurrency = 3\n{retries}\
         [type.most]\nhandler = \"command\"\ncommand = [\"./each\"]\nconcurrency = 2\n\
         at_most_once = true\n{retries}\
         [type.batch]\nhandler = \"command\"\ncommand = [\"./batch\"]\nmode = \"batch\"\n{retries}\
         [type.web]\nhandler = \"http\"\nurl = \"{web}\"\nconcurrency = 2\n{web_retries}\
         [type.webonce]\nhandler = \"http\"\nurl = \"{once}\"\nconcurrency = 2\n\
         at_most_once = true\n{web_retries}\
         [schedule.beat]\ntype = \"ledger\"\nevery = \"{EVERY}s\"\n\
         anchor = \"1970-01-01T00:00:00Z\"\npayload = {{ kind = \"calm\" }}\n\
         missed = \"all\"\nmissed_max = 10000\n"
    )
}

/// What a handler of this kind is told; how it will end with it.
pub(super) fn payload(kind: &Kind, dice: &mut Dice) -> String {
    let nap = match dice.below(16) {
        0 => "0.1",
        1..5 => "0.02",
        5..8 => "0.005",
        _ => "0",
    };
    match (kind.acts, kind.name) {
        (Acts::Sql, _) => {
            let mood = *dice.of(&["calm", "calm", "calm", "moody", "never"]);
            format!("{{\"kind\":\"{mood}\"}}")
        }
        (Acts::Command, "batch") => format!("{nap} {}", dice.of(&[0, 0, 0, 1])),
        (Acts::Command, _) => format!("{nap} {}", dice.of(&[0, 0, 0, 0, 0, 1, 65, 75])),
        (Acts::Http, _) => "{}".to_owned(),
    }
}

/// The host's own clock.
pub(super) fn wall() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs_f64()
}

/// Whole seconds, rounded down.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounds down, far from any limit"
)]
pub(super) fn seconds(instant: f64) -> i64 {
    instant.floor() as i64
}
