//! Reads and writes of single objects. Writes carry preconditions and need the lease.

use std::sync::Arc;

use http::{HeaderValue, Request, header::CONTENT_TYPE};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Resource,
    api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions},
    core::request,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    call::{Call, TimeLimit, UNBUILDABLE, Verb},
    client::{Cluster, kind_of, path_of},
    error::{Class, Error},
    lease::Leadership,
};
use crate::api::{ObjectKey, names::SYNC_MANAGER};

/// The state of an object that a write rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The object's uid.
    pub uid: String,
    /// The object's resource version.
    pub resource_version: String,
}

impl Observed {
    /// Of an object as it was read; `None` if the API server never gave it out.
    pub fn of(object: &impl Resource) -> Option<Self> {
        let meta = object.meta();
        Some(Self {
            uid: meta.uid.clone()?,
            resource_version: meta.resource_version.clone()?,
        })
    }
}

/// What a write made of an object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Answer")]
pub struct Written {
    /// The object's uid.
    pub uid: String,
    /// The object's resource version after the write.
    pub resource_version: String,
}

/// Only the metadata of an answer is read: the rest may be values.
#[derive(Deserialize)]
struct Answer {
    metadata: AnswerMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerMeta {
    uid: String,
    resource_version: String,
}

impl From<Answer> for Written {
    fn from(Answer { metadata }: Answer) -> Self {
        Self {
            uid: metadata.uid,
            resource_version: metadata.resource_version,
        }
    }
}

impl Cluster {
    /// Reads one object as it is now. Read again if the server is busy; see [`Class::NotFound`] for absence.
    pub async fn get<K>(&self, key: &ObjectKey) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        self.get_as::<K, K>(key).await
    }

    /// Reads one object as it is now, cut down to `T`.
    pub async fn get_as<K, T>(&self, key: &ObjectKey) -> Result<T, Error>
    where
        K: Resource<DynamicType = ()>,
        T: DeserializeOwned,
    {
        let call = Call {
            verb: Verb::Get,
            kind: kind_of::<K>(),
            key,
        };
        let request = request::Request::new(path_of::<K>(&key.namespace))
            .get(&key.name, &GetParams::default())
            .map_err(|_| call.failed(UNBUILDABLE))?;
        self.call(call, request).await
    }

    /// Reads one object that may be absent.
    pub async fn find<K>(&self, key: &ObjectKey) -> Result<Option<K>, Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        match self.get(key).await {
            Ok(object) => Ok(Some(object)),
            Err(Error {
                class: Class::NotFound,
                ..
            }) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Reads a Secret as it is now. Its `Debug` prints values: never format it.
    pub async fn get_secret(&self, key: &ObjectKey) -> Result<Secret, Error> {
        self.get(key).await
    }

    /// Creates an object that must not exist: [`Class::AlreadyExists`] otherwise. Returns what `T` reads of the answer.
    pub(super) async fn create<K, T>(&self, limit: TimeLimit, key: &ObjectKey, object: &K) -> Result<T, Error>
    where
        K: Resource<DynamicType = ()> + Serialize,
        T: DeserializeOwned,
    {
        let call = Call {
            verb: Verb::Create,
            kind: kind_of::<K>(),
            key,
        };
        let request = serde_json::to_vec(object)
            .ok()
            .and_then(|body| {
                let path = request::Request::new(path_of::<K>(&key.namespace));
                let params = PostParams {
                    field_manager: Some(SYNC_MANAGER.to_owned()),
                    ..PostParams::default()
                };
                path.create(&params, body).ok()
            })
            .ok_or_else(|| call.failed(UNBUILDABLE))?;
        self.written(limit, call, request).await
    }

    /// Patches the object that was observed, in that state: [`Class::Conflict`] or
    /// [`Class::UidMismatch`] otherwise. Returns what `T` reads of the answer.
    pub(super) async fn patch<K, T>(
        &self,
        key: &ObjectKey,
        observed: &Observed,
        patch: MergePatch<'_>,
    ) -> Result<T, Error>
    where
        K: Resource<DynamicType = ()>,
        T: DeserializeOwned,
    {
        let call = Call {
            verb: Verb::Patch,
            kind: kind_of::<K>(),
            key,
        };
        let MergePatch { limit, manager, body } = patch;
        let request = guarded(body, observed)
            .and_then(|patch| {
                let kind = request::Request::new(path_of::<K>(&key.namespace));
                // By this name the fields that we wrote are told from those of others.
                let params = PatchParams {
                    field_manager: Some(manager.to_owned()),
                    ..PatchParams::default()
                };
                kind.patch(&key.name, &params, &Patch::Merge(&patch)).ok()
            })
            .ok_or_else(|| call.failed(UNBUILDABLE))?;
        self.written(limit, call, request).await
    }

    /// Patches the object of this uid while all that `patch` tests holds: [`Class::Conflict`] otherwise.
    async fn patch_tested<K>(
        &self,
        key: &ObjectKey,
        uid: &str,
        patch: TestedPatch<'_>,
    ) -> Result<Written, Error>
    where
        K: Resource<DynamicType = ()>,
    {
        let call = Call {
            verb: Verb::Patch,
            kind: kind_of::<K>(),
            key,
        };
        let TestedPatch { limit, manager, body } = patch;
        let kind = request::Request::new(path_of::<K>(&key.namespace));
        let params = PatchParams {
            field_manager: Some(manager.to_owned()),
            ..PatchParams::default()
        };
        let mut request = kind
            .patch(&key.name, &params, &Patch::Merge(&body.operations(uid)))
            .map_err(|_| call.failed(UNBUILDABLE))?;
        // kube takes JSON patches from the crate json-patch only, which two operations do not need.
        let json_patch = HeaderValue::from_static("application/json-patch+json");
        request.headers_mut().insert(CONTENT_TYPE, json_patch);
        self.written(limit, call, request)
            .await
            .map_err(|error| match error.class {
                // The API server names no field where a test fails, or where the place of an addition is gone.
                Class::Invalid { ref fields } if fields.is_empty() => call.failed(Class::Conflict),
                _ => error,
            })
    }

    async fn written<T: DeserializeOwned>(
        &self,
        limit: TimeLimit,
        call: Call<'_>,
        mut request: Request<Vec<u8>>,
    ) -> Result<T, Error> {
        request.extensions_mut().insert(limit);
        self.call(call, request).await
    }
}

/// A patch that takes effect only on the object observed, in the state observed.
fn guarded(mut patch: Value, observed: &Observed) -> Option<Value> {
    let metadata = patch
        .as_object_mut()?
        .entry("metadata")
        .or_insert_with(|| json!({}));
    let metadata = metadata.as_object_mut()?;
    metadata.insert("uid".to_owned(), observed.uid.clone().into());
    metadata.insert(
        "resourceVersion".to_owned(),
        observed.resource_version.clone().into(),
    );
    Some(patch)
}

/// A JSON merge patch without `metadata.uid` and `metadata.resourceVersion`: those observed are put in, so that another object
/// or another state is never changed.
#[derive(Debug)]
pub(super) struct MergePatch<'a> {
    /// How long it may take.
    pub limit: TimeLimit,
    /// In whose name fields are written.
    pub manager: &'a str,
    /// The patch.
    pub body: Value,
}

/// A JSON patch of one object, of which only what it rests on is compared: the uid, and what [`JsonPatch::test`] names. What
/// others write at the same time, such as a status, is not in its way.
#[derive(Debug)]
pub struct TestedPatch<'a> {
    /// How long it may take.
    pub limit: TimeLimit,
    /// In whose name fields are written.
    pub manager: &'a str,
    /// The patch.
    pub body: JsonPatch,
}

/// Operations of RFC 6902: first all tests, then all additions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonPatch {
    tests: Vec<Value>,
    additions: Vec<Value>,
}

impl JsonPatch {
    /// The member at `path` must have this value; null stands for no member.
    pub fn test(&mut self, path: &[&str], value: impl Into<Value>) {
        let value = value.into();
        self.tests
            .push(json!({"op": "test", "path": pointer(path), "value": value}));
    }

    /// The member at `path` has this value from then on. Its parent must exist.
    pub fn add(&mut self, path: &[&str], value: impl Into<Value>) {
        let value = value.into();
        self.additions
            .push(json!({"op": "add", "path": pointer(path), "value": value}));
    }

    /// All operations, on the object of this uid.
    pub fn operations(self, uid: &str) -> Value {
        let Self { tests, additions } = self;
        let uid = json!({"op": "test", "path": "/metadata/uid", "value": uid});
        [uid].into_iter().chain(tests).chain(additions).collect()
    }
}

/// A JSON pointer (RFC 6901).
fn pointer(path: &[&str]) -> String {
    let mut pointer = String::new();
    for name in path {
        pointer.push('/');
        pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
    }
    pointer
}

/// An apply of some keys of a Secret.
#[derive(Debug)]
pub struct SecretApply<'a> {
    /// In whose name fields are written.
    pub manager: &'a str,
    /// Whether keys of other managers are taken over; else they end in [`Class::FieldConflict`].
    pub force: bool,
    /// The keys, without apiVersion, kind, name and preconditions, which are put in.
    pub body: Value,
}

/// The API server, for writing: the only way to change something there.
///
/// Nothing is sent unless the lease is held for long enough ([`Class::NotLeading`]), nothing is sent twice, and
/// after an error nothing is known about the object but what another read says.
#[derive(Clone)]
pub struct Writer {
    cluster: Cluster,
    leadership: Arc<Leadership>,
}

impl Writer {
    /// Writes through this client while that lease is held.
    pub fn new(cluster: Cluster, leadership: Arc<Leadership>) -> Self {
        Self { cluster, leadership }
    }

    /// The API server, for reading.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Creates a Secret that must not exist: [`Class::AlreadyExists`] otherwise. `secret` names itself.
    /// Returns the Secret as it was created, with its values: never format it.
    pub async fn create_secret(&self, limit: TimeLimit, secret: &Secret) -> Result<Secret, Error> {
        let meta = &secret.metadata;
        let key = ObjectKey::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        );
        let call = Call {
            verb: Verb::Create,
            kind: "Secret",
            key: &key,
        };
        let _turn = self.turn(call).await?;
        self.cluster.create(limit, &key, secret).await
    }

    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "Secrets of several owners (`creationPolicy: Merge`) will be written by it"
        )
    )]
    /// Applies our keys to a Secret shared with others.
    pub async fn apply_secret(
        &self,
        key: &ObjectKey,
        observed: &Observed,
        apply: SecretApply<'_>,
    ) -> Result<Written, Error> {
        let call = Call {
            verb: Verb::Apply,
            kind: "Secret",
            key,
        };
        let SecretApply { manager, force, body } = apply;
        let guarded = guarded(body, observed).ok_or_else(|| call.failed(UNBUILDABLE))?;
        let request = applied::<Secret>(key, manager, force, guarded, None);
        let request = request.ok_or_else(|| call.failed(UNBUILDABLE))?;
        let _turn = self.turn(call).await?;
        self.cluster.written(TimeLimit::Fenced, call, request).await
    }

    /// Patches the Secret that was observed, in that state, by a JSON merge patch as [`Self::patch`] takes it. Returns the
    /// Secret as it is then, with its values: never format it.
    pub async fn patch_secret(
        &self,
        limit: TimeLimit,
        key: &ObjectKey,
        observed: &Observed,
        patch: Value,
    ) -> Result<Secret, Error> {
        let call = Call {
            verb: Verb::Patch,
            kind: "Secret",
            key,
        };
        let _turn = self.turn(call).await?;
        self.cluster
            .patch::<Secret, _>(
                key,
                observed,
                MergePatch {
                    limit,
                    manager: SYNC_MANAGER,
                    body: patch,
                },
            )
            .await
    }

    /// Deletes the Secret that was observed, in that state.
    pub async fn delete_secret(&self, key: &ObjectKey, observed: &Observed) -> Result<(), Error> {
        let call = Call {
            verb: Verb::Delete,
            kind: "Secret",
            key,
        };
        let Observed {
            uid,
            resource_version,
        } = observed.clone();
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid),
                resource_version: Some(resource_version),
            }),
            ..DeleteParams::default()
        };
        let mut request = request::Request::new(path_of::<Secret>(&key.namespace))
            .delete(&key.name, &params)
            .map_err(|_| call.failed(UNBUILDABLE))?;
        request.extensions_mut().insert(TimeLimit::Fenced);
        let _turn = self.turn(call).await?;
        self.cluster.call_with(call, request, |_| Ok(())).await
    }

    /// Applies the part of an object's status that `manager` owns, whole: what was there of it and is missing
    /// now is removed. The uid keeps a deleted object from being made again. The caller sees to the rate.
    pub async fn apply_status<K>(
        &self,
        key: &ObjectKey,
        uid: &str,
        manager: &str,
        status: &(impl Serialize + Sync),
    ) -> Result<Written, Error>
    where
        K: Resource<DynamicType = ()>,
    {
        let call = Call {
            verb: Verb::Apply,
            kind: kind_of::<K>(),
            key,
        };
        let request = serde_json::to_value(status)
            .ok()
            .map(|status| json!({"metadata": {"uid": uid}, "status": status}))
            .and_then(|apply| applied::<K>(key, manager, true, apply, Some("status")))
            .ok_or_else(|| call.failed(UNBUILDABLE))?;
        let _turn = self.turn(call).await?;
        self.cluster.written(TimeLimit::Usual, call, request).await
    }

    /// Changes the object of this uid while what the patch tests holds.
    pub async fn patch<K>(&self, key: &ObjectKey, uid: &str, patch: TestedPatch<'_>) -> Result<Written, Error>
    where
        K: Resource<DynamicType = ()>,
    {
        let call = Call {
            verb: Verb::Patch,
            kind: kind_of::<K>(),
            key,
        };
        let _turn = self.turn(call).await?;
        self.cluster.patch_tested::<K>(key, uid, patch).await
    }

    /// Evicts the pod of this uid: [`Class::Disruption`] where a `PodDisruptionBudget` refuses, [`Class::Conflict`] where
    /// another pod has the name.
    pub async fn evict(&self, key: &ObjectKey, uid: &str) -> Result<(), Error> {
        let call = Call {
            verb: Verb::Evict,
            kind: "Pod",
            key,
        };
        // Not kube's `evict`, which writes `delete_options`: the API server passes over it, and over the uid with it.
        let body = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"namespace": &*key.namespace, "name": &*key.name},
            "deleteOptions": {"preconditions": {"uid": uid}},
        });
        let path = format!("{}/{}/eviction", path_of::<Pod>(&key.namespace), key.name);
        let request = Request::post(path)
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .map_err(|_| call.failed(UNBUILDABLE))?;
        let _turn = self.turn(call).await?;
        self.cluster.call_with(call, request, |_| Ok(())).await
    }

    async fn turn(&self, call: Call<'_>) -> Result<impl Sized + use<>, Error> {
        let turn = Leadership::turn(Arc::clone(&self.leadership)).await;
        turn.ok_or_else(|| {
            self.cluster.count(call, Some(&Class::NotLeading));
            call.failed(Class::NotLeading)
        })
    }
}

fn applied<K: Resource<DynamicType = ()>>(
    key: &ObjectKey,
    manager: &str,
    force: bool,
    mut apply: Value,
    subresource: Option<&str>,
) -> Option<Request<Vec<u8>>> {
    let object = apply.as_object_mut()?;
    object.insert("apiVersion".to_owned(), K::api_version(&()).into());
    object.insert("kind".to_owned(), K::kind(&()).into());
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    metadata.insert("name".to_owned(), (*key.name).into());
    if !key.namespace.is_empty() {
        metadata.insert("namespace".to_owned(), (*key.namespace).into());
    }
    let params = PatchParams {
        force,
        ..PatchParams::apply(manager)
    };
    let path = request::Request::new(path_of::<K>(&key.namespace));
    match subresource {
        None => path.patch(&key.name, &params, &Patch::Apply(&apply)).ok(),
        Some(sub) => path
            .patch_subresource(sub, &key.name, &params, &Patch::Apply(&apply))
            .ok(),
    }
}
