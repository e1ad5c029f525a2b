<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

namespace MediaWiki\Extension\ScheduledEvents;

use ApiBase;
use ApiMain;
use MediaWiki\MediaWikiServices;
use Wikimedia\ParamValidator\ParamValidator;

/**
 * action=remindme: sets a reminder, or cancels one; without either it lists the user's own.
 */
class ApiRemindMe extends ApiBase {
	/** @var Reminders */
	private $reminders;

	/**
	 * @param ApiMain $main
	 * @param string $action
	 * @param Reminders $reminders
	 */
	public function __construct( ApiMain $main, $action, Reminders $reminders ) {
		parent::__construct( $main, $action );
		$this->reminders = $reminders;
	}

	/** @inheritDoc */
	public function execute() {
		$user = $this->getUser();
		if ( !$user->isRegistered() ) {
			$this->dieWithError( 'remindme-login', 'notloggedin' );
		}
		$this->checkUserRightsAny( 'remindme' );
		$params = $this->extractRequestParams();
		$this->requireMaxOneParameter( $params, 'page', 'cancel' );
		$status = $this->reminders->areSetUp();
		if ( !$status->isOK() ) {
			$this->dieStatus( $status );
		}
		if ( $params['cancel'] !== null ) {
			if ( !$this->reminders->cancel( $user, $params['cancel'] ) ) {
				$this->dieWithError( 'remindme-error-gone', 'gone' );
			}
			$this->getResult()->addValue( null, $this->getModuleName(), [ 'cancelled' => $params['cancel'] ] );
			return;
		}
		if ( $params['page'] !== null ) {
			$this->set( $user, $params );
			return;
		}
		$list = array_map( [ $this, 'shown' ], $this->reminders->ofUser( $user ) );
		$this->getResult()->addValue( null, $this->getModuleName(), [ 'reminders' => $list ] );
	}

	/**
	 * @param \User $user
	 * @param array $params
	 */
	private function set( $user, array $params ) {
		$this->requireOnlyOneParameter( $params, 'time', 'delay' );
		$title = MediaWikiServices::getInstance()->getTitleFactory()->newFromText( $params['page'] );
		if ( !$title ) {
			$this->dieWithError( [ 'apierror-invalidtitle', wfEscapeWikiText( $params['page'] ) ] );
		}
		$time = $params['delay'] === null
			? (int)wfTimestamp( TS_UNIX, $params['time'] )
			: Reminders::after( $params['delay'] );
		if ( $time === null ) {
			$this->dieWithError( 'remindme-error-delay', 'baddelay' );
		}
		if ( $user->pingLimiter( 'remindme' ) ) {
			$this->dieWithError( 'apierror-ratelimited' );
		}
		$status = $this->reminders->set( $user, $title, $time, trim( $params['comment'] ) );
		if ( !$status->isOK() ) {
			$this->dieStatus( $status );
		}
		$shown = $this->shown( $status->getValue() );
		$this->getResult()->addValue( null, $this->getModuleName(), $shown );
	}

	/**
	 * @param array $reminder
	 * @return array
	 */
	private function shown( array $reminder ) {
		$title = MediaWikiServices::getInstance()->getTitleFactory()
			->makeTitle( (int)$reminder['namespace'], $reminder['title'] );
		return [
			'id' => $reminder['id'],
			'page' => $title->getPrefixedText(),
			'time' => wfTimestamp( TS_ISO_8601, $reminder['at'] ),
			'comment' => $reminder['comment'],
		];
	}

	/** @inheritDoc */
	public function getAllowedParams() {
		return [
			'page' => [ ParamValidator::PARAM_TYPE => 'string' ],
			'time' => [ ParamValidator::PARAM_TYPE => 'timestamp' ],
			'delay' => [ ParamValidator::PARAM_TYPE => 'string' ],
			'comment' => [ ParamValidator::PARAM_TYPE => 'string', ParamValidator::PARAM_DEFAULT => '' ],
			'cancel' => [ ParamValidator::PARAM_TYPE => 'string' ],
		];
	}

	/** @inheritDoc */
	public function mustBePosted() {
		return true;
	}

	/** @inheritDoc */
	public function isWriteMode() {
		return true;
	}

	/** @inheritDoc */
	public function needsToken() {
		return 'csrf';
	}

	/** @inheritDoc */
	protected function getExamplesMessages() {
		return [
			'action=remindme&page=Main_Page&delay=30%20days&comment=Proofread&token=123ABC'
				=> 'apihelp-remindme-example-delay',
			'action=remindme&page=Main_Page&time=2030-12-24T18:00:00Z&token=123ABC'
				=> 'apihelp-remindme-example-time',
			'action=remindme&cancel=0123456789abcdef&token=123ABC' => 'apihelp-remindme-example-cancel',
		];
	}
}
