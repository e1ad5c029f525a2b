//! `~/.my.cnf`, where the database URL leaves everything out.

use std::fs;

use punctual::config::{Database, Env, Layers, Secret, load_without_file};

pub(crate) fn check(data: &[u8]) {
    let home = tempfile::tempdir().expect("a temporary directory");
    fs::write(home.path().join(".my.cnf"), data).expect("a file of ours");
    let directory = home.path().to_str().expect("a plain path");
    let layers = Layers {
        config_flag: None,
        database_flag: None,
        env: Env::from_iter([
            ("HOME", directory),
            ("USER", "login"),
            ("TZ", "UTC"),
            ("PUNCTUAL_DATABASE", "mysql:///d"),
        ]),
        cwd: home.path().to_path_buf(),
        allow_unsafe: true,
    };
    match load_without_file(&layers) {
        Ok(config) => {
            let Some(Database::Mysql(server)) = config.database else {
                panic!("a server");
            };
            assert!(!server.user.is_empty() && !server.host.is_empty() && server.port > 0);
            let mut other = server.clone();
            other.password = other.password.map(|_| Secret::new("another"));
            assert_eq!(format!("{other:?}"), format!("{server:?}"));
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.chars().any(char::is_control), "{said:?}");
            let place = said.split(".my.cnf:").nth(1).expect("the file's name");
            let (line, message) = place.split_once(": `").expect("a line and a key");
            let line: usize = line.parse().expect("a line");
            let lines = data.split(|byte| *byte == b'\n').count();
            assert!((1..=lines).contains(&line), "{said}");
            assert!(message.len() < 100, "{said}");
        }
    }
}
