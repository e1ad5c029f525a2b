//! The proxy that loses answers: what it passes on, and what it does when told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use mysql::prelude::Queryable as _;

use crate::support::mariadb::{self, Database};
use crate::support::process::eventually;
use crate::support::proxy::{Act, At, Proxy, Trap, commit_after, nth_question};
use crate::support::site::Site;

fn through(proxy: &Proxy, database: &Database) -> mysql::Conn {
    let url = proxy.url(database);
    let options = mysql::Opts::from_url(&url).expect("a URL");
    let options = mysql::OptsBuilder::from_opts(options).prefer_socket(false);
    mysql::Conn::new(options).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn started() -> (Database, Proxy) {
    let database = mariadb::shared().database();
    let proxy = Proxy::start(&database.socket);
    let created = database.connect().query_drop("CREATE TABLE kept (n INT)");
    created.expect("a fresh database");
    (database, proxy)
}

fn kept(database: &Database) -> Vec<i64> {
    let rows = database.connect().query("SELECT n FROM kept ORDER BY n");
    rows.expect("the table is there")
}

/// Inserts a prepared row and a plain one in one transaction.
fn insert(connection: &mut mysql::Conn) -> mysql::Result<()> {
    connection.query_drop("START TRANSACTION")?;
    connection.exec_drop("INSERT INTO kept VALUES (?)", (1,))?;
    connection.query_drop("INSERT INTO kept VALUES (2)")?;
    connection.query_drop("COMMIT")
}

#[test]
fn a_proxy_without_a_trap_passes_everything() {
    let (database, proxy) = started();
    let mut connection = through(&proxy, &database);
    insert(&mut connection).expect("nothing is in the way");
    let long = "x".repeat(3 << 20);
    let echoed: Option<String> = connection.exec_first("SELECT ?", (&long,)).expect("long");
    assert_eq!(echoed, Some(long));
    assert_eq!(kept(&database), [1, 2]);
    assert_eq!(proxy.sprung(), 0);

    let site = Site::mariadb();
    let through = proxy.url(site.mariadb_database().expect("it is MariaDB"));
    site.write("punctual.toml", &format!("database = \"{through}\"\n"));
    site.init();
    assert_eq!(site.punctual(["run", "--json"]).ok().json()["stop"], "idle");
}

#[test]
fn a_question_is_cut_off_before_the_server_gets_it_or_after_it_has_answered() {
    for (at, expected) in [(At::Question, &[][..]), (At::Answer, &[1, 2])] {
        let (database, proxy) = started();
        let mut connection = through(&proxy, &database);
        let mut other = through(&proxy, &database);
        proxy.set(Trap {
            // The text of the prepared statement.
            when: commit_after("INTO kept VALUES (?)"),
            at,
            act: Act::Reset,
        });
        other.query_drop("START TRANSACTION").expect("no trap here");
        other.query_drop("COMMIT").expect("not the COMMIT meant");
        let error = insert(&mut connection).expect_err("its COMMIT has no answer");
        assert!(error.to_string().contains("reset"), "{at:?}: {error}");
        assert_eq!(kept(&database), expected, "{at:?}");
        assert_eq!(proxy.sprung(), 1);
        other.ping().expect("the others go on");
        let again = insert(&mut through(&proxy, &database));
        again.expect("a trap springs once");
    }
}

#[test]
fn a_test_is_called_while_the_answer_is_held_back() {
    let (database, proxy) = started();
    let mut connection = through(&proxy, &database);
    let (called, was_called) = mpsc::channel();
    let looking = database.connect();
    proxy.set(Trap {
        when: commit_after("kept"),
        at: At::Answer,
        act: Act::Call(Box::new(move || {
            let mut looking = looking;
            let rows: Vec<i64> = looking.query("SELECT n FROM kept").expect("a table");
            let _ = called.send(rows.len());
        })),
    });
    insert(&mut connection).expect_err("never answered");
    assert_eq!(was_called.recv(), Ok(2), "the COMMIT was done by then");
}

#[test]
fn a_stalled_connection_goes_on_where_it_was_when_released() {
    let (database, proxy) = started();
    let mut connection = through(&proxy, &database);
    proxy.set(Trap {
        when: commit_after("kept"),
        at: At::Answer,
        act: Act::Stall,
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&is_over);
    let client = std::thread::spawn(move || {
        let outcome = insert(&mut connection);
        ended.store(true, Ordering::SeqCst);
        outcome.and_then(|()| connection.query_first::<i64, _>("SELECT COUNT(*) FROM kept"))
    });
    eventually("it is committed", || kept(&database) == [1, 2]);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!is_over.load(Ordering::SeqCst), "its answer is held back");
    proxy.release();
    assert_eq!(client.join().expect("no panic").expect("late"), Some(2));

    proxy.stall();
    let fresh = through(&proxy, &database).ping();
    fresh.expect("connections made later pass");
    proxy.reset();
}

#[test]
fn a_connection_is_cut_within_a_packet() {
    let (database, proxy) = started();
    let mut connection = through(&proxy, &database);
    // The head of the packet and some letters: the server waits for the rest in vain.
    proxy.cut_after(20, Act::Reset);
    connection
        .query_drop("INSERT INTO kept VALUES (3)")
        .expect_err("cut in the middle");
    assert_eq!(kept(&database), [0; 0]);

    let mut connection = through(&proxy, &database);
    proxy.set(Trap {
        when: nth_question(2),
        at: At::Question,
        act: Act::Reset,
    });
    connection.ping().expect("the first is passed on");
    connection.ping().expect_err("the second is not");
    proxy.set(Trap {
        when: nth_question(1),
        at: At::Question,
        act: Act::Reset,
    });
    proxy.disarm();
    let after = through(&proxy, &database).ping();
    after.expect("what was disarmed does not spring");
}

#[test]
fn a_client_that_dies_while_it_is_stalled_leaves_no_transaction_behind() {
    let (database, proxy) = started();
    let mut connection = through(&proxy, &database);
    connection.query_drop("START TRANSACTION").expect("passed");
    let insert = connection.query_drop("INSERT INTO kept VALUES (4)");
    insert.expect("passed");
    proxy.stall();
    let id = connection.connection_id();
    drop(connection); // says QUIT, which is stalled, and closes
    let alive = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE id = {id}");
    let mut looking = mariadb::shared().admin();
    eventually("the server has noticed", || {
        looking.query_first::<i64, _>(&alive).expect("a question") == Some(0)
    });
    assert_eq!(kept(&database), [0; 0]);
}
