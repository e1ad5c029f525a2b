//! One attempt: the request an event becomes, and the verdict its answer means. Blocking; runs on
//! a worker's thread. Never retries, never shows a header's value or the URL's path and query.

use std::fmt::Write as _;
use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER};
use ureq::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Body, SendBody};
use url::Url;

use super::{client, retry_after};
use crate::clock::{Clock, monotonic};
use crate::config::{HttpConfig, TypeConfig};
use crate::event::Event;
use crate::handler::Verdict;

/// `User-Agent`, unless `headers` says otherwise.
pub(super) const USER_AGENT: &str = concat!("punctual/", env!("CARGO_PKG_VERSION"));

/// How often 307 and 308 are followed within one attempt.
const MAX_REDIRECTS: u32 = 3;
/// How much of an answer is read at most; a connection with more to come is not used again.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// How much of an answer an error shows.
const SHOWN_BYTES: usize = 200;
/// A shorter word is no secret worth hiding, and hiding it would garble every message.
const SECRET_BYTES: usize = 4;
/// As above, for the words within a value such as `Bearer TOKEN`.
const SECRET_WORD_BYTES: usize = 8;

/// Where a type's events go, and with what: everything that is the same for each of them.
pub(super) struct Target {
    agent: Agent,
    method: Method,
    /// Without user name and password: those have become a header.
    url: Url,
    /// The fixed headers: the configured ones, and ours where they say nothing.
    headers: HeaderMap,
    expect: Vec<u16>,
    timeout: Duration,
    install_id: String,
    /// What no message may repeat, the longest first.
    secrets: Vec<String>,
}

/// What an answer asks for.
enum Next {
    End(Verdict),
    Follow(Url),
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
        headers
            .entry("user-agent")
            .or_insert_with(|| HeaderValue::from_static(USER_AGENT));
        let name = HeaderValue::from_bytes(type_config.name.as_bytes())
            .context("the type's name cannot stand in a header; rename the type")?;
        headers.insert("punctual-event-type", name);
        HeaderValue::from_str(install_id).context("the install id cannot stand in a header")?;

        let ca_file = http.ca_file.as_deref();
        let timeout = type_config.timeout;
        let proxy = client::proxy_for(&url);
        let agent = client::agent(&url, ca_file, timeout, type_config.concurrency, proxy)?;
        let expect = http.expect.clone();
        let install_id = install_id.to_owned();
        Ok(Self {
            agent,
            method,
            url,
            headers,
            expect,
            timeout,
            install_id,
            secrets,
        })
    }

    /// Sends the event and waits for the answer, for the type's timeout at most.
    pub(super) fn fire(&self, event: &Event, clock: Clock) -> Verdict {
        let deadline = monotonic() + self.timeout;
        let mut url = self.url.clone();
        for hop in 0..=MAX_REDIRECTS {
            let left = (hop > 0).then(|| deadline.saturating_duration_since(monotonic()));
            client::nothing_sent();
            let answer = match self.send(&url, event, left) {
                Ok(answer) => answer,
                Err(error) => return self.unanswered(&url, &error),
            };
            match self.judge(&url, answer, clock) {
                Next::End(verdict) => return verdict,
                Next::Follow(next) => url = next,
            }
        }
        Verdict::failed(format!(
            "redirected more than {MAX_REDIRECTS} times; set `url` to the last address"
        ))
    }

    /// Closes every connection, those in use too, and lets no new one be made.
    pub(super) fn cut(&self) {
        self.agent.clone().shutdown();
    }

    /// `left` is the rest of the deadline after a redirect; the agent knows that of the first
    /// request.
    fn send(
        &self,
        url: &Url,
        event: &Event,
        left: Option<Duration>,
    ) -> Result<Response<Body>, ureq::Error> {
        let payload = self.body(event);
        let mut request = Request::builder().method(&self.method).uri(url.as_str());
        if let Some(headers) = request.headers_mut() {
            headers.clone_from(&self.headers);
            self.describe(event, headers)?;
            if payload.is_none_or(<[u8]>::is_empty) {
                headers.remove(CONTENT_TYPE);
            } else if !headers.contains_key(CONTENT_TYPE) {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
        }
        let Some(payload) = payload else {
            return self.run(request.body(SendBody::none())?, left);
        };
        self.run(request.body(payload)?, left)
    }

    fn run(
        &self,
        request: Request<impl ureq::AsSendBody>,
        left: Option<Duration>,
    ) -> Result<Response<Body>, ureq::Error> {
        let Some(left) = left else {
            return self.agent.run(request);
        };
        let bounded = self
            .agent
            .configure_request(request)
            .timeout_global(Some(left))
            .build();
        self.agent.run(bounded)
    }

    /// GET and HEAD carry none, whatever the payload; many servers refuse them otherwise.
    fn body<'e>(&self, event: &'e Event) -> Option<&'e [u8]> {
        let always = [Method::POST, Method::PUT, Method::PATCH].contains(&self.method);
        let never = [Method::GET, Method::HEAD].contains(&self.method);
        (always || !never && !event.payload.is_empty()).then_some(&event.payload)
    }

    /// The event's own headers. The key names the occurrence, not the attempt (RULINGS 25), so
    /// that a server can tell a repetition from a new event.
    fn describe(&self, event: &Event, headers: &mut HeaderMap) -> Result<(), ureq::Error> {
        let due = event.first_due();
        let key = format!("{}-{}-{due}", self.install_id, event.id);
        let key = HeaderValue::from_str(&key).map_err(ureq::http::Error::from)?;
        headers.insert("idempotency-key", key);
        headers.insert("punctual-event-id", HeaderValue::from(event.id.0));
        headers.insert(
            "punctual-attempt",
            HeaderValue::from(event.attempt_number()),
        );
        headers.insert("punctual-due-at", HeaderValue::from(due.0));
        Ok(())
    }

    /// No answer, or none that could be read.
    fn unanswered(&self, url: &Url, error: &ureq::Error) -> Verdict {
        let origin = url.origin().ascii_serialization();
        let within = humantime::format_duration(self.timeout);
        let timed_out = matches!(error, ureq::Error::Timeout(_));
        if client::sent() {
            let error = if timed_out {
                format!("no answer from {origin} within {within}; see the type's `timeout`")
            } else {
                format!("the answer of {origin} was lost: {}", self.detail(error))
            };
            return Verdict::Lost { error };
        }
        let error = if timed_out {
            format!("no connection to {origin} within {within}")
        } else {
            format!("cannot reach {origin}: {}", self.detail(error))
        };
        Verdict::NotStarted { error }
    }

    fn detail(&self, error: &ureq::Error) -> String {
        let text = match error {
            ureq::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        };
        self.presentable(&text)
    }

    fn judge(&self, url: &Url, answer: Response<Body>, clock: Clock) -> Next {
        let (head, body) = answer.into_parts();
        let status = head.status;
        let (text, broken) = read(body);
        if self.is_expected(status) {
            let verdict = broken.map_or(Verdict::Done, |error| self.unfinished(status, &error));
            return Next::End(verdict);
        }
        if status.is_redirection() && head.headers.contains_key(LOCATION) {
            return follow(url, status, &head.headers);
        }
        let error = self.shown(status, &text);
        let wish = head
            .headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        let retry_after = wish.and_then(|value| retry_after::parse(value, clock.now()));
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

/// The answer's beginning, and what kept its end away where something did.
fn read(body: Body) -> (Vec<u8>, Option<ureq::Error>) {
    let mut text = Vec::new();
    let broken = body
        .into_reader()
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut text)
        .err();
    (text, broken.map(ureq::Error::from))
}

/// 307 and 308 ask for the same request elsewhere; within the same origin that is done. The other
/// redirects would turn a POST into a GET without a body, which is not what the event asked for.
fn follow(from: &Url, status: StatusCode, headers: &HeaderMap) -> Next {
    let code = status.as_u16();
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
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
    Next::Follow(to)
}

fn keep_head(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
