//! One run, readable top to bottom as DESIGN §5: file lock, connection, advisory lock, peek,
//! lease, recovery, waves until drained or the budget is used, and a clean end. One that lingers
//! waits between these steps: for the file lock, for the first thing to do, for each further round.
//! `kill -9` at any instant needs no clean-up step: the next run's first steps are the recovery.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::clock::{Clock, UnixSeconds, monotonic};
use crate::config::{Config, Database, TypeConfig};
use crate::db::{Access, AdvisoryLock, Db, DbError, DbResult};
use crate::error::Failure;
use crate::event::EventId;
use crate::fair::Turns;
use crate::fault::point;
use crate::lease::{Applicant, Lease};
use crate::lock::{self, Asked, FileLock};
use crate::spawn::{Reactor, Sleeper};
use crate::store::peek::{Peek, TypeState};
use crate::store::runs::{Counts, Progress};
use crate::store::settle::{Ack, Fate};
use crate::store::{Install, Stopped, Store};

mod acks;
mod attempts;
mod effects;
mod ending;
mod idle;
pub mod judge;
mod lane;
mod linger;
pub mod plan;
mod recovery;
mod report;
pub mod signals;
pub mod slots;
pub mod sources;
mod sweeps;
mod waves;

pub use report::{Report, Stop};

use lane::Lane;
use linger::{Waiting, Watched, Work};
use signals::Signals;

/// Added to what a claim may need at the longest (RULINGS 26).
const CLAIM_MARGIN: Duration = Duration::from_mins(1);

/// Opens a connection.
pub type Connect<'c> = dyn Fn(&Database, Access, Clock) -> DbResult<Box<dyn Db>> + 'c;

/// What a run takes from outside: the seams through which tests move time, fail the database and
/// name the watchdog's program.
#[derive(Clone, Copy)]
pub struct World<'w> {
    /// The host's wall clock.
    pub clock: Clock,
    /// Opens a connection.
    pub connect: &'w Connect<'w>,
    /// The program that watches over children.
    pub watchdog: &'w Path,
}

impl World<'static> {
    /// The real one.
    pub fn real() -> Self {
        // The very program that runs, even when its file has been replaced meanwhile.
        Self {
            clock: Clock::system(),
            connect: &crate::db::connect,
            watchdog: Path::new("/proc/self/exe"),
        }
    }
}

impl World<'_> {
    fn store(&self, config: &Config) -> anyhow::Result<Store> {
        let database = config.database.as_ref().ok_or_else(Failure::no_database)?;
        let db = (self.connect)(database, Access::Write, self.clock)?;
        Ok(Store::new(db, &config.table_prefix))
    }
}

/// What the command line asks of one run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Start nothing once the run has lasted this long.
    pub max_time: Option<Duration>,
    /// Once nothing is left, wait for what becomes due until the time is used up.
    pub linger: bool,
    /// Start at most this many attempts.
    pub max_events: Option<u64>,
    /// The most events of one turn.
    pub batch_size: usize,
    /// Only these types; empty: all.
    pub types: Vec<String>,
    /// An earlier cutoff.
    pub due_before: Option<UnixSeconds>,
    /// Use a SQLite database on a network file system.
    pub allow_network_fs: bool,
}

impl Options {
    /// What the configuration says.
    pub fn of(config: &Config) -> Self {
        Self {
            max_time: config.run.max_time,
            linger: false,
            max_events: config.run.max_events,
            batch_size: config.run.batch_size,
            types: Vec::new(),
            due_before: None,
            allow_network_fs: config.run.allow_network_fs,
        }
    }

    /// How far a round that begins at `now` looks.
    fn cutoff(&self, now: UnixSeconds) -> UnixSeconds {
        self.due_before.map_or(now, |wanted| wanted.min(now))
    }

    fn wants(&self, type_name: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|wanted| wanted == type_name)
    }
}

/// Why a run starts nothing more, other than by its budget.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The lease is somebody else's.
    Fenced,
    /// The database failed.
    Db(DbError),
}

impl From<DbError> for Trouble {
    fn from(error: DbError) -> Self {
        Trouble::Db(error)
    }
}

impl From<Stopped> for Trouble {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Db(error) => Trouble::Db(error),
            Stopped::Fenced | Stopped::Changed => Trouble::Fenced,
        }
    }
}

/// Told after each wave and group of acks how far the run has come, for a progress bar.
pub type Watch<'w> = dyn FnMut(&Counts) + 'w;

/// Fires what is due.
///
/// # Errors
/// Whatever keeps the run from starting, each with its exit code; once it holds the lease it ends
/// in order and says in the report what went wrong.
pub fn run(
    config: &Config,
    options: &Options,
    world: World<'_>,
    watch: &mut Watch<'_>,
) -> anyhow::Result<Report> {
    let begun = monotonic();
    let clock = world.clock;
    let mut signals = Signals::listen()?;
    let sleeper = options.linger.then(Sleeper::new).transpose()?;
    if let Some(sleeper) = &sleeper {
        signals.wake(&sleeper.waker())?;
    }
    let deadline = options.max_time.map(|time| begun + time);
    let waiting = Waiting {
        config,
        options,
        signals: &signals,
        sleeper: sleeper.as_ref(),
        deadline,
    };
    let lock_path = lock::lock_path(config)?;
    let may_lack_locks = options.allow_network_fs || !config.is_sqlite();
    let lock = match waiting.file_lock(&lock_path, clock, may_lack_locks)? {
        Asked::Held(lock) => lock,
        Asked::Busy => {
            log::info!("{} is held by another run", lock_path.display());
            let stop = signals.received().map_or(Stop::Locked, Stop::Signal);
            if stop == Stop::Locked {
                lock::count_aside(&lock_path)?;
            }
            return Ok(Report::without_work(stop, clock.now(), clock.now()));
        }
    };
    point("lock.file");
    let mut store = world.store(config)?;
    let install = store.install()?;
    let host = lock::host_name();
    let mut advisory = if options.linger {
        store.advisory_lock_handed_over(&install)?
    } else {
        store.advisory_lock(&install)?
    };
    if advisory == AdvisoryLock::Busy {
        let now = store.now()?;
        let lease = store.lease_row()?.filter(|lease| lease.has_lapsed(now));
        let Some(lease) = lease else {
            store.count_aside(&host, now)?;
            return Ok(Report::without_work(Stop::Locked, now, options.cutoff(now)));
        };
        // Of a run that may claim nothing more. Whether or not its session can be ended, the lease
        // decides.
        advisory = store.break_advisory_lock(&install, &lease)?;
    }
    if advisory == AdvisoryLock::Unsupported && !config.is_sqlite() {
        log::warn!("this server keeps no advisory locks; the lease alone keeps runs apart");
    }
    point("lock.advisory");
    let Work {
        peek,
        read_at,
        cutoff,
        states,
    } = match waiting.work(&mut store, &install)? {
        Watched::Work(work) => work,
        Watched::Over(report) => return Ok(report),
    };
    let now = peek.now;
    let left = deadline.map(|deadline| deadline.saturating_duration_since(read_at));
    let deadline_at = left.map(|left| now.after(left));
    let applicant = Applicant {
        host: &host,
        lock: lock.identity(),
        ttl: config.run.lease_ttl,
        now,
        read_at,
        cutoff,
        deadline_at,
    };
    let taken = Lease::take(&mut store, &peek.lease, applicant).map_err(Stopped::into_error)?;
    let Some((lease, run_id)) = taken else {
        store.count_aside(&host, now)?;
        return Ok(Report::without_work(Stop::Locked, now, cutoff));
    };
    point("lease.taken");
    log::info!(
        "run {run_id} has the lease, epoch {}, cutoff {cutoff}",
        lease.epoch
    );
    let reactor = Reactor::new(lock.try_clone()?, world.watchdog)?;
    signals.wake(&reactor.waker())?;
    let runner = Runner {
        config,
        options,
        world,
        store,
        lock,
        lease,
        run_id,
        install,
        host,
        started_at: now,
        cutoff,
        anchor: (read_at, now),
        deadline,
        signals,
        reactor,
        lanes: Vec::new(),
        turns: Turns::new(&[], options.batch_size),
        progress: Progress {
            cutoff,
            ..Progress::default()
        },
        counts: BTreeMap::new(),
        pending: Vec::new(),
        pending_since: None,
        unsure: false,
        unsure_endings: None,
        broke_in_wave: false,
        reading: Duration::ZERO,
        pause_due: Duration::ZERO,
        stop: None,
        trouble: None,
        failures: Vec::new(),
        misconfigured: BTreeMap::new(),
        without_rule: Vec::new(),
        remarks: Vec::new(),
        prune_at: peek.lease.prune_at,
        watch,
    };
    Ok(runner.work(&lock_path, &states, &peek))
}

/// Events whose endings a COMMIT without an answer may have recorded.
struct Unsure {
    part: Part,
    /// By type.
    events: BTreeMap<String, Vec<EventId>>,
}

impl Unsure {
    fn new<'e>(part: Part, named: impl Iterator<Item = (&'e str, EventId)>) -> Self {
        let mut events: BTreeMap<String, Vec<EventId>> = BTreeMap::new();
        for (type_name, id) in named {
            match events.get_mut(type_name) {
                Some(ids) => ids.push(id),
                None => drop(events.insert(type_name.to_owned(), vec![id])),
            }
        }
        Self { part, events }
    }

    fn of_acks(part: Part, acks: &[Ack]) -> Self {
        Self::new(
            part,
            acks.iter().map(|ack| (ack.type_name.as_str(), ack.id)),
        )
    }
}

/// What this run had to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It ran its effect.
    Fired,
    /// It found the event with a run that died.
    Recovered,
    /// It judged it without starting it.
    Judged,
}

/// A run that holds the lease.
pub(crate) struct Runner<'r> {
    config: &'r Config,
    options: &'r Options,
    world: World<'r>,
    store: Store,
    lock: FileLock,
    lease: Lease,
    run_id: i64,
    install: Install,
    host: String,
    started_at: UnixSeconds,
    cutoff: UnixSeconds,
    /// A monotonic instant and the database's clock at it.
    anchor: (Instant, UnixSeconds),
    deadline: Option<Instant>,
    signals: Signals,
    reactor: Reactor,
    lanes: Vec<Lane>,
    turns: Turns,
    progress: Progress,
    counts: BTreeMap<String, Counts>,
    pending: Vec<Ack>,
    pending_since: Option<Instant>,
    /// A COMMIT of `pending` may have succeeded without an answer.
    unsure: bool,
    /// What the COMMIT in hand records, other than `pending`: should it get no answer.
    unsure_endings: Option<Unsure>,
    /// The connection was lost within a wave of effects, which did not come to its commit.
    broke_in_wave: bool,
    /// How long the last wave of effects was read: the write lock was free meanwhile.
    reading: Duration,
    /// How long the write lock is still to be left free for others.
    pause_due: Duration,
    stop: Option<Stop>,
    trouble: Option<DbError>,
    failures: Vec<(String, EventId, String)>,
    /// Types that cannot fire, each with the line that says why.
    misconfigured: BTreeMap<String, String>,
    /// Why schedules make no more events, and sources none: their rules cannot be read, their
    /// queries fail.
    without_rule: Vec<String>,
    /// What is to be known of sources, though all that can be derived is.
    remarks: Vec<String>,
    prune_at: UnixSeconds,
    watch: &'r mut Watch<'r>,
}

impl Runner<'_> {
    fn work(mut self, lock_path: &Path, states: &[TypeState], peek: &Peek) -> Report {
        let drained = self.note_asides(lock_path).and_then(|()| {
            self.store.keep_ids_from_coming_back()?;
            let suspects = self.recover()?;
            self.make_slots(peek.next_slot)?;
            self.look_at_sources(peek.next_look)?;
            self.open_lanes(states, &suspects)?;
            self.drain()?;
            if self.options.linger {
                self.linger()?;
            }
            Ok(())
        });
        if let Err(trouble) = drained {
            self.note_trouble(trouble);
        }
        self.end()
    }

    /// Adds up the ticks that were counted beside the lock file since the last run that had work.
    fn note_asides(&mut self, lock_path: &Path) -> Result<(), Trouble> {
        let ticks = lock::counted_aside(lock_path);
        let lock_id = self.lock.identity().as_str().to_owned();
        self.store
            .record_asides(&self.host, &lock_id, ticks, self.started_at)?;
        Ok(())
    }

    /// The database's clock, read anew: once a wave (DESIGN §9).
    fn read_clock(&mut self) -> Result<UnixSeconds, Trouble> {
        let at = monotonic();
        let now = self.store.now()?;
        self.anchor = (at, now);
        Ok(now)
    }

    /// The database's clock at `instant`, reckoned from the last reading; needs no database.
    fn time_at(&self, instant: Instant) -> UnixSeconds {
        let (at, now) = self.anchor;
        match instant.checked_duration_since(at) {
            Some(later) => UnixSeconds(now.0 + i64::try_from(later.as_secs()).unwrap_or(0)),
            None => now.before(at.duration_since(instant)),
        }
    }

    fn counts_of(&mut self, type_name: &str) -> &mut Counts {
        // Called for each event: the name is copied for the first of its type only.
        if !self.counts.contains_key(type_name) {
            self.counts.insert(type_name.to_owned(), Counts::default());
        }
        self.counts
            .get_mut(type_name)
            .expect("inserted above if it was missing")
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for counts in self.counts.values() {
            total += *counts;
        }
        total
    }

    /// Tells the progress bar.
    fn tell(&mut self) {
        let total = self.total();
        (self.watch)(&total);
    }

    /// Remembers the first event of each type that went dead or unknown, for a line on stderr.
    fn note_failure(&mut self, ack: &Ack) {
        use crate::event::Outcome::{Dead, Unknown};
        let Fate::Finish {
            outcome: outcome @ (Dead | Unknown),
            error,
            ..
        } = &ack.fate
        else {
            return;
        };
        if self
            .failures
            .iter()
            .any(|(type_name, _, _)| *type_name == ack.type_name)
        {
            return;
        }
        let error = error.as_deref().unwrap_or("no reason given");
        let line: String = error.split_whitespace().collect::<Vec<_>>().join(" ");
        self.failures
            .push((ack.type_name.clone(), ack.id, format!("{outcome}: {line}")));
    }

    fn note_trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Fenced => {
                log::warn!("fenced: another run has taken over the lease");
                self.stop = Some(Stop::Fenced);
            }
            Trouble::Db(error) => {
                log::warn!("the database failed: {error}");
                if error.ends_the_session() {
                    self.stop = Some(Stop::DatabaseLost);
                }
                self.trouble = Some(error);
            }
        }
    }

    /// Until when a claim made at `now` is to be believed by others (RULINGS 26).
    fn claim_until(&self, config: &TypeConfig, now: UnixSeconds) -> UnixSeconds {
        let rest = self.deadline.map_or(self.config.run.lease_ttl, |deadline| {
            deadline.saturating_duration_since(monotonic())
        });
        now.after(rest + config.timeout + config.grace + self.config.run.grace + CLAIM_MARGIN)
    }
}

#[cfg(test)]
mod tests;
