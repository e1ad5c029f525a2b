//! What a step is called in a trace.

use std::fmt;

use super::state::members;

/// How a call of the database ends for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Well,
    /// The connection is gone, and nothing was committed.
    Lost,
    /// The connection is gone, and it was committed all the same.
    Unknown,
    /// Nothing was committed; the connection stands.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Tick,
    Peek,
    Take,
    LookForStranded,
    Recover,
    LookForOpenRuns,
    CloseDeadRun,
    Claim,
    Start,
    EndWell,
    EndBadly,
    Interrupt,
    Ack,
    Renew,
    Trace,
    Effects,
    EffectsFail,
    Stop,
    Reconnect,
    Release,
    Sweep,
    Close,
    Kill,
    ServerDies,
    SiteDeletes,
    /// It finds its connection gone.
    NoticeLoss,
}

/// A step as a trace shows it: whose, what, which events, and how the database answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) run: usize,
    pub(super) what: What,
    pub(super) events: u8,
    pub(super) answer: Answer,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.what {
            What::Tick => return f.write_str("time passes"),
            What::ServerDies => return f.write_str("the database server dies and comes back"),
            What::SiteDeletes => "the site deletes the row of",
            What::Peek => "starts and reads the lease",
            What::Take => "takes the lease over",
            What::LookForStranded => "looks for stranded rows",
            What::Recover => "puts back what a dead run held:",
            What::LookForOpenRuns => "looks for runs that never ended",
            What::CloseDeadRun => "closes the row of a dead run",
            What::Claim => "claims",
            What::Start => "starts an attempt at",
            What::EndWell => "has an attempt end well:",
            What::EndBadly => "has an attempt fail:",
            What::Interrupt => "interrupts the attempt at",
            What::Ack => "acks",
            What::Renew => "renews the lease",
            What::Trace => "commits the trace of a wave:",
            What::Effects => "commits the effects of",
            What::EffectsFail => "commits that the effects failed:",
            What::Stop => "stops taking turns",
            What::Reconnect => "connects anew",
            What::Release => "gives back unstarted",
            What::Sweep => "gives back what it never started",
            What::Close => "closes its row and gives the lease back",
            What::Kill => "is killed",
            What::NoticeLoss => "finds its connection gone",
        };
        let who = (self.what != What::SiteDeletes).then(|| format!("run {} ", self.run + 1));
        write!(f, "{}{words}", who.unwrap_or_default())?;
        for event in members(self.events) {
            write!(f, " event {}", event + 1)?;
        }
        f.write_str(match self.answer {
            Answer::Well => "",
            Answer::Lost => " — the connection is lost, nothing was committed",
            Answer::Unknown => " — committed, but the answer is lost",
            Answer::Refused => " — the database refuses",
        })
    }
}
