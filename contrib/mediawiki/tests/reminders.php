<?php
/**
 * Reminders: their limits, and what they say when their time has come.
 *
 * @license GPL-2.0-or-later
 * @file
 */

use MediaWiki\Extension\ScheduledEvents\Reminders;
use MediaWiki\Extension\ScheduledEvents\UserZone;
use MediaWiki\MediaWikiServices;

require_once getenv( 'MW_INSTALL_PATH' ) . '/maintenance/Maintenance.php';
require_once __DIR__ . '/check.php';

class CheckReminders extends Maintenance {
	/** @var Reminders */
	private $reminders;

	/** @var User */
	private $user;

	public function execute() {
		$this->reminders = MediaWikiServices::getInstance()->getService( 'ScheduledEvents.Reminders' );
		$this->user = User::createNew( 'Rita', [ 'email' => 'rita@example.org' ] );
		MediaWikiServices::getInstance()->getUserOptionsManager()
			->setOption( $this->user, 'timecorrection', 'ZoneInfo|60|Europe/Amsterdam' );
		$this->user->saveSettings();
		$this->checkZones();
		$this->checkLimits();
		$this->checkList();
		$this->checkMails();
		$this->checkEcho();
	}

	private function checkZones() {
		$parse = static function ( $correction, $text, $wiki = 'UTC' ) {
			$time = ( new UserZone( $correction, $wiki ) )->parse( $text );
			return $time === null ? null : gmdate( 'Y-m-d H:i:s', $time );
		};
		foreach ( [
			[ 'ZoneInfo|120|Europe/Amsterdam', '2030-07-01 12:00', '2030-07-01 10:00:00' ],
			[ 'ZoneInfo|120|Europe/Amsterdam', '2030-12-01T12:00', '2030-12-01 11:00:00' ],
			[ 'ZoneInfo|120|Nowhere/Atall', '2030-12-01 12:00', '2030-12-01 10:00:00' ],
			[ 'Offset|-210', '2030-12-01 9:05:07', '2030-12-01 12:35:07' ],
			[ 'System|0', '2030-12-01 12:00', '2030-12-01 12:00:00' ],
			[ '', '2030-12-01 12:00', '2030-12-01 12:00:00' ],
			[ 'ZoneInfo|120|Europe/Amsterdam', '2030-03-31 02:30', null ],
			[ 'ZoneInfo|120|Europe/Amsterdam', '2030-10-27 02:30', '2030-10-27 00:30:00' ],
			[ '', '2030-02-31 12:00', null ],
			[ '', '2030-02-01 24:00', null ],
			[ '', 'tomorrow', null ],
			[ '', '', null ],
		] as [ $correction, $text, $expected ] ) {
			check( "'$text' in zone '$correction'", $expected, $parse( $correction, $text ) );
		}
		check(
			"the wiki's zone is the default",
			'2030-12-01 17:00:00',
			$parse( '', '2030-12-01 12:00', 'America/New_York' )
		);
		check( 'delays are counted from now', [ true, true, null, null, null ], [
			abs( Reminders::after( '3 Days' ) - time() - 3 * 86400 ) < 5,
			abs( Reminders::after( '1 month' ) - strtotime( '+1 month' ) ) < 5,
			Reminders::after( '-1 day' ),
			Reminders::after( '5 fortnights' ),
			Reminders::after( '' ),
		] );
	}

	private function checkLimits() {
		$page = Title::newMainPage();
		$errors = function ( $title, $time, $comment = '' ) {
			$status = $this->reminders->set( $this->user, $title, $time, $comment );
			return array_column( $status->getErrors(), 'message' );
		};
		$soon = time() + 60;
		check(
			'without a confirmed address a user could not be reminded',
			[ 'remindme-error-unreachable' ],
			$errors( $page, $soon )
		);
		$this->user->confirmEmail();
		$this->user->saveSettings();
		check( 'the past is refused', [ 'remindme-error-past' ], $errors( $page, time() - 1 ) );
		check( 'and fifty years', [ 'remindme-error-far' ], $errors( $page, time() + 50 * 31557600 ) );
		check( 'and a special page', [ 'remindme-error-page' ], $errors( Title::newFromText( 'Special:Version' ), $soon ) );
		check( 'and a page elsewhere', [ 'remindme-error-page' ], $errors( Title::newFromText( 'Talk:' ) ?:
			Title::makeTitle( NS_MAIN, 'X', '', 'elsewhere' ), $soon ) );
		check( 'and too long a comment', [ 'remindme-error-comment' ], $errors( $page, $soon, str_repeat( 'é', 501 ) ) );
		check( 'all that is wrong is said', [ 'remindme-error-past', 'remindme-error-comment' ],
			$errors( $page, 5, str_repeat( 'x', 501 ) ) );
		check( 'nothing was set', 0, queues()->get( 'remindMe' )->getDelayedCount() );
		check( 'five hundred letters are not too many', [], $errors( $page, $soon, str_repeat( 'é', 500 ) ) );
		$events = [];
		for ( $n = 0; $n < 199; $n++ ) {
			$events[] = [
				'type' => 'mediawiki-job',
				'due_at' => $soon + $n,
				'unique_key' => 'remind:' . $this->user->getId() . ':' . sprintf( '%016x', $n ),
			];
		}
		db()->insert( 'scheduled_events', $events, __METHOD__ );
		check( 'and too many', [ 'remindme-error-many' ], $errors( $page, $soon ) );
		check( 'rows that are no reminders are not listed', 1, count( $this->reminders->ofUser( $this->user ) ) );
		db()->delete( 'scheduled_events', '*', __METHOD__ );
	}

	private function checkList() {
		$other = User::createNew( 'Otto', [ 'email' => 'otto@example.org' ] );
		$other->confirmEmail();
		$other->saveSettings();
		$page = Title::newMainPage();
		$late = $this->reminders->set( $this->user, $page, time() + 9000, 'später' )->getValue();
		$early = $this->reminders->set( $this->user, $page, time() + 60, "\xff" )->getValue();
		$his = $this->reminders->set( $other, $page, time() + 120, '' )->getValue();
		check( "a user's reminders are listed, the earliest first", [ $early, $late ],
			$this->reminders->ofUser( $this->user ) );
		check( 'and nobody else\'s', [ $his ], $this->reminders->ofUser( $other ) );
		check( 'they are delayed jobs', 3, queues()->get( 'remindMe' )->getDelayedCount() );
		check( 'one\'s own can be cancelled, once', [ true, false ], [
			$this->reminders->cancel( $this->user, $late['id'] ),
			$this->reminders->cancel( $this->user, $late['id'] ),
		] );
		check( 'and nobody else\'s', [ false, false, [ $his ] ], [
			$this->reminders->cancel( $this->user, $his['id'] ),
			$this->reminders->cancel( $this->user, "%' OR 1" ),
			$this->reminders->ofUser( $other ),
		] );
		db()->delete( 'scheduled_events', '*', __METHOD__ );
	}

	private function checkMails() {
		$soon = time() + 60;
		foreach ( [ 'Stays', 'Moves', 'Goes', 'Hides' ] as $name ) {
			maintenance( 'edit.php', '--no-rc', $name );
			$title = Title::newFromText( $name );
			$title->resetArticleID( false );
			$this->reminders->set( $this->user, $title, $soon, "about $name {{PAGENAME}}" );
		}
		$this->reminders->set( $this->user, Title::newFromText( 'Never made' ), $soon, '' );
		$admin = User::newFromName( 'Admin' );
		MediaWikiServices::getInstance()->getMovePageFactory()
			->newMovePage( Title::newFromText( 'Moves' ), Title::newFromText( 'Moved & more' ) )
			->move( $admin, 'x', true );
		$file = getenv( 'WIKI_DIRECTORY' ) . '/goes';
		file_put_contents( $file, "Goes\n" );
		maintenance( 'deleteBatch.php', $file );
		// A blocked user may read and be told.
		maintenance( 'blockUsers.php', '--reason', 'x', $this->file( 'Rita' ) );
		check( 'the user is blocked', true, (bool)User::newFromName( 'Rita' )->getBlock() );
		$extra = getenv( 'WIKI_DIRECTORY' ) . '/extra.php';
		file_put_contents( $extra, '<?php
			$wgHooks["getUserPermissionsErrors"][] = function ( $title, $user, $action, &$result ) {
				$result = $title->getText() === "Hides" && $action === "read" ? false : $result;
				return $result !== false;
			};' );
		fire();
		file_put_contents( getenv( 'WIKI_DIRECTORY' ) . '/mail', '' );
		$run = maintenance( 'runJobs.php', '--type', 'remindMe' );
		check( 'reminders whose time has come are run', 5, preg_match_all( '/remindMe .* good$/m', $run ) ?: $run );
		$mails = $this->mails();
		check( 'each is a mail', [
			'Tried: reminder of Goes',
			'Tried: reminder of Hides',
			'Tried: reminder of Moved & more',
			'Tried: reminder of Never made',
			'Tried: reminder of Stays',
		], array_keys( $mails ) );
		$wiki = getenv( 'WIKI' ) . '/index.php/';
		$body = static function ( $name ) use ( $mails ) {
			return preg_replace( '/at [^"\n]*\d{4}\.$/m', 'at TIME.', $mails["Tried: reminder of $name"] );
		};
		$footer = "\nYour reminders:\n{$wiki}Special:RemindMe\n";
		$said = static function ( $name, $told, $comment ) use ( $footer ) {
			return "Hello Rita,\n\nyou wanted to be reminded of the page \"$name\". You asked for it at TIME.\n" .
				"$told\n" . ( $comment ? "\nYour comment:\n$comment\n" : '' ) . $footer;
		};
		check( 'with the address and the comment as it was written',
			$said( 'Stays', "{$wiki}Stays", 'about Stays {{PAGENAME}}' ), $body( 'Stays' ) );
		check( 'of a page that was moved with its new title',
			$said( 'Moves', "The page has been moved to \"Moved & more\".\n{$wiki}Moved_%26_more",
				'about Moves {{PAGENAME}}' ), $body( 'Moved & more' ) );
		check( 'of a page that was deleted with that',
			$said( 'Goes', "The page has been deleted.\n{$wiki}Goes", 'about Goes {{PAGENAME}}' ), $body( 'Goes' ) );
		check( 'of a page that may not be read any more with that',
			$said( 'Hides', 'You may not read the page any more.', 'about Hides {{PAGENAME}}' ), $body( 'Hides' ) );
		check( 'of a page that was never made too', $said( 'Never made', "{$wiki}Never_made", '' ),
			$body( 'Never made' ) );
		unlink( $extra );
		$amsterdam = new DateTime( '@' . time() );
		$amsterdam->setTimezone( new DateTimeZone( 'Europe/Amsterdam' ) );
		check( "times are in the user's zone", 1, preg_match(
			'/ at ' . $amsterdam->format( 'H' ) . ':\d\d, /',
			$mails['Tried: reminder of Stays']
		) );

		$this->reminders->set( $this->user, Title::newMainPage(), $soon, '' );
		fire();
		// Nothing can be written there then.
		$mail = getenv( 'WIKI_DIRECTORY' ) . '/mail';
		unlink( $mail );
		mkdir( $mail );
		$run = maintenance( 'runJobs.php', '--type', 'remindMe' );
		$failed = preg_match( '/ error=mail: php-mail-error-unknown$/m', $run );
		check( 'a mail that cannot be sent fails the job', 1, $failed ?: $run );
		rmdir( $mail );
		db()->update( 'job', [ 'job_token_timestamp' => db()->timestamp( time() - 7200 ) ], [ 'job_cmd' => 'remindMe' ] );
		// The first finds that its claim is over.
		maintenance( 'runJobs.php', '--type', 'remindMe' );
		maintenance( 'runJobs.php', '--type', 'remindMe' );
		check( 'which the queue tries again', 1, substr_count( file_get_contents( $mail ), 'Hello Rita,' ) );

		$this->reminders->set( $this->user, Title::newMainPage(), $soon, '' );
		db()->update( 'user', [ 'user_name' => 'Renamed' ], [ 'user_name' => 'Rita' ], __METHOD__ );
		db()->update( 'actor', [ 'actor_name' => 'Renamed' ], [ 'actor_name' => 'Rita' ], __METHOD__ );
		check( 'a user who was renamed is reminded', 1, substr_count( $this->mailed(), 'Hello Renamed,' ) );

		$this->reminders->set( $this->user, Title::newMainPage(), $soon, '' );
		db()->update( 'user', [ 'user_email_authenticated' => null ], [ 'user_name' => 'Renamed' ], __METHOD__ );
		check( 'one without a confirmed address by then is not, and the job ends', '', $this->mailed() );
		check( 'nothing is left in the queue', 0, (int)db()
			->selectField( 'job', 'COUNT(*)', [ 'job_cmd' => 'remindMe' ], __METHOD__ ) );
	}

	/**
	 * With a stand-in for Echo, which keeps what it is told.
	 */
	private function checkEcho() {
		$extra = getenv( 'WIKI_DIRECTORY' ) . '/extra.php';
		file_put_contents( $extra, '<?php wfLoadExtension( "Echo", "' . __DIR__ . '/Echo/extension.json" );' );
		$script = getenv( 'WIKI_DIRECTORY' ) . '/set.php';
		file_put_contents( $script, '<?php
			require getenv( "MW_INSTALL_PATH" ) . "/maintenance/Maintenance.php";
			class Set extends Maintenance { public function execute() {
				$user = User::newFromName( "Renamed" );
				$status = MediaWiki\MediaWikiServices::getInstance()->getService( "ScheduledEvents.Reminders" )
					->set( $user, Title::newMainPage(), time() + 60, "with <b>Echo" );
				echo $status->isGood() ? "set" : (string)$status;
			} }
			$maintClass = "Set";
			require RUN_MAINTENANCE_IF_MAIN;' );
		$said = shell_exec( escapeshellarg( PHP_BINARY ) . ' ' . escapeshellarg( $script ) . ' 2>&1' );
		check( 'with Echo one without an address may set a reminder', 'set', $said );
		check( 'and is sent no mail', '', $this->mailed() );
		unlink( $extra );
		check( 'but notified', [
			'type' => 'remindme',
			'agent' => 'Renamed',
			'users' => [ 'Renamed' ],
			'header' => 'Reminder of <strong>Main Page</strong>',
			'body' => 'with &lt;b&gt;Echo',
			'link' => getenv( 'WIKI' ) . '/index.php/Main_Page',
		], json_decode( (string)file_get_contents( getenv( 'WIKI_DIRECTORY' ) . '/notified' ), true ) );
	}

	/**
	 * @return string What running the jobs mails
	 */
	private function mailed() {
		fire();
		file_put_contents( getenv( 'WIKI_DIRECTORY' ) . '/mail', '' );
		$run = maintenance( 'runJobs.php', '--type', 'remindMe' );
		check( 'its job is run', 1, preg_match_all( '/remindMe .* good$/m', $run ) ?: $run );
		return file_get_contents( getenv( 'WIKI_DIRECTORY' ) . '/mail' );
	}

	/**
	 * @param string $text
	 * @return string A file that holds it
	 */
	private function file( $text ) {
		$file = getenv( 'WIKI_DIRECTORY' ) . '/text';
		file_put_contents( $file, "$text\n" );
		return $file;
	}

	/**
	 * @return string[] Bodies by subject, in the order of the subjects
	 */
	private function mails() {
		$mails = [];
		$text = str_replace( "\r\n", "\n", file_get_contents( getenv( 'WIKI_DIRECTORY' ) . '/mail' ) );
		foreach ( preg_split( '/^(?=To: )/m', $text, -1, PREG_SPLIT_NO_EMPTY ) as $mail ) {
			[ $head, $body ] = explode( "\n\n", $mail, 2 );
			preg_match( '/^Subject: (.*)$/m', $head, $subject );
			$mails[mb_decode_mimeheader( $subject[1] )] = rtrim( quoted_printable_decode( $body ), "\n" ) . "\n";
		}
		ksort( $mails );
		return $mails;
	}
}

$maintClass = CheckReminders::class;
require_once RUN_MAINTENANCE_IF_MAIN;
