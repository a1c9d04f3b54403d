//! Names of labels, annotations and field managers, and which of them are whose.

use super::{ApiGroup, ObjectKey, token::digest};

/// The API group.
pub const GROUP: &str = "keyturn.dev";
/// The group and version, as `apiVersion` holds them.
pub const API_VERSION: &str = "keyturn.dev/v1";
/// On every Secret that we write, with the value `true`.
pub const MANAGED_LABEL: &str = "keyturn.dev/managed";
/// On ConfigMaps and Secrets whose change wakes the ExternalSecrets that name them.
pub const WATCH_LABEL: &str = "keyturn.dev/watch";
/// The field manager of Secrets that are wholly ours, and of their part of the status.
pub const SYNC_MANAGER: &str = "keyturn-sync";
/// The field manager of restarts and their part of the status.
pub const RESTART_MANAGER: &str = "keyturn-restart";
/// The field manager of what a workload says of its restarts beside them: that of [`RESTART_MANAGER`] tells when a workload
/// was restarted.
pub const RECORD_MANAGER: &str = "keyturn-record";
/// The type of a Secret that names none.
pub const OPAQUE: &str = "Opaque";
/// The Secret with the key of the tokens, in the operator's namespace.
pub const TOKEN_KEY_SECRET: &str = "keyturn-token-key";
/// The ConfigMap in the operator's namespace by which people hold everything up.
pub const CONTROL_CONFIG_MAP: &str = "keyturn-control";
/// The domain of the annotations on workloads and pods by which restarts are asked for and remembered.
pub const RESTART_DOMAIN: &str = "restart.keyturn.dev";
/// The types of Secrets that grant rights or hold a release: never written, never taken over.
pub const PRIVILEGED_SECRET_TYPES: [&str; 3] = [
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
    "helm.sh/release.v1",
];

/// Annotations, by who writes them.
pub mod annotation {
    /// On a Secret: the name of the ExternalSecret that it is made for.
    pub const OWNER: &str = "keyturn.dev/owner";
    /// On a Secret: the keyed token of its content.
    pub const CONTENT: &str = "keyturn.dev/content";
    /// On a Secret: the keyed token of what it was made from besides values.
    pub const INPUTS: &str = "keyturn.dev/inputs";
    /// On a Secret: the versions that it was made from, JSON from [`remote_hash`](crate::api::token::remote_hash) to id.
    pub const VERSIONS: &str = "keyturn.dev/versions";
    /// The most that [`VERSIONS`] may hold, in bytes.
    pub const VERSIONS_LIMIT: usize = 64 * 1024;
    /// On a Secret: a keyed token of [`INPUTS`], [`VERSIONS`] and the source that was read, then a hash of each reference
    /// that was gone in AWS when the Secret was written, separated by commas.
    pub const SOURCE: &str = "keyturn.dev/source";
    /// The most that is kept of [`SOURCE`], in bytes: a token, and a hash for each of as many entries as an ExternalSecret may
    /// have by the size of their keys.
    pub const SOURCE_LIMIT: usize = 48 * 1024;
    /// On a Secret: the keyed token that pods must hold.
    pub const ROLLOUT: &str = "keyturn.dev/rollout";
    /// On a Secret: the API server's time when [`ROLLOUT`] last changed, RFC 3339.
    pub const CHANGED_AT: &str = "keyturn.dev/changed-at";
    /// On a Secret whose keys did not all change together: which changed when, the latest first, JSON of
    /// [`KeyChange`](crate::api::KeyChange)s.
    pub const KEY_CHANGES: &str = "keyturn.dev/key-changes";
    /// The most that [`KEY_CHANGES`] may hold, in bytes.
    pub const KEY_CHANGES_LIMIT: usize = 16 * 1024;
    /// On a Secret: the keyed token of the user name in it.
    pub const USER: &str = "keyturn.dev/user";
    /// On a Secret: keyed token of what [`ROLLOUT`] is made with, the key and the chosen entries: where it differs, rollouts
    /// cannot be compared.
    pub const SCOPE: &str = "keyturn.dev/scope";
    /// On a Secret whose [`ROLLOUT`] was made with another key or other entries than count now: the scope that counts now
    /// and the rollout token of the same data in that scope, with a space between. Pods still carry [`ROLLOUT`].
    pub const RESCOPED: &str = "keyturn.dev/rescoped";
    /// On a Secret: since when restarts are wanted, RFC 3339. What changed before asks for none.
    pub const RESTART_SINCE: &str = "keyturn.dev/restart-since";
    /// By users, on a workload or a Namespace: whether it is restarted.
    pub const RESTART: &str = "keyturn.dev/restart";
    /// By users, on a workload or a Namespace: how it is restarted.
    pub const RESTART_STRATEGY: &str = "keyturn.dev/restart-strategy";
    /// By users, on a workload or a Namespace: the application reads its mounted files again by itself.
    pub const HOT_RELOAD: &str = "keyturn.dev/hot-reload";
    /// By users, on an ExternalSecret, a workload or a Namespace: nothing is restarted until then, RFC 3339.
    pub const SUSPEND_RESTARTS_UNTIL: &str = "keyturn.dev/suspend-restarts-until";
    /// By users, on an ExternalSecret: the rollout token whose restarts are approved.
    pub const APPROVE: &str = "keyturn.dev/approve";
    /// By users, on an ExternalSecret: the rollout token whose restarts go on after a failure.
    pub const RESUME: &str = "keyturn.dev/resume";
    /// By users, on an ExternalSecret or a store: the token of the held deletions that are meant.
    pub const CONFIRM_DELETION: &str = "keyturn.dev/confirm-deletion";
    /// By users, on a Secret: the ExternalSecret that may take it over.
    pub const ADOPT: &str = "keyturn.dev/adopt";
    /// By users, on an ExternalSecret: a new value asks for a read now.
    pub const REFRESH: &str = "keyturn.dev/refresh";
    /// By users, on an ExternalSecret, a store or a Namespace: nothing is read or written until then, RFC 3339.
    pub const SUSPEND_SYNC_UNTIL: &str = "keyturn.dev/suspend-sync-until";
    /// By EKS users, on a ServiceAccount: the role that its token assumes.
    pub const IRSA_ROLE: &str = "eks.amazonaws.com/role-arn";
    /// By EKS users, on a ServiceAccount: the audience of its token.
    pub const IRSA_AUDIENCE: &str = "eks.amazonaws.com/audience";
}

/// Domains whose labels and annotations speak to another tool or to us, each with all domains below it. The tool would take a
/// Secret that carried them for its own object, and prune it at its next apply.
const NEVER_COPIED: [&str; 17] = [
    GROUP,
    "kubectl.kubernetes.io",
    "applyset.kubernetes.io",
    "addonmanager.kubernetes.io",
    "argocd.argoproj.io",
    "toolkit.fluxcd.io",
    "meta.helm.sh",
    "helm.sh",
    "kapp.k14s.io",
    "kro.run",
    "cattle.io",
    "configsync.gke.io",
    "configmanagement.gke.io",
    "config.k8s.io",
    "cli-utils.sigs.k8s.io",
    "tanka.dev",
    "olm.operatorframework.io",
];
/// The same, for single names.
const NEVER_COPIED_NAMES: [&str; 2] = ["app.kubernetes.io/instance", "app.kubernetes.io/managed-by"];
/// What is copied all the same: by it Argo CD finds its repositories and clusters.
pub const ARGO_CD_SECRET_TYPE: &str = "argocd.argoproj.io/secret-type";

/// Whether the label or annotation `name` of an ExternalSecret is carried over to its Secret. `others` are further names, and
/// domains with those below them, that are not.
pub fn is_copied(name: &str, value: &str, others: &[String]) -> bool {
    let domain = domain(name);
    let is_of = |parent: &str| domain == parent || is_below(domain, parent);
    let is_others = others.iter().any(|other| name == other || is_of(other));
    if is_others || NEVER_COPIED_NAMES.contains(&name) || (name, value) == HELM_OWNER {
        return false;
    }
    name == ARGO_CD_SECRET_TYPE || !NEVER_COPIED.iter().any(|parent| is_of(parent))
}

/// Helm looks for its releases by this label, whatever a Secret's type is.
const HELM_OWNER: (&str, &str) = ("owner", "helm");

/// Whether no template may write the label or annotation `name`.
pub fn is_reserved(name: &str) -> bool {
    let domain = domain(name);
    domain == GROUP
        || is_below(domain, GROUP)
        || domain == "meta.helm.sh"
        || name.starts_with("kubernetes.io/service-account.")
}

/// The field manager of an ExternalSecret that shares its Secret: one each, since an apply removes what its manager no
/// longer names.
pub fn field_manager(external_secret: &ObjectKey) -> String {
    let ObjectKey {
        group,
        namespace,
        name,
    } = external_secret;
    let digest = match group {
        // Managers that earlier versions wrote stay.
        ApiGroup::Keyturn => digest([namespace.as_bytes(), name.as_bytes()]),
        #[cfg(test)]
        ApiGroup::Other => digest([b"other", namespace.as_bytes(), name.as_bytes()]),
    };
    format!("keyturn-{digest}")
}

/// The annotation by which the pods of a workload tell which content of the Secret `name` they were made for. Hashed, since
/// the name part of a key has 63 characters and a Secret's name up to 253.
pub fn restart_annotation(secret: &str) -> String {
    format!("{RESTART_DOMAIN}/{}", digest([secret.as_bytes()]))
}

fn domain(name: &str) -> &str {
    name.split_once('/').map_or("", |(domain, _)| domain)
}

fn is_below(domain: &str, parent: &str) -> bool {
    domain
        .strip_suffix(parent)
        .is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_speaks_to_another_tool_is_not_copied() {
        for name in [
            "kubectl.kubernetes.io/last-applied-configuration",
            "keyturn.dev/refresh",
            "restart.keyturn.dev/0123456789abcdef",
            "applyset.kubernetes.io/part-of",
            "addonmanager.kubernetes.io/mode",
            "argocd.argoproj.io/tracking-id",
            "argocd.argoproj.io/instance",
            "kustomize.toolkit.fluxcd.io/name",
            "helm.toolkit.fluxcd.io/name",
            "meta.helm.sh/release-name",
            "helm.sh/chart",
            "kapp.k14s.io/app",
            "kapp.k14s.io/association",
            "kro.run/owned",
            "objectset.rio.cattle.io/hash",
            "fleet.cattle.io/bundle-id",
            "configsync.gke.io/declared-version",
            "configmanagement.gke.io/managed",
            "config.k8s.io/owning-inventory",
            "cli-utils.sigs.k8s.io/inventory-id",
            "tanka.dev/environment",
            "app.kubernetes.io/instance",
            "app.kubernetes.io/managed-by",
        ] {
            assert!(!is_copied(name, "x", &[]), "{name}");
        }
        for name in [
            "app",
            "team",
            "owner",
            "app.kubernetes.io/name",
            "reloader.stakater.com/match",
            "notkeyturn.dev/x",
            "notcattle.io/x",
            "example.com/keyturn.dev",
            "keyturn.dev",
            "kro.run",
            "argocd.argoproj.io/secret-type",
        ] {
            assert!(is_copied(name, "x", &[]), "{name}");
        }
        assert!(
            !is_copied("owner", "helm", &[]),
            "Helm would list it as a release"
        );
    }

    #[test]
    fn what_an_administrator_adds_is_not_copied_either() {
        let others = ["argo-app", "example.com", "argocd.argoproj.io/secret-type"].map(str::to_owned);
        for name in [
            "argo-app",
            "example.com/instance",
            "team.example.com/instance",
            "argocd.argoproj.io/secret-type",
        ] {
            assert!(!is_copied(name, "x", &others), "{name}");
        }
        for name in ["my-argo-app", "notexample.com/instance", "example.org/x", "app"] {
            assert!(is_copied(name, "x", &others), "{name}");
        }
    }

    #[test]
    fn templates_may_not_name_what_carries_authority() {
        for name in [
            "keyturn.dev/owner",
            "restart.keyturn.dev/x",
            "meta.helm.sh/release-name",
            "kubernetes.io/service-account.name",
        ] {
            assert!(is_reserved(name), "{name}");
        }
        for name in [
            "app",
            "example.com/owner",
            "kubernetes.io/description",
            "helm.sh/chart",
        ] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    #[test]
    fn pods_are_annotated_as_earlier_versions_annotated_them() {
        assert_eq!(restart_annotation("db"), "restart.keyturn.dev/3a5b552a3a8ab339");
        assert_eq!(
            restart_annotation(&"d".repeat(253)),
            "restart.keyturn.dev/a0c8d92bfa48c490"
        );
        let external_secret = ObjectKey::new("shop", "db");
        assert_eq!(field_manager(&external_secret), "keyturn-e900fc4fb0c2a4e6");
    }

    #[test]
    fn field_managers_tell_objects_apart_and_are_short() {
        let manager = |namespace: &str, name: &str| field_manager(&ObjectKey::new(namespace, name));
        assert_ne!(manager("a", "b-c"), manager("a-b", "c"));
        assert_eq!(manager(&"n".repeat(63), &"e".repeat(253)).len(), 24);
    }
}
