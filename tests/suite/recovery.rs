//! Recovery that is itself cut short.

use crate::support::process::{Running, eventually};
use crate::support::site::Site;

on_both_databases! {
    fn a_death_in_recovery_counts_the_loss_it_was_recording_once(site: &Site) {
        site.config("[type.effect]\nhandler = \"sql\"\nsql = \"INSERT INTO seen (id) VALUES (:id)\"\n")
            .init()
            .sql("CREATE TABLE seen (id INTEGER)")
            .sql("INSERT INTO scheduled_events (type, due_at) VALUES ('effect', 1)");
        // A wave of one event: whoever finds its trace counts a loss.
        kill_at(site, "effect.after");
        kill_at(site, "recover.settled");
        eventually("a tick finds the locks free", || {
            site.punctual(["run", "--json"]).ok().json()["stop"] == "drained"
        });
        let past = "SELECT event_id, outcome, losses FROM event_history";
        assert_eq!(site.rows(past), [["1", "done", "1"]]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM seen"), 1);
        let died = "SELECT COUNT(*) FROM event_runs WHERE stop = 'died'";
        assert_eq!(site.query_i64(died), 2);
    }
}

/// The server may not have noticed yet that the connection of the run before is gone: then a tick
/// steps aside.
fn kill_at(site: &Site, point: &str) {
    eventually("a run dies at the point", || {
        let mut command = site.command(env!("CARGO_BIN_EXE_punctual"));
        command.arg("run").env("PUNCTUAL_FAULT_POINT", point);
        Running::start(command, b"").wait().code == 128 + 9
    });
}
