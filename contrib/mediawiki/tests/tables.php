<?php
/**
 * The tables as update.php makes them.
 *
 * @license GPL-2.0-or-later
 * @file
 */

require_once getenv( 'MW_INSTALL_PATH' ) . '/maintenance/Maintenance.php';
require_once __DIR__ . '/check.php';

class CheckTables extends Maintenance {
	public function execute() {
		$db = db();
		$extension = getenv( 'WIKI_DIRECTORY' ) . '/ScheduledEvents/sql/' . $db->getType();
		$made = [];
		foreach ( glob( "$extension/*.sql" ) as $script ) {
			preg_match_all( '!^CREATE TABLE IF NOT EXISTS /\*_\*/(\w+)!m', file_get_contents( $script ), $found );
			$made = array_merge( $made, $found[1] );
		}
		$there = array_filter( $made, static function ( $table ) use ( $db ) {
			return $db->tableExists( $table, __METHOD__ );
		} );
		check( count( $made ) . ' tables are there', $made, $there );
		check(
			'the lease has its row',
			[ 'run' ],
			$db->selectFieldValues( 'event_lease', 'name', '', __METHOD__ )
		);
		if ( $db->getType() === 'sqlite' ) {
			$this->compareWithHand( $db, $extension );
		} else {
			// Made by hand before this, under another prefix.
			$shown = static function ( $prefix ) use ( $db, $made ) {
				return array_map( static function ( $table ) use ( $db, $prefix ) {
					$row = $db->query( "SHOW CREATE TABLE $prefix$table", __METHOD__ )->fetchRow();
					// The counters of ids differ.
					return preg_replace( '/ AUTO_INCREMENT=\d+/', '', str_replace( $prefix, '', $row[1] ) );
				}, $made );
			};
			check( 'they are those that the scripts make by hand', $shown( 'hand_' ), $shown( $db->tablePrefix() ) );
		}
		$refused = thrown( static function () use ( $db ) {
			$db->insert( 'scheduled_events', [ 'type' => 'x', 'due_at' => 40000000000 ], __METHOD__ );
		} );
		check( 'their checks hold', 1, preg_match( '/constraint/i', $refused ) );
	}

	/**
	 * @param \Wikimedia\Rdbms\IDatabase $db
	 * @param string $extension
	 */
	private function compareWithHand( $db, $extension ) {
		$question = "SELECT name, sql FROM sqlite_master WHERE sql LIKE '%scheduled_events%' " .
			"OR sql LIKE '%event\\_%' ESCAPE '\\' OR sql LIKE '%punctual%' ORDER BY name";
		$byHand = new PDO( 'sqlite::memory:' );
		foreach ( glob( "$extension/*.sql" ) as $script ) {
			$byHand->exec( str_replace( '/*_*/', '', file_get_contents( $script ) ) );
		}
		$plain = static function ( $sql ) {
			return trim( preg_replace( '/\s+/', ' ', str_replace( '"', '', $sql ) ) );
		};
		$expected = array_map( $plain, $byHand->query( $question )->fetchAll( PDO::FETCH_KEY_PAIR ) );
		$found = [];
		foreach ( $db->query( $question, __METHOD__ ) as $row ) {
			$found[$row->name] = $plain( $row->sql );
		}
		check( 'they are word for word those of the scripts', $expected, $found );
	}
}

$maintClass = CheckTables::class;
require_once RUN_MAINTENANCE_IF_MAIN;
