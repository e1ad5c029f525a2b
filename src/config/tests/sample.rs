//! The file that `init` writes is one that loads, as it is and with its examples.

use super::Site;
use crate::config::{Config, Database, RunConfig, sample};

#[test]
fn the_sample_loads_with_and_without_its_examples() {
    let text = sample("sqlite:events.db");
    let site = Site::with(&text);
    let config = site.load().unwrap();
    assert_eq!(config.run, RunConfig::default());
    assert_eq!(
        config.database,
        Some(Database::Sqlite {
            path: site.work("events.db")
        })
    );
    assert!(config.types.is_empty() && config.schedules.is_empty());

    let site = Site::with(&uncommented(&text));
    site.file("work/punctual.password", "hush", 0o600);
    let config = site.load().unwrap();
    let names: Vec<&str> = config.types.keys().map(String::as_str).collect();
    assert_eq!(names, ["hook", "purge", "reminder", "unlock", "wiki-job"]);
    let handler = &config.types["wiki-job"].handler;
    assert!(handler.is_in_transaction(), "{handler:?}");
    assert_eq!(config.types["reminder"].rate, Some(60));
    let names: Vec<&str> = config.schedules.keys().map(String::as_str).collect();
    assert_eq!(names, ["digest", "sync"]);
    let sources: Vec<&String> = config.sources.keys().collect();
    assert_eq!(sources, ["membership"]);
    let payload = config.schedules["digest"].payload.as_deref();
    assert_eq!(payload, Some("{\"list\":\"weekly\"}"));
}

/// Every line that is a setting once its `#` is gone.
fn uncommented(text: &str) -> String {
    let setting = |line: &str| {
        let bare = line.trim_start_matches("# ");
        let key = bare.split(" = ").next().unwrap_or_default();
        let plain = key
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let is_setting = (plain && bare.contains(" = "))
            || bare.starts_with("[type")
            || bare.starts_with("[schedule")
            || bare.starts_with("[source");
        if is_setting {
            bare.to_owned()
        } else {
            line.to_owned()
        }
    };
    text.lines().map(setting).collect::<Vec<_>>().join("\n")
}

#[test]
fn any_url_in_the_sample_is_read_back_as_it_was() {
    for url in [
        "sqlite:a \"quoted\" \\ file.db",
        "mysql://u@h/d?socket=/run/x.sock",
        "sqlite:ä.db",
    ] {
        let site = Site::with(&sample(url));
        let mut direct = Site::new();
        direct.env(&[("PUNCTUAL_DATABASE", url)]);
        let (one, other) = (site.load().unwrap(), direct.load().unwrap());
        let shown = |config: &Config, site: &Site| {
            let root = site.root.path().to_str().unwrap();
            config
                .database
                .as_ref()
                .unwrap()
                .to_string()
                .replace(root, "")
        };
        assert_eq!(shown(&one, &site), shown(&other, &direct));
    }
}
