//! The open limit on MySQL and MariaDB: logs in by the socket, user, password and database named by
//! its arguments, makes one indexed SELECT, and ends. Same crate, same profile as the product;
//! nothing is asked that need not be.

use mysql::prelude::Queryable as _;
use mysql::{Conn, OptsBuilder};

const NEXT_DUE: &str =
    "SELECT due_at FROM scheduled_events WHERE status = 'ready' ORDER BY due_at, id LIMIT 1";

fn main() -> mysql::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let options = OptsBuilder::new()
        .socket(arguments.next())
        .user(arguments.next())
        .pass(arguments.next())
        .db_name(arguments.next())
        .prefer_socket(false)
        // Else the driver asks the server for it: a round trip more.
        .max_allowed_packet(Some(16 << 20));
    let mut connection = Conn::new(options)?;
    let next: Option<i64> = connection.query_first(NEXT_DUE)?;
    assert!(next.is_some(), "no event");
    Ok(())
}
