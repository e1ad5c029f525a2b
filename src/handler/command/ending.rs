//! How a process ended, in the words of the tables.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use crate::event::{MAX_ERROR_BYTES, keep_tail};
use crate::handler::Verdict;
use crate::spawn::Exit;

/// `EX_TEMPFAIL` of sysexits: try later.
pub(super) const LATER: i32 = 75;
/// `EX_DATAERR` of sysexits: give up now.
const GIVE_UP: i32 = 65;

/// Why a process was stopped by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It took longer than this.
    TimedOut(Duration),
    /// The run is ending.
    Interrupted,
}

/// What an ended process means for the one event it was started for.
pub(super) fn verdict(exit: &Exit, stopped: Option<Stopped>) -> Verdict {
    let error = message("", exit, stopped);
    let code = exit.status.and_then(|status| status.code());
    match (stopped, code) {
        (Some(Stopped::TimedOut(_)), _) => Verdict::Lost { error },
        (_, Some(0)) => Verdict::Done,
        (Some(Stopped::Interrupted), _) => Verdict::Interrupted { error },
        (None, Some(LATER)) => Verdict::Later {
            error,
            retry_after: None,
        },
        (None, Some(GIVE_UP)) => Verdict::GiveUp { error },
        (None, _) if exit.status.is_none() => Verdict::Lost { error },
        (None, _) => Verdict::failed(error),
    }
}

/// `intro`, how the process ended, and the end of what it complained about.
pub(super) fn message(intro: &str, exit: &Exit, stopped: Option<Stopped>) -> String {
    let mut text = intro.to_owned();
    match stopped {
        Some(Stopped::TimedOut(limit)) => {
            let limit = humantime::format_duration(limit).to_string();
            text += &["timed out after ", &limit, "; "].concat();
        }
        Some(Stopped::Interrupted) => text += "the run was stopped; ",
        None => {}
    }
    text += &describe(exit.status);
    let complaint = readable(&exit.stderr);
    if !complaint.is_empty() {
        text += ": ";
        let room = MAX_ERROR_BYTES.saturating_sub(text.len());
        text += keep_tail(&complaint, room);
    }
    text
}

/// `exit status 3`, `killed by signal 11 (SIGSEGV)`.
pub(super) fn describe(status: Option<ExitStatus>) -> String {
    let Some(status) = status else {
        return "it could not be killed".to_owned();
    };
    if let Some(code) = status.code() {
        return format!("exit status {code}");
    }
    let signal = status.signal().unwrap_or_default();
    match signal_hook::low_level::signal_name(signal) {
        Some(name) => format!("killed by signal {signal} ({name})"),
        None => format!("killed by signal {signal}"),
    }
}

/// Bytes of a program as text for a person: no control characters, which a terminal would obey.
pub(super) fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let is_plain = |&c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    text.trim().chars().filter(is_plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic;

    fn exit(raw: i32, stderr: &[u8]) -> Exit {
        let status = Some(ExitStatus::from_raw(raw));
        Exit {
            status,
            stderr: stderr.to_vec(),
            ended: monotonic(),
        }
    }

    #[test]
    fn an_exit_code_is_a_verdict() {
        let verdict = |code| verdict(&exit(code << 8, b""), None);
        assert_eq!(verdict(0), Verdict::Done);
        assert!(matches!(
            verdict(75),
            Verdict::Later {
                retry_after: None,
                ..
            }
        ));
        assert!(matches!(verdict(65), Verdict::GiveUp { .. }));
        for code in [1, 2, 64, 66, 74, 76, 126, 127, 255] {
            let error = format!("exit status {code}");
            assert_eq!(
                verdict(code),
                Verdict::Failed {
                    error,
                    retry_after: None
                }
            );
        }
    }

    #[test]
    fn a_signal_is_named() {
        let text = |raw| message("", &exit(raw, b""), None);
        assert_eq!(text(11), "killed by signal 11 (SIGSEGV)");
        assert_eq!(text(64), "killed by signal 64");
    }

    #[test]
    fn a_process_that_was_stopped_and_ended_well_is_done_only_if_it_was_in_time() {
        let limit = Stopped::TimedOut(Duration::from_secs(30));
        let Verdict::Lost { error } = verdict(&exit(0, b"bye\n"), Some(limit)) else {
            panic!("not lost");
        };
        assert_eq!(error, "timed out after 30s; exit status 0: bye");
        assert_eq!(
            verdict(&exit(0, b""), Some(Stopped::Interrupted)),
            Verdict::Done
        );
        let interrupted = verdict(&exit(15, b""), Some(Stopped::Interrupted));
        let error = "the run was stopped; killed by signal 15 (SIGTERM)".to_owned();
        assert_eq!(interrupted, Verdict::Interrupted { error });
    }

    #[test]
    fn a_process_that_could_not_be_killed_is_lost() {
        let exit = Exit {
            status: None,
            ..exit(0, b"")
        };
        assert!(matches!(verdict(&exit, None), Verdict::Lost { .. }));
    }

    #[test]
    fn a_message_fits_and_keeps_the_end_of_the_complaint() {
        let stderr = "ä".repeat(1023) + "!";
        let text = message("", &exit(1 << 8, stderr.as_bytes()), None);
        assert!(text.len() <= MAX_ERROR_BYTES);
        assert!(text.starts_with("exit status 1: ä"));
        assert!(text.ends_with('!'));
    }

    #[test]
    fn a_complaint_cannot_steer_a_terminal() {
        assert_eq!(
            readable(b"\x1b[2Jred\x07\r\nline\xff\n"),
            "[2Jred\nline\u{fffd}"
        );
    }
}
