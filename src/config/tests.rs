//! The whole of loading: what a file can say, and where settings come from.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::layers::{Places, load_at};
use super::*;

mod mistakes;
mod sample;
mod trust;

/// A site with a home, a working directory and an `/etc` of its own.
struct Site {
    root: TempDir,
    layers: Layers,
}

impl Site {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["home/.config/punctual", "work", "etc"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let home = root.path().join("home").into_os_string();
        let env = [("HOME", home), ("USER", "login".into())];
        let layers = Layers {
            config_flag: None,
            database_flag: None,
            env: env.into_iter().collect(),
            cwd: root.path().join("work"),
            allow_unsafe: false,
        };
        Self { root, layers }
    }

    /// With `text` as `work/punctual.toml`.
    fn with(text: &str) -> Self {
        let site = Self::new();
        site.file("work/punctual.toml", text, 0o600);
        site
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.root.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn env(&mut self, variables: &[(&str, &str)]) -> &mut Self {
        let home = self.root.path().join("home").to_str().unwrap().to_owned();
        let base = [("HOME", home.as_str()), ("USER", "login")];
        self.layers.env = base.into_iter().chain(variables.iter().copied()).collect();
        self
    }

    fn load(&self) -> Result<Config, ConfigError> {
        let places = Places {
            config: self.root.path().join("etc/punctual.toml"),
            sockets: Vec::new(),
            user: 1000,
        };
        load_at(&self.layers, &places)
    }

    fn refusal(&self) -> String {
        self.load().unwrap_err().to_string()
    }

    fn work(&self, name: &str) -> PathBuf {
        self.root.path().join("work").join(name)
    }
}

fn type_of(text: &str) -> TypeConfig {
    let mut config = Site::with(text).load().unwrap();
    config.types.pop_first().unwrap().1
}

#[test]
fn without_a_file_every_default_holds() {
    let site = Site::new();
    let config = site.load().unwrap();
    assert_eq!((config.file, config.database), (None, None));
    assert_eq!(config.base_dir, site.layers.cwd);
    assert_eq!(config.table_prefix, "");
    assert_eq!(
        config.state_dir,
        site.root.path().join("home/.local/state/punctual")
    );
    assert_eq!(config.run, RunConfig::default());
    assert!(config.types.is_empty());
}

#[test]
fn everything_a_file_can_say_is_read() {
    let site = Site::with(
        r#"
        database = "sqlite:events.db"
        table_prefix = "mw_"
        timezone = "Europe/Amsterdam"
        state_dir = "state"
        [run]
        max_time = "none"
        linger = "5m 5s"
        poll = "250ms"
        max_events = 10
        batch_size = 1000
        history = "1d"
        history_failed = "2d"
        history_rows = 5
        lease_ttl = "6s"
        grace = "0s"
        ping = "https://example.org/ping?x=1"
        allow_network_fs = true
        "#,
    );
    let config = site.load().unwrap();
    assert_eq!(config.file, Some(site.work("punctual.toml")));
    assert_eq!(
        config.database,
        Some(Database::Sqlite {
            path: site.work("events.db")
        })
    );
    assert_eq!(
        (
            config.table_prefix.as_str(),
            config.timezone.as_ref().map(Zone::name)
        ),
        ("mw_", Some("Europe/Amsterdam"))
    );
    assert_eq!(config.state_dir, site.work("state"));
    assert_eq!(
        config.run,
        RunConfig {
            max_time: None,
            linger: Duration::from_secs(305),
            poll: Duration::from_millis(250),
            max_events: Some(10),
            batch_size: 1000,
            history: Duration::from_hours(24),
            history_failed: Duration::from_hours(48),
            history_rows: Some(5),
            lease_ttl: Duration::from_secs(6),
            grace: Duration::ZERO,
            ping: Some("https://example.org/ping?x=1".to_owned()),
            allow_network_fs: true,
        }
    );
    let unlimited = Site::with("[run]\nmax_time = \"0s\"").load().unwrap();
    assert_eq!(unlimited.run.max_time, None);
}

#[test]
fn a_type_has_the_documented_defaults() {
    let site = Site::with("[type.t]\nhandler = \"command\"\ncommand = [\"true\"]\n");
    let found = site.load().unwrap().types.remove("t").unwrap();
    let command = CommandConfig {
        argv: vec!["true".to_owned()],
        mode: Mode::Each,
        cwd: site.layers.cwd.clone(),
        env: BTreeMap::new(),
        pass_env: Vec::new(),
    };
    assert_eq!(
        found,
        TypeConfig {
            name: "t".to_owned(),
            handler: HandlerConfig::Command(command),
            retries: 5,
            backoff: Duration::from_mins(1),
            backoff_max: Duration::from_hours(6),
            timeout: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            concurrency: 1,
            weight: 1,
            rate: None,
            max_late: None,
            late: Late::Fire,
            guard: None,
            max_losses: 3,
            max_deferrals: 100,
            breaker: Some(10),
            breaker_probe: Duration::from_mins(5),
            at_most_once: false,
            sql_lines: BTreeMap::new(),
        }
    );
}

#[test]
fn each_handler_reads_its_own_keys() {
    let found = type_of(
        "[type.\"a b\"]\nhandler = \"command\"\ncommand = [\"php\", \"x.php\"]\nmode = \"batch\"\n\
         cwd = \"/srv\"\nenv = { A = \"1\" }\npass_env = [\"LANG\"]\nbreaker = 0\nrate = 60\n\
         backoff = \"1d\"\nmax_late = \"1h\"\nlate = \"skip\"\nguard = \"SELECT 1\"\n",
    );
    let HandlerConfig::Command(command) = &found.handler else {
        panic!("a command: {found:?}")
    };
    assert_eq!(
        (command.mode, command.cwd.as_path()),
        (Mode::Batch, Path::new("/srv"))
    );
    assert_eq!(command.env["A"], "1");
    assert_eq!(command.pass_env, ["LANG"]);
    assert_eq!(
        (found.breaker, found.rate, found.late),
        (None, Some(60), Late::Skip)
    );
    assert_eq!(found.backoff_max, Duration::from_hours(24));
    assert_eq!(found.guard.as_deref(), Some("SELECT 1"));

    let found = type_of(
        "[type.t]\nhandler = \"http\"\nurl = \"https://example.org/\"\nmethod = \"PUT\"\n\
         expect = [200, 202]\nat_most_once = true\n[type.t.headers]\nAuthorization = \"Bearer x\"",
    );
    let HandlerConfig::Http(http) = &found.handler else {
        panic!("http: {found:?}")
    };
    assert_eq!(
        (http.method.as_str(), http.expect.as_slice()),
        ("PUT", &[200, 202][..])
    );
    assert_eq!(http.headers["Authorization"].reveal(), "Bearer x");
    assert!(found.at_most_once);

    let found = type_of(
        "[type.t]\nhandler = \"mediawiki-job\"\njob_table_prefix = \"mw_\"\njob_database = \"wiki\"\n\
         queues = { default = \"JobQueueDB\", cdnPurge = \"JobQueueRedis\" }",
    );
    let HandlerConfig::MediawikiJob(job) = &found.handler else {
        panic!("{found:?}")
    };
    assert_eq!(job.table_prefix.as_deref(), Some("mw_"));
    assert_eq!(job.database.as_deref(), Some("wiki"));
    let classes = ["cdnPurge", "null"].map(|name| job.queue_of(name));
    assert_eq!(classes, ["JobQueueRedis", "JobQueueDB"]);
    let found = type_of("[type.t]\nhandler = \"mediawiki-job\"");
    let nothing_said = HandlerConfig::MediawikiJob(JobConfig::default());
    assert_eq!(found.handler, nothing_said);

    for text in ["sql = \"SELECT 1\"", "sql = [\"SELECT 1\"]"] {
        let found = type_of(&format!("[type.t]\nhandler = \"sql\"\n{text}"));
        let statements = vec!["SELECT 1".to_owned()];
        assert_eq!(
            found.handler,
            HandlerConfig::Sql(SqlConfig {
                statements,
                sweep: None
            })
        );
    }
}

#[test]
fn a_sweep_reads_its_own_keys() {
    let sweep = |more: &str| {
        let text = format!("handler = \"sql\"\nsql = \"DELETE FROM a\"\n{more}");
        type_of(&format!("[type.t]\n{text}")).sweep().cloned()
    };
    assert_eq!(sweep(""), None);
    assert_eq!(sweep("repeat_until_empty = false"), None);
    let plain = SweepConfig {
        chunk_pause: Duration::ZERO,
        timeout: None,
        lag: None,
        max_lag: Duration::from_secs(5),
    };
    assert_eq!(sweep("repeat_until_empty = true"), Some(plain));
    let all = sweep(
        "repeat_until_empty = true\nchunk_pause = \"50ms\"\ntimeout = \"2h\"\nlag = \"SELECT 1\"\n\
         max_lag = \"10s\"",
    );
    let said = SweepConfig {
        chunk_pause: Duration::from_millis(50),
        timeout: Some(Duration::from_hours(2)),
        lag: Some("SELECT 1".to_owned()),
        max_lag: Duration::from_secs(10),
    };
    assert_eq!(all, Some(said));
}

#[test]
fn what_goes_with_a_sweep_only_is_refused_without_one() {
    let sql = "handler = \"sql\"\nsql = \"DELETE FROM a\"\n";
    let sweep = "repeat_until_empty = true\n";
    let command = "handler = \"command\"\ncommand = [\"true\"]\n";
    for (text, part) in [
        (format!("{sql}chunk_pause = \"1s\""), "`chunk_pause`"),
        (format!("{sql}lag = \"SELECT 1\""), "`lag`"),
        (format!("{sql}timeout = \"1s\""), "repeat_until_empty"),
        (format!("{sql}{sweep}rate = 5"), "chunk_pause"),
        (format!("{sql}{sweep}max_lag = \"5s\""), "goes with `lag`"),
        (format!("{sql}{sweep}lag = \" \""), "empty statement"),
        (format!("{sql}{sweep}concurrency = 2"), "concurrency"),
        (format!("{command}repeat_until_empty = true"), "made of SQL"),
        (format!("{command}chunk_pause = \"1s\""), "made of SQL"),
    ] {
        let refusal = Site::with(&format!("[type.t]\n{text}")).load();
        let refusal = refusal.expect_err(&text).to_string();
        assert!(refusal.contains(part), "{text}: {refusal}");
        assert!(refusal.contains("punctual.toml:"), "{refusal}");
    }
}

#[test]
fn the_lines_of_sql_are_known_however_they_are_written() {
    let found = type_of(
        "[type.\"b c\"] # b\nhandler = \"sql\"\nguard='SELECT 1'\nsql = [\n  \"SELECT 2\",\n]\n",
    );
    assert_eq!(
        found.sql_lines["sql"],
        found.sql_lines["guard"] + 1,
        "{found:?}"
    );
    let found = type_of("[type]\nt = { handler = \"sql\", sql = \"SELECT 1\" }\n");
    assert!(found.sql_lines["sql"] > 1 && !found.sql_lines.contains_key("guard"));
}

#[test]
fn files_are_looked_for_in_the_documented_order() {
    let mut site = Site::new();
    let prefix = |site: &Site| site.load().unwrap().table_prefix;
    site.file("etc/punctual.toml", "table_prefix = \"etc\"", 0o644);
    assert_eq!(prefix(&site), "etc");
    site.file(
        "home/.config/punctual/punctual.toml",
        "table_prefix = \"home\"",
        0o644,
    );
    assert_eq!(prefix(&site), "home");
    fs::create_dir_all(site.root.path().join("xdg/punctual")).unwrap();
    site.file(
        "xdg/punctual/punctual.toml",
        "table_prefix = \"xdg\"",
        0o644,
    );
    let xdg = site.root.path().join("xdg").to_str().unwrap().to_owned();
    site.env(&[("XDG_CONFIG_HOME", &xdg)]);
    assert_eq!(prefix(&site), "xdg");
    site.file("work/punctual.toml", "table_prefix = \"work\"", 0o644);
    assert_eq!(prefix(&site), "work");
    site.file("work/env.toml", "table_prefix = \"env\"", 0o644);
    site.env(&[("PUNCTUAL_CONFIG", "env.toml")]);
    assert_eq!(prefix(&site), "env");
    let flag = site.file(
        "etc/flag.toml",
        "table_prefix = \"flag\"\nstate_dir = \"s\"",
        0o644,
    );
    site.layers.config_flag = Some(flag.clone());
    let config = site.load().unwrap();
    assert_eq!(
        (config.table_prefix.as_str(), config.file),
        ("flag", Some(flag))
    );
    assert_eq!(config.base_dir, site.root.path().join("etc"));
    assert_eq!(config.state_dir, site.root.path().join("etc/s"));
}

#[test]
fn a_file_that_was_asked_for_must_be_there_and_readable() {
    let mut site = Site::with("");
    site.env(&[("PUNCTUAL_CONFIG", "absent.toml")]);
    let refusal = site.load().unwrap_err();
    assert!(
        refusal
            .to_string()
            .starts_with("PUNCTUAL_CONFIG names absent.toml, which does not")
    );
    assert!(matches!(refusal, ConfigError::Unreadable(_)));
    site.layers.config_flag = Some(PathBuf::from("gone.toml"));
    assert!(
        site.refusal()
            .starts_with("--config names gone.toml, which does not exist")
    );
    site.layers.config_flag = Some(PathBuf::from("."));
    assert!(site.refusal().ends_with("is a directory, not a file"));
    site.file("work/big.toml", &"#".repeat((1 << 20) + 1), 0o600);
    site.layers.config_flag = Some(PathBuf::from("big.toml"));
    assert!(site.refusal().contains("larger than 1 MiB"));
}

#[test]
fn the_environment_wins_over_the_file_and_a_flag_over_both() {
    let mut site = Site::with(
        "database = \"sqlite:file.db\"\ntable_prefix = \"file\"\ntimezone = \"UTC\"\n\
         state_dir = \"file\"",
    );
    site.env(&[
        ("PUNCTUAL_DATABASE", "sqlite:env.db"),
        ("PUNCTUAL_TABLE_PREFIX", "env"),
        ("PUNCTUAL_TIMEZONE", "Europe/Amsterdam"),
        ("PUNCTUAL_STATE_DIR", "env"),
    ]);
    let config = site.load().unwrap();
    assert_eq!(
        config.database,
        Some(Database::Sqlite {
            path: site.work("env.db")
        })
    );
    assert_eq!(
        (
            config.table_prefix.as_str(),
            config.timezone.as_ref().map(Zone::name)
        ),
        ("env", Some("Europe/Amsterdam"))
    );
    assert_eq!(config.state_dir, site.work("env"));
    site.layers.database_flag = Some("sqlite:flag.db".to_owned());
    let config = site.load().unwrap();
    assert_eq!(
        config.database,
        Some(Database::Sqlite {
            path: site.work("flag.db")
        })
    );
}

#[test]
fn paths_in_the_environment_start_at_the_working_directory_and_those_in_a_file_at_the_file() {
    let mut site = Site::new();
    site.file("etc/c.toml", "database = \"sqlite:a.db\"", 0o600);
    site.layers.config_flag = Some(PathBuf::from("../etc/c.toml"));
    let Some(Database::Sqlite { path }) = site.load().unwrap().database else {
        panic!("sqlite")
    };
    assert_eq!(path, site.root.path().join("work/../etc/a.db"));
    assert!(site.load().unwrap().base_dir.is_absolute());
    site.env(&[("PUNCTUAL_DATABASE", "sqlite:a.db")]);
    let config = site.load().unwrap();
    assert_eq!(
        config.database,
        Some(Database::Sqlite {
            path: site.work("a.db")
        })
    );
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    for (name, value, reason) in [
        (
            "PUNCTUAL_DATABASE",
            "mysql://u:hush@h",
            "PUNCTUAL_DATABASE: the URL names no database",
        ),
        (
            "PUNCTUAL_TABLE_PREFIX",
            "a-b",
            "PUNCTUAL_TABLE_PREFIX in the environment must be up to",
        ),
        (
            "PUNCTUAL_TIMEZONE",
            "Mars",
            "PUNCTUAL_TIMEZONE in the environment is wrong: unknown",
        ),
        (
            "PUNCTUAL_STATE_DIR",
            "~/x",
            "PUNCTUAL_STATE_DIR in the environment must be a path",
        ),
    ] {
        let mut site = Site::new();
        let refusal = site.env(&[(name, value)]).refusal();
        assert!(refusal.starts_with(reason), "{refusal}");
        assert!(!refusal.contains("hush"), "{refusal}");
    }
}

#[test]
fn the_state_directory_has_a_private_place_even_without_a_home() {
    let mut site = Site::new();
    site.layers.env = Env::default();
    assert_eq!(site.load().unwrap().state_dir, site.work(".punctual-state"));
    let places = Places {
        config: site.work("none.toml"),
        sockets: Vec::new(),
        user: 0,
    };
    let config = load_at(&site.layers, &places).unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/punctual"));
    site.layers.env = [("XDG_STATE_HOME", "/x/state")].into_iter().collect();
    assert_eq!(
        site.load().unwrap().state_dir,
        Path::new("/x/state/punctual")
    );
    // Relative ones are to be ignored.
    site.layers.env = [("XDG_STATE_HOME", "state"), ("HOME", "/h")]
        .into_iter()
        .collect();
    assert_eq!(
        site.load().unwrap().state_dir,
        Path::new("/h/.local/state/punctual")
    );
}

#[test]
fn the_variable_tz_is_the_zone_where_nothing_else_is() {
    let mut site = Site::new();
    assert_eq!(
        site.env(&[("TZ", ":Europe/Amsterdam")])
            .load()
            .unwrap()
            .timezone,
        Zone::named("Europe/Amsterdam")
    );
    assert_eq!(
        site.env(&[("TZ", "")]).load().unwrap().timezone,
        Some(Zone::utc())
    );
    // The host is not asked before somebody wants to know.
    assert_eq!(site.env(&[]).load().unwrap().timezone, None);
}
