<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

namespace MediaWiki\Extension\ScheduledEvents;

use Exception;
use InvalidArgumentException;
use stdClass;
use Wikimedia\Rdbms\DBError;
use Wikimedia\Rdbms\DBQueryError;
use Wikimedia\Rdbms\IDatabase;
use Wikimedia\Rdbms\ILBFactory;
use Wikimedia\Timestamp\ConvertibleTimestamp;

/**
 * Events in `scheduled_events`: what punctual does later, whatever its type.
 *
 * All is done on MediaWiki's own connection to the primary database, in the caller's transaction: an
 * event exists if and only if that transaction commits. Without one, each call is one of its own.
 *
 * Service `ScheduledEvents.Store`. Times are Unix seconds, or whatever MediaWiki takes for a
 * timestamp; those returned are Unix seconds.
 */
class Store {
	/** The event that is there stays. */
	public const KEEP = 'keep';
	/** The event that is there is cancelled, and the new one added. */
	public const REPLACE = 'replace';
	/** The one due earliest stays. */
	public const EARLIEST = 'earliest';
	/** The one due latest stays. */
	public const LATEST = 'latest';

	/** Bytes of a type, of a key, of a payload; the year 3000, which the table takes as well. */
	private const MAX_TYPE = 64;
	private const MAX_KEY = 191;
	public const MAX_PAYLOAD = 1048576;
	public const MAX_TIME = 32503680000;

	/** How often a key that comes and goes between two statements is looked at. */
	private const LOOKS = 5;

	/** MySQL's number for a deadlock, and how often what met one is tried. */
	private const DEADLOCK = 1213;
	private const TRIES = 5;

	private const TABLE = 'scheduled_events';
	private const FIELDS = [
		'id', 'type', 'due_at', 'first_due_at', 'payload', 'unique_key', 'origin', 'slot_at',
		'priority', 'expires_at', 'status', 'attempts', 'losses', 'deferrals', 'last_error',
		'created_at',
	];
	/** Those of FIELDS that event_history has as well. */
	private const KEPT_IN_HISTORY = [
		'type', 'due_at', 'first_due_at', 'payload', 'unique_key', 'origin', 'slot_at', 'priority',
		'expires_at', 'attempts', 'losses', 'deferrals', 'created_at',
	];

	/** @var ILBFactory */
	private $lbFactory;

	/** @var string|false */
	private $domain;

	/**
	 * @param ILBFactory $lbFactory
	 * @param string|false $domain Of another wiki, whose tables are meant; false: this wiki
	 */
	public function __construct( ILBFactory $lbFactory, $domain = false ) {
		$this->lbFactory = $lbFactory;
		$this->domain = $domain;
	}

	/**
	 * Adds an event.
	 *
	 * @param string $type A [type.NAME] of punctual.toml; 1 to 64 bytes
	 * @param int|string $time Not fired before
	 * @param string|null $payload Passed on to what the type does; JSON by convention, up to 1 MiB
	 * @param array $options
	 *   - key: string of 1 to 191 bytes; at most one event of the type waits for a key
	 *   - ifExists: what happens where one does: Store::KEEP (default), REPLACE, EARLIEST, LATEST
	 *   - expires: int|string, not fired for the first time after this instant
	 *   - priority: int from -2 (first) to 2 (last), default 0
	 * @return array id: of the event that waits now; due_at: its time; created: false where it was
	 *   there before
	 * @throws InvalidArgumentException Where the table would not take it
	 * @throws StoreException Where the tables are missing
	 */
	public function schedule( $type, $time, $payload = null, array $options = [] ) {
		$unknown = array_diff( array_keys( $options ), [ 'key', 'ifExists', 'expires', 'priority' ] );
		if ( $unknown ) {
			throw new InvalidArgumentException( 'Unknown option: ' . implode( ', ', $unknown ) );
		}
		$ifExists = $options['ifExists'] ?? self::KEEP;
		if ( !in_array( $ifExists, [ self::KEEP, self::REPLACE, self::EARLIEST, self::LATEST ], true ) ) {
			throw new InvalidArgumentException( 'Unknown ifExists: ' . print_r( $ifExists, true ) );
		}
		$row = self::newRow(
			$type,
			$time,
			$payload,
			$options['key'] ?? null,
			$options['expires'] ?? null,
			$options['priority'] ?? 0
		);
		return $this->atomically( __METHOD__, function ( IDatabase $db ) use ( $row, $ifExists ) {
			return $this->add( $db, $row, $ifExists );
		} );
	}

	/**
	 * Adds events without keys, a few statements for many.
	 *
	 * @param string $type
	 * @param array[] $events Each a time and a payload
	 * @throws InvalidArgumentException Where the table would not take one of them
	 * @throws StoreException Where the tables are missing
	 */
	public function scheduleMany( $type, array $events ) {
		$rows = [];
		foreach ( $events as [ $time, $payload ] ) {
			$rows[] = self::newRow( $type, $time, $payload, null, null, 0 );
		}
		$this->atomically( __METHOD__, static function ( IDatabase $db ) use ( $rows ) {
			foreach ( array_chunk( $rows, 50 ) as $chunk ) {
				$db->insert( self::TABLE, $chunk, __METHOD__ );
			}
		} );
	}

	/**
	 * Cancels an event that waits. It is in event_history afterwards, as `cancelled`.
	 *
	 * @param int $id
	 * @return bool False where it does not wait: it is not there, or being fired
	 * @throws StoreException Where the tables are missing
	 */
	public function cancel( $id ) {
		return $this->atomically( __METHOD__, function ( IDatabase $db ) use ( $id ) {
			$row = $this->waiting( $db, [ 'id' => (int)$id ] );
			return $row && $this->remove( $db, $row, 'cancelled by the wiki' );
		} );
	}

	/**
	 * Puts an event that waits to another time. It gets a new id: a run that has read the old row
	 * finds it gone, and does not fire it at the old time. Its attempts so far are forgotten.
	 *
	 * @param int $id
	 * @param int|string $time
	 * @return array|null The event as it is now, as get() returns it; null where it does not wait
	 * @throws InvalidArgumentException Where $time is none
	 * @throws StoreException Where the tables are missing
	 */
	public function reschedule( $id, $time ) {
		$dueAt = self::toUnix( $time );
		return $this->atomically( __METHOD__, function ( IDatabase $db ) use ( $id, $dueAt ) {
			$row = $this->waiting( $db, [ 'id' => (int)$id ] );
			if ( !$row || !$this->remove( $db, $row, 'put to another time by the wiki' ) ) {
				return null;
			}
			$new = [
				'type' => $row->type,
				'due_at' => $dueAt,
				'payload' => $row->payload,
				'unique_key' => $row->unique_key,
				'priority' => (int)$row->priority,
				'expires_at' => self::intOrNull( $row->expires_at ),
				'created_at' => self::now(),
			];
			$db->insert( self::TABLE, $new, __METHOD__ );
			return self::asEvent( $this->waiting( $db, [ 'id' => $db->insertId() ] ) );
		} );
	}

	/**
	 * @param int $id
	 * @return array|null The event, or null where none is there: id, type, due_at, payload, key,
	 *   expires, priority, status (`ready` or `running`), attempts, last_error, created_at
	 * @throws StoreException Where the tables are missing
	 */
	public function get( $id ) {
		return $this->withTables( function ( IDatabase $db ) use ( $id ) {
			return self::asEvent(
				$db->selectRow( self::TABLE, self::FIELDS, [ 'id' => (int)$id ], __METHOD__ )
			);
		} );
	}

	/**
	 * @param string $type
	 * @param string $key
	 * @return array|null The event that waits for this key, as get() returns it
	 * @throws StoreException Where the tables are missing
	 */
	public function getByKey( $type, $key ) {
		return $this->withTables( function ( IDatabase $db ) use ( $type, $key ) {
			return self::asEvent(
				$this->waiting( $db, [ 'type' => (string)$type, 'unique_key' => (string)$key ] )
			);
		} );
	}

	/**
	 * The events that wait for keys with a common beginning.
	 *
	 * @param string $type
	 * @param string $prefix Not empty
	 * @param int $limit
	 * @return array[] As get() returns them, the one due first comes first
	 * @throws StoreException Where the tables are missing
	 */
	public function getByKeyPrefix( $type, $prefix, $limit ) {
		return $this->withTables( static function ( IDatabase $db ) use ( $type, $prefix, $limit ) {
			$res = $db->select(
				self::TABLE,
				self::FIELDS,
				self::keyBegins( $db, $type, $prefix ),
				__METHOD__,
				[ 'ORDER BY' => [ 'due_at', 'id' ], 'LIMIT' => $limit ]
			);
			$events = [];
			foreach ( $res as $row ) {
				$events[] = self::asEvent( $row );
			}
			return $events;
		} );
	}

	/**
	 * @param string $type
	 * @param string $prefix Not empty
	 * @return int How many events wait for keys with this beginning
	 * @throws StoreException Where the tables are missing
	 */
	public function countByKeyPrefix( $type, $prefix ) {
		return $this->withTables( static function ( IDatabase $db ) use ( $type, $prefix ) {
			return (int)$db->selectField(
				self::TABLE,
				'COUNT(*)',
				self::keyBegins( $db, $type, $prefix ),
				__METHOD__
			);
		} );
	}

	/**
	 * @return bool Whether update.php has been run with this extension
	 */
	public function isInstalled() {
		return $this->lbFactory->getMainLB( $this->domain )
			->getMaintenanceConnectionRef( self::primary(), [], $this->domain )
			->tableExists( self::TABLE, __METHOD__ );
	}

	/**
	 * @return IDatabase MediaWiki's own connection to the primary database, as part of its
	 *   transactions
	 */
	public function getPrimaryDB() {
		return $this->lbFactory->getMainLB( $this->domain )
			->getConnection( self::primary(), [], $this->domain );
	}

	/**
	 * @return int
	 */
	private static function primary() {
		// MediaWiki 1.35 has the constant under its older name only.
		return defined( 'DB_PRIMARY' ) ? constant( 'DB_PRIMARY' ) : constant( 'DB_MASTER' );
	}

	/**
	 * @param IDatabase $db
	 * @param array $row
	 * @param string $ifExists
	 * @return array
	 */
	private function add( IDatabase $db, array $row, $ifExists ) {
		for ( $look = 0; $look < self::LOOKS; $look++ ) {
			// Once another transaction was quicker, its row is seen by a locking read only.
			$there = $row['unique_key'] === null ? false : $this->waiting(
				$db,
				[ 'type' => $row['type'], 'unique_key' => $row['unique_key'] ],
				$look > 0
			);
			if ( $there ) {
				$dueAt = (int)$there->due_at;
				$keeps = $ifExists === self::KEEP ||
					( $ifExists === self::EARLIEST && $dueAt <= $row['due_at'] ) ||
					( $ifExists === self::LATEST && $dueAt >= $row['due_at'] );
				if ( $keeps ) {
					return [ 'id' => (int)$there->id, 'due_at' => $dueAt, 'created' => false ];
				}
				if ( !$this->remove( $db, $there, 'replaced by a newer event with its key' ) ) {
					continue;
				}
			}
			// The values were checked, so all that can be ignored is a key that is taken.
			$db->insert(
				self::TABLE,
				$row,
				__METHOD__,
				$row['unique_key'] === null ? [] : [ 'IGNORE' ]
			);
			if ( $db->affectedRows() === 1 ) {
				return [ 'id' => (int)$db->insertId(), 'due_at' => $row['due_at'], 'created' => true ];
			}
		}
		throw new StoreException( "The key {$row['unique_key']} comes and goes all the time; try again." );
	}

	/**
	 * @param IDatabase $db
	 * @param array $conds
	 * @param bool $lock
	 * @return stdClass|false
	 */
	private function waiting( IDatabase $db, array $conds, $lock = false ) {
		return $db->selectRow(
			self::TABLE,
			self::FIELDS,
			$conds + [ 'status' => 'ready' ],
			__METHOD__,
			$lock ? [ 'FOR UPDATE' ] : []
		);
	}

	/**
	 * Moves an event to the history.
	 *
	 * @param IDatabase $db
	 * @param stdClass $row
	 * @param string $why
	 * @return bool False where a run has taken it in the meantime
	 */
	private function remove( IDatabase $db, stdClass $row, $why ) {
		$db->delete( self::TABLE, [ 'id' => (int)$row->id, 'status' => 'ready' ], __METHOD__ );
		if ( $db->affectedRows() !== 1 ) {
			return false;
		}
		$ended = [
			'event_id' => (int)$row->id,
			'outcome' => 'cancelled',
			'finished_at' => self::now(),
			'error' => $why,
		];
		foreach ( self::KEPT_IN_HISTORY as $field ) {
			$ended[$field] = $row->$field;
		}
		$db->insert( 'event_history', $ended, __METHOD__ );
		return true;
	}

	/**
	 * @param IDatabase $db
	 * @param string $type
	 * @param string $prefix
	 * @return array Conditions
	 */
	private static function keyBegins( IDatabase $db, $type, $prefix ) {
		// A range, which the index on type and key serves. No key has the byte FF: they are UTF-8.
		$last = substr( $prefix, -1 );
		$end = substr( $prefix, 0, -1 ) . chr( ord( $last ) + 1 );
		return [
			'type' => (string)$type,
			'unique_key >= ' . $db->addQuotes( $prefix ),
			'unique_key < ' . $db->addQuotes( $end ),
			'status' => 'ready',
		];
	}

	/**
	 * @param string $fname
	 * @param callable $work
	 * @return mixed What $work returns
	 */
	private function atomically( $fname, callable $work ) {
		$section = static function ( IDatabase $db ) use ( $fname, $work ) {
			// Never with a savepoint: after a deadlock the server has none any more, and MediaWiki would
			// not get out of the transaction. What fails within one fails all of it.
			$cancelable = $db->trxLevel() ? IDatabase::ATOMIC_NOT_CANCELABLE : IDatabase::ATOMIC_CANCELABLE;
			return $db->doAtomicSection( $fname, $work, $cancelable );
		};
		return $this->withTables( function () use ( $section ) {
			return $this->againAfterDeadlock( $section );
		} );
	}

	/**
	 * Does the work again where MySQL chose it as the victim of a deadlock and there was no transaction
	 * before it. Within one, all of that transaction is rolled back, and so its owner's to do again.
	 *
	 * @internal For this extension
	 * @param callable $work
	 * @return mixed What $work returns
	 */
	public function againAfterDeadlock( callable $work ) {
		$db = $this->getPrimaryDB();
		for ( $try = 1; ; $try++ ) {
			try {
				return $work( $db );
			} catch ( Exception $e ) {
				$cause = $e instanceof DBQueryError ? $e : $e->getPrevious();
				$deadlock = $cause instanceof DBQueryError && (int)$cause->errno === self::DEADLOCK;
				if ( !$deadlock || $try === self::TRIES || $db->trxLevel() ) {
					throw $e;
				}
				usleep( mt_rand( 1000, 20000 ) * $try );
			}
		}
	}

	/**
	 * @param callable $work
	 * @return mixed What $work returns
	 */
	private function withTables( callable $work ) {
		$db = $this->getPrimaryDB();
		try {
			return $work( $db );
		} catch ( DBQueryError $e ) {
			throw self::explained( $db, $e );
		}
	}

	/**
	 * @internal For this extension
	 * @param IDatabase $db
	 * @param DBError $e What a query of these tables failed with
	 * @return DBError|StoreException With the remedy, where a table or a column is not there
	 */
	public static function explained( IDatabase $db, DBError $e ) {
		if ( !$e instanceof DBQueryError ) {
			return $e;
		}
		$missing = $db->getType() === 'sqlite'
			? preg_match( '/no such table|has no column named|no such column/', $e->error ) === 1
			: in_array( (int)$e->errno, [ 1054, 1146 ], true );
		return !$missing ? $e : new StoreException(
			'The tables of the extension ScheduledEvents are missing or of an older version: ' .
				'run maintenance/update.php.',
			0,
			$e
		);
	}

	/**
	 * @param string $type
	 * @param int|string $time
	 * @param string|null $payload
	 * @param string|null $key
	 * @param int|string|null $expires
	 * @param int $priority
	 * @return array The row to insert
	 */
	private static function newRow( $type, $time, $payload, $key, $expires, $priority ) {
		$type = (string)$type;
		if ( $type === '' || strlen( $type ) > self::MAX_TYPE ) {
			throw new InvalidArgumentException( 'A type has 1 to ' . self::MAX_TYPE . ' bytes.' );
		}
		if ( $payload !== null && strlen( $payload ) > self::MAX_PAYLOAD ) {
			throw new InvalidArgumentException( 'A payload has at most ' . self::MAX_PAYLOAD . ' bytes.' );
		}
		if ( $key !== null && ( $key === '' || strlen( $key ) > self::MAX_KEY ) ) {
			throw new InvalidArgumentException( 'A key has 1 to ' . self::MAX_KEY . ' bytes.' );
		}
		if ( !is_int( $priority ) || $priority < -2 || $priority > 2 ) {
			throw new InvalidArgumentException( 'A priority is a number from -2 to 2.' );
		}
		return [
			'type' => $type,
			'due_at' => self::toUnix( $time ),
			'payload' => $payload,
			'unique_key' => $key === null ? null : (string)$key,
			'priority' => $priority,
			'expires_at' => $expires === null ? null : self::toUnix( $expires ),
			'created_at' => self::now(),
		];
	}

	/**
	 * @param int|string $time
	 * @return int
	 */
	private static function toUnix( $time ) {
		// A number is Unix seconds however many digits it has.
		$unix = is_int( $time ) ? $time : ConvertibleTimestamp::convert( TS_UNIX, $time );
		if ( $unix === false || $time === '' || $unix < 0 || $unix > self::MAX_TIME ) {
			throw new InvalidArgumentException( 'Not a time from 1970 to 3000: ' . print_r( $time, true ) );
		}
		return (int)$unix;
	}

	/**
	 * @return int
	 */
	private static function now() {
		return (int)ConvertibleTimestamp::now( TS_UNIX );
	}

	/**
	 * @param stdClass|false $row
	 * @return array|null
	 */
	private static function asEvent( $row ) {
		if ( !$row ) {
			return null;
		}
		return [
			'id' => (int)$row->id,
			'type' => $row->type,
			'due_at' => (int)$row->due_at,
			'payload' => $row->payload,
			'key' => $row->unique_key,
			'expires' => self::intOrNull( $row->expires_at ),
			'priority' => (int)$row->priority,
			'status' => $row->status,
			'attempts' => (int)$row->attempts,
			'last_error' => $row->last_error,
			'created_at' => self::intOrNull( $row->created_at ),
		];
	}

	/**
	 * @param string|int|null $value
	 * @return int|null
	 */
	private static function intOrNull( $value ) {
		return $value === null ? null : (int)$value;
	}
}
