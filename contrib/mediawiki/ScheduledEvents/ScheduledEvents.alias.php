<?php
/**
 * Names of the special page in other languages.
 *
 * @license GPL-2.0-or-later
 * @file
 */

$specialPageAliases = [];

/** English */
$specialPageAliases['en'] = [
	'RemindMe' => [ 'RemindMe' ],
];
