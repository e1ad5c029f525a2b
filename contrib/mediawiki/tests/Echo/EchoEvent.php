<?php
/**
 * @license GPL-2.0-or-later
 * @file
 */

use MediaWiki\MediaWikiServices;

/**
 * Stands in for Echo's class: finds out whom to tell and what, as Echo does, and writes it down.
 */
class EchoEvent {
	/** @var array */
	private $info;

	/**
	 * @param array $info
	 */
	public static function create( array $info ) {
		$event = new self;
		$event->info = $info;
		$notifications = [];
		$categories = [];
		$icons = [];
		MediaWikiServices::getInstance()->getHookContainer()
			->run( 'BeforeCreateEchoEvent', [ &$notifications, &$categories, &$icons ] );
		$kind = $notifications[$info['type']];
		if ( !isset( $categories[$kind['category']] ) ) {
			throw new LogicException( 'no such category' );
		}
		$users = [];
		foreach ( $kind['user-locators'] as $locator ) {
			$arguments = is_array( $locator ) ? array_splice( $locator, 1 ) : [];
			$callable = is_array( $locator ) ? $locator[0] : $locator;
			foreach ( $callable( $event, ...$arguments ) as $user ) {
				$isAgent = $user->equals( $info['agent'] );
				if ( !$isAgent || ( $kind['canNotifyAgent'] && $info['extra']['notifyAgent'] ) ) {
					$users[] = $user->getName();
				}
			}
		}
		$model = new $kind['presentation-model']( $event );
		file_put_contents( getenv( 'WIKI_DIRECTORY' ) . '/notified', json_encode( [
			'type' => $info['type'],
			'agent' => $info['agent']->getName(),
			'users' => $users,
			'header' => $model->canRender() ? $model->getHeaderMessage()->parse() : '',
			'body' => $model->getBodyMessage()->parse(),
			'link' => $model->getPrimaryLink()['url'],
		] ) );
	}

	/**
	 * @return User
	 */
	public function getAgent() {
		return $this->info['agent'];
	}

	/**
	 * @return Title
	 */
	public function getTitle() {
		return $this->info['title'];
	}

	/**
	 * @param string $key
	 * @param mixed $default
	 * @return mixed
	 */
	public function getExtraParam( $key, $default = null ) {
		return $this->info['extra'][$key] ?? $default;
	}
}
