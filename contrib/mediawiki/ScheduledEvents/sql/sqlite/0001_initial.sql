-- punctual, schema 1, SQLite. Also usable by hand. What the configuration calls `table_prefix`
-- stands before the name of every table and index.
-- The columns and their order equal sql/mysql/0001_initial.sql; a test compares them.
-- Readable and writable by the older SQLite that PHP ships: no STRICT, no unixepoch().

-- Only what is still to be dealt with. All *_at are Unix seconds, UTC.
CREATE TABLE IF NOT EXISTS /*_*/scheduled_events (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  type         TEXT    NOT NULL CHECK (length(CAST(type AS BLOB)) BETWEEN 1 AND 64),
  due_at       INTEGER NOT NULL CHECK (typeof(due_at) = 'integer' AND due_at BETWEEN 0 AND 32503680000),
  first_due_at INTEGER,
  payload      TEXT    CHECK (payload IS NULL OR length(CAST(payload AS BLOB)) <= 1048576),
  unique_key   TEXT    CHECK (unique_key IS NULL OR length(CAST(unique_key AS BLOB)) <= 191),
  held_key     TEXT,
  origin       TEXT,
  slot_at      INTEGER,
  priority     INTEGER NOT NULL DEFAULT 0 CHECK (typeof(priority) = 'integer' AND priority BETWEEN -2 AND 2),
  expires_at   INTEGER CHECK (expires_at IS NULL OR (typeof(expires_at) = 'integer' AND expires_at BETWEEN 0 AND 32503680000)),
  status       TEXT    NOT NULL DEFAULT 'ready' CHECK (status IN ('ready', 'running')),
  attempts     INTEGER NOT NULL DEFAULT 0,
  losses       INTEGER NOT NULL DEFAULT 0,
  deferrals    INTEGER NOT NULL DEFAULT 0,
  claim_epoch  INTEGER,
  claim_until  INTEGER,
  last_error   TEXT,
  created_at   INTEGER
);
CREATE UNIQUE INDEX IF NOT EXISTS /*_*/scheduled_events_key ON /*_*/scheduled_events (type, unique_key);
CREATE INDEX IF NOT EXISTS /*_*/scheduled_events_turn ON /*_*/scheduled_events (status, type, priority, due_at, id);
CREATE INDEX IF NOT EXISTS /*_*/scheduled_events_due ON /*_*/scheduled_events (status, due_at, id);

-- What became of each event.
CREATE TABLE IF NOT EXISTS /*_*/event_history (
  history_id   INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id     INTEGER NOT NULL,
  type         TEXT    NOT NULL,
  due_at       INTEGER NOT NULL,
  first_due_at INTEGER,
  payload      TEXT,
  unique_key   TEXT,
  origin       TEXT,
  slot_at      INTEGER,
  priority     INTEGER NOT NULL,
  expires_at   INTEGER,
  attempts     INTEGER NOT NULL,
  losses       INTEGER NOT NULL,
  deferrals    INTEGER NOT NULL,
  created_at   INTEGER,
  outcome      TEXT    NOT NULL,
  finished_at  INTEGER NOT NULL,
  run_id       INTEGER,
  lateness_s   INTEGER,
  duration_ms  INTEGER,
  error        TEXT,
  resolved_at  INTEGER,
  resolved_as  TEXT
);
CREATE INDEX IF NOT EXISTS /*_*/event_history_event ON /*_*/event_history (event_id);
CREATE INDEX IF NOT EXISTS /*_*/event_history_outcome ON /*_*/event_history (outcome, resolved_at, finished_at);

-- One line per decision that is not plain success.
CREATE TABLE IF NOT EXISTS /*_*/event_log (
  log_id       INTEGER PRIMARY KEY AUTOINCREMENT,
  logged_at    INTEGER NOT NULL,
  run_id       INTEGER,
  event_id     INTEGER,
  type         TEXT,
  decision     TEXT    NOT NULL,
  detail       TEXT
);
CREATE INDEX IF NOT EXISTS /*_*/event_log_event ON /*_*/event_log (event_id);
CREATE INDEX IF NOT EXISTS /*_*/event_log_time ON /*_*/event_log (logged_at);

-- One row a run that had work: what it is dealing with, how far it came, how it ended.
CREATE TABLE IF NOT EXISTS /*_*/event_runs (
  run_id        INTEGER PRIMARY KEY AUTOINCREMENT,
  epoch         INTEGER NOT NULL,
  host          TEXT    NOT NULL,
  pid           INTEGER NOT NULL,
  lock_id       TEXT    NOT NULL,
  started_at    INTEGER NOT NULL,
  cutoff        INTEGER NOT NULL,
  deadline_at   INTEGER,
  wave_type     TEXT,
  wave_first_id INTEGER,
  wave_last_id  INTEGER,
  wave_events   INTEGER,
  progress      TEXT,
  finished_at   INTEGER,
  stop          TEXT,
  waves         INTEGER NOT NULL DEFAULT 0,
  fired         INTEGER NOT NULL DEFAULT 0,
  done          INTEGER NOT NULL DEFAULT 0,
  retried       INTEGER NOT NULL DEFAULT 0,
  deferred      INTEGER NOT NULL DEFAULT 0,
  dead          INTEGER NOT NULL DEFAULT 0,
  skipped       INTEGER NOT NULL DEFAULT 0,
  cancelled     INTEGER NOT NULL DEFAULT 0,
  unknown       INTEGER NOT NULL DEFAULT 0,
  withdrawn     INTEGER NOT NULL DEFAULT 0,
  recovered     INTEGER NOT NULL DEFAULT 0,
  released      INTEGER NOT NULL DEFAULT 0,
  remaining_due INTEGER
);
CREATE INDEX IF NOT EXISTS /*_*/event_runs_finished ON /*_*/event_runs (finished_at);
CREATE INDEX IF NOT EXISTS /*_*/event_runs_epoch ON /*_*/event_runs (epoch);

-- Who may claim: the row that correctness rests on. Never deleted.
CREATE TABLE IF NOT EXISTS /*_*/event_lease (
  name         TEXT    NOT NULL PRIMARY KEY,
  epoch        INTEGER NOT NULL DEFAULT 0,
  holder       TEXT    NOT NULL DEFAULT '',
  run_id       INTEGER,
  host         TEXT    NOT NULL DEFAULT '',
  pid          INTEGER,
  lock_id      TEXT    NOT NULL DEFAULT '',
  beat_at      INTEGER NOT NULL DEFAULT 0,
  ttl          INTEGER NOT NULL DEFAULT 0,
  last_tick_at INTEGER,
  prune_at     INTEGER NOT NULL DEFAULT 0
);
INSERT OR IGNORE INTO /*_*/event_lease (name) VALUES ('run');

-- What is remembered of a type: breaker, pause, rate.
CREATE TABLE IF NOT EXISTS /*_*/event_types (
  type         TEXT    NOT NULL PRIMARY KEY,
  failures     INTEGER NOT NULL DEFAULT 0,
  open_until   INTEGER,
  paused_until INTEGER,
  tokens_milli INTEGER,
  tokens_at    INTEGER
);

-- Recurring rules; last_slot is the watermark.
CREATE TABLE IF NOT EXISTS /*_*/event_schedules (
  name         TEXT    NOT NULL PRIMARY KEY,
  rule         TEXT    NOT NULL,
  last_slot    INTEGER,
  paused_until INTEGER,
  updated_at   INTEGER NOT NULL
);

-- Watermarks of sources, and what has been derived from them.
CREATE TABLE IF NOT EXISTS /*_*/event_sources (
  source       TEXT    NOT NULL,
  derived_key  TEXT    NOT NULL,
  expiry       INTEGER NOT NULL,
  event_id     INTEGER,
  watermark    INTEGER,
  PRIMARY KEY (source, derived_key, expiry)
);

-- Ticks that found another run at work.
CREATE TABLE IF NOT EXISTS /*_*/event_aside (
  aside_id     INTEGER PRIMARY KEY AUTOINCREMENT,
  aside_at     INTEGER NOT NULL,
  host         TEXT    NOT NULL,
  lock_id      TEXT    NOT NULL,
  ticks        INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX IF NOT EXISTS /*_*/event_aside_lock ON /*_*/event_aside (lock_id, aside_at);

CREATE TABLE IF NOT EXISTS /*_*/punctual_meta (
  name         TEXT    NOT NULL PRIMARY KEY,
  value        TEXT    NOT NULL
);
