//! One table of the file: typed values by key, every mistake with file, line, key and table.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::ConfigError;
use super::url::path_from;
use crate::nearest::did_you_mean;
use crate::when::parse_duration;

/// The file as it stands, to turn places into lines.
pub(super) struct Document<'a> {
    /// Its name in messages.
    pub(super) shown: &'a str,
    /// What it says.
    pub(super) text: &'a str,
    /// What relative paths in it resolve against.
    pub(super) base: &'a Path,
}

impl<'a> Document<'a> {
    /// Reads the whole text as TOML.
    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'a>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            // Only a key is shown: the rest of the line may hold a password.
            let named = match self.text.get(span.clone()).map(str::trim) {
                Some(key) if error.message() == "duplicate key" && is_bare(key) => {
                    format!(" `{key}`: it stands twice")
                }
                _ => String::new(),
            };
            self.mistake(
                span.start,
                &format!("{}{named}", first_line(error.message())),
            )
        })
    }

    /// A mistake at a byte of the text.
    pub(super) fn mistake(&self, at: usize, message: &str) -> ConfigError {
        let line = self.line_at(at);
        ConfigError::Invalid(format!("{}:{line}: {message}", self.shown))
    }

    /// The line, counting from 1, of a byte of the text.
    fn line_at(&self, at: usize) -> usize {
        last_line(&self.text.as_bytes()[..at.min(self.text.len())])
    }
}

/// A table, by the name its keys have in messages.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    /// `run`, `type.reminder`; empty at the top.
    name: String,
    /// Where its header stands.
    at: usize,
    table: &'a DeTable<'a>,
}

/// One key with its value.
pub(super) struct Entry<'a> {
    section: &'a Section<'a>,
    /// The key.
    pub(super) key: &'a str,
    /// Where the key stands.
    pub(super) at: usize,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Section<'a> {
    /// The keys above the first header.
    pub(super) fn top(document: &'a Document<'a>, table: &'a DeTable<'a>) -> Self {
        Self {
            document,
            name: String::new(),
            at: 0,
            table,
        }
    }

    /// Every key, as the file orders them.
    pub(super) fn entries(&'a self) -> impl Iterator<Item = Entry<'a>> {
        self.table.iter().map(|(key, value)| Entry {
            section: self,
            key: key.get_ref(),
            at: key.span().start,
            value,
        })
    }

    /// The entry of one key.
    pub(super) fn get(&'a self, key: &str) -> Option<Entry<'a>> {
        self.entries().find(|entry| entry.key == key)
    }

    /// Refuses keys other than `known`; `elsewhere` may say where an unknown one belongs.
    pub(super) fn only(
        &self,
        known: &[&str],
        elsewhere: impl Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let Some(entry) = self.entries().find(|entry| !known.contains(&entry.key)) else {
            return Ok(());
        };
        let near = did_you_mean(entry.key, known.iter().copied());
        let hint = match elsewhere(entry.key) {
            Some(place) => format!("; {place}"),
            None if near.is_empty() => format!("; known are {}", known.join(", ")),
            None => near,
        };
        let message = format!("unknown key {}{hint}", self.place(entry.key));
        Err(self.document.mistake(entry.at, &message))
    }

    /// A mistake of the table as a whole.
    pub(super) fn mistake(&self, message: &str) -> ConfigError {
        self.document
            .mistake(self.at, &format!("[{}] {message}", self.name))
    }

    /// A path, made absolute against the file's directory.
    pub(super) fn path(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(entry) = self.get(key) else {
            return Ok(None);
        };
        let path = path_from(self.document.base, entry.text()?);
        path.map(Some).map_err(|error| entry.mistake(&error))
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        let Some(entry) = self.get(key) else {
            return Ok(None);
        };
        let flag = entry.value.get_ref().as_bool();
        flag.map(Some).ok_or_else(|| entry.not("true or false"))
    }

    /// A whole number in `range`.
    pub(super) fn number<N>(
        &self,
        key: &str,
        range: RangeInclusive<N>,
    ) -> Result<Option<N>, ConfigError>
    where
        N: PartialOrd + Display + TryFrom<i64>,
    {
        self.get(key).map(|entry| entry.number(&range)).transpose()
    }

    /// A duration of at least `least`.
    pub(super) fn duration(
        &self,
        key: &str,
        least: Duration,
    ) -> Result<Option<Duration>, ConfigError> {
        self.get(key).map(|entry| entry.duration(least)).transpose()
    }

    /// A limit: a duration, or the word `none`; `default` where the file says nothing.
    pub(super) fn limit(
        &self,
        key: &str,
        default: Option<Duration>,
    ) -> Result<Option<Duration>, ConfigError> {
        match self.get(key) {
            None => Ok(default),
            Some(entry) if entry.value.get_ref().as_str() == Some("none") => Ok(None),
            Some(entry) => entry.duration(Duration::ZERO).map(Some),
        }
    }

    /// One of a few words; answers its index.
    pub(super) fn word(&self, key: &str, words: &[&str]) -> Result<Option<usize>, ConfigError> {
        let Some(entry) = self.get(key) else {
            return Ok(None);
        };
        let written = entry.text()?;
        let index = words.iter().position(|word| *word == written);
        index.map(Some).ok_or_else(|| {
            let near = did_you_mean(written, words.iter().copied());
            let list: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            entry.mistake(&format!("must be {}{near}", list.join(" or ")))
        })
    }

    fn place(&self, key: &str) -> String {
        let key: String = key.chars().take(80).flat_map(char::escape_debug).collect();
        if self.name.is_empty() {
            format!("`{key}`")
        } else {
            format!("`{key}` in [{}]", self.name)
        }
    }
}

impl<'a> Entry<'a> {
    /// A mistake of this value: ``"`key` in [table] "`` and the message.
    pub(super) fn mistake(&self, message: &str) -> ConfigError {
        self.mistake_at(self.value, message)
    }

    /// The line on which the key stands, counting from 1.
    pub(super) fn line(&self) -> usize {
        self.section.document.line_at(self.at)
    }

    /// Whether it is a text rather than a list.
    pub(super) fn is_text(&self) -> bool {
        self.value.get_ref().is_str()
    }

    pub(super) fn text(&self) -> Result<&'a str, ConfigError> {
        self.value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.not("a text in quotes"))
    }

    pub(super) fn filled(&self) -> Result<&'a str, ConfigError> {
        match self.text()? {
            text if text.trim().is_empty() => Err(self.mistake("must not be empty")),
            text => Ok(text),
        }
    }

    /// A time: a text, or a date as TOML writes it.
    pub(super) fn date(&self) -> Result<String, ConfigError> {
        match self.value.get_ref() {
            DeValue::Datetime(date) => Ok(date.to_string()),
            _ => self.text().map(str::to_owned),
        }
    }

    /// A text as it is, anything else as its JSON.
    pub(super) fn json(&self) -> Result<String, ConfigError> {
        if let Some(text) = self.value.get_ref().as_str() {
            return Ok(text.to_owned());
        }
        self.json_of(self.value).map(|json| json.to_string())
    }

    fn json_of(&self, value: &Spanned<DeValue<'_>>) -> Result<Json, ConfigError> {
        let refused = || self.mistake_at(value, "holds a number that JSON cannot say");
        Ok(match value.get_ref() {
            DeValue::String(text) => Json::from(text.as_ref()),
            DeValue::Boolean(flag) => Json::from(*flag),
            DeValue::Datetime(date) => Json::from(date.to_string()),
            DeValue::Integer(written) => {
                let number = i64::from_str_radix(written.as_str(), written.radix());
                Json::from(number.map_err(|_| refused())?)
            }
            DeValue::Float(written) => {
                let number = written.as_str().parse().ok();
                let number = number.and_then(serde_json::Number::from_f64);
                Json::Number(number.ok_or_else(refused)?)
            }
            DeValue::Array(items) => {
                let items = items.iter().map(|item| self.json_of(item));
                Json::Array(items.collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => {
                let pair = |(key, value): (&Spanned<DeString<'_>>, _)| {
                    Ok((key.get_ref().to_string(), self.json_of(value)?))
                };
                Json::Object(table.iter().map(pair).collect::<Result<_, _>>()?)
            }
        })
    }

    /// A list of texts.
    pub(super) fn texts(&self) -> Result<Vec<String>, ConfigError> {
        let list = self.value.get_ref().as_array();
        let list = list.ok_or_else(|| self.not("a list of texts"))?;
        let text = |item: &Spanned<DeValue<'_>>| {
            let text = item.get_ref().as_str().map(str::to_owned);
            text.ok_or_else(|| {
                let found = article(item.get_ref());
                self.mistake_at(
                    item,
                    &format!("must hold texts in quotes only, not {found}"),
                )
            })
        };
        list.iter().map(text).collect()
    }

    /// A list of whole numbers in `range`.
    pub(super) fn numbers(&self, range: &RangeInclusive<u16>) -> Result<Vec<u16>, ConfigError> {
        let list = self.value.get_ref().as_array();
        let list = list.ok_or_else(|| self.not("a list of whole numbers"))?;
        list.iter()
            .map(|item| self.number_in(item, range))
            .collect()
    }

    /// A table below this one.
    pub(super) fn section(&self) -> Result<Section<'a>, ConfigError> {
        let table = self
            .value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.not("a table"))?;
        let key = self.key.escape_debug();
        let parent = &self.section.name;
        let name = if parent.is_empty() {
            key.to_string()
        } else {
            format!("{parent}.{key}")
        };
        Ok(Section {
            document: self.section.document,
            name,
            at: self.at,
            table,
        })
    }

    fn number<N>(&self, range: &RangeInclusive<N>) -> Result<N, ConfigError>
    where
        N: PartialOrd + Display + TryFrom<i64>,
    {
        self.number_in(self.value, range)
    }

    fn number_in<N>(
        &self,
        value: &Spanned<DeValue<'_>>,
        range: &RangeInclusive<N>,
    ) -> Result<N, ConfigError>
    where
        N: PartialOrd + Display + TryFrom<i64>,
    {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let DeValue::Integer(written) = value.get_ref() else {
            let found = article(value.get_ref());
            return Err(self.mistake_at(value, &format!("must be {wanted}, not {found}")));
        };
        i64::from_str_radix(written.as_str(), written.radix())
            .ok()
            .and_then(|number| N::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let digits = written.as_str().len();
                let found = if digits > 30 {
                    "one so long".to_owned()
                } else {
                    written.to_string()
                };
                self.mistake_at(value, &format!("must be {wanted}, not {found}"))
            })
    }

    fn duration(&self, least: Duration) -> Result<Duration, ConfigError> {
        let Some(text) = self.value.get_ref().as_str() else {
            return Err(self.not("a duration in quotes, such as \"50s\" or \"1h 30m\""));
        };
        let duration =
            parse_duration(text).map_err(|error| self.mistake(&format!("is wrong: {error}")))?;
        if duration < least {
            let least = humantime::format_duration(least);
            return Err(self.mistake(&format!("must be {least} or longer")));
        }
        Ok(duration)
    }

    fn not(&self, wanted: &str) -> ConfigError {
        self.mistake(&format!(
            "must be {wanted}, not {}",
            article(self.value.get_ref())
        ))
    }

    fn mistake_at(&self, value: &Spanned<DeValue<'_>>, message: &str) -> ConfigError {
        let place = self.section.place(self.key);
        self.section
            .document
            .mistake(value.span().start, &format!("{place} {message}"))
    }
}

/// The number of the line that these bytes end in, counting from 1.
pub(super) fn last_line(bytes: &[u8]) -> usize {
    bytes.split(|byte| *byte == b'\n').count()
}

fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 64
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
