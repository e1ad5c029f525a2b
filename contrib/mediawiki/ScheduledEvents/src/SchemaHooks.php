<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

namespace MediaWiki\Extension\ScheduledEvents;

use UnexpectedValueException;

/**
 * Makes update.php install the tables. What was applied is seen by the last table of each script, so
 * that one that was interrupted before is applied again: it may be repeated. Indexes that lacked then
 * are made by `punctual init`, which applies all of it until it has noted the version.
 */
class SchemaHooks {
	/**
	 * @param \DatabaseUpdater $updater
	 */
	public static function onLoadExtensionSchemaUpdates( $updater ) {
		$type = $updater->getDB()->getType();
		$scripts = glob( dirname( __DIR__ ) . "/sql/$type/*.sql" );
		if ( !$scripts ) {
			$updater->output( "ScheduledEvents: no tables for $type; MySQL, MariaDB and SQLite have them.\n" );
			return;
		}
		sort( $scripts, SORT_STRING );
		foreach ( $scripts as $script ) {
			$updater->addExtensionTable( self::lastTable( $script ), $script );
		}
	}

	/**
	 * @param string $script
	 * @return string
	 */
	private static function lastTable( $script ) {
		$tables = preg_match_all(
			'!^CREATE TABLE IF NOT EXISTS /\*_\*/(\w+)!m',
			file_get_contents( $script ),
			$matches
		);
		if ( !$tables ) {
			throw new UnexpectedValueException( "$script creates no table" );
		}
		return end( $matches[1] );
	}
}
