<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

namespace MediaWiki\Extension\ScheduledEvents;

use IJobSpecification;
use JobQueueDB;
use JobQueueError;
use MediaWiki\MediaWikiServices;
use UnexpectedValueException;
use Wikimedia\Rdbms\DBError;
use Wikimedia\Rdbms\IDatabase;

/**
 * The database's job queue, for jobs that are to run later as well.
 *
 * A job with a release time that is still ahead becomes a row of `scheduled_events`, written on
 * MediaWiki's own connection as part of its transaction, right before the commit. When its time has
 * come, punctual moves it to the table `job`, exactly once. All other jobs go to `job` at once, as
 * JobQueueDB has it.
 *
 * A delayed job that is pushed to be without duplicates waits once: the earlier time wins. Whether
 * the same job is in `job` is looked at when it is moved there.
 *
 * For $wgJobTypeConf, without `server` and `cluster`: `scheduled_events` and `job` must be in one
 * database.
 */
class JobQueueScheduled extends JobQueueDB {
	/** @var Store|null */
	private $store;

	/**
	 * @param array $params As of JobQueueDB
	 */
	protected function __construct( array $params ) {
		foreach ( [ 'server', 'cluster' ] as $elsewhere ) {
			if ( isset( $params[$elsewhere] ) ) {
				throw new JobQueueError( "JobQueueScheduled keeps jobs in the wiki's own database: remove " .
					"'$elsewhere' from its entry in \$wgJobTypeConf." );
			}
		}
		parent::__construct( $params );
	}

	/** @inheritDoc */
	protected function supportsDelayedJobs() {
		return true;
	}

	/** @inheritDoc */
	protected function doBatchPush( array $jobs, $flags ) {
		$now = (int)wfTimestamp( TS_UNIX );
		$atOnce = [];
		$events = [];
		$keyed = [];
		foreach ( $jobs as $job ) {
			$time = (int)$job->getReleaseTimestamp();
			if ( $time <= $now ) {
				$atOnce[] = $job;
				continue;
			}
			// Whatever cannot be kept is told to the caller, and not to whoever commits.
			if ( $time > Store::MAX_TIME ) {
				throw new JobQueueError( "The release time of the '{$job->getType()}' job is after the year 3000." );
			}
			$fields = $this->eventFields( $job );
			if ( $fields['sha1'] === '' ) {
				$events[] = [ $time, self::encode( $fields ) ];
			} elseif ( !isset( $keyed[$fields['sha1']] ) || $keyed[$fields['sha1']][0] > $time ) {
				$keyed[$fields['sha1']] = [ $time, self::encode( $fields ) ];
			}
		}
		if ( $atOnce ) {
			parent::doBatchPush( $atOnce, $flags );
		}
		if ( !$events && !$keyed ) {
			return;
		}
		// Everywhere in the same order, so that two pushes do not wait for each other.
		ksort( $keyed, SORT_STRING );
		$pushed = count( $jobs ) - count( $atOnce );
		$fname = __METHOD__;
		$insert = function () use ( $events, $keyed, $pushed ) {
			$this->insertEvents( $events, $keyed, $pushed );
		};
		$this->getStore()->againAfterDeadlock( static function ( IDatabase $db ) use ( $insert, $fname ) {
			$db->onTransactionPreCommitOrIdle( $insert, $fname );
		} );
	}

	/**
	 * @param array[] $events Each a time and a payload
	 * @param array[] $keyed The same by hash
	 * @param int $pushed How many jobs they stand for
	 */
	private function insertEvents( array $events, array $keyed, $pushed ) {
		$type = self::eventType();
		$inserted = count( $events );
		try {
			if ( $events ) {
				$this->getStore()->scheduleMany( $type, $events );
			}
			foreach ( $keyed as $sha1 => [ $time, $payload ] ) {
				$added = $this->getStore()->schedule( $type, $time, $payload, [
					'key' => "job:$sha1",
					'ifExists' => Store::EARLIEST,
				] );
				$inserted += $added['created'] ? 1 : 0;
			}
		} catch ( DBError $e ) {
			throw $this->explained( $e );
		} catch ( StoreException $e ) {
			throw new JobQueueError( $e->getMessage(), 0, $e );
		}
		$this->incrStats( 'inserts', $this->type, $inserted );
		$this->incrStats( 'dupe_inserts', $this->type, $pushed - $inserted );
	}

	/**
	 * The payload of an event that puts this job into the table `job`.
	 *
	 * @param IJobSpecification $job Of this queue's type
	 * @return string JSON
	 * @throws JobQueueError Where the job cannot be kept till later
	 */
	public function eventPayload( IJobSpecification $job ) {
		return self::encode( $this->eventFields( $job ) );
	}

	/**
	 * @return string The type of the events that delayed jobs are
	 */
	public static function eventType() {
		return MediaWikiServices::getInstance()->getMainConfig()->get( 'ScheduledEventsJobType' );
	}

	/** @inheritDoc */
	protected function doGetDelayedCount() {
		$db = $this->getReplicaDB();
		try {
			return (int)$db->selectField(
				'scheduled_events',
				'COUNT(*)',
				$this->delayedConds( $db ),
				__METHOD__
			);
		} catch ( DBError $e ) {
			throw $this->explained( $e );
		}
	}

	/** @inheritDoc */
	public function getAllDelayedJobs() {
		$db = $this->getReplicaDB();
		try {
			$res = $db->select(
				'scheduled_events',
				[ 'id', 'payload', 'created_at' ],
				$this->delayedConds( $db ),
				__METHOD__,
				[ 'ORDER BY' => [ 'due_at', 'id' ] ]
			);
		} catch ( DBError $e ) {
			throw $this->explained( $e );
		}
		return ( function () use ( $res ) {
			foreach ( $res as $row ) {
				yield $this->jobFromEvent( $row );
			}
		} )();
	}

	/** @inheritDoc */
	protected function doDelete() {
		parent::doDelete();
		$db = $this->getStore()->getPrimaryDB();
		try {
			do {
				$ids = $db->selectFieldValues(
					'scheduled_events',
					'id',
					$this->delayedConds( $db ),
					__METHOD__,
					[ 'LIMIT' => 500 ]
				);
				if ( $ids ) {
					$this->deleteEvents( $db, $ids );
				}
			} while ( $ids );
		} catch ( DBError $e ) {
			throw $this->explained( $e );
		}
		return true;
	}

	/**
	 * @param IDatabase $db
	 * @param array $ids Those of them that wait are deleted
	 */
	private function deleteEvents( IDatabase $db, array $ids ) {
		if ( $db->getType() !== 'mysql' ) {
			$db->delete( 'scheduled_events', [ 'id' => $ids, 'status' => 'ready' ], __METHOD__ );
			return;
		}
		// A small table would be scanned, and so be locked whole, without the hint.
		$table = $db->tableName( 'scheduled_events' );
		$list = implode( ', ', array_map( 'intval', $ids ) );
		$db->query(
			"DELETE $table FROM $table FORCE INDEX (PRIMARY) WHERE id IN ($list) AND status = 'ready'",
			__METHOD__
		);
	}

	/**
	 * @param IDatabase $db
	 * @return array Conditions: the jobs of this queue that wait for their time
	 */
	private function delayedConds( IDatabase $db ) {
		// The range of the payloads that encode() makes of this type. LIKE would ignore case on SQLite.
		$begins = '{"job":{"cmd":' . self::json( $this->type );
		return [
			'status' => 'ready',
			'type' => self::eventType(),
			'payload >= ' . $db->addQuotes( $begins . ',' ),
			'payload < ' . $db->addQuotes( $begins . '-' ),
		];
	}

	/**
	 * @param IJobSpecification $job
	 * @return array What the table `job` is to hold
	 */
	private function eventFields( IJobSpecification $job ) {
		if ( self::holdsObject( $job->getParams() ) ) {
			throw new JobQueueError( "The parameters of the '{$job->getType()}' job hold an object, " .
				'which cannot be kept till later.' );
		}
		$row = $this->insertFields( $job, $this->getReplicaDB() );
		return [
			'cmd' => $row['job_cmd'],
			'namespace' => (int)$row['job_namespace'],
			'title' => (string)$row['job_title'],
			'params' => $row['job_params'],
			'sha1' => $job->ignoreDuplicates() ? $row['job_sha1'] : '',
		];
	}

	/**
	 * @param mixed $value
	 * @return bool
	 */
	private static function holdsObject( $value ) {
		if ( !is_array( $value ) ) {
			return is_object( $value );
		}
		foreach ( $value as $item ) {
			if ( self::holdsObject( $item ) ) {
				return true;
			}
		}
		return false;
	}

	/**
	 * @param array $fields
	 * @return string
	 */
	private static function encode( array $fields ) {
		$params = $fields['params'];
		if ( !mb_check_encoding( $params, 'UTF-8' ) ) {
			unset( $fields['params'] );
			$fields['params_base64'] = base64_encode( $params );
		}
		$payload = self::json( [ 'job' => $fields ] );
		if ( strlen( $payload ) > Store::MAX_PAYLOAD ) {
			throw new JobQueueError( "The parameters of the '{$fields['cmd']}' job are too long to be kept " .
				'till later: at most ' . Store::MAX_PAYLOAD . ' bytes in all.' );
		}
		return $payload;
	}

	/**
	 * @param mixed $value
	 * @return string
	 */
	private static function json( $value ) {
		$text = json_encode( $value, JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE );
		if ( $text === false ) {
			throw new JobQueueError( 'A job that cannot be kept till later: ' . json_last_error_msg() );
		}
		return $text;
	}

	/**
	 * @param \stdClass $row
	 * @return \RunnableJob
	 */
	private function jobFromEvent( $row ) {
		$fields = json_decode( (string)$row->payload, true )['job'] ?? null;
		$params = $fields['params'] ?? base64_decode( $fields['params_base64'] ?? '' );
		if ( !$fields || !is_string( $params ) || self::holdsObject( self::unserialized( $params ) ) ) {
			throw new UnexpectedValueException( "The event {$row->id} holds no job." );
		}
		$job = $this->jobFromRow( (object)[
			// The table `job` has none of it yet: whoever acknowledged this one would delete another.
			'job_id' => null,
			'job_cmd' => $fields['cmd'],
			'job_namespace' => $fields['namespace'],
			'job_title' => $fields['title'],
			'job_params' => $params,
			'job_timestamp' => wfTimestamp( TS_MW, (int)$row->created_at ),
		] );
		return $job;
	}

	/**
	 * @param string $text
	 * @return mixed
	 */
	private static function unserialized( $text ) {
		return unserialize( $text, [ 'allowed_classes' => false ] );
	}

	/**
	 * @param DBError $e What a query of `scheduled_events` failed with
	 * @return JobQueueError
	 */
	private function explained( DBError $e ) {
		$explained = Store::explained( $this->getStore()->getPrimaryDB(), $e );
		$what = $explained instanceof StoreException ? '' : get_class( $e ) . ': ';
		return new JobQueueError( $what . $explained->getMessage(), 0, $e );
	}

	/**
	 * @return Store
	 */
	private function getStore() {
		if ( !$this->store ) {
			$this->store = new Store(
				MediaWikiServices::getInstance()->getDBLoadBalancerFactory(),
				$this->domain
			);
		}
		return $this->store;
	}
}

// The short name, as $wgJobTypeConf may have it.
class_alias( JobQueueScheduled::class, 'JobQueueScheduled' );
