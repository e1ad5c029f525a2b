<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

/**
 * Stands in for Echo's class.
 */
abstract class EchoEventPresentationModel {
	/** @var EchoEvent */
	protected $event;

	/**
	 * @param EchoEvent $event
	 */
	public function __construct( EchoEvent $event ) {
		$this->event = $event;
	}

	/**
	 * @return bool
	 */
	public function canRender() {
		return true;
	}

	/**
	 * @return string
	 */
	abstract public function getIconType();

	/**
	 * @return array|false
	 */
	abstract public function getPrimaryLink();

	/**
	 * @param string $key
	 * @param mixed ...$params
	 * @return Message
	 */
	public function msg( $key, ...$params ) {
		return wfMessage( $key, ...$params )->inLanguage( 'en' );
	}
}
