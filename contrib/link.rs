//! How a release is linked: at a fixed address.
//!
//! Moved to a random one, a program has every pointer in its tables written anew at each start, used
//! or not: some 15,000 here, on 70 pages, most of them of libraries that an idle tick never calls.
//! That was a fifth of the tick (`contrib/bench/RESULTS.md`), which cron pays for 1,440 times a day.
//! What is given up: the program's own code lies where an attacker could look it up; libraries, heap
//! and stack are still moved about. The code is Rust without `unsafe`, and SQLite. Whoever wants it
//! moved all the same, as distributions do, sets `PUNCTUAL_PIE=1` when building.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=contrib/link.rs");
    println!("cargo::rerun-if-env-changed=PUNCTUAL_PIE");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let is_asked_for = env::var_os("PUNCTUAL_PIE").is_none();
    // A static file is linked so already (`contrib/build-static`).
    if is_asked_for
        && is("PROFILE", "release")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && !env::var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|list| list.contains("crt-static"))
    {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
