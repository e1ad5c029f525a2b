#![no_main]

#[path = "../subjects/http_answer.rs"]
mod subject;

libfuzzer_sys::fuzz_target!(|data: &[u8]| subject::check(data));
