//! The payload of a `mediawiki-job` event: what it becomes is a row that MediaWiki can unserialise
//! without bringing anything to life.

use punctual::handler::mediawiki_job::Job;
use punctual::php::{Value, check_serialized_array};

pub(crate) fn check(data: &[u8]) {
    match Job::read(data) {
        Ok(job) => {
            assert!((1..=60).contains(&job.cmd.len()), "{job:?}");
            assert!(job.title.len() <= 255, "{job:?}");
            assert!(matches!(job.sha1.len(), 0 | 31), "{job:?}");
            assert_eq!(check_serialized_array(&job.params), Ok(()), "{job:?}");
        }
        Err(why) => {
            assert!(!why.is_empty() && why.len() < 400, "{why}");
            assert!(!why.contains('\n'), "{why}");
        }
    }
    // What it would be as the parameters of a job.
    if let Ok(Value::Array(array)) = Value::from_json(data) {
        let mut text = Vec::new();
        array.serialize(&mut text);
        assert_eq!(check_serialized_array(&text), Ok(()));
    }
    // A serialised text is taken or refused, and nothing else.
    let _ = check_serialized_array(data);
}
