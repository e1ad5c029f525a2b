//! Where cells are played: a site that is used again and again, a web server, a proxy before
//! MariaDB, and what an outsider can see of a run: its processes, its effects, its tables.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::plan::{self, BATCH, Column, EACH, EVENTS, Kind};
use crate::support::mariadb::Server;
use crate::support::process::{Running, eventually, send};
use crate::support::proxy::Proxy;
use crate::support::site::{Site, deletions};
use crate::support::web::{Reply, Web};
use crate::support::wiki::JOB_TABLE;

/// Longer than events are taken ahead for: what is claimed has ended before more of it is.
const UNHURRIED: Duration = Duration::from_millis(30);

/// An id of an old history row, for pruning to have something to do.
const OLD: i64 = 90;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Sqlite,
    Mariadb,
}

impl Database {
    pub(crate) const ALL: [Self; 2] = [Self::Sqlite, Self::Mariadb];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Mariadb => "MariaDB",
        }
    }
}

pub(crate) struct Bench {
    pub(crate) site: Site,
    /// Before the MariaDB server.
    pub(crate) proxy: Option<Proxy>,
    /// The pid of the run that is to be killed.
    pub(crate) run: Arc<AtomicU32>,
    /// Ids of events for which a request came in.
    requests: Arc<Mutex<Vec<i64>>>,
    _web: Web,
}

impl Bench {
    /// On this MariaDB server, if it is to be MariaDB.
    pub(crate) fn new(database: Database, server: &Server) -> Self {
        let site = match database {
            Database::Sqlite => Site::sqlite_in_memory(),
            Database::Mariadb => Site::on(server),
        };
        let run = Arc::new(AtomicU32::new(0));
        let requests: Arc<Mutex<Vec<i64>>> = Arc::default();
        let (noted, pid, term) = (Arc::clone(&requests), Arc::clone(&run), site.path("term"));
        let web = Web::start(move |asked| {
            let id = asked.header("punctual-event-id").parse().unwrap_or(0);
            noted.lock().expect("no panic while it is held").push(id);
            if id == 1 && term.exists() {
                send(known(&pid), Signal::TERM);
            }
            if asked.header("punctual-event-type") == "http" {
                thread::sleep(UNHURRIED);
            }
            Reply::plain("200 OK", "")
        });
        site.config(&plan::config(&web.url("/")))
            .write("each", EACH)
            .write("batch", BATCH)
            .init()
            .sql("CREATE TABLE seen (id INTEGER)")
            .sql(JOB_TABLE);
        fs::create_dir(site.path("hold")).expect("a new directory");
        let proxy = (database == Database::Mariadb).then(|| Proxy::start(&server.socket()));
        Self {
            site,
            proxy,
            run,
            requests,
            _web: web,
        }
    }

    /// As after `init`, with four events of one type due, and one old row of history.
    pub(crate) fn start_anew(&self, column: &Column) {
        self.site.alone();
        let deletions = deletions().join("; ");
        let event = |id| {
            let payload = match column.kind {
                Kind::Job => format!("'{{\"type\":\"null\",\"title\":\"{id}\"}}'"),
                _ => "NULL".to_owned(),
            };
            format!("({id}, '{}', {id}, {payload})", column.type_name)
        };
        let events = (1..=EVENTS).map(event);
        let events: Vec<String> = events.collect();
        self.site.sql(&format!(
            "BEGIN; {deletions}; \
             UPDATE event_lease SET epoch = 0, holder = '', run_id = NULL, host = '', pid = NULL, \
             lock_id = '', beat_at = 0, ttl = 0, last_tick_at = NULL, prune_at = 1; \
             INSERT INTO event_history (event_id, type, due_at, priority, attempts, losses, \
             deferrals, outcome, finished_at) VALUES ({OLD}, 'old', 1, 0, 0, 0, 0, 'done', 1); \
             DELETE FROM job; \
             INSERT INTO scheduled_events (id, type, due_at, payload) VALUES {}; COMMIT",
            events.join(", ")
        ));
        for file in ["fired", "hang", "term"] {
            let _ = fs::remove_file(self.site.path(file));
        }
        self.noted().clear();
    }

    /// Starts a run; `faults` as in `PUNCTUAL_FAULT_POINT`.
    pub(crate) fn start(&self, arguments: &[&str], faults: &str, through_proxy: bool) -> Running {
        let hold = self.site.path("hold");
        for entry in fs::read_dir(&hold).expect("a directory of ours").flatten() {
            fs::remove_file(entry.path()).expect("a file of ours");
        }
        let mut command = self.command(arguments, through_proxy);
        command
            .env("PUNCTUAL_FAULT_POINT", faults)
            .env("PUNCTUAL_FAULT_HOLD", hold);
        self.run.store(0, Ordering::SeqCst);
        let run = Running::start(command, b"");
        self.run.store(run.pid(), Ordering::SeqCst);
        run
    }

    pub(crate) fn command(&self, arguments: &[&str], through_proxy: bool) -> Command {
        let mut command = self.site.command(env!("CARGO_BIN_EXE_punctual"));
        command.args(["run", "--json"]).args(arguments);
        if through_proxy
            && let (Some(proxy), Some(database)) = (&self.proxy, self.site.mariadb_database())
        {
            command.env("PUNCTUAL_DATABASE", proxy.url(database));
        }
        command
    }

    /// Nothing that was started in the site's directory is left.
    pub(crate) fn nothing_runs(&self) {
        let directory = fs::canonicalize(self.site.path("")).expect("a directory of ours");
        let processes = fs::read_dir("/proc").expect("processes").flatten();
        let left: Vec<_> = processes
            .map(|process| process.path())
            .filter(|path| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == directory))
            .collect();
        assert!(left.is_empty(), "still running: {left:?}");
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Vec<i64>> {
        self.requests.lock().expect("no panic while it is held")
    }

    /// How many effects handlers beside the run have had so far.
    pub(crate) fn effects_noted(&self) -> usize {
        let fired = fs::read_to_string(self.site.path("fired")).unwrap_or_default();
        fired.lines().count() + self.noted().len()
    }

    /// How often each event has had its effect, by what handlers wrote down, what the web server
    /// was asked, and what stands in the table that effects write to.
    pub(crate) fn effects(&self, tables: &Tables) -> BTreeMap<i64, usize> {
        let mut effects = BTreeMap::new();
        let fired = fs::read_to_string(self.site.path("fired")).unwrap_or_default();
        let fired = fired
            .lines()
            .map(|line| line.parse().expect("an id a line"));
        let requested = self.noted().clone();
        for id in fired.chain(requested).chain(tables.seen.iter().copied()) {
            *effects.entry(id).or_default() += 1;
        }
        effects
    }

    /// The tables, read by plain SQL.
    pub(crate) fn tables(&self) -> Tables {
        const QUERY: &str = "\
            SELECT 'past', event_id, outcome, losses, attempts, deferrals FROM event_history \
            UNION ALL SELECT 'live', id, status, COALESCE(claim_epoch, 0), losses, 0 \
            FROM scheduled_events \
            UNION ALL SELECT 'run', run_id, COALESCE(stop, 'open'), epoch, \
            COALESCE(wave_first_id, 0), COALESCE(wave_last_id, 0) FROM event_runs \
            UNION ALL SELECT 'seen', id, '', 0, 0, 0 FROM seen \
            UNION ALL SELECT 'seen', CAST(job_title AS DECIMAL), '', 0, 0, 0 FROM job \
            UNION ALL SELECT 'lease', epoch, holder, 0, 0, 0 FROM event_lease";
        let mut tables = Tables::default();
        for row in self.site.rows_as_left(QUERY) {
            let number = |index: usize| row[index].parse::<i64>().expect("a number");
            let line = Line {
                id: number(1),
                word: row[2].clone(),
                numbers: [number(3), number(4), number(5)],
            };
            match row[0].as_str() {
                "past" if line.id == OLD => tables.old_is_there = true,
                "past" => tables.past.push(line),
                "live" => tables.live.push(line),
                "run" => tables.runs.push(line),
                "seen" => tables.seen.push(line.id),
                _ => tables.holder = line.word,
            }
        }
        tables
    }
}

/// What stands in the tables.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// Id, outcome; losses, attempts, deferrals.
    pub(crate) past: Vec<Line>,
    /// Id, status; epoch of the claim, losses.
    pub(crate) live: Vec<Line>,
    /// `run_id`, stop or `open`; epoch, the wave's first and last id.
    pub(crate) runs: Vec<Line>,
    seen: Vec<i64>,
    pub(crate) holder: String,
    pub(crate) old_is_there: bool,
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) id: i64,
    pub(crate) word: String,
    pub(crate) numbers: [i64; 3],
}

impl Tables {
    pub(crate) fn open_runs(&self) -> Vec<i64> {
        let open = self.runs.iter().filter(|run| run.word == "open");
        open.map(|run| run.id).collect()
    }

    /// The events that the last run had in hand: those it had claimed, and the one that its wave of
    /// effects consisted of; a wave of several says of none which it was.
    pub(crate) fn in_hand(&self) -> Vec<i64> {
        let Some(run) = self.runs.iter().max_by_key(|run| run.id) else {
            return Vec::new();
        };
        let [epoch, first, last] = run.numbers;
        let of_it = |event: &&Line| {
            let is_claimed = event.word == "running" && event.numbers[0] == epoch;
            let is_traced = run.word == "open" && [first, last] == [event.id; 2];
            is_claimed || is_traced
        };
        self.live
            .iter()
            .filter(of_it)
            .map(|event| event.id)
            .collect()
    }
}

/// The pid of a run that has just been started.
pub(crate) fn known(run: &AtomicU32) -> u32 {
    eventually("the run's pid is known", || run.load(Ordering::SeqCst) > 0);
    run.load(Ordering::SeqCst)
}

/// The processes that a run has started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Family {
    pub(crate) watchdog: Option<u32>,
    pub(crate) children: Vec<u32>,
}

impl Family {
    /// Of a run that is held.
    pub(crate) fn of(run: u32) -> Self {
        let path = format!("/proc/{run}/task/{run}/children");
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut family = Self::default();
        for pid in text
            .split_whitespace()
            .map(|pid| pid.parse().expect("a pid"))
        {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command.contains("__watchdog") {
                family.watchdog = Some(pid);
            } else {
                family.children.push(pid);
            }
        }
        family
    }

    pub(crate) fn living(&self) -> usize {
        self.children.iter().filter(|&&child| lives(child)).count()
    }
}

/// Whether it runs; one that nobody has reaped does not.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
