<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

namespace MediaWiki\Extension\ScheduledEvents;

use RuntimeException;

/**
 * The store could not do what it was asked, for a reason that its message names with the remedy.
 */
class StoreException extends RuntimeException {
}
