-- punctual, schema 2, MySQL 5.7 / 8.x and MariaDB 10.3+: what schedules need beside
-- event_schedules. The columns and their order equal sql/sqlite/0002_schedules.sql; a test compares
-- them. New tables only: nothing that a site has is rebuilt, and it may be repeated.

-- When each schedule has its next slot, and each source is looked at next (kind: `schedule` or
-- `source`): what an idle tick looks at. No row: none is to come.
CREATE TABLE IF NOT EXISTS /*_*/event_next (
  kind         VARBINARY(16)  NOT NULL,
  name         VARBINARY(191) NOT NULL,
  slot         BIGINT         NOT NULL,
  PRIMARY KEY (kind, name),
  KEY /*_*/event_next_slot (kind, slot, name)
) ENGINE=InnoDB;

-- The slots that became events: none twice, whatever clocks and backups do. `slots` is how many the
-- event stands for.
CREATE TABLE IF NOT EXISTS /*_*/event_slots (
  slot_id      BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
  schedule     VARBINARY(191) NOT NULL,
  slot         BIGINT         NOT NULL,
  slots        BIGINT         NOT NULL,
  made_id      BIGINT         NOT NULL,
  UNIQUE KEY /*_*/event_slots_slot (schedule, slot),
  KEY /*_*/event_slots_made (made_id),
  KEY /*_*/event_slots_time (slot)
) ENGINE=InnoDB;
