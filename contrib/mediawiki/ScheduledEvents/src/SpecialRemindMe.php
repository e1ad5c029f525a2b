<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

namespace MediaWiki\Extension\ScheduledEvents;

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
		$options = [];
		$language = $this->getLanguage();
		$titles = MediaWikiServices::getInstance()->getTitleFactory();
		// A list that was sent is checked against what was there when it was shown.
		$posted = $this->getRequest()->getArray( 'wpreminders', [] );
		foreach ( $this->reminders->ofUser( $this->getUser() ) as $reminder ) {
			$title = $titles->makeTitle( (int)$reminder['namespace'], $reminder['title'] );
			$label = $this->msg( $reminder['comment'] === '' ? 'remindme-item' : 'remindme-item-comment' )
				->plaintextParams(
					$title->getPrefixedText(),
					$language->userTimeAndDate( wfTimestamp( TS_MW, $reminder['at'] ), $this->getUser() ),
					$reminder['comment']
				)
				->text();
			$options[$this->unused( $options, $label )] = $reminder['id'];
		}
		foreach ( array_diff( $posted, $options ) as $id ) {
			if ( is_string( $id ) ) {
				$options[$this->unused( $options, $this->msg( 'remindme-gone' )->text() )] = $id;
			}
		}
		if ( !$options ) {
			$this->getOutput()->addWikiMsg( 'remindme-none' );
			return;
		}
		$fields = [
			'reminders' => [
				'type' => 'multiselect',
				'options' => array_map( 'strval', $options ),
				'required' => true,
			],
		];
		$cancelled = HTMLForm::factory( 'ooui', $fields, $this->getContext() )
			->setTitle( $this->getPageTitle() )
			->setFormIdentifier( 'remindme-cancel' )
			->setWrapperLegendMsg( 'remindme-list' )
			->setSubmitTextMsg( 'remindme-cancel' )
			->setSubmitDestructive()
			->setSubmitCallback( [ $this, 'onCancel' ] )
			->show();
		if ( $cancelled === true || ( $cancelled instanceof StatusValue && $cancelled->isGood() ) ) {
			$this->getOutput()->redirect( $this->getPageTitle()->getFullURL() );
		}
	}

	/**
	 * Labels are the keys of a form's options, and two reminders may look the same.
	 *
	 * @param array $options
	 * @param string $label
	 * @return string
	 */
	private function unused( array $options, $label ) {
		$unused = $label;
		for ( $number = 2; isset( $options[$unused] ); $number++ ) {
			$unused = $this->msg( 'remindme-item-again' )->plaintextParams( $label )
				->numParams( $number )->text();
		}
		return $unused;
	}

	/**
	 * @param array $data
	 * @return StatusValue
	 */
	public function onCancel( array $data ) {
		$status = StatusValue::newGood();
		foreach ( $data['reminders'] as $id ) {
			if ( !$this->reminders->cancel( $this->getUser(), $id ) ) {
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
