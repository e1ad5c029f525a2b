//! What the benches stand on: places to measure in, the limits, ways to measure, and rows.
//!
//! Sites and servers are made by the same code as the tests', so that there is one way to start a
//! private server that cannot be left behind.

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../../tests/suite/support/host.rs"]
pub(crate) mod host;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../../tests/suite/support/mariadb.rs"]
pub(crate) mod mariadb;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../../tests/suite/support/process.rs"]
pub(crate) mod process;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../../tests/suite/support/site.rs"]
pub(crate) mod site;

pub(crate) mod limit;
pub(crate) mod machine;
pub(crate) mod measure;
pub(crate) mod place;
pub(crate) mod report;
pub(crate) mod row;
pub(crate) mod web;
