-- punctual, schema 4, SQLite: what sources need beside event_sources, which holds what has been
-- derived: a row for each key and expiry; `watermark` there is the beginning of the scan that missed
-- it. The columns and their order equal sql/mysql/0004_sources.sql; a test compares them.

-- How far each source has been looked at: up to `watermark`, and in the scan in hand, which `began`
-- and looks as far as `window_end`, up to the cursor. An empty rule: the source is stated no more.
CREATE TABLE IF NOT EXISTS /*_*/event_scans (
  source       TEXT    NOT NULL PRIMARY KEY,
  rule         TEXT    NOT NULL,
  watermark    INTEGER NOT NULL,
  window_end   INTEGER NOT NULL,
  began        INTEGER,
  cursor_at    INTEGER,
  cursor_key   TEXT,
  rows_seen    INTEGER NOT NULL DEFAULT 0,
  made         INTEGER NOT NULL DEFAULT 0,
  moved        INTEGER NOT NULL DEFAULT 0,
  missed       INTEGER NOT NULL DEFAULT 0,
  looked_at    INTEGER,
  error        TEXT,
  remark       TEXT
);
CREATE INDEX IF NOT EXISTS /*_*/event_sources_expiry ON /*_*/event_sources (source, expiry, derived_key);
