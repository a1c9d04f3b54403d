//! The reconciler at work: changes become work, work becomes passes, until the end.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    api::{ObjectKey, StoreKind},
    cluster::{Change, Changes, Indexed, SecretEntry},
    objects::{Entry, Tally},
    sync::{
        driver::{self, Notice},
        metrics::{Outcome, PassLabels, QueueLabels},
        queue::Class,
        reconcile::{Context, NextPass},
    },
};

/// How often `Current` is compared with the clock.
const SWEEP: Duration = Duration::from_secs(15);
/// How long passes under way may take to end.
const GRACE: Duration = Duration::from_secs(20);

/// Which objects write a Secret of another name than their own.
#[derive(Default)]
struct Targets {
    /// By Secret.
    objects: HashMap<ObjectKey, HashSet<ObjectKey>>,
    /// By object.
    secrets: HashMap<ObjectKey, ObjectKey>,
}

/// Works until `stop` completes, then lets passes under way end. Begin with complete indexes, as the leader.
pub async fn run(context: Arc<Context>, changes: Changes, stop: impl Future<Output = ()>) {
    let targets = Arc::new(Mutex::new(Targets::default()));
    let mut tasks = JoinSet::new();
    {
        let context = context.clone();
        let stores = context.stores.clone();
        let wake = move |store: &ObjectKey| wake_users(&context, store, None);
        tasks.spawn(stores.run(wake));
    }
    {
        let aws = context.provider.aws.clone();
        tasks.spawn(async move { aws.look_after_identities().await });
        let stores = context.stores.clone();
        let context = context.clone();
        tasks.spawn(stores.follow_identities(move |store, namespace| wake_users(&context, store, namespace)));
    }
    {
        let stores = context.stores.clone();
        let tell = move |notice| match notice {
            Notice::Mode(source) => {
                if let Some(store) = stores.store_of(source) {
                    stores.work.push(store, Class::Periodic);
                }
            }
            Notice::Down(source, kind) => stores.tell_outage(source, Some(kind)),
            Notice::Up(source) => stores.tell_outage(source, None),
        };
        let Context { provider, work, .. } = &*context;
        tasks.spawn(driver::drive(provider.clone(), work.clone(), tell));
    }
    tasks.spawn(sweep(context.clone()));
    context.recall_deletions();
    begin(&context, &targets);
    tasks.spawn(follow(context.clone(), changes, targets));

    let mut passes = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = passes.join_next(), if !passes.is_empty() => {}
            (object, class) = context.work.next() => {
                passes.spawn(pass(context.clone(), object, class));
            }
            Some(ended) = tasks.join_next() => {
                tracing::error!(?ended, "a part of the reconciler ended; the process must start anew");
                return;
            }
        }
    }
    drop(tasks);
    tracing::info!(under_way = passes.len(), "ending");
    let all = async { while passes.join_next().await.is_some() {} };
    if timeout(GRACE, all).await.is_err() {
        tracing::warn!(
            "some passes did not end in time; what they did not finish is done by the next leader"
        );
    }
}

async fn pass(context: Arc<Context>, object: ObjectKey, class: Class) {
    let started = context.clock.now();
    let next = AssertUnwindSafe(context.reconcile(&object, class))
        .catch_unwind()
        .await;
    let outcome = match next {
        Ok(NextPass::OnChange) => {
            context.work.done(&object, true);
            Outcome::Well
        }
        Ok(NextPass::After(wait) | NextPass::AtStatusTurn(wait)) => {
            context.work.done(&object, true);
            context.work.push_after(object, wait);
            Outcome::Again
        }
        Ok(NextPass::AfterBackOff) => {
            context.work.done(&object, false);
            context.work.push_failed(&object);
            Outcome::Failed
        }
        Err(_) => {
            // The panic's own text may hold a value and stays inside.
            tracing::error!(%object, "a pass over this ExternalSecret panicked; this is a bug, please report it");
            context.work.done(&object, false);
            context.work.push_failed(&object);
            Outcome::Panicked
        }
    };
    context
        .metrics
        .passes
        .get_or_create(&PassLabels { outcome })
        .inc();
    context
        .metrics
        .duration
        .observe(context.clock.now().saturating_sub(started).as_secs_f64());
}

/// Everything that the indexes hold is looked at once.
fn begin(context: &Context, targets: &Mutex<Targets>) {
    for stores in [&context.stores.namespaced, &context.stores.cluster] {
        for key in stores.keys_where(|_, _| true) {
            context.stores.work.push(key, Class::Urgent);
        }
    }
    for key in context.view.objects.keys_where(|_, _| true) {
        learn_target(context, targets, &key);
        context.learn(&key);
        let class = class_of(context, &key);
        context.work.push(key, class);
    }
}

/// An object that has no status yet is one that somebody waits for.
fn class_of(context: &Context, object: &ObjectKey) -> Class {
    let known = context
        .view
        .objects
        .with(object, |indexed| {
            indexed
                .entry()
                .is_some_and(|entry| !entry.status.said.is_silent())
        })
        .unwrap_or_default();
    if known { Class::Periodic } else { Class::Urgent }
}

/// Turns changes into work.
async fn follow(context: Arc<Context>, changes: Changes, targets: Arc<Mutex<Targets>>) {
    loop {
        match changes.next().await {
            Change::Ready | Change::Workload(..) | Change::Covered(_) => {}
            Change::Control => context.control_changed(),
            Change::ExternalSecret(object) => {
                learn_target(&context, &targets, &object);
                // Our own writes of the status come back as changes and are none.
                if context.is_news(&object) {
                    context.learn(&object);
                    context.work.push(object, Class::Urgent);
                }
            }
            Change::Secret(secret) => {
                for object in users_of(&context, &targets, &secret) {
                    context.work.push(object, Class::Urgent);
                }
            }
            Change::OwnSecret(secret) => {
                let owner = owner_of(&context, &secret);
                for object in users_of(&context, &targets, &secret) {
                    // The one that it was written for knows it.
                    if owner.as_ref() != Some(&object) {
                        context.work.push(object, Class::Urgent);
                    }
                }
            }
            Change::SecretStore(store) => {
                context.confirm_deletions(&store);
                context.stores.work.push(store, Class::Urgent);
            }
            Change::ClusterSecretStore(name) => {
                let store = ObjectKey::new("", name);
                context.confirm_deletions(&store);
                context.stores.work.push(store, Class::Urgent);
            }
            Change::Namespace(name) => {
                let namespace = context.view.namespaces.get(&ObjectKey::new("", name.clone()));
                let live = namespace
                    .as_ref()
                    .and_then(Indexed::entry)
                    .map(|entry| &*entry.uid);
                context.stores.leave_namespace(&name, live);
                for object in context
                    .view
                    .objects
                    .keys_where(|object, _| object.namespace == name)
                {
                    context.work.push(object, Class::Periodic);
                }
            }
        }
    }
}

/// Wakes those that read through a store, in all namespaces or in one. The store's key has no namespace if it is a
/// ClusterSecretStore.
fn wake_users(context: &Context, store: &ObjectKey, namespace: Option<&str>) {
    let meant = |object: &ObjectKey, entry: &Entry| match context.stores.meant(entry.spec.store.as_ref()) {
        Ok(meant) => {
            meant.name == store.name
                && match meant.kind {
                    StoreKind::ClusterSecretStore => store.namespace.is_empty(),
                    StoreKind::SecretStore => store.namespace == object.namespace,
                }
        }
        Err(_) => false,
    };
    let uses = |object: &ObjectKey, entry: &Entry| {
        namespace.is_none_or(|namespace| *object.namespace == *namespace) && meant(object, entry)
    };
    for object in context
        .view
        .objects
        .keys_where(|object, indexed| indexed.entry().is_some_and(|entry| uses(object, entry)))
    {
        let class = class_of(context, &object);
        context.work.push(object, class);
    }
}

fn learn_target(context: &Context, targets: &Mutex<Targets>, object: &ObjectKey) {
    let target = context
        .view
        .objects
        .with(object, |indexed| {
            let name = indexed.entry()?.spec.target.as_deref()?;
            Some(ObjectKey::new(object.namespace.clone(), name))
        })
        .flatten();
    let mut targets = lock(targets);
    let Targets { objects, secrets } = &mut *targets;
    let before = match &target {
        Some(target) => secrets.insert(object.clone(), target.clone()),
        None => secrets.remove(object),
    };
    if let Some(before) = before
        && Some(&before) != target.as_ref()
        && let Some(writers) = objects.get_mut(&before)
    {
        writers.remove(object);
        if writers.is_empty() {
            objects.remove(&before);
        }
    }
    if let Some(target) = target {
        objects.entry(target).or_default().insert(object.clone());
    }
}

/// The objects that a Secret is or was of: by the annotation, by the name, by `target.name`.
fn users_of(context: &Context, targets: &Mutex<Targets>, secret: &ObjectKey) -> HashSet<ObjectKey> {
    let mut users = lock(targets).objects.get(secret).cloned().unwrap_or_default();
    users.insert(secret.clone());
    users.extend(owner_of(context, secret));
    users.retain(|object| context.view.objects.with(object, |_| ()).is_some());
    users
}

/// The object that a Secret is of, by the annotation.
fn owner_of(context: &Context, secret: &ObjectKey) -> Option<ObjectKey> {
    let owner = |indexed: &Indexed<SecretEntry>| indexed.entry()?.owner.clone();
    let owner = context.view.secrets.with(secret, owner).flatten()?;
    Some(ObjectKey::new(secret.namespace.clone(), owner))
}

/// Time passes without events: compares what `Current` says with the clock, and counts objects and the queue.
async fn sweep(context: Arc<Context>) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = Tally::default();
    loop {
        tick.tick().await;
        let mut tally = Tally::default();
        let mut turned = Vec::new();
        context.view.objects.for_each(|object, indexed| {
            let Some(entry) = indexed.entry() else { return };
            tally.add(entry.status.reasons);
            if context.is_stale(object, entry) != entry.status.stale {
                turned.push(object.clone());
            }
        });
        context.metrics.show(&shown, &tally);
        let (mut sync, mut restarts) = (false, false);
        let now = context.view.time.now();
        context.view.control.for_each(|_, indexed| {
            if let Some(control) = indexed.entry().filter(|control| control.lasts(now)) {
                (sync, restarts) = (sync || control.sync, restarts || control.restarts);
            }
        });
        context.metrics.hold(sync, restarts);
        context.show_deletions();
        let unrestricted = i64::try_from(context.stores.unrestricted()).unwrap_or(i64::MAX);
        context.metrics.unrestricted_stores.set(unrestricted);
        shown = tally;
        for object in turned {
            context.work.push(object, Class::Periodic);
        }
        let (urgent, periodic, running) = context.work.depth();
        for (state, count) in [("urgent", urgent), ("periodic", periodic), ("running", running)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            context
                .metrics
                .queue
                .get_or_create(&QueueLabels { state })
                .set(count);
        }
    }
}

fn lock(targets: &Mutex<Targets>) -> MutexGuard<'_, Targets> {
    targets.lock().unwrap_or_else(PoisonError::into_inner)
}
