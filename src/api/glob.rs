//! Globs on keys: `*` matches any text without a slash, `**` any text, `{namespace}` the namespace. Pure.
//!
//! A glob is matched as it is written: nothing is compiled or kept. Matching takes each `*` and `**` to the first place
//! where the text behind it fits, and needs no backtracking, since no later place does better:
//!
//! - Text without a slash that follows `*` lies in the same path segment as what precedes it. Its first occurrence leaves the
//!   most for the rest of the segment.
//! - Text with a slash that follows `*` fits in one place only: its first slash is the next slash of the key.
//! - What lies between two `**` fits from a later place of the same segment only if it does from the first one, and its
//!   first fit leaves the most for what follows the second `**`.
//!
//! So each star goes over the key once, whatever the pattern.

/// Stands for the namespace in a pattern.
const NAMESPACE: &str = "{namespace}";
/// Stars that a pattern may have, `**` counted as one.
pub(super) const MOST_STARS: usize = 16;

/// What a pattern consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Text(&'a str),
    Namespace,
    Star(Star),
    /// A brace that belongs to no placeholder.
    Brace,
}

/// What may lie before a literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Star {
    /// Nothing: the literal begins the key.
    None,
    /// Any text without a slash.
    One,
    /// Any text.
    Two,
}

/// A literal and what lies before it.
type Part<'a> = (Star, &'a str);

fn tokens(pattern: &str) -> impl Iterator<Item = Token<'_>> {
    let mut rest = pattern;
    std::iter::from_fn(move || {
        let (token, length) = match rest.chars().next()? {
            '*' if rest.starts_with("**") => (Token::Star(Star::Two), 2),
            '*' => (Token::Star(Star::One), 1),
            '{' if rest.starts_with(NAMESPACE) => (Token::Namespace, NAMESPACE.len()),
            '{' | '}' => (Token::Brace, 1),
            _ => {
                let length = rest.find(['*', '{', '}']).unwrap_or(rest.len());
                (Token::Text(rest.get(..length)?), length)
            }
        };
        rest = rest.get(length..)?;
        Some(token)
    })
}

/// Whether `pattern` has no more stars than it may, and no brace but those of `{namespace}`.
pub(super) fn is_valid(pattern: &str) -> bool {
    let mut stars = 0;
    tokens(pattern).all(|token| {
        stars += usize::from(matches!(token, Token::Star(_)));
        token != Token::Brace && stars <= MOST_STARS
    })
}

/// Whether all of `key` matches a valid pattern.
pub(super) fn matches(pattern: &str, namespace: &str, key: &str) -> bool {
    // The literals one after another, and where each begins.
    let mut text = String::new();
    let mut starts = vec![(Star::None, 0)];
    for token in tokens(pattern) {
        let literal = match token {
            Token::Text(literal) => literal,
            Token::Namespace => namespace,
            Token::Brace => return false,
            Token::Star(star) => {
                match starts.last_mut() {
                    // Stars side by side are one star.
                    Some((before, start)) if *before != Star::None && *start == text.len() => {
                        *before = star.max(*before);
                    }
                    Some((Star::None, _)) if !key.starts_with(&text) => return false,
                    _ => starts.push((star, text.len())),
                }
                continue;
            }
        };
        if text.len() + literal.len() > key.len() {
            return false;
        }
        text.push_str(literal);
    }
    let ends = starts.iter().skip(1).map(|(_, start)| *start).chain([text.len()]);
    let parts: Option<Vec<Part<'_>>> = starts
        .iter()
        .zip(ends)
        .map(|((star, start), end)| Some((*star, text.get(*start..end)?)))
        .collect();
    parts.is_some_and(|parts| fits(&parts, key).is_some())
}

/// The end of the key, if all of it fits.
fn fits(parts: &[Part<'_>], key: &str) -> Option<usize> {
    let mut end = 0;
    let mut rest = parts;
    while let Some(((star, first), behind)) = rest.split_first() {
        let same = behind.iter().take_while(|(star, _)| *star == Star::One);
        let (chain, next) = behind.split_at_checked(same.count())?;
        let group = Group {
            first,
            chain,
            last: next.is_empty(),
        };
        end = match star {
            Star::Two => group.find(key, end)?,
            Star::None | Star::One => {
                let begins = key.get(end..)?.starts_with(first);
                begins.then(|| group.follow(key, end + first.len())).flatten()?
            }
        };
        rest = next;
    }
    Some(end)
}

/// Literals of which each but the first follows a `*`.
#[derive(Clone, Copy)]
struct Group<'a> {
    first: &'a str,
    chain: &'a [Part<'a>],
    /// Whether the key must end with it.
    last: bool,
}

impl Group<'_> {
    /// Where the group ends that begins earliest behind `from`.
    fn find(self, key: &str, from: usize) -> Option<usize> {
        let tail = key.get(from..)?;
        if self.last && self.chain.is_empty() {
            return tail.ends_with(self.first).then_some(key.len());
        }
        let behind = |at: usize| self.follow(key, from + at + self.first.len());
        if let Some(slash) = self.first.find('/') {
            return tail.match_indices('/').find_map(|(at, _)| {
                let at = at.checked_sub(slash)?;
                tail.get(at..)?.starts_with(self.first).then(|| behind(at))?
            });
        }
        let mut start = 0;
        tail.split('/').find_map(|segment| {
            let at = start;
            start += segment.len() + 1;
            behind(at + find(segment, self.first)?)
        })
    }

    /// Where the group ends whose first literal ends at `end`.
    fn follow(self, key: &str, mut end: usize) -> Option<usize> {
        let mut chain = self.chain.iter().map(|(_, literal)| *literal).peekable();
        while let Some(literal) = chain.next() {
            let tail = key.get(end..)?;
            let gap = if self.last && chain.peek().is_none() {
                let gap = tail.len().checked_sub(literal.len())?;
                let fits = tail.ends_with(literal) && !tail.get(..gap)?.contains('/');
                fits.then_some(gap)?
            } else if let Some(slash) = literal.find('/') {
                let gap = tail.find('/')?.checked_sub(slash)?;
                tail.get(gap..)?.starts_with(literal).then_some(gap)?
            } else {
                find(tail.split('/').next()?, literal)?
            };
            end += gap + literal.len();
        }
        (!self.last || end == key.len()).then_some(end)
    }
}

/// [`str::find`] prepares its search in a time that grows with the literal: not for a text that is shorter.
fn find(text: &str, literal: &str) -> Option<usize> {
    if text.len() < literal.len() {
        return None;
    }
    text.find(literal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::bytes::RegexBuilder;

    use super::*;

    /// The same by a regular expression: how patterns were matched at first. `None` if the pattern is not valid.
    fn oracle(pattern: &str, namespace: &str, key: &str) -> Option<bool> {
        let mut regex = String::from(r"(?s)\A");
        let mut stars = 0;
        let mut rest = pattern;
        while let Some(first) = rest.chars().next() {
            let (part, length) = if rest.starts_with("**") {
                (".*".to_owned(), 2)
            } else if first == '*' {
                ("[^/]*".to_owned(), 1)
            } else if rest.starts_with(NAMESPACE) {
                (regex::escape(namespace), NAMESPACE.len())
            } else if first == '{' || first == '}' {
                return None;
            } else {
                (regex::escape(first.encode_utf8(&mut [0; 4])), first.len_utf8())
            };
            stars += usize::from(first == '*');
            if stars > MOST_STARS {
                return None;
            }
            regex.push_str(&part);
            rest = &rest[length..];
        }
        regex.push_str(r"\z");
        let regex = RegexBuilder::new(&regex).unicode(false).build().ok()?;
        Some(regex.is_match(key.as_bytes()))
    }

    fn checked(pattern: &str, namespace: &str, key: &str) -> Option<bool> {
        is_valid(pattern).then(|| matches(pattern, namespace, key))
    }

    #[test]
    fn a_star_takes_the_place_that_leaves_most_for_the_rest() {
        for (pattern, key, expected) in [
            ("**a*b", "a/ab", true),
            ("**a*b", "a/a/b", false),
            ("*ab", "aab", true),
            ("*x/y*z", "x/yx/yz", false),
            ("**x/y*z", "x/yx/yz", true),
            ("**/a*b**c", "x/a/ab-c", true),
            ("**ab**ab", "ab", false),
            ("**ab**ab", "abab", true),
            ("a*a", "a", false),
            ("***", "a/b", true),
            ("*{namespace}*", "ns", true),
            ("**{namespace}/*", "a/ns/b", true),
            ("**/*/**", "a/b", false),
            ("**/*/**", "a/b/c", true),
            ("*/*", "a/b/c", false),
            ("**\u{f6}*", "/\u{f6}\u{e4}", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, "ns", key), expected, "{pattern} {key}");
            assert_eq!(
                oracle(pattern, "ns", key),
                Some(expected),
                "the oracle: {pattern} {key}"
            );
        }
    }

    #[test]
    fn the_most_hostile_patterns_and_keys_are_matched_as_before() {
        let key = "/a".repeat(1024);
        for pattern in [
            "**a".repeat(MOST_STARS),
            "*a".repeat(MOST_STARS),
            format!("{}b", "**a*/".repeat(MOST_STARS / 2)),
            format!("**{}b**", "/a".repeat(900)),
            format!("**/a*{}b**", "/a".repeat(900)),
            format!("{}**", "**a*a/a".repeat(7)),
            "{namespace}".repeat(186),
        ] {
            let namespace = "a".repeat(63);
            assert_eq!(
                checked(&pattern, &namespace, &key),
                oracle(&pattern, &namespace, &key),
                "{pattern}"
            );
        }
    }

    fn text(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(pieces), 0..most).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn matching_means_what_the_regular_expression_meant(
            pattern in text(&["a", "b", "/", "ab", "/a", "*", "*", "**", "{namespace}", "\u{f6}", "\n", ".", "{", "}"], 12),
            namespace in prop::sample::select(&["a", "ab", "ns", "b*"]),
            keys in prop::collection::vec(text(&["a", "b", "/", "ab", "/a", "ns", "\u{f6}", "\n", ".", "*"], 14), 8),
        ) {
            for key in keys {
                prop_assert_eq!(
                    checked(&pattern, namespace, &key),
                    oracle(&pattern, namespace, &key),
                    "{:?} {:?}", pattern, key
                );
            }
        }

        /// Keys that are made from the pattern, so that most of them match or nearly do.
        #[test]
        fn keys_made_from_a_pattern_match_it_as_before(
            parts in prop::collection::vec(
                (text(&["a", "b", "/", "ab", "ba"], 4), prop::sample::select(&["*", "**", "***"]), text(&["a", "b", "/"], 4)),
                0..6,
            ),
            end in text(&["a", "b", "/"], 4),
            spoiled in any::<prop::sample::Index>(),
        ) {
            let pattern: String = parts.iter().flat_map(|(literal, star, _)| [literal, *star]).chain([&*end]).collect();
            let key: String = parts.iter().flat_map(|(literal, _, filling)| [&**literal, filling]).chain([&*end]).collect();
            let mut less = key.clone();
            if !less.is_empty() {
                less.remove(spoiled.index(less.len()));
            }
            for key in [key, less] {
                prop_assert_eq!(checked(&pattern, "ns", &key), oracle(&pattern, "ns", &key), "{:?} {:?}", pattern, key);
            }
        }
    }
}
