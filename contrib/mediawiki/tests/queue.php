<?php
/**
 * The queue class: what is delayed, what is not, counts, duplicates, transactions.
 *
 * @license GPL-2.0-or-later
 * @file
 */

use MediaWiki\MediaWikiServices;

require_once getenv( 'MW_INSTALL_PATH' ) . '/maintenance/Maintenance.php';
require_once __DIR__ . '/check.php';

class CheckQueue extends Maintenance {
	public function execute() {
		$this->checkDelayed();
		$this->checkDuplicates();
		$this->checkTransactions();
		$this->checkRefused();
		$this->checkReboundPurge();
	}

	private function checkDelayed() {
		$queue = queues()->get( 'null' );
		check( 'the class takes delayed jobs', true, $queue->delayedJobsEnabled() );
		$time = time() + 3600;
		queues()->push( [
			$this->job( [ 'n' => 1, 'jobReleaseTimestamp' => $time ] ),
			$this->job( [ 'n' => 2 ] ),
			$this->job( [ 'n' => 3, 'jobReleaseTimestamp' => time() - 5 ] ),
			$this->job( [ 'n' => 4, 'jobReleaseTimestamp' => wfTimestamp( TS_MW, $time + 1 ) ] ),
			$this->job( [ 'n' => 5, 'bytes' => "\xff\x00", 'jobReleaseTimestamp' => $time + 2 ] ),
		] );
		$params = static function ( $text ) {
			return serialize( $text );
		};
		$encoded = base64_encode( serialize( [
			'n' => 5, 'bytes' => "\xff\x00", 'jobReleaseTimestamp' => $time + 2,
		] ) );
		$payload = static function ( array $fields ) {
			return json_encode( [ 'job' => [ 'cmd' => 'null', 'namespace' => -1, 'title' => '' ] + $fields ] );
		};
		check( 'delayed jobs are events at their time', [
			[ 'mediawiki-job', (string)$time, null, $payload( [
				'params' => $params( [ 'n' => 1, 'jobReleaseTimestamp' => $time ] ), 'sha1' => '',
			] ) ],
			[ 'mediawiki-job', (string)( $time + 1 ), null, $payload( [
				'params' => $params( [ 'n' => 4, 'jobReleaseTimestamp' => wfTimestamp( TS_MW, $time + 1 ) ] ),
				'sha1' => '',
			] ) ],
			[ 'mediawiki-job', (string)( $time + 2 ), null, $payload( [
				'sha1' => '', 'params_base64' => $encoded,
			] ) ],
		], array_map( static function ( $row ) {
			$row[1] = (string)$row[1];
			return $row;
		}, events( 'type, due_at, unique_key, payload' ) ) );
		$queue->flushCaches();
		check( 'other jobs, and those whose time has come, are in the queue', 2, $queue->getSize() );
		check( 'delayed jobs are counted', 3, $queue->getDelayedCount() );
		check( 'those of other types are not', 0, queues()->get( 'cdnPurge' )->getDelayedCount() );
		$numbers = [];
		foreach ( $queue->getAllDelayedJobs() as $job ) {
			$numbers[] = [ $job->getType(), $job->getParams()['n'] ];
		}
		check( 'they can be iterated, bytes and all', [ [ 'null', 1 ], [ 'null', 4 ], [ 'null', 5 ] ], $numbers );
		$group = maintenance( 'showJobs.php', '--group' );
		check(
			'showJobs.php --group tells them apart',
			"null: 2 queued; 0 claimed (0 active, 0 abandoned); 3 delayed\n",
			$group
		);
		$listed = maintenance( 'showJobs.php', '--list', '--status=delayed' );
		check( 'showJobs.php --list lists them', 3, preg_match_all( '/status=delayed$/m', $listed ) ?: $listed );
		$api = json_decode( file_get_contents(
			getenv( 'WIKI' ) . '/api.php?action=query&meta=siteinfo&siprop=statistics&format=json'
		), true );
		check( "the site's statistics count what waits in the queue", 2, $api['query']['statistics']['jobs'] );
		fire();
		check( 'fired, none is delayed', 0, $queue->getDelayedCount() );
		$output = maintenance( 'runJobs.php' );
		check( 'and runJobs.php runs all', 5, preg_match_all( '/ good$/m', $output ) );
		queues()->push( $this->job( [ 'n' => 6, 'jobReleaseTimestamp' => $time ] ) );
		queues()->push( new JobSpecification( 'nullish', [ 'jobReleaseTimestamp' => $time ] ) );
		queues()->push( $this->job( [ 'n' => 7 ] ) );
		$queue->delete();
		$queue->flushCaches();
		check( 'delete() removes the queued and the delayed', [ 0, 0 ], [
			$queue->getSize(), $queue->getDelayedCount(),
		] );
		check( 'of its type', 1, queues()->get( 'nullish' )->getDelayedCount() );
		queues()->get( 'nullish' )->delete();
		check( 'and nothing is left', [], events( 'id' ) );
	}

	private function checkDuplicates() {
		$queue = queues()->get( 'null' );
		$time = time() + 3600;
		$once = static function ( $time ) {
			return new JobSpecification(
				'null',
				[ 'page' => 5, 'jobReleaseTimestamp' => $time ],
				[ 'removeDuplicates' => true ]
			);
		};
		$sha1 = Wikimedia\base_convert(
			sha1( serialize( [ 'type' => 'null', 'params' => [ 'page' => 5 ] ] ) ), 16, 36, 31
		);
		$waiting = static function () {
			return array_map( static function ( $row ) {
				return [ $row[0], (int)$row[1], json_decode( $row[2], true )['job']['sha1'] ];
			}, events( 'unique_key, due_at, payload' ) );
		};
		$group = queues();
		$group->push( $once( $time ) );
		$group->push( $once( $time + 60 ) );
		check( 'the same job waits once', [ [ "job:$sha1", $time, $sha1 ] ], $waiting() );
		$group->push( $once( $time - 60 ) );
		check( 'the earlier time wins', [ [ "job:$sha1", $time - 60, $sha1 ] ], $waiting() );
		$replaced = db()->selectRow(
			'event_history',
			[ 'unique_key', 'error' ],
			[ 'outcome' => 'cancelled' ],
			__METHOD__
		);
		check(
			'and which was replaced is in the history',
			[ "job:$sha1", 'replaced by a newer event with its key' ],
			array_values( (array)$replaced )
		);
		$group->push( [ $once( $time + 9 ), $once( $time - 90 ), $once( $time + 8 ) ] );
		check( 'within one push too', [ [ "job:$sha1", $time - 90, $sha1 ] ], $waiting() );
		$group->push( new JobSpecification( 'null', [ 'page' => 5 ], [ 'removeDuplicates' => true ] ) );
		$queue->flushCaches();
		check( 'one that is to run at once does so', [ 1, 1 ], [ $queue->getSize(), count( $waiting() ) ] );
		$group->push( [ $this->job( [ 'jobReleaseTimestamp' => $time ] ), $this->job( [
			'jobReleaseTimestamp' => $time ] ) ] );
		check( 'jobs that do not ask for it are not dropped', 3, $queue->getDelayedCount() );
		$queue->delete();
	}

	private function checkTransactions() {
		$later = $this->job( [ 'jobReleaseTimestamp' => time() + 3600 ] );
		$factory = MediaWikiServices::getInstance()->getDBLoadBalancerFactory();
		$this->beginTransaction( db(), __METHOD__ );
		db()->insert( 'updatelog', [ 'ul_key' => 'rolled back' ], __METHOD__ );
		queues()->push( $later );
		$this->rollbackTransaction( db(), __METHOD__ );
		check( 'a transaction that is rolled back leaves none', [], events( 'id' ) );

		$factory->beginPrimaryChanges( __METHOD__ );
		db()->insert( 'updatelog', [ 'ul_key' => 'rolled back too' ], __METHOD__ );
		queues()->push( $later );
		$factory->rollbackPrimaryChanges( __METHOD__ );
		check( 'nor does a round of transactions', [], events( 'id' ) );

		$factory->beginPrimaryChanges( __METHOD__ );
		queues()->push( $later );
		$factory->commitPrimaryChanges( __METHOD__ );
		check( 'a round that is committed has it', 1, count( events( 'id' ) ) );
		queues()->get( 'null' )->delete();

		db()->startAtomic( __METHOD__, Wikimedia\Rdbms\IDatabase::ATOMIC_CANCELABLE );
		queues()->push( $later );
		db()->cancelAtomic( __METHOD__ );
		check( 'nor does a section that is cancelled', [], events( 'id' ) );
	}

	private function checkRefused() {
		$conf = [ 'class' => 'JobQueueScheduled', 'domain' => 'wiki', 'type' => 'null', 'idGenerator' => null ];
		foreach ( [ 'server' => [ 'type' => 'sqlite' ], 'cluster' => 'elsewhere' ] as $name => $value ) {
			check(
				"a queue in another database is refused ($name)",
				"JobQueueError: JobQueueScheduled keeps jobs in the wiki's own database: remove '$name' " .
					'from its entry in $wgJobTypeConf.',
				thrown( static function () use ( $conf, $name, $value ) {
					JobQueue::factory( $conf + [ $name => $value ] );
				} )
			);
		}
		$push = static function ( array $params ) {
			return thrown( static function () use ( $params ) {
				queues()->push( new NullJob( $params + [ 'jobReleaseTimestamp' => time() + 60 ] ) );
			} );
		};
		check(
			'a job with an object is refused',
			"JobQueueError: The parameters of the 'null' job hold an object, which cannot be kept till later.",
			$push( [ 'a' => [ 'b' => new stdClass ] ] )
		);
		check(
			'and one that is too long',
			"JobQueueError: The parameters of the 'null' job are too long to be kept till later: " .
				'at most 1048576 bytes in all.',
			$push( [ 'a' => str_repeat( 'x', 1048576 ) ] )
		);
		check(
			'and one for the year 3001',
			"JobQueueError: The release time of the 'null' job is after the year 3000.",
			$push( [ 'jobReleaseTimestamp' => '30010101000000' ] )
		);
		check( 'and nothing of them is left', [], events( 'id' ) );
	}

	private function checkReboundPurge() {
		$before = time();
		$edited = maintenance( 'edit.php', '--summary', 'x', '--no-rc', 'Rebound' );
		check( 'a page is saved', 1, preg_match( '/done/', $edited ) ?: $edited );
		$queue = queues()->get( 'cdnPurge' );
		$waiting = $queue->getDelayedCount();
		check( "core's rebound purge waits", true, $waiting > 0 );
		foreach ( events( 'due_at' ) as [ $due ] ) {
			check( 'for as long as it says', true, $due >= $before + 20 && $due <= time() + 20 );
		}
		fire();
		$run = maintenance( 'runJobs.php' );
		check( 'and is run', $waiting, preg_match_all( '/cdnPurge .* good$/m', $run ) ?: $run );
	}

	/**
	 * @param array $params
	 * @return JobSpecification
	 */
	private function job( array $params ) {
		return new JobSpecification( 'null', $params );
	}
}

$maintClass = CheckQueue::class;
require_once RUN_MAINTENANCE_IF_MAIN;
