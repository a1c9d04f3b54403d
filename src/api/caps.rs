//! How much is kept of texts that people write. What is longer is cut, and marked so that it can never be taken for a
//! valid one.

/// The longest name of an object.
pub const NAME: usize = 253;
/// The longest uid. The API server makes them of 36 characters; an owner reference may hold any text.
pub const UID: usize = 64;
/// The longest token: see [`is_text`](super::token::is_text).
pub const TOKEN: usize = 64;
/// The longest word, flag or time in an annotation of ours. A time has at most 35 characters, and a zone in brackets.
pub const WORD: usize = 128;
/// What an entry of a list takes in memory besides its texts.
pub const ITEM: usize = 48;
/// The longest sentence on what is wrong with an object.
pub const SENTENCE: usize = 512;
/// All entries of one ExternalSecret with their keys, stages and versions, each text counted once: 550 entries of ARNs of 150
/// characters fit.
pub const REMOTE_KEYS: usize = 128 << 10;
/// All targets, windows and keys in the `restart` block of one ExternalSecret: 100 targets by the longest names fit.
pub const RESTART_TEXTS: usize = 32 << 10;
/// All labels, references to Secrets and annotations that are kept of one workload.
pub const WORKLOAD: usize = 128 << 10;

/// What ends a text that was cut: in no valid name, uid, token or time.
const CUT: char = '\u{2026}';

/// The text, or as much of it as `most` bytes hold.
pub fn capped(text: &str, most: usize) -> Box<str> {
    if text.len() <= most {
        return text.into();
    }
    let mut cut = String::with_capacity(most + CUT.len_utf8());
    cut.push_str(text.get(..text.floor_char_boundary(most)).unwrap_or_default());
    cut.push(CUT);
    cut.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_short_and_equals_nothing_valid() {
        assert_eq!(&*capped("true", 4), "true");
        assert_eq!(&*capped("truely", 4), "true\u{2026}");
        assert_eq!(&*capped("\u{e9}\u{e9}", 3), "\u{e9}\u{2026}");
        assert_eq!(&*capped("abc", 0), "\u{2026}");
        let long = "a".repeat(1 << 18);
        assert_eq!(capped(&long, NAME).len(), NAME + 3);
    }
}
