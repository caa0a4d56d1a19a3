//! Patterns of path names, as Hadoop's shell has them.
//!
//! | token       | matches                                                  |
//! |-------------|----------------------------------------------------------|
//! | `?`         | any one character but `/`                                |
//! | `*`         | any run of characters without `/`, also none             |
//! | `[abc]`     | one of the characters; `a-z` is a range                  |
//! | `[^a]`      | one character that is none of these (also `[!a]`)        |
//! | `{ab,c*}`   | either alternative; may hold `/` and be nested           |
//! | `\c`        | the character itself                                     |
//! | `\xNN`      | that byte of a name that is no UTF-8, as listings show it |
//!
//! Names are matched as listings show them (`dfs_client::escape_name`).
//!
//! An unclosed `[` or `{` stands for itself. Braces are expanded first, into whole paths; what is left
//! is matched name by name, so that only directories that can hold a match are listed.

/// Most paths that the braces of one argument may expand to; `{a,b}{a,b}...` doubles with each pair.
pub const MAX_ALTERNATIVES: usize = 10_000;

/// Why a pattern cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// Braces multiply to more than [`MAX_ALTERNATIVES`].
    #[error("`{pattern}': braces expand to more than {MAX_ALTERNATIVES} paths")]
    TooManyAlternatives {
        /// The argument.
        pattern: String,
    },
}

/// One name of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// Stands for itself.
    Name(String),
    /// Has to be matched against the names of a directory.
    Pattern(Pattern),
}

/// Whether `text` has any character with a meaning.
pub fn has_meta(text: &str) -> bool {
    let escapes = || text.match_indices('\\').any(|(at, _)| !is_byte_escape(text[at..].chars()));
    text.contains(['*', '?', '[', '{']) || escapes()
}

/// Whether `\xNN` comes next: part of a name's spelling, and no pattern.
fn is_byte_escape(mut chars: impl Iterator<Item = char>) -> bool {
    chars.next() == Some('\\')
        && chars.next() == Some('x')
        && chars.next().is_some_and(|c| c.is_ascii_hexdigit())
        && chars.next().is_some_and(|c| c.is_ascii_hexdigit())
}

/// Expands braces and splits every resulting path into its components.
pub fn parse(pattern: &str) -> Result<Vec<Vec<Component>>, GlobError> {
    let paths = expand_braces(pattern)?;
    Ok(paths
        .iter()
        .map(|path| path.split('/').filter(|name| !name.is_empty()).map(Component::parse).collect())
        .collect())
}

impl Component {
    fn parse(name: &str) -> Self {
        let tokens = tokens_of(name);
        let mut literal = String::with_capacity(name.len());
        for token in &tokens {
            match token {
                Token::Char(c) => literal.push(*c),
                Token::AnyOne | Token::AnyRun | Token::Class { .. } => {
                    return Self::Pattern(Pattern { tokens });
                }
            }
        }
        Self::Name(literal)
    }
}

/// A pattern of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    AnyOne,
    AnyRun,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Token {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::AnyOne | Self::AnyRun => true,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

impl Pattern {
    /// A pattern without braces, for `find -name`. Braces in it must have been expanded by
    /// [`alternatives`].
    pub fn new(text: &str) -> Self {
        Self { tokens: tokens_of(text) }
    }

    /// Whether the whole of `name` matches. Linear in `name` for each `*`: on a mismatch only the
    /// latest `*` takes one character more, which is enough because earlier ones matched the
    /// shortest way.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut token) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while at < name.len() {
            match self.tokens.get(token) {
                Some(Token::AnyRun) => {
                    star = Some((token, at));
                    token += 1;
                }
                Some(other) if other.matches(name[at]) => {
                    at += 1;
                    token += 1;
                }
                Some(_) | None => match star {
                    Some((star_token, star_at)) => {
                        star = Some((star_token, star_at + 1));
                        token = star_token + 1;
                        at = star_at + 1;
                    }
                    None => return false,
                },
            }
        }
        self.tokens[token..].iter().all(|rest| *rest == Token::AnyRun)
    }
}

/// The patterns that the braces of one `find -name` argument stand for.
pub fn alternatives(text: &str) -> Result<Vec<Pattern>, GlobError> {
    Ok(expand_braces(text)?.iter().map(|one| Pattern::new(one)).collect())
}

fn tokens_of(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::with_capacity(chars.len());
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        at += 1;
        tokens.push(match c {
            '?' => Token::AnyOne,
            '*' => Token::AnyRun,
            '\\' if is_byte_escape(chars[at - 1..].iter().copied()) => Token::Char('\\'),
            '\\' if at < chars.len() => {
                at += 1;
                Token::Char(chars[at - 1])
            }
            '[' => match class_at(&chars, at) {
                Some((class, end)) => {
                    at = end;
                    class
                }
                None => Token::Char('['),
            },
            other => Token::Char(other),
        });
    }
    tokens
}

/// Reads the class whose first character after `[` is at `at`; answers it and the place after `]`.
fn class_at(chars: &[char], mut at: usize) -> Option<(Token, usize)> {
    let negated = matches!(chars.get(at), Some('^' | '!'));
    if negated {
        at += 1;
    }
    let mut ranges = Vec::new();
    loop {
        let mut low = *chars.get(at)?;
        at += 1;
        if low == ']' && !ranges.is_empty() {
            return Some((Token::Class { negated, ranges }, at));
        }
        if low == '\\' {
            low = *chars.get(at)?;
            at += 1;
        }
        if chars.get(at) == Some(&'-') && chars.get(at + 1).is_some_and(|next| *next != ']') {
            ranges.push((low, chars[at + 1]));
            at += 2;
        } else {
            ranges.push((low, low));
        }
    }
}

fn expand_braces(pattern: &str) -> Result<Vec<String>, GlobError> {
    let mut done = Vec::new();
    let mut open = vec![pattern.to_owned()];
    while let Some(text) = open.pop() {
        match first_group(&text) {
            None => done.push(text),
            Some(group) => {
                let (head, tail) = (&text[..group.start], &text[group.end..]);
                // Reversed, because `open` is a stack and the first alternative shall come out first.
                open.extend(group.parts.iter().rev().map(|part| format!("{head}{part}{tail}")));
            }
        }
        if done.len() + open.len() > MAX_ALTERNATIVES {
            return Err(GlobError::TooManyAlternatives { pattern: pattern.to_owned() });
        }
    }
    Ok(done)
}

/// The first closed brace group of a text; `start..end` covers the braces.
struct Group<'t> {
    start: usize,
    end: usize,
    parts: Vec<&'t str>,
}

fn first_group(text: &str) -> Option<Group<'_>> {
    let bytes = text.as_bytes();
    let mut start = 0;
    loop {
        start = unescaped(bytes, start, b'{')?;
        if let Some(group) = group_at(text, start) {
            return Some(group);
        }
        start += 1;
    }
}

fn unescaped(bytes: &[u8], mut at: usize, wanted: u8) -> Option<usize> {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            found if found == wanted => return Some(at),
            _ => at += 1,
        }
    }
    None
}

fn group_at(text: &str, start: usize) -> Option<Group<'_>> {
    let bytes = text.as_bytes();
    let (mut depth, mut at, mut part_start) = (0_usize, start + 1, start + 1);
    let mut parts = Vec::new();
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'{' => depth += 1,
            b',' if depth == 0 => {
                parts.push(&text[part_start..at]);
                part_start = at + 1;
            }
            b'}' if depth == 0 => {
                parts.push(&text[part_start..at]);
                return Some(Group { start, end: at + 1, parts });
            }
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).matches(name)
    }

    #[test]
    fn names_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("a*", "b", false),
            ("*.rs", "main.rs", true),
            ("*.rs", "main.rsx", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a?c", "a\u{e9}c", true),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[^a-c]x", "dx", true),
            ("[!a]x", "ax", false),
            ("[]]x", "]x", true),
            ("[a-]", "-", true),
            ("[a", "[a", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\xff*", "a\\xffb", true),
            ("a\\xff", "axff", false),
            ("a\\xg", "axg", true),
            ("*a*b*c*", "xxaxxbxxcxx", true),
            ("*a*b*c*", "xxaxxcxxbxx", false),
            ("*ab", "aab", true),
            ("a**b", "ab", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} against {name}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_stays_quick() {
        let pattern = "a*".repeat(60) + "b";
        let started = std::time::Instant::now();
        assert!(!matches(&pattern, &"a".repeat(255)));
        assert!(started.elapsed().as_secs() < 2, "backtracking explodes");
    }

    #[test]
    fn braces_expand_in_order_nested_and_with_slashes() {
        assert_eq!(expand_braces("/x/{a,b{1,2}/c}/*").unwrap(), ["/x/a/*", "/x/b1/c/*", "/x/b2/c/*"]);
        assert_eq!(expand_braces("{a,}{b}").unwrap(), ["ab", "b"]);
        assert_eq!(expand_braces("a{b").unwrap(), ["a{b"]);
        assert_eq!(expand_braces("a\\{b,c}").unwrap(), ["a\\{b,c}"]);
    }

    #[test]
    fn exploding_braces_are_refused() {
        let pattern = "{a,b}".repeat(40);
        assert_eq!(expand_braces(&pattern), Err(GlobError::TooManyAlternatives { pattern }));
    }

    #[test]
    fn a_path_splits_into_names_and_patterns() {
        let paths = parse("/a\\*b/c*/d").unwrap();
        assert_eq!(
            paths,
            [vec![
                Component::Name("a*b".into()),
                Component::Pattern(Pattern::new("c*")),
                Component::Name("d".into()),
            ]]
        );
        assert!(!has_meta("/plain/path"));
        assert!(has_meta("/p*"));
        assert!(has_meta("/\\xyz"));
        assert!(!has_meta("/\\xff/a\\x5cb"));
    }
}
