//! Sizes for people, in Hadoop's spelling: `512`, `1.5 K`, `128 M`.

/// Binary prefixes from 2^10 upward.
const PREFIXES: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];

/// `bytes` with a binary prefix and one decimal; none when the value is whole.
pub fn size(bytes: u64) -> String {
    let mut shift = 0;
    let mut prefix = None;
    for candidate in PREFIXES {
        // 1023.95 and more would print as 1024.0: the next prefix reads better.
        if tenths(bytes, shift) < 10_240 {
            break;
        }
        shift += 10;
        prefix = Some(candidate);
    }
    let Some(prefix) = prefix else { return bytes.to_string() };
    let tenths = tenths(bytes, shift);
    if bytes & ((1 << shift) - 1) == 0 {
        format!("{} {prefix}", tenths / 10)
    } else {
        format!("{}.{} {prefix}", tenths / 10, tenths % 10)
    }
}

/// Tenths of 2^`shift`, rounded to the nearest.
fn tenths(bytes: u64, shift: u32) -> u128 {
    let unit = 1_u128 << shift;
    (u128::from(bytes) * 10 + unit / 2) / unit
}

/// A size that is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a size such as 1048576, 64M or 1G")]
pub struct SizeError;

/// Reads bytes, with an optional binary prefix in either case.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, last)) if last.is_ascii_alphabetic() => {
            let place = PREFIXES.iter().position(|prefix| prefix.eq_ignore_ascii_case(&last));
            (&text[..at], 10 * (place.ok_or(SizeError)? as u32 + 1))
        }
        _ => (text, 0),
    };
    let value: u64 = digits.parse().map_err(|_| SizeError)?;
    value.checked_mul(1 << shift).ok_or(SizeError)
}

/// `bytes`, for people if `human`.
pub fn maybe(bytes: u64, human: bool) -> String {
    if human { size(bytes) } else { bytes.to_string() }
}

/// `part` of `whole` in percent with `decimals`; 0 of 0 is 0.
pub fn percent(part: u64, whole: u64, decimals: usize) -> String {
    let value = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
    format!("{value:.decimals$}%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_in_hadoop() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1 K"),
            (1536, "1.5 K"),
            (1 << 20, "1 M"),
            ((1 << 20) - 1, "1.0 M"),
            (128 << 20, "128 M"),
            (1_234_567_890, "1.1 G"),
            (u64::MAX, "16.0 E"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn sizes_are_read_with_and_without_prefix() {
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("64m"), Ok(64 << 20));
        assert_eq!(parse("1G"), Ok(1 << 30));
        for text in ["", "M", "1.5M", "-1", "1X", "16E", "1\u{e9}"] {
            assert_eq!(parse(text), Err(SizeError), "{text}");
        }
    }

    #[test]
    fn percentages_of_nothing_are_zero() {
        assert_eq!(percent(1, 3, 2), "33.33%");
        assert_eq!(percent(0, 0, 0), "0%");
    }
}
