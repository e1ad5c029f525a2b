#![no_main]

#[path = "../subjects/job_payload.rs"]
mod subject;

libfuzzer_sys::fuzz_target!(|data: &[u8]| subject::check(data));
