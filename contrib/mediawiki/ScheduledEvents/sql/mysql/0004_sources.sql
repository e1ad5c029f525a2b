-- punctual, schema 4, MySQL 5.7 / 8.x and MariaDB 10.3+: what sources need beside event_sources,
-- which holds what has been derived: a row for each key and expiry; `watermark` there is the
-- beginning of the scan that missed it. The columns and their order equal
-- sql/sqlite/0004_sources.sql; a test compares them.

-- How far each source has been looked at: up to `watermark`, and in the scan in hand, which `began`
-- and looks as far as `window_end`, up to the cursor. An empty rule: the source is stated no more.
CREATE TABLE IF NOT EXISTS /*_*/event_scans (
  source       VARBINARY(191) NOT NULL PRIMARY KEY,
  rule         BLOB           NOT NULL,
  watermark    BIGINT         NOT NULL,
  window_end   BIGINT         NOT NULL,
  began        BIGINT,
  cursor_at    BIGINT,
  cursor_key   VARBINARY(191),
  rows_seen    BIGINT         NOT NULL DEFAULT 0,
  made         BIGINT         NOT NULL DEFAULT 0,
  moved        BIGINT         NOT NULL DEFAULT 0,
  missed       BIGINT         NOT NULL DEFAULT 0,
  looked_at    BIGINT,
  error        BLOB,
  remark       BLOB
) ENGINE=InnoDB;

-- An index on event_sources, unless it is there: ADD KEY IF NOT EXISTS is MariaDB's alone. Where this
-- is applied by hand, the mark of the prefix is taken out of the names compared.
SET @punctual_add_key = (SELECT CASE COUNT(*)
  WHEN 0 THEN 'ALTER TABLE /*_*/event_sources ADD KEY /*_*/event_sources_expiry (source, expiry, derived_key)'
  ELSE 'DO 0' END
  FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE()
  AND TABLE_NAME = REPLACE('/*_*/event_sources', CONCAT('/', '*_*', '/'), '')
  AND INDEX_NAME = REPLACE('/*_*/event_sources_expiry', CONCAT('/', '*_*', '/'), ''));
PREPARE punctual_add_key FROM @punctual_add_key;
EXECUTE punctual_add_key;
DEALLOCATE PREPARE punctual_add_key;
