//! The data of a Secret.

use std::{collections::BTreeMap, fmt};

use zeroize::Zeroizing;

use super::{
    error::{Error, Fault},
    json::{self, Members},
    keys,
};
use crate::api::external_secret::{Entry, ExternalSecretSpec};

/// What the API server takes in all values of a Secret together, in bytes.
pub const MAX_SIZE: usize = 1024 * 1024;

/// What AWS gave for one entry.
#[derive(Clone, Copy)]
pub enum Fetched<'a> {
    /// The value, text or binary.
    Value(&'a [u8]),
    /// The entry's property of it, as [`part`] took it.
    Part(Result<&'a [u8], &'a Fault>),
    /// Describe has shown that the secret is gone: the entry gives no keys. What that means for the Secret, the
    /// deletion policy says.
    Gone,
}

/// The data of a Secret, and what was left out of them.
#[derive(Default)]
pub struct SecretData {
    /// The data, wiped when dropped.
    pub data: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// How many members with an empty name were dropped.
    pub dropped_empty_keys: usize,
    /// The entries that are gone, by their place in `spec.entries()`.
    pub gone: Vec<usize>,
    /// Bytes of all values.
    size: usize,
}

/// Says how much there is, never what.
impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            data,
            dropped_empty_keys,
            gone,
            size: _,
        } = self;
        f.debug_struct("Built")
            .field("keys", &data.len())
            .field("dropped_empty_keys", dropped_empty_keys)
            .field("gone", gone)
            .finish()
    }
}

/// Makes the data that the spec describes. `fetched` gives what AWS said for an entry, by its place in
/// `spec.entries()`. Later entries win. All or nothing: the first entry that fails is the error, as is the one with which
/// the values grow larger than a Secret may be.
pub fn build<'a>(
    spec: &ExternalSecretSpec,
    fetched: impl Fn(usize) -> Fetched<'a>,
) -> Result<SecretData, Error> {
    let mut built = SecretData::default();
    for (index, entry) in spec.entries().enumerate() {
        let added = match fetched(index) {
            Fetched::Value(value) => built.add_value(&entry, value),
            Fetched::Part(part) => part
                .map_err(Clone::clone)
                .and_then(|part| built.add(&entry, part)),
            Fetched::Gone => {
                built.gone.push(index);
                continue;
            }
        };
        added.map_err(|fault| Error::Entry {
            path: entry.path,
            key: entry.remote.key.clone(),
            fault,
        })?;
        if built.size > MAX_SIZE {
            return Err(Error::TooLarge);
        }
    }
    Ok(built)
}

impl SecretData {
    fn add_value(&mut self, entry: &Entry<'_>, value: &[u8]) -> Result<(), Fault> {
        match entry.remote.property() {
            Some(property) => self.add(entry, &part(value, property)?),
            None => self.add(entry, value),
        }
    }

    fn add(&mut self, entry: &Entry<'_>, value: &[u8]) -> Result<(), Fault> {
        let Some(secret_key) = entry.secret_key else {
            return self.extract(value);
        };
        if !keys::is_valid(secret_key) {
            return Err(Fault::BadSecretKey);
        }
        self.put(secret_key.to_owned(), Zeroizing::new(value.to_vec()));
        Ok(())
    }

    fn put(&mut self, key: String, value: Zeroizing<Vec<u8>>) {
        self.size += value.len();
        if let Some(before) = self.data.insert(key, value) {
            self.size -= before.len();
        }
    }

    fn extract(&mut self, value: &[u8]) -> Result<(), Fault> {
        let Members(members) = json::parse(value).and_then(Members::of).ok_or(Fault::NotObject)?;
        if members.is_empty() {
            return Err(Fault::NoMembers);
        }
        // Of doubles the last wins; what only becomes equal is an error.
        let members: BTreeMap<_, _> = members.into_iter().collect();
        let mut converted = BTreeMap::new();
        let (mut bad, mut colliding) = (0, 0);
        for (name, value) in &members {
            if name.is_empty() {
                self.dropped_empty_keys += 1;
                continue;
            }
            let key = keys::convert(name);
            bad += usize::from(!keys::is_valid(&key));
            colliding += usize::from(converted.insert(key.into_owned(), *value).is_some());
        }
        if bad > 0 {
            return Err(Fault::BadKeys { count: bad });
        }
        if colliding > 0 {
            return Err(Fault::CollidingKeys { count: colliding });
        }
        for (key, value) in converted {
            self.put(key, json::render_raw(value)?);
        }
        Ok(())
    }
}

/// One property of a value, as an entry that names it gets it: all that has to be kept of the value for that entry.
pub fn part(value: &[u8], property: &str) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let value = json::parse(value).ok_or(Fault::NotJson)?;
    let part = json::select(value, property);
    json::render(part.ok_or_else(|| Fault::NoProperty {
        property: property.to_owned(),
    })?)
}
