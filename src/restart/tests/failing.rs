//! What failed stays failed: however well it looks in between, and whoever leads.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    base,
    simulation::{Cluster, Fate, Nature, Simulated},
    with, workload,
};
use crate::{
    api::{ObjectKey, RestartStrategy},
    restart::{
        execute::patch::note_patch,
        judge::{
            memory::Memory,
            model::{Note, NoteKind},
        },
        observed::{
            model::{AnnotationValue, FailureRecord, Record, Texts, Workload},
            records::{self, RECOVERED, failed, parse_failure},
        },
    },
};

/// The first one crashes in a loop and is up for a while in between, but never for as long as its rollout asks for.
fn flapping(count: usize) -> Cluster {
    let mut natures = vec![Nature::Flapping(12, 20)];
    natures.resize(count, Nature::Ready(3));
    let mut cluster = Cluster::new(&natures);
    cluster.workloads[0].min_ready = 30;
    cluster
}

fn state(cluster: &Cluster) -> &'static str {
    cluster.words()[0].2
}

/// Runs until the first workload failed, and says so itself.
fn fail(cluster: &mut Cluster) {
    for _ in 0..300 {
        cluster.run(1);
        if !cluster.noted.is_empty() {
            return;
        }
    }
    panic!("it never failed: {:?}", cluster.words());
}

fn says(simulated: &Simulated) -> Vec<String> {
    let said = simulated.workload.stamps.failures.values();
    said.map(|said| said.as_ref().map_or("", |said| &said.reason).to_owned())
        .collect()
}

#[test]
fn a_workload_that_looks_well_between_crashes_stays_failed_and_nothing_follows() {
    let mut cluster = flapping(4);
    cluster.change(0, "t1");
    let mut failed = false;
    for _ in 0..500 {
        cluster.run(1);
        failed |= state(&cluster) == "Failed";
        assert!(
            !failed || state(&cluster) == "Failed",
            "{} at {}",
            state(&cluster),
            cluster.second
        );
    }
    assert!(failed, "{:?}", cluster.words());
    assert_eq!(cluster.taken.len(), 1, "{:?}", cluster.taken);
    assert_eq!(cluster.alerts, [(0, "t1".into())]);
    assert_eq!(cluster.noted.len(), 1, "{:?}", cluster.noted);
    assert_eq!(says(&cluster.workloads[0]), ["CrashLoopBackOff"]);
}

#[test]
fn the_next_leader_knows_what_failed_and_tells_it_no_more() {
    let mut cluster = flapping(4);
    cluster.change(0, "t1");
    fail(&mut cluster);
    for _ in 0..300 {
        // Another leader every second: each one begins with nothing.
        cluster.memory = Memory::default();
        cluster.run(1);
        assert_eq!(state(&cluster), "Failed", "{}", cluster.second);
    }
    assert_eq!(cluster.taken.len(), 1, "{:?}", cluster.taken);
    assert_eq!(cluster.alerts.len(), 1);
    assert_eq!(cluster.noted.len(), 1, "{:?}", cluster.noted);
}

#[test]
fn a_halt_by_one_that_looks_well_ends_by_other_content_or_a_word() {
    let mut cluster = flapping(3);
    cluster.change(0, "t1");
    fail(&mut cluster);
    cluster.run(100);
    assert_eq!(cluster.taken.len(), 1);
    cluster.objects[0] = with(&cluster.objects[0], |restarts| {
        restarts.resumed = Some("t1".into());
    });
    cluster.run(100);
    assert_eq!((cluster.count(1, "t1"), cluster.count(2, "t1")), (1, 1));
    assert_eq!((cluster.count(0, "t1"), cluster.alerts.len()), (1, 1));
    // Good content: what was said of the former counts no more.
    cluster.workloads[0].nature = Nature::Ready(3);
    cluster.workloads[0].min_ready = 0;
    cluster.change(0, "t2");
    cluster.run(200);
    assert!(cluster.is_done(), "{:?}", cluster.words());
    assert_eq!([0, 1, 2].map(|index| cluster.count(index, "t2")), [1, 1, 1]);
}

#[test]
fn what_recovers_says_so_once_and_the_others_follow() {
    let mut cluster = flapping(3);
    cluster.change(0, "t1");
    fail(&mut cluster);
    cluster.memory = Memory::default();
    cluster.workloads[0].nature = Nature::Ready(3);
    cluster.run(20);
    // Ready, but for less than a minute since its last crash.
    assert_eq!((state(&cluster), cluster.taken.len()), ("Failed", 1));
    cluster.run(200);
    assert!(cluster.is_done(), "{:?}", cluster.words());
    assert_eq!(says(&cluster.workloads[0]), [RECOVERED]);
    assert_eq!((cluster.noted.len(), cluster.alerts.len()), (2, 1));
    // It is no news to the next leader, nor is another hand's rollout.
    cluster.memory = Memory::default();
    cluster.workloads[0].deploy();
    for _ in 0..60 {
        cluster.run(1);
        assert!(
            state(&cluster) == "Done" || state(&cluster) == "RollingOut",
            "{}",
            state(&cluster)
        );
    }
    assert_eq!((cluster.noted.len(), cluster.alerts.len()), (2, 1));
    assert_eq!(cluster.taken.len(), 3);
}

#[test]
fn where_what_is_said_is_pruned_the_process_remembers_and_writes_once() {
    let mut cluster = flapping(3);
    cluster.pruned = true;
    cluster.change(0, "t1");
    cluster.run(900);
    assert_eq!((state(&cluster), cluster.taken.len()), ("Failed", 1));
    assert_eq!(
        (cluster.noted.len(), cluster.alerts.len()),
        (1, 1),
        "{:?}",
        cluster.noted
    );
}

#[test]
fn what_cannot_be_written_is_told_all_the_same_and_not_tried_for_ever() {
    for fate in [Fate::Denied, Fate::Conflict, Fate::Lost] {
        let mut cluster = flapping(3);
        cluster.change(0, "t1");
        let mut tries = 0;
        for _ in 0..900 {
            cluster.tick(|taken| {
                if !taken.tokens.is_empty() {
                    return Fate::Taken;
                }
                tries += 1;
                fate
            });
        }
        assert_eq!((state(&cluster), cluster.taken.len()), ("Failed", 1), "{fate:?}");
        assert_eq!(cluster.alerts.len(), 1, "{fate:?}");
        assert!((1..=30).contains(&tries), "{fate:?}: {tries} tries");
    }
}

#[test]
fn a_record_that_takes_too_long_is_told_after_its_first_try_once_and_written_later() {
    let mut cluster = flapping(3);
    cluster.change(0, "t1");
    let mut tries = 0;
    let mut told = Vec::new();
    for _ in 0..300 {
        cluster.tick(|taken| {
            if !taken.tokens.is_empty() {
                return Fate::Taken;
            }
            tries += 1;
            if tries <= 5 { Fate::Late } else { Fate::Taken }
        });
        told.push((tries, cluster.alerts.len(), cluster.noted.len()));
    }
    assert!(
        told.iter().all(|(tries, told, _)| (*tries > 0) == (*told == 1)),
        "{told:?}"
    );
    assert_eq!(told.last(), Some(&(6, 1, 1)));
}

#[test]
fn what_failed_before_a_start_is_no_event_and_is_written_only_once_it_looks_well() {
    let mut cluster = Cluster::new(&[Nature::Crashing, Nature::Ready(3)]);
    cluster.change(0, "t1");
    cluster.run(60);
    assert_eq!((state(&cluster), cluster.noted.len()), ("Failed", 1));
    // As a former version leaves it.
    cluster.workloads[0].workload.stamps.failures.clear();
    cluster.memory = Memory::default();
    cluster.run(100);
    assert_eq!(
        (state(&cluster), cluster.noted.len(), cluster.alerts.len()),
        ("Failed", 1, 1)
    );
    cluster.workloads[0].nature = Nature::Flapping(12, 20);
    cluster.workloads[0].min_ready = 30;
    cluster.run(100);
    assert_eq!(
        (state(&cluster), cluster.noted.len(), cluster.alerts.len()),
        ("Failed", 2, 1)
    );
    assert_eq!(cluster.taken.len(), 1);
}

#[test]
fn who_loses_the_record_of_what_was_taken_back_is_told_it_again_once() {
    let mut cluster = Cluster::new(&[Nature::Ready(10); 60]);
    cluster.objects[0] = with(&cluster.objects[0], |restarts| {
        restarts.policy.max_concurrent = 60;
    });
    // A quarter is reserved for rotations.
    (cluster.limits.namespace, cluster.limits.cluster) = (60, 80);
    let strip = |cluster: &mut Cluster| {
        for simulated in &mut cluster.workloads {
            simulated.workload.stamps.records.clear();
        }
    };
    for simulated in &mut cluster.workloads {
        simulated.healed = true;
    }
    cluster.change(0, "t1");
    // Whoever takes the annotation back writes the whole workload.
    for _ in 0..120 {
        cluster.run(1);
        let reverted = cluster
            .words()
            .iter()
            .filter(|(_, _, state)| *state == "Reverted")
            .count();
        if reverted == 60 {
            break;
        }
        strip(&mut cluster);
    }
    let before = cluster.taken.len();
    assert_eq!(before, 120, "{:?}", cluster.words());
    // No status tells the next leaders, and there are more of them than a status lists.
    for _ in 0..3 {
        cluster.memory = Memory::default();
        cluster.run(60);
    }
    assert_eq!(cluster.taken.len(), before, "{:?}", cluster.words());
    assert!(cluster.words().iter().all(|(_, _, state)| *state == "Reverted"));
    // Stripped for ever, the present leader knows and writes no more.
    let written = cluster.noted.len();
    cluster.run(30);
    assert_eq!(cluster.noted.len(), written);
}

#[test]
fn content_that_failed_and_comes_back_starts_over() {
    for (other_fails, crash) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut cluster = flapping(2);
        cluster.change(0, "t1");
        fail(&mut cluster);
        let heal = |cluster: &mut Cluster| {
            cluster.workloads[0].nature = Nature::Ready(3);
            cluster.workloads[0].min_ready = 0;
        };
        if !other_fails {
            heal(&mut cluster);
        }
        cluster.change(0, "t2");
        cluster.run(200);
        let written = if other_fails { 2 } else { 1 };
        assert_eq!(
            (cluster.count(0, "t2"), cluster.noted.len()),
            (1, written),
            "{:?}",
            cluster.words()
        );
        if crash {
            cluster.memory = Memory::default();
        }
        heal(&mut cluster);
        cluster.change(0, "t1");
        for _ in 0..100 {
            cluster.run(1);
            assert_ne!(state(&cluster), "Failed", "{}", cluster.second);
        }
        assert!(cluster.is_done(), "{:?}", cluster.words());
        assert_eq!(cluster.count(0, "t1"), 2);
    }
}

/// Whoever may write the workload may write what it says of itself.
#[test]
fn a_forged_or_broken_word_makes_nothing_go_that_would_not_go_without_it() {
    let words: [Option<FailureRecord>; 5] = [
        None,
        parse_failure("t1.CrashLoopBackOff"),
        parse_failure("t1.Recovered"),
        parse_failure("t9.CrashLoopBackOff"),
        parse_failure("t1.Whatever"),
    ];
    for said in words {
        let mut cluster = Cluster::new(&[Nature::Ready(3), Nature::Ready(3)]);
        let hash = cluster.objects[0].content.hash.clone();
        cluster.workloads[0]
            .workload
            .stamps
            .failures
            .insert(hash, said.clone());
        cluster.change(0, "t1");
        cluster.run(40);
        cluster.memory = Memory::default();
        cluster.run(200);
        assert!(cluster.is_done(), "{said:?}: {:?}", cluster.words());
        assert_eq!(
            (cluster.count(0, "t1"), cluster.count(1, "t1")),
            (1, 1),
            "{said:?}"
        );
        assert_eq!(cluster.alerts, [], "{said:?}");
    }
    // While its rollout is under way, what cannot be read counts against it.
    let mut cluster = flapping(2);
    let hash = cluster.objects[0].content.hash.clone();
    cluster.workloads[0].workload.stamps.failures.insert(hash, None);
    cluster.change(0, "t1");
    cluster.run(40);
    let state = &cluster.decisions.states[0];
    assert_eq!(state.state.as_str(), "Failed");
    assert!(
        state.sentence.contains("restart.keyturn.dev/*.failed"),
        "{}",
        state.sentence
    );
}

#[test]
fn evictions_stop_at_a_pod_that_looks_well_between_crashes() {
    let mut cluster = Cluster::new(&[Nature::Flapping(12, 20), Nature::Ready(3)]);
    cluster.evict_allowed = true;
    cluster.workloads[0].min_ready = 30;
    for simulated in &mut cluster.workloads {
        simulated.workload.annotations.strategy = AnnotationValue::Is(RestartStrategy::Evict);
    }
    cluster.change(0, "t1");
    for _ in 0..500 {
        cluster.run(1);
        if state(&cluster) == "Failed" {
            break;
        }
    }
    let before = cluster.taken.len();
    for _ in 0..300 {
        cluster.run(1);
        assert_eq!(state(&cluster), "Failed", "{}", cluster.second);
    }
    assert_eq!(cluster.taken.len(), before, "{:?}", cluster.taken);
    // Nothing is written on it: that is what the strategy is for.
    assert!(cluster.workloads[0].workload.stamps.failures.is_empty());
    assert_eq!(cluster.alerts, [(0, "t1".into())]);
}

fn note(what: NoteKind) -> Note {
    Note {
        object: ObjectKey::new("shop", "db"),
        hash: "aa".into(),
        token: "t".into(),
        what,
        alert: None,
    }
}

fn restarted() -> Workload {
    let mut workload = workload("api");
    workload.stamps.tokens = Texts::from_iter([("aa".into(), "t".into())]);
    workload
}

#[test]
fn what_a_workload_says_is_written_into_its_own_metadata_alone_and_only_if_it_holds() {
    let failed = note(NoteKind::Failed(Some("TimedOut".into())));
    let metadata = |key: &str, value: &str| {
        let path = format!("/metadata/annotations/restart.keyturn.dev~1{key}");
        vec![json!({"op": "add", "path": path, "value": value})]
    };
    let mut workload = restarted();
    let write = |workload: &Workload, note: &Note| -> Option<Vec<Value>> {
        let patch = note_patch(workload, &base(workload), std::slice::from_ref(note))?;
        let operations = patch.operations("uid-api");
        let all = operations.as_array().unwrap().iter();
        Some(all.filter(|one| one["op"] != "test").cloned().collect())
    };
    assert_eq!(
        write(&workload, &failed),
        Some(metadata("aa.failed", "t.TimedOut"))
    );
    // It says so already.
    for reason in ["TimedOut", "CrashLoopBackOff"] {
        workload
            .stamps
            .failures
            .insert("aa".into(), parse_failure(&format!("t.{reason}")));
        assert_eq!(write(&workload, &failed), None);
    }
    workload
        .stamps
        .failures
        .insert("aa".into(), parse_failure("t.Recovered"));
    assert_eq!(write(&workload, &note(NoteKind::Recovered)), None);
    workload
        .stamps
        .failures
        .insert("aa".into(), parse_failure("t.TimedOut"));
    let recovered = metadata("aa.failed", "t.Recovered");
    assert_eq!(write(&workload, &note(NoteKind::Recovered)), Some(recovered));
    // Something else was asked of it since.
    workload.stamps.failures.clear();
    workload.stamps.tokens.insert("aa".into(), "u".into());
    assert_eq!(write(&workload, &failed), None);
    let record = Record {
        token: "t".into(),
        attempt: 2,
        was_healthy: true,
    };
    let attempts = note(NoteKind::Attempts(record.clone()));
    let again = metadata("aa", "t.2");
    assert_eq!(write(&workload, &attempts), Some(again));
    workload.stamps.records.insert("aa".into(), record);
    assert_eq!(write(&workload, &attempts), None);
}

#[test]
fn what_is_not_a_token_and_a_word_is_no_failure() {
    for text in [
        "",
        "t",
        "t.",
        ".TimedOut",
        "t.1",
        "t.two words",
        "t.TimedOut\n",
        &format!("t.{}", "x".repeat(64)),
    ] {
        assert_eq!(parse_failure(text), None, "{text}");
    }
    assert_eq!(failed("aa.failed"), Some("aa"));
    assert_eq!(
        (failed(".failed"), failed("aa"), failed("aa.failing")),
        (None, None, None)
    );
}

/// The ways in which a container that crashes in a loop passes its time.
fn lives() -> impl Strategy<Value = (i64, i64, i64)> {
    (3_i64..20, 1_i64..40, 0_i64..50)
}

/// What becomes of notes: so few are lost in a row that people are told only once one is written.
fn note_fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        2 => Just(Fate::Taken),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Conflict),
        1 => Just(Fate::CrashBefore),
        1 => Just(Fate::CrashAfter),
    ];
    prop::collection::vec(fate, 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_failed_stays_failed_until_it_completes_whoever_leads(
        lives in prop::collection::vec(lives(), 1..3),
        well in 1_usize..4,
        fates in note_fates(),
        crashes in prop::collection::btree_set(1_i64..600, 0..6),
    ) {
        let mut natures: Vec<Nature> = lives.iter().map(|(down, up, _)| Nature::Flapping(*down, *up)).collect();
        natures.resize(lives.len() + well, Nature::Ready(3));
        let mut cluster = Cluster::new(&natures);
        for (simulated, (_, _, min_ready)) in cluster.workloads.iter_mut().zip(&lives) {
            simulated.min_ready = *min_ready;
        }
        let mut fates = fates.into_iter();
        cluster.change(0, "t1");
        for _ in 0..700 {
            if crashes.contains(&cluster.second) {
                cluster.memory = Memory::default();
            }
            let (before, halted) = (cluster.taken.len(), cluster.failures_said());
            cluster.tick(|taken| {
                let is_note = taken.tokens.is_empty();
                if is_note { fates.next().unwrap_or(Fate::Taken) } else { Fate::Taken }
            });
            // What says of itself that it failed counts as that, until it says that it recovered.
            for index in &halted {
                if cluster.failures_said().contains(index) {
                    prop_assert_eq!(cluster.words()[*index].2, "Failed", "{} at {}", index, cluster.second);
                }
            }
            if !halted.is_empty() && cluster.failures_said() == halted {
                prop_assert_eq!(cluster.taken.len(), before, "{:?}", cluster.taken);
            }
            if cluster.is_done() {
                prop_assert!((0..natures.len()).all(|index| !cluster.is_stale(index)));
            }
        }
        for index in 0..natures.len() {
            let alerts = cluster.alerts.iter().filter(|(of, _)| *of == index);
            prop_assert!(alerts.count() <= 1, "{:?}", cluster.alerts);
            prop_assert!(cluster.count(index, "t1") <= 1, "{:?}", cluster.taken);
        }
    }

    /// A version of before reads what is written for a restart, and passes over the rest.
    #[test]
    fn what_says_that_a_rollout_failed_is_no_record_of_a_restart(token in "[a-z0-9]{1,40}", reason in "[A-Za-z]{1,63}") {
        let text = format!("{token}.{reason}");
        prop_assert_eq!(records::parse(&text), None);
        let read = parse_failure(&text).unwrap();
        prop_assert_eq!((&*read.token, &*read.reason), (&*token, &*reason));
    }
}
