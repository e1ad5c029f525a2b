<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

namespace MediaWiki\Extension\ScheduledEvents;

// Echo has had both names.
class_alias(
	class_exists( '\MediaWiki\Extension\Notifications\Formatters\EchoEventPresentationModel' )
		? '\MediaWiki\Extension\Notifications\Formatters\EchoEventPresentationModel'
		: '\EchoEventPresentationModel',
	__NAMESPACE__ . '\PresentationModel'
);

/**
 * How Echo shows a reminder. Loaded by Echo only.
 */
class ReminderPresentationModel extends PresentationModel {
	/** @inheritDoc */
	public function canRender() {
		return (bool)$this->event->getTitle();
	}

	/** @inheritDoc */
	public function getIconType() {
		return 'placeholder';
	}

	/** @inheritDoc */
	public function getHeaderMessage() {
		return $this->msg( 'notification-header-remindme' )
			->plaintextParams( $this->event->getTitle()->getPrefixedText() );
	}

	/** @inheritDoc */
	public function getBodyMessage() {
		$comment = $this->event->getExtraParam( 'comment', '' );
		return $comment === '' ? false : $this->msg( 'notification-body-remindme' )->plaintextParams( $comment );
	}

	/** @inheritDoc */
	public function getPrimaryLink() {
		return [
			'url' => $this->event->getTitle()->getFullURL(),
			'label' => $this->msg( 'notification-link-remindme' )->text(),
		];
	}
}
