//! Where a workload stands with each content that it must follow. Pure.

use jiff::{SignedDuration, Timestamp};

use super::{
    hold,
    membership::{Membership, WorkloadView, member},
    memory::{Memory, RolloutKey},
    model::{Claim, HeldSlot, Judgement, Note, NoteKind, ObservedWorkload, Setting, Standing},
    progress::RolloutProgress,
    reloader::ReloaderRules,
    rollout::{self, Failure, Health, RecordedOutcome, Rollout},
    staleness,
    state::Hold,
};
use crate::{
    api::{RestartStrategy, WorkloadState},
    restart::{
        observed::{
            managed_secrets::{ManagedSecret, ManagedSecrets},
            model::{Content, Pod, Record, UpdateStrategy},
            pods,
        },
        timing::{CLOCK_SKEW, CREATED_MARGIN, PATCH_SHOWN, ROLLOUT_TIMEOUT, SLOT_HELD, later},
    },
};

/// A restart that was taken back is tried this often at all.
const ATTEMPTS: u8 = 2;

/// Where a workload stands with the contents of `facts`; none if it has nothing to do with any.
pub fn assess(
    setting: &Setting<'_>,
    secrets: &ManagedSecrets,
    observed: &ObservedWorkload<'_>,
    memory: &mut Memory,
) -> Option<Judgement> {
    let look = Assessment::new(setting, observed);
    let concerning = secrets.concerning(observed.workload).into_iter();
    let objects: Vec<ManagedSecret> = concerning
        .map(|secret| secret.for_workload(observed.workload))
        .collect();
    let mut claims: Vec<Claim> = objects
        .iter()
        .filter(|object| object.content.asks_for_restarts())
        .filter_map(|object| look.claim(object, memory))
        .collect();
    claims.sort_by(|a, b| a.object.key().cmp(b.object.key()));
    claims.shrink_to_fit();
    let rolling = look.rolls_otherwise(&objects, &claims, memory) || claims.iter().any(|claim| claim.rolling);
    if claims.is_empty() && !rolling {
        return None;
    }
    let ObservedWorkload { key, workload, .. } = *observed;
    let stale = |claim: &&Claim| matches!(claim.standing, Standing::Stale(_)) && claim.hold.is_none();
    let latest = claims.iter().filter(stale).map(|claim| claim.changed_at).max();
    let open = rolling || !claims.iter().all(|claim| claim.standing == Standing::Done);
    // Before its pods were listed, nothing is known of its changes.
    let known = claims.iter().all(|claim| claim.standing != Standing::Unknown);
    let obstacle = look.obstacle(&claims, memory);
    let refused = memory.refusal(&workload.uid, setting.now);
    Some(Judgement {
        key: key.clone(),
        uid: workload.uid.clone(),
        rolling,
        slot: if rolling {
            look.slot(memory)
        } else {
            HeldSlot::None
        },
        healthy: rollout::healthy(key.kind, workload)
            || (rolling && workload.stamps.records.values().any(|record| record.was_healthy)),
        patched_at: workload.stamps.patched_at,
        obstacle,
        refused: refused.map(|refused| {
            Hold::new(
                WorkloadState::Refused,
                refused.why.to_string(),
                Some(refused.until),
            )
        }),
        pods_wanted: look.pods_wanted(open, &claims),
        notes: look.notes(&claims, memory),
        changing_since: if known {
            memory.changed(&workload.uid, latest)
        } else {
            None
        },
        claims,
    })
}

/// Pods that were made for a rollout.
struct NewPods<'a> {
    /// None if they were not listed.
    new: Option<Vec<&'a Pod>>,
    /// An older pod that keeps a `StatefulSet` from replacing any.
    blocking: Option<&'a Pod>,
}

/// The assessment of one workload.
struct Assessment<'a> {
    setting: &'a Setting<'a>,
    observed: &'a ObservedWorkload<'a>,
    /// Its pods, if they were listed, but for those that are lost.
    pods: Option<Vec<&'a Pod>>,
    /// Its pods on nodes that do not answer. Nothing waits for them: what holds old content there can serve nobody, and is
    /// replaced by its controller once the node is back.
    lost: Vec<&'a Pod>,
    reloading: ReloaderRules<'a>,
}

impl<'a> Assessment<'a> {
    fn new(setting: &'a Setting<'a>, observed: &'a ObservedWorkload<'a>) -> Self {
        let pods = observed
            .pods
            .map(|listed| pods::pods_of(observed.key, observed.workload, listed.pods.iter().copied()));
        let (lost, pods) = match pods {
            Some(pods) => {
                let is_lost = |pod: &&Pod| pod.is_lost(setting.now);
                let (lost, others): (Vec<_>, Vec<_>) = pods.into_iter().partition(is_lost);
                (lost, Some(others))
            }
            None => (Vec::new(), None),
        };
        Self {
            setting,
            observed,
            pods,
            lost,
            reloading: ReloaderRules::new(observed.workload),
        }
    }

    fn claim(&self, object: &ManagedSecret, memory: &mut Memory) -> Option<Claim> {
        let ObservedWorkload {
            key,
            workload,
            namespace,
            ..
        } = *self.observed;
        let content = &object.content;
        let policy = &object.restarts.policy;
        let view = WorkloadView {
            key,
            workload,
            namespace,
            reloading: &self.reloading,
        };
        let membership = member(policy, &view, content);
        let terms = match membership {
            Membership::Out => return None,
            Membership::In(terms) | Membership::LeftToReloader(terms) | Membership::Unreadable(terms) => {
                terms
            }
        };
        let mut claim = Claim {
            object: object.clone(),
            changed_at: content.changed_at?,
            there_at: memory.there_at(content, self.setting.now)?,
            terms,
            standing: Standing::Unknown,
            hold: None,
            attempt: 1,
            rolling: false,
        };
        claim.standing = self.standing(&claim, memory);
        if matches!(claim.standing, Standing::Stale(_)) {
            let reverted = self.reverted(&mut claim, memory);
            claim.hold = hold::hold(self.setting, object, &membership, terms, self.observed)
                .or_else(|| self.lacks_pods().then(hold::unknown_pods))
                .or(reverted);
        }
        claim.rolling = claim.standing == Standing::Rolling
            || self.may_roll(&claim, memory)
            || self.rolls_for_older(&claim, memory)
            || self.evicts(&claim, memory);
        Some(claim)
    }

    fn standing(&self, claim: &Claim, memory: &mut Memory) -> Standing {
        let ObservedWorkload { key, workload, .. } = *self.observed;
        let content = &claim.object.content;
        let rollout_key = self.rollout_key(content);
        let changed = claim.changed_at;
        if workload.oversized && content.asks_for_restarts() {
            // Neither its pods nor its template are known for sure.
            return Standing::Stale(0);
        }
        if self.lacks_pods() {
            return Standing::Stale(0);
        }
        let stale = self.stale(claim);
        let asked = self.carries(claim) && workload.stamps.patched_at.is_some();
        if asked && !memory.is_complete(rollout_key) {
            match self.health(claim, stale, memory) {
                Some(Health::Rolling) => {
                    if self.pods.is_some() {
                        memory.rolls(rollout_key);
                    }
                    return Standing::Rolling;
                }
                Some(Health::Failed(failure)) => {
                    return Standing::Failed {
                        failure,
                        was_healthy: self.record(content).is_none_or(|record| record.was_healthy),
                    };
                }
                Some(Health::Complete) if stale.is_some_and(|stale| stale == 0) || self.tells(content) => {
                    memory.complete(rollout_key);
                    memory.satisfy(rollout_key, changed);
                    return Standing::Done;
                }
                Some(Health::Complete | Health::AwaitingPodDeletion | Health::Unknown) | None => {}
            }
        }
        if staleness::told_by_template(key, workload, content) {
            memory.satisfy(rollout_key, changed);
        }
        if claim.terms.strategy == RestartStrategy::Evict
            && let Some(standing) = self.evicting(claim, stale, memory)
        {
            return standing;
        }
        if memory.is_satisfied(rollout_key, changed) {
            return Standing::Done;
        }
        match stale {
            Some(0) if self.listed_after(later(claim.changed_at, CREATED_MARGIN)) => {
                memory.satisfy(rollout_key, changed);
                Standing::Done
            }
            None | Some(0) => Standing::Unknown,
            Some(_) if self.sent_lately(claim, memory) => Standing::Rolling,
            Some(stale) => Standing::Stale(stale),
        }
    }

    /// Whether the workload is a Rollout that has its pods through `workloadRef`, and none of those that its controller counts
    /// are known. Of pods that are not known, nothing proves that they hold the content.
    fn lacks_pods(&self) -> bool {
        let controller = &self.observed.workload.controller;
        controller.borrowed_template
            && controller.progress.total > 0
            && self.lost.is_empty()
            && self.pods.as_ref().is_some_and(Vec::is_empty)
    }

    /// How many pods are stale, if they were listed.
    fn stale(&self, claim: &Claim) -> Option<usize> {
        let pods = self.pods.as_deref()?;
        let content = &claim.object.content;
        Some(staleness::stale(claim.terms, self.observed.workload, content, pods).len())
    }

    fn rollout_key<'b>(&'b self, content: &'b Content) -> RolloutKey<'b> {
        RolloutKey {
            uid: &self.observed.workload.uid,
            hash: &content.hash,
            token: &content.token,
        }
    }

    fn tells(&self, content: &Content) -> bool {
        staleness::told_by_template(self.observed.key, self.observed.workload, content)
    }

    fn listed_after(&self, time: Timestamp) -> bool {
        self.observed.pods.is_some_and(|listed| listed.at > time)
    }

    /// Whether the workload was restarted for this very content, by its template or its record.
    fn carries(&self, claim: &Claim) -> bool {
        let workload = self.observed.workload;
        let content = &claim.object.content;
        if workload.stamps.tokens.get(&content.hash) == Some(&content.token) {
            return true;
        }
        let recorded = workload
            .stamps
            .records
            .get(&content.hash)
            .is_some_and(|record| record.token == content.token);
        let asked = rollout::restart_at(claim.changed_at);
        recorded && workload.controller.restart_at.is_some_and(|at| at >= asked)
    }

    /// The health of the rollout for the claim's content: what failed stays failed until it is seen to be complete,
    /// however well it looks for a moment.
    fn health(&self, claim: &Claim, stale: Option<usize>, memory: &mut Memory) -> Option<Health> {
        let content = &claim.object.content;
        let rollout_key = self.rollout_key(content);
        let seen = memory.failure(rollout_key).cloned();
        let said = rollout::recorded_outcome(self.observed.workload, &content.hash, &content.token);
        let failed = seen.is_some() || matches!(said, RecordedOutcome::Failed(_));
        let new = self.new_pods(&content.hash, &content.token)?;
        let rollout = Rollout {
            stale: stale.map(|stale| stale > 0),
            failed,
            ..self.rollout(rollout_key, claim.object.restarts.policy.timeout, &new, memory)?
        };
        let live = rollout::health(&rollout, self.setting.now);
        let (seen, failure) = match (seen, &said) {
            (Some(failure), _) => (true, failure),
            (None, RecordedOutcome::Failed(failure)) => (false, failure.clone()),
            (None, RecordedOutcome::Nothing | RecordedOutcome::Recovered) => {
                if let Health::Failed(failure) = &live {
                    memory.fail(rollout_key, failure, &said);
                }
                return Some(live);
            }
        };
        let listed = self.observed.pods.map_or(Timestamp::MIN, |listed| listed.at);
        let recovered = rollout::recovered(&rollout, &live, listed);
        match recovered {
            Some(true) if stale == Some(0) || self.tells(content) => return Some(Health::Complete),
            None if !seen => return Some(Health::Failed(Failure::Recorded)),
            Some(_) | None => {}
        }
        memory.fail(rollout_key, &failure, &said);
        if rollout.new.is_some() && !matches!(live, Health::Failed(_)) {
            memory.looks_well(rollout_key);
        }
        Some(Health::Failed(failure))
    }

    /// The record of the restart for the content on the workload, if there is one.
    fn record(&self, content: &Content) -> Option<&'a Record> {
        let record = self.observed.workload.stamps.records.get(&content.hash)?;
        (record.token == content.token).then_some(record)
    }

    /// Its pods that were made for the last rollout that we asked for; none if there was none. These are the pods with all
    /// tokens of the template; those that were made since, where the template does not have the token.
    fn new_pods(&self, hash: &str, token: &str) -> Option<NewPods<'a>> {
        let since = self.observed.workload.stamps.patched_at?;
        let holds = |pod: &Pod| pod.tokens.get(hash).is_some_and(|held| **held == *token);
        let template = &self.observed.workload.stamps.tokens;
        let is_told = template.get(hash).is_some_and(|held| **held == *token);
        let of_template = |pod: &Pod| {
            template
                .iter()
                .all(|(hash, held)| pod.tokens.get(hash) == Some(held))
        };
        let is_new = |pod: &&&Pod| {
            if is_told {
                of_template(pod)
            } else {
                pod.created > since || holds(pod)
            }
        };
        let pods = self.pods.as_ref();
        let ordered = self.observed.workload.controller.ordered;
        let blocks = |pod: &&&Pod| ordered && pod.lives() && !pod.ready && !is_new(pod);
        Some(NewPods {
            new: pods.map(|pods| pods.iter().filter(is_new).copied().collect()),
            blocking: pods.and_then(|pods| pods.iter().find(blocks).copied()),
        })
    }

    /// The last rollout that we asked for, of which no more is known than its new pods.
    fn rollout<'b>(
        &'b self,
        rollout_key: RolloutKey<'_>,
        timeout: std::time::Duration,
        new: &'b NewPods<'a>,
        memory: &mut Memory,
    ) -> Option<Rollout<'b>> {
        let ObservedWorkload { key, workload, .. } = *self.observed;
        let since = workload.stamps.patched_at?;
        let found = new
            .new
            .as_ref()
            .map(|new| RolloutProgress::new(since, signed(timeout), new.iter().copied()));
        Some(Rollout {
            kind: key.kind,
            workload,
            progress: memory.progress(rollout_key, since, found, self.setting.now),
            timeout,
            new: new.new.as_deref(),
            lost: &self.lost,
            blocking: new.blocking,
            stale: None,
            failed: false,
        })
    }

    /// Whether the workload was restarted for the content, and only its pods, which were not listed yet, show whether it
    /// still rolls out.
    fn may_roll(&self, claim: &Claim, memory: &Memory) -> bool {
        let workload = self.observed.workload;
        claim.standing == Standing::Unknown
            && self.pods.is_none()
            && self.carries(claim)
            && workload.stamps.patched_at.is_some()
            && workload.controller.update != UpdateStrategy::OnDelete
            && !memory.is_complete(self.rollout_key(&claim.object.content))
            && !rollout::rolled_out(self.observed.key.kind, workload)
    }

    /// What keeps the rollout of the workload from going on, in a sentence; where it is done, which pods are left out.
    fn obstacle(&self, claims: &[Claim], memory: &mut Memory) -> Option<String> {
        if claims.iter().all(|claim| claim.standing == Standing::Done) {
            return self.left_out(claims);
        }
        let rolls = |claim: &&Claim| claim.standing == Standing::Rolling && self.carries(claim);
        let claim = claims.iter().find(rolls)?;
        let content = &claim.object.content;
        let new = self.new_pods(&content.hash, &content.token)?;
        let timeout = claim.object.restarts.policy.timeout;
        let rollout = self.rollout(self.rollout_key(content), timeout, &new, memory)?;
        rollout::obstacle(&rollout, self.setting.now).map(|obstacle| obstacle.sentence())
    }

    /// Which pods hold older content though the workload is done, in a sentence.
    fn left_out(&self, claims: &[Claim]) -> Option<String> {
        let workload = self.observed.workload;
        let mut left: Vec<&Pod> = claims
            .iter()
            .flat_map(|claim| staleness::stale(claim.terms, workload, &claim.object.content, &self.lost))
            .collect();
        left.sort_by(|a, b| a.name.cmp(&b.name));
        left.dedup_by(|a, b| a.name == b.name);
        let first = left.first()?;
        Some(rollout::done_but_for(first, left.len() - 1))
    }

    /// Whether the workload still rolls out for older content of the same Secret.
    fn rolls_for_older(&self, claim: &Claim, memory: &mut Memory) -> bool {
        let content = &claim.object.content;
        let token = self.observed.workload.stamps.tokens.get(&content.hash);
        token.is_some_and(|token| {
            *token != content.token
                && self.rolls_for(
                    &content.hash,
                    token,
                    Some(claim.object.restarts.policy.timeout),
                    memory,
                )
        })
    }

    /// Whether the workload rolls out for something that it need not follow any more.
    fn rolls_otherwise(&self, objects: &[ManagedSecret], claims: &[Claim], memory: &mut Memory) -> bool {
        let workload = self.observed.workload;
        let claimed = |hash: &str| claims.iter().any(|claim| *claim.object.content.hash == *hash);
        let timeout = |hash: &str| {
            let object = objects.iter().find(|object| *object.content.hash == *hash);
            object.map(|object| object.restarts.policy.timeout)
        };
        let records = &workload.stamps.records;
        let ours = |hash: &str, token: &str| records.get(hash).is_some_and(|record| *record.token == *token);
        workload
            .stamps
            .tokens
            .iter()
            .filter(|(hash, token)| !claimed(hash) && ours(hash, token))
            .fold(false, |rolls, (hash, token)| {
                self.rolls_for(hash, token, timeout(hash), memory) || rolls
            })
    }

    /// Whether the workload rolls out for the content; without a `timeout`, for some time at most.
    fn rolls_for(
        &self,
        hash: &str,
        token: &str,
        timeout: Option<std::time::Duration>,
        memory: &mut Memory,
    ) -> bool {
        let workload = self.observed.workload;
        let rollout_key = RolloutKey {
            uid: &workload.uid,
            hash,
            token,
        };
        if workload.controller.update == UpdateStrategy::OnDelete || memory.is_complete(rollout_key) {
            return false;
        }
        let Some(since) = workload.stamps.patched_at else {
            return false;
        };
        if rollout::rolled_out(self.observed.key.kind, workload) {
            memory.complete(rollout_key);
            return false;
        }
        // A namespace without demand is dropped after a while: what is longer would not be known there.
        if timeout.is_none() && self.setting.now >= later(since, signed(ROLLOUT_TIMEOUT)) {
            return false;
        }
        let timeout = timeout.unwrap_or(ROLLOUT_TIMEOUT);
        self.new_pods(hash, token).is_some_and(|new| {
            let rollout = self.rollout(rollout_key, timeout, &new, memory);
            rollout.is_some_and(|rollout| rollout::health(&rollout, self.setting.now) == Health::Rolling)
        })
    }

    /// A patch that was sent and that the workload, as it is known, does not show yet.
    fn sent_lately(&self, claim: &Claim, memory: &Memory) -> bool {
        let content = &claim.object.content;
        memory
            .sent(&self.observed.workload.uid, &content.hash)
            .is_some_and(|sent| sent.token == content.token && self.setting.now < later(sent.at, PATCH_SHOWN))
            && !self.taken_back(claim)
    }

    /// Whether the restart was taken back: the workload has the record of it, and its template lacks the token.
    fn taken_back(&self, claim: &Claim) -> bool {
        let content = &claim.object.content;
        let records = &self.observed.workload.stamps.records;
        !self.carries(claim)
            && records
                .get(&content.hash)
                .is_some_and(|record| record.token == content.token)
    }

    /// The hold after a restart that was taken back; sets the number of the next attempt.
    fn reverted(&self, claim: &mut Claim, memory: &Memory) -> Option<Hold> {
        let ObservedWorkload { key, workload, .. } = *self.observed;
        let content = &claim.object.content;
        if claim.terms.strategy == RestartStrategy::Evict || self.carries(claim) {
            return None;
        }
        let recorded = self
            .record(content)
            .map(|record| (record.attempt, workload.stamps.patched_at));
        let sent = memory
            .sent(&workload.uid, &content.hash)
            .filter(|sent| sent.taken && sent.token == content.token)
            .map(|sent| (sent.attempt, Some(sent.at)));
        let said = claim
            .object
            .restarts
            .reverted
            .as_ref()
            .is_some_and(|(rollout, workloads)| {
                *rollout == content.rollout
                    && workloads
                        .iter()
                        .any(|(kind, name)| **kind == *key.kind.as_str() && **name == *key.key.name)
            });
        let (attempts, at) = recorded.max(sent).unwrap_or((0, None));
        claim.attempt = attempts.saturating_add(1);
        if said || attempts >= ATTEMPTS {
            return Some(Hold::new(WorkloadState::Reverted, REVERTED, None));
        }
        let again = later(at?, PATCH_SHOWN);
        (attempts > 0 && self.setting.now < again).then(|| {
            Hold::new(
                WorkloadState::TakenBack,
                "somebody took the annotation of the restart back; it is tried once more",
                Some(again),
            )
        })
    }

    /// Whether some of its pods were evicted and others are to follow: it keeps its slot meanwhile.
    fn evicts(&self, claim: &Claim, memory: &Memory) -> bool {
        let uid = &self.observed.workload.uid;
        claim.terms.strategy == RestartStrategy::Evict
            && matches!(claim.standing, Standing::Stale(_))
            && claim.hold.is_none()
            && memory.refusal(uid, self.setting.now).is_none()
            && memory
                .evicting(uid)
                .is_some_and(|evicting| evicting.ours && evicting.holds_slot)
    }

    /// The slot that the workload, which rolls out, still holds. People can write all that a workload records, so no record
    /// holds up other namespaces for long.
    fn slot(&self, memory: &Memory) -> HeldSlot {
        let (workload, now) = (self.observed.workload, self.setting.now);
        if memory.has_sent(&workload.uid, now) {
            return HeldSlot::Cluster;
        }
        let patched = workload.stamps.patched_at;
        let patched = patched.filter(|at| !workload.controller.paused && *at <= later(now, CLOCK_SKEW));
        let evicting = memory.evicting(&workload.uid);
        let evicting = evicting.filter(|evicting| evicting.holds_slot);
        let began = patched.max(evicting.map(|evicting| evicting.since));
        match began {
            None => HeldSlot::None,
            Some(began) if now >= later(began, SLOT_HELD) => HeldSlot::Namespace,
            Some(_) => HeldSlot::Cluster,
        }
    }

    /// The standing of a workload whose pods are evicted one by one; none while no eviction is under way.
    fn evicting(&self, claim: &Claim, stale: Option<usize>, memory: &mut Memory) -> Option<Standing> {
        let ObservedWorkload { key, workload, .. } = *self.observed;
        let (pods, now) = (self.pods.as_deref()?, self.setting.now);
        let margin = later(claim.changed_at, CREATED_MARGIN);
        let new = || pods.iter().filter(|pod| pod.lives() && pod.created > margin);
        let stale = stale?;
        if stale == 0 && memory.evicting(&workload.uid).is_none() {
            return None;
        }
        let content = &claim.object.content;
        let rollout_key = self.rollout_key(content);
        let listed = self.observed.pods.map_or(Timestamp::MIN, |listed| listed.at);
        let going = pods.iter().any(|pod| pod.ending && pod.created <= margin);
        let waiting = going || new().any(|pod| !pod.ready || rollout::crashed_lately(pod, listed));
        let ended = !waiting && rollout::steady(key.kind, workload);
        let evicting = memory.watch_eviction(rollout_key.uid, waiting, now);
        let was_healthy = evicting.is_some_and(|evicting| evicting.ours);
        let timeout = signed(claim.object.restarts.policy.timeout);
        let late = evicting.is_some_and(|evicting| now >= later(evicting.since, timeout)) && !ended;
        let failure = new()
            .find_map(|pod| rollout::broken(pod, now))
            .map(Failure::Pod)
            .or_else(|| late.then_some(Failure::TimedOut));
        if let Some(failure) = &failure {
            memory.fail(rollout_key, failure, &RecordedOutcome::Nothing);
        }
        if ended {
            memory.recover(rollout_key);
        }
        // What failed stays failed until it has ended.
        if let Some(failure) = memory.failure(rollout_key).cloned() {
            return Some(Standing::Failed { failure, was_healthy });
        }
        if stale == 0 && ended {
            memory.evicted(rollout_key.uid);
            return None;
        }
        if waiting {
            memory.rolls(rollout_key);
        }
        (waiting || stale == 0).then_some(Standing::Rolling)
    }

    /// The notes of the claims: what is to be recorded on the workload.
    fn notes(&self, claims: &[Claim], memory: &Memory) -> Vec<Note> {
        let note = |claim: &Claim| {
            let (what, alert) = self.note(claim, memory)?;
            let content = &claim.object.content;
            Some(Note {
                object: content.object.clone(),
                hash: content.hash.clone(),
                token: content.token.clone(),
                what,
                alert,
            })
        };
        claims.iter().filter_map(note).collect()
    }

    fn note(&self, claim: &Claim, memory: &Memory) -> Option<(NoteKind, Option<String>)> {
        let content = &claim.object.content;
        let rollout_key = self.rollout_key(content);
        let said = rollout::recorded_outcome(self.observed.workload, &content.hash, &content.token);
        let fails = matches!(said, RecordedOutcome::Failed(_));
        match (&claim.standing, &claim.hold) {
            (Standing::Failed { failure, was_healthy }, _) => {
                let alert = memory.record_due(rollout_key)?;
                // With the strategy Evict nothing is written on the workload.
                let writes = claim.terms.strategy != RestartStrategy::Evict && !fails;
                let reason = writes.then(|| failure.reason().into());
                let alert = alert.then(|| failure.sentence(*was_healthy));
                Some((NoteKind::Failed(reason), alert))
            }
            (Standing::Done, _) => {
                let recovered = fails && memory.is_complete(rollout_key);
                (recovered && memory.may_remind(rollout_key)).then_some((NoteKind::Recovered, None))
            }
            (Standing::Stale(_), Some(hold)) if hold.state == WorkloadState::Reverted => {
                let sent = memory.sent(rollout_key.uid, rollout_key.hash)?;
                let lost = sent.token == content.token
                    && sent.taken
                    && sent.attempt >= ATTEMPTS
                    && self.record(content).is_none();
                let record = Record {
                    token: content.token.clone(),
                    attempt: sent.attempt,
                    was_healthy: true,
                };
                (lost && memory.may_remind(rollout_key)).then_some((NoteKind::Attempts(record), None))
            }
            _ => None,
        }
    }

    fn pods_wanted(&self, open: bool, claims: &[Claim]) -> Option<Timestamp> {
        if !open {
            return None;
        }
        if self.pods.is_none() {
            return Some(self.setting.now);
        }
        // A list that is too young cannot prove that nothing is stale.
        claims
            .iter()
            .filter(|claim| claim.standing == Standing::Unknown)
            .map(|claim| later(claim.changed_at, CREATED_MARGIN + SignedDuration::from_secs(1)))
            .min()
    }
}

fn signed(time: std::time::Duration) -> SignedDuration {
    SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)
}

const REVERTED: &str = "somebody takes the annotation of the restart back, so its pods keep the old content: let your GitOps \
     tool ignore the annotations restart.keyturn.dev/* (ignoreDifferences of Argo CD), or choose the strategy Evict";
