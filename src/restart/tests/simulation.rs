//! A small cluster: workloads whose controllers replace pods one by one, a self-healer, and a process that crashes, loses
//! answers and is refused. It records what an observer of the API server sees.

use std::sync::Arc;

use jiff::Timestamp;

use super::{at, base, key, object, pod, workload};
use crate::{
    api::{KeyChange, KeyChanges, ObjectKey, RestartStrategy, WorkloadKind},
    restart::{
        execute::{
            patch,
            step::{Step, step},
        },
        judge::{
            assess::assess,
            memory::{Memory, NoteFailure},
            model::{Judgement, Note, NoteKind, ObservedWorkload, PodList, Restart, Setting},
        },
        observed::{
            managed_secrets::{ManagedSecret, ManagedSecrets},
            model::{Annotations, Container, Limits, Pod, Texts, Workload, WorkloadKey},
            records,
        },
        schedule::decide::{Decisions, decide},
        timing,
    },
};

/// How a workload's pods behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// A new pod is ready after so many seconds.
    Ready(i64),
    /// A new pod crashes.
    Crashing,
    /// A new pod crashes again and again: it is down for so many seconds, then ready for so many.
    Flapping(i64, i64),
    /// A new pod is not ready for so many seconds, then ready for so many, and so on; its container runs all the time.
    Blinking(i64, i64),
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is taken and answered.
    Taken,
    /// It is taken, the answer is lost.
    Lost,
    /// It is not answered in time, and not taken.
    Late,
    /// It is refused: somebody else wrote.
    Conflict,
    /// It is refused: not allowed.
    Denied,
    /// The process dies before it is sent.
    CrashBefore,
    /// The process dies after it is taken.
    CrashAfter,
}

pub(super) struct Simulated {
    pub(super) key: WorkloadKey,
    pub(super) workload: Workload,
    pub(super) nature: Nature,
    /// A self-healer strips our annotation from the template.
    pub(super) healed: bool,
    /// A pod is available once it has been ready for so many seconds.
    pub(super) min_ready: i64,
    pub(super) pods: Vec<Pod>,
    template: Texts,
    made: usize,
}

/// A request that the API server took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) second: i64,
    pub(super) workload: usize,
    pub(super) tokens: Vec<Box<str>>,
}

pub(super) struct Cluster {
    pub(super) second: i64,
    pub(super) objects: Vec<ManagedSecret>,
    pub(super) workloads: Vec<Simulated>,
    pub(super) memory: Memory,
    pub(super) limits: Limits,
    pub(super) taken: Vec<Taken>,
    pub(super) evict_allowed: bool,
    /// Whether somebody prunes what workloads say of themselves.
    pub(super) pruned: bool,
    /// What workloads were to say, by workload; of these what was taken.
    pub(super) noted: Vec<(usize, Note)>,
    /// Failures that people were told of, by workload and token.
    pub(super) alerts: Vec<(usize, Box<str>)>,
    /// The most workloads that were without all their pods of the newest template at once, after we asked.
    pub(super) most_rolling: usize,
    pub(super) decisions: Decisions,
}

impl Cluster {
    /// Workloads `w0`, ... of two pods each that use the Secret `db`, whose content is baseline.
    pub(super) fn new(natures: &[Nature]) -> Self {
        let mut first = object("db", "t0");
        Arc::make_mut(&mut first.content).changed_at = None;
        Self {
            second: 0,
            objects: vec![first],
            workloads: natures
                .iter()
                .enumerate()
                .map(|(index, nature)| Simulated::new(&format!("w{index}"), *nature))
                .collect(),
            memory: Memory::default(),
            limits: Limits::default(),
            taken: Vec::new(),
            evict_allowed: false,
            pruned: false,
            noted: Vec::new(),
            alerts: Vec::new(),
            most_rolling: 0,
            decisions: Decisions::default(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        at(self.second)
    }

    /// The Secret has other content.
    pub(super) fn change(&mut self, object: usize, token: &str) {
        let now = self.now();
        let content = Arc::make_mut(&mut self.objects[object].content);
        content.key_changes = None;
        (content.rollout, content.token, content.changed_at) = (token.into(), token.into(), Some(now));
    }

    /// The Secret has other content by a write that took so many seconds.
    pub(super) fn change_slowly(&mut self, object: usize, token: &str, seconds: i64) {
        let sent = at(self.second - seconds);
        self.change(object, token);
        Arc::make_mut(&mut self.objects[object].content).changed_at = Some(sent);
    }

    /// Some keys of the Secret have other content.
    pub(super) fn change_keys(&mut self, object: usize, token: &str, keys: &[&str]) {
        let content = &self.objects[object].content;
        let before = KeyChange::new(Vec::new(), &content.rollout, content.changed_at);
        let former = content.key_changes.as_deref().cloned();
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let change = KeyChange::new(keys, token, Some(self.now()));
        let changes = KeyChanges::after(former, before, change);
        self.change(object, token);
        Arc::make_mut(&mut self.objects[object].content).key_changes = Some(Arc::new(changes));
    }

    /// A second passes: controllers work, then we do.
    pub(super) fn tick(&mut self, mut fate: impl FnMut(&Taken) -> Fate) {
        self.second += 1;
        for workload in &mut self.workloads {
            workload.tick(self.second);
        }
        if self.pruned && self.second % 5 == 0 {
            for simulated in &mut self.workloads {
                simulated.workload.stamps.failures.clear();
                simulated.workload.stamps.records.clear();
            }
        }
        self.pass(&mut fate);
        let rolling = self.workloads.iter().filter(|workload| workload.is_rolling());
        self.most_rolling = self.most_rolling.max(rolling.count());
    }

    pub(super) fn run(&mut self, seconds: i64) {
        for _ in 0..seconds {
            self.tick(|_| Fate::Taken);
        }
    }

    fn assess(&mut self, index: usize) -> Option<Judgement> {
        let now = self.now();
        let setting = Setting {
            now,
            control: None,
            evict_allowed: self.evict_allowed,
        };
        let Simulated {
            key, workload, pods, ..
        } = &self.workloads[index];
        let namespace = Annotations::default();
        let mut observed = ObservedWorkload {
            key,
            workload,
            namespace: &namespace,
            pods: None,
        };
        let facts = ManagedSecrets::new(self.objects.clone());
        let target = assess(&setting, &facts, &observed, &mut self.memory)?;
        if target.pods_wanted.is_none_or(|wanted| wanted > now) {
            return Some(target);
        }
        let pods: Vec<&Pod> = pods.iter().collect();
        observed.pods = Some(PodList { pods: &pods, at: now });
        assess(&setting, &facts, &observed, &mut self.memory)
    }

    fn pass(&mut self, fate: &mut impl FnMut(&Taken) -> Fate) {
        let judged: Vec<Judgement> = (0..self.workloads.len())
            .filter_map(|index| self.assess(index))
            .collect();
        let now = self.now();
        let targets: Vec<&Judgement> = judged.iter().collect();
        self.decisions = decide(now, &self.limits, &targets, &mut self.memory);
        self.note(&judged, fate);
        for restart in self.decisions.restarts.clone() {
            let Some(index) = self
                .workloads
                .iter()
                .position(|workload| workload.key == restart.key)
            else {
                continue;
            };
            let Some(fresh) = self.assess(index) else { continue };
            let Simulated {
                key, workload, pods, ..
            } = &self.workloads[index];
            let namespace = Annotations::default();
            let pods: Vec<&Pod> = pods.iter().collect();
            let observed = ObservedWorkload {
                key,
                workload,
                namespace: &namespace,
                pods: Some(PodList { pods: &pods, at: now }),
            };
            let next = step(&restart, &base(workload), &observed, &fresh);
            let restart = match &next {
                Step::Nothing => continue,
                Step::Patch { restart, .. } | Step::Evict { restart, .. } => restart.clone(),
            };
            let taken = Taken {
                second: self.second,
                workload: index,
                tokens: restart
                    .causes
                    .iter()
                    .map(|cause| cause.stamp.record.token.clone())
                    .collect(),
            };
            let fate = fate(&taken);
            self.memory.sending(&restart, now);
            if matches!(fate, Fate::Taken | Fate::Lost | Fate::CrashAfter) {
                self.taken.push(taken);
                let second = self.second;
                let workload = &mut self.workloads[index];
                match &next {
                    Step::Evict { uid, .. } => workload.pods.retain(|pod| pod.uid != *uid),
                    _ => workload.patch(second, &restart),
                }
            }
            match fate {
                Fate::Taken => self.memory.taken(&restart, now),
                Fate::Lost | Fate::Late => {}
                Fate::Conflict => self.memory.conflicted(&restart),
                Fate::Denied => self.memory.refused(&restart, now, "not allowed"),
                Fate::CrashBefore | Fate::CrashAfter => {
                    self.memory = Memory::default();
                    return;
                }
            }
        }
    }

    /// Has workloads say what they are to say; a process that dies before that tells nobody.
    fn note(&mut self, targets: &[Judgement], fate: &mut impl FnMut(&Taken) -> Fate) {
        for target in targets {
            for written in &target.notes {
                let Some(index) = self
                    .workloads
                    .iter()
                    .position(|workload| workload.key == target.key)
                else {
                    continue;
                };
                let taken = Taken {
                    second: self.second,
                    workload: index,
                    tokens: Vec::new(),
                };
                let fate = match patch::note_patch(
                    &self.workloads[index].workload,
                    &base(&self.workloads[index].workload),
                    std::slice::from_ref(written),
                ) {
                    Some(_) => fate(&taken),
                    None => Fate::Taken,
                };
                if matches!(fate, Fate::Taken | Fate::Lost | Fate::CrashAfter) {
                    self.workloads[index].say(written);
                    self.noted.push((index, written.clone()));
                }
                let told = match fate {
                    Fate::Taken => self.memory.noted(&target.uid, written),
                    Fate::Lost | Fate::Conflict => {
                        self.memory.not_noted(&target.uid, written, NoteFailure::Passing)
                    }
                    Fate::Late => self.memory.not_noted(&target.uid, written, NoteFailure::Late),
                    Fate::Denied => self.memory.not_noted(&target.uid, written, NoteFailure::Refused),
                    Fate::CrashBefore | Fate::CrashAfter => {
                        self.memory = Memory::default();
                        return;
                    }
                };
                if told {
                    self.alerts.push((index, written.token.clone()));
                }
            }
        }
    }

    /// The workloads that say that their rollout for the first object's content failed.
    pub(super) fn failures_said(&self) -> Vec<usize> {
        let content = &self.objects[0].content;
        let says = |index: &usize| {
            let said = self.workloads[*index].workload.stamps.failures.get(&content.hash);
            said.and_then(Option::as_ref)
                .is_some_and(|said| said.token == content.token && *said.reason != *records::RECOVERED)
        };
        (0..self.workloads.len()).filter(says).collect()
    }

    /// How many requests were taken for the workload and token.
    pub(super) fn count(&self, workload: usize, token: &str) -> usize {
        self.taken
            .iter()
            .filter(|taken| taken.workload == workload && taken.tokens.iter().any(|found| **found == *token))
            .count()
    }

    /// Whether a pod of the workload holds older content than the first object's.
    pub(super) fn is_stale(&self, workload: usize) -> bool {
        let content = &self.objects[0].content;
        let workload = &self.workloads[workload];
        content.changed_at.is_some_and(|changed| {
            let margin = timing::later(changed, timing::CREATED_MARGIN);
            workload
                .pods
                .iter()
                .any(|pod| pod.created <= margin && pod.tokens.get(&content.hash) != Some(&content.token))
        })
    }

    /// Whether a workload counts as done that has a pod with older content.
    pub(super) fn forgets_a_pod(&self) -> bool {
        let words = self.words();
        let is_done = |index: &usize| {
            let name = &*self.workloads[*index].key.key.name;
            words.iter().any(|(_, of, state)| of == name && *state == "Done")
        };
        (0..self.workloads.len())
            .filter(is_done)
            .any(|index| self.is_stale(index))
    }

    /// Whether every workload that has to do with it is done.
    pub(super) fn is_done(&self) -> bool {
        self.words().iter().all(|(_, _, state)| *state == "Done")
    }

    pub(super) fn words(&self) -> Vec<(ObjectKey, String, &'static str)> {
        let states = self.decisions.states.iter();
        states
            .map(|state| {
                (
                    state.object.clone(),
                    state.key.key.name.to_string(),
                    state.state.as_str(),
                )
            })
            .collect()
    }
}

impl Simulated {
    pub(super) fn new(name: &str, nature: Nature) -> Self {
        let mut workload = workload(name);
        workload.controller.progress.desired = 2;
        let pods = [-5000, -4999].map(|created| pod(name, created)).to_vec();
        let mut simulated = Self {
            key: key(WorkloadKind::Deployment, name),
            workload,
            nature,
            healed: false,
            min_ready: 0,
            pods,
            template: Texts::default(),
            made: 0,
        };
        simulated.observe(0);
        simulated
    }

    /// Has so many pods of before.
    pub(super) fn scale(&mut self, count: i32) {
        let name = self.key.key.name.to_string();
        self.workload.controller.progress.desired = count;
        self.pods = (0..i64::from(count))
            .map(|number| pod(&name, number - 5000))
            .collect();
        self.observe(0);
    }

    fn patch(&mut self, second: i64, restart: &Restart) {
        assert_eq!(restart.strategy, RestartStrategy::Template);
        for cause in &restart.causes {
            let stamp = &cause.stamp;
            if patch::starts_over(&self.workload, &stamp.hash, &stamp.record.token).is_some() {
                let said = records::parse_failure(&format!("{}.{}", stamp.record.token, records::RECOVERED));
                self.workload.stamps.failures.insert(stamp.hash.clone(), said);
            }
            self.workload
                .stamps
                .tokens
                .insert(stamp.hash.clone(), stamp.record.token.clone());
            self.workload
                .stamps
                .records
                .insert(stamp.hash.clone(), stamp.record.clone());
        }
        self.workload.generation += 1;
        self.workload.stamps.patched_at = Some(at(second));
    }

    fn say(&mut self, note: &Note) {
        let Note { hash, token, .. } = note;
        let reason: Box<str> = match &note.what {
            NoteKind::Failed(Some(reason)) => reason.clone(),
            NoteKind::Failed(None) => return,
            NoteKind::Recovered => records::RECOVERED.into(),
            NoteKind::Attempts(record) => {
                self.workload.stamps.records.insert(hash.clone(), record.clone());
                return;
            }
        };
        let said = records::parse_failure(&format!("{token}.{reason}"));
        assert!(said.is_some(), "{note:?}");
        self.workload.stamps.failures.insert(hash.clone(), said);
    }

    /// A new image, say: another template by another hand.
    pub(super) fn deploy(&mut self) {
        self.workload.generation += 1;
        self.template
            .insert("image".into(), format!("{}", self.workload.generation).into());
    }

    fn tick(&mut self, second: i64) {
        if self.healed && !self.workload.stamps.tokens.is_empty() && second % 3 == 0 {
            self.workload.stamps.tokens.clear();
            self.workload.generation += 1;
        }
        self.workload.controller.observed_generation = self.workload.generation;
        for pod in &mut self.pods {
            match self.nature {
                Nature::Ready(after) if !pod.ready && at(second) >= pod.created + super::seconds(after) => {
                    (pod.ready, pod.readiness_since) = (true, Some(at(second)));
                    pod.containers[0].started = Some(at(second));
                }
                Nature::Crashing if !pod.ready => {
                    pod.containers[0].restarts += 1;
                    pod.containers[0].waiting = Some("CrashLoopBackOff".into());
                }
                Nature::Ready(_) | Nature::Crashing => {}
                Nature::Flapping(down, up) => flap(pod, second, down, up),
                Nature::Blinking(down, up) => blink(pod, second, down, up),
            }
            if pod.ready {
                pod.containers[0].waiting = None;
            }
            pod.containers[0].ready = pod.ready;
        }
        let desired = usize::try_from(self.workload.controller.progress.desired).unwrap();
        let new = self.pods.iter().filter(|pod| self.is_new(pod)).count();
        let unready = self
            .pods
            .iter()
            .filter(|pod| self.is_new(pod) && !self.is_available(pod, second))
            .count();
        if self.pods.len() < desired || (new < desired && unready == 0) {
            self.create(second);
        } else if self.pods.len() > desired {
            let available = |pod: &&Pod| self.is_available(pod, second);
            let ready = self.pods.iter().filter(available).count();
            let old = self
                .pods
                .iter()
                .position(|pod| !self.is_new(pod) && (!available(&pod) || ready > desired));
            let extra = old.or_else(|| (new > desired).then_some(0));
            if let Some(index) = extra {
                self.pods.remove(index);
            }
        }
        self.observe(second);
    }

    fn is_available(&self, pod: &Pod, second: i64) -> bool {
        let since = pod.readiness_since.unwrap_or(Timestamp::MIN);
        pod.ready && timing::later(since, super::seconds(self.min_ready)) <= at(second)
    }

    fn create(&mut self, second: i64) {
        self.made += 1;
        let name = self.key.key.name.to_string();
        let mut made = pod(&name, second);
        made.name = format!("{name}-new-{}", self.made).into();
        made.uid = format!("uid-{name}-{}", self.made).into();
        made.ready = false;
        made.tokens = self.workload.stamps.tokens.clone();
        made.tokens.extend(self.template.clone());
        made.containers = vec![Container {
            name: "app".into(),
            started: None,
            restarts: 0,
            ready: false,
            waiting: None,
        }];
        self.pods.push(made);
    }

    fn is_new(&self, pod: &Pod) -> bool {
        let mut template = self.workload.stamps.tokens.clone();
        template.extend(self.template.clone());
        pod.tokens == template
    }

    fn observe(&mut self, second: i64) {
        let number = |count: usize| i32::try_from(count).unwrap();
        let ready = self.pods.iter().filter(|pod| pod.ready).count();
        let new = self.pods.iter().filter(|pod| self.is_new(pod)).count();
        let available = |pod: &&Pod| self.is_available(pod, second);
        let available = self.pods.iter().filter(available).count();
        let progress = &mut self.workload.controller.progress;
        progress.total = number(self.pods.len());
        progress.updated = number(new);
        (progress.ready, progress.available) = (number(ready), number(available));
    }

    /// Whether it was asked for and is not through, nor broken.
    pub(super) fn is_rolling(&self) -> bool {
        let through = self.pods.iter().all(|pod| self.is_new(pod) && pod.ready)
            && self.workload.controller.observed_generation == self.workload.generation;
        let broken = matches!(
            self.nature,
            Nature::Crashing | Nature::Flapping(..) | Nature::Blinking(..)
        );
        self.workload.stamps.patched_at.is_some() && !through && !broken && !self.healed
    }
}

/// The readiness of a pod that was made by us comes and goes.
fn blink(pod: &mut Pod, second: i64, down: i64, up: i64) {
    if pod.created < at(0) {
        return;
    }
    let age = at(second).duration_since(pod.created).as_secs();
    let phase = age % (down + up);
    let since = if phase < down { phase } else { phase - down };
    (pod.ready, pod.readiness_since) = (phase >= down, Some(at(second - since)));
    pod.containers[0].started = Some(pod.created);
}

/// A pod that was made by us looks well for a while, then its container exits and waits to be started again.
fn flap(pod: &mut Pod, second: i64, down: i64, up: i64) {
    if pod.created < at(0) {
        return;
    }
    let age = at(second).duration_since(pod.created).as_secs();
    let (round, phase) = (age / (down + up), age % (down + up));
    let container = &mut pod.containers[0];
    container.restarts = i32::try_from(round).unwrap();
    if phase < down {
        container.started = None;
        container.waiting = Some("CrashLoopBackOff".into());
        (pod.ready, pod.readiness_since) = (false, Some(at(second - phase)));
    } else {
        let since = at(second - phase + down);
        container.started = Some(since);
        (pod.ready, pod.readiness_since) = (true, Some(since));
    }
}
