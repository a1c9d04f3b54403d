//! At most one replica may write, whatever the clocks and the network do.

#![expect(clippy::disallowed_methods, reason = "any instant will do to count from")]

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use serde_json::json;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    Leadership, Lease, LeaseLost,
    decide::{DURATION, Decision, Elector, RENEW_DEADLINE, RETRY, View},
};
use crate::{
    api::ObjectKey,
    cluster::{
        Class, TimeLimit, Writer,
        testing::{Asked, Server, cluster},
    },
};

const TARGET: &str = "/apis/coordination.k8s.io/v1/namespaces/keyturn/leases/keyturn";
const TARGET_POST: &str = "/apis/coordination.k8s.io/v1/namespaces/keyturn/leases?&fieldManager=keyturn-sync";

fn view(holder: Option<&str>, version: &str) -> View {
    View {
        holder: holder.map(str::to_owned),
        duration: DURATION,
        uid: "u".to_owned(),
        resource_version: version.to_owned(),
    }
}

#[test]
fn an_absent_or_vacated_lease_is_taken_at_once() {
    let now = Instant::now();
    let mut elector = Elector::new("me".to_owned());
    elector.observe(None, now);
    assert_eq!(elector.decide(now), Decision::Create);
    elector.observe(Some(view(None, "1")), now);
    assert_eq!(elector.decide(now), Decision::Take);
}

#[test]
fn a_held_lease_is_taken_when_it_did_not_change_for_its_duration_while_we_looked() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    // Our own name is like any other: a process before us, or an answer that was lost.
    for holder in ["other", "me"] {
        let mut elector = Elector::new("me".to_owned());
        elector.observe(Some(view(Some(holder), "1")), after(0));
        elector.observe(Some(view(Some(holder), "1")), after(29));
        assert_eq!(elector.decide(after(29)), Decision::Wait);
        elector.observe(Some(view(Some(holder), "2")), after(30));
        assert_eq!(elector.decide(after(30)), Decision::Wait);
        elector.observe(Some(view(Some(holder), "2")), after(60));
        assert_eq!(elector.decide(after(60)), Decision::Take);
    }
}

#[test]
fn a_lease_deleted_under_its_holder_is_not_made_again_before_it_would_have_run_out() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut elector = Elector::new("me".to_owned());
    elector.observe(Some(view(Some("other"), "1")), after(0));
    elector.observe(None, after(10));
    assert_eq!(elector.decide(after(39)), Decision::Wait);
    assert_eq!(elector.decide(after(40)), Decision::Create);
}

#[test]
fn a_holder_renews_until_the_deadline_and_then_is_none() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut elector = Elector::new("me".to_owned());
    elector.observe(Some(view(None, "1")), after(0));
    elector.wrote(view(Some("me"), "2"), after(1), after(5));
    // Counted from the sending, not from the answer.
    assert_eq!(elector.may_write_until(), Some(after(21)));
    assert_eq!(elector.decide(after(20)), Decision::Renew);
    assert_eq!(elector.decide(after(21)), Decision::Lost);
}

#[test]
fn a_holder_that_reads_another_name_or_nothing_has_lost() {
    for left in [Some(view(Some("other"), "3")), Some(view(None, "3")), None] {
        let now = Instant::now();
        let mut elector = Elector::new("me".to_owned());
        elector.wrote(view(Some("me"), "2"), now, now);
        elector.observe(left, now);
        assert_eq!(elector.decide(now), Decision::Lost);
    }
}

/// How the network treats one call: ms until it arrives, whether it does, ms until the answer is back, whether
/// it comes.
#[derive(Clone, Debug)]
struct Fate {
    there: u64,
    arrives: bool,
    back: u64,
    answered: bool,
}

fn fate() -> impl Strategy<Value = Fate> {
    let delay = prop_oneof![4 => 0..200_u64, 1 => 0..4_000_u64, 1 => 0..60_000_u64];
    (
        delay.clone(),
        prop::bool::weighted(0.9),
        delay,
        prop::bool::weighted(0.85),
    )
        .prop_map(|(there, arrives, back, answered)| Fate {
            there,
            arrives,
            back,
            answered,
        })
}

#[derive(Clone, Debug)]
enum Ask {
    Look,
    /// The write, and the resource version that it rests on; `None` creates.
    Write(Option<String>),
}

#[derive(Clone, Debug)]
enum Said {
    Seen(Option<View>),
    Written(View),
    Refused,
}

#[derive(Clone, Debug)]
enum Happens {
    Round(usize),
    Arrives {
        replica: usize,
        round: u64,
        ask: Ask,
        fate: Fate,
    },
    Answered {
        replica: usize,
        round: u64,
        said: Said,
    },
    TimedOut {
        replica: usize,
        round: u64,
    },
    Deleted,
}

struct Replica {
    name: String,
    elector: Elector,
    /// What its clock runs per 1000 ms of real time, and its reading at the start.
    rate: u64,
    zero: Instant,
    round: u64,
    sent: Instant,
    known: bool,
    alive: bool,
}

impl Replica {
    fn clock(&self, real: u64) -> Instant {
        self.zero + Duration::from_millis(real * self.rate / 1000)
    }

    /// A duration of its clock in real time.
    fn real(&self, local: Duration) -> u64 {
        u64::try_from(local.as_millis()).unwrap() * 1000 / self.rate
    }

    fn may_write(&self, real: u64) -> bool {
        self.alive
            && self
                .elector
                .may_write_until()
                .is_some_and(|until| self.clock(real) < until)
    }
}

/// The shell of `Lease::step`, driven by events instead of awaited: rounds of looking and writing whose calls
/// may be late, lost, or answered after their caller gave up.
struct World {
    replicas: Vec<Replica>,
    lease: Option<View>,
    version: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Happens>,
    fates: Vec<Fate>,
    drawn: usize,
    led: usize,
    deleted: usize,
}

impl World {
    fn at(&mut self, time: u64, event: Happens) {
        let id = self.events.len();
        self.queue.push(Reverse((time, u64::try_from(id).unwrap(), id)));
        self.events.push(event);
    }

    fn ask(&mut self, replica: usize, now: u64, ask: Ask) {
        let fate = self.fates[self.drawn % self.fates.len()].clone();
        self.drawn += 1;
        let asking = &mut self.replicas[replica];
        asking.round += 1;
        asking.sent = asking.clock(now);
        let round = asking.round;
        let patience = asking.real(super::LEASE_CALL_TIMEOUT);
        if fate.arrives {
            self.at(
                now + fate.there,
                Happens::Arrives {
                    replica,
                    round,
                    ask,
                    fate,
                },
            );
        }
        self.at(now + patience, Happens::TimedOut { replica, round });
    }

    /// The API server: a write that rests on another version is refused.
    fn serve(&mut self, replica: usize, ask: Ask) -> Said {
        let present = self.lease.as_ref().map(|lease| lease.resource_version.clone());
        match ask {
            Ask::Look => Said::Seen(self.lease.clone()),
            Ask::Write(rests_on) if rests_on == present => {
                self.version += 1;
                let uid = self
                    .lease
                    .as_ref()
                    .map_or_else(|| self.version.to_string(), |l| l.uid.clone());
                let mut written = view(Some(&self.replicas[replica].name), &self.version.to_string());
                written.uid = uid;
                self.lease = Some(written.clone());
                Said::Written(written)
            }
            Ask::Write(_) => Said::Refused,
        }
    }

    fn decide(&mut self, replica: usize, now: u64) {
        let deciding = &self.replicas[replica];
        let seen = deciding.elector.seen().map(|view| view.resource_version.clone());
        match deciding.elector.decide(deciding.clock(now)) {
            Decision::Create => self.ask(replica, now, Ask::Write(None)),
            Decision::Take | Decision::Renew => self.ask(replica, now, Ask::Write(seen)),
            Decision::Wait => self.rest(replica, now),
            Decision::Lost => self.replicas[replica].alive = false,
        }
    }

    fn rest(&mut self, replica: usize, now: u64) {
        let pause = self.replicas[replica].real(RETRY);
        self.at(now + pause, Happens::Round(replica));
    }

    fn failed(&mut self, replica: usize, now: u64) {
        let failing = &mut self.replicas[replica];
        failing.known = false;
        if failing
            .elector
            .may_write_until()
            .is_some_and(|until| failing.clock(now) >= until)
        {
            failing.alive = false;
        }
        self.rest(replica, now);
    }

    fn happen(&mut self, now: u64, event: Happens) {
        match event {
            Happens::Round(replica) => {
                if !self.replicas[replica].alive {
                    return;
                }
                if self.replicas[replica].known {
                    self.decide(replica, now);
                } else {
                    self.ask(replica, now, Ask::Look);
                }
            }
            Happens::Arrives {
                replica,
                round,
                ask,
                fate,
            } => {
                let said = self.serve(replica, ask);
                if fate.answered {
                    self.at(now + fate.back, Happens::Answered { replica, round, said });
                }
            }
            Happens::Answered { replica, round, said } => {
                let asking = &mut self.replicas[replica];
                if !asking.alive || asking.round != round {
                    return;
                }
                // Answered: the time-out of this round must not fire.
                asking.round += 1;
                let local = asking.clock(now);
                match said {
                    Said::Seen(view) => {
                        asking.elector.observe(view, local);
                        self.decide(replica, now);
                    }
                    Said::Written(view) => {
                        asking.elector.wrote(view, asking.sent, local);
                        asking.known = true;
                        self.led += 1;
                        self.rest(replica, now);
                    }
                    Said::Refused => self.failed(replica, now),
                }
            }
            Happens::TimedOut { replica, round } => {
                if self.replicas[replica].alive && self.replicas[replica].round == round {
                    self.replicas[replica].round += 1;
                    self.failed(replica, now);
                }
            }
            // A replica that never saw the Lease cannot know that its absence is new: see `Elector::decide`.
            Happens::Deleted => {
                let saw =
                    |replica: &Replica| replica.elector.seen().is_some_and(|view| view.holder.is_some());
                if self.replicas.iter().all(saw) {
                    self.deleted += 1;
                    self.lease = None;
                }
            }
        }
    }

    /// Runs until `end` ms and returns at which time two replicas could write, if ever.
    fn run(&mut self, end: u64) -> Option<u64> {
        while let Some(Reverse((now, _, id))) = self.queue.pop() {
            if now > end {
                break;
            }
            let event = self.events[id].clone();
            self.happen(now, event);
            if self
                .replicas
                .iter()
                .filter(|replica| replica.may_write(now))
                .count()
                > 1
            {
                return Some(now);
            }
        }
        None
    }
}

fn world(rates: &[u64], fates: Vec<Fate>) -> World {
    let base = Instant::now();
    let replica = |(i, rate): (usize, &u64)| Replica {
        name: format!("replica-{i}"),
        elector: Elector::new(format!("replica-{i}")),
        rate: *rate,
        // Monotonic clocks of machines have nothing in common but their pace.
        zero: base + Duration::from_secs(1000 * u64::try_from(i).unwrap()),
        round: 0,
        sent: base,
        known: false,
        alive: true,
    };
    let replicas = rates.iter().enumerate().map(replica).collect();
    let mut world = World {
        replicas,
        lease: None,
        version: 0,
        queue: BinaryHeap::new(),
        events: Vec::new(),
        fates,
        drawn: 0,
        led: 0,
        deleted: 0,
    };
    for i in 0..rates.len() {
        world.at(u64::try_from(i).unwrap() * 700, Happens::Round(i));
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Clocks that differ by 20 % in pace, calls late by up to a minute, lost, or answered too late.
    #[test]
    fn at_most_one_replica_may_write(
        rates in prop::collection::vec(900..1100_u64, 2..4),
        fates in prop::collection::vec(fate(), 20..200),
        deleted in prop::option::of(40_000..300_000_u64),
    ) {
        let mut world = world(&rates, fates);
        if let Some(deleted) = deleted {
            world.at(deleted, Happens::Deleted);
        }
        prop_assert_eq!(world.run(600_000), None);
    }
}

#[test]
fn on_a_good_network_the_first_replica_leads_all_the_time() {
    let good = Fate {
        there: 5,
        arrives: true,
        back: 5,
        answered: true,
    };
    let mut world = world(&[1000, 1000], vec![good]);
    assert_eq!(world.run(600_000), None);
    assert!(world.replicas[0].may_write(600_000));
    assert!(world.led > 140, "{}", world.led);
}

#[test]
fn after_a_deletion_the_holder_ends_and_another_begins_later() {
    let good = Fate {
        there: 5,
        arrives: true,
        back: 5,
        answered: true,
    };
    let mut world = world(&[1000, 1000], vec![good]);
    world.at(40_000, Happens::Deleted);
    assert_eq!(world.run(600_000), None);
    assert_eq!(world.deleted, 1);
    assert!(!world.replicas[0].alive);
    assert!(world.replicas[1].may_write(600_000));
}

#[test]
fn the_simulation_sees_two_writers_when_clocks_are_beyond_bearing() {
    // A replica whose clock runs five times as fast takes a Lease that was not renewed for 6 s.
    let mut fates = vec![
        Fate {
            there: 5,
            arrives: true,
            back: 5,
            answered: true
        };
        2
    ];
    fates.extend(vec![
        Fate {
            there: 5,
            arrives: false,
            back: 5,
            answered: false
        };
        1
    ]);
    let found = (0..40).any(|shift| {
        let mut fates = fates.clone();
        fates.rotate_left(shift % 3);
        world(&[1000, 5000], fates).run(600_000).is_some()
    });
    assert!(found);
}

type Run = JoinHandle<Result<(), LeaseLost>>;

fn started() -> (Server, Arc<Leadership>, oneshot::Sender<()>, Run, Writer) {
    let (cluster, server) = cluster();
    let key = ObjectKey::new("keyturn", "keyturn");
    let (lease, leadership) = Lease::new(cluster.clone(), key, "pod-0").unwrap();
    let (stop, stopped) = oneshot::channel();
    let run = tokio::spawn(lease.run(async {
        let _ = stopped.await;
    }));
    let writer = Writer::new(cluster, Arc::clone(&leadership));
    (server, leadership, stop, run, writer)
}

fn lease_of(holder: &str, version: &str) -> serde_json::Value {
    json!({
        "metadata": {"uid": "u", "resourceVersion": version},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 30},
    })
}

async fn acquired(server: &mut Server, leadership: &Leadership) -> String {
    server
        .expect("GET", TARGET)
        .await
        .answer(404, &json!({"code": 404, "reason": "NotFound"}));
    let asked = server.expect("POST", TARGET_POST).await;
    let identity = asked.body["spec"]["holderIdentity"].as_str().unwrap().to_owned();
    assert!(identity.starts_with("pod-0_"));
    asked.written("u", "1");
    leadership.acquired().await;
    identity
}

async fn renewal(server: &mut Server, version: &str) -> Asked {
    let asked = server
        .expect("PATCH", &format!("{TARGET}?&fieldManager=keyturn-sync"))
        .await;
    assert_eq!(
        asked.body["metadata"],
        json!({"uid": "u", "resourceVersion": version})
    );
    asked
}

#[tokio::test(start_paused = true)]
async fn a_holder_renews_with_one_request_on_the_version_it_wrote() {
    let (mut server, leadership, _stop, _run, _) = started();
    acquired(&mut server, &leadership).await;
    for version in 1..20 {
        renewal(&mut server, &version.to_string())
            .await
            .written("u", &(version + 1).to_string());
    }
    assert!(leadership.leads());
}

#[tokio::test(start_paused = true)]
async fn without_the_lease_nothing_is_written() {
    let (mut server, leadership, _stop, _run, writer) = started();
    server
        .expect("GET", TARGET)
        .await
        .answer(200, &lease_of("other", "1"));
    tokio::task::yield_now().await;
    assert!(!leadership.leads());
    let secret = k8s_openapi::api::core::v1::Secret::default();
    assert_eq!(
        writer
            .create_secret(TimeLimit::Fenced, &secret)
            .await
            .unwrap_err()
            .class,
        Class::NotLeading
    );
    // The next request is the next look, not the write.
    server
        .expect("GET", TARGET)
        .await
        .answer(200, &lease_of("other", "2"));
}

#[tokio::test(start_paused = true)]
async fn a_holder_cut_off_from_the_server_ends_before_another_can_begin() {
    let (mut server, leadership, _stop, run, writer) = started();
    acquired(&mut server, &leadership).await;
    let began = tokio::time::Instant::now();
    let unanswered = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(server.next().await);
        }
    });
    assert_eq!(run.await.unwrap(), Err(LeaseLost));
    assert!(began.elapsed() < DURATION, "{:?}", began.elapsed());
    assert!(!leadership.leads());
    unanswered.abort();
    let secret = k8s_openapi::api::core::v1::Secret::default();
    assert_eq!(
        writer
            .create_secret(TimeLimit::Fenced, &secret)
            .await
            .unwrap_err()
            .class,
        Class::NotLeading
    );
}

#[tokio::test(start_paused = true)]
async fn writes_stop_ten_seconds_before_the_lease_runs_out() {
    let (mut server, leadership, _stop, _run, _) = started();
    acquired(&mut server, &leadership).await;
    let now = tokio::time::Instant::now().into_std();
    assert!(leadership.may_write(now + Duration::from_secs(19)));
    assert!(!leadership.may_write(now + RENEW_DEADLINE));
    assert_eq!(DURATION, RENEW_DEADLINE + crate::cluster::CALL_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_lease_taken_by_another_ends_the_process() {
    let (mut server, leadership, _stop, run, _) = started();
    acquired(&mut server, &leadership).await;
    let refused = json!({"code": 409, "reason": "Conflict", "message": "the object has been modified"});
    renewal(&mut server, "1").await.answer(409, &refused);
    server
        .expect("GET", TARGET)
        .await
        .answer(200, &lease_of("other", "2"));
    assert_eq!(run.await.unwrap(), Err(LeaseLost));
    server.stays_silent(Duration::from_mins(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_was_lost_is_looked_up_and_goes_on() {
    let (mut server, leadership, _stop, _run, _) = started();
    let me = acquired(&mut server, &leadership).await;
    renewal(&mut server, "1").await.breaks();
    server
        .expect("GET", TARGET)
        .await
        .answer(200, &lease_of(&me, "2"));
    renewal(&mut server, "2").await.written("u", "3");
    assert!(leadership.leads());
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_vacated_only_when_the_last_write_has_ended() {
    let (mut server, leadership, stop, run, writer) = started();
    let me = acquired(&mut server, &leadership).await;
    let key = ObjectKey::new("shop", "db");
    let observed = crate::cluster::Observed {
        uid: "a".to_owned(),
        resource_version: "1".to_owned(),
    };
    let deleting = tokio::spawn(async move { writer.delete_secret(&key, &observed).await });
    let under_way = server.next().await;
    assert_eq!(under_way.method, "DELETE");
    stop.send(()).unwrap();
    server.stays_silent(Duration::from_secs(3)).await;
    assert!(!leadership.leads());
    under_way.answer(200, &json!({}));
    deleting.await.unwrap().unwrap();
    server
        .expect("GET", TARGET)
        .await
        .answer(200, &lease_of(&me, "1"));
    let asked = renewal(&mut server, "1").await;
    assert_eq!(asked.body["spec"]["holderIdentity"], "");
    asked.written("u", "2");
    assert_eq!(run.await.unwrap(), Ok(()));
}
