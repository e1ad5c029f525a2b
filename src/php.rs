//! PHP's values as JSON gives them to PHP, and the text that PHP's `serialize()` makes of them.
//!
//! [`Value::from_json`] reads what `json_decode($json, true)` reads, [`Value::serialize`] writes what
//! `serialize()` of PHP 7.1 and later writes with `serialize_precision = -1`, its default. There are
//! no objects, either way: what is unserialised may not bring code to life.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::Write as _;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// How deep arrays may be nested in JSON: what `json_decode` takes at its default depth of 512.
pub const MAX_JSON_DEPTH: usize = 511;
/// How deep they may be nested in serialised text: `unserialize_max_depth`'s default.
pub const MAX_SERIALIZED_DEPTH: usize = 4096;

/// A value of PHP that is no object.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A string; what comes from JSON is UTF-8.
    Text(String),
    /// A list or a map.
    Array(Array),
}

/// A key of an array.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// An integer, or a string that PHP takes for one.
    Int(i64),
    /// Any other string.
    Text(String),
}

/// An array: its elements in the order in which they were put there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Array {
    elements: Vec<(Key, Value)>,
}

impl Value {
    /// What `json_decode($json, true)` makes of it: members keep their order, one that is named
    /// twice its first place and its last value; integers beyond 64 bits become floats.
    ///
    /// # Errors
    /// What is wrong with the JSON, and where. Stricter than PHP in one thing: a number that is too
    /// large for a float is refused, and not infinite.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let json = with_whole_zeros(json);
        let mut reader = serde_json::Deserializer::from_slice(&json);
        // Counted below: the limit is PHP's.
        reader.disable_recursion_limit();
        let value = Reading { depth: 0 }.deserialize(&mut reader);
        let value = value.and_then(|value| reader.end().map(|()| value));
        value.map_err(|error| error.to_string())
    }

    /// Appends what `serialize()` makes of it.
    pub fn serialize(&self, to: &mut Vec<u8>) {
        match self {
            Value::Null => to.extend_from_slice(b"N;"),
            Value::Bool(yes) => put(to, format_args!("b:{};", u8::from(*yes))),
            Value::Int(number) => put(to, format_args!("i:{number};")),
            Value::Float(number) => put(to, format_args!("d:{};", Float(*number))),
            Value::Text(text) => serialize_text(text, to),
            Value::Array(array) => array.serialize(to),
        }
    }
}

impl Array {
    /// The element of a key that is no integer.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let mut elements = self.elements.iter();
        let found = elements.find(|(other, _)| other.is(key));
        found.map(|(_, value)| value)
    }

    /// Takes the element of such a key out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.elements.iter().position(|(other, _)| other.is(key))?;
        Some(self.elements.remove(at).1)
    }

    /// Puts an element of such a key at the end, unless there is one; PHP's `+=`.
    pub fn add(&mut self, key: &str, value: Value) {
        if self.get(key).is_none() {
            self.elements.push((Key::Text(key.to_owned()), value));
        }
    }

    /// Its keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.elements.iter().map(|(key, _)| key)
    }

    /// Appends what `serialize()` makes of it.
    pub fn serialize(&self, to: &mut Vec<u8>) {
        self.serialize_without(&[], to);
    }

    /// As [`Array::serialize`], but of an array from which elements were `unset`.
    pub fn serialize_without(&self, unset: &[&str], to: &mut Vec<u8>) {
        let is_left =
            |(key, _): &&(Key, Value)| !matches!(key, Key::Text(text) if unset.contains(&&**text));
        let left = || self.elements.iter().filter(is_left);
        put(to, format_args!("a:{}:{{", left().count()));
        for (key, value) in left() {
            match key {
                Key::Int(number) => put(to, format_args!("i:{number};")),
                Key::Text(text) => serialize_text(text, to),
            }
            value.serialize(to);
        }
        to.push(b'}');
    }
}

impl Key {
    /// What PHP makes of a string that is a key: an integer where it is written as PHP itself
    /// would write that integer.
    fn of(text: String) -> Self {
        match text.parse::<i64>() {
            Ok(number) if number.to_string() == text => Key::Int(number),
            _ => Key::Text(text),
        }
    }

    fn is(&self, text: &str) -> bool {
        matches!(self, Key::Text(own) if own == text)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Int(number) => number.fmt(f),
            Key::Text(text) => text.fmt(f),
        }
    }
}

/// Appends a string as `serialize()` writes it: its length is in bytes.
fn serialize_text(text: &str, to: &mut Vec<u8>) {
    put(to, format_args!("s:{}:\"{text}\";", text.len()));
}

fn put(to: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    to.write_fmt(text).expect("a Vec takes all");
}

/// A float as PHP writes it with precision -1: the fewest digits that mean this float and no other.
struct Float(f64);

/// From so many digits before the point on, and so many zeros behind it, there is an exponent.
const MOST_DIGITS: i32 = 17;
const MOST_ZEROS: i32 = 3;

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_nan() {
            return f.write_str("NAN");
        }
        if self.0.is_sign_negative() {
            f.write_str("-")?;
        }
        if self.0.is_infinite() {
            return f.write_str("INF");
        }
        // Rust, too, writes the fewest digits.
        let written = format!("{:e}", self.0.abs());
        let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
        let digits = digits.replace('.', "");
        let exponent: i32 = exponent.parse().map_err(|_| fmt::Error)?;
        // Where the point stands among the digits.
        let point = exponent + 1;
        if !(-MOST_ZEROS..=MOST_DIGITS).contains(&point) {
            let (first, rest) = digits.split_at(1);
            let rest = if rest.is_empty() { "0" } else { rest };
            return write!(f, "{first}.{rest}E{exponent:+}");
        }
        let place = usize::try_from(point).unwrap_or(0);
        if place == 0 {
            if digits == "0" {
                return f.write_str("0");
            }
            let zeros = usize::try_from(-point).unwrap_or(0);
            return write!(f, "0.{:0<zeros$}{digits}", "");
        }
        if digits.len() <= place {
            return write!(f, "{digits:0<place$}");
        }
        let (whole, fraction) = digits.split_at(place);
        write!(f, "{whole}.{fraction}")
    }
}

/// `json` with a blank for the sign of each `-0`: an integer to PHP, and a float to `serde_json`,
/// which then cannot tell it from `-0.0`.
fn with_whole_zeros(json: &[u8]) -> Cow<'_, [u8]> {
    if !json.windows(2).any(|two| two == b"-0") {
        return Cow::Borrowed(json);
    }
    let mut text = json.to_vec();
    let mut in_string = false;
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'\\' => at += 1,
            b'"' => in_string = !in_string,
            b'-' if !in_string && json.get(at + 1) == Some(&b'0') => {
                let is_exponent = at > 0 && matches!(json[at - 1], b'e' | b'E');
                let goes_on = |byte: &u8| byte.is_ascii_digit() || b".eE".contains(byte);
                if !is_exponent && !json.get(at + 2).is_some_and(goes_on) {
                    text[at] = b' ';
                }
            }
            _ => {}
        }
        at += 1;
    }
    Cow::Owned(text)
}

/// Reads a value that stands in so many arrays.
#[derive(Clone, Copy)]
struct Reading {
    depth: usize,
}

impl Reading {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        if depth > MAX_JSON_DEPTH {
            let most = format_args!("nested more than {MAX_JSON_DEPTH} deep").to_string();
            return Err(E::custom(most));
        }
        Ok(Self { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Reading {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Value, E> {
        Ok(Value::Bool(yes))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        #[expect(clippy::cast_precision_loss, reason = "as PHP does")]
        let beyond = || Value::Float(number as f64);
        Ok(i64::try_from(number).map_or_else(|_| beyond(), Value::Int))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut elements = Vec::new();
        for index in 0.. {
            let Some(value) = list.next_element_seed(inside)? else {
                break;
            };
            elements.push((Key::Int(index), value));
        }
        Ok(Value::Array(Array { elements }))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut elements: Vec<(Key, Value)> = Vec::new();
        let mut places: HashMap<Key, usize> = HashMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let key = Key::of(key);
            let value = map.next_value_seed(inside)?;
            let place = place_of(&key, &elements, &mut places);
            match place {
                Some(place) => elements[place].1 = value,
                None => elements.push((key, value)),
            }
        }
        Ok(Value::Array(Array { elements }))
    }
}

/// Up to so many elements are looked through as they are.
const FEW: usize = 16;

/// Where `key` stands among `elements`. `places` holds where each of them stands once they are many.
fn place_of(
    key: &Key,
    elements: &[(Key, Value)],
    places: &mut HashMap<Key, usize>,
) -> Option<usize> {
    if elements.len() <= FEW {
        return elements.iter().position(|(other, _)| other == key);
    }
    for (place, (other, _)) in elements.iter().enumerate().skip(places.len()) {
        places.insert(other.clone(), place);
    }
    places.get(key).copied()
}

/// Whether `text` is an array as `serialize()` writes it, with nothing in it but arrays, strings,
/// numbers, booleans and null.
///
/// # Errors
/// What is wrong, and at which byte.
pub fn check_serialized_array(text: &[u8]) -> Result<(), String> {
    let mut scan = Scan { text, at: 0 };
    // How many elements are to come in each array that is open.
    let mut open: Vec<usize> = Vec::new();
    loop {
        scan.value(&mut open)?;
        while open.last() == Some(&0) {
            scan.mark(b"}")?;
            open.pop();
        }
        let Some(left) = open.last_mut() else { break };
        *left -= 1;
        scan.key()?;
    }
    if scan.at < text.len() {
        return Err(scan.wrong("something follows the array"));
    }
    Ok(())
}

struct Scan<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Scan<'t> {
    fn wrong(&self, what: &str) -> String {
        format!("{what} (at byte {})", self.at)
    }

    /// A value; of an array, its beginning.
    fn value(&mut self, open: &mut Vec<usize>) -> Result<(), String> {
        let kind = self.text.get(self.at).copied();
        if open.is_empty() && kind != Some(b'a') {
            return Err(self.wrong("it is no serialised array"));
        }
        match kind {
            Some(b'N') => self.mark(b"N;"),
            Some(b'b') => self.mark(b"b:0;").or_else(|_| self.mark(b"b:1;")),
            Some(b'i') => self.integer(),
            Some(b'd') => self.float(),
            Some(b's') => self.string(),
            Some(b'a') => {
                self.mark(b"a:")?;
                let elements = self.length()?;
                self.mark(b":{")?;
                if open.len() == MAX_SERIALIZED_DEPTH {
                    let most = MAX_SERIALIZED_DEPTH;
                    return Err(self.wrong(&format!("nested more than {most} deep")));
                }
                open.push(elements);
                Ok(())
            }
            Some(b'O' | b'C' | b'E') => Err(self.wrong("it holds an object")),
            Some(b'r' | b'R') => Err(self.wrong("it holds a reference")),
            Some(_) => Err(self.wrong("it holds something that serialize() does not write")),
            None => Err(self.wrong("it ends too early")),
        }
    }

    fn key(&mut self) -> Result<(), String> {
        match self.text.get(self.at) {
            Some(b'i') => self.integer(),
            Some(b's') => self.string(),
            Some(_) => Err(self.wrong("a key is neither an integer nor a string")),
            None => Err(self.wrong("it ends too early")),
        }
    }

    fn mark(&mut self, mark: &[u8]) -> Result<(), String> {
        if !self.text[self.at..].starts_with(mark) {
            let mark = String::from_utf8_lossy(mark);
            return Err(self.wrong(&format!("`{mark}` is missing")));
        }
        self.at += mark.len();
        Ok(())
    }

    /// What stands before the next `end`, which is a mark.
    fn until(&mut self, end: u8) -> Result<&'t str, String> {
        // The longest number of PHP's has fewer digits.
        let rest = &self.text[self.at..];
        let rest = &rest[..rest.len().min(64)];
        let length = rest.iter().position(|byte| *byte == end);
        let word = length.and_then(|length| std::str::from_utf8(&rest[..length]).ok());
        let word = word.ok_or_else(|| self.wrong("it holds no number where one must stand"))?;
        self.at += word.len();
        Ok(word)
    }

    fn integer(&mut self) -> Result<(), String> {
        self.mark(b"i:")?;
        let word = self.until(b';')?;
        if word.starts_with('+') || word.parse::<i64>().is_err() {
            return Err(self.wrong("it holds no integer where one must stand"));
        }
        self.mark(b";")
    }

    fn float(&mut self) -> Result<(), String> {
        self.mark(b"d:")?;
        let word = self.until(b';')?;
        let is_number = word.bytes().any(|byte| byte.is_ascii_digit())
            && word.bytes().all(|byte| b"0123456789+-.eE".contains(&byte))
            && word.parse::<f64>().is_ok();
        if !is_number && !matches!(word, "INF" | "-INF" | "NAN") {
            return Err(self.wrong("it holds no float where one must stand"));
        }
        self.mark(b";")
    }

    fn string(&mut self) -> Result<(), String> {
        self.mark(b"s:")?;
        let length = self.length()?;
        self.mark(b":\"")?;
        if length > self.text.len() - self.at {
            return Err(self.wrong("a string is shorter than it says"));
        }
        self.at += length;
        self.mark(b"\";")
    }

    /// A length, up to the mark behind it.
    fn length(&mut self) -> Result<usize, String> {
        let word = self.until(b':')?;
        let is_plain = word.bytes().all(|byte| byte.is_ascii_digit());
        let length = word.parse().ok().filter(|_| is_plain);
        length.ok_or_else(|| self.wrong("it holds no length where one must stand"))
    }
}

#[cfg(test)]
mod tests;
