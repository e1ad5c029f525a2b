#![no_main]

#[path = "../subjects/batch_answer.rs"]
mod subject;

libfuzzer_sys::fuzz_target!(|data: &[u8]| subject::check(data));
