//! Tokens: random hexadecimal digits by which one lock, lease, run or installation is told from
//! every other, and which nobody can guess.

use std::fmt::Write;

/// How many digits [`random_hex`] makes.
pub const DIGITS: usize = 32;

/// [`DIGITS`] random hexadecimal digits, in lower case.
///
/// # Panics
/// Without a random source, and nothing is safe to start then; the kernel's never fails once the
/// machine is up.
pub fn random_hex() -> String {
    let mut bytes = [0u8; DIGITS / 2];
    getrandom::fill(&mut bytes).expect("the kernel's random source");
    hex(&bytes)
}

/// `bytes` as hexadecimal digits, two each, in lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_two_digits() {
        assert_eq!(hex(&[0, 0x0a, 0xff]), "000aff");
        assert_eq!(hex(&[]), "");
    }

    #[test]
    fn a_token_has_its_digits_and_is_like_no_other() {
        let (one, other) = (random_hex(), random_hex());
        assert_eq!((one.len(), other.len()), (DIGITS, DIGITS));
        assert_ne!(one, other);
    }
}
