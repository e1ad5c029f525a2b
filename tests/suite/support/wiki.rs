//! A wiki on the MediaWiki of this machine, in the database of a site: set up once a database and
//! process by MediaWiki's own installer, and copied from then on. Its files are the site's; nothing
//! of the machine's own wikis, or of /etc/mediawiki, is read or written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::process::{Ended, Running};
use super::site::Site;
use super::{hex, mariadb};

/// Where Debian has it.
const MEDIAWIKI: &str = "/usr/share/mediawiki";
/// SQLite's file of a wiki is named for its database.
const FILE: &str = "wiki.sqlite";

/// A site with a wiki in its database.
pub(crate) struct Wiki {
    pub(crate) site: Site,
    /// Before the wiki's tables.
    pub(crate) prefix: &'static str,
}

/// A job table of MediaWiki's, as far as jobs are put into it.
pub(crate) const JOB_TABLE: &str = "CREATE TABLE job (job_cmd VARCHAR(60), job_namespace INTEGER, \
    job_title VARCHAR(255), job_timestamp VARCHAR(14), job_params BLOB, job_random INTEGER, \
    job_sha1 VARCHAR(32), job_token VARCHAR(32) NOT NULL DEFAULT '')";

/// What every wiki here says of itself. Jobs of the type `note` write their parameters to the file
/// `ran`, as JSON, a line each.
const SETTINGS: &str = r"<?php
$wgSitename = 'Test';
$wgScriptPath = '/wiki';
$wgServer = 'http://localhost';
$wgLanguageCode = 'en';
$wgSecretKey = str_repeat( 'a', 64 );
$wgMainCacheType = CACHE_NONE;
$wgLocalisationCacheConf['storeClass'] = LCStoreNull::class;
$wgPingback = false;
$wgJobRunRate = 0;
class NoteJob extends Job implements GenericParameterJob {
    public function __construct( array $params ) {
        parent::__construct( 'note', $params );
    }
    public function run() {
        $params = $this->params;
        unset( $params['requestId'] );
        // A number or its digits: that differs between versions and databases.
        $params['namespace'] = (int)$params['namespace'];
        file_put_contents( __DIR__ . '/ran', json_encode( $params ) . PHP_EOL, FILE_APPEND );
        return true;
    }
}
$wgJobClasses['note'] = NoteJob::class;
";

/// Runs a script within MediaWiki. `$queue` is its group of job queues.
const WITHIN: &str = r"<?php
require_once '/usr/share/mediawiki/maintenance/Maintenance.php';
class Within extends Maintenance {
    public function execute() {
        $queue = MediaWiki\MediaWikiServices::getInstance()->getJobQueueGroup();
        BODY
    }
}
$maintClass = Within::class;
require_once RUN_MAINTENANCE_IF_MAIN;
";

impl Wiki {
    /// A wiki on SQLite, its jobs in its main database.
    #[track_caller]
    pub(crate) fn sqlite() -> Self {
        static FRESH: OnceLock<Vec<u8>> = OnceLock::new();
        let fresh = FRESH.get_or_init(|| {
            let wiki = Self::installed();
            fs::read(wiki.site.path(FILE)).expect("the installer's file")
        });
        let site = Site::sqlite_named(FILE);
        fs::write(site.path(FILE), fresh).expect("room on the disk");
        Self { site, prefix: "" }.ready()
    }

    /// A wiki on SQLite as MediaWiki's installer leaves it: its jobs are in a file of their own.
    #[track_caller]
    pub(crate) fn installed() -> Self {
        let site = Site::sqlite_named(FILE);
        let wiki = Self { site, prefix: "" };
        let data = format!("--dbpath={}", wiki.site.path("").display());
        wiki.install(&["--dbtype=sqlite", "--dbname=wiki", &data]);
        wiki.site.sql("DELETE FROM job");
        wiki
    }

    /// A wiki on MariaDB, with a prefix before its tables that the events' own do not have.
    #[track_caller]
    pub(crate) fn mariadb() -> Self {
        Self::on(mariadb::shared())
    }

    /// As [`Wiki::mariadb`], on this server.
    #[track_caller]
    pub(crate) fn on(server: &mariadb::Server) -> Self {
        static FRESH: OnceLock<String> = OnceLock::new();
        let fresh = FRESH.get_or_init(|| {
            let wiki = Self {
                site: Site::mariadb(),
                prefix: "mw_",
            };
            let database = wiki.site.mariadb_database().expect("a site on MariaDB");
            let mut options = vec!["--dbtype=mysql".to_owned(), "--dbprefix=mw_".to_owned()];
            let (user, password) = (&database.user, &database.password);
            options.extend([
                format!("--dbserver=localhost:{}", database.socket.display()),
                format!("--dbname={}", database.name),
                format!("--dbuser={user}"),
                format!("--dbpass={password}"),
                format!("--installdbuser={user}"),
                format!("--installdbpass={password}"),
            ]);
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            wiki.install(&options);
            let dump = Running::start(client("mariadb-dump", database), b"");
            dump.wait().ok().stdout
        });
        let wiki = Self {
            site: Site::on(server),
            prefix: "mw_",
        };
        let database = wiki.site.mariadb_database().expect("a site on MariaDB");
        Running::start(client("mariadb", database), fresh.as_bytes())
            .wait()
            .ok();
        wiki.ready()
    }

    /// Its settings written, and its queue emptied of what its installer left there.
    fn ready(self) -> Self {
        let settings = match self.site.mariadb_database() {
            None => "$wgDBtype = 'sqlite';\n$wgDBname = 'wiki';\n\
                     $wgSQLiteDataDir = __DIR__;\n"
                .to_owned(),
            Some(database) => format!(
                "$wgDBtype = 'mysql';\n$wgDBserver = 'localhost:{}';\n$wgDBname = '{}';\n\
                 $wgDBuser = '{}';\n$wgDBpassword = '{}';\n$wgDBprefix = '{}';\n",
                database.socket.display(),
                database.name,
                database.user,
                database.password,
                self.prefix,
            ),
        };
        self.site
            .write("LocalSettings.php", &format!("{SETTINGS}{settings}"));
        self.site.sql(&format!("DELETE FROM {}", self.table()));
        self
    }

    /// Adds to its settings.
    pub(crate) fn set(&self, settings: &str) {
        let path = self.site.path("LocalSettings.php");
        let before = fs::read_to_string(path).expect("settings of ours");
        self.site
            .write("LocalSettings.php", &format!("{before}{settings}\n"));
    }

    /// The name of its job table.
    pub(crate) fn table(&self) -> String {
        format!("{}job", self.prefix)
    }

    /// MediaWiki's own installer, into the site's database.
    #[track_caller]
    fn install(&self, options: &[&str]) {
        let mut command = self.maintenance("install.php");
        command
            .arg("--confpath")
            .arg(self.site.path(""))
            .args([
                "--server=http://localhost",
                "--scriptpath=/wiki",
                "--skins=",
            ])
            .args(["--pass=long-enough-for-it", "--lang=en"])
            .args(options)
            .args(["Test", "Admin"]);
        let ended = Running::start(command, b"").wait();
        assert_eq!(ended.code, 0, "{ended:?}");
    }

    #[track_caller]
    fn maintenance(&self, script: &str) -> Command {
        let script = Path::new(MEDIAWIKI).join("maintenance").join(script);
        assert!(
            script.exists(),
            "MediaWiki is not installed: apt-get install mediawiki php-intl php-mbstring php-xml \
             php-apcu, or run contrib/test"
        );
        let mut command = self.site.command("php");
        command.arg(script);
        command
    }

    /// Runs PHP within MediaWiki, with its queues as `$queue`; returns what it printed.
    #[track_caller]
    pub(crate) fn php(&self, body: &str) -> String {
        self.site.write("within.php", &WITHIN.replace("BODY", body));
        let mut command = self.site.command("php");
        command.arg("within.php").args(self.settings());
        Running::start(command, b"").wait().ok().stdout
    }

    /// Has MediaWiki run all jobs of its queue, and returns what it says of them.
    #[track_caller]
    pub(crate) fn run_jobs(&self) -> Ended {
        let mut command = self.maintenance("runJobs.php");
        command.args(self.settings());
        Running::start(command, b"").wait().ok()
    }

    fn settings(&self) -> [PathBuf; 2] {
        let path = self.site.path("LocalSettings.php");
        [PathBuf::from("--conf"), path]
    }

    /// The parameters of the jobs `note` that it ran, in their order.
    pub(crate) fn ran(&self) -> Vec<String> {
        let text = fs::read_to_string(self.site.path("ran")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Columns of the jobs in its table, in the order in which they came.
    #[track_caller]
    pub(crate) fn jobs(&self, columns: &str) -> Vec<Vec<String>> {
        let table = self.table();
        self.site
            .rows(&format!("SELECT {columns} FROM {table} ORDER BY job_id"))
    }

    /// Puts an event of the type `job` there, due a while ago.
    #[track_caller]
    pub(crate) fn event(&self, payload: &str) {
        self.event_at(5, payload);
    }

    /// Puts an event of the type `job` there.
    #[track_caller]
    pub(crate) fn event_at(&self, due_at: i64, payload: &str) {
        let payload = hex(payload.as_bytes());
        self.site.sql(&format!(
            "INSERT INTO scheduled_events (type, due_at, payload) \
             VALUES ('job', {due_at}, {})",
            match self.site.mariadb_database() {
                Some(_) => format!("x'{payload}'"),
                None => format!("CAST(x'{payload}' AS TEXT)"),
            }
        ));
    }

    /// Writes the configuration, the type `job` with `more` in it, and makes the tables.
    pub(crate) fn config(&self, more: &str) -> &Self {
        let prefix = self.prefix;
        self.site.config(&format!(
            "[type.job]\nhandler = \"mediawiki-job\"\njob_table_prefix = \"{prefix}\"\n{more}"
        ));
        self
    }
}

/// A client of the server, on one database.
fn client(program: &str, database: &mariadb::Database) -> Command {
    let mut command = Command::new(program);
    command
        .arg("--no-defaults")
        .arg(format!("--socket={}", database.socket.display()))
        .arg(format!("--user={}", database.user))
        .env("MYSQL_PWD", &database.password)
        .arg(&database.name);
    command
}
