<?php
/**
 * A wiki with the extension before update.php.
 *
 * @license GPL-2.0-or-later
 * @file
 */

use MediaWiki\MediaWikiServices;

require_once getenv( 'MW_INSTALL_PATH' ) . '/maintenance/Maintenance.php';
require_once __DIR__ . '/check.php';

class CheckWithoutTables extends Maintenance {
	public function execute() {
		$store = MediaWikiServices::getInstance()->getService( 'ScheduledEvents.Store' );
		check( 'the store says that it is not installed', false, $store->isInstalled() );
		$missing = 'The tables of the extension ScheduledEvents are missing or of an older version: ' .
			'run maintenance/update.php.';
		check(
			'scheduling says what to do',
			"MediaWiki\\Extension\\ScheduledEvents\\StoreException: $missing",
			thrown( static function () use ( $store ) {
				$store->schedule( 'hello', time() + 60 );
			} )
		);
		$later = new JobSpecification( 'null', [ 'jobReleaseTimestamp' => time() + 60 ] );
		check( 'pushing a delayed job says what to do', "JobQueueError: $missing", thrown(
			static function () use ( $later ) {
				queues()->push( $later );
			}
		) );
		queues()->push( new JobSpecification( 'null', [] ) );
		check( 'other jobs go to the queue', 1, queues()->get( 'null' )->getSize() );
		check( 'counting delayed jobs says what to do', "JobQueueError: $missing", thrown( static function () {
			queues()->get( 'null' )->getDelayedCount();
		} ) );
		maintenance( 'runJobs.php' );
	}
}

$maintClass = CheckWithoutTables::class;
require_once RUN_MAINTENANCE_IF_MAIN;
