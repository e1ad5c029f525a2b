<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

namespace MediaWiki\Extension\ScheduledEvents;

use DateTimeImmutable;
use ExtensionRegistry;
use JobQueueGroup;
use MediaWiki\MediaWikiServices;
use StatusValue;
use Wikimedia\Timestamp\ConvertibleTimestamp;

/**
 * The reminders that users set for themselves: delayed jobs of type `remindMe`, each an event whose
 * key says whose it is.
 *
 * Service `ScheduledEvents.Reminders`. A reminder is an array: id (16 hex digits), page (page id, or
 * 0), namespace, title (as in the database), comment, set, at (Unix seconds).
 */
class Reminders {
	/** Characters of a comment. */
	public const MAX_COMMENT = 500;

	private const FIELDS = [ 'id', 'page', 'namespace', 'title', 'comment', 'set', 'at' ];

	/** @var Store */
	private $store;

	/** @var \Config */
	private $config;

	/**
	 * @param Store $store
	 * @param \Config $config
	 */
	public function __construct( Store $store, $config ) {
		$this->store = $store;
		$this->config = $config;
	}

	/**
	 * Sets a reminder, unless it would not reach the user or breaks a limit. Rights and rates are
	 * looked at by whoever calls.
	 *
	 * @param \User $user
	 * @param \Title $title
	 * @param int $time Unix seconds
	 * @param string $comment
	 * @return StatusValue With the reminder
	 */
	public function set( $user, $title, $time, $comment ) {
		$status = $this->canSet( $user, $title, $time, $comment );
		if ( !$status->isOK() ) {
			return $status;
		}
		$reminder = [
			'id' => bin2hex( random_bytes( 8 ) ),
			'page' => (int)$title->getArticleID(),
			'namespace' => $title->getNamespace(),
			'title' => $title->getDBkey(),
			'comment' => $comment,
			'set' => self::now(),
			'at' => $time,
		];
		$params = $reminder + [ 'user' => $user->getId(), 'jobReleaseTimestamp' => $time ];
		$queue = $this->queue();
		$this->store->schedule(
			JobQueueScheduled::eventType(),
			$time,
			$queue->eventPayload( new RemindMeJob( $params ) ),
			[ 'key' => self::keyPrefix( $user ) . $reminder['id'] ]
		);
		return StatusValue::newGood( $reminder );
	}

	/**
	 * @return StatusValue Whether reminders work on this wiki
	 */
	public function areSetUp() {
		if ( !$this->store->isInstalled() ) {
			return StatusValue::newFatal( 'remindme-error-tables' );
		}
		if ( !$this->queue() ) {
			return StatusValue::newFatal( 'remindme-error-queue' );
		}
		return StatusValue::newGood();
	}

	/**
	 * @param \User $user
	 * @return array[] The user's reminders, the earliest first
	 */
	public function ofUser( $user ) {
		$reminders = [];
		$events = $this->store->getByKeyPrefix(
			JobQueueScheduled::eventType(),
			self::keyPrefix( $user ),
			// All of them, also where the limit was higher when they were set.
			10000
		);
		foreach ( $events as $event ) {
			$job = json_decode( (string)$event['payload'], true )['job'] ?? [];
			$text = $job['params'] ?? base64_decode( $job['params_base64'] ?? '' );
			$params = $text === '' ? false : unserialize( $text, [ 'allowed_classes' => false ] );
			$reminder = is_array( $params ) ? array_intersect_key( $params, array_flip( self::FIELDS ) ) : [];
			// Anything else was not written here.
			if ( count( $reminder ) === count( self::FIELDS ) ) {
				$reminders[] = $reminder;
			}
		}
		return $reminders;
	}

	/**
	 * @param \User $user
	 * @param string $id Of a reminder
	 * @return bool False where the user has no such reminder, or none any more
	 */
	public function cancel( $user, $id ) {
		$event = preg_match( '/^[0-9a-f]{16}$/', $id )
			? $this->store->getByKey( JobQueueScheduled::eventType(), self::keyPrefix( $user ) . $id )
			: null;
		return $event && $this->store->cancel( $event['id'] );
	}

	/**
	 * The instant that lies so far ahead: `3 days`, `1 month`. A month and a year are the calendar's.
	 *
	 * @param string $delay
	 * @return int|null Unix seconds; null where this is no delay
	 */
	public static function after( $delay ) {
		$pattern = '/^\s*(\d{1,5})\s*(minute|hour|day|week|month|year)s?\s*$/i';
		if ( !preg_match( $pattern, $delay, $match ) ) {
			return null;
		}
		$now = new DateTimeImmutable( '@' . self::now() );
		return $now->modify( "+{$match[1]} {$match[2]}" )->getTimestamp();
	}

	/**
	 * Whether anything would tell the user: a confirmed e-mail address, or Echo.
	 *
	 * @param \User $user
	 * @return bool
	 */
	public static function canReach( $user ) {
		return self::canMail( $user ) || self::hasEcho();
	}

	/**
	 * @param \User $user
	 * @return bool
	 */
	public static function canMail( $user ) {
		$config = MediaWikiServices::getInstance()->getMainConfig();
		return $config->get( 'EnableEmail' ) && $user->isEmailConfirmed();
	}

	/**
	 * @return bool
	 */
	public static function hasEcho() {
		return ExtensionRegistry::getInstance()->isLoaded( 'Echo' );
	}

	/**
	 * @param \User $user
	 * @param \Title $title
	 * @param int $time
	 * @param string $comment
	 * @return StatusValue
	 */
	private function canSet( $user, $title, $time, $comment ) {
		$status = $this->areSetUp();
		if ( !$status->isOK() ) {
			return $status;
		}
		$maxDays = intdiv( $this->config->get( 'ScheduledEventsMaxDelay' ), 86400 );
		$maxReminders = $this->config->get( 'ScheduledEventsMaxReminders' );
		$may = MediaWikiServices::getInstance()->getPermissionManager();
		if ( !$title->canExist() ) {
			$status->fatal( 'remindme-error-page' );
		} elseif ( !$may->userCan( 'read', $user, $title ) ) {
			$status->fatal( 'remindme-error-read' );
		}
		if ( $time <= self::now() ) {
			$status->fatal( 'remindme-error-past' );
		} elseif ( $time - self::now() > $this->config->get( 'ScheduledEventsMaxDelay' ) ) {
			$status->fatal( 'remindme-error-far', $maxDays );
		}
		if ( mb_strlen( $comment ) > self::MAX_COMMENT ) {
			$status->fatal( 'remindme-error-comment', self::MAX_COMMENT );
		}
		if ( !self::canReach( $user ) ) {
			$status->fatal( 'remindme-error-unreachable' );
		}
		$waiting = $this->store->countByKeyPrefix( JobQueueScheduled::eventType(), self::keyPrefix( $user ) );
		if ( $waiting >= $maxReminders ) {
			$status->fatal( 'remindme-error-many', $maxReminders );
		}
		return $status;
	}

	/**
	 * @return JobQueueScheduled|null Null where the wiki's configuration has another class
	 */
	private function queue() {
		$services = MediaWikiServices::getInstance();
		$group = method_exists( $services, 'getJobQueueGroup' )
			? $services->getJobQueueGroup()
			: JobQueueGroup::singleton();
		$queue = $group->get( 'remindMe' );
		return $queue instanceof JobQueueScheduled ? $queue : null;
	}

	/**
	 * @param \User $user
	 * @return string
	 */
	private static function keyPrefix( $user ) {
		return 'remind:' . $user->getId() . ':';
	}

	/**
	 * @return int
	 */
	private static function now() {
		return (int)ConvertibleTimestamp::now( TS_UNIX );
	}
}
