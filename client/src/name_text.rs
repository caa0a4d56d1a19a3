//! Names as text.
//!
//! A name is bytes: any but `/` and NUL. Paths of path clients are text. A name that is UTF-8 is written as it is; of
//! others, each byte that does not belong to a character is written `\xNN` (two hexadecimal digits). A
//! backslash stands for itself, except where it would look like that: before `x` and two hexadecimal digits it is written `\x5c`.
//! So every name has a text, and reading it gives the name back:
//!
//! | name (bytes)    | text          |
//! |-----------------|---------------|
//! | `caf\u{e9}` in UTF-8 | the same |
//! | `63 61 66 e9`   | `caf\xe9`     |
//! | `a\b`           | `a\b`         |
//! | `a\x41`         | `a\x5cx41`    |

use std::borrow::Cow;

/// Length of `\xNN`.
const ESCAPE_LEN: usize = 4;

/// The text of a name (or of any bytes, such as a symbolic link's target).
pub fn escape_name(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find('\\') {
            let (before, from) = rest.split_at(at);
            text.push_str(before);
            text.push_str(if escaped_byte(from.as_bytes()).is_some() { "\\x5c" } else { "\\" });
            rest = &from[1..];
        }
        text.push_str(rest);
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The bytes that a text stands for; see [`escape_name`].
pub fn unescape_name(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'\\') {
        return Cow::Borrowed(bytes);
    }
    let mut name = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let used = match escaped_byte(rest) {
            Some(byte) => {
                name.push(byte);
                ESCAPE_LEN
            }
            None => {
                name.push(*first);
                1
            }
        };
        rest = &rest[used..];
    }
    Cow::Owned(name)
}

/// The byte, if `text` begins with an escape.
fn escaped_byte(text: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_is_no_text_is_escaped() {
        for (name, text) in [
            (&b"plain"[..], "plain"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
            (b"caf\xe9", "caf\\xe9"),
            (b"\xff\xfe odd", "\\xff\\xfe odd"),
            (b"a\\b", "a\\b"),
            (b"\\", "\\"),
            (b"a\\x41", "a\\x5cx41"),
            (b"a\\x4", "a\\x4"),
            (b"\\x\xab", "\\x\\xab"),
            (b"\\\xab", "\\\\xab"),
            (b"", ""),
        ] {
            assert_eq!(escape_name(name), text);
            assert_eq!(unescape_name(text).as_ref(), name);
        }
        assert_eq!(unescape_name("\\xFF\\x41").as_ref(), b"\xffA");
    }

    proptest! {
        #[test]
        fn every_name_survives(name in proptest::collection::vec(
            prop_oneof![Just(b'\\'), Just(b'x'), Just(b'4'), Just(b'f'), any::<u8>()], 0..24)
        ) {
            prop_assert_eq!(unescape_name(&escape_name(&name)).into_owned(), name);
        }
    }
}
