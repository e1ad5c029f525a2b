//! The database URL: `sqlite:PATH` and `mysql://user[:password]@host[:port]/db?options`.
//!
//! No message repeats any part of a URL but a well-formed option's name: a password with an
//! unencoded `@` or `/` in it ends up in every other part.

use std::net::IpAddr;
use std::path::{Path, PathBuf, absolute};

use ::url::{Host, Url};
use percent_encoding::percent_decode_str;

use super::my_cnf::MyCnf;
use super::{MysqlServer, Secret, Tls};
use crate::nearest::did_you_mean;

const OPTIONS: [&str; 3] = ["socket", "tls", "tls_ca"];
const ENCODE: &str = "an `@`, `/`, `?` or `#` in a user, password or name must be \
                      percent-encoded: %40, %2F, %3F, %23";
/// What is assumed where neither the URL nor `~/.my.cnf` names a host.
const LOCALHOST: &str = "localhost";
const MYSQL_PORT: u16 = 3306;

/// A URL as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DatabaseUrl {
    /// The file, made absolute.
    Sqlite(PathBuf),
    /// A server, with what the URL leaves out left out.
    Mysql(MysqlUrl),
}

/// `mysql://…` as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MysqlUrl {
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) host: Option<String>,
    port: Option<u16>,
    database: String,
    pub(super) socket: Option<PathBuf>,
    tls: Option<Tls>,
    tls_ca: Option<PathBuf>,
}

/// Reads a URL; relative paths in it resolve against `base`.
pub(super) fn parse(text: &str, base: &Path) -> Result<DatabaseUrl, String> {
    if text.chars().any(char::is_control) {
        return Err("a database URL holds no control characters".to_owned());
    }
    let (scheme, rest) = text.trim().split_once(':').unwrap_or(("", ""));
    match scheme.to_ascii_lowercase().as_str() {
        "sqlite" => sqlite(rest, base).map(DatabaseUrl::Sqlite),
        "mysql" | "mariadb" => mysql(rest, base).map(DatabaseUrl::Mysql),
        _ => Err(
            "a database URL starts with `sqlite:` or `mysql://`: sqlite:events.db, \
                  mysql://user@host/database"
                .to_owned(),
        ),
    }
}

/// A path as somebody wrote it, made absolute; `.` parts go, `..` parts stay as they are.
pub(super) fn path_from(base: &Path, text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("must be a path".to_owned());
    }
    if text == "~" || text.starts_with("~/") {
        return Err("must be a path written out: `~` is for shells".to_owned());
    }
    // `//x` is `/x` here, and would not stand behind `sqlite:` as it is.
    let text = match text.strip_prefix("//") {
        Some(rest) => format!("/{}", rest.trim_start_matches('/')),
        None => text.to_owned(),
    };
    absolute(base.join(text)).map_err(|error| format!("must be a path: {error}"))
}

fn sqlite(rest: &str, base: &Path) -> Result<PathBuf, String> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.starts_with(":memory:") {
        return Err("a database in memory would end with each run; name a file".to_owned());
    }
    if path.contains('?') {
        return Err("a sqlite URL takes no options: sqlite:PATH".to_owned());
    }
    path_from(base, path).map_err(|error| format!("what follows `sqlite:` {error}"))
}

fn mysql(rest: &str, base: &Path) -> Result<MysqlUrl, String> {
    let Some(rest) = rest.strip_prefix("//") else {
        return Err("a MySQL URL is written mysql://user@host/database".to_owned());
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if tail.contains(['@', '#']) {
        return Err(ENCODE.to_owned());
    }
    // The URL standard allows no user without a host; MySQL's own default host stands in.
    let host_given = !(authority.is_empty() || authority.ends_with('@'));
    let host = if host_given { "" } else { LOCALHOST };
    let url = Url::parse(&format!("mysql://{authority}{host}{tail}"))
        .map_err(|error| format!("the database URL is malformed ({error}); {ENCODE}"))?;

    let mut parsed = MysqlUrl {
        user: Some(decoded(url.username())?).filter(|user| !user.is_empty()),
        password: url.password().map(decoded).transpose()?.map(Secret::new),
        port: url.port(),
        database: database(url.path())?,
        ..MysqlUrl::default()
    };
    if host_given {
        parsed.host = Some(host_name(&url)?);
    }
    if parsed.port == Some(0) {
        return Err("a port is 1 to 65535".to_owned());
    }
    for pair in url
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        parsed.option(pair, base)?;
    }
    Ok(parsed)
}

fn decoded(text: &str) -> Result<String, String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) if !text.contains('\0') => Ok(text.into_owned()),
        _ => Err("the database URL is no UTF-8 once decoded".to_owned()),
    }
}

fn database(path: &str) -> Result<String, String> {
    let name = path.strip_prefix('/').unwrap_or(path);
    if name.contains('/') {
        return Err(ENCODE.to_owned());
    }
    if name.is_empty() {
        return Err("the URL names no database: mysql://user@host/database".to_owned());
    }
    decoded(name)
}

fn host_name(url: &Url) -> Result<String, String> {
    match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() && !name.contains('%') => {
            Ok(name.to_ascii_lowercase())
        }
        Some(Host::Ipv4(address)) => Ok(address.to_string()),
        Some(Host::Ipv6(address)) => Ok(address.to_string()),
        _ => Err("the database URL names no host".to_owned()),
    }
}

impl MysqlUrl {
    fn option(&mut self, pair: &str, base: &Path) -> Result<(), String> {
        let Some((name, value)) = pair.split_once('=') else {
            return Err("an option of the database URL has no value: `?name=value`".to_owned());
        };
        let value = decoded(value)?;
        let path =
            |value: &str| path_from(base, value).map_err(|error| format!("`{name}` {error}"));
        let again = match name {
            "socket" => self.socket.replace(path(&value)?).is_some(),
            "tls_ca" => self.tls_ca.replace(path(&value)?).is_some(),
            "tls" => self.tls.replace(tls(&value)?).is_some(),
            _ => return Err(unknown_option(name)),
        };
        if again {
            Err(format!("`{name}` stands twice in the database URL"))
        } else {
            Ok(())
        }
    }

    /// Whether `~/.my.cnf` could add anything.
    pub(super) fn leaves_something_out(&self) -> bool {
        self.user.is_none()
            || self.password.is_none()
            || (self.host.is_none() && self.socket.is_none())
    }

    /// Fills in what the URL leaves out: from `~/.my.cnf`, then from `login` (the user's own
    /// name), then as MySQL's client does. `sockets` are the places where a server's socket is
    /// looked for.
    pub(super) fn complete(
        self,
        my_cnf: &MyCnf,
        login: Option<String>,
        sockets: &[PathBuf],
    ) -> Result<MysqlServer, String> {
        let address = self.address(my_cnf, sockets);
        let tls = self.tls_for(&address)?;
        let user = self.user.or_else(|| my_cnf.user.clone()).or(login).ok_or(
            "no user: name one in the database URL (mysql://user@host/database) or in ~/.my.cnf",
        )?;
        Ok(MysqlServer {
            user,
            password: self.password.or_else(|| my_cnf.password.clone()),
            host: address.host,
            port: address.port,
            database: self.database,
            socket: address.socket,
            tls,
            tls_ca: self.tls_ca,
        })
    }

    /// Where the server is. For `localhost` without a port MySQL's client takes the socket, and
    /// so does this where one is found, unless TLS is wanted, which a socket does not carry.
    fn address(&self, my_cnf: &MyCnf, sockets: &[PathBuf]) -> Address {
        let from_file = self.host.is_none() && self.socket.is_none();
        let file_host = my_cnf.host.clone().filter(|_| from_file);
        let file_port = my_cnf.port.filter(|_| from_file);
        let host = self
            .host
            .clone()
            .or(file_host)
            .unwrap_or_else(|| LOCALHOST.to_owned());
        let port = self.port.or(file_port).unwrap_or(MYSQL_PORT);
        if self.socket.is_some() {
            return Address {
                host,
                port,
                socket: self.socket.clone(),
            };
        }
        let wants_tls = self.tls == Some(Tls::Required) || self.tls_ca.is_some();
        if host != LOCALHOST || self.port.is_some() || wants_tls {
            return Address {
                host,
                port,
                socket: None,
            };
        }
        let file_socket = my_cnf
            .socket
            .as_ref()
            .filter(|_| from_file)
            .map(PathBuf::from);
        let socket = file_socket.or_else(|| sockets.iter().find(|path| path.exists()).cloned());
        let host = if socket.is_some() {
            host
        } else {
            "127.0.0.1".to_owned()
        };
        Address { host, port, socket }
    }

    fn tls_for(&self, address: &Address) -> Result<Tls, String> {
        let wants_tls = self.tls == Some(Tls::Required) || self.tls_ca.is_some();
        if self.tls == Some(Tls::Off) && self.tls_ca.is_some() {
            return Err("`tls_ca` in the database URL has no use with `tls=off`".to_owned());
        }
        if address.socket.is_some() && wants_tls {
            return Err(
                "a Unix socket carries no TLS: leave out `socket`, or `tls` and `tls_ca`"
                    .to_owned(),
            );
        }
        Ok(match self.tls {
            Some(tls) => tls,
            None if wants_tls => Tls::Required,
            None if address.is_this_host() => Tls::Off,
            None => Tls::Required,
        })
    }
}

/// Where a server listens.
struct Address {
    host: String,
    port: u16,
    socket: Option<PathBuf>,
}

impl Address {
    fn is_this_host(&self) -> bool {
        self.socket.is_some()
            || self.host == LOCALHOST
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

fn tls(value: &str) -> Result<Tls, String> {
    match value {
        "required" => Ok(Tls::Required),
        "off" => Ok(Tls::Off),
        _ => Err("`tls` in the database URL is `required` or `off`".to_owned()),
    }
}

fn unknown_option(name: &str) -> String {
    if name == "password" || name == "user" {
        return format!("`{name}` is no option of the URL: mysql://user:password@host/database");
    }
    let plain = name.len() <= 20
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if !plain {
        return "unknown option in the database URL; it takes socket, tls and tls_ca".to_owned();
    }
    let near = did_you_mean(name, OPTIONS);
    format!("unknown option `{name}` in the database URL{near}; it takes socket, tls and tls_ca")
}

#[cfg(test)]
mod tests;
