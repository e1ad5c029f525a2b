//! From an event's payload to a job: either what MediaWiki's `JobSpecification` is made of, or a row
//! of the job table as an extension stored it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{NO_PAGE, SHA1_DIGITS, job_sha1, only};
use crate::php::{Array, Value, check_serialized_array};

/// `job_cmd` and `job_title` hold so many bytes.
const MAX_CMD: usize = 60;
const MAX_TITLE: usize = 255;

/// The row of a job, but for its timestamp and random number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its type.
    pub cmd: String,
    /// The namespace of the page it is about.
    pub namespace: i64,
    /// The title of that page, as a database key.
    pub title: String,
    /// Its parameters, as PHP serialises them.
    pub params: Vec<u8>,
    /// By which duplicates are known; empty: there may be any number of them.
    pub sha1: String,
}

impl Job {
    /// Reads `{"type", "params"}` with `deduplicate`, `namespace` and `title` if wanted, or
    /// `{"job": {"cmd", "namespace", "title", "params" or "params_base64", "sha1"}}`.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn read(payload: &[u8]) -> Result<Self, String> {
        let json = Value::from_json(payload);
        let json = json.map_err(|error| format!("the payload is no JSON: {error}"))?;
        let Value::Array(mut payload) = json else {
            return Err("the payload is no job: {\"type\": …, \"params\": {…}}".to_owned());
        };
        match payload.remove("job") {
            Some(Value::Array(row)) => {
                only(&payload, &["job"], "the payload")?;
                row_as_stored(row)
            }
            Some(_) => Err("`job` in the payload must be an object".to_owned()),
            None => specified(payload),
        }
    }

    fn checked(self) -> Result<Self, String> {
        if !(1..=MAX_CMD).contains(&self.cmd.len()) {
            return Err(format!("a job's type has 1 to {MAX_CMD} bytes"));
        }
        if self.title.len() > MAX_TITLE {
            return Err(format!("a job's title has up to {MAX_TITLE} bytes"));
        }
        if i32::try_from(self.namespace).is_err() {
            return Err(format!("there is no namespace {}", self.namespace));
        }
        Ok(self)
    }
}

fn specified(mut payload: Array) -> Result<Job, String> {
    const KNOWN: [&str; 5] = ["type", "params", "deduplicate", "namespace", "title"];
    only(&payload, &KNOWN, "the payload")?;
    let cmd = match payload.remove("type") {
        Some(Value::Text(cmd)) => cmd,
        Some(_) => return Err("`type` in the payload must be a text".to_owned()),
        None => return Err("the payload names no `type` of job".to_owned()),
    };
    let mut params = match payload.remove("params") {
        Some(Value::Array(params)) => params,
        None => Array::default(),
        Some(_) => return Err("`params` in the payload must be an object".to_owned()),
    };
    let deduplicates = match payload.remove("deduplicate") {
        Some(Value::Bool(yes)) => yes,
        None => false,
        Some(_) => return Err("`deduplicate` must be true or false".to_owned()),
    };
    // As a JobSpecification does with the page it is given.
    let namespace = payload.remove("namespace");
    match (namespace, payload.remove("title")) {
        (None, None) => {}
        (Some(_), None) => return Err("a `namespace` goes with a `title`".to_owned()),
        (namespace, Some(title)) => {
            params.add("namespace", namespace.unwrap_or(Value::Int(0)));
            params.add("title", title);
        }
    }
    let namespace = match params.get("namespace") {
        None | Some(Value::Null) => NO_PAGE,
        Some(namespace) => whole(namespace).ok_or("a job's `namespace` must be a whole number")?,
    };
    let title = match params.get("title") {
        None | Some(Value::Null) => String::new(),
        Some(Value::Text(title)) => title.clone(),
        Some(Value::Int(number)) => number.to_string(),
        Some(_) => return Err("a job's `title` must be a text".to_owned()),
    };
    let mut serialized = Vec::new();
    params.serialize(&mut serialized);
    Job {
        namespace,
        title,
        params: serialized,
        sha1: if deduplicates {
            job_sha1(&cmd, &params)
        } else {
            String::new()
        },
        cmd,
    }
    .checked()
}

fn row_as_stored(mut row: Array) -> Result<Job, String> {
    const KNOWN: [&str; 6] = [
        "cmd",
        "namespace",
        "title",
        "params",
        "params_base64",
        "sha1",
    ];
    only(&row, &KNOWN, "`job`")?;
    let mut text = |key: &str| match row.remove(key) {
        Some(Value::Text(text)) => Ok(Some(text)),
        None => Ok(None),
        Some(_) => Err(format!("`{key}` in `job` must be a text")),
    };
    let cmd = text("cmd")?.ok_or("`job` has no `cmd`")?;
    let title = text("title")?.unwrap_or_default();
    let sha1 = text("sha1")?.unwrap_or_default();
    let params = match (text("params")?, text("params_base64")?) {
        (Some(params), None) => params.into_bytes(),
        (None, Some(coded)) => STANDARD
            .decode(coded)
            .map_err(|error| format!("`params_base64` in `job` is no base64: {error}"))?,
        _ => return Err("`job` has either `params` or `params_base64`".to_owned()),
    };
    check_serialized_array(&params)
        .map_err(|error| format!("`params` in `job` cannot be unserialised safely: {error}"))?;
    let is_digit = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    if !sha1.is_empty() && (sha1.len() != SHA1_DIGITS || !sha1.bytes().all(is_digit)) {
        return Err(format!(
            "`sha1` in `job` is neither empty nor {SHA1_DIGITS} digits of base 36"
        ));
    }
    let namespace = match row.remove("namespace") {
        None => NO_PAGE,
        Some(namespace) => {
            whole(&namespace).ok_or("`namespace` in `job` must be a whole number")?
        }
    };
    Job {
        cmd,
        namespace,
        title,
        params,
        sha1,
    }
    .checked()
}

/// A whole number, also where it is written as a text: PHP has them so from databases.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Text(digits) => digits.parse().ok(),
        _ => None,
    }
}
