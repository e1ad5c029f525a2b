#![no_main]

#[path = "../subjects/cron_expression.rs"]
mod subject;

libfuzzer_sys::fuzz_target!(|data: &[u8]| subject::check(data));
