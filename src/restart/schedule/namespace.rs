//! The view of one namespace: what is known of it, when it is judged, and when its pods are listed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    api::{ObjectKey, RestartTarget},
    restart::{
        judge::{
            assess,
            membership::lists,
            memory::Memory,
            model::{Judgement, ObservedWorkload, PodList, Setting, Standing},
            targets::{self, MissingTarget},
        },
        observed::{
            Context,
            managed_secrets::{ManagedSecret, ManagedSecrets},
            model::{Pod, WorkloadKey},
            pods,
        },
        timing::{
            JUDGE_NAMESPACE, JUDGE_WORKLOADS, LIST_AGAIN, LIST_BROKEN, LIST_FAILED, LIST_FIRST, LIST_ROLLING,
            LIST_WAITING,
        },
    },
};

/// The namespaces in which something concerns restarts.
pub type Namespaces = BTreeMap<Arc<str>, NamespaceView>;

/// A namespace.
#[derive(Default)]
pub struct NamespaceView {
    /// Its ExternalSecrets that want restarts, by name.
    pub objects: BTreeSet<Arc<str>>,
    /// Its workloads that restarts can concern.
    pub workloads: BTreeSet<WorkloadKey>,
    /// Its ExternalSecrets with their Secrets, as of the last judgement.
    pub managed_secrets: ManagedSecrets,
    /// The judgements of its workloads.
    pub judgements: Vec<Judgement>,
    /// The ExternalSecrets of which something changed since the last report.
    pub fresh: BTreeSet<Arc<str>>,
    /// The entries of `restart.targets` that stand for no workload, by ExternalSecret.
    pub missing: BTreeMap<Arc<str>, Vec<MissingTarget>>,
    generations: BTreeMap<Arc<str>, i64>,
    pub coverage: WorkloadCoverage,
    judging: JudgingPlan,
    pod_lists: PodLists,
}

/// Whether all workloads of a namespace are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkloadCoverage {
    /// Not yet: nothing is decided.
    #[default]
    Partial,
    Complete,
}

/// When workloads are judged, and how long that takes.
#[derive(Default)]
struct JudgingPlan {
    /// When all workloads are judged next.
    due: Option<Instant>,
    took: Duration,
    /// The workloads that changed and are judged alone, and when.
    changed: BTreeSet<WorkloadKey>,
    changed_due: Option<Instant>,
    took_changed: Duration,
}

/// The lists of the pods of a namespace.
#[derive(Default)]
struct PodLists {
    /// When pods are listed next.
    next: Option<Instant>,
    under_way: bool,
    /// When the last list ended.
    last: Option<Instant>,
    /// Whether the last list failed.
    failed: bool,
    /// Whether a workload changed since pods were listed.
    touched: bool,
    pods: HashMap<WorkloadKey, WorkloadPods>,
}

/// What judging takes besides the namespace.
pub struct Assessor<'a> {
    pub context: &'a Context,
    pub setting: &'a Setting<'a>,
    pub memory: &'a mut Memory,
}

/// The pods of one workload.
struct WorkloadPods {
    uid: Box<str>,
    at: Timestamp,
    pods: Vec<Arc<Pod>>,
}

impl NamespaceView {
    /// Has all workloads judged soon; the later, the longer that takes.
    pub fn mark(&mut self, now: Instant) {
        self.mark_at(now + JUDGE_NAMESPACE.after(self.judging.took));
    }

    /// Has all workloads judged at `at`, or before.
    pub fn mark_at(&mut self, at: Instant) {
        let due = &mut self.judging.due;
        *due = Some(due.map_or(at, |due| due.min(at)));
    }

    /// When a workload of it is judged next.
    pub fn next_look(&self) -> Option<Instant> {
        let JudgingPlan { due, changed_due, .. } = &self.judging;
        due.iter().chain(changed_due).min().copied()
    }

    /// A workload changed, or what is remembered of it.
    pub fn touch(&mut self, key: &WorkloadKey, now: Instant) {
        let found = find(&self.judgements, key).ok();
        self.pod_lists.touched |= found
            .and_then(|index| self.judgements.get(index))
            .is_some_and(is_open);
        let judging = &mut self.judging;
        judging.changed.insert(key.clone());
        let soon = now + JUDGE_WORKLOADS.after(judging.took_changed);
        judging.changed_due.get_or_insert(soon);
    }

    /// Whether nothing of it concerns restarts.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.workloads.is_empty()
    }

    /// Forgets a workload.
    pub fn forget(&mut self, key: &WorkloadKey) {
        self.workloads.remove(key);
        self.pod_lists.pods.remove(key);
    }

    /// Forgets the notes of a workload, which were written or given up, until it is judged again.
    pub fn forget_notes(&mut self, key: &WorkloadKey) {
        let found = find(&self.judgements, key).ok();
        if let Some(judgement) = found.and_then(|at| self.judgements.get_mut(at)) {
            judgement.notes = Vec::new();
        }
    }

    /// Judges all workloads, or only those that changed. Returns the Secrets whose restarts were approved since.
    pub fn judge(
        &mut self,
        namespace: &Arc<str>,
        assessor: &mut Assessor<'_>,
        now: Instant,
    ) -> Vec<ManagedSecret> {
        let began = Instant::now();
        let Assessor { context, setting, .. } = *assessor;
        let mut approved = Vec::new();
        let changed = std::mem::take(&mut self.judging.changed);
        self.judging.changed_due = None;
        if !context.workloads.cover(namespace) {
            self.await_workloads();
            return Vec::new();
        }
        if self.coverage == WorkloadCoverage::Partial {
            self.coverage = WorkloadCoverage::Complete;
            // The index may know workloads of which no change was reported yet.
            let keys = context.workloads.keys_in(namespace);
            self.workloads.extend(keys);
            self.mark_at(now);
        }
        if self.judging.due.is_some_and(|due| due <= now) {
            self.judging.due = None;
            approved = self.learn(context, namespace);
            let all = self.workloads.iter();
            self.judgements = Vec::new();
            self.judgements = self.assess(all, namespace, assessor);
            let judgements = &self.judgements;
            // In the order of `workloads`, as they are.
            let is_kept = |key: &WorkloadKey| {
                find(judgements, key).is_ok_and(|at| judgements.get(at).is_some_and(is_open))
            };
            self.pod_lists.pods.retain(|key, _| is_kept(key));
            self.find_targets(context, namespace);
            self.judging.took = began.elapsed();
        } else {
            let is_gone = |key: &WorkloadKey| !context.workloads.exists(key);
            let finds_targets = !self.missing.is_empty() || changed.iter().any(is_gone);
            for key in changed {
                let judged = self.assess([&key].into_iter(), namespace, assessor).pop();
                if !judged.as_ref().is_some_and(is_open) {
                    self.pod_lists.pods.remove(&key);
                }
                match (find(&self.judgements, &key), judged) {
                    (Ok(at), Some(judgement)) => self.judgements[at] = judgement,
                    (Ok(at), None) => drop(self.judgements.remove(at)),
                    (Err(at), Some(judgement)) => self.judgements.insert(at, judgement),
                    (Err(_), None) => {}
                }
            }
            if finds_targets {
                self.find_targets(context, namespace);
            }
            self.judging.took_changed = began.elapsed();
        }
        self.plan(setting.now, now);
        // Holds that end by time were judged here, so their end has them judged again.
        let ends = self.judgements.iter().flat_map(|judgement| {
            let blocks = judgement.claims.iter().filter_map(|claim| claim.hold.as_ref());
            blocks.chain(&judgement.refused).filter_map(|hold| hold.until)
        });
        if let Some(end) = ends.filter(|end| *end > setting.now).min() {
            let rested = now + JUDGE_NAMESPACE.after(self.judging.took);
            self.mark_at(instant(end, setting.now, now).max(rested));
        }
        approved
    }

    /// Finds the entries of `restart.targets` that stand for no workload.
    fn find_targets(&mut self, context: &Context, namespace: &Arc<str>) {
        let selects = |target: &RestartTarget| {
            self.workloads
                .iter()
                .filter(|key| key.kind == target.kind)
                .any(|key| {
                    let known = context.workloads.get(key);
                    let workload = known.as_deref().and_then(Option::as_deref);
                    workload.is_some_and(|workload| lists(target, key, workload))
                })
        };
        let is_known = |target: &RestartTarget| match (&target.name, &target.selector) {
            (Some(name), None) => context.workloads.exists(&WorkloadKey {
                kind: target.kind,
                key: ObjectKey::new(Arc::clone(namespace), name.as_str()),
            }),
            _ => selects(target),
        };
        let missing: BTreeMap<Arc<str>, Vec<MissingTarget>> = self
            .managed_secrets
            .iter()
            .map(|secret| {
                let missing = targets::missing(&secret.restarts.policy.targets, is_known);
                (Arc::clone(&secret.key().name), missing)
            })
            .filter(|(_, missing)| !missing.is_empty())
            .collect();
        let both = self.missing.keys().chain(missing.keys());
        let changed = both.filter(|name| self.missing.get(*name) != missing.get(*name));
        self.fresh.extend(changed.cloned().collect::<Vec<_>>());
        self.missing = missing;
    }

    /// Not all workloads are known: nothing is decided and nothing reported, until [`crate::cluster::Change::Covered`]
    /// has all of them judged.
    fn await_workloads(&mut self) {
        (self.judging.due, self.pod_lists.next) = (None, None);
        self.coverage = WorkloadCoverage::Partial;
        (self.managed_secrets, self.judgements) = (ManagedSecrets::default(), Vec::new());
    }

    /// Where workloads stand.
    fn assess<'a>(
        &self,
        keys: impl Iterator<Item = &'a WorkloadKey>,
        namespace: &Arc<str>,
        assessor: &mut Assessor<'_>,
    ) -> Vec<Judgement> {
        let Assessor {
            context,
            setting,
            memory,
        } = assessor;
        let annotations = context.namespace_annotations(namespace);
        let mut judgements = Vec::new();
        for key in keys {
            let Some(known) = context.workloads.get(key) else {
                continue;
            };
            let Some(workload) = known.as_deref() else {
                continue;
            };
            let kept = self
                .pod_lists
                .pods
                .get(key)
                .filter(|kept| kept.uid == workload.uid);
            let pods: Vec<&Pod> = kept
                .iter()
                .flat_map(|kept| &kept.pods)
                .map(|pod| &**pod)
                .collect();
            let observed = ObservedWorkload {
                key,
                workload,
                namespace: &annotations,
                pods: kept.map(|kept| PodList {
                    pods: &pods,
                    at: kept.at,
                }),
            };
            let assess = || assess::assess(setting, &self.managed_secrets, &observed, memory);
            // One workload that we cannot judge must not end the judgement of all others.
            match catch_unwind(AssertUnwindSafe(assess)) {
                Ok(judgement) => judgements.extend(judgement),
                Err(_) => {
                    tracing::error!(workload = %key, %namespace, "judging a workload panicked; this is a bug, please report it");
                }
            }
        }
        judgements
    }

    /// Reads its ExternalSecrets and their Secrets. Returns those whose restarts were approved since.
    fn learn(&mut self, context: &Context, namespace: &Arc<str>) -> Vec<ManagedSecret> {
        let mut approved = Vec::new();
        let before = std::mem::take(&mut self.managed_secrets);
        let before: HashMap<&ObjectKey, &ManagedSecret> =
            before.iter().map(|secret| (secret.key(), secret)).collect();
        let mut now = Vec::with_capacity(self.objects.len());
        let generations = std::mem::take(&mut self.generations);
        for name in &self.objects {
            let key = ObjectKey::new(Arc::clone(namespace), Arc::clone(name));
            let (Some(secret), Some((_, generation))) =
                (context.managed_secret(&key), context.identity(&key))
            else {
                continue;
            };
            self.generations.insert(Arc::clone(name), generation);
            let same = generations.get(name) == Some(&generation);
            let before = before.get(&key);
            // After a start, the status shows what was not approved before.
            let is_new = secret.content.asks_for_restarts()
                && secret.takes_approval()
                && before.map_or_else(
                    || context.awaits_approval(&key),
                    |before| !before.takes_approval(),
                );
            if is_new {
                approved.push(secret.clone());
            }
            match before {
                Some(before) if same && **before == secret => now.push((*before).clone()),
                _ => {
                    now.push(secret);
                    self.fresh.insert(Arc::clone(name));
                }
            }
        }
        self.managed_secrets = ManagedSecrets::new(now);
        approved
    }

    /// When pods are listed next.
    fn plan(&mut self, time: Timestamp, now: Instant) {
        let lists = &mut self.pod_lists;
        if lists.under_way {
            lists.next = None;
            return;
        }
        let since = |wait: Duration| lists.last.map_or(now, |last| last + wait);
        let mut at: Option<Instant> = None;
        for judgement in &self.judgements {
            let unseen = judgement.pods_wanted.map(|wanted| {
                let floor = if lists.pods.contains_key(&judgement.key) {
                    LIST_AGAIN
                } else {
                    LIST_FIRST
                };
                instant(wanted, time, now).max(since(floor))
            });
            let waiting = is_open(judgement).then(|| {
                let any =
                    |is: fn(&Standing) -> bool| judgement.claims.iter().any(|claim| is(&claim.standing));
                if lists.touched {
                    since(LIST_AGAIN)
                } else if judgement.rolling || any(|standing| *standing == Standing::Rolling) {
                    since(LIST_ROLLING)
                } else if any(|standing| matches!(standing, Standing::Failed { .. })) {
                    since(LIST_BROKEN)
                } else {
                    since(LIST_WAITING)
                }
            });
            at = at.into_iter().chain(unseen).chain(waiting).min();
        }
        let floor = if lists.failed { since(LIST_FAILED) } else { now };
        lists.next = at.map(|at| at.max(floor));
    }

    /// When its pods are listed next.
    pub fn next_list(&self) -> Option<Instant> {
        self.pod_lists.next
    }

    /// Whether its pods are being listed.
    pub fn is_listing(&self) -> bool {
        self.pod_lists.under_way
    }

    /// Its pods are being listed.
    pub fn lists(&mut self) {
        let lists = &mut self.pod_lists;
        (lists.under_way, lists.touched, lists.next) = (true, false, None);
    }

    /// Its pods were listed; none if that failed.
    pub fn listed(
        &mut self,
        context: &Context,
        namespace: &Arc<str>,
        pods: Option<(Timestamp, Vec<Pod>)>,
        now: Instant,
    ) {
        let lists = &mut self.pod_lists;
        // The time counts from the end of the list: after a slow list the pause is as long as after any other.
        (lists.under_way, lists.failed, lists.last) = (false, pods.is_none(), Some(now));
        self.mark(now);
        let Some((at, pods)) = pods else { return };
        let pods = context.workloads.sort_pods(namespace, at, pods);
        let open: Vec<WorkloadKey> = self
            .judgements
            .iter()
            .filter(|t| is_open(t))
            .map(|t| t.key.clone())
            .collect();
        for key in open {
            let Some(known) = context.workloads.get(&key) else {
                continue;
            };
            let Some(workload) = known.as_deref() else {
                continue;
            };
            let own = pods.of(&key.key.name, &workload.selector);
            let at = own.at;
            let own = own.pods.into_iter();
            let own = own.filter(|pod| pods::is_of(&key, workload, pod)).cloned();
            self.keep(key.clone(), workload.uid.clone(), at, own.collect());
        }
    }

    /// Remembers the pods of one workload.
    pub fn keep(&mut self, key: WorkloadKey, uid: Box<str>, at: Timestamp, pods: Vec<Arc<Pod>>) {
        self.pod_lists.pods.insert(key, WorkloadPods { uid, at, pods });
    }
}

/// The place of a workload among targets, which are in its order.
fn find(judgements: &[Judgement], key: &WorkloadKey) -> Result<usize, usize> {
    judgements.binary_search_by(|judgement| judgement.key.cmp(key))
}

/// Whether the workload is not done with all contents.
fn is_open(judgement: &Judgement) -> bool {
    judgement.rolling
        || judgement
            .claims
            .iter()
            .any(|claim| claim.standing != Standing::Done)
}

/// The moment of `wanted`, `time` being now.
pub fn instant(wanted: Timestamp, time: Timestamp, now: Instant) -> Instant {
    let wait = Duration::try_from(wanted.duration_since(time)).unwrap_or_default();
    now.checked_add(wait).unwrap_or(now + Duration::from_hours(24))
}
