//! Which lines the audit log has about reads.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tracing::subscriber::DefaultGuard;

use super::{ask, ask_now, fake::start};
use crate::{
    api::{ObjectKey, Selector},
    aws::Reader,
};

/// The lines of the audit log, as far as this thread makes them.
struct Lines {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: DefaultGuard,
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut text = self.0.lock().map_err(|_| std::io::ErrorKind::Other)?;
        text.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn capture() -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = Sink(text.clone());
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || sink.clone())
            .finish();
        Self {
            text,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// Whom each line names, since the last time.
    fn taken(&self) -> Vec<String> {
        let text = std::mem::take(&mut *self.text.lock().unwrap());
        let text = String::from_utf8(text).unwrap();
        let lines = text.lines().filter(|line| line.contains("action=\"read\""));
        lines
            .map(|line| {
                let (_, named) = line.split_once("subscribers=\"").unwrap();
                named.split_once('"').unwrap().0.to_owned()
            })
            .collect()
    }
}

#[tokio::test]
async fn a_check_leaves_one_line_for_all_whom_it_serves_and_none_as_they_come() {
    let lines = Lines::capture();
    let running = start().await;
    let (source, reader) = (running.role(), running.reader());
    let keys = running.secrets(3);
    let current = Selector::parse(None);
    let answers = reader.check(source, &keys).await.unwrap();
    assert_eq!(lines.taken(), ["shop/subscriber"; 3]);
    for (key, answer) in keys.iter().zip(answers) {
        let wanted = (source, key.clone(), current.clone());
        reader.share(wanted, answer.unwrap(), Instant::now());
    }
    let (known, late) = (
        ObjectKey::new("shop", "subscriber"),
        ObjectKey::new("shop", "late"),
    );
    for _ in 0..3 {
        for asker in [&known, &late] {
            reader.read(source, &keys[0], &current, ask(asker)).await.unwrap();
        }
    }
    assert_eq!(lines.taken(), ["shop/late"], "only whom no line has named yet");
    assert_eq!(running.fake.count("BatchGetSecretValue"), 1);
    assert_eq!(running.fake.count("GetSecretValue"), 0);
}

#[tokio::test]
async fn a_read_leaves_one_line_for_all_who_wait_for_it() {
    let lines = Lines::capture();
    let running = start().await;
    let (source, reader) = (running.role(), running.reader());
    let key = &running.secrets(1)[0];
    let current = Selector::parse(None);
    let askers = ["a", "b", "c"].map(|name| ObjectKey::new("shop", name));
    let read = async |asker| reader.read(source, key, &current, ask(asker)).await.unwrap();
    // One waits with two of its entries.
    tokio::join!(
        read(&askers[0]),
        read(&askers[1]),
        read(&askers[2]),
        read(&askers[0])
    );
    assert_eq!(lines.taken(), ["shop/a shop/b shop/c"]);
    read(&askers[1]).await;
    assert_eq!(lines.taken(), [""; 0], "the same call has served it before");
    reader
        .read(source, key, &current, ask_now(&askers[1]))
        .await
        .unwrap();
    assert_eq!(lines.taken(), ["shop/b"], "another call");
}

#[tokio::test]
async fn who_no_longer_waits_is_not_named() {
    let lines = Lines::capture();
    let running = start().await;
    running.slow_batches(Duration::from_millis(200));
    let (source, reader) = (running.role(), running.reader());
    let keys = running.secrets(2);
    let current = Selector::parse(None);
    let (stays, goes) = (ObjectKey::new("shop", "stays"), ObjectKey::new("shop", "goes"));
    let read = |reader: Reader, key: Arc<str>, asker: ObjectKey| {
        let current = current.clone();
        tokio::spawn(async move { reader.read(source, &key, &current, ask(&asker)).await })
    };
    let gone = read(reader.clone(), keys[0].clone(), goes.clone());
    let others = keys
        .iter()
        .map(|key| read(reader.clone(), key.clone(), stays.clone()));
    let others: Vec<_> = others.collect();
    while running.fake.count("BatchGetSecretValue") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gone.abort();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!(lines.taken(), ["shop/stays"; 2]);
    reader.read(source, &keys[0], &current, ask(&goes)).await.unwrap();
    assert_eq!(lines.taken(), ["shop/goes"], "it has the value only now");
}
