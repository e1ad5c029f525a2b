//! Schedules and their slots: what is stated, how far it has come, which slots became events. The
//! watermark `last_slot` only moves under the condition of what was seen.

use std::collections::HashMap;

use super::statement::Statement;
use super::{Stopped, Store};
use crate::clock::UnixSeconds;
use crate::db::{DbResult, Row, migrate, query_all, query_one};
use crate::event::{Event, EventId, Slot};
use crate::schedule::Schedule;

/// The name in `punctual_meta` of [`fingerprint`].
pub const FINGERPRINT: &str = "schedules";
/// The name in `punctual_meta` of the edition of the zones' rules.
pub const ZONE_DATA: &str = "zone_data";
/// What stands in `origin` before a schedule's name.
pub const ORIGIN: &str = "schedule:";

/// A schedule as the tables have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRow {
    /// `name`.
    pub name: String,
    /// `rule`: JSON, see [`Schedule`].
    pub rule: String,
    /// `last_slot`: slots up to it have been dealt with.
    pub last_slot: UnixSeconds,
    /// `paused_until`: slots up to it do not count.
    pub paused_until: Option<UnixSeconds>,
    /// When it is to be looked at next.
    pub next: Option<UnixSeconds>,
}

impl ScheduleRow {
    /// Slots up to it are no longer to become events, as seen from `now`.
    pub fn since(&self) -> UnixSeconds {
        self.last_slot.max(self.paused_until.unwrap_or_default())
    }

    /// The first slot that is to become one.
    pub fn first_slot(&self) -> Option<UnixSeconds> {
        let schedule = Schedule::from_json(&self.rule).ok()?;
        let slots = schedule.recurrence().ok().filter(|_| schedule.enabled)?;
        slots.next_after(self.since())
    }
}

/// A slot that becomes an event.
#[derive(Debug, Clone, Copy)]
pub struct NewSlot<'a> {
    /// The schedule.
    pub schedule: &'a str,
    /// Which slot.
    pub at: UnixSeconds,
    /// How many slots the event stands for.
    pub slots: u64,
    /// When it is due.
    pub due_at: UnixSeconds,
    /// Its type.
    pub type_name: &'a str,
    /// Its payload.
    pub payload: Option<&'a str>,
    /// Its priority.
    pub priority: i8,
    /// Where it is from.
    pub origin: &'a str,
}

const SCHEDULE_COLUMNS: &str = "s.name, s.rule, s.last_slot, s.paused_until, n.slot";

fn read_schedule(row: &dyn Row) -> ScheduleRow {
    ScheduleRow {
        name: row.text(0),
        rule: row.text(1),
        last_slot: UnixSeconds(row.int(2)),
        paused_until: row.opt_int(3).map(UnixSeconds),
        next: row.opt_int(4).map(UnixSeconds),
    }
}

impl Store {
    /// All schedules, by name.
    pub fn schedules(&mut self) -> DbResult<Vec<ScheduleRow>> {
        let sql = format!(
            "SELECT {SCHEDULE_COLUMNS} FROM /*_*/event_schedules s \
             LEFT JOIN /*_*/event_next n ON n.kind = 'schedule' AND n.name = s.name ORDER BY s.name"
        );
        let sql = self.sql(&sql);
        query_all(&mut *self.db, &sql, &[], read_schedule)
    }

    /// One schedule.
    pub fn schedule(&mut self, name: &str) -> DbResult<Option<ScheduleRow>> {
        let sql = format!(
            "SELECT {SCHEDULE_COLUMNS} FROM /*_*/event_schedules s \
             LEFT JOIN /*_*/event_next n ON n.kind = 'schedule' AND n.name = s.name WHERE s.name = ?"
        );
        let sql = self.sql(&sql);
        query_one(&mut *self.db, &sql, &[name.into()], read_schedule)
    }

    /// Up to `limit` schedules with a slot that has come by `cutoff`, by slot and name, behind
    /// `after`.
    pub fn schedules_due(
        &mut self,
        cutoff: UnixSeconds,
        after: Option<(UnixSeconds, &str)>,
        limit: usize,
    ) -> DbResult<Vec<ScheduleRow>> {
        let (slot, name) = after.unwrap_or((UnixSeconds(-1), ""));
        let (sql, params) = Statement::fixed(self.dialect())
            .text("SELECT n.name, s.rule, s.last_slot, s.paused_until, n.slot FROM ")
            .text("/*_*/event_next n")
            .text(self.hint(" FORCE INDEX (/*_*/event_next_slot)"))
            .text(" LEFT JOIN /*_*/event_schedules s ON s.name = n.name ")
            .text("WHERE n.kind = 'schedule' AND n.slot <= ")
            .at(cutoff)
            .text(" AND n.slot >= ")
            .at(slot)
            .text(" AND (n.slot > ")
            .at(slot)
            .text(" OR n.name > ")
            .bound(name)
            .text(") ORDER BY n.kind, n.slot, n.name LIMIT ")
            .int(i64::try_from(limit).unwrap_or(i64::MAX))
            .finished(self);
        query_all(&mut *self.db, &sql, &params, read_schedule)
    }

    /// Moves the watermark of a schedule that is still as it was `seen` and not paused at `now`;
    /// false: it is not.
    pub fn pass_slots(
        &mut self,
        seen: &ScheduleRow,
        last: UnixSeconds,
        now: UnixSeconds,
    ) -> DbResult<bool> {
        let sql = "UPDATE /*_*/event_schedules SET last_slot = ?, paused_until = NULL \
                   WHERE name = ? AND last_slot = ? AND rule = ? \
                   AND (paused_until IS NULL OR paused_until <= ?)";
        let sql = self.sql(sql);
        let params = [
            last.into(),
            seen.name.as_str().into(),
            seen.last_slot.into(),
            seen.rule.as_str().into(),
            now.into(),
        ];
        Ok(self.db.execute(&sql, &params)? == 1)
    }

    /// Makes the event of a slot; `None`: that slot has become one before.
    pub fn make_event(
        &mut self,
        slot: &NewSlot<'_>,
        now: UnixSeconds,
    ) -> DbResult<Option<EventId>> {
        let sql = "INSERT INTO /*_*/scheduled_events (type, due_at, payload, origin, slot_at, \
                   priority, created_at) SELECT ?, ?, ?, ?, ?, ?, ? FROM (SELECT 1 AS one) AS one \
                   WHERE NOT EXISTS \
                   (SELECT 1 FROM /*_*/event_slots WHERE schedule = ? AND slot = ?)";
        let sql = self.sql(sql);
        let params = [
            slot.type_name.into(),
            slot.due_at.into(),
            slot.payload.into(),
            slot.origin.into(),
            slot.at.into(),
            i64::from(slot.priority).into(),
            now.into(),
            slot.schedule.into(),
            slot.at.into(),
        ];
        if self.db.execute(&sql, &params)? == 0 {
            return Ok(None);
        }
        let id = EventId(self.db.last_insert_id());
        let sql = "INSERT INTO /*_*/event_slots (schedule, slot, slots, made_id) \
                   VALUES (?, ?, ?, ?)";
        let sql = self.sql(sql);
        let slots = i64::try_from(slot.slots).unwrap_or(i64::MAX);
        let params = [
            slot.schedule.into(),
            slot.at.into(),
            slots.into(),
            id.0.into(),
        ];
        self.db.execute(&sql, &params)?;
        Ok(Some(id))
    }

    /// Tells those of `events` that a schedule made for how many slots they stand.
    pub(super) fn tell_slots<'e>(
        &mut self,
        events: impl IntoIterator<Item = &'e mut Event>,
    ) -> DbResult<()> {
        let events = events.into_iter();
        let made: Vec<&mut Event> = events.filter(|event| event.slot.is_some()).collect();
        if made.is_empty() {
            return Ok(());
        }
        let (sql, params) = Statement::listed(self.dialect())
            .text("SELECT made_id, slots FROM /*_*/event_slots")
            .text(self.hint(" FORCE INDEX (/*_*/event_slots_made)"))
            .text(" WHERE made_id")
            .among(made.iter().map(|event| event.id))
            .finished(self);
        let mut told = HashMap::new();
        self.db.query(&sql, &params, &mut |row| {
            let slots = u64::try_from(row.int(1)).unwrap_or(0).max(1);
            told.insert(EventId(row.int(0)), slots);
            true
        })?;
        for event in made {
            let slots = told.get(&event.id).copied().unwrap_or(1);
            event.slot = event.slot.map(|slot| Slot { slots, ..slot });
        }
        Ok(())
    }

    /// Writes when a schedule has its next slot.
    pub fn write_next(&mut self, name: &str, next: Option<UnixSeconds>) -> DbResult<()> {
        self.write_next_of("schedule", name, next)
    }

    /// Writes when a thing of some kind is to be looked at next.
    pub(super) fn write_next_of(
        &mut self,
        kind: &str,
        name: &str,
        next: Option<UnixSeconds>,
    ) -> DbResult<()> {
        let Some(next) = next else {
            let sql = self.sql("DELETE FROM /*_*/event_next WHERE kind = ? AND name = ?");
            let params = [kind.into(), name.into()];
            return self.db.execute(&sql, &params).map(drop);
        };
        let sql = self.sql("REPLACE INTO /*_*/event_next (kind, name, slot) VALUES (?, ?, ?)");
        let params = [kind.into(), name.into(), next.into()];
        self.db.execute(&sql, &params).map(drop)
    }

    /// Adds a schedule that has nothing behind it. To be called in a transaction.
    ///
    /// # Errors
    /// `Duplicate` where there is one of its name.
    pub fn add_schedule(&mut self, row: &ScheduleRow, now: UnixSeconds) -> DbResult<()> {
        let sql = "INSERT INTO /*_*/event_schedules \
                   (name, rule, last_slot, paused_until, updated_at) VALUES (?, ?, ?, ?, ?)";
        let sql = self.sql(sql);
        let params = [
            row.name.as_str().into(),
            row.rule.as_str().into(),
            row.last_slot.into(),
            row.paused_until.into(),
            now.into(),
        ];
        self.db.execute(&sql, &params)?;
        self.write_next(&row.name, row.first_slot())
    }

    /// Writes a schedule anew that was `seen` so. To be called in a transaction.
    ///
    /// # Errors
    /// [`Stopped::Changed`] where it is no longer as it was seen.
    pub fn change_schedule(
        &mut self,
        seen: &ScheduleRow,
        row: &ScheduleRow,
        now: UnixSeconds,
    ) -> Result<(), Stopped> {
        let sql = "UPDATE /*_*/event_schedules SET rule = ?, last_slot = ?, paused_until = ?, \
                   updated_at = ? WHERE name = ? AND rule = ? AND last_slot = ? \
                   AND COALESCE(paused_until, -1) = ?";
        let sql = self.sql(sql);
        let params = [
            row.rule.as_str().into(),
            row.last_slot.into(),
            row.paused_until.into(),
            now.into(),
            row.name.as_str().into(),
            seen.rule.as_str().into(),
            seen.last_slot.into(),
            seen.paused_until.unwrap_or(UnixSeconds(-1)).into(),
        ];
        if self.db.execute(&sql, &params)? != 1 {
            return Err(Stopped::Changed);
        }
        Ok(self.write_next(&row.name, row.first_slot())?)
    }

    /// Removes a schedule; the events it made stay. To be called in a transaction.
    pub fn remove_schedule(&mut self, name: &str) -> DbResult<()> {
        let sql = self.sql("DELETE FROM /*_*/event_schedules WHERE name = ?");
        self.db.execute(&sql, &[name.into()])?;
        self.write_next(name, None)
    }

    /// Notes what the tables hold now: [`FINGERPRINT`] and [`ZONE_DATA`].
    pub fn note_schedules(&mut self, fingerprint: &str, zone_data: &str) -> DbResult<()> {
        let prefix = self.prefix.clone();
        migrate::write_meta(&mut *self.db, &prefix, FINGERPRINT, fingerprint)?;
        migrate::write_meta(&mut *self.db, &prefix, ZONE_DATA, zone_data)
    }

    /// The last `limit` slots of a schedule that became events, the newest first: the slot, for how
    /// many it stands, the event.
    pub fn made_slots(
        &mut self,
        name: &str,
        limit: usize,
    ) -> DbResult<Vec<(UnixSeconds, u64, EventId)>> {
        let sql = format!(
            "SELECT slot, slots, made_id FROM /*_*/event_slots WHERE schedule = ? \
             ORDER BY slot DESC LIMIT {limit}"
        );
        let sql = self.sql(&sql);
        query_all(&mut *self.db, &sql, &[name.into()], |row| {
            let slots = u64::try_from(row.int(1)).unwrap_or(0);
            (UnixSeconds(row.int(0)), slots, EventId(row.int(2)))
        })
    }

    /// The names of up to `limit` schedules whose watermark is later than `at`.
    pub fn schedules_ahead(&mut self, at: UnixSeconds, limit: usize) -> DbResult<Vec<String>> {
        let sql = format!(
            "SELECT name FROM /*_*/event_schedules WHERE last_slot > {at} \
             ORDER BY name LIMIT {limit}"
        );
        let sql = self.sql(&sql);
        query_all(&mut *self.db, &sql, &[], |row| row.text(0))
    }
}

/// What tells one set of schedules from another; nothing for none.
pub fn fingerprint<'s>(schedules: impl IntoIterator<Item = (&'s str, &'s Schedule)>) -> String {
    let schedules = schedules.into_iter();
    fingerprint_of(schedules.map(|(name, schedule)| (name, schedule.to_json())))
}

/// What tells one set of rules, each with its name, from another; nothing for none.
pub(super) fn fingerprint_of<'s>(rules: impl IntoIterator<Item = (&'s str, String)>) -> String {
    use sha2::{Digest, Sha256};
    let mut digest = Sha256::new();
    let mut is_empty = true;
    for (name, rule) in rules {
        is_empty = false;
        for part in [name, &rule] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
    }
    if is_empty {
        return String::new();
    }
    crate::token::hex(&digest.finalize())
}
