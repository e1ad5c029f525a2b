//! A database URL, as `PUNCTUAL_DATABASE` holds it.

use std::path::Path;

use punctual::config::load_without_file;
use punctual::config::{ConfigError, Database, Env, Layers, MysqlServer, Secret};

/// The password in the seeds. Nothing that a message may repeat looks like it.
const PASSWORD: &str = "Hush-7";

pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match read(&text) {
        Ok(None) => assert!(text.is_empty()),
        Ok(Some(database)) => {
            let shown = database.to_string();
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
            if let Database::Mysql(server) = &database {
                keeps_its_password(server, &shown);
            }
            if is_written_without_loss(&database) {
                let again = read(&shown).unwrap_or_else(|error| panic!("{shown}: {error}"));
                assert_eq!(
                    Some(place(&database)),
                    again.as_ref().map(place),
                    "{text:?}"
                );
            }
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.starts_with("PUNCTUAL_DATABASE: "), "{said}");
            assert!(!said.chars().any(char::is_control), "{said:?}");
            assert!(said.len() < 500, "{said}");
            assert!(!format!("{said}{error:?}").contains(PASSWORD), "{said}");
        }
    }
}

fn read(url: &str) -> Result<Option<Database>, ConfigError> {
    let layers = Layers {
        config_flag: None,
        database_flag: None,
        env: Env::from_iter([("PUNCTUAL_DATABASE", url), ("TZ", "UTC"), ("USER", "login")]),
        cwd: "/srv/wiki".into(),
        allow_unsafe: true,
    };
    load_without_file(&layers).map(|config| config.database)
}

/// What is shown is the same whatever the password is.
fn keeps_its_password(server: &MysqlServer, shown: &str) {
    let mut other = server.clone();
    other.password = other.password.map(|_| Secret::new("another"));
    assert_eq!(format!("{other:?}"), format!("{server:?}"));
    assert_eq!(Database::Mysql(other).to_string(), shown);
}

/// Blanks at a URL's end are not its own.
fn is_written_without_loss(database: &Database) -> bool {
    let ends_well = |path: &Path| {
        let path = path.to_string_lossy();
        path.trim_end() == path
    };
    match database {
        Database::Sqlite { path } => ends_well(path),
        Database::Mysql(_) => true,
    }
}

/// Everything but password and TLS, which are not shown.
fn place(database: &Database) -> String {
    match database {
        Database::Sqlite { path } => path.display().to_string(),
        Database::Mysql(server) => {
            // Beside a socket, a host is only a name.
            let host = (server.socket.is_none()).then_some((&server.host, server.port));
            format!(
                "{:?}",
                (&server.user, host, &server.database, &server.socket)
            )
        }
    }
}
