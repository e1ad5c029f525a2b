//! `add`: one event by hand.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use serde_json::json;

use super::{Context, read_at_most, types};
use crate::cli::{AddArgs, IfExists};
use crate::clock::UnixSeconds;
use crate::db::Access;
use crate::error::{Exit, Failure};
use crate::event::{MAX_KEY_BYTES, MAX_PAYLOAD_BYTES};
use crate::store::Stopped;
use crate::store::desk::{self, NewEvent};

/// `punctual add TYPE`.
///
/// # Errors
/// [`Failure`] 2: an unknown type, a wrong time; 65: something too long.
pub fn main(context: &Context, args: &AddArgs) -> anyhow::Result<u8> {
    check_type(context, args)?;
    let payload = payload(args)?;
    check_lengths(payload.as_deref(), args.key.as_deref()).map_err(Failure::data)?;
    let mut store = context.open(Access::Write)?;
    let now = store.now()?;
    let event = NewEvent {
        type_name: &args.type_name,
        due_at: due_at(context, args, now)?,
        payload: payload.as_deref(),
        key: args.key.as_deref(),
        priority: args.priority,
        expires_at: context.optional_time("--expires", args.expires.as_ref(), now)?,
    };
    let if_exists = match args.if_exists {
        IfExists::Keep => desk::IfExists::Keep,
        IfExists::Replace => desk::IfExists::Replace,
        IfExists::Earliest => desk::IfExists::Earliest,
        IfExists::Latest => desk::IfExists::Latest,
    };
    let added = store
        .add_event(&event, if_exists, now)
        .map_err(Stopped::into_error)?;
    if context.json {
        let (id, due_at) = (added.id.0, added.due_at.0);
        context.out.json(&json!({
            "id": id, "type": args.type_name, "due_at": due_at, "created": added.created
        }))?;
    } else {
        context.out.line(added.id)?;
    }
    Ok(Exit::Ok as u8)
}

/// Why `payload` or `key` cannot be stored, if they cannot.
///
/// # Errors
/// One line.
pub fn check_lengths(payload: Option<&[u8]>, key: Option<&str>) -> Result<(), String> {
    if payload.is_some_and(|payload| payload.len() > MAX_PAYLOAD_BYTES) {
        return Err(
            "the payload is larger than 1 MiB; store it elsewhere and pass its name".into(),
        );
    }
    match key.map(str::len) {
        Some(0) => Err("the key is empty; leave it out for none".into()),
        Some(length) if length > MAX_KEY_BYTES => Err(format!(
            "the key is {length} bytes long; {MAX_KEY_BYTES} are allowed"
        )),
        _ => Ok(()),
    }
}

/// `now` and `wait`, unless that lies past what the tables hold.
///
/// # Errors
/// One line.
pub fn later(now: UnixSeconds, wait: Duration) -> Result<UnixSeconds, String> {
    let at = now.after(wait);
    if at > UnixSeconds::MAX {
        return Err("lies past the year 3000".into());
    }
    Ok(at)
}

fn check_type(context: &Context, args: &AddArgs) -> anyhow::Result<()> {
    let name = &args.type_name;
    if let Some(mistake) = types::mistake(name) {
        return Err(Failure::data(mistake).into());
    }
    if args.allow_unknown_type || types::is_configured(&context.config, name) {
        return Ok(());
    }
    Err(Failure::usage(types::unknown(&context.config, name)).into())
}

fn payload(args: &AddArgs) -> anyhow::Result<Option<Cow<'_, [u8]>>> {
    match (&args.payload, &args.payload_file) {
        (Some(text), _) => Ok(Some(Cow::Borrowed(text.as_bytes()))),
        (None, Some(path)) => Ok(Some(read_at_most(path, MAX_PAYLOAD_BYTES)?.into())),
        (None, None) => Ok(None),
    }
}

fn due_at(context: &Context, args: &AddArgs, now: UnixSeconds) -> anyhow::Result<UnixSeconds> {
    match (&args.at, args.r#in) {
        (Some(text), _) => context.time("--at", text, now),
        (None, Some(wait)) => {
            later(now, wait).map_err(|error| Failure::usage(format!("--in: {error}")).into())
        }
        (None, None) => Err(Failure::usage("when? give --at TIME or --in DURATION").into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::cmd::fixture::Fixture;
    use crate::error::exit_of;

    fn add(at: &Fixture, words: &[&str]) -> anyhow::Result<String> {
        let words = ["punctual", "add"].iter().chain(words);
        let Command::Add(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!()
        };
        main(&at.context, &args)?;
        Ok(at.said().trim().to_owned())
    }

    #[test]
    fn an_event_is_added_with_everything_it_was_given() {
        let at = Fixture::new();
        let words = [
            "mail",
            "--at",
            "@2000",
            "--payload",
            "x y",
            "--key",
            "k",
            "--priority",
            "-2",
        ];
        let words = [&words[..], &["--expires", "@3000"]].concat();
        assert_eq!(add(&at, &words).unwrap(), "1");
        let found = at.rows(
            "SELECT type, due_at, payload, unique_key, priority, expires_at, status, \
             created_at > 0 FROM scheduled_events",
        );
        assert_eq!(found, ["mail|2000|x y|k|-2|3000|ready|1"]);
    }

    #[test]
    fn the_key_of_a_ready_event_decides_by_if_exists() {
        let mut at = Fixture::new();
        at.context.json = true;
        let due = |policy: &str, time: &str| {
            add(
                &at,
                &["a", "--at", time, "--key", "k", "--if-exists", policy],
            )
            .unwrap()
        };
        let line = |id, due_at, created| {
            format!(r#"{{"id":{id},"type":"a","due_at":{due_at},"created":{created}}}"#)
        };
        assert_eq!(due("keep", "@100"), line(1, 100, true));
        assert_eq!(due("keep", "@50"), line(1, 100, false));
        assert_eq!(due("latest", "@50"), line(1, 100, false));
        assert_eq!(due("latest", "@150"), line(2, 150, true));
        assert_eq!(due("earliest", "@150"), line(2, 150, false));
        assert_eq!(due("earliest", "@80"), line(3, 80, true));
        assert_eq!(due("replace", "@90"), line(4, 90, true));
        let history = at.rows("SELECT event_id, outcome, error FROM event_history");
        assert_eq!(history.len(), 3);
        assert_eq!(
            history[0],
            "1|cancelled|replaced by a newer event with its key"
        );
        assert_eq!(at.rows("SELECT id FROM scheduled_events"), ["4"]);
    }

    #[test]
    fn the_key_of_a_running_event_is_free() {
        let at = Fixture::new();
        add(&at, &["a", "--at", "@100", "--key", "k"]).unwrap();
        at.exec(
            "UPDATE scheduled_events SET status = 'running', held_key = 'k', unique_key = NULL",
        );
        assert_eq!(add(&at, &["a", "--at", "@100", "--key", "k"]).unwrap(), "2");
    }

    #[test]
    fn a_misspelt_type_is_refused_unless_it_is_meant() {
        let at = Fixture::with_types(&["reminder"]);
        let refusal = add(&at, &["remindre", "--in", "5m"]).unwrap_err();
        assert_eq!(exit_of(&refusal), Exit::Usage);
        assert!(
            refusal.to_string().contains("did you mean `reminder`?"),
            "{refusal}"
        );
        add(&at, &["remindre", "--in", "5m", "--allow-unknown-type"]).unwrap();
    }

    #[test]
    fn what_is_too_long_is_refused_and_nothing_is_added() {
        let at = Fixture::new();
        let file = at.directory().join("payload");
        std::fs::write(&file, vec![b'x'; MAX_PAYLOAD_BYTES + 1]).unwrap();
        let file = file.to_str().unwrap();
        for words in [
            ["a", "--in", "5m", "--payload-file", file],
            [&"t".repeat(65), "--in", "5m", "--payload", "x"],
            ["", "--in", "5m", "--payload", "x"],
            ["a", "--in", "5m", "--key", &"k".repeat(192)],
        ] {
            let refusal = add(&at, &words).unwrap_err();
            assert_eq!(exit_of(&refusal), Exit::Data, "{refusal}");
        }
        let far = add(&at, &["a", "--in", "1000y"]).unwrap_err();
        assert_eq!(exit_of(&far), Exit::Usage, "{far}");
        let missing = add(&at, &["a", "--in", "5m", "--payload-file", "/no/such"]).unwrap_err();
        assert_eq!(exit_of(&missing), Exit::Io, "{missing}");
        assert!(at.rows("SELECT id FROM scheduled_events").is_empty());
    }

    #[test]
    fn two_processes_that_add_one_key_at_once_make_one_event() {
        let at = Fixture::new();
        let path = at.database();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let other = Fixture::on(&path);
                    for _ in 0..10 {
                        add(&other, &["a", "--at", "@100", "--key", "k"]).unwrap();
                    }
                });
            }
        });
        assert_eq!(at.rows("SELECT COUNT(*) FROM scheduled_events"), ["1"]);
    }
}
