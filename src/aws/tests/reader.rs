use std::{sync::Arc, time::Duration};

use futures::future::{join, join_all};
use tokio::time::{Instant, timeout};

use super::{
    ask, ask_now,
    fake::{Asked, Running, Turn, identity, start},
};
use crate::{
    api::{ObjectKey, Selector, SourceId, VersionId},
    aws::{Age, Base, Class, Demand, Patience, Reader, RemoteValue, Urgency, reader::Reading},
};

struct Asking {
    reader: Reader,
    source: SourceId,
}

impl Asking {
    fn new(running: &Running) -> Self {
        Self {
            reader: Reader::new(running.aws.clone()),
            source: running.role(),
        }
    }

    async fn current(&self, key: &Arc<str>, urgency: Urgency) -> Reading {
        let asker = ObjectKey::new("shop", "db");
        self.reader
            .read(
                self.source,
                key,
                &Selector::parse(None),
                Demand {
                    urgency,
                    ..ask(&asker)
                },
            )
            .await
    }

    async fn read(&self, key: &Arc<str>) -> Reading {
        self.current(key, Urgency::Fresh).await
    }

    async fn all(&self, keys: &[Arc<str>]) {
        for (key, reading) in keys
            .iter()
            .zip(join_all(keys.iter().map(|key| self.read(key))).await)
        {
            assert_eq!(reading.unwrap().name, *key);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_sync_of_2000_makes_about_100_calls_over_few_connections() {
    let running = start().await;
    running.slow_batches(Duration::from_millis(10));
    let asking = Asking::new(&running);
    let keys = running.secrets(2000);
    asking.all(&keys).await;
    // 100 where the machine keeps up; a batch that waited too long for company on a busy one goes with less.
    let calls = running.fake.count("BatchGetSecretValue");
    assert!((100..=110).contains(&calls), "{calls} calls");
    assert_eq!(running.fake.count("GetSecretValue"), 0);
    let connections = running.fake.script().connections.len();
    assert!(connections <= 8, "{connections}");
}

#[tokio::test]
async fn a_burst_that_trickles_in_fills_its_batches() {
    // 500 and 125 a second.
    for apart in [2, 8] {
        let running = start().await;
        running.slow_batches(Duration::from_millis(10));
        let asking = Asking::new(&running);
        let keys = running.secrets(400);
        let trickle = keys.iter().enumerate().map(async |(n, key)| {
            tokio::time::sleep(Duration::from_millis(apart * n as u64)).await;
            asking.read(key).await
        });
        assert!(join_all(trickle).await.iter().all(Result::is_ok));
        let calls = running.fake.count("BatchGetSecretValue") + running.fake.count("GetSecretValue");
        assert!(
            (20..=24).contains(&calls),
            "{calls} calls, one asked each {apart} ms"
        );
    }
}

#[tokio::test]
async fn who_is_in_no_hurry_fills_batches_over_a_pause() {
    let running = start().await;
    let asking = Asking::new(&running);
    let keys = running.secrets(40);
    // Who is in a hurry makes a call after each pause: four.
    let trickle = keys.iter().enumerate().map(async |(n, key)| {
        tokio::time::sleep(Duration::from_millis(300 * (n as u64 / 13))).await;
        let asker = ObjectKey::new("shop", "db");
        let ask = Demand {
            patience: Patience::Long,
            ..ask(&asker)
        };
        asking
            .reader
            .read(asking.source, key, &Selector::parse(None), ask)
            .await
    });
    assert!(join_all(trickle).await.iter().all(Result::is_ok));
    let calls = running.fake.count("BatchGetSecretValue") + running.fake.count("GetSecretValue");
    assert!((2..=3).contains(&calls), "{calls} calls");
}

#[tokio::test]
async fn five_hundred_who_want_one_secret_make_one_read() {
    let running = start().await;
    let asking = Asking::new(&running);
    let key = running.secrets(1).remove(0);
    let readings = join_all((0..500).map(|_| asking.read(&key))).await;
    let first = readings[0].as_ref().unwrap();
    assert!(
        readings
            .iter()
            .all(|reading| Arc::ptr_eq(reading.as_ref().unwrap(), first))
    );
    asking.read(&key).await.unwrap();
    assert_eq!(
        running.fake.count("GetSecretValue"),
        1,
        "one id makes no batch, and who comes late finds it"
    );
}

#[tokio::test]
async fn a_fresh_read_asks_aws_anew() {
    let running = start().await;
    let asking = Asking::new(&running);
    let key = running.secrets(1).remove(0);
    asking.read(&key).await.unwrap();
    running
        .fake
        .script()
        .secrets
        .insert(key.to_string(), "new".into());
    let (current, asker) = (Selector::parse(None), ObjectKey::new("shop", "db"));
    let fresh = asking
        .reader
        .read(asking.source, &key, &current, ask_now(&asker))
        .await
        .unwrap();
    assert_eq!(fresh.payload(), b"new");
    assert_eq!(
        asking.read(&key).await.unwrap().payload(),
        b"new",
        "later askers get the newer one"
    );
    assert_eq!(running.fake.count("GetSecretValue"), 2);
}

#[tokio::test]
async fn who_is_made_after_a_read_began_gets_a_newer_one() {
    let running = start().await;
    let asking = Asking::new(&running);
    let [key] = &running.secrets(1)[..] else { panic!() };
    asking.read(key).await.unwrap();
    running
        .fake
        .script()
        .secrets
        .insert(key.to_string(), "new".into());
    let (current, asker) = (Selector::parse(None), ObjectKey::new("shop", "db"));
    let made = Demand {
        age: Age::Since(Instant::now()),
        ..ask(&asker)
    };
    let read = async |ask| {
        let reading = asking.reader.read(asking.source, key, &current, ask).await;
        reading.unwrap().payload().to_vec()
    };
    assert_ne!(read(ask(&asker)).await, b"new", "it was there before");
    assert_eq!(read(made).await, b"new");
    // However many were made before that read began: it serves all of them.
    for _ in 0..10 {
        assert_eq!(read(made).await, b"new");
    }
    assert_eq!(running.fake.count("GetSecretValue"), 2);
    // Of a version by id any answer will do.
    let version = asking.read(key).await.unwrap().version.clone();
    let pinned = Demand {
        age: Age::Since(Instant::now()),
        ..made
    };
    let reading = asking
        .reader
        .read(asking.source, key, &Selector::Version(version), pinned)
        .await;
    assert_eq!(reading.unwrap().payload(), b"new");
    assert_eq!(running.fake.count("GetSecretValue"), 2);
}

#[tokio::test]
async fn what_the_checks_have_read_serves_those_they_wake() {
    let running = start().await;
    let asking = Asking::new(&running);
    let keys = running.secrets(3);
    for (key, value) in keys
        .iter()
        .zip(running.reader().check(asking.source, &keys).await.unwrap())
    {
        asking.reader.share(
            (asking.source, key.clone(), Selector::parse(None)),
            value.unwrap(),
            Instant::now(),
        );
    }
    asking.all(&keys).await;
    let asker = ObjectKey::new("shop", "db");
    let version = asking.read(&keys[0]).await.unwrap().version.clone();
    let pinned = Selector::Version(version);
    asking
        .reader
        .read(asking.source, &keys[0], &pinned, ask(&asker))
        .await
        .unwrap();
    assert_eq!(running.fake.script().asked.len(), 2, "AssumeRole and one batch");
}

#[tokio::test(start_paused = true)]
async fn a_value_is_not_kept_for_longer_than_it_may_linger() {
    let running = start().await;
    let asking = Asking::new(&running);
    let key = running.secrets(1).remove(0);
    let value = Arc::downgrade(&asking.read(&key).await.unwrap());
    assert!(value.upgrade().is_some());
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(value.upgrade().is_none());
    assert_eq!(running.aws.meter.bytes(), 0);
}

#[tokio::test]
async fn without_the_right_to_batch_each_is_read_alone() {
    let running = start().await;
    let asking = Asking::new(&running);
    let keys = running.secrets(45);
    let denied = Turn::Fail(400, "AccessDeniedException", "not authorized to perform");
    running.fake.script().always.insert("BatchGetSecretValue", denied);
    asking.all(&keys).await;
    assert!(
        running.fake.count("BatchGetSecretValue") <= 4,
        "each of those that ran at first found out"
    );
    assert_eq!(running.fake.count("GetSecretValue"), 45);
    let before = running.fake.count("BatchGetSecretValue");
    let (current, asker) = (Selector::parse(None), ObjectKey::new("shop", "db"));
    let again = keys
        .iter()
        .map(|key| asking.reader.read(asking.source, key, &current, ask_now(&asker)));
    assert!(join_all(again).await.iter().all(Result::is_ok));
    assert_eq!(
        running.fake.count("BatchGetSecretValue"),
        before,
        "it is remembered"
    );
}

#[tokio::test]
async fn one_that_fails_or_hangs_delays_no_other() {
    let running = start().await;
    let asking = Asking::new(&running);
    let mut keys = running.secrets(19);
    keys.push("prod/missing".into());
    {
        let mut script = running.fake.script();
        script.batch_omits.insert("prod/0".into());
        script.batch_errors.insert(
            "prod/missing".into(),
            ("ResourceNotFoundException", "can't find the specified secret."),
        );
        script.always.insert("GetSecretValue", Turn::Hang);
    }
    let slow = asking.read(&keys[0]);
    let others = join_all(keys[1..].iter().map(|key| asking.read(key)));
    tokio::select! {
        _ = slow => panic!("nothing answers this one"),
        readings = others => {
            let (missing, good) = readings.split_last().unwrap();
            assert!(good.iter().all(Result::is_ok));
            assert_eq!(missing.as_ref().unwrap_err().class(), Class::NotFound);
        }
    }
}

#[tokio::test]
async fn a_failed_batch_says_of_each_secret_why() {
    let running = start().await;
    let asking = Asking::new(&running);
    let keys = running.secrets(2);
    running.fake.script().always.insert(
        "BatchGetSecretValue",
        Turn::Fail(400, "ThrottlingException", "Rate exceeded"),
    );
    let (one, two) = join(asking.read(&keys[0]), asking.read(&keys[1])).await;
    assert_eq!(
        (one.unwrap_err().class(), two.as_ref().unwrap_err().class()),
        (Class::Throttled, Class::Throttled)
    );
    assert!(two.unwrap_err().to_string().starts_with(
        "Cannot read secret prod/1 (AWSCURRENT) in region eu-central-1 of account 111122223333. \
                 ThrottlingException: "
    ));
}

#[tokio::test]
async fn who_goes_away_leaves_nothing_behind() {
    let running = start().await;
    let asking = Asking::new(&running);
    let keys = running.secrets(2);
    running
        .fake
        .script()
        .next
        .insert("GetSecretValue", vec![Turn::Late(Duration::from_millis(200))]);
    let patience = Duration::from_millis(100);
    let (gone, stayed) = join(timeout(patience, asking.read(&keys[0])), asking.read(&keys[0])).await;
    assert!(gone.is_err());
    assert!(stayed.is_ok(), "another goes on waiting for the same read");
    assert!(timeout(Duration::ZERO, asking.read(&keys[1])).await.is_err());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        running.fake.count("GetSecretValue"),
        1,
        "nobody waits for the second, so it is not read"
    );
    asking.read(&keys[1]).await.unwrap();
}

#[tokio::test]
async fn a_source_that_hangs_holds_up_no_other() {
    let running = start().await;
    let asking = Asking::new(&running);
    let keys = running.secrets(200);
    running
        .fake
        .script()
        .always
        .insert("BatchGetSecretValue", Turn::Hang);
    let stuck = join_all(keys.iter().map(|key| asking.read(key)));
    let other = Asking {
        reader: asking.reader.clone(),
        source: running.source(identity("uid-2", Base::Own, &[])),
    };
    let read = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        timeout(Duration::from_secs(1), other.read(&keys[0])).await
    };
    tokio::select! {
        _ = stuck => panic!("nothing answers these"),
        reading = read => assert!(reading.unwrap().is_ok()),
    }
}

#[tokio::test]
async fn what_is_new_goes_before_what_is_periodic() {
    let running = start().await;
    let asking = Asking::new(&running);
    let keys = running.secrets(1001);
    running.slow_batches(Duration::from_millis(100));
    let (new, old) = keys.split_last().unwrap();
    let crowd = join_all(old.iter().map(|key| asking.current(key, Urgency::Periodic)));
    let read = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let before = running.fake.count("BatchGetSecretValue");
        asking.read(new).await.unwrap();
        before
    };
    let before = tokio::select! {
        _ = crowd => panic!("the new one came last"),
        before = read => before,
    };
    let batches = running.fake.asked("BatchGetSecretValue");
    let with_new = |batch: &Asked| {
        batch.body["SecretIdList"]
            .as_array()
            .unwrap()
            .contains(&(**new).into())
    };
    let place = batches.iter().position(with_new).unwrap();
    assert!(
        place <= before + 3,
        "of 51 batches it came in the {place}th, {before} had begun when it was asked for"
    );
}

#[tokio::test]
async fn a_namespace_that_wants_much_delays_no_other() {
    let running = start().await;
    let asking = Asking::new(&running);
    let keys = running.secrets(1001);
    running.slow_batches(Duration::from_millis(100));
    let (one, many) = keys.split_last().unwrap();
    let current = Selector::parse(None);
    let (busy, quiet) = (ObjectKey::new("busy", "all"), ObjectKey::new("quiet", "db"));
    let read = |key, asker| asking.reader.read(asking.source, key, &current, ask(asker));
    let crowd = join_all(many.iter().map(|key| read(key, &busy)));
    let quiet = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let before = running.fake.count("BatchGetSecretValue");
        // The last that the busy one waits for, and one that is the quiet one's alone.
        for reading in join_all([many.last().unwrap(), one].map(|key| read(key, &quiet))).await {
            reading.unwrap();
        }
        running.fake.count("BatchGetSecretValue") - before
    };
    let batches = tokio::select! {
        _ = crowd => panic!("the quiet one came last"),
        batches = quiet => batches,
    };
    assert!(batches <= 8, "{batches} batches of 51 began before it was served");
}

#[tokio::test]
async fn with_too_many_values_in_use_reads_fail_instead_of_filling_the_memory() {
    let running = start().await;
    let asking = Asking::new(&running);
    let keys = running.secrets(1);
    let hoard = RemoteValue::new("", "", VersionId("v".into()), vec![0; 64 << 20]);
    let hoard = hoard.weighed(&running.aws.meter);
    let refused = asking.read(&keys[0]).await.unwrap_err();
    assert_eq!(refused.class(), Class::Throttled);
    assert_eq!(running.fake.count("GetSecretValue"), 0);
    drop(hoard);
    assert!(asking.read(&keys[0]).await.is_ok());
}

#[tokio::test]
async fn values_in_memory_are_bounded_and_nobody_waits_forever_for_room() {
    let running = start().await;
    let asking = Asking::new(&running);
    let keys = running.secrets(160);
    let large = "x".repeat(64 << 10);
    for value in running.fake.script().secrets.values_mut() {
        value.clone_from(&large);
    }
    // Whoever needs all holds all: 10 MiB.
    let readings = join_all(keys.iter().map(|key| asking.read(key)));
    let readings = timeout(Duration::from_mins(1), readings).await.unwrap();
    assert!(readings.iter().all(Result::is_ok));
    assert!(running.aws.meter.bytes() >= 160 * large.len());
    drop(readings);
    assert!(running.aws.meter.bytes() <= 4 << 20, "only what lingers is left");
}

#[tokio::test]
async fn what_others_keep_takes_no_batch_from_a_reader() {
    let running = start().await;
    let asking = Asking::new(&running);
    let keys = running.secrets(20);
    let hoard = RemoteValue::new("", "", VersionId("v".into()), vec![0; 16 << 20]);
    let _hoard = hoard.weighed(&running.aws.meter);
    let readings = join_all(keys.iter().map(|key| asking.read(key))).await;
    assert!(readings.iter().all(Result::is_ok));
    assert_eq!(running.fake.count("BatchGetSecretValue"), 1);
    assert_eq!(running.fake.count("GetSecretValue"), 0);
}
