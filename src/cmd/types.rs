//! Names of types on the command line: known or misspelt; `pause` and `resume`.

use super::{Context, output};
use crate::cli::{PauseArgs, ResumeArgs};
use crate::clock::UnixSeconds;
use crate::config::Config;
use crate::db::Access;
use crate::error::{Exit, Failure};
use crate::event::MAX_TYPE_BYTES;
use crate::nearest::did_you_mean;
use crate::store::Store;

/// Whether the configuration says what `name` does; one without any types knows none and refuses
/// none.
pub fn is_configured(config: &Config, name: &str) -> bool {
    config.types.is_empty() || config.types.contains_key(name)
}

/// `; did you mean …?`, or nothing; escaped, for names of types may hold anything.
pub fn hint(config: &Config, name: &str) -> String {
    output::escape(&did_you_mean(name, config.types.keys().map(String::as_str)))
}

/// That no type is called `name`, and what to do about it.
pub fn unknown(config: &Config, name: &str) -> String {
    let hint = hint(config, name);
    let name = output::escape(name);
    format!(
        "the configuration has no type `{name}`{hint}; add [type.{name}] to it, or use \
         --allow-unknown-type"
    )
}

/// Why `name` can be no type, if it cannot.
pub fn mistake(name: &str) -> Option<String> {
    match name.len() {
        0 => Some("the type is empty".to_owned()),
        length if length > MAX_TYPE_BYTES => Some(format!(
            "the type is {length} bytes long; {MAX_TYPE_BYTES} are allowed"
        )),
        _ => None,
    }
}

/// `punctual pause TYPE`.
///
/// # Errors
/// [`Failure`] 2: nobody knows the type, or the time is wrong.
pub fn pause(context: &Context, args: &PauseArgs) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Write)?;
    let now = store.now()?;
    let until = context.optional_time("--until", args.until.as_ref(), now)?;
    if until.is_some_and(|until| until <= now) {
        return Err(Failure::usage("--until: lies in the past").into());
    }
    require_known(context, &mut store, &args.type_name)?;
    store.write_pause(&args.type_name, Some(until.unwrap_or(UnixSeconds::MAX)))?;
    let name = output::escape(&args.type_name);
    if context.json {
        let until = until.unwrap_or(UnixSeconds::MAX).0;
        let done = serde_json::json!({ "type": args.type_name, "paused_until": until });
        context.out.json(&done)?;
    } else {
        let until = until.map_or_else(|| "it is resumed".to_owned(), |at| context.shown(at));
        context
            .out
            .line(format!("{name} is paused until {until}"))?;
    }
    Ok(Exit::Ok as u8)
}

/// `punctual resume TYPE`.
///
/// # Errors
/// [`Failure`] 2: nobody knows the type.
pub fn resume(context: &Context, args: &ResumeArgs) -> anyhow::Result<u8> {
    let mut store = context.open(Access::Write)?;
    require_known(context, &mut store, &args.type_name)?;
    store.write_pause(&args.type_name, None)?;
    if context.json {
        let done = serde_json::json!({ "type": args.type_name, "paused_until": null });
        context.out.json(&done)?;
    } else {
        context
            .out
            .line(format!("{} is resumed", output::escape(&args.type_name)))?;
    }
    Ok(Exit::Ok as u8)
}

fn require_known(context: &Context, store: &mut Store, name: &str) -> anyhow::Result<()> {
    if context.config.types.contains_key(name) || store.knows_type(name)? {
        return Ok(());
    }
    let mut known: Vec<String> = context.config.types.keys().cloned().collect();
    known.extend(store.ready_types()?);
    let hint = did_you_mean(name, known.iter().map(String::as_str));
    let name = output::shorten(name, MAX_TYPE_BYTES);
    Err(Failure::usage(format!(
        "type `{name}` is neither in the configuration nor in the tables{hint}"
    ))
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::fixture::Fixture;

    fn pause_args(name: &str, until: Option<&str>) -> PauseArgs {
        PauseArgs {
            type_name: name.into(),
            until: until.map(str::to_owned),
        }
    }

    #[test]
    fn a_type_is_paused_until_it_is_resumed_or_until_a_time() {
        let at = Fixture::with_types(&["mail"]);
        pause(&at.context, &pause_args("mail", None)).unwrap();
        assert_eq!(
            at.store().type_states().unwrap()[0].paused_until,
            Some(UnixSeconds::MAX)
        );
        assert!(at.said().contains("mail is paused until it is resumed"));
        resume(
            &at.context,
            &ResumeArgs {
                type_name: "mail".into(),
            },
        )
        .unwrap();
        assert_eq!(at.store().type_states().unwrap()[0].paused_until, None);
        pause(&at.context, &pause_args("mail", Some("@4000000000"))).unwrap();
        let until = at.store().type_states().unwrap()[0].paused_until;
        assert_eq!(until, Some(UnixSeconds(4_000_000_000)));
    }

    #[test]
    fn a_type_nobody_knows_is_refused_with_the_nearest_name() {
        let at = Fixture::with_types(&["mail"]);
        let refusal = pause(&at.context, &pause_args("mial", None)).unwrap_err();
        assert!(
            refusal.to_string().ends_with("did you mean `mail`?"),
            "{refusal}"
        );
        assert_eq!(crate::error::exit_of(&refusal), Exit::Usage);
        at.insert("old", 5);
        pause(&at.context, &pause_args("old", None)).unwrap();
        let past = pause(&at.context, &pause_args("mail", Some("@5"))).unwrap_err();
        assert_eq!(crate::error::exit_of(&past), Exit::Usage);
    }
}
