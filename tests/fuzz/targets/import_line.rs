#![no_main]

#[path = "../subjects/import_line.rs"]
mod subject;

libfuzzer_sys::fuzz_target!(|data: &[u8]| subject::check(data));
