//! Who may write and read the files, where a password comes from, and that nothing shows it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::Site;
use crate::config::{ConfigError, Database, file, load};

#[test]
fn a_configuration_that_others_can_write_is_refused_unless_allowed() {
    let mut site = Site::new();
    for mode in [0o620, 0o602, 0o666] {
        site.file("work/punctual.toml", "", mode);
        let refusal = site.load().unwrap_err();
        assert!(matches!(refusal, ConfigError::Unsafe(_)), "{refusal}");
        assert_eq!(refusal.exit() as u8, 77);
    }
    site.layers.allow_unsafe = true;
    assert!(site.load().is_ok());
}

#[test]
fn a_directory_that_everybody_can_write_is_refused_unless_it_is_sticky() {
    let site = Site::with("");
    let mode = |mode| {
        fs::set_permissions(&site.layers.cwd, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o777);
    let refusal = site.load().unwrap_err();
    assert!(matches!(refusal, ConfigError::Unsafe(_)), "{refusal}");
    assert!(refusal.to_string().contains("run `chmod o-w "), "{refusal}");
    mode(0o1777);
    assert!(site.load().is_ok());
    // Through a link from a directory that only this user writes.
    symlink(
        site.work("punctual.toml"),
        site.root.path().join("etc/l.toml"),
    )
    .unwrap();
    let mut linked = site.layers.clone();
    linked.config_flag = Some(site.root.path().join("etc/l.toml"));
    mode(0o777);
    assert!(matches!(load(&linked), Err(ConfigError::Unsafe(_))));
}

#[test]
fn a_password_comes_from_the_url_then_its_own_file_then_the_client_file() {
    let password = |site: &Site| match site.load().unwrap().database {
        Some(Database::Mysql(server)) => server.password.map(|text| text.reveal().to_owned()),
        _ => None,
    };
    let mut site = Site::with("database = \"mysql://u@h/d\"\npassword_file = \"secret\"");
    site.file(
        "home/.my.cnf",
        "[client]\npassword = from-client-file\n",
        0o600,
    );
    site.file("work/secret", "from-own-file\n", 0o600);
    assert_eq!(password(&site).as_deref(), Some("from-own-file"));
    site.env(&[("PUNCTUAL_DATABASE", "mysql://u:from-url@h/d")]);
    assert_eq!(password(&site).as_deref(), Some("from-url"));
    let site = Site::with("database = \"mysql://u@h/d\"");
    assert_eq!(password(&site), None);
    site.file(
        "home/.my.cnf",
        "[client]\npassword = from-client-file\n",
        0o600,
    );
    assert_eq!(password(&site).as_deref(), Some("from-client-file"));
}

#[test]
fn a_password_file_is_missing_unsafe_or_wrong_by_its_own_name() {
    let site = Site::with("database = \"mysql://u@h/d\"\npassword_file = \"secret\"");
    assert!(matches!(site.load(), Err(ConfigError::Unreadable(_))));
    site.file("work/secret", "hush", 0o644);
    assert!(matches!(site.load(), Err(ConfigError::Unsafe(_))));
    for text in ["", "\n", "hush\nhush\n"] {
        site.file("work/secret", text, 0o600);
        let refusal = site.load().unwrap_err();
        assert!(matches!(refusal, ConfigError::Invalid(_)), "{refusal}");
        assert!(
            refusal.to_string().contains("must hold the password alone"),
            "{refusal}"
        );
        assert!(!refusal.to_string().contains("hush"), "{refusal}");
    }
}

#[test]
fn a_password_in_the_database_flag_is_a_usage_error() {
    let mut site = Site::new();
    site.layers.database_flag = Some("mysql://u:hush@h/d".to_owned());
    let refusal = site.load().unwrap_err();
    assert!(matches!(refusal, ConfigError::Usage(_)));
    assert_eq!(refusal.exit() as u8, 2);
    assert!(refusal.to_string().contains("`ps` shows it"), "{refusal}");
    assert!(!refusal.to_string().contains("hush"), "{refusal}");
    site.layers.database_flag = Some("mysql://h".to_owned());
    assert!(matches!(site.load(), Err(ConfigError::Usage(_))));
}

#[test]
fn a_mistake_in_the_client_file_names_its_line() {
    let site = Site::with("database = \"mysql:///d\"");
    site.file(
        "home/.my.cnf",
        "[client]\npassword = hush\nport = hush\n",
        0o600,
    );
    let refusal = site.refusal();
    assert!(
        refusal.ends_with(".my.cnf:3: `port` must be 0 to 65535"),
        "{refusal}"
    );
}

#[test]
fn nothing_shows_a_password() {
    let mut site = Site::with(
        "database = \"mysql://u:hush@h/d\"\n\
         [type.a]\nhandler = \"http\"\nurl = \"http://h/\"\n\
         headers = { Authorization = \"hush\" }\n\
         [type.b]\nhandler = \"command\"\ncommand = [\"x\"]\nenv = { TOKEN = \"hush\" }\n",
    );
    site.env(&[("PUNCTUAL_DATABASE", "mysql://u:hush@h/d")]);
    let config = site.load().unwrap();
    let database = config.database.as_ref().unwrap();
    for shown in [
        format!("{config:?}"),
        format!("{config:#?}"),
        database.to_string(),
        database.name(),
        format!("{:?}", site.layers.env),
        format!(
            "{:?}",
            file::read("c", "database = \"mysql://u:hush@h/d\"", Path::new("/"))
        ),
    ] {
        assert!(!shown.contains("hush"), "{shown}");
    }
    let Some(Database::Mysql(server)) = config.database else {
        panic!("mysql")
    };
    assert_eq!(server.password.unwrap().reveal(), "hush");
}
