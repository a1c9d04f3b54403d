//! What is written, and what is left as it is.

use super::*;
use crate::objects::controller;

#[test]
fn an_absent_secret_is_posted_whole() {
    let wish = Wish {
        labels: map(&[("team", "shop")]),
        annotations: map(&[("note", "n")]),
        user: Some("user-token".into()),
        ..Wish::of(&[("username", "u"), ("password", "p")])
    };
    let plan = wish.plan(None);
    let Plan::Create(secret, written) = &plan else {
        panic!("{plan:?}");
    };
    assert_eq!(secret.metadata.name.as_deref(), Some("db"));
    assert_eq!(secret.metadata.namespace.as_deref(), Some("shop"));
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    assert_eq!(secret.data.as_ref(), Some(&wish.data));
    assert_eq!(secret.immutable, None);
    let labels = map(&[("keyturn.dev/managed", "true"), ("team", "shop")]);
    assert_eq!(secret.metadata.labels.as_ref(), Some(&labels));
    for (name, value) in [
        ("note", "n"),
        ("keyturn.dev/owner", "db"),
        ("keyturn.dev/content", &*written.content),
        ("keyturn.dev/inputs", "inputs"),
        ("keyturn.dev/versions", r#"{"0":"v1"}"#),
        ("keyturn.dev/rollout", &*written.rollout),
        ("keyturn.dev/user", "user-token"),
    ] {
        assert_eq!(annotation_in(secret, name), Some(value), "{name}");
    }
    let owner = controller(secret).unwrap();
    assert_eq!((owner.uid.as_str(), owner.kind.as_str()), (UID, "ExternalSecret"));
    assert_eq!(owner.block_owner_deletion, Some(true));
}

#[test]
fn only_an_owner_has_its_secret_collected() {
    let wish = |creation| Wish {
        creation,
        ..Wish::default()
    };
    let (owning, orphaning) = (wish(CreationPolicy::Owner), wish(CreationPolicy::Orphan));
    let (collected, kept) = (owning.made(), orphaning.made());
    assert!(controller(&collected).is_some());
    assert_eq!(controller(&kept), None);

    // A change of policy changes the owner and nothing else.
    for (wish, live, controlled) in [(&orphaning, &collected, false), (&owning, &kept, true)] {
        let plan = wish.plan(Some(live));
        assert_eq!(why(&plan), Why::Annotated);
        let after = apply(Some(live), &plan);
        assert_eq!(controller(&after).is_some(), controlled);
        assert_eq!(after.data, live.data);
    }
}

#[test]
fn other_owners_stay_where_they_are() {
    let other = OwnerReference {
        uid: "other".into(),
        name: "other".into(),
        ..OwnerReference::default()
    };
    let wish = Wish::default();
    let mut secret = wish.made();
    secret
        .metadata
        .owner_references
        .as_mut()
        .unwrap()
        .push(other.clone());
    assert!(matches!(wish.plan(Some(&secret)), Plan::Nothing(_)));

    let orphan = Wish {
        creation: CreationPolicy::Orphan,
        ..wish
    };
    let after = apply(Some(&secret), &orphan.plan(Some(&secret)));
    assert_eq!(after.metadata.owner_references, Some(vec![other]));
}

#[test]
fn one_patch_brings_new_values_and_takes_other_keys_away() {
    let live = Wish::of(&[("gone", "1"), ("kept", "2"), ("password", "old")]).made();
    let wish = Wish::of(&[("kept", "2"), ("password", "new"), ("user", "u")]);
    let plan = wish.plan(Some(&live));
    let Plan::Patch { body, why, .. } = &plan else {
        panic!("{plan:?}");
    };
    assert_eq!(*why, Why::Updated);
    assert_eq!(
        body["data"],
        json!({"gone": null, "password": "bmV3", "user": "dQ=="})
    );
    assert_eq!(apply(Some(&live), &plan).data, Some(wish.data));
}

#[test]
fn why_a_secret_is_patched_is_told_apart() {
    let wish = Wish::default();
    let mut drifted = wish.made();
    drifted.data = Some(data(&[("password", "by hand")]));
    let mut emptied = wish.made();
    emptied.data = None;
    let old = Wish::of(&[("password", "old")]).made();
    let mut unlabelled = wish.made();
    unlabelled.metadata.labels = None;
    let mut other_inputs = wish.made();
    annotate(&mut other_inputs, annotation::INPUTS, Some("other"));
    for (case, live, expected) in [
        ("drifted", drifted, Why::DriftRepaired),
        ("emptied", emptied, Why::DriftRepaired),
        ("old", old, Why::Updated),
        ("without our label", unlabelled, Why::Annotated),
        ("of other inputs", other_inputs, Why::Annotated),
    ] {
        let plan = wish.plan(Some(&live));
        assert_eq!(why(&plan), expected, "{case}");
        let after = apply(Some(&live), &plan);
        assert_eq!(after.data.as_ref(), Some(&wish.data), "{case}");
        assert!(matches!(wish.plan(Some(&after)), Plan::Nothing(_)), "{case}");
    }
}

#[test]
fn data_that_stay_are_not_sent() {
    let live = Wish::default().made();
    let wish = Wish {
        inputs: "other".into(),
        ..Wish::default()
    };
    let plan = wish.plan(Some(&live));
    let Plan::Patch { body, .. } = &plan else {
        panic!("{plan:?}");
    };
    assert_eq!(
        *body,
        json!({"metadata": {"annotations": {"keyturn.dev/inputs": "other"}}})
    );
}

#[test]
fn an_immutable_secret_keeps_its_data() {
    let wish = Wish {
        immutable: true,
        ..Wish::of(&[("password", "old")])
    };
    let live = wish.made();
    assert_eq!(live.immutable, Some(true));
    assert!(matches!(wish.plan(Some(&live)), Plan::Nothing(_)));
    for immutable in [true, false] {
        let changed = Wish {
            immutable,
            ..Wish::default()
        };
        let refused = matches!(
            changed.plan(Some(&live)),
            Plan::Refuse(Conflict::Immutable { .. })
        );
        assert!(refused, "{immutable}");
    }
    // Equal data may still be annotated, and no wish makes a Secret mutable again.
    let annotated = Wish {
        inputs: "other".into(),
        immutable: false,
        ..wish.clone()
    };
    let plan = annotated.plan(Some(&live));
    assert_eq!(why(&plan), Why::Annotated);
    assert_eq!(apply(Some(&live), &plan).immutable, Some(true));
    // A wish for it takes effect together with the last change.
    let mutable = Wish::of(&[("password", "older")]).made();
    let after = apply(Some(&mutable), &wish.plan(Some(&mutable)));
    assert_eq!((after.immutable, after.data), (Some(true), Some(wish.data)));
}

#[test]
fn labels_and_annotations_come_and_go_with_the_external_secret() {
    let carrying = |labels: &[(&str, &str)], annotations: &[(&str, &str)]| Wish {
        labels: map(labels),
        annotations: map(annotations),
        ..Wish::default()
    };
    let mut live = carrying(&[("team", "a"), ("tier", "db")], &[("note", "n"), ("link", "l")]).made();
    // The users' own.
    live.metadata
        .labels
        .as_mut()
        .unwrap()
        .insert("theirs".into(), "x".into());
    annotate(&mut live, "their-note", Some("x"));

    let wish = carrying(&[("team", "b")], &[("note", "n")]);
    let plan = wish.plan(Some(&live));
    assert_eq!(why(&plan), Why::Annotated);
    let after = apply(Some(&live), &plan);
    let labels = map(&[("keyturn.dev/managed", "true"), ("team", "b"), ("theirs", "x")]);
    assert_eq!(after.metadata.labels.as_ref(), Some(&labels));
    for (name, value) in [("note", Some("n")), ("link", None), ("their-note", Some("x"))] {
        assert_eq!(annotation_in(&after, name), value, "{name}");
    }
    assert!(matches!(wish.plan(Some(&after)), Plan::Nothing(_)));
}

#[test]
fn a_label_that_another_manager_wrote_stays() {
    let mut live = Wish::default().made();
    live.metadata
        .labels
        .as_mut()
        .unwrap()
        .insert("team".into(), "a".into());
    live.metadata
        .managed_fields
        .as_mut()
        .unwrap()
        .push(ManagedFieldsEntry {
            manager: Some("kubectl-label".into()),
            fields_v1: Some(FieldsV1(json!({"f:metadata": {"f:labels": {"f:team": {}}}}))),
            ..ManagedFieldsEntry::default()
        });
    assert!(matches!(Wish::default().plan(Some(&live)), Plan::Nothing(_)));
    // Without a record nothing is known to be ours.
    live.metadata.managed_fields = None;
    assert!(matches!(Wish::default().plan(Some(&live)), Plan::Nothing(_)));
}

#[test]
fn a_user_name_that_is_gone_takes_its_token_along() {
    let wish = |user: Option<&str>| Wish {
        user: user.map(str::to_owned),
        ..Wish::default()
    };
    let live = wish(Some("token")).made();
    let after = apply(Some(&live), &wish(None).plan(Some(&live)));
    assert_eq!(annotation_in(&after, annotation::USER), None);
}

#[test]
fn a_record_of_the_source_is_written_along_with_another_change_only() {
    let recording = Wish {
        source: Some("token,gone".into()),
        ..Wish::default()
    };
    // What a version without such a record wrote stays as it is.
    let old = Wish::default().made();
    assert!(matches!(recording.plan(Some(&old)), Plan::Nothing(_)));
    assert_eq!(
        annotation_in(&recording.made(), "keyturn.dev/source"),
        Some("token,gone")
    );

    let updated = Wish {
        inputs: "others".into(),
        ..recording.clone()
    };
    let after = apply(Some(&old), &updated.plan(Some(&old)));
    assert_eq!(annotation_in(&after, "keyturn.dev/source"), Some("token,gone"));
    assert!(matches!(updated.plan(Some(&after)), Plan::Nothing(_)));
}
