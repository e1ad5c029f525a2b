<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

namespace MediaWiki\Extension\ScheduledEvents;

use DateTimeImmutable;
use DateTimeZone;
use Exception;

/**
 * The time zone that a user has chosen in the preferences, and times that people write in it.
 */
class UserZone {
	/** @var DateTimeZone */
	private $zone;

	/**
	 * @param string $timeCorrection The preference `timecorrection`: `ZoneInfo|MINUTES|NAME`,
	 *   `Offset|MINUTES`, or else the wiki's own zone
	 * @param string|null $wikiZone $wgLocaltimezone
	 */
	public function __construct( $timeCorrection, $wikiZone ) {
		$parts = explode( '|', (string)$timeCorrection, 3 );
		$kind = count( $parts ) > 1 ? $parts[0] : '';
		$zone = null;
		if ( $kind === 'ZoneInfo' && isset( $parts[2] ) ) {
			$zone = self::named( $parts[2] );
		}
		if ( !$zone && ( $kind === 'Offset' || $kind === 'ZoneInfo' ) ) {
			$zone = self::offset( (int)$parts[1] );
		}
		$this->zone = $zone ?: self::named( (string)$wikiZone ) ?: new DateTimeZone( 'UTC' );
	}

	/**
	 * @return string The zone as people know it: `Europe/Amsterdam`, `+02:00`
	 */
	public function getName() {
		return $this->zone->getName();
	}

	/**
	 * @param string $text `2026-12-24 18:00`, or with a T in between, as browsers have it; seconds may follow
	 * @return int|null Unix seconds; null where this is no time, or none that clocks show that day. Of
	 *   the two that they show twice the first.
	 */
	public function parse( $text ) {
		$pattern = '/^(\d{4}-\d\d-\d\d)[T ]+(\d{1,2}:\d\d)(:\d\d)?$/';
		if ( !preg_match( $pattern, trim( $text ), $match ) ) {
			return null;
		}
		$written = $match[1] . ' ' . str_pad( $match[2], 5, '0', STR_PAD_LEFT ) . ( $match[3] ?? ':00' );
		try {
			$time = new DateTimeImmutable( $written, $this->zone );
		} catch ( Exception $e ) {
			return null;
		}
		// What does not exist, such as 31 February, is moved to what does.
		if ( $time->format( 'Y-m-d H:i:s' ) !== $written ) {
			return null;
		}
		// Which of two PHP takes differs between its versions.
		$offsets = array_column(
			$this->zone->getTransitions( $time->getTimestamp() - 86400, $time->getTimestamp() ) ?: [],
			'offset'
		);
		foreach ( $offsets as $offset ) {
			$other = $time->setTimestamp( $time->getTimestamp() + $time->getOffset() - $offset );
			if ( $other < $time && $other->format( 'Y-m-d H:i:s' ) === $written ) {
				return $other->getTimestamp();
			}
		}
		return $time->getTimestamp();
	}

	/**
	 * @param string $name
	 * @return DateTimeZone|null
	 */
	private static function named( $name ) {
		try {
			return new DateTimeZone( $name );
		} catch ( Exception $e ) {
			return null;
		}
	}

	/**
	 * @param int $minutes
	 * @return DateTimeZone|null
	 */
	private static function offset( $minutes ) {
		$sign = $minutes < 0 ? '-' : '+';
		$minutes = abs( $minutes );
		return self::named( sprintf( '%s%02d:%02d', $sign, intdiv( $minutes, 60 ), $minutes % 60 ) );
	}
}
