#![no_main]

#[path = "../subjects/my_cnf.rs"]
mod subject;

libfuzzer_sys::fuzz_target!(|data: &[u8]| subject::check(data));
