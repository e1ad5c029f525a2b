//! Sources: how far each has been looked at, what has been derived, and the events of that. A row of
//! `event_sources` is one key and expiry that became an event; as long as it is there, it does not
//! become another.

use std::collections::{HashMap, HashSet};

use super::schedules::fingerprint_of;
use super::settle::{Ack, Owner, Tally, Writer};
use super::statement::Statement;
use super::{Stopped, Store};
use crate::clock::UnixSeconds;
use crate::db::{DbResult, Dialect, Row, Value, migrate, query_all, query_one};
use crate::event::{EventId, MAX_KEY_BYTES, Outcome};
use crate::source::{Derived, Position, Source};

/// The name in `punctual_meta` of [`fingerprint`].
pub const FINGERPRINT: &str = "sources";
/// What stands in `origin` before a source's name.
pub const ORIGIN: &str = "source:";
/// The kind of a source in `event_next`.
const KIND: &str = "source";

/// How far a source has been looked at: a row of `event_scans`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRow {
    /// `source`: its name.
    pub source: String,
    /// `rule`: JSON, see [`Source`]; empty: it is stated no more.
    pub rule: String,
    /// When the last whole scan began: expiries before it have been looked at for the last time.
    pub watermark: UnixSeconds,
    /// How far the scan in hand, or the last one, looks.
    pub window_end: UnixSeconds,
    /// When the scan in hand began; `None`: none is.
    pub began: Option<UnixSeconds>,
    /// How far the scan in hand has come.
    pub cursor: Option<Position>,
    /// Rows that it, or the last one, was given.
    pub rows_seen: u64,
    /// Events that it made.
    pub made: u64,
    /// Events that it moved.
    pub moved: u64,
    /// Derived rows that it did not find.
    pub missed: u64,
    /// When the last scan was over, or failed.
    pub looked_at: Option<UnixSeconds>,
    /// Why the last scan failed.
    pub error: Option<String>,
    /// What is to be known of the scan in hand, or of the last one.
    pub remark: Option<String>,
    /// When it is to be looked at next.
    pub next: Option<UnixSeconds>,
}

impl ScanRow {
    /// A source that was never looked at.
    pub fn new(name: &str, source: &Source, now: UnixSeconds) -> Self {
        Self {
            source: name.to_owned(),
            rule: source.to_json(),
            watermark: now,
            window_end: now,
            began: None,
            cursor: None,
            rows_seen: 0,
            made: 0,
            moved: 0,
            missed: 0,
            looked_at: None,
            error: None,
            remark: None,
            next: None,
        }
    }

    /// As it is when a scan begins.
    pub fn begin(&mut self, now: UnixSeconds, window_end: UnixSeconds) {
        self.began = Some(now);
        self.window_end = window_end;
        self.cursor = None;
        (self.rows_seen, self.made, self.moved, self.missed) = (0, 0, 0, 0);
        self.remark = None;
    }

    /// Where the window of the scan that began then begins. A clock that was ahead does not count.
    pub fn window_start(&self, began: UnixSeconds) -> UnixSeconds {
        self.watermark.min(began)
    }
}

/// A key and expiry that has been derived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `derived_key`.
    pub key: String,
    /// `expiry`.
    pub expiry: UnixSeconds,
    /// `event_id`.
    pub event: EventId,
    /// The beginning of the scan that missed it.
    pub missed_by: Option<UnixSeconds>,
    /// Its event, while that is live.
    pub live: Option<Live>,
}

/// The live event of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Nobody is dealing with it.
    pub is_ready: bool,
    /// It was tried before, or begun.
    pub was_tried: bool,
    /// When it is due.
    pub due_at: UnixSeconds,
}

/// An event that goes to another instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move<'a> {
    /// The event.
    pub event: EventId,
    /// What was derived before.
    pub from: UnixSeconds,
    /// What is derived now.
    pub to: &'a Derived,
    /// When it is due.
    pub due_at: UnixSeconds,
}

/// What the events of derived rows have in common.
pub struct Derivation<'a> {
    /// The source.
    pub source: &'a str,
    /// Their type.
    pub type_name: &'a str,
    /// Their `origin`.
    pub origin: &'a str,
    /// Their priority.
    pub priority: i8,
    /// When each is due, by its number.
    pub due: &'a dyn Fn(usize, &Derived) -> UnixSeconds,
}

/// How many rows one statement of records or events reads at the most.
pub const CHUNK: usize = 500;

const SCAN_COLUMNS: &str = "s.source, s.rule, s.watermark, s.window_end, s.began, s.cursor_at, \
     s.cursor_key, s.rows_seen, s.made, s.moved, s.missed, s.looked_at, s.error, s.remark, n.slot";

fn read_scan(row: &dyn Row) -> ScanRow {
    let count = |index| u64::try_from(row.int(index)).unwrap_or(0);
    ScanRow {
        source: row.text(0),
        rule: row.text(1),
        watermark: UnixSeconds(row.int(2)),
        window_end: UnixSeconds(row.int(3)),
        began: row.opt_int(4).map(UnixSeconds),
        cursor: row.opt_int(5).map(|at| Position {
            at: UnixSeconds(at),
            key: row.opt_bytes(6),
        }),
        rows_seen: count(7),
        made: count(8),
        moved: count(9),
        missed: count(10),
        looked_at: row.opt_int(11).map(UnixSeconds),
        error: row.opt_text(12),
        remark: row.opt_text(13),
        next: row.opt_int(14).map(UnixSeconds),
    }
}

const RECORD_COLUMNS: &str = "r.derived_key, r.expiry, r.event_id, r.watermark, e.status, \
     e.attempts + e.losses + e.deferrals, e.first_due_at, e.due_at";

fn read_record(row: &dyn Row) -> Record {
    let status = row.opt_text(4);
    Record {
        key: row.text(0),
        expiry: UnixSeconds(row.int(1)),
        event: EventId(row.int(2)),
        missed_by: row.opt_int(3).map(UnixSeconds),
        live: status.map(|status| Live {
            is_ready: status == "ready",
            was_tried: row.int(5) > 0 || row.opt_int(6).is_some(),
            due_at: UnixSeconds(row.int(7)),
        }),
    }
}

/// `(?, …)`, so many times.
fn places(count: usize, columns: usize) -> String {
    let one = format!("({})", vec!["?"; columns].join(", "));
    vec![one; count].join(", ")
}

fn whole(number: u64) -> Value<'static> {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

impl Store {
    /// All sources that a run has seen, by name.
    pub fn scans(&mut self) -> DbResult<Vec<ScanRow>> {
        let sql = format!(
            "SELECT {SCAN_COLUMNS} FROM /*_*/event_scans s LEFT JOIN /*_*/event_next n \
             ON n.kind = '{KIND}' AND n.name = s.source ORDER BY s.source"
        );
        let sql = self.sql(&sql);
        query_all(&mut *self.db, &sql, &[], read_scan)
    }

    /// One of them.
    pub fn scan(&mut self, name: &str) -> DbResult<Option<ScanRow>> {
        let sql = format!(
            "SELECT {SCAN_COLUMNS} FROM /*_*/event_scans s LEFT JOIN /*_*/event_next n \
             ON n.kind = '{KIND}' AND n.name = s.source WHERE s.source = ?"
        );
        let sql = self.sql(&sql);
        query_one(&mut *self.db, &sql, &[name.into()], read_scan)
    }

    /// Writes how far a source has been looked at.
    pub fn write_scan(&mut self, row: &ScanRow) -> DbResult<()> {
        let sql = format!(
            "REPLACE INTO /*_*/event_scans (source, rule, watermark, window_end, began, cursor_at, \
             cursor_key, rows_seen, made, moved, missed, looked_at, error, remark) VALUES {}",
            places(1, 14)
        );
        let sql = self.sql(&sql);
        let cursor = row.cursor.as_ref();
        // One that is no key at all may be longer; it is met again then.
        let key = cursor.and_then(|cursor| cursor.key.as_deref());
        let key = key.map(|key| &key[..key.len().min(MAX_KEY_BYTES)]);
        let key = key.map(|key| match std::str::from_utf8(key) {
            Ok(_) => key,
            Err(error) => &key[..error.valid_up_to()],
        });
        let params = [
            row.source.as_str().into(),
            row.rule.as_str().into(),
            row.watermark.into(),
            row.window_end.into(),
            row.began.into(),
            cursor.map(|cursor| cursor.at).into(),
            key.into(),
            whole(row.rows_seen),
            whole(row.made),
            whole(row.moved),
            whole(row.missed),
            row.looked_at.into(),
            row.error.as_deref().into(),
            row.remark.as_deref().into(),
        ];
        self.db.execute(&sql, &params).map(drop)
    }

    /// Writes when a source is to be looked at next.
    pub fn write_next_look(&mut self, name: &str, next: Option<UnixSeconds>) -> DbResult<()> {
        self.write_next_of(KIND, name, next)
    }

    /// Notes of which sources the tables are now: [`FINGERPRINT`].
    pub fn note_sources(&mut self, fingerprint: &str) -> DbResult<()> {
        let prefix = self.prefix.clone();
        migrate::write_meta(&mut *self.db, &prefix, FINGERPRINT, fingerprint)
    }

    /// All that has been derived of these keys.
    pub fn records_of<'k>(
        &mut self,
        source: &'k str,
        keys: impl ExactSizeIterator<Item = &'k str>,
    ) -> DbResult<Vec<Record>> {
        if keys.len() == 0 {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT {RECORD_COLUMNS} FROM /*_*/event_sources r{} LEFT JOIN /*_*/scheduled_events e \
             ON e.id = r.event_id WHERE r.source = ? AND r.derived_key IN {}",
            self.dialect().by_primary_key(),
            places(1, keys.len()),
        );
        let sql = self.sql(&sql);
        let mut params: Vec<Value<'_>> = vec![source.into()];
        params.extend(keys.map(Value::from));
        query_all(&mut *self.db, &sql, &params, read_record)
    }

    /// Up to `limit` records with live events behind `after` and no further than `end`, in order.
    /// `more` is a condition of ours on record `r` and event `e`.
    pub fn live_records(
        &mut self,
        source: &str,
        (after, end): (&Position, &Position),
        more: &str,
        limit: usize,
    ) -> DbResult<Vec<Record>> {
        // Nobody but the walk along the index may decide on the order of the join.
        let (join, index) = match self.dialect() {
            Dialect::Sqlite => ("CROSS JOIN", ""),
            Dialect::Mysql => ("STRAIGHT_JOIN", " FORCE INDEX (/*_*/event_sources_expiry)"),
        };
        let behind = match &after.key {
            Some(_) => " AND (r.expiry > ? OR r.derived_key > ?)",
            None => "",
        };
        let until = match &end.key {
            Some(_) => " AND r.expiry <= ? AND (r.expiry < ? OR r.derived_key <= ?)",
            None => " AND r.expiry < ?",
        };
        let sql = format!(
            "SELECT {RECORD_COLUMNS} FROM /*_*/event_sources r{index} \
             {join} /*_*/scheduled_events e{} ON e.id = r.event_id \
             WHERE r.source = ? AND r.expiry >= ?{behind}{until}{more} \
             ORDER BY r.expiry, r.derived_key LIMIT {limit}",
            self.dialect().by_primary_key(),
        );
        let sql = self.sql(&sql);
        let mut params: Vec<Value<'_>> = vec![source.into(), after.at.into()];
        if let Some(key) = &after.key {
            params.extend([after.at.into(), key.as_slice().into()]);
        }
        params.push(end.at.into());
        if let Some(key) = &end.key {
            params.extend([end.at.into(), key.as_slice().into()]);
        }
        query_all(&mut *self.db, &sql, &params, read_record)
    }

    /// Notes which scan missed these records; `None`: they were found after all.
    pub fn mark_records(
        &mut self,
        source: &str,
        records: &[&Record],
        missed_by: Option<UnixSeconds>,
    ) -> DbResult<()> {
        if records.is_empty() {
            return Ok(());
        }
        let statement = Statement::listed(self.dialect())
            .text("UPDATE /*_*/event_sources")
            .text(self.dialect().by_primary_key())
            .text(" SET watermark = ")
            .opt_int(missed_by.map(|at| at.0))
            .text(" WHERE source = ")
            .bound(source.to_owned());
        self.by_key_and_event(
            statement,
            records.iter().map(|one| (one.key.as_str(), one.event)),
        )
    }

    /// Adds the condition that a record is one of these, by the primary key, and executes.
    fn by_key_and_event<'k>(
        &mut self,
        mut statement: Statement<'k>,
        records: impl Iterator<Item = (&'k str, EventId)> + Clone,
    ) -> DbResult<()> {
        statement = statement.text(" AND derived_key IN (");
        for (index, (key, _)) in records.clone().enumerate() {
            statement = statement
                .text(if index == 0 { "" } else { ", " })
                .bound(key);
        }
        // Hidden from the planner on SQLite: a list of ids is no way to a record.
        let id = match self.dialect() {
            Dialect::Sqlite => ") AND +event_id",
            Dialect::Mysql => ") AND event_id",
        };
        let (sql, params) = statement
            .text(id)
            .among(records.map(|(_, event)| event))
            .finished(self);
        self.db.execute(&sql, &params).map(drop)
    }

    fn remove_records<'k>(
        &mut self,
        source: &str,
        records: impl Iterator<Item = (&'k str, EventId)> + Clone,
    ) -> DbResult<()> {
        let table = format!("{}event_sources", self.prefix);
        let delete = self.dialect().delete_by_primary_key(&table);
        let statement = Statement::listed(self.dialect())
            .text(&delete)
            .text(" WHERE source = ")
            .bound(source.to_owned());
        self.by_key_and_event(statement, records)
    }

    fn add_records<'k>(
        &mut self,
        source: &str,
        records: impl ExactSizeIterator<Item = (&'k str, UnixSeconds, EventId)>,
    ) -> DbResult<()> {
        if records.len() == 0 {
            return Ok(());
        }
        let sql = format!(
            "REPLACE INTO /*_*/event_sources (source, derived_key, expiry, event_id) VALUES {}",
            places(records.len(), 4)
        );
        let sql = self.sql(&sql);
        let mut params: Vec<Value<'_>> = Vec::with_capacity(records.len() * 4);
        for (key, expiry, event) in records {
            params.extend([source.into(), key.into(), expiry.into(), event.0.into()]);
        }
        self.db.execute(&sql, &params).map(drop)
    }

    /// Makes the events of `derived`, and their records. Returns those whose key another event has:
    /// they are left out. To be called in a transaction.
    ///
    /// # Errors
    /// [`Stopped::Changed`] where keys come and go meanwhile.
    pub fn derive<'d>(
        &mut self,
        derivation: &Derivation<'_>,
        derived: &[&'d Derived],
        now: UnixSeconds,
    ) -> Result<Vec<&'d Derived>, Stopped> {
        if derived.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "{} INTO /*_*/scheduled_events (type, due_at, payload, origin, slot_at, unique_key, \
             priority, created_at) VALUES {}",
            self.dialect().insert_or_ignore(),
            places(derived.len(), 8)
        );
        let sql = self.sql(&sql);
        let mut params: Vec<Value<'_>> = Vec::with_capacity(derived.len() * 8);
        for (number, one) in derived.iter().enumerate() {
            params.extend([
                derivation.type_name.into(),
                (derivation.due)(number, one).into(),
                one.payload.as_deref().into(),
                derivation.origin.into(),
                one.expiry.into(),
                one.key.as_str().into(),
                i64::from(derivation.priority).into(),
                now.into(),
            ]);
        }
        self.db.execute(&sql, &params)?;
        drop(params);
        let holders = self.holders(derivation.type_name, derived)?;
        let (mut made, mut taken) = (Vec::new(), Vec::new());
        for &one in derived {
            let Some((id, of, slot)) = holders.get(&one.key) else {
                return Err(Stopped::Changed);
            };
            if of == derivation.origin && *slot == Some(one.expiry) {
                made.push((one.key.as_str(), one.expiry, *id));
            } else {
                taken.push(one);
            }
        }
        self.add_records(derivation.source, made.into_iter())?;
        Ok(taken)
    }

    /// The keys of `derived` that ready events of this type have.
    pub fn taken_keys(
        &mut self,
        type_name: &str,
        derived: &[Derived],
    ) -> DbResult<HashSet<String>> {
        if derived.is_empty() {
            return Ok(HashSet::new());
        }
        let derived: Vec<&Derived> = derived.iter().collect();
        Ok(self.holders(type_name, &derived)?.into_keys().collect())
    }

    /// Who has the keys: the event, its origin and its slot.
    #[expect(clippy::type_complexity, reason = "read once, above")]
    fn holders(
        &mut self,
        type_name: &str,
        derived: &[&Derived],
    ) -> DbResult<HashMap<String, (EventId, String, Option<UnixSeconds>)>> {
        let index = self.hint(" FORCE INDEX (/*_*/scheduled_events_key)");
        let sql = format!(
            "SELECT unique_key, id, origin, slot_at FROM /*_*/scheduled_events{index} \
             WHERE type = ? AND unique_key IN {}",
            places(1, derived.len())
        );
        let sql = self.sql(&sql);
        let mut params: Vec<Value<'_>> = vec![type_name.into()];
        params.extend(derived.iter().map(|one| Value::from(one.key.as_str())));
        let mut holders = HashMap::with_capacity(derived.len());
        self.db.query(&sql, &params, &mut |row| {
            let slot = row.opt_int(3).map(UnixSeconds);
            holders.insert(row.text(0), (EventId(row.int(1)), row.text(2), slot));
            true
        })?;
        Ok(holders)
    }

    /// Moves ready events, and their records with them. To be called in a transaction.
    ///
    /// # Errors
    /// [`Stopped::Changed`] where one of them is no longer there, or no longer ready.
    pub fn move_derived(&mut self, name: &str, moves: &[Move<'_>]) -> Result<(), Stopped> {
        if moves.is_empty() {
            return Ok(());
        }
        let dialect = self.dialect();
        let mut update = Statement::listed(dialect)
            .text("UPDATE /*_*/scheduled_events")
            .text(dialect.by_primary_key())
            .text(" SET attempts = 0, deferrals = 0, first_due_at = NULL, due_at = CASE id");
        for one in moves {
            update = update
                .text(" WHEN ")
                .int(one.event.0)
                .text(" THEN ")
                .at(one.due_at);
        }
        update = update.text(" ELSE due_at END, slot_at = CASE id");
        for one in moves {
            update = update
                .text(" WHEN ")
                .int(one.event.0)
                .text(" THEN ")
                .at(one.to.expiry);
        }
        update = update.text(" ELSE slot_at END, payload = CASE id");
        for one in moves {
            let payload = one.to.payload.as_deref();
            update = update
                .text(" WHEN ")
                .int(one.event.0)
                .text(" THEN ")
                .bound(payload);
        }
        let (sql, params) = update
            .text(" ELSE payload END WHERE id")
            .among(moves.iter().map(|one| one.event))
            .text(" AND ")
            .text(dialect.guarded_status())
            .text(" = 'ready'")
            .finished(self);
        if self.db.execute(&sql, &params)? != moves.len() as u64 {
            return Err(Stopped::Changed);
        }
        let gone = moves.iter().map(|one| (one.to.key.as_str(), one.event));
        self.remove_records(name, gone)?;
        let new = moves.iter();
        let new = new.map(|one| (one.to.key.as_str(), one.to.expiry, one.event));
        Ok(self.add_records(name, new)?)
    }

    /// Cancels the events of `records`, which are ready, and forgets the records: they have not
    /// fired. To be called in a transaction.
    ///
    /// # Errors
    /// [`Stopped::Changed`] where one of them is no longer there, or no longer ready.
    pub fn cancel_derived(
        &mut self,
        (name, type_name): (&str, &str),
        records: &[Record],
        why: &str,
        (run_id, now): (i64, UnixSeconds),
    ) -> Result<(), Stopped> {
        if records.is_empty() {
            return Ok(());
        }
        let ack = |record: &Record| Ack::cancelled(record.event, type_name, why);
        let acks: Vec<Ack> = records.iter().map(ack).collect();
        let acks: Vec<&Ack> = acks.iter().collect();
        let writer = Writer::plain(Some(run_id), now);
        let outcome = Outcome::Cancelled;
        self.finish(
            Owner::Nobody,
            writer,
            &acks,
            outcome,
            Some(why),
            Tally::None,
        )?;
        let gone = records.iter().map(|one| (one.key.as_str(), one.event));
        Ok(self.remove_records(name, gone)?)
    }

    /// The names of up to `limit` sources whose last scan failed.
    pub fn failing_sources(&mut self, limit: usize) -> DbResult<Vec<String>> {
        let sql = format!(
            "SELECT source FROM /*_*/event_scans WHERE error IS NOT NULL AND rule <> '' \
             ORDER BY source LIMIT {limit}"
        );
        let sql = self.sql(&sql);
        query_all(&mut *self.db, &sql, &[], |row| row.text(0))
    }

    /// Forgets up to `limit` of the oldest records of a source that expired before `before` and
    /// whose events are through, and says how many.
    pub(super) fn forget_records(
        &mut self,
        source: &str,
        before: UnixSeconds,
        limit: usize,
    ) -> DbResult<usize> {
        let index = self.hint(" FORCE INDEX (/*_*/event_sources_expiry)");
        let sql = format!(
            "SELECT r.derived_key, r.event_id FROM /*_*/event_sources r{index} \
             WHERE r.source = ? AND r.expiry < ? AND NOT EXISTS \
             (SELECT 1 FROM /*_*/scheduled_events WHERE id = r.event_id) \
             ORDER BY r.expiry, r.derived_key LIMIT {limit}"
        );
        let sql = self.sql(&sql);
        let read = |row: &dyn Row| (row.text(0), EventId(row.int(1)));
        let gone = query_all(&mut *self.db, &sql, &[source.into(), before.into()], read)?;
        if !gone.is_empty() {
            let gone = gone.iter().map(|(key, event)| (key.as_str(), *event));
            self.remove_records(source, gone)?;
        }
        Ok(gone.len())
    }

    /// Forgets a source that is stated no more.
    pub(super) fn forget_scan(&mut self, source: &str) -> DbResult<()> {
        let sql = "DELETE FROM /*_*/event_scans WHERE source = ? AND NOT EXISTS \
                   (SELECT 1 FROM /*_*/event_sources r WHERE r.source = /*_*/event_scans.source)";
        let sql = self.sql(sql);
        self.db.execute(&sql, &[source.into()]).map(drop)
    }
}

/// What tells one set of sources from another; nothing for none.
pub fn fingerprint<'s>(sources: impl IntoIterator<Item = (&'s str, &'s Source)>) -> String {
    let sources = sources.into_iter();
    fingerprint_of(sources.map(|(name, source)| (name, source.to_json())))
}
