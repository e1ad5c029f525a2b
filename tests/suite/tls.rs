//! The way to a database server over TCP: TLS verified, never given up quietly.

use mysql::prelude::Queryable as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::runs::insert;
use crate::support::mariadb::{Server, free_port};
use crate::support::site::Site;

const NOTE: &str = "[type.note]\nhandler = \"sql\"\nsql = \"UPDATE n SET n = n + 1\"\n";

/// A certificate for `address`, its key, and the authority that signed it, as PEM.
pub(crate) fn certificate(address: &str) -> (String, String, String) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names to be wrong");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, key).expect("a certificate");
    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec![address.to_owned()]).expect("an address");
    let server = server.signed_by(&key, &authority).expect("a certificate");
    (server.pem(), key.serialize_pem(), authority.pem())
}

struct Secured {
    site: Site,
    server: Server,
    port: u16,
    _files: tempfile::TempDir,
}

impl Secured {
    fn new() -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let (certificate, key, authority) = certificate("127.0.0.1");
        for (name, pem) in [
            ("cert.pem", &certificate),
            ("key.pem", &key),
            ("ca.pem", &authority),
        ] {
            std::fs::write(files.path().join(name), pem).expect("room on the disk");
        }
        let port = free_port();
        let server = Server::private(&[
            "--skip-networking=0",
            "--bind-address=127.0.0.1",
            &format!("--port={port}"),
            &format!("--ssl-cert={}", files.path().join("cert.pem").display()),
            &format!("--ssl-key={}", files.path().join("key.pem").display()),
        ]);
        let site = Site::on(&server);
        site.write("ca.pem", &authority);
        site.config(NOTE).init();
        site.sql("CREATE TABLE n (n INTEGER)")
            .sql("INSERT INTO n VALUES (0)");
        Self {
            site,
            server,
            port,
            _files: files,
        }
    }

    /// Runs with a URL that goes over TCP, with these parameters; the password is in the
    /// environment.
    fn run(&self, parameters: &str) -> crate::support::process::Ended {
        let database = self.site.mariadb_database().expect("a MariaDB site");
        let url = format!(
            "mysql://{}:{}@127.0.0.1:{}/{}{parameters}",
            database.user, database.password, self.port, database.name
        );
        let mut command = self.site.command(env!("CARGO_BIN_EXE_punctual"));
        command
            .args(["run", "--json"])
            .env("PUNCTUAL_DATABASE", url);
        self.site
            .finish(crate::support::process::Running::start(command, b""))
    }
}

#[test]
fn a_run_over_tls_trusts_the_named_authority_and_no_other() {
    let secured = Secured::new();
    // A user of the socket may not be one of TCP: MariaDB names the host apart.
    let database = secured.site.mariadb_database().expect("a MariaDB site");
    let mut admin = secured.server.admin();
    for sql in [
        format!(
            "CREATE USER '{}'@'127.0.0.1' IDENTIFIED BY '{}'",
            database.user, database.password
        ),
        format!(
            "GRANT ALL ON `{}`.* TO '{}'@'127.0.0.1'",
            database.name, database.user
        ),
    ] {
        admin.query_drop(sql).expect("the right to make users");
    }
    insert(&secured.site, "note", 1);

    let unknown = secured.run("?tls=required");
    assert_eq!(
        (unknown.code, unknown.stderr.lines().count()),
        (69, 1),
        "{unknown:?}"
    );
    assert!(unknown.stderr.contains("tls_ca"), "{unknown:?}");
    assert_eq!(secured.site.query_i64("SELECT n FROM n"), 0);

    let run = secured.run("?tls=required&tls_ca=ca.pem").ok().json();
    assert_eq!(run["done"], 1, "{run}");
    assert_eq!(secured.site.query_i64("SELECT n FROM n"), 1);
}

#[test]
fn a_server_without_tls_is_refused_where_tls_is_required() {
    let port = free_port();
    let server = Server::private(&[
        "--skip-networking=0",
        "--bind-address=127.0.0.1",
        &format!("--port={port}"),
        "--skip-ssl",
    ]);
    let site = Site::on(&server);
    site.config(NOTE).init();
    let database = site.mariadb_database().expect("a MariaDB site");
    let url = format!(
        "mysql://{}@127.0.0.1:{port}/{}?tls=required",
        database.user, database.name
    );
    let ended = site.punctual(["run", "--database", &url]);
    assert_eq!(
        (ended.code, ended.stderr.lines().count()),
        (69, 1),
        "{ended:?}"
    );
}
