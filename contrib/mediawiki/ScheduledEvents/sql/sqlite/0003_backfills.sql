-- punctual, schema 3, SQLite: what backfills need.
-- The columns and their order equal sql/mysql/0003_backfills.sql; a test compares them.

-- Work of the past that was created by hand, and how far its writing has come: rows behind `place`
-- are not written yet. Never pruned: a plan is applied once. History rows of its events have ids
-- greater than history_from.
CREATE TABLE IF NOT EXISTS /*_*/event_backfills (
  backfill_id  INTEGER PRIMARY KEY AUTOINCREMENT,
  plan         TEXT    NOT NULL,
  sort         TEXT    NOT NULL,
  selection    TEXT    NOT NULL,
  state        TEXT    NOT NULL,
  rate         TEXT    NOT NULL,
  most         INTEGER,
  planned      INTEGER NOT NULL,
  written      INTEGER NOT NULL DEFAULT 0,
  place        TEXT    NOT NULL DEFAULT '',
  history_from INTEGER NOT NULL,
  created_at   INTEGER NOT NULL,
  finished_at  INTEGER,
  cancelled_at INTEGER
);
CREATE UNIQUE INDEX IF NOT EXISTS /*_*/event_backfills_plan ON /*_*/event_backfills (plan);
