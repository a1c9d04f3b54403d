//! Whose a Secret is, and what is never touched.

use super::*;
use crate::objects::controller;

fn refusal(plan: Plan) -> Conflict {
    match plan {
        Plan::Refuse(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn owned_by(secret: &mut Secret, kind: &str, uid: &str) {
    secret.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: kind.into(),
        name: "somebody".into(),
        uid: uid.into(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
}

#[test]
fn ours_is_what_our_uid_controls_or_what_bears_our_name() {
    let controlled = |uid: &str, annotation: Option<&str>| {
        let mut secret = foreign(&[]);
        owned_by(&mut secret, "ExternalSecret", uid);
        annotate(&mut secret, annotation::OWNER, annotation);
        secret
    };
    let named = |owner: Option<&str>| {
        let mut secret = foreign(&[]);
        annotate(&mut secret, annotation::OWNER, owner);
        secret
    };
    let mut only_owned = controlled("another-uid", Some("db"));
    only_owned.metadata.owner_references.as_mut().unwrap()[0].controller = None;
    for (case, secret, ours) in [
        ("our uid", controlled(UID, None), true),
        ("our uid, another's name", controlled(UID, Some("other")), true),
        // The earlier object of our name: the garbage collector is about to take the Secret.
        (
            "another uid, our name",
            controlled("another-uid", Some("db")),
            false,
        ),
        ("our name", named(Some("db")), true),
        ("our name, an owner that does not control", only_owned, true),
        ("another name", named(Some("other")), false),
        ("no name", named(None), false),
    ] {
        let object = ObjectKey::new("shop", "db");
        assert_eq!(is_ours(&object, UID, "db", &secret), ours, "{case}");
        let refused = matches!(Wish::default().plan(Some(&secret)), Plan::Refuse(_));
        assert_eq!(refused, !ours, "{case}");
    }
}

#[test]
fn a_name_counts_only_on_the_present_or_the_recorded_target() {
    let object = ObjectKey::new("shop", "db");
    let mut secret = foreign(&[]);
    annotate(&mut secret, annotation::OWNER, Some("db"));
    secret.metadata.name = Some("copied".into());
    assert!(!is_ours(&object, UID, "db", &secret));

    let recorded = |name| Recorded {
        name,
        content: None,
        rollout: None,
        changed_at: None,
        restart_since: None,
        key_changes: None,
    };
    for (name, ours) in [("copied", true), ("other", false)] {
        let whose = belongs(&object, UID, "db", Some(recorded(name)), &secret);
        assert_eq!(matches!(whose, Belongs::Ours), ours, "{name}");
    }
}

#[test]
fn a_foreign_secret_is_refused_by_its_owners_name() {
    let mut deployed = foreign(&[]);
    owned_by(&mut deployed, "Certificate", "x");
    let mut other = foreign(&[]);
    annotate(&mut other, annotation::OWNER, Some("other"));
    for (secret, named) in [
        (deployed, "Certificate somebody"),
        (other, "ExternalSecret other"),
        (foreign(&[]), "nobody that Keyturn knows"),
    ] {
        let Conflict::Foreign { owner, .. } = refusal(Wish::default().plan(Some(&secret))) else {
            panic!("{named}");
        };
        assert_eq!(owner, named);
    }
}

#[test]
fn adoption_needs_both_sides() {
    for (adopt_existing, annotation, adopted) in [
        (true, Some("db"), true),
        (true, Some("other"), false),
        (true, Some(""), false),
        (true, None, false),
        (false, Some("db"), false),
    ] {
        let mut secret = foreign(&[("password", "old")]);
        annotate(&mut secret, annotation::ADOPT, annotation);
        let wish = Wish {
            adopt_existing,
            ..Wish::default()
        };
        let plan = wish.plan(Some(&secret));
        if adopted {
            assert_eq!(why(&plan), Why::Adopted);
            let after = apply(Some(&secret), &plan);
            assert_eq!(annotation_in(&after, annotation::OWNER), Some("db"));
            assert_eq!(controller(&after).unwrap().uid, UID);
        } else {
            let refusal = refusal(plan);
            assert!(matches!(refusal, Conflict::Foreign { .. }), "{refusal:?}");
            assert_eq!(refusal.to_string().contains("adoptExisting"), !adopt_existing);
            assert_eq!(refusal.awaits_annotation(), adopt_existing);
            let command = "kubectl annotate secret db -n shop --overwrite keyturn.dev/adopt=db";
            assert!(refusal.to_string().ends_with(command), "{refusal}");
        }
    }
}

#[test]
fn adoption_is_not_offered_where_it_is_refused() {
    for adopt_existing in [false, true] {
        let mut secret = foreign(&[]);
        owned_by(&mut secret, "ExternalSecret", "uid-of-another");
        let wish = Wish {
            adopt_existing,
            ..Wish::default()
        };
        let refusal = refusal(wish.plan(Some(&secret)));
        assert!(!refusal.awaits_annotation());
        let refusal = refusal.to_string();
        assert!(refusal.ends_with("choose another target.name"), "{refusal}");
    }
}

#[test]
fn what_carries_authority_is_never_adopted() {
    let agreed = |change: &dyn Fn(&mut Secret)| {
        let mut secret = foreign(&[]);
        annotate(&mut secret, annotation::ADOPT, Some("db"));
        change(&mut secret);
        secret
    };
    let typed = |type_: &'static str| agreed(&|secret| secret.type_ = Some(type_.into()));
    let wish = Wish {
        adopt_existing: true,
        ..Wish::default()
    };
    for (case, secret) in [
        ("token", typed("kubernetes.io/service-account-token")),
        ("bootstrap", typed("bootstrap.kubernetes.io/token")),
        ("helm", typed("helm.sh/release.v1")),
        (
            "certificate",
            agreed(&|secret| annotate(secret, "cert-manager.io/certificate-name", Some("tls"))),
        ),
        (
            "certificate by label",
            agreed(&|secret| {
                secret.metadata.labels = Some(map(&[("controller.cert-manager.io/fao", "true")]));
            }),
        ),
        (
            "controlled",
            agreed(&|secret| owned_by(secret, "Certificate", "x")),
        ),
        (
            "controlled by an earlier object of our name",
            agreed(&|secret| owned_by(secret, "ExternalSecret", "x")),
        ),
    ] {
        let refusal = refusal(wish.plan(Some(&secret)));
        assert!(matches!(refusal, Conflict::NotAdoptable { .. }), "{case}");
    }
    for type_ in ["kubernetes.io/tls", "kubernetes.io/dockerconfigjson"] {
        let plan = wish.plan(Some(&typed(type_)));
        assert_eq!(why(&plan), Why::Adopted, "{type_}");
        // A Secret's type can never change, and the token covers it.
        let after = apply(Some(&typed(type_)), &plan);
        assert_eq!(after.type_.as_deref(), Some(type_));
        assert!(matches!(wish.plan(Some(&after)), Plan::Nothing(_)), "{type_}");
    }
}
