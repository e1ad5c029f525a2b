<?php
/**
 * What the checks have in common: each prints a line, and the first that fails ends the script.
 *
 * @license GPL-2.0-or-later
 * @file
 */

use MediaWiki\MediaWikiServices;

/**
 * @param string $sentence
 * @param mixed $expected
 * @param mixed $actual
 */
function check( $sentence, $expected, $actual ) {
	$kind = explode( ':', getenv( 'DATABASE' ) )[0] === 'sqlite' ? 'sqlite' : 'mariadb';
	if ( $expected === $actual ) {
		echo "ok $kind: $sentence\n";
		return;
	}
	echo "FAILED $kind: $sentence\n";
	echo 'expected ' . var_export( $expected, true ) . "\nfound ";
	echo is_string( $actual ) ? $actual : var_export( $actual, true );
	echo "\n";
	exit( 1 );
}

/**
 * @param callable $work
 * @return string The message of what it throws, with its class
 */
function thrown( callable $work ) {
	try {
		$work();
	} catch ( Throwable $e ) {
		return get_class( $e ) . ': ' . $e->getMessage();
	}
	return 'nothing';
}

/**
 * @return \Wikimedia\Rdbms\IMaintainableDatabase
 */
function db() {
	return MediaWikiServices::getInstance()->getDBLoadBalancerFactory()->getMainLB()
		->getMaintenanceConnectionRef( -2 );
}

/**
 * @return JobQueueGroup
 */
function queues() {
	$services = MediaWikiServices::getInstance();
	return method_exists( $services, 'getJobQueueGroup' )
		? $services->getJobQueueGroup()
		: JobQueueGroup::singleton();
}

/**
 * @param string $fields
 * @return array[] Rows of scheduled_events as lists of strings
 */
function events( $fields ) {
	$rows = [];
	$fields = explode( ', ', $fields );
	foreach ( db()->select( 'scheduled_events', $fields, '', __METHOD__, [ 'ORDER BY' => 'id' ] ) as $row ) {
		$rows[] = array_values( (array)$row );
	}
	return $rows;
}

/**
 * Makes all events of jobs due, and lets punctual fire them. Where it is not there, this moves them to
 * the table `job` as it would.
 */
function fire() {
	$db = db();
	$jobs = [ 'type' => 'mediawiki-job' ];
	if ( getenv( 'PUNCTUAL' ) ) {
		$db->update( 'scheduled_events', [ 'due_at' => time() - 1 ], $jobs, __METHOD__ );
		exec( escapeshellarg( getenv( 'PUNCTUAL' ) ) . ' run 2>&1 </dev/null', $said, $code );
		$dead = $db->selectFieldValues( 'event_history', 'error', [ 'outcome' => 'dead' ], __METHOD__ );
		if ( $code !== 0 || $said || $dead ) {
			check( 'punctual fires what is due', [ 0, [], [] ], [ $code, $said, $dead ] );
		}
		return;
	}
	foreach ( $db->select( 'scheduled_events', '*', $jobs, __METHOD__ ) as $row ) {
		$job = json_decode( $row->payload, true )['job'];
		$db->insert( 'job', [
			'job_cmd' => $job['cmd'],
			'job_namespace' => $job['namespace'],
			'job_title' => $job['title'],
			'job_params' => $job['params'] ?? base64_decode( $job['params_base64'] ),
			'job_timestamp' => $db->timestamp(),
			'job_sha1' => $job['sha1'],
			'job_random' => 1,
		], __METHOD__ );
		$db->delete( 'scheduled_events', [ 'id' => $row->id ], __METHOD__ );
	}
}

/**
 * @param string $script Of MediaWiki's maintenance
 * @param string ...$arguments
 * @return string What it prints
 */
function maintenance( $script, ...$arguments ) {
	$command = array_merge( [
		PHP_BINARY,
		'-d',
		'sendmail_path=' . ini_get( 'sendmail_path' ),
		getenv( 'MW_INSTALL_PATH' ) . "/maintenance/$script",
	], $arguments );
	return (string)shell_exec( implode( ' ', array_map( 'escapeshellarg', $command ) ) . ' 2>&1 </dev/null' );
}
