//! What holds for every wish and every live Secret.

use crate::objects::controller;
use proptest::prelude::*;

use super::*;

fn values() -> impl Strategy<Value = Data> {
    let value = prop::collection::vec(any::<u8>(), 0..3).prop_map(ByteString);
    prop::collection::btree_map("[a-d]", value, 0..4)
}

fn names_of_users() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[a-c]", "[xy]", 0..3)
}

/// What an ExternalSecret may want of restarts.
const WISHES: &[RestartWish] = &[
    RestartWish::Enabled(FirstWrite::Ignore),
    RestartWish::Disabled,
    RestartWish::Unknown,
];

prop_compose! {
    fn wishes()(
        other_key in prop::bool::weighted(0.1),
        recorded in prop::option::of((
            "(db|former)",
            prop::option::of("[01]"),
            prop::option::of((0_i64..5).prop_map(|at| Timestamp::from_second(at).unwrap())),
        )),
        orphan in any::<bool>(),
        adopt_existing in any::<bool>(),
        immutable in prop::bool::weighted(0.1),
        labels in names_of_users(),
        annotations in names_of_users(),
        data in values(),
        (inputs, versions, source, user) in ("[ij]", "[vw]", prop::option::of("[st]"), prop::option::of("[uv]")),
        (trigger, restarts) in (prop::collection::vec("[a-d]", 0..2), prop::sample::select(WISHES)),
        (recorded_content, recorded_since) in (
            prop::option::of("[01]"),
            prop::option::of((0_i64..5).prop_map(|at| Timestamp::from_second(at).unwrap())),
        ),
    ) -> Wish {
        Wish {
            key: [u8::from(other_key); 32],
            recorded,
            recorded_content,
            recorded_since,
            recorded_changes: None,
            creation: if orphan { CreationPolicy::Orphan } else { CreationPolicy::Owner },
            adopt_existing,
            immutable,
            labels,
            annotations,
            data,
            inputs,
            versions,
            source,
            user,
            trigger,
            restarts,
        }
    }
}

prop_compose! {
    /// Secrets of all kinds: ours as an earlier wish left them, edited by hand, and foreign ones.
    fn secrets()(
        before in wishes(),
        drift in prop::option::of(values()),
        labels in names_of_users(),
        annotations in prop::collection::btree_map(
            "(a|b|keyturn\\.dev/(owner|content|rollout|changed-at|adopt))",
            "(db|x|2026-11-01T08:00:00Z)",
            0..3,
        ),
        immutable in prop::bool::weighted(0.1),
        owners in prop::option::weighted(0.3, prop::sample::select(vec!["", "another-uid"])),
        foreign_one in prop::bool::weighted(0.3),
    ) -> Secret {
        let mut secret = if foreign_one { foreign(&[("a", "1")]) } else { before.made() };
        secret.data = drift.or(secret.data);
        secret.metadata.labels.get_or_insert_default().extend(labels);
        secret.metadata.annotations.get_or_insert_default().extend(annotations);
        secret.immutable = immutable.then_some(true).or(secret.immutable);
        if let Some(uid) = owners {
            secret.metadata.owner_references = (!uid.is_empty()).then(|| vec![OwnerReference {
                kind: "ExternalSecret".into(),
                name: "db".into(),
                uid: uid.into(),
                controller: Some(true),
                ..OwnerReference::default()
            }]);
        }
        secret
    }
}

proptest! {
    #[test]
    fn carrying_out_a_plan_leaves_nothing_to_plan(wish in wishes(), live in prop::option::of(secrets())) {
        let plan = wish.plan(live.as_ref());
        prop_assume!(!matches!(plan, Plan::Refuse(_)));
        let after = apply(live.as_ref(), &plan);
        prop_assert_eq!(after.data.clone().unwrap_or_default(), wish.data.clone());
        prop_assert_eq!(wish.plan(Some(&after)), Plan::Nothing(written(&plan).clone()));
        // Nor after the status has it, whenever that is looked at.
        let later = wish.clone().after(written(&plan));
        prop_assert_eq!(
            later.plan_at("2027-01-01T00:00:00Z", Some(&after)),
            Plan::Nothing(written(&plan).clone())
        );
    }

    #[test]
    fn what_is_not_ours_is_written_only_if_both_sides_agree(wish in wishes(), live in secrets()) {
        let ours = is_ours(&ObjectKey::new("shop", "db"), UID, "db", &live);
        let agreed = wish.adopt_existing && annotation_in(&live, annotation::ADOPT) == Some("db");
        let plan = wish.plan(Some(&live));
        let untouched = matches!(plan, Plan::Refuse(Conflict::Foreign { .. } | Conflict::NotAdoptable { .. }));
        prop_assert_eq!(untouched, !(ours || (agreed && controller(&live).is_none())));
    }

    #[test]
    fn nothing_is_planned_that_changes_nothing(wish in wishes(), live in secrets()) {
        let plan = wish.plan(Some(&live));
        if let Plan::Patch { body, .. } = &plan {
            let mut object = serde_json::to_value(&live).unwrap();
            merge(&mut object, body);
            prop_assert_ne!(serde_json::from_value::<Secret>(object).unwrap(), live);
        }
    }

    #[test]
    fn an_immutable_secret_never_gets_other_data(wish in wishes(), live in secrets()) {
        let plan = wish.plan(Some(&live));
        if live.immutable == Some(true) && !matches!(plan, Plan::Refuse(_)) {
            prop_assert_eq!(apply(Some(&live), &plan).data, live.data);
        }
    }

    #[test]
    fn what_users_wrote_on_the_secret_stays(wish in wishes(), live in secrets()) {
        let plan = wish.plan(Some(&live));
        prop_assume!(!matches!(plan, Plan::Refuse(_)));
        let ours = metadata::fields_of_ours(&live);
        let after = apply(Some(&live), &plan);
        for (name, value) in live.metadata.labels.iter().flatten() {
            if !ours.labels.contains(name) && !wish.labels.contains_key(name) && name != names::MANAGED_LABEL {
                prop_assert_eq!(after.metadata.labels.as_ref().unwrap().get(name), Some(value));
            }
        }
    }

    #[test]
    fn equal_data_are_never_a_new_change(wish in wishes(), mut live in secrets()) {
        live.data = Some(wish.data.clone());
        let plan = wish.plan(Some(&live));
        // Unless the Secret itself says that we wrote something else: then somebody was there before us.
        let said = |name| annotation_in(&live, name);
        let before_us = said(annotation::ROLLOUT).is_some()
            && said(annotation::SCOPE) == Some(&*TokenKey::new(&wish.key).scope(
                &ObjectKey::new("shop", "db"), &wish.trigger,
            ).to_string())
            && !matches!(plan, Plan::Refuse(_))
            && said(annotation::ROLLOUT) != Some(&*written(&plan).rollout)
            && said(annotation::CONTENT) != Some(&*written(&plan).content);
        prop_assume!(!before_us);
        if !matches!(plan, Plan::Refuse(_)) {
            prop_assert_ne!(written(&plan).changed_at, Some(time(NOW)));
        }
    }

    /// However what counts is edited, and whoever repairs what, while the data stay as they are: pods that were restarted
    /// for the last change carry its token, and those that were not are older than it.
    #[test]
    fn the_token_of_a_change_stays_until_the_next(
        data in values(),
        new in values(),
        scopes in prop::collection::vec((any::<bool>(), prop::collection::vec("[a-d]", 0..3), any::<bool>(), any::<bool>()), 1..6),
    ) {
        let wish = |data: &Data, other_key: bool, trigger: &[String]| Wish {
            key: [u8::from(other_key); 32],
            trigger: trigger.to_vec(),
            data: data.clone(),
            restarts: RestartWish::Enabled(FirstWrite::Ignore),
            ..Wish::default()
        };
        let (first, rest) = scopes.split_first().unwrap();
        let mut secret = wish(&data, first.0, &first.1).made();
        annotate(&mut secret, annotation::CHANGED_AT, Some(THEN));
        let rollout = |secret: &Secret| annotation_in(secret, annotation::ROLLOUT).map(str::to_owned);
        let token = rollout(&secret);
        let mut last = first.clone();
        let mut was: Option<Written> = None;
        for scope in rest {
            let (other_key, trigger, remembers, drifts) = scope;
            let mut wish = wish(&data, *other_key, trigger);
            if let Some(was) = was.as_ref().filter(|_| *remembers) {
                wish = wish.after(was);
            }
            // With another key it cannot be told from a change.
            if *drifts && *other_key == last.0 {
                secret.data = Some(new.clone());
            }
            let plan = wish.plan(Some(&secret));
            was = Some(written(&plan).clone());
            secret = apply(Some(&secret), &plan);
            prop_assert_eq!(rollout(&secret), token.clone());
            prop_assert_eq!(annotation_in(&secret, annotation::CHANGED_AT), Some(THEN));
            last = scope.clone();
        }
        let (other_key, trigger, ..) = last;
        let counts = |key: &String| trigger.is_empty() || trigger.contains(key);
        let differs = data.keys().chain(new.keys()).any(|key| counts(key) && data.get(key) != new.get(key));
        let after = apply(Some(&secret), &wish(&new, other_key, &trigger).plan(Some(&secret)));
        prop_assert_eq!(annotation_in(&after, annotation::CHANGED_AT) == Some(NOW), differs);
        prop_assert!(differs || rollout(&after) == token);
        prop_assert!(!differs || annotation_in(&after, annotation::RESCOPED).is_none());
    }
}
