<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

namespace MediaWiki\Extension\ScheduledEvents;

use GenericParameterJob;
use Job;
use MediaWiki\Logger\LoggerFactory;
use MediaWiki\MediaWikiServices;
use Throwable;

/**
 * Reminds a user of a page, by e-mail and, where Echo is there, by a notification.
 *
 * The user is found by id, and so under a new name too; the page by id, and so at its new title.
 * A user who is blocked by now is reminded all the same: a block keeps from editing.
 */
class RemindMeJob extends Job implements GenericParameterJob {
	/**
	 * @param array $params A reminder, as Reminders has it, and `user`: the user's id
	 */
	public function __construct( array $params ) {
		parent::__construct( 'remindMe', $params );
	}

	/**
	 * @return bool
	 */
	public function run() {
		$user = MediaWikiServices::getInstance()->getUserFactory()->newFromId( $this->params['user'] );
		$user->load();
		if ( !$user->isRegistered() ) {
			$this->note( 'there is no user {user} any more' );
			return true;
		}
		$found = $this->findPage( $user );
		if ( Reminders::canMail( $user ) ) {
			$status = $this->mail( $user, $found );
			if ( !$status->isOK() ) {
				// Tried again by the queue; so nothing else may have been sent yet.
				$message = $status->getErrors()[0]['message'];
				$this->setLastError( 'mail: ' . ( is_string( $message ) ? $message : $message->getKey() ) );
				return false;
			}
		} elseif ( !Reminders::hasEcho() ) {
			$this->note( 'the user {user} has no confirmed e-mail address any more' );
			return true;
		}
		if ( Reminders::hasEcho() ) {
			try {
				$this->notify( $user, $found['title'] );
			} catch ( Throwable $e ) {
				// A second try would mail again.
				$this->note( 'no notification of user {user}: ' . $e->getMessage() );
			}
		}
		return true;
	}

	/**
	 * Where the page is now. A title that the user may not read is not told.
	 *
	 * @param \User $user
	 * @return array title: \Title; fate: `there`, `moved`, `deleted` or `hidden`
	 */
	private function findPage( $user ) {
		$services = MediaWikiServices::getInstance();
		$titles = $services->getTitleFactory();
		$then = $titles->makeTitle( (int)$this->params['namespace'], $this->params['title'] );
		$now = $this->params['page'] ? $titles->newFromID( $this->params['page'] ) : null;
		if ( !$now ) {
			// Never made; deleted; or made anew under its name.
			$gone = $this->params['page'] && !$then->exists();
			return [ 'title' => $then, 'fate' => $gone ? 'deleted' : 'there' ];
		}
		if ( !$services->getPermissionManager()->userCan( 'read', $user, $now ) ) {
			return [ 'title' => $then, 'fate' => 'hidden' ];
		}
		return [ 'title' => $now, 'fate' => $now->equals( $then ) ? 'there' : 'moved' ];
	}

	/**
	 * @param \User $user
	 * @param array $found
	 * @return \Status
	 */
	private function mail( $user, array $found ) {
		$services = MediaWikiServices::getInstance();
		$code = $services->getUserOptionsLookup()->getOption( $user, 'language' );
		$factory = $services->getLanguageFactory();
		$language = $services->getLanguageNameUtils()->isValidBuiltInCode( (string)$code )
			? $factory->getLanguage( $code )
			: $services->getContentLanguage();
		$then = $services->getTitleFactory()->makeTitle(
			(int)$this->params['namespace'],
			$this->params['title']
		);
		$title = $found['title']->getPrefixedText();
		$said = static function ( $key, ...$params ) use ( $language ) {
			return wfMessage( $key )->plaintextParams( ...$params )->inLanguage( $language )->text();
		};
		$set = wfTimestamp( TS_MW, $this->params['set'] );
		$lines = [
			$said( 'remindme-mail-greeting', $user->getName() ),
			'',
			$said( 'remindme-mail-page', $then->getPrefixedText(), $language->userTimeAndDate( $set, $user ) ),
		];
		if ( $found['fate'] !== 'there' ) {
			// remindme-mail-moved, remindme-mail-deleted, remindme-mail-hidden
			$lines[] = $said( "remindme-mail-{$found['fate']}", $title );
		}
		if ( $found['fate'] !== 'hidden' ) {
			$lines[] = $found['title']->getCanonicalURL();
		}
		if ( $this->params['comment'] !== '' ) {
			array_push( $lines, '', $said( 'remindme-mail-comment' ), $this->params['comment'] );
		}
		array_push( $lines, '', $said( 'remindme-mail-footer' ) );
		$lines[] = $services->getTitleFactory()->makeTitle( NS_SPECIAL, 'RemindMe' )->getCanonicalURL();
		return $user->sendMail( $said( 'remindme-mail-subject', $title ), implode( "\n", $lines ) . "\n" );
	}

	/**
	 * @param \User $user
	 * @param \Title $title
	 */
	private function notify( $user, $title ) {
		// Echo has had both names.
		$class = class_exists( '\MediaWiki\Extension\Notifications\Model\Event' )
			? '\MediaWiki\Extension\Notifications\Model\Event'
			: '\EchoEvent';
		$class::create( [
			'type' => 'remindme',
			'agent' => $user,
			'title' => $title,
			'extra' => [ 'comment' => $this->params['comment'], 'notifyAgent' => true ],
		] );
	}

	/**
	 * @param string $message
	 */
	private function note( $message ) {
		LoggerFactory::getInstance( 'ScheduledEvents' )->info(
			"Reminder {id}: $message",
			[ 'id' => $this->params['id'], 'user' => $this->params['user'] ]
		);
	}
}
