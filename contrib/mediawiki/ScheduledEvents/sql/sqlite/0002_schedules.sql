-- punctual, schema 2, SQLite: what schedules need beside event_schedules.
-- The columns and their order equal sql/mysql/0002_schedules.sql; a test compares them.

-- When each schedule has its next slot, and each source is looked at next (kind: `schedule` or
-- `source`): what an idle tick looks at. No row: none is to come.
CREATE TABLE IF NOT EXISTS /*_*/event_next (
  kind         TEXT    NOT NULL,
  name         TEXT    NOT NULL,
  slot         INTEGER NOT NULL,
  PRIMARY KEY (kind, name)
);
CREATE INDEX IF NOT EXISTS /*_*/event_next_slot ON /*_*/event_next (kind, slot, name);

-- The slots that became events: none twice, whatever clocks and backups do. `slots` is how many the
-- event stands for.
CREATE TABLE IF NOT EXISTS /*_*/event_slots (
  slot_id      INTEGER PRIMARY KEY AUTOINCREMENT,
  schedule     TEXT    NOT NULL,
  slot         INTEGER NOT NULL,
  slots        INTEGER NOT NULL,
  made_id      INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS /*_*/event_slots_slot ON /*_*/event_slots (schedule, slot);
CREATE INDEX IF NOT EXISTS /*_*/event_slots_made ON /*_*/event_slots (made_id);
CREATE INDEX IF NOT EXISTS /*_*/event_slots_time ON /*_*/event_slots (slot);
