<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

namespace MediaWiki\Extension\ScheduledEvents;

use MediaWiki\MediaWikiServices;

/**
 * Puts reminders into the toolbox of a page, and makes them known to Echo.
 */
class ReminderHooks {
	/**
	 * @param \Skin $skin
	 * @param array &$sidebar
	 */
	public static function onSidebarBeforeOutput( $skin, &$sidebar ) {
		$title = $skin->getRelevantTitle() ?: $skin->getTitle();
		$user = $skin->getUser();
		$may = MediaWikiServices::getInstance()->getPermissionManager();
		if ( !$title || !$title->canExist() || !$user->isRegistered() ||
			!$may->userHasRight( $user, 'remindme' )
		) {
			return;
		}
		$special = MediaWikiServices::getInstance()->getTitleFactory()
			->makeTitle( NS_SPECIAL, 'RemindMe/' . $title->getPrefixedDBkey() );
		$sidebar['TOOLBOX']['remindme'] = [
			'id' => 't-remindme',
			'text' => $skin->msg( 'remindme-toolbox' )->text(),
			'href' => $special->getLocalURL(),
		];
	}

	/**
	 * @param array &$notifications
	 * @param array &$categories
	 * @param array &$icons
	 */
	public static function onBeforeCreateEchoEvent( &$notifications, &$categories, &$icons ) {
		$categories['remindme'] = [ 'priority' => 3, 'tooltip' => 'echo-pref-tooltip-remindme' ];
		$notifications['remindme'] = [
			'category' => 'remindme',
			'group' => 'interactive',
			'section' => 'alert',
			'canNotifyAgent' => true,
			'presentation-model' => ReminderPresentationModel::class,
			// A list of callables, each with its further arguments: none.
			'user-locators' => [ [ [ self::class, 'locateUser' ] ] ],
		];
		// The mail is the job's own.
		$GLOBALS['wgNotifyTypeAvailabilityByCategory']['remindme'] = [ 'web' => true, 'email' => false ];
	}

	/**
	 * @param \EchoEvent $event
	 * @return \User[]
	 */
	public static function locateUser( $event ) {
		$user = $event->getAgent();
		return $user ? [ $user->getId() => $user ] : [];
	}
}
