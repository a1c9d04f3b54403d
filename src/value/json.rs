//! Parts of JSON texts, in the words of their source.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::error::Fault;

/// Bytes that are wiped when dropped.
pub(super) type Bytes = Zeroizing<Vec<u8>>;

/// A JSON text. The parser's errors are dropped: they can quote their input.
pub(super) fn parse(value: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(value).ok()
}

/// An object's members in their order, doubles included.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

/// A member's name, borrowed where it holds no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Members<'a> {
    pub(super) fn of(value: &'a RawValue) -> Option<Self> {
        value
            .get()
            .starts_with('{')
            .then(|| serde_json::from_str(value.get()).ok())
            .flatten()
    }

    /// The first member of the name, as gjson has it.
    fn first(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .find(|(member, _)| member == name)
            .map(|(_, value)| *value)
    }
}

/// The part that the dotted path names. A member whose name is the whole path wins; `\` takes the next character as
/// it is; a number picks an element of an array. Deeper than `serde_json` nests (128) nothing is found.
pub(super) fn select<'a>(value: &'a RawValue, path: &str) -> Option<&'a RawValue> {
    if let Some(member) = Members::of(value).and_then(|members| members.first(path)) {
        return Some(member);
    }
    // One walk over the text, however long the path is: a hostile one costs no more than an honest one.
    PathSeed(&segments(path))
        .deserialize(&mut serde_json::Deserializer::from_str(value.get()))
        .ok()
        .flatten()
}

/// Finds the part that the rest of a path names.
struct PathSeed<'p>(&'p [String]);

impl<'de> DeserializeSeed<'de> for PathSeed<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.0.split_first() {
            None => <&RawValue>::deserialize(deserializer).map(Some),
            Some((segment, rest)) => deserializer.deserialize_any(PathStep { segment, rest }),
        }
    }
}

/// Takes one step of a path: into the first member of the name, or into the element of the number.
struct PathStep<'p> {
    segment: &'p str,
    rest: &'p [String],
}

impl PathStep<'_> {
    /// The segment as a place in an array. "+1" is a number to Rust, and no index.
    fn index(&self) -> Option<usize> {
        let is_index = self.segment.bytes().all(|byte| byte.is_ascii_digit());
        is_index.then(|| self.segment.parse().ok()).flatten()
    }
}

impl<'de> Visitor<'de> for PathStep<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Name(name)) = map.next_key()? {
            if found.is_none() && name == self.segment {
                found = Some(map.next_value_seed(PathSeed(self.rest))?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found.flatten())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut before = self.index();
        let mut found = None;
        loop {
            if before == Some(0) {
                before = None;
                match seq.next_element_seed(PathSeed(self.rest))? {
                    Some(element) => found = element,
                    None => return Ok(None),
                }
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            } else {
                before = before.map(|before| before - 1);
            }
        }
    }
}

fn segments(path: &str) -> Vec<String> {
    let mut segments = vec![String::new()];
    let mut chars = path.chars();
    while let Some(char) = chars.next() {
        let taken = match char {
            '.' => {
                segments.push(String::new());
                continue;
            }
            '\\' => chars.next().unwrap_or('\\'),
            char => char,
        };
        if let Some(last) = segments.last_mut() {
            last.push(taken);
        }
    }
    segments
}

/// As `property` renders: strings without quotes, integers with all digits, other numbers as 64-bit floats the way Go
/// prints them, null as nothing, all else as it stands.
pub(super) fn render(value: &RawValue) -> Result<Bytes, Fault> {
    let text = value.get();
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = digits.starts_with(|char: char| char.is_ascii_digit());
    if !is_number || digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return render_raw(value);
    }
    let number: f64 = text.parse().map_err(|_| Fault::BadNumber)?;
    // Rust prints like Go's 'f' with precision -1: the fewest digits that read back, no exponent.
    if number.is_finite() {
        Ok(Zeroizing::new(number.to_string().into_bytes()))
    } else {
        Err(Fault::BadNumber)
    }
}

/// As `extract` renders: strings without quotes, null as nothing, all else as it stands.
pub(super) fn render_raw(value: &RawValue) -> Result<Bytes, Fault> {
    let text = value.get();
    if text.starts_with('"') {
        let string: String = serde_json::from_str(text).map_err(|_| Fault::BadText)?;
        return Ok(Zeroizing::new(string.into_bytes()));
    }
    Ok(Zeroizing::new(if text == "null" {
        Vec::new()
    } else {
        text.as_bytes().to_vec()
    }))
}
