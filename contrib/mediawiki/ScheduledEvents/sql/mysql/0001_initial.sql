-- punctual, schema 1, MySQL 5.7 / 8.x and MariaDB 10.3+. Also usable by hand. What the
-- configuration calls `table_prefix` stands before the name of every table and index.
-- The columns and their order equal sql/sqlite/0001_initial.sql; a test compares them.
-- Strings are VARBINARY: under utf8mb4_bin 'x ' would equal 'x'. MySQL 5.7 parses and ignores CHECK:
-- `punctual check` and `punctual list` name the rows that slipped through.

-- Only what is still to be dealt with. All *_at are Unix seconds, UTC.
CREATE TABLE IF NOT EXISTS /*_*/scheduled_events (
  id           BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
  type         VARBINARY(64)  NOT NULL CHECK (LENGTH(type) >= 1),
  due_at       BIGINT         NOT NULL CHECK (due_at BETWEEN 0 AND 32503680000),
  first_due_at BIGINT,
  payload      MEDIUMBLOB     CHECK (payload IS NULL OR LENGTH(payload) <= 1048576),
  unique_key   VARBINARY(191),
  held_key     VARBINARY(191),
  origin       VARBINARY(191),
  slot_at      BIGINT,
  priority     TINYINT        NOT NULL DEFAULT 0 CHECK (priority BETWEEN -2 AND 2),
  expires_at   BIGINT         CHECK (expires_at IS NULL OR expires_at BETWEEN 0 AND 32503680000),
  status       VARBINARY(8)   NOT NULL DEFAULT 'ready' CHECK (status IN ('ready', 'running')),
  attempts     INT            NOT NULL DEFAULT 0,
  losses       INT            NOT NULL DEFAULT 0,
  deferrals    INT            NOT NULL DEFAULT 0,
  claim_epoch  BIGINT,
  claim_until  BIGINT,
  last_error   VARBINARY(2048),
  created_at   BIGINT,
  UNIQUE KEY /*_*/scheduled_events_key (type, unique_key),
  KEY /*_*/scheduled_events_turn (status, type, priority, due_at, id),
  KEY /*_*/scheduled_events_due (status, due_at, id)
) ENGINE=InnoDB;

-- What became of each event.
CREATE TABLE IF NOT EXISTS /*_*/event_history (
  history_id   BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
  event_id     BIGINT         NOT NULL,
  type         VARBINARY(64)  NOT NULL,
  due_at       BIGINT         NOT NULL,
  first_due_at BIGINT,
  payload      MEDIUMBLOB,
  unique_key   VARBINARY(191),
  origin       VARBINARY(191),
  slot_at      BIGINT,
  priority     TINYINT        NOT NULL,
  expires_at   BIGINT,
  attempts     INT            NOT NULL,
  losses       INT            NOT NULL,
  deferrals    INT            NOT NULL,
  created_at   BIGINT,
  outcome      VARBINARY(16)  NOT NULL,
  finished_at  BIGINT         NOT NULL,
  run_id       BIGINT,
  lateness_s   BIGINT,
  duration_ms  BIGINT,
  error        VARBINARY(2048),
  resolved_at  BIGINT,
  resolved_as  VARBINARY(16),
  KEY /*_*/event_history_event (event_id),
  KEY /*_*/event_history_outcome (outcome, resolved_at, finished_at)
) ENGINE=InnoDB;

-- One line per decision that is not plain success.
CREATE TABLE IF NOT EXISTS /*_*/event_log (
  log_id       BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
  logged_at    BIGINT         NOT NULL,
  run_id       BIGINT,
  event_id     BIGINT,
  type         VARBINARY(64),
  decision     VARBINARY(32)  NOT NULL,
  detail       VARBINARY(2048),
  KEY /*_*/event_log_event (event_id),
  KEY /*_*/event_log_time (logged_at)
) ENGINE=InnoDB;

-- One row a run that had work: what it is dealing with, how far it came, how it ended.
CREATE TABLE IF NOT EXISTS /*_*/event_runs (
  run_id        BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
  epoch         BIGINT         NOT NULL,
  host          VARBINARY(255) NOT NULL,
  pid           BIGINT         NOT NULL,
  lock_id       VARBINARY(160) NOT NULL,
  started_at    BIGINT         NOT NULL,
  cutoff        BIGINT         NOT NULL,
  deadline_at   BIGINT,
  wave_type     VARBINARY(64),
  wave_first_id BIGINT,
  wave_last_id  BIGINT,
  wave_events   INT,
  progress      MEDIUMBLOB,
  finished_at   BIGINT,
  stop          VARBINARY(16),
  waves         BIGINT         NOT NULL DEFAULT 0,
  fired         BIGINT         NOT NULL DEFAULT 0,
  done          BIGINT         NOT NULL DEFAULT 0,
  retried       BIGINT         NOT NULL DEFAULT 0,
  deferred      BIGINT         NOT NULL DEFAULT 0,
  dead          BIGINT         NOT NULL DEFAULT 0,
  skipped       BIGINT         NOT NULL DEFAULT 0,
  cancelled     BIGINT         NOT NULL DEFAULT 0,
  unknown       BIGINT         NOT NULL DEFAULT 0,
  withdrawn     BIGINT         NOT NULL DEFAULT 0,
  recovered     BIGINT         NOT NULL DEFAULT 0,
  released      BIGINT         NOT NULL DEFAULT 0,
  remaining_due BIGINT,
  KEY /*_*/event_runs_finished (finished_at),
  KEY /*_*/event_runs_epoch (epoch)
) ENGINE=InnoDB;

-- Who may claim: the row that correctness rests on. Never deleted.
CREATE TABLE IF NOT EXISTS /*_*/event_lease (
  name         VARBINARY(64)  NOT NULL PRIMARY KEY,
  epoch        BIGINT         NOT NULL DEFAULT 0,
  holder       VARBINARY(64)  NOT NULL DEFAULT '',
  run_id       BIGINT,
  host         VARBINARY(255) NOT NULL DEFAULT '',
  pid          BIGINT,
  lock_id      VARBINARY(160) NOT NULL DEFAULT '',
  beat_at      BIGINT         NOT NULL DEFAULT 0,
  ttl          BIGINT         NOT NULL DEFAULT 0,
  last_tick_at BIGINT,
  prune_at     BIGINT         NOT NULL DEFAULT 0
) ENGINE=InnoDB;
INSERT IGNORE INTO /*_*/event_lease (name) VALUES ('run');

-- What is remembered of a type: breaker, pause, rate.
CREATE TABLE IF NOT EXISTS /*_*/event_types (
  type         VARBINARY(64)  NOT NULL PRIMARY KEY,
  failures     INT            NOT NULL DEFAULT 0,
  open_until   BIGINT,
  paused_until BIGINT,
  tokens_milli BIGINT,
  tokens_at    BIGINT
) ENGINE=InnoDB;

-- Recurring rules; last_slot is the watermark.
CREATE TABLE IF NOT EXISTS /*_*/event_schedules (
  name         VARBINARY(191) NOT NULL PRIMARY KEY,
  rule         BLOB           NOT NULL,
  last_slot    BIGINT,
  paused_until BIGINT,
  updated_at   BIGINT         NOT NULL
) ENGINE=InnoDB;

-- Watermarks of sources, and what has been derived from them.
CREATE TABLE IF NOT EXISTS /*_*/event_sources (
  source       VARBINARY(191) NOT NULL,
  derived_key  VARBINARY(191) NOT NULL,
  expiry       BIGINT         NOT NULL,
  event_id     BIGINT,
  watermark    BIGINT,
  PRIMARY KEY (source, derived_key, expiry)
) ENGINE=InnoDB;

-- Ticks that found another run at work.
CREATE TABLE IF NOT EXISTS /*_*/event_aside (
  aside_id     BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
  aside_at     BIGINT         NOT NULL,
  host         VARBINARY(255) NOT NULL,
  lock_id      VARBINARY(160) NOT NULL,
  ticks        BIGINT         NOT NULL DEFAULT 1,
  KEY /*_*/event_aside_lock (lock_id, aside_at)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS /*_*/punctual_meta (
  name         VARBINARY(64)  NOT NULL PRIMARY KEY,
  value        VARBINARY(2048) NOT NULL
) ENGINE=InnoDB;
