//! A second service, of notes: all that another service of AWS would need.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{
    api::{Selector, VersionId},
    aws::{
        Class, Operations, Service,
        error::Cause,
        queue::Rate,
        remote::{Description, RemoteValue},
        service::{Batch, Calls, Home, Page, Reply},
    },
};

pub(crate) static NOTEBOOK: Service = Service {
    name: "Notebook",
    prefix: "notebook",
    operations: Operations {
        get: "GetNote",
        batch: "GetNotes",
        describe: "DescribeNote",
        list: "ListNotes",
    },
    batch: 3,
    page: 2,
    rate: |_| Rate {
        per_second: 100,
        burst: 100,
    },
    lost_page: "LostBookmark",
    connect: |_, region, _| Arc::new(Notes(book(region))),
};

fn classify(code: &str, _: &str) -> Option<Class> {
    (code == "NoSuchNote").then_some(Class::NotFound)
}

#[derive(Debug)]
struct Notes(Arc<Mutex<Book>>);

impl Notes {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap()
    }

    fn note(&self, key: &str) -> Result<String, Cause> {
        let text = self.book().notes.get(key).cloned();
        text.ok_or_else(|| Cause::answered("NoSuchNote", "", &[], classify))
    }

    fn value(&self, key: &str) -> Result<RemoteValue, Cause> {
        let text = self.note(key)?;
        Ok(RemoteValue::new(key, key, version(&text), text.into_bytes()))
    }

    fn description(&self, key: &str) -> Result<Description, Cause> {
        Ok(Description {
            arn: key.into(),
            name: key.into(),
            stages: BTreeMap::from([(version(&self.note(key)?), vec!["AWSCURRENT".into()])]),
            ..Description::default()
        })
    }

    fn reply<T: Send + 'static>(&self, call: String, answer: Result<T, Cause>) -> Reply<T> {
        self.book().calls.push(call);
        Box::pin(async { answer })
    }
}

impl Calls for Notes {
    fn get(&self, key: Arc<str>, _: Selector, _: Home) -> Reply<RemoteValue> {
        self.reply(format!("GetNote {key}"), self.value(&key))
    }

    fn batch(&self, keys: &[Arc<str>], _: Home) -> Reply<Batch> {
        let answers = keys.iter().map(|key| (key.to_string(), self.value(key)));
        let (values, errors): (Vec<_>, Vec<_>) = answers.partition(|(_, answer)| answer.is_ok());
        let batch = Batch {
            values: values.into_iter().filter_map(|(_, value)| value.ok()).collect(),
            errors: errors
                .into_iter()
                .filter_map(|(key, value)| Some((key, value.err()?)))
                .collect(),
        };
        self.reply(format!("GetNotes {}", keys.len()), Ok(batch))
    }

    fn describe(&self, key: Arc<str>, _: Home) -> Reply<Description> {
        self.reply(format!("DescribeNote {key}"), self.description(&key))
    }

    fn list(&self, page: Option<String>, _: Home) -> Reply<Page> {
        let keys: Vec<_> = self.book().notes.keys().cloned().collect();
        let before = page.and_then(|page| page.parse().ok()).unwrap_or(0);
        let on_page = keys.iter().skip(before).take(NOTEBOOK.page);
        let page = Page {
            secrets: on_page.filter_map(|key| self.description(key).ok()).collect(),
            next: Some(before + NOTEBOOK.page)
                .filter(|next| *next < keys.len())
                .map(|next| next.to_string()),
        };
        self.reply("ListNotes".to_owned(), Ok(page))
    }
}

fn version(text: &str) -> VersionId {
    VersionId(format!("version-of-{text}").into())
}

/// Notes, and the calls for them.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) notes: BTreeMap<String, String>,
    pub(crate) calls: Vec<String>,
}

/// The book of a region: each test takes one of its own.
pub(crate) fn book(region: &str) -> Arc<Mutex<Book>> {
    static BOOKS: Mutex<BTreeMap<String, Arc<Mutex<Book>>>> = Mutex::new(BTreeMap::new());
    BOOKS
        .lock()
        .unwrap()
        .entry(region.to_owned())
        .or_default()
        .clone()
}
