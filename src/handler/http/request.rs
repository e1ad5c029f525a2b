//! One attempt: the request an event becomes, and the verdict its answer means. Blocking; runs on
//! a worker's thread. Never retries, never shows a header's value or the URL's path and query.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::Timeout;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderName};
use ureq::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use url::Url;

use super::client::{self, Client};
use super::exchange::{Answer, exchange};
use super::retry_after;
use crate::clock::{Clock, monotonic};
use crate::config::{HttpConfig, TypeConfig};
use crate::event::Event;
use crate::handler::Verdict;

/// `User-Agent`, unless `headers` says otherwise.
pub(super) const USER_AGENT: &str = concat!("punctual/", env!("CARGO_PKG_VERSION"));

/// How often 307 and 308 are followed within one attempt.
const MAX_REDIRECTS: u32 = 3;
/// What the headers of an event take, more or less.
const HEAD_BYTES: usize = 300;
/// How much of an answer an error shows.
const SHOWN_BYTES: usize = 200;
/// A shorter word is no secret worth hiding, and hiding it would garble every message.
const SECRET_BYTES: usize = 4;
/// As above, for the words within a value such as `Bearer TOKEN`.
const SECRET_WORD_BYTES: usize = 8;

/// Where a type's events go, and with what: everything that is the same for each of them.
pub(super) struct Target {
    client: Client,
    method: Method,
    /// Without user name and password: those have become a header.
    url: Url,
    uri: Uri,
    /// The headers that are the same for each event, as they are sent: the configured ones, and
    /// ours where they say nothing.
    headers: Vec<u8>,
    /// What a body is said to be, as it is sent.
    content_type: Vec<u8>,
    /// A connection is good for one request: the headers ask for it to be closed.
    closes: bool,
    expect: Vec<u16>,
    timeout: Duration,
    install_id: String,
    /// What no message may repeat, the longest first.
    secrets: Vec<String>,
}

/// What an answer asks for.
enum Next {
    End(Verdict),
    Follow(Url, Uri),
}

impl Target {
    /// Validates what the configuration says and builds the client; no connection is made.
    pub(super) fn new(
        type_config: &TypeConfig,
        http: &HttpConfig,
        install_id: &str,
    ) -> anyhow::Result<Self> {
        let method = method(&http.method)?;
        let mut url = url(&http.url)?;
        let mut headers = configured(http)?;
        let secrets = secrets(http, &url);
        if let Some(login) = take_login(&mut url)? {
            headers.entry(AUTHORIZATION).or_insert(login);
        }
        let uri: Uri = url.as_str().parse().context("url: cannot be read")?;
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let host = HeaderValue::from_str(host).context("url: its host cannot be read")?;
        let host = headers.remove(HOST).unwrap_or(host);
        let ours = [("user-agent", USER_AGENT), (ACCEPT.as_str(), "*/*")];
        for (name, value) in ours {
            let value = HeaderValue::from_static(value);
            headers.entry(name).or_insert(value);
        }
        let name = HeaderValue::from_bytes(type_config.name.as_bytes())
            .context("the type's name cannot stand in a header; rename the type")?;
        headers.insert("punctual-event-type", name);
        HeaderValue::from_str(install_id).context("the install id cannot stand in a header")?;
        let json = || HeaderValue::from_static("application/json");
        let content_type = headers.remove(CONTENT_TYPE).unwrap_or_else(json);
        let closes = headers.get(CONNECTION).is_some_and(|value| {
            let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
            value.split(',').any(|word| word.trim() == "close")
        });

        let ca_file = http.ca_file.as_deref();
        let proxy = client::proxy_for(&url);
        Ok(Self {
            client: Client::new(&url, ca_file, type_config.concurrency, proxy)?,
            method,
            url,
            uri,
            headers: headers
                .iter()
                .fold(with_header(Vec::new(), (&HOST, &host)), with_header),
            content_type: with_header(Vec::new(), (&CONTENT_TYPE, &content_type)),
            closes,
            expect: http.expect.clone(),
            timeout: type_config.timeout,
            install_id: install_id.to_owned(),
            secrets,
        })
    }

    /// Sends the event and waits for the answer, for the type's timeout at most.
    pub(super) fn fire(&self, event: &Event, clock: Clock) -> Verdict {
        let deadline = monotonic() + self.timeout;
        let mut moved: Option<(Url, Uri)> = None;
        for _ in 0..=MAX_REDIRECTS {
            let (url, uri) = match &moved {
                Some((url, uri)) => (url, uri),
                None => (&self.url, &self.uri),
            };
            let mut connection = match self.client.connection(uri, deadline) {
                Ok(connection) => connection,
                Err(error) => return self.unreached(url, &error),
            };
            if monotonic() >= deadline {
                return self.unreached(url, &ureq::Error::Timeout(Timeout::Global));
            }
            let head = self.head(uri, event);
            let payload = self.body(event).unwrap_or_default();
            let has_answer_body = self.method != Method::HEAD;
            let answer = exchange(&mut *connection, &head, payload, has_answer_body, deadline);
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return self.unanswered(url, &error),
            };
            if answer.is_reusable && !self.closes {
                self.client.keep(connection);
            }
            match self.judge(url, answer, clock) {
                Next::End(verdict) => return verdict,
                Next::Follow(url, uri) => moved = Some((url, uri)),
            }
        }
        Verdict::failed(format!(
            "redirected more than {MAX_REDIRECTS} times; set `url` to the last address"
        ))
    }

    /// Closes every connection, those in use too, and lets no new one be made.
    pub(super) fn cut(&self) {
        self.client.cut();
    }

    /// All that comes before the body. The key names the occurrence, not the attempt (RULINGS 25),
    /// so that a server can tell a repetition from a new event.
    fn head(&self, uri: &Uri, event: &Event) -> Vec<u8> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let (install_id, id, due) = (&self.install_id, event.id, event.first_due());
        let attempt = event.attempt_number();
        let mut head = Vec::with_capacity(path.len() + self.headers.len() + HEAD_BYTES);
        head.extend(format!("{} {path} HTTP/1.1\r\n", self.method).into_bytes());
        head.extend(&self.headers);
        let own = format!(
            "idempotency-key: {install_id}-{id}-{due}\r\npunctual-event-id: {id}\r\n\
             punctual-attempt: {attempt}\r\npunctual-due-at: {due}\r\n"
        );
        head.extend(own.into_bytes());
        if let Some(slot) = event.slot {
            let own = format!(
                "punctual-slot-at: {}\r\npunctual-slots: {}\r\n",
                slot.at, slot.slots
            );
            head.extend(own.into_bytes());
        }
        if let Some(body) = self.body(event) {
            if !body.is_empty() {
                head.extend(&self.content_type);
            }
            head.extend(format!("content-length: {}\r\n", body.len()).into_bytes());
        }
        head.extend(b"\r\n");
        head
    }

    /// GET and HEAD carry none, whatever the payload; many servers refuse them otherwise.
    fn body<'e>(&self, event: &'e Event) -> Option<&'e [u8]> {
        let always = [Method::POST, Method::PUT, Method::PATCH].contains(&self.method);
        let never = [Method::GET, Method::HEAD].contains(&self.method);
        (always || !never && !event.payload.is_empty()).then_some(&event.payload)
    }

    /// No connection: the server has seen nothing of the event.
    fn unreached(&self, url: &Url, error: &ureq::Error) -> Verdict {
        let origin = url.origin().ascii_serialization();
        let error = if matches!(error, ureq::Error::Timeout(_)) {
            let within = humantime::format_duration(self.timeout);
            format!("no connection to {origin} within {within}")
        } else {
            format!("cannot reach {origin}: {}", self.detail(error))
        };
        Verdict::NotStarted { error }
    }

    /// No answer, or none that could be read.
    fn unanswered(&self, url: &Url, error: &ureq::Error) -> Verdict {
        let origin = url.origin().ascii_serialization();
        let error = if matches!(error, ureq::Error::Timeout(_)) {
            let within = humantime::format_duration(self.timeout);
            format!("no answer from {origin} within {within}; see the type's `timeout`")
        } else {
            format!("the answer of {origin} was lost: {}", self.detail(error))
        };
        Verdict::Lost { error }
    }

    fn detail(&self, error: &ureq::Error) -> String {
        let text = match error {
            ureq::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        };
        self.presentable(&text)
    }

    fn judge(&self, url: &Url, answer: Answer, clock: Clock) -> Next {
        let status = answer.status;
        if self.is_expected(status) {
            let verdict = answer
                .broken
                .map_or(Verdict::Done, |error| self.unfinished(status, &error));
            return Next::End(verdict);
        }
        if status.is_redirection()
            && let Some(location) = &answer.location
        {
            return follow(url, status, location);
        }
        let error = self.shown(status, &answer.body);
        let wish = answer.retry_after.as_deref().map(std::str::from_utf8);
        let retry_after = wish
            .and_then(Result::ok)
            .and_then(|value| retry_after::parse(value, clock.now()));
        Next::End(match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Verdict::Later { error, retry_after }
            }
            _ => Verdict::Failed { error, retry_after },
        })
    }

    /// A good status, but the rest did not come: whether the work was finished is not known.
    fn unfinished(&self, status: StatusCode, error: &ureq::Error) -> Verdict {
        let code = status.as_u16();
        let within = humantime::format_duration(self.timeout);
        let error = if matches!(error, ureq::Error::Timeout(_)) {
            format!("HTTP {code}, but the answer did not end within {within}")
        } else {
            format!(
                "HTTP {code}, but the answer broke off: {}",
                self.detail(error)
            )
        };
        Verdict::Lost { error }
    }

    fn is_expected(&self, status: StatusCode) -> bool {
        if self.expect.is_empty() {
            return status.is_success();
        }
        self.expect.contains(&status.as_u16())
    }

    /// `HTTP 500: the beginning of the answer`.
    fn shown(&self, status: StatusCode, answer: &[u8]) -> String {
        let mut line = format!("HTTP {}", status.as_u16());
        if status.is_success() {
            line.push_str(", which `expect` does not name");
        }
        let answer = self.presentable(&String::from_utf8_lossy(answer));
        if !answer.is_empty() {
            let _ = write!(line, ": {}", keep_head(&answer, SHOWN_BYTES));
        }
        line
    }

    /// One line without control characters and secrets.
    fn presentable(&self, text: &str) -> String {
        // Again at the end: what was taken out may have stood within a secret.
        let text = self.without_secrets(text.to_owned());
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let plain = words.chars().filter(|letter| !letter.is_control());
        self.without_secrets(plain.collect())
    }

    fn without_secrets(&self, mut text: String) -> String {
        for secret in &self.secrets {
            text = text.replace(secret, "***");
        }
        text
    }
}

fn with_header(mut lines: Vec<u8>, (name, value): (&HeaderName, &HeaderValue)) -> Vec<u8> {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        lines.extend_from_slice(part);
    }
    lines
}

fn method(name: &str) -> anyhow::Result<Method> {
    let method = Method::from_bytes(name.to_ascii_uppercase().as_bytes())
        .ok()
        .filter(|it| *it != Method::CONNECT);
    method.ok_or_else(|| anyhow!("method `{name}` is none an event can be sent with; use POST"))
}

/// The messages leave the URL out: it may hold a password or a token.
fn url(text: &str) -> anyhow::Result<Url> {
    let mut url = Url::parse(text).context("url: cannot be read")?;
    ensure!(
        ["http", "https"].contains(&url.scheme()) && url.has_host(),
        "url: must begin with http:// or https:// and name a host"
    );
    url.set_fragment(None);
    ensure!(
        url.as_str().parse::<Uri>().is_ok(),
        "url: holds characters that need %-encoding"
    );
    Ok(url)
}

fn configured(http: &HttpConfig) -> anyhow::Result<HeaderMap> {
    const OURS: [&str; 4] = [
        "idempotency-key",
        "content-length",
        "transfer-encoding",
        "expect",
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in &http.headers {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .with_context(|| format!("headers: `{name}` is no header's name"))?;
        if OURS.contains(&parsed.as_str()) || parsed.as_str().starts_with("punctual-") {
            bail!("headers: `{name}` is set by punctual itself; remove it");
        }
        let mut value = HeaderValue::from_bytes(value.reveal().as_bytes()).with_context(|| {
            format!("headers: the value of `{name}` holds line breaks or others")
        })?;
        value.set_sensitive(true);
        headers.insert(parsed, value);
    }
    Ok(headers)
}

/// What an answer might echo and no message may repeat.
fn secrets(http: &HttpConfig, url: &Url) -> Vec<String> {
    let mut found = Vec::new();
    for value in http.headers.values() {
        let whole = value.reveal().trim();
        found.push(whole.to_owned());
        let words = whole
            .split_whitespace()
            .filter(|word| word.len() >= SECRET_WORD_BYTES);
        found.extend(words.map(str::to_owned));
    }
    for (_, value) in url
        .query_pairs()
        .filter(|(_, value)| value.len() >= SECRET_WORD_BYTES)
    {
        found.push(value.into_owned());
    }
    if let Some(login) = login(url) {
        found.push(STANDARD.encode(&login));
        found.extend(
            login
                .split_once(':')
                .map(|(_, password)| password.to_owned()),
        );
    }
    found.retain(|secret| secret.len() >= SECRET_BYTES);
    found.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    found.dedup();
    found
}

/// Turns `user:password@` into the header it means.
fn take_login(url: &mut Url) -> anyhow::Result<Option<HeaderValue>> {
    let Some(login) = login(url) else {
        return Ok(None);
    };
    let cleared = url.set_username("").is_ok() && url.set_password(None).is_ok();
    ensure!(
        cleared,
        "url: its user name cannot be used; give an Authorization header"
    );
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(login)))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn login(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let plain = |part: &str| {
        let pair = format!("x={}", part.replace('+', "%2B"));
        let decoded = url::form_urlencoded::parse(pair.as_bytes()).next();
        decoded.map_or_else(String::new, |(_, value)| value.into_owned())
    };
    Some(format!(
        "{}:{}",
        plain(url.username()),
        plain(url.password().unwrap_or_default())
    ))
}

/// 307 and 308 ask for the same request elsewhere; within the same origin that is done. The other
/// redirects would turn a POST into a GET without a body, which is not what the event asked for.
fn follow(from: &Url, status: StatusCode, location: &[u8]) -> Next {
    let code = status.as_u16();
    let location = std::str::from_utf8(location).ok();
    let Some(mut to) = location.and_then(|location| from.join(location).ok()) else {
        return Next::End(Verdict::failed(format!(
            "HTTP {code}: redirected to no readable address"
        )));
    };
    let origin = to.origin().ascii_serialization();
    let repeats = [
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !repeats.contains(&status) {
        return Next::End(Verdict::failed(format!(
            "HTTP {code}: redirected to {origin}, not followed; set `url` to the final address"
        )));
    }
    if to.origin() != from.origin() {
        return Next::End(Verdict::failed(format!(
            "HTTP {code}: redirected to another host, {origin}, not followed; set `url` to it \
             if that is right"
        )));
    }
    to.set_fragment(None);
    let _ = to.set_username("").and_then(|()| to.set_password(None));
    match to.as_str().parse() {
        Ok(uri) => Next::Follow(to, uri),
        Err(_) => Next::End(Verdict::failed(format!(
            "HTTP {code}: redirected to no readable address"
        ))),
    }
}

fn keep_head(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
