#![no_main]

#[path = "../subjects/lock_file.rs"]
mod subject;

libfuzzer_sys::fuzz_target!(|data: &[u8]| subject::check(data));
