<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

namespace MediaWiki\Extension\ScheduledEvents;

use Html;
use HTMLForm;
use MediaWiki\MediaWikiServices;
use SpecialPage;
use StatusValue;

/**
 * Special:RemindMe/PAGE: sets a reminder, lists the user's own, and cancels them.
 */
class SpecialRemindMe extends SpecialPage {
	private const DELAYS = [
		'remindme-in-hour' => '1 hour',
		'remindme-in-day' => '1 day',
		'remindme-in-week' => '1 week',
		'remindme-in-month' => '1 month',
		'remindme-in-quarter' => '3 months',
		'remindme-in-year' => '1 year',
		'remindme-at' => 'at',
	];

	/** @var Reminders */
	private $reminders;

	/**
	 * @param Reminders $reminders
	 */
	public function __construct( Reminders $reminders ) {
		parent::__construct( 'RemindMe', 'remindme' );
		$this->reminders = $reminders;
	}

	/** @inheritDoc */
	public function doesWrites() {
		return true;
	}

	/** @inheritDoc */
	public function execute( $subPage ) {
		$this->requireLogin( 'remindme-login' );
		$this->setHeaders();
		$this->checkPermissions();
		$this->checkReadOnly();
		$out = $this->getOutput();
		$status = $this->reminders->areSetUp();
		if ( !$status->isOK() ) {
			$out->showErrorPage( 'remindme', $status->getErrors()[0]['message'] );
			return;
		}
		$out->addWikiMsg( 'remindme-intro', $this->zone()->getName() );
		$set = $this->formToSet( (string)$subPage )->show();
		if ( $set === true || ( $set instanceof StatusValue && $set->isGood() ) ) {
			$out->addWikiMsg( 'remindme-set' );
		}
		$this->showList();
	}

	/**
	 * @param string $page
	 * @return HTMLForm
	 */
	private function formToSet( $page ) {
		$fields = [
			'page' => [
				'type' => 'text',
				'label-message' => 'remindme-page',
				'default' => str_replace( '_', ' ', $page ),
				'required' => true,
			],
			'delay' => [
				'type' => 'select',
				'label-message' => 'remindme-when',
				'options-messages' => self::DELAYS,
				'default' => '1 day',
			],
			'time' => [
				'type' => 'text',
				'label-message' => [ 'remindme-time', $this->zone()->getName() ],
				'placeholder' => '2030-12-24 18:00',
				'hide-if' => [ '!==', 'delay', 'at' ],
			],
			'comment' => [
				'type' => 'text',
				'label-message' => 'remindme-comment',
				'maxlength' => Reminders::MAX_COMMENT,
			],
		];
		return HTMLForm::factory( 'ooui', $fields, $this->getContext() )
			->setTitle( $this->getPageTitle() )
			->setFormIdentifier( 'remindme-set' )
			->setWrapperLegendMsg( 'remindme-legend' )
			->setSubmitTextMsg( 'remindme-submit' )
			->setSubmitCallback( [ $this, 'onSet' ] );
	}

	/**
	 * @param array $data
	 * @return StatusValue
	 */
	public function onSet( array $data ) {
		$title = MediaWikiServices::getInstance()->getTitleFactory()->newFromText( $data['page'] );
		if ( !$title ) {
			return StatusValue::newFatal( 'remindme-error-page' );
		}
		$time = $data['delay'] === 'at'
			? $this->zone()->parse( (string)$data['time'] )
			: Reminders::after( $data['delay'] );
		if ( $time === null ) {
			return StatusValue::newFatal( 'remindme-error-time' );
		}
		if ( $this->getUser()->pingLimiter( 'remindme' ) ) {
			return StatusValue::newFatal( 'actionthrottledtext' );
		}
		return $this->reminders->set( $this->getUser(), $title, $time, trim( (string)$data['comment'] ) );
	}

	private function showList() {
		$result = $this->formToCancel( [] )->tryAuthorizedSubmit();
		$failed = $result instanceof StatusValue && !$result->isGood();
		// Only now, so that the list lacks what was cancelled.
		$items = array_map( [ $this, 'item' ], $this->reminders->ofUser( $this->getUser() ) );
		if ( !$items && !$failed ) {
			$this->getOutput()->addWikiMsg( 'remindme-none' );
			return;
		}
		$list = Html::rawElement( 'ul', [ 'class' => 'remindme-list' ], implode( "\n", $items ) );
		$this->formToCancel( [ 'list' => [ 'type' => 'info', 'raw' => true, 'default' => $list ] ] )
			->displayForm( $result );
	}

	/**
	 * @param array $fields
	 * @return HTMLForm Prepared
	 */
	private function formToCancel( array $fields ) {
		return HTMLForm::factory( 'ooui', $fields, $this->getContext() )
			->setTitle( $this->getPageTitle() )
			->setFormIdentifier( 'remindme-cancel' )
			->setWrapperLegendMsg( 'remindme-list' )
			->setSubmitTextMsg( 'remindme-cancel' )
			->setSubmitDestructive()
			->setSubmitCallback( [ $this, 'onCancel' ] )
			->prepareForm();
	}

	/**
	 * @param array $reminder
	 * @return string HTML
	 */
	private function item( array $reminder ) {
		$title = MediaWikiServices::getInstance()->getTitleFactory()
			->makeTitle( (int)$reminder['namespace'], $reminder['title'] );
		$time = $this->getLanguage()->userTimeAndDate(
			wfTimestamp( TS_MW, $reminder['at'] ),
			$this->getUser()
		);
		$text = $this->msg( $reminder['comment'] === '' ? 'remindme-item' : 'remindme-item-comment' )
			->plaintextParams( $title->getPrefixedText(), $time, $reminder['comment'] )
			->text();
		$box = Html::element( 'input', [
			'type' => 'checkbox',
			'name' => 'reminders[]',
			'value' => $reminder['id'],
		] );
		return Html::rawElement(
			'li',
			[],
			Html::rawElement( 'label', [], $box . ' ' . htmlspecialchars( $text ) )
		);
	}

	/**
	 * @return StatusValue
	 */
	public function onCancel() {
		$status = StatusValue::newGood();
		foreach ( $this->getRequest()->getArray( 'reminders', [] ) as $id ) {
			if ( !is_string( $id ) || !$this->reminders->cancel( $this->getUser(), $id ) ) {
				$status = StatusValue::newFatal( 'remindme-error-gone' );
			}
		}
		return $status;
	}

	/**
	 * @return UserZone
	 */
	private function zone() {
		return new UserZone(
			MediaWikiServices::getInstance()->getUserOptionsLookup()
				->getOption( $this->getUser(), 'timecorrection' ),
			$this->getConfig()->get( 'Localtimezone' )
		);
	}

	/** @inheritDoc */
	protected function getGroupName() {
		return 'users';
	}
}
