//! The lease with its epoch: the only layer that correctness rests on (RULINGS 1, 10, 11). The
//! locks of `lock.rs` may lie; a claim that does not pass this gate does not happen.

use std::time::{Duration, Instant};

use crate::clock::{UnixSeconds, monotonic};
use crate::event::Epoch;
use crate::fault::point;
use crate::lock::LockId;
use crate::store::claim::Gate;
use crate::store::lease::{Claimant, LeaseRow};
use crate::store::runs::NewRun;
use crate::store::{Stopped, Store};
use crate::token::random_hex;

/// The lease as its holder knows it.
#[derive(Debug, Clone)]
pub struct Lease {
    /// This run's epoch.
    pub epoch: Epoch,
    holder: String,
    ttl: Duration,
    renewed: Instant,
}

/// A run about to take the lease.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    /// Host name.
    pub host: &'a str,
    /// The file lock it holds.
    pub lock: &'a LockId,
    /// How long a renewal lasts.
    pub ttl: Duration,
    /// The database's clock.
    pub now: UnixSeconds,
    /// The monotonic clock just before that was read.
    pub read_at: Instant,
    /// How far it will look.
    pub cutoff: UnixSeconds,
    /// When it will start nothing more.
    pub deadline_at: Option<UnixSeconds>,
}

impl Lease {
    /// Takes the lease over from `seen` and writes the run's row, in one transaction. `None`: it
    /// is somebody else's.
    ///
    /// # Errors
    /// [`Stopped::Db`].
    pub fn take(
        store: &mut Store,
        seen: &LeaseRow,
        by: Applicant<'_>,
    ) -> Result<Option<(Lease, i64)>, Stopped> {
        // Greater than what a restored backup has ever seen (RULINGS 10).
        let epoch = Epoch((seen.epoch.0 + 1).max(by.now.0));
        let holder = random_hex();
        let pid = i64::from(std::process::id());
        let claimant = Claimant {
            holder: holder.clone(),
            host: by.host.to_owned(),
            pid,
            lock_id: by.lock.as_str().to_owned(),
            ttl: i64::try_from(by.ttl.as_secs()).unwrap_or(i64::MAX),
        };
        let run = NewRun {
            epoch,
            host: by.host,
            pid,
            lock_id: by.lock.as_str(),
            started_at: by.now,
            cutoff: by.cutoff,
            deadline_at: by.deadline_at,
        };
        let proven_dead = by.lock.proves_dead(&seen.lock_id);
        let taken = store.transaction(|store| {
            if !store.take_lease(seen.epoch, epoch, &claimant, proven_dead, by.now)? {
                return Err(Stopped::Fenced);
            }
            let run_id = store.start_run(&run)?;
            point("lease.commit");
            Ok(run_id)
        });
        match taken {
            Ok(run_id) => Ok(Some((
                Lease {
                    epoch,
                    holder,
                    ttl: by.ttl,
                    renewed: by.read_at,
                },
                run_id,
            ))),
            Err(Stopped::Fenced) => Ok(None),
            Err(stopped) => Err(stopped),
        }
    }

    /// The gate that a claim transaction has to pass at `now`.
    pub fn gate(&self, now: UnixSeconds) -> Gate<'_> {
        Gate {
            epoch: self.epoch,
            holder: &self.holder,
            now,
        }
    }

    /// Notes that a gate was passed: the transaction renewed the lease from what the clock said at
    /// `read_at`. A run that was stopped between that reading and the transaction has that much less
    /// of its lease left.
    pub fn passed(&mut self, read_at: Instant) {
        self.renewed = self.renewed.max(read_at);
    }

    /// Whether anything may still be started: half the ttl has not passed since the last renewal.
    pub fn is_fresh(&self) -> bool {
        monotonic() < self.fresh_until()
    }

    /// From when on nothing may be started unless it is renewed.
    pub fn fresh_until(&self) -> Instant {
        self.renewed + self.ttl / 2
    }

    /// When the lease is to be renewed next, also while handlers work.
    pub fn renew_at(&self) -> Instant {
        self.renewed + self.ttl / 3
    }

    /// Renews the lease outside a claim, from what the clock said at `read_at`.
    ///
    /// # Errors
    /// [`Stopped::Fenced`]; [`Stopped::Db`].
    pub fn renew(
        &mut self,
        store: &mut Store,
        now: UnixSeconds,
        read_at: Instant,
    ) -> Result<(), Stopped> {
        if !store.renew_lease(self.epoch, &self.holder, now)? {
            return Err(Stopped::Fenced);
        }
        self.passed(read_at);
        Ok(())
    }

    /// Gives the lease back, if it is still ours.
    ///
    /// # Errors
    /// [`Stopped::Db`].
    pub fn give_back(&self, store: &mut Store, now: UnixSeconds) -> Result<(), Stopped> {
        Ok(store.end_lease(self.epoch, &self.holder, now)?)
    }
}
