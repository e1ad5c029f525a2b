<?php
/**
 * Reminders over HTTP, as users and their programs have them: the special page and action=remindme.
 *
 * @license GPL-2.0-or-later
 * @file
 */

require_once __DIR__ . '/check.php';

/**
 * A browser, or a program: keeps cookies and follows redirects.
 */
class Browser {
	/** @var string[] */
	private $cookies = [];

	/** @var int Of the last answer */
	public $status;

	/**
	 * @param string $path
	 * @param array|null $post
	 * @return string
	 */
	public function load( $path, $post = null ) {
		$cookies = [];
		foreach ( $this->cookies as $name => $value ) {
			$cookies[] = "$name=$value";
		}
		$http = [
			'ignore_errors' => true,
			'follow_location' => 0,
			'timeout' => 60,
			'header' => 'Cookie: ' . implode( '; ', $cookies ) . "\r\n",
		];
		if ( $post !== null ) {
			$http['method'] = 'POST';
			$http['content'] = http_build_query( $post );
			$http['header'] .= "Content-Type: application/x-www-form-urlencoded\r\n";
		}
		$answer = file_get_contents( getenv( 'WIKI' ) . $path, false, stream_context_create( [ 'http' => $http ] ) );
		$location = null;
		foreach ( $http_response_header as $line ) {
			if ( preg_match( '!^HTTP/\S+ (\d+)!', $line, $match ) ) {
				$this->status = (int)$match[1];
			} elseif ( preg_match( '/^Set-Cookie: ([^=]+)=([^;]*)/i', $line, $match ) ) {
				$this->cookies[$match[1]] = $match[2];
			} elseif ( preg_match( '/^Location: (.*)$/i', $line, $match ) ) {
				$location = $match[1];
			}
		}
		return $location === null ? $answer : $this->load( substr( $location, strlen( getenv( 'WIKI' ) ) ) );
	}

	/**
	 * @param array $params
	 * @return array
	 */
	public function api( array $params ) {
		return json_decode( $this->load( '/api.php', $params + [ 'format' => 'json', 'formatversion' => 2 ] ), true );
	}

	/**
	 * @param string $type
	 * @return string
	 */
	public function token( $type = 'csrf' ) {
		$answer = $this->api( [ 'action' => 'query', 'meta' => 'tokens', 'type' => $type ] );
		return $answer['query']['tokens']["{$type}token"];
	}

	/**
	 * @param string $user
	 */
	public function logIn( $user ) {
		$answer = $this->api( [
			'action' => 'clientlogin',
			'username' => $user,
			'password' => 'correct horse battery',
			'logintoken' => $this->token( 'login' ),
			'loginreturnurl' => getenv( 'WIKI' ),
		] );
		check( "$user logs in", 'PASS', $answer['clientlogin']['status'] ?? $answer );
	}

	/**
	 * @param array $params
	 * @return array|string The answer, or the code of the error
	 */
	public function remindMe( array $params ) {
		$answer = $this->api( $params + [ 'action' => 'remindme', 'token' => $this->token() ] );
		return $answer['remindme'] ?? $answer['error']['code'] ?? $answer;
	}

	/**
	 * @param string $page
	 * @param string $form Identifier
	 * @param array $values
	 * @return string
	 */
	public function send( $page, $form, array $values ) {
		return $this->load( "/index.php?title=$page", $values + [
			'wpEditToken' => $this->token(),
			'wpFormIdentifier' => $form,
		] );
	}
}

/**
 * @param string $html
 * @return string As it is read
 */
function text( $html ) {
	return preg_replace( '/\s+/', ' ', html_entity_decode( strip_tags( $html ), ENT_QUOTES, 'UTF-8' ) );
}

/**
 * @param string $needle
 * @param string $text
 * @return bool|string True, or the text, to be shown
 */
function has( $needle, $text ) {
	return strpos( $text, $needle ) !== false ? true : $text;
}

/**
 * @param string $html
 * @return string[] Ids of the reminders in the list
 */
function listed( $html ) {
	preg_match_all( "/name='reminders\\[\\]' value='([0-9a-f]{16})'/", str_replace( '"', "'", $html ), $match );
	return $match[1];
}

$extra = getenv( 'WIKI_DIRECTORY' ) . '/extra.php';
$special = 'Special:RemindMe';

$anybody = new Browser;
$page = text( $anybody->load( "/index.php?title=$special/Main_Page" ) );
check( 'who is not logged in is asked to', true, has( 'Please log in to set reminders.', $page ) );
check( 'and has no link in the toolbox', false, strpos(
	$anybody->load( '/index.php?title=Main_Page' ), 't-remindme'
) );
check( 'nor the API', 'notloggedin', $anybody->remindMe( [ 'page' => 'Main Page', 'delay' => '1 day' ] ) );

$admin = new Browser;
$admin->logIn( 'Admin' );
$page = $admin->load( '/index.php?title=Main_Page' );
check( 'who is has a link', 1, preg_match(
	'!<li id="t-remindme"[^>]*><a href="/index.php/Special:RemindMe/Main_Page"!',
	$page
) );
check( 'also on a page that is not there', 1, substr_count(
	$admin->load( '/index.php?title=Talk:Not_there' ), 'href="/index.php/Special:RemindMe/Talk:Not_there"'
) );
check( 'but not on a special page', 0, substr_count(
	$admin->load( '/index.php?title=Special:Version' ),
	't-remindme'
) );
check( 'the API must be told a token', 'badtoken', $admin->remindMe( [
	'page' => 'Main Page', 'delay' => '1 day', 'token' => 'x',
] ) );
$get = json_decode( $admin->load( '/api.php?action=remindme&page=Main%20Page&delay=1%20day&format=json&token=' .
	rawurlencode( $admin->token() ) ), true );
check( 'by POST', 'mustpostparams', $get['error']['code'] );
check( 'without an address nobody could be reminded', 'remindme-error-unreachable', $admin->remindMe( [
	'page' => 'Main Page', 'delay' => '1 day',
] ) );
$confirm = 'require getenv( "MW_INSTALL_PATH" ) . "/maintenance/Maintenance.php";
	class Confirm extends Maintenance { public function execute() {
		$user = User::newFromName( "Admin" );
		$user->setEmail( "admin@example.org" );
		$user->confirmEmail();
		$user->saveSettings();
		MediaWiki\MediaWikiServices::getInstance()->getUserOptionsManager()
			->setOption( $user, "timecorrection", "ZoneInfo|540|Asia/Tokyo" );
		$user->saveSettings();
		$simple = User::createNew( "Simple", [ "email" => "simple@example.org" ] );
		$simple->confirmEmail();
		$simple->saveSettings();
		$simple->changeAuthenticationData( [
			"username" => "Simple", "password" => "correct horse battery", "retype" => "correct horse battery",
		] );
	} }
	$maintClass = "Confirm";
	require RUN_MAINTENANCE_IF_MAIN;';
file_put_contents( getenv( 'WIKI_DIRECTORY' ) . '/confirm.php', "<?php $confirm" );
echo shell_exec( implode( ' ', array_map( 'escapeshellarg', [
	PHP_BINARY,
	getenv( 'WIKI_DIRECTORY' ) . '/confirm.php',
] ) ) . ' 2>&1' );

check( 'a time in the past is refused', 'remindme-error-past', $admin->remindMe( [
	'page' => 'Main Page', 'time' => '2001-01-01T00:00:00Z',
] ) );
check( 'and fifty years', 'remindme-error-far', $admin->remindMe( [ 'page' => 'Main Page', 'delay' => '50 years' ] ) );
check( 'and what is no delay', 'baddelay', $admin->remindMe( [ 'page' => 'Main Page', 'delay' => 'soon' ] ) );
check( 'and what is no time', 'badtimestamp', $admin->remindMe( [ 'page' => 'Main Page', 'time' => 'soon' ] ) );
check( 'and a time and a delay at once', 'invalidparammix', $admin->remindMe( [
	'page' => 'Main Page', 'delay' => '1 day', 'time' => '2040-01-01T00:00:00Z',
] ) );
check( 'and neither', 'missingparam', $admin->remindMe( [ 'page' => 'Main Page' ] ) );
check( 'and what is no title', 'invalidtitle', $admin->remindMe( [ 'page' => '<>', 'delay' => '1 day' ] ) );
check( 'and a special page', 'remindme-error-page', $admin->remindMe( [
	'page' => 'Special:Version', 'delay' => '1 day',
] ) );
$set = $admin->remindMe( [
	'page' => 'main Page', 'time' => '2030-12-24T18:00:00+01:00', 'comment' => ' Proof<b>read ',
] );
check( 'a reminder is set', [ 'Main Page', '2030-12-24T17:00:00Z', 'Proof<b>read' ], [
	$set['page'] ?? $set, $set['time'] ?? null, $set['comment'] ?? null,
] );
check( 'and listed', [ 'reminders' => [ $set ] ], $admin->remindMe( [] ) );

$html = $admin->load( "/index.php?title=$special/Talk:A_b" );
check( 'the form is for the page one came from', 1, preg_match( "/name='wppage' [^>]*value='Talk:A b'/",
	str_replace( '"', "'", $html ) ) ?: $html );
check( 'says the time zone', true, has( 'Times are in your time zone, Asia/Tokyo.', text( $html ) ) );
check( 'and lists reminders with their time there, as they were written', true,
	has( 'Main Page, 02:00, 25 December 2030: Proof<b>read', text( $html ) ) );
check( 'not as HTML', 0, substr_count( $html, 'Proof<b>read' ) );
check( 'by their ids', [ $set['id'] ], listed( $html ) );

$send = static function ( array $values, $who = null ) use ( $admin, $special ) {
	return ( $who ?: $admin )->send( $special, 'remindme-set', $values + [
		'wppage' => 'Main Page', 'wpdelay' => 'at', 'wptime' => '', 'wpcomment' => '',
	] );
};
$html = $send( [ 'wptime' => '2030-07-01 09:30', 'wpcomment' => 'of the form' ] );
check( 'the form sets a reminder', true, has( 'The reminder is set.', text( $html ) ) );
check( 'in that zone', true, has( 'Main Page, 09:30, 1 July 2030: of the form', text( $html ) ) );
check( 'which is that instant', '2030-07-01T00:30:00Z', $admin->remindMe( [] )['reminders'][0]['time'] );
check( 'or after a delay', true, has( 'The reminder is set.', text( $send( [ 'wpdelay' => '1 week' ] ) ) ) );
$past = text( $send( [ 'wptime' => '2001-01-01 00:00' ] ) );
check( 'a time in the past is refused', true, has( 'This time is in the past.', $past ) );
check( 'and what is no time', true, has( 'This is not a time', text( $send( [ 'wptime' => 'soon' ] ) ) ) );
check( 'and too late a time', true, has( 'up to 3652 days', text( $send( [ 'wptime' => '2099-01-01 00:00' ] ) ) ) );
$html = $admin->load( "/index.php?title=$special", [
	'wppage' => 'Main Page', 'wpdelay' => '1 day', 'wpFormIdentifier' => 'remindme-set', 'wpEditToken' => 'x',
] );
check( 'without a token nothing is set', [ 3, true ], [
	count( listed( $html ) ), strpos( text( $html ), 'The reminder is set.' ) === false,
] );
$ids = listed( $html );
$html = $admin->send( $special, 'remindme-cancel', [ 'reminders' => [ $ids[0], $ids[2] ] ] );
check( 'reminders are cancelled', [ $ids[1] ], listed( $html ) );
$html = $admin->send( $special, 'remindme-cancel', [ 'reminders' => [ $ids[0] ] ] );
check( 'not twice', true, has( 'There is no such reminder any more.', text( $html ) ) );

$simple = new Browser;
$simple->logIn( 'Simple' );
check( 'nobody cancels what is another\'s', 'gone', $simple->remindMe( [ 'cancel' => $ids[1] ] ) );
check( 'nor by the form', true, has( 'There is no such reminder any more.', text(
	$simple->send( $special, 'remindme-cancel', [ 'reminders' => [ $ids[1] ] ] )
) ) );
check( 'one\'s own are cancelled by the API too', [ 'cancelled' => $ids[1] ], $admin->remindMe( [
	'cancel' => $ids[1],
] ) );
check( 'and are gone', 'gone', $admin->remindMe( [ 'cancel' => $ids[1] ] ) );

$with = static function ( $settings ) use ( $extra ) {
	file_put_contents( $extra, "<?php $settings" );
};
$with( '$wgAutoConfirmCount = 10;' );
$answers = [];
for ( $n = 0; $n < 6; $n++ ) {
	$answer = $simple->remindMe( [ 'page' => 'Main Page', 'delay' => '1 day' ] );
	$answers[] = is_array( $answer ) ? 'set' : $answer;
}
check( 'a new user may set five an hour', [ 'set', 'set', 'set', 'set', 'set', 'ratelimited' ], $answers );
$page = text( $send( [ 'wpdelay' => '1 day' ], $simple ) );
check( 'by the form as well', true, has( 'anti-abuse measure', $page ) );

$with( '$wgReadOnly = "moving house";' );
$page = text( $admin->load( "/index.php?title=$special/Main_Page" ) );
check( 'a wiki that is read only says so', true, has( 'moving house', $page ) );
check( 'and the API', 'readonly', $admin->remindMe( [ 'page' => 'Main Page', 'delay' => '1 day' ] ) );
$with( '$wgGroupPermissions["user"]["remindme"] = false;' );
$page = text( $admin->load( "/index.php?title=$special/Main_Page" ) );
check( 'without the right the page is refused', true, has( 'You do not have permission to set reminders', $page ) );
check( 'and the API', 'permissiondenied', $admin->remindMe( [ 'page' => 'Main Page', 'delay' => '1 day' ] ) );
check( 'and there is no link', 0, substr_count( $admin->load( '/index.php?title=Main_Page' ), 't-remindme' ) );
$with( '$wgJobTypeConf["default"]["class"] = "JobQueueDB";' );
$page = text( $admin->load( "/index.php?title=$special/Main_Page" ) );
check( 'a wiki that is not set up says so', true, has( 'This wiki is not set up for reminders.', $page ) );
check( 'and the API', 'remindme-error-queue', $admin->remindMe( [ 'page' => 'Main Page', 'delay' => '1 day' ] ) );
unlink( $extra );

$help = text( $admin->load( '/api.php?action=help&modules=remindme' ) );
check( 'the API explains itself', true, has( 'Title of the page to be reminded of.', $help ) );
foreach ( [ $special, 'Special:ListGroupRights', 'Special:Version' ] as $page ) {
	check( "$page lacks no message", 0, substr_count( $admin->load( "/index.php?title=$page" ), '⧼' ) );
}

$table = getenv( 'WIKI_PREFIX' ) . 'scheduled_events';
maintenance( 'sql.php', '--query', "ALTER TABLE $table RENAME TO away" );
$page = text( $admin->load( "/index.php?title=$special/Main_Page" ) );
$answer = $admin->remindMe( [ 'page' => 'Main Page', 'delay' => '1 day' ] );
maintenance( 'sql.php', '--query', "ALTER TABLE away RENAME TO $table" );
check( 'a wiki without the tables says so', true, has( 'The wiki\'s tables for reminders are missing.', $page ) );
check( 'and the API', 'remindme-error-tables', $answer );
