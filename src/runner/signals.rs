//! TERM, INT and HUP: noted, so that a run can come to its own end. Decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::spawn::Reactor;

/// TERM, INT and HUP.
#[derive(Debug)]
pub(super) struct Signals {
    received: Arc<AtomicUsize>,
}

impl Signals {
    const NUMBERS: [i32; 3] = [
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ];

    /// From now on they end nothing by themselves.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        for number in Self::NUMBERS {
            let value = usize::try_from(number).unwrap_or(0);
            signal_hook::flag::register_usize(number, Arc::clone(&received), value)?;
        }
        Ok(Self { received })
    }

    /// A signal wakes the run from waiting for its handlers.
    pub(super) fn wake(reactor: &Reactor) -> anyhow::Result<()> {
        for number in Self::NUMBERS {
            signal_hook::low_level::pipe::register(number, reactor.waker_stream()?)?;
        }
        Ok(())
    }

    /// The last one that came: its number.
    pub(super) fn received(&self) -> Option<i32> {
        i32::try_from(self.received.load(Ordering::Relaxed))
            .ok()
            .filter(|&number| number != 0)
    }
}
