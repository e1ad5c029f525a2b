//! Looking at what is due without touching it: the idle tick's one statement, a type's due levels,
//! and the next candidates in firing order. Every query here is served by one of the two indexes.

use std::time::Duration;

use super::lease::{LEASE_COLUMNS, LeaseRow, read_lease};
use super::statement::Statement;
use super::{EVENT_COLUMNS, EVENT_WIDTH, Store, read_event};
use crate::clock::UnixSeconds;
use crate::db::{DbResult, Dialect, Row, query_all, query_one};
use crate::event::{Event, EventId, PRIORITIES};

/// What one statement tells an idle tick.
#[derive(Debug, Clone)]
pub struct Peek {
    /// The clock that decides what is due, as [`Store::now`].
    pub now: UnixSeconds,
    /// How much of that second was over.
    pub over: Duration,
    /// The lease.
    pub lease: LeaseRow,
    /// Whether any row is running.
    pub running: bool,
    /// The earliest due instant of all ready rows.
    pub next_due: Option<UnixSeconds>,
    /// The earliest slot of all schedules that is to become an event.
    pub next_slot: Option<UnixSeconds>,
    /// When the first of all sources is to be looked at.
    pub next_look: Option<UnixSeconds>,
}

/// Where in a type's order the next wave begins: behind this event of this priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Index into [`PRIORITIES`].
    pub level: usize,
    /// The last event looked at.
    pub after: Option<(UnixSeconds, EventId)>,
}

impl Cursor {
    /// The beginning.
    pub const START: Cursor = Cursor {
        level: 0,
        after: None,
    };

    /// Behind `event`.
    pub fn behind(event: &Event) -> Self {
        let level = PRIORITIES
            .iter()
            .position(|&level| level == event.priority)
            .unwrap_or(0);
        Self {
            level,
            after: Some((event.due_at, event.id)),
        }
    }
}

/// Which payloads are read with candidates: how many fit into memory is for the caller to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payloads {
    /// None.
    None,
    /// Those of at most 8 KiB: 500 of them are as much as a wave may hold (DESIGN §5.9).
    Small,
}

impl Payloads {
    /// Those to read with the candidates of a claim: on SQLite it can be told afterwards whether
    /// they are still the same ([`Store::version`]); otherwise they are read once they are claimed.
    pub fn to_claim(store: &Store) -> Self {
        match store.dialect() {
            Dialect::Sqlite => Self::Small,
            Dialect::Mysql => Self::None,
        }
    }
}

/// The largest payload that counts as small, in bytes.
const SMALL_PAYLOAD: usize = 8 << 10;

/// What is read of one type, in firing order.
struct Turn<'t> {
    type_name: &'t str,
    cutoff: UnixSeconds,
    columns: String,
}

/// An event as the turn sees it before it claims, and how large its payload is.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The event; its payload may be left out.
    pub event: Event,
    /// Bytes of payload.
    pub payload_bytes: usize,
}

impl Candidate {
    /// Whether it was read without its payload.
    pub fn lacks_payload(&self) -> bool {
        self.payload_bytes > 0 && self.event.payload.is_empty()
    }
}

/// Reads [`EVENT_COLUMNS`] and, behind them, the payload's length.
fn read_candidate(row: &dyn Row) -> Candidate {
    Candidate {
        event: read_event(row),
        payload_bytes: usize::try_from(row.int(EVENT_WIDTH)).unwrap_or(0),
    }
}

impl Peek {
    /// The first instant that is due to come: of an event, of a slot or of a look at a source.
    pub fn next(&self) -> Option<UnixSeconds> {
        earliest(self.next_due, self.next_planned())
    }

    /// The first instant at which an event may be made.
    pub fn next_planned(&self) -> Option<UnixSeconds> {
        earliest(self.next_slot, self.next_look)
    }
}

/// The earlier one of those that are there.
pub fn earliest(one: Option<UnixSeconds>, other: Option<UnixSeconds>) -> Option<UnixSeconds> {
    [one, other].into_iter().flatten().min()
}

impl Store {
    /// The time, the lease, running rows, the next due instant, slot and look, in one statement.
    pub fn peek(&mut self) -> DbResult<Option<Peek>> {
        let on_host = self.db.host_clock();
        let clock = self.db.clock_in_sql().map(|clock| clock.join(", "));
        let next = self.hint(" FORCE INDEX (/*_*/event_next_slot)");
        let (index, time) = (self.due_index(), clock.as_deref().unwrap_or("NULL, NULL"));
        let sql = format!(
            "SELECT {LEASE_COLUMNS}, \
             (SELECT id FROM /*_*/scheduled_events{index} WHERE status = 'running' \
              ORDER BY due_at, id LIMIT 1), \
             (SELECT due_at FROM /*_*/scheduled_events{index} WHERE status = 'ready' \
              ORDER BY due_at, id LIMIT 1), \
             (SELECT slot FROM /*_*/event_next{next} WHERE kind = 'schedule' \
              AND slot >= 0 ORDER BY slot LIMIT 1), \
             (SELECT slot FROM /*_*/event_next{next} WHERE kind = 'source' \
              AND slot >= 0 ORDER BY slot LIMIT 1), {time} \
             FROM /*_*/event_lease l WHERE l.name = 'run'"
        );
        let sql = self.sql(&sql);
        query_one(&mut *self.db, &sql, &[], |row| {
            let (now, over) = on_host.unwrap_or_else(|| {
                let micros = u64::try_from(row.int(15)).unwrap_or(0);
                (UnixSeconds(row.int(14)), Duration::from_micros(micros))
            });
            Peek {
                now,
                over,
                lease: read_lease(row),
                running: row.opt_int(10).is_some(),
                next_due: row.opt_int(11).map(UnixSeconds),
                next_slot: row.opt_int(12).map(UnixSeconds),
                next_look: row.opt_int(13).map(UnixSeconds),
            }
        })
    }

    /// For each priority of `type_name`, the earliest due instant up to `cutoff`: one index probe a
    /// level, one round trip (RULINGS 16).
    pub fn due_levels(
        &mut self,
        type_name: &str,
        cutoff: UnixSeconds,
    ) -> DbResult<[Option<UnixSeconds>; PRIORITIES.len()]> {
        let hint = self.turn_index();
        let probes: Vec<String> = PRIORITIES
            .iter()
            .map(|priority| {
                format!(
                    "(SELECT due_at FROM /*_*/scheduled_events{hint} WHERE status = 'ready' \
                     AND type = ? AND priority = {priority} AND due_at >= 0 AND due_at <= ? \
                     ORDER BY due_at, id LIMIT 1)"
                )
            })
            .collect();
        let sql = format!("SELECT {}", probes.join(", "));
        let sql = self.sql(&sql);
        let params: Vec<_> = PRIORITIES
            .iter()
            .flat_map(|_| [type_name.into(), cutoff.into()])
            .collect();
        let read = |row: &dyn Row| std::array::from_fn(|i| row.opt_int(i).map(UnixSeconds));
        Ok(query_one(&mut *self.db, &sql, &params, read)?.unwrap_or_default())
    }

    /// Up to `limit` ready events of `type_name` due by `cutoff`, in firing order behind `cursor`,
    /// which moves on. Fewer than `limit`: the type has no more.
    pub fn candidates(
        &mut self,
        type_name: &str,
        cutoff: UnixSeconds,
        cursor: &mut Cursor,
        limit: usize,
        payloads: Payloads,
    ) -> DbResult<Vec<Candidate>> {
        let length = self.dialect().byte_length("payload");
        let payload = match payloads {
            Payloads::None => "NULL".to_owned(),
            Payloads::Small => format!("CASE WHEN {length} <= {SMALL_PAYLOAD} THEN payload END"),
        };
        let turn = Turn {
            type_name,
            cutoff,
            columns: format!("{}, {length}", EVENT_COLUMNS.replace("payload", &payload)),
        };
        let mut found: Vec<Candidate> = Vec::new();
        while found.len() < limit && cursor.level < PRIORITIES.len() {
            let before = found.len();
            self.level(&turn, *cursor, limit - before, &mut found)?;
            match found.last() {
                Some(last) if found.len() == limit => *cursor = Cursor::behind(&last.event),
                _ => {
                    *cursor = Cursor {
                        level: cursor.level + 1,
                        after: None,
                    }
                }
            }
        }
        self.tell_slots(found.iter_mut().map(|one| &mut one.event))?;
        Ok(found)
    }

    /// One level: first the rest of the instant the cursor stands in, then later instants. Two
    /// exact ranges, so that a million events due at the same second cost no more than others.
    fn level(
        &mut self,
        turn: &Turn<'_>,
        cursor: Cursor,
        limit: usize,
        found: &mut Vec<Candidate>,
    ) -> DbResult<()> {
        let start = found.len();
        let select = |store: &Self| {
            Statement::fixed(store.dialect())
                .text("SELECT ")
                .text(&turn.columns)
                .text(" FROM /*_*/scheduled_events")
                .text(store.turn_index())
                .text(" WHERE status = 'ready' AND type = ")
                .bound(turn.type_name)
                .text(" AND priority = ")
                .int(PRIORITIES[cursor.level].into())
        };
        let later = match cursor.after {
            None => select(self).text(" AND due_at >= 0"),
            Some((due, id)) => {
                let same = select(self).text(" AND due_at = ").at(due);
                let same = same.text(" AND id > ").int(id.0);
                self.range(same, turn.cutoff, limit, found)?;
                select(self).text(" AND due_at > ").at(due)
            }
        };
        let rest = limit - (found.len() - start);
        if rest == 0 {
            return Ok(());
        }
        self.range(later, turn.cutoff, rest, found)
    }

    fn range(
        &mut self,
        select: Statement<'_>,
        cutoff: UnixSeconds,
        limit: usize,
        found: &mut Vec<Candidate>,
    ) -> DbResult<()> {
        let (sql, params) = select
            .text(" AND due_at <= ")
            .at(cutoff)
            .text(" ORDER BY due_at, id LIMIT ")
            .int(i64::try_from(limit).unwrap_or(i64::MAX))
            .finished(self);
        self.db.query(&sql, &params, &mut |row| {
            found.push(read_candidate(row));
            true
        })
    }

    /// Types with ready rows that are not in `known`, by one index probe a type.
    pub fn unhandled_types(&mut self, known: &dyn Fn(&str) -> bool) -> DbResult<Vec<String>> {
        let types = self.ready_types()?;
        Ok(types.into_iter().filter(|name| !known(name)).collect())
    }

    /// All types with ready rows, by one index probe a type.
    pub fn ready_types(&mut self) -> DbResult<Vec<String>> {
        let sql = format!(
            "SELECT type FROM /*_*/scheduled_events{} WHERE status = 'ready' AND type > ? \
             ORDER BY type LIMIT 1",
            self.turn_index()
        );
        let sql = self.sql(&sql);
        let mut types: Vec<String> = Vec::new();
        let mut last = Vec::new();
        loop {
            let next = query_one(&mut *self.db, &sql, &[last.as_slice().into()], |row| {
                row.opt_bytes(0).unwrap_or_default()
            })?;
            let Some(next) = next else { return Ok(types) };
            types.push(String::from_utf8_lossy(&next).into_owned());
            last = next;
        }
    }

    /// How many ready rows are due by `cutoff`.
    pub fn count_due(&mut self, cutoff: UnixSeconds) -> DbResult<i64> {
        let sql = format!(
            "SELECT COUNT(*) FROM /*_*/scheduled_events{} \
             WHERE status = 'ready' AND due_at >= 0 AND due_at <= {cutoff}",
            self.due_index(),
        );
        self.number(&sql)
    }

    /// What the tables remember of each type.
    pub fn type_states(&mut self) -> DbResult<Vec<TypeState>> {
        let sql = "SELECT type, failures, open_until, paused_until, tokens_milli, tokens_at \
                   FROM /*_*/event_types";
        let sql = self.sql(sql);
        query_all(&mut *self.db, &sql, &[], |row| TypeState {
            type_name: row.text(0),
            failures: u32::try_from(row.int(1)).unwrap_or(0),
            open_until: row.opt_int(2).map(UnixSeconds),
            paused_until: row.opt_int(3).map(UnixSeconds),
            tokens_milli: row.opt_int(4),
            tokens_at: row.opt_int(5).map(UnixSeconds),
        })
    }

    /// The index of a turn, named where a planner could be tempted away from it.
    pub(super) fn turn_index(&self) -> &'static str {
        self.hint(" FORCE INDEX (/*_*/scheduled_events_turn)")
    }

    /// The index over all types, in due order.
    pub(super) fn due_index(&self) -> &'static str {
        self.hint(" FORCE INDEX (/*_*/scheduled_events_due)")
    }
}

/// One row of `event_types`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeState {
    /// `type`.
    pub type_name: String,
    /// Failures in a row.
    pub failures: u32,
    /// The breaker lets nothing through before this instant.
    pub open_until: Option<UnixSeconds>,
    /// Paused by hand until this instant.
    pub paused_until: Option<UnixSeconds>,
    /// What is left of the rate, in thousandths of an attempt.
    pub tokens_milli: Option<i64>,
    /// When that was.
    pub tokens_at: Option<UnixSeconds>,
}
