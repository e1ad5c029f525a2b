<?php
/**
 * Several processes that push the same delayed jobs at once.
 *
 * @license GPL-2.0-or-later
 * @file
 */

require_once getenv( 'MW_INSTALL_PATH' ) . '/maintenance/Maintenance.php';
require_once __DIR__ . '/check.php';

class CheckAtOnce extends Maintenance {
	private const PROCESSES = 6;
	private const PUSHES = 200;
	private const KEYS = 3;

	public function __construct() {
		parent::__construct();
		$this->addOption( 'seed', 'Push, do not check', false, true );
	}

	public function execute() {
		if ( $this->hasOption( 'seed' ) ) {
			$this->push( (int)$this->getOption( 'seed' ) );
			return;
		}
		$base = $this->base();
		$processes = [];
		for ( $seed = 1; $seed <= self::PROCESSES; $seed++ ) {
			$command = [ PHP_BINARY, __FILE__, '--conf', getenv( 'MW_CONFIG_FILE' ), '--seed', (string)$seed ];
			$processes[] = popen( implode( ' ', array_map( 'escapeshellarg', $command ) ) . ' 2>&1', 'r' );
		}
		$said = '';
		foreach ( $processes as $process ) {
			$said .= stream_get_contents( $process );
			pclose( $process );
		}
		check( self::PROCESSES . ' processes push at once, and none fails', '', $said );
		$earliest = [];
		for ( $seed = 1; $seed <= self::PROCESSES; $seed++ ) {
			foreach ( $this->times( $seed ) as [ $key, $time ] ) {
				$earliest[$key] = min( $earliest[$key] ?? PHP_INT_MAX, $base + $time );
			}
		}
		ksort( $earliest );
		$found = [];
		foreach ( queues()->get( 'null' )->getAllDelayedJobs() as $job ) {
			$found[] = [ $job->getParams()['key'], (int)$job->getReleaseTimestamp() ];
		}
		sort( $found );
		check( 'each job waits once, for its earliest time', array_map( null, array_keys( $earliest ), $earliest ), $found );
		queues()->get( 'null' )->delete();
	}

	/**
	 * @param int $seed
	 */
	private function push( $seed ) {
		foreach ( $this->times( $seed ) as [ $key, $time ] ) {
			queues()->push( new JobSpecification(
				'null',
				[ 'key' => $key, 'jobReleaseTimestamp' => $this->base() + $time ],
				[ 'removeDuplicates' => true ]
			) );
		}
	}

	/**
	 * @return int The same to all processes
	 */
	private function base() {
		$file = getenv( 'WIKI_DIRECTORY' ) . '/base';
		if ( !file_exists( $file ) ) {
			file_put_contents( $file, time() + 100000 );
		}
		return (int)file_get_contents( $file );
	}

	/**
	 * @param int $seed
	 * @return array[]
	 */
	private function times( $seed ) {
		mt_srand( $seed );
		$times = [];
		for ( $n = 0; $n < self::PUSHES; $n++ ) {
			// Ever earlier, so that rows are replaced all the time.
			$times[] = [ mt_rand( 1, self::KEYS ), ( self::PUSHES - $n ) * 100 + mt_rand( 0, 99 ) ];
		}
		return $times;
	}
}

$maintClass = CheckAtOnce::class;
require_once RUN_MAINTENANCE_IF_MAIN;
