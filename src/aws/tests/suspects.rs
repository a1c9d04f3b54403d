//! One key that makes AWS fail the whole batch.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;

use super::{
    ask_now,
    fake::{Running, start},
};
use crate::{
    api::{ObjectKey, Selector},
    aws::{Class, Reader},
};

const BAD: &str = "prod/7";

/// Twenty secrets, of which one breaks these operations.
async fn broken(operations: &[&'static str]) -> (Running, Vec<Arc<str>>) {
    let running = start().await;
    let keys = running.secrets(20);
    break_operations(&running, operations);
    (running, keys)
}

fn break_operations(running: &Running, operations: &[&'static str]) {
    let broken = operations
        .iter()
        .map(|operation| (*operation, [BAD.to_owned()].into()));
    running.fake.script().broken = broken.collect();
}

/// How many batches of each size were asked for since the last time; those that fail are tried three times.
fn sizes(running: &Running) -> Vec<usize> {
    let asked = running.fake.asked("BatchGetSecretValue");
    running.fake.script().asked.clear();
    let size = |body: &serde_json::Value| body["SecretIdList"].as_array().unwrap().len();
    let mut sizes: Vec<_> = asked.iter().map(|asked| size(&asked.body)).collect();
    sizes.dedup();
    sizes
}

#[tokio::test(start_paused = true)]
async fn one_bad_id_fails_alone_and_the_others_share_a_batch_again() {
    let (running, keys) = broken(&["BatchGetSecretValue", "GetSecretValue"]).await;
    let source = running.role();
    let mut rounds = 0;
    let answers = loop {
        rounds += 1;
        assert!(rounds < 6, "the whole batch fails again and again");
        match running.reader().check(source, &keys).await {
            Ok(answers) => break answers,
            Err(error) => {
                assert_eq!(error.class(), Class::Unavailable);
                assert_eq!(sizes(&running).len(), 1, "one call while nothing is answered");
            }
        }
    };
    for (key, answer) in keys.iter().zip(answers) {
        match answer {
            Ok(read) => assert_eq!(read.value.name, *key),
            Err(error) => assert_eq!((&**key, error.class()), (BAD, Class::Unavailable)),
        }
    }
    assert!(sizes(&running).len() <= 10);
    let again = running.reader().check(source, &keys).await.unwrap();
    assert_eq!(again.iter().filter(|answer| answer.is_ok()).count(), 19);
    assert_eq!(sizes(&running), [19], "the others share one batch");

    // It is well again: it is read alone at first, and with the others after an hour.
    break_operations(&running, &[]);
    let again = running.reader().check(source, &keys).await.unwrap();
    assert!(again.iter().all(Result::is_ok));
    assert_eq!(sizes(&running), [19]);
    tokio::time::advance(Duration::from_hours(1)).await;
    assert!(
        running
            .reader()
            .check(source, &keys)
            .await
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );
    assert_eq!(sizes(&running), [20]);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_breaks_its_batch_only_is_read_alone() {
    let (running, keys) = broken(&["BatchGetSecretValue"]).await;
    let source = running.role();
    let mut rounds = 0;
    while running.reader().check(source, &keys).await.is_err() {
        rounds += 1;
        assert!(rounds < 6, "the whole batch fails again and again");
    }
    sizes(&running);
    for _ in 0..3 {
        let answers = running.reader().check(source, &keys).await.unwrap();
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(running.fake.count("GetSecretValue"), 1);
        assert_eq!(sizes(&running), [19]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_one_call_for_each_batch_and_its_end_few_more() {
    let (running, keys) = broken(&[]).await;
    let source = running.role();
    let failed = super::fake::Turn::Fail(500, "InternalServiceError", "");
    running.fake.script().always.insert("BatchGetSecretValue", failed);
    for _ in 0..5 {
        running.reader().check(source, &keys).await.unwrap_err();
        assert_eq!(sizes(&running).len(), 1);
    }
    assert_eq!(running.fake.count("GetSecretValue"), 0);
    running.fake.script().always.clear();
    assert!(
        running
            .reader()
            .check(source, &keys)
            .await
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );
    assert!(running.fake.count("BatchGetSecretValue") <= 1 + 5);
    sizes(&running);
    assert!(
        running
            .reader()
            .check(source, &keys)
            .await
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );
    assert_eq!(sizes(&running), [20]);
}

#[tokio::test(start_paused = true)]
async fn throttling_splits_no_batch() {
    let (running, keys) = broken(&[]).await;
    let source = running.role();
    let throttled = super::fake::Turn::Fail(400, "ThrottlingException", "Rate exceeded");
    running
        .fake
        .script()
        .always
        .insert("BatchGetSecretValue", throttled);
    for _ in 0..5 {
        running.reader().check(source, &keys).await.unwrap_err();
        assert_eq!(sizes(&running), [20]);
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_value_get_it_though_one_among_them_breaks_the_batch() {
    let (running, keys) = broken(&["BatchGetSecretValue", "GetSecretValue"]).await;
    let (reader, source) = (Reader::new(running.aws.clone()), running.role());
    let (current, asker) = (Selector::parse(None), ObjectKey::new("shop", "db"));
    let mut last = Vec::new();
    for _ in 0..6 {
        let reads = keys
            .iter()
            .map(|key| reader.read(source, key, &current, ask_now(&asker)));
        last = join_all(reads).await;
    }
    for (key, reading) in keys.iter().zip(last) {
        assert_eq!(reading.is_err(), &**key == BAD, "{key}: {reading:?}");
    }
    sizes(&running);
    let others = keys.iter().filter(|key| &***key != BAD);
    let reads = others.map(|key| reader.read(source, key, &current, ask_now(&asker)));
    assert!(join_all(reads).await.iter().all(Result::is_ok));
    assert_eq!(sizes(&running), [19]);
}
