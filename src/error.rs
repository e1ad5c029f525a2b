//! What changes the exit code, and nothing else (DESIGN §7). Everything that ends a command with a
//! code other than 70 carries a [`Failure`] in its chain.

use std::fmt;

use crate::db::{DbError, DbErrorKind};

/// The exit codes, after sysexits(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// An event went dead or unknown in this run.
    EventFailed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Input data is wrong.
    Data = 65,
    /// The database is not there, or was lost.
    Unavailable = 69,
    /// A bug.
    Bug = 70,
    /// Reading or writing failed; the disk is full.
    Io = 74,
    /// Try again later.
    Temporary = 75,
    /// A right is missing.
    Permission = 77,
    /// The configuration or the schema is wrong.
    Configuration = 78,
}

/// A failure with its exit code and one line for a person: the thing, and the remedy.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The process's exit code.
    pub exit: Exit,
    message: String,
}

impl Failure {
    /// A failure that ends the process with `exit`.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// Exit 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Exit 65.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(Exit::Data, message)
    }

    /// Exit 69.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unavailable, message)
    }

    /// Exit 74.
    pub fn io(message: impl Into<String>) -> Self {
        Self::new(Exit::Io, message)
    }

    /// Exit 75.
    pub fn temporary(message: impl Into<String>) -> Self {
        Self::new(Exit::Temporary, message)
    }

    /// Exit 77.
    pub fn permission(message: impl Into<String>) -> Self {
        Self::new(Exit::Permission, message)
    }

    /// Exit 78.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self::new(Exit::Configuration, message)
    }

    /// No configuration names a database.
    pub fn no_database() -> Self {
        Self::configuration(
            "no database is configured; run `punctual init`, or give --database or \
             $PUNCTUAL_DATABASE",
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code that `error` asks for.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.exit;
        }
        if let Some(error) = cause.downcast_ref::<DbError>() {
            return exit_of_database(error.kind);
        }
    }
    Exit::Bug
}

/// The exit code that a database error asks for.
pub fn exit_of_database(kind: DbErrorKind) -> Exit {
    match kind {
        DbErrorKind::Busy => Exit::Temporary,
        DbErrorKind::Lost | DbErrorKind::CommitUnknown | DbErrorKind::Unavailable => {
            Exit::Unavailable
        }
        DbErrorKind::Denied | DbErrorKind::ReadOnly => Exit::Permission,
        DbErrorKind::Full | DbErrorKind::Io => Exit::Io,
        DbErrorKind::NotADatabase | DbErrorKind::NoSchema => Exit::Configuration,
        DbErrorKind::Duplicate
        | DbErrorKind::TooLong
        | DbErrorKind::Unsupported
        | DbErrorKind::Statement => Exit::Bug,
    }
}
