//! What a site changes between a run's look at the due rows and its own transaction.

use std::path::Path;

use punctual::clock::Clock;
use punctual::config::Database;
use punctual::db::double::{Call, Hooks, hooked};
use punctual::db::{Access, Db, DbResult};
use punctual::runner::{self, Options, World};

use crate::plans::loaded;
use crate::support::recorder::Recording;
use crate::support::site::Site;

/// One keeps its payloads in a file, the other in a table.
const TYPES: &str = r#"
[type.command]
handler = "command"
command = ["sh", "-c", "cat >> kept"]

[type.effect]
handler = "sql"
sql = ["INSERT INTO kept (id, payload) VALUES (:id, :payload)"]
"#;
const NAMES: [&str; 2] = ["command", "effect"];

on_both_databases! {
    fn a_command_is_given_the_payload_as_it_is_when_the_event_is_claimed(site: &Site) {
        prepare(site);
        insert_two(site, "command");
        drain_while_the_site(site, "UPDATE scheduled_events SET payload = '[2]' WHERE id = 2");
        assert_eq!(kept(site, "command"), "{}[2]");
    }
}

#[test]
fn on_sqlite_an_effect_is_given_the_payload_as_it_is_in_its_own_transaction() {
    let site = &Site::sqlite();
    prepare(site);
    insert_two(site, "effect");
    drain_while_the_site(
        site,
        "UPDATE scheduled_events SET payload = '[2]' WHERE id = 2",
    );
    assert_eq!(kept(site, "effect"), "{}[2]");
    let recorded = site.rows("SELECT payload FROM event_history ORDER BY event_id");
    assert_eq!(recorded, [["{}"], ["[2]"]]);
}

#[test]
fn on_sqlite_rows_are_read_again_only_if_somebody_has_written_meanwhile() {
    let whole = "SELECT id, type, due_at, first_due_at, payload, ";
    let again = |sql: &str| sql.starts_with(whole) && !sql.contains("octet_length");
    for name in NAMES {
        let site = &Site::sqlite();
        prepare(site);
        for (meanwhile, times) in [("SELECT 1", 0), ("INSERT INTO kept VALUES (0, '')", 1)] {
            insert_two(site, name);
            let recording = drain_while_the_site(site, meanwhile);
            let statements = recording.statements();
            let found = statements.iter().filter(|one| again(&one.sql)).count();
            let statements: Vec<_> = statements.iter().map(|one| &one.sql).collect();
            assert_eq!(found, times, "{name}, {meanwhile}: {statements:#?}");
        }
        assert_eq!(kept(site, name), "{}{}{}{}");
    }
}

fn insert_two(site: &Site, type_name: &str) {
    let row = format!("('{type_name}', 1000, '{{}}')");
    let insert = "INSERT INTO scheduled_events (type, due_at, payload) VALUES";
    site.sql(&format!("{insert} {row}, {row}"));
}

fn prepare(site: &Site) {
    site.config(TYPES).init();
    site.sql("CREATE TABLE kept (id BIGINT, payload TEXT)");
}

/// What the attempts were given, in order.
fn kept(site: &Site, type_name: &str) -> String {
    if type_name == "command" {
        return std::fs::read_to_string(site.path("kept")).expect("a file");
    }
    let rows = site.rows("SELECT payload FROM kept WHERE id > 0 ORDER BY id");
    rows.into_iter().flatten().collect()
}

/// A run that fires two events while the site runs the statement `meanwhile`, once the run has read
/// them and before it writes anything for them.
fn drain_while_the_site(site: &Site, meanwhile: &'static str) -> Recording {
    let recording = Recording::default();
    let config = loaded(site);
    let connect = |database: &Database, access: Access, clock: Clock| {
        let db = recording.of(punctual::db::connect(database, access, clock)?);
        let site = Meanwhile {
            database: database.clone(),
            statement: meanwhile,
            is_due: false,
        };
        Ok(hooked(db, site))
    };
    let world = World {
        clock: Clock::system(),
        connect: &connect,
        watchdog: Path::new(env!("CARGO_BIN_EXE_punctual")),
    };
    let options = Options::of(&config);
    let report = runner::run(&config, &options, world, &mut |_| {}).expect("a run");
    let counts = &report.counts;
    assert_eq!((counts.fired, counts.done), (2, 2), "{report:?}");
    recording
}

/// The site, at work between the look at the candidates and the next BEGIN.
struct Meanwhile {
    database: Database,
    statement: &'static str,
    is_due: bool,
}

impl Hooks for Meanwhile {
    fn before(&mut self, db: &mut dyn Db, call: Call<'_>) -> DbResult<()> {
        let length = db.dialect().byte_length("payload");
        match call {
            Call::Statement(sql, _) => self.is_due |= sql.contains(&length),
            Call::Begin if std::mem::take(&mut self.is_due) => {
                let mut site =
                    punctual::db::connect(&self.database, Access::Write, Clock::system())?;
                site.execute_script(self.statement)?;
            }
            _ => {}
        }
        Ok(())
    }
}
