//! What the tests stand on. Shares nothing with the product: a mistake there cannot hide here.

pub(crate) mod failing;
pub(crate) mod host;
pub(crate) mod mariadb;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod recorder;
pub(crate) mod site;
pub(crate) mod web;
pub(crate) mod wiki;

/// Bytes as hexadecimal digits, two each, in lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

/// One body, run on SQLite and on MariaDB: `fn name(site: &Site) { … }` becomes the tests
/// `name::sqlite` and `name::mariadb`.
macro_rules! on_both_databases {
    ($($(#[$attribute:meta])* fn $name:ident($site:ident: &Site) $body:block)+) => {$(
        $(#[$attribute])*
        fn $name($site: &$crate::support::site::Site) $body

        mod $name {
            use crate::support::site::Site;

            #[test]
            fn sqlite() {
                super::$name(&Site::sqlite());
            }

            #[test]
            fn mariadb() {
                super::$name(&Site::mariadb());
            }
        }
    )+};
}
