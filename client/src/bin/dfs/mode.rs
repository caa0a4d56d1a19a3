//! Permission bits: the argument of `chmod`, and how `ls` shows them.

use std::str::FromStr;

/// All bits that a mode has: set-id, sticky and three times `rwx`.
pub const ALL_BITS: u32 = 0o7777;

/// A change of mode, as `chmod` takes it: octal (`755`, `1777`) or symbolic clauses separated by
/// commas (`u+rwx,go-w`, `a=rX`, `+t`). A clause without `ugoa` means all three, whatever the umask
/// (as in HDFS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeChange {
    /// Sets exactly these bits.
    Absolute(u32),
    /// Clauses in order.
    Symbolic(Vec<Clause>),
}

/// One symbolic clause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Mask of the classes named, as their `rwx` bits.
    who: u32,
    operator: Operator,
    /// Bits named, for all classes.
    bits: u32,
    /// `X`: execute for directories and for files that somebody may execute.
    conditional_execute: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

/// A mode argument that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("mode '{text}' does not match the expected pattern (octal, or like u+rwx,go-w)")]
pub struct ModeError {
    text: String,
}

impl FromStr for ModeChange {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        let bad = || ModeError { text: text.to_owned() };
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).map_err(|_| bad())?;
            return if bits <= ALL_BITS { Ok(Self::Absolute(bits)) } else { Err(bad()) };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            parse_clauses(part, &mut clauses).ok_or_else(bad)?;
        }
        Ok(Self::Symbolic(clauses))
    }
}

/// Reads `who` and one or more `operator bits` pairs (`u+r-w`).
fn parse_clauses(part: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let start = part.find(['+', '-', '='])?;
    let mut who = 0;
    for class in part[..start].chars() {
        who |= match class {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            'a' => 0o777,
            _ => return None,
        };
    }
    if who == 0 {
        who = 0o777;
    }
    let mut rest = part[start..].chars().peekable();
    while let Some(operator) = rest.next() {
        let operator = match operator {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Set,
            _ => return None,
        };
        let mut clause = Clause { who, operator, bits: 0, conditional_execute: false };
        let mut named = false;
        while let Some(bit) = rest.next_if(|c| !matches!(c, '+' | '-' | '=')) {
            named = true;
            match bit {
                'r' => clause.bits |= 0o444 & who,
                'w' => clause.bits |= 0o222 & who,
                'x' => clause.bits |= 0o111 & who,
                'X' => clause.conditional_execute = true,
                's' => clause.bits |= set_id_bits(who),
                't' => clause.bits |= 0o1000,
                _ => return None,
            }
        }
        if !named && operator != Operator::Set {
            return None;
        }
        clauses.push(clause);
    }
    Some(())
}

fn set_id_bits(who: u32) -> u32 {
    let user = if who & 0o700 != 0 { 0o4000 } else { 0 };
    let group = if who & 0o070 != 0 { 0o2000 } else { 0 };
    user | group
}

impl ModeChange {
    /// The mode that `mode` becomes.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Absolute(bits) => *bits,
            Self::Symbolic(clauses) => {
                clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_directory))
            }
        }
    }
}

impl Clause {
    fn apply(self, mode: u32, is_directory: bool) -> u32 {
        let mut bits = self.bits;
        if self.conditional_execute && (is_directory || mode & 0o111 != 0) {
            bits |= 0o111 & self.who;
        }
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            Operator::Set => (mode & !(self.who | set_id_bits(self.who))) | bits,
        }
    }
}

/// `rwxr-xr-x`, with `s`, `S`, `t` and `T` for the special bits.
pub fn symbolic(mode: u32) -> String {
    let mut text = String::with_capacity(9);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str, mode: u32, is_directory: bool) -> u32 {
        text.parse::<ModeChange>().unwrap().apply(mode, is_directory)
    }

    #[test]
    fn octal_replaces_everything() {
        assert_eq!(changed("755", 0o644, false), 0o755);
        assert_eq!(changed("1777", 0, true), 0o1777);
        assert_eq!(changed("0", 0o7777, true), 0);
    }

    #[test]
    fn clauses_add_remove_and_set() {
        for (text, before, after) in [
            ("u+x", 0o644, 0o744),
            ("go-r", 0o644, 0o600),
            ("a=r", 0o777, 0o444),
            ("+w", 0o444, 0o666),
            ("-rwx", 0o777, 0o000),
            ("u=rwx,go=rx", 0o000, 0o755),
            ("u+r-w", 0o222, 0o422),
            ("+t", 0o777, 0o1777),
            ("-t", 0o1777, 0o777),
            ("u+s", 0o755, 0o4755),
            ("g+s", 0o755, 0o2755),
            ("u=", 0o4755, 0o055),
            ("o=", 0o757, 0o750),
        ] {
            assert_eq!(changed(text, before, false), after, "{text} on {before:o}");
        }
    }

    #[test]
    fn capital_x_needs_a_directory_or_an_executable() {
        assert_eq!(changed("a+X", 0o644, false), 0o644);
        assert_eq!(changed("a+X", 0o744, false), 0o755);
        assert_eq!(changed("a+X", 0o644, true), 0o755);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "8", "77777", "u", "u+", "z+r", "u+q", "u+r,", "rwx"] {
            assert!(text.parse::<ModeChange>().is_err(), "{text}");
        }
    }

    #[test]
    fn special_bits_show() {
        assert_eq!(symbolic(0o755), "rwxr-xr-x");
        assert_eq!(symbolic(0o1777), "rwxrwxrwt");
        assert_eq!(symbolic(0o1776), "rwxrwxrwT");
        assert_eq!(symbolic(0o6744), "rwsr-Sr--");
    }
}
