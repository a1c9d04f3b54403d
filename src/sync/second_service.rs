//! A service of AWS that only the tests have, read through the whole tracker.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::task::AbortHandle;

use super::{
    driver::{Provider, Tracking, drive},
    work::{Clock, Work},
};
use crate::{
    api::{ObjectKey, Selector, SourceId},
    aws::{
        Age, Base, Demand, Patience, Reader, Source, Urgency,
        tests::{
            fake::{aws_without_network, identity},
            notebook::{Book, NOTEBOOK, book},
        },
    },
    track::{CallSizes, Config, Detection, Known, Refresh, SourcePolicy, Subscription, Tracker, Want},
};

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// An object that wants four notes, and has read them.
struct Reading {
    provider: Provider,
    work: Arc<Work>,
    source: SourceId,
    object: ObjectKey,
    book: Arc<Mutex<Book>>,
    driver: AbortHandle,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Reading {
    async fn start(region: &str, detection: Detection, interval: Duration) -> Self {
        let book = book(region);
        let notes = KEYS.map(|key| (key.to_owned(), format!("first {key}")));
        book.lock().unwrap().notes.extend(notes);
        let clock = Clock::start();
        let tracking = Arc::new(Tracking::new(clock, Tracker::new(Config::default())));
        let subscribers = tracking.clone();
        let aws = aws_without_network(Arc::new(move |source, key, selector| {
            subscribers.ask(|tracker| tracker.subscribers(source, key, selector))
        }));
        let source = aws.intern(Source {
            identity: Arc::new(identity("uid", Base::Own, &[])),
            region: region.into(),
            service: &NOTEBOOK,
        });
        let policy = SourcePolicy {
            detection,
            region: region.into(),
            sizes: CallSizes {
                batch: NOTEBOOK.batch,
                page: NOTEBOOK.page,
            },
            ..SourcePolicy::default()
        };
        tracking.tell(|tracker, now| tracker.set_source(now, source, policy));
        let object = ObjectKey::new("shop", "notes");
        let want = |key: &str| Want {
            source,
            key: key.into(),
            selector: Selector::parse(None),
            recorded: None,
        };
        tracking.subscribe(
            &object,
            Subscription {
                refresh: Refresh::Every(interval),
                rotation: false,
                wants: KEYS.iter().map(|key| want(key)).collect(),
            },
        );
        let provider = Provider {
            tracking,
            reader: Arc::new(Reader::new(aws.clone())),
            aws,
        };
        let work = Arc::new(Work::new(clock, 1, 0));
        let driver = tokio::spawn(drive(provider.clone(), work.clone(), |_| {}));
        let reading = Self {
            provider,
            work,
            source,
            object,
            book,
            driver: driver.abort_handle(),
        };
        futures::future::join_all(KEYS.iter().map(|key| reading.read(key))).await;
        assert_eq!(reading.calls(), ["GetNotes 3", "GetNote d"]);
        reading
    }

    /// Reads a note as a pass does.
    async fn read(&self, key: &str) -> Vec<u8> {
        let key: Arc<str> = key.into();
        let demand = Demand {
            asker: &self.object,
            age: Age::Since(tokio::time::Instant::now()),
            urgency: Urgency::Fresh,
            patience: Patience::Short,
        };
        let selector = Selector::parse(None);
        let Provider { reader, tracking, .. } = &self.provider;
        let value = reader.read(self.source, &key, &selector, demand).await.unwrap();
        tracking.saw(self.source, &key, &selector, &value);
        value.payload().to_vec()
    }

    fn known(&self, key: &str) -> Known {
        let tracking = &self.provider.tracking;
        tracking.ask(|tracker| tracker.known(self.source, key, &Selector::parse(None)))
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.book.lock().unwrap().calls)
    }

    fn write(&self, key: &str, text: &str) {
        let mut book = self.book.lock().unwrap();
        book.notes.insert(key.to_owned(), text.to_owned());
    }

    /// The object is woken.
    async fn woken(&self) {
        let (object, _) = self.work.next().await;
        assert_eq!(object, self.object);
        self.work.done(&object, true);
    }
}

#[tokio::test(start_paused = true)]
async fn notes_are_read_in_batches_of_their_service_and_a_change_wakes_whom_it_concerns() {
    let reading = Reading::start("read", Detection::Read, Duration::from_secs(30)).await;
    reading.write("b", "second b");
    reading.woken().await;
    let calls = reading.calls();
    assert!(calls.contains(&"GetNotes 3".to_owned()), "{calls:?}");
    assert!(matches!(reading.known("b"), Known::Version(version) if *version.0 == *"version-of-second b"));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_note_is_found_by_a_list_and_read_once() {
    let reading = Reading::start("list", Detection::List, Duration::from_mins(10)).await;
    tokio::time::sleep(Duration::from_mins(11)).await;
    let calls = reading.calls();
    assert_eq!(calls[..2], ["ListNotes"; 2], "two pages of two: {calls:?}");
    reading.write("c", "second c");
    reading.woken().await;
    reading.calls();
    assert_eq!(reading.read("c").await, b"second c");
    assert_eq!(reading.calls(), ["GetNote c"]);
}

#[tokio::test(start_paused = true)]
async fn a_note_that_is_gone_is_known_to_be_by_its_own_code() {
    let reading = Reading::start("gone", Detection::Auto, Duration::from_secs(30)).await;
    reading.book.lock().unwrap().notes.remove("a");
    reading.woken().await;
    assert_eq!(reading.known("a"), Known::Gone { deleted: false });
    let calls = reading.calls();
    assert!(calls.contains(&"DescribeNote a".to_owned()), "{calls:?}");
}
