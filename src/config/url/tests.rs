//! Database URLs, what completes them, and what is refused without repeating any of it.

use std::os::unix::net::UnixListener;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::*;
use crate::config::Database;

fn read(text: &str) -> Result<DatabaseUrl, String> {
    parse(text, Path::new("/srv/wiki"))
}

fn server_with(text: &str, my_cnf: &MyCnf, sockets: &[PathBuf]) -> Result<MysqlServer, String> {
    match read(text)? {
        DatabaseUrl::Mysql(url) => url.complete(my_cnf, Some("login".to_owned()), sockets),
        DatabaseUrl::Sqlite(path) => Err(format!("{} is no server", path.display())),
    }
}

fn server(text: &str) -> Result<MysqlServer, String> {
    server_with(text, &MyCnf::default(), &[])
}

#[test]
fn a_sqlite_url_is_a_path_made_absolute() {
    for (text, path) in [
        ("sqlite:events.db", "/srv/wiki/events.db"),
        ("sqlite:./data/events.db", "/srv/wiki/data/events.db"),
        ("sqlite://events.db", "/srv/wiki/events.db"),
        ("sqlite:/var/e v.db", "/var/e v.db"),
        ("sqlite:///var/events.db", "/var/events.db"),
        ("SQLite:50%.db", "/srv/wiki/50%.db"),
    ] {
        assert_eq!(
            read(text),
            Ok(DatabaseUrl::Sqlite(PathBuf::from(path))),
            "{text}"
        );
    }
}

#[test]
fn a_mysql_url_is_read_part_by_part() {
    let found = server("mysql://wi%20ki:p%40ss%2F%25@DB.example:3307/my%2Fdb?tls=off").unwrap();
    assert_eq!(found.user, "wi ki");
    assert_eq!(found.password, Some(Secret::new("p@ss/%")));
    assert_eq!((found.host.as_str(), found.port), ("db.example", 3307));
    assert_eq!(found.database, "my/db");
    assert_eq!(
        (found.socket, found.tls, found.tls_ca),
        (None, Tls::Off, None)
    );
    assert_eq!(server("mariadb://u@h/d"), server("mysql://u@h/d"));
}

#[test]
fn tls_is_required_where_other_hosts_could_listen() {
    for (text, tls) in [
        ("mysql://u@db.example/d", Tls::Required),
        ("mysql://u@10.0.0.2/d", Tls::Required),
        ("mysql://u@[2001:db8::1]/d", Tls::Required),
        ("mysql://u@db.example/d?tls=off", Tls::Off),
        ("mysql://u@localhost:3306/d", Tls::Off),
        ("mysql://u@127.0.0.53/d", Tls::Off),
        ("mysql://u@[::1]:3306/d", Tls::Off),
        ("mysql://u@127.0.0.1/d?tls=required", Tls::Required),
        ("mysql://u@127.0.0.1/d?tls_ca=ca.pem", Tls::Required),
        ("mysql://u@db.example/d?socket=/run/x.sock", Tls::Off),
    ] {
        assert_eq!(server(text).unwrap().tls, tls, "{text}");
    }
    let found = server("mysql://u@[::1]/d?tls_ca=ca.pem").unwrap();
    assert_eq!(found.host, "::1");
    assert_eq!(found.tls_ca, Some(PathBuf::from("/srv/wiki/ca.pem")));
}

#[test]
fn the_client_file_supplies_only_what_the_url_leaves_out() {
    let my_cnf = MyCnf {
        user: Some("filed".to_owned()),
        password: Some(Secret::new("hush")),
        host: Some("db.example".to_owned()),
        port: Some(3310),
        socket: Some("/run/filed.sock".to_owned()),
    };
    let all = server_with("mysql:///d", &my_cnf, &[]).unwrap();
    assert_eq!(
        (all.user.as_str(), all.host.as_str(), all.port),
        ("filed", "db.example", 3310)
    );
    assert_eq!(
        (all.password, all.socket),
        (Some(Secret::new("hush")), None)
    );
    let host = server_with("mysql://u:p@other/d", &my_cnf, &[]).unwrap();
    assert_eq!(
        (host.user.as_str(), host.host.as_str(), host.port),
        ("u", "other", 3306)
    );
    assert_eq!((host.password, host.socket), (Some(Secret::new("p")), None));
    let user = server_with("mysql://u:p@/d", &my_cnf, &[]).unwrap();
    assert_eq!(
        (user.user.as_str(), user.host.as_str()),
        ("u", "db.example")
    );
    let socket = server_with("mysql:///d?socket=/run/y.sock", &my_cnf, &[]).unwrap();
    assert_eq!(socket.socket, Some(PathBuf::from("/run/y.sock")));
    assert_eq!((socket.host.as_str(), socket.tls), ("localhost", Tls::Off));
    let local = MyCnf {
        host: None,
        ..my_cnf
    };
    let found = server_with("mysql:///d", &local, &[]).unwrap();
    assert_eq!(found.socket, Some(PathBuf::from("/run/filed.sock")));
    assert_eq!(server("mysql:///d").unwrap().user, "login");
}

#[test]
fn localhost_without_a_port_is_the_socket_where_one_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("mysqld.sock");
    let sockets = [directory.path().join("absent.sock"), socket.clone()];
    let without = server_with("mysql://u@localhost/d", &MyCnf::default(), &sockets).unwrap();
    assert_eq!(
        (without.host.as_str(), without.port, without.socket),
        ("127.0.0.1", 3306, None)
    );
    let _listener = UnixListener::bind(&socket).unwrap();
    for text in [
        "mysql://u@localhost/d",
        "mysql:///d",
        "mysql://u@LOCALHOST/d",
    ] {
        let found = server_with(text, &MyCnf::default(), &sockets).unwrap();
        assert_eq!(found.socket.as_deref(), Some(socket.as_path()), "{text}");
    }
    for text in [
        "mysql://u@localhost:3306/d",
        "mysql://u@127.0.0.1/d",
        "mysql://u@db.example/d",
        "mysql://u@localhost/d?tls=required",
    ] {
        let found = server_with(text, &MyCnf::default(), &sockets).unwrap();
        assert_eq!(found.socket, None, "{text}");
    }
}

#[test]
fn a_database_is_shown_without_its_password() {
    for (text, shown) in [
        ("mysql://u:hush@h:3307/d?tls=off", "mysql://u@h:3307/d"),
        ("mysql://u:hush@[::1]/d", "mysql://u@[::1]:3306/d"),
        (
            "mysql://a%40b:hush@h/my%2Fdb",
            "mysql://a%40b@h:3306/my%2Fdb",
        ),
        (
            "mysql://u:hush@h/d?socket=/x.sock",
            "mysql://u@localhost/d?socket=/x.sock",
        ),
    ] {
        let database = Database::Mysql(server(text).unwrap());
        assert_eq!(database.to_string(), shown);
        assert!(!format!("{database:?}").contains("hush"), "{text}");
    }
    let path = PathBuf::from("/srv/wiki/events.db");
    let database = Database::Sqlite { path };
    assert_eq!(database.to_string(), "sqlite:/srv/wiki/events.db");
    assert_eq!(database.name(), "/srv/wiki/events.db");
    assert_eq!(
        Database::Mysql(server("mysql://u@h/wiki").unwrap()).name(),
        "wiki"
    );
}

#[test]
fn what_is_no_database_url_is_refused_with_its_remedy() {
    for (text, reason) in [
        ("", "starts with `sqlite:` or `mysql://`"),
        ("events.db", "starts with `sqlite:` or `mysql://`"),
        ("postgres://u@h/d", "starts with `sqlite:` or `mysql://`"),
        ("sqlite:", "must be a path"),
        ("sqlite::memory:", "name a file"),
        ("sqlite:e.db?mode=ro", "takes no options"),
        ("sqlite:~/e.db", "`~` is for shells"),
        ("mysql:u@h/d", "mysql://user@host/database"),
        ("mysql://u@h", "names no database"),
        ("mysql://u@h/", "names no database"),
        ("mysql://u@h:0/d", "a port is 1 to 65535"),
        ("mysql://u@h:99999/d", "invalid port number"),
        ("mysql://u@:3306/d", "empty host"),
        ("mysql://u@h/a/b", "percent-encoded"),
        ("mysql://u@h/%ff", "no UTF-8"),
        ("mysql://u@h/d?sokcet=/x", "did you mean `socket`?"),
        ("mysql://u@h/d?charset=utf8", "unknown option `charset`"),
        (
            "mysql://u@h/d?password=x",
            "mysql://user:password@host/database",
        ),
        ("mysql://u@h/d?tls", "has no value"),
        ("mysql://u@h/d?tls=maybe", "`required` or `off`"),
        ("mysql://u@h/d?tls=off&tls=off", "`tls` stands twice"),
        (
            "mysql://u@h/d?tls=off&tls_ca=c.pem",
            "no use with `tls=off`",
        ),
        ("mysql://u@h/d?tls=required&socket=/x", "carries no TLS"),
        ("mysql://u@h/d?socket=", "`socket` must be a path"),
        ("mysql://u@h/d\n", "control characters"),
    ] {
        let refusal = server(text).unwrap_err();
        assert!(refusal.contains(reason), "{text}: {refusal}");
    }
    let DatabaseUrl::Mysql(url) = read("mysql://h/d").unwrap() else {
        unreachable!("a server")
    };
    assert!(
        url.complete(&MyCnf::default(), None, &[])
            .unwrap_err()
            .starts_with("no user: name")
    );
}

#[test]
fn no_refusal_repeats_a_password_that_was_not_encoded() {
    for password in [
        "se#cret",
        "se/cret",
        "se?cret",
        "se@cret",
        "12/cret",
        "12?cret",
        "12#cret",
        "cret%zz",
        "12?cret=1",
        "[cret",
        "12?a&cret=",
        "cret@x",
    ] {
        for text in [
            format!("mysql://u:{password}@h/d?tls=wrong"),
            format!("mysql://u:{password}@h"),
            format!("mysql://{password}@h/d?tls=x"),
            format!("pgsql://u:{password}@h/d"),
            format!("sqlite://u:{password}@h/d?x"),
        ] {
            let refusal = server(&text).unwrap_err();
            assert!(!refusal.contains("cret"), "{text}: {refusal}");
        }
    }
}

#[test]
fn a_database_is_shown_as_a_url_that_leads_to_it() {
    for text in [
        "mysql://u@localhost/d?socket=/run/a%26b%25c%23d%40e%3Ff.sock",
        "mysql://u@localhost/d?socket=/run/x~y/my sql.sock",
        "mysql://a%3Ab@h/my%2Fdb",
        "mysql://u@[2001:db8::1]:3307/d",
    ] {
        let database = Database::Mysql(server(text).unwrap());
        let shown = database.to_string();
        assert_eq!(
            Database::Mysql(server(&shown).unwrap()),
            database,
            "{shown}"
        );
    }
    let Ok(DatabaseUrl::Sqlite(path)) = read("sqlite:////srv//events.db") else {
        panic!("a path")
    };
    assert_eq!(path, Path::new("/srv/events.db"));
    let shown = Database::Sqlite { path: path.clone() }.to_string();
    assert_eq!(read(&shown), Ok(DatabaseUrl::Sqlite(path)));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(
        text in ".*|(sqlite|mysql):.*|mysql://[ -~]{0,20}(@[ -~]{0,10})?/[ -~]{0,30}",
    ) {
        let _ = server(&text);
    }

    #[test]
    fn any_password_is_read_back_when_encoded(password in "[^\\x00]{4,20}") {
        let encoded = utf8_percent_encode(&password, NON_ALPHANUMERIC);
        let found = server(&format!("mysql://u:{encoded}@h/d")).unwrap();
        prop_assert_eq!(found.password.as_ref().map(Secret::reveal), Some(password.as_str()));
    }
}
