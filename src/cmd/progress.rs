//! A progress bar for the person who watches; nothing of the kind where stderr is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Context;

/// How often a bar that moves by itself is drawn.
const TICK: Duration = Duration::from_millis(200);

/// A bar, or nothing.
#[derive(Debug)]
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Of `total` rows, where that is known: count, rate, time left.
    pub fn of_rows(context: &Context, total: Option<u64>) -> Self {
        let template = match total {
            Some(_) => "{bar:30} {pos}/{len} {msg} · {per_sec} · {eta} left",
            None => "{spinner} {pos} {msg} · {per_sec} · {elapsed}",
        };
        Self::start(context, total, template)
    }

    /// Of `total` bytes of input, where that is known.
    pub fn of_bytes(context: &Context, total: Option<u64>) -> Self {
        let template = match total {
            Some(_) => "{bar:30} {bytes}/{total_bytes} · {msg} · {bytes_per_sec} · {eta} left",
            None => "{spinner} {bytes} · {msg} · {bytes_per_sec} · {elapsed}",
        };
        Self::start(context, total, template)
    }

    /// Of `total` events that a run is to fire; goes on by itself while handlers work.
    pub fn of_events(context: &Context, total: u64) -> Self {
        let template = "{bar:30} {pos} of {len}, {per_sec}, {eta} left";
        let progress = Self::start(context, Some(total), template);
        if let Some(bar) = &progress.0 {
            bar.enable_steady_tick(TICK);
        }
        progress
    }

    fn start(context: &Context, total: Option<u64>, template: &str) -> Self {
        if !context.shows_progress() {
            return Self(None);
        }
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let style = ProgressStyle::with_template(template).expect("a template of our own");
        Self(Some(bar.with_style(style)))
    }

    /// How far it is; `message` is made only for somebody who watches.
    pub fn at(&self, position: u64, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.0 {
            bar.set_message(message());
            bar.set_position(position);
        }
    }
}

/// The line is taken back, so that what follows stands alone.
impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
