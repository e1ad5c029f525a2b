<?php
/**
 * The service ScheduledEvents.Store.
 *
 * @license GPL-2.0-or-later
 * @file
 */

use MediaWiki\Extension\ScheduledEvents\Store;
use MediaWiki\MediaWikiServices;

require_once getenv( 'MW_INSTALL_PATH' ) . '/maintenance/Maintenance.php';
require_once __DIR__ . '/check.php';

class CheckStore extends Maintenance {
	/** @var Store */
	private $store;

	public function execute() {
		$this->store = MediaWikiServices::getInstance()->getService( 'ScheduledEvents.Store' );
		$this->checkOne();
		$this->checkKeys();
		$this->checkTransactions();
		$this->checkDeadlocks();
		$this->checkRefused();
	}

	private function checkOne() {
		$time = time() + 3600;
		$added = $this->store->schedule( 'hello', $time, '{"a":1}', [ 'expires' => $time + 60, 'priority' => -1 ] );
		check( 'an event is scheduled', [ $time, true ], [ $added['due_at'], $added['created'] ] );
		$event = $this->store->get( $added['id'] );
		check( 'and got', [ 'hello', $time, '{"a":1}', null, $time + 60, -1, 'ready', 0 ], [
			$event['type'], $event['due_at'], $event['payload'], $event['key'], $event['expires'],
			$event['priority'], $event['status'], $event['attempts'],
		] );
		$moved = $this->store->reschedule( $added['id'], wfTimestamp( TS_MW, $time + 9 ) );
		check( 'and put to another time, as another row', [ $time + 9, '{"a":1}', -1, true, null ], [
			$moved['due_at'], $moved['payload'], $moved['priority'], $moved['id'] > $added['id'],
			$this->store->get( $added['id'] ),
		] );
		check( 'and cancelled, once', [ true, false ], [
			$this->store->cancel( $moved['id'] ), $this->store->cancel( $moved['id'] ),
		] );
		check( 'which the history knows', [ 'hello', 'cancelled', 'cancelled by the wiki' ], array_values( (array)db()
			->selectRow( 'event_history', [ 'type', 'outcome', 'error' ], [ 'event_id' => $moved['id'] ] ) ) );
		check( 'what is not there cannot be moved', null, $this->store->reschedule( $moved['id'], $time ) );
		$id = $this->store->schedule( 'hello', $time )['id'];
		db()->update( 'scheduled_events', [ 'status' => 'running' ], [ 'id' => $id ], __METHOD__ );
		check( 'what is being fired is left alone', [ false, null, 'running' ], [
			$this->store->cancel( $id ),
			$this->store->reschedule( $id, $time + 1 ),
			$this->store->get( $id )['status'],
		] );
		db()->delete( 'scheduled_events', [ 'id' => $id ], __METHOD__ );
	}

	private function checkKeys() {
		$time = time() + 3600;
		$add = function ( $time, $ifExists = null ) {
			$options = [ 'key' => 'k' ] + ( $ifExists ? [ 'ifExists' => $ifExists ] : [] );
			$added = $this->store->schedule( 'hello', $time, null, $options );
			return [ $added['created'], $this->store->getByKey( 'hello', 'k' )['due_at'] - $time ];
		};
		check( 'a key is new', [ true, 0 ], $add( $time ) );
		check( 'by default the event that is there stays', [ false, -5 ], $add( $time + 5 ) );
		check( 'or is replaced', [ true, 0 ], $add( $time + 10, Store::REPLACE ) );
		check( 'or the earliest stays', [ false, -5 ], $add( $time + 15, Store::EARLIEST ) );
		check( 'which may be the new one', [ true, 0 ], $add( $time + 5, Store::EARLIEST ) );
		check( 'or the latest stays', [ false, 1 ], $add( $time + 4, Store::LATEST ) );
		check( 'which may be the new one as well', [ true, 0 ], $add( $time + 6, Store::LATEST ) );
		check( 'of one key there is one', 1, count( events( 'id' ) ) );
		$this->store->schedule( 'hello', $time, null, [ 'key' => 'kk:1' ] );
		$this->store->schedule( 'hello', $time - 1, null, [ 'key' => 'kk:2' ] );
		$this->store->schedule( 'hello', $time, null, [ 'key' => 'kk;' ] );
		$this->store->schedule( 'other', $time, null, [ 'key' => 'kk:3' ] );
		check( 'keys are found by their beginning', [ 'kk:2', 'kk:1' ], array_column(
			$this->store->getByKeyPrefix( 'hello', 'kk:', 10 ), 'key'
		) );
		check( 'and counted', 2, $this->store->countByKeyPrefix( 'hello', 'kk:' ) );
		db()->delete( 'scheduled_events', '*', __METHOD__ );
	}

	private function checkTransactions() {
		$id = $this->store->schedule( 'hello', time() + 60 )['id'];
		$this->beginTransaction( db(), __METHOD__ );
		$this->store->schedule( 'hello', time() + 61 );
		$this->store->cancel( $id );
		check( 'in a transaction its events are seen', 1, count( events( 'id' ) ) );
		$this->rollbackTransaction( db(), __METHOD__ );
		check( 'and are gone with it', [ $id ], array_map( 'intval', array_column( events( 'id' ), 0 ) ) );
		$this->store->cancel( $id );
	}

	/**
	 * Deadlocks cannot be had to order: a trigger plays the server that chooses this insert.
	 */
	private function checkDeadlocks() {
		if ( db()->getType() !== 'mysql' ) {
			return;
		}
		$trigger = db()->tableName( 'victim' );
		db()->query( "CREATE TRIGGER $trigger BEFORE INSERT ON " . db()->tableName( 'scheduled_events' ) .
			' FOR EACH ROW BEGIN IF @deadlocks > 0 THEN SET @deadlocks = @deadlocks - 1; ' .
			"SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found'; " .
			'END IF; END', __METHOD__ );
		$ways = [
			'scheduling' => function () {
				$this->store->schedule( 'hello', time() + 60, null, [ 'key' => 'k' ] );
			},
			'pushing a job' => static function () {
				queues()->push( new JobSpecification( 'null', [ 'jobReleaseTimestamp' => time() + 60 ] ) );
			},
		];
		foreach ( $ways as $name => $way ) {
			db()->query( 'SET @deadlocks = 4', __METHOD__ );
			check( "$name outlasts four deadlocks", 'nothing', thrown( $way ) );
			check( '  and is done once', 1, count( events( 'id' ) ) );
			db()->delete( 'scheduled_events', '*', __METHOD__ );
			db()->query( 'SET @deadlocks = 5', __METHOD__ );
			check( '  and gives up at the fifth', 1, preg_match( '/Error 1213: Deadlock/', thrown( $way ) ) );
			check( '  and leaves nothing', [ 0, [] ], [ db()->trxLevel(), events( 'id' ) ] );
		}
		db()->query( 'SET @deadlocks = 1', __METHOD__ );
		$this->beginTransaction( db(), __METHOD__ );
		$victim = thrown( $ways['scheduling'] );
		$this->rollbackTransaction( db(), __METHOD__ );
		check( 'in a transaction the first is told', 1, preg_match( '/Error 1213: Deadlock/', $victim ) );
		db()->query( "DROP TRIGGER $trigger", __METHOD__ );
	}

	private function checkRefused() {
		$add = function ( ...$arguments ) {
			return thrown( function () use ( $arguments ) {
				$this->store->schedule( ...$arguments );
			} );
		};
		$time = time();
		foreach ( [
			'A type has 1 to 64 bytes.' => [ '', $time ],
			'A payload has at most 1048576 bytes.' => [ 'x', $time, str_repeat( 'x', 1048577 ) ],
			'A key has 1 to 191 bytes.' => [ 'x', $time, null, [ 'key' => str_repeat( 'x', 192 ) ] ],
			'A priority is a number from -2 to 2.' => [ 'x', $time, null, [ 'priority' => 3 ] ],
			'Not a time from 1970 to 3000: -1' => [ 'x', -1 ],
			'Not a time from 1970 to 3000: tomorrow' => [ 'x', 'tomorrow' ],
			'Not a time from 1970 to 3000: ' => [ 'x', '' ],
			'Unknown option: keys' => [ 'x', $time, null, [ 'keys' => 'x' ] ],
			'Unknown ifExists: maybe' => [ 'x', $time, null, [ 'ifExists' => 'maybe' ] ],
		] as $message => $arguments ) {
			check( "refused: $message", "InvalidArgumentException: $message", $add( ...$arguments ) );
		}
		check( 'and nothing was added', [], events( 'id' ) );
	}
}

$maintClass = CheckStore::class;
require_once RUN_MAINTENANCE_IF_MAIN;
