-- punctual, schema 3, MySQL 5.7 / 8.x and MariaDB 10.3+: what backfills need. The columns and their
-- order equal sql/sqlite/0003_backfills.sql; a test compares them. A new table only: nothing that a
-- site has is rebuilt, and it may be repeated.

-- Work of the past that was created by hand, and how far its writing has come: rows behind `place`
-- are not written yet. Never pruned: a plan is applied once. History rows of its events have ids
-- greater than history_from.
CREATE TABLE IF NOT EXISTS /*_*/event_backfills (
  backfill_id  BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
  plan         VARBINARY(64)  NOT NULL,
  sort         VARBINARY(16)  NOT NULL,
  selection    MEDIUMBLOB     NOT NULL,
  state        VARBINARY(64)  NOT NULL,
  rate         VARBINARY(16)  NOT NULL,
  most         BIGINT,
  planned      BIGINT         NOT NULL,
  written      BIGINT         NOT NULL DEFAULT 0,
  place        VARBINARY(255) NOT NULL DEFAULT '',
  history_from BIGINT         NOT NULL,
  created_at   BIGINT         NOT NULL,
  finished_at  BIGINT,
  cancelled_at BIGINT,
  UNIQUE KEY /*_*/event_backfills_plan (plan)
) ENGINE=InnoDB;
