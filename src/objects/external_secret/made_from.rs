//! What the data of a Secret are made from besides values, as a digest: part of `keyturn.dev/inputs`.
//!
//! The bytes under the digest are written out here, apart from the types of the API, and never change for what an earlier
//! version could say: other bytes would have every value read again after an upgrade. A new field of the spec goes in only
//! where it is set.

use aws_lc_rs::digest;
use serde::Serialize;

use crate::api::{
    CreationPolicy, DataEntry, DataFromEntry, DeletionPolicy, ExternalSecret, ExternalSecretSpec, RemoteRef,
    StoreKind, StoreRef, Target, names,
};

/// 16 bytes of SHA-256 over the spec and the metadata that the Secret carries.
pub(super) fn made_from(object: &ExternalSecret) -> [u8; 16] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&serde_json::to_vec(&Spec::of(&object.spec)).unwrap_or_default());
    for all in [&object.metadata.labels, &object.metadata.annotations] {
        for (name, value) in all.iter().flatten().filter(|(name, _)| counts(name)) {
            for text in [name, value] {
                let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
                context.update(&length.to_be_bytes());
                context.update(text.as_bytes());
            }
        }
        context.update(&[0xff]);
    }
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    short
}

/// Whether a label or annotation goes into the digest: what the first version copied, and what later ones copy besides. What is
/// not copied any more still counts, as it did in digests that are written on Secrets.
fn counts(name: &str) -> bool {
    let domain = name.split_once('/').map_or("", |(domain, _)| domain);
    let never = [
        "kubectl.kubernetes.io",
        "argocd.argoproj.io",
        "meta.helm.sh",
        "helm.sh",
        names::GROUP,
    ];
    let never_below = [".keyturn.dev", ".toolkit.fluxcd.io"];
    let never_names = ["app.kubernetes.io/instance", "app.kubernetes.io/managed-by"];
    name == names::ARGO_CD_SECRET_TYPE
        || !(never.contains(&domain)
            || never_below.iter().any(|parent| domain.ends_with(parent))
            || never_names.contains(&name))
}

/// The parts of a spec that decide over the data. The order of fields is the order of the bytes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_store_ref: Option<Store<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<SecretTarget<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Vec<Data<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_from: Option<Vec<DataFrom<'a>>>,
}

#[derive(Serialize)]
struct Store<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SecretTarget<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    creation_policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    adopt_existing: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    immutable: Option<bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    secret_key: &'a str,
    remote_ref: Remote<'a>,
}

#[derive(Serialize)]
struct DataFrom<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    extract: Option<Remote<'a>>,
}

#[derive(Serialize)]
struct Remote<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    property: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
}

impl<'a> Spec<'a> {
    fn of(spec: &'a ExternalSecretSpec) -> Self {
        let ExternalSecretSpec {
            secret_store_ref,
            // How often it is read changes nothing of what is read.
            refresh_policy: _,
            refresh_interval: _,
            target,
            data,
            data_from,
            // What restarts need on the Secret is put there without a read.
            rotation: _,
            restart: _,
        } = spec;
        Self {
            secret_store_ref: secret_store_ref.as_ref().map(Store::of),
            target: target.as_ref().map(SecretTarget::of),
            data: data.as_ref().map(|all| all.iter().map(Data::of).collect()),
            data_from: data_from
                .as_ref()
                .map(|all| all.iter().map(DataFrom::of).collect()),
        }
    }
}

impl<'a> Store<'a> {
    fn of(store: &'a StoreRef) -> Self {
        let StoreRef { name, kind } = store;
        Self {
            name,
            kind: kind.map(StoreKind::as_str),
        }
    }
}

impl<'a> SecretTarget<'a> {
    fn of(target: &'a Target) -> Self {
        let Target {
            name,
            creation_policy,
            deletion_policy,
            adopt_existing,
            immutable,
        } = target;
        Self {
            name: name.as_deref(),
            creation_policy: creation_policy.map(CreationPolicy::as_str),
            deletion_policy: deletion_policy.map(DeletionPolicy::as_str),
            adopt_existing: *adopt_existing,
            immutable: *immutable,
        }
    }
}

impl<'a> Data<'a> {
    fn of(entry: &'a DataEntry) -> Self {
        let DataEntry {
            secret_key,
            remote_ref,
        } = entry;
        Self {
            secret_key,
            remote_ref: Remote::of(remote_ref),
        }
    }
}

impl<'a> DataFrom<'a> {
    fn of(entry: &'a DataFromEntry) -> Self {
        let DataFromEntry { extract } = entry;
        Self {
            extract: extract.as_ref().map(Remote::of),
        }
    }
}

impl<'a> Remote<'a> {
    fn of(remote: &'a RemoteRef) -> Self {
        let RemoteRef {
            key,
            property,
            version,
        } = remote;
        Self {
            key,
            property: property.as_deref(),
            version: version.as_deref(),
        }
    }
}
