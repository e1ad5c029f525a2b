//! TERM, INT and HUP: noted, so that a run can come to its own end. Decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::SigId;

use crate::spawn::Waker;

/// TERM, INT and HUP; what was asked of them ends with this value.
#[derive(Debug)]
pub struct Signals {
    received: Arc<AtomicUsize>,
    asked: Vec<SigId>,
}

impl Signals {
    const NUMBERS: [i32; 3] = [
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ];

    /// From now on they end nothing by themselves.
    pub fn listen() -> anyhow::Result<Self> {
        let mut signals = Self {
            received: Arc::new(AtomicUsize::new(0)),
            asked: Vec::new(),
        };
        for number in Self::NUMBERS {
            let value = usize::try_from(number).unwrap_or(0);
            let received = Arc::clone(&signals.received);
            let asked = signal_hook::flag::register_usize(number, received, value)?;
            signals.asked.push(asked);
        }
        Ok(signals)
    }

    /// From now on they also end a wait.
    pub(super) fn wake(&mut self, waker: &Waker) -> anyhow::Result<()> {
        for number in Self::NUMBERS {
            let asked = signal_hook::low_level::pipe::register(number, waker.stream()?)?;
            self.asked.push(asked);
        }
        Ok(())
    }

    /// The last one that came: its number.
    pub fn received(&self) -> Option<i32> {
        i32::try_from(self.received.load(Ordering::Relaxed))
            .ok()
            .filter(|&number| number != 0)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for asked in self.asked.drain(..) {
            signal_hook::low_level::unregister(asked);
        }
    }
}
