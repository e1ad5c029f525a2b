//! A small model of lease, gate, claim, ack, release, recovery and waves of effects, explored to its
//! end: two or three runs, a database that dies, commits whose answers get lost, runs that are
//! killed or pause at any step for any time.
//!
//! The model shares no code with the product. Each of its steps mirrors a piece of it, with the
//! same conditions; who changes one of these changes the other:
//!
//! | step of the model (`model/steps.rs`, `model/work.rs`) | the product |
//! | --- | --- |
//! | `peek` | `runner::run` up to `Store::peek`; `Lease::take` for `proven_dead` |
//! | `take` | `Store::take_lease` and `start_run`, one transaction in `Lease::take` |
//! | `look_for_stranded` | `Store::stranded`, `Runner::may_recover` in `runner/recovery.rs` |
//! | `recover`, `lost_with_run` | `Runner::settle_recovered`, `judge::lost_with_run` |
//! | `look_for_open_runs`, `close_dead_run` | `Runner::recover_open_run`, `count_loss`, `Store::close_dead_run` |
//! | `candidates` | `Lane::next_candidates`, `is_suspect`; `Lane::limit` for at most once |
//! | `claim` | `Store::claim`, with `Store::pass` as its gate |
//! | `start` | `Runner::may_start` and `start_queued` in `runner/attempts.rs` |
//! | `renew` | `Runner::renew`, `Lease::renew` |
//! | `ack`, `apply` | `Runner::flush`, `Store::settle`, `sort_out`, `judge::judge` |
//! | `trace` | `Runner::trace`, `Store::trace_wave` |
//! | `effects` | `Runner::fire_effects`, `Store::effect_wave` |
//! | `end` | `Runner::end`: `wait_for_handlers`, `reconnect`, `wind_up`, `release_strays` |
//! | `close` | `Runner::close`: `finish_run` or `leave_run_open`, `give_back` |
//! | `after_loss`, `after_refusal` | `Runner::note_trouble`; the answers of `Store::transaction` |
//!
//! Where it is coarser: a group of acks that met a surprise is sorted out in the same step; reads
//! whose staleness the guard of the write behind them makes harmless are one step with that write;
//! delays between attempts, keys, expiry, breakers and rates are left out; claims are not extended
//! (every run has a deadline), so that they lapse under live runs more often than in truth. Each
//! runner is a host of its own with its own file lock, which never lies to it; that the two locks
//! shared between runs say yes to everybody is the usual case here, the honest advisory lock is a
//! world of its own.

use label::What;
use state::Kind;
use steps::Broken;

mod label;
mod search;
mod state;
mod steps;
mod work;

use search::{Found, Search, Searched};

/// What is explored, and how far.
#[derive(Debug, Clone, Copy)]
struct World {
    /// The events and what their types declare.
    kinds: &'static [Kind],
    /// Runners, each its own host; one may start again after it ended or was killed.
    runners: usize,
    /// How many runs may take the lease.
    epochs: u8,
    /// How often something may go wrong: a kill, a death of the server, a lost or refused call.
    faults: u8,
    /// How many rows the site deletes.
    deletions: u8,
    /// Whether the advisory lock keeps its promise; otherwise it says yes to everybody.
    advisory: bool,
    flaw: Option<Flaw>,
    /// Also demand that a fenced run starts nothing: the one promise that needs clocks to be right.
    timely: bool,
}

/// Known-bad variants: what the model must be able to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    NoFence,
    UnconditionalTakeover,
    AckWithoutEpoch,
    RecoveryWithoutProof,
    EffectsUngated,
    EffectsApart,
    AtMostOncePutBack,
    StaleStart,
    UnknownIsFailed,
    UnknownIsDone,
    /// A row that is gone counts as deleted, without a look at what others recorded.
    WithdrawnUnseen,
    /// The row of a dead run is closed outside the transaction that the lease gates.
    DeadRunClosedUngated,
    /// Taken over from an ended holder, or from one proven dead, but never because time passed.
    NoLapse,
}

impl World {
    const fn of(kinds: &'static [Kind]) -> Self {
        Self {
            kinds,
            runners: 2,
            epochs: 3,
            faults: 1,
            deletions: 0,
            advisory: false,
            flaw: None,
            timely: true,
        }
    }

    const fn with(self, flaw: Flaw) -> Self {
        Self {
            flaw: Some(flaw),
            ..self
        }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn minds(&self, broken: Broken) -> bool {
        self.timely || broken != Broken::FencedRunActs
    }
}

const EXACTLY: &[Kind] = &[Kind::Exactly];
const LEAST: &[Kind] = &[Kind::Least];
const MOST: &[Kind] = &[Kind::Most];

fn explore(world: &World) -> Searched {
    let searched = Search::exhaust(world);
    println!(
        "{} states, {} steps: {world:?}",
        searched.states, searched.steps
    );
    searched
}

/// Nothing breaks in `world`; returns what happened in it.
#[track_caller]
fn holds(world: &World) -> Vec<What> {
    let searched = explore(world);
    if let Some(found) = &searched.counterexample {
        panic!("{found}");
    }
    assert!(searched.states > 1000, "too small a world to say anything");
    searched.taken
}

/// The variant breaks this first, by a way that is shown.
#[track_caller]
fn breaks(world: &World, broken: Found) {
    let searched = explore(world);
    let found = searched.counterexample.expect("a counterexample");
    println!("{found}");
    assert_eq!(found.broken, broken, "{found}");
}

/// Everything that a run does happens somewhere in these worlds; a step that is never taken would
/// prove nothing.
#[test]
fn a_world_of_one_event_at_least_once_holds() {
    let taken = holds(&World {
        epochs: 2,
        ..World::of(LEAST)
    });
    for what in [
        What::Recover,
        What::CloseDeadRun,
        What::Interrupt,
        What::Renew,
        What::Reconnect,
        What::Release,
        What::Sweep,
        What::Kill,
        What::ServerDies,
    ] {
        assert!(taken.contains(&what), "{what:?} never happens");
    }
}

#[test]
fn a_world_of_one_event_at_most_once_holds() {
    let taken = holds(&World {
        epochs: 2,
        ..World::of(MOST)
    });
    assert!(taken.contains(&What::Recover));
}

#[test]
fn a_world_of_one_effect_holds() {
    let taken = holds(&World::of(EXACTLY));
    assert!(taken.contains(&What::EffectsFail) && taken.contains(&What::CloseDeadRun));
}

#[test]
fn a_world_of_two_effects_in_one_wave_holds() {
    holds(&World {
        epochs: 2,
        ..World::of(&[Kind::Exactly, Kind::Exactly])
    });
}

#[test]
fn a_world_in_which_the_site_deletes_a_row_holds() {
    let world = World {
        epochs: 2,
        faults: 0,
        deletions: 1,
        ..World::of(LEAST)
    };
    assert!(holds(&world).contains(&What::SiteDeletes));
}

/// Clocks and pauses decide when, never whether: with no look at the lease's age before a start
/// only the promise breaks that a fenced run starts nothing; nothing is lost or doubled by it.
#[test]
fn what_is_recorded_does_not_depend_on_time() {
    for kinds in [LEAST, MOST] {
        let world = World {
            epochs: 2,
            faults: 0,
            timely: false,
            ..World::of(kinds).with(Flaw::StaleStart)
        };
        holds(&world);
    }
}

/// Some ten minutes without optimisation: `contrib/test -- --ignored model::`.
#[test]
#[ignore = "minutes of searching"]
fn larger_worlds_hold() {
    let two = |kinds| World {
        faults: 2,
        ..World::of(kinds)
    };
    for world in [
        two(EXACTLY),
        two(LEAST),
        two(MOST),
        World {
            faults: 3,
            runners: 1,
            ..World::of(LEAST)
        },
        World {
            advisory: true,
            ..World::of(LEAST)
        },
        World {
            deletions: 1,
            ..World::of(LEAST)
        },
        World {
            epochs: 2,
            ..World::of(&[Kind::Least, Kind::Most])
        },
        World {
            epochs: 2,
            ..World::of(&[Kind::Exactly, Kind::Exactly, Kind::Exactly])
        },
        World {
            runners: 3,
            ..World::of(EXACTLY)
        },
        World {
            runners: 3,
            faults: 0,
            ..World::of(LEAST)
        },
        World {
            runners: 3,
            ..World::of(MOST)
        },
    ] {
        holds(&world);
    }
}

#[test]
fn a_claim_without_the_gate_is_found() {
    breaks(
        &World::of(LEAST).with(Flaw::NoFence),
        Found::Broken(Broken::FencedRunActs),
    );
}

#[test]
fn an_unconditional_takeover_of_the_lease_is_found() {
    breaks(
        &World::of(LEAST).with(Flaw::UnconditionalTakeover),
        Found::Broken(Broken::FencedRunActs),
    );
}

#[test]
fn an_ack_without_the_claims_epoch_is_found() {
    breaks(
        &World::of(LEAST).with(Flaw::AckWithoutEpoch),
        Found::Broken(Broken::TakenFromALiveRun),
    );
}

#[test]
fn recovery_without_proof_or_time_is_found() {
    breaks(
        &World::of(LEAST).with(Flaw::RecoveryWithoutProof),
        Found::Broken(Broken::TakenFromALiveRun),
    );
}

#[test]
fn effects_outside_the_gate_is_found() {
    breaks(
        &World::of(EXACTLY).with(Flaw::EffectsUngated),
        Found::Broken(Broken::FencedRunActs),
    );
}

#[test]
fn effects_committed_before_their_record_is_found() {
    breaks(
        &World::of(EXACTLY).with(Flaw::EffectsApart),
        Found::Broken(Broken::EffectWithoutRecord),
    );
}

#[test]
fn an_at_most_once_event_that_is_put_back_is_found() {
    breaks(
        &World::of(MOST).with(Flaw::AtMostOncePutBack),
        Found::Broken(Broken::StartedMoreThanOnce),
    );
}

#[test]
fn a_start_without_a_fresh_lease_is_found() {
    breaks(
        &World::of(LEAST).with(Flaw::StaleStart),
        Found::Broken(Broken::FencedRunActs),
    );
}

#[test]
fn a_commit_unknown_taken_for_failed_is_found() {
    breaks(
        &World::of(LEAST).with(Flaw::UnknownIsFailed),
        Found::Broken(Broken::StartedMoreOftenThanCounted),
    );
}

#[test]
fn a_commit_unknown_taken_for_done_is_found() {
    breaks(
        &World::of(LEAST).with(Flaw::UnknownIsDone),
        Found::Broken(Broken::StartedMoreOftenThanCounted),
    );
}

#[test]
fn a_withdrawal_without_a_look_at_history_is_found() {
    breaks(
        &World::of(MOST).with(Flaw::WithdrawnUnseen),
        Found::Broken(Broken::InHistoryTwice),
    );
}

#[test]
fn a_dead_run_closed_outside_the_gate_is_found() {
    breaks(
        &World::of(EXACTLY).with(Flaw::DeadRunClosedUngated),
        Found::Broken(Broken::LiveRunRecordedAsDead),
    );
}

#[test]
fn a_lease_that_never_lapses_is_found() {
    let world = World {
        epochs: 2,
        faults: 0,
        ..World::of(LEAST)
    };
    breaks(&world.with(Flaw::NoLapse), Found::Stuck);
}
