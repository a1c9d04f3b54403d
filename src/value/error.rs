//! Why values do not make a Secret.

use std::fmt;

use crate::api::{external_secret::EntryPath, reason::Reason};

/// Why a Secret's data could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// One entry cannot be made from its value.
    #[error("{path}: {}", .fault.sentence(.key))]
    Entry {
        /// Where it stands in the spec.
        path: EntryPath,
        /// Its key in AWS, as the spec gives it.
        key: String,
        /// What is wrong.
        fault: Fault,
    },
    /// All values together are too large.
    /// How large is not said: with values of known length beside it, it would tell the length of an unknown one.
    #[error("the Secret would hold more than the {max} bytes that Kubernetes takes: split it over several ExternalSecrets", max = super::MAX_SIZE)]
    TooLarge,
}

impl Error {
    /// The reason of the condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::TooLarge => Reason::TooLarge,
            Self::Entry { fault, .. } => match fault {
                Fault::NotJson
                | Fault::NotObject
                | Fault::BadNumber
                | Fault::BadText
                | Fault::BadKeys { .. }
                | Fault::CollidingKeys { .. } => Reason::InvalidValue,
                Fault::NoProperty { .. } => Reason::PropertyNotFound,
                Fault::NoMembers => Reason::NothingFound,
                Fault::BadSecretKey => Reason::InvalidSpec,
            },
        }
    }
}

/// What is wrong with one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A part is wanted of a value that is not JSON.
    NotJson,
    /// The members are wanted of a value that is no JSON object.
    NotObject,
    /// A number is too large for 64 bits of floating point.
    BadNumber,
    /// A string holds half a surrogate pair.
    BadText,
    /// The value has no such part.
    NoProperty {
        /// The part, as the spec names it.
        property: String,
    },
    /// The members are wanted of an object without any.
    NoMembers,
    /// Members whose names cannot be keys of a Secret.
    BadKeys {
        /// How many.
        count: usize,
    },
    /// Members whose names become the same key.
    CollidingKeys {
        /// How many lose their own.
        count: usize,
    },
    /// The `secretKey` cannot be a key of a Secret.
    BadSecretKey,
}

impl Fault {
    fn sentence(&self, key: &str) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            match self {
            Self::NotJson => {
                write!(f, "the value of {key:?} is not JSON, so no property can be taken from it: store a JSON object, or remove the property")
            }
            Self::NotObject => {
                write!(f, "the value of {key:?} is no JSON object, so no keys can be extracted from it: store one, or name the keys in data")
            }
            Self::BadNumber => write!(f, "a number in the value of {key:?} is too large; make it a string"),
            Self::BadText => write!(f, "a string in the value of {key:?} is not Unicode text: correct it"),
            Self::NoProperty { property } => write!(f, "the value of {key:?} has no property {property:?}: correct the name, or add it to the value"),
            Self::NoMembers => write!(f, "the value of {key:?} is an empty JSON object; the last data are kept: put members into it"),
            Self::BadKeys { count } => write!(
                f,
                "the value of {key:?} has {count} member(s) whose names cannot be keys of a Secret: at most 253 of \
                 a-z A-Z 0-9 - . _, not \".\", not starting with \"..\"; rename them, or name the keys in data"
            ),
            Self::CollidingKeys { count } => write!(
                f,
                "the value of {key:?} has {count} member(s) whose names become the key of another member, since \
                 characters that a key cannot hold become \"_\": rename them, or name the keys in data"
            ),
            Self::BadSecretKey => f.write_str(
                "secretKey cannot be a key of a Secret: 1 to 253 of a-z A-Z 0-9 - . _, not \".\", not starting with \
                 \"..\"",
            ),
        }
        })
    }
}
