//! `backfill source`: rows that expired before anybody looked become events once each.

use super::*;

/// The site of a source that a run sees for the first time long after most of its rows expired.
const SOURCE: &str = "[source.members]\ntype = \"note\"\nlead = \"1d\"\n\
    sql = \"SELECT id AS `key`, ends AS due_at, who FROM member \
    WHERE ends >= :from AND ends < :until\"\n";
const ROWS: [&str; 9] = [
    "backfill",
    "source",
    "members",
    "--from",
    "@1803859200",
    "--to",
    "@1805587200",
    "--rate",
    "10/s",
];
/// A row an hour of these 20 days.
const EXPIRED: i64 = 480;

fn members(site: &Site) {
    set_up(site, SOURCE);
    site.sql("CREATE TABLE member (id INTEGER PRIMARY KEY, ends BIGINT, who VARCHAR(99))");
    site.sql("CREATE INDEX member_ends ON member (ends)");
    let rows: Vec<String> = (0..EXPIRED)
        .map(|row| format!("({row}, {}, 'm{row}')", MONDAY + row * HOUR))
        .collect();
    site.sql(&format!(
        "INSERT INTO member (id, ends, who) VALUES {}",
        rows.join(", ")
    ));
    run_at(site, half_past(21));
    assert_eq!(
        site.query_i64("SELECT COUNT(*) FROM event_sources"),
        0,
        "all is past"
    );
    site.alone();
}

on_both_databases! {
    fn rows_of_the_past_become_events_once_in_their_order(site: &Site) {
        members(site);
        let now = half_past(22);
        let said = unchanged(site, || quietly_at(site, now, &ROWS)).ok();
        assert!(said.stdout.contains("480 events at 10/s: 48s"), "{said:?}");
        let plan = plan_at(site, now, &ROWS);
        assert_eq!(plan["events"], EXPIRED, "{plan}");
        applied(site, now, &ROWS).ok();
        let columns = "SELECT DISTINCT e.type, e.origin, e.priority, e.status, e.slot_at - m.ends, \
                       r.expiry - m.ends FROM scheduled_events e JOIN member m \
                       ON e.unique_key = CAST(m.id AS CHAR) JOIN event_sources r ON r.event_id = e.id";
        assert_eq!(site.rows(columns), [["note", "backfill:1", "2", "ready", "0", "0"]]);
        let payload = "SELECT payload FROM scheduled_events WHERE unique_key = '7'";
        assert_eq!(site.rows(payload), [["{\"who\":\"m7\"}"]]);
        let began = site.query_i64("SELECT created_at FROM event_backfills");
        let due = numbers(site, "SELECT due_at FROM scheduled_events ORDER BY slot_at");
        let turns: Vec<i64> = (0..EXPIRED).map(|number| began + (number + 9) / 10).collect();
        assert_eq!(due, turns, "the earliest expiry first, ten a second");
        run_at(site, now + HOUR);
        assert_eq!(site.query_i64("SELECT COUNT(DISTINCT slot) FROM seen"), EXPIRED);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM seen"), EXPIRED);
        let plan = plan_at(site, now + HOUR, &ROWS);
        assert_eq!((&plan["events"], &plan["plan"]), (&0.into(), &Value::Null));
        assert_eq!(left_out(&plan)["became events"], EXPIRED);
    }

    fn killed_at_any_step_it_goes_on_where_it_stopped(site: &Site) {
        members(site);
        let now = half_past(22);
        let plan = plan_at(site, now, &ROWS);
        let plan = plan["plan"].as_str().expect("a plan").to_owned();
        let words = [&ROWS[..], &["--apply", "--plan", &plan]].concat();
        for point in ["backfill.commit", "backfill.committed", "backfill.commit:2", "backfill.committed:2"] {
            let mut command = command_at(site, now, &words);
            command.env("PUNCTUAL_FAULT_POINT", point);
            let killed = site.finish(Running::start(command, b""));
            assert_eq!(killed.code, 137, "{point}: {killed:?}");
            site.alone();
        }
        at(site, now, &words).ok();
        assert!(at(site, now, &words).ok().stdout.starts_with("already applied as backfill 1"));
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), EXPIRED);
        run_at(site, now + HOUR);
        assert_eq!(site.query_i64("SELECT COUNT(DISTINCT slot) FROM seen"), EXPIRED);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM seen"), EXPIRED);
    }

    fn what_the_next_run_looks_at_is_left_to_it_and_what_is_no_event_is_counted(site: &Site) {
        members(site);
        let now = half_past(22);
        site.sql(&format!("INSERT INTO member (id, ends, who) VALUES (9000, {}, 'late')", now - 60));
        site.sql("UPDATE member SET who = NULL, id = -id WHERE id = 3");
        site.sql("INSERT INTO scheduled_events (type, due_at, unique_key) VALUES ('note', 4000000000, '5')");
        let words = ["backfill", "source", "members", "--from", "@1803859200", "--rate", "10/s"];
        let plan = plan_at(site, now, &words);
        assert_eq!(plan["events"], EXPIRED - 1, "{plan}");
        assert_eq!(left_out(&plan)["have the key of an event that waits"], 1);
        let note = plan["notes"][0].as_str().expect("a note");
        assert!(note.contains("the next run's"), "{note}");
        assert_eq!(run_at(site, now + 60)["done"], 1, "the run has it");
    }

    fn a_source_that_is_stated_anew_or_fails_is_refused_in_one_line(site: &Site) {
        members(site);
        let now = half_past(22);
        let plan = plan_at(site, now, &ROWS);
        let plan = plan["plan"].as_str().expect("a plan").to_owned();
        let words = [&ROWS[..], &["--apply", "--plan", &plan]].concat();
        site.config(&format!("timezone = \"UTC\"\n{TYPES}{}", SOURCE.replace("1d", "2d")));
        refused(&at(site, now, &words), 65, &["the source", "make a new plan"]);
        site.config(&format!("timezone = \"UTC\"\n{TYPES}{}", SOURCE.replace("who FROM", "wo FROM")));
        refused(&at(site, now, &ROWS), 65, &["source members", "wo"]);
        let unknown = ["backfill", "source", "membres", "--from", "@1", "--rate", "9"];
        refused(&at(site, now, &unknown), 2, &["[source.membres]", "members"]);
        assert_eq!(site.query_i64("SELECT COUNT(*) FROM scheduled_events"), 0);
    }
}
