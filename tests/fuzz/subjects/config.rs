//! A configuration file, read as every command reads it.

use std::fs;
use std::path::Path;

use punctual::config::{Config, Database, Env, Layers, load};

/// The password in the seeds.
const PASSWORD: &str = "Hush-7";

pub(crate) fn check(data: &[u8]) {
    let site = tempfile::tempdir().expect("a temporary directory");
    let file = site.path().join("punctual.toml");
    fs::write(&file, data).expect("a file of ours");
    let layers = Layers {
        config_flag: Some(file.clone()),
        database_flag: None,
        env: Env::from_iter([("TZ", "UTC"), ("USER", "login")]),
        cwd: site.path().to_path_buf(),
        allow_unsafe: true,
    };
    let text = String::from_utf8_lossy(data);
    let said = match load(&layers) {
        Ok(config) => {
            keeps_its_bounds(&config);
            format!("{config:?} {config:#?}")
        }
        Err(error) => {
            let said = error.to_string();
            fits_a_message(&said, &file, &text);
            format!("{said} {error:?}")
        }
    };
    if has_its_password_in_place(&text) {
        assert!(!said.contains(PASSWORD), "{said}");
    }
}

fn keeps_its_bounds(config: &Config) {
    assert!((1..=1000).contains(&config.run.batch_size));
    assert!(config.run.lease_ttl.as_secs() >= 6);
    assert!(config.table_prefix.len() <= 24);
    assert!(config.base_dir.is_absolute() && config.state_dir.is_absolute());
    if let Some(Database::Sqlite { path }) = &config.database {
        assert!(path.is_absolute());
    }
    for (name, found) in &config.types {
        assert_eq!(name, &found.name);
        assert!((1..=64).contains(&name.len()) && (1..=64).contains(&found.concurrency));
        assert!(found.backoff <= found.backoff_max && !found.timeout.is_zero());
    }
}

/// One short line: file, line, what is wrong.
fn fits_a_message(said: &str, file: &Path, text: &str) {
    assert!(!said.chars().any(char::is_control), "{said:?}");
    assert!(said.chars().count() < 2000, "{said}");
    let Some(place) = said.strip_prefix(&format!("{}:", file.display())) else {
        assert!(said.contains("password_file"), "{said}"); // another file
        return;
    };
    let (line, message) = place.split_once(": ").expect("a line and a message");
    let line: usize = line.parse().expect("a line");
    assert!((1..=text.split('\n').count()).contains(&line), "{said}");
    assert!(!message.is_empty());
}

/// Whether the password stands where passwords belong, and nowhere else.
fn has_its_password_in_place(text: &str) -> bool {
    let place = format!("database = \"mysql://u:{PASSWORD}@");
    text.matches(PASSWORD).count() == 1 && text.lines().any(|line| line.starts_with(&place))
}
