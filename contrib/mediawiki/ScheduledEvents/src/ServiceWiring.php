<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

use MediaWiki\Extension\ScheduledEvents\Reminders;
use MediaWiki\Extension\ScheduledEvents\Store;
use MediaWiki\MediaWikiServices;

return [
	'ScheduledEvents.Reminders' => static function ( MediaWikiServices $services ) {
		return new Reminders( $services->getService( 'ScheduledEvents.Store' ), $services->getMainConfig() );
	},
	'ScheduledEvents.Store' => static function ( MediaWikiServices $services ) {
		return new Store( $services->getDBLoadBalancerFactory() );
	},
];
