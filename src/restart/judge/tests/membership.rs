use std::{collections::BTreeMap, sync::Arc};

use crate::{
    api::{
        Discovery, ObjectKey, Reloader, RestartPolicy, RestartStrategy, RestartTarget, TargetSelector,
        WorkloadKind,
    },
    restart::{
        judge::{
            membership::{self, Membership, Terms, WorkloadView},
            reloader::ReloaderRules,
        },
        observed::model::{AnnotationValue, Annotations, Content, RestartFlag, Workload, WorkloadKey},
        tests::{content, key, policy, workload},
    },
};

const DEPLOYMENT: WorkloadKind = WorkloadKind::Deployment;

fn member(
    policy: &RestartPolicy,
    key: &WorkloadKey,
    workload: &Workload,
    namespace: &Annotations,
    content: &Content,
) -> Membership {
    let view = WorkloadView {
        key,
        workload,
        namespace,
        reloading: &ReloaderRules::new(workload),
    };
    membership::member(policy, &view, content)
}

fn of(policy: &RestartPolicy, workload: &Workload, namespace: &Annotations) -> Membership {
    member(
        policy,
        &key(DEPLOYMENT, "api"),
        workload,
        namespace,
        &content("db", "t"),
    )
}

fn wishing(restart: RestartFlag) -> Annotations {
    Annotations {
        restart,
        ..Annotations::default()
    }
}

fn listed(name: &str) -> RestartTarget {
    RestartTarget {
        kind: DEPLOYMENT,
        name: Some(name.to_owned()),
        selector: None,
        wave: Some(3),
        strategy: Some(RestartStrategy::Evict),
    }
}

type Pairs<'a> = &'a [(&'a str, &'a str)];

#[test]
fn discovery_and_wishes_decide_who_follows() {
    use Discovery::{Auto, Explicit, OptIn};
    use RestartFlag::{No, Unreadable, Unset, Yes};
    // Uses the Secret, listed, its own wish, its Namespace's wish.
    let table = [
        ((Auto, true, false, Unset, Unset), "in"),
        ((Auto, true, false, No, Yes), "out"),
        ((Auto, true, false, Yes, No), "in"),
        ((Auto, true, false, Unset, No), "out"),
        ((Auto, true, false, Unreadable, Yes), "unreadable"),
        ((Auto, false, false, Yes, Yes), "out"),
        ((Auto, false, true, Unset, Yes), "out"),
        ((Auto, false, true, Yes, Unset), "in"),
        ((OptIn, true, false, Unset, Unset), "out"),
        ((OptIn, true, true, Unset, Unset), "out"),
        ((OptIn, true, false, Yes, Unset), "in"),
        ((OptIn, true, false, Unset, Yes), "in"),
        ((OptIn, true, false, No, Yes), "out"),
        ((OptIn, true, false, Unreadable, Unset), "unreadable"),
        ((OptIn, false, true, Yes, Unset), "in"),
        ((Explicit, true, false, Yes, Yes), "out"),
        ((Explicit, true, true, Unset, Unset), "in"),
        ((Explicit, true, true, No, Unset), "out"),
        ((Explicit, false, true, Unset, Yes), "out"),
        ((Explicit, false, true, Yes, Unset), "in"),
    ];
    for (case, expected) in table {
        let (discovery, uses, is_listed, own, namespace) = case;
        let mut policy = policy();
        policy.discovery = discovery;
        policy.targets.extend(is_listed.then(|| listed("api")));
        let mut workload = workload("api");
        workload.annotations = wishing(own);
        if !uses {
            workload.uses.clear();
        }
        let found = match of(&policy, &workload, &wishing(namespace)) {
            Membership::In(terms) => {
                assert_eq!(terms.uses, uses, "{case:?}");
                "in"
            }
            Membership::Out => "out",
            Membership::Unreadable(_) => "unreadable",
            Membership::LeftToReloader(_) => "reloader",
        };
        assert_eq!(found, expected, "{case:?}");
    }
}

#[test]
fn another_namespace_and_what_is_being_deleted_never_follow() {
    let mut ending = workload("api");
    ending.ending = true;
    assert_eq!(of(&policy(), &ending, &Annotations::default()), Membership::Out);
    let mut elsewhere = content("db", "t");
    elsewhere.object = ObjectKey::new("bank", "db");
    let found = member(
        &policy(),
        &key(DEPLOYMENT, "api"),
        &workload("api"),
        &Annotations::default(),
        &elsewhere,
    );
    assert_eq!(found, Membership::Out);
}

#[test]
fn targets_choose_by_kind_and_name_or_labels() {
    let labels = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()));
        Some(TargetSelector {
            match_labels: pairs.collect(),
        })
    };
    let target = |kind, name: Option<&str>, selector| RestartTarget {
        kind,
        name: name.map(ToOwned::to_owned),
        selector,
        wave: None,
        strategy: None,
    };
    let table = [
        (target(DEPLOYMENT, Some("api"), None), true),
        (target(DEPLOYMENT, Some("ap"), None), false),
        (target(WorkloadKind::StatefulSet, Some("api"), None), false),
        (target(DEPLOYMENT, None, labels(&[("app", "api")])), true),
        (
            target(DEPLOYMENT, None, labels(&[("app", "api"), ("x", "y")])),
            false,
        ),
        (target(DEPLOYMENT, None, None), false),
    ];
    for (target, expected) in table {
        let policy = RestartPolicy {
            discovery: Discovery::Explicit,
            targets: vec![target.clone()],
            ..policy()
        };
        let found = of(&policy, &workload("api"), &Annotations::default());
        assert_eq!(matches!(found, Membership::In(_)), expected, "{target:?}");
    }
}

#[test]
fn a_rollout_without_steps_is_restarted_by_its_template_unless_something_else_is_said() {
    use RestartStrategy::{Evict, RestartAt, Template};
    for (plain_canary, own, expected) in [
        (true, None, Template),
        (false, None, RestartAt),
        (true, Some(RestartAt), RestartAt),
        (true, Some(Evict), Evict),
    ] {
        let mut rollout = workload("api");
        rollout.controller.plain_canary = plain_canary;
        rollout.annotations.strategy = own.map_or(AnnotationValue::Unset, AnnotationValue::Is);
        let found = member(
            &policy(),
            &key(WorkloadKind::Rollout, "api"),
            &rollout,
            &Annotations::default(),
            &content("db", "t"),
        );
        let Membership::In(terms) = found else {
            panic!("{found:?}")
        };
        assert_eq!(terms.strategy, expected, "{plain_canary} {own:?}");
    }
}

#[test]
fn the_nearest_word_on_the_strategy_wins() {
    use RestartStrategy::{Evict, RestartAt, Template};
    // Kind, workload's, Namespace's, target's.
    let table = [
        (DEPLOYMENT, None, None, None, Template),
        (DEPLOYMENT, None, None, Some(Evict), Evict),
        (DEPLOYMENT, None, Some(Template), Some(Evict), Template),
        (DEPLOYMENT, Some(Evict), Some(Template), None, Evict),
        (DEPLOYMENT, Some(RestartAt), None, None, Template),
        (WorkloadKind::Rollout, None, None, None, RestartAt),
        (WorkloadKind::Rollout, None, None, Some(Template), Template),
        (WorkloadKind::DaemonSet, None, Some(RestartAt), None, Template),
    ];
    for (kind, own, namespace, target, expected) in table {
        let mut workload = workload("api");
        workload.annotations.strategy = own.map_or(AnnotationValue::Unset, AnnotationValue::Is);
        let namespace = Annotations {
            strategy: namespace.map_or(AnnotationValue::Unset, AnnotationValue::Is),
            ..Annotations::default()
        };
        let mut policy = policy();
        policy.targets.push(RestartTarget {
            kind,
            strategy: target,
            ..listed("api")
        });
        let found = member(
            &policy,
            &key(kind, "api"),
            &workload,
            &namespace,
            &content("db", "t"),
        );
        let terms = Terms {
            wave: 3,
            strategy: expected,
            hot_reload: false,
            uses: true,
        };
        assert_eq!(
            found,
            Membership::In(terms),
            "{kind} {own:?} {namespace:?} {target:?}"
        );
    }
}

#[test]
fn what_reloader_restarts_is_left_to_it_or_taken_over() {
    let auto = ("reloader.stakater.com/auto", "true");
    // On the workload, on the Secret, whether Reloader restarts it.
    let table: &[(Pairs<'_>, Pairs<'_>, bool)] = &[
        (&[], &[], false),
        (&[auto], &[], true),
        (&[("reloader.stakater.com/auto", "false")], &[], false),
        (&[("secret.reloader.stakater.com/auto", "true")], &[], true),
        (&[("configmap.reloader.stakater.com/auto", "true")], &[], false),
        (&[("secret.reloader.stakater.com/reload", "other, db")], &[], true),
        (&[("secret.reloader.stakater.com/reload", "d.*")], &[], true),
        (&[("secret.reloader.stakater.com/reload", "d")], &[], false),
        (&[("secret.reloader.stakater.com/reload", "(db")], &[], false),
        (
            &[("secret.reloader.stakater.com/reload", "x.y, [a-d]{2}, ")],
            &[],
            true,
        ),
        (
            &[(
                "secret.reloader.stakater.com/reload",
                "(((d{99}){99}){99}){99}|db",
            )],
            &[],
            false,
        ),
        (&[("reloader.stakater.com/search", "true")], &[], false),
        (
            &[("reloader.stakater.com/search", "true")],
            &[("reloader.stakater.com/match", "true")],
            true,
        ),
        (&[auto], &[("reloader.stakater.com/ignore", "true")], false),
        (&[auto, ("reloader.stakater.com/ignore", "true")], &[], false),
        (
            &[auto, ("secrets.exclude.reloader.stakater.com/reload", "db")],
            &[],
            false,
        ),
        (
            &[auto, ("secret.reloader.stakater.com/exclude", "db")],
            &[],
            false,
        ),
        (
            &[auto, ("secret.reloader.stakater.com/exclude", "other")],
            &[],
            true,
        ),
    ];
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<Box<str>, Box<str>> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    };
    for (on_workload, on_secret, theirs) in table {
        let mut workload = workload("api");
        workload.reloader = map(on_workload);
        let mut content = content("db", "t");
        content.reloader = Arc::new(map(on_secret));
        let of = |discovery, reloader| {
            let policy = RestartPolicy {
                discovery,
                reloader,
                ..policy()
            };
            member(
                &policy,
                &key(DEPLOYMENT, "api"),
                &workload,
                &Annotations::default(),
                &content,
            )
        };
        let is_in = |found| matches!(found, Membership::In(_));
        let left = |found| matches!(found, Membership::LeftToReloader(_));
        assert_eq!(
            left(of(Discovery::Auto, Reloader::Defer)),
            *theirs,
            "{on_workload:?} {on_secret:?}"
        );
        assert!(is_in(of(Discovery::Auto, Reloader::Honour)));
        assert!(is_in(of(Discovery::Auto, Reloader::Ignore)));
        assert_eq!(
            is_in(of(Discovery::OptIn, Reloader::Honour)),
            *theirs,
            "{on_workload:?} {on_secret:?}"
        );
        assert!(!is_in(of(Discovery::OptIn, Reloader::Ignore)));
    }
}

#[test]
fn lists_of_reloader_cost_no_more_than_a_moment() {
    let list = (0..30_000)
        .map(|n| format!("a.{n}"))
        .collect::<Vec<_>>()
        .join(",");
    let mut workload = workload("api");
    let name = "secret.reloader.stakater.com/reload";
    workload.reloader = BTreeMap::from([(name.into(), format!("{list},a.,db").into())]);
    let mut hyphens = workload.clone();
    let list = (0..40).map(|n| format!("db-{n}")).collect::<Vec<_>>().join(",");
    hyphens.reloader = BTreeMap::from([(name.into(), format!("{list},\\w+-x-\\w+").into())]);
    let reloading = ReloaderRules::new(&hyphens);
    assert!(
        reloading.restarts(&content("a-x-b", "t")),
        "a hyphen makes no expression"
    );
    // Plain names are all read, and as many expressions as people write.
    let reloading = ReloaderRules::new(&workload);
    let secrets = [
        ("db", true),
        ("ax3", true),
        ("ax29999", false),
        ("a.29999", true),
        ("ax", false),
    ];
    for (secret, theirs) in secrets {
        assert_eq!(reloading.restarts(&content(secret, "t")), theirs, "{secret}");
    }
}

#[test]
fn a_workload_that_is_too_large_to_keep_is_named_and_not_restarted() {
    let of = |policy: &RestartPolicy, workload: &Workload| of(policy, workload, &Annotations::default());
    let oversized = |change: fn(&mut Workload)| {
        let mut large = Workload {
            oversized: true,
            ..workload("api")
        };
        change(&mut large);
        large
    };
    let known = oversized(|_| {});
    assert!(matches!(of(&policy(), &known), Membership::Unreadable(_)));
    let other = oversized(|large| large.uses[0].secret = "other".into());
    assert_eq!(
        of(&policy(), &other),
        Membership::Out,
        "it does not use the Secret"
    );
    let unknown = oversized(|large| large.uses.clear());
    assert!(matches!(of(&policy(), &unknown), Membership::Unreadable(_)));
    let refused = oversized(|large| large.annotations = wishing(RestartFlag::No));
    assert_eq!(of(&policy(), &refused), Membership::Out);
    let selector = TargetSelector {
        match_labels: [("app".to_owned(), "api".to_owned())].into(),
    };
    let explicit = RestartPolicy {
        discovery: Discovery::Explicit,
        targets: vec![RestartTarget {
            name: None,
            selector: Some(selector),
            ..listed("api")
        }],
        ..policy()
    };
    let unlabelled = oversized(|large| large.labels.clear());
    assert!(matches!(of(&explicit, &unlabelled), Membership::Unreadable(_)));
}

#[test]
fn an_annotation_that_cannot_be_read_is_never_replaced_by_a_default() {
    fn bad<T>(text: &str) -> AnnotationValue<T> {
        AnnotationValue::Unreadable(text.into())
    }
    let strategy = |strategy| Annotations {
        strategy,
        ..Annotations::default()
    };
    let hot = |hot_reload| Annotations {
        hot_reload,
        ..Annotations::default()
    };
    let evict = || strategy(AnnotationValue::Is(RestartStrategy::Evict));
    // The workload's, its Namespace's, what is reported.
    let table = [
        (
            strategy(bad("evict")),
            evict(),
            Some("restart-strategy on the workload is \"evict\""),
        ),
        (
            Annotations::default(),
            strategy(bad("evict")),
            Some("restart-strategy on its Namespace is \"evict\""),
        ),
        (evict(), strategy(bad("evict")), None),
        (
            hot(bad("True")),
            hot(AnnotationValue::Is(true)),
            Some("hot-reload on the workload is \"True\""),
        ),
        (
            Annotations::default(),
            hot(bad("True")),
            Some("hot-reload on its Namespace is \"True\""),
        ),
        (hot(AnnotationValue::Is(false)), hot(bad("True")), None),
    ];
    for (own, namespace, expected) in table {
        let mut workload = workload("api");
        workload.annotations = own;
        let found = of(&policy(), &workload, &namespace);
        assert_eq!(
            matches!(found, Membership::Unreadable(_)),
            expected.is_some(),
            "{found:?}"
        );
        let sentence = membership::unreadable(&workload.annotations, &namespace);
        assert_eq!(sentence.is_some(), expected.is_some(), "{sentence:?}");
        assert!(
            sentence
                .unwrap_or_default()
                .contains(expected.unwrap_or_default()),
            "{expected:?}"
        );
    }
}
