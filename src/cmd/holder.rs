//! Who is at work: what `status`, `show` and `check` say of the run that holds the lease.

use serde::Serialize;

use super::output::escape;
use crate::clock::UnixSeconds;
use crate::config::Config;
use crate::lock;
use crate::store::Store;
use crate::store::lease::LeaseRow;

/// Who is at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The run.
    pub run_id: Option<i64>,
    /// Its epoch.
    pub epoch: i64,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: Option<i64>,
    /// Since when.
    pub started_at: Option<i64>,
}

impl Holder {
    /// Who holds the lease and is alive, as far as can be told without taking a lock.
    ///
    /// # Errors
    /// The database's.
    pub fn of(
        config: &Config,
        store: &mut Store,
        lease: Option<&LeaseRow>,
        now: UnixSeconds,
    ) -> anyhow::Result<Option<Self>> {
        let Some(lease) = lease.filter(|lease| lease.is_live(now)) else {
            return Ok(None);
        };
        if is_proven_dead(config, lease) {
            return Ok(None);
        }
        let run = match lease.run_id {
            Some(run_id) => store.run_row(run_id)?,
            None => None,
        };
        Ok(Some(Self {
            run_id: lease.run_id,
            epoch: lease.epoch.0,
            host: lease.host.clone(),
            pid: lease.pid,
            started_at: run.map(|run| run.started_at.0),
        }))
    }

    /// `run 12 on host (pid 34)`.
    pub fn name(&self) -> String {
        let run = self
            .run_id
            .map_or_else(|| "a run".to_owned(), |id| format!("run {id}"));
        let pid = self
            .pid
            .map_or_else(String::new, |pid| format!(" (pid {pid})"));
        format!("{run} on {}{pid}", escape(&self.host))
    }
}

/// Whether the holder used the very lock file we see here, and its process is gone.
fn is_proven_dead(config: &Config, lease: &LeaseRow) -> bool {
    let Ok(path) = lock::lock_path(config) else {
        return false;
    };
    if lock::identity_at(&path).is_none_or(|ours| ours != lease.lock_id) {
        return false;
    }
    lock::live_holder(&path).map(i64::from) != lease.pid
}
