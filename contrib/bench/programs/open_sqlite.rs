//! The open limit on SQLite: opens the database named by its argument, makes one indexed SELECT,
//! and ends. Same crate, same profile as the product; nothing else.

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

const NEXT_DUE: &str =
    "SELECT due_at FROM scheduled_events WHERE status = 'ready' ORDER BY due_at, id LIMIT 1";

fn main() -> rusqlite::Result<()> {
    let path = std::env::args_os().nth(1).expect("a path");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    let next: Option<i64> = connection
        .query_row(NEXT_DUE, [], |row| row.get(0))
        .optional()?;
    assert!(next.is_some(), "no event");
    Ok(())
}
